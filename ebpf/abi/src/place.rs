//! Where a session is found: an index of the program's own, and records that it points to.
//!
//! Both are arrays, which a program looks into without a call. User space decides what goes where;
//! a program only looks. A key has one bucket of the index. A word of it tells a part of the key's
//! hash and which record to look at; the key in the record decides. So a word that was seen while it
//! was written leads to another record, whose key does not fit, and never to half a session.

use crate::limits::{SESSION_BUCKETS, SESSION_WAYS};
use crate::{Session, SessionKey, family};

/// A session, and whose packets it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct SessionRecord {
    /// Compared with a packet's.
    pub key: SessionKey,
    /// What becomes of those packets.
    pub session: Session,
}

/// The words of the index that keys with one place share: a line of the processor's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SessionBucket {
    /// See [`SessionWord`]. Nothing is behind one that is 0.
    pub ways: [u32; SESSION_WAYS],
}

/// What a word of the index says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionWord {
    /// Nothing is here, nor behind it.
    End,
    /// Nothing is here any more.
    Gap,
    /// A session is.
    Record {
        /// A part of its key's hash, of [`SessionPlace::tag`].
        tag: u32,
        /// The number of its record.
        record: u32,
    },
}

impl SessionWord {
    /// Bits of a word that are the record's number; those above are the tag.
    const RECORD_BITS: u32 = 17;
    const RECORD_MASK: u32 = (1 << Self::RECORD_BITS) - 1;
    /// A tag is never 0.
    const GAP: u32 = 1;

    /// What a word says.
    #[inline(always)]
    pub const fn of(word: u32) -> Self {
        match (word >> Self::RECORD_BITS, word & Self::RECORD_MASK) {
            (0, 0) => Self::End,
            (0, _) => Self::Gap,
            (tag, record) => Self::Record { tag, record },
        }
    }

    /// The word that says so.
    pub const fn word(self) -> u32 {
        match self {
            Self::End => 0,
            Self::Gap => Self::GAP,
            Self::Record { tag, record } => tag << Self::RECORD_BITS | record & Self::RECORD_MASK,
        }
    }
}

const _: () = assert!(crate::limits::SESSION_RECORDS <= 1 << SessionWord::RECORD_BITS);

/// A key as words that are compared eight bytes at a time: source, local address, ports and channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyWords(pub [u64; 5]);

impl KeyWords {
    /// The words of a packet's addresses and of its ports, as they lie next to each other there.
    #[inline(always)]
    pub const fn new(
        source: [u32; 4],
        local: [u32; 4],
        ports: u32,
        channel: u16,
        family: u16,
    ) -> Self {
        Self([
            double(source[0], source[1]),
            double(source[2], source[3]),
            double(local[0], local[1]),
            double(local[2], local[3]),
            double(ports, channel as u32 | (family as u32) << 16),
        ])
    }
}

impl From<&SessionKey> for KeyWords {
    #[inline(always)]
    fn from(key: &SessionKey) -> Self {
        let (source_port, local_port) = (key.source_port.to_packet(), key.local_port.to_packet());
        let ports = source_port as u32 | (local_port as u32) << 16;
        let channel = key.channel.to_packet();
        Self::new(key.source.words, key.local.words, ports, channel, key.family)
    }
}

/// Two words next to each other.
#[inline(always)]
const fn double(first: u32, second: u32) -> u64 {
    first as u64 | (second as u64) << 32
}

/// Secret numbers that the hash of keys is made with: who does not know them cannot choose keys that
/// share a bucket. Drawn with the map, and kept as long as the index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SessionSeeds {
    /// What the sum begins with.
    pub start: u64,
    /// One for each word of a key.
    pub words: [[u64; 2]; 5],
}

/// The place of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPlace {
    /// Which bucket it is in.
    pub bucket: u32,
    /// What its word begins with; never 0.
    pub tag: u32,
}

impl SessionPlace {
    /// The place that these seeds give a key.
    ///
    /// The upper half of a sum of products of words and secret numbers (Lemire and Kaser, "Strongly
    /// universal string hashing is fast", 2014): over all seeds, two keys share a place as seldom as
    /// two throws of dice do. Of an IPv4 key only the words that differ between keys are taken.
    #[inline(always)]
    pub fn of(key: &KeyWords, seeds: &SessionSeeds) -> Self {
        let [first, second, third, fourth, last] = key.0;
        let [s_first, s_second, s_third, s_fourth, s_last] = seeds.words;
        let sum = seeds.start.wrapping_add(product(last, s_last));
        let sum = if last >> 48 == family::V4 as u64 {
            sum.wrapping_add(product(second >> 32 | fourth & !0xffff_ffff, s_first))
        } else {
            sum.wrapping_add(product(first, s_first))
                .wrapping_add(product(second, s_second))
                .wrapping_add(product(third, s_third))
                .wrapping_add(product(fourth, s_fourth))
        };
        let tag = (sum >> (64 - BUCKET_BITS - TAG_BITS)) as u32 & ((1 << TAG_BITS) - 1);
        Self { bucket: (sum >> (64 - BUCKET_BITS)) as u32, tag: if tag == 0 { 1 } else { tag } }
    }
}

const BUCKET_BITS: u32 = SESSION_BUCKETS.ilog2();
const TAG_BITS: u32 = u32::BITS - SessionWord::RECORD_BITS;
const _: () = assert!(SESSION_BUCKETS.is_power_of_two() && BUCKET_BITS + TAG_BITS <= 32);

/// Both halves of a word, each with its seed, multiplied.
#[inline(always)]
const fn product(word: u64, seeds: [u64; 2]) -> u64 {
    let (low, high) = (word & 0xffff_ffff, word >> 32);
    seeds[0].wrapping_add(low).wrapping_mul(seeds[1].wrapping_add(high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{align_of, offset_of, size_of};
    use core::net::SocketAddr;

    fn seeds(of: u64) -> SessionSeeds {
        let mut state = of;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.rotate_left(32)
        };
        SessionSeeds { start: next(), words: [(); 5].map(|()| [next(), next()]) }
    }

    fn key(source: &str, local: &str, channel: Option<u16>) -> SessionKey {
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        SessionKey::new(socket(source), socket(local), channel)
    }

    #[test]
    fn layouts_are_those_the_object_was_built_with() {
        assert_eq!((size_of::<SessionRecord>(), align_of::<SessionRecord>()), (192, 8));
        assert_eq!(offset_of!(SessionRecord, session), 40);
        assert_eq!(size_of::<SessionBucket>(), 64);
        assert_eq!(size_of::<SessionSeeds>(), 88);
        // No byte of a record is hidden.
        assert_eq!(size_of::<SessionKey>() + size_of::<Session>(), size_of::<SessionRecord>());
    }

    #[test]
    fn the_words_of_a_key_are_its_bytes() {
        for key in [
            key("192.0.2.1:7", "198.51.100.2:9", Some(0x4001)),
            key("[2001:db8::7]:7", "[2001:db8:1::2]:9", None),
        ] {
            let KeyWords(words) = KeyWords::from(&key);
            let mut bytes = [0; 40];
            for (eight, word) in bytes.chunks_exact_mut(8).zip(words) {
                eight.copy_from_slice(&word.to_le_bytes());
            }
            assert_eq!(bytes[..16], key.source.octets());
            assert_eq!(bytes[16..32], key.local.octets());
            assert_eq!(bytes[32..36], [0, 7, 0, 9]);
            assert_eq!(bytes[36..38], key.channel.number().to_be_bytes());
            assert_eq!(bytes[38..], key.family.to_le_bytes());
        }
    }

    #[test]
    fn every_part_of_a_key_changes_its_place() {
        let seeds = seeds(7);
        let place = |source: &str, local: &str, channel| {
            SessionPlace::of(&KeyWords::from(&key(source, local, channel)), &seeds)
        };
        let v4 = place("192.0.2.1:7", "198.51.100.2:9", None);
        for other in [
            place("192.0.2.2:7", "198.51.100.2:9", None),
            place("192.0.2.1:8", "198.51.100.2:9", None),
            place("192.0.2.1:7", "198.51.100.3:9", None),
            place("192.0.2.1:7", "198.51.100.2:10", None),
            place("192.0.2.1:7", "198.51.100.2:9", Some(0x4001)),
            place("[::ffff:192.0.2.1]:7", "[::ffff:198.51.100.2]:9", None),
        ] {
            assert_ne!(other, v4);
        }
        let v6 = place("[2001:db8::1]:7", "[2001:db8:1::1]:9", None);
        for other in [
            place("[2001:db9::1]:7", "[2001:db8:1::1]:9", None),
            place("[2001:db8:0:1::1]:7", "[2001:db8:1::1]:9", None),
            place("[2001:db8::1:0:1]:7", "[2001:db8:1::1]:9", None),
            place("[2001:db8::2]:7", "[2001:db8:1::1]:9", None),
            place("[2001:db8::1]:7", "[2001:db8:1::2]:9", None),
            place("[2001:db8::1]:7", "[2001:db8:2::1]:9", None),
        ] {
            assert_ne!(other, v6);
        }
    }

    #[test]
    fn a_full_table_of_neighbouring_keys_finds_room_whatever_the_seeds() {
        // Ports of one client, and clients one after the other: what a hash must not mind.
        for seed in 1..4 {
            let (seeds, mut taken) = (seeds(seed), [0_u8; SESSION_BUCKETS as usize]);
            for number in 0..crate::limits::SESSION_ENTRIES_MAX {
                let (port, host) = (number % 1024, number / 1024);
                let words = KeyWords::new(
                    [0, 0, crate::Address::MAPPED, (0xc000_0200 + host).to_be()],
                    [0, 0, crate::Address::MAPPED, 0xc633_6401_u32.to_be()],
                    u32::from((1024 + port as u16).to_be()) | u32::from(3478_u16.to_be()) << 16,
                    0,
                    family::V4.into(),
                );
                let place = SessionPlace::of(&words, &seeds);
                assert!(place.tag != 0 && place.tag < 1 << TAG_BITS);
                taken[place.bucket as usize] += 1;
            }
            assert!(taken.iter().all(|taken| usize::from(*taken) <= SESSION_WAYS));
        }
    }

    #[test]
    fn a_word_of_the_index_says_what_was_written() {
        for said in [
            SessionWord::End,
            SessionWord::Gap,
            SessionWord::Record { tag: 1, record: 0 },
            SessionWord::Record { tag: 0x7fff, record: crate::limits::SESSION_RECORDS - 1 },
        ] {
            assert_eq!(SessionWord::of(said.word()), said);
        }
    }
}

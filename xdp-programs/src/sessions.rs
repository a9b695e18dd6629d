//! Looks sessions up: in the index, and in the records that it points to.

use crate::{
    maps::{SESSION_INDEX, SESSION_RECORDS, SESSION_SEEDS},
    parse::Flow,
};
use waystation_ebpf_abi::{
    KeyWords, Session, SessionKey, SessionPlace, SessionRecord, SessionWord, family,
};

/// The entry of a datagram, to be read and, from `limiter_ns` on, written.
#[inline(always)]
pub fn of_flow(flow: &Flow) -> Option<&'static mut Session> {
    let channel = flow.channel.to_packet();
    let family = u16::from(flow.family);
    let key = KeyWords::new(flow.source.words, flow.local.words, flow.ports, channel, family);
    let session = find(&key)?;
    // SAFETY: the kernel keeps the map's memory while the program runs. Another processor may write
    // the same words; see `Session` for why that loses a count at worst.
    Some(unsafe { &mut *session })
}

/// The entry of a key.
#[inline(always)]
pub fn of_key(key: &SessionKey) -> Option<*const Session> {
    find(&KeyWords::from(key)).map(<*mut Session>::cast_const)
}

#[inline(always)]
fn find(key: &KeyWords) -> Option<*mut Session> {
    let place = SessionPlace::of(key, SESSION_SEEDS.get(0)?);
    for word in &SESSION_INDEX.get(place.bucket)?.ways {
        match SessionWord::of(*word) {
            SessionWord::End => return None,
            SessionWord::Record { tag, record } if tag == place.tag => {
                let record = SESSION_RECORDS.get_ptr_mut(record)?;
                if is_of(record, key) {
                    // SAFETY: the kernel has checked that the record is there.
                    return Some(unsafe { &raw mut (*record).session });
                }
            }
            _ => {}
        }
    }
    None
}

/// Whether a record is a key's. It may be written while it is read: then the key is another one's, or
/// user space has broken its word that a record which was in use rests.
#[inline(always)]
fn is_of(record: *const SessionRecord, key: &KeyWords) -> bool {
    // SAFETY: a record begins with its key, which is 40 bytes, and is aligned to eight.
    let [first, second, third, fourth, last] = unsafe { *record.cast::<[u64; 5]>() };
    let KeyWords(key) = *key;
    // What is not compared of an IPv4 address is the same in all of them.
    let differs = (second ^ key[1]) | (fourth ^ key[3]) | (last ^ key[4]);
    let is_v4 = key[4] >> 48 == u64::from(family::V4);
    differs == 0 && (is_v4 || (first ^ key[0]) | (third ^ key[2]) == 0)
}

//! What a WireGuard packet shows to somebody who holds none of its keys.
//!
//! Pure functions of bytes, called for each datagram of a WireGuard session on a data core: the
//! kind and the indices (whitepaper §5.4), and whether a handshake message knows the public key of
//! the end it is for. Nothing here can tell whether a packet is authentic; only its receiver can.

use blake2::digest::consts::U16;
use blake2::digest::{Digest, KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac};
use std::fmt;

/// Bytes of a handshake initiation (§5.4.2).
pub const INITIATION_BYTES: usize = 148;
/// Bytes of a handshake response (§5.4.3).
pub const RESPONSE_BYTES: usize = 92;
/// Bytes of a cookie reply (§5.4.7).
pub const COOKIE_REPLY_BYTES: usize = 64;
/// Least bytes of transport data (§5.4.6): a head of 16, no payload, and a tag of 16.
///
/// The whitepaper pads payload to multiples of 16, but packets are not always that long: Linux and
/// wireguard-go pad up to the MTU at most, so a full packet of the usual MTU of 1420 has 1452
/// bytes, and boringtun does not pad at all.
pub const TRANSPORT_BYTES_MIN: usize = 32;
/// Where mac1 begins in an initiation: behind all but the two macs.
const INITIATION_MAC1_AT: usize = INITIATION_BYTES - 32;
/// Where mac1 begins in a response.
const RESPONSE_MAC1_AT: usize = RESPONSE_BYTES - 32;
/// What the key of mac1 is derived with (§5.4, `LABEL-MAC1`).
const MAC1_LABEL: &[u8] = b"mac1----";

/// A number by which an end finds one of its handshakes or key pairs. Little-endian on the wire,
/// as here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIndex(pub u32);

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Begins a handshake; the other end answers to `sender`.
    Initiation {
        /// How its sender wants to be called.
        sender: PeerIndex,
    },
    /// Answers an initiation.
    Response {
        /// How its sender wants to be called.
        sender: PeerIndex,
        /// What the initiation called its sender.
        receiver: PeerIndex,
    },
    /// Asks the sender of a handshake message to repeat it with a cookie.
    CookieReply {
        /// What that message called its sender.
        receiver: PeerIndex,
    },
    /// Encrypted payload, or a keep-alive.
    Transport {
        /// What the receiver called itself in the handshake.
        receiver: PeerIndex,
    },
}

/// Recognises a packet by its type, the three zeros behind it, and its length. `None`: no end of
/// WireGuard would take it.
pub fn classify(packet: &[u8]) -> Option<Message> {
    let (&kind, rest) = packet.split_first_chunk::<4>()?;
    let (&first, rest) = rest.split_first_chunk::<4>()?;
    let first = PeerIndex(u32::from_le_bytes(first));
    match (kind, packet.len()) {
        ([1, 0, 0, 0], INITIATION_BYTES) => Some(Message::Initiation { sender: first }),
        ([2, 0, 0, 0], RESPONSE_BYTES) => {
            let receiver = PeerIndex(u32::from_le_bytes(*rest.first_chunk()?));
            Some(Message::Response { sender: first, receiver })
        }
        ([3, 0, 0, 0], COOKIE_REPLY_BYTES) => Some(Message::CookieReply { receiver: first }),
        ([4, 0, 0, 0], TRANSPORT_BYTES_MIN..) => Some(Message::Transport { receiver: first }),
        _ => None,
    }
}

/// The public key of an end, as its operator writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

/// Tells whether handshake messages are for the holder of a public key. It is no secret, but it is
/// known to few: whoever does not know it cannot make an end answer.
#[derive(Clone)]
pub struct Mac1Key([u8; 32]);

impl Mac1Key {
    /// For messages to the holder of `receiver`.
    pub fn new(receiver: &PublicKey) -> Self {
        let mut hash = Blake2s256::new();
        Digest::update(&mut hash, MAC1_LABEL);
        Digest::update(&mut hash, receiver.0);
        Self(hash.finalize().into())
    }

    /// Whether mac1 of an initiation or a response is right; `false` for anything else. Takes the
    /// same time wherever the difference is.
    pub fn verifies(&self, packet: &[u8]) -> bool {
        let mac1_at = match packet.len() {
            INITIATION_BYTES => INITIATION_MAC1_AT,
            RESPONSE_BYTES => RESPONSE_MAC1_AT,
            _ => return false,
        };
        let (covered, macs) = packet.split_at(mac1_at);
        macs.first_chunk::<16>().is_some_and(|mac1| self.mac(covered).verify_slice(mac1).is_ok())
    }

    /// Writes mac1 into a message that is to pass [`Self::verifies`]; a shorter one stays as it is.
    pub fn sign(&self, message: &mut [u8]) {
        let mac1_at = message.len().saturating_sub(32);
        let (covered, macs) = message.split_at_mut(mac1_at);
        if let Some(mac1) = macs.first_chunk_mut::<16>() {
            *mac1 = self.mac(covered).finalize().into_bytes().into();
        }
    }

    fn mac(&self, covered: &[u8]) -> Blake2sMac<U16> {
        let mut mac = <Blake2sMac<U16> as KeyInit>::new(&self.0.into());
        Mac::update(&mut mac, covered);
        mac
    }
}

impl fmt::Debug for Mac1Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac1Key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(kind: u8, bytes: usize) -> Vec<u8> {
        let mut packet = vec![0; bytes];
        if let Some(first) = packet.first_mut() {
            *first = kind;
        }
        packet
    }

    #[test]
    fn only_the_lengths_of_each_type_are_recognised() {
        for bytes in 0..400 {
            let is = |kind| classify(&packet(kind, bytes)).is_some();
            assert_eq!(is(1), bytes == 148, "{bytes}");
            assert_eq!(is(2), bytes == 92, "{bytes}");
            assert_eq!(is(3), bytes == 64, "{bytes}");
            assert_eq!(is(4), bytes >= 32, "{bytes}");
            assert!(!is(0) && !is(5) && !is(255), "{bytes}");
        }
    }

    #[test]
    fn full_packet_of_the_usual_mtu_is_recognised_though_it_is_no_multiple_of_16() {
        let bytes = 16 + 1420 + 16;
        assert_ne!(bytes % 16, 0);
        assert!(classify(&packet(4, bytes)).is_some());
    }

    #[test]
    fn reserved_bytes_must_be_zero() {
        for at in 1..4 {
            let mut changed = packet(4, 32);
            changed[at] = 1;
            assert_eq!(classify(&changed), None);
        }
    }

    #[test]
    fn indices_are_read_where_they_are() {
        let mut response = packet(2, 92);
        response[4..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let (sender, receiver) = (PeerIndex(0x0403_0201), PeerIndex(0x0807_0605));
        assert_eq!(classify(&response), Some(Message::Response { sender, receiver }));
        response[0] = 4;
        assert_eq!(classify(&response), Some(Message::Transport { receiver: sender }));
    }

    /// Computed with Python's hashlib, an implementation that shares nothing with this one.
    #[test]
    fn mac1_is_that_of_another_implementation() {
        let key = Mac1Key::new(&PublicKey(core::array::from_fn(|at| at as u8)));
        let mut initiation: Vec<u8> = (0..148).map(|at| (at * 7) as u8).collect();
        initiation[116..132].copy_from_slice(&hex::decode(MAC1_OF_THE_EXAMPLE).unwrap());
        assert!(key.verifies(&initiation));
        initiation[0] ^= 1;
        assert!(!key.verifies(&initiation));
    }

    const MAC1_OF_THE_EXAMPLE: &str = "03a55c329de13c8e850faad2618d1d34";

    proptest! {
        #[test]
        fn signed_message_verifies_and_a_changed_one_does_not(
            public: [u8; 32], is_response: bool, fill: u8, at in 0_usize..60
        ) {
            let key = Mac1Key::new(&PublicKey(public));
            let mut message = vec![fill; if is_response { 92 } else { 148 }];
            key.sign(&mut message);
            prop_assert!(key.verifies(&message));
            message[at] ^= 0x40;
            prop_assert!(!key.verifies(&message));
            let mut other = public;
            other[at % 32] ^= 1;
            message[at] ^= 0x40;
            prop_assert!(!Mac1Key::new(&PublicKey(other)).verifies(&message));
        }
    }
}

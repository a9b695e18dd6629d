//! Datagrams by which an end proves that a leg is its own, and the answer to them.
//!
//! Pure functions of bytes and a secret; the data core checks proofs, an end makes them. A proof is
//! fresh each time, so one that was seen on the way is worth nothing later: its counter has to
//! grow, and its tag covers the counter. Neither tells the secret.
//!
//! ```text
//! proof    f7 "Way" 01 01 | core u16 | place u32 | generation u32 | counter u64 | tag 16
//! answer   f7 "Way" 01 02 | the same three                       | the same    | tag 16
//! ```
//!
//! Numbers are big-endian. The tag is BLAKE2s of 16 bytes, keyed with the secret, over the 24 bytes
//! before it. The first byte is none of WireGuard's, STUN's, DTLS's, TURN channels' or RTP's
//! (RFC 7983).

use super::leg::{LegPlace, Side};
use crate::ids::{CoreId, UdpSessionTag};
use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of a proof, and of its answer: an answer is no longer than what asked for it.
pub const PROOF_BYTES: usize = 40;
const COVERED_BYTES: usize = PROOF_BYTES - 16;
const PROOF_MAGIC: [u8; 6] = *b"\xf7Way\x01\x01";
const ANSWER_MAGIC: [u8; 6] = *b"\xf7Way\x01\x02";

/// What the end of a leg shares with the box: 32 random bytes from whoever opened the session.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes random bytes as they are.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for whoever hands them to the end.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// One leg of a session, as proofs name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegName {
    /// The session.
    pub session: UdpSessionTag,
    /// Which of its legs.
    pub side: Side,
}

impl LegName {
    /// Bytes of it in a proof, behind the six that every proof begins with.
    pub const BYTES: usize = 10;

    /// As proofs carry it.
    pub fn bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (core, rest) = bytes.split_at_mut(2);
        let (place, generation) = rest.split_at_mut(4);
        core.copy_from_slice(&self.session.core.0.to_be_bytes());
        place.copy_from_slice(&LegPlace::new(self.session.slot, self.side).number().to_be_bytes());
        generation.copy_from_slice(&self.session.generation.to_be_bytes());
        bytes
    }
}

/// What a proof says; whether it is true has still to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose leg it is for.
    pub leg: LegName,
    /// Grows from proof to proof.
    pub counter: u64,
}

/// Makes a proof. `counter` must be more than in any proof before, also across restarts of the end:
/// the time in nanoseconds will do.
pub fn prove(secret: &Secret, leg: LegName, counter: u64) -> [u8; PROOF_BYTES] {
    sealed(secret, PROOF_MAGIC, &Claim { leg, counter })
}

/// Reads a proof.
pub fn claim(datagram: &[u8]) -> Option<Claim> {
    read(datagram, PROOF_MAGIC)
}

/// Whether a proof was made with a secret. Takes the same time wherever the difference is.
pub fn is_proven(secret: &Secret, datagram: &[u8]) -> bool {
    has_right_tag(secret, datagram)
}

/// Makes the answer to a proof that holds.
pub fn answer(secret: &Secret, claim: &Claim) -> [u8; PROOF_BYTES] {
    sealed(secret, ANSWER_MAGIC, claim)
}

/// Reads an answer, at the end that has the secret. `None`: it is none, or somebody else's.
pub fn answered(secret: &Secret, datagram: &[u8]) -> Option<Claim> {
    read(datagram, ANSWER_MAGIC).filter(|_| has_right_tag(secret, datagram))
}

fn read(datagram: &[u8], magic: [u8; 6]) -> Option<Claim> {
    let datagram: &[u8; PROOF_BYTES] = datagram.try_into().ok()?;
    let (found, rest) = datagram.split_first_chunk::<6>()?;
    if *found != magic {
        return None;
    }
    let (core, rest) = rest.split_first_chunk::<2>()?;
    let (place, rest) = rest.split_first_chunk::<4>()?;
    let (generation, rest) = rest.split_first_chunk::<4>()?;
    let place = LegPlace::from_number(u32::from_be_bytes(*place));
    let session = UdpSessionTag {
        core: CoreId(u16::from_be_bytes(*core)),
        slot: place.slot(),
        generation: u32::from_be_bytes(*generation),
    };
    let counter = u64::from_be_bytes(*rest.first_chunk()?);
    Some(Claim { leg: LegName { session, side: place.side() }, counter })
}

fn has_right_tag(secret: &Secret, datagram: &[u8]) -> bool {
    let Some((covered, tag)) = datagram.split_first_chunk::<COVERED_BYTES>() else {
        return false;
    };
    mac(secret, covered).verify_slice(tag).is_ok()
}

fn sealed(secret: &Secret, magic: [u8; 6], claim: &Claim) -> [u8; PROOF_BYTES] {
    let mut datagram = [0; PROOF_BYTES];
    let mut rest = &mut datagram[..];
    let parts: [&[u8]; 3] = [&magic, &claim.leg.bytes(), &claim.counter.to_be_bytes()];
    for part in parts {
        let (front, behind) = rest.split_at_mut(part.len());
        front.copy_from_slice(part);
        rest = behind;
    }
    let (covered, tag) = datagram.split_at_mut(COVERED_BYTES);
    tag.copy_from_slice(&mac(secret, covered).finalize().into_bytes());
    datagram
}

fn mac(secret: &Secret, covered: &[u8]) -> Blake2sMac<U16> {
    let mut mac = <Blake2sMac<U16> as KeyInit>::new(&secret.0.into());
    Mac::update(&mut mac, covered);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leg(slot: u32, side: Side) -> LegName {
        LegName { session: UdpSessionTag { core: CoreId(3), slot, generation: 9 }, side }
    }

    #[test]
    fn proof_is_that_of_another_implementation() {
        let secret = Secret::new([7; 32]);
        let proof = prove(&secret, leg(5, Side::B), 0x0102_0304_0506_0708);
        let digits: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
        // Computed with Python's hashlib.
        assert_eq!(
            digits,
            "f7576179010100030000000b000000090102030405060708e25c168188e8eafa799fdbd010e70be1"
        );
    }

    #[test]
    fn secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new([7; 32])), "Secret");
    }

    #[test]
    fn first_byte_is_no_other_protocols() {
        let first = PROOF_MAGIC[0];
        assert!(!(0..=79).contains(&first) && !(128..=191).contains(&first));
    }

    proptest! {
        #[test]
        fn proof_and_answer_read_back_and_every_changed_bit_is_noticed(
            secret: [u8; 32], slot in 0_u32..1 << 30, is_b: bool, counter: u64, bit in 0_usize..320
        ) {
            let secret = Secret::new(secret);
            let leg = leg(slot, if is_b { Side::B } else { Side::A });
            let mut proof = prove(&secret, leg, counter);
            let expected = Claim { leg, counter };
            prop_assert_eq!(claim(&proof), Some(expected));
            prop_assert!(is_proven(&secret, &proof));
            let mut reply = answer(&secret, &expected);
            prop_assert_eq!(answered(&secret, &reply), Some(expected));
            prop_assert_eq!(claim(&reply), None);
            prop_assert_eq!(answered(&secret, &proof), None);
            proof[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(claim(&proof).is_none() || !is_proven(&secret, &proof));
            reply[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(answered(&secret, &reply), None);
        }
    }
}

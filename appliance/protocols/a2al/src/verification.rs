//! Says whether Ed25519 signatures hold (specification §1.4).
//!
//! Owns the equation, and the points of keys that have signed before. Its verdict is that of `ring`,
//! and so of upstream's library, for every input, in a third to two thirds of the time: the scalar
//! S has to be below the group's order; the key has to be a point, in whatever encoding; and
//! S·B − h·A, without cofactor, encodes to the very bytes of R. h is SHA-512 over R, key and
//! message as they came, taken modulo the order before anything is multiplied by it, so points
//! outside the prime group count the same too. `tests/verification.rs` holds both against each other.
//!
//! Nothing here is secret, so nothing takes constant time. Signatures are made by `ring`.

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;

use crate::hash::sha512;
use crate::keys::{PublicKey, Signature, Verifier};
use crate::limits::{KNOWN_KEYS_MAX, PUBLIC_KEY_BYTES};
use crate::recent::RecentMap;

/// Ed25519, each signature by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ed25519;

/// The same, by somebody who meets the same keys again and again: their points are remembered, which
/// saves a square root each time.
#[derive(Debug)]
pub struct RememberingEd25519 {
    /// −A of keys that have made a signature that holds.
    negated: RecentMap<PublicKey, EdwardsPoint>,
}

impl RememberingEd25519 {
    /// Keys whose points are remembered; at most twice [`KNOWN_KEYS_MAX`].
    pub fn known(&self) -> usize {
        self.negated.len()
    }
}

impl Verifier for Ed25519 {
    fn verifies(&mut self, key: &PublicKey, preimage: &[u8], signature: &Signature) -> bool {
        negated_point(key).is_some_and(|negated| holds(&negated, key, preimage, signature))
    }
}

impl Default for RememberingEd25519 {
    fn default() -> Self {
        Self { negated: RecentMap::new(KNOWN_KEYS_MAX) }
    }
}

impl Verifier for RememberingEd25519 {
    fn verifies(&mut self, key: &PublicKey, preimage: &[u8], signature: &Signature) -> bool {
        if let Some(negated) = self.negated.touch(key) {
            return holds(negated, key, preimage, signature);
        }
        let Some(negated) = negated_point(key) else { return false };
        let holds = holds(&negated, key, preimage, signature);
        if holds {
            // Keys of forgeries are not remembered: they would push out those that are in use.
            self.negated.insert(*key, negated);
        }
        holds
    }
}

/// −A, if the key is the encoding of a point.
fn negated_point(key: &PublicKey) -> Option<EdwardsPoint> {
    CompressedEdwardsY(key.0).decompress().map(|point| -point)
}

fn holds(negated: &EdwardsPoint, key: &PublicKey, preimage: &[u8], signature: &Signature) -> bool {
    let Some((r, s)) = signature.0.split_first_chunk::<PUBLIC_KEY_BYTES>() else { return false };
    let s = s.first_chunk().and_then(|s| Option::<Scalar>::from(Scalar::from_canonical_bytes(*s)));
    let Some(s) = s else { return false };
    let h = Scalar::from_bytes_mod_order_wide(&sha512(&[r, &key.0, preimage]));
    let expected = EdwardsPoint::vartime_double_scalar_mul_basepoint(&h, negated, &s);
    expected.compress().as_bytes() == r
}

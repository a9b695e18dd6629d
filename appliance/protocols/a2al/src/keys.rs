//! Ed25519 keys and signatures (specification §1.4).
//!
//! Signatures are made by `ring`, and verified in [`crate::verification`].
//!
//! A node signs and checks through [`Signer`] and [`Verifier`]. Every program uses Ed25519; a
//! simulation of a thousand nodes has a scheme of its own, or it would do little but multiply points.

use std::fmt;

use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::address::Address;
use crate::limits::{PUBLIC_KEY_BYTES, SIGNATURE_BYTES};
use crate::verification::RememberingEd25519;

pub use crate::verification::Ed25519;

/// The public half of an Ed25519 key; any 32 bytes, since only a verification tells.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct PublicKey(pub [u8; PUBLIC_KEY_BYTES]);

/// An Ed25519 signature.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Signature(pub [u8; SIGNATURE_BYTES]);

/// Who signs for a node.
pub trait Signer: fmt::Debug + Send {
    /// The public half of its key.
    fn public(&self) -> PublicKey;

    /// Signs bytes.
    fn sign(&self, preimage: &[u8]) -> Signature;

    /// The address of the public half.
    fn address(&self) -> Address {
        Address::of_key(&self.public())
    }
}

/// Who says whether signatures hold. What it says about the same bytes never changes, but it may
/// remember keys.
pub trait Verifier: fmt::Debug + Send {
    /// Says whether the key made the signature over these bytes.
    fn verifies(&mut self, key: &PublicKey, preimage: &[u8], signature: &Signature) -> bool;
}

/// Both halves of what a node does with signatures.
#[derive(Debug)]
pub struct Signatures {
    /// Who signs.
    pub signer: Box<dyn Signer>,
    /// Who checks.
    pub verifier: Box<dyn Verifier>,
}

/// A key that signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// A seed that makes no key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not the seed of an Ed25519 key")]
pub struct SeedError;

impl SigningKey {
    /// The key of a seed.
    ///
    /// # Errors
    /// None that is known of; the library may refuse a seed, and that is passed on.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, SeedError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_refused| SeedError)?;
        let bytes = pair.public_key().as_ref().try_into().map_err(|_length| SeedError)?;
        Ok(Self { pair, public: PublicKey(bytes) })
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The address of its public half.
    pub fn address(&self) -> Address {
        Address::of_key(&self.public)
    }

    /// Signs bytes.
    pub fn sign(&self, preimage: &[u8]) -> Signature {
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.copy_from_slice(self.pair.sign(preimage).as_ref());
        Signature(bytes)
    }
}

impl Signer for SigningKey {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, preimage: &[u8]) -> Signature {
        Self::sign(self, preimage)
    }
}

impl From<SigningKey> for Signatures {
    fn from(key: SigningKey) -> Self {
        Self { signer: Box::new(key), verifier: Box::<RememberingEd25519>::default() }
    }
}

impl PublicKey {
    /// Says whether the key made the signature over these bytes.
    pub fn verifies(&self, preimage: &[u8], signature: &Signature) -> bool {
        Ed25519.verifies(self, preimage, signature)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        formatter.write_str("…")
    }
}

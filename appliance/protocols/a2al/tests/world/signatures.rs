//! Who signs in a world: Ed25519, or a keyed hash for worlds so large that nothing else would be
//! done. The hash exists in simulations alone.

use waystation_a2al::keys::{
    Ed25519, PublicKey, Signature, Signatures, Signer, SigningKey, Verifier,
};
use waystation_a2al::sha256;

/// How everybody in a world signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scheme {
    /// What the network uses.
    Ed25519,
    /// SHA-256 over the public key and the message behind a word that everybody here knows. Anybody
    /// could forge it, and nobody in a world tries: liars sign with keys of their own.
    KeyedHash,
}

#[derive(Clone, Copy, Debug)]
struct KeyedHash(PublicKey);

impl Scheme {
    /// Both halves for a new node.
    pub(crate) fn signatures(self, seed: [u8; 32]) -> Signatures {
        Signatures { signer: self.signer(seed), verifier: self.verifier() }
    }

    /// Somebody who signs.
    pub(crate) fn signer(self, seed: [u8; 32]) -> Box<dyn Signer> {
        match self {
            Self::Ed25519 => Box::new(SigningKey::from_seed(&seed).unwrap()),
            Self::KeyedHash => Box::new(KeyedHash(PublicKey(sha256(&[b"public", &seed])))),
        }
    }

    /// Somebody who checks.
    pub(crate) fn verifier(self) -> Box<dyn Verifier> {
        match self {
            Self::Ed25519 => Box::new(Ed25519),
            Self::KeyedHash => Box::new(KeyedHash(PublicKey([0; 32]))),
        }
    }
}

impl Signer for KeyedHash {
    fn public(&self) -> PublicKey {
        self.0
    }

    fn sign(&self, preimage: &[u8]) -> Signature {
        keyed_hash(&self.0, preimage)
    }
}

impl Verifier for KeyedHash {
    fn verifies(&mut self, key: &PublicKey, preimage: &[u8], signature: &Signature) -> bool {
        keyed_hash(key, preimage) == *signature
    }
}

fn keyed_hash(key: &PublicKey, preimage: &[u8]) -> Signature {
    let half = sha256(&[b"simulated signature", &key.0, preimage]);
    let mut signature = Signature([0; 64]);
    signature.0[..32].copy_from_slice(&half);
    signature.0[32..].copy_from_slice(&half);
    signature
}

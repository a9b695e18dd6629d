//! The hashes of this protocol over several slices behind each other.

use ring::digest;
use ripemd::Ripemd160;
use sha3::{Digest as _, Keccak256};

/// SHA-256 (FIPS 180-4).
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut output = [0; 32];
    output.copy_from_slice(context.finish().as_ref());
    output
}

/// SHA-512 (FIPS 180-4).
pub(crate) fn sha512(parts: &[&[u8]]) -> [u8; 64] {
    let mut context = digest::Context::new(&digest::SHA512);
    parts.iter().for_each(|part| context.update(part));
    let mut output = [0; 64];
    output.copy_from_slice(context.finish().as_ref());
    output
}

/// SHA-256 of what comes piece by piece.
pub(crate) struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Sha256 {
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all pieces so far.
    pub(crate) fn finish(self) -> [u8; 32] {
        let mut output = [0; 32];
        output.copy_from_slice(self.0.finish().as_ref());
        output
    }
}

/// Keccak-256 with its original padding, which is not SHA3-256.
pub(crate) fn keccak256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Keccak256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// RIPEMD-160 over SHA-256.
pub(crate) fn hash160(bytes: &[u8]) -> [u8; 20] {
    Ripemd160::digest(sha256(&[bytes])).into()
}

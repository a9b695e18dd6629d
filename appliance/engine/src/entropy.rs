//! Random numbers for nonces, link ids and ephemeral keys, from the operating system.
//!
//! Owned by one data core. Read in blocks, so that a session's nonce costs no system call; bytes
//! are wiped as they are handed out.

use crate::limits::ENTROPY_BYTES;
use ring::rand::{SecureRandom, SystemRandom};
use waystation_astral::identity::SecretKey;
use zeroize::Zeroize;

/// A core's supply of random bytes.
pub struct Entropy {
    source: SystemRandom,
    stock: [u8; ENTROPY_BYTES],
    used: usize,
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entropy").finish_non_exhaustive()
    }
}

impl Default for Entropy {
    fn default() -> Self {
        Self { source: SystemRandom::new(), stock: [0; ENTROPY_BYTES], used: ENTROPY_BYTES }
    }
}

impl Entropy {
    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= ENTROPY_BYTES) };
        if self.used + N > ENTROPY_BYTES {
            self.refill();
        }
        let mut out = [0; N];
        let piece = &mut self.stock[self.used..self.used + N];
        out.copy_from_slice(piece);
        piece.zeroize();
        self.used += N;
        out
    }

    /// A random number.
    pub fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.bytes())
    }

    /// A random number other than 0: no session may be named 0 (spec §6.1).
    pub fn nonce(&mut self) -> u64 {
        loop {
            let nonce = self.u64();
            if nonce != 0 {
                return nonce;
            }
        }
    }

    /// A fresh key for one handshake.
    pub fn ephemeral_key(&mut self) -> SecretKey {
        loop {
            let mut scalar: [u8; 32] = self.bytes();
            let key = SecretKey::from_bytes(&scalar);
            scalar.zeroize();
            // All but one in 2^128 values are valid scalars.
            if let Ok(key) = key {
                return key;
            }
        }
    }

    fn refill(&mut self) {
        // The kernel's source cannot fail once the machine has booted; a relay that cannot make
        // nonces must not go on.
        assert!(self.source.fill(&mut self.stock).is_ok(), "the system has no random numbers");
        self.used = 0;
    }
}

impl Drop for Entropy {
    fn drop(&mut self) {
        self.stock.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_do_not_repeat_across_refills() {
        let mut entropy = Entropy::default();
        let numbers: HashSet<u64> = (0..10_000).map(|_| entropy.nonce()).collect();
        assert_eq!(numbers.len(), 10_000);
    }
}

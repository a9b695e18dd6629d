//! What no node can do without: verifying who asks, and signing the answer.

use crate::load::clock::thread_processor_ns;
use anyhow::{Result, ensure};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use std::hint::black_box;
use waystation_a2al::keys::{Ed25519, SigningKey, Verifier};
use waystation_a2al::verification::RememberingEd25519;

/// Bytes that are signed in a PING (§3.5 less key, signature and heads).
const PREIMAGE_BYTES: usize = 64;
/// Times that each is done, which is done beside every measurement.
const TIMES: u32 = 300;

/// Microseconds of one verification and of one signature.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// Of a verification.
    pub verify_us: f64,
    /// Of a signature.
    pub sign_us: f64,
}

impl Floor {
    /// Microseconds of so many verifications and one signature.
    pub fn of(self, verifications: usize) -> f64 {
        verifications as f64 * self.verify_us + self.sign_us
    }

    /// By `ring`, on the calling thread.
    ///
    /// # Errors
    ///
    /// When the library does not do what it is for.
    pub fn of_ring() -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32])
            .map_err(|refused| anyhow::anyhow!("no key of a seed: {refused}"))?;
        let preimage = [0x55; PREIMAGE_BYTES];
        let signature = pair.sign(&preimage);
        let key = UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref());
        let verify_us = each_us(|| key.verify(black_box(&preimage), signature.as_ref()).is_ok())?;
        let sign_us = each_us(|| pair.sign(black_box(&preimage)).as_ref().len() == 64)?;
        Ok(Self { verify_us, sign_us })
    }

    /// By what the node uses: of a key that it knows, as it knows those who ask it again and again,
    /// or of one that it meets for the first time.
    ///
    /// # Errors
    ///
    /// When the library does not do what it is for.
    pub fn of_node(is_known: bool) -> Result<Self> {
        let key = SigningKey::from_seed(&[7; 32])?;
        let preimage = [0x55; PREIMAGE_BYTES];
        let (public, signature) = (key.public(), key.sign(&preimage));
        let mut remembering = RememberingEd25519::default();
        let verifier: &mut dyn Verifier = if is_known { &mut remembering } else { &mut Ed25519 };
        let verify_us = each_us(|| verifier.verifies(&public, black_box(&preimage), &signature))?;
        let sign_us = each_us(|| key.sign(black_box(&preimage)) == signature)?;
        Ok(Self { verify_us, sign_us })
    }
}

fn each_us(mut once: impl FnMut() -> bool) -> Result<f64> {
    let before = thread_processor_ns();
    for _ in 0..TIMES {
        ensure!(once(), "a signature does not hold");
    }
    let spent_ns = thread_processor_ns() - before;
    Ok(spent_ns as f64 / 1e3 / f64::from(TIMES))
}

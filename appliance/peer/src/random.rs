//! Random bytes, nonces and ephemeral keys from the operating system. Called when a link is made
//! and once per query, never per frame.

use crate::error::PeerError;
use ring::rand::{SecureRandom, SystemRandom};
use waystation_astral::identity::SecretKey;

/// Draws of a 32-byte scalar before giving up: one fails with a probability of 2⁻¹²⁷.
const SCALAR_DRAWS_MAX: u32 = 8;

/// `N` random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], PeerError> {
    let mut out = [0; N];
    SystemRandom::new().fill(&mut out).map_err(|ring::error::Unspecified| PeerError::Randomness)?;
    Ok(out)
}

/// A random session, ping or link number; never 0 (spec §6.1).
pub(crate) fn nonce() -> Result<u64, PeerError> {
    loop {
        let nonce = u64::from_be_bytes(bytes()?);
        if nonce != 0 {
            return Ok(nonce);
        }
    }
}

/// Makes a new secret key, for an ephemeral key or for a throw-away identity.
///
/// # Errors
///
/// [`PeerError::Randomness`] when the system has no random bytes.
pub fn secret_key() -> Result<SecretKey, PeerError> {
    for _ in 0..SCALAR_DRAWS_MAX {
        if let Ok(key) = SecretKey::from_bytes(&bytes()?) {
            return Ok(key);
        }
    }
    Err(PeerError::Randomness)
}

//! The vectors and properties of brontide, once for each AEAD suite there is in this build.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its vectors has failed")]
#![allow(clippy::duplicate_mod, reason = "the same cases run once for each suite")]

#[cfg(feature = "aead-openssl")]
#[path = "cases.rs"]
mod openssl;
#[path = "cases.rs"]
mod ring;
#[cfg(feature = "aead-openssl")]
#[path = "cases.rs"]
mod ring_openssl_100;
#[cfg(feature = "aead-rustcrypto")]
#[path = "cases.rs"]
mod rustcrypto;

/// The suite that a module of cases is named after.
fn suite_of(module: &str) -> waystation_astral::aead::AeadSuite {
    let name = module.rsplit("::").next().unwrap();
    name.replacen('_', "+", 1).replacen('_', ":", 1).parse().unwrap()
}

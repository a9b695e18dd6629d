//! Addresses: whom a record is about, and who sent a message (specification §1.1).
//!
//! Owns the 21 bytes and how keys become them; text forms are in [`crate::address_text`].

use std::fmt;

use crate::hash::{hash160, keccak256, sha256};
use crate::keys::PublicKey;
use crate::limits::ADDRESS_BYTES;
use crate::node_id::NodeId;

/// The kind of key behind an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AddressKind {
    /// Ed25519; every node has one.
    Native,
    /// secp256k1 as Paralism hashes it.
    Paralism,
    /// secp256k1 as Ethereum hashes it.
    Ethereum,
    /// Reserved, frozen or private: there is no key to check.
    Other,
}

/// A version byte and a hash of a public key.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address(pub [u8; ADDRESS_BYTES]);

impl Address {
    /// Version byte of Ed25519 addresses.
    pub const NATIVE: u8 = 0xa0;
    /// Version byte of Paralism addresses.
    pub const PARALISM: u8 = 0xa2;
    /// Version byte of Ethereum addresses.
    pub const ETHEREUM: u8 = 0xa3;

    /// The address of an Ed25519 key.
    pub fn of_key(key: &PublicKey) -> Self {
        let digest = sha256(&[&key.0]);
        Self::with_hash(Self::NATIVE, digest.first_chunk().unwrap_or(&[0; 20]))
    }

    /// The Ethereum address of a secp256k1 key, given as both coordinates behind each other.
    pub fn of_ethereum_key(coordinates: &[u8; 64]) -> Self {
        let digest = keccak256(&[coordinates]);
        Self::with_hash(Self::ETHEREUM, digest.last_chunk().unwrap_or(&[0; 20]))
    }

    /// The Paralism address of a secp256k1 key in either serialised form.
    pub fn of_paralism_key(serialised: &[u8]) -> Self {
        Self::with_hash(Self::PARALISM, &hash160(serialised))
    }

    /// Joins version and hash.
    pub fn with_hash(version: u8, hash: &[u8; 20]) -> Self {
        let mut bytes = [version; ADDRESS_BYTES];
        bytes[1..].copy_from_slice(hash);
        Self(bytes)
    }

    /// The version byte.
    pub fn version(&self) -> u8 {
        self.0[0]
    }

    /// The bytes behind the version.
    pub fn hash(&self) -> &[u8] {
        &self.0[1..]
    }

    /// The kind of key behind it.
    pub fn kind(&self) -> AddressKind {
        match self.version() {
            Self::NATIVE => AddressKind::Native,
            Self::PARALISM => AddressKind::Paralism,
            Self::ETHEREUM => AddressKind::Ethereum,
            _ => AddressKind::Other,
        }
    }

    /// Where it stands among the nodes (§1.2).
    pub fn node_id(&self) -> NodeId {
        NodeId(sha256(&[&self.0]))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

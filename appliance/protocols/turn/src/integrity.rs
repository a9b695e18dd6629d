//! Keys, MESSAGE-INTEGRITY in both forms, and FINGERPRINT (RFC 8489 §9.2.2, §14.5–14.7).
//!
//! Owns which bytes are covered by what; the hashes are those of `ring`, and of `md-5` for the legacy
//! key. Called on the data core for every request. A [`Key`] is a secret: it is zeroised, and its
//! `Debug` says nothing.

use md5::{Digest as _, Md5};
use ring::{digest, hmac};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::limits::{
    ATTRIBUTE_HEADER_BYTES, HEADER_BYTES, INTEGRITY_SHA1_BYTES, INTEGRITY_SHA256_BYTES,
    KEY_BYTES_MAX, USERHASH_BYTES,
};
use crate::message::Message;

/// What FINGERPRINT combines the checksum with: `STUN` in ASCII (RFC 8489 §14.7).
const FINGERPRINT_MASK: u32 = 0x5354_554e;

/// The checksum of everything before a FINGERPRINT, whose header must already count it.
pub fn fingerprint(covered: &[u8]) -> u32 {
    crc32fast::hash(covered) ^ FINGERPRINT_MASK
}

/// How a long-term key is made of a password (RFC 8489 §18.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PasswordAlgorithm {
    /// 1, for clients that know no other.
    Md5,
    /// 2.
    Sha256,
}

impl PasswordAlgorithm {
    /// Its number in attributes.
    pub fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }

    /// Reads a PASSWORD-ALGORITHM value; neither algorithm has parameters.
    pub fn from_value(value: &[u8]) -> Option<Self> {
        match value {
            [0, 1, 0, 0] => Some(Self::Md5),
            [0, 2, 0, 0] => Some(Self::Sha256),
            _ => None,
        }
    }
}

/// Which hash an integrity value is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256.
    Sha256,
}

/// A long-term key: what integrity values are made with.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key {
    bytes: [u8; KEY_BYTES_MAX],
    /// Bytes of it in use: 16 of MD5, or all.
    length: usize,
}

impl Key {
    /// Makes the long-term key of a user (RFC 8489 §9.2.2). Name, realm and password are taken as
    /// they are; whoever configures others than ASCII gives them as OpaqueString leaves them.
    pub fn long_term(
        algorithm: PasswordAlgorithm,
        name: &str,
        realm: &str,
        password: &[u8],
    ) -> Self {
        let parts = [name.as_bytes(), b":", realm.as_bytes(), b":", password];
        match algorithm {
            PasswordAlgorithm::Md5 => {
                let mut hash = Md5::new();
                parts.iter().for_each(|part| hash.update(part));
                Self::from_bytes(&hash.finalize())
            }
            PasswordAlgorithm::Sha256 => Self::from_bytes(sha256(&parts).as_ref()),
        }
    }

    fn from_bytes(from: &[u8]) -> Self {
        let mut bytes = [0; KEY_BYTES_MAX];
        let length = from.len().min(KEY_BYTES_MAX);
        bytes.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        Self { bytes, length }
    }

    /// The key itself, for whoever signs a message with it.
    pub fn expose_secret(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key")
    }
}

/// The USERHASH of a user in a realm (RFC 8489 §14.4).
pub fn userhash(name: &str, realm: &str) -> [u8; USERHASH_BYTES] {
    let hash = sha256(&[name.as_bytes(), b":", realm.as_bytes()]);
    let mut bytes = [0; USERHASH_BYTES];
    bytes.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    bytes
}

fn sha256(parts: &[&[u8]]) -> digest::Digest {
    let mut hash = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| hash.update(part));
    hash.finish()
}

/// Which integrity value of a message matches a key given as bytes: the stronger one, if it has
/// both (RFC 8489 §9.2.4). Short-term keys are passwords as they are.
pub fn verify_with(message: &Message<'_>, key: &[u8]) -> Option<Integrity> {
    let (integrity, located) = match (message.integrity_sha256(), message.integrity()) {
        (Some(located), _) => (Integrity::Sha256, located),
        (None, Some(located)) => (Integrity::Sha1, located),
        (None, None) => return None,
    };
    // The header counts everything up to the integrity value as it is, whole or cut.
    let counted_end = located.offset + ATTRIBUTE_HEADER_BYTES + located.value.len();
    let covered = message.bytes().get(..located.offset)?;
    let tag = covered_tag(integrity, key, covered, counted_end);
    let tag = tag.as_ref().get(..located.value.len())?;
    bool::from(tag.ct_eq(located.value)).then_some(integrity)
}

/// Which integrity value of a message matches a long-term key.
pub fn verify(message: &Message<'_>, key: &Key) -> Option<Integrity> {
    verify_with(message, key.expose_secret())
}

/// The integrity value of what is before its attribute, in a message that ends with it at
/// `counted_end`.
pub(crate) fn covered_tag(
    integrity: Integrity,
    key: &[u8],
    covered: &[u8],
    counted_end: usize,
) -> hmac::Tag {
    let algorithm = match integrity {
        Integrity::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Integrity::Sha256 => hmac::HMAC_SHA256,
    };
    let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
    // A message that was read or written is short enough for its length's 16 bits.
    let length = u16::try_from(counted_end.saturating_sub(HEADER_BYTES)).unwrap_or(u16::MAX);
    context.update(covered.get(..2).unwrap_or_default());
    context.update(&length.to_be_bytes());
    context.update(covered.get(4..).unwrap_or_default());
    context.sign()
}

/// Bytes of a whole integrity value.
pub(crate) fn tag_bytes(integrity: Integrity) -> usize {
    match integrity {
        Integrity::Sha1 => INTEGRITY_SHA1_BYTES,
        Integrity::Sha256 => INTEGRITY_SHA256_BYTES,
    }
}

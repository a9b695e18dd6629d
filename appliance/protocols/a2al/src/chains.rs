//! Texts that the keys of chains sign, and which key signed them (specification §1.5).
//!
//! Ethereum signs after EIP-191, Paralism as Bitcoin signs messages. Both signatures tell the public
//! key, so the check is whether that key has the address.

use secp256k1::Message;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};

use crate::address::{Address, AddressKind};
use crate::address_text;
use crate::hash::{keccak256, sha256};
use crate::keys::PublicKey;
use crate::limits::CHAIN_SIGNATURE_BYTES;

const ETHEREUM_PREFIX: &[u8] = b"\x19Ethereum Signed Message:\n";
const PARALISM_PREFIX: &[u8] = b"\x18Bitcoin Signed Message:\n";
/// Lowest last byte of an Ethereum signature; lower ones are raised by it.
const ETHEREUM_RECOVERY_BASE: u8 = 27;
/// First bytes of a Paralism signature, and from where on the key is hashed in its short form.
const PARALISM_HEADERS: std::ops::RangeInclusive<u8> = 27..=34;
const PARALISM_COMPRESSED: u8 = 31;

/// What a signed text says; it has to equal the fields of the delegation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MessageClaims {
    /// The key that may sign.
    pub operational_key: PublicKey,
    /// The address it signs for.
    pub agent: Address,
    /// What for.
    pub scope: u64,
    /// Seconds since 1970.
    pub issued_at: u64,
    /// Seconds since 1970; 0 for never.
    pub expires_at: u64,
}

impl MessageClaims {
    /// Reads the five lines that count; of a name that stands there twice, the last one. Other lines
    /// are for the reader of a wallet's prompt.
    pub fn parse(message: &str) -> Option<Self> {
        let mut operational_key = None;
        let mut agent = None;
        let mut numbers = [None; 3];
        for line in message.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match name.trim() {
                "op_key" => operational_key = Some(key_of(value)?),
                "agent" => agent = Some(address_text::parse(value).ok()?),
                "scope" => numbers[0] = Some(decimal(value)?),
                "issued_at" => numbers[1] = Some(decimal(value)?),
                "expires_at" => numbers[2] = Some(decimal(value)?),
                _ => {}
            }
        }
        let [scope, issued_at, expires_at] = numbers;
        Some(Self {
            operational_key: operational_key?,
            agent: agent?,
            scope: scope?,
            issued_at: issued_at?,
            expires_at: expires_at?,
        })
    }

    /// The text that upstream has signed for these claims.
    pub fn message(&self) -> String {
        let chain = match self.agent.kind() {
            AddressKind::Paralism => "Paralism",
            AddressKind::Ethereum | AddressKind::Native | AddressKind::Other => "Ethereum",
        };
        format!(
            "A2AL Delegation Authorization\n\
             Authorize this Ed25519 key to operate on behalf of your {chain} address.\n\n\
             op_key:{:?}\nagent:{}\nscope:{}\nissued_at:{}\nexpires_at:{}\n",
            self.operational_key,
            address_text::format(&self.agent),
            self.scope,
            self.issued_at,
            self.expires_at
        )
    }
}

/// The Ethereum address whose key signed a text: `r`, `s`, and which key.
pub fn ethereum_signer(message: &str, signature: &[u8; CHAIN_SIGNATURE_BYTES]) -> Option<Address> {
    let length = message.len().to_string();
    let digest = keccak256(&[ETHEREUM_PREFIX, length.as_bytes(), message.as_bytes()]);
    let (compact, last) = signature.split_at(64);
    let which = last[0].checked_sub(ETHEREUM_RECOVERY_BASE).unwrap_or(last[0]);
    if which > 1 {
        return None;
    }
    let key = recovered(digest, compact, which)?;
    let serialised = key.serialize_uncompressed();
    Some(Address::of_ethereum_key(serialised.last_chunk()?))
}

/// The Paralism address whose key signed a text: which key, `r` and `s`.
pub fn paralism_signer(message: &str, signature: &[u8; CHAIN_SIGNATURE_BYTES]) -> Option<Address> {
    let length = compact_length(message.len());
    let digest = sha256(&[&sha256(&[PARALISM_PREFIX, &length, message.as_bytes()])]);
    let (header, compact) = (signature[0], &signature[1..]);
    if !PARALISM_HEADERS.contains(&header) {
        return None;
    }
    let key = recovered(digest, compact, (header - PARALISM_HEADERS.start()) & 3)?;
    Some(if header >= PARALISM_COMPRESSED {
        Address::of_paralism_key(&key.serialize())
    } else {
        Address::of_paralism_key(&key.serialize_uncompressed())
    })
}

fn recovered(digest: [u8; 32], compact: &[u8], which: u8) -> Option<secp256k1::PublicKey> {
    let which = RecoveryId::try_from(i32::from(which)).ok()?;
    let signature = RecoverableSignature::from_compact(compact, which).ok()?;
    signature.recover_ecdsa(Message::from_digest(digest)).ok()
}

/// A length as Bitcoin writes it.
#[expect(clippy::cast_possible_truncation, reason = "each arm has compared the value")]
fn compact_length(length: usize) -> Vec<u8> {
    match length {
        0..0xfd => vec![length as u8],
        0xfd..=0xffff => [&[0xfd][..], &(length as u16).to_le_bytes()].concat(),
        _ => [&[0xfe][..], &(length as u32).to_le_bytes()].concat(),
    }
}

fn key_of(text: &str) -> Option<PublicKey> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let digits = digits.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(PublicKey(bytes))
}

/// An unsigned decimal number, without a sign.
fn decimal(text: &str) -> Option<u64> {
    let has_digits_only = text.bytes().all(|digit| digit.is_ascii_digit());
    if has_digits_only { text.parse().ok() } else { None }
}

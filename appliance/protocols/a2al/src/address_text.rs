//! Text forms of addresses (specification §1.3): hexadecimal with a checksum in its capitals for
//! native and Ethereum addresses, Bech32 over 21 bytes for Paralism.
//!
//! Called where operators, delegations and hubs name addresses. Formatting is exact, because other
//! nodes compare and hash these texts.

use std::fmt::Write as _;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};

use crate::address::{Address, AddressKind};
use crate::hash::{keccak256, sha256};
use crate::limits::{ADDRESS_BYTES, ADDRESS_TEXT_BYTES_MAX};

/// A text that is no address.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an address, or its checksum does not hold")]
pub struct AddressTextError;

/// Human part of the texts that are written.
const PARALISM_PREFIX: &str = "bc";
/// Human parts of the texts that are read.
const PARALISM_PREFIXES: [&str; 2] = ["bc", "pr"];
/// First of the 21 bytes within a Paralism text, and version of a Base58Check one.
const PARALISM_VERSION: u8 = 0;
/// Lengths of a Base58Check text that are looked at.
const BASE58_BYTES: std::ops::RangeInclusive<usize> = 26..=35;
const BASE58_ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/// Bytes behind Base58: version, hash, checksum.
const BASE58_PAYLOAD_BYTES: usize = 25;

/// Writes an address.
pub fn format(address: &Address) -> String {
    match address.kind() {
        AddressKind::Ethereum => {
            let digits = hex_digits(address.hash());
            format!("0x{}", capitalised(&digits, &keccak256(&[digits.as_bytes()])))
        }
        AddressKind::Paralism => paralism_text(address),
        AddressKind::Native | AddressKind::Other => {
            let digits = hex_digits(&address.0);
            capitalised(&digits, &sha256(&[digits.as_bytes()]))
        }
    }
}

/// Reads an address; white space around it is no part of it.
///
/// # Errors
/// A text that is no address, or whose checksum does not hold. The shape of a text decides which
/// form it is, and a text that fails within its form is not tried as another.
pub fn parse(text: &str) -> Result<Address, AddressTextError> {
    let text = text.trim();
    if text.len() > ADDRESS_TEXT_BYTES_MAX || !text.is_ascii() {
        return Err(AddressTextError);
    }
    let has_prefix = |prefix: &str| {
        text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if text.len() == 42 && has_prefix("0x") {
        return ethereum(&text[2..]);
    }
    if has_prefix("bc1") || has_prefix("pr1") {
        return paralism(text);
    }
    if text.starts_with('1') && BASE58_BYTES.contains(&text.len()) {
        return base58(text);
    }
    native(text)
}

fn ethereum(digits: &str) -> Result<Address, AddressTextError> {
    let hash = bytes_of::<20>(digits)?;
    let address = Address::with_hash(Address::ETHEREUM, &hash);
    accept(address, digits, &format(&address)[2..])
}

fn native(digits: &str) -> Result<Address, AddressTextError> {
    let address = Address(bytes_of::<ADDRESS_BYTES>(digits)?);
    if address.version() >> 4 != 0xa {
        return Err(AddressTextError);
    }
    // The form with a checksum is this one for every version, also for those written otherwise.
    let lower = hex_digits(&address.0);
    accept(address, digits, &capitalised(&lower, &sha256(&[lower.as_bytes()])))
}

/// Accepts digits without capitals, and others if they equal the form with a checksum.
fn accept(address: Address, digits: &str, checked: &str) -> Result<Address, AddressTextError> {
    let has_capitals = digits.bytes().any(|digit| digit.is_ascii_uppercase());
    if has_capitals && digits != checked { Err(AddressTextError) } else { Ok(address) }
}

fn paralism(text: &str) -> Result<Address, AddressTextError> {
    let checked = CheckedHrpstring::new::<Bech32>(text).map_err(|_form| AddressTextError)?;
    let prefix = checked.hrp().to_lowercase();
    if !PARALISM_PREFIXES.contains(&prefix.as_str()) {
        return Err(AddressTextError);
    }
    // Symbols of five bits for 21 bytes are 34; the two bits that are left have to be 0, which is
    // so when the same bytes give the same text again.
    let bytes: Vec<u8> = checked.byte_iter().take(ADDRESS_BYTES + 1).collect();
    let has_all_symbols = checked.data_part_ascii_no_checksum().len() == 34;
    let hash = match bytes.split_first() {
        Some((&PARALISM_VERSION, hash)) if has_all_symbols => <&[u8; 20]>::try_from(hash),
        _ => return Err(AddressTextError),
    };
    let address = Address::with_hash(Address::PARALISM, hash.map_err(|_length| AddressTextError)?);
    let again = bech32_text(&prefix, &address).ok_or(AddressTextError)?;
    if again.eq_ignore_ascii_case(text) { Ok(address) } else { Err(AddressTextError) }
}

fn paralism_text(address: &Address) -> String {
    // A valid human part and 21 bytes always fit; the digits are only there for the types.
    bech32_text(PARALISM_PREFIX, address).unwrap_or_else(|| hex_digits(&address.0))
}

fn bech32_text(prefix: &str, address: &Address) -> Option<String> {
    let mut payload = address.0;
    payload[0] = PARALISM_VERSION;
    bech32::encode_lower::<Bech32>(Hrp::parse(prefix).ok()?, &payload).ok()
}

fn base58(text: &str) -> Result<Address, AddressTextError> {
    let mut bytes = [0_u8; BASE58_PAYLOAD_BYTES];
    for symbol in text.bytes() {
        let position = BASE58_ALPHABET.iter().position(|known| *known == symbol);
        let mut carry = position.ok_or(AddressTextError)?;
        for byte in bytes.iter_mut().rev() {
            carry += usize::from(*byte) * BASE58_ALPHABET.len();
            *byte = (carry & 0xff) as u8;
            carry >>= 8;
        }
        if carry != 0 {
            return Err(AddressTextError);
        }
    }
    // Each leading zero byte is one leading 1, no more and no less.
    let ones = text.bytes().take_while(|symbol| *symbol == b'1').count();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let (payload, checksum) = bytes.split_at(ADDRESS_BYTES);
    let is_intact = sha256(&[&sha256(&[payload])])[..4] == *checksum;
    match payload.split_first_chunk::<1>() {
        Some(([PARALISM_VERSION], hash)) if is_intact && ones == zeros => {
            let hash = hash.try_into().map_err(|_length| AddressTextError)?;
            Ok(Address::with_hash(Address::PARALISM, hash))
        }
        _ => Err(AddressTextError),
    }
}

fn hex_digits(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// Makes a letter a capital where the half byte of the hash at its place is 8 or more.
fn capitalised(digits: &str, hash: &[u8; 32]) -> String {
    let with_place = digits.chars().enumerate();
    let capital = with_place.map(|(place, digit)| {
        let half = if place % 2 == 0 { hash[place / 2] >> 4 } else { hash[place / 2] & 0x0f };
        if half >= 8 { digit.to_ascii_uppercase() } else { digit }
    });
    capital.collect()
}

fn bytes_of<const N: usize>(digits: &str) -> Result<[u8; N], AddressTextError> {
    let digits = digits.as_bytes();
    if digits.len() != N * 2 {
        return Err(AddressTextError);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16).ok_or(AddressTextError)?;
        let low = char::from(pair[1]).to_digit(16).ok_or(AddressTextError)?;
        *byte = (high << 4 | low) as u8;
    }
    Ok(bytes)
}

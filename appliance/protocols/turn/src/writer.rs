//! Writes a STUN message into a buffer of fixed length.
//!
//! Owns the buffer while it is written, and the order in which a message is closed: integrity, then
//! fingerprint. Called on a data core for every answer; it allocates nothing, and pads with zeros
//! whatever the buffer held before.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::attribute::{AttributeType, ErrorCode, Family, xored};
use crate::integrity::{Integrity, covered_tag, fingerprint, tag_bytes};
use crate::limits::{ATTRIBUTE_HEADER_BYTES, HEADER_BYTES, MAGIC_COOKIE};
use crate::message::{Class, Method, TransactionId, type_bits};

/// A message that is longer than the buffer, or than a STUN message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the message is longer than its buffer")]
pub struct Overflow;

/// A message that is being written. Each call appends an attribute; what no longer fits is
/// remembered, and [`MessageWriter::finish`] fails.
#[derive(Debug)]
pub struct MessageWriter<'a> {
    buffer: &'a mut [u8],
    end: usize,
    transaction: TransactionId,
    overflowed: bool,
}

impl<'a> MessageWriter<'a> {
    /// Starts a message.
    pub fn new(
        buffer: &'a mut [u8],
        class: Class,
        method: Method,
        transaction: TransactionId,
    ) -> Self {
        let mut writer = Self { buffer, end: 0, transaction, overflowed: false };
        let TransactionId(name) = transaction;
        writer.append(&type_bits(class, method).to_be_bytes());
        writer.append(&[0, 0]);
        writer.append(&MAGIC_COOKIE.to_be_bytes());
        writer.append(&name);
        writer
    }

    /// Appends an attribute with any value.
    pub fn attribute(&mut self, kind: AttributeType, value: &[u8]) -> &mut Self {
        self.attribute_header(kind, value.len());
        self.append(value);
        self.pad();
        self
    }

    /// Appends an attribute that holds a number.
    pub fn number(&mut self, kind: AttributeType, number: u32) -> &mut Self {
        self.attribute(kind, &number.to_be_bytes())
    }

    /// Appends an address in the XOR layout (RFC 8489 §14.2).
    pub fn xor_address(&mut self, kind: AttributeType, address: SocketAddr) -> &mut Self {
        self.plain_address(kind, xored(address, self.transaction))
    }

    /// Appends an address in the plain layout (RFC 8489 §14.1).
    pub fn plain_address(&mut self, kind: AttributeType, address: SocketAddr) -> &mut Self {
        let [p0, p1] = address.port().to_be_bytes();
        let head = [0, Family::of(address.ip()).number(), p0, p1];
        match address.ip() {
            IpAddr::V4(ip) => self.attribute_of(kind, &[&head, &ip.octets()]),
            IpAddr::V6(ip) => self.attribute_of(kind, &[&head, &ip.octets()]),
        }
    }

    /// Appends an ERROR-CODE with the reason that belongs to it (RFC 8489 §14.8).
    pub fn error(&mut self, code: ErrorCode) -> &mut Self {
        let [class, number] = code.class_and_number();
        let parts: [&[u8]; 2] = [&[0, 0, class, number], code.reason().as_bytes()];
        self.attribute_of(AttributeType::ERROR_CODE, &parts)
    }

    /// Appends an ADDRESS-ERROR-CODE (RFC 8656 §18.12).
    pub fn address_error(&mut self, family: Family, code: ErrorCode) -> &mut Self {
        let [class, number] = code.class_and_number();
        let parts: [&[u8]; 2] = [&[family.number(), 0, class, number], code.reason().as_bytes()];
        self.attribute_of(AttributeType::ADDRESS_ERROR_CODE, &parts)
    }

    /// Appends UNKNOWN-ATTRIBUTES (RFC 8489 §14.13).
    pub fn unknown_attributes(&mut self, unknown: &[AttributeType]) -> &mut Self {
        self.attribute_header(AttributeType::UNKNOWN_ATTRIBUTES, 2 * unknown.len());
        unknown.iter().for_each(|AttributeType(kind)| self.append(&kind.to_be_bytes()));
        self.pad();
        self
    }

    /// Appends an integrity value over what is written so far.
    pub fn integrity(&mut self, integrity: Integrity, key: &[u8]) -> &mut Self {
        let counted_end = self.end + ATTRIBUTE_HEADER_BYTES + tag_bytes(integrity);
        let covered = self.buffer.get(..self.end).unwrap_or_default();
        let tag = covered_tag(integrity, key, covered, counted_end);
        let kind = match integrity {
            Integrity::Sha1 => AttributeType::MESSAGE_INTEGRITY,
            Integrity::Sha256 => AttributeType::MESSAGE_INTEGRITY_SHA256,
        };
        self.attribute(kind, tag.as_ref())
    }

    /// Appends the fingerprint of what is written so far; nothing may follow.
    pub fn fingerprint(&mut self) -> &mut Self {
        self.write_length(self.end + ATTRIBUTE_HEADER_BYTES + 4);
        let covered = self.buffer.get(..self.end).unwrap_or_default();
        self.number(AttributeType::FINGERPRINT, fingerprint(covered))
    }

    /// Ends the message with the head of an attribute whose value, and the padding behind it, somebody
    /// else puts there; gives the length in bytes of what is before it.
    ///
    /// # Errors
    ///
    /// If it did not fit, or the value cannot.
    pub fn head_of_payload(
        &mut self,
        kind: AttributeType,
        payload_bytes: usize,
    ) -> Result<usize, Overflow> {
        self.attribute_header(kind, payload_bytes);
        self.write_length(self.end + payload_bytes.next_multiple_of(4));
        if self.overflowed { Err(Overflow) } else { Ok(self.end) }
    }

    /// Ends the message and gives its length in bytes.
    ///
    /// # Errors
    ///
    /// If it did not fit.
    pub fn finish(&mut self) -> Result<usize, Overflow> {
        self.write_length(self.end);
        if self.overflowed { Err(Overflow) } else { Ok(self.end) }
    }

    fn attribute_of(&mut self, kind: AttributeType, parts: &[&[u8]]) -> &mut Self {
        self.attribute_header(kind, parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| self.append(part));
        self.pad();
        self
    }

    fn attribute_header(&mut self, kind: AttributeType, value_bytes: usize) {
        let AttributeType(kind) = kind;
        self.append(&kind.to_be_bytes());
        match u16::try_from(value_bytes) {
            Ok(length) => self.append(&length.to_be_bytes()),
            Err(_) => self.overflowed = true,
        }
    }

    fn pad(&mut self) {
        let padding = self.end.next_multiple_of(4) - self.end;
        self.append([0; 3].get(..padding).unwrap_or_default());
    }

    fn write_length(&mut self, end: usize) {
        let length = u16::try_from(end.saturating_sub(HEADER_BYTES));
        match (length, self.buffer.get_mut(2..4)) {
            (Ok(length), Some(at)) => at.copy_from_slice(&length.to_be_bytes()),
            _ => self.overflowed = true,
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        let end = self.end + bytes.len();
        match self.buffer.get_mut(self.end..end) {
            Some(at) if !self.overflowed => {
                at.copy_from_slice(bytes);
                self.end = end;
            }
            _ => self.overflowed = true,
        }
    }
}

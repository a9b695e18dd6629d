//! A STUN message as it lies in a packet: header, attributes, and which of them count.
//!
//! Owns nothing: a [`Message`] borrows the packet it was read from, so reading copies and allocates
//! nothing. Called for every packet that is not ChannelData, on the data core that received it. It
//! never panics, whatever the packet holds.

use thiserror::Error;

use crate::attribute::AttributeType;
use crate::integrity::fingerprint;
use crate::limits::{
    ATTRIBUTE_HEADER_BYTES, ATTRIBUTES_MAX, HEADER_BYTES, INTEGRITY_SHA1_BYTES,
    INTEGRITY_SHA256_BYTES, INTEGRITY_SHA256_BYTES_MIN, MAGIC_COOKIE, TRANSACTION_ID_BYTES,
};

/// What a message is about, in 12 bits (RFC 8489 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Method(pub u16);

impl Method {
    /// The address one is seen from (RFC 8489 §18.2).
    pub const BINDING: Self = Self(0x001);
    /// A relayed address (RFC 8656 §17), as are the following.
    pub const ALLOCATE: Self = Self(0x003);
    /// Prolongs or ends an allocation.
    pub const REFRESH: Self = Self(0x004);
    /// A datagram for a peer.
    pub const SEND: Self = Self(0x006);
    /// A datagram from a peer.
    pub const DATA: Self = Self(0x007);
    /// Lets peers send to an allocation.
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// Gives a peer a number.
    pub const CHANNEL_BIND: Self = Self(0x009);
}

/// What a message wants (RFC 8489 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// An answer.
    Request,
    /// Nothing.
    Indication,
    /// To say yes to a request.
    Success,
    /// To say no to a request.
    Error,
}

/// The name that a client gives to a request, and that its answer repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; TRANSACTION_ID_BYTES]);

/// Why a packet is no STUN message; every one of them is for its sender to explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Fewer bytes than a header has, or another length than the header says.
    #[error("another length than the header says")]
    Length,
    /// The two highest bits are not 0.
    #[error("no STUN message")]
    NotStun,
    /// Another magic cookie, for example that of a client older than RFC 5389.
    #[error("no magic cookie")]
    Cookie,
    /// An attribute that is longer than the message, or of a length that its kind cannot have.
    #[error("an attribute of impossible length")]
    Attribute,
    /// More attributes than [`ATTRIBUTES_MAX`].
    #[error("too many attributes")]
    TooManyAttributes,
    /// A fingerprint that does not match, or one with something behind it.
    #[error("a wrong fingerprint")]
    Fingerprint,
}

/// The 14 bits of a message's type.
pub(crate) fn type_bits(class: Class, method: Method) -> u16 {
    let class = match class {
        Class::Request => 0x000,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    let Method(method) = method;
    (method & 0xf80) << 2 | (method & 0x070) << 1 | method & 0x00f | class
}

fn class_and_method(bits: u16) -> (Class, Method) {
    let class = match bits & 0x110 {
        0x000 => Class::Request,
        0x010 => Class::Indication,
        0x100 => Class::Success,
        _ => Class::Error,
    };
    (class, Method((bits & 0x3e00) >> 2 | (bits & 0x00e0) >> 1 | bits & 0x000f))
}

/// A well-formed STUN message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    method: Method,
    transaction: TransactionId,
    /// Where the attributes that count end: behind an integrity value only another one and the
    /// fingerprint count (RFC 8489 §14.5, §14.6).
    attributes_end: usize,
    integrity: Option<Located<'a>>,
    integrity_sha256: Option<Located<'a>>,
    has_fingerprint: bool,
}

/// An integrity value and where its attribute starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<'a> {
    pub(crate) offset: usize,
    pub(crate) value: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads the message that a packet, or a piece of a stream, is.
    ///
    /// # Errors
    ///
    /// Whatever makes the bytes no message. A fingerprint is checked here, an integrity value is
    /// not, because that takes a key.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(MessageError::Length)?;
        let (bits, length, cookie, transaction) = parse_header(header)?;
        if bits & 0xc000 != 0 {
            return Err(MessageError::NotStun);
        }
        if cookie != MAGIC_COOKIE {
            return Err(MessageError::Cookie);
        }
        if usize::from(length) != body.len() || length % 4 != 0 {
            return Err(MessageError::Length);
        }
        let (class, method) = class_and_method(bits);
        let mut message = Self {
            bytes,
            class,
            method,
            transaction,
            attributes_end: bytes.len(),
            integrity: None,
            integrity_sha256: None,
            has_fingerprint: false,
        };
        message.locate_integrity()?;
        Ok(message)
    }

    /// What it wants.
    pub fn class(&self) -> Class {
        self.class
    }

    /// What it is about.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Its name.
    pub fn transaction(&self) -> TransactionId {
        self.transaction
    }

    /// The packet.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether it carries a fingerprint, which then is the right one.
    pub fn has_fingerprint(&self) -> bool {
        self.has_fingerprint
    }

    /// Whether it carries an integrity value of either kind.
    pub fn has_integrity(&self) -> bool {
        self.integrity.is_some() || self.integrity_sha256.is_some()
    }

    /// The attributes that count, in their order, without integrity values and fingerprint.
    pub fn attributes(&self) -> Attributes<'a> {
        let attributes = self.bytes.get(HEADER_BYTES..self.attributes_end).unwrap_or_default();
        Attributes { rest: attributes, offset: HEADER_BYTES }
    }

    /// The value of the first attribute of a type; later ones do not count (RFC 8489 §14).
    pub fn attribute(&self, wanted: AttributeType) -> Option<&'a [u8]> {
        self.attributes().find(|attribute| attribute.kind == wanted).map(|found| found.value)
    }

    pub(crate) fn integrity(&self) -> Option<Located<'a>> {
        self.integrity
    }

    pub(crate) fn integrity_sha256(&self) -> Option<Located<'a>> {
        self.integrity_sha256
    }

    /// Goes through all attributes once, so that later walks cannot fail.
    fn locate_integrity(&mut self) -> Result<(), MessageError> {
        let mut attributes = Attributes { rest: self.body(), offset: HEADER_BYTES };
        let mut count = 0;
        while !attributes.rest.is_empty() {
            let attribute = attributes.next().ok_or(MessageError::Attribute)?;
            count += 1;
            if count > ATTRIBUTES_MAX {
                return Err(MessageError::TooManyAttributes);
            }
            self.locate(&attribute)?;
        }
        Ok(())
    }

    fn locate(&mut self, attribute: &Attribute<'a>) -> Result<(), MessageError> {
        let Attribute { kind, offset, value } = *attribute;
        let is_counted = offset < self.attributes_end;
        if kind == AttributeType::FINGERPRINT {
            self.check_fingerprint(offset, value)?;
        } else if kind == AttributeType::MESSAGE_INTEGRITY && is_counted {
            if value.len() != INTEGRITY_SHA1_BYTES {
                return Err(MessageError::Attribute);
            }
            self.integrity = Some(Located { offset, value });
        } else if kind == AttributeType::MESSAGE_INTEGRITY_SHA256 && self.integrity_sha256.is_none()
        {
            let lengths = INTEGRITY_SHA256_BYTES_MIN..=INTEGRITY_SHA256_BYTES;
            if !lengths.contains(&value.len()) || !value.len().is_multiple_of(4) {
                return Err(MessageError::Attribute);
            }
            self.integrity_sha256 = Some(Located { offset, value });
        } else {
            return Ok(());
        }
        self.attributes_end = self.attributes_end.min(offset);
        Ok(())
    }

    fn check_fingerprint(&mut self, offset: usize, value: &[u8]) -> Result<(), MessageError> {
        let covered = self.bytes.get(..offset).unwrap_or_default();
        let is_last = offset + ATTRIBUTE_HEADER_BYTES + 4 == self.bytes.len();
        if !is_last || value != fingerprint(covered).to_be_bytes() {
            return Err(MessageError::Fingerprint);
        }
        self.has_fingerprint = true;
        Ok(())
    }

    fn body(&self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }
}

/// Type bits, length, cookie and transaction of a header.
fn parse_header(header: &[u8]) -> Result<(u16, u16, u32, TransactionId), MessageError> {
    let &[t0, t1, l0, l1, c0, c1, c2, c3, ref transaction @ ..] = header else {
        return Err(MessageError::Length);
    };
    let Ok(transaction) = <[u8; TRANSACTION_ID_BYTES]>::try_from(transaction) else {
        return Err(MessageError::Length);
    };
    let bits = u16::from_be_bytes([t0, t1]);
    let length = u16::from_be_bytes([l0, l1]);
    Ok((bits, length, u32::from_be_bytes([c0, c1, c2, c3]), TransactionId(transaction)))
}

/// One attribute of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Which one.
    pub kind: AttributeType,
    /// Where its header starts in the message.
    pub offset: usize,
    /// Its value, without padding.
    pub value: &'a [u8],
}

/// Walks the attributes of a message. Padding may hold anything (RFC 8489 §14), and does in the
/// vectors of RFC 5769.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let &[t0, t1, l0, l1, ref behind @ ..] = self.rest else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = behind.get(..length)?;
        let padded = length.next_multiple_of(4);
        let offset = self.offset;
        self.rest = behind.get(padded..)?;
        self.offset += ATTRIBUTE_HEADER_BYTES + padded;
        Some(Attribute { kind: AttributeType(u16::from_be_bytes([t0, t1])), offset, value })
    }
}

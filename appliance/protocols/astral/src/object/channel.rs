//! The stand-alone forms and the channel framings C1 and C2 of objects (spec §5.2, §5.3).
//!
//! Called by negotiation and by readers of a session's byte stream. It keeps at most one object
//! and what arrived behind it, and refuses a length over the caller's limit as soon as it is known.

use crate::limits::OBJECT_TYPE_NAME_BYTES_MAX;

/// How a channel frames its objects (spec §5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelForm {
    /// Until 2026‑01‑02: u16 length of type name and payload together.
    C1,
    /// Since then: u32 length of the payload alone.
    C2,
}

/// An object that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// ASCII, at most 255 bytes; empty for an untyped blob.
    pub type_name: String,
    /// The payload, with whatever surplus bytes its sender added.
    pub payload: Vec<u8>,
}

/// Why bytes are not an object, or an object does not fit its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Type names are ASCII.
    #[error("object type name of {bytes} bytes is not ASCII text")]
    TypeNameNotText {
        /// Its length.
        bytes: usize,
    },
    /// Type names have a one byte length.
    #[error("object type name of {bytes} bytes is over the {OBJECT_TYPE_NAME_BYTES_MAX} limit")]
    TypeNameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The payload is longer than the reader accepts or the form can say.
    #[error("object payload of {bytes} bytes is over the limit of {limit_bytes}")]
    PayloadTooLong {
        /// The announced or given length.
        bytes: usize,
        /// The bound it broke.
        limit_bytes: usize,
    },
    /// The enclosing length ends inside the type name.
    #[error("object of {bytes} bytes ends inside its type name")]
    Truncated {
        /// The length of the whole.
        bytes: usize,
    },
    /// A canonical object starts with `ADC0`.
    #[error("canonical object does not start with ADC0")]
    Magic,
}

/// Magic of the canonical form (spec §5.2).
const CANONICAL_MAGIC: [u8; 4] = *b"ADC0";

/// Appends `payload` as a channel object.
///
/// # Errors
/// Refuses type names over 255 bytes or not ASCII, and payloads that the form's length cannot say
/// (C1: 65 535 bytes with the type name; C2: 4 294 967 295); `out` is then unchanged.
pub fn write_object(
    form: ChannelForm,
    type_name: &str,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), ObjectError> {
    check_type_name(type_name.as_bytes())?;
    let bytes = payload.len();
    match form {
        ChannelForm::C1 => {
            let limit_bytes = usize::from(u16::MAX) - 1 - type_name.len();
            if bytes > limit_bytes {
                return Err(ObjectError::PayloadTooLong { bytes, limit_bytes });
            }
            let whole_bytes = (1 + type_name.len() + bytes) as u16;
            out.extend_from_slice(&whole_bytes.to_be_bytes());
            put_type_name(type_name, out);
        }
        ChannelForm::C2 => {
            let Ok(payload_bytes) = u32::try_from(bytes) else {
                return Err(ObjectError::PayloadTooLong { bytes, limit_bytes: u32::MAX as usize });
            };
            put_type_name(type_name, out);
            out.extend_from_slice(&payload_bytes.to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    Ok(())
}

/// Appends the short form: type name with its length, then the payload.
///
/// # Errors
/// Refuses type names over 255 bytes or not ASCII.
pub fn write_short(type_name: &str, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ObjectError> {
    check_type_name(type_name.as_bytes())?;
    put_type_name(type_name, out);
    out.extend_from_slice(payload);
    Ok(())
}

/// Appends the canonical form: `ADC0`, then the short form.
///
/// # Errors
/// As [`write_short`].
pub fn write_canonical(
    type_name: &str,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), ObjectError> {
    check_type_name(type_name.as_bytes())?;
    out.extend_from_slice(&CANONICAL_MAGIC);
    write_short(type_name, payload, out)
}

/// Reads a canonical object that fills `bytes`; gives its type name and payload.
///
/// # Errors
/// Refuses another magic, and a type name that is cut short or not ASCII.
pub fn read_canonical(bytes: &[u8]) -> Result<(&str, &[u8]), ObjectError> {
    let short = bytes.strip_prefix(&CANONICAL_MAGIC).ok_or(ObjectError::Magic)?;
    split_type_name(short)?.ok_or(ObjectError::Truncated { bytes: bytes.len() })
}

/// An object that borrows from the bytes it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeekedObject<'a> {
    /// ASCII, at most 255 bytes; empty for an untyped blob.
    pub type_name: &'a str,
    /// The payload, with whatever surplus bytes its sender added.
    pub payload: &'a [u8],
    /// Bytes of the whole object.
    pub bytes: usize,
}

/// Finds the object that `bytes` begins with; `None` when it goes on behind `bytes`.
///
/// # Errors
/// Refuses payloads over `limit_bytes`, before they arrive, and type names that are not ASCII.
pub fn peek_object(
    form: ChannelForm,
    bytes: &[u8],
    limit_bytes: usize,
) -> Result<Option<PeekedObject<'_>>, ObjectError> {
    match form {
        ChannelForm::C1 => peek_c1(bytes, limit_bytes),
        ChannelForm::C2 => peek_c2(bytes, limit_bytes),
    }
}

fn peek_c1(bytes: &[u8], limit_bytes: usize) -> Result<Option<PeekedObject<'_>>, ObjectError> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let whole_bytes = usize::from(u16::from_be_bytes(*length));
    let Some(&name_bytes) = rest.first().filter(|_| whole_bytes > 0) else {
        let empty = ObjectError::Truncated { bytes: 0 };
        return if whole_bytes == 0 { Err(empty) } else { Ok(None) };
    };
    let Some(payload_bytes) = whole_bytes.checked_sub(1 + usize::from(name_bytes)) else {
        return Err(ObjectError::Truncated { bytes: whole_bytes });
    };
    if payload_bytes > limit_bytes {
        return Err(ObjectError::PayloadTooLong { bytes: payload_bytes, limit_bytes });
    }
    let Some(whole) = rest.get(..whole_bytes) else { return Ok(None) };
    let Some((type_name, payload)) = split_type_name(whole)? else { return Ok(None) };
    Ok(Some(PeekedObject { type_name, payload, bytes: 2 + whole_bytes }))
}

fn peek_c2(bytes: &[u8], limit_bytes: usize) -> Result<Option<PeekedObject<'_>>, ObjectError> {
    let Some((type_name, rest)) = split_type_name(bytes)? else { return Ok(None) };
    let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let payload_bytes = u32::from_be_bytes(*length) as usize;
    if payload_bytes > limit_bytes {
        return Err(ObjectError::PayloadTooLong { bytes: payload_bytes, limit_bytes });
    }
    let Some(payload) = rest.get(..payload_bytes) else { return Ok(None) };
    let bytes = 1 + type_name.len() + 4 + payload_bytes;
    Ok(Some(PeekedObject { type_name, payload, bytes }))
}

fn split_type_name(bytes: &[u8]) -> Result<Option<(&str, &[u8])>, ObjectError> {
    let Some((&name_bytes, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((name, rest)) = rest.split_at_checked(usize::from(name_bytes)) else {
        return Ok(None);
    };
    Ok(Some((check_type_name(name)?, rest)))
}

fn check_type_name(name: &[u8]) -> Result<&str, ObjectError> {
    let bytes = name.len();
    if bytes > OBJECT_TYPE_NAME_BYTES_MAX {
        return Err(ObjectError::TypeNameTooLong { bytes });
    }
    match core::str::from_utf8(name) {
        Ok(text) if text.is_ascii() => Ok(text),
        Ok(_) | Err(_) => Err(ObjectError::TypeNameNotText { bytes }),
    }
}

fn put_type_name(type_name: &str, out: &mut Vec<u8>) {
    out.push(type_name.len() as u8);
    out.extend_from_slice(type_name.as_bytes());
}

/// Reassembles the objects of a channel from however its bytes arrive.
#[derive(Debug)]
pub struct ObjectReader {
    form: ChannelForm,
    limit_bytes: usize,
    buffer: Vec<u8>,
    start: usize,
    failed: Option<ObjectError>,
}

impl ObjectReader {
    /// Starts at the beginning of a channel; objects with payloads over `limit_bytes` are refused.
    pub const fn new(form: ChannelForm, limit_bytes: usize) -> Self {
        Self { form, limit_bytes, buffer: Vec::new(), start: 0, failed: None }
    }

    /// Adds bytes of the channel. The reader keeps all of them until [`Self::next`] takes their
    /// objects, so callers take everything after each push.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Takes the next whole object; `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`ObjectError`] at the first malformed or over-long object, and the same ever after.
    #[expect(clippy::should_implement_trait, reason = "a refused object is not an iterator's end")]
    pub fn next(&mut self) -> Result<Option<Object>, ObjectError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        match peek_object(self.form, rest, self.limit_bytes) {
            Ok(None) => Ok(None),
            Ok(Some(PeekedObject { type_name, payload, bytes })) => {
                let object =
                    Object { type_name: type_name.to_owned(), payload: payload.to_owned() };
                self.start += bytes;
                Ok(Some(object))
            }
            Err(error) => {
                self.failed = Some(error);
                self.buffer = Vec::new();
                self.start = 0;
                Err(error)
            }
        }
    }

    /// Tells whether the channel may end here, that is between two objects.
    pub fn at_boundary(&self) -> bool {
        self.failed.is_none() && self.start == self.buffer.len()
    }

    /// Gives the bytes that belong to no object taken so far, for what follows the channel.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.buffer.drain(..self.start);
        self.buffer
    }
}

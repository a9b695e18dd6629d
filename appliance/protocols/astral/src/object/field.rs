//! Fields inside an object's payload (spec §0.2, §5.1): numbers, strings, identities, presence.
//!
//! Called by whoever reads or writes an object's payload. Readers borrow, and bound every length
//! by the payload itself; writers append to the caller's buffer.

use crate::identity::{Identity, IdentityError};
use crate::limits::IDENTITY_BYTES;

/// Why a payload's field could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The payload ends inside the field.
    #[error("payload ends inside a {field} field: {needed_bytes} bytes needed, {left_bytes} left")]
    Truncated {
        /// The field's type in the specification's notation.
        field: &'static str,
        /// Bytes that the field takes from here.
        needed_bytes: usize,
        /// Bytes that are left.
        left_bytes: usize,
    },
    /// The value is longer than the field's length can say.
    #[error("{bytes} bytes do not fit a {field} field")]
    TooLong {
        /// The field's type in the specification's notation.
        field: &'static str,
        /// The value's length.
        bytes: usize,
    },
    /// The layout cannot leave the field out, and there is no value for it.
    #[error("there is no {field} to write")]
    Absent {
        /// The field's name.
        field: &'static str,
    },
    /// The 33 bytes are no identity.
    #[error("identity field is malformed")]
    Identity(#[from] IdentityError),
}

/// Reads fields from the front of a payload.
#[derive(Clone, Copy, Debug)]
pub struct FieldReader<'a> {
    rest: &'a [u8],
}

impl<'a> FieldReader<'a> {
    /// Starts at the first byte of `payload`.
    pub const fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    /// Gives what no field has taken yet; in a payload it is surplus and ignored (spec §5.3).
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads a byte.
    ///
    /// # Errors
    /// [`FieldError::Truncated`], as every other method here.
    pub fn u8(&mut self) -> Result<u8, FieldError> {
        self.array("u8").map(u8::from_be_bytes)
    }

    /// Reads a 16-bit number.
    ///
    /// # Errors
    /// [`FieldError::Truncated`].
    pub fn u16(&mut self) -> Result<u16, FieldError> {
        self.array("u16").map(u16::from_be_bytes)
    }

    /// Reads a 32-bit number.
    ///
    /// # Errors
    /// [`FieldError::Truncated`].
    pub fn u32(&mut self) -> Result<u32, FieldError> {
        self.array("u32").map(u32::from_be_bytes)
    }

    /// Reads a 64-bit number.
    ///
    /// # Errors
    /// [`FieldError::Truncated`].
    pub fn u64(&mut self) -> Result<u64, FieldError> {
        self.array("u64").map(u64::from_be_bytes)
    }

    /// Reads a truth value; any non-zero byte is true.
    ///
    /// # Errors
    /// [`FieldError::Truncated`].
    pub fn boolean(&mut self) -> Result<bool, FieldError> {
        self.array("bool").map(|[byte]| byte != 0)
    }

    /// Reads bytes with a one byte length.
    ///
    /// # Errors
    /// [`FieldError::Truncated`].
    pub fn s8(&mut self) -> Result<&'a [u8], FieldError> {
        let bytes = self.u8()?;
        self.bytes("s8", usize::from(bytes))
    }

    /// Reads a string or bytes with a two byte length (`s16` and `b16` have the same layout).
    ///
    /// # Errors
    /// [`FieldError::Truncated`].
    pub fn s16(&mut self) -> Result<&'a [u8], FieldError> {
        let bytes = self.u16()?;
        self.bytes("s16", usize::from(bytes))
    }

    /// Reads a string or bytes with a four byte length (`s32` and `b32` have the same layout).
    ///
    /// # Errors
    /// [`FieldError::Truncated`].
    pub fn s32(&mut self) -> Result<&'a [u8], FieldError> {
        let bytes = self.u32()?;
        self.bytes("s32", bytes as usize)
    }

    /// Reads an identity.
    ///
    /// # Errors
    /// [`FieldError::Truncated`], or [`FieldError::Identity`] when the bytes are no curve point.
    pub fn id33(&mut self) -> Result<Identity, FieldError> {
        let bytes = self.array::<IDENTITY_BYTES>("id33")?;
        Ok(Identity::from_bytes(&bytes)?)
    }

    /// Reads the presence byte in front of an optional field of a new-style structure.
    ///
    /// # Errors
    /// [`FieldError::Truncated`].
    pub fn presence(&mut self) -> Result<bool, FieldError> {
        self.array("presence").map(|[byte]| byte != 0)
    }

    /// Takes `bytes` bytes as they are.
    ///
    /// # Errors
    /// [`FieldError::Truncated`], naming `field`.
    pub fn bytes(&mut self, field: &'static str, bytes: usize) -> Result<&'a [u8], FieldError> {
        let Some((taken, rest)) = self.rest.split_at_checked(bytes) else {
            let left_bytes = self.rest.len();
            return Err(FieldError::Truncated { field, needed_bytes: bytes, left_bytes });
        };
        self.rest = rest;
        Ok(taken)
    }

    fn array<const BYTES: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; BYTES], FieldError> {
        let Some((taken, rest)) = self.rest.split_first_chunk() else {
            let left_bytes = self.rest.len();
            return Err(FieldError::Truncated { field, needed_bytes: BYTES, left_bytes });
        };
        self.rest = rest;
        Ok(*taken)
    }
}

/// Appends fields to a payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldWriter {
    payload: Vec<u8>,
}

impl FieldWriter {
    /// Starts with an empty payload.
    pub const fn new() -> Self {
        Self { payload: Vec::new() }
    }

    /// Gives the payload written.
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// Appends a 16-bit number.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a 32-bit number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a 64-bit number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a truth value as 0 or 1; presence bytes are the same.
    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.bytes(&[u8::from(value)])
    }

    /// Appends an identity.
    pub fn id33(&mut self, identity: &Identity) -> &mut Self {
        self.bytes(identity.as_bytes())
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.payload.extend_from_slice(bytes);
        self
    }

    /// Appends bytes behind a one byte length.
    ///
    /// # Errors
    /// [`FieldError::TooLong`] over 255 bytes.
    pub fn s8(&mut self, value: &[u8]) -> Result<&mut Self, FieldError> {
        let Ok(bytes) = u8::try_from(value.len()) else {
            return Err(FieldError::TooLong { field: "s8", bytes: value.len() });
        };
        Ok(self.u8(bytes).bytes(value))
    }

    /// Appends bytes behind a two byte length.
    ///
    /// # Errors
    /// [`FieldError::TooLong`] over 65 535 bytes.
    pub fn s16(&mut self, value: &[u8]) -> Result<&mut Self, FieldError> {
        let Ok(bytes) = u16::try_from(value.len()) else {
            return Err(FieldError::TooLong { field: "s16", bytes: value.len() });
        };
        Ok(self.u16(bytes).bytes(value))
    }

    /// Appends bytes behind a four byte length.
    ///
    /// # Errors
    /// [`FieldError::TooLong`] over 4 294 967 295 bytes.
    pub fn s32(&mut self, value: &[u8]) -> Result<&mut Self, FieldError> {
        let Ok(bytes) = u32::try_from(value.len()) else {
            return Err(FieldError::TooLong { field: "s32", bytes: value.len() });
        };
        Ok(self.u32(bytes).bytes(value))
    }
}

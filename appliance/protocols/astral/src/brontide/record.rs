//! Records: an encrypted length, an encrypted body, and keys that change every 500 of them
//! (spec §3.3).

use std::fmt;

use ring::hkdf;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::aead::{AeadKey, AeadSuite, KEY_BYTES};
use crate::limits::{
    KEY_ROTATION_OPERATIONS, RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES,
    RECORD_PLAINTEXT_MAX_BYTES, TAG_BYTES,
};

/// Seals the records of one direction.
pub struct Sealer {
    pub(super) direction: Direction,
    pub(super) failed: bool,
}

impl Sealer {
    /// Returns `None` only if a back end of the suite refuses a 32-byte key.
    pub(super) fn new(
        suite: AeadSuite,
        key: &[u8; KEY_BYTES],
        chaining_key: &[u8; KEY_BYTES],
    ) -> Option<Self> {
        Some(Self { direction: Direction::new(suite, key, chaining_key)?, failed: false })
    }

    /// Seals a record in place. `record` is 18 bytes of room, the plaintext of 1 to 65535 bytes,
    /// and 16 bytes of room; all of it goes on the wire afterwards.
    ///
    /// # Errors
    /// For a record without room for its overhead, without plaintext or with too much: nothing was
    /// touched then. [`SealError::Primitive`] ends the direction.
    pub fn seal_in_place(&mut self, record: &mut [u8]) -> Result<(), SealError> {
        let bytes = record.len().checked_sub(RECORD_OVERHEAD_BYTES).ok_or(SealError::NoRoom)?;
        if bytes == 0 {
            return Err(SealError::Empty);
        }
        let Ok(length) = u16::try_from(bytes) else {
            return Err(SealError::TooLong { bytes });
        };
        if self.failed {
            return Err(SealError::Primitive);
        }
        self.failed = true;
        self.seal_parts(length, record).ok_or(SealError::Primitive)?;
        self.failed = false;
        Ok(())
    }

    fn seal_parts(&mut self, length: u16, record: &mut [u8]) -> Option<()> {
        let (header, rest) = record.split_first_chunk_mut::<RECORD_HEADER_BYTES>()?;
        let (header_text, header_tag) = header.split_last_chunk_mut::<TAG_BYTES>()?;
        let (body, body_tag) = rest.split_last_chunk_mut::<TAG_BYTES>()?;
        header_text.copy_from_slice(&length.to_be_bytes());
        self.direction.seal(header_text, header_tag)?;
        self.direction.seal(body, body_tag)
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> ([u8; KEY_BYTES], [u8; KEY_BYTES]) {
        self.direction.keys()
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("operations", &self.direction.operations)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Opens the records of one direction, header and body in turn.
pub struct Opener {
    pub(super) direction: Direction,
    pub(super) due: Due,
}

/// What an [`Opener`] takes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Header,
    /// A body whose ciphertext and tag are this long together.
    Body {
        bytes: usize,
    },
    /// Nothing any more: a record was bad.
    Nothing,
}

impl Opener {
    /// Returns `None` only if a back end of the suite refuses a 32-byte key.
    pub(super) fn new(
        suite: AeadSuite,
        key: &[u8; KEY_BYTES],
        chaining_key: &[u8; KEY_BYTES],
    ) -> Option<Self> {
        Some(Self { direction: Direction::new(suite, key, chaining_key)?, due: Due::Header })
    }

    /// Opens a record's length and returns the bytes of its plaintext, 0 to 65535; the body on the
    /// wire has [`TAG_BYTES`] more.
    ///
    /// # Errors
    /// For a header that does not authenticate, one that is not due, and everything after an error.
    pub fn open_header(
        &mut self,
        header: &[u8; RECORD_HEADER_BYTES],
    ) -> Result<usize, RecordError> {
        match std::mem::replace(&mut self.due, Due::Nothing) {
            Due::Header => {}
            Due::Body { .. } => return Err(RecordError::OutOfOrder),
            Due::Nothing => return Err(RecordError::Failed),
        }
        let mut header = *header;
        let text = self.direction.open(&mut header).ok_or(RecordError::Header)?;
        let length = text.first_chunk::<2>().ok_or(RecordError::Header)?;
        let bytes = usize::from(u16::from_be_bytes(*length));
        self.due = Due::Body { bytes: bytes + TAG_BYTES };
        Ok(bytes)
    }

    /// Opens a record's body in place: all of its ciphertext with the tag. Afterwards the plaintext
    /// stands at its start and the last 16 bytes mean nothing.
    ///
    /// # Errors
    /// For a body that does not authenticate, has not the length of its header or is not due, and
    /// everything after an error. The content of `body` is meaningless then.
    pub fn open_body(&mut self, body: &mut [u8]) -> Result<(), RecordError> {
        let bytes = match std::mem::replace(&mut self.due, Due::Nothing) {
            Due::Body { bytes } => bytes,
            Due::Header => return Err(RecordError::OutOfOrder),
            Due::Nothing => return Err(RecordError::Failed),
        };
        if body.len() != bytes {
            return Err(RecordError::BodyLength { expected: bytes, got: body.len() });
        }
        self.direction.open(body).ok_or(RecordError::Body)?;
        self.due = Due::Header;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> ([u8; KEY_BYTES], [u8; KEY_BYTES]) {
        self.direction.keys()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("operations", &self.direction.operations)
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

/// The cipher state of one direction.
pub(super) struct Direction {
    pub(super) key: AeadKey,
    /// Erased when replaced or dropped, like the key.
    pub(super) chaining_key: Zeroizing<[u8; KEY_BYTES]>,
    /// AEAD operations done with the present key: the next nonce.
    pub(super) operations: u64,
}

impl Direction {
    pub(super) fn new(
        suite: AeadSuite,
        key: &[u8; KEY_BYTES],
        chaining_key: &[u8; KEY_BYTES],
    ) -> Option<Self> {
        Some(Self {
            key: AeadKey::new(suite, key)?,
            chaining_key: Zeroizing::new(*chaining_key),
            operations: 0,
        })
    }

    /// Encrypts `text` in place and writes its tag.
    #[inline]
    fn seal(&mut self, text: &mut [u8], tag: &mut [u8; TAG_BYTES]) -> Option<()> {
        self.key.seal(self.operations, text, tag)?;
        self.count()
    }

    /// Decrypts `text` in place, its tag at the end, and returns the plaintext.
    #[inline]
    fn open<'a>(&mut self, text: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let opened = self.key.open(self.operations, text)?;
        self.count()?;
        Some(opened)
    }

    #[inline]
    fn count(&mut self) -> Option<()> {
        self.operations += 1;
        if self.operations == KEY_ROTATION_OPERATIONS { self.rotate() } else { Some(()) }
    }

    /// Replaces chaining key and key by HKDF(salt = chaining key, ikm = key) and starts counting
    /// anew (spec §3.3).
    #[cold]
    fn rotate(&mut self) -> Option<()> {
        let mut pair = Zeroizing::new([0; 2 * KEY_BYTES]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, &*self.chaining_key)
            .extract(self.key.expose_bytes())
            .expand(&[], PairLength)
            .and_then(|output| output.fill(&mut *pair))
            .ok()?;
        let (chaining_key, key) = pair.split_at(KEY_BYTES);
        self.chaining_key.copy_from_slice(chaining_key);
        self.key.replace(key.first_chunk()?)?;
        self.operations = 0;
        Some(())
    }

    #[cfg(test)]
    fn keys(&self) -> ([u8; KEY_BYTES], [u8; KEY_BYTES]) {
        (*self.key.expose_bytes(), *self.chaining_key)
    }
}

/// Length of a rotation's output: a chaining key and a key.
struct PairLength;

impl hkdf::KeyType for PairLength {
    fn len(&self) -> usize {
        2 * KEY_BYTES
    }
}

/// Says why a record could not be sealed; always our own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// The plaintext is empty: stock nodes take that for the end of the stream (spec §3.3).
    #[error("record has no plaintext")]
    Empty,
    /// The buffer has not even room for the overhead.
    #[error("record buffer is shorter than {RECORD_OVERHEAD_BYTES} bytes")]
    NoRoom,
    /// The cipher failed, now or earlier.
    #[error("record cipher failed")]
    Primitive,
    /// The plaintext is longer than a record can say.
    #[error("record plaintext is {bytes} bytes long, more than {RECORD_PLAINTEXT_MAX_BYTES}")]
    TooLong {
        /// Length of the plaintext.
        bytes: usize,
    },
}

/// Says why a record could not be opened; each one closes the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The peer's body does not authenticate.
    #[error("record body does not authenticate")]
    Body,
    /// The caller passed a body of another length than the header announced.
    #[error("record body is {got} bytes long, not {expected}")]
    BodyLength {
        /// Bytes of ciphertext and tag after the header.
        expected: usize,
        /// Bytes passed.
        got: usize,
    },
    /// An earlier record was bad.
    #[error("an earlier record was bad")]
    Failed,
    /// The peer's length header does not authenticate.
    #[error("record header does not authenticate")]
    Header,
    /// The caller mixed up header and body.
    #[error("record header and body were opened out of order")]
    OutOfOrder,
}

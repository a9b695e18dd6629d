//! The one form of CBOR that A2AL nodes write (specification §2): definite lengths, shortest heads,
//! maps sorted by the length of their keys and then bytewise, no tags.
//!
//! Owns reading and writing of single items; what they mean is the callers' part. A codec of its own
//! because nodes verify signatures over bytes that they encode again (§2.3): a reader has to refuse
//! every other form of the same value, tell `null` from an empty list, give the raw bytes of an item
//! that is signed, and bound depth before it looks further. General libraries accept all forms.

mod reader;
mod writer;

pub use reader::{Fields, Key, Reader};
pub use writer::Writer;
pub(crate) use writer::head_bytes;

/// What is wrong with an item; its writer is to blame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CborError {
    /// A required key is missing.
    #[error("a required key is missing")]
    MissingKey,
    /// The item has another form than the canonical one.
    #[error("not the canonical form")]
    NotCanonical,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// A number is out of its field's range, or a list longer than its bound.
    #[error("out of range")]
    OutOfRange,
    /// Arrays and maps stand deeper than [`crate::limits::CBOR_DEPTH_MAX`] levels.
    #[error("nested too deeply")]
    TooDeep,
    /// Bytes follow the item.
    #[error("bytes behind the item")]
    TrailingBytes,
    /// The item ends early.
    #[error("cut off")]
    Truncated,
    /// A string has another length than its field demands.
    #[error("wrong length")]
    WrongLength,
    /// The item has another type than its field demands.
    #[error("wrong type")]
    WrongType,
}

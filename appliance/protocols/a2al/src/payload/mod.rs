//! What records of each type say (specification §5.7 to §5.10).
//!
//! Owns the payloads' forms and bounds. Called when a record is checked, published or shown. An
//! absent key reads as empty here, because a payload is signed as bytes and never encoded again.

mod endpoint;
mod mailbox;
mod profile;
pub mod sealing;
mod topic;

pub use endpoint::{EndpointPayload, NatType, endpoint_address};
pub use mailbox::MailboxPayload;
pub use profile::ProfilePayload;
pub use topic::{TopicFilter, TopicPayload};

use crate::cbor::{CborError, Reader, Writer};
use crate::limits::PAYLOAD_LIST_MAX;

/// What is wrong with a payload; its publisher is to blame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PayloadError {
    /// A brief that has too many characters.
    #[error("the brief is too long")]
    BriefTooLong,
    /// A topic without a name.
    #[error("the topic is empty")]
    EmptyTopic,
    /// Bytes of another form.
    #[error("not a payload: {0}")]
    Malformed(#[from] CborError),
    /// A NAT type that is not known.
    #[error("the NAT type is unknown")]
    NatType,
    /// More bytes than the type may have.
    #[error("the payload is too long")]
    TooLong,
    /// A hub's address that is too long, or too many of them.
    #[error("too many or too long hub addresses")]
    Signals,
    /// A TURN address that is too long, or too many of them.
    #[error("too many or too long TURN addresses")]
    Turns,
}

/// Reads a list of texts; `null` is kept apart from an empty one.
fn texts(reader: &mut Reader<'_>) -> Result<Option<Vec<String>>, CborError> {
    reader.list(PAYLOAD_LIST_MAX, |reader| Ok(reader.text()?.to_owned()))
}

fn write_texts(writer: &mut Writer, texts: Option<&[String]>) {
    writer.list(texts, |writer, text| {
        writer.text(text);
    });
}

//! How a connection to an agent begins, and how mail is delivered over one (specification §19.3).

use std::net::SocketAddr;

use crate::address::Address;
use crate::cbor::CborError;
use crate::hash::sha256;
use crate::limits::{
    ADDRESS_BYTES, CONTROL_MESSAGE_BYTES_MAX, CONTROL_MESSAGES_MAX, STREAM_MESSAGE_BYTES_MAX,
};
use crate::record::SignedRecord;
use crate::socket_address;

const WITH_CONTROL: &[u8; 4] = b"a2r2";
const WITHOUT_CONTROL: &[u8; 4] = b"a2r1";
const MAIL: &[u8; 4] = b"a2mb";
/// The answer to a mail that came, also if it had come before.
pub const MAIL_ACCEPTED: u8 = 1;

const OBSERVED_ADDRESS: u8 = 1;
const AGENT_INFO_HINT: u8 = 2;
const AGENT_INFO: u8 = 3;

/// The first words of the first stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AgentOpening {
    /// Which agent is called.
    pub target: Address,
    /// Whether control messages follow; the older form has none.
    pub has_control: bool,
}

/// What either side says on the first stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ControlMessage {
    /// Where the dialler is seen.
    ObservedAddress(SocketAddr),
    /// What the dialler has of an agent.
    AgentInfoHint {
        /// Which one.
        agent: Address,
        /// The highest sequence number of its topic records.
        sequence: u64,
    },
    /// A topic record newer than that.
    AgentInfo(Box<SignedRecord>),
}

/// A mailbox record that is handed over without the DHT.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MailDelivery {
    /// The record; its message's id is the digest of its payload.
    pub record: SignedRecord,
}

/// Why bytes are not what a stream should say; the other side is to blame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ControlError {
    /// The first bytes name no form that is known.
    #[error("the stream's first bytes are not known")]
    Prefix,
    /// It ends early, goes on, or is longer than may be.
    #[error("a length does not fit")]
    Length,
    /// A record or an address of another form.
    #[error("not the form: {0}")]
    Malformed(#[from] CborError),
    /// The message's id is not its payload's.
    #[error("the message has another id than it says")]
    OtherMessage,
}

impl AgentOpening {
    /// Reads the opening; what is behind it is left.
    ///
    /// # Errors
    /// [`ControlError::Prefix`] and [`ControlError::Length`].
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), ControlError> {
        let (prefix, rest) = bytes.split_first_chunk().ok_or(ControlError::Length)?;
        let has_control = match prefix {
            WITH_CONTROL => true,
            WITHOUT_CONTROL => false,
            _ => return Err(ControlError::Prefix),
        };
        let (target, rest) =
            rest.split_first_chunk::<ADDRESS_BYTES>().ok_or(ControlError::Length)?;
        Ok((Self { target: Address(*target), has_control }, rest))
    }

    /// Writes the opening.
    pub fn encode(&self) -> Vec<u8> {
        let prefix = if self.has_control { WITH_CONTROL } else { WITHOUT_CONTROL };
        [&prefix[..], &self.target.0].concat()
    }
}

impl ControlMessage {
    /// Writes the message with its head.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload) = match self {
            Self::ObservedAddress(at) => (OBSERVED_ADDRESS, socket_address::wire(*at)),
            Self::AgentInfoHint { agent, sequence } => {
                (AGENT_INFO_HINT, [&agent.0[..], &sequence.to_be_bytes()].concat())
            }
            Self::AgentInfo(record) => (AGENT_INFO, record.encode()),
        };
        // A record of a datagram is shorter than a message may be.
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        [&[kind][..], &length.to_be_bytes(), &payload].concat()
    }

    /// Reads the payload of a type; none if the type is one of later versions.
    fn of(kind: u8, payload: &[u8]) -> Result<Option<Self>, ControlError> {
        Ok(Some(match kind {
            OBSERVED_ADDRESS => Self::ObservedAddress(socket_address::of_wire(payload)?),
            AGENT_INFO_HINT => {
                let (agent, sequence) =
                    payload.split_first_chunk::<ADDRESS_BYTES>().ok_or(ControlError::Length)?;
                let sequence = sequence.try_into().map_err(|_other| ControlError::Length)?;
                let sequence = u64::from_be_bytes(sequence);
                Self::AgentInfoHint { agent: Address(*agent), sequence }
            }
            AGENT_INFO => Self::AgentInfo(Box::new(SignedRecord::decode(payload)?)),
            _ => return Ok(None),
        }))
    }
}

/// Reads all messages of one side. Types that are not known are skipped.
///
/// # Errors
/// [`ControlError::Length`] and [`ControlError::Malformed`].
pub fn control_messages(mut bytes: &[u8]) -> Result<Vec<ControlMessage>, ControlError> {
    let mut messages = Vec::new();
    for _ in 0..CONTROL_MESSAGES_MAX {
        let Some((head, rest)) = bytes.split_first_chunk::<3>() else {
            break;
        };
        let [kind, high, low] = *head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > CONTROL_MESSAGE_BYTES_MAX {
            return Err(ControlError::Length);
        }
        let (payload, rest) = rest.split_at_checked(length).ok_or(ControlError::Length)?;
        messages.extend(ControlMessage::of(kind, payload)?);
        bytes = rest;
    }
    if bytes.is_empty() { Ok(messages) } else { Err(ControlError::Length) }
}

impl MailDelivery {
    /// Reads everything that a stream says which delivers mail. Whether the record holds, and is for
    /// somebody here, is the caller's to find out (D-14).
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        let (prefix, rest) = bytes.split_first_chunk().ok_or(ControlError::Length)?;
        if prefix != MAIL {
            return Err(ControlError::Prefix);
        }
        let (message_id, rest) = rest.split_first_chunk::<32>().ok_or(ControlError::Length)?;
        let (length, record) = rest.split_first_chunk::<4>().ok_or(ControlError::Length)?;
        let length = usize::try_from(u32::from_be_bytes(*length));
        if length != Ok(record.len()) || record.len() > STREAM_MESSAGE_BYTES_MAX {
            return Err(ControlError::Length);
        }
        let record = SignedRecord::decode(record)?;
        if sha256(&[&record.payload]) != *message_id {
            return Err(ControlError::OtherMessage);
        }
        Ok(Self { record })
    }

    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let record = self.record.encode();
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
        [&MAIL[..], &sha256(&[&self.record.payload]), &length.to_be_bytes(), &record].concat()
    }
}

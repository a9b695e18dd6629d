//! What can go wrong with a link, a session or a gateway operation, and who caused it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use waystation_astral::brontide::{HandshakeError, RecordError, SealError};
use waystation_astral::frame::{EncodeError, FrameError};
use waystation_astral::gateway::SocketObjectError;
use waystation_astral::gateway::idle::IdleError;
use waystation_astral::negotiation::NegotiationError;
use waystation_astral::object::ObjectError;

/// What a peer was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Step {
    #[error("handshake")]
    Handshake,
    #[error("negotiation")]
    Negotiation,
    #[error("query")]
    Query,
    #[error("waiting for a query")]
    Accept,
    #[error("ping")]
    Ping,
    #[error("gateway operation")]
    Operation,
    #[error("idle connection")]
    Idle,
    #[error("starting a thread")]
    Thread,
    #[error("preparing the transport")]
    Transport,
}

/// Why a link is down. Every session and every waiting call of the link gets the same value.
#[derive(Debug, Error)]
pub enum LinkFailure {
    #[error("this side closed it")]
    ClosedHere,
    #[error("the other side closed it")]
    ClosedByPeer,
    #[error("the other side closed it within a record or a frame")]
    Truncated,
    #[error("receiving failed")]
    Receive(#[source] io::Error),
    #[error("sending failed")]
    Send(#[source] io::Error),
    #[error("a received record is bad")]
    Record(#[from] RecordError),
    #[error("a received frame is bad")]
    Frame(#[from] FrameError),
    #[error("a record could not be sealed")]
    Seal(#[from] SealError),
    #[error("a frame could not be encoded")]
    Encode(#[from] EncodeError),
    #[error("no pong for {} s", .0.as_secs())]
    PongTimeout(Duration),
    #[error("the other side does not read the answers it asks for ({0} bytes waiting)")]
    AnswersUnread(usize),
}

/// A failed call of this crate.
#[derive(Debug, Error)]
pub enum PeerError {
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{step}: input or output failed")]
    Io {
        step: Step,
        #[source]
        source: io::Error,
    },
    #[error("{step}: the other side ended the connection")]
    Ended { step: Step },
    #[error("{step}: not finished in time")]
    Timeout { step: Step },
    #[error("the operating system has no random bytes")]
    Randomness,
    #[error("handshake failed")]
    Handshake(#[from] HandshakeError),
    #[error("negotiation failed")]
    Negotiation(#[from] NegotiationError),
    #[error("a record of the negotiation is bad")]
    Record(#[from] RecordError),
    #[error("a record could not be sealed")]
    Seal(#[from] SealError),
    #[error("a frame could not be encoded")]
    Encode(#[from] EncodeError),
    #[error("the link is down: {0}")]
    LinkDown(Arc<LinkFailure>),
    #[error("the query was rejected with code {code}")]
    Rejected { code: u8 },
    #[error("the session was reset before the query was answered")]
    ResetBeforeResponse,
    #[error("the link carries {0} sessions already")]
    SessionsFull(usize),
    #[error("{0} pings wait for their pong already")]
    PingsFull(usize),
    #[error("the gateway refused: {text}")]
    Refused {
        /// The other side's own words; they have no other form on the wire.
        text: String,
    },
    #[error("the gateway answered with an object of type {type_name:?}")]
    UnexpectedObject { type_name: String },
    #[error("the gateway's answer is not an object")]
    Object(#[from] ObjectError),
    #[error("the answer has more than {0} objects")]
    TooManyObjects(usize),
    #[error("the gateway's socket object is malformed")]
    SocketObject(#[from] SocketObjectError),
    #[error("the gateway's socket is not on the tcp network")]
    SocketNetwork,
    #[error("the subscription was answered with something else than status ok")]
    Subscription,
    #[error("an idle connection carried something else than its protocol")]
    Idle(#[from] IdleError),
    #[error("an idle connection carried a message only this side may send, or pipe bytes early")]
    IdleOrder,
    #[error("the idle pool has no live slot left")]
    PoolExhausted,
}

impl PeerError {
    /// Sorts an error of a read under a deadline.
    pub(crate) fn from_read(step: Step, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout { step },
            io::ErrorKind::UnexpectedEof => Self::Ended { step },
            _ => Self::Io { step, source },
        }
    }
}

/// Why a session's stream ended, as carried inside the [`io::Error`] of a read or write.
#[derive(Clone, Debug, Error)]
pub enum SessionError {
    #[error("the other side reset the session")]
    ResetByPeer,
    #[error("this side reset the session")]
    ResetHere,
    #[error("the other side sent more than its credit")]
    CreditExceeded,
    #[error("the link is down: {0}")]
    LinkDown(Arc<LinkFailure>),
}

impl From<SessionError> for io::Error {
    fn from(error: SessionError) -> Self {
        let kind = match error {
            SessionError::ResetByPeer => io::ErrorKind::BrokenPipe,
            SessionError::ResetHere => io::ErrorKind::NotConnected,
            SessionError::CreditExceeded => io::ErrorKind::InvalidData,
            SessionError::LinkDown(_) => io::ErrorKind::ConnectionAborted,
        };
        Self::new(kind, error)
    }
}

//! One stream of the io_uring port: which operations are in flight on it, and what comes after.
//!
//! Owned by [`super::UringPort`], on its thread.

use super::outgoing::Outgoing;
use super::token::{Operation, Token};
use crate::port::{ReceiveMode, StreamKey};
use std::net::TcpStream;

/// Where a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Closed by the caller; a send may be in flight, receiving is being cancelled.
    Closing,
    /// Given back to the caller once nothing is in flight.
    Detaching,
    /// Our direction is ended, the peer's thrown away. The number tells lingerings apart.
    Lingering(u64),
    /// Closed as soon as what is in flight was cancelled.
    Ending,
    /// No descriptor; the last event waits to be returned.
    Gone,
}

/// The receive operation of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Idle,
    Once,
    Multishot,
}

/// The send of a stream.
#[derive(Debug)]
pub(super) enum Sending {
    Nothing,
    InFlight(Box<Outgoing>),
    /// The send ended; its event waits to be returned.
    Reported,
}

#[derive(Debug)]
pub(super) struct Stream {
    /// `None` in [`Phase::Gone`] only.
    pub(super) socket: Option<TcpStream>,
    /// Tells the users of a slot apart, in tokens.
    pub(super) generation: u32,
    pub(super) mode: ReceiveMode,
    pub(super) phase: Phase,
    pub(super) receiving: Receiving,
    pub(super) sending: Sending,
    /// One buffer was asked for, in mode `OnRequest`.
    pub(super) requested: bool,
    /// End of stream or a failure was seen.
    pub(super) receive_ended: bool,
    /// The last receive left nothing in the socket.
    pub(super) drained: bool,
    /// On the port's list of streams that wait for a buffer.
    pub(super) starved: bool,
    /// A poll of a lingering stream is in flight.
    pub(super) polling: bool,
    /// Cancellations in flight.
    pub(super) cancels: u32,
}

impl Stream {
    pub(super) fn new(socket: TcpStream, generation: u32, mode: ReceiveMode) -> Self {
        Self {
            socket: Some(socket),
            generation,
            mode,
            phase: Phase::Open,
            receiving: Receiving::Idle,
            sending: Sending::Nothing,
            requested: false,
            receive_ended: false,
            drained: false,
            starved: false,
            polling: false,
            cancels: 0,
        }
    }

    /// The token of an operation on this stream.
    pub(super) fn token(&self, operation: Operation, key: StreamKey) -> Token {
        Token { operation, generation: self.generation, index: key.0 }
    }

    /// Whether a receive operation should be in flight and is not.
    pub(super) fn wants_to_receive(&self) -> bool {
        let asked = self.requested || self.mode == ReceiveMode::Continuous;
        asked
            && self.phase == Phase::Open
            && self.receiving == Receiving::Idle
            && !self.receive_ended
            && !self.starved
    }

    /// Whether the kernel is done with the stream and its send was reported.
    pub(super) fn is_quiet(&self) -> bool {
        self.receiving == Receiving::Idle
            && matches!(self.sending, Sending::Nothing)
            && !self.polling
            && self.cancels == 0
    }
}

//! One stream of the epoll port: what it waits for, and how its segments reach the socket.
//!
//! Owned by [`super::EpollPort`], on its thread.

use crate::port::arena::Arena;
use crate::port::{ReceiveMode, SEND_SEGMENTS_MAX, Segment, Segments};
use arrayvec::ArrayVec;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use std::io::{self, IoSlice};
use std::net::TcpStream;

/// Where a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Closed by the caller, a send still in flight.
    Closing,
    /// Given back to the caller once no send is in flight.
    Detaching,
    /// Our direction is ended, the peer's thrown away. The number tells lingerings apart.
    Lingering(u64),
    /// No descriptor; the last event waits to be returned.
    Gone,
}

/// The send of a stream.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each short send")]
pub(super) enum Outgoing {
    Nothing,
    /// The socket took `sent` bytes only.
    Rest {
        segments: Segments,
        sent: usize,
    },
    /// The send ended; its event waits to be returned.
    Reported,
}

#[derive(Debug)]
pub(super) struct Stream {
    /// `None` in [`Phase::Gone`] only.
    pub(super) socket: Option<TcpStream>,
    pub(super) mode: ReceiveMode,
    pub(super) phase: Phase,
    pub(super) outgoing: Outgoing,
    /// One buffer was asked for, in mode `OnRequest`.
    pub(super) requested: bool,
    /// There was more to receive when last heard of.
    pub(super) readable: bool,
    /// End of stream or a failure was reported.
    pub(super) receive_ended: bool,
    /// Both directions ended, which the kernel reports whether asked or not.
    pub(super) over: bool,
    /// On the port's list of ready streams.
    pub(super) queued: bool,
    /// On the port's list of changed streams.
    pub(super) changed: bool,
    /// What the kernel watches it for.
    pub(super) registered: Option<EventFlags>,
}

impl Stream {
    /// A stream that has yet to be given its socket.
    pub(super) fn new(mode: ReceiveMode) -> Self {
        Self {
            socket: None,
            mode,
            phase: Phase::Open,
            outgoing: Outgoing::Nothing,
            requested: false,
            readable: false,
            receive_ended: false,
            over: false,
            queued: false,
            changed: false,
            registered: None,
        }
    }

    /// Whether what arrives now is to be received.
    pub(super) fn wants_to_receive(&self) -> bool {
        let asked = self.requested || self.mode == ReceiveMode::Continuous;
        asked && self.phase == Phase::Open && !self.receive_ended
    }

    /// What the kernel should watch it for; `None` when it need not know the stream.
    pub(super) fn interest(&self) -> Option<EventFlags> {
        let mut interest = EventFlags::empty();
        // A queued stream is ready and waits for a buffer. A stream that was watched and has
        // nothing to receive is watched on: the next request is likely to come first.
        let watched = self.registered.is_some_and(|flags| flags.contains(EventFlags::IN));
        let idle = watched && !self.readable && self.phase == Phase::Open && !self.receive_ended;
        let lingers = matches!(self.phase, Phase::Lingering(_));
        if !self.queued && (self.wants_to_receive() || idle) || lingers {
            interest |= EventFlags::IN;
        }
        if matches!(self.outgoing, Outgoing::Rest { .. }) {
            interest |= EventFlags::OUT;
        }
        // With nothing to wait for, a registration may stay for the next time, unless the kernel
        // would report the end of both directions again and again.
        let keep = self.registered.is_some() && !self.over;
        (!interest.is_empty() || keep).then_some(interest)
    }

    /// The send's place and the socket, unless the stream is being closed or detached.
    pub(super) fn sendable(&mut self) -> Option<(&mut Outgoing, &TcpStream)> {
        match (self.phase, &self.socket) {
            (Phase::Open, Some(socket)) => Some((&mut self.outgoing, socket)),
            _ => None,
        }
    }
}

/// How far one try got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    Partly,
}

/// Offers what is left of the segments to the socket, once, and adds to `sent` what it took.
pub(super) fn transmit(
    socket: &TcpStream,
    segments: &Segments,
    sent: &mut usize,
    arena: &Arena,
) -> io::Result<Progress> {
    let mut slices = ArrayVec::<IoSlice<'_>, SEND_SEGMENTS_MAX>::new();
    let mut skip = *sent;
    let mut left = 0;
    for segment in segments {
        let bytes = match segment {
            Segment::Block { block, range } => &block[range.clone()],
            Segment::Receive { buffer, range } => arena.sending(buffer, range),
        };
        let rest = bytes.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(bytes.len());
        left += rest.len();
        if !rest.is_empty() {
            slices.push(IoSlice::new(rest));
        }
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let result = match slices.as_slice() {
        [] => return Ok(Progress::Done),
        [one] => rustix::net::send(socket, one, flags),
        several => {
            rustix::net::sendmsg(socket, several, &mut SendAncillaryBuffer::default(), flags)
        }
    };
    match result {
        Ok(taken) => *sent += taken,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(Progress::Partly),
        Err(error) => return Err(error.into()),
    }
    let done = result == Ok(left);
    Ok(if done { Progress::Done } else { Progress::Partly })
}

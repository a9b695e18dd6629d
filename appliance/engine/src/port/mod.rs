//! The seam between a data core and the kernel: receive burst, send burst, return buffers.
//!
//! A port is owned by one data core and used on its thread only. It owns every descriptor it was
//! given, the receive arena, and every buffer that is in flight, so that nothing the kernel may
//! still read or write is ever freed or reused. It knows nothing of links, frames or sessions.
//! Two ports exist: [`uring`] and [`epoll`].

pub mod arena;
pub mod datagrams;
mod deadlines;
pub mod epoll;
pub mod frames;
pub mod probe;
#[cfg(test)]
pub(crate) mod simulated;
mod sockets;
pub mod uring;
pub mod waker;

use crate::block::Block;
use arena::ReceiveBuffer;
use arrayvec::ArrayVec;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;
use waker::Waker;

/// Most segments in one send: what one gathered system call takes.
pub const SEND_SEGMENTS_MAX: usize = 8;
/// Most events one [`Port::wait`] returns; the rest waits in the kernel's queue.
pub const EVENTS_MAX: usize = 512;
/// Events that end a wait which gathers them: as many buffers as are in the arena by default.
pub const GATHER_EVENTS: u32 = 32;

/// Which mechanism a port uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    IoUring,
    Epoll,
}

impl PortKind {
    /// The name in configuration, listings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// A listener of the port, counted from 0 in the order of registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey(pub u16);

/// A stream of the port. Keys of closed streams are reused only after [`Event::Closed`] or
/// [`Event::Detached`] was returned, so a key never means two streams within one burst of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey(pub u32);

/// How a stream is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveMode {
    /// As long as the stream lives. For links, whose sockets are always drained (spec §7.5).
    Continuous,
    /// One buffer for each call of [`Port::receive_once`]. For raw pipes, which push back.
    OnRequest,
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// What was handed to [`Port::send`] goes out, then FIN.
    Graceful,
    /// RST at once; what is in flight is lost. Never looks like a clean end (spec §4.3).
    Reset,
}

/// A piece of memory to send. It belongs to the port until the send's event returns it.
#[derive(Debug)]
pub enum Segment {
    /// A range of a pool block.
    Block { block: Block, range: Range<usize> },
    /// A range of the receive buffer it arrived in: forwarded without a copy.
    Receive { buffer: ReceiveBuffer, range: Range<usize> },
}

impl Segment {
    /// Bytes to send.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Block { range, .. } | Self::Receive { range, .. } => range.len(),
        }
    }
}

/// The segments of one send, in order.
pub type Segments = ArrayVec<Segment, SEND_SEGMENTS_MAX>;

/// What happened since the last wait.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each send")]
pub enum Event {
    /// A connection was accepted. Non-blocking and close-on-exec; no other option is set.
    Accepted { listener: ListenerKey, stream: TcpStream, remote: SocketAddr },
    /// Accepting failed, for example for want of descriptors. The port accepts again by itself,
    /// after a pause of [`ACCEPT_RETRY_AFTER`] unless the cause was that one connection.
    AcceptFailed { listener: ListenerKey, error: io::Error },
    /// Bytes arrived. The buffer is the receiver's until [`Port::release`] or a send takes it.
    Received { stream: StreamKey, buffer: ReceiveBuffer },
    /// The other side ended its direction (FIN). Nothing more is received. In mode `OnRequest` it
    /// takes a request to see this, or a failure. A reset never shows as this.
    EndOfStream { stream: StreamKey },
    /// Receiving failed, usually `ECONNRESET`. Nothing more is received.
    ReceiveFailed { stream: StreamKey, error: io::Error },
    /// A send ended: everything was taken by the kernel, or it failed. The segments come back;
    /// their receive buffers must be released, their blocks returned to the pool.
    Sent { stream: StreamKey, segments: Segments, result: io::Result<()> },
    /// A stream handed to [`Port::close`] is gone and its key is free.
    Closed { stream: StreamKey },
    /// A stream handed to [`Port::detach`]: no operation is in flight, the descriptor is the
    /// caller's. Bytes received before came as [`Event::Received`].
    Detached { stream: StreamKey, socket: TcpStream },
}

/// How long a port waits before it accepts again after `EMFILE`, `ENFILE`, `ENOBUFS` or `ENOMEM`.
pub const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);
/// Most connections accepted from one listener in one turn of a port that accepts by itself, so
/// that a flood of them leaves room for the streams.
pub const ACCEPTS_PER_TURN_MAX: usize = 64;
/// How long a gracefully closed stream stays open when its peer has yet to take what was sent: a
/// peer that is alive takes a full socket buffer of 4 MiB in this time at 17 Mbit/s. After that it
/// is closed all the same; the kernel goes on sending, unless the peer sends too.
pub const LINGER_MAX: Duration = Duration::from_secs(2);

/// How much memory a port may use, fixed at its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortLimits {
    /// Receive buffers in the arena, a power of two, at most 32 768 (io_uring's buffer rings).
    pub receive_buffers: u16,
    /// Bytes of each receive buffer.
    pub receive_buffer_bytes: u32,
    /// Most streams at once.
    pub streams: u32,
}

impl PortLimits {
    /// Bytes of the receive arena.
    pub fn arena_bytes(&self) -> usize {
        usize::from(self.receive_buffers) * self.receive_buffer_bytes as usize
    }
}

impl Default for PortLimits {
    /// 32 buffers of 64 KiB, which fit a second-level cache, and 4096 streams.
    fn default() -> Self {
        Self { receive_buffers: 32, receive_buffer_bytes: 64 * 1024, streams: 4096 }
    }
}

/// A data core's way to the kernel. Dropping it resets every stream it still has.
pub trait Port {
    /// Which mechanism this is.
    fn kind(&self) -> PortKind;

    /// Starts accepting on a listener, until the port is dropped or
    /// [`Port::stop_accepting`]. The port may change whether the listener blocks.
    ///
    /// # Errors
    /// The kernel's refusal to watch the descriptor.
    fn add_listener(&mut self, listener: TcpListener) -> io::Result<ListenerKey>;

    /// Stops accepting and closes every listener, in the course of the next wait. Connections
    /// the kernel had handed over by then still come as [`Event::Accepted`].
    fn stop_accepting(&mut self);

    /// Whether this port may still be given a connection of a listener after
    /// [`Port::stop_accepting`].
    fn is_accepting(&self) -> bool;

    /// Takes over a connected stream.
    ///
    /// # Errors
    /// `ENOSPC` when [`PortLimits::streams`] are open, or the kernel's refusal. The stream is
    /// closed with a reset.
    fn add_stream(&mut self, stream: TcpStream, mode: ReceiveMode) -> io::Result<StreamKey>;

    /// Whether one more stream can be taken over.
    fn has_room(&self) -> bool;

    /// Changes how a stream is received. From `Continuous` to `OnRequest`, what is already under
    /// way may still arrive.
    fn set_receive_mode(&mut self, stream: StreamKey, mode: ReceiveMode);

    /// Asks for one more buffer on a stream in mode `OnRequest`. Asking again before it arrived
    /// changes nothing.
    fn receive_once(&mut self, stream: StreamKey);

    /// Sends all segments in order. At most one send may be in flight per stream; its event comes
    /// from a later [`Port::wait`], never from this call. On a stream that was handed to
    /// [`Port::close`] or [`Port::detach`] it fails with `ENOTCONN`.
    ///
    /// # Panics
    /// When a send is in flight on the stream, or a segment's range exceeds its memory.
    fn send(&mut self, stream: StreamKey, segments: Segments);

    /// Whether a send is in flight: its event has not been returned yet.
    fn is_sending(&self, stream: StreamKey) -> bool;

    /// Ends a stream. No event but `Sent` for what was in flight and `Closed` follows. A reset
    /// overrides a graceful close or a detach that has not ended; any other second call changes
    /// nothing. What a reset cut short comes back with `ECANCELED` or the connection's own error.
    ///
    /// A graceful close keeps the descriptor up to [`LINGER_MAX`] when the peer has not ended its
    /// direction and has yet to take something, since Linux would reset the connection otherwise.
    fn close(&mut self, stream: StreamKey, mode: CloseMode);

    /// Gives a stream's descriptor back once nothing is in flight on it. A send in flight ends
    /// first, with its event.
    fn detach(&mut self, stream: StreamKey);

    /// Hands the queued operations to the kernel and appends at most [`EVENTS_MAX`] events,
    /// waiting up to `timeout` (`None`: without limit) when there are none and the waker was not
    /// woken. It may return early and empty-handed.
    ///
    /// # Errors
    /// Only what makes going on impossible. Interruption by a signal is no error.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// Has waits end when one of the core's UDP sockets has something to receive: takes over what
    /// [`datagrams::Sockets::readiness`] gave. Not called again before [`Self::unwatch_datagrams`].
    ///
    /// # Errors
    /// The kernel's refusal to watch the descriptor.
    fn watch_datagrams(&mut self, readiness: OwnedFd) -> io::Result<()>;

    /// Has no wait end for a UDP socket any more. What comes waits in the sockets, however many there
    /// are, and is told of when they are watched again.
    fn unwatch_datagrams(&mut self);

    /// Whether a UDP socket may have become ready since the last call. Whoever is told so asks
    /// [`datagrams::Sockets::next_ready`] until there is none.
    fn take_datagrams_ready(&mut self) -> bool;

    /// How often watching UDP sockets has failed and was begun anew.
    fn datagram_watch_failures(&self) -> u64 {
        0
    }

    /// Whether [`Self::wait_at_least`] has an effect here.
    fn can_gather(&self) -> bool;

    /// From now on a wait that may block, which none with a timeout of zero does, returns no sooner
    /// than so long after it began, the waker notwithstanding, so that what comes meanwhile costs
    /// one wake-up. A port that can tell returns with [`GATHER_EVENTS`] events before. Zero, as at
    /// first: a wait ends with its first event.
    fn wait_at_least(&mut self, least: Duration);

    /// The bytes of a receive buffer.
    ///
    /// # Panics
    /// When the buffer is another port's.
    fn bytes_mut(&mut self, buffer: &ReceiveBuffer) -> &mut [u8];

    /// Returns a receive buffer to the arena.
    fn release(&mut self, buffer: ReceiveBuffer);

    /// Receive buffers in the arena, and how many of them are neither with the caller nor sent.
    fn receive_buffers(&self) -> (usize, usize);

    /// Wakes this port from another thread.
    fn waker(&self) -> Waker;

    /// System calls made so far on behalf of listeners and streams.
    fn syscalls(&self) -> u64;
}

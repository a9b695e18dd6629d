//! The io_uring port: multishot accepts and receives into provided buffers, one enter per wait.
//!
//! Made and used on one data core's thread, which calls it through [`Port`]; it blocks only in
//! [`Port::wait`]. A descriptor is closed, and memory freed, only when no operation on it is in
//! flight: until then the kernel may use both.

mod buffers;
mod ending;
mod outgoing;
mod receiving;
mod ring;
mod stream;
mod token;

pub use super::probe::{UringError, probe};

use super::arena::{Arena, ReceiveBuffer};
use super::deadlines::{Deadlines, shorter};
use super::probe::SetupStep;
use super::waker::Waker;
use super::{
    ACCEPT_RETRY_AFTER, CloseMode, EVENTS_MAX, Event, LINGER_MAX, ListenerKey, Port, PortKind,
    PortLimits, ReceiveMode, Segment, Segments, StreamKey, sockets,
};
use buffers::BufferRing;
use io_uring::types::{CancelBuilder, Fd};
use io_uring::{opcode, squeue};
use outgoing::Outgoing;
use ring::{Completion, Ring};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;
use stream::{Phase, Receiving, Sending, Stream};
use token::{GENERATIONS, Operation, Token};

/// Entries of the submission queue: a receive or a send for each event of a full turn.
const SUBMISSIONS: u32 = EVENTS_MAX as u32;
/// Fewest entries of the completion queue: what a full turn submits, four times over. Beyond it the
/// kernel keeps completions in memory of its own, which is slower but loses nothing.
const COMPLETIONS_MIN: u32 = 4 * SUBMISSIONS;
/// Most entries of the completion queue, of 16 bytes each. The kernel allows four times as many
/// (`IORING_MAX_CQ_ENTRIES`), but it counts them as locked memory of the user, who may have 8 MiB by
/// default: with these, rings for two dozen cores.
const COMPLETIONS_MAX: u32 = 16_384;
/// How long a dropped port waits for what it cancelled.
const DROP_WAIT_MAX: Duration = Duration::from_secs(1);
/// One of the waits that make up [`DROP_WAIT_MAX`].
const DROP_WAIT_STEP: Duration = Duration::from_millis(20);

/// A port over io_uring. It cannot leave the thread that made it.
#[derive(Debug)]
pub struct UringPort {
    // Before the memory it uses, because fields are dropped in this order.
    ring: Ring,
    buffers: BufferRing,
    arena: Arena,
    waker: Waker,
    limits: PortLimits,
    streams: Slab<Stream>,
    generation: u32,
    listeners: Vec<Listener>,
    /// Events that came about outside [`Port::wait`] or did not fit into its burst.
    pending: VecDeque<Event>,
    /// Streams that wait for a receive buffer, with their generations.
    starved: VecDeque<(StreamKey, u32)>,
    /// Sends not in use.
    #[expect(clippy::vec_box, reason = "a send in flight must not move")]
    idle_sends: Vec<Box<Outgoing>>,
    paused: Deadlines<ListenerKey>,
    lingering: Deadlines<(StreamKey, u64)>,
    lingers: u64,
    /// What is readable while a UDP socket is.
    datagrams: Option<OwnedFd>,
    /// How often UDP sockets have been watched before: completions of earlier polls mean nothing.
    datagram_watches: u32,
    datagrams_ready: bool,
    /// Polls of it that ended by an error.
    datagram_watch_failures: u64,
    /// System calls that did not go through the ring.
    syscalls: u64,
}

#[derive(Debug)]
struct Listener {
    /// `None` once closed.
    socket: Option<TcpListener>,
    /// The accept operation is in flight.
    armed: bool,
    /// Closed as soon as the accept operation was cancelled.
    stopping: bool,
}

/// The events of one wait, up to a limit.
struct Burst<'a> {
    events: &'a mut Vec<Event>,
    start: usize,
}

impl Burst<'_> {
    fn room(&self) -> usize {
        (self.start + EVENTS_MAX).saturating_sub(self.events.len())
    }

    fn is_empty(&self) -> bool {
        self.events.len() == self.start
    }
}

/// Makes a ring like the port's, but small, and drops it.
pub(super) fn try_out() -> Result<(), UringError> {
    let buffers = BufferRing::new(1).map_err(allocation_error)?;
    Ring::new(1, 2, &buffers).map(drop)
}

/// Entries of the completion queue: a receive and a send for each stream, within bounds.
fn completions(streams: u32) -> u32 {
    streams.saturating_mul(2).clamp(COMPLETIONS_MIN, COMPLETIONS_MAX)
}

/// Makes a ring with so many completions, or with half of them as often as it takes where the user's
/// locked memory does not suffice: a queue that is too short costs time, no ring costs the start.
fn longest<T>(
    mut completions: u32,
    make: impl Fn(u32) -> Result<T, UringError>,
) -> Result<T, UringError> {
    loop {
        match make(completions) {
            Err(UringError::Setup { step: SetupStep::Ring, source })
                if source.kind() == io::ErrorKind::OutOfMemory && completions > COMPLETIONS_MIN =>
            {
                completions = (completions / 2).max(COMPLETIONS_MIN);
            }
            made => return made,
        }
    }
}

fn allocation_error(source: io::Error) -> UringError {
    UringError::Setup { step: SetupStep::Arena, source }
}

impl UringPort {
    /// Makes a port woken by `waker`, which no other port may use, on the thread that will use it.
    ///
    /// # Errors
    /// What this machine lacks or forbids; limits of 0 or no power of two.
    pub fn new(waker: Waker, limits: PortLimits) -> Result<Self, UringError> {
        let arena = Arena::new(limits.receive_buffers, limits.receive_buffer_bytes)
            .map_err(allocation_error)?;
        let buffers = BufferRing::new(limits.receive_buffers).map_err(allocation_error)?;
        let ring = longest(completions(limits.streams), |completions| {
            Ring::new(SUBMISSIONS, completions, &buffers)
        })?;
        let mut port = Self {
            ring,
            buffers,
            arena,
            waker,
            limits,
            streams: Slab::new(),
            generation: 0,
            listeners: Vec::new(),
            pending: VecDeque::new(),
            // Streams starve in the middle of bulk, where nothing may be allocated.
            starved: VecDeque::with_capacity(limits.streams as usize),
            idle_sends: Vec::new(),
            paused: Deadlines::new(ACCEPT_RETRY_AFTER),
            lingering: Deadlines::new(LINGER_MAX),
            lingers: 0,
            datagrams: None,
            datagram_watches: 0,
            datagrams_ready: false,
            datagram_watch_failures: 0,
            syscalls: 0,
        };
        for index in 0..limits.receive_buffers {
            port.buffers.put_back(index);
        }
        port.watch_waker();
        Ok(port)
    }

    /// Queues an operation of this port.
    fn submit(&mut self, entry: squeue::Entry) {
        // SAFETY: the port's operations point to two things only. Receives write provided
        // buffers, which are in the arena, and no reference to one exists while the port has it.
        // Sends read the boxed `Outgoing` of their stream, its blocks and arena buffers, which
        // stay untouched until `on_sent`. All of it outlives the operations: `drop` waits for the
        // last completion, or leaks it. Descriptors are closed by `settle` only, when nothing is
        // in flight on them. Every io_uring test of `tests/ports.rs` exercises it.
        unsafe { self.ring.push(entry) }
    }

    fn stream(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.streams.get_mut(key.0 as usize)
    }

    /// The stream an operation was submitted for, unless its slot has a new user.
    fn stream_of(&mut self, token: Token) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(token.index as usize);
        stream.filter(|stream| stream.generation == token.generation)
    }

    fn watch_waker(&mut self) {
        // Multishot polls report every write to the descriptor, so it is never read.
        let entry = opcode::PollAdd::new(
            Fd(self.waker.as_fd().as_raw_fd()),
            u32::from(PollFlags::IN.bits()),
        );
        let token = Token::new(Operation::Wake, 0);
        self.submit(entry.multi(true).build().user_data(token.pack()));
    }

    fn poll_datagrams(&mut self) {
        let Some(readiness) = &self.datagrams else { return };
        let flags = u32::from(PollFlags::IN.bits());
        let entry = opcode::PollAdd::new(Fd(readiness.as_raw_fd()), flags).multi(true).build();
        let token = Token::new(Operation::Datagrams, self.datagram_watches);
        self.submit(entry.user_data(token.pack()));
    }

    fn emit(&mut self, burst: &mut Burst<'_>, event: Event) {
        if burst.room() == 0 {
            self.pending.push_back(event);
        } else {
            self.hand_out(event, burst);
        }
    }

    /// Returns an event to the caller, which frees what the event ends.
    fn hand_out(&mut self, event: Event, burst: &mut Burst<'_>) {
        match &event {
            Event::Sent { stream: key, .. } => {
                let key = *key;
                if let Some(stream) = self.stream(key) {
                    stream.sending = Sending::Nothing;
                    self.settle(key);
                }
            }
            Event::Closed { stream } | Event::Detached { stream, .. } => {
                self.streams.remove(stream.0 as usize);
            }
            _ => {}
        }
        burst.events.push(event);
    }

    fn hand_out_pending(&mut self, burst: &mut Burst<'_>) {
        while burst.room() > 0
            && let Some(event) = self.pending.pop_front()
        {
            self.hand_out(event, burst);
        }
    }

    /// Takes what the kernel completed, as far as there is room for events.
    fn reap(&mut self, burst: &mut Burst<'_>) {
        while burst.room() > 0
            && let Some(completion) = self.ring.next()
        {
            match completion.token.operation {
                Operation::Receive => self.on_received(completion, burst),
                Operation::Send => self.on_sent(completion, burst),
                Operation::Accept => self.on_accepted(completion, burst),
                Operation::Linger => self.on_linger_ready(completion.token),
                Operation::CancelStream => {
                    let key = StreamKey(completion.token.index);
                    if let Some(stream) = self.stream_of(completion.token) {
                        stream.cancels -= 1;
                        self.settle(key);
                    }
                }
                Operation::Cancel => {}
                Operation::Wake if completion.more => {}
                Operation::Wake => self.watch_waker(),
                Operation::Datagrams if completion.token.index != self.datagram_watches => {}
                Operation::Datagrams => {
                    self.datagrams_ready = true;
                    self.datagram_watch_failures += u64::from(completion.result.is_err());
                    // It ends by an error too, and without it datagrams would never be heard of.
                    if !completion.more {
                        self.poll_datagrams();
                    }
                }
            }
        }
    }
}

/// Sending.
impl UringPort {
    fn submit_send(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        let token = stream.token(Operation::Send, key);
        let (Sending::InFlight(outgoing), Some(socket)) = (&mut stream.sending, &stream.socket)
        else {
            return;
        };
        let entry = outgoing.operation(socket.as_raw_fd(), &self.arena, token);
        self.submit(entry);
    }

    fn on_sent(&mut self, completion: Completion, burst: &mut Burst<'_>) {
        let key = StreamKey(completion.token.index);
        let Some(stream) = self.stream_of(completion.token) else { return };
        let Sending::InFlight(outgoing) = &mut stream.sending else { return };
        let result = match completion.result {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            // A result is at most `i32::MAX`.
            Ok(bytes) if outgoing.advance(bytes as usize) => Ok(()),
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) if stream.phase != Phase::Ending => {
                self.submit_send(key);
                return;
            }
            Ok(_) => Err(Errno::CANCELED.into()),
            Err(error) => Err(error.into()),
        };
        let sending = std::mem::replace(&mut stream.sending, Sending::Reported);
        let Sending::InFlight(mut outgoing) = sending else { return };
        let segments = std::mem::take(&mut outgoing.segments);
        self.idle_sends.push(outgoing);
        for segment in &segments {
            if let Segment::Receive { buffer, .. } = segment {
                self.arena.end_send(buffer);
            }
        }
        self.emit(burst, Event::Sent { stream: key, segments, result });
    }
}

/// Accepting.
impl UringPort {
    fn arm_accept(&mut self, key: ListenerKey) {
        let Some(listener) = self.listeners.get_mut(usize::from(key.0)) else { return };
        let Some(socket) = &listener.socket else { return };
        if listener.armed || listener.stopping {
            return;
        }
        listener.armed = true;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let entry = opcode::AcceptMulti::new(Fd(socket.as_raw_fd()))
            .flags(flags.bits().cast_signed())
            .build();
        let token = Token::new(Operation::Accept, u32::from(key.0));
        self.submit(entry.user_data(token.pack()));
    }

    fn on_accepted(&mut self, completion: Completion, burst: &mut Burst<'_>) {
        // Tokens of listeners are made from their 16-bit keys.
        let key = ListenerKey(completion.token.index as u16);
        let accepted = accepted_stream(&completion);
        self.syscalls += u64::from(accepted.is_some());
        let event = match (accepted, completion.result) {
            (Some(stream), _) => match stream.peer_addr() {
                Ok(remote) => Some(Event::Accepted { listener: key, stream, remote }),
                // It was reset before anybody looked at it.
                Err(error) => Some(Event::AcceptFailed { listener: key, error }),
            },
            (None, Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN)) => None,
            (None, Err(error)) => Some(Event::AcceptFailed { listener: key, error: error.into() }),
            (None, Ok(_)) => None,
        };
        let Some(listener) = self.listeners.get_mut(usize::from(key.0)) else { return };
        if !completion.more {
            listener.armed = false;
            let exhausted = match (&event, completion.result) {
                (Some(Event::AcceptFailed { error, .. }), Err(_)) => {
                    !sockets::concerns_one_connection(error)
                }
                _ => false,
            };
            if listener.stopping {
                listener.socket = None;
            } else if exhausted {
                self.paused.push(key);
            } else {
                self.arm_accept(key);
            }
        }
        if let Some(event) = event {
            self.emit(burst, event);
        }
    }
}

/// The connection an accept operation brought.
fn accepted_stream(completion: &Completion) -> Option<TcpStream> {
    let descriptor = i32::try_from(completion.result.ok()?).ok()?;
    // SAFETY: a successful accept made this descriptor for us, and each completion is taken once,
    // so nobody else has it. `many_connections_are_accepted` of `tests/ports.rs` exercises it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    Some(TcpStream::from(descriptor))
}

impl Port for UringPort {
    fn kind(&self) -> PortKind {
        PortKind::IoUring
    }

    fn add_listener(&mut self, listener: TcpListener) -> io::Result<ListenerKey> {
        let key = u16::try_from(self.listeners.len()).map_err(|_too_many| Errno::NOSPC)?;
        let key = ListenerKey(key);
        // The kernel waits on its own; a listener that does not block would make it give up.
        listener.set_nonblocking(false)?;
        self.listeners.push(Listener { socket: Some(listener), armed: false, stopping: false });
        self.arm_accept(key);
        Ok(key)
    }

    fn stop_accepting(&mut self) {
        self.paused.clear();
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.stopping {
                continue;
            }
            listener.stopping = true;
            if listener.armed {
                // Keys of listeners are 16 bits.
                let accept = Token::new(Operation::Accept, index as u32).pack();
                let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(accept)).build();
                let token = Token::new(Operation::Cancel, 0);
                self.submit(entry.user_data(token.pack()));
            } else {
                listener.socket = None;
            }
        }
    }

    fn is_accepting(&self) -> bool {
        self.listeners.iter().any(|listener| listener.armed)
    }

    fn add_stream(&mut self, stream: TcpStream, mode: ReceiveMode) -> io::Result<StreamKey> {
        if self.streams.len() >= self.limits.streams as usize {
            sockets::reset(stream);
            return Err(Errno::NOSPC.into());
        }
        self.generation = (self.generation + 1) % GENERATIONS;
        let known = Stream::new(stream, self.generation, mode);
        // Slots are at most `limits.streams`, 32 bits.
        let key = StreamKey(self.streams.insert(known) as u32);
        self.arm_receive(key);
        Ok(key)
    }

    fn has_room(&self) -> bool {
        self.streams.len() < self.limits.streams as usize
    }

    fn set_receive_mode(&mut self, stream: StreamKey, mode: ReceiveMode) {
        let Some(known) = self.stream(stream) else { return };
        if std::mem::replace(&mut known.mode, mode) == mode {
            return;
        }
        known.requested = false;
        if known.receiving == Receiving::Multishot {
            self.cancel_receive(stream);
        }
        self.arm_receive(stream);
    }

    fn receive_once(&mut self, stream: StreamKey) {
        let Some(known) = self.stream(stream) else { return };
        if known.mode == ReceiveMode::OnRequest {
            known.requested = true;
            self.arm_receive(stream);
        }
    }

    fn send(&mut self, stream: StreamKey, segments: Segments) {
        let bytes: usize = segments.iter().map(Segment::bytes).sum();
        let Some(known) = self.streams.get_mut(stream.0 as usize) else {
            let result = Err(Errno::NOTCONN.into());
            self.pending.push_back(Event::Sent { stream, segments, result });
            return;
        };
        if known.phase != Phase::Open {
            let result = Err(Errno::NOTCONN.into());
            self.pending.push_back(Event::Sent { stream, segments, result });
            return;
        }
        let idle = matches!(known.sending, Sending::Nothing);
        assert!(idle, "a second send on stream {}", stream.0);
        if bytes == 0 {
            known.sending = Sending::Reported;
            self.pending.push_back(Event::Sent { stream, segments, result: Ok(()) });
            return;
        }
        for segment in &segments {
            if let Segment::Receive { buffer, .. } = segment {
                self.arena.begin_send(buffer);
            }
        }
        let mut outgoing = self.idle_sends.pop().unwrap_or_else(|| Box::new(Outgoing::new()));
        outgoing.begin(segments);
        known.sending = Sending::InFlight(outgoing);
        self.submit_send(stream);
    }

    fn is_sending(&self, stream: StreamKey) -> bool {
        let known = self.streams.get(stream.0 as usize);
        known.is_some_and(|known| !matches!(known.sending, Sending::Nothing))
    }

    fn close(&mut self, stream: StreamKey, mode: CloseMode) {
        let Some(known) = self.stream(stream) else { return };
        match (mode, known.phase, &known.socket) {
            (CloseMode::Reset, phase, Some(socket)) if phase != Phase::Ending => {
                sockets::reset_when_closed(socket);
                self.syscalls += 1;
                self.end(stream);
            }
            (CloseMode::Graceful, Phase::Open, _) => {
                known.phase = Phase::Closing;
                self.cancel_receive(stream);
                self.settle(stream);
            }
            _ => {}
        }
    }

    fn detach(&mut self, stream: StreamKey) {
        let Some(known) = self.stream(stream) else { return };
        if known.phase == Phase::Open {
            known.phase = Phase::Detaching;
            self.cancel_receive(stream);
            self.settle(stream);
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let mut burst = Burst { start: events.len(), events };
        self.on_deadlines();
        self.hand_out_pending(&mut burst);
        self.buffers.offer(&self.arena);
        self.feed_starved();
        let timeout = shorter(timeout, self.until_deadline());
        let waits = burst.is_empty()
            && self.pending.is_empty()
            && self.ring.is_idle()
            && !self.can_feed_more()
            && timeout != Some(Duration::ZERO)
            && self.waker.begin_sleep();
        let entered = self.ring.enter(waits, timeout);
        self.waker.end_sleep();
        entered?;
        self.reap(&mut burst);
        self.hand_out_pending(&mut burst);
        Ok(())
    }

    fn watch_datagrams(&mut self, readiness: OwnedFd) -> io::Result<()> {
        self.datagrams = Some(readiness);
        self.poll_datagrams();
        Ok(())
    }

    fn unwatch_datagrams(&mut self) {
        self.datagrams_ready = false;
        if self.datagrams.take().is_some() {
            let poll = Token::new(Operation::Datagrams, self.datagram_watches).pack();
            self.datagram_watches = self.datagram_watches.wrapping_add(1);
            let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(poll)).build();
            let token = Token::new(Operation::Cancel, 0);
            self.submit(entry.user_data(token.pack()));
        }
    }

    fn take_datagrams_ready(&mut self) -> bool {
        std::mem::take(&mut self.datagrams_ready)
    }

    fn datagram_watch_failures(&self) -> u64 {
        self.datagram_watch_failures
    }

    fn can_gather(&self) -> bool {
        self.ring.can_gather()
    }

    fn wait_at_least(&mut self, least: Duration) {
        self.ring.wait_at_least(least);
    }

    fn bytes_mut(&mut self, buffer: &ReceiveBuffer) -> &mut [u8] {
        self.arena.bytes_mut(buffer)
    }

    fn release(&mut self, buffer: ReceiveBuffer) {
        let index = self.arena.take_back(buffer);
        self.buffers.put_back(index);
    }

    fn receive_buffers(&self) -> (usize, usize) {
        self.arena.counts()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn syscalls(&self) -> u64 {
        self.ring.syscalls() + self.syscalls
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use rustix::io::Errno;
    use std::cell::RefCell;

    fn refused(errno: Errno) -> UringError {
        UringError::Setup { step: SetupStep::Ring, source: errno.into() }
    }

    #[test]
    fn a_ring_that_does_not_fit_the_locked_memory_is_made_shorter() {
        let asked = RefCell::new(Vec::new());
        let made = longest(completions(u32::MAX), |entries| {
            asked.borrow_mut().push(entries);
            if entries > 4_096 { Err(refused(Errno::NOMEM)) } else { Ok(entries) }
        });
        assert_eq!(made.unwrap(), 4_096);
        assert_eq!(*asked.borrow(), [16_384, 8_192, 4_096]);
    }

    #[test]
    fn the_shortest_ring_and_other_refusals_are_not_tried_again() {
        let tries = RefCell::new(0);
        let never = |errno| {
            *tries.borrow_mut() = 0;
            let made = longest(completions(u32::MAX), |_| -> Result<(), UringError> {
                *tries.borrow_mut() += 1;
                Err(refused(errno))
            });
            (made.unwrap_err().to_string(), *tries.borrow())
        };
        let (text, tries_out_of_memory) = never(Errno::NOMEM);
        assert_eq!(tries_out_of_memory, 4);
        assert!(text.contains("LimitMEMLOCK"), "{text}");
        assert_eq!(never(Errno::MFILE), ("io_uring could not make a ring".to_owned(), 1));
    }
}

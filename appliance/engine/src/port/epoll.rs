//! The epoll port: level-triggered readiness, one receive per ready stream and turn.
//!
//! Created and used on one data core's thread, which calls it through [`Port`]. It never blocks but
//! in `epoll_wait`. Sends are tried at once; what the socket does not take waits for it to become
//! writable. Interest is changed as late as possible: a registration that is still right by the
//! time the port asks the kernel costs no `epoll_ctl`.

mod stream;

use super::arena::{Arena, ReceiveBuffer};
use super::deadlines::{Deadlines, now, shorter};
use super::waker::Waker;
use super::{
    ACCEPT_RETRY_AFTER, ACCEPTS_PER_TURN_MAX, CloseMode, EVENTS_MAX, Event, LINGER_MAX,
    ListenerKey, Port, PortKind, PortLimits, ReceiveMode, Segments, StreamKey, sockets,
};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags};
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use stream::{Outgoing, Phase, Progress, Stream};

/// What the kernel returns with readiness of the waker.
const WAKER_KEY: u64 = u64::MAX;
/// What the kernel returns with readiness of UDP sockets.
const DATAGRAMS_KEY: u64 = u64::MAX - 1;
/// Set in what the kernel returns with readiness of a listener; streams have 32 bits.
const LISTENER_BIT: u64 = 1 << 32;
/// Most readiness reports taken in one turn. Each makes at most two events of a stream, so this
/// many fit [`EVENTS_MAX`].
const READINESS_MAX: usize = EVENTS_MAX / 2;

/// A port over epoll.
#[derive(Debug)]
pub struct EpollPort {
    epoll: OwnedFd,
    waker: Waker,
    limits: PortLimits,
    arena: Arena,
    /// Free buffers, the last one used on top because it is in the cache.
    free: Vec<u16>,
    streams: Slab<Stream>,
    /// `None` once closed; keys are positions.
    listeners: Vec<Option<TcpListener>>,
    /// Events that came about outside [`Port::wait`] or did not fit into its burst.
    pending: VecDeque<Event>,
    /// Streams to receive from without asking the kernel: they were ready when there was no buffer
    /// or no request.
    ready: VecDeque<StreamKey>,
    /// Streams whose interest may differ from their registration.
    changed: Vec<StreamKey>,
    readiness: Readiness,
    paused: Deadlines<ListenerKey>,
    lingering: Deadlines<(StreamKey, u64)>,
    lingers: u64,
    /// How long a wait that finds nothing pauses before it asks again.
    least_wait: Duration,
    /// What is readable while a UDP socket is.
    datagrams: Option<OwnedFd>,
    datagrams_ready: bool,
    /// Whether the last wait returned without asking the kernel.
    skipped: bool,
    syscalls: u64,
}

/// Where the kernel puts what is ready.
struct Readiness(Box<[epoll::Event]>);

impl std::fmt::Debug for Readiness {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Readiness({})", self.0.len())
    }
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

impl EpollPort {
    /// Makes a port woken by `waker`, which no other port may use.
    ///
    /// # Errors
    /// `InvalidInput` for limits of 0, or the kernel's refusal of memory or a descriptor.
    pub fn new(waker: Waker, limits: PortLimits) -> io::Result<Self> {
        let arena = Arena::new(limits.receive_buffers, limits.receive_buffer_bytes)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let key = epoll::EventData::new_u64(WAKER_KEY);
        epoll::add(&epoll, &waker, key, epoll::EventFlags::IN)?;
        let none = epoll::Event { flags: epoll::EventFlags::empty(), data: key };
        Ok(Self {
            epoll,
            waker,
            limits,
            arena,
            free: (0..limits.receive_buffers).rev().collect(),
            streams: Slab::new(),
            listeners: Vec::new(),
            pending: VecDeque::new(),
            ready: VecDeque::new(),
            changed: Vec::new(),
            readiness: Readiness(vec![none; READINESS_MAX].into_boxed_slice()),
            paused: Deadlines::new(ACCEPT_RETRY_AFTER),
            lingering: Deadlines::new(LINGER_MAX),
            lingers: 0,
            least_wait: Duration::ZERO,
            datagrams: None,
            datagrams_ready: false,
            skipped: false,
            syscalls: 2,
        })
    }

    fn stream(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.streams.get_mut(key.0 as usize)
    }

    /// Has the stream's interest compared with its registration before the kernel is asked next.
    fn note_change(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key.0 as usize)
            && !stream.changed
        {
            stream.changed = true;
            self.changed.push(key);
        }
    }

    /// Has the stream received from without asking the kernel.
    fn note_ready(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key.0 as usize)
            && !stream.queued
        {
            stream.queued = true;
            self.ready.push_back(key);
        }
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
                    stream.outgoing = Outgoing::Nothing;
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

    /// Goes on with a close or detach once no send is in flight.
    fn settle(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        if !matches!(stream.outgoing, Outgoing::Nothing) {
            return;
        }
        match stream.phase {
            Phase::Closing => self.finish_closing(key),
            Phase::Detaching => self.finish_detaching(key),
            Phase::Open | Phase::Lingering(_) | Phase::Gone => {}
        }
    }

    fn finish_closing(&mut self, key: StreamKey) {
        let lingering_max = 2 * self.limits.streams as usize;
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        let Some(socket) = &stream.socket else { return };
        self.syscalls += 3;
        if self.lingering.len() < lingering_max
            && sockets::must_linger(socket, stream.receive_ended)
        {
            sockets::end_direction(socket);
            self.lingers += 1;
            stream.phase = Phase::Lingering(self.lingers);
            self.lingering.push((key, self.lingers));
            self.note_change(key);
        } else {
            self.drop_socket(key);
        }
    }

    /// Closes the descriptor, which also ends its registration, and reports it.
    fn drop_socket(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key.0 as usize)
            && stream.socket.take().is_some()
        {
            stream.phase = Phase::Gone;
            self.syscalls += 1;
            self.pending.push_back(Event::Closed { stream: key });
        }
    }

    fn finish_detaching(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        let Some(socket) = stream.socket.take() else { return };
        stream.phase = Phase::Gone;
        if stream.registered.take().is_some() {
            self.syscalls += 1;
            // It fails only if it was not registered, which is what is wanted.
            let _ = epoll::delete(&self.epoll, &socket);
        }
        self.pending.push_back(Event::Detached { stream: key, socket });
    }

    fn on_deadlines(&mut self) {
        if self.paused.is_empty() && self.lingering.is_empty() {
            return;
        }
        let now = now();
        while let Some(listener) = self.paused.pop_due(now) {
            if self.watch_listener(listener).is_err() {
                self.paused.push(listener);
            }
        }
        while let Some((key, linger)) = self.lingering.pop_due(now) {
            if self.stream(key).is_some_and(|stream| stream.phase == Phase::Lingering(linger)) {
                self.drop_socket(key);
            }
        }
    }

    fn until_deadline(&self) -> Option<Duration> {
        if self.paused.is_empty() && self.lingering.is_empty() {
            return None;
        }
        let now = now();
        shorter(self.paused.until_next(now), self.lingering.until_next(now))
    }

    /// Receives from streams known to be ready, as far as there are buffers and room.
    fn receive_ready(&mut self, burst: &mut Burst<'_>) {
        for _ in 0..self.ready.len() {
            if self.free.is_empty() || burst.room() == 0 {
                return;
            }
            let Some(key) = self.ready.pop_front() else { return };
            let Some(stream) = self.stream(key) else { continue };
            if std::mem::take(&mut stream.queued) {
                let receive = stream.wants_to_receive();
                self.note_change(key);
                if receive {
                    self.receive(key, burst);
                }
            }
        }
    }

    /// Receives once, into a whole buffer.
    fn receive(&mut self, key: StreamKey, burst: &mut Burst<'_>) {
        let Some(index) = self.free.pop() else {
            self.note_ready(key);
            self.note_change(key);
            return;
        };
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        let Some(socket) = &stream.socket else { return };
        self.syscalls += 1;
        let buffer = self.arena.free_mut(index);
        let whole = buffer.len();
        let event = match rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => {
                stream.receive_ended = true;
                self.syscalls += 1;
                Some(sockets::end_of_stream(key, socket))
            }
            Ok((_, bytes)) => {
                stream.requested = false;
                stream.readable = bytes == whole;
                // A buffer's size is 32 bits, so what was received into it is.
                let buffer = self.arena.grant(index, bytes as u32);
                self.emit(burst, Event::Received { stream: key, buffer });
                return;
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                stream.readable = false;
                None
            }
            Err(error) => {
                stream.receive_ended = true;
                Some(Event::ReceiveFailed { stream: key, error: error.into() })
            }
        };
        self.free.push(index);
        self.note_change(key);
        if let Some(event) = event {
            self.emit(burst, event);
        }
    }

    /// Goes on with a send that found the socket full.
    fn continue_send(&mut self, key: StreamKey, burst: &mut Burst<'_>) {
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        let Some(socket) = &stream.socket else { return };
        let Outgoing::Rest { segments, sent } = &mut stream.outgoing else { return };
        self.syscalls += 1;
        let result = match stream::transmit(socket, segments, sent, &self.arena) {
            Ok(Progress::Partly) => return,
            Ok(Progress::Done) => Ok(()),
            Err(error) => Err(error),
        };
        let segments = std::mem::take(segments);
        stream.outgoing = Outgoing::Reported;
        self.note_change(key);
        self.end_send(&segments);
        self.emit(burst, Event::Sent { stream: key, segments, result });
    }

    fn end_send(&mut self, segments: &Segments) {
        for segment in segments {
            if let super::Segment::Receive { buffer, .. } = segment {
                self.arena.end_send(buffer);
            }
        }
    }

    /// Brings registrations in line with interest.
    fn apply_changes(&mut self) {
        while let Some(key) = self.changed.pop() {
            let Some(stream) = self.streams.get_mut(key.0 as usize) else { continue };
            if !std::mem::take(&mut stream.changed) {
                continue;
            }
            let Some(socket) = &stream.socket else { continue };
            let interest = stream.interest();
            if stream.registered == interest {
                continue;
            }
            let id = epoll::EventData::new_u64(u64::from(key.0));
            let result = match (stream.registered, interest) {
                (None, Some(interest)) => epoll::add(&self.epoll, socket, id, interest),
                (Some(_), Some(interest)) => epoll::modify(&self.epoll, socket, id, interest),
                (_, None) => epoll::delete(&self.epoll, socket),
            };
            self.syscalls += 1;
            match result {
                Ok(()) => stream.registered = interest,
                // Want of kernel memory: this stream cannot be watched, the others go on.
                Err(error) => {
                    stream.receive_ended = true;
                    let error = error.into();
                    self.pending.push_back(Event::ReceiveFailed { stream: key, error });
                }
            }
        }
    }

    fn ask_kernel(&mut self, timeout: Option<Duration>, burst: &mut Burst<'_>) -> io::Result<()> {
        let most = (burst.room() / 2).clamp(1, READINESS_MAX);
        let sleeps = timeout != Some(Duration::ZERO) && self.waker.begin_sleep();
        let timeout = match sleeps {
            true if !self.least_wait.is_zero() => self.pause(timeout),
            true => timeout,
            false => Some(Duration::ZERO),
        };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        self.syscalls += 1;
        let count = epoll::wait(&self.epoll, &mut self.readiness.0[..most], timeout.as_ref());
        self.waker.end_sleep();
        let count = match count {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for position in 0..count {
            let epoll::Event { flags, data } = self.readiness.0[position];
            match data.u64() {
                WAKER_KEY => {
                    self.syscalls += 1;
                    self.waker.clear();
                }
                DATAGRAMS_KEY => self.datagrams_ready = true,
                key if key & LISTENER_BIT != 0 => {
                    // The lower half of a listener's key is its position, 16 bits.
                    self.accept(ListenerKey(key as u16), burst);
                }
                // The key of a stream is 32 bits.
                key => self.on_stream_ready(StreamKey(key as u32), flags, burst),
            }
        }
        Ok(())
    }

    /// Sleeps through the part of a wait in which nothing wakes it. Returns what is left of it.
    fn pause(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        let pause = timeout.unwrap_or(self.least_wait).min(self.least_wait);
        if let Ok(pause) = Timespec::try_from(pause) {
            self.syscalls += 1;
            // A signal may end it early, which does no harm.
            let _ = rustix::thread::nanosleep(&pause);
        }
        timeout.map(|timeout| timeout.saturating_sub(pause))
    }

    fn on_stream_ready(&mut self, key: StreamKey, flags: epoll::EventFlags, burst: &mut Burst<'_>) {
        use epoll::EventFlags as Flags;
        let over = flags.intersects(Flags::HUP | Flags::ERR);
        if over || flags.contains(Flags::OUT) {
            self.continue_send(key, burst);
        }
        if !over && !flags.contains(Flags::IN) {
            return;
        }
        let Some(stream) = self.stream(key) else { return };
        stream.over |= over;
        if let Phase::Lingering(_) = stream.phase {
            self.discard(key);
        } else if stream.wants_to_receive() {
            self.receive(key, burst);
        } else {
            stream.readable = true;
            self.note_change(key);
        }
    }

    fn discard(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        let Some(socket) = &stream.socket else { return };
        let (ended, syscalls) = sockets::discard(socket);
        self.syscalls += syscalls;
        if ended {
            self.drop_socket(key);
        }
    }

    fn watch_listener(&mut self, key: ListenerKey) -> io::Result<()> {
        if let Some(Some(listener)) = self.listeners.get(usize::from(key.0)) {
            let id = epoll::EventData::new_u64(LISTENER_BIT | u64::from(key.0));
            self.syscalls += 1;
            epoll::add(&self.epoll, listener, id, epoll::EventFlags::IN)?;
        }
        Ok(())
    }

    fn accept(&mut self, key: ListenerKey, burst: &mut Burst<'_>) {
        for _ in 0..ACCEPTS_PER_TURN_MAX.min(burst.room()) {
            let Some(Some(listener)) = self.listeners.get(usize::from(key.0)) else { return };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            self.syscalls += 1;
            let event = match rustix::net::acceptfrom_with(listener, flags) {
                Ok((descriptor, remote)) => {
                    let stream = TcpStream::from(descriptor);
                    match remote.and_then(|remote| SocketAddr::try_from(remote).ok()) {
                        Some(remote) => Event::Accepted { listener: key, stream, remote },
                        // Not a connection of the Internet protocols: nobody it could belong to.
                        None => continue,
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    let error = io::Error::from(error);
                    let goes_on = sockets::concerns_one_connection(&error);
                    if !goes_on {
                        self.syscalls += 1;
                        // Level-triggered, it would be reported all through the pause.
                        let _ = epoll::delete(&self.epoll, listener);
                        self.paused.push(key);
                    }
                    self.emit(burst, Event::AcceptFailed { listener: key, error });
                    if goes_on { continue } else { return }
                }
            };
            self.emit(burst, event);
        }
    }
}

impl Port for EpollPort {
    fn kind(&self) -> PortKind {
        PortKind::Epoll
    }

    fn add_listener(&mut self, listener: TcpListener) -> io::Result<ListenerKey> {
        let position = u16::try_from(self.listeners.len()).map_err(|_too_many| Errno::NOSPC)?;
        listener.set_nonblocking(true)?;
        self.listeners.push(Some(listener));
        self.watch_listener(ListenerKey(position))?;
        Ok(ListenerKey(position))
    }

    fn stop_accepting(&mut self) {
        for listener in self.listeners.iter_mut().filter_map(Option::take) {
            // Another process may have it too, and then closing it alone would leave it watched. One
            // that is paused is not watched now.
            self.syscalls += 1;
            let _ = epoll::delete(&self.epoll, listener);
        }
        self.paused.clear();
    }

    fn is_accepting(&self) -> bool {
        self.listeners.iter().any(Option::is_some)
    }

    fn add_stream(&mut self, stream: TcpStream, mode: ReceiveMode) -> io::Result<StreamKey> {
        if self.streams.len() >= self.limits.streams as usize {
            sockets::reset(stream);
            return Err(Errno::NOSPC.into());
        }
        let mut known = Stream::new(mode);
        let interest = known.interest().unwrap_or(epoll::EventFlags::empty());
        // Slots are at most `limits.streams`, 32 bits.
        let key = self.streams.vacant_key() as u32;
        let id = epoll::EventData::new_u64(u64::from(key));
        self.syscalls += 1;
        if let Err(error) = epoll::add(&self.epoll, &stream, id, interest) {
            sockets::reset(stream);
            return Err(error.into());
        }
        known.registered = Some(interest);
        known.socket = Some(stream);
        self.streams.insert(known);
        Ok(StreamKey(key))
    }

    fn has_room(&self) -> bool {
        self.streams.len() < self.limits.streams as usize
    }

    fn set_receive_mode(&mut self, stream: StreamKey, mode: ReceiveMode) {
        let Some(known) = self.stream(stream) else { return };
        if std::mem::replace(&mut known.mode, mode) != mode {
            known.requested = false;
            self.resume_receiving(stream);
        }
    }

    fn receive_once(&mut self, stream: StreamKey) {
        let Some(known) = self.stream(stream) else { return };
        if known.mode == ReceiveMode::OnRequest && !known.requested {
            known.requested = true;
            self.resume_receiving(stream);
        }
    }

    fn send(&mut self, stream: StreamKey, segments: Segments) {
        let Self { streams, arena, pending, .. } = self;
        let known = streams.get_mut(stream.0 as usize);
        let Some((known, socket)) = known.and_then(Stream::sendable) else {
            let result = Err(Errno::NOTCONN.into());
            pending.push_back(Event::Sent { stream, segments, result });
            return;
        };
        assert!(matches!(known, Outgoing::Nothing), "a second send on stream {}", stream.0);
        for segment in &segments {
            if let super::Segment::Receive { buffer, .. } = segment {
                arena.begin_send(buffer);
            }
        }
        let mut sent = 0;
        self.syscalls += 1;
        let result = match stream::transmit(socket, &segments, &mut sent, arena) {
            Ok(Progress::Partly) => {
                *known = Outgoing::Rest { segments, sent };
                self.note_change(stream);
                return;
            }
            Ok(Progress::Done) => Ok(()),
            Err(error) => Err(error),
        };
        *known = Outgoing::Reported;
        self.end_send(&segments);
        self.pending.push_back(Event::Sent { stream, segments, result });
    }

    fn is_sending(&self, stream: StreamKey) -> bool {
        let known = self.streams.get(stream.0 as usize);
        known.is_some_and(|known| !matches!(known.outgoing, Outgoing::Nothing))
    }

    fn close(&mut self, stream: StreamKey, mode: CloseMode) {
        let Some(known) = self.stream(stream) else { return };
        match (mode, known.phase) {
            (_, Phase::Gone) => {}
            (CloseMode::Reset, _) => self.reset(stream),
            (CloseMode::Graceful, Phase::Open) => {
                known.phase = Phase::Closing;
                self.note_change(stream);
                self.settle(stream);
            }
            (CloseMode::Graceful, _) => {}
        }
    }

    fn detach(&mut self, stream: StreamKey) {
        let Some(known) = self.stream(stream) else { return };
        if known.phase == Phase::Open {
            known.phase = Phase::Detaching;
            self.note_change(stream);
            self.settle(stream);
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let mut burst = Burst { start: events.len(), events };
        self.on_deadlines();
        self.hand_out_pending(&mut burst);
        self.receive_ready(&mut burst);
        // A turn that only returns what has happened already costs no system call; but never two in
        // a row, so that streams the kernel knows to be ready do not wait for ever.
        self.skipped = !burst.is_empty() && (!self.skipped || burst.room() == 0);
        if self.skipped {
            self.waker.end_sleep();
            return Ok(());
        }
        let timeout = match burst.is_empty() && self.pending.is_empty() {
            true => shorter(timeout, self.until_deadline()),
            false => Some(Duration::ZERO),
        };
        self.apply_changes();
        self.ask_kernel(timeout, &mut burst)?;
        self.hand_out_pending(&mut burst);
        Ok(())
    }

    fn watch_datagrams(&mut self, readiness: OwnedFd) -> io::Result<()> {
        let key = epoll::EventData::new_u64(DATAGRAMS_KEY);
        self.syscalls += 1;
        epoll::add(&self.epoll, &readiness, key, epoll::EventFlags::IN)?;
        self.datagrams = Some(readiness);
        Ok(())
    }

    fn unwatch_datagrams(&mut self) {
        self.datagrams_ready = false;
        if let Some(readiness) = self.datagrams.take() {
            self.syscalls += 1;
            // Others may have a descriptor of it, so closing this one would not do. The kernel
            // refuses only what is not watched.
            let _ = epoll::delete(&self.epoll, &readiness);
        }
    }

    fn take_datagrams_ready(&mut self) -> bool {
        std::mem::take(&mut self.datagrams_ready)
    }

    fn can_gather(&self) -> bool {
        true
    }

    fn wait_at_least(&mut self, least: Duration) {
        self.least_wait = least;
    }

    fn bytes_mut(&mut self, buffer: &ReceiveBuffer) -> &mut [u8] {
        self.arena.bytes_mut(buffer)
    }

    fn release(&mut self, buffer: ReceiveBuffer) {
        let index = self.arena.take_back(buffer);
        self.free.push(index);
    }

    fn receive_buffers(&self) -> (usize, usize) {
        self.arena.counts()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn syscalls(&self) -> u64 {
        self.syscalls
    }
}

impl EpollPort {
    /// Receives at once from a stream that is known to be ready, or has the kernel watch it.
    fn resume_receiving(&mut self, key: StreamKey) {
        let Some(stream) = self.stream(key) else { return };
        if stream.readable && stream.wants_to_receive() {
            self.note_ready(key);
        }
        self.note_change(key);
    }

    fn reset(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        if let Some(socket) = stream.socket.take() {
            self.syscalls += 2;
            sockets::reset(socket);
        }
        stream.phase = Phase::Gone;
        if let Outgoing::Rest { segments, .. } = &mut stream.outgoing {
            let segments = std::mem::take(segments);
            stream.outgoing = Outgoing::Reported;
            self.end_send(&segments);
            let result = Err(Errno::CANCELED.into());
            self.pending.push_back(Event::Sent { stream: key, segments, result });
        }
        self.pending.push_back(Event::Closed { stream: key });
    }
}

impl Drop for EpollPort {
    fn drop(&mut self) {
        for stream in self.streams.drain() {
            let Some(socket) = stream.socket else { continue };
            match stream.phase {
                Phase::Lingering(_) => drop(socket),
                _ => sockets::reset(socket),
            }
        }
        for event in self.pending.drain(..) {
            if let Event::Detached { socket, .. } = event {
                sockets::reset(socket);
            }
        }
    }
}

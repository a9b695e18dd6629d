//! A port without a kernel: what sockets, peers and the kernel do is drawn from a seed.
//!
//! Made and used by tests of the data core, on their thread. Several ports share one [`Network`],
//! in which the test plays the peers. Nothing here reads or writes a real socket: the descriptors
//! that a core is given are blank and only tell sockets apart. Events come in an order that the
//! contract of [`Port`] allows, and not in a kinder one.

mod network;

pub(crate) use network::{Network, PeerEnd, Place, SocketId};

use super::arena::{Arena, ReceiveBuffer};
use super::waker::Waker;
use super::{
    CloseMode, Event, ListenerKey, Port, PortKind, PortLimits, ReceiveMode, Segment, Segments,
    StreamKey,
};
use rustix::io::Errno;
use slab::Slab;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// Where a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    Closing,
    Detaching,
    /// The last event waits to be returned.
    Gone,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "as the ports it stands for")]
enum Sending {
    Nothing,
    InFlight { segments: Segments, sent: usize },
    Reported,
}

#[derive(Debug)]
struct Stream {
    id: SocketId,
    descriptor: Option<TcpStream>,
    mode: ReceiveMode,
    requested: bool,
    receive_ended: bool,
    phase: Phase,
    sending: Sending,
}

impl Stream {
    fn wants_to_receive(&self) -> bool {
        let asked = self.requested || self.mode == ReceiveMode::Continuous;
        // A receive that is under way as a stream is detached may still bring something.
        asked && matches!(self.phase, Phase::Open | Phase::Detaching) && !self.receive_ended
    }
}

/// A port of a [`Network`].
#[derive(Debug)]
pub(crate) struct SimulatedPort {
    number: usize,
    network: Rc<RefCell<Network>>,
    waker: Waker,
    limits: PortLimits,
    arena: Arena,
    free: Vec<u16>,
    streams: Slab<Stream>,
    pending: VecDeque<Event>,
    accepting: bool,
    order: Vec<usize>,
    events: u64,
    starved: u64,
}

/// What a port holds of what a core has given it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) blocks: usize,
    pub(crate) buffers: usize,
}

impl SimulatedPort {
    /// The port with this number of a network.
    ///
    /// # Errors
    /// Limits of 0, or the kernel's refusal of memory.
    pub(crate) fn new(
        number: usize,
        network: Rc<RefCell<Network>>,
        waker: Waker,
        limits: PortLimits,
    ) -> io::Result<Self> {
        Ok(Self {
            number,
            network,
            waker,
            limits,
            arena: Arena::new(limits.receive_buffers, limits.receive_buffer_bytes)?,
            free: (0..limits.receive_buffers).collect(),
            streams: Slab::new(),
            pending: VecDeque::new(),
            accepting: true,
            order: Vec::new(),
            events: 0,
            starved: 0,
        })
    }

    /// Every stream that has not ended, with its socket and phase.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (StreamKey, SocketId, Phase)> {
        let open = self.streams.iter().filter(|(_, stream)| stream.phase != Phase::Gone);
        open.map(|(key, stream)| (StreamKey(key as u32), stream.id, stream.phase))
    }

    /// How many events it has returned.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// How often there was something to receive and no buffer for it.
    pub(crate) fn starved(&self) -> u64 {
        self.starved
    }

    /// Whether nothing is left of any stream, and no event waits.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.streams.is_empty() && self.pending.is_empty()
    }

    /// What is in flight or waits in events to be returned.
    pub(crate) fn held(&self) -> Held {
        let in_flight = self.streams.iter().filter_map(|(_, stream)| match &stream.sending {
            Sending::InFlight { segments, .. } => Some(segments),
            Sending::Nothing | Sending::Reported => None,
        });
        let reported = self.pending.iter().filter_map(|event| match event {
            Event::Sent { segments, .. } => Some(segments),
            _ => None,
        });
        let mut held = Held::default();
        for segment in in_flight.chain(reported).flatten() {
            match segment {
                Segment::Block { .. } => held.blocks += 1,
                Segment::Receive { .. } => held.buffers += 1,
            }
        }
        held
    }

    fn hand_out(&mut self, event: Event, events: &mut Vec<Event>) {
        match &event {
            Event::Sent { stream: key, .. } => {
                if let Some(stream) = self.streams.get_mut(key.0 as usize) {
                    stream.sending = Sending::Nothing;
                }
            }
            Event::Closed { stream } | Event::Detached { stream, .. } => {
                self.streams.remove(stream.0 as usize);
            }
            _ => {}
        }
        events.push(event);
    }

    fn accept(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let network = Rc::clone(&self.network);
        let mut network = network.borrow_mut();
        let listener = ListenerKey(0);
        for number in 0..network.sockets.len() {
            let socket = SocketId(number);
            let waits = network.place(socket) == Place::Backlog(self.number);
            if !waits || !network.eager && network.random.one_in(2) {
                continue;
            }
            if !self.accepting {
                network.end(socket, CloseMode::Reset);
            } else if !network.eager && network.random.one_in(20) {
                network.end(socket, CloseMode::Reset);
                let error = Errno::CONNABORTED.into();
                events.push(Event::AcceptFailed { listener, error });
            } else {
                let stream = network.descriptor(socket)?;
                let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1000));
                events.push(Event::Accepted { listener, stream, remote });
            }
        }
        Ok(())
    }

    /// Lets something happen on a stream.
    fn progress(&mut self, key: StreamKey, events: &mut Vec<Event>) {
        let receive_first = {
            let mut network = self.network.borrow_mut();
            if !network.eager && network.random.one_in(3) {
                return;
            }
            network.random.one_in(2)
        };
        if receive_first {
            self.receive(key, events);
        }
        self.transmit(key, events);
        if !receive_first {
            self.receive(key, events);
        }
        self.settle(key, events);
    }

    fn transmit(&mut self, key: StreamKey, events: &mut Vec<Event>) {
        let Self { streams, network, arena, .. } = self;
        let Some(stream) = streams.get_mut(key.0 as usize) else { return };
        let Sending::InFlight { segments, sent } = &mut stream.sending else { return };
        let whole: usize = segments.iter().map(Segment::bytes).sum();
        let mut rest = segments.iter().flat_map(|segment| match segment {
            Segment::Block { block, range } => &block[range.clone()],
            Segment::Receive { buffer, range } => arena.sending(buffer, range),
        });
        let mut rest = rest.by_ref().copied().skip(*sent);
        let taken = match whole > *sent {
            true => network.borrow_mut().take(stream.id, &mut rest),
            false => Ok(0),
        };
        let result = match taken {
            Ok(bytes) => {
                *sent += bytes;
                if *sent < whole {
                    return;
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        let event = self.end_send(key, result);
        if let Some(event) = event {
            self.hand_out(event, events);
        }
    }

    fn end_send(&mut self, key: StreamKey, result: io::Result<()>) -> Option<Event> {
        let stream = self.streams.get_mut(key.0 as usize)?;
        let Sending::InFlight { segments, .. } =
            std::mem::replace(&mut stream.sending, Sending::Reported)
        else {
            return None;
        };
        for segment in &segments {
            if let Segment::Receive { buffer, .. } = segment {
                self.arena.end_send(buffer);
            }
        }
        Some(Event::Sent { stream: key, segments, result })
    }

    fn receive(&mut self, key: StreamKey, events: &mut Vec<Event>) {
        let Self { streams, network, arena, free, starved, .. } = self;
        let Some(stream) = streams.get_mut(key.0 as usize) else { return };
        if !stream.wants_to_receive() {
            return;
        }
        let network = &mut *network.borrow_mut();
        let socket = &mut network.sockets[stream.id.0];
        if socket.incoming.is_empty() {
            let Some(end) = socket.peer_end.filter(|_| stream.phase == Phase::Open) else { return };
            stream.receive_ended = true;
            events.push(match end {
                PeerEnd::Finished | PeerEnd::Closed => Event::EndOfStream { stream: key },
                PeerEnd::Reset => {
                    Event::ReceiveFailed { stream: key, error: Errno::CONNRESET.into() }
                }
            });
            return;
        }
        let Some(index) = free.pop() else {
            *starved += 1;
            return;
        };
        let into = arena.free_mut(index);
        let most = into.len().min(socket.incoming.len());
        let bytes = if network.eager { most } else { network.random.cut(most) };
        for (to, from) in into.iter_mut().zip(socket.incoming.drain(..bytes)) {
            *to = from;
        }
        stream.requested = false;
        let buffer = arena.grant(index, bytes as u32);
        events.push(Event::Received { stream: key, buffer });
    }

    /// Goes on with a close or detach once no send is in flight.
    fn settle(&mut self, key: StreamKey, events: &mut Vec<Event>) {
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        if !matches!(stream.sending, Sending::Nothing) {
            return;
        }
        let event = match stream.phase {
            Phase::Closing => {
                self.end_stream(key, CloseMode::Graceful);
                Event::Closed { stream: key }
            }
            Phase::Detaching => {
                stream.phase = Phase::Gone;
                let Some(socket) = stream.descriptor.take() else { return };
                let mut network = self.network.borrow_mut();
                network.by_descriptor.insert(socket.as_raw_fd(), stream.id);
                network.sockets[stream.id.0].place = Place::Core;
                drop(network);
                Event::Detached { stream: key, socket }
            }
            Phase::Open | Phase::Gone => return,
        };
        self.hand_out(event, events);
    }

    fn end_stream(&mut self, key: StreamKey, mode: CloseMode) {
        let Some(stream) = self.streams.get_mut(key.0 as usize) else { return };
        stream.phase = Phase::Gone;
        let mut network = self.network.borrow_mut();
        network.end(stream.id, mode);
        network.spare.extend(stream.descriptor.take());
    }
}

impl Port for SimulatedPort {
    fn kind(&self) -> PortKind {
        PortKind::Epoll
    }

    fn add_listener(&mut self, _listener: TcpListener) -> io::Result<ListenerKey> {
        Ok(ListenerKey(0))
    }

    fn is_accepting(&self) -> bool {
        false
    }

    fn stop_accepting(&mut self) {
        self.accepting = false;
    }

    fn add_stream(&mut self, stream: TcpStream, mode: ReceiveMode) -> io::Result<StreamKey> {
        let mut network = self.network.borrow_mut();
        let id = network.hand_in(&stream);
        if self.streams.len() >= self.limits.streams as usize {
            network.end(id, CloseMode::Reset);
            network.spare.push(stream);
            return Err(Errno::NOSPC.into());
        }
        let key = StreamKey(self.streams.vacant_key() as u32);
        network.sockets[id.0].place = Place::Port(self.number, key);
        self.streams.insert(Stream {
            id,
            descriptor: Some(stream),
            mode,
            requested: false,
            receive_ended: false,
            phase: Phase::Open,
            sending: Sending::Nothing,
        });
        Ok(key)
    }

    fn has_room(&self) -> bool {
        self.streams.len() < self.limits.streams as usize
    }

    fn set_receive_mode(&mut self, stream: StreamKey, mode: ReceiveMode) {
        if let Some(known) = self.streams.get_mut(stream.0 as usize)
            && std::mem::replace(&mut known.mode, mode) != mode
        {
            known.requested = false;
        }
    }

    fn receive_once(&mut self, stream: StreamKey) {
        if let Some(known) = self.streams.get_mut(stream.0 as usize) {
            known.requested |= known.mode == ReceiveMode::OnRequest;
        }
    }

    fn send(&mut self, stream: StreamKey, segments: Segments) {
        let known = self.streams.get_mut(stream.0 as usize);
        let Some(known) = known.filter(|known| known.phase == Phase::Open) else {
            let result = Err(Errno::NOTCONN.into());
            self.pending.push_back(Event::Sent { stream, segments, result });
            return;
        };
        let idle = matches!(known.sending, Sending::Nothing);
        assert!(idle, "a second send on stream {}", stream.0);
        for segment in &segments {
            if let Segment::Receive { buffer, range } = segment {
                assert!(range.end <= buffer.len(), "more than was received");
                self.arena.begin_send(buffer);
            }
        }
        known.sending = Sending::InFlight { segments, sent: 0 };
    }

    fn is_sending(&self, stream: StreamKey) -> bool {
        let known = self.streams.get(stream.0 as usize);
        known.is_some_and(|known| !matches!(known.sending, Sending::Nothing))
    }

    fn close(&mut self, stream: StreamKey, mode: CloseMode) {
        let Some(known) = self.streams.get_mut(stream.0 as usize) else { return };
        match (mode, known.phase) {
            (_, Phase::Gone) => {}
            (CloseMode::Reset, _) => {
                let sent = self.end_send(stream, Err(Errno::CANCELED.into()));
                self.pending.extend(sent);
                self.end_stream(stream, CloseMode::Reset);
                self.pending.push_back(Event::Closed { stream });
            }
            (CloseMode::Graceful, Phase::Open) => known.phase = Phase::Closing,
            (CloseMode::Graceful, _) => {}
        }
    }

    fn detach(&mut self, stream: StreamKey) {
        if let Some(known) = self.streams.get_mut(stream.0 as usize)
            && known.phase == Phase::Open
        {
            known.phase = Phase::Detaching;
        }
    }

    /// Never waits: time passes when the test says so.
    fn wait(&mut self, _timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        while let Some(event) = self.pending.pop_front() {
            self.hand_out(event, events);
        }
        self.accept(events)?;
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(self.streams.iter().map(|(key, _)| key));
        for last in (1..order.len()).rev() {
            let other = self.network.borrow_mut().random.below(last as u64 + 1) as usize;
            order.swap(last, other);
        }
        for &key in &order {
            self.progress(StreamKey(key as u32), events);
        }
        self.order = order;
        self.events += (events.len() - before) as u64;
        Ok(())
    }

    /// Nothing ever comes in datagrams here.
    fn watch_datagrams(&mut self, _readiness: OwnedFd) -> io::Result<()> {
        Ok(())
    }

    fn unwatch_datagrams(&mut self) {}

    fn take_datagrams_ready(&mut self) -> bool {
        false
    }

    fn can_gather(&self) -> bool {
        false
    }

    fn wait_at_least(&mut self, least: Duration) {
        assert!(least.is_zero(), "time does not pass here");
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
        0
    }
}

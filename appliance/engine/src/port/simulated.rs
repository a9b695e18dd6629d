//! A port without a kernel: what sockets, peers and the kernel do is drawn from a seed.
//!
//! Made and used by tests of the data core, on their thread. Several ports share one [`Network`],
//! in which the test plays the peers. Nothing here reads or writes a real socket: the descriptors
//! that a core is given are blank and only tell sockets apart. Events come in an order that the
//! contract of [`Port`] allows, and not in a kinder one.

use super::arena::{Arena, ReceiveBuffer};
use super::waker::Waker;
use super::{
    CloseMode, Event, ListenerKey, Port, PortKind, PortLimits, ReceiveMode, Segment, Segments,
    StreamKey,
};
use rustix::io::Errno;
use slab::Slab;
use socket2::{Domain, Socket as Descriptor, Type};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

/// Numbers from a seed (splitmix64).
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// From 1 to `most`, which is not 0; small and large ones as often as each other.
    fn cut(&mut self, most: usize) -> usize {
        let most = if self.one_in(2) { most.min(8) } else { most };
        1 + self.below(most as u64) as usize
    }
}

/// A socket of a [`Network`], in the order of connecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SocketId(pub(crate) usize);

/// How a peer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerEnd {
    /// FIN; it still reads.
    Finished,
    /// FIN; what is sent to it is answered with RST.
    Closed,
    /// RST.
    Reset,
}

/// Who has our end of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The listener of the port with this number.
    Backlog(usize),
    /// A data core: as a descriptor, in an event or on its way to another core.
    Core,
    /// The port with this number.
    Port(usize, StreamKey),
    /// Nobody; the socket is closed.
    Nobody,
}

/// Both ends of one connection.
#[derive(Debug)]
struct Socket {
    place: Place,
    /// What the peer has sent and no port has received.
    incoming: VecDeque<u8>,
    peer_end: Option<PeerEnd>,
    /// What a port has sent and the peer has not read, up to `capacity_bytes`.
    outgoing: VecDeque<u8>,
    capacity_bytes: usize,
    our_end: Option<CloseMode>,
}

/// The sockets of some ports, and the peers' side of them.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) random: Random,
    /// Whether everything that can happen does, as soon as it can.
    pub(crate) eager: bool,
    sockets: Vec<Socket>,
    by_descriptor: BTreeMap<RawFd, SocketId>,
    /// Descriptors that no socket has.
    spare: Vec<TcpStream>,
    blank: TcpStream,
}

impl Network {
    /// A network without sockets.
    ///
    /// # Errors
    /// The kernel's refusal of a descriptor.
    pub(crate) fn new() -> io::Result<Rc<RefCell<Self>>> {
        let blank = Descriptor::new(Domain::IPV4, Type::STREAM, None)?;
        Ok(Rc::new(RefCell::new(Self {
            random: Random(0),
            eager: false,
            sockets: Vec::new(),
            by_descriptor: BTreeMap::new(),
            spare: Vec::new(),
            blank: blank.into(),
        })))
    }

    /// Connects a peer to the listener of a port. It takes `capacity_bytes` before it reads.
    pub(crate) fn connect(&mut self, port: usize, capacity_bytes: usize) -> SocketId {
        self.sockets.push(Socket {
            place: Place::Backlog(port),
            incoming: VecDeque::new(),
            peer_end: None,
            outgoing: VecDeque::new(),
            capacity_bytes,
            our_end: None,
        });
        SocketId(self.sockets.len() - 1)
    }

    /// The peer sends; nothing comes of it on a socket that has ended.
    pub(crate) fn peer_sends(&mut self, socket: SocketId, bytes: impl IntoIterator<Item = u8>) {
        let socket = &mut self.sockets[socket.0];
        if socket.peer_end.is_none() && socket.place != Place::Nobody {
            socket.incoming.extend(bytes);
        }
    }

    /// The peer reads up to so many bytes.
    pub(crate) fn peer_reads(&mut self, socket: SocketId, bytes: usize) -> Vec<u8> {
        let socket = &mut self.sockets[socket.0];
        let bytes = bytes.min(socket.outgoing.len());
        socket.outgoing.drain(..bytes).collect()
    }

    /// The peer ends its direction, or everything.
    pub(crate) fn peer_ends(&mut self, socket: SocketId, end: PeerEnd) {
        let loses = self.random.one_in(2);
        let socket = &mut self.sockets[socket.0];
        if end == PeerEnd::Reset && loses {
            socket.incoming.clear();
        }
        if end != PeerEnd::Finished {
            socket.outgoing.clear();
        }
        socket.peer_end = Some(end);
    }

    /// How the peer sees its socket end, once it has read what came before.
    pub(crate) fn end_seen(&self, socket: SocketId) -> Option<CloseMode> {
        let socket = &self.sockets[socket.0];
        socket.our_end.filter(|_| socket.outgoing.is_empty())
    }

    fn descriptor(&mut self, socket: SocketId) -> io::Result<TcpStream> {
        let descriptor = match self.spare.pop() {
            Some(descriptor) => descriptor,
            None => self.blank.try_clone()?,
        };
        // A number that is in use belongs to a socket that its core has dropped.
        let earlier = self.by_descriptor.insert(descriptor.as_raw_fd(), socket);
        if let Some(earlier) = earlier {
            self.end(earlier, CloseMode::Graceful);
        }
        self.sockets[socket.0].place = Place::Core;
        Ok(descriptor)
    }

    /// Takes a descriptor back from a core.
    fn hand_in(&mut self, descriptor: &TcpStream) -> SocketId {
        let socket = self.by_descriptor.remove(&descriptor.as_raw_fd());
        let socket = socket.expect("a descriptor of this network");
        assert_eq!(self.sockets[socket.0].place, Place::Core, "{socket:?} has two owners");
        socket
    }

    fn end(&mut self, socket: SocketId, mode: CloseMode) {
        let loses = mode == CloseMode::Reset && self.random.one_in(2);
        let socket = &mut self.sockets[socket.0];
        socket.place = Place::Nobody;
        socket.our_end = Some(mode);
        if loses {
            socket.outgoing.clear();
        }
    }

    /// Sends a part of what is left. `None`: the peer takes nothing now.
    fn take(&mut self, socket: SocketId, bytes: &mut dyn Iterator<Item = u8>) -> io::Result<usize> {
        let eager = self.eager;
        let socket = &mut self.sockets[socket.0];
        match socket.peer_end {
            Some(PeerEnd::Reset) => return Err(Errno::CONNRESET.into()),
            Some(PeerEnd::Closed) => {
                socket.peer_end = Some(PeerEnd::Reset);
                return Ok(bytes.count());
            }
            Some(PeerEnd::Finished) | None => {}
        }
        let room = socket.capacity_bytes.saturating_sub(socket.outgoing.len());
        if room == 0 {
            return Ok(0);
        }
        let most = if eager { room } else { self.random.cut(room) };
        let before = socket.outgoing.len();
        socket.outgoing.extend(bytes.take(most));
        Ok(socket.outgoing.len() - before)
    }
}

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
        })
    }

    /// Whether nothing is left of any stream, and no event waits.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.streams.is_empty() && self.pending.is_empty()
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
            let waits = network.sockets[socket.0].place == Place::Backlog(self.number);
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
        let Self { streams, network, arena, free, .. } = self;
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
        let Some(index) = free.pop() else { return };
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
        Ok(())
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

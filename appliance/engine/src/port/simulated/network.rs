//! What simulated ports have in common: sockets, the peers' side of them, and chance.
//!
//! Owned by a test, which plays the peers, and shared by its ports, on its thread.

use crate::port::{CloseMode, StreamKey};
use rustix::io::Errno;
use socket2::{Domain, Socket as Descriptor, Type};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use waystation_proving::random::Random;

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
pub(super) struct Socket {
    pub(super) place: Place,
    /// What the peer has sent and no port has received.
    pub(super) incoming: VecDeque<u8>,
    pub(super) peer_end: Option<PeerEnd>,
    /// What a port has sent and the peer has not read, up to `capacity_bytes`.
    pub(super) outgoing: VecDeque<u8>,
    pub(super) capacity_bytes: usize,
    pub(super) our_end: Option<CloseMode>,
}

/// The sockets of some ports, and the peers' side of them.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) random: Random,
    /// Whether everything that can happen does, as soon as it can.
    pub(crate) eager: bool,
    /// What the next send is refused with.
    pub(crate) refusal: Option<Errno>,
    pub(super) sockets: Vec<Socket>,
    pub(super) by_descriptor: BTreeMap<RawFd, SocketId>,
    /// Descriptors that no socket has.
    pub(super) spare: Vec<TcpStream>,
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
            refusal: None,
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

    /// Who has our end of a socket.
    pub(crate) fn place(&self, socket: SocketId) -> Place {
        self.sockets[socket.0].place
    }

    /// A socket that a core has as a descriptor is that of another descriptor from now on, as where
    /// one process has given it to another.
    pub(crate) fn pass_on(&mut self, socket: SocketId, descriptor: &TcpStream) {
        assert_eq!(self.sockets[socket.0].place, Place::Core, "{socket:?} is in use");
        self.by_descriptor.retain(|_, known| *known != socket);
        let earlier = self.by_descriptor.insert(descriptor.as_raw_fd(), socket);
        assert_eq!(earlier, None, "a descriptor of two sockets");
    }

    /// Forgets every socket; nobody may have one.
    pub(crate) fn clear(&mut self) {
        self.sockets.clear();
        self.by_descriptor.clear();
    }

    pub(super) fn descriptor(&mut self, socket: SocketId) -> io::Result<TcpStream> {
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
    pub(super) fn hand_in(&mut self, descriptor: &TcpStream) -> SocketId {
        let socket = self.by_descriptor.remove(&descriptor.as_raw_fd());
        let socket = socket.expect("a descriptor of this network");
        assert_eq!(self.sockets[socket.0].place, Place::Core, "{socket:?} has two owners");
        socket
    }

    pub(super) fn end(&mut self, socket: SocketId, mode: CloseMode) {
        let loses = mode == CloseMode::Reset && self.random.one_in(2);
        let socket = &mut self.sockets[socket.0];
        socket.place = Place::Nobody;
        socket.our_end = Some(mode);
        if loses {
            socket.outgoing.clear();
        }
    }

    /// Sends a part of what is left. `None`: the peer takes nothing now.
    pub(super) fn take(
        &mut self,
        socket: SocketId,
        bytes: &mut dyn Iterator<Item = u8>,
    ) -> io::Result<usize> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal.into());
        }
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

//! AF_XDP sockets of one data core: whole frames in and out, past the kernel's network stack.
//!
//! Used on one data core's thread. [`FrameSockets`] owns them with their memory and what is known of
//! next hops; each socket is on one queue of one interface, and the program on that interface brings
//! it the frames of sessions that are this core's ([`crate::port::datagrams`] has everything else). A
//! frame is copied out of the memory that the kernel wrote it to and that goes back at once, so a
//! [`Burst`] of frames is like any other. What is sent is built into the same memory, headers,
//! checksum and all; what no next hop is known for, or what does not fit, is left to an ordinary
//! socket, with a reason that is counted.
//!
//! Nothing here allocates after the start, and nothing blocks but a question about a neighbour, for
//! the kernel's lock on its network configuration (`netlink`). Sockets are opened with privileges
//! (CAP_NET_RAW) and used without. The kernel copies each frame once in and once out ("copy mode"),
//! which every driver can do, and is woken up where it asks for it (Linux 5.4).

mod netlink;
mod next_hops;
mod packet;
mod rings;
mod socket;

pub use next_hops::NoHop;
pub use socket::{FrameError, FramePlace, FrameSocket};

use crate::port::datagrams::{BURST_MESSAGES, Burst};
use netlink::Interface;
use next_hops::NextHops;
use packet::Parsed;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// Bytes of a frame's memory: what a frame of the usual 1500 takes, and the room in front of it that
/// the kernel keeps.
pub const FRAME_BYTES: usize = 2048;
/// Frames that a socket may have received and nobody has taken: a burst of the 64 that a driver
/// takes at a time from several queues, with a good part of a turn in which more come.
pub const RECEIVE_FRAMES: u32 = 512;
/// Frames of a socket that wait to be sent, or that the kernel has not said it is done with.
pub const SEND_FRAMES: u32 = 512;
/// Bytes that the kernel keeps free in front of a received frame (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM_BYTES: usize = 256;
/// The longest IP packet that fits a frame. The program brings no longer one.
pub const PACKET_BYTES_MAX: usize = FRAME_BYTES - KERNEL_HEADROOM_BYTES - packet::ETHERNET_BYTES;
/// Memory of a socket: 2 MiB, locked. Of 8 MiB that a process may lock there are four.
pub const SOCKET_BYTES: usize = FRAME_BYTES * (RECEIVE_FRAMES + SEND_FRAMES) as usize;

/// Why a datagram was not sent as a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFramed {
    /// See there.
    #[error(transparent)]
    NoHop(#[from] NoHop),
    /// It leaves by an interface that this core has no socket on.
    #[error("the way there is by another interface")]
    OtherInterface,
    /// It is longer than the interface or the socket's memory takes.
    #[error("too long for a frame")]
    TooLong,
    /// Everything that can wait does.
    #[error("no room for a frame")]
    NoRoom,
}

/// How many, and why not more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    pub received: u64,
    pub sent: u64,
    /// Left to an ordinary socket, by reason.
    pub no_hop: u64,
    pub other_interface: u64,
    pub too_long: u64,
    pub no_room: u64,
    pub syscalls: u64,
}

/// What is there to be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// A frame that is no datagram, as one whose checksum is wrong. It has been taken out.
    Malformed,
    /// Datagrams that were sent to this address of ours.
    For(SocketAddr),
}

/// See the module.
#[derive(Debug)]
pub struct FrameSockets {
    sockets: Vec<FrameSocket>,
    hops: NextHops,
    counts: FrameCounts,
    /// Which socket is asked next.
    next: usize,
    /// The datagram in that socket's next frame, once that has been looked at.
    seen: Option<Parsed>,
    /// When the turn began.
    now_ns: u64,
}

impl FrameSockets {
    /// Takes over sockets that were opened before.
    ///
    /// # Errors
    /// The kernel's refusal of a socket that tells of routes.
    pub fn new(sockets: Vec<FrameSocket>) -> io::Result<Self> {
        let (hops, counts) = (NextHops::new()?, FrameCounts::default());
        Ok(Self { sockets, hops, counts, next: 0, seen: None, now_ns: 0 })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Each is readable while it has a frame.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(FrameSocket::descriptor)
    }

    /// What they have done so far.
    pub fn counts(&self) -> FrameCounts {
        let sockets = self.sockets.iter().map(FrameSocket::syscalls).sum::<u64>();
        FrameCounts { syscalls: sockets + self.hops.syscalls(), ..self.counts }
    }

    /// Frames so far that the kernel had no room for. A system call for each socket.
    pub fn lost(&self) -> u64 {
        self.sockets.iter().map(FrameSocket::lost).sum()
    }

    /// A turn begins: what an earlier one left is handed over once more.
    pub fn begin_turn(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.hops.begin_turn();
        self.flush();
    }

    /// Looks at what is there. Sockets come in turn.
    pub fn look(&mut self) -> Next {
        for _ in 0..self.sockets.len() {
            let index = self.next % self.sockets.len();
            let Some(frame) = self.sockets[index].peek() else {
                self.next = index + 1;
                continue;
            };
            let Some(parsed) = packet::parse(frame) else {
                self.sockets[index].release();
                return Next::Malformed;
            };
            let local = parsed.local;
            self.seen = Some(parsed);
            return Next::For(local);
        }
        Next::Nothing
    }

    /// Receives a burst of the datagrams that [`Self::look`] has told of, all of one socket and to
    /// one address of ours.
    pub fn receive(&mut self, burst: &mut Burst) {
        burst.clear();
        let Some(first) = self.seen.take() else { return };
        let index = self.next % self.sockets.len();
        self.next = index + 1;
        let socket = &mut self.sockets[index];
        let (local, mut next) = (first.local, Some(first));
        while let Some(parsed) = next.filter(|parsed| parsed.local == local) {
            let payload = socket.peek().and_then(|frame| frame.get(parsed.payload));
            if !burst.push(parsed.source, payload.unwrap_or_default()) {
                return;
            }
            self.counts.received += 1;
            socket.release();
            // What is for somebody else, or no datagram, is looked at once more then.
            next = socket.peek().filter(|_| burst.len() < BURST_MESSAGES).and_then(packet::parse);
        }
    }

    /// Takes the frame out that [`Self::look`] has told of.
    pub fn discard(&mut self) {
        if self.seen.take().is_some() {
            let index = self.next % self.sockets.len();
            self.sockets[index].release();
        }
    }

    /// Sends a datagram, made of pieces, as a frame at the next [`Self::flush`].
    ///
    /// # Errors
    /// Why it is not; nothing has been done then.
    pub fn send(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        pieces: [&[u8]; 3],
    ) -> Result<(), NotFramed> {
        let sent = self.try_send(from, to, pieces);
        match sent {
            Ok(()) => self.counts.sent += 1,
            Err(NotFramed::NoHop(_)) => self.counts.no_hop += 1,
            Err(NotFramed::OtherInterface) => self.counts.other_interface += 1,
            Err(NotFramed::TooLong) => self.counts.too_long += 1,
            Err(NotFramed::NoRoom) => self.counts.no_room += 1,
        }
        sent
    }

    fn try_send(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        pieces: [&[u8]; 3],
    ) -> Result<(), NotFramed> {
        let Self { sockets, hops, now_ns, .. } = self;
        let hop = hops.to(from.ip(), to.ip(), *now_ns)?;
        let on_interface = |socket: &&mut FrameSocket| socket.place().interface == hop.interface;
        let socket = sockets.iter_mut().find(on_interface).ok_or(NotFramed::OtherInterface)?;
        let interface = socket.interface(*now_ns, |index| hops.interface(index));
        let Interface { station, mtu_bytes } = interface.ok_or(NotFramed::OtherInterface)?;
        let stations = [hop.station, station];
        let bytes = packet::packet_bytes(from, pieces);
        if bytes > mtu_bytes.min(hop.mtu_bytes).min(PACKET_BYTES_MAX) {
            return Err(NotFramed::TooLong);
        }
        if socket.send(|frame| packet::build(frame, stations, from, to, pieces)) {
            Ok(())
        } else {
            Err(NotFramed::NoRoom)
        }
    }

    /// Has the kernel send what waits, as far as it does at once.
    pub fn flush(&mut self) {
        self.sockets.iter_mut().for_each(FrameSocket::flush);
    }

    /// Whether something waits that the kernel has not taken, and [`Self::flush`] is to be tried
    /// again.
    pub fn has_unsent(&self) -> bool {
        self.sockets.iter().any(FrameSocket::has_unsent)
    }
}

//! UDP sockets of one data core, whichever port it has: bursts in, trains out.
//!
//! Used on one data core's thread, which owns all three parts: [`Sockets`] with their descriptors,
//! a [`Burst`] that is received into, and the [`Outgoing`] datagrams, whose payload stays where it
//! was received. All sockets are behind one epoll descriptor of their own, and the core's port
//! watches that one, so ten thousand sockets cost it one registration. Nothing here blocks, and
//! nothing allocates but opening and closing.
//!
//! What a datagram costs: an `epoll_wait` for up to [`READY_MAX`] sockets, a `recvmmsg` for up to
//! [`BURST_MESSAGES`] messages of a socket, a `sendmmsg` for up to [`SEND_MESSAGES_MAX`] messages
//! to it. A message is one datagram, or a train of equal ones that the kernel has put together
//! (`UDP_GRO`) or is to take apart (`UDP_SEGMENT`). The kernel copies each byte once in and once
//! out; this program copies none.

mod address;
mod burst;
mod errors;
mod outgoing;

pub use burst::{Arrival, Burst};
pub use errors::{Cause, DatagramError, DatagramErrors, ERRORS_PER_CALL_MAX};
pub use outgoing::{DEPARTURE_HEAD_BYTES_MAX, Departure, Outgoing, Sent, TooLong};

use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use waystation_relay::slots::Slots;

/// Messages of one receive call: what makes its fixed cost small, at 64 KiB of buffer each.
pub const BURST_MESSAGES: usize = 16;
/// Bytes of a message: the longest datagram, and the longest train that the kernel puts together.
pub const MESSAGE_BYTES_MAX: usize = 65_536;
/// Sockets that one `epoll_wait` reports.
pub const READY_MAX: usize = 64;
/// Datagrams that wait to be sent: a burst of trains of 64.
pub const DEPARTURES_MAX: usize = BURST_MESSAGES * TRAIN_SEGMENTS_MAX;
/// Messages of one send call.
pub const SEND_MESSAGES_MAX: usize = 64;
/// Datagrams of a train (`UDP_MAX_SEGMENTS` of kernels before 6.8).
pub const TRAIN_SEGMENTS_MAX: usize = 64;
/// Bytes of a train: it travels as one packet of IPv4 up to the device.
pub const TRAIN_BYTES_MAX: usize = 65_507;
/// Routes that are remembered to take no trains; a further one may displace an older one, which
/// costs one failed train.
pub const PLAIN_ROUTES_MAX: usize = 256;
/// Receive memory asked for a socket that many or much comes to; the kernel grants up to
/// `net.core.rmem_max`.
const LISTENING_RECEIVE_BYTES: usize = 4 << 20;
/// Send memory asked for such a socket, which sends to all clients of its core or a whole tunnel;
/// the kernel grants up to `net.core.wmem_max`.
const LISTENING_SEND_BYTES: usize = 4 << 20;

/// How trains of datagrams are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UdpTier {
    /// Each datagram as a message of its own.
    Plain,
    /// Equal datagrams to one destination as one message, where the route takes that.
    #[default]
    Gso,
    /// Frames, past the kernel's network stack, where there is a socket for them; else as
    /// [`Self::Gso`].
    AfXdp,
}

impl UdpTier {
    /// The tier of what goes by ordinary sockets.
    #[must_use]
    pub const fn of_sockets(self) -> Self {
        match self {
            Self::Plain => Self::Plain,
            Self::Gso | Self::AfXdp => Self::Gso,
        }
    }

    /// The name in configuration, listings and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gso => "gso",
            Self::AfXdp => "af_xdp",
        }
    }
}

/// A UDP socket. One kept too long names no later socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatagramKey {
    /// Its place, reused after it was closed.
    pub slot: u32,
    generation: u32,
}

impl DatagramKey {
    fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    fn unpack(bits: u64) -> Self {
        // The halves are 32 bits each.
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// What is asked of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One of several on an address, between which the kernel spreads senders by their address.
    Listening,
    /// The only one on an address of ours.
    Relayed,
    /// As [`Self::Relayed`], for what may come as fast as a whole tunnel does.
    Session,
}

/// Makes a socket that does not block, on an address that may have port 0.
///
/// # Errors
/// The kernel's refusal, such as `EADDRINUSE` or `EMFILE`.
pub fn bind(address: SocketAddr, role: Role) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if role == Role::Listening {
        socket.set_reuse_port(true)?;
    }
    if role != Role::Relayed {
        // Less only means that bursts are lost earlier.
        let _ = socket.set_recv_buffer_size(LISTENING_RECEIVE_BYTES);
        let _ = socket.set_send_buffer_size(LISTENING_SEND_BYTES);
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The UDP sockets of one core.
#[derive(Debug)]
pub struct Sockets {
    epoll: OwnedFd,
    sockets: Slots<Watched>,
    ready: ReadyList,
    syscalls: u64,
}

/// A socket, where it is, and how it sends.
#[derive(Debug)]
struct Watched {
    socket: UdpSocket,
    address: SocketAddr,
    /// Whether what it sends leaves unfragmented or not at all.
    is_unfragmented: bool,
}

/// What the kernel reported to be ready and nobody has taken yet.
struct ReadyList {
    events: Box<[epoll::Event]>,
    next: usize,
    end: usize,
    /// Whether the one that was taken last has errors.
    has_errors: bool,
}

impl std::fmt::Debug for ReadyList {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ReadyList({}..{})", self.next, self.end)
    }
}

impl Sockets {
    /// None yet.
    ///
    /// # Errors
    /// The kernel's refusal of a descriptor.
    pub fn new() -> io::Result<Self> {
        let data = epoll::EventData::new_u64(0);
        let none = epoll::Event { flags: epoll::EventFlags::empty(), data };
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sockets: Slots::default(),
            ready: ReadyList {
                events: vec![none; READY_MAX].into(),
                next: 0,
                end: 0,
                has_errors: false,
            },
            syscalls: 0,
        })
    }

    /// A descriptor that is readable while one of the sockets is, for
    /// [`super::Port::watch_datagrams`].
    ///
    /// # Errors
    /// The kernel's refusal of a descriptor.
    pub fn readiness(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }

    /// Takes over a bound socket that does not block.
    ///
    /// # Errors
    /// The kernel's refusal to watch it; it is closed then.
    pub fn add(&mut self, socket: UdpSocket) -> io::Result<DatagramKey> {
        self.syscalls += 3;
        let address = socket.local_addr()?;
        // Where the kernel has no UDP_GRO, each datagram comes as one message.
        let _ = address::set_option(&socket, address::SOL_UDP, address::UDP_GRO, 1);
        if address.ip().is_unspecified() {
            let (level, option) = match address.ip() {
                IpAddr::V4(_) => (address::IPPROTO_IP, address::IP_PKTINFO),
                IpAddr::V6(_) => (address::IPPROTO_IPV6, address::IPV6_RECVPKTINFO),
            };
            address::set_option(&socket, level, option, 1)?;
        }
        let (slot, generation) = self.sockets.next_key();
        let key = DatagramKey { slot, generation };
        watch(&self.epoll, &socket, key)?;
        self.sockets.insert(Watched { socket, address, is_unfragmented: false });
        Ok(key)
    }

    /// Has the kernel keep errors about what a socket sends, for [`Self::take_errors`]. It then
    /// also tells of an earlier datagram's error in place of whatever the socket does next, which
    /// receiving and sending here see through.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn hear_errors(&mut self, key: DatagramKey) -> io::Result<()> {
        let Some(Watched { socket, .. }) = self.sockets.get(key.slot, key.generation) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.syscalls += 2;
        let (level, option) = match socket.local_addr()?.ip() {
            IpAddr::V4(_) => address::RECEIVE_ERRORS_IPV4,
            IpAddr::V6(_) => address::RECEIVE_ERRORS_IPV6,
        };
        Ok(address::set_option(socket, level, option, 1)?)
    }

    /// Whether the socket that [`Self::next_ready`] named last has errors to take.
    pub fn has_errors(&self) -> bool {
        self.ready.has_errors
    }

    /// Takes errors about what a socket has sent, up to [`ERRORS_PER_CALL_MAX`]; while there are
    /// more, it stays ready.
    pub fn take_errors(&mut self, key: DatagramKey) -> DatagramErrors {
        match self.sockets.get(key.slot, key.generation) {
            Some(watched) => errors::take(watched.socket.as_raw_fd(), &mut self.syscalls),
            None => DatagramErrors::new(),
        }
    }

    /// One more descriptor of a socket, for another process. Absent: it is closed.
    ///
    /// # Errors
    /// The kernel's refusal of a descriptor.
    pub fn share(&self, key: DatagramKey) -> io::Result<Option<UdpSocket>> {
        let watched = self.sockets.get(key.slot, key.generation);
        watched.map(|watched| watched.socket.try_clone()).transpose()
    }

    /// Closes a socket; what waits in it is lost, unless another process has the socket as well.
    pub fn close(&mut self, key: DatagramKey) {
        if let Some(watched) = self.sockets.get(key.slot, key.generation) {
            self.syscalls += 2;
            // It would be heard of for as long as another process has it. The kernel refuses only
            // what is not watched.
            let _ = epoll::delete(&self.epoll, &watched.socket);
            self.sockets.remove(key.slot);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// System calls made so far, those of [`Outgoing`] included.
    pub fn syscalls(&self) -> u64 {
        self.syscalls
    }

    /// A socket that has something to receive; none once the kernel has said so. Sockets that
    /// stay ready come round one after the other.
    pub fn next_ready(&mut self) -> Option<DatagramKey> {
        if self.ready.next == self.ready.end && !self.ask_kernel() {
            return None;
        }
        let event = self.ready.events.get(self.ready.next)?;
        self.ready.next += 1;
        // The kernel's events are packed.
        let (flags, data) = (event.flags, event.data);
        self.ready.has_errors = flags.contains(epoll::EventFlags::ERR);
        Some(DatagramKey::unpack(data.u64()))
    }

    fn ask_kernel(&mut self) -> bool {
        self.syscalls += 1;
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.epoll, &mut self.ready.events[..], Some(&at_once));
        // Only a signal can interrupt it; the next turn asks again.
        (self.ready.next, self.ready.end) = (0, count.unwrap_or(0));
        self.ready.end > 0
    }

    /// Receives what a socket has, up to a burst. Errors that earlier datagrams caused are the
    /// business of nobody here: an unconnected socket lives on.
    pub fn receive(&mut self, key: DatagramKey, burst: &mut Burst) {
        burst.clear();
        let Some(Watched { socket, .. }) = self.sockets.get(key.slot, key.generation) else {
            return;
        };
        // An error is reported in place of one receive; what has arrived is behind it.
        for _ in 0..2 {
            self.syscalls += 1;
            match burst.receive(socket.as_fd()) {
                Ok(()) | Err(Errno::AGAIN) => return,
                Err(_) => {}
            }
        }
    }

    /// Sends one datagram at once, from an address of a socket on all addresses if one is given.
    ///
    /// # Errors
    /// Why the kernel did not take it; it is lost.
    pub fn send(
        &mut self,
        key: DatagramKey,
        to: SocketAddr,
        from: Option<IpAddr>,
        bytes: &[u8],
    ) -> Result<(), SendFailure> {
        let socket = self.descriptor(key, false)?;
        self.syscalls += 1;
        outgoing::send_one(socket, to, from, bytes).map_err(SendFailure::of)
    }

    /// The descriptor of a socket that is about to send, unfragmented or as the kernel sees fit.
    /// Datagrams of both kinds on one socket are rare, so a socket stays as it was used last.
    fn descriptor(&mut self, key: DatagramKey, unfragmented: bool) -> Result<c_int, SendFailure> {
        let watched = self.sockets.get_mut(key.slot, key.generation).ok_or(SendFailure::Closed)?;
        if watched.is_unfragmented != unfragmented {
            self.syscalls += 2;
            let is_set = send_unfragmented(&watched.socket, unfragmented);
            // It may not leave in pieces, and whole it cannot.
            is_set.map_err(|_refusal| SendFailure::TooLong)?;
            watched.is_unfragmented = unfragmented;
        }
        Ok(watched.socket.as_raw_fd())
    }

    /// The address that a datagram leaves from: the socket's, or that of ours which was chosen.
    fn leaves_from(&self, key: DatagramKey, from: Option<IpAddr>) -> Option<SocketAddr> {
        let address = self.sockets.get(key.slot, key.generation)?.address;
        let ip = from.unwrap_or(address.ip());
        (!ip.is_unspecified()).then(|| SocketAddr::new(ip, address.port()))
    }
}

fn watch(epoll: &OwnedFd, socket: &UdpSocket, key: DatagramKey) -> io::Result<()> {
    let data = epoll::EventData::new_u64(key.pack());
    Ok(epoll::add(epoll, socket, data, epoll::EventFlags::IN)?)
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendFailure {
    /// The socket or its device has more than it can send.
    #[error("no room to send")]
    NoRoom,
    /// It is longer than the way to its destination takes.
    #[error("too long")]
    TooLong,
    /// There is no way to its destination, or a firewall forbids it.
    #[error("unreachable")]
    Unreachable,
    /// The socket was closed before.
    #[error("the socket is closed")]
    Closed,
}

impl SendFailure {
    fn of(error: Errno) -> Self {
        match error {
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => Self::NoRoom,
            Errno::MSGSIZE => Self::TooLong,
            _ => Self::Unreachable,
        }
    }
}

/// A descriptor that is readable while one of the sockets of several owners is, or one of those that
/// frames come to, for [`super::Port::watch_datagrams`], which takes one.
///
/// # Errors
/// The kernel's refusal of a descriptor, or to watch one.
pub fn readiness_of(owners: &[&Sockets], frames: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
    if let ([only], []) = (owners, frames) {
        return only.readiness();
    }
    let all = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let owners = owners.iter().map(|owner| owner.epoll.as_fd());
    for watched in owners.chain(frames.iter().copied()) {
        // Nobody asks which of them it was: each owner asks the kernel about its own sockets.
        let nothing = epoll::EventData::new_u64(0);
        epoll::add(&all, watched, nothing, epoll::EventFlags::IN)?;
    }
    Ok(all)
}

/// Has what a socket sends leave unfragmented or not at all, by the Don't Fragment bit of IPv4 and
/// without a fragment header in IPv6; or has the kernel see to it again, which sets that bit while a
/// datagram fits into what it knows of the way, and cuts it otherwise.
///
/// # Errors
/// The kernel's refusal.
pub fn send_unfragmented(socket: &UdpSocket, is_wanted: bool) -> io::Result<()> {
    // The numbers of IPv6 are those of IPv4.
    let how = if is_wanted { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_WANT };
    let (level, option) = match socket.local_addr()?.ip() {
        IpAddr::V4(_) => (address::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        IpAddr::V6(_) => (address::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    Ok(address::set_option(socket, level, option, how)?)
}

/// The receive memory that the kernel has granted a socket, in bytes.
///
/// # Errors
/// The kernel's refusal to tell.
pub fn receive_memory_bytes(socket: &UdpSocket) -> io::Result<usize> {
    SockRef::from(socket).recv_buffer_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> (UdpSocket, SocketAddr) {
        let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)), Role::Listening).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[test]
    fn socket_that_another_process_has_as_well_is_not_heard_of_after_its_close() {
        let mut sockets = Sockets::new().unwrap();
        let (own, to) = socket();
        let key = sockets.add(own).unwrap();
        let theirs = sockets.share(key).unwrap().unwrap();
        sockets.close(key);
        let (sender, _) = socket();
        sender.send_to(b"theirs", to).unwrap();
        assert_eq!(sockets.next_ready(), None);
        let mut buffer = [0; 16];
        assert_eq!(theirs.recv(&mut buffer).unwrap(), 6);
        assert!(sockets.share(key).unwrap().is_none());
    }
}

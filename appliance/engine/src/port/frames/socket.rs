//! One AF_XDP socket, on one queue of one interface.

use super::netlink::Interface;
use super::next_hops::FRESH_NS;
use super::rings::{Mapping, Ring};
use super::{FRAME_BYTES, RECEIVE_FRAMES, SEND_FRAMES, SOCKET_BYTES};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpDescOptions, XdpUmemReg,
    XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, send, socket_with};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Wake-ups in one go: the kernel sends 32 frames for each (`TX_BATCH_SIZE`), twice over.
const WAKE_UPS_MAX: u32 = 2 * SEND_FRAMES / 32;

/// Where a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FramePlace {
    pub interface: u32,
    pub queue: u32,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The interface has no such queue.
    #[error("interface {} has no queue {}", .0.interface, .0.queue)]
    NoQueue(FramePlace),
    /// The process may not.
    #[error("AF_XDP sockets need CAP_NET_RAW, and memory that may be locked (LimitMEMLOCK)")]
    NotPermitted,
    /// The kernel was built without.
    #[error("this kernel has no AF_XDP sockets")]
    NotSupported,
    /// Somebody else has one there.
    #[error("another socket is on queue {} of interface {}", .0.queue, .0.interface)]
    Occupied(FramePlace),
    /// The interface is no Ethernet, or is gone.
    #[error("interface {0} cannot be used: {1}")]
    Interface(u32, #[source] io::Error),
    /// Anything else.
    #[error("no AF_XDP socket: {0}")]
    Refused(#[source] io::Error),
}

/// See the module.
#[derive(Debug)]
pub struct FrameSocket {
    place: FramePlace,
    /// None: it is gone.
    interface: Option<Interface>,
    /// How long that holds.
    fresh_until_ns: u64,
    descriptor: OwnedFd,
    fill: Ring<u64>,
    received: Ring<XdpDesc>,
    sending: Ring<XdpDesc>,
    sent: Ring<u64>,
    memory: Mapping,
    /// Frames to send in that are nobody's.
    free: Vec<u64>,
    /// The kernel took nothing when it was last told to.
    is_stalled: bool,
    syscalls: u64,
}

impl FrameSocket {
    /// Opens one, with memory of its own. No frame comes before its place in the program's map.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn open(place: FramePlace) -> Result<Self, FrameError> {
        let refused = |error: Errno| match error {
            Errno::PERM | Errno::NOBUFS => FrameError::NotPermitted,
            Errno::AFNOSUPPORT => FrameError::NotSupported,
            Errno::BUSY => FrameError::Occupied(place),
            other => FrameError::Refused(other.into()),
        };
        let interface = Interface::of_index(place.interface)
            .map_err(|error| FrameError::Interface(place.interface, error))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let descriptor = socket_with(AddressFamily::XDP, SocketType::RAW, flags, None);
        let descriptor = descriptor.map_err(refused)?;
        let bytes = NonZeroUsize::new(SOCKET_BYTES).ok_or(FrameError::NotSupported)?;
        let memory = Mapping::new(bytes).map_err(FrameError::Refused)?;
        register(&descriptor, &memory).map_err(refused)?;
        let [fill, sent] = umem_rings(descriptor.as_fd()).map_err(FrameError::Refused)?;
        let [received, sending] = frame_rings(descriptor.as_fd()).map_err(FrameError::Refused)?;
        let flags = SocketAddrXdpFlags::XDP_COPY | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        let address = SocketAddrXdp::new(flags, place.interface, place.queue);
        bind(&descriptor, &address).map_err(|error| match error {
            Errno::INVAL => FrameError::NoQueue(place),
            other => refused(other),
        })?;
        let frame = |index: u32| u64::from(index) * FRAME_BYTES as u64;
        let free = (RECEIVE_FRAMES..RECEIVE_FRAMES + SEND_FRAMES).map(frame).collect();
        let mut socket = Self {
            place,
            interface: Some(interface),
            fresh_until_ns: 0,
            descriptor,
            fill,
            received,
            sending,
            sent,
            memory,
            free,
            is_stalled: false,
            syscalls: 0,
        };
        for index in 0..RECEIVE_FRAMES {
            socket.fill.push(frame(index));
        }
        Ok(socket)
    }

    /// Where it is.
    pub fn place(&self) -> FramePlace {
        self.place
    }

    /// The descriptor, for the program's map; it is readable while there is a frame.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// The interface, as it was a second ago at most while this is asked before each frame. `look`
    /// asks the kernel for it; none if it is gone.
    pub(super) fn interface(
        &mut self,
        now_ns: u64,
        look: impl FnOnce(u32) -> Option<Interface>,
    ) -> Option<Interface> {
        if now_ns >= self.fresh_until_ns {
            self.interface = look(self.place.interface);
            self.fresh_until_ns = now_ns.saturating_add(FRESH_NS);
        }
        self.interface
    }

    pub(super) fn syscalls(&self) -> u64 {
        self.syscalls
    }

    /// Frames that the program brought here and that the kernel had no room for. One system call.
    pub(super) fn lost(&self) -> u64 {
        let Ok(statistics) = sockopt::xdp_statistics(&self.descriptor) else { return 0 };
        statistics.rx_dropped.saturating_add(statistics.rx_ring_full.unwrap_or_default())
    }

    /// The next frame that was received.
    pub(super) fn peek(&self) -> Option<&[u8]> {
        let descriptor = self.received.peek()?;
        let start = usize::try_from(descriptor.addr).unwrap_or(usize::MAX);
        // One that the kernel puts outside is empty, and no datagram.
        Some(self.memory.part(start, descriptor.len as usize).unwrap_or_default())
    }

    /// Gives the frame that was peeked at back, to be received into.
    pub(super) fn release(&mut self) {
        let Some(descriptor) = self.received.peek() else { return };
        self.received.advance();
        // The kernel says where the packet begins, which is within the frame it was given.
        let start = descriptor.addr - descriptor.addr % FRAME_BYTES as u64;
        if start < u64::from(RECEIVE_FRAMES) * FRAME_BYTES as u64 {
            // As many entries as frames: there is room.
            self.fill.push(start);
        }
    }

    /// Queues a frame that is written by `write`, which says how long it is. `false`: there is no
    /// room, nothing was written, or the kernel takes nothing, as of an interface that is down.
    pub(super) fn send(&mut self, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        if self.is_stalled {
            return false;
        }
        if self.free.is_empty() {
            self.reclaim();
        }
        let Some(&start) = self.free.last() else { return false };
        let place = usize::try_from(start).unwrap_or(usize::MAX);
        let Some(frame) = self.memory.part_mut(place, FRAME_BYTES) else { return false };
        let Some(len) = write(frame).and_then(|bytes| u32::try_from(bytes).ok()) else {
            return false;
        };
        let options = XdpDescOptions::empty();
        let is_queued = self.sending.push(XdpDesc { addr: start, len, options });
        if is_queued {
            self.free.pop();
        }
        is_queued
    }

    /// Whether the kernel has yet to take something, and is to be told again at once. Not of one that
    /// took nothing the last time: nobody says when an interface is up again, and whoever asked
    /// without a pause would use up a processor until then, or for ever if it is gone.
    pub(super) fn has_unsent(&self) -> bool {
        !self.is_stalled && self.sending.waiting() > 0
    }

    /// Has the kernel send what waits, as far as it does at once.
    pub(super) fn flush(&mut self) {
        let before = self.sending.waiting();
        for _ in 0..WAKE_UPS_MAX {
            if self.sending.waiting() == 0 || !self.sending.needs_wake_up() {
                break;
            }
            self.syscalls += 1;
            match send(&self.descriptor, &[], SendFlags::DONTWAIT) {
                // It has sent a part of what there is, and may go on.
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                // The interface is down or gone, or its queue is full: later.
                Err(_) => break,
            }
            self.reclaim();
        }
        self.is_stalled = before > 0 && self.sending.waiting() == before;
    }

    /// Takes frames back that the kernel is done with.
    fn reclaim(&mut self) {
        while let Some(start) = self.sent.peek() {
            self.sent.advance();
            // No more than there are, whatever the kernel says.
            if self.free.len() < SEND_FRAMES as usize {
                self.free.push(start);
            }
        }
    }
}

fn register(socket: &OwnedFd, memory: &Mapping) -> Result<(), Errno> {
    let umem = XdpUmemReg {
        addr: memory.address(),
        len: memory.bytes() as u64,
        chunk_size: FRAME_BYTES as u32,
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    sockopt::set_xdp_umem_reg(socket, umem)?;
    sockopt::set_xdp_umem_fill_ring_size(socket, RECEIVE_FRAMES)?;
    sockopt::set_xdp_umem_completion_ring_size(socket, SEND_FRAMES)?;
    sockopt::set_xdp_rx_ring_size(socket, RECEIVE_FRAMES)?;
    sockopt::set_xdp_tx_ring_size(socket, SEND_FRAMES)
}

/// Where frames are given to be received into, and where those come back that were sent.
fn umem_rings(socket: BorrowedFd<'_>) -> io::Result<[Ring<u64>; 2]> {
    let offsets = sockopt::xdp_mmap_offsets(socket)?;
    Ok([
        Ring::map(socket, &offsets.fr, RECEIVE_FRAMES, XDP_UMEM_PGOFF_FILL_RING)?,
        Ring::map(socket, &offsets.cr, SEND_FRAMES, XDP_UMEM_PGOFF_COMPLETION_RING)?,
    ])
}

/// What was received, and what is to be sent.
fn frame_rings(socket: BorrowedFd<'_>) -> io::Result<[Ring<XdpDesc>; 2]> {
    let offsets = sockopt::xdp_mmap_offsets(socket)?;
    Ok([
        Ring::map(socket, &offsets.rx, RECEIVE_FRAMES, XDP_PGOFF_RX_RING)?,
        Ring::map(socket, &offsets.tx, SEND_FRAMES, XDP_PGOFF_TX_RING)?,
    ])
}

//! Frames of one data core: received for whom they are for, and sent by whoever has datagrams.
//!
//! Used on the core's thread. A queue of an interface has one socket, and what comes there is of TURN
//! clients, of their peers and of opaque sessions alike, so the sockets are the core's. The core
//! receives, a burst at a time, into the memory of the server that the burst is for; both servers send
//! through their share of the same sockets ([`SharedFrames`]). Neither ever holds on to them.

use super::DataCore;
use crate::limits::{DATAGRAM_BURSTS_PER_TURN, DATAGRAMS_PER_TURN};
use crate::port::Port;
use crate::port::datagrams::{Burst, Outgoing, Sent, Sockets, UdpTier};
use crate::port::frames::{FrameSocket, FrameSockets, Next};
use crate::statistics::CoreCounters;
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use waystation_relay::drop_reason::DropReason;

/// A share of the core's sockets for frames, if it has any.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedFrames {
    sockets: Option<Rc<RefCell<FrameSockets>>>,
    /// Whether who has the share also sends by them.
    sends: bool,
}

impl SharedFrames {
    fn new(sockets: Vec<FrameSocket>) -> io::Result<Self> {
        if sockets.is_empty() {
            return Ok(Self::default());
        }
        let sockets = FrameSockets::new(sockets)?;
        Ok(Self { sockets: Some(Rc::new(RefCell::new(sockets))), sends: false })
    }

    /// The share of one who sends by a tier, and the tier that comes of it: without such sockets
    /// there are others. What comes in frames is taken whatever the tier.
    pub(super) fn of_tier(self, tier: UdpTier) -> (Self, UdpTier) {
        let sends = tier == UdpTier::AfXdp && self.sockets.is_some();
        (Self { sends, ..self }, if sends { tier } else { tier.of_sockets() })
    }

    /// Receives the burst that the core has found.
    pub(super) fn receive(&self, burst: &mut Burst) {
        if let Some(frames) = &self.sockets {
            frames.borrow_mut().receive(burst);
        }
    }

    /// Sends what is queued, as frames where that can be; the rest by its sockets.
    pub(super) fn send_queued(
        &self,
        outgoing: &mut Outgoing,
        sockets: &mut Sockets,
        memory: &[u8],
        mut report: impl FnMut(u32, usize, Sent),
    ) {
        if let Some(frames) = self.sockets.as_ref().filter(|_| self.sends) {
            let frames = &mut *frames.borrow_mut();
            outgoing.offer(
                sockets,
                memory,
                |from, to, pieces| frames.send(from, to, pieces).is_ok(),
                &mut report,
            );
            frames.flush();
        }
        outgoing.send(sockets, memory, report);
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Frames {
    shared: SharedFrames,
    /// The kernel may have more.
    has_more: bool,
    /// Whether frames are left where they are, because another process is to have what they are for.
    is_paused: bool,
}

impl Frames {
    pub(super) fn new(sockets: Vec<FrameSocket>) -> io::Result<Self> {
        let shared = SharedFrames::new(sockets)?;
        Ok(Self { shared, has_more: false, is_paused: false })
    }

    /// One more share.
    pub(super) fn share(&self) -> SharedFrames {
        self.shared.clone()
    }

    /// Descriptors to be watched; each is readable while it has a frame.
    pub(super) fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let Some(frames) = &self.shared.sockets else { return Ok(Vec::new()) };
        frames.borrow().descriptors().map(|descriptor| descriptor.try_clone_to_owned()).collect()
    }

    /// Whether there may be something to receive, or to hand over once more, without the kernel
    /// saying so again.
    pub(super) fn has_more(&self) -> bool {
        let frames = self.shared.sockets.as_ref();
        self.has_more || frames.is_some_and(|frames| frames.borrow().has_unsent())
    }

    pub(super) fn pause(&mut self) {
        (self.is_paused, self.has_more) = (true, false);
    }

    pub(super) fn resume(&mut self) {
        (self.is_paused, self.has_more) = (false, self.shared.sockets.is_some());
    }

    /// A turn begins; the kernel has said that there is something, or not.
    fn begin_turn(&mut self, now_ns: u64, is_ready: bool) {
        if let Some(frames) = &self.shared.sockets {
            frames.borrow_mut().begin_turn(now_ns);
            self.has_more = (self.has_more || is_ready) && !self.is_paused;
        }
    }

    fn look(&mut self) -> Next {
        match &self.shared.sockets {
            Some(frames) if self.has_more => frames.borrow_mut().look(),
            _ => Next::Nothing,
        }
    }

    /// Takes the next frame out, for nobody.
    fn discard(&mut self) {
        if let Some(frames) = &self.shared.sockets {
            frames.borrow_mut().discard();
        }
    }

    /// Brings counters up to date that are kept here, on top of those of owners of sockets.
    pub(super) fn add_counters(&self, counters: &mut CoreCounters) {
        let Some(frames) = &self.shared.sockets else { return };
        let frames = frames.borrow();
        let counts = frames.counts();
        counters.udp_syscalls += counts.syscalls;
        counters.udp_frames_received = counts.received;
        counters.udp_frames_lost = frames.lost();
        counters.udp_frames_no_hop = counts.no_hop;
        counters.udp_frames_other_interface = counts.other_interface;
        counters.udp_frames_too_long = counts.too_long;
        counters.udp_frames_no_room = counts.no_room;
    }
}

impl<P: Port> DataCore<P> {
    /// Receives what came in frames, up to half of a turn, and has it carried on by whom it is for.
    /// What is for nobody any more is a drop.
    pub(super) fn serve_frames(&mut self, is_ready: bool) {
        let Self { frames, turn, opaque, fabric, now_ns, .. } = self;
        frames.begin_turn(*now_ns, is_ready);
        let (mut bursts, mut datagrams) = (DATAGRAM_BURSTS_PER_TURN / 2, DATAGRAMS_PER_TURN / 2);
        while bursts > 0 && datagrams > 0 {
            bursts -= 1;
            let taken = match frames.look() {
                Next::Nothing => {
                    frames.has_more = false;
                    return;
                }
                Next::Malformed => {
                    fabric.count_drop(DropReason::UdpMalformed, 0);
                    1
                }
                Next::For(local) => match (opaque.as_deref_mut(), turn.as_deref_mut()) {
                    (Some(opaque), _) if opaque.is_at(local) => {
                        opaque.take_frames(local, *now_ns, fabric)
                    }
                    (_, Some(turn)) => turn.take_frames(local, *now_ns, fabric),
                    _ => {
                        // A session that was closed since the program was told of it.
                        frames.discard();
                        fabric.count_drop(DropReason::UdpUnknownFlow, 0);
                        1
                    }
                },
            };
            datagrams = datagrams.saturating_sub(taken);
        }
    }
}

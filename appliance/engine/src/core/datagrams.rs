//! A core's turn with datagrams: those of TURN, of opaque sessions, and frames.
//!
//! Runs on the core's thread, once a turn. What becomes of a datagram is said in [`super::turn`],
//! [`super::opaque`] and [`super::framed`].

use super::DataCore;
use super::framed::Frames;
use super::opaque::OpaqueSessions;
use super::turn::{Around, TurnServer};
use crate::port::datagrams;
use crate::port::{Port, StreamKey};
use std::io;
use std::os::fd::AsFd;

impl<P: Port> DataCore<P> {
    /// Takes what has come for sockets and in frames, a share of each in a turn.
    pub(super) fn serve_datagrams(&mut self) {
        let is_ready = self.port.take_datagrams_ready();
        self.in_vain &= !is_ready;
        self.serve_frames(is_ready);
        if let Some(turn) = &mut self.turn {
            if is_ready {
                turn.note_ready();
            }
            turn.serve(self.now_ns, &mut self.fabric);
            turn.expire(self.now_ns);
            turn.report_paths(&mut self.fabric);
        }
        if let Some(opaque) = &mut self.opaque {
            if is_ready {
                opaque.note_ready();
            }
            opaque.serve(self.now_ns, &mut self.fabric);
            opaque.attend(self.now_ns, &mut self.fabric);
        }
        self.with_turn(TurnServer::serve_streams);
    }

    /// Has the TURN server do something about its streams.
    pub(super) fn with_turn(&mut self, act: impl FnOnce(&mut TurnServer, &mut Around<'_, P>)) {
        let stalled_until_ns = self.after(self.snapshot.limits.send_stall_timeout);
        let Some(turn) = &mut self.turn else { return };
        let Self { port, fabric, closing, now_ns, .. } = self;
        act(turn, &mut Around { port, fabric, closing, now_ns: *now_ns, stalled_until_ns });
    }

    /// Whether a stream is a TURN client's.
    pub(super) fn is_of_turn(&self, stream: StreamKey) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.owns(stream))
    }
}

impl<P: Port> DataCore<P> {
    /// Leaves datagrams where they are, which takes no longer where there are many sockets.
    pub(super) fn pause_udp(&mut self) {
        self.port.unwatch_datagrams();
        self.udp_is_paused = true;
        self.frames.pause();
        if let Some(turn) = &mut self.turn {
            turn.pause();
        }
        if let Some(opaque) = &mut self.opaque {
            opaque.pause();
        }
    }

    /// Takes datagrams again, those first that have come meanwhile.
    pub(super) fn resume_udp(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.udp_is_paused) {
            return Ok(());
        }
        self.frames.resume();
        if let Some(turn) = &mut self.turn {
            turn.resume();
        }
        if let Some(opaque) = &mut self.opaque {
            opaque.resume();
        }
        let Self { port, turn, opaque, frames, .. } = self;
        watch_datagrams(port, turn.as_deref(), opaque.as_deref(), frames)
    }
}

/// Has a port watch the sockets of everybody who has UDP sockets on a core.
pub(super) fn watch_datagrams(
    port: &mut impl Port,
    turn: Option<&TurnServer>,
    opaque: Option<&OpaqueSessions>,
    frames: &Frames,
) -> io::Result<()> {
    let owners = [turn.map(TurnServer::sockets), opaque.map(OpaqueSessions::sockets)];
    let owners: Vec<_> = owners.into_iter().flatten().collect();
    if owners.is_empty() {
        return Ok(());
    }
    let frames = frames.descriptors()?;
    let frames: Vec<_> = frames.iter().map(AsFd::as_fd).collect();
    port.watch_datagrams(datagrams::readiness_of(&owners, &frames)?)
}

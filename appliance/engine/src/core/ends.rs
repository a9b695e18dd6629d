//! Deadlines and ends of connections: pings, idle links, refusals, and what is cleaned up.
//!
//! Whatever ends a connection comes through [`DataCore::close`], once. Between act three and the
//! end of a negotiation nothing may look like a clean end, which kills stock peers (spec §4.3).

use super::connection::{Connection, Ended, LinkInput, Phase};
use super::links::Failure;
use super::{DataCore, nanos};
use crate::control::{LinkTotals, Report};
use crate::fabric::LinkSide;
use crate::limits::{DRAINED_LINK_IDLE, LINGER};
use crate::port::{CloseMode, Port, Segment};
use std::io;
use waystation_astral::frame::Frame;
use waystation_astral::negotiation::Farewell;
use waystation_relay::drop_reason::DropReason;

/// What a peer inside a session is told when we end its negotiation.
const GIVEN_UP: &str = "link establishment was given up";

impl<P: Port> DataCore<P> {
    /// A connection's stream ended.
    pub(super) fn on_end(&mut self, slot: u32, ended: Ended) {
        let Some(connection) = self.connections.at(slot) else { return };
        let mode = match ended {
            Ended::Cleanly => CloseMode::Graceful,
            Ended::ByError => CloseMode::Reset,
        };
        match &connection.phase {
            Phase::Link(link) => {
                let whole = link.reader.at_boundary() && link.decoder.at_boundary();
                self.close(slot, (!whole).then_some(DropReason::LinkTruncated), mode);
            }
            // The peer may have ended its own direction alone, and still read.
            Phase::Negotiating(_) => {
                self.close(slot, Some(DropReason::HandshakeAbandoned), CloseMode::Reset);
            }
            Phase::Pipe(_) => self.on_pipe_end(slot, ended),
            phase => {
                let reason = phase.is_half_open().then_some(DropReason::HandshakeAbandoned);
                self.close(slot, reason, mode);
            }
        }
    }

    /// A connection's send was refused or broken off: because its stream has ended, or by a kernel
    /// that cannot send.
    pub(super) fn on_send_failed(&mut self, slot: u32, error: &io::Error) {
        use io::ErrorKind as Kind;
        let has_ended = matches!(
            error.kind(),
            Kind::BrokenPipe
                | Kind::ConnectionReset
                | Kind::ConnectionAborted
                | Kind::NotConnected
                | Kind::TimedOut
        );
        match self.connections.at(slot).map(|connection| &connection.phase) {
            Some(phase) if !has_ended && (phase.is_half_open() || phase.is_link()) => {
                self.close(slot, Some(DropReason::SocketError), CloseMode::Reset);
            }
            Some(_) | None => self.on_end(slot, Ended::ByError),
        }
    }

    /// Time has come to look at a connection.
    pub(super) fn on_deadline(&mut self, slot: u32) {
        let Some(connection) = self.connections.at(slot) else { return };
        match &connection.phase {
            Phase::Asking(_) => self.give_up(slot, DropReason::TargetTimeout),
            Phase::Fresh | Phase::Shaking(_) | Phase::Negotiating(_) => {
                self.give_up(slot, DropReason::HandshakeTimeout);
            }
            Phase::Link(_) => self.look_after_link(slot),
            Phase::Departing(_) => self.on_departure_deadline(slot),
            Phase::Lingering => self.close(slot, None, CloseMode::Graceful),
            Phase::Presenting(_)
            | Phase::Presented(_)
            | Phase::Idle(_)
            | Phase::HandingOff(_)
            | Phase::Waiting(_)
            | Phase::Pipe(_)
            | Phase::Leaving(..)
            | Phase::Dismissed => self.look_after_socket(slot),
        }
    }

    /// Pings a silent link, and closes one whose peer is gone or does not read, or that nobody has
    /// used for longer than the idle-link policy allows.
    fn look_after_link(&mut self, slot: u32) {
        let limits = &self.snapshot.limits;
        let stall_ns = nanos(limits.send_stall_timeout);
        let (idle_ns, draining) = (limits.link_idle_timeout.map(nanos), self.draining);
        let (now_ns, has_sessions) = (self.now_ns, self.fabric.switch.sessions_of(slot) > 0);
        let Some(connection) = self.connections.at_mut(slot) else { return };
        let sending_since_ns = connection.sending_since_ns;
        let Phase::Link(link) = &mut connection.phase else { return };
        if sending_since_ns != 0 && now_ns.saturating_sub(sending_since_ns) >= stall_ns {
            self.close(slot, Some(DropReason::PeerNotReading), CloseMode::Reset);
            return;
        }
        // The last of them may have ended just now.
        if has_sessions || link.had_sessions {
            link.active_ns = now_ns;
        }
        link.had_sessions = has_sessions;
        let idle_at_ns = match idle_ns {
            _ if draining => link.active_ns.saturating_add(nanos(DRAINED_LINK_IDLE)),
            Some(idle_ns) if !link.keep => link.active_ns.saturating_add(idle_ns),
            Some(_) | None => u64::MAX,
        };
        if now_ns >= idle_at_ns {
            let reason =
                if draining { DropReason::LinkClosedByOperator } else { DropReason::LinkIdle };
            self.close(slot, Some(reason), CloseMode::Graceful);
        } else if let Some(deadline_ns) = self.keep_alive(slot) {
            self.set_deadline(slot, deadline_ns.min(idle_at_ns));
        }
    }

    /// Pings a link that is silent. Returns when to look again, unless its peer is gone.
    fn keep_alive(&mut self, slot: u32) -> Option<u64> {
        let interval_ns = nanos(self.snapshot.limits.ping_interval);
        let timeout_ns = nanos(self.snapshot.limits.ping_timeout);
        let (now_ns, nonce) = (self.now_ns, self.entropy().u64());
        let Some(Connection { phase: Phase::Link(link), .. }) = self.connections.at_mut(slot)
        else {
            return None;
        };
        // Bulk may keep a pong waiting; a peer from which anything came is not gone.
        if link.ping.is_some_and(|(_, pinged_ns)| link.received_ns > pinged_ns) {
            link.ping = None;
        }
        match link.ping {
            // The core that a link has come from may have been a turn ahead.
            Some((_, pinged_ns)) if now_ns.saturating_sub(pinged_ns) >= timeout_ns => {
                self.close(slot, Some(DropReason::PingTimeout), CloseMode::Reset);
                None
            }
            Some((_, pinged_ns)) => Some(pinged_ns + timeout_ns),
            None if now_ns - link.received_ns.min(now_ns) >= interval_ns => {
                link.ping = Some((nonce, now_ns));
                self.fabric.switch.give_back_spare_memory(slot);
                if let Some(side) = self.fabric.side(slot) {
                    side.output.give_back_spare_memory();
                }
                self.fabric.control(slot, &Frame::Ping { nonce, pong: false });
                Some(now_ns + timeout_ns)
            }
            None => Some(link.received_ns + interval_ns),
        }
    }

    /// Ends a connection because of what its peer did.
    pub(super) fn fail(&mut self, slot: u32, failure: Failure) {
        match failure {
            Failure::Refused(reason, Farewell { bytes, reset: false }) if !bytes.is_empty() => {
                self.refuse(slot, reason, &bytes);
            }
            Failure::Dropped(reason) | Failure::Refused(reason, _) => self.give_up(slot, reason),
        }
    }

    /// Ends a connection at once: with a reset, and where there is none, inside a session, in
    /// words as long as the peer listens for them.
    pub(super) fn give_up(&mut self, slot: u32, reason: DropReason) {
        match self.connections.at(slot) {
            Some(Connection {
                phase: Phase::Negotiating(negotiating), inside: Some(_), ..
            }) if !negotiating.replied => {
                self.refuse(slot, reason, &Farewell::refusal(GIVEN_UP).bytes);
            }
            _ => self.close(slot, Some(reason), CloseMode::Reset),
        }
    }

    /// Says something to a peer that may not link, then ends its connection.
    fn refuse(&mut self, slot: u32, reason: DropReason, words: &[u8]) {
        self.fabric.count_drop(reason, 0);
        self.report_failure(slot, reason);
        if let Some(Some(side)) = self.fabric.sides.get_mut(slot as usize) {
            side.output.raw(words, &mut self.fabric.pool);
        }
        self.set_phase_counts(slot, -1);
        if let Some(connection) = self.connections.at_mut(slot)
            && let Phase::Negotiating(mut negotiating) =
                std::mem::replace(&mut connection.phase, Phase::Lingering)
        {
            negotiating.reader.discard(&mut self.fabric.pool);
        }
        self.set_deadline(slot, self.after(LINGER));
        self.say_farewell(slot);
    }

    /// Sends a refusal as soon as nothing else is in flight, then closes.
    pub(super) fn say_farewell(&mut self, slot: u32) {
        let Some(connection) = self.connections.at(slot) else { return };
        if connection.stream.is_some_and(|stream| self.port.is_sending(stream)) {
            return;
        }
        self.flush(slot);
        self.close(slot, None, CloseMode::Graceful);
    }

    /// Ends a connection, whatever it is, and everything that hangs on it.
    pub(super) fn close(&mut self, slot: u32, reason: Option<DropReason>, mode: CloseMode) {
        let tag = self.link_tag(slot);
        self.give_up_departure(slot);
        if self.connections.at(slot).is_some_and(|connection| connection.phase.is_half_open()) {
            self.report_failure(slot, reason.unwrap_or(DropReason::HandshakeAbandoned));
        }
        self.set_phase_counts(slot, -1);
        let socket = self.socket_tag(slot);
        let totals = self.totals(slot);
        let Some(connection) = self.connections.remove(slot) else { return };
        if let Some(reason) = reason {
            self.fabric.count_drop(reason, 0);
        }
        if let Some(stream) = connection.stream {
            if let Some(place) = self.by_stream.get_mut(stream.0 as usize) {
                *place = None;
            }
            if mode == CloseMode::Graceful && self.port.is_sending(stream) {
                let until_ns = self.after(self.snapshot.limits.send_stall_timeout);
                self.closing.begin(stream, until_ns);
            }
            self.port.close(stream, mode);
        }
        match connection.phase {
            Phase::Link(mut link) => {
                link.reader.discard(&mut self.fabric.pool);
                self.fabric.statistics.counters.links_closed += 1;
                self.fabric.switch.link_down(slot);
                self.fabric.apply_effects();
                let identity = link.identity;
                self.fabric.report(Report::LinkDown { link: tag, identity, reason, totals });
            }
            Phase::Negotiating(mut negotiating) => {
                negotiating.reader.discard(&mut self.fabric.pool);
            }
            Phase::Fresh
            | Phase::Asking(_)
            | Phase::Shaking(_)
            | Phase::Presenting(_)
            | Phase::Dismissed
            | Phase::Lingering => {}
            phase => {
                let age_ns = self.now_ns.saturating_sub(connection.accepted_ns);
                self.clean_up_socket((slot, socket), phase, age_ns, reason, mode);
            }
        }
        if let Some(leg) = connection.inside {
            self.fabric.forget_inner(slot);
            self.fabric.switch.inner_end(leg);
            self.fabric.apply_effects();
        }
        self.discard_side(slot);
    }

    /// Resets what was closed and whose peer does not take what was sent before.
    pub(super) fn reset_overdue(&mut self) {
        while let Some(stream) = self.closing.take_overdue(self.now_ns) {
            self.fabric.count_drop(DropReason::PeerNotReading, 0);
            self.port.close(stream, CloseMode::Reset);
        }
    }

    pub(super) fn discard_side(&mut self, slot: u32) {
        if let Some(Some(mut side)) = self.fabric.sides.get_mut(slot as usize).map(Option::take) {
            let port = &mut self.port;
            side.output.discard(&mut self.fabric.pool, |segment| {
                if let Segment::Receive { buffer, .. } = segment {
                    port.release(buffer);
                }
            });
        }
    }

    /// What passed over a link so far; nothing for any other connection.
    pub(super) fn totals(&self, slot: u32) -> LinkTotals {
        let Some(connection) = self.connections.at(slot) else { return LinkTotals::default() };
        let Some(link) = connection.phase.link() else { return LinkTotals::default() };
        let side = self.fabric.sides.get(slot as usize).and_then(Option::as_deref);
        let sent = side.map(|side| side.output.totals).unwrap_or_default();
        LinkTotals {
            bytes_in: link.payload_bytes_in,
            bytes_out: sent.payload_bytes,
            frames_in: link.frames_in,
            frames_out: sent.frames,
            age_ns: self.now_ns.saturating_sub(connection.accepted_ns),
        }
    }

    /// Memory that all links take for themselves, whatever passes over them: their places in the
    /// tables, both halves, and what those have on the heap. Buffers and sessions are counted
    /// elsewhere.
    pub(super) fn link_state_bytes(&self) -> usize {
        let place_bytes = size_of::<Connection>() + size_of::<Option<Box<LinkSide>>>();
        let links = self.connections.iter().filter_map(|(slot, _, connection)| {
            connection.phase.link()?;
            let side = self.fabric.sides.get(slot as usize)?.as_deref()?;
            let halves = size_of::<LinkInput>() + size_of::<LinkSide>() + side.output.heap_bytes();
            Some(place_bytes + halves + self.fabric.switch.link_state_bytes(slot))
        });
        links.sum()
    }

    /// Tells the management core of a connection that has not become a link.
    fn report_failure(&mut self, slot: u32, reason: DropReason) {
        let core = self.fabric.core;
        if let Some(Connection { dial, remote, .. }) = self.connections.at(slot) {
            let report = match *dial {
                Some(dial) => Report::DialFailed { dial, reason },
                None => Report::HandshakeFailed { core, remote: *remote, reason },
            };
            self.fabric.report(report);
        }
    }
}

//! Connections that are or become links, as bytes arrive for them: from their stream, or from the
//! session they run in.
//!
//! What the bytes mean is worked out by a [`Step`], in [`super::establish`] and [`super::frames`].

use super::DataCore;
use super::connection::{BufferFate, Connection, Phase};
use super::establish::first_phase;
use crate::clock;
use crate::control::{DialId, Network};
use crate::fabric::{Fabric, SealedInPlace};
use crate::port::arena::ReceiveBuffer;
use crate::port::{Port, ReceiveMode, Segment};
use std::net::SocketAddr;
use waystation_astral::identity::SecretKey;
use waystation_astral::negotiation::Farewell;
use waystation_relay::access::Access;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{LegTag, LinkTag};

/// Why a connection cannot go on.
pub(super) enum Failure {
    Dropped(DropReason),
    /// To be said before closing (spec §4.3).
    Refused(DropReason, Farewell),
}

/// What a step on received bytes works with.
pub(super) struct Step<'a> {
    pub(super) fabric: &'a mut Fabric,
    pub(super) secret: &'a SecretKey,
    pub(super) access: &'a Access,
    pub(super) slot: u32,
    pub(super) facts: LinkFacts,
    /// Whether the bytes lie in a receive buffer that can be sent from.
    pub(super) in_place: bool,
    pub(super) sealed: Option<SealedInPlace>,
}

/// What a link's report says besides what negotiation finds out.
#[derive(Clone, Copy)]
pub(super) struct LinkFacts {
    pub(super) link: LinkTag,
    pub(super) remote: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) inside: Option<LegTag>,
    pub(super) network: Network,
    pub(super) dial: Option<DialId>,
    pub(super) accepted_ns: u64,
}

impl<P: Port> DataCore<P> {
    /// Bytes arrived on a connection.
    pub(super) fn on_received(&mut self, slot: u32, buffer: ReceiveBuffer) {
        self.fabric.statistics.counters.receives += 1;
        self.fabric.opened_ns = clock::now_ns();
        if let Some(Connection { phase: Phase::Fresh, stream: Some(stream), .. }) =
            self.connections.at(slot)
        {
            let stream = *stream;
            let first = self.port.bytes_mut(&buffer).first().copied();
            let phase = first_phase(first);
            if matches!(phase, Phase::Shaking(_)) {
                self.port.set_receive_mode(stream, ReceiveMode::Continuous);
            }
            self.set_phase(slot, phase);
        }
        let fate = match self.connections.at(slot).map(|connection| &connection.phase) {
            Some(
                Phase::Fresh
                | Phase::Shaking(_)
                | Phase::Negotiating(_)
                | Phase::Link(_)
                | Phase::Lingering,
            ) => self.on_link_buffer(slot, buffer),
            Some(_) => self.on_socket_buffer(slot, buffer),
            None => BufferFate::Done(buffer),
        };
        if let BufferFate::Done(buffer) = fate {
            self.port.release(buffer);
        }
    }

    fn on_link_buffer(&mut self, slot: u32, buffer: ReceiveBuffer) -> BufferFate {
        let (total, free) = self.port.receive_buffers();
        let facts = self.facts(slot);
        let (Some(connection), Some(facts)) = (self.connections.at_mut(slot), facts) else {
            return BufferFate::Done(buffer);
        };
        let mut phase = std::mem::replace(&mut connection.phase, Phase::Lingering);
        let before = PhaseKind::of(&phase);
        let bytes = self.port.bytes_mut(&buffer);
        self.fabric.statistics.counters.wire_bytes_in += bytes.len() as u64;
        let mut step = Step {
            fabric: &mut self.fabric,
            secret: &self.secret,
            access: &self.snapshot.access,
            slot,
            facts,
            // Buffers in flight cannot receive; at least half of them always can.
            in_place: 2 * free >= total,
            sealed: None,
        };
        let outcome = step.feed(&mut phase, bytes);
        let sealed = step.sealed;
        self.restore_phase(slot, phase, before);
        self.send_plain();
        let fate = self.attach_sealed(sealed, buffer);
        if let Err(failure) = outcome {
            self.fail(slot, failure);
        }
        fate
    }

    /// Bytes arrived for links of our own inside sessions.
    pub(super) fn run_inner_links(&mut self) {
        self.start_inner_dials();
        while let Some(mut piece) = self.fabric.inner_inbox.pop_front() {
            let slot = piece.link;
            let Some(facts) = self.facts(slot) else { continue };
            let Some(connection) = self.connections.at_mut(slot) else { continue };
            if let Phase::Fresh = connection.phase {
                connection.phase = first_phase(piece.bytes.first().copied());
            }
            let mut phase = std::mem::replace(&mut connection.phase, Phase::Lingering);
            let before = PhaseKind::of(&phase);
            let mut step = Step {
                fabric: &mut self.fabric,
                secret: &self.secret,
                access: &self.snapshot.access,
                slot,
                facts,
                in_place: false,
                sealed: None,
            };
            let outcome = match phase {
                Phase::Presenting(_) => Err(Failure::Dropped(DropReason::HandshakeRejected)),
                _ => step.feed(&mut phase, &mut piece.bytes),
            };
            self.restore_phase(slot, phase, before);
            self.send_plain();
            if let Some(leg) = facts.inside {
                self.fabric.switch.inner_consumed(leg, piece.bytes.len());
                self.fabric.apply_effects();
            }
            if let Err(failure) = outcome {
                self.fail(slot, failure);
            }
            self.close_doomed();
        }
    }

    /// Sends what waits for a link inside a session.
    pub(super) fn flush_inner(&mut self, slot: u32) {
        let Some(leg) = self.connections.at(slot).and_then(|connection| connection.inside) else {
            return;
        };
        let waiting = self.fabric.switch.leg(leg).map_or(0, |leg| leg.queue.len());
        if waiting > crate::limits::INNER_QUEUE_MAX_BYTES {
            self.starved.push(slot);
            return;
        }
        let moved = self.fabric.fill(slot);
        let now_ns = clock::now_ns();
        let Fabric { sides, pool, statistics, switch, .. } = &mut self.fabric;
        let Some(Some(side)) = sides.get_mut(slot as usize) else { return };
        let segments = side.output.take_send(now_ns, pool, &mut statistics.histograms);
        statistics.counters.add_sent(side.output.new_totals());
        for segment in segments {
            if let Segment::Block { block, range } = segment {
                switch.inner_write(leg, &block[range], now_ns);
                pool.give_back(block);
            }
        }
        side.output.sent(now_ns, &mut statistics.histograms);
        let left = side.output.queued_bytes() > 0;
        self.fabric.apply_effects();
        // No send is in flight whose end would bring this link back.
        match self.fabric.switch.has_ready(slot) {
            true if moved => self.fabric.mark_dirty(slot),
            ready if ready || left => self.starved.push(slot),
            _ => {}
        }
    }

    /// Sends bytes on connections that have no output yet.
    pub(super) fn send_plain(&mut self) {
        while let Some((slot, bytes)) = self.fabric.plain_out.pop() {
            let Some(connection) = self.connections.at(slot) else { continue };
            match (connection.stream, connection.inside) {
                (Some(stream), _) => self.send_bytes(stream, &bytes),
                (None, Some(leg)) => {
                    self.fabric.switch.inner_write(leg, &bytes, self.now_ns);
                    self.fabric.apply_effects();
                }
                (None, None) => {}
            }
        }
    }

    fn attach_sealed(
        &mut self,
        sealed: Option<SealedInPlace>,
        buffer: ReceiveBuffer,
    ) -> BufferFate {
        let Some(SealedInPlace { link, record, place }) = sealed else {
            return BufferFate::Done(buffer);
        };
        let Some(Some(side)) = self.fabric.sides.get_mut(link as usize) else {
            return BufferFate::Done(buffer);
        };
        side.output.attach(place, Segment::Receive { buffer, range: record });
        BufferFate::Kept
    }

    fn facts(&self, slot: u32) -> Option<LinkFacts> {
        let connection = self.connections.at(slot)?;
        Some(LinkFacts {
            link: self.link_tag(slot),
            remote: connection.remote,
            local: connection.local,
            inside: connection.inside,
            network: connection.network,
            dial: connection.dial,
            accepted_ns: connection.accepted_ns,
        })
    }

    // Phases and what they count for

    /// Gives a connection a new phase.
    pub(super) fn set_phase(&mut self, slot: u32, phase: Phase) {
        self.set_phase_counts(slot, -1);
        if let Some(connection) = self.connections.at_mut(slot) {
            connection.phase = phase;
        }
        self.set_phase_counts(slot, 1);
    }

    /// Puts a phase back that was taken out for a step and may have become another.
    fn restore_phase(&mut self, slot: u32, phase: Phase, before: PhaseKind) {
        let after = PhaseKind::of(&phase);
        if let Some(connection) = self.connections.at_mut(slot) {
            connection.phase = phase;
        }
        if before != after {
            self.count_kind(before, -1);
            self.count_kind(after, 1);
            if after == PhaseKind::Link {
                self.fabric.statistics.counters.links_opened += 1;
                let limits = &self.snapshot.limits;
                let first = limits.link_idle_timeout.unwrap_or(limits.ping_interval);
                self.set_deadline(slot, self.after(first.min(limits.ping_interval)));
            }
        }
    }

    /// Counts a connection's phase in or out.
    pub(super) fn set_phase_counts(&mut self, slot: u32, change: isize) {
        if let Some(connection) = self.connections.at(slot) {
            self.count_kind(PhaseKind::of(&connection.phase), change);
        }
    }

    fn count_kind(&mut self, kind: PhaseKind, change: isize) {
        let count = match kind {
            PhaseKind::HalfOpen => &mut self.half_open,
            PhaseKind::Link => &mut self.links,
            PhaseKind::Socket => &mut self.sockets,
            PhaseKind::Pipe => {
                self.pipe_halves = self.pipe_halves.saturating_add_signed(change);
                &mut self.sockets
            }
            PhaseKind::Dismissed => {
                self.dismissed = self.dismissed.saturating_add_signed(change);
                &mut self.sockets
            }
            PhaseKind::Other => return,
        };
        *count = count.saturating_add_signed(change);
    }
}

/// What a phase counts as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PhaseKind {
    HalfOpen,
    Link,
    Socket,
    /// A raw socket too.
    Pipe,
    /// That too.
    Dismissed,
    Other,
}

impl PhaseKind {
    fn of(phase: &Phase) -> Self {
        match phase {
            Phase::Link(_) => Self::Link,
            Phase::Pipe(_) => Self::Pipe,
            Phase::Dismissed => Self::Dismissed,
            phase if phase.is_half_open() => Self::HalfOpen,
            phase if phase.is_socket() => Self::Socket,
            _ => Self::Other,
        }
    }
}

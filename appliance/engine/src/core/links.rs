//! Connections that are or become links, as bytes arrive for them: from their stream, or from the
//! session they run in.
//!
//! What the bytes mean is worked out by a [`Step`], in [`super::establish`] and [`super::frames`].

use super::DataCore;
use super::connection::{BufferFate, Connection, Ended, Phase};
use super::establish::first_phase;
use super::frames::Fed;
use super::ingress::{Budget, Input, Place, Receiving, Waiting};
use crate::clock;
use crate::control::{DialId, Network};
use crate::fabric::{Fabric, InnerInput, InnerPiece, SealedInPlace};
use crate::limits::{DRAINED_LINK_IDLE, RECORD_COST_BYTES, SHARE_BYTES, WAITING_SHARE_BYTES};
use crate::port::arena::ReceiveBuffer;
use crate::port::{Port, ReceiveMode, Segment};
use crate::record_reader::{InputProgress, OpenRecord};
use std::net::SocketAddr;
use waystation_astral::aead::AeadSuite;
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
    pub(super) aead: AeadSuite,
    pub(super) access: &'a Access,
    pub(super) slot: u32,
    pub(super) facts: LinkFacts,
    /// Whether the bytes lie in a receive buffer that can be sent from.
    pub(super) in_place: bool,
    pub(super) sealed: Option<SealedInPlace>,
    pub(super) budget: Budget,
    /// Frames that came in one record with the end of the negotiation, for which it had to stop.
    pub(super) leftover: Option<OpenRecord>,
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
        let received_bytes = buffer.len() as u64;
        self.fabric.statistics.counters.receives += 1;
        self.fabric.opened_ns = clock::now_ns();
        self.begin_first_phase(slot, &buffer);
        let turn = self.fabric.statistics.counters.turns;
        let place = self.place(slot);
        self.note_reaped(slot);
        let fate = match self.connections.at(slot).map(|connection| &connection.phase) {
            Some(Phase::Link(link)) => {
                self.fabric.statistics.counters.wire_bytes_in += received_bytes;
                let budget = link.share.budget(turn);
                if budget.is_spent() || self.ingress.is_waiting(place) {
                    self.let_wait(place, Input::Buffer(buffer));
                } else {
                    let waiting = Waiting::new(place, Input::Buffer(buffer), self.now_ns);
                    self.serve_at_once(waiting, budget);
                }
                BufferFate::Kept
            }
            Some(Phase::Shaking(_) | Phase::Negotiating(_)) => {
                self.fabric.statistics.counters.wire_bytes_in += received_bytes;
                self.let_wait(place, Input::Buffer(buffer));
                BufferFate::Kept
            }
            Some(Phase::Departing(_)) => {
                self.fabric.statistics.counters.wire_bytes_in += received_bytes;
                self.keep_for_departure(slot, Input::Buffer(buffer));
                BufferFate::Kept
            }
            // What comes after a refusal is ignored.
            Some(Phase::Fresh | Phase::Lingering) | None => BufferFate::Done(buffer),
            Some(_) => self.on_socket_buffer(slot, buffer),
        };
        if let BufferFate::Done(buffer) = fate {
            self.port.release(buffer);
        }
    }

    /// A connection's stream has ended, behind whatever of it waits.
    pub(super) fn on_receive_end(&mut self, slot: u32, ended: Ended) {
        if let Some(Phase::Departing(_)) = self.connections.at(slot).map(|it| &it.phase) {
            self.keep_for_departure(slot, Input::End(ended));
            return;
        }
        let place = self.place(slot);
        if self.ingress.is_waiting(place) {
            self.let_wait(place, Input::End(ended));
        } else {
            self.on_end(slot, ended);
        }
    }

    /// Tells a link from a raw socket.
    fn begin_first_phase(&mut self, slot: u32, buffer: &ReceiveBuffer) {
        let Some(Connection { phase: Phase::Fresh, stream: Some(stream), .. }) =
            self.connections.at(slot)
        else {
            return;
        };
        let stream = *stream;
        let phase = first_phase(self.port.bytes_mut(buffer).first().copied());
        if matches!(phase, Phase::Shaking(_)) {
            self.port.set_receive_mode(stream, ReceiveMode::Continuous);
        }
        self.set_phase(slot, phase);
    }

    // Turns

    fn let_wait(&mut self, place: Place, input: Input) {
        let asked = self.ingress.push(Waiting::new(place, input, self.now_ns));
        self.receive_as_asked(place, asked);
    }

    /// Serves a link that has not used up its share of this turn.
    fn serve_at_once(&mut self, waiting: Waiting, budget: Budget) {
        let place = waiting.place;
        let (rest, spent_bytes) = self.serve(waiting, budget);
        let turn = self.fabric.statistics.counters.turns;
        if let Some(Connection { phase: Phase::Link(link), .. }) =
            self.connections.get_mut(place.slot, place.generation)
        {
            link.share.spend(turn, spent_bytes);
        }
        if let Some(rest) = rest {
            let asked = self.ingress.push(rest);
            self.receive_as_asked(place, asked);
        }
    }

    /// Lets connections whose input waits have their turns, as far as that share of this turn goes.
    pub(super) fn serve_waiting(&mut self) {
        let reaped_ns = self.fabric.reaped_ns;
        let mut left_bytes = WAITING_SHARE_BYTES;
        while left_bytes > 0
            && let Some(waiting) = self.ingress.next()
        {
            let place = waiting.place;
            self.note_served(place, waiting.reaped_ns);
            self.fabric.reaped_ns = waiting.reaped_ns;
            self.fabric.opened_ns = clock::now_ns();
            let (rest, spent_bytes) = self.serve(waiting, Budget::new(SHARE_BYTES));
            left_bytes = left_bytes.saturating_sub(spent_bytes.max(RECORD_COST_BYTES));
            match rest {
                Some(rest) => self.ingress.put_back(rest),
                None => {
                    let asked = self.ingress.finish();
                    self.receive_as_asked(place, asked);
                }
            }
            self.close_doomed();
        }
        self.fabric.reaped_ns = reaped_ns;
    }

    pub(super) fn receive_as_asked(&mut self, place: Place, asked: Receiving) {
        let mode = match asked {
            Receiving::AsBefore => return,
            Receiving::Pause => ReceiveMode::OnRequest,
            Receiving::Resume => ReceiveMode::Continuous,
        };
        if let Some(stream) =
            self.connections.get(place.slot, place.generation).and_then(|it| it.stream)
        {
            self.port.set_receive_mode(stream, mode);
        }
    }

    /// Deals with an input as far as the budget goes. Returns what is left, and what was spent.
    fn serve(&mut self, waiting: Waiting, budget: Budget) -> (Option<Waiting>, usize) {
        let Place { slot, generation } = waiting.place;
        if self.connections.get(slot, generation).is_none() {
            self.discard(waiting);
            return (None, 0);
        }
        match waiting.input {
            Input::End(ended) => {
                self.on_end(slot, ended);
                (None, 0)
            }
            Input::Buffer(_) | Input::Copy(..) | Input::Gone => self.serve_bytes(waiting, budget),
        }
    }

    fn serve_bytes(&mut self, mut waiting: Waiting, budget: Budget) -> (Option<Waiting>, usize) {
        let slot = waiting.place.slot;
        let (total, free) = self.port.receive_buffers();
        let facts = self.facts(slot);
        let (Some(connection), Some(facts)) = (self.connections.at_mut(slot), facts) else {
            self.discard(waiting);
            return (None, 0);
        };
        // Buffers in flight cannot receive; at least half of them always can.
        let in_place = matches!(waiting.input, Input::Buffer(_)) && 2 * free >= total;
        let bytes = match &mut waiting.input {
            Input::Buffer(buffer) => self.port.bytes_mut(buffer),
            Input::Copy(block, bytes) => &mut block[..*bytes],
            Input::Gone | Input::End(_) => &mut [],
        };
        let mut phase = std::mem::replace(&mut connection.phase, Phase::Lingering);
        let before = PhaseKind::of(&phase);
        let mut step = Step {
            fabric: &mut self.fabric,
            secret: &self.secret,
            aead: self.aead,
            access: &self.snapshot.access,
            slot,
            facts,
            in_place,
            sealed: None,
            budget,
            leftover: None,
        };
        let outcome = step.feed(&mut phase, bytes, &mut waiting.progress);
        let (sealed, spent_bytes) = (step.sealed.take(), step.budget.spent_bytes());
        self.restore_phase(slot, phase, before);
        self.send_plain();
        let attached =
            self.attach_sealed(sealed, &mut waiting, matches!(outcome, Ok(Fed::Stopped)));
        match outcome.and_then(|fed| attached.map(|()| fed)) {
            Ok(Fed::Stopped) => return (Some(waiting), spent_bytes),
            Ok(Fed::All) => self.discard(waiting),
            Err(failure) => {
                self.discard(waiting);
                self.fail(slot, failure);
            }
        }
        (None, spent_bytes)
    }

    /// Sends a buffer on with the payload that was sealed in it, whatever becomes of its link: the
    /// other side's next record can only be opened after this one. What it holds besides goes on in
    /// a copy if the step has stopped before its end.
    fn attach_sealed(
        &mut self,
        sealed: Option<SealedInPlace>,
        waiting: &mut Waiting,
        stopped: bool,
    ) -> Result<(), Failure> {
        let Some(SealedInPlace { link, record, place }) = sealed else { return Ok(()) };
        let Input::Buffer(buffer) = &waiting.input else { return Ok(()) };
        let rest = match stopped {
            true => &self.port.bytes_mut(buffer)[waiting.progress.cursor..],
            false => &mut [],
        };
        let mut copied = Ok(());
        let mut input = Input::Gone;
        if !rest.is_empty() {
            // A step stops with something sealed only when there is a block.
            match self.fabric.pool.take() {
                Some(mut block) => {
                    block[..rest.len()].copy_from_slice(rest);
                    input = Input::Copy(block, rest.len());
                }
                None => copied = Err(Failure::Dropped(DropReason::BufferExhausted)),
            }
        }
        waiting.progress.cursor = 0;
        let received = std::mem::replace(&mut waiting.input, input);
        let side = self.fabric.sides.get_mut(link as usize).and_then(Option::as_deref_mut);
        match (received, side) {
            (Input::Buffer(buffer), Some(side)) => {
                side.output.attach(place, Segment::Receive { buffer, range: record });
            }
            (Input::Buffer(buffer), None) => self.port.release(buffer),
            _ => {}
        }
        copied
    }

    pub(super) fn discard(&mut self, mut waiting: Waiting) {
        waiting.progress.discard(&mut self.fabric.pool);
        match waiting.input {
            Input::Buffer(buffer) => self.port.release(buffer),
            Input::Copy(block, _) => self.fabric.pool.give_back(block),
            Input::End(_) | Input::Gone => {}
        }
    }

    // Links inside sessions

    /// Bytes arrived for links of our own inside sessions, or these ended.
    pub(super) fn run_inner_links(&mut self) {
        self.start_inner_dials();
        let mut left_bytes = WAITING_SHARE_BYTES;
        while left_bytes > 0
            && let Some(InnerPiece { link, input }) = self.fabric.inner_inbox.pop_front()
        {
            match input {
                InnerInput::End => self.on_end(link, Ended::Cleanly),
                InnerInput::Bytes(bytes, progress) => {
                    let spent_bytes =
                        self.feed_inner(link, bytes, progress, Budget::new(left_bytes));
                    left_bytes = left_bytes.saturating_sub(spent_bytes.max(RECORD_COST_BYTES));
                }
            }
            self.close_doomed();
        }
    }

    /// Returns what was spent.
    fn feed_inner(
        &mut self,
        slot: u32,
        mut bytes: Box<[u8]>,
        mut progress: InputProgress,
        budget: Budget,
    ) -> usize {
        let facts = self.facts(slot);
        let (Some(connection), Some(facts)) = (self.connections.at_mut(slot), facts) else {
            progress.discard(&mut self.fabric.pool);
            return 0;
        };
        if let Phase::Fresh = connection.phase {
            connection.phase = first_phase(bytes.first().copied());
        }
        let mut phase = std::mem::replace(&mut connection.phase, Phase::Lingering);
        let before = PhaseKind::of(&phase);
        let mut step = Step {
            fabric: &mut self.fabric,
            secret: &self.secret,
            aead: self.aead,
            access: &self.snapshot.access,
            slot,
            facts,
            in_place: false,
            sealed: None,
            budget,
            leftover: None,
        };
        let outcome = match phase {
            Phase::Presenting(_) => Err(Failure::Dropped(DropReason::HandshakeRejected)),
            _ => step.feed(&mut phase, &mut bytes, &mut progress),
        };
        let spent_bytes = step.budget.spent_bytes();
        self.restore_phase(slot, phase, before);
        self.send_plain();
        if let Ok(Fed::Stopped) = outcome {
            let input = InnerInput::Bytes(bytes, progress);
            self.fabric.inner_inbox.push_front(InnerPiece { link: slot, input });
            return spent_bytes;
        }
        progress.discard(&mut self.fabric.pool);
        if let Some(leg) = facts.inside {
            self.fabric.switch.inner_consumed(leg, bytes.len());
            self.fabric.apply_effects();
        }
        if let Err(failure) = outcome {
            self.fail(slot, failure);
        }
        spent_bytes
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
                let idle = limits.link_idle_timeout.unwrap_or(limits.ping_interval);
                let first = if self.draining { DRAINED_LINK_IDLE } else { idle };
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
            Phase::Link(_) | Phase::Departing(_) => Self::Link,
            Phase::Pipe(_) => Self::Pipe,
            Phase::Dismissed => Self::Dismissed,
            phase if phase.is_half_open() => Self::HalfOpen,
            phase if phase.is_socket() => Self::Socket,
            _ => Self::Other,
        }
    }
}

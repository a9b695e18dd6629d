//! Links on a data core: handshake, negotiation, frames in, pings, and the end of a connection.

use super::DataCore;
use super::connection::LinkInput;
use super::connection::{
    ACT_MAX_BYTES, BufferFate, Connection, Ended, Negotiating, Phase, Shaking,
};
use crate::clock;
use crate::control::{LinkUp, Report};
use crate::fabric::{Fabric, LinkSide, Piece, SealedInPlace};
use crate::limits::{IN_PLACE_MIN_BYTES, LINGER};
use crate::output::LinkOutput;
use crate::port::arena::ReceiveBuffer;
use crate::port::{CloseMode, Port, ReceiveMode, Segment};
use crate::record_reader::{Found, RecordReader};
use crate::statistics::{Stage, TrafficClass};
use std::ops::Range;
use waystation_astral::brontide::{ACT_ONE_BYTES, ACT_THREE_BYTES, RECORD_HEADER_BYTES, Responder};
use waystation_astral::frame::{Decoded, Frame, FrameDecoder, Profile, data_header_bytes};
use waystation_astral::identity::SecretKey;
use waystation_astral::negotiation::{Acceptor, Established, Farewell, Progress};
use waystation_relay::drop_reason::DropReason;

/// Room a payload needs in front of it to be sealed in place for any profile.
const IN_PLACE_HEAD_BYTES: usize = RECORD_HEADER_BYTES + data_header_bytes(Profile::P4);

/// The first byte of act one, which no nonce of ours starts with (spec §11.2).
const FIRST_BYTE_OF_A_LINK: u8 = 0;

/// Why a connection cannot go on.
enum Failure {
    Dropped(DropReason),
    /// To be said before closing (spec §4.3).
    Refused(Farewell),
}

/// What a step on received bytes works with.
struct Step<'a> {
    fabric: &'a mut Fabric,
    secret: &'a SecretKey,
    slot: u32,
    facts: LinkFacts,
    /// Whether the bytes lie in a receive buffer that can be sent from.
    in_place: bool,
    sealed: Option<SealedInPlace>,
}

/// What a link's report says besides what negotiation finds out.
#[derive(Clone, Copy)]
struct LinkFacts {
    link: waystation_relay::ids::LinkTag,
    remote: std::net::SocketAddr,
    local: std::net::SocketAddr,
    inside: Option<waystation_relay::ids::LegTag>,
    accepted_ns: u64,
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
        while let Some(mut piece) = self.fabric.inner_inbox.pop_front() {
            let slot = piece.link;
            let Some(facts) = self.facts(slot) else { continue };
            let Some(connection) = self.connections.at_mut(slot) else { continue };
            if let Phase::Fresh = connection.phase {
                connection.phase = first_phase(piece.bytes.first().copied());
            }
            let mut phase = std::mem::replace(&mut connection.phase, Phase::Lingering);
            let before = PhaseKind::of(&phase);
            let (fabric, secret) = (&mut self.fabric, &self.secret);
            let mut step = Step { fabric, secret, slot, facts, in_place: false, sealed: None };
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
        self.fabric.fill(slot);
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
        self.fabric.apply_effects();
    }

    /// Opens a link of our own inside a session that the management core gave us.
    pub(super) fn terminate_inside(&mut self, leg: waystation_relay::ids::LegTag) {
        let outer = self.fabric.switch.leg(leg).map(|leg| leg.link);
        let Some(outer) = outer.and_then(|outer| self.connections.at(outer)) else { return };
        let deadline_ns = self.after(self.limits.handshake_timeout);
        let mut inner = Connection::new(None, outer.remote, outer.local, self.now_ns, deadline_ns);
        inner.inside = Some(leg);
        let slot = self.insert(inner);
        self.half_open += 1;
        if !self.fabric.switch.terminate_inside(leg, slot) {
            self.close(slot, None, CloseMode::Graceful);
        }
        self.fabric.apply_effects();
    }

    /// A connection's stream ended.
    pub(super) fn on_end(&mut self, slot: u32, ended: Ended) {
        let Some(connection) = self.connections.at(slot) else { return };
        let reason = match &connection.phase {
            Phase::Link(link) => {
                let whole = link.reader.at_boundary() && link.decoder.at_boundary();
                (!whole).then_some(DropReason::LinkTruncated)
            }
            Phase::Fresh | Phase::Shaking(_) | Phase::Negotiating(_) | Phase::Presenting(_) => {
                Some(DropReason::HandshakeAbandoned)
            }
            Phase::Pipe(_) => {
                self.on_pipe_end(slot, ended);
                return;
            }
            Phase::Presented(_)
            | Phase::Idle(_)
            | Phase::HandingOff(_)
            | Phase::Waiting(_)
            | Phase::Leaving(..)
            | Phase::Dismissed
            | Phase::Lingering => None,
        };
        let mode = match ended {
            Ended::Cleanly => CloseMode::Graceful,
            Ended::ByError => CloseMode::Reset,
        };
        self.close(slot, reason, mode);
    }

    /// Time has come to look at a connection.
    pub(super) fn on_deadline(&mut self, slot: u32) {
        let Some(connection) = self.connections.at(slot) else { return };
        match &connection.phase {
            Phase::Fresh | Phase::Shaking(_) | Phase::Negotiating(_) => {
                self.close(slot, Some(DropReason::HandshakeTimeout), CloseMode::Reset);
            }
            Phase::Link(_) => self.look_after_link(slot),
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

    /// Pings an idle link, and closes one whose peer is gone or does not read.
    fn look_after_link(&mut self, slot: u32) {
        let interval_ns = nanos(self.limits.ping_interval);
        let timeout_ns = nanos(self.limits.ping_timeout);
        let stall_ns = nanos(self.limits.send_stall_timeout);
        let (now_ns, nonce) = (self.now_ns, self.entropy().u64());
        let Some(connection) = self.connections.at_mut(slot) else { return };
        let sending_since_ns = connection.sending_since_ns;
        let Phase::Link(link) = &mut connection.phase else { return };
        if sending_since_ns != 0 && now_ns.saturating_sub(sending_since_ns) >= stall_ns {
            self.close(slot, Some(DropReason::PeerNotReading), CloseMode::Reset);
            return;
        }
        // Bulk may keep a pong waiting; a peer from which anything came is not gone.
        if link.ping.is_some_and(|(_, pinged_ns)| link.received_ns > pinged_ns) {
            link.ping = None;
        }
        match link.ping {
            Some((_, pinged_ns)) if now_ns - pinged_ns >= timeout_ns => {
                self.close(slot, Some(DropReason::PingTimeout), CloseMode::Reset);
            }
            Some((_, pinged_ns)) => self.set_deadline(slot, pinged_ns + timeout_ns),
            None if now_ns - link.received_ns.min(now_ns) >= interval_ns => {
                link.ping = Some((nonce, now_ns));
                self.fabric.control(slot, &Frame::Ping { nonce, pong: false });
                self.set_deadline(slot, now_ns + timeout_ns);
            }
            None => {
                let deadline_ns = link.received_ns + interval_ns;
                self.set_deadline(slot, deadline_ns);
            }
        }
    }

    fn fail(&mut self, slot: u32, failure: Failure) {
        match failure {
            Failure::Dropped(reason) => self.close(slot, Some(reason), CloseMode::Reset),
            Failure::Refused(farewell) => {
                self.fabric.count_drop(DropReason::NegotiationRejected, 0);
                self.report_handshake_failure(slot, DropReason::NegotiationRejected);
                if farewell.bytes.is_empty() || farewell.reset {
                    self.close(slot, None, CloseMode::Reset);
                    return;
                }
                if let Some(Some(side)) = self.fabric.sides.get_mut(slot as usize) {
                    side.output.raw(&farewell.bytes, &mut self.fabric.pool);
                }
                self.set_phase(slot, Phase::Lingering);
                self.set_deadline(slot, self.after(LINGER));
                self.say_farewell(slot);
            }
        }
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
        let half_open = self.connections.at(slot).is_some_and(|c| c.phase.is_half_open());
        if let (true, Some(reason)) = (half_open, reason) {
            self.report_handshake_failure(slot, reason);
        }
        self.set_phase_counts(slot, -1);
        let socket = self.socket_tag(slot);
        let Some(connection) = self.connections.remove(slot) else { return };
        if let Some(reason) = reason {
            self.fabric.count_drop(reason, 0);
        }
        if let Some(stream) = connection.stream {
            if let Some(place) = self.by_stream.get_mut(stream.0 as usize) {
                *place = None;
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
                self.fabric.report(Report::LinkDown {
                    link: tag,
                    identity,
                    reason,
                    totals: crate::control::LinkTotals::default(),
                });
            }
            Phase::Negotiating(mut negotiating) => {
                negotiating.reader.discard(&mut self.fabric.pool);
            }
            Phase::Fresh
            | Phase::Shaking(_)
            | Phase::Presenting(_)
            | Phase::Dismissed
            | Phase::Lingering => {}
            phase => self.clean_up_socket(slot, socket, phase, reason, mode),
        }
        if let Some(leg) = connection.inside {
            self.fabric.switch.inner_end(leg);
            self.fabric.apply_effects();
        }
        if let Some(Some(mut side)) = self.fabric.sides.get_mut(slot as usize).map(Option::take) {
            let port = &mut self.port;
            side.output.discard(&mut self.fabric.pool, |segment| {
                if let Segment::Receive { buffer, .. } = segment {
                    port.release(buffer);
                }
            });
        }
    }

    fn report_handshake_failure(&mut self, slot: u32, reason: DropReason) {
        let core = self.fabric.core;
        if let Some(connection) = self.connections.at(slot) {
            let remote = connection.remote;
            self.fabric.report(Report::HandshakeFailed { core, remote, reason });
        }
    }

    /// Sends bytes on connections that have no output yet.
    fn send_plain(&mut self) {
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
                self.set_deadline(slot, self.after(self.limits.ping_interval));
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
    Other,
}

impl PhaseKind {
    fn of(phase: &Phase) -> Self {
        match phase {
            Phase::Link(_) => Self::Link,
            Phase::Pipe(_) => Self::Pipe,
            phase if phase.is_half_open() => Self::HalfOpen,
            phase if phase.is_socket() => Self::Socket,
            _ => Self::Other,
        }
    }
}

fn first_phase(first: Option<u8>) -> Phase {
    match first {
        Some(FIRST_BYTE_OF_A_LINK) | None => Phase::Shaking(Box::new(Shaking {
            act: [0; ACT_MAX_BYTES],
            act_bytes: 0,
            responder: None,
            act_one_done: false,
        })),
        Some(_) => Phase::Presenting(waystation_astral::gateway::NonceDecoder::new()),
    }
}

pub(super) fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

impl Step<'_> {
    /// Takes all of `bytes` through whatever phases they lead to.
    fn feed(&mut self, phase: &mut Phase, bytes: &mut [u8]) -> Result<(), Failure> {
        let mut cursor = 0;
        loop {
            match phase {
                Phase::Shaking(shaking) => {
                    if !collect_act(shaking, bytes, &mut cursor) {
                        return Ok(());
                    }
                    if let Some(next) = self.on_act(shaking)? {
                        *phase = next;
                    }
                }
                Phase::Negotiating(_) | Phase::Link(_) => {
                    if !self.feed_record(phase, bytes, &mut cursor)? {
                        return Ok(());
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn on_act(&mut self, shaking: &mut Shaking) -> Result<Option<Phase>, Failure> {
        let rejected = || Failure::Dropped(DropReason::HandshakeRejected);
        shaking.act_bytes = 0;
        if !shaking.act_one_done {
            let ephemeral = self.fabric.entropy.ephemeral_key();
            let mut responder =
                Responder::new(self.secret, &ephemeral).map_err(|_refused| rejected())?;
            let act = shaking.act.first_chunk().ok_or_else(rejected)?;
            let act_two = responder.act_one(act).map_err(|_refused| rejected())?;
            shaking.responder = Some(responder);
            shaking.act_one_done = true;
            self.send_act_two(&act_two);
            return Ok(None);
        }
        let responder = shaking.responder.take().ok_or_else(rejected)?;
        let (identity, transport) =
            responder.act_three(&shaking.act).map_err(|_refused| rejected())?;
        let link_id = self.fabric.entropy.nonce();
        let acceptor = Acceptor::new(link_id, self.fabric.entropy.bytes());
        let mut side = LinkSide {
            output: LinkOutput::new(transport.sealer),
            facts: None,
            inside: self.facts.inside,
        };
        side.output.raw(acceptor.greeting(), &mut self.fabric.pool);
        self.fabric.set_side(self.slot, side);
        self.fabric.mark_dirty(self.slot);
        let reader = RecordReader::new(transport.opener);
        Ok(Some(Phase::Negotiating(Box::new(Negotiating { reader, acceptor, identity, link_id }))))
    }

    /// Opens one record and deals with it. `false`: the input is used up.
    fn feed_record(
        &mut self,
        phase: &mut Phase,
        bytes: &mut [u8],
        cursor: &mut usize,
    ) -> Result<bool, Failure> {
        let pool = &mut self.fabric.pool;
        let reader = match phase {
            Phase::Negotiating(negotiating) => &mut negotiating.reader,
            Phase::Link(link) => &mut link.reader,
            _ => return Ok(false),
        };
        match reader.next(bytes, cursor, pool).map_err(Failure::Dropped)? {
            Found::Nothing => Ok(false),
            Found::InInput(plaintext) => {
                self.fabric.statistics.counters.records_opened += 1;
                let in_place = self.in_place;
                self.on_plaintext(phase, bytes, plaintext, in_place).map(|()| true)
            }
            Found::Carried => {
                self.fabric.statistics.counters.records_opened += 1;
                let Some((mut block, length)) = reader.take_carried() else { return Ok(false) };
                let outcome = self.on_plaintext(phase, &mut block, 0..length, false);
                self.fabric.pool.give_back(block);
                outcome.map(|()| true)
            }
        }
    }

    fn on_plaintext(
        &mut self,
        phase: &mut Phase,
        bytes: &mut [u8],
        plaintext: Range<usize>,
        in_place: bool,
    ) -> Result<(), Failure> {
        match phase {
            Phase::Negotiating(negotiating) => {
                let Some(established) = self.negotiate(negotiating, &bytes[plaintext])? else {
                    return Ok(());
                };
                self.establish(phase, established)
            }
            Phase::Link(link) => self.on_frames(link, bytes, plaintext, in_place),
            _ => Ok(()),
        }
    }

    fn negotiate(
        &mut self,
        negotiating: &mut Negotiating,
        plaintext: &[u8],
    ) -> Result<Option<Established>, Failure> {
        let mut reply = Vec::new();
        let progress = negotiating.acceptor.receive(plaintext, &mut reply);
        if let Some(Some(side)) = self.fabric.sides.get_mut(self.slot as usize)
            && !reply.is_empty()
        {
            side.output.raw(&reply, &mut self.fabric.pool);
            self.fabric.mark_dirty(self.slot);
        }
        match progress {
            Ok(Progress::More) => Ok(None),
            Ok(Progress::Done(established)) => Ok(Some(established)),
            Err(error) => Err(Failure::Refused(error.farewell())),
        }
    }

    fn establish(&mut self, phase: &mut Phase, established: Established) -> Result<(), Failure> {
        let Established { profile, link_id, mut leftover } = established;
        let old = std::mem::replace(phase, Phase::Lingering);
        let Phase::Negotiating(negotiating) = old else { return Ok(()) };
        let Negotiating { reader, identity, link_id: own_id, .. } = *negotiating;
        let facts = LinkUp {
            link: self.facts.link,
            identity,
            profile,
            link_id: link_id.unwrap_or(own_id),
            remote: self.facts.remote,
            local: self.facts.local,
            inner: self.facts.inside.is_some(),
            network: crate::control::Network::Tcp,
            dial: None,
        };
        let now_ns = self.fabric.opened_ns;
        let took_ns = now_ns.saturating_sub(self.facts.accepted_ns);
        let histograms = &mut self.fabric.statistics.histograms;
        histograms.record(Stage::Handshake, TrafficClass::Control, took_ns, 1);
        if let Some(Some(side)) = self.fabric.sides.get_mut(self.slot as usize) {
            side.output.set_profile(profile);
            side.facts = Some(facts.clone());
        }
        self.fabric.switch.link_up(self.slot, profile);
        self.fabric.report(Report::LinkUp(facts));
        let mut link = Box::new(LinkInput {
            reader,
            decoder: FrameDecoder::new(profile),
            profile,
            identity,
            link_id: link_id.unwrap_or(own_id),
            received_ns: now_ns,
            ping: None,
            ping_round_trip_ns: 0,
            // The first of a P2 peer's two ended the negotiation.
            prelude_pongs: u8::from(profile == Profile::P2),
            frames_in: 0,
            payload_bytes_in: 0,
        });
        let whole = 0..leftover.len();
        let outcome = self.on_frames(&mut link, &mut leftover, whole, false);
        *phase = Phase::Link(link);
        outcome
    }

    fn on_frames(
        &mut self,
        link: &mut LinkInput,
        bytes: &mut [u8],
        plaintext: Range<usize>,
        in_place: bool,
    ) -> Result<(), Failure> {
        let now_ns = self.fabric.opened_ns;
        link.received_ns = now_ns;
        let frames_before = link.frames_in;
        let mut cursor = 0;
        loop {
            let decoded = link.decoder.next(&bytes[plaintext.clone()], &mut cursor);
            let decoded = decoded.map_err(|_bad| Failure::Dropped(DropReason::FrameRejected))?;
            match decoded {
                None => break,
                Some(Decoded::Frame(Frame::Ping { nonce, pong })) => {
                    link.frames_in += 1;
                    self.on_ping(link, nonce, pong);
                }
                Some(Decoded::Frame(frame)) => {
                    link.frames_in += 1;
                    self.fabric.on_session_frame(self.slot, &frame);
                }
                Some(Decoded::Data { nonce, offset, bytes: count, first, .. }) => {
                    link.frames_in += u64::from(first);
                    link.payload_bytes_in += count as u64;
                    let start = plaintext.start + offset;
                    let range = start..start + count;
                    let in_place = in_place
                        && self.sealed.is_none()
                        && count >= IN_PLACE_MIN_BYTES
                        && range.end == plaintext.end
                        && start >= IN_PLACE_HEAD_BYTES;
                    let piece = Piece { buffer: &mut *bytes, range, in_place };
                    let sealed = self.fabric.on_data(self.slot, nonce, piece);
                    self.sealed = self.sealed.take().or(sealed);
                }
            }
        }
        let frames = link.frames_in - frames_before;
        let wait_ns = now_ns.saturating_sub(self.fabric.reaped_ns);
        let statistics = &mut self.fabric.statistics;
        statistics.counters.frames_in += frames;
        statistics.histograms.record(Stage::ReapToOpen, TrafficClass::Data, wait_ns, frames);
        Ok(())
    }

    fn on_ping(&mut self, link: &mut LinkInput, nonce: u64, pong: bool) {
        if !pong {
            self.fabric.control(self.slot, &Frame::Ping { nonce, pong: true });
            return;
        }
        match link.ping {
            Some((expected, pinged_ns)) if expected == nonce => {
                link.ping_round_trip_ns = self.fabric.opened_ns.saturating_sub(pinged_ns);
                link.ping = None;
            }
            Some(_) | None if link.prelude_pongs > 0 => link.prelude_pongs -= 1,
            Some(_) | None => self.fabric.count_drop(DropReason::UnknownSessionIgnored, 0),
        }
    }

    fn send_act_two(&mut self, act: &[u8]) {
        self.fabric.plain_out.push((self.slot, act.into()));
    }
}

/// Collects the bytes of the act that is due. `true`: it is complete.
fn collect_act(shaking: &mut Shaking, bytes: &[u8], cursor: &mut usize) -> bool {
    let due = if shaking.act_one_done { ACT_THREE_BYTES } else { ACT_ONE_BYTES };
    let rest = &bytes[*cursor..];
    let count = rest.len().min(due - shaking.act_bytes);
    shaking.act[shaking.act_bytes..shaking.act_bytes + count].copy_from_slice(&rest[..count]);
    shaking.act_bytes += count;
    *cursor += count;
    shaking.act_bytes == due
}

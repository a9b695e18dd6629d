//! Raw sockets of the gateway on a data core: nonces, idle connections, handoff and pipes.
//!
//! Spec §11.2. A pipe is two sockets of one core: what comes in on one goes out on the other from
//! the buffer it arrived in, and neither is received from faster than the other takes.

use super::connection::{
    BufferFate, Connection, Early, Ended, HandingOff, Idle, Leaving, Pending, Phase, PipeHalf,
    Unsent,
};
use super::{DataCore, nanos};
use crate::block::BLOCK_BYTES;
use crate::clock;
use crate::control::Report;
use crate::limits::{
    DISMISSED_FOR, DISMISSED_MAX, EARLY_BYTES_MAX, HANDOFF_TIMEOUT, PACED_READ_MIN_BYTES,
    PIPE_PENDING_MAX,
};
use crate::mesh::{MovedSocket, PipeQuotas};
use crate::port::arena::ReceiveBuffer;
use crate::port::{CloseMode, Port, ReceiveMode, Segment, Segments, StreamKey};
use crate::statistics::{Stage, TrafficClass};
use std::cmp::Reverse;
use std::net::TcpStream;
use waystation_astral::gateway::idle::{self, IdleDecoder, IdleMessage};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::SocketTag;

/// Bytes of idle messages looked at together: the longest object has 28.
const IDLE_PIECE_BYTES: usize = 64;

impl<P: Port> DataCore<P> {
    /// Bytes arrived on a connection that is no link.
    pub(super) fn on_socket_buffer(&mut self, slot: u32, buffer: ReceiveBuffer) -> BufferFate {
        match self.connections.at(slot).map(|connection| &connection.phase) {
            Some(Phase::Pipe(_)) => return self.on_pipe_buffer(slot, buffer),
            Some(Phase::Presenting(_)) => self.on_nonce_bytes(slot, &buffer),
            Some(Phase::Presented(_) | Phase::Waiting(_) | Phase::Leaving(..)) => {
                self.keep_early(slot, &buffer, 0);
            }
            Some(Phase::Idle(_)) => self.on_idle_bytes(slot, &buffer),
            Some(Phase::HandingOff(_)) => self.on_handoff_bytes(slot, &buffer),
            Some(_) | None => {}
        }
        BufferFate::Done(buffer)
    }

    // Nonces

    fn on_nonce_bytes(&mut self, slot: u32, buffer: &ReceiveBuffer) {
        let Some(Connection { phase: Phase::Presenting(decoder), stream, remote, .. }) =
            self.connections.at_mut(slot)
        else {
            return;
        };
        let (stream, remote) = (*stream, *remote);
        let mut cursor = 0;
        match decoder.next(self.port.bytes_mut(buffer), &mut cursor) {
            Ok(None) => self.receive_once(stream),
            Ok(Some(nonce)) => {
                self.set_phase(slot, Phase::Presented(Early::default()));
                // Before anything can end it: afterwards its place belongs to somebody else.
                let socket = self.socket_tag(slot);
                self.fabric.report(Report::SocketPresented { socket, remote, nonce });
                self.keep_early(slot, buffer, cursor);
            }
            Err(_) => self.close(slot, Some(DropReason::SocketNonceUnknown), CloseMode::Graceful),
        }
    }

    /// Keeps what comes behind a nonce until somebody can take it.
    fn keep_early(&mut self, slot: u32, buffer: &ReceiveBuffer, from: usize) {
        let bytes = &self.port.bytes_mut(buffer)[from..];
        if bytes.is_empty() {
            return;
        }
        let Some(connection) = self.connections.at_mut(slot) else { return };
        let early = match &mut connection.phase {
            Phase::Presented(early) | Phase::Waiting(early) => early,
            Phase::Leaving(leaving) => &mut leaving.early,
            _ => return,
        };
        if !early.keep(bytes, || self.fabric.pool.take()) {
            self.close(slot, Some(DropReason::BufferExhausted), CloseMode::Reset);
        }
    }

    // Idle connections

    /// The management core says: this socket belongs to a registration.
    pub(super) fn keep_idle(&mut self, socket: SocketTag) {
        let Some(connection) = self.connections.get_mut(socket.slot, socket.generation) else {
            return;
        };
        let stream = connection.stream;
        let Phase::Presented(early) = &mut connection.phase else { return };
        let early = std::mem::take(early);
        let now_ns = self.now_ns;
        let idle = Idle {
            decoder: IdleDecoder::new(),
            received_ns: now_ns,
            pinged_ns: 0,
            unsent: Unsent::new(),
        };
        self.set_phase(socket.slot, Phase::Idle(Box::new(idle)));
        self.set_deadline(socket.slot, self.after(self.snapshot.limits.idle_ping_interval));
        if let Some((block, bytes)) = early.block {
            self.on_idle_messages(socket.slot, &block[..bytes]);
            self.fabric.pool.give_back(block);
        }
        self.receive_once(stream);
    }

    fn on_idle_bytes(&mut self, slot: u32, buffer: &ReceiveBuffer) {
        // Answers go through the port that owns the buffer, so a piece at a time is taken out.
        let mut piece = [0; IDLE_PIECE_BYTES];
        for start in (0..buffer.len()).step_by(IDLE_PIECE_BYTES) {
            let rest = &self.port.bytes_mut(buffer)[start..];
            let bytes = rest.len().min(IDLE_PIECE_BYTES);
            piece[..bytes].copy_from_slice(&rest[..bytes]);
            self.on_idle_messages(slot, &piece[..bytes]);
        }
        let stream = self.connections.at(slot).and_then(|connection| connection.stream);
        self.receive_once(stream);
    }

    fn on_idle_messages(&mut self, slot: u32, bytes: &[u8]) {
        let mut cursor = 0;
        loop {
            let now_ns = self.now_ns;
            let Some(Connection { phase: Phase::Idle(idle), .. }) = self.connections.at_mut(slot)
            else {
                return;
            };
            (idle.received_ns, idle.pinged_ns) = (now_ns, 0);
            match idle.decoder.next(bytes, &mut cursor) {
                Ok(None) => return,
                Ok(Some(IdleMessage::Pong)) => {}
                Ok(Some(IdleMessage::Ping)) => self.say_idle(slot, idle::PONG),
                Ok(Some(IdleMessage::Handoff | IdleMessage::HandoffAck)) | Err(_) => {
                    let reason = DropReason::IdleProtocolViolation;
                    self.close(slot, Some(reason), CloseMode::Graceful);
                    return;
                }
            }
        }
    }

    /// Sends one object of the idle protocol in one write, behind what is in flight.
    fn say_idle(&mut self, slot: u32, object: &[u8]) {
        let Some(connection) = self.connections.at_mut(slot) else { return };
        let Some(stream) = connection.stream else { return };
        let unsent = match &mut connection.phase {
            Phase::Idle(idle) => &mut idle.unsent,
            Phase::HandingOff(handing) => &mut handing.unsent,
            _ => return,
        };
        // The event of a send that has ended may still be to come in this turn.
        if unsent.is_empty() && !self.port.is_sending(stream) {
            self.send_bytes(stream, object);
        } else if unsent.try_extend_from_slice(object).is_err() {
            // It asks without end and does not read the answers.
            self.close(slot, Some(DropReason::IdleProtocolViolation), CloseMode::Reset);
        }
    }

    /// A send on an idle connection ended. Another may have begun before its event was looked at.
    pub(super) fn on_idle_sent(&mut self, slot: u32) {
        let Some(connection) = self.connections.at_mut(slot) else { return };
        let Some(stream) = connection.stream else { return };
        if self.port.is_sending(stream) {
            return;
        }
        let unsent = match &mut connection.phase {
            Phase::Idle(idle) => std::mem::take(&mut idle.unsent),
            Phase::HandingOff(handing) => std::mem::take(&mut handing.unsent),
            _ => return,
        };
        if !unsent.is_empty() {
            self.send_bytes(stream, &unsent);
        }
    }

    // Handoff

    /// The management core says: join this caller to this idle connection.
    pub(super) fn join_sockets(&mut self, caller: SocketTag, idle: SocketTag, quotas: PipeQuotas) {
        let Some(connection) = self.connections.get_mut(caller.slot, caller.generation) else {
            self.fabric.report(Report::JoinFailed { idle });
            return;
        };
        let stream = connection.stream;
        let Phase::Presented(early) = &mut connection.phase else { return };
        let early = std::mem::take(early);
        if idle.core == self.fabric.core {
            self.set_phase(caller.slot, Phase::Waiting(early));
            self.hand_off(caller.slot, idle, quotas);
            return;
        }
        let leaving = Leaving { idle, early, quotas };
        self.set_phase(caller.slot, Phase::Leaving(Box::new(leaving)));
        self.set_deadline(caller.slot, self.after(HANDOFF_TIMEOUT));
        if let Some(stream) = stream {
            self.port.detach(stream);
        }
    }

    /// A caller's descriptor is free to go to the core of its idle connection.
    pub(super) fn on_detached(&mut self, stream: StreamKey, socket: TcpStream) {
        let slot = self.slot_of(stream);
        if let Some(place) = self.by_stream.get_mut(stream.0 as usize) {
            *place = None;
        }
        let Some(slot) = slot else { return };
        self.set_phase_counts(slot, -1);
        let Some(connection) = self.connections.remove(slot) else { return };
        let (remote, local) = (connection.remote, connection.local);
        let Phase::Leaving(leaving) = connection.phase else { return };
        let Leaving { idle, early, quotas } = *leaving;
        let early = early.block.map(|(block, bytes)| {
            let kept: Box<[u8]> = block[..bytes].into();
            self.fabric.pool.give_back(block);
            kept
        });
        let moved = MovedSocket { socket, remote, local, idle, early, quotas };
        if self.fabric.mesh.push_socket(idle.core, moved).is_err() {
            self.fabric.count_drop(DropReason::MeshFull, 0);
            self.fabric.report(Report::JoinFailed { idle });
        }
    }

    /// A caller came from another core.
    pub(super) fn on_moved_socket(&mut self, moved: MovedSocket) {
        let MovedSocket { socket, remote, local, idle, early, quotas } = moved;
        let Ok(stream) = self.port.add_stream(socket, ReceiveMode::OnRequest) else {
            self.fabric.count_drop(DropReason::TooManyConnections, 0);
            self.close_idle(idle);
            return;
        };
        let deadline_ns = self.after(HANDOFF_TIMEOUT);
        let connection = Connection::new(Some(stream), remote, local, self.now_ns, deadline_ns);
        let slot = self.insert(connection);
        self.half_open += 1;
        self.set_slot_of(stream, slot);
        let mut kept = Early::default();
        let pool = &mut self.fabric.pool;
        let whole = early.is_none_or(|bytes| kept.keep(&bytes, || pool.take()));
        self.set_phase(slot, Phase::Waiting(kept));
        if whole {
            self.hand_off(slot, idle, quotas);
        } else {
            self.close(slot, Some(DropReason::BufferExhausted), CloseMode::Reset);
            self.close_idle(idle);
        }
    }

    fn close_idle(&mut self, idle: SocketTag) {
        if self.connections.get(idle.slot, idle.generation).is_some() {
            self.close(idle.slot, None, CloseMode::Graceful);
        }
    }

    /// Tells an idle connection that it is given to a caller. From here on it gets no pong: that
    /// would land in the pipe (spec §11.2, trap a).
    fn hand_off(&mut self, caller: u32, idle: SocketTag, quotas: PipeQuotas) {
        // A caller from another core may be faster than the command to keep its idle connection.
        self.keep_idle(idle);
        let caller_generation = self.connections.generation_at(caller);
        let decoder = match self.connections.get_mut(idle.slot, idle.generation) {
            Some(Connection { phase: Phase::Idle(idle), .. }) => (
                std::mem::replace(&mut idle.decoder, IdleDecoder::new()),
                std::mem::take(&mut idle.unsent),
            ),
            Some(_) | None => {
                self.close(caller, Some(DropReason::TargetNotReachable), CloseMode::Graceful);
                return;
            }
        };
        let (decoder, unsent) = decoder;
        let handing = HandingOff { decoder, caller, caller_generation, quotas, unsent };
        self.set_phase(idle.slot, Phase::HandingOff(Box::new(handing)));
        let deadline_ns = self.after(HANDOFF_TIMEOUT);
        self.set_deadline(idle.slot, deadline_ns);
        self.set_deadline(caller, deadline_ns);
        self.say_idle(idle.slot, idle::HANDOFF);
    }

    fn on_handoff_bytes(&mut self, slot: u32, buffer: &ReceiveBuffer) {
        let mut cursor = 0;
        loop {
            let Some(Connection { phase: Phase::HandingOff(handing), stream, .. }) =
                self.connections.at_mut(slot)
            else {
                return;
            };
            let stream = *stream;
            match handing.decoder.next(self.port.bytes_mut(buffer), &mut cursor) {
                Ok(None) => {
                    self.receive_once(stream);
                    return;
                }
                Ok(Some(IdleMessage::Ping | IdleMessage::Pong)) => {}
                // Unless it acknowledges what it has not been sent.
                Ok(Some(IdleMessage::HandoffAck)) if handing.unsent.is_empty() => {
                    let caller = (handing.caller, handing.caller_generation);
                    let quotas = std::mem::take(&mut handing.quotas);
                    self.start_pipe(slot, caller, quotas, (buffer, cursor));
                    return;
                }
                Ok(Some(IdleMessage::Handoff | IdleMessage::HandoffAck)) | Err(_) => {
                    let reason = DropReason::IdleProtocolViolation;
                    self.close(slot, Some(reason), CloseMode::Graceful);
                    return;
                }
            }
        }
    }

    // Pipes

    fn start_pipe(
        &mut self,
        target: u32,
        (caller, generation): (u32, u32),
        quotas: PipeQuotas,
        (buffer, from): (&ReceiveBuffer, usize),
    ) {
        let mut first = Early::default();
        let bytes = &self.port.bytes_mut(buffer)[from..];
        if !first.keep(bytes, || self.fabric.pool.take()) {
            self.close(target, Some(DropReason::BufferExhausted), CloseMode::Reset);
            return;
        }
        let early = match self.connections.get_mut(caller, generation) {
            Some(Connection { phase: Phase::Waiting(early), .. }) => std::mem::take(early),
            Some(_) | None => {
                self.forget_early(first);
                self.close(target, None, CloseMode::Graceful);
                return;
            }
        };
        let now_ns = self.now_ns;
        self.fabric.statistics.counters.pipes_opened += 1;
        let mut halves = [
            PipeHalf::new(caller, quotas.idle, now_ns),
            PipeHalf::new(target, quotas.caller, now_ns),
        ];
        for (from, waiting) in [first, early].into_iter().enumerate() {
            let Some((block, bytes)) = waiting.block else { continue };
            self.fabric.statistics.counters.pipe_bytes += bytes as u64;
            halves[from].count_in(bytes, now_ns);
            let segment = Segment::Block { block, range: 0..bytes };
            halves[1 - from].pending.push(Pending { segment, reaped_ns: now_ns });
        }
        for (slot, half) in [target, caller].into_iter().zip(halves) {
            self.set_phase(slot, Phase::Pipe(Box::new(half)));
            self.set_deadline(slot, self.after(self.snapshot.limits.pipe_idle_timeout));
        }
        for (slot, other) in [(target, caller), (caller, target)] {
            self.pump(slot);
            self.ask_for_more(slot, other);
        }
    }

    fn on_pipe_buffer(&mut self, slot: u32, buffer: ReceiveBuffer) -> BufferFate {
        let (total, free) = self.port.receive_buffers();
        let (now_ns, bytes) = (self.now_ns, buffer.len());
        let histograms = &mut self.fabric.statistics.histograms;
        let wait_ns = self.fabric.opened_ns.saturating_sub(now_ns);
        histograms.record(Stage::ReapToOpen, TrafficClass::Pipe, wait_ns, 1);
        self.fabric.statistics.counters.pipe_bytes += bytes as u64;
        let Some(half) = self.half(slot) else { return BufferFate::Done(buffer) };
        half.count_in(bytes, now_ns);
        let other = half.other;
        // Buffers in flight cannot receive; at least half of them always can.
        let keep = 2 * free >= total;
        let (segment, fate) = if keep {
            (Some(Segment::Receive { buffer, range: 0..bytes }), BufferFate::Kept)
        } else {
            (self.copy_to_block(&buffer), BufferFate::Done(buffer))
        };
        let Some(segment) = segment else {
            self.close(slot, Some(DropReason::BufferExhausted), CloseMode::Reset);
            return fate;
        };
        let Some(half) = self.half(other) else {
            self.recycle_segment(segment);
            return fate;
        };
        half.active_ns = now_ns;
        if half.refuses {
            self.recycle_segment(segment);
            return fate;
        }
        let pending = Pending { segment, reaped_ns: now_ns };
        if let Err(full) = half.pending.try_push(pending) {
            // Receiving is asked for only while there is room.
            self.recycle_segment(full.element().segment);
            self.close(slot, Some(DropReason::BufferExhausted), CloseMode::Reset);
            return fate;
        }
        self.pump(other);
        self.ask_for_more(slot, other);
        fate
    }

    /// Sends what waits on one side, unless a send is in flight there.
    fn pump(&mut self, slot: u32) {
        let Some(Connection { phase: Phase::Pipe(half), stream: Some(stream), .. }) =
            self.connections.at_mut(slot)
        else {
            return;
        };
        if half.pending.is_empty() || self.port.is_sending(*stream) {
            return;
        }
        let now_ns = clock::now_ns();
        let mut segments = Segments::new();
        half.in_flight_reaped_ns = half.pending.first().map_or(0, |pending| pending.reaped_ns);
        half.in_flight_sent_ns = now_ns;
        for pending in half.pending.drain(..) {
            half.bytes_out += pending.segment.bytes() as u64;
            segments.push(pending.segment);
        }
        let in_box_ns = now_ns.saturating_sub(half.in_flight_reaped_ns);
        let histograms = &mut self.fabric.statistics.histograms;
        histograms.record(Stage::OpenToSeal, TrafficClass::Pipe, in_box_ns, 1);
        self.fabric.statistics.counters.sends += 1;
        let stream = *stream;
        self.port.send(stream, segments);
    }

    /// Asks for the next buffer of `slot` if `other` has room for it and the quota of whoever sends
    /// there allows it; the rest waits in the kernel, and TCP slows the sender down. A pipe that
    /// ends takes in nothing more.
    fn ask_for_more(&mut self, slot: u32, other: u32) {
        let ends = self.half(slot).is_none_or(|half| half.ended);
        let takes = |half: &mut PipeHalf| !half.ended && half.pending.len() < PIPE_PENDING_MAX;
        let room = !ends && self.half(other).is_some_and(takes);
        let stream = self.connections.at(slot).and_then(|connection| connection.stream);
        if room && !self.must_wait_for_quota(slot) {
            self.receive_once(stream);
        }
    }

    /// Whether nothing may be received on this side of a pipe yet; it is asked for then as soon
    /// as it may.
    fn must_wait_for_quota(&mut self, slot: u32) -> bool {
        let now_ns = self.now_ns;
        let generation = self.connections.generation_at(slot);
        let Some(half) = self.half(slot) else { return false };
        if half.ready_ns != 0 {
            return true;
        }
        let Some(quota) = half.quota.as_deref() else { return false };
        if quota.allowance_bytes(now_ns) > 0 {
            return false;
        }
        // Never in this turn: what is woken there must not wait there again.
        let ready_ns = quota.ready_ns(now_ns, PACED_READ_MIN_BYTES).max(now_ns + 1);
        half.ready_ns = ready_ns;
        self.paced.push(Reverse((ready_ns, slot, generation)));
        true
    }

    /// Goes on receiving where a quota allows it again.
    pub(super) fn wake_paced(&mut self) {
        while let Some(&Reverse((ready_ns, slot, generation))) = self.paced.peek() {
            if ready_ns > self.now_ns {
                return;
            }
            self.paced.pop();
            if let Some(Connection { phase: Phase::Pipe(half), .. }) =
                self.connections.get_mut(slot, generation)
            {
                half.ready_ns = 0;
                let other = half.other;
                self.ask_for_more(slot, other);
            }
        }
    }

    /// A send of a pipe ended.
    pub(super) fn on_pipe_sent(&mut self, slot: u32) {
        let now_ns = self.now_ns;
        let Some(Connection { phase: Phase::Pipe(half), .. }) = self.connections.at_mut(slot)
        else {
            return;
        };
        let other = half.other;
        if half.in_flight_sent_ns != 0 {
            let histograms = &mut self.fabric.statistics.histograms;
            let to_kernel_ns = now_ns.saturating_sub(half.in_flight_sent_ns);
            histograms.record(Stage::SealToSent, TrafficClass::Pipe, to_kernel_ns, 1);
            let residence_ns = now_ns.saturating_sub(half.in_flight_reaped_ns);
            histograms.record(Stage::Residence, TrafficClass::Pipe, residence_ns, 1);
            half.in_flight_sent_ns = 0;
        }
        self.pump(slot);
        self.finish_if_flushed(other);
        self.finish_if_flushed(slot);
        self.ask_for_more(other, slot);
    }

    /// One side of a pipe ended: what was taken from both goes out, then both close (spec §11.2).
    pub(super) fn on_pipe_end(&mut self, slot: u32, ended: Ended) {
        let Some(half) = self.half(slot) else { return };
        match ended {
            Ended::Cleanly => half.ended = true,
            // All that it sent has come in, and the other side gets it.
            Ended::ByError if half.ended => {
                half.refuses = true;
                let refused = std::mem::take(&mut half.pending);
                for pending in refused {
                    self.recycle_segment(pending.segment);
                }
            }
            Ended::ByError => {
                self.close(slot, Some(DropReason::PipeReset), CloseMode::Reset);
                return;
            }
        }
        self.finish_if_flushed(slot);
    }

    /// Closes a pipe of which this side has ended, once nothing waits on either side. What it sent
    /// itself goes first; then it has a while to take what is left for it.
    fn finish_if_flushed(&mut self, slot: u32) {
        let Some(half) = self.half(slot).filter(|half| half.ended) else { return };
        let (other, waits) = (half.other, half.drained_by_ns != 0);
        let refuses = half.refuses || self.half(other).is_some_and(|half| half.refuses);
        if !self.is_flushed(other) {
            return;
        }
        if self.is_flushed(slot) {
            let reason = refuses.then_some(DropReason::PipeReset);
            self.close(slot, reason, CloseMode::Graceful);
        } else if !waits {
            let drained_by_ns = self.after(self.snapshot.limits.send_stall_timeout);
            if let Some(half) = self.half(slot) {
                half.drained_by_ns = drained_by_ns;
            }
            self.set_deadline(slot, drained_by_ns);
        }
    }

    /// Whether nothing waits to go out on one side of a pipe.
    fn is_flushed(&self, slot: u32) -> bool {
        match self.connections.at(slot) {
            Some(Connection { phase: Phase::Pipe(half), stream: Some(stream), .. }) => {
                half.pending.is_empty() && !self.port.is_sending(*stream)
            }
            Some(_) | None => true,
        }
    }

    // Deadlines and ends

    /// The management core has no use for a socket. Counted and forgotten at once; but a registered
    /// node dials again without delay when its idle connection ends (spec §11.2, trap b), so one
    /// that nobody asked to end is closed only after a while.
    pub(super) fn close_socket(&mut self, socket: SocketTag, reason: DropReason) {
        let unwanted = self.dismissed < DISMISSED_MAX
            && matches!(reason, DropReason::TooManyConnections | DropReason::SocketNonceUnknown);
        let Some(connection) = self.connections.get_mut(socket.slot, socket.generation) else {
            return;
        };
        let early = match &mut connection.phase {
            Phase::Presented(early) if unwanted => std::mem::take(early),
            Phase::Idle(_) if unwanted => Early::default(),
            _ => return self.close(socket.slot, Some(reason), CloseMode::Graceful),
        };
        let age_ns = self.now_ns.saturating_sub(connection.accepted_ns);
        self.forget_early(early);
        self.set_phase(socket.slot, Phase::Dismissed);
        self.set_deadline(socket.slot, self.after(DISMISSED_FOR));
        self.fabric.count_drop(reason, 0);
        self.fabric.report(Report::SocketClosed {
            socket,
            reason: Some(reason),
            bytes_in: 0,
            bytes_out: 0,
            age_ns,
        });
    }

    /// Time has come to look at a raw socket.
    pub(super) fn look_after_socket(&mut self, slot: u32) {
        let now_ns = self.now_ns;
        let dead_ns = nanos(self.snapshot.limits.idle_dead_after);
        let interval_ns = nanos(self.snapshot.limits.idle_ping_interval);
        let pipe_idle_ns = nanos(self.snapshot.limits.pipe_idle_timeout);
        let Some(connection) = self.connections.at_mut(slot) else { return };
        match &mut connection.phase {
            Phase::Idle(idle) if now_ns >= idle.received_ns + dead_ns => {
                self.close(slot, Some(DropReason::IdlePingTimeout), CloseMode::Graceful);
            }
            Phase::Idle(idle) if idle.pinged_ns == 0 => {
                if now_ns < idle.received_ns + interval_ns {
                    let deadline_ns = idle.received_ns + interval_ns;
                    self.set_deadline(slot, deadline_ns);
                    return;
                }
                idle.pinged_ns = now_ns;
                let deadline_ns = idle.received_ns + dead_ns;
                self.say_idle(slot, idle::PING);
                self.set_deadline(slot, deadline_ns);
            }
            Phase::Idle(idle) => {
                let deadline_ns = idle.received_ns + dead_ns;
                self.set_deadline(slot, deadline_ns);
            }
            Phase::Pipe(half) if half.drained_by_ns != 0 && now_ns >= half.drained_by_ns => {
                self.close(slot, Some(DropReason::PeerNotReading), CloseMode::Graceful);
            }
            Phase::Pipe(half) if now_ns < half.active_ns + pipe_idle_ns => {
                let deadline_ns = match half.drained_by_ns {
                    0 => half.active_ns + pipe_idle_ns,
                    drained_by_ns => drained_by_ns.min(half.active_ns + pipe_idle_ns),
                };
                self.set_deadline(slot, deadline_ns);
            }
            Phase::Pipe(_) => {
                self.close(slot, Some(DropReason::PipeIdleTimeout), CloseMode::Graceful);
            }
            Phase::Dismissed => self.close(slot, None, CloseMode::Graceful),
            Phase::HandingOff(_) | Phase::Waiting(_) | Phase::Leaving(..) => {
                self.close(slot, Some(DropReason::HandoffTimeout), CloseMode::Graceful);
            }
            _ => self.close(slot, Some(DropReason::SocketNonceTimeout), CloseMode::Graceful),
        }
    }

    /// What hangs on a raw socket that was just removed.
    pub(super) fn clean_up_socket(
        &mut self,
        (slot, socket): (u32, SocketTag),
        phase: Phase,
        age_ns: u64,
        reason: Option<DropReason>,
        mode: CloseMode,
    ) {
        let (mut bytes_in, mut bytes_out) = (0, 0);
        match phase {
            Phase::Presented(early) | Phase::Waiting(early) => self.forget_early(early),
            Phase::Leaving(leaving) => {
                self.forget_early(leaving.early);
                // Nobody but this caller knows of it.
                self.fabric.report(Report::JoinFailed { idle: leaving.idle });
            }
            Phase::HandingOff(handing) => {
                let HandingOff { caller, caller_generation, .. } = *handing;
                if self.connections.get(caller, caller_generation).is_some() {
                    self.close(caller, None, mode);
                }
            }
            Phase::Pipe(mut half) => {
                (bytes_in, bytes_out) = (half.bytes_in, half.bytes_out);
                for pending in half.pending.drain(..) {
                    self.recycle_segment(pending.segment);
                }
                if self.half(half.other).is_some_and(|other| other.other == slot) {
                    self.close(half.other, None, mode);
                }
            }
            _ => {}
        }
        self.fabric.report(Report::SocketClosed { socket, reason, bytes_in, bytes_out, age_ns });
    }

    fn forget_early(&mut self, early: Early) {
        if let Some((block, _)) = early.block {
            self.fabric.pool.give_back(block);
        }
    }

    /// One half of a pipe, if that is what it is.
    pub(super) fn half(&mut self, slot: u32) -> Option<&mut PipeHalf> {
        match self.connections.at_mut(slot) {
            Some(Connection { phase: Phase::Pipe(half), .. }) => Some(half),
            Some(_) | None => None,
        }
    }

    fn copy_to_block(&mut self, buffer: &ReceiveBuffer) -> Option<Segment> {
        let bytes = self.port.bytes_mut(buffer);
        let range = 0..bytes.len();
        debug_assert!(bytes.len() <= BLOCK_BYTES);
        let mut block = self.fabric.pool.take()?;
        block[range.clone()].copy_from_slice(bytes);
        Some(Segment::Block { block, range })
    }

    fn receive_once(&mut self, stream: Option<StreamKey>) {
        if let Some(stream) = stream {
            self.port.receive_once(stream);
        }
    }
}

impl Early {
    /// Adds bytes. `false`: there is no room for them.
    fn keep(&mut self, bytes: &[u8], take: impl FnOnce() -> Option<crate::block::Block>) -> bool {
        if bytes.is_empty() {
            return true;
        }
        if self.block.is_none() {
            self.block = take().map(|block| (block, 0));
        }
        let Some((block, kept)) = &mut self.block else { return false };
        let end = *kept + bytes.len();
        if end > EARLY_BYTES_MAX {
            return false;
        }
        block[*kept..end].copy_from_slice(bytes);
        *kept = end;
        true
    }
}

impl PipeHalf {
    /// Accounts for bytes that came in here.
    fn count_in(&mut self, bytes: usize, now_ns: u64) {
        self.bytes_in += bytes as u64;
        self.active_ns = now_ns;
        if let Some(quota) = &self.quota {
            quota.spend(now_ns, bytes as u64);
        }
    }
}

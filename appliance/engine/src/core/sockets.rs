//! Raw sockets of the gateway on a data core: nonces, idle connections, handoff, and their ends.
//!
//! Spec §11.2. What two of them are once they are joined is in [`super::pipes`].

use super::connection::{BufferFate, Connection, Early, HandingOff, Idle, Leaving, Phase, Unsent};
use super::moving::Destination;
use super::{DataCore, nanos};
use crate::block::Block;
use crate::control::Report;
use crate::limits::{DISMISSED_FOR, DISMISSED_MAX, EARLY_BYTES_MAX, HANDOFF_TIMEOUT};
use crate::mesh::{MovedSocket, PipeQuotas};
use crate::port::arena::ReceiveBuffer;
use crate::port::{CloseMode, Port, ReceiveMode, StreamKey};
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
        if let Some(Phase::Departing(departing)) = self.connections.at(slot).map(|it| &it.phase) {
            match departing.to {
                Destination::Core(_) => self.leave_core(slot, socket),
                Destination::Process(_) => self.keep_socket(slot, socket),
            }
            return;
        }
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

    pub(super) fn forget_early(&mut self, early: Early) {
        if let Some((block, _)) = early.block {
            self.fabric.pool.give_back(block);
        }
    }

    pub(super) fn receive_once(&mut self, stream: Option<StreamKey>) {
        if let Some(stream) = stream {
            self.port.receive_once(stream);
        }
    }
}

impl Early {
    /// Adds bytes. `false`: there is no room for them.
    pub(super) fn keep(&mut self, bytes: &[u8], take: impl FnOnce() -> Option<Block>) -> bool {
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

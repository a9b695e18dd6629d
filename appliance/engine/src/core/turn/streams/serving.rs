//! Messages of TCP clients into the server, and what it says back into their streams.
//!
//! Part of the TURN server of one data core, on its thread. A stream is received from once at a
//! time, and only when what came before is used up, so clients that send much push back on nobody
//! but themselves. Payload to peers leaves from the buffer it was received in; payload to clients is
//! copied once, into the block that is sent next. A client whose stream ends loses its allocation.

use super::super::{Direction, TurnServer, count_answer, count_discard};
use super::input::Place;
use super::output::{Full, Kind};
use super::{ClientStream, ListenerKey};
use crate::clock;
use crate::core::closing::Closing;
use crate::fabric::Fabric;
use crate::limits::{
    TURN_STREAM_MESSAGES_PER_TURN, TURN_STREAM_SHARE_MESSAGES, TURN_UNSENT_BYTES,
    TURN_WITHOUT_ALLOCATION,
};
use crate::port::arena::ReceiveBuffer;
use crate::port::{CloseMode, Port, ReceiveMode, StreamKey};
use socket2::SockRef;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use waystation_relay::drop_reason::DropReason;
use waystation_turn::server::{Now, Outcome, ToClient};
use waystation_turn::transport::{FiveTuple, Transport};

/// What of the core serving a stream needs.
pub(in crate::core) struct Around<'a, P> {
    pub(in crate::core) port: &'a mut P,
    pub(in crate::core) fabric: &'a mut Fabric,
    pub(in crate::core) closing: &'a mut Closing,
    pub(in crate::core) now_ns: u64,
    /// Until when a client that was said goodbye may take what was sent to it.
    pub(in crate::core) stalled_until_ns: u64,
}

impl TurnServer {
    /// Whether a listener is for TURN clients.
    pub(in crate::core) fn listens_on(&self, listener: ListenerKey) -> bool {
        self.streams.listeners.contains(&listener)
    }

    /// Takes note of a connection to one of those.
    pub(in crate::core) fn note_accepted(&mut self, stream: TcpStream, remote: SocketAddr) {
        self.streams.accepted.push_back((stream, remote));
    }

    /// Whether a stream is a client's.
    pub(in crate::core) fn owns(&self, key: StreamKey) -> bool {
        self.streams.by_key.get(key.0 as usize).is_some_and(Option::is_some)
    }

    /// Takes what a client has sent; [`Self::serve_streams`] looks at it.
    pub(in crate::core) fn note_received<P: Port>(
        &mut self,
        key: StreamKey,
        buffer: ReceiveBuffer,
        around: &mut Around<'_, P>,
    ) {
        around.fabric.statistics.counters.turn_stream_receives += 1;
        match self.streams.get_mut(key) {
            Some(stream) if stream.buffer.is_none() => {
                stream.buffer = Some((buffer, 0));
                let generation = stream.generation;
                self.streams.waiting.push_back((key, generation));
            }
            _ => around.port.release(buffer),
        }
    }

    /// A client has ended its direction, which is the end of its allocation, or the connection has
    /// failed.
    pub(in crate::core) fn stream_ended<P: Port>(
        &mut self,
        key: StreamKey,
        is_failure: bool,
        around: &mut Around<'_, P>,
    ) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let is_torn = stream.input.is_within_message();
        let mode = if is_failure { CloseMode::Reset } else { CloseMode::Graceful };
        self.close_stream(key, is_torn.then_some(DropReason::TurnStreamTorn), mode, around);
    }

    /// A send to a client has ended. Its blocks are the core's again.
    pub(in crate::core) fn stream_sent<P: Port>(
        &mut self,
        key: StreamKey,
        result: &io::Result<()>,
        around: &mut Around<'_, P>,
    ) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let before = stream.output.blocks();
        stream.output.sent();
        self.streams.blocks -= before - stream.output.blocks();
        if result.is_err() {
            self.close_stream(key, None, CloseMode::Reset, around);
        } else {
            self.mark_dirty(key);
        }
    }

    /// Looks at what clients have sent, up to a bound, then at those that have just come, and sends
    /// what waits for any of them.
    pub(in crate::core) fn serve_streams<P: Port>(&mut self, around: &mut Around<'_, P>) {
        let now = Now { monotonic_ns: around.now_ns, unix_s: clock::unix_s() };
        let mut left = TURN_STREAM_MESSAGES_PER_TURN;
        // Each comes once in a turn; those that are not done go to the end of the line.
        for _ in 0..self.streams.waiting.len() {
            if left == 0 {
                break;
            }
            let Some((key, generation)) = self.streams.waiting.pop_front() else { break };
            if self.streams.is_current(key, generation) {
                let share = left.min(TURN_STREAM_SHARE_MESSAGES);
                left -= self.serve_stream(key, share, now, around);
            }
        }
        while let Some((stream, remote)) = self.streams.accepted.pop_front() {
            self.accept(stream, remote, around);
        }
        self.close_overdue(around);
        self.flush_streams(around);
    }

    // From clients

    fn accept<P: Port>(
        &mut self,
        stream: TcpStream,
        remote: SocketAddr,
        around: &mut Around<'_, P>,
    ) {
        let counters = &mut around.fabric.statistics.counters;
        counters.turn_streams_accepted += 1;
        if let Err(reason) = self.streams.has_room_for(remote) {
            around.fabric.count_drop(reason, 0);
            return;
        }
        let Ok(server) = stream.local_addr() else {
            around.fabric.count_drop(DropReason::SocketError, 0);
            return;
        };
        // Without them small messages wait, and more waits in the kernel; a client is served all
        // the same.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(TURN_UNSENT_BYTES);
        let Ok(key) = around.port.add_stream(stream, ReceiveMode::OnRequest) else {
            around.fabric.count_drop(DropReason::TooManyConnections, 0);
            return;
        };
        let tuple = FiveTuple { transport: Transport::Tcp, client: remote, server };
        self.streams.insert(key, tuple, around.now_ns + TURN_WITHOUT_ALLOCATION.as_nanos() as u64);
        around.port.receive_once(key);
    }

    /// Deals with up to so many messages of a stream. Returns how many there were.
    fn serve_stream<P: Port>(
        &mut self,
        key: StreamKey,
        share: usize,
        now: Now,
        around: &mut Around<'_, P>,
    ) -> usize {
        let Some(stream) = self.streams.get_mut(key) else { return 0 };
        let Some((buffer, mut at)) = stream.buffer.take() else { return 0 };
        let (tuple, generation) = (stream.tuple, stream.generation);
        // The parts of a stream that are at work leave their place meanwhile.
        let mut input = std::mem::take(&mut stream.input);
        let before = input.memory_bytes();
        let mut done = 0;
        let mut end = None;
        while done < share {
            let Some(stream) = self.streams.get_mut(key) else { break };
            let bytes_max = stream.message_bytes_max();
            let bytes = &*around.port.bytes_mut(&buffer);
            match input.next(bytes, &mut at, bytes_max) {
                Ok(None) => break,
                Err(fault) => {
                    end = Some(fault.reason());
                    break;
                }
                Ok(Some(Place::Buffer(place))) => {
                    end = self.take_message(key, &tuple, bytes, place, now, around.fabric);
                }
                Ok(Some(Place::Cut)) => {
                    // What is queued lies in the buffer, and this message does not.
                    self.send_from(bytes, around.fabric);
                    let whole = 0..input.cut().len();
                    end = self.take_message(key, &tuple, input.cut(), whole, now, around.fabric);
                    self.send_from(input.cut(), around.fabric);
                    input.forget_cut();
                }
            }
            done += 1;
            if end.is_some() {
                break;
            }
        }
        let bytes = &*around.port.bytes_mut(&buffer);
        let is_used_up = at == bytes.len() && done < share;
        self.send_from(bytes, around.fabric);
        self.tell_too_long(now, around.fabric);
        self.streams.cut_bytes += input.memory_bytes();
        self.streams.cut_bytes -= before;
        if let Some(stream) = self.streams.get_mut(key) {
            stream.input = input;
        }
        if end.is_none() && self.streams.holds_too_much() {
            end = Some(DropReason::BufferExhausted);
        }
        match end {
            Some(reason) => {
                around.port.release(buffer);
                self.close_stream(key, Some(reason), CloseMode::Reset, around);
            }
            None if is_used_up => {
                around.port.release(buffer);
                around.port.receive_once(key);
            }
            None => {
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.buffer = Some((buffer, at));
                }
                self.streams.waiting.push_back((key, generation));
            }
        }
        done
    }

    /// Deals with a message that lies at a place of the memory. Returns why its stream has to end,
    /// if it has.
    fn take_message(
        &mut self,
        key: StreamKey,
        tuple: &FiveTuple,
        memory: &[u8],
        place: Range<usize>,
        now: Now,
        fabric: &mut Fabric,
    ) -> Option<DropReason> {
        fabric.statistics.counters.turn_stream_messages += 1;
        let start = place.start;
        let packet = &memory[place];
        self.hosting.begin_stream(key);
        let outcome = self.server.receive(now, tuple, packet, &mut self.answer, &mut self.hosting);
        if self.hosting.end_stream()
            && let Some(stream) = self.streams.get_mut(key)
        {
            stream.was_admitted = true;
        }
        match outcome {
            Outcome::Answer { bytes, error } => {
                count_answer(fabric, error.is_some());
                return self.answer_stream(key, bytes, fabric);
            }
            Outcome::Relay(to_peer) => {
                self.queue_to_peer(&to_peer, start, fabric);
                if self.outgoing.is_full() {
                    self.send_from(memory, fabric);
                }
            }
            Outcome::Discard(discard) => count_discard(fabric, discard, packet.len()),
        }
        None
    }

    /// Puts an answer into a client's stream; a client that leaves so many unread goes.
    fn answer_stream(
        &mut self,
        key: StreamKey,
        bytes: usize,
        fabric: &mut Fabric,
    ) -> Option<DropReason> {
        let Self { streams, answer, .. } = self;
        let may_take = streams.may_take_block(Kind::Answer, &fabric.pool);
        let stream = streams.by_key.get_mut(key.0 as usize)?.as_deref_mut()?;
        let pieces = [&answer[..bytes], &[], &[]];
        let before = stream.output.blocks();
        let pushed = stream.output.push(pieces, Kind::Answer, may_take, &mut fabric.pool);
        streams.blocks += stream.output.blocks() - before;
        self.mark_dirty(key);
        match pushed {
            Ok(()) => None,
            Err(Full::NotReading) => Some(DropReason::PeerNotReading),
            Err(Full::NoBlock) => Some(DropReason::BufferExhausted),
        }
    }

    // To clients

    /// Copies payload that lies in the burst into the stream of its client.
    pub(in crate::core::turn) fn queue_to_stream(
        &mut self,
        to_client: &ToClient,
        payload: Range<usize>,
        fabric: &mut Fabric,
    ) {
        let bytes = payload.len();
        match self.push_to_stream(to_client, payload, fabric) {
            Ok(()) => {
                let counters = &mut fabric.statistics.counters;
                counters.turn_datagrams_to_clients += 1;
                counters.turn_bytes_to_clients += bytes as u64;
                self.hosting.count(to_client.allocation, Direction::ToClient, bytes);
            }
            Err(reason) => fabric.count_drop(reason, bytes),
        }
    }

    /// The same without counting it. What does not fit is lost, for a reason.
    pub(in crate::core::turn) fn push_to_stream(
        &mut self,
        to_client: &ToClient,
        payload: Range<usize>,
        fabric: &mut Fabric,
    ) -> Result<(), DropReason> {
        let may_take = self.streams.may_take_block(Kind::Payload, &fabric.pool);
        let key = self.hosting.stream_of(to_client.allocation);
        let Some((key, stream)) = key.and_then(|key| {
            let stream = self.streams.by_key.get_mut(key.0 as usize)?.as_deref_mut()?;
            (stream.tuple == to_client.client).then_some((key, stream))
        }) else {
            return Err(DropReason::TurnNoAllocation);
        };
        let padding = &[0; 4][..to_client.padding_bytes];
        let pieces = [&to_client.head[..], &self.burst.memory()[payload], padding];
        let before = stream.output.blocks();
        let pushed = stream.output.push(pieces, Kind::Payload, may_take, &mut fabric.pool);
        self.streams.blocks += stream.output.blocks() - before;
        match pushed {
            Ok(()) => self.mark_dirty(key),
            Err(Full::NotReading) => return Err(DropReason::TurnClientNotReading),
            Err(Full::NoBlock) => return Err(DropReason::BufferExhausted),
        }
        Ok(())
    }

    fn mark_dirty(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key)
            && !stream.is_dirty
        {
            stream.is_dirty = true;
            self.streams.dirty.push(key);
        }
    }

    /// Sends what waits, one send for each client that has none in flight.
    fn flush_streams<P: Port>(&mut self, around: &mut Around<'_, P>) {
        let mut dirty = std::mem::take(&mut self.streams.dirty);
        for key in dirty.drain(..) {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.is_dirty = false;
            flush(key, stream, around);
        }
        self.streams.dirty = dirty;
    }

    // Ends

    /// Ends streams that have been without an allocation for too long.
    fn close_overdue<P: Port>(&mut self, around: &mut Around<'_, P>) {
        let next_ns = around.now_ns + TURN_WITHOUT_ALLOCATION.as_nanos() as u64;
        while let Some((key, generation)) = self.streams.take_due(around.now_ns) {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            let has_one = self.server.has_allocation(&stream.tuple);
            // One that has lost its allocation since the last look may get another.
            if has_one || !std::mem::replace(&mut stream.is_without, true) {
                stream.is_without = !has_one;
                self.streams.deadlines.push_back((next_ns, key, generation));
            } else {
                let reason = Some(DropReason::TurnStreamIdle);
                self.close_stream(key, reason, CloseMode::Graceful, around);
            }
        }
    }

    fn close_stream<P: Port>(
        &mut self,
        key: StreamKey,
        reason: Option<DropReason>,
        mode: CloseMode,
        around: &mut Around<'_, P>,
    ) {
        let Some(mut stream) = self.streams.remove(key) else { return };
        if let Some(reason) = reason {
            around.fabric.count_drop(reason, 0);
        }
        self.server.disconnected(&stream.tuple, &mut self.hosting);
        if let Some((buffer, _)) = stream.buffer.take() {
            around.port.release(buffer);
        }
        if mode == CloseMode::Graceful {
            flush(key, &mut stream, around);
            if around.port.is_sending(key) {
                around.closing.begin(key, around.stalled_until_ns);
            }
        }
        stream.output.discard(&mut around.fabric.pool);
        around.port.close(key, mode);
    }
}

fn flush<P: Port>(key: StreamKey, stream: &mut ClientStream, around: &mut Around<'_, P>) {
    if !stream.output.is_empty() && !around.port.is_sending(key) {
        around.port.send(key, stream.output.take());
    }
}

//! Raw pipes: two sockets of one core, what comes in on one goes out on the other.
//!
//! Spec §11.2. Bytes go out from the buffer they arrived in, and neither side is received from
//! faster than the other takes, or than its identity's quota allows.

use super::DataCore;
use super::connection::{BufferFate, Connection, Early, Ended, Pending, Phase, PipeHalf};
use crate::block::BLOCK_BYTES;
use crate::clock;
use crate::limits::{PACED_READ_MIN_BYTES, PIPE_PENDING_MAX};
use crate::mesh::PipeQuotas;
use crate::port::arena::ReceiveBuffer;
use crate::port::{CloseMode, Port, Segment, Segments};
use crate::statistics::{Stage, TrafficClass};
use std::cmp::Reverse;
use waystation_relay::drop_reason::DropReason;

impl<P: Port> DataCore<P> {
    pub(super) fn start_pipe(
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

    pub(super) fn on_pipe_buffer(&mut self, slot: u32, buffer: ReceiveBuffer) -> BufferFate {
        let (total, free) = self.port.receive_buffers();
        let (now_ns, bytes) = (self.now_ns, buffer.len());
        let histograms = &mut self.fabric.statistics.histograms;
        let wait_ns = self.fabric.opened_ns.saturating_sub(now_ns);
        histograms.record(Stage::ReapToOpen, TrafficClass::Pipe, wait_ns, 1);
        self.fabric.statistics.counters.pipe_bytes += bytes as u64;
        self.fabric.statistics.counters.pipe_receives += 1;
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
        // A send of before that has ended, and whose event is still to come in this burst.
        self.note_pipe_sent(slot);
        let Some(Connection { phase: Phase::Pipe(half), stream: Some(stream), .. }) =
            self.connections.at_mut(slot)
        else {
            return;
        };
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
        self.sending.push((slot, now_ns));
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
        self.note_pipe_limits(slot);
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
                self.note_pipe_limits(slot);
                self.ask_for_more(slot, other);
            }
        }
    }

    /// A send of a pipe ended.
    pub(super) fn on_pipe_sent(&mut self, slot: u32) {
        let Some(Connection { phase: Phase::Pipe(half), stream, .. }) =
            self.connections.at_mut(slot)
        else {
            return;
        };
        let (other, stream) = (half.other, *stream);
        // What came in before this event in the same burst may have started the next send.
        if !stream.is_some_and(|stream| self.port.is_sending(stream)) {
            self.note_pipe_sent(slot);
        }
        self.pump(slot);
        self.finish_if_flushed(other);
        self.finish_if_flushed(slot);
        self.ask_for_more(other, slot);
    }

    /// Accounts for a send of a pipe that has ended, once.
    fn note_pipe_sent(&mut self, slot: u32) {
        let now_ns = self.now_ns;
        let Some(half) = self.half(slot) else { return };
        let (sent_ns, reaped_ns) = (half.in_flight_sent_ns, half.in_flight_reaped_ns);
        half.in_flight_sent_ns = 0;
        if sent_ns != 0 {
            let histograms = &mut self.fabric.statistics.histograms;
            let to_kernel_ns = now_ns.saturating_sub(sent_ns);
            histograms.record(Stage::SealToSent, TrafficClass::Pipe, to_kernel_ns, 1);
            let residence_ns = now_ns.saturating_sub(reaped_ns);
            histograms.record(Stage::Residence, TrafficClass::Pipe, residence_ns, 1);
        }
        self.set_stuck(slot, false);
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

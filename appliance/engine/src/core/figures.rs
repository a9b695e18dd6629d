//! What a core counts, put together for the management core.
//!
//! Runs on the core's thread, when the management core asks and when the core starts.

use super::DataCore;
use crate::clock;
use crate::control::Report;
use crate::port::Port;
use crate::statistics::CoreStatistics;

impl<P: Port> DataCore<P> {
    /// Sends what was counted so far, and goes on in what the management core gave back.
    pub(super) fn send_statistics(&mut self, recycled: Option<Box<CoreStatistics>>) {
        self.update_statistics();
        let now = &self.fabric.statistics;
        let mut next =
            recycled.unwrap_or_else(|| Box::new(CoreStatistics::new(now.core, now.port)));
        (next.core, next.port, next.cpu) = (now.core, now.port, now.cpu);
        next.counters.clone_from(&now.counters);
        next.limited_links = now.limited_links;
        let full = std::mem::replace(&mut self.fabric.statistics, next);
        self.fabric.report(Report::Statistics(full));
    }

    /// Brings the gauges and sums up to now.
    pub(super) fn update_statistics(&mut self) {
        let (buffers_total, buffers_free) = self.port.receive_buffers();
        let switch = self.fabric.switch.counters();
        let drops = self.fabric.switch.drops().clone();
        let link_state_bytes = self.link_state_bytes() as u64;
        let timers = self.wheel.len() as u64;
        let waiting = self.waiting.mode();
        let run_delay_ns = self.run_delay.read_ns();
        let statistics = &mut self.fabric.statistics;
        statistics.drops = drops;
        statistics.waiting = waiting;
        let counters = &mut statistics.counters;
        counters.cpu_ns = clock::thread_cpu_ns();
        counters.run_delay_ns = run_delay_ns;
        counters.up_ns = clock::now_ns() - self.started_ns;
        counters.links_open = self.links as u64;
        counters.link_state_bytes = link_state_bytes;
        counters.timers = timers;
        counters.half_open = self.half_open as u64;
        counters.sockets_open = self.sockets as u64;
        counters.pipes_open = self.pipe_halves as u64 / 2;
        counters.sessions_open = self.fabric.switch.sessions() as u64;
        counters.sessions_opened = switch.sessions_opened;
        counters.queries_received = switch.queries_received;
        counters.payload_bytes_in = switch.payload_bytes_in;
        counters.payload_bytes_out = switch.payload_bytes_out;
        counters.same_core_bytes = switch.same_core_bytes;
        counters.cross_core_bytes = switch.cross_core_bytes;
        counters.queued_bytes_total = switch.queued_bytes;
        counters.queued_bytes = self.fabric.switch.queue_bytes_in_use() as u64;
        counters.port_syscalls = self.port.syscalls();
        counters.receive_buffers_total = buffers_total as u64;
        counters.receive_buffers_free = buffers_free as u64;
        counters.blocks_total = self.fabric.pool.made() as u64;
        counters.blocks_free = (self.fabric.pool.made() - self.fabric.pool.in_use()) as u64;
        counters.block_bytes = crate::block::BLOCK_BYTES as u64;
        counters.mesh_batches_out = self.fabric.mesh.batches_sent();
        (counters.udp_sockets_open, counters.udp_syscalls) = (0, 0);
        (counters.udp_trains_sent, counters.udp_trains_refused) = (0, 0);
        if let Some(turn) = &self.turn {
            turn.update_counters(counters);
        }
        if let Some(opaque) = &self.opaque {
            opaque.add_counters(counters);
        }
        self.frames.add_counters(counters);
        counters.udp_watch_failures = self.port.datagram_watch_failures();
    }
}

//! What one data core measures: counters and latency histograms per stage and traffic class.
//!
//! One writer, the data core, without atomics; whole blocks are handed to the management core on
//! request and replaced by recycled ones. Counters run since the start, histograms since the
//! previous block.

use crate::output::OutputTotals;
use crate::port::datagrams::Sent;
use hdrhistogram::Histogram;
use waystation_relay::drop_reason::DropCounters;
use waystation_relay::ids::CoreId;
use waystation_relay::limiting::Cause;

/// Longest duration a histogram tells apart; longer ones count as this. One minute.
pub const HISTOGRAM_MAX_NS: u64 = 60_000_000_000;
/// Significant decimal digits of every histogram: values are exact to 1 %.
pub const HISTOGRAM_DIGITS: u8 = 2;

/// Where time was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// From accept to the end of negotiation.
    Handshake,
    /// From the completion being reaped to the record being opened.
    ReapToOpen,
    /// From opened to sealed for the outgoing link: time in the box. For raw pipes, from reaped to
    /// handed to the kernel.
    OpenToSeal,
    /// From sealed to accepted by the kernel.
    SealToSent,
    /// From reaped to accepted by the kernel.
    Residence,
    /// One turn of the loop, without the wait.
    Turn,
}

impl Stage {
    /// Every stage in the order of a byte's way.
    pub const ALL: [Self; 6] = [
        Self::Handshake,
        Self::ReapToOpen,
        Self::OpenToSeal,
        Self::SealToSent,
        Self::Residence,
        Self::Turn,
    ];

    /// The name in listings, tags and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::ReapToOpen => "reap_to_open",
            Self::OpenToSeal => "open_to_seal",
            Self::SealToSent => "seal_to_sent",
            Self::Residence => "residence",
            Self::Turn => "turn",
        }
    }
}

/// Whose time was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TrafficClass {
    /// Data frames of sessions.
    Data,
    /// Everything else on links: pongs, credit, queries, responses, resets.
    Control,
    /// Raw gateway pipes.
    Pipe,
}

impl TrafficClass {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Data, Self::Control, Self::Pipe];

    /// The name in listings, tags and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Control => "control",
            Self::Pipe => "pipe",
        }
    }
}

/// How a core waits for events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WaitMode {
    /// Until the first event.
    #[default]
    Sleep,
    /// Asking again for a moment before it sleeps.
    Spin,
    /// For a moment at least, so that it wakes up once for several events.
    Gather,
}

impl WaitMode {
    /// The name in listings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sleep => "sleep",
            Self::Spin => "spin",
            Self::Gather => "gather",
        }
    }
}

/// One histogram per stage and class.
#[derive(Clone, Debug)]
pub struct StageHistograms {
    histograms: Vec<Histogram<u64>>,
}

impl Default for StageHistograms {
    fn default() -> Self {
        Self::new()
    }
}

impl StageHistograms {
    /// Empty histograms, with all memory they will ever need.
    pub fn new() -> Self {
        let count = Stage::ALL.len() * TrafficClass::ALL.len();
        Self { histograms: (0..count).map(|_| empty_histogram()).collect() }
    }

    /// Records `count` durations of `duration_ns` each.
    pub fn record(&mut self, stage: Stage, class: TrafficClass, duration_ns: u64, count: u64) {
        // hdrhistogram takes a value into minimum and maximum even if it is recorded 0 times.
        if count > 0 {
            self.histograms[Self::place(stage, class)].saturating_record_n(duration_ns, count);
        }
    }

    /// One histogram.
    pub fn get(&self, stage: Stage, class: TrafficClass) -> &Histogram<u64> {
        &self.histograms[Self::place(stage, class)]
    }

    /// Adds another block to this one.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.histograms.iter_mut().zip(&other.histograms) {
            // Same bounds and precision everywhere, so adding cannot fail.
            let added = mine.add(theirs);
            debug_assert!(added.is_ok());
        }
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        for histogram in &mut self.histograms {
            // `clear` of the library forgets the counts, and neither the minimum nor the maximum.
            histogram.reset();
        }
    }

    fn place(stage: Stage, class: TrafficClass) -> usize {
        stage as usize * TrafficClass::ALL.len() + class as usize
    }
}

fn empty_histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, HISTOGRAM_MAX_NS, HISTOGRAM_DIGITS) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("constant bounds are valid: {error}"),
    }
}

/// Plain counters of one core since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreCounters {
    /// Turns of the loop.
    pub turns: u64,
    /// Nanoseconds spent outside of waiting.
    pub busy_ns: u64,
    /// CPU time of the thread as the kernel accounts it.
    pub cpu_ns: u64,
    /// Nanoseconds since the core started.
    pub up_ns: u64,
    pub connections_accepted: u64,
    pub links_opened: u64,
    pub links_closed: u64,
    /// Links that came from another core, or back from one, and that left for one.
    pub links_moved_in: u64,
    pub links_moved_out: u64,
    pub link_moves_refused: u64,
    pub links_open: u64,
    pub half_open: u64,
    pub sessions_opened: u64,
    pub sessions_open: u64,
    pub sockets_open: u64,
    pub pipes_opened: u64,
    pub pipes_open: u64,
    pub queries_received: u64,
    pub records_opened: u64,
    pub records_sealed: u64,
    pub records_sealed_in_place: u64,
    pub frames_in: u64,
    pub frames_out: u64,
    /// Bytes on the sockets of links.
    pub wire_bytes_in: u64,
    pub wire_bytes_out: u64,
    /// Payload of data frames received and sent.
    pub payload_bytes_in: u64,
    pub payload_bytes_out: u64,
    /// Payload joined to a leg on the same core, and on another.
    pub same_core_bytes: u64,
    pub cross_core_bytes: u64,
    pub pipe_bytes: u64,
    /// Payload that had to wait in a session's queue.
    pub queued_bytes_total: u64,
    /// Payload waiting now.
    pub queued_bytes: u64,
    pub receives: u64,
    pub sends: u64,
    /// System calls of the port: waits, and sends of the epoll port.
    pub port_syscalls: u64,
    pub receive_buffers_total: u64,
    pub receive_buffers_free: u64,
    pub blocks_total: u64,
    pub blocks_free: u64,
    pub block_bytes: u64,
    pub mesh_batches_out: u64,
    pub reports_lost: u64,
    /// Memory of links that are open, besides buffers and sessions.
    pub link_state_bytes: u64,
    /// Timers that have not fired yet. That of a connection which has ended fires for nobody.
    pub timers: u64,
    /// Nanoseconds in which the core waited in mode [`WaitMode::Spin`], turns included.
    pub spinning_ns: u64,
    /// The same for [`WaitMode::Gather`].
    pub gathering_ns: u64,
    /// Time in which the thread had something to do and another one had its CPU, as the kernel
    /// accounts it; 0 where it does not.
    pub run_delay_ns: u64,
    /// Nanoseconds of spinning in vain: asking for events again, and none had come. The thread had
    /// its CPU or waited for it all that time.
    pub empty_spins_ns: u64,
    /// Receives on raw pipes; [`Self::receives`] counts them too.
    pub pipe_receives: u64,
    pub turn_allocations_open: u64,
    pub turn_allocations_opened: u64,
    /// Answers to requests, and those of them that were refusals.
    pub turn_answers: u64,
    pub turn_refusals: u64,
    pub turn_keep_alives: u64,
    /// Payload that was relayed.
    pub turn_datagrams_to_peers: u64,
    pub turn_bytes_to_peers: u64,
    pub turn_datagrams_to_clients: u64,
    pub turn_bytes_to_clients: u64,
    /// Errors about their datagrams that clients were told of.
    pub turn_icmp_errors_told: u64,
    /// Clients that came over TCP, and messages in their streams.
    pub turn_streams_open: u64,
    pub turn_streams_accepted: u64,
    pub turn_stream_receives: u64,
    pub turn_stream_messages: u64,
    pub opaque_sessions_open: u64,
    pub opaque_sessions_opened: u64,
    /// Payload that was passed on.
    pub opaque_datagrams: u64,
    pub opaque_bytes: u64,
    /// Proofs that held.
    pub opaque_answers: u64,
    pub udp_sockets_open: u64,
    /// Messages hold one datagram, or a train of them.
    pub udp_messages_received: u64,
    pub udp_datagrams_received: u64,
    /// Relayed datagrams by how they were sent.
    pub udp_datagrams_sent_plainly: u64,
    pub udp_datagrams_sent_in_trains: u64,
    /// Those that the XDP program relayed; told about once a second.
    pub udp_datagrams_offloaded: u64,
    pub udp_trains_sent: u64,
    /// Trains that a route did not take; their datagrams were sent plainly.
    pub udp_trains_refused: u64,
    pub udp_syscalls: u64,
    /// Datagrams that came in frames (AF_XDP), and those that left so.
    pub udp_frames_received: u64,
    pub udp_datagrams_sent_in_frames: u64,
    /// Frames that were brought to a core, and that the kernel had no room for there.
    pub udp_frames_lost: u64,
    /// Those that left by a socket instead, by why: no next hop known to the kernel, or it is to look
    /// for it again; an interface without a socket for frames; too long; no room.
    pub udp_frames_no_hop: u64,
    pub udp_frames_other_interface: u64,
    pub udp_frames_too_long: u64,
    pub udp_frames_no_room: u64,
    /// Times that the port had to begin watching UDP sockets anew after an error.
    pub udp_watch_failures: u64,
}

impl CoreCounters {
    /// Time in which the thread was at work, or had work and waited for its CPU. Spinning in vain is
    /// neither.
    pub fn wanted_ns(&self) -> u64 {
        (self.cpu_ns + self.run_delay_ns).saturating_sub(self.empty_spins_ns)
    }

    /// Processor time that was not spent on spinning in vain. Spinning is measured by the clock, so
    /// what of it others may have had the CPU for is not taken off.
    ///
    /// Of what has grown in an interval: which of the two is larger changes between intervals.
    pub fn spent_ns(cpu_ns: u64, run_delay_ns: u64, empty_spins_ns: u64) -> u64 {
        cpu_ns.saturating_sub(empty_spins_ns.saturating_sub(run_delay_ns))
    }

    /// Adds what a link has sent. Its payload is counted where it is routed.
    pub fn add_sent(&mut self, sent: OutputTotals) {
        self.frames_out += sent.frames;
        self.records_sealed += sent.records;
        self.records_sealed_in_place += sent.records_in_place;
    }

    /// Counts a datagram by the way it left. One that is lost has none, and is counted as a drop.
    pub fn count_way_out(&mut self, sent: Sent) {
        match sent {
            Sent::Plainly => self.udp_datagrams_sent_plainly += 1,
            Sent::InTrain => self.udp_datagrams_sent_in_trains += 1,
            Sent::Framed => self.udp_datagrams_sent_in_frames += 1,
            Sent::Not(_) => {}
        }
    }
}

/// How many links of a core had which cause for the largest share of an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitedLinks {
    by_cause: [u64; Cause::COUNT],
}

impl LimitedLinks {
    /// One more link.
    pub fn count(&mut self, cause: Option<Cause>) {
        if let Some(cause) = cause {
            self.by_cause[cause as usize] += 1;
        }
    }

    /// How many there were.
    pub fn links(&self, cause: Cause) -> u64 {
        self.by_cause[cause as usize]
    }
}

/// One core's report.
#[derive(Clone, Debug)]
pub struct CoreStatistics {
    pub core: CoreId,
    /// The port in use, `io_uring` or `epoll`.
    pub port: &'static str,
    /// The CPU the thread is verified to be pinned to, if it is.
    pub cpu: Option<usize>,
    /// How the core waits now.
    pub waiting: WaitMode,
    pub counters: CoreCounters,
    pub drops: DropCounters,
    /// In the last interval.
    pub limited_links: LimitedLinks,
    pub histograms: StageHistograms,
}

impl CoreStatistics {
    /// An empty block.
    pub fn new(core: CoreId, port: &'static str) -> Self {
        Self {
            core,
            port,
            cpu: None,
            waiting: WaitMode::default(),
            counters: CoreCounters::default(),
            drops: DropCounters::default(),
            limited_links: LimitedLinks::default(),
            histograms: StageHistograms::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_beyond_the_range_count_as_the_longest() {
        let mut histograms = StageHistograms::new();
        histograms.record(Stage::Residence, TrafficClass::Data, u64::MAX, 2);
        let histogram = histograms.get(Stage::Residence, TrafficClass::Data);
        assert_eq!(histogram.len(), 2);
        assert!(histogram.max() >= HISTOGRAM_MAX_NS);
    }

    #[test]
    fn cleared_histogram_has_no_longest_duration_of_before() {
        let mut histograms = StageHistograms::new();
        histograms.record(Stage::Turn, TrafficClass::Data, 9_000_000, 1);
        histograms.clear();
        histograms.record(Stage::Turn, TrafficClass::Data, 64, 1);
        let histogram = histograms.get(Stage::Turn, TrafficClass::Data);
        assert_eq!((histogram.len(), histogram.min(), histogram.max()), (1, 64, 64));
    }

    #[test]
    fn duration_recorded_no_times_leaves_no_trace() {
        let mut histograms = StageHistograms::new();
        histograms.record(Stage::Turn, TrafficClass::Data, 77, 0);
        let histogram = histograms.get(Stage::Turn, TrafficClass::Data);
        assert_eq!((histogram.len(), histogram.max()), (0, 0));
    }

    #[test]
    fn every_stage_and_class_has_its_own_histogram() {
        let mut histograms = StageHistograms::new();
        for (i, stage) in Stage::ALL.into_iter().enumerate() {
            for (j, class) in TrafficClass::ALL.into_iter().enumerate() {
                histograms.record(stage, class, 1, (10 * i + j + 1) as u64);
            }
        }
        for (i, stage) in Stage::ALL.into_iter().enumerate() {
            for (j, class) in TrafficClass::ALL.into_iter().enumerate() {
                assert_eq!(histograms.get(stage, class).len(), (10 * i + j + 1) as u64);
            }
        }
    }
}

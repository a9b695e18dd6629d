//! Every bound and measure of the demo, with unit and derivation. Constants only.

use std::time::Duration;

/// Time without progress after which a transfer or query counts as hung: a thousand times what a
/// round trip takes on an overloaded machine.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for one step of making a pair's pipe. Less than a link's own 60 s for a query.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Time until the appliance must be ready.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of a step that the gateway refuses because it is a moment behind.
pub(super) const TRIES_MAX: u32 = 100;
/// Pause between two such tries.
pub(super) const TRY_PAUSE: Duration = Duration::from_millis(20);
/// How often the conductor looks at the clock, the tally and the failures.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long one wait for a query lasts before the acceptor looks whether anybody still asks.
pub(super) const ACCEPT_TICK: Duration = Duration::from_millis(100);

/// From this many seconds on `route` and `connect` go on until their goals are reached.
pub(super) const GOALS_FROM: Duration = Duration::from_secs(20);
/// Bulk that `route` and `connect` then verify each, in bytes.
pub(super) const GOAL_BULK_BYTES: u64 = 1 << 30;
/// Short queries that `route` and `connect` then verify each.
pub(super) const GOAL_QUERIES: u64 = 100_000;
/// Longest time for a goal, in shares of a phase.
pub(super) const GOAL_SHARES_MAX: u32 = 10;

/// Receive window of a bulk session, in bytes: several records of the longest kind, and so little
/// that latency is that of the way and not of a queue of our own making.
pub(super) const BULK_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes of messages laid down before they are written: half a record of the longest kind.
pub(super) const BULK_BATCH_BYTES: usize = 32 * 1024;
/// Receive window of everything that is no bulk, in bytes.
pub(super) const WINDOW_BYTES: u32 = 64 * 1024;
/// Threads of a pair that ask short queries.
pub(super) const ASKERS: usize = 2;
/// Short queries that one of them has under way at a time.
pub(super) const BURST_QUERIES: usize = 16;
/// Idle connections of a registered node: what a stock node keeps (spec §11.2).
pub(super) const IDLE_CONNECTIONS: usize = 2;

/// Pairs of throw-away nodes at most that come and go in `mixed`: each makes two handshakes a
/// round, and there is to be time for traffic.
pub(super) const VISITORS_MAX: usize = 4;
/// Pause between two rounds of churn.
pub(super) const CHURN_PAUSE: Duration = Duration::from_millis(20);
/// Messages that a deliberately ended transfer moves at most: about 1 MiB.
pub(super) const CHURN_MESSAGES_MAX: u64 = 180;

/// Longest latency the histograms tell apart, in nanoseconds: a minute.
pub(super) const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Significant digits of the histograms.
pub(super) const LATENCY_DIGITS: u8 = 3;
/// How often progress is shown on a terminal.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// How often progress is shown where lines stay.
pub(super) const PROGRESS_LINE_EVERY: Duration = Duration::from_secs(3);

/// Data cores up to which each gets the default memory for outgoing records.
pub(super) const FULL_MEMORY_CORES: u64 = 8;
/// Memory for outgoing records over all cores beyond that, in MiB.
pub(super) const BLOCK_MEMORY_MIB: u64 = 512;

/// Payload of a datagram of scenario `udp`: a full one of most tunnels and calls.
pub(super) const DATAGRAM_BYTES: usize = 1200;
/// Datagrams under way at a time: what the least receive memory of a socket holds.
pub(super) const DATAGRAMS_UNDER_WAY: u64 = 32;
/// Time until the program relays a way: its next hops are asked for meanwhile, and on a busy machine
/// the answers take their time.
pub(super) const XDP_TIMEOUT: Duration = Duration::from_secs(20);
/// When the program's counters have been read for sure: that happens every second.
pub(super) const COUNTED_AFTER: Duration = Duration::from_millis(2500);
/// Time for one of them to come before it counts as lost: nothing on loopback takes so long that is
/// not lost, however busy the machine is.
pub(super) const DATAGRAM_TIMEOUT: Duration = Duration::from_secs(15);

//! Every bound of the generator.

use std::time::Duration;

/// One read takes up to so many bytes: several records.
pub const READ_BYTES: usize = 256 * 1024;
/// Reads of one connection in a row, before others get their turn.
pub const READS_PER_TURN_MAX: usize = 4;
/// Bytes that wait for the kernel on one connection before its flows pause.
pub const BACKLOG_BYTES_MAX: usize = 1024 * 1024;
/// Events taken in one wait.
pub const EVENTS_MAX: usize = 256;
/// Without anything arriving for so long, messages count as lost.
pub const STALL: Duration = Duration::from_secs(10);
/// Longest wait of a generator that has nothing to send.
pub const WAIT: Duration = Duration::from_millis(10);
/// Time for a link or a session to come about.
pub const SETUP: Duration = Duration::from_secs(10);
/// Tries of a route whose target the relay does not know yet.
pub const ROUTE_TRIES_MAX: u32 = 200;
/// Pause between two of them.
pub const ROUTE_PAUSE: Duration = Duration::from_millis(5);
/// Window that the generator gives to each session, in bytes.
pub const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Payload of a data frame as stock nodes send it, in bytes (spec §6.1).
pub const STOCK_DATA_BYTES_MAX: usize = 8_192;
/// Longest latency the histograms tell apart, in nanoseconds: a minute.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Significant digits of the histograms.
pub const LATENCY_DIGITS: u8 = 3;

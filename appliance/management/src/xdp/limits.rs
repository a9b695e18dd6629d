//! Limits of what the management core does for the XDP program, with unit and derivation.

use std::time::Duration;
use waystation_ebpf::abi::limits::SESSION_ENTRIES_MAX;

/// Entries put into the map by one call: some milliseconds of system calls of about a microsecond,
/// which signals and questions wait behind. What is left is put in by the next.
pub(super) const INSERTS_PER_CALL: usize = 2048;

/// Keys that wait to be put in, those among them that nobody wants any more: at twice what the map
/// holds they are gone through, so that half at least are new since. 6 MiB.
pub(super) const WAITING_MAX: usize = 2 * SESSION_ENTRIES_MAX as usize;

/// Entries whose counters are read once a second: four milliseconds. With a full map of 65 536 a
/// count is 16 s late at most, and exact when its entry goes.
pub(super) const ENTRIES_READ_PER_S: usize = 4096;

/// Opaque sessions that are looked at by one call for whether they can be answered: less than a
/// millisecond.
pub(super) const ANSWERS_PER_CALL: usize = 2048;

/// Allocations or sessions in one command to a core: about 20 KiB.
pub(super) const NOTES_PER_COMMAND: usize = 256;

/// How far a stranger, or all newcomers, may be ahead of their rate: a flight of handshakes.
pub(super) const RATE_BURST: Duration = Duration::from_millis(250);

/// How often a packet of each session goes to user space, so that the kernel keeps asking for the
/// neighbour: half of the least time that it takes one for reachable (`base_reachable_time`, 30 s).
pub(super) const NEIGHBOUR_REFRESH: Duration = Duration::from_secs(15);

/// How long a capture goes on without being asked for: a reader asks several times a second, and one
/// that a busy machine holds up has not gone.
pub(super) const CAPTURE_LEASE: Duration = Duration::from_secs(10);
/// Samples in one answer: 700 KiB of text.
pub(super) const CAPTURES_PER_ANSWER_MAX: usize = 1024;

/// Seconds after a hand-over until entries go that no core has told of: telling of all of a full
/// map takes one.
pub(super) const SWEEP_AFTER_S: u32 = 10;

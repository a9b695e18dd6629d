//! Limits of the DHT's socket and of what operators ask it, each with its unit and derivation. Those
//! of the protocol and of the node's tables are in `waystation_a2al::limits`.

use std::time::Duration;
use waystation_a2al::limits::{
    DUPLICATES_MAX, KNOWN_KEY_BYTES, KNOWN_KEYS_MAX, OUTBOX_MAX, PEER_BYTES, PEERS_MAX,
    PLACE_BYTES, SEEN_NODES_MAX, SUBSCRIPTIONS_MAX,
};

/// Datagrams taken in before everything else on the thread has its turn. Each may cost a verification
/// and a signature, 0.1 ms together, so a turn is 6 ms at most.
pub const DATAGRAMS_PER_TURN: usize = 64;
/// Records of a snapshot that are verified in a turn, for the same reason.
pub const RESTORED_PER_TURN: usize = 64;
/// Records of a snapshot that are written in a turn: half a megabyte, without waiting for the disk.
pub const SNAPSHOT_RECORDS_PER_TURN: usize = 1024;
/// Bytes of a snapshot that are read: as many records as it may have, each as long as a datagram.
pub const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;
/// Bytes of the file of nodes met: a line of 76 bytes each, and twice as many lines as are kept.
pub const SEEN_BYTES_MAX: u64 = 16 << 20;
/// Bytes that the kernel keeps of what has come, for each socket: 20 ms of 50 000 small packets a
/// second with the kernel's overhead. It gives less where `net.core.rmem_max` says so.
pub const RECEIVE_BUFFER_BYTES: usize = 2 << 20;
/// Bytes of a datagram that are read: enough to tell one that is too long.
pub const RECEIVED_BYTES_MAX: usize = 2048;
/// Questions of operators that wait for the node: as many as the stats socket has connections.
pub const QUESTIONS_WAITING_MAX: usize = 32;
/// Look-ups by command that are under way: they share the 256 of the node with its own.
pub const LOOK_UPS_BY_COMMAND_MAX: usize = 32;
/// How long a look-up by command may take: the node's own bound, and a second to answer.
pub const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(21);
/// How often figures for metrics are taken.
pub const FIGURES_PERIOD: Duration = Duration::from_secs(1);
/// How often the node's own addresses, and what the kernel has dropped, are looked at.
pub const REFRESH_PERIOD: Duration = Duration::from_secs(5);
/// The least time between two ticks of the node.
pub const TICK_PAUSE: Duration = Duration::from_millis(1);
/// The most: the node itself wants one every 15 s.
pub const TICK_PERIOD_MAX: Duration = Duration::from_secs(15);
/// How long the last snapshot may take when the program ends.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Topics of the configuration.
pub const TOPICS_MAX: usize = 16;
/// Bytes of a topic's name.
pub const TOPIC_BYTES_MAX: usize = 64;
/// Bytes of a payload that is published by command.
pub const PAYLOAD_BYTES_MAX: usize = 700;
/// Bytes of the kernel's tables of UDP sockets that are read: 150 a line, for twice as many sockets as
/// a process may have.
pub const SOCKET_TABLE_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a histogram of two digits from a nanosecond to a minute.
pub const HISTOGRAM_BYTES: usize = 30 * 1024;

/// Bytes of the node's tables besides its records, at their caps. Maps that forget have twice as many
/// entries as their cap; the kinds of rates are derived at `RATE_SOURCES_MAX`.
pub const TABLE_BYTES_MAX: usize = 2 * PEERS_MAX * PEER_BYTES
    + 2 * 2 * PEERS_MAX * PLACE_BYTES
    + 2 * KNOWN_KEYS_MAX * KNOWN_KEY_BYTES
    + 13_000_000
    + 2 * DUPLICATES_MAX * 98
    + SEEN_NODES_MAX * 64
    + SUBSCRIPTIONS_MAX * 96
    + OUTBOX_MAX * 1200
    + 2 * 3 * HISTOGRAM_BYTES;

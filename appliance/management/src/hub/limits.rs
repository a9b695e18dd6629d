//! Limits of the hub's sockets, each with its unit and derivation. Those of what connections may do
//! stand with the sans-IO hub (`waystation_a2al::limits`).

use std::time::Duration;

/// Time for a request to arrive and to be answered; the hub itself counts
/// `HUB_REQUEST_MS` from the accept on, and this ends a little later.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);
/// Bytes of a request line with all headers: browsers send about 600, with parameters of 1.5 KiB;
/// it is also the least that hyper can be limited to.
pub const REQUEST_BYTES_MAX: usize = 8192;
/// Headers of a request: browsers send about 20.
pub const REQUEST_HEADERS_MAX: usize = 32;
/// Time for a message to be taken by the kernel. A reader that lets its socket be full for longer
/// is cut.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a farewell to be taken by the kernel.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages that wait to be sent on one connection: as many as are kept before a second party comes
/// into a room, twice.
pub const OUTGOING_MESSAGES_MAX: usize = 256;
/// Bytes that wait to be sent on one connection: the same, twice, and one message of greatest length.
pub const OUTGOING_BYTES_MAX: usize = 96 * 1024;
/// Bytes that wait to be sent on all connections: a third of them is as slow as may be.
pub const OUTGOING_BYTES_ALL_MAX: usize = 128 * 1024 * 1024;
/// Events of all connections that wait for the hub. Each may bring a message, so 8 MiB.
pub const EVENTS_WAITING_MAX: usize = 256;
/// Events taken in before others have their turn: about a millisecond.
pub const EVENTS_PER_TURN_MAX: usize = 64;
/// Bytes that a WebSocket reads at once; messages are mostly a few hundred.
pub const READ_BUFFER_BYTES: usize = 4096;
/// Pause after a failed accept, so that a lack of descriptors does not become a busy loop.
pub const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How old figures for the stats socket may be.
pub const FIGURES_PERIOD: Duration = Duration::from_millis(250);
/// Questions to the node that wait for it, and answers that wait for the hub.
pub const QUESTIONS_WAITING_MAX: usize = 256;
/// Time for connections to end when the program does.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of one connection besides what waits to be sent: hyper's and the WebSocket's buffers, a
/// message of greatest length being received, the task and its tables.
pub const CONNECTION_BYTES: usize = REQUEST_BYTES_MAX + READ_BUFFER_BYTES + 32 * 1024 + 8 * 1024;
/// Connections that wait to be accepted, in the kernel: a second of a busy hub's.
pub const LISTEN_BACKLOG: i32 = 256;

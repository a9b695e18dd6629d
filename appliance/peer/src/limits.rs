//! Every bound of a peer, with unit, derivation and spec section. Constants only.

use std::time::Duration;
use waystation_astral::brontide::{RECORD_OVERHEAD_BYTES, RECORD_PLAINTEXT_MAX_BYTES};

/// Receive window of a session unless told otherwise, in bytes: the stock value (spec §6.1, §17).
pub const SESSION_WINDOW_BYTES: u32 = 4_194_304;
/// Most payload bytes a stock node puts into one data frame (spec §6.1).
pub const STOCK_DATA_BYTES_MAX: usize = 8_192;
/// Receive buffer of a link, in bytes: three of the longest records, so that one read takes a burst
/// and a cut record is moved at most once.
pub const READ_BUFFER_BYTES: usize = 4 * 65_536;
const _: () = assert!(READ_BUFFER_BYTES > 3 * (RECORD_PLAINTEXT_MAX_BYTES + RECORD_OVERHEAD_BYTES));

/// Bytes waiting in a link's outbox from which on senders of data frames wait: a few records, so
/// that a pong never stands behind more than this and one write is long enough to be cheap.
pub const OUTBOX_BULK_BYTES_MAX: usize = 256 * 1024;
/// Bytes waiting in a link's outbox from which on the link is given up, because the other side asks
/// for answers (pongs, resets, rejections) without reading them.
pub const OUTBOX_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of waiting bulk up to which a control frame rides along in order instead of overtaking: a
/// record of its own would cost two AEAD operations and save less than their time.
pub const CONTROL_RIDES_ALONG_BYTES: usize = 8 * 1024;
/// Batches one thread writes before it leaves the rest to the link's writer thread.
pub const FLUSH_ROUNDS_MAX: u32 = 8;

/// Sessions of one link at a time: a 64-bit nonce is no bound, so this is.
pub const SESSIONS_MAX: usize = 65_536;
/// Inbound queries of one link that may wait for [`crate::Link::accept`].
pub const INBOUND_QUERIES_MAX: usize = 1_024;
/// Own pings of one link that may wait for their pong.
pub const PINGS_MAX: usize = 64;

/// Time for a TCP connection to come about. Stock allows 60 s (spec §17); a test cannot wait so
/// long.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from the first byte to the end of negotiation (advice of spec §3.4).
pub const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a query may stay unanswered: the stock routing timeout (spec §17).
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time one write to the transport may be stuck before the link is given up.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time a gateway operation's answer may take after the query was accepted (spec §17: 5 s for ops).
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Grain of the reader's timers: how long one read of a silent transport blocks.
pub const READER_TICK: Duration = Duration::from_secs(1);
/// Silence after which a link is pinged (advice of spec §7.4: 15 to 30 s).
pub const PING_AFTER_SILENCE: Duration = Duration::from_secs(20);
/// Time a pong may take before the link is given up (spec §7.4).
pub const PONG_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait for the real code after a reset that overtook its response (spec §7.1).
pub const RESET_GRACE: Duration = Duration::from_millis(200);
/// Wait before the first data frame of a session opened on a P0 or P2 link: a stock responder marks
/// the session open only after its response was written (trap of spec §6.3).
pub const FIRST_DATA_DELAY: Duration = Duration::from_millis(2);

/// Longest answer object of a gateway operation, in bytes: a socket or an error text.
pub const OBJECT_BYTES_MAX: usize = 65_535;
/// Most objects of one answer: what a gateway lists at a time, and a few.
pub const OBJECTS_MAX: usize = 2_048;
/// Longest subscription answer in bytes; stock's is 52 (spec §11.1).
pub const SUBSCRIPTION_BYTES_MAX: usize = 4_096;

/// Time without a byte after which an idle connection is dead (spec §11.2, §17).
pub const IDLE_DEAD_AFTER: Duration = Duration::from_secs(60);
/// Time one message on an idle connection may take to be written (spec §11.2).
pub const IDLE_WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections a stock node keeps for one registration (spec §11.2).
pub const IDLE_POOL_CONNECTIONS: usize = 2;
/// Most idle connections one pool keeps: enough for the load generator, far below the descriptors.
pub const IDLE_POOL_CONNECTIONS_MAX: usize = 1_024;
/// Dial failures in a row after which a slot of a pool gives up (spec §11.2: then register again).
pub const IDLE_DIAL_FAILURES_MAX: u32 = 3;
/// First wait between two dials of a failing slot; doubled each time (spec §11.2).
pub const IDLE_BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait between two dials of a failing slot (spec §11.2).
pub const IDLE_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How long a TURN request over UDP waits for its answer before it is sent again (RFC 8489 §6.2.1).
pub const TURN_RETRY_AFTER: Duration = Duration::from_millis(500);
/// The shortest bound of a read: a bound of zero would stand for none.
pub const READ_WAIT_MIN: Duration = Duration::from_millis(1);
/// How often a TURN request is sent (RFC 8489 §6.2.1); the times between are equal here, which is
/// kinder to tests.
pub const TURN_REQUEST_SENDS_MAX: u32 = 20;
/// Most payloads of peers that a TURN client keeps while it waits for something else.
pub const TURN_KEPT_MAX: usize = 4096;

//! Every limit of a data core that is not configuration, with unit and derivation.

use crate::block::BLOCK_BYTES;
use std::num::NonZeroU64;
use std::time::Duration;

/// Most blocks of sealed or open records that wait for one link, besides what is in flight. More
/// would only delay pongs behind bulk: four records of 64 KiB are 4 ms at 500 Mbit/s.
pub const LINK_BLOCKS_MAX: usize = 4;

/// Bytes of waiting control frames beyond which pongs are left out: 33 000 pongs of a peer that
/// floods pings and does not read.
pub const CONTROL_PONG_MAX_BYTES: usize = 1 << 20;

/// Bytes of waiting control frames beyond which the link is closed. A peer that reads at all never
/// gets here: 50 000 responses.
pub const CONTROL_MAX_BYTES: usize = 2 << 20;

/// Blocks made as a core starts, 2 MiB: three links that are sent to as fast as they take it, each
/// with [`LINK_BLOCKS_MAX`] waiting, as many in flight and two cut records.
pub const BLOCKS_AT_START: usize = 32;

/// Blocks that data may not take, so that control frames and core-to-core signals always find one.
pub const BLOCKS_RESERVED: usize = 16;

/// Payload from this size on is sealed in the buffer it arrived in; below, it is copied behind
/// other frames and sealed with them. A record of its own costs two more AEAD calls, a gathered one
/// a copy; `seal-crossover` in `benches` measures where the first becomes cheaper, here between
/// 16 and 24 KiB with ChaCha20-Poly1305.
pub const IN_PLACE_MIN_BYTES: usize = 24 * 1024;

/// Plaintext of a record from which on it is sealed anew where it was opened, if it is nothing but
/// one session's payload; below, its frames are gathered with others'. Gathering saves the two
/// AEAD calls of a record and costs a copy and a look at each frame.
pub const RESEAL_MIN_BYTES: usize = 8 * 1024;

/// What one link may have done for it in one turn before its further input waits for others, in the
/// time it takes to open and seal so many bytes: two receive buffers of bulk.
pub const SHARE_BYTES: usize = 128 * 1024;

/// What is done in one turn for all connections whose input waits, and again for links inside
/// sessions: what others may find themselves waiting for.
pub const WAITING_SHARE_BYTES: usize = 256 * 1024;

/// What a record costs besides its bytes: the fixed part of four AEAD calls.
pub const RECORD_COST_BYTES: usize = 512;

/// What a frame costs besides its payload: decoding, the switch, an answer.
pub const FRAME_COST_BYTES: usize = 128;

/// What a query costs: a session and a report to the management core are made.
pub const QUERY_COST_BYTES: usize = 2048;

/// What an act of a handshake costs: two operations on the curve and a key derivation.
pub const ACT_COST_BYTES: usize = 64 * 1024;

/// Batches that may wait from one core to another.
pub const MESH_RING_BATCHES: usize = 64;

/// Sockets that may be on their way from one core to another.
pub const MESH_RING_SOCKETS: usize = 1024;

/// Links that may be on their way from one core to another: two that leave, as many that come back.
pub const MESH_RING_LINKS: usize = 4;

/// How long a link may take to get away from its core: its sessions stand still meanwhile, so a
/// little longer than other cores keep anybody waiting who have much to do.
pub const MOVE_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a link may be without a session while its core drains, before it is closed: longer than
/// it takes a peer to ask anew for what it has just finished.
pub const DRAINED_LINK_IDLE: Duration = Duration::from_secs(2);

/// Commands carried out per turn, so that a burst of them does not hold up traffic.
pub const COMMANDS_PER_TURN: usize = 256;

/// Links, pipes and sessions looked at for a listing per turn, so that the listing of a full core
/// does not hold up traffic: with some 100 ns each, about as long as a busy turn takes by itself.
pub const LISTED_PER_TURN: usize = 512;
/// Sessions whose bytes are added up per turn when somebody wants to know what passes over links:
/// two words of each are looked at, so less time than a turn takes for a listing.
pub const SESSIONS_ADDED_UP_PER_TURN: u32 = 512;
/// Listings that a core works on, one after the other: one of the operator and one of each kind that
/// peers ask for. A further one is made at once, as a whole.
pub const LISTINGS_UNDER_WAY_MAX: usize = 4;

/// Batches taken from each other core per turn: at most 1 MiB.
pub const BATCHES_PER_TURN: usize = 16;

/// Received buffers that wait for one side of a raw pipe, besides what is in flight.
pub const PIPE_PENDING_MAX: usize = 2;

/// Bytes that a quota must allow before a side of a raw pipe that it has stopped is received from
/// again: a page, so that a slow sender does not cost a turn for each of its bytes.
pub const PACED_READ_MIN_BYTES: u64 = 4096;

/// Bytes a connecting caller may send ahead of the handoff's acknowledgement and have kept here;
/// the rest waits in the kernel.
pub const EARLY_BYTES_MAX: usize = BLOCK_BYTES;

/// How long a registered node may take to acknowledge a handoff; stock writes within 10 s (§17).
pub const HANDOFF_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a raw socket that nobody has a use for stays open. A stock node keeps two and dials each
/// again as soon as it ends: one dial a second then, instead of thousands. Whoever sent no nonce at
/// all is rid of it before long, too.
pub const DISMISSED_FOR: Duration = Duration::from_secs(1);

/// Such sockets at a time, of all raw sockets of a core; further ones are closed at once. Enough for
/// the idle connections of 512 nodes that have lost their registration.
pub const DISMISSED_MAX: usize = 1024;

/// How long a connection that was refused in words stays open for the peer to read them.
pub const LINGER: Duration = Duration::from_secs(2);

/// Longest wait of an idle core: its clock for counters and the watchdog.
pub const IDLE_WAIT: Duration = Duration::from_millis(500);

/// How much later than asked for the kernel may end a core's wait, in nanoseconds. Its own choice is
/// 50 us, half of what a core gathers events for.
pub const TIMER_SLACK_NS: Option<NonZeroU64> = NonZeroU64::new(1_000);

/// Bursts of UDP sockets received in one turn, so that links are not held up: at most 256 messages,
/// some 50 us if each is a single datagram. What is left comes in the next turn, which does not
/// sleep.
pub const DATAGRAM_BURSTS_PER_TURN: usize = 16;

/// Datagrams after which a turn receives no further burst: a message may be a train of 64 that the
/// kernel has put together, so bursts alone bound little. The burst that goes beyond is dealt with,
/// at most 1024 datagrams.
pub const DATAGRAMS_PER_TURN: usize = 512;

/// How long an opaque UDP session whose leg has moved waits before the management core is told, in
/// nanoseconds: an end that moves with every datagram is told of a hundred times a second.
pub const UDP_MOVES_AFTER_NS: u64 = 10_000_000;

/// Such sessions told of per turn.
pub const UDP_MOVES_TOLD_MAX: usize = 64;

/// Changes of paths that wait to be told, besides two allocations with all of their channels: those
/// of the requests of one turn. Beyond it they are forgotten and all paths told anew; 190 KiB.
pub const PATH_CHANGES_WAITING_MAX: usize = 1024;

/// How long a change of an opaque session waits before whoever fills the program's map is told, in
/// nanoseconds: an end that proves another address with every datagram is told of no faster.
pub const UDP_PATHS_AFTER_NS: u64 = 10_000_000;

/// How long such news wait for room among the reports, in nanoseconds.
pub const UDP_PATHS_RETRY_NS: u64 = 1_000_000;

/// Sessions in one such report, 15 KiB.
pub const UDP_PATHS_PER_REPORT: usize = 64;

/// Such reports in one turn.
pub const UDP_PATH_REPORTS_PER_TURN: usize = 4;

/// Changes of paths in one report: a few reports for a busy turn, 12 KiB each.
pub const PATH_CHANGES_PER_REPORT: usize = 64;

/// Reports of changes of paths in one turn.
pub const PATH_REPORTS_PER_TURN: usize = 4;

/// Messages of TURN clients over TCP that one turn deals with, as many as datagrams.
pub const TURN_STREAM_MESSAGES_PER_TURN: usize = DATAGRAMS_PER_TURN;

/// Messages of one such client in a turn before others come: a buffer of 64 KiB holds 53 messages of
/// 1200 bytes, but 16 384 empty ones.
pub const TURN_STREAM_SHARE_MESSAGES: usize = 64;

/// Bytes of the longest message of a TCP client that has had no allocation: name, realm, nonce and
/// integrity are less than 1 KiB, and what else a request holds less than that. It holds no payload.
pub const TURN_REQUEST_BYTES_MAX: usize = 2048;

/// Bytes of memory for a message cut by the end of a buffer that a stream keeps for the next one:
/// a datagram that fits an Ethernet frame, so that these cost no allocation.
pub const TURN_CUT_KEPT_BYTES: usize = 2048;

/// Bytes of cut messages of one core's TURN streams; the stream that goes beyond is closed. Enough
/// for 256 of the longest, and for what 8192 streams may keep.
pub const TURN_CUT_BYTES_MAX: usize = 16 << 20;

/// Quarters of a core's blocks that payload for TURN clients over TCP may take: those who have
/// allocations and do not read leave the rest to links and to answers.
pub const TURN_PAYLOAD_BLOCK_QUARTERS: usize = 2;

/// The same for payload and answers together. Anybody gets answers, so a client that finds it used
/// up is closed, and links have the last quarter.
pub const TURN_STREAM_BLOCK_QUARTERS: usize = 3;

/// Deadlines of TURN streams that have ended which a core keeps besides one for each that is open:
/// few enough to be looked through at once, 24 KiB.
pub const TURN_DEADLINES_OF_ENDED_MAX: usize = 1024;

/// Bytes that the kernel takes for a TURN client over TCP before it has sent them
/// (`TCP_NOTSENT_LOWAT`, Linux 3.12): payload that would wait longer is worth little.
pub const TURN_UNSENT_BYTES: u32 = 128 * 1024;

/// How long a TCP connection to the TURN server lives without an allocation, as in coturn; between
/// this and twice as long after it has had one.
pub const TURN_WITHOUT_ALLOCATION: Duration = Duration::from_secs(60);

/// Incidents reported per turn; the rest is only counted.
pub const INCIDENTS_PER_TURN: usize = 16;

/// Reports that may wait for room in the management core's ring: every connection of a core coming
/// and going twice while the management core looks elsewhere.
pub const UNSENT_REPORTS_MAX: usize = 131_072;

/// Reports that may wait before payload for the management core is refused and its session reset,
/// so that what ends a session always finds a place.
pub const UNSENT_INPUT_MAX: usize = UNSENT_REPORTS_MAX / 2;

/// Histogram marks kept per send; further ones are merged into the last. A link holds two such lists
/// of 32 B each from its first frame until it is idle.
pub const MARKS_MAX: usize = 16;

/// Bytes an inner link may have waiting in the session under it before it stops sealing.
pub const INNER_QUEUE_MAX_BYTES: usize = 256 * 1024;

/// Bytes of a query string that a listing shows; a longer one is cut.
pub use waystation_relay::limits::LISTED_QUERY_MAX_BYTES;

/// Bytes read from the kernel's random source at a time.
pub const ENTROPY_BYTES: usize = 512;
/// Errors about its datagrams that a TURN client is told of in a second. Each is 72 bytes and more on
/// the wire, for an ICMP message of 56 and more whose sender may be anybody, so this bounds what can
/// be had for a forged one; a client needs one for each peer that is gone or each way that is narrow.
pub const TURN_ERRORS_PER_S_MAX: u32 = 10;

/// Places of connections that a core's table may have when another process says which are in use:
/// more than a process may have descriptors on any machine.
pub const LINK_PLACES_MAX: u32 = 1 << 20;

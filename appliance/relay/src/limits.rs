//! Every limit of this room, with unit and derivation.

/// Bytes of one piece of a session's queue. A queue of n bytes holds at most n + 2 × this.
pub const CHUNK_BYTES: usize = 4096;

/// Most payload bytes put into one data frame from a session's queue. Stock applications read
/// 32 KiB at a time and return credit per read (spec §7.3), so larger frames gain nothing there.
pub const QUEUED_FRAME_MAX_BYTES: usize = 32 * 1024;

/// Bytes that the sessions of one source may send from their queues before those of the next
/// source of the same link have their turn: one largest frame.
pub const QUANTUM_BYTES: usize = QUEUED_FRAME_MAX_BYTES;

/// Credit is returned when this part of the window has been passed on. Small enough that a sender
/// never waits while the other side reads, large enough that credit costs few frames.
pub const CREDIT_RETURN_DIVISOR: u32 = 4;

/// How long a reset that came before its response waits for the response, in nanoseconds
/// (spec §7.1: at most ~200 ms).
pub const RESET_GRACE_NS: u64 = 200_000_000;

/// How long the first data of a session we opened towards a raw-profile peer is held back, in
/// nanoseconds (spec §6.3: a millisecond or two, or P0 resets the session).
pub const FIRST_DATA_HOLD_NS: u64 = 2_000_000;

/// Smallest session window: four of the largest data frames, so that one frame in flight never
/// exhausts it.
pub const WINDOW_MIN_BYTES: u32 = 4 * 65_536;

/// Largest session window: what stock advertises (spec §17).
pub const WINDOW_MAX_BYTES: u32 = 4_194_304;

/// Deadline entries of sessions that have ended are swept when they outnumber the live ones by
/// this factor, so the list stays in proportion to the sessions it watches.
pub const STALE_DEADLINES_FACTOR: usize = 2;

/// Bytes of a query string kept with its session, for listings. A longer one is cut.
pub const LISTED_QUERY_MAX_BYTES: usize = 256;
/// JSON of a session that is handed over, but for its payload: two dozen numbers of up to 20 digits
/// with their names, and that query in hexadecimal digits.
pub const LEG_WRITTEN_BYTES: usize = 2048;
/// JSON around a piece of its payload: a time and some punctuation.
pub const PIECE_WRITTEN_BYTES: usize = 32;

/// Deadline entries below which no list is swept: 24 KiB, less than one session's queue.
pub const STALE_DEADLINES_MIN: usize = 1024;

/// Most bytes a leg passes on in one turn while a quota paces it, and least it waits for: a stock
/// data frame (spec §6.1), so that pacing costs no more frames than its sender made.
pub const PACE_PIECE_BYTES: usize = 8 * 1024;

/// Shortest wait of a paced leg, in nanoseconds: pieces that come due within it go out together, in
/// one turn of the loop.
pub const PACE_TICK_NS: u64 = 1_000_000;

/// Longest wait of a paced leg before its quota is asked again, in nanoseconds: how long a raised
/// rate may go unnoticed.
pub const PACE_WAIT_MAX_NS: u64 = 1_000_000_000;

/// Places of legs that have ended below which a pacer's line is not swept: less than 1 KiB.
pub const PACE_LINE_STALE_MIN: usize = 64;

/// Smallest burst of a quota with a rate, in nanoseconds of that rate: turns of the loop and timers
/// that come late by less lose nothing of the rate.
pub const BURST_MIN_NS: u64 = 20_000_000;

/// Ended sessions of a link whose late credit is not answered: as many as a peer may have ended
/// while frames of theirs were on their way, at 8 bytes each.
pub const ENDED_SESSIONS_MAX: usize = 32;

/// Most sessions of a link that changes cores. All of them are taken out in one turn and put in
/// again in one of the other core: with some microseconds each in which tables and queues are
/// changed, a link with more would hold up everybody else's traffic for tens of milliseconds.
pub const MOVED_SESSIONS_MAX: usize = 4096;

// --- address_policy -----------------------------------------------------------------------------

/// Most blocks that an operator may open: each is compared with every address that is checked.
pub const ALLOWED_BLOCKS_MAX: usize = 64;
/// Most addresses of the machine that a policy knows: several on each of dozens of interfaces.
pub const OWN_ADDRESSES_MAX: usize = 256;

// --- udp ----------------------------------------------------------------------------------------

/// Most opaque UDP sessions of one core: 20 000 of at most 1 280 bytes each are 25 MB.
pub const UDP_SESSIONS_MAX: usize = 20_000;

/// Bytes of a session at most, both of its parts; a test holds the sum.
pub const UDP_SESSION_BYTES_MAX: usize = 1_280;

/// Places of the index for each leg: one by its address, one by its port alone if it is the only
/// leg there, and as many again left empty, so that a search looks at two places on average.
pub const UDP_INDEX_PLACES_PER_LEG: usize = 4;

/// Indices a WireGuard end is known by: it has up to three key pairs (previous, current, next;
/// whitepaper §6.3), and one handshake may be begun from each side at a time.
pub const WIREGUARD_INDICES_MAX: usize = 4;

/// Handshake messages of one leg that wait for the other end to use their index. An end begins one
/// in 5 s, so the rest is for those who pretend; the oldest makes room.
pub const HANDSHAKE_CANDIDATES_MAX: usize = 4;

/// How long the index of a handshake message waits to be used, in nanoseconds: the 5 s after which
/// an end begins another (whitepaper §6.1, `REKEY_TIMEOUT`) with its jitter of a third.
pub const HANDSHAKE_WAIT_NS: u64 = 6_000_000_000;

/// How long the known address of a leg must have been silent before a new one is followed that only
/// shows an index which anyone on the path can read, in nanoseconds. Longer than a round trip
/// with its retransmission, shorter than the 15 s after which WireGuard begins a handshake.
pub const HOLD_DOWN_NS: u64 = 3_000_000_000;

/// How recent the last packet of such a new address must be, in nanoseconds: one persistent
/// keep-alive of 25 s, as everybody configures it, with some delay.
pub const ROAMING_FRESH_NS: u64 = 30_000_000_000;

/// How long the address before may take a leg back that had followed a new one, in nanoseconds:
/// two persistent keep-alives with some delay.
pub const TAKE_BACK_NS: u64 = 60_000_000_000;

/// How long a learned address is sent to without a word from it, in nanoseconds: as long as a
/// permission of TURN (RFC 8656 §9), and more than the 180 s that keys of WireGuard live.
pub const CONSENT_NS: u64 = 300_000_000_000;

/// Datagrams of unproven sources per second that a session looks at closely: WireGuard's own
/// limit for handshakes of one source is 20/s; an end needs one in 5 s.
pub const STRANGER_DATAGRAMS_PER_S: u64 = 20;

/// Datagrams of unproven sources at once: keep-alives and a handshake of an end that has just moved.
pub const STRANGER_BURST_DATAGRAMS: u64 = 20;

/// Shortest idle limit of a UDP session, in nanoseconds: two persistent keep-alives.
pub const UDP_IDLE_MIN_NS: u64 = 60_000_000_000;

/// Longest idle limit of a UDP session, in nanoseconds: a week.
pub const UDP_IDLE_MAX_NS: u64 = 7 * 24 * 3_600 * 1_000_000_000;

/// Lowest rates of a UDP session: one packet per second, and 1 KiB/s, so that the cost of a
/// datagram fits into its arithmetic.
pub const UDP_BYTES_PER_S_MIN: u64 = 1_024;

/// Highest byte rate of a UDP session: 1 TB/s; a byte then costs a thousandth of a nanosecond.
pub const UDP_BYTES_PER_S_MAX: u64 = 1_000_000_000_000;

/// What may pass at once of a rate, in nanoseconds of it: turns of the loop come in less.
pub const UDP_BURST_NS: u64 = 100_000_000;

/// Packets that may pass at once at any rate: one train of GRO.
pub const UDP_BURST_PACKETS_MIN: u64 = 64;

/// Bytes that may pass at once at any rate: the largest datagram, or train of GRO.
pub const UDP_BURST_BYTES_MIN: u64 = 65_536;

/// How late it may be told what a faster tier has carried, in nanoseconds: with the program's map
/// full, its entries are read in 16 rounds of a second.
pub const OFFLOAD_NEWS_LATE_NS: u64 = 20_000_000_000;

/// How long it takes to look at all sessions for those that have ended, in nanoseconds; how late
/// one may end.
pub const UDP_SWEEP_PERIOD_NS: u64 = 8_000_000_000;

/// Sessions that one sweep looks at, at most: 20 us of cache misses.
pub const UDP_SWEEP_SESSIONS_MAX: usize = 256;

/// Places of sessions that a core's table may have when another process says which are in use: far
/// more than the sessions that a core may have, 1 GiB of them.
pub const SESSION_PLACES_MAX: u32 = 1 << 22;

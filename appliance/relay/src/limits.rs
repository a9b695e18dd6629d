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

// --- address_policy -----------------------------------------------------------------------------

/// Most blocks that an operator may open: each is compared with every address that is checked.
pub const ALLOWED_BLOCKS_MAX: usize = 64;
/// Most addresses of the machine that a policy knows: several on each of dozens of interfaces.
pub const OWN_ADDRESSES_MAX: usize = 256;

//! The node's fixed bounds outside the gateway, each with its unit and derivation.
//!
//! Values only; what an operator may change is in the settings that the configuration makes.

/// How long a copy of a query may trail the first: by then its caller has given up (spec §17:
/// 60 s for routing).
pub const COPY_WINDOW_NS: u64 = 60_000_000_000;

/// How long a peer may take from asking for a migration to its end; stock gives up after so long
/// (spec §9.3).
pub const MIGRATION_TIMEOUT_NS: u64 = 10_000_000_000;
/// Migrations under way for one peer: what a link that runs dry moves at a time.
pub const MIGRATIONS_PER_PEER_MAX: usize = 64;
/// Migrations under way at all, at about 300 bytes each.
pub const MIGRATIONS_MAX: usize = 1024;
/// Bytes of one signal's payload: the longest word, its length, and a window.
pub const MIGRATION_SIGNAL_MAX_BYTES: usize = 64;
/// Bytes that a migration's channel may bring: two signals of 38 bytes, and an error that says why
/// the peer gives up.
pub const MIGRATION_INPUT_MAX_BYTES: u32 = 1024;

/// Events that wait for the runtime, which takes them after every round of reports: as many as the
/// reports of one round from two cores can cause.
pub const EVENTS_MAX: usize = 4096;

/// How long `nodes.relay` holds without its query: by then its caller has given up (spec §17:
/// 60 s for routing).
pub const PREPARATION_LIFETIME_NS: u64 = 60_000_000_000;
/// Prepared queries of one peer: the apps behind one node that have a query under way at a time.
pub const PREPARATIONS_PER_PEER_MAX: usize = 256;
/// Prepared queries of all peers: sixteen that use all of theirs, at about 300 bytes each.
pub const PREPARATIONS_MAX: usize = 4096;

/// For how long a forwarded query is remembered: a circle of gateways comes around within a few
/// round trips.
pub const FORWARD_WINDOW_NS: u64 = 1_000_000_000;
/// Queries for one identity forwarded within that time: the 8 dial workers of a stock node
/// (spec §9.1).
pub const FORWARDS_PER_TARGET_MAX: usize = 8;
/// Queries forwarded within that time at all, which are looked through for each: 128 identities
/// that all of them ask for.
pub const FORWARDS_REMEMBERED_MAX: usize = 1024;

/// The round of listings that an operator asked for; those of peers have numbers of their own.
pub const OPERATOR_ROUND: u64 = 0;
/// Listings that peers wait for. At [`LISTING_PAUSE_NS`] each, the last one is begun within 3.2 s,
/// before a stock node would have rejected the query itself (spec §8.3: 5 s).
pub const LISTINGS_WAITING_MAX: usize = 32;
/// Listings that one peer waits for: links, streams and sessions, and one more.
pub const LISTINGS_PER_PEER_MAX: usize = 4;
/// Pause between the beginnings of two listings: a core copies at most [`LISTED_ROWS_MAX`] rows,
/// well under a millisecond, so peers take less than a hundredth of its time.
pub const LISTING_PAUSE_NS: u64 = 100_000_000;
/// How long the data cores may take for one.
pub const LISTING_TIMEOUT_NS: u64 = 1_000_000_000;
/// Links, and sessions, in one answer, and of one core: with up to 500 bytes each as JSON, half of
/// our own window.
pub const LISTED_ROWS_MAX: usize = 1024;
/// Bytes that wait for a link from which on listings call its pressure high: a quarter of a
/// window.
pub const HIGH_PRESSURE_BYTES: u64 = 256 * 1024;

/// For how long we say that our endpoints hold: stock nodes keep one for 90 days (spec §13).
pub const ENDPOINT_LIFETIME_S: u32 = 90 * 24 * 3600;

/// Sessions that deliver objects to us at a time, with up to 32 KiB each: 8 MiB.
pub const DELIVERIES_MAX: usize = 256;
/// Those of one peer: one for each of its links, and some that linger.
pub const DELIVERIES_PER_PEER_MAX: usize = 8;
/// How long one may take: twice what a stock node gives an operation (spec §8.3).
pub const DELIVERY_TIMEOUT_NS: u64 = 10_000_000_000;
/// Bytes that one may bring (spec §12.1: what stock nodes took until 2026‑01‑02).
pub const DELIVERY_BYTES_MAX: u32 = 32_768;

/// Addresses under which we are seen that are kept (spec §12.1: stock keeps 8).
pub const OBSERVED_ADDRESSES_MAX: usize = 8;
/// Peers whose word on that is kept: as many as a node dials, and some more.
pub const OBSERVERS_MAX: usize = 256;

/// Peers that are being told the address they are seen at: a burst of new links, at about 200
/// bytes each. Those beyond are not told, and lose nothing by it.
pub const REFLECTIONS_MAX: usize = 1024;
/// How long that may take.
pub const REFLECTION_TIMEOUT_NS: u64 = 10_000_000_000;
/// Bytes of an answer to it: a `bool` in any framing, and an error object of some lines.
pub const REFLECTION_ANSWER_BYTES_MAX: u32 = 1024;
/// Where the numbers of this node's own queries begin, so that nobody else's are taken for them.
pub const FIRST_REFLECTION: u64 = 1 << 63;

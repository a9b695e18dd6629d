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

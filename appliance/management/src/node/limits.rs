//! The node's fixed bounds outside the gateway, each with its unit and derivation.
//!
//! Values only; what an operator may change is in the settings that the configuration makes.

/// How long a copy of a query may trail the first: by then its caller has given up (spec §17:
/// 60 s for routing).
pub const COPY_WINDOW_NS: u64 = 60_000_000_000;

/// Events that wait for the runtime, which takes them after every round of reports: as many as the
/// reports of one round from two cores can cause.
pub const EVENTS_MAX: usize = 4096;

//! The gateway's bounds: what an operator may set, with defaults, and what is fixed.
//!
//! Values only; read by the gateway and by the configuration on the management core.

use std::net::SocketAddr;

/// Registrations kept at once. Two idle connections each (spec §11.2) would already need far more
/// descriptors than one process has, so this bounds memory, not service.
pub const REGISTRATIONS_MAX: usize = 65_536;
/// Idle connections kept for one registration, reserved ones included. A stock node keeps 2 (spec
/// §11.2); one that changed networks has 2 more for every change in the last minute, which have
/// not timed out yet.
pub const IDLE_PER_REGISTRATION_MAX: usize = 16;
/// Reservations open at once: as many as one core's reports can ask for in one go.
pub const RESERVATIONS_MAX: usize = 4096;
/// Reservations one identity may hold: a stock node has 8 dial workers (spec §9.1), and each may
/// have given up once before the first reservation expires.
pub const RESERVATIONS_PER_CALLER_MAX: usize = 16;
/// How long a nonce from `node_connect` stays good (spec §11.2, §17: 30 s).
pub const RESERVATION_TIMEOUT_NS: u64 = 30_000_000_000;
/// Queries of raw-profile peers remembered to recognise copies. Copies arrive within moments of
/// each other, so this is what may arrive in that time.
pub const RECENT_QUERIES_MAX: usize = 4096;
/// How long a registration outlives the last link and idle connection of its node: a day asleep.
pub const REGISTRATION_KEEP_NS: u64 = 24 * 3600 * 1_000_000_000;
/// What a subscriber is granted, in seconds (spec §11.1: stock grants 24 h).
pub const SUBSCRIPTION_LIFETIME_S: u64 = 24 * 3600;

/// Identities in one answer to `node_list`, 46 bytes each: 47 KiB, far below the 4 MiB window of
/// a stock caller. Successive answers go on where the last one ended.
pub const LISTED_IDENTITIES_MAX: usize = 1024;
/// Draws for one nonce. Two first bytes of 256 are unusable (spec §11.2) and a clash is far less
/// likely still, so a fair source fails 64 draws with a chance below 2^-400.
pub const NONCE_DRAWS_MAX: usize = 64;

/// Bytes of a balanced-tree node per entry, beyond key and value: the nodes are at least half full.
const TREE_OVERHEAD_FACTOR: usize = 2;
/// Generous sizes of one entry with all its indexes, in bytes.
pub(super) const REGISTRATION_BYTES: usize = 480;
pub(super) const IDLE_SOCKET_BYTES: usize = 144;
pub(super) const RESERVATION_BYTES: usize = 256;
const RECENT_QUERY_BYTES: usize = 160;

/// What the operator allows the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Whether there is a gateway at all; without one all its operations get code 1.
    pub enabled: bool,
    /// The address of the socket port to hand out, instead of the one the asking peer dialed.
    pub announce: Option<SocketAddr>,
    /// Registrations kept at once.
    pub registrations_max: usize,
    /// Idle connections per registration, reserved ones included.
    pub idle_per_registration_max: usize,
    /// Reservations open at once.
    pub reservations_max: usize,
    /// Reservations open at once for one caller.
    pub reservations_per_caller_max: usize,
    /// How long a reservation's nonce stays good.
    pub reservation_timeout_ns: u64,
    /// Queries remembered to recognise copies of them.
    pub recent_queries_max: usize,
    /// How long a registration outlives the last link and idle connection of its node.
    pub registration_keep_ns: u64,
    /// What `.gateway.subscribe` grants.
    pub subscription_lifetime_s: u64,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            enabled: true,
            announce: None,
            registrations_max: REGISTRATIONS_MAX,
            idle_per_registration_max: IDLE_PER_REGISTRATION_MAX,
            reservations_max: RESERVATIONS_MAX,
            reservations_per_caller_max: RESERVATIONS_PER_CALLER_MAX,
            reservation_timeout_ns: RESERVATION_TIMEOUT_NS,
            recent_queries_max: RECENT_QUERIES_MAX,
            registration_keep_ns: REGISTRATION_KEEP_NS,
            subscription_lifetime_s: SUBSCRIPTION_LIFETIME_S,
        }
    }
}

impl GatewayLimits {
    /// The most memory the gateway's tables can take, in bytes, when all data cores together hold
    /// so many raw sockets.
    pub fn table_bytes_max(&self, raw_sockets_max: usize) -> usize {
        let idle_sockets = self
            .registrations_max
            .saturating_mul(self.idle_per_registration_max)
            .min(raw_sockets_max);
        [
            (self.registrations_max, REGISTRATION_BYTES),
            (idle_sockets, IDLE_SOCKET_BYTES),
            (self.reservations_max, RESERVATION_BYTES),
            (self.recent_queries_max, RECENT_QUERY_BYTES),
        ]
        .into_iter()
        .fold(0, |sum: usize, (entries, entry_bytes)| {
            let bytes = entries.saturating_mul(entry_bytes).saturating_mul(TREE_OVERHEAD_FACTOR);
            sum.saturating_add(bytes)
        })
    }
}

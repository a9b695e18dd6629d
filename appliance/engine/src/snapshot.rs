//! What a running data core can be told anew: access and the limits that a reload may change.
//!
//! Built by the management core from the configuration and published whole, as an `Arc`; a core
//! picks it up at the top of a turn and acknowledges its epoch. Nothing in it changes afterwards.

use std::sync::Arc;
use std::time::Duration;
use waystation_relay::access::Access;
use waystation_relay::address_policy::AddressPolicy;
use waystation_relay::peer_policy::PeerPolicy;
use waystation_turn::credentials::Credentials;

/// See the module.
#[derive(Clone, Debug)]
pub struct CoreSnapshot {
    /// Counts up with every snapshot of one run.
    pub epoch: u64,
    pub access: Access,
    pub limits: ReloadableLimits,
    /// For the TURN server, if there is one.
    pub turn: Option<TurnSnapshot>,
    /// Whom opaque UDP sessions may exchange packets with.
    pub udp_peers: Arc<AddressPolicy>,
}

/// What a TURN server can be told anew.
#[derive(Clone, Debug)]
pub struct TurnSnapshot {
    /// Whom it serves.
    pub credentials: Arc<Credentials>,
    /// Whom its clients may exchange packets with.
    pub peers: Arc<PeerPolicy>,
}

/// Limits of a data core that may change while it runs. What exceeds a lowered cap stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadableLimits {
    /// Most sessions on one link.
    pub sessions_per_link: usize,
    /// Most sessions on all links of this core.
    pub sessions: usize,
    /// How long a target may take to answer.
    pub query_timeout: Duration,
    /// Most links.
    pub links: usize,
    /// Most connections that have not finished their negotiation or shown their nonce.
    pub half_open: usize,
    /// Most raw sockets of the gateway.
    pub sockets: usize,
    pub handshake_timeout: Duration,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    pub send_stall_timeout: Duration,
    pub idle_ping_interval: Duration,
    pub idle_dead_after: Duration,
    pub pipe_idle_timeout: Duration,
    /// How long a link may be without sessions; absent: for as long as it likes.
    pub link_idle_timeout: Option<Duration>,
}

//! What the operator decides for the node, as values of its own rooms.
//!
//! Made from the configuration on the management thread, at the start and at every reload.

use super::relaying::RelayPolicy;
use crate::config::Config;
use crate::gateway::GatewayLimits;
use std::time::Duration;

/// Everything the node is told; a reload gives it a new one.
#[derive(Clone, Debug, Default)]
pub struct NodeSettings {
    /// Whether and how it is a gateway.
    pub gateway: GatewayLimits,
    /// Who may speak for others, and who is asked about identities not linked here.
    pub relay: RelayPolicy,
}

impl NodeSettings {
    /// What the configuration says.
    pub fn of(config: &Config) -> Self {
        Self { gateway: gateway_limits(config), relay: relay_policy(config) }
    }
}

/// Gateways that forward to each other speak for their callers, so each trusts the other to.
fn relay_policy(config: &Config) -> RelayPolicy {
    let speaks = config.peers.iter().filter(|peer| peer.trusted || peer.forwards);
    let forwards = config.peers.iter().filter(|peer| peer.forwards);
    RelayPolicy {
        trusted: speaks.map(|peer| peer.identity).collect(),
        forwards: forwards.map(|peer| peer.identity).collect(),
    }
}

fn gateway_limits(config: &Config) -> GatewayLimits {
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    GatewayLimits {
        enabled: config.gateway.enabled,
        announce: config.gateway.announce,
        registrations_max: config.gateway.registrations_max,
        idle_per_registration_max: config.gateway.idle_per_registration_max,
        reservation_timeout_ns: nanoseconds(config.gateway.reservation_timeout),
        ..GatewayLimits::default()
    }
}

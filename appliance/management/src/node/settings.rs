//! What the operator decides for the node, as values of its own rooms.
//!
//! Made from the configuration on the management thread, at the start and at every reload.

use super::relaying::RelayPolicy;
use super::services::ServiceSettings;
use crate::config::Config;
use crate::gateway::GatewayLimits;
use std::net::SocketAddr;
use std::time::Duration;

/// Everything the node is told; a reload gives it a new one.
#[derive(Clone, Debug, Default)]
pub struct NodeSettings {
    /// Whether and how it is a gateway.
    pub gateway: GatewayLimits,
    /// Who may speak for others, and who is asked about identities not linked here.
    pub relay: RelayPolicy,
    /// What its services say, and to whom.
    pub services: ServiceSettings,
}

impl NodeSettings {
    /// What the configuration says, of a node that listens there.
    pub fn of(config: &Config, listen: &[SocketAddr]) -> Self {
        Self {
            gateway: gateway_limits(config),
            relay: relay_policy(config),
            services: services(config, listen),
        }
    }
}

fn services(config: &Config, listen: &[SocketAddr]) -> ServiceSettings {
    let sees_all = config.peers.iter().filter(|peer| peer.full_view);
    let known = config.peers.iter().filter(|peer| !peer.endpoints.is_empty());
    ServiceSettings {
        alias: config.node.alias.clone(),
        listen: listen.to_vec(),
        announce: config.gateway.announce,
        full_view: sees_all.map(|peer| peer.identity).collect(),
        known: known.map(|peer| (peer.identity, peer.endpoints.clone())).collect(),
        reflects: config.node.reflect_endpoints,
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

//! What identities may use, as the configuration says it: in general, and for single peers.

use super::place_of;
use crate::config::{Config, PeerConfig};
use std::collections::BTreeMap;
use waystation_astral::identity::Identity;
use waystation_engine::control::Network;
use waystation_relay::quota::QuotaLimits;

/// What one identity may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityLimits {
    /// Links over all networks.
    pub links: usize,
    /// Links over one network.
    pub links_per_network: usize,
    /// 0 or 1.
    pub registrations: usize,
    /// Sessions and bytes.
    pub quota: QuotaLimits,
}

/// What all identities may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSettings {
    general: IdentityLimits,
    /// Only those about whom something is said.
    peers: BTreeMap<Identity, IdentityLimits>,
    network_links_max: [usize; super::NETWORKS.len()],
    kept_max: usize,
}

impl AccountSettings {
    /// Reads them off the configuration.
    pub fn of_config(config: &Config) -> Self {
        let limits = &config.limits;
        let general = IdentityLimits {
            links: limits.links_per_identity_max,
            links_per_network: limits.links_per_identity_and_network_max,
            registrations: limits.registrations_per_identity_max,
            quota: QuotaLimits {
                sessions: limits.sessions_per_identity_max,
                bytes_per_s: limits.rate.bytes_per_s(),
                burst_bytes: limits.burst.as_u64(),
            },
        };
        let peers = config.peers.iter().map(|peer| (peer.identity, of_peer(general, peer)));
        Self {
            general,
            peers: peers.filter(|(_, limits)| *limits != general).collect(),
            network_links_max: [limits.tcp_links_max, limits.tor_links_max, limits.gw_links_max],
            kept_max: limits.accounts_kept_max,
        }
    }

    /// What an identity may use.
    pub fn of(&self, identity: &Identity) -> IdentityLimits {
        self.peers.get(identity).copied().unwrap_or(self.general)
    }

    /// Most links of a network over all cores.
    pub fn network_max(&self, network: Network) -> usize {
        self.network_links_max.get(place_of(network)).copied().unwrap_or_default()
    }

    /// Most accounts of identities without a link.
    pub fn kept_max(&self) -> usize {
        self.kept_max
    }
}

fn of_peer(general: IdentityLimits, peer: &PeerConfig) -> IdentityLimits {
    let quota = QuotaLimits {
        sessions: peer.sessions_max.unwrap_or(general.quota.sessions),
        bytes_per_s: peer.rate.map_or(general.quota.bytes_per_s, |rate| rate.bytes_per_s()),
        burst_bytes: peer.burst.map_or(general.quota.burst_bytes, |burst| burst.as_u64()),
    };
    IdentityLimits {
        links: peer.links_max.unwrap_or(general.links),
        // A peer that may have more links than others may have them over one network.
        links_per_network: peer.links_max.unwrap_or(general.links_per_network),
        registrations: peer.registrations_max.unwrap_or(general.registrations),
        quota,
    }
}

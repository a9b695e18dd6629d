//! What the node is made of, from the configuration and from what the program has found.

use super::own::Services;
use crate::config::{Config, DhtConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use waystation_a2al::node::NodeConfig;
use waystation_a2al::rate::{Rate, Rates};
use waystation_a2al::store::StoreLimits;
use waystation_astral::identity::Identity;
use zeroize::Zeroizing;

/// What the program has read, or knows the place of.
pub struct DhtFiles {
    /// The seed of the node's key.
    pub seed: Zeroizing<[u8; 32]>,
    /// Where its snapshot is kept.
    pub snapshot: PathBuf,
}

impl std::fmt::Debug for DhtFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DhtFiles").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

/// What a reload may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DhtLive {
    /// Addresses at which the network is found.
    pub bootstrap: Vec<SocketAddr>,
    /// What is published of this appliance.
    pub(super) services: Option<Services>,
}

/// See the module.
#[derive(Debug)]
pub struct DhtSettings {
    pub(super) files: DhtFiles,
    pub(super) node: NodeConfig,
    /// Where others reach the node; empty: found out.
    pub(super) advertise: Vec<SocketAddr>,
    pub(super) snapshot_interval: Duration,
    pub(super) live: DhtLive,
}

impl DhtSettings {
    /// The settings of a configuration with a DHT. `listen` and `turn_listen` are the addresses of
    /// links and of TURN, with the ports that the kernel gave.
    pub fn of(
        config: &Config,
        files: DhtFiles,
        identity: Identity,
        listen: &[SocketAddr],
        turn_listen: &[SocketAddr],
    ) -> Self {
        let dht = &config.dht;
        Self {
            files,
            node: node_config(dht),
            advertise: dht.advertise.clone(),
            snapshot_interval: dht.snapshot_interval,
            live: DhtLive::of(config, identity, listen, turn_listen),
        }
    }
}

impl DhtLive {
    /// As [`DhtSettings::of`].
    pub fn of(
        config: &Config,
        identity: Identity,
        listen: &[SocketAddr],
        turn_listen: &[SocketAddr],
    ) -> Self {
        let services = config.dht.publish_services.then(|| Services {
            name: config.node.alias.clone(),
            identity,
            listen: listen.to_vec(),
            turn_listen: turn_listen.to_vec(),
            topics: config.dht.topics.clone(),
        });
        Self { bootstrap: config.dht.bootstrap.clone(), services }
    }
}

fn node_config(dht: &DhtConfig) -> NodeConfig {
    NodeConfig {
        bootstrap: dht.bootstrap.clone(),
        is_diverse: dht.diverse,
        allows_private: dht.allow_private,
        sends_pool: dht.mail_pool,
        is_passive: dht.beacon,
        rates: Rates {
            strangers: Rate::with_burst_of_two_seconds(
                u32::try_from(dht.stranger_rate).unwrap_or(u32::MAX),
            ),
            ..if dht.beacon { Rates::BEACON } else { Rates::MEMBER }
        },
        store: StoreLimits {
            keys_max: dht.store_keys_max(),
            bytes_max: dht.store_memory().as_usize(),
        },
        // Both are found out, and told to the node then.
        endpoints: Vec::new(),
        hubs: Vec::new(),
    }
}

//! `[dht]`: what an operator says about the node of the A2AL DHT.
//!
//! Pure, like the rest of the configuration. The node's key is in a file, which the program reads.

use super::Config;
use super::problem::Complaint;
use crate::units::{ByteSize, serialize_duration};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use waystation_a2al::limits::{
    STORE_BYTES_BEACON, STORE_BYTES_DEFAULT, STORE_KEYS_BEACON, STORE_KEYS_DEFAULT,
    STRANGERS_DEFAULT,
};

/// See the module. Without `enabled` there is no node, and nothing else here has an effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DhtConfig {
    pub enabled: bool,
    pub listen: Vec<SocketAddr>,
    /// Nobody is dialed that is not here, or that somebody here has told of.
    pub bootstrap: Vec<SocketAddr>,
    /// Where others reach the node; empty: found out.
    pub advertise: Vec<SocketAddr>,
    /// Absent: in the state directory.
    #[serde(serialize_with = "super::serialize_path")]
    pub key_file: Option<PathBuf>,
    /// Absent: in the state directory.
    #[serde(serialize_with = "super::serialize_path")]
    pub snapshot_file: Option<PathBuf>,
    #[serde(serialize_with = "serialize_duration")]
    pub snapshot_interval: Duration,
    pub publish_services: bool,
    pub topics: Vec<String>,
    pub diverse: bool,
    pub allow_private: bool,
    pub keys_max: usize,
    pub record_memory: ByteSize,
    pub beacon: bool,
    pub mail_pool: bool,
    /// Messages a second of all together that have proved nothing.
    pub stranger_rate: usize,
}

impl Default for DhtConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: Vec::new(),
            bootstrap: Vec::new(),
            advertise: Vec::new(),
            key_file: None,
            snapshot_file: None,
            snapshot_interval: Duration::from_secs(600),
            publish_services: true,
            topics: Vec::new(),
            diverse: true,
            allow_private: false,
            keys_max: STORE_KEYS_DEFAULT,
            record_memory: ByteSize::from_kib(STORE_BYTES_DEFAULT as u64 / 1024),
            beacon: false,
            mail_pool: false,
            stranger_rate: STRANGERS_DEFAULT.per_s as usize,
        }
    }
}

impl DhtConfig {
    /// Keys that the store may have. A beacon is sent every record of the network, so what a member
    /// has by default is not what a beacon has.
    pub fn store_keys_max(&self) -> usize {
        let is_default = self.keys_max == Self::default().keys_max;
        if self.beacon && is_default { STORE_KEYS_BEACON } else { self.keys_max }
    }

    /// Bytes that its records may have, likewise.
    pub fn store_memory(&self) -> ByteSize {
        let is_default = self.record_memory == Self::default().record_memory;
        let beacon = ByteSize::from_bytes(STORE_BYTES_BEACON);
        if self.beacon && is_default { beacon } else { self.record_memory }
    }
}

/// What no key can see alone: the key that is more likely the slip, and what is wrong.
pub(super) fn contradiction(config: &Config) -> Option<(&'static str, Complaint)> {
    let dht = &config.dht;
    if dht.enabled && dht.listen.is_empty() {
        return Some(("dht.listen", Complaint::DhtWithoutAddress));
    }
    let nowhere = |list: &[SocketAddr]| {
        list.iter().copied().find(|address| address.port() == 0 || address.ip().is_unspecified())
    };
    if let Some(address) = nowhere(&dht.advertise) {
        return Some(("dht.advertise", Complaint::NotDialable { address }));
    }
    if let Some(address) = nowhere(&dht.bootstrap) {
        return Some(("dht.bootstrap", Complaint::NotADhtNode { address }));
    }
    let (links, datagrams) = (&config.turn.listen, &dht.listen);
    let taken = datagrams.iter().copied().find(|at| at.port() != 0 && links.contains(at));
    if dht.enabled
        && let Some(address) = taken
    {
        return Some(("dht.listen", Complaint::AddressOfTurn { address }));
    }
    None
}

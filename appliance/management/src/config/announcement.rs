//! How this node is described to others: the `node1…` text.

use super::Config;
use std::net::SocketAddr;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_astral::node_info::NodeInfo;

/// The `node1…` text with the addresses others can dial (spec §2.1): the announced one, or those
/// that are listened on.
pub fn node_info(config: &Config, identity: Identity, listen: &[SocketAddr]) -> String {
    let announced = config.gateway.announce.as_slice();
    let addresses = if announced.is_empty() { listen } else { announced };
    let endpoints = addresses
        .iter()
        .filter(|address| !address.ip().is_unspecified())
        .map(|&address| Endpoint::Tcp(address))
        .collect();
    NodeInfo { alias: config.node.alias.clone(), identity, endpoints }.to_string()
}

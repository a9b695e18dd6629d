//! `[hub]`: what an operator says about the A2AL signalling hub.
//!
//! Pure, like the rest of the configuration.

use serde::Serialize;
use std::net::SocketAddr;
use waystation_a2al::hub::HubLimits;

/// See the module, and [`super::Config::hub_addresses`] for whether there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HubConfig {
    pub enabled: bool,
    /// Empty: where the node of the DHT listens.
    pub listen: Vec<SocketAddr>,
    pub connections_max: usize,
    pub connections_per_source_max: usize,
    pub registrations_max: usize,
    pub registrations_per_connection_max: usize,
    pub registrations_per_source_max: usize,
    pub rooms_max: usize,
    pub waiting_per_source_max: usize,
}

impl Default for HubConfig {
    fn default() -> Self {
        let limits = HubLimits::default();
        Self {
            enabled: true,
            listen: Vec::new(),
            connections_max: limits.connections_max,
            connections_per_source_max: limits.connections_per_source_max,
            registrations_max: limits.registrations_max,
            registrations_per_connection_max: limits.registrations_per_connection_max,
            registrations_per_source_max: limits.registrations_per_source_max,
            rooms_max: limits.rooms_max,
            waiting_per_source_max: limits.waiting_per_source_max,
        }
    }
}

impl HubConfig {
    /// The limits in the form the hub takes.
    pub fn limits(&self) -> HubLimits {
        HubLimits {
            connections_max: self.connections_max,
            connections_per_source_max: self.connections_per_source_max,
            registrations_max: self.registrations_max,
            registrations_per_connection_max: self.registrations_per_connection_max,
            registrations_per_source_max: self.registrations_per_source_max,
            rooms_max: self.rooms_max,
            waiting_per_source_max: self.waiting_per_source_max,
        }
    }
}

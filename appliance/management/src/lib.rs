//! The management core: configuration, the gateway's bookkeeping, the stats socket and metrics.

pub mod a2al_sockets;
pub mod accounts;
pub mod clock;
pub mod config;
pub mod confinement;
pub mod counter_table;
pub mod dht;
pub mod dialing;
pub mod directory;
pub mod documents;
pub mod efficiency;
pub mod floor_file;
pub mod gateway;
pub mod hand_over;
pub mod headroom;
pub mod hlog;
pub mod hub;
pub mod journal;
mod limited;
pub mod limits;
pub mod log_comparison;
pub mod log_levels;
pub mod metric_families;
pub mod metrics;
pub mod monitoring;
pub mod node;
pub mod observations;
pub mod opaque;
pub mod peer_document;
pub mod placement;
pub mod recent;
pub mod registrations_file;
pub mod render;
pub mod resident;
pub mod runtime;
pub mod same_core;
pub mod stats_socket;
pub mod top;
mod udp_document;
pub mod units;
pub mod xdp;

#[cfg(test)]
mod fixtures;

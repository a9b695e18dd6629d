//! The management core: configuration, the gateway's bookkeeping, the stats socket and metrics.

pub mod clock;
pub mod config;
pub mod counter_table;
pub mod directory;
pub mod documents;
pub mod gateway;
pub mod hlog;
pub mod limits;
pub mod metrics;
pub mod observations;
pub mod render;
pub mod stats_socket;
pub mod units;
pub mod registrations_file;
pub mod runtime;

#[cfg(test)]
mod fixtures;

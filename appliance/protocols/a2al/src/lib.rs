//! The A2AL DHT, sans-IO: messages, records, and what a node of the network does.
//!
//! Datagrams, times and random values go in, values come out. No sockets, no clock, no randomness
//! but what is passed in. Section numbers (§) in this crate are those of the specification of wire
//! and behaviour that `docs/protocols/a2al.md` sums up; [D-n] are defects of the first
//! implementation, none of which is kept.

#![forbid(unsafe_code)]

pub mod address;
pub mod address_text;
pub mod cbor;
pub mod chains;
pub mod delegation;
mod hash;
pub mod host;
pub mod hub;
pub mod keys;
pub mod limits;
pub mod message;
pub mod nat;
pub mod network_size;
pub mod node;
pub mod node_id;
pub mod payload;
pub mod peers;
pub mod prefix;
pub mod query;
pub mod random;
pub mod rate;
pub mod recent;
pub mod record;
pub mod replication;
pub mod routing;
pub mod seen;
pub mod snapshot;
pub mod socket_address;
pub mod store;
pub mod time;
pub mod verification;

pub use hash::sha256;

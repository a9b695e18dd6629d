//! Programs that measure, and what they share. `waystation-load` drives any Astral gateway.
//!
//! Never part of the appliance: it may block, allocate, read clocks and print.

#![forbid(unsafe_code)]

pub mod aead;
pub mod compare;
pub mod control;
pub mod datagrams;
pub mod dht;
pub mod flood;
pub mod frames;
pub mod load;
pub mod streets;
pub mod swarm;

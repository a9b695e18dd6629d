//! Flows of numbered and checked datagrams, one by one or in trains, through whatever relays them,
//! and the floor, a thread that only forwards them.

pub mod flow;
pub mod forwarder;

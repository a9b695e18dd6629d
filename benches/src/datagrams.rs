//! Flows of numbered and checked datagrams, one by one or in trains, through whatever relays them;
//! the floor, a thread that only forwards them; and a flood of
//! what nobody asked for.

pub mod flood;
pub mod flow;
pub mod forwarder;

//! One node among peers that a test plays.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod beacon;
mod conversations;
mod learning;
mod mutations;
mod own;
mod requests;
mod restarting;
mod stage;
#[path = "../vectors/mod.rs"]
mod vectors;
mod versions;

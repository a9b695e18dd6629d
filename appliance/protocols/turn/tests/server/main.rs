//! The server, asked what clients, peers and strangers ask.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod allocating;
mod authentication;
mod example;
mod forgeries;
mod handing_over;
mod lifetimes;
mod peers;
mod relaying;
mod sharing;
mod strangers;
#[path = "../world/mod.rs"]
mod world;

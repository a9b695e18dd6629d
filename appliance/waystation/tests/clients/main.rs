//! TURN clients of others against the real process: coturn's, aioice, pion, and pages in Chromium.
//!
//! Everything runs twice: on loopback with the appliance as an ordinary user, and as root in three
//! network namespaces, whose outer two have no way to each other but the relay. What arrives is
//! compared byte for byte by the clients or their peers; the counters say which tier carried it.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where and shows why; it looks at the clock, and pauses"
)]

mod aioice;
mod chromium;
mod coturn;
mod echo;
mod hub;
mod pion;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod talker;
mod turn;
mod web;

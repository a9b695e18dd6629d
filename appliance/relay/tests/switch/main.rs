//! The switch from outside: what goes out on each link for what came in, on one core and on more.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it skips"
)]

mod fairness;
mod handing_over;
mod limiting;
mod local;
mod migration;
mod quotas;
mod relaying;
mod relocation;
mod sessions;
mod traffic;
mod world;

//! Links of a data core, one turn after the other: those it makes itself, whom it lets in, and when
//! it closes them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it skips"
)]

mod dials;
mod inside;
mod pipes;
mod policies;
#[path = "../support/mod.rs"]
mod support;
mod turns;

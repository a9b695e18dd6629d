//! Tuning: what this machine is, what would make it a better relay, and doing so in a way that can be
//! undone.
//!
//! Called by the program's sub-commands and as it starts, on the thread that asks; never by a data
//! core. So far it holds the hardware profiles.

#![forbid(unsafe_code)]

pub mod catalog;
pub mod documentation;
pub mod limits;
pub mod profile;

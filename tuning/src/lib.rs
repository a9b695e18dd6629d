//! Tuning: what this machine is, what would make it a better relay, and doing so in a way that can
//! be undone.
//!
//! Called by the program's sub-commands and as it starts, on the thread that asks; never by a data
//! core. Reads and changes the machine through [`machine`] alone, so that the tree of another one
//! can stand in for it.

#![forbid(unsafe_code)]

pub mod apply;
pub mod catalog;
pub mod cpu_list;
pub mod doctor;
pub mod documentation;
pub mod inventory;
pub mod layout;
pub mod limits;
pub mod machine;
pub mod netlink;
pub mod plan;
pub mod profile;
pub mod remote;
pub mod render;
pub mod undo;

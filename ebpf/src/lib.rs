//! The user-space side of the programs in `xdp-programs/`: loads and attaches them, owns their maps
//! behind typed tables, reads their verdicts, and runs them on frames without a network card.
//!
//! Called on the management core, before privileges are dropped and, for the maps, after. It must
//! never be called by a data core: every access is a system call. It knows nothing of sessions but
//! what it is told.

#![forbid(unsafe_code)]

pub mod attach;
pub mod capture;
pub mod classifier;
pub mod forwarding;
pub mod interfaces;
pub mod object;
pub mod pins;
pub mod programs;
pub mod runs;
pub mod selection;
mod sessions;
mod sources;
pub mod tables;
pub mod verdicts;

pub use waystation_ebpf_abi as abi;

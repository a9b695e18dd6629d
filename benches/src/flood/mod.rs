//! A flood on the socket of the appliance's DHT node, and what it does to data on its way.
//!
//! The flood comes from a process of its own; with `--xdp` from another network namespace, behind
//! the program in the kernel.

pub mod options;
pub mod ratio;
pub mod run;
pub mod scene;
pub mod sender;

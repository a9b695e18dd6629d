//! Flows of numbered and checked frames between namespaces, as if cables brought them, and a flood
//! beside them: what drives the relays that are compared between hosts.
//!
//! A frame of a socket would reach a relay's interface as a packet of the kernel's, which the
//! kernel copies once more before it shows it to an XDP program, and no card's driver does. So
//! frames are made in the kernel by the programs of `benches/frame-programs`, and taken there.

pub mod flows;
mod layout;
mod programs;

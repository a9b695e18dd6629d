//! Opaque UDP sessions as their owner drives them: what passes, what is learned, what a stranger
//! cannot do.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod ends;
mod handing_over;
mod offload;
mod opening;
mod packets;
mod passing;
mod proofs;
mod roaming;
mod theft;
mod world;

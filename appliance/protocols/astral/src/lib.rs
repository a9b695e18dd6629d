//! The Astral link protocol, sans-IO: brontide, negotiation, frames, objects and operations.
//!
//! Bytes, times and random values go in, values come out. No sockets, no clock, no randomness but
//! what is passed in; every decoder bounds depth, count and bytes before it allocates.

#![forbid(unsafe_code)]

pub mod aead;
pub mod brontide;
pub mod endpoint;
pub mod frame;
pub mod gateway;
pub mod hexadecimal;
pub mod identity;
pub mod key_file;
pub mod limits;
pub mod negotiation;
pub mod node_info;
mod noise_resolver;
pub mod object;
pub mod objects;
pub mod operations;
pub mod query;
mod time;

//! STUN (RFC 8489) and the server side of TURN (RFC 8656), sans-IO.
//!
//! Packets, times and random values go in, values come out. No sockets, no clock, no randomness but
//! what is passed in; nothing is kept for a source that has not proved that it receives what is
//! sent to it, and what relays payload allocates nothing. A data core drives one
//! [`server::Server`]; of what is here, threads share immutable credentials and the counts of
//! [`sharing::Shared`].

#![forbid(unsafe_code)]

pub mod attribute;
pub mod channel_data;
pub mod credentials;
pub mod discard;
pub mod integrity;
pub mod limits;
pub mod message;
pub mod nonce;
mod ports;
pub mod quotas;
mod reply_limit;
pub mod server;
pub mod sharing;
pub mod stream;
pub mod transport;
pub mod writer;

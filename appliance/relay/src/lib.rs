//! What may be joined to what: sessions, legs and pipes, credit, and the reasons for not forwarding.
//!
//! Sans-IO: no sockets, no clock, no randomness but what is passed in. A data core drives one
//! [`switch::Switch`] and one [`udp::Sessions`]; nothing here is shared between threads.

#![forbid(unsafe_code)]

pub mod access;
pub mod address_policy;
pub mod chunk_queue;
pub mod drop_reason;
pub mod ids;
pub mod leg;
pub mod limiting;
pub mod limits;
pub mod peer_policy;
pub mod quota;
pub mod slots;
pub mod switch;
pub mod udp;

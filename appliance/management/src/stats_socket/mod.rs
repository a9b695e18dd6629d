//! HTTP over a Unix socket: what the operator and the tools ask the node, and tell it.
//!
//! [`server`] speaks HTTP on the management thread's tokio runtime and passes each request as a
//! [`StatsRequest`] to the runtime that owns the observations, because listings need a round trip
//! to the data cores. [`client`] is the other end, for the sub-commands. Whoever may connect may
//! ask with `GET`, which changes nothing; commands are `POST`, and taken only from the user that the
//! program runs as and from root, by what the kernel says of the peer.

mod asked;
mod bind;
pub mod client;
mod dht_routes;
mod event_stream;
mod request;
mod routes;
mod server;
mod support_routes;

pub use asked::asked;
pub use bind::{Aside, BindError, bind, bind_aside};
pub use request::{Document, ListingRequest, Order, Question, StatsRequest};
pub(crate) use server::may_command;
pub use server::{StatsLimits, StatsServer, channel};

#[cfg(test)]
mod command_tests;
#[cfg(test)]
mod tests;

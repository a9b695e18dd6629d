//! HTTP over a Unix socket, read-only: what the operator and the tools ask the node.
//!
//! [`server`] speaks HTTP on the management thread's tokio runtime and passes each request as a
//! [`StatsRequest`] to the runtime that owns the observations, because listings need a round trip
//! to the data cores. [`client`] is the other end, for the sub-commands. There are no commands
//! here: nothing that is asked changes anything.

mod asked;
mod bind;
pub mod client;
mod request;
mod routes;
mod server;

pub use asked::asked;
pub use bind::{BindError, bind};
pub use request::{Document, ListingRequest, Question, StatsRequest};
pub use server::{StatsLimits, StatsServer, channel};

#[cfg(test)]
mod tests;

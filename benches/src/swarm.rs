//! The generator of the comparisons: one thread, one epoll set, any number of flows over Astral
//! links or plain connections, every byte compared.
//!
//! `waystation-load` has threads for each pair and behaves as real nodes do. Here the generator must
//! cost as little as it can, so that the relay and not the switching of the generator's threads
//! decides how messages bunch up, and paced messages leave within a microsecond of when they are
//! due. Runs on the thread that calls it and never blocks but in its own wait.

pub mod connection;
pub mod dial;
pub mod flow;
pub mod limits;
pub mod link;
pub mod rounds;
pub mod sealed;
pub mod shape;

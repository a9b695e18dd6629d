//! What a node of the DHT spends on requests, on the management core of this build.
//!
//! The node runs in this process as in the appliance: its task on a thread of its own with tokio's
//! single-threaded runtime, real sockets on loopback. The generator signs all requests of a round
//! before it, and keeps so many under way that the node always has something to do. Its cost is what
//! the kernel counts for its thread.

pub mod client;
pub mod floor;
pub mod operation;
pub mod report;
pub mod scene;
pub mod served;

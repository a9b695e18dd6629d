//! What tests of several rooms need to prove something: memory that is counted, and randomness that
//! can be had again.
//!
//! Tests lean on it as a development dependency; nothing of it is in the program. It knows none of
//! the rooms.

pub mod allocator;
pub mod model;
pub mod random;

//! What tests of several rooms need to prove something: memory that is counted, randomness that can
//! be had again, frames made by hand, and whether a committed object is what its sources make.
//!
//! Tests lean on it as a development dependency; nothing of it is in the program. It knows none of
//! the rooms.

pub mod allocator;
pub mod frame;
pub mod model;
pub mod prebuilt;
pub mod random;

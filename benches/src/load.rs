//! The load generator: pairs of peers that push numbered, stamped and checked messages through a
//! relay, and the floor of the same machine beside it.

pub mod clock;
pub mod ends;
pub mod floor;
pub mod machine;
pub mod message;
pub mod options;
pub mod pairs;
pub mod processor;
pub mod report;
pub mod round;
pub mod run;

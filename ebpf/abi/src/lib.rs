//! What the XDP programs and user space both see: keys and values of maps, their sizes, verdicts.
//!
//! Owns the layout of every map and nothing else. Compiled twice: for the host, where
//! `waystation-ebpf` fills and reads the maps, and for the kernel's BPF machine. It must never
//! allocate, need `std`, or hold a type whose layout depends on the target.

#![no_std]

mod captured;
mod frames;
pub mod limits;
mod place;
#[cfg(feature = "user")]
mod pod;
mod select;
mod session;
mod settings;
mod sources;
mod verdict;

pub use captured::{CAPTURED_HEAD_BYTES, Captured};
pub use frames::{FramePlace, FrameSocket};
pub use place::{KeyWords, SessionBucket, SessionPlace, SessionRecord, SessionSeeds, SessionWord};
pub use select::{Selection, SocketPlace};
pub use session::{Action, Address, NetworkU16, Session, SessionKey, family};
pub use settings::{Port, PortKinds, Settings, Vlan};
pub use sources::{
    DeniedHint, OwnAddresses, Reading, Stranger, StrangerBucket, bucket_of, stranger_of,
};
pub use verdict::{Counter, Verdict};

/// Version of the maps' layout. Whoever changes a type here, or what a field means, adds one, so
/// that a program of another version does not take over maps it would misread.
pub const LAYOUT_VERSION: u32 = 5;

//! What the programs are told, and what they tell.
//!
//! Numbers in frames lie in network order and are kept so; everything else is the machine's.

use crate::FLOWS_MAX;
use aya_ebpf::{
    macros::map,
    maps::{Array, DevMap, HashMap},
};

/// How frames of a flow begin, and how their checksum does.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Course {
    /// Ethernet, IPv4 and UDP headers and four bytes of a channel's framing. A flow without a
    /// channel has its headers at the end of it.
    pub head: [u32; 12],
    /// Sum of what the UDP checksum covers but the message's number.
    pub sum: u32,
    /// Bytes that are cut off in front: 4 without a channel, else 0.
    pub cut_bytes: u32,
}

/// How frames of a flow arrive.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Arrival {
    /// The sender's address.
    pub source: u32,
    /// Its port, and the receiver's.
    pub ports: [u16; 2],
    /// Channel and length in front of a message; 0: there is no channel.
    pub framing: u32,
    /// Whether the UDP checksum is finished.
    pub is_finished: u32,
}

/// What has come of a flow. Written by [`crate::receive`] alone while frames are under way.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tally {
    /// The number that is to come next.
    pub expected: u64,
    pub came: u64,
    pub lost: u64,
    /// Frames that were not as they should be.
    pub changed: u64,
    /// Frames of which every byte was compared.
    pub compared: u64,
}

/// Something that is due again and again.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pace {
    /// Between one and the next, in nanoseconds; 0: it has no pace.
    pub interval_ns: u64,
    /// When the next is due, on the kernel's monotonic clock.
    pub next_ns: u64,
    /// How many there were.
    pub count: u64,
}

/// Places in [`PACES`]: of all flows together, and of the flood.
pub const STEADY: u32 = 0;
pub const FLOOD: u32 = 1;

/// Flows that there are, and frames of each that may be under way. Zero flows send nothing.
#[unsafe(no_mangle)]
pub static FLOWS: u32 = 0;
#[unsafe(no_mangle)]
pub static WINDOW_FRAMES: u32 = 0;

/// By flow; the last is the flood's.
#[map]
pub static COURSES: Array<Course> = Array::with_max_entries(FLOWS_MAX + 1, 0);
/// The interface that frames of a flow leave by, by flow; the last is the flood's.
#[map]
pub static DEVICES: DevMap = DevMap::with_max_entries(FLOWS_MAX + 1, 0);
/// Numbers given so far, by flow. Written by [`crate::send`] alone.
#[map]
pub static SENT: Array<u64> = Array::with_max_entries(FLOWS_MAX, 0);
/// Whose turn it is.
#[map]
pub static TURN: Array<u32> = Array::with_max_entries(1, 0);
#[map]
pub static PACES: Array<Pace> = Array::with_max_entries(2, 0);

/// The flow whose frames arrive at an address (the lower 32 bits) and port (the next 16).
#[map]
pub static BOUND_FOR: HashMap<u64, u32> = HashMap::with_max_entries(FLOWS_MAX, 0);
#[map]
pub static ARRIVALS: Array<Arrival> = Array::with_max_entries(FLOWS_MAX, 0);
#[map]
pub static TALLIES: Array<Tally> = Array::with_max_entries(FLOWS_MAX, 0);

//! A sample of a frame, as the program hands it to user space.

use crate::limits::CAPTURED_BYTES_MAX;

/// The beginning of a frame as it came in, and what was decided about it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Captured {
    /// When, in nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// Bytes of the frame, without its checksum.
    pub frame_bytes: u32,
    /// How many of these are in `frame`; the rest of it is of other frames.
    pub captured_bytes: u32,
    /// A [`Verdict`](crate::Verdict), by its place.
    pub verdict: u32,
    /// The interface it came in by.
    pub interface: u32,
    /// The frame's beginning.
    pub frame: [u8; CAPTURED_BYTES_MAX],
}

/// Bytes in front of [`Captured::frame`].
pub const CAPTURED_HEAD_BYTES: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn a_sample_lies_as_the_object_was_built_with() {
        assert_eq!(offset_of!(Captured, frame_bytes), 8);
        assert_eq!(offset_of!(Captured, captured_bytes), 12);
        assert_eq!(offset_of!(Captured, verdict), 16);
        assert_eq!(offset_of!(Captured, interface), 20);
        assert_eq!(offset_of!(Captured, frame), CAPTURED_HEAD_BYTES);
        assert_eq!(size_of::<Captured>(), CAPTURED_HEAD_BYTES + CAPTURED_BYTES_MAX);
    }
}

//! Samples of frames that the program has handed over, read one after the other.
//!
//! The ring is mapped when the object is loaded, so that reading it needs no privilege later.

use crate::abi::{CAPTURED_HEAD_BYTES, Verdict, limits::CAPTURED_BYTES_MAX};
use aya::maps::{MapData, MapError, PerCpuArray, RingBuf};
use std::fmt;

/// A frame that the program has looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, in nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// What was decided.
    pub verdict: Verdict,
    /// The number of the interface that it came in by.
    pub interface: u32,
    /// Bytes of the whole frame.
    pub frame_bytes: u32,
    /// Its beginning, as it came in.
    pub frame: Vec<u8>,
}

impl Sample {
    /// From what lies in the ring; nothing if another program has written it.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (head, frame) = bytes.split_first_chunk::<CAPTURED_HEAD_BYTES>()?;
        let word = |at: usize| Some(u32::from_ne_bytes(*head.get(at..)?.first_chunk()?));
        let captured_bytes = usize::try_from(word(12)?).ok()?;
        let verdict = Verdict::ALL.get(usize::try_from(word(16)?).ok()?)?;
        Some(Self {
            time_ns: u64::from_ne_bytes(*head.first_chunk()?),
            verdict: *verdict,
            interface: word(20)?,
            frame_bytes: word(8)?,
            frame: frame.get(..captured_bytes.min(CAPTURED_BYTES_MAX))?.to_vec(),
        })
    }
}

/// The ring of samples.
pub struct CaptureTable {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
}

impl CaptureTable {
    pub(crate) fn new(ring: RingBuf<MapData>, lost: PerCpuArray<MapData, u64>) -> Self {
        Self { ring, lost }
    }

    /// Takes the oldest sample out; nothing if there is none.
    pub fn take(&mut self) -> Option<Sample> {
        loop {
            let item = self.ring.next()?;
            if let Some(sample) = Sample::read(&item) {
                return Some(sample);
            }
        }
    }

    /// Samples that found no room since the object was loaded.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lost(&self) -> Result<u64, MapError> {
        Ok(self.lost.get(&0, 0)?.iter().sum())
    }
}

impl fmt::Debug for CaptureTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureTable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn bytes(captured_bytes: u32, verdict: u32) -> Vec<u8> {
        let mut bytes = 77_u64.to_ne_bytes().to_vec();
        for word in [1500, captured_bytes, verdict, 4] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend([9; CAPTURED_BYTES_MAX]);
        bytes
    }

    #[test]
    fn a_sample_is_as_long_as_it_says_and_no_longer_than_it_is() {
        let sample = Sample::read(&bytes(60, Verdict::DropDenied.index())).unwrap();
        assert_eq!((sample.time_ns, sample.frame_bytes, sample.interface), (77, 1500, 4));
        assert_eq!((sample.verdict, sample.frame), (Verdict::DropDenied, vec![9; 60]));
        assert_eq!(Sample::read(&bytes(u32::MAX, 0)).unwrap().frame.len(), CAPTURED_BYTES_MAX);
        assert_eq!(Sample::read(&bytes(60, Verdict::COUNT)), None);
        assert_eq!(Sample::read(&bytes(60, 0)[..40]), None);
    }
}

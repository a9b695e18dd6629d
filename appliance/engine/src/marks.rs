//! Marks: when the frames of a send were reaped, opened and sealed, for the histograms.
//!
//! Owned by one link's or pipe's output. A mark stands for all frames of one received buffer, so
//! keeping time costs a few clock readings per buffer, not per frame. A list takes its memory with
//! its first mark and keeps it until it is told that nothing more is to come soon.

use crate::limits::MARKS_MAX;
use crate::statistics::{Stage, StageHistograms, TrafficClass};

/// The times of some frames that go out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub class: TrafficClass,
    pub reaped_ns: u64,
    pub opened_ns: u64,
    pub sealed_ns: u64,
    pub frames: u32,
}

/// The marks of one send.
#[derive(Clone, Debug, Default)]
pub struct Marks(Vec<Mark>);

impl Marks {
    /// Adds frames of one buffer. They share a mark with others of it; when there is no room for
    /// another mark, the last one takes them.
    pub fn add(&mut self, class: TrafficClass, frames: u32, reaped_ns: u64, opened_ns: u64) {
        let full = self.0.len() == MARKS_MAX;
        match self.0.last_mut() {
            Some(last) if full || (last.class == class && last.opened_ns == opened_ns) => {
                last.frames += frames;
            }
            Some(_) | None => {
                self.push(Mark { class, reaped_ns, opened_ns, sealed_ns: 0, frames });
            }
        }
    }

    /// Records the time in the box of every mark and moves all into `sent`.
    pub fn seal(&mut self, now_ns: u64, sent: &mut Self, histograms: &mut StageHistograms) {
        for mut mark in self.0.drain(..) {
            let in_box_ns = now_ns.saturating_sub(mark.opened_ns);
            histograms.record(Stage::OpenToSeal, mark.class, in_box_ns, u64::from(mark.frames));
            mark.sealed_ns = now_ns;
            let full = sent.0.len() == MARKS_MAX;
            match sent.0.last_mut() {
                Some(last) if full => last.frames += mark.frames,
                Some(_) | None => sent.push(mark),
            }
        }
    }

    /// Records the way to the kernel and the whole residence of every mark, and forgets them.
    pub fn sent(&mut self, now_ns: u64, histograms: &mut StageHistograms) {
        for mark in self.0.drain(..) {
            let frames = u64::from(mark.frames);
            let to_kernel_ns = now_ns.saturating_sub(mark.sealed_ns);
            histograms.record(Stage::SealToSent, mark.class, to_kernel_ns, frames);
            let residence_ns = now_ns.saturating_sub(mark.reaped_ns);
            histograms.record(Stage::Residence, mark.class, residence_ns, frames);
        }
    }

    /// Frees the memory of a list without marks.
    pub fn give_back_spare_memory(&mut self) {
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }

    /// Memory of the list besides this value.
    pub fn heap_bytes(&self) -> usize {
        self.0.capacity() * size_of::<Mark>()
    }

    fn push(&mut self, mark: Mark) {
        if self.0.capacity() == 0 {
            // All of it at once, so that a list in use never grows.
            self.0.reserve_exact(MARKS_MAX);
        }
        self.0.push(mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_recorded_once_however_many_marks_there_are() {
        let mut histograms = StageHistograms::new();
        let (mut open, mut sent) = (Marks::default(), Marks::default());
        for buffer in 0..3 * MARKS_MAX as u64 {
            open.add(TrafficClass::Data, 1, buffer, buffer);
            open.add(TrafficClass::Data, 1, buffer, buffer);
        }
        open.seal(1000, &mut sent, &mut histograms);
        for buffer in 0..10 {
            open.add(TrafficClass::Data, 1, buffer, buffer);
        }
        open.seal(1100, &mut sent, &mut histograms);
        sent.sent(2000, &mut histograms);
        let frames = 6 * MARKS_MAX as u64 + 10;
        for stage in [Stage::OpenToSeal, Stage::SealToSent, Stage::Residence] {
            assert_eq!(histograms.get(stage, TrafficClass::Data).len(), frames, "{stage:?}");
        }
    }
}

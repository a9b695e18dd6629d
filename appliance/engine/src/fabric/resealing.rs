//! Records that go on as they are: routed as one piece and sealed anew where they were opened.
//!
//! Part of [`Fabric`], on its data core's thread. What cannot go on so is left untouched for the
//! way frame by frame.

use super::{Fabric, SealedInPlace};
use crate::block::Block;
use crate::port::Segment;
use std::ops::Range;
use waystation_astral::frame::{DataRun, Profile};
use waystation_relay::switch::Route;

impl Fabric {
    /// Carries on a record that is a run of data frames as it is, sealed anew where it lies: at
    /// `record` in `buffer`, with room for a length and a tag. `behind` is what was sealed in the
    /// same buffer before, which it must follow. `None`: its frames have to be looked at one by
    /// one. `Some(None)`: sealing failed, which ends the link it was for.
    pub fn forward_record(
        &mut self,
        (link, profile): (u32, Profile),
        (buffer, record): (&mut [u8], Range<usize>),
        run: &DataRun,
        behind: Option<&SealedInPlace>,
    ) -> Option<Option<SealedInPlace>> {
        let (now_ns, bytes) = (self.opened_ns, run.payload_bytes);
        let to = self.switch.direct_link(now_ns, link, run.nonce, bytes)?;
        let side = self.sides.get_mut(to as usize)?.as_deref_mut()?;
        // What a link inside a session sends is copied into that session.
        if side.inside.is_some() || !side.output.takes_records(profile) {
            return None;
        }
        let follows = behind.is_none_or(|before| {
            before.link == to
                && before.record.end == record.start
                && side.output.continues(before.place)
        });
        if !follows {
            return None;
        }
        let Route::Direct { nonce, .. } =
            self.switch.route(now_ns, link, run.nonce, bytes, |_link| true)
        else {
            debug_assert!(false, "the switch has just said so");
            return None;
        };
        let times = (self.reaped_ns, now_ns);
        let place = side.output.reseal(nonce, &mut buffer[record.clone()], run, times);
        self.mark_dirty(to);
        self.apply_effects();
        let start = behind.map_or(record.start, |before| before.record.start);
        Some(place.map(|place| SealedInPlace { link: to, record: start..record.end, place }))
    }

    /// Sends a block on with the record that was sealed in it.
    pub fn attach_block(&mut self, sealed: Option<SealedInPlace>, block: Block) {
        let side = sealed.and_then(|sealed| Some((self.side(sealed.link)?, sealed)));
        let Some((side, SealedInPlace { record, place, .. })) = side else {
            self.pool.give_back(block);
            return;
        };
        side.output.attach(place, Segment::Block { block, range: record });
    }
}

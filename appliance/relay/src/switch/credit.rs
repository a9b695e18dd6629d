//! Credit: who may send how much, and when it comes back.
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only.

use super::{DataSink, Effect, Switch};
use crate::leg::{LegState, Signal};
use crate::limits::CREDIT_RETURN_DIVISOR;
use waystation_astral::frame::Frame;

impl Switch {
    /// Accounts for bytes passed on to a leg's link, and lets their sender have its credit back in
    /// steps. What this node itself has sent was nobody's credit.
    pub(super) fn passed_on(&mut self, slot: u32, bytes: usize) {
        let Some(to) = self.legs.at(slot).and_then(|leg| leg.other.leg()) else { return };
        if let Some(bytes) = self.credit_to_return(slot, bytes) {
            self.tell(Signal::Consumed { to, bytes });
        }
    }

    /// Accounts for bytes of a leg's own peer that this node has taken, and returns credit for
    /// them in steps.
    pub(super) fn taken(&mut self, slot: u32, bytes: usize) {
        if let Some(bytes) = self.credit_to_return(slot, bytes) {
            self.return_credit(slot, bytes);
        }
    }

    fn credit_to_return(&mut self, slot: u32, bytes: usize) -> Option<u32> {
        let step = self.limits.window_bytes / CREDIT_RETURN_DIVISOR;
        let leg = self.legs.at_mut(slot)?;
        leg.unreturned = leg.unreturned.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        (leg.unreturned >= step).then(|| std::mem::take(&mut leg.unreturned))
    }

    pub(super) fn return_credit(&mut self, slot: u32, bytes: u32) {
        let Some(leg) = self.legs.at_mut(slot) else { return };
        if leg.state != LegState::Open {
            return;
        }
        let owed = leg.credit_debt.min(u64::from(bytes));
        leg.credit_debt -= owed;
        let bytes = bytes - u32::try_from(owed).unwrap_or(bytes);
        leg.window_left += u64::from(bytes);
        if let Some(moving) = leg.moving.as_deref_mut() {
            // Behind our marker nothing is said on the old link; the new window covers it.
            if moving.arrived {
                moving.withheld_bytes = moving.withheld_bytes.saturating_add(bytes);
            }
            return;
        }
        if bytes == 0 {
            return;
        }
        let frame = Frame::Read { nonce: leg.nonce, bytes };
        self.effects.push(Effect::Frame { link: leg.link, frame });
    }

    /// Sends at most `most` bytes of a leg's queue. Returns how many.
    pub(super) fn fill_from(
        &mut self,
        now_ns: u64,
        slot: u32,
        most: usize,
        sink: &mut impl DataSink,
    ) -> usize {
        let Some(leg) = self.legs.at_mut(slot) else { return 0 };
        let credit = usize::try_from(leg.credit).unwrap_or(usize::MAX);
        let bytes = leg.queue.len().min(credit).min(most);
        if bytes == 0 {
            return 0;
        }
        let stamp_ns = self.pool.front(&leg.queue).map_or(0, |(_, stamp_ns)| stamp_ns);
        sink.begin(leg.nonce, bytes, stamp_ns);
        let mut left = bytes;
        while let Some((run, _)) = self.pool.front(&leg.queue) {
            let Some((now, _)) = run.split_at_checked(left.min(run.len())) else { break };
            sink.payload(now);
            let count = now.len();
            self.pool.consume(&mut leg.queue, count);
            left -= count;
            if left == 0 {
                break;
            }
        }
        leg.credit -= bytes as u64;
        leg.bytes_out += bytes as u64;
        self.pacing.spend(now_ns, leg.pacer, bytes);
        self.counters.payload_bytes_out += bytes as u64;
        self.passed_on(slot, bytes);
        bytes
    }
}

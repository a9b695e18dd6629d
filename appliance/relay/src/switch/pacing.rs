//! Pace: legs whose bytes pass only as fast as their sender's quota allows.
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only. A quota
//! that paces legs of this core has one pacer here, in whose line legs wait for their turn and the
//! pacer for a time. What waits stays in the legs' queues, which the window bounds, because credit
//! goes back only for bytes that have passed.

use super::Switch;
use crate::ids::LegTag;
use crate::leg::{Leg, Pace};
use crate::limits::{
    PACE_LINE_STALE_MIN, PACE_PIECE_BYTES, PACE_TICK_NS, PACE_WAIT_MAX_NS, STALE_DEADLINES_FACTOR,
    STALE_DEADLINES_MIN,
};
use crate::quota::Quota;
use crate::slots::Slots;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

/// Every quota that paces legs of this core.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    pacers: Slots<Pacer>,
    /// By the address of the quota, which a pacer keeps alive.
    by_quota: HashMap<usize, u32>,
    /// When which pacer has something to grant: time, place, generation.
    due: BinaryHeap<Reverse<(u64, u32, u32)>>,
}

#[derive(Debug)]
struct Pacer {
    quota: Arc<Quota>,
    /// How many legs it paces.
    legs: usize,
    /// Legs that wait, in turn; and some that have ended.
    line: VecDeque<LegTag>,
    waiting: usize,
    /// Whether the heap holds an entry for it.
    scheduled: bool,
}

impl Pacing {
    /// When [`Switch::grant_due`] has something to do next.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((due_ns, ..))| *due_ns)
    }

    /// Whether a piece may pass a leg at once, ahead of nobody.
    pub(super) fn admits(&self, now_ns: u64, pacer: Option<u32>, bytes: usize) -> bool {
        let Some(pacer) = pacer.and_then(|slot| self.pacers.at(slot)) else { return true };
        pacer.waiting == 0 && pacer.quota.allowance_bytes(now_ns) >= bytes as u64
    }

    /// Accounts for bytes that have passed a leg.
    pub(super) fn spend(&self, now_ns: u64, pacer: Option<u32>, bytes: usize) {
        if let Some(pacer) = pacer.and_then(|slot| self.pacers.at(slot)) {
            pacer.quota.spend(now_ns, bytes as u64);
        }
    }

    /// What paces a leg.
    pub(super) fn quota_of(&self, leg: &Leg) -> Option<Arc<Quota>> {
        let pacer = self.pacers.at(leg.pacer?)?;
        Some(Arc::clone(&pacer.quota))
    }

    fn join(&mut self, quota: Arc<Quota>) -> u32 {
        let address = Arc::as_ptr(&quota).addr();
        let slot = *self.by_quota.entry(address).or_insert_with(|| {
            let line = VecDeque::new();
            self.pacers.insert(Pacer { quota, legs: 0, line, waiting: 0, scheduled: false }).0
        });
        if let Some(pacer) = self.pacers.at_mut(slot) {
            pacer.legs += 1;
        }
        slot
    }

    /// Takes a leg out that ends or is paced by another quota.
    pub(super) fn leave(&mut self, leg: &mut Leg) {
        let Some(slot) = leg.pacer.take() else { return };
        let was = std::mem::replace(&mut leg.pace, Pace::Free);
        let Some(pacer) = self.pacers.at_mut(slot) else { return };
        pacer.waiting -= usize::from(was == Pace::Waiting);
        pacer.legs -= 1;
        if pacer.legs == 0 {
            debug_assert_eq!(pacer.waiting, 0, "nobody is left to wait");
            let address = Arc::as_ptr(&pacer.quota).addr();
            self.by_quota.remove(&address);
            self.pacers.remove(slot);
        }
    }

    fn schedule(&mut self, slot: u32, due_ns: u64) {
        let generation = self.pacers.generation_at(slot);
        let Some(pacer) = self.pacers.at_mut(slot) else { return };
        if std::mem::replace(&mut pacer.scheduled, true) {
            return;
        }
        self.due.push(Reverse((due_ns, slot, generation)));
        // Entries of pacers that have gone are gone themselves once their time has come.
        if self.due.len() > STALE_DEADLINES_FACTOR * self.pacers.len() + STALE_DEADLINES_MIN {
            let pacers = &self.pacers;
            self.due
                .retain(|Reverse((_, slot, generation))| pacers.get(*slot, *generation).is_some());
        }
    }

    fn take_due(&mut self, now_ns: u64) -> Option<u32> {
        while let Some(&Reverse((due_ns, slot, generation))) = self.due.peek() {
            if due_ns > now_ns {
                return None;
            }
            self.due.pop();
            if let Some(pacer) = self.pacers.get_mut(slot, generation) {
                pacer.scheduled = false;
                return Some(slot);
            }
        }
        None
    }
}

impl Pacer {
    fn stand_in_line(&mut self, tag: LegTag, legs: &Slots<Leg>) {
        self.waiting += 1;
        self.line.push_back(tag);
        if self.line.len() > STALE_DEADLINES_FACTOR * self.waiting + PACE_LINE_STALE_MIN {
            self.line.retain(|tag| waiting_piece(legs, *tag).is_some());
        }
    }
}

impl Switch {
    /// From now on what leaves on this leg passes no faster than `quota` allows.
    pub fn pace(&mut self, tag: LegTag, quota: Arc<Quota>) {
        let Some(leg) = self.legs.get_mut(tag.slot, tag.generation) else { return };
        if let (Pace::Waiting, Some(place)) = (leg.pace, leg.pacer)
            && let Some(pacer) = self.pacing.pacers.at_mut(place)
        {
            // It lives on, so its place in line would not be known to be stale.
            pacer.line.retain(|waiting| *waiting != tag);
        }
        self.pacing.leave(leg);
        leg.pacer = Some(self.pacing.join(quota));
        self.make_ready(tag.slot);
        self.settle();
    }

    /// How many bytes of its queue a leg may send in this turn; `None`: it waits in line now.
    pub(super) fn paced_bytes(&mut self, now_ns: u64, slot: u32) -> Option<usize> {
        let tag = self.tag(slot);
        let leg = self.legs.at_mut(slot)?;
        let Some(place) = leg.pacer else { return Some(usize::MAX) };
        let piece = piece_of(leg);
        let Some(pacer) = self.pacing.pacers.at_mut(place) else { return Some(usize::MAX) };
        let granted = std::mem::replace(&mut leg.pace, Pace::Free) == Pace::Granted;
        let ready_ns = pacer.quota.ready_ns(now_ns, piece as u64);
        if ready_ns <= now_ns && (granted || pacer.waiting == 0) {
            return Some(piece);
        }
        leg.pace = Pace::Waiting;
        pacer.stand_in_line(tag, &self.legs);
        let due_ns = ready_ns.clamp(now_ns + PACE_TICK_NS, now_ns + PACE_WAIT_MAX_NS);
        self.pacing.schedule(place, due_ns);
        None
    }

    /// Lets legs go whose time has come.
    pub(super) fn grant_due(&mut self, now_ns: u64) {
        while let Some(place) = self.pacing.take_due(now_ns) {
            self.grant(now_ns, place);
        }
    }

    /// Lets the first in a pacer's line go, as many as its quota has bytes for.
    fn grant(&mut self, now_ns: u64, place: u32) {
        let mut granted = 0_u64;
        loop {
            let Some(pacer) = self.pacing.pacers.at_mut(place) else { return };
            let Some(&tag) = pacer.line.front() else { return };
            let Some(piece) = waiting_piece(&self.legs, tag) else {
                pacer.line.pop_front();
                continue;
            };
            let wanted = granted.saturating_add(piece as u64);
            let ready_ns = pacer.quota.ready_ns(now_ns, wanted);
            let short = granted > 0 && pacer.quota.allowance_bytes(now_ns) < wanted;
            if ready_ns > now_ns || short {
                let due_ns = ready_ns.clamp(now_ns + PACE_TICK_NS, now_ns + PACE_WAIT_MAX_NS);
                self.pacing.schedule(place, due_ns);
                return;
            }
            pacer.line.pop_front();
            pacer.waiting -= 1;
            granted = wanted;
            if let Some(leg) = self.legs.at_mut(tag.slot) {
                leg.pace = Pace::Granted;
            }
            self.make_ready(tag.slot);
        }
    }
}

/// What a leg would send in one turn.
fn piece_of(leg: &Leg) -> usize {
    let credit = usize::try_from(leg.credit).unwrap_or(usize::MAX);
    leg.queue.len().min(credit).min(PACE_PIECE_BYTES)
}

/// What a leg waits to send, if it still waits.
fn waiting_piece(legs: &Slots<Leg>, tag: LegTag) -> Option<usize> {
    let leg = legs.get(tag.slot, tag.generation)?;
    (leg.pace == Pace::Waiting).then(|| piece_of(leg))
}

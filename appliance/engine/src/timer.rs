//! One timer wheel per data core, with coarse ticks.
//!
//! Called on the core's thread at the end of a turn. Entries are never cancelled: whoever set one
//! looks at its own deadline when it fires, and sets the next. Firing late by up to one tick is
//! fine for every deadline here; firing early does not happen.

/// Length of a tick: fine enough for a deadline of a second, coarse enough to cost nothing.
pub const TICK_NS: u64 = 16 * 1024 * 1024;
/// Ticks of the wheel, 17 s; later deadlines go round again.
const SLOTS: usize = 1024;

/// Keys that come back when their time has come.
#[derive(Debug)]
pub struct Wheel<K> {
    slots: Vec<Vec<(u64, K)>>,
    /// The tick that fires next.
    tick: u64,
    entries: usize,
}

impl<K> Wheel<K> {
    /// An empty wheel that starts at `now_ns`.
    pub fn new(now_ns: u64) -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self { slots, tick: now_ns / TICK_NS, entries: 0 }
    }

    /// Sets an entry to fire at the first [`Self::advance`] at or after `due_ns`.
    pub fn set(&mut self, due_ns: u64, key: K) {
        let due_tick = due_ns.div_ceil(TICK_NS).max(self.tick);
        let place = Self::place(due_tick);
        self.slots[place].push((due_tick, key));
        self.entries += 1;
    }

    /// Moves what is due by `now_ns` into `fired`.
    pub fn advance(&mut self, now_ns: u64, fired: &mut Vec<K>) {
        let now_tick = now_ns / TICK_NS;
        // After a long stall every slot is looked at once, not once per missed tick.
        let first = self.tick.max((now_tick + 1).saturating_sub(SLOTS as u64));
        for tick in first..=now_tick {
            let slot = &mut self.slots[Self::place(tick)];
            let mut index = 0;
            while index < slot.len() {
                if slot[index].0 <= now_tick {
                    fired.push(slot.swap_remove(index).1);
                    self.entries -= 1;
                } else {
                    index += 1;
                }
            }
        }
        self.tick = self.tick.max(now_tick + 1);
    }

    /// When [`Self::advance`] is worth calling next: the next tick while there are entries.
    pub fn next_due_ns(&self) -> Option<u64> {
        if self.entries == 0 {
            return None;
        }
        let ticks = (0..SLOTS as u64).map(|ahead| self.tick + ahead);
        let due = ticks.into_iter().find(|&tick| !self.slots[Self::place(tick)].is_empty())?;
        Some(due * TICK_NS)
    }

    /// Entries set and not fired.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    fn place(tick: u64) -> usize {
        usize::try_from(tick % SLOTS as u64).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entry_beyond_the_wheel_fires_in_its_own_round() {
        let mut wheel = Wheel::new(0);
        let due_ns = TICK_NS * (SLOTS as u64 * 2 + 5);
        wheel.set(due_ns, 'x');
        let mut fired = Vec::new();
        for tick in 0..SLOTS as u64 * 2 + 5 {
            wheel.advance(tick * TICK_NS, &mut fired);
            assert!(fired.is_empty(), "fired at tick {tick}");
        }
        wheel.advance(due_ns, &mut fired);
        assert_eq!(fired, ['x']);
        assert!(wheel.is_empty());
    }

    proptest! {
        #[test]
        fn every_entry_fires_once_and_never_early(
            steps in prop::collection::vec((0_u64..40_000_000_000, 1_u64..3_000_000_000), 1..100)
        ) {
            let mut wheel = Wheel::new(0);
            let mut now_ns = 0;
            let mut fired = Vec::new();
            let mut waiting = std::collections::BTreeMap::new();
            for (id, (delay_ns, step_ns)) in steps.into_iter().enumerate() {
                wheel.set(now_ns + delay_ns, id);
                waiting.insert(id, now_ns + delay_ns);
                now_ns += step_ns;
                wheel.advance(now_ns, &mut fired);
                for id in fired.drain(..) {
                    let due_ns = waiting.remove(&id).unwrap();
                    prop_assert!(due_ns <= now_ns);
                }
                for &due_ns in waiting.values() {
                    prop_assert!(due_ns + TICK_NS > now_ns, "late by more than a tick");
                }
            }
            wheel.advance(now_ns + 100_000_000_000, &mut fired);
            prop_assert_eq!(fired.len(), waiting.len());
        }
    }
}

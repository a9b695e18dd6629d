//! Places of sessions that wait for something to be done about them, in the order they began to.
//!
//! Part of what [`super::moves`] and [`super::paths`] know, on their core's thread. A place waits at
//! most once. Forgetting one takes no longer for the others that wait.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DueQueue<T> {
    /// With when each is due; none for one that was forgotten. The first is none of those.
    waiting: VecDeque<(u64, Option<(u32, T)>)>,
    /// How many have left, which is the number of the first that waits.
    left: u64,
    /// By place: which of all that ever waited it is, if it waits.
    numbers: Vec<Option<u64>>,
}

impl<T> DueQueue<T> {
    pub(super) fn new(places_max: usize) -> Self {
        let numbers = Vec::with_capacity(places_max);
        Self { waiting: VecDeque::with_capacity(places_max), left: 0, numbers }
    }

    /// A place begins to wait, unless it does already.
    pub(super) fn push(&mut self, place: u32, what: T, due_ns: u64) {
        let at = place as usize;
        if self.numbers.len() <= at {
            self.numbers.resize(at + 1, None);
        }
        if self.numbers[at].is_none() {
            self.numbers[at] = Some(self.left + self.waiting.len() as u64);
            self.waiting.push_back((due_ns, Some((place, what))));
        }
    }

    pub(super) fn is_waiting(&self, place: u32) -> bool {
        self.numbers.get(place as usize).is_some_and(Option::is_some)
    }

    /// A place waits no more; it may be another's soon.
    pub(super) fn forget(&mut self, place: u32) {
        let Some(number) = self.numbers.get_mut(place as usize).and_then(Option::take) else {
            return;
        };
        // It waits, so it has not left.
        if let Some((_, forgotten)) = self.waiting.get_mut((number - self.left) as usize) {
            *forgotten = None;
        }
        self.skip_forgotten();
    }

    /// When the first is due.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.waiting.front().map(|(due_ns, _)| *due_ns)
    }

    /// The first, if it is due.
    pub(super) fn take_due(&mut self, now_ns: u64) -> Option<(u32, T)> {
        let (_, taken) = self.waiting.pop_front_if(|(due_ns, _)| *due_ns <= now_ns)?;
        self.left += 1;
        if let Some((place, _)) = &taken {
            self.numbers[*place as usize] = None;
        }
        self.skip_forgotten();
        taken
    }

    /// The first, and with it all others, waits until later.
    pub(super) fn put_off(&mut self, until_ns: u64) {
        if let Some((due_ns, _)) = self.waiting.front_mut() {
            *due_ns = until_ns;
        }
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        self.left += self.waiting.len() as u64;
        self.waiting.clear();
        self.numbers.fill(None);
    }

    fn skip_forgotten(&mut self) {
        while self.waiting.pop_front_if(|(_, waiting)| waiting.is_none()).is_some() {
            self.left += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_leave_in_order_whoever_is_forgotten() {
        let mut queue = DueQueue::new(4);
        for place in 0..4 {
            queue.push(place, 'a', 10 + u64::from(place));
            queue.push(place, 'b', 0);
        }
        assert_eq!(queue.take_due(9), None);
        queue.forget(2);
        queue.forget(0);
        assert_eq!((queue.due_ns(), queue.is_waiting(0)), (Some(11), false));
        queue.push(2, 'c', 20);
        assert_eq!(queue.take_due(20), Some((1, 'a')));
        queue.put_off(30);
        assert_eq!((queue.take_due(29), queue.take_due(30)), (None, Some((3, 'a'))));
        assert_eq!((queue.take_due(30), queue.due_ns()), (Some((2, 'c')), None));
        queue.forget(2);
        queue.push(1, 'd', 40);
        queue.clear();
        assert!(queue.due_ns().is_none() && !queue.is_waiting(1));
        queue.push(1, 'e', 50);
        queue.forget(1);
        assert_eq!(queue.due_ns(), None);
    }
}

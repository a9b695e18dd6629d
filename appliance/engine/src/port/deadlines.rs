//! What a port does later: accepts that pause and closed streams that linger.
//!
//! Part of a port, on its thread. The clock is read only while something is due later, so a port
//! in its usual state reads no time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Things that are all due the same time after they were put in, so the queue is in order.
#[derive(Debug)]
pub(super) struct Deadlines<T> {
    delay: Duration,
    queue: VecDeque<(Instant, T)>,
}

impl<T> Deadlines<T> {
    /// An empty queue whose entries are due after `delay`.
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay, queue: VecDeque::new() }
    }

    /// Entries, due or not.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Adds an entry.
    pub(super) fn push(&mut self, entry: T) {
        self.queue.push_back((now() + self.delay, entry));
    }

    /// Takes the next entry that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<T> {
        self.queue.pop_front_if(|(due, _)| *due <= now).map(|(_, entry)| entry)
    }

    /// How long until the next entry is due; `None` when there is none.
    pub(super) fn until_next(&self, now: Instant) -> Option<Duration> {
        self.queue.front().map(|(due, _)| due.saturating_duration_since(now))
    }

    /// Forgets every entry.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }
}

/// Reads the monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "read only while an accept pauses or a stream lingers"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// The shorter of two waits, where `None` is without limit.
pub(super) fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_in_order_and_not_before_they_are_due() {
        let mut deadlines = Deadlines::new(Duration::from_secs(60));
        deadlines.push(1);
        deadlines.push(2);
        let start = now();
        assert_eq!(deadlines.pop_due(start), None);
        assert!(deadlines.until_next(start).is_some_and(|left| left <= Duration::from_secs(60)));
        let later = start + Duration::from_secs(61);
        assert_eq!(deadlines.until_next(later), Some(Duration::ZERO));
        assert_eq!((deadlines.pop_due(later), deadlines.pop_due(later)), (Some(1), Some(2)));
        assert_eq!((deadlines.len(), deadlines.until_next(later)), (0, None));
    }

    #[test]
    fn no_limit_is_longer_than_any_limit() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(shorter(None, second), second);
        assert_eq!(shorter(second, Some(Duration::ZERO)), Some(Duration::ZERO));
        assert_eq!(shorter(None, None), None);
    }
}

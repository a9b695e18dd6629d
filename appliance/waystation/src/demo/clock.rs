//! The demo's one place that reads the clock and sleeps. Used by all of its threads.

use std::time::{Duration, Instant};

/// A clock all threads share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts the clock at 0.
    #[expect(clippy::disallowed_methods, reason = "the demo's one monotonic clock")]
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Time since the start.
    pub(super) fn now(self) -> Duration {
        self.start.elapsed()
    }

    /// Nanoseconds since the start; the stamp of a message.
    pub(super) fn now_ns(self) -> u64 {
        u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Lets the calling thread rest.
#[expect(clippy::disallowed_methods, reason = "a node's own pace, not a data core's")]
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}

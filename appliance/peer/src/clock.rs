//! The one place of this room that reads the clock. Called by every thread of a peer.

use std::time::{Duration, Instant};

/// Reads the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the room's one place where time enters")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A moment by which something has to be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// The moment `after` from now.
    pub(crate) fn after(after: Duration) -> Self {
        Self(now() + after)
    }

    /// What is left, or `None` when the moment is past.
    pub(crate) fn remaining(self) -> Option<Duration> {
        self.0.checked_duration_since(now()).filter(|left| !left.is_zero())
    }

    /// The moment itself.
    pub(crate) fn instant(self) -> Instant {
        self.0
    }
}

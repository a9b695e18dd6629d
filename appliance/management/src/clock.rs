//! The management core's clocks: the one place where time enters this room.
//!
//! Called on the management thread, and by the client side of the stats socket. Everything else
//! takes a [`Moment`] as an argument. Never read on a data core.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// `CLOCK_MONOTONIC`, for lengths.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME` since the Unix epoch, for people and logs.
    pub unix_ns: u64,
}

impl Moment {
    /// How long after `earlier` this was, by the monotonic clock; zero if it was not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.monotonic_ns.saturating_sub(earlier.monotonic_ns))
    }

    /// Milliseconds since the Unix epoch.
    pub fn unix_ms(self) -> u64 {
        self.unix_ns / 1_000_000
    }
}

/// Reads both clocks.
pub fn now() -> Moment {
    Moment {
        monotonic_ns: nanoseconds(clock_gettime(ClockId::Monotonic)),
        unix_ns: nanoseconds(clock_gettime(ClockId::Realtime)),
    }
}

/// A time before the epoch of its clock counts as the epoch.
fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let rest = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_clock_does_not_run_backwards() {
        let first = now();
        let second = now();
        assert!(second.monotonic_ns >= first.monotonic_ns);
        assert_eq!(Moment::default().since(second), Duration::ZERO);
    }

    #[test]
    fn wall_clock_is_after_the_year_2020() {
        assert!(now().unix_ms() > 1_577_836_800_000);
    }
}

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

    /// The wall clock's time in UTC to the millisecond, as RFC 3339 writes it.
    pub fn rfc3339(self) -> String {
        let (seconds, rest_ms) = (self.unix_ms() / 1000, self.unix_ms() % 1000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{rest_ms:03}Z")
    }
}

/// Year, month and day of a day counted from the Unix epoch, in the Gregorian calendar. Years are
/// counted from March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_ERA: u64 = 146_097;
    // From 0000-03-01, the begin of an era of 400 years, to the epoch.
    let days = days + 719_468;
    let (era, day) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day_of_month)
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
    fn times_are_written_as_calendars_have_them() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59.000Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_798_761_599_000, "2026-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let moment = Moment { monotonic_ns: 0, unix_ns: unix_ms * 1_000_000 };
            assert_eq!(moment.rfc3339(), text);
        }
    }

    #[test]
    fn wall_clock_is_after_the_year_2020() {
        assert!(now().unix_ms() > 1_577_836_800_000);
    }
}

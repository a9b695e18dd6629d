//! The one place of the load generator that reads clocks and sleeps.

use rustix::time::{ClockId, Timespec};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock all threads share: nanoseconds since the program made it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts the clock at 0.
    #[expect(clippy::disallowed_methods, reason = "the program's one monotonic clock")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Nanoseconds since [`Clock::start`].
    pub fn now_ns(self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Waits until the clock shows `until_ns`; returns at once when it is past.
    #[expect(
        clippy::disallowed_methods,
        reason = "a paced sender waits for a moment, not an event"
    )]
    pub fn sleep_until(self, until_ns: u64) {
        if let Some(left_ns) = until_ns.checked_sub(self.now_ns()) {
            thread::sleep(Duration::from_nanos(left_ns));
        }
    }
}

/// Lets the calling thread's sleeps end on time instead of up to 50 µs later (prctl(2),
/// PR_SET_TIMERSLACK).
pub fn sleep_precisely() -> rustix::io::Result<()> {
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))
}

/// Processor time of the calling thread, in nanoseconds.
pub fn thread_processor_ns() -> u64 {
    let Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(tv_nsec).unwrap_or_default()
}

/// Seconds since 1970, for the date of a record.
#[expect(clippy::disallowed_methods, reason = "results carry the date they were taken")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

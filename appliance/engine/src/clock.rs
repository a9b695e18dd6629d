//! The one place where a data core reads time.
//!
//! Called on data core threads: once per turn, once per received buffer and once per sealed send,
//! for the histograms. Times are nanoseconds of `CLOCK_MONOTONIC`, so all cores share one scale.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Nanoseconds since an arbitrary moment, the same for all threads of the machine.
pub fn now_ns() -> u64 {
    #[cfg(test)]
    if let Some(now_ns) = simulated::now_ns() {
        return now_ns;
    }
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Seconds since the Unix epoch: what credentials and nonces that outlive the program are checked
/// with. It can be set, so nothing is measured with it.
pub fn unix_s() -> u64 {
    u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or_default()
}

/// CPU time the calling thread has used, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

/// How long a thread has waited for a CPU, by the kernel's scheduler statistics.
#[derive(Debug)]
pub struct RunDelay {
    /// Absent where the kernel keeps none.
    statistics: Option<File>,
}

impl RunDelay {
    /// That of the calling thread.
    pub fn of_this_thread() -> Self {
        Self { statistics: File::open("/proc/thread-self/schedstat").ok() }
    }

    /// Nanoseconds since the thread began in which it could have run and did not; 0 if that is not
    /// known. One system call.
    pub fn read_ns(&self) -> u64 {
        // Time on a CPU, time waiting for one, and time slices: at most 20 digits each.
        let mut text = [0; 64];
        let read = self.statistics.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        let text = std::str::from_utf8(&text[..read.unwrap_or(0)]).unwrap_or_default();
        text.split_ascii_whitespace().nth(1).and_then(|ns| ns.parse().ok()).unwrap_or(0)
    }
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let rest = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + rest
}

/// Time that passes only when a test says so, for everything on the test's own thread.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    thread_local! {
        static NOW_NS: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// The simulated time of this thread, if it has one.
    pub(crate) fn now_ns() -> Option<u64> {
        NOW_NS.get()
    }

    /// Makes it that time.
    pub(crate) fn set(now_ns: u64) {
        NOW_NS.set(Some(now_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_run_backwards() {
        let mut last = now_ns();
        for _ in 0..1000 {
            let now = now_ns();
            assert!(now >= last);
            last = now;
        }
        assert!(thread_cpu_ns() > 0);
    }
}

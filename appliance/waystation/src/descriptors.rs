//! Room for descriptors, made before anything waits for it.
//!
//! Called by `run` and `upgrade` on the main thread, as the first thing they do. The kernel's table
//! of a process's descriptors grows by doubling, and in a process with threads each growth waits until
//! every processor has seen the old table go: tens to hundreds of milliseconds on a busy machine, in
//! which the thread that asked for a descriptor does nothing else. A data core asks for one with each
//! connection, and for hundreds when it shares its sockets with the next process. A process with one
//! thread does not wait, and a table does not shrink.

use rustix::process::{Resource, getrlimit};
use std::io::stdin;
use std::os::fd::{AsFd, RawFd};

/// Descriptors that there is room for from the start, where the limit of the process is not below:
/// 8 bytes each of the kernel's memory. Whoever has more has some growths.
const PREPARED: u64 = 1 << 16;

/// Makes room.
pub(crate) fn prepare() {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(PREPARED);
    let last = RawFd::try_from(limit.min(PREPARED).saturating_sub(1)).unwrap_or_default();
    // It is closed at once. Without it things go on, and some of them later.
    let _ = rustix::io::fcntl_dupfd_cloexec(stdin().as_fd(), last);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn room_for_descriptors_is_there_before_they_are() {
        prepare();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let room = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(PREPARED);
        assert!(room.trim().parse::<u64>().unwrap() >= limit.min(PREPARED), "{room}");
    }
}

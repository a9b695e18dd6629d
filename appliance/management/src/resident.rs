//! How much memory the process holds, as the kernel accounts it.
//!
//! Called once a second on the management thread. Reading `/proc` does not wait for a disk.

use std::fs;

/// Bytes of the process that are in memory; nothing where `/proc` does not say.
pub fn resident_bytes() -> Option<u64> {
    parse(&fs::read_to_string("/proc/self/status").ok()?)
}

/// The line of `status` that says it (proc_pid_status(5)).
fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_the_line_that_says_so() {
        let status = "Name:\twaystation\nVmPeak:\t  9 kB\nVmRSS:\t    5120 kB\nThreads:\t4\n";
        assert_eq!(parse(status), Some(5120 * 1024));
        assert_eq!(parse("VmRSS: many kB"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_is_in_memory() {
        assert!(resident_bytes().unwrap() > 100 * 1024);
    }
}

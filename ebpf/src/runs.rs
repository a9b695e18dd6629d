//! What the kernel measures of the program's runs, while somebody wants it measured.
//!
//! Measuring costs each run two readings of the clock, for every BPF program of the machine. It is
//! on while `kernel.bpf_stats_enabled` is 1, or while somebody holds a [`Measured`].

use aya::sys::{Stats, SyscallError, enable_stats};
use std::{os::fd::OwnedFd, time::Duration};

/// How often a program has run while it was measured, and how long that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Runs, on all processors.
    pub count: u64,
    /// The time of all of them together.
    pub time: Duration,
}

/// Runs of all programs are measured until this is dropped.
#[derive(Debug)]
pub struct Measured {
    _descriptor: OwnedFd,
}

impl Measured {
    /// Begins to measure, as Linux does since 5.8.
    ///
    /// # Errors
    /// When the kernel refuses, as it does to a process without CAP_SYS_ADMIN.
    pub fn begin() -> Result<Self, SyscallError> {
        Ok(Self { _descriptor: enable_stats(Stats::RunTime)? })
    }
}

//! What became of all dials since the start.

use super::error::FailureKind;
use waystation_relay::drop_reason::{DropCounters, DropReason};

/// Every dial that was started ends in exactly one of the other counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialCounts {
    /// Dials under way.
    pub active: usize,
    pub started_total: u64,
    pub succeeded_total: u64,
    /// Given up because the peer was linked otherwise, or is not wanted any more.
    pub cancelled_total: u64,
    /// Links that came up behind a faster one, and were closed.
    pub surplus_total: u64,
    failed: [u64; FailureKind::ALL.len()],
    /// Endpoints that were refused or failed before there was a dial.
    pub refused_total: u64,
    /// Connections that could not be made; what happens on one is counted by its data core.
    pub drops: DropCounters,
}

impl DialCounts {
    /// Dials that failed in this way.
    pub fn failed_total(&self, kind: FailureKind) -> u64 {
        self.failed.get(kind.index()).copied().unwrap_or_default()
    }

    /// Dials that failed in any way.
    pub fn failed(&self) -> u64 {
        self.failed.iter().sum()
    }

    pub(super) fn fail(&mut self, kind: FailureKind) {
        if let Some(failed) = self.failed.get_mut(kind.index()) {
            *failed += 1;
        }
        // Handshakes are counted where they happen.
        if kind != FailureKind::Link {
            self.drops.count(DropReason::ConnectFailed, 0);
        }
    }
}

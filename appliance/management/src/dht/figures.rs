//! Figures of the node for documents and metrics, and the histograms of its look-ups.
//!
//! Owned by the driver; copies go out once a second.

use hdrhistogram::Histogram;
use std::sync::Arc;
use waystation_a2al::network_size::NetworkSize;
use waystation_a2al::node::{Node, Statistics};
use waystation_a2al::query::{Found, Goal};
use waystation_a2al::time::{Now, UnixSeconds};

/// The bounds of durations: those of the other histograms.
const DURATION_NS_MAX: u64 = 60_000_000_000;
/// More hops than any look-up has questions.
const HOPS_MAX: u64 = 128;
const DIGITS: u8 = 2;
const NS_PER_MS: u64 = 1_000_000;
/// Spans of time in which nodes were met: an hour, a day, a week.
const REACH_S: [u64; 3] = [3_600, 86_400, 604_800];

/// What came of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookUpOutcome {
    /// Records.
    Found,
    /// No record.
    Missed,
    /// It was for nodes alone.
    Nodes,
}

impl LookUpOutcome {
    /// All of them, in the order of their histograms.
    pub const ALL: [Self; 3] = [Self::Found, Self::Missed, Self::Nodes];

    /// The name in documents and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Missed => "missed",
            Self::Nodes => "nodes",
        }
    }

    fn of(found: &Found) -> Self {
        match found.goal {
            Goal::Nodes => Self::Nodes,
            Goal::AnyRecord(_) | Goal::AllRecords(_) if found.records.is_empty() => Self::Missed,
            Goal::AnyRecord(_) | Goal::AllRecords(_) => Self::Found,
        }
    }
}

/// Durations and hops of look-ups that have asked other nodes, since the start.
#[derive(Clone, Debug)]
pub struct LookUps {
    durations: [Arc<Histogram<u64>>; LookUpOutcome::ALL.len()],
    hops: [Arc<Histogram<u64>>; LookUpOutcome::ALL.len()],
}

impl LookUps {
    /// Without any; `None` only if the library refuses its bounds.
    pub(super) fn new() -> Option<Self> {
        let empty = |max| Histogram::new_with_bounds(1, max, DIGITS).ok().map(Arc::new);
        let (durations, hops) = (empty(DURATION_NS_MAX)?, empty(HOPS_MAX)?);
        let three = |one: &Arc<Histogram<u64>>| [one.clone(), one.clone(), one.clone()];
        Some(Self { durations: three(&durations), hops: three(&hops) })
    }

    /// Enters one. What was found here without asking anybody says nothing about the network.
    pub(super) fn enter(&mut self, found: &Found) {
        if found.calls == 0 {
            return;
        }
        let place = LookUpOutcome::of(found) as usize;
        let hops = u64::try_from(found.hops).unwrap_or(HOPS_MAX);
        if let Some(histogram) = self.durations.get_mut(place) {
            Arc::make_mut(histogram).saturating_record(found.took_ms.saturating_mul(NS_PER_MS));
        }
        if let Some(histogram) = self.hops.get_mut(place) {
            Arc::make_mut(histogram).saturating_record(hops);
        }
    }

    /// Those of an outcome that took so many nanoseconds.
    pub fn durations(&self, outcome: LookUpOutcome) -> &Histogram<u64> {
        &self.durations[outcome as usize]
    }

    /// Those of an outcome that went over so many nodes, one after the other.
    pub fn hops(&self, outcome: LookUpOutcome) -> &Histogram<u64> {
        &self.hops[outcome as usize]
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct DhtFigures {
    /// Counters of the node.
    pub statistics: Statistics,
    /// Nodes in the table.
    pub nodes: usize,
    /// Records, their keys, and their bytes.
    pub records: usize,
    pub keys: usize,
    pub record_bytes: usize,
    /// Signatures of records that were verified, each once, when the record came.
    pub records_verified: u64,
    /// Records that went from a full store because whoever brought them had most.
    pub made_room: u64,
    /// Records that are published, and how many replicas hold them.
    pub published: usize,
    pub replicas: usize,
    pub network_size: NetworkSize,
    /// Different nodes met within an hour, a day and a week, and since the start.
    pub reach: [usize; REACH_S.len()],
    pub met_since_start: u64,
    /// Datagrams that the kernel would not send, and those that it had no room for.
    pub unsent: u64,
    pub kernel_drops: u64,
    /// Records of the last snapshot that did not hold any more.
    pub not_restored: u64,
    pub look_ups: LookUps,
}

impl DhtFigures {
    pub(super) fn of(node: &Node, look_ups: &LookUps, around: [u64; 3], now: Now) -> Self {
        let met = |seconds| node.seen().within(seconds, UnixSeconds(now.unix.0));
        let [unsent, kernel_drops, not_restored] = around;
        Self {
            statistics: node.statistics().clone(),
            nodes: node.table().len(),
            records: node.store().len(),
            keys: node.store().keys(),
            record_bytes: node.store().bytes(),
            records_verified: node.store().verified(),
            made_room: node.store().made_room(),
            published: node.published().count(),
            replicas: node.published().map(|published| published.active()).sum(),
            network_size: node.network_size(),
            reach: REACH_S.map(met),
            met_since_start: node.seen().since_start(),
            unsent,
            kernel_drops,
            not_restored,
            look_ups: look_ups.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_a2al::node_id::NodeId;
    use waystation_a2al::record::RecordType;

    #[test]
    fn look_ups_are_told_apart_by_what_came_of_them() {
        let mut look_ups = LookUps::new().unwrap();
        let mut found = Found {
            target: NodeId::ZERO,
            goal: Goal::Nodes,
            nodes: Vec::new(),
            records: Vec::new(),
            calls: 3,
            hops: 2,
            took_ms: 40,
        };
        look_ups.enter(&found);
        found.goal = Goal::AnyRecord(RecordType::ENDPOINT);
        look_ups.enter(&found);
        look_ups.enter(&found);
        found.calls = 0;
        look_ups.enter(&found);
        let counts = LookUpOutcome::ALL.map(|outcome| look_ups.durations(outcome).len());
        assert_eq!(counts, [0, 2, 1]);
        assert_eq!(look_ups.hops(LookUpOutcome::Missed).max(), 2);
        assert!(look_ups.durations(LookUpOutcome::Nodes).max() >= 40 * NS_PER_MS);
    }
}

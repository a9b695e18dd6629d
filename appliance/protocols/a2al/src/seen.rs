//! When each node was last met (specification §14.2): counts for the operator, and a file of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::limits::{SEEN_LINES_MAX, SEEN_NODES_MAX, SEEN_S_MAX};
use crate::node_id::NodeId;
use crate::time::UnixSeconds;

/// Nodes met lately.
#[derive(Debug, Default)]
pub struct SeenNodes {
    last: BTreeMap<NodeId, u64>,
    since_start: u64,
}

impl SeenNodes {
    /// Meets a node. Once there are as many as fit, the ones met longest ago make room.
    pub fn meet(&mut self, id: NodeId, now: UnixSeconds) {
        if self.last.insert(id, now.0).is_some() {
            return;
        }
        self.since_start += 1;
        if self.last.len() > SEEN_NODES_MAX {
            let mut times: Vec<u64> = self.last.values().copied().collect();
            let (_, middle, _) = times.select_nth_unstable(SEEN_NODES_MAX / 2);
            let middle = *middle;
            self.last.retain(|known, at| *at > middle || *known == id);
        }
    }

    /// Different nodes met since the start.
    pub fn since_start(&self) -> u64 {
        self.since_start
    }

    /// Different nodes met within so many seconds.
    pub fn within(&self, seconds: u64, now: UnixSeconds) -> usize {
        let since = now.0.saturating_sub(seconds);
        self.last.values().filter(|at| **at >= since).count()
    }

    /// The file's lines, without nodes that were met too long ago.
    pub fn format(&self, now: UnixSeconds) -> String {
        let since = now.0.saturating_sub(SEEN_S_MAX);
        let mut text = String::new();
        for (id, at) in self.last.iter().filter(|(_, at)| **at >= since) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{id} {at}");
        }
        text
    }

    /// Reads a file's lines. What is not a line of it is skipped.
    pub fn load(&mut self, text: &str, now: UnixSeconds) {
        let since = now.0.saturating_sub(SEEN_S_MAX);
        for line in text.lines().take(SEEN_LINES_MAX) {
            let mut parts = line.split_whitespace();
            if let (Some(id), Some(at), None) = (parts.next(), parts.next(), parts.next())
                && let Some(id) = id_of(id)
                && let Ok(at) = at.parse::<u64>()
                && at >= since
                && self.last.len() < SEEN_NODES_MAX
            {
                self.last.insert(id, at.min(now.0));
            }
        }
    }
}

fn id_of(digits: &str) -> Option<NodeId> {
    let digits = digits.as_bytes();
    let mut id = NodeId::ZERO;
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in id.0.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(id)
}

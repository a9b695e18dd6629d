//! What fits an answer (specification §3.5, §7.3).

use std::net::SocketAddr;

use super::Node;
use crate::limits::{
    ANSWER_BODY_BYTES_MAX, ANSWER_NODES_MAX, ANSWER_POOL_NODES, DATAGRAM_BYTES_MAX, ENVELOPE_BYTES,
    LISTED_MS, NODES_FOR_STRANGERS,
};
use crate::message::{Body, NodeInfo};
use crate::node_id::NodeId;
use crate::peers::Health;
use crate::random::RandomSource;
use crate::record::SignedRecord;
use crate::routing::Entry;
use crate::store::Stored;
use crate::time::Now;

/// How many of the nodes and of the records fit an answer. Nodes go first while more than one is left,
/// then records, the first of them first; a record that would fit but for the last node takes its
/// place, and one that fits no datagram at all is left out, where upstream says nothing.
pub fn fit(observed: SocketAddr, nodes: &[NodeInfo], records: &[usize]) -> (usize, usize) {
    let body = |nodes_kept: usize, records_kept: usize| {
        let records = records[records.len() - records_kept..].iter().copied();
        Body::answer_bytes(observed, &nodes[..nodes_kept], records)
    };
    // A crowded key has a hundred records, so those that cannot fit in any case are left out at once.
    let so_far = records.iter().rev().scan(0, |bytes, record| {
        *bytes += record;
        Some(*bytes)
    });
    let last_that_may_fit = so_far.take_while(|bytes| *bytes <= ANSWER_BODY_BYTES_MAX).count();
    let is_crowded = last_that_may_fit < records.len();
    let mut nodes_kept = if is_crowded { nodes.len().min(1) } else { nodes.len() };
    let mut records_kept = records.len().min(last_that_may_fit.max(1));
    while nodes_kept > 1 && body(nodes_kept, records_kept) > ANSWER_BODY_BYTES_MAX {
        nodes_kept -= 1;
    }
    while records_kept > 1 && body(nodes_kept, records_kept) > ANSWER_BODY_BYTES_MAX {
        records_kept -= 1;
    }
    let is_too_long = |nodes, records| body(nodes, records) + ENVELOPE_BYTES > DATAGRAM_BYTES_MAX;
    if is_too_long(nodes_kept, records_kept) && !is_too_long(0, records_kept) {
        nodes_kept = 0;
    }
    if is_too_long(nodes_kept, records_kept) {
        records_kept = 0;
    }
    (nodes_kept, records_kept)
}

/// The answer to FIND_VALUE. Where not all records fit, each asker gets others: always the newest
/// would hide everybody else who publishes under a crowded key (§7.3 [R]).
pub(super) fn value_answer(
    random: &mut RandomSource,
    nodes: &[NodeInfo],
    mut stored: Vec<&Stored>,
    observed: SocketAddr,
    is_stranger: bool,
) -> Body {
    let sizes = |stored: &[&Stored]| -> Vec<usize> {
        stored.iter().map(|stored| stored.encoded_bytes()).collect()
    };
    let (_, kept) = fit(observed, nodes, &sizes(&stored));
    if kept < stored.len() || is_stranger {
        let first = random.below(stored.len());
        stored.rotate_left(first);
        stored.truncate(if is_stranger { 1 } else { usize::MAX });
    }
    let (nodes_kept, records_kept) = fit(observed, nodes, &sizes(&stored));
    let records: Vec<SignedRecord> = stored
        .iter()
        .skip(stored.len() - records_kept)
        .map(|stored| (*stored.record).clone())
        .collect();
    let nodes = nodes.iter().take(nodes_kept).copied().collect();
    Body::FindValueResponse { nodes: Some(nodes), record: None, observed, records }
}

impl Node {
    /// Nodes near a place for an answer: those that answered lately and are not bad, as they are
    /// reached in the asker's family. A stranger gets few.
    pub(super) fn listed(
        &self,
        target: &NodeId,
        asker: SocketAddr,
        is_stranger: bool,
        now: Now,
    ) -> Vec<NodeInfo> {
        let is_fresh = |verified_at| now.millis.since(verified_at) <= LISTED_MS;
        let near =
            self.table.nearest(target, ANSWER_POOL_NODES, |entry| is_fresh(entry.verified_at));
        let wanted = if is_stranger { NODES_FOR_STRANGERS } else { ANSWER_NODES_MAX };
        let (mut listed, mut others) = (Vec::with_capacity(wanted), Vec::new());
        for Entry { info, .. } in near {
            match self.peers.health(&info.node_id) {
                Health::Good if listed.len() == wanted => break,
                Health::Good => listed.push(*info),
                Health::Unknown => others.push(*info),
                Health::Bad => {}
            }
        }
        listed.extend(others);
        listed.truncate(wanted);
        listed.into_iter().map(|info| self.adapted(info, asker)).collect()
    }

    /// The answer to FIND_NODE.
    pub(super) fn nodes_answer(&self, mut nodes: Vec<NodeInfo>, observed: SocketAddr) -> Body {
        let (kept, _) = fit(observed, &nodes, &[]);
        nodes.truncate(kept);
        Body::FindNodeResponse { nodes: Some(nodes), observed }
    }

    /// A node as it is reached in the asker's family, if it has proved to be (§8.7). What others
    /// claim, its own record included, is not passed on.
    fn adapted(&self, info: NodeInfo, asker: SocketAddr) -> NodeInfo {
        match self.peers.address_like(&info.node_id, asker) {
            Some(at) => NodeInfo { ip: at.ip(), port: at.port(), ..info },
            None => info,
        }
    }
}

//! Records that this node publishes, and who holds them (specification §13).
//!
//! Owns the replicas of each record: the eight nearest nodes that keep it. Records live only as long
//! as their publisher renews them. The node sends what it is told to and reports what came of it.

use std::collections::VecDeque;

use crate::limits::{
    GRACE_MS, PROBE_MS_MAX, PROBE_MS_MIN, REFUSING_MAX, RENEWAL_MS, REPLICAS, REPLICAS_MAX,
};
use crate::message::NodeInfo;
use crate::node_id::NodeId;
use crate::recent::RecentMap;
use crate::record::{RecordType, SignedRecord, Version};
use crate::time::Millis;

/// A node that keeps a record.
#[derive(Clone, Copy, Debug)]
pub struct Replica {
    /// The node.
    pub info: NodeInfo,
    /// Which version it has confirmed, and when.
    pub confirmed: (Version, Millis),
    failures: u32,
    bad_since: Option<Millis>,
    probe_at: Millis,
    probe_delay_ms: u64,
}

/// What tells one published record from the others. One address may publish several kinds under the
/// same key.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PublishedName {
    /// Under which key.
    pub key: NodeId,
    /// The place of the address that it is about.
    pub publisher: NodeId,
    /// What kind it is.
    pub record_type: RecordType,
}

impl PublishedName {
    /// The name of a record under a key.
    pub fn of(key: NodeId, record: &SignedRecord) -> Self {
        Self { key, publisher: record.address.node_id(), record_type: record.record_type }
    }
}

/// One record and its replicas.
#[derive(Debug)]
pub struct Published {
    /// What is published.
    pub record: SignedRecord,
    /// Under which key.
    pub key: NodeId,
    replicas: Vec<Replica>,
    /// When the last round of STOREs began.
    renewed_at: Option<Millis>,
    /// Nodes that do not want it (§13.5), so that they are not asked in every round.
    refusing: RecentMap<NodeId, Millis>,
    /// Further nodes that the last round found, nearest first, for those that do not take it.
    spare: VecDeque<NodeInfo>,
    needs_refill: bool,
}

impl Published {
    /// A record that nobody holds yet.
    pub fn new(key: NodeId, record: SignedRecord) -> Self {
        Self {
            record,
            key,
            replicas: Vec::new(),
            renewed_at: None,
            refusing: RecentMap::new(REFUSING_MAX),
            spare: VecDeque::new(),
            needs_refill: true,
        }
    }

    /// Takes a newer version; a round of STOREs is due at once.
    pub fn renew(&mut self, record: SignedRecord) {
        self.record = record;
        self.needs_refill = true;
    }

    /// The replicas.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// Replicas that hold the version of now and answer.
    pub fn active(&self) -> usize {
        let version = self.record.version();
        let is_active =
            |replica: &&Replica| replica.bad_since.is_none() && replica.confirmed.0 == version;
        self.replicas.iter().filter(is_active).count()
    }

    /// Says whether a round of STOREs is due.
    pub fn is_due(&self, now: Millis) -> bool {
        self.needs_refill || self.renewed_at.is_none_or(|at| now.since(at) >= RENEWAL_MS)
    }

    /// Plans a round, given nodes near the key: the nearest of those and of the replicas that answer,
    /// as far as they have not confirmed this version since the last renewal.
    pub fn plan(&mut self, near: &[NodeInfo], now: Millis) -> Vec<NodeInfo> {
        let is_renewal = self.renewed_at.is_none_or(|at| now.since(at) >= RENEWAL_MS);
        if is_renewal {
            self.renewed_at = Some(now);
        }
        self.needs_refill = false;
        let version = self.record.version();
        let mut wanted: Vec<NodeInfo> = near
            .iter()
            .filter(|info| {
                let refused = self.refusing.peek(&info.node_id);
                let is_refusing = refused.is_some_and(|at| now.since(*at) < RENEWAL_MS);
                !is_refusing && !self.is_bad(&info.node_id)
            })
            .copied()
            .collect();
        let good = self.replicas.iter().filter(|replica| replica.bad_since.is_none());
        wanted.extend(good.map(|replica| replica.info));
        wanted.sort_by_key(|info| info.node_id.distance(&self.key));
        wanted.dedup_by_key(|info| info.node_id);
        self.spare = wanted.split_off(REPLICAS.min(wanted.len())).into();
        wanted.retain(|info| {
            let replica = self.find(&info.node_id);
            let has_it = replica.is_some_and(|replica| replica.confirmed.0 == version);
            is_renewal || !has_it
        });
        wanted
    }

    /// A node keeps the record.
    pub fn confirmed(&mut self, info: NodeInfo, now: Millis) {
        let version = self.record.version();
        let confirmed = (version, now);
        match self.replicas.iter_mut().find(|known| known.info.node_id == info.node_id) {
            Some(replica) => {
                *replica = Replica { info, confirmed, failures: 0, bad_since: None, ..*replica };
            }
            None => self.replicas.push(Replica {
                info,
                confirmed,
                failures: 0,
                bad_since: None,
                probe_at: now.plus(PROBE_MS_MIN),
                probe_delay_ms: PROBE_MS_MIN,
            }),
        }
        self.rebalance();
    }

    /// A node does not want the record. Gives back whom to ask in its place.
    pub fn refused(&mut self, id: &NodeId, now: Millis) -> Option<NodeInfo> {
        self.refusing.insert(*id, now);
        self.replicas.retain(|replica| replica.info.node_id != *id);
        self.next_spare()
    }

    /// A node did not answer a STORE. Whether it keeps the record is not known; gives back whom to
    /// ask in its place, so that a record that was lost on the way does not wait half an hour for the
    /// next round.
    pub fn missed(&mut self) -> Option<NodeInfo> {
        self.next_spare()
    }

    /// Replicas whose probe is due, at most `count`. Those in their grace are probed when it ends, and
    /// no renewal brings that forward (D-21).
    pub fn probes_due(&mut self, count: usize, now: Millis) -> Vec<NodeInfo> {
        let due = self.replicas.iter_mut().filter(|replica| replica.probe_at <= now).take(count);
        due.map(|replica| {
            // Until the answer comes, or fails to, no other probe is due.
            replica.probe_at = now.plus(PROBE_MS_MIN);
            replica.info
        })
        .collect()
    }

    /// A probe came back, or did not. Gives back whom to ask in the place of one that is given up.
    pub fn probed(&mut self, id: &NodeId, has_answered: bool, now: Millis) -> Option<NodeInfo> {
        let at = self.replicas.iter().position(|replica| replica.info.node_id == *id)?;
        let replica = &mut self.replicas[at];
        if has_answered {
            replica.failures = 0;
            replica.bad_since = None;
            replica.probe_delay_ms = (replica.probe_delay_ms * 2).min(PROBE_MS_MAX);
            replica.probe_at = now.plus(replica.probe_delay_ms);
            return None;
        }
        replica.failures += 1;
        if replica.bad_since.is_some() {
            // Its place was filled when its grace began.
            self.replicas.remove(at);
            None
        } else if replica.failures >= 2 {
            replica.bad_since = Some(now);
            replica.probe_at = now.plus(GRACE_MS);
            let spare = self.next_spare();
            // A look-up finds others once nobody is left of the last one's (§13.4).
            self.needs_refill |= spare.is_none();
            spare
        } else {
            replica.probe_at = now.plus(PROBE_MS_MIN);
            None
        }
    }

    /// The nearest node of the last round that was not asked, does not have this version, and has not
    /// fallen silent since.
    fn next_spare(&mut self) -> Option<NodeInfo> {
        let version = self.record.version();
        while let Some(info) = self.spare.pop_front() {
            let replica = self.find(&info.node_id);
            let is_wanted =
                |replica: &Replica| replica.confirmed.0 != version && replica.bad_since.is_none();
            if replica.is_none_or(is_wanted) {
                return Some(info);
            }
        }
        None
    }

    fn is_bad(&self, id: &NodeId) -> bool {
        self.find(id).is_some_and(|replica| replica.bad_since.is_some())
    }

    fn find(&self, id: &NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.info.node_id == *id)
    }

    /// Keeps the nearest that answer, and those in their grace while there is room (§13.5).
    fn rebalance(&mut self) {
        let key = self.key;
        self.replicas.sort_by_key(|replica| {
            (replica.bad_since.is_some(), replica.info.node_id.distance(&key))
        });
        let good = self.replicas.iter().filter(|replica| replica.bad_since.is_none()).count();
        if good > REPLICAS {
            self.replicas.drain(REPLICAS..good);
        }
        self.replicas.truncate(REPLICAS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::keys::SigningKey;
    use crate::record::{RecordType, Unsigned};

    fn published() -> Published {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let record = Unsigned {
            address: key.address(),
            record_type: RecordType(5),
            payload: Vec::new(),
            sequence: 1,
            timestamp: 0,
            ttl_s: 60,
            delegation: Vec::new(),
        };
        Published::new(NodeId::ZERO, record.sign(&key))
    }

    fn node(distance: u8) -> NodeInfo {
        let mut info =
            NodeInfo::new(Address([0; 21]), std::net::SocketAddr::from(([203, 0, 113, 1], 4121)));
        info.node_id = NodeId::ZERO;
        info.node_id.0[31] = distance;
        info
    }

    #[test]
    fn the_nearest_eight_are_kept() {
        let mut published = published();
        for distance in (1..=12).rev() {
            published.confirmed(node(distance), Millis(0));
        }
        let kept: Vec<u8> =
            published.replicas().iter().map(|replica| replica.info.node_id.0[31]).collect();
        assert_eq!(kept, (1..=8).collect::<Vec<_>>());
        assert_eq!(published.active(), 8);
    }

    #[test]
    fn a_silent_replica_keeps_its_grace_whatever_is_renewed() {
        let mut published = published();
        (1..=8).for_each(|distance| published.confirmed(node(distance), Millis(0)));
        published.probed(&node(3).node_id, false, Millis(30_000));
        published.probed(&node(3).node_id, false, Millis(60_000));
        assert_eq!(published.active(), 7);
        assert!(published.is_due(Millis(60_000)), "its place has to be filled");
        let near: Vec<_> = (1..=10).map(node).collect();
        assert_eq!(published.plan(&near, Millis(60_000)).len(), 8, "a first renewal asks all");
        published.confirmed(node(9), Millis(61_000));
        let is_probed =
            |published: &mut Published, at| published.probes_due(16, Millis(at)).contains(&node(3));
        assert!(!is_probed(&mut published, 60_000 + GRACE_MS - 1));
        assert!(is_probed(&mut published, 60_000 + GRACE_MS));
        published.probed(&node(3).node_id, false, Millis(60_000 + GRACE_MS));
        assert!(!published.replicas().iter().any(|replica| replica.info == node(3)));
    }

    #[test]
    fn who_refuses_is_not_asked_again_in_the_next_round() {
        let mut published = published();
        let near: Vec<_> = (1..=3).map(node).collect();
        assert_eq!(published.plan(&near, Millis(0)).len(), 3);
        published.refused(&node(2).node_id, Millis(0));
        published.needs_refill = true;
        assert_eq!(published.plan(&near, Millis(1000)), [node(1), node(3)]);
    }

    #[test]
    fn whoever_does_not_take_a_record_is_replaced_by_the_next_nearest() {
        let mut published = published();
        let near: Vec<_> = (1..=10).map(node).collect();
        assert_eq!(published.plan(&near, Millis(0)), near[..8]);
        assert_eq!(published.missed(), Some(node(9)));
        published.confirmed(node(9), Millis(1));
        assert_eq!(published.refused(&node(2).node_id, Millis(2)), Some(node(10)));
        assert_eq!(published.missed(), None, "nobody else was found");
    }

    #[test]
    fn a_replica_that_fell_silent_is_not_asked_in_its_own_place() {
        let mut published = published();
        (1..=8).for_each(|distance| published.confirmed(node(distance), Millis(0)));
        published.replicas.push(Replica { info: node(9), ..published.replicas[0] });
        published.record.sequence += 1;
        let near: Vec<_> = (1..=10).map(node).collect();
        assert_eq!(published.plan(&near, Millis(0)), near[..8]);
        published.probed(&node(9).node_id, false, Millis(30_000));
        let spare = published.probed(&node(9).node_id, false, Millis(60_000));
        assert_eq!(spare, Some(node(10)));
    }

    #[test]
    fn probes_of_a_replica_that_answers_become_rare() {
        let mut published = published();
        published.confirmed(node(1), Millis(0));
        let mut now = 0;
        let mut probes = 0;
        while now < 6 * PROBE_MS_MAX {
            now += 15_000;
            for info in published.probes_due(4, Millis(now)) {
                probes += 1;
                published.probed(&info.node_id, true, Millis(now));
            }
        }
        assert!(probes < 15, "{probes}");
    }
}

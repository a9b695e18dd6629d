//! The routing table (specification §8): nodes that have proved where they are.
//!
//! Owns 256 buckets of 16 nodes, and per bucket a few candidates that others have spoken of. Only a
//! node that has answered a question of ours, sent to the address that the entry holds, is in a
//! bucket; what is hearsay waits among the candidates until it has answered too. So answers list
//! nobody on another's word (T3, D-8), nobody without an address (D-4), and a stranger who speaks
//! first displaces nobody (D-1). Used by the node alone.

use std::collections::{HashMap, VecDeque};

use crate::limits::{
    BUCKET_CANDIDATES_MAX, BUCKET_NODES_MAX, BUCKETS, CANDIDATE_TTL_MS, CHALLENGE_AGE_MS_MIN,
    FRESH_MS, NODES_PER_SITE_AND_BUCKET_MAX, NODES_PER_SITE_MAX, REFILL_PAUSE_MS,
};
use crate::message::NodeInfo;
use crate::node_id::NodeId;
use crate::prefix::Prefix;
use crate::time::Millis;

/// A node that has answered.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The node and the address at which it answered.
    pub info: NodeInfo,
    /// When it last answered, or asked from where it had answered.
    pub verified_at: Millis,
}

/// What became of a node that has answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// It was there, and is now the one used last.
    Known,
    /// It was added.
    Added,
    /// Its bucket is full. It waits among the candidates until the node used longest ago has been
    /// asked, which is the caller's part, and has not answered.
    Challenge(NodeInfo),
    /// Its bucket is full of nodes that answered a moment ago, and it waits among the candidates.
    Waiting,
    /// Too many nodes of its network are there already.
    Crowded,
    /// It is this node.
    Itself,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Used longest ago first.
    entries: Vec<Entry>,
    /// Oldest first.
    candidates: VecDeque<(NodeInfo, Millis)>,
    is_challenging: bool,
    refilled_at: Option<Millis>,
    futile_refills: u32,
}

/// Nodes by how much of their place they share with this one's.
#[derive(Debug)]
pub struct RoutingTable {
    own: NodeId,
    buckets: Vec<Bucket>,
    /// Entries per network, if networks are kept diverse.
    sites: Option<HashMap<Prefix, usize>>,
    /// When a bucket was last refilled.
    refilled_at: Option<Millis>,
    len: usize,
}

impl RoutingTable {
    /// An empty table around a place. Where all nodes are in one network, diversity is off.
    pub fn new(own: NodeId, is_diverse: bool) -> Self {
        let buckets = (0..BUCKETS).map(|_| Bucket::default()).collect();
        Self { own, buckets, sites: is_diverse.then(HashMap::new), refilled_at: None, len: 0 }
    }

    /// Nodes in buckets.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every entry, bucket by bucket, used longest ago first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flat_map(|bucket| &bucket.entries)
    }

    /// An entry.
    pub fn find(&self, id: &NodeId) -> Option<&Entry> {
        let bucket = &self.buckets[self.own.bucket_index(id)?];
        bucket.entries.iter().find(|entry| entry.info.node_id == *id)
    }

    /// How many nodes each bucket has that answered after a moment; for the size estimate.
    pub fn verified_since(&self, since: Millis) -> Vec<(usize, usize)> {
        let count = |bucket: &Bucket| {
            bucket.entries.iter().filter(|entry| entry.verified_at >= since).count()
        };
        self.buckets.iter().map(count).enumerate().filter(|(_, count)| *count > 0).collect()
    }

    /// Takes in a node that has just answered at its address. One that is known to be bad makes room.
    pub fn admit(
        &mut self,
        info: NodeInfo,
        is_bad: impl Fn(&NodeId) -> bool,
        now: Millis,
    ) -> Admission {
        let Some(index) = self.own.bucket_index(&info.node_id) else {
            return Admission::Itself;
        };
        let entry = Entry { info, verified_at: now };
        if let Some(at) = self.position(index, &info.node_id) {
            let before = self.buckets[index].entries.remove(at);
            self.count_site(&before.info, -1);
            self.count_site(&info, 1);
            self.buckets[index].entries.push(entry);
            return Admission::Known;
        }
        if self.is_crowded(index, &info) {
            return Admission::Crowded;
        }
        if self.buckets[index].entries.len() < BUCKET_NODES_MAX {
            self.add(index, entry);
            return Admission::Added;
        }
        let bad = self.buckets[index].entries.iter().find(|entry| is_bad(&entry.info.node_id));
        if let Some(bad) = bad.copied() {
            self.remove_entry(index, &bad.info.node_id);
            self.add(index, entry);
            return Admission::Added;
        }
        self.wait(index, info, now);
        let bucket = &mut self.buckets[index];
        let oldest = bucket.entries[0];
        if bucket.is_challenging || now.since(oldest.verified_at) < CHALLENGE_AGE_MS_MIN {
            return Admission::Waiting;
        }
        bucket.is_challenging = true;
        Admission::Challenge(oldest.info)
    }

    /// Keeps a node that others speak of, for later.
    pub fn hear(&mut self, info: NodeInfo, now: Millis) {
        if let Some(index) = self.own.bucket_index(&info.node_id)
            && self.position(index, &info.node_id).is_none()
        {
            self.wait(index, info, now);
        }
    }

    /// Ends a challenge. A node that did not answer is removed, and the caller asks the youngest
    /// candidate for its place, which is given back.
    pub fn challenged(&mut self, id: &NodeId, has_answered: bool) -> Option<NodeInfo> {
        let index = self.own.bucket_index(id)?;
        self.buckets[index].is_challenging = false;
        if has_answered {
            return None;
        }
        self.remove_entry(index, id);
        self.buckets[index].candidates.pop_back().map(|(info, _)| info)
    }

    /// The nodes nearest to a place that a filter accepts, nearest first.
    pub fn nearest(
        &self,
        target: &NodeId,
        count: usize,
        mut accepts: impl FnMut(&Entry) -> bool,
    ) -> Vec<&Entry> {
        // Only places in the table move about, beside what decides in all but contrived cases.
        let mut found: Vec<(u64, &Entry)> = Vec::with_capacity(self.len);
        let near = |entry: &Entry| entry.info.node_id.leading() ^ target.leading();
        found.extend(
            self.entries().filter(|entry| accepts(entry)).map(|entry| (near(entry), entry)),
        );
        let by_distance = |left: &(u64, &Entry), right: &(u64, &Entry)| {
            let distance = |entry: &Entry| entry.info.node_id.distance(target);
            let ahead = left.0.cmp(&right.0);
            ahead.then_with(|| distance(left.1).cmp(&distance(right.1)))
        };
        if found.len() > count && count > 0 {
            found.select_nth_unstable_by(count - 1, by_distance);
        }
        found.truncate(count);
        found.sort_unstable_by(by_distance);
        found.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Candidates to ask in buckets that have room, at most `count`; asked once.
    pub fn candidates_due(&mut self, count: usize, now: Millis) -> Vec<NodeInfo> {
        let mut due = Vec::new();
        for bucket in self.buckets.iter_mut().rev() {
            bucket.candidates.retain(|(_, at)| now.since(*at) <= CANDIDATE_TTL_MS);
            let room = BUCKET_NODES_MAX - bucket.entries.len().min(BUCKET_NODES_MAX);
            let wanted = room.min(count - due.len());
            due.extend(
                (0..wanted).map_while(|_| bucket.candidates.pop_front()).map(|(info, _)| info),
            );
            if due.len() == count {
                break;
            }
        }
        due
    }

    /// The bucket that most needs a look-up, if its time has come: not empty, with fewer fresh nodes
    /// than half of what it may have. Each look-up that brings nothing makes the next wait longer. In
    /// every network the last few buckets are thin, and a network in which nodes come and go always
    /// brings something, so there is a pause between all of them as well (§13.6 charges all at once).
    pub fn refill_due(&mut self, now: Millis) -> Option<usize> {
        const PAUSES_MS: [u64; 4] = [30_000, 120_000, 600_000, 900_000];
        let is_pausing = self.refilled_at.is_some_and(|at| now.since(at) < REFILL_PAUSE_MS);
        let due = self.buckets.iter().enumerate().rev().find(|(_, bucket)| {
            let fresh = |entry: &&Entry| now.since(entry.verified_at) < FRESH_MS;
            let is_thin = bucket.entries.iter().filter(fresh).count() < BUCKET_NODES_MAX / 2;
            let pause = PAUSES_MS[(bucket.futile_refills as usize).min(PAUSES_MS.len() - 1)];
            let is_time = bucket.refilled_at.is_none_or(|at| !is_pausing && now.since(at) >= pause);
            !bucket.entries.is_empty() && is_thin && is_time
        });
        let (index, _) = due?;
        self.refilled_at = Some(now);
        let bucket = &mut self.buckets[index];
        bucket.refilled_at = Some(now);
        bucket.futile_refills = bucket.futile_refills.saturating_add(1);
        Some(index)
    }

    fn add(&mut self, index: usize, entry: Entry) {
        self.count_site(&entry.info, 1);
        let bucket = &mut self.buckets[index];
        bucket.candidates.retain(|(info, _)| info.node_id != entry.info.node_id);
        bucket.entries.push(entry);
        bucket.futile_refills = 0;
        self.len += 1;
    }

    fn remove_entry(&mut self, index: usize, id: &NodeId) {
        if let Some(at) = self.position(index, id) {
            let removed = self.buckets[index].entries.remove(at);
            self.count_site(&removed.info, -1);
            self.len -= 1;
        }
    }

    fn wait(&mut self, index: usize, info: NodeInfo, now: Millis) {
        let candidates = &mut self.buckets[index].candidates;
        if candidates.iter().any(|(known, _)| known.node_id == info.node_id) {
            return;
        }
        if candidates.len() == BUCKET_CANDIDATES_MAX {
            candidates.pop_front();
        }
        candidates.push_back((info, now));
    }

    fn position(&self, index: usize, id: &NodeId) -> Option<usize> {
        self.buckets[index].entries.iter().position(|entry| entry.info.node_id == *id)
    }

    fn is_crowded(&self, index: usize, info: &NodeInfo) -> bool {
        let Some(sites) = &self.sites else {
            return false;
        };
        let site = Prefix::site(info.ip);
        let is_of_site = |entry: &&Entry| Prefix::site(entry.info.ip) == site;
        let in_bucket = self.buckets[index].entries.iter().filter(is_of_site).count();
        in_bucket >= NODES_PER_SITE_AND_BUCKET_MAX
            || sites.get(&site).copied().unwrap_or(0) >= NODES_PER_SITE_MAX
    }

    fn count_site(&mut self, info: &NodeInfo, change: isize) {
        let Some(sites) = &mut self.sites else {
            return;
        };
        let site = Prefix::site(info.ip);
        let count = sites.entry(site).or_insert(0);
        *count = count.saturating_add_signed(change);
        if *count == 0 {
            sites.remove(&site);
        }
    }
}

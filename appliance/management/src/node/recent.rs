//! Queries seen a moment ago, to recognise copies of them.
//!
//! Owned by the node. Raw-profile peers write one query to all their links, with one nonce; the
//! first copy is processed and the others are dropped without a word (spec §9.2). When more queries
//! arrive than the ring holds, a straggling copy is processed as a query of its own, which every
//! operation survives: the caller ignores the second answer.

use super::limits::COPY_WINDOW_NS;
use std::collections::{BTreeMap, VecDeque};
use waystation_astral::identity::Identity;
use waystation_relay::ids::LinkTag;

/// A bounded ring of queries with an index.
#[derive(Debug)]
pub(super) struct RecentQueries {
    entries_max: usize,
    ring: VecDeque<Key>,
    index: BTreeMap<Key, Seen>,
}

type Key = (Identity, u64);

#[derive(Debug)]
struct Seen {
    link: LinkTag,
    received_ns: u64,
    /// How many entries of the ring carry this key; the last of them takes the index entry along.
    ring_entries: u32,
}

impl RecentQueries {
    /// An empty ring for so many queries.
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries_max, ring: VecDeque::new(), index: BTreeMap::new() }
    }

    /// Whether this query came on another link before, and if not, remembers it.
    ///
    /// A first copy counts only within the window and while its link is open: a peer that starts
    /// again may count its nonces from the start again, and must not wait for an answer forever.
    pub(super) fn is_copy(
        &mut self,
        now_ns: u64,
        caller: Identity,
        nonce: u64,
        link: LinkTag,
        is_open: impl Fn(LinkTag) -> bool,
    ) -> bool {
        let key = (caller, nonce);
        if let Some(seen) = self.index.get(&key) {
            let fresh = now_ns.saturating_sub(seen.received_ns) < COPY_WINDOW_NS;
            if fresh && seen.link != link && is_open(seen.link) {
                return true;
            }
        }
        self.remember(now_ns, key, link);
        false
    }

    /// A link has another tag now.
    pub(super) fn link_moved(&mut self, from: LinkTag, to: LinkTag) {
        for seen in self.index.values_mut().filter(|seen| seen.link == from) {
            seen.link = to;
        }
    }

    /// How many queries are remembered.
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    fn remember(&mut self, now_ns: u64, key: Key, link: LinkTag) {
        if self.entries_max == 0 {
            return;
        }
        if self.ring.len() >= self.entries_max {
            self.forget_oldest();
        }
        self.ring.push_back(key);
        let seen =
            self.index.entry(key).or_insert(Seen { link, received_ns: now_ns, ring_entries: 0 });
        *seen = Seen { link, received_ns: now_ns, ring_entries: seen.ring_entries + 1 };
    }

    fn forget_oldest(&mut self) {
        let Some(key) = self.ring.pop_front() else { return };
        let Some(seen) = self.index.get_mut(&key) else { return };
        seen.ring_entries -= 1;
        if seen.ring_entries == 0 {
            self.index.remove(&key);
        }
    }
}

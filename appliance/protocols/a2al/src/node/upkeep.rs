//! What a node does by itself: finding the network, keeping its table fresh, renewing what it
//! publishes (specification §12, §13).

use std::net::SocketAddr;

use super::Node;
use super::calls::{Patience, Purpose};
use crate::limits::{
    BOOTSTRAP_ATTEMPTS, BOOTSTRAP_CALL_MS, CALL_MS, CANDIDATES_PER_UPKEEP, DUPLICATE_MS,
    ENDPOINT_TTL_S, EXPIRED_KEYS_PER_UPKEEP, FRESH_MS, PROBE_NODES, PROBE_PERIOD_MS, PUBLISHED_MAX,
    REBOOTSTRAP_MS, RENEWAL_MS, REPLICAS_MAX, SNAPSHOT_NODES_ASKED, STORE_PAUSE_MS, UPKEEP_MS,
};
use crate::message::{Body, NodeInfo, TransactionId};
use crate::node_id::NodeId;
use crate::payload::EndpointPayload;
use crate::peers::Health;
use crate::query::{Found, Goal};
use crate::record::{RecordType, SignedRecord, Unsigned};
use crate::replication::{Published, PublishedName};
use crate::store::{Origin, Put, PutError};
use crate::time::{Millis, Now};

/// A STORE that waits for its turn.
#[derive(Debug)]
pub(super) struct DueStore {
    set: PublishedName,
    info: NodeInfo,
}

/// Most STOREs that wait: every record that is published, at every replica.
const STORES_MAX: usize = PUBLISHED_MAX * REPLICAS_MAX;
/// Stale entries of the table that are asked in one round.
const STALE_PER_UPKEEP: usize = 4;

/// What a question of upkeep is worth.
const TWICE: Patience = Patience { attempts: 2, attempt_ms: CALL_MS };

impl Node {
    /// Does what time has brought. Called when [`Node::next_tick`] has come; earlier does no harm.
    pub fn tick(&mut self, now: Now) {
        self.expire_calls(now);
        self.expire_queries(now);
        self.nat.tick(now.millis);
        if self.endpoint_due_at.is_some_and(|due_at| due_at <= now.millis) {
            self.publish_endpoint(now);
        }
        self.renew_own(now);
        self.send_due_store(now);
        if self.table.is_empty() && self.bootstrap_at <= now.millis {
            self.bootstrap_at = now.millis.plus(REBOOTSTRAP_MS);
            self.join(now);
        }
        if self.upkeep_at <= now.millis {
            self.upkeep_at = now.millis.plus(UPKEEP_MS);
            self.keep_up(now);
        }
    }

    /// Asks all bootstrap addresses who is there.
    pub fn join(&mut self, now: Now) {
        let patience = Patience { attempts: BOOTSTRAP_ATTEMPTS, attempt_ms: BOOTSTRAP_CALL_MS };
        for at in self.config.bootstrap.clone() {
            let body = Body::Ping { address: self.address };
            self.ask(at, None, body, Purpose::Bootstrap, patience, now);
        }
    }

    /// Nodes of the table, those that answer best first.
    pub fn best_nodes(&self, count: usize) -> Vec<NodeInfo> {
        let mut entries: Vec<_> = self.table.entries().collect();
        entries.sort_by_key(|entry| {
            let health = self.peers.health(&entry.info.node_id);
            (health, std::cmp::Reverse(entry.verified_at))
        });
        entries.into_iter().take(count).map(|entry| entry.info).collect()
    }

    /// Takes up whom it knew before a restart. They have to answer again before they are contacts.
    pub fn restore_nodes(&mut self, nodes: &[NodeInfo], now: Now) {
        let nodes = self.absorb(nodes, now);
        for info in nodes.into_iter().take(SNAPSHOT_NODES_ASKED) {
            let body = Body::Ping { address: self.address };
            let at = info.socket_address();
            self.ask(at, Some(info.node_id), body, Purpose::Bootstrap, TWICE, now);
        }
    }

    /// Takes up a record that it kept before a restart, if it still holds. Each costs a verification,
    /// so a caller with many gives them in portions.
    ///
    /// # Errors
    /// Why it is not kept.
    pub fn restore_record(
        &mut self,
        key: NodeId,
        record: SignedRecord,
        now: Now,
    ) -> Result<Put, PutError> {
        self.store.put(key, record, Origin::Unknown, &mut *self.signatures.verifier, now)
    }

    /// Publishes a record under a key, and keeps it renewed where it is kept until it is withdrawn.
    ///
    /// # Errors
    /// Why it is not acceptable even here.
    pub fn publish(
        &mut self,
        key: NodeId,
        record: SignedRecord,
        now: Now,
    ) -> Result<Put, PutError> {
        let set = PublishedName::of(key, &record);
        let is_new = !self.published.contains_key(&set);
        if is_new && self.published.len() >= PUBLISHED_MAX {
            return Err(PutError::TooMany);
        }
        let verifier = &mut *self.signatures.verifier;
        let put = self.store.put(key, record.clone(), Origin::Own, verifier, now)?;
        self.store.confirm(&key, record.record_type);
        match self.published.get_mut(&set) {
            Some(published) => published.renew(record),
            None => {
                self.published.insert(set, Published::new(key, record));
            }
        }
        self.begin_round(set, now);
        Ok(put)
    }

    /// Stops renewing what an address publishes.
    pub fn withdraw(&mut self, publisher: &NodeId) {
        self.published.retain(|of, _| of.publisher != *publisher);
    }

    /// The next moment at which an empty table asks for the network.
    pub(super) fn bootstrap_tick(&self, otherwise: Millis) -> Millis {
        let is_lost = self.table.is_empty() && !self.config.bootstrap.is_empty();
        if is_lost { self.bootstrap_at } else { otherwise }
    }

    /// A look-up for a round of STOREs has ended.
    pub(super) fn plan_round(&mut self, set: PublishedName, near: &[NodeInfo], now: Now) {
        let Some(published) = self.published.get_mut(&set) else {
            return;
        };
        if near.is_empty() {
            // Nobody is there; the next round of upkeep tries again.
            return;
        }
        for info in published.plan(near, now.millis) {
            self.queue_store(set, info);
        }
        self.send_due_store(now);
    }

    /// Has another node keep a record in place of one that does not.
    pub(super) fn store_at_spare(&mut self, set: PublishedName, spare: Option<NodeInfo>, now: Now) {
        if let Some(info) = spare {
            self.queue_store(set, info);
            self.send_due_store(now);
        }
    }

    fn queue_store(&mut self, set: PublishedName, info: NodeInfo) {
        if self.stores.len() < STORES_MAX {
            self.stores.push_back(DueStore { set, info });
        }
    }

    /// A replica answered a probe, or did not; it may keep several records.
    pub(super) fn probed(&mut self, id: &NodeId, has_answered: bool, now: Now) {
        if !has_answered && self.peers.is_offline(now.millis) {
            return;
        }
        let spare = |(set, published): (&PublishedName, &mut Published)| {
            published.probed(id, has_answered, now.millis).map(|info| (*set, info))
        };
        let spares: Vec<_> = self.published.iter_mut().filter_map(spare).collect();
        for (set, info) in spares {
            self.store_at_spare(set, Some(info), now);
        }
    }

    /// Sees to it that the own record is newer than the one the network has.
    pub(super) fn learn_own_sequence(&mut self, found: &Found, now: Now) {
        if found.target != self.id {
            return;
        }
        let own = found.records.iter().filter(|record| record.address == self.address);
        let newest = own.map(|record| record.sequence).max();
        if let Some(newest) = newest.filter(|newest| *newest > self.sequence) {
            self.sequence = newest;
            self.endpoint_due_at = Some(now.millis);
        }
    }

    fn publish_endpoint(&mut self, now: Now) {
        self.endpoint_due_at = Some(now.millis.plus(RENEWAL_MS));
        // Seconds are a number that grows over restarts, also where the last one was lost (§5.6).
        self.sequence = now.unix.0.max(self.sequence.saturating_add(1));
        let endpoints = self.config.endpoints.iter().map(|at| format!("quic://{at}")).collect();
        let payload = EndpointPayload {
            endpoints: Some(endpoints),
            nat: self.nat.nat_type(now.millis),
            signal: self.config.hubs.first().cloned().unwrap_or_default(),
            turns: Vec::new(),
            signals: self.config.hubs.clone(),
        };
        let record = Unsigned {
            address: self.address,
            record_type: RecordType::ENDPOINT,
            payload: payload.encode(),
            sequence: self.sequence,
            timestamp: now.unix.0,
            ttl_s: ENDPOINT_TTL_S,
            delegation: Vec::new(),
        };
        let record = record.sign(&*self.signatures.signer);
        // What the operator configured may be too long for a record; it is then not published, which
        // `published` shows.
        let _ = self.publish(self.id, record, now);
    }

    /// One STORE at a time, with a pause behind each (§13.1).
    fn send_due_store(&mut self, now: Now) {
        if self.next_store_at > now.millis {
            return;
        }
        let Some(DueStore { set, info }) = self.stores.pop_front() else {
            return;
        };
        self.next_store_at = now.millis.plus(STORE_PAUSE_MS);
        let Some(published) = self.published.get(&set) else {
            return;
        };
        let record = Box::new(published.record.clone());
        let body = Body::Store { record, key: Some(published.key) };
        let at = self.dial_address(&info, now);
        self.ask(at, Some(info.node_id), body, Purpose::Store(set), TWICE, now);
    }

    fn keep_up(&mut self, now: Now) {
        self.subscriptions.prune(now.millis);
        if self.duplicates_age_at <= now.millis {
            self.duplicates_age_at = now.millis.plus(DUPLICATE_MS);
            self.duplicates.age();
        }
        self.store.expire(EXPIRED_KEYS_PER_UPKEEP, now);
        self.probe_replicas(now);
        let due: Vec<_> = self
            .published
            .iter()
            .filter(|(_, published)| published.is_due(now.millis))
            .map(|(set, _)| *set)
            .collect();
        due.into_iter().for_each(|set| self.begin_round(set, now));
        for candidate in self.table.candidates_due(CANDIDATES_PER_UPKEEP, now.millis) {
            if self.peers.may_ask(&candidate.node_id, now.millis) {
                self.check_on(candidate, now);
            }
        }
        self.check_stale(now);
        if !self.config.is_passive
            && let Some(bucket) = self.table.refill_due(now.millis)
        {
            let target = self.id.within_bucket(bucket, self.random.bytes());
            self.begin_look_up(target, Goal::Nodes, now);
        }
        if self.nat_probe_at <= now.millis {
            self.nat_probe_at = now.millis.plus(PROBE_PERIOD_MS);
            self.probe_reachability(now);
        }
    }

    /// Asks nodes of the table that were silent for long or failed, a few in each round.
    fn check_stale(&mut self, now: Now) {
        let is_due = |info: &NodeInfo, verified_at| {
            let is_stale = now.millis.since(verified_at) > FRESH_MS / 2;
            let is_failing = self.peers.health(&info.node_id) == Health::Bad;
            (is_stale || is_failing) && self.peers.may_ask(&info.node_id, now.millis)
        };
        let mut due: Vec<_> =
            self.table.entries().filter(|entry| is_due(&entry.info, entry.verified_at)).collect();
        due.sort_by_key(|entry| entry.verified_at);
        let due: Vec<NodeInfo> =
            due.into_iter().take(STALE_PER_UPKEEP).map(|entry| entry.info).collect();
        due.into_iter().for_each(|info| self.check_on(info, now));
    }

    fn probe_replicas(&mut self, now: Now) {
        let mut due: Vec<NodeInfo> = Vec::new();
        for published in self.published.values_mut() {
            due.extend(published.probes_due(REPLICAS_MAX, now.millis));
        }
        due.sort_by_key(|info| info.node_id);
        due.dedup_by_key(|info| info.node_id);
        for info in due {
            let body = Body::Ping { address: self.address };
            let at = self.dial_address(&info, now);
            self.ask(at, Some(info.node_id), body, Purpose::Probe, TWICE, now);
        }
    }

    fn begin_round(&mut self, set: PublishedName, now: Now) {
        let is_under_way = self.replications.values().any(|under_way| *under_way == set)
            || self.stores.iter().any(|due| due.set == set);
        if is_under_way || self.table.is_empty() {
            return;
        }
        if self.config.is_passive {
            let near = self.table.nearest(&set.key, REPLICAS_MAX, |entry| {
                self.peers.health(&entry.info.node_id) != Health::Bad
            });
            let near: Vec<NodeInfo> = near.into_iter().map(|entry| entry.info).collect();
            self.plan_round(set, &near, now);
            return;
        }
        self.replicate(set, now);
    }

    fn replicate(&mut self, set: PublishedName, now: Now) {
        // The look-up may end at once, so it is told what it is for before it begins.
        let Some(id) = self.upcoming_query() else {
            return;
        };
        self.replications.insert(id, set);
        if self.begin_look_up(set.key, Goal::Nodes, now).is_none() {
            self.replications.remove(&id);
        }
    }

    fn upcoming_query(&self) -> Option<crate::query::QueryId> {
        self.next_query.checked_add(1).map(crate::query::QueryId)
    }

    /// Asks up to three good nodes to send an echo to where they see this one.
    fn probe_reachability(&mut self, now: Now) {
        let Some(claimed) = self.nat.trusted(true, now.millis) else {
            return;
        };
        let asked: Vec<SocketAddr> = self
            .best_nodes(PROBE_NODES * 4)
            .iter()
            .map(NodeInfo::socket_address)
            .filter(SocketAddr::is_ipv4)
            .take(PROBE_NODES)
            .collect();
        let mut tokens = Vec::with_capacity(asked.len());
        for to in asked {
            let token = self.random.bytes();
            tokens.push(token);
            let transaction = TransactionId(self.random.bytes());
            self.send(to, transaction, &Body::NatProbeRequest { token, claimed });
        }
        if !tokens.is_empty() {
            self.nat.probe(tokens, now.millis);
        }
    }
}

//! Look-ups that a node has under way (specification §11.2).

use super::calls::{Patience, Purpose};
use super::{Event, Node};
use crate::limits::{CALL_ATTEMPTS, CALL_MS, QUERIES_MAX, QUERY_SEEDS};
use crate::message::Body;
use crate::node_id::NodeId;
use crate::query::{Found, Goal, Query, QueryId};
use crate::record::{Category, RecordType};
use crate::store::{Origin, Put};
use crate::time::Now;

impl Node {
    /// Looks for the nodes nearest to a place. None if too many look-ups are under way.
    pub fn find_nodes(&mut self, target: NodeId, now: Now) -> Option<QueryId> {
        self.begin_look_up(target, Goal::Nodes, now)
    }

    /// Looks for records of a type under a key, here first, and in the network until some are found.
    pub fn find_records(
        &mut self,
        key: NodeId,
        record_type: RecordType,
        now: Now,
    ) -> Option<QueryId> {
        let held = self.store.read(&key, record_type, now);
        if held.is_empty() {
            return self.begin_look_up(key, Goal::AnyRecord(record_type), now);
        }
        let records = held.iter().map(|stored| (*stored.record).clone()).collect();
        let query = self.name_query();
        let found = Found {
            target: key,
            goal: Goal::AnyRecord(record_type),
            nodes: Vec::new(),
            records,
            calls: 0,
            hops: 0,
            took_ms: 0,
        };
        self.tell(Event::Found { query, found: Box::new(found) });
        Some(query)
    }

    /// Looks for all records of a type under a key at every node near it. None is asked to push the
    /// next one: nobody here waits for it.
    pub fn aggregate_records(
        &mut self,
        key: NodeId,
        record_type: RecordType,
        now: Now,
    ) -> Option<QueryId> {
        let query = self.begin_look_up(key, Goal::AllRecords(record_type), now)?;
        let held = self.store.read(&key, record_type, now);
        if let Some(under_way) = self.queries.get_mut(&query) {
            for stored in held {
                under_way.add_record((*stored.record).clone(), &self.id);
            }
        }
        Some(query)
    }

    pub(super) fn begin_look_up(
        &mut self,
        target: NodeId,
        goal: Goal,
        now: Now,
    ) -> Option<QueryId> {
        if self.queries.len() >= QUERIES_MAX {
            return None;
        }
        let id = self.name_query();
        let is_diverse = self.config.is_diverse;
        let mut query = Query::new(target, goal, self.id, is_diverse, now.millis);
        for entry in self.table.nearest(&target, QUERY_SEEDS, |_| true) {
            let at = self.dial_address(&entry.info, now);
            query.hear(entry.info, at, self.peers.health(&entry.info.node_id), None);
        }
        self.queries.insert(id, query);
        self.drive(id, now);
        Some(id)
    }

    /// Asks whom a look-up wants to ask next, and ends it when it is done.
    pub(super) fn drive(&mut self, id: QueryId, now: Now) {
        let patience = Patience { attempts: CALL_ATTEMPTS, attempt_ms: CALL_MS };
        while let Some((info, at)) = self.queries.get_mut(&id).and_then(Query::next_call) {
            let body = self.question(&id);
            let expected = Some(info.node_id);
            if !self.ask(at, expected, body, Purpose::Query(id), patience, now)
                && let Some(query) = self.queries.get_mut(&id)
            {
                query.failed(&info.node_id);
            }
        }
        if self.queries.get_mut(&id).is_some_and(|query| query.is_done(now.millis)) {
            self.finish(id, now);
        }
    }

    /// A node that a look-up has asked did not answer the first time.
    pub(super) fn query_is_slow(&mut self, id: QueryId, node: &NodeId, now: Now) {
        if let Some(query) = self.queries.get_mut(&id) {
            query.is_slow(node);
            self.drive(id, now);
        }
    }

    /// Ends look-ups whose time is over.
    pub(super) fn expire_queries(&mut self, now: Now) {
        let over = self.queries.iter().filter(|(_, query)| query.deadline() <= now.millis);
        let over: Vec<QueryId> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.finish(id, now));
    }

    fn finish(&mut self, id: QueryId, now: Now) {
        let Some(query) = self.queries.remove(&id) else {
            return;
        };
        let found = query.into_found(now.millis);
        self.learn_own_sequence(&found, now);
        if let Some(set) = self.replications.remove(&id) {
            self.plan_round(set, &found.nodes, now);
            return;
        }
        self.keep_found(&found, now);
        self.tell(Event::Found { query: id, found: Box::new(found) });
    }

    /// Keeps what was found for the next who asks. As nobody who found it is its publisher, it is
    /// shown for two minutes only (§6.4).
    fn keep_found(&mut self, found: &Found, now: Now) {
        for record in &found.records {
            let record_type = record.record_type;
            let verifier = &mut *self.signatures.verifier;
            let put = self.store.put(found.target, record.clone(), Origin::Unknown, verifier, now);
            let is_sovereign = record_type.category() == Category::Sovereign;
            if is_sovereign && put == Ok(Put::Stored { was_absent: true }) {
                self.store.doubt(&found.target, record_type, now.millis);
            }
        }
    }

    fn question(&self, id: &QueryId) -> Body {
        let query = self.queries.get(id);
        let target = query.map_or(NodeId::ZERO, Query::target);
        match query.map_or(Goal::Nodes, Query::goal) {
            Goal::Nodes => Body::FindNode { target },
            Goal::AnyRecord(record_type) => {
                Body::FindValue { target, record_type, subscribe: false }
            }
            Goal::AllRecords(record_type) => {
                Body::FindValue { target, record_type, subscribe: false }
            }
        }
    }

    fn name_query(&mut self) -> QueryId {
        self.next_query += 1;
        QueryId(self.next_query)
    }
}

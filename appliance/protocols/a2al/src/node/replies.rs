//! Answers to this node's questions, and questions that were not answered.

use std::net::SocketAddr;

use super::calls::{Call, Patience, Purpose};
use super::{DropReason, Event, Node, NodeRefusal};
use crate::limits::{CALL_MS, JOINED_UPKEEP_MS};
use crate::message::{Body, Message, NodeInfo, Refusal};
use crate::node_id::NodeId;
use crate::peers::Health;
use crate::query::{Goal, QueryId};
use crate::record::{RecordType, SignedRecord};
use crate::replication::{Published, PublishedName};
use crate::time::Now;

impl Node {
    /// Takes in an answer to a question that is under way.
    pub(super) fn take_answer(&mut self, message: Message, now: Now) {
        let Some(call) = self.calls.get(&message.transaction) else {
            return;
        };
        if call.expected.is_some_and(|expected| expected != message.sender_id) {
            // The question stays under way: whoever answered for another cannot end it.
            self.statistics.drop(DropReason::ForeignAnswer);
            return;
        }
        let Some(call) = self.take_call(&message.transaction) else {
            return;
        };
        self.statistics.answered += 1;
        self.forget_validation(&call);
        let took_ms = now.millis.since(call.sent_at);
        // Whoever signed is at the address that was asked, or has the question from there.
        self.peers.succeeded(message.sender_id, call.to, Some(took_ms), now.millis);
        let info = NodeInfo::new(message.sender, call.to);
        self.admit(info, now);
        match &message.body {
            Body::Pong { observed, .. }
            | Body::FindNodeResponse { observed, .. }
            | Body::FindValueResponse { observed, .. } => {
                self.nat.vote(message.sender_id, *observed, now.millis);
            }
            Body::Ping { .. }
            | Body::FindNode { .. }
            | Body::FindValue { .. }
            | Body::Store { .. }
            | Body::StoreResponse { .. }
            | Body::NatProbeRequest { .. }
            | Body::NatProbeEcho { .. }
            | Body::Push { .. }
            | Body::PushAcknowledgement { .. } => {}
        }
        self.conclude(&call, info, message.body, now);
    }

    /// Gives up a question.
    pub(super) fn give_up(&mut self, call: &Call, now: Now) {
        self.forget_validation(call);
        let Some(id) = call.expected else {
            return;
        };
        self.peers.failed(id, call.to, now.millis);
        match call.purpose {
            Purpose::Challenge => {
                if let Some(candidate) = self.table.challenged(&id, false) {
                    self.check_on(candidate, now);
                }
            }
            Purpose::Query(query) => {
                if let Some(query) = self.queries.get_mut(&query) {
                    query.failed(&id);
                }
                self.drive(query, now);
            }
            Purpose::Probe => self.probed(&id, false, now),
            Purpose::Store(set) => {
                let spare = self.published.get_mut(&set).and_then(Published::missed);
                self.store_at_spare(set, spare, now);
            }
            Purpose::Validate
            | Purpose::Upkeep
            | Purpose::Bootstrap
            | Purpose::Push(_)
            | Purpose::Register(..) => {}
        }
    }

    /// Asks whether a node is there.
    pub(super) fn check_on(&mut self, info: NodeInfo, now: Now) {
        let body = Body::Ping { address: self.address };
        let patience = Patience { attempts: 2, attempt_ms: CALL_MS };
        let at = self.peers.address(&info.node_id, now.millis).unwrap_or(info.socket_address());
        self.ask(at, Some(info.node_id), body, Purpose::Upkeep, patience, now);
    }

    /// Where a node that others spoke of is asked: where it proved to be, or where they say.
    pub(super) fn dial_address(&self, info: &NodeInfo, now: Now) -> SocketAddr {
        let known = self.peers.address(&info.node_id, now.millis);
        known.unwrap_or(info.socket_address())
    }

    fn conclude(&mut self, call: &Call, info: NodeInfo, body: Body, now: Now) {
        match (call.purpose, body) {
            (Purpose::Challenge, _) => {
                self.table.challenged(&info.node_id, true);
            }
            (Purpose::Bootstrap, _) => {
                self.tell(Event::Joined { node: info.node_id, at: call.to });
                // What the address knows of this node's own place is the way into the network.
                self.begin_look_up(self.id, Goal::Nodes, now);
                // Once that has ended, what is published has somebody to be kept by.
                self.upkeep_at = self.upkeep_at.min(now.millis.plus(JOINED_UPKEEP_MS));
            }
            (Purpose::Query(query), body) => self.conclude_query(query, info, body, now),
            (Purpose::Store(set), Body::StoreResponse { stored, already_had, refusal, .. }) => {
                // Whoever has it because the first answer was lost knows nothing newer.
                let already_had = already_had && !call.is_repeated();
                self.conclude_store(set, info, stored, already_had, refusal, now);
            }
            (Purpose::Probe, _) => self.probed(&info.node_id, true, now),
            (Purpose::Push(key), Body::PushAcknowledgement { subscribe: true, .. }) => {
                self.subscriptions.add(key, call.to, now.millis);
            }
            (Purpose::Register(key, record_type), body) => {
                self.store.confirm(&key, record_type);
                if let Body::FindNodeResponse { nodes, .. } = body {
                    self.absorb(&nodes.unwrap_or_default(), now);
                }
            }
            (Purpose::Validate | Purpose::Upkeep | Purpose::Store(_) | Purpose::Push(_), _) => {}
        }
    }

    fn conclude_query(&mut self, id: QueryId, info: NodeInfo, body: Body, now: Now) {
        let (nodes, records) = match body {
            Body::FindNodeResponse { nodes, .. } => (nodes, Vec::new()),
            Body::FindValueResponse { nodes, record, records, .. } => {
                let single = record.map(|record| *record).into_iter();
                let records = if records.is_empty() { single.collect() } else { records };
                (nodes, records)
            }
            _ => (None, Vec::new()),
        };
        let nodes = self.absorb(&nodes.unwrap_or_default(), now);
        self.accept_records(id, &info.node_id, records, now);
        let heard: Vec<(NodeInfo, SocketAddr, Health)> = nodes
            .into_iter()
            .map(|node| (node, self.dial_address(&node, now), self.peers.health(&node.node_id)))
            .collect();
        if let Some(query) = self.queries.get_mut(&id) {
            query.answered(&info.node_id);
            for (node, at, health) in heard {
                query.hear(node, at, health, Some(&info.node_id));
            }
        }
        self.drive(id, now);
    }

    /// Keeps in mind nodes that another one named, if they can be true, and gives those back.
    pub(super) fn absorb(&mut self, nodes: &[NodeInfo], now: Now) -> Vec<NodeInfo> {
        let mut absorbed = Vec::with_capacity(nodes.len());
        for node in nodes.iter().filter(|node| node.node_id != self.id) {
            if !node.is_bound() {
                self.statistics.refuse_node(NodeRefusal::Unbound);
            } else if !self.is_usable(node.socket_address()) {
                self.statistics.refuse_node(NodeRefusal::Unusable);
            } else {
                self.table.hear(*node, now.millis);
                absorbed.push(*node);
            }
        }
        absorbed
    }

    /// Gives a look-up the records of an answer that are what was asked for and hold (D-17).
    fn accept_records(&mut self, id: QueryId, from: &NodeId, records: Vec<SignedRecord>, now: Now) {
        let Some(query) = self.queries.get(&id) else {
            return;
        };
        let (target, goal) = (query.target(), query.goal());
        let wanted = match goal {
            Goal::Nodes => return,
            Goal::AnyRecord(record_type) | Goal::AllRecords(record_type) => record_type,
        };
        for record in records {
            let is_wanted = wanted.wants(record.record_type);
            let verifier = &mut *self.signatures.verifier;
            if is_wanted
                && self.store.judge(&target, &record, verifier, now).is_ok()
                && let Some(query) = self.queries.get_mut(&id)
            {
                query.add_record(record, from);
            }
        }
    }

    fn conclude_store(
        &mut self,
        set: PublishedName,
        info: NodeInfo,
        stored: bool,
        already_had: bool,
        refusal: Option<Refusal>,
        now: Now,
    ) {
        let Some(published) = self.published.get_mut(&set) else {
            return;
        };
        let version = published.record.version();
        let id = info.node_id;
        let is_known = published
            .replicas()
            .iter()
            .any(|replica| replica.info.node_id == id && replica.confirmed.0 == version);
        let is_own_endpoint = published.record.address == self.address
            && published.record.record_type == RecordType::ENDPOINT;
        if stored {
            published.confirmed(info, now.millis);
        } else if refusal != Some(Refusal::Record) {
            let spare = published.refused(&id, now.millis);
            self.store_at_spare(set, spare, now);
        }
        if already_had && !is_known && is_own_endpoint {
            // The network may hold a higher number than the one that was kept here.
            self.begin_look_up(self.id, Goal::AllRecords(RecordType::ENDPOINT), now);
        }
    }

    fn forget_validation(&mut self, call: &Call) {
        if matches!(call.purpose, Purpose::Validate | Purpose::Register(..)) {
            self.validating = self.validating.saturating_sub(1);
        }
    }
}

//! Requests of other nodes (specification §7), and what is learned from them.

use std::net::SocketAddr;

use super::answer::value_answer;
use super::calls::{Patience, Purpose};
use super::{DropReason, Node, NodeRefusal, Way, fingerprint};
use crate::hash::sha256;
use crate::limits::{
    ANSWER_BODY_BYTES_MAX, CALL_MS, DUPLICATE_ANSWERS_MAX, DUPLICATE_MS, VALIDATIONS_MAX,
};
use crate::message::{Body, Message, NodeInfo, Parsed, PoolEntry, Refusal, TransactionId};
use crate::node_id::NodeId;
use crate::payload::EndpointPayload;
use crate::peers::Standing;
use crate::prefix::Prefix;
use crate::record::{Category, RecordType, SignedRecord};
use crate::routing::Admission;
use crate::socket_address::canonical;
use crate::store::{Origin, Put, PutError};
use crate::time::Now;

/// Milliseconds within which an address that did not answer is not asked again who is there.
const VALIDATION_PAUSE_MS: u64 = 10_000;
/// One question, asked once: nobody can have this node send more than it was sent.
const ONCE: Patience = Patience { attempts: 1, attempt_ms: CALL_MS };

impl Node {
    /// Whether a message is worth verifying: it did not come too often, and somebody waits for it.
    pub(super) fn check_worth(
        &mut self,
        parsed: &Parsed<'_>,
        source: SocketAddr,
        now: Now,
    ) -> Result<(), DropReason> {
        let fingerprint = fingerprint(parsed.signature());
        match self.duplicates.peek(&fingerprint) {
            Some((at, _)) if now.millis.since(*at) > DUPLICATE_MS => {
                self.duplicates.remove(&fingerprint);
            }
            Some((_, times)) if *times >= DUPLICATE_ANSWERS_MAX => {
                return Err(DropReason::Repeated);
            }
            _ => {}
        }
        match &parsed.body {
            Body::Store { .. } if !self.rates.allows_store(source.ip(), now.millis) => {
                Err(DropReason::RateOfStores)
            }
            Body::NatProbeEcho { token } if !self.nat.expects(token) => {
                Err(DropReason::Unsolicited)
            }
            Body::Pong { .. }
            | Body::FindNodeResponse { .. }
            | Body::FindValueResponse { .. }
            | Body::StoreResponse { .. }
            | Body::PushAcknowledgement { .. } => {
                let call = self.calls.get(&parsed.transaction);
                let wanted = call.and_then(super::Call::answer_type);
                let is_wanted = wanted == Some(parsed.body.message_type());
                if is_wanted { Ok(()) } else { Err(DropReason::Unsolicited) }
            }
            Body::Ping { .. }
            | Body::FindNode { .. }
            | Body::FindValue { .. }
            | Body::Store { .. }
            | Body::NatProbeRequest { .. }
            | Body::NatProbeEcho { .. }
            | Body::Push { .. } => Ok(()),
        }
    }

    /// Whether a message is verified, seeing where it is from: always where somebody has proved to be,
    /// and when it is what this node waits for; of strangers as many as are answered of a network,
    /// and only so many of all together. So what a flood of strangers costs does not depend on how many
    /// addresses it comes from, or says it does. An address at which somebody is known has its own rate
    /// alone, until others write in its name: those addresses have a rate together.
    pub(super) fn check_stranger(
        &mut self,
        body: &Body,
        source: SocketAddr,
        way: Way,
        now: Now,
    ) -> Result<(), DropReason> {
        let (is_allowed, reason) = match (way, self.peers.standing(source, now.millis)) {
            (Way::Stream, _) => {
                let is_allowed = self.rates.allows_question_over_stream(now.millis);
                (is_allowed, DropReason::RateOfAllStrangers)
            }
            (Way::Datagram, _) if is_waited_for(body) => return Ok(()),
            (Way::Datagram, Standing::Proved) => return Ok(()),
            (Way::Datagram, Standing::Doubted) => {
                (self.rates.allows_doubted(now.millis), DropReason::RateOfDoubted)
            }
            (Way::Datagram, Standing::Unknown) => {
                if !self.rates.allows_answer_to_stranger(source.ip(), now.millis) {
                    return Err(DropReason::RateOfStrangers);
                }
                (self.rates.allows_stranger(now.millis), DropReason::RateOfAllStrangers)
            }
        };
        if is_allowed { Ok(()) } else { Err(reason) }
    }

    /// Acts on a message that is genuine.
    pub(super) fn take(&mut self, message: Message, source: SocketAddr, now: Now) {
        let (sender, transaction) = (message.sender_id, message.transaction);
        let is_stranger = !self.peers.is_proved(&sender, source, now.millis);
        match message.body {
            Body::NatProbeEcho { token } => {
                self.nat.echoed(token, now.millis);
                return;
            }
            Body::Pong { .. }
            | Body::FindNodeResponse { .. }
            | Body::FindValueResponse { .. }
            | Body::StoreResponse { .. }
            | Body::PushAcknowledgement { .. } => return self.take_answer(message, now),
            Body::Ping { .. }
            | Body::FindNode { .. }
            | Body::FindValue { .. }
            | Body::Store { .. }
            | Body::NatProbeRequest { .. }
            | Body::Push { .. } => {}
        }
        let standing = self.peers.standing(source, now.millis);
        // At an address where nobody is known it was counted before it was verified.
        if is_stranger && standing != Standing::Unknown {
            self.peers.met_impostor(source);
            if !self.rates.allows_answer_to_stranger(source.ip(), now.millis) {
                self.statistics.drop(DropReason::RateOfStrangers);
                return;
            }
        }
        let answer = self.answer(message.body, sender, source, is_stranger, now);
        if let Some(body) = answer {
            self.send(source, transaction, &body);
        }
        let info = NodeInfo::new(message.sender, source);
        if is_stranger || standing == Standing::Doubted {
            self.validate(source, now);
        }
        if !is_stranger {
            self.peers.heard(now.millis);
            self.admit(info, now);
        }
    }

    /// Takes in a node that is proved to be where it says.
    pub(super) fn admit(&mut self, info: NodeInfo, now: Now) {
        if !self.is_usable(info.socket_address()) {
            return self.statistics.refuse_node(NodeRefusal::Unusable);
        }
        self.seen.meet(info.node_id, now.unix);
        let is_bad = |id: &NodeId| self.peers.health(id) == crate::peers::Health::Bad;
        match self.table.admit(info, is_bad, now.millis) {
            Admission::Challenge(oldest) => self.challenge(oldest, now),
            Admission::Crowded => self.statistics.refuse_node(NodeRefusal::Crowded),
            Admission::Known | Admission::Added | Admission::Waiting | Admission::Itself => {}
        }
    }

    /// Asks a node whose place a newcomer wants whether it is still there.
    fn challenge(&mut self, oldest: NodeInfo, now: Now) {
        let body = Body::Ping { address: self.address };
        let patience = Patience { attempts: 2, ..ONCE };
        let expected = Some(oldest.node_id);
        let at = oldest.socket_address();
        if !self.ask(at, expected, body, Purpose::Challenge, patience, now) {
            self.table.challenged(&oldest.node_id, true);
        }
    }

    /// Answers a question that came over a stream, as a hub's proxy brings it (§19.4): PING,
    /// FIND_NODE and FIND_VALUE, which change nothing. A stream proves where it comes from, so the
    /// answer is as long as for a contact, and names the stream's address; that is none at which a
    /// node is, so it becomes no contact and subscribes to nothing.
    ///
    /// # Errors
    /// Why there is no answer; it is counted.
    pub fn answer_over_stream(
        &mut self,
        request: &[u8],
        source: SocketAddr,
        now: Now,
    ) -> Result<Vec<u8>, DropReason> {
        let source = canonical(source);
        self.statistics.received += 1;
        let answered = self.check(request, source, Way::Stream, now).and_then(|message| {
            let body = match message.body {
                Body::FindValue { target, record_type, .. } => {
                    Body::FindValue { target, record_type, subscribe: false }
                }
                body @ (Body::Ping { .. } | Body::FindNode { .. }) => body,
                Body::Pong { .. }
                | Body::FindNodeResponse { .. }
                | Body::FindValueResponse { .. }
                | Body::Store { .. }
                | Body::StoreResponse { .. }
                | Body::NatProbeRequest { .. }
                | Body::NatProbeEcho { .. }
                | Body::Push { .. }
                | Body::PushAcknowledgement { .. } => return Err(DropReason::Unsolicited),
            };
            let answer = self.answer(body, message.sender_id, source, false, now);
            let answer = answer.ok_or(DropReason::Unsolicited)?;
            Ok(crate::message::encode(&*self.signatures.signer, message.transaction, &answer))
        });
        answered.inspect_err(|reason| self.statistics.drop(*reason))
    }

    fn answer(
        &mut self,
        body: Body,
        sender: NodeId,
        source: SocketAddr,
        is_stranger: bool,
        now: Now,
    ) -> Option<Body> {
        match body {
            Body::Ping { .. } => Some(Body::Pong { address: self.address, observed: source }),
            Body::FindNode { target } => {
                let nodes = self.listed(&target, source, is_stranger, now);
                Some(self.nodes_answer(nodes, source))
            }
            Body::FindValue { target, record_type, subscribe } => {
                let nodes = self.listed(&target, source, is_stranger, now);
                let stored = self.store.read(&target, record_type, now);
                if !stored.is_empty() {
                    self.statistics.values_served += 1;
                    if subscribe {
                        self.subscriptions.add(target, source, now.millis);
                    }
                }
                Some(value_answer(&mut self.random, &nodes, stored, source, is_stranger))
            }
            Body::Store { record, key } => self.keep(*record, key, sender, source, now),
            Body::NatProbeRequest { token, claimed } => {
                self.echo(token, claimed, source, now);
                None
            }
            // There is nobody here to read what is pushed; it is acknowledged so that the pusher
            // does not take this node for dead, and not asked for again (D-14).
            Body::Push { key, record } => Some(Body::PushAcknowledgement {
                key,
                message_id: sha256(&[&record.payload]),
                subscribe: false,
            }),
            Body::Pong { .. }
            | Body::FindNodeResponse { .. }
            | Body::FindValueResponse { .. }
            | Body::StoreResponse { .. }
            | Body::NatProbeEcho { .. }
            | Body::PushAcknowledgement { .. } => None,
        }
    }

    fn keep(
        &mut self,
        record: SignedRecord,
        key: Option<NodeId>,
        sender: NodeId,
        source: SocketAddr,
        now: Now,
    ) -> Option<Body> {
        if !self.rates.allows_record(record.public_key, now.millis) {
            self.statistics.drop(DropReason::RateOfStores);
            return None;
        }
        // A key of zeros means no key, and what counts from here on is the key in effect (D-5).
        let place = record.address.node_id();
        let key = key.filter(|key| *key != NodeId::ZERO).unwrap_or(place);
        let (record_type, address) = (record.record_type, record.address);
        let is_sovereign = record_type.category() == Category::Sovereign;
        let is_publisher = is_sovereign && self.is_publisher(&record, sender, source, now);
        let contact = self.publisher_contact(&record, now);
        let is_proved = self.peers.is_proved(&sender, source, now.millis);
        let network = Origin::Network(Prefix::customer(source.ip()));
        let origin = if is_proved { network } else { Origin::Stranger };
        let for_push = self.subscriptions.has(&key).then(|| record.clone());
        let put = self.store.put(key, record, origin, &mut *self.signatures.verifier, now);
        self.statistics.count_store(put);
        if let (Ok(Put::Stored { .. }), Some(record)) = (put, for_push) {
            self.push(key, &record, now);
        }
        if is_publisher && put.is_ok() {
            self.store.confirm(&key, record_type);
        } else if is_sovereign && put == Ok(Put::Stored { was_absent: true }) {
            self.store.doubt(&key, record_type, now.millis);
            self.register(key, record_type, contact, now);
        }
        let is_refused = matches!(put, Err(PutError::Record(_)));
        let tells_pool = self.config.sends_pool && is_publisher && !is_refused;
        let pool = if tells_pool {
            fitting_pool(self.store.waiting_mail(&address.node_id(), now))
        } else {
            Vec::new()
        };
        Some(Body::StoreResponse {
            stored: put.is_ok(),
            already_had: put == Ok(Put::Stale),
            refusal: put.err().map(|why| match why {
                PutError::Record(_) => Refusal::Record,
                PutError::TooLong | PutError::TooMany => Refusal::Policy,
            }),
            pool,
        })
    }

    /// Whether a sender publishes for a record's address: it has that address, or the record, or the
    /// endpoint record that is kept for the address, names the IP address it sends from. A daemon
    /// publishes for agents that are no nodes (D-6, v0.3 rule of §7.4).
    fn is_publisher(
        &self,
        record: &SignedRecord,
        sender: NodeId,
        source: SocketAddr,
        now: Now,
    ) -> bool {
        let place = record.address.node_id();
        let names_source = |record: &SignedRecord| {
            let endpoints = EndpointPayload::decode(&record.payload);
            endpoints.is_ok_and(|endpoints| {
                let mut addresses = endpoints.addresses();
                addresses.any(|address| address.ip() == source.ip().to_canonical())
            })
        };
        sender == place
            || record.record_type == RecordType::ENDPOINT && names_source(record)
            || self.store.peek(&place, RecordType::ENDPOINT, now).is_some_and(names_source)
    }

    /// Where the publisher of a record says it is.
    fn publisher_contact(&self, record: &SignedRecord, now: Now) -> Option<SocketAddr> {
        let of = |record: &SignedRecord| {
            let endpoints = EndpointPayload::decode(&record.payload).ok()?;
            endpoints.addresses().find(|at| self.is_usable(*at))
        };
        let own = (record.record_type == RecordType::ENDPOINT).then(|| of(record)).flatten();
        let place = record.address.node_id();
        own.or_else(|| self.store.peek(&place, RecordType::ENDPOINT, now).and_then(of))
    }

    /// Lets a publisher know of this node, so that its next renewal comes here (§7.4).
    fn register(
        &mut self,
        key: NodeId,
        record_type: RecordType,
        contact: Option<SocketAddr>,
        now: Now,
    ) {
        if let Some(at) = contact
            && self.validating < VALIDATIONS_MAX
            && self.rates.allows_validation(at.ip(), now.millis)
        {
            let body = Body::FindNode { target: key };
            let purpose = Purpose::Register(key, record_type);
            self.validating += usize::from(self.ask(at, None, body, purpose, ONCE, now));
        }
    }

    fn push(&mut self, key: NodeId, record: &SignedRecord, now: Now) {
        for to in self.subscriptions.consume(&key, now.millis) {
            let body = Body::Push { key, record: Box::new(record.clone()) };
            self.statistics.pushes += 1;
            self.ask(to, None, body, Purpose::Push(key), ONCE, now);
        }
    }

    fn echo(&mut self, token: [u8; 8], claimed: SocketAddr, source: SocketAddr, now: Now) {
        if self.nat.may_echo(claimed, source, now.millis) {
            let transaction = TransactionId(self.random.bytes());
            self.send(claimed, transaction, &Body::NatProbeEcho { token });
        } else {
            self.statistics.drop(DropReason::Probe);
        }
    }

    /// Asks who is at an address from which a stranger wrote. Only the answer makes it a contact: a
    /// source may be forged and a message may be another's, sent again (T2, §8.8).
    fn validate(&mut self, source: SocketAddr, now: Now) {
        let asked = self.validated.peek(&source);
        let is_recent = asked.is_some_and(|at| now.millis.since(*at) < VALIDATION_PAUSE_MS);
        if is_recent
            || self.validating >= VALIDATIONS_MAX
            || !self.is_usable(source)
            || !self.rates.allows_validation(source.ip(), now.millis)
        {
            return;
        }
        self.validated.insert(source, now.millis);
        let body = Body::Ping { address: self.address };
        let is_asked = self.ask(source, None, body, Purpose::Validate, ONCE, now);
        self.validating += usize::from(is_asked);
    }
}

/// Whether a message of this kind is looked at only when this node waits for it; whoever sends it has
/// seen what this node sent.
fn is_waited_for(body: &Body) -> bool {
    match body {
        Body::Pong { .. }
        | Body::FindNodeResponse { .. }
        | Body::FindValueResponse { .. }
        | Body::StoreResponse { .. }
        | Body::NatProbeEcho { .. }
        | Body::PushAcknowledgement { .. } => true,
        Body::Ping { .. }
        | Body::FindNode { .. }
        | Body::FindValue { .. }
        | Body::Store { .. }
        | Body::NatProbeRequest { .. }
        | Body::Push { .. } => false,
    }
}

/// Leaves out the last ids, and then whole types, until an answer's body has room (§21.3).
fn fitting_pool(mut pool: Vec<PoolEntry>) -> Vec<PoolEntry> {
    let body = |pool: &[PoolEntry]| {
        let answer = Body::StoreResponse {
            stored: true,
            already_had: true,
            refusal: None,
            pool: pool.to_vec(),
        };
        answer.encode().len()
    };
    while body(&pool) > ANSWER_BODY_BYTES_MAX {
        match pool.last_mut() {
            Some(last) if !last.ids.is_empty() => {
                last.ids.pop();
            }
            _ => {
                pool.pop();
            }
        }
    }
    pool
}

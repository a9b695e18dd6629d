//! A node, and peers whose datagrams a test writes.

use std::net::SocketAddr;

use waystation_a2al::keys::SigningKey;
use waystation_a2al::message::{self, Body, Message, Parsed, TransactionId};
use waystation_a2al::node::{Node, NodeConfig};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::record::{RecordType, SignedRecord, Unsigned};
use waystation_a2al::time::{Millis, Now, UnixSeconds};

pub(crate) const START_UNIX_S: u64 = 1_800_000_000;

/// A key at an address.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: SigningKey,
    pub(crate) at: SocketAddr,
}

/// The node under test, and its clock.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) node: Node,
    pub(crate) now: Now,
    transactions: u64,
}

impl Peer {
    pub(crate) fn new(number: u16) -> Self {
        let mut seed = [0xee; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        let [high, low] = number.to_be_bytes();
        let at = SocketAddr::from(([30 + high, low, 0, 1], 4121));
        Self { key: SigningKey::from_seed(&seed).unwrap(), at }
    }

    /// The same key elsewhere.
    pub(crate) fn moved(&self, at: SocketAddr) -> Self {
        let number = (0..u16::MAX).find(|number| Self::new(*number).id() == self.id()).unwrap();
        Self { at, ..Self::new(number) }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.key.address().node_id()
    }

    pub(crate) fn ping(&self) -> Body {
        Body::Ping { address: self.key.address() }
    }

    pub(crate) fn record(&self, record_type: u8, payload: &[u8], sequence: u64) -> SignedRecord {
        Unsigned {
            address: self.key.address(),
            record_type: RecordType(record_type),
            payload: payload.to_vec(),
            sequence,
            timestamp: START_UNIX_S,
            ttl_s: 3600,
            delegation: Vec::new(),
        }
        .sign(&self.key)
    }
}

impl Stage {
    pub(crate) fn new(config: NodeConfig) -> Self {
        let key = SigningKey::from_seed(&[0xaa; 32]).unwrap();
        let now = Now { millis: Millis(1_000), unix: UnixSeconds(START_UNIX_S) };
        Self { node: Node::new(key, config, [1; 32], 0, now), now, transactions: 0 }
    }

    pub(crate) fn pass(&mut self, milliseconds: u64) {
        let end = self.now.millis.plus(milliseconds);
        while self.node.next_tick() <= end {
            let next = self.node.next_tick().max(self.now.millis);
            self.set(next);
            self.node.tick(self.now);
            if self.node.next_tick() <= self.now.millis {
                self.set(self.now.millis.plus(1));
            }
        }
        self.set(end);
    }

    fn set(&mut self, millis: Millis) {
        let passed = millis.since(Millis(1_000));
        self.now = Now { millis, unix: UnixSeconds(START_UNIX_S + passed / 1000) };
    }

    pub(crate) fn receive(&mut self, datagram: &[u8], from: SocketAddr) {
        self.node.receive(datagram, from, self.now);
    }

    /// Everything that the node wants sent now.
    pub(crate) fn sent(&mut self) -> Vec<(SocketAddr, Message)> {
        let datagrams = std::iter::from_fn(|| self.node.take_datagram());
        datagrams
            .map(|datagram| {
                assert!(datagram.bytes.len() <= 1200);
                let parsed = Parsed::parse(&datagram.bytes).unwrap();
                assert_eq!(parsed.unknown_keys, 0);
                (datagram.to, parsed.verify().unwrap())
            })
            .collect()
    }

    pub(crate) fn send(&mut self, peer: &Peer, body: &Body) -> TransactionId {
        self.transactions += 1;
        let mut transaction = TransactionId([0x77; 20]);
        transaction.0[..8].copy_from_slice(&self.transactions.to_be_bytes());
        let packet = message::encode(&peer.key, transaction, body);
        self.receive(&packet, peer.at);
        transaction
    }

    pub(crate) fn reply(&mut self, peer: &Peer, to: &Message, body: &Body) {
        let packet = message::encode(&peer.key, to.transaction, body);
        self.receive(&packet, peer.at);
    }

    /// Sends a request, and gives back its answer and everything else that was sent.
    pub(crate) fn ask(
        &mut self,
        peer: &Peer,
        body: &Body,
    ) -> (Option<Body>, Vec<(SocketAddr, Message)>) {
        let transaction = self.send(peer, body);
        let mut answer = None;
        let mut others = Vec::new();
        for (to, message) in self.sent() {
            if message.transaction == transaction {
                assert_eq!(to, peer.at);
                answer = Some(message.body);
            } else {
                others.push((to, message));
            }
        }
        (answer, others)
    }

    /// Makes a peer known: it asks, and answers the question that follows.
    pub(crate) fn meet(&mut self, peer: &Peer) {
        let (answer, others) = self.ask(peer, &peer.ping());
        assert!(matches!(answer, Some(Body::Pong { observed, .. }) if observed == peer.at));
        self.answer_pings(peer, &others);
    }

    /// Answers pings to a peer.
    pub(crate) fn answer_pings(&mut self, peer: &Peer, sent: &[(SocketAddr, Message)]) {
        for (to, message) in sent {
            if *to == peer.at && matches!(message.body, Body::Ping { .. }) {
                let observed = SocketAddr::from(([198, 51, 100, 1], 4121));
                self.reply(peer, message, &Body::Pong { address: peer.key.address(), observed });
            }
        }
    }

    pub(crate) fn store(
        &mut self,
        peer: &Peer,
        record: &SignedRecord,
        key: Option<NodeId>,
    ) -> Body {
        let record = Box::new(record.clone());
        self.ask(peer, &Body::Store { record, key }).0.unwrap()
    }

    pub(crate) fn read(&mut self, peer: &Peer, key: NodeId) -> Vec<SignedRecord> {
        let body = Body::FindValue { target: key, record_type: RecordType::ANY, subscribe: false };
        match self.ask(peer, &body).0.unwrap() {
            Body::FindValueResponse { records, .. } => records,
            other => panic!("not an answer: {other:?}"),
        }
    }
}

pub(crate) const STORED: Body =
    Body::StoreResponse { stored: true, already_had: false, refusal: None, pool: Vec::new() };

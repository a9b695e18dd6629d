//! One who does everything to hide what is published: sends look-ups astray, says that it keeps what
//! it does not, passes on forged records, and floods others with records of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use waystation_a2al::address::Address;
use waystation_a2al::keys::Signer;
use waystation_a2al::message::{self, Body, NodeInfo, Parsed, TransactionId};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::payload::{EndpointPayload, TopicPayload};
use waystation_a2al::random::RandomSource;
use waystation_a2al::record::{RecordType, SignedRecord, Unsigned, topic_key};
use waystation_a2al::time::{Millis, Now};

use super::{Scheme, address};

/// Milliseconds between two floods of one liar.
const FLOOD_PERIOD_MS: u64 = 60_000;
/// STOREs of one flood, all to one node.
const FLOOD_STORES: usize = 40;
/// Seconds to live of what a flood brings.
const FLOOD_TTL_S: u32 = 1_200;
/// Fellows that an answer names, and nodes that do not exist beside them.
const FELLOWS_NAMED: usize = 7;
/// With them, an answer is as long as it may be.
const INVENTED_NAMED: usize = 8;
/// What a record in an answer takes the place of.
const NODES_PER_RECORD: usize = 5;
/// Records of others of which it makes forgeries.
const FORGED_MAX: usize = 64;

/// See the module.
pub(crate) struct Liar {
    scheme: Scheme,
    signer: Box<dyn Signer>,
    random: RandomSource,
    forged: BTreeMap<NodeId, SignedRecord>,
    flood_at: Millis,
}

impl Liar {
    pub(crate) fn new(scheme: Scheme, seed: [u8; 32], now: Millis) -> Self {
        let mut random = RandomSource::new(seed);
        let signer = scheme.signer(random.bytes());
        let flood_at = now.plus(random.below(60_000) as u64);
        Self { scheme, signer, random, forged: BTreeMap::new(), flood_at }
    }

    pub(crate) fn address(&self) -> Address {
        self.signer.address()
    }

    pub(crate) fn wakes_at(&self) -> Millis {
        self.flood_at
    }

    /// Answers as a liar does: rightly where that makes it believed.
    pub(crate) fn answer(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        fellows: &[NodeInfo],
    ) -> Option<Vec<u8>> {
        let request = Parsed::parse(datagram).ok()?;
        let answer = match request.body {
            Body::Ping { .. } => Body::Pong { address: self.address(), observed: from },
            Body::FindNode { target } => {
                let nodes = Some(self.lies(&target, fellows));
                Body::FindNodeResponse { nodes, observed: from }
            }
            Body::FindValue { target, .. } => {
                let mut nodes = self.lies(&target, fellows);
                let records: Vec<SignedRecord> =
                    self.forged.get(&target).cloned().into_iter().collect();
                nodes.truncate(nodes.len() - records.len() * NODES_PER_RECORD);
                let nodes = Some(nodes);
                Body::FindValueResponse { nodes, record: None, observed: from, records }
            }
            Body::Store { record, key } => {
                self.forge(*record, key);
                Body::StoreResponse {
                    stored: true,
                    already_had: false,
                    refusal: None,
                    pool: Vec::new(),
                }
            }
            _ => return None,
        };
        Some(message::encode(&*self.signer, request.transaction, &answer))
    }

    /// STOREs for one victim: records of identities that nobody has heard of, under topics of their
    /// own, and endpoints that name nodes which are not there.
    pub(crate) fn flood(&mut self, now: Now) -> Vec<Vec<u8>> {
        self.flood_at = now.millis.plus(FLOOD_PERIOD_MS);
        (0..FLOOD_STORES).map(|number| self.junk(number % 2 == 0, now)).collect()
    }

    fn junk(&mut self, is_topic: bool, now: Now) -> Vec<u8> {
        let identity = self.scheme.signer(self.random.bytes());
        let nowhere = self.invented();
        let (key, record_type, payload) = if is_topic {
            let topic = format!("junk {:016x}", u64::from_be_bytes(self.random.bytes()));
            let key = topic_key(&topic);
            (
                key,
                RecordType::TOPIC,
                TopicPayload { version: 1, topic, ..TopicPayload::default() }.encode(),
            )
        } else {
            let endpoints = Some(vec![format!("quic://{}", nowhere.socket_address())]);
            let payload = EndpointPayload { endpoints, ..EndpointPayload::default() };
            (identity.address().node_id(), RecordType::ENDPOINT, payload.encode())
        };
        let record = Unsigned {
            address: identity.address(),
            record_type,
            payload,
            sequence: now.unix.0,
            timestamp: now.unix.0,
            ttl_s: FLOOD_TTL_S,
            delegation: Vec::new(),
        };
        let body = Body::Store { record: Box::new(record.sign(&*identity)), key: Some(key) };
        message::encode(&*self.signer, TransactionId(self.random.bytes()), &body)
    }

    /// Fellows near the target, and nodes that do not exist.
    fn lies(&mut self, target: &NodeId, fellows: &[NodeInfo]) -> Vec<NodeInfo> {
        let mut named = fellows.to_vec();
        named.sort_unstable_by_key(|fellow| fellow.node_id.distance(target));
        named.truncate(FELLOWS_NAMED);
        named.extend((0..INVENTED_NAMED).map(|_| self.invented()));
        named
    }

    fn invented(&mut self) -> NodeInfo {
        let hash = self.random.bytes();
        let at = address(500_000 + self.random.below(100_000));
        NodeInfo::new(Address::with_hash(Address::NATIVE, &hash), at)
    }

    /// Remembers a record that it was to keep, as one that is newer and says something else.
    fn forge(&mut self, mut record: SignedRecord, key: Option<NodeId>) {
        let key = key.unwrap_or(record.address.node_id());
        record.sequence += 1;
        record.payload = EndpointPayload::default().encode();
        if self.forged.len() < FORGED_MAX || self.forged.contains_key(&key) {
            self.forged.insert(key, record);
        }
    }
}

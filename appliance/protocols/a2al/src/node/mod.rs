//! One node of the network, sans-IO.
//!
//! Owns its table, its store, its look-ups and what it publishes. Whoever owns its socket gives it
//! datagrams and time, sends what it wants sent, and takes what it has to tell. Nothing here blocks,
//! and a question that waits for an answer holds up nothing else (D-1, D-10).

mod answer;
mod calls;
mod lookups;
mod own;
mod replies;
mod requests;
mod statistics;
mod upkeep;

pub use answer::fit;
pub use statistics::{DropReason, NodeRefusal, RefusalReason, Statistics};

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;

use crate::address::Address;
use crate::keys::{Signature, Signatures};
use crate::limits::{
    BOOTSTRAP_ADDRESSES_MAX, DUPLICATE_MS, DUPLICATES_MAX, EVENTS_MAX, OUTBOX_MAX, PEERS_MAX,
    STORE_BYTES_DEFAULT, STORE_KEYS_DEFAULT, UPKEEP_MS,
};
use crate::message::{DatagramKind, Message, MessageError, Parsed, TransactionId, classify};
use crate::nat::NatSense;
use crate::network_size::{NetworkSize, estimate};
use crate::node_id::NodeId;
use crate::peers::PeerBook;
use crate::query::{Found, Query, QueryId};
use crate::random::RandomSource;
use crate::rate::{RateLimits, Rates};
use crate::recent::RecentMap;
use crate::record::RecordType;
use crate::replication::{Published, PublishedName};
use crate::routing::RoutingTable;
use crate::seen::SeenNodes;
use crate::socket_address::{canonical, is_public};
use crate::store::{Store, StoreLimits, Subscriptions};
use crate::time::{Millis, Now};
use calls::Call;

/// What an operator decides about a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Addresses at which the network is found.
    pub bootstrap: Vec<SocketAddr>,
    /// Whether few nodes of one network are taken in. Off where all nodes are in one network.
    pub is_diverse: bool,
    /// Whether nodes at addresses that are not public are taken in.
    pub allows_private: bool,
    /// Whether STORE_RESP tells of waiting mail. Publishers before v0.3 drop such answers (§21.3).
    pub sends_pool: bool,
    /// Whether the table is left to what comes in, as for beacons (§13.8).
    pub is_passive: bool,
    /// How much of what is taken from one sender.
    pub rates: Rates,
    /// What the store may hold.
    pub store: StoreLimits,
    /// Addresses of the own endpoint record, in order of preference. None publishes no record.
    pub endpoints: Vec<SocketAddr>,
    /// Hubs of the own endpoint record.
    pub hubs: Vec<String>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            is_diverse: true,
            allows_private: false,
            sends_pool: false,
            is_passive: false,
            rates: Rates::MEMBER,
            store: StoreLimits { keys_max: STORE_KEYS_DEFAULT, bytes_max: STORE_BYTES_DEFAULT },
            endpoints: Vec::new(),
            hubs: Vec::new(),
        }
    }
}

/// A datagram to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub bytes: Vec<u8>,
}

/// How a message came. A stream proves where it comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Datagram,
    Stream,
}

/// What a node has to tell.
#[derive(Clone, Debug)]
pub enum Event {
    /// A bootstrap address answered for the first time, or again after the network was lost.
    Joined {
        /// Who is there.
        node: NodeId,
        /// The address.
        at: SocketAddr,
    },
    /// A look-up has ended.
    Found {
        /// Which one.
        query: QueryId,
        /// What it brought.
        found: Box<Found>,
    },
}

/// A node.
#[derive(Debug)]
pub struct Node {
    signatures: Signatures,
    address: Address,
    id: NodeId,
    config: NodeConfig,
    random: RandomSource,
    table: RoutingTable,
    peers: PeerBook,
    store: Store,
    subscriptions: Subscriptions,
    rates: RateLimits,
    nat: NatSense,
    seen: SeenNodes,
    calls: HashMap<TransactionId, Call>,
    deadlines: BTreeSet<(Millis, TransactionId)>,
    /// Addresses that were asked lately who is there, because a stranger wrote from them.
    validated: RecentMap<SocketAddr, Millis>,
    validating: usize,
    duplicates: RecentMap<[u8; 32], (Millis, u8)>,
    /// When what came before that long is not looked for any more.
    duplicates_age_at: Millis,
    queries: BTreeMap<QueryId, Query>,
    /// Look-ups that serve what is published.
    replications: BTreeMap<QueryId, PublishedName>,
    next_query: u64,
    published: BTreeMap<PublishedName, Published>,
    stores: VecDeque<upkeep::DueStore>,
    next_store_at: Millis,
    sequence: u64,
    /// What it publishes in its own name besides its endpoint record.
    own: BTreeMap<(NodeId, RecordType), own::OwnPayload>,
    endpoint_due_at: Option<Millis>,
    upkeep_at: Millis,
    bootstrap_at: Millis,
    nat_probe_at: Millis,
    outbox: VecDeque<Outgoing>,
    events: VecDeque<Event>,
    statistics: Statistics,
}

impl Node {
    /// A node that knows nobody yet. The seed makes its random values; the sequence number is the
    /// last one that its endpoint record had, 0 if that is not known. A
    /// [`SigningKey`](crate::keys::SigningKey) makes Ed25519 signatures.
    pub fn new(
        signatures: impl Into<Signatures>,
        mut config: NodeConfig,
        seed: [u8; 32],
        sequence: u64,
        now: Now,
    ) -> Self {
        let signatures = signatures.into();
        let address = signatures.signer.address();
        let id = address.node_id();
        config.bootstrap.truncate(BOOTSTRAP_ADDRESSES_MAX);
        Self {
            address,
            id,
            random: RandomSource::new(seed),
            table: RoutingTable::new(id, config.is_diverse),
            peers: PeerBook::default(),
            store: Store::new(config.store),
            subscriptions: Subscriptions::default(),
            rates: RateLimits::new(config.rates),
            nat: NatSense::default(),
            seen: SeenNodes::default(),
            calls: HashMap::new(),
            deadlines: BTreeSet::new(),
            validated: RecentMap::new(PEERS_MAX),
            validating: 0,
            duplicates: RecentMap::new(DUPLICATES_MAX),
            duplicates_age_at: now.millis.plus(DUPLICATE_MS),
            queries: BTreeMap::new(),
            replications: BTreeMap::new(),
            next_query: 0,
            published: BTreeMap::new(),
            stores: VecDeque::new(),
            next_store_at: now.millis,
            sequence,
            own: BTreeMap::new(),
            endpoint_due_at: (!config.endpoints.is_empty()).then_some(now.millis),
            upkeep_at: now.millis.plus(UPKEEP_MS),
            bootstrap_at: now.millis,
            nat_probe_at: now.millis.plus(UPKEEP_MS),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            statistics: Statistics::default(),
            signatures,
            config,
        }
    }

    /// Its place.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// What its operator has decided about it, as it is now.
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// The last sequence number of its endpoint record, to be kept for the next start.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its table.
    pub fn table(&self) -> &RoutingTable {
        &self.table
    }

    /// What it keeps for others.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What it knows of other nodes.
    pub fn peers(&self) -> &PeerBook {
        &self.peers
    }

    /// What it knows of its own address.
    pub fn nat(&self) -> &NatSense {
        &self.nat
    }

    /// When it met whom.
    pub fn seen(&self) -> &SeenNodes {
        &self.seen
    }

    /// The same, to load what was known before a restart.
    pub fn seen_mut(&mut self) -> &mut SeenNodes {
        &mut self.seen
    }

    /// Counters.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Records that it publishes, by key and publisher.
    pub fn published(&self) -> impl Iterator<Item = &Published> {
        self.published.values()
    }

    /// How many nodes there may be.
    pub fn network_size(&self) -> NetworkSize {
        estimate(&self.table.verified_since(Millis(0)))
    }

    /// Takes in a datagram.
    pub fn receive(&mut self, datagram: &[u8], source: SocketAddr, now: Now) {
        let source = canonical(source);
        self.statistics.received += 1;
        match self.check(datagram, source, Way::Datagram, now) {
            Ok(message) => self.take(message, source, now),
            Err(reason) => self.statistics.drop(reason),
        }
    }

    /// A datagram to send, if there is one.
    pub fn take_datagram(&mut self) -> Option<Outgoing> {
        self.outbox.pop_front()
    }

    /// Something to tell, if there is something.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Node::tick`] has something to do at the latest.
    pub fn next_tick(&self) -> Millis {
        let mut next = self.upkeep_at;
        if let Some((deadline, _)) = self.deadlines.first() {
            next = next.min(*deadline);
        }
        if !self.stores.is_empty() {
            next = next.min(self.next_store_at);
        }
        if let Some(due_at) = self.endpoint_due_at {
            next = next.min(due_at);
        }
        next = self.own_due_at().map_or(next, |due_at| next.min(due_at));
        let queries = self.queries.values().map(Query::deadline).min();
        next.min(queries.unwrap_or(next)).min(self.bootstrap_tick(next))
    }

    /// What has to hold before a message is worth anything, in the order of what it costs (§17.5).
    fn check(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        way: Way,
        now: Now,
    ) -> Result<Message, DropReason> {
        if datagram.len() > crate::limits::DATAGRAM_BYTES_MAX {
            return Err(DropReason::Oversized);
        }
        if classify(datagram) != DatagramKind::Message {
            return Err(DropReason::OtherProtocol);
        }
        if !self.rates.allows_packet(source.ip(), now.millis) {
            return Err(DropReason::RateOfAddress);
        }
        let parsed = Parsed::parse(datagram).map_err(|why| match why {
            MessageError::UnknownType => DropReason::UnknownType,
            MessageError::Malformed(_) | MessageError::ForeignAddress | MessageError::Signature => {
                DropReason::Malformed
            }
        })?;
        self.check_worth(&parsed, source, now)?;
        self.check_stranger(&parsed.body, source, way, now)?;
        let fingerprint = fingerprint(parsed.signature());
        let unknown_keys = u64::from(parsed.unknown_keys);
        let verifier = &mut *self.signatures.verifier;
        let message = parsed.verify_by(verifier).map_err(|why| {
            self.peers.met_impostor(source);
            match why {
                MessageError::ForeignAddress => DropReason::ForeignAddress,
                MessageError::Signature
                | MessageError::Malformed(_)
                | MessageError::UnknownType => DropReason::Signature,
            }
        })?;
        if message.sender_id == self.id {
            return Err(DropReason::Itself);
        }
        let seen = self.duplicates.entry(fingerprint, || (now.millis, 0));
        seen.1 = seen.1.saturating_add(1);
        self.statistics.verified += 1;
        self.statistics.unknown_keys += unknown_keys;
        Ok(message)
    }

    fn queue(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        if self.outbox.len() >= OUTBOX_MAX {
            self.statistics.drop(DropReason::OutboxFull);
            return;
        }
        self.statistics.sent += 1;
        self.outbox.push_back(Outgoing { to, bytes });
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Says whether a node may be at an address at all (§8.8).
    fn is_usable(&self, at: SocketAddr) -> bool {
        let ip = at.ip().to_canonical();
        let is_host = !ip.is_unspecified() && !ip.is_multicast();
        at.port() != 0 && is_host && (self.config.allows_private || is_public(ip))
    }
}

/// What tells one signed message from another. Two that differ have different signatures.
fn fingerprint(signature: &Signature) -> [u8; 32] {
    *signature.0.first_chunk().unwrap_or(&[0; 32])
}

//! Many nodes in one thread, virtual time, a network that loses and delays.
//!
//! Everything follows from one seed: a run can be repeated, and its fingerprint tells whether two runs
//! were the same.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;

use waystation_a2al::keys::SigningKey;
use waystation_a2al::message::{self, Body, NodeInfo, Parsed};
use waystation_a2al::node::{Event, Node, NodeConfig};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::query::{Found, QueryId};
use waystation_a2al::random::RandomSource;
use waystation_a2al::sha256;
use waystation_a2al::time::{Millis, Now, UnixSeconds};

/// Wall-clock time at the start of every world.
pub(crate) const START_UNIX_S: u64 = 1_800_000_000;

/// Who runs at an address.
pub(crate) enum Inhabitant {
    /// A node as it should be.
    Honest(Box<Node>),
    /// A node that answers every FIND_NODE with nodes that do not exist.
    Liar(Box<SigningKey>),
}

/// What a network does to datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Of a thousand datagrams, so many are lost.
    pub(crate) lost_of_thousand: usize,
    /// Whether addresses with an even and an odd number cannot reach each other.
    pub(crate) is_split: bool,
}

type Delivery = Reverse<(Millis, u64)>;

/// The network and everybody in it.
pub(crate) struct World {
    pub(crate) now: Millis,
    pub(crate) weather: Weather,
    pub(crate) random: RandomSource,
    pub(crate) inhabitants: BTreeMap<usize, Inhabitant>,
    deliveries: BinaryHeap<Delivery>,
    datagrams: BTreeMap<u64, (SocketAddr, SocketAddr, Vec<u8>)>,
    ticks: BinaryHeap<Reverse<(Millis, usize)>>,
    sent: u64,
    fingerprint: [u8; 32],
    pub(crate) found: BTreeMap<(usize, QueryId), Found>,
    next_number: usize,
}

impl World {
    pub(crate) fn new(seed: u8) -> Self {
        Self {
            now: Millis(0),
            weather: Weather::default(),
            random: RandomSource::new([seed; 32]),
            inhabitants: BTreeMap::new(),
            deliveries: BinaryHeap::new(),
            datagrams: BTreeMap::new(),
            ticks: BinaryHeap::new(),
            sent: 0,
            fingerprint: [0; 32],
            found: BTreeMap::new(),
            next_number: 0,
        }
    }

    pub(crate) fn clock(&self) -> Now {
        Now { millis: self.now, unix: UnixSeconds(START_UNIX_S + self.now.0 / 1000) }
    }

    /// What tells this run from others.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Adds a node that knows the addresses of some others.
    pub(crate) fn add(&mut self, bootstrap: &[usize]) -> usize {
        let config = NodeConfig {
            bootstrap: bootstrap.iter().map(|number| address(*number)).collect(),
            endpoints: vec![address(self.next_number)],
            ..NodeConfig::default()
        };
        self.add_with(config)
    }

    pub(crate) fn add_with(&mut self, config: NodeConfig) -> usize {
        let number = self.claim_number();
        let key = SigningKey::from_seed(&self.random.bytes()).unwrap();
        let node = Node::new(key, config, self.random.bytes(), 0, self.clock());
        self.inhabitants.insert(number, Inhabitant::Honest(Box::new(node)));
        self.ticks.push(Reverse((self.now, number)));
        number
    }

    /// Adds one who lies.
    pub(crate) fn add_liar(&mut self) -> usize {
        let number = self.claim_number();
        let key = SigningKey::from_seed(&self.random.bytes()).unwrap();
        self.inhabitants.insert(number, Inhabitant::Liar(Box::new(key)));
        number
    }

    pub(crate) fn node(&self, number: usize) -> &Node {
        match &self.inhabitants[&number] {
            Inhabitant::Honest(node) => node,
            Inhabitant::Liar(_) => panic!("{number} is a liar"),
        }
    }

    /// Numbers of the honest nodes.
    pub(crate) fn honest(&self) -> Vec<usize> {
        let honest =
            self.inhabitants.iter().filter(|(_, who)| matches!(who, Inhabitant::Honest(_)));
        honest.map(|(number, _)| *number).collect()
    }

    /// Lets a node do something, and sends what it then wants sent.
    pub(crate) fn with<T>(&mut self, number: usize, act: impl FnOnce(&mut Node, Now) -> T) -> T {
        let now = self.clock();
        let Some(Inhabitant::Honest(node)) = self.inhabitants.get_mut(&number) else {
            panic!("{number} is no node");
        };
        let result = act(node, now);
        self.collect(number);
        result
    }

    /// Puts a datagram on the way.
    pub(crate) fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.sent += 1;
        self.fingerprint = sha256(&[&self.fingerprint, &sha256(&[&bytes])]);
        let is_cut = self.weather.is_split && number_of(from) % 2 != number_of(to) % 2;
        if is_cut || self.random.below(1000) < self.weather.lost_of_thousand {
            return;
        }
        let delay = 5 + self.random.below(60) as u64;
        self.deliveries.push(Reverse((self.now.plus(delay), self.sent)));
        self.datagrams.insert(self.sent, (from, to, bytes));
    }

    /// Lets so many milliseconds pass.
    pub(crate) fn run(&mut self, milliseconds: u64) {
        let end = self.now.plus(milliseconds);
        loop {
            let delivery = self.deliveries.peek().map(|Reverse((at, _))| *at);
            let tick = self.ticks.peek().map(|Reverse((at, _))| *at);
            let Some(next) = [delivery, tick].into_iter().flatten().min() else {
                break;
            };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if delivery == Some(next) {
                self.deliver();
            } else {
                self.tick();
            }
        }
        self.now = end;
    }

    fn deliver(&mut self) {
        let Some(Reverse((_, name))) = self.deliveries.pop() else {
            return;
        };
        let (from, to, bytes) = self.datagrams.remove(&name).unwrap();
        let (number, now) = (number_of(to), self.clock());
        match self.inhabitants.get_mut(&number) {
            Some(Inhabitant::Honest(node)) => {
                node.receive(&bytes, from, now);
                self.collect(number);
            }
            Some(Inhabitant::Liar(_)) => self.lie(number, from, &bytes),
            None => {}
        }
    }

    fn tick(&mut self) {
        let Some(Reverse((_, number))) = self.ticks.pop() else {
            return;
        };
        let now = self.clock();
        if let Some(Inhabitant::Honest(node)) = self.inhabitants.get_mut(&number) {
            if node.next_tick() <= now.millis {
                node.tick(now);
            }
            self.collect(number);
        }
    }

    fn collect(&mut self, number: usize) {
        let mut outgoing = Vec::new();
        let Some(Inhabitant::Honest(node)) = self.inhabitants.get_mut(&number) else {
            return;
        };
        while let Some(datagram) = node.take_datagram() {
            outgoing.push(datagram);
        }
        while let Some(event) = node.take_event() {
            if let Event::Found { query, found } = event {
                self.found.insert((number, query), *found);
            }
        }
        // Never in the same moment again, or a node that has nothing to do would spin.
        let next = node.next_tick().max(self.now.plus(1));
        self.ticks.push(Reverse((next, number)));
        for datagram in outgoing {
            self.send(address(number), datagram.to, datagram.bytes);
        }
    }

    /// Answers as a liar does: everything else rightly, so that it is believed.
    fn lie(&mut self, number: usize, from: SocketAddr, bytes: &[u8]) {
        let Ok(message) = Parsed::parse(bytes).and_then(Parsed::verify) else {
            return;
        };
        let invented: Vec<NodeInfo> = (0..15)
            .map(|_| {
                let key = SigningKey::from_seed(&self.random.bytes()).unwrap();
                NodeInfo::new(key.address(), address(500_000 + self.random.below(100_000)))
            })
            .collect();
        let Some(Inhabitant::Liar(key)) = self.inhabitants.get(&number) else {
            return;
        };
        let nodes = Some(invented);
        let answer = match message.body {
            Body::Ping { .. } => Body::Pong { address: key.address(), observed: from },
            Body::FindNode { .. } => Body::FindNodeResponse { nodes, observed: from },
            Body::FindValue { .. } => {
                Body::FindValueResponse { nodes, record: None, observed: from, records: Vec::new() }
            }
            Body::Store { .. } => Body::StoreResponse {
                stored: true,
                already_had: false,
                refusal: None,
                pool: Vec::new(),
            },
            _ => return,
        };
        let packet = message::encode(key, message.transaction, &answer);
        self.send(address(number), from, packet);
    }

    fn claim_number(&mut self) -> usize {
        self.next_number += 1;
        self.next_number - 1
    }
}

/// Every number has a network of its own.
pub(crate) fn address(number: usize) -> SocketAddr {
    let number = u32::try_from(number).unwrap();
    let [_, high, middle, low] = number.to_be_bytes();
    SocketAddr::from(([20 + high, middle, low, 1], 4121))
}

fn number_of(address: SocketAddr) -> usize {
    let SocketAddr::V4(address) = address else { panic!("only IPv4 here") };
    let [first, middle, low, _] = address.ip().octets();
    usize::from(first - 20) << 16 | usize::from(middle) << 8 | usize::from(low)
}

/// The place of a node's own record.
pub(crate) fn own_key(world: &World, number: usize) -> NodeId {
    world.node(number).id()
}

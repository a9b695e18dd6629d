//! Many nodes in one thread, virtual time, a network that loses and delays.
//!
//! Everything follows from one seed: a run can be repeated, and its fingerprint, a hash over every
//! datagram that was sent, tells whether two runs were the same.

mod liar;
mod signatures;
mod survey;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;

use liar::Liar;
pub(crate) use signatures::Scheme;
pub(crate) use survey::Survey;
use waystation_a2al::message::NodeInfo;
use waystation_a2al::node::{Event, Node, NodeConfig};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::query::{Found, QueryId};
use waystation_a2al::random::RandomSource;
use waystation_a2al::record::RecordType;
use waystation_a2al::sha256;
use waystation_a2al::time::{Millis, Now, UnixSeconds};

/// Wall-clock time at the start of every world.
pub(crate) const START_UNIX_S: u64 = 1_800_000_000;
/// Milliseconds that a datagram is on the way: at least, and so many different ones more.
const DELAY_MS: (u64, usize) = (5, 60);

/// Somebody at an address.
struct Inhabitant {
    came_at: Millis,
    /// When it wants to do something by itself.
    wakes_at: Millis,
    who: Who,
}

enum Who {
    /// A node as it should be.
    Honest(Box<Node>),
    Liar(Box<Liar>),
}

/// What a network does to datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Of a thousand datagrams, so many are lost.
    pub(crate) lost_of_thousand: usize,
    /// Whether addresses with an even and an odd number cannot reach each other.
    pub(crate) is_split: bool,
}

/// A datagram on the way; the one that arrives first is the least.
#[derive(Eq, Ord, PartialEq, PartialOrd)]
struct Delivery {
    at: Millis,
    /// Those of one moment arrive as they were sent.
    number: u64,
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// The network and everybody in it.
pub(crate) struct World {
    pub(crate) now: Millis,
    pub(crate) weather: Weather,
    pub(crate) random: RandomSource,
    scheme: Scheme,
    inhabitants: BTreeMap<usize, Inhabitant>,
    /// Where liars are, who know each other.
    liars: Vec<NodeInfo>,
    deliveries: BinaryHeap<Reverse<Delivery>>,
    /// One entry for each inhabitant that wants to do something.
    wakes: BTreeSet<(Millis, usize)>,
    sent: u64,
    fingerprint: [u8; 32],
    awaited: BTreeSet<(usize, QueryId)>,
    found: BTreeMap<(usize, QueryId), Found>,
    next_number: usize,
}

impl World {
    pub(crate) fn new(seed: u64, scheme: Scheme) -> Self {
        Self {
            now: Millis(0),
            weather: Weather::default(),
            random: RandomSource::new(sha256(&[b"world", &seed.to_be_bytes()])),
            scheme,
            inhabitants: BTreeMap::new(),
            liars: Vec::new(),
            deliveries: BinaryHeap::new(),
            wakes: BTreeSet::new(),
            sent: 0,
            fingerprint: [0; 32],
            awaited: BTreeSet::new(),
            found: BTreeMap::new(),
            next_number: 0,
        }
    }

    /// What tells this run from others.
    pub(crate) fn fingerprint(&self) -> String {
        self.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Datagrams sent by everybody.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Adds a node that knows the addresses of some others.
    pub(crate) fn add(&mut self, bootstrap: &[usize]) -> usize {
        let number = self.claim_number();
        let config = NodeConfig {
            bootstrap: bootstrap.iter().map(|number| address(*number)).collect(),
            endpoints: vec![address(number)],
            ..NodeConfig::default()
        };
        let signatures = self.scheme.signatures(self.random.bytes());
        let node = Node::new(signatures, config, self.random.bytes(), 0, self.clock());
        self.settle(number, self.now, Who::Honest(Box::new(node)));
        number
    }

    /// Adds one who lies.
    pub(crate) fn add_liar(&mut self) -> usize {
        let number = self.claim_number();
        let liar = Liar::new(self.scheme, self.random.bytes(), self.now);
        self.liars.push(NodeInfo::new(liar.address(), address(number)));
        self.settle(number, liar.wakes_at(), Who::Liar(Box::new(liar)));
        number
    }

    /// Somebody stops without a word.
    pub(crate) fn remove(&mut self, number: usize) {
        if let Some(gone) = self.inhabitants.remove(&number) {
            self.wakes.remove(&(gone.wakes_at, number));
        }
    }

    /// A node, if it lives.
    pub(crate) fn node(&self, number: usize) -> Option<&Node> {
        match &self.inhabitants.get(&number)?.who {
            Who::Honest(node) => Some(node),
            Who::Liar(_) => None,
        }
    }

    /// Numbers of the honest nodes.
    pub(crate) fn honest(&self) -> Vec<usize> {
        let is_honest = |who: &Who| matches!(who, Who::Honest(_));
        let honest = self.inhabitants.iter().filter(|(_, inhabitant)| is_honest(&inhabitant.who));
        honest.map(|(number, _)| *number).collect()
    }

    /// Milliseconds since somebody came.
    pub(crate) fn age_ms(&self, number: usize) -> u64 {
        self.inhabitants.get(&number).map_or(0, |inhabitant| self.now.since(inhabitant.came_at))
    }

    /// Has a node look for the endpoint record under a key.
    pub(crate) fn look_up(&mut self, number: usize, key: NodeId) -> Option<QueryId> {
        let now = self.clock();
        let Who::Honest(node) = &mut self.inhabitants.get_mut(&number)?.who else {
            return None;
        };
        let query = node.find_records(key, RecordType::ENDPOINT, now)?;
        self.awaited.insert((number, query));
        self.collect(number);
        Some(query)
    }

    /// What a look-up brought, once it has ended.
    pub(crate) fn take_found(&mut self, number: usize, query: QueryId) -> Option<Found> {
        self.awaited.remove(&(number, query));
        self.found.remove(&(number, query))
    }

    /// Lets so many milliseconds pass.
    pub(crate) fn run(&mut self, milliseconds: u64) {
        let end = self.now.plus(milliseconds);
        loop {
            let delivery = self.deliveries.peek().map(|Reverse(delivery)| delivery.at);
            let wake = self.wakes.first().map(|(at, _)| *at);
            let Some(next) = [delivery, wake].into_iter().flatten().min() else {
                break;
            };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if delivery == Some(next) {
                self.deliver();
            } else {
                self.wake();
            }
        }
        self.now = end;
    }

    fn clock(&self) -> Now {
        Now { millis: self.now, unix: UnixSeconds(START_UNIX_S + self.now.0 / 1000) }
    }

    fn claim_number(&mut self) -> usize {
        self.next_number += 1;
        self.next_number - 1
    }

    fn settle(&mut self, number: usize, wakes_at: Millis, who: Who) {
        self.wakes.insert((wakes_at, number));
        self.inhabitants.insert(number, Inhabitant { came_at: self.now, wakes_at, who });
    }

    /// Puts a datagram on the way.
    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.sent += 1;
        self.fingerprint = sha256(&[&self.fingerprint, &bytes]);
        let is_cut = self.weather.is_split && number_of(from) % 2 != number_of(to) % 2;
        if is_cut || self.random.below(1000) < self.weather.lost_of_thousand {
            return;
        }
        let at = self.now.plus(DELAY_MS.0 + self.random.below(DELAY_MS.1) as u64);
        self.deliveries.push(Reverse(Delivery { at, number: self.sent, from, to, bytes }));
    }

    fn deliver(&mut self) {
        let Some(Reverse(Delivery { from, to, bytes, .. })) = self.deliveries.pop() else {
            return;
        };
        let (number, now) = (number_of(to), self.clock());
        match self.inhabitants.get_mut(&number).map(|inhabitant| &mut inhabitant.who) {
            Some(Who::Honest(node)) => {
                node.receive(&bytes, from, now);
                self.collect(number);
            }
            Some(Who::Liar(liar)) => {
                if let Some(answer) = liar.answer(&bytes, from, &self.liars) {
                    self.send(to, from, answer);
                }
            }
            None => {}
        }
    }

    fn wake(&mut self) {
        let Some((_, number)) = self.wakes.pop_first() else {
            return;
        };
        let now = self.clock();
        match self.inhabitants.get_mut(&number).map(|inhabitant| &mut inhabitant.who) {
            Some(Who::Honest(node)) => {
                node.tick(now);
                self.collect(number);
            }
            Some(Who::Liar(liar)) => {
                let flood = liar.flood(now);
                let wakes_at = liar.wakes_at();
                self.reschedule(number, wakes_at);
                let honest = self.honest();
                let victim = honest[self.random.below(honest.len())];
                for datagram in flood {
                    self.send(address(number), address(victim), datagram);
                }
            }
            None => {}
        }
    }

    /// Sends what a node wants sent, and takes what it has to tell.
    fn collect(&mut self, number: usize) {
        let Some(Who::Honest(node)) =
            self.inhabitants.get_mut(&number).map(|inhabitant| &mut inhabitant.who)
        else {
            return;
        };
        let outgoing: Vec<_> = std::iter::from_fn(|| node.take_datagram()).collect();
        while let Some(event) = node.take_event() {
            if let Event::Found { query, found } = event
                && self.awaited.contains(&(number, query))
            {
                self.found.insert((number, query), *found);
            }
        }
        // Never in the same moment again, or a node that has nothing to do would spin.
        let wakes_at = node.next_tick().max(self.now.plus(1));
        self.reschedule(number, wakes_at);
        for datagram in outgoing {
            self.send(address(number), datagram.to, datagram.bytes);
        }
    }

    fn reschedule(&mut self, number: usize, wakes_at: Millis) {
        if let Some(inhabitant) = self.inhabitants.get_mut(&number) {
            self.wakes.remove(&(inhabitant.wakes_at, number));
            self.wakes.insert((wakes_at, number));
            inhabitant.wakes_at = wakes_at;
        }
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

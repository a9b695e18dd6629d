//! The cores, peers and quotas of some sequences, and how time passes.

use super::Outcome;
use super::peers::Peer;
use crate::clock;
use crate::control::Command;
use crate::core::DataCore;
use crate::core::tests::{SECOND_NS, START_NS, data_cores, snapshot};
use crate::management_end::ManagementEnd;
use crate::port::PortLimits;
use crate::port::simulated::{Network, SimulatedPort};
use crate::snapshot::CoreSnapshot;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use waystation_proving::random::Random;
use waystation_relay::ids::{CoreId, SocketTag};
use waystation_relay::quota::{Quota, QuotaLimits};

pub(super) const BURST_BYTES: u64 = 8192;

const MS_NS: u64 = 1_000_000;
/// What passes until everything has ended: for each deadline, after all that may come before it.
const EVERY_DEADLINE_NS: [u64; 6] = [
    2 * SECOND_NS,
    12 * SECOND_NS,
    31 * SECOND_NS,
    61 * SECOND_NS,
    201 * SECOND_NS,
    31 * SECOND_NS,
];
/// Rounds in which everything must have arrived. While a quota holds somebody up each takes 10 ms,
/// so these are 800 kB at the slowest rate.
const ROUNDS_MAX: u64 = 4_000;
/// Rounds without an event after which nothing is under way: what comes of a command may take one
/// to another core, and one back.
const QUIET_ROUNDS: u64 = 3;

/// A quota that paces.
pub(super) struct Rate {
    pub(super) quota: Arc<Quota>,
    pub(super) bytes_per_s: u64,
    pub(super) since_ns: u64,
}

pub(super) struct World {
    pub(super) network: Rc<RefCell<Network>>,
    pub(super) cores: Vec<DataCore<SimulatedPort>>,
    pub(super) management: ManagementEnd,
    pub(super) peers: Vec<Peer>,
    pub(super) rates: Vec<Rate>,
    pub(super) buffer_bytes: u32,
    pub(super) now_ns: u64,
    pub(super) seed: u64,
    pub(super) epoch: u64,
    /// Drops that a report told of, by reason.
    pub(super) told: BTreeMap<&'static str, u64>,
    pub(super) delivered_bytes: u64,
    /// In this sequence nobody ends anything, or waits for long, before its end.
    pub(super) calm: bool,
    reached: BTreeMap<&'static str, u64>,
}

impl World {
    /// One or two cores with few or very few of everything.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(!seed);
        let network = Network::new().unwrap();
        clock::simulated::set(START_NS);
        let cores = 1 + random.below(2) as usize;
        let limits = PortLimits {
            receive_buffers: [2, 4, 16][random.below(3) as usize],
            receive_buffer_bytes: [64, 2000, 4096][random.below(3) as usize],
            streams: [5, 64, 64, 64][random.below(4) as usize],
        };
        let blocks = [1, 2, 16, 16][random.below(4) as usize];
        let snapshot = few(0, &mut random);
        let (cores, management) = data_cores(cores, &network, limits, blocks, &snapshot);
        Self {
            cores,
            network,
            management,
            peers: Vec::new(),
            rates: Vec::new(),
            buffer_bytes: limits.receive_buffer_bytes,
            now_ns: START_NS,
            seed,
            epoch: 0,
            told: BTreeMap::new(),
            delivered_bytes: 0,
            calm: false,
            reached: BTreeMap::new(),
        }
    }

    /// Begins a sequence, with limits and quotas of its own.
    pub(super) fn begin(&mut self, seed: u64) {
        self.seed = seed;
        self.peers.clear();
        let snapshot = {
            let mut network = self.network.borrow_mut();
            network.clear();
            network.random = Random(seed);
            network.eager = false;
            self.calm = network.random.one_in(2);
            self.epoch += 1;
            few(self.epoch, &mut network.random)
        };
        let since_ns = self.now_ns;
        self.rates = [20_000, 1_000_000].map(|bytes_per_s| rate(bytes_per_s, since_ns)).into();
        for core in 0..self.cores.len() {
            self.command(core, Command::Adopt { snapshot: Arc::clone(&snapshot) });
            self.turn(core);
        }
    }

    /// One operation of somebody.
    pub(super) fn step(&mut self) {
        match self.below(1000) {
            0..=39 => self.connect(),
            40..=479 => self.somebody_acts(),
            480..=599 => self.management_acts(),
            600..=969 => {
                let core = self.below(self.cores.len() as u64) as usize;
                self.turn(core);
                if !self.one_in(4) {
                    self.take_reports(core);
                }
            }
            970..=994 => {
                let most_ns = self.of(&[MS_NS, 20 * MS_NS, 500 * MS_NS]);
                let ns = self.below(most_ns);
                self.pass_time(ns);
            }
            _ if self.calm => {}
            _ => {
                let most_ns = self.of(&[2, 11, 31, 61, 201]) * SECOND_NS;
                let ns = self.below(most_ns);
                self.pass_time(ns);
            }
        }
    }

    // Time and turns

    pub(super) fn pass_time(&mut self, ns: u64) {
        self.now_ns += ns;
        clock::simulated::set(self.now_ns);
    }

    /// One turn of a core; then what holds always must hold.
    pub(super) fn turn(&mut self, core: usize) {
        self.pass_time(1000);
        self.cores[core].turn().unwrap();
        self.follow_sockets(core);
        self.check(core);
    }

    /// Peers read all they get and the cores have time: then every byte has arrived.
    pub(super) fn let_everything_arrive(&mut self) {
        self.network.borrow_mut().eager = true;
        self.settle();
        self.check_everything_arrived();
        self.network.borrow_mut().eager = false;
    }

    /// Everybody has a turn. Returns whether anything went on.
    fn round(&mut self) -> bool {
        let mut moved = false;
        for peer in 0..self.peers.len() {
            moved |= self.flush(peer);
            moved |= !self.peers[peer].stalled && self.read(peer, usize::MAX);
        }
        for core in 0..self.cores.len() {
            let before = self.cores[core].port.events();
            self.turn(core);
            moved |= self.take_reports(core) || self.cores[core].port.events() > before;
        }
        moved
    }

    /// Everybody has turns until nothing goes on, and nobody waits for a quota.
    fn settle(&mut self) {
        let (mut rounds, mut quiet) = (0, 0);
        while quiet < QUIET_ROUNDS {
            assert!(rounds < ROUNDS_MAX, "something never arrives");
            let moved = self.round();
            let paced = self.cores.iter().any(|core| !core.paced.is_empty());
            if paced {
                self.pass_time(10 * MS_NS);
            }
            quiet = if moved || paced { 0 } else { quiet + 1 };
            rounds += 1;
        }
    }

    /// Everybody ends, in any way, or lets time pass until the cores end it.
    pub(super) fn end_everything(&mut self) {
        for peer in 0..self.peers.len() {
            match self.below(8) {
                0..=2 => self.end(peer),
                3 => self.close_by_hand(peer),
                _ => {}
            }
            if self.one_in(3) {
                let core = self.below(self.cores.len() as u64) as usize;
                self.turn(core);
            }
        }
        self.network.borrow_mut().eager = true;
        self.peers.iter_mut().for_each(|peer| peer.answers = false);
        for ns in EVERY_DEADLINE_NS {
            self.settle();
            self.pass_time(ns);
        }
        self.settle();
    }

    /// Ends the cores while something is open on them.
    pub(super) fn shut_down(&mut self) {
        self.begin(self.seed);
        for _ in 0..60 {
            self.step();
        }
        self.network.borrow_mut().eager = true;
        self.settle();
        for core in 0..self.cores.len() {
            self.command(core, Command::Shutdown);
        }
        for ns in EVERY_DEADLINE_NS {
            self.settle();
            self.pass_time(ns);
        }
        self.check_nothing_is_left();
        self.reach("shut down");
    }

    pub(super) fn add_to(mut self, outcome: &mut Outcome) {
        let starved = self.cores.iter().map(|core| core.port.starved()).sum();
        self.reached.insert("no buffer to receive into", starved);
        self.cores.iter().for_each(|core| outcome.drops.add(core.fabric.switch.drops()));
        for (step, count) in self.reached {
            *outcome.steps.entry(step).or_default() += count;
        }
        outcome.delivered_bytes += self.delivered_bytes;
    }

    // Small things

    pub(super) fn command(&mut self, core: usize, command: Command) {
        // A command for a core that does not exist goes nowhere.
        let _ = self.management.send(CoreId(core as u16), command);
    }

    pub(super) fn reach(&mut self, step: &'static str) {
        *self.reached.entry(step).or_default() += 1;
    }

    pub(super) fn below(&self, end: u64) -> u64 {
        self.network.borrow_mut().random.below(end)
    }

    pub(super) fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of these, of which there must be some.
    pub(super) fn of<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub(super) fn peer_of_tag(&self, tag: SocketTag) -> Option<usize> {
        self.peers.iter().position(|peer| peer.tags.contains(&tag))
    }
}

fn rate(bytes_per_s: u64, since_ns: u64) -> Rate {
    let limits =
        QuotaLimits { sessions: 1, bytes_per_s: Some(bytes_per_s), burst_bytes: BURST_BYTES };
    Rate { quota: Quota::new(limits), bytes_per_s, since_ns }
}

/// Limits that may be few.
fn few(epoch: u64, random: &mut Random) -> Arc<CoreSnapshot> {
    let mut snapshot = snapshot(epoch);
    snapshot.limits.half_open = [2, 50, 50, 50][random.below(4) as usize];
    snapshot.limits.sockets = [3, 6, 50, 50, 50][random.below(5) as usize];
    Arc::new(snapshot)
}

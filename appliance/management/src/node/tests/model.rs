//! Random sequences of preparations and queries against a model that keeps everything in flat
//! lists. `WAYSTATION_MODEL_SEQUENCES` says how many to run.

use super::*;
use crate::node::limits::{FORWARDS_PER_TARGET_MAX, PREPARATION_LIFETIME_NS};
use std::collections::BTreeSet;
use waystation_proving::model::{SEED_VARIABLE, Seed, number};
use waystation_proving::random::Random;

const SEQUENCES: u64 = 2000;
const OPERATIONS: u32 = 60;
/// Peers 1 to 5, of which 4 may speak for others and 5 is asked about strangers.
const PEERS: u16 = 5;
const TRUSTED: u16 = 4;
const FORWARD: u16 = 5;
/// Somebody who never has a link.
const STRANGER: u16 = 9;

fn peer(random: &mut Random) -> u16 {
    1 + u16::try_from(random.below(u64::from(PEERS))).unwrap()
}

/// A peer, this node, or a stranger; `None` as often as not.
fn somebody(random: &mut Random) -> Option<u16> {
    match random.below(8) {
        0 => Some(STRANGER),
        1 => Some(GATEWAY),
        2..=3 => Some(peer(random)),
        _ => None,
    }
}

struct Prepared {
    peer: u16,
    nonce: u64,
    caller: Option<u16>,
    target: Option<u16>,
    deadline_ns: u64,
}

struct Run {
    bench: Bench,
    random: Random,
    prepared: Vec<Prepared>,
    links: BTreeSet<(u16, u32)>,
    expired: u64,
    /// For whom queries were forwarded since time last passed.
    forwarded: Vec<u16>,
    /// Queries relayed, forwarded, used up and refused.
    reached: [u64; 4],
}

impl Run {
    fn new(seed: u64) -> Self {
        let relay = RelayPolicy {
            trusted: BTreeSet::from([identity(TRUSTED)]),
            forwards: vec![identity(FORWARD)],
        };
        Self {
            bench: Bench::with(NodeSettings { relay, ..NodeSettings::default() }),
            random: Random(seed),
            prepared: Vec::new(),
            links: BTreeSet::new(),
            expired: 0,
            forwarded: Vec::new(),
            reached: [0; 4],
        }
    }

    fn step(&mut self) {
        match self.random.below(10) {
            0..=3 => self.prepare(),
            4..=6 => self.query(),
            7..=8 => self.toggle_link(),
            _ => self.pass_time(),
        }
        let counts = self.bench.node.query_counts();
        assert_eq!(counts.prepared, self.prepared.len());
        assert_eq!(counts.preparations_expired_total, self.expired);
        let due_ns = self.prepared.iter().map(|prepared| prepared.deadline_ns).min();
        assert_eq!(self.bench.node.next_deadline_ns(), due_ns);
    }

    fn ask(&mut self, peer: u16, nonce: u64, text: &str) -> Command {
        let mut query = self.bench.query(peer, link(peer, 0), text);
        (query.profile, query.nonce) = (Profile::P2, nonce);
        let (asked, commands) = self.bench.ask_as(query);
        let command = one(commands);
        match &command {
            Command::Offer { caller: leg, .. }
            | Command::Answer { leg, .. }
            | Command::Reject { leg, code: 1 } => assert_eq!(*leg, asked),
            other => panic!("{other:?}"),
        }
        command
    }

    fn prepare(&mut self) {
        let (peer, nonce) = (peer(&mut self.random), 1 + self.random.below(4));
        let (caller, target) = (somebody(&mut self.random), somebody(&mut self.random));
        let set = |key: &str, who: Option<u16>| {
            who.map_or_else(String::new, |who| format!("&set_{key}={}", identity(who)))
        };
        let (caller_text, target_text) = (set("caller", caller), set("target", target));
        let text = format!("nodes.relay?nonce={nonce:016x}{caller_text}{target_text}");
        let answer = self.ask(peer, 1 << 40, &text);
        if caller.is_some_and(|caller| caller != peer && peer != TRUSTED) {
            let text = "not allowed to speak for that caller";
            assert_eq!(bytes_of(&answer), object::error_message(text));
            self.reached[3] += 1;
            return;
        }
        assert_eq!(bytes_of(&answer), object::ack());
        self.prepared.retain(|known| (known.peer, known.nonce) != (peer, nonce));
        let deadline_ns = self.bench.now_ns + PREPARATION_LIFETIME_NS;
        self.prepared.push(Prepared { peer, nonce, caller, target, deadline_ns });
    }

    /// A query with a nonce that may have been prepared; it is used up either way.
    fn query(&mut self) {
        let (peer, nonce) = (peer(&mut self.random), 1 + self.random.below(4));
        let answer = self.ask(peer, nonce, "conform.relay");
        let place =
            self.prepared.iter().position(|known| (known.peer, known.nonce) == (peer, nonce));
        let prepared = place.map(|place| self.prepared.swap_remove(place));
        self.reached[2] += u64::from(prepared.is_some());
        let (caller, target) =
            prepared.map_or((None, None), |prepared| (prepared.caller, prepared.target));
        let (caller, target) = (caller.unwrap_or(peer), target.unwrap_or(GATEWAY));
        let others = |who: u16| {
            self.links.iter().any(|(known, slot)| *known == who && (*known, *slot) != (peer, 0))
        };
        let before = self.forwarded.iter().filter(|known| **known == target).count();
        let may_forward = before < FORWARDS_PER_TARGET_MAX
            && peer != TRUSTED
            && peer != FORWARD
            && others(FORWARD);
        let via = match target {
            GATEWAY => None,
            target if others(target) => Some(target),
            _ => may_forward.then_some(FORWARD),
        };
        match (via, answer) {
            (None, Command::Reject { .. }) => {}
            (Some(via), Command::Offer { target: to, relayed, .. }) => {
                let wanted = Relayed { caller: identity(caller), target: identity(target) };
                assert_eq!(relayed, Some(wanted));
                assert_ne!(to, link(peer, 0), "back to where it came from");
                assert!(self.links.contains(&(via, to.slot)) && to.core == CoreId(via), "{to}");
                self.reached[usize::from(via != target)] += 1;
                self.forwarded.extend((via != target).then_some(target));
            }
            (via, answer) => panic!("{via:?}, {answer:?}"),
        }
    }

    fn toggle_link(&mut self) {
        let (peer, slot) = (peer(&mut self.random), u32::from(self.random.below(2) == 0));
        if self.links.remove(&(peer, slot)) {
            self.bench.unlink(peer, link(peer, slot));
        } else {
            self.bench.link(peer, link(peer, slot), false);
            self.links.insert((peer, slot));
        }
    }

    fn pass_time(&mut self) {
        // The least that lets forwarded queries be forgotten, or a good part of a preparation.
        self.bench.now_ns +=
            [SECOND_NS, PREPARATION_LIFETIME_NS / 3][usize::from(self.random.below(2) == 0)];
        let now_ns = self.bench.now_ns;
        self.bench.tick(now_ns);
        self.forwarded.clear();
        let before = self.prepared.len();
        self.prepared.retain(|known| known.deadline_ns > now_ns);
        self.expired += (before - self.prepared.len()) as u64;
    }
}

/// Runs one sequence.
fn run(seed: u64) -> Run {
    let _seed = Seed(seed);
    let mut run = Run::new(seed);
    for _ in 0..OPERATIONS {
        run.step();
    }
    run.bench.now_ns += PREPARATION_LIFETIME_NS;
    run.bench.tick(run.bench.now_ns);
    assert_eq!(run.bench.node.query_counts().prepared, 0, "nothing is left behind");
    run
}

#[test]
fn preparations_are_conserved_and_every_query_has_one_verdict_in_every_sequence() {
    if let Some(seed) = number(SEED_VARIABLE) {
        run(seed);
        return;
    }
    let sequences = number("WAYSTATION_MODEL_SEQUENCES").unwrap_or(SEQUENCES);
    let (mut reached, mut expired) = ([0; 4], 0);
    for seed in 0..sequences {
        let run = run(seed);
        for (sum, count) in reached.iter_mut().zip(run.reached) {
            *sum += count;
        }
        expired += run.expired;
    }
    println!("{sequences} sequences reached {reached:?}, and {expired} expired");
    assert!(reached.iter().chain([&expired]).all(|events| *events >= sequences / 4));
}

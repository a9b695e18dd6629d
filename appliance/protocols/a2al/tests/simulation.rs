//! Networks of nodes under loss, churn, partition and lies: what is published is found.
//!
//! Small networks sign with Ed25519. Those that live for a hundred minutes sign with a keyed hash, as
//! points would be all that they multiply. How many nodes they have, and their seed, may be chosen:
//! `WAYSTATION_SIMULATION_NODES` (1000 is what is promised) and `WAYSTATION_SIMULATION_SEED`;
//! `WAYSTATION_TEST_LONG=1` runs several seeds.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]
#![allow(clippy::print_stdout, reason = "a run that can be repeated says what came of it")]

mod world;

use std::env;

use waystation_a2al::node::DropReason;
use world::{Scheme, Survey, World};

/// Nodes of a network that lives for a hundred minutes, unless something else is wanted.
const NODES: usize = 100;
/// The first nodes are ways in, one of each side, and stay.
const WAYS_IN: usize = 2;
/// Parts of a minute: in each some nodes are replaced and some records looked for.
const PARTS_OF_MINUTE: usize = 12;
/// Look-ups in each part of a minute.
const LOOK_UPS: usize = 3;
/// Minutes after a partition until nodes of both sides have to find each other's records: a node that
/// was asked in vain for ten minutes is left alone for up to eight.
const HEALING_MINUTES: usize = 10;
/// Milliseconds from the last node's arrival to the first minute that counts.
const SETTLING_MS: u64 = 120_000;

/// What a network goes through.
#[derive(Clone, Debug)]
struct Plan {
    scheme: Scheme,
    seed: u64,
    nodes: usize,
    /// How many of a hundred of them lie.
    liars_of_hundred: usize,
    minutes: usize,
    lost_of_thousand: usize,
    /// How many of a thousand stop each minute without a word, while others come.
    replaced_of_thousand: usize,
    /// From which minute to which one half cannot reach the other.
    splits: Vec<(usize, usize)>,
}

/// What came of it; a run that fails, and one that is to be compared, print all of it.
#[derive(Debug)]
#[expect(dead_code, reason = "printed")]
struct Outcome {
    survey: Survey,
    fingerprint: String,
    /// Datagrams of a node in a minute.
    sent_per_node_and_minute: u64,
}

impl Plan {
    /// Everything that a public network does to its nodes, for a hundred minutes, but liars.
    fn rough(seed: u64, nodes: usize) -> Self {
        Self {
            scheme: Scheme::KeyedHash,
            seed,
            nodes,
            liars_of_hundred: 0,
            minutes: 100,
            lost_of_thousand: 200,
            replaced_of_thousand: 50,
            splits: vec![(25, 30), (60, 70)],
        }
    }

    /// A network of few nodes, with the network's own signatures and without any trouble.
    fn small(seed: u64, nodes: usize, minutes: usize) -> Self {
        Self {
            scheme: Scheme::Ed25519,
            seed,
            nodes,
            liars_of_hundred: 0,
            minutes,
            lost_of_thousand: 0,
            replaced_of_thousand: 0,
            splits: Vec::new(),
        }
    }

    fn run(&self) -> Outcome {
        let mut world = self.grown();
        world.weather.lost_of_thousand = self.lost_of_thousand;
        let sent_before = world.sent();
        let mut survey = Survey::default();
        for minute in 0..self.minutes {
            world.weather.is_split = self.is_in_split(minute, 0);
            let of_one_side = self.is_in_split(minute, HEALING_MINUTES);
            for _ in 0..PARTS_OF_MINUTE {
                self.replace_some(&mut world);
                (0..LOOK_UPS).for_each(|_| survey.ask(&mut world, of_one_side));
                world.run(60_000 / PARTS_OF_MINUTE as u64);
                survey.judge(&mut world);
            }
        }
        let outcome = Outcome {
            survey,
            fingerprint: world.fingerprint(),
            sent_per_node_and_minute: (world.sent() - sent_before)
                / (self.nodes * self.minutes) as u64,
        };
        println!("{self:?}: {outcome:?}");
        outcome
    }

    /// Whether a minute is in a split, or within so many minutes after one.
    fn is_in_split(&self, minute: usize, longer: usize) -> bool {
        self.splits.iter().any(|(from, to)| (*from..to + longer).contains(&minute))
    }

    /// The network after everybody has come in, without any trouble.
    fn grown(&self) -> World {
        let mut world = World::new(self.seed, self.scheme);
        for number in 0..self.nodes {
            // Evenly among the others; the ways in come first, and are honest.
            let liars_until = |number: usize| number * self.liars_of_hundred / 100;
            if liars_until(number + 1) > liars_until(number) {
                world.add_liar();
            } else {
                let ways_in: Vec<usize> = (0..number.min(WAYS_IN)).collect();
                world.add(&ways_in);
            }
            world.run(200);
        }
        world.run(SETTLING_MS);
        world
    }

    fn replace_some(&self, world: &mut World) {
        if self.replaced_of_thousand == 0 {
            return;
        }
        let leaving: Vec<usize> = world
            .honest()
            .into_iter()
            .skip(WAYS_IN)
            .filter(|_| world.random.below(1000 * PARTS_OF_MINUTE) < self.replaced_of_thousand)
            .collect();
        for number in leaving {
            world.remove(number);
            let honest = world.honest();
            let other = honest[world.random.below(honest.len())];
            world.add(&[0, 1, other]);
        }
    }
}

/// Seeds of networks that live for a hundred minutes.
fn seeds() -> Vec<u64> {
    match chosen("WAYSTATION_SIMULATION_SEED") {
        Some(seed) => vec![seed as u64],
        None if env::var_os("WAYSTATION_TEST_LONG").is_some() => (1..=5).collect(),
        None => vec![1],
    }
}

fn nodes() -> usize {
    chosen("WAYSTATION_SIMULATION_NODES").unwrap_or(NODES)
}

fn chosen(name: &str) -> Option<usize> {
    env::var(name).ok().map(|value| value.parse().unwrap())
}

fn log2(count: usize) -> usize {
    count.ilog2() as usize
}

#[test]
fn what_is_published_is_found_for_a_hundred_rough_minutes() {
    for seed in seeds() {
        let plan = Plan::rough(seed, nodes());
        let outcome = plan.run();
        assert!(outcome.survey.asked >= 1_500, "{plan:?}: {outcome:?}");
        assert!(outcome.survey.found_of_thousand() >= 990, "{plan:?}: {outcome:?}");
        assert!(outcome.survey.median_hops() <= log2(plan.nodes) + 2, "{plan:?}: {outcome:?}");
    }
}

#[test]
fn liars_and_floods_cannot_hide_what_is_published_for_a_hundred_rough_minutes() {
    for seed in seeds() {
        let plan = Plan { liars_of_hundred: 10, ..Plan::rough(seed, nodes()) };
        let outcome = plan.run();
        assert!(outcome.survey.asked >= 1_500, "{plan:?}: {outcome:?}");
        assert!(outcome.survey.found_of_thousand() >= 950, "{plan:?}: {outcome:?}");
        assert!(outcome.survey.median_hops() <= log2(plan.nodes) + 2, "{plan:?}: {outcome:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let plan = Plan { liars_of_hundred: 10, ..Plan::rough(seed, 60) };
        Plan { minutes: 12, splits: vec![(4, 6)], ..plan }.run().fingerprint
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn what_is_published_is_found_by_everybody() {
    let outcome = Plan::small(1, 40, 6).run();
    assert!(outcome.survey.asked >= 100, "{outcome:?}");
    assert_eq!(outcome.survey.found, outcome.survey.asked, "{outcome:?}");
    assert!(outcome.survey.median_hops() <= log2(40) + 2, "{outcome:?}");
}

#[test]
fn liars_cannot_hide_what_is_published_with_real_signatures() {
    let plan = Plan {
        liars_of_hundred: 10,
        lost_of_thousand: 100,
        replaced_of_thousand: 50,
        ..Plan::small(3, 40, 8)
    };
    let outcome = plan.run();
    assert!(outcome.survey.asked >= 100, "{outcome:?}");
    assert!(outcome.survey.found_of_thousand() >= 950, "{outcome:?}");
}

#[test]
fn a_partition_heals() {
    let outcome = Plan { splits: vec![(0, 10)], ..Plan::small(4, 20, 30) }.run();
    assert!(outcome.survey.asked >= 500, "{outcome:?}");
    assert_eq!(outcome.survey.found, outcome.survey.asked, "{outcome:?}");
}

#[test]
fn a_quiet_network_stays_quiet() {
    let mut world = Plan::small(9, 20, 0).grown();
    let before = world.sent();
    world.run(3_600_000);
    let of_each_per_minute = (world.sent() - before) / 20 / 60;
    assert!(of_each_per_minute <= 60, "{of_each_per_minute} datagrams a minute");
    for number in world.honest() {
        let node = world.node(number).unwrap();
        assert_eq!(node.statistics().dropped(DropReason::Malformed), 0);
    }
}

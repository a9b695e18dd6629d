//! A model check: random operations over the switches of several cores against a reference.
//!
//! Peers, the management core and the rings between cores are played by the test, in an order drawn
//! from a seed. The reference knows what each peer was promised and has sent: no frame may come that
//! it does not expect, no byte twice or out of order, no end without a reason, and nothing may be
//! left once all links are down. `WAYSTATION_MODEL_SEQUENCES` says how many sequences to run.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says which seed does"
)]

mod checks;
mod departures;
mod inner;
mod management;
mod moves;
mod peers;
mod session;
mod world;

use std::collections::BTreeMap;
use waystation_proving::model::{SEED_VARIABLE, Seed, number};
use waystation_proving::random::Random;
use waystation_relay::drop_reason::{DropCounters, DropReason};
use world::World;

/// Sequences of a plain `cargo test`: a few seconds without optimisation.
const SEQUENCES: u64 = 1500;
/// Operations of one sequence, at most.
const OPERATIONS_MAX: u64 = 250;

/// What must have happened at least once, or the operations are too tame.
const REACHED: [DropReason; 18] = [
    DropReason::UnknownSessionData,
    DropReason::UnknownSessionRead,
    DropReason::UnknownSessionIgnored,
    DropReason::DataBeforeResponse,
    DropReason::CreditOverflow,
    DropReason::DuplicateNonce,
    DropReason::UnknownQuery,
    DropReason::TargetNotReachable,
    DropReason::TargetRejected,
    DropReason::TargetTimeout,
    DropReason::TooManySessions,
    DropReason::PeerLegClosed,
    DropReason::BufferExhausted,
    DropReason::SessionClosedByOperator,
    DropReason::QuotaExceeded,
    DropReason::InputTooLong,
    DropReason::MigrationRefused,
    DropReason::MigrationFailed,
];

/// Steps that leave no drop behind, but must have happened as well.
const STEPS: [&str; 39] = [
    "begun",
    "arrived",
    "resumed",
    "refused",
    "ended",
    "asked twice",
    "begun with a debt",
    "sent while moving",
    "data too soon",
    "data too late",
    "credit too soon",
    "marker repeated",
    "resumed too soon",
    "moving session reset",
    "old name reset",
    "link dropped",
    "old link dropped",
    "inner link accepted",
    "inner link opened",
    "inner link refused",
    "inner link wrote",
    "inner link read",
    "inner link left",
    "inner link left early",
    "inner link ended",
    "inner resumed",
    "departure begun",
    "departure refused: carries a link",
    "departure refused: session of our own",
    "departure refused: query pending",
    "departure refused: session moves",
    "departure refused: frozen",
    "departure refused by another",
    "departure given up",
    "left with sessions",
    "arrived on another core",
    "came back",
    "lost on the way",
    "parked",
];

/// What the sequences came to.
#[derive(Default)]
struct Outcome {
    drops: DropCounters,
    steps: BTreeMap<&'static str, u64>,
    delivered: u64,
}

/// Runs one sequence and adds what it came to.
fn run(seed: u64, outcome: &mut Outcome) {
    let _seed = Seed(seed);
    let mut world = World::new(Random(seed));
    let operations = 20 + world.random.below(OPERATIONS_MAX - 20);
    for operation in 0..operations {
        world.step();
        if operation % 8 == 0 {
            world.check();
        }
    }
    if world.random.below(2) == 0 {
        world.let_everything_arrive();
    }
    world.end_everything();
    world.check_nothing_is_left();
    world.cores.iter().for_each(|core| outcome.drops.add(core.drops()));
    for (step, count) in world.reached {
        *outcome.steps.entry(step).or_default() += count;
    }
    outcome.delivered += world.delivered;
}

#[test]
fn random_operations_keep_every_promise_of_the_switch() {
    let mut outcome = Outcome::default();
    if let Some(seed) = number(SEED_VARIABLE) {
        run(seed, &mut outcome);
        return;
    }
    let sequences = number("WAYSTATION_MODEL_SEQUENCES").unwrap_or(SEQUENCES);
    (0..sequences).for_each(|seed| run(seed, &mut outcome));
    let Outcome { drops, steps, delivered } = outcome;
    println!("{sequences} sequences, {delivered} bytes delivered");
    for reason in REACHED {
        println!("{}: {}", reason.name(), drops.events(reason));
        assert!(sequences < SEQUENCES || drops.events(reason) > 0, "never {}", reason.name());
    }
    for step in STEPS {
        let count = steps.get(step).copied().unwrap_or(0);
        println!("{step}: {count}");
        assert!(sequences < SEQUENCES || count > 0, "never {step}");
    }
    assert!(delivered > sequences * 1000, "only {delivered} bytes were delivered");
}

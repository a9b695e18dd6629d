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
mod management;
mod peers;
mod session;
mod world;

use session::Random;
use waystation_relay::drop_reason::{DropCounters, DropReason};
use world::World;

/// Sequences of a plain `cargo test`: a few seconds without optimisation.
const SEQUENCES: u64 = 1500;
/// Operations of one sequence, at most.
const OPERATIONS_MAX: u64 = 250;

/// What must have happened at least once, or the operations are too tame.
const REACHED: [DropReason; 16] = [
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
];

/// Says which seed failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {} failed: WAYSTATION_MODEL_SEED={} repeats it", self.0, self.0);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

/// Runs one sequence, adds its drops to these, and returns how many bytes were delivered.
fn run(seed: u64, drops: &mut DropCounters) -> u64 {
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
    world.cores.iter().for_each(|core| drops.add(core.drops()));
    world.delivered
}

#[test]
fn random_operations_keep_every_promise_of_the_switch() {
    let mut drops = DropCounters::default();
    if let Some(seed) = number("WAYSTATION_MODEL_SEED") {
        run(seed, &mut drops);
        return;
    }
    let sequences = number("WAYSTATION_MODEL_SEQUENCES").unwrap_or(SEQUENCES);
    let delivered: u64 = (0..sequences).map(|seed| run(seed, &mut drops)).sum();
    println!("{sequences} sequences, {delivered} bytes delivered");
    for reason in REACHED {
        println!("{}: {}", reason.name(), drops.events(reason));
        assert!(sequences < SEQUENCES || drops.events(reason) > 0, "never {}", reason.name());
    }
    assert!(delivered > sequences * 1000, "only {delivered} bytes were delivered");
}

//! A model check: random operations on the raw sockets of one or two data cores.
//!
//! Peers, kernel, management core and time are played by the test, from a seed, on simulated
//! ports. The reference knows who owns each stream and what its peer must get: no byte twice, out
//! of order or of somebody else, none lost from a pipe without a counted reason, and nothing may be
//! left once all have ended. `WAYSTATION_MODEL_SEQUENCES` says how many sequences to run.

mod checks;
mod management;
mod peers;
mod world;

use std::collections::BTreeMap;
use waystation_proving::model::{SEED_VARIABLE, Seed, number};
use waystation_relay::drop_reason::{DropCounters, DropReason};
use world::World;

/// Sequences of a plain `cargo test`: a few seconds without optimisation.
const SEQUENCES: u64 = 1000;
/// Sequences that run on the same cores, one after the other: all of them are run again to repeat
/// one.
const SEQUENCES_PER_WORLD: u64 = 50;
/// Operations of one sequence, at most.
const OPERATIONS_MAX: u64 = 800;

/// What must have happened at least once, or the operations are too tame.
const REACHED: [DropReason; 17] = [
    DropReason::TooManyConnections,
    DropReason::AcceptFailed,
    DropReason::HandshakeRejected,
    DropReason::HandshakeTimeout,
    DropReason::HandshakeAbandoned,
    DropReason::SocketNonceUnknown,
    DropReason::SocketNonceTimeout,
    DropReason::TargetNotReachable,
    DropReason::IdleProtocolViolation,
    DropReason::IdlePingTimeout,
    DropReason::HandoffTimeout,
    DropReason::PipeReset,
    DropReason::PipeIdleTimeout,
    DropReason::SessionClosedByOperator,
    DropReason::BufferExhausted,
    DropReason::MeshFull,
    DropReason::PeerNotReading,
];

/// Steps that leave no drop behind, but must have happened as well.
const STEPS: [&str; 18] = [
    "pinged",
    "ping answered",
    "handed off",
    "pipe on one core",
    "pipe over two cores",
    "caller came from another core",
    "early bytes",
    "both ways",
    "paced",
    "copied to a block",
    "no buffer to receive into",
    "ended cleanly",
    "ended cleanly with bytes for the side that ended",
    "ended, and has yet to take what is left",
    "ended, and took nothing more",
    "join failed",
    "dismissed",
    "shut down",
];

/// What the sequences came to.
#[derive(Default)]
struct Outcome {
    drops: DropCounters,
    steps: BTreeMap<&'static str, u64>,
    delivered_bytes: u64,
}

/// Runs the sequences with seeds from `first` up to `last` on the same cores, and adds what they
/// came to.
fn run(first: u64, last: u64, outcome: &mut Outcome) {
    let mut world = World::new(first);
    for seed in first..=last {
        let _seed = Seed(seed);
        world.begin(seed);
        let operations = 20 + world.below(OPERATIONS_MAX - 20);
        for _ in 0..operations {
            world.step();
        }
        if world.one_in(2) {
            world.let_everything_arrive();
        }
        world.end_everything();
        world.check_nothing_is_left();
    }
    let _seed = Seed(last);
    world.shut_down();
    world.add_to(outcome);
}

#[test]
fn random_operations_keep_every_promise_of_raw_pipes() {
    let mut outcome = Outcome::default();
    if let Some(seed) = number(SEED_VARIABLE) {
        run(seed - seed % SEQUENCES_PER_WORLD, seed, &mut outcome);
        return;
    }
    let sequences = number("WAYSTATION_MODEL_SEQUENCES").unwrap_or(SEQUENCES);
    let mut first = 0;
    while first < sequences {
        let next = (first + SEQUENCES_PER_WORLD).min(sequences);
        run(first, next - 1, &mut outcome);
        first = next;
    }
    let Outcome { drops, steps, delivered_bytes } = outcome;
    println!("{sequences} sequences, {delivered_bytes} bytes delivered through pipes");
    for reason in REACHED {
        println!("{}: {}", reason.name(), drops.events(reason));
        assert!(sequences < SEQUENCES || drops.events(reason) > 0, "never {}", reason.name());
    }
    for step in STEPS {
        let count = steps.get(step).copied().unwrap_or(0);
        println!("{step}: {count}");
        assert!(sequences < SEQUENCES || count > 0, "never {step}");
    }
    assert!(delivered_bytes > sequences * 1000, "only {delivered_bytes} bytes were delivered");
}

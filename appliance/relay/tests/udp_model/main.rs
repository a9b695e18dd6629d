//! A model check: random operations over a table of UDP sessions against a simple reference.
//!
//! Ends, strangers, thieves, the operator and time act in an order drawn from a seed. The reference
//! searches lists where the table has an index, keeps times in full, and knows nothing of flags and
//! cache lines: outcome and events of each datagram must be the same. `WAYSTATION_MODEL_SEQUENCES`
//! says how many sequences to run, `WAYSTATION_MODEL_SEED` repeats one.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says which seed does"
)]

#[path = "../udp/packets.rs"]
mod packets;
mod reference;
mod world;

use std::collections::BTreeMap;
use waystation_proving::model::{SEED_VARIABLE, Seed, number};
use waystation_proving::random::Random;
use waystation_relay::drop_reason::{DropCounters, DropReason};
use world::World;

/// Sequences of a plain `cargo test`: a few seconds without optimisation.
const SEQUENCES: u64 = 300;
/// Operations of one sequence, at most.
const OPERATIONS_MAX: u64 = 400;

/// What must have happened at least once, or the operations are too tame.
const REACHED: [DropReason; 14] = [
    DropReason::UdpMalformed,
    DropReason::UdpUnknownFlow,
    DropReason::UdpUnproven,
    DropReason::UdpProofRejected,
    DropReason::UdpStrangersOverRate,
    DropReason::UdpNotWireguard,
    DropReason::UdpHandshakeRejected,
    DropReason::UdpUnknownReceiver,
    DropReason::UdpLegUnknown,
    DropReason::UdpAddressDenied,
    DropReason::UdpAddressTaken,
    DropReason::UdpRateExceeded,
    DropReason::UdpSessionIdle,
    DropReason::SessionClosedByOperator,
];

/// Steps that leave no drop behind, but must have happened as well.
const STEPS: [&str; 17] = [
    "forwarded",
    "answered",
    "opened",
    "not opened",
    "closed",
    "closed by policy",
    "expired",
    "lapsed",
    "learned by proof",
    "learned by handshake",
    "rebound by proof",
    "rebound by handshake",
    "rebound by silence",
    "rebound by taken_back",
    "response of a stranger",
    "data of a stranger",
    "both legs learned by handshake",
];

#[derive(Default)]
struct Total {
    drops: DropCounters,
    steps: BTreeMap<&'static str, u64>,
}

/// Runs one sequence and adds what it came to.
fn run(seed: u64, total: &mut Total) {
    let _seed = Seed(seed);
    let mut world = World::new(Random(seed));
    let operations = 50 + world.random.below(OPERATIONS_MAX - 50);
    for _ in 0..operations {
        world.step();
        world.check();
    }
    world.close_everything();
    total.drops.add(world.sessions.drops());
    for (step, count) in world.reached {
        *total.steps.entry(step).or_default() += count;
    }
}

#[test]
fn random_operations_do_what_the_reference_does() {
    let mut total = Total::default();
    if let Some(seed) = number(SEED_VARIABLE) {
        run(seed, &mut total);
        return;
    }
    let sequences = number("WAYSTATION_MODEL_SEQUENCES").unwrap_or(SEQUENCES);
    (0..sequences).for_each(|seed| run(seed, &mut total));
    println!("{sequences} sequences");
    for reason in REACHED {
        let count = total.drops.events(reason);
        println!("{}: {count}", reason.name());
        assert!(sequences < SEQUENCES || count > 0, "never {}", reason.name());
    }
    for step in STEPS {
        let count = total.steps.get(step).copied().unwrap_or(0);
        println!("{step}: {count}");
        assert!(sequences < SEQUENCES || count > 0, "never {step}");
    }
}

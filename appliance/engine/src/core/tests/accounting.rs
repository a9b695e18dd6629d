//! What a core tells of its sends and of its own time.

use super::bench::Bench;
use crate::core::connection::{Connection, Phase};
use crate::statistics::{Stage, TrafficClass};

/// What a peer takes before it reads.
const TIGHT_BYTES: usize = 40;
/// Enough orders of events to meet each.
const SEEDS: u64 = 16;

#[test]
fn send_of_a_pipe_that_ends_as_the_next_begins_does_not_hide_that_nobody_reads() {
    for seed in 0..SEEDS {
        let mut bench = Bench::new(1, 16, seed);
        let (caller, node) = bench.pipe(TIGHT_BYTES);
        bench.send(caller.socket, &[1; TIGHT_BYTES + 20]);
        bench.settle();
        assert!(does_not_take(&bench, node.tag.slot), "seed {seed}: the rest of the first send");
        // In one burst that rest is taken and more comes than the node has room for, in any order.
        bench.read(node.socket);
        bench.send(caller.socket, &[2; 3 * TIGHT_BYTES]);
        bench.settle();
        assert!(does_not_take(&bench, node.tag.slot), "seed {seed}: the rest of the second send");
        assert_eq!(bench.read_all(node.socket).len(), 20 + 3 * TIGHT_BYTES);
        assert!(!does_not_take(&bench, node.tag.slot), "seed {seed}: all was taken");
        let histograms = &bench.cores[0].fabric.statistics.histograms;
        let ended = histograms.get(Stage::SealToSent, TrafficClass::Pipe).len();
        assert_eq!(ended, bench.cores[0].fabric.statistics.counters.sends, "seed {seed}");
    }
}

/// Whether a side of a pipe has a send in flight that its socket does not take.
fn does_not_take(bench: &Bench, slot: u32) -> bool {
    let Some(Connection { phase: Phase::Pipe(half), stuck, .. }) =
        bench.cores[0].connections.at(slot)
    else {
        panic!("no side of a pipe");
    };
    *stuck && half.in_flight_sent_ns != 0
}

#[test]
fn spinning_counts_as_in_vain_until_something_comes() {
    let mut bench = Bench::new(1, 16, 0);
    let (caller, node) = bench.pipe(1 << 20);
    begin_spinning(&mut bench);
    bench.turn();
    bench.turn();
    let spun_ns = bench.cores[0].fabric.statistics.counters.empty_spins_ns;
    assert!(spun_ns > 0);
    begin_spinning(&mut bench);
    bench.send(caller.socket, b"what was spun for");
    bench.turn();
    let counters = &bench.cores[0].fabric.statistics.counters;
    assert_eq!(counters.empty_spins_ns, spun_ns);
    assert!(counters.spinning_ns > spun_ns);
    // It falls asleep in the end, and then it does not spin.
    bench.settle();
    let slept_ns = bench.cores[0].fabric.statistics.counters.empty_spins_ns;
    bench.settle();
    assert_eq!(bench.cores[0].fabric.statistics.counters.empty_spins_ns, slept_ns);
    assert_eq!(bench.read_all(node.socket), b"what was spun for");
}

#[test]
fn what_is_added_up_or_listed_is_not_in_vain() {
    let mut bench = Bench::new(1, 16, 0);
    let spun_ns = |bench: &Bench| bench.cores[0].fabric.statistics.counters.empty_spins_ns;
    begin_spinning(&mut bench);
    bench.turn();
    bench.turn();
    let before_ns = spun_ns(&bench);
    begin_spinning(&mut bench);
    bench.cores[0].begin_traffic_walk();
    bench.turn();
    begin_spinning(&mut bench);
    bench.cores[0].begin_listing(Box::default());
    bench.turn();
    assert_eq!(spun_ns(&bench), before_ns);
    begin_spinning(&mut bench);
    bench.turn();
    assert!(spun_ns(&bench) > before_ns);
}

/// Lets the last turns of a core have been full ones.
fn begin_spinning(bench: &mut Bench) {
    /// More than make a core spin.
    const FULL_TURNS: u64 = 5;
    const RECEIVES: u64 = 100;
    let core = &mut bench.cores[0];
    for _ in 0..FULL_TURNS {
        core.fabric.statistics.counters.receives += RECEIVES;
        core.waiting.turn_ended(core.ended_ns, core.fabric.statistics.counters.receives);
    }
}

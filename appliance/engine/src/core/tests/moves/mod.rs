//! Links move at random between three data cores, and all of them to the cores of another process,
//! while their peers do what peers do.
//!
//! Peers, kernel, management core and time are played by the test, from a seed, on simulated
//! ports. Every record must open, so none may be lost, repeated or out of order; every byte of a
//! session is compared, credit is added up, and at the end everything has arrived and nothing is
//! left. `WAYSTATION_MODEL_MOVES` says how many moves to make.

mod peer;
mod world;

use waystation_proving::model::{SEED_VARIABLE, Seed, number};
use world::World;

/// Moves of a plain `cargo test`: a few seconds without optimisation.
const MOVES: u64 = 200;
/// Moves within one world, after which another one begins.
const MOVES_PER_WORLD: u64 = 100;
/// Steps within which so many moves must have been made.
const STEPS_MAX: u64 = 4_000_000;

/// Moves from which on what seldom happens must have happened, too. A world is not the same twice:
/// the cores draw nonces by themselves.
const MANY_MOVES: u64 = 20_000;

/// Worlds whose links are refused, and what happens in each before.
const REFUSED_WORLDS: u64 = 8;
const STEPS_UNTIL_REFUSED: usize = 3000;

/// What must have happened at least once, or the steps are too tame.
const REACHED: [&str; 11] = [
    "moved",
    "stayed: peer_moves",
    "stayed: another_moves",
    "pong",
    "reset by a peer",
    "rejected",
    "answered",
    "out of credit",
    "link ended",
    "sealed in place",
    "large frame",
];

/// What happens once in a thousand moves or so.
const SELDOM: [&str; 6] = [
    "came back",
    "stayed: query_pending",
    "stayed: no_such_link",
    "handed over",
    "not handed over",
    "not handed over at once",
];

fn run(seed: u64, moves: u64) -> World {
    let _seed = Seed(seed);
    let mut world = World::new(seed);
    let mut steps = 0;
    while world.moves < moves {
        assert!(steps < STEPS_MAX, "links do not move");
        world.step();
        steps += 1;
    }
    world.let_everything_arrive();
    world.end_everything();
    world
}

#[test]
fn links_that_move_lose_nothing_and_keep_its_order() {
    if let Some(seed) = number(SEED_VARIABLE) {
        run(seed, MOVES_PER_WORLD);
        return;
    }
    let moves = number("WAYSTATION_MODEL_MOVES").unwrap_or(MOVES);
    let (mut made, mut delivered_bytes, mut seed) = (0, 0, 0);
    let mut reached = std::collections::BTreeMap::<&str, u64>::new();
    while made < moves {
        let world = run(seed, MOVES_PER_WORLD.min(moves - made));
        made += world.moves;
        delivered_bytes += world.delivered_bytes;
        for (step, count) in world.reached {
            *reached.entry(step).or_default() += count;
        }
        seed += 1;
    }
    println!("{made} moves, {delivered_bytes} bytes delivered: {reached:?}");
    let wanted = |least: u64, steps: &'static [&'static str]| {
        let steps = if moves < least { &[] } else { steps };
        steps.iter().find(|step| !reached.contains_key(**step))
    };
    assert_eq!(wanted(MOVES, &REACHED), None, "never reached");
    assert_eq!(wanted(MANY_MOVES, &SELDOM), None, "never reached");
    assert!(delivered_bytes > made * 1000, "only {delivered_bytes} bytes were delivered");
}

#[test]
fn process_without_room_for_the_sessions_of_links_keeps_nothing_of_them() {
    let mut blocks = 0;
    for seed in 0..REFUSED_WORLDS {
        let _seed = Seed(seed);
        let mut world = World::new(seed);
        (0..STEPS_UNTIL_REFUSED).for_each(|_| world.step());
        blocks += world.be_refused();
        world.let_everything_arrive();
        world.end_everything();
    }
    assert!(blocks > 0, "nothing waited in any link");
}

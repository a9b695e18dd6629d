//! Fairness: on a link, sources take turns, and sessions within a source.

use crate::world::{Seen, WINDOW, World};
use std::collections::BTreeMap;
use waystation_astral::frame::Profile;
use waystation_relay::limits::QUANTUM_BYTES;

/// Payload bytes seen, by the thousands of the session's nonce at its caller.
fn shares(seen: &[Seen]) -> BTreeMap<u64, usize> {
    let mut shares = BTreeMap::new();
    for seen in seen {
        if let Seen::Data { nonce, payload } = seen {
            *shares.entry((nonce - 1_000_000) / 1000).or_default() += payload.len();
        }
    }
    shares
}

#[test]
fn source_with_a_hundred_sessions_gets_no_more_than_one_with_a_single_session() {
    for cores in [1, 2] {
        let mut world = World::new(cores);
        let many = world.link(0, 0, Profile::P4);
        let one = world.link(cores - 1, 1, Profile::P4);
        let b = world.link(0, 2, Profile::P4);
        world.has_room = false;
        let join = |world: &mut World, from, nonce| {
            world.join(from, b, nonce, (WINDOW, WINDOW));
            for _ in 0..16 {
                world.data(from, nonce, &[nonce as u8; 8192]);
            }
        };
        for session in 0..50 {
            join(&mut world, many, 1000 + session);
        }
        join(&mut world, one, 2000);
        world.fill(b, 4 * QUANTUM_BYTES);
        let shares = shares(&world.seen(b));
        assert_eq!(shares, BTreeMap::from([(1, 2 * QUANTUM_BYTES), (2, 2 * QUANTUM_BYTES)]));
        assert_eq!(world.cores[0].sources(), 2);
    }
}

#[test]
fn turn_cut_short_by_the_room_goes_on_where_it_was() {
    let mut world = World::new(1);
    let links = [0, 1, 2].map(|link| world.link(0, link, Profile::P4));
    let b = world.link(0, 3, Profile::P4);
    world.has_room = false;
    for (place, &link) in links.iter().enumerate() {
        let nonce = 1000 * (place as u64 + 1);
        world.join(link, b, nonce, (WINDOW, WINDOW));
        for _ in 0..32 {
            world.data(link, nonce, &[1; 8192]);
        }
    }
    let mut total = BTreeMap::new();
    for _ in 0..30 {
        world.fill(b, 10_000);
        for (source, bytes) in shares(&world.seen(b)) {
            *total.entry(source).or_default() += bytes;
        }
        let (least, most) = (total.values().min().unwrap(), total.values().max().unwrap());
        assert!(total.len() < 3 || most - least <= QUANTUM_BYTES, "{total:?}");
    }
    assert_eq!(total.values().sum::<usize>(), 300_000);
}

#[test]
fn source_that_runs_dry_leaves_the_link_to_the_others() {
    let mut world = World::new(1);
    let (small, large) = (world.link(0, 0, Profile::P4), world.link(0, 1, Profile::P4));
    let b = world.link(0, 2, Profile::P4);
    world.has_room = false;
    world.join(small, b, 1000, (WINDOW, WINDOW));
    world.join(large, b, 2000, (WINDOW, WINDOW));
    world.data(small, 1000, &[1; 100]);
    for _ in 0..32 {
        world.data(large, 2000, &[2; 8192]);
    }
    world.fill(b, 4 * QUANTUM_BYTES);
    let expected = BTreeMap::from([(1, 100), (2, 4 * QUANTUM_BYTES - 100)]);
    assert_eq!(shares(&world.seen(b)), expected);
}

#[test]
fn sources_are_forgotten_with_their_last_session() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P4);
    world.has_room = false;
    for round in 0..3 {
        for session in 0..5 {
            let nonce = 100 * round + session;
            let at_b = world.join(a, b, nonce, (WINDOW, WINDOW));
            world.data(a, nonce, &[1; 1000]);
            world.data(b, at_b, &[1; 1000]);
        }
        assert_eq!(world.cores[0].sources(), 2);
        if round == 0 {
            world.down(b);
            world.fill(a, 1 << 20);
            world.link(0, 1, Profile::P4);
        } else {
            for session in 0..5 {
                world.reset(a, 100 * round + session);
            }
            world.fill(b, 1 << 20);
        }
        assert_eq!((world.sessions(), world.cores[0].sources()), (0, 0));
    }
}

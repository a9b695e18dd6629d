//! Datagrams of UDP sessions take no memory from the heap, whatever they are.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "udp/packets.rs"]
mod packets;
#[path = "udp/world.rs"]
#[allow(dead_code, reason = "other tests need the rest")]
mod world;

use packets::{KEYS, cookie_reply, initiation, response, transport};
use waystation_proving::allocator::{CountingAllocator, allocations};
use waystation_relay::udp::{LocalPort, Outcome, Protocol, Settings, Side};
use world::{
    HOME, PORTS, World, address, by_handshake, by_proof, fixed, rate, settings, wireguard,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Counts what 200 rounds of the same datagrams take and what passes of them.
fn rounds(world: &mut World, datagrams: &[(LocalPort, &str, Vec<u8>)]) -> (u64, u64) {
    let from: Vec<_> = datagrams.iter().map(|(_, from, _)| address(from)).collect();
    let before = allocations();
    let mut passed = 0;
    for _ in 0..200 {
        for ((port, _, payload), from) in datagrams.iter().zip(&from) {
            let outcome = world.sessions.receive(world.now_ns, *port, *from, payload, &mut |_| ());
            passed += u64::from(matches!(outcome, Outcome::Forward { .. } | Outcome::Answer(_)));
            world.now_ns += 100_000_000;
        }
        world.sessions.sweep(world.now_ns, &mut |_| ());
    }
    (allocations() - before, passed)
}

#[test]
fn wireguard_takes_nothing_from_the_heap() {
    let mut world = World::new();
    let wanted = settings([by_handshake(), fixed(HOME[1])], wireguard());
    world.try_open(Settings { rate: rate(1_000, 1_000_000), ..wanted }).unwrap();
    world.shakes_hands(HOME[0], 1, HOME[1], 2);
    let away = "198.51.100.7:3000";
    let [a, b] = PORTS;
    let datagrams = [
        (a, HOME[0], transport(2, 1000)),
        (b, HOME[1], transport(1, 1000)),
        (a, HOME[0], initiation(3, &KEYS[1])),
        (b, HOME[1], response(4, 3, &KEYS[0])),
        (b, HOME[1], cookie_reply(3)),
        (a, away, transport(2, 0)),
        // The address changes, and changes back, in every round.
        (a, away, initiation(5, &KEYS[1])),
        (b, HOME[1], response(6, 5, &KEYS[0])),
        (a, HOME[0], initiation(7, &KEYS[1])),
        (b, HOME[1], response(8, 7, &KEYS[0])),
        (a, away, b"junk".to_vec()),
        (a, away, initiation(3, &KEYS[0])),
    ];
    let (allocations, passed) = rounds(&mut world, &datagrams);
    assert_eq!(allocations, 0);
    // All but the first are known by the second round's indices, too.
    assert!(passed > 200 * 8, "{passed}");
}

#[test]
fn other_protocols_and_proofs_take_nothing_from_the_heap() {
    let mut world = World::new();
    let session = world.open([by_proof(Side::A), fixed(HOME[1])], Protocol::Opaque);
    let proof = world.proof(session, Side::A, 1);
    world.receive(Side::A, HOME[0], &proof);
    let [a, b] = PORTS;
    let mut datagrams = vec![
        (a, HOME[0], b"up".to_vec()),
        (b, HOME[1], b"down".to_vec()),
        (a, "198.51.100.7:3000", b"stranger".to_vec()),
        (LocalPort(9), HOME[0], b"nowhere".to_vec()),
    ];
    // Each moves the leg, then is a replay that does not.
    for counter in 2..12 {
        let from = if counter % 2 == 0 { "198.51.100.7:3000" } else { HOME[0] };
        datagrams.push((a, from, world.proof(session, Side::A, counter).to_vec()));
    }
    let (allocations, passed) = rounds(&mut world, &datagrams);
    assert_eq!(allocations, 0);
    assert!(passed >= 2 * 200 + 10, "{passed}");
}

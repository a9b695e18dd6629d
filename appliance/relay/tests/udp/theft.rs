//! What somebody cannot do who is not the end of a leg: the threats of
//! `docs/protocols/opaque-udp.md`, one after the other.

use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::limits::STRANGER_BURST_DATAGRAMS;
use waystation_relay::udp::{Event, Evidence, LocalPort, Outcome, Protocol, Side};

use crate::packets::{KEYS, cookie_reply, initiation, response, transport};
use crate::world::*;

const THIEF: &str = "198.51.100.66:666";

fn with_learned_a() -> (World, UdpSessionTag) {
    let mut world = World::new();
    let session = world.open([by_handshake(), fixed(HOME[1])], wireguard());
    world.shakes_hands(HOME[0], 1, HOME[1], 2);
    world.take_events();
    (world, session)
}

/// Data still goes to, and comes from, where the end is.
fn assert_unharmed(world: &mut World) {
    assert_eq!(world.passes(Side::B, HOME[1], &transport(1, 0)), address(HOME[0]));
    assert_eq!(world.passes(Side::A, HOME[0], &transport(2, 0)), address(HOME[1]));
}

#[test]
fn off_path_stranger_without_the_public_key_gets_nothing_through() {
    let (mut world, _) = with_learned_a();
    let guessed = initiation(7, &KEYS[0]);
    for _ in 0..1_000 {
        assert_eq!(world.refuses(Side::A, THIEF, &guessed), DropReason::UdpHandshakeRejected);
        let data = transport(0x1234, 0);
        assert_eq!(world.refuses(Side::A, THIEF, &data), DropReason::UdpUnknownReceiver);
        assert_eq!(world.refuses(Side::A, THIEF, b"junk"), DropReason::UdpNotWireguard);
        assert_eq!(world.refuses(Side::A, THIEF, &cookie_reply(1)), DropReason::UdpUnproven);
        let answer = response(1, 7, &KEYS[1]);
        assert_eq!(world.refuses(Side::A, THIEF, &answer), DropReason::UdpUnknownReceiver);
    }
    // None of it has used up what a roaming end needs.
    assert_eq!(world.passes(Side::A, THIEF, &initiation(9, &KEYS[1])), address(HOME[1]));
    assert_unharmed(&mut world);
}

#[test]
fn handshake_the_other_end_does_not_answer_moves_nothing() {
    let (mut world, session) = with_learned_a();
    // Seen on the way and sent again: its timestamp is old, so the other end is silent.
    for _ in 0..5 {
        world.passes(Side::A, THIEF, &initiation(1, &KEYS[1]));
        world.wait(1);
    }
    assert_unharmed(&mut world);
    assert_eq!(world.address_of(session, Side::A), Some(address(HOME[0])));
    assert!(world.take_events().is_empty());
}

#[test]
fn two_strangers_who_answer_each_other_move_nothing() {
    let mut world = World::new();
    let session = world.open([by_handshake(), by_handshake()], wireguard());
    world.receive(Side::A, HOME[0], &initiation(1, &KEYS[1]));
    world.passes(Side::B, HOME[1], &initiation(2, &KEYS[0]));
    world.passes(Side::A, HOME[0], &response(1, 2, &KEYS[1]));
    world.passes(Side::B, HOME[1], &transport(1, 0));
    world.take_events();
    // They know both public keys, and each other's indices.
    let other = "198.51.100.67:667";
    world.passes(Side::A, THIEF, &initiation(50, &KEYS[1]));
    assert_eq!(world.passes(Side::B, other, &response(51, 50, &KEYS[0])), address(THIEF));
    let reason = world.refuses(Side::A, THIEF, &transport(51, 0));
    assert_eq!(reason, DropReason::UdpUnknownReceiver);
    assert!(world.take_events().is_empty());
    for side in Side::BOTH {
        assert_eq!(world.address_of(session, side), Some(address(HOME[side.index()])));
    }
    assert_unharmed(&mut world);
}

#[test]
fn end_that_is_heard_keeps_its_leg_whoever_shows_its_index() {
    let (mut world, session) = with_learned_a();
    for _ in 0..200 {
        world.receive(Side::A, THIEF, &transport(2, 0));
        world.now_ns += SECOND_NS;
        assert_unharmed(&mut world);
    }
    assert_eq!(world.address_of(session, Side::A), Some(address(HOME[0])));
}

#[test]
fn leg_of_a_silent_end_that_was_followed_wrongly_is_given_back_by_its_first_word() {
    let (mut world, session) = with_learned_a();
    world.wait(10);
    world.passes(Side::A, THIEF, &transport(2, 0));
    assert_eq!(world.passes(Side::B, HOME[1], &transport(1, 0)), address(THIEF));
    world.take_events();
    // The persistent keep-alive of the true end.
    world.wait(15);
    world.passes(Side::A, HOME[0], &transport(2, 0));
    let (from, to) = (address(THIEF), address(HOME[0]));
    let by = Evidence::TakenBack;
    assert_eq!(world.take_events(), [Event::Rebound { session, side: Side::A, from, to, by }]);
    assert_unharmed(&mut world);
    // And no such thing happens again before the ends have shaken hands.
    for _ in 0..100 {
        world.wait(1);
        world.receive(Side::A, THIEF, &transport(2, 0));
        assert_eq!(world.passes(Side::B, HOME[1], &transport(1, 0)), address(HOME[0]));
    }
    world.shakes_hands(HOME[0], 11, HOME[1], 12);
    world.wait(10);
    world.passes(Side::A, "198.51.100.9:9", &transport(12, 0));
    assert_eq!(world.passes(Side::B, HOME[1], &transport(11, 0)), address("198.51.100.9:9"));
}

#[test]
fn end_whose_leg_is_held_by_another_gets_it_back_with_a_handshake() {
    let (mut world, session) = with_learned_a();
    world.wait(10);
    world.passes(Side::A, THIEF, &transport(2, 0));
    world.passes(Side::B, HOME[1], &transport(1, 0));
    assert_eq!(world.address_of(session, Side::A), Some(address(THIEF)));
    // It had no keep-alives, and speaks only when the time to take back is over.
    world.wait(100);
    world.passes(Side::A, THIEF, &transport(2, 0));
    world.passes(Side::A, HOME[0], &initiation(21, &KEYS[1]));
    assert_eq!(world.passes(Side::B, HOME[1], &response(22, 21, &KEYS[0])), address(HOME[0]));
    assert_eq!(world.passes(Side::B, HOME[1], &transport(21, 0)), address(HOME[0]));
}

#[test]
fn strangers_are_looked_at_no_more_often_than_allowed() {
    let (mut world, session) = with_learned_a();
    world.wait(1);
    let mut passed = 0;
    for number in 0..500_u32 {
        let from = format!("198.51.100.{}:{}", number % 250, 1 + number);
        match world.receive(Side::A, &from, &initiation(number, &KEYS[1])) {
            Outcome::Forward { .. } => passed += 1,
            outcome => assert_eq!(outcome, Outcome::Drop(DropReason::UdpStrangersOverRate)),
        }
    }
    assert_eq!(passed, STRANGER_BURST_DATAGRAMS);
    assert_unharmed(&mut world);
    assert_eq!(world.sessions.listed(session).unwrap().dropped_packets, 500 - passed);
}

#[test]
fn flood_of_a_million_sources_leaves_no_state_behind() {
    let (mut world, session) = with_learned_a();
    let shared = LocalPort(43_000);
    let mut wanted = settings([by_proof(Side::A), by_proof(Side::B)], Protocol::Opaque);
    wanted.legs[0].port = shared;
    wanted.legs[1].port = shared;
    let second = world.try_open(wanted).unwrap();
    let ports = [PORTS[0], PORTS[1], shared];
    let held_bytes = world.sessions.held_bytes();
    world.take_events();
    let payloads = [transport(3, 0), initiation(3, &KEYS[0]), b"junk".to_vec()];
    for number in 0..1_000_000_u32 {
        let from = std::net::SocketAddr::from((
            std::net::Ipv4Addr::from_bits(0x0800_0000 + number),
            1 + (number % 60_000) as u16,
        ));
        let payload = &payloads[(number % 3) as usize];
        let outcome = world.sessions.receive(
            world.now_ns,
            ports[(number / 3 % 3) as usize],
            from,
            payload,
            &mut |event| panic!("{event:?}"),
        );
        assert!(matches!(outcome, Outcome::Drop(_)), "{outcome:?}");
    }
    assert_eq!(world.sessions.held_bytes(), held_bytes);
    assert_eq!(world.sessions.len(), 2);
    assert_eq!(world.address_of(session, Side::A), Some(address(HOME[0])));
    assert_eq!(world.address_of(second, Side::A), None);
    assert_unharmed(&mut world);
}

#[test]
fn answers_are_never_longer_than_what_asked_for_them() {
    let mut world = World::new();
    world.open([by_handshake(), fixed(HOME[1])], wireguard());
    let asked = initiation(1, &KEYS[1]);
    world.passes(Side::A, THIEF, &asked);
    // All that can come back to an address that has proved nothing.
    let cookie = cookie_reply(1);
    assert_eq!(world.passes(Side::B, HOME[1], &cookie), address(THIEF));
    assert!(cookie.len() < asked.len());
    let reason = world.refuses(Side::B, HOME[1], &transport(1, 1000));
    assert_eq!(reason, DropReason::UdpLegUnknown);
    let reason = world.refuses(Side::B, HOME[1], &initiation(5, &KEYS[1]));
    assert_eq!(reason, DropReason::UdpHandshakeRejected);
}

#[test]
fn address_that_is_not_admitted_is_not_even_a_candidate() {
    let (mut world, _) = with_learned_a();
    for from in ["10.1.1.1:5", "127.0.0.1:5", "[::ffff:192.168.0.1]:5", "9.9.9.9:5"] {
        let reason = world.refuses(Side::A, from, &initiation(3, &KEYS[1]));
        assert_eq!(reason, DropReason::UdpAddressDenied);
        let reason = world.refuses(Side::A, from, &transport(2, 0));
        assert_eq!(reason, DropReason::UdpAddressDenied);
    }
    assert_unharmed(&mut world);
}

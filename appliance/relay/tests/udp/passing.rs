//! What passes between two known addresses.

use waystation_relay::drop_reason::DropReason;
use waystation_relay::udp::{LocalPort, Outcome, Protocol, Settings, Side};

use crate::packets::{KEYS, cookie_reply, initiation, response, transport};
use crate::world::*;

fn wireguard_between_fixed_legs() -> World {
    let mut world = World::new();
    world.open([fixed(HOME[0]), fixed(HOME[1])], wireguard());
    world
}

#[test]
fn datagrams_go_to_the_other_leg_as_they_came() {
    let mut world = World::new();
    let session = world.open([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    assert_eq!(world.passes(Side::A, HOME[0], b"up"), address(HOME[1]));
    assert_eq!(world.passes(Side::B, HOME[1], b""), address(HOME[0]));
    assert_eq!(world.passes(Side::B, HOME[1], b"down"), address(HOME[0]));
    let [a, b] = world.sessions.listed(session).unwrap().legs;
    assert_eq!((a.packets, a.bytes, b.packets, b.bytes), (1, 2, 2, 4));
}

#[test]
fn source_of_another_port_or_address_is_a_stranger() {
    let mut world = World::new();
    world.open([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    assert_eq!(world.refuses(Side::A, "8.8.8.8:1001", b"x"), DropReason::UdpUnproven);
    assert_eq!(world.refuses(Side::A, HOME[1], b"x"), DropReason::UdpUnproven);
    let Outcome::Drop(reason) = world.receive_at(LocalPort(7), HOME[0], b"x") else {
        panic!("passed at a port without a session");
    };
    assert_eq!(reason, DropReason::UdpUnknownFlow);
}

#[test]
fn source_without_a_port_is_malformed() {
    let mut world = wireguard_between_fixed_legs();
    assert_eq!(world.refuses(Side::A, "8.8.8.8:0", b"x"), DropReason::UdpMalformed);
}

#[test]
fn junk_does_not_reach_a_wireguard_end() {
    let mut world = wireguard_between_fixed_legs();
    let mut reserved = transport(5, 100);
    reserved[2] = 1;
    for junk in [&b""[..], b"\x04\0\0\0", b"GET / HTTP/1.1\r\n\r\n", &[0; 148], &reserved] {
        assert_eq!(world.refuses(Side::A, HOME[0], junk), DropReason::UdpNotWireguard);
    }
    assert_eq!(world.passes(Side::A, HOME[0], &transport(5, 100)), address(HOME[1]));
}

#[test]
fn handshake_for_somebody_else_is_refused_even_from_a_known_address() {
    let mut world = wireguard_between_fixed_legs();
    let wrong = initiation(1, &KEYS[0]);
    assert_eq!(world.refuses(Side::A, HOME[0], &wrong), DropReason::UdpHandshakeRejected);
    world.passes(Side::A, HOME[0], &initiation(1, &KEYS[1]));
    let wrong = response(2, 1, &KEYS[1]);
    assert_eq!(world.refuses(Side::B, HOME[1], &wrong), DropReason::UdpHandshakeRejected);
    world.passes(Side::B, HOME[1], &response(2, 1, &KEYS[0]));
}

#[test]
fn data_passes_before_a_handshake_was_seen_and_only_to_known_indices_after() {
    let mut world = wireguard_between_fixed_legs();
    world.passes(Side::A, HOME[0], &transport(99, 0));
    world.shakes_hands(HOME[0], 1, HOME[1], 2);
    world.passes(Side::B, HOME[1], &transport(1, 1420));
    let reason = world.refuses(Side::A, HOME[0], &transport(99, 0));
    assert_eq!(reason, DropReason::UdpUnknownReceiver);
    let reason = world.refuses(Side::B, HOME[1], &transport(2, 0));
    assert_eq!(reason, DropReason::UdpUnknownReceiver);
}

#[test]
fn keys_of_the_handshake_before_are_good_through_the_next_two() {
    let mut world = wireguard_between_fixed_legs();
    for round in 0..4 {
        let (index_a, index_b) = (10 + round, 20 + round);
        world.shakes_hands(HOME[0], index_a, HOME[1], index_b);
        world.passes(Side::B, HOME[1], &transport(10 + round.saturating_sub(2), 0));
        world.passes(Side::A, HOME[0], &transport(20 + round.saturating_sub(2), 0));
        world.wait(120);
    }
    world.shakes_hands(HOME[0], 14, HOME[1], 24);
    let oldest = transport(10, 0);
    assert_eq!(world.refuses(Side::B, HOME[1], &oldest), DropReason::UdpUnknownReceiver);
}

#[test]
fn response_nobody_asked_for_is_refused() {
    let mut world = wireguard_between_fixed_legs();
    let reason = world.refuses(Side::B, HOME[1], &response(2, 1, &KEYS[0]));
    assert_eq!(reason, DropReason::UdpUnknownReceiver);
    world.passes(Side::A, HOME[0], &initiation(1, &KEYS[1]));
    world.wait(7);
    let reason = world.refuses(Side::B, HOME[1], &response(2, 1, &KEYS[0]));
    assert_eq!(reason, DropReason::UdpUnknownReceiver);
}

#[test]
fn cookie_reply_goes_to_the_sender_of_the_handshake_and_to_nobody_else() {
    let mut world = wireguard_between_fixed_legs();
    let reason = world.refuses(Side::B, HOME[1], &cookie_reply(1));
    assert_eq!(reason, DropReason::UdpUnknownReceiver);
    world.passes(Side::A, HOME[0], &initiation(1, &KEYS[1]));
    assert_eq!(world.passes(Side::B, HOME[1], &cookie_reply(1)), address(HOME[0]));
    assert_eq!(world.passes(Side::B, HOME[1], &response(2, 1, &KEYS[0])), address(HOME[0]));
    // The initiator is under load as well.
    assert_eq!(world.passes(Side::A, HOME[0], &cookie_reply(2)), address(HOME[1]));
}

#[test]
fn rate_of_a_session_holds_in_each_direction() {
    let mut world = World::new();
    let rate = rate(1_000, 1_000_000);
    let wanted = settings([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    let session = world.try_open(Settings { rate, ..wanted }).unwrap();
    let mut passed = [0_u64; 2];
    for _ in 0..4_000 {
        for side in Side::BOTH {
            let outcome = world.receive(side, HOME[side.index()], &[0; 500]);
            let is_passed = matches!(outcome, Outcome::Forward { .. });
            assert!(is_passed || outcome == Outcome::Drop(DropReason::UdpRateExceeded));
            passed[side.index()] += u64::from(is_passed);
        }
        world.now_ns += SECOND_NS / 2_000;
    }
    // Two seconds of 1000 datagrams, and a burst of 100.
    for count in passed {
        assert!((2_000..=2_110).contains(&count), "{passed:?}");
    }
    let dropped = world.sessions.listed(session).unwrap().dropped_packets;
    assert_eq!(dropped, 8_000 - passed[0] - passed[1]);
}

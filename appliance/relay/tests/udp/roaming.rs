//! Legs that are learned by handshakes, and ends that move.

use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::{Event, Evidence, Side};

use crate::packets::{KEYS, cookie_reply, initiation, response, transport};
use crate::world::*;

const AWAY: &str = "198.51.100.7:3000";

fn with_learned_a() -> (World, UdpSessionTag) {
    let mut world = World::new();
    let session = world.open([by_handshake(), fixed(HOME[1])], wireguard());
    world.shakes_hands(HOME[0], 1, HOME[1], 2);
    world.take_events();
    (world, session)
}

#[test]
fn leg_is_learned_when_the_other_end_answers_and_not_before() {
    let mut world = World::new();
    let session = world.open([by_handshake(), fixed(HOME[1])], wireguard());
    world.passes(Side::A, HOME[0], &initiation(1, &KEYS[1]));
    assert_eq!(world.address_of(session, Side::A), None);
    // A cookie shows that the other end is there, not that it knows this one.
    assert_eq!(world.passes(Side::B, HOME[1], &cookie_reply(1)), address(HOME[0]));
    assert_eq!(world.address_of(session, Side::A), None);
    world.take_events();
    assert_eq!(world.passes(Side::B, HOME[1], &response(2, 1, &KEYS[0])), address(HOME[0]));
    let by = Evidence::Handshake;
    let learned = Event::Learned { session, side: Side::A, address: address(HOME[0]), by };
    assert_eq!(world.take_events(), [learned]);
}

#[test]
fn answer_goes_to_the_one_who_asked_and_not_to_whoever_asked_last() {
    let mut world = World::new();
    let session = world.open([by_handshake(), fixed(HOME[1])], wireguard());
    world.passes(Side::A, HOME[0], &initiation(1, &KEYS[1]));
    for number in 0..3 {
        let from = format!("198.51.100.{number}:9");
        world.passes(Side::A, &from, &initiation(100 + number, &KEYS[1]));
    }
    assert_eq!(world.passes(Side::B, HOME[1], &response(2, 1, &KEYS[0])), address(HOME[0]));
    assert_eq!(world.address_of(session, Side::A), Some(address(HOME[0])));
}

#[test]
fn responder_that_has_moved_is_learned_when_the_initiator_uses_its_index() {
    let mut world = World::new();
    let session = world.open([fixed(HOME[0]), by_handshake()], wireguard());
    // B begins from a first address, so that it is known.
    world.passes(Side::B, HOME[1], &initiation(2, &KEYS[0]));
    world.passes(Side::A, HOME[0], &response(1, 2, &KEYS[1]));
    world.passes(Side::B, HOME[1], &transport(1, 0));
    // It still hears what is sent there, but its own packets come from elsewhere.
    world.passes(Side::A, HOME[0], &initiation(3, &KEYS[1]));
    world.take_events();
    assert_eq!(world.passes(Side::B, AWAY, &response(4, 3, &KEYS[0])), address(HOME[0]));
    assert_eq!(world.address_of(session, Side::B), Some(address(HOME[1])));
    assert_eq!(world.passes(Side::A, HOME[0], &transport(4, 0)), address(AWAY));
    let (from, to) = (address(HOME[1]), address(AWAY));
    let by = Evidence::Handshake;
    assert_eq!(world.take_events(), [Event::Rebound { session, side: Side::B, from, to, by }]);
}

#[test]
fn handshake_from_a_new_address_moves_the_leg_as_soon_as_it_is_answered() {
    let (mut world, session) = with_learned_a();
    world.passes(Side::A, AWAY, &initiation(3, &KEYS[1]));
    // Until then, data goes where the leg is.
    assert_eq!(world.passes(Side::B, HOME[1], &transport(1, 0)), address(HOME[0]));
    assert_eq!(world.passes(Side::B, HOME[1], &response(4, 3, &KEYS[0])), address(AWAY));
    let (from, to) = (address(HOME[0]), address(AWAY));
    let by = Evidence::Handshake;
    assert_eq!(world.take_events(), [Event::Rebound { session, side: Side::A, from, to, by }]);
    assert_eq!(world.passes(Side::B, HOME[1], &transport(3, 0)), to);
    // What was still under way from the old address passes.
    assert_eq!(world.passes(Side::A, HOME[0], &transport(2, 0)), address(HOME[1]));
    assert_eq!(world.address_of(session, Side::A), Some(to));
}

#[test]
fn rebound_nat_is_followed_once_the_old_address_is_silent() {
    let (mut world, session) = with_learned_a();
    for _ in 0..2 {
        assert_eq!(world.passes(Side::A, AWAY, &transport(2, 0)), address(HOME[1]));
        assert_eq!(world.passes(Side::B, HOME[1], &transport(1, 0)), address(HOME[0]));
        world.wait(1);
    }
    world.wait(2);
    world.passes(Side::A, AWAY, &transport(2, 0));
    assert_eq!(world.passes(Side::B, HOME[1], &transport(1, 0)), address(AWAY));
    let (from, to) = (address(HOME[0]), address(AWAY));
    let by = Evidence::Silence;
    assert_eq!(world.take_events(), [Event::Rebound { session, side: Side::A, from, to, by }]);
    for _ in 0..100 {
        world.passes(Side::A, AWAY, &transport(2, 1000));
    }
}

#[test]
fn end_with_keep_alives_alone_is_followed_too() {
    let (mut world, session) = with_learned_a();
    world.wait(25);
    world.passes(Side::A, AWAY, &transport(2, 0));
    world.wait(24);
    assert_eq!(world.passes(Side::B, HOME[1], &transport(1, 0)), address(AWAY));
    assert_eq!(world.address_of(session, Side::A), Some(address(AWAY)));
}

#[test]
fn neither_end_known_is_settled_by_those_who_know_both_keys() {
    let mut world = World::new();
    let session = world.open([by_handshake(), by_handshake()], wireguard());
    let reason = world.refuses(Side::A, HOME[0], &initiation(1, &KEYS[1]));
    assert_eq!(reason, DropReason::UdpLegUnknown);
    assert_eq!(world.passes(Side::B, HOME[1], &initiation(2, &KEYS[0])), address(HOME[0]));
    world.take_events();
    assert_eq!(world.passes(Side::A, HOME[0], &response(3, 2, &KEYS[1])), address(HOME[1]));
    assert_eq!(world.passes(Side::B, HOME[1], &transport(3, 0)), address(HOME[0]));
    let by = Evidence::Handshake;
    let learned = |side: Side| {
        let address = address(HOME[side.index()]);
        Event::Learned { session, side, address, by }
    };
    assert_eq!(world.take_events(), [learned(Side::B), learned(Side::A)]);
    assert_eq!(world.passes(Side::A, HOME[0], &transport(2, 9)), address(HOME[1]));
}

#[test]
fn stranger_cannot_answer_for_an_end_that_is_known() {
    let mut world = World::new();
    let session = world.open([fixed(HOME[0]), by_handshake()], wireguard());
    world.passes(Side::B, HOME[1], &initiation(2, &KEYS[0]));
    world.passes(Side::A, HOME[0], &response(1, 2, &KEYS[1]));
    world.passes(Side::A, HOME[0], &initiation(3, &KEYS[1]));
    // It has seen the initiation and knows the public key; the initiator will not believe it.
    world.passes(Side::B, AWAY, &response(4, 3, &KEYS[0]));
    assert_eq!(world.address_of(session, Side::B), Some(address(HOME[1])));
    assert_eq!(world.passes(Side::A, HOME[0], &transport(2, 0)), address(HOME[1]));
}

//! Legs that are learned by proofs.

use waystation_relay::drop_reason::DropReason;
use waystation_relay::udp::proof::{Claim, LegName, Secret, answered, prove};
use waystation_relay::udp::{Event, Evidence, LocalPort, Outcome, Protocol, Side};

use crate::packets::transport;
use crate::world::*;

const AWAY: &str = "198.51.100.7:3000";

#[test]
fn proof_is_answered_in_its_own_length_and_teaches_the_address() {
    let mut world = World::new();
    let session = world.open([by_proof(Side::A), fixed(HOME[1])], Protocol::Opaque);
    assert_eq!(world.refuses(Side::B, HOME[1], b"x"), DropReason::UdpLegUnknown);
    let proof = world.proof(session, Side::A, 5);
    world.take_events();
    let Outcome::Answer(answer) = world.receive(Side::A, AWAY, &proof) else {
        panic!("no answer");
    };
    assert_eq!(answer.len(), proof.len());
    let leg = LegName { session, side: Side::A };
    assert_eq!(answered(&secret(Side::A), &answer), Some(Claim { leg, counter: 5 }));
    let by = Evidence::Proof;
    let learned = Event::Learned { session, side: Side::A, address: address(AWAY), by };
    assert_eq!(world.take_events(), [learned]);
    assert_eq!(world.passes(Side::B, HOME[1], b"x"), address(AWAY));
    assert_eq!(world.passes(Side::A, AWAY, b"x"), address(HOME[1]));
}

#[test]
fn nothing_but_a_proof_is_taken_from_a_stranger() {
    let mut world = World::new();
    world.open([by_proof(Side::A), fixed(HOME[1])], wireguard());
    for payload in [&transport(1, 0)[..], b"x", b""] {
        assert_eq!(world.refuses(Side::A, AWAY, payload), DropReason::UdpUnproven);
    }
}

#[test]
fn false_proofs_are_refused_and_move_nothing() {
    let mut world = World::new();
    let session = world.open([by_proof(Side::A), by_proof(Side::B)], Protocol::Opaque);
    let leg = LegName { session, side: Side::A };
    let forged = prove(&Secret::new([9; 32]), leg, 1);
    assert_eq!(world.refuses(Side::A, AWAY, &forged), DropReason::UdpProofRejected);
    let mut changed = world.proof(session, Side::A, 1);
    changed[23] = 2;
    assert_eq!(world.refuses(Side::A, AWAY, &changed), DropReason::UdpProofRejected);
    // The other leg's, at this port; and one of a session that is not here.
    let others = world.proof(session, Side::B, 1);
    assert_eq!(world.refuses(Side::A, AWAY, &others), DropReason::UdpUnproven);
    let mut gone = session;
    gone.generation += 1;
    let gone = world.proof(gone, Side::A, 1);
    assert_eq!(world.refuses(Side::A, AWAY, &gone), DropReason::UdpUnproven);
    assert_eq!(world.address_of(session, Side::A), None);
}

#[test]
fn proof_that_was_seen_on_the_way_is_worth_nothing_later() {
    let mut world = World::new();
    let session = world.open([by_proof(Side::A), fixed(HOME[1])], Protocol::Opaque);
    let proof = world.proof(session, Side::A, 5);
    world.receive(Side::A, HOME[0], &proof);
    let older = world.proof(session, Side::A, 4);
    for replayed in [proof, older] {
        assert_eq!(world.refuses(Side::A, AWAY, &replayed), DropReason::UdpProofRejected);
        assert_eq!(world.refuses(Side::A, HOME[0], &replayed), DropReason::UdpProofRejected);
    }
    assert_eq!(world.address_of(session, Side::A), Some(address(HOME[0])));
}

#[test]
fn later_proof_moves_the_leg_at_once() {
    let mut world = World::new();
    let session = world.open([by_proof(Side::A), fixed(HOME[1])], Protocol::Opaque);
    let first = world.proof(session, Side::A, 1);
    world.receive(Side::A, HOME[0], &first);
    world.take_events();
    let second = world.proof(session, Side::A, 2);
    assert!(matches!(world.receive(Side::A, AWAY, &second), Outcome::Answer(_)));
    let (from, to) = (address(HOME[0]), address(AWAY));
    let by = Evidence::Proof;
    assert_eq!(world.take_events(), [Event::Rebound { session, side: Side::A, from, to, by }]);
    assert_eq!(world.refuses(Side::A, HOME[0], b"x"), DropReason::UdpUnproven);
    assert_eq!(world.passes(Side::B, HOME[1], b"x"), to);
}

#[test]
fn proof_from_an_address_that_is_not_admitted_moves_nothing() {
    let mut world = World::new();
    let session = world.open([by_proof(Side::A), fixed(HOME[1])], Protocol::Opaque);
    let proof = world.proof(session, Side::A, 1);
    assert_eq!(world.refuses(Side::A, "10.0.0.1:9", &proof), DropReason::UdpAddressDenied);
    assert_eq!(world.address_of(session, Side::A), None);
}

#[test]
fn legs_that_are_learned_by_proofs_share_a_port() {
    let mut world = World::new();
    let mut opened = Vec::new();
    for number in 0..3 {
        let learning = [by_proof(Side::A), fixed(&format!("8.8.4.4:{}", 5 + number))];
        opened.push(world.open(learning, Protocol::Opaque));
    }
    for (number, session) in opened.iter().enumerate() {
        let from = format!("198.51.100.{number}:9");
        let proof = world.proof(*session, Side::A, 1);
        assert!(matches!(world.receive(Side::A, &from, &proof), Outcome::Answer(_)));
        let to = address(&format!("8.8.4.4:{}", 5 + number));
        assert_eq!(world.passes(Side::A, &from, b"x"), to);
    }
    // One source cannot be two legs.
    let proof = world.proof(opened[1], Side::A, 2);
    assert_eq!(world.refuses(Side::A, "198.51.100.0:9", &proof), DropReason::UdpAddressTaken);
}

#[test]
fn proof_for_another_box_is_payload() {
    let mut world = World::new();
    let session = world.open([by_proof(Side::A), fixed(HOME[1])], Protocol::Opaque);
    let first = world.proof(session, Side::A, 1);
    world.receive(Side::A, HOME[0], &first);
    let mut elsewhere = session;
    elsewhere.core.0 += 1;
    let nested = world.proof(elsewhere, Side::A, 1);
    assert_eq!(world.passes(Side::A, HOME[0], &nested), address(HOME[1]));
}

#[test]
fn proof_at_another_port_is_no_proof() {
    let mut world = World::new();
    let session = world.open([by_proof(Side::A), fixed(HOME[1])], Protocol::Opaque);
    let proof = world.proof(session, Side::A, 1);
    let outcome = world.receive_at(LocalPort(9), AWAY, &proof);
    assert_eq!(outcome, Outcome::Drop(DropReason::UdpUnknownFlow));
}

#[test]
fn wireguard_passes_over_a_leg_that_is_learned_by_proofs() {
    let mut world = World::new();
    let session = world.open([by_proof(Side::A), fixed(HOME[1])], wireguard());
    let proof = world.proof(session, Side::A, 1);
    world.receive(Side::A, HOME[0], &proof);
    world.shakes_hands(HOME[0], 1, HOME[1], 2);
    world.passes(Side::B, HOME[1], &transport(1, 100));
    // Data alone, with an index that is known, does not move such a leg.
    world.wait(10);
    let reason = world.refuses(Side::A, AWAY, &transport(2, 0));
    assert_eq!(reason, DropReason::UdpUnproven);
}

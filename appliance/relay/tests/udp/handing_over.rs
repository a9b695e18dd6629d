//! Sessions of one process that another goes on with.

use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::{OpenError, Outcome, Protocol, SessionState, Settings, Side};

use crate::packets::{KEYS, initiation, response, transport};
use crate::world::*;

const AWAY: &str = "198.51.100.7:3000";

/// The only session of a world, as the other process reads it, in that process's world.
fn move_to_another(old: &World, settings: Settings) -> (World, Result<UdpSessionTag, OpenError>) {
    let states: Vec<SessionState> = old.sessions.states().collect();
    let [state] = &states[..] else { panic!("{states:?} are not one session") };
    let mut new = World::new();
    new.now_ns = old.now_ns;
    let taken = new.sessions.take_over(settings, state);
    (new, taken)
}

#[test]
fn wireguard_session_goes_on_with_its_addresses_and_indices() {
    let mut old = World::new();
    // Its place had a session before, so its tag is not the first one of an empty table.
    let before = old.open([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    assert!(old.close(before));
    let legs = || [by_handshake(), fixed(HOME[1])];
    let session = old.open(legs(), wireguard());
    old.shakes_hands(HOME[0], 1, HOME[1], 2);
    let (mut new, taken) = move_to_another(&old, settings(legs(), wireguard()));
    assert_eq!(taken, Ok(session));
    assert_eq!(new.sessions.listed(session), old.sessions.listed(session));
    assert_eq!(new.passes(Side::A, HOME[0], &transport(2, 1)), address(HOME[1]));
    assert_eq!(new.passes(Side::B, HOME[1], &transport(1, 1)), address(HOME[0]));
    assert_eq!(new.refuses(Side::A, AWAY, &transport(77, 0)), DropReason::UdpUnknownReceiver);
}

#[test]
fn handshake_that_began_before_is_finished_after() {
    let mut old = World::new();
    let legs = || [by_handshake(), fixed(HOME[1])];
    let session = old.open(legs(), wireguard());
    old.shakes_hands(HOME[0], 1, HOME[1], 2);
    assert_eq!(old.passes(Side::A, AWAY, &initiation(5, &KEYS[1])), address(HOME[1]));
    let (mut new, taken) = move_to_another(&old, settings(legs(), wireguard()));
    taken.unwrap();
    assert_eq!(new.passes(Side::B, HOME[1], &response(6, 5, &KEYS[0])), address(AWAY));
    assert_eq!(new.passes(Side::A, AWAY, &transport(6, 0)), address(HOME[1]));
    assert_eq!(new.address_of(session, Side::A), Some(address(AWAY)));
}

#[test]
fn token_is_good_still_and_an_old_proof_is_not() {
    let mut old = World::new();
    let legs = || [by_proof(Side::A), fixed(HOME[1])];
    let session = old.open(legs(), Protocol::Opaque);
    let proof = old.proof(session, Side::A, 5);
    assert!(matches!(old.receive(Side::A, HOME[0], &proof), Outcome::Answer(_)));
    let (mut new, taken) = move_to_another(&old, settings(legs(), Protocol::Opaque));
    assert_eq!(taken, Ok(session));
    assert_eq!(new.passes(Side::A, HOME[0], b"on"), address(HOME[1]));
    assert!(!matches!(new.receive(Side::A, AWAY, &proof), Outcome::Answer(_)));
    let newer = new.proof(session, Side::A, 6);
    assert!(matches!(new.receive(Side::A, AWAY, &newer), Outcome::Answer(_)));
    assert_eq!(new.passes(Side::B, HOME[1], b"on"), address(AWAY));
}

#[test]
fn secret_of_a_leg_is_told_and_not_shown() {
    let mut world = World::new();
    world.open([by_proof(Side::A), fixed(HOME[1])], Protocol::Opaque);
    let state = world.sessions.states().next().unwrap();
    assert_eq!(state.legs[0].secret(), Some(secret(Side::A)));
    assert_eq!(state.legs[1].secret(), None);
    assert!(!format!("{state:?}").contains("1, 1, 1"));
}

#[test]
fn place_that_is_taken_or_beyond_the_table_is_refused() {
    let mut old = World::new();
    let legs = || [fixed(HOME[0]), fixed(HOME[1])];
    old.open(legs(), Protocol::Opaque);
    let (mut new, taken) = move_to_another(&old, settings(legs(), Protocol::Opaque));
    taken.unwrap();
    let state = old.sessions.states().next().unwrap();
    let again = new.sessions.take_over(settings(legs(), Protocol::Opaque), &state);
    assert_eq!(again, Err(OpenError::TooManySessions));
    let mut small = World::with_room(0);
    let refused = small.sessions.take_over(settings(legs(), Protocol::Opaque), &state);
    assert_eq!(refused, Err(OpenError::TooManySessions));
    assert_eq!((new.sessions.len(), small.sessions.len()), (1, 0));
}

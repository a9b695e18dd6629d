//! What may be opened, and that a session leaves nothing behind.

use waystation_relay::address_policy::Denied;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::limits::{UDP_IDLE_MAX_NS, UDP_IDLE_MIN_NS, UDP_SESSIONS_MAX};
use waystation_relay::udp::tier::{Tier, TierChoice};
use waystation_relay::udp::{
    Event, Learning, LegSettings, LocalPort, OpenError, Outcome, Protocol, Sessions, Settings, Side,
};

use crate::packets::KEYS;
use crate::world::*;

#[test]
fn session_with_two_fixed_legs_has_its_path_at_once() {
    let mut world = World::new();
    let session = world.open([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    assert_eq!(world.take_events(), [Event::Opened { session }]);
    let path = world.sessions.path(session).unwrap();
    assert_eq!(path.addresses, HOME.map(address));
    assert_eq!(path.ports, PORTS);
    assert_eq!(path.tier.tier, Tier::Plain);
}

#[test]
fn session_with_an_unknown_leg_has_no_path() {
    let mut world = World::new();
    let session = world.open([fixed(HOME[0]), by_proof(Side::B)], Protocol::Opaque);
    assert_eq!(world.sessions.path(session), None);
}

#[test]
fn every_address_goes_through_the_policy() {
    let mut world = World::new();
    let denied = [
        ("127.0.0.1:5", Denied::Loopback),
        ("[::ffff:10.0.0.1]:5", Denied::Private),
        ("9.9.9.9:5", Denied::Own),
        ("169.254.169.254:5", Denied::Metadata),
    ];
    for (text, why) in denied {
        for learning in [
            fixed(text),
            Learning::Handshake { first: Some(address(text)) },
            Learning::Proof { secret: secret(Side::B), first: Some(address(text)) },
        ] {
            let wanted = settings([fixed(HOME[0]), learning], wireguard());
            assert_eq!(world.try_open(wanted), Err(OpenError::AddressDenied(Side::B, why)));
        }
    }
    assert!(world.sessions.is_empty() && world.events.is_empty());
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut world = World::new();
    let both = || [fixed(HOME[0]), fixed(HOME[1])];
    let mut no_port = settings(both(), Protocol::Opaque);
    no_port.legs[1].port = LocalPort(0);
    assert_eq!(world.try_open(no_port), Err(OpenError::NoPort(Side::B)));
    let no_port = settings([fixed("8.8.8.8:0"), fixed(HOME[1])], Protocol::Opaque);
    assert_eq!(world.try_open(no_port), Err(OpenError::NoPort(Side::A)));
    let opaque = settings([by_handshake(), fixed(HOME[1])], Protocol::Opaque);
    assert_eq!(world.try_open(opaque), Err(OpenError::NoHandshakes(Side::A)));
    for idle_limit_ns in [0, UDP_IDLE_MIN_NS - 1, UDP_IDLE_MAX_NS + 1] {
        let wanted = Settings { idle_limit_ns, ..settings(both(), Protocol::Opaque) };
        assert_eq!(world.try_open(wanted), Err(OpenError::IdleLimit));
    }
    for bytes_per_s in [1, 1023, 1_000_000_000_001] {
        let wanted = Settings { rate: rate(0, bytes_per_s), ..settings(both(), Protocol::Opaque) };
        assert_eq!(world.try_open(wanted), Err(OpenError::Rate));
    }
    let keyless = Protocol::Wireguard { public_keys: [None, Some(KEYS[1])] };
    let nobodys = settings([by_handshake(), by_handshake()], keyless);
    assert_eq!(world.try_open(nobodys), Err(OpenError::NothingProves));
    assert!(world.sessions.is_empty() && world.events.is_empty());
}

#[test]
fn leg_that_is_learned_by_handshakes_has_its_port_for_itself() {
    let mut world = World::new();
    let first = world.open([by_handshake(), fixed(HOME[1])], wireguard());
    let mut second = settings([fixed("8.8.4.4:7"), fixed("8.8.4.4:8")], Protocol::Opaque);
    assert_eq!(world.try_open(second.clone()), Err(OpenError::PortTaken(Side::A)));
    second.legs[0].port = LocalPort(43_000);
    // Port B of the first session is shared with whoever has another address.
    world.try_open(second.clone()).unwrap();
    second.legs = [by_handshake(), fixed("8.8.4.4:9")]
        .map(|learning| LegSettings { port: PORTS[1], learning });
    second.protocol = wireguard();
    assert_eq!(world.try_open(second), Err(OpenError::PortTaken(Side::A)));
    assert!(world.close(first));
    world.open([by_handshake(), fixed(HOME[1])], wireguard());
}

#[test]
fn one_address_is_one_leg_at_a_port() {
    let mut world = World::new();
    world.open([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    let again = settings([fixed("[::ffff:8.8.8.8]:1000"), by_proof(Side::B)], Protocol::Opaque);
    assert_eq!(world.try_open(again), Err(OpenError::AddressTaken(Side::A)));
    let mut twice = settings([fixed("8.8.4.4:7"), fixed("8.8.4.4:7")], Protocol::Opaque);
    world.try_open(twice.clone()).unwrap();
    twice.legs = ["8.8.4.4:8", "8.8.4.4:8"]
        .map(|text| LegSettings { port: LocalPort(9), learning: fixed(text) });
    assert_eq!(world.try_open(twice), Err(OpenError::AddressTaken(Side::B)));
}

#[test]
fn closed_session_is_gone_and_its_tag_names_no_other() {
    let mut world = World::new();
    let session = world.open([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    world.take_events();
    assert!(world.close(session) && !world.close(session));
    let reason = DropReason::SessionClosedByOperator;
    assert_eq!(world.take_events(), [Event::Closed { session, reason }]);
    assert_eq!(world.sessions.drops().events(reason), 1);
    let reason = world.refuses(Side::A, HOME[0], b"x");
    assert_eq!(reason, DropReason::UdpUnknownFlow);
    let next = world.open([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    assert_eq!(next.slot, session.slot);
    assert_ne!(next, session);
    assert!(!world.close(session));
    assert_eq!(world.sessions.path(session), None);
    assert!(!world.sessions.set_tier(session, TierChoice::UNCHOSEN));
    assert!(!world.sessions.note_offloaded(session, Side::A, 1, 1, 1));
}

#[test]
fn table_takes_as_many_as_it_was_made_for() {
    let mut world = World::with_room(3);
    for number in 1..=3 {
        let legs = [fixed(&format!("8.8.8.8:{number}")), fixed(&format!("8.8.4.4:{number}"))];
        world.open(legs, Protocol::Opaque);
    }
    let one_more = settings([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    assert_eq!(world.try_open(one_more), Err(OpenError::TooManySessions));
    assert_eq!(world.sessions.listed_from(0).count(), 3);
    assert_eq!(world.sessions.listed_from(2).count(), 1);
}

#[test]
fn twenty_thousand_sessions_are_found_and_fit_into_what_is_promised() {
    let mut world = World::with_room(usize::MAX);
    let home =
        |number: usize, host: u8| format!("8.8.{host}.{}:{}", number % 200, 1 + number / 200);
    for number in 0..UDP_SESSIONS_MAX {
        let learning = [fixed(&home(number, 1)), fixed(&home(number, 2))];
        let mut wanted = settings(learning, Protocol::Opaque);
        wanted.legs[0].port = LocalPort(1 + number as u16);
        world.try_open(wanted).unwrap();
    }
    assert_eq!(world.sessions.len(), UDP_SESSIONS_MAX);
    assert!(world.sessions.held_bytes() <= 28 << 20, "{}", world.sessions.held_bytes());
    for number in (0..UDP_SESSIONS_MAX).step_by(97) {
        let back = world.receive_at(PORTS[1], &home(number, 2), b"down");
        let expected = address(&home(number, 1));
        let Outcome::Forward { to, port, .. } = back else {
            panic!("{number}: {back:?}");
        };
        assert_eq!((to, port), (expected, LocalPort(1 + number as u16)));
    }
    let small = Sessions::new(Default::default(), 10, [1, 2], policy());
    assert!(small.held_bytes() < 16 << 10);
}

#[test]
fn tier_of_a_session_is_what_its_owner_chose() {
    let mut world = World::new();
    let session = world.open([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    assert_eq!(world.sessions.listed(session).unwrap().tier, TierChoice::UNCHOSEN);
    let tier = TierChoice { tier: Tier::Xdp, not_xdp: None, not_gso: None };
    assert!(world.sessions.set_tier(session, tier));
    assert_eq!(world.sessions.path(session).unwrap().tier, tier);
}

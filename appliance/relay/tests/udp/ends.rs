//! How sessions and addresses end.

use std::sync::Arc;
use waystation_relay::address_policy::AddressPolicy;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::udp::{Event, LocalPort, Protocol, Settings, Side};

use crate::packets::{KEYS, initiation, response, transport};
use crate::world::*;

#[test]
fn idle_session_expires_within_a_period_of_its_limit() {
    let mut world = World::new();
    let wanted = settings([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    let session = world.try_open(Settings { idle_limit_ns: 60 * SECOND_NS, ..wanted }).unwrap();
    world.take_events();
    world.sweep_for(50);
    world.passes(Side::A, HOME[0], b"x");
    world.sweep_for(59);
    assert!(world.take_events().is_empty());
    world.sweep_for(10);
    assert_eq!(world.take_events(), [Event::Expired { session }]);
    assert_eq!(world.sessions.drops().events(DropReason::UdpSessionIdle), 1);
    assert!(world.sessions.is_empty());
    assert_eq!(world.refuses(Side::A, HOME[0], b"x"), DropReason::UdpUnknownFlow);
}

#[test]
fn what_a_faster_tier_carries_keeps_a_session_alive() {
    let mut world = World::new();
    let wanted = settings([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    let session = world.try_open(Settings { idle_limit_ns: 60 * SECOND_NS, ..wanted }).unwrap();
    for _ in 0..20 {
        world.sweep_for(50);
        let now_ns = world.now_ns;
        assert!(world.sessions.note_offloaded(session, Side::B, now_ns, 10, 1000));
    }
    let [_, b] = world.sessions.listed(session).unwrap().legs;
    assert_eq!((b.packets, b.bytes), (200, 20_000));
    // Nothing carried is no sign of life.
    for _ in 0..2 {
        world.sweep_for(50);
        let now_ns = world.now_ns;
        world.sessions.note_offloaded(session, Side::B, now_ns, 0, 0);
    }
    assert!(world.sessions.is_empty());
}

#[test]
fn learned_address_is_not_sent_to_without_end() {
    let mut world = World::new();
    let session = world.open([by_handshake(), fixed(HOME[1])], wireguard());
    world.shakes_hands(HOME[0], 1, HOME[1], 2);
    world.take_events();
    for _ in 0..31 {
        world.sweep_for(10);
        world.receive(Side::B, HOME[1], &transport(1, 0));
    }
    let lapsed = Event::Lapsed { session, side: Side::A, address: address(HOME[0]) };
    assert_eq!(world.take_events(), [lapsed]);
    let reason = world.refuses(Side::B, HOME[1], &transport(1, 0));
    assert_eq!(reason, DropReason::UdpLegUnknown);
    // Data alone does not bring it back; a handshake does.
    let reason = world.refuses(Side::A, HOME[0], &transport(2, 0));
    assert_eq!(reason, DropReason::UdpUnproven);
    world.shakes_hands(HOME[0], 3, HOME[1], 4);
    assert_eq!(world.address_of(session, Side::A), Some(address(HOME[0])));
}

#[test]
fn fixed_address_is_sent_to_as_long_as_the_session_lasts() {
    let mut world = World::new();
    world.open([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    world.take_events();
    for _ in 0..60 {
        world.sweep_for(30);
        world.passes(Side::A, HOME[0], b"x");
    }
    assert!(world.take_events().is_empty());
}

#[test]
fn sweep_reaches_every_session_of_a_full_table_in_time() {
    let mut world = World::with_room(5_000);
    for number in 0..5_000_u32 {
        let legs =
            [1, 2].map(|host| fixed(&format!("8.8.{host}.{}:{}", number % 250, 1 + number / 250)));
        let wanted = settings(legs, Protocol::Opaque);
        world.try_open(Settings { idle_limit_ns: 60 * SECOND_NS, ..wanted }).unwrap();
    }
    world.sweep_for(59);
    assert_eq!(world.sessions.len(), 5_000);
    world.sweep_for(11);
    assert_eq!(world.sessions.len(), 0);
    assert_eq!(world.sessions.sweep(world.now_ns, &mut |_| ()), None);
}

#[test]
fn stricter_policy_ends_what_it_does_not_admit() {
    let mut world = World::new();
    let opened = "198.51.100.1:9";
    let fixed_leg = world.open([fixed(opened), fixed(HOME[1])], Protocol::Opaque);
    let mut wanted = settings([by_handshake(), fixed("8.8.4.4:9")], wireguard());
    let port = LocalPort(5_000);
    wanted.legs[0].port = port;
    let learned_leg = world.try_open(wanted).unwrap();
    world.receive_at(port, "198.51.100.2:9", &initiation(1, &KEYS[1]));
    world.receive(Side::B, "8.8.4.4:9", &response(2, 1, &KEYS[0]));
    assert_eq!(world.address_of(learned_leg, Side::A), Some(address("198.51.100.2:9")));
    // Another initiation waits for its answer.
    world.receive_at(port, "198.51.100.3:9", &initiation(3, &KEYS[1]));
    world.take_events();
    let events = &mut world.events;
    let strict = Arc::new(AddressPolicy::default());
    world.sessions.adopt_policy(strict, &mut |event| events.push(event));
    let reason = DropReason::UdpAddressDenied;
    let lapsed = address("198.51.100.2:9");
    assert_eq!(
        world.take_events(),
        [
            Event::Closed { session: fixed_leg, reason },
            Event::Lapsed { session: learned_leg, side: Side::A, address: lapsed },
        ]
    );
    let late = world.refuses(Side::B, "8.8.4.4:9", &response(4, 3, &KEYS[0]));
    assert_eq!(late, DropReason::UdpUnknownReceiver);
}

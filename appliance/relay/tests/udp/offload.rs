//! Sessions that a faster tier carries: what it is told, and what silence means meanwhile.

use waystation_relay::ids::UdpSessionTag;
use waystation_relay::limits::{ROAMING_FRESH_NS, UDP_IDLE_MIN_NS};
use waystation_relay::udp::tier::WhyNot;
use waystation_relay::udp::wireguard::PeerIndex;
use waystation_relay::udp::{Event, Evidence, Pace, Protocol, Settings, Side};

use crate::packets::{KEYS, initiation, response, transport};
use crate::world::*;

const AWAY: &str = "198.51.100.7:3000";

fn against(world: &World, session: UdpSessionTag) -> Option<WhyNot> {
    world.sessions.offer(session).unwrap().against
}

/// A tunnel that has shaken hands and that somebody watches.
fn watched() -> (World, UdpSessionTag) {
    let mut world = World::new();
    let session = world.open([by_handshake(), fixed(HOME[1])], wireguard());
    world.sessions.watch(session, true);
    world.shakes_hands(HOME[0], 1, HOME[1], 2);
    world.take_events();
    (world, session)
}

#[test]
fn a_tunnel_is_offered_once_both_ends_are_known_and_called_something() {
    let mut world = World::new();
    let session = world.open([by_handshake(), fixed(HOME[1])], wireguard());
    world.sessions.watch(session, true);
    assert_eq!(against(&world, session), Some(WhyNot::LegUnknown));
    world.passes(Side::A, HOME[0], &initiation(1, &KEYS[1]));
    world.passes(Side::B, HOME[1], &response(2, 1, &KEYS[0]));
    assert_eq!(against(&world, session), Some(WhyNot::NoHandshake));
    world.take_events();
    world.passes(Side::A, HOME[0], &transport(2, 0));
    assert_eq!(against(&world, session), None);
    assert_eq!(world.take_events(), [Event::Changed { session }]);
    let offer = world.sessions.offer(session).unwrap();
    assert!(offer.is_wireguard);
    let [a, b] = offer.legs;
    assert_eq!((a.indices, b.indices), (Some([PeerIndex(1); 4]), Some([PeerIndex(2); 4])));
    // The next handshake brings other names, and both are told.
    world.passes(Side::A, HOME[0], &initiation(3, &KEYS[1]));
    world.passes(Side::B, HOME[1], &response(4, 3, &KEYS[0]));
    world.passes(Side::A, HOME[0], &transport(4, 0));
    assert_eq!(world.take_events(), [Event::Changed { session }; 2]);
    let [a, _] = world.sessions.offer(session).unwrap().legs;
    assert_eq!(a.indices, Some([1, 3, 1, 1].map(PeerIndex)));
}

#[test]
fn what_a_faster_tier_cannot_keep_is_not_offered() {
    let mut world = World::new();
    let opaque = |legs| settings(legs, Protocol::Opaque);
    let wanted = opaque([fixed(HOME[0]), fixed(HOME[1])]);
    let session = world.try_open(Settings { rate: rate(10, 0), ..wanted }).unwrap();
    assert_eq!(against(&world, session), Some(WhyNot::PacketRate));
    let wanted = opaque([fixed("8.8.8.1:1"), fixed("8.8.8.2:1")]);
    let session = world.try_open(Settings { rate: rate(0, 1 << 20), ..wanted }).unwrap();
    let offer = world.sessions.offer(session).unwrap();
    assert_eq!(offer.against, None);
    assert_eq!(offer.pace, Some(Pace { kib_ns: 976_563, burst_ns: 100_000_000 }));
    assert_eq!(offer.legs.map(|leg| leg.indices), [None; 2]);
    // Nobody watches: nothing is told.
    world.take_events();
}

#[test]
fn an_end_that_may_have_moved_is_not_followed_while_its_silence_may_be_old_news() {
    let (mut world, session) = watched();
    world.sessions.set_offloaded(session, true);
    world.wait(4);
    // The tier carries what comes from the old address; here nothing of that is seen.
    world.passes(Side::A, AWAY, &transport(2, 0));
    assert_eq!(world.take_events(), [Event::Changed { session }]);
    assert_eq!(against(&world, session), Some(WhyNot::Roaming));
    assert_eq!(world.passes(Side::B, HOME[1], &transport(1, 0)), address(HOME[0]));
    // The last it has carried is told, and then that it carries no more.
    world.sessions.note_offloaded(session, Side::A, world.now_ns, 1, 100);
    world.sessions.set_offloaded(session, false);
    assert_eq!(world.passes(Side::B, HOME[1], &transport(1, 0)), address(HOME[0]));
    // Once the old address is silent here as well, the end is where it says.
    world.wait(4);
    world.passes(Side::A, AWAY, &transport(2, 0));
    assert_eq!(world.passes(Side::B, HOME[1], &transport(1, 0)), address(AWAY));
    let (from, to) = (address(HOME[0]), address(AWAY));
    let by = Evidence::Silence;
    assert_eq!(world.take_events(), [Event::Rebound { session, side: Side::A, from, to, by }]);
    assert_eq!(against(&world, session), None);
}

#[test]
fn an_address_that_is_not_followed_holds_a_session_back_only_for_a_while() {
    let (mut world, session) = watched();
    world.passes(Side::A, AWAY, &transport(2, 0));
    assert_eq!(world.take_events(), [Event::Changed { session }]);
    assert_eq!(against(&world, session), Some(WhyNot::Roaming));
    for _ in 0..(ROAMING_FRESH_NS / SECOND_NS + 10) {
        world.passes(Side::A, HOME[0], &transport(2, 0));
        world.sweep_for(1);
    }
    assert_eq!(world.take_events(), [Event::Changed { session }]);
    assert_eq!(against(&world, session), None);
}

#[test]
fn a_session_whose_news_come_late_does_not_end_before_they_can_be_here() {
    let mut world = World::new();
    let wanted = settings([fixed(HOME[0]), fixed(HOME[1])], Protocol::Opaque);
    let wanted = Settings { idle_limit_ns: UDP_IDLE_MIN_NS, ..wanted };
    let session = world.try_open(wanted).unwrap();
    world.sessions.set_offloaded(session, true);
    world.sweep_for(69);
    assert_eq!(world.sessions.len(), 1);
    world.sweep_for(20);
    assert!(world.sessions.is_empty());
}

#[test]
fn drops_of_a_faster_tier_are_the_sessions() {
    let (mut world, session) = watched();
    world.sessions.note_offloaded_drops(session, 7);
    assert_eq!(world.sessions.listed(session).unwrap().dropped_packets, 7);
}

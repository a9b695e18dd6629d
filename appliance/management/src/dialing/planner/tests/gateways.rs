//! Dials through another gateway: every way, and what happens when it fails.

use super::*;
use crate::dialing::limits::{ASK_TIMEOUT_NS, GATEWAY_LINK_TIMEOUT_NS};
use waystation_astral::gateway::socket_object;
use waystation_astral::object;

const GATEWAY: u8 = 50;
const TARGET: u8 = 1;
const NONCE: u64 = 0x2233_4455_6677_8899;

/// A world that dials the target through a gateway with a link of this profile.
fn linked(profile: Profile, remote: SocketAddr) -> (World, LinkTag) {
    let mut world = World::new(&[]);
    let link = world.link_of(GATEWAY, CoreId(1), None, profile, remote);
    world.keep(&[peer(TARGET, &[through(GATEWAY, TARGET)])]);
    (world, link)
}

fn asked(world: &mut World, link: LinkTag) -> AskId {
    let commands = world.commands();
    let [(core, Command::Ask { ask, link: on, query, .. })] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!((*core, *on), (link.core, link));
    assert_eq!(text(query), format!("gateway.node_connect?target={}", identity(TARGET)));
    *ask
}

fn text(query: &[u8]) -> &str {
    std::str::from_utf8(query).unwrap()
}

fn leg(slot: u32) -> LegTag {
    LegTag { core: CoreId(1), slot, generation: 0 }
}

/// A dial that goes on inside a session, behind commands that end another session.
fn inside(world: &mut World, link: LinkTag, expected: &str) -> DialId {
    let commands = world.commands();
    let Some((core, Command::InitiateInside { dial, link: on, query, identity: whom })) =
        commands.last()
    else {
        panic!("{commands:?}")
    };
    for (_, command) in &commands[..commands.len() - 1] {
        assert!(matches!(command, Command::Write { end: true, .. }), "{command:?}");
    }
    assert_eq!((*core, *on, *whom), (link.core, link, identity(TARGET)));
    assert_eq!(text(query), expected.replace("ID", &identity(TARGET).to_string()));
    *dial
}

const ROUTE: &str = "gateway.node_route?target=ID";
const FORWARD: &str = ".gateway.ID";

#[test]
fn socket_path_asks_connects_presents_and_makes_the_link() {
    let (mut world, link) = linked(Profile::P4, address(1));
    let ask = asked(&mut world, link);
    world.report(&Report::Asked { ask, leg: leg(3), code: 0 });
    let bytes = socket_object(&tcp(77), NONCE);
    let (head, tail) = bytes.split_at(20);
    world.report(&Report::Input { leg: leg(3), bytes: head.into() });
    assert!(world.actions.is_empty());
    world.report(&Report::Input { leg: leg(3), bytes: tail.into() });
    let commands = world.commands();
    assert!(
        matches!(&commands[..], [(CoreId(1), Command::Write { leg: on, bytes, end: true })]
            if *on == leg(3) && bytes.is_empty()),
        "{commands:?}"
    );
    let connects = world.connects();
    let [(dial, Route::GatewaySocket { address: to, nonce: NONCE })] = connects[..] else {
        panic!("{connects:?}")
    };
    assert_eq!(to, address(77));
    // The session ends behind the object, which changes nothing.
    world.report(&Report::SessionEnded { leg: leg(3) });
    let handover = world.connected(dial).unwrap();
    assert_eq!((handover.identity, handover.network), (identity(TARGET), Network::Gateway));
    world.link(TARGET, handover.core, Some(dial));
    assert_eq!(world.state(TARGET), PeerState::Linked { links: 1 });
    world.check_counts();
}

#[test]
fn every_failure_of_the_socket_path_falls_back_to_a_session() {
    let failures: [fn(&mut World, AskId); 8] = [
        |world, ask| world.report(&Report::Asked { ask, leg: leg(3), code: 1 }),
        |world, _| world.pass(ASK_TIMEOUT_NS),
        |world, ask| {
            world.report(&Report::Asked { ask, leg: leg(3), code: 0 });
            world.report(&Report::SessionEnded { leg: leg(3) });
        },
        |world, ask| {
            world.report(&Report::Asked { ask, leg: leg(3), code: 0 });
            let bytes = object::error_message("target not reachable").into();
            world.report(&Report::Input { leg: leg(3), bytes });
        },
        |world, ask| {
            world.report(&Report::Asked { ask, leg: leg(3), code: 0 });
            world.report(&Report::Input { leg: leg(3), bytes: [255; 300].into() });
        },
        |world, ask| {
            world.report(&Report::Asked { ask, leg: leg(3), code: 0 });
            let bytes = socket_object(&Endpoint::Utp(address(1)), NONCE).into();
            world.report(&Report::Input { leg: leg(3), bytes });
        },
        |world, ask| {
            let dial = socket(world, ask);
            world.refuse(dial);
        },
        |world, ask| {
            let dial = socket(world, ask);
            world.connected(dial).unwrap();
            world.fail(dial);
        },
    ];
    for (number, failure) in failures.into_iter().enumerate() {
        let (mut world, link) = linked(Profile::P4, address(1));
        let ask = asked(&mut world, link);
        failure(&mut world, ask);
        let dial = inside(&mut world, link, ROUTE);
        if number % 2 == 0 {
            world.link(TARGET, CoreId(1), Some(dial));
            assert_eq!(world.state(TARGET), PeerState::Linked { links: 1 });
        } else {
            world.fail(dial);
            let error = world.row(TARGET).last_error.unwrap();
            assert_eq!(error.cause, DialCause::Link(DropReason::HandshakeTimeout));
            assert_eq!(error.endpoint, through(GATEWAY, TARGET));
        }
        assert!(world.planner.asks.is_empty() && world.planner.legs.is_empty());
        world.check_counts();
    }
}

fn socket(world: &mut World, ask: AskId) -> DialId {
    world.report(&Report::Asked { ask, leg: leg(3), code: 0 });
    let bytes = socket_object(&tcp(77), NONCE).into();
    world.report(&Report::Input { leg: leg(3), bytes });
    world.connects()[0].0
}

#[test]
fn older_gateways_are_asked_as_they_know_it() {
    let (mut world, link) = linked(Profile::P0, address(1));
    let dial = inside(&mut world, link, FORWARD);
    world.fail(dial);
    assert!(matches!(world.state(TARGET), PeerState::Waiting { .. }));
    let (mut world, link) = linked(Profile::P2, address(1));
    let ask = asked(&mut world, link);
    world.report(&Report::Asked { ask, leg: leg(3), code: 2 });
    let dial = inside(&mut world, link, ROUTE);
    world.fail(dial);
    let dial = inside(&mut world, link, FORWARD);
    world.link(TARGET, CoreId(1), Some(dial));
    let counts = world.planner.counts();
    assert_eq!((counts.started_total, counts.succeeded_total), (1, 1));
    world.check_counts();
}

#[test]
fn gateway_elsewhere_cannot_have_this_machine_dialed() {
    let here = SocketAddr::from(([127, 0, 0, 1], 9));
    for (socket, dialed) in [
        (Endpoint::Tcp(here), false),
        (Endpoint::Tcp(SocketAddr::from(([0, 0, 0, 0], 9))), false),
        (Endpoint::Tcp(SocketAddr::from(([224, 0, 0, 1], 9))), false),
        (tcp(0), false),
        (tcp(9), true),
    ] {
        let (mut world, link) = linked(Profile::P4, address(1));
        let ask = asked(&mut world, link);
        world.report(&Report::Asked { ask, leg: leg(3), code: 0 });
        let bytes = socket_object(&socket, NONCE).into();
        world.report(&Report::Input { leg: leg(3), bytes });
        assert_eq!(world.connects().len(), usize::from(dialed), "{socket}");
    }
    let (mut world, link) = linked(Profile::P4, here);
    let ask = asked(&mut world, link);
    world.report(&Report::Asked { ask, leg: leg(3), code: 0 });
    let bytes = socket_object(&Endpoint::Tcp(here), NONCE).into();
    world.report(&Report::Input { leg: leg(3), bytes });
    assert_eq!(world.connects().len(), 1);
}

#[test]
fn gateway_that_is_a_peer_is_linked_first() {
    let mut world =
        World::new(&[peer(TARGET, &[through(GATEWAY, TARGET)]), peer(GATEWAY, &[tcp(5)])]);
    let dial = world.connect_to(5);
    assert_eq!(world.state(TARGET), PeerState::Dialing { dials: 0 });
    let link = world.complete(dial);
    asked(&mut world, link);
    assert_eq!(world.state(TARGET), PeerState::Dialing { dials: 1 });
    // Linked again, it helps those who wait for it, however long they would have waited.
    let mut world =
        World::new(&[peer(TARGET, &[through(GATEWAY, TARGET)]), peer(GATEWAY, &[tcp(5)])]);
    let dial = world.connect_to(5);
    world.refuse(dial);
    let error = world.row(TARGET).last_error.unwrap();
    assert_eq!(error.cause, DialCause::GatewayNotLinked { gateway: identity(GATEWAY) });
    assert!(matches!(world.state(TARGET), PeerState::Waiting { .. }));
    let link = world.link(GATEWAY, CoreId(1), None);
    asked(&mut world, link);
    world.check_counts();
}

#[test]
fn waiting_for_a_gateway_takes_no_place_and_has_an_end() {
    let peers = [peer(TARGET, &[through(GATEWAY, TARGET)]), peer(GATEWAY, &[tcp(5)])];
    let mut world = World::with(few_at_a_time(2, &peers));
    let dial = world.connect_to(5);
    world.connected(dial).unwrap();
    world.request(tcp(9), identity(9));
    world.connect_to(9);
    world.pass(GATEWAY_LINK_TIMEOUT_NS - 1);
    assert_eq!(world.state(TARGET), PeerState::Dialing { dials: 0 });
    world.pass(1);
    assert!(matches!(world.state(TARGET), PeerState::Waiting { .. }));
    world.check_counts();
}

#[test]
fn gateways_behind_each_other_do_not_wait_for_each_other() {
    let world = World::new(&[
        peer(TARGET, &[through(GATEWAY, TARGET)]),
        peer(GATEWAY, &[through(TARGET, GATEWAY)]),
    ]);
    assert!(world.actions.is_empty());
    for number in [TARGET, GATEWAY] {
        assert!(matches!(world.state(number), PeerState::Waiting { .. }));
    }
}

#[test]
fn dial_by_hand_through_a_peer_that_pauses_ends_its_pause() {
    let mut world = World::new(&[peer(GATEWAY, &[tcp(5)])]);
    let dial = world.connect_to(5);
    world.refuse(dial);
    let request = world.request(through(GATEWAY, TARGET), identity(TARGET));
    let dial = world.connect_to(5);
    let link = world.complete(dial);
    let ask = asked(&mut world, link);
    world.report(&Report::Asked { ask, leg: leg(3), code: 3 });
    let dial = inside(&mut world, link, ROUTE);
    let made = world.link(TARGET, CoreId(1), Some(dial));
    assert_eq!(world.answers(), [(request, Ok(made))]);
}

#[test]
fn question_that_nobody_waits_for_is_ended() {
    let (mut world, link) = linked(Profile::P4, address(1));
    let ask = asked(&mut world, link);
    world.link(TARGET, CoreId(0), None);
    assert!(world.actions.is_empty());
    world.report(&Report::Asked { ask, leg: leg(3), code: 0 });
    let commands = world.commands();
    assert!(matches!(&commands[..], [(_, Command::Write { end: true, .. })]), "{commands:?}");
    // Questions of others are none of ours.
    world.report(&Report::Asked { ask: AskId(1), leg: leg(4), code: 0 });
    world.report(&Report::Input { leg: leg(4), bytes: [1].into() });
    world.report(&Report::SessionEnded { leg: leg(4) });
    assert!(world.actions.is_empty());
    world.check_counts();
}

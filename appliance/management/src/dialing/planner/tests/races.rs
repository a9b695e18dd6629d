//! Races for one peer and the pauses between them.

use super::*;
use crate::dialing::limits::{DIALS_PER_PEER_MAX, LINK_SETTLED_NS, LINK_TIMEOUT_NS};

const STAGGER: u64 = STAGGER_NS;

#[test]
fn endpoints_join_the_race_in_their_order_and_the_first_link_ends_it() {
    let mut world = World::new(&[peer(1, &[tcp(1), tcp(2), tcp(3)])]);
    let first = world.connect_to(1);
    world.pass(STAGGER - 1);
    assert_eq!(world.connects(), []);
    world.pass(1);
    let second = world.connect_to(2);
    world.pass(STAGGER);
    let third = world.connect_to(3);
    assert_eq!(world.state(1), PeerState::Dialing { dials: 3 });
    let handover = world.connected(second).unwrap();
    assert_eq!((handover.identity, handover.network), (identity(1), Network::Tcp));
    assert_eq!(world.abandoned(), []);
    world.link(1, handover.core, Some(second));
    assert_eq!(world.abandoned(), [first, third]);
    assert_eq!(world.state(1), PeerState::Linked { links: 1 });
    let counts = world.planner.counts();
    assert_eq!((counts.succeeded_total, counts.cancelled_total, counts.active), (1, 2, 0));
    // One that was given up too late is dropped.
    assert_eq!(world.connected(first), None);
    world.pass(3600 * SECOND_NS);
    assert_eq!(world.connects(), []);
    world.check_counts();
}

#[test]
fn failed_endpoint_lets_the_next_one_start_at_once() {
    let mut world = World::new(&[peer(1, &[tcp(1), tcp(2)])]);
    let first = world.connect_to(1);
    world.refuse(first);
    let second = world.connect_to(2);
    world.complete(second);
    assert_eq!(world.state(1), PeerState::Linked { links: 1 });
    assert_eq!(world.row(1).dials, 2);
    assert_eq!(world.row(1).last_error, None);
    world.check_counts();
}

#[test]
fn link_behind_the_winner_is_closed_as_surplus_and_the_older_one_stays() {
    let mut world = World::new(&[peer(1, &[tcp(1), tcp(2), tcp(3)])]);
    world.pass(2 * STAGGER);
    let dials: Vec<DialId> = world.connects().into_iter().map(|(dial, _)| dial).collect();
    let cores: Vec<CoreId> =
        dials.iter().map(|dial| world.connected(*dial).unwrap().core).collect();
    let winner = world.link(1, cores[1], Some(dials[1]));
    assert_eq!(world.closed(), []);
    let surplus = world.link(1, cores[0], Some(dials[0]));
    assert_eq!(world.closed(), [surplus]);
    world.fail(dials[2]);
    world.down(surplus, 1);
    assert!(world.directory.get(winner).is_some());
    assert_eq!(world.state(1), PeerState::Linked { links: 1 });
    let counts = world.planner.counts();
    assert_eq!((counts.surplus_total, counts.cancelled_total, counts.active), (1, 1, 0));
    world.check_counts();
}

#[test]
fn link_behind_a_winner_that_is_gone_is_welcome() {
    let mut world = World::new(&[peer(1, &[tcp(1), tcp(2)])]);
    world.pass(STAGGER);
    let dials: Vec<DialId> = world.connects().into_iter().map(|(dial, _)| dial).collect();
    let slow = world.connected(dials[0]).unwrap();
    let winner = world.complete(dials[1]);
    world.down(winner, 1);
    world.link(1, slow.core, Some(dials[0]));
    assert_eq!(world.closed(), []);
    assert_eq!(world.state(1), PeerState::Linked { links: 1 });
    world.pass(3600 * SECOND_NS);
    assert_eq!(world.connects(), []);
    world.check_counts();
}

#[test]
fn link_that_the_peer_makes_ends_the_race_but_not_a_handshake() {
    let mut world = World::new(&[peer(1, &[tcp(1), tcp(2), tcp(3)])]);
    world.pass(STAGGER);
    let dials: Vec<DialId> = world.connects().into_iter().map(|(dial, _)| dial).collect();
    let handed = world.connected(dials[0]).unwrap();
    world.link(1, CoreId(0), None);
    assert_eq!(world.abandoned(), [dials[1]]);
    world.pass(3600 * SECOND_NS / 60);
    assert_eq!(world.connects(), []);
    // Both ends may have dialed at once; if each closed its own link, none would be left.
    world.link(1, handed.core, Some(dials[0]));
    assert_eq!(world.closed(), []);
    assert_eq!(world.state(1), PeerState::Linked { links: 2 });
    world.check_counts();
}

#[test]
fn pauses_grow_with_every_failure_and_shrink_after_a_good_link() {
    let mut world = World::with(few_at_a_time(8, &[peer(1, &[tcp(1)])]));
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let dial = world.connect_to(1);
        world.refuse(dial);
        let PeerState::Waiting { until_ns } = world.state(1) else { panic!() };
        pauses.push((until_ns - world.now_ns) / SECOND_NS);
        world.pass(until_ns - world.now_ns);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 8, 8]);
    let row = world.row(1);
    let refused = DialCause::Connect(std::io::ErrorKind::ConnectionRefused);
    assert_eq!(row.last_error, Some(DialError { endpoint: tcp(1), cause: refused }));
    assert_eq!((row.dials, row.failures), (7, 6));
    let dial = world.connect_to(1);
    let link = world.complete(dial);
    world.down(link, LINK_SETTLED_NS - 1);
    assert_eq!(world.state(1), PeerState::Waiting { until_ns: world.now_ns + 8 * SECOND_NS });
    world.pass(8 * SECOND_NS);
    let dial = world.connect_to(1);
    let link = world.complete(dial);
    world.down(link, LINK_SETTLED_NS);
    assert_eq!(world.state(1), PeerState::Waiting { until_ns: world.now_ns + SECOND_NS });
    world.check_counts();
}

#[test]
fn peer_is_dialed_again_only_when_its_last_link_is_down() {
    let mut world = World::new(&[peer(1, &[tcp(1)])]);
    let dial = world.connect_to(1);
    let ours = world.complete(dial);
    let theirs = world.link(1, CoreId(1), None);
    world.down(ours, LINK_SETTLED_NS);
    world.pass(60 * SECOND_NS);
    assert_eq!(world.connects(), []);
    world.down(theirs, LINK_SETTLED_NS);
    world.pass(SECOND_NS);
    world.connect_to(1);
}

#[test]
fn dials_are_bounded_in_total_and_per_peer_and_peers_take_turns() {
    let many: Vec<Endpoint> = (1..=8).map(tcp).collect();
    let other = [tcp(101), tcp(102)];
    let mut world = World::with(few_at_a_time(6, &[peer(1, &many), peer(2, &other)]));
    world.pass(10 * STAGGER);
    let connects = world.connects();
    assert_eq!(connects.len(), DIALS_PER_PEER_MAX + 2);
    let to_other = |route: &Route| matches!(route, Route::Tcp { address } if address.port() > 100);
    assert_eq!(connects.iter().filter(|(_, route)| to_other(route)).count(), 2);
    // Three peers, one place: each has its turn before any has a second one.
    let peers = [peer(1, &[tcp(1), tcp(11)]), peer(2, &[tcp(2), tcp(12)]), peer(3, &[tcp(3)])];
    let mut world = World::with(few_at_a_time(1, &peers));
    let mut ports = Vec::new();
    for _ in 0..5 {
        let [(dial, Route::Tcp { address })] = world.connects()[..] else { panic!() };
        ports.push(address.port());
        world.refuse(dial);
        world.check_counts();
    }
    ports[..3].sort_unstable();
    ports[3..].sort_unstable();
    assert_eq!(ports, [1, 2, 3, 11, 12]);
}

#[test]
fn nobody_is_dialed_who_is_not_configured() {
    let mut world = World::new(&[]);
    let link = world.link(1, CoreId(0), None);
    world.down(link, 1);
    world.pass(3600 * SECOND_NS);
    assert!(world.actions.is_empty());
    assert_eq!(world.planner.next_deadline_ns(), None);
    // This node itself is nobody to link to, and a peer without endpoints has to come by itself.
    let mut world =
        World::new(&[DialPeer { identity: own(), endpoints: vec![tcp(1)] }, peer(2, &[])]);
    world.pass(3600 * SECOND_NS);
    assert!(world.actions.is_empty());
    assert_eq!(world.state(2), PeerState::Awaited);
    assert!(world.planner.keeps(&identity(2)) && !world.planner.keeps(&own()));
}

#[test]
fn peer_taken_out_is_not_dialed_any_more_and_keeps_its_links() {
    let peers = [peer(1, &[tcp(1)]), peer(2, &[tcp(2)]), peer(3, &[tcp(3)])];
    let mut world = World::new(&peers);
    let dials: Vec<DialId> = world.connects().into_iter().map(|(dial, _)| dial).collect();
    let link = world.complete(dials[0]);
    let handed = world.connected(dials[2]).unwrap();
    world.keep(&[]);
    assert_eq!(world.abandoned(), [dials[1]]);
    assert_eq!(world.closed(), []);
    assert!(world.directory.get(link).is_some());
    // What a data core still has in its hands is not wanted any more.
    let late = world.link(3, handed.core, Some(dials[2]));
    assert_eq!(world.closed(), [late]);
    world.down(link, LINK_SETTLED_NS);
    world.pass(3600 * SECOND_NS);
    assert_eq!(world.connects(), []);
    world.check_counts();
}

#[test]
fn changed_endpoints_are_dialed_at_once_and_unchanged_ones_left_alone() {
    let mut world = World::new(&[peer(1, &[tcp(1)]), peer(2, &[tcp(2)])]);
    let dials: Vec<DialId> = world.connects().into_iter().map(|(dial, _)| dial).collect();
    world.keep(&[peer(1, &[tcp(9)]), peer(2, &[tcp(2)])]);
    assert_eq!(world.abandoned(), [dials[0]]);
    world.connect_to(9);
    assert_eq!(world.state(2), PeerState::Dialing { dials: 1 });
    world.check_counts();
}

#[test]
fn endpoints_that_cannot_be_dialed_are_refused_by_name() {
    let onion = "tor:pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion:1791";
    let onion: Endpoint = onion.parse().unwrap();
    let mut world = World::new(&[]);
    let target = identity(1);
    for (endpoint, to, cause) in [
        (Endpoint::Utp(address(1)), target, DialCause::NetworkNotDialed { network: "utp" }),
        (Endpoint::Kcp(address(1)), target, DialCause::NetworkNotDialed { network: "kcp" }),
        (onion.clone(), target, DialCause::NoTorProxy),
        (through(1, 1), target, DialCause::GatewayIsTarget),
        (through(200, 1), target, DialCause::GatewayIsSelf),
        (through(2, 3), target, DialCause::OtherTarget { target: identity(3) }),
        (through(2, 1), target, DialCause::GatewayNotLinked { gateway: identity(2) }),
        (tcp(1), own(), DialCause::NotDialable),
        (tcp(1), Identity::ANYONE, DialCause::NotDialable),
    ] {
        let request = world.request(endpoint.clone(), to);
        let error = DialError { endpoint: endpoint.clone(), cause };
        assert!(error.to_string().starts_with(&endpoint.to_string()));
        assert_eq!(world.answers(), [(request, Err(error))]);
    }
    assert!(world.actions.is_empty());
    assert_eq!(world.planner.counts().refused_total, 9);
    let proxy = address(9050);
    world.set(DialSettings { tor_proxy: Some(proxy), ..DialSettings::default() });
    world.request(onion, target);
    let connects = world.connects();
    let [(dial, Route::Tor { proxy: through, name, port: 1791 })] = &connects[..] else {
        panic!("{connects:?}")
    };
    assert_eq!(*through, proxy);
    assert_eq!(name, "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion");
    assert_eq!(world.connected(*dial).unwrap().network, Network::Tor);
    world.check_counts();
}

#[test]
fn dial_by_hand_goes_first_and_is_answered_once() {
    let peers: Vec<DialPeer> = (1..=3).map(|n| peer(n, &[tcp(n.into())])).collect();
    let mut world = World::with(few_at_a_time(1, &peers));
    let busy = world.connects()[0].0;
    world.link(9, CoreId(0), None);
    let request = world.request(tcp(99), identity(9));
    assert_eq!(world.connects(), []);
    world.refuse(busy);
    let dial = world.connect_to(99);
    let link = world.complete(dial);
    assert_eq!(world.answers(), [(request, Ok(link))]);
    assert_eq!(world.closed(), []);
    world.connects();
    world.down(link, 1);
    world.pass(SECOND_NS / 2);
    assert_eq!(world.connects(), []);
    let request = world.request(tcp(98), identity(9));
    let PeerState::Dialing { dials: 1 } = world.state(2) else { panic!() };
    let other = world.planner.dials.keys().copied().next().unwrap();
    world.refuse(other);
    let dial = world.connect_to(98);
    world.connected(dial);
    world.fail(dial);
    let cause = DialCause::Link(DropReason::HandshakeTimeout);
    assert_eq!(world.answers(), [(request, Err(DialError { endpoint: tcp(98), cause }))]);
    world.check_counts();
}

#[test]
fn too_many_dials_by_hand_are_refused() {
    let mut world = World::with(few_at_a_time(1, &[]));
    for _ in 0..REQUESTS_MAX {
        world.request(tcp(1), identity(1));
    }
    assert_eq!(world.answers(), []);
    let request = world.request(tcp(1), identity(1));
    let error = DialError { endpoint: tcp(1), cause: DialCause::TooManyRequests };
    assert_eq!(world.answers(), [(request, Err(error))]);
    let dial = world.connect_to(1);
    world.refuse(dial);
    assert_eq!(world.answers().len(), 1);
    world.request(tcp(1), identity(1));
    assert_eq!(world.answers(), []);
}

#[test]
fn dial_that_a_data_core_never_ends_loses_its_place_and_its_late_link_is_closed() {
    let mut world = World::with(few_at_a_time(1, &[peer(1, &[tcp(1)])]));
    let dial = world.connect_to(1);
    let handover = world.connected(dial).unwrap();
    world.pass(LINK_TIMEOUT_NS);
    let error = world.row(1).last_error.unwrap();
    assert_eq!(error.cause, DialCause::LinkTimeout);
    let late = world.link(1, handover.core, Some(dial));
    assert_eq!(world.closed(), [late]);
    world.check_counts();
}

#[test]
fn stopping_gives_everything_up_and_answers_whoever_waits() {
    let mut world = World::with(few_at_a_time(2, &[peer(1, &[tcp(1), tcp(2)])]));
    let first = world.connect_to(1);
    let request = world.request(tcp(3), identity(3));
    let second = world.connect_to(3);
    world.call(Planner::stop);
    let error = DialError { endpoint: tcp(3), cause: DialCause::Stopping };
    assert_eq!(world.answers(), [(request, Err(error))]);
    assert_eq!(world.abandoned(), [first, second]);
    world.pass(3600 * SECOND_NS);
    assert!(world.actions.is_empty());
    world.check_counts();
}

#[test]
fn connections_go_to_the_core_with_the_fewest_links() {
    let peers: Vec<DialPeer> = (1..=5).map(|n| peer(n, &[tcp(n.into())])).collect();
    let mut world = World::new(&peers);
    world.link(100, CoreId(0), None);
    world.link(101, CoreId(0), None);
    let dials: Vec<DialId> = world.connects().into_iter().map(|(dial, _)| dial).collect();
    let mut core = |at: usize| world.connected(dials[at]).unwrap().core.0;
    assert_eq!([core(0), core(1)], [1, 1]);
    let mut turns = [core(2), core(3)];
    turns.sort_unstable();
    assert_eq!(turns, [0, 1]);
    // A dial that fails makes room.
    world.fail(dials[0]);
    assert_eq!(world.connected(dials[4]).unwrap().core, CoreId(1));
}

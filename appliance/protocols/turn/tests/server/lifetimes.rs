//! How long things last, with and without a timer that comes in time (RFC 8656 §8, §9, §12).

use waystation_turn::attribute::{AttributeType, ErrorCode};
use waystation_turn::discard::Discard;
use waystation_turn::message::Method;
use waystation_turn::server::Outcome;

use crate::world::{World, channel_data, client, peer};

#[test]
fn lifetimes_lie_between_the_default_and_the_longest() {
    let mut world = World::new();
    let asked = [(1, 600), (600, 600), (601, 601), (3600, 3600), (3601, 3600), (u32::MAX, 3600)];
    let mut client = client(1000);
    client.allocate(&mut world);
    for (asked_s, granted_s) in asked {
        let reply = client.refresh(&mut world, Some(asked_s));
        assert_eq!(reply.lifetime_s(), Some(granted_s));
    }
    assert_eq!(client.refresh(&mut world, None).lifetime_s(), Some(600));
}

#[test]
fn an_allocation_ends_with_everything_in_it() {
    let mut world = World::new();
    let mut client = client(1000);
    let relayed = client.allocate(&mut world);
    client.permit(&mut world, &[peer(1, 0)]).expect_success();
    client.bind(&mut world, 0x4000, peer(2, 9)).expect_success();
    world.pass_s(599);
    assert_eq!(world.host.allocated.len(), 1);
    world.pass_s(1);
    assert_eq!(world.server.allocations_len(), 0);
    assert!(world.host.open.is_empty() && world.host.permitted.is_empty());
    assert!(world.host.paths.is_empty());
    let late = world.server.receive_from_peer(world.now, relayed, peer(2, 9), 1);
    assert_eq!(late.unwrap_err(), Discard::NoAllocation);
    client.refresh(&mut world, None).expect_error(ErrorCode::AllocationMismatch);
    assert_eq!(world.server.next_deadline_ns(), None);
}

#[test]
fn what_has_ended_is_of_no_use_even_if_the_timer_is_late() {
    let mut world = World::new();
    let mut client = client(1000);
    let relayed = client.allocate(&mut world);
    client.permit(&mut world, &[peer(1, 0)]).expect_success();
    client.bind(&mut world, 0x4000, peer(2, 9)).expect_success();
    world.skip_s(300);
    let sent = client.indication(peer(1, 9), b"x");
    assert_eq!(world.discarded(&client.tuple, &sent), Discard::NoPermission);
    let received = world.server.receive_from_peer(world.now, relayed, peer(2, 9), 1);
    assert_eq!(received.unwrap_err(), Discard::NoPermission);
    // A channel outlives its permission, towards the peer.
    let outcome = world.receive(&client.tuple, &channel_data(0x4000, b"x"));
    assert!(matches!(outcome, Outcome::Relay(_)));
    world.skip_s(300);
    let discarded = world.discarded(&client.tuple, &channel_data(0x4000, b"x"));
    assert_eq!(discarded, Discard::NoChannel);
    assert_eq!(world.server.allocations_len(), 1);
    client.allocate(&mut world);
    assert_eq!(world.server.allocations_len(), 1);
}

#[test]
fn a_path_pauses_when_its_permission_ends_and_resumes_with_the_next() {
    let mut world = World::new();
    let mut client = client(1000);
    client.allocate(&mut world);
    client.refresh(&mut world, Some(3600)).expect_success();
    client.bind(&mut world, 0x4000, peer(2, 9)).expect_success();
    let paused = |world: &World| world.host.paths.values().copied().collect::<Vec<_>>();
    assert_eq!(paused(&world), [false]);
    world.pass_s(300);
    assert_eq!(paused(&world), [true]);
    client.permit(&mut world, &[peer(2, 0)]).expect_success();
    assert_eq!(paused(&world), [false]);
    client.bind(&mut world, 0x4000, peer(2, 9)).expect_success();
    world.pass_s(599);
    assert_eq!(paused(&world), [true]);
    world.pass_s(1);
    assert!(world.host.paths.is_empty());
}

#[test]
fn paths_that_are_listed_are_those_that_were_told() {
    let mut world = World::new();
    let mut client = client(1000);
    client.allocate(&mut world);
    client.bind(&mut world, 0x4000, peer(1, 9)).expect_success();
    client.bind(&mut world, 0x4001, peer(2, 9)).expect_success();
    world.pass_s(200);
    client.permit(&mut world, &[peer(2, 0)]).expect_success();
    world.pass_s(100);
    let listed: Vec<_> = world.server.paths().map(|(path, goes)| (path, !goes)).collect();
    let told: Vec<_> = world.host.paths.iter().map(|(path, paused)| (*path, *paused)).collect();
    assert_eq!(listed, told);
    assert_eq!(told.iter().map(|(_, paused)| *paused).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_refresh_with_no_lifetime_deletes_at_once_and_only_what_it_names() {
    let mut world = World::new();
    let mut client = client(1000);
    let both = client.allocate_with(&mut world, |writer| {
        writer.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    });
    assert_eq!(both.relayed().len(), 2);
    let ipv6_peer = "[2001:db8::99]:9".parse().unwrap();
    client.permit(&mut world, &[peer(1, 0), ipv6_peer]).expect_success();
    let mut delete = |world: &mut World, family: u8| {
        client.request(world, Method::REFRESH, |writer| {
            writer.number(AttributeType::LIFETIME, 0);
            writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
        })
    };
    let reply = delete(&mut world, 1);
    assert_eq!(reply.lifetime_s(), Some(0));
    assert_eq!(world.host.open.iter().copied().collect::<Vec<_>>(), both.relayed()[1..]);
    assert_eq!(world.host.permitted.len(), 1);
    delete(&mut world, 1).expect_error(ErrorCode::PeerAddressFamilyMismatch);
    delete(&mut world, 3).expect_error(ErrorCode::BadRequest);
    delete(&mut world, 2).expect_success();
    assert!(world.host.open.is_empty());
    assert_eq!(world.server.allocations_len(), 0);
}

#[test]
fn a_connection_takes_its_allocation_with_it() {
    let mut world = World::new();
    let mut client = client(1000);
    client.allocate(&mut world);
    client.bind(&mut world, 0x4000, peer(1, 9)).expect_success();
    world.server.disconnected(&client.tuple, &mut world.host);
    world.server.disconnected(&client.tuple, &mut world.host);
    assert_eq!(world.server.allocations_len(), 0);
    assert!(world.host.open.is_empty());
}

#[test]
fn thousands_of_allocations_come_and_go() {
    let mut config = crate::world::config();
    config.stranger_replies_per_s = 1_000_000;
    config.stranger_replies_burst = 100_000;
    config.allocations_per_user_max = 10_000;
    config.relayed[0].ports = 30_000..=65_535;
    let mut world = World::with(config, crate::world::credentials());
    for port in 1000..3000 {
        client(port).allocate(&mut world);
    }
    assert_eq!(world.server.allocations_len(), 2000);
    world.pass_s(600);
    assert_eq!(world.server.allocations_len(), 0);
    assert!(world.host.open.is_empty());
}

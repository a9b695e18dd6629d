//! Permissions and channels (RFC 8656 §9, §10, §12).

use std::net::SocketAddr;

use waystation_turn::attribute::{AttributeType, ErrorCode};
use waystation_turn::discard::Discard;
use waystation_turn::limits::{CHANNEL_NUMBER_MAX, CHANNEL_NUMBER_MIN};
use waystation_turn::message::Method;

use crate::world::{Client, World, channel_data, client, config, credentials, peer};

fn allocated() -> (World, Client, SocketAddr) {
    let mut world = World::new();
    let mut client = client(1000);
    let relayed = client.allocate(&mut world);
    (world, client, relayed)
}

fn ipv6_peer() -> SocketAddr {
    "[2001:db8::99]:9".parse().unwrap()
}

#[test]
fn a_permission_lets_every_port_of_a_peer_in_and_no_other_peer() {
    let (mut world, mut client, relayed) = allocated();
    client.permit(&mut world, &[peer(1, 0), peer(2, 7)]).expect_success();
    let from = |world: &World, peer| {
        world.server.receive_from_peer(world.now, relayed, peer, 1).map(|_| ())
    };
    for host in [1, 2] {
        for port in [1, 7, 65_535] {
            assert_eq!(from(&world, peer(host, port)), Ok(()));
        }
    }
    assert_eq!(from(&world, peer(3, 7)), Err(Discard::NoPermission));
}

#[test]
fn permissions_are_installed_all_or_none() {
    let (mut world, mut client, _) = allocated();
    world.host.refused.insert(peer(9, 0).ip());
    let refused = client.permit(&mut world, &[peer(1, 0), peer(9, 0)]);
    refused.expect_error(ErrorCode::Forbidden);
    let mismatch = client.permit(&mut world, &[peer(1, 0), ipv6_peer()]);
    mismatch.expect_error(ErrorCode::PeerAddressFamilyMismatch);
    client.permit(&mut world, &[]).expect_error(ErrorCode::BadRequest);
    let malformed = client.request(&mut world, Method::CREATE_PERMISSION, |writer| {
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer(1, 0));
        writer.attribute(AttributeType::XOR_PEER_ADDRESS, &[0, 1, 2, 3]);
    });
    malformed.expect_error(ErrorCode::BadRequest);
    assert!(world.host.permitted.is_empty());
}

#[test]
fn an_allocation_has_so_many_permissions_and_channels() {
    let mut config = config();
    config.permissions_max = 3;
    config.channels_max = 2;
    let mut world = World::with(config, credentials());
    let mut client = client(1000);
    client.allocate(&mut world);
    let four = [peer(1, 0), peer(2, 0), peer(3, 0), peer(4, 0)];
    client.permit(&mut world, &four).expect_error(ErrorCode::InsufficientCapacity);
    let with_repetitions = [peer(1, 0), peer(2, 0), peer(1, 7), peer(2, 0)];
    client.permit(&mut world, &with_repetitions).expect_success();
    client.bind(&mut world, 0x4000, peer(3, 1)).expect_success();
    client.permit(&mut world, &four[..3]).expect_success();
    client.permit(&mut world, &four[3..]).expect_error(ErrorCode::InsufficientCapacity);
    let of_new_peer = client.bind(&mut world, 0x4001, peer(4, 1));
    of_new_peer.expect_error(ErrorCode::InsufficientCapacity);
    client.bind(&mut world, 0x4001, peer(3, 2)).expect_success();
    let third = client.bind(&mut world, 0x4002, peer(3, 3));
    third.expect_error(ErrorCode::InsufficientCapacity);
    client.bind(&mut world, 0x4000, peer(3, 1)).expect_success();
}

#[test]
fn a_channel_and_a_peer_belong_to_each_other() {
    let (mut world, mut client, _) = allocated();
    client.bind(&mut world, 0x4000, peer(1, 1)).expect_success();
    client.bind(&mut world, 0x4000, peer(1, 1)).expect_success();
    client.bind(&mut world, 0x4000, peer(1, 2)).expect_error(ErrorCode::BadRequest);
    client.bind(&mut world, 0x4001, peer(1, 1)).expect_error(ErrorCode::BadRequest);
    client.bind(&mut world, 0x4001, peer(1, 2)).expect_success();
    world.pass_s(599);
    client.refresh(&mut world, None).expect_success();
    client.bind(&mut world, 0x4000, peer(1, 2)).expect_error(ErrorCode::BadRequest);
    world.pass_s(1);
    client.bind(&mut world, 0x4000, peer(1, 2)).expect_success();
    client.bind(&mut world, 0x4001, peer(1, 1)).expect_success();
}

#[test]
fn channels_that_cannot_be_are_refused() {
    let (mut world, mut client, _) = allocated();
    for number in [0, CHANNEL_NUMBER_MIN - 1, CHANNEL_NUMBER_MAX + 1, u16::MAX] {
        let refused = client.bind(&mut world, number, peer(1, 1));
        refused.expect_error(ErrorCode::BadRequest);
    }
    client.bind(&mut world, 0x4000, peer(1, 0)).expect_error(ErrorCode::BadRequest);
    let mismatch = client.bind(&mut world, 0x4000, ipv6_peer());
    mismatch.expect_error(ErrorCode::PeerAddressFamilyMismatch);
    world.host.refused.insert(peer(9, 0).ip());
    client.bind(&mut world, 0x4000, peer(9, 1)).expect_error(ErrorCode::Forbidden);
    for missing in [AttributeType::CHANNEL_NUMBER, AttributeType::XOR_PEER_ADDRESS] {
        let refused = client.request(&mut world, Method::CHANNEL_BIND, |writer| {
            if missing == AttributeType::CHANNEL_NUMBER {
                writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer(1, 1));
            } else {
                writer.number(AttributeType::CHANNEL_NUMBER, 0x4000 << 16);
            }
        });
        refused.expect_error(ErrorCode::BadRequest);
    }
    assert!(world.host.paths.is_empty() && world.host.permitted.is_empty());
}

#[test]
fn channels_of_one_allocation_say_nothing_in_another() {
    let (mut world, mut first, _) = allocated();
    let mut second = client(1001);
    second.allocate(&mut world);
    first.bind(&mut world, 0x4000, peer(1, 1)).expect_success();
    let discarded = world.discarded(&second.tuple, &channel_data(0x4000, b"x"));
    assert_eq!(discarded, Discard::NoChannel);
    second.bind(&mut world, 0x4000, peer(2, 2)).expect_success();
    second.bind(&mut world, 0x4001, peer(1, 1)).expect_success();
    assert_eq!(world.host.paths.len(), 3);
}

#[test]
fn peers_that_are_no_longer_admitted_are_cut_off() {
    let (mut world, mut client, relayed) = allocated();
    client.permit(&mut world, &[peer(1, 0)]).expect_success();
    client.bind(&mut world, 0x4000, peer(1, 1)).expect_success();
    client.bind(&mut world, 0x4001, peer(2, 1)).expect_success();
    client.refresh(&mut world, Some(3600)).expect_success();
    // The second peer's permission has ended; its channel has not.
    world.pass_s(200);
    client.permit(&mut world, &[peer(1, 0)]).expect_success();
    world.pass_s(200);
    world.host.refused.extend([peer(1, 0).ip(), peer(2, 0).ip()]);
    world.server.recheck_peers();
    world.pass_s(0);
    assert!(world.host.paths.is_empty() && world.host.permitted.is_empty());
    for number in [0x4000, 0x4001] {
        let discarded = world.discarded(&client.tuple, &channel_data(number, b"x"));
        assert_eq!(discarded, Discard::NoChannel);
    }
    let received = world.server.receive_from_peer(world.now, relayed, peer(1, 1), 1);
    assert_eq!(received.unwrap_err(), Discard::NoPermission);
}

#[test]
fn a_change_of_policy_is_taken_up_in_portions() {
    const ALLOCATIONS: usize = 150;
    let mut config = config();
    config.stranger_replies_burst = 1000;
    config.allocations_per_user_max = 1000;
    let mut world = World::with(config, credentials());
    for port in 0..ALLOCATIONS {
        let mut client = client(1000 + u16::try_from(port).unwrap());
        client.allocate(&mut world);
        client.permit(&mut world, &[peer(1, 0)]).expect_success();
    }
    world.host.refused.insert(peer(1, 0).ip());
    world.server.recheck_peers();
    let mut left = vec![world.host.permitted.len()];
    while world.server.next_deadline_ns() == Some(0) {
        world.server.expire(world.now.monotonic_ns, &mut world.host);
        left.push(world.host.permitted.len());
    }
    assert_eq!(left, [150, 86, 22, 0]);
    // Whoever comes meanwhile is judged by the new policy, and nothing is left to do.
    world.server.recheck_peers();
    client(5000).allocate(&mut world);
    world.pass_s(0);
    assert!(world.server.next_deadline_ns() > Some(0));
}

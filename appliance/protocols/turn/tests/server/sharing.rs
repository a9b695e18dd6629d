//! Several servers that share an address, as the data cores of one machine do: what one keeps another
//! may give out and give back, and nothing is had twice.

use std::sync::Arc;

use waystation_turn::attribute::{AttributeType, ErrorCode};
use waystation_turn::server::{ConfigError, RelayedRange, Server, ServerConfig};
use waystation_turn::sharing::Shared;

use crate::world::{Client, RELAYED_IPV4, Reply, World, client, config, credentials, tuple};

const RESERVE: &[u8] = &[0x80];
const KEY: [u8; 32] = [42; 32];
/// Ports of each server.
const SHARE: u16 = 8;

/// Servers with a share of the ports each.
fn worlds<const COUNT: usize>() -> [World; COUNT] {
    let last = 50_000 + SHARE * u16::try_from(COUNT).unwrap() - 1;
    let whole = of_ports(50_000, last);
    let shared = Arc::new(Shared::new(&whole, COUNT, &KEY).unwrap());
    std::array::from_fn(|place| {
        let first = 50_000 + SHARE * u16::try_from(place).unwrap();
        let own = of_ports(first, first + SHARE - 1);
        let mut world = World::with(own.clone(), credentials());
        let credentials = Arc::new(credentials());
        world.server = Server::sharing(own, credentials, &KEY, Arc::clone(&shared)).unwrap();
        // Each core draws its own.
        world.host.begin_random_at(place as u64);
        world
    })
}

fn of_ports(first: u16, last: u16) -> ServerConfig {
    let mut config = config();
    config.relayed = vec![RelayedRange { ip: RELAYED_IPV4.into(), ports: first..=last }];
    config.stranger_replies_burst = 1000;
    config.allocations_per_user_max = 4;
    config
}

fn reserve(world: &mut World, client: &mut Client) -> (Reply, Vec<u8>) {
    let reply = client.allocate_with(world, |writer| {
        writer.attribute(AttributeType::EVEN_PORT, RESERVE);
    });
    reply.expect_success();
    let token = reply.message().attribute(AttributeType::RESERVATION_TOKEN).unwrap().to_vec();
    (reply, token)
}

fn claim(world: &mut World, client: &mut Client, token: &[u8]) -> Reply {
    client.allocate_with(world, |writer| {
        writer.attribute(AttributeType::RESERVATION_TOKEN, token);
    })
}

#[test]
fn a_token_of_one_core_is_good_on_another_once_and_its_port_goes_back_to_the_first() {
    let [mut first, mut second, mut third] = worlds();
    let mut alice = client(1000);
    let (reply, token) = reserve(&mut first, &mut alice);
    let kept = reply.relayed()[0].port() + 1;
    let mut bob = Client::new(tuple(1001), "bob", b"builder");
    claim(&mut second, &mut bob, &token).expect_error(ErrorCode::InsufficientCapacity);
    let mut again = client(1002);
    let claimed = claim(&mut second, &mut again, &token);
    assert_eq!(claimed.relayed()[0].port(), kept);
    assert_eq!(second.host.open, second.host.allocated);
    claim(&mut third, &mut client(1003), &token).expect_error(ErrorCode::InsufficientCapacity);
    claim(&mut first, &mut client(1004), &token).expect_error(ErrorCode::InsufficientCapacity);
    // It is taken until the second core's allocation ends, wherever the first one's is by then.
    assert_eq!(first.server.entries().ports, 2);
    alice.refresh(&mut first, Some(0)).expect_success();
    first.pass_s(40);
    assert_eq!(first.server.entries().ports, 1);
    again.refresh(&mut second, Some(0)).expect_success();
    assert_eq!((first.server.entries().ports, second.host.open.len()), (0, 0));
    assert_eq!(first.server.entries().users, 0);
}

#[test]
fn a_token_that_nobody_shows_in_time_is_good_nowhere_and_frees_its_port() {
    let [mut first, mut second] = worlds();
    let (_, token) = reserve(&mut first, &mut client(1000));
    first.pass_s(30);
    second.pass_s(30);
    claim(&mut second, &mut client(1001), &token).expect_error(ErrorCode::InsufficientCapacity);
    assert_eq!(first.server.entries().ports, 1);
    assert_eq!(first.server.entries().reservations, [0, 0]);
}

#[test]
fn a_reservation_counts_for_its_user_until_its_allocation_ends() {
    let [mut first, mut second] = worlds();
    let (_, token) = reserve(&mut first, &mut client(1000));
    let mut claimed = client(1001);
    claim(&mut second, &mut claimed, &token).expect_success();
    client(1002).allocate(&mut first);
    client(1003).allocate(&mut second);
    let mut fifth = client(1004);
    let full = fifth.allocate_with(&mut first, |_| {});
    full.expect_error(ErrorCode::AllocationQuotaReached);
    claimed.refresh(&mut second, Some(0)).expect_success();
    fifth.allocate(&mut first);
}

#[test]
fn a_kept_port_that_another_program_took_is_lost_and_nothing_else() {
    let [mut first, mut second] = worlds();
    let (reply, token) = reserve(&mut first, &mut client(1000));
    second.host.in_use.insert(reply.relayed()[0].port() + 1);
    let mut again = client(1001);
    claim(&mut second, &mut again, &token).expect_error(ErrorCode::InsufficientCapacity);
    assert_eq!(first.server.entries().ports, 1);
    // The quota is that of one allocation.
    for port in 1002..1005 {
        client(port).allocate(&mut second);
    }
}

#[test]
fn used_tokens_take_no_room_from_those_to_come() {
    let [mut first, mut second] = worlds();
    for port in 0..100 {
        let mut of_first = client(1000 + port);
        let (_, token) = reserve(&mut first, &mut of_first);
        of_first.refresh(&mut first, Some(0)).expect_success();
        let mut of_second = client(2000 + port);
        let place = if port % 2 == 0 { &mut second } else { &mut first };
        claim(place, &mut of_second, &token).expect_success();
        of_second.refresh(place, Some(0)).expect_success();
    }
    // Those that were used here are forgotten, those that were used there are no reservations.
    assert_eq!(first.server.entries().reservations, [0, 50]);
    first.pass_s(30);
    assert_eq!(first.server.entries().reservations, [0, 0]);
}

#[test]
fn ports_that_are_not_shared_are_refused() {
    let shared = Arc::new(Shared::new(&of_ports(50_000, 50_007), 1, &KEY).unwrap());
    let make = |config| {
        Server::sharing(config, Arc::new(credentials()), &KEY, Arc::clone(&shared)).map(drop)
    };
    assert_eq!(make(of_ports(50_000, 50_007)), Ok(()));
    assert_eq!(make(of_ports(50_000, 50_008)), Err(ConfigError::NotShared));
    let mut elsewhere = of_ports(50_000, 50_007);
    elsewhere.relayed[0].ip = [192, 0, 2, 16].into();
    assert_eq!(make(elsewhere), Err(ConfigError::NotShared));
}

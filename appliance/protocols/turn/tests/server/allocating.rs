//! Which addresses clients get, and why they do not (RFC 8656 §7.2).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use waystation_turn::attribute::{AttributeType, ErrorCode, error_number, plain_address};
use waystation_turn::message::Method;
use waystation_turn::server::{ConfigError, RelayedRange, ServerConfig};

use crate::world::{
    Client, RELAYED_IPV4, RELAYED_IPV6, Reply, World, client, config, credentials, tuple,
};

const IPV4: &[u8] = &[1, 0, 0, 0];
const IPV6: &[u8] = &[2, 0, 0, 0];
const RESERVE: &[u8] = &[0x80];

fn ask(world: &mut World, port: u16, attributes: &[(AttributeType, &[u8])]) -> Reply {
    ask_as(world, &mut client(port), attributes)
}

fn ask_as(world: &mut World, client: &mut Client, asked: &[(AttributeType, &[u8])]) -> Reply {
    client.allocate_with(world, |writer| {
        for (kind, value) in asked {
            writer.attribute(*kind, value);
        }
    })
}

fn of_ipv4_alone() -> ServerConfig {
    let mut config = config();
    config.relayed.truncate(1);
    config
}

#[test]
fn a_client_gets_an_address_and_learns_its_own() {
    let mut world = World::new();
    let reply = ask(&mut world, 1000, &[]);
    let relayed = reply.relayed();
    assert_eq!(relayed.len(), 1);
    assert_eq!(relayed[0].ip(), IpAddr::from(RELAYED_IPV4));
    assert!((49_152..=49_999).contains(&relayed[0].port()));
    assert_eq!(reply.addresses(AttributeType::XOR_MAPPED_ADDRESS), [tuple(1000).client]);
    assert_eq!(reply.lifetime_s(), Some(600));
    assert_eq!(world.host.allocated, relayed.iter().copied().collect());
    assert_eq!(world.host.open, world.host.allocated);
}

#[test]
fn each_family_and_both_can_be_had() {
    let mut world = World::new();
    let ip = |reply: &Reply| reply.relayed().iter().map(SocketAddr::ip).collect::<Vec<_>>();
    let (ipv4, ipv6) = (IpAddr::from(RELAYED_IPV4), RELAYED_IPV6.parse().unwrap());
    let reply = ask(&mut world, 1000, &[(AttributeType::REQUESTED_ADDRESS_FAMILY, IPV4)]);
    assert_eq!(ip(&reply), [ipv4]);
    let reply = ask(&mut world, 1001, &[(AttributeType::REQUESTED_ADDRESS_FAMILY, IPV6)]);
    assert_eq!(ip(&reply), [ipv6]);
    let reply = ask(&mut world, 1002, &[(AttributeType::ADDITIONAL_ADDRESS_FAMILY, IPV6)]);
    assert_eq!(ip(&reply), [ipv4, ipv6]);
    assert_eq!(world.host.open.len(), 4);
}

#[test]
fn half_of_a_dual_allocation_comes_with_the_reason_for_the_other_half() {
    let mut world = World::with(of_ipv4_alone(), credentials());
    let reply = ask(&mut world, 1000, &[(AttributeType::ADDITIONAL_ADDRESS_FAMILY, IPV6)]);
    assert_eq!(reply.relayed().len(), 1);
    let failed = |reply: &Reply| {
        let value = reply.message().attribute(AttributeType::ADDRESS_ERROR_CODE).unwrap().to_vec();
        (value[0], error_number(&value).unwrap())
    };
    assert_eq!(failed(&reply), (2, 440));
    let mut config = config();
    config.relayed[1].ports = 50_000..=50_000;
    let mut world = World::with(config, credentials());
    world.host.in_use.insert(50_000);
    let reply = ask(&mut world, 1000, &[(AttributeType::ADDITIONAL_ADDRESS_FAMILY, IPV6)]);
    assert_eq!((reply.relayed().len(), failed(&reply)), (1, (2, 508)));
    assert_eq!(world.host.open.len(), 1);
}

#[test]
fn what_cannot_be_asked_for_is_refused_as_the_rfc_says() {
    use AttributeType as A;
    let token = (A::RESERVATION_TOKEN, &[7; 8][..]);
    let even = (A::EVEN_PORT, &[0][..]);
    let requested = (A::REQUESTED_ADDRESS_FAMILY, IPV4);
    let additional = (A::ADDITIONAL_ADDRESS_FAMILY, IPV6);
    let bad = ErrorCode::BadRequest;
    #[expect(clippy::type_complexity, reason = "a table of what is asked and answered")]
    let cases: &[(&[(A, &[u8])], ErrorCode)] = &[
        (&[token, even], bad),
        (&[token, requested], bad),
        (&[token, additional], bad),
        (&[(A::RESERVATION_TOKEN, &[7; 7])], bad),
        (&[token], ErrorCode::InsufficientCapacity),
        (&[requested, additional], bad),
        (&[(A::REQUESTED_ADDRESS_FAMILY, &[1])], bad),
        (&[(A::REQUESTED_ADDRESS_FAMILY, &[3, 0, 0, 0])], ErrorCode::AddressFamilyNotSupported),
        (&[(A::ADDITIONAL_ADDRESS_FAMILY, IPV4)], bad),
        (&[(A::ADDITIONAL_ADDRESS_FAMILY, &[2])], bad),
        (&[(A::EVEN_PORT, RESERVE), additional], bad),
        (&[(A::EVEN_PORT, &[])], bad),
        (&[(A::LIFETIME, &[0, 0, 1])], bad),
        (&[(A(0x7abc), &[1])], ErrorCode::UnknownAttribute),
    ];
    let mut world = World::new();
    let mut client = client(1000);
    for (asked, code) in cases {
        ask_as(&mut world, &mut client, asked).expect_error(*code);
    }
    assert!(world.host.open.is_empty());
}

#[test]
fn udp_is_the_only_transport_to_peers() {
    let mut world = World::new();
    let mut client = client(1000);
    let mut ask = |value: Option<&[u8]>| {
        client.request(&mut world, Method::ALLOCATE, |writer| {
            if let Some(value) = value {
                writer.attribute(AttributeType::REQUESTED_TRANSPORT, value);
            }
        })
    };
    ask(None).expect_error(ErrorCode::BadRequest);
    ask(Some(&[17])).expect_error(ErrorCode::BadRequest);
    ask(Some(&[6, 0, 0, 0])).expect_error(ErrorCode::UnsupportedTransportProtocol);
    ask(Some(&[17, 1, 2, 3])).expect_success();
}

#[test]
fn families_that_the_server_has_not_are_refused() {
    let mut world = World::with(of_ipv4_alone(), credentials());
    let asked = [(AttributeType::REQUESTED_ADDRESS_FAMILY, IPV6)];
    ask(&mut world, 1000, &asked).expect_error(ErrorCode::AddressFamilyNotSupported);
    let mut config = config();
    config.relayed.remove(0);
    let mut world = World::with(config, credentials());
    ask(&mut world, 1000, &[]).expect_error(ErrorCode::AddressFamilyNotSupported);
    ask(&mut world, 1000, &asked).expect_success();
}

#[test]
fn dont_fragment_is_unknown_where_it_cannot_be_done() {
    let mut config = config();
    config.dont_fragment = false;
    let mut world = World::with(config, credentials());
    let reply = ask(&mut world, 1000, &[(AttributeType::DONT_FRAGMENT, &[])]);
    reply.expect_error(ErrorCode::UnknownAttribute);
    let unknown = reply.message().attribute(AttributeType::UNKNOWN_ATTRIBUTES);
    assert_eq!(unknown, Some(&[0x00, 0x1a][..]));
    let mut world = World::new();
    ask(&mut world, 1000, &[(AttributeType::DONT_FRAGMENT, &[])]).expect_success();
}

#[test]
fn even_ports_are_even_and_the_next_one_can_be_had_later() {
    let mut world = World::new();
    for port in 1000..1004 {
        let reply = ask(&mut world, port, &[(AttributeType::EVEN_PORT, &[0])]);
        assert_eq!(reply.relayed()[0].port() % 2, 0);
        assert!(reply.message().attribute(AttributeType::RESERVATION_TOKEN).is_none());
        world.skip_s(1);
    }
    let first = ask(&mut world, 1010, &[(AttributeType::EVEN_PORT, RESERVE)]);
    let token = first.message().attribute(AttributeType::RESERVATION_TOKEN).unwrap().to_vec();
    let claim = [(AttributeType::RESERVATION_TOKEN, &token[..])];
    let mut bob = Client::new(tuple(1011), "bob", b"builder");
    ask_as(&mut world, &mut bob, &claim).expect_error(ErrorCode::InsufficientCapacity);
    let second = ask(&mut world, 1012, &claim);
    assert_eq!(second.relayed()[0].port(), first.relayed()[0].port() + 1);
    ask(&mut world, 1013, &claim).expect_error(ErrorCode::InsufficientCapacity);
    assert_eq!(world.host.open, world.host.allocated);
}

#[test]
fn a_reservation_ends_after_half_a_minute() {
    let mut world = World::new();
    let first = ask(&mut world, 1000, &[(AttributeType::EVEN_PORT, RESERVE)]);
    let token = first.message().attribute(AttributeType::RESERVATION_TOKEN).unwrap().to_vec();
    assert_eq!((world.host.open.len(), world.server.entries().ports), (1, 2));
    world.skip_s(30);
    let claim = [(AttributeType::RESERVATION_TOKEN, &token[..])];
    ask(&mut world, 1001, &claim).expect_error(ErrorCode::InsufficientCapacity);
    world.pass_s(0);
    assert_eq!((world.host.open.len(), world.server.entries().ports), (1, 1));
}

#[test]
fn the_same_request_gets_the_same_answer_and_another_one_none() {
    let mut world = World::new();
    let mut client = client(1000);
    client.refresh(&mut world, None).expect_error(ErrorCode::AllocationMismatch);
    let packet = client.sealed(Method::ALLOCATE, |writer| {
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        writer.attribute(AttributeType::EVEN_PORT, RESERVE);
    });
    let first = client.send(&mut world, &packet);
    first.expect_success();
    assert_eq!(client.send(&mut world, &packet).bytes, first.bytes);
    assert_eq!(world.server.allocations_len(), 1);
    client.allocate_with(&mut world, |_| {}).expect_error(ErrorCode::AllocationMismatch);
}

#[test]
fn a_user_has_a_quota_of_allocations_and_reservations() {
    let mut config = config();
    config.allocations_per_user_max = 3;
    config.stranger_replies_burst = 100;
    let mut world = World::with(config, credentials());
    ask(&mut world, 1000, &[]).expect_success();
    ask(&mut world, 1001, &[(AttributeType::EVEN_PORT, RESERVE)]).expect_success();
    ask(&mut world, 1002, &[]).expect_error(ErrorCode::AllocationQuotaReached);
    let mut bob = Client::new(tuple(1003), "bob", b"builder");
    bob.allocate(&mut world);
    // The reservation ends; then there is room for one, but not for one with another reservation.
    world.pass_s(30);
    let pair = [(AttributeType::EVEN_PORT, RESERVE)];
    ask(&mut world, 1004, &pair).expect_error(ErrorCode::AllocationQuotaReached);
    ask(&mut world, 1004, &[]).expect_success();
    ask(&mut world, 1005, &[]).expect_error(ErrorCode::AllocationQuotaReached);
    let mut first = client(1000);
    first.refresh(&mut world, Some(0)).expect_success();
    ask(&mut world, 1005, &[]).expect_success();
}

#[test]
fn a_full_server_says_so() {
    let mut config = config();
    config.allocations_max = 2;
    let mut world = World::with(config, credentials());
    client(1000).allocate(&mut world);
    client(1001).allocate(&mut world);
    ask(&mut world, 1002, &[]).expect_error(ErrorCode::InsufficientCapacity);
    let mut config = config_of_ports(50_000, 50_001);
    config.stranger_replies_burst = 100;
    let mut world = World::with(config, credentials());
    world.host.in_use.insert(50_001);
    client(1000).allocate(&mut world);
    ask(&mut world, 1001, &[]).expect_error(ErrorCode::InsufficientCapacity);
}

fn config_of_ports(first: u16, last: u16) -> ServerConfig {
    let range = RelayedRange { ip: RELAYED_IPV4.into(), ports: first..=last };
    ServerConfig::new(vec![range])
}

#[test]
fn clients_are_sent_to_another_server_of_their_family() {
    let mut world = World::new();
    let elsewhere = SocketAddr::from(([192, 0, 2, 99], 3478));
    let mut early = client(999);
    early.allocate(&mut world);
    world.server.set_alternates(Some(elsewhere), None);
    let reply = ask(&mut world, 1000, &[]);
    reply.expect_error(ErrorCode::TryAlternate);
    let value = reply.message().attribute(AttributeType::ALTERNATE_SERVER).unwrap().to_vec();
    assert_eq!(plain_address(&value), Some(elsewhere));
    let mut of_ipv6 = client(1001);
    of_ipv6.tuple.client.set_ip("2001:db8::7".parse().unwrap());
    let reply = of_ipv6.allocate_with(&mut world, |_| {});
    reply.expect_error(ErrorCode::InsufficientCapacity);
    early.refresh(&mut world, None).expect_success();
    world.server.set_alternates(None, None);
    ask(&mut world, 1000, &[]).expect_success();
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let refused = |change: fn(&mut ServerConfig)| {
        let mut config = config();
        change(&mut config);
        let credentials = std::sync::Arc::new(credentials());
        waystation_turn::server::Server::new(config, credentials, &[0; 32]).unwrap_err()
    };
    assert_eq!(refused(|config| config.relayed.clear()), ConfigError::NoAddress);
    let twice = refused(|config| config.relayed[1] = config.relayed[0].clone());
    assert_eq!(twice, ConfigError::FamilyTwice);
    let any = refused(|config| config.relayed[0].ip = Ipv4Addr::UNSPECIFIED.into());
    assert_eq!(any, ConfigError::Address);
    assert_eq!(refused(|config| config.relayed[0].ports = 1000..=2000), ConfigError::Ports);
    #[expect(clippy::reversed_empty_ranges, reason = "an operator may write it")]
    let empty = refused(|config| config.relayed[0].ports = 3000..=2000);
    assert_eq!(empty, ConfigError::Ports);
    assert_eq!(refused(|config| config.software = Some("x".repeat(65))), ConfigError::Software);
    assert_eq!(refused(|config| config.lifetime_max_s = 599), ConfigError::Lifetime);
    assert_eq!(refused(|config| config.lifetime_default_s = 0), ConfigError::Lifetime);
    assert_eq!(refused(|config| config.channels_max = 0), ConfigError::Zero);
    assert_eq!(refused(|config| config.allocations_max = 1 << 40), ConfigError::Zero);
}

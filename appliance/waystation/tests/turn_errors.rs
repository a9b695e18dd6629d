//! What TURN clients are told of datagrams that did not reach their peers, through the real process on
//! loopback as an ordinary user: ports that are closed, and datagrams too long to leave unfragmented.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use support::appliance::PortName;
use support::turn::{CHANNEL, Turn, peer, peer_at, receive};
use support::{STEP, eventually, given};
use waystation_peer::{DatagramError, TurnClient, TurnClientError};
use waystation_turn::attribute::AttributeType;
use waystation_turn::writer::MessageWriter;

/// Long enough for something that must not come to come.
const NOTHING: Duration = Duration::from_millis(200);

/// Asks that datagrams may not be fragmented, which shows that a client knows ICMP errors.
fn unfragmented(writer: &mut MessageWriter<'_>) {
    writer.attribute(AttributeType::DONT_FRAGMENT, &[]);
}

/// An address of loopback that nobody else is on, so that its ports stay closed: with the process's
/// number in it.
fn closed(port: u16) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 200 + (high & 0x1f), low, 77], port))
}

/// Sends to a closed port until the client hears of it: all programs of a machine share what its
/// kernel says in ICMP messages in a second.
fn hears_of(client: &mut TurnClient, peer: SocketAddr) {
    let expected = DatagramError { peer, kind: 3, code: 3, mtu_bytes: 0 };
    eventually("the client hears of the closed port", || {
        client.indicate(peer, b"is anybody there?").unwrap();
        match client.receive_error(NOTHING) {
            Ok(error) => {
                assert_eq!(error, expected);
                Some(())
            }
            Err(TurnClientError::NothingCame(_)) => None,
            Err(error) => panic!("{error}"),
        }
    });
}

/// A client that hears of a closed port, and whose payload to others passes meanwhile.
fn hears_of_closed_ports(client: &mut TurnClient) {
    client.allocate_with(unfragmented).unwrap();
    let (socket, address) = peer();
    client.permit(closed(9)).unwrap();
    client.bind(CHANNEL, address).unwrap();
    for round in 0..5_u8 {
        client.indicate(closed(9), b"is anybody there?").unwrap();
        client.send(CHANNEL, &[round]).unwrap();
        // The error about one datagram takes none of another one's.
        assert_eq!(receive(&socket).0, [round]);
        hears_of(client, closed(9));
    }
}

#[test]
fn clients_hear_of_closed_ports_over_udp_and_tcp() {
    for port in [PortName::Epoll, PortName::IoUring] {
        if !port.is_given() {
            continue;
        }
        let turn = Turn::start(port, 1, &[]);
        hears_of_closed_ports(&mut turn.client());
        hears_of_closed_ports(&mut turn.client_over_tcp());
        assert!(turn.appliance.total("turn_icmp_errors_told") >= 10);
        // A client that has to ask often may be told of too many in a second.
        let mut drops = turn.appliance.drops();
        drops.retain(|reason, events| reason != "turn_icmp_limit" && *events > 0);
        assert!(drops.is_empty(), "{drops:?}");
    }
}

#[test]
fn clients_that_do_not_know_of_errors_are_told_of_none() {
    let turn = Turn::start(PortName::Epoll, 1, &[]);
    let mut client = turn.client();
    client.allocate().unwrap();
    client.permit(closed(9)).unwrap();
    client.indicate(closed(9), b"is anybody there?").unwrap();
    assert!(matches!(client.receive_error(NOTHING), Err(TurnClientError::NothingCame(_))));
    turn.appliance.expect_total(&["turn_icmp_errors_told"], 0);
    turn.appliance.expect_total(&["turn_datagrams_to_peers"], 1);
}

#[test]
fn errors_beyond_a_few_a_second_are_counted_and_not_told() {
    let turn = Turn::start(PortName::Epoll, 1, &[]);
    let mut client = turn.client();
    client.allocate_with(unfragmented).unwrap();
    client.permit(closed(9)).unwrap();
    // However many seconds this takes, in one of them there are too many.
    eventually("an error is not told", || {
        for _ in 0..100 {
            client.indicate(closed(9), b"?").unwrap();
        }
        let dropped = turn.appliance.drops();
        dropped.get("turn_icmp_limit").is_some_and(|events| *events > 0).then_some(())
    });
    assert_eq!(client.receive_error(STEP).unwrap().peer, closed(9));
}

/// Loopback takes packets of 65 536 bytes, and IPv6 alone can be longer with what UDP holds.
#[test]
fn a_datagram_too_long_to_leave_unfragmented_does_not_leave_and_its_client_learns_the_length() {
    if !given(UdpSocket::bind("[::1]:0").is_ok(), "IPv6 on loopback") {
        return;
    }
    let turn = Turn::start_at("[::1]", PortName::Epoll, 1, &["allow_peers = [\"::1/128\"]"]);
    let mut client = turn.client_over_tcp();
    let relayed = client.allocate_with(|writer| {
        writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
        unfragmented(writer);
    });
    let relayed = relayed.unwrap();
    let (socket, address) = peer_at("::1");
    client.permit(address).unwrap();
    let long = vec![7; 65_500];
    client.indicate_with(address, &long, unfragmented).unwrap();
    let error = client.receive_error(STEP).unwrap();
    assert_eq!(error, DatagramError { peer: address, kind: 2, code: 0, mtu_bytes: 65_536 });
    turn.expect_drop("udp_too_long");
    // In pieces it passes, and so does whatever fits.
    client.indicate(address, &long).unwrap();
    assert_eq!(receive(&socket), (long, relayed));
    client.indicate_with(address, b"short", unfragmented).unwrap();
    assert_eq!(receive(&socket), (b"short".to_vec(), relayed));
}

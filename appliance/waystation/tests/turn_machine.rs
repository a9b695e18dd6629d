//! TURN on a machine that changes while it runs: addresses that come and go, and a way that is narrow.
//! Each test has a network namespace of its own, which ends with its thread and the appliance.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::net::SocketAddr;
use support::appliance::PortName;
use support::process::is_root;
use support::streets::{ip, new_namespace};
use support::turn::{CHANNEL, Turn, peer, receive, refused};
use support::{STEP, eventually, given};
use waystation_peer::{DatagramError, TurnClient};
use waystation_turn::attribute::AttributeType;
use waystation_turn::writer::MessageWriter;

/// An address of the public network, which the machine does not have at first.
const COMES_AND_GOES: &str = "9.9.9.9";

fn may_make_namespaces() -> bool {
    given(is_root(), "root, for a network namespace")
}

fn permit(client: &mut TurnClient) -> Option<u16> {
    let peer = SocketAddr::new(COMES_AND_GOES.parse().unwrap(), 9);
    let result = client.permit(peer);
    result.is_err().then(|| refused(result))
}

#[test]
fn addresses_that_come_are_relayed_to_no_more_and_those_that_go_are_again() {
    if !may_make_namespaces() {
        return;
    }
    let _namespace = new_namespace();
    let turn = Turn::start(PortName::Epoll, 2, &[]);
    let mut client = turn.client();
    client.allocate().unwrap();
    let peer = SocketAddr::new(COMES_AND_GOES.parse().unwrap(), 9);
    client.bind(CHANNEL, peer).unwrap();
    ip(&format!("addr add {COMES_AND_GOES}/32 dev lo"));
    eventually("the address is refused", || (permit(&mut client) == Some(403)).then_some(()));
    // What was permitted before is taken back as well.
    client.send(CHANNEL, b"to the machine itself").unwrap();
    turn.expect_drop("turn_no_channel");
    ip(&format!("addr del {COMES_AND_GOES}/32 dev lo"));
    eventually("the address is admitted", || permit(&mut client).is_none().then_some(()));
    assert!(turn.appliance.process.log().contains("addresses of this machine"));
}

#[test]
fn a_way_narrower_than_a_datagram_that_may_not_be_fragmented_is_told_with_its_length() {
    if !may_make_namespaces() {
        return;
    }
    let unfragmented = |writer: &mut MessageWriter<'_>| {
        writer.attribute(AttributeType::DONT_FRAGMENT, &[]);
    };
    let _namespace = new_namespace();
    ip("link set lo mtu 1400");
    for port in [PortName::Epoll, PortName::IoUring] {
        if !port.is_given() {
            continue;
        }
        let turn = Turn::start(port, 1, &[]);
        for mut client in [turn.client(), turn.client_over_tcp()] {
            let relayed = client.allocate_with(unfragmented).unwrap();
            let (socket, address) = peer();
            client.bind(CHANNEL, address).unwrap();
            // 20 bytes of IPv4 and 8 of UDP are in front of the payload.
            for (bytes, fits) in [(1372, true), (1373, false), (4000, false)] {
                let payload = vec![7; bytes];
                client.indicate_with(address, &payload, unfragmented).unwrap();
                if fits {
                    assert_eq!(receive(&socket), (payload, relayed));
                    continue;
                }
                let error = client.receive_error(STEP).unwrap();
                assert_eq!(
                    error,
                    DatagramError { peer: address, kind: 3, code: 4, mtu_bytes: 1400 }
                );
                // In pieces, and through a channel, it passes.
                client.indicate(address, &payload).unwrap();
                assert_eq!(receive(&socket), (payload.clone(), relayed));
                client.send(CHANNEL, &payload).unwrap();
                assert_eq!(receive(&socket), (payload, relayed));
            }
        }
        turn.appliance.expect_total(&["turn_icmp_errors_told"], 4);
        assert_eq!(turn.appliance.drops()["udp_too_long"], 4);
    }
}

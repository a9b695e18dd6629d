//! Payload in both directions, and errors from the way (RFC 8656 §11, §12.5 to §12.7).

use std::net::SocketAddr;

use waystation_turn::attribute::{AttributeType, xor_address};
use waystation_turn::channel_data;
use waystation_turn::discard::Discard;
use waystation_turn::message::{Class, Message, Method, TransactionId};
use waystation_turn::server::{IcmpError, Outcome, ToClient, ToPeer};
use waystation_turn::transport::Transport;
use waystation_turn::writer::MessageWriter;

use crate::world::{Client, World, channel_data as packet_of, client, config, credentials, peer};

fn allocated() -> (World, Client, SocketAddr) {
    let mut world = World::new();
    let mut client = client(1000);
    let relayed = client.allocate(&mut world);
    client.permit(&mut world, &[peer(1, 0)]).expect_success();
    client.bind(&mut world, 0x4000, peer(2, 9)).expect_success();
    (world, client, relayed)
}

fn relayed_of(outcome: Outcome) -> ToPeer {
    match outcome {
        Outcome::Relay(to_peer) => to_peer,
        other => panic!("{other:?} instead of payload"),
    }
}

/// What a client gets, put together as a data core does.
fn packet(to_client: &ToClient, payload: &[u8]) -> Vec<u8> {
    [&to_client.head[..], payload, &[0; 3][..to_client.padding_bytes]].concat()
}

#[test]
fn an_indication_goes_to_the_peer_it_names() {
    let (mut world, mut client, relayed) = allocated();
    for payload in [&b""[..], b"a", b"four", b"payload"] {
        let sent = client.indication(peer(1, 77), payload);
        let to_peer = relayed_of(world.receive(&client.tuple, &sent));
        assert_eq!((to_peer.relayed, to_peer.peer), (relayed, peer(1, 77)));
        assert_eq!(&sent[to_peer.payload], payload);
        assert!(!to_peer.dont_fragment);
    }
    let denied = client.indication(peer(3, 77), b"payload");
    assert_eq!(world.discarded(&client.tuple, &denied), Discard::NoPermission);
}

/// An indication with any attributes.
fn indication(fill: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buffer = [0; 256];
    let name = TransactionId([1; 12]);
    let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::SEND, name);
    fill(&mut writer);
    let end = writer.finish().unwrap();
    buffer[..end].to_vec()
}

#[test]
fn an_indication_may_ask_for_no_fragments_where_that_can_be_done() {
    let ask = indication(|writer| {
        writer.attribute(AttributeType::DONT_FRAGMENT, &[]);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer(1, 7));
        writer.attribute(AttributeType::DATA, b"payload");
    });
    let (mut world, client, _) = allocated();
    assert!(relayed_of(world.receive(&client.tuple, &ask)).dont_fragment);
    let mut config = config();
    config.dont_fragment = false;
    let mut world = World::with(config, credentials());
    let mut client = crate::world::client(1000);
    client.allocate(&mut world);
    client.permit(&mut world, &[peer(1, 0)]).expect_success();
    assert_eq!(world.discarded(&client.tuple, &ask), Discard::BadIndication);
}

#[test]
fn indications_that_are_not_whole_are_dropped() {
    let (mut world, client, _) = allocated();
    let address = |writer: &mut MessageWriter<'_>, port| {
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer(1, port));
    };
    let cases = [
        indication(|writer| address(writer, 7)),
        indication(|writer| {
            writer.attribute(AttributeType::DATA, b"x");
        }),
        indication(|writer| {
            address(writer, 0);
            writer.attribute(AttributeType::DATA, b"x");
        }),
        indication(|writer| {
            writer.attribute(AttributeType::XOR_PEER_ADDRESS, &[0, 1, 2]);
            writer.attribute(AttributeType::DATA, b"x");
        }),
        indication(|writer| {
            address(writer, 7);
            writer.attribute(AttributeType::DATA, b"x");
            writer.attribute(AttributeType(0x7abc), b"x");
        }),
    ];
    for packet in cases {
        assert_eq!(world.discarded(&client.tuple, &packet), Discard::BadIndication);
    }
    let with_optional = indication(|writer| {
        writer.attribute(AttributeType(0x8abc), b"x");
        address(writer, 7);
        writer.attribute(AttributeType::DATA, b"x");
    });
    relayed_of(world.receive(&client.tuple, &with_optional));
}

#[test]
fn channel_data_goes_to_the_peer_of_its_channel() {
    let (mut world, client, relayed) = allocated();
    for payload in [&b""[..], b"a", b"payload"] {
        let packet = [packet_of(0x4000, payload), vec![0; 3]].concat();
        let to_peer = relayed_of(world.receive(&client.tuple, &packet));
        assert_eq!((to_peer.relayed, to_peer.peer), (relayed, peer(2, 9)));
        assert_eq!(&packet[to_peer.payload], payload);
    }
    let unbound = packet_of(0x4001, b"payload");
    assert_eq!(world.discarded(&client.tuple, &unbound), Discard::NoChannel);
}

#[test]
fn a_peer_with_a_channel_reaches_the_client_through_it() {
    let (world, client, relayed) = allocated();
    for payload in [&b""[..], b"a", b"payload"] {
        let to_client =
            world.server.receive_from_peer(world.now, relayed, peer(2, 9), payload.len()).unwrap();
        assert_eq!((to_client.client, to_client.padding_bytes), (client.tuple, 0));
        let packet = packet(&to_client, payload);
        let (channel, at) = channel_data::parse(&packet).unwrap();
        assert_eq!((channel.number(), &packet[at]), (0x4000, payload));
    }
    // Another port of the same peer has no channel.
    let to_client = world.server.receive_from_peer(world.now, relayed, peer(2, 8), 1).unwrap();
    assert!(to_client.head.len() > 4);
}

#[test]
fn a_peer_without_a_channel_reaches_the_client_in_an_indication() {
    let (world, client, relayed) = allocated();
    for payload in [&b""[..], b"a", b"four", b"payload"] {
        let from = peer(1, 77);
        let to_client =
            world.server.receive_from_peer(world.now, relayed, from, payload.len()).unwrap();
        assert_eq!(to_client.client, client.tuple);
        let packet = packet(&to_client, payload);
        let message = Message::parse(&packet).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        let address = message.attribute(AttributeType::XOR_PEER_ADDRESS).unwrap();
        assert_eq!(xor_address(address, message.transaction()), Some(from));
        assert_eq!(message.attribute(AttributeType::DATA), Some(payload));
    }
}

#[test]
fn messages_in_a_stream_are_padded() {
    let mut world = World::new();
    let mut client = client(1000);
    client.tuple.transport = Transport::Tcp;
    let relayed = client.allocate(&mut world);
    client.bind(&mut world, 0x4000, peer(2, 9)).expect_success();
    for bytes in 0..9_usize {
        let to_client =
            world.server.receive_from_peer(world.now, relayed, peer(2, 9), bytes).unwrap();
        let packet = packet(&to_client, &vec![1; bytes]);
        let found = waystation_turn::stream::message_bytes(&packet);
        assert_eq!(found, Ok(Some(packet.len())));
    }
}

#[test]
fn payload_that_is_too_long_for_a_datagram_is_dropped_and_not_cut() {
    let (mut world, client, relayed) = allocated();
    let from = |world: &World, peer, bytes| {
        world.server.receive_from_peer(world.now, relayed, peer, bytes).map(|_| ())
    };
    assert_eq!(from(&world, peer(2, 9), 65_503), Ok(()));
    assert_eq!(from(&world, peer(2, 9), 65_504), Err(Discard::Oversize));
    assert_eq!(from(&world, peer(2, 9), 70_000), Err(Discard::Oversize));
    assert_eq!(from(&world, peer(1, 9), 65_468), Ok(()));
    assert_eq!(from(&world, peer(1, 9), 65_472), Err(Discard::Oversize));
    assert_eq!(from(&world, peer(1, 9), 70_000), Err(Discard::Oversize));
    // Only a stream can bring so much.
    let packet = packet_of(0x4000, &vec![0; 65_508]);
    assert_eq!(world.discarded(&client.tuple, &packet), Discard::Oversize);
}

#[test]
fn ipv6_peers_are_reached_from_the_ipv6_address() {
    let mut world = World::new();
    let mut client = client(1000);
    let reply = client.allocate_with(&mut world, |writer| {
        writer.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    });
    let relayed = reply.relayed();
    let ipv6: SocketAddr = "[2001:db8::99]:9".parse().unwrap();
    client.permit(&mut world, &[peer(1, 0), ipv6]).expect_success();
    client.bind(&mut world, 0x4000, ipv6).expect_success();
    for (to, from) in [(peer(1, 5), relayed[0]), (ipv6, relayed[1])] {
        let sent = client.indication(to, b"payload");
        assert_eq!(relayed_of(world.receive(&client.tuple, &sent)).relayed, from);
    }
    let to_peer = relayed_of(world.receive(&client.tuple, &packet_of(0x4000, b"x")));
    assert_eq!((to_peer.relayed, to_peer.peer), (relayed[1], ipv6));
    let other_port: SocketAddr = "[2001:db8::99]:10".parse().unwrap();
    let to_client = world.server.receive_from_peer(world.now, relayed[1], other_port, 5).unwrap();
    let packet = packet(&to_client, b"hello");
    let message = Message::parse(&packet).unwrap();
    let address = message.attribute(AttributeType::XOR_PEER_ADDRESS).unwrap();
    assert_eq!(xor_address(address, message.transaction()), Some(other_port));
    // A permission of one family is of no use at the address of the other.
    let crossed = world.server.receive_from_peer(world.now, relayed[1], peer(1, 5), 5);
    assert_eq!(crossed.unwrap_err(), Discard::NoPermission);
}

#[test]
fn icmp_errors_about_permitted_peers_are_passed_on() {
    let (world, client, relayed) = allocated();
    let pass = |to: SocketAddr, kind, code| {
        let icmp = IcmpError { kind, code, mtu_bytes: 1280 };
        world.server.receive_icmp(world.now, relayed, to, icmp)
    };
    let cases = [
        (3, 4, [0, 0, 6, 4, 0, 0, 5, 0]),
        (3, 3, [0, 0, 6, 3, 0, 0, 0, 0]),
        (11, 0, [0, 0, 22, 0, 0, 0, 0, 0]),
        (3, 255, [0, 0, 6, 255, 0, 0, 0, 0]),
    ];
    for (kind, code, value) in cases {
        // Even a peer with a channel is reported in an indication.
        for to in [peer(1, 7), peer(2, 9)] {
            let to_client = pass(to, kind, code).unwrap();
            assert_eq!((to_client.client, to_client.padding_bytes), (client.tuple, 0));
            let message = Message::parse(&to_client.head).unwrap();
            assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
            assert_eq!(message.attribute(AttributeType::ICMP), Some(&value[..]));
            assert_eq!(message.attribute(AttributeType::DATA), None);
            let address = message.attribute(AttributeType::XOR_PEER_ADDRESS).unwrap();
            assert_eq!(xor_address(address, message.transaction()), Some(to));
        }
    }
    assert_eq!(pass(peer(1, 7), 8, 0).unwrap_err(), Discard::IcmpType);
    assert_eq!(pass(peer(3, 7), 3, 3).unwrap_err(), Discard::NoPermission);
}

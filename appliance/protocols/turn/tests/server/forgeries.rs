//! Packets in somebody else's name: captured and sent again, from forged sources, by peers that are
//! not who they seem. They get nothing that is not the other's, and leave nothing behind.

use waystation_turn::attribute::{AttributeType, ErrorCode};
use waystation_turn::discard::Discard;
use waystation_turn::message::Method;
use waystation_turn::server::{Entries, Outcome};
use waystation_turn::transport::{FiveTuple, Transport};
use waystation_turn::writer::MessageWriter;

use crate::world::{Client, SECOND_NS, World, channel_data, client, config, peer, tuple};

fn wants_udp(writer: &mut MessageWriter<'_>) {
    writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
}

/// A client that knows a nonce, and a request of it that somebody has captured.
fn captured(world: &mut World, method: Method) -> (Client, Vec<u8>) {
    let mut client = client(1000);
    client.refresh(world, None).expect_error(ErrorCode::AllocationMismatch);
    let packet = client.sealed(method, |writer| {
        wants_udp(writer);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer(1, 9));
    });
    (client, packet)
}

#[test]
fn a_captured_request_is_stale_from_every_other_address_port_and_transport() {
    let mut world = World::new();
    let (client, packet) = captured(&mut world, Method::ALLOCATE);
    let other_port = tuple(1001);
    let mut other_address = client.tuple;
    other_address.client.set_ip([198, 51, 100, 3].into());
    let over_tcp = FiveTuple { transport: Transport::Tcp, ..client.tuple };
    for elsewhere in [other_port, other_address, over_tcp] {
        let forger = Client { tuple: elsewhere, ..client.clone() };
        let reply = forger.send(&mut world, &packet);
        reply.expect_error(ErrorCode::StaleNonce);
        // Its own nonce is of no use to somebody who cannot make an integrity value.
        assert_ne!(reply.message().attribute(AttributeType::NONCE), Some(client.nonce()));
    }
    assert_eq!(world.server.entries(), Entries::default());
    client.send(&mut world, &packet).expect_success();
}

#[test]
fn a_request_that_is_played_again_changes_nothing_and_its_answer_goes_to_its_client() {
    let mut world = World::new();
    let (mut client, packet) = captured(&mut world, Method::ALLOCATE);
    let first = client.send(&mut world, &packet);
    first.expect_success();
    let permit = client.sealed(Method::CREATE_PERMISSION, |writer| {
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer(1, 9));
    });
    client.send(&mut world, &permit).expect_success();
    let before = (world.server.entries(), world.host.permitted.clone());
    for _ in 0..50 {
        assert_eq!(client.send(&mut world, &packet).bytes, first.bytes);
        client.send(&mut world, &permit).expect_success();
    }
    assert_eq!((world.server.entries(), world.host.permitted.clone()), before);
    // Once its nonce is an hour old, not even its own client may play it again.
    world.pass_s(3601);
    for packet in [packet, permit] {
        client.send(&mut world, &packet).expect_error(ErrorCode::StaleNonce);
    }
    assert_eq!(world.server.entries(), Entries::default());
}

#[test]
fn a_changed_request_is_nobodys() {
    let mut world = World::new();
    let (client, packet) = captured(&mut world, Method::ALLOCATE);
    for place in 20..packet.len() {
        let mut changed = packet.clone();
        changed[place] ^= 0x01;
        match world.receive(&client.tuple, &changed) {
            Outcome::Answer { error: Some(_), .. } | Outcome::Discard(_) => {}
            other => panic!("{other:?} for a change at {place}"),
        }
    }
    assert_eq!(world.server.entries(), Entries::default());
}

/// Whoever forges a source has answers sent there. What the source gets is bounded however much is
/// asked in its name, and there is no request whose answer is many times as long.
#[test]
fn a_forged_source_is_sent_little_however_much_is_asked_in_its_name() {
    const SECONDS: u64 = 10;
    const ASKED_PER_S: u64 = 10_000;
    let mut world = World::new();
    let config = config();
    let mut forger = client(1000);
    let packets = [
        forger.bare(Method::BINDING, |_| {}),
        forger.bare(Method::ALLOCATE, wants_udp),
        forger.bare(Method::ALLOCATE, |_| {}),
        forger.bare(Method::REFRESH, |_| {}),
        forger.sealed(Method::CREATE_PERMISSION, |_| {}),
    ];
    let (mut asked, mut sent, mut answers) = (0, 0, 0);
    for step in 0..SECONDS * ASKED_PER_S {
        world.now.monotonic_ns += SECOND_NS / ASKED_PER_S;
        let packet = &packets[step as usize % packets.len()];
        // All ports of one /32 are one source.
        let from = tuple(1000 + (step % 5000) as u16);
        asked += packet.len();
        match world.receive(&from, packet) {
            Outcome::Answer { bytes, .. } => {
                assert!(bytes <= 10 * packet.len(), "{bytes} for {packet:02x?}");
                sent += bytes;
                answers += 1;
            }
            Outcome::Discard(Discard::ReplyLimit) => {}
            other => panic!("{other:?}"),
        }
    }
    let allowed = u64::from(config.stranger_replies_burst)
        + SECONDS * u64::from(config.stranger_replies_per_s);
    assert!(answers <= allowed, "{answers} answers of {allowed}");
    assert!(sent * 20 < asked, "{sent} bytes for {asked}");
    assert_eq!(world.server.entries(), Entries::default());
}

#[test]
fn payload_of_another_tuple_or_to_another_address_finds_nobody() {
    let mut world = World::new();
    let mut alice = client(1000);
    let relayed = alice.allocate(&mut world);
    alice.bind(&mut world, 0x4000, peer(1, 9)).expect_success();
    let packet = channel_data(0x4000, b"payload");
    for elsewhere in [tuple(1001), FiveTuple { transport: Transport::Tcp, ..alice.tuple }] {
        assert_eq!(world.discarded(&elsewhere, &packet), Discard::NoAllocation);
    }
    // A peer that is permitted at one relayed address is not at another's.
    let mut bob = Client::new(tuple(1002), "bob", b"builder");
    let of_bob = bob.allocate(&mut world);
    let from_peer = |at| world.server.receive_from_peer(world.now, at, peer(1, 9), 7).map(drop);
    assert_eq!(from_peer(relayed), Ok(()));
    assert_eq!(from_peer(of_bob), Err(Discard::NoPermission));
    let nobodys = std::net::SocketAddr::new(relayed.ip(), 49_999);
    assert_eq!(from_peer(nobodys), Err(Discard::NoAllocation));
}

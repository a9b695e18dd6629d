//! What the server does for those who proved nothing: little, and without keeping anything.

use waystation_turn::attribute::{AttributeType, ErrorCode};
use waystation_turn::discard::Discard;
use waystation_turn::integrity::Integrity;
use waystation_turn::message::{Class, Method, TransactionId};
use waystation_turn::server::Outcome;
use waystation_turn::transport::Transport;
use waystation_turn::writer::MessageWriter;

use crate::world::{World, channel_data, client, peer};

#[test]
fn a_binding_request_is_answered_with_the_address_it_came_from() {
    let mut world = World::new();
    let mut client = client(1000);
    let packet = client.bare(Method::BINDING, |writer| {
        writer.fingerprint();
    });
    let reply = client.send(&mut world, &packet);
    let mapped = reply.addresses(AttributeType::XOR_MAPPED_ADDRESS);
    assert_eq!(mapped, [client.tuple.client]);
    assert!(reply.message().has_fingerprint());
    let packet = client.bare(Method::BINDING, |_| {});
    let reply = client.send(&mut world, &packet);
    assert_eq!(reply.bytes.len(), packet.len() + 12);
}

#[test]
fn attributes_that_must_be_known_and_are_not_are_named() {
    let mut world = World::new();
    let mut client = client(1000);
    let packet = client.bare(Method::BINDING, |writer| {
        for kind in [0x0003, 0x7777, 0x8fff, 0x7777, 0x0024] {
            writer.attribute(AttributeType(kind), b"1234");
        }
    });
    let reply = client.send(&mut world, &packet);
    reply.expect_error(ErrorCode::UnknownAttribute);
    let unknown = reply.message().attribute(AttributeType::UNKNOWN_ATTRIBUTES);
    assert_eq!(unknown, Some(&[0x00, 0x03, 0x77, 0x77, 0x00, 0x24][..]));
    let packet = client.bare(Method::BINDING, |writer| {
        for kind in 0x7000..0x7030 {
            writer.attribute(AttributeType(kind), &[]);
        }
    });
    let reply = client.send(&mut world, &packet);
    let unknown = reply.message().attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap();
    assert_eq!(unknown.len(), 32);
}

#[test]
fn requests_from_one_prefix_get_few_answers_and_others_their_own() {
    let mut world = World::new();
    let mut answered = 0;
    for port in 1000..1100 {
        let mut stranger = client(port);
        let packet = stranger.bare(Method::ALLOCATE, |_| {});
        match world.receive(&stranger.tuple, &packet) {
            Outcome::Answer { .. } => answered += 1,
            Outcome::Discard(Discard::ReplyLimit) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answered, 5);
    let mut elsewhere = client(1000);
    elsewhere.tuple.client.set_ip([192, 0, 2, 200].into());
    let packet = elsewhere.bare(Method::BINDING, |_| {});
    elsewhere.send(&mut world, &packet).expect_success();
    // Those who can show a nonce of theirs are no strangers.
    world.skip_s(10);
    let mut client = client(1000);
    client.allocate(&mut world);
    for _ in 0..100 {
        client.refresh(&mut world, None).expect_success();
    }
}

#[test]
fn a_client_of_a_stream_has_proved_where_it_is() {
    let mut world = World::new();
    let mut client = client(1000);
    client.tuple.transport = Transport::Tcp;
    for _ in 0..100 {
        let packet = client.bare(Method::ALLOCATE, |_| {});
        client.send(&mut world, &packet).expect_error(ErrorCode::Unauthenticated);
    }
}

#[test]
fn what_is_no_request_of_turn_is_dropped_for_a_reason_of_its_own() {
    let mut world = World::new();
    let mut client = client(1000);
    let message = |class: Class, method: Method| {
        let mut buffer = [0; 64];
        let name = TransactionId([1; 12]);
        let end = MessageWriter::new(&mut buffer, class, method, name).finish().unwrap();
        buffer[..end].to_vec()
    };
    let mut cut = client.bare(Method::BINDING, |writer| {
        writer.integrity(Integrity::Sha1, b"key");
    });
    cut.truncate(30);
    let cases = [
        (vec![], Discard::NotTurn),
        (vec![0x80, 0, 0, 0], Discard::NotTurn),
        (vec![0x16, 0xfe, 0xff, 0], Discard::Malformed),
        (cut, Discard::Malformed),
        (message(Class::Request, Method::SEND), Discard::UnknownMethod),
        (message(Class::Request, Method(0x00a)), Discard::UnknownMethod),
        (message(Class::Indication, Method::ALLOCATE), Discard::UnknownMethod),
        (message(Class::Indication, Method::DATA), Discard::UnknownMethod),
        (message(Class::Indication, Method::BINDING), Discard::KeepAlive),
        (message(Class::Indication, Method::SEND), Discard::BadIndication),
        (message(Class::Success, Method::BINDING), Discard::UnexpectedResponse),
        (message(Class::Error, Method::ALLOCATE), Discard::UnexpectedResponse),
        (client.indication(peer(1, 1), b"payload"), Discard::NoAllocation),
        (channel_data(0x4000, b"payload"), Discard::NoAllocation),
        (channel_data(0x4000, b"payload")[..8].to_vec(), Discard::BadChannelData),
        (vec![0x40], Discard::BadChannelData),
    ];
    for (packet, reason) in cases {
        assert_eq!(world.discarded(&client.tuple, &packet), reason, "{packet:02x?}");
    }
}

#[test]
fn every_discard_has_its_own_index_and_name() {
    let names: std::collections::BTreeSet<_> =
        Discard::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), Discard::ALL.len());
    for (index, reason) in Discard::ALL.iter().enumerate() {
        assert_eq!(reason.index(), index);
    }
}

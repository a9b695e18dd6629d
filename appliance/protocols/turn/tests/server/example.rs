//! The conversation of RFC 8656 §20, message by message.

use std::net::SocketAddr;

use waystation_turn::attribute::{AttributeType, ErrorCode};
use waystation_turn::channel_data;
use waystation_turn::credentials::Credentials;
use waystation_turn::message::Message;
use waystation_turn::server::{Outcome, RelayedRange, ServerConfig};
use waystation_turn::transport::{FiveTuple, Transport};

use crate::world::{Client, REALM, World};

/// Clients of the world know the realm of the tests, and the example calls it `example.com`.
#[test]
fn the_conversation_of_the_rfc_goes_as_printed() {
    // The figures of §3: a client behind a NAT, the server, and two peers.
    let mapped: SocketAddr = "192.0.2.1:7000".parse().unwrap();
    let server: SocketAddr = "192.0.2.15:3478".parse().unwrap();
    let peer_a: SocketAddr = "192.0.2.150:32102".parse().unwrap();
    let peer_b: SocketAddr = "192.0.2.210:49191".parse().unwrap();
    let relayed: SocketAddr = "192.0.2.15:50000".parse().unwrap();
    let mut config = ServerConfig::new(vec![RelayedRange {
        ip: relayed.ip(),
        ports: relayed.port()..=relayed.port(),
    }]);
    config.software = Some("Example server, version 1.17".into());
    let mut credentials = Credentials::new(REALM).unwrap();
    credentials.add_user("George", b"secret").unwrap();
    let mut world = World::with(config, credentials);
    let tuple = FiveTuple { transport: Transport::Udp, client: mapped, server };
    let mut client = Client::new(tuple, "George", b"secret");
    // Allocate is refused first and then granted: an hour of lifetime, relayed and mapped address.
    let reply = client.allocate_with(&mut world, |writer| {
        writer.attribute(AttributeType::SOFTWARE, b"Example client, version 1.03");
        writer.number(AttributeType::LIFETIME, 3600);
    });
    assert_eq!(reply.relayed(), [relayed]);
    assert_eq!(reply.lifetime_s(), Some(3600));
    assert_eq!(reply.addresses(AttributeType::XOR_MAPPED_ADDRESS), [mapped]);
    // CreatePermission for peer A, whose port does not count.
    let without_port = SocketAddr::new(peer_a.ip(), 0);
    client.permit(&mut world, &[without_port]).expect_success();
    // Send and Data with peer A.
    let sent = client.indication(peer_a, b"application data");
    let Outcome::Relay(to_peer) = world.receive(&tuple, &sent) else {
        panic!("payload for peer A");
    };
    assert_eq!((to_peer.relayed, to_peer.peer), (relayed, peer_a));
    let to_client = world.server.receive_from_peer(world.now, relayed, peer_a, 4).unwrap();
    let indication = [&to_client.head[..], b"data"].concat();
    let message = Message::parse(&indication).unwrap();
    assert_eq!(message.attribute(AttributeType::DATA), Some(&b"data"[..]));
    // ChannelBind and ChannelData with peer B.
    client.bind(&mut world, 0x4000, peer_b).expect_success();
    let sent = crate::world::channel_data(0x4000, b"application data");
    let Outcome::Relay(to_peer) = world.receive(&tuple, &sent) else {
        panic!("payload for peer B");
    };
    assert_eq!((to_peer.relayed, to_peer.peer), (relayed, peer_b));
    let to_client = world.server.receive_from_peer(world.now, relayed, peer_b, 4).unwrap();
    let packet = [&to_client.head[..], b"data"].concat();
    assert_eq!(channel_data::parse(&packet).unwrap().0.number(), 0x4000);
    // A refresh meets a nonce that has become stale, and succeeds with a new one.
    world.skip_s(3599);
    let nonce = client.nonce().to_vec();
    world.now.unix_s += 2;
    let reply = client.refresh(&mut world, None);
    assert_ne!(client.nonce(), nonce);
    assert_eq!(reply.lifetime_s(), Some(600));
    assert_ne!(reply.error(), Some(ErrorCode::StaleNonce.number()));
}

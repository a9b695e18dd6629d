//! What many strangers leave behind, which is nothing, and what many allocations cost.
//!
//! Memory is counted by the allocator, in bytes that are asked of it and not given back, so what
//! stands here holds on every machine.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod world;

use std::net::SocketAddr;

use waystation_proving::allocator::{CountingAllocator, held_bytes};
use waystation_turn::attribute::AttributeType;
use waystation_turn::discard::Discard;
use waystation_turn::message::Method;
use waystation_turn::server::{Entries, Outcome, RelayedRange};
use waystation_turn::transport::FiveTuple;

use world::{Client, RELAYED_IPV4, World, channel_data, client, config, credentials, peer, tuple};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What somebody who knows no password sends: requests of every kind, without and with a forged
/// integrity value and another client's nonce, and what is no request.
fn packets_of_strangers(world: &mut World) -> Vec<Vec<u8>> {
    let mut known = client(1000);
    known.allocate_with(world, |_| {}).expect_success();
    known.refresh(world, Some(0)).expect_success();
    let mut forger = Client::new(tuple(1000), "alice", b"guessed");
    forger.set_nonce(known.nonce());
    let methods =
        [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND];
    let fill = |writer: &mut waystation_turn::writer::MessageWriter<'_>| {
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer(1, 9));
    };
    let mut packets: Vec<_> = methods.map(|method| forger.bare(method, fill)).into();
    packets.extend(methods.map(|method| forger.sealed(method, fill)));
    // The right password with a nonce that was issued to another address.
    packets.push(known.sealed(Method::ALLOCATE, fill));
    packets.push(forger.bare(Method::BINDING, |_| {}));
    packets.push(forger.indication(peer(1, 9), b"payload"));
    packets.push(channel_data(0x4000, b"payload"));
    packets.push(b"junk".to_vec());
    packets
}

#[test]
fn a_million_strangers_leave_nothing_behind() {
    const SOURCES: u32 = 1_000_000;
    let mut world = World::new();
    let packets = packets_of_strangers(&mut world);
    assert_eq!(world.server.entries(), Entries::default());
    let (before, mut answers, mut limited) = (held_bytes(), 0, 0);
    for source in 0..SOURCES {
        let [_, a, b, c] = source.to_be_bytes();
        let from = SocketAddr::from(([10, a, b, c], 1000));
        let packet = &packets[source as usize % packets.len()];
        // A million a second.
        world.now.monotonic_ns += 1000;
        match world.receive(&FiveTuple { client: from, ..tuple(1000) }, packet) {
            Outcome::Answer { .. } => answers += 1,
            Outcome::Discard(Discard::ReplyLimit) => limited += 1,
            Outcome::Discard(_) => {}
            Outcome::Relay(to_peer) => panic!("{to_peer:?} for a stranger"),
        }
    }
    assert_eq!(held_bytes() - before, 0);
    assert_eq!(world.server.entries(), Entries::default());
    assert_eq!(world.server.next_deadline_ns(), None);
    assert_eq!(world.host.open.len() + world.host.allocated.len(), 0);
    // Both ways out of a request were taken, so the flood has reached what might have kept it.
    assert!(answers > 100_000 && limited > 0, "{answers} answers, {limited} beyond the limit");
}

#[test]
fn ten_thousand_allocations_are_held_in_two_kibibytes_each() {
    const ALLOCATIONS: usize = 10_000;
    const PEERS: u8 = 8;
    let mut config = config();
    config.relayed = vec![RelayedRange { ip: RELAYED_IPV4.into(), ports: 40_000..=59_999 }];
    config.allocations_max = ALLOCATIONS;
    config.allocations_per_user_max = 65_536;
    config.stranger_replies_per_s = 1_000_000;
    config.stranger_replies_burst = 1_000_000;
    let before = held_bytes();
    let mut world = World::with(config, credentials());
    for place in 0..ALLOCATIONS {
        let mut client = client(u16::try_from(1024 + place).unwrap());
        client.allocate(&mut world);
        let peers: Vec<_> = (1..=PEERS).map(|host| peer(host, 9)).collect();
        client.permit(&mut world, &peers).expect_success();
        for (number, peer) in (0x4000..).zip(&peers) {
            client.bind(&mut world, number, *peer).expect_success();
        }
    }
    assert_eq!(world.server.allocations_len(), ALLOCATIONS);
    // What the test itself notes is not the server's.
    world.host = world::Recorder::default();
    let server_bytes = usize::try_from(held_bytes() - before).unwrap();
    let each = server_bytes / ALLOCATIONS;
    assert!(each <= 2048, "{each} bytes each, {server_bytes} in all");
}

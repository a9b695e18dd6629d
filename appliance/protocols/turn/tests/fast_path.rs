//! Relaying payload takes no memory from the heap, in either direction and in every form.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod world;

use waystation_proving::allocator::{CountingAllocator, allocations};
use waystation_turn::attribute::AttributeType;
use waystation_turn::server::{IcmpError, Outcome};

use world::{World, channel_data, client, peer};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn relaying_payload_takes_nothing_from_the_heap() {
    let mut world = World::new();
    let mut client = client(1000);
    let relayed = client.allocate(&mut world);
    client.permit(&mut world, &[peer(1, 0)]).expect_success();
    client.bind(&mut world, 0x4000, peer(2, 9)).expect_success();
    let sent = client.indication(peer(1, 77), b"payload");
    let denied = client.indication(peer(3, 77), b"payload");
    let (bound, unbound) = (channel_data(0x4000, b"payload"), channel_data(0x4001, b"payload"));
    let stranger = client.bare(waystation_turn::message::Method::ALLOCATE, |writer| {
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    });
    let icmp = IcmpError { kind: 3, code: 3, mtu_bytes: 0 };
    let before = allocations();
    let mut relayed_packets = 0;
    for _ in 0..1000 {
        for packet in [&sent, &denied, &bound, &unbound] {
            let outcome = world.receive(&client.tuple, packet);
            relayed_packets += u32::from(matches!(outcome, Outcome::Relay(_)));
        }
        for from in [peer(1, 77), peer(2, 9), peer(3, 77)] {
            let received = world.server.receive_from_peer(world.now, relayed, from, 1000);
            relayed_packets += u32::from(received.is_ok());
            let reported = world.server.receive_icmp(world.now, relayed, from, icmp);
            relayed_packets += u32::from(reported.is_ok());
        }
        // Strangers are kept nothing for either.
        world.receive(&world::tuple(2000), &stranger);
    }
    assert_eq!(allocations() - before, 0);
    assert_eq!(relayed_packets, 6000);
}

//! Relaying payload takes no memory from the heap, in either direction and in every form.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use waystation_turn::attribute::AttributeType;
use waystation_turn::server::{IcmpError, Outcome};

use world::{World, channel_data, client, peer};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting touches a cell of this
// thread that needs no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about pointer and layout is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
    let before = ALLOCATIONS.with(Cell::get);
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
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    assert_eq!(relayed_packets, 6000);
}

//! A data core driven turn by turn on the test's own thread, with real sockets and hand-made peers:
//! what it allocates, what it gives back, and that every byte arrives.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it skips"
)]

mod support;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::opaque::OpaqueBench;
use support::turn::TurnBench;
use support::{Bench, Peer, WINDOW, finish, io_uring_is_there, on_every_port, secret};
use waystation_astral::frame::{Frame, Profile};
use waystation_engine::port::Port;
use waystation_engine::port::datagrams::UdpTier;
use waystation_engine::port::epoll::EpollPort;
use waystation_engine::port::uring::UringPort;
use waystation_proving::allocator::{CountingAllocator, allocations, held_bytes};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Links two peers from other threads while the core turns here, and joins a session from the
/// first to the second.
fn join<P: Port>(
    bench: &mut Bench<P>,
    profiles: (Profile, Profile),
    target_window: u32,
) -> (Peer, Peer, u64, u64) {
    let (address, gateway) = (bench.address, bench.identity);
    let dial = move |byte, profile| {
        std::thread::spawn(move || Peer::dial(address, gateway, &secret(byte), profile))
    };
    let mut a = finish(bench, dial(0x21, profiles.0));
    let mut b = finish(bench, dial(0x22, profiles.1));
    bench.turn_until("two links", |bench| bench.ups.len() == 2);
    let asking = std::thread::spawn(move || {
        a.ask(77, WINDOW);
        a
    });
    bench.offer_to(secret(0x22).identity());
    let accepting = std::thread::spawn(move || {
        let nonce = b.accept(target_window);
        (b, nonce)
    });
    let (b, nonce) = finish(bench, accepting);
    (finish(bench, asking), b, 77, nonce)
}

// Tests

/// Blocks that may be made after a core is warm.
const BLOCKS_LATE_MAX: u64 = 8;

fn forwards_without_allocating<P: Port>(bench: &mut Bench<P>, frames_in_a_record: usize) {
    const FRAME_BYTES: usize = 64;
    const FRAMES: u64 = 1_000_000;
    // The target gives no credit at first, so that the whole window is queued once: after that
    // every pool is as large as this traffic can make it.
    let (mut a, mut b, at_a, at_b) = join(bench, (Profile::P4, Profile::P4), 0);
    let total = u64::from(WINDOW) + FRAMES * FRAME_BYTES as u64;
    let giving = std::thread::spawn(move || {
        a.give(at_a, total, FRAME_BYTES, frames_in_a_record);
        a
    });
    bench.turn_until("a full window", |bench| {
        bench.core.queued_bytes() >= WINDOW as usize - frames_in_a_record * FRAME_BYTES
    });
    let done = Arc::new(AtomicBool::new(false));
    let taken = Arc::clone(&done);
    let taking = std::thread::spawn(move || {
        b.send_frame(&Frame::Read { nonce: at_b, bytes: WINDOW });
        b.take(total);
        taken.store(true, Ordering::SeqCst);
        b
    });
    bench.refresh_counters();
    let start = bench.counters.frames_in;
    while bench.counters.frames_in - start < FRAMES / 10 {
        for _ in 0..50 {
            bench.turn();
        }
        bench.refresh_counters();
    }
    let (warm, blocks) = (bench.counters.frames_in, bench.counters.blocks_total);
    let before = allocations();
    while !done.load(Ordering::SeqCst) {
        bench.core.turn().unwrap();
    }
    let allocated = allocations() - before;
    bench.refresh_counters();
    let frames = bench.counters.frames_in - warm;
    assert!(frames > FRAMES / 2, "only {frames} frames were left to count over");
    // On a machine that keeps a peer waiting for longer than it did before, one block more may be
    // under way than ever; the pool keeps it.
    let made = bench.counters.blocks_total - blocks;
    assert_eq!(allocated, made, "allocations over {frames} frames, and blocks made");
    assert!(made < BLOCKS_LATE_MAX, "{made} blocks were made late");
    drop((finish(bench, giving), finish(bench, taking)));
    bench.assert_everything_came_back();
}

#[test]
fn warm_core_forwards_a_million_frames_without_an_allocation() {
    on_every_port(
        |bench| forwards_without_allocating(bench, 64),
        |bench| forwards_without_allocating(bench, 64),
    );
}

#[test]
fn warm_core_seals_whole_records_anew_without_an_allocation() {
    // 24 KiB of plaintext: more than the least that stays as it is.
    on_every_port(
        |bench| forwards_without_allocating(bench, 256),
        |bench| forwards_without_allocating(bench, 256),
    );
}

const PROFILES: [Profile; 3] = [Profile::P0, Profile::P2, Profile::P4];

fn seals_in_place<P: Port>(bench: &mut Bench<P>) {
    for from in PROFILES {
        for to in PROFILES {
            bench.ups.clear();
            let (mut a, mut b, to_b, _) = join(bench, (from, to), WINDOW);
            bench.refresh_counters();
            let before = bench.counters.records_sealed_in_place;
            let total = 4 << 20;
            let giving = std::thread::spawn(move || {
                a.give(to_b, total, 60_000, 1);
                a
            });
            let taking = std::thread::spawn(move || {
                b.take(total);
                b
            });
            drop((finish(bench, taking), finish(bench, giving)));
            bench.refresh_counters();
            let in_place = bench.counters.records_sealed_in_place - before;
            println!("{from} to {to}: {in_place} of 70 frames sealed in place");
            bench.assert_everything_came_back();
        }
    }
    bench.refresh_counters();
    assert!(bench.counters.records_sealed_in_place > 0, "no frame was sealed in place");
}

#[test]
fn large_frames_are_sealed_in_the_buffer_they_arrived_in_and_arrive_whole() {
    on_every_port(seals_in_place, seals_in_place);
}

/// Records of runs, of single frames and of few, so that what stays where it is and what is
/// gathered alternate within every buffer.
fn keeps_the_order_of_records<P: Port>(bench: &mut Bench<P>) {
    const TOTAL: u64 = 8 << 20;
    const SHAPES: [(usize, usize); 6] =
        [(1_024, 16), (100, 3), (8_192, 7), (30_000, 1), (1_024, 60), (500, 20)];
    for to in [Profile::P4, Profile::P2] {
        bench.ups.clear();
        let (mut a, mut b, to_b, _) = join(bench, (Profile::P4, to), WINDOW);
        bench.refresh_counters();
        let before = bench.counters.records_sealed_in_place;
        let giving = std::thread::spawn(move || {
            a.give_in_shapes(to_b, TOTAL, &SHAPES);
            a
        });
        let taking = std::thread::spawn(move || {
            b.take(TOTAL);
            b
        });
        drop((finish(bench, taking), finish(bench, giving)));
        bench.refresh_counters();
        let in_place = bench.counters.records_sealed_in_place - before;
        println!("to {to}: {in_place} records sealed where they were opened");
        assert!(in_place > 0 || to != Profile::P4, "no record stayed where it was");
        bench.assert_everything_came_back();
    }
}

#[test]
fn records_that_stay_and_records_that_are_gathered_arrive_in_order() {
    on_every_port(keeps_the_order_of_records, keeps_the_order_of_records);
}

fn returns_everything<P: Port>(bench: &mut Bench<P>) {
    for round in 0..10 {
        bench.ups.clear();
        let (mut a, mut b, to_b, to_a) = join(bench, (Profile::P4, Profile::P0), WINDOW);
        let giving = std::thread::spawn(move || {
            // As much as the window allows, so that some of it is queued when the peer dies.
            a.give(to_b, u64::from(WINDOW) / 2, 8192, 4);
            a
        });
        let dies = round % 2 == 0;
        let taking = std::thread::spawn(move || {
            b.give(to_a, 0, 1, 1);
            if dies {
                socket2::SockRef::from(&b.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            b
        });
        let a = finish(bench, giving);
        let b = finish(bench, taking);
        let downs = bench.downs;
        if dies {
            drop(b);
            bench.turn_until("the end of b's link", |bench| bench.downs > downs);
            let (sessions, connections) = bench.core.load();
            assert_eq!((sessions, connections), (0, 1), "only the dead peer's session ends");
            drop(a);
        } else {
            drop(a);
            bench.turn_until("the end of a's link", |bench| bench.downs > downs);
            drop(b);
        }
        bench.assert_everything_came_back();
    }
}

#[test]
fn killed_peer_costs_its_own_sessions_and_no_buffer() {
    on_every_port(returns_everything, returns_everything);
}

/// Links, and what one of them may hold while nothing passes over it.
const IDLE_LINKS: usize = 60;
const IDLE_LINK_MAX_BYTES: usize = 4096;

fn holds_little<P: Port>(bench: &mut Bench<P>) {
    let (address, gateway) = (bench.address, bench.identity);
    let dial = |indices: std::ops::Range<usize>| {
        std::thread::spawn(move || {
            let dial = |index: usize| {
                let key = secret(0x21 + index as u8);
                Peer::dial(address, gateway, &key, PROFILES[index % PROFILES.len()])
            };
            indices.map(dial).collect::<Vec<_>>()
        })
    };
    // Tables, rings and pools are made for all with the first links.
    let first = finish(bench, dial(0..PROFILES.len()));
    bench.turn_until("the first links", |bench| bench.ups.len() == PROFILES.len());
    bench.ups.reserve_exact(IDLE_LINKS);
    bench.refresh_counters();
    let (held, counted) = (held_bytes(), bench.counters.link_state_bytes);
    let rest = finish(bench, dial(PROFILES.len()..IDLE_LINKS));
    bench.turn_until("all links", |bench| bench.ups.len() == IDLE_LINKS);
    bench.refresh_counters();
    let links = IDLE_LINKS - PROFILES.len();
    let held = (held_bytes() - held) as usize / links;
    let counted = (bench.counters.link_state_bytes - counted) as usize / links;
    println!("an idle link holds {held} bytes, of which {counted} are counted");
    assert_eq!(bench.core.blocks_in_use(), 0, "an idle link holds no block");
    assert!(counted <= IDLE_LINK_MAX_BYTES, "{counted} bytes");
    // Tables grow by doubling, so some of what is held is for links to come.
    assert!(held.abs_diff(counted) < counted / 4, "{held} bytes held, {counted} counted");
    drop((first, rest));
    bench.assert_everything_came_back();
    bench.refresh_counters();
    assert_eq!(bench.counters.link_state_bytes, 0);
}

#[test]
fn idle_link_holds_little_memory() {
    on_every_port(holds_little, holds_little);
}

/// Rounds of a train from client to peer and back; the first ones warm the core up.
fn relays_datagrams_without_allocating<P: Port>(mut bench: TurnBench<P>) {
    const ROUNDS: usize = 300;
    const WARM_ROUNDS: usize = 50;
    const DATAGRAMS: usize = 8;
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    bench.open(peer.local_addr().unwrap());
    let relayed = bench.relayed.unwrap();
    let client = bench.client.try_clone().unwrap();
    let mut packet = [7; 500];
    packet[..4].copy_from_slice(&[0x40, 0, (496_u16 >> 8) as u8, (496_u16 & 0xff) as u8]);
    let mut buffer = [0; 2048];
    let mut before = 0;
    for round in 0..ROUNDS {
        if round == WARM_ROUNDS {
            before = allocations();
        }
        for _ in 0..DATAGRAMS {
            client.send(&packet).unwrap();
        }
        for _ in 0..DATAGRAMS {
            assert_eq!(bench.turn_until_received(&peer, &mut buffer), 496);
            assert_eq!(buffer[..496], packet[4..]);
        }
        for _ in 0..DATAGRAMS {
            peer.send_to(&packet[4..], relayed).unwrap();
        }
        for _ in 0..DATAGRAMS {
            assert_eq!(bench.turn_until_received(&client, &mut buffer), 500);
            assert_eq!(buffer[..500], packet);
        }
    }
    let datagrams = 2 * DATAGRAMS * (ROUNDS - WARM_ROUNDS);
    assert_eq!(allocations() - before, 0, "allocations over {datagrams} datagrams");
}

#[test]
fn warm_core_relays_datagrams_without_an_allocation() {
    for tier in [UdpTier::Gso, UdpTier::Plain] {
        let epoll = |waker, limits| EpollPort::new(waker, limits).unwrap();
        relays_datagrams_without_allocating(TurnBench::new(epoll, tier));
        if io_uring_is_there() {
            let uring = |waker, limits| UringPort::new(waker, limits).unwrap();
            relays_datagrams_without_allocating(TurnBench::new(uring, tier));
        }
    }
}

/// Rounds of a train from end to end and back; the first ones warm the core up.
fn passes_datagrams_without_allocating<P: Port>(mut bench: OpaqueBench<P>) {
    const ROUNDS: usize = 300;
    const WARM_ROUNDS: usize = 50;
    const DATAGRAMS: usize = 8;
    let mut buffer = [0; 2048];
    let mut before = 0;
    for round in 0..ROUNDS {
        if round == WARM_ROUNDS {
            before = allocations();
        }
        for (from, to) in [(0, 1), (1, 0)] {
            for number in 0..DATAGRAMS {
                bench.ends[from].send_to(&[number as u8; 500], bench.to[from]).unwrap();
            }
            for number in 0..DATAGRAMS {
                assert_eq!(bench.turn_until_received(to, &mut buffer), 500);
                assert_eq!(buffer[..500], [number as u8; 500]);
            }
        }
    }
    let datagrams = 2 * DATAGRAMS * (ROUNDS - WARM_ROUNDS);
    assert_eq!(allocations() - before, 0, "allocations over {datagrams} datagrams");
}

#[test]
fn warm_core_passes_datagrams_of_opaque_sessions_without_an_allocation() {
    for tier in [UdpTier::Gso, UdpTier::Plain] {
        let epoll = |waker, limits| EpollPort::new(waker, limits).unwrap();
        passes_datagrams_without_allocating(OpaqueBench::new(epoll, tier));
        if io_uring_is_there() {
            let uring = |waker, limits| UringPort::new(waker, limits).unwrap();
            passes_datagrams_without_allocating(OpaqueBench::new(uring, tier));
        }
    }
}

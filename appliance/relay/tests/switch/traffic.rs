//! Random traffic between two links against a reference that knows each direction's bytes.

use crate::world::{Seen, WINDOW, World};
use proptest::prelude::*;
use waystation_astral::frame::Profile;
use waystation_relay::limits::CHUNK_BYTES;
use waystation_relay::switch::Switch;

#[derive(Clone, Debug)]
enum Step {
    Open { window_a: u32, window_b: u32 },
    Send { session: usize, from_a: bool, bytes: usize },
    Read { session: usize, at_a: bool, bytes: u32 },
    Fill { at_a: bool, room: usize },
    Reset { session: usize, from_a: bool },
    Room(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..100_000_u32, 0..100_000_u32)
            .prop_map(|(window_a, window_b)| Step::Open { window_a, window_b }),
        8 => (0..6_usize, any::<bool>(), 1..20_000_usize)
            .prop_map(|(session, from_a, bytes)| Step::Send { session, from_a, bytes }),
        4 => (0..6_usize, any::<bool>(), 0..50_000_u32)
            .prop_map(|(session, at_a, bytes)| Step::Read { session, at_a, bytes }),
        4 => (any::<bool>(), 0..200_000_usize).prop_map(|(at_a, room)| Step::Fill { at_a, room }),
        1 => (0..6_usize, any::<bool>()).prop_map(|(session, from_a)| Step::Reset { session, from_a }),
        1 => any::<bool>().prop_map(Step::Room),
    ]
}

/// The simple reference for one direction: what was sent, what arrived, what was allowed.
#[derive(Default)]
struct Direction {
    sent: Vec<u8>,
    arrived: usize,
    granted: u64,
    allowance: u64,
}

/// What has passed over the legs of a core, asked for one place at a time.
fn taken(world: &mut World, core: usize) -> Vec<(u32, u16, u64)> {
    let (mut taken, mut next) = (Vec::new(), Some(0));
    while let Some(first) = next {
        next = world.cores[core].take_traffic(first, 1, |link, other, bytes| {
            taken.push((link, other.0, bytes));
        });
    }
    taken.sort_unstable();
    taken
}

#[test]
fn what_passes_over_links_is_told_once_and_by_the_core_it_goes_to() {
    let mut world = World::new(2);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P4);
    let c = world.link(1, 0, Profile::P4);
    world.join(a, b, 1, (u32::MAX, u32::MAX));
    world.join(a, c, 2, (u32::MAX, u32::MAX));
    assert_eq!(taken(&mut world, 0), []);
    world.data(a, 1, &[1; 30]);
    world.data(a, 2, &[2; 500]);
    assert_eq!(taken(&mut world, 0), [(0, 0, 30), (0, 1, 500), (1, 0, 30)]);
    assert_eq!(taken(&mut world, 1), [(0, 0, 500)]);
    world.data(a, 1, &[3; 7]);
    assert_eq!(taken(&mut world, 0), [(0, 0, 7), (1, 0, 7)]);
    assert_eq!(taken(&mut world, 1), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_traffic_keeps_credit_order_and_memory(
        steps in prop::collection::vec(step(), 1..150), cores in 1_usize..3,
    ) {
        let mut world = World::new(cores);
        let a = world.link(0, 0, Profile::P4);
        let b = world.link(cores - 1, 1, Profile::P4);
        // Per session: towards b, towards a, and whether each side has ended it.
        let mut sessions: Vec<(Direction, Direction, bool, bool)> = Vec::new();
        let mut byte = 0_u8;
        for step in steps {
            match step {
                Step::Open { window_a, window_b } => {
                    let nonce = sessions.len() as u64 + 1;
                    world.offer(a, b, nonce, window_a);
                    world.response(b, nonce + 1_000_000, 0, window_b);
                    let to_b = Direction { granted: window_b.into(), allowance: WINDOW.into(), ..Direction::default() };
                    let to_a = Direction { granted: window_a.into(), allowance: WINDOW.into(), ..Direction::default() };
                    sessions.push((to_b, to_a, false, false));
                }
                Step::Send { session, from_a, bytes } => {
                    let Some((to_b, to_a, a_ended, b_ended)) = sessions.get_mut(session) else { continue };
                    let (way, ended) = if from_a { (to_b, *a_ended) } else { (to_a, *b_ended) };
                    if ended || way.allowance < bytes as u64 {
                        continue;
                    }
                    way.allowance -= bytes as u64;
                    let payload: Vec<u8> = (0..bytes).map(|_| { byte = byte.wrapping_mul(5).wrapping_add(3); byte }).collect();
                    way.sent.extend(&payload);
                    let nonce = session as u64 + 1;
                    if from_a { world.data(a, nonce, &payload) } else { world.data(b, nonce + 1_000_000, &payload) };
                }
                Step::Read { session, at_a, bytes } => {
                    let Some((to_b, to_a, ..)) = sessions.get_mut(session) else { continue };
                    let nonce = session as u64 + 1;
                    if at_a {
                        to_a.granted += u64::from(bytes);
                        world.read(a, nonce, bytes);
                    } else {
                        to_b.granted += u64::from(bytes);
                        world.read(b, nonce + 1_000_000, bytes);
                    }
                }
                Step::Fill { at_a, room } => world.fill(if at_a { a } else { b }, room),
                Step::Reset { session, from_a } => {
                    let Some((_, _, a_ended, b_ended)) = sessions.get_mut(session) else { continue };
                    let nonce = session as u64 + 1;
                    if from_a {
                        *a_ended = true;
                        world.reset(a, nonce);
                    } else {
                        *b_ended = true;
                        world.reset(b, nonce + 1_000_000);
                    }
                }
                Step::Room(room) => world.has_room = room,
            }
            for (link, at_a) in [(a, true), (b, false)] {
                for seen in world.seen(link) {
                    let (nonce, payload) = match seen {
                        Seen::Data { nonce, payload } => (nonce, Some(payload)),
                        Seen::Read { nonce, bytes } => {
                            let session = (nonce % 1_000_000 - 1) as usize;
                            let (to_b, to_a, ..) = &mut sessions[session];
                            let way = if at_a { to_b } else { to_a };
                            way.allowance += u64::from(bytes);
                            prop_assert!(way.allowance <= u64::from(WINDOW), "more credit than the window");
                            continue;
                        }
                        Seen::Reset { nonce } => (nonce, None),
                        Seen::Query { .. } | Seen::Response { .. } | Seen::Migrate { .. } => {
                            continue;
                        }
                    };
                    let session = (nonce % 1_000_000 - 1) as usize;
                    let (to_b, to_a, a_ended, b_ended) = &mut sessions[session];
                    let (way, ended, other_ended) =
                        if at_a { (to_a, a_ended, b_ended) } else { (to_b, b_ended, a_ended) };
                    match payload {
                        Some(payload) => {
                            prop_assert!(!*ended, "data behind the end");
                            let expected = &way.sent[way.arrived..way.arrived + payload.len()];
                            prop_assert_eq!(expected, &payload[..], "bytes out of order");
                            way.arrived += payload.len();
                            prop_assert!(way.arrived as u64 <= way.granted, "beyond the peer's credit");
                        }
                        None if *ended => {}
                        None => {
                            prop_assert!(*other_ended, "a reset nobody asked for");
                            prop_assert_eq!(way.arrived, way.sent.len(), "bytes lost before the reset");
                            *ended = true;
                        }
                    }
                }
            }
            let waiting: usize = world.cores.iter().map(Switch::queue_bytes_in_use).sum();
            let legs: usize = world.cores.iter().map(Switch::sessions).sum();
            prop_assert!(waiting <= legs * (WINDOW as usize + 2 * CHUNK_BYTES));
        }
        for (core, link) in [a, b] {
            world.cores[core].link_down(link);
            world.settle();
        }
        prop_assert_eq!(world.sessions(), 0);
        for core in &world.cores {
            prop_assert_eq!(core.queue_bytes_in_use(), 0);
        }
    }
}

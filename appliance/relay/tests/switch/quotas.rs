//! Quotas: sessions counted in and out exactly, and bytes that pass no faster than they may.

use crate::world::{ROUTE, Seen, WINDOW, World, on_one_core_and_two, payload_of};
use std::sync::Arc;
use waystation_astral::frame::Profile;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::limits::{CHUNK_BYTES, PACE_PIECE_BYTES};
use waystation_relay::quota::{Quota, QuotaLimits};

const SECOND_NS: u64 = 1_000_000_000;
const MEBIBYTE: u64 = 1 << 20;

fn sessions(most: usize) -> Arc<Quota> {
    Quota::new(QuotaLimits { sessions: most, bytes_per_s: None, burst_bytes: 0 })
}

fn rate(bytes_per_s: u64) -> Arc<Quota> {
    let limits =
        QuotaLimits { sessions: 1000, bytes_per_s: Some(bytes_per_s), burst_bytes: 65_536 };
    Quota::new(limits)
}

fn govern(world: &mut World, (core, link): (usize, u32), quota: &Arc<Quota>) {
    world.cores[core].govern(link, Some(Arc::clone(quota)));
}

#[test]
fn sessions_asked_and_offered_count_until_they_end() {
    on_one_core_and_two(|world, a, b| {
        let (of_a, of_b) = (sessions(2), sessions(1));
        govern(world, a, &of_a);
        govern(world, b, &of_b);
        world.join(a, b, 1, (WINDOW, WINDOW));
        assert_eq!((of_a.sessions(), of_b.sessions()), (1, 1));
        // One more is too many for b, which only its caller hears of.
        world.offer(a, b, 2, WINDOW);
        assert_eq!(world.seen(a), [Seen::Response { nonce: 2, code: 1, window: 0 }]);
        assert_eq!((world.seen(b), of_a.sessions()), (vec![], 1));
        world.pending(a, 3, WINDOW);
        world.query(a, 4, WINDOW, ROUTE);
        assert_eq!(world.seen(a), [Seen::Response { nonce: 4, code: 1, window: 0 }]);
        assert_eq!(world.drops(DropReason::QuotaExceeded), 2);
        world.reset(a, 1);
        assert_eq!((of_a.sessions(), of_b.sessions()), (1, 0));
        world.down(a);
        assert_eq!((of_a.sessions(), world.sessions()), (0, 0));
    });
}

#[test]
fn sessions_from_before_the_quota_are_counted_in_as_far_as_there_is_room() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    for nonce in 1..=3 {
        world.pending(a, nonce, WINDOW);
    }
    world.ask(a, 41, 99, 0);
    let (first, second) = (sessions(2), sessions(10));
    govern(&mut world, a, &first);
    govern(&mut world, a, &first);
    assert_eq!(first.sessions(), 2);
    govern(&mut world, a, &second);
    assert_eq!((first.sessions(), second.sessions()), (0, 3));
    for nonce in 1..=3 {
        world.reset(a, nonce);
    }
    assert_eq!((second.sessions(), world.sessions()), (0, 1));
    world.pending(a, 4, WINDOW);
    world.cores[0].govern(a.1, None);
    world.reset(a, 4);
    assert_eq!(second.sessions(), 0);
}

#[test]
fn one_quota_counts_sessions_of_all_links_and_cores() {
    let mut world = World::new(2);
    let links = [world.link(0, 0, Profile::P4), world.link(1, 0, Profile::P4)];
    let quota = sessions(3);
    for link in links {
        govern(&mut world, link, &quota);
        for nonce in 1..=2 {
            world.query(link, nonce, WINDOW, ROUTE);
        }
    }
    assert_eq!((quota.sessions(), world.sessions()), (3, 3));
    assert_eq!(world.drops(DropReason::QuotaExceeded), 1);
}

#[test]
fn queries_of_this_node_count_against_nobody() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let quota = sessions(0);
    govern(&mut world, a, &quota);
    world.ask(a, 41, 7, 0);
    assert_eq!((quota.sessions(), world.sessions(), world.heard()), (0, 1, vec![]));
}

/// Lets a peer send as fast as it gets credit for so long, and returns how much arrived, in how
/// many frames.
fn send_for(
    world: &mut World,
    (a, b): ((usize, u32), (usize, u32)),
    nonces: &[(u64, u64)],
    duration_ns: u64,
) -> (u64, usize) {
    let mut credit = vec![u64::from(WINDOW); nonces.len()];
    let (mut arrived, mut frames) = (0, 0);
    let end_ns = world.now_ns + duration_ns;
    while world.now_ns < end_ns {
        for (&(nonce, _), credit) in nonces.iter().zip(&mut credit) {
            while *credit >= 8192 {
                *credit -= 8192;
                world.data(a, nonce, &[1; 8192]);
            }
        }
        let waiting: usize = world.cores.iter().map(|core| core.queue_bytes_in_use()).sum();
        assert!(waiting <= nonces.len() * (WINDOW as usize + 2 * CHUNK_BYTES));
        while world.cores[b.0].has_ready(b.1) {
            world.fill(b, 4 * 65_536);
        }
        let due_ns = world.cores[b.0].next_deadline_ns().unwrap_or(end_ns).min(end_ns);
        world.tick(due_ns.saturating_sub(world.now_ns).max(1));
        for seen in world.seen(b) {
            let Seen::Data { payload, .. } = seen else { panic!("{seen:?}") };
            arrived += payload.len() as u64;
            frames += 1;
        }
        for seen in world.seen(a) {
            let Seen::Read { nonce, bytes } = seen else { panic!("{seen:?}") };
            let place = nonces.iter().position(|&(at_a, _)| at_a == nonce).unwrap();
            credit[place] += u64::from(bytes);
        }
    }
    (arrived, frames)
}

#[test]
fn rate_of_a_mebibyte_a_second_holds_within_five_percent_and_in_pieces_of_kibibytes() {
    on_one_core_and_two(|world, a, b| {
        for sessions in [1, 20] {
            let quota = rate(MEBIBYTE);
            let nonces: Vec<(u64, u64)> = (0..sessions)
                .map(|session| {
                    let nonce = 1000 * sessions + session;
                    let pace = (Some(Arc::clone(&quota)), None);
                    (nonce, world.join_paced(a, b, nonce, pace))
                })
                .collect();
            let (arrived, frames) = send_for(world, (a, b), &nonces, 5 * SECOND_NS);
            let wanted = 5 * MEBIBYTE;
            assert!(arrived.abs_diff(wanted) < wanted / 20, "{arrived} instead of {wanted}");
            let largest_share = arrived as usize / frames;
            assert!(largest_share > PACE_PIECE_BYTES / 2, "frames of {largest_share} bytes");
            for (nonce, _) in nonces {
                let leg = world.cores[a.0].legs().find(|(_, leg)| leg.nonce == nonce).unwrap().0;
                world.cores[a.0].close_session(leg, DropReason::SessionClosedByOperator);
            }
            world.settle();
            assert_eq!(world.sessions(), 0);
            world.seen(a);
            world.seen(b);
        }
    });
}

#[test]
fn sessions_of_one_paced_identity_get_the_same_share() {
    let mut world = World::new(1);
    let (a, b) = (world.link(0, 0, Profile::P4), world.link(0, 1, Profile::P4));
    let quota = rate(MEBIBYTE);
    for nonce in 1..=4 {
        world.join_paced(a, b, nonce, (Some(Arc::clone(&quota)), None));
        // Much more than the others, for the first.
        for _ in 0..if nonce == 1 { 128 } else { 64 } {
            world.data(a, nonce, &[1; 8192]);
        }
    }
    for _ in 0..1000 {
        world.tick(SECOND_NS / 1000);
        world.fill(b, 65_536);
    }
    let shares: Vec<u64> = (1..=4)
        .map(|nonce| {
            let legs = &mut world.cores[0].legs();
            legs.find(|(_, leg)| leg.nonce == nonce + 1_000_000).unwrap().1.bytes_out
        })
        .collect();
    // The first one's burst was direct.
    let rest = &shares[1..];
    assert!(shares[0] >= 65_536 && shares[0] < rest[0] + 2 * 65_536, "{shares:?}");
    assert!(rest.iter().all(|share| share.abs_diff(rest[0]) <= 16_384), "{shares:?}");
}

#[test]
fn pace_of_the_caller_leaves_what_the_target_sends_alone() {
    on_one_core_and_two(|world, a, b| {
        let quota = rate(1);
        let at_b = world.join_paced(a, b, 9, (Some(Arc::clone(&quota)), None));
        for _ in 0..32 {
            world.data(b, at_b, &[1; 8192]);
        }
        assert_eq!(payload_of(&world.seen(a)).len(), 32 * 8192);
        assert_eq!(quota.allowance_bytes(world.now_ns), 65_536);
        let quota = rate(1);
        let at_b = world.join_paced(a, b, 10, (None, Some(quota)));
        for _ in 0..32 {
            world.data(b, at_b, &[1; 8192]);
        }
        world.fill(a, 1 << 20);
        assert_eq!(payload_of(&world.seen(a)).len(), 65_536);
    });
}

#[test]
fn session_that_ends_is_flushed_at_its_pace_and_then_reset() {
    let mut world = World::new(1);
    let (a, b) = (world.link(0, 0, Profile::P4), world.link(0, 1, Profile::P4));
    let at_b = world.join_paced(a, b, 9, (Some(rate(MEBIBYTE)), None));
    for _ in 0..64 {
        world.data(a, 9, &[1; 8192]);
    }
    world.reset(a, 9);
    let mut seen = Vec::new();
    let start_ns = world.now_ns;
    while seen.last() != Some(&Seen::Reset { nonce: at_b }) {
        assert!(world.now_ns - start_ns < SECOND_NS, "{} frames", seen.len());
        world.tick(SECOND_NS / 1000);
        world.fill(b, 65_536);
        seen.extend(world.seen(b));
    }
    assert!(world.now_ns - start_ns > SECOND_NS / 3);
    assert_eq!(payload_of(&seen).len(), 64 * 8192);
    assert_eq!((world.sessions(), world.cores[0].queue_bytes_in_use()), (0, 0));
}

#[test]
fn raised_rate_and_another_quota_let_waiting_legs_go() {
    let mut world = World::new(1);
    let (a, b) = (world.link(0, 0, Profile::P4), world.link(0, 1, Profile::P4));
    let quota = rate(1);
    let at_b = [1, 2].map(|nonce| {
        let at_b = world.join_paced(a, b, nonce, (Some(Arc::clone(&quota)), None));
        for _ in 0..32 {
            world.data(a, nonce, &[1; 8192]);
        }
        at_b
    });
    world.fill(b, 1 << 20);
    world.seen(b);
    let leg = world.cores[0].legs().find(|(_, leg)| leg.nonce == at_b[0]).unwrap().0;
    world.cores[0].pace(leg, rate(1 << 40));
    world.fill(b, 1 << 20);
    let first = payload_of(&world.seen(b)).len();
    assert_eq!(first, 32 * 8192 - 65_536);
    quota.set_limits(QuotaLimits { sessions: 9, bytes_per_s: None, burst_bytes: 0 });
    world.tick(SECOND_NS);
    world.fill(b, 1 << 20);
    assert_eq!(payload_of(&world.seen(b)).len(), 32 * 8192);
}

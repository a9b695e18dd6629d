//! Joined sessions: answers, credit, resets, timeouts, turns and caps, on one core and on two.

use crate::world::{ROUTE, Seen, TIMEOUT_NS, WINDOW, World, on_one_core_and_two, payload_of};
use waystation_astral::frame::Profile;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::limits::{CHUNK_BYTES, RESET_GRACE_NS};
use waystation_relay::switch::Route;

#[test]
fn query_nobody_serves_is_rejected_with_code_1_and_nothing_else() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    world.query(a, 7, WINDOW, b"conform.none");
    assert_eq!(world.seen(a), [Seen::Response { nonce: 7, code: 1, window: 0 }]);
    assert_eq!((world.sessions(), world.drops(DropReason::UnknownQuery)), (0, 1));
}

#[test]
fn joined_legs_pass_data_within_credit_and_return_it_in_steps() {
    on_one_core_and_two(|world, a, b| {
        let at_b = world.join(a, b, 9, (WINDOW, WINDOW));
        for _ in 0..64 {
            world.data(a, 9, &[7; 4096]);
        }
        let data = world.seen(b);
        assert_eq!(payload_of(&data).len(), 64 * 4096);
        assert!(data.iter().all(|seen| matches!(seen, Seen::Data { nonce, .. } if *nonce == at_b)));
        assert_eq!(world.seen(a), [Seen::Read { nonce: 9, bytes: WINDOW / 4 }]);
    });
}

#[test]
fn code_of_the_target_reaches_the_caller() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        assert_eq!(
            world.seen(b),
            [Seen::Query { nonce: 1_000_009, window: WINDOW, relayed: None }]
        );
        world.response(b, 1_000_009, 6, 0);
        assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 6, window: 0 }]);
        assert_eq!((world.sessions(), world.drops(DropReason::TargetRejected)), (0, 1));
    });
}

#[test]
fn reset_is_passed_on_behind_all_data_received_before_it() {
    on_one_core_and_two(|world, a, b| {
        let at_b = world.join(a, b, 9, (WINDOW, 1000));
        let sent: Vec<u8> = (0..200_000_u32).map(|i| (i % 253) as u8).collect();
        for piece in sent.chunks(8192) {
            world.data(a, 9, piece);
        }
        world.reset(a, 9);
        let mut got = payload_of(&world.seen(b));
        let mut ended = false;
        while !ended {
            world.fill(b, 1 << 20);
            let seen = world.seen(b);
            got.extend(payload_of(&seen));
            ended = seen.last() == Some(&Seen::Reset { nonce: at_b });
            assert_eq!(ended, got.len() == sent.len(), "the reset comes with the last byte");
            world.read(b, at_b, 1000);
        }
        assert!(got == sent);
        assert_eq!(world.sessions(), 0);
        assert_eq!(world.cores[b.0].queue_bytes_in_use(), 0);
    });
}

#[test]
fn one_byte_beyond_the_window_resets_the_session_once_and_loses_nothing_before_it() {
    on_one_core_and_two(|world, a, b| {
        let at_b = world.join(a, b, 9, (WINDOW, 0));
        for _ in 0..WINDOW / 8192 {
            world.data(a, 9, &[1; 8192]);
        }
        assert_eq!(world.seen(a), []);
        assert_eq!(world.data(a, 9, &[1]), Route::Nowhere);
        assert_eq!(world.seen(a), [Seen::Reset { nonce: 9 }]);
        assert_eq!(world.drops(DropReason::CreditOverflow), 1);
        world.read(b, at_b, WINDOW + 100);
        world.fill(b, 2 << 20);
        let seen = world.seen(b);
        assert_eq!(payload_of(&seen).len(), WINDOW as usize);
        assert_eq!(seen.last(), Some(&Seen::Reset { nonce: at_b }));
        assert_eq!(world.sessions(), 0);
    });
}

#[test]
fn data_for_a_session_of_another_link_is_answered_there_and_not_delivered() {
    on_one_core_and_two(|world, a, b| {
        world.join(a, b, 9, (WINDOW, WINDOW));
        let thief = world.link(0, 8, Profile::P4);
        world.data(thief, 9, b"intruder");
        world.reset(thief, 9);
        assert_eq!(world.seen(thief), [Seen::Reset { nonce: 9 }]);
        world.data(a, 9, b"mine");
        assert_eq!(payload_of(&world.seen(b)), b"mine");
    });
}

#[test]
fn duplicate_nonce_is_ignored_and_the_session_goes_on() {
    on_one_core_and_two(|world, a, b| {
        world.join(a, b, 9, (WINDOW, WINDOW));
        world.query(a, 9, WINDOW, ROUTE);
        world.query(a, 9, WINDOW, b"conform.none");
        assert_eq!(world.seen(a), []);
        assert_eq!(world.drops(DropReason::DuplicateNonce), 2);
        world.data(a, 9, b"on");
        assert_eq!(payload_of(&world.seen(b)), b"on");
    });
}

#[test]
fn link_that_dies_resets_exactly_its_own_sessions() {
    on_one_core_and_two(|world, a, b| {
        let other = world.link(0, 20, Profile::P2);
        let dying = world.join(a, b, 1, (WINDOW, WINDOW));
        let living = world.join(other, b, 2, (WINDOW, WINDOW));
        world.data(b, dying, &[0; 1000]);
        world.cores[a.0].link_down(a.1);
        world.settle();
        assert_eq!(world.seen(b), [Seen::Reset { nonce: dying }]);
        world.data(b, living, b"still here");
        assert_eq!(payload_of(&world.seen(other)), b"still here");
        assert_eq!(world.sessions(), 2);
    });
}

#[test]
fn caller_that_cancels_before_the_answer_resets_the_target() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        world.seen(b);
        world.reset(a, 9);
        assert_eq!(world.seen(b), [Seen::Reset { nonce: 1_000_009 }]);
        assert_eq!(world.seen(a), []);
        world.response(b, 1_000_009, 0, WINDOW);
        assert_eq!((world.sessions(), world.seen(b)), (0, vec![]));
    });
}

#[test]
fn caller_that_cancels_before_anybody_was_asked_is_forgotten() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P4);
    world.query(a, 9, WINDOW, ROUTE);
    world.reset(a, 9);
    let leg = world.asked.pop().unwrap();
    assert_eq!(world.cancelled, [leg]);
    // The management core may have decided already.
    world.offer_as(leg, b, 77, None);
    let query = Seen::Query { nonce: 77, window: WINDOW, relayed: None };
    assert_eq!(world.seen(b), [query, Seen::Reset { nonce: 77 }]);
    assert_eq!(world.sessions(), 0);
}

#[test]
fn reset_before_the_response_waits_for_the_code() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        world.reset(b, 1_000_009);
        assert_eq!(world.seen(a), []);
        world.response(b, 1_000_009, 5, 0);
        assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 5, window: 0 }]);
        world.tick(2 * RESET_GRACE_NS);
        assert_eq!((world.seen(a), world.sessions()), (vec![], 0));
    });
}

#[test]
fn reset_without_a_response_is_a_rejection_after_the_grace() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        world.reset(b, 1_000_009);
        world.tick(RESET_GRACE_NS - 1);
        assert_eq!(world.seen(a), []);
        world.tick(1);
        assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 1, window: 0 }]);
        assert_eq!(world.sessions(), 0);
    });
}

#[test]
fn reset_before_an_accepting_response_is_an_empty_session() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        world.reset(b, 1_000_009);
        world.response(b, 1_000_009, 0, WINDOW);
        let accepted = Seen::Response { nonce: 9, code: 0, window: WINDOW };
        assert_eq!(world.seen(a), [accepted, Seen::Reset { nonce: 9 }]);
        assert_eq!(world.sessions(), 0);
    });
}

#[test]
fn target_that_never_answers_is_given_up() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        world.seen(b);
        world.tick(TIMEOUT_NS);
        assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 1, window: 0 }]);
        assert_eq!(world.seen(b), [Seen::Reset { nonce: 1_000_009 }]);
        assert_eq!((world.sessions(), world.drops(DropReason::TargetTimeout)), (0, 1));
    });
}

#[test]
fn first_data_towards_an_older_peer_is_held_back_after_its_response() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P0);
    world.offer(a, b, 9, WINDOW);
    world.response(b, 1_000_009, 0, WINDOW);
    world.seen(b);
    world.data(a, 9, b"early");
    world.fill(b, 1000);
    assert_eq!(world.seen(b), []);
    world.tick(2_000_000);
    world.fill(b, 1000);
    assert_eq!(payload_of(&world.seen(b)), b"early");
}

#[test]
fn answer_of_ours_goes_out_within_credit_and_ends_with_a_reset() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    world.query(a, 9, 0, ROUTE);
    let leg = world.asked.pop().unwrap();
    world.cores[0].answer(leg, b"0123456789", 1);
    world.settle();
    world.fill(a, 1000);
    assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 0, window: WINDOW }]);
    world.read(a, 9, 3);
    world.fill(a, 1000);
    assert_eq!(payload_of(&world.seen(a)), b"012");
    world.read(a, 9, 1000);
    world.fill(a, 1000);
    let data = Seen::Data { nonce: 9, payload: b"3456789".to_vec() };
    assert_eq!(world.seen(a), [data, Seen::Reset { nonce: 9 }]);
    assert_eq!(world.sessions(), 0);
}

#[test]
fn stalled_session_does_not_hold_up_another_of_the_same_link() {
    on_one_core_and_two(|world, a, b| {
        let stalled = world.join(a, b, 1, (WINDOW, 10));
        let lively = world.join(a, b, 2, (WINDOW, WINDOW));
        world.data(a, 1, &[1; 5000]);
        world.fill(b, 100_000);
        for _ in 0..20 {
            world.data(a, 2, &[2; 5000]);
            world.fill(b, 100_000);
        }
        let seen = world.seen(b);
        let bytes = |of: u64| -> usize {
            let mine = |seen: &&Seen| matches!(seen, Seen::Data { nonce, .. } if *nonce == of);
            payload_of(&seen.iter().filter(mine).cloned().collect::<Vec<_>>()).len()
        };
        assert_eq!((bytes(stalled), bytes(lively)), (10, 100_000));
    });
}

#[test]
fn sessions_of_a_link_take_turns_when_there_is_little_room() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P4);
    world.has_room = false;
    for nonce in 1..=4 {
        world.join(a, b, nonce, (WINDOW, WINDOW));
        for _ in 0..16 {
            world.data(a, nonce, &[nonce as u8; 8192]);
        }
    }
    world.fill(b, 4 * 32 * 1024);
    let mut nonces: Vec<u64> = world
        .seen(b)
        .iter()
        .filter_map(|seen| match seen {
            Seen::Data { nonce, .. } => Some(*nonce),
            _ => None,
        })
        .collect();
    nonces.dedup();
    assert_eq!(nonces, [1_000_001, 1_000_002, 1_000_003, 1_000_004]);
}

#[test]
fn queue_memory_that_is_used_up_ends_the_session_that_needs_more() {
    let mut world = World::with_queue_bytes(1, 8 * CHUNK_BYTES);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P4);
    let at_b = world.join(a, b, 9, (WINDOW, 0));
    world.data(a, 9, &[0; 8 * CHUNK_BYTES]);
    world.data(a, 9, &[0; 1]);
    assert_eq!(world.seen(b), [Seen::Reset { nonce: at_b }]);
    assert_eq!(world.seen(a), [Seen::Reset { nonce: 9 }]);
    assert_eq!(world.drops(DropReason::BufferExhausted), 1);
    assert_eq!((world.sessions(), world.cores[0].queue_bytes_in_use()), (0, 0));
}

#[test]
fn sessions_beyond_the_caps_of_a_link_and_of_a_core_are_rejected() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P4);
    for nonce in 1..=101 {
        world.query(a, nonce, WINDOW, ROUTE);
    }
    assert_eq!(world.seen(a), [Seen::Response { nonce: 101, code: 1, window: 0 }]);
    for nonce in 1..=51 {
        world.query(b, nonce, WINDOW, ROUTE);
    }
    assert_eq!(world.seen(b), [Seen::Response { nonce: 51, code: 1, window: 0 }]);
    assert_eq!((world.sessions(), world.drops(DropReason::TooManySessions)), (150, 2));
}

#[test]
fn credit_for_a_session_that_has_just_ended_is_not_answered() {
    on_one_core_and_two(|world, a, b| {
        let at_b = world.join(a, b, 9, (1000, 1000));
        world.reset(a, 9);
        assert_eq!(world.seen(b), [Seen::Reset { nonce: at_b }]);
        world.read(a, 9, 10);
        world.read(b, at_b, 10);
        assert_eq!((world.seen(a), world.seen(b)), (vec![], vec![]));
        // Data tells that the peer has not understood, and credit for what never was is odd.
        world.data(a, 9, b"late");
        world.read(b, 4711, 10);
        assert_eq!(world.seen(a), [Seen::Reset { nonce: 9 }]);
        assert_eq!(world.seen(b), [Seen::Reset { nonce: 4711 }]);
        assert_eq!(world.drops(DropReason::UnknownSessionRead), 3);
    });
}

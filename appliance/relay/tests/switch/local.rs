//! Sessions of the node itself: queries it answers and asks, what is handed up, how they end.

use crate::world::{Heard, Seen, TIMEOUT_NS, WINDOW, World, on_one_core_and_two, payload_of};
use waystation_astral::frame::Profile;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::LegTag;
use waystation_relay::leg::LegKind;
use waystation_relay::limits::{FIRST_DATA_HOLD_NS, RESET_GRACE_NS};
use waystation_relay::switch::{OutboundQuery, Route};

type Link = (usize, u32);

/// A world of one link with an accepted query, of nonce 9, from its peer.
fn accepted(input_max_bytes: u32) -> (World, Link, LegTag) {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let leg = world.pending(a, 9, 100);
    world.cores[0].accept(leg, input_max_bytes);
    world.settle();
    assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 0, window: WINDOW }]);
    (world, a, leg)
}

/// A world of one link with a query of our own, of nonce 7, that its peer has not answered.
fn asked(profile: Profile) -> (World, Link) {
    let mut world = World::new(1);
    let a = world.link(0, 0, profile);
    world.ask(a, 41, 7, 1000);
    assert_eq!(world.seen(a), [Seen::Query { nonce: 7, window: WINDOW, relayed: None }]);
    assert_eq!(world.cores[0].legs().next().unwrap().1.kind, LegKind::Own);
    (world, a)
}

fn input(leg: LegTag, bytes: &[u8]) -> Heard {
    Heard::Input { leg, bytes: bytes.to_vec() }
}

/// The one leg of a world's first core.
fn only_leg(world: &World) -> LegTag {
    world.cores[0].legs().next().unwrap().0
}

#[test]
fn input_of_an_accepted_query_is_handed_up_in_order_and_its_end_once() {
    let (mut world, a, leg) = accepted(1000);
    for piece in [b"one".as_slice(), b"two", b"three"] {
        assert_eq!(world.data(a, 9, piece), Route::Management { leg });
    }
    world.reset(a, 9);
    world.reset(a, 9);
    let heard = [input(leg, b"one"), input(leg, b"two"), input(leg, b"three")];
    assert_eq!(world.heard(), [heard.as_slice(), &[Heard::Ended { leg }]].concat());
    assert_eq!((world.seen(a), world.sessions()), (vec![], 0));
}

#[test]
fn credit_for_input_comes_back_once_it_is_with_the_management_core() {
    let (mut world, a, leg) = accepted(u32::MAX);
    world.hands_up = false;
    for _ in 0..WINDOW / 8192 {
        world.data(a, 9, &[1; 8192]);
    }
    assert_eq!(world.seen(a), []);
    world.cores[0].input_handed_up(leg, WINDOW as usize / 2);
    world.settle();
    assert_eq!(world.seen(a), [Seen::Read { nonce: 9, bytes: WINDOW / 2 }]);
    for _ in 0..WINDOW / 8192 / 2 {
        world.data(a, 9, &[1; 8192]);
    }
    assert_eq!(world.seen(a), []);
    world.data(a, 9, &[1]);
    assert_eq!(world.seen(a), [Seen::Reset { nonce: 9 }]);
    assert_eq!(world.drops(DropReason::CreditOverflow), 1);
    assert_eq!(world.heard().last(), Some(&Heard::Ended { leg }));
}

#[test]
fn one_byte_of_input_too_much_resets_the_session() {
    let (mut world, a, leg) = accepted(10);
    world.data(a, 9, b"0123456789");
    world.data(a, 9, b"x");
    assert_eq!(world.seen(a), [Seen::Reset { nonce: 9 }]);
    assert_eq!(world.drops(DropReason::InputTooLong), 1);
    assert_eq!(world.heard(), [input(leg, b"0123456789"), Heard::Ended { leg }]);
    assert_eq!(world.sessions(), 0);
}

#[test]
fn input_of_a_session_that_did_not_ask_for_any_is_read_and_forgotten() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let leg = world.pending(a, 9, 0);
    world.cores[0].answer(leg, b"answer", 1);
    world.settle();
    world.data(a, 9, b"nobody reads this");
    world.reset(a, 9);
    assert_eq!((world.heard(), world.sessions()), (vec![], 0));
}

#[test]
fn what_is_written_goes_out_within_credit_and_its_end_is_told_when_it_has() {
    let (mut world, a, leg) = accepted(1000);
    world.cores[0].write(leg, &[1; 150], false, 1);
    world.cores[0].write(leg, &[2; 50], true, 1);
    world.settle();
    world.fill(a, 1 << 20);
    assert_eq!(payload_of(&world.seen(a)), [1; 100]);
    assert_eq!(world.heard(), []);
    world.read(a, 9, 1000);
    world.fill(a, 1 << 20);
    let seen = world.seen(a);
    assert_eq!(payload_of(&seen), [[1; 50], [2; 50]].concat());
    assert_eq!(seen.last(), Some(&Seen::Reset { nonce: 9 }));
    assert_eq!(world.heard(), [Heard::Ended { leg }]);
    assert_eq!((world.sessions(), world.cores[0].queue_bytes_in_use()), (0, 0));
}

#[test]
fn what_this_node_writes_gives_its_peer_no_credit() {
    let (mut world, a, leg) = accepted(1000);
    world.read(a, 9, WINDOW);
    world.cores[0].write(leg, &vec![1; WINDOW as usize], false, 1);
    world.fill(a, 2 * WINDOW as usize);
    let seen = world.seen(a);
    assert_eq!(payload_of(&seen).len(), WINDOW as usize);
    assert!(!seen.iter().any(|seen| matches!(seen, Seen::Read { .. })));
}

#[test]
fn link_that_dies_ends_sessions_of_the_node_itself_once() {
    let (mut world, a, leg) = accepted(1000);
    world.ask(a, 41, 7, 1000);
    let own = LegTag { core: leg.core, slot: 1, generation: 0 };
    world.down(a);
    world.down(a);
    let mut heard = world.heard();
    heard.sort_by_key(|heard| matches!(heard, Heard::Ended { .. }));
    assert_eq!(heard, [Heard::Asked { ask: 41, leg: own, code: 1 }, Heard::Ended { leg }]);
    assert_eq!(world.sessions(), 0);
}

#[test]
fn command_for_a_query_that_is_no_longer_pending_changes_nothing() {
    let (mut world, a, leg) = accepted(1000);
    world.cores[0].answer(leg, b"late", 1);
    world.cores[0].reject(leg, 1);
    world.cores[0].accept(leg, 1);
    world.cores[0].forget(leg);
    world.settle();
    world.fill(a, 1000);
    assert_eq!((world.seen(a), world.heard(), world.sessions()), (vec![], vec![], 1));
}

#[test]
fn query_of_our_own_is_answered_once_and_its_data_is_handed_up() {
    let (mut world, a) = asked(Profile::P4);
    let leg = only_leg(&world);
    world.response(a, 7, 0, 5);
    world.response(a, 7, 0, 5);
    assert_eq!(world.heard(), [Heard::Asked { ask: 41, leg, code: 0 }]);
    world.cores[0].write(leg, b"0123456789", false, 1);
    world.settle();
    world.fill(a, 1000);
    assert_eq!(payload_of(&world.seen(a)), b"01234");
    world.data(a, 7, b"ack");
    world.reset(a, 7);
    assert_eq!(world.heard(), [input(leg, b"ack"), Heard::Ended { leg }]);
    assert_eq!(world.sessions(), 0);
}

#[test]
fn code_a_peer_rejects_our_query_with_is_told_as_it_is() {
    let (mut world, a) = asked(Profile::P4);
    let leg = only_leg(&world);
    world.response(a, 7, 6, 0);
    assert_eq!(world.heard(), [Heard::Asked { ask: 41, leg, code: 6 }]);
    assert_eq!((world.sessions(), world.drops(DropReason::TargetRejected)), (0, 1));
}

#[test]
fn query_of_our_own_that_is_never_answered_is_given_up_with_a_reset() {
    let (mut world, a) = asked(Profile::P4);
    let leg = only_leg(&world);
    world.tick(TIMEOUT_NS);
    assert_eq!(world.seen(a), [Seen::Reset { nonce: 7 }]);
    assert_eq!(world.heard(), [Heard::Asked { ask: 41, leg, code: 1 }]);
    assert_eq!((world.sessions(), world.drops(DropReason::TargetTimeout)), (0, 1));
}

#[test]
fn reset_before_the_answer_to_our_query_waits_for_the_code() {
    for (response, code) in [(Some(5), 5), (None, 1)] {
        let (mut world, a) = asked(Profile::P4);
        let leg = only_leg(&world);
        world.reset(a, 7);
        assert_eq!(world.heard(), []);
        if let Some(code) = response {
            world.response(a, 7, code, 0);
        }
        world.tick(RESET_GRACE_NS);
        assert_eq!(world.heard(), [Heard::Asked { ask: 41, leg, code }]);
        assert_eq!((world.seen(a), world.sessions()), (vec![], 0));
    }
}

#[test]
fn reset_before_an_acceptance_of_our_query_is_a_session_that_has_ended() {
    let (mut world, a) = asked(Profile::P4);
    let leg = only_leg(&world);
    world.reset(a, 7);
    world.response(a, 7, 0, WINDOW);
    assert_eq!(world.heard(), [Heard::Asked { ask: 41, leg, code: 0 }, Heard::Ended { leg }]);
    assert_eq!(world.sessions(), 0);
}

#[test]
fn query_of_our_own_that_cannot_be_sent_is_answered_with_code_1() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    world.ask((0, 9), 1, 1, 0);
    for nonce in 1..=101 {
        world.ask(a, nonce + 1, nonce, 0);
    }
    let refused: Vec<u64> = world
        .heard()
        .iter()
        .map(|heard| match heard {
            Heard::Asked { ask, code: 1, .. } => *ask,
            heard => panic!("{heard:?}"),
        })
        .collect();
    assert_eq!(refused, [1, 102]);
    assert_eq!(world.drops(DropReason::TargetNotReachable), 1);
    assert_eq!(world.drops(DropReason::TooManySessions), 1);
}

#[test]
fn first_data_of_our_own_query_is_held_back_from_an_older_peer() {
    let (mut world, a) = asked(Profile::P0);
    let leg = only_leg(&world);
    world.response(a, 7, 0, WINDOW);
    world.cores[0].write(leg, b"early", true, 1);
    world.settle();
    world.fill(a, 1000);
    assert_eq!(world.seen(a), []);
    world.tick(FIRST_DATA_HOLD_NS);
    world.fill(a, 1000);
    let data = Seen::Data { nonce: 7, payload: b"early".to_vec() };
    assert_eq!(world.seen(a), [data, Seen::Reset { nonce: 7 }]);
}

#[test]
fn closed_session_is_reset_on_both_sides_at_once_whatever_waits() {
    on_one_core_and_two(|world, a, b| {
        for from_caller in [true, false] {
            let nonce = 9 + u64::from(from_caller);
            let at_b = world.join(a, b, nonce, (WINDOW, 0));
            world.data(a, nonce, &[0; 5000]);
            let core = if from_caller { a.0 } else { b.0 };
            let wanted = if from_caller { nonce } else { at_b };
            let leg = world.cores[core].legs().find(|(_, leg)| leg.nonce == wanted).unwrap().0;
            assert!(world.cores[core].close_session(leg, DropReason::SessionClosedByOperator));
            world.settle();
            assert!(!world.cores[core].close_session(leg, DropReason::SessionClosedByOperator));
            assert_eq!(world.seen(a), [Seen::Reset { nonce }]);
            assert_eq!(world.seen(b), [Seen::Reset { nonce: at_b }]);
            assert_eq!(world.sessions(), 0);
            assert_eq!(world.cores[b.0].queue_bytes_in_use(), 0);
        }
        assert_eq!(world.drops(DropReason::SessionClosedByOperator), 2);
    });
}

#[test]
fn closed_query_that_waits_is_rejected_and_whoever_decides_hears_of_it() {
    on_one_core_and_two(|world, a, b| {
        let reason = DropReason::SessionClosedByOperator;
        let leg = world.pending(a, 1, WINDOW);
        world.cores[a.0].close_session(leg, reason);
        world.settle();
        assert_eq!(world.seen(a), [Seen::Response { nonce: 1, code: 1, window: 0 }]);
        assert_eq!(world.cancelled, [leg]);
        // Asked of a target that has not answered: from the caller's side, and from the target's.
        for (nonce, core) in [(2, a.0), (3, b.0)] {
            world.offer(a, b, nonce, WINDOW);
            world.seen(b);
            let kind = if nonce == 2 { LegKind::Caller } else { LegKind::Target };
            let leg = world.cores[core].legs().find(|(_, leg)| leg.kind == kind).unwrap().0;
            world.cores[core].close_session(leg, reason);
            world.settle();
            assert_eq!(world.seen(a), [Seen::Response { nonce, code: 1, window: 0 }]);
            assert_eq!(world.seen(b), [Seen::Reset { nonce: nonce + 1_000_000 }]);
        }
        assert_eq!((world.sessions(), world.drops(reason)), (0, 3));
    });
}

#[test]
fn closed_session_of_the_node_itself_ends_once() {
    let (mut world, a, leg) = accepted(1000);
    world.ask(a, 41, 7, 1000);
    let reason = DropReason::SessionClosedByOperator;
    let own = LegTag { core: leg.core, slot: 1, generation: 0 };
    world.seen(a);
    for tag in [leg, own] {
        world.cores[0].close_session(tag, reason);
        world.settle();
    }
    assert_eq!(world.heard(), [Heard::Ended { leg }, Heard::Asked { ask: 41, leg: own, code: 1 }]);
    assert_eq!(world.seen(a), [Seen::Reset { nonce: 9 }, Seen::Reset { nonce: 7 }]);
    assert_eq!((world.sessions(), world.drops(reason)), (0, 2));
}

#[test]
fn link_of_our_own_inside_a_session_we_asked_for_is_told_when_it_may_write_and_when_it_ends() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let query = |nonce| OutboundQuery { nonce, query: b"q".as_slice().into(), relayed: None };
    let leg = world.cores[0].ask_inside(1, a.1, query(7), 30).unwrap();
    world.settle();
    world.response(a, 7, 0, WINDOW);
    assert_eq!((world.inner_opened.as_slice(), world.inner_ended.as_slice()), (&[30][..], &[][..]));
    world.cores[0].inner_write(leg, b"act one", 1);
    world.fill(a, 1000);
    assert_eq!(payload_of(&world.seen(a)), b"act one");
    assert_eq!(world.data(a, 7, b"act two"), Route::Inner { link: 30 });
    world.reset(a, 7);
    assert_eq!(world.inner_ended, [30]);
    world.cores[0].ask_inside(1, a.1, query(8), 31).unwrap();
    world.settle();
    world.response(a, 8, 1, 0);
    assert_eq!(world.inner_ended, [30, 31]);
    let refusal = world.cores[0].ask_inside(1, 55, query(9), 32);
    assert_eq!(refusal, Err(DropReason::TargetNotReachable));
    assert_eq!(world.sessions(), 0);
}

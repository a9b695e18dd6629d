//! Sessions of links that go on in another process.

use crate::world::{Seen, TIMEOUT_NS, WINDOW, World, payload_of};
use std::collections::BTreeSet;
use std::collections::VecDeque;
use waystation_astral::frame::Profile;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::CoreId;
use waystation_relay::switch::{MoveRefusal, SessionsRefusal, SessionsState};

const QUEUED: usize = 30_000;

fn told(world: &World, (core, link): (usize, u32)) -> SessionsState {
    let state = world.cores[core].sessions_state(link).unwrap();
    let text = serde_json::to_string(&state).unwrap();
    let again = serde_json::from_str(&text).unwrap();
    assert_eq!(state, again);
    again
}

/// The same links in another process, which has heard of their sessions and stands still.
fn another(world: &World, links: &[(usize, u32)]) -> World {
    let mut next = World::new(world.cores.len());
    next.now_ns = world.now_ns;
    for &(core, link) in links {
        let state = told(world, (core, link));
        next.cores[core].take_sessions_over(link, Profile::P4, &state).unwrap();
        next.links.insert((core, link), VecDeque::new());
    }
    next
}

/// Two links whose cores are these, with a session that has payload waiting for `b`.
fn waiting(cores: [usize; 2]) -> (World, [(usize, u32); 2], Vec<u8>) {
    let mut world = World::new(2);
    let a = world.link(cores[0], 3, Profile::P4);
    let b = world.link(cores[1], 5, Profile::P4);
    world.join(a, b, 1, (WINDOW, WINDOW));
    // So the places of the session are not the first ones.
    world.join(a, b, 2, (WINDOW, WINDOW));
    world.reset(a, 1);
    world.seen(b);
    world.has_room = false;
    let payload: Vec<u8> = (0..QUEUED).map(|at| (at % 251) as u8).collect();
    world.data(a, 2, &payload);
    (world, [a, b], payload)
}

#[test]
fn session_goes_on_in_another_process_with_its_payload_and_credit() {
    for cores in [[0, 0], [0, 1]] {
        let (mut world, [a, b], payload) = waiting(cores);
        let place = |(core, link): (usize, u32)| (CoreId(core as u16), link);
        assert_eq!(world.cores[a.0].joined_links(a.1), Some(BTreeSet::from([place(b)])));
        assert_eq!(world.cores[b.0].joined_links(b.1), Some(BTreeSet::from([place(a)])));
        assert_eq!(world.cores[b.0].queued_bytes_of(b.1), QUEUED);
        let mut next = another(&world, &[a, b]);
        for (core, link) in [a, b] {
            world.cores[core].forget_link(link);
            next.cores[core].resume_sessions(link);
        }
        world.settle();
        assert_eq!((world.seen(a), world.seen(b)), (vec![], vec![]), "nobody hears a word");
        assert_eq!((world.sessions(), world.cores[b.0].queue_bytes_in_use()), (0, 0));
        next.settle();
        next.fill(b, 1 << 20);
        assert_eq!(payload_of(&next.seen(b)), payload);
        // Credit for what passed in both processes goes back together.
        assert_eq!(next.seen(a), []);
        let half = WINDOW / 2;
        next.data(a, 2, &vec![0; half as usize]);
        assert_eq!(next.seen(a), [Seen::Read { nonce: 2, bytes: QUEUED as u32 + half }]);
        next.seen(b);
        // And back, over the same places, until one of them ends.
        next.data(b, 1_000_002, b"back");
        assert_eq!(payload_of(&next.seen(a)), b"back");
        next.reset(b, 1_000_002);
        assert_eq!(next.seen(a).last(), Some(&Seen::Reset { nonce: 2 }));
        assert_eq!(next.sessions(), 0);
    }
}

#[test]
fn sessions_are_written_in_no_more_bytes_than_they_say() {
    let (world, [a, b], _) = waiting([0, 1]);
    for link in [a, b] {
        let state = told(&world, link);
        let written = serde_json::to_string(&state).unwrap().len();
        let bound = state.written_bytes_max();
        assert_eq!(world.cores[link.0].written_bytes_max_of(link.1), bound);
        assert!(written <= bound && bound <= 2 * written + 4096, "{written} of {bound}");
    }
}

#[test]
fn sessions_told_of_are_still_there_for_the_process_that_told() {
    let (mut world, [a, b], payload) = waiting([0, 1]);
    drop(another(&world, &[a, b]));
    world.fill(b, 1 << 20);
    assert_eq!(payload_of(&world.seen(b)), payload);
}

#[test]
fn offer_that_was_handed_over_is_given_up_when_it_was_to_be() {
    let mut world = World::new(2);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(1, 0, Profile::P4);
    world.offer(a, b, 1, WINDOW);
    world.tick(TIMEOUT_NS / 2);
    let mut next = another(&world, &[a, b]);
    next.tick(TIMEOUT_NS / 2 - 1);
    assert_eq!(next.seen(a), []);
    next.tick(1);
    assert_eq!(next.seen(a), [Seen::Response { nonce: 1, code: 1, window: 0 }]);
    assert_eq!((next.sessions(), next.drops(DropReason::TargetTimeout)), (0, 1));
}

#[test]
fn link_with_a_query_that_waits_or_a_session_of_the_node_is_not_told_of() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    world.pending(a, 1, WINDOW);
    assert_eq!(world.cores[0].what_ties(a.1), Some(MoveRefusal::QueryPending));
    assert_eq!(world.cores[0].joined_links(a.1), None);
    let b = world.link(0, 1, Profile::P4);
    world.ask(b, 7, 9, 100);
    assert_eq!(world.cores[0].what_ties(b.1), Some(MoveRefusal::OwnSession));
    assert_eq!(world.cores[0].joined_links(b.1), None);
}

#[test]
fn sessions_without_room_or_in_places_that_are_taken_change_nothing() {
    let (world, [a, b], _) = waiting([0, 0]);
    let state = told(&world, b);
    let mut small = World::with_queue_bytes(1, 4096);
    let refused = small.cores[0].take_sessions_over(b.1, Profile::P4, &state);
    assert_eq!(refused, Err(SessionsRefusal::NoRoom));
    let mut few = World::new(1);
    few.cores[0].set_limits(100, 0, TIMEOUT_NS);
    let refused = few.cores[0].take_sessions_over(b.1, Profile::P4, &state);
    assert_eq!(refused, Err(SessionsRefusal::NoRoom));
    assert_eq!(small.sessions() + few.sessions(), 0);
    let mut next = another(&world, &[a]);
    next.cores[0].take_sessions_over(b.1, Profile::P4, &state).unwrap();
    for link in [b.1, 77] {
        let refused = next.cores[0].take_sessions_over(link, Profile::P4, &state);
        assert_eq!(refused, Err(SessionsRefusal::Malformed));
    }
    assert_eq!(next.sessions(), 2);
}

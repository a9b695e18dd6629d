//! Links that change cores with sessions that wait for an answer, and with very many.

use crate::world::{Seen, TIMEOUT_NS, WINDOW, World};
use waystation_astral::frame::Profile;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::limits::{MOVED_SESSIONS_MAX, RESET_GRACE_NS};
use waystation_relay::switch::{DepartureProgress, MoveRefusal};

/// A link whose peer was offered two sessions and has reset the second, on its third core.
fn offers_that_move() -> (World, (usize, u32), (usize, u32)) {
    let mut world = World::new(3);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(1, 0, Profile::P4);
    world.offer(a, b, 1, WINDOW);
    world.offer(a, b, 2, WINDOW);
    world.reset(b, 1_000_002);
    world.cores[1].depart(0).unwrap();
    world.settle();
    assert_eq!(world.cores[1].departure(0), DepartureProgress::Settled);
    let sessions = world.cores[1].leave(0).unwrap();
    let b = world.link(2, 4, Profile::P4);
    world.cores[2].arrive(4, sessions);
    world.settle();
    (world, a, b)
}

#[test]
fn offers_that_have_moved_are_given_up_when_they_were_to_be() {
    let (mut world, a, b) = offers_that_move();
    world.tick(RESET_GRACE_NS);
    let rejected = |nonce| Seen::Response { nonce, code: 1, window: 0 };
    assert_eq!(world.seen(a), [rejected(2)]);
    assert_eq!(world.drops(DropReason::TargetRejected), 1);
    world.tick(TIMEOUT_NS - RESET_GRACE_NS);
    assert_eq!(world.seen(a), [rejected(1)]);
    assert_eq!(world.seen(b), [Seen::Reset { nonce: 1_000_001 }]);
    assert_eq!((world.sessions(), world.drops(DropReason::TargetTimeout)), (0, 1));
}

#[test]
fn link_with_too_many_sessions_stays_until_it_has_fewer() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P4);
    world.cores[0].set_limits(2 * MOVED_SESSIONS_MAX, 4 * MOVED_SESSIONS_MAX, TIMEOUT_NS);
    for nonce in 0..=MOVED_SESSIONS_MAX as u64 {
        world.join(a, b, nonce, (WINDOW, WINDOW));
    }
    assert_eq!(world.cores[0].depart(a.1), Err(MoveRefusal::TooManySessions));
    assert_eq!(world.cores[0].frozen_sessions(), 0);
    world.reset(a, 0);
    assert_eq!(world.cores[0].depart(a.1), Ok(()));
    world.settle();
    assert_eq!(world.cores[0].frozen_sessions(), MOVED_SESSIONS_MAX);
    // The other sides end, each of which has something parked for a leg of the first link.
    world.down(b);
    assert_eq!(world.cores[0].sessions(), MOVED_SESSIONS_MAX);
    let sessions = world.cores[0].leave(a.1).unwrap();
    world.cores[0].arrive(a.1, sessions);
    world.settle();
    assert_eq!((world.sessions(), world.cores[0].frozen_sessions()), (0, 0));
}

//! Sessions that their peer moves from one of its links to another.

use crate::world::{Heard, Seen, WINDOW, World, payload_of};
use waystation_astral::frame::Profile;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LegTag};
use waystation_relay::leg::{MigrationStep, Source};
use waystation_relay::switch::Migration;

type Link = (usize, u32);

const OPERATION: LegTag = LegTag { core: CoreId(0), slot: 900, generation: 0 };
const NONCE: u64 = 9;

/// A session of `NONCE` on the old link of a peer, joined to one of another peer.
struct Scene {
    world: World,
    old: Link,
    new: Link,
    b: Link,
    at_b: u64,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new(1);
        let (old, new) = (world.link(0, 0, Profile::P4), world.link(0, 1, Profile::P4));
        let b = world.link(0, 2, Profile::P4);
        let at_b = world.join(old, b, NONCE, (1000, 4 * WINDOW));
        Self { world, old, new, b, at_b }
    }

    fn begin(&mut self, nonce: u64, peer_window: u32) -> Vec<Heard> {
        let to_link = self.new.1;
        let migration = Migration { operation: OPERATION, nonce, to_link, peer_window };
        self.world.cores[0].begin_migration(&[self.old.1], migration);
        self.world.settle();
        self.world.heard()
    }

    fn begun(&mut self) -> LegTag {
        let heard = self.begin(NONCE, 500);
        let [Heard::Migration(MigrationStep::Begun { leg, window_bytes: WINDOW })] = heard[..]
        else {
            panic!("{heard:?}")
        };
        assert_eq!(self.world.seen(self.old), [Seen::Migrate { nonce: NONCE }]);
        leg
    }

    fn arrive(&mut self) {
        self.world.cores[0].migrate(self.old.1, NONCE);
        self.world.settle();
        assert_eq!(self.world.heard(), [Heard::Migration(MigrationStep::Arrived)]);
    }

    fn resume(&mut self, leg: LegTag) {
        self.world.cores[0].resume_migrated(leg);
        self.world.settle();
        self.world.fill(self.new, 1 << 20);
    }
}

#[test]
fn moved_session_goes_on_where_it_was_and_loses_no_byte() {
    let mut scene = Scene::new();
    scene.world.data(scene.b, scene.at_b, b"before ");
    assert_eq!(payload_of(&scene.world.seen(scene.old)), b"before ");
    let leg = scene.begun();
    // What comes on the old link before the peer's marker still counts.
    scene.world.data(scene.old, NONCE, b"last words");
    scene.world.data(scene.b, scene.at_b, b"meanwhile ");
    scene.world.fill(scene.old, 1 << 20);
    scene.world.fill(scene.new, 1 << 20);
    assert_eq!(scene.world.seen(scene.old), []);
    scene.arrive();
    scene.world.fill(scene.new, 1 << 20);
    assert_eq!(scene.world.seen(scene.new), []);
    scene.resume(leg);
    assert_eq!(payload_of(&scene.world.seen(scene.new)), b"meanwhile ");
    scene.world.data(scene.new, NONCE, b" go on");
    scene.world.data(scene.b, scene.at_b, b"after");
    assert_eq!(payload_of(&scene.world.seen(scene.new)), b"after");
    assert_eq!(payload_of(&scene.world.seen(scene.b)), b"last words go on");
    scene.world.reset(scene.new, NONCE);
    assert_eq!(scene.world.seen(scene.b), [Seen::Reset { nonce: scene.at_b }]);
    assert_eq!((scene.world.seen(scene.old), scene.world.sessions()), (vec![], 0));
}

#[test]
fn both_windows_are_those_that_were_exchanged() {
    let mut scene = Scene::new();
    // The peer has used half of its window, and its bytes wait for the target's credit.
    let mut stalled = Scene::new();
    stalled.at_b = stalled.world.join(stalled.old, stalled.b, 10, (1000, 0));
    stalled.world.data(stalled.old, 10, &vec![7; WINDOW as usize / 2]);
    let migration =
        Migration { operation: OPERATION, nonce: 10, to_link: stalled.new.1, peer_window: 500 };
    stalled.world.cores[0].begin_migration(&[stalled.old.1], migration);
    stalled.world.cores[0].migrate(stalled.old.1, 10);
    stalled.world.settle();
    let heard = stalled.world.heard();
    let Heard::Migration(MigrationStep::Begun { leg, .. }) = heard[0] else { panic!() };
    stalled.resume(leg);
    // A whole window fits on top of it, and not a byte more.
    stalled.world.data(stalled.new, 10, &vec![8; WINDOW as usize]);
    assert_eq!(stalled.world.drops(DropReason::CreditOverflow), 0);
    // For what was sent on the old link no credit comes back.
    stalled.world.read(stalled.b, stalled.at_b, WINDOW / 2);
    for _ in 0..100 {
        stalled.world.fill(stalled.b, 1 << 20);
    }
    assert!(!stalled.world.seen(stalled.new).iter().any(|s| matches!(s, Seen::Read { .. })));
    stalled.world.read(stalled.b, stalled.at_b, WINDOW);
    for _ in 0..100 {
        stalled.world.fill(stalled.b, 1 << 20);
    }
    let returned: u32 = stalled
        .world
        .seen(stalled.new)
        .iter()
        .map(|seen| match seen {
            Seen::Read { bytes, .. } => *bytes,
            _ => 0,
        })
        .sum();
    assert!(returned > WINDOW / 2 && returned <= WINDOW, "{returned}");
    // Towards the peer, its new window holds, whatever was left of the old one.
    let leg = scene.begun();
    scene.arrive();
    scene.world.data(scene.b, scene.at_b, &[1; 2000]);
    scene.resume(leg);
    assert_eq!(payload_of(&scene.world.seen(scene.new)).len(), 500);
}

#[test]
fn session_that_cannot_move_stays_where_it_is() {
    let mut scene = Scene::new();
    let refused = [Heard::Migration(MigrationStep::Refused)];
    assert_eq!(scene.begin(77, 500), refused);
    let pending = scene.world.pending(scene.old, 5, 100);
    assert_eq!(scene.begin(5, 500), refused);
    scene.world.cores[0].reject(pending, 1);
    // The nonce is somebody else's on the new link.
    let c = scene.world.link(0, 3, Profile::P4);
    scene.world.join(scene.new, c, NONCE, (1000, 1000));
    assert_eq!(scene.begin(NONCE, 500), refused);
    assert_eq!(scene.world.drops(DropReason::MigrationRefused), 3);
    scene.world.seen(scene.old);
    scene.world.data(scene.b, scene.at_b, b"as before");
    assert_eq!(payload_of(&scene.world.seen(scene.old)), b"as before");
}

#[test]
fn second_migration_of_a_moving_session_is_refused() {
    let mut scene = Scene::new();
    scene.begun();
    assert_eq!(scene.begin(NONCE, 500), [Heard::Migration(MigrationStep::Refused)]);
}

#[test]
fn marker_for_a_session_that_does_not_move_is_ignored() {
    let mut scene = Scene::new();
    scene.world.cores[0].migrate(scene.old.1, NONCE);
    scene.world.cores[0].migrate(scene.old.1, 1234);
    scene.begun();
    scene.arrive();
    scene.world.cores[0].migrate(scene.new.1, NONCE);
    assert_eq!(scene.world.drops(DropReason::UnknownSessionIgnored), 3);
    assert_eq!(scene.world.sessions(), 2);
}

#[test]
fn end_of_either_link_ends_a_moving_session_and_nothing_stays_behind() {
    for dies_new in [true, false] {
        for arrived in [true, false] {
            let mut scene = Scene::new();
            scene.begun();
            if arrived {
                scene.arrive();
            }
            let dying = if dies_new { scene.new } else { scene.old };
            scene.world.down(dying);
            let outlives = arrived && !dies_new;
            assert_eq!(scene.world.sessions(), if outlives { 2 } else { 0 });
            if !outlives {
                assert_eq!(scene.world.heard(), [Heard::Migration(MigrationStep::Ended)]);
                assert_eq!(scene.world.seen(scene.b), [Seen::Reset { nonce: scene.at_b }]);
            }
            let other = if dies_new { scene.old } else { scene.new };
            if !outlives {
                assert!(scene.world.cores[0].nonce_is_free(other.1, NONCE));
            }
        }
    }
}

#[test]
fn target_that_ends_meanwhile_is_heard_on_the_new_link() {
    let mut scene = Scene::new();
    let leg = scene.begun();
    scene.world.data(scene.b, scene.at_b, b"the end");
    scene.world.reset(scene.b, scene.at_b);
    scene.arrive();
    assert_eq!(scene.world.seen(scene.old), []);
    scene.resume(leg);
    let seen = scene.world.seen(scene.new);
    assert_eq!(payload_of(&seen), b"the end");
    assert_eq!(seen.last(), Some(&Seen::Reset { nonce: NONCE }));
    assert_eq!(scene.world.sessions(), 0);
}

#[test]
fn session_that_moves_to_and_fro_never_has_more_than_two_windows_held() {
    let mut scene = Scene::new();
    scene.at_b = scene.world.join(scene.old, scene.b, 10, (1000, 0));
    let there = Migration { operation: OPERATION, nonce: 10, to_link: scene.new.1, peer_window: 5 };
    let back = Migration { to_link: scene.old.1, ..there };
    scene.world.data(scene.old, 10, &vec![7; WINDOW as usize]);
    scene.world.cores[0].begin_migration(&[scene.old.1], there);
    scene.world.cores[0].migrate(scene.old.1, 10);
    scene.world.settle();
    let Heard::Migration(MigrationStep::Begun { leg, .. }) = scene.world.heard()[0] else {
        panic!()
    };
    scene.resume(leg);
    scene.world.data(scene.new, 10, &vec![8; WINDOW as usize]);
    scene.world.cores[0].begin_migration(&[scene.new.1], back);
    scene.world.settle();
    assert_eq!(scene.world.heard(), [Heard::Migration(MigrationStep::Refused)]);
    // With half of the debt paid, what is left of it is no part of the next window.
    scene.world.read(scene.b, scene.at_b, WINDOW / 2);
    for _ in 0..100 {
        scene.world.fill(scene.b, 1 << 20);
    }
    let debt = scene.world.cores[0].leg(leg).unwrap().credit_debt;
    scene.world.cores[0].begin_migration(&[scene.new.1], back);
    scene.world.settle();
    let window_bytes = WINDOW - debt as u32;
    let begun = MigrationStep::Begun { leg, window_bytes };
    assert_eq!((debt > 0, scene.world.heard()), (true, vec![Heard::Migration(begun)]));
    scene.world.cores[0].migrate(scene.new.1, 10);
    scene.world.settle();
    scene.resume(leg);
    scene.world.data(scene.old, 10, &vec![9; window_bytes as usize]);
    let queued: usize = scene.world.cores[0].legs().map(|(_, leg)| leg.queue.len()).sum();
    assert_eq!(queued, 2 * WINDOW as usize);
    assert_eq!(scene.world.drops(DropReason::CreditOverflow), 0);
    scene.world.data(scene.old, 10, b"one more");
    assert_eq!(scene.world.drops(DropReason::CreditOverflow), 1);
}

#[test]
fn session_with_little_traffic_moves_as_often_as_its_peer_likes() {
    let mut scene = Scene::new();
    for number in 0..10 {
        let (from, to) = if number % 2 == 0 { (0, 1) } else { (1, 0) };
        scene.world.data((0, from), NONCE, b"little");
        let migration =
            Migration { operation: OPERATION, nonce: NONCE, to_link: to, peer_window: 500 };
        scene.world.cores[0].begin_migration(&[from], migration);
        scene.world.cores[0].migrate(from, NONCE);
        scene.world.settle();
        let heard = scene.world.heard();
        let [Heard::Migration(MigrationStep::Begun { leg, .. }), Heard::Migration(arrived)] =
            heard[..]
        else {
            panic!("{heard:?}")
        };
        assert_eq!(arrived, MigrationStep::Arrived);
        scene.world.cores[0].resume_migrated(leg);
        scene.world.settle();
    }
}

#[test]
fn bytes_of_a_moved_session_take_turns_under_its_new_link() {
    for cores in [1, 2] {
        let mut world = World::new(cores);
        let (old, new) = (world.link(0, 0, Profile::P4), world.link(0, 1, Profile::P4));
        let b = world.link(cores - 1, 2, Profile::P4);
        world.join(old, b, NONCE, (1000, 1000));
        let migration =
            Migration { operation: OPERATION, nonce: NONCE, to_link: new.1, peer_window: 500 };
        world.cores[0].begin_migration(&[old.1], migration);
        world.cores[0].migrate(old.1, NONCE);
        world.settle();
        let (_, at_b) = world.cores[b.0].legs().find(|(_, leg)| leg.link == b.1).unwrap();
        assert_eq!(at_b.source, Source::Link { core: CoreId(0), link: new.1 });
    }
}

#[test]
fn data_on_the_new_link_before_the_marker_resets_the_session() {
    let mut scene = Scene::new();
    scene.begun();
    scene.world.data(scene.new, NONCE, b"too soon");
    assert_eq!(scene.world.sessions(), 0);
    assert_eq!(scene.world.drops(DropReason::UnknownSessionData), 1);
}

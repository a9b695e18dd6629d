//! What holds payload up, as both links of a session see it.

use crate::world::{World, on_one_core_and_two};
use std::sync::Arc;
use waystation_astral::frame::Profile;
use waystation_relay::leg::Signal;
use waystation_relay::limiting::{Limit, LimitTimes};
use waystation_relay::quota::{Quota, QuotaLimits};
use waystation_relay::switch::{DepartureProgress, Effect};

const MS: u64 = 1_000_000;

/// Lets time pass, the last 100 ms of it as one interval.
fn pass_an_interval(world: &mut World) {
    for wait_ms in [1, 100] {
        world.tick(wait_ms * MS);
        world.cores.iter_mut().for_each(|core| core.close_interval());
    }
}

/// What held up what the peer of a link has sent, and what is due to it.
fn limits(world: &World, (core, link): (usize, u32)) -> (LimitTimes, LimitTimes) {
    let times = world.cores[core].link_limits(link);
    (times.sent, times.due)
}

/// That only this held, for the whole interval.
fn assert_only(times: LimitTimes, only: Option<Limit>) {
    for limit in Limit::ALL {
        let expected_ms = if Some(limit) == only { 100 } else { 0 };
        assert_eq!(times.ns(limit), expected_ms * MS, "{limit:?} in {times:?}");
    }
}

fn assert_limits(world: &World, link: (usize, u32), (sent, due): (Option<Limit>, Option<Limit>)) {
    let times = limits(world, link);
    assert_only(times.0, sent);
    assert_only(times.1, due);
}

#[test]
fn used_up_window_holds_up_both_links_in_the_direction_of_the_payload() {
    on_one_core_and_two(|world, a, b| {
        let offered = world.join(a, b, 1, (u32::MAX, 10));
        world.data(a, 1, &[1; 30]);
        world.fill(b, 1_000);
        pass_an_interval(world);
        assert_limits(world, a, (Some(Limit::Credit), None));
        assert_limits(world, b, (None, Some(Limit::Credit)));
        world.read(b, offered, 100);
        world.fill(b, 1_000);
        pass_an_interval(world);
        assert_limits(world, a, (None, None));
        assert_limits(world, b, (None, None));
    });
}

#[test]
fn payload_that_waits_for_a_quota_is_held_up_by_it() {
    on_one_core_and_two(|world, a, b| {
        let limits = QuotaLimits { sessions: 9, bytes_per_s: Some(1000), burst_bytes: 0 };
        let quota = Quota::new(limits);
        world.join_paced(a, b, 1, (Some(Arc::clone(&quota)), None));
        world.data(a, 1, &[1; 30_000]);
        world.data(a, 1, &[1; 30_000]);
        world.fill(b, 60_000);
        pass_an_interval(world);
        assert_limits(world, a, (Some(Limit::Quota), None));
        assert_limits(world, b, (None, Some(Limit::Quota)));
    });
}

#[test]
fn socket_that_takes_nothing_holds_up_whoever_sends_there() {
    on_one_core_and_two(|world, a, b| {
        world.join(a, b, 1, (u32::MAX, u32::MAX));
        world.has_room = false;
        world.data(a, 1, &[1; 30]);
        pass_an_interval(world);
        assert_limits(world, a, (None, None));
        world.cores[b.0].set_stuck(b.1, true);
        world.settle();
        pass_an_interval(world);
        assert_limits(world, a, (Some(Limit::PeerNotReading), None));
        assert_limits(world, b, (None, Some(Limit::PeerNotReading)));
        world.cores[b.0].set_stuck(b.1, false);
        world.settle();
        world.fill(b, 1_000);
        pass_an_interval(world);
        assert_limits(world, a, (None, None));
        assert_limits(world, b, (None, None));
    });
}

#[test]
fn ended_session_holds_nothing_up() {
    on_one_core_and_two(|world, a, b| {
        world.join(a, b, 1, (u32::MAX, 10));
        world.data(a, 1, &[1; 30]);
        world.fill(b, 1_000);
        world.down(b);
        pass_an_interval(world);
        assert_limits(world, a, (None, None));
        assert_eq!(world.sessions(), 0);
    });
}

#[test]
fn leg_knows_what_holds_it_up_whichever_way_the_payload_goes() {
    on_one_core_and_two(|world, a, b| {
        world.join(a, b, 1, (u32::MAX, 10));
        world.data(a, 1, &[1; 30]);
        world.fill(b, 1_000);
        pass_an_interval(world);
        for core in &world.cores {
            for (tag, _) in core.legs() {
                assert_only(core.leg_limits(tag), Some(Limit::Credit));
            }
        }
    });
}

/// Rings of different cores keep no order between them.
#[test]
fn what_held_a_leg_up_before_its_link_changed_cores_is_not_believed_afterwards() {
    let mut world = World::new(3);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(1, 0, Profile::P4);
    world.join(a, b, 1, (u32::MAX, u32::MAX));
    world.has_room = false;
    world.data(a, 1, &[1; 30]);
    world.cores[b.0].depart(b.1).unwrap();
    world.settle();
    assert_eq!(world.cores[b.0].departure(b.1), DepartureProgress::Settled);
    world.cores[b.0].set_stuck(b.1, true);
    let mut late = Vec::new();
    world.cores[b.0].take_effects(&mut late);
    assert!(matches!(
        late.as_slice(),
        [Effect::Cross(Signal::Limited { limit: Some(Limit::PeerNotReading), .. })]
    ));
    let sessions = world.cores[b.0].leave(b.1).unwrap();
    world.cores[2].arrive(7, sessions);
    world.settle();
    late.into_iter().for_each(|effect| world.apply(b.0, effect));
    world.settle();
    pass_an_interval(&mut world);
    assert_limits(&world, a, (None, None));
    assert_limits(&world, (2, 7), (None, None));
}

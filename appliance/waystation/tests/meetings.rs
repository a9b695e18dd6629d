//! Callers and idle connections that the kernel deals to different cores meet every time, however
//! soon after its arrival an idle connection is taken.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::io::{Read, Write};
use std::thread;
use support::STEP;
use support::appliance::{Appliance, PortName, Settings};
use support::hand_link::{Got, HandLink};
use support::nodes::connect;
use waystation_astral::frame::{Frame, Profile};

/// Pairs of nodes that meet at the same time, to keep the cores busy.
const PAIRS: usize = 4;
const MEETINGS: usize = 60;

#[test]
fn callers_meet_idle_connections_of_other_cores_over_io_uring() {
    meet(PortName::IoUring);
}

#[test]
fn callers_meet_idle_connections_of_other_cores_over_epoll() {
    meet(PortName::Epoll);
}

fn meet(port: PortName) {
    if !port.is_given() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(port, 3));
    thread::scope(|scope| {
        for _ in 0..PAIRS {
            scope.spawn(|| meet_again_and_again(&appliance));
        }
    });
    assert_eq!(appliance.total("pipes_opened"), (PAIRS * MEETINGS) as u64);
    appliance.wait_until_whole();
}

/// One idle connection at a time: each is taken as soon as the gateway knows it.
fn meet_again_and_again(appliance: &Appliance) {
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P0));
    let idle = target.idle(1, true);
    for meeting in 0..MEETINGS {
        let (mut near, mut far) = connect(&caller, &target, &idle);
        let message = meeting.to_be_bytes();
        near.write_all(&message).unwrap();
        let mut received = message;
        received.reverse();
        far.read_exact(&mut received).unwrap();
        assert_eq!(received, message);
    }
    // What the pool still holds ends with it.
    drop(idle);
    caller.link.ping(STEP).unwrap();
}

#[test]
fn node_is_reached_as_soon_as_its_link_is_up_over_io_uring() {
    reach_at_once(PortName::IoUring);
}

#[test]
fn node_is_reached_as_soon_as_its_link_is_up_over_epoll() {
    reach_at_once(PortName::Epoll);
}

/// Callers and targets of different cores. The target's pong is all that anybody waits for.
fn reach_at_once(port: PortName) {
    if !port.is_given() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(port, 3));
    thread::scope(|scope| {
        for _ in 0..PAIRS {
            scope.spawn(|| {
                let caller = appliance.node(Profile::P4);
                for meeting in 0..MEETINGS {
                    let profile = Profile::ALL[meeting % Profile::ALL.len()];
                    let mut target = HandLink::dial(&appliance, profile);
                    let (link, identity) = (caller.link.clone(), target.identity);
                    let asking = thread::spawn(move || link.query_relayed(&identity, "test.soon"));
                    let (Got::Query { nonce, .. } | Got::RelayQuery { nonce, .. }) =
                        target.receive_next()
                    else {
                        panic!("something else than the query");
                    };
                    target.send(&Frame::Response { nonce, code: 0, window: 1024 });
                    drop(asking.join().unwrap().unwrap());
                    target.close();
                }
            });
        }
    });
    appliance.wait_until_whole();
}

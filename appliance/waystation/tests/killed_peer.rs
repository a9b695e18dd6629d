//! A peer that dies in the middle of transfers: exactly its own sessions and pipes end, everybody
//! else's go on, and every buffer comes back.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::net::TcpStream;
use support::STEP;
use support::appliance::{Appliance, PortName, Settings};
use support::eventually;
use support::nodes::{Wire, connect, route};
use support::streams::Pump;
use waystation_astral::frame::Profile;
use waystation_astral::identity::Identity;
use waystation_peer::RouteForm;

const ROUNDS: usize = 10;
/// What each stream moves before the kill, and each survivor after it.
const PROGRESS_BYTES: u64 = 64 * 1024;

#[test]
fn killed_peer_takes_only_its_own_sessions_along_over_io_uring_with_one_core() {
    rounds(PortName::IoUring, 1);
}

#[test]
fn killed_peer_takes_only_its_own_sessions_along_over_io_uring_with_three_cores() {
    rounds(PortName::IoUring, 3);
}

#[test]
fn killed_peer_takes_only_its_own_sessions_along_over_epoll_with_one_core() {
    rounds(PortName::Epoll, 1);
}

#[test]
fn killed_peer_takes_only_its_own_sessions_along_over_epoll_with_three_cores() {
    rounds(PortName::Epoll, 3);
}

fn rounds(port: PortName, cores: usize) {
    if !port.is_given() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(port, cores));
    for round in 0..ROUNDS {
        kill_one(&appliance, cores, round);
        appliance.wait_until_whole();
    }
}

/// A and B talk to each other and both to C. One of the two dies: A, who asked for the pipes, in
/// even rounds, and B, who was asked, in odd ones.
fn kill_one(appliance: &Appliance, cores: usize, round: usize) {
    // All on one core, or each on another, in turn.
    let core = |node: usize| if round % 4 < 2 { (round + node) % cores } else { round % cores };
    let profile = |node: usize| Profile::ALL[(round + node) % Profile::ALL.len()];
    let [a, b, c] = [0, 1, 2].map(|node| appliance.node_on(profile(node), core(node)));

    let (b_idle, c_idle) = (b.idle(1, true), c.idle(1, false));

    let (near, far) = route(&a, &b, RouteForm::of(a.link.profile()));
    let a_b_session = Pump::start("session of A and B", near, far);
    let (near, far) = route(&b, &c, RouteForm::of(b.link.profile()));
    let b_c_session = Pump::start("session of B and C", near, far);
    let (near, far) = route(&c, &a, RouteForm::of(c.link.profile()));
    let c_a_session = Pump::start("session of C and A", near, far);

    let (a_b_pipe, a_b_wires) = pipe("pipe of A and B", connect(&a, &b, &b_idle));
    let (b_c_pipe, b_c_wires) = pipe("pipe of B and C", connect(&b, &c, &c_idle));
    let (a_c_pipe, a_c_wires) = pipe("pipe of A and C", connect(&a, &c, &c_idle));

    let all = [&a_b_session, &b_c_session, &c_a_session, &a_b_pipe, &b_c_pipe, &a_c_pipe];
    Pump::wait_for(&all, PROGRESS_BYTES);

    let (victim, survivor, wires, others, broken) = if round.is_multiple_of(2) {
        let broken = [a_b_session, a_b_pipe, c_a_session, a_c_pipe];
        (a, b, [a_b_wires.near, a_c_wires.near], [b_c_session, b_c_pipe], broken)
    } else {
        let broken = [a_b_session, a_b_pipe, b_c_session, b_c_pipe];
        (b, a, [a_b_wires.far, b_c_wires.near], [c_a_session, a_c_pipe], broken)
    };
    let dead = victim.identity();
    // The kernel closes a dead process's connections in no order that anybody promises.
    victim.kill();
    wires.iter().for_each(Wire::cut);
    broken.into_iter().for_each(Pump::wait_broken);

    Pump::wait_for(&others.each_ref(), PROGRESS_BYTES);

    expect_gone(appliance, &dead);
    for node in [&survivor, &c] {
        node.link.ping(STEP).unwrap();
        assert!(appliance.link_row(&node.identity()).is_some());
    }

    // What finishes a stream is sent after the kill and arrives behind everything else.
    others.into_iter().for_each(Pump::finish);
}

/// Both ends of a raw pipe, to cut one of them.
struct Wires {
    near: Wire,
    far: Wire,
}

fn pipe(what: &str, (near, far): (TcpStream, TcpStream)) -> (Pump, Wires) {
    let wires = Wires { near: Wire::new(near), far: Wire::new(far) };
    for wire in [&wires.near, &wires.far] {
        wire.set_timeout(Some(STEP));
    }
    (Pump::start(what, wires.near.clone(), wires.far.clone()), wires)
}

/// Neither a link nor a session of the dead peer is left.
fn expect_gone(appliance: &Appliance, dead: &Identity) {
    let name = dead.to_string();
    eventually("the dead peer's link is gone", || appliance.link_row(dead).is_none().then_some(()));
    eventually("the dead peer's sessions are gone", || {
        let document = appliance.document("/v1/sessions");
        let rows = document["sessions"].as_array().unwrap();
        rows.iter().all(|row| row["identity"] != name).then_some(())
    });
}

//! Links that move between data cores, over the real process: by command and by themselves, while
//! bytes pass that are all compared.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::nodes::{Node, route};
use support::process::{Finished, binary, command, run};
use support::streams::exchange;
use support::{eventually, eventually_within};
use waystation_astral::frame::Profile;
use waystation_peer::RouteForm;

const PATIENCE: Duration = Duration::from_secs(60);
const EXCHANGE_BYTES: usize = 1 << 20;
const MOVES: usize = 40;

#[test]
fn links_move_by_command_over_io_uring_while_bytes_pass() {
    moves_by_command(PortName::IoUring);
}

#[test]
fn links_move_by_command_over_epoll_while_bytes_pass() {
    moves_by_command(PortName::Epoll);
}

#[test]
fn pairs_on_two_cores_come_together_over_io_uring() {
    come_together(PortName::IoUring);
}

#[test]
fn pairs_on_two_cores_come_together_over_epoll() {
    come_together(PortName::Epoll);
}

fn moves_by_command(port: PortName) {
    if !port.is_given() {
        return;
    }
    let settings = Settings::new(port, 2).with("engine", "placement = \"off\"");
    let appliance = Appliance::start(&settings);
    let (near, far) = (appliance.node_on(Profile::P4, 0), appliance.node_on(Profile::P2, 1));
    let over = AtomicBool::new(false);
    let mut refused = Vec::new();
    thread::scope(|scope| {
        let passing = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let (caller, target) = route(&near, &far, RouteForm::G2);
                exchange("links move", caller, target, EXCHANGE_BYTES);
            }
        });
        let end = Over(&over);
        for number in 0..MOVES {
            let node = if number % 3 == 0 { &far } else { &near };
            // Where much goes on a peer may not have taken what was sent in time.
            eventually_within("a link moves", PATIENCE, || {
                let finished = move_by_command(&appliance, node);
                let moved = finished.code() == 0;
                if !moved {
                    refused.push(finished.complaint().to_owned());
                }
                moved.then_some(())
            });
        }
        drop(end);
        passing.join().unwrap();
    });
    assert!(refused.iter().all(|said| said.contains("stays")), "{refused:?}");
    appliance.expect_total(&["links_moved_out"], MOVES as u64);
    drop((near, far));
    appliance.wait_until_whole();
}

fn move_by_command(appliance: &Appliance, node: &Node) -> Finished {
    // A listing may be made while it is on neither core.
    let row = eventually("the link is listed", || appliance.link_row(&node.identity()));
    let link = row["link"].as_str().unwrap();
    let to = 1 - appliance.core_of(node);
    let mut moving = command(&binary());
    let socket = appliance.socket.as_os_str();
    moving.args(["links", "move", link, &to.to_string(), "--socket"]).arg(socket);
    run(&mut moving)
}

/// Lets bytes stop passing, when a test fails as well.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn come_together(port: PortName) {
    if !port.is_given() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(port, 2));
    let pairs =
        [(); 2].map(|()| (appliance.node_on(Profile::P4, 0), appliance.node_on(Profile::P4, 1)));
    eventually_within("links of every pair on one core", PATIENCE, || {
        for (near, far) in &pairs {
            let (caller, target) = route(near, far, RouteForm::G2);
            exchange("before the move", caller, target, 4 * EXCHANGE_BYTES);
        }
        let together =
            |(near, far): &(Node, Node)| appliance.core_of(near) == appliance.core_of(far);
        pairs.iter().all(together).then_some(())
    });
    // A core that is busy tells late what has crossed before.
    eventually_within("nothing crosses", PATIENCE, || {
        let before = appliance.total("cross_core_bytes");
        for (near, far) in &pairs {
            let (caller, target) = route(near, far, RouteForm::G2);
            exchange("on one core", caller, target, EXCHANGE_BYTES);
        }
        (appliance.total("cross_core_bytes") == before).then_some(())
    });
    // A core is asked for its second link when it has let go of the first.
    let refused = &appliance.status()["moves"]["refused"];
    assert_eq!(refused["another_moves"].as_u64(), None, "{refused}");
    drop(pairs);
    appliance.wait_until_whole();
}

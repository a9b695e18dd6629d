//! Links that move between data cores, over the real process: by command and by themselves, while
//! bytes pass that are all compared, and until the program ends.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::nodes::{Node, route};
use support::process::{Finished, binary, command, run};
use support::streams::{Pump, exchange};
use support::{eventually, eventually_within};
use waystation_astral::frame::Profile;
use waystation_management::stats_socket::client;
use waystation_peer::RouteForm;

const PATIENCE: Duration = Duration::from_secs(60);
const EXCHANGE_BYTES: usize = 1 << 20;
const MOVES: usize = 40;
const MOVES_BEFORE_THE_END: u64 = 20;

#[test]
fn links_move_by_command_over_io_uring_while_bytes_pass() {
    moves_by_command(PortName::IoUring);
}

#[test]
fn links_move_by_command_over_epoll_while_bytes_pass() {
    moves_by_command(PortName::Epoll);
}

#[test]
fn links_tell_what_stays_on_their_core_over_io_uring() {
    tells_what_stays(PortName::IoUring);
}

#[test]
fn links_tell_what_stays_on_their_core_over_epoll() {
    tells_what_stays(PortName::Epoll);
}

#[test]
fn pairs_on_two_cores_come_together_over_io_uring() {
    come_together(PortName::IoUring);
}

#[test]
fn pairs_on_two_cores_come_together_over_epoll() {
    come_together(PortName::Epoll);
}

#[test]
fn program_ends_while_links_move_over_io_uring() {
    ends_while_links_move(PortName::IoUring);
}

#[test]
fn program_ends_while_links_move_over_epoll() {
    ends_while_links_move(PortName::Epoll);
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

fn tells_what_stays(port: PortName) {
    if !port.is_given() {
        return;
    }
    let settings = Settings::new(port, 2).with("engine", "placement = \"off\"");
    let appliance = Appliance::start(&settings);
    let (near, far) = (appliance.node_on(Profile::P4, 0), appliance.node_on(Profile::P4, 1));
    let share = |node: &Node| appliance.link_row(&node.identity())?["same_core_share"].as_f64();
    let tell = |what: &str, wanted: Option<f64>| {
        eventually_within(what, PATIENCE, || {
            [&near, &far].iter().all(|node| share(node) == wanted).then_some(())
        });
    };
    tell("nothing passes yet", None);
    let (caller, target) = route(&near, &far, RouteForm::G2);
    let pump = Pump::start("links move", caller, target);
    tell("everything crosses", Some(0.0));
    eventually_within("a link moves", PATIENCE, || {
        (move_by_command(&appliance, &near).code() == 0).then_some(())
    });
    tell("nothing crosses", Some(1.0));
    let mut listing = command(&binary());
    let listed = run(listing.arg("links").arg("--socket").arg(appliance.socket.as_os_str()));
    assert!(listed.text().lines().next().unwrap().ends_with(" SAME LIMITED"), "{}", listed.text());
    pump.finish();
    tell("nothing passes any more", None);
    drop((near, far));
    appliance.wait_until_whole();
}

/// Lets bytes stop passing, when a test fails as well.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn ends_while_links_move(port: PortName) {
    if !port.is_given() {
        return;
    }
    let settings = Settings::new(port, 2).with("engine", "placement = \"off\"");
    let mut appliance = Appliance::start(&settings);
    let (near, far) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let (caller, target) = route(&near, &far, RouteForm::G2);
    let pump = Pump::start("links move", caller, target);
    let movers = [&near, &far].map(|node| {
        let (socket, name) = (appliance.socket.clone(), node.identity().to_string());
        thread::spawn(move || move_until_it_ends(&socket, &name))
    });
    eventually_within("links move", PATIENCE, || {
        (appliance.total("links_moved_out") >= MOVES_BEFORE_THE_END).then_some(())
    });
    let status = appliance.stop();
    assert_eq!(status.code(), Some(0), "{}", appliance.process.log());
    pump.wait_broken();
    movers.into_iter().for_each(|mover| mover.join().unwrap());
}

fn move_until_it_ends(socket: &Path, name: &str) {
    while let Ok(listing) = client::get(socket, "/v1/links") {
        let listing: Value = serde_json::from_slice(&listing).unwrap();
        let rows = listing["links"].as_array().unwrap();
        // A listing may be made while it is on neither core.
        let Some(row) = rows.iter().find(|row| row["identity"] == name) else { continue };
        let link = row["link"].as_str().unwrap();
        let to = if link.starts_with('0') { 1 } else { 0 };
        // It may be refused, and the program may be gone.
        let _ = client::post(socket, &format!("/v1/links/move?id={link}&core={to}"), PATIENCE);
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

//! A drain of the running program: nobody new comes in, what is relayed goes on to its end, and the
//! program ends by itself then, or at the deadline.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test that fails says where, one that passes says what it saw, and it may look at \
              the clock"
)]

mod support;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use support::appliance::{Appliance, PortName, Settings};
use support::hand_link::HandLink;
use support::process::{Process, binary, command, fast_binary, run};
use support::streams::Pump;
use support::turn::users_file;
use support::{STEP, eventually, eventually_within, nodes};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_peer::{RouteForm, TurnClient, TurnClientError};

/// What every stream has moved, both ways, before and after the drain has begun.
const PUMPED_BYTES: u64 = 300_000;
/// Links of a full appliance, and sessions of them that end before the deadline.
const LINKS: usize = 1000;
const ENDING: usize = 5;
/// Threads that dial.
const DIALERS: usize = 4;

fn drain(appliance: &Appliance, arguments: &[&str]) -> Command {
    let mut command = command(&binary());
    command.arg("drain").args(arguments).arg("--socket").arg(&appliance.socket);
    command
}

fn begin(appliance: &Appliance, arguments: &[&str]) {
    let finished = run(drain(appliance, arguments).arg("--no-wait"));
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
}

fn wait_until_closed(address: SocketAddr) {
    eventually("new connections are refused", || match TcpStream::connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(()),
        _ => None,
    });
}

#[test]
fn sessions_and_pipes_lose_nothing_and_the_program_ends_with_the_last_of_them() {
    for port in [PortName::IoUring, PortName::Epoll] {
        if !port.is_given() {
            continue;
        }
        let mut appliance = Appliance::start(&Settings::new(port, 2));
        let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P0));
        let idle = appliance.node(Profile::P4);
        let pool = target.idle(2, true);
        let (near, far) = nodes::route(&caller, &target, RouteForm::G2);
        let session = Pump::start("session", near, far);
        let (near, far) = nodes::connect(&caller, &target, &pool);
        let pipe = Pump::start("pipe", near, far);
        Pump::wait_for(&[&session, &pipe], PUMPED_BYTES);
        let log = appliance.directory.path().join("drain");
        let mut waiting = Process::spawn(&mut drain(&appliance, &["--deadline", "1h"]), &log);
        wait_until_closed(appliance.address);
        assert_eq!(appliance.status()["readiness"]["state"], "draining");
        let idle_is_gone = || appliance.link_row(&idle.identity()).is_none().then_some(());
        eventually("the link without sessions is closed", idle_is_gone);
        Pump::wait_for(&[&session, &pipe], PUMPED_BYTES);
        session.finish();
        pipe.finish();
        assert!(appliance.process.wait(STEP).success(), "{}", appliance.process.log());
        assert!(waiting.wait(STEP).success(), "{}", waiting.log());
        assert!(appliance.process.log().contains("drained"));
        assert!(!appliance.socket.exists(), "its socket is left");
    }
}

#[test]
fn what_is_left_at_the_deadline_is_closed() {
    let mut appliance = Appliance::start(&Settings::new_auto(1));
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let (near, far) = nodes::route(&caller, &target, RouteForm::G2);
    let pump = Pump::start("session", near, far);
    Pump::wait_for(&[&pump], PUMPED_BYTES);
    begin(&appliance, &["--deadline", "1s"]);
    pump.wait_broken();
    assert!(appliance.process.wait(STEP).success());
    assert!(appliance.process.log().contains("the deadline of the drain has come"));
}

/// F2.
#[test]
fn a_drain_of_a_thousand_links_waits_for_sessions_and_ends_at_its_deadline() {
    let mut appliance = Appliance::start(&Settings::new_auto(2).quiet().running(fast_binary()));
    let pairs: Vec<_> =
        (0..=ENDING).map(|_| [Profile::P4, Profile::P0].map(|p| appliance.node(p))).collect();
    let mut pumps: Vec<_> = pairs
        .iter()
        .map(|[caller, target]| {
            let (near, far) = nodes::route(caller, target, RouteForm::G2);
            Pump::start("session", near, far)
        })
        .collect();
    let idle = dial(&appliance, LINKS - 2 * pairs.len());
    assert_eq!(appliance.total("links_open"), LINKS as u64);
    begin(&appliance, &["--deadline", "1h"]);
    wait_until_closed(appliance.address);
    eventually_within("links without sessions are closed", 3 * STEP, || {
        (appliance.total("links_open") == 2 * pairs.len() as u64).then_some(())
    });
    Pump::wait_for(&pumps.iter().collect::<Vec<_>>(), PUMPED_BYTES);
    let stays = pumps.pop().unwrap();
    pumps.into_iter().for_each(Pump::finish);
    let told = Instant::now();
    begin(&appliance, &["--deadline", "2s"]);
    stays.wait_broken();
    assert!(appliance.process.wait(STEP).success(), "{}", appliance.process.log());
    let ended = told.elapsed();
    assert!(ended >= Duration::from_secs(2), "ended after {ended:?}");
    println!("F2: {LINKS} links, {ENDING} sessions ended whole; told 2 s, ended after {ended:?}");
    drop(idle);
}

/// Links that say nothing.
fn dial(appliance: &Appliance, links: usize) -> Vec<HandLink> {
    thread::scope(|scope| {
        let dialers: Vec<_> = (0..DIALERS)
            .map(|dialer| {
                let share = (dialer..links).step_by(DIALERS);
                let one = |_| HandLink::dial(appliance, Profile::P4);
                scope.spawn(move || share.map(one).collect::<Vec<_>>())
            })
            .collect();
        dialers.into_iter().flat_map(|dialer| dialer.join().unwrap()).collect()
    })
}

#[test]
fn few_enough_links_end_it_and_a_drain_can_be_told_anew() {
    let mut appliance = Appliance::start(&Settings::new_auto(1));
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let (near, far) = nodes::route(&caller, &target, RouteForm::G2);
    let pump = Pump::start("session", near, far);
    begin(&appliance, &["--deadline", "1h", "--until-links", "1"]);
    wait_until_closed(appliance.address);
    Pump::wait_for(&[&pump], PUMPED_BYTES);
    begin(&appliance, &["--deadline", "1h", "--until-links", "2"]);
    assert!(appliance.process.wait(STEP).success());
    pump.wait_broken();
}

#[test]
fn a_deadline_that_is_none_is_refused() {
    let appliance = Appliance::start(&Settings::new_auto(1));
    let finished = run(drain(&appliance, &["--deadline", "8d"]).arg("--no-wait"));
    assert_eq!(finished.code(), 1, "{}", finished.stderr);
    assert!(finished.complaint().contains("a duration up to 7d"), "{}", finished.stderr);
    assert_eq!(appliance.status()["readiness"]["state"], "ready");
}

#[test]
fn turn_listens_no_longer_refuses_allocations_and_serves_those_that_are_there() {
    for port in [PortName::IoUring, PortName::Epoll] {
        if !port.is_given() {
            continue;
        }
        let files = TempDir::new().unwrap();
        let users_file = users_file(files.path(), &[("alice", "wonderland")]);
        let settings = Settings::new(port, 1)
            .with("turn", "listen = [\"127.0.0.1:0\"]")
            .with("turn", "listen_tcp = [\"127.0.0.1:0\"]")
            .with("turn", "allow_peers = [\"127.0.0.0/8\"]")
            .with("turn", &users_file);
        let mut appliance = Appliance::start(&settings);
        let status = appliance.status();
        let address = |key: &str| status[key][0].as_str().unwrap().parse().unwrap();
        let (udp, tcp): (SocketAddr, SocketAddr) =
            (address("turn_listen"), address("turn_listen_tcp"));
        let alice = ("alice", "wonderland");
        let over_tcp = || TurnClient::over_tcp(tcp, alice).unwrap();
        let mut clients = [over_tcp(), TurnClient::over_udp(udp, alice).unwrap()];
        let relayed = clients.each_mut().map(|client| client.allocate().unwrap());
        let mut without_allocation = over_tcp();
        without_allocation.binding().unwrap();
        eventually("both allocations are counted", || {
            let counters = &appliance.status()["totals"]["counters"];
            (counters["turn_allocations_open"] == 2).then_some(())
        });

        begin(&appliance, &["--deadline", "1h"]);
        wait_until_closed(tcp);
        for client in [&mut without_allocation, &mut TurnClient::over_udp(udp, alice).unwrap()] {
            let refused = client.allocate();
            assert!(
                matches!(refused, Err(TurnClientError::Refused { code: 508, .. })),
                "{refused:?}"
            );
        }
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(STEP)).unwrap();
        for (client, relayed) in clients.iter_mut().zip(relayed) {
            client.refresh(600).unwrap();
            client.permit(peer.local_addr().unwrap()).unwrap();
            client.indicate(peer.local_addr().unwrap(), b"on").unwrap();
            let mut buffer = [0; 16];
            assert_eq!(peer.recv_from(&mut buffer).unwrap(), (2, relayed));
            client.refresh(0).unwrap();
        }
        assert!(appliance.process.wait(STEP).success(), "{}", appliance.process.log());
    }
}

#[test]
fn nobody_is_dialed_by_hand_either() {
    let appliance = Appliance::start(&Settings::new_auto(1));
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let held = nodes::route(&caller, &target, RouteForm::G2);
    begin(&appliance, &["--deadline", "1h"]);
    let identity = target.identity().to_string();
    let mut dial = command(&binary());
    dial.args(["link", "dial", "tcp:127.0.0.1:9", &identity]).arg("--socket");
    let finished = run(dial.arg(&appliance.socket));
    assert_ne!(finished.code(), 0);
    assert!(finished.complaint().contains("nobody is dialed any more"), "{}", finished.stderr);
    drop(held);
}

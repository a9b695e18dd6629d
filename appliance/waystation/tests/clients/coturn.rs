//! coturn's `turnutils_uclient`: each kind of allocation of UDP that it makes, over UDP and over TCP,
//! with channels and with indications, and its `turnutils_peer`.

use crate::echo::Echo;
use crate::scene::{End, Family, Scene};
use crate::support::appliance::PortName;
use crate::support::process::run_within;
use crate::support::{eventually, given};
use crate::turn::{Pauses, SECRET, Tier, Turn, USER};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const CLIENT: &str = "turnutils_uclient";
const PEER: &str = "turnutils_peer";
/// Messages of each client.
const MESSAGES: u64 = 20;
/// A run takes 6 s, three of which the client does nothing in.
const LIMIT: Duration = Duration::from_secs(40);
/// The client counts what comes late as lost, as after a pause of the machine; then it tries again.
const TRIES_MAX: usize = 3;

/// What a run of the client is to do.
struct Case {
    /// Whom it asks, and what it gets.
    asked: Family,
    relayed: Family,
    /// Credentials made of the shared secret instead of the static ones.
    by_secret: bool,
    flags: &'static [&'static str],
    /// Clients, each with a session of its own.
    clients: u64,
}

impl Case {
    /// Whether its clients come in streams.
    fn is_over_tcp(&self) -> bool {
        self.flags.contains(&"-t")
    }
}

/// With channels, as it does by default.
const CHANNELS: Case = Case {
    asked: Family::Ipv4,
    relayed: Family::Ipv4,
    by_secret: false,
    // Without companions for RTCP, and a new message every 5 ms.
    flags: &["-c", "-z", "5"],
    clients: 1,
};

#[test]
fn clients_on_loopback_reach_a_peer_in_every_way_over_io_uring() {
    on_loopback(PortName::IoUring, Tier::Gso, 2);
}

#[test]
fn clients_on_loopback_reach_a_peer_in_every_way_over_epoll_without_trains() {
    on_loopback(PortName::Epoll, Tier::Plain, 1);
}

#[test]
fn clients_in_a_namespace_reach_a_peer_in_another_in_trains() {
    in_namespaces(Tier::Gso, 1);
}

#[test]
fn clients_in_a_namespace_reach_a_peer_in_another_without_trains() {
    in_namespaces(Tier::Plain, 2);
}

fn on_loopback(port: PortName, tier: Tier, cores: usize) {
    if given(is_installed(), CLIENT)
        && port.is_given()
        && let Some(scene) = Scene::loopback()
    {
        every_way(&scene, port, tier, cores);
    }
}

fn in_namespaces(tier: Tier, cores: usize) {
    if given(is_installed(), CLIENT)
        && let Some(scene) = Scene::namespaces()
    {
        scene.assert_apart();
        let scene = if tier == Tier::Xdp { scene.with_finished_checksums() } else { scene };
        every_way(&scene, PortName::Epoll, tier, cores);
    }
}

fn every_way(scene: &Scene, port: PortName, tier: Tier, cores: usize) {
    let mut cases = vec![
        CHANNELS,
        Case { flags: &["-c", "-s", "-z", "5"], ..CHANNELS },
        Case {
            asked: Family::Ipv6,
            relayed: Family::Ipv6,
            flags: &["-c", "-x", "-z", "5"],
            ..CHANNELS
        },
        Case { relayed: Family::Ipv6, flags: &["-c", "-x", "-s", "-z", "5"], ..CHANNELS },
        // To each other, through two relayed addresses.
        Case { flags: &["-c", "-y", "-z", "5"], clients: 4, ..CHANNELS },
        // Padded ChannelData, requests that come again, and messages as long as those of media.
        Case { by_secret: true, flags: &["-c", "-D", "-G", "-l", "1200", "-z", "5"], ..CHANNELS },
        // Over TCP to the server, from where it goes on over UDP.
        Case { flags: &["-c", "-t", "-z", "5"], ..CHANNELS },
        Case { asked: Family::Ipv6, flags: &["-c", "-t", "-s", "-z", "5"], ..CHANNELS },
    ];
    if cores == 1 {
        // With companions for RTCP, whose ports are reserved. A reservation is known to its core
        // alone, and the kernel deals companions to any.
        cases.push(Case { by_secret: true, flags: &["-z", "5"], clients: 2, ..CHANNELS });
    }
    let turn = Turn::start_with(scene, port, tier, cores);
    let peers = [Family::Ipv4, Family::Ipv6].map(|family| Echo::start(scene, End::B, family));
    let pauses = (tier == Tier::Gso).then(|| Pauses::of(&turn));
    std::thread::scope(|scope| {
        for case in &cases {
            let peer = peers[usize::from(case.relayed == Family::Ipv6)].address;
            let turn = &turn;
            scope.spawn(move || delivers(scene, turn, case, peer));
        }
    });
    drop(pauses);
    let clients = |cases: &mut dyn Iterator<Item = &Case>| -> u64 {
        MESSAGES * cases.map(|case| case.clients).sum::<u64>()
    };
    let into_streams = clients(&mut cases.iter().filter(|case| case.is_over_tcp()));
    turn.expect_carried(clients(&mut cases.iter()), into_streams);
}

#[test]
fn clients_in_a_namespace_reach_a_peer_in_another_through_xdp() {
    in_namespaces(Tier::Xdp, 2);
}

#[test]
fn its_own_peer_answers_through_the_relay() {
    if !given(is_installed() && exists(PEER), PEER) {
        return;
    }
    let Some(scene) = Scene::namespaces() else {
        return;
    };
    let turn = Turn::start(&scene, PortName::Epoll, Tier::Plain);
    let address = scene.address(End::B, Family::Ipv4);
    let mut peer = scene.command(End::B, Path::new(PEER));
    peer.args(["-L", &address.to_string()]).stdout(Stdio::null());
    let log = turn.appliance.directory.path().join("peer");
    let _peer = crate::support::process::Process::spawn(&mut peer, &log);
    let address = SocketAddr::new(address, 3480);
    eventually("the peer has its port", || {
        scene.at(End::B, move || UdpSocket::bind(address).is_err()).then_some(())
    });
    delivers(&scene, &turn, &CHANNELS, address);
    turn.expect_carried(MESSAGES, 0);
}

#[test]
fn a_wrong_password_gets_no_allocation() {
    let Some(scene) = Scene::loopback() else {
        return;
    };
    if !given(is_installed(), CLIENT) {
        return;
    }
    let turn = Turn::start(&scene, PortName::Epoll, Tier::Plain);
    let server = turn.server(Family::Ipv4);
    let finished = run_within(
        scene
            .command(End::A, Path::new(CLIENT))
            .args(["-c", "-u", USER.0, "-w", "guess", "-e", "127.0.0.1"])
            .args(["-p", &server.port().to_string(), &server.ip().to_string()]),
        LIMIT,
    );
    assert_ne!(finished.code(), 0);
    let said = finished.text() + &finished.stderr;
    assert!(said.contains("Cannot complete Allocation"), "{said}");
    assert!(turn.rows().is_empty());
}

/// Runs the client until all of its messages came back.
fn delivers(scene: &Scene, turn: &Turn, case: &Case, peer: SocketAddr) {
    let server = match case.is_over_tcp() {
        true => turn.server_over_tcp(case.asked),
        false => turn.server(case.asked),
    };
    let mut said = String::new();
    for _ in 0..TRIES_MAX {
        let mut command = scene.command(End::A, Path::new(CLIENT));
        command.args(case.flags).args(["-n", &MESSAGES.to_string()]);
        command.args(["-m", &case.clients.to_string()]);
        command.args(["-e", &peer.ip().to_string(), "-r", &peer.port().to_string()]);
        match case.by_secret {
            true => command.args(["-u", "carol", "-W", SECRET]),
            false => command.args(["-u", USER.0, "-w", USER.1]),
        };
        command.args(["-p", &server.port().to_string(), &server.ip().to_string()]);
        let finished = run_within(&mut command, LIMIT);
        said = finished.text() + &finished.stderr;
        assert_eq!(finished.status.code(), Some(0), "{:?}: {said}", case.flags);
        if said.contains("Total lost packets 0 ") {
            return;
        }
    }
    panic!("{:?}: {said}", case.flags);
}

fn is_installed() -> bool {
    exists(CLIENT)
}

/// Neither program has an option that only tells that it is there.
fn exists(program: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("command -v {program}")]).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

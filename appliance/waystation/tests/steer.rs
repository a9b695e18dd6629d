//! TURN clients of several data cores through the real process: each client's datagrams go to the
//! core that owns its allocation, by processor and by socket, whatever the kernel's hash would do.
//!
//! The hash is made to choose otherwise by further sockets on the same addresses, as another program
//! of the same user may open them.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use support::appliance::{Appliance, PortName, Settings};
use support::process::{Process, binary, command, is_root, run};
use support::streets::{BpfMount, LAN, Streets, WAN, ip};
use support::turn::users_file;
use support::{eventually, given};
use tempfile::TempDir;
use waystation_ebpf::programs::deselect_for;
use waystation_management::stats_socket::client;
use waystation_peer::TurnClient;

const CHANNEL: u16 = 0x4000;
/// Another address of the relay's where [`WAN`] is, and one of IPv6, with that of the client's.
const WAN_TOO: &str = "198.51.100.2";
const WAN_V6: &str = "2001:db8:1::1";
const CLIENT_V6: &str = "2001:db8:1::7";
/// Clients of each address: that all of them stay where they were by chance is out of the question.
const CLIENTS: usize = 8;
const LIFETIME_S: u32 = 600;

struct Scene {
    appliance: Appliance,
    streets: Streets,
    servers: Vec<SocketAddr>,
    peer: UdpSocket,
    new: Option<Process>,
    pins: PathBuf,
    _files: TempDir,
    _mount: BpfMount,
}

impl Scene {
    /// A relay of two data cores with a processor each, and the program.
    fn start(steer: bool) -> Self {
        let scene = Self::start_in(steer, "native");
        assert_eq!(scene.xdp()["state"], "on", "{}", scene.xdp());
        scene
    }

    /// With the program in a mode; where there is none yet, a reload may put it on.
    fn start_in(steer: bool, mode: &str) -> Self {
        let is_there = mode != "off";
        let (mount, files) = (BpfMount::new(), TempDir::new().unwrap());
        let users_file = users_file(files.path(), &[("alice", "pw")]);
        let pins = mount.path().join("pins");
        let streets = Streets::new();
        ip(&format!("addr add {WAN_TOO}/24 dev wan"));
        ip(&format!("addr add {WAN_V6}/64 dev wan nodad"));
        streets.at_client(|| ip(&format!("addr add {CLIENT_V6}/64 dev eth0 nodad")));
        let listen = format!("[\"{WAN}:3478\", \"{WAN_TOO}:3478\", \"[{WAN_V6}]:3478\"]");
        let settings = Settings::new(PortName::Epoll, 2)
            .with("engine", "cpus = [0, 1]")
            .with("turn", &format!("listen = {listen}"))
            .with("turn", &format!("relay_addresses = [\"{LAN}\"]"))
            .with("turn", "allow_peers = [\"203.0.113.0/24\"]")
            .with("turn", &users_file)
            .with("xdp", &format!("mode = \"{mode}\""))
            .with("xdp", &format!("steer = {steer}"))
            .with("xdp", "interfaces = [\"wan\", \"lan\"]")
            .with("xdp", &format!("pin_directory = \"{}\"", pins.display()))
            .with("privileges", &format!("drop_capabilities = {is_there}"))
            .with("privileges", &format!("restrict_files = {is_there}"));
        let appliance = Appliance::start(&settings);
        let listen = appliance.status()["turn_listen"].clone();
        let servers = listen.as_array().unwrap().iter();
        let servers = servers.map(|it| it.as_str().unwrap().parse().unwrap()).collect();
        let peer = streets.peer();
        let (_files, _mount) = (files, mount);
        Self { appliance, streets, servers, peer, new: None, pins, _files, _mount }
    }

    fn xdp(&self) -> Value {
        self.appliance.document("/v1/xdp")
    }

    /// Clients of every address, each with an allocation, once the program knows all of them.
    fn clients(&self) -> Vec<TurnClient> {
        let servers = self.servers.iter().flat_map(|server| std::iter::repeat_n(*server, CLIENTS));
        let mut clients: Vec<TurnClient> = self.streets.at_client(|| {
            servers.map(|server| TurnClient::over_udp(server, ("alice", "pw")).unwrap()).collect()
        });
        for client in &mut clients {
            client.allocate().unwrap();
        }
        self.await_known(clients.len());
        clients
    }

    fn await_known(&self, clients: usize) {
        eventually("the program knows all clients", || {
            (self.xdp()["sessions"]["clients"] == clients).then_some(())
        });
    }

    /// Both cores have some of the allocations.
    fn expect_both_cores(&self) {
        let rows = self.appliance.document("/v1/udp")["udp"].as_array().unwrap().clone();
        assert_eq!(rows.len(), 3 * CLIENTS);
        for core in 0..2 {
            assert!(rows.iter().any(|row| row["core"] == core), "none is core {core}'s");
        }
    }

    /// A further socket on every address, which takes what the kernel's hash brings it.
    fn intrude(&self) -> Vec<UdpSocket> {
        self.servers.iter().map(|server| sharing(*server)).collect()
    }

    /// Every client is still its core's: it is refreshed, and has another channel bound.
    fn expect_served(&self, clients: &mut [TurnClient], channel: u16) {
        let peer = SocketAddr::new(self.peer.local_addr().unwrap().ip(), 9000 + channel % 1000);
        for client in clients {
            let who = (client.local().unwrap(), client.server());
            client.refresh(LIFETIME_S).unwrap_or_else(|error| panic!("{who:?}: {error}"));
            client.bind(channel, peer).unwrap_or_else(|error| panic!("{who:?}: {error}"));
        }
    }

    /// Datagrams that were brought to their owners' sockets, read once a second.
    fn chosen(&self) -> Option<u64> {
        self.xdp()["sockets_chosen"]["owner_total"].as_u64()
    }

    fn expect_more_chosen(&self, before: u64, more: usize) {
        eventually(&format!("{more} more are brought to their owners' sockets"), || {
            (self.chosen()? >= before + more as u64).then_some(())
        });
        assert_eq!(self.xdp()["sockets_chosen"]["no_socket_total"], 0);
    }

    fn next(&self) -> Command {
        let directory = self.appliance.directory.path();
        let mut command = command(&binary());
        command.arg("upgrade").arg("--config").arg(directory.join("waystation.toml"));
        command.arg("--state-dir").arg(directory.join("state"));
        command
    }

    fn upgrade(&mut self) {
        let log = self.appliance.directory.path().join("log of the next");
        let mut new = Process::spawn(&mut self.next(), &log);
        eventually("the old process has ended", || {
            let ended = new.ended();
            assert!(ended.is_none(), "ended with {ended:?}:\n{}", new.log());
            self.appliance.process.ended()
        });
        self.new = Some(new);
        eventually("the next process serves", || {
            let events = client::get(&self.appliance.socket, "/v1/events").ok()?;
            String::from_utf8(events).unwrap().contains("took_over").then_some(())
        });
    }

    fn write(&self, old: &str, new: &str) {
        let file = self.appliance.directory.path().join("waystation.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(old), "{old} is not in {text}");
        fs::write(&file, text.replace(old, new)).unwrap();
    }
}

/// A socket that shares its address with others.
fn sharing(address: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.into()
}

fn given_two_processors() -> bool {
    let processors = std::thread::available_parallelism().unwrap().get();
    given(is_root() && processors >= 2, "root and two processors")
}

#[test]
fn clients_stay_with_their_cores_when_others_share_their_address() {
    if !given_two_processors() {
        return;
    }
    let scene = Scene::start(true);
    let mut clients = scene.clients();
    scene.expect_both_cores();
    let before = scene.chosen().unwrap();
    let _intruders = scene.intrude();
    scene.expect_served(&mut clients, CHANNEL);
    // A refresh and a channel each.
    scene.expect_more_chosen(before, 2 * clients.len());
    let steered = scene.xdp()["verdicts"].clone();
    let steered = steered.as_array().unwrap().iter().find(|row| row["verdict"] == "steered");
    assert!(steered.unwrap()["frames"].as_u64().unwrap() >= 2 * clients.len() as u64);
}

#[test]
fn nobody_chooses_among_sockets_unless_that_is_wanted() {
    if !given_two_processors() {
        return;
    }
    let scene = Scene::start(false);
    let mut clients = scene.clients();
    scene.expect_served(&mut clients, CHANNEL);
    assert_eq!(scene.chosen(), None);
}

#[test]
fn the_process_that_takes_over_chooses_among_the_same_sockets() {
    if !given_two_processors() {
        return;
    }
    let mut scene = Scene::start(true);
    let mut clients = scene.clients();
    scene.expect_served(&mut clients, CHANNEL);
    scene.upgrade();
    scene.await_known(clients.len());
    let before = scene.chosen().unwrap();
    let _intruders = scene.intrude();
    scene.expect_served(&mut clients, CHANNEL + 1);
    scene.expect_more_chosen(before, 2 * clients.len());
}

#[test]
fn a_process_that_goes_on_after_all_chooses_among_its_sockets_again() {
    if !given_two_processors() {
        return;
    }
    let scene = Scene::start(true);
    let mut clients = scene.clients();
    let in_the_way = PathBuf::from(format!("{}.new", scene.appliance.socket.display()));
    fs::create_dir(&in_the_way).unwrap();
    let finished = run(&mut scene.next());
    assert_ne!(finished.code(), 0);
    let log = || scene.appliance.process.log();
    eventually("it goes on", || log().contains("nothing was handed over").then_some(()));
    eventually("its program is back", || log().contains("XDP program put back").then_some(()));
    let before = scene.chosen().unwrap();
    let _intruders = scene.intrude();
    scene.expect_served(&mut clients, CHANNEL);
    scene.expect_more_chosen(before, 2 * clients.len());
}

#[test]
fn the_process_that_takes_over_and_is_not_to_choose_leaves_it_to_the_kernel() {
    if !given_two_processors() {
        return;
    }
    let mut scene = Scene::start(true);
    let mut clients = scene.clients();
    scene.write("steer = true", "steer = false");
    scene.upgrade();
    scene.await_known(clients.len());
    // As before any program, the sockets being the same.
    scene.expect_served(&mut clients, CHANNEL);
    assert_eq!(scene.chosen(), None);
}

#[test]
fn a_process_that_takes_over_and_cannot_put_the_program_on_leaves_it_to_the_kernel() {
    if !given_two_processors() {
        return;
    }
    let mut scene = Scene::start(true);
    let mut clients = scene.clients();
    // The program of another version is in its way.
    let kept: Vec<PathBuf> =
        fs::read_dir(&scene.pins).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    fs::rename(&kept[0], scene.pins.join("layout-0")).unwrap();
    scene.upgrade();
    assert_eq!(scene.xdp()["state"], "unavailable");
    scene.expect_served(&mut clients, CHANNEL);
    assert_eq!(scene.chosen(), None);
    let intruder = sharing(scene.servers[0]);
    assert!(deselect_for(&intruder).is_err(), "the program of the process before still chooses");
}

#[test]
fn a_program_that_a_reload_puts_on_chooses_among_sockets() {
    if !given_two_processors() {
        return;
    }
    let scene = Scene::start_in(true, "off");
    scene.write("mode = \"off\"", "mode = \"native\"");
    scene.appliance.process.signal(Signal::HUP);
    eventually("the program is on", || (scene.xdp()["state"] == "on").then_some(()));
    let mut clients = scene.clients();
    let before = scene.chosen().unwrap();
    let _intruders = scene.intrude();
    scene.expect_served(&mut clients, CHANNEL);
    scene.expect_more_chosen(before, 2 * clients.len());
}

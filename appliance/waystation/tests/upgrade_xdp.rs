//! One process takes over from another while the kernel relays for both: what is relayed by the
//! XDP program goes on, and a program, a map or a pin that one of them needs is not the other's to
//! take away.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails says where, and one that measures says what"
)]

mod support;

use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::process::{Ordinary, give_away, is_root, run};
use support::streets::{BpfMount, CLIENT, LAN, Streets, WAN, has_program};
use support::turn::users_file;
use support::upgrading::{Echoing, Upgrade, reconfigure};
use support::{STEP, eventually, given};
use tempfile::TempDir;
use waystation_ebpf::attach::{Attachment, Wanted};
use waystation_ebpf::pins::Pins;
use waystation_ebpf::programs::{Capture, Programs};
use waystation_management::limits::CLIENT_TIMEOUT;
use waystation_management::stats_socket::client;
use waystation_peer::TurnClient;

/// The service as it is packaged.
const UNIT: &str = "../package/systemd/waystation.service";
const CHANNEL: u16 = 0x4000;
/// Datagrams there and back before, and after, the hand-over.
const ECHOES: usize = 20;
/// How long one look for a datagram takes; it is sent again if it does not come.
const LOOK: Duration = Duration::from_millis(200);

/// A relay with the program, between two ends, and the processes that follow it.
struct Scene {
    relay: Upgrade,
    streets: Streets,
    server: SocketAddr,
    pins: PathBuf,
    _files: TempDir,
    _mount: BpfMount,
}

/// A client of the TURN server and its peer.
struct Channel {
    client: TurnClient,
    peer: UdpSocket,
    relayed: SocketAddr,
}

/// The ends of an opaque session, and where they send to.
struct Pair {
    ends: [UdpSocket; 2],
    to: [SocketAddr; 2],
}

impl Scene {
    fn start() -> Self {
        Self::start_by(Upgrade::of)
    }

    /// One whose process somebody else starts; what it reads and pins belongs to the ordinary user.
    fn start_by(start: impl FnOnce(&Settings) -> Upgrade) -> Self {
        let (mount, files) = (BpfMount::new(), TempDir::new().unwrap());
        let pins = mount.path().join("waystation");
        let users_file = users_file(files.path(), &[("alice", "pw")]);
        [mount.path(), files.path(), &files.path().join("users")].into_iter().for_each(give_away);
        let peers = "[\"198.51.100.0/24\", \"203.0.113.0/24\"]";
        let streets = Streets::new();
        let settings = Settings::new(PortName::Epoll, 1)
            .with("turn", &format!("listen = [\"{WAN}:3478\"]"))
            .with("turn", &format!("relay_addresses = [\"{LAN}\"]"))
            .with("turn", &format!("allow_peers = {peers}"))
            .with("turn", "deny_peers = []")
            .with("turn", &users_file)
            .with("udp", &format!("allow_peers = {peers}"))
            .with("xdp", "mode = \"native\"")
            .with("xdp", &format!("pin_directory = \"{}\"", pins.display()));
        let relay = start(&settings);
        let server = relay.old.status()["turn_listen"][0].as_str().unwrap().parse().unwrap();
        let scene = Self { relay, streets, server, pins, _files: files, _mount: mount };
        assert_eq!(scene.xdp()["state"], "on", "{}", scene.xdp());
        scene
    }

    /// One in which a channel and a pair are relayed by the program.
    fn opened() -> Option<(Self, Channel, Pair)> {
        if !given(is_root(), "root") {
            return None;
        }
        let scene = Self::start();
        let (mut channel, pair) = (scene.channel(), scene.pair());
        channel.echo(0);
        scene.await_tier("xdp", 2);
        Some((scene, channel, pair))
    }

    fn xdp(&self) -> Value {
        self.relay.old.document("/v1/xdp")
    }

    fn channel(&self) -> Channel {
        let mut client =
            self.streets.at_client(|| TurnClient::over_udp(self.server, ("alice", "pw"))).unwrap();
        let relayed = client.allocate().unwrap();
        let peer = self.streets.peer();
        client.bind(CHANNEL, peer.local_addr().unwrap()).unwrap();
        Channel { client, peer, relayed }
    }

    fn pair(&self) -> Pair {
        let client = self.streets.at_client(|| UdpSocket::bind((CLIENT, 0)).unwrap());
        let ends = [client, self.streets.peer()];
        let [a, b] = ends.each_ref().map(|end| end.local_addr().unwrap());
        let uri = format!("/v1/udp/open?a={a}&b={b}");
        let opened = client::post(&self.relay.old.socket, &uri, CLIENT_TIMEOUT).unwrap();
        let opened: Value = serde_json::from_slice(&opened).unwrap();
        let to = |leg: usize, address: &str| {
            let port = opened["legs"][leg]["port"].as_u64().unwrap();
            SocketAddr::new(address.parse().unwrap(), u16::try_from(port).unwrap())
        };
        let pair = Pair { to: [to(0, WAN), to(1, LAN)], ends };
        // Where they send to is known once they have; what was sent first may find no neighbour.
        pair.find_each_other();
        pair
    }

    /// All sessions and allocations.
    fn rows(&self) -> Vec<Value> {
        self.relay.old.document("/v1/udp")["udp"].as_array().unwrap().clone()
    }

    fn await_tier(&self, tier: &str, rows: usize) {
        eventually(&format!("{rows} in tier {tier}"), || {
            let all = self.rows();
            (all.len() == rows && all.iter().all(|row| row["tier"] == tier)).then_some(())
        });
    }

    /// How many datagrams the kernel has relayed of all that there is.
    fn offloaded(&self) -> Vec<u64> {
        self.rows().iter().map(|row| row["datagrams_offloaded"].as_u64().unwrap()).collect()
    }

    /// The kernel relays of everything that there is, by what `exchange` sends.
    fn expect_relayed_in_the_kernel(&self, mut exchange: impl FnMut()) {
        let before = self.offloaded();
        eventually("the program relays", || {
            (0..5).for_each(|_| exchange());
            let now = self.offloaded();
            (now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| now > before))
                .then_some(())
        });
    }

    /// The programs that the interfaces run.
    fn running(&self) -> Vec<u64> {
        ["wan", "lan"]
            .map(|name| {
                let shown = run(Command::new("ip").args(["-j", "link", "show", "dev", name]));
                let shown: Value = serde_json::from_str(&shown.text()).unwrap();
                shown[0]["xdp"]["prog"]["id"].as_u64().unwrap()
            })
            .to_vec()
    }

    fn program(&self) -> u64 {
        self.xdp()["program_id"].as_u64().unwrap()
    }
}

impl Channel {
    /// A datagram there and back, neither of which may be lost.
    fn echo(&mut self, number: usize) {
        let payload = number.to_be_bytes();
        self.client.send(CHANNEL, &payload).unwrap();
        let mut buffer = [0; 64];
        self.peer.set_read_timeout(Some(STEP)).unwrap();
        let (bytes, from) = self.peer.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..bytes], from), (&payload[..], self.relayed));
        self.peer.send_to(&payload, self.relayed).unwrap();
        let back = self.client.receive(STEP).unwrap();
        assert_eq!((back.channel, &back.payload[..]), (Some(CHANNEL), &payload[..]));
    }
}

impl Pair {
    fn find_each_other(&self) {
        for (from, to) in [(0, 1), (1, 0)] {
            self.ends[to].set_read_timeout(Some(LOOK)).unwrap();
            eventually("it comes through", || {
                self.ends[from].send_to(b"first", self.to[from]).unwrap();
                self.ends[to].recv_from(&mut [0; 16]).ok()
            });
        }
        // What was sent twice may still come.
        for end in &self.ends {
            while end.recv_from(&mut [0; 16]).is_ok() {}
            end.set_read_timeout(Some(STEP)).unwrap();
        }
    }

    /// A datagram there and back, neither of which may be lost.
    fn echo(&self, number: usize) {
        let payload = number.to_be_bytes();
        for (from, to) in [(0, 1), (1, 0)] {
            self.ends[from].send_to(&payload, self.to[from]).unwrap();
            let mut buffer = [0; 64];
            let (bytes, source) = self.ends[to].recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..bytes], source), (&payload[..], self.to[to]));
        }
    }
}

/// Echoes by both for as long as something else is done.
fn while_echoing(channel: &mut Channel, pair: &Pair, act: impl FnOnce()) {
    let (mut by_channel, mut by_pair) = (|number| channel.echo(number), |number| pair.echo(number));
    let [by_channel, by_pair] = Echoing::across([&mut by_channel, &mut by_pair], ECHOES, act);
    println!(
        "longest echoes before and then: {by_channel:?} by a channel, {by_pair:?} by a session"
    );
}

#[test]
fn what_the_kernel_relays_goes_on_under_the_next_process_and_nothing_is_lost() {
    let Some((mut scene, mut channel, pair)) = Scene::opened() else { return };
    scene.expect_relayed_in_the_kernel(|| {
        channel.echo(1);
        pair.echo(1);
    });
    let first = scene.program();
    while_echoing(&mut channel, &pair, || _ = scene.relay.perform());
    scene.relay.expect_end_of_old();
    scene.await_tier("xdp", 2);
    assert_ne!(scene.program(), first);
    assert_eq!(scene.running(), [scene.program(); 2]);
    scene.expect_relayed_in_the_kernel(|| {
        channel.echo(2);
        pair.echo(2);
    });
    let sessions = scene.xdp()["sessions"].clone();
    assert_eq!((&sessions["directions"], &sessions["clients"]), (&4.into(), &1.into()));
    assert!(fs::read_dir(&scene.pins).unwrap().next().is_some(), "its pins are gone");
}

/// As systemd starts it, where a file system of BPF is the service's.
#[test]
fn user_and_capabilities_of_the_unit_are_enough_for_an_upgrade_with_the_program() {
    if !given(is_root() && Ordinary::is_possible(), "root and setpriv") {
        return;
    }
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(UNIT)).unwrap();
    let ambient = unit.lines().find_map(|line| line.strip_prefix("AmbientCapabilities=")).unwrap();
    let capabilities: Vec<&str> = ambient.split(' ').collect();
    let ordinary = Ordinary::new();
    let mut scene = Scene::start_by(|settings| {
        let directory = TempDir::new_in(ordinary.directory.path()).unwrap();
        give_away(directory.path());
        let file = directory.path().join("waystation.toml");
        fs::write(&file, settings.text()).unwrap();
        let state = directory.path().join("state");
        let mut command = ordinary.command_with(&capabilities);
        command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
        Upgrade::from(Appliance::spawn(&mut command, directory, &state))
    });
    let (mut channel, pair) = (scene.channel(), scene.pair());
    channel.echo(0);
    scene.await_tier("xdp", 2);
    let first = scene.program();
    while_echoing(&mut channel, &pair, || {
        let mut next = ordinary.command_with(&capabilities);
        next.args(scene.relay.command().get_args());
        scene.relay.perform_with(next);
    });
    scene.relay.expect_end_of_old();
    scene.await_tier("xdp", 2);
    assert_ne!(scene.program(), first);
    assert_eq!(scene.running(), [scene.program(); 2]);
    scene.expect_relayed_in_the_kernel(|| {
        channel.echo(1);
        pair.echo(1);
    });
}

#[test]
fn a_next_process_that_ends_with_the_program_leaves_it_to_the_running_one() {
    let Some((scene, mut channel, pair)) = Scene::opened() else { return };
    // It has put its program on by the time that it cannot make its socket.
    let in_the_way = PathBuf::from(format!("{}.new", scene.relay.old.socket.display()));
    fs::create_dir(&in_the_way).unwrap();
    while_echoing(&mut channel, &pair, || {
        let finished = run(&mut scene.relay.command());
        assert_ne!(finished.code(), 0);
        assert!(finished.stderr.contains("XDP program attached"), "{}", finished.stderr);
        let log = || scene.relay.old.process.log();
        eventually("it goes on", || log().contains("nothing was handed over").then_some(()));
    });
    eventually("its program is back", || (scene.running() == [scene.program(); 2]).then_some(()));
    // What is opened from here on is told to the program that runs.
    let another = scene.pair();
    scene.await_tier("xdp", 3);
    scene.expect_relayed_in_the_kernel(|| {
        channel.echo(1);
        pair.echo(1);
        another.echo(1);
    });
}

#[test]
fn a_program_of_a_process_that_was_given_up_is_replaced_by_that_of_the_running_one() {
    let Some((scene, mut channel, pair)) = Scene::opened() else { return };
    // What such a process does if it was held up for longer than anybody waits for it.
    let pins = Pins::open(&scene.pins).unwrap();
    let mut late = Programs::load_with(Some(&pins), Capture::Never).unwrap();
    let attached = Attachment::new(&mut late, "wan", Wanted::Native, Some(&pins)).unwrap();
    drop((attached, late));
    eventually("its program is back", || (scene.running() == [scene.program(); 2]).then_some(()));
    let log = scene.relay.old.process.log();
    assert!(log.contains("another process has put an XDP program"), "{log}");
    scene.expect_relayed_in_the_kernel(|| {
        channel.echo(1);
        pair.echo(1);
    });
}

/// Waits until neither interface has a program.
fn await_program_gone() {
    eventually("the program is gone", || {
        (!has_program("wan") && !has_program("lan")).then_some(())
    });
}

#[test]
fn a_next_process_without_the_program_has_it_taken_off() {
    let Some((mut scene, mut channel, pair)) = Scene::opened() else { return };
    reconfigure(&scene.relay.old, "mode = \"native\"", "mode = \"off\"");
    while_echoing(&mut channel, &pair, || {
        scene.relay.perform();
        await_program_gone();
    });
    scene.relay.expect_end_of_old();
    scene.await_tier("gso", 2);
    assert!(!scene.pins.exists() || fs::read_dir(&scene.pins).unwrap().count() == 0);
}

#[test]
fn a_next_process_of_another_layout_of_maps_relays_without_the_program_and_says_so() {
    let Some((mut scene, mut channel, pair)) = Scene::opened() else { return };
    // What runs is then of a version that this one cannot go on with.
    let kept: Vec<PathBuf> =
        fs::read_dir(&scene.pins).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    fs::rename(&kept[0], scene.pins.join("layout-0")).unwrap();
    while_echoing(&mut channel, &pair, || {
        scene.relay.perform();
        await_program_gone();
    });
    scene.relay.expect_end_of_old();
    scene.await_tier("gso", 2);
    let xdp = scene.xdp();
    assert_eq!(xdp["state"], "unavailable");
    assert!(xdp["why"].as_str().unwrap().contains("wan has another XDP program"), "{xdp}");
    assert!(xdp["hints"].to_string().contains("relays without until it is started anew"), "{xdp}");
    assert!(!scene.pins.exists(), "pins are left");
    channel.echo(1);
    pair.echo(1);
}

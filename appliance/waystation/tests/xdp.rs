//! TURN through the real process with the XDP program on its interfaces: what the kernel relays and
//! what user space does, how the one falls to the other, and what is left in the end.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::process::is_root;
use support::streets::{BpfMount, LAN, Passing, Streets, WAN, has_program, switch};
use support::turn::users_file;
use support::{eventually, given};
use tempfile::TempDir;
use waystation_peer::{TurnClient, TurnClientError};

const CHANNEL: u16 = 0x4000;
/// How long one look for a datagram takes; it is sent again if it does not come.
const LOOK: Duration = Duration::from_millis(200);
const FORWARDING: &str = "net/ipv4/conf/lo/forwarding";

/// A relay with the program, between a client and a peer.
struct Scene {
    appliance: Appliance,
    streets: Streets,
    server: SocketAddr,
    _files: TempDir,
}

impl Scene {
    fn start(xdp: &[&str]) -> Self {
        Self::start_on(Streets::new(), xdp)
    }

    fn start_on(streets: Streets, xdp: &[&str]) -> Self {
        let (settings, files) = settings(xdp);
        Self::begin(streets, &settings, files)
    }

    /// One that may put the program on again later.
    fn start_keeping_privileges(xdp: &[&str]) -> Self {
        let (settings, files) = settings(xdp);
        let settings = settings
            .with("privileges", "drop_capabilities = false")
            .with("privileges", "restrict_files = false");
        Self::begin(Streets::new(), &settings, files)
    }

    fn begin(streets: Streets, settings: &Settings, files: TempDir) -> Self {
        let appliance = Appliance::start(settings);
        let server = appliance.status()["turn_listen"][0].as_str().unwrap().parse().unwrap();
        Self { appliance, streets, server, _files: files }
    }

    fn xdp(&self) -> Value {
        self.appliance.document("/v1/xdp")
    }

    /// A client with a channel to a peer, and the peer.
    fn pair(&self) -> Pair {
        let mut client =
            self.streets.at_client(|| TurnClient::over_udp(self.server, ("alice", "pw"))).unwrap();
        let relayed = client.allocate().unwrap();
        let peer = self.streets.peer();
        peer.set_read_timeout(Some(LOOK)).unwrap();
        client.bind(CHANNEL, peer.local_addr().unwrap()).unwrap();
        Pair { client, peer, relayed }
    }

    /// A core that has no time on a busy machine is missing in a listing, and its rows are.
    fn row(&self) -> Value {
        eventually("the allocation is listed", || {
            let row = self.appliance.document("/v1/udp")["udp"][0].clone();
            row.is_object().then_some(row)
        })
    }

    fn await_directions(&self, directions: u64) {
        eventually(&format!("{directions} directions are in the kernel"), || {
            (self.row()["directions_offloaded"] == directions).then_some(())
        });
    }

    fn await_state(&self, state: &str) {
        eventually(&format!("the program is {state}"), || {
            (self.xdp()["state"] == state).then_some(())
        });
    }
}

struct Pair {
    client: TurnClient,
    peer: UdpSocket,
    relayed: SocketAddr,
}

impl Pair {
    /// Sends payload to the peer until it is there, and back. What was sent again before, because
    /// the machine is slow, may come in between.
    fn exchange(&mut self, payload: &[u8]) {
        let mut buffer = [0; 2048];
        eventually("the peer hears it", || {
            self.client.send(CHANNEL, payload).unwrap();
            loop {
                let (bytes, from) = self.peer.recv_from(&mut buffer).ok()?;
                assert_eq!(from, self.relayed);
                if buffer[..bytes] == *payload {
                    return Some(());
                }
            }
        });
        eventually("the client hears it", || {
            self.peer.send_to(payload, self.relayed).unwrap();
            loop {
                match self.client.receive(LOOK) {
                    Ok(heard) => {
                        assert_eq!(heard.channel, Some(CHANNEL));
                        if heard.payload[..] == *payload {
                            return Some(());
                        }
                    }
                    Err(TurnClientError::NothingCame(_)) => return None,
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }

    /// What was sent again because the machine is slow may still come.
    fn drain(&mut self) {
        while self.peer.recv_from(&mut [0; 2048]).is_ok() {}
        while self.client.receive(LOOK).is_ok() {}
    }

    /// Exchanges until the program has relayed so many datagrams more.
    fn exchange_in_the_kernel(&mut self, scene: &Scene, datagrams: u64) {
        let offloaded = || scene.row()["datagrams_offloaded"].as_u64().unwrap();
        let before = offloaded();
        eventually("the program relays", || {
            for length in [1, 4, 160, 1200] {
                self.exchange(&vec![length as u8; length]);
            }
            (offloaded() >= before + datagrams).then_some(())
        });
        self.drain();
    }
}

fn settings(xdp: &[&str]) -> (Settings, TempDir) {
    let files = TempDir::new().unwrap();
    let users_file = users_file(files.path(), &[("alice", "pw")]);
    let mut settings = Settings::new(PortName::Epoll, 1)
        .with("turn", &format!("listen = [\"{WAN}:3478\"]"))
        .with("turn", &format!("relay_addresses = [\"{LAN}\"]"))
        .with("turn", "allow_peers = [\"203.0.113.0/24\"]")
        .with("turn", "deny_peers = []")
        .with("turn", &users_file);
    for line in xdp {
        settings = settings.with("xdp", line);
    }
    (settings, files)
}

fn given_namespaces() -> bool {
    given(is_root(), "root")
}

fn is_loaded(program: u64) -> bool {
    aya::programs::loaded_programs().flatten().any(|info| u64::from(info.id()) == program)
}

#[test]
fn channels_are_relayed_in_the_kernel_and_a_stop_leaves_nothing() {
    if !given_namespaces() {
        return;
    }
    let mut scene = Scene::start(&["mode = \"native\""]);
    let document = scene.xdp();
    assert_eq!(document["state"], "on", "{document}");
    let names = document["interfaces"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|row| (row["name"].as_str(), row["mode"].as_str())).collect();
    assert_eq!(names, [(Some("lan"), Some("native")), (Some("wan"), Some("native"))]);
    assert_eq!(switch(FORWARDING), "1");

    let mut pair = scene.pair();
    scene.await_directions(2);
    pair.exchange_in_the_kernel(&scene, 16);
    let row = scene.row();
    assert_eq!((&row["tier"], &row["channels"]), (&"xdp".into(), &1.into()), "{row}");
    let both =
        row["datagrams_to_peers"].as_u64().unwrap() + row["datagrams_to_client"].as_u64().unwrap();
    assert!(both >= row["datagrams_offloaded"].as_u64().unwrap());
    let status = scene.appliance.status();
    let counters = &status["totals"]["counters"];
    assert!(counters["udp_datagrams_offloaded"].as_u64().unwrap() >= 16, "{counters}");
    assert!(status["xdp"]["frames_relayed_total"].as_u64().unwrap() >= 16);
    assert_eq!(scene.xdp()["sessions"]["clients"], 1);

    // The end of the allocation is the end of its entries.
    pair.client.refresh(0).unwrap();
    eventually("its entries are gone", || {
        let sessions = &scene.xdp()["sessions"];
        (sessions["directions"] == 0 && sessions["clients"] == 0).then_some(())
    });

    let program = scene.xdp()["program_id"].as_u64().unwrap();
    assert!(is_loaded(program));
    assert!(scene.appliance.stop().success());
    assert!(!has_program("wan") && !has_program("lan"));
    // The kernel frees programs and maps when nobody looks at them any more, a moment later.
    eventually("the program is gone", || (!is_loaded(program)).then_some(()));
}

#[test]
fn a_session_outlives_the_program_and_comes_back_to_it() {
    if !given_namespaces() {
        return;
    }
    let scene = Scene::start_keeping_privileges(&["mode = \"generic\""]);
    let mut pair = scene.pair();
    scene.await_directions(2);
    pair.exchange_in_the_kernel(&scene, 8);

    scene.appliance.reload_with(&[("mode = \"generic\"", "mode = \"off\"")]);
    scene.await_state("off");
    assert!(!has_program("wan") && !has_program("lan"));
    assert_eq!(switch(FORWARDING), "0");
    scene.await_directions(0);
    let offloaded = scene.row()["datagrams_offloaded"].clone();
    pair.exchange(b"without the program");
    assert_eq!(scene.row()["tier"], "gso");
    assert_eq!(scene.row()["datagrams_offloaded"], offloaded);

    scene.appliance.reload_with(&[("mode = \"off\"", "mode = \"native\"")]);
    scene.await_state("on");
    scene.await_directions(2);
    pair.exchange_in_the_kernel(&scene, 8);
    assert_eq!(scene.row()["tier"], "xdp");
}

#[test]
fn a_policy_that_takes_a_peer_back_takes_it_from_the_kernel() {
    if !given_namespaces() {
        return;
    }
    let scene = Scene::start(&["mode = \"native\""]);
    let mut pair = scene.pair();
    scene.await_directions(2);
    pair.exchange_in_the_kernel(&scene, 8);
    scene.appliance.reload_with(&[("deny_peers = []", "deny_peers = [\"203.0.113.0/24\"]")]);
    scene.await_directions(0);
    eventually("nothing is relayed any more", || {
        pair.client.send(CHANNEL, b"late").unwrap();
        (scene.appliance.drops()["turn_no_channel"] >= 1).then_some(())
    });
    pair.drain();
    pair.client.send(CHANNEL, b"later").unwrap();
    assert!(pair.peer.recv_from(&mut [0; 16]).is_err());
    assert_eq!(scene.xdp()["sessions"]["clients"], 1, "the client still has its allocation");
}

#[test]
fn denied_prefixes_are_dropped_and_counted_by_reason() {
    if !given_namespaces() {
        return;
    }
    let scene = Scene::start(&["mode = \"native\"", "deny = []"]);
    let mut client =
        scene.streets.at_client(|| TurnClient::over_udp(scene.server, ("alice", "pw"))).unwrap();
    client.binding().unwrap();
    scene.appliance.reload_with(&[("deny = []", "deny = [\"198.51.100.0/24\"]")]);
    let socket = scene.streets.at_client(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    eventually("it is dropped", || {
        socket.send_to(b"let me in", scene.server).unwrap();
        (scene.appliance.drops()["udp_prefix_denied"] >= 1).then_some(())
    });
    let document = scene.xdp();
    let verdicts = document["verdicts"].as_array().unwrap();
    let denied = verdicts.iter().find(|row| row["verdict"] == "drop_denied").unwrap();
    assert!(denied["frames"].as_u64().unwrap() >= 1, "{denied}");
    let metrics = String::from_utf8(scene.appliance.ask("/metrics").unwrap()).unwrap();
    assert!(metrics.contains("core=\"xdp\",reason=\"udp_prefix_denied\""), "{metrics}");
    scene.appliance.reload_with(&[("deny = [\"198.51.100.0/24\"]", "deny = []")]);
    client.binding().unwrap();
}

#[test]
fn a_program_of_somebody_else_is_left_alone() {
    if !given_namespaces() {
        return;
    }
    let streets = Streets::new();
    let theirs = Passing::on("wan");
    let mut scene = Scene::start_on(streets, &["mode = \"auto\""]);
    let document = scene.xdp();
    assert_eq!(document["state"], "on", "{document}");
    let wan = document["interfaces"].as_array().unwrap().iter().find(|row| row["name"] == "wan");
    let wan = wan.unwrap();
    assert_eq!(wan["mode"], Value::Null);
    assert!(wan["why"].as_str().unwrap().contains("another XDP program"), "{wan}");
    // What only one of the two interfaces sees is relayed all the same.
    scene.pair().exchange(b"hello");
    assert!(scene.appliance.stop().success());
    assert!(has_program("wan") && !has_program("lan"));
    drop(theirs);
    assert!(!has_program("wan"));
}

#[test]
fn a_kept_program_is_taken_over_by_the_next_process() {
    if !given_namespaces() {
        return;
    }
    let mount = BpfMount::new();
    let pins = mount.path().join("waystation");
    let pin_directory = format!("pin_directory = \"{}\"", pins.display());
    let lines = ["mode = \"native\"", pin_directory.as_str()];
    let modes = |scene: &Scene| -> Vec<String> {
        let document = scene.xdp();
        assert_eq!(document["state"], "on", "{document}");
        let rows = document["interfaces"].as_array().unwrap().iter();
        rows.map(|row| row["mode"].as_str().unwrap().to_owned()).collect()
    };
    let mut first = Scene::start(&lines);
    assert_eq!(modes(&first), ["native"; 2]);
    first.pair();
    first.await_directions(2);
    assert!(first.appliance.stop().success());
    assert!(has_program("wan") && has_program("lan"));
    let Scene { streets, .. } = first;

    // One that is killed leaves its sessions too; they are nobody's.
    let second = Scene::start_on(streets, &lines);
    assert_eq!(modes(&second), ["taken_over"; 2]);
    second.pair();
    second.await_directions(2);
    second.appliance.process.signal(Signal::KILL);
    let Scene { streets, appliance, .. } = second;
    drop(appliance);
    assert!(has_program("wan") && has_program("lan"));

    let mut third = Scene::start_on(streets, &lines);
    assert_eq!(modes(&third), ["taken_over"; 2]);
    assert_eq!(third.xdp()["sessions"]["directions"], 0);
    let mut pair = third.pair();
    third.await_directions(2);
    pair.exchange_in_the_kernel(&third, 8);
    third.appliance.reload_with(&[("mode = \"native\"", "mode = \"off\"")]);
    third.await_state("off");
    assert!(!has_program("wan") && !has_program("lan"));
    // The directory itself is in one that the program may not write in any more.
    assert!(!pins.exists() || fs::read_dir(&pins).unwrap().count() == 0);
    assert!(third.appliance.stop().success());
}

#[test]
fn a_program_that_comes_on_no_interface_leaves_nothing_in_its_directory() {
    if !given_namespaces() {
        return;
    }
    let mount = BpfMount::new();
    let pins = mount.path().join("waystation");
    let pin_directory = format!("pin_directory = \"{}\"", pins.display());
    let streets = Streets::new();
    let _theirs = [Passing::on("wan"), Passing::on("lan")];
    let scene = Scene::start_on(streets, &["mode = \"native\"", pin_directory.as_str()]);
    let document = scene.xdp();
    assert_eq!(document["state"], "unavailable", "{document}");
    assert!(document["why"].as_str().unwrap().contains("another XDP program"), "{document}");
    assert!(!pins.exists());
}

#[test]
fn a_program_that_cannot_be_taken_off_is_told_of() {
    if !given_namespaces() {
        return;
    }
    let mount = BpfMount::new();
    let pins = mount.path().join("waystation");
    let pin_directory = format!("pin_directory = \"{}\"", pins.display());
    let scene = Scene::start(&["mode = \"native\"", pin_directory.as_str()]);
    scene.await_state("on");
    mount.forbid_writing();
    scene.appliance.reload_with(&[("mode = \"native\"", "mode = \"off\"")]);
    scene.await_state("off");
    assert!(has_program("wan") && has_program("lan"));
    let document = scene.xdp();
    let hints = document["hints"].as_array().unwrap();
    assert_eq!(hints.len(), 2, "{document}");
    assert!(hints[1].as_str().unwrap().contains("stays on wan"), "{document}");
}

//! TURN through the real process in tier `af_xdp`: frames past the kernel's network stack, and
//! ordinary sockets for everything else.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::process::{Process, binary, command, is_root};
use support::streets::{BpfMount, LAN, Streets, WAN, has_program, ip};
use support::turn::users_file;
use support::{eventually, given};
use tempfile::TempDir;
use waystation_peer::{TurnClient, TurnClientError};

const CHANNEL: u16 = 0x4000;
/// How long one look for a datagram takes; it is sent again if it does not come.
const LOOK: Duration = Duration::from_millis(200);

/// A server between a client and a peer, all of one channel.
struct Scene {
    appliance: Appliance,
    client: TurnClient,
    peer: UdpSocket,
    relayed: SocketAddr,
    _files: TempDir,
}

impl Scene {
    /// The calling thread is where the server is; clients and peers may be elsewhere.
    fn new(
        settings: &Settings,
        files: TempDir,
        client: impl FnOnce(SocketAddr) -> TurnClient,
        peer: UdpSocket,
    ) -> Self {
        let appliance = Appliance::start(settings);
        let server = appliance.status()["turn_listen"][0].as_str().unwrap().parse().unwrap();
        let mut client = client(server);
        let relayed = client.allocate().unwrap();
        peer.set_read_timeout(Some(LOOK)).unwrap();
        client.bind(CHANNEL, peer.local_addr().unwrap()).unwrap();
        Self { appliance, client, peer, relayed, _files: files }
    }

    /// Sends payload to the peer until it is there, and back.
    fn exchange(&mut self, payload: &[u8]) {
        let mut buffer = [0; 2048];
        eventually("the peer hears it", || {
            self.client.send(CHANNEL, payload).unwrap();
            let (bytes, from) = self.peer.recv_from(&mut buffer).ok()?;
            // What was sent again before may still come.
            (bytes == payload.len()).then(|| {
                assert_eq!((&buffer[..bytes], from), (payload, self.relayed));
            })
        });
        eventually("the client hears it", || {
            self.peer.send_to(payload, self.relayed).unwrap();
            match self.client.receive(LOOK) {
                Ok(heard) if heard.payload.len() != payload.len() => None,
                Ok(heard) => {
                    assert_eq!((heard.channel, &heard.payload[..]), (Some(CHANNEL), payload));
                    Some(())
                }
                Err(TurnClientError::NothingCame(_)) => None,
                Err(other) => panic!("{other}"),
            }
        });
    }

    /// As [`Self::exchange`], until it has been carried by a frame each way.
    fn exchange_by_frames(&mut self, payload: &[u8]) {
        let counts = |scene: &Self| {
            ["udp_frames_received", "udp_datagrams_sent_in_frames"].map(|name| scene.counter(name))
        };
        let [received, sent] = counts(self);
        eventually("frames are received and sent", || {
            self.exchange(payload);
            let now = counts(self);
            (now[0] >= received + 2 && now[1] >= sent + 2).then_some(())
        });
    }

    fn row(&self) -> Value {
        self.appliance.document("/v1/udp")["udp"][0].clone()
    }

    fn counter(&self, name: &str) -> u64 {
        self.appliance.status()["totals"]["counters"][name].as_u64().unwrap()
    }
}

fn settings(listen: &str, allow: &str) -> (Settings, TempDir) {
    let files = TempDir::new().unwrap();
    let users_file = users_file(files.path(), &[("alice", "pw")]);
    let settings = Settings::new(PortName::Epoll, 1)
        .with("turn", &format!("listen = [\"{listen}\"]"))
        .with("turn", &format!("allow_peers = [\"{allow}\"]"))
        .with("turn", &users_file)
        .with("turn", "tier = \"af_xdp\"");
    (settings, files)
}

fn connect(server: SocketAddr) -> TurnClient {
    TurnClient::over_udp(server, ("alice", "pw")).unwrap()
}

fn between_streets(mode: &str) -> Scene {
    let streets = Streets::new();
    on_streets(&streets, mode)
}

fn on_streets(streets: &Streets, mode: &str) -> Scene {
    with_xdp(streets, &[&format!("mode = \"{mode}\"")])
}

fn with_xdp(streets: &Streets, xdp: &[&str]) -> Scene {
    let (settings, files) = settings(&format!("{WAN}:3478"), "203.0.113.0/24");
    let settings = settings.with("turn", &format!("relay_addresses = [\"{LAN}\"]"));
    let settings = xdp.iter().fold(settings, |settings, line| settings.with("xdp", line));
    let peer = streets.peer();
    Scene::new(&settings, files, |server| streets.at_client(|| connect(server)), peer)
}

/// Payload goes both ways as frames, of every length that fits one.
fn is_carried_by_frames(mode: &str) {
    let mut scene = between_streets(mode);
    assert_eq!(scene.row()["tier"], "af_xdp", "{}", scene.appliance.document("/v1/xdp"));
    eventually("frames are received and sent", || {
        for length in [1, 3, 160, 1200] {
            scene.exchange(&vec![length as u8; length]);
        }
        let both = ["udp_frames_received", "udp_datagrams_sent_in_frames"];
        both.iter().all(|name| scene.counter(name) >= 16).then_some(())
    });
    let row = scene.row();
    assert!(row["datagrams_in_frames"].as_u64().unwrap() >= 16, "{row}");
    // The program brings them here; it relays nothing itself.
    assert_eq!(row["datagrams_offloaded"], 0, "{row}");
    // Neighbours are the kernel's to find, with what goes by its own sockets.
    assert!(scene.counter("udp_frames_no_hop") >= 1);
    let mut appliance = scene.appliance;
    assert!(appliance.stop().success());
    assert!(!has_program("wan") && !has_program("lan"));
}

#[test]
fn channels_go_by_frames_in_native_mode() {
    if given(is_root(), "root") {
        is_carried_by_frames("native");
    }
}

#[test]
fn channels_go_by_frames_in_generic_mode() {
    if given(is_root(), "root") {
        is_carried_by_frames("generic");
    }
}

#[test]
fn a_datagram_too_long_for_a_frame_goes_by_a_socket() {
    if !given(is_root(), "root") {
        return;
    }
    let mut scene = between_streets("native");
    eventually("it goes by a socket because of its length", || {
        // Longer than the interface takes, so the kernel cuts it into fragments.
        scene.exchange(&[7; 1800]);
        (scene.counter("udp_frames_too_long") >= 1).then_some(())
    });
}

#[test]
fn a_packet_that_no_frame_takes_is_not_brought_to_the_core() {
    if !given(is_root(), "root") {
        return;
    }
    let streets = Streets::new();
    // More than a frame's memory, and less than an interface may have with a program on it.
    ["wan", "lan"].iter().for_each(|interface| ip(&format!("link set {interface} mtu 2000")));
    streets.at_client(|| ip("link set eth0 mtu 2000"));
    streets.at_peer(|| ip("link set eth0 mtu 2000"));
    let mut scene = on_streets(&streets, "native");
    scene.exchange_by_frames(&[1; 160]);
    // The kernel would drop it at the socket.
    scene.exchange(&[7; 1900]);
    assert_eq!(scene.counter("udp_frames_lost"), 0);
}

#[test]
fn a_damaged_frame_is_a_drop_that_is_counted() {
    if !given(is_root(), "root") {
        return;
    }
    let streets = Streets::new();
    let mut scene = on_streets(&streets, "native");
    scene.exchange_by_frames(&[1; 160]);
    let source = scene.client.local().unwrap();
    let server = scene.client.server();
    let raw = streets.at_client(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)));
    let raw = raw.unwrap();
    // Payload in the channel, under a checksum that is another's.
    let mut datagram = [0_u8; 8 + 4 + 4];
    datagram[..2].copy_from_slice(&source.port().to_be_bytes());
    datagram[2..4].copy_from_slice(&server.port().to_be_bytes());
    datagram[4..8].copy_from_slice(&[0, 16, 0x12, 0x34]);
    datagram[8..12].copy_from_slice(&[0x40, 0, 0, 4]);
    eventually("each damaged frame is a drop", || {
        raw.send_to(&datagram, &server.into()).unwrap();
        let drops = scene.appliance.status()["drops"]["udp_malformed"].as_u64();
        (drops.unwrap_or_default() >= 1).then_some(())
    });
    scene.exchange_by_frames(&[2; 170]);
}

#[test]
fn an_interface_that_is_down_keeps_no_core_busy() {
    if !given(is_root(), "root") {
        return;
    }
    let mut scene = between_streets("native");
    scene.exchange_by_frames(&[1; 160]);
    ip("link set lan down");
    // The core believes in its next hop for a while longer.
    for _ in 0..50 {
        scene.client.send(CHANNEL, &[2; 170]).unwrap();
    }
    eventually("the core rests between what it is asked", || {
        let [turns, up_ns] = ["turns", "up_ns"].map(|name| scene.counter(name));
        let passed_ns = eventually("two seconds pass", || {
            let passed_ns = scene.counter("up_ns") - up_ns;
            (passed_ns >= 2_000_000_000).then_some(passed_ns)
        });
        // One that asked the kernel again and again would have tens of thousands each second.
        (scene.counter("turns") - turns < passed_ns / 1_000_000).then_some(())
    });
    ip("link set lan up");
    scene.exchange_by_frames(&[3; 180]);
}

#[test]
fn a_process_that_takes_over_goes_on_by_sockets_and_says_why() {
    if !given(is_root(), "root") {
        return;
    }
    let streets = Streets::new();
    let mount = BpfMount::new();
    let pins = format!("pin_directory = \"{}\"", mount.path().join("waystation").display());
    let mut scene = with_xdp(&streets, &["mode = \"native\"", &pins]);
    scene.exchange_by_frames(&[1; 160]);
    let directory = scene.appliance.directory.path().to_owned();
    let mut upgrade = command(&binary());
    upgrade.arg("upgrade").arg("--config").arg(directory.join("waystation.toml"));
    upgrade.arg("--state-dir").arg(directory.join("state"));
    let mut next = Process::spawn(&mut upgrade, &directory.join("log of the next"));
    eventually("the old process has ended", || {
        let ended = next.ended();
        assert!(ended.is_none(), "ended with {ended:?}:\n{}", next.log());
        scene.appliance.process.ended()
    });
    scene.exchange(&[2; 170]);
    assert_ne!(scene.row()["tier"], "af_xdp");
    let document = scene.appliance.document("/v1/xdp");
    let hints = document["hints"].as_array().unwrap();
    let says = |hint: &Value| hint.as_str().unwrap().contains("another socket is on queue 0");
    assert!(hints.iter().any(says), "{document}");
}

#[test]
fn without_the_program_datagrams_go_by_sockets_and_it_is_said_why() {
    let (settings, files) = settings("127.0.0.1:0", "127.0.0.0/8");
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut scene = Scene::new(&settings, files, connect, peer);
    scene.exchange(b"hello");
    assert_eq!(scene.row()["tier"], "gso");
    let document = scene.appliance.document("/v1/xdp");
    let hints = document["hints"].as_array().unwrap();
    assert!(hints.iter().any(|hint| hint.as_str().unwrap().contains("xdp.mode")), "{document}");
    assert_eq!(scene.counter("udp_frames_received"), 0);
}

//! Opaque sessions through the real process in tier `af_xdp`: frames past the kernel's network stack,
//! beside TURN in another tier, and how they fall to ordinary sockets.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use serde_json::Value;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::process::is_root;
use support::streets::{CLIENT, LAN, Streets, WAN, ip};
use support::turn::users_file;
use support::{eventually, given};
use tempfile::TempDir;
use waystation_management::limits::CLIENT_TIMEOUT;
use waystation_management::stats_socket::client;
use waystation_peer::TurnClient;

/// How long one look for a datagram takes; it is sent again if it does not come.
const LOOK: Duration = Duration::from_millis(200);
const CHANNEL: u16 = 0x4000;

/// A relay between two ends of a session.
struct Scene {
    appliance: Appliance,
    streets: Streets,
    ends: [UdpSocket; 2],
    to: [SocketAddr; 2],
    _files: TempDir,
}

impl Scene {
    /// With a line of `[turn]`.
    fn start(turn: &str) -> Self {
        let streets = Streets::new();
        let peers = "allow_peers = [\"198.51.100.0/24\", \"203.0.113.0/24\"]";
        let files = TempDir::new().unwrap();
        let users_file = users_file(files.path(), &[("alice", "pw")]);
        let settings = Settings::new(PortName::Epoll, 1)
            .with("udp", "addresses = [\"0.0.0.0\"]")
            .with("udp", peers)
            .with("udp", "tier = \"af_xdp\"")
            .with("turn", &format!("listen = [\"{WAN}:3478\"]"))
            .with("turn", &format!("relay_addresses = [\"{LAN}\"]"))
            .with("turn", peers)
            .with("turn", "deny_peers = []")
            .with("turn", turn)
            .with("turn", &users_file)
            .with("xdp", "mode = \"native\"")
            .with("xdp", "interfaces = [\"wan\", \"lan\"]");
        let appliance = Appliance::start(&settings);
        let client = streets.at_client(|| UdpSocket::bind((CLIENT, 0)).unwrap());
        let ends = [client, streets.peer()];
        let [a, b] = ends.each_ref().map(|end| end.local_addr().unwrap());
        let uri = format!("/v1/udp/open?a={a}&b={b}");
        let opened = client::post(&appliance.socket, &uri, CLIENT_TIMEOUT).unwrap();
        let opened: Value = serde_json::from_slice(&opened).unwrap();
        let to = |leg: usize, address: &str| {
            let port = opened["legs"][leg]["port"].as_u64().unwrap();
            SocketAddr::new(address.parse().unwrap(), u16::try_from(port).unwrap())
        };
        for end in &ends {
            end.set_read_timeout(Some(LOOK)).unwrap();
        }
        Self { to: [to(0, WAN), to(1, LAN)], appliance, streets, ends, _files: files }
    }

    /// Sends payload until it is there, each way.
    fn exchange(&self, payload: &[u8]) {
        self.carry(0, payload);
        self.carry(1, payload);
    }

    /// Sends payload from one end until it is at the other.
    fn carry(&self, from: usize, payload: &[u8]) {
        let (mut buffer, to) = ([0; 2048], 1 - from);
        eventually("the other end hears it", || {
            self.ends[from].send_to(payload, self.to[from]).unwrap();
            let (bytes, source) = self.ends[to].recv_from(&mut buffer).ok()?;
            // What was sent again before may still come.
            (bytes == payload.len()).then(|| {
                assert_eq!((&buffer[..bytes], source), (payload, self.to[to]));
            })
        });
    }

    /// The session as it is listed.
    fn row(&self) -> Value {
        eventually("the session is listed", || {
            let document = self.appliance.document("/v1/udp");
            let rows = document["udp"].as_array().unwrap();
            rows.iter().find(|row| row["kind"] == "opaque").cloned()
        })
    }

    fn await_tier(&self, tier: &str) {
        eventually(&format!("the session is in tier {tier}"), || {
            (self.row()["tier"] == tier).then_some(())
        });
    }

    fn counter(&self, name: &str) -> u64 {
        self.appliance.status()["totals"]["counters"][name].as_u64().unwrap()
    }

    /// Payload of this length is received and sent in frames, each way.
    fn exchange_by_frames(&self, length: usize) {
        let counts = || {
            let sent = self.row()["datagrams_in_frames"].as_u64().unwrap();
            [self.counter("udp_frames_received"), sent]
        };
        let before = counts();
        eventually("frames are received and sent", || {
            self.exchange(&vec![length as u8; length]);
            let now = counts();
            now.iter().zip(before).all(|(now, before)| *now >= before + 4).then_some(())
        });
    }
}

#[test]
fn sessions_go_by_frames_and_say_so() {
    if !given(is_root(), "root") {
        return;
    }
    let scene = Scene::start("tier = \"plain\"");
    scene.exchange(b"first");
    scene.await_tier("af_xdp");
    for length in [1, 160, 1400] {
        scene.exchange_by_frames(length);
    }
    let row = scene.row();
    // The program brings them to the core, and relays nothing itself.
    assert_eq!((&row["datagrams_offloaded"], &row["not_xdp"]), (&0.into(), &"not_allowed".into()));
    assert_eq!(row["not_gso"], Value::Null);
}

#[test]
fn sessions_by_frames_and_channels_in_the_kernel_share_their_interfaces() {
    if !given(is_root(), "root") {
        return;
    }
    let scene = Scene::start("tier = \"gso\"");
    scene.exchange(b"first");
    scene.await_tier("af_xdp");
    let server = format!("{WAN}:3478").parse().unwrap();
    let mut turn =
        scene.streets.at_client(|| TurnClient::over_udp(server, ("alice", "pw"))).unwrap();
    turn.allocate().unwrap();
    let peer = scene.streets.peer();
    peer.set_read_timeout(Some(LOOK)).unwrap();
    turn.bind(CHANNEL, peer.local_addr().unwrap()).unwrap();
    let allocation = || {
        let document = scene.appliance.document("/v1/udp");
        let rows = document["udp"].as_array().unwrap();
        rows.iter().find(|row| row["kind"] == "turn").cloned()
    };
    eventually("the program relays the channel", || {
        turn.send(CHANNEL, b"by channel").unwrap();
        peer.recv_from(&mut [0; 64]).ok()?;
        (allocation()?["datagrams_offloaded"].as_u64()? >= 3).then_some(())
    });
    assert_eq!(allocation().unwrap()["datagrams_in_frames"], 0);
    scene.exchange_by_frames(160);
    assert_eq!(scene.row()["datagrams_offloaded"], 0);
}

#[test]
fn channels_and_sessions_by_frames_are_told_apart_on_one_queue() {
    if !given(is_root(), "root") {
        return;
    }
    let scene = Scene::start("tier = \"af_xdp\"");
    scene.exchange(b"first");
    scene.await_tier("af_xdp");
    let server = format!("{WAN}:3478").parse().unwrap();
    let mut turn =
        scene.streets.at_client(|| TurnClient::over_udp(server, ("alice", "pw"))).unwrap();
    let relayed = turn.allocate().unwrap();
    let peer = scene.streets.peer();
    peer.set_read_timeout(Some(LOOK)).unwrap();
    turn.bind(CHANNEL, peer.local_addr().unwrap()).unwrap();
    eventually("both go by frames", || {
        for _ in 0..5 {
            turn.send(CHANNEL, b"by channel").unwrap();
            scene.ends[0].send_to(b"by session", scene.to[0]).unwrap();
            let mut buffer = [0; 64];
            let (bytes, from) = peer.recv_from(&mut buffer).ok()?;
            assert_eq!((&buffer[..bytes], from), (&b"by channel"[..], relayed));
            let (bytes, from) = scene.ends[1].recv_from(&mut buffer).ok()?;
            assert_eq!(from, scene.to[1]);
            assert!([&b"by session"[..], b"first"].contains(&&buffer[..bytes]));
        }
        let document = scene.appliance.document("/v1/udp");
        let rows = document["udp"].as_array().unwrap();
        let is_by_frames = |row: &Value| row["datagrams_in_frames"].as_u64().unwrap() >= 10;
        (rows.len() == 2 && rows.iter().all(is_by_frames)).then_some(())
    });
}

#[test]
fn a_session_falls_to_sockets_when_the_program_goes() {
    if !given(is_root(), "root") {
        return;
    }
    let scene = Scene::start("tier = \"plain\"");
    scene.exchange(b"first");
    scene.await_tier("af_xdp");
    scene.exchange_by_frames(160);
    scene.appliance.reload_with(&[("mode = \"native\"", "mode = \"off\"")]);
    scene.exchange(b"afterwards");
    scene.await_tier("gso");
    let received = scene.counter("udp_frames_received");
    scene.exchange(b"and again");
    assert_eq!(scene.counter("udp_frames_received"), received);
}

#[test]
fn an_interface_that_takes_less_from_now_on_gets_no_longer_frames() {
    if !given(is_root(), "root") {
        return;
    }
    let scene = Scene::start("tier = \"plain\"");
    scene.exchange(b"first");
    scene.await_tier("af_xdp");
    scene.exchange_by_frames(1400);
    let before = scene.counter("udp_frames_too_long");
    ip("link set lan mtu 1300");
    eventually("what is too long goes by a socket", || {
        // The other way a veth of that MTU takes none so long.
        scene.carry(0, &[7; 1400]);
        (scene.counter("udp_frames_too_long") > before).then_some(())
    });
    scene.exchange_by_frames(1000);
}

//! Opaque UDP sessions through the real process with the XDP program on its interfaces: what the
//! kernel relays, what it leaves to user space and why, and how a session falls and comes back.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails says where, and one that measures a rate looks at the clock"
)]

mod support;

use serde_json::Value;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};
use support::appliance::{Appliance, PortName, Settings};
use support::process::{binary, command, is_root, run, run_within};
use support::streets::{CLIENT, LAN, Streets, WAN, ip};
use support::{eventually, given};
use waystation_management::limits::CLIENT_TIMEOUT;
use waystation_management::stats_socket::client;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::Side;
use waystation_relay::udp::proof::{LegName, Secret, prove};

/// How long one look for a datagram takes; it is sent again if it does not come.
const LOOK: Duration = Duration::from_millis(200);
/// It takes 12 s, most of them to wait for what is counted every second.
const DEMO_LIMIT: Duration = Duration::from_secs(120);

/// A relay with the program, between two ends that have no other way to each other.
struct Scene {
    appliance: Appliance,
    streets: Streets,
}

/// The two ends of a session, and where they send to.
struct Pair {
    ends: [UdpSocket; 2],
    to: [SocketAddr; 2],
}

impl Scene {
    fn start(udp: &[&str]) -> Self {
        Self::begin(udp, "native", true)
    }

    fn begin(udp: &[&str], mode: &str, drops_privileges: bool) -> Self {
        let streets = Streets::new();
        let mut settings = Settings::new(PortName::Epoll, 1)
            .with("udp", "allow_peers = [\"198.51.100.0/24\", \"203.0.113.0/24\"]")
            .with("xdp", &format!("mode = \"{mode}\""));
        settings = udp.iter().fold(settings, |settings, line| settings.with("udp", line));
        if !drops_privileges {
            settings = settings
                .with("privileges", "drop_capabilities = false")
                .with("privileges", "restrict_files = false");
        }
        let appliance = Appliance::start(&settings);
        let scene = Self { appliance, streets };
        let document = scene.xdp();
        assert_eq!(document["state"], "on", "{document}");
        scene
    }

    fn xdp(&self) -> Value {
        self.appliance.document("/v1/xdp")
    }

    fn client(&self) -> UdpSocket {
        let socket = self.streets.at_client(|| UdpSocket::bind((CLIENT, 0)).unwrap());
        socket.set_read_timeout(Some(LOOK)).unwrap();
        socket
    }

    fn open(&self, question: &str) -> Value {
        let uri = format!("/v1/udp/open?{question}");
        let answer = client::post(&self.appliance.socket, &uri, CLIENT_TIMEOUT).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// A session between a client and a peer, both for good.
    fn pair(&self, more: &str) -> Pair {
        let ends = [self.client(), self.streets.peer()];
        ends[1].set_read_timeout(Some(LOOK)).unwrap();
        let addresses = ends.each_ref().map(|end| end.local_addr().unwrap());
        let opened = self.open(&format!("a={}&b={}{more}", addresses[0], addresses[1]));
        Pair { ends, to: ports(&opened) }
    }

    fn row(&self) -> Value {
        let rows = self.appliance.document("/v1/udp")["udp"].as_array().unwrap().clone();
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.into_iter().next().unwrap()
    }

    fn await_tier(&self, tier: &str, why_not: Option<&str>) {
        eventually(&format!("tier {tier}, {why_not:?}"), || {
            let row = self.row();
            (row["tier"] == tier && row["not_xdp"].as_str() == why_not).then_some(())
        });
    }

    fn verdict(&self, name: &str) -> u64 {
        let document = self.xdp();
        let rows = document["verdicts"].as_array().unwrap();
        let row = rows.iter().find(|row| row["verdict"] == name).unwrap();
        row["frames"].as_u64().unwrap()
    }

    /// Exchanges until the program has relayed so many datagrams more.
    fn exchange_in_the_kernel(&self, pair: &Pair, datagrams: u64) {
        let offloaded = || self.row()["datagrams_offloaded"].as_u64().unwrap();
        let before = offloaded();
        eventually("the program relays", || {
            pair.exchange(&[0, 1, 160, 1400]);
            (offloaded() >= before + datagrams).then_some(())
        });
    }
}

fn ports(opened: &Value) -> [SocketAddr; 2] {
    let port = |leg: usize| u16::try_from(opened["legs"][leg]["port"].as_u64().unwrap()).unwrap();
    [SocketAddr::new(WAN.parse().unwrap(), port(0)), SocketAddr::new(LAN.parse().unwrap(), port(1))]
}

impl Pair {
    /// Sends payload of these lengths both ways until it has come as it was sent.
    fn exchange(&self, lengths: &[usize]) {
        for &length in lengths {
            let payload: Vec<u8> = (0..length).map(|at| (at * 31 + length) as u8).collect();
            for side in Side::BOTH {
                self.deliver(side, &payload);
            }
        }
    }

    fn deliver(&self, from: Side, payload: &[u8]) {
        let (sender, receiver) = (&self.ends[from.index()], &self.ends[from.other().index()]);
        let mut buffer = [0; 2048];
        eventually("it comes through", || {
            sender.send_to(payload, self.to[from.index()]).unwrap();
            let (bytes, source) = receiver.recv_from(&mut buffer).ok()?;
            assert_eq!(source, self.to[from.other().index()]);
            // What was sent twice because the machine is slow may still come.
            (buffer[..bytes] == *payload).then_some(())
        });
    }

    /// What was sent again may still come.
    fn drain(&self) {
        for end in &self.ends {
            while end.recv_from(&mut [0; 2048]).is_ok() {}
        }
    }
}

fn given_namespaces() -> bool {
    given(is_root(), "root")
}

#[test]
fn fixed_ends_are_relayed_in_the_kernel_until_their_session_is_closed() {
    if !given_namespaces() {
        return;
    }
    let scene = Scene::start(&[]);
    let pair = scene.pair("");
    // Where the ends send to is not known before they have: the ports are on all addresses.
    scene.await_tier("gso", Some("local_unknown"));
    pair.exchange(&[100]);
    scene.await_tier("xdp", None);
    scene.exchange_in_the_kernel(&pair, 16);
    let row = scene.row();
    for leg in [0, 1] {
        let leg = &row["legs"][leg];
        assert!(leg["datagrams_in"].as_u64().unwrap() >= 8, "{row}");
        assert!(leg["bytes_in"].as_u64().unwrap() >= 2 * 1561, "{row}");
        assert!(leg["heard_ago_ns"].as_u64().is_some(), "{row}");
    }
    assert!(scene.appliance.total("udp_datagrams_offloaded") >= 16);
    let sessions = &scene.xdp()["sessions"];
    assert_eq!((&sessions["opaque_directions"], &sessions["opaque_ends"]), (&2.into(), &0.into()));
    let shown = |arguments: &[&str]| {
        let mut command = command(&binary());
        run(command.args(arguments).arg("--socket").arg(&scene.appliance.socket)).text()
    };
    let listed = shown(&["udp", "list"]);
    assert!(listed.lines().any(|line| line.contains(" xdp ")), "{listed}");
    assert!(shown(&["xdp", "status"]).contains("2 directions"), "{}", shown(&["xdp", "status"]));

    let session = row["session"].as_str().unwrap().to_owned();
    client::post(&scene.appliance.socket, &format!("/v1/udp/close?id={session}"), CLIENT_TIMEOUT)
        .unwrap();
    eventually("its entries are gone", || {
        let sessions = &scene.xdp()["sessions"];
        (sessions["directions"] == 0 && sessions["opaque_ends"] == 0).then_some(())
    });
    pair.drain();
    pair.ends[0].send_to(b"late", pair.to[0]).unwrap();
    assert!(pair.ends[1].recv_from(&mut [0; 16]).is_err());
}

#[test]
fn an_end_that_proves_another_address_is_relayed_from_there() {
    if !given_namespaces() {
        return;
    }
    let scene = Scene::start(&[&format!("addresses = [\"{WAN}\"]")]);
    // On one address alone, where the ends send to is known from the start.
    let peer = scene.client();
    let opened = scene.open(&format!("a=learn&b={}", peer.local_addr().unwrap()));
    scene.await_tier("gso", Some("leg_unknown"));
    let mut to = ports(&opened);
    to[1].set_ip(WAN.parse().unwrap());
    let token = opened["legs"][0]["token"].as_str().unwrap();
    let bytes: Vec<u8> = (0..token.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap())
        .collect();
    let secret = Secret::new(bytes[LegName::BYTES..].try_into().unwrap());
    let session: UdpSessionTag = opened["session"].as_str().unwrap().parse().unwrap();
    let leg = LegName { session, side: Side::A };
    let mut counter = 0;
    let mut prove_from = |end: &UdpSocket| {
        eventually("the proof is answered", || {
            counter += 1;
            end.send_to(&prove(&secret, leg, counter), to[0]).unwrap();
            end.recv_from(&mut [0; 64]).ok()
        });
    };
    let first = scene.client();
    prove_from(&first);
    scene.await_tier("xdp", None);
    let pair = Pair { ends: [first, peer], to };
    scene.exchange_in_the_kernel(&pair, 8);
    pair.drain();

    let moved = scene.client();
    prove_from(&moved);
    let address = moved.local_addr().unwrap().to_string();
    eventually("it is followed", || {
        let row = scene.row();
        (row["legs"][0]["address"] == address.as_str() && row["tier"] == "xdp").then_some(())
    });
    let [first, peer] = pair.ends;
    let pair = Pair { ends: [moved, peer], to };
    scene.exchange_in_the_kernel(&pair, 8);
    // What the program relayed before it was told of the move has come to where the end was.
    while first.recv_from(&mut [0; 2048]).is_ok() {}
    // The address before is nobody's, and nothing is sent there.
    first.send_to(b"and me?", to[0]).unwrap();
    eventually("it is dropped", || (scene.appliance.drops()["udp_unproven"] >= 1).then_some(()));
    assert!(first.recv_from(&mut [0; 16]).is_err());
    assert_eq!(scene.xdp()["sessions"]["opaque_directions"], 2);
}

#[test]
fn the_rate_of_a_session_holds_in_the_kernel() {
    if !given_namespaces() {
        return;
    }
    const SENT: u64 = 600;
    const BYTES: u64 = 1000;
    let scene = Scene::start(&[]);
    let pair = scene.pair("&rate=16KiB");
    pair.exchange(&[100]);
    scene.await_tier("xdp", None);
    pair.drain();
    let begun = Instant::now();
    for _ in 0..SENT {
        pair.ends[0].send_to(&[7; BYTES as usize], pair.to[0]).unwrap();
    }
    let mut heard = 0;
    while pair.ends[1].recv_from(&mut [0; 2048]).is_ok() {
        heard += 1;
    }
    // A burst of 64 KiB and what the time is worth, in the kernel and, for what may have come while
    // there was no entry, once more in user space.
    let worth = 65_536 + 16_384 * (begun.elapsed().as_secs() + 1) + BYTES;
    assert!(heard >= 60 && heard * BYTES <= 2 * worth, "{heard} of {SENT}");
    eventually("what was dropped is the session's", || {
        let dropped = scene.row()["dropped_datagrams"].as_u64().unwrap();
        (dropped + heard >= SENT).then_some(())
    });
    assert!(scene.verdict("drop_session_over_rate") > 0);
    assert!(scene.appliance.drops()["udp_rate_exceeded"] > 0);
    // The other direction has its own.
    pair.exchange(&[]);
    pair.deliver(Side::B, b"back");
}

#[test]
fn what_the_program_cannot_keep_stays_in_user_space_and_says_so() {
    if !given_namespaces() {
        return;
    }
    let scene = Scene::start(&[]);
    let pair = scene.pair("&packets=1000000");
    pair.exchange(&[100]);
    scene.await_tier("gso", Some("packet_rate"));
    pair.exchange(&[0, 1, 1400]);
    assert_eq!(scene.row()["datagrams_offloaded"], 0);
    // Its ends are no strangers to the program all the same.
    eventually("its ends are known", || {
        (scene.xdp()["sessions"]["opaque_ends"] == 2).then_some(())
    });
    let before = scene.verdict("steered");
    eventually("they go to the core that owns the session", || {
        pair.exchange(&[10]);
        (scene.verdict("steered") > before).then_some(())
    });
}

#[test]
fn a_session_outlives_the_program_and_comes_back_to_it() {
    if !given_namespaces() {
        return;
    }
    let scene = Scene::begin(&[], "generic", false);
    let pair = scene.pair("");
    pair.exchange(&[100]);
    scene.await_tier("xdp", None);
    scene.exchange_in_the_kernel(&pair, 8);
    scene.appliance.reload_with(&[("mode = \"generic\"", "mode = \"off\"")]);
    scene.await_tier("gso", Some("not_attached"));
    let offloaded = scene.row()["datagrams_offloaded"].clone();
    pair.exchange(&[0, 100, 1400]);
    assert_eq!(scene.row()["datagrams_offloaded"], offloaded);
    scene.appliance.reload_with(&[("mode = \"off\"", "mode = \"native\"")]);
    scene.await_tier("xdp", None);
    scene.exchange_in_the_kernel(&pair, 8);
}

#[test]
fn the_demo_relays_in_the_kernel_and_leaves_nothing() {
    if !given_namespaces() {
        return;
    }
    let mut demo = command(&binary());
    demo.args(["demo", "--scenario", "xdp", "--seconds", "1", "--json"]);
    let finished = run_within(&mut demo, DEMO_LIMIT);
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let document: Value = serde_json::from_str(&finished.text()).unwrap();
    for (at, name) in [(0, "turn"), (1, "opaque")] {
        let way = &document["xdp"][at];
        assert_eq!((&way["way"], &way["tier"]), (&name.into(), &"xdp".into()), "{way}");
        assert_eq!((&way["lost"], &way["corrupt"]), (&0.into(), &0.into()), "{way}");
        assert!(way["datagrams_by_program"].as_u64().unwrap() > 0, "{way}");
        assert!(way["program_ns_per_frame"].as_u64().unwrap() > 0, "{way}");
    }
    // Its namespaces have no names, and its interfaces were in them.
    let links = run(Command::new("ip").args(["-o", "link", "show"])).text();
    assert!(!links.contains("wan@") && !links.contains("lan@"), "{links}");
}

#[test]
fn ends_over_ipv6_are_relayed_too_and_between_the_families() {
    if !given_namespaces() {
        return;
    }
    let scene = Scene::start(&[]);
    ip("addr add 2001:db8:1::1/64 dev wan nodad");
    scene.streets.at_client(|| ip("addr add 2001:db8:1::7/64 dev eth0 nodad"));
    scene
        .appliance
        .reload_with(&[("\"203.0.113.0/24\"", "\"203.0.113.0/24\", \"2001:db8:1::/64\"")]);
    let v6 = scene.streets.at_client(|| UdpSocket::bind("[2001:db8:1::7]:0").unwrap());
    v6.set_read_timeout(Some(LOOK)).unwrap();
    let peer = scene.streets.peer();
    peer.set_read_timeout(Some(LOOK)).unwrap();
    let ends = [v6, peer];
    let addresses = ends.each_ref().map(|end| end.local_addr().unwrap());
    let opened = scene.open(&format!("a={}&b={}", addresses[0], addresses[1]));
    let mut to = ports(&opened);
    to[0].set_ip("2001:db8:1::1".parse().unwrap());
    let pair = Pair { ends, to };
    pair.exchange(&[100]);
    scene.await_tier("xdp", None);
    scene.exchange_in_the_kernel(&pair, 8);
}

//! Opaque UDP sessions through the real process, on loopback as an ordinary user: fixed ends and
//! learned ones, what is dropped and why, limits, commands and reloads.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails says where, and one that waits for a minute looks once a second"
)]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::process::{Finished, Ordinary, binary, command, run};
use support::{STEP, eventually, eventually_within, given};
use waystation_management::limits::CLIENT_TIMEOUT;
use waystation_management::stats_socket::client;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::Side;
use waystation_relay::udp::proof::{LegName, PROOF_BYTES, Secret, answered, prove};

/// Long enough for something that must not come to come.
const NOTHING: Duration = Duration::from_millis(200);
/// What a command that was refused exits with.
const REFUSED: i32 = 1;

/// An address of loopback that no other test has ports on.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    IpAddr::from([127, 1 + high % 250, low, NEXT.fetch_add(1, Ordering::Relaxed)])
}

/// A running appliance whose sessions are on one address of loopback.
struct Relay {
    appliance: Appliance,
    address: IpAddr,
}

impl Relay {
    fn start(port: PortName, cores: usize, more: &[&str]) -> Self {
        let address = own_address();
        Self { appliance: Appliance::start(&settings(port, cores, address, more)), address }
    }

    /// Asks for a session; the answer, or the status and the document of the refusal.
    fn open(&self, question: &str) -> Value {
        let uri = format!("/v1/udp/open?{question}");
        let answer = client::post(&self.appliance.socket, &uri, CLIENT_TIMEOUT);
        serde_json::from_slice(&answer.unwrap()).unwrap()
    }

    fn refusal(&self, question: &str) -> String {
        let uri = format!("/v1/udp/open?{question}");
        client::post(&self.appliance.socket, &uri, CLIENT_TIMEOUT).unwrap_err().to_string()
    }

    /// A session between two fixed ends, and the addresses that they send to.
    fn open_between(&self, a: &UdpSocket, b: &UdpSocket, more: &str) -> (Value, [SocketAddr; 2]) {
        let ends = [a, b].map(|end| end.local_addr().unwrap());
        let opened = self.open(&format!("a={}&b={}{more}", ends[0], ends[1]));
        let ports = self.ports(&opened);
        (opened, ports)
    }

    /// Where the ends of a session send to.
    fn ports(&self, session: &Value) -> [SocketAddr; 2] {
        [0, 1].map(|leg| {
            let port = session["legs"][leg]["port"].as_u64().unwrap();
            SocketAddr::new(self.address, u16::try_from(port).unwrap())
        })
    }

    fn rows(&self) -> Vec<Value> {
        self.appliance.document("/v1/udp")["udp"].as_array().unwrap().clone()
    }

    fn row(&self) -> Value {
        let rows = self.rows();
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.into_iter().next().unwrap()
    }

    /// Waits until a reason has been counted so often.
    fn expect_drops(&self, reason: &str, count: u64) {
        eventually(&format!("{count} of {reason}"), || {
            (self.appliance.drops()[reason] >= count).then_some(())
        });
        assert_eq!(self.appliance.drops()[reason], count, "{reason}");
    }

    fn command(&self, arguments: &[&str]) -> Finished {
        let mut command = command(&binary());
        run(command.args(arguments).arg("--socket").arg(&self.appliance.socket))
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        let lines = self.appliance.ask("/v1/events").unwrap();
        let events = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let events = events.map(|line| serde_json::from_slice::<Value>(line).unwrap());
        events.filter(|event| event["kind"] == kind).collect()
    }

    /// Has the configuration changed and read again.
    fn reload(&self, change: impl FnOnce(&str) -> String) {
        let file = self.appliance.directory.path().join("waystation.toml");
        let before = fs::read_to_string(&file).unwrap();
        let changed = change(&before);
        assert_ne!(before, changed);
        fs::write(&file, changed).unwrap();
        let reloads = || self.events("config_reloaded").len();
        let already = reloads();
        self.appliance.process.signal(Signal::HUP);
        eventually("the reload is over", || (reloads() > already).then_some(()));
    }
}

fn settings(port: PortName, cores: usize, address: IpAddr, more: &[&str]) -> Settings {
    let settings = Settings::new(port, cores)
        .with("udp", &format!("addresses = [\"{address}\"]"))
        .with("udp", "allow_peers = [\"127.0.0.0/8\"]");
    more.iter().fold(settings, |settings, line| settings.with("udp", line))
}

/// An end with a socket of its own.
fn end() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(STEP)).unwrap();
    socket
}

fn receive(end: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 65_536];
    let (bytes, from) = end.recv_from(&mut buffer).unwrap();
    (buffer[..bytes].to_vec(), from)
}

fn hears_nothing(end: &UdpSocket) {
    end.set_read_timeout(Some(NOTHING)).unwrap();
    let heard = end.recv_from(&mut [0; 65_536]);
    assert!(heard.is_err(), "{heard:?}");
    end.set_read_timeout(Some(STEP)).unwrap();
}

fn payload(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 + seed) as u8).collect()
}

/// Sends both ways, and waits for each datagram to come as it was sent.
fn exchange([a, b]: [&UdpSocket; 2], [to_a, to_b]: [SocketAddr; 2], lengths: &[usize]) {
    for &length in lengths {
        a.send_to(&payload(length, 1), to_a).unwrap();
        assert_eq!(receive(b), (payload(length, 1), to_b));
        b.send_to(&payload(length, 2), to_b).unwrap();
        assert_eq!(receive(a), (payload(length, 2), to_a));
    }
}

fn fixed_ends_exchange(port: PortName, cores: usize) {
    if !port.is_given() {
        return;
    }
    let relay = Relay::start(port, cores, &[]);
    let (a, b) = (end(), end());
    let (opened, ports) = relay.open_between(&a, &b, "");
    exchange([&a, &b], ports, &[0, 1, 148, 1452, 9000, 60_000]);
    relay.appliance.expect_total(&["opaque_datagrams"], 12);
    relay.appliance.expect_total(&["opaque_sessions_open"], 1);
    relay.appliance.expect_total(&["udp_sockets_open"], 2);

    let row = relay.row();
    assert_eq!((&row["kind"], &row["protocol"]), (&"opaque".into(), &"opaque".into()));
    assert_eq!(row["session"], opened["session"]);
    assert_eq!((&row["tier"], &row["not_xdp"]), (&"gso".into(), &"not_attached".into()));
    let bytes = 1 + 148 + 1452 + 9000 + 60_000;
    for (leg, socket) in [(0, &a), (1, &b)] {
        let leg = &row["legs"][leg];
        assert_eq!(leg["address"], socket.local_addr().unwrap().to_string());
        assert_eq!((&leg["datagrams_in"], &leg["datagrams_out"]), (&6.into(), &6.into()));
        assert_eq!((&leg["bytes_in"], &leg["bytes_out"]), (&bytes.into(), &bytes.into()));
        assert_eq!(leg["learning"], "fixed");
    }

    // Somebody else is not heard, on neither port.
    let stranger = end();
    for port in ports {
        stranger.send_to(b"let me in", port).unwrap();
    }
    relay.expect_drops("udp_unproven", 2);
    hears_nothing(&stranger);
    hears_nothing(&a);
    hears_nothing(&b);
}

#[test]
fn fixed_ends_exchange_over_io_uring() {
    fixed_ends_exchange(PortName::IoUring, 1);
}

#[test]
fn fixed_ends_exchange_over_epoll() {
    fixed_ends_exchange(PortName::Epoll, 3);
}

#[test]
fn sessions_spread_over_the_cores_and_keep_apart() {
    let relay = Relay::start(PortName::Epoll, 2, &[]);
    let ends: Vec<_> = (0..8).map(|_| (end(), end())).collect();
    let ports: Vec<_> = ends.iter().map(|(a, b)| relay.open_between(a, b, "").1).collect();
    for ((a, b), ports) in ends.iter().zip(&ports) {
        exchange([a, b], *ports, &[100]);
    }
    let rows = relay.rows();
    let of_core = |core: u64| rows.iter().filter(|row| row["core"] == core).count();
    assert_eq!((of_core(0), of_core(1)), (4, 4), "{rows:?}");
}

#[test]
fn trains_that_came_together_leave_together_in_tier_gso_only() {
    for (tier, in_trains) in [("gso", 40), ("plain", 0)] {
        let relay = Relay::start(PortName::Epoll, 1, &[&format!("tier = \"{tier}\"")]);
        let (a, b) = (end(), end());
        let (_, ports) = relay.open_between(&a, &b, "");
        // What the appliance does not read at once comes to it in one burst.
        relay.appliance.process.pause();
        for index in 0..40 {
            a.send_to(&[index; 500], ports[0]).unwrap();
        }
        relay.appliance.process.signal(Signal::CONT);
        for index in 0..40 {
            assert_eq!(receive(&b).0, [index; 500], "in order, and whole");
        }
        relay.appliance.expect_total(&["opaque_datagrams"], 40);
        let row = relay.row();
        assert_eq!((&row["tier"], &row["datagrams_in_trains"]), (&tier.into(), &in_trains.into()));
        // A burst holds 16 messages, so the last of three has 8, and none is alone.
        let counter = match tier {
            "gso" => "udp_datagrams_sent_in_trains",
            _ => "udp_datagrams_sent_plainly",
        };
        assert_eq!(relay.appliance.total(counter), 40);
    }
}

/// An end that has a token.
struct Prover {
    secret: Secret,
    leg: LegName,
    counter: u64,
}

impl Prover {
    /// From the digits that were printed: those of the leg's name, and the secret's.
    fn new(token: &str, session: &str, side: Side) -> Self {
        let digit = |at: usize| u8::from_str_radix(&token[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..token.len()).step_by(2).map(digit).collect();
        let (name, secret) = bytes.split_at(LegName::BYTES);
        let leg = LegName { session: session.parse::<UdpSessionTag>().unwrap(), side };
        assert_eq!(name, leg.bytes());
        Self { secret: Secret::new(secret.try_into().unwrap()), leg, counter: 0 }
    }

    fn proof(&mut self) -> [u8; PROOF_BYTES] {
        self.counter += 1;
        prove(&self.secret, self.leg, self.counter)
    }

    /// Proves from a socket, and waits for the answer.
    fn prove_from(&mut self, socket: &UdpSocket, to: SocketAddr) {
        socket.send_to(&self.proof(), to).unwrap();
        let (answer, from) = receive(socket);
        assert_eq!(from, to);
        let claim = answered(&self.secret, &answer).unwrap();
        assert_eq!((claim.leg, claim.counter), (self.leg, self.counter));
    }
}

#[test]
fn learned_end_proves_its_token_and_moves_with_it() {
    let relay = Relay::start(PortName::Epoll, 1, &[]);
    let b = end();
    let opened = relay.open(&format!("a=learn&b={}", b.local_addr().unwrap()));
    let ports = relay.ports(&opened);
    let token = opened["legs"][0]["token"].as_str().unwrap();
    let mut prover = Prover::new(token, opened["session"].as_str().unwrap(), Side::A);
    assert_eq!(opened["legs"][1]["token"], Value::Null);

    // Before it has proved anything it is nobody, and nothing can be sent to it.
    let a = end();
    a.send_to(b"hello?", ports[0]).unwrap();
    relay.expect_drops("udp_unproven", 1);
    b.send_to(b"anybody?", ports[1]).unwrap();
    relay.expect_drops("udp_leg_unknown", 1);

    prover.prove_from(&a, ports[0]);
    exchange([&a, &b], ports, &[1200]);
    assert_eq!(relay.row()["legs"][0]["address"], a.local_addr().unwrap().to_string());
    assert_eq!(relay.row()["legs"][0]["learning"], "token");

    // From another address it is nobody again, until it has proved itself anew.
    let moved = end();
    moved.send_to(b"it is me", ports[0]).unwrap();
    relay.expect_drops("udp_unproven", 2);
    prover.prove_from(&moved, ports[0]);
    exchange([&moved, &b], ports, &[1200]);
    assert_eq!(relay.row()["legs"][0]["address"], moved.local_addr().unwrap().to_string());
    a.send_to(b"and me?", ports[0]).unwrap();
    relay.expect_drops("udp_unproven", 3);
    hears_nothing(&a);

    // A proof that was seen is worth nothing, nor is one of another secret; neither is answered.
    a.send_to(&prove(&prover.secret, prover.leg, prover.counter), ports[0]).unwrap();
    a.send_to(&prove(&Secret::new([9; 32]), prover.leg, prover.counter + 1), ports[0]).unwrap();
    relay.expect_drops("udp_proof_rejected", 2);
    hears_nothing(&a);
    relay.appliance.expect_total(&["opaque_answers"], 2);
    let by = eventually("both moves are told", || {
        let events = relay.events("udp_moved");
        let moves: u64 = events.iter().map(|event| event["moves"].as_u64().unwrap()).sum();
        (moves == 2).then(|| events.last().unwrap()["by"].clone())
    });
    assert_eq!(by, "proof");
    let text = String::from_utf8(relay.appliance.ask("/v1/events").unwrap()).unwrap();
    assert!(!text.contains(&token[20..]), "the secret is told again");
    assert!(!relay.appliance.process.log().contains(&token[20..]), "the secret is in the log");
}

#[test]
fn two_learned_ends_share_a_port() {
    let relay = Relay::start(PortName::Epoll, 2, &[]);
    let first = relay.open("a=learn&b=learn&port_a=20100&port_b=20100");
    let second = relay.open("a=learn&b=learn&port_a=20100");
    for opened in [&first, &second] {
        let session = opened["session"].as_str().unwrap();
        let token = |leg: usize| opened["legs"][leg]["token"].as_str().unwrap();
        let ports = relay.ports(opened);
        let (a, b) = (end(), end());
        Prover::new(token(0), session, Side::A).prove_from(&a, ports[0]);
        Prover::new(token(1), session, Side::B).prove_from(&b, ports[1]);
        exchange([&a, &b], ports, &[700]);
    }
    assert_eq!(first["core"], second["core"], "a port is on one core");
    relay.appliance.expect_total(&["udp_sockets_open"], 2);
}

#[test]
fn what_exceeds_the_rate_is_dropped_and_the_other_direction_is_not() {
    const SENT: u64 = 200;
    let relay = Relay::start(PortName::Epoll, 1, &[]);
    let (a, b) = (end(), end());
    let (_, ports) = relay.open_between(&a, &b, "&packets=1&rate=1MiB");
    for index in 0..SENT {
        a.send_to(&[index as u8; 20], ports[0]).unwrap();
    }
    eventually("all have been seen", || {
        let row = relay.row();
        let passed = row["legs"][1]["datagrams_out"].as_u64().unwrap();
        let dropped = row["dropped_datagrams"].as_u64().unwrap();
        (passed + dropped == SENT).then_some(())
    });
    let passed = relay.row()["legs"][1]["datagrams_out"].as_u64().unwrap();
    // A burst, and one for each second that this took.
    assert!((64..SENT).contains(&passed), "{passed}");
    assert_eq!(relay.appliance.drops()["udp_rate_exceeded"], SENT - passed);
    b.send_to(b"back", ports[1]).unwrap();
    assert_eq!(receive(&a).0, b"back");
}

#[test]
fn session_that_nothing_passes_through_ends() {
    let relay = Relay::start(PortName::Epoll, 1, &[]);
    let (a, b) = (end(), end());
    relay.open_between(&a, &b, "&idle=1m");
    // The least idle limit and the time that a look at all sessions takes, on a slow machine.
    eventually_within("the session ends", Duration::from_secs(150), || {
        std::thread::sleep(Duration::from_secs(1));
        (relay.appliance.total("opaque_sessions_open") == 0).then_some(())
    });
    relay.expect_drops("udp_session_idle", 1);
    assert_eq!(relay.events("udp_ended")[0]["reason"], "udp_session_idle");
    relay.appliance.expect_total(&["udp_sockets_open"], 0);
}

#[test]
fn commands_open_list_and_close() {
    let relay = Relay::start(PortName::Epoll, 1, &[]);
    let (a, b) = (end(), end());
    let ends = [&a, &b].map(|end| end.local_addr().unwrap().to_string());
    let opened = relay.command(&["udp", "open", &ends[0], "learn", "--rate", "10MiB"]);
    assert_eq!(opened.code(), 0, "{}", opened.stderr);
    let text = opened.text();
    assert!(text.contains("opened UDP session 0.0.0") && text.contains("token"), "{text}");
    let token = text.trim_end().lines().last().unwrap();
    assert_eq!(token.len(), 2 * (LegName::BYTES + 32), "{text}");

    let both = ["udp", "open", &ends[0], &ends[1], "--port-a", "20222", "--idle", "2h", "--json"];
    let opened: Value = serde_json::from_str(&relay.command(&both).text()).unwrap();
    assert_eq!(opened["legs"][0]["port"], 20_222);
    exchange([&a, &b], relay.ports(&opened), &[10]);
    let listed = relay.command(&["udp", "list"]).text();
    for part in ["0.0.0", "0.1.0", "20222", &ends[0], "gso"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    assert!(!listed.contains(token), "{listed}");

    let closed = relay.command(&["udp", "close", "0.1.0"]);
    assert_eq!((closed.code(), closed.text().trim_end()), (0, "closed UDP session 0.1.0"));
    assert_eq!(relay.rows().len(), 1);
    relay.appliance.expect_total(&["udp_sockets_open"], 2);
    let again = relay.command(&["udp", "close", "0.1.0"]);
    assert!(again.complaint().contains("there is no UDP session 0.1.0"), "{}", again.stderr);
    assert_eq!(relay.events("udp_ended")[0]["reason"], "session_closed_by_operator");
}

#[test]
fn sessions_that_cannot_be_are_refused_with_the_reason() {
    let relay = Relay::start(PortName::Epoll, 1, &["sessions_max = 2", "port_max = 20010"]);
    let fixed = "a=127.0.0.1:9&b=127.0.0.1:10";
    let cases = [
        ("a=10.0.0.1:9&b=127.0.0.1:10", "a private address"),
        ("a=169.254.169.254:80&b=127.0.0.1:10", "metadata"),
        ("a=[2001:db8::1]:9&b=127.0.0.1:10", "no address of the family"),
        ("a=learn&b=learn&protocol=wireguard", "both public keys"),
        (&format!("{fixed}&port_a=9"), "not between udp.port_min"),
        (&format!("{fixed}&idle=1s"), "from 1m to 7d"),
        (&format!("{fixed}&rate=1B"), "from 1KiB"),
        (&format!("{fixed}&key_a=abc"), "wg pubkey"),
        ("a=127.0.0.1:9", "parameter b is missing"),
        ("a=nowhere&b=127.0.0.1:10", "an end"),
    ];
    for (question, expected) in cases {
        let refusal = relay.refusal(question);
        assert!(refusal.contains(expected), "{question}: {refusal}");
    }
    assert_eq!(relay.rows().len(), 0);
    relay.appliance.expect_total(&["udp_sockets_open"], 0);
    relay.open("a=learn&b=127.0.0.1:9&protocol=wireguard&port_a=20009");
    let taken = relay.refusal(&format!("{fixed}&port_a=20009"));
    assert!(taken.contains("a port for itself"), "{taken}");
    relay.open(fixed);
    assert!(relay.refusal("a=127.0.0.1:7&b=127.0.0.1:8").contains("udp.sessions_max"));
    let by_command = relay.command(&["udp", "open", "10.0.0.1:9", "learn"]);
    assert_eq!(by_command.code(), REFUSED);
}

#[test]
fn port_of_another_program_is_passed_over() {
    let relay = Relay::start(PortName::Epoll, 1, &[]);
    let _other = UdpSocket::bind((relay.address, 20_000)).unwrap();
    let (a, b) = (end(), end());
    let (_, ports) = relay.open_between(&a, &b, "");
    exchange([&a, &b], ports, &[10]);
    let refusal = relay.refusal("a=127.0.0.1:9&b=127.0.0.1:10&port_b=20000");
    assert!(refusal.contains("port 20000 cannot be had"), "{refusal}");
}

/// A packet of WireGuard as strangers see it.
fn wireguard(kind: u8, length: usize, indices: &[u32]) -> Vec<u8> {
    let mut packet = vec![0x5a; length];
    packet[..4].copy_from_slice(&[kind, 0, 0, 0]);
    for (at, index) in indices.iter().enumerate() {
        packet[4 + 4 * at..8 + 4 * at].copy_from_slice(&index.to_le_bytes());
    }
    packet
}

#[test]
fn wireguard_end_is_learned_by_an_answered_handshake_and_junk_never_reaches_its_peer() {
    let relay = Relay::start(PortName::Epoll, 1, &[]);
    let (a, b) = (end(), end());
    let question = format!("a=learn&b={}&protocol=wireguard", b.local_addr().unwrap());
    let ports = relay.ports(&relay.open(&question));
    let initiation = wireguard(1, 148, &[7]);
    a.send_to(&initiation, ports[0]).unwrap();
    assert_eq!(receive(&b), (initiation, ports[1]));
    assert_eq!(relay.row()["legs"][0]["address"], Value::Null, "not before it is answered");
    let response = wireguard(2, 92, &[70, 7]);
    b.send_to(&response, ports[1]).unwrap();
    assert_eq!(receive(&a), (response, ports[0]));
    assert_eq!(relay.row()["legs"][0]["address"], a.local_addr().unwrap().to_string());
    // 1452 bytes are a full packet at the usual MTU, and no multiple of 16.
    for length in [32, 1452] {
        a.send_to(&wireguard(4, length, &[70]), ports[0]).unwrap();
        assert_eq!(receive(&b).0.len(), length);
        b.send_to(&wireguard(4, length, &[7]), ports[1]).unwrap();
        assert_eq!(receive(&a).0.len(), length);
    }
    a.send_to(b"junk", ports[0]).unwrap();
    a.send_to(&wireguard(4, 31, &[70]), ports[0]).unwrap();
    relay.expect_drops("udp_not_wireguard", 2);
    a.send_to(&wireguard(4, 64, &[99]), ports[0]).unwrap();
    relay.expect_drops("udp_unknown_receiver", 1);
    hears_nothing(&b);
    assert_eq!(relay.row()["legs"][0]["learning"], "handshake");
    assert_eq!(relay.row()["dropped_datagrams"], 3);
}

/// A session of the configuration.
fn session(name: &str, ports: [u16; 2], ends: [&UdpSocket; 2]) -> String {
    let [a, b] = ends.map(|end| end.local_addr().unwrap());
    format!(
        "[[udp.session]]\nname = \"{name}\"\nport_a = {}\nport_b = {}\nend_a = \"{a}\"\n\
         end_b = \"{b}\"\n",
        ports[0], ports[1]
    )
}

#[test]
fn sessions_of_the_configuration_follow_it_over_reloads() {
    let (a, b, other) = (end(), end(), end());
    let hub = session("hub", [20_001, 20_002], [&a, &b]);
    let spoke = session("spoke", [20_003, 20_004], [&a, &b]);
    let relay = Relay::start(PortName::Epoll, 2, &[&hub, &spoke]);
    let to = |port: u16| SocketAddr::new(relay.address, port);
    let names = || {
        let rows = relay.rows();
        let names = rows.iter().map(|row| row["name"].as_str().unwrap_or("-").to_owned());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let there = |expected: &[&str]| {
        eventually(&format!("{expected:?} are there"), || {
            (names() == expected.iter().map(|name| (*name).to_owned()).collect()).then_some(())
        });
    };
    there(&["hub", "spoke"]);
    exchange([&a, &b], [to(20_001), to(20_002)], &[100]);
    exchange([&a, &b], [to(20_003), to(20_004)], &[100]);
    let tag = |name: &str| {
        let rows = relay.rows();
        rows.iter().find(|row| row["name"] == name).unwrap()["session"].clone()
    };
    let hub_before = tag("hub");

    // One goes, one has another end and keeps its ports, one stays and is not touched.
    let moved = session("spoke", [20_003, 20_004], [&a, &other]);
    let late = session("late", [20_005, 20_006], [&a, &b]);
    relay.reload(|text| text.replace(&spoke, &format!("{moved}{late}")));
    there(&["hub", "late", "spoke"]);
    eventually("the other end is in force", || {
        a.send_to(b"to whom", to(20_003)).unwrap();
        other.set_read_timeout(Some(NOTHING)).unwrap();
        other.recv_from(&mut [0; 16]).is_ok().then_some(())
    });
    assert_eq!(tag("hub"), hub_before);

    // Closed by hand it stays closed, until the configuration is read again.
    let closed = relay.command(&["udp", "close", tag("late").as_str().unwrap()]);
    assert!(closed.text().contains("late is opened again"), "{}", closed.text());
    there(&["hub", "spoke"]);
    relay.reload(|text| text.replace(&moved, ""));
    there(&["hub", "late"]);
    assert_eq!(tag("hub"), hub_before);
}

#[test]
fn policy_that_a_reload_takes_back_ends_sessions() {
    let relay = Relay::start(PortName::Epoll, 1, &[]);
    let (a, b) = (end(), end());
    let (_, ports) = relay.open_between(&a, &b, "");
    exchange([&a, &b], ports, &[10]);
    relay.reload(|text| text.replace("allow_peers = [\"127.0.0.0/8\"]", "idle = \"1h\""));
    eventually("the session is gone", || relay.rows().is_empty().then_some(()));
    assert_eq!(relay.events("udp_ended")[0]["reason"], "udp_address_denied");
    a.send_to(b"still?", ports[0]).unwrap();
    hears_nothing(&b);
}

#[test]
fn mistakes_in_a_session_are_found_by_config_check() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("waystation.toml");
    fs::write(&file, "[[udp.session]]\nname = \"hub\"\nport_a = 20001\nport_b = 20001\n").unwrap();
    let checked = run(command(&binary()).args(["config", "check"]).arg(&file));
    assert_ne!(checked.code(), 0);
    for part in [":4: udp.session.port_b", "udp.session.end_a"] {
        assert!(checked.stderr.contains(part), "{}", checked.stderr);
    }
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    // Every address of the machine, on ports that no other test has.
    let lines = ["port_min = 31500", "port_max = 31999", "allow_peers = [\"127.0.0.0/8\"]"];
    let settings = lines
        .iter()
        .fold(Settings::new(PortName::Epoll, 1), |settings, line| settings.with("udp", line));
    let mut relay = Relay { appliance: Appliance::start(&settings), address: own_address() };
    let b = end();
    let opened = relay.open(&format!("a=learn&b={}", b.local_addr().unwrap()));
    let token = opened["legs"][0]["token"].as_str().unwrap();
    let mut prover = Prover::new(token, opened["session"].as_str().unwrap(), Side::A);
    for _ in 0..2 {
        let ports = relay.ports(&opened);
        let a = end();
        prover.prove_from(&a, ports[0]);
        // The other end has to have sent there once, too, for its answers to come from there.
        b.send_to(b"first", ports[1]).unwrap();
        assert_eq!(receive(&a), (b"first".to_vec(), ports[0]));
        exchange([&a, &b], ports, &[500]);
        relay.address = own_address();
    }
}

#[test]
fn an_ordinary_user_has_sessions() {
    if !given(Ordinary::is_possible(), "setpriv, to become an ordinary user") {
        return;
    }
    let ordinary = Ordinary::new();
    let address = own_address();
    let settings = settings(PortName::Epoll, 1, address, &[]);
    let appliance = Appliance::start_ordinary(&ordinary, &settings);
    let relay = Relay { appliance, address };
    let (a, b) = (end(), end());
    let (_, ports) = relay.open_between(&a, &b, "");
    exchange([&a, &b], ports, &[1200]);
    assert_eq!(relay.row()["tier"], "gso");
}

#[test]
fn demo_moves_datagrams_through_turn_and_through_a_session() {
    for port in ["io_uring", "epoll"] {
        if port == "io_uring" && !PortName::IoUring.is_given() {
            continue;
        }
        let mut demo = command(&binary());
        demo.args(["demo", "--scenario", "udp", "--seconds", "1", "--json", "--port", port]);
        let finished = run(&mut demo);
        assert_eq!(finished.code(), 0, "{}", finished.stderr);
        let document: Value = serde_json::from_str(&finished.text()).unwrap();
        for (index, way) in ["turn", "opaque"].into_iter().enumerate() {
            let moved = &document["udp"][index];
            assert_eq!((&moved["way"], &moved["tier"]), (&way.into(), &"gso".into()));
            assert_eq!((&moved["lost"], &moved["corrupt"]), (&0.into(), &0.into()));
            assert!(moved["datagrams"].as_u64().unwrap() > 0, "{document}");
        }
    }
}

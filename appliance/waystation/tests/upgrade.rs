//! One process takes over from another, with clients at work: nobody is refused, nothing over UDP
//! is lost, links of the old process end when they are done, and a hand-over that fails changes
//! nothing.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where, and one that measures says what"
)]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread;
use support::appliance::{Appliance, PortName, Settings};
use support::process::{Process, run};
use support::streams::Pump;
use support::turn::users_file;
use support::upgrading::{Echoing, StopOnDrop, Upgrade, event, reconfigure, with_suffix};
use support::{STEP, eventually, nodes};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_management::hand_over::VERSION;
use waystation_management::limits::CLIENT_TIMEOUT;
use waystation_management::stats_socket::client;
use waystation_peer::{RouteForm, TurnClient};
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::Side;
use waystation_relay::udp::proof::{LegName, PROOF_BYTES, Secret, answered, prove};

const ALICE: (&str, &str) = ("alice", "wonderland");
const CHANNEL: u16 = 0x4000;
/// What every stream has moved before, during and after the hand-over.
const PUMPED_BYTES: u64 = 300_000;
/// Echoes of each client before, and after, the hand-over.
const ECHOES: usize = 50;

const PORTS: [PortName; 2] = [PortName::IoUring, PortName::Epoll];

/// A settings file with a TURN server for loopback, and its file of users.
fn with_turn(port: PortName, cores: usize, files: &TempDir) -> Settings {
    let users_file = users_file(files.path(), &[("alice", "wonderland")]);
    Settings::new(port, cores)
        .with("turn", "listen = [\"127.0.0.1:0\"]")
        .with("turn", "listen_tcp = [\"127.0.0.1:0\"]")
        .with("turn", "allow_peers = [\"127.0.0.0/8\"]")
        .with("turn", &users_file)
}

fn address(status: &Value, key: &str) -> SocketAddr {
    status[key][0].as_str().unwrap().parse().unwrap()
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(STEP)).unwrap();
    socket
}

/// A client and a peer of it that echoes, over a channel, forth and back.
fn echo_over_channel(
    client: &mut TurnClient,
    peer: &UdpSocket,
    relayed: SocketAddr,
    number: usize,
) {
    let payload = number.to_be_bytes();
    client.send(CHANNEL, &payload).unwrap();
    let mut buffer = [0; 64];
    let (bytes, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..bytes], from), (&payload[..], relayed));
    peer.send_to(&payload, relayed).unwrap();
    let back = client.receive(STEP).unwrap();
    assert_eq!((back.channel, &back.payload[..]), (Some(CHANNEL), &payload[..]));
}

#[test]
fn nobody_is_refused_and_the_old_process_finishes_what_stays() {
    for port in PORTS {
        if !port.is_given() {
            continue;
        }
        let files = TempDir::new().unwrap();
        let mut upgrade = Upgrade::of(&with_turn(port, 2, &files));
        let tcp = address(&upgrade.old.status(), "turn_listen_tcp");
        let mut over_tcp = TurnClient::over_tcp(tcp, ALICE).unwrap();
        over_tcp.allocate().unwrap();
        let (caller, target) = (upgrade.old.node(Profile::P4), upgrade.old.node(Profile::P0));
        let (near, far) = nodes::route(&caller, &target, RouteForm::G2);
        let session = Pump::start("session", near, far);
        Pump::wait_for(&[&session], PUMPED_BYTES);
        let (stop, dialed) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (dialing_at, identity) = (upgrade.old.address, upgrade.old.identity);
        let dial = || {
            while !stop.load(Ordering::SeqCst) {
                // Connects, shakes hands and asks, or panics.
                let key = waystation_peer::secret_key().unwrap();
                let link = waystation_peer::Link::dial(dialing_at, &key, &identity, Profile::P4);
                link.unwrap().ping(STEP).unwrap();
                dialed.fetch_add(1, Ordering::SeqCst);
            }
        };
        let wait_for_dials = |more: usize| {
            let wanted = dialed.load(Ordering::SeqCst) + more;
            eventually("more links", || (dialed.load(Ordering::SeqCst) >= wanted).then_some(()));
        };
        thread::scope(|scope| {
            let dialer = scope.spawn(dial);
            let stop_on_drop = StopOnDrop(&stop);
            wait_for_dials(5);
            let took_over = upgrade.perform();
            wait_for_dials(5);
            drop(stop_on_drop);
            dialer.join().unwrap();
            println!("{}: {took_over}", port.name());
        });
        println!("{}: {dialed:?} links made, none refused", port.name());
        let old = client::get_within(&upgrade.old_socket(), "/v1/status", STEP).unwrap();
        let old: Value = serde_json::from_slice(&old).unwrap();
        assert_eq!(old["readiness"]["state"], "draining");
        assert_eq!(upgrade.old.status()["readiness"]["state"], "ready");
        over_tcp.refresh(0).unwrap();
        drop(over_tcp);
        upgrade.expect_end_of_old();
        // The session has gone on all the while.
        Pump::wait_for(&[&session], PUMPED_BYTES);
        session.finish();
        drop((caller, target));
        let (caller, target) = (upgrade.old.node(Profile::P4), upgrade.old.node(Profile::P4));
        let (near, far) = nodes::route(&caller, &target, RouteForm::G2);
        let session = Pump::start("session", near, far);
        Pump::wait_for(&[&session], PUMPED_BYTES);
        session.finish();
    }
}

#[test]
fn turn_clients_go_on_with_the_next_process_and_lose_nothing() {
    for port in PORTS {
        if !port.is_given() {
            continue;
        }
        let files = TempDir::new().unwrap();
        let mut upgrade = Upgrade::of(&with_turn(port, 2, &files));
        let status = upgrade.old.status();
        let (udp, tcp) = (address(&status, "turn_listen"), address(&status, "turn_listen_tcp"));
        let peer = socket();
        let peer_at = peer.local_addr().unwrap();
        let mut client = TurnClient::over_udp(udp, ALICE).unwrap();
        let relayed = client.allocate().unwrap();
        client.bind(CHANNEL, peer_at).unwrap();
        let mut over_tcp = TurnClient::over_tcp(tcp, ALICE).unwrap();
        let relayed_of_stream = over_tcp.allocate().unwrap();
        over_tcp.bind(CHANNEL, peer_at).unwrap();
        let mut echo = |number: usize| echo_over_channel(&mut client, &peer, relayed, number);
        let [[usual, longest]] = Echoing::across([&mut echo], ECHOES, || _ = upgrade.perform());
        let waited = event(&upgrade.old, "took_over").unwrap()["udp_waited_us"].clone();
        println!(
            "{}: UDP gap {longest:?}, of which datagrams waited {waited} us; {usual:?} before",
            port.name()
        );
        assert_eq!(upgrade.old.total("turn_allocations_open"), 1);
        // Its nonce and its user's quota have come along.
        client.refresh(600).unwrap();
        let mut another = TurnClient::over_udp(udp, ALICE).unwrap();
        another.allocate().unwrap();
        assert_eq!(upgrade.old.total("turn_allocations_open"), 2);
        // The one over TCP is where its connection is.
        echo_over_channel(&mut over_tcp, &peer, relayed_of_stream, 1);
        over_tcp.refresh(0).unwrap();
        drop(over_tcp);
        upgrade.expect_end_of_old();
        TurnClient::over_tcp(tcp, ALICE).unwrap().allocate().unwrap();
    }
}

/// An address of loopback that no other test has ports on.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    IpAddr::from([127, 1 + high % 250, low, NEXT.fetch_add(1, Ordering::Relaxed)])
}

#[test]
fn opaque_sessions_go_on_with_their_tokens_and_lose_nothing() {
    for port in PORTS {
        if !port.is_given() {
            continue;
        }
        let at = own_address();
        let settings = Settings::new(port, 2)
            .with("udp", &format!("addresses = [\"{at}\"]"))
            .with("udp", "allow_peers = [\"127.0.0.0/8\"]");
        let mut upgrade = Upgrade::of(&settings);
        let (a, b) = (socket(), socket());
        let uri = format!("/v1/udp/open?a=learn&b={}", b.local_addr().unwrap());
        let opened = client::post(&upgrade.old.socket, &uri, CLIENT_TIMEOUT).unwrap();
        let opened: Value = serde_json::from_slice(&opened).unwrap();
        let session: UdpSessionTag = opened["session"].as_str().unwrap().parse().unwrap();
        let port_of = |leg: usize| {
            let port = u16::try_from(opened["legs"][leg]["port"].as_u64().unwrap()).unwrap();
            SocketAddr::new(at, port)
        };
        let (to_a, to_b) = (port_of(0), port_of(1));
        let leg = LegName { session, side: Side::A };
        let secret = secret_of(opened["legs"][0]["token"].as_str().unwrap());
        prove_from(&a, to_a, &secret, leg, 1);
        let mut echo = |number: usize| {
            let (payload, mut buffer) = (number.to_be_bytes(), [0; 64]);
            a.send_to(&payload, to_a).unwrap();
            let (bytes, from) = b.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..bytes], from), (&payload[..], to_b));
            b.send_to(&payload, to_b).unwrap();
            let (bytes, from) = a.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..bytes], from), (&payload[..], to_a));
        };
        let [[usual, longest]] = Echoing::across([&mut echo], ECHOES, || _ = upgrade.perform());
        let waited = event(&upgrade.old, "took_over").unwrap()["udp_waited_us"].clone();
        println!(
            "{}: UDP gap {longest:?}, of which datagrams waited {waited} us; {usual:?} before",
            port.name()
        );
        upgrade.expect_end_of_old();
        let row = upgrade.old.document("/v1/udp")["udp"][0].clone();
        assert_eq!(row["session"], opened["session"], "{row}");
        // Its end may move on with the token that it got from the process before.
        let elsewhere = socket();
        prove_from(&elsewhere, to_a, &secret, leg, 2);
        b.send_to(b"moved", to_b).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(elsewhere.recv(&mut buffer).unwrap(), 5);
        let uri = format!("/v1/udp/close?id={session}");
        client::post(&upgrade.old.socket, &uri, CLIENT_TIMEOUT).unwrap();
        // Its ports are free again, so nobody holds them any more.
        eventually("the port is free", || UdpSocket::bind(to_a).ok());
    }
}

/// The secret behind the name of a leg in its token.
fn secret_of(token: &str) -> Secret {
    let digits = &token[2 * LegName::BYTES..];
    let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
    Secret::new(std::array::from_fn(byte))
}

fn prove_from(end: &UdpSocket, to: SocketAddr, secret: &Secret, leg: LegName, counter: u64) {
    end.send_to(&prove(secret, leg, counter), to).unwrap();
    let mut buffer = [0; PROOF_BYTES];
    assert_eq!(end.recv(&mut buffer).unwrap(), PROOF_BYTES);
    assert!(answered(secret, &buffer).is_some_and(|claim| claim.counter == counter));
}

/// A next process made by hand, which stops where the test wants it to.
struct ByHand(UnixStream);

impl ByHand {
    fn connect(appliance: &Appliance) -> Self {
        let stream = UnixStream::connect(with_suffix(&appliance.socket, ".up")).unwrap();
        stream.set_read_timeout(Some(STEP)).unwrap();
        Self(stream)
    }

    fn say(&mut self, message: &Value) {
        let text = message.to_string();
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        self.0.write_all(&[&length[..], &[0; 4], text.as_bytes()].concat()).unwrap();
    }

    fn ask(&mut self, version: u32, identity: &str, cores: usize) {
        let ask = json!({
            "version": version,
            "program": "by hand",
            "identity": identity,
            "cores": cores,
            "drain_ms": 1000,
        });
        self.say(&json!({ "ask": ask }));
    }

    /// Asks, and takes up all that two cores have; from then on datagrams wait for its last word.
    fn take_all(&mut self, identity: &str, before_ready: impl FnOnce()) {
        self.ask(VERSION, identity, 2);
        assert!(self.hear()["offer"].is_object());
        before_ready();
        self.say(&json!("ready"));
        while self.hear()["core"].is_object() {}
        self.say(&json!("prepared"));
        self.hear_links();
        self.say(&json!({ "links_taken": { "all": true } }));
        while self.hear()["core"].is_object() {}
    }

    /// Hears of the links of all cores, however many there are.
    fn hear_links(&mut self) {
        while self.hear()["links"].is_object() {}
    }

    /// The next message; its descriptors are closed by the kernel, as nobody takes them.
    fn hear(&mut self) -> Value {
        /// Descriptors that go with one byte.
        const TOGETHER: usize = 128;
        let mut head = [0; 8];
        self.0.read_exact(&mut head).unwrap();
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap()) as usize;
        let (bytes, descriptors) = (number(0), number(4));
        self.0.read_exact(&mut vec![0; descriptors.div_ceil(TOGETHER)]).unwrap();
        let mut text = vec![0; bytes];
        self.0.read_exact(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

#[test]
fn a_next_process_that_goes_half_way_changes_nothing() {
    PORTS.into_iter().filter(|port| port.is_given()).for_each(go_half_way);
}

fn go_half_way(port: PortName) {
    let files = TempDir::new().unwrap();
    let settings = with_turn(port, 2, &files);
    let appliance = Appliance::start(&settings);
    let (identity, udp) =
        (appliance.identity.to_string(), address(&appliance.status(), "turn_listen"));
    let peer = socket();
    let mut client = TurnClient::over_udp(udp, ALICE).unwrap();
    let relayed = client.allocate().unwrap();
    client.bind(CHANNEL, peer.local_addr().unwrap()).unwrap();
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let (near, far) = nodes::route(&caller, &target, RouteForm::G2);
    let session = Pump::start("session", near, far);
    // It goes before its cores wait, before and after datagrams wait, and without a word it should
    // say.
    for steps in 0..4 {
        let mut by_hand = ByHand::connect(&appliance);
        by_hand.ask(VERSION, &identity, 2);
        assert!(by_hand.hear()["offer"].is_object());
        if steps > 0 {
            by_hand.say(&json!("ready"));
            let told = [by_hand.hear(), by_hand.hear()];
            let allocations = |core: &Value| core["core"]["turn"]["all"].as_u64().unwrap();
            assert_eq!(told.each_ref().map(|it| it["core"]["core"].clone()), [json!(0), json!(1)]);
            assert_eq!(told.iter().map(allocations).sum::<u64>(), 1);
            assert_eq!(by_hand.hear(), "told");
            // It is served on until the next process has taken that up.
            echo_over_channel(&mut client, &peer, relayed, 7);
        }
        if steps > 1 {
            by_hand.say(&json!("prepared"));
            by_hand.hear_links();
            by_hand.say(&json!({ "links_taken": { "all": true } }));
            let changed = [by_hand.hear(), by_hand.hear()];
            // Each is told of as soon as its datagrams wait.
            let cores: BTreeSet<_> =
                changed.iter().map(|it| it["core"]["core"].as_u64().unwrap()).collect();
            assert_eq!(cores, BTreeSet::from([0, 1]));
            for changed in changed {
                assert!(changed["core"]["paused"].is_object(), "{changed}");
                assert_eq!(changed["core"]["turn"]["allocations"], json!([]), "told again");
            }
            assert!(by_hand.hear()["complete"].is_object());
        }
        if steps > 2 {
            by_hand.say(&json!("ready"));
        }
        drop(by_hand);
        let failures = || {
            let lines = appliance.ask("/v1/events").unwrap();
            String::from_utf8(lines).unwrap().matches("hand_over_failed").count()
        };
        eventually("the failure is told", || (failures() == steps + 1).then_some(()));
        for number in 0..5 {
            echo_over_channel(&mut client, &peer, relayed, number);
        }
        client.refresh(600).unwrap();
        appliance.node(Profile::P4);
        assert_eq!(appliance.status()["readiness"]["state"], "ready");
    }
    Pump::wait_for(&[&session], PUMPED_BYTES);
    session.finish();
    // And one that does it right is served after all of them.
    let mut upgrade = Upgrade::from(appliance);
    upgrade.perform();
    echo_over_channel(&mut client, &peer, relayed, 9);
}

#[test]
fn a_drain_begun_before_a_hand_over_that_fails_goes_on_and_serves_who_is_there() {
    let files = TempDir::new().unwrap();
    let appliance = Appliance::start(&with_turn(PortName::Epoll, 2, &files));
    let udp = address(&appliance.status(), "turn_listen");
    let peer = socket();
    let mut client = TurnClient::over_udp(udp, ALICE).unwrap();
    let relayed = client.allocate().unwrap();
    client.bind(CHANNEL, peer.local_addr().unwrap()).unwrap();
    let mut by_hand = ByHand::connect(&appliance);
    by_hand.take_all(&appliance.identity.to_string(), || {
        client::post(&appliance.socket, "/v1/drain?deadline=1h", CLIENT_TIMEOUT).unwrap();
    });
    drop(by_hand);
    eventually("the failure is told", || event(&appliance, "hand_over_failed"));
    for number in 0..5 {
        echo_over_channel(&mut client, &peer, relayed, number);
    }
    assert_eq!(appliance.status()["readiness"]["state"], "draining");
    assert!(TcpStream::connect(appliance.address).is_err(), "it listens again");
}

#[test]
fn a_configuration_that_the_next_process_has_not_read_is_told_of() {
    let files = TempDir::new().unwrap();
    let appliance = Appliance::start(&with_turn(PortName::Epoll, 2, &files));
    let mut by_hand = ByHand::connect(&appliance);
    by_hand.take_all(&appliance.identity.to_string(), || {
        appliance.reload_with(&[("log = \"debug\"", "log = \"info\"")]);
    });
    by_hand.say(&json!("taken"));
    assert_eq!(by_hand.hear(), "yours");
    eventually("that is told", || {
        let log = appliance.process.log();
        log.contains("was to be read again after that process had read it").then_some(())
    });
}

#[test]
fn another_node_version_or_number_of_cores_is_refused_by_name() {
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 2));
    let identity = appliance.identity.to_string();
    let other = waystation_peer::secret_key().unwrap().identity().to_string();
    for (version, identity, cores, why) in [
        (VERSION + 1, &*identity, 2, &*format!("form {}", VERSION + 1)),
        (VERSION, &*other, 2, "it is node"),
        (VERSION, &*identity, 3, "2 data cores"),
    ] {
        let mut by_hand = ByHand::connect(&appliance);
        by_hand.ask(version, identity, cores);
        let refusal = by_hand.hear();
        assert!(refusal["refusal"].as_str().unwrap().contains(why), "{refusal}");
    }
    reconfigure(&appliance, "cores = 2", "cores = 1");
    let mut upgrade = Upgrade::from(appliance);
    let finished = run(&mut upgrade.command());
    assert_eq!(finished.code(), 69, "{}", finished.stderr);
    assert!(finished.complaint().contains("it has 2 data cores"), "{}", finished.stderr);
    assert_eq!(upgrade.old.status()["readiness"]["state"], "ready");
    assert!(upgrade.old.stop().success());
    let finished = run(&mut upgrade.command());
    assert_eq!(finished.code(), 69, "{}", finished.stderr);
    assert!(finished.complaint().contains("nobody hands over"), "{}", finished.stderr);
}

#[test]
fn metrics_and_a2al_listen_on_where_they_did() {
    let settings = Settings::new(PortName::Epoll, 1)
        .with("management", "metrics_listen = \"127.0.0.1:0\"")
        .with("dht", "enabled = true")
        .with("dht", "listen = [\"127.0.0.1:0\"]");
    let mut upgrade = Upgrade::of(&settings);
    let ports = |process: &Process| {
        let log = process.log();
        let line = log.lines().find(|line| line.contains("node of the A2AL DHT")).unwrap();
        line[line.find("127.0.0.1:").unwrap()..].to_owned()
    };
    let before = ports(&upgrade.old.process);
    upgrade.perform();
    assert_eq!(ports(&upgrade.next[0]), before);
    let node: SocketAddr = before.split_whitespace().next().unwrap().parse().unwrap();
    TcpStream::connect_timeout(&node, STEP).unwrap();
    upgrade.expect_end_of_old();
    // The next process can be taken over from too.
    upgrade.perform();
    upgrade.expect_end_of_all_before();
}

//! The A2AL signalling hub through the real process, on loopback as an ordinary user: agents and
//! rooms by the hundred, every message copied as it was, and limits that hold and are counted.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use support::appliance::{Appliance, PortName, Settings};
use support::process::{binary, command, run};
use support::{STEP, eventually};
use tempfile::TempDir;
use waystation_a2al::hub::{SignalFrame, room_id};
use waystation_management::clock;
use waystation_peer::{TurnClient, TurnClientError};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// An appliance with a hub.
struct Hub {
    appliance: Appliance,
    address: SocketAddr,
}

impl Hub {
    fn start(lines: &[&str]) -> Self {
        let settings = Settings::new(PortName::Epoll, 1).quiet();
        let settings = settings.with("hub", "listen = [\"127.0.0.1:0\"]");
        let settings = lines.iter().fold(settings, |settings, line| settings.with("hub", line));
        let appliance = Appliance::start(&settings);
        let hub = appliance.document("/v1/hub")["hub"].clone();
        let address = hub["listen"][0].as_str().unwrap().parse().unwrap();
        Self { appliance, address }
    }

    fn figures(&self) -> Value {
        self.appliance.document("/v1/hub")["hub"].clone()
    }

    /// Waits until a figure, named by its keys, has a value.
    fn expect(&self, keys: &[&str], wanted: u64) {
        let mut last = Value::Null;
        eventually(&format!("{keys:?} is {wanted}"), || {
            last = keys.iter().fold(self.figures(), |value, key| value[key].clone());
            (last == wanted).then_some(())
        });
    }

    fn open(&self, source: u8, target: &str) -> WebSocket {
        match WebSocket::ask(self.address, source, target) {
            Ok(socket) => socket,
            Err(status) => panic!("{target} is answered with {status}"),
        }
    }

    fn refusal(&self, source: u8, target: &str) -> u16 {
        match WebSocket::ask(self.address, source, target) {
            Ok(_) => panic!("{target} is let in"),
            Err(status) => status,
        }
    }

    /// A connection that takes calls for agents.
    fn agents(&self, source: u8, names: &[String]) -> WebSocket {
        let mut signal = self.open(source, "/signal");
        for name in names {
            signal.say(&SignalFrame::Register { agent: name.clone() });
            assert_eq!(signal.frame(), SignalFrame::Acknowledged);
        }
        signal
    }
}

/// A client's end of a WebSocket, as RFC 6455 has it, with blocking calls.
struct WebSocket(TcpStream);

impl WebSocket {
    /// Connects from one of the addresses of loopback; the status if that is not 101, and 0 if the
    /// connection was ended before there was one.
    fn ask(hub: SocketAddr, source: u8, target: &str) -> Result<Self, u16> {
        let descriptor = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let from = SocketAddr::from((Ipv4Addr::new(127, 0, 7, source), 0));
        bind(&descriptor, &from).unwrap();
        connect(&descriptor, &hub).unwrap();
        let mut stream = TcpStream::from(descriptor);
        stream.set_read_timeout(Some(STEP)).unwrap();
        stream.set_write_timeout(Some(STEP)).unwrap();
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: {hub}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: a2al.ice.v1\r\n\r\n"
        );
        // What is turned away may not even be read.
        let _ = stream.write_all(head.as_bytes());
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read_exact(&mut byte) {
                Ok(()) => answer.push(byte[0]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing comes"),
                Err(_ended) => return Err(0),
            }
        }
        let answer = String::from_utf8(answer).unwrap();
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        if status != 101 {
            return Err(status);
        }
        assert!(answer.to_lowercase().contains("sec-websocket-protocol: a2al.ice.v1"), "{answer}");
        Ok(Self(stream))
    }

    fn write(&mut self, kind: u8, payload: &[u8]) -> std::io::Result<()> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![0x80 | kind];
        match u16::try_from(payload.len()).unwrap() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.0.write_all(&frame)
    }

    fn say(&mut self, frame: &SignalFrame) {
        self.write(BINARY, &frame.encode()).unwrap();
    }

    /// The next message; none if the other side has ended.
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut read = |count: usize| -> std::io::Result<Vec<u8>> {
            let mut bytes = vec![0; count];
            self.0.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        let mut message = || {
            let head = read(2)?;
            let length = match head[1] {
                126 => read(2)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
                length => usize::from(length),
            };
            Ok::<_, std::io::Error>((head[0] & 0x0f, read(length)?))
        };
        match message() {
            Ok((CLOSE, _)) => None,
            Ok(message) => Some(message),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing comes"),
            Err(_ended) => None,
        }
    }

    fn frame(&mut self) -> SignalFrame {
        let (kind, bytes) = self.next().expect("a frame");
        assert_eq!(kind, BINARY);
        SignalFrame::decode(&bytes).unwrap()
    }

    /// Waits for the end, past whatever comes before it.
    fn end(mut self) {
        while self.next().is_some() {}
    }
}

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 + seed * 7) as u8).collect()
}

#[test]
fn a_thousand_agents_are_registered_and_two_hundred_pairs_meet() {
    const SOURCES: usize = 8;
    const NAMES_EACH: usize = 5;
    const PAIRS: usize = 200;
    let hub = Hub::start(&[]);
    let name = |number: usize| format!("agent-{number:04}");
    let source = |number: usize| (1 + number % SOURCES) as u8;
    let mut signals: Vec<WebSocket> = (0..PAIRS)
        .map(|pair| {
            let names: Vec<_> =
                (0..NAMES_EACH).map(|index| name(pair * NAMES_EACH + index)).collect();
            hub.agents(source(pair), &names)
        })
        .collect();
    hub.expect(&["registrations"], (PAIRS * NAMES_EACH) as u64);
    let mut rooms: Vec<[WebSocket; 2]> = Vec::new();
    for (pair, signal) in signals.iter_mut().enumerate() {
        let (target, caller) =
            (name(pair * NAMES_EACH + pair % NAMES_EACH), format!("caller-{pair}"));
        let room = room_id(&target, &caller);
        let query = format!("/ice?room={room}&target={target}&caller={caller}");
        let calling = hub.open(source(pair + 1), &query);
        let called = SignalFrame::Incoming { room: room.clone(), caller, target };
        assert_eq!(signal.frame(), called);
        let answering = hub.open(source(pair), &format!("/ice?room={room}"));
        rooms.push([calling, answering]);
    }
    hub.expect(&["rooms_paired"], PAIRS as u64);
    for (number, room) in rooms.iter_mut().enumerate() {
        let [one, other] = room;
        one.write(BINARY, &pattern(number, 200)).unwrap();
        other.write(BINARY, &pattern(number + 1, 333)).unwrap();
    }
    for (number, room) in rooms.iter_mut().enumerate() {
        let [one, other] = room;
        assert_eq!(other.next(), Some((BINARY, pattern(number, 200))));
        assert_eq!(one.next(), Some((BINARY, pattern(number + 1, 333))));
    }
    let [one, other] = &mut rooms[PAIRS / 2];
    for length in [0, 1, 125, 126, 1200, 32 * 1024] {
        one.write(BINARY, &pattern(3, length)).unwrap();
        assert_eq!(other.next(), Some((BINARY, pattern(3, length))));
        other.write(TEXT, &vec![b'x'; length]).unwrap();
        assert_eq!(one.next(), Some((TEXT, vec![b'x'; length])));
    }
    hub.expect(&["totals", "messages"], 2 * PAIRS as u64 + 12);
    hub.expect(&["rooms_paired"], PAIRS as u64);
    let shown = run(command(&binary()).arg("hub").arg("--socket").arg(&hub.appliance.socket));
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("1000 of 65536"), "{shown}");
    let [leaving, left] = rooms.pop().unwrap();
    drop(leaving);
    left.end();
    drop((rooms, signals));
    hub.expect(&["connections"], 0);
    hub.expect(&["registrations"], 0);
    hub.expect(&["sources"], 0);
}

#[test]
fn a_node_of_the_dht_brings_a_hub_to_its_own_port() {
    let settings = Settings::new(PortName::Epoll, 1)
        .with("dht", "enabled = true")
        .with("dht", "listen = [\"127.0.0.1:0\"]");
    let appliance = Appliance::start(&settings);
    let node = appliance.document("/v1/dht")["listen"].clone();
    let address: SocketAddr = node[0].as_str().unwrap().parse().unwrap();
    let hub = Hub { appliance, address };
    assert_eq!(hub.figures()["listen"], node);
    drop(hub.agents(1, &["one".to_owned()]));
    hub.expect(&["totals", "registrations"], 1);

    let without = Appliance::start(&settings.with("hub", "enabled = false"));
    assert_eq!(without.document("/v1/hub")["hub"]["enabled"], false);
}

#[test]
fn every_limit_of_the_hub_holds_and_is_counted() {
    let hub = Hub::start(&[
        "connections_max = 12",
        "connections_per_source_max = 4",
        "registrations_max = 4",
        "registrations_per_connection_max = 2",
        "registrations_per_source_max = 3",
        "rooms_max = 2",
        "waiting_per_source_max = 1",
    ]);
    assert_eq!(hub.refusal(1, "/ice"), 400);
    assert_eq!(hub.refusal(1, "/other"), 404);
    hub.expect(&["refused", "bad_request"], 2);
    hub.expect(&["connections"], 0);

    // Names: of a connection, of a source, in all. What is over is not acknowledged, so the question
    // behind it is what is answered next.
    let asked = |signal: &mut WebSocket, names: &[&str], acknowledged: usize| {
        for name in names {
            signal.say(&SignalFrame::Register { agent: (*name).to_owned() });
        }
        for _ in 0..acknowledged {
            assert_eq!(signal.frame(), SignalFrame::Acknowledged);
        }
    };
    let mut signals = [hub.open(1, "/signal"), hub.open(1, "/signal"), hub.open(2, "/signal")];
    asked(&mut signals[0], &["a", "b", "c"], 2);
    hub.expect(&["ignored", "registrations_of_connection"], 1);
    asked(&mut signals[1], &["d", "e"], 1);
    hub.expect(&["ignored", "registrations_of_source"], 1);
    asked(&mut signals[2], &["f", "g"], 1);
    hub.expect(&["ignored", "registrations"], 1);
    signals[2].write(BINARY, b"junk").unwrap();
    hub.expect(&["ignored", "frame"], 1);

    // Connections: of a source and in all.
    let held = [hub.open(1, "/signal"), hub.open(1, "/signal")];
    hub.refusal(1, "/signal");
    hub.expect(&["refused", "connections_of_source"], 1);
    let others = [2, 2, 2, 3, 3, 3, 3];
    let more = others.map(|source| hub.open(source, "/signal"));
    hub.refusal(4, "/signal");
    hub.expect(&["refused", "connections"], 1);
    drop((held, more));
    hub.expect(&["connections"], 3);

    // Rooms: those in which a source waits, and in all.
    let mut first = hub.open(3, "/ice?room=1");
    assert_eq!(hub.refusal(3, "/ice?room=2"), 429);
    hub.expect(&["refused", "waiting_of_source"], 1);
    let waiting = hub.open(4, "/ice?room=2");
    assert_eq!(hub.refusal(5, "/ice?room=3"), 503);
    hub.expect(&["refused", "rooms"], 1);
    let mut second = hub.open(5, "/ice?room=1");
    hub.open(6, "/ice?room=1").end();
    hub.expect(&["closed", "room_taken"], 1);
    drop(waiting);
    hub.expect(&["rooms_waiting"], 0);
    let mut nobody = hub.open(6, "/ice?room=3&target=nobody&caller=x");
    assert_eq!(nobody.frame(), SignalFrame::NoAgent);
    nobody.end();
    hub.expect(&["closed", "no_agent"], 1);

    // In a room: a message that is too long, and more of them than there may be.
    first.write(BINARY, b"hello").unwrap();
    assert_eq!(second.next(), Some((BINARY, b"hello".to_vec())));
    second.write(BINARY, &vec![0; 33_000]).unwrap();
    second.end();
    first.end();
    hub.expect(&["closed", "other_left"], 1);
    let (mut first, second) = (hub.open(3, "/ice?room=1"), hub.open(5, "/ice?room=1"));
    let flood = (0..4000).take_while(|_| first.write(BINARY, b"x").is_ok()).count();
    assert!(flood > 500, "{flood}");
    second.end();
    hub.expect(&["closed", "too_fast"], 1);
    let mut early = hub.open(3, "/ice?room=1");
    let written = (0..1000).take_while(|_| early.write(BINARY, b"x").is_ok()).count();
    assert!(written > 100, "{written}");
    hub.expect(&["closed", "too_much_early"], 1);
}

#[test]
fn limits_of_the_hub_change_with_a_reload() {
    let hub = Hub::start(&["registrations_max = 1"]);
    let mut signal = hub.agents(1, &["one".to_owned()]);
    signal.say(&SignalFrame::Register { agent: "two".to_owned() });
    hub.expect(&["ignored", "registrations"], 1);
    let file = hub.appliance.directory.path().join("waystation.toml");
    let text = fs::read_to_string(&file)
        .unwrap()
        .replace("registrations_max = 1", "registrations_max = 2");
    fs::write(&file, text).unwrap();
    hub.appliance.process.signal(Signal::HUP);
    hub.expect(&["registrations_max"], 2);
    signal.say(&SignalFrame::Register { agent: "two".to_owned() });
    assert_eq!(signal.frame(), SignalFrame::Acknowledged);
    hub.expect(&["registrations"], 2);
}

/// What a daemon of A2AL makes of a shared secret (specification of A2AL, section 19.5).
fn daemon_credentials(secret: &str, user: &str) -> (String, String) {
    let expiry_s = clock::now().unix_ms() / 1000 + 3600;
    let name = format!("{expiry_s}:{user}");
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    let password = STANDARD.encode(hmac::sign(&key, name.as_bytes()));
    (name, password)
}

#[test]
fn a_daemon_with_the_shared_secret_gets_a_relayed_address() {
    let files = TempDir::new().unwrap();
    let secrets = files.path().join("secrets");
    fs::write(&secrets, "north star\n").unwrap();
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    let settings = Settings::new(PortName::Epoll, 1)
        .with("turn", "listen = [\"127.0.0.1:0\"]")
        .with("turn", &format!("secrets_file = \"{}\"", secrets.display()));
    let appliance = Appliance::start(&settings);
    let server = appliance.status()["turn_listen"][0].as_str().unwrap().parse().unwrap();
    let (name, password) = daemon_credentials("north star", "a2al");
    let mut client = TurnClient::over_udp(server, (&name, &password)).unwrap();
    // STUN is at the same port, for everybody.
    assert_eq!(client.binding().unwrap().port(), client.local().unwrap().port());
    client.allocate().unwrap();
    let (name, password) = daemon_credentials("another star", "a2al");
    let mut client = TurnClient::over_udp(server, (&name, &password)).unwrap();
    let refused = client.allocate();
    assert!(matches!(refused, Err(TurnClientError::Refused { code: 401, .. })), "{refused:?}");
}

//! STUN messages, streams of them, and a TURN server between clients and peers.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use waystation_turn::attribute::AttributeType;
use waystation_turn::credentials::Credentials;
use waystation_turn::integrity::{Integrity, Key, PasswordAlgorithm, verify_with};
use waystation_turn::limits::{ANSWER_BYTES_MAX, ATTRIBUTES_MAX};
use waystation_turn::message::{Class, Message, Method, TransactionId};
use waystation_turn::server::{Change, Host, Now, Outcome, RelayedRange, Server, ServerConfig};
use waystation_turn::stream::{first_message, message_bytes};
use waystation_turn::transport::{FiveTuple, Transport};
use waystation_turn::writer::MessageWriter;

use crate::segments::segmentations;

const REALM: &str = "example.org";
const SECOND_NS: u64 = 1_000_000_000;

/// Reads the input as a STUN message and writes what counts of it again.
pub fn stun_message(input: &[u8]) {
    let Ok(message) = Message::parse(input) else {
        return;
    };
    let count = message.attributes().count();
    assert!(count <= ATTRIBUTES_MAX);
    let mut buffer = vec![0xa5; input.len() + 64];
    let (class, method) = (message.class(), message.method());
    let mut writer = MessageWriter::new(&mut buffer, class, method, message.transaction());
    for attribute in message.attributes() {
        assert!(attribute.offset + 4 + attribute.value.len() <= input.len());
        writer.attribute(attribute.kind, attribute.value);
    }
    let is_closed = count + 2 <= ATTRIBUTES_MAX;
    if is_closed {
        writer.integrity(Integrity::Sha256, b"key").fingerprint();
    }
    let end = writer.finish().expect("room for what was read and what closes it");
    let written = buffer.get(..end).unwrap_or_default();
    let again = Message::parse(written).expect("what is written can be read");
    assert_eq!((again.class(), again.method()), (class, method));
    assert_eq!(again.transaction(), message.transaction());
    let kinds = |message: &Message<'_>| {
        message.attributes().map(|found| (found.kind, found.value.to_vec())).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&again), kinds(&message));
    assert_eq!(verify_with(&again, b"key"), is_closed.then_some(Integrity::Sha256));
    assert_eq!(again.has_fingerprint(), is_closed);
}

/// Cuts the input into messages, in every segmentation alike.
pub fn turn_stream(input: &[u8]) {
    let mut found = segmentations(input).map(|segments| cut(&segments)).into_iter();
    let whole = found.next().expect("the input in one piece");
    assert!(found.all(|other| other == whole), "a segmentation changes what is found");
}

/// The messages of a stream, and whether it was refused in the end.
fn cut(segments: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let (mut messages, mut arrived) = (Vec::new(), Vec::new());
    for segment in segments {
        arrived.extend_from_slice(segment);
        loop {
            match first_message(&arrived) {
                Ok(Some(first)) => {
                    assert_eq!(message_bytes(&arrived), Ok(Some(first.len())));
                    messages.push(first.to_vec());
                    arrived.drain(..first.len());
                }
                Ok(None) => break,
                Err(_) => return (messages, true),
            }
        }
    }
    (messages, false)
}

/// Lets clients that can authenticate themselves, strangers, peers and time act on a server, as the
/// input says: each step is a byte that chooses and, for requests, attributes of any kind.
pub fn turn_server(input: &[u8]) {
    let mut world = World::new();
    let mut rest = input;
    while let Some((&choice, behind)) = rest.split_first() {
        let (bytes, behind) = behind.split_at(behind.len().min(usize::from(choice >> 3)));
        world.step(choice & 7, bytes);
        rest = behind;
    }
    world.end();
}

/// Remembers what it is told, and checks that everything that ends has begun.
#[derive(Debug, Default)]
struct Mirror {
    open: BTreeSet<SocketAddr>,
    allocated: BTreeSet<SocketAddr>,
    permitted: BTreeSet<(SocketAddr, IpAddr)>,
    paths: BTreeSet<waystation_turn::server::Path>,
    paused: BTreeSet<waystation_turn::server::Path>,
    random: u8,
}

impl Host for Mirror {
    fn fill_random(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.random = self.random.wrapping_mul(73).wrapping_add(41);
            *byte = self.random;
        }
    }

    fn admits_peer(&mut self, _username: &str, peer: IpAddr) -> bool {
        !peer.is_loopback()
    }

    fn open_relayed(&mut self, address: SocketAddr) -> bool {
        self.open.insert(address)
    }

    fn close_relayed(&mut self, address: SocketAddr) {
        assert!(self.open.remove(&address) && !self.allocated.contains(&address));
    }

    fn changed(&mut self, change: &Change<'_>) {
        let is_change = match *change {
            Change::Allocated { relayed, .. } => self.allocated.insert(relayed),
            Change::Ended { relayed, .. } => self.allocated.remove(&relayed),
            Change::Permitted { relayed, peer, .. } => self.permitted.insert((relayed, peer)),
            Change::Forbidden { relayed, peer, .. } => self.permitted.remove(&(relayed, peer)),
            Change::Bound(path) => self.paths.insert(path),
            Change::Paused(path) => self.paths.contains(&path) && self.paused.insert(path),
            Change::Resumed(path) => self.paused.remove(&path),
            Change::Unbound(path) => {
                self.paused.remove(&path);
                self.paths.remove(&path)
            }
        };
        assert!(is_change, "{change:?} changes nothing");
    }
}

struct World {
    server: Server,
    mirror: Mirror,
    now: Now,
    answer: [u8; ANSWER_BYTES_MAX],
    tuple: FiveTuple,
    nonce: Vec<u8>,
    key: Key,
    requests: u8,
}

impl World {
    fn new() -> Self {
        let relayed = ["192.0.2.15", "2001:db8::15"]
            .map(|ip| RelayedRange { ip: ip.parse().expect("an address"), ports: 50_000..=50_009 });
        let mut config = ServerConfig::new(relayed.to_vec());
        config.stranger_replies_burst = 1000;
        config.allocations_max = 8;
        (config.permissions_max, config.channels_max) = (4, 3);
        let mut credentials = Credentials::new(REALM).expect("a realm");
        credentials.add_user("alice", b"wonderland").expect("a user");
        let server = Server::new(config, Arc::new(credentials), &[42; 32]).expect("a server");
        let tuple = FiveTuple {
            transport: Transport::Udp,
            client: SocketAddr::from(([198, 51, 100, 2], 1000)),
            server: SocketAddr::from(([192, 0, 2, 15], 3478)),
        };
        let mut world = Self {
            server,
            mirror: Mirror::default(),
            now: Now { monotonic_ns: SECOND_NS, unix_s: 1_700_000_000 },
            answer: [0; ANSWER_BYTES_MAX],
            tuple,
            nonce: Vec::new(),
            key: Key::long_term(PasswordAlgorithm::Md5, "alice", REALM, b"wonderland"),
            requests: 0,
        };
        world.request(Method::ALLOCATE, &[]);
        world
    }

    fn step(&mut self, choice: u8, bytes: &[u8]) {
        let first = bytes.first().copied().unwrap_or_default();
        match choice {
            0 => self.request(Method::ALLOCATE, bytes),
            1 => self.request(Method::REFRESH, bytes),
            2 => self.request(Method::CREATE_PERMISSION, bytes),
            3 => self.request(Method::CHANNEL_BIND, bytes),
            4 => {
                // As it is, from a client that may have an allocation.
                self.receive(bytes);
            }
            5 => self.stranger(bytes),
            6 => self.receive_from_peers(first),
            _ => self.pass(u64::from(first) * 4, bytes.len().is_multiple_of(2)),
        }
    }

    /// A request with the input's attributes, which are as valid as the input makes them, and then
    /// what authenticates it.
    fn request(&mut self, method: Method, attributes: &[u8]) {
        self.requests = self.requests.wrapping_add(1);
        let mut buffer = [0; 1024];
        let name = TransactionId([self.requests; 12]);
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, name);
        for attribute in attributes.chunks(12) {
            if let [kind, length, value @ ..] = attribute {
                let value = value.get(..usize::from(length % 12)).unwrap_or(value);
                let optional = if kind & 0x80 == 0 { 0 } else { 0x8000 };
                writer.attribute(AttributeType(optional | u16::from(kind & 0x7f)), value);
            }
        }
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        writer.attribute(AttributeType::USERNAME, b"alice");
        writer.attribute(AttributeType::REALM, REALM.as_bytes());
        writer.attribute(AttributeType::NONCE, &self.nonce);
        let end = writer.integrity(Integrity::Sha1, self.key.expose_secret()).finish();
        let packet = buffer.get(..end.unwrap_or_default()).unwrap_or_default();
        let Outcome::Answer { bytes, .. } = self.receive(packet) else {
            return;
        };
        let answer = self.answer;
        let answer = Message::parse(answer.get(..bytes).unwrap_or_default());
        let answer = answer.expect("an answer is a message");
        assert_eq!((answer.method(), answer.transaction()), (method, name));
        if let Some(nonce) = answer.attribute(AttributeType::NONCE) {
            self.nonce = nonce.to_vec();
        } else if answer.has_integrity() {
            assert!(verify_with(&answer, self.key.expose_secret()).is_some());
        }
    }

    fn receive(&mut self, packet: &[u8]) -> Outcome {
        let tuple = self.tuple;
        let outcome =
            self.server.receive(self.now, &tuple, packet, &mut self.answer, &mut self.mirror);
        if let Outcome::Relay(to_peer) = &outcome {
            assert!(packet.get(to_peer.payload.clone()).is_some());
            assert!(self.mirror.allocated.contains(&to_peer.relayed));
            assert_eq!(to_peer.relayed.is_ipv4(), to_peer.peer.is_ipv4());
        }
        outcome
    }

    fn stranger(&mut self, packet: &[u8]) {
        let before = self.server.allocations_len();
        let client = SocketAddr::from(([198, 51, 100, 3], 1000));
        let tuple = FiveTuple { client, ..self.tuple };
        let outcome =
            self.server.receive(self.now, &tuple, packet, &mut self.answer, &mut self.mirror);
        assert!(!matches!(outcome, Outcome::Relay(_)));
        assert_eq!(self.server.allocations_len(), before);
    }

    /// A datagram to each address from a peer, whose permission is all that counts.
    fn receive_from_peers(&self, host: u8) {
        let peer = SocketAddr::from(([203, 0, 113, host], 7));
        for relayed in &self.mirror.allocated {
            let received = self.server.receive_from_peer(self.now, *relayed, peer, 9);
            if received.is_ok() {
                assert!(self.mirror.permitted.contains(&(*relayed, peer.ip())));
            }
        }
    }

    fn pass(&mut self, seconds: u64, with_timer: bool) {
        self.now.monotonic_ns += seconds * SECOND_NS;
        self.now.unix_s += seconds;
        while with_timer
            && self.server.next_deadline_ns().is_some_and(|at| at <= self.now.monotonic_ns)
        {
            self.server.expire(self.now.monotonic_ns, &mut self.mirror);
        }
    }

    fn end(mut self) {
        let paths: BTreeSet<_> = self.server.paths().map(|(path, _)| path).collect();
        assert_eq!(paths, self.mirror.paths);
        self.pass(4000, true);
        assert_eq!(self.server.allocations_len(), 0);
        let Mirror { open, allocated, permitted, paths, paused, .. } = self.mirror;
        assert!(open.is_empty() && allocated.is_empty() && permitted.is_empty());
        assert!(paths.is_empty() && paused.is_empty());
    }
}

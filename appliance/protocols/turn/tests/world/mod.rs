//! A server with clients around it, for the tests: a host that remembers what it is told, and
//! clients that authenticate themselves as real ones do.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use waystation_turn::attribute::{AttributeType, ErrorCode, error_number, xor_address};
use waystation_turn::credentials::Credentials;
use waystation_turn::discard::Discard;
use waystation_turn::integrity::{Integrity, Key, PasswordAlgorithm, userhash, verify};
use waystation_turn::limits::ANSWER_BYTES_MAX;
use waystation_turn::message::{Class, Message, Method, TransactionId};
use waystation_turn::nonce::SecurityFeatures;
use waystation_turn::server::{
    Change, Host, Now, Outcome, Path, RelayedRange, Server, ServerConfig,
};
use waystation_turn::transport::{FiveTuple, Transport};
use waystation_turn::writer::MessageWriter;

pub(crate) const REALM: &str = "example.org";
pub(crate) const SECOND_NS: u64 = 1_000_000_000;
/// When the tests begin.
pub(crate) const START: Now = Now { monotonic_ns: 1000 * SECOND_NS, unix_s: 1_700_000_000 };
/// The relayed addresses of IPv4 and of IPv6.
pub(crate) const RELAYED_IPV4: [u8; 4] = [192, 0, 2, 15];
pub(crate) const RELAYED_IPV6: &str = "2001:db8:15::15";

/// A host that admits every peer but those it is told not to, and mirrors what it is told.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) refused: BTreeSet<IpAddr>,
    /// Ports that others use.
    pub(crate) in_use: BTreeSet<u16>,
    pub(crate) open: BTreeSet<SocketAddr>,
    pub(crate) permitted: BTreeSet<(SocketAddr, IpAddr)>,
    /// Bound paths, and whether they are paused.
    pub(crate) paths: BTreeMap<Path, bool>,
    pub(crate) allocated: BTreeSet<SocketAddr>,
    random: u64,
}

impl Recorder {
    /// Draws other random values than others do.
    pub(crate) fn begin_random_at(&mut self, state: u64) {
        self.random = state;
    }
}

impl Host for Recorder {
    fn fill_random(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = self.random.to_be_bytes()[0];
        }
    }

    fn admits_peer(&mut self, _username: &str, peer: IpAddr) -> bool {
        !self.refused.contains(&peer)
    }

    fn open_relayed(&mut self, address: SocketAddr) -> bool {
        !self.in_use.contains(&address.port()) && self.open.insert(address)
    }

    fn close_relayed(&mut self, address: SocketAddr) {
        assert!(self.open.remove(&address), "{address} is closed and was not open");
        assert!(!self.allocated.contains(&address), "{address} is closed before it ended");
        assert!(self.permitted.iter().all(|(relayed, _)| *relayed != address));
        assert!(self.paths.keys().all(|path| path.relayed != address));
    }

    fn changed(&mut self, change: &Change<'_>) {
        let is_new = match *change {
            Change::Allocated { relayed, .. } => self.allocated.insert(relayed),
            Change::Ended { relayed, .. } => self.allocated.remove(&relayed),
            Change::Permitted { relayed, peer, .. } => self.permitted.insert((relayed, peer)),
            Change::Forbidden { relayed, peer, .. } => self.permitted.remove(&(relayed, peer)),
            Change::Bound(path) => self.paths.insert(path, false).is_none(),
            Change::Paused(path) => self.paths.insert(path, true) == Some(false),
            Change::Resumed(path) => self.paths.insert(path, false) == Some(true),
            Change::Unbound(path) => self.paths.remove(&path).is_some(),
        };
        assert!(is_new, "{change:?} changes nothing");
    }
}

/// A server, its host, and the time.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) host: Recorder,
    pub(crate) now: Now,
    pub(crate) answer: [u8; ANSWER_BYTES_MAX],
}

pub(crate) fn config() -> ServerConfig {
    let range = |ip: IpAddr| RelayedRange { ip, ports: 49_152..=49_999 };
    let relayed = vec![range(RELAYED_IPV4.into()), range(RELAYED_IPV6.parse().unwrap())];
    let mut config = ServerConfig::new(relayed);
    config.software = Some("a relay".into());
    config
}

pub(crate) fn credentials() -> Credentials {
    let mut credentials = Credentials::new(REALM).unwrap();
    credentials.add_user("alice", b"wonderland").unwrap();
    credentials.add_user("bob", b"builder").unwrap();
    credentials
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(config(), credentials())
    }

    pub(crate) fn with(config: ServerConfig, credentials: Credentials) -> Self {
        Self {
            server: Server::new(config, Arc::new(credentials), &[42; 32]).unwrap(),
            host: Recorder::default(),
            now: START,
            answer: [0xa5; ANSWER_BYTES_MAX],
        }
    }

    pub(crate) fn receive(&mut self, tuple: &FiveTuple, packet: &[u8]) -> Outcome {
        self.server.receive(self.now, tuple, packet, &mut self.answer, &mut self.host)
    }

    /// The answer to a packet.
    pub(crate) fn answer(&mut self, tuple: &FiveTuple, packet: &[u8]) -> Vec<u8> {
        match self.receive(tuple, packet) {
            Outcome::Answer { bytes, .. } => self.answer[..bytes].to_vec(),
            other => panic!("{other:?} instead of an answer"),
        }
    }

    /// Lets time go by, with the timer as often as it asks for.
    pub(crate) fn pass_s(&mut self, seconds: u64) {
        let end_ns = self.now.monotonic_ns + seconds * SECOND_NS;
        while let Some(deadline_ns) = self.server.next_deadline_ns().filter(|at| *at <= end_ns) {
            self.server.expire(deadline_ns, &mut self.host);
        }
        self.skip_s(seconds);
    }

    /// Lets time go by without the timer.
    pub(crate) fn skip_s(&mut self, seconds: u64) {
        self.now.monotonic_ns += seconds * SECOND_NS;
        self.now.unix_s += seconds;
    }

    pub(crate) fn discarded(&mut self, tuple: &FiveTuple, packet: &[u8]) -> Discard {
        match self.receive(tuple, packet) {
            Outcome::Discard(reason) => reason,
            other => panic!("{other:?} instead of nothing"),
        }
    }
}

pub(crate) fn tuple(port: u16) -> FiveTuple {
    FiveTuple {
        transport: Transport::Udp,
        client: SocketAddr::from(([198, 51, 100, 2], port)),
        server: SocketAddr::from((RELAYED_IPV4, 3478)),
    }
}

/// A client with an address and a user.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) tuple: FiveTuple,
    pub(crate) username: String,
    pub(crate) password: Vec<u8>,
    /// What it answers challenges with.
    pub(crate) style: Style,
    pub(crate) nonce: Vec<u8>,
    pub(crate) transactions: u64,
}

/// How new a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Knows no password algorithms: RFC 5389.
    Old,
    /// Chooses SHA-256, and sends hashes of names if asked to: RFC 8489.
    New,
}

/// What a client was told.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
}

impl Reply {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).unwrap()
    }

    pub(crate) fn error(&self) -> Option<u16> {
        let message = self.message();
        (message.class() == Class::Error)
            .then(|| error_number(message.attribute(AttributeType::ERROR_CODE).unwrap()).unwrap())
    }

    pub(crate) fn addresses(&self, kind: AttributeType) -> Vec<SocketAddr> {
        let message = self.message();
        let found = message.attributes().filter(|attribute| attribute.kind == kind);
        found.map(|found| xor_address(found.value, message.transaction()).unwrap()).collect()
    }

    pub(crate) fn relayed(&self) -> Vec<SocketAddr> {
        self.addresses(AttributeType::XOR_RELAYED_ADDRESS)
    }

    pub(crate) fn number(&self, kind: AttributeType) -> Option<u32> {
        let value = self.message().attribute(kind)?;
        Some(u32::from_be_bytes(value.try_into().unwrap()))
    }

    pub(crate) fn lifetime_s(&self) -> Option<u32> {
        self.number(AttributeType::LIFETIME)
    }

    pub(crate) fn expect_error(&self, code: ErrorCode) {
        assert_eq!(self.error(), Some(code.number()));
    }

    pub(crate) fn expect_success(&self) {
        assert_eq!(self.error(), None);
    }
}

pub(crate) fn client(port: u16) -> Client {
    Client::new(tuple(port), "alice", b"wonderland")
}

impl Client {
    pub(crate) fn new(tuple: FiveTuple, username: &str, password: &[u8]) -> Self {
        Self {
            tuple,
            username: username.into(),
            password: password.into(),
            style: Style::New,
            nonce: Vec::new(),
            transactions: 0,
        }
    }

    pub(crate) fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    pub(crate) fn set_nonce(&mut self, nonce: &[u8]) {
        self.nonce = nonce.to_vec();
    }

    pub(crate) fn key(&self) -> Key {
        let algorithm = match self.style {
            Style::Old => PasswordAlgorithm::Md5,
            Style::New => PasswordAlgorithm::Sha256,
        };
        Key::long_term(algorithm, &self.username, REALM, &self.password)
    }

    fn integrity(&self) -> Integrity {
        match self.style {
            Style::Old => Integrity::Sha1,
            Style::New => Integrity::Sha256,
        }
    }

    pub(crate) fn next_transaction(&mut self) -> TransactionId {
        self.transactions += 1;
        let mut name = [0; 12];
        name[..2].copy_from_slice(&self.tuple.client.port().to_be_bytes());
        name[4..].copy_from_slice(&self.transactions.to_be_bytes());
        TransactionId(name)
    }

    /// A request without any authentication.
    pub(crate) fn bare(
        &mut self,
        method: Method,
        fill: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let transaction = self.next_transaction();
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, transaction);
        fill(&mut writer);
        let end = writer.finish().unwrap();
        buffer[..end].to_vec()
    }

    /// A request that is authenticated with the last nonce.
    pub(crate) fn sealed(
        &mut self,
        method: Method,
        fill: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let transaction = self.next_transaction();
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, transaction);
        fill(&mut writer);
        let features = SecurityFeatures::of_nonce(&self.nonce).unwrap_or_default();
        let anonymous = features.username_anonymity && self.style == Style::New;
        if anonymous {
            writer.attribute(AttributeType::USERHASH, &userhash(&self.username, REALM));
        } else {
            writer.attribute(AttributeType::USERNAME, self.username.as_bytes());
        }
        writer.attribute(AttributeType::REALM, REALM.as_bytes());
        writer.attribute(AttributeType::NONCE, &self.nonce);
        if self.style == Style::New {
            writer.attribute(AttributeType::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0]);
            writer.attribute(AttributeType::PASSWORD_ALGORITHM, &[0, 2, 0, 0]);
        }
        writer.integrity(self.integrity(), self.key().expose_secret());
        let end = writer.finish().unwrap();
        buffer[..end].to_vec()
    }

    /// Sends a request as real clients do: anew with the nonce of a challenge, once. Checks that
    /// the answer is closed as the request was.
    pub(crate) fn request(
        &mut self,
        world: &mut World,
        method: Method,
        fill: impl Fn(&mut MessageWriter<'_>),
    ) -> Reply {
        for _ in 0..2 {
            let packet = if self.nonce.is_empty() {
                self.bare(method, &fill)
            } else {
                self.sealed(method, &fill)
            };
            let reply = self.send(world, &packet);
            let is_challenge = matches!(reply.error(), Some(401 | 438));
            let message = reply.message();
            let nonce = message.attribute(AttributeType::NONCE);
            match nonce {
                Some(nonce) if is_challenge && nonce != self.nonce => {
                    self.nonce = nonce.to_vec();
                }
                _ => {
                    if !is_challenge {
                        assert_eq!(verify(&message, &self.key()), Some(self.integrity()));
                    }
                    return reply;
                }
            }
        }
        let packet = self.sealed(method, &fill);
        self.send(world, &packet)
    }

    pub(crate) fn send(&self, world: &mut World, packet: &[u8]) -> Reply {
        Reply { bytes: world.answer(&self.tuple, packet) }
    }

    pub(crate) fn allocate_with(
        &mut self,
        world: &mut World,
        fill: impl Fn(&mut MessageWriter<'_>),
    ) -> Reply {
        self.request(world, Method::ALLOCATE, |writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            fill(writer);
        })
    }

    /// Gets an allocation with one IPv4 address.
    pub(crate) fn allocate(&mut self, world: &mut World) -> SocketAddr {
        let reply = self.allocate_with(world, |_| {});
        reply.expect_success();
        reply.relayed()[0]
    }

    pub(crate) fn refresh(&mut self, world: &mut World, lifetime_s: Option<u32>) -> Reply {
        self.request(world, Method::REFRESH, |writer| {
            if let Some(lifetime_s) = lifetime_s {
                writer.number(AttributeType::LIFETIME, lifetime_s);
            }
        })
    }

    pub(crate) fn permit(&mut self, world: &mut World, peers: &[SocketAddr]) -> Reply {
        self.request(world, Method::CREATE_PERMISSION, |writer| {
            for peer in peers {
                writer.xor_address(AttributeType::XOR_PEER_ADDRESS, *peer);
            }
        })
    }

    pub(crate) fn bind(&mut self, world: &mut World, number: u16, peer: SocketAddr) -> Reply {
        self.request(world, Method::CHANNEL_BIND, |writer| {
            writer.number(AttributeType::CHANNEL_NUMBER, u32::from(number) << 16);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })
    }

    /// A Send indication.
    pub(crate) fn indication(&mut self, peer: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let transaction = self.next_transaction();
        let mut writer =
            MessageWriter::new(&mut buffer, Class::Indication, Method::SEND, transaction);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        let end = writer.attribute(AttributeType::DATA, payload).finish().unwrap();
        buffer[..end].to_vec()
    }
}

/// A ChannelData message.
pub(crate) fn channel_data(number: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [&number.to_be_bytes()[..], &length.to_be_bytes(), payload].concat()
}

pub(crate) fn peer(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, host], port))
}

//! What WireGuard packets and proofs look like from outside, and a table of UDP sessions between
//! ends, strangers and time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use waystation_relay::address_policy::AddressPolicy;
use waystation_relay::ids::{CoreId, UdpSessionTag};
use waystation_relay::limits::UDP_SESSIONS_MAX;
use waystation_relay::udp::proof::{self, LegName, Secret};
use waystation_relay::udp::wireguard::{Mac1Key, Message, PeerIndex, PublicKey, classify};
use waystation_relay::udp::{
    Event, Learning, LegSettings, LocalPort, Outcome, Protocol, RateLimit, Sessions, Settings, Side,
};

const KEYS: [PublicKey; 2] = [PublicKey([0xa1; 32]), PublicKey([0xb2; 32])];
const SECOND_NS: u64 = 1_000_000_000;

/// Recognises the input as a packet of WireGuard by a table, and as the table session's owner does.
pub fn wireguard_packet(input: &[u8]) {
    let found = classify(input);
    let index_at = |at: usize| {
        let bytes = input.get(at..at + 4).unwrap_or_default();
        PeerIndex(bytes.iter().rev().fold(0, |index, byte| index << 8 | u32::from(*byte)))
    };
    let (near, far) = (index_at(4), index_at(8));
    let expected = match (input.get(..4), input.len()) {
        (Some([1, 0, 0, 0]), 148) => Some(Message::Initiation { sender: near }),
        (Some([2, 0, 0, 0]), 92) => Some(Message::Response { sender: near, receiver: far }),
        (Some([3, 0, 0, 0]), 64) => Some(Message::CookieReply { receiver: near }),
        (Some([4, 0, 0, 0]), 32..) => Some(Message::Transport { receiver: near }),
        _ => None,
    };
    assert_eq!(found, expected);
    let is_handshake = matches!(found, Some(Message::Initiation { .. } | Message::Response { .. }));
    for key in &KEYS {
        let key = Mac1Key::new(key);
        let mut signed = input.to_vec();
        key.sign(&mut signed);
        assert_eq!(signed.len(), input.len());
        assert!(!is_handshake || key.verifies(&signed));
        let changed = signed.iter().zip(input).filter(|(one, two)| one != two).count();
        assert!(changed <= 16);
    }
    let secret = Secret::new([7; 32]);
    if let Some(claim) = proof::claim(input) {
        assert!(found.is_none(), "a proof that passes as WireGuard");
        let genuine = proof::prove(&secret, claim.leg, claim.counter);
        assert_eq!(proof::is_proven(&secret, input), genuine == *input);
    }
    if let Some(claim) = proof::answered(&secret, input) {
        assert_eq!(proof::answer(&secret, &claim), *input);
    }
}

/// Lets ends, strangers, the operator and time act on a table, as the input says: a step is a byte
/// that chooses, one that says who and where, and up to two indices.
pub fn udp_sessions(input: &[u8]) {
    let mut world = World::new();
    let mut rest = input;
    while let Some((step, behind)) = rest.split_first_chunk::<4>() {
        world.step(*step);
        world.check();
        rest = behind;
    }
    world.end();
}

/// What somebody knows who only hears the events.
#[derive(Debug, Default)]
struct Mirror {
    legs: BTreeMap<UdpSessionTag, [Option<SocketAddr>; 2]>,
}

impl Mirror {
    fn take(&mut self, event: &Event, opened_with: [Option<SocketAddr>; 2]) {
        match *event {
            Event::Opened { session } => {
                assert!(self.legs.insert(session, opened_with).is_none(), "opened twice");
            }
            Event::Learned { session, side, address, .. } => {
                assert_eq!(self.leg(session, side).replace(address), None);
            }
            Event::Rebound { session, side, from, to, .. } => {
                assert_ne!(from, to);
                assert_eq!(self.leg(session, side).replace(to), Some(from));
            }
            Event::Lapsed { session, side, address } => {
                assert_eq!(self.leg(session, side).take(), Some(address));
            }
            Event::Changed { session } => assert!(self.legs.contains_key(&session)),
            Event::Expired { session } | Event::Closed { session, .. } => {
                assert!(self.legs.remove(&session).is_some(), "ended without having begun");
            }
        }
    }

    fn leg(&mut self, session: UdpSessionTag, side: Side) -> &mut Option<SocketAddr> {
        let legs = self.legs.get_mut(&session).expect("a session that was opened");
        &mut legs[side.index()]
    }
}

struct World {
    sessions: Sessions,
    mirror: Mirror,
    now_ns: u64,
    counter: u64,
    held_bytes: usize,
    policy: Arc<AddressPolicy>,
}

impl World {
    fn new() -> Self {
        let policy = Arc::new(AddressPolicy::default());
        let sessions = Sessions::new(CoreId(0), 4, [3, 5], Arc::clone(&policy));
        let held_bytes = sessions.held_bytes();
        let mirror = Mirror::default();
        Self { sessions, mirror, now_ns: 9 * SECOND_NS, counter: 0, held_bytes, policy }
    }

    fn step(&mut self, [choice, place, one, two]: [u8; 4]) {
        let side = if place & 1 == 0 { Side::A } else { Side::B };
        let key = &KEYS[usize::from(choice >> 4 & 1)];
        match choice & 15 {
            0 | 1 => self.open(choice, place, one, two),
            2 => self.close(one),
            3 => self.pass_time(u64::from(one) * SECOND_NS * u64::from(two)),
            4 | 5 => self.receive(place, &packet(1, 148, &[one], Some(key))),
            6 | 7 => self.receive(place, &packet(2, 92, &[one, two], Some(key))),
            8 => self.receive(place, &packet(3, 64, &[one], None)),
            9 => self.receive(place, &vec![two; usize::from(one)]),
            10 | 11 => self.prove(place, side, one, two),
            _ => self.receive(place, &packet(4, 32 + usize::from(two), &[one], None)),
        }
        self.now_ns += SECOND_NS / 10;
    }

    fn open(&mut self, choice: u8, place: u8, one: u8, two: u8) {
        let learning = |side: Side, byte: u8| {
            let first = (byte & 4 != 0).then(|| address(byte >> 3));
            match byte & 3 {
                0 => Learning::Fixed(address(byte >> 3)),
                1 => Learning::Proof { secret: secret(side), first },
                _ => Learning::Handshake { first },
            }
        };
        let legs = [(Side::A, one), (Side::B, two)].map(|(side, byte)| LegSettings {
            port: port(place.wrapping_add(side as u8)),
            learning: learning(side, byte),
        });
        let opened_with =
            [one, two].map(|byte| (byte & 3 == 0 || byte & 4 != 0).then(|| address(byte >> 3)));
        let public_keys = if choice & 32 == 0 { [None; 2] } else { KEYS.map(Some) };
        let is_wireguard = choice & 64 == 0;
        let settings = Settings {
            legs,
            protocol: if is_wireguard {
                Protocol::Wireguard { public_keys }
            } else {
                Protocol::Opaque
            },
            rate: RateLimit::default(),
            idle_limit_ns: 600 * SECOND_NS,
        };
        let mirror = &mut self.mirror;
        let take = &mut |event: Event| mirror.take(&event, opened_with);
        let before = self.sessions.len();
        let is_opened = self.sessions.open(settings, self.now_ns, take).is_ok();
        assert_eq!(self.sessions.len(), before + usize::from(is_opened));
    }

    fn close(&mut self, one: u8) {
        let open: Vec<_> = self.mirror.legs.keys().copied().collect();
        if let Some(session) = open.get(usize::from(one) % open.len().max(1)) {
            let mirror = &mut self.mirror;
            assert!(self.sessions.close(*session, &mut |event| mirror.take(&event, [None; 2])));
        }
    }

    fn pass_time(&mut self, ns: u64) {
        self.now_ns += ns;
        for _ in 0..4 {
            let mirror = &mut self.mirror;
            self.sessions.sweep(self.now_ns, &mut |event| mirror.take(&event, [None; 2]));
        }
    }

    fn prove(&mut self, place: u8, side: Side, one: u8, two: u8) {
        let open: Vec<_> = self.mirror.legs.keys().copied().collect();
        let Some(session) = open.get(usize::from(one) % open.len().max(1)) else {
            return;
        };
        self.counter += 1;
        let counter = if two & 1 == 0 { self.counter } else { u64::from(two) };
        let key = if two & 2 == 0 { secret(side) } else { secret(side.other()) };
        self.receive(place, &proof::prove(&key, LegName { session: *session, side }, counter));
    }

    fn receive(&mut self, place: u8, payload: &[u8]) {
        let from = address(place >> 3);
        let mirror = &mut self.mirror;
        let take = &mut |event: Event| mirror.take(&event, [None; 2]);
        let outcome = self.sessions.receive(self.now_ns, port(place), from, payload, take);
        match outcome {
            Outcome::Forward { session, to, .. } => {
                assert!(self.mirror.legs.contains_key(&session));
                assert!(self.policy.check(to.ip()).is_ok() && to.port() != 0, "sent to {to}");
                let listed = self.sessions.listed(session).expect("a session that is open");
                assert!(!listed.is_wireguard || classify(payload).is_some(), "junk passed");
                let is_known = |leg: &Option<SocketAddr>| *leg == Some(to);
                let legs = self.mirror.legs.get(&session).expect("checked above");
                // To an address that has proved nothing goes a handshake message at most.
                let is_data = matches!(classify(payload), Some(Message::Transport { .. }) | None);
                assert!(!is_data || legs.iter().any(is_known), "data sent to {to}");
            }
            Outcome::Answer(answer) => {
                assert_eq!(answer.len(), payload.len());
                assert!(proof::claim(payload).is_some());
            }
            Outcome::Drop(reason) => assert!(self.sessions.drops().events(reason) > 0),
        }
    }

    /// The mirror is what the table says, and the table is no larger than at first.
    fn check(&self) {
        assert_eq!(self.sessions.len(), self.mirror.legs.len());
        assert!(self.sessions.len() <= 4.min(UDP_SESSIONS_MAX));
        assert_eq!(self.sessions.held_bytes(), self.held_bytes);
        for (session, legs) in &self.mirror.legs {
            let listed = self.sessions.listed(*session).expect("a session that was opened");
            assert_eq!(listed.legs.map(|leg| leg.address), *legs);
            let path = self.sessions.path(*session).map(|path| path.addresses.map(Some));
            assert_eq!(path, legs.iter().all(Option::is_some).then_some(*legs));
        }
    }

    fn end(&mut self) {
        while !self.mirror.legs.is_empty() {
            self.close(0);
        }
        assert!(self.sessions.is_empty());
    }
}

fn port(place: u8) -> LocalPort {
    LocalPort(4000 + u16::from(place & 7))
}

/// Sixteen public addresses, and some that are not.
fn address(number: u8) -> SocketAddr {
    let ip = if number < 24 {
        Ipv4Addr::new(8, 8, 8, number & 15)
    } else {
        Ipv4Addr::new(10, 0, 0, number)
    };
    SocketAddr::new(IpAddr::V4(ip), 1000 + u16::from(number & 1))
}

fn secret(side: Side) -> Secret {
    Secret::new([side as u8; 32])
}

fn packet(kind: u8, bytes: usize, indices: &[u8], signed_for: Option<&PublicKey>) -> Vec<u8> {
    let mut packet = vec![0x5a; bytes];
    for (place, byte) in packet.iter_mut().zip([kind, 0, 0, 0]) {
        *place = byte;
    }
    for (at, index) in indices.iter().enumerate() {
        let place = packet.iter_mut().skip(4 + 4 * at);
        place.zip([*index, 0, 0, 0]).for_each(|(place, byte)| *place = byte);
    }
    if let Some(key) = signed_for {
        Mac1Key::new(key).sign(&mut packet);
    }
    packet
}

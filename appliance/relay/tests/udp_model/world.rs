//! Draws operations, and lets the table and the reference do them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use waystation_proving::random::Random;
use waystation_relay::address_policy::{AddressPolicy, Block};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, UdpSessionTag};
use waystation_relay::udp::proof::{LegName, Secret, answered, prove};
use waystation_relay::udp::{
    Event, Evidence, Learning, LegSettings, LocalPort, Outcome, Protocol, RateLimit, Sessions,
    Settings, Side,
};

use crate::packets::{KEYS, cookie_reply, initiation, response, transport};
use crate::reference::{Expected, Kind, Leg, Packet, Reference, SECOND_NS, Session, is_admitted};

/// Times are whole ticks, so that ages are exact in both.
const TICK_NS: u64 = 1 << 26;
const SESSIONS_MAX: usize = 6;
const SWEEP_PERIOD_NS: u64 = 8 * SECOND_NS;
const PORTS: [u16; 6] = [4001, 4002, 4003, 4004, 4005, 4006];
const ADDRESSES: [&str; 9] = [
    "8.8.8.8:1000",
    "8.8.8.8:1001",
    "8.8.4.4:1000",
    "[2001:4860::8]:1000",
    "[2001:4860::8]:1001",
    "198.51.100.1:1000",
    "198.51.100.2:1000",
    "10.0.0.1:1000",
    "8.8.4.4:0",
];

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) sessions: Sessions,
    pub(crate) reached: BTreeMap<&'static str, u64>,
    reference: Reference,
    now_ns: u64,
    events: Vec<Event>,
    counter: u64,
    gone: Option<UdpSessionTag>,
}

fn policy(is_strict: bool) -> Arc<AddressPolicy> {
    let block = Block::new("198.51.100.0".parse::<IpAddr>().unwrap(), 24).unwrap();
    let allowed = if is_strict { Vec::new() } else { vec![block] };
    Arc::new(AddressPolicy::new(allowed, []).unwrap())
}

fn secret(side: Side) -> Secret {
    Secret::new([side as u8; 32])
}

impl World {
    pub(crate) fn new(mut random: Random) -> Self {
        let seeds = [random.next(), random.next()];
        Self {
            sessions: Sessions::new(CoreId(1), SESSIONS_MAX, seeds, policy(false)),
            random,
            reached: BTreeMap::new(),
            reference: Reference::default(),
            now_ns: 100 * SECOND_NS / TICK_NS * TICK_NS,
            events: Vec::new(),
            counter: 0,
            gone: None,
        }
    }

    pub(crate) fn step(&mut self) {
        self.pass_time();
        match self.random.below(100) {
            0..=9 => self.open(),
            10 => self.close(),
            11 if self.random.one_in(2) => self.change_policy(),
            12..=24 => self.shake_hands(),
            25..=35 => self.burst(),
            36..=45 => self.prove(),
            _ => self.send_something(),
        }
    }

    /// Seldom long, mostly a moment.
    fn pass_time(&mut self) {
        let ticks = match self.random.below(200) {
            0 => 6_000,
            1..=3 => 500,
            4..=20 => 50,
            _ => 1,
        };
        self.now_ns += (1 + self.random.below(ticks)) * TICK_NS;
        self.sweep();
    }

    fn reach(&mut self, step: &'static str) {
        *self.reached.entry(step).or_default() += 1;
    }

    // --- the operator ---

    fn open(&mut self) {
        let is_wireguard = !self.random.one_in(4);
        let keys = [self.random.one_in(2), self.random.one_in(2)];
        let legs = Side::BOTH.map(|_| self.draw_leg(is_wireguard));
        let packets_per_s = self.random.one_in(4).then_some(2);
        let idle_limit_ns = (60 + 100 * self.random.below(8)) * SECOND_NS;
        let settings = Settings {
            legs: Side::BOTH.map(|side| {
                let (port, kind, first) = legs[side.index()];
                let learning = match kind {
                    Kind::Fixed => Learning::Fixed(first.unwrap()),
                    Kind::Proof => Learning::Proof { secret: secret(side), first },
                    Kind::Handshake => Learning::Handshake { first },
                };
                LegSettings { port, learning }
            }),
            protocol: if is_wireguard {
                let key = |side: Side| keys[side.index()].then_some(KEYS[side.index()]);
                Protocol::Wireguard { public_keys: Side::BOTH.map(key) }
            } else {
                Protocol::Opaque
            },
            rate: RateLimit {
                packets_per_s: packets_per_s.and_then(NonZeroU32::new),
                bytes_per_s: None,
            },
            idle_limit_ns,
        };
        let events = &mut self.events;
        let opened = self.sessions.open(settings, self.now_ns, &mut |event| events.push(event));
        let is_expected = self.may_open(&legs, is_wireguard, keys);
        assert_eq!(opened.is_ok(), is_expected, "{opened:?} of {legs:?}");
        let Ok(tag) = opened else {
            return self.reach("not opened");
        };
        self.reach("opened");
        self.reference.events.push(Event::Opened { session: tag });
        let leg = |side: Side| {
            let (port, kind, first) = legs[side.index()];
            Leg::new(port, kind, first, is_wireguard && keys[side.index()], self.now_ns)
        };
        self.reference.sessions.push(Session {
            tag,
            legs: Side::BOTH.map(leg),
            is_wireguard,
            packets_per_s: packets_per_s.map(u64::from),
            idle_limit_ns,
            stranger_credit_ns: u64::MAX,
            stranger_credited_ns: self.now_ns,
            dropped: 0,
        });
    }

    fn draw_leg(&mut self, is_wireguard: bool) -> (LocalPort, Kind, Option<SocketAddr>) {
        let port = LocalPort(self.random.of(&PORTS).unwrap());
        let kind = match self.random.below(if is_wireguard { 6 } else { 3 }) {
            0 => Kind::Fixed,
            1 | 2 => Kind::Proof,
            _ => Kind::Handshake,
        };
        let first = (kind == Kind::Fixed || self.random.one_in(3)).then(|| self.draw_address());
        (port, kind, first)
    }

    fn draw_address(&mut self) -> SocketAddr {
        let places = if self.random.one_in(6) { ADDRESSES.len() } else { 7 };
        self.random.of(&ADDRESSES[..places]).unwrap().parse().unwrap()
    }

    /// Whether the reference would open such a session.
    fn may_open(
        &self,
        legs: &[(LocalPort, Kind, Option<SocketAddr>); 2],
        is_wireguard: bool,
        keys: [bool; 2],
    ) -> bool {
        let reference = &self.reference;
        let fits = |(port, kind, first): &(LocalPort, Kind, Option<SocketAddr>)| {
            let neighbour = reference.find(|leg| leg.port == *port);
            let exclusive = reference.find(|leg| leg.port == *port && leg.kind == Kind::Handshake);
            let is_sound = first.is_none_or(|first| {
                first.port() != 0
                    && is_admitted(first, reference.is_strict)
                    && reference
                        .find(|leg| leg.port == *port && leg.address == Some(first))
                        .is_none()
            });
            let is_port_free =
                exclusive.is_none() && (*kind != Kind::Handshake || neighbour.is_none());
            is_sound && is_port_free
        };
        let [a, b] = legs;
        let shares = a.0 == b.0;
        let is_handshake = a.1 == Kind::Handshake || b.1 == Kind::Handshake;
        let is_nobodys = [a, b].iter().all(|leg| leg.1 == Kind::Handshake && leg.2.is_none());
        fits(a)
            && fits(b)
            && reference.sessions.len() < SESSIONS_MAX
            && !(shares && (is_handshake || (a.2 == b.2 && a.2.is_some())))
            && !(is_nobodys && !(is_wireguard && keys == [true; 2]))
    }

    fn close(&mut self) {
        let Some(at) = self.draw_session() else {
            return;
        };
        let tag = self.reference.sessions.remove(at).tag;
        let events = &mut self.events;
        assert!(self.sessions.close(tag, &mut |event| events.push(event)));
        assert!(!self.sessions.close(tag, &mut |event| panic!("{event:?}")));
        let reason = DropReason::SessionClosedByOperator;
        self.reference.events.push(Event::Closed { session: tag, reason });
        self.gone = Some(tag);
        self.reach("closed");
    }

    fn change_policy(&mut self) {
        let is_strict = !self.reference.is_strict;
        let events = &mut self.events;
        self.sessions.adopt_policy(policy(is_strict), &mut |event| events.push(event));
        let before = self.reference.sessions.len();
        // The table goes through its places in order, and so does the reference.
        self.reference.sessions.sort_by_key(|session| session.tag.slot);
        self.reference.adopt_policy(is_strict);
        if self.reference.sessions.len() < before {
            self.reach("closed by policy");
        }
    }

    fn draw_session(&mut self) -> Option<usize> {
        let count = self.reference.sessions.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    // --- time ---

    /// What the table ends has to be due, and what has long been due must have ended.
    fn sweep(&mut self) {
        loop {
            let mut ended = Vec::new();
            let next = self.sessions.sweep(self.now_ns, &mut |event| ended.push(event));
            ended.into_iter().for_each(|event| self.take_end(&event));
            if next.is_none_or(|next_ns| next_ns > self.now_ns) {
                break;
            }
        }
        for at in 0..self.reference.sessions.len() {
            let limit_ns = self.reference.sessions[at].idle_limit_ns + 2 * SWEEP_PERIOD_NS;
            assert!(self.reference.idle_ns(self.now_ns, at) < limit_ns, "an idle session goes on");
        }
    }

    fn take_end(&mut self, event: &Event) {
        let at = |session: UdpSessionTag| {
            self.reference.sessions.iter().position(|found| found.tag == session).unwrap()
        };
        match *event {
            Event::Expired { session } => {
                let at = at(session);
                let idle_ns = self.reference.idle_ns(self.now_ns, at);
                assert!(idle_ns >= self.reference.sessions[at].idle_limit_ns, "expired early");
                self.reference.sessions.remove(at);
                self.gone = Some(session);
                self.reach("expired");
            }
            Event::Lapsed { session, side, address } => {
                let at = at(session);
                assert!(self.reference.may_lapse(self.now_ns, at, side), "lapsed early");
                let known = self.reference.sessions[at].legs[side.index()].address;
                assert_eq!(known, Some(address));
                self.reference.lapse(at, side);
                self.reach("lapsed");
            }
            event => panic!("{event:?} by time alone"),
        }
    }

    // --- datagrams ---

    /// An end of a session, or somebody in its place, goes through a handshake.
    fn shake_hands(&mut self) {
        let Some(at) = self.draw_session() else {
            return;
        };
        let session = self.reference.sessions[at].clone();
        let side = self.random.of(&Side::BOTH).unwrap();
        let (sender, answer) = (self.draw_index(), self.draw_index());
        let mut from = [(); 2].map(|()| self.draw_address());
        for (from, leg) in from.iter_mut().zip(&session.legs) {
            if let Some(address) = leg.address.filter(|_| !self.random.one_in(3)) {
                *from = address;
            }
        }
        let ports = session.legs.map(|leg| leg.port);
        let (near, far) = (side.index(), side.other().index());
        let begun = Packet::Initiation { sender, is_right: true };
        self.deliver(ports[near], from[near], begun, side);
        if self.random.one_in(3) {
            let crossing = Packet::Initiation { sender: answer, is_right: true };
            self.deliver(ports[far], from[far], crossing, side.other());
        }
        self.now_ns += TICK_NS;
        let answered = Packet::Response { sender: answer, receiver: sender, is_right: true };
        self.deliver(ports[far], from[far], answered, side.other());
        self.now_ns += TICK_NS;
        self.deliver(ports[near], from[near], Packet::Transport { receiver: answer }, side);
    }

    /// Many datagrams of one source at once, or a few over some seconds.
    fn burst(&mut self) {
        let Some(at) = self.draw_session() else {
            return;
        };
        let side = self.random.of(&Side::BOTH).unwrap();
        let (near, far) = (side.index(), side.other().index());
        let session = self.reference.sessions[at].clone();
        let from = self.draw_source(session.legs[near].address);
        let packet = self.draw_packet(&session.legs[far]);
        // Handshakes need times that differ: which of two is the older one decides.
        let is_handshake = matches!(packet, Packet::Initiation { .. } | Packet::Response { .. });
        let is_at_once = !is_handshake && self.random.one_in(10);
        for _ in 0..if is_at_once { 90 } else { 4 } {
            self.deliver(session.legs[near].port, from, packet, side);
            if !is_at_once {
                self.now_ns += (1 + self.random.below(20)) * TICK_NS;
            }
        }
        self.now_ns += TICK_NS;
        if let Some(back) = session.legs[far].address.filter(|_| self.random.one_in(2)) {
            let packet = self.draw_packet(&session.legs[near]);
            self.deliver(session.legs[far].port, back, packet, side.other());
        }
    }

    fn prove(&mut self) {
        let Some(at) = self.draw_session() else {
            return;
        };
        let side = self.random.of(&Side::BOTH).unwrap();
        let leg = self.reference.sessions[at].legs[side.index()].clone();
        let tag = self.reference.sessions[at].tag;
        let session = self.gone.filter(|_| self.random.one_in(8)).unwrap_or(tag);
        self.counter += 1;
        let counter =
            if self.random.one_in(4) { self.random.below(self.counter) } else { self.counter };
        let is_right = !self.random.one_in(6);
        let from = self.draw_source(leg.address);
        let proof = Packet::Proof { session, side, counter, is_right };
        self.deliver(leg.port, from, proof, side);
    }

    fn send_something(&mut self) {
        let Some(at) = self.draw_session() else {
            let (port, from) = (LocalPort(self.random.of(&PORTS).unwrap()), self.draw_address());
            return self.deliver(port, from, Packet::Junk, Side::A);
        };
        let side = self.random.of(&Side::BOTH).unwrap();
        let session = self.reference.sessions[at].clone();
        let from = self.draw_source(session.legs[side.index()].address);
        let packet = self.draw_packet(&session.legs[side.other().index()]);
        let port = if self.random.one_in(20) {
            LocalPort(self.random.of(&PORTS).unwrap())
        } else {
            session.legs[side.index()].port
        };
        self.deliver(port, from, packet, side);
    }

    fn draw_source(&mut self, known: Option<SocketAddr>) -> SocketAddr {
        known.filter(|_| !self.random.one_in(3)).unwrap_or_else(|| self.draw_address())
    }

    fn draw_index(&mut self) -> u32 {
        self.random.below(24) as u32
    }

    /// Something for the end of a leg, mostly with an index that means something to it.
    fn draw_packet(&mut self, to: &Leg) -> Packet {
        let asked = to.waiting.iter().map(|waiting| waiting.index);
        let meant: Vec<u32> = asked.chain(to.indices.iter().copied()).collect();
        let is_meant = !meant.is_empty() && !self.random.one_in(5);
        let receiver = if is_meant { self.random.of(&meant).unwrap() } else { self.draw_index() };
        let (sender, is_right) = (self.draw_index(), !self.random.one_in(6));
        match self.random.below(12) {
            0 | 1 => Packet::Initiation { sender, is_right },
            2 | 3 => Packet::Response { sender, receiver, is_right },
            4 => Packet::Cookie { receiver },
            5 => Packet::Junk,
            _ => Packet::Transport { receiver },
        }
    }

    /// Gives a datagram to both, and compares what they make of it.
    fn deliver(&mut self, port: LocalPort, from: SocketAddr, packet: Packet, side: Side) {
        // Legs may share a port: what it is signed for depends on whose it is taken for.
        let reference = &self.reference;
        let taken_for = reference
            .find(|leg| leg.port == port && leg.address == Some(from))
            .or_else(|| reference.find(|leg| leg.port == port && leg.kind == Kind::Handshake));
        let side = taken_for.map_or(side, |(_, side)| side);
        let bytes = self.bytes_of(packet, side);
        let events = &mut self.events;
        let source = if self.random.one_in(8) { mapped(from) } else { from };
        let add = &mut |event| events.push(event);
        let outcome = self.sessions.receive(self.now_ns, port, source, &bytes, add);
        let expected = self.reference.receive(self.now_ns, port, from, packet);
        let is_same = match (outcome, expected) {
            (Outcome::Answer(answer), Expected::Answer) => {
                self.reach("answered");
                answered(&secret(Side::A), &answer).is_some()
                    || answered(&secret(Side::B), &answer).is_some()
            }
            (Outcome::Forward { session, to, port, .. }, expected) => {
                self.reach("forwarded");
                expected == Expected::Forward { session, to, port }
            }
            (Outcome::Drop(reason), expected) => expected == Expected::Drop(reason),
            (Outcome::Answer(_), _) => false,
        };
        assert!(is_same, "{outcome:?} instead of {expected:?} for {packet:?} from {from}");
        let is_stranger = self.reference.find(|leg| leg.address == Some(from)).is_none();
        match packet {
            Packet::Response { .. }
                if is_stranger && matches!(expected, Expected::Forward { .. }) =>
            {
                self.reach("response of a stranger");
            }
            Packet::Transport { .. }
                if is_stranger && matches!(expected, Expected::Forward { .. }) =>
            {
                self.reach("data of a stranger");
            }
            _ => (),
        }
    }

    /// A packet as it is on the wire when it comes from a side.
    fn bytes_of(&mut self, packet: Packet, side: Side) -> Vec<u8> {
        let key = |is_right: bool| {
            let to = if is_right { side.other() } else { side };
            &KEYS[to.index()]
        };
        match packet {
            Packet::Initiation { sender, is_right } => initiation(sender, key(is_right)),
            Packet::Response { sender, receiver, is_right } => {
                response(sender, receiver, key(is_right))
            }
            Packet::Cookie { receiver } => cookie_reply(receiver),
            Packet::Transport { receiver } => transport(receiver, self.random.below(1420) as usize),
            Packet::Junk => vec![4; self.random.below(200) as usize],
            Packet::Proof { session, side, counter, is_right } => {
                let secret = if is_right { secret(side) } else { secret(side.other()) };
                prove(&secret, LegName { session, side }, counter).to_vec()
            }
        }
    }

    // --- checks ---

    /// What both tell and hold has to be the same.
    pub(crate) fn check(&mut self) {
        let events = std::mem::take(&mut self.events);
        let expected = std::mem::take(&mut self.reference.events);
        assert_eq!(events, expected);
        events.iter().for_each(|event| self.note(event));
        assert_eq!(self.sessions.len(), self.reference.sessions.len());
        for session in &self.reference.sessions {
            let listed = self.sessions.listed(session.tag).unwrap();
            assert_eq!(listed.dropped_packets, session.dropped);
            for (leg, expected) in listed.legs.iter().zip(&session.legs) {
                assert_eq!(leg.address, expected.address);
                assert_eq!(leg.packets, expected.packets);
                assert_eq!(leg.heard_ns, expected.heard_ns);
            }
            let is_whole = session.legs.iter().all(|leg| leg.address.is_some());
            assert_eq!(self.sessions.path(session.tag).is_some(), is_whole);
        }
        self.check_addresses();
    }

    /// No address is one that must not be sent to, and none is two legs of a port.
    fn check_addresses(&self) {
        let mut seen = Vec::new();
        for leg in self.reference.sessions.iter().flat_map(|session| &session.legs) {
            let Some(address) = leg.address else {
                continue;
            };
            assert!(is_admitted(address, self.reference.is_strict), "{address}");
            assert!(!seen.contains(&(leg.port, address)), "{address} twice at {}", leg.port);
            seen.push((leg.port, address));
        }
    }

    fn note(&mut self, event: &Event) {
        match *event {
            Event::Learned { by: Evidence::Proof, .. } => self.reach("learned by proof"),
            Event::Learned { session, .. } => {
                self.reach("learned by handshake");
                let found = self.reference.sessions.iter().find(|found| found.tag == session);
                if found
                    .is_some_and(|found| found.legs.iter().all(|leg| leg.kind == Kind::Handshake))
                {
                    self.reach("both legs learned by handshake");
                }
            }
            Event::Rebound { by, .. } => self.reach(match by {
                Evidence::Proof => "rebound by proof",
                Evidence::Handshake => "rebound by handshake",
                Evidence::Silence => "rebound by silence",
                Evidence::TakenBack => "rebound by taken_back",
            }),
            Event::Lapsed { .. } => self.reach("lapsed"),
            Event::Opened { .. }
            | Event::Changed { .. }
            | Event::Expired { .. }
            | Event::Closed { .. } => (),
        }
    }

    pub(crate) fn close_everything(&mut self) {
        let tags: Vec<_> = self.reference.sessions.iter().map(|session| session.tag).collect();
        for tag in tags {
            assert!(self.sessions.close(tag, &mut |_| ()));
        }
        assert!(self.sessions.is_empty());
        assert_eq!(self.sessions.listed_from(0).count(), 0);
        for port in PORTS {
            let from = ADDRESSES[0].parse().unwrap();
            let add = &mut |event| panic!("{event:?}");
            let outcome = self.sessions.receive(self.now_ns, LocalPort(port), from, b"x", add);
            let reason = DropReason::UdpUnknownFlow;
            assert_eq!(outcome, Outcome::Drop(reason));
        }
    }
}

/// The same address as an IPv6 socket reports it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
        IpAddr::V6(ip) => SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip.octets())), address.port()),
    }
}

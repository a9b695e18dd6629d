//! A table of sessions with a clock, and what it has told.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use waystation_relay::address_policy::{AddressPolicy, Block};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, UdpSessionTag};
use waystation_relay::udp::proof::{LegName, PROOF_BYTES, Secret, prove};
use waystation_relay::udp::{
    Event, Learning, LegSettings, LocalPort, OpenError, Outcome, Protocol, RateLimit, Sessions,
    Settings, Side,
};

use crate::packets::{KEYS, initiation, response, transport};

pub(crate) const SECOND_NS: u64 = 1_000_000_000;
pub(crate) const HOUR_NS: u64 = 3_600 * SECOND_NS;
/// Ports of legs A and B in most tests.
pub(crate) const PORTS: [LocalPort; 2] = [LocalPort(41_000), LocalPort(42_000)];
/// Where the ends are at first.
pub(crate) const HOME: [&str; 2] = ["8.8.8.8:1000", "[2001:4860::8]:2000"];

pub(crate) struct World {
    pub(crate) sessions: Sessions,
    pub(crate) now_ns: u64,
    pub(crate) events: Vec<Event>,
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The public network, and documentation's to have enough of it.
pub(crate) fn policy() -> Arc<AddressPolicy> {
    let block = Block::new("198.51.100.0".parse::<IpAddr>().unwrap(), 24).unwrap();
    Arc::new(AddressPolicy::new(vec![block], ["9.9.9.9".parse().unwrap()]).unwrap())
}

pub(crate) fn fixed(text: &str) -> Learning {
    Learning::Fixed(address(text))
}

pub(crate) fn by_handshake() -> Learning {
    Learning::Handshake { first: None }
}

pub(crate) fn secret(side: Side) -> Secret {
    Secret::new([side as u8 + 1; 32])
}

pub(crate) fn by_proof(side: Side) -> Learning {
    Learning::Proof { secret: secret(side), first: None }
}

pub(crate) fn wireguard() -> Protocol {
    Protocol::Wireguard { public_keys: KEYS.map(Some) }
}

pub(crate) fn settings(legs: [Learning; 2], protocol: Protocol) -> Settings {
    let [a, b] = legs;
    let leg = |side: Side, learning| LegSettings { port: PORTS[side.index()], learning };
    Settings {
        legs: [leg(Side::A, a), leg(Side::B, b)],
        protocol,
        rate: RateLimit::default(),
        idle_limit_ns: HOUR_NS,
    }
}

pub(crate) fn rate(packets_per_s: u32, bytes_per_s: u64) -> RateLimit {
    RateLimit {
        packets_per_s: NonZeroU32::new(packets_per_s),
        bytes_per_s: NonZeroU64::new(bytes_per_s),
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_room(100)
    }

    pub(crate) fn with_room(sessions_max: usize) -> Self {
        let sessions = Sessions::new(CoreId(2), sessions_max, [11, 13], policy());
        Self { sessions, now_ns: 77 * SECOND_NS, events: Vec::new() }
    }

    pub(crate) fn try_open(&mut self, settings: Settings) -> Result<UdpSessionTag, OpenError> {
        let events = &mut self.events;
        self.sessions.open(settings, self.now_ns, &mut |event| events.push(event))
    }

    pub(crate) fn open(&mut self, legs: [Learning; 2], protocol: Protocol) -> UdpSessionTag {
        self.try_open(settings(legs, protocol)).unwrap()
    }

    pub(crate) fn close(&mut self, session: UdpSessionTag) -> bool {
        let events = &mut self.events;
        self.sessions.close(session, &mut |event| events.push(event))
    }

    /// A datagram to a port.
    pub(crate) fn receive_at(&mut self, port: LocalPort, from: &str, payload: &[u8]) -> Outcome {
        let events = &mut self.events;
        let add = &mut |event| events.push(event);
        self.sessions.receive(self.now_ns, port, address(from), payload, add)
    }

    /// A datagram to the port of a side.
    pub(crate) fn receive(&mut self, side: Side, from: &str, payload: &[u8]) -> Outcome {
        self.receive_at(PORTS[side.index()], from, payload)
    }

    /// Where a datagram goes; it does go.
    pub(crate) fn passes(&mut self, side: Side, from: &str, payload: &[u8]) -> SocketAddr {
        match self.receive(side, from, payload) {
            Outcome::Forward { to, port, .. } => {
                assert_eq!(port, PORTS[side.other().index()]);
                to
            }
            outcome => panic!("{outcome:?} of {} bytes from {from}", payload.len()),
        }
    }

    /// Why a datagram does not pass; it is counted.
    pub(crate) fn refuses(&mut self, side: Side, from: &str, payload: &[u8]) -> DropReason {
        let before = self.sessions.drops().clone();
        match self.receive(side, from, payload) {
            Outcome::Drop(reason) => {
                assert_eq!(self.sessions.drops().events(reason), before.events(reason) + 1);
                let bytes = before.bytes(reason) + payload.len() as u64;
                assert_eq!(self.sessions.drops().bytes(reason), bytes);
                reason
            }
            outcome => panic!("{outcome:?} of {} bytes from {from}", payload.len()),
        }
    }

    /// A proof for a leg.
    pub(crate) fn proof(
        &self,
        session: UdpSessionTag,
        side: Side,
        counter: u64,
    ) -> [u8; PROOF_BYTES] {
        prove(&secret(side), LegName { session, side }, counter)
    }

    /// The end of leg A begins a handshake from somewhere, and that of B answers it.
    pub(crate) fn shakes_hands(&mut self, a: &str, index_a: u32, b: &str, index_b: u32) {
        assert_eq!(self.passes(Side::A, a, &initiation(index_a, &KEYS[1])), address(b));
        let answer = response(index_b, index_a, &KEYS[0]);
        assert_eq!(self.passes(Side::B, b, &answer), address(a));
        assert_eq!(self.passes(Side::A, a, &transport(index_b, 0)), address(b));
    }

    pub(crate) fn wait(&mut self, seconds: u64) {
        self.now_ns += seconds * SECOND_NS;
    }

    /// Lets time pass as an owner does that comes when it is told to.
    pub(crate) fn sweep_for(&mut self, seconds: u64) {
        let end_ns = self.now_ns + seconds * SECOND_NS;
        while self.now_ns < end_ns {
            let events = &mut self.events;
            let next = self.sessions.sweep(self.now_ns, &mut |event| events.push(event));
            self.now_ns = next.unwrap_or(end_ns).clamp(self.now_ns + 1, end_ns);
        }
    }

    pub(crate) fn address_of(&self, session: UdpSessionTag, side: Side) -> Option<SocketAddr> {
        self.sessions.listed(session).unwrap().legs[side.index()].address
    }

    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

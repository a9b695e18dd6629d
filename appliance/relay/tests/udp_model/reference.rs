//! What should happen, written down as plainly as it can be.

use std::net::SocketAddr;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::{Event, Evidence, LocalPort, Side};

pub(crate) const SECOND_NS: u64 = 1_000_000_000;
/// Times of `limits.rs`, written again: a changed one has to be changed here too.
const WAIT_NS: u64 = 6 * SECOND_NS;
const HOLD_DOWN_NS: u64 = 3 * SECOND_NS;
const FRESH_NS: u64 = 30 * SECOND_NS;
const TAKE_BACK_NS: u64 = 60 * SECOND_NS;
const CONSENT_NS: u64 = 300 * SECOND_NS;
const STRANGER_COST_NS: u64 = SECOND_NS / 20;
const STRANGER_CREDIT_NS: u64 = 20 * STRANGER_COST_NS;

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Initiation { sender: u32, is_right: bool },
    Response { sender: u32, receiver: u32, is_right: bool },
    Cookie { receiver: u32 },
    Transport { receiver: u32 },
    Junk,
    Proof { session: UdpSessionTag, side: Side, counter: u64, is_right: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Fixed,
    Proof,
    Handshake,
}

#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) address: SocketAddr,
    pub(crate) index: u32,
    pub(crate) is_initiation: bool,
    ns: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Leg {
    pub(crate) port: LocalPort,
    pub(crate) kind: Kind,
    pub(crate) has_key: bool,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) heard_ns: u64,
    pub(crate) indices: Vec<u32>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) packets: u64,
    roaming: Option<(SocketAddr, u64)>,
    previous: Option<(SocketAddr, u64)>,
    is_contested: bool,
    proven: Option<u64>,
    credit_ns: u64,
    credited_ns: u64,
}

impl Leg {
    pub(crate) fn new(
        port: LocalPort,
        kind: Kind,
        address: Option<SocketAddr>,
        has_key: bool,
        now_ns: u64,
    ) -> Self {
        Self {
            port,
            kind,
            has_key,
            address,
            heard_ns: now_ns,
            indices: Vec::new(),
            waiting: Vec::new(),
            packets: 0,
            roaming: None,
            previous: None,
            is_contested: false,
            proven: None,
            credit_ns: u64::MAX,
            credited_ns: now_ns,
        }
    }

    fn newest(&self, now_ns: u64, is_it: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        let mut found: Vec<_> = self
            .waiting
            .iter()
            .filter(|waiting| now_ns - waiting.ns < WAIT_NS && is_it(waiting))
            .cloned()
            .collect();
        found.sort_by_key(|waiting| waiting.ns);
        found.pop()
    }

    fn add_waiting(&mut self, waiting: Waiting) {
        self.waiting.retain(|old| (old.index, old.address) != (waiting.index, waiting.address));
        if self.waiting.len() == 4 {
            self.waiting.sort_by_key(|waiting| waiting.ns);
            self.waiting.remove(0);
        }
        self.waiting.push(waiting);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) tag: UdpSessionTag,
    pub(crate) legs: [Leg; 2],
    pub(crate) is_wireguard: bool,
    pub(crate) packets_per_s: Option<u64>,
    pub(crate) idle_limit_ns: u64,
    pub(crate) stranger_credit_ns: u64,
    pub(crate) stranger_credited_ns: u64,
    pub(crate) dropped: u64,
}

/// What a datagram comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Forward { session: UdpSessionTag, to: SocketAddr, port: LocalPort },
    Answer,
    Drop(DropReason),
}

#[derive(Debug, Default)]
pub(crate) struct Reference {
    pub(crate) sessions: Vec<Session>,
    pub(crate) events: Vec<Event>,
    pub(crate) is_strict: bool,
}

/// Addresses of documentation are open, but for a strict policy; private ones never are.
pub(crate) fn is_admitted(address: SocketAddr, is_strict: bool) -> bool {
    let text = address.to_string();
    let is_denied = text.starts_with("10.") || (is_strict && text.starts_with("198.51.100."));
    !is_denied
}

impl Reference {
    pub(crate) fn receive(
        &mut self,
        now_ns: u64,
        port: LocalPort,
        source: SocketAddr,
        packet: Packet,
    ) -> Expected {
        let (session, result) = self.decide(now_ns, port, source, packet);
        result.unwrap_or_else(|reason| {
            if let Some(at) = session {
                self.sessions[at].dropped += 1;
            }
            Expected::Drop(reason)
        })
    }

    /// The session it is for, if any, and what comes of it.
    fn decide(
        &mut self,
        now_ns: u64,
        port: LocalPort,
        source: SocketAddr,
        packet: Packet,
    ) -> (Option<usize>, Result<Expected, DropReason>) {
        if source.port() == 0 {
            return (None, Err(DropReason::UdpMalformed));
        }
        if let Packet::Proof { session, side, .. } = packet {
            let is_named = |found: &Session| {
                let leg = &found.legs[side.index()];
                found.tag == session && leg.port == port && leg.kind == Kind::Proof
            };
            if let Some(at) = self.sessions.iter().position(is_named) {
                return (Some(at), self.prove(now_ns, at, side, source, packet));
            }
        }
        if let Some((at, side)) = self.find(|leg| leg.port == port && leg.address == Some(source)) {
            return (Some(at), self.pass_known(now_ns, at, side, source, packet));
        }
        if let Some((at, side)) = self.find(|leg| leg.port == port && leg.kind == Kind::Handshake) {
            return (Some(at), self.pass_stranger(now_ns, at, side, source, packet));
        }
        let reason = match self.find(|leg| leg.port == port) {
            Some(_) => DropReason::UdpUnproven,
            None => DropReason::UdpUnknownFlow,
        };
        (None, Err(reason))
    }

    pub(crate) fn find(&self, is_it: impl Fn(&Leg) -> bool) -> Option<(usize, Side)> {
        for (at, session) in self.sessions.iter().enumerate() {
            for side in Side::BOTH {
                if is_it(&session.legs[side.index()]) {
                    return Some((at, side));
                }
            }
        }
        None
    }

    fn prove(
        &mut self,
        now_ns: u64,
        at: usize,
        side: Side,
        source: SocketAddr,
        packet: Packet,
    ) -> Result<Expected, DropReason> {
        let Packet::Proof { counter, is_right, .. } = packet else {
            panic!("no proof");
        };
        let leg = &mut self.sessions[at].legs[side.index()];
        if !is_right || leg.proven.is_some_and(|last| counter <= last) {
            return Err(DropReason::UdpProofRejected);
        }
        leg.proven = Some(counter);
        if leg.address == Some(source) {
            leg.heard_ns = now_ns;
            return Ok(Expected::Answer);
        }
        if !is_admitted(source, self.is_strict) {
            return Err(DropReason::UdpAddressDenied);
        }
        let port = leg.port;
        if self.find(|leg| leg.port == port && leg.address == Some(source)).is_some() {
            return Err(DropReason::UdpAddressTaken);
        }
        self.rebind(now_ns, at, side, source, Evidence::Proof);
        Ok(Expected::Answer)
    }

    fn pass_known(
        &mut self,
        now_ns: u64,
        at: usize,
        side: Side,
        source: SocketAddr,
        packet: Packet,
    ) -> Result<Expected, DropReason> {
        self.check_shape(at, packet)?;
        self.spend(now_ns, at, side)?;
        self.sessions[at].legs[side.index()].heard_ns = now_ns;
        if !self.sessions[at].is_wireguard {
            let to = self.sessions[at].legs[side.other().index()].address;
            return self.forward(at, side, to);
        }
        self.check_mac1(at, side, packet)?;
        self.route(now_ns, at, side, source, packet, true)
    }

    fn pass_stranger(
        &mut self,
        now_ns: u64,
        at: usize,
        side: Side,
        source: SocketAddr,
        packet: Packet,
    ) -> Result<Expected, DropReason> {
        self.check_shape(at, packet)?;
        let [me, other] = [side, side.other()].map(|side| &self.sessions[at].legs[side.index()]);
        match packet {
            Packet::Cookie { .. } => return Err(DropReason::UdpUnproven),
            Packet::Transport { .. } if me.address.is_none() => {
                return Err(DropReason::UdpUnproven);
            }
            Packet::Transport { receiver } if !other.indices.contains(&receiver) => {
                return Err(DropReason::UdpUnknownReceiver);
            }
            Packet::Response { receiver, .. }
                if other
                    .newest(now_ns, |it| it.is_initiation && it.index == receiver)
                    .is_none() =>
            {
                return Err(DropReason::UdpUnknownReceiver);
            }
            _ => (),
        }
        self.check_mac1(at, side, packet)?;
        if !is_admitted(source, self.is_strict) {
            return Err(DropReason::UdpAddressDenied);
        }
        let session = &mut self.sessions[at];
        let earned_ns = now_ns - session.stranger_credited_ns;
        session.stranger_credit_ns =
            (session.stranger_credit_ns.saturating_add(earned_ns)).min(STRANGER_CREDIT_NS);
        session.stranger_credited_ns = now_ns;
        if session.stranger_credit_ns < STRANGER_COST_NS {
            return Err(DropReason::UdpStrangersOverRate);
        }
        session.stranger_credit_ns -= STRANGER_COST_NS;
        self.spend(now_ns, at, side)?;
        self.route(now_ns, at, side, source, packet, false)
    }

    fn check_shape(&self, at: usize, packet: Packet) -> Result<(), DropReason> {
        let is_junk = matches!(packet, Packet::Junk | Packet::Proof { .. });
        if self.sessions[at].is_wireguard && is_junk {
            return Err(DropReason::UdpNotWireguard);
        }
        Ok(())
    }

    fn check_mac1(&self, at: usize, side: Side, packet: Packet) -> Result<(), DropReason> {
        let is_wrong = match packet {
            Packet::Initiation { is_right, .. } | Packet::Response { is_right, .. } => !is_right,
            _ => false,
        };
        if is_wrong && self.sessions[at].legs[side.other().index()].has_key {
            return Err(DropReason::UdpHandshakeRejected);
        }
        Ok(())
    }

    /// A credit that grows with time, up to 64 datagrams or what passes in 100 ms.
    fn spend(&mut self, now_ns: u64, at: usize, side: Side) -> Result<(), DropReason> {
        let Some(packets_per_s) = self.sessions[at].packets_per_s else {
            return Ok(());
        };
        let cost_ns = SECOND_NS.div_ceil(packets_per_s);
        let leg = &mut self.sessions[at].legs[side.index()];
        let earned_ns = leg.credit_ns.saturating_add(now_ns - leg.credited_ns);
        leg.credit_ns = earned_ns.min((cost_ns * 64).max(SECOND_NS / 10));
        leg.credited_ns = now_ns;
        if leg.credit_ns < cost_ns {
            return Err(DropReason::UdpRateExceeded);
        }
        leg.credit_ns -= cost_ns;
        Ok(())
    }

    /// Where a packet of WireGuard goes, and what is learned from it.
    fn route(
        &mut self,
        now_ns: u64,
        at: usize,
        side: Side,
        source: SocketAddr,
        packet: Packet,
        is_known: bool,
    ) -> Result<Expected, DropReason> {
        let other = side.other();
        let wait =
            |index, is_initiation| Waiting { address: source, index, is_initiation, ns: now_ns };
        let far = |this: &Self| this.sessions[at].legs[other.index()].clone();
        let answer_to = |this: &Self, asked: &Waiting| {
            let leg = &this.sessions[at].legs[other.index()];
            if leg.kind == Kind::Handshake { Some(asked.address) } else { leg.address }
        };
        let to = match packet {
            Packet::Initiation { sender, .. } => {
                self.sessions[at].legs[side.index()].add_waiting(wait(sender, true));
                self.follow(now_ns, at, other);
                let newest = far(self).newest(now_ns, |it| it.is_initiation);
                far(self).address.or(newest.map(|newest| newest.address))
            }
            Packet::Response { sender, receiver, .. } => {
                let asked = far(self)
                    .newest(now_ns, |it| it.is_initiation && it.index == receiver)
                    .ok_or(DropReason::UdpUnknownReceiver)?;
                self.sessions[at].legs[side.index()].add_waiting(wait(sender, false));
                let is_nowhere = self.sessions[at].legs.iter().all(|leg| leg.address.is_none());
                if is_known || is_nowhere {
                    self.confirm(now_ns, at, other, &asked);
                }
                answer_to(self, &asked)
            }
            Packet::Cookie { receiver } => {
                let asked = far(self).newest(now_ns, |it| it.index == receiver);
                answer_to(self, &asked.ok_or(DropReason::UdpUnknownReceiver)?)
            }
            Packet::Transport { receiver } if far(self).indices.contains(&receiver) => {
                if is_known {
                    self.follow(now_ns, at, other);
                } else {
                    self.note(now_ns, at, side, source);
                }
                far(self).address
            }
            Packet::Transport { receiver } => {
                let answered = far(self).newest(now_ns, |it| it.index == receiver);
                match answered.filter(|answered| !answered.is_initiation) {
                    Some(answered) => {
                        self.confirm(now_ns, at, other, &answered);
                        answer_to(self, &answered)
                    }
                    None if far(self).indices.is_empty() => far(self).address,
                    None => return Err(DropReason::UdpUnknownReceiver),
                }
            }
            Packet::Junk | Packet::Proof { .. } => panic!("no packet of WireGuard"),
        };
        self.forward(at, side, to)
    }

    fn forward(
        &mut self,
        at: usize,
        side: Side,
        to: Option<SocketAddr>,
    ) -> Result<Expected, DropReason> {
        let to = to.ok_or(DropReason::UdpLegUnknown)?;
        let session = &mut self.sessions[at];
        session.legs[side.index()].packets += 1;
        let port = session.legs[side.other().index()].port;
        Ok(Expected::Forward { session: session.tag, to, port })
    }

    fn confirm(&mut self, now_ns: u64, at: usize, side: Side, waiting: &Waiting) {
        let leg = &mut self.sessions[at].legs[side.index()];
        if !leg.indices.contains(&waiting.index) {
            leg.indices.push(waiting.index);
            if leg.indices.len() > 4 {
                leg.indices.remove(0);
            }
        }
        if leg.kind != Kind::Handshake {
            return;
        }
        if leg.address == Some(waiting.address) {
            leg.is_contested = false;
            leg.previous = None;
        } else {
            self.rebind(now_ns, at, side, waiting.address, Evidence::Handshake);
        }
    }

    /// Data of a new address.
    fn note(&mut self, now_ns: u64, at: usize, side: Side, source: SocketAddr) {
        let leg = &mut self.sessions[at].legs[side.index()];
        if leg.previous.is_some_and(|(address, until_ns)| address == source && now_ns < until_ns) {
            self.rebind(now_ns, at, side, source, Evidence::TakenBack);
        } else if leg
            .roaming
            .is_none_or(|(address, ns)| address == source || now_ns - ns >= HOLD_DOWN_NS)
        {
            leg.roaming = Some((source, now_ns));
        }
    }

    fn follow(&mut self, now_ns: u64, at: usize, side: Side) {
        let leg = &self.sessions[at].legs[side.index()];
        let Some((address, ns)) = leg.roaming else {
            return;
        };
        if leg.address.is_some()
            && !leg.is_contested
            && now_ns - leg.heard_ns >= HOLD_DOWN_NS
            && leg.heard_ns < ns
            && now_ns - ns < FRESH_NS
        {
            self.rebind(now_ns, at, side, address, Evidence::Silence);
        }
    }

    fn rebind(&mut self, now_ns: u64, at: usize, side: Side, to: SocketAddr, by: Evidence) {
        let session = self.sessions[at].tag;
        let leg = &mut self.sessions[at].legs[side.index()];
        let before = leg.address.replace(to);
        leg.heard_ns = now_ns;
        leg.roaming = None;
        leg.previous = None;
        match by {
            Evidence::Proof | Evidence::Handshake => leg.is_contested = false,
            Evidence::TakenBack => leg.is_contested = true,
            Evidence::Silence => {
                leg.previous = before.map(|before| (before, now_ns + TAKE_BACK_NS));
            }
        }
        self.events.push(match before {
            Some(from) => Event::Rebound { session, side, from, to, by },
            None => Event::Learned { session, side, address: to, by },
        });
    }

    pub(crate) fn lapse(&mut self, at: usize, side: Side) {
        let leg = &mut self.sessions[at].legs[side.index()];
        leg.address = None;
        leg.roaming = None;
        leg.previous = None;
    }

    /// Whether a leg's address may have been given up by now.
    pub(crate) fn may_lapse(&self, now_ns: u64, at: usize, side: Side) -> bool {
        let leg = &self.sessions[at].legs[side.index()];
        leg.kind != Kind::Fixed && now_ns - leg.heard_ns >= CONSENT_NS
    }

    pub(crate) fn idle_ns(&self, now_ns: u64, at: usize) -> u64 {
        let [a, b] = &self.sessions[at].legs;
        now_ns - a.heard_ns.max(b.heard_ns)
    }

    pub(crate) fn adopt_policy(&mut self, is_strict: bool) {
        self.is_strict = is_strict;
        let admits = |address| is_admitted(address, is_strict);
        let mut at = 0;
        while at < self.sessions.len() {
            let tag = self.sessions[at].tag;
            let mut is_closed = false;
            for side in Side::BOTH {
                let leg = &mut self.sessions[at].legs[side.index()];
                leg.waiting.retain(|waiting| admits(waiting.address));
                leg.roaming = leg.roaming.filter(|(address, _)| admits(*address));
                leg.previous = leg.previous.filter(|(address, _)| admits(*address));
                let Some(address) = leg.address.filter(|address| !admits(*address)) else {
                    continue;
                };
                if leg.kind == Kind::Fixed {
                    is_closed = true;
                    break;
                }
                self.lapse(at, side);
                self.events.push(Event::Lapsed { session: tag, side, address });
            }
            if is_closed {
                let reason = DropReason::UdpAddressDenied;
                self.events.push(Event::Closed { session: tag, reason });
                self.sessions.remove(at);
            } else {
                at += 1;
            }
        }
    }
}

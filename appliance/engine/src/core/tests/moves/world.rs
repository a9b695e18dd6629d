//! The cores, peers and sessions of one run, and what becomes of them.

mod handing_over;
mod hearing;

use super::peer::{PROFILE, Peer, Reached, establish};
use crate::block::BLOCK_BYTES;
use crate::clock;
use crate::control::{Command, Query, Report};
use crate::core::tests::{SEND_STALL_TIMEOUT, START_NS, data_cores_with, snapshot};
use crate::core::{CoreLimits, DataCore};
use crate::limits::MOVE_TIMEOUT;
use crate::management_end::ManagementEnd;
use crate::port::PortLimits;
use crate::port::simulated::{Network, PeerEnd, SimulatedPort};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use waystation_astral::frame::Frame;
use waystation_proving::random::Random;
use waystation_relay::ids::{CoreId, LegTag, LinkTag};

const CORES: usize = 3;
const PEERS: usize = 8;
/// Fewer than all peers, so that a core can be full.
const LINKS_PER_CORE: usize = 6;
const SESSIONS_PER_CORE: usize = 1000;
const WINDOW: u64 = 64 * 1024;
const SESSIONS_PER_PEER: usize = 12;
const ROUNDS_MAX: usize = 20_000;
/// Rounds without anything new after which nothing is under way.
const QUIET_ROUNDS: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asked,
    Open,
    Closed,
}

/// A session as its peer sees it.
#[derive(Debug)]
struct Session {
    peer: usize,
    nonce: u64,
    other: Option<usize>,
    state: State,
    credit: u64,
    sent: u64,
    granted: u64,
    received: u64,
    /// Something has happened because of which it may end before everything has arrived.
    lossy: bool,
    /// So that it may end at all.
    over: bool,
}

pub(super) struct World {
    network: Rc<RefCell<Network>>,
    cores: Vec<DataCore<SimulatedPort>>,
    management: ManagementEnd,
    peers: Vec<Peer>,
    sessions: Vec<Session>,
    /// Queries that wait for a verdict, with the session that asked.
    queries: Vec<(LegTag, usize)>,
    now_ns: u64,
    pub(super) moves: u64,
    hand_overs: u64,
    pub(super) delivered_bytes: u64,
    pub(super) reached: BTreeMap<&'static str, u64>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let network = Network::new().unwrap();
        network.borrow_mut().random = Random(seed);
        clock::simulated::set(START_NS);
        let (cores, management) = new_cores(&network);
        let mut world = Self {
            network,
            cores,
            management,
            peers: Vec::new(),
            sessions: Vec::new(),
            queries: Vec::new(),
            now_ns: START_NS,
            moves: 0,
            // Which kind comes first is another in each world.
            hand_overs: seed % 3,
            delivered_bytes: 0,
            reached: BTreeMap::new(),
        };
        for peer in 0..PEERS {
            world.bring_up(peer % CORES);
        }
        world
    }

    // Links

    fn bring_up(&mut self, core: usize) {
        let capacity = if self.one_in(2) { 200_000 } else { 2_000 };
        let socket = self.network.borrow_mut().connect(core, capacity);
        self.network.borrow_mut().eager = true;
        let mut peer = establish(socket, || {
            self.turn(core);
            Reached(Rc::clone(&self.network))
        });
        self.network.borrow_mut().eager = false;
        for _ in 0..1000 {
            let found = self.take_link_ups(core);
            if let Some(tag) = found {
                peer.tag = Some(tag);
                self.peers.push(peer);
                return;
            }
            self.turn(core);
        }
        panic!("a link does not come up");
    }

    fn take_link_ups(&mut self, core: usize) -> Option<LinkTag> {
        while let Some(report) = self.management.next_report(CoreId(core as u16)) {
            match report {
                Report::LinkUp(up) => return Some(up.link),
                report => self.on_report(report),
            }
        }
        None
    }

    fn turn(&mut self, core: usize) {
        self.pass_time(1000);
        self.cores[core].turn().unwrap();
    }

    fn pass_time(&mut self, ns: u64) {
        self.now_ns += ns;
        clock::simulated::set(self.now_ns);
    }

    // Steps

    pub(super) fn step(&mut self) {
        match self.below(1000) {
            0..=14 => self.move_a_link(),
            15..=39 => self.peer_asks(),
            40..=99 => self.decide(),
            100..=299 => self.peer_sends(),
            300..=399 => self.peer_grants(),
            400..=409 => self.peer_resets(),
            410..=429 => self.peer_pings(),
            430..=629 => {
                let peer = self.below(self.peers.len() as u64) as usize;
                let most = if self.one_in(3) { 200 } else { 200_000 };
                self.read(peer, most);
            }
            630 => self.end_a_link(),
            636 if self.one_in(2) => self.hand_over(),
            631..=635 => {
                let ns = self.below(150_000_000);
                self.pass_time(ns);
            }
            _ => {
                let core = self.below(CORES as u64) as usize;
                self.turn(core);
                self.take_reports(core);
            }
        }
    }

    fn move_a_link(&mut self) {
        let Some(peer) = self.some_peer(|peer| !peer.moving && peer.tag.is_some()) else { return };
        let Some(link) = self.peers[peer].tag else { return };
        let to = CoreId(self.below(CORES as u64) as u16);
        self.peers[peer].moving = true;
        self.management.send(link.core, Command::MoveLink { link, to }).unwrap();
    }

    fn end_a_link(&mut self) {
        if !self.one_in(4) {
            return;
        }
        let Some(peer) = self.some_peer(|_| true) else { return };
        let end = [PeerEnd::Finished, PeerEnd::Closed, PeerEnd::Reset][self.below(3) as usize];
        let socket = self.peers[peer].socket;
        self.network.borrow_mut().peer_ends(socket, end);
        self.forget_peer(peer);
        self.reach("link ended");
        // Its successor comes up on a core that may be full, so only when all is quiet.
        self.settle();
        let per_core = |core: usize| {
            let here = |peer: &&Peer| peer.tag.is_some_and(|tag| tag.core.index() == core);
            self.peers.iter().filter(|peer| peer.alive).filter(here).count()
        };
        if let Some(core) = (0..CORES).min_by_key(|&core| per_core(core)) {
            self.bring_up(core);
        }
    }

    fn forget_peer(&mut self, peer: usize) {
        self.peers[peer].alive = false;
        self.peers[peer].sessions.clear();
        // What it has sent on sessions that it has closed may be lost with it as well.
        for session in 0..self.sessions.len() {
            if self.sessions[session].peer == peer {
                self.end(session, true);
                self.sessions[session].state = State::Closed;
            }
        }
    }

    /// A session is over for its peer, so the other one may end as well.
    fn end(&mut self, session: usize, lossy: bool) {
        let other = self.sessions[session].other;
        for session in [Some(session), other].into_iter().flatten() {
            self.sessions[session].over = true;
            self.sessions[session].lossy |= lossy;
        }
    }

    // What peers do

    fn peer_asks(&mut self) {
        let Some(peer) = self.some_peer(|peer| peer.sessions.len() < SESSIONS_PER_PEER) else {
            return;
        };
        let number = self.sessions.len();
        let (nonce, window) = (number as u64 + 1, self.below(2 * WINDOW));
        let session = Session::new(peer, nonce, State::Asked, window);
        self.sessions.push(session);
        self.peers[peer].sessions.insert(nonce, number);
        let query = b"gateway.node_list";
        self.send(peer, &[Frame::Query { nonce, window: window as u32, query }]);
    }

    fn peer_sends(&mut self) {
        let Some(session) = self.some_open_session() else { return };
        let entry = &self.sessions[session];
        let (peer, nonce, mut position, mut left) =
            (entry.peer, entry.nonce, entry.sent, entry.credit);
        if left == 0 {
            self.reach("out of credit");
            return;
        }
        let most = if self.one_in(12) { 60_000 } else { 1500 };
        let mut payloads = Vec::new();
        for _ in 0..=self.below(3) {
            let count = (1 + self.below(most)).min(left);
            if count == 0 {
                break;
            }
            if count > 24 * 1024 {
                self.reach("large frame");
            }
            payloads.push(pattern(session, position, count));
            (position, left) = (position + count, left - count);
        }
        let frames: Vec<_> =
            payloads.iter().map(|payload| Frame::Data { nonce, payload }).collect();
        (self.sessions[session].sent, self.sessions[session].credit) = (position, left);
        match self.one_in(2) {
            true => self.send(peer, &frames),
            false => frames.iter().for_each(|frame| self.send(peer, &[*frame])),
        }
    }

    fn peer_grants(&mut self) {
        let Some(session) = self.some_open_session() else { return };
        let bytes = self.below(WINDOW);
        self.grant(session, bytes);
    }

    fn grant(&mut self, session: usize, bytes: u64) {
        let entry = &mut self.sessions[session];
        entry.granted += bytes;
        let (peer, nonce) = (entry.peer, entry.nonce);
        self.send(peer, &[Frame::Read { nonce, bytes: bytes as u32 }]);
    }

    fn peer_resets(&mut self) {
        let Some(session) = self.some_open_session() else { return };
        let (peer, nonce) = (self.sessions[session].peer, self.sessions[session].nonce);
        self.close(session);
        self.send(peer, &[Frame::Reset { nonce }]);
        self.reach("reset by a peer");
    }

    fn close(&mut self, session: usize) {
        self.end(session, false);
        let entry = &mut self.sessions[session];
        // What is on its way to it is lost with it; what it has sent is not.
        (entry.state, entry.lossy) = (State::Closed, true);
        let (peer, nonce) = (entry.peer, entry.nonce);
        self.peers[peer].sessions.remove(&nonce);
    }

    fn peer_pings(&mut self) {
        let Some(peer) = self.some_peer(|_| true) else { return };
        let nonce = (1 << 50) + self.peers[peer].pongs_due;
        self.peers[peer].pongs_due += 1;
        self.send(peer, &[Frame::Ping { nonce, pong: false }]);
    }

    /// Sends frames in one record.
    fn send(&mut self, peer: usize, frames: &[Frame<'_>]) {
        let mut records = Vec::new();
        let mut plaintext = Vec::new();
        for frame in frames {
            let bytes = frame.encoded_bytes(PROFILE).unwrap();
            if plaintext.len() + bytes > 65_535 {
                records.extend(self.peers[peer].seal(&plaintext));
                plaintext.clear();
            }
            frame.encode_to_vec(PROFILE, &mut plaintext).unwrap();
        }
        if !plaintext.is_empty() {
            records.extend(self.peers[peer].seal(&plaintext));
        }
        let socket = self.peers[peer].socket;
        self.network.borrow_mut().peer_sends(socket, records);
    }

    // The management core

    fn decide(&mut self) {
        if self.queries.is_empty() {
            return;
        }
        let place = self.below(self.queries.len() as u64) as usize;
        let (caller, session) = self.queries.swap_remove(place);
        let asking = self.sessions[session].peer;
        let target = self.some_peer(|peer| !peer.moving && peer.tag.is_some());
        let target = target.filter(|target| *target != asking && !self.one_in(10));
        let command = match target.and_then(|target| self.peers[target].tag) {
            Some(target) => {
                let query = session.to_string().into_bytes().into();
                (target.core, Command::Offer { caller, target, query, relayed: None, pace: None })
            }
            None => {
                self.end(session, false);
                (caller.core, Command::Reject { leg: caller, code: 4 })
            }
        };
        self.management.send(command.0, command.1).unwrap();
    }

    fn take_reports(&mut self, core: usize) -> bool {
        let mut any = false;
        while let Some(report) = self.management.next_report(CoreId(core as u16)) {
            self.on_report(report);
            any = true;
        }
        any
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Query(Query { leg, nonce, .. }) => self.queries.push((leg, nonce as usize - 1)),
            Report::QueryCancelled { leg } => self.queries.retain(|(waiting, _)| *waiting != leg),
            Report::LinkMoved { from, up, returned } => {
                let peer = self.peer_of(from).expect("nobody's link has moved");
                (self.peers[peer].tag, self.peers[peer].moving) = (Some(up.link), false);
                self.reach(if returned.is_some() { "came back" } else { "moved" });
                self.moves += u64::from(returned.is_none());
            }
            Report::LinkStayed { link, refusal } => {
                if let Some(peer) = self.peer_of(link) {
                    self.peers[peer].moving = false;
                }
                let name = ["peer_moves", "query_pending", "another_moves", "no_such_link"]
                    .into_iter()
                    .zip([
                        "stayed: peer_moves",
                        "stayed: query_pending",
                        "stayed: another_moves",
                        "stayed: no_such_link",
                    ])
                    .find(|(name, _)| *name == refusal.name());
                self.reach(name.map_or("stayed", |(_, step)| step));
            }
            Report::LinkDown { link, .. } => {
                let peer = self.peer_of(link).expect("nobody's link has ended");
                assert!(!self.peers[peer].alive, "a link has ended for no reason: {report:?}");
                (self.peers[peer].tag, self.peers[peer].moving) = (None, false);
            }
            // One that another process had.
            Report::LinkUp(up) => assert!(self.peer_of(up.link).is_some(), "{up:?}"),
            Report::Statistics(_) | Report::Incident { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn peer_of(&self, tag: LinkTag) -> Option<usize> {
        self.peers.iter().position(|peer| peer.tag == Some(tag))
    }

    // Ends

    /// Everybody has turns until nothing goes on.
    fn settle(&mut self) {
        self.network.borrow_mut().eager = true;
        let (mut quiet, mut rounds) = (0, 0);
        while quiet < QUIET_ROUNDS {
            assert!(rounds < ROUNDS_MAX, "something never arrives");
            let mut any = false;
            for core in 0..CORES {
                let before = self.cores[core].port.events();
                self.turn(core);
                any |= self.take_reports(core) || self.cores[core].port.events() > before;
            }
            for peer in 0..self.peers.len() {
                any |= self.read(peer, usize::MAX);
            }
            while !self.queries.is_empty() {
                self.decide();
                any = true;
            }
            quiet = if any { 0 } else { quiet + 1 };
            if quiet == QUIET_ROUNDS && self.peers.iter().any(|peer| peer.moving) {
                // One whose peer takes nothing is given up.
                self.pass_time(MOVE_TIMEOUT.as_nanos() as u64);
                quiet = 0;
            }
            rounds += 1;
        }
        self.network.borrow_mut().eager = false;
        assert!(self.peers.iter().all(|peer| !peer.moving), "a move never ends");
    }

    /// Peers grant what is missing, and every byte arrives.
    pub(super) fn let_everything_arrive(&mut self) {
        self.settle();
        for _ in 0..100 {
            let mut missing = false;
            for session in 0..self.sessions.len() {
                let entry = &self.sessions[session];
                let (State::Open, Some(other)) = (entry.state, entry.other) else { continue };
                if entry.granted < self.sessions[other].sent || self.sessions[session].over {
                    missing |= entry.granted < self.sessions[other].sent;
                    let bytes = self.sessions[other].sent.saturating_sub(entry.granted);
                    if bytes > 0 {
                        self.grant(session, bytes);
                    }
                }
            }
            self.settle();
            if !missing {
                break;
            }
        }
        for (number, entry) in self.sessions.iter().enumerate() {
            let (State::Open, Some(other)) = (entry.state, entry.other) else { continue };
            assert!(!entry.over, "session {number} never ends: {entry:?}");
            assert_eq!(entry.received, self.sessions[other].sent, "session {number} lacks bytes");
        }
    }

    /// All links end; nothing may be left.
    pub(super) fn end_everything(&mut self) {
        for peer in 0..self.peers.len() {
            if self.peers[peer].alive {
                let socket = self.peers[peer].socket;
                self.network.borrow_mut().peer_ends(socket, PeerEnd::Closed);
                self.forget_peer(peer);
            }
        }
        self.settle();
        // Some that have finished took nothing any more.
        self.pass_time(SEND_STALL_TIMEOUT.as_nanos() as u64 + 1);
        self.settle();
        for core in &self.cores {
            let sealed_in_place = core.fabric.statistics.counters.records_sealed_in_place;
            *self.reached.entry("sealed in place").or_default() += sealed_in_place;
            assert_eq!(core.load(), (0, 0), "a session or connection is left");
            assert_eq!(core.blocks_in_use(), 0, "a block is left");
            assert_eq!(core.queued_bytes(), 0, "queue memory is left");
            assert_eq!(core.fabric.switch.frozen_sessions(), 0, "a session is frozen for ever");
            let (total, free) = crate::port::Port::receive_buffers(core.port());
            assert_eq!(total, free, "a receive buffer is left");
        }
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let mut drops = waystation_relay::drop_reason::DropCounters::default();
        self.cores.iter().for_each(|core| drops.add(core.fabric.switch.drops()));
        let named = waystation_relay::drop_reason::DropReason::ALL
            .iter()
            .map(|reason| (reason.name(), drops.events(*reason)));
        named.filter(|(_, events)| *events > 0).collect()
    }

    // Small things

    fn some_peer(&self, fits: impl Fn(&Peer) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = (0..self.peers.len())
            .filter(|&peer| self.peers[peer].alive && fits(&self.peers[peer]))
            .collect();
        match fitting.len() {
            0 => None,
            count => Some(fitting[self.below(count as u64) as usize]),
        }
    }

    fn some_open_session(&self) -> Option<usize> {
        let peer = self.some_peer(|peer| !peer.sessions.is_empty())?;
        let sessions: Vec<usize> = self.peers[peer].sessions.values().copied().collect();
        let session = sessions[self.below(sessions.len() as u64) as usize];
        (self.sessions[session].state == State::Open).then_some(session)
    }

    fn reach(&mut self, step: &'static str) {
        *self.reached.entry(step).or_default() += 1;
    }

    fn below(&self, end: u64) -> u64 {
        self.network.borrow_mut().random.below(end)
    }

    fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }
}

impl Session {
    fn new(peer: usize, nonce: u64, state: State, granted: u64) -> Self {
        Self {
            peer,
            nonce,
            other: None,
            state,
            credit: 0,
            sent: 0,
            granted,
            received: 0,
            lossy: false,
            over: false,
        }
    }
}

/// Cores without links on the ports of a network.
fn new_cores(network: &Rc<RefCell<Network>>) -> (Vec<DataCore<SimulatedPort>>, ManagementEnd) {
    new_cores_with(network, SESSIONS_PER_CORE)
}

fn new_cores_with(
    network: &Rc<RefCell<Network>>,
    sessions: usize,
) -> (Vec<DataCore<SimulatedPort>>, ManagementEnd) {
    let port = PortLimits { receive_buffers: 16, receive_buffer_bytes: 65_536, streams: 16 };
    let limits = CoreLimits {
        window_bytes: WINDOW as u32,
        queue_bytes: 64 << 20,
        block_bytes: 400 * BLOCK_BYTES,
    };
    let mut snapshot = snapshot(0);
    let room = &mut snapshot.limits;
    (room.links, room.sessions, room.sessions_per_link) = (LINKS_PER_CORE, sessions, 200);
    data_cores_with(CORES, network, port, limits, &Arc::new(snapshot))
}

/// Bytes of a session's stream from a position on.
fn pattern(session: usize, position: u64, count: u64) -> Vec<u8> {
    let seed = (session as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let byte = |at: u64| ((seed ^ at).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 40) as u8;
    (position..position + count).map(byte).collect()
}

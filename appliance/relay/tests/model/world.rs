//! The cores, links, rings and quotas of one sequence, and how effects and bytes travel.

use crate::departures::Departure;
use crate::inner::Inner;
use crate::moves::Move;
use crate::session::{Session, State};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use waystation_astral::frame::{Frame, Profile};
use waystation_proving::random::Random;
use waystation_relay::ids::{CoreId, LegTag};
use waystation_relay::leg::Signal;
use waystation_relay::quota::{Quota, QuotaLimits};
use waystation_relay::switch::{DataSink, Effect, Route, Switch, SwitchLimits};

pub(crate) const WINDOW: u64 = 16_384;
pub(crate) const TIMEOUT_NS: u64 = 1_000_000_000;
pub(crate) const BURST_BYTES: u64 = 16_384;
pub(crate) const LINKS_PER_CORE: u64 = 3;
pub(crate) const SESSIONS_PER_LINK: usize = 6;

/// A link, alive or not. Places of a core are used again by later links.
pub(crate) struct Link {
    pub(crate) core: usize,
    pub(crate) place: u32,
    pub(crate) profile: Profile,
    /// Whose it is: a peer may move sessions between its links on one core.
    pub(crate) identity: u64,
    pub(crate) up: bool,
    /// It changes cores: nothing of its peer arrives, and nothing is sent on it.
    pub(crate) quiet: bool,
}

pub(crate) enum Crossing {
    Signal(Signal),
    Payload(LegTag, Vec<u8>),
}

/// A quota that paces, and what has passed under it.
pub(crate) struct Rate {
    pub(crate) quota: Arc<Quota>,
    pub(crate) bytes_per_s: u64,
    pub(crate) passed: u64,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now_ns: u64,
    pub(crate) started_ns: u64,
    pub(crate) cores: Vec<Switch>,
    pub(crate) links: Vec<Link>,
    /// By session number; its nonce is one more.
    pub(crate) sessions: Vec<Session>,
    /// By sender and receiver.
    pub(crate) rings: Vec<Vec<VecDeque<Crossing>>>,
    /// Input the management core has not taken from the ring: session, leg, bytes.
    pub(crate) reports: VecDeque<(usize, LegTag, usize)>,
    pub(crate) quotas: Vec<Arc<Quota>>,
    pub(crate) rates: Vec<Rate>,
    /// Queue memory is so short that any session may end for want of it.
    pub(crate) scarce: bool,
    /// Peers move their sessions all the time.
    pub(crate) restless: bool,
    /// Links change cores all the time, and nothing makes them stay.
    pub(crate) nomadic: bool,
    /// Resets that are answers to frames for unknown sessions.
    pub(crate) stray_resets: usize,
    /// A reset for a session that is on another link than this.
    pub(crate) expected_reset: Option<(usize, usize)>,
    pub(crate) moves: Vec<Move>,
    /// Links that change cores.
    pub(crate) departures: Vec<Departure>,
    /// Links of our own inside sessions, by core and place.
    pub(crate) inner: BTreeMap<(usize, u32), Inner>,
    pub(crate) delivered: u64,
    /// How often each kind of step was reached.
    pub(crate) reached: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(mut random: Random) -> Self {
        let cores = 1 + random.below(3) as usize;
        let scarce = random.one_in(8);
        let nomadic = random.one_in(2);
        let restless = !nomadic && random.one_in(3);
        let limits = SwitchLimits {
            window_bytes: WINDOW as u32,
            sessions_per_link: SESSIONS_PER_LINK,
            sessions: 14,
            queue_bytes: if scarce { 2 * 4096 } else { 64 << 20 },
            query_timeout_ns: TIMEOUT_NS,
        };
        let quotas = (0..3).map(|most| QuotaLimits {
            sessions: 2 + 3 * most,
            bytes_per_s: None,
            burst_bytes: 0,
        });
        let rates = [50_000, 5_000_000].map(|bytes_per_s| Rate {
            quota: Quota::new(QuotaLimits {
                sessions: 1,
                bytes_per_s: Some(bytes_per_s),
                burst_bytes: BURST_BYTES,
            }),
            bytes_per_s,
            passed: 0,
        });
        let started_ns = 5_000_000_000;
        let mut world = Self {
            now_ns: started_ns,
            started_ns,
            cores: (0..cores).map(|core| Switch::new(CoreId(core as u16), limits)).collect(),
            links: Vec::new(),
            sessions: Vec::new(),
            rings: (0..cores).map(|_| (0..cores).map(|_| VecDeque::new()).collect()).collect(),
            reports: VecDeque::new(),
            quotas: quotas.map(Quota::new).collect(),
            rates: rates.into(),
            scarce,
            restless,
            nomadic,
            stray_resets: 0,
            expected_reset: None,
            moves: Vec::new(),
            departures: Vec::new(),
            inner: BTreeMap::new(),
            delivered: 0,
            reached: BTreeMap::new(),
            random,
        };
        for _ in 0..3 {
            world.bring_up_a_link();
        }
        world
    }

    /// One operation of somebody.
    pub(crate) fn step(&mut self) {
        if self.nomadic && self.random.one_in(4) {
            self.somebody_changes_cores();
            return;
        }
        match self.random.below(100) {
            0..=1 => self.bring_up_a_link(),
            2 => self.take_down_a_link(),
            3..=4 => self.govern_a_link(),
            5..=46 => self.peer_acts(),
            47..=49 => self.somebody_changes_cores(),
            50..=66 => self.management_acts(),
            67..=74 => self.cross_something(),
            75..=92 => self.fill_something(),
            _ => {
                let wait_ns = [1_000_000, 5_000_000, 100_000_000, 400_000_000];
                let most_ns = self.random.of(&wait_ns).unwrap_or(1);
                let wait_ns = self.random.below(most_ns);
                self.pass_time(wait_ns);
            }
        }
    }

    // Links

    fn bring_up_a_link(&mut self) {
        let core = self.random.below(self.cores.len() as u64) as usize;
        let place = self.random.below(LINKS_PER_CORE) as u32;
        if self.link_at(core, place).is_some() {
            return;
        }
        let profile = self.random.of(&Profile::ALL).unwrap_or(Profile::P4);
        self.cores[core].link_up(place, profile);
        let identity = self.random.below(2);
        self.links.push(Link { core, place, profile, identity, up: true, quiet: false });
    }

    fn take_down_a_link(&mut self) {
        let links = self.links_up();
        if let Some(link) = self.random.of(&links) {
            self.take_down(link);
        }
    }

    pub(crate) fn take_down(&mut self, link: usize) {
        let Link { core, place, .. } = self.links[link];
        self.links[link].up = false;
        self.forget_sessions_of(link);
        self.cores[core].link_down(place);
        self.apply_effects(core);
    }

    /// For the peer of a link all its sessions are over.
    pub(crate) fn forget_sessions_of(&mut self, link: usize) {
        for session in 0..self.sessions.len() {
            if self.lives_on(session, link) {
                self.close(session);
            }
        }
    }

    fn govern_a_link(&mut self) {
        let links = self.links_up();
        let Some(link) = self.random.of(&links) else { return };
        let quota = self.random.below(4) as usize;
        let quota = self.quotas.get(quota).cloned();
        let Link { core, place, .. } = self.links[link];
        self.cores[core].govern(place, quota);
        self.apply_effects(core);
    }

    pub(crate) fn links_up(&self) -> Vec<usize> {
        (0..self.links.len()).filter(|&link| self.acts(link)).collect()
    }

    /// Whether a link is up and its peer is heard.
    pub(crate) fn acts(&self, link: usize) -> bool {
        self.links[link].up && !self.links[link].quiet
    }

    pub(crate) fn link_at(&self, core: usize, place: u32) -> Option<usize> {
        self.links.iter().position(|link| link.up && (link.core, link.place) == (core, place))
    }

    // Time, rings and records

    pub(crate) fn pass_time(&mut self, ns: u64) {
        self.now_ns += ns;
        for core in 0..self.cores.len() {
            self.cores[core].tick(self.now_ns);
            self.apply_effects(core);
        }
    }

    fn cross_something(&mut self) {
        let cores = self.cores.len() as u64;
        let (from, to) = (self.random.below(cores) as usize, self.random.below(cores) as usize);
        for _ in 0..=self.random.below(4) {
            self.cross_one(from, to);
        }
    }

    pub(crate) fn cross_one(&mut self, from: usize, to: usize) -> bool {
        let Some(crossing) = self.rings[from][to].pop_front() else { return false };
        match crossing {
            Crossing::Signal(signal) => self.cores[to].hear(signal),
            Crossing::Payload(leg, payload) => {
                let room = self.random.one_in(2);
                let route = self.cores[to].deliver(self.now_ns, leg, payload.len(), |_| room);
                self.carry(to, route, &payload);
            }
        }
        self.apply_effects(to);
        true
    }

    fn fill_something(&mut self) {
        let links = self.links_up();
        if let Some(link) = self.random.of(&links) {
            if self.random.one_in(4) {
                let (Link { core, place, .. }, stuck) = (&self.links[link], self.random.one_in(2));
                self.cores[*core].set_stuck(*place, stuck);
                self.apply_effects(self.links[link].core);
            }
            let room = 1 + self.random.below(40_000) as usize;
            self.fill(link, room);
        }
    }

    pub(crate) fn fill(&mut self, link: usize, room: usize) {
        let Link { core, place, .. } = self.links[link];
        let mut sink = Sink { room, frames: Vec::new() };
        self.cores[core].fill(self.now_ns, place, &mut sink);
        for (nonce, payload) in sink.frames {
            self.on_data(core, place, nonce, &payload);
        }
        self.apply_effects(core);
    }

    /// Sends bytes where the switch wants them.
    pub(crate) fn carry(&mut self, core: usize, route: Route, payload: &[u8]) {
        match route {
            Route::Direct { link, nonce } => self.on_data(core, link, nonce, payload),
            Route::Queue { leg } => self.cores[core].enqueue(leg, payload, self.now_ns),
            Route::Cross { to } => {
                let crossing = Crossing::Payload(to, payload.to_vec());
                self.rings[core][to.core.index()].push_back(crossing);
            }
            Route::Management { leg } => self.on_input(leg, payload),
            Route::Inner { link } => self.on_inner_payload(core, link, payload),
            Route::Park { was } => {
                self.reach("parked");
                self.cores[core].park(was, payload, self.now_ns);
            }
            Route::Nowhere => {}
        }
    }

    pub(crate) fn apply_effects(&mut self, core: usize) {
        let mut effects = Vec::new();
        self.cores[core].take_effects(&mut effects);
        for effect in effects {
            match effect {
                Effect::Frame { link, frame } => self.on_frame(core, link, &frame),
                Effect::Query { link, query } => {
                    let frame = Frame::Query { nonce: query.nonce, window: 0, query: &[] };
                    self.on_frame(core, link, &frame);
                }
                Effect::Cross(signal) => {
                    let to = signal.core().index();
                    assert_ne!(to, core, "{signal:?} need not cross");
                    self.rings[core][to].push_back(Crossing::Signal(signal));
                }
                Effect::CrossPayload { to, bytes, .. } => {
                    let crossing = Crossing::Payload(to, bytes.into());
                    self.rings[core][to.core.index()].push_back(crossing);
                }
                Effect::Ask { leg, nonce, .. } => self.on_query(leg, nonce),
                Effect::Cancelled { leg } => self.on_cancelled(leg),
                Effect::Asked { ask, leg, code } => self.on_asked(ask as usize, leg, code),
                Effect::Ended { leg } => self.on_ended(leg),
                Effect::Incident { .. } => {}
                Effect::Migration { operation, step } => self.on_migration(operation, step),
                Effect::InnerOpened { link } => self.on_inner_opened(core, link),
                Effect::InnerRefused { link, reason } => self.on_inner_refused(core, link, reason),
                Effect::InnerEnded { link } => self.on_inner_ended(core, link),
            }
        }
    }

    pub(crate) fn reach(&mut self, step: &'static str) {
        *self.reached.entry(step).or_default() += 1;
    }

    /// The session is over for its peer, so whatever it is joined to may end.
    pub(crate) fn close(&mut self, session: usize) {
        self.sessions[session].state = State::Closed;
        self.sessions[session].over = true;
        if let Some(partner) = self.sessions[session].partner {
            self.sessions[partner].over = true;
        }
    }
}

struct Sink {
    room: usize,
    frames: Vec<(u64, Vec<u8>)>,
}

impl DataSink for Sink {
    fn room_bytes(&mut self) -> usize {
        self.room
    }

    fn begin(&mut self, nonce: u64, payload_bytes: usize, _stamp_ns: u64) {
        assert!(payload_bytes > 0, "an empty data frame");
        self.room = self.room.checked_sub(payload_bytes).expect("more than there is room for");
        self.frames.push((nonce, Vec::with_capacity(payload_bytes)));
    }

    fn payload(&mut self, bytes: &[u8]) {
        let (_, payload) = self.frames.last_mut().unwrap();
        payload.extend_from_slice(bytes);
        assert!(payload.len() <= payload.capacity(), "more than was begun");
    }
}

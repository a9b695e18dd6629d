//! Switches with links, joined by queues instead of rings, for the tests of this directory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use waystation_astral::frame::{Frame, Profile};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LegTag};
use waystation_relay::leg::{MigrationStep, Signal};
use waystation_relay::quota::Quota;
use waystation_relay::switch::{
    DataSink, Effect, InboundQuery, OutboundQuery, Relayed, Route, Switch, SwitchLimits,
};

pub(crate) const WINDOW: u32 = 1 << 20;
pub(crate) const ROUTE: &[u8] = b"gateway.node_list";
pub(crate) const TIMEOUT_NS: u64 = 60_000_000_000;

/// What a link's peer sees, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Query { nonce: u64, window: u32, relayed: Option<Relayed> },
    Response { nonce: u64, code: u8, window: u32 },
    Read { nonce: u64, bytes: u32 },
    Data { nonce: u64, payload: Vec<u8> },
    Reset { nonce: u64 },
    Migrate { nonce: u64 },
}

/// What the management core hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Asked { ask: u64, leg: LegTag, code: u8 },
    Input { leg: LegTag, bytes: Vec<u8> },
    Ended { leg: LegTag },
    Migration(MigrationStep),
}

pub(crate) enum Crossing {
    Signal(Signal),
    Payload(LegTag, Vec<u8>),
}

/// Cores with links, joined by queues instead of rings.
pub(crate) struct World {
    pub(crate) cores: Vec<Switch>,
    pub(crate) links: BTreeMap<(usize, u32), VecDeque<Seen>>,
    pub(crate) crossing: VecDeque<Crossing>,
    pub(crate) asked: Vec<LegTag>,
    pub(crate) relayed: Vec<Option<Relayed>>,
    /// What the management core hears about sessions of the node itself, in order.
    pub(crate) heard: Vec<Heard>,
    /// Links of the node's own whose sessions were opened, and have ended.
    pub(crate) inner_opened: Vec<u32>,
    pub(crate) inner_ended: Vec<u32>,
    /// Whether the management core takes what is handed up at once.
    pub(crate) hands_up: bool,
    pub(crate) cancelled: Vec<LegTag>,
    pub(crate) has_room: bool,
    pub(crate) now_ns: u64,
}

impl World {
    pub(crate) fn new(cores: usize) -> Self {
        Self::with_queue_bytes(cores, 64 << 20)
    }

    pub(crate) fn with_queue_bytes(cores: usize, queue_bytes: usize) -> Self {
        let limits = SwitchLimits {
            window_bytes: WINDOW,
            sessions_per_link: 100,
            sessions: 150,
            queue_bytes,
            query_timeout_ns: TIMEOUT_NS,
        };
        Self {
            cores: (0..cores).map(|core| Switch::new(CoreId(core as u16), limits)).collect(),
            links: BTreeMap::new(),
            crossing: VecDeque::new(),
            asked: Vec::new(),
            relayed: Vec::new(),
            heard: Vec::new(),
            inner_opened: Vec::new(),
            inner_ended: Vec::new(),
            hands_up: true,
            cancelled: Vec::new(),
            has_room: true,
            now_ns: 1,
        }
    }

    pub(crate) fn link(&mut self, core: usize, link: u32, profile: Profile) -> (usize, u32) {
        self.cores[core].link_up(link, profile);
        self.links.insert((core, link), VecDeque::new());
        (core, link)
    }

    pub(crate) fn settle(&mut self) {
        loop {
            let mut effects = Vec::new();
            for core in 0..self.cores.len() {
                self.cores[core].take_effects(&mut effects);
                for effect in effects.drain(..) {
                    self.apply(core, effect);
                }
            }
            let Some(crossing) = self.crossing.pop_front() else { break };
            match crossing {
                Crossing::Signal(signal) => self.cores[signal.core().index()].hear(signal),
                Crossing::Payload(to, payload) => {
                    let (core, room) = (to.core.index(), self.has_room);
                    let route = self.cores[core].deliver(self.now_ns, to, payload.len(), |_| room);
                    self.carry(core, route, &payload);
                }
            }
        }
    }

    pub(crate) fn apply(&mut self, core: usize, effect: Effect) {
        let (link, seen) = match effect {
            Effect::Frame { link, frame } => (link, seen(&frame)),
            Effect::Query { link, query: OutboundQuery { nonce, relayed, .. } } => {
                (link, Seen::Query { nonce, window: WINDOW, relayed })
            }
            Effect::Cross(signal) => return self.crossing.push_back(Crossing::Signal(signal)),
            Effect::Ask { leg, relayed, .. } => {
                self.relayed.push(relayed);
                return self.asked.push(leg);
            }
            Effect::Asked { ask, leg, code } => {
                return self.heard.push(Heard::Asked { ask, leg, code });
            }
            Effect::Ended { leg } => return self.heard.push(Heard::Ended { leg }),
            Effect::Migration { step, .. } => return self.heard.push(Heard::Migration(step)),
            Effect::InnerOpened { link } => return self.inner_opened.push(link),
            Effect::InnerRefused { link, .. } | Effect::InnerEnded { link } => {
                return self.inner_ended.push(link);
            }
            Effect::Cancelled { leg } => return self.cancelled.push(leg),
            Effect::CrossPayload { .. } | Effect::Incident { .. } => return,
        };
        if let Some(frames) = self.links.get_mut(&(core, link)) {
            frames.push_back(seen);
        }
    }

    pub(crate) fn carry(&mut self, core: usize, route: Route, payload: &[u8]) {
        match route {
            Route::Direct { link, nonce } => {
                let data = Seen::Data { nonce, payload: payload.to_vec() };
                self.links.get_mut(&(core, link)).unwrap().push_back(data);
            }
            Route::Queue { leg } => self.cores[core].enqueue(leg, payload, self.now_ns),
            Route::Cross { to } => {
                self.crossing.push_back(Crossing::Payload(to, payload.to_vec()));
            }
            Route::Management { leg } => {
                self.heard.push(Heard::Input { leg, bytes: payload.to_vec() });
                if self.hands_up {
                    self.cores[core].input_handed_up(leg, payload.len());
                }
            }
            Route::Inner { .. } | Route::Park { .. } | Route::Nowhere => {}
        }
    }

    pub(crate) fn data(&mut self, (core, link): (usize, u32), nonce: u64, payload: &[u8]) -> Route {
        let room = self.has_room;
        let foretold = self.cores[core].direct_link(self.now_ns, link, nonce, payload.len());
        let route = self.cores[core].route(self.now_ns, link, nonce, payload.len(), |_| room);
        assert_foretold(foretold.filter(|_| room), route);
        self.carry(core, route, payload);
        self.settle();
        route
    }

    pub(crate) fn query(
        &mut self,
        (core, link): (usize, u32),
        nonce: u64,
        window: u32,
        query: &[u8],
    ) {
        let inbound = InboundQuery { nonce, window, query, relayed: None };
        self.cores[core].query(self.now_ns, link, inbound);
        self.settle();
    }

    /// Asks for a query that the management core has to decide about.
    pub(crate) fn pending(&mut self, link: (usize, u32), nonce: u64, window: u32) -> LegTag {
        self.query(link, nonce, window, ROUTE);
        self.asked.pop().unwrap()
    }

    /// Offers a pending query on a link, in these names.
    pub(crate) fn offer_as(
        &mut self,
        caller: LegTag,
        b: (usize, u32),
        nonce: u64,
        relayed: Option<Relayed>,
    ) {
        let query = OutboundQuery { nonce, query: ROUTE.into(), relayed };
        self.cores[b.0].offer(self.now_ns, caller, b.1, query, None);
        self.settle();
    }

    /// A session from `a` to `b` whose two legs these quotas pace: `pace_a` what `a` sends.
    pub(crate) fn join_paced(
        &mut self,
        a: (usize, u32),
        b: (usize, u32),
        nonce: u64,
        (pace_a, pace_b): (Option<Arc<Quota>>, Option<Arc<Quota>>),
    ) -> u64 {
        let caller = self.pending(a, nonce, u32::MAX);
        if let Some(pace_b) = pace_b {
            self.cores[a.0].pace(caller, pace_b);
        }
        let offered = nonce + 1_000_000;
        let query = OutboundQuery { nonce: offered, query: ROUTE.into(), relayed: None };
        self.cores[b.0].offer(self.now_ns, caller, b.1, query, pace_a);
        self.settle();
        self.response(b, offered, 0, u32::MAX);
        self.seen(a);
        self.seen(b);
        offered
    }

    /// Asks the peer of a link for the node itself.
    pub(crate) fn ask(&mut self, (core, link): (usize, u32), ask: u64, nonce: u64, input: u32) {
        let query =
            OutboundQuery { nonce, query: b"objects.push".as_slice().into(), relayed: None };
        self.cores[core].ask(self.now_ns, ask, link, query, input);
        self.settle();
    }

    pub(crate) fn down(&mut self, (core, link): (usize, u32)) {
        self.cores[core].link_down(link);
        self.settle();
    }

    pub(crate) fn heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }

    pub(crate) fn response(
        &mut self,
        (core, link): (usize, u32),
        nonce: u64,
        code: u8,
        window: u32,
    ) {
        self.cores[core].response(self.now_ns, link, nonce, code, window);
        self.settle();
    }

    pub(crate) fn reset(&mut self, (core, link): (usize, u32), nonce: u64) {
        self.cores[core].reset(self.now_ns, link, nonce);
        self.settle();
    }

    pub(crate) fn read(&mut self, (core, link): (usize, u32), nonce: u64, bytes: u32) {
        self.cores[core].read(link, nonce, bytes);
        self.settle();
    }

    pub(crate) fn tick(&mut self, ns: u64) {
        self.now_ns += ns;
        for core in &mut self.cores {
            core.tick(self.now_ns);
        }
        self.settle();
    }

    pub(crate) fn fill(&mut self, (core, link): (usize, u32), room: usize) {
        let mut sink = Collector { room, frames: Vec::new() };
        self.cores[core].fill(self.now_ns, link, &mut sink);
        for data in sink.frames {
            self.links.get_mut(&(core, link)).unwrap().push_back(data);
        }
        self.settle();
    }

    pub(crate) fn seen(&mut self, link: (usize, u32)) -> Vec<Seen> {
        self.links.get_mut(&link).unwrap().drain(..).collect()
    }

    /// A session from `a` to `b`, accepted with these windows; returns the nonce at `b`.
    pub(crate) fn join(
        &mut self,
        a: (usize, u32),
        b: (usize, u32),
        nonce: u64,
        windows: (u32, u32),
    ) -> u64 {
        self.offer(a, b, nonce, windows.0);
        let offered = nonce + 1_000_000;
        self.response(b, offered, 0, windows.1);
        self.tick(3_000_000);
        self.seen(a);
        self.seen(b);
        offered
    }

    pub(crate) fn offer(&mut self, a: (usize, u32), b: (usize, u32), nonce: u64, window: u32) {
        let caller = self.pending(a, nonce, window);
        self.offer_as(caller, b, nonce + 1_000_000, None);
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.cores.iter().map(|core| core.drops().events(reason)).sum()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.cores.iter().map(Switch::sessions).sum()
    }
}

pub(crate) struct Collector {
    room: usize,
    frames: Vec<Seen>,
}

impl DataSink for Collector {
    fn room_bytes(&mut self) -> usize {
        self.room
    }

    fn begin(&mut self, nonce: u64, payload_bytes: usize, _stamp_ns: u64) {
        self.room -= payload_bytes;
        self.frames.push(Seen::Data { nonce, payload: Vec::new() });
    }

    fn payload(&mut self, bytes: &[u8]) {
        let Some(Seen::Data { payload, .. }) = self.frames.last_mut() else { panic!() };
        payload.extend_from_slice(bytes);
    }
}

pub(crate) fn seen(frame: &Frame<'_>) -> Seen {
    match *frame {
        Frame::Response { nonce, code, window } => Seen::Response { nonce, code, window },
        Frame::Read { nonce, bytes } => Seen::Read { nonce, bytes },
        Frame::Reset { nonce } => Seen::Reset { nonce },
        Frame::Migrate { nonce } => Seen::Migrate { nonce },
        ref other => panic!("{other:?}"),
    }
}

pub(crate) fn payload_of(seen: &[Seen]) -> Vec<u8> {
    seen.iter()
        .filter_map(|seen| match seen {
            Seen::Data { payload, .. } => Some(payload.as_slice()),
            _ => None,
        })
        .flatten()
        .copied()
        .collect()
}

/// Runs a test with both links on one core and with each on its own.
pub(crate) fn on_one_core_and_two(test: impl Fn(&mut World, (usize, u32), (usize, u32))) {
    for cores in [1, 2] {
        let mut world = World::new(cores);
        let a = world.link(0, 3, Profile::P4);
        let b = world.link(cores - 1, 5, Profile::P4);
        test(&mut world, a, b);
        assert_eq!(world.crossing.len(), 0);
    }
}

/// What is said of a route beforehand is what it becomes.
fn assert_foretold(foretold: Option<u32>, route: Route) {
    let direct = match route {
        Route::Direct { link, .. } => Some(link),
        _ => None,
    };
    assert_eq!(foretold, direct, "{route:?}");
}

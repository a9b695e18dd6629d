//! The switch from outside: what goes out on each link for what came in, on one core and on two.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it skips"
)]

use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use waystation_astral::frame::{Frame, Profile};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LegTag};
use waystation_relay::leg::Signal;
use waystation_relay::limits::{CHUNK_BYTES, RESET_GRACE_NS};
use waystation_relay::switch::{DataSink, Effect, Route, Switch, SwitchLimits};

const WINDOW: u32 = 1 << 20;
const ROUTE: &[u8] = b"gateway.node_list";
const TIMEOUT_NS: u64 = 60_000_000_000;

/// What a link's peer sees, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Query { nonce: u64, window: u32 },
    Response { nonce: u64, code: u8, window: u32 },
    Read { nonce: u64, bytes: u32 },
    Data { nonce: u64, payload: Vec<u8> },
    Reset { nonce: u64 },
}

enum Crossing {
    Signal(Signal),
    Payload(LegTag, Vec<u8>),
}

/// Cores with links, joined by queues instead of rings.
struct World {
    cores: Vec<Switch>,
    links: BTreeMap<(usize, u32), VecDeque<Seen>>,
    crossing: VecDeque<Crossing>,
    asked: Vec<LegTag>,
    cancelled: Vec<LegTag>,
    has_room: bool,
    now_ns: u64,
}

impl World {
    fn new(cores: usize) -> Self {
        Self::with_queue_bytes(cores, 64 << 20)
    }

    fn with_queue_bytes(cores: usize, queue_bytes: usize) -> Self {
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
            cancelled: Vec::new(),
            has_room: true,
            now_ns: 1,
        }
    }

    fn link(&mut self, core: usize, link: u32, profile: Profile) -> (usize, u32) {
        self.cores[core].link_up(link, profile);
        self.links.insert((core, link), VecDeque::new());
        (core, link)
    }

    fn settle(&mut self) {
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
                    let route = self.cores[core].deliver(to, payload.len(), |_| room);
                    self.carry(core, route, &payload);
                }
            }
        }
    }

    fn apply(&mut self, core: usize, effect: Effect) {
        let (link, seen) = match effect {
            Effect::Frame { link, frame } => (link, seen(&frame)),
            Effect::Query { link, nonce, .. } => (link, Seen::Query { nonce, window: WINDOW }),
            Effect::Cross(signal) => return self.crossing.push_back(Crossing::Signal(signal)),
            Effect::Ask { leg, .. } => return self.asked.push(leg),
            Effect::Cancelled { leg } => return self.cancelled.push(leg),
            Effect::InnerEnded { .. } | Effect::Incident { .. } => return,
        };
        if let Some(frames) = self.links.get_mut(&(core, link)) {
            frames.push_back(seen);
        }
    }

    fn carry(&mut self, core: usize, route: Route, payload: &[u8]) {
        match route {
            Route::Direct { link, nonce } => {
                let data = Seen::Data { nonce, payload: payload.to_vec() };
                self.links.get_mut(&(core, link)).unwrap().push_back(data);
            }
            Route::Queue { leg } => self.cores[core].enqueue(leg, payload, self.now_ns),
            Route::Cross { to } => {
                self.crossing.push_back(Crossing::Payload(to, payload.to_vec()));
            }
            Route::Inner { .. } | Route::Nowhere => {}
        }
    }

    fn data(&mut self, (core, link): (usize, u32), nonce: u64, payload: &[u8]) -> Route {
        let room = self.has_room;
        let route = self.cores[core].route(link, nonce, payload.len(), |_| room);
        self.carry(core, route, payload);
        self.settle();
        route
    }

    fn query(&mut self, (core, link): (usize, u32), nonce: u64, window: u32, query: &[u8]) {
        self.cores[core].query(self.now_ns, link, nonce, window, query);
        self.settle();
    }

    fn response(&mut self, (core, link): (usize, u32), nonce: u64, code: u8, window: u32) {
        self.cores[core].response(self.now_ns, link, nonce, code, window);
        self.settle();
    }

    fn reset(&mut self, (core, link): (usize, u32), nonce: u64) {
        self.cores[core].reset(self.now_ns, link, nonce);
        self.settle();
    }

    fn read(&mut self, (core, link): (usize, u32), nonce: u64, bytes: u32) {
        self.cores[core].read(link, nonce, bytes);
        self.settle();
    }

    fn tick(&mut self, ns: u64) {
        self.now_ns += ns;
        for core in &mut self.cores {
            core.tick(self.now_ns);
        }
        self.settle();
    }

    fn fill(&mut self, (core, link): (usize, u32), room: usize) {
        let mut sink = Collector { room, frames: Vec::new() };
        self.cores[core].fill(link, &mut sink);
        for data in sink.frames {
            self.links.get_mut(&(core, link)).unwrap().push_back(data);
        }
        self.settle();
    }

    fn seen(&mut self, link: (usize, u32)) -> Vec<Seen> {
        self.links.get_mut(&link).unwrap().drain(..).collect()
    }

    /// A session from `a` to `b`, accepted with these windows; returns the nonce at `b`.
    fn join(&mut self, a: (usize, u32), b: (usize, u32), nonce: u64, windows: (u32, u32)) -> u64 {
        self.offer(a, b, nonce, windows.0);
        let offered = nonce + 1_000_000;
        self.response(b, offered, 0, windows.1);
        self.tick(3_000_000);
        self.seen(a);
        self.seen(b);
        offered
    }

    fn offer(&mut self, a: (usize, u32), b: (usize, u32), nonce: u64, window: u32) {
        self.query(a, nonce, window, ROUTE);
        let caller = self.asked.pop().unwrap();
        self.cores[b.0].offer(self.now_ns, caller, b.1, nonce + 1_000_000, ROUTE.into());
        self.settle();
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.cores.iter().map(|core| core.drops().events(reason)).sum()
    }

    fn sessions(&self) -> usize {
        self.cores.iter().map(Switch::sessions).sum()
    }
}

struct Collector {
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

fn seen(frame: &Frame<'_>) -> Seen {
    match *frame {
        Frame::Response { nonce, code, window } => Seen::Response { nonce, code, window },
        Frame::Read { nonce, bytes } => Seen::Read { nonce, bytes },
        Frame::Reset { nonce } => Seen::Reset { nonce },
        ref other => panic!("{other:?}"),
    }
}

fn payload_of(seen: &[Seen]) -> Vec<u8> {
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
fn on_one_core_and_two(test: impl Fn(&mut World, (usize, u32), (usize, u32))) {
    for cores in [1, 2] {
        let mut world = World::new(cores);
        let a = world.link(0, 3, Profile::P4);
        let b = world.link(cores - 1, 5, Profile::P4);
        test(&mut world, a, b);
        assert_eq!(world.crossing.len(), 0);
    }
}

#[test]
fn query_nobody_serves_is_rejected_with_code_1_and_nothing_else() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P0);
    world.query(a, 7, WINDOW, b"conform.none");
    assert_eq!(world.seen(a), [Seen::Response { nonce: 7, code: 1, window: 0 }]);
    assert_eq!((world.sessions(), world.drops(DropReason::UnknownQuery)), (0, 1));
}

#[test]
fn joined_legs_pass_data_within_credit_and_return_it_in_steps() {
    on_one_core_and_two(|world, a, b| {
        let at_b = world.join(a, b, 9, (WINDOW, WINDOW));
        for _ in 0..64 {
            world.data(a, 9, &[7; 4096]);
        }
        let data = world.seen(b);
        assert_eq!(payload_of(&data).len(), 64 * 4096);
        assert!(data.iter().all(|seen| matches!(seen, Seen::Data { nonce, .. } if *nonce == at_b)));
        assert_eq!(world.seen(a), [Seen::Read { nonce: 9, bytes: WINDOW / 4 }]);
    });
}

#[test]
fn code_of_the_target_reaches_the_caller() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        assert_eq!(world.seen(b), [Seen::Query { nonce: 1_000_009, window: WINDOW }]);
        world.response(b, 1_000_009, 6, 0);
        assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 6, window: 0 }]);
        assert_eq!((world.sessions(), world.drops(DropReason::TargetRejected)), (0, 1));
    });
}

#[test]
fn reset_is_passed_on_behind_all_data_received_before_it() {
    on_one_core_and_two(|world, a, b| {
        let at_b = world.join(a, b, 9, (WINDOW, 1000));
        let sent: Vec<u8> = (0..200_000_u32).map(|i| (i % 253) as u8).collect();
        for piece in sent.chunks(8192) {
            world.data(a, 9, piece);
        }
        world.reset(a, 9);
        let mut got = payload_of(&world.seen(b));
        let mut ended = false;
        while !ended {
            world.fill(b, 1 << 20);
            let seen = world.seen(b);
            got.extend(payload_of(&seen));
            ended = seen.last() == Some(&Seen::Reset { nonce: at_b });
            assert_eq!(ended, got.len() == sent.len(), "the reset comes with the last byte");
            world.read(b, at_b, 1000);
        }
        assert!(got == sent);
        assert_eq!(world.sessions(), 0);
        assert_eq!(world.cores[b.0].queue_bytes_in_use(), 0);
    });
}

#[test]
fn one_byte_beyond_the_window_resets_the_session_once_and_loses_nothing_before_it() {
    on_one_core_and_two(|world, a, b| {
        let at_b = world.join(a, b, 9, (WINDOW, 0));
        for _ in 0..WINDOW / 8192 {
            world.data(a, 9, &[1; 8192]);
        }
        assert_eq!(world.seen(a), []);
        assert_eq!(world.data(a, 9, &[1]), Route::Nowhere);
        assert_eq!(world.seen(a), [Seen::Reset { nonce: 9 }]);
        assert_eq!(world.drops(DropReason::CreditOverflow), 1);
        world.read(b, at_b, WINDOW + 100);
        world.fill(b, 2 << 20);
        let seen = world.seen(b);
        assert_eq!(payload_of(&seen).len(), WINDOW as usize);
        assert_eq!(seen.last(), Some(&Seen::Reset { nonce: at_b }));
        assert_eq!(world.sessions(), 0);
    });
}

#[test]
fn data_for_a_session_of_another_link_is_answered_there_and_not_delivered() {
    on_one_core_and_two(|world, a, b| {
        world.join(a, b, 9, (WINDOW, WINDOW));
        let thief = world.link(0, 8, Profile::P4);
        world.data(thief, 9, b"intruder");
        world.reset(thief, 9);
        assert_eq!(world.seen(thief), [Seen::Reset { nonce: 9 }]);
        world.data(a, 9, b"mine");
        assert_eq!(payload_of(&world.seen(b)), b"mine");
    });
}

#[test]
fn duplicate_nonce_is_ignored_and_the_session_goes_on() {
    on_one_core_and_two(|world, a, b| {
        world.join(a, b, 9, (WINDOW, WINDOW));
        world.query(a, 9, WINDOW, ROUTE);
        world.query(a, 9, WINDOW, b"conform.none");
        assert_eq!(world.seen(a), []);
        assert_eq!(world.drops(DropReason::DuplicateNonce), 2);
        world.data(a, 9, b"on");
        assert_eq!(payload_of(&world.seen(b)), b"on");
    });
}

#[test]
fn link_that_dies_resets_exactly_its_own_sessions() {
    on_one_core_and_two(|world, a, b| {
        let other = world.link(0, 20, Profile::P2);
        let dying = world.join(a, b, 1, (WINDOW, WINDOW));
        let living = world.join(other, b, 2, (WINDOW, WINDOW));
        world.data(b, dying, &[0; 1000]);
        world.cores[a.0].link_down(a.1);
        world.settle();
        assert_eq!(world.seen(b), [Seen::Reset { nonce: dying }]);
        world.data(b, living, b"still here");
        assert_eq!(payload_of(&world.seen(other)), b"still here");
        assert_eq!(world.sessions(), 2);
    });
}

#[test]
fn caller_that_cancels_before_the_answer_resets_the_target() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        world.seen(b);
        world.reset(a, 9);
        assert_eq!(world.seen(b), [Seen::Reset { nonce: 1_000_009 }]);
        assert_eq!(world.seen(a), []);
        world.response(b, 1_000_009, 0, WINDOW);
        assert_eq!((world.sessions(), world.seen(b)), (0, vec![]));
    });
}

#[test]
fn caller_that_cancels_before_anybody_was_asked_is_forgotten() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P4);
    world.query(a, 9, WINDOW, ROUTE);
    world.reset(a, 9);
    let leg = world.asked.pop().unwrap();
    assert_eq!(world.cancelled, [leg]);
    // The management core may have decided already.
    world.cores[0].offer(world.now_ns, leg, b.1, 77, ROUTE.into());
    world.settle();
    assert_eq!(
        world.seen(b),
        [Seen::Query { nonce: 77, window: WINDOW }, Seen::Reset { nonce: 77 }]
    );
    assert_eq!(world.sessions(), 0);
}

#[test]
fn reset_before_the_response_waits_for_the_code() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        world.reset(b, 1_000_009);
        assert_eq!(world.seen(a), []);
        world.response(b, 1_000_009, 5, 0);
        assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 5, window: 0 }]);
        world.tick(2 * RESET_GRACE_NS);
        assert_eq!((world.seen(a), world.sessions()), (vec![], 0));
    });
}

#[test]
fn reset_without_a_response_is_a_rejection_after_the_grace() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        world.reset(b, 1_000_009);
        world.tick(RESET_GRACE_NS - 1);
        assert_eq!(world.seen(a), []);
        world.tick(1);
        assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 1, window: 0 }]);
        assert_eq!(world.sessions(), 0);
    });
}

#[test]
fn reset_before_an_accepting_response_is_an_empty_session() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        world.reset(b, 1_000_009);
        world.response(b, 1_000_009, 0, WINDOW);
        let accepted = Seen::Response { nonce: 9, code: 0, window: WINDOW };
        assert_eq!(world.seen(a), [accepted, Seen::Reset { nonce: 9 }]);
        assert_eq!(world.sessions(), 0);
    });
}

#[test]
fn target_that_never_answers_is_given_up() {
    on_one_core_and_two(|world, a, b| {
        world.offer(a, b, 9, WINDOW);
        world.seen(b);
        world.tick(TIMEOUT_NS);
        assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 1, window: 0 }]);
        assert_eq!(world.seen(b), [Seen::Reset { nonce: 1_000_009 }]);
        assert_eq!((world.sessions(), world.drops(DropReason::TargetTimeout)), (0, 1));
    });
}

#[test]
fn first_data_towards_an_older_peer_is_held_back_after_its_response() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P0);
    world.offer(a, b, 9, WINDOW);
    world.response(b, 1_000_009, 0, WINDOW);
    world.seen(b);
    world.data(a, 9, b"early");
    world.fill(b, 1000);
    assert_eq!(world.seen(b), []);
    world.tick(2_000_000);
    world.fill(b, 1000);
    assert_eq!(payload_of(&world.seen(b)), b"early");
}

#[test]
fn answer_of_ours_goes_out_within_credit_and_ends_with_a_reset() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    world.query(a, 9, 0, ROUTE);
    let leg = world.asked.pop().unwrap();
    world.cores[0].answer(leg, b"0123456789", 1);
    world.settle();
    world.fill(a, 1000);
    assert_eq!(world.seen(a), [Seen::Response { nonce: 9, code: 0, window: WINDOW }]);
    world.read(a, 9, 3);
    world.fill(a, 1000);
    assert_eq!(payload_of(&world.seen(a)), b"012");
    world.read(a, 9, 1000);
    world.fill(a, 1000);
    let data = Seen::Data { nonce: 9, payload: b"3456789".to_vec() };
    assert_eq!(world.seen(a), [data, Seen::Reset { nonce: 9 }]);
    assert_eq!(world.sessions(), 0);
}

#[test]
fn stalled_session_does_not_hold_up_another_of_the_same_link() {
    on_one_core_and_two(|world, a, b| {
        let stalled = world.join(a, b, 1, (WINDOW, 10));
        let lively = world.join(a, b, 2, (WINDOW, WINDOW));
        world.data(a, 1, &[1; 5000]);
        world.fill(b, 100_000);
        for _ in 0..20 {
            world.data(a, 2, &[2; 5000]);
            world.fill(b, 100_000);
        }
        let seen = world.seen(b);
        let bytes = |of: u64| -> usize {
            let mine = |seen: &&Seen| matches!(seen, Seen::Data { nonce, .. } if *nonce == of);
            payload_of(&seen.iter().filter(mine).cloned().collect::<Vec<_>>()).len()
        };
        assert_eq!((bytes(stalled), bytes(lively)), (10, 100_000));
    });
}

#[test]
fn sessions_of_a_link_take_turns_when_there_is_little_room() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P4);
    world.has_room = false;
    for nonce in 1..=4 {
        world.join(a, b, nonce, (WINDOW, WINDOW));
        for _ in 0..16 {
            world.data(a, nonce, &[nonce as u8; 8192]);
        }
    }
    world.fill(b, 4 * 32 * 1024);
    let mut nonces: Vec<u64> = world
        .seen(b)
        .iter()
        .filter_map(|seen| match seen {
            Seen::Data { nonce, .. } => Some(*nonce),
            _ => None,
        })
        .collect();
    nonces.dedup();
    assert_eq!(nonces, [1_000_001, 1_000_002, 1_000_003, 1_000_004]);
}

#[test]
fn queue_memory_that_is_used_up_ends_the_session_that_needs_more() {
    let mut world = World::with_queue_bytes(1, 8 * CHUNK_BYTES);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P4);
    let at_b = world.join(a, b, 9, (WINDOW, 0));
    world.data(a, 9, &[0; 8 * CHUNK_BYTES]);
    world.data(a, 9, &[0; 1]);
    assert_eq!(world.seen(b), [Seen::Reset { nonce: at_b }]);
    assert_eq!(world.seen(a), [Seen::Reset { nonce: 9 }]);
    assert_eq!(world.drops(DropReason::BufferExhausted), 1);
    assert_eq!((world.sessions(), world.cores[0].queue_bytes_in_use()), (0, 0));
}

#[test]
fn sessions_beyond_the_caps_of_a_link_and_of_a_core_are_rejected() {
    let mut world = World::new(1);
    let a = world.link(0, 0, Profile::P4);
    let b = world.link(0, 1, Profile::P4);
    for nonce in 1..=101 {
        world.query(a, nonce, WINDOW, ROUTE);
    }
    assert_eq!(world.seen(a), [Seen::Response { nonce: 101, code: 1, window: 0 }]);
    for nonce in 1..=51 {
        world.query(b, nonce, WINDOW, ROUTE);
    }
    assert_eq!(world.seen(b), [Seen::Response { nonce: 51, code: 1, window: 0 }]);
    assert_eq!((world.sessions(), world.drops(DropReason::TooManySessions)), (150, 2));
}

#[derive(Clone, Debug)]
enum Step {
    Open { window_a: u32, window_b: u32 },
    Send { session: usize, from_a: bool, bytes: usize },
    Read { session: usize, at_a: bool, bytes: u32 },
    Fill { at_a: bool, room: usize },
    Reset { session: usize, from_a: bool },
    Room(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..100_000_u32, 0..100_000_u32)
            .prop_map(|(window_a, window_b)| Step::Open { window_a, window_b }),
        8 => (0..6_usize, any::<bool>(), 1..20_000_usize)
            .prop_map(|(session, from_a, bytes)| Step::Send { session, from_a, bytes }),
        4 => (0..6_usize, any::<bool>(), 0..50_000_u32)
            .prop_map(|(session, at_a, bytes)| Step::Read { session, at_a, bytes }),
        4 => (any::<bool>(), 0..200_000_usize).prop_map(|(at_a, room)| Step::Fill { at_a, room }),
        1 => (0..6_usize, any::<bool>()).prop_map(|(session, from_a)| Step::Reset { session, from_a }),
        1 => any::<bool>().prop_map(Step::Room),
    ]
}

/// The simple reference for one direction: what was sent, what arrived, what was allowed.
#[derive(Default)]
struct Direction {
    sent: Vec<u8>,
    arrived: usize,
    granted: u64,
    allowance: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_traffic_keeps_credit_order_and_memory(
        steps in prop::collection::vec(step(), 1..150), cores in 1_usize..3,
    ) {
        let mut world = World::new(cores);
        let a = world.link(0, 0, Profile::P4);
        let b = world.link(cores - 1, 1, Profile::P4);
        // Per session: towards b, towards a, and whether each side has ended it.
        let mut sessions: Vec<(Direction, Direction, bool, bool)> = Vec::new();
        let mut byte = 0_u8;
        for step in steps {
            match step {
                Step::Open { window_a, window_b } => {
                    let nonce = sessions.len() as u64 + 1;
                    world.offer(a, b, nonce, window_a);
                    world.response(b, nonce + 1_000_000, 0, window_b);
                    let to_b = Direction { granted: window_b.into(), allowance: WINDOW.into(), ..Direction::default() };
                    let to_a = Direction { granted: window_a.into(), allowance: WINDOW.into(), ..Direction::default() };
                    sessions.push((to_b, to_a, false, false));
                }
                Step::Send { session, from_a, bytes } => {
                    let Some((to_b, to_a, a_ended, b_ended)) = sessions.get_mut(session) else { continue };
                    let (way, ended) = if from_a { (to_b, *a_ended) } else { (to_a, *b_ended) };
                    if ended || way.allowance < bytes as u64 {
                        continue;
                    }
                    way.allowance -= bytes as u64;
                    let payload: Vec<u8> = (0..bytes).map(|_| { byte = byte.wrapping_mul(5).wrapping_add(3); byte }).collect();
                    way.sent.extend(&payload);
                    let nonce = session as u64 + 1;
                    if from_a { world.data(a, nonce, &payload) } else { world.data(b, nonce + 1_000_000, &payload) };
                }
                Step::Read { session, at_a, bytes } => {
                    let Some((to_b, to_a, ..)) = sessions.get_mut(session) else { continue };
                    let nonce = session as u64 + 1;
                    if at_a {
                        to_a.granted += u64::from(bytes);
                        world.read(a, nonce, bytes);
                    } else {
                        to_b.granted += u64::from(bytes);
                        world.read(b, nonce + 1_000_000, bytes);
                    }
                }
                Step::Fill { at_a, room } => world.fill(if at_a { a } else { b }, room),
                Step::Reset { session, from_a } => {
                    let Some((_, _, a_ended, b_ended)) = sessions.get_mut(session) else { continue };
                    let nonce = session as u64 + 1;
                    if from_a {
                        *a_ended = true;
                        world.reset(a, nonce);
                    } else {
                        *b_ended = true;
                        world.reset(b, nonce + 1_000_000);
                    }
                }
                Step::Room(room) => world.has_room = room,
            }
            for (link, at_a) in [(a, true), (b, false)] {
                for seen in world.seen(link) {
                    let (nonce, payload) = match seen {
                        Seen::Data { nonce, payload } => (nonce, Some(payload)),
                        Seen::Read { nonce, bytes } => {
                            let session = (nonce % 1_000_000 - 1) as usize;
                            let (to_b, to_a, ..) = &mut sessions[session];
                            let way = if at_a { to_b } else { to_a };
                            way.allowance += u64::from(bytes);
                            prop_assert!(way.allowance <= u64::from(WINDOW), "more credit than the window");
                            continue;
                        }
                        Seen::Reset { nonce } => (nonce, None),
                        Seen::Query { .. } | Seen::Response { .. } => continue,
                    };
                    let session = (nonce % 1_000_000 - 1) as usize;
                    let (to_b, to_a, a_ended, b_ended) = &mut sessions[session];
                    let (way, ended, other_ended) =
                        if at_a { (to_a, a_ended, b_ended) } else { (to_b, b_ended, a_ended) };
                    match payload {
                        Some(payload) => {
                            prop_assert!(!*ended, "data behind the end");
                            let expected = &way.sent[way.arrived..way.arrived + payload.len()];
                            prop_assert_eq!(expected, &payload[..], "bytes out of order");
                            way.arrived += payload.len();
                            prop_assert!(way.arrived as u64 <= way.granted, "beyond the peer's credit");
                        }
                        None if *ended => {}
                        None => {
                            prop_assert!(*other_ended, "a reset nobody asked for");
                            prop_assert_eq!(way.arrived, way.sent.len(), "bytes lost before the reset");
                            *ended = true;
                        }
                    }
                }
            }
            let waiting: usize = world.cores.iter().map(Switch::queue_bytes_in_use).sum();
            let legs: usize = world.cores.iter().map(Switch::sessions).sum();
            prop_assert!(waiting <= legs * (WINDOW as usize + 2 * CHUNK_BYTES));
        }
        for (core, link) in [a, b] {
            world.cores[core].link_down(link);
            world.settle();
        }
        prop_assert_eq!(world.sessions(), 0);
        for core in &world.cores {
            prop_assert_eq!(core.queue_bytes_in_use(), 0);
        }
    }
}

//! The signalling hub: what it does for agents and callers, every limit of it, and that nothing is
//! left when everybody has gone.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod vectors;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use vectors::{bytes, group};
use waystation_a2al::hub::{
    Action, CloseReason, ConnectionId, Hub, HubGauges, HubLimits, HubMessage, Ignored,
    PunchAddresses, Refusal, RequestError, RequestRefusal, SignalFrame, room_id, with_room,
};
use waystation_a2al::limits::{
    HUB_ARRIVALS_PER_SOURCE, HUB_CALLS_PER_SOURCE, HUB_CONTEST_MS, HUB_EARLY_BYTES_MAX,
    HUB_EARLY_MESSAGES_MAX, HUB_REQUEST_MS, HUB_ROOM_BYTES, HUB_ROOM_IDLE_MS, HUB_ROOM_MESSAGES,
    HUB_SIGNAL_IDLE_MS, HUB_SIGNAL_MESSAGES, HUB_WAIT_MS,
};
use waystation_a2al::time::Millis;

const START: Millis = Millis(1_000_000);

fn peer(last: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, last], 40_000))
}

fn register(agent: &str) -> HubMessage {
    HubMessage::Binary(SignalFrame::Register { agent: agent.to_owned() }.encode())
}

fn said(text: &str) -> HubMessage {
    HubMessage::Binary(text.as_bytes().to_vec())
}

fn frame(frame: &SignalFrame) -> HubMessage {
    HubMessage::Binary(frame.encode())
}

/// A hub, and a clock that the test sets.
struct Stage {
    hub: Hub,
    now: Millis,
}

impl Stage {
    fn new() -> Self {
        Self::with(HubLimits::default())
    }

    fn with(limits: HubLimits) -> Self {
        Self { hub: Hub::new(limits), now: START }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now = self.now.plus(milliseconds);
        self.hub.tick(self.now);
    }

    fn actions(&mut self) -> Vec<Action> {
        taken(&mut self.hub)
    }

    fn connect(&mut self, last: u8) -> ConnectionId {
        self.hub.connect(peer(last), self.now).unwrap()
    }

    fn signal(&mut self, last: u8) -> ConnectionId {
        let id = self.connect(last);
        self.hub.request(id, "/signal", "", self.now).unwrap();
        id
    }

    /// A connection that takes calls for an agent.
    fn agent(&mut self, last: u8, name: &str) -> ConnectionId {
        let id = self.signal(last);
        self.hear(id, register(name));
        assert_eq!(self.actions(), [sent(id, frame(&SignalFrame::Acknowledged))]);
        id
    }

    fn ice(&mut self, last: u8, query: &str) -> ConnectionId {
        let id = self.connect(last);
        self.hub.request(id, "/ice", query, self.now).unwrap();
        id
    }

    /// Two parties in a room of this name.
    fn pair(&mut self, room: &str) -> [ConnectionId; 2] {
        let first = self.ice(1, &format!("room={room}"));
        let second = self.ice(2, &format!("room={room}"));
        assert_eq!(self.actions(), []);
        [first, second]
    }

    fn hear(&mut self, id: ConnectionId, message: HubMessage) {
        self.hub.receive(id, message, self.now);
    }

    /// Who is called when this agent is.
    fn called(&mut self, target: &str) -> Option<ConnectionId> {
        let _ = self.actions();
        let query = format!("room={target}&target={target}&caller=x");
        let id = self.ice(99, &query);
        let actions = self.actions();
        self.hub.closed(id);
        let _ = self.actions();
        actions.into_iter().find_map(|action| match action {
            Action::Send { to, .. } if to != id => Some(to),
            _ => None,
        })
    }
}

fn taken(hub: &mut Hub) -> Vec<Action> {
    std::iter::from_fn(|| hub.take_action()).collect()
}

fn sent(to: ConnectionId, message: HubMessage) -> Action {
    Action::Send { to, message }
}

fn closed(connection: ConnectionId, why: CloseReason) -> Action {
    Action::Close { connection, why, is_open: true }
}

#[test]
fn frames_are_those_of_the_vectors() {
    let text = str::to_owned;
    let punch = |address: &str, nat: u8| PunchAddresses {
        addresses: vec![address.to_owned()],
        sent_at_ms: 1_700_000_000_123,
        nat,
    };
    let a = "A034750f98bD59fcFc946Da45aaAbe933bE154a4B5";
    let b = "a06A3803d5F059902a1c6daFBc9bA4729212F7caaC";
    let line = "1 1 UDP 2130706431 192.0.2.10 4121 typ host";
    let mut seen = 0;
    for case in group("hub_frames") {
        let wire = bytes(&case["frame"]);
        let expected = match case["what"].as_str().unwrap() {
            "reg" => SignalFrame::Register { agent: text(a) },
            "ack" => SignalFrame::Acknowledged,
            "noagent" => SignalFrame::NoAgent,
            "incoming" => {
                SignalFrame::Incoming { room: room_id(a, b), caller: text(a), target: text(b) }
            }
            "cred" => SignalFrame::Credentials { fragment: text("ufrag"), password: text("pwd") },
            "cand" => SignalFrame::Candidate { line: text(line) },
            "eoc" => SignalFrame::EndOfCandidates,
            "punch-init" => SignalFrame::PunchBegin(punch("192.0.2.10:4121", 3)),
            "punch-ack" => SignalFrame::PunchAnswer(punch("203.0.113.5:4121", 4)),
            "punch-go" => SignalFrame::PunchGo,
            "dht request" => {
                let SignalFrame::Dht { message } = SignalFrame::decode(&wire).unwrap() else {
                    panic!("{case}")
                };
                waystation_a2al::message::Parsed::parse(&message).unwrap().verify().unwrap();
                SignalFrame::Dht { message }
            }
            other => panic!("unknown vector {other}"),
        };
        assert_eq!(SignalFrame::decode(&wire).as_ref(), Ok(&expected), "{case}");
        assert_eq!(expected.encode(), wire, "{case}");
        seen += 1;
    }
    assert_eq!(seen, 11);
}

#[test]
fn rooms_and_their_addresses_are_those_of_the_vectors() {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    for case in group("room_id") {
        let (a, b) = (text(&case["a"]), text(&case["b"]));
        assert_eq!(room_id(&a, &b), text(&case["room"]));
        assert_eq!(room_id(&b, &a), text(&case["room"]));
    }
    for case in group("signal_urls") {
        assert_eq!(case["op"], "append room");
        assert_eq!(with_room(&text(&case["base"]), &text(&case["room"])), text(&case["result"]));
    }
}

#[test]
fn a_call_reaches_the_agent_and_what_is_said_early_arrives() {
    let mut stage = Stage::new();
    let agent = stage.agent(1, "bob");
    let caller = stage.ice(2, "room=r&target=bob&caller=alice");
    let incoming = SignalFrame::Incoming {
        room: "r".to_owned(),
        caller: "alice".to_owned(),
        target: "bob".to_owned(),
    };
    assert_eq!(stage.actions(), [sent(agent, frame(&incoming))]);
    stage.hear(caller, said("one"));
    stage.hear(caller, HubMessage::Text("two".to_owned()));
    assert_eq!(stage.actions(), []);
    let callee = stage.ice(1, "room=r");
    let two = HubMessage::Text("two".to_owned());
    assert_eq!(stage.actions(), [sent(callee, said("one")), sent(callee, two)]);
    stage.hear(callee, said("three"));
    stage.hear(caller, said(""));
    assert_eq!(stage.actions(), [sent(caller, said("three")), sent(callee, said(""))]);
    stage.hub.closed(caller);
    assert_eq!(stage.actions(), [closed(callee, CloseReason::OtherLeft)]);
    stage.hub.closed(callee);
    stage.hub.closed(agent);
    assert_eq!(stage.hub.gauges(), HubGauges::default());
}

#[test]
fn who_calls_nobody_is_told_and_ended() {
    let mut stage = Stage::new();
    let caller = stage.ice(1, "room=r&target=nobody&caller=alice");
    let told = sent(caller, frame(&SignalFrame::NoAgent));
    assert_eq!(stage.actions(), [told, closed(caller, CloseReason::NoAgent)]);
    assert_eq!(stage.hub.gauges().connections, 1);
    assert_eq!(stage.hub.next_tick(), None);
}

#[test]
fn a_third_in_a_room_gets_nothing() {
    let mut stage = Stage::new();
    let [first, second] = stage.pair("r");
    let third = stage.ice(3, "room=r");
    assert_eq!(stage.actions(), [closed(third, CloseReason::RoomTaken)]);
    stage.hear(third, said("let me in"));
    stage.hear(first, said("secret"));
    assert_eq!(stage.actions(), [sent(second, said("secret"))]);
    stage.hub.closed(third);
    assert_eq!(stage.actions(), []);
    assert_eq!(stage.hub.gauges().rooms_paired, 1);
}

#[test]
fn requests_that_are_none_are_told_why() {
    let mut stage = Stage::new();
    for (path, query, why) in [
        ("/ice", "", RequestError::RoomMissing),
        ("/ice", "target=x&caller=y", RequestError::RoomMissing),
        ("/ice", "room=r&target=x", RequestError::CallerMissing),
        ("/", "", RequestError::Path),
    ] {
        let id = stage.connect(1);
        let refused = stage.hub.request(id, path, query, stage.now);
        assert_eq!(refused, Err(RequestRefusal::Bad(why)));
        assert!(stage.hub.request(id, "/signal", "", stage.now).is_err(), "asked twice");
        stage.hub.closed(id);
    }
    assert_eq!(stage.hub.statistics().refused(Refusal::BadRequest), 4);
    assert_eq!(stage.hub.gauges(), HubGauges::default());
}

#[test]
fn everybody_who_says_nothing_is_ended_in_time() {
    let mut stage = Stage::new();
    let silent = stage.connect(1);
    let agent = stage.agent(2, "bob");
    let waiting = stage.ice(3, "room=w");
    let [first, second] = stage.pair("p");
    stage.pass(HUB_REQUEST_MS - 1);
    assert_eq!(stage.actions(), []);
    stage.pass(1);
    let why = CloseReason::NoRequest;
    assert_eq!(stage.actions(), [Action::Close { connection: silent, why, is_open: false }]);
    stage.pass(HUB_WAIT_MS - HUB_REQUEST_MS);
    assert_eq!(stage.actions(), [closed(waiting, CloseReason::Unpaired)]);
    // Anything counts, a frame that means nothing too.
    stage.hear(agent, said("?"));
    stage.pass(HUB_SIGNAL_IDLE_MS - 1);
    assert_eq!(stage.actions(), []);
    stage.pass(1);
    assert_eq!(stage.actions(), [closed(agent, CloseReason::Idle)]);
    stage.pass(HUB_ROOM_IDLE_MS);
    let ended = [(first, CloseReason::RoomIdle), (second, CloseReason::OtherLeft)];
    assert_eq!(stage.actions(), ended.map(|(id, why)| closed(id, why)));
    for id in [silent, agent, waiting, first, second] {
        stage.hub.closed(id);
    }
    assert_eq!(stage.hub.gauges(), HubGauges::default());
    assert_eq!(stage.hub.next_tick(), None);
}

#[test]
fn a_name_moves_at_once_within_its_source() {
    let mut stage = Stage::new();
    let old = stage.agent(1, "bob");
    let new = stage.agent(1, "bob");
    assert_eq!(stage.called("bob"), Some(new));
    stage.hub.closed(old);
    assert_eq!(stage.called("bob"), Some(new));
    stage.hub.closed(new);
    assert_eq!(stage.called("bob"), None);
    assert_eq!(stage.hub.gauges(), HubGauges::default());
}

#[test]
fn a_live_agent_keeps_its_name_from_another_source() {
    let mut stage = Stage::new();
    let rightful = stage.agent(1, "bob");
    let thief = stage.signal(2);
    for _ in 0..3 {
        stage.hear(thief, register("bob"));
    }
    let acknowledged = sent(thief, frame(&SignalFrame::Acknowledged));
    let asked = Action::Ping { to: rightful };
    let expected = [asked, acknowledged.clone(), acknowledged.clone(), acknowledged];
    assert_eq!(stage.actions(), expected);
    stage.hub.hear_control(rightful, stage.now);
    stage.pass(HUB_CONTEST_MS);
    assert_eq!(stage.called("bob"), Some(rightful));
    assert_eq!(stage.hub.statistics().contests_kept, 1);
}

#[test]
fn pings_count_as_messages_do() {
    let mut stage = Stage::new();
    let agent = stage.agent(1, "bob");
    // Registering was a message.
    for _ in 1..HUB_SIGNAL_MESSAGES.burst {
        stage.hub.hear_control(agent, stage.now);
    }
    assert_eq!(stage.actions(), []);
    stage.hub.hear_control(agent, stage.now);
    let why = CloseReason::TooFast;
    assert_eq!(stage.actions(), [Action::Close { connection: agent, why, is_open: true }]);

    let waiting = stage.connect(2);
    stage.hub.request(waiting, "/ice", "room=r", stage.now).unwrap();
    for _ in 0..HUB_ROOM_MESSAGES.burst {
        stage.hub.hear_control(waiting, stage.now);
    }
    assert_eq!(stage.actions(), []);
    stage.hub.hear_control(waiting, stage.now);
    assert_eq!(stage.actions(), [Action::Close { connection: waiting, why, is_open: true }]);
    assert_eq!(stage.hub.statistics().closed(why), 2);
}

#[test]
fn an_agent_that_is_gone_loses_its_name_to_another_source() {
    for is_cut in [false, true] {
        let mut stage = Stage::new();
        let gone = stage.agent(1, "bob");
        let moved = stage.signal(2);
        stage.hear(moved, register("bob"));
        assert_eq!(stage.called("bob"), Some(gone), "until it is known to be gone");
        if is_cut {
            stage.hub.closed(gone);
        } else {
            stage.pass(HUB_CONTEST_MS);
        }
        assert_eq!(stage.called("bob"), Some(moved));
        assert_eq!(stage.hub.statistics().contests_lost, 1);
        stage.hub.closed(moved);
        stage.hub.closed(gone);
        assert_eq!(stage.hub.gauges(), HubGauges::default());
    }
}

#[test]
fn a_contender_that_has_gone_gets_nothing() {
    let mut stage = Stage::new();
    let silent = stage.agent(1, "bob");
    let other = stage.signal(2);
    stage.hear(other, register("bob"));
    stage.hub.closed(other);
    stage.pass(HUB_CONTEST_MS);
    assert_eq!(stage.called("bob"), None);
    stage.hub.closed(silent);
    assert_eq!(stage.hub.gauges(), HubGauges::default());
}

#[test]
fn names_are_capped_by_connection_by_source_and_in_all() {
    let limits = HubLimits {
        registrations_per_connection_max: 3,
        registrations_per_source_max: 5,
        registrations_max: 7,
        ..HubLimits::default()
    };
    let mut stage = Stage::with(limits);
    let acknowledged = |stage: &mut Stage, last: u8, first: usize| {
        let id = stage.signal(last);
        (first..first + 4).for_each(|name| stage.hear(id, register(&format!("agent {name}"))));
        // What a connection has already it may say again.
        stage.hear(id, register(&format!("agent {first}")));
        stage.actions().len()
    };
    assert_eq!(acknowledged(&mut stage, 1, 0), 4);
    assert_eq!(acknowledged(&mut stage, 1, 10), 3);
    assert_eq!(acknowledged(&mut stage, 2, 20), 3);
    assert_eq!(stage.hub.gauges().registrations, 7);
    let ignored = |reason| stage.hub.statistics().ignored(reason);
    assert_eq!(ignored(Ignored::RegistrationsOfConnection), 1);
    assert_eq!(ignored(Ignored::RegistrationsOfSource), 2);
    assert_eq!(ignored(Ignored::Registrations), 2);
}

#[test]
fn names_that_are_none_and_frames_that_mean_nothing_are_ignored() {
    let mut stage = Stage::new();
    let id = stage.signal(1);
    stage.hear(id, register(""));
    stage.hear(id, register(&"x".repeat(129)));
    stage.hear(id, HubMessage::Text("reg".to_owned()));
    stage.hear(id, said("junk"));
    stage.hear(id, frame(&SignalFrame::PunchGo));
    assert_eq!(stage.actions(), []);
    assert_eq!(stage.hub.statistics().ignored(Ignored::AgentName), 2);
    assert_eq!(stage.hub.statistics().ignored(Ignored::Frame), 3);
    assert_eq!(stage.hub.gauges().registrations, 0);
}

#[test]
fn connections_are_capped_in_all_by_source_and_by_rate() {
    let limits =
        HubLimits { connections_max: 5, connections_per_source_max: 3, ..HubLimits::default() };
    let mut stage = Stage::with(limits);
    let held: Vec<_> = (0..3).map(|_| stage.connect(1)).collect();
    let refused = stage.hub.connect(peer(1), stage.now);
    assert_eq!(refused, Err(Refusal::ConnectionsOfSource));
    let (_, _) = (stage.connect(2), stage.connect(2));
    assert_eq!(stage.hub.connect(peer(3), stage.now), Err(Refusal::Connections));
    // One that ends counts until it is gone.
    stage.hub.request(held[0], "/ice", "", stage.now).unwrap_err();
    assert_eq!(stage.hub.connect(peer(3), stage.now), Err(Refusal::Connections));
    stage.hub.closed(held[0]);
    stage.connect(3);

    let mut stage = Stage::new();
    for _ in 0..HUB_ARRIVALS_PER_SOURCE.burst {
        let id = stage.connect(1);
        stage.hub.closed(id);
    }
    assert_eq!(stage.hub.connect(peer(1), stage.now), Err(Refusal::ArrivalsOfSource));
    stage.connect(2);
}

#[test]
fn a_customer_of_ipv6_is_one_source() {
    let limits = HubLimits { connections_per_source_max: 1, ..HubLimits::default() };
    let mut stage = Stage::with(limits);
    let connect = |stage: &mut Stage, ip: &str| {
        stage.hub.connect(SocketAddr::new(ip.parse().unwrap(), 1), START)
    };
    connect(&mut stage, "2001:db8:0:1200::1").unwrap();
    let refused = connect(&mut stage, "2001:db8:0:12ff::2");
    assert_eq!(refused, Err(Refusal::ConnectionsOfSource));
    connect(&mut stage, "2001:db8:0:1300::1").unwrap();
    connect(&mut stage, "192.0.2.1").unwrap();
    let refused = connect(&mut stage, "::ffff:192.0.2.1");
    assert_eq!(refused, Err(Refusal::ConnectionsOfSource));
}

#[test]
fn rooms_waiting_ones_and_calls_are_capped() {
    let limits = HubLimits { rooms_max: 4, waiting_per_source_max: 2, ..HubLimits::default() };
    let mut stage = Stage::with(limits);
    let ask = |stage: &mut Stage, last: u8, query: &str| {
        let id = stage.connect(last);
        stage.hub.request(id, "/ice", query, stage.now)
    };
    ask(&mut stage, 1, "room=1").unwrap();
    ask(&mut stage, 1, "room=2").unwrap();
    let refused = ask(&mut stage, 1, "room=3");
    assert_eq!(refused, Err(RequestRefusal::Busy(Refusal::WaitingOfSource)));
    // A room that is paired is waited in no more.
    ask(&mut stage, 2, "room=1").unwrap();
    ask(&mut stage, 1, "room=3").unwrap();
    ask(&mut stage, 3, "room=4").unwrap();
    let refused = ask(&mut stage, 4, "room=5");
    assert_eq!(refused, Err(RequestRefusal::Busy(Refusal::Rooms)));
    ask(&mut stage, 4, "room=4").unwrap();

    let mut stage = Stage::new();
    for _ in 0..HUB_CALLS_PER_SOURCE.burst {
        ask(&mut stage, 1, "room=r&target=nobody&caller=x").unwrap();
    }
    let refused = ask(&mut stage, 1, "room=r&target=nobody&caller=x");
    assert_eq!(refused, Err(RequestRefusal::Busy(Refusal::CallsOfSource)));
    ask(&mut stage, 1, "room=r").unwrap();
}

#[test]
fn too_much_before_anybody_comes_ends_the_first() {
    for (count, length) in [(HUB_EARLY_MESSAGES_MAX, 1), (HUB_EARLY_BYTES_MAX / 1024, 1024)] {
        let mut stage = Stage::new();
        let first = stage.ice(1, "room=r");
        let message = HubMessage::Binary(vec![7; length]);
        (0..count).for_each(|_| stage.hear(first, message.clone()));
        assert_eq!(stage.actions(), []);
        stage.hear(first, message);
        assert_eq!(stage.actions(), [closed(first, CloseReason::TooMuchEarly)]);
        assert_eq!(stage.hub.gauges().rooms_waiting, 0);
    }
}

#[test]
fn too_much_in_a_room_ends_it() {
    let long = HUB_ROOM_BYTES.burst as usize / 32;
    for (count, length) in [(HUB_ROOM_MESSAGES.burst as usize, 1), (32, long)] {
        let mut stage = Stage::new();
        let [first, second] = stage.pair("r");
        let message = HubMessage::Binary(vec![7; length]);
        for index in 0..count {
            stage.hear([first, second][index % 2], message.clone());
        }
        assert_eq!(stage.actions().len(), count);
        stage.hear(second, message);
        let ended = [(second, CloseReason::TooFast), (first, CloseReason::OtherLeft)];
        assert_eq!(stage.actions(), ended.map(|(id, why)| closed(id, why)));
    }
}

#[test]
fn too_much_from_agents_and_slow_readers_end() {
    let mut stage = Stage::new();
    let id = stage.signal(1);
    (0..HUB_SIGNAL_MESSAGES.burst).for_each(|_| stage.hear(id, said("?")));
    assert_eq!(stage.actions(), []);
    stage.hear(id, said("?"));
    assert_eq!(stage.actions(), [closed(id, CloseReason::TooFast)]);
    stage.hub.is_slow(id);
    assert_eq!(stage.actions(), [], "it is ending already");
    let slow = stage.agent(2, "bob");
    stage.hub.is_slow(slow);
    assert_eq!(stage.actions(), [closed(slow, CloseReason::SlowReader)]);
    assert_eq!(stage.called("bob"), None);
}

#[test]
fn questions_to_the_network_are_asked_and_answered() {
    let mut stage = Stage::new();
    let id = stage.signal(1);
    let question = |message: &[u8]| frame(&SignalFrame::Dht { message: message.to_vec() });
    stage.hear(id, question(b"question"));
    let request = b"question".to_vec();
    assert_eq!(stage.actions(), [Action::Ask { from: id, source: peer(1), request }]);
    stage.hub.answer(id, Some(b"answer".to_vec()));
    assert_eq!(stage.actions(), [sent(id, question(b"answer"))]);
    stage.hub.answer(id, None);
    assert_eq!(stage.actions(), []);
    assert_eq!(stage.hub.statistics().ignored(Ignored::Question), 1);
}

/// What may happen to a hub.
#[derive(Clone, Debug)]
enum Step {
    Connect(u8),
    Signal(usize),
    Ice { which: usize, room: u8, call: Option<u8> },
    Register { which: usize, agent: u8 },
    Say { which: usize, bytes: Vec<u8> },
    Pong(usize),
    Close(usize),
    Pass(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = 0..12_usize;
    let step = prop_oneof![
        3 => (0..4_u8).prop_map(Step::Connect),
        2 => which.clone().prop_map(Step::Signal),
        4 => (which.clone(), 0..4_u8, proptest::option::of(0..4_u8))
            .prop_map(|(which, room, call)| Step::Ice { which, room, call }),
        4 => (which.clone(), 0..4_u8).prop_map(|(which, agent)| Step::Register { which, agent }),
        6 => (which.clone(), vec(any::<u8>(), 0..40))
            .prop_map(|(which, bytes)| Step::Say { which, bytes }),
        1 => which.clone().prop_map(Step::Pong),
        2 => which.prop_map(Step::Close),
        1 => (0..20_000_u16).prop_map(Step::Pass),
    ];
    vec(step, 1..160)
}

/// What a plain model knows: who is there, and what each has said and heard in rooms.
#[derive(Default)]
struct Model {
    there: Vec<ConnectionId>,
    asked: BTreeSet<ConnectionId>,
    ending: BTreeSet<ConnectionId>,
    rooms: BTreeMap<u8, Vec<ConnectionId>>,
    room_of: BTreeMap<ConnectionId, u8>,
    due: BTreeMap<ConnectionId, Vec<u8>>,
    heard: BTreeMap<ConnectionId, Vec<u8>>,
}

impl Model {
    fn at(&self, which: usize) -> Option<ConnectionId> {
        self.there.get(which % self.there.len().max(1)).copied()
    }

    fn other(&self, id: ConnectionId) -> Option<ConnectionId> {
        let room = self.rooms.get(self.room_of.get(&id)?)?;
        room.iter().copied().find(|other| *other != id)
    }

    /// Tells the hub of a request; whoever is refused its first one is about to end.
    fn ask(
        &mut self,
        hub: &mut Hub,
        id: ConnectionId,
        path: &str,
        query: &str,
        now: Millis,
    ) -> bool {
        let is_first = self.asked.insert(id);
        let is_let_in = hub.request(id, path, query, now).is_ok();
        assert!(is_first || !is_let_in, "let in twice");
        if is_first && !is_let_in {
            self.ending.insert(id);
        }
        is_let_in
    }

    fn enter(&mut self, id: ConnectionId, room: u8) {
        self.room_of.insert(id, room);
        let parties = self.rooms.entry(room).or_default();
        parties.push(id);
        if let [first, second] = parties[..] {
            let early = self.due.remove(&first).unwrap_or_default();
            self.due.insert(second, early);
        }
    }

    /// Does what the hub wants done, and checks that it may want it.
    fn act(&mut self, hub: &mut Hub, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { to, message: HubMessage::Binary(bytes) } => {
                    assert!(self.there.contains(&to) && !self.ending.contains(&to));
                    if self.room_of.contains_key(&to) {
                        self.heard.entry(to).or_default().extend(bytes);
                    }
                }
                Action::Send { message: HubMessage::Text(_), .. } => panic!("nobody said text"),
                Action::Ping { to } => assert!(self.there.contains(&to)),
                Action::Ask { from, .. } => hub.answer(from, None),
                Action::Close { connection, .. } => {
                    assert!(self.ending.insert(connection), "ended twice");
                    self.leave(connection);
                }
            }
        }
    }

    fn leave(&mut self, id: ConnectionId) {
        if let Some(room) = self.room_of.remove(&id)
            && let Some(parties) = self.rooms.get_mut(&room)
            && parties.contains(&id)
        {
            parties.retain(|party| *party != id);
            if parties.is_empty() {
                self.rooms.remove(&room);
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_said_in_a_room_comes_out_and_nothing_is_left_at_the_end(steps in steps()) {
        let limits = HubLimits {
            connections_max: 10,
            connections_per_source_max: 4,
            registrations_max: 3,
            registrations_per_connection_max: 2,
            registrations_per_source_max: 2,
            rooms_max: 3,
            waiting_per_source_max: 1,
        };
        let mut hub = Hub::new(limits);
        let mut model = Model::default();
        let mut now = START;
        for step in steps {
            let mut actions = Vec::new();
            match step {
                Step::Connect(last) => {
                    if let Ok(id) = hub.connect(peer(last), now) {
                        model.there.push(id);
                    }
                }
                Step::Signal(which) => {
                    if let Some(id) = model.at(which) {
                        model.ask(&mut hub, id, "/signal", "", now);
                    }
                }
                Step::Ice { which, room, call } => {
                    let call = call.map_or(String::new(), |to| format!("&target={to}&caller=x"));
                    let query = format!("room={room}{call}");
                    if let Some(id) = model.at(which)
                        && model.ask(&mut hub, id, "/ice", &query, now)
                    {
                        actions = taken(&mut hub);
                        let is_it = |action: &Action| {
                            matches!(action, Action::Close { connection, .. } if *connection == id)
                        };
                        if !actions.iter().any(is_it) {
                            model.enter(id, room);
                        }
                    }
                }
                Step::Register { which, agent } => {
                    if let Some(id) = model.at(which) && !model.room_of.contains_key(&id) {
                        hub.receive(id, register(&agent.to_string()), now);
                    }
                }
                Step::Say { which, bytes } => {
                    if let Some(id) = model.at(which) && model.room_of.contains_key(&id) {
                        // Before the second comes, what is due is kept under the first's own name.
                        let to = model.other(id).unwrap_or(id);
                        model.due.entry(to).or_default().extend(&bytes);
                        hub.receive(id, HubMessage::Binary(bytes), now);
                    }
                }
                Step::Pong(which) => {
                    if let Some(id) = model.at(which) {
                        hub.hear_control(id, now);
                    }
                }
                Step::Close(which) => {
                    if let Some(id) = model.at(which) {
                        model.there.retain(|there| *there != id);
                        model.ending.remove(&id);
                        model.leave(id);
                        hub.closed(id);
                    }
                }
                Step::Pass(milliseconds) => {
                    now = now.plus(u64::from(milliseconds));
                    hub.tick(now);
                }
            }
            actions.extend(taken(&mut hub));
            model.act(&mut hub, actions);
            let gauges = hub.gauges();
            prop_assert_eq!(gauges.connections, model.there.len());
            prop_assert!(gauges.connections <= limits.connections_max);
            prop_assert!(gauges.registrations <= limits.registrations_max);
            prop_assert!(gauges.rooms_waiting + gauges.rooms_paired <= limits.rooms_max);
            let paired = model.rooms.values().filter(|parties| parties.len() == 2).count();
            prop_assert_eq!(gauges.rooms_paired, paired);
            prop_assert_eq!(gauges.rooms_waiting, model.rooms.len() - paired);
            for (&id, &room) in &model.room_of {
                if model.rooms[&room].len() == 2 {
                    let heard = model.heard.get(&id).cloned().unwrap_or_default();
                    prop_assert_eq!(heard, model.due.get(&id).cloned().unwrap_or_default());
                }
            }
            if model.ending.len() < model.there.len() {
                prop_assert!(hub.next_tick().is_some(), "somebody could stay for ever");
            }
        }
        for id in model.there.clone() {
            hub.closed(id);
            model.there.retain(|there| *there != id);
            let actions = taken(&mut hub);
            model.act(&mut hub, actions);
        }
        prop_assert_eq!(hub.gauges(), HubGauges::default());
        prop_assert_eq!(hub.next_tick(), None);
    }
}

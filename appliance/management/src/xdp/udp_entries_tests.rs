//! Opaque sessions against a map in memory.

use super::*;
use crate::xdp::entries::EntryCounts;
use crate::xdp::entries::tests::Memory;
use proptest::prelude::*;
use std::net::SocketAddr;
use waystation_ebpf::abi::Action;
use waystation_relay::udp::Pace;
use waystation_relay::udp::wireguard::PeerIndex;

const OWNER: u32 = 4;
const CORE: CoreId = CoreId(0);

fn session(slot: u32) -> UdpSessionTag {
    UdpSessionTag { core: CORE, slot, generation: 1 }
}

fn leg(end: &str, local: &str, index: u32) -> Option<UdpPathLeg> {
    let indices = Some([index, index + 1, index, index].map(PeerIndex));
    Some(UdpPathLeg { end: end.parse().unwrap(), local: local.parse().unwrap(), indices })
}

const END_A: &str = "192.0.2.7:4242";
const END_B: &str = "203.0.113.9:6000";
const LOCAL_A: &str = "198.51.100.1:20001";
const LOCAL_B: &str = "198.51.100.1:20002";

fn path(serial: u32) -> UdpPath {
    UdpPath {
        session: session(3),
        serial,
        legs: [leg(END_A, LOCAL_A, 10), leg(END_B, LOCAL_B, 20)],
        is_wireguard: false,
        pace: None,
        against: None,
    }
}

fn key(end: &str, local: &str) -> SessionKey {
    SessionKey::new(end.parse().unwrap(), local.parse().unwrap(), None)
}

/// What the core hears of one session.
#[derive(Debug, Default)]
struct Heard {
    answers: Vec<UdpPathAnswer>,
    notes: Vec<UdpOffloaded>,
    /// Whether the notes came before the answers.
    is_in_order: bool,
}

impl Heard {
    fn take(&mut self, commands: Vec<(CoreId, Command)>) {
        for (core, command) in commands {
            assert_eq!(core, CORE);
            match command {
                Command::AnswerUdpPaths { answers } => {
                    self.is_in_order = !self.notes.is_empty();
                    self.answers.extend(answers);
                }
                Command::NoteUdpOffloaded { offloaded } => self.notes.extend(offloaded),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Rounds of the management core until nothing is left to do.
fn settle(entries: &mut Entries, map: &mut Memory) -> Heard {
    let mut heard = Heard::default();
    for _ in 0..100 {
        entries.insert_waiting(map);
        heard.take(entries.answer_udp(map));
        if !entries.has_waiting() && !entries.udp.has_unanswered() {
            return heard;
        }
    }
    panic!("still at work: {entries:?}");
}

fn apply(entries: &mut Entries, map: &mut Memory, path: &UdpPath) -> Heard {
    entries.apply_udp(path, map);
    settle(entries, map)
}

fn bench() -> (Entries, Memory) {
    (Entries::new(vec![OWNER]), Memory::new())
}

fn action(map: &Memory, end: &str, local: &str) -> Option<u8> {
    map.entries.get(&key(end, local)).map(|session| session.action)
}

#[test]
fn a_session_is_an_entry_each_way_and_is_answered_once_both_are_there() {
    let (mut entries, mut map) = bench();
    entries.apply_udp(&path(7), &mut map);
    assert!(entries.answer_udp(&mut map).is_empty(), "nothing is there yet");
    let heard = settle(&mut entries, &mut map);
    let answer = UdpPathAnswer { session: session(3), serial: 7, against: None };
    assert_eq!(heard.answers, [answer]);
    let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(
        map.entries,
        BTreeMap::from([
            (key(END_A, LOCAL_A), Session::relayed(socket(LOCAL_B), socket(END_B), None, OWNER)),
            (key(END_B, LOCAL_B), Session::relayed(socket(LOCAL_A), socket(END_A), None, OWNER)),
        ])
    );
    let counts = EntryCounts { directions: 2, opaque_directions: 2, ..EntryCounts::default() };
    assert_eq!(entries.counts(), counts);
    let changes: Vec<_> = entries.udp.take_port_changes().into_iter().collect();
    assert_eq!(changes, [(20_001, true), (20_002, true)]);
}

#[test]
fn what_must_be_seen_goes_to_the_core_in_place_and_is_told_before_the_answer() {
    let (mut entries, mut map) = bench();
    apply(&mut entries, &mut map, &path(1));
    map.relay(&key(END_A, LOCAL_A), 3, 20 + 8 + 100);
    map.entries.get_mut(&key(END_A, LOCAL_A)).unwrap().last_seen_ns = 77;
    map.entries.get_mut(&key(END_B, LOCAL_B)).unwrap().dropped_packets = 2;
    let held = UdpPath { against: Some(WhyNot::Roaming), ..path(2) };
    entries.apply_udp(&held, &mut map);
    assert_eq!(map.entries.len(), 2, "no end is a stranger meanwhile");
    let heard = settle(&mut entries, &mut map);
    let against = Some(WhyNot::Roaming);
    assert_eq!(heard.answers, [UdpPathAnswer { session: session(3), serial: 2, against }]);
    assert!(heard.is_in_order);
    let [note] = heard.notes[..] else { panic!("{heard:?}") };
    let carried = Carried { datagrams: 3, bytes: 300 };
    assert_eq!(note.from, [CarriedFrom { carried, heard_ns: 77 }, CarriedFrom::default()]);
    assert_eq!(note.dropped_datagrams, 2);
    for (end, local) in [(END_A, LOCAL_A), (END_B, LOCAL_B)] {
        assert_eq!(action(&map, end, local), Some(Action::Steer as u8));
    }
    // What goes to the core is counted there and not here.
    map.relay(&key(END_A, LOCAL_A), 5, 128);
    entries.look(100, &mut map);
    assert!(entries.notes().is_empty());
    let counts = EntryCounts { opaque_ends: 2, ..EntryCounts::default() };
    assert_eq!(entries.counts(), counts);

    let heard = apply(&mut entries, &mut map, &path(3));
    assert_eq!(heard.answers[0].against, None);
    map.relay(&key(END_A, LOCAL_A), 1, 128);
    entries.look(100, &mut map);
    let mut heard = Heard::default();
    heard.take(entries.notes());
    assert_eq!(heard.notes[0].from[0].carried, Carried { datagrams: 1, bytes: 100 });
}

#[test]
fn an_end_that_has_moved_leaves_nothing_behind() {
    let (mut entries, mut map) = bench();
    apply(&mut entries, &mut map, &path(1));
    let moved = UdpPath { legs: [leg("192.0.2.8:1", LOCAL_A, 10), path(1).legs[1]], ..path(2) };
    let heard = apply(&mut entries, &mut map, &moved);
    assert_eq!(heard.answers.len(), 1);
    let keys: Vec<_> = map.entries.keys().copied().collect();
    assert_eq!(keys, [key("192.0.2.8:1", LOCAL_A), key(END_B, LOCAL_B)]);
    let back = map.entries[&key(END_B, LOCAL_B)];
    assert_eq!(back.target_destination, "192.0.2.8".parse::<IpAddr>().unwrap().into());
    // And one that nobody knows any more has no entry, while the other's core goes on.
    let lapsed =
        UdpPath { legs: [None, path(1).legs[1]], against: Some(WhyNot::LegUnknown), ..path(3) };
    apply(&mut entries, &mut map, &lapsed);
    assert_eq!(map.entries.len(), 1);
    assert_eq!(action(&map, END_B, LOCAL_B), Some(Action::Steer as u8));
}

#[test]
fn a_tunnel_is_told_by_what_its_ends_are_called() {
    let (mut entries, mut map) = bench();
    let pace = Some(Pace { kib_ns: 1000, burst_ns: 5 });
    let tunnel = UdpPath { is_wireguard: true, pace, ..path(1) };
    apply(&mut entries, &mut map, &tunnel);
    let to_b = map.entries[&key(END_A, LOCAL_A)];
    assert_eq!(to_b.action, Action::RelayTransport as u8);
    assert_eq!(to_b.indices.map(u32::to_ne_bytes)[1], 21_u32.to_le_bytes());
    assert_eq!((to_b.cost_ns_per_kib, to_b.burst_ns), (1000, 5));
    // Another handshake: the entry is replaced where it is and remembers what it has carried.
    map.relay(&key(END_A, LOCAL_A), 3, 128);
    let next = UdpPath { legs: [tunnel.legs[0], leg(END_B, LOCAL_B, 30)], serial: 2, ..tunnel };
    apply(&mut entries, &mut map, &next);
    let to_b = map.entries[&key(END_A, LOCAL_A)];
    assert_eq!((to_b.indices[0], to_b.packets), (30_u32.to_le(), 3));
}

#[test]
fn only_one_entry_is_replaced_in_a_round() {
    let (mut entries, mut map) = bench();
    apply(&mut entries, &mut map, &path(1));
    entries.apply_udp(&UdpPath { against: Some(WhyNot::Roaming), ..path(2) }, &mut map);
    entries.insert_waiting(&mut map);
    let steered =
        |map: &Memory| map.entries.values().filter(|session| !session.is_relayed()).count();
    assert_eq!(steered(&map), 1);
    assert!(entries.answer_udp(&mut map).is_empty());
    entries.insert_waiting(&mut map);
    assert_eq!(steered(&map), 2);
}

#[test]
fn what_does_not_come_through_the_program_is_said_not_to() {
    let (mut entries, mut map) = bench();
    entries.udp.set_uncovered(BTreeSet::from(["198.51.100.1".parse().unwrap()]));
    let heard = apply(&mut entries, &mut map, &path(1));
    assert_eq!(heard.answers[0].against, Some(WhyNot::OtherInterface));
    entries.udp.set_uncovered(BTreeSet::new());
    entries.set_own(BTreeSet::from(["203.0.113.9".parse().unwrap()]));
    let heard = apply(&mut entries, &mut map, &path(2));
    assert_eq!(heard.answers[0].against, Some(WhyNot::OtherInterface));
    assert_eq!(map.entries.len(), 1, "{map:?}");
}

#[test]
fn without_room_for_both_directions_none_is_relayed() {
    let (mut entries, mut map) = bench();
    map.room = 1;
    let heard = apply(&mut entries, &mut map, &path(1));
    let against = Some(WhyNot::MapFull);
    assert_eq!(heard.answers, [UdpPathAnswer { session: session(3), serial: 1, against }]);
    assert!(map.entries.values().all(|session| !session.is_relayed()));
    assert_eq!(map.entries.len(), 1);
}

#[test]
fn the_end_of_a_session_is_the_end_of_its_entries_and_tells_what_they_carried() {
    let (mut entries, mut map) = bench();
    apply(&mut entries, &mut map, &path(1));
    let shared = UdpPath {
        session: session(4),
        legs: [leg("192.0.2.9:1", LOCAL_A, 1), leg("203.0.113.9:7", "198.51.100.1:20003", 1)],
        ..path(1)
    };
    apply(&mut entries, &mut map, &shared);
    entries.udp.take_port_changes();
    map.relay(&key(END_B, LOCAL_B), 2, 128);
    let last = entries.end_udp(session(3), &mut map).unwrap();
    assert_eq!(last.from[1].carried, Carried { datagrams: 2, bytes: 200 });
    assert_eq!(map.entries.len(), 2);
    // The other session has one of the ports too.
    let changes: Vec<_> = entries.udp.take_port_changes().into_iter().collect();
    assert_eq!(changes, [(20_002, false)]);
    assert_eq!(entries.end_udp(session(3), &mut map), None);
    // A core's TURN server that tells all anew has no say in it.
    entries.apply(CORE, &waystation_engine::offload::PathChange::Void, &mut map);
    assert_eq!(map.entries.len(), 2);
    entries.clear(&mut map);
    assert!(map.entries.is_empty());
    let changes: Vec<_> = entries.udp.take_port_changes().into_iter().collect();
    assert_eq!(changes, [(20_001, false), (20_003, false)]);
}

/// What is told of few sessions with few ends.
fn word() -> impl Strategy<Value = (u32, u16, u16, u8)> {
    (0..2_u32, 0..3_u16, 0..3_u16, 0..5_u8)
}

proptest! {
    /// Whatever is told, in whatever order and however many rounds apart: in the end the map holds
    /// what the last word on each session says, and nothing else.
    #[test]
    fn the_map_holds_the_last_word(
        words in proptest::collection::vec((word(), any::<bool>()), 0..40)
    ) {
        let (mut entries, mut map) = bench();
        let mut last: BTreeMap<u32, UdpPath> = BTreeMap::new();
        for (serial, ((slot, end_a, end_b, what), is_settled)) in (0_u32..).zip(words) {
            if what == 0 {
                entries.end_udp(session(slot), &mut map);
                last.remove(&slot);
            } else {
                let local = |side: u32| format!("198.51.100.1:{}", 20_000 + 2 * slot + side);
                let legs = [
                    leg(&format!("192.0.2.7:{}", 1 + end_a), &local(0), 1),
                    leg(&format!("203.0.113.9:{}", 1 + end_b), &local(1), 1),
                ];
                let against = (what == 1).then_some(WhyNot::Roaming);
                let is_wireguard = what == 2;
                let path =
                    UdpPath { session: session(slot), serial, legs, is_wireguard, pace: None, against };
                entries.apply_udp(&path, &mut map);
                last.insert(slot, path);
            }
            if is_settled {
                settle(&mut entries, &mut map);
            } else {
                entries.insert_waiting(&mut map);
            }
        }
        settle(&mut entries, &mut map);
        let mut expected = BTreeMap::new();
        for path in last.values() {
            let [a, b] = path.legs.map(Option::unwrap);
            for (from, to) in [(a, b), (b, a)] {
                let session = match path.against {
                    None => relayed(path, &to, OWNER),
                    Some(_) => Session::steered(OWNER),
                };
                expected.insert(SessionKey::new(from.end, from.local, None), session);
            }
        }
        prop_assert_eq!(map.entries, expected);
    }
}

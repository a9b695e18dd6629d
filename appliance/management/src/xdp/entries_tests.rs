//! The mirror against a map in memory, and against a model that knows only what holds.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(in crate::xdp) struct Memory {
    pub(in crate::xdp) entries: BTreeMap<SessionKey, Session>,
    pub(in crate::xdp) room: usize,
}

impl Memory {
    pub(in crate::xdp) fn new() -> Self {
        Self { entries: BTreeMap::new(), room: usize::MAX }
    }

    /// The program relays so many packets of so many bytes of IP.
    pub(in crate::xdp) fn relay(&mut self, key: &SessionKey, packets: u64, bytes: u64) {
        let session = self.entries.get_mut(key).unwrap();
        session.packets += packets;
        session.bytes += packets * bytes;
    }
}

impl SessionMap for Memory {
    fn insert(&mut self, key: SessionKey, session: Session) -> bool {
        if self.entries.len() >= self.room && !self.entries.contains_key(&key) {
            return false;
        }
        self.entries.insert(key, session);
        true
    }

    fn remove(&mut self, key: &SessionKey) -> bool {
        self.entries.remove(key).is_some()
    }

    fn find(&self, key: &SessionKey) -> Option<Session> {
        self.entries.get(key).copied()
    }
}

const CORE: CoreId = CoreId(1);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn path(channel: u16, peer: &str) -> OffloadPath {
    OffloadPath {
        allocation: AllocationId { index: 3, generation: 9 },
        client: at("192.0.2.7:4242"),
        server: at("198.51.100.1:3478"),
        channel,
        relayed: at("198.51.100.1:50000"),
        peer: at(peer),
    }
}

fn open(path: OffloadPath, is_two_way: bool) -> PathChange {
    PathChange::Open { path, is_two_way }
}

fn bench(changes: &[PathChange]) -> (Entries, Memory) {
    let (mut entries, mut map) = (Entries::new(vec![4, 5]), Memory::new());
    for change in changes {
        entries.apply(CORE, change, &mut map);
    }
    entries.insert_waiting(&mut map);
    (entries, map)
}

fn notes(entries: &mut Entries) -> Vec<Offloaded> {
    let notes = entries.notes().into_iter();
    notes
        .flat_map(|(core, command)| match command {
            Command::NoteOffloaded { offloaded } => {
                assert_eq!(core, CORE);
                offloaded.into_vec()
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_path_is_an_entry_each_way_and_the_client_one_more() {
    let path = path(0x4001, "203.0.113.9:6000");
    let client = PathChange::Client { client: path.client, server: path.server };
    let (entries, map) = bench(&[client, open(path, true)]);
    let (there, back) = keys(&path);
    let owner = 5;
    assert_eq!(
        map.entries,
        BTreeMap::from([
            (SessionKey::new(path.client, path.server, None), Session::steered(owner)),
            (there, Session::relayed(path.relayed, path.peer, None, owner)),
            (back, Session::relayed(path.server, path.client, Some(0x4001), owner)),
        ])
    );
    let counts = EntryCounts { clients: 1, directions: 2, ..EntryCounts::default() };
    assert_eq!(entries.counts(), counts);
}

#[test]
fn entries_of_the_process_before_are_gone_on_with_where_they_are() {
    let (same, other) = (path(0x4001, "203.0.113.9:6000"), path(0x4002, "203.0.113.9:6001"));
    let (_, mut map) = bench(&[open(same, true), open(other, true)]);
    let (there, back) = keys(&same);
    for key in map.entries.clone().keys() {
        map.relay(key, 10, 100);
    }
    let mut next = Entries::new(vec![4, 5]);
    next.set_adopting(true);
    next.apply(CORE, &open(same, true), &mut map);
    let before = map.entries.clone();
    next.insert_waiting(&mut map);
    assert_eq!(map.entries, before, "nothing is written that is there already");
    assert_eq!(next.counts().directions, 2);
    map.relay(&there, 3, 100);
    next.look_at_all(&mut map);
    let told = notes(&mut next);
    assert_eq!((told[0].to_peers.datagrams, told[0].to_client.datagrams), (3, 0));
    assert!(next.knows(&there) && next.knows(&back));

    // Other settings are put in one at a time, with what the program remembers.
    let mut next = Entries::new(vec![4, 6]);
    next.set_adopting(true);
    next.apply(CORE, &open(same, true), &mut map);
    next.apply(CORE, &open(other, true), &mut map);
    next.insert_waiting(&mut map);
    let replaced = |map: &Memory| map.entries.values().filter(|it| it.owner_cpu == 6).count();
    for round in 1..=4 {
        assert_eq!(replaced(&map), round);
        next.insert_waiting(&mut map);
    }
    assert_eq!(map.entries[&there].packets, 13);
    assert!(!next.has_waiting());
}

#[test]
fn a_paused_path_goes_one_way_and_a_closed_one_none() {
    let path = path(0x4001, "203.0.113.9:6000");
    let (mut entries, mut map) = bench(&[open(path, true), open(path, false)]);
    assert_eq!(map.entries.len(), 1);
    entries.apply(CORE, &PathChange::Closed { path }, &mut map);
    assert!(map.entries.is_empty());
    assert_eq!(entries.counts(), EntryCounts::default());
}

#[test]
fn payload_is_told_without_its_heads_and_once() {
    let path = path(0x4001, "203.0.113.9:6000");
    let (mut entries, mut map) = bench(&[open(path, true)]);
    let (there, back) = keys(&path);
    let started = notes(&mut entries);
    assert_eq!((started.len(), started[0].directions), (1, 2));
    map.relay(&there, 3, 20 + 8 + 4 + 100);
    map.relay(&back, 2, 20 + 8 + 70);
    entries.look(100, &mut map);
    let told = notes(&mut entries);
    let carried = |datagrams, bytes| Carried { datagrams, bytes };
    assert_eq!((told[0].to_peers, told[0].to_client), (carried(3, 300), carried(2, 140)));
    entries.look(100, &mut map);
    assert!(notes(&mut entries).is_empty());
}

#[test]
fn what_an_entry_carried_last_is_told_when_it_goes() {
    let path = path(0x4001, "203.0.113.9:6000");
    let (mut entries, mut map) = bench(&[open(path, true)]);
    map.relay(&keys(&path).0, 1, 20 + 8 + 4 + 9);
    entries.apply(CORE, &PathChange::Closed { path }, &mut map);
    let told = notes(&mut entries);
    assert_eq!((told[0].directions, told[0].to_peers.bytes), (0, 9));
    assert!(entries.accounts.is_empty());
}

#[test]
fn what_does_not_leave_the_machine_is_not_put_in() {
    let (mut entries, mut map) = bench(&[]);
    entries.set_own(BTreeSet::from([at("203.0.113.9:0").ip()]));
    for peer in ["203.0.113.9:6000", "127.0.0.1:9", "224.0.0.1:9"] {
        entries.apply(CORE, &open(path(0x4001, peer), true), &mut map);
    }
    let client = at("[fe80::7]:4242");
    let server = at("[fe80::1]:3478");
    entries.apply(CORE, &PathChange::Client { client, server }, &mut map);
    entries.insert_waiting(&mut map);
    assert!(map.entries.is_empty());
}

#[test]
fn a_full_map_leaves_sessions_to_user_space_and_counts_them() {
    let (mut entries, mut map) = bench(&[]);
    map.room = 1;
    entries.apply(CORE, &open(path(0x4001, "203.0.113.9:6000"), true), &mut map);
    entries.insert_waiting(&mut map);
    let counts = EntryCounts { directions: 1, refused_total: 1, ..EntryCounts::default() };
    assert_eq!(entries.counts(), counts);
}

#[test]
fn what_comes_and_goes_before_it_is_put_in_does_not_pile_up() {
    let (mut entries, mut map) = bench(&[]);
    let lasting = path(0x4002, "203.0.113.9:6001");
    entries.apply(CORE, &open(lasting, true), &mut map);
    let brief = path(0x4001, "203.0.113.9:6000");
    for _ in 0..WAITING_MAX {
        entries.apply(CORE, &open(brief, true), &mut map);
        entries.apply(CORE, &PathChange::Closed { path: brief }, &mut map);
    }
    assert!(entries.waiting.len() <= WAITING_MAX, "{}", entries.waiting.len());
    for _ in 0..=WAITING_MAX / INSERTS_PER_CALL {
        entries.insert_waiting(&mut map);
    }
    assert!(!entries.has_waiting());
    let (there, back) = keys(&lasting);
    assert_eq!(map.entries.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from([there, back]));
}

#[test]
fn an_entry_that_somebody_else_removed_is_put_in_anew() {
    let path = path(0x4001, "203.0.113.9:6000");
    let (mut entries, mut map) = bench(&[open(path, true)]);
    map.entries.clear();
    entries.look(100, &mut map);
    assert!(entries.has_waiting());
    entries.insert_waiting(&mut map);
    assert_eq!(map.entries.len(), 2);
    assert_eq!(notes(&mut entries)[0].directions, 2);
}

#[test]
fn looks_go_round_in_portions() {
    let (mut entries, mut map) = bench(
        &[0x4001, 0x4002, 0x4003]
            .map(|channel| open(path(channel, &format!("203.0.113.9:{channel}")), false)),
    );
    notes(&mut entries);
    for channel in [0x4001, 0x4002, 0x4003] {
        map.relay(&keys(&path(channel, &format!("203.0.113.9:{channel}"))).0, 1, 132);
    }
    let mut datagrams = 0;
    for _ in 0..3 {
        entries.look(1, &mut map);
        datagrams += notes(&mut entries).iter().map(|note| note.to_peers.datagrams).sum::<u64>();
    }
    assert_eq!(datagrams, 3);
}

/// A step of the world: a path of few opens, closes or pauses, or a core tells all anew.
fn step() -> impl Strategy<Value = (u16, PathChange)> {
    let path = (0..2_u16, 0..3_u16, 0..3_u16).prop_map(|(core, channel, peer)| {
        let mut path = path(0x4000 + channel, &format!("203.0.113.9:{}", 6000 + peer));
        path.client.set_port(4000 + core);
        path.relayed.set_port(50_000 + core);
        (core, path)
    });
    (path, 0..8_u8).prop_map(|((core, path), what)| {
        let change = match what {
            0 => PathChange::Void,
            1..=3 => PathChange::Closed { path },
            4 => open(path, false),
            _ => open(path, true),
        };
        (core, change)
    })
}

proptest! {
    /// Whatever the order: what the map holds is what the last word on each path says, as long as
    /// cores keep to what TURN allows, which is one channel for a peer and one peer for a channel.
    #[test]
    fn the_map_holds_what_was_said_last(steps in proptest::collection::vec(step(), 0..60)) {
        let (mut entries, mut map) = (Entries::new(vec![4, 5]), Memory::new());
        let mut holds: BTreeMap<(u16, u16), (OffloadPath, bool)> = BTreeMap::new();
        for (core, change) in steps {
            match change {
                PathChange::Void => holds.retain(|(of, _), _| *of != core),
                PathChange::Open { path, is_two_way } => {
                    let is_taken = holds.iter().any(|(key, (held, _))| {
                        let same = (key.1 == path.channel, held.peer == path.peer);
                        key.0 == core && (same == (true, false) || same == (false, true))
                    });
                    if is_taken {
                        continue;
                    }
                    holds.insert((core, path.channel), (path, is_two_way));
                }
                PathChange::Closed { path } => match holds.get(&(core, path.channel)) {
                    Some((held, _)) if held.peer == path.peer => {
                        holds.remove(&(core, path.channel));
                    }
                    _ => continue,
                },
                PathChange::Client { .. } | PathChange::ClientGone { .. } => {}
            }
            entries.apply(CoreId(core), &change, &mut map);
            if holds.len().is_multiple_of(2) {
                entries.insert_waiting(&mut map);
            }
        }
        entries.insert_waiting(&mut map);
        let expected: BTreeSet<SessionKey> = holds
            .values()
            .flat_map(|(path, is_two_way)| {
                let (there, back) = keys(path);
                [Some(there), is_two_way.then_some(back)]
            })
            .flatten()
            .collect();
        prop_assert_eq!(map.entries.keys().copied().collect::<BTreeSet<_>>(), expected);
        let total: u32 = entries.accounts.values().map(|account| account.directions).sum();
        prop_assert_eq!(total as usize, map.entries.len());
    }
}

//! Opaque sessions in the program's map: an entry for each end that is known, which relays what
//! comes from there or hands it to its core.
//!
//! A part of the mirror of the map, on the management thread. Data cores tell what holds of a
//! session; here it is compared with what is there, changed step by step as the map allows, and
//! answered once it is so. An end without an entry is a stranger to the program, held to a
//! stranger's rate, which is why an end whose packets go to its core has one too.

use super::entries::{Entries, Role, SessionMap};
use super::limits::{ANSWERS_PER_CALL, NOTES_PER_COMMAND};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use waystation_ebpf::abi::{Session, SessionKey};
use waystation_engine::control::Command;
use waystation_engine::offload::{
    Carried, CarriedFrom, UdpOffloaded, UdpPath, UdpPathAnswer, UdpPathLeg,
};
use waystation_relay::ids::{CoreId, UdpSessionTag};
use waystation_relay::udp::Side;
use waystation_relay::udp::tier::WhyNot;

/// One session: what was last said of it, and what it has carried that nobody was told.
#[derive(Clone, Copy, Debug)]
struct Known {
    serial: u32,
    /// Of what comes from leg A and leg B.
    keys: [Option<SessionKey>; 2],
    /// The ports that those are sent to.
    ports: [Option<u16>; 2],
    /// Why it is not relayed; absent: it is, or will be.
    against: Option<WhyNot>,
    is_answered: bool,
    from: [CarriedFrom; 2],
    dropped_datagrams: u64,
    is_dirty: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct UdpEntries {
    known: BTreeMap<UdpSessionTag, Known>,
    /// Sessions of which the last word was not answered, some of them ended since.
    unanswered: VecDeque<UdpSessionTag>,
    /// Addresses of this machine on interfaces that the program is not on.
    uncovered: BTreeSet<IpAddr>,
    /// How many ends send to each port.
    ports: BTreeMap<u16, u32>,
    /// Ports that have become a session's, or are no longer.
    port_changes: BTreeMap<u16, bool>,
}

impl UdpEntries {
    /// The addresses on interfaces that the program is not on.
    pub(super) fn set_uncovered(&mut self, uncovered: BTreeSet<IpAddr>) {
        self.uncovered = uncovered;
    }

    /// Whether some session waits for an answer.
    pub(super) fn has_unanswered(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// What has changed of ports since this was asked last: whether each is a session's.
    pub(super) fn take_port_changes(&mut self) -> BTreeMap<u16, bool> {
        std::mem::take(&mut self.port_changes)
    }

    /// All ports that are sessions'.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.keys().copied()
    }

    /// Forgets all sessions but for what they have carried.
    pub(super) fn clear(&mut self) {
        let ports: Vec<_> = self.ports.keys().copied().collect();
        self.ports.clear();
        self.port_changes.extend(ports.into_iter().map(|port| (port, false)));
        self.unanswered.clear();
        for known in self.known.values_mut() {
            (known.keys, known.ports, known.is_answered) = ([None; 2], [None; 2], true);
        }
    }

    /// Adds what has come from an end and was relayed or dropped.
    pub(super) fn note(
        &mut self,
        session: UdpSessionTag,
        side: Side,
        carried: Carried,
        heard_ns: u64,
        drops: u64,
    ) {
        let Some(known) = self.known.get_mut(&session) else { return };
        if carried.datagrams > 0 {
            let from = &mut known.from[side.index()];
            from.carried.add(carried);
            from.heard_ns = from.heard_ns.max(heard_ns);
        }
        known.dropped_datagrams += drops;
        known.is_dirty |= carried.datagrams > 0 || drops > 0;
    }

    /// What the cores have to hear of what was carried.
    pub(super) fn notes(&mut self) -> Vec<(CoreId, Command)> {
        let mut by_core: BTreeMap<CoreId, Vec<UdpOffloaded>> = BTreeMap::new();
        for (session, known) in &mut self.known {
            by_core.entry(session.core).or_default().extend(known.take_note(*session));
        }
        in_chunks(by_core, |offloaded| Command::NoteUdpOffloaded { offloaded })
    }

    fn hold_port(&mut self, port: u16) {
        let ends = self.ports.entry(port).or_default();
        *ends += 1;
        if *ends == 1 {
            self.port_changes.insert(port, true);
        }
    }

    fn release_port(&mut self, port: u16) {
        let Some(ends) = self.ports.get_mut(&port) else { return };
        *ends -= 1;
        if *ends == 0 {
            self.ports.remove(&port);
            self.port_changes.insert(port, false);
        }
    }

    fn is_covered(&self, leg: &UdpPathLeg) -> bool {
        !self.uncovered.contains(&leg.local.ip())
    }
}

impl Known {
    fn new() -> Self {
        Self {
            serial: 0,
            keys: [None; 2],
            ports: [None; 2],
            against: None,
            is_answered: true,
            from: [CarriedFrom::default(); 2],
            dropped_datagrams: 0,
            is_dirty: false,
        }
    }

    fn take_note(&mut self, session: UdpSessionTag) -> Option<UdpOffloaded> {
        let from = std::mem::take(&mut self.from);
        let dropped_datagrams = std::mem::take(&mut self.dropped_datagrams);
        let is_dirty = std::mem::take(&mut self.is_dirty);
        is_dirty.then_some(UdpOffloaded { session, from, dropped_datagrams })
    }
}

impl Entries {
    /// Takes up what a core tells of a session.
    pub(super) fn apply_udp(&mut self, path: &UdpPath, map: &mut dyn SessionMap) {
        let core = path.session.core;
        let legs = path.legs.map(|leg| leg.filter(|leg| self.is_outward(leg.end)));
        let keys = legs.map(|leg| leg.map(|leg| SessionKey::new(leg.end, leg.local, None)));
        let before = self.udp.known.get(&path.session).copied().unwrap_or_else(Known::new);
        for (side, key) in Side::BOTH.into_iter().zip(before.keys) {
            if let Some(key) = key.filter(|key| !keys.contains(&Some(*key))) {
                let role = Role::From(path.session, side);
                self.remove_if(core, &key, |its| its == role, map);
            }
        }
        let is_covered = legs.iter().all(|leg| leg.is_some_and(|leg| self.udp.is_covered(&leg)));
        let against = path.against.or((!is_covered).then_some(WhyNot::OtherInterface));
        let ports = legs.map(|leg| leg.map(|leg| leg.local.port()));
        ports.into_iter().flatten().for_each(|port| self.udp.hold_port(port));
        before.ports.into_iter().flatten().for_each(|port| self.udp.release_port(port));
        for (side, key) in Side::BOTH.into_iter().zip(keys) {
            let Some(key) = key else { continue };
            let target = legs[side.other().index()].filter(|_| against.is_none());
            let session = match target {
                Some(target) => relayed(path, &target, self.owner(core)),
                None => Session::steered(self.owner(core)),
            };
            self.put(core, key, Role::From(path.session, side), session, map);
        }
        if before.is_answered {
            self.udp.unanswered.push_back(path.session);
        }
        // What was removed above has told of what it carried.
        let before = self.udp.known.get(&path.session).copied().unwrap_or(before);
        let known =
            Known { serial: path.serial, keys, ports, against, is_answered: false, ..before };
        self.udp.known.insert(path.session, known);
    }

    /// A session has ended. Gives what it has carried that its core was not told.
    pub(super) fn end_udp(
        &mut self,
        session: UdpSessionTag,
        map: &mut dyn SessionMap,
    ) -> Option<UdpOffloaded> {
        let known = self.udp.known.get(&session)?;
        let (keys, ports) = (known.keys, known.ports);
        for (side, key) in Side::BOTH.into_iter().zip(keys) {
            if let Some(key) = key {
                let role = Role::From(session, side);
                self.remove_if(session.core, &key, |its| its == role, map);
            }
        }
        ports.into_iter().flatten().for_each(|port| self.udp.release_port(port));
        self.udp.known.remove(&session)?.take_note(session)
    }

    /// Answers what is settled, up to a bound: first what was carried until then, so that the core
    /// knows who was heard before it decides by silence.
    pub(super) fn answer_udp(&mut self, map: &mut dyn SessionMap) -> Vec<(CoreId, Command)> {
        let mut notes: BTreeMap<CoreId, Vec<UdpOffloaded>> = BTreeMap::new();
        let mut answers: BTreeMap<CoreId, Vec<UdpPathAnswer>> = BTreeMap::new();
        for _ in 0..self.udp.unanswered.len().min(ANSWERS_PER_CALL) {
            let Some(session) = self.udp.unanswered.pop_front() else { break };
            if !self.settle(session, map) {
                if self.udp.known.contains_key(&session) {
                    self.udp.unanswered.push_back(session);
                }
                continue;
            }
            let Some(known) = self.udp.known.get_mut(&session) else { continue };
            known.is_answered = true;
            let Known { serial, against, .. } = *known;
            notes.entry(session.core).or_default().extend(known.take_note(session));
            let answer = UdpPathAnswer { session, serial, against };
            answers.entry(session.core).or_default().push(answer);
        }
        let mut commands = in_chunks(notes, |offloaded| Command::NoteUdpOffloaded { offloaded });
        commands.extend(in_chunks(answers, |answers| Command::AnswerUdpPaths { answers }));
        commands
    }

    /// Whether the map holds a session as it was told of. Where it has no room for both directions,
    /// none is relayed.
    fn settle(&mut self, session: UdpSessionTag, map: &mut dyn SessionMap) -> bool {
        let Some(known) = self.udp.known.get(&session).copied() else { return false };
        let entries = known.keys.map(|key| key.map(|key| (key, self.get(&key).copied())));
        let is_missing = entries.iter().flatten().any(|(_, entry)| entry.is_none());
        if is_missing && known.against.is_none() {
            if let Some(known) = self.udp.known.get_mut(&session) {
                known.against = Some(WhyNot::MapFull);
            }
            let session_there = Session::steered(self.owner(session.core));
            for (side, there) in Side::BOTH.into_iter().zip(entries) {
                if let Some((key, Some(_))) = there {
                    let role = Role::From(session, side);
                    self.put(session.core, key, role, session_there, map);
                }
            }
            return false;
        }
        entries.iter().flatten().all(|(_, entry)| entry.is_none_or(|entry| entry.is_settled()))
    }
}

/// The entry of what goes to the end of a leg.
fn relayed(path: &UdpPath, target: &UdpPathLeg, owner: u32) -> Session {
    let mut session = Session::relayed(target.local, target.end, None, owner);
    if let Some(pace) = path.pace {
        (session.cost_ns_per_kib, session.burst_ns) = (pace.kib_ns, pace.burst_ns);
    }
    match target.indices {
        // As they lie in packets: little-endian.
        Some(indices) if path.is_wireguard => {
            session.for_transport(indices.map(|index| index.0.to_le()))
        }
        _ => session,
    }
}

/// Commands that are each no longer than a core takes up in a turn.
pub(super) fn in_chunks<T: Clone>(
    by_core: BTreeMap<CoreId, Vec<T>>,
    command: impl Fn(Box<[T]>) -> Command,
) -> Vec<(CoreId, Command)> {
    let mut commands = Vec::new();
    for (core, all) in by_core {
        let chunks = all.chunks(NOTES_PER_COMMAND);
        commands.extend(chunks.map(|chunk| (core, command(Box::from(chunk)))));
    }
    commands
}

#[cfg(test)]
#[path = "udp_entries_tests.rs"]
mod tests;

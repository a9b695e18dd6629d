//! Which sessions are in the program's map, whose they are, and what they have carried.
//!
//! Owns the mirror of the map, which has one writer: this. Called on the management thread with what
//! data cores tell. It must never put in what no core has vouched for, and never holds more than the
//! map does. Every change and every look at an entry is a few system calls, so each call does a
//! bounded number of them. Opaque sessions are in `udp_entries`.

use super::limits::{INSERTS_PER_CALL, WAITING_MAX};
use super::udp_entries::{UdpEntries, in_chunks};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use waystation_ebpf::abi::limits::SESSION_ENTRIES_MAX;
use waystation_ebpf::abi::{Session, SessionKey};
use waystation_ebpf::tables::SessionTable;
use waystation_engine::control::Command;
use waystation_engine::offload::{Carried, OffloadPath, Offloaded, PathChange};
use waystation_relay::ids::{CoreId, UdpSessionTag};
use waystation_relay::udp::Side;
use waystation_turn::server::AllocationId;

/// Bytes of a UDP header, and of what stands before the payload of a channel (RFC 8656 §12.4).
const UDP_BYTES: u64 = 8;
const CHANNEL_BYTES: u64 = 4;

/// The map, or what stands in for it. `false`: the kernel has refused.
pub(super) trait SessionMap {
    fn insert(&mut self, key: SessionKey, session: Session) -> bool;
    fn remove(&mut self, key: &SessionKey) -> bool;
    /// What the program remembers; nothing if the entry is not there.
    fn find(&self, key: &SessionKey) -> Option<Session>;
}

impl SessionMap for SessionTable {
    fn insert(&mut self, key: SessionKey, session: Session) -> bool {
        Self::insert(self, key, session).is_ok()
    }

    fn remove(&mut self, key: &SessionKey) -> bool {
        Self::remove(self, key).is_ok()
    }

    fn find(&self, key: &SessionKey) -> Option<Session> {
        Self::find(self, key).ok().flatten()
    }
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A client's own packets, which go to its core.
    Client,
    /// A channel's payload on its way to the peer.
    ToPeer(AllocationId),
    /// The peer's on its way to the client.
    ToClient(AllocationId),
    /// What comes from one end of an opaque session.
    From(UdpSessionTag, Side),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    core: CoreId,
    role: Role,
    /// As it is to be there.
    session: Session,
    is_in_map: bool,
    /// What is there in its place until it is replaced.
    before: Option<Session>,
    packets_seen: u64,
    bytes_seen: u64,
    drops_seen: u64,
}

impl Entry {
    /// Whether the map holds it as it should be.
    pub(super) fn is_settled(&self) -> bool {
        self.is_in_map && self.before.is_none()
    }
}

/// What one allocation's entries have carried and nobody was told, and how many there are.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    directions: u32,
    to_peers: Carried,
    to_client: Carried,
    is_dirty: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Entries {
    known: BTreeMap<SessionKey, Entry>,
    /// To be put in. In a full map a removed entry's record may become another's while the program
    /// still looks at it, so an entry is put in by a later call than one that removes.
    waiting: VecDeque<SessionKey>,
    accounts: BTreeMap<(CoreId, AllocationId), Account>,
    /// Behind which key the next look at the map begins.
    looked_at: Option<SessionKey>,
    /// By core: what the program knows each by.
    owners: Vec<u32>,
    /// Addresses of this machine: what goes there does not leave it.
    own: BTreeSet<IpAddr>,
    refused: u64,
    /// Whether the map may hold entries of the process before, to go on with.
    adopts: bool,
    /// Opaque sessions.
    pub(super) udp: UdpEntries,
}

/// How many entries there are, and how many found no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// TURN clients whose packets go to their core.
    pub clients: usize,
    /// What is relayed, each way one.
    pub directions: usize,
    /// Those of opaque sessions among them.
    pub opaque_directions: usize,
    /// Ends of opaque sessions whose packets go to their core.
    pub opaque_ends: usize,
    pub refused_total: u64,
}

impl Entries {
    /// None yet, of cores that the program knows by these numbers.
    pub(super) fn new(owners: Vec<u32>) -> Self {
        Self { owners, ..Self::default() }
    }

    /// The addresses of this machine.
    pub(super) fn set_own(&mut self, own: BTreeSet<IpAddr>) {
        self.own = own;
    }

    /// Whether what is in the map already is gone on with.
    pub(super) fn set_adopting(&mut self, adopts: bool) {
        self.adopts = adopts;
    }

    /// How many there are.
    pub(super) fn counts(&self) -> EntryCounts {
        let mut counts = EntryCounts { refused_total: self.refused, ..EntryCounts::default() };
        for entry in self.known.values().filter(|entry| entry.is_in_map) {
            let is_relayed = entry.before.unwrap_or(entry.session).is_relayed();
            match entry.role {
                Role::Client => counts.clients += 1,
                Role::ToPeer(_) | Role::ToClient(_) => counts.directions += 1,
                Role::From(..) if is_relayed => {
                    counts.directions += 1;
                    counts.opaque_directions += 1;
                }
                Role::From(..) => counts.opaque_ends += 1,
            }
        }
        counts
    }

    /// What is known of a key.
    pub(super) fn get(&self, key: &SessionKey) -> Option<&Entry> {
        self.known.get(key)
    }

    /// Whether an entry is one of these.
    pub(super) fn knows(&self, key: &SessionKey) -> bool {
        self.known.contains_key(key)
    }

    /// Whether something waits to be put in.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes up what a core tells, in order.
    pub(super) fn apply(&mut self, core: CoreId, change: &PathChange, map: &mut dyn SessionMap) {
        match *change {
            PathChange::Void => self.remove_all_of(core, map),
            PathChange::Client { client, server } => {
                if self.is_outward(client) {
                    let key = SessionKey::new(client, server, None);
                    let session = Session::steered(self.owner(core));
                    self.put(core, key, Role::Client, session, map);
                }
            }
            PathChange::ClientGone { client, server } => {
                let key = SessionKey::new(client, server, None);
                self.remove_if(core, &key, |role| role == Role::Client, map);
            }
            PathChange::Open { path, is_two_way } => self.open(core, &path, is_two_way, map),
            PathChange::Closed { path } => self.close(core, &path, map),
        }
    }

    fn open(
        &mut self,
        core: CoreId,
        path: &OffloadPath,
        is_two_way: bool,
        map: &mut dyn SessionMap,
    ) {
        if !self.is_outward(path.client) || !self.is_outward(path.peer) {
            return;
        }
        let owner = self.owner(core);
        let (there, back) = keys(path);
        let session = Session::relayed(path.relayed, path.peer, None, owner);
        self.put(core, there, Role::ToPeer(path.allocation), session, map);
        let role = Role::ToClient(path.allocation);
        if is_two_way {
            let session = Session::relayed(path.server, path.client, Some(path.channel), owner);
            self.put(core, back, role, session, map);
        } else {
            self.remove_if(core, &back, |its| its == role, map);
        }
    }

    fn close(&mut self, core: CoreId, path: &OffloadPath, map: &mut dyn SessionMap) {
        let (there, back) = keys(path);
        self.remove_if(core, &there, |role| role == Role::ToPeer(path.allocation), map);
        self.remove_if(core, &back, |role| role == Role::ToClient(path.allocation), map);
    }

    /// Whether packets from there come in by an interface, and those for there leave by one.
    pub(super) fn is_outward(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let is_of_a_link = match address {
            SocketAddr::V4(_) => false,
            // The same address on another link is another node's, and no key tells links apart.
            SocketAddr::V6(v6) => v6.ip().is_unicast_link_local(),
        };
        !(ip.is_loopback()
            || ip.is_unspecified()
            || ip.is_multicast()
            || is_of_a_link
            || self.own.contains(&ip))
    }

    pub(super) fn owner(&self, core: CoreId) -> u32 {
        self.owners.get(core.index()).copied().unwrap_or(u32::MAX)
    }

    /// Lets an entry be put in, unless it is there as it should be. One of the same owner is
    /// replaced where it is, so that no packet finds none.
    pub(super) fn put(
        &mut self,
        core: CoreId,
        key: SessionKey,
        role: Role,
        session: Session,
        map: &mut dyn SessionMap,
    ) {
        if let Some(known) = self.known.get_mut(&key) {
            if (known.core, known.role, known.session) == (core, role, session) {
                return;
            }
            if (known.core, known.role) == (core, role) {
                if known.is_in_map {
                    known.before.get_or_insert(known.session);
                }
                known.session = session;
                self.wait(key);
                return;
            }
            self.remove(&key, map);
        }
        if self.known.len() >= SESSION_ENTRIES_MAX as usize {
            self.refused += 1;
            return;
        }
        let entry = Entry {
            core,
            role,
            session,
            is_in_map: false,
            before: None,
            packets_seen: 0,
            bytes_seen: 0,
            drops_seen: 0,
        };
        self.known.insert(key, entry);
        self.wait(key);
    }

    fn wait(&mut self, key: SessionKey) {
        if self.waiting.len() >= WAITING_MAX {
            self.forget_stale_waiting();
        }
        self.waiting.push_back(key);
    }

    /// What came and went again before it was put in still waits; after this only what is to be put
    /// in does, each once.
    fn forget_stale_waiting(&mut self) {
        let to_put_in = self.known.iter().filter(|(_, entry)| !entry.is_settled());
        self.waiting = to_put_in.map(|(key, _)| *key).collect();
    }

    /// Puts in what waits, up to a bound. Of replacements one: in a full map few records are free, and
    /// that of what was replaced has to wait until no program looks at it.
    pub(super) fn insert_waiting(&mut self, map: &mut dyn SessionMap) {
        let mut has_replaced = false;
        for _ in 0..INSERTS_PER_CALL {
            let Some(key) = self.waiting.pop_front() else { return };
            let Some(entry) = self.known.get(&key).filter(|entry| !entry.is_settled()) else {
                continue;
            };
            if entry.is_in_map {
                if has_replaced {
                    self.waiting.push_front(key);
                    return;
                }
                has_replaced = true;
                self.replace(&key, map);
                continue;
            }
            if self.adopts
                && let Some(there) = map.find(&key)
            {
                self.adopt(key, &there);
                continue;
            }
            let Some(entry) = self.known.get_mut(&key) else { continue };
            if map.insert(key, entry.session) {
                self.is_put_in(&key);
            } else {
                // Its packets go to user space, as without the program.
                self.known.remove(&key);
                self.refused += 1;
            }
        }
    }

    /// Goes on with an entry of the process before, where it is: what it has carried was told by
    /// that one. One that differs is replaced, which has to be done one at a time.
    fn adopt(&mut self, key: SessionKey, there: &Session) {
        let Some(entry) = self.known.get_mut(&key) else { return };
        (entry.packets_seen, entry.bytes_seen) = (there.packets, there.bytes);
        entry.drops_seen = there.dropped_packets;
        if entry.session.remembering(there) != *there {
            entry.before = Some(*there);
            self.wait(key);
        }
        self.is_put_in(&key);
    }

    fn is_put_in(&mut self, key: &SessionKey) {
        let Some(entry) = self.known.get_mut(key) else { return };
        entry.is_in_map = true;
        let (core, role) = (entry.core, entry.role);
        if let Some(account) = self.account(core, role) {
            account.directions += 1;
            account.is_dirty = true;
        }
    }

    /// Replaces an entry that is in the map. What the program remembers of it goes on; what it
    /// counts between the look and the replacement is lost, which is a packet or two.
    fn replace(&mut self, key: &SessionKey, map: &mut dyn SessionMap) {
        self.look_at(key, map);
        // It may have gone without our doing; then it waits to be put in anew.
        let Some(entry) = self.known.get_mut(key).filter(|entry| entry.is_in_map) else { return };
        let Some(there) = map.find(key) else { return };
        if map.insert(*key, entry.session.remembering(&there)) {
            entry.before = None;
        } else {
            // What is there must not stay: it may send to where nobody is any more.
            self.remove(key, map);
            self.refused += 1;
        }
    }

    /// What TURN has put in for a core.
    fn remove_all_of(&mut self, core: CoreId, map: &mut dyn SessionMap) {
        let is_turn = |entry: &Entry| !matches!(entry.role, Role::From(..));
        let of_core = self.known.iter().filter(|(_, entry)| entry.core == core && is_turn(entry));
        let keys: Vec<_> = of_core.map(|(key, _)| *key).collect();
        for key in keys {
            self.remove(&key, map);
        }
    }

    /// Removes everything, as the program is taken off.
    pub(super) fn clear(&mut self, map: &mut dyn SessionMap) {
        let keys: Vec<_> = self.known.keys().copied().collect();
        for key in keys {
            self.remove(&key, map);
        }
        self.udp.clear();
    }

    pub(super) fn remove_if(
        &mut self,
        core: CoreId,
        key: &SessionKey,
        is_it: impl Fn(Role) -> bool,
        map: &mut dyn SessionMap,
    ) {
        let known = self.known.get(key);
        if known.is_some_and(|entry| entry.core == core && is_it(entry.role)) {
            self.remove(key, map);
        }
    }

    fn remove(&mut self, key: &SessionKey, map: &mut dyn SessionMap) {
        if self.known.get(key).is_some_and(|entry| entry.is_in_map) {
            self.look_at(key, map);
            map.remove(key);
        }
        self.forget(key);
    }

    fn forget(&mut self, key: &SessionKey) {
        let Some(entry) = self.known.remove(key).filter(|entry| entry.is_in_map) else { return };
        if let Some(account) = self.account(entry.core, entry.role) {
            account.directions = account.directions.saturating_sub(1);
            account.is_dirty = true;
        }
    }

    fn account(&mut self, core: CoreId, role: Role) -> Option<&mut Account> {
        match role {
            Role::Client | Role::From(..) => None,
            Role::ToPeer(allocation) | Role::ToClient(allocation) => {
                Some(self.accounts.entry((core, allocation)).or_default())
            }
        }
    }

    /// Reads what so many entries have carried, those behind the ones that were read last.
    pub(super) fn look(&mut self, entries: usize, map: &mut dyn SessionMap) {
        let from = self.looked_at.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.known.range((from, Bound::Unbounded)).take(entries);
        let keys: Vec<_> = next.map(|(key, _)| *key).collect();
        // The next look begins at the front when this one has come to the end.
        self.looked_at = keys.last().copied().filter(|_| keys.len() == entries);
        for key in keys {
            self.look_at(&key, map);
        }
    }

    /// Reads what all entries have carried.
    pub(super) fn look_at_all(&mut self, map: &mut dyn SessionMap) {
        self.looked_at = None;
        self.look(SESSION_ENTRIES_MAX as usize + 1, map);
    }

    fn look_at(&mut self, key: &SessionKey, map: &mut dyn SessionMap) {
        let Some(entry) = self.known.get_mut(key).filter(|entry| entry.is_in_map) else { return };
        let Some(session) = map.find(key) else {
            // Somebody else has removed it; it is put in anew.
            let (core, role, session) = (entry.core, entry.role, entry.session);
            self.forget(key);
            self.put(core, *key, role, session, map);
            return;
        };
        let packets = session.packets.saturating_sub(entry.packets_seen);
        let bytes = session.bytes.saturating_sub(entry.bytes_seen);
        let drops = session.dropped_packets.saturating_sub(entry.drops_seen);
        (entry.packets_seen, entry.bytes_seen) = (session.packets, session.bytes);
        entry.drops_seen = session.dropped_packets;
        let (core, role) = (entry.core, entry.role);
        let ip_bytes =
            if key.family == u16::from(waystation_ebpf::abi::family::V4) { 20 } else { 40 };
        let head_bytes = ip_bytes + UDP_BYTES;
        if let Role::From(of, side) = role {
            // What goes to the core is counted there.
            if session.is_relayed() {
                let bytes = bytes.saturating_sub(packets.saturating_mul(head_bytes));
                let carried = Carried { datagrams: packets, bytes };
                self.udp.note(of, side, carried, session.last_seen_ns, drops);
            }
            return;
        }
        if packets == 0 {
            return;
        }
        let Some(account) = self.account(core, role) else { return };
        let (carried, head_bytes) = match role {
            Role::ToPeer(_) => (&mut account.to_peers, head_bytes + CHANNEL_BYTES),
            Role::Client | Role::ToClient(_) | Role::From(..) => {
                (&mut account.to_client, head_bytes)
            }
        };
        let bytes = bytes.saturating_sub(packets.saturating_mul(head_bytes));
        carried.add(Carried { datagrams: packets, bytes });
        account.is_dirty = true;
    }

    /// What the cores have to hear.
    pub(super) fn notes(&mut self) -> Vec<(CoreId, Command)> {
        let mut by_core: BTreeMap<CoreId, Vec<Offloaded>> = BTreeMap::new();
        for (&(core, allocation), account) in &mut self.accounts {
            if !std::mem::take(&mut account.is_dirty) {
                continue;
            }
            let (to_peers, to_client) =
                (std::mem::take(&mut account.to_peers), std::mem::take(&mut account.to_client));
            let directions = account.directions;
            let note = Offloaded { allocation, directions, to_peers, to_client };
            by_core.entry(core).or_default().push(note);
        }
        self.accounts.retain(|_, account| account.directions > 0);
        let mut commands = in_chunks(by_core, |offloaded| Command::NoteOffloaded { offloaded });
        commands.extend(self.udp.notes());
        commands
    }
}

/// The keys of a path's packets, there and back.
fn keys(path: &OffloadPath) -> (SessionKey, SessionKey) {
    let there = SessionKey::new(path.client, path.server, Some(path.channel));
    (there, SessionKey::new(path.peer, path.relayed, None))
}

#[cfg(test)]
#[path = "entries_tests.rs"]
pub(super) mod tests;

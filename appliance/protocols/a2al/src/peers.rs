//! What is known of other nodes: where they answered, and how well (specification §9).
//!
//! Owns an address book of bounded size and the back-off after failures. Used by the node alone.

use std::net::SocketAddr;

use crate::limits::{
    BACKOFF_EXPONENT_MAX, BACKOFF_MS_MIN, BAD_FAILURES, CORRELATED_FAILURES, CORRELATED_WINDOW_MS,
    IMPOSTORS_PER_PLACE, OFFLINE_SUSPICION_MS, PEERS_MAX, PROOF_MS,
};
use crate::node_id::NodeId;
use crate::recent::RecentMap;
use crate::time::Millis;

/// How well a node answers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Health {
    /// It answered last.
    Good,
    /// It was never asked, or failed once.
    Unknown,
    /// It failed twice or more in a row.
    Bad,
}

/// One address family of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    /// Where it answered, and when last.
    proved: Option<(SocketAddr, Millis)>,
    failures: u32,
    failed_at: Millis,
    retry_at: Millis,
    round_trip_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    v4: Path,
    v6: Path,
}

/// An address at which somebody answered.
#[derive(Clone, Copy, Debug)]
struct Place {
    proved_at: Millis,
    /// Messages from there since that nobody known there has signed.
    impostors: u8,
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Nobody has proved lately to be there.
    Unknown,
    /// Somebody has, and what comes from there is theirs.
    Proved,
    /// Somebody has, and somebody else writes in its name.
    Doubted,
}

/// Every node heard of lately, and whether the network itself is out of reach.
#[derive(Debug)]
pub struct PeerBook {
    peers: RecentMap<NodeId, Peer>,
    places: RecentMap<SocketAddr, Place>,
    /// Failures before this moment were the network's, and count for nobody.
    forgiven_at: Option<Millis>,
    success_at: Option<Millis>,
    failing: Vec<NodeId>,
    failing_since: Millis,
}

impl Default for PeerBook {
    fn default() -> Self {
        Self {
            peers: RecentMap::new(PEERS_MAX),
            places: RecentMap::new(PEERS_MAX),
            forgiven_at: None,
            success_at: None,
            failing: Vec::new(),
            failing_since: Millis(0),
        }
    }
}

impl PeerBook {
    /// Nodes known; at most twice [`PEERS_MAX`].
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Says whether none is known.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// A node answered at an address.
    pub fn succeeded(&mut self, id: NodeId, at: SocketAddr, took_ms: Option<u64>, now: Millis) {
        if self.is_offline(now) {
            self.forgiven_at = Some(now);
        }
        self.success_at = Some(now);
        self.failing.clear();
        self.places.insert(at, Place { proved_at: now, impostors: 0 });
        let path = path_mut(self.peers.entry(id, Peer::default), at);
        *path = Path {
            proved: Some((at, now)),
            round_trip_ms: took_ms.or(path.round_trip_ms),
            ..Path::default()
        };
    }

    /// A proven node sent something; the network is there, though nothing was asked (§13.8 [R]).
    pub fn heard(&mut self, now: Millis) {
        if self.is_offline(now) {
            self.forgiven_at = Some(now);
        }
        self.success_at = Some(now);
    }

    /// A node did not answer at an address. Nobody is charged while the network itself seems to be
    /// out of reach, or when many fail together.
    pub fn failed(&mut self, id: NodeId, at: SocketAddr, now: Millis) {
        if self.is_offline(now) {
            return;
        }
        if now.since(self.failing_since) > CORRELATED_WINDOW_MS {
            self.failing.clear();
            self.failing_since = now;
        }
        if !self.failing.contains(&id) {
            self.failing.push(id);
        }
        let is_silent = self.success_at.is_some_and(|at| now.since(at) >= CORRELATED_WINDOW_MS);
        if self.failing.len() >= CORRELATED_FAILURES && is_silent {
            self.forgiven_at = Some(now.plus(1));
            self.failing.clear();
            return;
        }
        self.failing.truncate(CORRELATED_FAILURES);
        let forgiven_at = self.forgiven_at;
        let path = path_mut(self.peers.entry(id, Peer::default), at);
        path.failures = path.counted(forgiven_at).saturating_add(1);
        path.failed_at = now;
        path.retry_at = now.plus(backoff_ms(path.failures));
    }

    /// How well a node answers.
    pub fn health(&self, id: &NodeId) -> Health {
        let Some(peer) = self.peers.peek(id) else {
            return Health::Unknown;
        };
        let of = |path: &Path| path.health(self.forgiven_at);
        match (of(&peer.v4), of(&peer.v6)) {
            (Some(Health::Good), _) | (_, Some(Health::Good)) => Health::Good,
            (Some(Health::Bad), None | Some(Health::Bad)) | (None, Some(Health::Bad)) => {
                Health::Bad
            }
            _ => Health::Unknown,
        }
    }

    /// Says whether a node may be asked now: it is not backing off in every family.
    pub fn may_ask(&self, id: &NodeId, now: Millis) -> bool {
        let is_free = |path: &Path| path.counted(self.forgiven_at) == 0 || path.retry_at <= now;
        self.peers.peek(id).is_none_or(|peer| {
            let used = [peer.v4, peer.v6];
            let mut used = used.iter().filter(|path| path.is_used()).peekable();
            used.peek().is_none() || used.any(is_free)
        })
    }

    /// Where to ask a node: where it proved to be, IPv4 first, and not where it backs off.
    pub fn address(&self, id: &NodeId, now: Millis) -> Option<SocketAddr> {
        let peer = self.peers.peek(id)?;
        let is_free = |path: &&Path| path.counted(self.forgiven_at) == 0 || path.retry_at <= now;
        [peer.v4, peer.v6].iter().filter(is_free).find_map(|path| path.proved).map(|(at, _)| at)
    }

    /// Where a node proved to be in the family of another address.
    pub fn address_like(&self, id: &NodeId, like: SocketAddr) -> Option<SocketAddr> {
        let peer = self.peers.peek(id)?;
        let path = if like.is_ipv4() { &peer.v4 } else { &peer.v6 };
        path.proved.map(|(at, _)| at)
    }

    /// Says whether a node has proved lately that it is at an address.
    pub fn is_proved(&self, id: &NodeId, at: SocketAddr, now: Millis) -> bool {
        let proved = self.peers.peek(id).and_then(|peer| path(peer, at).proved);
        proved.is_some_and(|(known, when)| known == at && now.since(when) <= PROOF_MS)
    }

    /// What is known of an address, whoever is there.
    pub fn standing(&self, at: SocketAddr, now: Millis) -> Standing {
        match self.places.peek(&at) {
            Some(place) if now.since(place.proved_at) > PROOF_MS => Standing::Unknown,
            Some(place) if place.impostors >= IMPOSTORS_PER_PLACE => Standing::Doubted,
            Some(_) => Standing::Proved,
            None => Standing::Unknown,
        }
    }

    /// A message came from an address that nobody who is known there has signed. The next answer from
    /// there clears its name.
    pub fn met_impostor(&mut self, at: SocketAddr) {
        if let Some(place) = self.places.touch(&at) {
            place.impostors = place.impostors.saturating_add(1);
        }
    }

    /// The last round trip in milliseconds.
    pub fn round_trip_ms(&self, id: &NodeId) -> Option<u64> {
        let peer = self.peers.peek(id)?;
        peer.v4.round_trip_ms.or(peer.v6.round_trip_ms)
    }

    /// Says whether nothing was heard from anybody for long enough to suspect the own network.
    pub fn is_offline(&self, now: Millis) -> bool {
        self.success_at.is_some_and(|at| now.since(at) > OFFLINE_SUSPICION_MS)
    }
}

impl Path {
    /// Failures that count: those since the network was last known to be there.
    fn counted(&self, forgiven_at: Option<Millis>) -> u32 {
        if forgiven_at.is_some_and(|at| self.failed_at < at) { 0 } else { self.failures }
    }

    fn is_used(&self) -> bool {
        self.proved.is_some() || self.failures > 0
    }

    fn health(&self, forgiven_at: Option<Millis>) -> Option<Health> {
        if !self.is_used() {
            return None;
        }
        Some(if self.counted(forgiven_at) >= BAD_FAILURES {
            Health::Bad
        } else if self.proved.is_some() {
            Health::Good
        } else {
            Health::Unknown
        })
    }
}

fn path(peer: &Peer, at: SocketAddr) -> &Path {
    if at.is_ipv4() { &peer.v4 } else { &peer.v6 }
}

fn path_mut(peer: &mut Peer, at: SocketAddr) -> &mut Path {
    if at.is_ipv4() { &mut peer.v4 } else { &mut peer.v6 }
}

/// How long a node is left alone after that many failures in a row (§9.4).
pub fn backoff_ms(failures: u32) -> u64 {
    let exponent = failures.saturating_sub(1).min(BACKOFF_EXPONENT_MAX);
    BACKOFF_MS_MIN << exponent
}

//! The table of opaque UDP sessions of one data core, what it tells, and what it lists.
//!
//! Owned by a data core and used on its thread. Opening and closing is in `opening`, datagrams are
//! in `receive` and `roaming`, ends without a word in `sweep`.

use super::endpoint::{Endpoint, LocalPort};
use super::index::Index;
use super::leg::{Cold, Flags, Hot, HotLeg, LegPlace, Side};
use super::tier::TierChoice;
use crate::address_policy::AddressPolicy;
use crate::drop_reason::{DropCounters, DropReason};
use crate::ids::{CoreId, UdpSessionTag};
use crate::limits::{UDP_INDEX_PLACES_PER_LEG, UDP_SESSIONS_MAX};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// What has changed in the table, for whoever mirrors it. A session can be carried by a faster tier
/// while both of its legs have an address ([`Sessions::path`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session began; legs with an address have it from the start.
    Opened {
        /// Which.
        session: UdpSessionTag,
    },
    /// A leg without an address has one.
    Learned {
        /// Of which session.
        session: UdpSessionTag,
        /// Which leg.
        side: Side,
        /// Where it is.
        address: SocketAddr,
        /// What showed that.
        by: Evidence,
    },
    /// A leg has another address.
    Rebound {
        /// Of which session.
        session: UdpSessionTag,
        /// Which leg.
        side: Side,
        /// Where it was.
        from: SocketAddr,
        /// Where it is.
        to: SocketAddr,
        /// What showed that.
        by: Evidence,
    },
    /// A leg has no address any more: nothing came from there for too long, or the policy has
    /// changed.
    Lapsed {
        /// Of which session.
        session: UdpSessionTag,
        /// Which leg.
        side: Side,
        /// Where it was.
        address: SocketAddr,
    },
    /// What a faster tier has to know of a session has changed, and not where a leg is: what an
    /// end is called by, or whether an address waits to be followed. Told only of sessions that
    /// are watched ([`Sessions::watch`]).
    Changed {
        /// Which.
        session: UdpSessionTag,
    },
    /// A session ended because nothing passed for too long.
    Expired {
        /// Which.
        session: UdpSessionTag,
    },
    /// A session ended for another reason.
    Closed {
        /// Which.
        session: UdpSessionTag,
        /// Why.
        reason: DropReason,
    },
}

/// Why an address was believed, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Evidence {
    /// A proof of the leg's secret.
    Proof,
    /// The other end used the index of a handshake message that came from there, which it does
    /// only if it has authenticated the message.
    Handshake,
    /// Data with a known index came from there, and nothing from the address before.
    Silence,
    /// The address before the last one spoke up after all.
    TakenBack,
}

impl Evidence {
    /// The name in listings and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proof => "proof",
            Self::Handshake => "handshake",
            Self::Silence => "silence",
            Self::TakenBack => "taken_back",
        }
    }
}

/// Where the datagrams of a session go, once both legs have an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The ports of this machine, of leg A and leg B.
    pub ports: [LocalPort; 2],
    /// Where the ends are.
    pub addresses: [SocketAddr; 2],
    /// The tier that carries it, as last chosen.
    pub tier: TierChoice,
    /// Only WireGuard passes. A faster tier must pass no more than transport data from these two
    /// addresses itself: handshakes are what new addresses are learned from.
    pub is_wireguard: bool,
}

/// One session of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub session: UdpSessionTag,
    /// Whether only WireGuard passes.
    pub is_wireguard: bool,
    /// Its legs, A and B.
    pub legs: [ListedLeg; 2],
    /// How it is moved.
    pub tier: TierChoice,
    /// When it was opened.
    pub opened_ns: u64,
    /// Datagrams for it that were dropped.
    pub dropped_packets: u64,
}

/// One leg of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedLeg {
    /// The port of this machine.
    pub port: LocalPort,
    /// Where it is, if that is known.
    pub address: Option<SocketAddr>,
    /// When it was last heard, to 67 ms; when the session was opened, if never.
    pub heard_ns: u64,
    /// Datagrams from it that passed.
    pub packets: u64,
    /// Payload bytes of them.
    pub bytes: u64,
}

/// The sessions of one core.
#[derive(Debug)]
pub struct Sessions {
    pub(super) core: CoreId,
    pub(super) hot: Vec<Hot>,
    pub(super) cold: Vec<Option<Cold>>,
    pub(super) free: Vec<u32>,
    pub(super) sessions_max: usize,
    pub(super) index: Index,
    /// How many legs each port has; none is not in it.
    pub(super) ports: BTreeMap<LocalPort, u32>,
    pub(super) policy: Arc<AddressPolicy>,
    pub(super) drops: DropCounters,
    /// The place the next sweep begins at, and when all places before it were looked at.
    pub(super) sweep_place: usize,
    pub(super) swept_ns: u64,
}

impl Sessions {
    /// A table for at most so many sessions ([`UDP_SESSIONS_MAX`] at most), which takes all of its
    /// memory here. `seeds` are random.
    pub fn new(
        core: CoreId,
        sessions_max: usize,
        seeds: [u64; 2],
        policy: Arc<AddressPolicy>,
    ) -> Self {
        let sessions_max = sessions_max.min(UDP_SESSIONS_MAX);
        Self {
            core,
            hot: Vec::with_capacity(sessions_max),
            cold: Vec::with_capacity(sessions_max),
            free: Vec::with_capacity(sessions_max),
            sessions_max,
            index: Index::new(sessions_max * 2 * UDP_INDEX_PLACES_PER_LEG, seeds),
            ports: BTreeMap::new(),
            policy,
            drops: DropCounters::default(),
            sweep_place: 0,
            swept_ns: 0,
        }
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.hot.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was dropped here, by reason.
    pub fn drops(&self) -> &DropCounters {
        &self.drops
    }

    /// Bytes of memory it holds, but for what the ports take: at most some 80 bytes each.
    pub fn held_bytes(&self) -> usize {
        let per_session = size_of::<Hot>() + size_of::<Option<Cold>>() + size_of::<u32>();
        self.sessions_max * per_session + self.index.bytes()
    }

    /// Where a session's datagrams go. `None` if there is no such session, or a leg has no address.
    pub fn path(&self, session: UdpSessionTag) -> Option<Path> {
        let slot = self.slot_of(session)?;
        let (hot, cold) = (self.hot.get(slot as usize)?, self.cold_at(slot)?);
        let [a, b] = &hot.legs;
        let addresses = [a.address.address()?, b.address.address()?];
        let is_wireguard = a.flags.has(Flags::WIREGUARD);
        Some(Path { ports: [a.port, b.port], addresses, tier: cold.tier, is_wireguard })
    }

    /// Sessions in order of place, from a place on.
    pub fn listed_from(&self, first: u32) -> impl Iterator<Item = Listed> {
        (first..self.places()).filter_map(|slot| self.listed_at(slot))
    }

    /// One session of the listing.
    pub fn listed(&self, session: UdpSessionTag) -> Option<Listed> {
        self.listed_at(self.slot_of(session)?)
    }

    /// Notes how a session is moved. `false`: there is no such session.
    pub fn set_tier(&mut self, session: UdpSessionTag, tier: TierChoice) -> bool {
        let Some(slot) = self.slot_of(session) else {
            return false;
        };
        if let Some(cold) = self.cold_at_mut(slot) {
            cold.tier = tier;
        }
        true
    }

    fn listed_at(&self, slot: u32) -> Option<Listed> {
        let (hot, cold) = (self.hot.get(slot as usize)?, self.cold_at(slot)?);
        let leg = |leg: &HotLeg| ListedLeg {
            port: leg.port,
            address: leg.address.address(),
            heard_ns: leg.heard.ns(),
            packets: leg.packets,
            bytes: leg.bytes,
        };
        let [a, b] = &hot.legs;
        Some(Listed {
            session: self.tag(slot),
            is_wireguard: a.flags.has(Flags::WIREGUARD),
            legs: [leg(a), leg(b)],
            tier: cold.tier,
            opened_ns: cold.opened_ns,
            dropped_packets: cold.dropped,
        })
    }

    /// Places that sessions are or were in.
    pub(super) fn places(&self) -> u32 {
        // At most as many as there may be sessions.
        self.hot.len() as u32
    }

    pub(super) fn tag(&self, slot: u32) -> UdpSessionTag {
        let generation = self.leg(LegPlace::new(slot, Side::A)).generation;
        UdpSessionTag { core: self.core, slot, generation }
    }

    /// The place of a session that is open.
    pub(super) fn slot_of(&self, session: UdpSessionTag) -> Option<u32> {
        let is_here = self.cold_at(session.slot).is_some() && self.tag(session.slot) == session;
        is_here.then_some(session.slot)
    }

    /// A leg of a place that has been used.
    pub(super) fn leg(&self, place: LegPlace) -> &HotLeg {
        &self.hot[place.slot() as usize].legs[place.side().index()]
    }

    pub(super) fn leg_mut(&mut self, place: LegPlace) -> &mut HotLeg {
        &mut self.hot[place.slot() as usize].legs[place.side().index()]
    }

    pub(super) fn cold_at(&self, slot: u32) -> Option<&Cold> {
        self.cold.get(slot as usize)?.as_ref()
    }

    pub(super) fn cold_at_mut(&mut self, slot: u32) -> Option<&mut Cold> {
        self.cold.get_mut(slot as usize)?.as_mut()
    }

    /// The leg that has this address at this port.
    pub(super) fn find(&self, port: LocalPort, address: Endpoint) -> Option<LegPlace> {
        let hash = self.index.hash(port, address);
        self.index.find(hash, |place| {
            let leg = self.leg(place);
            leg.address == address && leg.port == port
        })
    }

    /// The only leg of this port, if that is what it is.
    pub(super) fn find_exclusive(&self, port: LocalPort) -> Option<LegPlace> {
        let hash = self.index.hash(port, Endpoint::NONE);
        self.index.find(hash, |place| {
            let leg = self.leg(place);
            leg.port == port && leg.flags.has(Flags::EXCLUSIVE)
        })
    }

    /// Gives a leg an address, or takes it away with [`Endpoint::NONE`], in table and index.
    pub(super) fn move_leg(&mut self, place: LegPlace, address: Endpoint) {
        let (port, before) = (self.leg(place).port, self.leg(place).address);
        if !before.is_none() {
            self.index.remove(self.index.hash(port, before), place);
        }
        if !address.is_none() {
            self.index.insert(self.index.hash(port, address), place);
        }
        self.leg_mut(place).address = address;
    }
}

//! Sessions begin and end as the management core says, and when the address policy changes.
//!
//! Runs on the data core that owns the table, seldom; this is where memory for ports is taken.

use super::endpoint::{Endpoint, Tick};
use super::leg::{Candidates, Cold, ColdLeg, Flags, Hot, HotLeg, LegPlace, Side, Strangers};
use super::meter::{Meter, RateLimit};
use super::sessions::{Event, Sessions};
use super::settings::{Learning, LegSettings, OpenError, Protocol, Settings};
use super::tier::TierChoice;
use super::wireguard::Mac1Key;
use crate::address_policy::AddressPolicy;
use crate::drop_reason::DropReason;
use crate::ids::UdpSessionTag;
use crate::limits::{UDP_IDLE_MAX_NS, UDP_IDLE_MIN_NS};
use std::sync::Arc;

impl Sessions {
    /// Opens a session.
    ///
    /// # Errors
    ///
    /// Why it cannot be; nothing has changed then.
    pub fn open(
        &mut self,
        settings: Settings,
        now_ns: u64,
        events: &mut impl FnMut(Event),
    ) -> Result<UdpSessionTag, OpenError> {
        let addresses = self.check(&settings)?;
        let slot = self.free.pop().unwrap_or_else(|| self.add_place());
        self.open_at(slot, settings, addresses, now_ns);
        let session = self.tag(slot);
        events(Event::Opened { session });
        Ok(session)
    }

    /// Fills a free place with a session whose legs are at these addresses.
    pub(super) fn open_at(
        &mut self,
        slot: u32,
        settings: Settings,
        addresses: [Endpoint; 2],
        opened_ns: u64,
    ) {
        let generation = self.leg(LegPlace::new(slot, Side::A)).generation;
        let Settings { legs, protocol, rate, idle_limit_ns } = settings;
        for (side, leg) in Side::BOTH.into_iter().zip(&legs) {
            let place = LegPlace::new(slot, side);
            let hot = self.leg_mut(place);
            *hot = HotLeg::vacant(generation);
            hot.port = leg.port;
            hot.heard = Tick::at(opened_ns);
            hot.flags = flags(&leg.learning, &protocol, rate);
            self.enter(place, addresses[side.index()]);
        }
        self.hot[slot as usize].meter = Meter::new(rate);
        let cold = Cold {
            legs: cold_legs(legs, &protocol),
            opened_ns,
            idle_limit_ns,
            strangers: Strangers::default(),
            tier: TierChoice::UNCHOSEN,
            dropped: 0,
        };
        self.cold[slot as usize] = Some(cold);
    }

    /// Ends a session on the operator's word. `false`: there is no such session.
    pub fn close(&mut self, session: UdpSessionTag, events: &mut impl FnMut(Event)) -> bool {
        let Some(slot) = self.slot_of(session) else {
            return false;
        };
        self.end(slot, DropReason::SessionClosedByOperator, events);
        true
    }

    /// Takes up another address policy and applies it to every address there is: a session whose
    /// fixed leg is no longer admitted ends, a learned leg has to be learned anew.
    pub fn adopt_policy(&mut self, policy: Arc<AddressPolicy>, events: &mut impl FnMut(Event)) {
        self.policy = policy;
        for slot in 0..self.places() {
            for side in Side::BOTH {
                self.apply_policy(LegPlace::new(slot, side), events);
            }
        }
    }

    fn apply_policy(&mut self, place: LegPlace, events: &mut impl FnMut(Event)) {
        let policy = Arc::clone(&self.policy);
        let is_admitted = |address: Endpoint| policy.check(address.ip()).is_ok();
        let Some(cold) = self.cold_at_mut(place.slot()) else {
            return;
        };
        let leg = &mut cold.legs[place.side().index()];
        leg.candidates.retain(|candidate| is_admitted(candidate.address));
        leg.roaming = leg.roaming.filter(|roaming| is_admitted(roaming.address));
        leg.previous = leg.previous.filter(|previous| is_admitted(previous.address));
        let hot = self.leg(place);
        if hot.address.is_none() || is_admitted(hot.address) {
            return;
        }
        if hot.flags.is_learned() {
            self.lapse(place, events);
        } else {
            self.end(place.slot(), DropReason::UdpAddressDenied, events);
        }
    }

    /// A learned leg has no address any more.
    pub(super) fn lapse(&mut self, place: LegPlace, events: &mut impl FnMut(Event)) {
        let address = self.leg(place).address.address();
        self.move_leg(place, Endpoint::NONE);
        self.forget_roaming(place);
        if let Some(address) = address {
            let (session, side) = (self.tag(place.slot()), place.side());
            events(Event::Lapsed { session, side, address });
        }
    }

    /// Takes a session out and counts why.
    pub(super) fn end(&mut self, slot: u32, reason: DropReason, events: &mut impl FnMut(Event)) {
        let session = self.tag(slot);
        for side in Side::BOTH {
            self.leave(LegPlace::new(slot, side));
        }
        self.cold[slot as usize] = None;
        self.free.push(slot);
        self.drops.count(reason, 0);
        events(match reason {
            DropReason::UdpSessionIdle => Event::Expired { session },
            reason => Event::Closed { session, reason },
        });
    }

    /// Whether a session may be opened, and where its legs are then.
    pub(super) fn check(&self, settings: &Settings) -> Result<[Endpoint; 2], OpenError> {
        if self.len() == self.sessions_max {
            return Err(OpenError::TooManySessions);
        }
        if !(UDP_IDLE_MIN_NS..=UDP_IDLE_MAX_NS).contains(&settings.idle_limit_ns) {
            return Err(OpenError::IdleLimit);
        }
        if !settings.rate.is_in_range() {
            return Err(OpenError::Rate);
        }
        let [a, b] = &settings.legs;
        let addresses = [
            self.check_leg(Side::A, a, &settings.protocol)?,
            self.check_leg(Side::B, b, &settings.protocol)?,
        ];
        let is_handshake = |leg: &LegSettings| matches!(leg.learning, Learning::Handshake { .. });
        if a.port == b.port {
            if is_handshake(a) || is_handshake(b) {
                return Err(OpenError::PortTaken(Side::B));
            }
            if addresses[0] == addresses[1] && !addresses[0].is_none() {
                return Err(OpenError::AddressTaken(Side::B));
            }
        }
        let knows_keys = matches!(settings.protocol, Protocol::Wireguard { public_keys }
            if public_keys.iter().all(Option::is_some));
        let is_nobodys = |leg: &LegSettings| is_handshake(leg) && leg.learning.first().is_none();
        if is_nobodys(a) && is_nobodys(b) && !knows_keys {
            return Err(OpenError::NothingProves);
        }
        Ok(addresses)
    }

    fn check_leg(
        &self,
        side: Side,
        leg: &LegSettings,
        protocol: &Protocol,
    ) -> Result<Endpoint, OpenError> {
        if leg.port.0 == 0 {
            return Err(OpenError::NoPort(side));
        }
        let is_handshake = matches!(leg.learning, Learning::Handshake { .. });
        if is_handshake && matches!(protocol, Protocol::Opaque) {
            return Err(OpenError::NoHandshakes(side));
        }
        let has_exclusive_leg = self.find_exclusive(leg.port).is_some();
        if has_exclusive_leg || (is_handshake && self.ports.contains_key(&leg.port)) {
            return Err(OpenError::PortTaken(side));
        }
        let Some(address) = leg.learning.first() else {
            return Ok(Endpoint::NONE);
        };
        let denied = |denied| OpenError::AddressDenied(side, denied);
        self.policy.check(address.ip()).map_err(denied)?;
        let endpoint = Endpoint::new(address).ok_or(OpenError::NoPort(side))?;
        let is_taken = self.find(leg.port, endpoint).is_some();
        if is_taken { Err(OpenError::AddressTaken(side)) } else { Ok(endpoint) }
    }

    pub(super) fn add_place(&mut self) -> u32 {
        let slot = self.places();
        let legs = [HotLeg::vacant(0), HotLeg::vacant(0)];
        self.hot.push(Hot { legs, meter: Meter::new(RateLimit::default()) });
        self.cold.push(None);
        slot
    }

    /// Enters a leg into the index, by its address and, if it has its port for itself, by that.
    fn enter(&mut self, place: LegPlace, address: Endpoint) {
        let leg = self.leg(place);
        let (port, is_exclusive) = (leg.port, leg.flags.has(Flags::EXCLUSIVE));
        *self.ports.entry(port).or_default() += 1;
        if is_exclusive {
            self.index.insert(self.index.hash(port, Endpoint::NONE), place);
        }
        self.move_leg(place, address);
    }

    /// Undoes [`Self::enter`], and leaves the place to the next session.
    fn leave(&mut self, place: LegPlace) {
        self.move_leg(place, Endpoint::NONE);
        let leg = self.leg(place);
        let (port, generation) = (leg.port, leg.generation.wrapping_add(1));
        if leg.flags.has(Flags::EXCLUSIVE) {
            self.index.remove(self.index.hash(port, Endpoint::NONE), place);
        }
        if let Some(legs) = self.ports.get_mut(&port) {
            *legs -= 1;
            if *legs == 0 {
                self.ports.remove(&port);
            }
        }
        *self.leg_mut(place) = HotLeg::vacant(generation);
    }
}

fn flags(learning: &Learning, protocol: &Protocol, rate: RateLimit) -> Flags {
    let is_handshake = matches!(learning, Learning::Handshake { .. });
    let mut flags = Flags::default();
    flags.set(Flags::WIREGUARD, matches!(protocol, Protocol::Wireguard { .. }));
    flags.set(Flags::PROOF, matches!(learning, Learning::Proof { .. }));
    flags.set(Flags::HANDSHAKE | Flags::EXCLUSIVE, is_handshake);
    flags.set(Flags::METERED, rate.is_some());
    flags
}

fn cold_legs(legs: [LegSettings; 2], protocol: &Protocol) -> [ColdLeg; 2] {
    let public_keys = match protocol {
        Protocol::Opaque => [None; 2],
        Protocol::Wireguard { public_keys } => *public_keys,
    };
    let [a, b] = legs;
    let [key_a, key_b] = public_keys.map(|key| key.as_ref().map(Mac1Key::new));
    let cold = |leg: LegSettings, mac1| ColdLeg {
        secret: match leg.learning {
            Learning::Proof { secret, .. } => Some(secret),
            Learning::Fixed(_) | Learning::Handshake { .. } => None,
        },
        proven: None,
        mac1,
        candidates: Candidates::default(),
        roaming: None,
        previous: None,
        is_contested: false,
    };
    [cold(a, key_a), cold(b, key_b)]
}

//! How a leg comes to another address, and how one that was taken wrongly is given back.
//!
//! Runs on the data core that owns the table, seldom. Nothing here makes an end prove itself to the
//! box: for WireGuard, the other end is asked by passing the handshake on, and its answer counts.
//! The rules, and what each of them keeps from whom, are in `docs/protocols/opaque-udp.md`.

use super::endpoint::{Endpoint, Tick};
use super::leg::{Candidate, ColdLeg, Flags, LegPlace, Previous, Roaming};
use super::receive::Came;
use super::sessions::{Event, Evidence, Sessions};
use crate::limits::{HOLD_DOWN_NS, ROAMING_FRESH_NS, TAKE_BACK_NS};

impl Sessions {
    /// Remembers a handshake message of a leg until the other end uses its index.
    pub(super) fn add_candidate(&mut self, came: &Came<'_>, candidate: Candidate) {
        if let Some(leg) = self.cold_leg_mut(came.place) {
            leg.candidates.add(candidate);
        }
    }

    pub(super) fn find_candidate(
        &self,
        place: LegPlace,
        now_ns: u64,
        is_it: impl Fn(&Candidate) -> bool,
    ) -> Option<Candidate> {
        let cold = self.cold_at(place.slot())?;
        cold.legs[place.side().index()].candidates.find(now_ns, is_it)
    }

    /// Where what answers a handshake message of a leg goes: to where the message came from if the
    /// leg is learned that way, or else to where the leg is.
    pub(super) fn address_for(&self, place: LegPlace, asked: &Candidate) -> Endpoint {
        let leg = self.leg(place);
        if leg.flags.has(Flags::HANDSHAKE) { asked.address } else { leg.address }
    }

    /// Whether neither end has been anywhere: the first two that know each other's public key are
    /// believed, as [`Sessions::open`] wants both keys for such a session.
    pub(super) fn is_first_of_both(&self, place: LegPlace) -> bool {
        self.leg(place).address.is_none() && self.leg(place.other()).address.is_none()
    }

    /// The other end has used the index of a handshake message: its sender is who it should be.
    pub(super) fn confirm(
        &mut self,
        place: LegPlace,
        candidate: &Candidate,
        now_ns: u64,
        events: &mut impl FnMut(Event),
    ) {
        if self.leg_mut(place).add_index(candidate.index) {
            self.tell_change(place, events);
        }
        let leg = self.leg(place);
        if !leg.flags.has(Flags::HANDSHAKE) {
            return;
        }
        if leg.address == candidate.address {
            if let Some(leg) = self.cold_leg_mut(place) {
                leg.is_contested = false;
                leg.previous = None;
            }
        } else {
            self.rebind(place, candidate.address, Evidence::Handshake, now_ns, events);
        }
    }

    /// Data with a known index came from a new address: it waits to be followed, or is the address
    /// before one that should not have been followed.
    pub(super) fn note_roaming(&mut self, came: &Came<'_>, events: &mut impl FnMut(Event)) {
        let (place, now_ns) = (came.place, came.now_ns);
        let Some(leg) = self.cold_leg_mut(place) else {
            return;
        };
        let is_previous = leg
            .previous
            .is_some_and(|previous| previous.address == came.source && now_ns < previous.until_ns);
        if is_previous {
            self.rebind(place, came.source, Evidence::TakenBack, now_ns, events);
            return;
        }
        let is_held = leg.roaming.is_some_and(|roaming| {
            roaming.address != came.source && now_ns.saturating_sub(roaming.heard_ns) < HOLD_DOWN_NS
        });
        if !is_held {
            leg.roaming = Some(Roaming { address: came.source, heard_ns: now_ns });
            let waits = self.leg(place).flags.has(Flags::ROAMING);
            self.leg_mut(place).flags.set(Flags::ROAMING, true);
            if !waits {
                self.tell_change(place, events);
            }
        }
    }

    /// An address that nothing has come from for so long that it would not be followed any more
    /// waits no longer.
    pub(super) fn forget_stale_roaming(
        &mut self,
        place: LegPlace,
        now_ns: u64,
        events: &mut impl FnMut(Event),
    ) {
        if !self.leg(place).flags.has(Flags::ROAMING) {
            return;
        }
        let is_fresh =
            |roaming: Roaming| now_ns.saturating_sub(roaming.heard_ns) < ROAMING_FRESH_NS;
        let Some(leg) = self.cold_leg_mut(place) else { return };
        if !leg.roaming.is_some_and(is_fresh) {
            leg.roaming = None;
            self.leg_mut(place).flags.set(Flags::ROAMING, false);
            self.tell_change(place, events);
        }
    }

    fn tell_change(&self, place: LegPlace, events: &mut impl FnMut(Event)) {
        if self.leg(place).flags.has(Flags::WATCHED) {
            events(Event::Changed { session: self.tag(place.slot()) });
        }
    }

    /// Something is to be sent to a leg. If a new address sends with a known index and the one
    /// before has been silent since, it goes to the new one.
    pub(super) fn follow_roaming(
        &mut self,
        place: LegPlace,
        now_ns: u64,
        events: &mut impl FnMut(Event),
    ) {
        let leg = self.leg(place);
        // While a faster tier carries the session, what it has heard of the address before is told
        // late: that address may look silent and be none the less busy.
        if !leg.flags.has(Flags::ROAMING) || leg.flags.has(Flags::OFFLOADED) {
            return;
        }
        let (heard, address) = (leg.heard, leg.address);
        let Some(cold) = self.cold_leg_mut(place) else {
            return;
        };
        let Some(roaming) = cold.roaming else {
            return;
        };
        let is_followed = !cold.is_contested
            && heard.age_ns(now_ns) >= HOLD_DOWN_NS
            && heard < Tick::at(roaming.heard_ns)
            && now_ns.saturating_sub(roaming.heard_ns) < ROAMING_FRESH_NS;
        if is_followed && !address.is_none() {
            self.rebind(place, roaming.address, Evidence::Silence, now_ns, events);
        }
    }

    pub(super) fn forget_roaming(&mut self, place: LegPlace) {
        self.leg_mut(place).flags.set(Flags::ROAMING, false);
        if let Some(leg) = self.cold_leg_mut(place) {
            leg.roaming = None;
            leg.previous = None;
        }
    }

    /// A leg is somewhere else.
    pub(super) fn rebind(
        &mut self,
        place: LegPlace,
        to: Endpoint,
        by: Evidence,
        now_ns: u64,
        events: &mut impl FnMut(Event),
    ) {
        let before = self.leg(place).address;
        self.move_leg(place, to);
        self.leg_mut(place).heard = Tick::at(now_ns);
        self.forget_roaming(place);
        if let Some(leg) = self.cold_leg_mut(place) {
            match by {
                Evidence::Proof | Evidence::Handshake => leg.is_contested = false,
                Evidence::Silence => {
                    let until_ns = now_ns + TAKE_BACK_NS;
                    leg.previous = Some(Previous { address: before, until_ns });
                }
                Evidence::TakenBack => leg.is_contested = true,
            }
        }
        let (session, side) = (self.tag(place.slot()), place.side());
        match (before.address(), to.address()) {
            (Some(from), Some(to)) => events(Event::Rebound { session, side, from, to, by }),
            (None, Some(address)) => events(Event::Learned { session, side, address, by }),
            (_, None) => debug_assert!(false, "a leg that is bound to nowhere"),
        }
    }

    fn cold_leg_mut(&mut self, place: LegPlace) -> Option<&mut ColdLeg> {
        let cold = self.cold_at_mut(place.slot())?;
        Some(&mut cold.legs[place.side().index()])
    }
}

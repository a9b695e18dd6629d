//! What keeps payload of a session from going on, told to the link it came from and the one it goes
//! to.
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only. What goes
//! direct or leaves in its turn waits for nothing and costs a compare. A leg that waits says so to
//! its other leg, on whatever core, because the operator of a link that sends wants to know what
//! its payload waits for behind this node.

use super::Switch;
use crate::ids::LegTag;
use crate::leg::{Leg, Other, Pace, Signal};
use crate::limiting::{Intervals, Limit, LimitCounts, LimitTimes};

/// What holds one link up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkLimits {
    /// What its peer has sent.
    sent: LimitCounts,
    /// What is to be sent to its peer.
    due: LimitCounts,
    /// Whether its socket has not taken a send by the turn after.
    stuck: bool,
}

/// What held one link up in the last interval, by the direction of the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkLimitTimes {
    /// What its peer has sent waits at its destinations.
    pub sent: LimitTimes,
    /// What is to be sent to its peer waits here.
    pub due: LimitTimes,
}

impl Leg {
    /// What its queued bytes wait for, on a link that is stuck or is not.
    pub fn held_up_by(&self, stuck: bool) -> Option<Limit> {
        if self.queue.is_empty() {
            None
        } else if self.pace == Pace::Waiting {
            Some(Limit::Quota)
        } else if self.credit == 0 || self.moving.is_some() {
            Some(Limit::Credit)
        } else {
            (stuck && self.in_ready_ring).then_some(Limit::PeerNotReading)
        }
    }
}

impl Switch {
    /// A turn begins: what changes in it changes at this time.
    pub fn begin_turn(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// The statistics of an interval are complete, and the next begins.
    pub fn close_interval(&mut self) {
        self.intervals.close(self.now_ns);
    }

    /// The interval that is running and the one before it.
    pub fn intervals(&self) -> &Intervals {
        &self.intervals
    }

    /// Whether a link's socket has not taken a send by the turn after, or has taken it now.
    pub fn set_stuck(&mut self, link: u32, stuck: bool) {
        let (now_ns, intervals) = (self.now_ns, self.intervals);
        let Some(sessions) = self.link_mut(link) else { return };
        let limits = &mut sessions.limits;
        if std::mem::replace(&mut limits.stuck, stuck) == stuck {
            return;
        }
        // Its control frames wait too, so it counts as one more session.
        let of = |stuck: bool| stuck.then_some(Limit::PeerNotReading);
        limits.due.change(of(!stuck), of(stuck), now_ns, &intervals);
        for place in 0..self.ready_sources(link) {
            for position in 0..self.ready_legs(link, place) {
                if let Some(slot) = self.ready_leg(link, place, position) {
                    self.note_limit(slot);
                }
            }
        }
        self.settle();
    }

    /// Whether [`Self::set_stuck`] has said so last.
    pub fn is_stuck(&self, link: u32) -> bool {
        self.link(link).is_some_and(|sessions| sessions.limits.stuck)
    }

    /// What held a link up in the last interval.
    pub fn link_limits(&self, link: u32) -> LinkLimitTimes {
        let limits = self.link(link).map(|sessions| sessions.limits).unwrap_or_default();
        LinkLimitTimes {
            sent: limits.sent.last(&self.intervals),
            due: limits.due.last(&self.intervals),
        }
    }

    /// How many sessions of a link wait for something, sent by its peer and due to its peer.
    pub fn sessions_held_up(&self, link: u32, limit: Limit) -> (u32, u32) {
        let limits = self.link(link).map(|sessions| sessions.limits).unwrap_or_default();
        (limits.sent.sessions(limit), limits.due.sessions(limit))
    }

    /// What held a leg up in the last interval, whichever way the payload goes.
    pub fn leg_limits(&self, tag: LegTag) -> LimitTimes {
        let leg = self.legs.get(tag.slot, tag.generation);
        leg.map(|leg| leg.limit_clock.last(&self.intervals)).unwrap_or_default()
    }

    /// Looks at what a leg waits for after anything about it has changed.
    pub(super) fn note_limit(&mut self, slot: u32) {
        let Some(leg) = self.legs.at(slot) else { return };
        let stuck = self.link(leg.link).is_some_and(|sessions| sessions.limits.stuck);
        let limit = leg.held_up_by(stuck);
        if limit != leg.limit {
            self.set_limit(slot, limit);
        }
    }

    /// The other leg of one of this core has told what it waits for.
    pub(super) fn set_held(&mut self, slot: u32, held: Option<Limit>) {
        let (now_ns, intervals) = (self.now_ns, self.intervals);
        let Some(leg) = self.legs.at_mut(slot) else { return };
        let before = std::mem::replace(&mut leg.held, held);
        leg.turn_limit_clock(now_ns, &intervals);
        if let Some(Some(sessions)) = self.links.get_mut(leg.link as usize) {
            sessions.limits.sent.change(before, held, now_ns, &intervals);
        }
    }

    fn set_limit(&mut self, slot: u32, limit: Option<Limit>) {
        let (now_ns, intervals) = (self.now_ns, self.intervals);
        let Some(leg) = self.legs.at_mut(slot) else { return };
        let before = std::mem::replace(&mut leg.limit, limit);
        leg.turn_limit_clock(now_ns, &intervals);
        let other = leg.other;
        if let Some(Some(sessions)) = self.links.get_mut(leg.link as usize) {
            sessions.limits.due.change(before, limit, now_ns, &intervals);
        }
        if let Other::Leg(to) = other {
            let from = self.tag(slot);
            self.tell(Signal::Limited { to, from, limit });
        }
    }

    /// Takes a leg that ends out of what holds its link up, and tells the other one.
    pub(super) fn forget_limits(&mut self, slot: u32) {
        if self.legs.at(slot).is_some_and(|leg| leg.limit.is_some()) {
            self.set_limit(slot, None);
        }
        if self.legs.at(slot).is_some_and(|leg| leg.held.is_some()) {
            self.set_held(slot, None);
        }
    }

    /// A leg has moved from another link: what holds it up holds its new one up.
    pub(super) fn carry_limits(&mut self, slot: u32, old_link: u32) {
        let (now_ns, intervals) = (self.now_ns, self.intervals);
        let Some(leg) = self.legs.at(slot) else { return };
        let (limit, held, link) = (leg.limit, leg.held, leg.link);
        if let Some(sessions) = self.link_mut(old_link) {
            sessions.limits.due.change(limit, None, now_ns, &intervals);
            sessions.limits.sent.change(held, None, now_ns, &intervals);
        }
        if let Some(sessions) = self.link_mut(link) {
            sessions.limits.due.change(None, limit, now_ns, &intervals);
            sessions.limits.sent.change(None, held, now_ns, &intervals);
        }
        self.note_limit(slot);
    }
}

impl Leg {
    fn turn_limit_clock(&mut self, now_ns: u64, intervals: &Intervals) {
        // The lesser one counts first; none is less than any.
        let first = [self.limit, self.held].into_iter().flatten().min();
        self.limit_clock.turn_to(first, now_ns, intervals);
    }
}

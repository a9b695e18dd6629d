//! The end of a session: flushed, reset, closed or abandoned, and what is told about it.
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only.

use super::{CODE_REJECTED, Effect, Switch};
use crate::drop_reason::DropReason;
use crate::ids::LegTag;
use crate::leg::{Intake, LegState, Other, Signal};
use crate::limits::ENDED_SESSIONS_MAX;
use std::collections::VecDeque;
use waystation_astral::frame::Frame;

impl Switch {
    /// Resets a leg and whatever it is joined to, at once, and counts it here. `false`: it has
    /// gone.
    pub fn close_session(&mut self, tag: LegTag, reason: DropReason) -> bool {
        let Some(leg) = self.legs.get(tag.slot, tag.generation) else { return false };
        let (state, other) = (leg.state, leg.other);
        self.drops.count(reason, leg.queue.len());
        match (other, state) {
            (Other::Leg(to) | Other::Frozen(to), LegState::Offered { .. }) => {
                self.tell(Signal::Rejected { to, code: CODE_REJECTED, reason: None });
            }
            (Other::Leg(to) | Other::Frozen(to), LegState::Asked | LegState::Open) => {
                self.tell(Signal::Abort { to });
            }
            (Other::Management, LegState::Asked) => {
                self.effects.push(Effect::Cancelled { leg: tag });
            }
            (Other::InnerLink(link), _) => self.effects.push(Effect::InnerEnded { link }),
            // The other leg has gone, or removing this one tells what is to be told.
            (Other::Leg(_) | Other::Frozen(_), LegState::Ending) | (Other::Management, _) => {}
        }
        self.refuse_and_remove(tag.slot);
        self.settle();
        true
    }

    /// Ends a leg of this core because its payload could not be carried on.
    pub fn fail(&mut self, link: u32, nonce: u64, reason: DropReason, bytes: usize) {
        if let Some((slot, _)) = self.find(link, nonce) {
            self.drops.count(reason, bytes);
            self.close_and_reset(slot);
        }
    }

    /// Removes a leg without waiting for anything: a query is rejected, a session reset.
    pub(super) fn refuse_and_remove(&mut self, slot: u32) {
        if self.legs.at(slot).is_some_and(|leg| leg.state == LegState::Asked) {
            self.respond(slot, CODE_REJECTED, 0);
        } else {
            self.reset_frame_of(slot);
        }
        self.remove(slot);
    }

    /// Takes nothing more in, and resets as soon as everything that waits was sent.
    pub(super) fn end(&mut self, slot: u32) {
        if let Some(leg) = self.legs.at_mut(slot) {
            leg.state = LegState::Ending;
            self.finish_if_drained(slot);
        }
    }

    pub(super) fn finish_if_drained(&mut self, slot: u32) {
        if self.legs.at(slot).is_some_and(|leg| {
            leg.state == LegState::Ending
                && leg.queue.is_empty()
                && leg.hold_until_ns == 0
                && leg.moving.is_none()
        }) {
            self.reset_and_remove(slot);
        }
    }

    pub(super) fn reset_and_remove(&mut self, slot: u32) {
        self.reset_frame_of(slot);
        self.remove(slot);
    }

    /// Ends a leg whose peer sent a reset: the other side is told, this side is not answered.
    pub(super) fn close(&mut self, slot: u32) {
        self.abandon(slot);
        self.settle();
    }

    /// Ends a leg because of what its peer did; the caller sends the reset.
    pub(super) fn close_and_reset(&mut self, slot: u32) {
        self.reset_frame_of(slot);
        self.abandon(slot);
        self.settle();
    }

    pub(super) fn reset_frame_of(&mut self, slot: u32) {
        if let Some(leg) = self.legs.at(slot) {
            let frame = Frame::Reset { nonce: leg.nonce };
            self.effects.push(Effect::Frame { link: leg.link, frame });
        }
    }

    /// Removes a leg and tells whatever it was joined to.
    pub(super) fn abandon(&mut self, slot: u32) {
        let leg_tag = self.tag(slot);
        let Some(leg) = self.legs.at(slot) else { return };
        let (state, other) = (leg.state, leg.other);
        match (other, state) {
            (_, LegState::Offered { .. }) => {
                self.give_up_offer(slot, CODE_REJECTED, DropReason::TargetNotReachable);
            }
            (Other::Leg(to) | Other::Frozen(to), LegState::Asked | LegState::Open) => {
                self.tell(Signal::End { to });
            }
            (Other::Management, LegState::Asked) => {
                self.effects.push(Effect::Cancelled { leg: leg_tag });
            }
            (Other::InnerLink(link), _) => self.effects.push(Effect::InnerEnded { link }),
            (Other::Leg(_) | Other::Frozen(_), LegState::Ending) | (Other::Management, _) => {}
        }
        self.remove(slot);
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let tag = self.tag(slot);
        self.forget_limits(slot);
        let Some(mut leg) = self.legs.remove(slot) else { return };
        self.pool.clear(&mut leg.queue);
        self.forget_moving(&mut leg);
        match leg.intake {
            Intake::Forgotten => {}
            Intake::HandedUp { .. } => self.effects.push(Effect::Ended { leg: tag }),
            Intake::Awaited { ask, .. } => {
                self.effects.push(Effect::Asked { ask, leg: tag, code: CODE_REJECTED });
            }
        }
        if let LegState::Offered { .. } = leg.state {
            self.deadlines.offered = self.deadlines.offered.saturating_sub(1);
        }
        let mut sessions = self.links.get_mut(leg.link as usize).and_then(Option::as_mut);
        if let Some(sessions) = &mut sessions {
            sessions.by_nonce.remove(&leg.nonce);
            remember(&mut sessions.ended, leg.nonce);
            if let Some(departure) = &mut sessions.departure {
                departure.gone(slot);
            }
        }
        self.turns.leave(slot, &mut leg, sessions);
        self.pacing.leave(&mut leg);
        if let Some(quota) = &leg.quota {
            quota.leave_session();
        }
    }
}

fn remember(ended: &mut VecDeque<u64>, nonce: u64) {
    if ended.len() == ENDED_SESSIONS_MAX {
        ended.pop_front();
    }
    ended.push_back(nonce);
}

//! The steps of a session: opened, joined, accepted, ended; and what legs tell each other.
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only.

use super::{CODE_REJECTED, Effect, Route, Switch};
use crate::chunk_queue::ChunkQueue;
use crate::drop_reason::DropReason;
use crate::ids::LegTag;
use crate::leg::{Leg, LegKind, LegState, Other, Signal};
use crate::limits::FIRST_DATA_HOLD_NS;
use waystation_astral::frame::{Frame, Profile};

impl Switch {
    // Signals

    pub(super) fn tell(&mut self, signal: Signal) {
        if signal.core() == self.core {
            self.told.push_back(signal);
        } else {
            self.effects.push(Effect::Cross(signal));
        }
    }

    pub(super) fn settle(&mut self) {
        while let Some(signal) = self.told.pop_front() {
            self.heed(signal);
        }
    }

    pub(super) fn heed(&mut self, signal: Signal) {
        let to = signal.to();
        let Some(leg) = self.legs.get_mut(to.slot, to.generation) else {
            // The leg ended before it could be joined, so the other one must end as well.
            if let Signal::Offered { from, .. } | Signal::Accepted { from, .. } = signal {
                self.tell(Signal::End { to: from });
            }
            return;
        };
        match signal {
            Signal::Offered { from, .. } => {
                (leg.other, leg.kind) = (Other::Leg(from), LegKind::Caller);
            }
            Signal::Accepted { from, .. } => {
                (leg.other, leg.kind, leg.state) =
                    (Other::Leg(from), LegKind::Caller, LegState::Open);
                self.accept_frame(to.slot);
            }
            Signal::Rejected { code, reason, .. } => {
                if leg.state == LegState::Asked {
                    if let Some(reason) = reason {
                        self.drops.count(reason, 0);
                    }
                    self.respond(to.slot, code, 0);
                    self.remove(to.slot);
                }
            }
            Signal::End { .. } => match leg.state {
                LegState::Asked => {
                    self.respond(to.slot, CODE_REJECTED, 0);
                    self.remove(to.slot);
                }
                LegState::Offered { .. } => self.reset_and_remove(to.slot),
                LegState::Open | LegState::Ending => self.end(to.slot),
            },
            Signal::Consumed { bytes, .. } => self.return_credit(to.slot, bytes),
        }
    }

    // Steps of a session

    pub(super) fn open_leg(
        &mut self,
        now_ns: u64,
        link: u32,
        nonce: u64,
        kind: LegKind,
        state: LegState,
    ) -> LegTag {
        let (slot, generation) = self.legs.insert(Leg {
            link,
            nonce,
            kind,
            state,
            other: Other::Management,
            window_left: 0,
            unreturned: 0,
            credit: 0,
            queue: ChunkQueue::default(),
            in_ready_ring: false,
            hold_until_ns: 0,
            opened_ns: now_ns,
            bytes_in: 0,
            bytes_out: 0,
        });
        if let Some(sessions) = self.link_mut(link) {
            sessions.by_nonce.insert(nonce, slot);
        }
        self.counters.sessions_opened += 1;
        LegTag { core: self.core, slot, generation }
    }

    pub(super) fn target_accepted(&mut self, now_ns: u64, slot: u32, window: u32) {
        let from = self.tag(slot);
        let Some(leg) = self.legs.at_mut(slot) else { return };
        leg.state = LegState::Open;
        leg.credit = leg.credit.saturating_add(u64::from(window));
        let (link, other) = (leg.link, leg.other);
        self.deadlines.offered = self.deadlines.offered.saturating_sub(1);
        if self.link(link).is_some_and(|sessions| sessions.profile != Profile::P4) {
            let until_ns = now_ns + FIRST_DATA_HOLD_NS;
            if let Some(leg) = self.legs.at_mut(slot) {
                leg.hold_until_ns = until_ns;
            }
            self.deadlines.holds.push_back((until_ns, from));
        }
        if let Other::Leg(caller) = other {
            self.tell(Signal::Accepted { to: caller, from });
        }
    }

    pub(super) fn target_accepted_and_ended(&mut self, slot: u32) {
        let from = self.tag(slot);
        if let Some(Leg { other: Other::Leg(caller), .. }) = self.legs.at(slot) {
            let caller = *caller;
            self.tell(Signal::Accepted { to: caller, from });
            self.tell(Signal::End { to: caller });
        }
        self.remove(slot);
    }

    pub(super) fn give_up_offer(&mut self, slot: u32, code: u8, reason: DropReason) {
        if let Some(Leg { other: Other::Leg(caller), .. }) = self.legs.at(slot) {
            let caller = *caller;
            self.tell(Signal::Rejected { to: caller, code, reason: Some(reason) });
        }
        self.remove(slot);
    }

    /// Sends the accepting response with our window.
    pub(super) fn accept_frame(&mut self, slot: u32) {
        let window = self.limits.window_bytes;
        if let Some(leg) = self.legs.at_mut(slot) {
            leg.window_left = u64::from(window);
        }
        self.respond(slot, 0, window);
    }

    pub(super) fn respond(&mut self, slot: u32, code: u8, window: u32) {
        if let Some(leg) = self.legs.at(slot) {
            let frame = Frame::Response { nonce: leg.nonce, code, window };
            self.effects.push(Effect::Frame { link: leg.link, frame });
        }
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
            leg.state == LegState::Ending && leg.queue.is_empty() && leg.hold_until_ns == 0
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
        self.remove(slot);
        match (other, state) {
            (Other::Leg(caller), LegState::Offered { .. }) => {
                let reason = Some(DropReason::TargetNotReachable);
                self.tell(Signal::Rejected { to: caller, code: CODE_REJECTED, reason });
            }
            (Other::Leg(to), LegState::Asked | LegState::Open) => self.tell(Signal::End { to }),
            (Other::Management, LegState::Asked) => {
                self.effects.push(Effect::Cancelled { leg: leg_tag });
            }
            (Other::InnerLink(link), LegState::Open | LegState::Ending) => {
                self.effects.push(Effect::InnerEnded { link });
            }
            (Other::Leg(_), LegState::Ending) | (Other::Management | Other::InnerLink(_), _) => {}
        }
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let Some(mut leg) = self.legs.remove(slot) else { return };
        self.pool.clear(&mut leg.queue);
        if let LegState::Offered { .. } = leg.state {
            self.deadlines.offered = self.deadlines.offered.saturating_sub(1);
        }
        if let Some(sessions) = self.link_mut(leg.link) {
            sessions.by_nonce.remove(&leg.nonce);
            if leg.in_ready_ring {
                sessions.ready.retain(|&ready| ready != slot);
            }
        }
    }

    pub(super) fn reject_unopened(&mut self, link: u32, nonce: u64, reason: DropReason) {
        self.drops.count(reason, 0);
        let frame = Frame::Response { nonce, code: CODE_REJECTED, window: 0 };
        self.effects.push(Effect::Frame { link, frame });
        self.effects.push(Effect::Incident { link, reason, nonce });
    }

    pub(super) fn refuse_data(
        &mut self,
        link: u32,
        nonce: u64,
        reason: DropReason,
        bytes: usize,
    ) -> Route {
        self.drops.count(reason, bytes);
        if reason == DropReason::UnknownSessionData {
            self.effects.push(Effect::Frame { link, frame: Frame::Reset { nonce } });
        }
        self.effects.push(Effect::Incident { link, reason, nonce });
        Route::Nowhere
    }
}

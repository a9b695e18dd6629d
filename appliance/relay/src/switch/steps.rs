//! The steps of a session until data flows: opened, joined, accepted; and what legs tell each
//! other.
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only.

use super::{CODE_REJECTED, Effect, OutboundQuery, Route, Switch};
use crate::chunk_queue::ChunkQueue;
use crate::drop_reason::DropReason;
use crate::ids::LegTag;
use crate::leg::{Intake, Leg, LegKind, LegState, Other, Pace, Signal, Source};
use crate::limiting::LimitClock;
use crate::limits::{FIRST_DATA_HOLD_NS, LISTED_QUERY_MAX_BYTES};
use waystation_astral::frame::{Frame, Profile};

impl Switch {
    // Signals

    pub(super) fn tell(&mut self, signal: Signal) {
        if !self.frozen.is_empty() && self.keep_for_later(signal) {
            return;
        }
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
            self.heed_without_leg(signal);
            return;
        };
        if let Other::Frozen(was) = leg.other
            && ends_its_sender(signal)
        {
            leg.other = Other::Leg(was);
            self.forget_parked(was);
        }
        let Some(leg) = self.legs.get_mut(to.slot, to.generation) else { return };
        match signal {
            Signal::Offered { from, link, .. } => {
                if (leg.state, leg.other) != (LegState::Asked, Other::Management) {
                    self.end_sender_of(signal);
                    return;
                }
                (leg.other, leg.kind) = (Other::Leg(from), LegKind::Caller);
                let joined = Signal::Joined { to: from, core: self.core, link: leg.link };
                self.set_source(to.slot, Source::Link { core: from.core, link });
                self.tell(joined);
            }
            Signal::Joined { core, link, .. } => {
                self.set_source(to.slot, Source::Link { core, link });
            }
            Signal::Accepted { from, .. } => {
                if (leg.state, leg.other.leg()) != (LegState::Asked, Some(from)) {
                    self.end_sender_of(signal);
                    return;
                }
                leg.state = LegState::Open;
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
            Signal::Abort { .. } => self.refuse_and_remove(to.slot),
            Signal::Consumed { bytes, .. } => self.return_credit(to.slot, bytes),
            Signal::Limited { from, limit, .. } => {
                if leg.other.leg() == Some(from) {
                    self.set_held(to.slot, limit);
                }
            }
            Signal::Freeze { from, round, .. } => self.freeze(to, from, round),
            Signal::Frozen { round, .. } => self.note_answer(to.slot, round, true),
            Signal::FreezeRefused { round, .. } => self.note_answer(to.slot, round, false),
            Signal::Thawed { was, from, link, .. } => self.thaw(to, was, from, link),
        }
    }

    /// What was told to a leg that has ended.
    fn heed_without_leg(&mut self, signal: Signal) {
        match signal {
            // It ended before it could be joined, so the other one must end as well.
            Signal::Offered { .. } | Signal::Accepted { .. } => self.end_sender_of(signal),
            Signal::Freeze { from, round, .. } => self.tell(Signal::Frozen { to: from, round }),
            Signal::Thawed { was, from, .. } => {
                if !self.unpark(was, from) {
                    self.tell(Signal::End { to: from });
                }
            }
            Signal::Rejected { to, .. } | Signal::End { to } | Signal::Abort { to } => {
                self.forget_parked_of(to);
            }
            Signal::Joined { .. }
            | Signal::Consumed { .. }
            | Signal::Limited { .. }
            | Signal::Frozen { .. }
            | Signal::FreezeRefused { .. } => {}
        }
    }

    fn end_sender_of(&mut self, signal: Signal) {
        if let Signal::Offered { from, .. } | Signal::Accepted { from, .. } = signal {
            self.tell(Signal::End { to: from });
        }
    }

    // Steps of a session

    /// Opens a leg that somebody asked for; [`Self::open_offer`] makes one out of it that we ask.
    pub(super) fn open_leg(
        &mut self,
        now_ns: u64,
        link: u32,
        nonce: u64,
        kind: LegKind,
        query: &[u8],
    ) -> LegTag {
        let (listed, _) = query.split_at(query.len().min(LISTED_QUERY_MAX_BYTES));
        let (slot, generation) = self.legs.insert(Leg {
            link,
            nonce,
            kind,
            state: LegState::Asked,
            other: Other::Management,
            intake: Intake::Forgotten,
            outbound: false,
            query: listed.into(),
            window_left: 0,
            unreturned: 0,
            credit_debt: 0,
            moving: None,
            credit: 0,
            queue: ChunkQueue::default(),
            in_ready_ring: false,
            source: Source::Node,
            turn: None,
            quota: None,
            pacer: None,
            pace: Pace::Free,
            hold_until_ns: 0,
            opened_ns: now_ns,
            bytes_in: 0,
            bytes_out: 0,
            placed_bytes: 0,
            limit: None,
            held: None,
            limit_clock: LimitClock::default(),
        });
        if let Some(sessions) = self.link_mut(link) {
            sessions.by_nonce.insert(nonce, slot);
        }
        self.counters.sessions_opened += 1;
        LegTag { core: self.core, slot, generation }
    }

    /// Asks a link's peer. The leg is joined to nothing yet.
    pub(super) fn open_offer(
        &mut self,
        now_ns: u64,
        link: u32,
        kind: LegKind,
        mut query: OutboundQuery,
    ) -> Result<LegTag, DropReason> {
        let sessions = self.link(link).ok_or(DropReason::TargetNotReachable)?;
        let quota = self.admit(sessions, kind)?;
        if sessions.profile != Profile::P4 {
            // There is no such frame before P3 (spec §10.3); our own name is on the link.
            query.relayed = None;
        }
        let window_left = u64::from(self.limits.window_bytes);
        let tag = self.open_leg(now_ns, link, query.nonce, kind, &query.query);
        if let Some(leg) = self.legs.at_mut(tag.slot) {
            leg.state = LegState::Offered { reset_seen: false };
            (leg.outbound, leg.window_left, leg.quota) = (true, window_left, quota);
        }
        self.effects.push(Effect::Query { link, query });
        let last_ns = self.deadlines.answers.back().map_or(0, |&(due_ns, _)| due_ns);
        let due_ns = now_ns.saturating_add(self.limits.query_timeout_ns).max(last_ns);
        self.deadlines.offered += 1;
        self.deadlines.answers.push_back((due_ns, tag));
        self.sweep_answers();
        Ok(tag)
    }

    pub(super) fn offer_accepted(&mut self, now_ns: u64, slot: u32, window: u32) {
        let from = self.tag(slot);
        let Some(leg) = self.legs.at_mut(slot) else { return };
        leg.state = LegState::Open;
        leg.credit = leg.credit.saturating_add(u64::from(window));
        let link = leg.link;
        self.deadlines.offered = self.deadlines.offered.saturating_sub(1);
        if self.link(link).is_some_and(|sessions| sessions.profile != Profile::P4) {
            let until_ns = now_ns + FIRST_DATA_HOLD_NS;
            if let Some(leg) = self.legs.at_mut(slot) {
                leg.hold_until_ns = until_ns;
            }
            self.deadlines.holds.push_back((until_ns, from));
        }
        self.tell_accepted(slot);
    }

    fn tell_accepted(&mut self, slot: u32) {
        let from = self.tag(slot);
        let Some(leg) = self.legs.at_mut(slot) else { return };
        match (leg.other, leg.intake) {
            (Other::Leg(caller) | Other::Frozen(caller), _) => {
                self.tell(Signal::Accepted { to: caller, from });
            }
            (Other::InnerLink(link), _) => self.effects.push(Effect::InnerOpened { link }),
            (Other::Management, Intake::Awaited { ask, left_bytes }) => {
                leg.intake = Intake::HandedUp { left_bytes };
                self.effects.push(Effect::Asked { ask, leg: from, code: 0 });
            }
            (Other::Management, _) => {}
        }
    }

    pub(super) fn offer_accepted_and_ended(&mut self, slot: u32) {
        self.tell_accepted(slot);
        match self.legs.at(slot).map(|leg| leg.other) {
            Some(Other::Leg(caller) | Other::Frozen(caller)) => {
                self.tell(Signal::End { to: caller });
            }
            Some(Other::InnerLink(link)) => self.effects.push(Effect::InnerEnded { link }),
            Some(Other::Management) | None => {}
        }
        self.remove(slot);
    }

    pub(super) fn give_up_offer(&mut self, slot: u32, code: u8, reason: DropReason) {
        let tag = self.tag(slot);
        let Some(leg) = self.legs.at_mut(slot) else { return };
        match (leg.other, std::mem::replace(&mut leg.intake, Intake::Forgotten)) {
            (Other::Leg(to) | Other::Frozen(to), _) => {
                self.tell(Signal::Rejected { to, code, reason: Some(reason) });
            }
            (Other::Management, Intake::Awaited { ask, .. }) => {
                self.drops.count(reason, 0);
                self.effects.push(Effect::Asked { ask, leg: tag, code });
            }
            (Other::InnerLink(link), _) => {
                self.effects.push(Effect::InnerRefused { link, reason });
            }
            (Other::Management, _) => {}
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

/// Whether the leg that tells this has ended.
fn ends_its_sender(signal: Signal) -> bool {
    matches!(signal, Signal::Rejected { .. } | Signal::End { .. } | Signal::Abort { .. })
}

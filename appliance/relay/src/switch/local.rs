//! Sessions of this node itself: queries it answers, queries it asks, and links of our own inside.
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only. What a
//! peer sends to such a session is handed up within our window; each has exactly one end.

use super::{CODE_REJECTED, Effect, OutboundQuery, Route, Switch};
use crate::drop_reason::DropReason;
use crate::ids::LegTag;
use crate::leg::{Intake, Leg, LegKind, LegState, Other, Signal};

/// Names no leg: the answer of a query that could not be sent.
const NO_SLOT: u32 = u32::MAX;

impl Switch {
    // Queries the management core was asked about

    /// Rejects such a query.
    pub fn reject(&mut self, leg: LegTag, code: u8) {
        self.told.push_back(Signal::Rejected { to: leg, code, reason: None });
        self.settle();
    }

    /// Accepts such a query, sends `bytes` within the caller's credit, then resets.
    pub fn answer(&mut self, tag: LegTag, bytes: &[u8], stamp_ns: u64) {
        let Some(leg) = self.asked(tag) else { return };
        leg.state = LegState::Open;
        self.accept_frame(tag.slot);
        self.enqueue(tag.slot, bytes, stamp_ns);
        self.end(tag.slot);
        self.settle();
    }

    /// Accepts such a query and hands up what comes, at most `input_max_bytes`.
    pub fn accept(&mut self, tag: LegTag, input_max_bytes: u32) {
        let Some(leg) = self.asked(tag) else { return };
        leg.state = LegState::Open;
        leg.intake = Intake::HandedUp { left_bytes: input_max_bytes };
        self.accept_frame(tag.slot);
    }

    /// Drops such a query without an answer.
    pub fn forget(&mut self, tag: LegTag) {
        if self.asked(tag).is_some() {
            self.drops.count(DropReason::DuplicateNonce, 0);
            self.remove(tag.slot);
        }
    }

    /// Accepts such a query for a link of our own at place `inner`. `false`: it has gone.
    pub fn terminate_inside(&mut self, tag: LegTag, inner: u32) -> bool {
        let Some(leg) = self.asked(tag) else { return false };
        (leg.state, leg.kind, leg.other) =
            (LegState::Open, LegKind::Inner, Other::InnerLink(inner));
        self.accept_frame(tag.slot);
        true
    }

    // Queries of our own

    /// Asks the peer of `link` for this node; [`Effect::Asked`] says what came of it, once.
    pub fn ask(
        &mut self,
        now_ns: u64,
        ask: u64,
        link: u32,
        query: OutboundQuery,
        input_max_bytes: u32,
    ) {
        match self.open_offer(now_ns, link, LegKind::Own, query) {
            Ok(tag) => {
                if let Some(leg) = self.legs.at_mut(tag.slot) {
                    leg.intake = Intake::Awaited { ask, left_bytes: input_max_bytes };
                }
            }
            Err(reason) => self.refuse_ask(ask, reason),
        }
    }

    /// Says that a query of our own cannot be sent.
    pub fn refuse_ask(&mut self, ask: u64, reason: DropReason) {
        self.drops.count(reason, 0);
        let leg = LegTag { core: self.core, slot: NO_SLOT, generation: 0 };
        self.effects.push(Effect::Asked { ask, leg, code: CODE_REJECTED });
    }

    /// Asks the peer of `link` for a session to run a link of our own in, at place `inner`.
    /// [`Effect::InnerOpened`] or [`Effect::InnerRefused`] says what came of it.
    ///
    /// # Errors
    /// Why the query cannot be sent, not yet counted.
    pub fn ask_inside(
        &mut self,
        now_ns: u64,
        link: u32,
        query: OutboundQuery,
        inner: u32,
    ) -> Result<LegTag, DropReason> {
        let tag = self.open_offer(now_ns, link, LegKind::Inner, query)?;
        if let Some(leg) = self.legs.at_mut(tag.slot) {
            leg.other = Other::InnerLink(inner);
        }
        Ok(tag)
    }

    // What goes in and out

    /// Sends bytes on such a session, within the peer's credit; `end` resets it behind them.
    pub fn write(&mut self, tag: LegTag, bytes: &[u8], end: bool, stamp_ns: u64) {
        let Some(leg) = self.legs.get(tag.slot, tag.generation) else { return };
        if !is_handed_up(leg) {
            return;
        }
        if !bytes.is_empty() {
            self.enqueue(tag.slot, bytes, stamp_ns);
        }
        if end {
            self.end(tag.slot);
        }
        self.settle();
    }

    /// So many bytes that [`Route::Management`] named are with the management core.
    pub fn input_handed_up(&mut self, tag: LegTag, bytes: usize) {
        if self.legs.get(tag.slot, tag.generation).is_some() {
            self.taken(tag.slot, bytes);
        }
    }

    /// Decides what becomes of payload for this node itself.
    pub(super) fn take_in(&mut self, slot: u32, bytes: usize) -> Route {
        let tag = self.tag(slot);
        let Some(leg) = self.legs.at_mut(slot) else { return Route::Nowhere };
        let Intake::HandedUp { left_bytes } = &mut leg.intake else {
            self.taken(slot, bytes);
            return Route::Nowhere;
        };
        let left = u32::try_from(bytes).ok().and_then(|bytes| left_bytes.checked_sub(bytes));
        let Some(left) = left else {
            self.drops.count(DropReason::InputTooLong, bytes);
            self.close_and_reset(slot);
            return Route::Nowhere;
        };
        *left_bytes = left;
        Route::Management { leg: tag }
    }

    // Links of our own inside sessions

    /// Sends bytes of a link of our own through the session it runs in.
    pub fn inner_write(&mut self, tag: LegTag, bytes: &[u8], stamp_ns: u64) {
        if self.legs.get(tag.slot, tag.generation).is_some() {
            self.enqueue(tag.slot, bytes, stamp_ns);
        }
    }

    /// A link of our own has taken so many bytes out of its session.
    pub fn inner_consumed(&mut self, tag: LegTag, bytes: usize) {
        if self.legs.get(tag.slot, tag.generation).is_some() {
            self.taken(tag.slot, bytes);
        }
    }

    /// A link of our own has ended: what it wrote is flushed, then its session is reset.
    pub fn inner_end(&mut self, tag: LegTag) {
        if let Some(leg) = self.legs.get_mut(tag.slot, tag.generation) {
            // Its place may soon be another's, who must not hear of this session's end.
            leg.other = Other::Management;
        }
        self.told.push_back(Signal::End { to: tag });
        self.settle();
    }
}

fn is_handed_up(leg: &Leg) -> bool {
    leg.state == LegState::Open && matches!(leg.intake, Intake::HandedUp { .. })
}

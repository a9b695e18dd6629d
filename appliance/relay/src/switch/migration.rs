//! A session that its peer moves from one of its links to another (spec §9.3, third form).
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only. The peer
//! leads. Each side ends what it says on the old link with a `migrate` frame, its marker; what we
//! have for the peer waits from our marker on until the peer says that it is ready. Both links must
//! be of this core, or the session stays where it is.

use super::{Effect, Switch};
use crate::drop_reason::DropReason;
use crate::ids::LegTag;
use crate::leg::{Leg, LegState, MigrationStep, Moving, Signal};
use waystation_astral::frame::Frame;

/// What a peer asks to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The local query by which it was asked; named in every [`Effect::Migration`].
    pub operation: LegTag,
    /// The session's nonce, the same on both links.
    pub nonce: u64,
    /// The link it shall move to.
    pub to_link: u32,
    /// What the peer takes there before it has returned credit.
    pub peer_window: u32,
}

impl Switch {
    /// Begins to move a session that is on one of the `from` links: sends our marker and holds
    /// everything back. [`Effect::Migration`] says what came of it.
    pub fn begin_migration(&mut self, from: &[u32], migration: Migration) {
        let Migration { operation, nonce, to_link, peer_window } = migration;
        let found = from.iter().find_map(|&link| self.find(link, nonce)).map(|(slot, _)| slot);
        let slot = found.filter(|&slot| self.may_move(slot, nonce, to_link));
        let Some(slot) = slot else {
            self.drops.count(DropReason::MigrationRefused, 0);
            self.effects.push(Effect::Migration { operation, step: MigrationStep::Refused });
            return;
        };
        self.leave_turns(slot);
        let leg = self.tag(slot);
        let mut window_bytes = self.limits.window_bytes;
        if let Some(entry) = self.legs.at_mut(slot) {
            // What is held from before an earlier move is part of this window: with what comes on
            // the old link until the peer's marker, two windows are the most that is ever held.
            window_bytes -= u32::try_from(entry.credit_debt).unwrap_or(0).min(window_bytes);
            entry.moving = Some(Box::new(Moving {
                operation,
                to_link,
                peer_window,
                window_bytes,
                arrived: false,
                withheld_bytes: 0,
            }));
            let frame = Frame::Migrate { nonce };
            self.effects.push(Effect::Frame { link: entry.link, frame });
        }
        self.note_limit(slot);
        // So that no query takes the nonce meanwhile, and a reset on the new link finds its leg.
        if let Some(sessions) = self.link_mut(to_link) {
            sessions.by_nonce.insert(nonce, slot);
        }
        let step = MigrationStep::Begun { leg, window_bytes };
        self.effects.push(Effect::Migration { operation, step });
        self.settle();
    }

    /// The peer's marker arrived on a link.
    pub fn migrate(&mut self, link: u32, nonce: u64) {
        let window = u64::from(self.limits.window_bytes);
        let moved = self.find_mut(link, nonce).and_then(|(slot, leg)| {
            let old_link = leg.link;
            let moving = leg.moving.as_deref_mut().filter(|moving| !moving.arrived)?;
            if old_link != link {
                return None;
            }
            moving.arrived = true;
            let operation = moving.operation;
            (leg.link, leg.credit) = (moving.to_link, u64::from(moving.peer_window));
            // The peer counts our window anew; of what it has sent and we still hold, that is no
            // part of it which would make it larger than a whole one.
            let held = window.saturating_sub(leg.window_left) + leg.credit_debt;
            let granted = held + u64::from(moving.window_bytes);
            leg.credit_debt = granted.saturating_sub(window);
            // Held bytes may have gone since it was granted: that credit is told with the rest.
            let missing = window.saturating_sub(granted);
            moving.withheld_bytes = u32::try_from(missing).unwrap_or(u32::MAX);
            leg.window_left = u64::from(moving.window_bytes) + missing;
            Some((slot, operation, leg.other, moving.to_link))
        });
        let Some((slot, operation, other, to_link)) = moved else {
            self.drops.count(DropReason::UnknownSessionIgnored, 0);
            return;
        };
        if let Some(sessions) = self.link_mut(link) {
            sessions.by_nonce.remove(&nonce);
        }
        self.carry_limits(slot, link);
        self.effects.push(Effect::Migration { operation, step: MigrationStep::Arrived });
        if let Some(to) = other.leg() {
            // The old link's place may soon be a stranger's, who must not share this one's turns.
            self.tell(Signal::Joined { to, core: self.core, link: to_link });
        }
        self.settle();
    }

    /// The peer is ready on the new link: what was held back goes on there.
    pub fn resume_migrated(&mut self, tag: LegTag) {
        let Some(leg) = self.legs.get_mut(tag.slot, tag.generation) else { return };
        if let Some(moving) = leg.moving.take_if(|moving| moving.arrived) {
            let (link, nonce, bytes) = (leg.link, leg.nonce, moving.withheld_bytes);
            if bytes > 0 {
                self.effects.push(Effect::Frame { link, frame: Frame::Read { nonce, bytes } });
            }
            self.make_ready(tag.slot);
            self.finish_if_drained(tag.slot);
            self.settle();
        }
    }

    fn may_move(&self, slot: u32, nonce: u64, to_link: u32) -> bool {
        let Some(leg) = self.legs.at(slot) else { return false };
        let free = self.link(to_link).is_some_and(|sessions| {
            !sessions.by_nonce.contains_key(&nonce)
                && sessions.by_nonce.len() < self.limits.sessions_per_link
        });
        // Less than half a window is too little to move for.
        let paid = leg.credit_debt <= u64::from(self.limits.window_bytes / 2);
        free && paid && leg.state == LegState::Open && leg.moving.is_none() && leg.link != to_link
    }

    /// Cleans up behind a leg that ended while it was moving.
    pub(super) fn forget_moving(&mut self, leg: &mut Leg) {
        let Some(moving) = leg.moving.take() else { return };
        if !moving.arrived
            && let Some(sessions) = self.link_mut(moving.to_link)
        {
            sessions.by_nonce.remove(&leg.nonce);
        }
        let (operation, step) = (moving.operation, MigrationStep::Ended);
        self.effects.push(Effect::Migration { operation, step });
    }
}

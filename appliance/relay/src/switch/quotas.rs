//! Session quotas: whose sessions count against what, each counted in and out once.
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only. What a
//! peer asks for and what it is asked for somebody else counts; what this node itself asks does
//! not, or an identity at its bound could not be told so.

use super::{LinkSessions, Switch};
use crate::drop_reason::DropReason;
use crate::leg::{Leg, LegKind};
use crate::quota::Quota;
use std::sync::Arc;

impl Switch {
    /// From now on sessions of this link count against `quota`, those it has already as far as
    /// there is room.
    pub fn govern(&mut self, link: u32, quota: Option<Arc<Quota>>) {
        let Some(Some(sessions)) = self.links.get_mut(link as usize) else { return };
        for &slot in sessions.by_nonce.values() {
            let Some(leg) = self.legs.at_mut(slot).filter(|leg| counts(leg)) else { continue };
            let same = match (&leg.quota, &quota) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                _ => false,
            };
            if same {
                continue;
            }
            if let Some(old) = leg.quota.take() {
                old.leave_session();
            }
            leg.quota = quota.clone().filter(|quota| quota.enter_session());
        }
        sessions.quota = quota;
    }

    /// Whether one more session may be opened on a link; what it was counted in at, if it counts.
    pub(super) fn admit(
        &self,
        sessions: &LinkSessions,
        kind: LegKind,
    ) -> Result<Option<Arc<Quota>>, DropReason> {
        if self.is_full(sessions) {
            return Err(DropReason::TooManySessions);
        }
        match &sessions.quota {
            Some(quota) if matches!(kind, LegKind::Local | LegKind::Target) => {
                let entered = quota.enter_session();
                entered.then(|| Some(Arc::clone(quota))).ok_or(DropReason::QuotaExceeded)
            }
            Some(_) | None => Ok(None),
        }
    }
}

/// Whether a leg counts against its link's quota.
fn counts(leg: &Leg) -> bool {
    match leg.kind {
        LegKind::Local | LegKind::Caller | LegKind::Target => true,
        LegKind::Own => false,
        LegKind::Inner => !leg.outbound,
    }
}

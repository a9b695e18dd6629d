//! Sessions that nothing passes through end, and addresses that say nothing are sent to no more.
//!
//! Runs on the data core that owns the table, between datagrams. There is no timer for a session
//! and datagrams touch none: a part of the table is looked at in turn, so that all of it is within
//! one period, and an end comes late by at most as much.

use super::leg::{Flags, LegPlace, Side};
use super::sessions::{Event, Sessions};
use crate::drop_reason::DropReason;
use crate::limits::{
    CONSENT_NS, OFFLOAD_NEWS_LATE_NS, UDP_SWEEP_PERIOD_NS, UDP_SWEEP_SESSIONS_MAX,
};

impl Sessions {
    /// Looks at as many sessions as are due, at most [`UDP_SWEEP_SESSIONS_MAX`]. Gives the time to
    /// come back at; `None` if there is no session.
    pub fn sweep(&mut self, now_ns: u64, events: &mut impl FnMut(Event)) -> Option<u64> {
        if self.is_empty() {
            self.swept_ns = now_ns;
            return None;
        }
        let places = self.hot.len();
        let place_ns = UDP_SWEEP_PERIOD_NS / places as u64;
        let due = now_ns.saturating_sub(self.swept_ns) / place_ns;
        let due = usize::try_from(due).unwrap_or(usize::MAX).min(places);
        let looked_at = due.min(UDP_SWEEP_SESSIONS_MAX);
        for _ in 0..looked_at {
            self.sweep_place = (self.sweep_place + 1) % places;
            self.sweep_one(self.sweep_place as u32, now_ns, events);
        }
        // What is still due is due at once; a long pause is no debt beyond one look at everything.
        self.swept_ns = if looked_at == due && due == places {
            now_ns
        } else {
            self.swept_ns.max(now_ns.saturating_sub(UDP_SWEEP_PERIOD_NS))
                + looked_at as u64 * place_ns
        };
        let batch_ns = place_ns * UDP_SWEEP_SESSIONS_MAX as u64;
        let wait_ns = if looked_at < due { 0 } else { batch_ns.min(UDP_SWEEP_PERIOD_NS) };
        Some(now_ns + wait_ns)
    }

    fn sweep_one(&mut self, slot: u32, now_ns: u64, events: &mut impl FnMut(Event)) {
        let Some(cold) = self.cold_at(slot) else {
            return;
        };
        let legs = &self.hot[slot as usize].legs;
        let idle_ns = legs[0].heard.max(legs[1].heard).age_ns(now_ns);
        let is_offloaded = legs[0].flags.has(Flags::OFFLOADED);
        let news_late_ns = if is_offloaded { OFFLOAD_NEWS_LATE_NS } else { 0 };
        if idle_ns >= cold.idle_limit_ns + news_late_ns {
            self.end(slot, DropReason::UdpSessionIdle, events);
            return;
        }
        for side in Side::BOTH {
            let place = LegPlace::new(slot, side);
            self.forget_stale_roaming(place, now_ns, events);
            let leg = self.leg(place);
            let is_silent = leg.heard.age_ns(now_ns) >= CONSENT_NS + news_late_ns;
            if is_silent && leg.flags.is_learned() && !leg.address.is_none() {
                self.lapse(place, events);
            }
        }
    }
}

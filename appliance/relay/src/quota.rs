//! What one identity may use over all its links: sessions, and payload bytes per second.
//!
//! A [`Quota`] is made by the management core, one for each identity that has one, and read and
//! written by every data core that has a link of that identity: a few atomic words, no lock. It
//! says how much may pass; what to do when nothing may is up to its caller.

use crate::limits::{BURST_MIN_NS, PACE_PIECE_BYTES};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Upper bounds; `None` and `usize::MAX` stand for no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Sessions asked for or offered to this identity, all links together.
    pub sessions: usize,
    /// Payload bytes per second that this identity may send, all links together.
    pub bytes_per_s: Option<u64>,
    /// Bytes beyond that rate that may pass at once after a pause; at least
    /// [`PACE_PIECE_BYTES`] and what passes in [`BURST_MIN_NS`].
    pub burst_bytes: u64,
}

/// The shared account of one identity.
#[derive(Debug)]
pub struct Quota {
    sessions: AtomicUsize,
    sessions_max: AtomicUsize,
    /// 0: no bound.
    bytes_per_s: AtomicU64,
    burst_bytes: AtomicU64,
    /// The time at which all bytes that have passed are paid for, in nanoseconds of the data
    /// cores' clock. Ahead of the present by at most the burst, and a piece.
    paid_until_ns: AtomicU64,
}

impl Quota {
    /// An account that nobody has used.
    pub fn new(limits: QuotaLimits) -> Arc<Self> {
        let quota = Self {
            sessions: AtomicUsize::new(0),
            sessions_max: AtomicUsize::new(0),
            bytes_per_s: AtomicU64::new(0),
            burst_bytes: AtomicU64::new(0),
            paid_until_ns: AtomicU64::new(0),
        };
        quota.set_limits(limits);
        Arc::new(quota)
    }

    /// Takes up new bounds; what is in use stays.
    pub fn set_limits(&self, limits: QuotaLimits) {
        let rate = limits.bytes_per_s.unwrap_or(0);
        let least = ns_as_bytes(BURST_MIN_NS, rate).max(PACE_PIECE_BYTES as u64);
        self.sessions_max.store(limits.sessions, Ordering::Relaxed);
        self.bytes_per_s.store(rate, Ordering::Relaxed);
        self.burst_bytes.store(limits.burst_bytes.max(least), Ordering::Relaxed);
    }

    /// Counts one more session in. `false`: there are as many as there may be.
    pub fn enter_session(&self) -> bool {
        let max = self.sessions_max.load(Ordering::Relaxed);
        let more = |now: usize| (now < max).then_some(now + 1);
        self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts a session out that [`Self::enter_session`] had counted in.
    pub fn leave_session(&self) {
        let before = self.sessions.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a session left that had not entered");
    }

    /// Sessions counted in now.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// How many payload bytes may pass now.
    pub fn allowance_bytes(&self, now_ns: u64) -> u64 {
        let rate = self.bytes_per_s.load(Ordering::Relaxed);
        if rate == 0 {
            return u64::MAX;
        }
        let burst_ns = bytes_as_ns(self.burst_bytes.load(Ordering::Relaxed), rate);
        let ahead_ns = self.paid_until_ns.load(Ordering::Relaxed).saturating_sub(now_ns);
        let left_ns = burst_ns.saturating_sub(ahead_ns);
        ns_as_bytes(left_ns, rate)
    }

    /// Accounts for bytes that pass.
    pub fn spend(&self, now_ns: u64, bytes: u64) {
        let rate = self.bytes_per_s.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let cost_ns = bytes_as_ns(bytes, rate);
        let later = |paid_ns: u64| Some(paid_ns.max(now_ns).saturating_add(cost_ns));
        // The closure never declines.
        let _ = self.paid_until_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// When at least `bytes`, or the whole burst if that is less, may pass.
    pub fn ready_ns(&self, now_ns: u64, bytes: u64) -> u64 {
        let rate = self.bytes_per_s.load(Ordering::Relaxed);
        if rate == 0 {
            return now_ns;
        }
        let burst_bytes = self.burst_bytes.load(Ordering::Relaxed);
        let spare_ns = bytes_as_ns(burst_bytes - bytes.min(burst_bytes), rate);
        self.paid_until_ns.load(Ordering::Relaxed).saturating_sub(spare_ns).max(now_ns)
    }
}

fn bytes_as_ns(bytes: u64, rate: u64) -> u64 {
    let ns = u128::from(bytes) * u128::from(SECOND_NS) / u128::from(rate);
    u64::try_from(ns).unwrap_or(u64::MAX)
}

fn ns_as_bytes(ns: u64, rate: u64) -> u64 {
    let bytes = u128::from(ns) * u128::from(rate) / u128::from(SECOND_NS);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: u64 = 1 << 20;

    fn limits(sessions: usize) -> QuotaLimits {
        QuotaLimits { sessions, bytes_per_s: Some(RATE), burst_bytes: 65_536 }
    }

    #[test]
    fn sessions_are_counted_up_to_the_bound() {
        let quota = Quota::new(limits(2));
        assert!(quota.enter_session() && quota.enter_session());
        assert!(!quota.enter_session());
        quota.leave_session();
        assert!(quota.enter_session());
    }

    #[test]
    fn unbounded_quota_lets_everything_pass() {
        let quota = Quota::new(QuotaLimits { sessions: 1, bytes_per_s: None, burst_bytes: 0 });
        quota.spend(5, 1 << 40);
        assert_eq!(quota.allowance_bytes(5), u64::MAX);
        assert_eq!(quota.ready_ns(5, 1 << 40), 5);
    }

    #[test]
    fn whole_burst_passes_at_once_and_is_back_when_it_says() {
        let quota = Quota::new(limits(1));
        let now_ns = 7 * SECOND_NS;
        assert_eq!(quota.allowance_bytes(now_ns), 65_536);
        quota.spend(now_ns, 65_536);
        assert_eq!(quota.allowance_bytes(now_ns), 0);
        let ready_ns = quota.ready_ns(now_ns, 1_024);
        assert!(quota.allowance_bytes(ready_ns) >= 1_023);
        assert!(quota.allowance_bytes(ready_ns - 2_000_000) < 1_024);
    }

    proptest! {
        #[test]
        fn what_passes_never_exceeds_rate_and_burst(
            steps in prop::collection::vec((0_u64..50_000_000, 1_u64..100_000), 1..300)
        ) {
            let quota = Quota::new(limits(1));
            let (mut now_ns, mut passed) = (SECOND_NS, 0);
            for (wait_ns, wanted) in steps {
                now_ns += wait_ns;
                let bytes = wanted.min(quota.allowance_bytes(now_ns));
                quota.spend(now_ns, bytes);
                passed += bytes;
                let allowed = 65_536 + ns_as_bytes(now_ns - SECOND_NS, RATE);
                prop_assert!(passed <= allowed + 300, "{passed} of {allowed}");
            }
        }
    }
}

//! The generic cell rate algorithm: one word of state, no division (ITU-T I.371, annex A).

/// Takes `cost_ns` from an allowance that refills by the clock, if it is there.
///
/// `paid_ns` is when everything taken so far would be paid for. Two processors that do this at once
/// may let one packet more through.
#[inline(always)]
pub fn take(paid_ns: &mut u64, cost_ns: u64, burst_ns: u64, now_ns: u64) -> bool {
    let paid = *paid_ns;
    if paid > now_ns.saturating_add(burst_ns) {
        return false;
    }
    let from = if paid > now_ns { paid } else { now_ns };
    *paid_ns = from.saturating_add(cost_ns);
    true
}

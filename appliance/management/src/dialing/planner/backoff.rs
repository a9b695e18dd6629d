//! How long to wait before the next round: full jitter under a bound that doubles.

/// A draw from between nothing and the bound after so many failures: `min_ns`, doubled with every
/// further failure up to `max_ns`. Peers that failed together come back apart.
pub(super) fn wait_ns(failures: u32, min_ns: u64, max_ns: u64, random: u64) -> u64 {
    let doublings = failures.saturating_sub(1).min(u64::BITS - 1);
    let bound_ns = min_ns.saturating_mul(1_u64 << doublings).min(max_ns);
    let drawn = (u128::from(random) * (u128::from(bound_ns) + 1)) >> u64::BITS;
    u64::try_from(drawn).unwrap_or(bound_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_starts_at_the_least_and_doubles_up_to_the_most() {
        let longest = |failures| wait_ns(failures, 1000, 60_000, u64::MAX);
        let bounds: Vec<u64> = (0..9).map(longest).collect();
        assert_eq!(bounds, [1000, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(longest(u32::MAX), 60_000);
        assert_eq!(wait_ns(200, u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn draw_is_spread_from_nothing_to_the_bound() {
        assert_eq!(wait_ns(3, 1000, 60_000, 0), 0);
        assert_eq!(wait_ns(3, 1000, 60_000, u64::MAX / 2), 2000);
        assert_eq!(wait_ns(3, 0, 60_000, u64::MAX), 0);
    }
}

//! How many answers go to sources that proved nothing, per prefix.
//!
//! Owns a fixed table of times, so a million sources cost what one does. Called on a data core
//! before each answer that is not authenticated. It keeps a server from being a reflector: whoever
//! forges a victim's address gets it a few answers a second, whatever the rate of requests.

use std::net::IpAddr;

use crate::limits::REPLY_BUCKETS;
use crate::nonce::Nonces;

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// A token bucket per prefix, kept as the time at which it would be full again.
#[derive(Debug)]
pub(crate) struct ReplyLimit {
    full_at_ns: Box<[u64]>,
    /// Between two answers at the highest lasting rate.
    interval_ns: u64,
    /// How far ahead of now a bucket may be filled.
    burst_ns: u64,
}

impl ReplyLimit {
    pub(crate) fn new(replies_per_s: u32, burst: u32) -> Self {
        let interval_ns = SECOND_NS / u64::from(replies_per_s.max(1));
        let burst_ns = interval_ns * u64::from(burst.max(1));
        Self { full_at_ns: vec![0; REPLY_BUCKETS].into_boxed_slice(), interval_ns, burst_ns }
    }

    /// Takes an answer for a source, if there is one left.
    pub(crate) fn take(&mut self, nonces: &Nonces, source: IpAddr, now_ns: u64) -> bool {
        let bucket = match source {
            IpAddr::V4(ip) => nonces.bucket(&ip.octets(), REPLY_BUCKETS),
            // A /64 is what one customer gets.
            IpAddr::V6(ip) => {
                nonces.bucket(ip.octets().get(..8).unwrap_or_default(), REPLY_BUCKETS)
            }
        };
        let Some(full_at_ns) = self.full_at_ns.get_mut(bucket) else {
            return false;
        };
        let filled_ns = (*full_at_ns).max(now_ns) + self.interval_ns;
        let is_left = filled_ns <= now_ns + self.burst_ns;
        if is_left {
            *full_at_ns = filled_ns;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nonce::SecurityFeatures;

    fn nonces() -> Nonces {
        Nonces::new(&[7; 32], SecurityFeatures::default(), 3600)
    }

    #[test]
    fn a_prefix_gets_its_burst_and_then_its_rate() {
        let (mut limit, nonces) = (ReplyLimit::new(20, 5), nonces());
        let source = IpAddr::from([192, 0, 2, 1]);
        let mut taken = |now_ns: u64, tries: usize| {
            (0..tries).filter(|_| limit.take(&nonces, source, now_ns)).count()
        };
        assert_eq!(taken(SECOND_NS, 100), 5);
        assert_eq!(taken(SECOND_NS + SECOND_NS / 20, 100), 1);
        assert_eq!(taken(SECOND_NS * 100, 100), 5);
        let in_a_second: usize =
            (0..1000).map(|millisecond| taken(SECOND_NS * 200 + millisecond * 1_000_000, 3)).sum();
        assert_eq!(in_a_second, 24);
    }

    #[test]
    fn hosts_of_one_ipv6_network_share_what_their_network_gets() {
        let (mut limit, nonces) = (ReplyLimit::new(20, 5), nonces());
        let mut taken = 0;
        for host in 1..100_u16 {
            let source = IpAddr::from([0x2001, 0xdb8, 1, 2, 0, 0, 0, host]);
            taken += usize::from(limit.take(&nonces, source, SECOND_NS));
        }
        assert_eq!(taken, 5);
        assert!(limit.take(&nonces, IpAddr::from([0x2001, 0xdb8, 1, 3, 0, 0, 0, 1]), SECOND_NS));
    }
}

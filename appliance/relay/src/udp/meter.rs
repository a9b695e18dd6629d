//! Token buckets for packets and bytes of a session, one pair for each direction.
//!
//! Owned by a session table and spent on its thread. A bucket is the time until which everything
//! that has passed is paid for; a busy download so never starves the other direction. It never
//! waits and never queues: a datagram passes or does not.

use super::leg::Side;
use crate::limits::{
    UDP_BURST_BYTES_MIN, UDP_BURST_NS, UDP_BURST_PACKETS_MIN, UDP_BYTES_PER_S_MAX,
    UDP_BYTES_PER_S_MIN,
};
use std::num::{NonZeroU32, NonZeroU64};

const SECOND_NS: u64 = 1_000_000_000;
/// Bytes cost parts of a nanosecond, counted in 2^-20 of one.
const BYTE_COST_SHIFT: u32 = 20;

/// What may pass in each direction of a session; `None` stands for no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Datagrams per second.
    pub packets_per_s: Option<NonZeroU32>,
    /// Payload bytes per second, within
    /// [`UDP_BYTES_PER_S_MIN`] and [`UDP_BYTES_PER_S_MAX`].
    pub bytes_per_s: Option<NonZeroU64>,
}

impl RateLimit {
    /// Whether the byte rate is one that can be kept to.
    pub(super) fn is_in_range(&self) -> bool {
        let range = UDP_BYTES_PER_S_MIN..=UDP_BYTES_PER_S_MAX;
        self.bytes_per_s.is_none_or(|rate| range.contains(&rate.get()))
    }

    /// Whether anything is bounded.
    pub(super) fn is_some(&self) -> bool {
        self.packets_per_s.is_some() || self.bytes_per_s.is_some()
    }
}

/// The buckets of a session: one cache line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Meter {
    packet_cost_ns: u64,
    packet_burst_ns: u64,
    byte_cost: u64,
    byte_burst_ns: u64,
    paid_until: [PaidUntil; 2],
}

const _: () = assert!(size_of::<Meter>() == 64);

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct PaidUntil {
    packets_ns: u64,
    bytes_ns: u64,
}

impl Meter {
    pub(super) fn new(rate: RateLimit) -> Self {
        // Costs are rounded up, so that what passes stays below the rate.
        let packet_cost_ns =
            rate.packets_per_s.map_or(0, |rate| SECOND_NS.div_ceil(u64::from(rate.get())));
        let byte_cost =
            rate.bytes_per_s.map_or(0, |rate| (SECOND_NS << BYTE_COST_SHIFT).div_ceil(rate.get()));
        let bytes_ns = byte_cost.saturating_mul(UDP_BURST_BYTES_MIN) >> BYTE_COST_SHIFT;
        Self {
            packet_cost_ns,
            packet_burst_ns: UDP_BURST_NS.max(packet_cost_ns * UDP_BURST_PACKETS_MIN),
            byte_cost,
            byte_burst_ns: UDP_BURST_NS.max(bytes_ns),
            paid_until: [PaidUntil::default(); 2],
        }
    }

    /// Whether it counts datagrams.
    pub(super) fn counts_packets(&self) -> bool {
        self.packet_cost_ns != 0
    }

    /// The time that 1024 bytes take and how far ahead of it a session may be, in nanoseconds;
    /// `None` without a rate of bytes.
    pub(super) fn byte_pace(&self) -> Option<(u64, u64)> {
        let cost_ns = self.byte_cost.saturating_mul(1024).div_ceil(1 << BYTE_COST_SHIFT);
        (self.byte_cost != 0).then_some((cost_ns, self.byte_burst_ns))
    }

    /// Whether a datagram from a side may pass; it is paid for if so, and not at all if not.
    pub(super) fn admits(&mut self, from: Side, payload_bytes: usize, now_ns: u64) -> bool {
        let byte_cost_ns = self.byte_cost.saturating_mul(payload_bytes as u64) >> BYTE_COST_SHIFT;
        let paid_until = &mut self.paid_until[from.index()];
        let packets_ns = paid_until.packets_ns.max(now_ns) + self.packet_cost_ns;
        let bytes_ns = paid_until.bytes_ns.max(now_ns) + byte_cost_ns;
        let is_admitted =
            packets_ns <= now_ns + self.packet_burst_ns && bytes_ns <= now_ns + self.byte_burst_ns;
        if is_admitted {
            *paid_until = PaidUntil { packets_ns, bytes_ns };
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(packets_per_s: u32, bytes_per_s: u64) -> RateLimit {
        RateLimit {
            packets_per_s: NonZeroU32::new(packets_per_s),
            bytes_per_s: NonZeroU64::new(bytes_per_s),
        }
    }

    #[test]
    fn meter_without_a_rate_admits_everything() {
        let mut meter = Meter::new(RateLimit::default());
        assert!((0..10_000).all(|_| meter.admits(Side::A, 65_535, 7)));
    }

    #[test]
    fn refused_datagram_costs_nothing() {
        let mut meter = Meter::new(rate(0, UDP_BYTES_PER_S_MIN));
        assert!(meter.admits(Side::A, 60_000, 0));
        assert!(!meter.admits(Side::A, 60_000, 0));
        assert!(meter.admits(Side::A, 5_000, 0));
    }

    #[test]
    fn pace_of_bytes_is_what_a_kibibyte_takes() {
        assert_eq!(Meter::new(rate(7, 0)).byte_pace(), None);
        let (cost_ns, burst_ns) = Meter::new(rate(0, 1 << 20)).byte_pace().unwrap();
        // A MiB/s is 1024 KiB/s, and a cost is rounded up.
        assert_eq!((cost_ns, burst_ns), (976_563, UDP_BURST_NS));
        assert!(Meter::new(rate(7, 0)).counts_packets());
        let slowest = Meter::new(rate(0, UDP_BYTES_PER_S_MIN)).byte_pace().unwrap();
        assert_eq!(slowest, (SECOND_NS, 64 * SECOND_NS));
    }

    #[test]
    fn directions_do_not_starve_each_other() {
        let mut meter = Meter::new(rate(1, 0));
        while meter.admits(Side::A, 1, 0) {}
        assert!(meter.admits(Side::B, 1, 0));
    }

    proptest! {
        #[test]
        fn what_passes_never_exceeds_rate_and_burst(
            packets_per_s in 1_u32..2_000_000,
            bytes_per_s in UDP_BYTES_PER_S_MIN..UDP_BYTES_PER_S_MAX,
            steps in prop::collection::vec((0_u64..20_000_000, 0_usize..65_536), 1..300)
        ) {
            let mut meter = Meter::new(rate(packets_per_s, bytes_per_s));
            let (mut now_ns, mut packets, mut bytes) = (SECOND_NS, 0_u128, 0_u128);
            for (wait_ns, payload_bytes) in steps {
                now_ns += wait_ns;
                if meter.admits(Side::B, payload_bytes, now_ns) {
                    packets += 1;
                    bytes += payload_bytes as u128;
                }
                let elapsed_ns = u128::from(now_ns - SECOND_NS);
                let allowed = |rate: u128, least: u64| {
                    let burst = (rate * u128::from(UDP_BURST_NS) / 1_000_000_000)
                        .max(u128::from(least));
                    rate * elapsed_ns / 1_000_000_000 + burst + 1
                };
                // What rounding a cost down to a nanosecond may let pass: one byte in each.
                let slack = packets * (u128::from(bytes_per_s) / 1_000_000_000 + 1);
                prop_assert!(packets <= allowed(packets_per_s.into(), UDP_BURST_PACKETS_MIN));
                prop_assert!(bytes <= allowed(bytes_per_s.into(), UDP_BURST_BYTES_MIN) + slack);
            }
        }
    }
}

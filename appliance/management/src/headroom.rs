//! How much more of its traffic a core could take, from the time it was at work.
//!
//! A pure function of what a core has counted in one interval, called on the management thread.
//!
//! A core is at work while its thread has its CPU, and it wants to be while it waits for that CPU:
//! another thread has it, and would have it just as often if there were more to do. Both grow with
//! the traffic, so their share of the time, scaled up until it is all of it, says how much fits in.
//! The kernel's part is in it, because that is done in the thread's own calls; what the thread spun
//! in vain is not, and sleeping to gather events is not either. What may make it wrong:
//!
//! * A busier core handles more events in each turn, and each costs less. So there is more room than
//!   this says, and the less busy the core, the more so: nothing is taken off for what has not been
//!   seen yet.
//! * Whoever else uses the CPU is taken to go on as now.
//! * Where the kernel counts no time of waiting for a CPU, other threads there are not seen.

use crate::observations::CoreReport;
use waystation_engine::statistics::CoreCounters;

/// A core that is at work for less than this share of the time only keeps house, and what it does
/// then says nothing about traffic.
const HOUSEKEEPING_SHARE: f64 = 0.001;

/// What an interval says about the room that is left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Headroom {
    /// Share of the time in which the core was at work or waited for its CPU, from 0 to 1; nothing
    /// if it did not report.
    pub busy_share: Option<f64>,
    /// How many times the traffic of the interval could have come beside it; 0 for a saturated core,
    /// nothing for one that was idle or did not report.
    pub more_traffic_ratio: Option<f64>,
}

impl Headroom {
    /// That of a core in the interval closed last.
    pub fn of(report: &CoreReport) -> Self {
        let up_ns = report.interval_growth(|counters| counters.up_ns);
        let wanted_ns = report.interval_growth(CoreCounters::wanted_ns);
        let arrivals =
            report.interval_growth(|counters| counters.receives + counters.udp_messages_received);
        Self::from_times(up_ns, wanted_ns, arrivals)
    }

    /// That of a core which was up for so long, at work or waiting for its CPU for so long of it,
    /// and received so often from streams and datagram sockets.
    fn from_times(up_ns: u64, wanted_ns: u64, arrivals: u64) -> Self {
        if up_ns == 0 {
            return Self::default();
        }
        let busy = (wanted_ns as f64 / up_ns as f64).min(1.0);
        let idle = arrivals == 0 || busy < HOUSEKEEPING_SHARE;
        Self { busy_share: Some(busy), more_traffic_ratio: (!idle).then(|| (1.0 - busy) / busy) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn core_that_is_busy_for_a_quarter_has_room_for_three_times_as_much_again() {
        let headroom = Headroom::from_times(1_000, 250, 9);
        assert_eq!(headroom.busy_share, Some(0.25));
        assert_eq!(headroom.more_traffic_ratio, Some(3.0));
    }

    #[test]
    fn saturated_core_has_room_for_nothing() {
        for wanted_ns in [1_000, 1_001] {
            let headroom = Headroom::from_times(1_000, wanted_ns, 9);
            assert_eq!(headroom.busy_share, Some(1.0));
            assert_eq!(headroom.more_traffic_ratio, Some(0.0));
        }
    }

    #[test]
    fn idle_core_says_how_busy_it_is_and_nothing_about_traffic() {
        assert_eq!(Headroom::from_times(1_000_000, 900, 9).more_traffic_ratio, None);
        let silent = Headroom::from_times(1_000, 250, 0);
        assert_eq!((silent.busy_share, silent.more_traffic_ratio), (Some(0.25), None));
    }

    #[test]
    fn core_that_did_not_report_is_unknown() {
        assert_eq!(Headroom::from_times(0, 0, 0), Headroom::default());
    }

    #[test]
    fn spinning_in_vain_does_not_make_a_core_busy_and_waiting_for_its_cpu_does() {
        let counters = CoreCounters {
            cpu_ns: 700,
            run_delay_ns: 100,
            empty_spins_ns: 500,
            spinning_ns: 900,
            gathering_ns: 50,
            busy_ns: 1_000,
            ..CoreCounters::default()
        };
        assert_eq!(counters.wanted_ns(), 300);
    }

    proptest! {
        #[test]
        fn traffic_scaled_by_what_is_said_fills_the_core(
            up_ns in 1_000_u64..10_000_000_000,
            share in 0.002_f64..1.0,
        ) {
            let wanted_ns = (up_ns as f64 * share) as u64;
            let headroom = Headroom::from_times(up_ns, wanted_ns, 1);
            if let Some(more) = headroom.more_traffic_ratio {
                let filled = wanted_ns as f64 * (1.0 + more);
                prop_assert!((filled / up_ns as f64 - 1.0).abs() < 1e-9);
            }
        }

        #[test]
        fn busier_core_never_has_more_room(
            first in 0_u64..2_000_000, second in 0_u64..2_000_000,
        ) {
            let (less, more) = (first.min(second), first.max(second));
            let room = |wanted_ns| Headroom::from_times(1_000_000, wanted_ns, 1).more_traffic_ratio;
            if let (Some(of_less), Some(of_more)) = (room(less), room(more)) {
                prop_assert!(of_less >= of_more);
            }
        }
    }
}

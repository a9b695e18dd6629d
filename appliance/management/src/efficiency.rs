//! How close to the floor of the machine a core works: what its traffic had to cost, divided by what
//! it did cost.
//!
//! A pure function of what a core has counted in one interval, called on the management thread. The
//! floor of the interval is that of the same bytes, arriving so many at a time and sealed in records
//! as long as those that came: bytes of links are charged for moving, opening and sealing, bytes of
//! raw pipes for moving alone. A core that only receives what another sends has one half of the
//! work, and so it has one half of the floor. The cost is all processor time of the thread but what
//! it spun in vain: handshakes, queries, statistics and datagrams are in it and in no floor.

use crate::observations::CoreReport;
use waystation_engine::floor::Floor;
use waystation_engine::statistics::CoreCounters;

/// Payload of an interval below which its cost is mostly what a core does without traffic.
const TRAFFIC_BYTES_MIN: f64 = 64.0 * 1024.0;
const KIB: f64 = 1024.0;

/// Cost and floor of one core's traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Efficiency {
    /// Floor / cost: 1 for a core that costs what the machine charges.
    pub ratio: f64,
    /// Processor time of the core for each KiB of payload it has relayed.
    pub cost_ns_per_kib: f64,
    /// What of that no relay on this machine could spare.
    pub floor_ns_per_kib: f64,
}

impl Efficiency {
    /// That of a core in the interval closed last; nothing without traffic or report.
    pub fn of(report: &CoreReport, floor: &Floor) -> Option<Self> {
        Self::from_work(&Work::of(|read| report.interval_growth(read)), floor)
    }

    fn from_work(work: &Work, floor: &Floor) -> Option<Self> {
        if work.payload_bytes < TRAFFIC_BYTES_MIN || work.spent_ns <= 0.0 {
            return None;
        }
        let floor_ns = work.floor_ns(floor);
        let kib = work.payload_bytes / KIB;
        Some(Self {
            ratio: floor_ns / work.spent_ns,
            cost_ns_per_kib: work.spent_ns / kib,
            floor_ns_per_kib: floor_ns / kib,
        })
    }
}

/// What a core did in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Work {
    spent_ns: f64,
    /// Payload relayed; what came or went here and the other half of its way on another core counts
    /// by half.
    payload_bytes: f64,
    links: Moved,
    /// Mean length of a record on the wire.
    record_bytes: f64,
    pipes: Moved,
}

/// Bytes that were moved, so many at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Moved {
    bytes: f64,
    arrival_bytes: f64,
}

impl Work {
    /// Takes the growth of counters.
    fn of(grown: impl Fn(fn(&CoreCounters) -> u64) -> u64) -> Self {
        let pipe_bytes = grown(|counters| counters.pipe_bytes);
        let pipe_receives = grown(|counters| counters.pipe_receives);
        let payload = grown(|it| it.payload_bytes_in) + grown(|it| it.payload_bytes_out);
        let (wire_in, wire_out) = (grown(|it| it.wire_bytes_in), grown(|it| it.wire_bytes_out));
        let receives = grown(|it| it.receives).saturating_sub(pipe_receives);
        // What came shows how peers send. A core that mostly sends what another has received knows
        // that only by what it sent.
        let (bytes, moves, records) = match 2 * wire_in >= wire_out {
            true => (wire_in, receives, grown(|it| it.records_opened)),
            false => (wire_out, grown(|it| it.sends), grown(|it| it.records_sealed)),
        };
        let spent_ns = CoreCounters::spent_ns(
            grown(|it| it.cpu_ns),
            grown(|it| it.run_delay_ns),
            grown(|it| it.empty_spins_ns),
        );
        Self {
            spent_ns: spent_ns as f64,
            payload_bytes: payload as f64 / 2.0 + pipe_bytes as f64,
            links: Moved {
                bytes: (wire_in + wire_out) as f64 / 2.0,
                arrival_bytes: mean(bytes, moves),
            },
            record_bytes: mean(bytes, records),
            pipes: Moved {
                bytes: pipe_bytes as f64,
                arrival_bytes: mean(pipe_bytes, pipe_receives),
            },
        }
    }

    fn floor_ns(&self, floor: &Floor) -> f64 {
        let moving_ns = |moved: &Moved| floor.forwarding_ns(moved.bytes, moved.arrival_bytes);
        let cipher_ns = floor.cipher_ns(self.links.bytes, self.record_bytes);
        moving_ns(&self.links) + cipher_ns + moving_ns(&self.pipes)
    }
}

fn mean(bytes: u64, things: u64) -> f64 {
    if things == 0 { bytes as f64 } else { bytes as f64 / things as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use waystation_engine::floor::ARRIVAL_BYTES;

    /// 1000 ns for each arrival and 1 ns for each byte; opening and sealing 500 ns and 2 ns.
    fn floor() -> Floor {
        let forward_ns = ARRIVAL_BYTES.map(|bytes| 1000.0 + bytes as f64);
        let sealed_ns = ARRIVAL_BYTES.map(|bytes| 1500.0 + 3.0 * bytes as f64);
        Floor { forward_ns, sealed_ns }
    }

    fn efficiency(counters: &CoreCounters) -> Option<Efficiency> {
        Efficiency::from_work(&Work::of(|read| read(counters)), &floor())
    }

    fn assert_near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} instead of {expected}");
    }

    /// 1000 arrivals of 4096 B, two records in each.
    fn relayed() -> CoreCounters {
        CoreCounters {
            cpu_ns: 20_000_000,
            wire_bytes_in: 4_096_000,
            wire_bytes_out: 4_096_000,
            payload_bytes_in: 4_000_000,
            payload_bytes_out: 4_000_000,
            receives: 1000,
            sends: 900,
            records_opened: 2000,
            records_sealed: 1800,
            ..CoreCounters::default()
        }
    }

    #[test]
    fn links_are_charged_for_moving_opening_and_sealing() {
        let efficiency = efficiency(&relayed()).unwrap();
        let floor_ns = 1000.0 * (1000.0 + 4096.0) + 2000.0 * (500.0 + 2.0 * 2048.0);
        assert_near(efficiency.ratio, floor_ns / 20e6);
        assert_near(efficiency.cost_ns_per_kib, 20e6 / (4e6 / 1024.0));
        assert_near(efficiency.floor_ns_per_kib, floor_ns / (4e6 / 1024.0));
    }

    #[test]
    fn pipes_are_charged_for_moving_alone() {
        let counters = CoreCounters {
            cpu_ns: 10_000_000,
            pipe_bytes: 4_096_000,
            receives: 1000,
            pipe_receives: 1000,
            ..CoreCounters::default()
        };
        let efficiency = efficiency(&counters).unwrap();
        assert_near(efficiency.ratio, 1000.0 * 5096.0 / 10e6);
        assert_near(efficiency.cost_ns_per_kib, 2500.0);
    }

    #[test]
    fn links_and_pipes_together_have_both_floors() {
        let (of_links, both) = (
            efficiency(&relayed()).unwrap(),
            CoreCounters {
                pipe_bytes: 4_096_000,
                pipe_receives: 1000,
                receives: 2000,
                ..relayed()
            },
        );
        let both = efficiency(&both).unwrap();
        assert_near(both.ratio, of_links.ratio + 1000.0 * 5096.0 / 20e6);
    }

    #[test]
    fn halves_of_a_way_on_two_cores_have_the_floor_of_the_whole() {
        let whole = relayed();
        let receiving = CoreCounters {
            wire_bytes_out: 0,
            payload_bytes_out: 0,
            sends: 0,
            records_sealed: 0,
            ..whole.clone()
        };
        let sending = CoreCounters {
            wire_bytes_in: 0,
            payload_bytes_in: 0,
            receives: 0,
            records_opened: 0,
            sends: whole.receives,
            records_sealed: whole.records_opened,
            ..whole.clone()
        };
        let ratio = |counters: &CoreCounters| efficiency(counters).unwrap().ratio;
        assert_near(ratio(&receiving) + ratio(&sending), ratio(&whole));
    }

    #[test]
    fn spinning_in_vain_costs_nothing() {
        let spinning = CoreCounters { cpu_ns: 25_000_000, empty_spins_ns: 5_000_000, ..relayed() };
        assert_eq!(efficiency(&spinning), efficiency(&relayed()));
    }

    #[test]
    fn spinning_while_others_have_the_cpu_takes_nothing_off_the_cost() {
        let disturbed = CoreCounters {
            cpu_ns: 22_000_000,
            empty_spins_ns: 5_000_000,
            run_delay_ns: 3_000_000,
            ..relayed()
        };
        assert_eq!(efficiency(&disturbed), efficiency(&relayed()));
        let waiting = CoreCounters { run_delay_ns: 9_000_000, cpu_ns: 20_000_000, ..disturbed };
        assert_eq!(efficiency(&waiting), efficiency(&relayed()));
    }

    #[test]
    fn without_traffic_nothing_is_said() {
        assert_eq!(efficiency(&CoreCounters::default()), None);
        let idle = CoreCounters { cpu_ns: 300_000, ..CoreCounters::default() };
        assert_eq!(efficiency(&idle), None);
        let pings = CoreCounters { wire_bytes_in: 1_000_000, receives: 20_000, ..idle };
        assert_eq!(efficiency(&pings), None);
    }

    proptest! {
        #[test]
        fn ratio_is_a_number_whatever_was_counted(
            values in proptest::array::uniform10(0_u64..1 << 40),
        ) {
            let counters = CoreCounters {
                cpu_ns: values[0],
                empty_spins_ns: values[1],
                wire_bytes_in: values[2],
                wire_bytes_out: values[3],
                payload_bytes_in: values[4],
                payload_bytes_out: values[5],
                receives: values[6],
                pipe_receives: values[7],
                pipe_bytes: values[8],
                records_opened: values[9],
                ..CoreCounters::default()
            };
            if let Some(efficiency) = efficiency(&counters) {
                prop_assert!(efficiency.ratio.is_finite() && efficiency.ratio >= 0.0);
                prop_assert!(efficiency.floor_ns_per_kib >= 0.0);
            }
        }
    }
}

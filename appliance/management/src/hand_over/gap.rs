//! How long datagrams have waited at a hand-over, and for what.
//!
//! Values only, made on the management thread of the process that has taken over. All times are of
//! the machine's monotonic clock, which both processes read.

use serde_json::{Map, Value, json};
use waystation_engine::control::{UdpBegun, UdpPaused};

/// The time in which nobody served the datagrams of one core, in the parts that follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpGap {
    /// Until the other process's core had told what has changed.
    pub telling_ns: u64,
    /// Until that was heard here, over both management threads.
    pub passing_ns: u64,
    /// Until the core here served.
    pub taking_ns: u64,
    /// For how much of this the threads in question were ready to run, and others ran.
    pub processor_waited_ns: u64,
}

impl UdpGap {
    /// The gap of a core, and how long the two management threads have waited for a processor in it.
    pub(crate) fn new(
        paused: UdpPaused,
        heard_ns: u64,
        begun: UdpBegun,
        management_waited_ns: u64,
    ) -> Self {
        let UdpPaused { since_ns, told_ns, processor_waited_ns } = paused;
        let waited_ns = processor_waited_ns
            .saturating_add(begun.processor_waited_ns)
            .saturating_add(management_waited_ns);
        let gap = Self {
            telling_ns: told_ns.saturating_sub(since_ns),
            passing_ns: heard_ns.saturating_sub(told_ns),
            taking_ns: begun.at_ns.saturating_sub(heard_ns),
            processor_waited_ns: 0,
        };
        // Threads that waited side by side have not waited for longer than the gap is.
        Self { processor_waited_ns: waited_ns.min(gap.length_ns()), ..gap }
    }

    /// All of it.
    pub fn length_ns(&self) -> u64 {
        self.telling_ns.saturating_add(self.passing_ns).saturating_add(self.taking_ns)
    }

    /// As an event tells it.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        let said = json!({
            "udp_waited_us": self.length_ns() / 1000,
            "udp_telling_us": self.telling_ns / 1000,
            "udp_passing_us": self.passing_ns / 1000,
            "udp_taking_us": self.taking_ns / 1000,
            "udp_waited_for_processor_us": self.processor_waited_ns / 1000,
        });
        match said {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSED: UdpPaused =
        UdpPaused { since_ns: 1_000_000, told_ns: 3_000_000, processor_waited_ns: 500_000 };

    #[test]
    fn parts_of_a_gap_add_up_to_it() {
        let begun = UdpBegun { at_ns: 9_000_000, processor_waited_ns: 250_000 };
        let gap = UdpGap::new(PAUSED, 4_000_000, begun, 1_000_000);
        assert_eq!(gap.length_ns(), 8_000_000);
        let fields = gap.fields();
        assert_eq!(fields["udp_waited_us"], 8000);
        assert_eq!(fields["udp_telling_us"], 2000);
        assert_eq!(fields["udp_passing_us"], 1000);
        assert_eq!(fields["udp_taking_us"], 5000);
        assert_eq!(fields["udp_waited_for_processor_us"], 1750);
    }

    #[test]
    fn no_thread_waits_for_longer_than_the_gap() {
        let begun = UdpBegun { at_ns: 4_000_000, processor_waited_ns: u64::MAX };
        let gap = UdpGap::new(PAUSED, 3_500_000, begun, u64::MAX);
        assert_eq!(gap.processor_waited_ns, 3_000_000);
        // A clock that another process has read wrong makes no gap of centuries.
        let gap = UdpGap::new(PAUSED, 0, UdpBegun::default(), 0);
        assert_eq!(gap.length_ns(), 2_000_000);
    }
}

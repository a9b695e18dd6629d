//! What the flows look like.

use serde::{Deserialize, Serialize};

/// How frames are laid into records and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Everything of one turn in as few records as hold it, one write.
    #[default]
    Coalesced,
    /// Each message in a record and a write of its own.
    Single,
    /// As stock nodes send: a record per field, header and body in separate writes, credit for
    /// every chunk (spec §3.3, §7.3).
    Stock,
}

/// When a flow sends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// At most so many messages in flight; the receiver acknowledges every so many of them.
    Closed { window: u32, acknowledge_every: u32 },
    /// One message every so many nanoseconds, whether or not earlier ones have arrived. Latency
    /// counts from when a message was due.
    Paced { interval_ns: u64 },
}

/// One set of flows of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    pub flows: u32,
    /// Links that the flows end on, in turn; every flow has one of its own when there are as many.
    pub destinations: u32,
    pub message_bytes: usize,
    pub pace: Pace,
    pub layout: Layout,
    /// The receiver sends every message back whole, and the relay carries it twice.
    pub echo: bool,
}

impl Shape {
    /// Flows in a closed loop with a link of their own at both ends; a quarter of the window is
    /// acknowledged at a time.
    pub const fn closed(flows: u32, message_bytes: usize, window: u32) -> Self {
        let acknowledge_every = if window >= 4 { window / 4 } else { 1 };
        Self {
            flows,
            destinations: flows,
            message_bytes,
            pace: Pace::Closed { window, acknowledge_every },
            layout: Layout::Coalesced,
            echo: false,
        }
    }

    /// Flows that send on a schedule: so many messages a second each.
    pub fn paced(flows: u32, message_bytes: usize, messages_per_second: f64) -> Self {
        let interval_ns = (1e9 / messages_per_second.max(1.0)) as u64;
        Self { pace: Pace::Paced { interval_ns }, ..Self::closed(flows, message_bytes, 1) }
    }

    /// The same flows in a closed loop, acknowledged every so many messages.
    pub const fn acknowledged_every(self, messages: u32) -> Self {
        let pace = match self.pace {
            Pace::Closed { window, .. } => Pace::Closed { window, acknowledge_every: messages },
            paced @ Pace::Paced { .. } => paced,
        };
        Self { pace, ..self }
    }

    /// The same flows laid out as stock nodes do.
    pub const fn stock(self) -> Self {
        Self { layout: Layout::Stock, ..self }
    }

    /// The same flows, each message written by itself.
    pub const fn single(self) -> Self {
        Self { layout: Layout::Single, ..self }
    }

    /// The same flows, each message sent back.
    pub const fn with_echo(self) -> Self {
        Self { echo: true, ..self }
    }

    /// The same flows, ending on fewer links.
    pub const fn to_destinations(self, destinations: u32) -> Self {
        Self { destinations, ..self }
    }

    /// How often the relay carries a message.
    pub const fn times_relayed(&self) -> u32 {
        if self.echo { 2 } else { 1 }
    }
}

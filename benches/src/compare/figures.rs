//! What rounds come to: one figure per measure, the median over the rounds with its spread.

use crate::load::report::median;
use crate::swarm::rounds::Round;
use crate::swarm::shape::Shape;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a figure is of; the unit is part of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Processor time of the relay per message it carries; of a relay with data cores, theirs.
    ProcessorMicrosecondsPerMessage,
    /// The same per gigabyte of messages.
    ProcessorSecondsPerGigabyte,
    /// The same as the first, of all threads of the relay.
    AllThreadsMicrosecondsPerMessage,
    MessagesPerSecond,
    /// Share of one processor that the relay used; below 0.95 the rate is the generator's.
    RelayProcessorShare,
    GeneratorProcessorShare,
    LatencyP50Microseconds,
    LatencyP99Microseconds,
    LatencyP999Microseconds,
    /// Part of the first that is opening and sealing, where it was measured by itself.
    CipherMicrosecondsPerMessage,
    /// Messages of the generator that shared a record.
    MessagesPerRecord,
    /// Messages the relay carried in one go, from being woken until it slept.
    MessagesPerWakeUp,
    /// Resident memory that one more idle link costs.
    KibibytesPerLink,
    HandshakesPerProcessorSecond,
    /// Share of relayed bytes whose two links were on one core.
    SameCoreShare,
    /// Jain's index of the rates of the flows: 1 is fair.
    JainIndex,
    /// How many times its traffic a core says it has room for beside it.
    MoreTraffic,
    /// The traffic that it says would fill it, of that which did.
    ToldOfFitting,
    /// Share of the datagrams that did not come.
    LostShare,
    /// Messages carried per second of processor time: what one processor would carry if it did
    /// nothing else.
    MessagesPerProcessorSecond,
    /// Share of the datagrams sent at a steady rate that came.
    DeliveredShare,
    /// Datagrams of a flood that were sent beside.
    FloodPerSecond,
}

impl Measure {
    /// Heading of a column.
    pub fn heading(self) -> &'static str {
        match self {
            Self::ProcessorMicrosecondsPerMessage => "us/message",
            Self::ProcessorSecondsPerGigabyte => "CPU s/GB",
            Self::AllThreadsMicrosecondsPerMessage => "us/message, all threads",
            Self::MessagesPerSecond => "messages/s",
            Self::RelayProcessorShare => "relay",
            Self::GeneratorProcessorShare => "generator",
            Self::LatencyP50Microseconds => "p50 us",
            Self::LatencyP99Microseconds => "p99 us",
            Self::LatencyP999Microseconds => "p99.9 us",
            Self::CipherMicrosecondsPerMessage => "of it cipher us",
            Self::MessagesPerRecord => "messages/record",
            Self::MessagesPerWakeUp => "messages/wake-up",
            Self::KibibytesPerLink => "KiB/link",
            Self::HandshakesPerProcessorSecond => "handshakes/CPU s",
            Self::SameCoreShare => "same core",
            Self::JainIndex => "Jain",
            Self::MoreTraffic => "more traffic",
            Self::ToldOfFitting => "told / found",
            Self::LostShare => "lost",
            Self::MessagesPerProcessorSecond => "messages/CPU s",
            Self::DeliveredShare => "delivered",
            Self::FloodPerSecond => "flood/s",
        }
    }

    /// A figure as a cell.
    pub fn cell(self, figure: f64) -> String {
        match self {
            Self::MessagesPerSecond
            | Self::MessagesPerProcessorSecond
            | Self::FloodPerSecond
            | Self::HandshakesPerProcessorSecond
            | Self::LatencyP50Microseconds
            | Self::LatencyP99Microseconds
            | Self::LatencyP999Microseconds => format!("{figure:.0}"),
            Self::RelayProcessorShare | Self::GeneratorProcessorShare | Self::SameCoreShare => {
                format!("{:.0} %", 100.0 * figure)
            }
            Self::LostShare | Self::DeliveredShare => format!("{:.3} %", 100.0 * figure),
            Self::MessagesPerRecord
            | Self::MessagesPerWakeUp
            | Self::MoreTraffic
            | Self::KibibytesPerLink => {
                format!("{figure:.2}")
            }
            Self::ProcessorMicrosecondsPerMessage
            | Self::ProcessorSecondsPerGigabyte
            | Self::AllThreadsMicrosecondsPerMessage
            | Self::CipherMicrosecondsPerMessage
            | Self::ToldOfFitting
            | Self::JainIndex => format!("{figure:.3}"),
        }
    }
}

/// The figures of one round.
pub type Sample = BTreeMap<Measure, f64>;

/// A median and how far the rounds were apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Figure {
    /// The figure that two others come to together.
    #[must_use]
    pub fn with(&self, other: &Self, together: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            median: together(self.median, other.median),
            low: together(self.low, other.low),
            high: together(self.high, other.high),
        }
    }
}

/// The figures of all rounds.
pub type Figures = BTreeMap<Measure, Figure>;

/// Takes the medians of every measure that each round has.
pub fn summarize(samples: &[Sample]) -> Figures {
    let Some(first) = samples.first() else { return Figures::new() };
    let figure = |measure: &Measure| {
        let values: Option<Vec<f64>> =
            samples.iter().map(|sample| sample.get(measure).copied()).collect();
        let values = values?;
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some((*measure, Figure { median: median(values.into_iter()), low, high }))
    };
    first.keys().filter_map(figure).collect()
}

/// The figures of a round over flows of one shape.
pub fn of_round(round: &Round, shape: &Shape) -> Sample {
    let messages = round.messages.iter().sum::<u64>() as f64;
    let relayed = (messages * f64::from(shape.times_relayed())).max(1.0);
    let per_message_ns = round.spent.forwarding_ns as f64 / relayed;
    let mut sample = Sample::from([
        (Measure::ProcessorMicrosecondsPerMessage, per_message_ns / 1e3),
        (Measure::ProcessorSecondsPerGigabyte, per_message_ns / shape.message_bytes as f64),
        (Measure::MessagesPerSecond, messages / round.seconds),
        (Measure::RelayProcessorShare, round.spent.forwarding_ns as f64 / 1e9 / round.seconds),
        (Measure::GeneratorProcessorShare, round.generator_ns as f64 / 1e9 / round.seconds),
    ]);
    if round.spent.has_data_cores {
        let all_us = round.spent.total_ns as f64 / relayed / 1e3;
        sample.insert(Measure::AllThreadsMicrosecondsPerMessage, all_us);
    }
    let records = round.sealed.near.records();
    if records > 0 {
        sample.insert(Measure::MessagesPerRecord, messages / records as f64);
    }
    if round.spent.forwarding_turns > 0 {
        let per_turn = relayed / round.spent.forwarding_turns as f64;
        sample.insert(Measure::MessagesPerWakeUp, per_turn);
    }
    if let Some(latency) = round.latency.first() {
        sample.extend(latencies(latency));
    }
    sample
}

/// The quantiles of a histogram of nanoseconds.
pub fn latencies(latency: &Histogram<u64>) -> Sample {
    let quantile = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    Sample::from([
        (Measure::LatencyP50Microseconds, quantile(0.5)),
        (Measure::LatencyP99Microseconds, quantile(0.99)),
        (Measure::LatencyP999Microseconds, quantile(0.999)),
    ])
}

/// Jain's index of fairness: 1 when all values are the same, 1/n when one has everything.
pub fn jain_index(values: &[u64]) -> f64 {
    let sum: f64 = values.iter().map(|value| *value as f64).sum();
    let squares: f64 = values.iter().map(|value| (*value as f64).powi(2)).sum();
    if squares == 0.0 { 0.0 } else { sum * sum / (values.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_taken_of_what_every_round_has() {
        let with = |value| Sample::from([(Measure::MessagesPerSecond, value)]);
        let mut samples = [with(3.0), with(1.0), with(2.0)];
        samples[0].insert(Measure::JainIndex, 1.0);
        let figures = summarize(&samples);
        let expected = Figure { median: 2.0, low: 1.0, high: 3.0 };
        assert_eq!(figures, Figures::from([(Measure::MessagesPerSecond, expected)]));
        assert!(summarize(&[]).is_empty());
    }

    #[test]
    fn jain_index_is_one_for_equals_and_a_share_for_one_taker() {
        assert!((jain_index(&[7, 7, 7, 7]) - 1.0).abs() < 1e-12);
        assert!((jain_index(&[8, 0, 0, 0]) - 0.25).abs() < 1e-12);
        assert_eq!(jain_index(&[0, 0]), 0.0);
    }
}

//! From rounds to figures, and figures to text, JSON and the results file.

use crate::load::clock;
use crate::load::machine::Machine;
use crate::load::options::Options;
use crate::load::round::Measured;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

/// Medians over the rounds of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    pub rounds: usize,
    pub messages_per_second: f64,
    pub megabytes_per_second: f64,
    /// Of the forwarding threads; absent when the relay's process is not known.
    pub processor_seconds_per_gigabyte: Option<f64>,
    pub processor_microseconds_per_message: Option<f64>,
    pub processor_nanoseconds_per_kibibyte: Option<f64>,
    /// Of all threads of the relay, in microseconds per relayed message.
    pub all_threads_microseconds_per_message: Option<f64>,
    /// Share of one processor the forwarding threads used.
    pub forwarding_processor_share: Option<f64>,
    /// Whether threads named like data cores were told apart.
    pub has_data_cores: bool,
    /// Share of one processor the generator used.
    pub generator_processor_share: f64,
    pub latency_microseconds: Latency,
    /// Messages that shared a record on the way to the relay, and plaintext bytes of that record.
    pub messages_per_record: Option<f64>,
    pub record_plaintext_bytes: Option<f64>,
}

/// Medians of the rounds' quantiles, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

/// The machine's floor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Floor {
    pub forwarding: Figures,
    /// Opening and sealing, in microseconds per message; absent on a path without records.
    pub aead_microseconds_per_message: Option<f64>,
    /// What opened and sealed.
    pub aead_suite: String,
    /// Sum of both, in microseconds per message.
    pub microseconds_per_message: f64,
    /// Floor by relay: 1 is as cheap as can be.
    pub efficiency: Option<f64>,
}

/// Everything one run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub date_unix_seconds: u64,
    pub machine: Machine,
    pub command: String,
    pub options: Options,
    pub relay: Option<Figures>,
    pub floor: Option<Floor>,
    /// Messages sent and received over all rounds, warm-ups included; none was lost or changed.
    pub messages_checked: u64,
}

impl Figures {
    /// Takes the medians. With echo the relay carries every message twice.
    pub fn of(rounds: &[Measured], options: &Options) -> Self {
        let message_bytes = options.message_bytes as f64;
        let times_relayed = if options.echo { 2.0 } else { 1.0 };
        let median_of = |figure: &dyn Fn(&Measured) -> f64| median(rounds.iter().map(figure));
        let relayed = |round: &Measured| (round.messages as f64 * times_relayed).max(1.0);
        let watched = rounds.iter().all(|round| round.spent.total_ns > 0);
        let per_message_ns =
            watched.then(|| median_of(&|round| round.spent.forwarding_ns as f64 / relayed(round)));
        let quantile = |quantile: f64| {
            median_of(&|round| round.latency.value_at_quantile(quantile) as f64 / 1e3)
        };
        let records = rounds.iter().all(|round| round.sent.records > 0);
        let messages_per_second = median_of(&|round| round.messages as f64 / round.seconds);
        Self {
            rounds: rounds.len(),
            messages_per_second,
            megabytes_per_second: messages_per_second * message_bytes / 1e6,
            processor_seconds_per_gigabyte: per_message_ns.map(|ns| ns / message_bytes),
            processor_microseconds_per_message: per_message_ns.map(|ns| ns / 1e3),
            processor_nanoseconds_per_kibibyte: per_message_ns
                .map(|ns| ns * 1024.0 / message_bytes),
            all_threads_microseconds_per_message: watched
                .then(|| median_of(&|round| round.spent.total_ns as f64 / relayed(round) / 1e3)),
            forwarding_processor_share: watched.then(|| {
                median_of(&|round| round.spent.forwarding_ns as f64 / 1e9 / round.seconds)
            }),
            has_data_cores: rounds.iter().any(|round| round.spent.has_data_cores),
            generator_processor_share: median_of(&|round| {
                round.generator_ns as f64 / 1e9 / round.seconds
            }),
            latency_microseconds: Latency {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p99_9: quantile(0.999),
                max: median_of(&|round| round.latency.max() as f64 / 1e3),
            },
            messages_per_record: records.then(|| {
                median_of(&|round| round.sent_messages as f64 / round.sent.records as f64)
            }),
            record_plaintext_bytes: records.then(|| median_of(&record_plaintext_bytes)),
        }
    }
}

/// Mean plaintext of a record A sent in a round.
pub fn record_plaintext_bytes(round: &Measured) -> f64 {
    let overhead = waystation_astral::brontide::RECORD_OVERHEAD_BYTES as f64;
    round.sent.wire_bytes as f64 / (round.sent.records as f64).max(1.0) - overhead
}

/// The middle value; of an even number the mean of the middle two; of none 0.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied();
    let lower = if values.len().is_multiple_of(2) {
        middle.checked_sub(1).and_then(|index| values.get(index).copied())
    } else {
        upper
    };
    match (lower, upper) {
        (Some(lower), Some(upper)) => f64::midpoint(lower, upper),
        _ => 0.0,
    }
}

impl Report {
    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} x {} B, {}, {} rounds of {} s on {} ({} processors, kernel {}, {})",
            self.options.pairs,
            self.options.message_bytes,
            self.options.rate.map_or_else(
                || format!("window {}", self.options.window),
                |rate| format!("{rate} messages/s per pair")
            ),
            self.options.rounds,
            self.options.seconds,
            self.machine.processor,
            self.machine.processors,
            self.machine.kernel,
            self.machine.congestion_control,
        );
        if let Some(relay) = &self.relay {
            let _ = writeln!(text, "relay");
            relay.write_text(&mut text);
        }
        if let Some(floor) = &self.floor {
            let _ = writeln!(text, "floor: plain forwarding");
            floor.forwarding.write_text(&mut text);
            if let Some(aead) = floor.aead_microseconds_per_message {
                let suite = &floor.aead_suite;
                let _ = writeln!(text, "floor: open and seal {aead:.3} us per message ({suite})");
            }
            let _ = writeln!(text, "floor {:.3} us per message", floor.microseconds_per_message);
            if let Some(efficiency) = floor.efficiency {
                let _ = writeln!(text, "floor / relay {efficiency:.3}");
            }
        }
        let _ = writeln!(text, "{} messages checked, none lost or changed", self.messages_checked);
        text
    }

    /// Appends the report to a results file.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn append_to(&self, path: &Path) -> Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        let record = format!(
            "## {}\n\n    {}\n\n```text\n{}```\n\n```json\n{}\n```\n\n",
            date(self.date_unix_seconds),
            self.command,
            self.text(),
            serde_json::to_string(self)?,
        );
        file.write_all(record.as_bytes()).with_context(|| format!("writing {}", path.display()))
    }

    /// Now, for a report.
    pub fn date_now() -> u64 {
        clock::unix_seconds()
    }
}

impl Figures {
    fn write_text(&self, text: &mut String) {
        let Latency { p50, p90, p99, p99_9, max } = self.latency_microseconds;
        let _ = writeln!(
            text,
            "  {:.0} messages/s, {:.1} MB/s, generator at {:.0} %",
            self.messages_per_second,
            self.megabytes_per_second,
            100.0 * self.generator_processor_share
        );
        if let (Some(per_gigabyte), Some(per_message), Some(per_kibibyte), Some(share)) = (
            self.processor_seconds_per_gigabyte,
            self.processor_microseconds_per_message,
            self.processor_nanoseconds_per_kibibyte,
            self.forwarding_processor_share,
        ) {
            let _ = writeln!(
                text,
                "  {per_message:.3} us per message, {per_gigabyte:.3} processor-s/GB, \
                 {per_kibibyte:.0} ns/KiB, {} at {:.0} %",
                if self.has_data_cores { "data cores" } else { "all threads" },
                100.0 * share
            );
        }
        if self.has_data_cores
            && let Some(all) = self.all_threads_microseconds_per_message
        {
            let _ = writeln!(text, "  {all:.3} us per message with all its threads");
        }
        if let (Some(messages), Some(bytes)) =
            (self.messages_per_record, self.record_plaintext_bytes)
        {
            let _ = writeln!(text, "  {messages:.2} messages in a record of {bytes:.0} B");
        }
        let _ = writeln!(
            text,
            "  latency us: p50 {p50:.0}  p90 {p90:.0}  p99 {p99:.0}  p99.9 {p99_9:.0}  max {max:.0}"
        );
    }
}

/// A Unix time as `2025-10-21 12:00 UTC` (days to civil date after Howard Hinnant).
pub fn date(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3_600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median([7.0].into_iter()), 7.0);
        assert_eq!(median(std::iter::empty()), 0.0);
    }

    #[test]
    fn dates_are_civil() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(1_761_048_000), "2025-10-21 12:00 UTC");
        assert_eq!(date(1_709_164_800), "2024-02-29 00:00 UTC");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59 UTC");
    }
}

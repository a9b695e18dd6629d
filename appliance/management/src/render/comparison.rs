//! The table of `waystation hist --compare`.

use super::table::{Column, Table};
use crate::log_comparison::ReadLog;
use crate::units::{human_count, human_ns};
use hdrhistogram::Histogram;
use std::collections::BTreeSet;

/// What is compared of a histogram, besides its count and its maximum.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
const NOTHING: &str = "-";

/// `waystation hist --compare A B`: for each tag of either log its count, percentiles and maximum in
/// both, and the second divided by the first. Only those of `stage`, if given.
pub fn comparison(first: &ReadLog, second: &ReadLog, stage: Option<&str>) -> String {
    let tags: BTreeSet<_> = first.histograms.keys().chain(second.histograms.keys()).collect();
    let wanted = |tag: &&&String| stage.is_none_or(|stage| tag.split('.').nth(1) == Some(stage));
    let mut table = Table::new(vec![
        Column::flexible("HISTOGRAM"),
        Column::left("OF"),
        Column::right("A"),
        Column::right("B"),
        Column::right("B/A"),
    ]);
    let mut rows = 0;
    for tag in tags.iter().filter(wanted) {
        let sides = (first.histograms.get(*tag), second.histograms.get(*tag));
        let count = |histogram: &Histogram<u64>| histogram.len();
        row(&mut table, (tag, "count"), sides, count, human_count);
        for (name, quantile) in QUANTILES {
            let value = |histogram: &Histogram<u64>| histogram.value_at_quantile(quantile);
            row(&mut table, ("", name), sides, value, human_ns);
        }
        row(&mut table, ("", "max"), sides, Histogram::max, human_ns);
        rows += 1;
    }
    match (rows, stage) {
        (0, Some(stage)) => format!("nothing was recorded for stage {stage}\n"),
        _ => table.render(),
    }
}

fn row(
    table: &mut Table,
    (tag, name): (&str, &str),
    sides: (Option<&Histogram<u64>>, Option<&Histogram<u64>>),
    value: impl Fn(&Histogram<u64>) -> u64,
    form: impl Fn(u64) -> String,
) {
    let (first, second) = (sides.0.map(&value), sides.1.map(&value));
    let cell = |value: Option<u64>| value.map_or_else(|| NOTHING.to_owned(), &form);
    let ratio = match (first, second) {
        (Some(first), Some(second)) if first > 0 => {
            format!("{:.2}", second as f64 / first as f64)
        }
        _ => NOTHING.to_owned(),
    };
    table.row(vec![tag.to_owned(), name.to_owned(), cell(first), cell(second), ratio]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(tag: &str, values: &[u64]) -> ReadLog {
        let mut histogram = Histogram::new(2).unwrap();
        values.iter().for_each(|value| histogram.record(*value).unwrap());
        ReadLog { histograms: [(tag.to_owned(), histogram)].into() }
    }

    #[test]
    fn each_value_stands_beside_the_other_logs_with_their_ratio() {
        let first = log("merged.turn.control", &[1000; 100]);
        let second = log("merged.turn.control", &[2000; 50]);
        let table = comparison(&first, &second, Some("turn"));
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 7, "{table}");
        assert!(lines[1].contains("merged.turn.control") && lines[1].ends_with("0.50"), "{table}");
        assert!(lines[4].contains("p99") && lines[4].ends_with("2.00"), "{table}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{table}");
    }

    #[test]
    fn histogram_of_one_log_alone_is_shown_without_a_ratio() {
        let first = log("merged.turn.control", &[1000]);
        let second = log("merged.handshake.control", &[1000]);
        let table = comparison(&first, &second, None);
        assert_eq!(table.lines().filter(|line| line.ends_with(" -")).count(), 12, "{table}");
        assert_eq!(
            comparison(&first, &second, Some("residence")),
            "nothing was recorded for stage residence\n"
        );
    }
}

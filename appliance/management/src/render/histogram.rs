//! The percentile table and the plots of `waystation hist`.

use super::table::{Column, Table, cut};
use super::{array, count, nanoseconds, percent, text};
use crate::documents::PERCENTILES;
use crate::limits::TERMINAL_COLUMNS;
use crate::units::{human_count, human_ns};
use serde_json::Value;

/// Columns of the longest bar.
const BAR_COLUMNS: usize = 44;

/// `waystation hist`: a table of percentiles, and a plot per stage and class.
///
/// Shows the histograms of all cores together, or of single cores if the document has only those;
/// only those of `stage`, if given; and since the start, unless the document has only the last
/// interval.
pub fn histogram(document: &Value, stage: Option<&str>) -> String {
    let entries = chosen(document, stage);
    if entries.is_empty() {
        return match stage {
            Some(stage) => format!("nothing was recorded for stage {stage} so far\n"),
            None => "nothing was recorded so far\n".to_owned(),
        };
    }
    let mut out = percentile_table(&entries);
    for entry in entries {
        out.push('\n');
        out.push_str(&plot(entry));
    }
    out
}

fn chosen<'d>(document: &'d Value, stage: Option<&str>) -> Vec<&'d Value> {
    let all: Vec<_> = array(&document["histograms"])
        .iter()
        .filter(|entry| stage.is_none_or(|stage| entry["stage"] == stage))
        .collect();
    let all = prefer(all, "scope", "merged");
    prefer(all, "window", "total")
}

/// Those with this value, or all if there are none.
fn prefer<'d>(entries: Vec<&'d Value>, key: &str, wanted: &str) -> Vec<&'d Value> {
    if !entries.iter().any(|entry| entry[key] == wanted) {
        return entries;
    }
    entries.into_iter().filter(|entry| entry[key] == wanted).collect()
}

fn percentile_table(entries: &[&Value]) -> String {
    let several_cores = entries.iter().any(|entry| entry["scope"] == "core");
    let mut columns = vec![Column::left("STAGE"), Column::left("CLASS"), Column::right("COUNT")];
    if several_cores {
        columns.insert(0, Column::right("CORE"));
    }
    let heads = ["P50", "P90", "P99", "P99.9", "P99.99"];
    columns.extend(heads.into_iter().map(Column::right));
    columns.push(Column::right("MAX"));
    let mut table = Table::new(columns);
    for entry in entries {
        let mut cells = vec![text(&entry["stage"]), text(&entry["class"]), count(&entry["count"])];
        if several_cores {
            cells.insert(0, text(&entry["core"]));
        }
        let percentiles = &entry["percentiles_ns"];
        cells.extend(PERCENTILES.iter().map(|(name, _)| nanoseconds(&percentiles[*name])));
        cells.push(nanoseconds(&entry["max_ns"]));
        table.row(cells);
    }
    table.render()
}

/// One line per bucket between the first and the last that has values. Buckets are 1, 2 and 5 times
/// powers of ten; bars grow with the logarithm of the count, so that rare slow values are seen.
fn plot(entry: &Value) -> String {
    let buckets: Vec<(Option<u64>, u64)> =
        array(&entry["buckets"]).iter().filter_map(bucket).collect();
    let total: u64 = buckets.iter().map(|(_, count)| count).sum();
    let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let core = entry["core"].as_u64().map(|core| format!("core {core} ")).unwrap_or_default();
    let seconds = entry["length_ms"].as_u64().unwrap_or(0) as f64 / 1000.0;
    let title = format!(
        "{core}{} {}: {} in {seconds:.1} s, bars are logarithmic",
        text(&entry["stage"]),
        text(&entry["class"]),
        human_count(total),
    );
    let mut out = cut(&title, TERMINAL_COLUMNS);
    out.push('\n');
    for (bound_ns, count) in with_gaps(&buckets) {
        let label = match bound_ns {
            Some(bound_ns) => format!("<= {}", human_ns(bound_ns)),
            None => "longer".to_owned(),
        };
        let share = if total == 0 { 0.0 } else { count as f64 / total as f64 };
        let shown = human_count(count);
        let line = format!(
            "{label:>10} |{:<BAR_COLUMNS$} {shown:>6} {:>6}",
            "#".repeat(bar(count, most)),
            percent(share),
        );
        out.push_str(&cut(line.trim_end(), TERMINAL_COLUMNS));
        out.push('\n');
    }
    out
}

fn bucket(value: &Value) -> Option<(Option<u64>, u64)> {
    let bound_ns = value.get(0)?;
    if !bound_ns.is_null() && !bound_ns.is_u64() {
        return None;
    }
    Some((bound_ns.as_u64(), value.get(1)?.as_u64()?))
}

/// The buckets with the empty ones between them.
fn with_gaps(buckets: &[(Option<u64>, u64)]) -> Vec<(Option<u64>, u64)> {
    let all = crate::observations::BUCKET_BOUNDS_NS.into_iter().map(Some).chain([None]);
    let known: Vec<_> = all
        .map(|bound_ns| {
            let found = buckets.iter().find(|(bucket, _)| *bucket == bound_ns);
            (bound_ns, found.map_or(0, |(_, count)| *count))
        })
        .collect();
    let first = known.iter().position(|(_, count)| *count > 0).unwrap_or(known.len());
    let last = known.iter().rposition(|(_, count)| *count > 0).map_or(first, |last| last + 1);
    known.get(first..last).unwrap_or_default().to_vec()
}

/// From one column for a single value to the longest bar for the fullest bucket.
fn bar(count: u64, most: u64) -> usize {
    if count == 0 {
        return 0;
    }
    let share = (count as f64 + 1.0).ln() / (most as f64 + 1.0).ln();
    ((share * BAR_COLUMNS as f64).round() as usize).clamp(1, BAR_COLUMNS)
}

//! Reports: tables for people, JSON for programs, charts beside them.

use crate::compare::chart::chart;
use crate::compare::contender::Line;
use crate::compare::figures::Measure;
use crate::compare::options::Options;
use crate::compare::verdict::Verdict;
use crate::load::machine::Machine;
use crate::load::report::date;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Everything one run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub date_unix_seconds: u64,
    pub machine: Machine,
    /// Versions of everything that was compared, and of the compiler's own.
    pub versions: BTreeMap<&'static str, String>,
    pub command: String,
    pub options: Options,
    pub rows: Vec<RowReport>,
}

/// Makes sure that nothing is where results are to be written.
///
/// # Errors
///
/// Names what is there.
pub fn refuse_to_replace(results: &Path) -> Result<()> {
    for path in [results.to_owned(), results.with_extension("json")] {
        if path.try_exists().with_context(|| format!("looking for {}", path.display()))? {
            bail!("{} is there already; --force replaces it", path.display());
        }
    }
    Ok(())
}

/// One row of it.
#[derive(Clone, Debug, Serialize)]
pub struct RowReport {
    pub number: u8,
    pub name: &'static str,
    pub workload: &'static str,
    pub lines: Vec<Line>,
    pub verdicts: Vec<Verdict>,
    /// Messages compared over all rounds, warm-ups included; none was lost or changed.
    pub messages_checked: u64,
    /// What ended the row before it was done; the others ran all the same.
    pub failure: Option<String>,
}

impl Report {
    /// The rows that failed, one line each.
    pub fn failures(&self) -> Vec<String> {
        let rows = self.rows.iter();
        rows.filter_map(|row| {
            let failure = row.failure.as_ref()?;
            Some(format!("row {}, {}: {failure}", row.number, row.name))
        })
        .collect()
    }

    /// The goals that were missed, one line each.
    pub fn missed(&self) -> Vec<String> {
        let rows = self.rows.iter();
        rows.flat_map(|row| {
            let missed = row.verdicts.iter().filter(|verdict| !verdict.met);
            missed.map(move |verdict| format!("row {}, {}", row.number, verdict.text()))
        })
        .collect()
    }

    /// The report for people, in Markdown; `charts` names the chart of a row.
    pub fn markdown(&self, charts: &dyn Fn(&RowReport) -> Option<String>) -> String {
        let mut text = String::new();
        let Machine { processor, processors, kernel, congestion_control } = &self.machine;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# Comparison, {}\n", date(self.date_unix_seconds));
        let _ = writeln!(text, "    {}\n", self.command);
        let _ = writeln!(
            text,
            "{} rounds of {} s. {processor}, {processors} processors, kernel {kernel}, \
             {congestion_control}.",
            self.options.rounds, self.options.seconds
        );
        let versions: Vec<_> =
            self.versions.iter().map(|(name, version)| format!("{name}: {version}")).collect();
        let _ = writeln!(text, "\n{}.", versions.join("; "));
        for row in &self.rows {
            row.write_markdown(&mut text, charts(row));
        }
        text
    }

    /// Writes tables, JSON and charts.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("compare").to_owned();
        let chart_name = |row: &RowReport| format!("{stem}-row-{:02}.svg", row.number);
        let write = |path: &Path, text: &str| {
            fs::write(path, text).with_context(|| format!("writing {}", path.display()))
        };
        let mut charted = BTreeSet::new();
        for row in &self.rows {
            if let Some(chart) = chart(row) {
                write(&path.with_file_name(chart_name(row)), &chart)?;
                charted.insert(row.number);
            }
        }
        let charts = |row: &RowReport| charted.contains(&row.number).then(|| chart_name(row));
        write(path, &self.markdown(&charts))?;
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        write(&path.with_extension("json"), &json)
    }
}

impl RowReport {
    /// Measures that any line has, in their order.
    fn measures(&self) -> BTreeSet<Measure> {
        let figures = self.lines.iter().filter_map(|line| line.figures.as_ref().ok());
        figures.flat_map(|figures| figures.keys().copied()).collect()
    }

    fn write_markdown(&self, text: &mut String, chart: Option<String>) {
        let measures = self.measures();
        let _ = writeln!(text, "\n## Row {}: {}\n\n{}.\n", self.number, self.name, self.workload);
        if let Some(failure) = &self.failure {
            let _ = writeln!(text, "FAILED: {failure}.");
            return;
        }
        let headings: Vec<_> = measures.iter().map(|measure| measure.heading()).collect();
        let _ = writeln!(text, "| case | contender | {} |", headings.join(" | "));
        let _ = writeln!(text, "| --- | --- |{}", " ---: |".repeat(headings.len().max(1)));
        for line in &self.lines {
            let cells = match &line.figures {
                Ok(figures) => measures
                    .iter()
                    .map(|measure| {
                        let figure = figures.get(measure);
                        figure.map_or_else(String::new, |figure| measure.cell(figure.median))
                    })
                    .collect::<Vec<_>>()
                    .join(" | "),
                Err(reason) => reason.clone(),
            };
            let _ = writeln!(text, "| {} | {} | {cells} |", line.case, line.contender);
        }
        let _ = writeln!(text);
        for verdict in &self.verdicts {
            let _ = writeln!(text, "- {}", verdict.text());
        }
        let _ =
            writeln!(text, "\n{} messages compared, none lost or changed.", self.messages_checked);
        if let Some(chart) = chart {
            let _ = writeln!(text, "\n![row {}]({chart})", self.number);
        }
    }
}

//! `compare`: the appliance and its peers side by side. See `--help` for the method and
//! benches/README.md for the rows.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use waystation_benches::compare::options::Options;
use waystation_benches::compare::run::run;

/// Ends with 1 on any error, a lost or changed byte included, and with `--check` when a goal was
/// missed.
fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let words = env::args().skip(1).collect::<Vec<_>>().join(" ");
    let command = format!("cargo run --release -p waystation-benches --bin compare -- {words}");
    let report = run(&options, command, &|row| {
        // Whoever closed standard error does not want to know.
        let _ = writeln!(io::stderr(), "row {}: {}", row.number, row.name);
    })?;
    if let Some(path) = &options.results {
        report.write_to(path)?;
    }
    let printed = if options.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        report.markdown(&|_| None)
    };
    io::stdout().write_all(printed.as_bytes()).context("printing the report")?;
    let missed = report.missed();
    if options.check && !missed.is_empty() {
        for line in &missed {
            let _ = writeln!(io::stderr(), "missed: {line}");
        }
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

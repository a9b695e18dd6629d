//! `compare`: the appliance and its peers side by side. See `--help` for the method and
//! benches/README.md for the rows.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use waystation_benches::compare::options::Options;
use waystation_benches::compare::report::refuse_to_replace;
use waystation_benches::compare::run::run;

/// Ends with 1 on any error, a lost or changed byte in any row included, and with `--check` when a
/// goal was missed.
fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if let Some(path) = options.results.as_deref().filter(|_| !options.force) {
        refuse_to_replace(path)?;
    }
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
    let failures = report.failures();
    let missed = if options.check { report.missed() } else { Vec::new() };
    for (word, lines) in [("failed", &failures), ("missed", &missed)] {
        for line in lines {
            let _ = writeln!(io::stderr(), "{word}: {line}");
        }
    }
    if !(failures.is_empty() && missed.is_empty()) {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

//! `waystation-load`: drives an Astral gateway with pairs of peers, checks every byte, and says
//! what relaying cost. See `--help` for the workload.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use std::env;
use std::io::{self, Write};
use waystation_benches::load::options::Options;
use waystation_benches::load::run::run;

/// Ends with 1 on any error, a lost or changed message included.
fn main() -> Result<()> {
    let options = Options::parse();
    let mut command = env::args().skip(1).fold("waystation-load".to_owned(), |mut line, word| {
        line.push(' ');
        line.push_str(&word);
        line
    });
    command.truncate(4_096);
    let report = run(&options, command)?;
    if let Some(path) = &options.results {
        report.append_to(path)?;
    }
    let printed = if options.json {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        json
    } else {
        report.text()
    };
    io::stdout().write_all(printed.as_bytes()).context("printing the report")
}

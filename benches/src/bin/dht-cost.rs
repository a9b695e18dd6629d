//! What the node of the DHT spends on each kind of request, against one verification and one
//! signature, without and with planted records. See `waystation_benches::dht`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the figures are the answer")]

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;
use waystation_benches::dht::report::Report;
use waystation_benches::dht::scene::Size;

#[derive(Debug, Parser)]
#[command(about = "Measures what the node of the DHT spends on requests")]
struct Arguments {
    /// Rounds of 1500 requests of each kind; medians are printed
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// End with 1 when a goal is missed
    #[arg(long)]
    check: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let report = Report::measure(arguments.rounds.max(1), Size::FULL)?;
    println!("{report}");
    let missed = report.missed();
    for line in &missed {
        eprintln!("missed: {line}");
    }
    let has_failed = arguments.check && !missed.is_empty();
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

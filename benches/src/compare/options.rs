//! The command line of `compare`.

use crate::aead::AeadOption;
use clap::Parser;
use clap::builder::RangedI64ValueParser;
use serde::Serialize;
use std::path::PathBuf;

const ABOUT: &str = "Compares the appliance with its peers and with the floor of the machine";

const METHOD: &str = "\
METHOD
  Everything that is compared runs in this one run, in alternating rounds: the relays on one
  processor, the generator on another. The cost of a relay is its processor time as the kernel
  counts it (schedstat); a figure is the median over the rounds, and a ratio that of two medians.
  Every message is compared whole: a lost or changed byte ends the run with an error.

  A peer that is not installed leaves its line empty, says so, and counts as a goal missed.
  benches/peers/install installs what is there to install.

  Build both before:  cargo build --release -p waystation -p waystation-benches";

/// What to run.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "compare", version, about = ABOUT, after_long_help = METHOD)]
pub struct Options {
    /// Number or name of a row, or `all`.
    #[arg(value_name = "SCENARIO")]
    pub scenario: String,
    /// Rounds of every contender; at least 5 for a figure worth keeping.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = number(1, 1_000))]
    pub rounds: u32,
    /// Length of a round's measured part, in seconds.
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Processor of the relays.
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    pub relay_cpu: usize,
    /// Processor of the generator.
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    pub generator_cpu: usize,
    /// What the appliance, the control and the floor seal with: ring, openssl, rustcrypto, or auto
    /// for what the appliance chooses.
    #[arg(long, value_name = "NAME", default_value_t = AeadOption::Auto, value_parser = backend)]
    pub aead: AeadOption,
    /// Where benches/peers/install has put the peers.
    #[arg(long, value_name = "DIR", default_value = "benches/peers/installed")]
    pub peers: PathBuf,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    /// End with 1 when a goal is missed, and say which.
    #[arg(long)]
    pub check: bool,
    /// Write tables to this file, JSON and a chart for each row beside it.
    #[arg(long, value_name = "PATH.md")]
    pub results: Option<PathBuf>,
    /// Let --results replace what another run has written.
    #[arg(long, requires = "results")]
    pub force: bool,
}

fn number(least: i64, most: i64) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(least..=most)
}

/// A back end by itself, as the appliance can be told.
fn backend(text: &str) -> Result<AeadOption, String> {
    if text.contains('+') {
        return Err("one back end, or auto".to_owned());
    }
    text.parse().map_err(|error| format!("{error}"))
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("0.05 to 600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_read() {
        let line = "compare 9 --rounds 7 --seconds 0.5 --check --json --results r.md";
        let options = Options::try_parse_from(line.split(' ')).unwrap();
        assert_eq!((options.scenario.as_str(), options.rounds, options.seconds), ("9", 7, 0.5));
        assert!(options.check && options.json && options.results.is_some());
        assert_eq!(options.aead, AeadOption::Auto);
        for wrong in [
            "compare",
            "compare 9 --rounds 0",
            "compare 9 --seconds 0.01",
            "compare 9 --aead fastest",
            "compare 9 --aead ring+openssl:2048",
        ] {
            assert!(Options::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }
}

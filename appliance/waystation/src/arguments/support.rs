//! Arguments of what helps to find out what is wrong: `log`, `bundle`, `explain-packet`, `capture`.

use super::{ListingArguments, SocketArgument};
use clap::{Args, Subcommand};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;
use waystation_management::log_levels::LogDirective;
use waystation_management::xdp::Verdicts;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// What is logged at which level
    Show(ListingArguments),
    /// Change it until the program ends, or until it is taken back
    #[command(after_help = LOG_LEVEL_HELP)]
    Level {
        /// LEVEL, or TARGET=LEVEL for a module and all below it
        #[arg(value_name = "[TARGET=]LEVEL")]
        directive: LogDirective,
        #[command(flatten)]
        socket: SocketArgument,
    },
}

/// What a directive may be.
const LOG_LEVEL_HELP: &str =
    "Levels: off, error, warn, info, debug, trace; default takes back what \
was set, of one target or of all.
Examples: waystation log level debug
          waystation log level waystation_management::dht=trace
          waystation log level default";

#[derive(Clone, Debug, Args)]
pub(crate) struct BundleArguments {
    /// The file to write; absent: waystation-bundle-TIME.tar.gz here
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Say what would be in it, and write nothing
    #[arg(long)]
    pub(crate) list: bool,
    /// The configuration; absent: that of the service
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ExplainArguments {
    /// Hex digits of an Ethernet frame, or a file with a capture (pcap, pcapng) or with hex digits
    #[arg(value_name = "PACKET", required = true)]
    pub(crate) packets: Vec<String>,
    /// The interface that it is taken to come in by; absent: the first that the program is on
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub(crate) interface: Option<String>,
    /// Answer by this configuration alone, instead of asking the running program
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub(crate) config: Option<PathBuf>,
    /// Explain so many packets; how many more there are is told at the end
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) limit: NonZeroUsize,
    /// The answers as they are, one JSON object on each line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = CAPTURE_HELP)]
pub(crate) struct CaptureArguments {
    /// The file to write, in pcapng
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only packets with these verdicts: all, drops, passes, relayed, or names with commas between
    #[arg(long, value_name = "NAMES", default_value = "all", value_parser = verdicts)]
    pub(crate) verdicts: String,
    /// Of so many packets one, at random
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) every: NonZeroU32,
    /// End after so many packets
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) packets: u64,
    /// End after this time, at most 1h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    pub(crate) time: Duration,
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
}

/// What a capture is.
const CAPTURE_HELP: &str =
    "A sample is the first 256 bytes of a frame as it came in, whatever became \
of it; the packet's comment says that. Payload may be among them. It needs xdp.capture_memory.
Names of verdicts: waystation xdp status";

fn verdicts(text: &str) -> Result<String, String> {
    text.parse::<Verdicts>().map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn span(text: &str) -> Result<Duration, String> {
    let span = super::time(text)?;
    let is_meant = (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&span);
    is_meant.then_some(span).ok_or_else(|| "is not between 100ms and 1h".to_owned())
}

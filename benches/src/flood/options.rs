//! The command line of `dht-flood`.

use clap::{Args, Parser, Subcommand};
use std::net::{IpAddr, SocketAddr};

const ABOUT: &str = "Measures how long data waits in the relay while its DHT node is flooded";

const METHOD: &str = "\
METHOD
  Paced flows of 1 KiB go through one data core on a processor of its own, and their latency counts
  from when a message was due. Each round has three short windows: nothing else happens; a flood goes
  to a socket that somebody else empties (which is what the flood costs the machine, generator and
  management sharing the other processor with it); and the same flood goes to the node of the DHT.
  The flood is signed pings, 4096 that differ, from one address; from more, pings that all differ and
  whose signatures do not hold, in turn, each address of a network of its own without --xdp. As root
  generator and data core come first on their processors, and the generator sleeps until a message is
  due; so what it waits for is the relay, and neither the flood beside it nor what else the machine does.

  With --xdp, as root, everything is in a network namespace of its own, the flood comes over a veth
  from another one, and the program drops what is over xdp.stranger_rate. A flood from addresses
  that each stay below that rate passes the program: --stranger-rate and --sources say how much.

GOAL
  p99 beside the flood of the node, of p99 without any in the same round, in the median of all rounds:
  at most 1.5, and 1.1 with --xdp.

  Build both before:  cargo build --release -p waystation -p waystation-benches";

/// What to run.
#[derive(Clone, Debug, Parser)]
#[command(name = "dht-flood", version, about = ABOUT, after_long_help = METHOD)]
pub struct Options {
    #[command(subcommand)]
    pub role: Option<Role>,
    /// Rounds, each of a window of every kind.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Length of a window, in seconds.
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    pub seconds: f64,
    /// Datagrams of the flood, each second.
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub per_second: u32,
    /// Addresses that it comes from.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=200))]
    pub sources: u8,
    /// Messages of all flows together, each second.
    #[arg(long, value_name = "N", default_value_t = 4_000)]
    pub messages_per_second: u32,
    /// Behind the XDP program, as root.
    #[arg(long)]
    pub xdp: bool,
    /// What the program lets through of one source without a session, packets a second.
    #[arg(long, value_name = "N", default_value_t = 20_000, requires = "xdp")]
    pub stranger_rate: u32,
    /// Processor of the data core.
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    pub relay_cpu: usize,
    /// Processor of everything else: generator, management, flood.
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    pub generator_cpu: usize,
    /// End with 1 when the goal is missed.
    #[arg(long)]
    pub check: bool,
}

/// What the program does besides measuring.
#[derive(Clone, Debug, Subcommand)]
pub enum Role {
    /// Floods until its standard input ends; started by the measurement.
    #[command(hide = true)]
    Send(Sending),
}

/// One flood.
#[derive(Clone, Debug, Args)]
pub struct Sending {
    /// Where to.
    #[arg(long)]
    pub to: SocketAddr,
    /// Where from, in turn.
    #[arg(long, required = true, value_delimiter = ',')]
    pub from: Vec<IpAddr>,
    /// Datagrams each second.
    #[arg(long)]
    pub per_second: u32,
    /// Processor of the sender.
    #[arg(long)]
    pub cpu: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_read() {
        let read = |line: &str| Options::try_parse_from(line.split(' '));
        let options = read("dht-flood --rounds 7 --xdp --stranger-rate 1000 --check").unwrap();
        assert_eq!((options.rounds, options.stranger_rate), (7, 1_000));
        assert!(options.role.is_none() && options.check);
        let sending = "dht-flood send --to 192.0.2.1:4121 --from 192.0.2.7,192.0.2.8 \
                       --per-second 9 --cpu 1";
        let Some(Role::Send(sending)) = read(sending).unwrap().role else { panic!() };
        assert_eq!(sending.from.len(), 2);
        for wrong in ["dht-flood --stranger-rate 5", "dht-flood --sources 0", "dht-flood send"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

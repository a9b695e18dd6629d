//! The command line, as clap reads it.

mod support;

pub(crate) use support::{BundleArguments, CaptureArguments, ExplainArguments, LogCommand};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_engine::statistics::Stage;
use waystation_management::config::{UdpEnd, parse_public_key};
use waystation_management::limits::{TOP_INTERVAL_MAX, TOP_INTERVAL_MIN};
use waystation_management::units::{ByteSize, format_duration};
use waystation_relay::ids::{LegTag, LinkTag, UdpSessionTag};

/// A relay for Astral links: strangers who cannot reach each other meet here.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start an appliance and client nodes in one process over loopback, move data, verify it
    Demo(DemoArguments),
    /// Run the appliance
    Run(RunArguments),
    /// Run the appliance instead of the one that runs: takes over what that one listens with and
    /// relays over UDP, and leaves it its links
    Upgrade(UpgradeArguments),
    /// Print this node's identity and node-info string
    Identity(IdentityArguments),
    /// What the running appliance is and does
    Status(StatusArguments),
    /// Its links
    #[command(args_conflicts_with_subcommands = true)]
    Links(LinksArguments),
    /// Its sessions and pipes
    #[command(args_conflicts_with_subcommands = true)]
    Sessions(SessionsArguments),
    /// Links that it is to make
    #[command(subcommand)]
    Link(LinkCommand),
    /// What it relays over UDP
    #[command(subcommand)]
    Udp(UdpCommand),
    /// Its node of the A2AL DHT
    #[command(subcommand)]
    Dht(DhtCommand),
    /// The program that relays UDP before the kernel's network stack
    #[command(subcommand)]
    Xdp(XdpCommand),
    /// Its A2AL signalling hub
    Hub(StatusOfHubArguments),
    /// Have it take in nobody new and end when nothing is left, or at a deadline; waits for that
    Drain(DrainArguments),
    /// Whom it knows, and what they have used
    Peers(ListingArguments),
    /// What has happened to it lately, one JSON object on each line
    Events(EventsArguments),
    /// What it does, live in the terminal
    Top(TopArguments),
    /// What it did not forward, by reason
    Drops(DropsArguments),
    /// Its latency histograms
    Hist(HistArguments),
    /// What it logs
    #[command(subcommand)]
    Log(LogCommand),
    /// Packets that the XDP program has looked at, with what became of each, into a file
    Capture(CaptureArguments),
    /// What would become of a packet, and why
    ExplainPacket(ExplainArguments),
    /// One file with what somebody who helps would ask for: checks, configuration, statistics, log
    Bundle(BundleArguments),
    /// What this machine charges for moving and sealing bytes
    Floor(FloorArguments),
    /// Configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// What keeps this machine from being a good relay; the exit code is 1 if a check failed
    Doctor(DoctorArguments),
    /// The machine and its NICs, set for relaying
    #[command(subcommand)]
    Tune(TuneCommand),
    /// Write what a package holds besides the program: man pages, completions, the documented
    /// configuration, a dashboard and alert rules
    Generate(GenerateArguments),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArguments {
    /// How long to move data, over all scenarios
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Client nodes; every two of them talk to each other
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(2..=200))]
    pub(crate) nodes: u16,
    /// What to do
    #[arg(long, value_enum, default_value_t = DemoScenario::All)]
    pub(crate) scenario: DemoScenario,
    /// Data cores; more than CPUs work too
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) cores: u16,
    /// How the data cores talk to the kernel; absent: io_uring where it works
    #[arg(long, value_enum)]
    pub(crate) port: Option<DemoPort>,
    /// One JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the demo's nodes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoScenario {
    /// Sessions through the links to the appliance
    Route,
    /// Raw pipes through its socket port
    Connect,
    /// Bulk and short queries on both at once
    Mixed,
    /// All of these in turn
    All,
    /// Datagrams through the TURN server and through an opaque session
    Udp,
    /// The same between network namespaces, relayed by the XDP program; needs root
    Xdp,
}

/// A port by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoPort {
    #[value(name = "io_uring")]
    IoUring,
    Epoll,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    /// Configuration; absent: defaults
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the key is kept; absent: the system's or the user's state directory
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Address for links and gateway sockets instead of the configured ones; may be repeated
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Vec<SocketAddr>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct UpgradeArguments {
    #[command(flatten)]
    pub(crate) run: RunArguments,
    /// How long the program that runs goes on with its links; at most 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
    pub(crate) drain_deadline: Duration,
    /// Return when the new program serves, and leave it running
    #[arg(long)]
    pub(crate) background: bool,
    /// Says so on standard output when it serves
    #[arg(long, hide = true, conflicts_with = "background")]
    pub(crate) say_when_ready: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct IdentityArguments {
    /// Where the key is kept
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FloorArguments {
    /// Where it is kept
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Configuration that names the cipher; absent: defaults
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Measure anew; a running appliance uses it from its next start on
    #[arg(long)]
    pub(crate) refresh: bool,
    /// The document as it is
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SocketArgument {
    /// The stats socket; absent: where `run` makes it
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
    /// The document as it is
    #[arg(long)]
    pub(crate) json: bool,
    /// Wait until the appliance is ready, at most so long
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ListingArguments {
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
    /// The document as it is
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LinksArguments {
    #[command(flatten)]
    pub(crate) listing: ListingArguments,
    #[command(subcommand)]
    pub(crate) command: Option<LinksCommand>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LinksCommand {
    /// Move a link to another core, with everything on it
    Move {
        /// The link, as the listing shows it
        #[arg(value_name = "ID")]
        id: LinkTag,
        /// The core's number, as the status shows it
        #[arg(value_name = "CORE")]
        core: u16,
        #[command(flatten)]
        socket: SocketArgument,
    },
    /// Close a link and every session on it
    Close {
        /// The link, as the listing shows it
        #[arg(value_name = "ID")]
        id: LinkTag,
        #[command(flatten)]
        socket: SocketArgument,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SessionsArguments {
    #[command(flatten)]
    pub(crate) listing: ListingArguments,
    #[command(subcommand)]
    pub(crate) command: Option<SessionsCommand>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// Close a session, and the one it is joined to
    Close {
        /// The leg, as the listing shows it
        #[arg(value_name = "ID")]
        id: LegTag,
        #[command(flatten)]
        socket: SocketArgument,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LinkCommand {
    /// Dial a node, and wait for the link or for why there is none
    Dial {
        /// Where: tcp:ADDRESS:PORT, tor:NAME.onion:PORT or gw:GATEWAY:TARGET
        #[arg(value_name = "NETWORK:ADDRESS")]
        endpoint: Endpoint,
        /// Who is to answer there: 66 hex digits
        #[arg(value_name = "IDENTITY")]
        identity: Identity,
        #[command(flatten)]
        socket: SocketArgument,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum UdpCommand {
    /// Opaque sessions, and allocations of the TURN server
    List(ListingArguments),
    /// Open an opaque session: what comes from one end goes to the other, both ways
    Open(Box<UdpOpenArguments>),
    /// Close an opaque session
    Close {
        /// The session, as the listing shows it
        #[arg(value_name = "ID")]
        id: UdpSessionTag,
        /// The answer as it is
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArgument,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DhtCommand {
    /// What the node is, knows and does
    Status(ListingArguments),
    /// Nodes that it knows
    Peers(ListingArguments),
    /// Records that it keeps
    Records(ListingArguments),
    /// How an address is reached, asked of the network
    Lookup {
        /// An address in any of its forms
        #[arg(value_name = "ADDRESS")]
        address: String,
        #[command(flatten)]
        listing: ListingArguments,
    },
    /// All records of a type under a key, asked of the network
    Get {
        #[command(flatten)]
        place: DhtPlace,
        #[command(flatten)]
        listing: ListingArguments,
    },
    /// Publish something under a topic until the program ends; without a topic, everything of its own
    /// anew
    Publish(DhtPublishArguments),
    /// Stop publishing something; the network forgets it within an hour
    Withdraw {
        #[command(flatten)]
        place: DhtPlace,
        #[command(flatten)]
        socket: SocketArgument,
    },
}

/// Where records stand.
#[derive(Clone, Debug, Args)]
#[group(id = "dht_place")]
pub(crate) struct DhtPlace {
    /// The key: 64 hex digits
    #[arg(value_name = "KEY", required_unless_present = "topic", conflicts_with = "topic")]
    pub(crate) key: Option<String>,
    /// The key of this topic
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// The type of the records; absent: 16 for a topic, otherwise any
    #[arg(long = "type", value_name = "NUMBER")]
    pub(crate) record_type: Option<u8>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DhtPublishArguments {
    /// To be found under this topic
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// What the offer is called
    #[arg(long, value_name = "TEXT", requires = "topic", default_value = "")]
    pub(crate) name: String,
    /// A sentence about it, of up to 140 characters
    #[arg(long, value_name = "TEXT", requires = "topic", default_value = "")]
    pub(crate) brief: String,
    /// A protocol that it speaks; may be repeated
    #[arg(long, value_name = "NAME", requires = "topic")]
    pub(crate) protocol: Vec<String>,
    /// A tag; may be repeated
    #[arg(long, value_name = "TAG", requires = "topic")]
    pub(crate) tag: Vec<String>,
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StatusOfHubArguments {
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
    /// The answer as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = UDP_OPEN_HELP)]
pub(crate) struct UdpOpenArguments {
    /// Where end A is: ADDRESS:PORT, learn, or learn:ADDRESS:PORT
    #[arg(value_name = "A")]
    pub(crate) a: UdpEnd,
    /// Where end B is
    #[arg(value_name = "B")]
    pub(crate) b: UdpEnd,
    /// Let WireGuard pass and nothing else
    #[arg(long)]
    pub(crate) wireguard: bool,
    /// The public key of end A, whose handshakes alone pass to it then
    #[arg(long, value_name = "KEY", value_parser = public_key, requires = "wireguard")]
    pub(crate) key_a: Option<String>,
    /// The public key of end B
    #[arg(long, value_name = "KEY", value_parser = public_key, requires = "wireguard")]
    pub(crate) key_b: Option<String>,
    /// The port of this machine that end A sends to; absent: a free one
    #[arg(long, value_name = "PORT")]
    pub(crate) port_a: Option<NonZeroU16>,
    /// The port that end B sends to; absent: a free one
    #[arg(long, value_name = "PORT")]
    pub(crate) port_b: Option<NonZeroU16>,
    /// Payload that may pass in each direction each second, such as 10MiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) rate: Option<ByteSize>,
    /// Datagrams that may pass in each direction each second
    #[arg(long, value_name = "NUMBER")]
    pub(crate) packets: Option<NonZeroU32>,
    /// How long nothing may pass before the session ends, from 1m to 7d; absent: udp.idle
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) idle: Option<Duration>,
    /// The answer as it is
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
}

/// What `udp open` makes of ends.
const UDP_OPEN_HELP: &str = "An end with an address is heard from there and nowhere else.
One that is learned proves a token, which is printed once, or shakes hands with --wireguard.
Until then learn:ADDRESS:PORT is sent to that address. Sessions opened so end with the program;
a [[udp.session]] of the configuration is there again after a restart.";

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum XdpCommand {
    /// Where it is, what it relays, and what it decided how often
    Status(ListingArguments),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DrainArguments {
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
    /// When it ends whatever is left; at most 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
    pub(crate) deadline: Duration,
    /// End with so many links, raw sockets and allocations left
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) until_links: u64,
    /// Do not wait for the end
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EventsArguments {
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
    /// Only events behind this number
    #[arg(long, value_name = "SEQUENCE")]
    pub(crate) after: Option<u64>,
    /// Go on with events as they happen
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DropsArguments {
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
    /// The document as it is
    #[arg(long)]
    pub(crate) json: bool,
    /// Also reasons that never occurred
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = TOP_HELP)]
pub(crate) struct TopArguments {
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
    /// The time between two looks, from 100ms to 1h
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// Print one frame, with rates over one interval, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// What most of the frame is about; for p99 and drops cores unless given, otherwise links
    #[arg(long, value_enum)]
    pub(crate) view: Option<TopViewName>,
    /// What rows are in order of
    #[arg(long, value_enum, default_value_t = TopSortName::Mbps)]
    pub(crate) sort: TopSortName,
}

/// Keys of `top`.
const TOP_HELP: &str =
    "Keys: l links, p sessions and pipes, c cores, d drops, s next order, space stops and goes on,
r asks now, h help, q or Ctrl-C quits.";

/// A view by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopViewName {
    Links,
    /// Sessions, and ends of raw pipes
    Pipes,
    Cores,
    Drops,
}

/// An order by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopSortName {
    /// Bytes per second, both ways
    Mbps,
    /// Frames per second, both ways
    Messages,
    /// Bytes that wait
    Queue,
    /// Round trip of pings, of links
    Ping,
    /// The 99th percentile of residence, of cores
    P99,
    /// Drops per second, of cores and reasons
    Drops,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct HistArguments {
    #[command(flatten)]
    pub(crate) socket: SocketArgument,
    /// Only this stage: handshake, reap_to_open, open_to_seal, seal_to_sent, residence or turn
    #[arg(long, value_name = "STAGE", value_parser = stage)]
    pub(crate) stage: Option<Stage>,
    /// The HdrHistogram V2 interval log instead of tables
    #[arg(long, conflicts_with = "json")]
    pub(crate) log: bool,
    /// The document as it is
    #[arg(long)]
    pub(crate) json: bool,
    /// Print again every second, each time the last interval
    #[arg(long)]
    pub(crate) follow: bool,
    /// Set two interval logs side by side instead of asking anybody
    #[arg(long, num_args = 2, value_names = ["A.hlog", "B.hlog"])]
    #[arg(conflicts_with_all = ["log", "json", "follow", "socket"])]
    pub(crate) compare: Vec<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArguments {
    /// The document as it is
    #[arg(long)]
    pub(crate) json: bool,
    /// Configuration that the machine is to be good for; absent: defaults
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where hardware profiles of one's own are
    #[arg(long, value_name = "DIR", default_value = waystation_tuning::catalog::OWN_PROFILES)]
    pub(crate) profiles: PathBuf,
}

/// What is to be done about the machine.
#[derive(Debug, Subcommand)]
pub(crate) enum TuneCommand {
    /// Show what would be set, from what to what, why, and who says so
    Plan(TuneArguments),
    /// Set it; what was before is kept in the undo file
    Apply(TuneArguments),
    /// Say what is not as planned; the exit code is 1 if anything is not
    Verify(TuneArguments),
    /// Take back what was set since the machine started
    Undo(TuneArguments),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TuneArguments {
    /// Only this interface; absent: all that have a device and are up, and the machine itself
    #[arg(long, value_name = "NAME", conflicts_with = "machine_only")]
    pub(crate) nic: Option<String>,
    /// Only the machine itself, and no interface
    #[arg(long)]
    pub(crate) machine_only: bool,
    /// The document as it is
    #[arg(long)]
    pub(crate) json: bool,
    /// Also what nobody has looked at on such a device
    #[arg(long)]
    pub(crate) include_unverified: bool,
    /// Also the interface that carries the operator's own connection
    #[arg(long)]
    pub(crate) even_if_remote: bool,
    /// Configuration whose cores the plan is for; absent: defaults
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where hardware profiles of one's own are
    #[arg(long, value_name = "DIR", default_value = waystation_tuning::catalog::OWN_PROFILES)]
    pub(crate) profiles: PathBuf,
    /// What was before; absent: /var/lib/waystation-tuning/tuning.undo
    #[arg(long, value_name = "FILE")]
    pub(crate) undo_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GenerateArguments {
    /// Where to; files of these names there are replaced
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every key with its meaning, unit, range and default
    Default,
    /// Check a file and say what is wrong with it
    Check {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

fn time(text: &str) -> Result<Duration, String> {
    waystation_management::units::parse_duration(text).map_err(|error| error.to_string())
}

/// A public key, left as it is written.
fn public_key(text: &str) -> Result<String, String> {
    let is_key = parse_public_key(text).is_some();
    let wanted = || "is not the 44 characters that `wg pubkey` prints".to_owned();
    is_key.then(|| text.to_owned()).ok_or_else(wanted)
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = time(text)?;
    if !(TOP_INTERVAL_MIN..=TOP_INTERVAL_MAX).contains(&interval) {
        let (least, most) = (format_duration(TOP_INTERVAL_MIN), format_duration(TOP_INTERVAL_MAX));
        return Err(format!("is not between {least} and {most}"));
    }
    Ok(interval)
}

fn stage(text: &str) -> Result<Stage, String> {
    let known = Stage::ALL.iter().find(|stage| stage.name() == text).copied();
    known.ok_or_else(|| {
        let names = Stage::ALL.map(Stage::name).join(", ");
        format!("there is no stage {text}; there are {names}")
    })
}

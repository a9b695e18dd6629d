//! What can be wrong with a configuration file: always the file, the line, the key and the remedy.

use crate::limits::{CONFIG_BYTES_MAX, LISTEN_ADDRESSES_MAX, LOG_FILTER_BYTES_MAX, PEERS_MAX};
use crate::units::UnitError;
use std::fmt;
use std::net::SocketAddr;

/// Everything that is wrong with one file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The name of the file as it was given.
    pub file: String,
    /// At least one, at most [`CONFIG_PROBLEMS_MAX`](crate::limits::CONFIG_PROBLEMS_MAX).
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    /// One line per problem: `waystation.toml:12: engine.receive_buffers: 33 is not …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{}: ", self.file, problem.line)?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            write!(f, "{}", problem.complaint)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1.
    pub line: usize,
    /// `section.key` as far as it is known; empty if the file as a whole does not parse.
    pub key: String,
    pub complaint: Complaint,
}

/// What is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Complaint {
    /// The file is larger than any configuration.
    #[error(
        "the file has {bytes} bytes, more than the {CONFIG_BYTES_MAX} a configuration may have"
    )]
    FileTooLarge { bytes: usize },
    /// Not TOML.
    #[error("not valid TOML: {message}")]
    Syntax { message: String },
    /// A section that does not exist.
    #[error("unknown section{}; the sections are {sections}", did_you_mean(.nearest))]
    UnknownSection { nearest: Option<String>, sections: String },
    /// A key that does not exist.
    #[error("unknown key{}; `waystation config default` prints all keys", did_you_mean(.nearest))]
    UnknownKey { nearest: Option<String> },
    /// A key where a section belongs.
    #[error("is a section; write [{section}] and its keys on lines of their own")]
    NotASection { section: String },
    /// A value of another type.
    #[error("{found} is not {wanted}")]
    WrongType { wanted: &'static str, found: String },
    /// A number beyond the range.
    #[error("{value} is not between {min} and {max}")]
    OutOfRange { value: String, min: String, max: String },
    /// A number that has to be a power of two.
    #[error("{value} is not a power of two between {min} and {max}")]
    NotPowerOfTwo { value: String, min: String, max: String },
    /// A bare number for a quantity with a unit.
    #[error("{value} has no unit; write it as text with one, for example \"{example}\"")]
    NoUnit { value: String, example: &'static str },
    /// A text that is no quantity.
    #[error("\"{value}\" {error}")]
    Quantity { value: String, error: UnitError },
    /// A text that is too short or too long.
    #[error("has {bytes} bytes, not between {min} and {max}")]
    TextLength { bytes: usize, min: usize, max: usize },
    /// A text with something unprintable.
    #[error("contains a control character; use printable text")]
    ControlCharacter,
    /// A word that is none of the choices.
    #[error("\"{value}\" is none of {choices}{}", did_you_mean(.nearest))]
    NotOneOf { value: String, choices: String, nearest: Option<String> },
    /// A back end for the cipher that the program was built without.
    #[error(
        "\"{value}\" is not built into this program; build it with --features aead-{value}, or use \
         \"auto\""
    )]
    NotBuiltIn { value: &'static str },
    /// No address with a port.
    #[error("\"{value}\" is not ADDRESS:PORT, for example \"192.0.2.1:1791\" or \"[::]:1791\"")]
    NotAnAddress { value: String },
    /// A text that names no interface.
    #[error("\"{value}\" is no name of an interface; `ip link` shows them, for example \"eth0\"")]
    NotAnInterface { value: String },
    /// An empty list that must not be empty.
    #[error("is an empty list; name at least one")]
    NoEntries,
    /// A list that is too long.
    #[error("has {entries} entries, more than {max}")]
    TooManyEntries { entries: usize, max: usize },
    /// An entry that is there twice.
    #[error("{value} is there twice; name each once")]
    DuplicateEntry { value: String },
    /// More addresses to listen on than there is room for.
    #[error("has {entries} addresses, more than {LISTEN_ADDRESSES_MAX}")]
    TooManyAddresses { entries: usize },
    /// A path that depends on the working directory.
    #[error("\"{value}\" is not an absolute path; start it with /")]
    NotAbsolute { value: String },
    /// A path the kernel cannot bind.
    #[error("the path has {bytes} bytes, more than {max}")]
    PathTooLong { bytes: usize, max: usize },
    /// An address nobody can dial.
    #[error(
        "nobody can dial {address}; name the address and the port that nodes reach this box at"
    )]
    NotDialable { address: SocketAddr },
    /// An address at which no proxy can be.
    #[error("nobody can dial {address}; name the address and the port of the proxy")]
    NotAProxy { address: SocketAddr },
    /// A text that names no node.
    #[error("\"{value}\" is no identity ({error}); use 66 hex digits or a node1… text")]
    NotAnIdentity { value: String, error: String },
    /// A text that is no endpoint.
    #[error(
        "\"{value}\" is no endpoint ({error}); use tcp:ADDRESS:PORT, tor:NAME.onion:PORT or \
         gw:GATEWAY:TARGET"
    )]
    NotAnEndpoint { value: String, error: String },
    /// An endpoint over something that this program does not speak.
    #[error("nothing is dialed over {network} here; use a tcp, tor or gw endpoint")]
    NetworkNotDialed { network: &'static str },
    /// An onion service without a way to it.
    #[error("names a tor endpoint, but dial.tor_proxy is empty; set it, or take the endpoint out")]
    TorWithoutProxy,
    /// An endpoint that leads to somebody else.
    #[error("the endpoint {endpoint} leads to another node; its target has to be peer.identity")]
    EndpointOfAnother { endpoint: String },
    /// An endpoint through this node itself.
    #[error("the endpoint {endpoint} goes through this node itself; name another gateway")]
    GatewayIsSelf { endpoint: String },
    /// A peer without a name.
    #[error("is missing; every [[peer]] has one")]
    PeerWithoutIdentity,
    /// This node as its own peer.
    #[error("is this node itself; take this [[peer]] out")]
    PeerIsSelf,
    /// Two tables about one peer.
    #[error("{identity} has a [[peer]] on line {line} already; put both into one")]
    DuplicatePeer { identity: String, line: usize },
    /// A single table where there may be several.
    #[error("write each peer under a line [[peer]] of its own")]
    NotAPeerList,
    /// More peers than there is room for.
    #[error("there are {peers} peers, more than {PEERS_MAX}")]
    TooManyPeers { peers: usize },
    /// A peer that is to be linked and kept out.
    #[error(
        "{identity} is a [[peer]], but access keeps it out; change access.identities or the peer"
    )]
    PeerKeptOut { identity: String },
    /// A list that keeps everybody out.
    #[error(
        "is empty, so access.mode \"allowlist\" admits nobody; name identities, or change the mode"
    )]
    NobodyAdmitted,
    /// A list without a meaning.
    #[error(
        "is not used with access.mode \"everyone\"; set the mode to \"allowlist\" or \"denylist\", \
         or empty the list"
    )]
    ListWithoutMode,
    /// A list with something else than an IP address in it.
    #[error("\"{value}\" is not an IP address")]
    NotAnIpAddress { value: String },
    /// A text that is no block of addresses.
    #[error("\"{value}\" is not ADDRESS/BITS with the block's first address, as \"10.0.0.0/8\"")]
    NotABlock { value: String },
    /// A range of ports that is empty.
    #[error("is {min}, above turn.port_max ({max})")]
    PortsReversed { min: usize, max: usize },
    /// A lifetime that nobody could get.
    #[error("is longer than turn.lifetime_max")]
    LifetimeReversed,
    /// A TURN server without users.
    #[error("is empty, and so is turn.secrets_file; name one, or nobody can use the TURN server")]
    TurnForNobody,
    /// A listening socket in the way of relayed addresses.
    #[error(
        "{listen} is among the ports that clients are given there; choose a port outside of \
         turn.port_min to turn.port_max"
    )]
    ListensAmongRelayed { listen: SocketAddr },
    /// Relayed addresses that clients cannot be given.
    #[error(
        "name the addresses of this machine to relay from, at most one of IPv4 and one of IPv6; \
         they cannot be told from turn.listen"
    )]
    RelayAddresses,
    /// Addresses that do not go together.
    #[error("name one address for each of turn.relay_addresses, of the same family, in that order")]
    ExternalAddresses,
    /// A text that says of no end where it is.
    #[error("\"{value}\" is not ADDRESS:PORT, learn, or learn:ADDRESS:PORT")]
    NotAUdpEnd { value: String },
    /// No key of WireGuard.
    #[error("is no public key; write the 44 characters that `wg pubkey` prints")]
    NotAPublicKey,
    /// A range of ports that is empty.
    #[error("is {min}, above udp.port_max ({max})")]
    UdpPortsReversed { min: usize, max: usize },
    /// Ports that belong to others.
    #[error(
        "the ports from udp.port_min to udp.port_max are also TURN's, on the same address; choose \
         another range, or other addresses"
    )]
    UdpPortsAreTurns,
    /// Addresses that ports cannot be told by.
    #[error("name at most one address of IPv4 and one of IPv6")]
    UdpAddresses,
    /// Something else than tables.
    #[error("write each session under a line [[udp.session]] of its own")]
    NotASessionList,
    /// More sessions than there is room for.
    #[error("there are {sessions} sessions, more than {max}")]
    TooManyUdpSessions { sessions: usize, max: usize },
    /// A session without an address to be on.
    #[error("udp.addresses is empty, so there are no sessions; name an address, or take it out")]
    UdpSessionNowhere,
    /// A session without a name.
    #[error("is missing; every [[udp.session]] has one")]
    UdpSessionWithoutName,
    /// Two sessions of one name.
    #[error("\"{name}\" is the name of the session on line {line} already")]
    DuplicateUdpSession { name: String, line: usize },
    /// A port that is none of the sessions'.
    #[error("is {port}, not between udp.port_min ({min}) and udp.port_max ({max})")]
    UdpPortOutOfRange { port: usize, min: usize, max: usize },
    /// A port with another leg.
    #[error("{port} is the port of another leg already; give each leg its own")]
    UdpPortTaken { port: usize },
    /// An end that nothing could show to be the right one.
    #[error(
        "only WireGuard shows where an end is; name both ends, set protocol to \"wireguard\", or \
         open the session by command, which prints a token for the end"
    )]
    UdpEndUnknown,
    /// Two ends that belong to whoever comes first.
    #[error("neither end is known, so both public keys are needed: public_key_a and public_key_b")]
    UdpEndsProveNothing,
    /// An end that nobody can be at, or is sent to.
    #[error("{address}: {why}; see udp.allow_peers")]
    UdpEndDenied { address: SocketAddr, why: String },
    /// An end that no socket can send to.
    #[error("{address} is of a family that udp.addresses has no address of")]
    UdpEndOfNoFamily { address: SocketAddr },
    /// A node of the DHT without a socket.
    #[error("is empty; name an address for the DHT, for example \"0.0.0.0:4121\"")]
    DhtWithoutAddress,
    /// An address at which no node can be.
    #[error("nobody can be asked at {address}; name the address and the port of a node of the DHT")]
    NotADhtNode { address: SocketAddr },
    /// An address for two things.
    #[error("{address} is in turn.listen already; the DHT needs a port of its own")]
    AddressOfTurn { address: SocketAddr },
    /// Pauses that shrink.
    #[error("{min} is longer than dial.backoff_max ({max})")]
    BackoffReversed { min: String, max: String },
    /// A log filter that is not understood.
    #[error(
        "\"{directive}\" is neither a level (off, error, warn, info, debug, trace) nor target=level"
    )]
    NotALogFilter { directive: String },
    /// A log filter that is too long.
    #[error("has {bytes} bytes, more than {LOG_FILTER_BYTES_MAX}")]
    LogFilterTooLong { bytes: usize },
    /// Two keys that say different things about the number of cores.
    #[error("is {cores}, but engine.cpus lists {cpus}; leave engine.cores at 0")]
    CoresContradictCpus { cores: usize, cpus: usize },
    /// A CPU that is to do both.
    #[error("CPU {cpu} is in engine.cpus already; give the management core one of its own")]
    CpuTaken { cpu: usize },
    /// Metrics for everybody.
    #[error(
        "{address} is not a loopback address; use 127.0.0.1 or [::1], or set \
         management.metrics_anywhere = true to show metrics to whoever can connect"
    )]
    MetricsExposed { address: SocketAddr },
    /// An idle connection would die before it is asked.
    #[error("{dead_after} is not longer than gateway.idle_ping_interval ({ping_interval})")]
    DeadBeforePing { dead_after: String, ping_interval: String },
    /// One session could fill the whole queue of a core.
    #[error("{window} is more than engine.queue_memory ({queue_memory}), which all sessions share")]
    WindowBeyondQueue { window: String, queue_memory: String },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

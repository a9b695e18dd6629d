//! The configuration: one typed value, read from TOML, immutable afterwards.
//!
//! Read once at start-up by the program and by `config check`. What keys there are, what they mean
//! and which values they take stands in one table ([`keys`]), which validates and documents alike.
//! Nothing here opens a file or a socket.

mod announcement;
mod changes;
mod default_text;
mod dht;
mod dht_keys;
mod hub;
mod hub_keys;
pub mod keys;
mod manual_page;
mod nodes;
mod peer;
mod privileges_keys;
mod problem;
mod reader;
mod rule;
mod sections;
mod shown;
mod snapshot;
mod turn;
mod udp;
mod udp_keys;
mod xdp;
mod xdp_keys;

pub use announcement::node_info;
pub use changes::{Reloaded, reloaded, room};
pub use default_text::documented_default;
pub use dht::DhtConfig;
pub use hub::HubConfig;
pub use manual_page::manual_page;
pub use peer::{PEER_KEYS, PeerConfig};
pub use problem::{Complaint, ConfigError, Problem};
pub use reader::{parse, parse_as};
pub use shown::shown;
pub use snapshot::core_snapshot;
pub use turn::{TurnConfig, TurnFound, turn_settings};
pub use udp::{
    UDP_SESSION_KEYS, UdpConfig, UdpEnd, UdpProtocol, UdpSessionConfig, opaque_settings,
    parse_public_key, rate_limit,
};
pub use xdp::{XdpConfig, XdpMode};

use crate::dialing;
use crate::gateway;
use crate::limits::{ACCOUNTS_KEPT_DEFAULT, NETWORK_LINKS_MAX};
use crate::units::{ByteSize, format_duration, serialize_duration};
use serde::Serialize;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use waystation_astral::aead::AeadBackend;
use waystation_astral::identity::Identity;
use waystation_relay::access::Access;

/// The least and the most of `rate` and `burst`. A burst holds the payload of one data frame, so
/// that every frame passes at some time; at the least rate that takes four seconds.
pub(crate) const RATE_MIN: ByteSize = ByteSize::from_kib(16);
pub(crate) const RATE_MAX: ByteSize = ByteSize::from_gib(64);
pub(crate) const BURST_MIN: ByteSize = ByteSize::from_kib(64);
pub(crate) const BURST_MAX: ByteSize = ByteSize::from_gib(4);

/// Everything an operator can set. The fields of a section are named like its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Config {
    pub node: NodeConfig,
    pub listen: ListenConfig,
    pub engine: EngineConfig,
    pub relay: RelayConfig,
    pub gateway: GatewayConfig,
    pub access: AccessConfig,
    pub limits: LimitsConfig,
    pub dial: DialConfig,
    pub turn: TurnConfig,
    pub udp: UdpConfig,
    pub privileges: PrivilegesConfig,
    pub dht: DhtConfig,
    pub xdp: XdpConfig,
    pub hub: HubConfig,
    pub management: ManagementConfig,
    /// `[[peer]]`, each identity once, in the order of the file.
    #[serde(rename = "peer")]
    pub peers: Vec<PeerConfig>,
}

impl Config {
    /// Where the signalling hub listens: where it is told to, or else where the node of the DHT does,
    /// as agents look for a hub there.
    pub fn hub_addresses(&self) -> &[SocketAddr] {
        match (self.hub.enabled, self.hub.listen.is_empty()) {
            (false, _) => &[],
            (true, false) => &self.hub.listen,
            (true, true) if self.dht.enabled => &self.dht.listen,
            (true, true) => &[],
        }
    }

    /// What is said about a peer, if anything.
    pub fn peer(&self, identity: &Identity) -> Option<&PeerConfig> {
        self.peers.iter().find(|peer| peer.identity == *identity)
    }

    /// Who may link to this node, in the form data cores take.
    pub fn access(&self) -> Access {
        let identities = self.access.identities.iter().copied().collect();
        match self.access.mode {
            AccessMode::Everyone => Access::Everyone,
            AccessMode::Allowlist => Access::Allowlist(identities),
            AccessMode::Denylist => Access::Denylist(identities),
        }
    }
}

/// `[node]`: how this node presents itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeConfig {
    pub alias: String,
    /// Whether peers are told the address they are seen at.
    pub reflect_endpoints: bool,
}

/// `[listen]`: where connections come in; links and gateway sockets share the port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenConfig {
    pub addresses: Vec<SocketAddr>,
}

/// `[engine]`: the data cores and their memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EngineConfig {
    /// 0: one per physical core but the first.
    pub cores: usize,
    /// Empty: chosen by the program.
    pub cpus: Vec<usize>,
    pub port: PortChoice,
    pub placement: PlacementChoice,
    /// Absent: the cheapest.
    #[serde(serialize_with = "serialize_aead")]
    pub aead: Option<AeadBackend>,
    pub calibrate: bool,
    pub receive_buffers: usize,
    pub receive_buffer_size: ByteSize,
    pub block_memory: ByteSize,
    pub queue_memory: ByteSize,
    pub links_max: usize,
    pub half_open_max: usize,
    pub sockets_max: usize,
}

/// `[relay]`: sessions and links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RelayConfig {
    pub session_window: ByteSize,
    pub sessions_per_link_max: usize,
    pub sessions_max: usize,
    #[serde(serialize_with = "serialize_duration")]
    pub handshake_timeout: Duration,
    #[serde(serialize_with = "serialize_duration")]
    pub query_timeout: Duration,
    #[serde(serialize_with = "serialize_duration")]
    pub ping_interval: Duration,
    #[serde(serialize_with = "serialize_duration")]
    pub ping_timeout: Duration,
    #[serde(serialize_with = "serialize_duration")]
    pub send_stall_timeout: Duration,
}

/// `[gateway]`: registrations, idle connections and raw pipes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GatewayConfig {
    pub enabled: bool,
    /// Where nodes are told to dial for sockets; absent: the address of their own link.
    #[serde(serialize_with = "serialize_announce")]
    pub announce: Option<SocketAddr>,
    pub registrations_max: usize,
    pub idle_per_registration_max: usize,
    #[serde(serialize_with = "serialize_duration")]
    pub reservation_timeout: Duration,
    #[serde(serialize_with = "serialize_duration")]
    pub idle_ping_interval: Duration,
    #[serde(serialize_with = "serialize_duration")]
    pub idle_dead_after: Duration,
    #[serde(serialize_with = "serialize_duration")]
    pub pipe_idle_timeout: Duration,
}

/// `[access]`: who may link to this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccessConfig {
    pub mode: AccessMode,
    #[serde(serialize_with = "serialize_identities")]
    pub identities: Vec<Identity>,
}

/// Whom `access.identities` lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessMode {
    /// Nobody in particular; every identity may link.
    #[default]
    Everyone,
    /// Those who may link.
    Allowlist,
    /// Those who may not.
    Denylist,
}

/// `[limits]`: what one identity may use, and how many links there may be of each network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitsConfig {
    pub links_per_identity_max: usize,
    pub links_per_identity_and_network_max: usize,
    pub sessions_per_identity_max: usize,
    /// 0 or 1: an identity has one registration, or may not register.
    pub registrations_per_identity_max: usize,
    pub rate: Rate,
    pub burst: ByteSize,
    /// Links over all cores.
    pub tcp_links_max: usize,
    pub tor_links_max: usize,
    pub gw_links_max: usize,
    /// Absent: links may be idle for as long as they like.
    #[serde(serialize_with = "serialize_duration_or_none")]
    pub link_idle_timeout: Option<Duration>,
    /// Accounts of identities without a link.
    pub accounts_kept_max: usize,
}

/// How fast something may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rate {
    /// As fast as it can.
    #[default]
    Unbounded,
    /// So many bytes per second.
    PerSecond(ByteSize),
}

impl Rate {
    /// Bytes per second, if bounded.
    pub fn bytes_per_s(self) -> Option<u64> {
        match self {
            Self::Unbounded => None,
            Self::PerSecond(bytes) => Some(bytes.as_u64()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbounded => f.write_str(rule::NONE),
            Self::PerSecond(bytes) => bytes.fmt(f),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `[dial]`: links that this node makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DialConfig {
    /// A SOCKS5 proxy of Tor; absent: no tor endpoint can be dialed.
    #[serde(serialize_with = "serialize_announce")]
    pub tor_proxy: Option<SocketAddr>,
    /// Dials under way at a time.
    pub dials_max: usize,
    #[serde(serialize_with = "serialize_duration")]
    pub connect_timeout: Duration,
    #[serde(serialize_with = "serialize_duration")]
    pub backoff_min: Duration,
    #[serde(serialize_with = "serialize_duration")]
    pub backoff_max: Duration,
}

/// `[privileges]`: what the program keeps once everything is loaded and bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrivilegesConfig {
    /// Whom root becomes; empty: nobody else.
    pub user: String,
    /// Empty: the user's own.
    pub group: String,
    pub drop_capabilities: bool,
    pub restrict_files: bool,
    pub core_dumps: bool,
}

/// `[management]`: the management core, the stats socket, metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ManagementConfig {
    /// Absent: not pinned to a CPU of the operator's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<usize>,
    /// Absent: chosen by the program.
    #[serde(serialize_with = "serialize_path")]
    pub socket: Option<PathBuf>,
    #[serde(serialize_with = "serialize_announce")]
    pub metrics_listen: Option<SocketAddr>,
    pub metrics_anywhere: bool,
    /// A level, or levels per target, as `tracing` filters take them.
    pub log: String,
    pub log_format: LogFormat,
}

/// Which port moves bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PortChoice {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    IoUring,
    Epoll,
}

/// Whether links change cores by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlacementChoice {
    /// To where most of their payload goes.
    #[default]
    Auto,
    Off,
}

impl PlacementChoice {
    /// Whether they do.
    pub fn moves_links(self) -> bool {
        self == Self::Auto
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { alias: "waystation".to_owned(), reflect_endpoints: true }
    }
}

impl Default for ListenConfig {
    fn default() -> Self {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self { addresses: vec![SocketAddr::new(any, 1791)] }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            cores: 0,
            cpus: Vec::new(),
            port: PortChoice::Auto,
            placement: PlacementChoice::Auto,
            aead: None,
            calibrate: true,
            receive_buffers: 32,
            receive_buffer_size: ByteSize::from_kib(64),
            block_memory: ByteSize::from_mib(64),
            queue_memory: ByteSize::from_mib(256),
            links_max: 20_000,
            half_open_max: 4096,
            sockets_max: 8192,
        }
    }
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            session_window: ByteSize::from_mib(1),
            sessions_per_link_max: 20_000,
            sessions_max: 200_000,
            handshake_timeout: Duration::from_secs(10),
            query_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(30),
            send_stall_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            announce: None,
            registrations_max: gateway::limits::REGISTRATIONS_MAX,
            idle_per_registration_max: gateway::limits::IDLE_PER_REGISTRATION_MAX,
            reservation_timeout: Duration::from_nanos(gateway::limits::RESERVATION_TIMEOUT_NS),
            idle_ping_interval: Duration::from_secs(30),
            idle_dead_after: Duration::from_secs(60),
            pipe_idle_timeout: Duration::from_secs(3600),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            links_per_identity_max: 64,
            links_per_identity_and_network_max: 64,
            sessions_per_identity_max: 20_000,
            registrations_per_identity_max: 1,
            rate: Rate::Unbounded,
            burst: ByteSize::from_mib(1),
            tcp_links_max: NETWORK_LINKS_MAX,
            tor_links_max: NETWORK_LINKS_MAX,
            gw_links_max: NETWORK_LINKS_MAX,
            link_idle_timeout: None,
            accounts_kept_max: ACCOUNTS_KEPT_DEFAULT,
        }
    }
}

impl Default for DialConfig {
    fn default() -> Self {
        Self {
            tor_proxy: None,
            dials_max: dialing::limits::DIALS_MAX,
            connect_timeout: dialing::limits::CONNECT_TIMEOUT,
            backoff_min: dialing::limits::BACKOFF_MIN,
            backoff_max: dialing::limits::BACKOFF_MAX,
        }
    }
}

impl Default for PrivilegesConfig {
    fn default() -> Self {
        Self {
            user: String::new(),
            group: String::new(),
            drop_capabilities: true,
            restrict_files: true,
            core_dumps: false,
        }
    }
}

impl Default for ManagementConfig {
    fn default() -> Self {
        Self {
            cpu: None,
            socket: None,
            metrics_listen: None,
            metrics_anywhere: false,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

/// An absent address is the empty text, as in the file.
fn serialize_announce<S: serde::Serializer>(
    address: &Option<SocketAddr>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_str(""),
    }
}

fn serialize_identities<S: serde::Serializer>(
    identities: &[Identity],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(identities.iter().map(Identity::to_string))
}

fn serialize_aead<S: serde::Serializer>(
    backend: &Option<AeadBackend>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(rule::aead_name(*backend))
}

fn serialize_duration_or_none<S: serde::Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_str(&format_duration(*duration)),
        None => serializer.serialize_str(rule::NONE),
    }
}

/// An absent path is the empty text, as in the file.
fn serialize_path<S: serde::Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    path.as_deref().unwrap_or(std::path::Path::new("")).serialize(serializer)
}

#[cfg(test)]
mod tests;

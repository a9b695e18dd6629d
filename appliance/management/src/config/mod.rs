//! The configuration: one typed value, read from TOML, immutable afterwards.
//!
//! Read once at start-up by the program and by `config check`. What keys there are, what they mean
//! and which values they take stands in one table ([`keys`]), which validates and documents alike.
//! Nothing here opens a file or a socket.

mod default_text;
pub mod keys;
mod problem;
mod reader;
mod rule;

pub use default_text::documented_default;
pub use problem::{Complaint, ConfigError, Problem};
pub use reader::parse;

use crate::gateway;
use crate::units::{ByteSize, serialize_duration};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Everything an operator can set. The fields of a section are named like its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Config {
    pub node: NodeConfig,
    pub listen: ListenConfig,
    pub engine: EngineConfig,
    pub relay: RelayConfig,
    pub gateway: GatewayConfig,
    pub management: ManagementConfig,
}

/// `[node]`: how this node presents itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeConfig {
    pub alias: String,
}

/// `[listen]`: where connections come in; links and gateway sockets share the port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenConfig {
    pub addresses: Vec<SocketAddr>,
}

/// `[engine]`: the data cores and their memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EngineConfig {
    /// 0: one per CPU but one.
    pub cores: usize,
    /// Empty: chosen by the program.
    pub cpus: Vec<usize>,
    pub port: PortChoice,
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
        Self { alias: "waystation".to_owned() }
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

/// An absent path is the empty text, as in the file.
fn serialize_path<S: serde::Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    path.as_deref().unwrap_or(std::path::Path::new("")).serialize(serializer)
}

#[cfg(test)]
mod tests;

//! The table of all keys: what each means, its unit, its range and where its value lives.
//!
//! The reader validates with it and the documented default is printed from it.

use super::Config;
use super::rule::{Rule, UDP_TIERS};
pub use super::sections::{SECTIONS, Section};
use super::udp_keys;
use super::xdp_keys;
use super::{BURST_MAX, BURST_MIN, RATE_MAX, RATE_MIN};
use super::{dht_keys, hub_keys, privileges_keys};
use crate::limits::{
    ACCOUNTS_KEPT_MAX, ACCOUNTS_KEPT_MIN, ALIAS_BYTES_MAX, CORES_MAX, NETWORK_LINKS_MAX,
    PEER_BLOCKS_MAX,
};
use crate::units::ByteSize;
use std::time::Duration;
use waystation_relay::limits::{WINDOW_MAX_BYTES, WINDOW_MIN_BYTES};
use waystation_turn::limits::REALM_BYTES_MAX;

/// One key, whose value lives in `C`: in the configuration itself or in one of its peers.
#[derive(Clone, Copy, Debug)]
pub struct Key<C = Config> {
    /// The section, without brackets.
    pub section: &'static str,
    /// The name inside the section.
    pub name: &'static str,
    /// What it does, in sentences.
    pub meaning: &'static str,
    /// What its value counts.
    pub unit: &'static str,
    /// Whether a running program takes up a new value.
    pub reload: Reload,
    pub(super) rule: Rule<C>,
}

impl<C: Clone> Key<C> {
    /// `section.name`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The values it takes, for people.
    pub fn range(&self) -> String {
        self.rule.range()
    }

    /// Its value in TOML, or nothing if it is absent.
    pub fn value(&self, config: &C) -> Option<String> {
        self.rule.show(config)
    }
}

/// Whether a running program takes up a new value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It does, when it is told to by `SIGHUP`.
    Live,
    /// The value is read once, when the program starts.
    Restart,
}

impl Reload {
    /// The words of the documentation.
    pub fn text(self) -> &'static str {
        match self {
            Self::Live => "yes, on SIGHUP",
            Self::Restart => "no, needs a restart",
        }
    }
}

/// Every key, in the order of printing.
pub const KEYS: &[Key] = &[
    live(
        "node",
        "alias",
        "text",
        Rule::Text {
            min_bytes: 1,
            max_bytes: ALIAS_BYTES_MAX,
            at: |config| &mut config.node.alias,
        },
        "The name other nodes show for this one; part of the node info.",
    ),
    live(
        "node",
        "reflect_endpoints",
        "flag",
        Rule::Flag { at: |config| &mut config.node.reflect_endpoints },
        "Whether a node that links to this one is told the address it is seen at.",
    ),
    key(
        "listen",
        "addresses",
        "ADDRESS:PORT",
        Rule::Addresses { at: |config| &mut config.listen.addresses },
        "Addresses to accept connections on. Links and the gateway's sockets share the port. \
        Port 0 takes any free port.",
    ),
    key(
        "engine",
        "cores",
        "threads",
        Rule::Count { min: 0, max: CORES_MAX, at: |config| &mut config.engine.cores },
        "Data cores, each a pinned thread with its own links, buffers and timers. 0 stands for one \
        per physical core but the first, which is left to the management core, and at least one.",
    ),
    key(
        "engine",
        "cpus",
        "CPU numbers",
        Rule::Counts {
            max: CORES_MAX - 1,
            entries_max: CORES_MAX,
            at: |config| &mut config.engine.cpus,
        },
        "The CPUs of the data cores, one each, in the order of the cores. Empty: chosen by the \
        program.",
    ),
    key(
        "engine",
        "port",
        "name",
        Rule::Port { at: |config| &mut config.engine.port },
        "How bytes are moved between the sockets and the program. auto takes io_uring where the \
        kernel allows it, else epoll.",
    ),
    live(
        "engine",
        "placement",
        "name",
        Rule::Placement { at: |config| &mut config.engine.placement },
        "Whether links change cores by themselves: auto moves those whose payload goes to one \
        other core for the most part, as far as that has room for them.",
    ),
    key(
        "engine",
        "aead",
        "name",
        Rule::Aead { at: |config| &mut config.engine.aead },
        "What seals and opens records. auto measures what the program was built with at start-up \
        and takes the cheapest, for long texts another one if that is cheaper; status shows the \
        figures. Any other name takes that one for everything.",
    ),
    key(
        "engine",
        "calibrate",
        "flag",
        Rule::Flag { at: |config| &mut config.engine.calibrate },
        "Whether the first start on a machine measures what moving and sealing bytes costs there, \
        which takes about 0.1 s, and keeps it in the state directory. Efficiency is told against it.",
    ),
    key(
        "engine",
        "receive_buffers",
        "buffers per core",
        Rule::PowerOfTwo { min: 4, max: 1024, at: |config| &mut config.engine.receive_buffers },
        "Buffers the kernel receives into. All links of a core share them; a buffer is taken only \
        while its bytes are being forwarded.",
    ),
    key(
        "engine",
        "receive_buffer_size",
        "bytes per buffer",
        Rule::Size {
            min: ByteSize::from_kib(16),
            max: ByteSize::from_kib(64),
            at: |config| &mut config.engine.receive_buffer_size,
        },
        "Size of one of them, and so the most that one read takes. Small buffers cost throughput; \
         larger ones than a record gain nothing.",
    ),
    key(
        "engine",
        "block_memory",
        "bytes per core",
        Rule::Size {
            min: ByteSize::from_mib(4),
            max: ByteSize::from_gib(4),
            at: |config| &mut config.engine.block_memory,
        },
        "Memory for sealed records on their way to the kernel.",
    ),
    key(
        "engine",
        "queue_memory",
        "bytes per core",
        Rule::Size {
            min: ByteSize::from_mib(1),
            max: ByteSize::from_gib(1024),
            at: |config| &mut config.engine.queue_memory,
        },
        "Memory for payload that waits in sessions, for credit or for a slow link.",
    ),
    live(
        "engine",
        "links_max",
        "links per core",
        Rule::Count { min: 1, max: 1_000_000, at: |config| &mut config.engine.links_max },
        "Links of one core; connections beyond that are closed and counted. While running, it, \
        half_open_max and sockets_max may together not become more than they were at the start.",
    ),
    live(
        "engine",
        "half_open_max",
        "connections per core",
        Rule::Count { min: 16, max: 1_000_000, at: |config| &mut config.engine.half_open_max },
        "Connections that have not finished their handshake; more are closed and counted.",
    ),
    live(
        "engine",
        "sockets_max",
        "sockets per core",
        Rule::Count { min: 16, max: 1_000_000, at: |config| &mut config.engine.sockets_max },
        "Raw sockets of the gateway: idle connections, callers and both ends of pipes.",
    ),
    key(
        "relay",
        "session_window",
        "bytes per session and direction",
        Rule::Size {
            min: ByteSize::from_bytes(WINDOW_MIN_BYTES as u64),
            max: ByteSize::from_bytes(WINDOW_MAX_BYTES as u64),
            at: |config| &mut config.relay.session_window,
        },
        "The window this node advertises. A session never holds more than this per direction; a \
        small one limits throughput to the window per round trip.",
    ),
    live(
        "relay",
        "sessions_per_link_max",
        "sessions per link",
        Rule::Count {
            min: 1,
            max: 1_000_000,
            at: |config| &mut config.relay.sessions_per_link_max,
        },
        "Sessions of one link; queries beyond that are rejected and counted.",
    ),
    live(
        "relay",
        "sessions_max",
        "sessions per core",
        Rule::Count { min: 1, max: 10_000_000, at: |config| &mut config.relay.sessions_max },
        "Sessions of all links of one core; a relayed session is two, one on each link.",
    ),
    live(
        "relay",
        "handshake_timeout",
        "duration",
        Rule::Span {
            min: Duration::from_secs(1),
            max: Duration::from_secs(120),
            at: |config| &mut config.relay.handshake_timeout,
        },
        "From accept to the end of the negotiation.",
    ),
    live(
        "relay",
        "query_timeout",
        "duration",
        Rule::Span {
            min: Duration::from_secs(1),
            max: Duration::from_secs(600),
            at: |config| &mut config.relay.query_timeout,
        },
        "How long the target of a relayed query may take to answer it.",
    ),
    live(
        "relay",
        "ping_interval",
        "duration",
        Rule::Span {
            min: Duration::from_secs(1),
            max: Duration::from_secs(3600),
            at: |config| &mut config.relay.ping_interval,
        },
        "How long a link may be silent before it is pinged.",
    ),
    live(
        "relay",
        "ping_timeout",
        "duration",
        Rule::Span {
            min: Duration::from_secs(1),
            max: Duration::from_secs(3600),
            at: |config| &mut config.relay.ping_timeout,
        },
        "How long a peer may take to answer a ping before its link is closed.",
    ),
    live(
        "relay",
        "send_stall_timeout",
        "duration",
        Rule::Span {
            min: Duration::from_secs(1),
            max: Duration::from_secs(3600),
            at: |config| &mut config.relay.send_stall_timeout,
        },
        "How long a peer may leave bytes unread before its link is closed.",
    ),
    live(
        "gateway",
        "enabled",
        "flag",
        Rule::Flag { at: |config| &mut config.gateway.enabled },
        "Whether nodes may register here and be reached through this node's gateway.",
    ),
    live(
        "gateway",
        "announce",
        "ADDRESS:PORT",
        Rule::OptionalAddress { dialable: true, at: |config| &mut config.gateway.announce },
        "The address nodes are told to dial for sockets, for boxes behind address translation. \
        Empty: the address at which their own link arrived.",
    ),
    live(
        "gateway",
        "registrations_max",
        "registrations",
        Rule::Count { min: 1, max: 10_000_000, at: |config| &mut config.gateway.registrations_max },
        "Nodes that may be registered at a time.",
    ),
    live(
        "gateway",
        "idle_per_registration_max",
        "connections per registration",
        Rule::Count {
            min: 1,
            max: 1024,
            at: |config| &mut config.gateway.idle_per_registration_max,
        },
        "Idle connections that one registered node may keep waiting here.",
    ),
    live(
        "gateway",
        "reservation_timeout",
        "duration",
        Rule::Span {
            min: Duration::from_secs(1),
            max: Duration::from_secs(600),
            at: |config| &mut config.gateway.reservation_timeout,
        },
        "How long a caller may take to dial the socket that was reserved for it.",
    ),
    live(
        "gateway",
        "idle_ping_interval",
        "duration",
        Rule::Span {
            min: Duration::from_secs(1),
            max: Duration::from_secs(3600),
            at: |config| &mut config.gateway.idle_ping_interval,
        },
        "How often an idle connection is pinged.",
    ),
    live(
        "gateway",
        "idle_dead_after",
        "duration",
        Rule::Span {
            min: Duration::from_secs(2),
            max: Duration::from_secs(7200),
            at: |config| &mut config.gateway.idle_dead_after,
        },
        "How long an idle connection may be silent before it is closed; longer than \
        idle_ping_interval.",
    ),
    live(
        "gateway",
        "pipe_idle_timeout",
        "duration",
        Rule::Span {
            min: Duration::from_secs(1),
            max: Duration::from_secs(7 * 24 * 3600),
            at: |config| &mut config.gateway.pipe_idle_timeout,
        },
        "How long a raw pipe may be without traffic before it is closed.",
    ),
    live(
        "access",
        "mode",
        "name",
        Rule::Mode { at: |config| &mut config.access.mode },
        "Who may link: every identity, those in identities, or all but those. Others are turned \
        away as soon as the handshake has shown who they are.",
    ),
    live(
        "access",
        "identities",
        "identities",
        Rule::Identities { at: |config| &mut config.access.identities },
        "The list that mode speaks of. Links of identities that a reload keeps out are closed.",
    ),
    live(
        "limits",
        "links_per_identity_max",
        "links",
        Rule::Count {
            min: 1,
            max: NETWORK_LINKS_MAX,
            at: |config| &mut config.limits.links_per_identity_max,
        },
        "Links of one identity; a new one beyond that is closed and counted, never an old one.",
    ),
    live(
        "limits",
        "links_per_identity_and_network_max",
        "links",
        Rule::Count {
            min: 1,
            max: NETWORK_LINKS_MAX,
            at: |config| &mut config.limits.links_per_identity_and_network_max,
        },
        "The same for its links of one network: tcp, tor or gw.",
    ),
    live(
        "limits",
        "sessions_per_identity_max",
        "sessions",
        Rule::Count {
            min: 1,
            max: 10_000_000,
            at: |config| &mut config.limits.sessions_per_identity_max,
        },
        "Sessions that one identity may have, asked for by it or offered to it.",
    ),
    live(
        "limits",
        "registrations_per_identity_max",
        "registrations",
        Rule::Count {
            min: 0,
            max: 1,
            at: |config| &mut config.limits.registrations_per_identity_max,
        },
        "Whether an identity may register at the gateway; it has one registration at most. 0 with \
        1 for some peers keeps the gateway to those.",
    ),
    live(
        "limits",
        "rate",
        "bytes per second",
        Rule::Rate { min: RATE_MIN, max: RATE_MAX, at: |config| &mut config.limits.rate },
        "How much payload one identity may send through this node. What comes faster waits, and \
        in the end its sender does.",
    ),
    live(
        "limits",
        "burst",
        "bytes",
        Rule::Size { min: BURST_MIN, max: BURST_MAX, at: |config| &mut config.limits.burst },
        "How much may pass at once after a pause, if there is a rate.",
    ),
    live(
        "limits",
        "tcp_links_max",
        "links",
        Rule::Count {
            min: 0,
            max: NETWORK_LINKS_MAX,
            at: |config| &mut config.limits.tcp_links_max,
        },
        "Links over TCP on all cores together; a new one beyond that is closed and counted.",
    ),
    live(
        "limits",
        "tor_links_max",
        "links",
        Rule::Count {
            min: 0,
            max: NETWORK_LINKS_MAX,
            at: |config| &mut config.limits.tor_links_max,
        },
        "The same for links that this node made through Tor.",
    ),
    live(
        "limits",
        "gw_links_max",
        "links",
        Rule::Count {
            min: 0,
            max: NETWORK_LINKS_MAX,
            at: |config| &mut config.limits.gw_links_max,
        },
        "The same for links inside sessions of other links, and through other gateways.",
    ),
    live(
        "limits",
        "link_idle_timeout",
        "duration",
        Rule::SpanOrNone {
            min: Duration::from_secs(10),
            max: Duration::from_secs(30 * 24 * 3600),
            at: |config| &mut config.limits.link_idle_timeout,
        },
        "How long a link may be without sessions before it is closed. Links of registered nodes \
        and of peers are left alone.",
    ),
    live(
        "limits",
        "accounts_kept_max",
        "accounts",
        Rule::Count {
            min: ACCOUNTS_KEPT_MIN,
            max: ACCOUNTS_KEPT_MAX,
            at: |config| &mut config.limits.accounts_kept_max,
        },
        "Identities without a link whose account is kept, at 0.4 KiB each. Beyond that, or beyond \
        a lowered one at once, those seen longest ago are forgotten and only added up.",
    ),
    live(
        "dial",
        "tor_proxy",
        "ADDRESS:PORT",
        Rule::Proxy { at: |config| &mut config.dial.tor_proxy },
        "The SOCKS5 port of a Tor proxy. Empty: tor endpoints are refused.",
    ),
    live(
        "dial",
        "dials_max",
        "dials",
        Rule::Count { min: 1, max: 64, at: |config| &mut config.dial.dials_max },
        "Dials under way at a time.",
    ),
    live(
        "dial",
        "connect_timeout",
        "duration",
        Rule::Span {
            min: Duration::from_secs(1),
            max: Duration::from_secs(600),
            at: |config| &mut config.dial.connect_timeout,
        },
        "How long a connection may take to be made, with what a proxy or gateway has to say.",
    ),
    live(
        "dial",
        "backoff_min",
        "duration",
        Rule::Span {
            min: Duration::from_millis(100),
            max: Duration::from_secs(3600),
            at: |config| &mut config.dial.backoff_min,
        },
        "The pause after the first failed attempt to reach a peer; it doubles with every further \
        one.",
    ),
    live(
        "dial",
        "backoff_max",
        "duration",
        Rule::Span {
            min: Duration::from_secs(1),
            max: Duration::from_secs(24 * 3600),
            at: |config| &mut config.dial.backoff_max,
        },
        "The longest such pause.",
    ),
    key(
        "turn",
        "listen",
        "ADDRESS:PORT",
        Rule::AddressesOrNone { at: |config| &mut config.turn.listen },
        "Addresses that TURN clients send to, over UDP; the port for it is 3478. Empty: none; there \
        is no TURN server if listen_tcp is empty too.",
    ),
    key(
        "turn",
        "listen_tcp",
        "ADDRESS:PORT",
        Rule::AddressesOrNone { at: |config| &mut config.turn.listen_tcp },
        "Addresses that TURN clients connect to, over TCP, where UDP is blocked; the port for it is \
        3478. Peers are reached over UDP all the same. Empty: none.",
    ),
    key(
        "turn",
        "streams_max",
        "connections per core",
        Rule::Count { min: 1, max: 65_536, at: |config| &mut config.turn.streams_max },
        "TCP connections of TURN clients on one data core.",
    ),
    key(
        "turn",
        "streams_per_address_max",
        "connections per address and core",
        Rule::Count { min: 1, max: 65_536, at: |config| &mut config.turn.streams_per_address_max },
        "Those of one IPv4 address, or of one /64 of IPv6.",
    ),
    live(
        "turn",
        "realm",
        "text",
        Rule::Text {
            min_bytes: 1,
            max_bytes: REALM_BYTES_MAX,
            at: |config| &mut config.turn.realm,
        },
        "What the server calls itself to those who are to authenticate. With another realm, every \
        client authenticates anew.",
    ),
    live(
        "turn",
        "users_file",
        "path",
        Rule::FilePath { at: |config| &mut config.turn.users_file },
        "A file with a line NAME:PASSWORD for each static user, read again with every reload; lines \
        that begin with # are left out. Others than its owner and group must not be able to read \
        it. Empty: no static users.",
    ),
    live(
        "turn",
        "secrets_file",
        "path",
        Rule::FilePath { at: |config| &mut config.turn.secrets_file },
        "A file with a secret on each line, the newest first, shared with whoever hands out \
        time-limited users: the name is EXPIRY:USER, with the expiry in seconds of the Unix epoch, \
        the password the base64 form of its HMAC-SHA1. Empty: no time-limited users.",
    ),
    key(
        "turn",
        "relay_addresses",
        "ADDRESS",
        Rule::IpAddresses { at: |config| &mut config.turn.relay_addresses },
        "Addresses of this machine that clients are given ports of, one of IPv4, one of IPv6, or \
        both. Empty: those of listen and listen_tcp.",
    ),
    key(
        "turn",
        "external_addresses",
        "ADDRESS",
        Rule::IpAddresses { at: |config| &mut config.turn.external_addresses },
        "What the others know relay_addresses as, one for each, for boxes behind an address \
        translation that leaves ports as they are. Empty: the same.",
    ),
    key(
        "turn",
        "port_min",
        "port",
        Rule::Count { min: 1024, max: 65_535, at: |config| &mut config.turn.port_min },
        "The lowest relayed port. Data cores get equal shares of the range.",
    ),
    key(
        "turn",
        "port_max",
        "port",
        Rule::Count { min: 1024, max: 65_535, at: |config| &mut config.turn.port_max },
        "The highest.",
    ),
    key(
        "turn",
        "allocations_max",
        "allocations per core",
        Rule::Count { min: 1, max: 65_536, at: |config| &mut config.turn.allocations_max },
        "Allocations of one data core. Each has a descriptor for each address family it asked for.",
    ),
    key(
        "turn",
        "allocations_per_user_max",
        "allocations per user",
        Rule::Count { min: 1, max: 65_536, at: |config| &mut config.turn.allocations_per_user_max },
        "Allocations of one user on all data cores together, reserved ports included.",
    ),
    key(
        "turn",
        "permissions_max",
        "peers per allocation",
        Rule::Count { min: 1, max: 4096, at: |config| &mut config.turn.permissions_max },
        "Addresses of peers that one allocation may be permitted at a time.",
    ),
    key(
        "turn",
        "channels_max",
        "channels per allocation",
        Rule::Count { min: 1, max: 4096, at: |config| &mut config.turn.channels_max },
        "Channels that one allocation may have at a time.",
    ),
    key(
        "turn",
        "lifetime",
        "duration",
        Rule::Span {
            min: Duration::from_secs(60),
            max: Duration::from_secs(24 * 3600),
            at: |config| &mut config.turn.lifetime,
        },
        "How long an allocation lasts unless its client asks for longer, or refreshes it.",
    ),
    key(
        "turn",
        "lifetime_max",
        "duration",
        Rule::Span {
            min: Duration::from_secs(60),
            max: Duration::from_secs(24 * 3600),
            at: |config| &mut config.turn.lifetime_max,
        },
        "The longest a client may ask for.",
    ),
    live(
        "turn",
        "allow_peers",
        "blocks",
        Rule::Blocks { entries_max: PEER_BLOCKS_MAX, at: |config| &mut config.turn.allow_peers },
        "Blocks of addresses that peers may have besides those of the public network: exactly these \
        private, shared or loopback ones. Never a whole network that others than peers are in.",
    ),
    live(
        "turn",
        "deny_peers",
        "blocks",
        Rule::Blocks { entries_max: PEER_BLOCKS_MAX, at: |config| &mut config.turn.deny_peers },
        "Blocks that no peer may have an address in, whatever else is said. Permissions that a \
        reload takes back end at once.",
    ),
    key(
        "turn",
        "tier",
        "name",
        Rule::Tier { tiers: &UDP_TIERS, at: |config| &mut config.turn.tier },
        "The best way datagrams may be sent. gso hands trains of equal ones over in one piece, where \
        the route takes that; plain hands over each by itself. af_xdp has frames of channels brought \
        past the kernel's network stack and sent so, where xdp.mode puts the program, and is else as \
        gso.",
    ),
    dht_keys::ENABLED,
    dht_keys::LISTEN,
    dht_keys::BOOTSTRAP,
    dht_keys::ADVERTISE,
    dht_keys::KEY_FILE,
    dht_keys::SNAPSHOT_FILE,
    dht_keys::SNAPSHOT_INTERVAL,
    dht_keys::PUBLISH_SERVICES,
    dht_keys::TOPICS,
    dht_keys::DIVERSE,
    dht_keys::ALLOW_PRIVATE,
    dht_keys::KEYS_MAX,
    dht_keys::RECORD_MEMORY,
    dht_keys::BEACON,
    dht_keys::MAIL_POOL,
    dht_keys::STRANGER_RATE,
    udp_keys::ADDRESSES,
    udp_keys::PORT_MIN,
    udp_keys::PORT_MAX,
    udp_keys::SESSIONS_MAX,
    udp_keys::IDLE,
    udp_keys::ALLOW_PEERS,
    udp_keys::DENY_PEERS,
    udp_keys::TIER,
    xdp_keys::MODE,
    xdp_keys::INTERFACES,
    xdp_keys::PIN_DIRECTORY,
    xdp_keys::DENY,
    xdp_keys::STRANGER_RATE,
    xdp_keys::NEWCOMER_RATE,
    xdp_keys::STEER,
    xdp_keys::CAPTURE_MEMORY,
    privileges_keys::USER,
    privileges_keys::GROUP,
    privileges_keys::DROP_CAPABILITIES,
    privileges_keys::RESTRICT_FILES,
    privileges_keys::CORE_DUMPS,
    hub_keys::ENABLED,
    hub_keys::LISTEN,
    hub_keys::CONNECTIONS_MAX,
    hub_keys::CONNECTIONS_PER_SOURCE_MAX,
    hub_keys::REGISTRATIONS_MAX,
    hub_keys::REGISTRATIONS_PER_CONNECTION_MAX,
    hub_keys::REGISTRATIONS_PER_SOURCE_MAX,
    hub_keys::ROOMS_MAX,
    hub_keys::WAITING_PER_SOURCE_MAX,
    key(
        "management",
        "cpu",
        "CPU number",
        Rule::OptionalCount { max: CORES_MAX - 1, at: |config| &mut config.management.cpu },
        "The CPU of the management core; not one of engine.cpus. Absent: chosen by the program.",
    ),
    key(
        "management",
        "socket",
        "path",
        Rule::SocketPath { at: |config| &mut config.management.socket },
        "The stats socket. Empty: waystation.sock in the runtime directory, or else in the state \
        directory.",
    ),
    key(
        "management",
        "metrics_listen",
        "ADDRESS:PORT",
        Rule::OptionalAddress {
            dialable: false,
            at: |config| &mut config.management.metrics_listen,
        },
        "A TCP address that serves /metrics and nothing else. Empty: none; the stats socket serves \
        /metrics in any case. Only loopback addresses, unless metrics_anywhere is set.",
    ),
    key(
        "management",
        "metrics_anywhere",
        "flag",
        Rule::Flag { at: |config| &mut config.management.metrics_anywhere },
        "Whether metrics_listen may be an address that others can reach. There is no access \
        control and no encryption on it.",
    ),
    live(
        "management",
        "log",
        "level",
        Rule::LogFilter { at: |config| &mut config.management.log },
        "What is logged: a level, and levels of single targets if need be.",
    ),
    key(
        "management",
        "log_format",
        "name",
        Rule::LogLines { at: |config| &mut config.management.log_format },
        "How a log line looks.",
    ),
];

pub(super) const fn live(
    section: &'static str,
    name: &'static str,
    unit: &'static str,
    rule: Rule<Config>,
    meaning: &'static str,
) -> Key {
    Key { section, name, meaning, unit, reload: Reload::Live, rule }
}

pub(super) const fn key(
    section: &'static str,
    name: &'static str,
    unit: &'static str,
    rule: Rule<Config>,
    meaning: &'static str,
) -> Key {
    Key { section, name, meaning, unit, reload: Reload::Restart, rule }
}

//! The most memory this program takes, part by part, from the limits of every room.
//!
//! Called by `doctor` and as the program starts. Each line is a product of a cap and of what one
//! takes; the sizes that are no constants of a room are stated here, with where they come from.

use waystation_a2al::limits::HUB_EARLY_BYTES_MAX;
use waystation_engine::limits::{CONTROL_MAX_BYTES, EARLY_BYTES_MAX, MESH_RING_SOCKETS};
use waystation_engine::port::datagrams::UdpTier;
use waystation_engine::port::frames::SOCKET_BYTES;
use waystation_engine::statistics::{Stage, TrafficClass};
use waystation_management::config::{Config, XdpMode};
use waystation_management::dht::limits::TABLE_BYTES_MAX;
use waystation_management::gateway::GatewayLimits;
use waystation_management::hub::limits::{
    CONNECTION_BYTES as HUB_CONNECTION_BYTES, OUTGOING_BYTES_ALL_MAX, OUTGOING_BYTES_MAX,
};
use waystation_management::limits::{EVENTS_KEPT_MAX, LISTING_ROWS_MAX, STATS_CONNECTIONS_MAX};
use waystation_management::xdp::{FRAME_SOCKETS_MAX, SESSION_ENTRIES_MAX, STRANGERS_MAX};
use waystation_tuning::doctor::MemoryTerm;

/// A histogram of two digits from a nanosecond to a minute.
const HISTOGRAM_BYTES: usize = 30 * 1024;
/// Histograms are filled in one block while the other is read.
const HISTOGRAM_BLOCKS: usize = 2;
/// Both halves of a link, its place in the tables, its lists of times.
const LINK_BYTES: usize = 5 * 1024;
/// A query that is cut by the end of a record.
const CUT_QUERY_BYTES: usize = 64 * 1024;
/// What arrives before a negotiation is over.
const HALF_OPEN_BYTES: usize = 256 * 1024;
/// A leg and its entries in the tables; payload is in the queues.
const SESSION_BYTES: usize = 310;
/// An account of an identity without a link (`management::limits::ACCOUNTS_KEPT_DEFAULT`).
const ACCOUNT_BYTES: usize = 425;
/// An event as it is kept.
const EVENT_BYTES: usize = 256;
/// What datagrams are received into and sent from (`engine::port::datagrams`): 16 of 66 KiB, and
/// what is known of each of 1024 on their way.
const DATAGRAM_BYTES: usize = 1280 * 1024;
/// An opaque session in its core's tables: `relay::limits::UDP_SESSION_BYTES_MAX`, its places of
/// the index, and what it has carried; and in the management core's.
const UDP_SESSION_BYTES: usize = 2048;
/// Entries of the map of sessions, and what each takes in the kernel and in its mirror: a record of
/// 192 B and half a bucket of 64 B there, and the heads of a table here.
const XDP_ENTRIES_MAX: usize = SESSION_ENTRIES_MAX as usize;
const XDP_ENTRY_BYTES: usize = 224;
const XDP_MIRROR_BYTES: usize = 250;
/// Sources without a session that are remembered, and what each takes.
const XDP_STRANGERS_MAX: usize = STRANGERS_MAX as usize;
const XDP_STRANGER_BYTES: usize = 16;
/// A row of a listing in JSON, and any other answer of the stats socket.
const LISTING_ROW_BYTES: usize = 420;
const ANSWER_BYTES: usize = 1 << 20;
/// A row that is remembered to tell how fast it grows (`management::limits::RECENT_AGE_MAX`).
const RECENT_ROW_BYTES: usize = 260;
/// The program itself: what of it runs, its threads, tables of the start, and what the allocator
/// keeps of what was given back. Measured: 12 MiB.
const PROGRAM_BYTES: usize = 16 << 20;
/// What a TURN server receives datagrams into, and lists of what is to be sent.
const TURN_BUFFERS_BYTES: usize = 1434 * 1024;
/// An allocation without peers, and what each permission and channel adds to lists that grow by
/// doubling (`tests/scale.rs` of waystation-turn: 2 KiB with eight of both).
const TURN_ALLOCATION_BYTES: usize = 820;
const TURN_PEER_BYTES: usize = 160;
/// A connection of a TURN client; what waits in it is in blocks.
const TURN_STREAM_BYTES: usize = 1024;

/// All parts, for so many data cores.
pub(crate) fn terms(config: &Config, cores: usize) -> Vec<MemoryTerm> {
    let mut terms = pools(config, cores);
    terms.extend(peers(config, cores));
    terms.extend(turn(config, cores));
    terms.extend(management(config, cores));
    terms.extend(dht(config));
    terms
}

/// What load alone fills.
fn pools(config: &Config, cores: usize) -> Vec<MemoryTerm> {
    let engine = &config.engine;
    let histograms = Stage::ALL.len() * TrafficClass::ALL.len();
    let pool = |what, bytes: usize, each: &str| MemoryTerm {
        what,
        bytes: bytes.saturating_mul(cores) as u64,
        derivation: format!("{each}{}", on(cores)),
        is_pool: true,
    };
    vec![
        MemoryTerm {
            what: "the program itself",
            bytes: PROGRAM_BYTES as u64,
            derivation: "what runs of it, its threads, and what its allocator keeps".to_owned(),
            is_pool: true,
        },
        pool(
            "receive buffers",
            engine.receive_buffers.saturating_mul(engine.receive_buffer_size.as_usize()),
            "engine.receive_buffers of engine.receive_buffer_size",
        ),
        pool("blocks", engine.block_memory.as_usize(), "engine.block_memory"),
        pool("session queues", engine.queue_memory.as_usize(), "engine.queue_memory"),
        pool(
            "datagrams of opaque UDP sessions",
            if config.udp.is_enabled() { DATAGRAM_BYTES } else { 0 },
            "1280 KiB, used once there is a session",
        ),
        pool(
            "histograms",
            histograms * HISTOGRAM_BYTES * HISTOGRAM_BLOCKS,
            &format!("{histograms} of 30 KiB, twice"),
        ),
    ]
}

/// What peers can make the data cores keep, each at its cap.
fn peers(config: &Config, cores: usize) -> Vec<MemoryTerm> {
    let (engine, relay) = (&config.engine, &config.relay);
    let capped = |what, cap: usize, each: usize, derivation: &str| MemoryTerm {
        what,
        bytes: cap.saturating_mul(each).saturating_mul(cores) as u64,
        derivation: format!("{derivation}{}", on(cores)),
        is_pool: false,
    };
    let pairs = cores.saturating_mul(cores.saturating_sub(1));
    vec![
        capped("links", engine.links_max, LINK_BYTES, "engine.links_max of 5 KiB"),
        capped(
            "control frames that are not read",
            engine.links_max,
            CONTROL_MAX_BYTES,
            "engine.links_max of 2 MiB, until each is closed",
        ),
        capped("cut queries", engine.links_max, CUT_QUERY_BYTES, "engine.links_max of 64 KiB"),
        capped(
            "negotiations",
            engine.half_open_max,
            HALF_OPEN_BYTES,
            "engine.half_open_max of 256 KiB, for relay.handshake_timeout",
        ),
        capped("sessions", relay.sessions_max, SESSION_BYTES, "relay.sessions_max of 310 B"),
        capped(
            "opaque UDP sessions",
            if config.udp.is_enabled() { config.udp.sessions_max } else { 0 },
            UDP_SESSION_BYTES,
            "udp.sessions_max of 2 KiB",
        ),
        MemoryTerm {
            what: "sockets between cores",
            bytes: pairs.saturating_mul(MESH_RING_SOCKETS).saturating_mul(EARLY_BYTES_MAX) as u64,
            derivation: format!("{MESH_RING_SOCKETS} of 64 KiB for each of {pairs} pairs"),
            is_pool: false,
        },
    ]
}

/// What users of a TURN server make the data cores keep.
fn turn(config: &Config, cores: usize) -> Vec<MemoryTerm> {
    let turn = &config.turn;
    if !turn.is_enabled() {
        return Vec::new();
    }
    let peers = turn.permissions_max.saturating_add(turn.channels_max);
    let allocation = peers.saturating_mul(TURN_PEER_BYTES).saturating_add(TURN_ALLOCATION_BYTES);
    let term = |what, bytes: usize, derivation: &str, is_pool| MemoryTerm {
        what,
        bytes: bytes.saturating_mul(cores) as u64,
        derivation: format!("{derivation}{}", on(cores)),
        is_pool,
    };
    vec![
        term("datagrams of TURN", TURN_BUFFERS_BYTES, "1434 KiB", true),
        term(
            "TURN allocations",
            turn.allocations_max.saturating_mul(allocation),
            "turn.allocations_max of 820 B, and 160 B for each of permissions_max and channels_max",
            false,
        ),
        term(
            "connections of TURN clients",
            turn.streams_room().saturating_mul(TURN_STREAM_BYTES),
            "turn.streams_max of 1 KiB",
            false,
        ),
    ]
}

/// Rows of the longest listing that there can be.
fn listing_rows_max(config: &Config, cores: usize) -> usize {
    let (engine, limits) = (&config.engine, &config.limits);
    let turn = if config.turn.is_enabled() { config.turn.allocations_max } else { 0 };
    let on_a_core = [engine.links_max, engine.sockets_max, config.relay.sessions_max, turn];
    let on_a_core = on_a_core.into_iter().max().unwrap_or_default();
    // Identities are known by their links or remembered without.
    let peers = engine.links_max.saturating_mul(cores).saturating_add(limits.accounts_kept_max);
    on_a_core.saturating_mul(cores).max(peers).min(LISTING_ROWS_MAX)
}

fn management(config: &Config, cores: usize) -> Vec<MemoryTerm> {
    let gateway = GatewayLimits {
        registrations_max: config.gateway.registrations_max,
        idle_per_registration_max: config.gateway.idle_per_registration_max,
        ..GatewayLimits::default()
    };
    let rows = listing_rows_max(config, cores);
    let raw_sockets = config.engine.sockets_max.saturating_mul(cores);
    let accounts = config.limits.accounts_kept_max;
    let term = |what, bytes: usize, derivation: &str| MemoryTerm {
        what,
        bytes: bytes as u64,
        derivation: derivation.to_owned(),
        is_pool: false,
    };
    let hub = &config.hub;
    let has_hub = !config.hub_addresses().is_empty();
    let hub_connections = if has_hub { hub.connections_max } else { 0 };
    let mut terms = vec![
        term(
            "tables of the gateway",
            gateway.table_bytes_max(raw_sockets),
            "gateway.registrations_max and idle_per_registration_max",
        ),
        term(
            "accounts",
            accounts.saturating_mul(ACCOUNT_BYTES),
            "limits.accounts_kept_max of 425 B",
        ),
        term("events", EVENTS_KEPT_MAX * EVENT_BYTES, "4096 of 256 B"),
        term(
            "answers of the stats socket",
            STATS_CONNECTIONS_MAX * (ANSWER_BYTES + rows * LISTING_ROW_BYTES),
            &format!("16 readers of 1 MiB and {rows} rows of 420 B"),
        ),
        term(
            "rows remembered between listings",
            rows * RECENT_ROW_BYTES,
            &format!("{rows} of 260 B, for a minute"),
        ),
        term(
            "connections to the signalling hub",
            hub_connections.saturating_mul(HUB_CONNECTION_BYTES),
            "hub.connections_max of 52 KiB",
        ),
        term(
            "what they are to be sent",
            hub_connections.saturating_mul(OUTGOING_BYTES_MAX).min(OUTGOING_BYTES_ALL_MAX),
            "96 KiB each, and 128 MiB in all",
        ),
        term(
            "what was said before a second party came",
            hub_connections.min(hub.rooms_max).saturating_mul(HUB_EARLY_BYTES_MAX),
            "hub.rooms_max of 32 KiB",
        ),
    ];
    if config.xdp.mode != XdpMode::Off {
        terms.push(term(
            "sessions of the XDP program",
            XDP_ENTRIES_MAX * (XDP_ENTRY_BYTES + XDP_MIRROR_BYTES),
            "65536 entries of 224 B in the kernel and of 250 B here",
        ));
        terms.push(term(
            "strangers the XDP program remembers",
            XDP_STRANGERS_MAX * XDP_STRANGER_BYTES,
            "65536 of 16 B, in the kernel",
        ));
        let samples = config.xdp.capture_memory.as_usize();
        if samples > 0 {
            terms.push(term("samples of packets", samples, "xdp.capture_memory, in the kernel"));
        }
    }
    let of_turn = config.turn.is_enabled() && config.turn.tier == UdpTier::AfXdp;
    let of_sessions = config.udp.is_enabled() && config.udp.tier == UdpTier::AfXdp;
    if of_turn || of_sessions {
        terms.push(term(
            "frames of AF_XDP sockets",
            FRAME_SOCKETS_MAX as usize * SOCKET_BYTES,
            "16 sockets of 1024 frames of 2 KiB, locked",
        ));
    }
    terms
}

/// What strangers can make the node of the DHT keep.
fn dht(config: &Config) -> Vec<MemoryTerm> {
    if !config.dht.enabled {
        return Vec::new();
    }
    let term = |what, bytes: u64, derivation: &str| MemoryTerm {
        what,
        bytes,
        derivation: derivation.to_owned(),
        is_pool: false,
    };
    vec![
        term("records of the DHT", config.dht.store_memory().as_u64(), "dht.record_memory"),
        term("tables of the DHT", TABLE_BYTES_MAX as u64, "nodes, rates, repetitions, nodes met"),
    ]
}

fn on(cores: usize) -> String {
    if cores == 1 { String::new() } else { format!(", on {cores} cores") }
}

//! `doctor`: what keeps this machine from being a good relay; and the same as the program starts.

use crate::appliance::{allowed_cpus, core_layout};
use crate::arguments::DoctorArguments;
use crate::exit::Unmet;
use crate::memory;
use crate::privileges;
use crate::questions::print;
use crate::run::read_config;
use crate::state;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::UNIX_EPOCH;
use waystation_engine::port::probe;
use waystation_management::clock;
use waystation_management::config::{Config, PortChoice};
use waystation_management::stats_socket::client;
use waystation_tuning::catalog::{Catalog, OWN_PROFILES};
use waystation_tuning::doctor::{Examination, Needs, Verdict, examine, render};
use waystation_tuning::inventory::Inventory;
use waystation_tuning::machine::Machine;
use waystation_tuning::plan::{Scope, plan};

/// Files of the state directory that are looked at; the program makes half a dozen.
const STATE_FILES_MAX: usize = 100;

/// `waystation doctor`
pub(crate) fn doctor(arguments: &DoctorArguments) -> anyhow::Result<()> {
    let config = match &arguments.config {
        Some(file) => read_config(file, None)?,
        None => Config::default(),
    };
    let examination = of_machine(&config, &arguments.profiles)?;
    if arguments.json {
        print((serde_json::to_string(&examination)? + "\n").as_bytes())?;
    } else {
        print(render(&examination).as_bytes())?;
    }
    match examination.count(Verdict::Fail) {
        0 => Ok(()),
        count => Err(Unmet(format!("{count} checks failed")).into()),
    }
}

/// The same as JSON.
pub(crate) fn document(config: &Config, profiles: &Path) -> anyhow::Result<String> {
    Ok(serde_json::to_string(&of_machine(config, profiles)?)?)
}

fn of_machine(config: &Config, profiles: &Path) -> anyhow::Result<Examination> {
    let unavailable = if is_running(config) { Vec::new() } else { unavailable(config) };
    examined(config, unavailable, profiles)
}

/// The same in the log: what failed by itself, the rest as a sum. Never keeps the program from
/// starting; what does that says so by itself.
pub(crate) fn at_start(config: &Config) {
    let examination = match examined(config, Vec::new(), Path::new(OWN_PROFILES)) {
        Ok(examination) => examination,
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "this machine could not be examined");
            return;
        }
    };
    for check in examination.checks.iter().filter(|check| check.verdict == Verdict::Fail) {
        let (name, seen, wanted) = (&check.name, &check.seen, &check.wanted);
        tracing::warn!(name, seen, wanted, why = check.why, fix = check.fix, "check failed");
    }
    let [ok, warn, fail] =
        [Verdict::Ok, Verdict::Warn, Verdict::Fail].map(|verdict| examination.count(verdict));
    tracing::info!(ok, warn, fail, "examined this machine; waystation doctor tells more");
}

fn examined(
    config: &Config,
    unavailable: Vec<(SocketAddr, String)>,
    profiles: &Path,
) -> anyhow::Result<Examination> {
    let machine = Machine::this();
    let inventory = Inventory::read(&machine);
    let engine = &config.engine;
    let scope = Scope {
        cores: Some(engine.cores).filter(|cores| *cores > 0),
        cpus: engine.cpus.clone(),
        allowed: Some(allowed_cpus()),
        ..Scope::default()
    };
    let plan = plan(&machine, &Catalog::read(Some(profiles))?, &scope)?;
    let cores = core_layout(config).len();
    let streams = engine.links_max + engine.half_open_max + engine.sockets_max;
    let streams = streams + config.turn.streams_room();
    let datagrams = config.turn.sockets_max().saturating_add(config.udp.sockets_max());
    let has_hub = !config.hub_addresses().is_empty();
    let hub_connections = if has_hub { config.hub.connections_max } else { 0 };
    let needs = Needs {
        uring: probe::probe().err().map(|error| error.to_string()),
        is_uring_demanded: engine.port == PortChoice::IoUring,
        memory: memory::terms(config, cores),
        descriptors: (streams.saturating_add(datagrams).saturating_mul(cores) as u64)
            .saturating_add(hub_connections as u64),
        listen: listen_tcp(config),
        listen_udp: listen_udp(config),
        unavailable,
        relayed_ports: relayed_ports(config),
        unix_s: Some(clock::now().unix_ms() / 1000),
        last_written_s: last_written_s(),
        kept_privileges: privileges::kept(&config.privileges),
        landlock: privileges::landlock_missing(),
        plan: Some(plan),
    };
    Ok(examine(&machine, &inventory, &needs))
}

/// Whether an appliance answers here; its ports are taken by nobody else then.
fn is_running(config: &Config) -> bool {
    let socket = config.management.socket.clone().or_else(|| state::socket(None).ok());
    socket.is_some_and(|socket| client::get(&socket, "/v1/status").is_ok())
}

/// What the program listens on over TCP.
fn listen_tcp(config: &Config) -> Vec<SocketAddr> {
    let mut addresses = config.listen.addresses.clone();
    addresses.extend(&config.turn.listen_tcp);
    addresses.extend(config.hub_addresses());
    addresses.extend(config.management.metrics_listen);
    addresses
}

/// What it listens on over UDP.
fn listen_udp(config: &Config) -> Vec<SocketAddr> {
    let mut addresses = config.turn.listen.clone();
    if config.dht.enabled {
        addresses.extend(&config.dht.listen);
    }
    addresses
}

/// From the lowest to the highest port that datagrams are relayed from, if any are.
fn relayed_ports(config: &Config) -> Option<(u16, u16)> {
    let turn = config.turn.is_enabled().then_some((config.turn.port_min, config.turn.port_max));
    let udp = config.udp.is_enabled().then_some((config.udp.port_min, config.udp.port_max));
    let ends = [turn, udp].into_iter().flatten();
    let (from, to) = ends.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))?;
    u16::try_from(from).ok().zip(u16::try_from(to).ok())
}

/// When the newest file of the state directory was written; nothing where this user cannot see it.
fn last_written_s() -> Option<u64> {
    let directory = state::directory(None).ok()?;
    let files = fs::read_dir(directory).ok()?.take(STATE_FILES_MAX);
    let written = files.filter_map(|file| file.ok()?.metadata().ok()?.modified().ok());
    let newest = written.max()?.duration_since(UNIX_EPOCH).ok()?;
    Some(newest.as_secs())
}

fn unavailable(config: &Config) -> Vec<(SocketAddr, String)> {
    let refused = |address, error: io::Error| (address, error.to_string());
    let tcp = listen_tcp(config).into_iter().filter_map(|address| {
        TcpListener::bind(address).err().map(|error| refused(address, error))
    });
    let udp = listen_udp(config)
        .into_iter()
        .filter_map(|address| UdpSocket::bind(address).err().map(|error| refused(address, error)));
    tcp.chain(udp).collect()
}

//! `run`, `identity` and `config`.

use crate::appliance::{Appliance, Surroundings, core_layout};
use crate::arguments::{IdentityArguments, RunArguments};
use crate::descriptors;
use crate::doctor;
use crate::log;
use crate::own_addresses;
use crate::privileges::{self, Person, Places};
use crate::questions::print;
use crate::service_manager;
use crate::state;
use crate::turn_files;
use crate::upgrade;
use anyhow::Context;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use waystation_astral::identity::Identity;
use waystation_management::config::{self, Config, PrivilegesConfig, XdpMode};
use waystation_management::confinement::{Confinement, FileConfinement};
use waystation_management::hand_over;
use waystation_management::limits::CONFIG_BYTES_MAX;
use waystation_management::runtime::ReloadSource;

/// Which processors there may be: counters of BPF programs are read with that number.
const POSSIBLE_PROCESSORS: &str = "/sys/devices/system/cpu/possible";

/// Runs the appliance until a signal or a failure ends it.
pub(crate) fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    run_after(arguments, None, false)
}

pub(crate) fn run_after(
    arguments: &RunArguments,
    drain: Option<Duration>,
    says_when_ready: bool,
) -> anyhow::Result<()> {
    descriptors::prepare();
    let first = configuration(arguments, None)?;
    let log = log::start(&first)?;
    let directory = state::directory(arguments.state_dir.as_deref())?;
    let socket = match &first.management.socket {
        Some(socket) => socket.clone(),
        None => state::socket(arguments.state_dir.as_deref())?,
    };
    let runtime_directory = socket.parent().map_or_else(PathBuf::new, Path::to_owned);
    become_wanted(&first.privileges, &[&directory, &runtime_directory])?;
    let (secret, new) = state::key(&directory)?;
    let config = configuration(arguments, Some(secret.identity()))?;
    state::make_directory_of(&socket)?;
    let identity = secret.identity();
    if new {
        tracing::info!(directory = %directory.display(), "made a new key");
    }
    doctor::at_start(&config);
    let places = places(arguments, &config, &[&directory, &runtime_directory]);
    let privileges = config.privileges.clone();
    let cores = core_layout(&config).len();
    let taking = drain.map(|drain| hand_over::ask(&socket, &identity, cores, drain)).transpose()?;
    let is_watched = match &taking {
        // The other program's variables are not this one's.
        Some((_, other)) => other.is_watched,
        None => service_manager::is_watching(),
    };
    let surroundings = Surroundings {
        secret,
        socket,
        dht: config.dht.enabled.then(|| state::dht(&directory, &config.dht)).transpose()?,
        registrations: Some(directory.join("registrations")),
        floor: Some(crate::floor::file(&directory)),
        taking,
        hands_over: true,
        is_watched,
        confine: Some(Box::new(move || confine(&privileges, &places))),
        handle_signals: true,
        reload: arguments.config.is_some().then(|| reload_source(arguments, identity)),
        log: Some(log),
        on_ready: Box::new(move || {
            tracing::info!("ready");
            service_manager::ready();
            if says_when_ready {
                // Whoever waited may have gone; this program serves all the same.
                let _ = print(upgrade::SERVES);
            }
        }),
        on_life_sign: service_manager::life_signs(is_watched),
    };
    let node = config.clone();
    let appliance = Appliance::start(config, surroundings)?;
    let info = config::node_info(&node, identity, appliance.listen());
    tracing::info!(%identity, node_info = info, "this is");
    for address in appliance.listen() {
        tracing::info!(%address, port = appliance.port().name(), "listening");
    }
    let turn = appliance.turn_listen();
    for address in &turn.udp {
        tracing::info!(%address, transport = "udp", "TURN server");
    }
    for address in &turn.tcp {
        tracing::info!(%address, transport = "tcp", "TURN server");
    }
    tracing::info!(socket = %appliance.socket().display(), "stats socket");
    appliance.wait()
}

/// Becomes the user of the configuration, if it names one, as early as there is a place for what
/// that user will write. Directories that are there stay whose they are.
fn become_wanted(config: &PrivilegesConfig, directories: &[&Path]) -> anyhow::Result<()> {
    let Some(person) = Person::wanted(config)? else { return Ok(()) };
    for directory in directories {
        state::make_directory_for(directory, &person)?;
    }
    Ok(privileges::become_person(&person)?)
}

/// What is read and written once privileges are given up.
fn places(arguments: &RunArguments, config: &Config, written: &[&Path]) -> Places {
    let mut places = Places::new();
    let turn = &config.turn;
    let files = [&arguments.config, &turn.users_file, &turn.secrets_file];
    files.into_iter().flatten().for_each(|file| places.read_again(file));
    written.iter().for_each(|directory| places.write_in(directory));
    let snapshot = config.dht.snapshot_file.as_deref().filter(|_| config.dht.enabled);
    if let Some(directory) = snapshot.and_then(Path::parent) {
        places.write_in(directory);
    }
    if config.xdp.mode != XdpMode::Off {
        // Its counters are one for each of so many processors.
        places.read_again(Path::new(POSSIBLE_PROCESSORS));
        // What is kept there is removed when the program goes.
        config.xdp.pin_directory.iter().for_each(|directory| places.write_in(directory));
    }
    places
}

fn confine(config: &PrivilegesConfig, places: &Places) -> anyhow::Result<Confinement> {
    let confinement = privileges::confine(config, places)?;
    let Confinement { user, capabilities, no_new_privileges, files, core_dumps } = &confinement;
    let left = if capabilities.is_empty() { "none".to_owned() } else { capabilities.join(" ") };
    tracing::info!(user, capabilities = left, no_new_privileges, ?files, core_dumps, "confined");
    if *files == FileConfinement::Unavailable {
        tracing::warn!("this kernel has no landlock, so any file of this user can be opened");
    }
    let kept = privileges::kept(config).join(", ");
    if !kept.is_empty() {
        tracing::warn!(kept, "privileges are kept by configuration; that is for debugging");
    }
    Ok(confinement)
}

/// Prints who this node is, making a key if there is none.
pub(crate) fn identity(arguments: &IdentityArguments) -> anyhow::Result<()> {
    let directory = state::directory(arguments.state_dir.as_deref())?;
    let (secret, _) = state::key(&directory)?;
    let identity = secret.identity();
    let config = Config::default();
    let info = config::node_info(&config, identity, &config.listen.addresses);
    print(format!("{identity}\n{info}\n").as_bytes())
}

/// Prints every key with its default.
pub(crate) fn config_default() -> anyhow::Result<()> {
    print(config::documented_default().as_bytes())
}

/// Checks a file.
pub(crate) fn config_check(file: &Path) -> anyhow::Result<()> {
    read_config(file, None)?;
    print(format!("{}: no mistakes\n", file.display()).as_bytes())
}

/// The configuration with what the command line says instead.
fn configuration(arguments: &RunArguments, own: Option<Identity>) -> anyhow::Result<Config> {
    let mut config = match &arguments.config {
        Some(file) => read_config(file, own)?,
        None => Config::default(),
    };
    if !arguments.listen.is_empty() {
        config.listen.addresses.clone_from(&arguments.listen);
    }
    let own_addresses = own_addresses::read()?;
    config.turn.found = turn_files::read(&config.turn, &own_addresses)?;
    config.udp.own_addresses = own_addresses;
    config.udp.peers().context("udp.allow_peers cannot be used")?;
    Ok(config)
}

/// The configuration of a file with what this machine adds to it, for whoever asks what the program
/// would do with it. Files of users and secrets stay closed.
pub(crate) fn served_config(file: &Path) -> anyhow::Result<Config> {
    let mut config = read_config(file, None)?;
    config.turn.found.own_addresses = own_addresses::read()?;
    config.udp.own_addresses.clone_from(&config.turn.found.own_addresses);
    Ok(config)
}

/// How the running program reads its configuration again.
fn reload_source(arguments: &RunArguments, own: Identity) -> ReloadSource {
    let arguments = arguments.clone();
    ReloadSource {
        read: Box::new(move || {
            configuration(&arguments, Some(own)).map_err(|error| format!("{error:#}"))
        }),
        on_stage: Box::new(service_manager::reloading),
    }
}

/// Reads a file, for the node of this identity if that is known.
pub(crate) fn read_config(file: &Path, own: Option<Identity>) -> anyhow::Result<Config> {
    let text = read_text(file)
        .with_context(|| format!("cannot read the configuration {}", file.display()))?;
    let name = file.display().to_string();
    Ok(match own {
        Some(own) => config::parse_as(&text, &name, own)?,
        None => config::parse(&text, &name)?,
    })
}

/// A file's text, or so much of it that the parser refuses it as too long.
fn read_text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let limit = CONFIG_BYTES_MAX as u64 + 1;
    File::open(file)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

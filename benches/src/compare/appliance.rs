//! The appliance as a contender: a process with a state directory of its own.

use crate::compare::contender::{Flows, Setting};
use crate::compare::process::{RelayProcess, beside_this_program, find_program};
use crate::swarm::dial::RelayAddress;
use crate::swarm::rounds::Swarm;
use crate::swarm::shape::Shape;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;
use waystation_management::stats_socket::client;

/// Variables that would tell it where to keep things.
const PLACES: [&str; 5] =
    ["STATE_DIRECTORY", "RUNTIME_DIRECTORY", "XDG_STATE_HOME", "HOME", "NOTIFY_SOCKET"];

/// How data cores talk to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    IoUring,
    Epoll,
}

impl Port {
    fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// A running appliance. Dropped, it is killed.
#[derive(Debug)]
pub struct Appliance {
    pub process: RelayProcess,
    pub relay: RelayAddress,
    pub socket: PathBuf,
    _directory: TempDir,
}

impl Appliance {
    /// Starts one with its data core on the relay's processor and its management on the
    /// generator's.
    ///
    /// # Errors
    ///
    /// When it is not built, does not start, or does not say where it is.
    pub fn start(port: Port, setting: &Setting) -> Result<Self> {
        let cpus = format!("cores = 1\ncpus = [{}]", setting.relay_cpu);
        let management = format!("cpu = {}", setting.generator_cpu);
        Self::start_with(port, &cpus, &management, setting)
    }

    /// The same with other lines for `[engine]` and `[management]`.
    ///
    /// # Errors
    ///
    /// As [`Appliance::start`].
    pub fn start_with(
        port: Port,
        engine: &str,
        management: &str,
        setting: &Setting,
    ) -> Result<Self> {
        let program = program()?;
        let directory = TempDir::new().context("making a directory")?;
        let file = directory.path().join("waystation.toml");
        // Generators are silent while others have their rounds, so nobody is to be pinged.
        let text = format!(
            "[listen]\naddresses = [\"127.0.0.1:0\"]\n[engine]\nport = \"{}\"\naead = \"{}\"\n\
             {engine}\n[relay]\nping_interval = \"1h\"\n[management]\nlog = \"warn\"\n\
             {management}\n",
            port.name(),
            setting.aead,
        );
        fs::write(&file, text).context("writing the configuration")?;
        let state = directory.path().join("state");
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
        for name in PLACES {
            command.env_remove(name);
        }
        let mut process = RelayProcess::start(command, None, &directory.path().join("log"))?;
        let socket = state.join("waystation.sock");
        process.wait_ready(|| client::get(&socket, "/ready").ok()).context("waystation")?;
        let status = document(&socket, "/v1/status")?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("an odd status");
        let suite = text(&status["aead"]["suite"])?;
        let relay = RelayAddress {
            address: text(&status["listen"][0])?.parse().context("an odd address")?,
            identity: text(&status["identity"])?.parse().context("an odd identity")?,
            suite: suite.parse().with_context(|| format!("the appliance seals with {suite}"))?,
        };
        Ok(Self { process, relay, socket, _directory: directory })
    }

    /// What its stats socket says.
    ///
    /// # Errors
    ///
    /// When it does not answer with JSON.
    pub fn document(&self, path: &str) -> Result<Value> {
        document(&self.socket, path)
    }
}

fn document(socket: &std::path::Path, path: &str) -> Result<Value> {
    let answer = client::get(socket, path).with_context(|| format!("asking for {path}"))?;
    serde_json::from_slice(&answer).with_context(|| format!("reading {path}"))
}

/// The program that is measured: named by the environment, or beside this one.
///
/// # Errors
///
/// When it is not there.
pub fn program() -> Result<PathBuf> {
    let named = std::env::var_os("WAYSTATION_BINARY").map(PathBuf::from);
    // A test runs one folder deeper than programs are built.
    let places = [
        named.unwrap_or_default(),
        beside_this_program("waystation")?,
        beside_this_program("../waystation")?,
    ];
    find_program(&places).context(
        "waystation is not built: cargo build --release -p waystation, or name it by \
                  WAYSTATION_BINARY",
    )
}

/// Flows through an appliance of their own.
///
/// # Errors
///
/// When it does not start or the flows cannot be set up.
pub fn flows(port: Port, shape: Shape, setting: &Setting) -> Result<Flows<Appliance>> {
    let appliance = Appliance::start(port, setting)?;
    let swarm = Swarm::through_links(&appliance.relay, &[shape], setting.clock)?;
    let watched = appliance.process.watched();
    Ok(Flows { swarm, shape, watched, kept: appliance })
}

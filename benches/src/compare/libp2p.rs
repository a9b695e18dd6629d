//! libp2p's circuit relay as a contender: Noise and yamux per hop, its limits lifted. Relay and
//! generator are small programs in benches/peers.

use crate::compare::contender::{Contender, Entry, Setting};
use crate::compare::driven::Driven;
use crate::compare::process::{NOT_INSTALLED, RelayProcess, find_program};
use crate::swarm::shape::Shape;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Its name in tables.
pub const LIBP2P: &str = "libp2p relay";

/// A running relay.
#[derive(Debug)]
pub struct Libp2pRelay {
    pub process: RelayProcess,
    /// Its address with its peer id, as others dial it.
    pub address: String,
    _directory: TempDir,
}

impl Libp2pRelay {
    /// Starts it on the relay's processor.
    ///
    /// # Errors
    ///
    /// When it does not say where it listens.
    pub fn start(program: &Path, setting: &Setting) -> Result<Self> {
        let directory = TempDir::new().context("making a directory")?;
        let log = directory.path().join("log");
        let command = Command::new(program);
        let mut process = RelayProcess::start(command, Some(setting.relay_cpu), &log)?;
        let address = process.wait_ready(|| {
            let said = std::fs::read_to_string(&log).ok()?;
            Some(said.strip_suffix('\n')?.strip_prefix("listening ")?.to_owned())
        })?;
        Ok(Self { process, address, _directory: directory })
    }
}

/// Relay and driver, when both are installed.
pub fn programs(peers: &Path) -> Option<(PathBuf, PathBuf)> {
    let program = |name: &str| find_program(&[peers.join("bin").join(name)]);
    Some((program("libp2p-relay")?, program("libp2p-driver")?))
}

/// Flows through it, or that it is not installed.
///
/// # Errors
///
/// When it is installed and does not work.
pub fn entry(shape: Shape, setting: &Setting) -> Result<Entry> {
    let Some((relay, driver)) = programs(&setting.peers) else {
        return Ok((LIBP2P, Err(NOT_INSTALLED.to_owned())));
    };
    let relay = Libp2pRelay::start(&relay, setting).context(LIBP2P)?;
    let arguments = [relay.address.clone(), relay.process.id().to_string()];
    let driven = Driven::start(&driver, &arguments, &shape, setting.generator_cpu, relay);
    let contender: Box<dyn Contender> = Box::new(driven.context(LIBP2P)?);
    Ok((LIBP2P, Ok(contender)))
}

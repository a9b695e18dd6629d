//! iroh-relay as a contender, over plain HTTP so that no TLS is paid for. Its generator is a small
//! program in benches/peers.

use crate::compare::contender::{Contender, Entry, Setting};
use crate::compare::driven::Driven;
use crate::compare::process::{NOT_INSTALLED, RelayProcess, find_program, free_address};
use crate::swarm::shape::Shape;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Relay and driver, when both are installed.
pub fn programs(peers: &Path) -> Option<(PathBuf, PathBuf)> {
    let program = |name: &str| find_program(&[peers.join("bin").join(name)]);
    Some((program("iroh-relay")?, program("iroh-driver")?))
}

/// Flows through it under the name given, or that it is not installed.
///
/// # Errors
///
/// When it is installed and does not work.
pub fn entry(name: &'static str, shape: Shape, setting: &Setting) -> Result<Entry> {
    let Some((relay, driver)) = programs(&setting.peers) else {
        return Ok((name, Err(NOT_INSTALLED.to_owned())));
    };
    let contender = start(&relay, &driver, shape, setting).context(name)?;
    Ok((name, Ok(contender)))
}

fn start(
    relay: &Path,
    driver: &Path,
    shape: Shape,
    setting: &Setting,
) -> Result<Box<dyn Contender>> {
    let directory = TempDir::new().context("making a directory")?;
    let listen = free_address()?;
    let file = directory.path().join("iroh-relay.toml");
    let text = format!("http_bind_addr = \"{listen}\"\nenable_metrics = false\n");
    std::fs::write(&file, text).context("writing the configuration")?;
    let mut command = Command::new(relay);
    command.arg("--dev").arg("--config-path").arg(&file);
    let log = directory.path().join("log");
    let mut process = RelayProcess::start(command, Some(setting.relay_cpu), &log)?;
    process.wait_listening(listen)?;
    let arguments = [listen.to_string(), process.id().to_string()];
    let kept = (process, directory);
    let driven = Driven::start(driver, &arguments, &shape, setting.generator_cpu, kept)?;
    Ok(Box::new(driven))
}

//! The control as a contender: see [`crate::control`].

use crate::compare::contender::{Contender, Entry, Flows, Setting};
use crate::compare::process::{RelayProcess, beside_this_program};
use crate::swarm::dial::RelayAddress;
use crate::swarm::rounds::Swarm;
use crate::swarm::shape::Shape;
use anyhow::{Context, Result};
use std::fs;
use std::process::Command;
use tempfile::TempDir;
use waystation_astral::aead::AeadSuite;

/// Its name in tables.
pub const CONTROL: &str = "per-frame async control";

/// Flows through a control of their own that seals with `suite`, the appliance's.
///
/// # Errors
///
/// When it is not built or does not work.
pub fn entry(shape: Shape, suite: AeadSuite, setting: &Setting) -> Result<Entry> {
    let flows = flows(shape, suite, setting).context(CONTROL)?;
    let contender: Box<dyn Contender> = Box::new(flows);
    Ok((CONTROL, Ok(contender)))
}

fn flows(
    shape: Shape,
    suite: AeadSuite,
    setting: &Setting,
) -> Result<Flows<(RelayProcess, TempDir)>> {
    let directory = TempDir::new().context("making a directory")?;
    let log = directory.path().join("log");
    let mut command = Command::new(beside_this_program("astral-control")?);
    command.arg("--aead").arg(suite.to_string());
    let mut process = RelayProcess::start(command, Some(setting.relay_cpu), &log)?;
    let relay = process.wait_ready(|| {
        let said = fs::read_to_string(&log).ok()?;
        let (address, identity) =
            said.strip_suffix('\n')?.strip_prefix("listening ")?.split_once(' ')?;
        let (address, identity) = (address.parse().ok()?, identity.parse().ok()?);
        Some(RelayAddress { address, identity, suite })
    })?;
    let swarm = Swarm::through_links(&relay, &[shape], setting.clock)?;
    let watched = process.watched();
    Ok(Flows { swarm, shape, watched, kept: (process, directory) })
}

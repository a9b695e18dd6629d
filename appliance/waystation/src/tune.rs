//! `tune`: plans for this machine, carried out, checked, and taken back.

use crate::appliance::allowed_cpus;
use crate::arguments::{TuneArguments, TuneCommand};
use crate::exit::Unmet;
use crate::questions::print;
use crate::run::read_config;
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use waystation_management::config::Config;
use waystation_tuning::apply::{apply, undo};
use waystation_tuning::catalog::Catalog;
use waystation_tuning::inventory::Inventory;
use waystation_tuning::machine::Machine;
use waystation_tuning::plan::{Scope, plan};
use waystation_tuning::{remote, render};

/// Root's own place: the state directory belongs to the user that the service runs as, who must not
/// tell root what to set.
const UNDO_FILE: &str = "/var/lib/waystation-tuning/tuning.undo";

/// `waystation tune`
pub(crate) fn tune(command: &TuneCommand) -> anyhow::Result<()> {
    let machine = Machine::this();
    match command {
        TuneCommand::Plan(arguments) => {
            let plan = plan(&machine, &catalog(arguments)?, &scope(arguments, &machine)?)?;
            show(&plan, arguments.json, render::plan)
        }
        TuneCommand::Verify(arguments) => {
            let plan = plan(&machine, &catalog(arguments)?, &scope(arguments, &machine)?)?;
            show(&plan, arguments.json, render::verify)?;
            met(plan.steps.len(), "not as planned; waystation tune apply sets it")
        }
        TuneCommand::Apply(arguments) => {
            as_root("tune apply")?;
            let (catalog, scope) = (catalog(arguments)?, scope(arguments, &machine)?);
            let applied = apply(&machine, &catalog, &scope, undo_file(arguments))?;
            show(&applied, arguments.json, render::applied)?;
            met(applied.refused.len(), "refused by the kernel or the driver")
        }
        TuneCommand::Undo(arguments) => {
            as_root("tune undo")?;
            let scope = Scope {
                nic: arguments.nic.clone(),
                machine_only: arguments.machine_only,
                protected: protected(arguments, &machine)?,
                ..Scope::default()
            };
            let undone = undo(&machine, &scope, undo_file(arguments))?;
            show(&undone, arguments.json, render::undone)?;
            met(undone.refused.len(), "could not be taken back")
        }
    }
}

fn catalog(arguments: &TuneArguments) -> anyhow::Result<Catalog> {
    Ok(Catalog::read(Some(&arguments.profiles))?)
}

fn scope(arguments: &TuneArguments, machine: &Machine) -> anyhow::Result<Scope> {
    let config = match &arguments.config {
        Some(file) => read_config(file, None)?,
        None => Config::default(),
    };
    Ok(Scope {
        nic: arguments.nic.clone(),
        machine_only: arguments.machine_only,
        include_unverified: arguments.include_unverified,
        protected: protected(arguments, machine)?,
        cores: Some(config.engine.cores).filter(|cores| *cores > 0),
        cpus: config.engine.cpus,
        allowed: Some(allowed_cpus()),
    })
}

/// Processors, and what a plan says of the NICs and would set, as JSON.
pub(crate) fn inventory(config: &Config, profiles: &Path) -> anyhow::Result<String> {
    let machine = Machine::this();
    let scope = Scope {
        cores: Some(config.engine.cores).filter(|cores| *cores > 0),
        cpus: config.engine.cpus.clone(),
        allowed: Some(allowed_cpus()),
        ..Scope::default()
    };
    let plan = plan(&machine, &Catalog::read(Some(profiles))?, &scope)?;
    let cpus = Inventory::read(&machine).cpus;
    Ok(serde_json::json!({ "schema": 1, "cpus": cpus, "plan": plan }).to_string())
}

/// The interfaces to leave alone, with the reason.
fn protected(
    arguments: &TuneArguments,
    machine: &Machine,
) -> anyhow::Result<BTreeMap<String, String>> {
    if arguments.even_if_remote {
        return Ok(BTreeMap::new());
    }
    let own = std::env::var(remote::SSH_CONNECTION).ok();
    let sessions = remote::sessions(machine, own.as_deref(), std::process::id());
    remote::carrying(machine, &Inventory::read(machine), &sessions)
        .map_err(|error| Unmet(error.to_string()).into())
}

fn undo_file(arguments: &TuneArguments) -> &Path {
    arguments.undo_file.as_deref().unwrap_or(Path::new(UNDO_FILE))
}

/// Said before anything is looked at, instead of once for each step.
fn as_root(what: &str) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let refused = io::Error::from(io::ErrorKind::PermissionDenied);
    Err(refused).with_context(|| format!("{what} changes the machine and needs root"))
}

fn met(count: usize, what: &str) -> anyhow::Result<()> {
    if count == 0 { Ok(()) } else { Err(Unmet(format!("{count} {what}")).into()) }
}

fn show<T: Serialize>(
    document: &T,
    json: bool,
    render: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string(document)? + "\n" } else { render(document) };
    print(text.as_bytes())
}

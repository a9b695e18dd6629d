//! Carrying a plan out, checking it, and taking it back.
//!
//! On the thread of the command, one step after the other, as root. The undo file is on the disk
//! before the first step. A step that the kernel refuses is reported and the others go on; nothing
//! is tried twice.

use crate::catalog::Catalog;
use crate::inventory::{Inventory, Irq};
use crate::limits::ROUNDS_MAX;
use crate::machine::{Machine, MachineError, Target};
use crate::plan::{Plan, PlanError, Scope, Step, plan};
use crate::undo::{Entry, UndoError, UndoFile};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// Why tuning ended early.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Undo(#[from] UndoError),
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// A step that did not come about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    pub what: String,
    pub to: String,
    pub reason: String,
}

/// What `apply` has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Applied {
    pub schema: u32,
    pub done: Vec<Step>,
    pub refused: Vec<Refused>,
    /// What is left alone, as in a plan.
    pub held_back: Vec<Step>,
}

/// Sets what is not as it should be.
///
/// # Errors
/// There is no plan, or the undo file cannot be written; in that case nothing has been changed.
pub fn apply(
    machine: &Machine,
    catalog: &Catalog,
    scope: &Scope,
    undo: &Path,
) -> Result<Applied, ApplyError> {
    let mut applied =
        Applied { schema: 1, done: Vec::new(), refused: Vec::new(), held_back: Vec::new() };
    let mut tried: BTreeSet<Target> = BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        let Plan { steps, held_back, .. } = plan(machine, catalog, scope)?;
        applied.held_back = held_back;
        let steps: Vec<Step> =
            steps.into_iter().filter(|step| !tried.contains(&step.target)).collect();
        if steps.is_empty() {
            break;
        }
        let mut file = UndoFile::read(undo, machine)?;
        for step in &steps {
            let before = machine.read(&step.target)?.unwrap_or_default();
            file.remember(step.target.clone(), before, step.to.clone());
        }
        file.write(undo)?;
        let mut is_settled = true;
        for step in steps {
            tried.insert(step.target.clone());
            match set(machine, &step.target, &step.to) {
                Ok(()) => applied.done.push(step),
                Err(reason) => {
                    // Undoing tells what a driver made of it from what an administrator did.
                    if let Ok(Some(now)) = machine.read(&step.target) {
                        file.settle(&step.target, now.trim());
                        is_settled = false;
                    }
                    applied.refused.push(Refused { what: step.what, to: step.to, reason });
                }
            }
        }
        if !is_settled {
            file.write(undo)?;
        }
    }
    Ok(applied)
}

/// What `undo` has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Undone {
    pub schema: u32,
    /// What is as it was.
    pub restored: Vec<String>,
    pub refused: Vec<Refused>,
    /// What was not touched.
    pub left_alone: Vec<LeftAlone>,
}

/// Something that was not taken back, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftAlone {
    pub what: String,
    pub reason: String,
}

/// Takes back what was set since the machine started and `scope` is about, the last first. What
/// cannot be restored, or is not to be, stays in the undo file. What somebody else has set since is
/// theirs: it is left alone and no longer remembered.
///
/// # Errors
/// The undo file cannot be read or written, or the scope names a NIC that is not to be touched.
pub fn undo(machine: &Machine, scope: &Scope, path: &Path) -> Result<Undone, ApplyError> {
    if let Some(nic) = &scope.nic
        && let Some(reason) = scope.protected.get(nic)
    {
        let (nic, reason) = (nic.clone(), reason.clone());
        return Err(PlanError::Protected { nic, reason }.into());
    }
    let mut file = UndoFile::read(path, machine)?;
    let inventory = Inventory::read(machine);
    let mut undone =
        Undone { schema: 1, restored: Vec::new(), refused: Vec::new(), left_alone: Vec::new() };
    let mut left = Vec::new();
    for entry in file.entries.into_iter().rev() {
        let what = entry.target.to_string();
        if let Some(reason) = reason_to_leave(&entry.target, scope, &inventory) {
            undone.left_alone.push(LeftAlone { what, reason });
            left.push(entry);
            continue;
        }
        if let Some(reason) = changed_since(machine, &entry) {
            undone.left_alone.push(LeftAlone { what, reason });
            continue;
        }
        match restore(machine, &entry.target, &entry.before) {
            Ok(()) => undone.restored.push(what),
            Err(reason) => {
                let to = entry.before.trim().to_owned();
                undone.refused.push(Refused { what, to, reason });
                left.push(entry);
            }
        }
    }
    left.reverse();
    file.entries = left;
    file.write(path)?;
    Ok(undone)
}

/// Sets something and looks whether it is so.
fn set(machine: &Machine, target: &Target, to: &str) -> Result<(), String> {
    machine.write(target, to).map_err(|error| error.to_string())?;
    let now = machine.read(target).map_err(|error| error.to_string())?.unwrap_or_default();
    if is_same(target, now.trim(), to) {
        Ok(())
    } else {
        Err(format!("it is {} now, which the kernel or the driver has made of it", now.trim()))
    }
}

/// As [`set`], for what need not be written because nobody has changed it, or it was never changed.
fn restore(machine: &Machine, target: &Target, before: &str) -> Result<(), String> {
    match machine.read(target) {
        Ok(Some(now)) if now == before => Ok(()),
        // A NIC that is gone took its settings along.
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => set(machine, target, before.trim()),
    }
}

/// Masks may be written with other zeros than they are read.
fn is_same(target: &Target, now: &str, to: &str) -> bool {
    let is_mask = matches!(target, Target::File { path } if path.ends_with("xps_cpus"));
    let masks = || crate::cpu_list::parse_mask(now) == crate::cpu_list::parse_mask(to);
    now == to || (is_mask && masks())
}

/// Why an entry is not to be undone now.
fn reason_to_leave(target: &Target, scope: &Scope, inventory: &Inventory) -> Option<String> {
    if scope.machine_only && is_of_nics(target) {
        return Some("only the machine itself was asked for".to_owned());
    }
    let owners = owners(target, inventory);
    if let Some(nic) = &scope.nic
        && !owners.contains(&nic.as_str())
    {
        return Some(format!("only {nic} was asked for"));
    }
    owners.into_iter().find_map(|nic| {
        let reason = scope.protected.get(nic)?;
        Some(format!("{nic} {reason}; --even-if-remote undoes it all the same"))
    })
}

/// What says that somebody else has set something after it was tuned.
fn changed_since(machine: &Machine, entry: &Entry) -> Option<String> {
    let now = machine.read(&entry.target).ok()??;
    let (now, before) = (now.trim(), entry.before.trim());
    let is_ours = |wanted: &str| is_same(&entry.target, now, wanted.trim());
    (!is_ours(&entry.after) && !is_ours(before)).then(|| {
        let after = &entry.after;
        format!("it was changed to {now} after it was set to {after}; it was {before} before")
    })
}

/// Whether something is of NICs, and not of the machine itself.
fn is_of_nics(target: &Target) -> bool {
    match target {
        Target::File { path } => {
            path.starts_with("sys/class/net/") || path.starts_with("proc/irq/")
        }
        Target::Feature { .. }
        | Target::Channels { .. }
        | Target::Ring { .. }
        | Target::Coalesce { .. } => true,
    }
}

/// The NICs that something is of; several may share an interrupt.
fn owners<'a>(target: &'a Target, inventory: &'a Inventory) -> Vec<&'a str> {
    match target {
        Target::Feature { nic, .. }
        | Target::Channels { nic }
        | Target::Ring { nic, .. }
        | Target::Coalesce { nic, .. } => vec![nic],
        Target::File { path } => match path.strip_prefix("sys/class/net/") {
            Some(below) => below.split('/').take(1).collect(),
            None => {
                let number = path.strip_prefix("proc/irq/").and_then(|it| it.split('/').next());
                let number = number.and_then(|number| number.parse::<u64>().ok());
                let has = |irq: &Irq| Some(irq.number) == number;
                let nics = inventory.nics.iter().filter(|nic| nic.irqs.iter().any(has));
                nics.map(|nic| nic.name.as_str()).collect()
            }
        },
    }
}

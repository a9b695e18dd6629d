//! Carrying a plan out, checking it, and taking it back.
//!
//! On the thread of the command, one step after the other, as root. The undo file is on the disk
//! before the first step. A step that the kernel refuses is reported and the others go on; nothing
//! is tried twice.

use crate::catalog::Catalog;
use crate::limits::ROUNDS_MAX;
use crate::machine::{Machine, MachineError, Target};
use crate::plan::{Plan, PlanError, Scope, Step, plan};
use crate::undo::{UndoError, UndoFile};
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
        for step in steps {
            tried.insert(step.target.clone());
            match set(machine, &step.target, &step.to) {
                Ok(()) => applied.done.push(step),
                Err(reason) => {
                    applied.refused.push(Refused { what: step.what, to: step.to, reason });
                }
            }
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
}

/// Takes back everything that was set since the machine started, the last first. What cannot be
/// restored stays in the undo file.
///
/// # Errors
/// The undo file cannot be read or written.
pub fn undo(machine: &Machine, nic: Option<&str>, path: &Path) -> Result<Undone, ApplyError> {
    let mut file = UndoFile::read(path, machine)?;
    let mut undone = Undone { schema: 1, restored: Vec::new(), refused: Vec::new() };
    let mut left = Vec::new();
    for entry in file.entries.into_iter().rev() {
        let is_other = nic.is_some_and(|nic| !belongs_to(&entry.target, nic, machine));
        if is_other {
            left.push(entry);
            continue;
        }
        match restore(machine, &entry.target, &entry.before) {
            Ok(()) => undone.restored.push(entry.target.to_string()),
            Err(reason) => {
                let (what, to) = (entry.target.to_string(), entry.before.trim().to_owned());
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

/// Whether something is a NIC's.
fn belongs_to(target: &Target, nic: &str, machine: &Machine) -> bool {
    match target {
        Target::Feature { nic: of, .. }
        | Target::Channels { nic: of }
        | Target::Ring { nic: of, .. }
        | Target::Coalesce { nic: of, .. } => of == nic,
        Target::File { path } => {
            let is_irq = |number: u64| path == &format!("proc/irq/{number}/smp_affinity_list");
            path.starts_with(&format!("sys/class/net/{nic}/")) || {
                let inventory = crate::inventory::Inventory::read(machine);
                inventory.nic(nic).is_some_and(|nic| nic.irqs.iter().any(|irq| is_irq(irq.number)))
            }
        }
    }
}

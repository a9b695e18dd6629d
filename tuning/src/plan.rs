//! What to set, from what to what, why, and who says so.
//!
//! Made from the inventory, the profiles and the core layout, on the thread of the command; changes
//! nothing. A plan for a machine that is set already has no steps.

mod host;
mod nic;

use crate::catalog::{Catalog, Subject};
use crate::inventory::{Inventory, Nic};
use crate::layout::{Layout, Wish, lay_out};
use crate::machine::{Machine, MachineError, Target};
use crate::profile::{Key, Setting, Status, Value};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::ErrorKind;

/// What a plan is to be about.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// One NIC and nothing else. Absent: all devices that are up, and the machine itself.
    pub nic: Option<String>,
    /// The machine itself and no NIC.
    pub machine_only: bool,
    /// Also what nobody has looked at.
    pub include_unverified: bool,
    /// NICs to leave alone, with the reason.
    pub protected: BTreeMap<String, String>,
    /// Data cores of the configuration. Absent: as many as are sensible.
    pub cores: Option<usize>,
    /// CPUs that the configuration names for them.
    pub cpus: Vec<usize>,
    /// CPUs that the program may run on. Absent: all that are on.
    pub allowed: Option<Vec<usize>>,
}

/// One thing to set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// In words; `target` says the same for programs.
    pub what: String,
    pub target: Target,
    pub from: String,
    pub to: String,
    pub why: String,
    pub source: String,
    pub status: Status,
    /// Whether the NIC is down for a moment.
    pub is_disruptive: bool,
}

/// Something to know about a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    pub key: Key,
    #[serde(flatten)]
    pub setting: Setting,
}

/// What a plan says about one NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NicPlan {
    pub nic: String,
    pub driver: Option<String>,
    pub pci_id: Option<String>,
    pub firmware: Option<String>,
    pub node: Option<usize>,
    pub profile: String,
    /// Where the profile is from.
    pub origin: String,
    /// Why it is this one.
    pub reason: String,
    pub notes: Vec<String>,
    pub facts: Vec<Fact>,
    /// What to do by hand, or to think about.
    pub remarks: Vec<String>,
    /// Why it is left alone, if it is.
    pub protected: Option<String>,
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub schema: u32,
    pub layout: Layout,
    pub nics: Vec<NicPlan>,
    /// In the order in which they are carried out.
    pub steps: Vec<Step>,
    /// What is as it should be.
    pub in_order: Vec<Step>,
    /// What nobody has looked at, and what belongs to a NIC that is left alone.
    pub held_back: Vec<Step>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// There is no such NIC.
    #[error("there is no Ethernet interface {0:?} here")]
    NoSuchNic(String),
    /// The NIC carries the operator's own connection.
    #[error("{nic} {reason}; --even-if-remote tunes it all the same")]
    Protected { nic: String, reason: String },
    /// Something cannot be read.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// What is wanted of one target, before it is known how it is set.
#[derive(Clone, Debug)]
struct Wanted {
    target: Target,
    to: Goal,
    why: String,
    source: String,
    status: Status,
    is_disruptive: bool,
}

/// What a target is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    /// Exactly this.
    Exactly(String),
    /// This or more.
    AtLeast(u64),
    /// These CPUs, as a mask.
    Mask(Vec<usize>),
    /// These CPUs, as a list.
    List(Vec<usize>),
}

/// Makes a plan.
///
/// # Errors
/// There is no such NIC, it is not to be touched, or something cannot be read.
pub fn plan(machine: &Machine, catalog: &Catalog, scope: &Scope) -> Result<Plan, PlanError> {
    let inventory = Inventory::read(machine);
    let nics: Vec<&Nic> = match &scope.nic {
        Some(name) => {
            let nic = inventory.nic(name).ok_or_else(|| PlanError::NoSuchNic(name.clone()))?;
            if let Some(reason) = scope.protected.get(name) {
                return Err(PlanError::Protected { nic: name.clone(), reason: reason.clone() });
            }
            vec![nic]
        }
        None if scope.machine_only => Vec::new(),
        None => inventory.nics.iter().filter(|nic| nic.is_device && nic.is_up).collect(),
    };
    let layout = layout_of(&inventory, &nics, scope);
    let mut plan = Plan {
        schema: 1,
        layout,
        nics: Vec::new(),
        steps: Vec::new(),
        in_order: Vec::new(),
        held_back: Vec::new(),
    };
    for each in nics {
        let found = catalog.find(Subject {
            driver: each.driver.as_deref(),
            pci_id: each.pci_id.as_deref(),
            firmware: each.settings.firmware.as_deref(),
        });
        let protected = scope.protected.get(&each.name).cloned();
        let wanted = nic::wanted(each, &found.entry.profile, &plan.layout.data);
        plan.sort_in(machine, wanted, scope.include_unverified, protected.is_some())?;
        plan.nics.push(nic::describe(each, &found, protected));
    }
    if scope.nic.is_none() {
        let wanted = host::wanted(machine, &plan.layout.data);
        plan.sort_in(machine, wanted, scope.include_unverified, false)?;
    }
    Ok(plan)
}

/// The layout that the program would choose for this configuration.
fn layout_of(inventory: &Inventory, nics: &[&Nic], scope: &Scope) -> Layout {
    let own = nics.first().and_then(|nic| nic.node).filter(|_| scope.nic.is_some());
    let node = own.or_else(|| inventory.nic_node());
    let allowed = scope.allowed.as_deref();
    let wish = Wish { allowed, node, cores: scope.cores, named: &scope.cpus };
    lay_out(&inventory.cpus, wish)
}

impl Plan {
    fn sort_in(
        &mut self,
        machine: &Machine,
        wanted: Vec<Wanted>,
        include_unverified: bool,
        is_protected: bool,
    ) -> Result<(), PlanError> {
        for wanted in wanted {
            // What a machine does not have, it does not need.
            let now = match machine.read(&wanted.target) {
                // An ordinary user plans with what is there to be seen.
                Err(MachineError::Read { source, .. })
                    if source.kind() == ErrorKind::PermissionDenied =>
                {
                    None
                }
                read => read?,
            };
            let Some(now) = now else { continue };
            let Some(is_met) = wanted.to.is_met(&now) else { continue };
            let is_unverified = wanted.status == Status::Unverified && !include_unverified;
            let step = wanted.into_step(now.trim());
            if is_met {
                self.in_order.push(step);
            } else if is_protected || is_unverified {
                self.held_back.push(step);
            } else {
                self.steps.push(step);
            }
        }
        Ok(())
    }
}

impl Goal {
    /// Whether it is so already; `None`: what is there is no such thing.
    fn is_met(&self, now: &str) -> Option<bool> {
        let now = now.trim();
        Some(match self {
            Self::Exactly(wanted) => now == wanted,
            Self::AtLeast(least) => now.parse::<u64>().ok()? >= *least,
            Self::Mask(cpus) => crate::cpu_list::parse_mask(now) == *cpus,
            Self::List(cpus) => crate::cpu_list::parse(now) == *cpus,
        })
    }
}

impl Wanted {
    /// From what a profile says.
    fn new(target: Target, to: Goal, setting: &Setting) -> Self {
        Self {
            target,
            to,
            why: setting.why.clone(),
            source: setting.source.clone(),
            status: setting.status,
            is_disruptive: false,
        }
    }

    fn disruptive(mut self) -> Self {
        self.is_disruptive = true;
        self
    }

    fn into_step(self, from: &str) -> Step {
        let to = match self.to {
            Goal::Exactly(text) => text,
            Goal::AtLeast(least) => least.to_string(),
            Goal::Mask(cpus) => crate::cpu_list::format_mask(&cpus),
            Goal::List(cpus) => crate::cpu_list::format(&cpus),
        };
        Step {
            what: self.target.to_string(),
            target: self.target,
            from: from.to_owned(),
            to,
            why: self.why,
            source: self.source,
            status: self.status,
            is_disruptive: self.is_disruptive,
        }
    }
}

/// A word that stands for the data cores.
fn is_data_cores(value: &Value) -> bool {
    *value == Value::Word("data-cores".to_owned())
}

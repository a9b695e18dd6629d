//! What the machine is: its processors and NICs, as values.
//!
//! Read once for each command, through [`Machine`](crate::machine::Machine) alone. What the machine
//! does not say is absent here, never guessed.

mod cpus;
mod nics;

pub use cpus::{Cpu, Cpus};
pub use nics::{Irq, Nic};

use crate::machine::Machine;

/// The NUMA node of the devices that carry traffic, if they are on one and the same; without
/// asking the devices for anything else.
pub fn nic_node(machine: &Machine) -> Option<usize> {
    nics::common_node(machine)
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Inventory {
    pub cpus: Cpus,
    /// Ethernet interfaces, sorted by name.
    pub nics: Vec<Nic>,
}

impl Inventory {
    /// Takes it.
    pub fn read(machine: &Machine) -> Self {
        Self { cpus: Cpus::read(machine), nics: nics::read(machine) }
    }

    /// A NIC by name.
    pub fn nic(&self, name: &str) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.name == name)
    }

    /// The NUMA node of the devices that carry traffic, if they are on one and the same.
    pub fn nic_node(&self) -> Option<usize> {
        let mut nodes = self.nics.iter().filter(|nic| nic.is_device && nic.is_up);
        let first = nodes.next()?.node?;
        nodes.all(|nic| nic.node == Some(first)).then_some(first)
    }
}

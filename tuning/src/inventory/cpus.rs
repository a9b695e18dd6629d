//! Processors: which hardware threads share a core, where memory is near, which cores are small.

use crate::machine::Machine;
use serde::Serialize;

/// One hardware thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    pub id: usize,
    /// All threads of its core, itself among them. Only itself where the machine does not say.
    pub siblings: Vec<usize>,
    pub node: Option<usize>,
    /// Whether it is one of the small cores of a machine that has two kinds.
    pub is_efficient: bool,
    /// Whether the kernel keeps other work away from it (`isolcpus`).
    pub is_isolated: bool,
}

/// The hardware threads that are on, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cpus(pub Vec<Cpu>);

const CPUS: &str = "sys/devices/system/cpu";
const NODES: &str = "sys/devices/system/node";

impl Cpus {
    /// Those of a machine.
    pub fn read(machine: &Machine) -> Self {
        let isolated = machine.list(&format!("{CPUS}/isolated")).unwrap_or_default();
        // Intel says which are small; Arm gives each a capacity.
        let small = machine.list("sys/devices/cpu_atom/cpus").unwrap_or_default();
        let nodes = nodes(machine);
        let online = machine.list(&format!("{CPUS}/online")).unwrap_or_default();
        let capacity = |id| machine.number(&format!("{CPUS}/cpu{id}/cpu_capacity"));
        let most = online.iter().filter_map(|&id| capacity(id)).max();
        let cpu = |id: usize| Cpu {
            id,
            siblings: siblings(machine, id),
            node: nodes.iter().find(|(_, cpus)| cpus.contains(&id)).map(|(node, _)| *node),
            is_efficient: small.contains(&id) || capacity(id) < most,
            is_isolated: isolated.contains(&id),
        };
        Self(online.into_iter().map(cpu).collect())
    }

    /// Whether any core has more than one thread.
    pub fn is_multithreaded(&self) -> bool {
        self.0.iter().any(|cpu| cpu.siblings.len() > 1)
    }

    /// The NUMA nodes that have processors.
    pub fn nodes(&self) -> Vec<usize> {
        let mut nodes: Vec<usize> = self.0.iter().filter_map(|cpu| cpu.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

fn siblings(machine: &Machine, id: usize) -> Vec<usize> {
    let topology = format!("{CPUS}/cpu{id}/topology");
    // `core_cpus_list` is the newer name, Linux 5.3.
    let listed = machine
        .list(&format!("{topology}/core_cpus_list"))
        .or_else(|| machine.list(&format!("{topology}/thread_siblings_list")));
    listed.filter(|siblings| siblings.contains(&id)).unwrap_or_else(|| vec![id])
}

fn nodes(machine: &Machine) -> Vec<(usize, Vec<usize>)> {
    let node = |name: String| {
        let number = name.strip_prefix("node")?.parse().ok()?;
        Some((number, machine.list(&format!("{NODES}/{name}/cpulist"))?))
    };
    machine.names(NODES).into_iter().filter_map(node).collect()
}

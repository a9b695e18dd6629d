//! Ethernet interfaces: the device behind each, its queues and interrupts, and how it is set.

use crate::machine::{Machine, NicSettings};
use serde::Serialize;

/// An Ethernet interface.
#[derive(Clone, Debug, Default)]
pub struct Nic {
    pub name: String,
    /// The driver of a device, the kind of a virtual interface.
    pub driver: Option<String>,
    /// `vendor:device` of PCI, also of the device behind a virtio one.
    pub pci_id: Option<String>,
    pub node: Option<usize>,
    pub mtu_bytes: Option<u64>,
    pub is_up: bool,
    /// Whether there is a device behind it, real or a hypervisor's.
    pub is_device: bool,
    pub tx_queues: usize,
    pub irqs: Vec<Irq>,
    /// Interfaces that this one stands on.
    pub lowers: Vec<String>,
    pub settings: NicSettings,
}

/// An interrupt of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Irq {
    pub number: u64,
    /// As `/proc/interrupts` names it.
    pub name: String,
    pub queue: usize,
}

/// ARPHRD_ETHER (`linux/if_arp.h`).
const ETHERNET: u64 = 1;
/// Parts of names of interrupts that are not a queue's.
const NO_QUEUE: &[&str] = &[
    "async", "ctrl", "config", "control", "event", "fdir", "hung", "link", "mgmnt", "misc",
    "pages", "cmd", "ptp", "ll_ts", "oicr",
];

/// All of a machine.
pub(super) fn read(machine: &Machine) -> Vec<Nic> {
    let interrupts = interrupt_names(machine);
    let is_ethernet =
        |name: &String| machine.number(&format!("sys/class/net/{name}/type")) == Some(ETHERNET);
    let names = machine.names("sys/class/net").into_iter().filter(is_ethernet);
    names.map(|name| nic(machine, name, &interrupts)).collect()
}

/// See [`nic_node`](super::nic_node).
pub(super) fn common_node(machine: &Machine) -> Option<usize> {
    let is_meant = |name: &String| {
        let base = format!("sys/class/net/{name}");
        machine.exists(&format!("{base}/device")) && is_up(machine, &base)
    };
    let names = machine.names("sys/class/net").into_iter().filter(is_meant);
    let mut nodes = names.map(|name| node(machine, &device(machine, &name)));
    let first = nodes.next()??;
    nodes.all(|node| node == Some(first)).then_some(first)
}

/// Where PCI says what a device is; behind a virtio device that is the one below it.
fn device(machine: &Machine, name: &str) -> String {
    let device = format!("sys/class/net/{name}/device");
    match machine.link_name(&format!("{device}/subsystem")).as_deref() {
        Some("virtio") => format!("{device}/.."),
        Some(_) | None => device,
    }
}

/// -1 says that the machine has no nodes, or does not say.
fn node(machine: &Machine, device: &str) -> Option<usize> {
    machine.text(&format!("{device}/numa_node"))?.parse().ok()
}

fn is_up(machine: &Machine, base: &str) -> bool {
    machine.text(&format!("{base}/operstate")).is_some_and(|state| state != "down")
}

fn nic(machine: &Machine, name: String, interrupts: &[(u64, String)]) -> Nic {
    let base = format!("sys/class/net/{name}");
    // A NIC that went away meanwhile, or does not answer, has no settings.
    let settings = machine.nics().settings(&name).unwrap_or_default();
    let device = format!("{base}/device");
    let driver = machine.link_name(&format!("{device}/driver")).or_else(|| settings.kind.clone());
    let pci = self::device(machine, &name);
    let prefixed = |prefix: &str, directory: &str| -> Vec<String> {
        let names = machine.names(directory).into_iter();
        names.filter_map(|name| name.strip_prefix(prefix).map(str::to_owned)).collect()
    };
    Nic {
        driver,
        pci_id: pci_id(machine, &pci),
        node: node(machine, &pci),
        mtu_bytes: machine.number(&format!("{base}/mtu")),
        is_up: is_up(machine, &base),
        is_device: machine.exists(&device),
        tx_queues: prefixed("tx-", &format!("{base}/queues")).len(),
        irqs: irqs(machine, &name, &pci, interrupts),
        lowers: prefixed("lower_", &base),
        settings,
        name,
    }
}

fn pci_id(machine: &Machine, device: &str) -> Option<String> {
    let part = |file: &str| {
        let text = machine.text(&format!("{device}/{file}"))?;
        let digits = text.strip_prefix("0x")?;
        (digits.len() == 4).then(|| digits.to_lowercase())
    };
    Some(format!("{}:{}", part("vendor")?, part("device")?))
}

/// The interrupts of a device's queues, by queue.
fn irqs(machine: &Machine, nic: &str, device: &str, interrupts: &[(u64, String)]) -> Vec<Irq> {
    let mut numbers: Vec<u64> = machine
        .names(&format!("{device}/msi_irqs"))
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    if numbers.is_empty() {
        // A device without MSI has one; 0 stands for none.
        numbers.extend(machine.number(&format!("{device}/irq")).filter(|number| *number != 0));
    }
    let irq = |number: u64| {
        let (_, name) = interrupts.iter().find(|(each, _)| *each == number)?;
        Some(Irq { number, name: name.clone(), queue: queue_of(name, nic)? })
    };
    let mut irqs: Vec<Irq> = numbers.into_iter().filter_map(irq).collect();
    irqs.sort_by_key(|irq| (irq.queue, irq.number));
    irqs
}

/// The queue that an interrupt's name speaks of; `None`: it is not a queue's.
fn queue_of(name: &str, nic: &str) -> Option<usize> {
    if name == nic {
        return Some(0);
    }
    // Some name the device after the queue: `mlx5_comp3@pci:0000:01:00.0`.
    let name = name.split('@').next().unwrap_or(name);
    let after_nic = name.rsplit_once(nic).map_or(name, |(_, after)| after);
    let lower = after_nic.to_lowercase();
    if NO_QUEUE.iter().any(|part| lower.contains(part)) {
        return None;
    }
    let digits = lower.len() - lower.trim_end_matches(|digit: char| digit.is_ascii_digit()).len();
    lower[lower.len() - digits..].parse().ok()
}

/// Numbers and names of `/proc/interrupts`.
fn interrupt_names(machine: &Machine) -> Vec<(u64, String)> {
    let text = machine.text("proc/interrupts").unwrap_or_default();
    let line = |line: &str| {
        let (number, rest) = line.trim_start().split_once(':')?;
        Some((number.parse().ok()?, rest.split_whitespace().next_back()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::queue_of;

    #[test]
    fn the_queue_of_an_interrupt_is_in_its_name() {
        let cases = [
            ("virtio2-input.0", "eth0", Some(0)),
            ("virtio2-output.3", "eth0", Some(3)),
            ("virtio2-config", "eth0", None),
            ("eth0-Tx-Rx-5", "eth0", Some(5)),
            ("ena-mgmnt@pci:0000:00:05.0", "eth0", None),
            ("ice-enp1s0f0-TxRx-12", "enp1s0f0", Some(12)),
            ("ice-0000:01:00.0:misc", "enp1s0f0", None),
            ("i40e-enp1s0f0-TxRx-7", "enp1s0f0", Some(7)),
            ("i40e-0000:01:00.0:misc", "enp1s0f0", None),
            ("i40e-enp1s0f0:fdir-TxRx-0", "enp1s0f0", None),
            ("mlx5_comp3@pci:0000:41:00.0", "eth1", Some(3)),
            ("mlx5_async0@pci:0000:41:00.0", "eth1", None),
            ("enp3s0", "enp3s0", Some(0)),
            ("eth3", "eth3", Some(0)),
            ("eth1-rx-2", "eth1", Some(2)),
            ("gve-ntfy-blk4@pci:0000:00:04.0", "eth0", Some(4)),
            ("eno1np0-TxRx-11", "eno1np0", Some(11)),
        ];
        for (name, nic, queue) in cases {
            assert_eq!(queue_of(name, nic), queue, "{name}");
        }
    }
}

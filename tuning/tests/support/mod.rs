//! Machines that are not at hand, as trees below a temporary directory.
//!
//! `machines/*.tree` was captured: paths with their contents, as the machine had them.
//! `machines/*.toml` is a description, put together from what is known of such machines; a tree
//! with what this room reads is made from it.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test program includes this module and uses its own part of it; a test that \
              fails says where"
)]

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use waystation_tuning::cpu_list;
use waystation_tuning::machine::{Machine, NicSettings};

/// A machine in a directory of its own.
#[derive(Debug)]
pub struct Tree {
    directory: TempDir,
}

impl Tree {
    /// By the name of its file.
    pub fn new(name: &str) -> Self {
        let tree = Self { directory: TempDir::new().unwrap() };
        let file = machines().join(name);
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        if name.ends_with(".tree") {
            tree.unpack(&text);
        } else {
            let described: Described =
                toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            tree.build(&described);
        }
        tree
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn machine(&self) -> Machine {
        Machine::captured(self.root())
    }

    /// Writes a file, making directories as needed.
    pub fn put(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn link(&self, path: &str, target: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.root().join(path)).unwrap();
    }

    /// Every file with its contents, to compare.
    pub fn contents(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        collect(self.root(), &mut found);
        found
    }

    /// `path = text`, `path -> target`, or `path <<` with lines up to `>>`.
    fn unpack(&self, text: &str) {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        while let Some(line) = lines.next() {
            if let Some(path) = line.strip_suffix(" <<") {
                let block: Vec<&str> = lines.by_ref().take_while(|line| *line != ">>").collect();
                self.put(path, &(block.join("\n") + "\n"));
            } else if let Some((path, target)) = line.split_once(" -> ") {
                self.link(path, target);
            } else if let Some((path, text)) = line.split_once(" = ") {
                self.put(path, &format!("{text}\n"));
            }
        }
    }

    fn build(&self, machine: &Described) {
        self.put("proc/sys/kernel/random/boot_id", "7c9b1a52-0000-4000-8000-000000000001\n");
        for (path, text) in &machine.files {
            self.put(path, &format!("{text}\n"));
        }
        self.build_cpus(&machine.cpus);
        let mut interrupts = " ".repeat(12) + "CPU0\n";
        for nic in &machine.nics {
            self.build_nic(nic, &mut interrupts);
        }
        self.put("proc/interrupts", &interrupts);
    }

    fn build_cpus(&self, cpus: &DescribedCpus) {
        let cores = cpus.nodes * cpus.cores_per_node;
        let count = cores * cpus.threads;
        let base = "sys/devices/system/cpu";
        self.put(&format!("{base}/online"), &format!("0-{}\n", count - 1));
        self.put(&format!("{base}/isolated"), &format!("{}\n", cpus.isolated));
        let mut of_node = vec![Vec::new(); cpus.nodes];
        for id in 0..count {
            let core = if cpus.are_threads_adjacent { id / cpus.threads } else { id % cores };
            let thread = |thread: usize| {
                let adjacent = core * cpus.threads + thread;
                if cpus.are_threads_adjacent { adjacent } else { core + thread * cores }
            };
            let siblings: Vec<usize> = (0..cpus.threads).map(thread).collect();
            let topology = format!("{base}/cpu{id}/topology/core_cpus_list");
            self.put(&topology, &format!("{}\n", cpu_list::format(&siblings)));
            if let Some(capacity) = &cpus.capacity {
                let is_small = cpu_list::parse(&cpus.small).contains(&id);
                let capacity = if is_small { capacity[0] } else { capacity[1] };
                self.put(&format!("{base}/cpu{id}/cpu_capacity"), &format!("{capacity}\n"));
            }
            if cpus.has_governors {
                let cpufreq = format!("{base}/cpu{id}/cpufreq");
                let governors = "performance powersave\n";
                self.put(&format!("{cpufreq}/scaling_available_governors"), governors);
                self.put(&format!("{cpufreq}/scaling_governor"), "powersave\n");
            }
            of_node[core / cpus.cores_per_node].push(id);
        }
        if cpus.capacity.is_none() && !cpus.small.is_empty() {
            self.put("sys/devices/cpu_atom/cpus", &format!("{}\n", cpus.small));
        }
        for (node, ids) in of_node.iter().enumerate() {
            let list = format!("{}\n", cpu_list::format(ids));
            self.put(&format!("sys/devices/system/node/node{node}/cpulist"), &list);
        }
    }

    fn build_nic(&self, nic: &DescribedNic, interrupts: &mut String) {
        let base = format!("sys/class/net/{}", nic.name);
        self.put(&format!("{base}/type"), "1\n");
        self.put(&format!("{base}/mtu"), &format!("{}\n", nic.mtu));
        self.put(&format!("{base}/operstate"), if nic.is_up { "up\n" } else { "down\n" });
        for queue in 0..nic.queues {
            self.put(&format!("{base}/queues/rx-{queue}/rps_cpus"), "0\n");
            self.put(&format!("{base}/queues/tx-{queue}/xps_cpus"), "0\n");
        }
        for lower in &nic.lowers {
            self.link(&format!("{base}/lower_{lower}"), &format!("../{lower}"));
        }
        self.put(&format!("nics/{}.toml", nic.name), &toml::to_string(&nic.settings).unwrap());
        if nic.driver.is_empty() {
            return;
        }
        let device = format!("sys/devices/{}", nic.name);
        self.link(&format!("{base}/device"), &format!("../../../devices/{}", nic.name));
        self.link(&format!("{device}/driver"), &format!("../../bus/pci/drivers/{}", nic.driver));
        self.link(&format!("{device}/subsystem"), "../../bus/pci");
        self.put(&format!("{device}/numa_node"), &format!("{}\n", nic.node));
        let (vendor, id) = nic.pci.split_once(':').unwrap();
        self.put(&format!("{device}/vendor"), &format!("0x{vendor}\n"));
        self.put(&format!("{device}/device"), &format!("0x{id}\n"));
        let queues = (0..nic.queues).map(|queue| nic.irq.replace("{queue}", &queue.to_string()));
        let names = nic.other_irqs.iter().cloned().chain(queues);
        for (number, name) in (nic.first_irq..).zip(names) {
            self.put(&format!("{device}/msi_irqs/{number}"), "msix\n");
            self.put(&format!("proc/irq/{number}/smp_affinity_list"), "0\n");
            interrupts
                .push_str(&format!("{number:4}:    17 PCI-MSIX-0000:01:00.0 1-edge {name}\n"));
        }
    }
}

fn machines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines")
}

/// The names of all of them.
pub fn all_machines() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(machines())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".md"))
        .collect();
    names.sort();
    names
}

fn collect(directory: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(&path, found);
        } else {
            found.insert(path.clone(), fs::read_to_string(&path).unwrap());
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    /// What machine it is, for the reader.
    #[allow(dead_code, reason = "for whoever reads the file")]
    about: String,
    cpus: DescribedCpus,
    #[serde(default)]
    nics: Vec<DescribedNic>,
    #[serde(default)]
    files: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DescribedCpus {
    nodes: usize,
    cores_per_node: usize,
    threads: usize,
    /// Whether a core's threads have numbers that follow each other.
    #[serde(default)]
    are_threads_adjacent: bool,
    #[serde(default)]
    isolated: String,
    #[serde(default)]
    small: String,
    /// Of small cores and of others, where the machine says so in this way.
    capacity: Option<[u64; 2]>,
    #[serde(default)]
    has_governors: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DescribedNic {
    name: String,
    #[serde(default)]
    driver: String,
    #[serde(default)]
    pci: String,
    node: i32,
    mtu: u64,
    is_up: bool,
    queues: usize,
    #[serde(default)]
    irq: String,
    #[serde(default)]
    other_irqs: Vec<String>,
    #[serde(default)]
    first_irq: u64,
    #[serde(default)]
    lowers: Vec<String>,
    #[serde(default)]
    settings: NicSettings,
}

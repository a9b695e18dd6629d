//! Processors: who shares a core, where memory is, how fast they wake.

use super::{Check, Needs, Verdict};
use crate::cpu_list;
use crate::inventory::Inventory;
use crate::machine::Machine;
use std::path::Path;

/// States that a core takes longer than this to wake from are felt in latency.
const WAKE_MAX_US: u64 = 100;
const CPUS: &str = "sys/devices/system/cpu";

pub(super) fn check(
    machine: &Machine,
    inventory: &Inventory,
    needs: &Needs,
    checks: &mut Vec<Check>,
) {
    let Some(plan) = &needs.plan else { return };
    let mut data = plan.layout.data.clone();
    data.sort_unstable();
    data.dedup();
    checks.push(own_cores(inventory, &data, plan.layout.management));
    checks.push(threads(inventory, &data));
    checks.extend(near_memory(inventory, &data));
    checks.extend(isolation(inventory, &data));
    checks.extend(wake_up(machine, &data));
    checks.extend(quota(machine));
}

fn own_cores(inventory: &Inventory, data: &[usize], management: Option<usize>) -> Check {
    let count = inventory.cpus.0.len();
    let shared = management.is_some_and(|cpu| data.contains(&cpu));
    Check::new("cpus", count > 1 && !shared, Verdict::Warn)
        .seen(format!("{count}; data cores on {}", cpu_list::format(data)))
        .wanted("one for management and the kernel, and one or more for data cores")
        .why("On a CPU that is shared, links wait for statistics, logs and interrupts.")
        .fix("take a larger machine, or set engine.cpus and management.cpu")
}

fn threads(inventory: &Inventory, data: &[usize]) -> Check {
    let sharing: Vec<usize> = data
        .iter()
        .copied()
        .filter(|cpu| {
            let of_core = inventory.cpus.0.iter().find(|each| each.id == *cpu);
            let siblings = of_core.map(|each| each.siblings.as_slice()).unwrap_or_default();
            siblings.iter().any(|sibling| sibling != cpu && data.contains(sibling))
        })
        .collect();
    let seen = if !inventory.cpus.is_multithreaded() {
        "cores have one thread".to_owned()
    } else if sharing.is_empty() {
        "data cores are on different physical cores".to_owned()
    } else {
        format!("{} share physical cores", cpu_list::format(&sharing))
    };
    Check::new("smt", sharing.is_empty(), Verdict::Warn)
        .seen(seen)
        .wanted("data cores on different physical cores")
        .why("Two threads of a core share its cipher units and caches.")
        .fix("lower engine.cores, or choose engine.cpus")
}

fn near_memory(inventory: &Inventory, data: &[usize]) -> Option<Check> {
    let nic = inventory.nic_node().filter(|_| inventory.cpus.nodes().len() > 1)?;
    let cpus = inventory.cpus.0.iter().filter(|cpu| data.contains(&cpu.id));
    let far: Vec<usize> =
        cpus.filter(|cpu| cpu.node.is_some_and(|node| node != nic)).map(|cpu| cpu.id).collect();
    let seen = if far.is_empty() {
        format!("data cores on node {nic}, as the NIC")
    } else {
        format!("{} on another node than the NIC, which is on {nic}", cpu_list::format(&far))
    };
    Some(
        Check::new("numa", far.is_empty(), Verdict::Warn)
            .seen(seen)
            .wanted("data cores on the NIC's node")
            .why("Every packet crosses between sockets otherwise.")
            .fix("choose engine.cpus, or lower engine.cores"),
    )
}

fn isolation(inventory: &Inventory, data: &[usize]) -> Option<Check> {
    let isolated = inventory.cpus.0.iter().filter(|cpu| cpu.is_isolated);
    let isolated: Vec<usize> = isolated.map(|cpu| cpu.id).collect();
    let unused: Vec<usize> = isolated.iter().copied().filter(|cpu| !data.contains(cpu)).collect();
    (!isolated.is_empty()).then(|| {
        Check::new("isolation", unused.is_empty(), Verdict::Warn)
            .seen(format!("isolcpus={}", cpu_list::format(&isolated)))
            .wanted("a data core on each of them")
            .why("The kernel puts nothing else there, so those lie idle.")
            .fix(format!("choose engine.cpus with {}", cpu_list::format(&unused)))
    })
}

fn wake_up(machine: &Machine, data: &[usize]) -> Option<Check> {
    let cpu = data.first()?;
    let directory = format!("{CPUS}/cpu{cpu}/cpuidle");
    let states = machine.names(&directory);
    let latency = |state: &String| {
        let is_off = machine.number(&format!("{directory}/{state}/disable")) == Some(1);
        machine.number(&format!("{directory}/{state}/latency")).filter(|_| !is_off)
    };
    let most = states.iter().filter_map(latency).max()?;
    Some(
        Check::new("idle_states", most <= WAKE_MAX_US, Verdict::Warn)
            .seen(format!("a data core takes up to {most} us to wake"))
            .wanted(format!("{WAKE_MAX_US} us at most"))
            .why("The first message after a pause waits for it.")
            .fix(format!("cpupower idle-set -D {WAKE_MAX_US}")),
    )
}

/// The smallest quota of the control group and those that it is in: each holds for all that is below.
fn quota(machine: &Machine) -> Option<Check> {
    let groups = machine.text("proc/self/cgroup")?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let quota_of = |group: &Path| {
        let file = format!("sys/fs/cgroup/{}/cpu.max", group.display());
        Some((Path::new("/").join(group), machine.text(&file)?))
    };
    let quotas = Path::new(group).ancestors().filter_map(quota_of);
    let (group, quota) = quotas.min_by(|(_, one), (_, other)| cpus(one).total_cmp(&cpus(other)))?;
    Some(
        Check::new("cpu_quota", cpus(&quota).is_infinite(), Verdict::Warn)
            .seen(format!("{quota} for {}", group.display()))
            .wanted("max")
            .why("A data core that has used its quota stands still for the rest of a period.")
            .fix("take CPUQuota= out of the unit or slice, or the limit from the container"),
    )
}

/// How many processors' time a quota is: time in a period, each a number.
fn cpus(quota: &str) -> f64 {
    let mut numbers = quota.split_whitespace().map(str::parse::<f64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(time)), Some(Ok(period))) => time / period,
        _ => f64::INFINITY,
    }
}

//! What a relay wants of the machine itself: limits of the network stack, and processors at full
//! speed.

use super::{Goal, Wanted};
use crate::machine::{Machine, Target};
use crate::profile::Status;

/// A limit of the kernel.
struct Sysctl {
    /// Below `/proc/sys`.
    path: &'static str,
    goal: SysctlGoal,
    why: &'static str,
    source: &'static str,
    status: Status,
}

enum SysctlGoal {
    AtLeast(u64),
    Exactly(&'static str),
}

/// In the order in which they are set.
const SYSCTLS: &[Sysctl] = &[
    Sysctl {
        path: "net/core/rmem_max",
        goal: SysctlGoal::AtLeast(4 << 20),
        why: "A socket for many UDP sessions may hold a burst of 4 MiB.",
        source: "Documentation/admin-guide/sysctl/net.rst",
        status: Status::Community,
    },
    Sysctl {
        path: "net/core/wmem_max",
        goal: SysctlGoal::AtLeast(4 << 20),
        why: "As much may be on its way out.",
        source: "Documentation/admin-guide/sysctl/net.rst",
        status: Status::Community,
    },
    Sysctl {
        path: "net/core/netdev_max_backlog",
        goal: SysctlGoal::AtLeast(4096),
        why: "Packets that one CPU hands to another wait there, and are dropped beyond it.",
        source: "Documentation/admin-guide/sysctl/net.rst",
        status: Status::Community,
    },
    Sysctl {
        path: "net/core/somaxconn",
        goal: SysctlGoal::AtLeast(4096),
        why: "The listeners ask for 4096 waiting connections, and get no more than this.",
        source: "listen(2)",
        status: Status::Vendor,
    },
    Sysctl {
        path: "net/ipv4/tcp_max_syn_backlog",
        goal: SysctlGoal::AtLeast(4096),
        why: "Nodes that come back all at once after an outage.",
        source: "Documentation/networking/ip-sysctl.rst",
        status: Status::Community,
    },
    Sysctl {
        path: "net/ipv4/tcp_slow_start_after_idle",
        goal: SysctlGoal::Exactly("0"),
        why: "A link that was quiet for a moment sends at the rate it had, not as a new one.",
        source: "Documentation/networking/ip-sysctl.rst",
        status: Status::Community,
    },
    Sysctl {
        path: "kernel/numa_balancing",
        goal: SysctlGoal::Exactly("0"),
        why: "Data cores are pinned, and so is their memory; moving pages about costs faults.",
        source: "Documentation/admin-guide/sysctl/kernel.rst",
        status: Status::Community,
    },
];

/// Everything that is wanted of this machine.
pub(super) fn wanted(machine: &Machine, data: &[usize]) -> Vec<Wanted> {
    let sysctl = |sysctl: &Sysctl| Wanted {
        target: Target::File { path: format!("proc/sys/{}", sysctl.path) },
        to: match sysctl.goal {
            SysctlGoal::AtLeast(least) => Goal::AtLeast(least),
            SysctlGoal::Exactly(text) => Goal::Exactly(text.to_owned()),
        },
        why: sysctl.why.to_owned(),
        source: sysctl.source.to_owned(),
        status: sysctl.status,
        is_disruptive: false,
    };
    let mut wanted: Vec<Wanted> = SYSCTLS.iter().map(sysctl).collect();
    let mut cpus = data.to_vec();
    cpus.sort_unstable();
    cpus.dedup();
    wanted.extend(cpus.into_iter().filter_map(|cpu| governor(machine, cpu)));
    wanted
}

/// Full speed for a data core, where the governor can be chosen.
fn governor(machine: &Machine, cpu: usize) -> Option<Wanted> {
    let directory = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq");
    let choices = machine.text(&format!("{directory}/scaling_available_governors"))?;
    choices.split_whitespace().any(|choice| choice == "performance").then(|| Wanted {
        target: Target::File { path: format!("{directory}/scaling_governor") },
        to: Goal::Exactly("performance".to_owned()),
        why: "A data core that sleeps often is not taken for idle and slowed down.".to_owned(),
        source: "Documentation/admin-guide/pm/cpufreq.rst".to_owned(),
        status: Status::Community,
        is_disruptive: false,
    })
}

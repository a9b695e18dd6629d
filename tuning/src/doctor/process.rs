//! What this process may have: descriptors, memory, ports; and what it should not have.

use super::{Check, MemoryTerm, Needs, Verdict, mebibytes};
use crate::machine::Machine;
use std::net::SocketAddr;
use std::path::Path;

/// Descriptors without which not even a small box runs.
const DESCRIPTORS_MIN: u64 = 1024;
/// Rings and buffers that the kernel pins, for an ordinary user.
const LOCKED_MIN_BYTES: u64 = 8 << 20;

pub(super) fn check(machine: &Machine, needs: &Needs, checks: &mut Vec<Check>) {
    checks.extend(descriptors(machine, needs));
    checks.extend(locked_memory(machine));
    checks.extend(memory(machine, needs));
    checks.push(ports(needs));
    checks.extend(ephemeral_ports(machine, needs));
    checks.extend(relayed_ports(machine, needs));
    checks.push(kept_privileges(needs));
    checks.push(landlock(needs));
}

/// A line of `/proc/self/limits`: what is allowed now. `None`: no limit.
fn limit(machine: &Machine, name: &str) -> Option<Option<u64>> {
    let limits = machine.text("proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(None) } else { soft.parse().ok().map(Some) }
}

fn descriptors(machine: &Machine, needs: &Needs) -> Option<Check> {
    let allowed = limit(machine, "Max open files")?;
    let allowed = allowed.unwrap_or(u64::MAX);
    let otherwise = if allowed < DESCRIPTORS_MIN { Verdict::Fail } else { Verdict::Warn };
    let wanted = needs.descriptors.max(DESCRIPTORS_MIN);
    Some(
        Check::new("descriptors", allowed >= wanted, otherwise)
            .seen(allowed.to_string())
            .wanted(format!("{wanted}, which is what the caps of all cores come to"))
            .why("Connections beyond it are refused by the kernel (accept_failed).")
            .fix("LimitNOFILE= in the unit, ulimit -n; or lower engine.links_max and the like"),
    )
}

fn locked_memory(machine: &Machine) -> Option<Check> {
    let allowed = limit(machine, "Max locked memory")?.unwrap_or(u64::MAX);
    let seen = if allowed == u64::MAX { "unlimited".to_owned() } else { mebibytes(allowed) };
    Some(
        Check::new("locked_memory", allowed >= LOCKED_MIN_BYTES, Verdict::Warn)
            .seen(seen)
            .wanted(mebibytes(LOCKED_MIN_BYTES))
            .why("Rings of data cores count against it on older kernels, and BPF maps.")
            .fix("LimitMEMLOCK= in the unit, ulimit -l"),
    )
}

fn memory(machine: &Machine, needs: &Needs) -> Option<Check> {
    let information = machine.text("proc/meminfo")?;
    let line = information.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total: u64 = line.split_whitespace().next()?.parse().ok()?;
    let group = group_limit(machine).unwrap_or(u64::MAX);
    let there = total.saturating_mul(1024).min(group);
    let sum = |terms: &mut dyn Iterator<Item = &MemoryTerm>| {
        terms.fold(0_u64, |sum, term| sum.saturating_add(term.bytes))
    };
    let pools = sum(&mut needs.memory.iter().filter(|term| term.is_pool));
    let worst = sum(&mut needs.memory.iter());
    let otherwise = if pools > there { Verdict::Fail } else { Verdict::Warn };
    Some(
        Check::new("memory", worst <= there, otherwise)
            .seen(mebibytes(there))
            .wanted(format!("{}, of which load alone takes {}", mebibytes(worst), mebibytes(pools)))
            .why("Peers that mean harm can make the process grow until it is killed.")
            .fix(
                "lower engine.links_max, half_open_max and relay.sessions_max to what the box \
                 serves; or engine.queue_memory",
            ),
    )
}

/// What the control group allows, and those that it is in: of the second kind, or the memory
/// controller of the first, which says with a number beyond any machine that it sets nothing. Where
/// a container is told the path of its group on the host, what it sees is the group at the top.
fn group_limit(machine: &Machine) -> Option<u64> {
    let groups = machine.text("proc/self/cgroup")?;
    let limits = groups.lines().filter_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(":/")?;
        let (hierarchy, file) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            return None;
        };
        let within = Path::new(group).ancestors();
        let of = |group: &Path| machine.number(&format!("{hierarchy}/{}/{file}", group.display()));
        within.filter_map(of).min()
    });
    limits.min()
}

fn ports(needs: &Needs) -> Check {
    let taken: Vec<String> =
        needs.unavailable.iter().map(|(address, why)| format!("{address}: {why}")).collect();
    let listed = |addresses: &[SocketAddr], protocol: &str| {
        let listed = addresses.iter().map(|address| format!("{address}/{protocol}"));
        listed.collect::<Vec<_>>()
    };
    let wanted = [listed(&needs.listen, "tcp"), listed(&needs.listen_udp, "udp")].concat();
    let seen = if taken.is_empty() { "free or ours".to_owned() } else { taken.join("; ") };
    Check::new("ports", taken.is_empty(), Verdict::Fail)
        .seen(seen)
        .wanted(wanted.join(" "))
        .why("The program does not start without them.")
        .fix("ss -lntup shows who listens; or choose others with the key that names them")
}

/// Ports that the kernel gives to whoever does not ask for one, and those it leaves out.
struct Ephemeral {
    first: u16,
    last: u16,
    reserved: String,
}

impl Ephemeral {
    fn read(machine: &Machine) -> Option<Self> {
        let range = machine.text("proc/sys/net/ipv4/ip_local_port_range")?;
        let mut ends = range.split_whitespace().filter_map(|end| end.parse::<u16>().ok());
        let (first, last) = (ends.next()?, ends.next()?);
        let reserved = machine.text("proc/sys/net/ipv4/ip_local_reserved_ports");
        Some(Self { first, last, reserved: reserved.unwrap_or_default() })
    }

    fn gives(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port) && !is_listed(&self.reserved, port)
    }
}

fn ephemeral_ports(machine: &Machine, needs: &Needs) -> Option<Check> {
    let ephemeral = Ephemeral::read(machine)?;
    let Ephemeral { first, last, .. } = ephemeral;
    let mut inside: Vec<u16> = needs
        .listen
        .iter()
        .chain(&needs.listen_udp)
        .map(SocketAddr::port)
        .filter(|port| ephemeral.gives(*port))
        .collect();
    inside.sort_unstable();
    inside.dedup();
    let ports = inside.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    Some(
        Check::new("ephemeral_ports", inside.is_empty(), Verdict::Warn)
            .seen(if inside.is_empty() {
                format!("{first}-{last}")
            } else {
                format!("{ports} in {first}-{last}")
            })
            .wanted("no port of ours among them")
            .why("A connection that somebody makes may take the port before the next start.")
            .fix(format!("sysctl -w net.ipv4.ip_local_reserved_ports={ports}")),
    )
}

/// Whether ports of TURN and of UDP sessions are the kernel's to give away.
fn relayed_ports(machine: &Machine, needs: &Needs) -> Option<Check> {
    let (from, to) = needs.relayed_ports?;
    let ephemeral = Ephemeral::read(machine)?;
    let shared = (from..=to).filter(|port| ephemeral.gives(*port)).count();
    let of = usize::from(to.saturating_sub(from)) + 1;
    Some(
        Check::new("relayed_ports", shared == 0, Verdict::Warn)
            .seen(format!("{shared} of the {of} ports from {from} to {to} are the kernel's too"))
            .wanted("none")
            .why(
                "Sockets of other programs sit on them, and clients are given fewer; a port of a \
                 session that is to come back after a restart may be taken.",
            )
            .fix(format!("sysctl -w net.ipv4.ip_local_reserved_ports={from}-{to}")),
    )
}

fn kept_privileges(needs: &Needs) -> Check {
    let kept = needs.kept_privileges.join(", ");
    Check::new("privileges", kept.is_empty(), Verdict::Warn)
        .seen(if kept.is_empty() { "given up after the start".to_owned() } else { kept })
        .wanted("everything given up after the start")
        .why("Whoever finds a hole in the program has all that it has kept.")
        .fix("take these keys out of the configuration; they are for debugging")
}

fn landlock(needs: &Needs) -> Check {
    Check::new("landlock", needs.landlock.is_none(), Verdict::Warn)
        .seen(needs.landlock.as_deref().unwrap_or("works"))
        .wanted("works")
        .why("Without it the program can open every file that its user can.")
        .fix("use Linux 5.13 or later, with landlock among the names of lsm= on its command line")
}

/// Whether a port is in a list like `1791,40000-40100`.
fn is_listed(list: &str, port: u16) -> bool {
    list.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let end = |text: &str| text.trim().parse::<u16>();
        matches!((end(first), end(last)), (Ok(first), Ok(last)) if (first..=last).contains(&port))
    })
}

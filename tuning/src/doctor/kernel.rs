//! The kernel: its version, what it allows, its clock, its memory.

use super::{Check, Needs, Verdict};
use crate::machine::Machine;
use crate::profile::is_version_at_least;

/// Where io_uring has all that the port needs (`engine::port::probe`).
const KERNEL_MIN: &str = "6.1";
/// Clocks that are read without a system call.
const FAST_CLOCKS: &[&str] =
    &["tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page"];
/// Programs that keep the clock right, as `comm` has their names: 15 letters.
const TIME_KEEPERS: &[&str] =
    &["chronyd", "ntpd", "systemd-timesyn", "ntpsec", "openntpd", "ptp4l", "phc2sys"];
/// Processes looked at for a program's name.
const PROCESSES_MAX: usize = 32_768;

pub(super) fn check(machine: &Machine, needs: &Needs, checks: &mut Vec<Check>) {
    checks.extend(release(machine));
    checks.push(uring(needs));
    checks.extend(sysctls(machine));
    checks.push(btf(machine));
    checks.extend(clock(machine));
    checks.extend(time_keeper(machine));
    checks.extend(huge_pages(machine));
    checks.extend(swap(machine));
    checks.extend(connection_tracking(machine));
    checks.extend(irqbalance(machine));
}

fn release(machine: &Machine) -> Option<Check> {
    let release = machine.text("proc/sys/kernel/osrelease")?;
    let is_met = is_version_at_least(&release, KERNEL_MIN);
    let check = Check::new("kernel", is_met, Verdict::Warn).seen(format!("Linux {release}"));
    Some(
        check
            .wanted(format!("{KERNEL_MIN} or later"))
            .why(
                "Older ones lack what the io_uring port needs; epoll costs a call for each stream.",
            )
            .fix("install a later kernel"),
    )
}

fn uring(needs: &Needs) -> Check {
    let otherwise = if needs.is_uring_demanded { Verdict::Fail } else { Verdict::Warn };
    let seen = needs.uring.as_deref().unwrap_or("works");
    Check::new("io_uring", needs.uring.is_none(), otherwise)
        .seen(seen)
        .wanted("works")
        .why("Without it epoll is used, with a system call for each stream and turn.")
        .fix("sysctl -w kernel.io_uring_disabled=0, or allow it in the container's seccomp filter")
}

fn sysctls(machine: &Machine) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(value) = machine.number("proc/sys/kernel/unprivileged_bpf_disabled") {
        checks.push(
            Check::new("unprivileged_bpf", value != 0, Verdict::Warn)
                .seen(format!("kernel.unprivileged_bpf_disabled = {value}"))
                .wanted("1 or 2")
                .why("Any user may load BPF programs, which have been a way into kernels.")
                .fix("sysctl -w kernel.unprivileged_bpf_disabled=2"),
        );
    }
    if let Some(value) = machine.number("proc/sys/net/core/bpf_jit_enable") {
        checks.push(
            Check::new("bpf_jit", value != 0, Verdict::Warn)
                .seen(format!("net.core.bpf_jit_enable = {value}"))
                .wanted("1")
                .why("XDP programs would be interpreted, at a fraction of the speed.")
                .fix("sysctl -w net.core.bpf_jit_enable=1"),
        );
    }
    checks
}

fn btf(machine: &Machine) -> Check {
    let is_there = machine.exists("sys/kernel/btf/vmlinux");
    Check::new("btf", is_there, Verdict::Warn)
        .seen(if is_there { "there" } else { "none" })
        .wanted("/sys/kernel/btf/vmlinux")
        .why("Tools that look into the kernel need its types; relaying does not.")
        .fix("use a kernel built with CONFIG_DEBUG_INFO_BTF")
}

fn clock(machine: &Machine) -> Option<Check> {
    let directory = "sys/devices/system/clocksource/clocksource0";
    let clock = machine.text(&format!("{directory}/current_clocksource"))?;
    Some(
        Check::new("clocksource", FAST_CLOCKS.contains(&clock.as_str()), Verdict::Warn)
            .seen(&clock)
            .wanted(FAST_CLOCKS.join(" or "))
            .why("Time is read once in each turn; with others that is a system call, or slower.")
            .fix(format!("echo tsc > /{directory}/current_clocksource, if it offers tsc")),
    )
}

fn time_keeper(machine: &Machine) -> Option<Check> {
    let running = running(machine)?;
    let found = running.iter().find(|name| TIME_KEEPERS.contains(&name.as_str()));
    Some(
        Check::new("time", found.is_some(), Verdict::Warn)
            .seen(found.map_or("no program that keeps it", String::as_str))
            .wanted("chrony, or another")
            .why("Logs, events and credentials with an end go by the clock.")
            .fix("apt install chrony; on a virtual machine the host may do it, then ignore this"),
    )
}

fn huge_pages(machine: &Machine) -> Option<Check> {
    let choices = machine.text("sys/kernel/mm/transparent_hugepage/enabled")?;
    Some(
        Check::new("huge_pages", !choices.contains("[always]"), Verdict::Warn)
            .seen(&choices)
            .wanted("madvise or never")
            .why("Memory is put together into large pages while packets wait.")
            .fix("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
    )
}

fn swap(machine: &Machine) -> Option<Check> {
    // The first line is a heading.
    let areas = machine.text("proc/swaps")?.lines().skip(1).count();
    Some(
        Check::new("swap", areas == 0, Verdict::Warn)
            .seen(format!("{areas} areas"))
            .wanted("none")
            .why("A buffer that has to be fetched from a disk stops a whole data core.")
            .fix("swapoff -a, and take it out of /etc/fstab"),
    )
}

fn connection_tracking(machine: &Machine) -> Option<Check> {
    let count = machine.number("proc/sys/net/netfilter/nf_conntrack_count")?;
    let most = machine.number("proc/sys/net/netfilter/nf_conntrack_max").unwrap_or(0);
    Some(
        Check::new("conntrack", count == 0, Verdict::Warn)
            .seen(format!("{count} of {most} connections are tracked"))
            .wanted("none")
            .why("Each packet is looked up, and beyond the most new connections are dropped.")
            .fix("nft: a raw chain with notrack for the relay's ports"),
    )
}

fn irqbalance(machine: &Machine) -> Option<Check> {
    let is_running = running(machine)?.iter().any(|name| name == "irqbalance");
    Some(
        Check::new("irqbalance", !is_running, Verdict::Warn)
            .seen(if is_running { "runs" } else { "does not run" })
            .wanted("does not run")
            .why("It moves interrupts away from the data cores that they were put on.")
            .fix("systemctl disable --now irqbalance, or ban the NICs' interrupts in its settings"),
    )
}

/// Names of all processes; nothing where they cannot be seen.
fn running(machine: &Machine) -> Option<Vec<String>> {
    let is_process = |name: &String| name.bytes().all(|letter| letter.is_ascii_digit());
    let processes = machine.names("proc").into_iter().filter(is_process).take(PROCESSES_MAX);
    let names: Vec<String> =
        processes.filter_map(|id| machine.text(&format!("proc/{id}/comm"))).collect();
    (!names.is_empty()).then_some(names)
}

//! The doctor: each check comes out well and ill, says what it saw and what helps.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use support::Tree;
use waystation_tuning::catalog::Catalog;
use waystation_tuning::doctor::{Check, Examination, MemoryTerm, Needs, Verdict, examine, render};
use waystation_tuning::inventory::Inventory;
use waystation_tuning::machine::NicSettings;
use waystation_tuning::plan::{Scope, plan};

const MEBIBYTE: u64 = 1 << 20;
/// The time of the tests, in seconds of the Unix epoch.
const NOW_S: u64 = 1_800_000_000;

/// A machine on which nothing is amiss but its tuning.
fn good() -> Tree {
    let tree = Tree::new("cloud-ena.toml");
    for (path, text) in [
        ("proc/sys/net/core/rmem_max", "212992"),
        ("proc/sys/net/core/somaxconn", "4096"),
        ("proc/sys/kernel/osrelease", "6.12.9-amd64"),
        ("proc/sys/kernel/unprivileged_bpf_disabled", "2"),
        ("proc/sys/net/core/bpf_jit_enable", "1"),
        ("sys/kernel/btf/vmlinux", ""),
        ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
        ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority"),
        ("proc/sys/net/netfilter/nf_conntrack_count", "0"),
        ("proc/sys/net/netfilter/nf_conntrack_max", "262144"),
        ("proc/700/comm", "chronyd"),
        ("proc/self/cgroup", "0::/system.slice/waystation.service"),
        ("sys/fs/cgroup/system.slice/waystation.service/memory.max", "max"),
        ("sys/fs/cgroup/system.slice/waystation.service/cpu.max", "max 100000"),
        ("proc/meminfo", "MemTotal:       65536000 kB\nMemFree:        1 kB"),
        ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999"),
        ("sys/class/rtc/rtc0/since_epoch", "1800000003"),
        ("sys/devices/system/cpu/cpu1/cpuidle/state0/latency", "2"),
        ("sys/devices/system/cpu/cpu1/cpuidle/state1/latency", "600"),
        ("sys/devices/system/cpu/cpu1/cpuidle/state1/disable", "1"),
    ] {
        tree.put(path, &format!("{text}\n"));
    }
    limits(&tree, "524288", "unlimited");
    tree
}

fn limits(tree: &Tree, files: &str, locked: &str) {
    let text = format!(
        "Limit                     Soft Limit           Hard Limit           Units\n\
         Max locked memory         {locked}             unlimited            bytes\n\
         Max open files            {files}              524288               files\n"
    );
    tree.put("proc/self/limits", &text);
}

fn needs() -> Needs {
    let term = |what, mebibytes, is_pool| MemoryTerm {
        what,
        bytes: mebibytes * MEBIBYTE,
        derivation: "as a test has it".to_owned(),
        is_pool,
    };
    Needs {
        memory: vec![term("pools", 300, true), term("links", 700, false)],
        descriptors: 40_000,
        listen: vec!["0.0.0.0:1791".parse().unwrap()],
        listen_udp: vec!["0.0.0.0:3478".parse().unwrap()],
        relayed_ports: Some((20_000, 20_999)),
        unix_s: Some(NOW_S),
        last_written_s: Some(NOW_S - 7),
        ..Needs::default()
    }
}

fn examined(tree: &Tree, mut needs: Needs) -> Examination {
    let machine = tree.machine();
    let catalog = Catalog::read(None).unwrap();
    needs.plan = Some(plan(&machine, &catalog, &Scope::default()).unwrap());
    examine(&machine, &Inventory::read(&machine), &needs)
}

#[track_caller]
fn check<'a>(examination: &'a Examination, name: &str) -> &'a Check {
    let found = examination.checks.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("no check {name}: {:#?}", examination.checks))
}

#[test]
fn every_check_comes_out_well_on_a_good_machine_and_ill_when_provoked() {
    let tree = good();
    let well = examined(&tree, needs());
    let mut provoked = BTreeSet::new();
    for (name, verdict, path, text) in PROVOCATIONS {
        assert_eq!(check(&well, name).verdict, Verdict::Ok, "{:?}", check(&well, name));
        assert_eq!(check(&well, name).fix, None, "{name}");
        let before = fs::read_to_string(tree.root().join(path)).unwrap_or_default();
        if text.is_empty() {
            tree.remove(path);
        } else {
            tree.put(path, &format!("{text}\n"));
        }
        let ill = examined(&tree, needs());
        tree.put(path, &before);
        let ill = check(&ill, name);
        assert_eq!(ill.verdict, *verdict, "{ill:?}");
        for words in [&ill.seen, &ill.wanted, &ill.why, ill.fix.as_ref().unwrap()] {
            assert!(!words.is_empty(), "{ill:?}");
        }
        provoked.insert(*name);
    }
    let by_needs = [
        "io_uring",
        "ports",
        "memory",
        "ephemeral_ports",
        "relayed_ports",
        "clock_step",
        "cpus",
        "smt",
        "nics",
        "privileges",
        "landlock",
    ];
    // Those of NICs and limits have a space in their name, and tests of their own.
    for check in well.checks.iter().filter(|check| !check.name.contains(' ')) {
        let name = check.name.as_str();
        assert!(provoked.contains(name) || by_needs.contains(&name), "nothing provokes {name}");
    }
}

const GROUP: &str = "sys/fs/cgroup/system.slice/waystation.service";

/// Check, verdict, and the file that brings it about; without text it is taken away.
const PROVOCATIONS: &[(&str, Verdict, &str, &str)] = &[
    ("kernel", Verdict::Warn, "proc/sys/kernel/osrelease", "5.10.0-30-amd64"),
    ("unprivileged_bpf", Verdict::Warn, "proc/sys/kernel/unprivileged_bpf_disabled", "0"),
    ("bpf_jit", Verdict::Warn, "proc/sys/net/core/bpf_jit_enable", "0"),
    ("btf", Verdict::Warn, "sys/kernel/btf/vmlinux", ""),
    (
        "clocksource",
        Verdict::Warn,
        "sys/devices/system/clocksource/clocksource0/current_clocksource",
        "hpet",
    ),
    ("clock", Verdict::Warn, "sys/class/rtc/rtc0/since_epoch", "1800000500"),
    ("time", Verdict::Warn, "proc/700/comm", "sshd"),
    ("irqbalance", Verdict::Warn, "proc/701/comm", "irqbalance"),
    ("huge_pages", Verdict::Warn, "sys/kernel/mm/transparent_hugepage/enabled", "[always] never"),
    ("swap", Verdict::Warn, "proc/swaps", "Filename\n/dev/sda2 partition 1 0 -2"),
    ("conntrack", Verdict::Warn, "proc/sys/net/netfilter/nf_conntrack_count", "31000"),
    ("descriptors", Verdict::Fail, "proc/self/limits", "Max open files 256 256 files"),
    ("locked_memory", Verdict::Warn, "proc/self/limits", "Max locked memory 65536 65536 bytes"),
    ("cpu_quota", Verdict::Warn, "sys/fs/cgroup/system.slice/waystation.service/cpu.max", "5 10"),
    ("idle_states", Verdict::Warn, "sys/devices/system/cpu/cpu1/cpuidle/state1/disable", "0"),
];

#[test]
fn what_the_program_knows_is_judged() {
    let tree = good();
    let uring = |is_uring_demanded| {
        let uring = Some("io_uring is forbidden".to_owned());
        examined(&tree, Needs { uring, is_uring_demanded, ..needs() })
    };
    assert_eq!(check(&uring(false), "io_uring").verdict, Verdict::Warn);
    assert_eq!(check(&uring(true), "io_uring").verdict, Verdict::Fail);

    let kept_privileges = vec!["privileges.core_dumps"];
    let kept = examined(&tree, Needs { kept_privileges, ..needs() });
    assert_eq!(check(&kept, "privileges").verdict, Verdict::Warn);
    assert!(check(&kept, "privileges").seen.contains("core_dumps"));
    let landlock = Some("this kernel was built without it".to_owned());
    let open = examined(&tree, Needs { landlock, ..needs() });
    assert_eq!(check(&open, "landlock").verdict, Verdict::Warn);

    let listen = "0.0.0.0:40000".parse().unwrap();
    let unavailable = vec![(listen, "in use".to_owned())];
    let ports = examined(&tree, Needs { listen: vec![listen], unavailable, ..needs() });
    assert_eq!(check(&ports, "ports").verdict, Verdict::Fail);
    assert!(check(&ports, "ports").seen.contains("0.0.0.0:40000"));
    let ephemeral = check(&ports, "ephemeral_ports");
    assert_eq!(ephemeral.verdict, Verdict::Warn);
    assert!(ephemeral.fix.as_ref().unwrap().contains("ip_local_reserved_ports=40000"));
    tree.put("proc/sys/net/ipv4/ip_local_reserved_ports", "40000\n");
    let reserved = examined(&tree, Needs { listen: vec![listen], ..needs() });
    assert_eq!(check(&reserved, "ephemeral_ports").verdict, Verdict::Ok);
}

#[test]
fn the_clock_may_be_a_time_zone_away_from_the_hardwares_and_must_not_go_back() {
    let tree = good();
    tree.put("sys/class/rtc/rtc0/since_epoch", &format!("{}\n", NOW_S + 2 * 3600 + 3));
    let local = examined(&tree, needs());
    assert_eq!(check(&local, "clock").verdict, Verdict::Ok);
    assert!(check(&local, "clock").seen.contains("local time"));
    tree.put("sys/class/rtc/rtc0/since_epoch", "1\n");
    assert_eq!(check(&examined(&tree, needs()), "clock").verdict, Verdict::Warn);
    let last_written_s = Some(NOW_S + 3600);
    let back = examined(&tree, Needs { last_written_s, ..needs() });
    assert_eq!(check(&back, "clock_step").verdict, Verdict::Warn);
    assert!(check(&back, "clock_step").seen.contains("3600 s"));
    // Whoever does not see the state does not judge it.
    let unseen = examined(&tree, Needs { last_written_s: None, ..needs() });
    assert!(unseen.checks.iter().all(|check| check.name != "clock_step"));
}

#[test]
fn ports_of_turn_are_judged_too() {
    let tree = good();
    let shared = examined(&tree, Needs { relayed_ports: Some((49_152, 65_535)), ..needs() });
    let relayed = check(&shared, "relayed_ports");
    assert_eq!(relayed.verdict, Verdict::Warn);
    assert!(relayed.seen.contains("11848 of the 16384 ports"), "{relayed:?}");
    let fix = relayed.fix.as_ref().unwrap();
    assert!(fix.ends_with("ip_local_reserved_ports=49152-65535"), "{fix}");
    tree.put("proc/sys/net/ipv4/ip_local_reserved_ports", "49152-65535\n");
    let reserved = examined(&tree, Needs { relayed_ports: Some((49_152, 65_535)), ..needs() });
    assert_eq!(check(&reserved, "relayed_ports").verdict, Verdict::Ok);
    let listen_udp = vec!["192.0.2.1:40000".parse().unwrap()];
    let unavailable = vec![(listen_udp[0], "in use".to_owned())];
    let taken = examined(&tree, Needs { listen_udp, unavailable, ..needs() });
    assert_eq!(check(&taken, "ports").verdict, Verdict::Fail);
    assert!(check(&taken, "ports").wanted.contains("192.0.2.1:40000/udp"));
    assert!(check(&taken, "ephemeral_ports").seen.contains("40000"));
}

#[test]
fn a_hash_key_that_strangers_know_is_named_where_there_are_queues_to_choose() {
    let with_key = |key: &str, channels: u64| {
        let tree = good();
        let file = tree.root().join("nics/ens5.toml");
        let mut settings: NicSettings =
            toml::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        settings.rss_key = Some(key.to_owned());
        settings.channels.as_mut().unwrap().combined = channels;
        fs::write(&file, toml::to_string(&settings).unwrap()).unwrap();
        let examination = examined(&tree, needs());
        let found = examination.checks.iter().find(|check| check.name == "ens5 rss_key");
        found.map(|check| (check.verdict, check.fix.clone()))
    };
    let own = "0123456789abcdef".repeat(5);
    assert_eq!(with_key(&own, 4), Some((Verdict::Ok, None)));
    assert_eq!(with_key(&own, 1), None);
    let of_everybody = "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73b";
    for key in [of_everybody, &"6d".repeat(40), &"00".repeat(40)] {
        let (verdict, fix) = with_key(key, 4).unwrap();
        assert_eq!(verdict, Verdict::Warn, "{key}");
        assert!(fix.unwrap().starts_with("ethtool -X ens5 hkey"), "{key}");
    }
}

#[test]
fn memory_is_judged_by_what_the_machine_or_its_group_has() {
    let tree = good();
    let examination = examined(&tree, needs());
    assert_eq!(check(&examination, "memory").verdict, Verdict::Ok);
    assert_eq!(examination.memory_pools_bytes, 300 * MEBIBYTE);
    assert_eq!(examination.memory_worst_case_bytes, 1000 * MEBIBYTE);
    let with_group = |mebibytes: u64| {
        let bytes = (mebibytes * MEBIBYTE).to_string();
        tree.put(&format!("{GROUP}/memory.max"), &bytes);
        examined(&tree, needs())
    };
    assert_eq!(check(&with_group(512), "memory").verdict, Verdict::Warn);
    assert_eq!(check(&with_group(200), "memory").verdict, Verdict::Fail);
    assert!(check(&with_group(200), "memory").seen.contains("200.0 MiB"));
}

#[test]
fn memory_is_judged_by_groups_of_the_first_kind_too() {
    let tree = good();
    tree.put("proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/relay\n1:name=systemd:/\n0::/\n");
    let with_group = |bytes: u64| {
        tree.put("sys/fs/cgroup/memory/relay/memory.limit_in_bytes", &format!("{bytes}\n"));
        check(&examined(&tree, needs()), "memory").clone()
    };
    let unlimited = with_group(9_223_372_036_854_771_712);
    assert_eq!(unlimited.verdict, Verdict::Ok);
    assert!(unlimited.seen.contains("64000.0 MiB"), "{unlimited:?}");
    assert_eq!(with_group(512 * MEBIBYTE).verdict, Verdict::Warn);
    assert_eq!(with_group(200 * MEBIBYTE).verdict, Verdict::Fail);
}

#[test]
fn memory_is_judged_by_the_groups_around_ours_and_by_what_a_container_sees() {
    let tree = good();
    let limited = |groups: &str, file: &str| {
        tree.put("proc/self/cgroup", groups);
        tree.put(file, &(512 * MEBIBYTE).to_string());
        check(&examined(&tree, needs()), "memory").verdict
    };
    let slice = "sys/fs/cgroup/limited.slice/memory.max";
    assert_eq!(limited("0::/limited.slice/relay.service\n", slice), Verdict::Warn);
    // The host's path, of which nothing is there but what stands at the top.
    let top = "sys/fs/cgroup/memory/memory.limit_in_bytes";
    assert_eq!(limited("4:memory:/docker/0123abcd\n0::/\n", top), Verdict::Warn);
    assert_eq!(limited("5:cpu:/docker/0123abcd\n", top), Verdict::Ok);
}

#[test]
fn the_smallest_quota_of_the_groups_around_ours_is_the_one_told() {
    let tree = good();
    tree.put("proc/self/cgroup", "0::/outer.slice/inner.slice/relay.service\n");
    let groups = [
        ("outer.slice", "50000 100000\n"),
        ("outer.slice/inner.slice", "20000 10000\n"),
        ("outer.slice/inner.slice/relay.service", "max 100000\n"),
    ];
    for (group, quota) in groups {
        tree.put(&format!("sys/fs/cgroup/{group}/cpu.max"), quota);
    }
    let told = check(&examined(&tree, needs()), "cpu_quota").clone();
    assert_eq!(told.verdict, Verdict::Warn);
    assert_eq!(told.seen, "50000 100000 for /outer.slice");
}

#[test]
fn processors_are_judged() {
    let one = Tree::new("unknown-nic.toml");
    one.put("sys/devices/system/cpu/online", "0\n");
    assert_eq!(check(&examined(&one, needs()), "cpus").verdict, Verdict::Warn);
    let arm = examined(&Tree::new("arm64-connectx.toml"), needs());
    assert_eq!(check(&arm, "isolation").verdict, Verdict::Ok);
    let judged = |cpus: Vec<usize>, name: &str| {
        let tree = Tree::new("two-socket-e810.toml");
        // Only the NIC of the second node carries anything.
        tree.put("sys/class/net/eno1/operstate", "down\n");
        let machine = tree.machine();
        let scope = Scope { cpus, ..Scope::default() };
        let plan = plan(&machine, &Catalog::read(None).unwrap(), &scope).unwrap();
        let needs = Needs { plan: Some(plan), ..needs() };
        check(&examine(&machine, &Inventory::read(&machine), &needs), name).verdict
    };
    assert_eq!(judged(vec![17, 18], "numa"), Verdict::Ok);
    assert_eq!(judged(vec![3, 18], "numa"), Verdict::Warn);
    assert_eq!(judged(vec![17, 18], "smt"), Verdict::Ok);
    assert_eq!(judged(vec![17, 49], "smt"), Verdict::Warn);
}

#[test]
fn nics_and_limits_that_are_not_as_planned_are_named_with_the_command() {
    let examination = examined(&good(), needs());
    let settings = check(&examination, "ens5 settings");
    assert_eq!(settings.verdict, Verdict::Warn);
    assert!(settings.seen.contains("combined channels 4"), "{settings:?}");
    assert!(settings.fix.as_ref().unwrap().contains("waystation tune apply"));
    assert_eq!(check(&examination, "sysctl net.core.somaxconn").verdict, Verdict::Ok);
    let limit = check(&examination, "sysctl net.core.rmem_max");
    assert_eq!((limit.seen.as_str(), limit.wanted.as_str()), ("212992", "4194304"));
    let unknown = examined(&Tree::new("unknown-nic.toml"), needs());
    assert_eq!(check(&unknown, "eth0 profile").verdict, Verdict::Warn);
    assert_eq!(check(&unknown, "eth0 xdp").verdict, Verdict::Warn);
    let none = Tree::new("unknown-nic.toml");
    none.put("sys/class/net/eth0/operstate", "down\n");
    assert_eq!(check(&examined(&none, needs()), "nics").verdict, Verdict::Warn);
}

#[test]
fn what_is_amiss_comes_first_and_the_sum_last() {
    let tree = good();
    limits(&tree, "256", "unlimited");
    let text = render(&examined(&tree, needs()));
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("FAIL descriptors: 256"), "{first}");
    assert!(text.contains("1000.0 MiB  with peers that mean harm"), "{text}");
    assert!(text.lines().last().unwrap().ends_with("1 failed"), "{text}");
}

#[test]
fn the_machine_that_was_captured_has_its_shortcomings_explained() {
    let examination = examined(&Tree::new("firecracker-two-cpus.tree"), needs());
    for name in ["eth0 by hand", "sysctl net.core.netdev_max_backlog", "btf"] {
        assert_eq!(check(&examination, name).verdict, Verdict::Warn, "{name}");
    }
    assert!(check(&examination, "eth0 by hand").seen.contains("rx-gro-hw is fixed on"));
    assert_eq!(check(&examination, "clocksource").verdict, Verdict::Ok);
}

//! Plans for machines that are not at hand: which cores, which profile, which steps; and that every
//! plan can be carried out, is then empty, and can be taken back to the byte.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use support::{Tree, all_machines};
use waystation_tuning::apply::{apply, undo};
use waystation_tuning::catalog::Catalog;
use waystation_tuning::inventory::Inventory;
use waystation_tuning::machine::Target;
use waystation_tuning::plan::{Plan, PlanError, Scope, Step, plan};
use waystation_tuning::remote::{carrying, sessions};

fn catalog() -> Catalog {
    Catalog::read(None).unwrap()
}

fn plan_for(tree: &Tree) -> Plan {
    plan(&tree.machine(), &catalog(), &Scope::default()).unwrap()
}

/// What a step sets, as `from -> to`.
fn change(steps: &[Step], what: &str) -> Option<String> {
    let step = steps.iter().find(|step| step.what == what)?;
    Some(format!("{} -> {}", step.from, step.to))
}

fn profile<'a>(plan: &'a Plan, nic: &str) -> &'a str {
    &plan.nics.iter().find(|each| each.nic == nic).unwrap().profile
}

fn remarks(plan: &Plan, nic: &str) -> String {
    plan.nics.iter().find(|each| each.nic == nic).unwrap().remarks.join("\n")
}

#[test]
fn on_two_nodes_data_cores_interrupts_and_queues_are_where_the_nic_is() {
    let tree = Tree::new("two-socket-e810.toml");
    let scope = Scope { nic: Some("ens1f0".into()), ..Scope::default() };
    let plan = plan(&tree.machine(), &catalog(), &scope).unwrap();
    assert_eq!(plan.layout.data, (16..32).collect::<Vec<_>>());
    assert_eq!((plan.layout.management, plan.layout.node), (Some(0), Some(1)));
    assert_eq!(profile(&plan, "ens1f0"), "ice");
    let steps = &plan.steps;
    let expected = [
        ("ens1f0 rx-ntuple-filter", "off -> on"),
        ("ens1f0 combined channels", "64 -> 16"),
        ("/proc/irq/201/smp_affinity_list", "0 -> 16"),
        ("/proc/irq/216/smp_affinity_list", "0 -> 31"),
        ("/proc/irq/217/smp_affinity_list", "0 -> 16"),
        ("/sys/class/net/ens1f0/queues/tx-0/xps_cpus", "0 -> 10000"),
    ];
    for (what, wanted) in expected {
        assert_eq!(change(steps, what).as_deref(), Some(wanted), "{what}");
    }
    let fixed = change(steps, "ens1f0 rx-lro");
    assert_eq!(fixed, None, "what is fixed as it should be is no step");
    assert!(change(steps, "/proc/irq/200/smp_affinity_list").is_none(), "not a queue's");
    assert!(steps.iter().all(|step| !step.what.contains("sysctl")), "only the NIC was asked for");
}

#[test]
fn without_a_nic_named_all_that_are_up_and_the_machine_itself_are_planned() {
    let tree = Tree::new("two-socket-e810.toml");
    let plan = plan_for(&tree);
    let nics: Vec<&str> = plan.nics.iter().map(|nic| nic.nic.as_str()).collect();
    assert_eq!(nics, ["eno1", "ens1f0"], "ens1f1 is down");
    assert_eq!(plan.layout.node, None, "the NICs are on two nodes");
    let steps = &plan.steps;
    assert_eq!(change(steps, "sysctl net.core.rmem_max").unwrap(), "212992 -> 4194304");
    assert_eq!(change(steps, "sysctl net.ipv4.tcp_slow_start_after_idle").unwrap(), "1 -> 0");
    assert_eq!(change(steps, "sysctl net.ipv4.tcp_max_syn_backlog"), None, "more than is wanted");
    let governor = "/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor";
    assert_eq!(change(steps, governor).unwrap(), "powersave -> performance");
    assert!(remarks(&plan, "eno1").contains("rx-flow-hash"), "igb hashes addresses alone");
}

#[test]
fn what_nobody_has_looked_at_is_held_back_unless_asked_for() {
    let tree = Tree::new("xeon-x550-bond.toml");
    let plan_with = |include_unverified| {
        let scope = Scope { include_unverified, ..Scope::default() };
        plan(&tree.machine(), &catalog(), &scope).unwrap()
    };
    let (careful, daring) = (plan_with(false), plan_with(true));
    let what = "eth0 coalesce rx_usecs";
    assert_eq!(change(&careful.steps, what), None);
    assert_eq!(change(&careful.held_back, what).as_deref(), Some("1 -> 10"));
    assert_eq!(change(&daring.steps, what).as_deref(), Some("1 -> 10"));
    assert_eq!(change(&careful.steps, "eth0 rx-lro").as_deref(), Some("on -> off"));
    assert_eq!(change(&careful.steps, "eth0 combined channels").as_deref(), Some("16 -> 7"));
    assert!(careful.nics.iter().all(|nic| nic.nic != "bond0"), "a bond is no device");
}

#[test]
fn only_cpus_that_the_program_may_run_on_are_planned_for() {
    let tree = Tree::new("two-socket-e810.toml");
    let scope = Scope { allowed: Some(vec![2, 3, 4]), ..Scope::default() };
    let plan = plan(&tree.machine(), &catalog(), &scope).unwrap();
    assert_eq!((plan.layout.data, plan.layout.management), (vec![3, 4], Some(2)));
}

#[test]
fn xdp_on_ena_leaves_half_of_the_queues() {
    let plan = plan_for(&Tree::new("cloud-ena.toml"));
    assert_eq!(plan.layout.data, [1], "two cores of two threads, and the first is the kernel's");
    assert_eq!(change(&plan.steps, "ens5 combined channels").as_deref(), Some("4 -> 1"));
    assert_eq!(change(&plan.steps, "ens5 ring rx").as_deref(), Some("1024 -> 8192"));
    assert!(remarks(&plan, "ens5").contains("MTU of 9001"), "{:?}", plan.nics);
    let scope = Scope { cpus: vec![1, 2, 3], ..Scope::default() };
    let tree = Tree::new("cloud-ena.toml");
    let plan = waystation_tuning::plan::plan(&tree.machine(), &catalog(), &scope).unwrap();
    assert_eq!(change(&plan.steps, "ens5 combined channels").as_deref(), Some("4 -> 2"));
}

#[test]
fn arm_machines_are_planned_for() {
    let gve = plan_for(&Tree::new("cloud-arm-gve.toml"));
    assert_eq!(gve.layout.data, (1..8).collect::<Vec<_>>());
    assert_eq!(profile(&gve, "ens4"), "gve");
    assert_eq!(change(&gve.steps, "ens4 rx-lro").as_deref(), Some("on -> off"));
    assert_eq!(change(&gve.steps, "ens4 combined channels"), None, "it has none");
    let connectx = plan_for(&Tree::new("arm64-connectx.toml"));
    assert_eq!(connectx.layout.data, (40..48).collect::<Vec<_>>(), "the isolated ones");
    let steps = &connectx.steps;
    assert_eq!(change(steps, "enp1s0f0np0 combined channels").as_deref(), Some("63 -> 8"));
    assert_eq!(change(steps, "/proc/irq/101/smp_affinity_list").as_deref(), Some("0 -> 40"));
}

#[test]
fn small_cores_and_single_queues_are_planned_for() {
    let plan = plan_for(&Tree::new("mini-pc-hybrid.toml"));
    assert_eq!(plan.layout.data, [1], "the other large core is the kernel's");
    assert!(remarks(&plan, "enp2s0").contains("takes 1500 at most"));
    assert!(change(&plan.steps, "/proc/irq/126/smp_affinity_list").unwrap().ends_with("-> 1"));
    assert_eq!(profile(&plan, "enp3s0"), "r8169");
    assert!(change(&plan.steps, "/proc/irq/140/smp_affinity_list").is_none(), "left where it is");
}

#[test]
fn adjacent_threads_are_told_apart_from_cores() {
    let plan = plan_for(&Tree::new("broadcom-one-node.toml"));
    assert_eq!(plan.layout.data, (1..12).map(|core| core * 2).collect::<Vec<_>>());
    let channels = change(&plan.steps, "eno1np0 combined channels");
    assert_eq!(channels.as_deref(), Some("16 -> 9"), "half of 18 for XDP");
    assert_eq!(change(&plan.held_back, "eno1np0 rx-gro-hw").as_deref(), Some("on -> off"));
}

#[test]
fn an_unknown_nic_falls_to_the_generic_profile_and_says_so() {
    let plan = plan_for(&Tree::new("unknown-nic.toml"));
    assert_eq!(profile(&plan, "eth0"), "generic");
    assert!(plan.nics[0].reason.contains("no profile knows"));
    assert_eq!(change(&plan.steps, "eth0 rx-lro").as_deref(), Some("on -> off"));
    assert_eq!(change(&plan.steps, "eth0 combined channels"), None, "not touched");
}

#[test]
fn the_machine_that_was_captured_is_planned_for() {
    let tree = Tree::new("firecracker-two-cpus.tree");
    let plan = plan_for(&tree);
    assert_eq!((plan.layout.data.as_slice(), plan.layout.management), (&[1][..], Some(0)));
    assert_eq!(profile(&plan, "eth0"), "virtio_net");
    assert_eq!(plan.nics[0].pci_id.as_deref(), Some("1af4:1041"));
    let queues: Vec<String> = Inventory::read(&tree.machine())
        .nic("eth0")
        .unwrap()
        .irqs
        .iter()
        .map(|irq| irq.name.clone())
        .collect();
    assert_eq!(queues, ["virtio2-input.0", "virtio2-output.0"]);
    assert!(remarks(&plan, "eth0").contains("rx-gro-hw is fixed on, and should be off"));
    assert_eq!(change(&plan.steps, "sysctl net.core.netdev_max_backlog").unwrap(), "1000 -> 4096");
}

#[test]
fn every_plan_can_be_carried_out_is_then_empty_and_can_be_taken_back() {
    let catalog = catalog();
    let machines = all_machines();
    assert!(machines.len() >= 9, "{machines:?}");
    for name in machines {
        let tree = Tree::new(&name);
        let machine = tree.machine();
        let before = tree.contents();
        let file = tree.root().join("state/tuning.undo");
        let scope = Scope { include_unverified: true, ..Scope::default() };
        let wanted = plan(&machine, &catalog, &scope).unwrap().steps;
        assert!(!wanted.is_empty(), "{name} has nothing to tune");
        let applied = apply(&machine, &catalog, &scope, &file).unwrap();
        assert_eq!(applied.refused, [], "{name}");
        assert_eq!(applied.done, wanted, "{name}");
        let again = plan(&machine, &catalog, &scope).unwrap();
        assert_eq!(again.steps, [], "{name}");
        let (tuned, undo_text) = (tree.contents(), fs::read_to_string(&file).unwrap());
        let second = apply(&machine, &catalog, &scope, &file).unwrap();
        assert_eq!(second.done, [], "{name}");
        assert_eq!(tree.contents(), tuned, "{name}: nothing is written a second time");
        assert_eq!(fs::read_to_string(&file).unwrap(), undo_text);
        let undone = undo(&machine, &Scope::default(), &file).unwrap();
        assert_eq!(undone.refused, [], "{name}");
        assert!(!file.exists(), "{name}: nothing is left to undo");
        let mut after = tree.contents();
        after.retain(|path, _| before.contains_key(path));
        assert_eq!(significant(after), significant(before), "{name}");
    }
}

/// Files of the kernel end with a line feed whatever is written; files in a tree do not.
fn significant(
    contents: BTreeMap<std::path::PathBuf, String>,
) -> BTreeMap<std::path::PathBuf, String> {
    contents.into_iter().map(|(path, text)| (path, text.trim_end().to_owned())).collect()
}

#[test]
fn what_was_tuned_twice_goes_back_to_what_it_was_at_first() {
    let tree = Tree::new("unknown-nic.toml");
    let (machine, catalog) = (tree.machine(), catalog());
    let file = tree.root().join("tuning.undo");
    let target = Target::File { path: "proc/irq/34/smp_affinity_list".into() };
    let one = Scope { cpus: vec![1], ..Scope::default() };
    let other = Scope { cpus: vec![2], ..Scope::default() };
    apply(&machine, &catalog, &one, &file).unwrap();
    apply(&machine, &catalog, &other, &file).unwrap();
    assert_eq!(machine.read(&target).unwrap().unwrap().trim(), "2");
    undo(&machine, &Scope::default(), &file).unwrap();
    assert_eq!(machine.read(&target).unwrap().unwrap().trim(), "0");
}

fn only(nic: &str) -> Scope {
    Scope { nic: Some(nic.to_owned()), ..Scope::default() }
}

#[test]
fn what_is_protected_or_not_asked_for_stays_tuned_and_in_the_undo_file() {
    let tree = Tree::new("xeon-x550-bond.toml");
    tree.put("proc/sys/net/core/rmem_max", "212992\n");
    let (machine, catalog) = (tree.machine(), catalog());
    let file = tree.root().join("tuning.undo");
    apply(&machine, &catalog, &Scope::default(), &file).unwrap();
    let combined = |nic: &str| machine.nics().settings(nic).unwrap().channels.unwrap().combined;
    let of_machine = Scope { machine_only: true, ..Scope::default() };
    let undone = undo(&machine, &of_machine, &file).unwrap();
    assert!(undone.restored.iter().all(|what| !what.contains("eth") && !what.contains("irq")));
    assert!(undone.restored.iter().any(|what| what == "sysctl net.core.rmem_max"));
    assert_eq!((combined("eth0"), combined("eth1")), (7, 7));

    let protected = BTreeMap::from([("eth0".to_owned(), "carries it".to_owned())]);
    let careful = Scope { protected, ..Scope::default() };
    let undone = undo(&machine, &careful, &file).unwrap();
    assert_eq!((combined("eth0"), combined("eth1")), (7, 16));
    let left = undone.left_alone.iter().find(|left| left.what.contains("eth0 combined")).unwrap();
    assert!(left.reason.contains("carries it") && left.reason.contains("--even-if-remote"));
    let named = Scope { nic: Some("eth0".to_owned()), ..careful };
    assert!(undo(&machine, &named, &file).is_err());
    let undone = undo(&machine, &Scope::default(), &file).unwrap();
    assert!(undone.left_alone.is_empty(), "{:?}", undone.left_alone);
    assert_eq!(combined("eth0"), 16);
    assert!(!file.exists());
}

#[test]
fn what_an_administrator_has_set_since_is_left_alone_and_told() {
    let tree = Tree::new("two-socket-e810.toml");
    let (machine, catalog) = (tree.machine(), catalog());
    let file = tree.root().join("tuning.undo");
    apply(&machine, &catalog, &Scope::default(), &file).unwrap();
    tree.put("proc/sys/net/core/rmem_max", "1000000\n");
    let undone = undo(&machine, &Scope::default(), &file).unwrap();
    assert_eq!(machine.text("proc/sys/net/core/rmem_max").unwrap(), "1000000");
    let [left] = undone.left_alone.as_slice() else { panic!("{:?}", undone.left_alone) };
    assert_eq!(left.what, "sysctl net.core.rmem_max");
    for value in ["1000000", "4194304", "212992"] {
        assert!(left.reason.contains(value), "{}", left.reason);
    }
    assert!(!file.exists(), "it is theirs now");
}

#[test]
fn one_nic_can_be_taken_back_alone() {
    let tree = Tree::new("xeon-x550-bond.toml");
    let (machine, catalog) = (tree.machine(), catalog());
    let file = tree.root().join("tuning.undo");
    apply(&machine, &catalog, &Scope::default(), &file).unwrap();
    undo(&machine, &only("eth0"), &file).unwrap();
    let combined = |nic: &str| machine.nics().settings(nic).unwrap().channels.unwrap().combined;
    assert_eq!((combined("eth0"), combined("eth1")), (16, 7));
    assert_eq!(tree.machine().text("proc/irq/61/smp_affinity_list").unwrap(), "0");
    undo(&machine, &Scope::default(), &file).unwrap();
    assert_eq!(combined("eth1"), 16);
}

#[test]
fn a_step_that_is_refused_does_not_hold_up_the_others() {
    let tree = Tree::new("unknown-nic.toml");
    let file = tree.root().join("tuning.undo");
    // A directory in place of the file refuses to be written, for root too.
    tree.remove("proc/irq/34/smp_affinity_list");
    fs::create_dir(tree.root().join("proc/irq/34/smp_affinity_list")).unwrap();
    let error = apply(&tree.machine(), &catalog(), &Scope::default(), &file);
    assert!(error.is_err(), "what is there and cannot be read is no plan");
    assert!(!file.exists());
    fs::remove_dir(tree.root().join("proc/irq/34/smp_affinity_list")).unwrap();
    tree.put("nics/eth0.toml", "kind = \"x\"\n[features]\nrx-lro = \"on [fixed]\"\n");
    let applied = apply(&tree.machine(), &catalog(), &Scope::default(), &file).unwrap();
    assert_eq!(applied.refused, []);
    assert!(applied.done.iter().any(|step| step.what.contains("irq/35")));
}

#[test]
fn an_undo_file_of_before_the_last_start_says_nothing() {
    let tree = Tree::new("unknown-nic.toml");
    let (machine, catalog) = (tree.machine(), catalog());
    let file = tree.root().join("tuning.undo");
    apply(&machine, &catalog, &Scope::default(), &file).unwrap();
    tree.put("proc/sys/kernel/random/boot_id", "7c9b1a52-0000-4000-8000-000000000002\n");
    let undone = undo(&machine, &Scope::default(), &file).unwrap();
    assert_eq!(undone.restored, [""; 0]);
    assert!(!file.exists());
    let channel = machine.text("proc/irq/34/smp_affinity_list").unwrap();
    assert_ne!(channel, "0", "what a start would have reset is left as it is");
}

#[test]
fn a_file_that_is_no_undo_file_is_refused_before_anything_changes() {
    let tree = Tree::new("unknown-nic.toml");
    let file = tree.root().join("tuning.undo");
    let before = tree.contents();
    for text in ["", "{}", "{\"schema\":9,\"boot_id\":\"\",\"entries\":[]}"] {
        fs::write(&file, text).unwrap();
        assert!(apply(&tree.machine(), &catalog(), &Scope::default(), &file).is_err());
        assert!(undo(&tree.machine(), &Scope::default(), &file).is_err());
        fs::remove_file(&file).unwrap();
        assert_eq!(tree.contents(), before);
    }
}

#[test]
fn the_operators_own_connection_is_found_and_what_it_stands_on() {
    let tree = Tree::new("xeon-x550-bond.toml");
    let (machine, inventory) = (tree.machine(), Inventory::read(&tree.machine()));
    let own = Some("203.0.113.7 50412 192.0.2.10 22");
    let found = carrying(&machine, &inventory, &sessions(&machine, own, 4711)).unwrap();
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["bond0", "eth0", "eth1"]);
    assert!(found["eth0"].contains("203.0.113.7") && found["eth0"].contains("under bond0"));
    let scope = Scope { protected: found.clone(), ..Scope::default() };
    let plan = plan(&machine, &catalog(), &scope).unwrap();
    assert!(plan.steps.iter().all(|step| !step.what.contains("eth")), "{:?}", plan.steps);
    assert!(change(&plan.held_back, "eth0 rx-lro").is_some());
    let one = Scope { nic: Some("eth0".into()), protected: found, ..Scope::default() };
    let error = waystation_tuning::plan::plan(&machine, &catalog(), &one).unwrap_err();
    assert!(matches!(error, PlanError::Protected { .. }));
    assert!(error.to_string().contains("--even-if-remote"), "{error}");
}

#[test]
fn a_connection_whose_environment_sudo_has_taken_is_found_by_its_ancestors() {
    let tree = Tree::new("two-socket-e810.toml");
    let machine = tree.machine();
    tree.put("proc/30/status", "Name:\twaystation\nPPid:\t20\n");
    tree.put("proc/30/environ", "TERM=xterm\0");
    tree.put("proc/20/status", "Name:\tsudo\nPPid:\t10\n");
    tree.put("proc/10/status", "Name:\tbash\nPPid:\t1\n");
    tree.put("proc/10/environ", "TERM=xterm\0SSH_CONNECTION=203.0.113.7 50412 192.0.2.10 22\0");
    let found =
        carrying(&machine, &Inventory::read(&machine), &sessions(&machine, None, 30)).unwrap();
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["eno1", "ens1f0"], "by its address, and by the way back");
    assert!(sessions(&machine, None, 20).len() == 1 && sessions(&machine, None, 1).is_empty());
}

#[test]
fn a_session_by_a_tunnel_protects_every_device_that_is_up() {
    let tree = Tree::new("two-socket-e810.toml");
    tree.put(
        "nics.toml",
        "default_route = \"wg0\"\n[[addresses]]\ninterface = \"wg0\"\naddress = \"10.9.0.1\"\n",
    );
    let (machine, own) = (tree.machine(), Some("10.9.0.2 50412 10.9.0.1 22"));
    let sessions = sessions(&machine, own, 4711);
    let found = carrying(&machine, &Inventory::read(&machine), &sessions).unwrap();
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["eno1", "ens1f0", "wg0"], "ens1f1 is down");
    assert!(found["ens1f0"].contains("under wg0"), "{found:?}");
}

#[test]
fn a_session_whose_way_is_unknown_is_a_refusal_and_none_is_not() {
    let tree = Tree::new("two-socket-e810.toml");
    tree.put("nics.toml", "no answer");
    let (machine, inventory) = (tree.machine(), Inventory::read(&tree.machine()));
    let own = Some("203.0.113.7 50412 192.0.2.10 22");
    let error = carrying(&machine, &inventory, &sessions(&machine, own, 4711)).unwrap_err();
    for words in ["203.0.113.7", "--even-if-remote"] {
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(carrying(&machine, &inventory, &[]).unwrap(), BTreeMap::new());
}

#[test]
fn a_nic_that_is_not_there_is_said() {
    let tree = Tree::new("unknown-nic.toml");
    let scope = Scope { nic: Some("eth9".into()), ..Scope::default() };
    let error = plan(&tree.machine(), &catalog(), &scope).unwrap_err();
    assert!(error.to_string().contains("eth9"), "{error}");
}

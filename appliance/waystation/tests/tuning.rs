//! `tune` and `doctor` as processes; the first on a veth pair in a network namespace of its own. Only the interface is
//! tuned there: limits of the machine are no namespace's, and no test sets them.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use support::process::{Finished, Ordinary, Process, binary, command, is_root, run};
use support::{eventually, given};
use tempfile::TempDir;

/// Client and server of a session that comes in by `tuned`, as sshd tells it.
const SESSION: &str = "10.71.0.2 50000 10.71.0.1 22";

/// A profile of the tests' own, so that more than one kind of setting is changed.
const PROFILE: &str = r#"
name = "veth-test"
title = "a veth of a test"
extends = "veth"

[settings."features.tx-tcp-segmentation"]
value = false
status = "measured"
source = "a test"
why = "To see it change."

[settings."napi.gro_flush_timeout_ns"]
value = 20000
status = "measured"
source = "a test"
why = "To see it change."

[settings."napi.defer_hard_irqs"]
value = 2
status = "measured"
source = "a test"
why = "To see it change."

[settings."xps.queues"]
value = "data-cores"
status = "measured"
source = "a test"
why = "To see it change."
"#;

/// A namespace with two ends of a pair, `tuned` and `other`. Deleted when dropped.
struct Namespace {
    name: String,
    directory: TempDir,
}

impl Namespace {
    fn new(name: &str) -> Option<Self> {
        if !given(is_root() && has_ip(), "root, and ip of iproute2") {
            return None;
        }
        let name = format!("waystation-{name}-{}", std::process::id());
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("veth.toml"), PROFILE).unwrap();
        ip(&format!("netns add {name}"));
        let namespace = Self { name, directory };
        let queues = "numrxqueues 4 numtxqueues 4";
        namespace.ip(&format!("link add tuned {queues} type veth peer name other {queues}"));
        namespace.ip("address add 10.71.0.1/24 dev tuned");
        namespace.ip("link set tuned up");
        namespace.ip("link set other up");
        Some(namespace)
    }

    fn ip(&self, arguments: &str) {
        ip(&format!("-netns {} {arguments}", self.name));
    }

    fn undo_file(&self) -> String {
        self.directory.path().join("tuning.undo").to_str().unwrap().to_owned()
    }

    /// `waystation tune VERB --nic tuned …` in the namespace.
    fn tune(&self, verb: &str, more: &[&str]) -> Finished {
        run(&mut self.command(verb, more))
    }

    fn command(&self, verb: &str, more: &[&str]) -> Command {
        let mut command = command(Path::new("ip"));
        command.env_remove("SSH_CONNECTION");
        command.args(["netns", "exec", &self.name]).arg(binary());
        command.args(["tune", verb, "--nic", "tuned", "--undo-file", &self.undo_file()]);
        command.arg("--profiles").arg(self.directory.path()).args(more);
        command
    }

    fn document(&self, verb: &str) -> Value {
        let finished = self.tune(verb, &["--json"]);
        serde_json::from_slice(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", finished.text(), finished.stderr))
    }

    /// What the kernel says, read by nobody of ours.
    fn seen(&self) -> String {
        let script = "cd /sys/class/net/tuned && cat gro_flush_timeout napi_defer_hard_irqs \
                      threaded; ls queues; cat queues/tx-*/xps_cpus; ip -d -o link show tuned";
        let shell = Command::new("ip")
            .args(["netns", "exec", &self.name, "sh", "-c", script])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(shell.status.success(), "{}", String::from_utf8_lossy(&shell.stderr));
        String::from_utf8(shell.stdout).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn has_ip() -> bool {
    Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_ok_and(|it| it.success())
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn count(document: &Value, list: &str) -> usize {
    document[list].as_array().unwrap_or_else(|| panic!("no {list} in {document}")).len()
}

#[test]
fn a_veth_is_tuned_once_verified_and_taken_back_as_it_was() {
    let Some(namespace) = Namespace::new("tune") else { return };
    let (planned, seen) = (namespace.document("plan"), namespace.seen());
    assert_eq!(planned["nics"][0]["profile"], "veth-test");
    assert!(count(&planned, "steps") >= 5, "{planned}");
    assert_eq!(namespace.tune("verify", &[]).code(), 1);

    let applied = namespace.document("apply");
    assert_eq!(count(&applied, "refused"), 0, "{applied}");
    assert_eq!(namespace.tune("verify", &[]).code(), 0);
    let tuned = namespace.seen();
    assert_ne!(tuned, seen);
    assert!(tuned.starts_with("20000\n2\n"), "{tuned}");
    let undo_file = fs::read_to_string(namespace.undo_file()).unwrap();

    let second = namespace.document("apply");
    assert_eq!((count(&second, "done"), count(&second, "refused")), (0, 0), "{second}");
    assert_eq!(fs::read_to_string(namespace.undo_file()).unwrap(), undo_file);
    assert_eq!(namespace.seen(), tuned);

    let undone = namespace.document("undo");
    assert_eq!(count(&undone, "refused"), 0, "{undone}");
    assert!(!Path::new(&namespace.undo_file()).exists());
    assert_eq!(namespace.seen(), seen);
    assert_eq!(namespace.document("plan"), planned);
}

#[test]
fn the_interface_of_the_operators_own_connection_is_left_alone() {
    let Some(namespace) = Namespace::new("remote") else { return };
    let seen = namespace.seen();
    let refused = run(namespace.command("apply", &[]).env("SSH_CONNECTION", SESSION));
    assert_eq!(refused.code(), 1, "{}", refused.stderr);
    for word in ["tuned", "10.71.0.2", "--even-if-remote"] {
        assert!(refused.complaint().contains(word), "{}", refused.complaint());
    }
    assert_eq!(namespace.seen(), seen);
    assert!(!Path::new(&namespace.undo_file()).exists());
    let mut insisting = namespace.command("apply", &["--even-if-remote"]);
    let insisting = run(insisting.env("SSH_CONNECTION", SESSION));
    assert_eq!(insisting.code(), 0, "{}", insisting.stderr);
    assert_ne!(namespace.seen(), seen);
    assert_eq!(namespace.tune("undo", &[]).code(), 0);
    assert_eq!(namespace.seen(), seen);
}

#[test]
fn an_interface_that_is_not_there_is_said() {
    let finished = run(command(&binary()).args(["tune", "plan", "--nic", "nosuch0"]));
    assert_eq!(finished.code(), 69, "{}", finished.stderr);
    assert!(finished.complaint().contains("nosuch0"));
}

#[test]
fn a_wrong_profile_is_a_mistake_in_the_configuration() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("own.toml"), "name = \"own\"\nspeed = 9\n").unwrap();
    let mut plan = command(&binary());
    plan.args(["tune", "plan", "--machine-only", "--profiles"]).arg(directory.path());
    let finished = run(&mut plan);
    assert_eq!(finished.code(), 78, "{}", finished.stderr);
    assert!(finished.stderr.contains("own.toml") && finished.stderr.contains("speed"));
}

#[test]
fn an_ordinary_user_may_plan_and_not_apply() {
    if !given(Ordinary::is_possible(), "setpriv, to be an ordinary user") {
        return;
    }
    let ordinary = Ordinary::new();
    let plan = run(ordinary.command().args(["tune", "plan", "--machine-only"]));
    assert_eq!(plan.code(), 0, "{}", plan.stderr);
    assert!(plan.text().contains("data cores on CPU"), "{}", plan.text());
    let apply = run(ordinary.command().args(["tune", "apply", "--machine-only"]));
    assert_eq!(apply.code(), 77, "{}", apply.stderr);
    assert!(apply.complaint().contains("needs root"), "{}", apply.complaint());
}

#[test]
fn doctor_explains_this_machine_and_fails_when_a_port_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("waystation.toml");
    let configure = |address: &str| {
        let socket = directory.path().join("waystation.sock");
        let text = format!(
            "[listen]\naddresses = [\"{address}\"]\n[management]\nsocket = {socket:?}\n\
             [engine]\nlinks_max = 100\nhalf_open_max = 16\nsockets_max = 16\n"
        );
        fs::write(&file, text).unwrap();
    };
    let doctor = || {
        let mut doctor = command(&binary());
        doctor.args(["doctor", "--json", "--config"]).arg(&file);
        let finished = run(&mut doctor);
        let document: Value = serde_json::from_slice(&finished.stdout).unwrap();
        (finished.code(), document)
    };
    configure(&address.to_string());
    let (code, document) = doctor();
    assert_eq!(code, 1);
    let checks = document["checks"].as_array().unwrap();
    let ports = checks.iter().find(|check| check["name"] == "ports").unwrap();
    assert_eq!(ports["verdict"], "fail", "{ports}");
    assert!(ports["seen"].as_str().unwrap().contains(&address.to_string()));
    assert!(checks.iter().all(|check| check["verdict"] == "ok" || check["why"] != ""));

    drop(taken);
    configure("127.0.0.1:0");
    let (code, document) = doctor();
    let checks = document["checks"].as_array().unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| check["verdict"] == "fail").collect();
    assert_eq!((code, failed.len()), (0, 0), "{failed:?}");
    let pools = document["memory_pools_bytes"].as_u64().unwrap();
    assert!(document["memory_worst_case_bytes"].as_u64().unwrap() > pools && pools > 300 << 20);
    let terms = document["memory"].as_array().unwrap();
    let sum: u64 = terms.iter().map(|term| term["bytes"].as_u64().unwrap()).sum();
    assert_eq!(document["memory_worst_case_bytes"], sum);
}

#[test]
fn a_start_says_what_the_doctor_found() {
    let home = TempDir::new().unwrap();
    let mut start = command(&binary());
    start.args(["run", "--listen", "127.0.0.1:0", "--state-dir"]).arg(home.path());
    let process = Process::spawn(&mut start, &home.path().join("log"));
    let said = || process.log().contains("examined this machine").then_some(());
    eventually("the machine is examined", said);
}

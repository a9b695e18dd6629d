//! A machine whose operator has forbidden io_uring. In a program of its own, because the sysctl is
//! the whole machine's; only processes without `CAP_SYS_ADMIN` are refused, so nobody else's work
//! on this machine changes.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::fs;
use support::appliance::{Appliance, PortName, Settings};
use support::process::{Ordinary, is_root, run};
use support::{given, nodes, streams};
use waystation_astral::frame::Profile;
use waystation_peer::RouteForm;

const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";
/// Only processes in `kernel.io_uring_group` or with `CAP_SYS_ADMIN` may use it (Linux 6.6).
const FOR_THE_PRIVILEGED: &str = "1";

/// Forbids io_uring to ordinary users until it is dropped.
struct Forbidden {
    before: String,
}

impl Forbidden {
    /// Nothing if this machine does not let the test do so.
    fn new() -> Option<Self> {
        let before = fs::read_to_string(SYSCTL).ok()?;
        fs::write(SYSCTL, FOR_THE_PRIVILEGED).ok()?;
        Some(Self { before })
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        fs::write(SYSCTL, self.before.trim()).unwrap();
    }
}

#[test]
fn forbidden_io_uring_is_said_and_replaced_or_refused_when_demanded() {
    if !given(is_root() && Ordinary::is_possible(), "root and setpriv, to be an ordinary user") {
        return;
    }
    let Some(_forbidden) = Forbidden::new() else {
        given(false, "the sysctl kernel.io_uring_disabled (Linux 6.6)");
        return;
    };
    let ordinary = Ordinary::new();
    falls_back_to_epoll_and_says_so(&ordinary);
    refuses_when_demanded(&ordinary);
}

fn falls_back_to_epoll_and_says_so(ordinary: &Ordinary) {
    let settings = Settings::new_auto(2);
    let mut appliance = Appliance::start_ordinary(ordinary, &settings);
    let log = appliance.process.log();
    let line = log.lines().find(|line| line.contains("io_uring is not used"));
    let line = line.unwrap_or_else(|| panic!("not a word about it:\n{log}"));
    for word in ["WARN", "kernel.io_uring_disabled", "epoll"] {
        assert!(line.contains(word), "no {word} in: {line}");
    }
    let status = appliance.status();
    for core in status["cores"].as_array().unwrap() {
        assert_eq!(core["port"], "epoll");
    }
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P0));
    let (near, far) = nodes::route(&caller, &target, RouteForm::G2);
    streams::exchange("over the replacement", near, far, 300_000);
    assert!(appliance.stop().success());
}

fn refuses_when_demanded(ordinary: &Ordinary) {
    let file = ordinary.directory.path().join("demanding.toml");
    fs::write(&file, Settings::new(PortName::IoUring, 1).text()).unwrap();
    let mut command = ordinary.command();
    command.arg("run").arg("--config").arg(&file).arg("--state-dir");
    command.arg(ordinary.directory.path().join("state"));
    let finished = run(&mut command);
    assert_eq!(finished.code(), 69, "{}", finished.stderr);
    let complaint = finished.complaint();
    for word in ["engine.port", "io_uring", "kernel.io_uring_disabled", "\"epoll\""] {
        assert!(complaint.contains(word), "no {word} in: {complaint}");
    }
}

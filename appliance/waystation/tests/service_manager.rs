//! What a service manager hears of a running appliance, and what it does not hear of one that hangs.

#![allow(
    clippy::unwrap_used,
    reason = "a test that fails says where; nothing of it runs anywhere else"
)]

mod support;

use rustix::process::Signal;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::held::{Held, thread};
use support::process::{binary, command, run};
use support::{STEP, eventually, given, nodes};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_peer::RouteForm;

/// For how long nothing may be heard of a program that hangs: several times the second after which
/// one that does not is heard again.
const SILENCE: Duration = Duration::from_secs(4);
/// Signs that may be heard after a core was held: those sent before and read after, and the one that
/// its last answer gives.
const LATE_SIGNS_MAX: usize = 3;

/// A service manager, and an appliance that it watches.
struct Watched {
    appliance: Appliance,
    manager: UnixDatagram,
}

impl Watched {
    fn start(settings: &Settings) -> Self {
        let directory = TempDir::new().unwrap();
        let told = directory.path().join("notify");
        let manager = UnixDatagram::bind(&told).unwrap();
        manager.set_read_timeout(Some(STEP)).unwrap();
        let file = directory.path().join("waystation.toml");
        fs::write(&file, settings.text()).unwrap();
        let state = directory.path().join("state");
        let mut command = command(&binary());
        command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
        // Nobody ends it, however long it is silent.
        command.env("NOTIFY_SOCKET", &told).env("WATCHDOG_USEC", "600000000");
        let appliance = Appliance::spawn(&mut command, directory, &state);
        Self { appliance, manager }
    }

    /// Waits until this has been said.
    fn expect(&self, wanted: &str) {
        while !self.hear().unwrap().lines().any(|line| line.starts_with(wanted)) {}
    }

    /// What has been said already.
    fn hear_at_once(&self) -> Option<String> {
        self.manager.set_nonblocking(true).unwrap();
        let heard = self.hear().ok();
        self.manager.set_nonblocking(false).unwrap();
        heard
    }

    fn hear(&self) -> std::io::Result<String> {
        let mut datagram = [0; 4096];
        let bytes = self.manager.recv(&mut datagram)?;
        Ok(String::from_utf8(datagram[..bytes].to_vec()).unwrap())
    }
}

#[test]
fn watchdog_is_fed_while_every_core_turns_and_is_not_while_one_hangs() {
    let watched = Watched::start(&Settings::new(PortName::Epoll, 2));
    watched.expect("READY=1");
    watched.expect("WATCHDOG=1");
    watched.expect("WATCHDOG=1");

    watched.manager.set_nonblocking(true).unwrap();
    while watched.hear().is_ok() {}
    watched.manager.set_nonblocking(false).unwrap();
    let held = Held::hold(thread(watched.appliance.process.id(), "data-1"));
    if !given(held.is_some(), "ptrace") {
        return;
    }
    // It may have answered once more before it was held, and a sign may have been on its way.
    watched.manager.set_read_timeout(Some(SILENCE)).unwrap();
    let mut late_signs = 0;
    let silence = loop {
        match watched.hear() {
            Ok(told) => late_signs += told.matches("WATCHDOG=1").count(),
            Err(error) => break error,
        }
        assert!(late_signs <= LATE_SIGNS_MAX, "{late_signs} signs of a program that hangs");
    };
    assert!(matches!(silence.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
    // It is silent because of that core, not because nobody asks.
    let complaint = "a data core does not answer";
    eventually("the core is missed", || {
        watched.appliance.process.log().contains(complaint).then_some(())
    });

    drop(held);
    watched.manager.set_read_timeout(Some(STEP)).unwrap();
    watched.expect("WATCHDOG=1");
}

#[test]
fn service_manager_hears_what_is_carried_and_of_the_end() {
    let mut watched = Watched::start(&Settings::new(PortName::Epoll, 1));
    watched.expect("STATUS=Serving: links 0, registered nodes 0");
    watched.appliance.process.signal(Signal::TERM);
    watched.expect("STOPPING=1");
    assert!(watched.appliance.process.wait(STEP).success());
}

#[test]
fn watchdog_is_fed_for_as_long_as_a_drain_takes() {
    let watched = Watched::start(&Settings::new(PortName::Epoll, 1));
    let (caller, target) =
        (watched.appliance.node(Profile::P4), watched.appliance.node(Profile::P4));
    let _session = nodes::route(&caller, &target, RouteForm::G2);
    let mut drain = command(&binary());
    drain.args(["drain", "--no-wait", "--socket"]).arg(&watched.appliance.socket);
    assert_eq!(run(&mut drain).code(), 0);
    assert_eq!(watched.appliance.status()["readiness"]["state"], "draining");
    // It is said once, and what comes behind it is of the drain too.
    watched.expect("STATUS=Draining: links");
    watched.expect("WATCHDOG=1");
    watched.expect("WATCHDOG=1");
}

/// A process that nobody here is the parent of. Dropped, it is killed.
struct Behind(rustix::process::Pid);

impl Drop for Behind {
    fn drop(&mut self) {
        // It may have ended.
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
    }
}

#[test]
fn service_manager_hears_who_takes_over_and_is_told_by_that_one_that_it_lives() {
    let mut watched = Watched::start(&Settings::new(PortName::Epoll, 1));
    let directory = watched.appliance.directory.path();
    let mut next = command(&binary());
    next.args(["upgrade", "--background", "--config"]).arg(directory.join("waystation.toml"));
    next.arg("--state-dir").arg(directory.join("state"));
    next.env("NOTIFY_SOCKET", directory.join("notify"));
    let finished = run(&mut next);
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let said = finished.text();
    let process = said.strip_prefix("process ").and_then(|rest| rest.split(' ').next()).unwrap();
    let raw: i32 = process.parse().unwrap();
    let _behind = Behind(rustix::process::Pid::from_raw(raw).unwrap());
    watched.expect(&format!("MAINPID={process}"));
    assert!(watched.appliance.process.wait(STEP).success());
    // The one before says nothing any more, so this is the next one's.
    while watched.hear_at_once().is_some() {}
    watched.expect("WATCHDOG=1");
    assert_eq!(watched.appliance.status()["readiness"]["state"], "ready");
}

//! The package under a systemd that has started the machine: the guide word for word, and what the
//! unit and its drop-ins promise. Needs what `support/debian.rs` says, and control groups of the
//! second kind.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails says where, and shows what was on screen"
)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use support::debian::{Booted, Debian, expect_end_of_guide, guide};
use support::nodes::{Node, route};
use support::streets::enter;
use support::{STEP, eventually, eventually_within};
use waystation_astral::frame::Profile;
use waystation_astral::identity::Identity;
use waystation_peer::{LinkOptions, RouteForm, secret_key};

/// Where the unit's configuration listens.
const LISTENS: &str = "127.0.0.1:1791";
/// Shows one of what the tuning unit sets: each network namespace has its own, and begins with 1.
const SETTING: &str = "cat /proc/sys/net/ipv4/tcp_slow_start_after_idle";
/// Users that systemd makes for a service (systemd.exec(5), `DynamicUser=`).
const DYNAMIC_USERS: std::ops::RangeInclusive<u32> = 61_184..=65_519;

#[test]
fn first_time_reader_with_systemd_ends_with_a_service_without_privileges_and_a_histogram() {
    let Some(debian) = Debian::fresh() else { return };
    debian.bring("WAYSTATION_DEB");
    let Some(booted) = debian.boot() else { return };
    let before = booted.output(SETTING);
    let screen = booted.output(&guide(&["sh", "sh systemd"]));
    println!("{screen}");
    expect_end_of_guide(&screen);

    assert_eq!(booted.property("Type"), "notify");
    assert_eq!(booted.property("SubState"), "running");
    assert_eq!(booted.property("UnitFileState"), "enabled");
    assert_ne!(booted.property("WatchdogTimestampMonotonic"), "0", "no sign of life");
    let started: u64 = booted.property("ExecMainStartTimestampMonotonic").parse().unwrap();
    let ready: u64 = booted.property("ActiveEnterTimestampMonotonic").parse().unwrap();
    println!("ready {} ms after systemd had started it", (ready - started) / 1000);
    without_privileges(&booted);
    set_for_relaying_and_back(&booted, &before);
    reloads(&booted);

    booted.output("systemctl stop waystation");
    assert_eq!(booted.property("ActiveState"), "inactive");
    assert_eq!(booted.property("Result"), "success");
    booted.output("test ! -e /run/waystation");

    // A package is also purged while its service runs.
    booted.output("systemctl start waystation; apt-get purge -y waystation");
    let units = booted.output("systemctl list-units --all --plain --no-legend 'waystation*'");
    assert_eq!(units, "");
    let failed = booted.output("systemctl list-units --failed --plain --no-legend");
    assert!(!failed.contains("waystation"), "{failed}");
}

/// No thread of the service has a capability, another user than the package's, or a way to more.
fn without_privileges(booted: &Booted) {
    let service = booted.property("MainPID");
    let user = booted.output("id -u waystation");
    let threads = booted.output(&format!("cat /proc/{service}/task/*/status"));
    let values = |key: &str| -> Vec<Vec<String>> {
        let lines = threads.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        for value in values(set) {
            assert_eq!(value, ["0000000000000000"], "{set}");
        }
    }
    assert!(values("CapEff").len() >= 3, "{threads}");
    assert!(values("NoNewPrivs").iter().all(|value| *value == ["1"]), "{threads}");
    // 2: with a filter of system calls.
    assert!(values("Seccomp").iter().all(|value| *value == ["2"]), "{threads}");
    assert!(values("Uid").iter().flatten().all(|uid| uid == user.trim()), "{threads}");
    let open = booted.output("stat -c %a /var/lib/waystation /var/lib/waystation/node_key");
    assert_eq!(open, "700\n600\n");
}

/// The one-shot unit has set what it says it sets, and takes it back.
fn set_for_relaying_and_back(booted: &Booted, before: &str) {
    assert_eq!(booted.output(SETTING), "0\n");
    booted.output("systemctl stop waystation-tune");
    assert_eq!(booted.output(SETTING), before);
    booted.output("systemctl start waystation-tune");
}

fn reloads(booted: &Booted) {
    let file = "/etc/waystation/waystation.toml";
    let process = booted.property("MainPID");
    booted.output(&format!("sed -i s/relay-1/relay-2/ {file}; systemctl reload waystation"));
    eventually("the program has read its configuration again", || {
        let journal = booted.journal();
        journal.contains("reloaded the configuration").then_some(())
    });
    booted.output(&format!("cp {file} good; echo 'x = ' >>{file}"));
    assert!(!booted.run("systemctl reload waystation").status.success());
    assert!(booted.journal().contains("waystation.toml:"), "{}", booted.journal());
    booted.output(&format!("cp good {file}; systemctl reload waystation"));
    assert_eq!(booted.property("MainPID"), process);
    assert_eq!(booted.property("NRestarts"), "0");
    assert_eq!(booted.property("ActiveState"), "active");
}

#[test]
fn drop_ins_of_the_package_hold_a_dynamic_user_an_upgrade_and_a_drain_and_a_hang_ends() {
    let Some(debian) = Debian::fresh() else { return };
    let package = debian.bring("WAYSTATION_DEB");
    let Some(booted) = debian.boot() else { return };
    booted.output(&format!("apt-get install -y /root/{package}"));
    // As on a machine on which there is no user of that name.
    booted.output(
        "identity=$(waystation identity --state-dir /var/lib/waystation)
        userdel waystation
        cd /etc/systemd/system
        mkdir waystation.service.d
        cp /usr/share/doc/waystation/examples/{dynamic-user,drain,upgrade}.conf waystation.service.d
        printf '[Service]\\nWatchdogSec=10s\\n' >waystation.service.d/watchdog.conf
        systemctl daemon-reload
        systemctl start waystation
        test \"$identity\" = \"$(waystation identity --state-dir /var/lib/waystation)\"",
    );
    let service = booted.property("MainPID");
    let user = booted.output(&format!("stat -c %u /proc/{service}"));
    assert!(DYNAMIC_USERS.contains(&user.trim().parse().unwrap()), "{user}");

    // It is still there, and does nothing.
    booted.output(&format!("kill -STOP {service}"));
    eventually_within("systemd has started it anew", 3 * STEP, || {
        (booted.property("NRestarts") == "1").then_some(())
    });
    booted.expect_state("active");
    assert!(booted.journal().contains("watchdog"), "{}", booted.journal());

    upgrades(&booted);
    drains(&booted);
}

/// A reload puts another process in the place of the one that runs, and the service goes on as it.
fn upgrades(booted: &Booted) {
    let before = booted.property("MainPID");
    let mut pair = Pair::new(booted);
    pair.exchange(b"before");
    booted.output("systemctl reload waystation");
    assert_ne!(booted.property("MainPID"), before);
    pair.exchange(b"after");
    Pair::new(booted).exchange(b"through the new one");
    assert_eq!(booted.property("ActiveState"), "active");
}

/// A stop lets a session go on to its end.
fn drains(booted: &Booted) {
    let mut pair = Pair::new(booted);
    booted.output("systemctl stop --no-block waystation");
    booted.expect_state("deactivating");
    eventually("it drains", || booted.journal().contains("draining until=0").then_some(()));
    pair.exchange(b"on its way out");
    assert_eq!(booted.property("ActiveState"), "deactivating");
    drop(pair);
    booted.expect_state("inactive");
    assert_eq!(booted.property("Result"), "success");
}

/// Two nodes in the network of the booted root, with a session through the service.
struct Pair {
    near: waystation_peer::Session,
    far: waystation_peer::Session,
    _nodes: [Node; 2],
}

impl Pair {
    fn new(booted: &Booted) -> Self {
        let identity = booted.output("waystation status --json");
        let identity: serde_json::Value = serde_json::from_str(&identity).unwrap();
        let identity: Identity = identity["identity"].as_str().unwrap().parse().unwrap();
        let node = || {
            let stream = connect(booted);
            let options = LinkOptions::with_profile(Profile::P4);
            Node::over(stream, secret_key().unwrap(), &identity, &options).unwrap()
        };
        let nodes = [node(), node()];
        let (near, far) = route(&nodes[0], &nodes[1], RouteForm::G2);
        Self { near, far, _nodes: nodes }
    }

    fn exchange(&mut self, what: &[u8]) {
        self.near.write_all(what).unwrap();
        self.near.flush().unwrap();
        let mut heard = vec![0; what.len()];
        self.far.read_exact(&mut heard).unwrap();
        assert_eq!(heard, what);
    }
}

/// A connection to the service, made by a thread that is in its network for as long as that takes.
fn connect(booted: &Booted) -> TcpStream {
    let network = File::open(booted.network()).unwrap();
    let connecting = thread::spawn(move || {
        enter(&network);
        let address: SocketAddr = LISTENS.parse().unwrap();
        TcpStream::connect_timeout(&address, STEP).unwrap()
    });
    connecting.join().unwrap()
}

//! The XDP program for an ordinary user: where the process may not load one, and where a unit gives it
//! what that needs.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::fs;
use std::path::Path;
use support::appliance::{Appliance, PortName, Settings};
use support::given;
use support::process::{Ordinary, is_root, run};
use support::streets::{LAN, Streets, WAN, switch};
use support::turn::users_file;
use tempfile::TempDir;
use waystation_peer::TurnClient;

/// The service as it is packaged.
const UNIT: &str = "../package/systemd/waystation.service";
const FORWARDING: &str = "net/ipv4/conf/lo/forwarding";

/// A file of TURN users that the ordinary user can read, as a line of the configuration.
fn users_of(ordinary: &Ordinary) -> String {
    let users_file = users_file(ordinary.directory.path(), &[("alice", "pw")]);
    support::process::give_away(&ordinary.directory.path().join("users"));
    users_file
}

#[test]
fn without_privileges_everything_works_without_the_program_and_says_why() {
    if !given(Ordinary::is_possible(), "setpriv") {
        return;
    }
    let ordinary = Ordinary::new();
    let settings = Settings::new(PortName::Epoll, 1)
        .with("turn", "listen = [\"127.0.0.1:0\"]")
        .with("turn", &users_of(&ordinary))
        .with("xdp", "mode = \"auto\"")
        .with("xdp", "interfaces = [\"lo\"]");
    let appliance = Appliance::start_ordinary(&ordinary, &settings);
    let document = appliance.document("/v1/xdp");
    assert_eq!(document["state"], "unavailable", "{document}");
    assert!(document["why"].as_str().unwrap().contains("CAP_BPF"), "{document}");
    assert!(appliance.process.log().contains("no XDP program"));
    let server = appliance.status()["turn_listen"][0].as_str().unwrap().parse().unwrap();
    TurnClient::over_udp(server, ("alice", "pw")).unwrap().allocate().unwrap();
}

#[test]
fn the_demo_says_what_it_needs() {
    if !given(Ordinary::is_possible(), "setpriv") {
        return;
    }
    let ordinary = Ordinary::new();
    let finished = run(ordinary.command().args(["demo", "--scenario", "xdp", "--seconds", "1"]));
    assert_eq!(finished.code(), 77, "{}", finished.stderr);
    let complaint = finished.complaint();
    assert!(complaint.contains("needs root") && complaint.contains("udp"), "{complaint}");
}

#[test]
fn capabilities_of_the_unit_put_the_program_on_and_are_given_up_then() {
    if !given(is_root() && Ordinary::is_possible(), "root and setpriv") {
        return;
    }
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(UNIT)).unwrap();
    let ambient = unit.lines().find_map(|line| line.strip_prefix("AmbientCapabilities=")).unwrap();
    let capabilities: Vec<&str> = ambient.split(' ').collect();
    let ordinary = Ordinary::new();
    let settings = Settings::new(PortName::Epoll, 1)
        .with("turn", &format!("listen = [\"{WAN}:443\"]"))
        .with("turn", &format!("relay_addresses = [\"{LAN}\"]"))
        .with("turn", &users_of(&ordinary))
        .with("xdp", "mode = \"generic\"");
    let file = ordinary.directory.path().join("waystation.toml");
    fs::write(&file, settings.text()).unwrap();
    let directory = TempDir::new_in(ordinary.directory.path()).unwrap();
    support::process::give_away(directory.path());
    let state = directory.path().join("state");
    let mut command = ordinary.command_with(&capabilities);
    command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
    let streets = Streets::new();
    let mut appliance = Appliance::spawn(&mut command, directory, &state);
    let document = appliance.document("/v1/xdp");
    assert_eq!(document["state"], "on", "{document}\n{}", appliance.process.log());
    assert_eq!(document["hints"], serde_json::json!([]), "{document}");
    assert_eq!(switch(FORWARDING), "1");
    let status = fs::read_to_string(format!("/proc/{}/status", appliance.process.id())).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
        assert_eq!(line.trim_start_matches(':').trim(), "0000000000000000", "{set}");
    }
    let server = appliance.status()["turn_listen"][0].as_str().unwrap().parse().unwrap();
    let client = streets.at_client(|| TurnClient::over_udp(server, ("alice", "pw")));
    client.unwrap().allocate().unwrap();
    assert!(appliance.stop().success(), "{}", appliance.process.log());
}

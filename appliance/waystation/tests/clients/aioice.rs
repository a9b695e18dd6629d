//! aioice: two ends of an ICE connection that only TURN can connect, in a process each.

use crate::scene::{End, Family, Scene};
use crate::support::appliance::PortName;
use crate::support::given;
use crate::talker::Talker;
use crate::turn::{Pauses, Tier, Turn, USER};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/ice_end.py");
/// What the script sends each way.
const MESSAGES: u64 = 96;

#[test]
fn ice_pair_on_loopback_that_may_use_relays_alone_delivers_in_trains() {
    if let Some(scene) = Scene::loopback() {
        connects(&scene, "relay", "udp", Tier::Gso);
    }
}

#[test]
fn ice_pair_whose_controlled_end_reaches_the_relay_over_tcp_delivers() {
    if let Some(scene) = Scene::loopback() {
        connects(&scene, "relay", "tcp", Tier::Plain);
    }
}

#[test]
fn ice_pair_without_a_route_between_its_ends_is_connected_by_the_relay() {
    if let Some(scene) = Scene::namespaces() {
        scene.assert_apart();
        // Whatever candidates they like: those of their own addresses lead nowhere.
        connects(&scene, "all", "udp", Tier::Plain);
    }
}

#[test]
fn ice_pair_without_a_route_between_its_ends_is_connected_by_xdp() {
    if let Some(scene) = Scene::namespaces() {
        scene.assert_apart();
        connects(&scene.with_finished_checksums(), "all", "udp", Tier::Xdp);
    }
}

#[test]
fn ice_pair_in_namespaces_that_may_use_relays_alone_delivers_in_trains() {
    if let Some(scene) = Scene::namespaces() {
        connects(&scene, "relay", "udp", Tier::Gso);
    }
}

/// `transport` is that of the controlled end to the server; the other one's is UDP.
fn connects(scene: &Scene, policy: &str, transport: &str, tier: Tier) {
    let python = python();
    if !given(has_aioice(&python), "aioice (WAYSTATION_PYTHON names a Python that has it)") {
        return;
    }
    let turn = Turn::start(scene, PortName::Epoll, tier);
    let ends = [(End::A, "controlling", "udp"), (End::B, "controlled", transport)];
    let mut ends = ends.map(|(end, role, transport)| {
        let server = match transport {
            "tcp" => turn.server_over_tcp(Family::Ipv4),
            _ => turn.server(Family::Ipv4),
        };
        let mut command = scene.command(end, &python);
        command.args([SCRIPT, role, policy, transport]);
        command.args([&server.ip().to_string(), &server.port().to_string()]);
        Talker::spawn(role, command.args([USER.0, USER.1]))
    });
    let about = [ends[0].hear(), ends[1].hear()];
    for end in &about {
        let candidates = end["candidates"].as_array().unwrap();
        let is_relay =
            |candidate: &&serde_json::Value| candidate.as_str().unwrap().contains("typ relay");
        assert_eq!(candidates.iter().filter(is_relay).count(), 1, "{end}");
        assert!(policy == "all" || candidates.len() == 1, "{end}");
    }
    let pauses = (tier == Tier::Gso).then(|| Pauses::of(&turn));
    ends[0].tell(&about[1]);
    ends[1].tell(&about[0]);
    let chosen = ends[0].hear();
    assert_eq!(ends[1].hear()["messages"], MESSAGES);
    drop(pauses);
    println!("policy {policy}: {chosen}");
    assert!(chosen["local"] == "relay" || chosen["remote"] == "relay", "{chosen}");
    assert!(policy == "all" || chosen["local"] == chosen["remote"], "{chosen}");
    // The way of the data is one relay or two, and each message goes there and back.
    let into_streams = if transport == "tcp" { MESSAGES } else { 0 };
    turn.expect_carried(MESSAGES, into_streams);
    ends.into_iter().for_each(Talker::finish);
    turn.appliance.expect_total(&["turn_allocations_open"], 0);
}

/// A Python that may have aioice.
fn python() -> PathBuf {
    std::env::var_os("WAYSTATION_PYTHON").map_or_else(|| "python3".into(), PathBuf::from)
}

fn has_aioice(python: &Path) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", "import aioice"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

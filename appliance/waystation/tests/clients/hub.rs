//! Two daemons of A2AL that can only meet through the signalling hub and TURN: the node of the DHT
//! brings the hub, `[turn]` relays, and the users are made of a shared secret.

use crate::scene::{End, Family, Scene};
use crate::support::appliance::{PortName, Settings};
use crate::support::{eventually, given};
use crate::talker::Talker;
use crate::turn::{SECRET, Tier, Turn};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/hub_end.py");
/// What the caller sends and the called one sends back.
const MESSAGES: u64 = 96;
/// Frames of a room: credentials, two candidates and the end of them at least, from either side.
const FRAMES: u64 = 8;
const CALLEE: &str = "A034750f98bD59fcFc946Da45aaAbe933bE154a4B5";
const CALLER: &str = "A06a3803d5f059902a1c6dafbc9ba4729212f7caac";

#[test]
fn daemons_without_a_route_to_each_other_meet_through_hub_and_turn() {
    let python = python();
    let modules = "aioice, cbor2 and websockets (WAYSTATION_PYTHON names a Python that has them)";
    if !given(has_modules(&python), modules) {
        return;
    }
    let Some(scene) = Scene::namespaces() else { return };
    scene.assert_apart();
    let settings = Settings::new(PortName::Epoll, 2)
        .with("dht", "enabled = true")
        .with("dht", "listen = [\"10.78.1.1:4121\", \"10.78.2.1:4121\"]")
        .with("dht", "diverse = false");
    let turn = Turn::start_of(&scene, settings, Tier::Plain);
    let hub = || turn.appliance.document("/v1/hub")["hub"].clone();
    let totals = |name: &str| hub()["totals"][name].as_u64().unwrap();

    // Each knows the relay by the address that is on its own side.
    let daemon = |end: End, role: &str, own: &str, other: &str| {
        let host = turn.near(end, Family::Ipv4);
        let mut command = scene.command(end, &python);
        command.args([SCRIPT, role, &host.ip().to_string(), "4121", &host.port().to_string()]);
        // One script imports the other, and nothing is to be left beside them.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Talker::spawn(role, command.args([own, other, SECRET]))
    };
    let callee = daemon(End::B, "callee", CALLEE, CALLER);
    assert_eq!(callee.hear()["t"], "ack");
    let mut caller = daemon(End::A, "caller", CALLER, CALLEE);
    caller.tell(&Value::Null);
    let call = callee.hear();
    assert_eq!(
        (&call["t"], &call["f"], &call["g"]),
        (&"incoming".into(), &CALLER.into(), &CALLEE.into())
    );
    let chosen = caller.hear();
    assert_eq!(callee.hear()["messages"], MESSAGES);
    assert!(chosen["local"] == "relay" || chosen["remote"] == "relay", "{chosen}");
    // What they said to arrange it went through the hub, and what they said then through TURN alone.
    turn.expect_carried(MESSAGES, 0);
    eventually("the call, its room and what was said there are counted", || {
        let is_arranged = (totals("calls"), totals("rooms")) == (1, 1);
        (is_arranged && totals("messages") >= FRAMES).then_some(())
    });
    let frames = totals("messages");
    assert!(frames < MESSAGES, "{frames}");
    caller.finish();
    callee.finish();
    turn.appliance.expect_total(&["turn_allocations_open"], 0);
    eventually("the hub is empty again", || (hub()["connections"] == 0).then_some(()));
}

/// A Python that may have what daemons are made of here.
fn python() -> PathBuf {
    std::env::var_os("WAYSTATION_PYTHON").map_or_else(|| "python3".into(), PathBuf::from)
}

fn has_modules(python: &Path) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", "import aioice, cbor2, websockets"]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

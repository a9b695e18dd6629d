//! `waystation run` as somebody meets it who has just built it: no file, no arguments but where to
//! keep the key.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use support::appliance::Appliance;
use support::nodes::Node;
use support::process::{binary, command, run};
use support::{STEP, eventually};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_peer::{Link, PeerError};

fn start(state: &Path) -> Appliance {
    let mut command = command(&binary());
    command.args(["run", "--listen", "127.0.0.1:0", "--state-dir"]).arg(state);
    Appliance::spawn(&mut command, TempDir::new().unwrap(), state)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn first_start_makes_a_key_that_only_its_owner_can_read_and_says_who_it_is() {
    let home = TempDir::new().unwrap();
    let state = home.path().join("not/there/yet");
    let appliance = start(&state);
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("node_key")), 0o600);
    assert_eq!(mode(&appliance.socket), 0o660);
    let names: Vec<_> =
        fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(mode(&state.join("waystation.sock.up")), 0o600, "where upgrades ask");
    let known = ["floor", "node_key", "waystation.sock", "waystation.sock.up"];
    let only_known = names.iter().all(|name| known.iter().any(|known| name == known));
    assert!(only_known, "the key, the sockets, the floor and nothing else: {names:?}");
    let log = appliance.process.log();
    assert!(log.contains("made a new key"), "{log}");
    assert!(log.contains(&appliance.identity.to_string()), "{log}");
    let status = appliance.status();
    let node_info = status["node_info"].as_str().unwrap();
    assert!(node_info.starts_with("node1") && log.contains(node_info), "{log}");
    assert!(log.contains(&format!("listening address={}", appliance.address)), "{log}");
    assert!(log.contains("ready"), "{log}");
    let secret = fs::read(state.join("node_key")).unwrap();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!log.contains(&hex) && !log.contains(&*String::from_utf8_lossy(&secret)), "{log}");
}

#[test]
fn first_start_serves_links_of_every_profile() {
    let home = TempDir::new().unwrap();
    let appliance = start(&home.path().join("state"));
    for profile in Profile::ALL {
        let node = appliance.node(profile);
        node.link.ping(STEP).unwrap();
        let row = appliance.link_row(&node.identity()).unwrap();
        assert_eq!(row["profile"], profile.name());
    }
}

#[test]
fn second_start_is_the_same_node() {
    let home = TempDir::new().unwrap();
    let state = home.path().join("state");
    let mut first = start(&state);
    let key = fs::metadata(state.join("node_key")).unwrap();
    assert!(first.stop().success());
    let second = start(&state);
    assert_eq!(second.identity, first.identity);
    let kept = fs::metadata(state.join("node_key")).unwrap();
    assert_eq!((kept.ino(), kept.mtime_nsec()), (key.ino(), key.mtime_nsec()));
    assert!(!second.process.log().contains("made a new key"));
}

#[test]
fn identity_prints_the_same_before_and_after_the_first_start() {
    let home = TempDir::new().unwrap();
    let state = home.path().join("state");
    let ask = || {
        let finished = run(command(&binary()).args(["identity", "--state-dir"]).arg(&state));
        assert_eq!(finished.code(), 0, "{}", finished.stderr);
        finished.text()
    };
    let before = ask();
    assert_eq!(mode(&state.join("node_key")), 0o600);
    let appliance = start(&state);
    let lines: Vec<_> = before.lines().collect();
    assert_eq!(lines.len(), 2, "{before}");
    assert_eq!(lines[0], appliance.identity.to_string());
    assert!(lines[1].starts_with("node1"), "{before}");
    assert_eq!(ask(), before);
}

#[test]
fn state_is_kept_where_the_service_manager_says() {
    let home = TempDir::new().unwrap();
    let list = format!("{}:/another/of/the/list", home.path().display());
    let finished = run(command(&binary()).arg("identity").env("STATE_DIRECTORY", list));
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert_eq!(mode(&home.path().join("node_key")), 0o600);
}

#[test]
fn status_waits_for_an_appliance_that_is_just_starting() {
    let home = TempDir::new().unwrap();
    let state = home.path().join("state");
    let socket = state.join("waystation.sock");
    let waiting = std::thread::spawn(move || {
        let mut command = command(&binary());
        command.args(["status", "--wait", "30s", "--json", "--socket"]).arg(socket);
        run(&mut command)
    });
    let appliance = start(&state);
    let finished = waiting.join().unwrap();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let status: serde_json::Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(status["identity"], appliance.identity.to_string());
    assert_eq!(status["ready"], true);
}

#[test]
fn terminated_appliance_closes_every_link_and_leaves_no_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = TempDir::new().unwrap();
        let state = home.path().join("state");
        let mut appliance = start(&state);
        let nodes: Vec<Node> = Profile::ALL.map(|profile| appliance.node(profile)).into();
        appliance.process.signal(signal);
        let status = appliance.process.wait(STEP);
        assert_eq!(status.code(), Some(0), "{signal:?}:\n{}", appliance.process.log());
        for node in &nodes {
            eventually("the link is down", || node.link.failure());
        }
        assert!(!appliance.socket.exists());
        assert!(state.join("node_key").exists());
        let again = Link::dial(appliance.address, &nodes[0].key, &appliance.identity, Profile::P4);
        assert!(matches!(again, Err(PeerError::Connect { .. })), "{again:?}");
    }
}

#[test]
fn hang_up_does_not_stop_it() {
    let home = TempDir::new().unwrap();
    let mut appliance = start(&home.path().join("state"));
    let node = appliance.node(Profile::P4);
    appliance.process.signal(Signal::HUP);
    for _ in 0..3 {
        node.link.ping(STEP).unwrap();
        appliance.status();
    }
    assert!(appliance.process.ended().is_none());
}

#[test]
fn socket_left_behind_by_a_killed_appliance_is_replaced() {
    let home = TempDir::new().unwrap();
    let state = home.path().join("state");
    let mut killed = start(&state);
    killed.process.signal(Signal::KILL);
    killed.process.wait(STEP);
    assert!(killed.socket.exists());
    let next = start(&state);
    assert_eq!(next.identity, killed.identity);
}

#[test]
fn key_as_a_credential_may_have_an_access_list_and_must_be_closed_to_others() {
    let home = TempDir::new().unwrap();
    let identity = |state: &str, credentials: Option<&Path>| {
        let mut command = command(&binary());
        command.arg("identity").arg("--state-dir").arg(home.path().join(state));
        credentials.map(|directory| command.env("CREDENTIALS_DIRECTORY", directory));
        run(&mut command)
    };
    let first = identity("first", None).text();
    let credentials = home.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let key = credentials.join("node_key");
    fs::copy(home.path().join("first/node_key"), &key).unwrap();
    // With a list that names one user, the group's part of the mode is what the list grants at most.
    for (permissions, is_taken) in [(0o400, true), (0o440, true), (0o444, false), (0o460, false)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(permissions)).unwrap();
        let finished = identity("second", Some(&credentials));
        if is_taken {
            assert_eq!(finished.text(), first, "{permissions:o}: {}", finished.stderr);
        } else {
            assert_eq!(finished.code(), 77, "{permissions:o}");
            assert!(finished.complaint().contains("may be read by others"), "{}", finished.stderr);
        }
    }
    assert!(!home.path().join("second/node_key").exists(), "another key was made");
}

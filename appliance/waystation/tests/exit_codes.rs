//! Whatever keeps the program from its work: one clear line that names cause and remedy, and the
//! exit code of sysexits(3) that scripts and systemd look at.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::appliance::{Appliance, PortName, Settings};
use support::given;
use support::process::{Finished, Ordinary, binary, command, give_away, is_root, run};
use tempfile::TempDir;

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const NO_PERMISSION: i32 = 77;
const CONFIGURATION: i32 = 78;

fn waystation(arguments: &[&str]) -> Finished {
    run(command(&binary()).args(arguments))
}

/// `run` with a configuration and a fresh state directory.
fn run_with(configuration: &str) -> (TempDir, Finished) {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("waystation.toml"), configuration).unwrap();
    let finished = run(in_home(&mut command(&binary()), home.path()));
    (home, finished)
}

fn in_home<'c>(command: &'c mut Command, home: &Path) -> &'c mut Command {
    command
        .arg("run")
        .arg("--config")
        .arg(home.join("waystation.toml"))
        .arg("--state-dir")
        .arg(home.join("state"))
}

/// A start with a key of this content and mode.
fn run_with_key(key: &[u8], mode: u32) -> (PathBuf, Finished, TempDir) {
    let home = TempDir::new().unwrap();
    let path = home.path().join("node_key");
    fs::write(&path, key).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    let mut command = command(&binary());
    command.args(["run", "--listen", "127.0.0.1:0", "--state-dir"]).arg(home.path());
    (path, run(&mut command), home)
}

#[track_caller]
fn expect(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code(), code, "{}", finished.stderr);
    let complaint = finished.complaint();
    assert!(complaint.starts_with("waystation: "), "{complaint}");
    for word in words {
        assert!(complaint.contains(word), "no {word:?} in: {complaint}");
    }
    // A cause that is said twice is a message that nobody has read.
    let parts: Vec<_> = complaint.split(": ").collect();
    let twice = parts.iter().enumerate().find(|(at, part)| parts[..*at].contains(part));
    assert_eq!(twice, None, "{complaint}");
    assert!(finished.stdout.is_empty());
}

#[test]
fn senseless_command_lines_are_usage_errors() {
    for (arguments, word) in [
        (&["run", "--nonsense"][..], "--nonsense"),
        (&["run", "--listen", "nowhere"], "nowhere"),
        (&["run", "--listen", "127.0.0.1"], "--listen"),
        (&["run", "--listen", "127.0.0.1:65536"], "65536"),
        (&["run", "--config"], "--config"),
        (&["run", "and", "hide"], "and"),
        (&["frobnicate"], "frobnicate"),
        (&[], "Usage"),
        (&["status", "--wait", "soon"], "soon"),
        (&["hist", "--stage", "nowhere"], "reap_to_open"),
        (&["hist", "--log", "--json"], "--json"),
        (&["demo", "--cores", "0"], "--cores"),
        (&["config"], "Usage"),
        (&["config", "check"], "FILE"),
    ] {
        let finished = waystation(arguments);
        assert_eq!(finished.code(), USAGE, "{arguments:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(word), "{arguments:?}: {}", finished.stderr);
        assert!(finished.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_no_failures() {
    for (arguments, word) in [
        (&["--help"][..], "Usage: waystation"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
        (&["run", "--help"], "--state-dir"),
        (&["status", "--version"], env!("CARGO_PKG_VERSION")),
        (&["config", "default"], "[engine]"),
    ] {
        let finished = waystation(arguments);
        assert_eq!(finished.code(), 0, "{arguments:?}: {}", finished.stderr);
        assert!(finished.text().contains(word), "{arguments:?}: {}", finished.text());
        assert_eq!(finished.stderr, "", "{arguments:?}");
    }
}

#[test]
fn configuration_mistakes_are_named_with_file_line_and_key() {
    for (configuration, place, words) in [
        (
            "[engine]\ncores = 1\nporrt = \"auto\"\n",
            ":3: engine.porrt: ",
            "did you mean engine.port",
        ),
        ("[engine]\nreceive_buffers = 33\n", ":2: engine.receive_buffers: ", "power of two"),
        ("[relay]\n\nping_timeout = 30\n", ":3: relay.ping_timeout: ", "has no unit"),
        ("[listen]\naddresses = [\"here\"]\n", ":2: listen.addresses: ", "ADDRESS:PORT"),
        ("[engine]\nport = \"dpdk\"\n", ":2: engine.port: ", "io_uring"),
        ("[enginee]\n", ":1: enginee: ", "did you mean [engine]"),
        ("[management]\nlog = \"loud\"\n", ":2: management.log: ", "debug"),
        ("[engine\n", ":1: ", "not valid TOML"),
    ] {
        let (home, finished) = run_with(configuration);
        let file = home.path().join("waystation.toml");
        expect(&finished, CONFIGURATION, &[&format!("{}{place}", file.display()), words]);
        assert!(!home.path().join("state").exists(), "nothing is made for a bad configuration");
        let checked = run(command(&binary()).args(["config", "check"]).arg(&file));
        assert_eq!(checked.code(), CONFIGURATION);
        assert_eq!(checked.complaint(), finished.complaint(), "check says the same");
    }
}

#[test]
fn every_mistake_of_a_configuration_has_its_line() {
    let (_home, finished) =
        run_with("[engine]\ncores = -1\nporrt = \"auto\"\n\n[node]\nalias = 3\n");
    assert_eq!(finished.code(), CONFIGURATION);
    for place in [":2: engine.cores: ", ":3: engine.porrt: ", ":6: node.alias: "] {
        assert_eq!(finished.stderr.matches(place).count(), 1, "{}", finished.stderr);
    }
    assert_eq!(finished.stderr.lines().count(), 3, "{}", finished.stderr);
}

#[test]
fn documented_default_is_a_configuration_without_mistakes() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("default.toml");
    fs::write(&file, waystation(&["config", "default"]).stdout).unwrap();
    let finished = run(command(&binary()).args(["config", "check"]).arg(&file));
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert_eq!(finished.text(), format!("{}: no mistakes\n", file.display()));
}

#[test]
fn configuration_that_is_not_there_is_unavailable() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("none.toml");
    let words = [file.to_str().unwrap(), "No such file", "waystation config default"];
    expect(&run(command(&binary()).arg("run").arg("--config").arg(&file)), UNAVAILABLE, &words);
    expect(&run(command(&binary()).args(["config", "check"]).arg(&file)), UNAVAILABLE, &words);
    let directory = run(command(&binary()).args(["config", "check"]).arg(home.path()));
    expect(&directory, UNAVAILABLE, &["cannot read", "directory"]);
}

#[test]
fn address_in_use_is_named() {
    for port in [PortName::Epoll, PortName::IoUring].into_iter().filter(|port| port.is_given()) {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let (_home, finished) = run_with(&format!(
            "[listen]\naddresses = [\"{address}\"]\n[engine]\nport = \"{}\"\n",
            port.name()
        ));
        expect(&finished, UNAVAILABLE, &[&address, "in use", "--listen"]);
    }
}

#[test]
fn address_of_a_running_appliance_is_in_use_for_another() {
    let running = Appliance::start(&Settings::new(PortName::Epoll, 2));
    let address = running.address.to_string();
    let (_home, finished) = run_with(&format!("[listen]\naddresses = [\"{address}\"]\n"));
    expect(&finished, UNAVAILABLE, &[&address, "in use", "--listen"]);
    running.node(waystation_astral::frame::Profile::P4);
}

#[test]
fn address_of_another_machine_is_refused() {
    // TEST-NET-1 of RFC 5737: nobody has it.
    let (_home, finished) = run_with("[listen]\naddresses = [\"192.0.2.1:1\"]\n");
    expect(&finished, UNAVAILABLE, &["192.0.2.1:1", "Cannot assign", "of this machine"]);
}

#[test]
fn stats_socket_in_use_is_named() {
    let running = Appliance::start(&Settings::new(PortName::Epoll, 1));
    let socket = running.socket.to_str().unwrap();
    let (_home, finished) = run_with(&format!(
        "[listen]\naddresses = [\"127.0.0.1:0\"]\n[management]\nsocket = \"{socket}\"\n"
    ));
    expect(&finished, UNAVAILABLE, &[socket, "in use", "running already", "management.socket"]);
    running.status();
}

#[test]
fn stats_socket_never_replaces_a_file() {
    let home = TempDir::new().unwrap();
    let precious = home.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let (_state, finished) = run_with(&format!(
        "[listen]\naddresses = [\"127.0.0.1:0\"]\n[management]\nsocket = \"{}\"\n",
        precious.display()
    ));
    let words = [precious.to_str().unwrap(), "not a socket", "remove it", "management.socket"];
    expect(&finished, UNAVAILABLE, &words);
    assert_eq!(fs::read_to_string(precious).unwrap(), "precious");
}

#[test]
fn key_file_that_holds_no_key_is_a_configuration_error() {
    for key in [&b""[..], b"junk", &[0; 32], &[255; 32], &[7; 33], &[7; 5000]] {
        let (path, finished, _home) = run_with_key(key, 0o600);
        let words = [path.to_str().unwrap(), "restore it from a copy", "to get a new key"];
        expect(&finished, CONFIGURATION, &words);
        assert_eq!(fs::read(path).unwrap(), key, "a bad key is left as it is");
    }
}

#[test]
fn key_file_that_others_may_read_is_refused() {
    for mode in [0o604, 0o640, 0o666, 0o601] {
        let (path, finished, _home) = run_with_key(&[7; 32], mode);
        let text = format!("{mode:04o}");
        expect(&finished, NO_PERMISSION, &[path.to_str().unwrap(), &text, "chmod 600"]);
        let identity =
            run(command(&binary()).args(["identity", "--state-dir"]).arg(path.parent().unwrap()));
        expect(&identity, NO_PERMISSION, &["chmod 600"]);
    }
}

#[test]
fn state_directory_that_is_a_file_is_named() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("state");
    File::create(&file).unwrap();
    let mut command = command(&binary());
    command.args(["run", "--listen", "127.0.0.1:0", "--state-dir"]).arg(&file);
    expect(&run(&mut command), UNAVAILABLE, &[file.to_str().unwrap(), "--state-dir"]);
}

#[test]
fn nowhere_to_keep_state_is_said() {
    if !given(Ordinary::is_possible(), "setpriv, or an ordinary user") {
        return;
    }
    let ordinary = Ordinary::new();
    let finished = run(ordinary.command().args(["run", "--listen", "127.0.0.1:0"]));
    expect(&finished, UNAVAILABLE, &["no state directory", "--state-dir", "HOME"]);
}

#[test]
fn state_directory_that_cannot_be_written_is_a_matter_of_permission() {
    if !given(Ordinary::is_possible(), "setpriv, or an ordinary user") {
        return;
    }
    let ordinary = Ordinary::new();
    let closed = ordinary.directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    give_away(&closed);
    fs::set_permissions(&closed, Permissions::from_mode(0o500)).unwrap();
    for state in [closed.clone(), closed.join("below")] {
        let mut command = ordinary.command();
        command.args(["run", "--listen", "127.0.0.1:0", "--state-dir"]).arg(&state);
        let finished = run(&mut command);
        let words = [state.to_str().unwrap(), "Permission denied", "--state-dir"];
        expect(&finished, NO_PERMISSION, &words);
    }
}

#[test]
fn configuration_that_may_not_be_read_is_a_matter_of_permission() {
    if !given(Ordinary::is_possible(), "setpriv, or an ordinary user") {
        return;
    }
    let ordinary = Ordinary::new();
    let file = ordinary.directory.path().join("secret.toml");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
    let finished = run(ordinary.command().args(["run", "--config"]).arg(&file));
    expect(&finished, NO_PERMISSION, &[file.to_str().unwrap(), "Permission denied"]);
}

#[test]
fn questions_without_an_appliance_are_unavailable() {
    let home = TempDir::new().unwrap();
    let nobody = home.path().join("nobody.sock");
    drop(UnixListener::bind(&nobody).unwrap());
    assert!(fs::metadata(&nobody).unwrap().file_type().is_socket());
    let none = home.path().join("none.sock");
    for question in ["status", "links", "sessions", "drops", "hist"] {
        for socket in [&none, &nobody] {
            let finished = run(command(&binary()).args([question, "--socket"]).arg(socket));
            expect(&finished, UNAVAILABLE, &[socket.to_str().unwrap(), "is waystation running?"]);
        }
    }
    let mut waiting = command(&binary());
    waiting.args(["status", "--wait", "200ms", "--socket"]).arg(&none);
    expect(&run(&mut waiting), UNAVAILABLE, &["is waystation running?"]);
}

#[test]
fn questions_without_permission_say_who_may_ask() {
    if !given(is_root() && Ordinary::is_possible(), "root, to be two users") {
        return;
    }
    let ordinary = Ordinary::new();
    let running = Appliance::start(&Settings::new(PortName::Epoll, 1));
    // Everybody may reach the socket, but only its owner and group may connect.
    for directory in [running.directory.path(), running.socket.parent().unwrap()] {
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    }
    for question in ["status", "links", "sessions", "drops", "hist"] {
        let mut command = ordinary.command();
        let finished = run(command.args([question, "--socket"]).arg(&running.socket));
        let words = [running.socket.to_str().unwrap(), "as the user of waystation", "group"];
        expect(&finished, NO_PERMISSION, &words);
    }
    running.status();
}

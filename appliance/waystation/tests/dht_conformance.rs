//! The independent conformance client of the A2AL DHT against the real program: another language,
//! written from the specification alone.
//!
//! As root in a network namespace whose loopback device has addresses for documentation, which count
//! as public; each check that needs those, or several of them, is then held.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails says where, and one that passes says what ran"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::appliance::{Appliance, Settings};
use support::given;
use support::process::{command, fast_binary, is_root, run_within};
use tempfile::TempDir;

/// Where the client is kept, from the root of the workspace.
const CLIENT: &str = "../shared/conformance/a2al";
const NODE: &str = "203.0.113.11:4121";
/// A second node, which the client starts and is the bootstrap address of.
const FRESH_NODE: &str = "203.0.113.12:4121";
const SEED: &str = "203.0.113.60:4121";
/// A run takes three minutes on an idle machine; its own limits are of seconds each.
const RUN_LIMIT: Duration = Duration::from_secs(900);

#[test]
fn conformance_client_of_the_dht_passes() {
    let client = client();
    let python = python();
    if !given(client.is_dir(), "the conformance client (WAYSTATION_A2AL_CONFORMANCE names it)")
        || !given(has_modules(&python), "Python with cbor2 and cryptography (WAYSTATION_PYTHON)")
        || !given(is_root() && has_ip(), "root and ip, for a network namespace")
    {
        return;
    }
    let scene = Namespace::new();
    let directory = TempDir::new().unwrap();
    let node = scene.start(NODE, directory.path());
    let fresh = directory.path().join("fresh.toml");
    fs::write(&fresh, settings(FRESH_NODE, "BOOTSTRAP")).unwrap();
    let spawn = format!(
        "sh -c 'sed s/BOOTSTRAP/{{bootstrap}}/ {fresh} > {fresh}.run && exec {program} run --config \
         {fresh}.run --state-dir {state}'",
        fresh = fresh.display(),
        program = fast_binary().display(),
        state = directory.path().join("fresh").display(),
    );
    let mut run = Command::new("ip");
    run.args(["netns", "exec", &scene.name]).arg(&python);
    run.args(["-m", "a2al_conformance", "--addr", NODE, "--scenario", "all"]);
    run.args([
        "--bind",
        &(50..55).map(|last| format!("203.0.113.{last}")).collect::<Vec<_>>().join(","),
    ]);
    run.args(["--peer-listen", SEED, "--spawn", &spawn]);
    run.current_dir(&client).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
    let finished = run_within(&mut run, RUN_LIMIT);
    let text = finished.text();
    let bad: Vec<_> = text.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert_eq!(finished.code(), 0, "{bad:#?}\n{}\n{}", finished.stderr, node.process.log());
    println!("{}", text.trim_end().lines().next_back().unwrap());
}

/// A network namespace of the test's own, whose loopback device has the addresses.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Self {
        let scene = Self { name: format!("waystation-a2al-{}", std::process::id()) };
        ip(&format!("netns add {}", scene.name));
        ip(&format!("-netns {} link set lo up", scene.name));
        for last in [11, 12, 50, 51, 52, 53, 54, 60] {
            ip(&format!("-netns {} address add 203.0.113.{last}/32 dev lo", scene.name));
        }
        scene
    }

    fn start(&self, listen: &str, under: &Path) -> Appliance {
        let directory = TempDir::new_in(under).unwrap();
        let file = directory.path().join("waystation.toml");
        fs::write(&file, settings(listen, "")).unwrap();
        let state = directory.path().join("state");
        let mut run = command(Path::new("ip"));
        run.args(["netns", "exec", &self.name]).arg(fast_binary());
        run.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
        Appliance::spawn(&mut run, directory, &state)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Everybody is in one network there.
fn settings(listen: &str, bootstrap: &str) -> String {
    let bootstrap = if bootstrap.is_empty() { String::new() } else { format!("\"{bootstrap}\"") };
    Settings::new_auto(1)
        .quiet()
        .with("engine", "port = \"epoll\"")
        .with("dht", "enabled = true")
        .with("dht", &format!("listen = [\"{listen}\"]"))
        .with("dht", &format!("bootstrap = [{bootstrap}]"))
        .with("dht", "diverse = false")
        .text()
}

fn client() -> PathBuf {
    let told = std::env::var_os("WAYSTATION_A2AL_CONFORMANCE").map(PathBuf::from);
    told.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(CLIENT))
}

fn python() -> PathBuf {
    std::env::var_os("WAYSTATION_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

fn has_modules(python: &Path) -> bool {
    succeeds(Command::new(python).args(["-c", "import cbor2, cryptography, websockets"]))
}

fn has_ip() -> bool {
    succeeds(Command::new("ip").arg("-V"))
}

fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

//! The independent conformance client against the real program. It shares no code with it: another
//! language, written from the specification alone.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails says where, and one that passes says what ran"
)]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::given;
use support::process::{exists, fast_binary, run_within};
use tempfile::TempDir;
use waystation_peer::secret_key;

/// All that the client knows but the group that is dialed, which has a test of its own.
const SCENARIOS: &str = "all,-dialed";
/// Where the client is kept, from the root of the workspace.
const CLIENT: &str = "../shared/conformance/astral";
const BUILD_LIMIT: Duration = Duration::from_secs(300);
/// The client's own limits end it long before.
const RUN_LIMIT: Duration = Duration::from_secs(540);

#[test]
fn conformance_client_passes_over_io_uring_with_one_core() {
    conforms(PortName::IoUring, 1, &[]);
}

#[test]
fn conformance_client_passes_over_epoll_with_three_cores() {
    // Here with the checks that wait for timers of a minute.
    conforms(PortName::Epoll, 3, &["--slow"]);
}

#[test]
fn conformance_client_is_dialed_again_and_again_in_every_profile() {
    let source = source();
    if !given(source.is_dir() && exists("go"), "the conformance client, and Go to build it") {
        return;
    }
    let directory = TempDir::new().unwrap();
    let client = build(&source, directory.path());
    for (profile, port) in
        [("p0", PortName::Epoll), ("p2", PortName::IoUring), ("p4", PortName::Epoll)]
    {
        if port.is_given() {
            dials(&client, profile, port);
        }
    }
}

/// The appliance dials the client, which ends most links and dials in some bad way.
fn dials(client: &Path, profile: &str, port: PortName) {
    let key = secret_key().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = Settings::new(port, 2)
        .running(fast_binary())
        // It would do with the default, but take four minutes.
        .with("dial", "backoff_max = \"2s\"")
        .with("[peer]", &format!("identity = \"{}\"", key.identity()))
        .with("[peer]", &format!("endpoints = [\"tcp:{address}\"]"));
    let appliance = Appliance::start(&settings);
    let finished = run_within(
        Command::new(client)
            .arg("--addr")
            .arg(appliance.address.to_string())
            .arg("--peer")
            .arg(appliance.identity.to_string())
            .args(["--listen", &address.to_string()])
            .args(["--listen-key", &hex::encode(key.expose_bytes())])
            .args(["--profile", profile, "--scenario", "dialed"]),
        RUN_LIMIT,
    );
    let text = finished.text();
    assert_eq!(finished.code(), 0, "{}\n{}", failures(&text), finished.stderr);
    println!("dialed as {profile}: {}", text.trim_end().lines().next_back().unwrap());
}

fn conforms(port: PortName, cores: usize, more: &[&str]) {
    let source = source();
    if !given(
        source.is_dir(),
        "the conformance client (WAYSTATION_CONFORMANCE names its directory)",
    ) || !given(exists("go"), "Go, to build the conformance client")
        || !port.is_given()
    {
        return;
    }
    let directory = TempDir::new().unwrap();
    let client = build(&source, directory.path());
    // The client's checks have limits of time that a slow build may not hold.
    let settings = Settings::new(port, cores).running(fast_binary());
    let appliance = Appliance::start(&settings);
    let finished = run_within(
        Command::new(client)
            .arg("--addr")
            .arg(appliance.address.to_string())
            .arg("--peer")
            .arg(appliance.identity.to_string())
            .args(["--profile", "all", "--scenario", SCENARIOS])
            .args(more),
        RUN_LIMIT,
    );
    let text = finished.text();
    assert_eq!(finished.code(), 0, "{}\n{}", failures(&text), finished.stderr);
    let last = text.trim_end().lines().next_back().unwrap();
    println!("{}, {cores} cores: {last}", port.name());
    appliance.wait_until_whole();
}

/// The lines that say what went wrong, and the last one.
fn failures(text: &str) -> String {
    let bad = text.lines().filter(|line| !line.starts_with("PASS"));
    bad.collect::<Vec<_>>().join("\n")
}

fn source() -> PathBuf {
    let told = std::env::var_os("WAYSTATION_CONFORMANCE").map(PathBuf::from);
    told.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(CLIENT))
}

/// Builds a copy, so that nothing is written next to the sources.
fn build(source: &Path, directory: &Path) -> PathBuf {
    let copy = directory.join("client");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let wanted = ["go", "mod", "sum"].map(OsStr::new);
        if path.extension().is_some_and(|extension| wanted.contains(&extension)) {
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    let client = directory.join("conformance");
    let finished = run_within(
        Command::new("go").args(["build", "-o"]).arg(&client).arg(".").current_dir(&copy),
        BUILD_LIMIT,
    );
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    client
}

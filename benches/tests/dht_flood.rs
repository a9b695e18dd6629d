//! `dht-flood` as a program, over the shortest rounds there are: that it floods, measures, judges and
//! leaves nothing. What it measures here means nothing.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]
#![allow(clippy::print_stdout, reason = "what is skipped says so")]

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Runs `dht-flood`, or says why this machine cannot.
fn flood(is_given: bool, needs: &str, arguments: &[&str]) -> Option<Output> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_dht-flood"));
    let built = program.with_file_name("waystation").is_file();
    let has_appliance = built || env::var_os("WAYSTATION_BINARY").is_some();
    let has_processors = std::thread::available_parallelism().unwrap().get() >= 2;
    if !(has_appliance && has_processors && is_given) {
        assert!(env::var_os("WAYSTATION_TEST_REQUIRE").is_none(), "needs {needs}");
        println!("skipped: needs {needs}");
        return None;
    }
    // Few enough for a busy machine; messages that come late do not matter here.
    let short = ["--rounds", "1", "--seconds", "1"];
    let few = ["--messages-per-second", "100", "--per-second", "2000"];
    Some(Command::new(program).args(short).args(few).args(arguments).output().unwrap())
}

fn expect_measured(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    for line in
        ["no flood", "flood of another socket", "flood of the node", " messages were compared"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }
    let figures = said.lines().find(|line| line.starts_with("the node was sent")).unwrap();
    let mut numbers = figures.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok());
    let (sent, received) = (numbers.next().unwrap(), numbers.next().unwrap());
    assert!(sent > 0 && received > 0 && received <= sent, "{figures}");
}

#[test]
fn a_flood_on_loopback_is_measured_beside_flows() {
    let needs = "a built waystation and two processors";
    let Some(output) = flood(true, needs, &["--sources", "8"]) else { return };
    expect_measured(&output);
}

#[test]
fn a_flood_behind_the_xdp_program_is_measured_and_most_of_it_dropped_there() {
    let needs = "a built waystation, two processors, and root";
    let is_root = rustix::process::geteuid().is_root();
    let Some(output) = flood(is_root, needs, &["--xdp", "--stranger-rate", "20"]) else { return };
    expect_measured(&output);
}

#[test]
fn what_the_command_line_does_not_know_is_refused() {
    let program = env!("CARGO_BIN_EXE_dht-flood");
    let output = Command::new(program).args(["--stranger-rate", "5"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--xdp"));
}

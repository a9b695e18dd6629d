//! What is logged, changed while the program runs: by command, by whom, and until when.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use support::appliance::{Appliance, PortName, Settings};
use support::process::{Finished, binary, command, run};
use support::{STEP, eventually};
use waystation_astral::frame::Profile;
use waystation_management::stats_socket::client;

fn tell(appliance: &Appliance, words: &[&str]) -> Finished {
    run(command(&binary()).args(words).arg("--socket").arg(&appliance.socket))
}

fn set(appliance: &Appliance, directive: &str) {
    let done = tell(appliance, &["log", "level", directive]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
}

fn lines(appliance: &Appliance, level: &str) -> usize {
    let log = appliance.process.log();
    log.lines().filter(|line| line.split_whitespace().nth(1) == Some(level)).count()
}

#[test]
fn levels_change_by_command_and_a_reload_leaves_them() {
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 1).logging("warn"));
    set(&appliance, "info");
    assert!(appliance.process.log().contains("the log has another filter"));
    set(&appliance, "waystation_management::stats_socket=debug");
    let shown = tell(&appliance, &["log", "show"]).text();
    let filter = "warn,info,waystation_management::stats_socket=debug";
    assert!(shown.contains(filter), "{shown}");
    let document: Value =
        serde_json::from_slice(&tell(&appliance, &["log", "show", "--json"]).stdout).unwrap();
    assert_eq!(document["set"]["level"], "info");
    assert_eq!(document["lines_held_back_total"], 0);

    let file = appliance.directory.path().join("waystation.toml");
    let text = fs::read_to_string(&file).unwrap().replace("\"warn\"", "\"error\"");
    fs::write(&file, text).unwrap();
    appliance.process.signal(Signal::HUP);
    eventually("the reload is over", || {
        appliance.process.log().contains("reloaded the configuration").then_some(())
    });
    let document = appliance.document("/v1/log");
    assert_eq!(document["configured"], "error");
    assert_eq!(document["filter"], filter.replacen("warn", "error", 1));

    set(&appliance, "default");
    assert_eq!(appliance.document("/v1/log")["filter"], "error");
    let quiet = lines(&appliance, "INFO");
    drop(appliance.node(Profile::P4));
    assert_eq!(lines(&appliance, "INFO"), quiet);
}

#[test]
fn wrong_levels_and_targets_are_refused_by_name() {
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 1));
    for (directive, says) in [("loud", "there is no level"), ("a b=info", "is no target")] {
        let refused = tell(&appliance, &["log", "level", directive]);
        assert_eq!(refused.code(), 64, "{}", refused.stderr);
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
    let before = appliance.document("/v1/log")["filter"].clone();
    for number in 0..64 {
        let uri = format!("/v1/log/level?filter=t{number}=debug");
        client::post(&appliance.socket, &uri, STEP).unwrap();
    }
    let refused = tell(&appliance, &["log", "level", "t64=debug"]);
    assert_eq!(refused.code(), 1, "{}", refused.stderr);
    assert!(refused.complaint().contains("64 targets"), "{}", refused.stderr);
    set(&appliance, "default");
    assert_eq!(appliance.document("/v1/log")["filter"], before);
}

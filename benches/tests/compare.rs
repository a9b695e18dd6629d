//! `compare` as a program, over the shortest rounds there are: that it measures, judges, writes and
//! ends as it should. What it measures here means nothing.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]
#![allow(clippy::print_stdout, reason = "what is skipped says so")]

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs};
use tempfile::TempDir;

/// Runs `compare`, or says why this machine cannot.
fn compare(arguments: &[&str]) -> Option<Output> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_compare"));
    let built = program.with_file_name("waystation").is_file();
    let has_appliance = built || env::var_os("WAYSTATION_BINARY").is_some();
    let has_processors = std::thread::available_parallelism().unwrap().get() >= 2;
    if !(has_appliance && has_processors) {
        let needs = "a built waystation and two processors";
        assert!(env::var_os("WAYSTATION_TEST_REQUIRE").is_none(), "needs {needs}");
        println!("skipped: needs {needs}");
        return None;
    }
    Some(Command::new(program).args(arguments).output().unwrap())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_row_is_measured_judged_and_written() {
    let directory = TempDir::new().unwrap();
    let results = directory.path().join("short.md");
    let arguments = ["floor", "--rounds", "2", "--seconds", "0.2", "--json", "--results"];
    let arguments = [&arguments[..], &[results.to_str().unwrap()]].concat();
    let Some(output) = compare(&arguments) else { return };
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &report["rows"][0];
    assert_eq!((&row["number"], row["verdicts"].as_array().unwrap().len()), (&1.into(), 2));
    assert!(row["messages_checked"].as_u64().unwrap() > 0);
    for verdict in row["verdicts"].as_array().unwrap() {
        assert!(verdict["ratio"]["Ok"].as_f64().unwrap() > 0.0, "{verdict}");
    }
    assert!(report["machine"]["kernel"].as_str().is_some());
    assert!(report["versions"]["waystation"].as_str().unwrap().starts_with("waystation"));
    let table = fs::read_to_string(&results).unwrap();
    assert!(table.contains("| 4 x 1 KiB | waystation |"), "{table}");
    assert!(table.contains("](short-row-01.svg)"), "{table}");
    let chart = fs::read_to_string(directory.path().join("short-row-01.svg")).unwrap();
    assert!(chart.starts_with("<svg") && chart.ends_with("</svg>\n"));
    let again = compare(&["floor", "--results", results.to_str().unwrap()]).unwrap();
    assert!(!again.status.success());
    assert!(text(&again.stderr).contains("--force replaces it"), "{}", text(&again.stderr));
    assert_eq!(fs::read_to_string(&results).unwrap(), table);
    let json = fs::read(directory.path().join("short.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), report);
}

#[test]
fn turn_servers_that_are_there_are_measured_and_the_others_named() {
    let arguments = ["udp", "--rounds", "1", "--seconds", "1", "--json"];
    let Some(output) = compare(&arguments) else { return };
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = report["rows"][0]["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 2 * 5, "{lines:?}");
    for line in lines {
        let is_ours = ["waystation", "waystation, tier plain", "floor"]
            .contains(&line["contender"].as_str().unwrap());
        match &line["figures"]["Err"] {
            Value::Null => {
                let rate = &line["figures"]["Ok"]["messages_per_second"]["median"];
                assert!(rate.as_f64().unwrap() > 0.0, "{line}");
            }
            reason => assert!(!is_ours && reason == "peer not installed", "{line}"),
        }
    }
    assert!(report["rows"][0]["messages_checked"].as_u64().unwrap() > 0);
}

#[test]
fn a_missed_goal_fails_the_check_and_is_named() {
    // Whether goals are met depends on the build and the machine; exit code and words must agree.
    let arguments = ["16", "--rounds", "1", "--seconds", "0.05", "--check"];
    let Some(output) = compare(&arguments) else { return };
    let missed = text(&output.stdout).contains(": MISSED");
    assert_eq!(output.status.code(), Some(i32::from(missed)), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr).contains("missed: row 16"), missed);
}

#[test]
fn an_unknown_row_is_refused_with_those_that_there_are() {
    let Some(output) = compare(&["nothing"]) else { return };
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("1 floor"), "{}", text(&output.stderr));
}

#[test]
fn what_a_core_says_of_its_room_is_held_against_what_fits() {
    // The part at a quarter is as long as it has to be to hold a whole interval.
    let Some(output) = compare(&["headroom", "--rounds", "1", "--seconds", "0.2", "--json"]) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdict = &report["rows"][0]["verdicts"][0];
    assert!(verdict["ratio"]["Ok"].as_f64().unwrap() > 0.0, "{verdict}");
}

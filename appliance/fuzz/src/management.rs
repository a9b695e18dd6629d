//! What an operator writes: configuration files, and requests to the stats socket.

use std::fmt::Write;

use waystation_management::config::keys::{KEYS, SECTIONS};
use waystation_management::config::{self as configuration, Config, PEER_KEYS};
use waystation_management::limits::{CONFIG_PROBLEMS_MAX, LISTING_ROWS_MAX};
use waystation_management::stats_socket::{Question, asked};

/// Reads the input as a configuration; what is accepted is written out key by key, and means the
/// same.
pub fn config(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    match configuration::parse(text, "fuzz.toml") {
        Ok(config) => {
            let written = written(&config);
            let again = configuration::parse(&written, "written.toml");
            assert_eq!(again.as_ref(), Ok(&config), "it does not read back:\n{written}");
        }
        Err(error) => {
            assert!((1..=CONFIG_PROBLEMS_MAX).contains(&error.problems.len()));
            let lines = text.split('\n').count();
            for problem in &error.problems {
                assert!((1..=lines).contains(&problem.line), "line {} of {lines}", problem.line);
            }
            assert!(error.problems.is_sorted_by_key(|problem| problem.line));
            assert!(error.to_string().starts_with("fuzz.toml:"));
        }
    }
}

fn written(config: &Config) -> String {
    let mut text = String::new();
    for section in SECTIONS {
        writeln!(text, "[{}]", section.name).expect("a string takes everything");
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            if let Some(value) = key.value(config) {
                writeln!(text, "{} = {value}", key.name).expect("a string takes everything");
            }
        }
    }
    for peer in &config.peers {
        text.push_str("[[peer]]\n");
        for key in PEER_KEYS {
            if let Some(value) = key.value(peer) {
                writeln!(text, "{} = {value}", key.name).expect("a string takes everything");
            }
        }
    }
    text
}

/// Reads the input as the first line of an HTTP request: method, a space, target; from somebody who
/// may command, and from somebody who may not.
pub fn stats_request(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == b' ');
    let method = parts.next().unwrap_or_default();
    let target = parts.next().unwrap_or_default();
    for may_command in [true, false] {
        match asked(method, target, may_command) {
            None => {}
            Some(Ok(question)) => check_question(&question, method, may_command),
            Some(Err(refusal)) => {
                let document: serde_json::Value =
                    serde_json::from_slice(refusal.body()).expect("a refusal is JSON");
                assert_eq!(document["schema"], 1);
                assert!(document["error"]["code"].is_string());
                assert!(document["error"]["message"].is_string());
            }
        }
    }
}

fn check_question(question: &Question, method: &[u8], may_command: bool) {
    match question {
        Question::Links { limit, .. }
        | Question::Sessions { limit, .. }
        | Question::Peers { limit } => {
            assert!((1..=LISTING_ROWS_MAX).contains(limit));
        }
        Question::Order(_) => {
            assert!(may_command, "somebody commands who may not");
            assert_eq!(method, b"POST");
            return;
        }
        _ => {}
    }
    assert_eq!(method, b"GET", "a question changes nothing");
}

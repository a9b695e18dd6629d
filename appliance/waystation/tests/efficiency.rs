//! How close to the floor of the machine a core works: told with traffic, not told without; and the
//! floor is measured once, kept, and measured anew when what was kept is of no use.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where, one that is skipped says why, and it may look at the \
              clock and pause"
)]

mod support;

use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use support::appliance::{Appliance, PortName, Settings};
use support::eventually;
use support::nodes::{connect, route};
use support::process::{binary, command, fast_binary};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_peer::RouteForm;

const MESSAGE_BYTES: usize = 8 * 1024;
/// A build without optimisation costs an order of magnitude more than the floor, and nothing costs
/// far less.
const RATIO_MAX: f64 = 3.0;

fn settings() -> Settings {
    let settings = Settings::new(PortName::Epoll, 1).with("engine", "aead = \"ring\"");
    settings.quiet().calibrated()
}

#[test]
fn efficiency_is_told_while_there_is_traffic_and_only_then() {
    let appliance = Appliance::start(&settings().running(fast_binary()));
    assert_eq!(appliance.status()["floor"]["source"], "measured");
    let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    eventually("an idle core has no efficiency", || efficiency(&appliance).is_null().then_some(()));
    {
        let (near, far) = route(&caller, &target, RouteForm::G2);
        while_sending(near, far, || expect_efficiency(&appliance));
    }
    let pool = target.idle(1, true);
    let (near, far) = connect(&caller, &target, &pool);
    while_sending(near, far, || expect_efficiency(&appliance));
    eventually("an idle core has none again", || efficiency(&appliance).is_null().then_some(()));
}

fn efficiency(appliance: &Appliance) -> Value {
    appliance.status()["cores"][0]["efficiency"]["ratio"].clone()
}

fn expect_efficiency(appliance: &Appliance) {
    let status = eventually("a core with traffic has an efficiency", || {
        let status = appliance.status();
        status["cores"][0]["efficiency"]["ratio"].is_number().then_some(status)
    });
    let of = |key: &str| status["cores"][0]["efficiency"][key].as_f64().unwrap();
    let ratio = of("ratio");
    assert!(ratio > 0.0 && ratio < RATIO_MAX, "{ratio}");
    assert!(of("cost_ns_per_kib") > 0.0 && of("floor_ns_per_kib") > 0.0);
    let metrics = String::from_utf8(appliance.ask("/metrics").unwrap()).unwrap();
    assert!(metrics.contains("waystation_core_efficiency_ratio{core=\"0\"} "), "{metrics}");
}

/// Sends messages and takes them at the other end for as long as somebody looks.
fn while_sending(mut near: impl Write + Send, mut far: impl Read + Send, look: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut message = [7; MESSAGE_BYTES];
            while !stop.load(Ordering::Relaxed) {
                near.write_all(&message).unwrap();
                far.read_exact(&mut message).unwrap();
            }
        });
        // A test that fails must end the other thread as well.
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
        stop.store(true, Ordering::Relaxed);
        if let Err(failed) = looked {
            std::panic::resume_unwind(failed);
        }
    });
}

/// An appliance that finds this in its state directory as the floor: where its floor comes from,
/// and what it logged.
fn start_with(floor: Option<&[u8]>) -> (Value, String, Vec<u8>) {
    let directory = TempDir::new().unwrap();
    let (file, state) = (directory.path().join("waystation.toml"), directory.path().join("state"));
    fs::write(&file, settings().text()).unwrap();
    fs::create_dir(&state).unwrap();
    if let Some(floor) = floor {
        fs::write(state.join("floor"), floor).unwrap();
    }
    let mut command = command(&binary());
    command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
    let mut appliance = Appliance::spawn(&mut command, directory, &state);
    let floor = appliance.status()["floor"].clone();
    let written = fs::read(appliance.directory.path().join("state/floor")).unwrap();
    let log = appliance.process.log();
    assert!(appliance.stop().success());
    (floor, log, written)
}

#[test]
fn floor_is_kept_over_a_restart_and_measured_anew_when_it_is_torn() {
    let (first, _, written) = start_with(None);
    assert_eq!(first["source"], "measured");
    let (second, log, _) = start_with(Some(&written));
    assert_eq!(second["source"], "cached");
    for key in ["measured_unix_ms", "arrivals", "kernel", "processor", "suite", "version"] {
        assert_eq!(first[key], second[key], "{key}");
    }
    assert!(!log.contains("measured anew"), "{log}");
    let (third, log, replaced) = start_with(Some(&written[..written.len() / 2]));
    assert_eq!(third["source"], "measured");
    assert!(log.contains("the floor is measured anew"), "{log}");
    assert_eq!(start_with(Some(&replaced)).0["source"], "cached");
}

fn ask_for_floor(state: &Path, more: &[&str]) -> Output {
    command(&binary()).arg("floor").arg("--state-dir").arg(state).args(more).output().unwrap()
}

#[test]
fn floor_is_shown_and_measured_anew_on_request() {
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("waystation.toml");
    fs::write(&config, settings().text()).unwrap();
    let state = directory.path().join("state");
    let config = config.to_str().unwrap();
    let document = |more: &[&str]| -> Value {
        let arguments = [&["--json", "--config", config], more].concat();
        let output = ask_for_floor(&state, &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let first = document(&[]);
    assert_eq!((&first["source"], &first["suite"]), (&"measured".into(), &"ring".into()));
    assert_eq!(document(&[])["source"], "cached");
    let again = document(&["--refresh"]);
    assert_eq!(again["source"], "measured");
    let time = |floor: &Value| floor["measured_unix_ms"].as_u64().unwrap();
    assert!(time(&again) > time(&first));
    let text = ask_for_floor(&state, &["--config", config]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("floor      as measured at an earlier start"), "{text}");
    assert_eq!(text.lines().count(), 1 + again["arrivals"].as_array().unwrap().len());
}

#[test]
fn appliance_that_is_told_not_to_calibrate_has_no_floor() {
    let settings = Settings::new(PortName::Epoll, 1);
    let appliance = Appliance::start(&settings);
    assert_eq!(appliance.status()["floor"], Value::Null);
    assert!(!appliance.directory.path().join("state/floor").exists());
}

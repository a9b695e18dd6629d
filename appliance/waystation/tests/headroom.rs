//! What a core says about the room it has left: nothing while it is idle, less the more it carries.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where, one that is skipped says why, and it may look at the \
              clock and pause"
)]

mod support;

use serde_json::Value;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::eventually;
use support::nodes::{Node, route};
use support::process::fast_binary;
use waystation_astral::frame::Profile;
use waystation_peer::RouteForm;

const MESSAGE_BYTES: usize = 1024;
/// Messages in each burst, and the pause between bursts: what the core carries is set by how much
/// the test sends, and a machine that holds the test up only makes it less.
const FEW: usize = 1;
const MANY: usize = 200;
const PAUSE: Duration = Duration::from_millis(20);
/// Intervals of a rate that are looked at.
const INTERVALS: usize = 4;
/// What a figure may be off by for having been written as text.
const ROUNDING: f64 = 1e-6;

#[test]
fn core_that_carries_more_is_busier_and_says_what_fits_in() {
    for port in [PortName::Epoll, PortName::IoUring] {
        if !port.is_given() {
            continue;
        }
        let settings = Settings::new(port, 1).quiet().running(fast_binary());
        let appliance = Appliance::start(&settings);
        let (near, far) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
        eventually("an idle core says nothing about its traffic", || {
            let headroom = headroom(&appliance);
            let idle = headroom["more_traffic_ratio"].is_null();
            (idle && headroom["busy_share"].is_number()).then_some(())
        });
        let (few, many) = rates(&appliance, &near, &far);
        // How long a core waits for its CPU is the machine's business, so what is compared is the
        // time that it had one.
        let least = few.iter().copied().fold(f64::INFINITY, f64::min);
        let most = many.iter().copied().fold(0.0, f64::max);
        assert!(least < most, "{port:?}: {few:?} with few messages, {many:?} with many");
        let metrics = String::from_utf8(appliance.ask("/metrics").unwrap()).unwrap();
        assert!(metrics.contains("waystation_core_headroom_ratio{core=\"0\"} "), "{metrics}");
    }
}

/// Shares of time on a CPU at both rates, one after the other over the same session.
fn rates(appliance: &Appliance, near: &Node, far: &Node) -> (Vec<f64>, Vec<f64>) {
    let (mut sending, mut receiving) = route(near, far, RouteForm::G2);
    let burst = AtomicUsize::new(FEW);
    thread::scope(|scope| {
        scope.spawn(|| {
            let message = [7; MESSAGE_BYTES];
            let mut received = vec![0; MANY * MESSAGE_BYTES];
            loop {
                let messages = burst.load(Ordering::Relaxed);
                if messages == 0 {
                    return;
                }
                (0..messages).for_each(|_| sending.write_all(&message).unwrap());
                receiving.read_exact(&mut received[..messages * MESSAGE_BYTES]).unwrap();
                thread::sleep(PAUSE);
            }
        });
        // A test that fails must end the other thread as well.
        let looked = std::panic::catch_unwind(|| {
            let few = cpu_shares(appliance);
            burst.store(MANY, Ordering::Relaxed);
            (few, cpu_shares(appliance))
        });
        burst.store(0, Ordering::Relaxed);
        looked.unwrap_or_else(|failed| std::panic::resume_unwind(failed))
    })
}

/// The share of time on a CPU in each of the intervals that begin from now on; and makes sure that
/// what the core says of its room follows from what it counted in that interval.
fn cpu_shares(appliance: &Appliance) -> Vec<f64> {
    let sequence = |status: &Value| status["interval"]["sequence"].as_u64().unwrap();
    // The one under way has begun before.
    let mut last = sequence(&appliance.status()) + 1;
    (0..INTERVALS)
        .map(|_| {
            let status = eventually("a further interval with traffic", || {
                let status = appliance.status();
                let told = status["cores"][0]["headroom"]["more_traffic_ratio"].is_number();
                (told && sequence(&status) > last).then_some(status)
            });
            last = sequence(&status);
            let core = &status["cores"][0];
            let grown = |key: &str| core["interval"][key].as_f64().unwrap();
            let wanted_ns = grown("cpu_ns") + grown("run_delay_ns") - grown("empty_spins_ns");
            let busy = (wanted_ns / grown("up_ns")).min(1.0);
            let of = |key: &str| core["headroom"][key].as_f64().unwrap();
            assert!((of("busy_share") - busy).abs() < ROUNDING, "{core}");
            let more = (1.0 - busy) / busy;
            assert!((of("more_traffic_ratio") - more).abs() <= ROUNDING * (1.0 + more), "{core}");
            grown("cpu_ns") / grown("up_ns")
        })
        .collect()
}

fn headroom(appliance: &Appliance) -> Value {
    appliance.status()["cores"][0]["headroom"].clone()
}

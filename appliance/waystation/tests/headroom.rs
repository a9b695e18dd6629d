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
/// Intervals of a rate that are looked at. Others on the machine only ever add to what a core seems
/// to need, so the least busy one counts.
const INTERVALS: u64 = 4;

#[test]
fn core_that_carries_more_says_that_less_fits_in() {
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
        for (busy, more) in [few, many] {
            assert!((0.0..=1.0).contains(&busy) && more >= 0.0, "{port:?}: {busy} {more}");
        }
        assert!(few.0 < many.0, "{port:?}: busy {few:?} with few messages, {many:?} with many");
        assert!(few.1 > many.1, "{port:?}: room {few:?} with few messages, {many:?} with many");
        let metrics = String::from_utf8(appliance.ask("/metrics").unwrap()).unwrap();
        assert!(metrics.contains("waystation_core_headroom_ratio{core=\"0\"} "), "{metrics}");
    }
}

/// Busy share and room at both rates, one after the other over the same session.
fn rates(appliance: &Appliance, near: &Node, far: &Node) -> ((f64, f64), (f64, f64)) {
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
            let few = least_busy(appliance);
            burst.store(MANY, Ordering::Relaxed);
            (few, least_busy(appliance))
        });
        burst.store(0, Ordering::Relaxed);
        looked.unwrap_or_else(|failed| std::panic::resume_unwind(failed))
    })
}

/// Busy share and room in the least busy of the intervals that begin from now on.
fn least_busy(appliance: &Appliance) -> (f64, f64) {
    let sequence = |status: &Value| status["interval"]["sequence"].as_u64().unwrap();
    // The one under way has begun before.
    let mut last = sequence(&appliance.status()) + 1;
    let mut least = (f64::INFINITY, 0.0);
    for _ in 0..INTERVALS {
        let (busy, more) = eventually("a further interval with traffic", || {
            let status = appliance.status();
            let headroom = &status["cores"][0]["headroom"];
            let more = headroom["more_traffic_ratio"].as_f64()?;
            (sequence(&status) > last).then(|| {
                last = sequence(&status);
                (headroom["busy_share"].as_f64().unwrap(), more)
            })
        });
        if busy < least.0 {
            least = (busy, more);
        }
    }
    least
}

fn headroom(appliance: &Appliance) -> Value {
    appliance.status()["cores"][0]["headroom"].clone()
}

//! What holds a link or a pipe up is named: a test provokes each cause, over each port.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where, one that is skipped says why, and it may look at the \
              clock and pause"
)]

mod support;

use serde_json::Value;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::appliance::{Appliance, PortName, Settings};
use support::hand_link::HandLink;
use support::nodes::{Node, connect, route};
use support::process::fast_binary;
use support::{STEP, eventually};
use waystation_astral::frame::{Frame, Profile};
use waystation_astral::identity::{Identity, SecretKey};
use waystation_peer::{RouteForm, Session, secret_key};

/// Window of the sessions that sources accept: what the appliance sends them does not matter here.
const WINDOW_BYTES: u32 = 256 * 1024;
/// Room of a core that is busy for nine tenths of the time or more.
const FULL_RATIO_MAX: f64 = 0.12;
/// Pause of whoever cannot write for the moment.
const PAUSE: Duration = Duration::from_millis(20);

/// Runs a test against an appliance of one core over each port this machine has.
fn on_every_port(adapt: impl Fn(Settings) -> Settings, test: impl Fn(&Appliance)) {
    for port in [PortName::Epoll, PortName::IoUring] {
        if port.is_given() {
            let settings = Settings::new(port, 1).quiet().running(fast_binary());
            test(&Appliance::start(&adapt(settings)));
        }
    }
}

/// Does something in another thread for as long as the test looks.
fn while_looking(act: impl FnOnce(&AtomicBool) + Send, look: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| act(&stop));
        // A test that fails must end the other thread as well.
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
        stop.store(true, Ordering::Relaxed);
        if let Err(failed) = looked {
            std::panic::resume_unwind(failed);
        }
    });
}

/// Writes until told to stop.
fn write_on(mut to: impl Write, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match to.write(&[7; 16 * 1024]) {
            Ok(_) => {}
            Err(error) if is_a_timeout(&error) => thread::sleep(PAUSE),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Reads and forgets until told to stop.
fn read_on(mut from: impl Read, stop: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    while !stop.load(Ordering::Relaxed) {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if is_a_timeout(&error) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn is_a_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

/// Waits until an interval has this cause for a link's payload in this direction, `in` or `out`.
fn expect(appliance: &Appliance, of: &Identity, direction: &str, cause: &str) {
    let mut last = Value::Null;
    let until = Instant::now() + STEP;
    while last[direction]["cause"] != cause {
        assert!(Instant::now() < until, "not {cause} {direction} within {STEP:?}: {last}");
        thread::sleep(PAUSE);
        last = appliance.link_row(of).unwrap()["limited_by"].clone();
    }
    assert_is_largest(&last[direction], cause);
}

fn assert_is_largest(limited_by: &Value, cause: &str) {
    let shares = limited_by["shares"].as_object().unwrap();
    let share = |value: &Value| value.as_f64().unwrap();
    let sum: f64 = shares.values().map(share).sum();
    assert!((0.99..=1.01).contains(&sum), "{limited_by}");
    assert!(shares.values().all(|other| share(other) <= share(&shares[cause])), "{limited_by}");
}

/// Waits until a leg or a side of a pipe of this kind has this cause in this direction.
fn expect_sessions(appliance: &Appliance, kind: &str, direction: &str, cause: &str) {
    let until = Instant::now() + STEP;
    loop {
        let sessions = appliance.document("/v1/sessions");
        let rows = sessions["sessions"].as_array().unwrap();
        let held_up = |row: &Value| row["limited_by"][direction]["cause"] == cause;
        if rows.iter().any(|row| row["kind"] == kind && held_up(row)) {
            return;
        }
        assert!(Instant::now() < until, "no {kind} {direction} by {cause}: {sessions}");
        thread::sleep(PAUSE);
    }
}

/// A peer that asks for a session with `source` under this window and leaves it to the test what it
/// reads; the other end's way to send.
fn session_by_hand(
    appliance: &Appliance,
    source: &Node,
    window: u32,
) -> (HandLink, Identity, Session) {
    let key = secret_key().unwrap();
    let mut link = HandLink::dial_as(appliance, &key, Profile::P4);
    let query = RouteForm::G2.query(&source.identity());
    link.send(&Frame::Query { nonce: 1, window, query: query.as_bytes() });
    let far = source.link.accept_route(WINDOW_BYTES, STEP).unwrap();
    (link, key.identity(), far)
}

#[test]
fn receiver_that_grants_no_credit_is_the_limit() {
    on_every_port(
        |settings| settings,
        |appliance| {
            let source = appliance.node(Profile::P4);
            let (link, receiver, mut far) = session_by_hand(appliance, &source, 1000);
            far.write_all(&[7; 64 * 1024]).unwrap();
            expect(appliance, &source.identity(), "in", "credit");
            expect(appliance, &receiver, "out", "credit");
            expect_sessions(appliance, "caller", "in", "credit");
            expect_sessions(appliance, "target", "in", "credit");
            let metrics = String::from_utf8(appliance.ask("/metrics").unwrap()).unwrap();
            assert!(metrics.contains("waystation_links_limited{cause=\"credit\"} 2"), "{metrics}");
            drop(link);
        },
    );
}

#[test]
fn receiver_that_does_not_read_its_socket_is_the_limit() {
    on_every_port(
        |settings| settings,
        |appliance| {
            let source = appliance.node(Profile::P4);
            let (link, receiver, mut far) = session_by_hand(appliance, &source, u32::MAX);
            far.set_write_timeout(Some(PAUSE));
            while_looking(
                |stop| write_on(far, stop),
                || {
                    expect(appliance, &receiver, "out", "peer_not_reading");
                    expect(appliance, &source.identity(), "in", "peer_not_reading");
                },
            );
            drop(link);
        },
    );
}

#[test]
fn quota_of_whoever_sends_is_the_limit() {
    let with_quota = |settings: Settings| {
        settings.with("limits", "rate = \"1MiB\"").with("limits", "burst = \"64KiB\"")
    };
    on_every_port(with_quota, |appliance| {
        let (source, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
        let (mut near, far) = route(&source, &target, RouteForm::G2);
        near.set_write_timeout(Some(PAUSE));
        far.set_read_timeout(Some(PAUSE));
        let look = || {
            expect(appliance, &source.identity(), "in", "quota");
            expect(appliance, &target.identity(), "out", "quota");
        };
        while_looking(
            |stop| read_on(far, stop),
            || while_looking(|stop| write_on(near, stop), look),
        );
    });
}

#[test]
fn sender_that_pauses_is_the_limit() {
    on_every_port(
        |settings| settings,
        |appliance| {
            let (source, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
            let (mut near, mut far) = route(&source, &target, RouteForm::G2);
            let send_now_and_then = |stop: &AtomicBool| {
                let mut message = [7; 1024];
                while !stop.load(Ordering::Relaxed) {
                    near.write_all(&message).unwrap();
                    far.read_exact(&mut message).unwrap();
                    thread::sleep(PAUSE);
                }
            };
            while_looking(send_now_and_then, || {
                for node in [&source, &target] {
                    expect(appliance, &node.identity(), "in", "sender_idle");
                    expect(appliance, &node.identity(), "out", "sender_idle");
                }
            });
        },
    );
}

/// Keeps a core busy for less than it costs: records full of pings, whose answers are not looked
/// at.
fn flood(appliance: &Appliance, key: &SecretKey, stop: &AtomicBool) {
    let mut link = HandLink::dial_as(appliance, key, Profile::P4);
    let pongs = link.stream.try_clone().unwrap();
    pongs.set_read_timeout(Some(PAUSE)).unwrap();
    let ping = link.encoded(&Frame::Ping { nonce: 7, pong: false });
    let pings = ping.repeat(60_000 / ping.len());
    thread::scope(|scope| {
        scope.spawn(|| read_on(pongs, stop));
        while !stop.load(Ordering::Relaxed) {
            link.send_record(&pings);
        }
    });
}

#[test]
fn core_that_is_busy_all_the_time_is_the_limit() {
    on_every_port(
        |settings| settings,
        |appliance| {
            let (source, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
            let (mut near, far) = route(&source, &target, RouteForm::G2);
            near.set_write_timeout(Some(PAUSE));
            far.set_read_timeout(Some(PAUSE));
            let greedy = secret_key().unwrap();
            let look = || {
                eventually("the greedy link is up", || appliance.link_row(&greedy.identity()));
                expect(appliance, &greedy.identity(), "in", "core");
                expect(appliance, &source.identity(), "in", "core");
                eventually("the core says that it is full", || {
                    let status = appliance.status();
                    let more = status["cores"][0]["headroom"]["more_traffic_ratio"].as_f64()?;
                    (more < FULL_RATIO_MAX).then_some(())
                });
            };
            while_looking(
                |stop| read_on(far, stop),
                || {
                    let look = || while_looking(|stop| flood(appliance, &greedy, stop), look);
                    while_looking(|stop| write_on(near, stop), look);
                },
            );
        },
    );
}

#[test]
fn raw_pipe_is_limited_by_the_side_that_does_not_read() {
    on_every_port(
        |settings| settings,
        |appliance| {
            let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
            let pool = target.idle(1, true);
            let (near, far) = connect(&caller, &target, &pool);
            near.set_write_timeout(Some(PAUSE)).unwrap();
            expect_sessions(appliance, "socket", "in", "sender_idle");
            while_looking(
                |stop| write_on(near, stop),
                || {
                    expect_sessions(appliance, "socket", "in", "peer_not_reading");
                    expect_sessions(appliance, "socket", "out", "peer_not_reading");
                },
            );
            drop(far);
        },
    );
}

#[test]
fn raw_pipe_is_limited_by_the_quota_of_the_side_that_sends() {
    let with_quota = |settings: Settings| {
        settings.with("limits", "rate = \"1MiB\"").with("limits", "burst = \"64KiB\"")
    };
    on_every_port(with_quota, |appliance| {
        let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
        let pool = target.idle(1, true);
        let (near, far) = connect(&caller, &target, &pool);
        near.set_write_timeout(Some(PAUSE)).unwrap();
        far.set_read_timeout(Some(PAUSE)).unwrap();
        let look = || expect_sessions(appliance, "socket", "in", "quota");
        while_looking(
            |stop| read_on(far, stop),
            || while_looking(|stop| write_on(near, stop), look),
        );
    });
}

//! Peers that are authenticated and mean harm, or that never say who they are: what they do is
//! bounded and counted under its reason, and others hardly notice.
//!
//! One data core, so that whoever does harm shares it with everybody else.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where, one that passes says what it measured, and it may \
              look at the clock and pause"
)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::appliance::{Appliance, PortName, Settings};
use support::hand_link::{Got, HandLink, connect};
use support::measure::{Pair, alone, assert_others_hardly_notice, long};
use support::process::{fast_binary, is_fast};
use support::{STEP, eventually};
use waystation_astral::brontide::Initiator;
use waystation_astral::frame::{Frame, Profile};
use waystation_astral::gateway::Visibility;
use waystation_peer::{LinkOptions, PeerError, RouteForm, secret_key};

/// Pairs of nodes that do no harm and must hardly notice.
const PAIRS: usize = 2;
/// Window the appliance advertises here, the smallest it can be told to.
const WINDOW_BYTES: usize = 256 * 1024;
/// Frames, queries or registrations that one harmful peer begins in a second: more than a good one
/// ever does, and less than what fills the machine that the test shares with the appliance.
const HARM_PER_S: u64 = 10_000;

fn settings(port: PortName) -> Settings {
    let settings = Settings::new(port, 1).with("relay", "session_window = \"256KiB\"");
    settings.quiet().running(fast_binary())
}

/// Starts an appliance over each port this machine has, and pairs that do no harm.
fn on_every_port(
    adapt: impl Fn(Settings) -> Settings,
    test: impl Fn(&'static str, &Appliance, &mut [Pair]),
) {
    let _alone = alone();
    for port in [PortName::Epoll, PortName::IoUring] {
        if !port.is_given() {
            continue;
        }
        let appliance = Appliance::start(&adapt(settings(port)));
        let mut pairs: Vec<_> = (0..PAIRS).map(|_| Pair::new(&appliance)).collect();
        test(port.name(), &appliance, &mut pairs);
        drop(pairs);
        appliance.wait_until_whole();
    }
}

/// Does something at a steady rate until told to stop; at a smaller one to a program that is not
/// as it is installed.
fn at_rate(per_s: u64, stop: &AtomicBool, mut act: impl FnMut(u64)) {
    /// Times a second that a burst is made: shorter ones would measure the sleep.
    const BURSTS_PER_S_MAX: u64 = 200;
    /// By how much an unoptimised program is spared.
    const SPARED: u64 = 20;
    let per_s = if is_fast() { per_s } else { per_s / SPARED };
    let bursts_per_s = per_s.min(BURSTS_PER_S_MAX);
    let mut number = 0;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..per_s / bursts_per_s {
            act(number);
            number += 1;
        }
        next += Duration::from_secs(1) / u32::try_from(bursts_per_s).unwrap();
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Waits until a reason has been counted so often.
fn expect_drops(appliance: &Appliance, reason: &str, at_least: u64) {
    eventually(&format!("{reason} is counted {at_least} times"), || {
        (appliance.drops()[reason] >= at_least).then_some(())
    });
}

#[test]
fn reader_that_stalls_is_bounded_and_closed() {
    let adapt = |settings: Settings| settings.with("relay", "send_stall_timeout = \"2s\"");
    on_every_port(adapt, |port, appliance, pairs| {
        let source = appliance.node(Profile::P4);
        let mut stalled = 0;
        assert_others_hardly_notice(&format!("stalled reader, {port}"), pairs, |stop| {
            let mut link = HandLink::dial(appliance, Profile::P4);
            let query = RouteForm::G2.query(&source.identity());
            link.send(&Frame::Query { nonce: 1, window: u32::MAX, query: query.as_bytes() });
            let mut far = source.link.accept_route(WINDOW_BYTES as u32, STEP).unwrap();
            far.set_write_timeout(Some(Duration::from_millis(100)));
            // Nobody reads: what the relay takes is its window, and what fills the kernel's buffers.
            while !stop.load(Ordering::Relaxed) {
                match far.write(&[7; 16 * 1024]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::TimedOut => {
                        assert!(appliance.total("queued_bytes") <= 2 * WINDOW_BYTES as u64);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            stalled += 1;
            expect_drops(appliance, "peer_not_reading", stalled);
            drop(link);
        });
    });
}

#[test]
fn liar_about_credit_loses_only_its_sessions() {
    /// Payload of one frame.
    const LIE_BYTES: usize = 32 * 1024;
    /// A query, a window of frames, and one frame too many.
    const STEPS: u64 = (1 + WINDOW_BYTES / LIE_BYTES + 1) as u64;
    on_every_port(
        |settings| settings,
        |port, appliance, pairs| {
            let target = appliance.node(Profile::P4);
            let query = RouteForm::G2.query(&target.identity());
            let lies = AtomicU64::new(0);
            assert_others_hardly_notice(
                &format!("bytes beyond the window, {port}"),
                pairs,
                |stop| {
                    let mut link = HandLink::dial(appliance, Profile::P4);
                    let mut far = None;
                    at_rate(1_000, stop, |number| {
                        let nonce = number / STEPS + 1;
                        if number % STEPS == 0 {
                            let query = query.as_bytes();
                            link.send(&Frame::Query { nonce, window: 1, query });
                            // A window of nothing: all that comes waits at the relay.
                            far = Some(target.link.accept_route(0, STEP).unwrap());
                            assert!(matches!(link.receive_next(), Got::Response { code: 0, .. }));
                            return;
                        }
                        link.send(&Frame::Data { nonce, payload: &[7; LIE_BYTES] });
                        if number % STEPS == STEPS - 1 {
                            assert_eq!(link.receive_next(), Got::Reset { nonce });
                            lies.fetch_add(1, Ordering::Relaxed);
                            far = None;
                        }
                    });
                    link.wait_for_pong(1);
                    link.close();
                },
            );
            assert_eq!(appliance.drops()["credit_overflow"], lies.into_inner());
        },
    );
}

#[test]
fn credit_without_end_is_no_harm() {
    on_every_port(
        |settings| settings,
        |port, appliance, pairs| {
            let target = appliance.node(Profile::P4);
            let query = RouteForm::G2.query(&target.identity());
            let mut link = HandLink::dial(appliance, Profile::P4);
            link.send(&Frame::Query { nonce: 1, window: u32::MAX, query: query.as_bytes() });
            let mut far = target.link.accept_route(WINDOW_BYTES as u32, STEP).unwrap();
            assert!(matches!(link.receive_next(), Got::Response { code: 0, .. }));
            assert_others_hardly_notice(&format!("credit without end, {port}"), pairs, |stop| {
                at_rate(HARM_PER_S, stop, |_| {
                    link.send(&Frame::Read { nonce: 1, bytes: u32::MAX })
                });
            });
            far.write_all(b"still here").unwrap();
            assert_eq!(
                link.receive_next(),
                Got::Data { nonce: 1, payload: b"still here".to_vec() }
            );
            let mut drops = appliance.drops();
            drops.retain(|_, events| *events > 0);
            assert!(drops.is_empty(), "{drops:?}");
            far.reset();
            assert_eq!(link.receive_next(), Got::Reset { nonce: 1 });
            link.close();
        },
    );
}

#[test]
fn flood_of_frames_is_answered_as_far_as_it_is_read() {
    on_every_port(
        |settings| settings,
        |port, appliance, pairs| {
            let mut link = HandLink::dial(appliance, Profile::P0);
            let (mut resets, mut reads) = (0, 0);
            assert_others_hardly_notice(&format!("flood of frames, {port}"), pairs, |stop| {
                at_rate(HARM_PER_S, stop, |number| match number % 3 {
                    0 => link.send(&Frame::Ping { nonce: number, pong: false }),
                    1 => {
                        resets += 1;
                        link.send(&Frame::Reset { nonce: number });
                    }
                    _ => {
                        reads += 1;
                        link.send(&Frame::Read { nonce: number, bytes: 1 });
                    }
                });
            });
            // Whoever reads gets every answer, in order.
            link.wait_for_pong(u64::MAX);
            let drops = appliance.drops();
            assert_eq!(drops["unknown_session_ignored"], resets);
            assert_eq!(drops["unknown_session_read"], reads);
            assert_eq!(drops["pong_suppressed"], 0);
            link.close();
        },
    );
}

#[test]
fn flood_whose_answers_nobody_reads_ends_with_its_link() {
    on_every_port(
        |settings| settings.with("relay", "send_stall_timeout = \"2s\""),
        |port, appliance, pairs| {
            let blocks = appliance.status()["totals"]["counters"]["block_bytes"].as_u64().unwrap();
            let mut floods = 0;
            assert_others_hardly_notice(&format!("unread flood, {port}"), pairs, |stop| {
                let mut link = HandLink::dial(appliance, Profile::P2);
                let mut pings = Vec::new();
                let frame = Frame::Ping { nonce: 7, pong: false };
                (0..500).for_each(|_| pings.extend(link.encoded(&frame)));
                let mut ended = false;
                at_rate(200, stop, |_| ended |= link.try_send_record(&pings).is_err());
                // Once the kernel's buffers are full, pongs are left out; then the link is closed.
                while !ended {
                    ended = link.try_send_record(&pings).is_err();
                }
                floods += 1;
            });
            expect_drops(appliance, "pong_suppressed", floods);
            expect_drops(appliance, "peer_not_reading", floods);
            let grown = appliance.status()["totals"]["counters"]["block_bytes"].as_u64().unwrap();
            assert!(grown <= blocks + (4 << 20), "{blocks} bytes of blocks became {grown}");
        },
    );
}

#[test]
fn handshakes_that_drip_keep_nobody_out() {
    /// More than come at a time from anybody who means to finish.
    const DRIPPING: usize = 400;
    let adapt = |settings: Settings| settings.with("relay", "handshake_timeout = \"3s\"");
    on_every_port(adapt, |port, appliance, pairs| {
        let mut begun = 0;
        assert_others_hardly_notice(&format!("dripping handshakes, {port}"), pairs, |stop| {
            let acts: Vec<_> =
                (0..DRIPPING).map(|_| (connect(appliance), act_one(appliance))).collect();
            begun += DRIPPING as u64;
            let mut byte = 0;
            while !stop.load(Ordering::Relaxed) {
                acts.iter().for_each(|(stream, act)| drip(stream, act[byte]));
                byte += 1;
                assert_eq!(appliance.total("half_open"), DRIPPING as u64);
                let before = Instant::now();
                HandLink::dial(appliance, Profile::P4).close();
                assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
                thread::sleep(Duration::from_millis(300));
            }
            expect_drops(appliance, "handshake_timeout", begun);
        });
    });
}

#[test]
fn handshakes_beyond_the_cap_are_refused_until_others_time_out() {
    const HALF_OPEN_MAX: usize = 64;
    let adapt = |settings: Settings| {
        settings
            .with("relay", "handshake_timeout = \"2s\"")
            .with("engine", &format!("half_open_max = {HALF_OPEN_MAX}"))
    };
    on_every_port(adapt, |_, appliance, pairs| {
        let dripping: Vec<_> = (0..2 * HALF_OPEN_MAX).map(|_| connect(appliance)).collect();
        dripping.iter().for_each(|stream| drip(stream, 0));
        expect_drops(appliance, "too_many_connections", HALF_OPEN_MAX as u64);
        assert!(appliance.total("half_open") <= HALF_OPEN_MAX as u64);
        // Whoever tries again gets in when the first have had their time.
        let began = Instant::now();
        let key = secret_key().unwrap();
        let link = eventually("a handshake succeeds", || {
            let options = LinkOptions::with_profile(Profile::P4);
            waystation_peer::Link::dial_with(appliance.address, &key, &appliance.identity, &options)
                .ok()
        });
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        link.ping(STEP).unwrap();
        expect_drops(appliance, "handshake_timeout", HALF_OPEN_MAX as u64);
        let waits = support::measure::measure(pairs, Duration::from_millis(200));
        assert!(waits.messages > 0);
    });
}

/// The first act of a handshake.
fn act_one(appliance: &Appliance) -> [u8; 50] {
    let (key, ephemeral) = (secret_key().unwrap(), secret_key().unwrap());
    Initiator::new(&key, &appliance.identity, &ephemeral).unwrap().act_one().unwrap()
}

/// One more byte. The appliance may have closed the connection.
fn drip(mut stream: &TcpStream, byte: u8) {
    let _ = stream.write(&[byte]);
}

#[test]
fn registrations_are_capped_and_come_free_again() {
    const REGISTRATIONS_MAX: usize = 32;
    const NODES: usize = 48;
    let adapt = |settings: Settings| {
        settings.with("gateway", &format!("registrations_max = {REGISTRATIONS_MAX}"))
    };
    on_every_port(adapt, |port, appliance, pairs| {
        let nodes: Vec<_> = (0..NODES).map(|_| appliance.node(Profile::P4)).collect();
        let mut refused = 0;
        for (number, node) in nodes.iter().enumerate() {
            match node.link.register(Visibility::Public) {
                Ok(_) => assert!(number < REGISTRATIONS_MAX),
                Err(PeerError::Refused { .. }) if number >= REGISTRATIONS_MAX => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        expect_drops(appliance, "management_busy", refused);
        assert_others_hardly_notice(&format!("flood of registrations, {port}"), pairs, |stop| {
            at_rate(1_000, stop, |number| {
                let node = &nodes[number as usize % REGISTRATIONS_MAX];
                node.link.unregister().unwrap();
                node.link.register(Visibility::Private).unwrap();
            });
        });
        assert_eq!(appliance.status()["gateway"]["registrations"], REGISTRATIONS_MAX);
        nodes[0].link.unregister().unwrap();
        nodes[NODES - 1].link.register(Visibility::Public).unwrap();
        assert!(nodes[0].link.register(Visibility::Public).is_err());
    });
}

#[test]
fn longest_strings_pass_or_are_refused_whole() {
    on_every_port(
        |settings| settings,
        |port, appliance, pairs| {
            let longest = [b'q'; 65_535];
            let mut unknown = 0;
            assert_others_hardly_notice(&format!("longest queries, {port}"), pairs, |stop| {
                let mut link = HandLink::dial(appliance, Profile::P4);
                at_rate(200, stop, |_| {
                    unknown += 1;
                    // The frame is longer than a record.
                    let frame =
                        link.encoded(&Frame::Query { nonce: unknown, window: 1, query: &longest });
                    frame.chunks(60_000).for_each(|chunk| link.send_record(chunk));
                    let rejected = Got::Response { nonce: unknown, code: 1, window: 0 };
                    assert_eq!(link.receive_next(), rejected);
                });
                link.close();
            });
            assert_eq!(appliance.drops()["unknown_query"], unknown);
            longest_route(appliance);
            type_name_without_end(appliance);
            longest_payload(appliance);
        },
    );
}

/// A query for a target, with as much behind it as a query can have.
fn longest_route(appliance: &Appliance) {
    let target = appliance.node(Profile::P0);
    let caller = appliance.node(Profile::P4);
    let mut query = RouteForm::G2.query(&target.identity());
    query.push_str("&rest=");
    query.push_str(&"x".repeat(65_535 - query.len()));
    let link = target.link.clone();
    let accepting = thread::spawn(move || {
        let arrived = link.accept(STEP).unwrap();
        let whole = arrived.query().to_vec();
        drop(arrived.accept(1024).unwrap());
        whole
    });
    drop(caller.link.query(&query).unwrap());
    assert!(accepting.join().unwrap() == query.as_bytes(), "another query arrived");
}

fn type_name_without_end(appliance: &Appliance) {
    let before = appliance.drops()["frame_rejected"];
    let mut link = HandLink::dial(appliance, Profile::P4);
    let mut object = vec![255];
    object.extend([b'n'; 255]);
    object.extend(65_535_u32.to_be_bytes());
    link.send_record(&object);
    support::hand_link::wait_for_end(&mut link.stream);
    expect_drops(appliance, "frame_rejected", before + 1);
}

fn longest_payload(appliance: &Appliance) {
    let target = appliance.node(Profile::P4);
    let mut link = HandLink::dial(appliance, Profile::P0);
    let query = RouteForm::G1.query(&target.identity());
    link.send(&Frame::Query { nonce: 1, window: 65_536, query: query.as_bytes() });
    let mut far = target.link.accept_route(1 << 20, STEP).unwrap();
    far.set_read_timeout(Some(STEP));
    assert!(matches!(link.receive_next(), Got::Response { code: 0, .. }));
    for filling in 1..=3 {
        let payload = vec![filling; 65_535];
        let frame = link.encoded(&Frame::Data { nonce: 1, payload: &payload });
        frame.chunks(65_535).for_each(|chunk| link.send_record(chunk));
        let mut received = vec![0; 65_535];
        far.read_exact(&mut received).unwrap();
        assert!(received == payload, "other bytes arrived");
    }
    far.reset();
    assert_eq!(link.receive_next(), Got::Reset { nonce: 1 });
    link.close();
}

#[test]
fn sessions_of_one_link_are_capped() {
    let (queries, cap) = if long() { (100_000, 20_000) } else { (10_000, 2_000) };
    let adapt = |settings: Settings| {
        settings
            .with("relay", &format!("sessions_per_link_max = {cap}"))
            .with("relay", "query_timeout = \"60s\"")
    };
    on_every_port(adapt, |port, appliance, pairs| {
        // The target never answers, so that all of them stay.
        let key = secret_key().unwrap();
        let mut target = HandLink::dial_as(appliance, &key, Profile::P4);
        let query = RouteForm::G2.query(&target.identity);
        let mut refused = 0;
        assert_others_hardly_notice(&format!("{queries} sessions, {port}"), pairs, |stop| {
            let mut link = HandLink::dial(appliance, Profile::P4);
            let mut now = 0;
            at_rate(HARM_PER_S, stop, |_| {
                now += 1;
                link.send(&Frame::Query { nonce: now, window: 1, query: query.as_bytes() });
            });
            while now < queries {
                now += 1;
                link.send(&Frame::Query { nonce: now, window: 1, query: query.as_bytes() });
            }
            let mut rejected = 0;
            while rejected < now - cap as u64 {
                match link.receive_next() {
                    Got::Response { code: 1, .. } => rejected += 1,
                    got => panic!("{got:?}"),
                }
            }
            refused += rejected;
            let row = appliance.link_row(&link.identity).unwrap();
            assert_eq!(row["sessions"], cap);
            link.close();
            // The target learns of every end.
            for _ in 0..2 * cap {
                match target.receive_next() {
                    Got::Query { .. } | Got::Reset { .. } => {}
                    got => panic!("{got:?}"),
                }
            }
        });
        let drops = appliance.drops();
        // A burst may fill the management core's queue before it fills the link.
        let counted = drops["too_many_sessions"] + drops["management_busy"];
        assert_eq!(counted, refused, "{drops:?}");
        target.close();
    });
}

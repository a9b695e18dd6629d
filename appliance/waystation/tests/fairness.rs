//! One greedy sender beside many polite ones: what the polite offer passes, over one link as well as
//! over many. And a quota is what it says.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where, one that passes says what it measured, and it may \
              look at the clock and pause"
)]

mod support;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::appliance::{Appliance, PortName, Settings};
use support::measure::alone;
use support::nodes::{Node, connect, route};
use support::process::fast_binary;
use support::streams::Ends;
use waystation_astral::frame::Profile;
use waystation_peer::{LinkOptions, RouteForm, secret_key};

const POLITE: usize = 31;
/// What each polite sender offers: all together a small part of what one core carries.
const OFFER_BYTES: usize = 2 * 1024;
const OFFERS_PER_S: u32 = 50;
const TIME: Duration = Duration::from_secs(3);
/// Rounds of which the best counts: a busy machine holds senders up, too.
const ROUNDS: usize = 3;
const SHARE_MIN: f64 = 0.95;

const RATE_BYTES_PER_S: u64 = 1 << 20;
const RATE_TIME: Duration = Duration::from_secs(5);

#[test]
fn greedy_sender_leaves_the_polite_their_share_of_one_link() {
    greedy_beside_polite(1);
}

#[test]
fn greedy_sender_leaves_the_polite_their_share_over_many_links() {
    greedy_beside_polite(POLITE + 1);
}

fn greedy_beside_polite(destinations: usize) {
    let _alone = alone();
    for port in [PortName::Epoll, PortName::IoUring] {
        if !port.is_given() {
            continue;
        }
        let appliance = Appliance::start(&Settings::new(port, 1).quiet().running(fast_binary()));
        let to: Vec<_> = (0..destinations).map(|_| appliance.node(Profile::P4)).collect();
        let from: Vec<_> = (0..=POLITE).map(|_| appliance.node(Profile::P4)).collect();
        let share = (0..ROUNDS).map(|_| worst_share(port, &from, &to)).fold(0.0, f64::max);
        assert!(share >= SHARE_MIN, "{share:.3} of what a polite sender offers passes");
    }
}

/// The least that any polite sender got through, of what it meant to.
fn worst_share(port: PortName, from: &[Node], to: &[Node]) -> f64 {
    let stop = AtomicBool::new(false);
    let received: Vec<_> = from.iter().map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for (number, node) in from.iter().enumerate() {
            let (near, far) = route(node, &to[number % to.len()], RouteForm::G2);
            let (_near_reader, mut writer) = near.apart();
            let (mut reader, _far_writer) = far.apart();
            let (stop, received) = (&stop, &received[number]);
            scope.spawn(move || {
                let _keep = _far_writer;
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(bytes @ 1..) = reader.read(&mut buffer) {
                    received.fetch_add(bytes as u64, Ordering::Relaxed);
                }
            });
            scope.spawn(move || {
                let _keep = _near_reader;
                match number {
                    0 => {
                        while !stop.load(Ordering::Relaxed) {
                            writer.write_all(&[0; 64 * 1024]).unwrap();
                        }
                    }
                    _ => offer(&mut *writer, stop),
                }
            });
        }
        // Everybody is under way.
        thread::sleep(Duration::from_millis(300));
        let count =
            || -> Vec<u64> { received.iter().map(|bytes| bytes.load(Ordering::Relaxed)).collect() };
        let (before, began) = (count(), Instant::now());
        thread::sleep(TIME);
        let (after, took) = (count(), began.elapsed().as_secs_f64());
        stop.store(true, Ordering::Relaxed);
        let offered = f64::from(OFFERS_PER_S) * OFFER_BYTES as f64 * took;
        let got = |number: usize| (after[number] - before[number]) as f64;
        let worst = (1..=POLITE).map(|number| got(number) / offered).fold(f64::MAX, f64::min);
        println!(
            "{}, {} destinations: greedy {:.1} MB/s, worst polite {worst:.3}",
            port.name(),
            to.len(),
            got(0) / took / 1e6
        );
        worst
    })
}

/// Writes at a steady pace, whatever the last write took.
fn offer(writer: &mut dyn Write, stop: &AtomicBool) {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        writer.write_all(&[1; OFFER_BYTES]).unwrap();
        next += Duration::from_secs(1) / OFFERS_PER_S;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

#[test]
fn quota_holds_for_sessions_and_pipes() {
    let _alone = alone();
    for (port, cores) in [(PortName::Epoll, 2), (PortName::IoUring, 1)] {
        if !port.is_given() {
            continue;
        }
        let key = secret_key().unwrap();
        let lines = ["rate = \"1MiB\"", "burst = \"64KiB\""];
        let settings = Settings::new(port, cores).with_peer(&key.identity(), &lines).quiet();
        let appliance = Appliance::start(&settings.running(fast_binary()));
        let options = LinkOptions::with_profile(Profile::P4);
        let paced = Node::dial_as(&appliance, key, &options);
        let core = appliance.core_of(&paced);
        for neighbour in 0..cores {
            let other = appliance.node_on(Profile::P4, neighbour);
            let (near, far) = route(&paced, &other, RouteForm::G2);
            let where_to = if neighbour == core { "same core" } else { "another core" };
            assert_rate(&format!("{}, session, {where_to}", port.name()), near, far);
        }
        let other = appliance.node(Profile::P4);
        let pool = other.idle(1, true);
        let (near, far) = connect(&paced, &other, &pool);
        assert_rate(&format!("{}, pipe", port.name()), near, far);
    }
}

/// Sends as fast as it goes; what arrives is the quota.
fn assert_rate(what: &str, near: impl Ends, far: impl Ends) {
    let (_near_reader, mut writer) = near.apart();
    let (mut reader, _far_writer) = far.apart();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                writer.write_all(&[5; 16 * 1024]).unwrap();
            }
        });
        let mut buffer = vec![0; 64 * 1024];
        let mut take = |time: Duration| {
            let (began, mut bytes) = (Instant::now(), 0);
            while began.elapsed() < time {
                bytes += reader.read(&mut buffer).unwrap() as u64;
            }
            bytes as f64 / began.elapsed().as_secs_f64()
        };
        // The burst and the buffers on the way fill first.
        take(Duration::from_secs(2));
        let rate = take(RATE_TIME) / RATE_BYTES_PER_S as f64;
        stop.store(true, Ordering::Relaxed);
        println!("{what}: {rate:.3} of the quota");
        // The writer may wait for room that only reading makes.
        while !writing.is_finished() {
            take(Duration::from_millis(10));
        }
        assert!((0.95..=1.05).contains(&rate), "{what}: {rate:.3} of the quota");
    });
}

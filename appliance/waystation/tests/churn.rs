//! Links that come and go, two hundred in a second, some with sessions, registrations and idle
//! connections, some without an end that anybody would call good. Nothing of them is left behind.
//!
//! Ordinary runs last five seconds; `WAYSTATION_TEST_LONG=1` asks for a minute.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where, one that passes says what it measured, and it may \
              look at the clock and pause"
)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::appliance::{Appliance, PortName, Settings};
use support::hand_link::connect;
use support::measure::{alone, long};
use support::nodes::Node;
use support::process::fast_binary;
use support::{STEP, eventually};
use waystation_astral::brontide::Initiator;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::Visibility;
use waystation_astral::identity::SecretKey;
use waystation_peer::{HandLink, IdlePool, Link, LinkOptions, PeerError, RouteForm, secret_key};

const LINKS_PER_S: usize = 200;
/// Threads that dial, each its share.
const WORKERS: usize = 8;
/// Before the first look at the memory.
const WARM_UP: Duration = Duration::from_secs(2);
const ORDINARY: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);
/// What may be kept that was not there after the warm-up: 4096 events, and what the allocator does
/// not give back. 600 bytes left of each link would be more than this after a minute.
const RESIDENT_MARGIN_BYTES: u64 = 6 << 20;
/// Identities of each worker, in turn: what the appliance remembers of an identity for a while is
/// there after the warm-up.
const IDENTITIES: usize = 24;
/// Targets that stay and echo.
const TARGETS: usize = 3;
const MESSAGE_BYTES: usize = 4096;
const WINDOW_BYTES: u32 = 65_536;

#[test]
fn nothing_is_left_of_links_that_come_and_go_over_io_uring_with_one_core() {
    churn(PortName::IoUring, 1);
}

#[test]
fn nothing_is_left_of_links_that_come_and_go_over_epoll_with_three_cores() {
    churn(PortName::Epoll, 3);
}

fn churn(port: PortName, cores: usize) {
    let _alone = alone();
    if !port.is_given() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(port, cores).quiet().running(fast_binary()));
    let descriptors = appliance.descriptors();
    let keys = || (0..IDENTITIES).map(|_| secret_key().unwrap()).collect::<Vec<_>>();
    let keys: Vec<_> = (0..WORKERS).map(|_| keys()).collect();
    for_so_long(&appliance, &keys, WARM_UP);
    let resident = settled(&appliance, descriptors);

    let (links, took) = for_so_long(&appliance, &keys, if long() { LONG } else { ORDINARY });
    let rate = links as f64 / took.as_secs_f64();
    let after = settled(&appliance, descriptors);
    println!(
        "{}, {cores} cores: {links} links, {rate:.0}/s, {} KiB before and {} KiB after",
        port.name(),
        resident / 1024,
        after / 1024
    );
    assert!(after <= resident + RESIDENT_MARGIN_BYTES, "{resident} bytes have become {after}");
    assert_eq!(appliance.total("reports_lost"), 0);
}

/// Waits until nothing of anybody is left; returns what the process then takes.
fn settled(appliance: &Appliance, descriptors: usize) -> u64 {
    appliance.wait_until_whole();
    appliance.wait_for_descriptors(descriptors);
    eventually("the gateway has forgotten everybody", || {
        let gateway = appliance.status()["gateway"].clone();
        let nothing = ["links", "registrations", "idle_sockets", "reservations"];
        nothing.iter().all(|name| gateway[*name] == 0).then_some(())
    });
    appliance.resident_bytes()
}

/// Churns; returns how many connections there were, and how long they took.
fn for_so_long(
    appliance: &Appliance,
    keys: &[Vec<SecretKey>],
    length: Duration,
) -> (usize, Duration) {
    let targets: Vec<_> = (0..TARGETS)
        .map(|target| appliance.node(Profile::ALL[target % Profile::ALL.len()]))
        .collect();
    let connections = AtomicUsize::new(0);
    let started = Instant::now();
    let until = started + length;
    let took = thread::scope(|scope| {
        for target in &targets {
            scope.spawn(|| echo_until_closed(&target.link));
        }
        let workers: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(worker, keys)| {
                let (targets, connections) = (&targets, &connections);
                scope.spawn(move || work(appliance, keys, targets, worker, until, connections))
            })
            .collect();
        let left_behind: Vec<_> =
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        let took = started.elapsed();
        for key in left_behind {
            let node = node(appliance, &key, Profile::P4);
            // Unless it has come again and done so itself.
            let outcome = node.link.unregister();
            assert!(matches!(outcome, Ok(()) | Err(PeerError::Refused { .. })), "{outcome:?}");
        }
        targets.iter().for_each(|target| target.link.close());
        took
    });
    (connections.into_inner(), took)
}

/// One worker's share of the links, at a steady pace. Returns the keys that stayed registered.
fn work(
    appliance: &Appliance,
    keys: &[SecretKey],
    targets: &[Node],
    worker: usize,
    until: Instant,
    connections: &AtomicUsize,
) -> Vec<SecretKey> {
    let pace = Duration::from_secs(1) * u32::try_from(WORKERS).unwrap()
        / u32::try_from(LINKS_PER_S).unwrap();
    let mut next = Instant::now() + pace * u32::try_from(worker).unwrap() / 8;
    let mut left_behind = Vec::new();
    let mut number = worker;
    while next < until {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next += pace;
        number += 1;
        connections.fetch_add(1, Ordering::Relaxed);
        let profile = Profile::ALL[number % Profile::ALL.len()];
        let key = &keys[number % keys.len()];
        match number % 8 {
            0 => with_a_session(appliance, key, &targets[number / 8 % TARGETS], profile),
            1 => with_an_idle_connection(appliance, key, profile),
            2 => left_behind.push(without_unregistering(appliance, key, profile)),
            3 => without_finishing(appliance),
            4 => cut_in_a_session(appliance, key, &targets[number / 8 % TARGETS], profile),
            5 => with_a_reservation_unused(appliance, key, profile),
            even => by_hand(appliance, key, profile, even == 6),
        }
    }
    left_behind
}

fn node(appliance: &Appliance, key: &SecretKey, profile: Profile) -> Node {
    Node::dial_as(appliance, key.duplicate(), &LinkOptions::with_profile(profile))
}

fn with_a_session(appliance: &Appliance, key: &SecretKey, target: &Node, profile: Profile) {
    let node = node(appliance, key, profile);
    let mut session = node.link.route_as(RouteForm::G2, &target.identity()).unwrap();
    session.set_read_timeout(Some(STEP));
    let message = [7; MESSAGE_BYTES];
    session.write_all(&message).unwrap();
    let mut echo = [0; MESSAGE_BYTES];
    session.read_exact(&mut echo).unwrap();
    assert_eq!(echo, message);
}

fn cut_in_a_session(appliance: &Appliance, key: &SecretKey, target: &Node, profile: Profile) {
    let node = node(appliance, key, profile);
    let mut session = node.link.route_as(RouteForm::G1, &target.identity()).unwrap();
    session.write_all(&[7; MESSAGE_BYTES]).unwrap();
    node.kill();
}

fn with_an_idle_connection(appliance: &Appliance, key: &SecretKey, profile: Profile) {
    let node = node(appliance, key, profile);
    let pool = node.idle(1, true);
    node.link.unregister().unwrap();
    drop(pool);
}

fn with_a_reservation_unused(appliance: &Appliance, key: &SecretKey, profile: Profile) {
    let node = node(appliance, key, profile);
    let pool = node.idle(1, false);
    eventually("an idle connection to reserve", || node.link.reserve(&node.identity()).ok());
    node.link.unregister().unwrap();
    drop(pool);
}

fn without_unregistering(appliance: &Appliance, key: &SecretKey, profile: Profile) -> SecretKey {
    let node = node(appliance, key, profile);
    let registration = node.link.register(Visibility::Public).unwrap();
    let pool = IdlePool::start(registration, 1, true).unwrap();
    pool.wait_idling(1, STEP).unwrap();
    node.key.duplicate()
}

fn without_finishing(appliance: &Appliance) {
    let (key, ephemeral) = (secret_key().unwrap(), secret_key().unwrap());
    let mut initiator = Initiator::new(&key, &appliance.identity, &ephemeral).unwrap();
    let mut stream = connect(appliance);
    stream.write_all(&initiator.act_one().unwrap()).unwrap();
    stream.read_exact(&mut [0; 50]).unwrap();
}

fn by_hand(appliance: &Appliance, key: &SecretKey, profile: Profile, negotiated: bool) {
    let stream = connect(appliance);
    let made = if negotiated {
        HandLink::<TcpStream>::dial(stream, key, &appliance.identity, profile)
    } else {
        HandLink::shake(stream, key, &appliance.identity, profile)
    };
    drop(made.unwrap());
}

/// Echoes one message of each session that is routed here.
fn echo_until_closed(link: &Link) {
    thread::scope(|scope| {
        while let Ok(mut session) = link.accept_route(WINDOW_BYTES, LONG + STEP) {
            scope.spawn(move || {
                session.set_read_timeout(Some(STEP));
                let mut message = [0; MESSAGE_BYTES];
                // The other side may be cut before it has sent or read its message.
                if session.read_exact(&mut message).is_ok() && session.write_all(&message).is_ok() {
                    let _ = session.read(&mut message);
                }
            });
        }
    });
}

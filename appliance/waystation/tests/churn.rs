//! Links that come and go, two hundred in a second, some with sessions, registrations and idle
//! connections, some without an end that anybody would call good, each of somebody who was never
//! seen before. Nothing of them is left behind.
//!
//! What the appliance remembers on purpose (accounts, events, queries of a moment ago) has a bound.
//! All of it is filled first, so that from then on whatever grows is a leak. Ordinary runs last a
//! few seconds; `WAYSTATION_TEST_LONG=1` asks for a minute.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that fails says where, one that passes says what it measured, and it may \
              look at the clock and pause"
)]

mod support;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
use waystation_management::gateway::limits::RECENT_QUERIES_MAX;
use waystation_management::limits::{ACCOUNTS_KEPT_MIN, EVENTS_KEPT_MAX};
use waystation_peer::{HandLink, IdlePool, Link, LinkOptions, RouteForm, secret_key};

const LINKS_PER_S: u32 = 200;
/// Threads that dial, each its share.
const WORKERS: u32 = 8;
const ORDINARY: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);
/// What may be there that was not there before, because the allocator does not give back all at
/// once: so much anyway, and so much for each link.
const RESIDENT_MARGIN_BYTES: u64 = 384 * 1024;
const LINK_MARGIN_BYTES: u64 = 32;
/// Registrations that each worker leaves behind before it takes the oldest of them back.
const LEFT_BEHIND_MAX: usize = 4;
/// Targets that stay and echo.
const TARGETS: usize = 3;
const MESSAGE_BYTES: usize = 4096;
const WINDOW_BYTES: u32 = 65_536;
/// Timers of connections that have ended are left until they would have been due: not for long.
const TIMEOUTS: [(&str, &str); 5] = [
    ("relay", "handshake_timeout = \"3s\""),
    ("relay", "ping_interval = \"3s\""),
    ("relay", "ping_timeout = \"5s\""),
    ("gateway", "idle_ping_interval = \"1s\""),
    ("gateway", "idle_dead_after = \"3s\""),
];

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
    let mut settings = Settings::new(port, cores).quiet().running(fast_binary());
    settings = settings.with("limits", &format!("accounts_kept_max = {ACCOUNTS_KEPT_MIN}"));
    for (section, line) in TIMEOUTS {
        settings = settings.with(section, line);
    }
    // An ordinary user may count the descriptors of a process only if it may be looked into.
    settings = settings.with("privileges", "core_dumps = true");
    let appliance = Appliance::start(&settings);
    let descriptors = appliance.descriptors();
    fill(&appliance);
    let resident = settled(&appliance, descriptors);

    let (links, took) = for_so_long(&appliance, if long() { LONG } else { ORDINARY });
    let rate = links as f64 / took.as_secs_f64();
    let after = settled(&appliance, descriptors);
    println!(
        "{}, {cores} cores: {links} links, {rate:.0}/s, {} KiB before and {} KiB after",
        port.name(),
        resident / 1024,
        after / 1024
    );
    let margin = RESIDENT_MARGIN_BYTES + LINK_MARGIN_BYTES * links as u64;
    assert!(after <= resident + margin, "{resident} bytes have become {after}");
    assert_eq!(appliance.total("reports_lost"), 0);
    eventually("no timer is left", || (appliance.total("timers") == 0).then_some(()));
}

/// Fills whatever has a bound.
fn fill(appliance: &Appliance) {
    let is_full = || {
        metric(appliance, "waystation_events_total") >= EVENTS_KEPT_MAX as u64
            && metric(appliance, "waystation_identities") >= ACCOUNTS_KEPT_MIN as u64
            && appliance.status()["gateway"]["recent_queries"] == RECENT_QUERIES_MAX
    };
    let full = AtomicBool::new(false);
    let until = Instant::now() + STEP;
    let goes_on = || !full.load(Ordering::Relaxed) && Instant::now() < until;
    thread::scope(|scope| {
        scope.spawn(|| {
            let asking = appliance.node(Profile::P0);
            while goes_on() {
                asking.link.list_registered().unwrap();
            }
        });
        scope.spawn(|| come_and_go(appliance, Duration::ZERO, goes_on));
        eventually("everything is full", || is_full().then_some(()));
        full.store(true, Ordering::Relaxed);
    });
}

fn metric(appliance: &Appliance, name: &str) -> u64 {
    let text = String::from_utf8(appliance.ask("/metrics").unwrap()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
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
    assert_eq!(metric(appliance, "waystation_identities"), ACCOUNTS_KEPT_MIN as u64);
    appliance.resident_bytes()
}

/// Churns at the steady rate; returns how many connections there were, and how long they took.
fn for_so_long(appliance: &Appliance, length: Duration) -> (usize, Duration) {
    let until = Instant::now() + length;
    let pace = Duration::from_secs(1) * WORKERS / LINKS_PER_S;
    come_and_go(appliance, pace, || Instant::now() < until)
}

/// Churns for as long as `goes_on`, each worker at this pace; returns how many connections there
/// were, and how long they took.
fn come_and_go(
    appliance: &Appliance,
    pace: Duration,
    goes_on: impl Fn() -> bool + Sync,
) -> (usize, Duration) {
    let targets: Vec<_> = (0..TARGETS)
        .map(|target| appliance.node(Profile::ALL[target % Profile::ALL.len()]))
        .collect();
    let connections = AtomicUsize::new(0);
    let started = Instant::now();
    let took = thread::scope(|scope| {
        for target in &targets {
            scope.spawn(|| echo_until_closed(&target.link));
        }
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let (targets, connections, goes_on) = (&targets, &connections, &goes_on);
                let mut worker = Worker { appliance, targets, left_behind: VecDeque::new() };
                scope.spawn(move || worker.run(number, pace, goes_on, connections))
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        let took = started.elapsed();
        targets.iter().for_each(|target| target.link.close());
        took
    });
    (connections.into_inner(), took)
}

/// One thread's share of the links.
struct Worker<'a> {
    appliance: &'a Appliance,
    targets: &'a [Node],
    /// Keys of nodes that are gone and still registered, oldest first.
    left_behind: VecDeque<SecretKey>,
}

impl Worker<'_> {
    /// One link after the other at a steady pace, and in the end everything is taken back.
    fn run(
        &mut self,
        number: u32,
        pace: Duration,
        goes_on: impl Fn() -> bool,
        connections: &AtomicUsize,
    ) {
        let mut next = Instant::now() + pace * number / WORKERS;
        let mut number = number as usize;
        while goes_on() {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next += pace;
            number += 1;
            connections.fetch_add(1, Ordering::Relaxed);
            self.make_a_link(number);
            self.take_back(LEFT_BEHIND_MAX);
        }
        self.take_back(0);
    }

    fn make_a_link(&mut self, number: usize) {
        let appliance = self.appliance;
        let profile = Profile::ALL[number % Profile::ALL.len()];
        let target = &self.targets[number / 8 % TARGETS];
        match number % 8 {
            0 => with_a_session(appliance, target, profile),
            1 => with_an_idle_connection(appliance, profile),
            2 => self.left_behind.push_back(without_unregistering(appliance, profile)),
            3 => without_finishing(appliance),
            4 => cut_in_a_session(appliance, target, profile),
            5 => with_a_reservation_unused(appliance, profile),
            even => by_hand(appliance, profile, even == 6),
        }
    }

    /// Unregisters those that have stayed behind the longest, until there are no more than `most`.
    fn take_back(&mut self, most: usize) {
        while self.left_behind.len() > most
            && let Some(key) = self.left_behind.pop_front()
        {
            let options = LinkOptions::with_profile(Profile::P4);
            Node::dial_as(self.appliance, key, &options).link.unregister().unwrap();
        }
    }
}

fn with_a_session(appliance: &Appliance, target: &Node, profile: Profile) {
    let node = appliance.node(profile);
    let mut session = node.link.route_as(RouteForm::G2, &target.identity()).unwrap();
    session.set_read_timeout(Some(STEP));
    let message = [7; MESSAGE_BYTES];
    session.write_all(&message).unwrap();
    let mut echo = [0; MESSAGE_BYTES];
    session.read_exact(&mut echo).unwrap();
    assert_eq!(echo, message);
}

fn cut_in_a_session(appliance: &Appliance, target: &Node, profile: Profile) {
    let node = appliance.node(profile);
    let mut session = node.link.route_as(RouteForm::G1, &target.identity()).unwrap();
    session.write_all(&[7; MESSAGE_BYTES]).unwrap();
    node.kill();
}

fn with_an_idle_connection(appliance: &Appliance, profile: Profile) {
    let node = appliance.node(profile);
    let pool = node.idle(1, true);
    node.link.unregister().unwrap();
    drop(pool);
}

fn with_a_reservation_unused(appliance: &Appliance, profile: Profile) {
    let node = appliance.node(profile);
    let pool = node.idle(1, false);
    eventually("an idle connection to reserve", || node.link.reserve(&node.identity()).ok());
    node.link.unregister().unwrap();
    drop(pool);
}

fn without_unregistering(appliance: &Appliance, profile: Profile) -> SecretKey {
    let node = appliance.node(profile);
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

fn by_hand(appliance: &Appliance, profile: Profile, negotiated: bool) {
    let (key, stream) = (secret_key().unwrap(), connect(appliance));
    let made = if negotiated {
        HandLink::<TcpStream>::dial(stream, &key, &appliance.identity, profile)
    } else {
        HandLink::shake(stream, &key, &appliance.identity, profile)
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

//! Much of everything through one appliance: short queries by the thousand on one inner link, and
//! bulk, through the links of a gateway and through its raw pipes.
//!
//! Ordinary runs are scaled down to what an unoptimised build does in seconds;
//! `WAYSTATION_TEST_LONG=1` or `WAYSTATION_TEST_REQUIRE=all` asks for the whole.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::io::{Read, Write};
use std::thread;
use support::STEP;
use support::appliance::{Appliance, PortName, Settings};
use support::nodes::{Node, connect, route};
use support::process::fast_binary;
use support::streams::exchange;
use waystation_astral::frame::Profile;
use waystation_peer::{Duplex, Link, LinkOptions, RouteForm};

const WHOLE: Volume = Volume { queries: 100_000, bulk_bytes: 1 << 30 };
const SCALED_DOWN: Volume = Volume { queries: 2_000, bulk_bytes: 16 << 20 };
/// Queries under way at a time, each by a thread of its own.
const ASKING: usize = 8;
/// What a query carries there and back.
const MESSAGE_BYTES: usize = 64;
const WINDOW_BYTES: u32 = 65_536;

#[derive(Clone, Copy, Debug)]
struct Volume {
    queries: usize,
    /// In each direction.
    bulk_bytes: usize,
}

fn volume() -> Volume {
    let long = std::env::var_os("WAYSTATION_TEST_LONG").is_some_and(|value| value == "1");
    if long || support::required() { WHOLE } else { SCALED_DOWN }
}

#[test]
fn much_of_everything_over_io_uring_with_one_core() {
    much(PortName::IoUring, 1);
}

#[test]
fn much_of_everything_over_epoll_with_three_cores() {
    much(PortName::Epoll, 3);
}

fn much(port: PortName, cores: usize) {
    if !port.is_given() {
        return;
    }
    let settings = Settings::new(port, cores).running(fast_binary());
    let appliance = Appliance::start(&settings);
    let caller = appliance.node_on(Profile::P4, 0);
    let target = appliance.node_on(Profile::P0, cores - 1);
    let idle = target.idle(1, true);
    let Volume { queries, bulk_bytes } = volume();

    let (near, far) = route(&caller, &target, RouteForm::G2);
    short_queries("through a session", (&caller, near), (&target, far), queries);
    let (near, far) = connect(&caller, &target, &idle);
    short_queries("through a pipe", (&caller, near), (&target, far), queries);

    let (near, far) = route(&caller, &target, RouteForm::G1);
    exchange("bulk through a session", near, far, bulk_bytes);
    let (near, far) = connect(&caller, &target, &idle);
    exchange("bulk through a pipe", near, far, bulk_bytes);

    let joined = appliance.total("same_core_bytes") + appliance.total("cross_core_bytes");
    assert!(joined >= 2 * bulk_bytes as u64);
    assert!(appliance.total("pipe_bytes") >= 2 * bulk_bytes as u64);
    drop((idle, caller, target));
    appliance.wait_until_whole();
}

/// Asks so many queries on one link between two nodes that runs inside a pipe. Each carries a
/// message of its own there and back.
fn short_queries(
    what: &str,
    (caller, near): (&Node, impl Duplex),
    (target, far): (&Node, impl Duplex + Send + 'static),
    queries: usize,
) {
    let options = LinkOptions::with_profile(Profile::P4);
    let (key, accepting_options) = (target.key.duplicate(), options.clone());
    let accepting =
        thread::spawn(move || Link::accept_over(far, &key, &accepting_options).unwrap());
    let asking = Link::dial_over(near, &caller.key, &target.identity(), &options).unwrap();
    let asked = accepting.join().unwrap();
    assert_eq!(asked.remote(), caller.identity(), "{what}: end to end");
    let answering: Vec<_> = (0..ASKING)
        .map(|_| {
            let asked = asked.clone();
            thread::spawn(move || answer(&asked))
        })
        .collect();
    let askers: Vec<_> = (0..ASKING)
        .map(|asker| {
            let asking = asking.clone();
            let share = (asker..queries).step_by(ASKING);
            thread::spawn(move || share.map(|number| ask(&asking, number)).count())
        })
        .collect();
    let answered: usize = askers.into_iter().map(|asker| asker.join().unwrap()).sum();
    assert_eq!(answered, queries, "{what}");
    asking.close();
    let served: usize = answering.into_iter().map(|answering| answering.join().unwrap()).sum();
    assert_eq!(served, queries, "{what}");
}

/// One query with one message there and back.
fn ask(link: &Link, number: usize) {
    let mut session = link.query(&format!("echo.{number}")).unwrap();
    session.set_read_timeout(Some(STEP));
    let message = [(number % 251) as u8; MESSAGE_BYTES];
    session.write_all(&message).unwrap();
    let mut echo = [0; MESSAGE_BYTES];
    session.read_exact(&mut echo).unwrap();
    assert_eq!(echo, message, "query {number}");
}

/// Echoes until the link ends; returns how many.
fn answer(link: &Link) -> usize {
    let mut served = 0;
    while let Ok(query) = link.accept(STEP) {
        assert!(query.query().starts_with(b"echo."));
        let mut session = query.accept(WINDOW_BYTES).unwrap();
        session.set_read_timeout(Some(STEP));
        let mut message = [0; MESSAGE_BYTES];
        session.read_exact(&mut message).unwrap();
        session.write_all(&message).unwrap();
        served += 1;
    }
    served
}

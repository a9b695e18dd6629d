//! Thousands of links that say nothing: what each takes of the appliance's memory, that they do
//! not slow down those that talk, and that all of it comes back.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails says where, and one that passes says what it measured"
)]

mod support;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use support::appliance::{Appliance, PortName, Settings};
use support::hand_link::connect;
use support::measure::{Pair, alone, measure};
use support::process::fast_binary;
use waystation_astral::frame::{Frame, Profile};
use waystation_peer::{Got, HandLink, secret_key};

/// Both ends of each are descriptors; one process has 20 000 on a small machine.
const LINKS: usize = 5_000;
/// Threads that dial.
const DIALERS: usize = 4;
/// What a link without traffic may take of the appliance's memory.
const LINK_BYTES_MAX: u64 = 16 * 1024;
/// Links that come and go before the first look at the memory.
const WARM_UP_LINKS: usize = 400;
/// Links that have to answer at the end: every so many-th.
const SAMPLE_EVERY: usize = 50;

#[test]
fn idle_links_take_little_memory_over_io_uring() {
    hold(PortName::IoUring);
}

#[test]
fn idle_links_take_little_memory_over_epoll() {
    hold(PortName::Epoll);
}

fn hold(port: PortName) {
    let _alone = alone();
    if !port.is_given() {
        return;
    }
    let settings = Settings::new(port, 1)
        .with("relay", "ping_interval = \"1h\"")
        .with("relay", "ping_timeout = \"1h\"")
        // An ordinary user may count the descriptors of a process only if it may be looked into.
        .with("privileges", "core_dumps = true")
        .running(fast_binary());
    let appliance = Appliance::start(&settings);
    drop(dial(&appliance, WARM_UP_LINKS));
    appliance.wait_until_whole();
    let (resident, descriptors) = (appliance.resident_bytes(), appliance.descriptors());

    let mut links = dial(&appliance, LINKS);
    assert_eq!(appliance.total("links_open"), LINKS as u64);
    let grown = appliance.resident_bytes().saturating_sub(resident);
    let each = grown / LINKS as u64;
    println!("{}: {each} bytes for each of {LINKS} links", port.name());
    assert!(each <= LINK_BYTES_MAX, "{each} bytes per link");
    let said = appliance.status()["memory"]["link_state_bytes_per_link"].as_u64().unwrap();
    println!("{}: {said} bytes of state for each, as it says itself", port.name());
    assert!((1..=LINK_BYTES_MAX).contains(&said), "{said} bytes per link");

    // Too many for one turn of the core, each of them once.
    let listing = appliance.document("/v1/links?limit=50000");
    let listed =
        listing["links"].as_array().unwrap().iter().map(|row| row["link"].as_str().unwrap());
    assert_eq!(listed.collect::<BTreeSet<_>>().len(), LINKS);
    assert_eq!(listing["total"], LINKS);

    let mut talking = [Pair::new(&appliance)];
    let waits = measure(&mut talking, Duration::from_millis(300));
    println!("{}: two nodes talk beside them: {waits:?}", port.name());
    drop(talking);

    for link in links.iter_mut().step_by(SAMPLE_EVERY) {
        link.send(&Frame::Ping { nonce: 7, pong: false }).unwrap();
        assert_eq!(link.receive().unwrap(), Got::Ping { nonce: 7, pong: true });
    }
    drop(links);
    appliance.wait_until_whole();
    appliance.wait_for_descriptors(descriptors);
}

/// Links of every profile in turn, none of which says anything.
fn dial(appliance: &Appliance, links: usize) -> Vec<HandLink<TcpStream>> {
    let one = |number: usize| {
        let profile = Profile::ALL[number % Profile::ALL.len()];
        let (stream, key) = (connect(appliance), secret_key().unwrap());
        let mut link = HandLink::dial(stream, &key, &appliance.identity, profile).unwrap();
        link.send(&Frame::Ping { nonce: 1, pong: false }).unwrap();
        while link.receive().unwrap() != (Got::Ping { nonce: 1, pong: true }) {}
        link
    };
    thread::scope(|scope| {
        let dialers: Vec<_> = (0..DIALERS)
            .map(|dialer| {
                let share = (dialer..links).step_by(DIALERS);
                scope.spawn(move || share.map(one).collect::<Vec<_>>())
            })
            .collect();
        dialers.into_iter().flat_map(|dialer| dialer.join().unwrap()).collect()
    })
}

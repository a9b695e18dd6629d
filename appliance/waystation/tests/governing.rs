//! What a running appliance lets links do: how long they may be idle, how many there may be after
//! a reload; and what a service manager hears of the reload.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use support::appliance::{Appliance, PortName, Settings};
use support::hand_link::connect;
use support::nodes::Node;
use support::process::{binary, command};
use support::{STEP, eventually};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_astral::identity::SecretKey;
use waystation_peer::{Link, LinkOptions, RouteForm, Way, secret_key};

/// Within a test's time, a link without sessions is looked at often enough.
const PINGS: &str = "ping_interval = \"1s\"";

fn settings() -> Settings {
    Settings::new(PortName::Epoll, 2)
}

/// The events of this kind so far, oldest first.
fn events(appliance: &Appliance, kind: &str) -> Vec<Value> {
    let text = String::from_utf8(appliance.ask("/v1/events?after=0").unwrap()).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|event| event["kind"] == kind).collect()
}

/// Waits for so many events of this kind, and no more.
fn wait_for_events(appliance: &Appliance, kind: &str, count: usize) -> Vec<Value> {
    let found = eventually(&format!("{count} events {kind}"), || {
        Some(events(appliance, kind)).filter(|events| events.len() >= count)
    });
    assert_eq!(found.len(), count, "{found:?}");
    found
}

/// Puts another configuration in force, the `count`-th since the start.
fn reload(appliance: &Appliance, settings: &Settings, count: usize) -> Value {
    fs::write(appliance.directory.path().join("waystation.toml"), settings.text()).unwrap();
    appliance.process.signal(Signal::HUP);
    wait_for_events(appliance, "config_reloaded", count).pop().unwrap()
}

fn node_of(appliance: &Appliance, key: &SecretKey) -> Node {
    Node::dial_as(appliance, key.duplicate(), &LinkOptions::with_profile(Profile::P4))
}

/// Dials one link more than there may be, and waits until it is refused as the `count`-th.
fn expect_refusal(appliance: &Appliance, key: &SecretKey, limit: &str, count: usize) {
    let options = LinkOptions::with_profile(Profile::P4);
    // The appliance knows whose it is only at the end of the negotiation, so it may come up.
    let refused = Link::dial_over(connect(appliance), key, &appliance.identity, &options);
    let event = wait_for_events(appliance, "limit_reached", count).pop().unwrap();
    assert_eq!(event["limit"], limit);
    assert_eq!(event["identity"], key.identity().to_string());
    eventually("the refused link is counted", || {
        (appliance.drops()["too_many_links"] == count as u64).then_some(())
    });
    if let Ok(link) = refused {
        assert!(link.ping(STEP).is_err(), "the refused link works");
    }
}

fn wait_for_links(appliance: &Appliance, count: u64) {
    eventually(&format!("{count} links"), || {
        (appliance.total("links_open") == count).then_some(())
    });
}

#[test]
fn idle_link_is_closed_and_those_of_registered_subscribed_and_peer_nodes_are_kept() {
    let peer_key = secret_key().unwrap();
    let settings = settings()
        .with("limits", "link_idle_timeout = \"10s\"")
        .with("relay", PINGS)
        .with_peer(&peer_key.identity(), &[]);
    let appliance = Appliance::start(&settings);
    let peer = node_of(&appliance, &peer_key);
    let registered = appliance.node(Profile::P4);
    let _pool = registered.idle(1, true);
    let subscribed = appliance.node(Profile::P0);
    subscribed.link.subscribe().unwrap();
    // It has been idle for less time than any of the others.
    let idle = appliance.node(Profile::P2);
    let closed = wait_for_events(&appliance, "link_down", 1).pop().unwrap();
    assert_eq!(closed["reason"], "link_idle");
    assert_eq!(closed["identity"], idle.identity().to_string());
    assert!(closed["age_ms"].as_u64().unwrap() >= 10_000, "{closed}");
    assert!(idle.link.ping(STEP).is_err());
    for (kept, what) in [(&peer, "peer"), (&registered, "registered"), (&subscribed, "subscribed")]
    {
        assert!(kept.link.ping(STEP).is_ok(), "the link of the {what} node is gone");
    }
    assert_eq!(events(&appliance, "link_down").len(), 1);
    assert_eq!(appliance.drops()["link_idle"], 1);
    wait_for_links(&appliance, 3);
}

/// Microseconds of the clock that the service manager compares with.
fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000 + u64::try_from(now.tv_nsec).unwrap() / 1000
}

/// The assignments of the next datagram that is more than a line about what is carried.
fn next_told(manager: &UnixDatagram) -> Vec<String> {
    loop {
        let mut datagram = [0; 4096];
        let bytes = manager.recv(&mut datagram).unwrap();
        let text = std::str::from_utf8(&datagram[..bytes]).unwrap();
        if !text.starts_with("STATUS=") {
            return text.lines().map(str::to_owned).collect();
        }
    }
}

/// A reload as the service manager hears of it, which has begun after this time.
fn expect_reload_told(manager: &UnixDatagram, after_us: u64) {
    let begun = next_told(manager);
    let [reloading, time] = &begun[..] else { panic!("not two assignments: {begun:?}") };
    assert_eq!(reloading, "RELOADING=1");
    let time_us: u64 = time.strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
    assert_eq!(next_told(manager), ["READY=1"]);
    assert!((after_us..=monotonic_us()).contains(&time_us), "{time_us} after {after_us}");
}

#[test]
fn service_manager_is_told_of_the_start_and_of_every_reload() {
    let directory = TempDir::new().unwrap();
    let told = directory.path().join("notify");
    let manager = UnixDatagram::bind(&told).unwrap();
    manager.set_read_timeout(Some(STEP)).unwrap();
    let appliance = start_told(directory, &told);
    assert_eq!(next_told(&manager), ["READY=1"]);

    let begun_us = monotonic_us();
    reload(&appliance, &settings().with("limits", "links_per_identity_max = 7"), 1);
    expect_reload_told(&manager, begun_us);

    // One that changes nothing for want of a file that holds has an end as well.
    let begun_us = monotonic_us();
    fs::write(appliance.directory.path().join("waystation.toml"), "[limits]\nx = 1\n").unwrap();
    appliance.process.signal(Signal::HUP);
    expect_reload_told(&manager, begun_us);
    wait_for_events(&appliance, "config_refused", 1);
    // And there is nothing else to be told.
    manager.set_nonblocking(true).unwrap();
    let mut datagram = [0; 64];
    let nothing = loop {
        match manager.recv(&mut datagram) {
            Ok(_) => assert!(datagram.starts_with(b"STATUS="), "{datagram:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
}

/// An appliance under a service manager that listens at this path.
fn start_told(directory: TempDir, told: &Path) -> Appliance {
    let file = directory.path().join("waystation.toml");
    fs::write(&file, settings().text()).unwrap();
    let state = directory.path().join("state");
    let mut command = command(&binary());
    command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
    Appliance::spawn(command.env("NOTIFY_SOCKET", told), directory, &state)
}

#[test]
fn lowered_cap_of_an_identity_leaves_its_old_links_and_refuses_new_ones() {
    let appliance = Appliance::start(&settings());
    let key = secret_key().unwrap();
    let (one, two) = (node_of(&appliance, &key), node_of(&appliance, &key));
    let lowered = settings().with("limits", "links_per_identity_max = 1");
    let reloaded = reload(&appliance, &lowered, 1);
    assert_eq!(reloaded["changed"][0], "limits.links_per_identity_max");
    expect_refusal(&appliance, &key, "links_per_identity_max", 1);
    one.link.ping(STEP).unwrap();
    two.link.ping(STEP).unwrap();
    // It is the identity's cap: another one has its own.
    let _other = appliance.node(Profile::P4);
    // One link is still as many as there may be; none makes room.
    two.kill();
    wait_for_links(&appliance, 2);
    expect_refusal(&appliance, &key, "links_per_identity_max", 2);
    one.kill();
    wait_for_links(&appliance, 1);
    let again = node_of(&appliance, &key);
    again.link.ping(STEP).unwrap();
    wait_for_links(&appliance, 2);
}

#[test]
fn lowered_caps_of_networks_leave_old_links_and_refuse_new_ones() {
    let appliance = Appliance::start(&settings());
    let (one, two) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
    let inside = |node: &Node| {
        let (way, options) = (Way::Route(RouteForm::G2), LinkOptions::with_profile(Profile::P4));
        node.link.dial_through(way, &node.key, &appliance.identity, &options)
    };
    let old_inner = inside(&one).unwrap();
    old_inner.ping(STEP).unwrap();

    // Connections are full, links inside of links are not.
    reload(&appliance, &settings().with("limits", "tcp_links_max = 1"), 1);
    expect_refusal(&appliance, &secret_key().unwrap(), "tcp_links_max", 1);
    one.link.ping(STEP).unwrap();
    two.link.ping(STEP).unwrap();
    let second_inner = inside(&two).unwrap();
    second_inner.ping(STEP).unwrap();

    // The other way round.
    reload(&appliance, &settings().with("limits", "gw_links_max = 0"), 2);
    let refused = inside(&two);
    let event = wait_for_events(&appliance, "limit_reached", 2).pop().unwrap();
    assert_eq!(event["limit"], "gw_links_max");
    assert!(refused.map_or(true, |link| link.ping(STEP).is_err()), "the refused link works");
    old_inner.ping(STEP).unwrap();
    second_inner.ping(STEP).unwrap();
    two.link.ping(STEP).unwrap();
    let three = appliance.node(Profile::P4);

    // One of each network for everybody, where there is one already.
    reload(&appliance, &settings().with("limits", "links_per_identity_and_network_max = 1"), 3);
    expect_refusal(&appliance, &three.key, "links_per_identity_and_network_max", 3);
    inside(&three).unwrap().ping(STEP).unwrap();
    three.link.ping(STEP).unwrap();
}

//! Links inside sessions and pipes: between two nodes, end to end, and to the appliance itself. Every
//! profile inside every profile and way, with bulk through the link inside.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::thread;
use support::STEP;
use support::appliance::{Appliance, PortName, Settings};
use support::nodes::{Node, WINDOW_BYTES};
use support::streams::exchange;
use waystation_astral::frame::Profile;
use waystation_peer::{IdlePool, Link, LinkOptions, RouteForm, Way};

/// Payload each way: more than a window.
const TRANSFER_BYTES: usize = (1 << 20) + 300_001;
const QUERY: &str = "test.inside";
const ROUTES: [Way; 2] = [Way::Route(RouteForm::G1), Way::Route(RouteForm::G2)];

#[test]
fn nodes_link_end_to_end_through_every_way_over_io_uring() {
    end_to_end(PortName::IoUring, 1);
}

#[test]
fn nodes_link_end_to_end_through_every_way_over_epoll() {
    end_to_end(PortName::Epoll, 3);
}

#[test]
fn nodes_link_to_the_appliance_inside_their_links_over_io_uring() {
    inside(PortName::IoUring, 1);
}

#[test]
fn nodes_link_to_the_appliance_inside_their_links_over_epoll() {
    inside(PortName::Epoll, 3);
}

fn end_to_end(port: PortName, cores: usize) {
    if !port.is_given() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(port, cores));
    for outer in Profile::ALL {
        let (caller, target) = (appliance.node(outer), appliance.node(outer));
        let pool = target.idle(1, outer == Profile::P0);
        for inner in Profile::ALL {
            for way in [Way::Socket, ROUTES[0], ROUTES[1]] {
                let options = LinkOptions::with_profile(inner);
                let what = format!("{inner} through {way:?} of {outer}");
                let (near, far) = link_through(way, &caller, &target, &pool, &options);
                assert_eq!((near.remote(), far.remote()), (target.identity(), caller.identity()));
                carry(&what, &near, &far, |link| link.query(QUERY).unwrap());
            }
        }
        drop(pool);
    }
    appliance.wait_until_whole();
}

fn link_through(
    way: Way,
    caller: &Node,
    target: &Node,
    pool: &IdlePool,
    options: &LinkOptions,
) -> (Link, Link) {
    pool.wait_idling(1, STEP).unwrap();
    thread::scope(|scope| {
        let accepting = scope.spawn(|| match way {
            Way::Socket => Link::accept_over(pool.accept(STEP).unwrap(), &target.key, options),
            Way::Route(_) => {
                let pipe = target.link.accept_route(WINDOW_BYTES, STEP).unwrap();
                Link::accept_over(pipe, &target.key, options)
            }
        });
        let near = support::eventually("a way to the target", || {
            caller.link.dial_through(way, &caller.key, &target.identity(), options).ok()
        });
        (near, accepting.join().unwrap().unwrap())
    })
}

fn inside(port: PortName, cores: usize) {
    if !port.is_given() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(port, cores));
    let target = appliance.node(Profile::P4);
    for outer in Profile::ALL {
        let caller = appliance.node(outer);
        for inner in Profile::ALL {
            for way in ROUTES {
                let options = LinkOptions::with_profile(inner);
                let identity = &appliance.identity;
                let what = format!("{inner} to the appliance through {way:?} of {outer}");
                let near = caller.link.dial_through(way, &caller.key, identity, &options).unwrap();
                carry(&what, &near, &target.link, |link| {
                    link.query_relayed(&target.identity(), QUERY).unwrap()
                });
            }
        }
    }
    drop(target);
    appliance.wait_until_whole();
}

/// One session over a link, with bytes both ways.
fn carry(
    what: &str,
    asking: &Link,
    asked: &Link,
    ask: impl FnOnce(&Link) -> waystation_peer::Session,
) {
    let link = asked.clone();
    let accepting = thread::spawn(move || link.accept(STEP).unwrap().accept(WINDOW_BYTES).unwrap());
    let near = ask(asking);
    exchange(what, near, accepting.join().unwrap(), TRANSFER_BYTES);
}

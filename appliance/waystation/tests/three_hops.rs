//! Two appliances in a row: a node of the first reaches a node that only the second has a link to,
//! in each of the ways there are. Every byte is verified, both ways.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::thread;
use support::appliance::{Appliance, PortName, Settings};
use support::nodes::{Node, WINDOW_BYTES, relay, route};
use support::streams::exchange;
use support::{STEP, eventually};
use waystation_astral::frame::Profile;
use waystation_astral::identity::SecretKey;
use waystation_peer::{Link, LinkOptions, RouteForm, Way, secret_key};

/// Payload each way: more than a window.
const TRANSFER_BYTES: usize = (1 << 20) + 300_001;
const QUERY: &str = "test.far?hops=3";

/// The first appliance, which dials the second.
struct Row {
    near: Appliance,
    far: Appliance,
}

impl Row {
    /// Starts both and waits for the link between them.
    fn start(adapt: impl FnOnce(Settings, &Appliance) -> Settings) -> Self {
        let key = secret_key().unwrap();
        let settings = Settings::new(PortName::Epoll, 3)
            .with_peer(&key.identity(), &["trusted = true", "forwards = true"]);
        let far = Appliance::start(&settings);
        let endpoint = format!("endpoints = [\"tcp:{}\"]", far.address);
        let settings = Settings::new_auto(1)
            .with_key(&key)
            .with_peer(&far.identity, &[&endpoint, "forwards = true"]);
        let near = Appliance::start(&adapt(settings, &far));
        eventually("the appliances are linked", || {
            let row = far.link_row(&near.identity);
            row.and(near.link_row(&far.identity))
        });
        Self { near, far }
    }
}

#[test]
fn relayed_query_reaches_a_node_of_the_next_appliance() {
    let row = Row::start(|settings, _| settings);
    for caller in Profile::ALL {
        for target in Profile::ALL {
            let what = format!("{caller} asks {target} two appliances away");
            let (caller, target) = (row.near.node(caller), row.far.node(target));
            let (near, far, seen) = relay(&caller, &target, QUERY);
            assert_eq!(seen.query, QUERY.as_bytes(), "{what}");
            if target.link.profile() == Profile::P4 {
                let named = (seen.caller, seen.target);
                assert_eq!(named, (caller.identity(), target.identity()), "{what}");
            }
            exchange(&what, near, far, TRANSFER_BYTES);
        }
    }
}

#[test]
fn gateway_route_reaches_a_node_of_the_next_appliance() {
    let row = Row::start(|settings, _| settings);
    for form in [RouteForm::G1, RouteForm::G2] {
        let (caller, target) = (row.near.node(Profile::P4), row.far.node(Profile::P0));
        let (near, far) = route(&caller, &target, form);
        exchange(&format!("{form:?} over two appliances"), near, far, TRANSFER_BYTES);
    }
}

#[test]
fn node_links_to_the_next_appliance_through_the_first() {
    let row = Row::start(|settings, _| settings);
    let target = row.far.node(Profile::P4);
    for form in [RouteForm::G1, RouteForm::G2] {
        for profile in Profile::ALL {
            let outer = row.near.node(Profile::P4);
            let options = LinkOptions { trusts_relay: true, ..LinkOptions::with_profile(profile) };
            let inner =
                outer.link.dial_through(Way::Route(form), &outer.key, &row.far.identity, &options);
            let inner = inner.unwrap();
            assert_eq!(inner.remote(), row.far.identity);
            inner.ping(STEP).unwrap();
            let link = target.link.clone();
            let accepting =
                thread::spawn(move || link.accept(STEP).unwrap().accept(WINDOW_BYTES).unwrap());
            let near = inner.query_relayed(&target.identity(), QUERY).unwrap();
            let far = accepting.join().unwrap();
            let what = format!("{profile} inside {form:?} to the next appliance");
            exchange(&what, near, far, TRANSFER_BYTES);
        }
    }
}

#[test]
fn appliance_keeps_a_link_to_a_node_behind_the_next_one() {
    let key = secret_key().unwrap();
    let row = Row::start(|settings, far| {
        let endpoint = format!("endpoints = [\"gw:{}:{}\"]", far.identity, key.identity());
        settings.with_peer(&key.identity(), &[&endpoint])
    });
    let options = LinkOptions::with_profile(Profile::P4);
    let target = Node::dial_as(&row.far, key.duplicate(), &options);
    let inner = accept_inside(&target, &key);
    assert_eq!(inner.remote(), row.near.identity);
    inner.ping(STEP).unwrap();
    let listed = eventually("the link is listed", || row.near.link_row(&key.identity()));
    assert_eq!(listed["inner"], true, "{listed}");

    let caller = row.near.node(Profile::P4);
    let link = inner.clone();
    let accepting = thread::spawn(move || link.accept(STEP).unwrap().accept(WINDOW_BYTES).unwrap());
    let near = caller.link.query_relayed(&key.identity(), QUERY).unwrap();
    let far = accepting.join().unwrap();
    exchange("over a link inside a gateway's pipe", near, far, TRANSFER_BYTES);
}

/// Becomes the responder of a link that somebody makes through the gateway.
fn accept_inside(target: &Node, key: &SecretKey) -> Link {
    let pipe = target.link.accept_route(WINDOW_BYTES, STEP).unwrap();
    let options = LinkOptions { trusts_relay: true, ..LinkOptions::with_profile(Profile::P4) };
    Link::accept_over(pipe, key, &options).unwrap()
}

//! Every pair of profiles through every kind of pipe, on both ports, with one core and with
//! several. Each transfer is larger than a session's window, so that credit has to come back.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::collections::BTreeMap;
use support::appliance::{Appliance, PortName, Settings};
use support::nodes::{Node, connect, route};
use support::streams::exchange;
use waystation_astral::frame::Profile;
use waystation_peer::{LinkOptions, RouteForm};

/// Payload of a transfer in each direction, not a multiple of any buffer.
const TRANSFER_BYTES: usize = (1 << 20) + 300_001;

#[test]
fn every_pair_of_profiles_moves_bytes_over_io_uring_with_one_core() {
    every_pair(PortName::IoUring, 1);
}

#[test]
fn every_pair_of_profiles_moves_bytes_over_io_uring_with_three_cores() {
    every_pair(PortName::IoUring, 3);
}

#[test]
fn every_pair_of_profiles_moves_bytes_over_epoll_with_one_core() {
    every_pair(PortName::Epoll, 1);
}

#[test]
fn every_pair_of_profiles_moves_bytes_over_epoll_with_three_cores() {
    every_pair(PortName::Epoll, 3);
}

/// Callers send as stock nodes do, one record per field; targets put many frames into a record.
fn every_pair(port: PortName, cores: usize) {
    if !port.is_given() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(port, cores));
    let nodes = |options: fn(Profile) -> LinkOptions| -> BTreeMap<Profile, Node> {
        let dial = |profile| (profile, Node::dial(&appliance, &options(profile)));
        Profile::ALL.into_iter().map(dial).collect()
    };
    let callers = nodes(LinkOptions::stock);
    let targets = nodes(LinkOptions::with_profile);
    for node in callers.values().chain(targets.values()) {
        let row = appliance.link_row(&node.identity()).unwrap();
        assert_eq!(row["profile"], node.link.profile().name());
    }
    for (target_profile, target) in &targets {
        for raw in [true, false] {
            let pool = target.idle(2, raw);
            for (profile, caller) in &callers {
                let form = if raw { "raw" } else { "object" };
                let what = format!("{profile} connects to {target_profile} ({form} nonce)");
                let (near, far) = connect(caller, target, &pool);
                exchange(&what, near, far, TRANSFER_BYTES);
            }
        }
        for (profile, caller) in &callers {
            for form in [RouteForm::G1, RouteForm::G2] {
                let what = format!("{profile} routes to {target_profile} ({form:?})");
                let (near, far) = route(caller, target, form);
                exchange(&what, near, far, TRANSFER_BYTES);
            }
        }
    }
    let each = (callers.len() * targets.len() * 2 * 2 * TRANSFER_BYTES) as u64;
    appliance.expect_total(&["same_core_bytes", "cross_core_bytes"], each);
    appliance.expect_total(&["pipe_bytes"], each);
    drop((callers, targets));
    appliance.wait_until_whole();
}

//! Queries that one node asks another through the appliance (spec §10): every pair of profiles, on
//! one core and on several, with everything that can come of a query.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::io::{Read, Write};
use std::thread;
use support::appliance::{Appliance, PortName, Settings};
use support::hand_link::{Got, HandLink};
use support::nodes::{Node, relay};
use support::streams::exchange;
use support::{STEP, eventually};
use waystation_astral::frame::{Frame, Profile};
use waystation_peer::{LinkOptions, PeerError, secret_key};

/// Payload of a transfer in each direction: more than a window, so that credit has to come back.
const TRANSFER_BYTES: usize = (1 << 20) + 300_001;
/// What arrives before a session ends in the middle.
const HALF_BYTES: usize = 200_003;
const QUERY: &str = "test.relayed?number=7";
const CODES: [u8; 4] = [1, 2, 9, 255];

#[test]
fn every_pair_of_profiles_asks_each_other_over_io_uring_with_one_core() {
    every_pair(PortName::IoUring, 1);
}

#[test]
fn every_pair_of_profiles_asks_each_other_over_io_uring_with_three_cores() {
    every_pair(PortName::IoUring, 3);
}

#[test]
fn every_pair_of_profiles_asks_each_other_over_epoll_with_one_core() {
    every_pair(PortName::Epoll, 1);
}

#[test]
fn every_pair_of_profiles_asks_each_other_over_epoll_with_three_cores() {
    every_pair(PortName::Epoll, 3);
}

fn every_pair(port: PortName, cores: usize) {
    if !port.is_given() {
        return;
    }
    let appliance = Appliance::start(&Settings::new(port, cores));
    for caller in Profile::ALL {
        for target in Profile::ALL {
            // Both styles of a node, and neighbours on one core as well as on different ones.
            let callers = [LinkOptions::stock(caller), LinkOptions::with_profile(caller)];
            for (number, options) in callers.iter().enumerate() {
                let caller = Node::dial(&appliance, options);
                let target = appliance.node_on(target, number % cores);
                let what = format!("{} asks {}", caller.link.profile(), target.link.profile());
                accepted(&what, &caller, &target);
                rejected(&what, &caller, &target);
                ended_half_way(&what, &caller, &target);
            }
            by_hand(&appliance, caller, target);
        }
    }
    appliance.wait_until_whole();
    let asked = (1 + CODES.len() + 2) * 2 * Profile::ALL.len().pow(2);
    let relayed = appliance.status()["queries"]["relayed_total"].as_u64().unwrap();
    assert!(relayed >= asked as u64, "{relayed} of {asked} queries and those asked by hand");
}

fn accepted(what: &str, caller: &Node, target: &Node) {
    let (near, far, seen) = relay(caller, target, QUERY);
    assert_eq!(seen.query, QUERY.as_bytes(), "{what}");
    if target.link.profile() == Profile::P4 {
        assert_eq!((seen.caller, seen.target), (caller.identity(), target.identity()), "{what}");
    }
    exchange(what, near, far, TRANSFER_BYTES);
}

fn rejected(what: &str, caller: &Node, target: &Node) {
    for expected in CODES {
        let link = target.link.clone();
        let rejecting = thread::spawn(move || link.accept(STEP).unwrap().reject(expected));
        let answer = caller.link.query_relayed(&target.identity(), QUERY).map(drop);
        assert!(
            matches!(answer, Err(PeerError::Rejected { code }) if code == expected),
            "{what}: {answer:?} instead of {expected}"
        );
        rejecting.join().unwrap();
    }
}

/// What was sent before a reset arrives before it, whoever resets.
fn ended_half_way(what: &str, caller: &Node, target: &Node) {
    for target_ends in [true, false] {
        let (near, far, _) = relay(caller, target, QUERY);
        let (mut ending, mut reading) = if target_ends { (far, near) } else { (near, far) };
        let sending = thread::spawn(move || {
            ending.write_all(&[7; HALF_BYTES]).unwrap();
            ending.reset();
        });
        let mut received = Vec::new();
        reading.read_to_end(&mut received).unwrap();
        sending.join().unwrap();
        assert_eq!(received.len(), HALF_BYTES, "{what}");
        assert!(received.iter().all(|byte| *byte == 7), "{what}");
    }
}

/// What only a target made by hand shows: credit to the byte, and ends before any answer.
fn by_hand(appliance: &Appliance, caller: Profile, target: Profile) {
    let what = format!("{caller} asks {target} by hand");
    let caller = appliance.node(caller);
    let key = secret_key().unwrap();
    let mut target = HandLink::dial_as(appliance, &key, target);
    eventually("the target is listed", || appliance.link_row(&target.identity));
    caller.link.list_registered().unwrap();
    credit_to_the_byte(&what, &caller, &mut target);
    reset_before_the_response(&what, &caller, &mut target);
    cancelled(&what, appliance, &mut target);
    target.close();
}

fn credit_to_the_byte(what: &str, caller: &Node, target: &mut HandLink) {
    let asking = ask(caller, target);
    let nonce = asked(target);
    target.send(&Frame::Response { nonce, code: 0, window: 10 });
    let mut session = asking.join().unwrap().unwrap();
    session.write_all(&[3; 100]).unwrap();
    assert_eq!(received(target, nonce, 10), 10, "{what}");
    // Nothing beyond it comes: the pong overtakes nothing that could have been sent before.
    target.send(&Frame::Ping { nonce: 5, pong: false });
    assert_eq!(target.receive_next_but_credit(), Got::Ping { nonce: 5, pong: true }, "{what}");
    for credit in [1, 80, u32::MAX, u32::MAX] {
        target.send(&Frame::Read { nonce, bytes: credit });
    }
    assert_eq!(received(target, nonce, 90), 90, "{what}");
    target.send(&Frame::Reset { nonce });
    session.set_read_timeout(Some(STEP));
    assert_eq!(session.read(&mut [0; 8]).unwrap(), 0, "{what}");
}

fn reset_before_the_response(what: &str, caller: &Node, target: &mut HandLink) {
    let asking = ask(caller, target);
    let nonce = asked(target);
    target.send(&Frame::Reset { nonce });
    let answer = asking.join().unwrap().map(drop);
    let given_up =
        matches!(answer, Err(PeerError::Rejected { .. } | PeerError::ResetBeforeResponse));
    assert!(given_up, "{what}: {answer:?}");
}

/// A caller that gives up: its target learns of it.
fn cancelled(what: &str, appliance: &Appliance, target: &mut HandLink) {
    let mut caller = HandLink::dial(appliance, Profile::P4);
    let (me, them) = (caller.identity, target.identity);
    let query = QUERY.as_bytes();
    let (caller_id, target_id) = (me.as_bytes(), them.as_bytes());
    let frame =
        Frame::RelayQuery { caller: caller_id, target: target_id, nonce: 9, window: 9, query };
    caller.send(&frame);
    let nonce = asked(target);
    caller.send(&Frame::Reset { nonce: 9 });
    assert_eq!(target.receive_next(), Got::Reset { nonce }, "{what}");
    // An answer that comes too late does nobody harm.
    target.send(&Frame::Response { nonce, code: 0, window: 9 });
    caller.wait_for_pong(1);
    target.wait_for_pong(1);
    caller.close();
}

type Asking = thread::JoinHandle<Result<waystation_peer::Session, PeerError>>;

fn ask(caller: &Node, target: &HandLink) -> Asking {
    let (link, target) = (caller.link.clone(), target.identity);
    thread::spawn(move || link.query_relayed(&target, QUERY))
}

/// The nonce of the query that arrives.
fn asked(target: &mut HandLink) -> u64 {
    let profile = target.profile();
    match target.receive_next() {
        Got::Query { nonce, query, .. } if profile != Profile::P4 => {
            assert_eq!(query, QUERY.as_bytes());
            nonce
        }
        Got::RelayQuery { nonce, query, target: named, .. } if profile == Profile::P4 => {
            assert_eq!(query, QUERY.as_bytes());
            assert_eq!(&named, target.identity.as_bytes());
            nonce
        }
        got => panic!("{got:?}"),
    }
}

/// Reads data frames of a session until so many bytes have come.
fn received(target: &mut HandLink, expected: u64, bytes: usize) -> usize {
    let mut sum = 0;
    while sum < bytes {
        match target.receive_next() {
            Got::Data { nonce, payload } if nonce == expected => sum += payload.len(),
            got => panic!("{got:?} after {sum} bytes"),
        }
    }
    sum
}

#[test]
fn nobody_speaks_for_others_and_strangers_are_not_reached() {
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 3));
    let [p0, p2, p4] = Profile::ALL.map(|profile| appliance.node(profile));
    for raw in [&p0, &p2] {
        let refused = raw.link.prepare_relay(77, Some(&p4.identity()), Some(&p4.identity()));
        assert!(refused.is_err(), "{}", raw.link.profile());
    }
    let stranger = secret_key().unwrap().identity();
    for caller in [&p0, &p2, &p4] {
        let nobody = caller.link.query_relayed(&stranger, QUERY).map(drop);
        assert!(
            matches!(nobody, Err(PeerError::Rejected { .. } | PeerError::Refused { .. })),
            "{nobody:?}"
        );
    }
    let posing = p4.link.query_relayed_for(&stranger, &p0.identity(), QUERY).map(drop);
    assert!(matches!(posing, Err(PeerError::Rejected { code: 1 })), "{posing:?}");
}

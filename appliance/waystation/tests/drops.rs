//! Every kind of bad input is counted once under its own reason and nowhere else, and sessions of
//! others do not notice.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use support::appliance::{Appliance, PortName, Settings};
use support::hand_link::{Got, HandLink, connect, wait_for_end};
use support::nodes::{Node, route};
use support::streams::Pump;
use support::{STEP, eventually};
use waystation_astral::frame::{Frame, Profile};
use waystation_astral::gateway::nonce_object;
use waystation_astral::identity::Identity;
use waystation_peer::{RouteForm, secret_key};

/// Window the appliance advertises in this test: the smallest it can be told to.
const WINDOW_BYTES: usize = 256 * 1024;
/// Window of the target that reads nothing.
const TARGET_WINDOW_BYTES: u32 = 4096;
const NONCE: u64 = 0x0123_4567_89ab_cdef;

/// One kind of bad input: the reason it is counted under, and how to bring it about. What is
/// returned is closed after counting.
type Case = (&'static str, fn(&Appliance, &Node) -> Option<HandLink>);

const CASES: &[Case] = &[
    ("handshake_rejected", act_one_of_another_version),
    ("handshake_rejected", act_one_with_a_wrong_tag),
    ("handshake_rejected", act_three_with_a_wrong_tag),
    ("handshake_abandoned", connection_that_ends_within_act_one),
    ("negotiation_rejected", choice_that_was_not_offered),
    ("record_rejected", record_with_a_wrong_tag),
    ("frame_rejected", opcode_that_does_not_exist),
    ("frame_rejected", object_that_is_no_frame),
    ("link_truncated", link_that_ends_within_a_record),
    ("link_truncated", link_that_ends_within_a_frame),
    ("unknown_session_data", payload_for_no_session),
    ("unknown_session_read", credit_for_no_session),
    ("unknown_session_ignored", reset_of_no_session),
    ("unknown_session_ignored", response_for_no_session),
    ("data_before_response", payload_before_the_response),
    ("credit_overflow", payload_beyond_the_window),
    ("duplicate_nonce", query_with_a_nonce_in_use),
    ("unknown_query", query_for_nothing_known),
    ("malformed_query", query_without_its_target),
    ("target_not_reachable", query_for_nobody),
    ("target_rejected", query_that_its_target_rejects),
    ("socket_nonce_unknown", socket_with_an_unknown_nonce),
];

#[test]
fn bad_input_is_counted_once_by_its_reason_over_io_uring() {
    every_case(PortName::IoUring, 1);
}

#[test]
fn bad_input_is_counted_once_by_its_reason_over_epoll() {
    every_case(PortName::Epoll, 3);
}

#[test]
fn nodes_that_do_everything_right_are_no_drop() {
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 1));
    for profile in Profile::ALL {
        let node = appliance.node(profile);
        node.link.ping(STEP).unwrap();
        let document = appliance.document("/v1/drops");
        assert_eq!(document["events"], 0, "{profile}: {document}");
    }
}

fn every_case(port: PortName, cores: usize) {
    if !port.is_given() {
        return;
    }
    let settings = Settings::new(port, cores).with("relay", "session_window = \"256KiB\"");
    let appliance = Appliance::start(&settings);
    let [caller, bystander, target] =
        [Profile::P4, Profile::P2, Profile::P4].map(|profile| appliance.node(profile));
    let (near, far) = route(&caller, &bystander, RouteForm::G2);
    let untouched = Pump::start("session of others", near, far);
    for (reason, case) in CASES {
        let before = resting(&appliance);
        let link = case(&appliance, &target);
        eventually(&format!("{reason} is counted"), || {
            (appliance.drops()[*reason] > before[*reason]).then_some(())
        });
        // A second count, if there is one, comes at once.
        bystander.link.ping(STEP).unwrap();
        let difference: BTreeMap<_, _> = appliance
            .drops()
            .into_iter()
            .map(|(name, events)| (name.clone(), events - before[&name]))
            .filter(|(_, events)| *events > 0)
            .collect();
        assert_eq!(difference, BTreeMap::from([((*reason).to_owned(), 1)]), "{reason}");
        Pump::wait_for(&[&untouched], 8 * 1024);
        if let Some(link) = link {
            link.close();
        }
    }
    untouched.finish();
    target.link.close();
    drop((caller, bystander, target));
    appliance.wait_until_whole();
}

/// The counters when only the three good nodes are there.
fn resting(appliance: &Appliance) -> BTreeMap<String, u64> {
    eventually("only good nodes are there", || {
        let counters = appliance.status()["totals"]["counters"].clone();
        let good = ["links_open", "half_open", "sessions_open", "sockets_open"];
        (good.map(|name| counters[name].as_u64().unwrap()) == [3, 0, 2, 0]).then_some(())
    });
    appliance.drops()
}

fn act_one_of_another_version(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    // The first byte tells a link from a socket; the version is what else it stands for.
    let mut stream = connect(appliance);
    stream.write_all(&[0; 50]).unwrap();
    wait_for_end(&mut stream);
    None
}

fn act_one_with_a_wrong_tag(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut act = initiator(appliance).act_one().unwrap();
    act[49] ^= 1;
    let mut stream = connect(appliance);
    stream.write_all(&act).unwrap();
    wait_for_end(&mut stream);
    None
}

fn act_three_with_a_wrong_tag(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut initiator = initiator(appliance);
    let mut stream = connect(appliance);
    stream.write_all(&initiator.act_one().unwrap()).unwrap();
    let mut act_two = [0; 50];
    stream.read_exact(&mut act_two).unwrap();
    let (mut act_three, _) = initiator.act_two(&act_two).unwrap();
    act_three[65] ^= 1;
    stream.write_all(&act_three).unwrap();
    wait_for_end(&mut stream);
    None
}

fn initiator(appliance: &Appliance) -> waystation_astral::brontide::Initiator {
    let (key, ephemeral) = (secret_key().unwrap(), secret_key().unwrap());
    waystation_astral::brontide::Initiator::new(&key, &appliance.identity, &ephemeral).unwrap()
}

fn connection_that_ends_within_act_one(appliance: &Appliance, _: &Node) -> Option<HandLink> {
    let mut stream = connect(appliance);
    stream.write_all(&initiator(appliance).act_one().unwrap()[..49]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    wait_for_end(&mut stream);
    None
}

fn choice_that_was_not_offered(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut link = HandLink::shake(appliance, Profile::P0);
    link.send_record(b"\x04mux9");
    wait_for_end(&mut link.stream);
    None
}

fn record_with_a_wrong_tag(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P4);
    let ping = link.encoded(&Frame::Ping { nonce: 1, pong: false });
    let mut record = link.seal(&ping);
    *record.last_mut().unwrap() ^= 1;
    link.stream.write_all(&record).unwrap();
    wait_for_end(&mut link.stream);
    None
}

fn opcode_that_does_not_exist(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P0);
    link.send_record(&[200]);
    wait_for_end(&mut link.stream);
    None
}

fn object_that_is_no_frame(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P4);
    link.send_record(&nonce_object(NONCE));
    wait_for_end(&mut link.stream);
    None
}

fn link_that_ends_within_a_record(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P0);
    let ping = link.encoded(&Frame::Ping { nonce: 1, pong: false });
    let record = link.seal(&ping);
    link.stream.write_all(&record[..record.len() - 1]).unwrap();
    link.close();
    None
}

fn link_that_ends_within_a_frame(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P0);
    let ping = link.encoded(&Frame::Ping { nonce: 1, pong: false });
    link.send_record(&ping[..ping.len() - 1]);
    link.close();
    None
}

fn payload_for_no_session(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P4);
    link.send(&Frame::Data { nonce: NONCE, payload: b"for nobody" });
    assert_eq!(link.receive_next(), Got::Reset { nonce: NONCE });
    Some(link)
}

fn credit_for_no_session(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P0);
    link.send(&Frame::Read { nonce: NONCE, bytes: 1 });
    assert_eq!(link.receive_next(), Got::Reset { nonce: NONCE });
    Some(link)
}

fn reset_of_no_session(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P0);
    link.send(&Frame::Reset { nonce: NONCE });
    Some(link)
}

fn response_for_no_session(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P4);
    link.send(&Frame::Response { nonce: NONCE, code: 0, window: 1 });
    Some(link)
}

fn payload_before_the_response(appliance: &Appliance, target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P4);
    link.send(&query(&RouteForm::G2.query(&target.identity())));
    let asked = target.link.accept(STEP).unwrap();
    link.send(&Frame::Data { nonce: NONCE, payload: b"too early" });
    assert_eq!(link.receive_next(), Got::Reset { nonce: NONCE });
    // The target learns that nobody waits for its answer any more.
    eventually("the target's side is over", || {
        let row = appliance.link_row(&target.identity()).unwrap();
        (row["sessions"] == 0).then_some(())
    });
    drop_silently(asked);
    Some(link)
}

/// Leaves a query unanswered that its caller has given up: a rejection would be counted, too. The
/// link that it holds on to is closed at the end of the test.
fn drop_silently(asked: waystation_peer::InboundQuery) {
    std::mem::forget(asked);
}

fn payload_beyond_the_window(appliance: &Appliance, target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P4);
    link.send(&query(&RouteForm::G2.query(&target.identity())));
    // The target takes so little that the appliance can return no more credit than that.
    let mut far = target.link.accept_route(TARGET_WINDOW_BYTES, STEP).unwrap();
    let window = u32::try_from(WINDOW_BYTES).unwrap();
    assert_eq!(link.receive_next(), Got::Response { nonce: NONCE, code: 0, window });
    // More than the credit that can have come back, so that exactly the last frame is too much.
    let payload = [7; 2 * TARGET_WINDOW_BYTES as usize];
    for _ in 0..=WINDOW_BYTES / payload.len() {
        link.send(&Frame::Data { nonce: NONCE, payload: &payload });
    }
    assert_eq!(link.receive_next(), Got::Reset { nonce: NONCE });
    far.set_read_timeout(Some(STEP));
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).unwrap();
    assert!(rest.iter().all(|byte| *byte == 7) && rest.len() <= WINDOW_BYTES);
    Some(link)
}

fn query_with_a_nonce_in_use(appliance: &Appliance, target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P4);
    let text = RouteForm::G2.query(&target.identity());
    link.send(&query(&text));
    let mut far = target.link.accept_route(TARGET_WINDOW_BYTES, STEP).unwrap();
    assert!(matches!(link.receive_next(), Got::Response { nonce: NONCE, code: 0, .. }));
    link.send(&query(&text));
    // The session that has the nonce goes on.
    link.send(&Frame::Data { nonce: NONCE, payload: b"still here" });
    let mut received = [0; 10];
    far.set_read_timeout(Some(STEP));
    far.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"still here");
    link.send(&Frame::Reset { nonce: NONCE });
    assert_eq!(far.read(&mut received).unwrap(), 0);
    Some(link)
}

fn query(text: &str) -> Frame<'_> {
    Frame::Query { nonce: NONCE, window: 65_536, query: text.as_bytes() }
}

fn query_for_nothing_known(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    rejected(appliance, "nodes.new_link")
}

fn query_without_its_target(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    rejected(appliance, "gateway.node_route")
}

fn query_for_nobody(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let nobody: Identity = secret_key().unwrap().identity();
    rejected(appliance, &RouteForm::G1.query(&nobody))
}

fn rejected(appliance: &Appliance, text: &str) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P0);
    link.send(&query(text));
    assert_eq!(link.receive_next(), Got::Response { nonce: NONCE, code: 1, window: 0 });
    Some(link)
}

fn query_that_its_target_rejects(appliance: &Appliance, target: &Node) -> Option<HandLink> {
    let mut link = HandLink::dial(appliance, Profile::P4);
    link.send(&query(&RouteForm::G1.query(&target.identity())));
    target.link.accept(STEP).unwrap().reject(7);
    assert_eq!(link.receive_next(), Got::Response { nonce: NONCE, code: 7, window: 0 });
    Some(link)
}

fn socket_with_an_unknown_nonce(appliance: &Appliance, _target: &Node) -> Option<HandLink> {
    let mut stream = connect(appliance);
    stream.write_all(&nonce_object(NONCE)).unwrap();
    wait_for_end(&mut stream);
    None
}

//! What a link does when the other side is slow, early, late or wrong.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails says where, and a test may look at the clock"
)]

mod support;

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};
use support::{Got, RawNode, STEP};
use waystation_astral::frame::{Frame, Profile};
use waystation_peer::{LinkOptions, PeerError, SessionError, session_error};

const PROFILES: [Profile; 3] = [Profile::P0, Profile::P2, Profile::P4];

fn accept_session(
    node: &mut RawNode,
    link: &waystation_peer::Link,
    window: u32,
) -> waystation_peer::Session {
    node.send(&Frame::Query { nonce: 77, window: 1_000, query: b"x" });
    let session = link.accept(STEP).unwrap().accept(window).unwrap();
    assert_eq!(node.receive(), Got::Response { nonce: 77, code: 0, window });
    session
}

#[test]
fn every_byte_in_a_record_of_its_own_is_understood() {
    for profile in PROFILES {
        let (mut node, link) = RawNode::with_link(&LinkOptions::with_profile(profile));
        let mut session = accept_session(&mut node, &link, 1_000);
        let mut bytes = Vec::new();
        Frame::Data { nonce: 77, payload: b"hello" }.encode_to_vec(profile, &mut bytes).unwrap();
        Frame::Ping { nonce: 5, pong: false }.encode_to_vec(profile, &mut bytes).unwrap();
        for byte in bytes {
            node.send_record(&[byte]);
        }
        let mut hello = [0; 5];
        session.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello");
        assert_eq!(node.receive(), Got::Ping { nonce: 5, pong: true });
    }
}

#[test]
fn byte_beyond_the_credit_resets_the_session_and_keeps_the_link() {
    for profile in PROFILES {
        let (mut node, link) = RawNode::with_link(&LinkOptions::with_profile(profile));
        let mut session = accept_session(&mut node, &link, 10);
        node.send(&Frame::Data { nonce: 77, payload: &[1; 10] });
        node.send(&Frame::Data { nonce: 77, payload: &[2; 1] });
        assert_eq!(node.receive(), Got::Reset { nonce: 77 });
        let mut received = Vec::new();
        let error = session.read_to_end(&mut received).unwrap_err();
        assert_eq!(received, [1; 10]);
        assert!(matches!(session_error(&error), Some(SessionError::CreditExceeded)));
        link.ping_answered_by(&mut node);
    }
}

#[test]
fn consumed_bytes_come_back_as_credit_chunk_by_chunk() {
    let (mut node, link) = RawNode::with_link(&LinkOptions::stock(Profile::P2));
    let mut session = accept_session(&mut node, &link, 65_536);
    node.send(&Frame::Data { nonce: 77, payload: &[1; 1_000] });
    node.send(&Frame::Data { nonce: 77, payload: &[2; 500] });
    let mut buffer = [0; 8_192];
    // One chunk at most per read, even when two are there.
    assert_eq!(session.read(&mut buffer).unwrap(), 1_000);
    assert_eq!(node.receive(), Got::Read { nonce: 77, bytes: 1_000 });
    assert_eq!(session.read(&mut buffer).unwrap(), 500);
    assert_eq!(node.receive(), Got::Read { nonce: 77, bytes: 500 });
}

#[test]
fn coalesced_credit_comes_back_by_the_quarter_window() {
    let (mut node, link) = RawNode::with_link(&LinkOptions::with_profile(Profile::P2));
    let mut session = accept_session(&mut node, &link, 4_000);
    for _ in 0..3 {
        node.send(&Frame::Data { nonce: 77, payload: &[1; 999] });
        session.read_exact(&mut [0; 999]).unwrap();
    }
    assert_eq!(node.receive(), Got::Read { nonce: 77, bytes: 1_998 });
}

#[test]
fn data_and_credit_for_unknown_sessions_are_reset_and_the_rest_is_ignored() {
    for profile in PROFILES {
        let (mut node, _link) = RawNode::with_link(&LinkOptions::with_profile(profile));
        node.send(&Frame::Reset { nonce: 1 });
        node.send(&Frame::Response { nonce: 2, code: 0, window: 9 });
        node.send(&Frame::Ping { nonce: 3, pong: true });
        node.send(&Frame::Data { nonce: 4, payload: b"who?" });
        node.send(&Frame::Read { nonce: 5, bytes: 9 });
        assert_eq!(node.receive(), Got::Reset { nonce: 4 });
        assert_eq!(node.receive(), Got::Reset { nonce: 5 });
        node.send(&Frame::Ping { nonce: 6, pong: false });
        assert_eq!(node.receive(), Got::Ping { nonce: 6, pong: true });
    }
}

#[test]
fn repeated_query_nonce_is_ignored_silently() {
    let (mut node, link) = RawNode::with_link(&LinkOptions::with_profile(Profile::P0));
    let _session = accept_session(&mut node, &link, 10);
    node.send(&Frame::Query { nonce: 77, window: 1, query: b"again" });
    node.send(&Frame::Ping { nonce: 6, pong: false });
    assert_eq!(node.receive(), Got::Ping { nonce: 6, pong: true });
    let none = link.accept(Duration::from_millis(20)).map(drop);
    assert!(matches!(none, Err(PeerError::Timeout { .. })), "{none:?}");
}

fn ask(link: &waystation_peer::Link) -> thread::JoinHandle<Result<Vec<u8>, PeerError>> {
    let link = link.clone();
    thread::spawn(move || {
        link.query("x").map(|mut session| {
            let mut all = Vec::new();
            session.read_to_end(&mut all).unwrap();
            all
        })
    })
}

#[test]
fn reset_that_overtakes_a_rejection_does_not_hide_its_code() {
    let (mut node, link) = RawNode::with_link(&LinkOptions::with_profile(Profile::P4));
    let asking = ask(&link);
    let Got::Query { nonce, .. } = node.receive() else { panic!("no query") };
    node.send(&Frame::Reset { nonce });
    node.send(&Frame::Response { nonce, code: 4, window: 0 });
    let answer = asking.join().unwrap();
    assert!(matches!(answer, Err(PeerError::Rejected { code: 4 })), "{answer:?}");
}

#[test]
fn reset_that_overtakes_an_acceptance_leaves_an_empty_session() {
    let (mut node, link) = RawNode::with_link(&LinkOptions::with_profile(Profile::P4));
    let asking = ask(&link);
    let Got::Query { nonce, .. } = node.receive() else { panic!("no query") };
    node.send(&Frame::Reset { nonce });
    node.send(&Frame::Response { nonce, code: 0, window: 4_096 });
    assert_eq!(asking.join().unwrap().unwrap(), b"");
}

#[test]
fn reset_without_a_response_ends_the_query_soon() {
    let (mut node, link) = RawNode::with_link(&LinkOptions::with_profile(Profile::P2));
    let started = Instant::now();
    let asking = ask(&link);
    let Got::Query { nonce, .. } = node.receive() else { panic!("no query") };
    node.send(&Frame::Reset { nonce });
    let answer = asking.join().unwrap();
    assert!(matches!(answer, Err(PeerError::ResetBeforeResponse)), "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn data_before_the_response_is_reset() {
    let (mut node, link) = RawNode::with_link(&LinkOptions::with_profile(Profile::P0));
    let _asking = ask(&link);
    let Got::Query { nonce, .. } = node.receive() else { panic!("no query") };
    node.send(&Frame::Data { nonce, payload: b"early" });
    assert_eq!(node.receive(), Got::Reset { nonce });
    node.send(&Frame::Response { nonce, code: 2, window: 0 });
}

#[test]
fn first_data_of_a_session_waits_for_a_raw_responder_to_be_ready() {
    use std::io::Write;
    let (mut node, link) = RawNode::with_link(&LinkOptions::with_profile(Profile::P0));
    let writing = thread::spawn(move || {
        let mut session = link.query("x").unwrap();
        session.write_all(b"now").unwrap();
        session
    });
    let Got::Query { nonce, .. } = node.receive() else { panic!("no query") };
    let before_the_answer = Instant::now();
    node.send(&Frame::Response { nonce, code: 0, window: 4_096 });
    assert_eq!(node.receive(), Got::Data { nonce, payload: b"now".to_vec() });
    let waited = before_the_answer.elapsed();
    assert!(waited >= waystation_peer::limits::FIRST_DATA_DELAY, "{waited:?}");
    drop(writing.join().unwrap());
}

#[test]
fn garbage_takes_the_link_down() {
    let (mut node, link) = RawNode::with_link(&LinkOptions::with_profile(Profile::P0));
    node.send_record(&[200]);
    assert!(node.ended());
    assert!(link.failure().is_some());
    assert!(matches!(link.query("x").map(drop), Err(PeerError::LinkDown(_))));
}

trait PingAnswered {
    fn ping_answered_by(&self, node: &mut RawNode);
}

impl PingAnswered for waystation_peer::Link {
    fn ping_answered_by(&self, node: &mut RawNode) {
        let link = self.clone();
        let pinging = thread::spawn(move || link.ping(STEP));
        let Got::Ping { nonce, pong: false } = node.receive() else { panic!("no ping") };
        node.send(&Frame::Ping { nonce, pong: true });
        pinging.join().unwrap().unwrap();
    }
}

//! The client side of a gateway against a gateway played by hand.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails says where, and a test may look at the clock"
)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use support::{OptionsPair, STEP, key, link_pair};
use waystation_astral::endpoint::Endpoint;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::{Visibility, idle, nonce_object, socket_object};
use waystation_peer::{IdlePool, IdleSocket, Link, LinkOptions, PeerError, Registration};

const NONCE: u64 = 0x1122_3344_5566_7788;

fn links(profile: Profile) -> (Link, Link) {
    link_pair(&OptionsPair::of(LinkOptions::with_profile(profile)))
}

/// Answers the next query with `answer` and ends the session, as gateway operations do.
fn serve_once(gateway: Link, expected: String, answer: Vec<u8>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let query = gateway.accept(STEP).unwrap();
        assert_eq!(String::from_utf8_lossy(query.query()), expected);
        let mut session = query.accept(65_536).unwrap();
        session.write_all(&answer).unwrap();
    })
}

fn error_object(text: &str) -> Vec<u8> {
    let text_bytes = u16::try_from(text.len()).unwrap();
    let mut object = b"\x0derror_message".to_vec();
    object.extend_from_slice(&u32::from(text_bytes + 2).to_be_bytes());
    object.extend_from_slice(&text_bytes.to_be_bytes());
    object.extend_from_slice(text.as_bytes());
    object
}

#[test]
fn registration_gives_socket_and_nonce() {
    for profile in [Profile::P0, Profile::P2, Profile::P4] {
        let (node, gateway) = links(profile);
        let socket: SocketAddr = "198.51.100.9:1795".parse().unwrap();
        let serving = serve_once(
            gateway,
            "gateway.node_register?visibility=public".to_owned(),
            socket_object(&Endpoint::Tcp(socket), NONCE),
        );
        let registration = node.register(Visibility::Public).unwrap();
        assert_eq!(registration, Registration { socket, nonce: NONCE });
        serving.join().unwrap();
    }
}

#[test]
fn refusal_carries_the_words_of_the_gateway() {
    let (node, gateway) = links(Profile::P4);
    let target = key(7).identity();
    let serving = serve_once(
        gateway,
        format!("gateway.node_connect?target={target}"),
        error_object("target not reachable"),
    );
    let refused = node.connect(&target).map(drop);
    assert!(
        matches!(&refused, Err(PeerError::Refused { text }) if text == "target not reachable"),
        "{refused:?}"
    );
    serving.join().unwrap();
}

#[test]
fn answer_that_never_comes_is_an_end_not_a_hang() {
    let (node, gateway) = links(Profile::P4);
    let serving =
        serve_once(gateway, "gateway.node_register?visibility=private".to_owned(), Vec::new());
    let ended = node.register(Visibility::Private).map(drop);
    assert!(matches!(ended, Err(PeerError::Ended { .. })), "{ended:?}");
    serving.join().unwrap();
}

#[test]
fn subscription_is_read_to_its_end() {
    let (node, gateway) = links(Profile::P0);
    let json = "{\"Status\":\"ok\",\"expires_at\":\"2025-10-21T12:00:00Z\"}\n";
    let serving = serve_once(gateway, ".gateway.subscribe".to_owned(), json.into());
    assert_eq!(node.subscribe().unwrap(), json);
    serving.join().unwrap();
}

#[test]
fn connect_presents_the_nonce_as_an_object() {
    let (node, gateway) = links(Profile::P4);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = key(7).identity();
    let socket = listener.local_addr().unwrap();
    let serving = serve_once(
        gateway,
        format!("gateway.node_connect?target={target}"),
        socket_object(&Endpoint::Tcp(socket), NONCE),
    );
    let mut pipe = node.connect(&target).unwrap();
    pipe.write_all(b"first").unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    let mut received = [0; 25];
    accepted.read_exact(&mut received).unwrap();
    assert_eq!(received[..20], nonce_object(NONCE));
    assert_eq!(&received[20..], b"first");
    serving.join().unwrap();
}

#[test]
fn route_is_asked_in_the_words_of_the_profile() {
    let target = key(7).identity();
    for (profile, expected) in [
        (Profile::P0, format!(".gateway.{target}")),
        (Profile::P2, format!("gateway.node_route?target={target}")),
        (Profile::P4, format!("gateway.node_route?target={target}")),
    ] {
        let (node, gateway) = links(profile);
        let serving = serve_once(gateway, expected, b"pipe".to_vec());
        let mut pipe = node.route(&target).unwrap();
        let mut received = [0; 4];
        pipe.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"pipe");
        serving.join().unwrap();
    }
}

#[test]
fn only_what_is_routed_here_is_accepted_as_a_route() {
    for profile in [Profile::P0, Profile::P4] {
        let (gateway, node) = links(profile);
        let here = node.local();
        let accepting = thread::spawn(move || node.accept_route(65_536, STEP));
        for other in ["nodes.links".to_owned(), format!(".gateway.{}", key(9).identity())] {
            let answer = gateway.query(&other).map(drop);
            assert!(matches!(answer, Err(PeerError::Rejected { code: 1 })), "{answer:?}");
        }
        let _caller = gateway.route(&here).unwrap();
        accepting.join().unwrap().unwrap();
    }
}

/// Reads a presented nonce, then plays the gateway's side of an idle connection.
fn hand_off(listener: &TcpListener, presented: &[u8]) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(STEP)).unwrap();
    let mut received = vec![0; presented.len()];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(received, presented);
    for _ in 0..2 {
        stream.write_all(idle::PING).unwrap();
        let mut pong = vec![0; idle::PONG.len()];
        stream.read_exact(&mut pong).unwrap();
        assert_eq!(pong, idle::PONG);
    }
    // In two pieces: the node must not rely on whole messages per read.
    let (start, rest) = idle::HANDOFF.split_at(7);
    stream.write_all(start).unwrap();
    stream.write_all(rest).unwrap();
    let mut acknowledgement = vec![0; idle::HANDOFF_ACK.len()];
    stream.read_exact(&mut acknowledgement).unwrap();
    assert_eq!(acknowledgement, idle::HANDOFF_ACK);
    stream
}

#[test]
fn idle_connection_answers_pings_and_becomes_a_pipe() {
    for raw in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = listener.local_addr().unwrap();
        let node = thread::spawn(move || {
            let mut pipe = IdleSocket::open(socket, NONCE, raw).unwrap().wait_handoff().unwrap();
            let mut received = [0; 5];
            pipe.read_exact(&mut received).unwrap();
            received
        });
        let presented =
            if raw { NONCE.to_be_bytes().to_vec() } else { nonce_object(NONCE).to_vec() };
        let mut pipe = hand_off(&listener, &presented);
        pipe.write_all(b"first").unwrap();
        assert_eq!(&node.join().unwrap(), b"first");
    }
}

#[test]
fn pipe_bytes_before_the_acknowledgement_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = listener.local_addr().unwrap();
    let node = thread::spawn(move || {
        IdleSocket::open(socket, NONCE, true).unwrap().wait_handoff().map(drop)
    });
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(&[idle::HANDOFF, b"early"].concat()).unwrap();
    let outcome = node.join().unwrap();
    assert!(matches!(outcome, Err(PeerError::IdleOrder)), "{outcome:?}");
}

#[test]
fn pool_tops_up_as_soon_as_a_connection_was_handed_off() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = listener.local_addr().unwrap();
    let pool = IdlePool::start(Registration { socket, nonce: NONCE }, 2, true).unwrap();
    let presented = NONCE.to_be_bytes();
    for round in 0..6_u8 {
        let mut near = hand_off(&listener, &presented);
        let mut far = pool.accept(STEP).unwrap();
        near.write_all(&[round]).unwrap();
        let mut received = [0];
        far.read_exact(&mut received).unwrap();
        assert_eq!(received, [round]);
    }
    pool.wait_idling(2, STEP).unwrap();
}

#[test]
fn pool_gives_up_when_nobody_listens() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let pool = IdlePool::start(Registration { socket, nonce: NONCE }, 1, true).unwrap();
    let outcome = pool.accept(2 * STEP).map(drop);
    assert!(matches!(outcome, Err(PeerError::Connect { .. })), "{outcome:?}");
}

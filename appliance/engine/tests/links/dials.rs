//! Links that the core makes as initiator on a connection it is given.

use crate::support::{Bench, Peer, ROUTE, finish, on_every_port, secret};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;
use waystation_astral::frame::{Frame, Profile};
use waystation_engine::control::{Command, DialId, Network};
use waystation_engine::port::Port;
use waystation_relay::access::Access;
use waystation_relay::drop_reason::DropReason;

const PROFILES: [Profile; 3] = [Profile::P0, Profile::P2, Profile::P4];
const PEER: u8 = 0x31;
const LINK_ID: u64 = 0x1122_3344_5566_7788;

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A responder on a thread of its own, from after the handshake on.
fn respond<T: Send + 'static>(
    profile: Profile,
    then: impl FnOnce(Peer) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let (listener, address) = listen();
    let thread =
        std::thread::spawn(move || then(Peer::shake_hands(&listener, &secret(PEER), profile)));
    (address, thread)
}

fn dials_every_profile<P: Port>(bench: &mut Bench<P>) {
    for (dial, profile) in (0_u64..).zip(PROFILES) {
        let (address, peer) = respond(profile, move |mut peer| {
            peer.greet(LINK_ID);
            // Asked before the ping that tells P0 from P2 is answered.
            peer.send_frame(&Frame::Query { nonce: 77, window: 1000, query: ROUTE });
            peer.read_until(|heard, _| {
                let heard = format!("{heard:?}");
                assert!(heard.contains("Response"), "{heard}");
                assert!(heard.contains("code: 1"), "{heard}");
                true
            });
            peer
        });
        bench.ups.clear();
        bench.dial(dial, address, secret(PEER).identity());
        bench.turn_until("a query on the link", |bench| !bench.queries.is_empty());
        let query = bench.queries.remove(0);
        bench.command(Command::Reject { leg: query.leg, code: 1 });
        drop(finish(bench, peer));
        let up = &bench.ups[0];
        assert_eq!((up.dial, up.profile), (Some(DialId(dial)), profile));
        assert_eq!((up.identity, up.remote), (secret(PEER).identity(), address));
        assert_eq!((up.network, up.inner), (Network::Tcp, false));
        if profile != Profile::P0 {
            assert_eq!(up.link_id, LINK_ID);
        }
        bench.assert_everything_came_back();
        assert_eq!(bench.failed_dials(), []);
    }
}

#[test]
fn dialed_link_comes_up_in_every_profile_and_carries_queries() {
    on_every_port(dials_every_profile, dials_every_profile);
}

fn takes_single_bytes<P: Port>(bench: &mut Bench<P>) {
    let (address, peer) = respond(Profile::P4, |mut peer| {
        let greeting = b"\x06uint16\x00\x00\x00\x02\x00\x01\x07string8\x00\x00\x00\x05\x04mux2";
        for byte in greeting {
            peer.send(&[*byte]);
        }
        let mut choice = peer.record();
        while choice.len() < 17 {
            choice.extend(peer.record());
        }
        assert_eq!(choice, b"\x07string8\x00\x00\x00\x05\x04mux2");
        let end = b"\x05uint8\x00\x00\x00\x01\x00\x07nonce64\x00\x00\x00\x08\0\0\0\0\0\0\0\x05";
        for byte in end {
            peer.send(&[*byte]);
        }
        peer.send_frame(&Frame::Ping { nonce: 9, pong: false });
        peer.read_until(|heard, _| format!("{heard:?}").contains("nonce: 9, pong: true"));
    });
    bench.dial(1, address, secret(PEER).identity());
    finish(bench, peer);
    assert_eq!(bench.ups[0].link_id, 5);
    bench.assert_everything_came_back();
}

#[test]
fn negotiation_in_records_of_one_byte_comes_to_a_link() {
    on_every_port(takes_single_bytes, takes_single_bytes);
}

/// How a peer ends a dial of ours, and what must come of it.
struct Ending {
    name: &'static str,
    profile: Profile,
    /// What it does after the handshake, before it reads on to the end.
    act: fn(&mut Peer),
    reason: DropReason,
}

const P4_GREETING: &[u8] = b"\x06uint16\x00\x00\x00\x02\x00\x01\x07string8\x00\x00\x00\x05\x04mux2";

const ENDINGS: [Ending; 9] = [
    Ending {
        name: "ends its direction after act three",
        profile: Profile::P4,
        act: |peer| peer.stream.shutdown(Shutdown::Write).unwrap(),
        reason: DropReason::HandshakeAbandoned,
    },
    Ending {
        name: "resets after act three",
        profile: Profile::P4,
        act: |peer| {
            socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
            let address = peer.stream.local_addr().unwrap();
            // A stream in its place, since the one that is reset must be closed.
            let listener = TcpListener::bind((address.ip(), 0)).unwrap();
            let other = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            peer.stream = other;
            drop(listener);
        },
        reason: DropReason::HandshakeAbandoned,
    },
    Ending {
        name: "offers something else in objects",
        profile: Profile::P4,
        act: |peer| {
            peer.send(b"\x06uint16\x00\x00\x00\x02\x00\x01\x07string8\x00\x00\x00\x06\x05other");
        },
        reason: DropReason::NegotiationRejected,
    },
    Ending {
        name: "offers something else in raw form",
        profile: Profile::P0,
        act: |peer| peer.send(b"\x00\x01\x05other"),
        reason: DropReason::NegotiationRejected,
    },
    Ending {
        name: "refuses in words",
        profile: Profile::P4,
        act: |peer| peer.send(b"\x0derror_message\x00\x00\x00\x04\x00\x02no"),
        reason: DropReason::NegotiationRejected,
    },
    Ending {
        name: "refuses the choice",
        profile: Profile::P4,
        act: |peer| {
            peer.send(P4_GREETING);
            peer.send(b"\x05uint8\x00\x00\x00\x01\x01");
        },
        reason: DropReason::NegotiationRejected,
    },
    Ending {
        name: "says nothing",
        profile: Profile::P4,
        act: |_| {},
        reason: DropReason::HandshakeTimeout,
    },
    Ending {
        name: "stops within its greeting",
        profile: Profile::P4,
        act: |peer| peer.send(&P4_GREETING[..13]),
        reason: DropReason::HandshakeTimeout,
    },
    Ending {
        name: "stops within a record",
        profile: Profile::P4,
        act: |peer| {
            let mut record = vec![0; 40 + 34];
            peer.sealer.seal_in_place(&mut record).unwrap();
            peer.stream.write_all(&record[..50]).unwrap();
        },
        reason: DropReason::HandshakeTimeout,
    },
];

fn fails_once_and_not_cleanly<P: Port>(bench: &mut Bench<P>) {
    bench.adopt(|snapshot| snapshot.limits.handshake_timeout = Duration::from_millis(300));
    for (dial, ending) in (0_u64..).zip(&ENDINGS) {
        let act = ending.act;
        let (address, peer) = respond(ending.profile, move |mut peer| {
            act(&mut peer);
            peer.read_to_the_end()
        });
        bench.dial(dial, address, secret(PEER).identity());
        let (said, end) = finish(bench, peer);
        bench.assert_everything_came_back();
        let name = ending.name;
        assert_eq!(bench.failed_dials(), [(DialId(dial), ending.reason)], "peer that {name}");
        let in_words = said.starts_with(b"\x0derror_message");
        let reset = end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        assert!(in_words || reset, "peer that {name} saw a clean end after {said:?}");
    }
    assert!(bench.ups.is_empty());
}

#[test]
fn every_failed_dial_is_told_once_leaves_nothing_and_never_ends_cleanly() {
    on_every_port(fails_once_and_not_cleanly, fails_once_and_not_cleanly);
}

fn fails_in_the_handshake<P: Port>(bench: &mut Bench<P>) {
    bench.adopt(|snapshot| snapshot.limits.handshake_timeout = Duration::from_millis(300));
    for (dial, answer, reason) in [
        (1, vec![0; 50], DropReason::HandshakeRejected),
        (2, vec![0; 49], DropReason::HandshakeTimeout),
        (3, vec![9; 50], DropReason::HandshakeRejected),
    ] {
        let (listener, address) = listen();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 50]).unwrap();
            stream.write_all(&answer).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.read(&mut [0; 1])
        });
        bench.dial(dial, address, secret(PEER).identity());
        assert!(finish(bench, peer).is_err(), "an act two that does not verify is no clean end");
        bench.assert_everything_came_back();
        assert_eq!(bench.failed_dials(), [(DialId(dial), reason)]);
    }
}

#[test]
fn false_or_cut_act_two_fails_the_dial() {
    on_every_port(fails_in_the_handshake, fails_in_the_handshake);
}

fn refuses_dials<P: Port>(bench: &mut Bench<P>) {
    let (_listener, address) = listen();
    let identity = secret(PEER).identity();
    let own = bench.identity;
    let expect = |bench: &mut Bench<P>, reason| {
        let mut failed = Vec::new();
        for _ in 0..1000 {
            bench.turn_at_once();
            failed.extend(bench.failed_dials());
            if !failed.is_empty() {
                break;
            }
        }
        assert_eq!(failed, [(DialId(1), reason)]);
        bench.assert_everything_came_back();
    };
    bench.dial(1, address, own);
    expect(bench, DropReason::HandshakeRejected);
    bench.adopt(|snapshot| snapshot.access = Access::Denylist([identity].into()));
    bench.dial(1, address, identity);
    expect(bench, DropReason::IdentityDenied);
    bench.adopt(|snapshot| snapshot.limits.half_open = 0);
    bench.dial(1, address, identity);
    expect(bench, DropReason::TooManyConnections);
    bench.adopt(|snapshot| snapshot.limits.links = 0);
    bench.dial(1, address, identity);
    expect(bench, DropReason::TooManyConnections);
}

#[test]
fn dial_of_ourselves_of_a_denied_identity_or_beyond_a_cap_is_refused() {
    on_every_port(refuses_dials, refuses_dials);
}

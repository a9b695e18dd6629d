//! Flows of frames between namespaces, as root, and the object that makes them.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]
#![allow(clippy::print_stdout, reason = "what is skipped says so")]

use std::env;
use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::thread;
use std::time::Duration;
use waystation_benches::datagrams::flow::{DatagramShape, Way};
use waystation_benches::datagrams::forwarder::DatagramForwarder;
use waystation_benches::frames::flows::FrameFlows;
use waystation_benches::load::clock::Clock;
use waystation_benches::load::processor::Watched;
use waystation_benches::streets::{CLIENTS, Checksums, LAN, PEERS, Side, Streets, WAN, missing};
use waystation_proving::prebuilt::{assert_built_from, assert_tells_no_place};

/// What the object is built from.
const SOURCES: &[&str] =
    &["Cargo.toml", "Cargo.lock", ".cargo", "src", "../../xdp-programs/src/words.rs"];
const SHAPE: DatagramShape =
    DatagramShape { flows: 2, message_bytes: 1000, in_flight: 8, train: 1 };
/// Long enough for some messages on a machine that is busy with something else.
const PART: Duration = Duration::from_millis(300);
const ROUNDS_MAX: u32 = 50;

fn given_root() -> bool {
    let Some(needs) = missing() else { return true };
    assert!(env::var_os("WAYSTATION_TEST_REQUIRE").is_none(), "{needs}");
    println!("skipped: {needs}");
    false
}

/// A flow each way, and the sockets of somebody between with where they are to send to.
fn ways(streets: &Streets) -> (Vec<Way>, Vec<(UdpSocket, std::net::SocketAddr)>) {
    let bound = |side, ip| streets.at(side, || Ok(UdpSocket::bind((ip, 0))?)).unwrap();
    let (mut ways, mut routes) = (Vec::new(), Vec::new());
    for (between, is_outbound) in [(WAN, true), (LAN, false)] {
        let (client, peer) = (bound(Side::Clients, CLIENTS), bound(Side::Peers, PEERS));
        let (sender, receiver) = if is_outbound { (client, peer) } else { (peer, client) };
        let between = UdpSocket::bind((between, 0)).unwrap();
        let to = between.local_addr().unwrap();
        let leaving_by = if is_outbound { LAN } else { WAN };
        let comes_from = (leaving_by, to.port()).into();
        routes.push((between, receiver.local_addr().unwrap()));
        ways.push(Way { sender, to, comes_from, sent_in: None, receiver, received_in: None });
    }
    (ways, routes)
}

/// As [`ways`], with sockets that are on all addresses, since a datagram leaves by the other side.
fn flows(streets: &Streets, shape: DatagramShape) -> (FrameFlows, DatagramForwarder) {
    let (ways, routes) = ways(streets);
    let routes = routes.into_iter().map(|(socket, to)| {
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        (UdpSocket::bind(("0.0.0.0", port)).unwrap(), to)
    });
    let forwarder = DatagramForwarder::start(routes.collect(), None).unwrap();
    (FrameFlows::new(ways, shape, streets, Clock::start()).unwrap(), forwarder)
}

#[test]
fn frames_through_a_forwarder_are_counted_and_compared() {
    if !given_root() {
        return;
    }
    for checksums in [Checksums::Finished, Checksums::Offloaded] {
        let streets = Streets::new(checksums, 0, 0).unwrap();
        let (mut flows, _forwarder) = flows(&streets, SHAPE);
        let watched = streets.watched(Watched::Nobody);
        let mut messages = 0;
        for _ in 0..ROUNDS_MAX {
            match flows.round(Duration::ZERO, PART, &watched) {
                Ok(round) => {
                    messages += round.messages;
                    assert!(round.spent.forwarding_ns > 0 && round.generator_ns > 0, "{round:?}");
                }
                // The forwarder was not let run.
                Err(error) => assert!(error.to_string().contains("nothing came"), "{error}"),
            }
            if flows.messages_compared().unwrap() > 10 {
                break;
            }
        }
        assert!(messages > 160 && flows.messages_checked().unwrap() >= messages, "{messages}");
        let compared = flows.messages_compared().unwrap();
        assert!(compared > 10 && compared <= messages / 16 + 16, "{compared} of {messages}");
    }
}

#[test]
fn steady_flows_keep_their_rate_beside_a_flood() {
    if !given_root() {
        return;
    }
    let streets = Streets::new(Checksums::Finished, 0, 0).unwrap();
    let (mut flows, _forwarder) = flows(&streets, SHAPE);
    let stranger = UdpSocket::bind((WAN, 0)).unwrap();
    stranger.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    flows.aim_flood(stranger.local_addr().unwrap(), &streets).unwrap();
    let times = (Duration::ZERO, Duration::from_secs(1));
    let round = flows.steady_round(1000, Some(2000), times, &Watched::Nobody).unwrap();
    let sent = round.messages + round.lost;
    // A machine that does not let the generator run makes it fewer, nothing makes it more.
    assert!(sent > 0 && sent as f64 <= 1000.0 * round.seconds + 2.0, "{round:?}");
    assert!(round.flooded > 0 && round.flooded as f64 <= 2000.0 * round.seconds + 2.0, "{round:?}");
    let mut datagram = [0; 64];
    let (bytes, first) = stranger.recv_from(&mut datagram).unwrap();
    let (_, second) = stranger.recv_from(&mut datagram).unwrap();
    assert_eq!((bytes, &datagram[..4]), (32, &[0xff; 4][..]));
    assert!(first.to_string().starts_with("10.") && second.ip() != first.ip(), "{first} {second}");
}

#[test]
fn a_changed_byte_of_a_frame_ends_the_round() {
    if !given_root() {
        return;
    }
    let streets = Streets::new(Checksums::Finished, 0, 0).unwrap();
    let (ways, routes) = ways(&streets);
    for (socket, to) in routes {
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
        thread::spawn(move || {
            let mut datagram = [0; 2000];
            while let Ok((bytes, _)) = socket.recv_from(&mut datagram) {
                datagram[bytes - 1] ^= 1;
                if socket.send_to(&datagram[..bytes], to).is_err() {
                    return;
                }
            }
        });
    }
    let mut flows = FrameFlows::new(ways, SHAPE, &streets, Clock::start()).unwrap();
    let long = Duration::from_secs(60);
    let error = flows.round(long, long, &Watched::Nobody).unwrap_err();
    assert!(error.to_string().contains("other bytes"), "{error}");
}

#[test]
fn shapes_that_frames_cannot_have_are_refused() {
    if !given_root() {
        return;
    }
    let streets = Streets::new(Checksums::Finished, 0, 0).unwrap();
    let refused = |shape| {
        let flows = FrameFlows::new(ways(&streets).0, shape, &streets, Clock::start());
        flows.err().unwrap().to_string()
    };
    let longer = refused(DatagramShape { message_bytes: 1001, ..SHAPE });
    assert!(longer.contains("1000 bytes"), "{longer}");
    let trains = refused(DatagramShape { train: 2, ..SHAPE });
    assert!(trains.contains("no trains"), "{trains}");
}

#[test]
fn the_object_was_built_from_these_sources() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("frame-programs");
    assert_built_from(&programs, SOURCES);
    assert_tells_no_place(&fs::read(programs.join("prebuilt/frames.bpf.o")).unwrap());
}

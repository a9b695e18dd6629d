//! What goes wrong with stock gateways, and does not here (spec §11, §20): each fault has a test.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails says where, and it may look at the clock and pause"
)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use support::appliance::{Appliance, PortName, Settings};
use support::hand_link::{connect as dial, wait_for_end};
use support::nodes::{Node, connect};
use support::{STEP, eventually};
use waystation_astral::frame::Profile;
use waystation_astral::gateway::{Visibility, nonce_object};
use waystation_peer::{IdlePool, IdleSocket, PeerError, Registration};

/// Idle connections a stock node keeps.
const IDLE_CONNECTIONS: usize = 2;

fn on_every_port(adapt: impl Fn(Settings) -> Settings, test: impl Fn(&Appliance)) {
    for (port, cores) in [(PortName::Epoll, 3), (PortName::IoUring, 1)] {
        if port.is_given() {
            let appliance = Appliance::start(&adapt(Settings::new(port, cores)));
            test(&appliance);
            appliance.wait_until_whole();
        }
    }
}

fn gateway(appliance: &Appliance, count: &str) -> u64 {
    appliance.status()["gateway"][count].as_u64().unwrap()
}

fn wait_for_gateway(appliance: &Appliance, count: &str, expected: u64) {
    eventually(&format!("{expected} {count}"), || {
        (gateway(appliance, count) == expected).then_some(())
    });
}

/// Moves a few bytes each way.
fn exchange(near: &mut TcpStream, far: &mut TcpStream) {
    near.write_all(b"there").unwrap();
    let mut received = [0; 5];
    far.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"there");
    far.write_all(b"back.").unwrap();
    near.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"back.");
}

#[test]
fn gateway_on_a_private_address_takes_registrations() {
    on_every_port(
        |settings| settings,
        |appliance| {
            let node = appliance.node(Profile::P4);
            let registration = node.link.register(Visibility::Public).unwrap();
            assert!(registration.socket.ip().is_loopback());
        },
    );
    let announced: SocketAddr = "10.1.2.3:1791".parse().unwrap();
    on_every_port(
        |settings| settings.with("gateway", &format!("announce = \"{announced}\"")),
        |appliance| {
            let node = appliance.node(Profile::P4);
            assert_eq!(node.link.register(Visibility::Public).unwrap().socket, announced);
        },
    );
}

#[test]
fn links_and_sockets_share_one_port() {
    on_every_port(
        |settings| settings,
        |appliance| {
            let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
            let registration = target.link.register(Visibility::Public).unwrap();
            assert_eq!(registration.socket, appliance.address);
            let pool = IdlePool::start(registration, IDLE_CONNECTIONS, true).unwrap();
            pool.wait_idling(IDLE_CONNECTIONS, STEP).unwrap();
            let (mut near, mut far) = connect(&caller, &target, &pool);
            assert_eq!(near.peer_addr().unwrap(), appliance.address);
            exchange(&mut near, &mut far);
        },
    );
}

#[test]
fn reservation_that_nobody_uses_returns_to_the_pool() {
    on_every_port(
        |settings| settings.with("gateway", "reservation_timeout = \"1s\""),
        |appliance| {
            let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P2));
            let pool = target.idle(IDLE_CONNECTIONS, true);
            wait_for_gateway(appliance, "idle_sockets", IDLE_CONNECTIONS as u64);
            let sockets = appliance.total("sockets_open");
            let unused: Vec<_> = (0..IDLE_CONNECTIONS)
                .map(|_| caller.link.reserve(&target.identity()).unwrap())
                .collect();
            let refused = caller.link.reserve(&target.identity());
            assert!(matches!(refused, Err(PeerError::Refused { .. })), "{refused:?}");
            wait_for_gateway(appliance, "reservations_expired_total", IDLE_CONNECTIONS as u64);
            // The idle connections have not even noticed.
            assert_eq!(pool.idling(), IDLE_CONNECTIONS);
            assert_eq!(gateway(appliance, "idle_sockets"), IDLE_CONNECTIONS as u64);
            assert_eq!(appliance.total("sockets_open"), sockets);
            for Registration { socket, nonce } in unused {
                let mut late = TcpStream::connect(socket).unwrap();
                late.write_all(&nonce_object(nonce)).unwrap();
                wait_for_end(&mut late);
            }
            assert_eq!(appliance.drops()["socket_nonce_unknown"], IDLE_CONNECTIONS as u64);
            for _ in 0..IDLE_CONNECTIONS {
                let (mut near, mut far) = connect(&caller, &target, &pool);
                exchange(&mut near, &mut far);
            }
        },
    );
}

#[test]
fn pool_that_reconnects_at_once_is_not_made_to_spin() {
    /// More than there is room for.
    const CONNECTIONS: usize = 4;
    const TIME: Duration = Duration::from_secs(2);
    /// Dials in that time that are no spinning: a stock pool would make thousands.
    const DIALS_MAX: usize = 40;
    on_every_port(
        |settings| {
            settings.with("gateway", &format!("idle_per_registration_max = {IDLE_CONNECTIONS}"))
        },
        |appliance| {
            let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
            let Registration { socket, nonce } = target.link.register(Visibility::Public).unwrap();
            let until = Instant::now() + TIME;
            let dials: Vec<_> = (0..CONNECTIONS)
                .map(|_| thread::spawn(move || dial_at_once_again(socket, nonce, until)))
                .collect();
            let dials: usize = dials.into_iter().map(|dialing| dialing.join().unwrap()).sum();
            assert!(dials <= DIALS_MAX, "{dials} dials in {} s", TIME.as_secs());
            let pool = target.idle(IDLE_CONNECTIONS, true);
            let (mut near, mut far) = connect(&caller, &target, &pool);
            exchange(&mut near, &mut far);
        },
    );
}

/// Dials whenever the connection has ended, as stock pools do (spec §11.2, trap b). Returns how
/// often.
fn dial_at_once_again(socket: SocketAddr, nonce: u64, until: Instant) -> usize {
    let mut dials = 0;
    while let Some(left) =
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    {
        let Ok(mut stream) = TcpStream::connect_timeout(&socket, STEP) else { continue };
        dials += 1;
        stream.set_read_timeout(Some(left)).unwrap();
        let _ = stream.write_all(&nonce.to_be_bytes()).and_then(|()| stream.read(&mut [0; 64]));
    }
    dials
}

#[test]
fn silent_pipe_is_closed_after_the_configured_time() {
    on_every_port(
        |settings| settings.with("gateway", "pipe_idle_timeout = \"1s\""),
        |appliance| {
            let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
            let pool = target.idle(1, true);
            let (mut near, mut far) = connect(&caller, &target, &pool);
            let began = Instant::now();
            // Traffic keeps it open for longer than that.
            while began.elapsed() < Duration::from_secs(2) {
                exchange(&mut near, &mut far);
                thread::sleep(Duration::from_millis(200));
            }
            let silent = Instant::now();
            assert_eq!(near.read(&mut [0; 8]).unwrap_or(0), 0);
            assert!(silent.elapsed() >= Duration::from_millis(500), "{:?}", silent.elapsed());
            wait_for_end(&mut far);
            assert_eq!(appliance.drops()["pipe_idle_timeout"], 1);
        },
    );
}

#[test]
fn registration_survives_the_death_of_its_link() {
    on_every_port(
        |settings| settings,
        |appliance| {
            let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
            let registration = target.link.register(Visibility::Public).unwrap();
            let pool = IdlePool::start(registration, IDLE_CONNECTIONS, true).unwrap();
            pool.wait_idling(IDLE_CONNECTIONS, STEP).unwrap();
            let (key, identity) = (target.key.duplicate(), target.identity());
            target.kill();
            eventually("the link is gone", || {
                appliance.link_row(&identity).is_none().then_some(())
            });
            assert_eq!(caller.link.list_registered().unwrap(), [identity]);
            let mut near = eventually("a connection", || caller.link.connect(&identity).ok());
            let mut far = pool.accept(STEP).unwrap();
            near.set_read_timeout(Some(STEP)).unwrap();
            far.set_read_timeout(Some(STEP)).unwrap();
            exchange(&mut near, &mut far);
            // Whoever comes back finds it as it was.
            let options = waystation_peer::LinkOptions::with_profile(Profile::P4);
            let again = Node::dial_as(appliance, key, &options);
            assert_eq!(again.link.register(Visibility::Public).unwrap(), registration);
        },
    );
}

#[test]
fn unregistering_ends_idle_connections_and_listing() {
    on_every_port(
        |settings| settings,
        |appliance| {
            let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
            let Registration { socket, nonce } = target.link.register(Visibility::Public).unwrap();
            let idle: Vec<_> = (0..IDLE_CONNECTIONS)
                .map(|_| {
                    let idle = IdleSocket::open(socket, nonce, true).unwrap();
                    thread::spawn(move || idle.wait_handoff().map(drop))
                })
                .collect();
            wait_for_gateway(appliance, "idle_sockets", IDLE_CONNECTIONS as u64);
            assert_eq!(caller.link.list_registered().unwrap(), [target.identity()]);
            target.link.unregister().unwrap();
            for waiting in idle {
                let ended = waiting.join().unwrap();
                assert!(matches!(ended, Err(PeerError::Ended { .. })), "{ended:?}");
            }
            assert_eq!(caller.link.list_registered().unwrap(), []);
            let refused = caller.link.reserve(&target.identity());
            assert!(matches!(refused, Err(PeerError::Refused { .. })), "{refused:?}");
            let again = target.link.unregister();
            assert!(
                matches!(&again, Err(PeerError::Refused { text }) if text == "node not registered"),
                "{again:?}"
            );
        },
    );
}

#[test]
fn unregistering_by_a_relayed_query_is_understood() {
    on_every_port(
        |settings| settings,
        |appliance| {
            // As stock nodes do when they shut down (spec §11.2).
            let node = appliance.node(Profile::P4);
            node.link.register(Visibility::Public).unwrap();
            let query = "gateway.node_unregister";
            let mut session = node.link.query_relayed(&appliance.identity, query).unwrap();
            session.set_read_timeout(Some(STEP));
            let mut answer = Vec::new();
            session.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"\x03ack\0\0\0\0");
            assert_eq!(gateway(appliance, "registrations"), 0);
        },
    );
}

#[test]
fn list_shows_only_who_wants_to_be_seen() {
    on_every_port(
        |settings| settings,
        |appliance| {
            let nodes: Vec<_> = Profile::ALL.map(|profile| appliance.node(profile)).into();
            let [seen, unseen, undecided] = nodes.as_slice() else { unreachable!() };
            seen.link.register(Visibility::Public).unwrap();
            unseen.link.register(Visibility::Private).unwrap();
            undecided.link.register(Visibility::Public).unwrap();
            undecided.link.register(Visibility::Private).unwrap();
            for asking in &nodes {
                assert_eq!(asking.link.list_registered().unwrap(), [seen.identity()]);
            }
            undecided.link.register(Visibility::Public).unwrap();
            let mut listed = seen.link.list_registered().unwrap();
            let mut expected = vec![seen.identity(), undecided.identity()];
            listed.sort();
            expected.sort();
            assert_eq!(listed, expected);
            nodes.iter().for_each(|node| node.link.unregister().unwrap());
        },
    );
}

#[test]
fn connection_that_ends_before_its_first_byte_harms_nobody() {
    on_every_port(
        |settings| settings,
        |appliance| {
            let (caller, target) = (appliance.node(Profile::P4), appliance.node(Profile::P4));
            let pool = target.idle(IDLE_CONNECTIONS, true);
            (0..100).for_each(|_| drop(dial(appliance)));
            let (mut near, mut far) = connect(&caller, &target, &pool);
            exchange(&mut near, &mut far);
            for node in [&caller, &target] {
                node.link.ping(STEP).unwrap();
            }
            eventually("they are counted", || {
                (appliance.drops()["handshake_abandoned"] == 100).then_some(())
            });
        },
    );
}

//! A relay and two users in three network namespaces, with nothing but the program between them.
//!
//! ```text
//!   alice 198.51.100.7 ── wan 198.51.100.1 │ relay │ lan 203.0.113.1 ── bob 203.0.113.7
//! ```

use super::namespace::{Namespace, index_of, ip};
use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};
use waystation_ebpf::{
    abi::{Port, Session, SessionKey, Settings},
    forwarding::LOOPBACK_INTERFACE,
    programs::Programs,
};

/// Where users send to, and what is sent from there to the other.
pub const FOR_BOB: &str = "198.51.100.1:49152";
pub const FOR_ALICE: &str = "203.0.113.1:49153";
pub const ALICE: &str = "198.51.100.7:5000";
pub const BOB: &str = "203.0.113.7:6000";
/// More of the datagram is to come (`MSG_MORE`).
const MSG_MORE: i32 = 0x8000;
/// How long a datagram may take; generous, because the machine may be small and busy.
pub const ARRIVES_WITHIN: Duration = Duration::from_secs(20);

/// The calling thread is the relay's.
pub struct Streets {
    pub relay: Namespace,
    pub alice: UdpSocket,
    pub bob: UdpSocket,
    homes: [Namespace; 2],
}

impl Streets {
    pub fn new() -> Self {
        let alice_home = Namespace::enter_new();
        let bob_home = Namespace::enter_new();
        let relay = Namespace::enter_new();
        join("wan", "198.51.100.1/24", &alice_home);
        join("lan", "203.0.113.1/24", &bob_home);
        let alice = move_in(&alice_home, "198.51.100.7/24", "198.51.100.1", ALICE);
        let bob = move_in(&bob_home, "203.0.113.7/24", "203.0.113.1", BOB);
        relay.enter();
        Self { relay, alice, bob, homes: [alice_home, bob_home] }
    }

    /// Does something in the namespace of a user: 0 is Alice's, 1 is Bob's.
    pub fn at_home<T>(&self, user: usize, act: impl FnOnce() -> T) -> T {
        self.homes[user].enter();
        let result = act();
        self.relay.enter();
        result
    }
}

/// Puts a session between Alice and Bob, and everything it needs, into the program's tables.
pub fn connect(programs: &mut Programs) {
    let settings = Settings { routing_interface: LOOPBACK_INTERFACE, ..Settings::default() };
    let tables = &mut programs.tables;
    tables.settings.set(settings).unwrap();
    tables.ports.set(49_152..=49_153, Port::Session).unwrap();
    for interface in ["wan", "lan"] {
        tables.egress.insert(index_of(interface)).unwrap();
    }
    let [alice, bob, for_bob, for_alice] = [ALICE, BOB, FOR_BOB, FOR_ALICE].map(address);
    tables.local_addresses.insert(for_bob.ip(), &[Port::Session]).unwrap();
    tables.local_addresses.insert(for_alice.ip(), &[Port::Session]).unwrap();
    let to_bob = Session::relayed(for_alice, bob, None, 0);
    let to_alice = Session::relayed(for_bob, alice, None, 0);
    tables.sessions.insert(SessionKey::new(alice, for_bob, None), to_bob).unwrap();
    tables.sessions.insert(SessionKey::new(bob, for_alice, None), to_alice).unwrap();
}

/// Sends until it arrives, as UDP's users do. Returns how many were sent.
///
/// # Panics
/// When nothing arrives in time, or something else does.
pub fn deliver(from: &UdpSocket, to: &str, at: &UdpSocket, payload: &[u8], source: &str) -> u32 {
    at.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let tries = u32::try_from(ARRIVES_WITHIN.as_millis() / 100).unwrap();
    let mut buffer = [0; 2048];
    for sent in 1..=tries {
        send(from, payload, to);
        if let Ok((bytes, came_from)) = at.recv_from(&mut buffer) {
            assert_eq!(&buffer[..bytes], payload);
            assert_eq!(came_from, address(source));
            return sent;
        }
    }
    panic!("nothing arrived from {from:?} by {to} at {at:?}");
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A pair of interfaces, one here and one at a user's.
fn join(interface: &str, address: &str, home: &Namespace) {
    let path = home.path();
    ip(&format!("link add {interface} type veth peer name eth0 netns {path}"));
    ip(&format!("addr add {address} dev {interface}"));
    ip(&format!("link set {interface} up"));
}

/// Moves the calling thread in, and opens the user's socket.
fn move_in(home: &Namespace, address: &str, gateway: &str, socket: &str) -> UdpSocket {
    home.enter();
    ip(&format!("addr add {address} dev eth0"));
    ip("link set eth0 up");
    ip(&format!("route add default via {gateway}"));
    UdpSocket::bind(socket).unwrap()
}

/// Sends a datagram with a finished checksum. A sender on veth leaves that to a card that is not
/// there, unless the datagram is made of several pieces.
pub fn send(from: &UdpSocket, payload: &[u8], to: &str) {
    let (first, rest) = payload.split_at(1);
    let socket = socket2::SockRef::from(from);
    let to = socket2::SockAddr::from(address(to));
    socket.send_to_with_flags(first, &to, MSG_MORE).unwrap();
    socket.send_to(rest, &to).unwrap();
}

//! Two ends of a real WireGuard implementation through a table of UDP sessions.
//!
//! The ends are boringtun's, the table's clock is the test's: what the table takes for a handshake,
//! an index or a keep-alive is what an implementation that knows nothing of it sends.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "udp/packets.rs"]
#[allow(dead_code, reason = "other tests need it")]
mod packets;
#[path = "udp/world.rs"]
#[allow(dead_code, reason = "other tests need the rest")]
mod world;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use std::collections::VecDeque;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::wireguard::PublicKey;
use waystation_relay::udp::{Event, Evidence, Learning, Outcome, Protocol, Side};

use world::{HOME, World, address, by_handshake, by_proof, fixed};

/// Room for what an end writes: a packet of the largest MTU here, and a handshake.
const SCRATCH_BYTES: usize = 2048;
const AWAY: &str = "198.51.100.7:3000";
/// The usual MTU inside of a tunnel.
const MTU_BYTES: usize = 1420;

/// One end, and where its datagrams come from.
struct End {
    tunnel: Tunn,
    source: String,
    /// Packets that came out of the tunnel.
    arrived: Vec<Vec<u8>>,
}

struct Tunnel {
    world: World,
    session: UdpSessionTag,
    ends: [End; 2],
    /// Datagrams on their way to the box, and whose they are.
    sent: VecDeque<(Side, Vec<u8>)>,
    refused: Vec<DropReason>,
}

fn keys() -> [x25519::StaticSecret; 2] {
    [x25519::StaticSecret::from([0x11; 32]), x25519::StaticSecret::from([0x22; 32])]
}

/// The public keys as the operator gives them.
fn public_keys() -> [Option<PublicKey>; 2] {
    keys().map(|key| Some(PublicKey(x25519::PublicKey::from(&key).to_bytes())))
}

impl Tunnel {
    fn new(legs: [Learning; 2], preshared: Option<[u8; 32]>) -> Self {
        let mut world = World::new();
        let session = world.open(legs, Protocol::Wireguard { public_keys: public_keys() });
        world.take_events();
        let [a, b] = keys();
        let end = |own: &x25519::StaticSecret, other: &x25519::StaticSecret, side: Side| End {
            tunnel: Tunn::new(
                own.clone(),
                x25519::PublicKey::from(other),
                preshared,
                None,
                7 + side as u32,
                None,
            ),
            source: HOME[side.index()].to_owned(),
            arrived: Vec::new(),
        };
        let ends = [end(&a, &b, Side::A), end(&b, &a, Side::B)];
        Self { world, session, ends, sent: VecDeque::new(), refused: Vec::new() }
    }

    /// Puts an IP packet into the tunnel at a side, and lets everything that follows arrive.
    fn send(&mut self, side: Side, packet: &[u8]) {
        let mut scratch = [0; SCRATCH_BYTES];
        let result = self.ends[side.index()].tunnel.encapsulate(packet, &mut scratch);
        if let TunnResult::WriteToNetwork(datagram) = result {
            self.sent.push_back((side, datagram.to_vec()));
        }
        self.deliver();
    }

    /// A side begins another handshake.
    fn rekey(&mut self, side: Side) {
        let mut scratch = [0; SCRATCH_BYTES];
        let tunnel = &mut self.ends[side.index()].tunnel;
        let TunnResult::WriteToNetwork(datagram) =
            tunnel.format_handshake_initiation(&mut scratch, true)
        else {
            panic!("no initiation");
        };
        self.sent.push_back((side, datagram.to_vec()));
        self.deliver();
    }

    /// The box takes what was sent, and the ends what it passes on, until all is quiet.
    fn deliver(&mut self) {
        while let Some((side, datagram)) = self.sent.pop_front() {
            let source = self.ends[side.index()].source.clone();
            match self.world.receive(side, &source, &datagram) {
                // A NAT lets in what goes to where its end sends from, and nothing else.
                Outcome::Forward { to, .. } => {
                    if to == address(&self.ends[side.other().index()].source) {
                        self.arrive(side.other(), &datagram);
                    }
                }
                Outcome::Drop(reason) => self.refused.push(reason),
                Outcome::Answer(_) => panic!("an answer to WireGuard"),
            }
        }
    }

    fn arrive(&mut self, side: Side, datagram: &[u8]) {
        let mut scratch = [0; SCRATCH_BYTES];
        let end = &mut self.ends[side.index()];
        let mut datagram = datagram;
        loop {
            match end.tunnel.decapsulate(None, datagram, &mut scratch) {
                TunnResult::WriteToNetwork(answer) => {
                    self.sent.push_back((side, answer.to_vec()));
                    datagram = &[];
                }
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    end.arrived.push(packet.to_vec());
                    return;
                }
                TunnResult::Done => return,
                TunnResult::Err(error) => panic!("{side:?}: {error:?}"),
            }
        }
    }

    /// Sends packets of all sorts of sizes both ways, which must all arrive.
    fn assert_carries(&mut self) {
        for bytes in [20, 21, 35, 36, 100, 1_001, MTU_BYTES - 1, MTU_BYTES] {
            for side in Side::BOTH {
                let packet = ip_packet(bytes);
                let arrived = self.ends[side.other().index()].arrived.len();
                self.send(side, &packet);
                let arrived = self.ends[side.other().index()].arrived.get(arrived..).unwrap();
                assert_eq!(arrived, [packet], "{bytes} bytes from {side:?}");
            }
        }
        assert_eq!(self.refused, []);
    }

    fn address(&self, side: Side) -> Option<std::net::SocketAddr> {
        self.world.address_of(self.session, side)
    }
}

/// An IPv4 packet of so many bytes, with nothing but a head that says so.
fn ip_packet(bytes: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; bytes];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(bytes).unwrap().to_be_bytes());
    packet
}

#[test]
fn tunnel_between_fixed_legs_carries_packets_of_every_size() {
    Tunnel::new([fixed(HOME[0]), fixed(HOME[1])], None).assert_carries();
}

#[test]
fn preshared_key_makes_no_difference() {
    Tunnel::new([by_handshake(), fixed(HOME[1])], Some([9; 32])).assert_carries();
}

#[test]
fn first_packet_of_a_client_opens_the_tunnel_and_teaches_where_it_is() {
    let mut tunnel = Tunnel::new([by_handshake(), fixed(HOME[1])], None);
    tunnel.send(Side::A, &ip_packet(100));
    assert_eq!(tunnel.ends[1].arrived, [ip_packet(100)]);
    let by = Evidence::Handshake;
    let (session, address) = (tunnel.session, address(HOME[0]));
    let learned = Event::Learned { session, side: Side::A, address, by };
    assert_eq!(tunnel.world.take_events(), [learned]);
    tunnel.assert_carries();
}

#[test]
fn ends_that_are_both_unknown_find_each_other() {
    let mut tunnel = Tunnel::new([by_handshake(), by_handshake()], None);
    tunnel.send(Side::A, &ip_packet(100));
    assert_eq!(tunnel.refused, [DropReason::UdpLegUnknown]);
    tunnel.refused.clear();
    tunnel.send(Side::B, &ip_packet(200));
    assert_eq!(tunnel.address(Side::A), Some(address(HOME[0])));
    assert_eq!(tunnel.address(Side::B), Some(address(HOME[1])));
    tunnel.assert_carries();
}

#[test]
fn rebound_nat_costs_no_more_than_the_hold_down() {
    let mut tunnel = Tunnel::new([by_handshake(), fixed(HOME[1])], None);
    tunnel.assert_carries();
    AWAY.clone_into(&mut tunnel.ends[0].source);
    tunnel.world.wait(1);
    let before = tunnel.ends[0].arrived.len();
    // Up it goes on as if nothing had happened; down it does not yet arrive.
    tunnel.send(Side::A, &ip_packet(100));
    assert_eq!(tunnel.ends[1].arrived.last(), Some(&ip_packet(100)));
    tunnel.send(Side::B, &ip_packet(100));
    assert_eq!(tunnel.ends[0].arrived.len(), before);
    tunnel.world.wait(3);
    tunnel.send(Side::A, &ip_packet(101));
    tunnel.send(Side::B, &ip_packet(102));
    assert_eq!(tunnel.ends[0].arrived.last(), Some(&ip_packet(102)));
    assert_eq!(tunnel.address(Side::A), Some(address(AWAY)));
    tunnel.assert_carries();
}

#[test]
fn handshake_from_a_new_address_needs_no_hold_down() {
    let mut tunnel = Tunnel::new([by_handshake(), fixed(HOME[1])], None);
    tunnel.assert_carries();
    AWAY.clone_into(&mut tunnel.ends[0].source);
    tunnel.rekey(Side::A);
    assert_eq!(tunnel.address(Side::A), Some(address(AWAY)));
    tunnel.assert_carries();
}

#[test]
fn keys_change_in_either_direction_without_losing_a_packet() {
    let mut tunnel = Tunnel::new([by_handshake(), by_handshake()], None);
    tunnel.send(Side::A, &ip_packet(20));
    tunnel.send(Side::B, &ip_packet(20));
    tunnel.refused.clear();
    for round in 0..3 {
        tunnel.rekey(if round % 2 == 0 { Side::A } else { Side::B });
        tunnel.assert_carries();
        tunnel.world.wait(120);
    }
}

#[test]
fn initiation_that_is_sent_again_from_elsewhere_is_not_answered_and_moves_nothing() {
    let mut tunnel = Tunnel::new([by_handshake(), fixed(HOME[1])], None);
    let mut scratch = [0; SCRATCH_BYTES];
    let TunnResult::WriteToNetwork(seen) =
        tunnel.ends[0].tunnel.format_handshake_initiation(&mut scratch, true)
    else {
        panic!("no initiation");
    };
    tunnel.sent.push_back((Side::A, seen.to_vec()));
    tunnel.deliver();
    tunnel.assert_carries();
    let to = tunnel.world.passes(Side::A, AWAY, seen);
    assert_eq!(to, address(HOME[1]));
    let mut answer = [0; SCRATCH_BYTES];
    let result = tunnel.ends[1].tunnel.decapsulate(None, seen, &mut answer);
    assert!(matches!(result, TunnResult::Err(_)), "{result:?}");
    assert_eq!(tunnel.address(Side::A), Some(address(HOME[0])));
    tunnel.assert_carries();
}

#[test]
fn initiator_with_a_key_that_the_other_end_does_not_know_learns_nothing() {
    let mut tunnel = Tunnel::new([by_handshake(), fixed(HOME[1])], None);
    let stranger = x25519::StaticSecret::from([0x33; 32]);
    let [_, b] = keys();
    let mut other = Tunn::new(stranger, x25519::PublicKey::from(&b), None, None, 5, None);
    let mut scratch = [0; SCRATCH_BYTES];
    let TunnResult::WriteToNetwork(datagram) =
        other.format_handshake_initiation(&mut scratch, false)
    else {
        panic!("no initiation");
    };
    tunnel.world.passes(Side::A, AWAY, datagram);
    let mut answer = [0; SCRATCH_BYTES];
    let result = tunnel.ends[1].tunnel.decapsulate(None, datagram, &mut answer);
    assert!(matches!(result, TunnResult::Err(_)), "{result:?}");
    assert_eq!(tunnel.address(Side::A), None);
    tunnel.assert_carries();
}

#[test]
fn tunnel_over_a_leg_that_proves_itself_moves_at_once() {
    let mut tunnel = Tunnel::new([by_proof(Side::A), fixed(HOME[1])], None);
    for (counter, source) in [(1, HOME[0]), (2, AWAY)] {
        source.clone_into(&mut tunnel.ends[0].source);
        let proof = tunnel.world.proof(tunnel.session, Side::A, counter);
        let outcome = tunnel.world.receive(Side::A, source, &proof);
        assert!(matches!(outcome, Outcome::Answer(_)));
        tunnel.assert_carries();
    }
}

//! Packets with something changed: whatever it is, the node is as it was.

use waystation_a2al::limits::DATAGRAM_BYTES_MAX;
use waystation_a2al::message::{self, Body, TransactionId};
use waystation_a2al::node::NodeConfig;
use waystation_a2al::random::RandomSource;
use waystation_a2al::sha256;
use waystation_a2al::snapshot::Snapshot;

use super::stage::{Peer, STORED, Stage};

const PACKETS: usize = 100_000;

/// What the node knows and keeps.
fn state(stage: &Stage) -> [u8; 32] {
    let table: Vec<_> = stage.node.table().entries().map(|entry| entry.info).collect();
    let published: Vec<_> = stage.node.published().map(|published| published.key).collect();
    let known = stage.node.peers().len();
    let nodes = format!("{table:?} {published:?} {known}");
    sha256(&[&Snapshot::of(&stage.node).encode(), nodes.as_bytes()])
}

/// Bits flipped, the end cut off, bytes put in or doubled: one to three of these.
fn mutated(packet: &[u8], random: &mut RandomSource) -> Vec<u8> {
    let mut packet = packet.to_vec();
    for _ in 0..=random.below(3) {
        let place = random.below(packet.len());
        match random.below(6) {
            0 => packet.truncate(place.max(1)),
            1 => packet.insert(place, random.bytes::<1>()[0]),
            2 => {
                packet.remove(place);
            }
            3 => packet[place] = random.bytes::<1>()[0],
            4 => packet.extend_from_within(place..),
            _ => packet[place] ^= 1 << random.below(8),
        }
        packet.truncate(DATAGRAM_BYTES_MAX);
        if packet.is_empty() {
            packet.push(0);
        }
    }
    packet
}

#[test]
fn a_hundred_thousand_mutated_packets_leave_the_node_as_it_was() {
    let mut stage = Stage::new(NodeConfig::default());
    let (peer, other) = (Peer::new(1), Peer::new(2));
    stage.meet(&peer);
    let record = peer.record(5, b"kept", 1);
    assert_eq!(stage.store(&peer, &record, None), STORED);
    // None of these changes anything when it comes as it is, since it has come already.
    let at = peer.at;
    let bodies = [
        peer.ping(),
        Body::Pong { address: peer.key.address(), observed: at },
        Body::FindNode { target: other.id() },
        Body::FindNodeResponse { nodes: Some(Vec::new()), observed: at },
        Body::FindValue { target: peer.id(), record_type: record.record_type, subscribe: false },
        Body::Store { record: Box::new(record.clone()), key: None },
        Body::Push { key: peer.id(), record: Box::new(record) },
        Body::NatProbeRequest { token: [1; 8], claimed: at },
        Body::NatProbeEcho { token: [2; 8] },
    ];
    let packets: Vec<_> = bodies
        .iter()
        .map(|body| message::encode(&peer.key, TransactionId([9; 20]), body))
        .collect();
    let before = state(&stage);
    let mut random = RandomSource::new([5; 32]);
    for number in 0..PACKETS {
        let packet = mutated(&packets[number % packets.len()], &mut random);
        // Slowly enough for the rates, which would keep most from being looked at.
        stage.now.millis = stage.now.millis.plus(10);
        stage.receive(&packet, at);
        if number % 1_000 == 0 {
            stage.sent();
            assert_eq!(state(&stage), before, "packet {number}");
        }
    }
    assert_eq!(state(&stage), before);
    let statistics = stage.node.statistics();
    assert!(statistics.received > PACKETS as u64);
}

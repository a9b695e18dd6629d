//! What a node has after a restart.

use waystation_a2al::message::Body;
use waystation_a2al::node::{Event, NodeConfig};
use waystation_a2al::payload::TopicPayload;
use waystation_a2al::record::{RecordType, topic_key};
use waystation_a2al::sha256;
use waystation_a2al::snapshot::{Portions, Snapshot, SnapshotError};

use super::stage::{Peer, STORED, Stage};

fn lived() -> (Stage, Peer) {
    let mut stage = Stage::new(NodeConfig::default());
    let peer = Peer::new(1);
    stage.meet(&peer);
    assert_eq!(stage.store(&peer, &peer.record(5, b"kept", 1), None), STORED);
    let foreign = Peer::new(2).record(5, b"not confirmed", 1);
    assert_eq!(stage.store(&peer, &foreign, None), STORED);
    (stage, peer)
}

#[test]
fn nodes_and_records_are_there_again_once_they_have_proved_themselves() {
    let (stage, peer) = lived();
    let snapshot = Snapshot::of(&stage.node);
    assert_eq!((snapshot.nodes.len(), snapshot.records.len()), (1, 1));
    let read = Snapshot::decode(&snapshot.encode()).unwrap();
    assert_eq!(read, snapshot);
    let mut again = Stage::new(NodeConfig::default());
    again.node.restore_nodes(&read.nodes, again.now);
    for (key, record) in read.records {
        again.node.restore_record(key, record, again.now).unwrap();
    }
    assert!(again.node.table().is_empty());
    let sent = again.sent();
    assert!(
        matches!(&sent[..], [(to, ping)] if *to == peer.at && matches!(ping.body, Body::Ping { .. }))
    );
    again.answer_pings(&peer, &sent);
    assert!(
        matches!(again.node.take_event(), Some(Event::Joined { node, .. }) if node == peer.id())
    );
    assert_eq!(again.node.table().len(), 1);
    again.sent();
    assert_eq!(again.read(&peer, peer.id()), [peer.record(5, b"kept", 1)]);
}

#[test]
fn portions_of_any_size_make_the_same_file() {
    let (mut stage, peer) = lived();
    for sequence in 0..7 {
        let topic = topic_key(&format!("topic {sequence}"));
        let payload =
            TopicPayload { topic: format!("topic {sequence}"), ..TopicPayload::default() };
        let (kind, now) = (RecordType::TOPIC, stage.now);
        stage.node.publish_own(topic, kind, payload.encode(), now).unwrap();
    }
    assert_eq!(stage.store(&peer, &peer.record(6, b"newer", 2), None), STORED);
    let whole = Snapshot::of(&stage.node).encode();
    for size in [1, 2, 3, 8, 100] {
        let mut portions = Portions::of(&stage.node);
        let pieces: Vec<_> = std::iter::from_fn(|| portions.take(size)).collect();
        assert_eq!(pieces.concat(), whole, "{size}");
    }
    let mut none = Portions::of(&Stage::new(NodeConfig::default()).node);
    let bytes = none.take(1).unwrap();
    assert_eq!(Snapshot::decode(&bytes), Ok(Snapshot::default()));
    assert_eq!(none.take(1), None);
}

#[test]
fn a_torn_changed_or_foreign_file_is_told() {
    let (stage, _) = lived();
    let bytes = Snapshot::of(&stage.node).encode();
    for end in 0..bytes.len() {
        assert_eq!(Snapshot::decode(&bytes[..end]), Err(SnapshotError::Digest));
    }
    let mut changed = bytes.clone();
    for bit in 0..bytes.len() * 8 {
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Snapshot::decode(&changed), Err(SnapshotError::Digest));
        changed[bit / 8] ^= 1 << (bit % 8);
    }
    let other = [0xa1, 0x01, 0x02];
    let other = [&other[..], &sha256(&[&other])].concat();
    assert_eq!(Snapshot::decode(&other), Err(SnapshotError::Format));
}

#[test]
fn records_that_expired_or_were_forged_meanwhile_do_not_come_back() {
    let (stage, peer) = lived();
    let snapshot = Snapshot::of(&stage.node);
    let (key, record) = snapshot.records[0].clone();
    let mut again = Stage::new(NodeConfig::default());
    let mut forged = record.clone();
    forged.payload = b"other".to_vec();
    assert!(again.node.restore_record(key, forged, again.now).is_err());
    again.pass(3_700_000);
    assert!(again.node.restore_record(key, record, again.now).is_err());
    assert!(again.node.store().is_empty(), "{}", peer.id());
}

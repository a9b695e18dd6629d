//! What a beacon does otherwise than a node among others (specification §13.8, §19.6).

use std::net::SocketAddr;

use waystation_a2al::limits::{RENEWAL_MS, STORES_PER_ADDRESS, STORES_PER_ADDRESS_BEACON};
use waystation_a2al::message::Body;
use waystation_a2al::node::{DropReason, NodeConfig};
use waystation_a2al::payload::TopicPayload;
use waystation_a2al::rate::Rates;
use waystation_a2al::record::{RecordType, topic_key};

use super::stage::{Peer, STORED, Stage};

fn beacon() -> Stage {
    Stage::new(NodeConfig { is_passive: true, rates: Rates::BEACON, ..NodeConfig::default() })
}

/// What a node asks of peers that answer everything, over that time, by the names of its questions.
fn asked(stage: &mut Stage, peers: &[Peer], milliseconds: u64) -> Vec<&'static str> {
    let mut asked = Vec::new();
    for _ in 0..milliseconds / 1_000 {
        stage.pass(1_000);
        for (to, question) in stage.sent() {
            let peer = peers.iter().find(|peer| peer.at == to).unwrap();
            let observed = SocketAddr::from(([31, 0, 0, 1], 4121));
            let (name, answer) = match &question.body {
                Body::Ping { .. } => ("ping", Body::Pong { address: peer.key.address(), observed }),
                Body::FindNode { .. } => {
                    ("find", Body::FindNodeResponse { nodes: Some(Vec::new()), observed })
                }
                Body::Store { .. } => ("store", STORED),
                Body::NatProbeRequest { .. } => continue,
                other => panic!("{other:?}"),
            };
            asked.push(name);
            stage.reply(peer, &question, &answer);
        }
    }
    asked
}

#[test]
fn a_beacon_publishes_and_probes_but_looks_for_nobody() {
    for (mut stage, looks) in [(beacon(), false), (Stage::new(NodeConfig::default()), true)] {
        let peers: Vec<Peer> = (1..=5).map(Peer::new).collect();
        peers.iter().for_each(|peer| stage.meet(peer));
        let (name, now) = ("t", stage.now);
        let payload = TopicPayload { topic: name.to_owned(), ..TopicPayload::default() };
        let payload = payload.encode();
        stage.node.publish_own(topic_key(name), RecordType::TOPIC, payload, now).unwrap();
        let asked = asked(&mut stage, &peers, 2 * RENEWAL_MS);
        let count = |name| asked.iter().filter(|asked| **asked == name).count();
        assert!(count("store") >= 2 * peers.len(), "{}", count("store"));
        assert!(count("ping") >= peers.len());
        assert_eq!(count("find") > 0, looks, "{}", count("find"));
        assert_eq!(stage.node.table().len(), peers.len());
    }
}

#[test]
fn those_who_come_by_themselves_fill_a_beacons_table_and_keep_it_on_line() {
    let mut stage = beacon();
    for number in 1..=40 {
        stage.meet(&Peer::new(number));
        stage.pass(1_000);
    }
    assert!(stage.node.table().len() >= 24, "{}", stage.node.table().len());
    // It has asked nobody for a minute, and one who speaks to it shows that the network is there.
    let peer = Peer::new(1);
    stage.pass(60_000);
    stage.sent();
    assert!(stage.node.peers().is_offline(stage.now.millis));
    let (answer, _) = stage.ask(&peer, &peer.ping());
    assert!(matches!(answer, Some(Body::Pong { .. })));
    assert!(!stage.node.peers().is_offline(stage.now.millis));
}

#[test]
fn a_daemon_brings_a_beacon_everything_at_once_and_a_member_not() {
    const RECORDS: u32 = 300;
    const {
        assert!(RECORDS > STORES_PER_ADDRESS.burst && RECORDS < STORES_PER_ADDRESS_BEACON.burst);
    }
    let authors: Vec<Peer> = (100..110).map(Peer::new).collect();
    for (mut stage, taken) in
        [(beacon(), RECORDS), (Stage::new(NodeConfig::default()), STORES_PER_ADDRESS.burst)]
    {
        let daemon = Peer::new(1);
        stage.meet(&daemon);
        let mut kept = 0;
        for number in 0..RECORDS {
            let author = &authors[number as usize % authors.len()];
            let topic = format!("topic {number}");
            let payload = TopicPayload { topic: topic.clone(), ..TopicPayload::default() };
            let record = author.record(0x10, &payload.encode(), 1);
            let body = Body::Store { record: Box::new(record), key: Some(topic_key(&topic)) };
            kept += u32::from(stage.ask(&daemon, &body).0 == Some(STORED));
        }
        assert_eq!(kept, taken);
        let dropped = stage.node.statistics().dropped(DropReason::RateOfStores);
        assert_eq!(dropped, u64::from(RECORDS - taken));
        assert_eq!(stage.node.store().len(), taken as usize);
    }
}

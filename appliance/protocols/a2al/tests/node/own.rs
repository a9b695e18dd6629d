//! What a node publishes in its own name.

use std::net::SocketAddr;

use waystation_a2al::limits::{LEAVE_TTL_S, OWN_PAYLOADS_MAX, RENEWAL_MS};
use waystation_a2al::message::Body;
use waystation_a2al::node::NodeConfig;
use waystation_a2al::payload::{EndpointPayload, ProfilePayload, TopicPayload};
use waystation_a2al::record::{RecordType, SignedRecord, topic_key};
use waystation_a2al::store::PutError;

use super::stage::{Peer, STORED, Stage};

fn topic(name: &str) -> Vec<u8> {
    TopicPayload { topic: name.to_owned(), ..TopicPayload::default() }.encode()
}

fn kinds(stage: &Stage) -> Vec<u8> {
    stage.node.published().map(|published| published.record.record_type.0).collect()
}

#[test]
fn endpoint_profile_and_topics_stand_beside_each_other_and_are_signed_anew() {
    let mut stage = Stage::new(NodeConfig::default());
    let (id, now) = (stage.node.id(), stage.now);
    stage.node.set_endpoints(vec![SocketAddr::from(([31, 0, 0, 1], 4121))], now);
    let profile = ProfilePayload { name: "box".to_owned(), ..ProfilePayload::default() };
    let payload = profile.encode().unwrap();
    stage.node.publish_own(id, RecordType::PROFILE, payload, now).unwrap();
    stage.node.publish_own(topic_key("t"), RecordType::TOPIC, topic("t"), now).unwrap();
    stage.pass(10);
    let mut before = kinds(&stage);
    before.sort_unstable();
    assert_eq!(before, [1, 2, 16]);
    let times = |stage: &Stage| -> Vec<(u64, u64)> {
        let records = stage.node.published().map(|published| &published.record);
        records.map(|record| (record.sequence, record.timestamp)).collect()
    };
    let first = times(&stage);
    stage.pass(RENEWAL_MS + 1_000);
    let second = times(&stage);
    assert!(first.iter().zip(&second).all(|(old, new)| new > old), "{first:?} {second:?}");
    for published in stage.node.published() {
        assert!(published.record.expires_at() > stage.now.unix.0 + 1_800);
        published.record.verify().unwrap();
    }
}

#[test]
fn what_is_taken_back_is_not_renewed_and_a_changed_address_is_published_at_once() {
    let mut stage = Stage::new(NodeConfig::default());
    let now = stage.now;
    stage.node.publish_own(topic_key("t"), RecordType::TOPIC, topic("t"), now).unwrap();
    assert!(stage.node.withdraw_own(topic_key("t"), RecordType::TOPIC));
    assert!(!stage.node.withdraw_own(topic_key("t"), RecordType::TOPIC));
    assert!(kinds(&stage).is_empty());
    let mut last = 0;
    for port in [1, 2, 3] {
        let now = stage.now;
        stage.node.set_endpoints(vec![SocketAddr::from(([31, 0, 0, 1], port))], now);
        stage.pass(5);
        let record = stage.node.published().next().unwrap().record.clone();
        let payload = EndpointPayload::decode(&record.payload).unwrap();
        assert_eq!(payload.addresses().next().unwrap().port(), port);
        assert!(record.sequence > last);
        last = record.sequence;
    }
}

#[test]
fn payloads_that_nobody_would_keep_are_refused_and_there_is_a_limit() {
    let mut stage = Stage::new(NodeConfig::default());
    let now = stage.now;
    let elsewhere = topic_key("another");
    let wrong = stage.node.publish_own(elsewhere, RecordType::TOPIC, topic("t"), now);
    assert!(matches!(wrong, Err(PutError::Record(_))));
    assert!(kinds(&stage).is_empty());
    for number in 0..OWN_PAYLOADS_MAX {
        let name = format!("topic {number}");
        let key = topic_key(&name);
        stage.node.publish_own(key, RecordType::TOPIC, topic(&name), now).unwrap();
    }
    let more = stage.node.publish_own(topic_key("more"), RecordType::TOPIC, topic("more"), now);
    assert_eq!(more, Err(PutError::TooMany));
    let again =
        stage.node.publish_own(topic_key("topic 1"), RecordType::TOPIC, topic("topic 1"), now);
    assert!(again.is_ok());
}

/// What a node of the network says to a question.
fn answer(peer: &Peer, question: &Body) -> Option<Body> {
    let observed = SocketAddr::from(([31, 0, 0, 1], 4121));
    match question {
        Body::Ping { .. } => Some(Body::Pong { address: peer.key.address(), observed }),
        Body::FindNode { .. } => Some(Body::FindNodeResponse { nodes: Some(Vec::new()), observed }),
        Body::Store { .. } => Some(STORED),
        Body::NatProbeRequest { .. } => None,
        other => panic!("{other:?}"),
    }
}

/// Passes time, and answers what the node asks as a network of these peers would. Gives back what it
/// had stored, by peer.
fn live(stage: &mut Stage, peers: &[Peer], milliseconds: u64) -> Vec<(SocketAddr, SignedRecord)> {
    let mut stored = Vec::new();
    for _ in 0..milliseconds / 100 {
        stage.pass(100);
        for (to, question) in stage.sent() {
            let peer = peers.iter().find(|peer| peer.at == to).unwrap();
            if let Body::Store { record, .. } = &question.body {
                stored.push((to, (**record).clone()));
            }
            if let Some(answer) = answer(peer, &question.body) {
                stage.reply(peer, &question, &answer);
            }
        }
    }
    stored
}

#[test]
fn a_node_that_leaves_has_its_records_end_soon_and_the_next_run_outranks_that() {
    let mut stage = Stage::new(NodeConfig::default());
    let peers: Vec<Peer> = (1..=3).map(Peer::new).collect();
    peers.iter().for_each(|peer| stage.meet(peer));
    let now = stage.now;
    let endpoint = SocketAddr::from(([31, 0, 0, 1], 4121));
    stage.node.set_endpoints(vec![endpoint], now);
    for name in ["of the relay", "by command"] {
        stage.node.publish_own(topic_key(name), RecordType::TOPIC, topic(name), now).unwrap();
    }
    let stored = live(&mut stage, &peers, 60_000);
    assert_eq!(stored.len(), 9, "three records at three nodes");
    let configured = [(topic_key("of the relay"), RecordType::TOPIC)];
    let now = stage.now;
    assert_eq!(stage.node.leave(&configured, now), 6);
    let farewells = stage.sent();
    assert_eq!(farewells.len(), 6, "each once");
    let newest = |record: &SignedRecord| {
        let of_slot = |(_, other): &&(SocketAddr, SignedRecord)| {
            (other.record_type, &other.payload) == (record.record_type, &record.payload)
        };
        stored.iter().filter(of_slot).map(|(_, other)| other.version()).max()
    };
    for (to, message) in &farewells {
        let Body::Store { record, key } = &message.body else { panic!("{message:?}") };
        assert!(peers.iter().any(|peer| peer.at == *to));
        assert_eq!((record.verify(), record.ttl_s), (Ok(()), LEAVE_TTL_S));
        assert_eq!(record.check_place(&key.unwrap()), Ok(()));
        assert!(Some(record.version()) > newest(record), "replicas take it in place of the other");
    }
    // A minute later it is back, knowing the sequence number alone.
    let last = farewells.iter().find_map(|(_, message)| match &message.body {
        Body::Store { record, .. } if record.record_type == RecordType::ENDPOINT => Some(record),
        _ => None,
    });
    let sequence = stage.node.sequence();
    assert_eq!(last.unwrap().sequence, sequence);
    let mut again = Stage::new(NodeConfig::default());
    again.pass(120_000);
    let now = again.now;
    again.node.set_endpoints(vec![endpoint], now);
    again.pass(10);
    let published = again.node.published().next().unwrap();
    assert!(published.record.version() > last.unwrap().version());
    let mut unpublished = Stage::new(NodeConfig::default());
    let now = unpublished.now;
    assert_eq!(unpublished.node.leave(&configured, now), 0, "nobody has anything of it");
}

#[test]
fn replicas_that_are_due_are_probed_at_once() {
    let mut stage = Stage::new(NodeConfig::default());
    let peers: Vec<Peer> = (1..=8).map(Peer::new).collect();
    peers.iter().for_each(|peer| stage.meet(peer));
    let now = stage.now;
    stage.node.publish_own(topic_key("t"), RecordType::TOPIC, topic("t"), now).unwrap();
    assert_eq!(live(&mut stage, &peers, 5_000).len(), 8);
    // Their probes are due half a minute after they have confirmed, one after the other; the next
    // round of upkeep asks all of them, and none waits for the answer of another.
    let mut pinged = Vec::new();
    for _ in 0..60 {
        stage.pass(1_000);
        for (to, question) in stage.sent() {
            let peer = peers.iter().find(|peer| peer.at == to).unwrap();
            match (&question.body, answer(peer, &question.body)) {
                (Body::Ping { .. }, _) => pinged.push((to, question)),
                (_, Some(answer)) => stage.reply(peer, &question, &answer),
                (_, None) => {}
            }
        }
        if !pinged.is_empty() {
            break;
        }
    }
    let to: std::collections::BTreeSet<_> = pinged.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, peers.iter().map(|peer| peer.at).collect());
}

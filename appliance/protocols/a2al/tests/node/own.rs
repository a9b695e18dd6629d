//! What a node publishes in its own name.

use std::net::SocketAddr;

use waystation_a2al::limits::{OWN_PAYLOADS_MAX, RENEWAL_MS};
use waystation_a2al::node::NodeConfig;
use waystation_a2al::payload::{EndpointPayload, ProfilePayload, TopicPayload};
use waystation_a2al::record::{RecordType, topic_key};
use waystation_a2al::store::PutError;

use super::stage::Stage;

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

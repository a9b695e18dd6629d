//! Nodes of several versions in one network (specification §21.2, §21.3): what later ones add is
//! skipped, and nothing is sent that earlier ones could not encode again.

use std::net::SocketAddr;

use waystation_a2al::keys::SigningKey;
use waystation_a2al::message::{Body, MessageType, PoolEntry, TransactionId};
use waystation_a2al::node::{DropReason, NodeConfig};
use waystation_a2al::payload::TopicPayload;
use waystation_a2al::record::{RecordType, topic_key};

use super::stage::{Peer, STORED, Stage};

/// A message of any type with any body, signed.
fn sealed(key: &SigningKey, message_type: u8, transaction: TransactionId, body: &[u8]) -> Vec<u8> {
    let header = [&[0xa4, 1, 1, 2, 0, 3, message_type, 4, 0x54][..], &transaction.0].concat();
    let signature = key.sign(&[b"a2al-msg\0", &header[..], body].concat());
    let parts: [&[u8]; 8] = [
        &[0xa4, 1],
        &header,
        &[2],
        body,
        &[3, 0x58, 0x20],
        &key.public().0,
        &[4, 0x58, 0x40],
        &signature.0,
    ];
    parts.concat()
}

#[test]
fn questions_with_keys_of_later_versions_are_answered_without_any() {
    let mut stage = Stage::new(NodeConfig::default());
    let peer = Peer::new(1);
    stage.meet(&peer);
    // A target, and a key 9 with a list in it.
    let body = [&[0xa2, 0x01, 0x58, 0x20][..], &[7; 32], &[0x09, 0x82, 0x01, 0xf6]].concat();
    let transaction = TransactionId([0x31; 20]);
    let packet = sealed(&peer.key, MessageType::FindNode.code(), transaction, &body);
    stage.receive(&packet, peer.at);
    // Each that is sent is read again, and has no key that is unknown here.
    let sent = stage.sent();
    let answer = sent.iter().find(|(_, it)| it.transaction == transaction);
    assert!(matches!(answer.unwrap().1.body, Body::FindNodeResponse { .. }));
    assert_eq!(stage.node.statistics().unknown_keys, 1);
    // A type of later versions has no answer, and leads to nothing.
    let packet = sealed(&peer.key, 0x0d, TransactionId([0x32; 20]), &[0xa0]);
    stage.receive(&packet, peer.at);
    assert!(stage.sent().is_empty());
    assert_eq!(stage.node.statistics().dropped(DropReason::UnknownType), 1);
}

#[test]
fn replicas_of_every_version_count_whatever_they_say_beside_that_it_is_stored() {
    let mut stage = Stage::new(NodeConfig::default());
    let peers: Vec<Peer> = (1..=3).map(Peer::new).collect();
    peers.iter().for_each(|peer| stage.meet(peer));
    let payload = TopicPayload { topic: "t".to_owned(), ..TopicPayload::default() }.encode();
    let now = stage.now;
    stage.node.publish_own(topic_key("t"), RecordType::TOPIC, payload, now).unwrap();
    let pool = vec![PoolEntry { record_type: RecordType::MAILBOX, count: 2, ids: vec![[1; 32]] }];
    for _ in 0..50 {
        stage.pass(100);
        for (to, question) in stage.sent() {
            let peer = peers.iter().find(|peer| peer.at == to).unwrap();
            let observed = SocketAddr::from(([31, 0, 0, 1], 4121));
            match &question.body {
                Body::FindNode { .. } => {
                    let answer = Body::FindNodeResponse { nodes: None, observed };
                    stage.reply(peer, &question, &answer);
                }
                // Of v0.3, with mail that waits; of v0.2; and one with a key of some later version.
                Body::Store { .. } if to == peers[0].at => {
                    let answer = Body::StoreResponse {
                        stored: true,
                        already_had: true,
                        refusal: None,
                        pool: pool.clone(),
                    };
                    stage.reply(peer, &question, &answer);
                }
                Body::Store { .. } if to == peers[1].at => stage.reply(peer, &question, &STORED),
                Body::Store { .. } => {
                    let code = MessageType::StoreResponse.code();
                    let body = [0xa2, 0x01, 0xf5, 0x05, 0x07];
                    let packet = sealed(&peer.key, code, question.transaction, &body);
                    stage.receive(&packet, peer.at);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let published = stage.node.published().next().unwrap();
    assert_eq!(published.active(), 3);
}

//! What is asked of a node.

use super::client::Client;
use std::fmt;
use waystation_a2al::message::Body;
use waystation_a2al::node_id::NodeId;
use waystation_a2al::record::{RecordType, SignedRecord, topic_key};
use waystation_a2al::sha256;

/// The topic under which a hundred records are planted.
pub const CROWDED_TOPIC: &str = "a crowded topic";

/// A kind of request.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Operation {
    Ping,
    /// 15 nodes, all with stored records.
    FindNode,
    FindValueHit,
    FindValueMiss,
    /// A topic with a hundred records, where they are planted.
    FindValueCrowded,
    /// The very record that is there.
    StoreHad,
    /// A newer version of it.
    StoreNew,
}

/// What requests of a round are made of.
#[derive(Debug)]
pub struct Material<'a> {
    pub clients: &'a [Client],
    /// Records that the node has, one of each client.
    pub records: &'a [SignedRecord],
    /// The sequence number of the next version of each record.
    pub sequence: u64,
    pub unix_s: u64,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Ping,
        Self::FindNode,
        Self::FindValueHit,
        Self::FindValueMiss,
        Self::FindValueCrowded,
        Self::StoreHad,
        Self::StoreNew,
    ];

    /// Signatures that the node has to verify, besides signing its answer: the envelope's, and that of
    /// a record which it has not seen and will hand on to others.
    pub fn verifications(self) -> usize {
        if self == Self::StoreNew { 2 } else { 1 }
    }

    /// Whether it is the same question to a node with planted records as to one without.
    pub fn is_same_with_planted(self) -> bool {
        self != Self::FindValueCrowded
    }

    /// The body of a request of a client.
    pub fn body(self, client: usize, number: usize, material: &Material<'_>) -> Body {
        let Material { clients, records, sequence, unix_s } = material;
        let target = || NodeId(sha256(&[&number.to_be_bytes(), &sequence.to_be_bytes()]));
        let find_value =
            |target, record_type| Body::FindValue { target, record_type, subscribe: false };
        match self {
            Self::Ping => Body::Ping { address: clients[client].address() },
            Self::FindNode => Body::FindNode { target: target() },
            Self::FindValueHit => {
                find_value(clients[number % clients.len()].id(), RecordType::ENDPOINT)
            }
            Self::FindValueMiss => find_value(target(), RecordType::ENDPOINT),
            Self::FindValueCrowded => find_value(topic_key(CROWDED_TOPIC), RecordType::TOPIC),
            Self::StoreHad => Body::Store { record: Box::new(records[client].clone()), key: None },
            Self::StoreNew => {
                let newer = *sequence + (number / clients.len()) as u64;
                let record = clients[client].record(newer, *unix_s);
                Body::Store { record: Box::new(record), key: None }
            }
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ping => "PING",
            Self::FindNode => "FIND_NODE, 15 nodes",
            Self::FindValueHit => "FIND_VALUE, a hit",
            Self::FindValueMiss => "FIND_VALUE, a miss",
            Self::FindValueCrowded => "FIND_VALUE, a topic of 100",
            Self::StoreHad => "STORE, had",
            Self::StoreNew => "STORE, newer",
        })
    }
}

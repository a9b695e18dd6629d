//! What operators ask the node, and tell it.

use waystation_a2al::address::Address;
use waystation_a2al::node_id::NodeId;
use waystation_a2al::record::RecordType;

/// One thing to know or to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DhtQuestion {
    /// `/v1/dht`
    Status,
    /// `/v1/dht/peers`, at most so many rows.
    Peers { limit: usize },
    /// `/v1/dht/records`, at most so many rows.
    Records { limit: usize },
    /// `/v1/dht/lookup`: how an address is reached, asked of the network.
    LookUp(Address),
    /// `/v1/dht/get`: all records of a type under a key, asked of the network.
    Get { key: NodeId, record_type: RecordType },
    /// `/v1/dht/publish` with a payload: publishes it in the node's name, until it is withdrawn or
    /// the program ends.
    Publish { key: NodeId, record_type: RecordType, payload: Vec<u8> },
    /// `/v1/dht/publish` without one: publishes everything of its own anew.
    PublishAll,
    /// `/v1/dht/withdraw`
    Withdraw { key: NodeId, record_type: RecordType },
}

impl DhtQuestion {
    /// Whether the answer waits for other nodes.
    pub fn asks_the_network(&self) -> bool {
        matches!(self, Self::LookUp(_) | Self::Get { .. })
    }
}

//! What records and the address book take, counted by the allocator: bytes that were asked of it and
//! not given back.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]
#![allow(clippy::print_stdout, reason = "the figure is of interest")]

#[expect(dead_code, reason = "a part is for worlds alone")]
#[path = "world/signatures.rs"]
mod signatures;

use signatures::Scheme;
use std::net::SocketAddr;
use waystation_a2al::keys::{SigningKey, Verifier as _};
use waystation_a2al::limits::{
    KNOWN_KEY_BYTES, KNOWN_KEYS_MAX, PEER_BYTES, PEERS_MAX, PLACE_BYTES, STORE_BYTES_DEFAULT,
    STORE_KEYS_DEFAULT,
};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::payload::{EndpointPayload, TopicPayload};
use waystation_a2al::peers::PeerBook;
use waystation_a2al::prefix::Prefix;
use waystation_a2al::record::{RecordType, SignedRecord, Unsigned, topic_key};
use waystation_a2al::sha256;
use waystation_a2al::store::{Origin, Put, Store, StoreLimits};
use waystation_a2al::time::{Millis, Now, UnixSeconds};
use waystation_a2al::verification::RememberingEd25519;
use waystation_proving::allocator::{CountingAllocator, held_bytes};

const NOW: Now = Now { millis: Millis(1_000), unix: UnixSeconds(1_800_000_000) };
const MIB: usize = 1 << 20;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Bytes that this thread has taken since.
fn taken_since(before: isize) -> usize {
    (held_bytes() - before).try_into().unwrap()
}

/// The record of somebody else each time, as it comes out of a datagram.
fn record(number: u64, record_type: RecordType, payload: Vec<u8>) -> SignedRecord {
    let signer = Scheme::KeyedHash.signer(sha256(&[&number.to_be_bytes()]));
    let unsigned = Unsigned {
        address: signer.address(),
        record_type,
        payload,
        sequence: NOW.unix.0,
        timestamp: NOW.unix.0,
        ttl_s: 3_600,
        delegation: Vec::new(),
    };
    SignedRecord::decode(&unsigned.sign(&*signer).encode()).unwrap()
}

/// What a node publishes: two addresses and its hub.
fn endpoint(number: u64) -> (NodeId, SignedRecord) {
    let payload = EndpointPayload {
        endpoints: Some(vec![
            format!("quic://198.51.100.{}:4121", number % 256),
            format!("quic://[2001:db8::{:x}]:4121", number % 65_536),
        ]),
        signal: "ws://198.51.100.7:4121/signal".to_owned(),
        ..EndpointPayload::default()
    };
    let record = record(number, RecordType::ENDPOINT, payload.encode());
    (record.address.node_id(), record)
}

/// One of 60 under the same topic, with as much to say as fits.
fn offer(number: u64) -> (NodeId, SignedRecord) {
    let topic = format!("topic {}", number / 60);
    let payload = TopicPayload {
        version: 1,
        topic: topic.clone(),
        name: "n".repeat(number as usize % 400),
        ..TopicPayload::default()
    };
    (topic_key(&topic), record(number, RecordType::TOPIC, payload.encode()))
}

/// Each comes from another network.
fn put(store: &mut Store, number: u64, (key, record): (NodeId, SignedRecord)) -> Put {
    let [.., high, middle, low] = number.to_be_bytes();
    let origin = Origin::Network(Prefix::customer([high, middle, low, 1].into()));
    store.put(key, record, origin, &mut *Scheme::KeyedHash.verifier(), NOW).unwrap()
}

#[test]
fn a_hundred_thousand_records_take_no_more_than_a_hundred_mebibytes() {
    let before = held_bytes();
    let limits = StoreLimits { keys_max: STORE_KEYS_DEFAULT, bytes_max: STORE_BYTES_DEFAULT };
    let mut store = Store::new(limits);
    for number in 0..100_000 {
        put(&mut store, number, endpoint(number));
    }
    let taken = taken_since(before);
    println!("{} records take {taken} bytes, and {} are counted", store.len(), store.bytes());
    assert_eq!((store.len(), store.keys()), (100_000, 100_000));
    assert!(taken <= 100 * MIB, "{taken} bytes");
    assert!(taken <= store.bytes(), "{taken} bytes, and {} are counted", store.bytes());
    drop(store);
    assert!(taken_since(before) < MIB, "everything is given back");
}

#[test]
fn records_take_no_more_than_the_operator_allows() {
    let before = held_bytes();
    let allowed = 8 * MIB;
    let mut store = Store::new(StoreLimits { keys_max: STORE_KEYS_DEFAULT, bytes_max: allowed });
    for number in 0..40_000 {
        let record = if number % 2 == 0 { endpoint(number) } else { offer(number) };
        put(&mut store, number, record);
        assert!(store.bytes() <= allowed);
    }
    let taken = taken_since(before);
    assert!(store.len() > 8_000, "{} records", store.len());
    assert!(taken <= allowed, "{taken} bytes");
}

#[test]
fn what_is_remembered_of_nodes_and_keys_takes_no_more_than_is_counted() {
    let before = held_bytes();
    let mut peers = PeerBook::default();
    // So many that both halves of the maps that forget are full.
    for number in 0..3 * PEERS_MAX as u32 {
        let bytes = number.to_be_bytes();
        let at = SocketAddr::from((bytes, 4121));
        peers.succeeded(NodeId(sha256(&[&bytes])), at, None, NOW.millis);
    }
    let taken = taken_since(before);
    println!("{} nodes take {taken} bytes", peers.len());
    assert_eq!(peers.len(), 2 * PEERS_MAX);
    assert!(taken <= 2 * PEERS_MAX * (PEER_BYTES + PLACE_BYTES), "{taken} bytes");
    let before = held_bytes();
    let mut verifier = RememberingEd25519::default();
    for number in 0..3 * KNOWN_KEYS_MAX as u64 {
        let key = SigningKey::from_seed(&sha256(&[&number.to_be_bytes()])).unwrap();
        assert!(verifier.verifies(&key.public(), b"said", &key.sign(b"said")));
    }
    let taken = taken_since(before);
    println!("{} keys take {taken} bytes", verifier.known());
    assert_eq!(verifier.known(), 2 * KNOWN_KEYS_MAX);
    assert!(taken <= 2 * KNOWN_KEYS_MAX * KNOWN_KEY_BYTES, "{taken} bytes");
}

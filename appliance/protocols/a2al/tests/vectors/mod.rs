//! Reads the specification's vectors and recorded conversations.

#![allow(dead_code, reason = "each test reads a part of them")]

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;
use waystation_a2al::keys::SigningKey;
use waystation_a2al::node_id::NodeId;

/// The time at which vectors are judged unless they say otherwise.
pub(crate) const NOW: u64 = 1_700_000_000;

/// Everything in one of the files beside this one.
pub(crate) fn read(name: &str) -> Value {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    serde_json::from_slice(&std::fs::read(directory.join(name)).unwrap()).unwrap()
}

/// One group of the vectors.
pub(crate) fn group(name: &str) -> Vec<Value> {
    let mut vectors = read("a2al-vectors.json");
    let group = vectors[name].take();
    let group = group.as_array().unwrap_or_else(|| panic!("no group {name}")).clone();
    assert!(!group.is_empty());
    group
}

/// The bytes of a field.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// The bytes of a field of fixed length.
pub(crate) fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

/// A place.
pub(crate) fn node_id(value: &Value) -> NodeId {
    NodeId(array(value))
}

/// The key of one of the vectors' identities.
pub(crate) fn key(name: &str) -> SigningKey {
    let identities = group("identities");
    let identity = identities.iter().find(|identity| identity["name"] == name).unwrap();
    SigningKey::from_seed(&array(&identity["seed"])).unwrap()
}

/// A socket address of a field for the IP and one for the port.
pub(crate) fn socket_address(value: &Value) -> SocketAddr {
    let port = u16::try_from(value["port"].as_u64().unwrap()).unwrap();
    SocketAddr::new(value["ip"].as_str().unwrap().parse().unwrap(), port)
}

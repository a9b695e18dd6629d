//! A2AL: messages, records, payloads, delegations, address texts and snapshots.

use std::net::SocketAddr;

use waystation_a2al::address_text;
use waystation_a2al::delegation::Delegation;
use waystation_a2al::message::{Body, DatagramKind, Parsed, classify};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::payload::{EndpointPayload, MailboxPayload, ProfilePayload, TopicPayload};
use waystation_a2al::record::SignedRecord;
use waystation_a2al::sha256;
use waystation_a2al::snapshot::{Snapshot, SnapshotError};
use waystation_a2al::time::UnixSeconds;

/// When records and delegations of the vectors are good.
const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

/// Reads the input as a message; what has no unknown keys is written as the same bytes.
pub fn a2al_message(input: &[u8]) {
    let Ok(parsed) = Parsed::parse(input) else {
        return;
    };
    assert_eq!(classify(input), DatagramKind::Message);
    let again = parsed.body.encode();
    assert!(again.len() <= input.len());
    if parsed.unknown_keys == 0 {
        assert_eq!(again, parsed.body_bytes(), "one value in two forms");
    }
    if let Body::FindNodeResponse { nodes: Some(nodes), observed } = &parsed.body {
        let size = Body::answer_bytes(*observed, nodes, std::iter::empty());
        assert_eq!(size, again.len());
        let addresses = nodes.iter().map(|node| node.socket_address());
        assert!(addresses.into_iter().all(|address| !is_mapped(address)));
    }
    let signature = *parsed.signature();
    if let Ok(message) = parsed.verify() {
        assert_eq!(message.sender.node_id(), message.sender_id);
        assert_ne!(signature.0, [0; 64]);
    }
}

fn is_mapped(address: SocketAddr) -> bool {
    address.ip().to_canonical() != address.ip()
}

/// Reads the input as a record; judging it never depends on anything but itself and the time.
pub fn a2al_record(input: &[u8]) {
    let Ok(record) = SignedRecord::decode(input) else {
        return;
    };
    let again = record.encode();
    assert_eq!(again.len(), record.encoded_bytes());
    assert_eq!(SignedRecord::decode(&again).as_ref(), Ok(&record));
    assert!(again.len() <= input.len());
    let version = record.version();
    assert_eq!((version.sequence, version.timestamp), (record.sequence, record.timestamp));
    let own_place = record.address.node_id();
    let places = [own_place, NodeId::ZERO].map(|place| record.check_place(&place).is_ok());
    // Topic records of types that are not known name no topic that could be compared.
    let is_anywhere = matches!(record.record_type.0, 0x11..=0x1f);
    assert!(is_anywhere || places != [true; 2], "a record belongs in two places");
    let is_good = record.check_time(NOW).is_ok();
    assert_eq!(is_good, record.timestamp <= NOW.0 + 60 && record.expires_at() >= NOW.0);
    if record.verify().is_ok() {
        assert_eq!(record.check_payload(), Ok(()));
    }
}

/// Reads the input as a payload of every type; what is written reads as the same.
pub fn a2al_payload(input: &[u8]) {
    if let Ok(payload) = EndpointPayload::decode(input) {
        assert_eq!(EndpointPayload::decode(&payload.encode()), Ok(payload.clone()));
        assert!(payload.addresses().count() <= 16);
        if payload.check().is_ok() {
            assert!(payload.hubs().count() <= 8);
        }
    }
    if let Ok(mut payload) = TopicPayload::decode(input) {
        payload.version = payload.version.max(1);
        assert_eq!(TopicPayload::decode(&payload.encode()), Ok(payload));
    }
    if let Ok(mut payload) = ProfilePayload::decode(input) {
        payload.version = payload.version.max(1);
        if let Ok(written) = payload.encode() {
            assert_eq!(ProfilePayload::decode(&written), Ok(payload));
        }
    }
    if let Ok(payload) = MailboxPayload::decode(input) {
        assert_eq!(MailboxPayload::decode(&payload.encode()), Ok(payload));
    }
}

/// Reads the input as a delegation, and judges it.
pub fn a2al_delegation(input: &[u8]) {
    let Ok(delegation) = Delegation::decode(input) else {
        return;
    };
    let again = delegation.encode();
    assert_eq!(Delegation::decode(&again).as_ref(), Ok(&delegation));
    if delegation.verify(NOW).is_ok() {
        assert_eq!(delegation.check_time(NOW), Ok(()));
        let later = UnixSeconds(delegation.expires_at.saturating_add(60));
        assert!(delegation.expires_at == 0 || delegation.check_time(later).is_err());
    }
}

/// Reads the input as the text of an address.
pub fn a2al_address(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(address) = address_text::parse(text) {
        assert_eq!(address.version() >> 4, 0xa);
        assert_eq!(address_text::parse(&address_text::format(&address)), Ok(address));
    }
}

/// Reads the input as a snapshot, and with the digest that makes it whole.
pub fn a2al_snapshot(input: &[u8]) {
    if let Ok(snapshot) = Snapshot::decode(input) {
        assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
    }
    let whole = [input, &sha256(&[input])].concat();
    match Snapshot::decode(&whole) {
        Ok(snapshot) => {
            let again = snapshot.encode();
            assert_eq!(Snapshot::decode(&again), Ok(snapshot));
        }
        Err(why) => assert_ne!(why, SnapshotError::Digest),
    }
}

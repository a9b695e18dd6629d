//! Properties of codec and signatures over arbitrary messages.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use waystation_a2al::address::Address;
use waystation_a2al::address_text;
use waystation_a2al::keys::{PublicKey, Signature, SigningKey};
use waystation_a2al::message::{
    self, Body, NodeInfo, Parsed, PoolEntry, Refusal, TransactionId, classify,
};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::record::{RecordType, SignedRecord, Unsigned};

fn addresses() -> impl Strategy<Value = Address> {
    any::<[u8; 21]>().prop_map(Address)
}

fn node_ids() -> impl Strategy<Value = NodeId> {
    any::<[u8; 32]>().prop_map(NodeId)
}

fn socket_addresses() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn node_infos() -> impl Strategy<Value = NodeInfo> {
    (addresses(), node_ids(), socket_addresses()).prop_map(|(address, node_id, at)| NodeInfo {
        address,
        node_id,
        ip: at.ip(),
        port: at.port(),
    })
}

prop_compose! {
    fn records()(
        address in addresses(),
        record_type in any::<u8>().prop_map(RecordType),
        payload in vec(any::<u8>(), 0..600),
        sequence in any::<u64>(),
        timestamp in any::<u64>(),
        ttl_s in any::<u32>(),
        public_key in any::<[u8; 32]>(),
        signature in (any::<[u8; 32]>(), any::<[u8; 32]>()),
        delegation in vec(any::<u8>(), 0..300),
    ) -> SignedRecord {
        let signature = [signature.0, signature.1].concat().try_into().unwrap();
        SignedRecord {
            address, record_type, payload, sequence, timestamp, ttl_s,
            public_key: PublicKey(public_key), signature: Signature(signature), delegation,
        }
    }
}

fn pools() -> impl Strategy<Value = PoolEntry> {
    (any::<u8>(), any::<u16>(), vec(any::<[u8; 32]>(), 0..=8)).prop_map(
        |(record_type, count, ids)| PoolEntry { record_type: RecordType(record_type), count, ids },
    )
}

fn refusals() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::Policy),
        Just(Refusal::Record),
        (3..=u8::MAX).prop_map(Refusal::Other)
    ]
}

fn questions() -> impl Strategy<Value = Body> {
    prop_oneof![
        node_ids().prop_map(|target| Body::FindNode { target }),
        (node_ids(), any::<u8>(), any::<bool>()).prop_map(|(target, record_type, subscribe)| {
            Body::FindValue { target, record_type: RecordType(record_type), subscribe }
        }),
        (records(), option::of(node_ids()))
            .prop_map(|(record, key)| Body::Store { record: Box::new(record), key }),
        (any::<[u8; 8]>(), socket_addresses())
            .prop_map(|(token, claimed)| Body::NatProbeRequest { token, claimed }),
        any::<[u8; 8]>().prop_map(|token| Body::NatProbeEcho { token }),
        (node_ids(), records())
            .prop_map(|(key, record)| Body::Push { key, record: Box::new(record) }),
    ]
}

fn answers() -> impl Strategy<Value = Body> {
    prop_oneof![
        (option::of(vec(node_infos(), 0..20)), socket_addresses())
            .prop_map(|(nodes, observed)| Body::FindNodeResponse { nodes, observed }),
        (
            option::of(vec(node_infos(), 0..20)),
            option::of(records().prop_map(Box::new)),
            socket_addresses(),
            vec(records(), 0..5)
        )
            .prop_map(|(nodes, record, observed, records)| Body::FindValueResponse {
                nodes,
                record,
                observed,
                records
            }),
        (any::<bool>(), any::<bool>(), option::of(refusals()), vec(pools(), 0..=16)).prop_map(
            |(stored, already_had, refusal, pool)| Body::StoreResponse {
                stored,
                already_had,
                refusal,
                pool
            }
        ),
        (node_ids(), any::<[u8; 32]>(), any::<bool>()).prop_map(|(key, message_id, subscribe)| {
            Body::PushAcknowledgement { key, message_id, subscribe }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_message_is_read_as_it_was_written(
        seed in any::<[u8; 32]>(),
        transaction in any::<[u8; 20]>().prop_map(TransactionId),
        body in prop_oneof![questions(), answers()],
    ) {
        let key = SigningKey::from_seed(&seed).unwrap();
        let packet = message::encode(&key, transaction, &body);
        prop_assert_eq!(classify(&packet), message::DatagramKind::Message);
        let parsed = Parsed::parse(&packet).unwrap();
        prop_assert_eq!(parsed.unknown_keys, 0);
        let message = parsed.verify().unwrap();
        prop_assert_eq!(&message.body, &body);
        prop_assert_eq!(message.sender, key.address());
        prop_assert_eq!(message.transaction, transaction);
    }

    #[test]
    fn any_record_is_read_as_it_was_written(record in records()) {
        let encoded = record.encode();
        prop_assert_eq!(encoded.len(), record.encoded_bytes());
        prop_assert_eq!(SignedRecord::decode(&encoded), Ok(record));
    }

    #[test]
    fn a_signed_record_verifies_until_a_signed_field_changes(
        seed in any::<[u8; 32]>(),
        payload in vec(any::<u8>(), 0..200),
        sequence in 0..u64::MAX,
        changed in 0_usize..5,
    ) {
        let key = SigningKey::from_seed(&seed).unwrap();
        let mut record = Unsigned {
            address: key.address(),
            record_type: RecordType(0x05),
            payload,
            sequence,
            timestamp: 1_700_000_000,
            ttl_s: 60,
            delegation: Vec::new(),
        }
        .sign(&key);
        prop_assert_eq!(record.verify(), Ok(()));
        match changed {
            0 => record.sequence += 1,
            1 => record.timestamp += 1,
            2 => record.ttl_s += 1,
            3 => record.payload.push(0),
            _ => record.address.0[5] ^= 1,
        }
        prop_assert!(record.verify().is_err());
    }

    #[test]
    fn any_address_reads_from_its_text(hash in any::<[u8; 20]>(), version in 0xa0_u8..=0xaf) {
        let address = Address::with_hash(version, &hash);
        prop_assert_eq!(address_text::parse(&address_text::format(&address)), Ok(address));
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_written_again(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(Parsed::parse(&bytes).is_err());
        if let Ok(record) = SignedRecord::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }

    #[test]
    fn ids_of_a_bucket_are_in_that_bucket(
        own in node_ids(),
        bucket in 0_usize..256,
        random in any::<[u8; 32]>(),
    ) {
        prop_assert_eq!(own.bucket_index(&own.within_bucket(bucket, random)), Some(bucket));
    }
}

//! The specification's vectors of identities, messages, records and delegations.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod vectors;

use std::net::SocketAddr;

use vectors::{NOW, array, bytes, group, key, node_id, read, socket_address};
use waystation_a2al::address::Address;
use waystation_a2al::address_text;
use waystation_a2al::cbor::CborError;
use waystation_a2al::chains::MessageClaims;
use waystation_a2al::delegation::{Delegation, DelegationError, Master};
use waystation_a2al::keys::{Signature, SigningKey};
use waystation_a2al::message::{
    self, Body, DatagramKind, MessageError, NodeInfo, Parsed, TransactionId, classify,
};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::payload::{EndpointPayload, TopicFilter, TopicPayload};
use waystation_a2al::record::{Category, RecordError, SignedRecord, Version, topic_key};
use waystation_a2al::replication::Published;
use waystation_a2al::socket_address::{canonical, is_public};
use waystation_a2al::time::{Millis, UnixSeconds};

#[test]
fn seeds_give_keys_addresses_and_node_ids() {
    for identity in group("identities") {
        let key = SigningKey::from_seed(&array(&identity["seed"])).unwrap();
        assert_eq!(key.public().0.to_vec(), bytes(&identity["public"]));
        assert_eq!(key.address().0.to_vec(), bytes(&identity["address"]));
        assert_eq!(address_text::format(&key.address()), identity["text"].as_str().unwrap());
        assert_eq!(key.address().node_id(), node_id(&identity["node_id"]));
    }
}

#[test]
fn addresses_have_one_text_and_read_from_their_other_forms() {
    for case in group("addresses") {
        let address = Address(array(&case["address"]));
        let text = case["text"].as_str().unwrap();
        assert_eq!(address_text::format(&address), text);
        assert_eq!(address_text::parse(text), Ok(address));
        assert_eq!(address.node_id(), node_id(&case["node_id"]));
        let texts = |name: &str| case[name].as_array().cloned().unwrap_or_default();
        for other in texts("also_parses_from") {
            assert_eq!(address_text::parse(other.as_str().unwrap()), Ok(address), "{other}");
        }
        for other in texts("must_not_parse") {
            assert!(address_text::parse(other.as_str().unwrap()).is_err(), "{other}");
        }
    }
    for case in group("address_text_parse") {
        let parsed = address_text::parse(case["input"].as_str().unwrap());
        assert_eq!(parsed.is_ok(), case["ok"].as_bool().unwrap(), "{case}");
        if let Ok(address) = parsed {
            assert_eq!(address.0.to_vec(), bytes(&case["address"]));
        }
    }
}

#[test]
fn distances_and_buckets_are_those_of_the_vectors() {
    for case in group("xor") {
        let (a, b) = (node_id(&case["a"]), node_id(&case["b"]));
        assert_eq!(a.distance(&b).0.to_vec(), bytes(&case["distance"]));
        let bits = case["common_prefix_len"].as_u64().unwrap();
        assert_eq!(a.common_prefix_bits(&b) as u64, bits);
        let bucket = a.bucket_index(&b).map_or(-1, |bucket| bucket as i64);
        assert_eq!(bucket, case["bucket_index"].as_i64().unwrap());
    }
    for case in group("xor_order") {
        let target = node_id(&case["target"]);
        let order: Vec<NodeId> = match case["order"].as_array() {
            Some(order) => order.iter().map(node_id).collect(),
            None => vec![node_id(&case["closer"]), node_id(&case["farther"])],
        };
        assert!(order.is_sorted_by_key(|id| target.distance(id)));
    }
}

#[test]
fn socket_addresses_and_public_ones_are_those_of_the_vectors() {
    for case in group("observed_addr") {
        let observed = canonical(socket_address(&case));
        let body = Body::NatProbeRequest { token: [7; 8], claimed: observed }.encode();
        let wire = bytes(&case["wire"]);
        assert!(body.ends_with(&wire), "{case}");
    }
    for case in group("public_ip") {
        let ip = case["ip"].as_str().unwrap().parse().unwrap();
        assert_eq!(is_public(ip), case["public"].as_bool().unwrap(), "{case}");
    }
}

#[test]
fn datagrams_are_told_apart_by_their_first_bytes() {
    for case in group("udp_demux") {
        if let Some(packet) = case.get("packet") {
            let kind = match case["action"].as_str().unwrap() {
                "echo verbatim" => DatagramKind::EchoProbe,
                _ => DatagramKind::Stun,
            };
            assert_eq!(classify(&bytes(packet)), kind);
            continue;
        }
        let mut datagram = vec![0; 32];
        datagram[0] = array::<1>(&case["first_byte"])[0];
        let is_quic = classify(&datagram) == DatagramKind::Quic;
        assert_eq!(is_quic, case["quic"].as_bool().unwrap(), "{case}");
    }
    assert_eq!(classify(&[]), DatagramKind::Empty);
    assert_eq!(classify(&[0, 0xec, 1]), DatagramKind::EchoProbe);
    assert_eq!(classify(&[0xa4]), DatagramKind::Message);
    let mut stun = [0; 20];
    stun[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    assert_eq!(classify(&stun), DatagramKind::Stun);
    assert_eq!(classify(&stun[..19]), DatagramKind::Message);
}

#[test]
fn messages_are_read_and_written_byte_for_byte() {
    let cases = group("messages");
    assert_eq!(cases.len(), 26);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let packet = bytes(&case["packet"]);
        let parsed = Parsed::parse(&packet).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(parsed.unknown_keys, 0, "{name}");
        assert_eq!(parsed.body_bytes(), bytes(&case["body"]), "{name}");
        let message = parsed.verify().unwrap_or_else(|why| panic!("{name}: {why}"));
        let sender = key(case["sender"].as_str().unwrap());
        assert_eq!(message.sender, sender.address());
        assert_eq!(message.sender_id, sender.address().node_id());
        let code = u64::from(message.body.message_type().code());
        assert_eq!(code, case["msg_type"].as_u64().unwrap());
        let transaction = TransactionId(array(&case["tx_id"]));
        assert_eq!(message.transaction, transaction);
        assert_eq!(message::encode(&sender, transaction, &message.body), packet, "{name}");
    }
}

#[test]
fn negative_packets_get_the_recommended_verdict() {
    for case in group("negative") {
        let packet = bytes(&case["packet"]);
        let verdict = case["recommended_verdict"].as_str().unwrap();
        let is_accepted = Parsed::parse(&packet).and_then(Parsed::verify).is_ok();
        let expected = match verdict {
            "reject" => false,
            "accept" | "accept message, drop entry" => true,
            // Both verdicts are allowed. One form for one meaning refuses what is not canonical.
            _ if verdict.contains("reject") => false,
            other => panic!("an unknown verdict: {other}"),
        };
        assert_eq!(is_accepted, expected, "{case}");
    }
}

#[test]
fn what_go_refuses_is_refused_and_only_canonical_forms_are_accepted() {
    for case in group("leniency") {
        let packet = bytes(&case["packet"]);
        let verdict = Parsed::parse(&packet).and_then(Parsed::verify);
        match case["name"].as_str().unwrap() {
            "canonical" => assert!(verdict.is_ok()),
            // Every form of one value but the canonical one is refused, also where upstream would
            // encode it again and verify that; no node of the network writes them.
            name => assert!(verdict.is_err(), "{name}"),
        }
    }
}

#[test]
fn every_cut_and_every_flipped_bit_of_every_message_is_refused() {
    for case in group("messages") {
        let packet = bytes(&case["packet"]);
        for end in 0..packet.len() {
            assert!(Parsed::parse(&packet[..end]).is_err(), "{} cut at {end}", case["name"]);
        }
        let mut flipped = packet.clone();
        for bit in 0..packet.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Verifying them all takes seconds; what still parses as something else than a changed
            // signature or key is verified, and a sample of the rest.
            let is_refused = Parsed::parse(&flipped).is_err()
                || (bit % 8 != 0 && bit / 8 >= 40)
                || Parsed::parse(&flipped).and_then(Parsed::verify).is_err();
            assert!(is_refused, "{} with bit {bit} flipped", case["name"]);
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_message_of_a_later_version_is_verified_as_it_was_signed() {
    let key = key("A");
    let transaction = TransactionId([3; 20]);
    let ping = Body::Ping { address: key.address() };
    let packet = message::encode(&key, transaction, &ping);
    let parsed = Parsed::parse(&packet).unwrap();
    assert_eq!(parsed.body_bytes(), ping.encode());
    let unknown = group("negative")
        .into_iter()
        .find(|case| case["name"] == "unknown body key 99, signed as sent")
        .unwrap();
    let packet = bytes(&unknown["packet"]);
    let parsed = Parsed::parse(&packet).unwrap();
    assert_eq!(parsed.unknown_keys, 1);
    assert!(parsed.verify().is_ok());
}

#[test]
fn an_optional_field_that_is_written_empty_is_refused() {
    let key = key("A");
    let target = [9; 32];
    for extra in [&[0x02, 0x00][..], &[0x03, 0xf4]] {
        let body = [&[0xa2, 0x01, 0x58, 0x20][..], &target, extra].concat();
        let packet = sealed(&key, 5, &body);
        let refused = Parsed::parse(&packet).err();
        assert_eq!(refused, Some(MessageError::Malformed(CborError::NotCanonical)));
    }
}

/// A message with any body, signed.
fn sealed(key: &SigningKey, message_type: u8, body: &[u8]) -> Vec<u8> {
    let header = [&[0xa4, 1, 1, 2, 0, 3, message_type, 4, 0x54][..], &[5; 20]].concat();
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
fn records_are_read_judged_and_written_byte_for_byte() {
    for case in group("records") {
        let name = case["name"].as_str().unwrap();
        let encoded = bytes(&case["cbor"]);
        let record = SignedRecord::decode(&encoded).unwrap();
        assert_eq!(record.encode(), encoded, "{name}");
        assert_eq!(record.encoded_bytes(), encoded.len(), "{name}");
        assert_eq!(record.preimage(), bytes(&case["preimage"]), "{name}");
        assert_eq!(record.payload, bytes(&case["payload"]), "{name}");
        assert_eq!(record.verify(), Ok(()), "{name}");
        let now = UnixSeconds(record.timestamp);
        assert_eq!(record.check_time(now), Ok(()), "{name}");
        let authority = record.check_authority(|delegation| delegation.verify(now));
        assert_eq!(authority, Ok(()), "{name}");
        let key = node_id(&case["store_key"]);
        assert_eq!(record.check_place(&key), Ok(()), "{name}");
        assert_eq!(record.check_place(&NodeId::ZERO), Err(RecordError::WrongKey), "{name}");
        let category = match record.record_type.category() {
            Category::Sovereign => "sovereign",
            Category::Topic => "topic",
            Category::Mailbox => "mailbox",
            Category::Unknown => "unknown",
        };
        assert_eq!(category, case["category"].as_str().unwrap());
        let mut changed = record.clone();
        changed.sequence += 1;
        assert_eq!(changed.verify(), Err(RecordError::Signature), "{name}");
    }
}

#[test]
fn payloads_are_read_and_written_byte_for_byte() {
    for case in group("records") {
        let payload = bytes(&case["payload"]);
        let again = match case["rec_type"].as_u64().unwrap() {
            1 => EndpointPayload::decode(&payload).unwrap().encode(),
            2 => waystation_a2al::payload::ProfilePayload::decode(&payload)
                .unwrap()
                .encode()
                .unwrap(),
            16 => TopicPayload::decode(&payload).unwrap().encode(),
            128 => waystation_a2al::payload::MailboxPayload::decode(&payload).unwrap().encode(),
            other => panic!("no payload of type {other}"),
        };
        assert_eq!(again, payload, "{}", case["name"]);
    }
    for case in group("record_payload_edge") {
        let payload = bytes(&case["cbor"]);
        let again = match case["what"].as_str().unwrap() {
            what if what.starts_with("endpoint") => {
                EndpointPayload::decode(&payload).unwrap().encode()
            }
            _ => TopicPayload::decode(&payload).unwrap().encode(),
        };
        assert_eq!(again, payload, "{}", case["what"]);
    }
}

#[test]
fn topics_hash_to_their_keys_and_records_to_their_ids() {
    for case in group("topic_keys") {
        assert_eq!(topic_key(case["topic"].as_str().unwrap()), node_id(&case["key"]));
    }
    let record = &group("records")[0];
    let mut record = SignedRecord::decode(&bytes(&record["cbor"])).unwrap();
    for case in group("record_id_v03") {
        record.payload = case.get("payload").map(bytes).unwrap_or_default();
        if let Some(address) = case.get("address") {
            record.address = Address(array(address));
            record.sequence = case["seq"].as_u64().unwrap();
        }
        assert_eq!(record.record_id().to_vec(), bytes(&case["record_id"]));
    }
}

#[test]
fn records_come_and_go_on_the_second() {
    let record = &group("records")[0];
    let mut record = SignedRecord::decode(&bytes(&record["cbor"])).unwrap();
    for case in group("record_time") {
        record.timestamp = case["timestamp"].as_u64().unwrap();
        record.ttl_s = u32::try_from(case["ttl"].as_u64().unwrap()).unwrap();
        let verdict = record.check_time(UnixSeconds(case["now"].as_u64().unwrap()));
        let expected = match case["result"].as_str().unwrap() {
            "ok" => Ok(()),
            "expired" => Err(RecordError::Expired),
            _ => Err(RecordError::FromTheFuture),
        };
        assert_eq!(verdict, expected, "{case}");
    }
    record.timestamp = u64::MAX;
    assert_eq!(record.check_time(UnixSeconds(NOW)), Err(RecordError::FromTheFuture));
}

#[test]
fn delegation_then_sequence_then_time_say_which_is_newer() {
    let version = |value: &serde_json::Value| Version {
        issued_at: value["delegation_issued_at"].as_u64().unwrap_or(0),
        sequence: value["seq"].as_u64().unwrap(),
        timestamp: value["timestamp"].as_u64().unwrap(),
    };
    for case in group("record_newer") {
        let (a, b) = (version(&case["a"]), version(&case["b"]));
        assert_eq!(a > b, case["a_newer"].as_bool().unwrap(), "{case}");
        assert_eq!(b > a, case["b_newer"].as_bool().unwrap(), "{case}");
    }
}

#[test]
fn delegations_of_all_three_kinds_are_read_verified_and_written() {
    for case in group("delegations") {
        let kind = case["kind"].as_str().unwrap();
        let encoded = bytes(&case["cbor"]);
        let delegation = Delegation::decode(&encoded).unwrap();
        assert_eq!(delegation.encode(), encoded, "{kind}");
        assert_eq!(delegation.agent, Address(array(&case["agent_address"])));
        let issued = UnixSeconds(delegation.issued_at);
        assert_eq!(delegation.verify(issued), Ok(()), "{kind}");
        match &delegation.master {
            Master::Native { public_key, .. } => {
                assert_eq!(delegation.preimage(public_key), bytes(&case["preimage"]));
            }
            Master::Chain { message, .. } => {
                assert_eq!(&**message, case["message"].as_str().unwrap());
                let claims = MessageClaims::parse(message).unwrap();
                assert_eq!(claims.message(), **message);
            }
        }
        refuses_changed_fields(&delegation);
    }
}

fn refuses_changed_fields(delegation: &Delegation) {
    let issued = UnixSeconds(delegation.issued_at);
    let changes: [fn(&mut Delegation); 5] = [
        |delegation| delegation.scope = 2,
        |delegation| delegation.issued_at -= 1,
        |delegation| delegation.expires_at += 1_000_000_000,
        |delegation| delegation.operational_key.0[0] ^= 1,
        |delegation| match &mut delegation.master {
            Master::Native { signature, .. } => signature.0[40] ^= 1,
            Master::Chain { signature, .. } => signature[40] ^= 1,
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut changed = delegation.clone();
        change(&mut changed);
        assert!(changed.verify(issued).is_err(), "change {index}");
    }
    let mut foreign = delegation.clone();
    foreign.agent.0[20] ^= 1;
    assert!(foreign.verify(issued).is_err());
}

#[test]
fn delegations_end_after_their_grace_and_never_begin_in_the_future() {
    let native = bytes(&group("delegations")[0]["cbor"]);
    let mut delegation = Delegation::decode(&native).unwrap();
    delegation.issued_at = 0;
    for case in group("delegation_time") {
        let (expires_at, now) = match case.get("expires_at") {
            Some(expires_at) => (expires_at.as_u64().unwrap(), case["now"].as_u64().unwrap()),
            None => (
                NOW + case["expires_at_offset"].as_u64().unwrap(),
                NOW + case["now_offset"].as_u64().unwrap(),
            ),
        };
        delegation.expires_at = expires_at;
        let is_valid = delegation.check_time(UnixSeconds(now)).is_ok();
        assert_eq!(is_valid, case["valid"].as_bool().unwrap(), "{case}");
    }
    delegation.expires_at = 0;
    delegation.issued_at = NOW + 61;
    let verdict = delegation.check_time(UnixSeconds(NOW));
    assert_eq!(verdict, Err(DelegationError::FromTheFuture));
}

#[test]
fn sizes_of_answers_are_known_without_encoding_them() {
    let sizes = &read("a2al-vectors.json")["sizes"];
    let v4: SocketAddr = "192.0.2.1:4121".parse().unwrap();
    let v6: SocketAddr = "[2001:db8::1]:4121".parse().unwrap();
    let node = |socket_address| NodeInfo::new(key("B").address(), socket_address);
    for row in sizes["find_node_resp_table"].as_array().unwrap() {
        let (listed, observed) = match row["kind"].as_str().unwrap() {
            "ipv4 nodes" => (node(v4), v4),
            "ipv6 nodes" => (node(v6), v4),
            _ => (node(v6), v6),
        };
        let count = usize::try_from(row["nodes"].as_u64().unwrap()).unwrap();
        let nodes = vec![listed; count];
        let body = Body::answer_bytes(observed, &nodes, std::iter::empty());
        assert_eq!(body as u64, row["body"].as_u64().unwrap(), "{row}");
        let answer = Body::FindNodeResponse { nodes: Some(nodes), observed };
        assert_eq!(answer.encode().len(), body, "{row}");
        let packet = message::encode(&key("A"), TransactionId([0; 20]), &answer);
        assert_eq!(packet.len() as u64, row["packet"].as_u64().unwrap());
    }
}

#[test]
fn every_recorded_message_is_read_verified_and_written_again() {
    let captures = read("a2al-captures.json");
    let mut read_again = 0;
    for conversation in captures["conversations"].as_array().unwrap() {
        let node = SigningKey::from_seed(&array(&conversation["node"]["seed"])).unwrap();
        for step in conversation["steps"].as_array().unwrap() {
            let Some(packet) = step["hex"].as_str().map(|hex| hex::decode(hex).unwrap()) else {
                continue;
            };
            let message = Parsed::parse(&packet).and_then(Parsed::verify);
            if step["dir"] == "from_node" && classify(&packet) == DatagramKind::Message {
                let message = message.unwrap();
                let again = message::encode(&node, message.transaction, &message.body);
                assert_eq!(again, packet, "{}", step["meaning"]);
                read_again += 1;
            } else if conversation["name"] != "malformed" && step["dir"] == "to_node" {
                let is_meant_to_fail = step["meaning"] == "FIND_NODE target of 31 bytes";
                assert_eq!(message.is_err(), is_meant_to_fail, "{}", step["meaning"]);
            }
        }
    }
    assert!(read_again > 100, "{read_again}");
}

#[test]
fn the_zero_signature_is_refused() {
    let record = SignedRecord::decode(&bytes(&group("records")[0]["cbor"])).unwrap();
    assert!(!record.public_key.verifies(&record.preimage(), &Signature([0; 64])));
}

#[test]
fn a_topic_filter_wants_one_protocol_and_all_tags() {
    assert_eq!(group("topic_filter").len(), 1);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let payload = TopicPayload {
        protocols: Some(words(&["http", "mcp"])),
        tags: Some(words(&["demo", "test"])),
        ..TopicPayload::default()
    };
    let matches = |protocols: &[&str], tags: &[&str]| {
        let filter = TopicFilter { protocols: words(protocols), tags: words(tags) };
        filter.matches(&payload)
    };
    assert!(matches(&[], &[]) && matches(&["grpc", "mcp"], &[]) && matches(&[], &["demo"]));
    assert!(matches(&["http"], &["test", "demo"]));
    assert!(!matches(&["grpc"], &[]) && !matches(&["http"], &["demo", "other"]));
    let anything = TopicFilter { protocols: vec![], tags: vec![] };
    assert!(anything.matches(&TopicPayload::default()));
}

#[test]
fn a_record_is_kept_by_the_eight_nearest() {
    for case in group("replication_rebalance") {
        let members = case["members"].as_str().unwrap();
        // Nobody is reached by punching holes here, so only those that are reached directly can be
        // members, and the set of those is all there is.
        let distances: Vec<u16> = match members {
            "8 direct, distances 1..8" => (1..=8).collect(),
            "8 punched, distances 1..8" => Vec::new(),
            "10 direct at 1..10 and 8 punched at 0x0100..0x0107" => (1..=10).collect(),
            "punched at 1, direct at 2..8 and 9" => (2..=9).collect(),
            other => panic!("unknown vector {other}"),
        };
        let near: Vec<NodeInfo> = distances
            .iter()
            .map(|distance| {
                let mut node_id = NodeId::ZERO;
                node_id.0[30..].copy_from_slice(&distance.to_be_bytes());
                let ip = [192, 0, 2, 1].into();
                NodeInfo { address: Address([0xa0; 21]), node_id, ip, port: 4121 }
            })
            .collect();
        let record = SignedRecord::decode(&bytes(&group("records")[0]["cbor"])).unwrap();
        let mut published = Published::new(NodeId::ZERO, record);
        let kept = published.plan(&near, Millis(0));
        assert_eq!(kept.len() as u64, case["direct_set"].as_u64().unwrap(), "{case}");
        let nearest = distances.into_iter().take(8);
        assert!(kept.iter().map(|info| u16::from(info.node_id.0[31])).eq(nearest), "{case}");
    }
}

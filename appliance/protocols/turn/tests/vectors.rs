//! The messages that RFC 5769 and RFC 8489 print, read, verified, and written again.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;
use waystation_turn::attribute::{AttributeType, xor_address};
use waystation_turn::integrity::{
    Integrity, Key, PasswordAlgorithm, userhash, verify, verify_with,
};
use waystation_turn::message::{Class, Message, MessageError, Method, TransactionId};
use waystation_turn::nonce::SecurityFeatures;
use waystation_turn::writer::MessageWriter;

/// The short-term password of RFC 5769 §2.1 to §2.3.
const SHORT_TERM: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
/// The user of RFC 5769 §2.4 and RFC 8489 §B.1, in katakana.
const USER: &str = "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}";
/// The password of both, as it is after its preparation.
const PASSWORD: &[u8] = b"TheMatrIX";
const REALM: &str = "example.org";

fn vector(name: &str) -> Vec<u8> {
    vectors().into_iter().find(|(found, _)| found == name).unwrap().1
}

fn vectors() -> Vec<(String, Vec<u8>)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/stun-vectors.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let messages = vectors["messages"].as_array().unwrap().iter();
    messages
        .map(|message| (text(&message["name"]), hex::decode(text(&message["bytes"])).unwrap()))
        .collect()
}

/// Writes the attributes of a message again, closed as it was.
fn rewritten(message: &Message<'_>, integrity: Integrity, key: &[u8]) -> Vec<u8> {
    let mut buffer = [0xa5; 512];
    let (class, method) = (message.class(), message.method());
    let mut writer = MessageWriter::new(&mut buffer, class, method, message.transaction());
    for attribute in message.attributes() {
        writer.attribute(attribute.kind, attribute.value);
    }
    writer.integrity(integrity, key);
    if message.has_fingerprint() {
        writer.fingerprint();
    }
    let end = writer.finish().unwrap();
    buffer[..end].to_vec()
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

fn text<'a>(message: &Message<'a>, kind: AttributeType) -> &'a str {
    std::str::from_utf8(message.attribute(kind).unwrap()).unwrap()
}

#[test]
fn the_sample_request_reads_and_verifies() {
    let bytes = vector("sample_request");
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Method::BINDING));
    assert_eq!(hex::encode(message.transaction().0), "b7e7a701bc34d686fa87dfae");
    assert_eq!(text(&message, AttributeType::SOFTWARE), "STUN test client");
    assert_eq!(text(&message, AttributeType::USERNAME), "evtj:h6vY");
    assert_eq!(message.attribute(AttributeType(0x0024)).unwrap(), [0x6e, 0, 1, 0xff]);
    assert_eq!(verify_with(&message, SHORT_TERM), Some(Integrity::Sha1));
    assert_eq!(verify_with(&message, b"VOkJxbRl1RmTxUk/WvJxBT"), None);
    assert!(message.has_fingerprint());
}

#[test]
fn the_sample_responses_read_and_verify() {
    let addresses = ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"];
    for (name, address) in ["sample_ipv4_response", "sample_ipv6_response"].iter().zip(addresses) {
        let bytes = vector(name);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, Method::BINDING));
        assert_eq!(text(&message, AttributeType::SOFTWARE), "test vector");
        let value = message.attribute(AttributeType::XOR_MAPPED_ADDRESS).unwrap();
        let expected: SocketAddr = address.parse().unwrap();
        assert_eq!(xor_address(value, message.transaction()), Some(expected));
        assert_eq!(verify_with(&message, SHORT_TERM), Some(Integrity::Sha1));
        assert!(message.has_fingerprint());
    }
}

#[test]
fn the_sample_request_of_a_long_term_user_verifies_and_is_written_alike() {
    let bytes = vector("sample_request_with_long_term_authentication");
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(text(&message, AttributeType::USERNAME), USER);
    assert_eq!(text(&message, AttributeType::REALM), REALM);
    assert_eq!(text(&message, AttributeType::NONCE), "f//499k954d6OL34oL9FSTvy64sA");
    let key = Key::long_term(PasswordAlgorithm::Md5, USER, REALM, PASSWORD);
    assert_eq!(verify(&message, &key), Some(Integrity::Sha1));
    let other = Key::long_term(PasswordAlgorithm::Sha256, USER, REALM, PASSWORD);
    assert_eq!(verify(&message, &other), None);
    assert_eq!(rewritten(&message, Integrity::Sha1, key.expose_secret()), bytes);
}

#[test]
fn the_sample_request_with_userhash_verifies_and_is_written_alike() {
    let bytes = vector("sample_request_with_userhash_and_sha256");
    let message = Message::parse(&bytes).unwrap();
    let hash = message.attribute(AttributeType::USERHASH).unwrap();
    assert_eq!(hash, userhash(USER, REALM));
    let features = SecurityFeatures::of_nonce(message.attribute(AttributeType::NONCE).unwrap());
    let expected = SecurityFeatures { password_algorithms: false, username_anonymity: true };
    assert_eq!(features, Some(expected));
    let algorithm = message.attribute(AttributeType::PASSWORD_ALGORITHM).unwrap();
    assert_eq!(PasswordAlgorithm::from_value(algorithm), Some(PasswordAlgorithm::Sha256));
    let key = Key::long_term(PasswordAlgorithm::Sha256, USER, REALM, PASSWORD);
    assert_eq!(verify(&message, &key), Some(Integrity::Sha256));
    assert_eq!(rewritten(&message, Integrity::Sha256, key.expose_secret()), bytes);
}

#[test]
fn messages_of_short_term_users_are_written_alike_but_for_their_padding() {
    // RFC 5769 pads with spaces, which changes the integrity value; RFC 8489 pads with zeros.
    for name in ["sample_request", "sample_ipv4_response", "sample_ipv6_response"] {
        let bytes = vector(name);
        let message = Message::parse(&bytes).unwrap();
        let written = rewritten(&message, Integrity::Sha1, SHORT_TERM);
        assert_eq!(written.len(), bytes.len());
        let again = Message::parse(&written).unwrap();
        assert_eq!(verify_with(&again, SHORT_TERM), Some(Integrity::Sha1));
        let pairs = again.attributes().zip(message.attributes());
        pairs.for_each(|(again, first)| assert_eq!(again, first));
    }
}

#[test]
fn no_vector_reads_once_it_is_cut() {
    for (name, bytes) in vectors() {
        for end in 0..bytes.len() {
            let cut = Message::parse(&bytes[..end]).map(|message| message.class());
            assert_eq!(cut, Err(MessageError::Length), "{name} cut to {end}");
        }
        let longer = [&bytes[..], &[0; 4]].concat();
        assert!(Message::parse(&longer).is_err(), "{name} with more behind it");
    }
}

#[test]
fn no_vector_verifies_once_a_bit_of_it_flips() {
    let md5 = Key::long_term(PasswordAlgorithm::Md5, USER, REALM, PASSWORD);
    let sha256 = Key::long_term(PasswordAlgorithm::Sha256, USER, REALM, PASSWORD);
    let keys = [SHORT_TERM, md5.expose_secret(), sha256.expose_secret()];
    let verifies = |bytes: &[u8]| {
        let message = Message::parse(bytes).ok()?;
        keys.iter().find_map(|key| verify_with(&message, key))
    };
    for (name, bytes) in vectors() {
        assert!(verifies(&bytes).is_some(), "{name}");
        let has_fingerprint = Message::parse(&bytes).unwrap().has_fingerprint();
        // The integrity value does not cover the fingerprint behind it.
        let covered_bytes = bytes.len() - if has_fingerprint { 8 } else { 0 };
        for bit in 0..covered_bytes * 8 {
            let flipped = flipped(&bytes, bit);
            assert_eq!(verifies(&flipped), None, "{name} with bit {bit} flipped");
        }
    }
}

#[test]
fn no_vector_has_its_fingerprint_once_a_bit_of_it_flips() {
    for name in ["sample_request", "sample_ipv4_response", "sample_ipv6_response"] {
        let bytes = vector(name);
        for bit in 0..bytes.len() * 8 {
            let flipped = flipped(&bytes, bit);
            // A changed length may hide the fingerprint in the value of another attribute.
            let read = Message::parse(&flipped).map(|message| message.has_fingerprint());
            assert_ne!(read, Ok(true), "{name} with bit {bit} flipped");
        }
    }
}

#[test]
fn the_long_term_key_of_the_rfc_example_comes_out() {
    // RFC 8489 §9.2.2: the key of user, realm and pass, which signs as the printed bytes do.
    let printed = hex::decode("8493fbc53ba582fb4c044c456bdc40eb").unwrap();
    let key = Key::long_term(PasswordAlgorithm::Md5, "user", "realm", b"pass");
    let mut buffer = [0; 64];
    let transaction = TransactionId([9; 12]);
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::REFRESH, transaction);
    let end = writer.integrity(Integrity::Sha1, &printed).finish().unwrap();
    let message = Message::parse(&buffer[..end]).unwrap();
    assert_eq!(verify(&message, &key), Some(Integrity::Sha1));
}

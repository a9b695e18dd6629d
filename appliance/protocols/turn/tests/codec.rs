//! What is written is read again, by this crate and by another one; what is arbitrary harms nothing.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use stun_types::attribute::Attribute as _;
use stun_types::message::{
    IntegrityAlgorithm, Message as OtherMessage, MessageClass as OtherClass,
    MessageIntegrityCredentials, ShortTermCredentials,
};
use waystation_turn::attribute::{
    AttributeType, ErrorCode, Family, error_number, family, plain_address, xor_address,
};
use waystation_turn::channel_data::{self, ChannelNumber};
use waystation_turn::integrity::{Integrity, verify_with};
use waystation_turn::limits::{ATTRIBUTES_MAX, MESSAGE_BYTES_MAX, STREAM_MESSAGE_BYTES_MAX};
use waystation_turn::message::{Class, Message, MessageError, Method, TransactionId};
use waystation_turn::stream::{StreamError, first_message, message_bytes};
use waystation_turn::writer::{MessageWriter, Overflow};

const CLASSES: [Class; 4] = [Class::Request, Class::Indication, Class::Success, Class::Error];
const NAME: TransactionId = TransactionId(*b"twelve bytes");

/// Attributes that are neither integrity values nor fingerprints, which close a message.
fn open_attribute() -> impl Strategy<Value = (AttributeType, Vec<u8>)> {
    let closing = [
        AttributeType::MESSAGE_INTEGRITY,
        AttributeType::MESSAGE_INTEGRITY_SHA256,
        AttributeType::FINGERPRINT,
    ];
    let kind = any::<u16>().prop_map(AttributeType);
    (kind.prop_filter("closing", move |kind| !closing.contains(kind)), vec(any::<u8>(), 0..40))
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(std::net::IpAddr::from),
        any::<[u8; 16]>().prop_map(std::net::IpAddr::from),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

proptest! {
    #[test]
    fn a_message_is_read_as_it_was_written(
        class in 0..4_usize,
        method in 0..0x1000_u16,
        name in any::<[u8; 12]>(),
        attributes in vec(open_attribute(), 0..12),
        key in vec(any::<u8>(), 1..40),
        sha1 in any::<bool>(),
        sha256 in any::<bool>(),
        fingerprint in any::<bool>(),
        poison in any::<u8>(),
    ) {
        let mut buffer = [poison; 1024];
        let (class, method) = (CLASSES[class], Method(method));
        let mut writer = MessageWriter::new(&mut buffer, class, method, TransactionId(name));
        for (kind, value) in &attributes {
            writer.attribute(*kind, value);
        }
        if sha1 {
            writer.integrity(Integrity::Sha1, &key);
        }
        if sha256 {
            writer.integrity(Integrity::Sha256, &key);
        }
        if fingerprint {
            writer.fingerprint();
        }
        let end = writer.finish().unwrap();
        let bytes = &buffer[..end];
        let message = Message::parse(bytes).unwrap();
        prop_assert_eq!(message.class(), class);
        prop_assert_eq!(message.method(), method);
        prop_assert_eq!(message.transaction(), TransactionId(name));
        prop_assert_eq!(message.has_fingerprint(), fingerprint);
        let read: Vec<_> =
            message.attributes().map(|found| (found.kind, found.value.to_vec())).collect();
        prop_assert_eq!(&read, &attributes);
        let expected = match (sha1, sha256) {
            (_, true) => Some(Integrity::Sha256),
            (true, false) => Some(Integrity::Sha1),
            (false, false) => None,
        };
        prop_assert_eq!(verify_with(&message, &key), expected);
        prop_assert_eq!(message_bytes(bytes), Ok(Some(end)));
        read_by_another(bytes, class, method, &attributes, &key, expected)?;
    }

    #[test]
    fn addresses_are_read_as_they_were_written(address in address(), name in any::<[u8; 12]>()) {
        let mut buffer = [0xa5; 80];
        let name = TransactionId(name);
        let mut writer = MessageWriter::new(&mut buffer, Class::Success, Method::BINDING, name);
        writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, address);
        writer.plain_address(AttributeType::ALTERNATE_SERVER, address);
        let end = writer.finish().unwrap();
        let message = Message::parse(&buffer[..end]).unwrap();
        let value = message.attribute(AttributeType::XOR_MAPPED_ADDRESS).unwrap();
        prop_assert_eq!(xor_address(value, name), Some(address));
        let value = message.attribute(AttributeType::ALTERNATE_SERVER).unwrap();
        prop_assert_eq!(plain_address(value), Some(address));
        let other = OtherMessage::from_bytes(&buffer[..end]).unwrap();
        let read = other.attribute::<stun_types::attribute::XorMappedAddress>().unwrap();
        prop_assert_eq!(read.addr(other.transaction_id()), address);
    }

    #[test]
    fn arbitrary_bytes_harm_nothing(bytes in vec(any::<u8>(), 0..120)) {
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert!(message.attributes().count() <= ATTRIBUTES_MAX);
            verify_with(&message, b"key");
        }
        channel_data::parse(&bytes);
        if let Ok(Some(first)) = first_message(&bytes) {
            prop_assert!(bytes.starts_with(first) && first.len() >= 4);
        }
        for read in [xor_address(&bytes, NAME), plain_address(&bytes)] {
            prop_assert!(read.is_none() || bytes.len() == 8 || bytes.len() == 20);
        }
    }

    #[test]
    fn channel_data_is_read_as_it_was_written(
        number in 0x4000..=0x7fff_u16,
        payload in vec(any::<u8>(), 0..300),
        padding in 0..4_usize,
    ) {
        let channel = ChannelNumber::new(number).unwrap();
        let header = channel_data::header(channel, payload.len()).unwrap();
        let packet = [&header[..], &payload, &[0xa5; 3][..padding.min(3)]].concat();
        let (read, at) = channel_data::parse(&packet).unwrap();
        prop_assert_eq!(read, channel);
        prop_assert_eq!(&packet[at], &payload);
        for end in 0..4 + payload.len() {
            prop_assert!(channel_data::parse(&packet[..end]).is_none());
        }
        let padded = 4 + payload.len().next_multiple_of(4);
        prop_assert_eq!(message_bytes(&header), Ok(Some(padded)));
    }
}

/// A crate that others keep has to find the same in the message. It refuses an integrity value that
/// the message has twice in one kind, and so never sees one here.
fn read_by_another(
    bytes: &[u8],
    class: Class,
    method: Method,
    attributes: &[(AttributeType, Vec<u8>)],
    key: &[u8],
    integrity: Option<Integrity>,
) -> Result<(), TestCaseError> {
    let other = OtherMessage::from_bytes(bytes).unwrap();
    let expected = match class {
        Class::Request => OtherClass::Request,
        Class::Indication => OtherClass::Indication,
        Class::Success => OtherClass::Success,
        Class::Error => OtherClass::Error,
    };
    prop_assert_eq!((other.class(), other.method().value()), (expected, method.0));
    let closing = [0x0008, 0x001c, 0x8028];
    let read: Vec<_> = other
        .iter_attributes()
        .map(|(_, found)| (AttributeType(found.get_type().value()), found.value.to_vec()))
        .filter(|(AttributeType(kind), _)| !closing.contains(kind))
        .collect();
    prop_assert_eq!(&read, attributes);
    if let Ok(password) = String::from_utf8(key.to_vec()) {
        let credentials: MessageIntegrityCredentials = ShortTermCredentials::new(password).into();
        let verified = other.validate_integrity(&credentials).ok();
        let expected = integrity.map(|integrity| match integrity {
            Integrity::Sha1 => IntegrityAlgorithm::Sha1,
            Integrity::Sha256 => IntegrityAlgorithm::Sha256,
        });
        prop_assert_eq!(verified, expected);
    }
    Ok(())
}

/// A message of attributes given as type and value, without any checks.
fn raw(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[0, 1][..], &length, &0x2112_a442_u32.to_be_bytes(), &NAME.0, &body].concat()
}

#[test]
fn attributes_behind_an_integrity_value_do_not_count() {
    let sha1 = (0x0008, &[0; 20][..]);
    let sha256 = (0x001c, &[0; 32][..]);
    let user = (0x0006, &b"user"[..]);
    let counted = |attributes: &[(u16, &[u8])]| {
        let bytes = raw(attributes);
        Message::parse(&bytes).unwrap().attributes().count()
    };
    assert_eq!(counted(&[user, sha1, user]), 1);
    assert_eq!(counted(&[user, sha1, sha256, user]), 1);
    assert_eq!(counted(&[user, sha256, user, user]), 1);
    assert_eq!(counted(&[sha1, user, sha256]), 0);
    assert_eq!(counted(&[user, user]), 2);
}

#[test]
fn the_first_attribute_of_a_kind_counts() {
    let bytes = raw(&[(0x0006, b"one"), (0x0006, b"two")]);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.attribute(AttributeType::USERNAME), Some(&b"one"[..]));
}

#[test]
fn malformed_messages_are_refused_with_their_reason() {
    let refused = |bytes: &[u8]| Message::parse(bytes).map(|_| ()).unwrap_err();
    let changed = |index: usize, byte: u8| {
        let mut bytes = raw(&[(0x0006, b"user")]);
        bytes[index] = byte;
        refused(&bytes)
    };
    assert_eq!(refused(&[]), MessageError::Length);
    assert_eq!(changed(0, 0x40), MessageError::NotStun);
    assert_eq!(changed(0, 0x80), MessageError::NotStun);
    assert_eq!(changed(3, 4), MessageError::Length);
    assert_eq!(changed(3, 9), MessageError::Length);
    assert_eq!(changed(2, 0xff), MessageError::Length);
    assert_eq!(changed(4, 0), MessageError::Cookie);
    for length in [5, 8, 0xff] {
        assert_eq!(changed(23, length), MessageError::Attribute);
    }
    assert_eq!(changed(22, 0xff), MessageError::Attribute);
    let many = vec![(0x8000, &b""[..]); ATTRIBUTES_MAX + 1];
    assert_eq!(refused(&raw(&many)), MessageError::TooManyAttributes);
    assert!(Message::parse(&raw(&many[1..])).is_ok());
    for length in [0, 4, 19, 21, 24] {
        let bytes = raw(&[(0x0008, &[0; 24][..length])]);
        assert_eq!(refused(&bytes), MessageError::Attribute);
    }
    for length in [0, 12, 15, 17, 33, 36] {
        let bytes = raw(&[(0x001c, &[0; 36][..length])]);
        assert_eq!(refused(&bytes), MessageError::Attribute);
    }
    for value in [&[0; 4][..], &[0; 3], &[0; 8]] {
        assert_eq!(refused(&raw(&[(0x8028, value)])), MessageError::Fingerprint);
    }
}

#[test]
fn a_fingerprint_with_something_behind_it_is_refused() {
    let mut buffer = [0; 64];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, NAME);
    let end = writer.fingerprint().attribute(AttributeType::USERNAME, b"user").finish().unwrap();
    let refused = Message::parse(&buffer[..end]).map(|_| ()).unwrap_err();
    assert_eq!(refused, MessageError::Fingerprint);
}

#[test]
fn a_cut_sha256_value_verifies_down_to_sixteen_bytes() {
    let mut buffer = [0; 128];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, NAME);
    writer.attribute(AttributeType::USERNAME, b"user");
    for kept in [16, 20, 24, 28] {
        // The header counts what is there, so each length has a value of its own.
        let mut bytes = raw(&[(0x0006, b"user"), (0x001c, &[0; 32][..kept])]);
        let signed_end = bytes.len() - kept - 4;
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"key");
        let tag = ring::hmac::sign(&key, &bytes[..signed_end]);
        let value_at = bytes.len() - kept;
        bytes[value_at..].copy_from_slice(&tag.as_ref()[..kept]);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(verify_with(&message, b"key"), Some(Integrity::Sha256));
        assert_eq!(verify_with(&message, b"kez"), None);
    }
}

#[test]
fn what_does_not_fit_the_buffer_is_an_error_and_not_a_cut_message() {
    for bytes in 0..60 {
        let mut buffer = vec![0; bytes];
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, NAME);
        let written = writer
            .attribute(AttributeType::USERNAME, b"user")
            .integrity(Integrity::Sha1, b"key")
            .fingerprint()
            .finish();
        assert_eq!(written, Err(Overflow), "{bytes}");
    }
    let mut buffer = vec![0; MESSAGE_BYTES_MAX + 8];
    let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::DATA, NAME);
    let longest = vec![1; 65_528];
    assert_eq!(writer.attribute(AttributeType::DATA, &longest).finish(), Ok(MESSAGE_BYTES_MAX));
    let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::DATA, NAME);
    let longer = vec![1; 65_529];
    assert_eq!(writer.attribute(AttributeType::DATA, &longer).finish(), Err(Overflow));
}

#[test]
fn errors_and_families_are_read_as_they_were_written() {
    for code in ErrorCode::ALL {
        let mut buffer = [0xa5; 128];
        let mut writer = MessageWriter::new(&mut buffer, Class::Error, Method::ALLOCATE, NAME);
        let end = writer.error(code).address_error(Family::Ipv6, code).finish().unwrap();
        let message = Message::parse(&buffer[..end]).unwrap();
        let value = message.attribute(AttributeType::ERROR_CODE).unwrap();
        assert_eq!(error_number(value), Some(code.number()));
        assert_eq!(&value[4..], code.reason().as_bytes());
        let value = message.attribute(AttributeType::ADDRESS_ERROR_CODE).unwrap();
        assert_eq!((value[0], error_number(value)), (2, Some(code.number())));
    }
    assert_eq!(family(&[1, 0, 0, 0]), Some(Family::Ipv4));
    assert_eq!(family(&[2, 9, 9, 9]), Some(Family::Ipv6));
    assert_eq!([family(&[3, 0, 0, 0]), family(&[1]), family(&[])], [None, None, None]);
}

#[test]
fn channel_numbers_are_those_of_clients_old_and_new() {
    let numbers = [0x3fff, 0x4000, 0x4fff, 0x5000, 0x7fff, 0x8000, 0xffff];
    let possible = numbers.map(|number| ChannelNumber::new(number).is_some());
    assert_eq!(possible, [false, true, true, true, true, false, false]);
    assert!(channel_data::header(ChannelNumber::new(0x4000).unwrap(), 65_536).is_none());
}

#[test]
fn a_stream_is_cut_into_its_messages_and_ends_where_none_begins() {
    let request = raw(&[(0x0006, b"user")]);
    let stream = [&request[..], &[0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0], &request[..7]].concat();
    let first = first_message(&stream).unwrap().unwrap();
    assert_eq!(first, request);
    let rest = &stream[first.len()..];
    let second = first_message(rest).unwrap().unwrap();
    assert_eq!(channel_data::parse(second).unwrap().1, 4..9);
    assert_eq!(first_message(&rest[second.len()..]), Ok(None));
    for end in 0..request.len() {
        assert_eq!(first_message(&request[..end]), Ok(None));
    }
    for refused in [&[0x80, 0, 0, 0][..], &[0x80], &[0xff; 4], &[0, 1, 0, 3]] {
        assert_eq!(message_bytes(refused), Err(StreamError));
    }
    assert!(message_bytes(&[0x7f, 0xff, 0xff, 0xff]).unwrap().unwrap() <= STREAM_MESSAGE_BYTES_MAX);
    let longest = message_bytes(&[0, 1, 0xff, 0xfc]);
    assert_eq!(longest, Ok(Some(STREAM_MESSAGE_BYTES_MAX)));
}

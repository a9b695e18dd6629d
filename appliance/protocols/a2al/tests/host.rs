//! The specification's vectors of what hosts do beside the DHT: mail, certificates, first streams.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod vectors;

use vectors::{NOW, array, bytes, group, key};
use waystation_a2al::address::Address;
use waystation_a2al::cbor::CborError;
use waystation_a2al::delegation::DelegationError;
use waystation_a2al::host::{
    AgentExtension, AgentOpening, CertificateError, ControlError, ControlMessage, EXTENSION_OID,
    MAIL_ACCEPTED, MailDelivery, agent_of, control_messages,
};
use waystation_a2al::keys::PublicKey;
use waystation_a2al::payload::MailboxPayload;
use waystation_a2al::payload::sealing::{
    Letter, LetterType, OpenError, OpeningKey, SealError, SealingSecrets,
};
use waystation_a2al::record::{RecordType, SignedRecord, topic_key};
use waystation_a2al::sha256;
use waystation_a2al::time::UnixSeconds;

fn seed(name: &str) -> [u8; 32] {
    let identities = group("identities");
    array(&identities.iter().find(|identity| identity["name"] == name).unwrap()["seed"])
}

fn secrets(ephemeral: u8) -> SealingSecrets {
    SealingSecrets { ephemeral: [ephemeral; 32].into(), nonce: [ephemeral; 12] }
}

fn letter(body: &[u8]) -> Letter {
    Letter { letter_type: LetterType::TEXT, body: body.to_vec() }
}

#[test]
fn mail_is_sealed_and_opened_byte_for_byte() {
    for case in group("mailbox") {
        let [sender, recipient] =
            ["sender", "recipient"].map(|role| key(case[role].as_str().unwrap()));
        let opening = OpeningKey::from_seed(&seed(case["recipient"].as_str().unwrap()));
        assert_eq!(opening.public(), array(&case["recipient_x25519_public"]));
        let secrets = SealingSecrets {
            ephemeral: array::<32>(&case["ephemeral_private"]).into(),
            nonce: array(&case["nonce"]),
        };
        let letter = letter(b"hello B");
        let (from, to) = (sender.address(), recipient.address());
        let sealed = letter.seal(from, to, &recipient.public(), &secrets).unwrap();
        assert_eq!(sealed.ephemeral_key, array(&case["ephemeral_public"]));
        assert_eq!(sealed.ciphertext, bytes(&case["ciphertext_and_tag"]));
        assert_eq!(sealed.encode(), bytes(&case["payload"]));
        let record = SignedRecord::decode(&bytes(&case["record"])).unwrap();
        assert_eq!(record.record_type, RecordType::MAILBOX);
        assert_eq!(record.payload, sealed.encode());
        assert_eq!(record.record_id(), array(&case["msg_id"]));
        assert_eq!(to.node_id().0, array(&case["store_key"]));
        assert_eq!(opening.open(&sealed, &record.address, &to), Ok(letter));
    }
}

#[test]
fn mail_has_room_for_so_many_bytes_and_no_more() {
    let (sender, recipient) = (key("A"), key("B"));
    let room = usize::try_from(group("mailbox")[0]["max_body_bytes"].as_u64().unwrap()).unwrap();
    let seal = |length: usize| {
        let letter = letter(&vec![7; length]);
        letter.seal(sender.address(), recipient.address(), &recipient.public(), &secrets(9))
    };
    assert_eq!(seal(room).unwrap().encode().len(), 512);
    assert_eq!(seal(room + 1), Err(SealError::TooLong));
}

#[test]
fn mail_of_another_to_another_or_changed_is_not_opened() {
    let (sender, recipient) = (key("A"), key("B"));
    let (from, to) = (sender.address(), recipient.address());
    let sealed = letter(b"x").seal(from, to, &recipient.public(), &secrets(9)).unwrap();
    let opening = OpeningKey::from_seed(&seed("B"));
    let other = key("C").address();
    assert_eq!(opening.open(&sealed, &from, &other), Err(OpenError::OtherRecipient));
    assert_eq!(opening.open(&sealed, &other, &to), Err(OpenError::OtherSender));
    let thief = OpeningKey::from_seed(&seed("C"));
    assert_eq!(thief.open(&sealed, &from, &to), Err(OpenError::Sealed));
    let whole = sealed.encode();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let opened = MailboxPayload::decode(&flipped).ok().and_then(|payload| {
            let from = payload.sender;
            opening.open(&payload, &from, &to).ok()
        });
        // X25519 does not look at the highest bit of a point.
        let is_unused = flipped[..].iter().zip(&whole).any(|(new, old)| new ^ old == 0x80)
            && MailboxPayload::decode(&flipped)
                .is_ok_and(|payload| payload.ephemeral_key[31] != sealed.ephemeral_key[31]);
        assert!(opened.is_none() || is_unused, "bit {bit}");
    }
    assert_eq!(opening.open(&sealed, &from, &to), Ok(letter(b"x")));
}

#[test]
fn keys_with_which_nothing_is_secret_are_refused() {
    let (from, to) = (key("A").address(), key("B").address());
    // The neutral point, and something that is none at all (no x has this y).
    let mut neutral = [0; 32];
    neutral[0] = 1;
    for bad in [neutral, [2; 32]] {
        let sealed = letter(b"x").seal(from, to, &PublicKey(bad), &secrets(9));
        assert_eq!(sealed, Err(SealError::Key), "{bad:?}");
    }
    let sealed = letter(b"x").seal(from, to, &key("B").public(), &secrets(9)).unwrap();
    let forged = MailboxPayload { ephemeral_key: [0; 32], ..sealed };
    let opening = OpeningKey::from_seed(&seed("B"));
    assert_eq!(opening.open(&forged, &from, &to), Err(OpenError::Sealed));
    let shown = format!("{:?}{:?}", opening, secrets(9));
    assert!(!shown.contains('9') && !shown.contains('['), "{shown}");
}

#[test]
fn certificates_speak_for_agents_as_their_extension_says() {
    for case in group("tls_delegation_extension") {
        assert_eq!(case["oid"], EXTENSION_OID);
        let value = bytes(&case["ext_value_der"]);
        let extension = AgentExtension::decode(&value).unwrap();
        assert_eq!(extension.encode(), value);
        assert!(value.ends_with(&bytes(&case["inner_cbor"])));
        let operational = extension.delegation.operational_key;
        let now = UnixSeconds(NOW);
        assert_eq!(agent_of(&operational, Some(&value), now), Ok(extension.agent));
        for end in 0..value.len() {
            assert!(AgentExtension::decode(&value[..end]).is_err(), "cut at {end}");
        }
        let longer = [&value[..], &[0]].concat();
        let trailing = CertificateError::Malformed(CborError::TrailingBytes);
        assert_eq!(AgentExtension::decode(&longer), Err(trailing));
        let long_head = [&[4, 0x82, 0, 0xca][..], &value[3..]].concat();
        let other_form = CertificateError::Malformed(CborError::NotCanonical);
        assert_eq!(AgentExtension::decode(&long_head), Err(other_form));
    }
    let own = key("A");
    assert_eq!(agent_of(&own.public(), None, UnixSeconds(NOW)), Ok(own.address()));
}

#[test]
fn certificates_whose_delegation_does_not_hold_speak_for_nobody() {
    let value = bytes(&group("tls_delegation_extension")[0]["ext_value_der"]);
    let extension = AgentExtension::decode(&value).unwrap();
    let operational = extension.delegation.operational_key;
    let now = UnixSeconds(NOW);
    let judged = |key: &PublicKey, extension: &AgentExtension, now| {
        agent_of(key, Some(&extension.encode()), now)
    };
    let thief = key("C").public();
    assert_eq!(judged(&thief, &extension, now), Err(CertificateError::OtherDelegation));
    let claimed = AgentExtension { agent: key("B").address(), ..extension.clone() };
    assert_eq!(judged(&operational, &claimed, now), Err(CertificateError::OtherDelegation));
    let mut forged = extension.clone();
    forged.delegation.operational_key = thief;
    let unsigned = CertificateError::Delegation(DelegationError::Signature);
    assert_eq!(judged(&thief, &forged, now), Err(unsigned));
    let late = UnixSeconds(extension.delegation.expires_at + 60);
    let expired = CertificateError::Delegation(DelegationError::Expired);
    assert_eq!(judged(&operational, &extension, late), Err(expired));
}

#[test]
fn first_streams_begin_byte_for_byte() {
    let target = key("B").address();
    let mut control = Vec::new();
    let mut messages = Vec::new();
    for case in group("quic_control") {
        let encoded = bytes(&case["bytes"]);
        let what = case["what"].as_str().unwrap();
        if what.contains("opening") {
            let opening = AgentOpening { target, has_control: what.contains("a2r2") };
            assert_eq!(AgentOpening::read(&encoded), Ok((opening, &[][..])), "{what}");
            assert_eq!(opening.encode(), encoded, "{what}");
            continue;
        }
        if what == "mailbox stream frame" {
            let delivery = MailDelivery::decode(&encoded).unwrap();
            assert_eq!(delivery.encode(), encoded);
            assert_eq!(delivery.record.verify(), Ok(()));
            assert_eq!(bytes(&case["ack"]), [MAIL_ACCEPTED]);
            continue;
        }
        let read = control_messages(&encoded).unwrap();
        let [message] = &read[..] else { panic!("{what}: {read:?}") };
        match (what.split([' ', ',']).next().unwrap(), message) {
            ("AgentInfoHint", ControlMessage::AgentInfoHint { agent, sequence }) => {
                assert_eq!((*agent, *sequence), (target, 5));
            }
            ("ObservedAddr", ControlMessage::ObservedAddress(at)) => {
                assert_eq!(at.to_string(), "192.0.2.10:4121");
            }
            ("AgentInfo", ControlMessage::AgentInfo(record)) => {
                assert_eq!(record.check_place(&topic_key("ai/test")), Ok(()));
                assert_eq!(record.verify(), Ok(()));
            }
            other => panic!("an unknown vector: {other:?}"),
        }
        assert_eq!(message.encode(), encoded, "{what}");
        control.extend(encoded);
        messages.push(message.clone());
        // A type of v0.3, which is skipped.
        control.extend([7, 0, 2, 1, 2]);
    }
    assert_eq!(messages.len(), 3);
    assert_eq!(control_messages(&control), Ok(messages));
}

#[test]
fn streams_that_begin_otherwise_or_end_early_are_refused() {
    assert_eq!(AgentOpening::read(b"a2r3"), Err(ControlError::Prefix));
    assert_eq!(AgentOpening::read(b"a2r2short"), Err(ControlError::Length));
    assert_eq!(control_messages(&[]), Ok(Vec::new()));
    assert_eq!(control_messages(&[1, 0]), Err(ControlError::Length));
    assert_eq!(control_messages(&[7, 0x10, 0x01]), Err(ControlError::Length));
    assert_eq!(control_messages(&[0; 3 * 65]), Err(ControlError::Length), "too many of them");
    assert!(matches!(control_messages(&[1, 0, 1, 9]), Err(ControlError::Malformed(_))));
    let hint = ControlMessage::AgentInfoHint { agent: Address([1; 21]), sequence: 2 }.encode();
    let mut long = hint.clone();
    long[2] += 1;
    long.push(0);
    assert_eq!(control_messages(&long), Err(ControlError::Length));
    let mail = group("quic_control");
    let mail = mail.iter().find(|case| case["what"] == "mailbox stream frame").unwrap();
    let mail = bytes(&mail["bytes"]);
    for end in 0..mail.len() {
        assert!(MailDelivery::decode(&mail[..end]).is_err(), "cut at {end}");
    }
    let mut other = mail.clone();
    other[4] ^= 1;
    assert_eq!(MailDelivery::decode(&other), Err(ControlError::OtherMessage));
    let delivery = MailDelivery::decode(&mail).unwrap();
    assert_eq!(mail[4..36], sha256(&[&delivery.record.payload]));
}

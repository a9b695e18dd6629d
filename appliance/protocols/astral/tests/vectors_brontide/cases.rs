//! Replays the handshake, negotiation and conversation vectors of the link specification through
//! the public interface, and breaks every bit of them.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;
use waystation_astral::brontide::*;
use waystation_astral::identity::{Identity, SecretKey};

static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/astral-vectors.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
});

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap_or_else(|| panic!("vector lacks {name}"))
}

fn bytes(vector: &Value, name: &str) -> Vec<u8> {
    hex::decode(text(vector, name)).unwrap()
}

fn array<const N: usize>(vector: &Value, name: &str) -> [u8; N] {
    bytes(vector, name).try_into().unwrap()
}

fn secret(vector: &Value, name: &str) -> SecretKey {
    SecretKey::from_bytes(&array(vector, name)).unwrap()
}

fn parties(vector: &Value) -> (Initiator, Responder) {
    let initiator = Initiator::new(
        &secret(vector, "initiator_static_priv"),
        &text(vector, "responder_static_pub").parse().unwrap(),
        &secret(vector, "initiator_ephemeral_priv"),
    );
    let responder = Responder::new(
        &secret(vector, "responder_static_priv"),
        &secret(vector, "responder_ephemeral_priv"),
    );
    let suite = super::suite_of(module_path!());
    (initiator.unwrap().with_aead(suite), responder.unwrap().with_aead(suite))
}

/// Both ends of the channel of handshake vector 0, initiator first.
fn established() -> (Transport, Transport) {
    let vector = &VECTORS["handshake"][0];
    let (mut initiator, mut responder) = parties(vector);
    let act_two = responder.act_one(&initiator.act_one().unwrap()).unwrap();
    let (act_three, ours) = initiator.act_two(&act_two).unwrap();
    let (_, theirs) = responder.act_three(&act_three).unwrap();
    (ours, theirs)
}

fn seal(sealer: &mut Sealer, plaintext: &[u8]) -> Vec<u8> {
    let mut record = vec![0xee; plaintext.len() + RECORD_OVERHEAD_BYTES];
    record[RECORD_HEADER_BYTES..][..plaintext.len()].copy_from_slice(plaintext);
    sealer.seal_in_place(&mut record).unwrap();
    record
}

fn open(opener: &mut Opener, record: &[u8]) -> Result<Vec<u8>, RecordError> {
    let (header, rest) = record.split_first_chunk().unwrap();
    let length = opener.open_header(header)?;
    let mut body = rest.to_vec();
    opener.open_body(&mut body)?;
    body.truncate(length);
    Ok(body)
}

/// Opens a whole stream of records and joins their plaintexts.
fn open_stream(opener: &mut Opener, mut stream: &[u8]) -> Vec<u8> {
    let mut joined = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk() {
        let length = opener.open_header(header).unwrap();
        let (body, rest) = rest.split_at(length + TAG_BYTES);
        let mut body = body.to_vec();
        opener.open_body(&mut body).unwrap();
        joined.extend_from_slice(&body[..length]);
        stream = rest;
    }
    assert!(stream.is_empty(), "stream ends inside a record");
    joined
}

#[test]
fn astral_handshake_vectors_give_their_acts_and_records() {
    let handshakes = VECTORS["handshake"].as_array().unwrap();
    let ours = handshakes.iter().filter(|vector| text(vector, "name").contains("astral"));
    assert_eq!(ours.clone().count(), 2);
    for vector in ours {
        let (mut initiator, mut responder) = parties(vector);
        let act_one = initiator.act_one().unwrap();
        assert_eq!(act_one[..], bytes(vector, "act1"));
        let act_two = responder.act_one(&act_one).unwrap();
        assert_eq!(act_two[..], bytes(vector, "act2"));
        let (act_three, ours) = initiator.act_two(&act_two).unwrap();
        assert_eq!(act_three[..], bytes(vector, "act3"));
        let (dialed_by, theirs) = responder.act_three(&act_three).unwrap();
        assert_eq!(dialed_by, secret(vector, "initiator_static_priv").identity());
        check_hello(vector, "initiator_to_responder", ours.sealer, theirs.opener);
        check_hello(vector, "responder_to_initiator", theirs.sealer, ours.opener);
    }
}

fn check_hello(vector: &Value, direction: &str, mut sealer: Sealer, mut opener: Opener) {
    let mut entries = vector["transport_hello_repeated"].as_array().unwrap().iter().peekable();
    let mut index = 0_u64;
    while let Some(entry) = entries.peek() {
        let plaintext = bytes(entry, "plaintext");
        let record = seal(&mut sealer, &plaintext);
        if entry["index"] == index {
            assert_eq!(record, bytes(entry, direction), "{direction} {index}");
            entries.next();
        }
        assert_eq!(open(&mut opener, &record).unwrap(), plaintext, "{direction} {index}");
        index += 1;
    }
    assert_eq!(index, 1501);
}

#[test]
fn negotiation_ciphertexts_seal_and_open_as_recorded() {
    let negotiation = &VECTORS["negotiation"];
    let lists = [
        ("P0_ciphertext_with_handshake_0", "initiator"),
        ("P0_ciphertext_with_handshake_0", "responder"),
        ("P0_ciphertext_with_handshake_0", "responder_coalesced"),
        ("P4_ciphertext_coalesced_with_handshake_0", "initiator"),
        ("P4_ciphertext_coalesced_with_handshake_0", "responder"),
    ];
    for (entry, sender) in lists {
        let (ours, theirs) = established();
        let (mut sealer, mut opener) = match sender {
            "initiator" => (ours.sealer, theirs.opener),
            _ => (theirs.sealer, ours.opener),
        };
        let records = negotiation[entry][sender].as_array().unwrap();
        assert!(!records.is_empty());
        for record in records {
            let (plaintext, ciphertext) = (bytes(record, "plaintext"), bytes(record, "ciphertext"));
            assert_eq!(seal(&mut sealer, &plaintext), ciphertext, "{entry} {sender}");
            assert_eq!(open(&mut opener, &ciphertext).unwrap(), plaintext, "{entry} {sender}");
        }
    }
}

/// The recorded TCP bytes of one direction, acts included.
fn wire(conversation: &Value, direction: &str) -> Vec<u8> {
    let chunks = conversation["wire"].as_array().unwrap().iter();
    chunks.filter(|chunk| text(chunk, "dir") == direction).flat_map(|c| bytes(c, "hex")).collect()
}

/// The recorded plaintext units of one direction on the link.
fn plaintexts(conversation: &Value, direction: &str) -> Vec<Vec<u8>> {
    let events = conversation["events"].as_array().unwrap().iter();
    let ours = events.filter(|e| text(e, "conn") == "link" && text(e, "dir") == direction);
    ours.map(|event| bytes(event, "hex")).collect()
}

const TO_STOCK: &str = "prober->stock";
const FROM_STOCK: &str = "stock->prober";

/// Checks both recorded streams behind the acts against the recorded plaintexts. What the prober
/// sent, one record per unit, must come out of our sealer byte for byte.
fn check_streams(conversation: &Value, transport: Transport, sent: &[u8], received: &[u8]) {
    let Transport { mut sealer, mut opener } = transport;
    let units = plaintexts(conversation, TO_STOCK);
    let resealed: Vec<u8> = units.iter().flat_map(|unit| seal(&mut sealer, unit)).collect();
    assert_eq!(hex::encode(resealed), hex::encode(sent));
    let joined = plaintexts(conversation, FROM_STOCK).concat();
    assert!(!joined.is_empty() && !sent.is_empty());
    assert_eq!(hex::encode(open_stream(&mut opener, received)), hex::encode(joined));
}

fn conversations(name: &str) -> Vec<&'static Value> {
    let all = VECTORS["conversations"].as_array().unwrap().iter();
    let named: Vec<_> = all.filter(|conversation| text(conversation, "name") == name).collect();
    let profiles: Vec<_> = named.iter().map(|found| text(found, "profile")).collect();
    assert_eq!(profiles, ["P0", "P2", "P4"]);
    named
}

#[test]
fn dialed_conversations_with_stock_nodes_are_reproduced() {
    for conversation in conversations("initiator-basic") {
        let keys = &conversation["keys"];
        let local = secret(keys, "prober_static_priv");
        let remote: Identity = text(keys, "stock_static_pub").parse().unwrap();
        assert_eq!(secret(keys, "stock_static_priv").identity(), remote);
        let ephemeral = secret(keys, "prober_ephemeral_priv");
        let mut initiator = Initiator::new(&local, &remote, &ephemeral).unwrap();
        let (sent, received) = (wire(conversation, TO_STOCK), wire(conversation, FROM_STOCK));

        let act_one = initiator.act_one().unwrap();
        assert_eq!(act_one, array(keys, "act1"));
        let (recorded, sent) = sent.split_first_chunk().unwrap();
        assert_eq!(&act_one, recorded);
        let (act_two, received) = received.split_first_chunk().unwrap();
        assert_eq!(*act_two, array(keys, "act2"));
        let (act_three, transport) = initiator.act_two(act_two).unwrap();
        assert_eq!(act_three, array(keys, "act3"));
        let (recorded, sent) = sent.split_first_chunk().unwrap();
        assert_eq!(&act_three, recorded);
        check_streams(conversation, transport, sent, received);
    }
}

#[test]
fn accepted_conversations_with_stock_nodes_are_reproduced() {
    for conversation in conversations("responder-basic") {
        let keys = &conversation["keys"];
        let local = secret(keys, "prober_static_priv");
        let ephemeral = secret(keys, "prober_ephemeral_priv");
        let mut responder = Responder::new(&local, &ephemeral).unwrap();
        let (sent, received) = (wire(conversation, TO_STOCK), wire(conversation, FROM_STOCK));

        let (act_one, received) = received.split_first_chunk().unwrap();
        assert_eq!(*act_one, array(keys, "act1"));
        let act_two = responder.act_one(act_one).unwrap();
        assert_eq!(act_two, array(keys, "act2"));
        let (recorded, sent) = sent.split_first_chunk().unwrap();
        assert_eq!(&act_two, recorded);
        let (act_three, received) = received.split_first_chunk().unwrap();
        assert_eq!(*act_three, array(keys, "act3"));
        let (dialed_by, transport) = responder.act_three(act_three).unwrap();
        assert_eq!(dialed_by.to_string(), text(keys, "stock_static_pub"));
        check_streams(conversation, transport, sent, received);
    }
}

/// Calls `check` with every single-bit change of `act`, and with the number of the changed byte.
fn every_flip<const N: usize>(act: [u8; N], mut check: impl FnMut(usize, [u8; N])) {
    for bit in 0..N * 8 {
        let mut changed = act;
        changed[bit / 8] ^= 1 << (bit % 8);
        check(bit / 8, changed);
    }
}

/// Tells whether `error` fits a flip in byte `index` of an act whose point is not encrypted.
fn fits_plain_act(error: HandshakeError, act: Act, index: usize, version: u8) -> bool {
    match index {
        0 => error == HandshakeError::Version { act, got: version },
        // Some flips of a point give another point, and then the tag does not fit.
        1..34 => error == HandshakeError::Key { act } || error == HandshakeError::Tag { act },
        _ => error == HandshakeError::Tag { act },
    }
}

#[test]
fn every_flipped_bit_of_act_one_is_refused() {
    let vector = &VECTORS["handshake"][0];
    every_flip(array::<50>(vector, "act1"), |index, act| {
        let (_, mut responder) = parties(vector);
        let error = responder.act_one(&act).unwrap_err();
        assert!(fits_plain_act(error, Act::One, index, act[0]), "{index} {error}");
        let again = responder.act_one(&array(vector, "act1"));
        assert_eq!(again, Err(HandshakeError::OutOfOrder { act: Act::One }));
    });
}

#[test]
fn every_flipped_bit_of_act_two_is_refused() {
    let vector = &VECTORS["handshake"][0];
    every_flip(array::<50>(vector, "act2"), |index, act| {
        let (mut initiator, _) = parties(vector);
        initiator.act_one().unwrap();
        let error = initiator.act_two(&act).unwrap_err();
        assert!(fits_plain_act(error, Act::Two, index, act[0]), "{index} {error}");
    });
}

#[test]
fn every_flipped_bit_of_act_three_is_refused() {
    let vector = &VECTORS["handshake"][0];
    every_flip(array::<66>(vector, "act3"), |index, bytes| {
        let (_, mut responder) = parties(vector);
        responder.act_one(&array(vector, "act1")).unwrap();
        let act = Act::Three;
        let expected = match index {
            0 => HandshakeError::Version { act, got: bytes[0] },
            _ => HandshakeError::Tag { act },
        };
        assert_eq!(responder.act_three(&bytes).unwrap_err(), expected, "{index}");
    });
}

#[test]
fn acts_out_of_order_are_refused() {
    let vector = &VECTORS["handshake"][0];
    let (mut initiator, _) = parties(vector);
    initiator.act_one().unwrap();
    let out_of_order = |act| HandshakeError::OutOfOrder { act };
    assert_eq!(initiator.act_one(), Err(out_of_order(Act::One)));
    let (initiator, responder) = parties(vector);
    let error = initiator.act_two(&array(vector, "act2")).unwrap_err();
    assert_eq!(error, out_of_order(Act::Two));
    let error = responder.act_three(&array(vector, "act3")).unwrap_err();
    assert_eq!(error, out_of_order(Act::Three));
    let (_, mut responder) = parties(vector);
    responder.act_one(&array(vector, "act1")).unwrap();
    assert_eq!(responder.act_one(&array(vector, "act1")), Err(out_of_order(Act::One)));
}

#[test]
fn act_for_another_node_is_refused() {
    let vector = &VECTORS["handshake"][0];
    let other = SecretKey::from_bytes(&[0x77; 32]).unwrap();
    let mut responder =
        Responder::new(&other, &secret(vector, "responder_ephemeral_priv")).unwrap();
    let error = responder.act_one(&array(vector, "act1"));
    assert_eq!(error, Err(HandshakeError::Tag { act: Act::One }));
}

#[test]
fn own_and_zero_identity_are_not_dialed() {
    let (local, ephemeral) =
        (SecretKey::from_bytes(&[1; 32]).unwrap(), SecretKey::from_bytes(&[2; 32]).unwrap());
    let dial = |remote: &Identity| Initiator::new(&local, remote, &ephemeral).unwrap_err();
    assert_eq!(dial(&local.identity()), HandshakeError::OwnIdentity);
    assert_eq!(dial(&Identity::ANYONE), HandshakeError::UnknownRemote);
}

#[test]
fn every_flipped_bit_of_a_record_closes_the_direction() {
    let vector = &VECTORS["handshake"][0];
    let (mut initiator, _) = parties(vector);
    initiator.act_one().unwrap();
    let (_, mut ours) = initiator.act_two(&array(vector, "act2")).unwrap();
    let record = seal(&mut ours.sealer, b"hello");
    let next = seal(&mut ours.sealer, b"hello");
    let record: [u8; 39] = record.try_into().unwrap();
    every_flip(record, |index, changed| {
        let (_, mut responder) = parties(vector);
        responder.act_one(&array(vector, "act1")).unwrap();
        let (_, theirs) = responder.act_three(&array(vector, "act3")).unwrap();
        let mut opener = theirs.opener;
        let fault =
            if index < RECORD_HEADER_BYTES { RecordError::Header } else { RecordError::Body };
        assert_eq!(open(&mut opener, &changed), Err(fault), "{index}");
        assert_eq!(open(&mut opener, &record), Err(RecordError::Failed), "{index}");
        assert_eq!(open(&mut opener, &next), Err(RecordError::Failed), "{index}");
        assert_eq!(opener.open_body(&mut [0; 21]), Err(RecordError::Failed), "{index}");
    });
}

#[test]
fn every_truncated_or_extended_body_closes_the_direction() {
    for got in (0..64).filter(|got| *got != 21) {
        let (mut ours, mut theirs) = established();
        let record = seal(&mut ours.sealer, b"hello");
        let (header, body) = record.split_first_chunk().unwrap();
        assert_eq!(theirs.opener.open_header(header), Ok(5));
        let mut body: Vec<u8> = body.iter().copied().chain([0; 64]).take(got).collect();
        let fault = RecordError::BodyLength { expected: 21, got };
        assert_eq!(theirs.opener.open_body(&mut body), Err(fault));
        let next = seal(&mut ours.sealer, b"hello");
        assert_eq!(open(&mut theirs.opener, &next), Err(RecordError::Failed));
    }
}

#[test]
fn replayed_skipped_and_reflected_records_are_refused() {
    let (mut ours, mut theirs) = established();
    let first = seal(&mut ours.sealer, b"one");
    open(&mut theirs.opener, &first).unwrap();
    assert_eq!(open(&mut theirs.opener, &first), Err(RecordError::Header));
    let (mut ours, mut theirs) = established();
    seal(&mut ours.sealer, b"one");
    let second = seal(&mut ours.sealer, b"two");
    assert_eq!(open(&mut theirs.opener, &second), Err(RecordError::Header));
    let (mut ours, _) = established();
    let own = seal(&mut ours.sealer, b"one");
    assert_eq!(open(&mut ours.opener, &own), Err(RecordError::Header));
}

#[test]
fn header_and_body_out_of_order_close_the_direction() {
    let (mut ours, mut theirs) = established();
    let record = seal(&mut ours.sealer, b"hello");
    assert_eq!(theirs.opener.open_body(&mut [0; 21]), Err(RecordError::OutOfOrder));
    assert_eq!(open(&mut theirs.opener, &record), Err(RecordError::Failed));
    let (_, mut theirs) = established();
    let header = record.first_chunk().unwrap();
    theirs.opener.open_header(header).unwrap();
    assert_eq!(theirs.opener.open_header(header), Err(RecordError::OutOfOrder));
    assert_eq!(theirs.opener.open_body(&mut record[18..].to_vec()), Err(RecordError::Failed));
}

#[test]
fn records_of_impossible_length_are_refused_untouched_and_do_no_harm() {
    let (mut ours, mut theirs) = established();
    for length in 0..RECORD_OVERHEAD_BYTES {
        assert_eq!(ours.sealer.seal_in_place(&mut vec![0; length]), Err(SealError::NoRoom));
    }
    let mut empty = [7; RECORD_OVERHEAD_BYTES];
    assert_eq!(ours.sealer.seal_in_place(&mut empty), Err(SealError::Empty));
    assert_eq!(empty, [7; RECORD_OVERHEAD_BYTES]);
    let bytes = RECORD_PLAINTEXT_MAX_BYTES + 1;
    let mut long = vec![7; bytes + RECORD_OVERHEAD_BYTES];
    assert_eq!(ours.sealer.seal_in_place(&mut long), Err(SealError::TooLong { bytes }));
    assert!(long.iter().all(|byte| *byte == 7));
    let plaintext = vec![9; RECORD_PLAINTEXT_MAX_BYTES];
    let longest = seal(&mut ours.sealer, &plaintext);
    assert_eq!(open(&mut theirs.opener, &longest).unwrap(), plaintext);
}

proptest! {
    #[test]
    fn any_sequence_of_plaintexts_arrives_in_both_directions(
        messages in proptest::collection::vec((any::<bool>(), 1..3000_usize, any::<u8>()), 1..40),
    ) {
        let (mut ours, mut theirs) = established();
        for (to_responder, length, byte) in messages {
            let plaintext = vec![byte; length];
            let (sealer, opener) = match to_responder {
                true => (&mut ours.sealer, &mut theirs.opener),
                false => (&mut theirs.sealer, &mut ours.opener),
            };
            let record = seal(sealer, &plaintext);
            prop_assert_eq!(record.len(), length + RECORD_OVERHEAD_BYTES);
            prop_assert_eq!(open(opener, &record).unwrap(), plaintext);
        }
    }

    #[test]
    fn any_acts_are_refused_without_panic(
        one in proptest::collection::vec(any::<u8>(), 49),
        three in proptest::collection::vec(any::<u8>(), 65),
    ) {
            let vector = &VECTORS["handshake"][0];
        let act = |bytes: &[u8]| [&[0], bytes].concat();
        let (mut initiator, mut responder) = parties(vector);
        prop_assert!(responder.act_one(&act(&one).try_into().unwrap()).is_err());
        initiator.act_one().unwrap();
        prop_assert!(initiator.act_two(&act(&one).try_into().unwrap()).is_err());
        let (_, mut responder) = parties(vector);
        responder.act_one(&array(vector, "act1")).unwrap();
        prop_assert!(responder.act_three(&act(&three).try_into().unwrap()).is_err());
    }
}

//! What only the inside can see: handshake hashes, chaining keys, BOLT 8 itself, and key rotation.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::hmac;
use serde_json::Value;

use super::*;
use crate::aead::AeadSuite;
use crate::aead::tests::suites;
use crate::identity::{Identity, Point, SecretKey};

const ASTRAL: &[u8] = b"astral";
const LIGHTNING: &[u8] = b"lightning";

fn handshakes() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/astral-vectors.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    vectors["handshake"].as_array().unwrap().clone()
}

fn prologue_of(vector: &Value) -> &'static [u8] {
    let name = vector["name"].as_str().unwrap();
    if name.contains("lightning") { LIGHTNING } else { ASTRAL }
}

fn bytes<const N: usize>(vector: &Value, name: &str) -> [u8; N] {
    unhex(vector[name].as_str().unwrap_or_else(|| panic!("vector lacks {name}")))
}

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes(&[byte; 32]).unwrap()
}

/// The parties of BOLT 8: statics 11 and 21, ephemerals 12 and 22.
fn initiator(prologue: &[u8]) -> Initiator {
    let remote = key(0x21).identity();
    Initiator::with_prologue(&key(0x11), &remote, &key(0x12), prologue).unwrap()
}

fn responder(prologue: &[u8]) -> Responder {
    Responder::with_prologue(&key(0x21), &key(0x22), prologue).unwrap()
}

fn established(prologue: &[u8]) -> (Transport, Transport) {
    established_with(AeadSuite::default(), prologue)
}

fn established_with(suite: AeadSuite, prologue: &[u8]) -> (Transport, Transport) {
    let mut initiator = initiator(prologue).with_aead(suite);
    let mut responder = responder(prologue).with_aead(suite);
    let act_two = responder.act_one(&initiator.act_one().unwrap()).unwrap();
    let (act_three, ours) = initiator.act_two(&act_two).unwrap();
    let (_, theirs) = responder.act_three(&act_three).unwrap();
    (ours, theirs)
}

/// Does the initiator's side step by step as spec §3.2 words it, claiming any static point in act
/// three. Keys as in BOLT 8.
fn act_three_claiming(point: &[u8; 33], prologue: &[u8]) -> [u8; 66] {
    let hash = |parts: &[&[u8]]| <[u8; 32]>::try_from(digest(&SHA256, &parts.concat()).as_ref());
    let agree = |secret: u8, public: u8| {
        let mut shared = [0; 32];
        let point = Point::from_bytes(key(public).identity().as_bytes()).unwrap();
        key(secret).agree(&point, &mut shared);
        shared
    };
    let mix = |ck: &[u8], ikm: &[u8]| {
        let prk = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, ck), ikm);
        let prk = hmac::Key::new(hmac::HMAC_SHA256, prk.as_ref());
        let one = hmac::sign(&prk, &[1]);
        let two = hmac::sign(&prk, &[one.as_ref(), &[2]].concat());
        (one.as_ref().to_vec(), two.as_ref().to_vec())
    };
    let seal = |key: &[u8], counter: u8, h: &[u8], text: &[u8]| {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
        let mut nonce = [0; 12];
        nonce[4] = counter;
        let mut out = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(h), &mut out).unwrap();
        out
    };
    let ck = hash(&[b"Noise_XK_secp256k1_ChaChaPoly_SHA256"]).unwrap();
    let h = hash(&[&ck, prologue]).unwrap();
    let mut h = hash(&[&h, key(0x21).identity().as_bytes()]).unwrap();
    let (mut ck, mut temporary) = (ck.to_vec(), Vec::new());
    for (ephemeral, shared) in [(0x12, agree(0x12, 0x21)), (0x22, agree(0x12, 0x22))] {
        h = hash(&[&h, key(ephemeral).identity().as_bytes()]).unwrap();
        (ck, temporary) = mix(&ck, &shared);
        h = hash(&[&h, &seal(&temporary, 0, &h, &[])]).unwrap();
    }
    let sealed_point = seal(&temporary, 1, &h, point);
    h = hash(&[&h, &sealed_point]).unwrap();
    let (_, last) = mix(&ck, &agree(0x11, 0x22));
    [&[0], &sealed_point[..], &seal(&last, 0, &h, &[])].concat().try_into().unwrap()
}

#[test]
fn every_handshake_vector_gives_its_acts_hashes_and_keys() {
    let vectors = handshakes();
    assert_eq!(vectors.len(), 3);
    for vector in &vectors {
        let prologue = prologue_of(vector);
        let secret = |name| SecretKey::from_bytes(&bytes(vector, name)).unwrap();
        let (local, remote) = (secret("initiator_static_priv"), secret("responder_static_priv"));
        assert_eq!(local.identity().as_bytes(), &bytes(vector, "initiator_static_pub"));
        assert_eq!(remote.identity().as_bytes(), &bytes(vector, "responder_static_pub"));
        let ephemeral = secret("initiator_ephemeral_priv");
        let mut initiator =
            Initiator::with_prologue(&local, &remote.identity(), &ephemeral, prologue).unwrap();
        let ephemeral = secret("responder_ephemeral_priv");
        let mut responder = Responder::with_prologue(&remote, &ephemeral, prologue).unwrap();
        let start: [u8; 32] = bytes(vector, "h_after_responder_static");
        assert_eq!((initiator.hash(), responder.hash()), (&start[..], &start[..]));

        let act_one = initiator.act_one().unwrap();
        assert_eq!(act_one, bytes(vector, "act1"));
        assert_eq!(initiator.hash(), bytes::<32>(vector, "h_after_act1"));
        let act_two = responder.act_one(&act_one).unwrap();
        assert_eq!(act_two, bytes(vector, "act2"));
        assert_eq!(responder.hash(), bytes::<32>(vector, "h_after_act2"));
        let (act_three, ours) = initiator.act_two(&act_two).unwrap();
        assert_eq!(act_three, bytes(vector, "act3"));
        let (dialed_by, theirs) = responder.act_three(&act_three).unwrap();
        assert_eq!(dialed_by, local.identity());

        let chaining_key = bytes(vector, "ck");
        let to_responder = (bytes(vector, "key_initiator_to_responder"), chaining_key);
        let to_initiator = (bytes(vector, "key_responder_to_initiator"), chaining_key);
        assert_eq!((ours.sealer.keys(), ours.opener.keys()), (to_responder, to_initiator));
        assert_eq!((theirs.sealer.keys(), theirs.opener.keys()), (to_initiator, to_responder));
    }
}

#[test]
fn hash_after_act_three_is_the_same_on_both_sides() {
    for vector in &handshakes() {
        let prologue = prologue_of(vector);
        let secret = |name| SecretKey::from_bytes(&bytes(vector, name)).unwrap();
        let remote = secret("responder_static_priv");
        let ephemeral = secret("responder_ephemeral_priv");
        let mut responder = Responder::with_prologue(&remote, &ephemeral, prologue).unwrap();
        responder.act_one(&bytes(vector, "act1")).unwrap();
        let hash = responder.hash_after_act_three(&bytes(vector, "act3")).unwrap();
        assert_eq!(hash, bytes::<32>(vector, "h_after_act3"));
    }
}

#[test]
fn bolt_8_messages_come_out_as_published_in_both_directions() {
    let vectors = handshakes();
    for (suite, vector) in suites().flat_map(|suite| vectors.iter().map(move |v| (suite, v))) {
        let prologue = prologue_of(vector);
        let secret = |name| SecretKey::from_bytes(&bytes(vector, name)).unwrap();
        let (local, remote) = (secret("initiator_static_priv"), secret("responder_static_priv"));
        let ephemeral = secret("initiator_ephemeral_priv");
        let mut initiator =
            Initiator::with_prologue(&local, &remote.identity(), &ephemeral, prologue)
                .unwrap()
                .with_aead(suite);
        initiator.act_one().unwrap();
        let (_, ours) = initiator.act_two(&bytes(vector, "act2")).unwrap();
        let ephemeral = secret("responder_ephemeral_priv");
        let responder = Responder::with_prologue(&remote, &ephemeral, prologue).unwrap();
        let mut responder = responder.with_aead(suite);
        responder.act_one(&bytes(vector, "act1")).unwrap();
        let (_, theirs) = responder.act_three(&bytes(vector, "act3")).unwrap();
        let pairs = [
            ("initiator_to_responder", ours.sealer, theirs.opener),
            ("responder_to_initiator", theirs.sealer, ours.opener),
        ];
        for (direction, mut sealer, mut opener) in pairs {
            let published = vector["transport_hello_repeated"].as_array().unwrap();
            let mut published = published.iter().peekable();
            for index in 0..=1500 {
                let mut record = [0; 5 + RECORD_OVERHEAD_BYTES];
                record[RECORD_HEADER_BYTES..][..5].copy_from_slice(b"hello");
                sealer.seal_in_place(&mut record).unwrap();
                if let Some(entry) = published.next_if(|entry| entry["index"] == index) {
                    assert_eq!(record, bytes::<39>(entry, direction), "{suite}, {index}");
                }
                let (header, body) = record.split_first_chunk_mut().unwrap();
                assert_eq!(opener.open_header(header), Ok(5));
                opener.open_body(body).unwrap();
                assert_eq!(&body[..5], b"hello");
            }
            assert!(published.next().is_none());
        }
    }
}

#[test]
fn keys_rotate_with_the_500th_record_in_both_directions() {
    let directions = suites().flat_map(|suite| {
        let (ours, theirs) = established_with(suite, ASTRAL);
        [(ours.sealer, theirs.opener), (theirs.sealer, ours.opener)]
    });
    for (mut sealer, mut opener) in directions {
        let mut previous = sealer.keys();
        for index in 1..=1001_usize {
            let mut record = [0; 1 + RECORD_OVERHEAD_BYTES];
            sealer.seal_in_place(&mut record).unwrap();
            let (header, body) = record.split_first_chunk_mut().unwrap();
            opener.open_header(header).unwrap();
            let before_body = opener.keys();
            opener.open_body(body).unwrap();
            let now = sealer.keys();
            assert_eq!(now, opener.keys(), "{index}");
            assert_eq!(before_body, previous, "{index}");
            let changed = (now.0 != previous.0, now.1 != previous.1);
            assert_eq!(changed, (index % 500 == 0, index % 500 == 0), "{index}");
            previous = now;
        }
    }
}

#[test]
fn empty_record_of_old_stock_nodes_is_opened() {
    let (ours, theirs) = established(ASTRAL);
    let mut opener = theirs.opener;
    let cipher = UnboundKey::new(&CHACHA20_POLY1305, &ours.sealer.keys().0).unwrap();
    let cipher = LessSafeKey::new(cipher);
    let seal = |counter: u8, text: &[u8]| {
        let mut nonce = [0; 12];
        nonce[4] = counter;
        let (nonce, mut out) = (Nonce::assume_unique_for_key(nonce), text.to_vec());
        cipher.seal_in_place_append_tag(nonce, Aad::empty(), &mut out).unwrap();
        out
    };
    assert_eq!(opener.open_header(&seal(0, &[0, 0]).try_into().unwrap()), Ok(0));
    assert_eq!(opener.open_body(&mut seal(1, &[])), Ok(()));
    assert_eq!(opener.open_header(&seal(2, &[0, 1]).try_into().unwrap()), Ok(1));
    assert_eq!(opener.open_body(&mut seal(3, b"x")), Ok(()));
}

#[test]
fn bolt_8_faulty_acts_of_the_responder_are_refused_by_the_initiator() {
    let good: [u8; 50] = bytes(&handshakes()[1], "act2");
    let refused = |change: fn(&mut [u8; 50])| {
        let mut act = good;
        change(&mut act);
        let mut initiator = initiator(LIGHTNING);
        initiator.act_one().unwrap();
        initiator.act_two(&act).unwrap_err()
    };
    let act = Act::Two;
    assert_eq!(refused(|act| act[0] = 1), HandshakeError::Version { act, got: 1 });
    assert_eq!(refused(|act| act[1] = 4), HandshakeError::Key { act });
    assert_eq!(refused(|act| act[49] ^= 1), HandshakeError::Tag { act });
}

#[test]
fn bolt_8_faulty_acts_of_the_initiator_are_refused_by_the_responder() {
    let good: [u8; 50] = bytes(&handshakes()[1], "act1");
    let refused = |change: fn(&mut [u8; 50])| {
        let mut act = good;
        change(&mut act);
        responder(LIGHTNING).act_one(&act).unwrap_err()
    };
    let act = Act::One;
    assert_eq!(refused(|act| act[0] = 1), HandshakeError::Version { act, got: 1 });
    assert_eq!(refused(|act| act[1] = 4), HandshakeError::Key { act });
    assert_eq!(refused(|act| act[49] ^= 1), HandshakeError::Tag { act });

    let good: [u8; 66] = bytes(&handshakes()[1], "act3");
    let refused = |act_three: [u8; 66]| {
        let mut responder = responder(LIGHTNING);
        responder.act_one(&bytes(&handshakes()[1], "act1")).unwrap();
        responder.act_three(&act_three).unwrap_err()
    };
    let changed = |index: usize, byte: u8| {
        let mut act = good;
        act[index] = byte;
        act
    };
    let act = Act::Three;
    assert_eq!(refused(changed(0, 1)), HandshakeError::Version { act, got: 1 });
    assert_eq!(refused(changed(1, 0xc9)), HandshakeError::Tag { act });
    assert_eq!(refused(changed(65, 0xbb)), HandshakeError::Tag { act });
    // BOLT 8, "transport-responder act3 bad rs test".
    let published = "00bfe3a702e93e3a9948c2ed6e5fd7590a6e1c3a0344cfc9d5b57357049aa22355\
                     36ad09a8ee351870c2bb7f78b754a26c6cef79a98d25139c856d7efd252c2ae73c";
    assert_eq!(refused(unhex(published)), HandshakeError::Key { act });
}

#[test]
fn act_three_with_a_static_key_off_the_curve_is_refused() {
    let claimed = *key(0x11).identity().as_bytes();
    for vector in &handshakes()[..2] {
        let prologue = prologue_of(vector);
        assert_eq!(act_three_claiming(&claimed, prologue), bytes(vector, "act3"));
        let refused = |point: [u8; 33]| {
            let mut responder = responder(prologue);
            responder.act_one(&bytes(vector, "act1")).unwrap();
            responder.act_three(&act_three_claiming(&point, prologue)).unwrap_err()
        };
        for prefix in [0x00, 0x04, 0x05, 0x07, 0xff] {
            let mut point = claimed;
            point[0] = prefix;
            assert_eq!(refused(point), HandshakeError::Key { act: Act::Three }, "{prefix}");
        }
        let mut off_curve = [0; 33];
        (off_curve[0], off_curve[32]) = (2, 5);
        assert_eq!(refused(off_curve), HandshakeError::Key { act: Act::Three });
        // "Anyone" is an identity, but nobody's key.
        assert_eq!(refused(*Identity::ANYONE.as_bytes()), HandshakeError::Key { act: Act::Three });
        // A point somebody else holds the key of decrypts, but its owner must agree too.
        let stolen = *key(0x33).identity().as_bytes();
        assert_eq!(refused(stolen), HandshakeError::Tag { act: Act::Three });
    }
}

#[test]
fn debug_output_shows_no_key_material() {
    let (ours, _) = established(ASTRAL);
    let text = format!("{ours:?} {ours:#?} {:?} {:?}", initiator(ASTRAL), responder(ASTRAL));
    let statics = [key(0x11), key(0x12), key(0x21), key(0x22)].map(|key| *key.expose_bytes());
    let (sending, receiving) = (ours.sealer.keys(), ours.opener.keys());
    for secret in [sending.0, sending.1, receiving.0, receiving.1].iter().chain(&statics) {
        let hexadecimal = hex::encode(&secret[..3]);
        let decimal = format!("{:?}", &secret[..3]);
        assert!(!text.contains(&hexadecimal), "{text}");
        assert!(!text.contains(decimal.trim_matches(['[', ']'])), "{text}");
    }
    assert!(text.contains("operations: 0"), "{text}");
}

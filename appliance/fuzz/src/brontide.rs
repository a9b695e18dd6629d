//! The secure channel: only the other end's own acts and records pass, and nothing passes after a
//! bad one.

use waystation_astral::brontide::{
    Initiator, Opener, RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES, RecordError, Responder, Sealer,
    TAG_BYTES, Transport,
};
use waystation_astral::identity::SecretKey;

/// Bytes in front of the plaintext of [`record`]: where to change the stream, how, and how long
/// records are.
const CONTROL_BYTES: usize = 4;

/// Ephemeral keys of the specification's vectors (spec §18.1), so that seeds can hold genuine acts.
const KEYS_OF_VECTORS: [u8; 2] = [0x12, 0x22];
/// Ephemeral keys of a channel whose records stand nowhere.
const KEYS_OF_RECORDS: [u8; 2] = [0x13, 0x23];

/// Both parties' static keys are those of the specification's vectors.
fn parties(ephemerals: [u8; 2]) -> (Initiator, Responder) {
    let [of_initiator, of_responder] = ephemerals;
    let key = |byte| SecretKey::from_bytes(&[byte; 32]).expect("it is in range");
    let responder = key(0x21);
    let remote = responder.identity();
    let initiator = Initiator::new(&key(0x11), &remote, &key(of_initiator)).expect("they differ");
    (initiator, Responder::new(&responder, &key(of_responder)).expect("no input is in it"))
}

/// Reads the input as the acts of a handshake: one, two and three behind each other.
pub fn handshake(input: &[u8]) {
    let (mut initiator, mut responder) = parties(KEYS_OF_VECTORS);
    let one = initiator.act_one().expect("it is the first");
    let (mut other_initiator, mut other_responder) = parties(KEYS_OF_VECTORS);
    other_initiator.act_one().expect("it is the first");
    let two = responder.act_one(&one).expect("it is genuine");
    let (three, _) = initiator.act_two(&two).expect("it is genuine");
    let Some((given_one, rest)) = input.split_first_chunk() else { return };
    let answered = other_responder.act_one(given_one);
    assert_eq!(answered.as_ref().ok(), (*given_one == one).then_some(&two), "act one");
    let again = other_responder.act_one(&one);
    assert!(again.is_err(), "a handshake has one act one");
    let Some((given_two, rest)) = rest.split_first_chunk() else { return };
    let answered = other_initiator.act_two(given_two).map(|(act, _)| act);
    assert_eq!(answered.ok(), (*given_two == two).then_some(three), "act two");
    let Some((given_three, _)) = rest.split_first_chunk() else { return };
    let accepted = responder.act_three(given_three);
    assert_eq!(accepted.is_ok(), *given_three == three, "act three");
}

/// Seals the input's plaintext, changes one byte of the stream if the input says so, and opens it;
/// and opens the input itself, which nobody sealed.
pub fn record(input: &[u8]) {
    let (mut initiator, mut responder) = parties(KEYS_OF_RECORDS);
    let one = initiator.act_one().expect("it is the first");
    let two = responder.act_one(&one).expect("it is genuine");
    let (three, ours) = initiator.act_two(&two).expect("it is genuine");
    let (_, theirs) = responder.act_three(&three).expect("it is genuine");
    if let Some((control, plaintext)) = input.split_first_chunk::<CONTROL_BYTES>() {
        exchange(ours.sealer, theirs.opener, *control, plaintext);
    }
    refuse(ours.opener, input);
    let Transport { mut sealer, .. } = theirs;
    assert!(sealer.seal_in_place(&mut vec![0; input.len().min(RECORD_OVERHEAD_BYTES)]).is_err());
}

fn exchange(mut sealer: Sealer, mut opener: Opener, control: [u8; 4], plaintext: &[u8]) {
    let [high, low, mask, record_bytes] = control;
    let record_bytes = match record_bytes {
        0 => plaintext.len().max(1),
        some => usize::from(some),
    };
    let mut stream = Vec::new();
    for piece in plaintext.chunks(record_bytes) {
        let mut record = vec![0; piece.len() + RECORD_OVERHEAD_BYTES];
        record[RECORD_HEADER_BYTES..][..piece.len()].copy_from_slice(piece);
        sealer.seal_in_place(&mut record).expect("a record fits");
        stream.extend_from_slice(&record);
    }
    let changed = usize::from(u16::from_be_bytes([high, low]));
    let mut intact = stream.len();
    if mask != 0 && !stream.is_empty() {
        intact = changed % stream.len();
        stream[intact] ^= mask;
    }
    let (opened, error) = open_all(&mut opener, &stream);
    assert_eq!(error.is_some(), intact < stream.len(), "a change is found, and nothing else");
    assert!(plaintext.starts_with(&opened), "what is opened was sealed");
    if error.is_none() {
        assert_eq!(opened, plaintext);
    } else {
        // All records in front of the changed one are whole.
        let whole = intact / (record_bytes + RECORD_OVERHEAD_BYTES) * record_bytes;
        assert_eq!(opened.len(), whole);
        assert_eq!(opener.open_header(&[0; RECORD_HEADER_BYTES]), Err(RecordError::Failed));
    }
}

/// Opens records until one is bad or the stream ends, which it does between two.
fn open_all(opener: &mut Opener, mut stream: &[u8]) -> (Vec<u8>, Option<RecordError>) {
    let mut opened = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk() {
        let bytes = match opener.open_header(header) {
            Ok(bytes) => bytes,
            Err(error) => return (opened, Some(error)),
        };
        let (body, rest) = rest.split_at(bytes + TAG_BYTES);
        let mut body = body.to_owned();
        if let Err(error) = opener.open_body(&mut body) {
            return (opened, Some(error));
        }
        opened.extend_from_slice(&body[..bytes]);
        stream = rest;
    }
    assert!(stream.is_empty(), "a genuine stream ends between records");
    (opened, None)
}

fn refuse(mut opener: Opener, input: &[u8]) {
    let Some((header, _)) = input.split_first_chunk() else { return };
    assert_eq!(opener.open_header(header), Err(RecordError::Header), "nobody sealed this");
    assert_eq!(opener.open_header(header), Err(RecordError::Failed));
    assert_eq!(opener.open_body(&mut [0; TAG_BYTES + 1]), Err(RecordError::Failed));
}

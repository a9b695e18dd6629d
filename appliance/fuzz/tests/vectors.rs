//! Gives every vector of the specification to the targets that read its kind: whole, cut at every
//! byte, and with every single bit flipped. Each is refused or harmless.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its vectors has failed")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;
use waystation_fuzz::{
    Target, a2al_address, a2al_delegation, a2al_host, a2al_message, a2al_payload, a2al_record,
    channel, endpoint, frame_p0, frame_p2, frame_p4, handshake, idle, key_file, negotiation_accept,
    negotiation_dial, node_info, nonce, object, record, stun_message, turn_server, turn_stream,
};

/// Bytes of the longest vector that is varied; what is longer are whole records full of payload.
const VARIED_BYTES_MAX: usize = 600;

fn vectors() -> Value {
    vectors_of("astral/tests/vectors/astral-vectors.json")
}

fn vectors_of(protocol: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../protocols").join(protocol);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Runs a target on the bytes, on each cut of them, and on each with one bit flipped.
fn vary(run: Target, bytes: &[u8]) {
    run(bytes);
    if bytes.len() > VARIED_BYTES_MAX {
        return;
    }
    for end in 0..bytes.len() {
        run(&bytes[..end]);
    }
    let mut flipped = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        run(&flipped);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Every text of a value that is hexadecimal, however deep it stands.
fn byte_strings(value: &Value, found: &mut BTreeSet<Vec<u8>>) {
    match value {
        Value::String(text) => {
            if let Ok(bytes) = hex::decode(text) {
                found.insert(bytes);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| byte_strings(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| byte_strings(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn all_bytes(value: &Value) -> BTreeSet<Vec<u8>> {
    let mut found = BTreeSet::new();
    byte_strings(value, &mut found);
    found
}

#[test]
fn frame_vectors_cut_and_flipped_are_refused_or_harmless() {
    let vectors = vectors();
    for (profile, run) in
        [("P0", frame_p0 as Target), ("P2", frame_p2 as Target), ("P4", frame_p4 as Target)]
    {
        let of_profile = vectors["frames"].as_array().unwrap().iter();
        let frames: Vec<_> = of_profile.filter_map(|frame| frame.get(profile)).collect();
        assert!(frames.len() >= 17);
        frames
            .into_iter()
            .for_each(|frame| vary(run, &hex::decode(frame.as_str().unwrap()).unwrap()));
    }
}

#[test]
fn negotiation_vectors_cut_and_flipped_are_refused_or_harmless() {
    let vectors = vectors();
    for profile in ["P0", "P2", "P4"] {
        let of_profile = &vectors["negotiation"][profile];
        let said_by = |who: &str| -> Vec<u8> {
            let fields = of_profile.as_object().unwrap().iter();
            let own = fields.filter(|(name, _)| name.starts_with(who) && !name.contains("refused"));
            own.flat_map(|(_, bytes)| hex::decode(bytes.as_str().unwrap()).unwrap()).collect()
        };
        // Their names are numbered, so they stand in the order they are said in.
        vary(negotiation_dial, &said_by("responder"));
        vary(negotiation_accept, &said_by("initiator"));
    }
    for bytes in all_bytes(&vectors["negotiation"]) {
        vary(negotiation_dial, &bytes);
        vary(negotiation_accept, &bytes);
    }
}

#[test]
fn gateway_vectors_cut_and_flipped_are_refused_or_harmless() {
    let found = all_bytes(&vectors()["gateway"]);
    assert!(found.len() > 20);
    for bytes in found {
        for run in [channel as Target, object, idle, nonce, endpoint] {
            vary(run, &bytes);
        }
        // A channel's object without its length is the short form.
        let name_bytes = usize::from(bytes[0]);
        if let (Some(name), Some(payload)) = (bytes.get(..=name_bytes), bytes.get(name_bytes + 5..))
        {
            vary(object, &[name, payload].concat());
        }
    }
}

#[test]
fn node_vectors_cut_and_flipped_are_refused_or_harmless() {
    let vectors = vectors();
    for info in vectors["node_info"].as_array().unwrap() {
        vary(node_info, info["text"].as_str().unwrap().as_bytes());
        vary(node_info, &hex::decode(info["binary"].as_str().unwrap()).unwrap());
    }
    for bytes in all_bytes(&vectors["node_key_files"]) {
        vary(key_file, &bytes);
    }
}

#[test]
fn handshake_vectors_cut_and_flipped_are_refused_or_harmless() {
    let vectors = vectors();
    let first = &vectors["handshake"][0];
    let acts =
        ["act1", "act2", "act3"].map(|act| hex::decode(first[act].as_str().unwrap()).unwrap());
    handshake(&acts.concat());
    // Each change costs several key agreements, so one bit of each byte has to do.
    let acts = acts.concat();
    for index in 0..acts.len() {
        handshake(&acts[..index]);
        let mut flipped = acts.clone();
        flipped[index] ^= 1 << (index % 8);
        handshake(&flipped);
    }
    for bytes in all_bytes(&vectors["negotiation"]["P0_ciphertext_with_handshake_0"]) {
        record(&bytes);
    }
}

#[test]
fn recorded_conversations_are_read_as_frames_of_any_profile() {
    let vectors = vectors();
    let mut events = 0;
    for conversation in vectors["conversations"].as_array().unwrap() {
        for bytes in all_bytes(&conversation["events"]) {
            [frame_p0, frame_p2, frame_p4].iter().for_each(|run| run(&bytes));
            channel(&bytes);
            events += 1;
        }
    }
    assert!(events > 500);
}

#[test]
fn stun_vectors_cut_and_flipped_are_refused_or_harmless() {
    let found = all_bytes(&vectors_of("turn/tests/vectors/stun-vectors.json"));
    assert!(found.len() >= 5);
    for bytes in found {
        for run in [stun_message as Target, turn_stream] {
            vary(run, &bytes);
        }
        turn_server(&bytes);
    }
}

#[test]
fn a2al_vectors_cut_and_flipped_are_refused_or_harmless() {
    let vectors = vectors_of("a2al/tests/vectors/a2al-vectors.json");
    let bytes_of = |case: &Value, name: &str| hex::decode(case[name].as_str().unwrap()).unwrap();
    let cases = |group: &str| vectors[group].as_array().unwrap().clone();
    for case in ["negative", "leniency"].into_iter().flat_map(cases) {
        a2al_message(&bytes_of(&case, "packet"));
    }
    for case in cases("messages").iter().filter(|case| case["size"].as_u64().unwrap() < 300) {
        vary(a2al_message, &bytes_of(case, "packet"));
    }
    for case in cases("records") {
        vary(a2al_payload, &bytes_of(&case, "payload"));
    }
    vary(a2al_record, &bytes_of(&cases("records")[0], "cbor"));
    vary(a2al_delegation, &bytes_of(&cases("delegations")[0], "cbor"));
    vary(a2al_host, &bytes_of(&cases("tls_delegation_extension")[0], "ext_value_der"));
    for case in cases("quic_control") {
        vary(a2al_host, &bytes_of(&case, "bytes"));
    }
    for case in cases("addresses") {
        vary(a2al_address, case["text"].as_str().unwrap().as_bytes());
    }
}

#[test]
fn recorded_a2al_conversations_are_read() {
    let captures = vectors_of("a2al/tests/vectors/a2al-captures.json");
    let found = all_bytes(&captures["conversations"]);
    assert!(found.len() > 200);
    found.iter().for_each(|bytes| a2al_message(bytes));
}

//! Connections to the gateway's socket port: what they present, and how they idle.

use waystation_astral::gateway::idle::{IdleDecoder, IdleMessage};
use waystation_astral::gateway::{NonceDecoder, NonceError, nonce_object};

use crate::segments::segmentations;

/// Reads the input as an idle connection up to its handoff.
pub fn idle(input: &[u8]) {
    let mut found = segmentations(input).map(|segments| idle_messages(&segments)).into_iter();
    let whole = found.next().expect("the input in one piece");
    assert!(found.all(|other| other == whole), "a segmentation changes what is read");
}

fn idle_messages(segments: &[&[u8]]) -> (Vec<IdleMessage>, Vec<u8>, bool) {
    let mut decoder = IdleDecoder::new();
    let mut messages = Vec::new();
    let mut pipe = Vec::new();
    for segment in segments {
        let mut cursor = 0;
        while messages.last() != Some(&IdleMessage::HandoffAck) {
            match decoder.next(segment, &mut cursor) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next(&[16], &mut 0), Err(error));
                    assert!(!decoder.at_boundary());
                    return (messages, pipe, true);
                }
            }
        }
        pipe.extend_from_slice(&segment[cursor..]);
    }
    (messages, pipe, false)
}

/// Reads the input as what a connection presents.
pub fn nonce(input: &[u8]) {
    let mut found = segmentations(input).map(|segments| presented(&segments)).into_iter();
    let whole = found.next().expect("the input in one piece");
    assert!(found.all(|other| other == whole), "a segmentation changes what is read");
    if let (Ok(Some(nonce)), rest) = whole {
        let object = nonce_object(nonce).to_vec();
        let raw = nonce.to_be_bytes().to_vec();
        let forms = [object, raw].map(|form| [&form[..], &rest[..]].concat());
        assert!(forms.iter().any(|form| form == input), "bytes around the nonce are lost");
    }
}

fn presented(segments: &[&[u8]]) -> (Result<Option<u64>, NonceError>, Vec<u8>) {
    let mut decoder = NonceDecoder::new();
    let mut nonce = None;
    let mut rest = Vec::new();
    for segment in segments {
        let mut cursor = 0;
        if nonce.is_none() {
            match decoder.next(segment, &mut cursor) {
                Ok(found) => nonce = found,
                Err(error) => {
                    assert_eq!(decoder.next(b"\x42", &mut 0), Err(error));
                    return (Err(error), Vec::new());
                }
            }
        }
        rest.extend_from_slice(&segment[cursor..]);
    }
    (Ok(nonce), rest)
}

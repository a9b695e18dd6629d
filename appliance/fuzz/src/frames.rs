//! Frames: read alike in every segmentation, and written as they are read.

use std::mem::{self, Discriminant};

use waystation_astral::frame::{Decoded, Frame, FrameDecoder, FrameError, Profile};

use crate::segments::segmentations;

/// Bytes of the shortest frame of any profile: a reset of a raw one (spec §6.1).
const FRAME_BYTES_MIN: usize = 9;

/// Decodes the input as P0 frames.
pub fn frame_p0(input: &[u8]) {
    frames(Profile::P0, input);
}

/// Decodes the input as P2 frames.
pub fn frame_p2(input: &[u8]) {
    frames(Profile::P2, input);
}

/// Decodes the input as P4 frames.
pub fn frame_p4(input: &[u8]) {
    frames(Profile::P4, input);
}

fn frames(profile: Profile, input: &[u8]) {
    let mut found = segmentations(input).map(|segments| decode(profile, &segments)).into_iter();
    let whole = found.next().expect("the input in one piece");
    assert!(found.all(|other| other == whole), "a segmentation changes what is read");
    assert!(whole.frames.len() * FRAME_BYTES_MIN <= input.len(), "more frames than fit");
    let encoded = whole.frames.concat();
    let again = decode(profile, &[&encoded]);
    assert_eq!(again.frames, whole.frames, "a frame is not written as it was read");
    assert!(again.error.is_none() && again.at_boundary);
}

/// What a decoder made of a stream.
#[derive(PartialEq, Eq)]
struct Found {
    /// Each frame as its profile writes it.
    frames: Vec<Vec<u8>>,
    /// Which error it is; an unknown type also keeps what of its name had arrived.
    error: Option<Discriminant<FrameError>>,
    at_boundary: bool,
}

fn decode(profile: Profile, segments: &[&[u8]]) -> Found {
    let mut decoder = FrameDecoder::new(profile);
    let mut found = Found { frames: Vec::new(), error: None, at_boundary: true };
    let mut payload: Option<Vec<u8>> = None;
    for input in segments {
        if let Err(error) = decode_segment(&mut decoder, input, &mut payload, &mut found.frames) {
            assert_eq!(decoder.next(b"\x00", &mut 0), Err(error), "a refused link goes on");
            found.error = Some(mem::discriminant(&error));
            break;
        }
    }
    found.at_boundary = decoder.at_boundary();
    found
}

fn decode_segment(
    decoder: &mut FrameDecoder,
    input: &[u8],
    payload: &mut Option<Vec<u8>>,
    frames: &mut Vec<Vec<u8>>,
) -> Result<(), FrameError> {
    let profile = decoder.profile();
    let mut cursor = 0;
    loop {
        let before = cursor;
        let decoded = decoder.next(input, &mut cursor)?;
        assert!(before <= cursor && cursor <= input.len());
        let Some(decoded) = decoded else {
            assert_eq!(cursor, input.len(), "more is asked for with input left");
            return Ok(());
        };
        match decoded {
            Decoded::Frame(frame) => {
                assert!(payload.is_none(), "a frame inside another's payload");
                frames.push(encoded(&frame, profile));
            }
            Decoded::Data { nonce, offset, bytes, first, frame_bytes, remaining } => {
                assert_eq!(first, payload.is_none());
                assert!(bytes > 0 || frame_bytes == 0, "an empty piece of a frame");
                let mut whole = payload.take().unwrap_or_default();
                whole.extend_from_slice(&input[offset..offset + bytes]);
                assert_eq!(whole.len() + remaining, frame_bytes);
                if remaining > 0 {
                    *payload = Some(whole);
                } else {
                    frames.push(encoded(&Frame::Data { nonce, payload: &whole }, profile));
                }
            }
        }
    }
}

fn encoded(frame: &Frame<'_>, profile: Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode_to_vec(profile, &mut bytes).expect("what is read can be written");
    bytes
}

//! Frames against the specification's vectors, in every segmentation, truncation and bit flip.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its functions too")]

mod collector;

use collector::{FrameCollector, OwnedFrame, vectors};
use proptest::prelude::*;
use waystation_astral::frame::{
    Decoded, EncodeError, Frame, FrameDecoder, FrameError, FrameKind, Profile, data_header_bytes,
    write_data_header,
};
use waystation_astral::limits::{
    DATA_PAYLOAD_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX, QUERY_STRING_BYTES_MAX,
};

const NONCE: u64 = 0x0123_4567_89ab_cdef;

struct Vector {
    name: String,
    text: String,
    profile: Profile,
    bytes: Vec<u8>,
}

fn frame_vectors() -> Vec<Vector> {
    let mut found = Vec::new();
    for entry in vectors()["frames"].as_array().unwrap() {
        for profile in Profile::ALL {
            let Some(hex) = entry.get(profile.name().to_uppercase()) else { continue };
            found.push(Vector {
                name: format!("{profile} {}", entry["frame"].as_str().unwrap()),
                text: entry["text"].as_str().unwrap().to_owned(),
                profile,
                bytes: hex::decode(hex.as_str().unwrap()).unwrap(),
            });
        }
    }
    assert_eq!(found.len(), 17 * 3 + 2 + 1, "17 common frames, migrate, relay_query");
    found
}

/// Decodes segments of a stream.
fn collect<'a>(
    profile: Profile,
    segments: impl IntoIterator<Item = &'a [u8]>,
) -> Result<FrameCollector, FrameError> {
    let mut collector = FrameCollector::new(profile);
    for segment in segments {
        collector.push(segment)?;
    }
    Ok(collector)
}

fn stream(profile: Profile) -> (Vec<u8>, Vec<OwnedFrame>) {
    let bytes: Vec<u8> = frame_vectors()
        .into_iter()
        .filter(|vector| vector.profile == profile)
        .flat_map(|vector| vector.bytes)
        .collect();
    let frames = collect(profile, [&bytes[..]]).unwrap().take_frames();
    (bytes, frames)
}

#[test]
fn every_vector_decodes_to_its_fields_and_encodes_to_its_bytes() {
    for vector in frame_vectors() {
        let mut collected = collect(vector.profile, [&vector.bytes[..]]).unwrap();
        assert!(collected.at_boundary(), "{}", vector.name);
        let [frame] = &collected.take_frames()[..] else { panic!("{}", vector.name) };
        let text = vector.text.as_str();
        if let Some((head, payload)) = text.split_once(" \"").filter(|_| text.starts_with("data "))
        {
            assert_eq!(frame.text(), head, "{}", vector.name);
            let payload = payload.trim_end_matches('"').as_bytes();
            assert!(vector.bytes.ends_with(payload));
        } else {
            assert_eq!(frame.text(), text, "{}", vector.name);
        }
        assert_eq!(frame.encoded(vector.profile), vector.bytes, "{}", vector.name);
    }
}

#[test]
fn fields_encode_to_the_bytes_of_the_specification() {
    let cases: [(Frame<'_>, [Option<&str>; 3]); 4] = [
        (
            Frame::Response { nonce: NONCE, code: 0, window: 4_194_304 },
            [
                Some("020123456789abcdef0000400000"),
                Some("030123456789abcdef0000400000"),
                Some(
                    "156e6f6465732e6672616d65732e726573706f6e7365\
                     0000000d0123456789abcdef0000400000",
                ),
            ],
        ),
        (
            Frame::Read { nonce: NONCE, bytes: 8192 },
            [
                Some("030123456789abcdef00002000"),
                Some("020123456789abcdef00002000"),
                Some("116e6f6465732e6672616d65732e726561640000000c0123456789abcdef00002000"),
            ],
        ),
        (
            Frame::Data { nonce: NONCE, payload: b"hello" },
            [
                Some("040123456789abcdef000568656c6c6f"),
                Some("040123456789abcdef000568656c6c6f"),
                Some("116e6f6465732e6672616d65732e646174610000000f0123456789abcdef000568656c6c6f"),
            ],
        ),
        (
            Frame::Migrate { nonce: NONCE },
            [
                None,
                Some("050123456789abcdef"),
                Some("146e6f6465732e6672616d65732e6d696772617465000000080123456789abcdef"),
            ],
        ),
    ];
    for (frame, encodings) in cases {
        for (profile, encoding) in Profile::ALL.into_iter().zip(encodings) {
            let mut out = Vec::new();
            let result = frame.encode_to_vec(profile, &mut out);
            match encoding {
                Some(encoding) => assert_eq!(hex::encode(out), encoding),
                None => {
                    let kind = frame.kind();
                    assert_eq!(result, Err(EncodeError::NoSuchFrame { profile, kind }));
                    assert!(out.is_empty());
                }
            }
        }
    }
}

#[test]
fn every_two_way_split_and_single_bytes_decode_alike() {
    for profile in Profile::ALL {
        let (bytes, frames) = stream(profile);
        let mut one_by_one = collect(profile, bytes.chunks(1)).unwrap();
        assert!(one_by_one.at_boundary());
        assert_eq!(one_by_one.take_frames(), frames);
        for split in 0..=bytes.len() {
            let (front, back) = bytes.split_at(split);
            let mut collected = collect(profile, [front, back]).unwrap();
            assert_eq!(collected.take_frames(), frames, "{profile} split at {split}");
        }
    }
}

#[test]
fn boundaries_are_reported_between_frames_only() {
    for vector in frame_vectors() {
        for end in 0..=vector.bytes.len() {
            let collected = collect(vector.profile, vector.bytes[..end].chunks(1)).unwrap();
            let whole = end == 0 || end == vector.bytes.len();
            assert_eq!(collected.at_boundary(), whole, "{} to {end}", vector.name);
        }
    }
}

#[test]
fn truncated_vectors_yield_no_frame() {
    for vector in frame_vectors() {
        for end in 0..vector.bytes.len() {
            let mut collected = collect(vector.profile, [&vector.bytes[..end]]).unwrap();
            assert!(collected.take_frames().is_empty(), "{} to {end}", vector.name);
        }
    }
}

#[test]
fn flipped_bits_are_refused_or_harmless() {
    for vector in frame_vectors() {
        for bit in 0..vector.bytes.len() * 8 {
            let mut flipped = vector.bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let whole = collect(vector.profile, [&flipped[..]]);
            let by_bytes = collect(vector.profile, flipped.chunks(1));
            match (whole, by_bytes) {
                (Ok(mut whole), Ok(mut by_bytes)) => {
                    assert_eq!(whole.at_boundary(), by_bytes.at_boundary());
                    let frames = whole.take_frames();
                    assert_eq!(frames, by_bytes.take_frames());
                    assert!(frames.len() <= flipped.len() / 9, "no frame is under nine bytes");
                }
                (whole, by_bytes) => {
                    // An error may show more of a type name when more had arrived.
                    let kinds = [whole.err(), by_bytes.err()]
                        .map(|error| std::mem::discriminant(&error.expect("both are refused")));
                    assert_eq!(kinds[0], kinds[1], "{} bit {bit}", vector.name);
                }
            }
        }
    }
}

fn refused(profile: Profile, bytes: &[u8]) -> FrameError {
    let mut decoder = FrameDecoder::new(profile);
    let mut cursor = 0;
    let error = decoder.next(bytes, &mut cursor).unwrap_err();
    assert_eq!(decoder.next(&[0; 20], &mut 0), Err(error), "a failed decoder stays failed");
    assert!(!decoder.at_boundary());
    assert_eq!(collect(profile, bytes.chunks(1)).err(), Some(error));
    error
}

#[test]
fn opcodes_outside_the_table_are_refused_at_their_first_byte() {
    for (profile, known) in [(Profile::P0, 6), (Profile::P2, 7)] {
        for opcode in known..=255 {
            assert_eq!(refused(profile, &[opcode]), FrameError::UnknownOpcode { profile, opcode });
        }
    }
}

#[test]
fn objects_that_are_no_frames_are_refused_before_their_payload() {
    for (bytes, shown, shown_by_bytes) in [
        (&b"\x00"[..], "\"\" (0 bytes)", "\"\" (0 bytes)"),
        (b"\x03ack", "\"ack\" (3 bytes)", "\"\" (3 bytes)"),
        (
            b"\x11nodes.frames.pinx",
            "\"nodes.frames.pinx\" (17 bytes)",
            "\"nodes.frames.pinx\" (17 bytes)",
        ),
        (b"\x15nodes.frames.x", "\"nodes.frames.x\" (21 bytes)", "\"nodes.frames.x\" (21 bytes)"),
        (b"\xff", "\"\" (255 bytes)", "\"\" (255 bytes)"),
        (b"\x12\x00n", "\"\\x00n\" (18 bytes)", "\"\\x00\" (18 bytes)"),
    ] {
        let mut decoder = FrameDecoder::new(Profile::P4);
        let error = decoder.next(bytes, &mut 0).unwrap_err();
        assert_eq!(error.to_string(), format!("no frame has the type name {shown}"));
        assert_eq!(decoder.next(bytes, &mut 0), Err(error));
        let error = collect(Profile::P4, bytes.chunks(1)).err().unwrap();
        assert_eq!(error.to_string(), format!("no frame has the type name {shown_by_bytes}"));
    }
}

fn object(kind: FrameKind, payload_bytes: u32) -> Vec<u8> {
    let name = kind.type_name();
    let mut bytes = vec![name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&payload_bytes.to_be_bytes());
    bytes
}

#[test]
fn impossible_payload_lengths_are_refused_as_soon_as_they_are_known() {
    let fixed_bytes = [9, 14, 80, 12, 13, 10, 8, 8];
    for (kind, needed_bytes) in FrameKind::ALL.into_iter().zip(fixed_bytes) {
        for payload_bytes in [0, needed_bytes - 1] {
            assert_eq!(
                refused(Profile::P4, &object(kind, payload_bytes)),
                FrameError::PayloadTooShort { kind, payload_bytes, needed_bytes }
            );
        }
        for payload_bytes in [FRAME_PAYLOAD_BYTES_MAX + 1, 1 << 31, u32::MAX] {
            assert_eq!(
                refused(Profile::P4, &object(kind, payload_bytes)),
                FrameError::PayloadTooLong { kind, payload_bytes }
            );
        }
        let longest = object(kind, FRAME_PAYLOAD_BYTES_MAX);
        assert!(collect(Profile::P4, [&longest[..]]).is_ok());
    }
}

#[test]
fn strings_and_payloads_behind_their_object_are_refused() {
    let mut data = object(FrameKind::Data, 14);
    data.extend_from_slice(b"\x01\x23\x45\x67\x89\xab\xcd\xef\x00\x05");
    assert_eq!(
        refused(Profile::P4, &data),
        FrameError::PayloadTooShort { kind: FrameKind::Data, payload_bytes: 14, needed_bytes: 15 }
    );
    let mut query = object(FrameKind::Query, 14);
    query.extend_from_slice(b"\x01\x23\x45\x67\x89\xab\xcd\xef\x00\x00\x00\x00\xff\xff");
    assert_eq!(
        refused(Profile::P4, &query),
        FrameError::PayloadTooShort {
            kind: FrameKind::Query,
            payload_bytes: 14,
            needed_bytes: 14 + 65_535
        }
    );
}

#[test]
fn surplus_payload_bytes_are_skipped_in_every_segmentation() {
    let vectors = frame_vectors();
    for vector in vectors.iter().filter(|vector| vector.profile == Profile::P4) {
        let frames = collect(Profile::P4, [&vector.bytes[..]]).unwrap().take_frames();
        let length_at = 1 + usize::from(vector.bytes[0]);
        let field: [u8; 4] = vector.bytes[length_at..length_at + 4].try_into().unwrap();
        for surplus in [1_u32, 7, 300] {
            let mut bytes = vector.bytes.clone();
            let length = (u32::from_be_bytes(field) + surplus).to_be_bytes();
            bytes[length_at..length_at + 4].copy_from_slice(&length);
            bytes.extend(std::iter::repeat_n(0x11, surplus as usize));
            let twice = [&bytes[..], &bytes[..]].concat();
            let expected = [&frames[..], &frames[..]].concat();
            let step = if surplus > 100 { 7 } else { 1 };
            for split in (0..=twice.len()).step_by(step) {
                let (front, back) = twice.split_at(split);
                let mut collected = collect(Profile::P4, [front, back]).unwrap();
                assert!(collected.at_boundary());
                assert_eq!(collected.take_frames(), expected, "{} {split}", vector.name);
            }
            let mut one_by_one = collect(Profile::P4, twice.chunks(1)).unwrap();
            assert!(one_by_one.at_boundary());
            assert_eq!(one_by_one.take_frames(), expected);
        }
    }
}

#[test]
fn longest_frames_pass_and_longer_ones_are_not_encoded() {
    let longest = vec![b'q'; QUERY_STRING_BYTES_MAX];
    let longer = vec![b'q'; QUERY_STRING_BYTES_MAX + 1];
    let id = [2; 33];
    assert_eq!(QUERY_STRING_BYTES_MAX, DATA_PAYLOAD_BYTES_MAX);
    for profile in Profile::ALL {
        let frames = |tail| {
            [
                Frame::Query { nonce: 1, window: 2, query: tail },
                Frame::Data { nonce: 1, payload: tail },
                Frame::RelayQuery { caller: &id, target: &id, nonce: 1, window: 2, query: tail },
            ]
        };
        let known = if profile == Profile::P4 { 3 } else { 2 };
        for frame in &frames(&longest)[..known] {
            let mut encoded = Vec::new();
            frame.encode_to_vec(profile, &mut encoded).unwrap();
            let decoded = collect(profile, encoded.chunks(1000)).unwrap().take_frames();
            assert_eq!(decoded.len(), 1);
            assert_eq!(decoded[0].encoded(profile), encoded);
        }
        for frame in &frames(&longer)[..known] {
            let kind = frame.kind();
            let mut out = vec![0; 70_000];
            let too_long = EncodeError::TooLong { kind, bytes: 65_536 };
            assert_eq!(frame.encode(profile, &mut out), Err(too_long));
            assert!(out.iter().all(|&byte| byte == 0));
        }
    }
}

#[test]
fn encoding_into_a_short_buffer_is_refused_and_leaves_it_alone() {
    let frame = Frame::Data { nonce: NONCE, payload: b"hello" };
    for profile in Profile::ALL {
        let needed_bytes = frame.encoded_bytes(profile).unwrap();
        for room_bytes in 0..needed_bytes {
            let mut out = vec![0xaa; room_bytes];
            let no_room = EncodeError::NoRoom { kind: FrameKind::Data, needed_bytes, room_bytes };
            assert_eq!(frame.encode(profile, &mut out), Err(no_room));
            assert!(out.iter().all(|&byte| byte == 0xaa));
        }
    }
}

#[test]
fn data_headers_are_the_beginning_of_data_frames() {
    for profile in Profile::ALL {
        for payload_bytes in [0, 1, 8192, u16::MAX] {
            let payload = vec![0x5a; usize::from(payload_bytes)];
            let mut frame = Vec::new();
            Frame::Data { nonce: NONCE, payload: &payload }
                .encode_to_vec(profile, &mut frame)
                .unwrap();
            let mut header = [0; 40];
            let written = write_data_header(profile, NONCE, payload_bytes, &mut header).unwrap();
            assert_eq!(written, data_header_bytes(profile));
            assert_eq!(header[..written], frame[..written]);
            assert_eq!(frame.len(), written + payload.len());
            assert!(header[written..].iter().all(|&byte| byte == 0));
        }
        let mut short = vec![0; data_header_bytes(profile) - 1];
        assert!(write_data_header(profile, NONCE, 1, &mut short).is_err());
    }
}

#[test]
fn whole_frames_borrow_from_the_input() {
    for profile in Profile::ALL {
        let mut input = Vec::new();
        let query = Frame::Query { nonce: 7, window: 1, query: b"x.echo" };
        query.encode_to_vec(profile, &mut input).unwrap();
        let mut decoder = FrameDecoder::new(profile);
        let mut cursor = 0;
        let decoded = decoder.next(&input, &mut cursor).unwrap();
        let Some(Decoded::Frame(Frame::Query { query, .. })) = decoded else { panic!() };
        assert!(input.as_ptr_range().contains(&query.as_ptr()));
        assert_eq!(cursor, input.len());
    }
}

#[test]
fn payload_that_begins_with_the_next_input_is_its_first_piece() {
    for profile in Profile::ALL {
        let mut bytes = Vec::new();
        Frame::Data { nonce: 7, payload: b"abc" }.encode_to_vec(profile, &mut bytes).unwrap();
        let (header, payload) = bytes.split_at(data_header_bytes(profile));
        let mut decoder = FrameDecoder::new(profile);
        let mut cursor = 0;
        assert_eq!(decoder.next(header, &mut cursor), Ok(None));
        assert_eq!(cursor, header.len());
        assert!(!decoder.at_boundary());
        assert_eq!(
            decoder.next(payload, &mut 0),
            Ok(Some(Decoded::Data {
                nonce: 7,
                offset: 0,
                bytes: 3,
                first: true,
                frame_bytes: 3,
                remaining: 0
            }))
        );
        assert!(decoder.at_boundary());
    }
}

#[test]
fn cursor_behind_the_input_asks_for_more() {
    for profile in Profile::ALL {
        let mut decoder = FrameDecoder::new(profile);
        let mut cursor = 100;
        assert_eq!(decoder.next(&[0; 10], &mut cursor), Ok(None));
        assert_eq!(cursor, 100);
    }
}

fn any_profile() -> impl Strategy<Value = Profile> {
    proptest::sample::select(Profile::ALL.to_vec())
}

/// Frames with every kind of field, encoded; the kinds that a profile lacks become resets.
fn any_stream() -> impl Strategy<Value = (Profile, Vec<u8>)> {
    let fields =
        (0..8_u8, any::<u64>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..90));
    (any_profile(), proptest::collection::vec(fields, 1..12)).prop_map(|(profile, entries)| {
        let mut bytes = Vec::new();
        for (kind, nonce, number, tail) in entries {
            let caller = [2; 33];
            let target = [3; 33];
            let frame = match kind {
                0 => Frame::Ping { nonce, pong: number % 2 == 0 },
                1 => Frame::Query { nonce, window: number, query: &tail },
                2 if profile == Profile::P4 => Frame::RelayQuery {
                    caller: &caller,
                    target: &target,
                    nonce,
                    window: number,
                    query: &tail,
                },
                3 => Frame::Read { nonce, bytes: number },
                4 => Frame::Response { nonce, code: number as u8, window: number },
                5 => Frame::Data { nonce, payload: &tail },
                6 if profile != Profile::P0 => Frame::Migrate { nonce },
                _ => Frame::Reset { nonce },
            };
            frame.encode_to_vec(profile, &mut bytes).unwrap();
        }
        (profile, bytes)
    })
}

fn segments<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut found = Vec::new();
    for &length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (front, back) = rest.split_at(length.min(rest.len()));
        found.push(front);
        rest = back;
    }
    found
}

proptest! {
    #[test]
    fn random_segments_decode_to_the_same_frames(
        (profile, bytes) in any_stream(),
        lengths in proptest::collection::vec(1..60_usize, 1..20),
    ) {
        let whole = collect(profile, [&bytes[..]]).unwrap().take_frames();
        let encoded: Vec<u8> = whole.iter().flat_map(|frame| frame.encoded(profile)).collect();
        prop_assert_eq!(&encoded, &bytes);
        let mut cut = collect(profile, segments(&bytes, &lengths)).unwrap();
        prop_assert!(cut.at_boundary());
        prop_assert_eq!(cut.take_frames(), whole);
    }

    #[test]
    fn any_bytes_decode_alike_in_any_segments(
        profile in any_profile(),
        mut bytes in proptest::collection::vec(0..8_u8, 0..300),
        tag in 0..9_usize,
        lengths in proptest::collection::vec(1..40_usize, 1..20),
    ) {
        if let Some(kind) = FrameKind::ALL.get(tag)
            && profile == Profile::P4
        {
            bytes.splice(0..0, object(*kind, 90));
        }
        let whole = collect(profile, [&bytes[..]]);
        let cut = collect(profile, segments(&bytes, &lengths));
        match (whole, cut) {
            (Ok(mut whole), Ok(mut cut)) => prop_assert_eq!(whole.take_frames(), cut.take_frames()),
            (whole, cut) => {
                let kind = |outcome: Result<_, FrameError>| {
                    outcome.err().map(|error| std::mem::discriminant(&error))
                };
                prop_assert_eq!(kind(whole), kind(cut));
            }
        }
    }
}

//! Tests of objects and channels.

use proptest::prelude::*;

use super::*;

fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

/// Reads a channel in segments of `step` bytes, to its end or its error.
fn read_all(
    form: ChannelForm,
    limit_bytes: usize,
    bytes: &[u8],
    step: usize,
) -> Result<Vec<Object>, ObjectError> {
    let mut reader = ObjectReader::new(form, limit_bytes);
    let mut objects = Vec::new();
    for segment in bytes.chunks(step) {
        reader.push(segment);
        while let Some(object) = reader.next()? {
            objects.push(object);
        }
    }
    assert!(reader.at_boundary());
    Ok(objects)
}

#[test]
fn forms_have_the_bytes_of_the_specification() {
    let mut out = Vec::new();
    write_object(ChannelForm::C1, "ack", &[], &mut out).unwrap();
    assert_eq!(out, unhex("00040361636b"));
    assert_eq!(ack(), unhex("0361636b00000000"));
    assert_eq!(eos(), unhex("03656f7300000000"));
    assert_eq!(boolean(true), unhex("04626f6f6c0000000101"));
    assert_eq!(
        error_message("unauthorized"),
        unhex("0d6572726f725f6d6573736167650000000e000c756e617574686f72697a6564")
    );
    assert_eq!(nonce64(0x0123_4567_89ab_cdef), unhex("076e6f6e63653634000000080123456789abcdef"));
    let mut out = Vec::new();
    write_canonical("uint32", &[0, 0, 0, 42], &mut out).unwrap();
    assert_eq!(out, unhex("414443300675696e7433320000002a"));
    assert_eq!(read_canonical(&out), Ok(("uint32", &[0, 0, 0, 42][..])));
}

#[test]
fn builders_read_back_in_every_segmentation() {
    let point = "028d7500dd4c12685d1f568b4c2b5048e8534b873319f3a8daa612b469132ec7f7";
    let someone: Identity = point.parse().unwrap();
    let stream = [
        error_message("no"),
        ack(),
        identity(&someone),
        boolean(false),
        nonce64(5),
        built("", b"blob"),
        eos(),
    ]
    .concat();
    let names = ["error_message", "ack", "identity", "bool", "nonce64", "", "eos"];
    for step in 1..=stream.len() {
        let objects = read_all(ChannelForm::C2, 100, &stream, step).unwrap();
        let found: Vec<&str> = objects.iter().map(|object| object.type_name.as_str()).collect();
        assert_eq!(found, names);
        assert_eq!(error_text(&objects[0]).as_deref(), Some("no"));
        assert_eq!(error_text(&objects[1]), None);
        assert_eq!(FieldReader::new(&objects[2].payload).id33(), Ok(someone));
    }
}

#[test]
fn overlong_error_texts_are_cut_at_a_character() {
    let text = "é".repeat(40_000);
    let objects = read_all(ChannelForm::C2, 70_000, &error_message(&text), 9000).unwrap();
    assert_eq!(error_text(&objects[0]).unwrap().len(), 65_534);
}

#[test]
fn objects_that_do_not_fit_their_form_are_not_written() {
    let mut out = vec![1];
    let long_name = "n".repeat(256);
    for form in [ChannelForm::C1, ChannelForm::C2] {
        assert_eq!(
            write_object(form, &long_name, &[], &mut out),
            Err(ObjectError::TypeNameTooLong { bytes: 256 })
        );
        assert_eq!(
            write_object(form, "é", &[], &mut out),
            Err(ObjectError::TypeNameNotText { bytes: 2 })
        );
    }
    assert_eq!(
        write_object(ChannelForm::C1, "abc", &[0; 65_532], &mut out),
        Err(ObjectError::PayloadTooLong { bytes: 65_532, limit_bytes: 65_531 })
    );
    assert_eq!(
        write_short(&long_name, &[], &mut out),
        Err(ObjectError::TypeNameTooLong { bytes: 256 })
    );
    assert_eq!(write_canonical("é", &[], &mut out), Err(ObjectError::TypeNameNotText { bytes: 2 }));
    assert_eq!(out, [1]);
    write_object(ChannelForm::C1, "abc", &[0; 65_531], &mut out).unwrap();
    assert_eq!(out.len(), 1 + 2 + 65_535);
}

#[test]
fn lengths_over_the_limit_are_refused_before_the_payload_arrives() {
    let c2 = unhex("0361636bffffffff");
    assert_eq!(
        read_all(ChannelForm::C2, 1000, &c2, 1),
        Err(ObjectError::PayloadTooLong { bytes: 0xffff_ffff, limit_bytes: 1000 })
    );
    let c1 = unhex("ffff0361636b");
    assert_eq!(
        read_all(ChannelForm::C1, 1000, &c1, 1),
        Err(ObjectError::PayloadTooLong { bytes: 65_531, limit_bytes: 1000 })
    );
}

#[test]
fn malformed_objects_are_refused_ever_after() {
    for (form, bytes, error) in [
        (ChannelForm::C1, "0000", ObjectError::Truncated { bytes: 0 }),
        (ChannelForm::C1, "00030361636b", ObjectError::Truncated { bytes: 3 }),
        (ChannelForm::C1, "000302c3a9", ObjectError::TypeNameNotText { bytes: 2 }),
        (ChannelForm::C2, "01ff00000000", ObjectError::TypeNameNotText { bytes: 1 }),
    ] {
        let mut reader = ObjectReader::new(form, 100);
        reader.push(&unhex(bytes));
        assert_eq!(reader.next(), Err(error), "{bytes}");
        reader.push(&ack());
        assert_eq!(reader.next(), Err(error));
        assert!(!reader.at_boundary());
    }
    assert_eq!(read_canonical(b"ADC1\x03ack"), Err(ObjectError::Magic));
    assert_eq!(read_canonical(b"ADC0\x04ack"), Err(ObjectError::Truncated { bytes: 8 }));
    assert_eq!(read_canonical(b"ADC0"), Err(ObjectError::Truncated { bytes: 4 }));
    assert_eq!(read_canonical(b""), Err(ObjectError::Magic));
}

#[test]
fn what_follows_the_channel_is_given_back() {
    let mut reader = ObjectReader::new(ChannelForm::C2, 100);
    reader.push(&[ack(), b"pipe bytes".to_vec()].concat());
    assert_eq!(reader.next().unwrap().unwrap().type_name, "ack");
    assert_eq!(reader.into_rest(), b"pipe bytes");
}

#[test]
fn fields_read_what_was_written_and_leave_the_surplus() {
    let mut writer = FieldWriter::new();
    writer.u8(1).u16(2).u32(3).u64(4).boolean(true).bytes(b"xy");
    writer.s8(b"a").unwrap().s16(b"bc").unwrap().s32(b"def").unwrap().id33(&Identity::ANYONE);
    let payload = writer.bytes(b"surplus").clone().into_payload();
    let mut reader = FieldReader::new(&payload);
    assert_eq!(reader.u8(), Ok(1));
    assert_eq!(reader.u16(), Ok(2));
    assert_eq!(reader.u32(), Ok(3));
    assert_eq!(reader.u64(), Ok(4));
    assert_eq!(reader.presence(), Ok(true));
    assert_eq!(reader.bytes("xy", 2), Ok(&b"xy"[..]));
    assert_eq!(reader.s8(), Ok(&b"a"[..]));
    assert_eq!(reader.s16(), Ok(&b"bc"[..]));
    assert_eq!(reader.s32(), Ok(&b"def"[..]));
    assert_eq!(reader.id33(), Ok(Identity::ANYONE));
    assert_eq!(reader.rest(), b"surplus");
    assert_eq!(
        reader.u64(),
        Err(FieldError::Truncated { field: "u64", needed_bytes: 8, left_bytes: 7 })
    );
    assert_eq!(reader.rest(), b"surplus", "a failed read takes nothing");
}

#[test]
fn fields_that_do_not_fit_are_refused() {
    let mut writer = FieldWriter::new();
    assert!(writer.s8(&[0; 255]).is_ok());
    assert_eq!(writer.s8(&[0; 256]), Err(FieldError::TooLong { field: "s8", bytes: 256 }));
    assert_eq!(writer.s16(&[0; 65_536]), Err(FieldError::TooLong { field: "s16", bytes: 65_536 }));
    assert_eq!(writer.into_payload().len(), 256);
    assert!(matches!(FieldReader::new(&[9; 33]).id33(), Err(FieldError::Identity(_))));
    assert_eq!(
        FieldReader::new(&[0xff, 0xff, 0xff, 0xff]).s32(),
        Err(FieldError::Truncated { field: "s32", needed_bytes: 0xffff_ffff, left_bytes: 0 })
    );
}

proptest! {
    #[test]
    fn objects_round_trip_in_both_forms(
        objects in proptest::collection::vec(
            ("[ -~]{0,20}", proptest::collection::vec(any::<u8>(), 0..100)),
            0..8,
        ),
        step in 1..50_usize,
    ) {
        for form in [ChannelForm::C1, ChannelForm::C2] {
            let mut stream = Vec::new();
            for (type_name, payload) in &objects {
                write_object(form, type_name, payload, &mut stream).unwrap();
            }
            let found = read_all(form, 100, &stream, step).unwrap();
            prop_assert_eq!(found.len(), objects.len());
            for (object, (type_name, payload)) in found.iter().zip(&objects) {
                prop_assert_eq!(&object.type_name, type_name);
                prop_assert_eq!(&object.payload, payload);
            }
        }
        for (type_name, payload) in &objects {
            let mut canonical = Vec::new();
            write_canonical(type_name, payload, &mut canonical).unwrap();
            prop_assert_eq!(read_canonical(&canonical), Ok((type_name.as_str(), &payload[..])));
        }
    }

    #[test]
    fn any_bytes_are_objects_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for form in [ChannelForm::C1, ChannelForm::C2] {
            if let Ok(Some(found)) = peek_object(form, &bytes, 150) {
                let PeekedObject { type_name: name, payload, bytes: taken } = found;
                prop_assert!(payload.len() <= 150 && name.len() <= 255 && taken <= bytes.len());
                let mut written = Vec::new();
                write_object(form, name, payload, &mut written).unwrap();
                prop_assert_eq!(&written, &bytes[..taken]);
            }
        }
    }
}

//! Objects: channels in every segmentation, and payloads that are written as they are read.

use waystation_astral::endpoint::Endpoint;
use waystation_astral::gateway::{parse_socket_object, socket_object};
use waystation_astral::object::{
    AnswerObject, AnswerWriter, ChannelForm, Encoding, FieldWriter, Object, ObjectError,
    ObjectReader, error_text, read_canonical, type_names, write_canonical, write_object,
};
use waystation_astral::objects::{
    Boolean, EndpointWithTtl, LinkInfo, MigrateSignal, ObservedEndpoint, PayloadError,
    ServiceUpdate, SessionInfo, StreamInfo, decode_boolean,
};

use crate::segments::segmentations;

/// Payload bytes over which the reader under test refuses.
const PAYLOAD_BYTES_MAX: usize = 512;

/// Every encoding that answers may have.
const ENCODINGS: [Encoding; 7] = [
    Encoding::C1,
    Encoding::C2,
    Encoding::Json,
    Encoding::BareText,
    Encoding::Text,
    Encoding::Base64,
    Encoding::Canonical,
];

/// Reads the input as a channel of either form.
pub fn channel(input: &[u8]) {
    for form in [ChannelForm::C1, ChannelForm::C2] {
        let mut found = segmentations(input).map(|segments| read(form, &segments)).into_iter();
        let whole = found.next().expect("the input in one piece");
        for other in found {
            assert_eq!(other, whole, "a segmentation changes what is read");
        }
        let mut written = Vec::new();
        for object in &whole.objects {
            assert!(object.payload.len() <= PAYLOAD_BYTES_MAX);
            write_object(form, &object.type_name, &object.payload, &mut written)
                .expect("what is read can be written");
        }
        assert!(input.starts_with(&written), "an object is not written as it was read");
        if whole.error.is_none() {
            assert_eq!([written, whole.rest].concat(), input, "bytes are lost");
        }
    }
}

/// What a reader made of a channel.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    objects: Vec<Object>,
    error: Option<ObjectError>,
    rest: Vec<u8>,
}

fn read(form: ChannelForm, segments: &[&[u8]]) -> Found {
    let mut reader = ObjectReader::new(form, PAYLOAD_BYTES_MAX);
    let mut objects = Vec::new();
    for segment in segments {
        reader.push(segment);
        loop {
            match reader.next() {
                Ok(Some(object)) => objects.push(object),
                Ok(None) => break,
                Err(error) => {
                    reader.push(&[0; 9]);
                    assert_eq!(reader.next(), Err(error), "a refused channel goes on");
                    return Found { objects, error: Some(error), rest: Vec::new() };
                }
            }
        }
    }
    let at_boundary = reader.at_boundary();
    let rest = reader.into_rest();
    assert_eq!(at_boundary, rest.is_empty());
    Found { objects, error: None, rest }
}

/// Reads the input as an object in short form, `s8(type)` and payload, and as a canonical object.
pub fn object(input: &[u8]) {
    if let Ok((type_name, payload)) = read_canonical(input) {
        let mut again = Vec::new();
        write_canonical(type_name, payload, &mut again).expect("what is read can be written");
        assert_eq!(again, input);
    }
    let Some((type_bytes, rest)) = input.split_first() else { return };
    let Some((type_name, payload)) = rest.split_at_checked(usize::from(*type_bytes)) else {
        return;
    };
    let Ok(type_name) = str::from_utf8(type_name) else { return };
    let object = Object { type_name: type_name.to_owned(), payload: payload.to_owned() };
    if let Some(text) = error_text(&object) {
        assert!(text.len() <= 3 * payload.len(), "a byte that is not text becomes three");
    }
    if let Ok((endpoint, nonce)) = parse_socket_object(&object) {
        let again = Object {
            type_name: type_name.to_owned(),
            payload: socket_object(&endpoint, nonce)[1 + type_name.len() + 4..].to_owned(),
        };
        assert_eq!(parse_socket_object(&again).expect("it is ours"), (endpoint, nonce));
    }
    if let Some(Ok(decoded)) = decode(type_name, payload) {
        check(&*decoded);
    }
}

type Decoded = Result<Box<dyn AnswerObject>, PayloadError>;

/// Decodes a payload of a type that peers send; `None` for other types.
fn decode(type_name: &str, payload: &[u8]) -> Option<Decoded> {
    fn boxed<T: AnswerObject + 'static>(decoded: Result<T, PayloadError>) -> Option<Decoded> {
        Some(decoded.map(|object| Box::new(object) as Box<dyn AnswerObject>))
    }
    match type_name {
        type_names::BOOL => boxed(decode_boolean(payload).map(Boolean)),
        type_names::ENDPOINT_WITH_TTL => boxed(EndpointWithTtl::decode(payload)),
        type_names::OBSERVED_ENDPOINT => boxed(ObservedEndpoint::decode(payload)),
        type_names::LINK_INFO => boxed(LinkInfo::decode(payload)),
        type_names::STREAM_INFO => boxed(StreamInfo::decode_early(payload)),
        type_names::SESSION_INFO => boxed(SessionInfo::decode(payload)),
        type_names::SERVICE_UPDATE => boxed(ServiceUpdate::decode(payload)),
        type_names::MIGRATE_SIGNAL => boxed(MigrateSignal::decode(payload)),
        _ => {
            let endpoint = Endpoint::decode_payload(type_name, payload);
            boxed(endpoint.map(|(endpoint, _)| endpoint).map_err(PayloadError::from))
        }
    }
}

/// Checks that an object that was read can be written in every encoding that its type has, and
/// that the binary one reads back.
fn check(object: &dyn AnswerObject) {
    let type_name = object.type_name();
    let mut fields = FieldWriter::new();
    object.write_payload(&mut fields).expect("what is read can be written");
    let payload = fields.into_payload();
    let again = decode(type_name, &payload).expect("its type is known").expect("it is ours");
    let mut fields = FieldWriter::new();
    again.write_payload(&mut fields).expect("it is ours");
    assert_eq!(fields.into_payload(), payload, "{type_name} is not written as it was read");
    for encoding in ENCODINGS {
        let mut writer = AnswerWriter::new(encoding);
        let written = writer.write(object);
        let bytes = writer.into_bytes();
        match (encoding, written) {
            (_, Err(_)) => assert!(bytes.is_empty(), "half an object is written"),
            (Encoding::Json, Ok(())) => {
                let json: serde_json::Value =
                    serde_json::from_slice(&bytes).expect("what we write as JSON is JSON");
                assert_eq!(json["Type"], type_name);
            }
            (Encoding::BareText | Encoding::Text | Encoding::Base64, Ok(())) => {
                let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
                assert!(lines == 1 && bytes.ends_with(b"\n"), "an object is one line");
            }
            (Encoding::C1 | Encoding::C2, Ok(())) => {
                let form = encoding.channel_form().expect("it is binary");
                let mut reader = ObjectReader::new(form, bytes.len());
                reader.push(&bytes);
                let read = reader.next().expect("it is ours").expect("it is whole");
                assert_eq!((read.type_name.as_str(), &read.payload), (type_name, &payload));
            }
            (Encoding::Canonical, Ok(())) => {
                assert_eq!(read_canonical(&bytes), Ok((type_name, &payload[..])));
            }
        }
    }
}

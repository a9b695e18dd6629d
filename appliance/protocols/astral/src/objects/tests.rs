//! Tests of the objects' bytes, JSON and text, and of what their readers refuse.

use proptest::prelude::*;

use super::*;
use crate::frame::Profile;
use crate::object::{AnswerError, AnswerObject, AnswerWriter, ChannelForm, Encoding, Object};
use crate::object::{ObjectReader, type_names};

const LOCAL: &str = "028d7500dd4c12685d1f568b4c2b5048e8534b873319f3a8daa612b469132ec7f7";
const REMOTE: &str = "034f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa";

fn endpoint() -> Endpoint {
    "tcp:203.0.113.7:41000".parse().unwrap()
}

/// The link of spec §18.3.
fn link() -> LinkInfo {
    LinkInfo {
        id: 0x0123_4567_89ab_cdef,
        local_identity: LOCAL.parse().unwrap(),
        remote_identity: REMOTE.parse().unwrap(),
        local_endpoint: Some("tcp:10.0.0.5:1791".parse().unwrap()),
        remote_endpoint: Some(endpoint()),
        outbound: false,
        network: "tcp".to_owned(),
        high_pressure: false,
        throughput_bytes: 1024,
    }
}

fn bare_link() -> LinkInfo {
    let network = "unknown".to_owned();
    LinkInfo { local_endpoint: None, remote_endpoint: None, outbound: true, network, ..link() }
}

fn session() -> SessionInfo {
    SessionInfo {
        id: 1,
        link_id: 0x0123_4567_89ab_cdef,
        remote_identity: REMOTE.parse().unwrap(),
        outbound: true,
        query: b"x.y?a=\"b\"".to_vec(),
        bytes: 42,
        age_ns: 1_500_000_000,
    }
}

fn service() -> ServiceUpdate {
    let provider = LOCAL.parse().unwrap();
    ServiceUpdate { available: true, name: "gateway".to_owned(), provider }
}

fn written(encoding: Encoding, object: &dyn AnswerObject) -> Result<Vec<u8>, AnswerError> {
    let mut writer = AnswerWriter::new(encoding);
    writer.write(object).map(|()| writer.into_bytes())
}

fn line(encoding: Encoding, object: &dyn AnswerObject) -> String {
    let text = String::from_utf8(written(encoding, object).unwrap()).unwrap();
    text.strip_suffix('\n').unwrap().to_owned()
}

fn payload(object: &dyn AnswerObject) -> Vec<u8> {
    let mut fields = FieldWriter::new();
    object.write_payload(&mut fields).unwrap();
    fields.into_payload()
}

fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

#[test]
fn binary_forms_are_those_of_the_specification() {
    let ready = MigrateSignal { signal: Migration::Ready, window_bytes: 4_194_304 };
    let ttl = |ttl_s| EndpointWithTtl { endpoint: endpoint(), ttl_s };
    let ttl_90_days = "1b 6d6f642e6e6f6465732e656e64706f696e745f776974685f74746c 0000001d \
        10 6d6f642e7463702e656e64706f696e74 04cb007107a028 01 0076a700";
    let ttl_never = "1b 6d6f642e6e6f6465732e656e64706f696e745f776974685f74746c 00000019 \
        10 6d6f642e7463702e656e64706f696e74 04cb007107a028 00";
    let link_c2 = format!(
        "13 6d6f642e6e6f6465732e6c696e6b5f696e666f 0000008a 0123456789abcdef 01 {LOCAL} 01 \
         {REMOTE} 10 6d6f642e7463702e656e64706f696e74 04 0a000005 06ff \
         10 6d6f642e7463702e656e64706f696e74 04 cb007107 a028 00 03 746370 00 0000000000000400"
    );
    let observed = "23 6d6f642e6e6f6465732e6f627365727665645f656e64706f696e745f6d657373616765 \
        00000018 10 6d6f642e7463702e656e64706f696e74 04 cb007107 a028";
    let signal = "18 6d6f642e6e6f6465732e6d6967726174655f7369676e616c 0000000a \
        05 7265616479 00400000";
    let unauthorized = ErrorMessage::new("unauthorized", Profile::P4);
    let error = "0d 6572726f725f6d657373616765 0000000e 000c 756e617574686f72697a6564";
    let cases: [(&dyn AnswerObject, &str); 10] = [
        (&Empty::Ack, "03 61636b 00000000"),
        (&Empty::Eos, "03 656f73 00000000"),
        (&Boolean(true), "04 626f6f6c 00000001 01"),
        (&unauthorized, error),
        (&Nonce64(0x0123_4567_89ab_cdef), "07 6e6f6e63653634 00000008 0123456789abcdef"),
        (&ttl(Some(7_776_000)), ttl_90_days),
        (&ttl(None), ttl_never),
        (&ready, signal),
        (&link(), &link_c2),
        (&ObservedEndpoint { endpoint: endpoint() }, observed),
    ];
    for (object, expected) in cases {
        let bytes = written(Encoding::C2, object).unwrap();
        assert_eq!(hex::encode(bytes), hex::encode(unhex(expected)), "{}", object.type_name());
    }
    assert_eq!(written(Encoding::C1, &Empty::Ack).unwrap(), unhex("0004 03 61636b"));
    let old = ErrorMessage::new("no", Profile::P0);
    assert_eq!(written(Encoding::C1, &old).unwrap(), b"\x00\x12\x0derror.message\x00\x02no");
    let canonical = written(Encoding::Canonical, &endpoint()).unwrap();
    assert_eq!(canonical, b"ADC0\x10mod.tcp.endpoint\x04\xcb\x00\x71\x07\xa0\x28");
}

#[test]
fn pushed_body_of_the_first_era_is_that_of_the_specification() {
    let observed = ObservedEndpoint { endpoint: endpoint() };
    let body = observed.push_body().unwrap();
    assert_eq!(body.len(), 64);
    let expected = "41444330 23 6d6f642e6e6f6465732e6f627365727665645f656e64706f696e745f6d65737361\
        6765 10 6d6f642e7463702e656e64706f696e74 04 cb007107 a028";
    assert_eq!(body, unhex(expected));
    assert_eq!(ObservedEndpoint::decode_push_body(&body), Ok(observed));
    let mut other = Vec::new();
    crate::object::write_canonical("mod.nodes.link_info", &[], &mut other).unwrap();
    assert_eq!(ObservedEndpoint::decode_push_body(&other), Err(PushBodyError::Type));
    let object = ObservedEndpoint::decode_push_body(&body[1..]);
    assert!(matches!(object, Err(PushBodyError::Object(_))));
}

#[test]
fn stream_infos_have_the_layouts_of_their_eras() {
    let stream = |link, era| StreamInfo { link, era };
    let p0 = stream(LinkInfo { id: 1, ..link() }, StreamEra::P0);
    let expected = format!("0000000000000001 {LOCAL} {REMOTE} 040a00000506ff 04cb007107a028 00");
    assert_eq!(payload(&p0), unhex(&expected));
    let early = stream(link(), StreamEra::Early);
    let expected = format!(
        "0123456789abcdef {LOCAL} {REMOTE} 10 6d6f642e7463702e656e64706f696e74 040a00000506ff \
         10 6d6f642e7463702e656e64706f696e74 04cb007107a028 00 03 746370"
    );
    assert_eq!(payload(&early), unhex(&expected));
    let late = stream(link(), StreamEra::Late);
    assert_eq!(payload(&late), payload(&link()));
    for object in [p0, early, late] {
        assert_eq!(object.type_name(), "mod.nodes.stream_info");
    }
}

#[test]
fn p0_stream_info_without_an_endpoint_has_json_but_no_binary_form() {
    let stream = StreamInfo { link: bare_link(), era: StreamEra::P0 };
    let refused = written(Encoding::C1, &stream);
    assert!(matches!(refused, Err(AnswerError::Field { .. })), "{refused:?}");
    assert!(line(Encoding::Json, &stream).contains("\"LocalEndpoint\":null"));
}

#[test]
fn json_is_that_of_the_specification() {
    let stream = StreamInfo { link: LinkInfo { id: 1, ..link() }, era: StreamEra::P0 };
    let expected = format!(
        "{{\"Type\":\"mod.nodes.stream_info\",\"Object\":{{\"ID\":1,\
         \"LocalIdentity\":\"{LOCAL}\",\"RemoteIdentity\":\"{REMOTE}\",\
         \"LocalEndpoint\":\"10.0.0.5:1791\",\"RemoteEndpoint\":\"203.0.113.7:41000\",\
         \"Outbound\":\"false\"}}}}"
    );
    assert_eq!(line(Encoding::Json, &stream), expected);
    let tcp = |address| format!("{{\"Type\":\"mod.tcp.endpoint\",\"Object\":\"{address}\"}}");
    let (local, remote) = (tcp("10.0.0.5:1791"), tcp("203.0.113.7:41000"));
    let of_head = |type_name| {
        format!(
            "{{\"Type\":\"{type_name}\",\"Object\":{{\"BytesThroughput\":1024,\
             \"HighPressure\":false,\"ID\":\"123456789abcdef\",\"LocalEndpoint\":{local},\
             \"LocalIdentity\":\"{LOCAL}\",\"Network\":\"tcp\",\"Outbound\":false,\
             \"RemoteEndpoint\":{remote},\"RemoteIdentity\":\"{REMOTE}\"}}}}"
        )
    };
    assert_eq!(line(Encoding::Json, &link()), of_head("mod.nodes.link_info"));
    let late = StreamInfo { link: link(), era: StreamEra::Late };
    assert_eq!(line(Encoding::Json, &late), of_head("mod.nodes.stream_info"));
    assert_eq!(line(Encoding::Json, &Empty::Eos), "{\"Type\":\"eos\",\"Object\":null}");
    let refusal = ErrorMessage::new("not \"here\"", Profile::P2);
    let expected = "{\"Type\":\"error_message\",\"Object\":\"not \\\"here\\\"\"}";
    assert_eq!(line(Encoding::Json, &refusal), expected);
    assert_eq!(line(Encoding::Json, &endpoint()), tcp("203.0.113.7:41000"));
}

#[test]
fn absent_endpoints_are_null_and_the_zero_identity_is_anyone() {
    let link = LinkInfo { remote_identity: Identity::ANYONE, ..bare_link() };
    for era in [StreamEra::P0, StreamEra::Early, StreamEra::Late] {
        let stream = StreamInfo { link: link.clone(), era };
        let json: serde_json::Value = serde_json::from_str(&line(Encoding::Json, &stream)).unwrap();
        assert_eq!(json["Object"]["RemoteEndpoint"], serde_json::Value::Null);
        assert_eq!(json["Object"]["LocalEndpoint"], serde_json::Value::Null);
        assert_eq!(json["Object"]["RemoteIdentity"], "anyone");
    }
}

#[test]
fn every_json_form_is_json_of_its_type() {
    let early = StreamInfo { link: link(), era: StreamEra::Early };
    let ttl = EndpointWithTtl { endpoint: endpoint(), ttl_s: Some(5) };
    let cases: [(&dyn AnswerObject, serde_json::Value); 8] = [
        (&Empty::Ack, serde_json::json!(null)),
        (&Boolean(false), serde_json::json!(false)),
        (&link().local_identity, serde_json::json!(LOCAL)),
        (&Nonce64(0xab), serde_json::json!("ab")),
        (
            &ttl,
            serde_json::json!({
                "Endpoint": { "Type": "mod.tcp.endpoint", "Object": "203.0.113.7:41000" },
                "TTL": 5
            }),
        ),
        (
            &session(),
            serde_json::json!({
                "ID": "1", "LinkID": "123456789abcdef", "RemoteIdentity": REMOTE,
                "Outbound": true, "Query": "x.y?a=\"b\"", "Bytes": 42, "Age": 1_500_000_000
            }),
        ),
        (
            &service(),
            serde_json::json!({
                "Available": true, "Name": "gateway", "ProviderID": LOCAL, "Info": null
            }),
        ),
        (
            &early,
            serde_json::json!({
                "ID": "123456789abcdef", "LocalIdentity": LOCAL, "RemoteIdentity": REMOTE,
                "LocalEndpoint": "10.0.0.5:1791", "RemoteEndpoint": "203.0.113.7:41000",
                "Outbound": false, "Network": "tcp"
            }),
        ),
    ];
    for (object, expected) in cases {
        let json: serde_json::Value = serde_json::from_str(&line(Encoding::Json, object)).unwrap();
        let type_name = object.type_name();
        assert_eq!(json, serde_json::json!({ "Type": type_name, "Object": expected }));
    }
}

#[test]
fn text_has_its_type_in_front_or_is_bare_or_base64() {
    assert_eq!(line(Encoding::Text, &endpoint()), "#[mod.tcp.endpoint] 203.0.113.7:41000");
    assert_eq!(line(Encoding::BareText, &endpoint()), "203.0.113.7:41000");
    assert_eq!(line(Encoding::Text, &Boolean(true)), "#[bool] true");
    assert_eq!(line(Encoding::Text, &Nonce64(0xab)), "#[nonce64] 00000000000000ab");
    assert_eq!(line(Encoding::Text, &Empty::Ack), "#[ack] ");
    assert_eq!(line(Encoding::Base64, &Boolean(true)), "#[bool]:AQ==");
    assert_eq!(line(Encoding::Base64, &Empty::Eos), "#[eos]:");
    let signal = MigrateSignal { signal: Migration::Done, window_bytes: 1 };
    assert_eq!(line(Encoding::Text, &signal), "#[mod.nodes.migrate_signal]:BGRvbmUAAAAB");
    assert_eq!(
        line(Encoding::Text, &link()),
        format!(
            "#[mod.nodes.link_info] 0123456789abcdef < {REMOTE} 203.0.113.7:41000 \
             throughput=1024 high=false"
        )
    );
    let p0 = StreamInfo { link: LinkInfo { id: 7, ..bare_link() }, era: StreamEra::P0 };
    assert_eq!(line(Encoding::BareText, &p0), format!("7 > {REMOTE} <nil>"));
    let early = StreamInfo { link: link(), era: StreamEra::Early };
    let expected = format!("0123456789abcdef < {REMOTE} 203.0.113.7:41000");
    assert_eq!(line(Encoding::BareText, &early), expected);
    let expected =
        format!("0000000000000001 link=0123456789abcdef > {REMOTE} x.y?a=\"b\" bytes=42 age=2s");
    assert_eq!(line(Encoding::BareText, &session()), expected);
    let broken = ErrorMessage::new("two\nlines", Profile::P4);
    assert_eq!(line(Encoding::Text, &broken), "#[error_message]:AAl0d28KbGluZXM=");
}

#[test]
fn object_without_a_form_is_refused_and_leaves_the_answer_as_it_was() {
    let signal = MigrateSignal { signal: Migration::Done, window_bytes: 1 };
    for encoding in [Encoding::Json, Encoding::BareText] {
        let mut writer = AnswerWriter::new(encoding);
        writer.write(&Boolean(true)).unwrap();
        let before = writer.clone();
        let type_name = type_names::MIGRATE_SIGNAL;
        assert_eq!(writer.write(&signal), Err(AnswerError::NoForm { type_name }));
        assert_eq!(writer, before);
    }
    let long = ServiceUpdate { name: "n".repeat(256), ..service() };
    assert!(matches!(written(Encoding::C2, &long), Err(AnswerError::Field { .. })));
    let long = SessionInfo { query: vec![b'q'; 65_535], ..session() };
    assert!(written(Encoding::C2, &long).is_ok());
    assert!(matches!(written(Encoding::C1, &long), Err(AnswerError::Object { .. })));
}

#[test]
fn profile_is_one_line_of_json() {
    let tcp: Endpoint = "tcp:1.2.3.4:1791".parse().unwrap();
    let known = ProfileEndpoint { endpoint: tcp, expires_at_unix_s: 1_761_048_000 };
    let document = ProfileDocument { alias: "waystation".to_owned(), endpoints: vec![known; 2] };
    let one = "{\"network\":\"tcp\",\"address\":\"1.2.3.4:1791\",\
        \"expires_at\":\"2025-10-21T12:00:00Z\"}";
    let expected = format!("{{\"alias\":\"waystation\",\"endpoints\":[{one},{one}]}}\n");
    assert_eq!(String::from_utf8(document.to_line()).unwrap(), expected);
    let empty = ProfileDocument { alias: "a\"b".to_owned(), endpoints: Vec::new() };
    assert_eq!(empty.to_line(), b"{\"alias\":\"a\\\"b\",\"endpoints\":[]}\n");
}

/// Reads a payload as the object of this type and writes it again; `None` for types not read.
fn rewritten(type_name: &str, payload: &[u8]) -> Option<Result<Vec<u8>, PayloadError>> {
    fn again<T: AnswerObject>(
        decoded: Result<T, PayloadError>,
    ) -> Option<Result<Vec<u8>, PayloadError>> {
        Some(decoded.map(|object| self::payload(&object)))
    }
    match type_name {
        type_names::BOOL => again(decode_boolean(payload).map(Boolean)),
        type_names::ENDPOINT_WITH_TTL => again(EndpointWithTtl::decode(payload)),
        type_names::OBSERVED_ENDPOINT => again(ObservedEndpoint::decode(payload)),
        type_names::LINK_INFO => again(LinkInfo::decode(payload)),
        type_names::STREAM_INFO => again(StreamInfo::decode_early(payload)),
        type_names::SESSION_INFO => again(SessionInfo::decode(payload)),
        type_names::SERVICE_UPDATE => again(ServiceUpdate::decode(payload)),
        type_names::MIGRATE_SIGNAL => again(MigrateSignal::decode(payload)),
        _ => None,
    }
}

/// Every object that is read, in every shape of its optional fields.
fn readable() -> Vec<Box<dyn AnswerObject>> {
    let gateway =
        Endpoint::Gateway { gateway: LOCAL.parse().unwrap(), target: REMOTE.parse().unwrap() };
    let ipv6: Endpoint = "kcp:[2001:db8::1]:1792".parse().unwrap();
    let mut objects: Vec<Box<dyn AnswerObject>> = vec![
        Box::new(Boolean(true)),
        Box::new(Boolean(false)),
        Box::new(EndpointWithTtl { endpoint: gateway.clone(), ttl_s: None }),
        Box::new(EndpointWithTtl { endpoint: ipv6, ttl_s: Some(u32::MAX) }),
        Box::new(ObservedEndpoint { endpoint: endpoint() }),
        Box::new(link()),
        Box::new(bare_link()),
        Box::new(StreamInfo {
            link: LinkInfo { throughput_bytes: 0, local_endpoint: Some(gateway), ..link() },
            era: StreamEra::Early,
        }),
        Box::new(session()),
        Box::new(service()),
    ];
    for signal in Migration::ALL {
        objects.push(Box::new(MigrateSignal { signal, window_bytes: 4_194_304 }));
    }
    objects
}

#[test]
fn every_object_reads_back_and_every_cut_of_it_is_refused() {
    for object in readable() {
        let whole = payload(&*object);
        let type_name = object.type_name();
        assert_eq!(rewritten(type_name, &whole), Some(Ok(whole.clone())), "{type_name}");
        let surplus = [&whole[..], b"surplus"].concat();
        assert_eq!(rewritten(type_name, &surplus), Some(Ok(whole.clone())), "{type_name}");
        for end in 0..whole.len() {
            let cut = rewritten(type_name, &whole[..end]).unwrap();
            assert!(cut.is_err(), "{type_name} cut at {end} reads as {cut:?}");
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_reads_as_another_value() {
    for object in readable() {
        let whole = payload(&*object);
        let type_name = object.type_name();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let Some(Ok(again)) = rewritten(type_name, &flipped) else { continue };
            // What was read writes the same bytes, but for truth values, which have many forms, and
            // lengths that make surplus of what follows.
            let readable = rewritten(type_name, &again);
            assert_eq!(readable, Some(Ok(again)), "{type_name} with bit {bit} flipped");
        }
    }
}

#[test]
fn channels_of_every_object_survive_any_cut_and_flip() {
    for form in [ChannelForm::C1, ChannelForm::C2] {
        let encoding = if form == ChannelForm::C1 { Encoding::C1 } else { Encoding::C2 };
        let mut writer = AnswerWriter::new(encoding);
        let objects = readable();
        for object in &objects {
            writer.write(&**object).unwrap();
        }
        let channel = writer.into_bytes();
        let read = |bytes: &[u8]| {
            let mut reader = ObjectReader::new(form, 1024);
            reader.push(bytes);
            let mut found: Vec<Object> = Vec::new();
            while let Ok(Some(object)) = reader.next() {
                found.push(object);
            }
            found
        };
        let whole = read(&channel);
        assert_eq!(whole.len(), objects.len());
        for end in 0..channel.len() {
            let cut = read(&channel[..end]);
            assert!(cut.len() < whole.len() && whole.starts_with(&cut), "cut at {end}");
        }
        for bit in 0..channel.len() * 8 {
            let mut flipped = channel.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            for object in read(&flipped) {
                assert!(object.payload.len() <= 1024);
                let _ = rewritten(&object.type_name, &object.payload);
            }
        }
    }
}

#[test]
fn earlier_versions_of_the_migrate_signal_are_refused() {
    let payload = b"\x0dmigrate_begin\x01\x23\x45\x67\x89\xab\xcd\xef";
    assert_eq!(MigrateSignal::decode(payload), Err(PayloadError::Signal));
}

#[test]
fn fields_that_are_not_text_name_themselves() {
    let mut bytes = payload(&service());
    bytes[2] = 0xff;
    let not_text = PayloadError::NotText { field: "name" };
    assert_eq!(ServiceUpdate::decode(&bytes), Err(not_text));
    let absent = PayloadError::Absent { field: "endpoint" };
    assert_eq!(ObservedEndpoint::decode(&[0]), Err(absent));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        index in 0..8_usize,
    ) {
        let type_name = [
            type_names::BOOL, type_names::ENDPOINT_WITH_TTL, type_names::OBSERVED_ENDPOINT,
            type_names::LINK_INFO, type_names::STREAM_INFO, type_names::SESSION_INFO,
            type_names::SERVICE_UPDATE, type_names::MIGRATE_SIGNAL,
        ][index];
        if let Some(Ok(again)) = rewritten(type_name, &bytes) {
            prop_assert_eq!(rewritten(type_name, &again), Some(Ok(again)));
        }
        let _ = ObservedEndpoint::decode_push_body(&bytes);
    }

    #[test]
    fn sessions_with_any_fields_read_back(
        id: u64, link_id: u64, outbound: bool, bytes: u64, age_ns: u64,
        query in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let session = SessionInfo { id, link_id, outbound, query, bytes, age_ns, ..session() };
        prop_assert_eq!(SessionInfo::decode(&payload(&session)), Ok(session.clone()));
        let json = line(Encoding::Json, &session);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
    }
}

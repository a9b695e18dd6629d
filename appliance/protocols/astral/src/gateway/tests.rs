//! Tests of the gateway's operations, objects and decoders.

use proptest::prelude::*;

use super::idle::{IdleDecoder, IdleError, IdleMessage};
use super::*;
use crate::endpoint::{Endpoint, GatewayEra};
use crate::limits::SOCKET_PAYLOAD_BYTES_MAX;
use crate::object::{self, AnswerWriter, ChannelForm, Encoding, Object, ObjectReader};
use crate::time::Rfc3339;

const SOMEONE: &str = "028d7500dd4c12685d1f568b4c2b5048e8534b873319f3a8daa612b469132ec7f7";
const ZERO: &str = "000000000000000000000000000000000000000000000000000000000000000000";

fn gateway_vectors() -> serde_json::Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/astral-vectors.json");
    let mut vectors: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    vectors["gateway"].take()
}

fn unhex(value: &serde_json::Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn someone() -> Identity {
    SOMEONE.parse().unwrap()
}

fn read_object(bytes: &[u8]) -> Object {
    let mut reader = ObjectReader::new(ChannelForm::C2, SOCKET_PAYLOAD_BYTES_MAX);
    reader.push(bytes);
    let object = reader.next().unwrap().unwrap();
    assert!(reader.at_boundary());
    object
}

fn parsed(query: &str) -> Option<Result<GatewayOperation, GatewayQueryError>> {
    parse(query.as_bytes())
}

#[test]
fn every_operation_is_recognised() {
    let target = someone();
    let register = |visibility| GatewayOperation::Register { visibility };
    for (query, operation) in [
        ("gateway.node_register?visibility=public".to_owned(), register(Visibility::Public)),
        ("gateway.node_register?visibility=private".to_owned(), register(Visibility::Private)),
        ("gateway.node_register".to_owned(), register(Visibility::Private)),
        ("gateway.node_register?visibility=secret".to_owned(), register(Visibility::Private)),
        ("gateway.node_unregister".to_owned(), GatewayOperation::Unregister),
        ("gateway.node_list".to_owned(), GatewayOperation::List),
        ("gateway.node_list?out=json".to_owned(), GatewayOperation::List),
        (format!("gateway.node_connect?target={SOMEONE}"), GatewayOperation::Connect { target }),
        (
            format!("gateway.node_route?out=&target={}", SOMEONE.to_uppercase()),
            GatewayOperation::Route { target },
        ),
        (".gateway.subscribe".to_owned(), GatewayOperation::Subscribe),
        (format!(".gateway.{SOMEONE}"), GatewayOperation::Forward { target }),
    ] {
        assert_eq!(parsed(&query), Some(Ok(operation)), "{query}");
    }
}

#[test]
fn other_queries_are_not_gateway_operations() {
    for query in
        ["", "nodes.links", "gateway", "gateway.node_registers", ".gateway", "?", ".profile"]
    {
        assert_eq!(parsed(query), None, "{query}");
    }
    assert_eq!(parse(b"\xff.gateway.node_list"), None);
}

#[test]
fn malformed_targets_are_errors() {
    for query in ["gateway.node_connect", "gateway.node_route?target=", "gateway.node_route?x=1"] {
        assert_eq!(parsed(query), Some(Err(GatewayQueryError::TargetMissing)), "{query}");
    }
    for operation in ["gateway.node_connect?target=", "gateway.node_route?target=", ".gateway."] {
        for target in [ZERO, "anyone"] {
            let query = format!("{operation}{target}");
            assert_eq!(parsed(&query), Some(Err(GatewayQueryError::TargetIsAnyone)), "{query}");
        }
        for target in ["xyz", &SOMEONE[..64], "02", &SOMEONE.replace("028d", "068d")] {
            let query = format!("{operation}{target}");
            assert!(matches!(parsed(&query), Some(Err(GatewayQueryError::Target(_)))), "{query}");
        }
    }
    assert!(matches!(
        parsed("gateway.node_register?visibility=%"),
        Some(Err(GatewayQueryError::Query(_)))
    ));
}

#[test]
fn constants_have_the_bytes_of_the_vectors() {
    let vectors = gateway_vectors();
    assert_eq!(idle::PING, unhex(&vectors["ping"]));
    assert_eq!(idle::PONG, unhex(&vectors["pong"]));
    assert_eq!(idle::HANDOFF, unhex(&vectors["handoff"]));
    assert_eq!(idle::HANDOFF_ACK, unhex(&vectors["handoff_ack"]));
    assert_eq!(object::ack(), unhex(&vectors["ack"]));
    assert_eq!(object::eos(), unhex(&vectors["eos"]));
    assert_eq!(object::boolean(true), unhex(&vectors["bool_true"]));
    assert_eq!(object::identity(&someone()), unhex(&vectors["identity"]));
    assert_eq!(nonce_object(0x0123_4567_89ab_cdef).to_vec(), unhex(&vectors["nonce_object"]));
    for (name, text) in [
        ("error_node_not_registered", "node not registered"),
        ("error_target_not_reachable", "target not reachable"),
    ] {
        assert_eq!(object::error_message(text), unhex(&vectors[name]));
    }
}

#[test]
fn gateway_endpoints_have_both_payloads_of_the_vectors() {
    let vectors = gateway_vectors();
    for (name, era) in
        [("endpoint_old_66", GatewayEra::Old66), ("endpoint_new_68", GatewayEra::New68)]
    {
        let vector = &vectors[name];
        let id = |field: &str| vector[field].as_str().unwrap().parse().unwrap();
        let endpoint = Endpoint::Gateway { gateway: id("gateway"), target: id("target") };
        let mut payload = Vec::new();
        endpoint.encode_payload(era, &mut payload);
        assert_eq!(payload, unhex(&vector["payload"]));
        let decoded = Endpoint::decode_payload(endpoint.type_name(), &payload).unwrap();
        assert_eq!(decoded, (endpoint, payload.len()));
    }
}

#[test]
fn observed_endpoints_have_the_forms_of_the_vectors() {
    let vectors = gateway_vectors();
    let short_form = unhex(&vectors["tcp_endpoint"]["short_form"]);
    let type_name = object::type_names::OBSERVED_ENDPOINT;
    let mut channel = Vec::new();
    object::write_object(ChannelForm::C2, type_name, &short_form, &mut channel).unwrap();
    assert_eq!(channel, unhex(&vectors["observed_endpoint_c2"]));
    let mut canonical = Vec::new();
    object::write_canonical(type_name, &short_form, &mut canonical).unwrap();
    assert_eq!(canonical, unhex(&vectors["observed_endpoint_p0_canonical"]));
    let endpoint: Endpoint = vectors["tcp_endpoint"]["text"].as_str().unwrap().parse().unwrap();
    let mut payload = Vec::new();
    endpoint.encode_payload(GatewayEra::New68, &mut payload);
    let mut short = Vec::new();
    object::write_short(endpoint.type_name(), &payload, &mut short).unwrap();
    assert_eq!(short, short_form);
}

#[test]
fn socket_object_is_the_vectors_and_reads_back_from_four_pieces() {
    let vector = &gateway_vectors()["socket_object"];
    let endpoint: Endpoint = vector["endpoint"].as_str().unwrap().parse().unwrap();
    let nonce = u64::from_str_radix(vector["nonce"].as_str().unwrap(), 16).unwrap();
    let bytes = socket_object(&endpoint, nonce);
    assert_eq!(bytes, unhex(&vector["c2"]));
    let pieces = vector["stock_data_frame_payloads"].as_array().unwrap();
    let mut reader = ObjectReader::new(ChannelForm::C2, SOCKET_PAYLOAD_BYTES_MAX);
    for piece in pieces {
        assert_eq!(reader.next(), Ok(None));
        reader.push(&unhex(piece));
    }
    let object = reader.next().unwrap().unwrap();
    assert_eq!(parse_socket_object(&object).unwrap(), (endpoint, nonce));
}

#[test]
fn socket_object_has_a_form_in_every_encoding() {
    let endpoint: Endpoint = "tcp:203.0.113.7:1791".parse().unwrap();
    let socket = GatewaySocket { endpoint: endpoint.clone(), nonce: 0x0a00_0000_0000_0001 };
    let written = |encoding| {
        let mut writer = AnswerWriter::new(encoding);
        writer.write(&socket).unwrap();
        writer.into_bytes()
    };
    let c2 = socket_object(&endpoint, socket.nonce);
    assert_eq!(written(Encoding::C2), c2);
    let payload = &c2[1 + "mod.gateway.socket".len() + 4..];
    let canonical = written(Encoding::Canonical);
    assert!(canonical.starts_with(b"ADC0\x12mod.gateway.socket") && canonical.ends_with(payload));
    let json: serde_json::Value = serde_json::from_slice(&written(Encoding::Json)).unwrap();
    let object = serde_json::json!({
        "Endpoint": { "Type": "mod.tcp.endpoint", "Object": "203.0.113.7:1791" },
        "Nonce": "a00000000000001",
    });
    assert_eq!(json, serde_json::json!({ "Type": "mod.gateway.socket", "Object": object }));
    // It is no text of its own, so its payload stands in base64.
    let text = written(Encoding::Text);
    assert_eq!(text, written(Encoding::Base64));
    assert!(text.starts_with(b"#[mod.gateway.socket]:"), "{}", String::from_utf8_lossy(&text));
}

#[test]
fn every_cut_of_a_socket_object_is_refused() {
    for endpoint in ["tcp:[2001:db8::1]:1791".to_owned(), format!("gw:{SOMEONE}:{}", other())] {
        let endpoint: Endpoint = endpoint.parse().unwrap();
        let whole = read_object(&socket_object(&endpoint, 9));
        assert_eq!(parse_socket_object(&whole).unwrap(), (endpoint, 9));
        for end in 0..whole.payload.len() {
            let payload = whole.payload[..end].to_vec();
            let cut = Object { type_name: whole.type_name.clone(), payload };
            assert!(parse_socket_object(&cut).is_err(), "{end}");
        }
    }
}

fn other() -> &'static str {
    "034f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa"
}

#[test]
fn refusals_and_other_objects_are_no_sockets() {
    let refusal = read_object(&object::error_message("gateway denied"));
    let Err(SocketObjectError::Refused { text }) = parse_socket_object(&refusal) else { panic!() };
    assert_eq!(text, "gateway denied");
    let ack = read_object(&object::ack());
    assert!(matches!(parse_socket_object(&ack), Err(SocketObjectError::Type)));
}

#[test]
fn subscription_reply_is_the_line_of_the_vectors() {
    let vector = unhex(&gateway_vectors()["g1_subscribe_reply_example"]);
    assert_eq!(subscription_reply(1_761_048_000), vector);
}

#[test]
fn civil_dates_are_right_at_their_edges() {
    for (unix_s, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (86_399, "1970-01-01T23:59:59Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (951_868_800, "2000-03-01T00:00:00Z"),
        (1_709_164_800, "2024-02-29T00:00:00Z"),
        (1_735_689_599, "2024-12-31T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
        (4_107_542_399, "2100-02-28T23:59:59Z"),
        (Rfc3339::LAST_UNIX_S, "9999-12-31T23:59:59Z"),
        (u64::MAX, "9999-12-31T23:59:59Z"),
    ] {
        let expected = format!("{{\"Status\":\"ok\",\"expires_at\":\"{text}\"}}\n");
        assert_eq!(String::from_utf8(subscription_reply(unix_s)).unwrap(), expected);
    }
}

#[test]
fn civil_dates_count_every_day_of_eight_centuries() {
    let (mut year, mut month, mut day) = (1970, 1, 1);
    for days in 0..800 * 366 {
        let time = Rfc3339::from_unix_s(days * 86_400 + 3661);
        assert_eq!((time.year, time.month, time.day), (year, month, day));
        assert_eq!((time.hour, time.minute, time.second), (1, 1, 1));
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let month_days = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        day += 1;
        if day > month_days {
            (day, month) = (1, month + 1);
        }
        if month > 12 {
            (month, year) = (1, year + 1);
        }
    }
}

/// Decodes segments up to a handoff's acknowledgement; gives the messages and the bytes behind it.
fn idle_messages<'a>(
    segments: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(Vec<IdleMessage>, Vec<u8>), IdleError> {
    let mut decoder = IdleDecoder::new();
    let mut messages = Vec::new();
    let mut pipe = Vec::new();
    for segment in segments {
        let mut cursor = 0;
        while messages.last() != Some(&IdleMessage::HandoffAck) {
            let Some(message) = decoder.next(segment, &mut cursor)? else { break };
            messages.push(message);
        }
        pipe.extend_from_slice(&segment[cursor..]);
    }
    Ok((messages, pipe))
}

#[test]
fn idle_messages_are_found_in_every_segmentation() {
    let stream =
        [idle::PING, idle::PONG, idle::HANDOFF, idle::PONG, idle::HANDOFF_ACK, b"act two"].concat();
    let messages = vec![
        IdleMessage::Ping,
        IdleMessage::Pong,
        IdleMessage::Handoff,
        IdleMessage::Pong,
        IdleMessage::HandoffAck,
    ];
    let expected = Ok((messages, b"act two".to_vec()));
    for step in 1..=stream.len() {
        assert_eq!(idle_messages(stream.chunks(step)), expected);
    }
    for split in 0..=stream.len() {
        let (front, back) = stream.split_at(split);
        assert_eq!(idle_messages([front, back]), expected);
    }
}

#[test]
fn truthy_pongs_are_pongs() {
    let mut pong = idle::PONG.to_vec();
    *pong.last_mut().unwrap() = 0x80;
    assert_eq!(idle_messages([&pong[..]]), Ok((vec![IdleMessage::Pong], Vec::new())));
}

#[test]
fn anything_else_on_an_idle_connection_is_refused_at_once() {
    for message in [idle::PING, idle::HANDOFF, idle::HANDOFF_ACK] {
        // The last byte of a ping is its flag, which may have any value.
        let fixed_bytes = if message == idle::PING { message.len() - 1 } else { message.len() };
        for bit in 0..fixed_bytes * 8 {
            let mut flipped = message.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut decoder = IdleDecoder::new();
            let mut cursor = 0;
            assert_eq!(decoder.next(&flipped, &mut cursor), Err(IdleError), "bit {bit}");
            let objects = [idle::PING, idle::PONG, idle::HANDOFF, idle::HANDOFF_ACK];
            let is_start = |end: &usize| objects.iter().any(|o| o.starts_with(&flipped[..*end]));
            let first_wrong = (1..=flipped.len()).find(|end| !is_start(end));
            assert_eq!(Some(cursor), first_wrong, "refused where it differs from every object");
            assert_eq!(decoder.next(idle::PING, &mut 0), Err(IdleError));
            assert!(!decoder.at_boundary());
        }
    }
}

#[test]
fn idle_connections_may_end_between_objects_only() {
    for end in 0..=idle::PING.len() {
        let mut decoder = IdleDecoder::new();
        let _ = decoder.next(&idle::PING[..end], &mut 0).unwrap();
        assert_eq!(decoder.at_boundary(), end == 0 || end == idle::PING.len());
    }
}

/// Decodes segments to the nonce; gives it and the bytes behind it.
fn presented<'a>(
    segments: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(Option<u64>, Vec<u8>), NonceError> {
    let mut decoder = NonceDecoder::new();
    let mut nonce = None;
    let mut rest = Vec::new();
    for segment in segments {
        let mut cursor = 0;
        if nonce.is_none() {
            nonce = decoder.next(segment, &mut cursor)?;
        }
        rest.extend_from_slice(&segment[cursor..]);
    }
    Ok((nonce, rest))
}

#[test]
fn nonces_are_read_in_both_forms_and_every_segmentation() {
    let nonce = 0x4200_0000_0000_0bb8;
    for form in [nonce_object(nonce).to_vec(), nonce.to_be_bytes().to_vec()] {
        for rest in [&b""[..], b"\x00 act one"] {
            let stream = [&form[..], rest].concat();
            for step in 1..=stream.len() {
                assert_eq!(presented(stream.chunks(step)), Ok((Some(nonce), rest.to_vec())));
            }
        }
        for end in 0..form.len() {
            assert_eq!(presented([&form[..end]]), Ok((None, Vec::new())));
        }
    }
}

#[test]
fn object_form_carries_any_nonce() {
    for nonce in [0, 7 << 56, u64::MAX] {
        assert_eq!(presented([&nonce_object(nonce)[..]]), Ok((Some(nonce), Vec::new())));
    }
}

#[test]
fn handshakes_and_other_objects_are_no_nonces() {
    let mut decoder = NonceDecoder::new();
    let mut cursor = 0;
    assert_eq!(decoder.next(b"\x00\x03act one", &mut cursor), Err(NonceError::Handshake));
    assert_eq!(cursor, 0, "the handshake's first byte stays in the input");
    assert_eq!(decoder.next(b"\x42", &mut cursor), Err(NonceError::Handshake));
    let object = nonce_object(1);
    for bit in 8..12 * 8 {
        let mut flipped = object;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(presented(flipped.chunks(1)), Err(NonceError::NotANonce), "bit {bit}");
    }
    let mut decoder = NonceDecoder::new();
    assert_eq!(decoder.next(&object, &mut 0), Ok(Some(1)));
    assert_eq!(decoder.next(&object, &mut 0), Err(NonceError::Ended));
}

#[test]
fn only_nonces_that_can_be_told_apart_may_be_handed_out() {
    for first_byte in 0..=255_u64 {
        let nonce = first_byte << 56 | 0x00ff_0000_0700_0001;
        let read_raw = presented([&nonce.to_be_bytes()[..]]) == Ok((Some(nonce), Vec::new()));
        assert_eq!(nonce_is_distinguishable(nonce), read_raw);
    }
}

proptest! {
    #[test]
    fn any_query_is_parsed_or_refused(query in "(\\.?gateway\\.(node_)?[a-z]{0,12})?\\PC{0,80}") {
        let _ = parse(query.as_bytes());
    }

    #[test]
    fn any_bytes_are_idle_messages_or_refused_alike(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        prefix in 0..25_usize,
        step in 1..30_usize,
    ) {
        let stream = [&idle::HANDOFF_ACK[..prefix], &bytes[..]].concat();
        prop_assert_eq!(idle_messages(stream.chunks(step)), idle_messages([&stream[..]]));
    }
}

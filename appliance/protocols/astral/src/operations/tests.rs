//! Tests of which queries are operations, and of their arguments.

use proptest::prelude::*;

use super::*;
use crate::gateway::Visibility;

const SOMEONE: &str = "028d7500dd4c12685d1f568b4c2b5048e8534b873319f3a8daa612b469132ec7f7";
const OTHER: &str = "034f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa";
const ZERO: &str = "000000000000000000000000000000000000000000000000000000000000000000";

fn someone() -> Identity {
    SOMEONE.parse().unwrap()
}

fn operation(query: &str) -> Result<Operation, OperationError> {
    parse(query.as_bytes(), Profile::P4).map(|request| request.operation)
}

#[test]
fn every_operation_is_known_and_read() {
    let relay = |set_caller, set_target| Operation::Relay {
        nonce: 0x0123_4567_89ab_cdef,
        set_caller,
        set_target,
    };
    let migrate = Operation::MigrateSession { link_id: 0xab, session_id: 0xcd };
    let resolve = Operation::ResolveEndpoints { identity: someone() };
    let register = GatewayOperation::Register { visibility: Visibility::Public };
    let (someone, other) = (someone(), OTHER.parse().unwrap());
    for (query, expected) in [
        (".profile".to_owned(), Operation::Profile),
        ("nodes.links".to_owned(), Operation::Links),
        ("nodes.links?out=json".to_owned(), Operation::Links),
        ("nodes.streams?".to_owned(), Operation::Streams),
        ("nodes.sessions".to_owned(), Operation::Sessions),
        ("services.discover?unknown=1".to_owned(), Operation::DiscoverServices),
        (format!("nodes.resolve_endpoints?id={SOMEONE}"), resolve),
        ("nodes.relay?nonce=0123456789abcdef".to_owned(), relay(None, None)),
        (
            format!("nodes.relay?nonce=123456789ABCDEF&set_caller={SOMEONE}&set_target={OTHER}"),
            relay(Some(someone), Some(other)),
        ),
        (
            format!("nodes.relay?nonce=123456789abcdef&set_caller=&set_target={ZERO}"),
            relay(None, None),
        ),
        ("nodes.migrate_session?link_id=ab&session_id=cd".to_owned(), migrate),
        ("nodes.migrate_session?session_id=cd&stream_id=00ab".to_owned(), migrate),
        ("objects.push".to_owned(), Operation::Push { size_bytes: None }),
        ("objects.push?size=64".to_owned(), Operation::Push { size_bytes: Some(64) }),
        ("objects.push?size=32768".to_owned(), Operation::Push { size_bytes: Some(32_768) }),
        ("gateway.node_register?visibility=public".to_owned(), Operation::Gateway(register)),
        (
            format!(".gateway.{SOMEONE}"),
            Operation::Gateway(GatewayOperation::Forward { target: someone }),
        ),
    ] {
        assert!(is_known(query.as_bytes()), "{query}");
        assert_eq!(operation(&query), Ok(expected), "{query}");
    }
}

#[test]
fn other_queries_are_unknown() {
    for query in ["", "?", "nodes.link", "nodes.linksx", "objects", ".profiles", ".gateway", "x.y"]
    {
        assert!(!is_known(query.as_bytes()), "{query}");
        assert_eq!(operation(query), Err(OperationError::Unknown), "{query}");
    }
    assert_eq!(parse(b"\xff", Profile::P0), Err(OperationError::Unknown));
    // The path is an operation's as far as it can be read, so it is answered by its owner.
    assert!(is_known(b".gateway.\xff"));
    let not_text = OperationError::Query(QueryError::NotText);
    assert_eq!(parse(b".gateway.\xff", Profile::P0), Err(not_text));
}

#[test]
fn malformed_arguments_name_their_key() {
    let missing = |argument| OperationError::Missing { argument };
    let nonce = |argument| OperationError::Nonce { argument };
    for (query, error) in [
        ("nodes.resolve_endpoints", missing("id")),
        ("nodes.resolve_endpoints?id=", missing("id")),
        ("nodes.resolve_endpoints?id=anyone", missing("id")),
        ("nodes.relay", missing("nonce")),
        ("nodes.relay?nonce=", nonce("nonce")),
        ("nodes.relay?nonce=0", nonce("nonce")),
        ("nodes.relay?nonce=%2B1", nonce("nonce")),
        ("nodes.relay?nonce=00123456789abcdef", nonce("nonce")),
        ("nodes.relay?nonce=xyz", nonce("nonce")),
        ("nodes.migrate_session", missing("stream_id")),
        ("nodes.migrate_session?link_id=1", missing("session_id")),
        ("nodes.migrate_session?link_id=&stream_id=1&session_id=1", nonce("link_id")),
        ("objects.push?size=", OperationError::Size),
        ("objects.push?size=0", OperationError::Size),
        ("objects.push?size=%2B9", OperationError::Size),
        ("objects.push?size=-1", OperationError::Size),
        ("objects.push?size=32769", OperationError::Size),
        ("objects.push?size=99999999999999999999", OperationError::Size),
        ("nodes.links?out=%", OperationError::Query(QueryError::Escape { index: 0 })),
        ("gateway.node_connect", OperationError::Gateway(GatewayQueryError::TargetMissing)),
    ] {
        assert_eq!(operation(query), Err(error), "{query}");
    }
    for (query, key) in [
        ("nodes.resolve_endpoints?id=02", "id"),
        ("nodes.relay?nonce=1&set_caller=x", "set_caller"),
        ("nodes.relay?nonce=1&set_target=x", "set_target"),
    ] {
        let Err(OperationError::Identity { argument, .. }) = operation(query) else {
            panic!("{query}")
        };
        assert_eq!(argument, key);
    }
}

#[test]
fn encodings_are_those_of_the_callers_era() {
    use Encoding::{BareText, Base64, C1, C2, Canonical, Json, Text};
    for (token, of_p0, of_later) in [
        ("", Some(C1), Some(C2)),
        ("astral", Some(C1), None),
        ("bin", None, Some(C2)),
        ("json", Some(Json), Some(Json)),
        ("text", Some(BareText), Some(Text)),
        ("text%2B", Some(Text), None),
        ("canonical", None, Some(Canonical)),
        ("base64", None, Some(Base64)),
        ("render", None, None),
        ("JSON", None, None),
    ] {
        for (profile, expected) in
            [(Profile::P0, of_p0), (Profile::P2, of_later), (Profile::P4, of_later)]
        {
            let default = Encoding::of_profile(profile);
            let query = format!("nodes.links?out={token}");
            let refused = |argument| OperationError::Encoding { argument };
            let found = parse(query.as_bytes(), profile).map(|request| request.output);
            assert_eq!(found, expected.ok_or(refused("out")), "{query}");
            let input = expected.filter(|encoding| !matches!(encoding, Base64 | Canonical));
            let query = format!("nodes.links?in={token}");
            let found = parse(query.as_bytes(), profile);
            let found = found.map(|request| (request.input, request.output));
            assert_eq!(found, input.map(|it| (it, default)).ok_or(refused("in")), "{query}");
            for path in ["objects.push?", "nodes.migrate_session?link_id=1&session_id=1&"] {
                let query = format!("{path}in={token}");
                let found = parse(query.as_bytes(), profile).map(|request| request.input);
                let read = input.filter(|encoding| encoding.channel_form().is_some());
                assert_eq!(found, read.ok_or(refused("in")), "{query}");
            }
        }
    }
}

#[test]
fn gateway_channels_are_c2_for_every_profile() {
    for profile in Profile::ALL {
        let request = parse(b"gateway.node_list", profile).unwrap();
        assert_eq!((request.input, request.output), (Encoding::C2, Encoding::C2));
        let request = parse(b"gateway.node_list?out=json", profile).unwrap();
        assert_eq!(request.output, Encoding::Json);
        let refused = parse(b"gateway.node_list?out=astral", profile);
        assert_eq!(refused, Err(OperationError::Encoding { argument: "out" }));
        let route = format!("gateway.node_route?target={SOMEONE}&out=unknown");
        for without_channel in [".gateway.subscribe?out=unknown", &route] {
            let request = parse(without_channel.as_bytes(), profile).unwrap();
            assert_eq!(request.output, Encoding::C2, "{without_channel} has nothing to encode");
        }
    }
}

proptest! {
    #[test]
    fn what_is_parsed_is_known(
        path in prop_oneof![Just(String::new()), proptest::sample::select(&PATHS[..])
            .prop_map(str::to_owned), ".{0,12}"],
        arguments in "(\\?[a-z_]{1,10}=[0-9a-f+%]{0,20}(&[a-z]{0,4}=[a-z0-9]{0,4}){0,3})?",
    ) {
        let query = path + &arguments;
        for profile in Profile::ALL {
            match parse(query.as_bytes(), profile) {
                Err(OperationError::Unknown) => {}
                Ok(_) | Err(_) => prop_assert!(is_known(query.as_bytes())),
            }
        }
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let known = is_known(&bytes);
        prop_assert!(known || parse(&bytes, Profile::P4) == Err(OperationError::Unknown));
    }
}

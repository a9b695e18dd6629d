//! Each kind of packet, and what is said of it.

use super::*;
use crate::config::parse;
use waystation_proving::frame::{channel, udp};

const ETHERNET_BYTES_MIN: usize = 60;
const CLIENT: &str = "198.51.100.7:5000";
const SERVER: &str = "198.51.100.1:3478";
const RELAYED: &str = "198.51.100.1:49200";
const PEER: &str = "203.0.113.7:9000";

fn config(more: &str) -> Config {
    let text = format!(
        "[turn]\nlisten = [\"{SERVER}\"]\nusers_file = \"/users\"\n\
         relay_addresses = [\"198.51.100.1\"]\n{more}"
    );
    parse(&text, "x").unwrap()
}

/// A datagram in a frame, as long as Ethernet's shortest at least.
fn frame(source: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let mut frame = udp(source, to, payload).frame();
    frame.resize(frame.len().max(ETHERNET_BYTES_MIN), 0);
    frame
}

#[test]
fn each_fate_is_told_with_its_reason() {
    let config = config("[xdp]\ndeny = [\"192.0.2.0/24\"]\n");
    let cases = [
        (frame(CLIENT, SERVER, b"\0hello"), "pass_stranger", "pass"),
        (frame(CLIENT, RELAYED, b"hello"), "pass_stranger", "pass"),
        (frame(CLIENT, "198.51.100.1:53", b"hello"), "pass_foreign", "pass"),
        (frame("192.0.2.9:7", SERVER, b"hello"), "drop_denied", "drop"),
        (frame("127.0.0.1:7", SERVER, b"hello"), "drop_martian", "drop"),
        (frame(CLIENT, SERVER, &[0x40, 1, 0, 99]), "drop_malformed", "drop"),
        (vec![0; 5], "pass_not_ip", "pass"),
    ];
    for (frame, verdict, action) in cases {
        let document = explain_for(&config, &frame);
        let named = (document["verdict"].as_str(), document["action"].as_str());
        assert_eq!(named, (Some(verdict), Some(action)), "{document}");
        assert_eq!(document["drop_reason"].is_string(), action == "drop", "{document}");
        let text = explained(&document);
        assert!(text.contains(verdict) && text.contains(meaning_of(verdict)), "{text}");
        assert!(text.contains("by the configuration alone"), "{text}");
    }
}

fn meaning_of(name: &str) -> &'static str {
    let verdict = Verdict::ALL.iter().find(|verdict| verdict.name() == name);
    meaning(*verdict.unwrap())
}

#[test]
fn a_session_says_where_its_packets_go_and_how_the_frame_looks_then() {
    let config = config("");
    let served = Served::of(&config, &config.turn.listen, &[]);
    let (from, to) = (RELAYED.parse().unwrap(), PEER.parse().unwrap());
    let mut entry = Session::relayed(from, to, None, 3).limited(1 << 20, 1 << 20);
    (entry.packets, entry.hop_interface, entry.hop_mtu_bytes) = (12, 8, 1500);
    entry.hop_frame = [0x0a02, 0, 0, 0x0b02, 0, 0].map(u16::to_be);
    let key = SessionKey::new(CLIENT.parse().unwrap(), SERVER.parse().unwrap(), Some(0x4001));
    let asked = |entry: &Session, now_ns: u64| {
        let entry = *entry;
        let around = Around {
            served: &served,
            session_of: &move |wanted| (*wanted == key).then_some(entry),
            opaque_ports: BTreeSet::new(),
            ingress: 7,
            egress: BTreeSet::from([7, 8]),
            owners: &[3],
            is_steering: false,
            frame_sockets: Vec::new(),
            frame_kinds: &[],
            now_ns,
            program: "on",
        };
        explain(&around, &frame(CLIENT, SERVER, &channel(0x4001, b"payload")))
    };
    let document = asked(&entry, 0);
    assert_eq!(document["verdict"], "relayed_on", "{document}");
    assert_eq!(document["session"]["goes_to"], PEER);
    let after = document["frame_after"].as_str().unwrap();
    assert!(after.starts_with("0a02000000000b02"), "{after}");
    assert!(after.contains(&hex(b"payload")) && !after.contains("40010007"), "{after}");
    assert!(explained(&document).contains("12 packets"), "{document}");

    entry.limiter_ns = entry.burst_ns + 5;
    assert_eq!(asked(&entry, 0)["verdict"], "drop_session_over_rate");
    assert_eq!(asked(&entry, 5)["verdict"], "relayed_on");

    entry.hop_interface = 0;
    let unknown = asked(&entry, 5);
    assert!(unknown["notes"][0].as_str().unwrap().contains("next hop"), "{unknown}");
}

#[test]
fn a_client_without_that_channel_is_user_spaces() {
    let config = config("");
    let served = Served::of(&config, &config.turn.listen, &[]);
    let key = SessionKey::new(CLIENT.parse().unwrap(), SERVER.parse().unwrap(), None);
    let around = Around {
        served: &served,
        session_of: &move |wanted| (*wanted == key).then(|| Session::steered(1)),
        opaque_ports: BTreeSet::new(),
        ingress: 7,
        egress: BTreeSet::new(),
        owners: &[0, 1],
        is_steering: true,
        frame_sockets: Vec::new(),
        frame_kinds: &[],
        now_ns: 0,
        program: "on",
    };
    let document = explain(&around, &frame(CLIENT, SERVER, &channel(0x4002, b"x")));
    assert_eq!(document["verdict"], "steered");
    assert!(document["then"].as_str().unwrap().contains("TURN server"), "{document}");
    let text = explained(&document);
    assert!(text.contains("channel 0x4002") && text.contains("a TURN client's own"), "{text}");
}

/// What is said of a frame where the program knows one session, of an owner.
fn said_of(
    served: &Served,
    key: SessionKey,
    entry: Session,
    frame_sockets: &[(u32, u32)],
    frame: &[u8],
) -> Value {
    let around = Around {
        served,
        session_of: &move |wanted| (*wanted == key).then_some(entry),
        opaque_ports: BTreeSet::from([20_000]),
        ingress: 7,
        egress: BTreeSet::from([7]),
        owners: &[2, 5],
        is_steering: false,
        frame_sockets: frame_sockets.to_vec(),
        frame_kinds: &[Port::Turn, Port::Session],
        now_ns: 0,
        program: "on",
    };
    explain(&around, frame)
}

fn with_opaque_sessions() -> Served {
    let config =
        config("[udp]\naddresses = [\"198.51.100.1\"]\nport_min = 20000\nport_max = 20009");
    Served::of(&config, &config.turn.listen, &[])
}

#[test]
fn each_kind_of_session_is_told_by_its_name_and_its_core() {
    let served = with_opaque_sessions();
    let relayed = Session::relayed(RELAYED.parse().unwrap(), PEER.parse().unwrap(), None, 5);
    let opaque = "198.51.100.1:20000";
    let cases = [
        (SERVER, Some(0x4001), relayed, channel(0x4001, b"x"), "turn_channel", "relay"),
        (SERVER, None, Session::steered(5), b"\0stun".to_vec(), "turn_client", "steer"),
        (RELAYED, None, relayed, b"payload".to_vec(), "turn_peer", "relay"),
        (opaque, None, relayed, b"payload".to_vec(), "opaque_end", "relay"),
        (opaque, None, Session::steered(5), b"payload".to_vec(), "opaque_end", "steer"),
    ];
    for (local, number, entry, payload, of, action) in cases {
        let key = SessionKey::new(CLIENT.parse().unwrap(), local.parse().unwrap(), number);
        let document = said_of(&served, key, entry, &[], &frame(CLIENT, local, &payload));
        let session = &document["session"];
        assert_eq!((&session["of"], &document["action"]), (&of.into(), &action.into()));
        assert_eq!(session["owner_core"], 1, "{document}");
        let text = explained(&document);
        assert!(text.contains(whose_in_words(of)) && text.contains("data core 1"), "{text}");
    }
}

#[test]
fn a_stranger_at_a_port_of_each_kind_is_told_who_may_take_it() {
    let served = with_opaque_sessions();
    let nobody = SessionKey::default();
    for (local, port, said) in [
        (SERVER, "turn", "the TURN server"),
        (RELAYED, "relayed", "that relayed address"),
        ("198.51.100.1:20000", "opaque", "the opaque session of that port"),
    ] {
        let frame = frame(CLIENT, local, b"\0payload");
        let document = said_of(&served, nobody, Session::steered(2), &[], &frame);
        assert_eq!((&document["port"], &document["session"]), (&port.into(), &Value::Null));
        assert!(document["then"].as_str().unwrap().contains(said), "{document}");
    }
}

#[test]
fn a_frame_that_goes_to_an_af_xdp_socket_says_whose() {
    let served = with_opaque_sessions();
    let relayed = Session::relayed(RELAYED.parse().unwrap(), PEER.parse().unwrap(), None, 5);
    let key = SessionKey::new(CLIENT.parse().unwrap(), SERVER.parse().unwrap(), Some(0x4001));
    let framed = frame(CLIENT, SERVER, &channel(0x4001, b"payload"));
    let of = |sockets: &[(u32, u32)]| said_of(&served, key, relayed, sockets, &framed);
    let always = of(&[(0, 5), (1, 5)]);
    assert_eq!((&always["verdict"], &always["action"]), (&"steered".into(), &"af_xdp".into()));
    assert!(always["why"].as_str().unwrap().contains("AF_XDP socket of data core 1"), "{always}");
    assert_eq!(always["frame_after"], Value::Null);
    let sometimes = of(&[(0, 2), (1, 5)]);
    assert_eq!(sometimes["action"], "relay");
    let notes = sometimes["notes"].to_string();
    assert!(notes.contains("by queue 1, it is brought to the AF_XDP socket of data core 1"));
    assert!(!of(&[(0, 2)])["notes"].to_string().contains("AF_XDP"));
    // Longer than a frame's memory, within the MTU of a card with long frames.
    let long = frame(CLIENT, SERVER, &channel(0x4001, &[7; 1900]));
    assert_ne!(said_of(&served, key, relayed, &[(0, 5)], &long)["action"], "af_xdp");
}

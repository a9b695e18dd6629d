//! A2AL: messages, records, payloads, delegations, address texts and snapshots.

use std::net::{Ipv4Addr, SocketAddr};

use waystation_a2al::address_text;
use waystation_a2al::delegation::Delegation;
use waystation_a2al::host::{
    AgentExtension, AgentOpening, ControlMessage, MailDelivery, agent_of, control_messages,
};
use waystation_a2al::hub::{
    Action, ConnectionId, Hub, HubGauges, HubLimits, HubMessage, HubRequest, SignalFrame,
};
use waystation_a2al::message::{Body, DatagramKind, Parsed, classify};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::payload::sealing::OpeningKey;
use waystation_a2al::payload::{EndpointPayload, MailboxPayload, ProfilePayload, TopicPayload};
use waystation_a2al::record::SignedRecord;
use waystation_a2al::sha256;
use waystation_a2al::snapshot::{Snapshot, SnapshotError};
use waystation_a2al::time::{Millis, UnixSeconds};

/// When records and delegations of the vectors are good.
const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

/// Reads the input as a message; what has no unknown keys is written as the same bytes.
pub fn a2al_message(input: &[u8]) {
    let Ok(parsed) = Parsed::parse(input) else {
        return;
    };
    assert_eq!(classify(input), DatagramKind::Message);
    let again = parsed.body.encode();
    assert!(again.len() <= input.len());
    if parsed.unknown_keys == 0 {
        assert_eq!(again, parsed.body_bytes(), "one value in two forms");
    }
    if let Body::FindNodeResponse { nodes: Some(nodes), observed } = &parsed.body {
        let size = Body::answer_bytes(*observed, nodes, std::iter::empty());
        assert_eq!(size, again.len());
        let addresses = nodes.iter().map(|node| node.socket_address());
        assert!(addresses.into_iter().all(|address| !is_mapped(address)));
    }
    let signature = *parsed.signature();
    if let Ok(message) = parsed.verify() {
        assert_eq!(message.sender.node_id(), message.sender_id);
        assert_ne!(signature.0, [0; 64]);
    }
}

fn is_mapped(address: SocketAddr) -> bool {
    address.ip().to_canonical() != address.ip()
}

/// Reads the input as a record; judging it never depends on anything but itself and the time.
pub fn a2al_record(input: &[u8]) {
    let Ok(record) = SignedRecord::decode(input) else {
        return;
    };
    let again = record.encode();
    assert_eq!(again.len(), record.encoded_bytes());
    assert_eq!(SignedRecord::decode(&again).as_ref(), Ok(&record));
    assert!(again.len() <= input.len());
    let version = record.version();
    assert_eq!((version.sequence, version.timestamp), (record.sequence, record.timestamp));
    let own_place = record.address.node_id();
    let places = [own_place, NodeId::ZERO].map(|place| record.check_place(&place).is_ok());
    // Topic records of types that are not known name no topic that could be compared.
    let is_anywhere = matches!(record.record_type.0, 0x11..=0x1f);
    assert!(is_anywhere || places != [true; 2], "a record belongs in two places");
    let is_good = record.check_time(NOW).is_ok();
    assert_eq!(is_good, record.timestamp <= NOW.0 + 60 && record.expires_at() >= NOW.0);
    if record.verify().is_ok() {
        assert_eq!(record.check_payload(), Ok(()));
    }
}

/// Reads the input as a payload of every type; what is written reads as the same.
pub fn a2al_payload(input: &[u8]) {
    if let Ok(payload) = EndpointPayload::decode(input) {
        assert_eq!(EndpointPayload::decode(&payload.encode()), Ok(payload.clone()));
        assert!(payload.addresses().count() <= 16);
        if payload.check().is_ok() {
            assert!(payload.hubs().count() <= 8);
        }
    }
    if let Ok(mut payload) = TopicPayload::decode(input) {
        payload.version = payload.version.max(1);
        assert_eq!(TopicPayload::decode(&payload.encode()), Ok(payload));
    }
    if let Ok(mut payload) = ProfilePayload::decode(input) {
        payload.version = payload.version.max(1);
        if let Ok(written) = payload.encode() {
            assert_eq!(ProfilePayload::decode(&written), Ok(payload));
        }
    }
    if let Ok(payload) = MailboxPayload::decode(input) {
        assert_eq!(MailboxPayload::decode(&payload.encode()), Ok(payload));
    }
}

/// Reads the input as a delegation, and judges it.
pub fn a2al_delegation(input: &[u8]) {
    let Ok(delegation) = Delegation::decode(input) else {
        return;
    };
    let again = delegation.encode();
    assert_eq!(Delegation::decode(&again).as_ref(), Ok(&delegation));
    if delegation.verify(NOW).is_ok() {
        assert_eq!(delegation.check_time(NOW), Ok(()));
        let later = UnixSeconds(delegation.expires_at.saturating_add(60));
        assert!(delegation.expires_at == 0 || delegation.check_time(later).is_err());
    }
}

/// Reads the input as what hosts say beside the DHT: a certificate's extension, the beginning of a
/// stream, control messages, a delivery of mail. What is written reads as the same.
pub fn a2al_host(input: &[u8]) {
    if let Ok(extension) = AgentExtension::decode(input) {
        let again = extension.encode();
        assert_eq!(AgentExtension::decode(&again).as_ref(), Ok(&extension));
        let key = extension.delegation.operational_key;
        if let Ok(agent) = agent_of(&key, Some(input), NOW) {
            assert_eq!((agent, extension.delegation.verify(NOW)), (extension.agent, Ok(())));
        }
    }
    if let Ok((opening, rest)) = AgentOpening::read(input) {
        assert_eq!([&opening.encode()[..], rest].concat(), input);
    }
    if let Ok(messages) = control_messages(input) {
        let again: Vec<u8> = messages.iter().flat_map(ControlMessage::encode).collect();
        assert!(again.len() <= input.len());
        assert_eq!(control_messages(&again), Ok(messages));
    }
    if let Ok(delivery) = MailDelivery::decode(input) {
        assert_eq!(MailDelivery::decode(&delivery.encode()), Ok(delivery));
    }
    if let Ok(payload) = MailboxPayload::decode(input) {
        // Nobody's key opens what was not sealed for it, whatever it is.
        let opening = OpeningKey::from_seed(&[0x5a; 32]);
        let opened = opening.open(&payload, &payload.sender, &payload.recipient);
        assert!(opened.is_err());
    }
}

/// Reads the input as the text of an address.
pub fn a2al_address(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(address) = address_text::parse(text) {
        assert_eq!(address.version() >> 4, 0xa);
        assert_eq!(address_text::parse(&address_text::format(&address)), Ok(address));
    }
}

/// Reads the input as a snapshot, and with the digest that makes it whole.
pub fn a2al_snapshot(input: &[u8]) {
    if let Ok(snapshot) = Snapshot::decode(input) {
        assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
    }
    let whole = [input, &sha256(&[input])].concat();
    match Snapshot::decode(&whole) {
        Ok(snapshot) => {
            let again = snapshot.encode();
            assert_eq!(Snapshot::decode(&again), Ok(snapshot));
        }
        Err(why) => assert_ne!(why, SnapshotError::Digest),
    }
}

/// Reads the input as a frame of a hub, and as the parameters of a request.
pub fn a2al_signal_frame(input: &[u8]) {
    if let Ok(frame) = SignalFrame::decode(input) {
        let again = frame.encode();
        assert_eq!(SignalFrame::decode(&again), Ok(frame));
        // A key that is missing is written, empty; all keys of a frame are less than that.
        assert!(again.len() <= input.len() + 32);
    }
    let Ok(query) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(HubRequest::Ice(ice)) = HubRequest::parse("/ice", query) {
        assert!(!ice.room.is_empty() && ice.room.len() <= 128);
        assert!(ice.call.is_none_or(|call| !call.target.is_empty() && !call.caller.is_empty()));
    }
}

/// Reads the input as what happens to a small hub. Its bounds hold, nobody is spoken to who is not
/// there, and nothing is left when everybody has gone.
pub fn a2al_hub(input: &[u8]) {
    let limits = HubLimits {
        connections_max: 6,
        connections_per_source_max: 3,
        registrations_max: 4,
        registrations_per_connection_max: 3,
        registrations_per_source_max: 3,
        rooms_max: 3,
        waiting_per_source_max: 2,
    };
    let mut hub = Hub::new(limits);
    let mut there: Vec<ConnectionId> = Vec::new();
    let mut now = Millis(0);
    let mut input = input;
    while let [what, which, rest @ ..] = input {
        input = rest;
        let id = there.get(usize::from(*which) % there.len().max(1)).copied();
        match (what % 8, id) {
            (0, _) => {
                let peer = SocketAddr::from((Ipv4Addr::new(192, 0, 2, which % 4), 1));
                there.extend(hub.connect(peer, now));
            }
            (1..=3, Some(id)) => {
                let (path, query) = match what % 8 {
                    1 => ("/signal", String::new()),
                    2 => ("/ice", format!("room={}", which >> 4)),
                    _ => ("/ice", format!("room={}&target={}&caller=x", which >> 4, which >> 6)),
                };
                // What is refused is one of the things that may happen.
                let _ = hub.request(id, path, &query, now);
            }
            (4, Some(id)) => {
                let agent = (which >> 6).to_string();
                let register = SignalFrame::Register { agent }.encode();
                hub.receive(id, HubMessage::Binary(register), now);
            }
            (5, Some(id)) => {
                let length = usize::from(*which).min(input.len());
                let (message, rest) = input.split_at(length);
                input = rest;
                hub.receive(id, HubMessage::Binary(message.to_vec()), now);
            }
            (6, Some(id)) => {
                there.retain(|other| *other != id);
                hub.closed(id);
            }
            _ => {
                now = now.plus(u64::from(*which) * 500);
                hub.tick(now);
            }
        }
        do_all(&mut hub, &there);
        let gauges = hub.gauges();
        assert_eq!(gauges.connections, there.len());
        assert!(gauges.connections <= 6 && gauges.registrations <= 4);
        assert!(gauges.rooms_waiting + gauges.rooms_paired <= 3);
    }
    while let Some(id) = there.pop() {
        hub.closed(id);
        do_all(&mut hub, &there);
    }
    assert_eq!((hub.gauges(), hub.next_tick()), (HubGauges::default(), None));
}

fn do_all(hub: &mut Hub, there: &[ConnectionId]) {
    while let Some(action) = hub.take_action() {
        let whom = match action {
            Action::Send { to, .. } | Action::Ping { to } => to,
            Action::Ask { from, .. } => {
                hub.answer(from, Some(vec![0]));
                from
            }
            Action::Close { connection, .. } => connection,
        };
        assert!(there.contains(&whom), "{whom:?} is gone");
    }
}

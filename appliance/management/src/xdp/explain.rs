//! What would become of a frame, and why: the classifier's answer, with the tables of now.
//!
//! Called on the management thread for whoever asks about a packet, and by the sub-command itself
//! where no program runs. A few look-ups in the map and a walk over the served ports each time;
//! nothing is sent, counted or changed.

use super::settings::{Kinds, Served};
use crate::config::Config;
use crate::documents::SCHEMA;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use waystation_ebpf::abi::{Action, NetworkU16, Port, Session, SessionKey, Verdict};
use waystation_ebpf::classifier::{Hop, Known, Route, World, decide, route};
use waystation_ebpf::verdicts::{drop_reason, meaning};

/// The largest packet on the way to a next hop that was not looked up yet, for the answer: that of
/// Ethernet.
const MTU_ASSUMED_BYTES: u16 = 1500;

/// What is known when a frame is asked about.
pub(super) struct Around<'a> {
    pub(super) served: &'a Served,
    /// The entry of a key, if the program has one.
    pub(super) session_of: &'a dyn Fn(&SessionKey) -> Option<Session>,
    /// Ports of opaque sessions.
    pub(super) opaque_ports: BTreeSet<u16>,
    /// The interface that the frame is taken to come in by.
    pub(super) ingress: u32,
    /// The interfaces that the program is on.
    pub(super) egress: BTreeSet<u32>,
    /// The monotonic clock, for rates.
    pub(super) now_ns: u64,
    /// `on`, `off` or `unavailable`, or `not asked` where only a file was.
    pub(super) program: &'static str,
}

/// The answer for a configuration alone: no sessions, and the addresses it names.
pub fn explain_for(config: &Config, frame: &[u8]) -> Value {
    let dht = if config.dht.enabled { config.dht.listen.as_slice() } else { &[] };
    let served = Served::of(config, &config.turn.listen, dht);
    explain(
        &Around {
            served: &served,
            session_of: &|_key| None,
            opaque_ports: BTreeSet::new(),
            ingress: 0,
            egress: BTreeSet::new(),
            now_ns: 0,
            program: "not asked",
        },
        frame,
    )
}

/// The document.
pub(super) fn explain(around: &Around<'_>, frame: &[u8]) -> Value {
    let mut world = world(around);
    let mut notes = Vec::new();
    let found = route(&world, frame);
    let mut session = Value::Null;
    if let Some((source, local, channel)) = found {
        let keys = if channel.is_some() { vec![channel, None] } else { vec![None] };
        for channel in keys {
            let key = SessionKey::new(source, local, channel);
            let Some(entry) = (around.session_of)(&key) else { continue };
            let at: Route = (source, local, channel);
            know(&mut world, at, &entry, around, &mut notes);
            if session.is_null() {
                session = row(at, &entry);
            }
        }
    }
    let decision = decide(&world, frame);
    let verdict = decision.verdict;
    if verdict == Verdict::PassStranger && around.served.settings.stranger_cost_ns > 0 {
        notes.push("a source that has used up xdp.stranger_rate is dropped instead".to_owned());
    }
    let port = found.map(|(_, local, _)| port_of(around, local.port()));
    let is_user_space = !verdict.is_drop() && !verdict.is_relayed();
    json!({
        "schema": SCHEMA,
        "program": around.program,
        "frame_bytes": frame.len(),
        "verdict": verdict.name(),
        "action": action(verdict),
        "why": meaning(verdict),
        "drop_reason": drop_reason(verdict).map(|reason| reason.name()),
        "datagram": found.map(|(source, local, channel)| json!({
            "source": source.to_string(),
            "local": local.to_string(),
            "channel": channel,
        })),
        "session": session,
        "then": is_user_space.then(|| then(port)),
        "frame_after": verdict.is_relayed().then(|| hex(&decision.frame)),
        "notes": notes,
    })
}

/// What the program knows of everybody.
fn world(around: &Around<'_>) -> World {
    let served = around.served;
    let on = |kinds: &[Port]| {
        let local = served.local.iter();
        let is_one = |its: &Kinds| kinds.iter().any(|kind| its.has(*kind));
        local.filter(|(_, its)| is_one(its)).map(|(ip, _)| *ip).collect()
    };
    let mut world = World {
        turn_local: on(&[Port::Turn]),
        session_local: on(&[Port::Session, Port::Opaque]),
        session_ports: around.opaque_ports.clone(),
        denied: served.denied.iter().map(|it| (it.first(), it.prefix_bits())).collect(),
        ingress: around.ingress,
        egress: around.egress.clone(),
        ..World::default()
    };
    let told = served.settings.vlans.iter().filter(|vlan| vlan.id != 0);
    world.vlans = told.filter_map(|it| Some((u16::try_from(it.id).ok()?, it.interface))).collect();
    for (ports, kind) in &served.ports {
        for port in ports.clone() {
            world.turn_ports.remove(&port);
            world.session_ports.remove(&port);
            let ports = match kind {
                Port::Foreign => continue,
                Port::Turn => &mut world.turn_ports,
                Port::Session | Port::Opaque => &mut world.session_ports,
            };
            ports.insert(port);
        }
    }
    world
}

/// Puts an entry, and the next hop that was found for it, where the classifier looks.
fn know(
    world: &mut World,
    at: Route,
    entry: &Session,
    around: &Around<'_>,
    notes: &mut Vec<String>,
) {
    if !entry.is_relayed() {
        world.sessions.insert(at, Known::Steered);
        return;
    }
    let (from, to, channel) = target(entry);
    let is_limited = entry.cost_ns_per_kib > 0;
    let is_over_rate =
        is_limited && entry.limiter_ns > around.now_ns.saturating_add(entry.burst_ns);
    let is_tunnel = entry.action == Action::RelayTransport as u8;
    let transport_for = is_tunnel.then_some(entry.indices);
    world.sessions.insert(at, Known::Relayed { from, to, channel, is_over_rate, transport_for });
    let hop = if entry.hop_interface == 0 {
        notes.push(
            "its next hop is looked up with the first packet; it is taken to be there, with an MTU \
             of 1500"
                .to_owned(),
        );
        let interface = world.egress.iter().next().copied().unwrap_or(world.ingress);
        Hop::Known { interface, station: [0; 6], own_station: [0; 6], mtu_bytes: MTU_ASSUMED_BYTES }
    } else {
        let [a, b, c, d, e, f] = entry.hop_frame.map(u16::to_ne_bytes);
        let station = |three: [[u8; 2]; 3]| {
            let mut station = [0; 6];
            station.iter_mut().zip(three.as_flattened()).for_each(|(to, from)| *to = *from);
            station
        };
        Hop::Known {
            interface: entry.hop_interface,
            station: station([a, b, c]),
            own_station: station([d, e, f]),
            mtu_bytes: u16::try_from(entry.hop_mtu_bytes).unwrap_or(u16::MAX),
        }
    };
    world.hops.insert(to.ip(), hop);
}

/// Where an entry's packets leave from and go to.
fn target(entry: &Session) -> Route {
    let at = |address: IpAddr, port: NetworkU16| SocketAddr::new(address, port.number());
    let channel = Some(entry.target_channel.number()).filter(|number| *number != 0);
    (
        at(entry.target_source.into(), entry.target_source_port),
        at(entry.target_destination.into(), entry.target_destination_port),
        channel,
    )
}

fn row((_, _, channel): Route, entry: &Session) -> Value {
    let is_relayed = entry.is_relayed();
    let (from, to, target_channel) = target(entry);
    json!({
        "kind": if is_relayed { "relayed" } else { "steered" },
        "channel": channel,
        "leaves_from": is_relayed.then(|| from.to_string()),
        "goes_to": is_relayed.then(|| to.to_string()),
        "leaves_with_channel": target_channel,
        "owner_cpu": entry.owner_cpu,
        "packets": entry.packets,
        "bytes": entry.bytes,
        "dropped_packets": entry.dropped_packets,
    })
}

fn port_of(around: &Around<'_>, port: u16) -> Port {
    let of = around.served.ports.iter().rev().find(|(ports, _)| ports.contains(&port));
    let of_session = around.opaque_ports.contains(&port).then_some(Port::Opaque);
    // What is served stays what it is, whatever sessions have the port on other addresses.
    of.map(|(_, kind)| *kind).or(of_session).unwrap_or(Port::Foreign)
}

/// What user space does with it.
fn then(port: Option<Port>) -> &'static str {
    match port {
        Some(Port::Turn) => {
            "the TURN server takes STUN, and channels of clients it knows; the rest is dropped there \
             and counted (waystation drops)"
        }
        Some(Port::Session | Port::Opaque) => {
            "the socket of that relayed address, session or DHT node takes it, if somebody has it; \
             otherwise the kernel answers that the port is closed"
        }
        Some(Port::Foreign) | None => "the kernel goes on with it as without the program",
    }
}

/// What the program tells the kernel.
fn action(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Steered => "steer",
        _ if verdict.is_relayed() => "relay",
        _ if verdict.is_drop() => "drop",
        _ => "pass",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The document for a terminal.
pub fn explained(document: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut out = String::new();
    let datagram = &document["datagram"];
    if datagram.is_object() {
        let (source, local) = (word(&datagram["source"]), word(&datagram["local"]));
        out.push_str(&format!("{source} to {local}"));
        if let Some(channel) = datagram["channel"].as_u64() {
            out.push_str(&format!(", channel {channel:#06x}"));
        }
    } else {
        out.push_str("no datagram for the relay");
    }
    out.push_str(&format!(", {} B of frame\n", document["frame_bytes"]));
    let (verdict, action) = (word(&document["verdict"]), word(&document["action"]));
    out.push_str(&format!("  {action}: {verdict}\n    {}\n", word(&document["why"])));
    if let Some(reason) = document["drop_reason"].as_str() {
        out.push_str(&format!("    counted as {reason}\n"));
    }
    let session = &document["session"];
    if session["kind"] == "relayed" {
        let (from, to) = (word(&session["leaves_from"]), word(&session["goes_to"]));
        let (packets, bytes) = (&session["packets"], &session["bytes"]);
        out.push_str(&format!("  session: leaves from {from} to {to}"));
        if let Some(channel) = session["leaves_with_channel"].as_u64() {
            out.push_str(&format!(" with channel {channel:#06x}"));
        }
        out.push_str(&format!("\n    {packets} packets, {bytes} B so far\n"));
    } else if session["kind"] == "steered" {
        out.push_str("  session: a client's own packets\n");
    }
    if let Some(then) = document["then"].as_str() {
        out.push_str(&format!("  then: {then}\n"));
    }
    for note in document["notes"].as_array().into_iter().flatten() {
        out.push_str(&format!("  note: {}\n", word(note)));
    }
    match document["program"].as_str() {
        Some("on") => {}
        Some("not asked") => out.push_str("  by the configuration alone, without sessions\n"),
        Some(state) => out.push_str(&format!(
            "  the program is {state}: this is what it would do, and user space does the rest now\n"
        )),
        None => {}
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

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

    /// A datagram over IPv4 in a frame, without a UDP checksum.
    fn frame(source: &str, to: &str, payload: &[u8]) -> Vec<u8> {
        let (source, to): (SocketAddr, SocketAddr) = (source.parse().unwrap(), to.parse().unwrap());
        let udp_bytes = u16::try_from(8 + payload.len()).unwrap();
        let mut ip = vec![0x45, 0];
        ip.extend((20 + udp_bytes).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        for address in [source.ip(), to.ip()] {
            match address {
                IpAddr::V4(v4) => ip.extend(v4.octets()),
                IpAddr::V6(_) => panic!("IPv4 only"),
            }
        }
        let sum: u32 = ip.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend(ip);
        frame.extend(source.port().to_be_bytes());
        frame.extend(to.port().to_be_bytes());
        frame.extend(udp_bytes.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        // Ethernet's shortest frame.
        frame.resize(frame.len().max(60), 0);
        frame
    }

    fn channel(number: u16, payload: &[u8]) -> Vec<u8> {
        let mut framed = number.to_be_bytes().to_vec();
        framed.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        framed.extend(payload);
        framed
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
            now_ns: 0,
            program: "on",
        };
        let document = explain(&around, &frame(CLIENT, SERVER, &channel(0x4002, b"x")));
        assert_eq!(document["verdict"], "steered");
        assert!(document["then"].as_str().unwrap().contains("TURN server"), "{document}");
        let text = explained(&document);
        assert!(text.contains("channel 0x4002") && text.contains("a client's own"), "{text}");
    }
}

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
use waystation_ebpf::abi::limits::FRAME_PACKET_BYTES_MAX;
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
    /// What the program knows each data core by.
    pub(super) owners: &'a [u32],
    /// Whether packets are handed to the processor of their core.
    pub(super) is_steering: bool,
    /// AF_XDP sockets where it is taken to come in: the queue of each, and whose it is.
    pub(super) frame_sockets: Vec<(u32, u32)>,
    /// Kinds of ports whose frames those are for.
    pub(super) frame_kinds: &'a [Port],
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
            owners: &[],
            is_steering: config.xdp.steer,
            frame_sockets: Vec::new(),
            frame_kinds: &[],
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
    let port = found.map(|(_, local, _)| port_of(around, local.port()));
    if let Some(port) = port {
        // The classifier has one set of addresses for ports whose packets are payload.
        world.session_local = serving(around.served, port);
    }
    let mut session = None;
    if let Some((source, local, channel)) = found {
        let keys = if channel.is_some() { vec![channel, None] } else { vec![None] };
        for channel in keys {
            let key = SessionKey::new(source, local, channel);
            let Some(entry) = (around.session_of)(&key) else { continue };
            let at: Route = (source, local, channel);
            know(&mut world, at, &entry, around, &mut notes);
            session.get_or_insert((at, entry));
        }
    }
    let decision = decide(&world, frame);
    let mut fate = Fate::of(decision.verdict, around, session.as_ref().map(|(_, entry)| entry));
    if decision.verdict == Verdict::PassStranger && around.served.settings.stranger_cost_ns > 0 {
        notes.push("a source that has used up xdp.stranger_rate is dropped instead".to_owned());
    }
    if let Some((_, entry)) = &session {
        match hand_over(around, entry, port, decision.verdict, frame) {
            HandOver::Never => {}
            HandOver::Always => fate = Fate::by_frame(around, entry),
            HandOver::OnQueues(queues) => notes.push(format!(
                "if it comes in by queue {queues}, it is brought to the AF_XDP socket of {} instead",
                core_of(around, entry)
            )),
        }
    }
    let verdict = fate.verdict;
    let is_user_space = !verdict.is_drop() && !verdict.is_relayed();
    json!({
        "schema": SCHEMA,
        "program": around.program,
        "frame_bytes": frame.len(),
        "verdict": verdict.name(),
        "action": fate.action,
        "why": fate.why,
        "drop_reason": drop_reason(verdict).map(|reason| reason.name()),
        "datagram": found.map(|(source, local, channel)| json!({
            "source": source.to_string(),
            "local": local.to_string(),
            "channel": channel,
        })),
        "port": port.map(port_name),
        "session": session.map(|(at, entry)| row(around, at, &entry, port)),
        "then": is_user_space.then(|| then(port)),
        "frame_after": verdict.is_relayed().then(|| hex(&decision.frame)),
        "notes": notes,
    })
}

/// What the program does with a frame, in words.
struct Fate {
    verdict: Verdict,
    action: &'static str,
    why: String,
}

impl Fate {
    fn of(verdict: Verdict, around: &Around<'_>, session: Option<&Session>) -> Self {
        let why = match session.filter(|_| verdict == Verdict::Steered) {
            Some(entry) => steered(around, entry),
            None => meaning(verdict).to_owned(),
        };
        Self { verdict, action: action(verdict), why }
    }

    fn by_frame(around: &Around<'_>, entry: &Session) -> Self {
        let core = core_of(around, entry);
        let why =
            format!("brought to the AF_XDP socket of {core}, past the kernel's network stack");
        Self { verdict: Verdict::Steered, action: "af_xdp", why }
    }
}

/// Which way a packet gets to the core that it is for.
fn steered(around: &Around<'_>, entry: &Session) -> String {
    let core = core_of(around, entry);
    if around.is_steering && entry.owner_cpu != u32::MAX {
        let cpu = entry.owner_cpu;
        format!("the kernel's network stack on processor {cpu} brings it to the socket of {core}")
    } else {
        format!("the kernel's network stack brings it to the socket of {core}, where it came in")
    }
}

/// The data core that owns a session, as it is called in a sentence.
fn core_of(around: &Around<'_>, entry: &Session) -> String {
    match owner_core(around, entry) {
        Some(core) => format!("data core {core}"),
        None => "the data core that owns its session".to_owned(),
    }
}

/// Cores without processors of their own are known by none, and one alone needs none.
fn owner_core(around: &Around<'_>, entry: &Session) -> Option<usize> {
    let is_told = entry.owner_cpu != u32::MAX || around.owners.len() == 1;
    let place = around.owners.iter().position(|owner| *owner == entry.owner_cpu);
    place.filter(|_| is_told)
}

/// Whether a frame of a session is brought to an AF_XDP socket.
enum HandOver {
    Never,
    Always,
    /// By these queues alone, as text.
    OnQueues(String),
}

fn hand_over(
    around: &Around<'_>,
    entry: &Session,
    port: Option<Port>,
    verdict: Verdict,
    frame: &[u8],
) -> HandOver {
    // What is decided before the program looks for a session.
    let is_earlier = [Verdict::DropDenied, Verdict::DropMalformed, Verdict::PassChannelPadding];
    let is_wanted = port.is_some_and(|port| around.frame_kinds.contains(&port));
    let fits = ip_bytes(frame).is_some_and(|bytes| bytes <= FRAME_PACKET_BYTES_MAX);
    if is_earlier.contains(&verdict) || !is_wanted || !fits {
        return HandOver::Never;
    }
    let is_its = |(_, owner): &&(u32, u32)| *owner == entry.owner_cpu;
    let queues: Vec<String> =
        around.frame_sockets.iter().filter(is_its).map(|(queue, _)| queue.to_string()).collect();
    if queues.is_empty() {
        HandOver::Never
    } else if queues.len() == around.frame_sockets.len() {
        HandOver::Always
    } else {
        HandOver::OnQueues(queues.join(" or "))
    }
}

/// Bytes of the IP packet in a frame without a VLAN tag, by its header.
fn ip_bytes(frame: &[u8]) -> Option<u16> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    match word(12)? {
        0x0800 => word(16),
        0x86dd => word(18)?.checked_add(40),
        _ => None,
    }
}

/// Our addresses that ports of a kind are served on.
fn serving(served: &Served, kind: Port) -> BTreeSet<IpAddr> {
    let is_one = |its: &Kinds| its.has(kind);
    served.local.iter().filter(|(_, its)| is_one(its)).map(|(ip, _)| *ip).collect()
}

/// What the program knows of everybody.
fn world(around: &Around<'_>) -> World {
    let served = around.served;
    let mut world = World {
        turn_local: serving(served, Port::Turn),
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

fn row(around: &Around<'_>, (_, _, channel): Route, entry: &Session, port: Option<Port>) -> Value {
    let is_relayed = entry.is_relayed();
    let (from, to, target_channel) = target(entry);
    json!({
        "kind": if is_relayed { "relayed" } else { "steered" },
        "of": whose(port, channel),
        "owner_core": owner_core(around, entry),
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

/// Who sends to an entry's port.
fn whose(port: Option<Port>, channel: Option<u16>) -> &'static str {
    match (port, channel) {
        (Some(Port::Turn), Some(_)) => "turn_channel",
        (Some(Port::Turn), None) => "turn_client",
        (Some(Port::Session), _) => "turn_peer",
        (Some(Port::Opaque), _) => "opaque_end",
        (Some(Port::Foreign) | None, _) => "nobody",
    }
}

/// The same in words.
fn whose_in_words(name: &str) -> &'static str {
    match name {
        "turn_channel" => "a channel of a TURN client",
        "turn_client" => "a TURN client's own packets",
        "turn_peer" => "a peer of a TURN allocation",
        "opaque_end" => "an end of an opaque session",
        _ => "nobody's any more",
    }
}

fn port_name(port: Port) -> &'static str {
    match port {
        Port::Foreign => "foreign",
        Port::Turn => "turn",
        Port::Session => "relayed",
        Port::Opaque => "opaque",
    }
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
        Some(Port::Session) => {
            "the socket of that relayed address or DHT node takes it, if somebody has it; otherwise \
             the kernel answers that the port is closed"
        }
        Some(Port::Opaque) => {
            "the opaque session of that port takes what an end sends or what proves to be an end's; \
             the rest is dropped there and counted (waystation drops)"
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
    if let Some(of) = session["of"].as_str() {
        out.push_str(&format!("  session: {}", whose_in_words(of)));
        if let Some(core) = session["owner_core"].as_u64() {
            out.push_str(&format!(", of data core {core}"));
        }
        out.push('\n');
    }
    if session["kind"] == "relayed" {
        let (from, to) = (word(&session["leaves_from"]), word(&session["goes_to"]));
        let (packets, bytes) = (&session["packets"], &session["bytes"]);
        out.push_str(&format!("    leaves from {from} to {to}"));
        if let Some(channel) = session["leaves_with_channel"].as_u64() {
            out.push_str(&format!(" with channel {channel:#06x}"));
        }
        out.push_str(&format!("\n    {packets} packets, {bytes} B so far\n"));
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
#[path = "explain_tests.rs"]
mod tests;

//! `/v1/hub`: how much of what the signalling hub has, and what it has counted.
//!
//! Pure functions, called on the management thread and by the client. No agent, room or address of a
//! peer is in any of it.

use super::HubFigures;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::net::SocketAddr;
use waystation_a2al::hub::{CloseReason, Ignored, Refusal};

/// The document; that there is no hub if there is none.
pub fn document(schema: u64, figures: Option<&HubFigures>) -> Value {
    let Some(figures) = figures else {
        return json!({ "schema": schema, "hub": { "enabled": false } });
    };
    let (gauges, limits, counted) = (&figures.gauges, &figures.limits, &figures.statistics);
    let named = |pairs: Vec<(&'static str, u64)>| -> Map<String, Value> {
        pairs.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect()
    };
    json!({
        "schema": schema,
        "hub": {
            "enabled": true,
            "listen": figures.listen.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
            "connections": gauges.connections,
            "connections_max": limits.connections_max,
            "sources": gauges.sources,
            "registrations": gauges.registrations,
            "registrations_max": limits.registrations_max,
            "rooms_waiting": gauges.rooms_waiting,
            "rooms_paired": gauges.rooms_paired,
            "rooms_max": limits.rooms_max,
            "outgoing_bytes": figures.outgoing_bytes,
            "totals": {
                "connections": counted.connections,
                "registrations": counted.registrations,
                "contests_kept": counted.contests_kept,
                "contests_lost": counted.contests_lost,
                "calls": counted.calls,
                "rooms": counted.rooms,
                "messages": counted.messages,
                "bytes": counted.bytes,
                "dht_answers": counted.answers,
            },
            "refused": named(refused(figures)),
            "closed": named(closed(figures)),
            "ignored": named(ignored(figures)),
        },
    })
}

/// What was turned away, by reason.
pub fn refused(figures: &HubFigures) -> Vec<(&'static str, u64)> {
    Refusal::ALL.map(|reason| (reason.name(), figures.statistics.refused(reason))).to_vec()
}

/// What the hub has ended, by reason.
pub fn closed(figures: &HubFigures) -> Vec<(&'static str, u64)> {
    CloseReason::ALL.map(|reason| (reason.name(), figures.statistics.closed(reason))).to_vec()
}

/// Messages that led to nothing, by reason.
pub fn ignored(figures: &HubFigures) -> Vec<(&'static str, u64)> {
    Ignored::ALL.map(|reason| (reason.name(), figures.statistics.ignored(reason))).to_vec()
}

/// The document for people: a line for each number, and none for reasons that never occurred.
pub fn text(document: &Value) -> String {
    let hub = &document["hub"];
    if hub["enabled"] != true {
        return "there is no signalling hub; see dht.listen and hub.listen\n".to_owned();
    }
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:<28} {value}");
    };
    let listed = hub["listen"].as_array().into_iter().flatten().filter_map(Value::as_str);
    listed.for_each(|address| line("listens on", address.to_owned()));
    let of = |name: &str| format!("{} of {}", hub[name], hub[format!("{name}_max")]);
    line("connections", of("connections"));
    line("registrations", of("registrations"));
    let rooms = format!("{} paired, {} waiting", hub["rooms_paired"], hub["rooms_waiting"]);
    line("rooms", format!("{rooms}, of {}", hub["rooms_max"]));
    for (group, heading) in
        [("totals", "in all"), ("refused", "refused"), ("closed", "ended"), ("ignored", "ignored")]
    {
        for (name, count) in hub[group].as_object().into_iter().flatten() {
            if count.as_u64() != Some(0) {
                line(&format!("{heading}: {}", name.replace('_', " ")), count.to_string());
            }
        }
    }
    out
}

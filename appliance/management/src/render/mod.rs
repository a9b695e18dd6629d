//! What the sub-commands print: from the JSON documents of the stats socket to text of 80 columns.
//!
//! Pure functions without a terminal in sight. Fields that a document lacks are shown as `-`, so a
//! client one version ahead or behind still prints what it can.

mod comparison;
pub mod dht;
mod histogram;
mod table;
pub mod top;
mod xdp;

pub use comparison::comparison;
pub use histogram::histogram;
pub use xdp::xdp;

use crate::units::{human_bytes, human_count, human_ns};
use serde_json::Value;
use std::fmt::Write;
use table::{Column, Table};
use waystation_engine::statistics::WaitMode;

/// Hex digits of an identity that tell peers apart in a table.
const IDENTITY_DIGITS: usize = 8;

/// How a number is written for people.
type Form = fn(u64) -> String;

/// Of the lengths at which ciphers are measured: a record's length field, and what bodies have.
const AEAD_LENGTHS_SHOWN: [(&str, &str); 3] =
    [("2", "2 B"), ("1024", "1 KiB"), ("16384", "16 KiB")];

/// `waystation status`.
pub fn status(document: &Value) -> String {
    let mut out = String::new();
    let readiness = &document["readiness"];
    let state = readiness["state"].as_str().unwrap_or("-");
    let up = document["uptime_ms"].as_u64().map(|ms| human_ns(ms.saturating_mul(1_000_000)));
    line(
        &mut out,
        &format!(
            "waystation {}  {state}  up {}",
            text(&document["version"]),
            up.as_deref().unwrap_or("-"),
        ),
    );
    if let Some(waiting_for) = readiness["waiting_for"].as_str() {
        line(&mut out, &format!("waiting for {waiting_for}"));
    }
    for (what, why) in document["degraded"].as_object().into_iter().flatten() {
        line(&mut out, &format!("degraded   {what}: {}", text(why)));
    }
    line(&mut out, &format!("identity   {}", text(&document["identity"])));
    for address in array(&document["listen"]) {
        line(&mut out, &format!("listening  {}", text(address)));
    }
    for row in array(&document["observed_addresses"]) {
        let (address, peers) = (text(&row["address"]), count(&row["peers"]));
        line(&mut out, &format!("seen at    {address} by {peers} of the peers dialed"));
    }
    out.push('\n');
    out.push_str(&cores(document));
    out.push('\n');
    out.push_str(&room(document));
    out.push('\n');
    out.push_str(&traffic(document));
    out.push_str(&placement(&document["totals"]));
    out.push_str(&limited(&document["totals"]));
    out.push_str(&gateway(&document["gateway"]));
    out.push_str(&queries(&document["queries"]));
    let memory = &document["memory"];
    line(
        &mut out,
        &format!(
            "memory     {} resident, {} for each link",
            bytes(&memory["resident_bytes"]),
            bytes(&memory["link_state_bytes_per_link"]),
        ),
    );
    out.push_str(&xdp::summary(&document["xdp"]));
    out.push_str(&aead(&document["aead"]));
    out.push_str(&floor(&document["floor"]));
    let dropped = document["drops"].as_object().into_iter().flatten();
    let dropped: u64 = dropped.filter_map(|(_, events)| events.as_u64()).sum();
    line(&mut out, &format!("dropped    {} events since the start", human_count(dropped)));
    // The node info is there to be copied, so it is never cut.
    let _ = writeln!(out, "\n{}", text(&document["node_info"]));
    out
}

/// What seals the records and why, and the figures it was chosen by.
fn aead(document: &Value) -> String {
    let mut out = String::new();
    let Some(suite) = document["suite"].as_str() else { return out };
    let why = match document["choice"].as_str() {
        Some("configured") => "as configured",
        Some(_) | None => "the cheapest measured",
    };
    line(&mut out, &format!("cipher     {suite}, {why}; seal and open:"));
    for cost in array(&document["measured"]) {
        let figures = match (cost["unusable"].as_str(), cost["seal_and_open_ns"].as_object()) {
            (Some(why), _) => why.to_owned(),
            (None, Some(ns)) => AEAD_LENGTHS_SHOWN
                .map(|(bytes, name)| {
                    let ns = ns.get(bytes).and_then(Value::as_u64);
                    format!("{} for {name}", ns.map_or_else(dash, human_ns))
                })
                .join(", "),
            (None, None) => dash(),
        };
        line(&mut out, &format!("           {:<10} {figures}", text(&cost["backend"])));
    }
    out
}

/// What this machine charges, and whether it was measured by the program that says so.
pub fn floor(document: &Value) -> String {
    let mut out = String::new();
    let Some(source) = document["source"].as_str() else { return out };
    let words = match source {
        "cached" => "as measured at an earlier start",
        _ => "measured",
    };
    line(&mut out, &format!("floor      {words}; to move, and to move and seal:"));
    for arrival in array(&document["arrivals"]) {
        let ns = |key: &str| arrival[key].as_f64().map_or_else(dash, |ns| human_ns(ns as u64));
        let bytes = bytes(&arrival["bytes"]);
        let words = format!("{:<10} {}, {}", bytes, ns("forward_ns"), ns("sealed_ns"));
        line(&mut out, &format!("           {words}"));
    }
    out
}

fn cores(document: &Value) -> String {
    let mut table = Table::new(vec![
        Column::right("CORE"),
        Column::right("CPU"),
        Column::left("PORT"),
        Column::right("BUSY"),
        Column::right("LINKS"),
        Column::right("SESSIONS"),
        Column::right("PIPES"),
        Column::right("HALF-OPEN"),
        Column::right("QUEUED"),
        Column::right("BUFFERS"),
        Column::left(""),
    ]);
    for core in array(&document["cores"]) {
        let counters = &core["counters"];
        let buffers = &core["headroom"]["receive_buffers"];
        let silent = core["silent_intervals"].as_u64().unwrap_or(0);
        table.row(vec![
            text(&core["core"]),
            text(&core["cpu"]),
            text(&core["port"]),
            core["busy_share"].as_f64().map_or_else(dash, percent),
            count(&counters["links_open"]),
            count(&counters["sessions_open"]),
            count(&counters["pipes_open"]),
            count(&counters["half_open"]),
            bytes(&counters["queued_bytes"]),
            format!("{}/{}", count(&buffers["free"]), count(&buffers["of"])),
            // One missing report is a matter of timing.
            match core["waiting"]["mode"].as_str() {
                _ if silent > 1 => "silent".to_owned(),
                Some(mode) if mode != WaitMode::Sleep.name() => mode.to_owned(),
                Some(_) | None => String::new(),
            },
        ]);
    }
    table.render()
}

/// What most links were held up by in the last interval.
fn limited(totals: &Value) -> String {
    let causes = totals["limited_links"].as_object().into_iter().flatten();
    let mut causes: Vec<_> =
        causes.filter_map(|(cause, links)| Some((links.as_u64()?, cause))).collect();
    causes.retain(|(links, _)| *links > 0);
    causes.sort_by_key(|(links, cause)| (std::cmp::Reverse(*links), *cause));
    let by_cause: Vec<_> = causes
        .iter()
        .map(|(links, cause)| format!("{} by {}", human_count(*links), cause_word(cause)))
        .collect();
    let mut out = String::new();
    let links = if by_cause.is_empty() { dash() } else { by_cause.join(", ") };
    line(&mut out, &format!("limited    links: {links}"));
    out
}

/// What is left of each core, and how close to the floor it works.
fn room(document: &Value) -> String {
    let mut table = Table::new(vec![
        Column::right("CORE"),
        Column::right("HEADROOM"),
        Column::right("AT WORK"),
        Column::right("EFFICIENCY"),
        Column::right("COST"),
        Column::right("FLOOR"),
        Column::right("SAME-CORE"),
    ]);
    for core in array(&document["cores"]) {
        let (headroom, efficiency) = (&core["headroom"], &core["efficiency"]);
        let per_kib =
            |ns: &Value| ns.as_f64().map_or_else(dash, |ns| format!("{}/KiB", human_ns(ns as u64)));
        table.row(vec![
            text(&core["core"]),
            more_traffic(&headroom["more_traffic_ratio"]),
            headroom["busy_share"].as_f64().map_or_else(dash, percent),
            efficiency["ratio"].as_f64().map_or_else(dash, percent),
            per_kib(&efficiency["cost_ns_per_kib"]),
            per_kib(&efficiency["floor_ns_per_kib"]),
            core["same_core_share"].as_f64().map_or_else(dash, percent),
        ]);
    }
    table.render()
}

/// More of the same traffic than this is not worth a number.
const MORE_TRAFFIC_SHOWN_MAX: f64 = 99.0;

/// `+3.1x`: so many times the traffic of now could come on top of it.
fn more_traffic(value: &Value) -> String {
    match value.as_f64() {
        Some(more) if more > MORE_TRAFFIC_SHOWN_MAX => format!(">{MORE_TRAFFIC_SHOWN_MAX:.0}x"),
        Some(more) => format!("+{more:.1}x"),
        None => dash(),
    }
}

fn traffic(document: &Value) -> String {
    let mut out = String::new();
    let interval_ms = document["interval"]["length_ms"].as_u64().filter(|length| *length > 0);
    let growth = &document["totals"]["interval"];
    let total = &document["totals"]["counters"];
    let rate = |key: &str| -> Option<u64> {
        Some(growth[key].as_u64()?.saturating_mul(1000) / interval_ms?)
    };
    let per_second = |key: &str, form: Form| -> String {
        rate(key).map_or_else(dash, |rate| format!("{}/s", form(rate)))
    };
    let mut table = Table::new(vec![
        Column::left(""),
        Column::right("IN"),
        Column::right("OUT"),
        Column::right("TOTAL IN"),
        Column::right("TOTAL OUT"),
    ]);
    let rows: [(&str, &str, &str, Form); 3] = [
        ("frames", "frames_in", "frames_out", human_count),
        ("payload", "payload_bytes_in", "payload_bytes_out", human_bytes),
        ("wire", "wire_bytes_in", "wire_bytes_out", human_bytes),
    ];
    for (name, key_in, key_out, form) in rows {
        let sum = |key: &str| total[key].as_u64().map_or_else(dash, form);
        let cells =
            [per_second(key_in, form), per_second(key_out, form), sum(key_in), sum(key_out)];
        table.row([name.to_owned()].into_iter().chain(cells).collect());
    }
    let pipes = total["pipe_bytes"].as_u64().map_or_else(dash, human_bytes);
    let cells = ["pipes".to_owned(), per_second("pipe_bytes", human_bytes), dash(), pipes, dash()];
    table.row(cells.into_iter().collect());
    out.push_str(&table.render());
    out.push('\n');
    out
}

fn placement(totals: &Value) -> String {
    let bytes = |key: &str| totals["interval"][key].as_f64().unwrap_or(0.0);
    let (same, cross) = (bytes("same_core_bytes"), bytes("cross_core_bytes"));
    let share = if same + cross > 0.0 { percent(same / (same + cross)) } else { dash() };
    let moved = count(&totals["counters"]["links_moved_out"]);
    let mut out = String::new();
    let words =
        format!("{share} of payload stays on its core, {moved} links moved since the start");
    line(&mut out, &format!("placement  {words}"));
    out
}

fn gateway(counts: &Value) -> String {
    let mut out = String::new();
    line(
        &mut out,
        &format!(
            "gateway    {} registered, {} idle sockets, {} reserved, {} joined since the start",
            count(&counts["registrations"]),
            count(&counts["idle_sockets"]),
            count(&counts["reservations"]),
            count(&counts["joins_total"]),
        ),
    );
    out
}

fn queries(counts: &Value) -> String {
    let mut out = String::new();
    line(
        &mut out,
        &format!(
            "queries    {} relayed, {} forwarded, {} sessions moved, {} prepared",
            count(&counts["relayed_total"]),
            count(&counts["forwarded_total"]),
            count(&counts["migrated_total"]),
            count(&counts["prepared"]),
        ),
    );
    out
}

/// `waystation links`.
pub fn links(document: &Value) -> String {
    let mut table = Table::new(vec![
        Column::left("LINK"),
        Column::left("IDENTITY"),
        Column::flexible("REMOTE"),
        Column::right("SESS"),
        Column::right("IN"),
        Column::right("OUT"),
        Column::right("QUEUED"),
        Column::right("IDLE"),
        Column::right("SAME"),
        Column::left("LIMITED"),
    ]);
    for link in array(&document["links"]) {
        let inner = link["inner"].as_bool() == Some(true);
        table.row(vec![
            text(&link["link"]),
            identity(&link["identity"]),
            if inner { "inside a session".to_owned() } else { text(&link["remote"]) },
            count(&link["sessions"]),
            bytes(&link["bytes_in"]),
            bytes(&link["bytes_out"]),
            bytes(&link["queued_bytes"]),
            nanoseconds(&link["idle_ns"]),
            whole_percent(&link["same_core_share"]),
            limited_by(&link["limited_by"]),
        ]);
    }
    table.render() + &footer(document, "links")
}

/// `waystation sessions`.
pub fn sessions(document: &Value) -> String {
    let mut table = Table::new(vec![
        Column::left("LEG"),
        Column::left("KIND"),
        Column::left("IDENTITY"),
        Column::flexible("NONCE"),
        Column::right("AGE"),
        Column::right("IN"),
        Column::right("OUT"),
        Column::right("QUEUED"),
        Column::right("CREDIT"),
        Column::left("LIMITED"),
    ]);
    for session in array(&document["sessions"]) {
        table.row(vec![
            text(&session["leg"]),
            text(&session["kind"]),
            identity(&session["identity"]),
            text(&session["nonce"]),
            nanoseconds(&session["age_ns"]),
            bytes(&session["bytes_in"]),
            bytes(&session["bytes_out"]),
            bytes(&session["queued_bytes"]),
            bytes(&session["send_credit_bytes"]),
            limited_by(&session["limited_by"]),
        ]);
    }
    table.render() + &footer(document, "sessions")
}

/// `waystation udp list`.
pub fn udp(document: &Value) -> String {
    let is_opaque = |row: &&Value| row["kind"] == "opaque";
    let (opaque, turn): (Vec<_>, Vec<_>) = array(&document["udp"]).iter().partition(is_opaque);
    let mut text = String::new();
    if !opaque.is_empty() {
        text += &opaque_sessions(&opaque);
    }
    if !turn.is_empty() || opaque.is_empty() {
        let end = if opaque.is_empty() { "" } else { "\n" };
        text += &format!("{end}{}", allocations(&turn));
    }
    text + &footer(document, "udp")
}

fn opaque_sessions(rows: &[&Value]) -> String {
    let mut table = Table::new(vec![
        Column::left("SESSION"),
        Column::flexible("NAME"),
        Column::right("PORT"),
        Column::flexible("END"),
        Column::left("TIER"),
        Column::right("IN"),
        Column::right("OUT"),
        Column::right("HEARD"),
        Column::right("DROPPED"),
    ]);
    for row in rows {
        // A line for each leg; what is the session's stands on the first.
        for (index, leg) in array(&row["legs"]).iter().enumerate() {
            let once = |value: String| if index == 0 { value } else { String::new() };
            let heard = match &leg["heard_ago_ns"] {
                Value::Null => dash(),
                ago => nanoseconds(ago),
            };
            table.row(vec![
                once(text(&row["session"])),
                once(text(&row["name"])),
                text(&leg["port"]),
                text(&leg["address"]),
                once(text(&row["tier"])),
                bytes(&leg["bytes_in"]),
                bytes(&leg["bytes_out"]),
                heard,
                once(text(&row["dropped_datagrams"])),
            ]);
        }
    }
    table.render()
}

fn allocations(rows: &[&Value]) -> String {
    let mut table = Table::new(vec![
        Column::left("KIND"),
        Column::flexible("CLIENT"),
        Column::left("USER"),
        Column::flexible("RELAYED"),
        Column::left("TIER"),
        Column::right("TO PEERS"),
        Column::right("TO CLIENT"),
        Column::right("ENDS IN"),
    ]);
    for row in rows {
        let relayed: Vec<_> = array(&row["relayed"]).iter().map(text).collect();
        table.row(vec![
            kind(row),
            text(&row["client"]),
            text(&row["user"]),
            relayed.join(" "),
            text(&row["tier"]),
            bytes(&row["bytes_to_peers"]),
            bytes(&row["bytes_to_client"]),
            nanoseconds(&row["expires_in_ns"]),
        ]);
    }
    table.render()
}

/// What a row is of, and how its client reaches us where there is a choice.
fn kind(row: &Value) -> String {
    match row["transport"].as_str() {
        Some(transport) => format!("{}/{transport}", text(&row["kind"])),
        None => text(&row["kind"]),
    }
}

/// The cause, in a word that leaves room for the other columns.
fn limited_by(value: &Value) -> String {
    value["cause"].as_str().map_or_else(dash, cause_word)
}

fn cause_word(cause: &str) -> String {
    match cause {
        "peer_not_reading" => "peer".to_owned(),
        "sender_idle" => "sender".to_owned(),
        _ => text(&Value::from(cause)),
    }
}

fn footer(document: &Value, name: &str) -> String {
    let mut out = String::new();
    let shown = array(&document[name]).len();
    let total = count(&document["total"]);
    if document["truncated"].as_bool() == Some(true) {
        line(&mut out, &format!("{shown} of {total} {name} shown"));
    } else {
        line(&mut out, &format!("{total} {name}"));
    }
    let missing: Vec<_> = array(&document["cores_missing"]).iter().map(text).collect();
    if !missing.is_empty() {
        line(&mut out, &format!("no answer from core {}", missing.join(", ")));
    }
    out
}

/// `waystation peers`.
pub fn peers(document: &Value) -> String {
    let mut table = Table::new(vec![
        Column::left("IDENTITY"),
        Column::flexible("NETWORKS"),
        Column::left("PROF"),
        Column::right("SESS"),
        Column::right("IN"),
        Column::right("OUT"),
        Column::right("PIPES"),
        Column::right("FRAMES"),
        Column::right("TIME"),
        Column::left("DIAL"),
    ]);
    for peer in array(&document["peers"]) {
        let used = &peer["used"];
        let sum = |one: &str, other: &str| -> Option<u64> {
            Some(used[one].as_u64()?.saturating_add(used[other].as_u64()?))
        };
        let time_ns = used["link_time_ms"].as_u64().map(|ms| ms.saturating_mul(1_000_000));
        let profiles: Vec<_> = array(&peer["profiles"]).iter().map(text).collect();
        table.row(vec![
            identity(&peer["identity"]),
            networks(&peer["networks"]),
            profiles.join("+"),
            count(&peer["sessions"]),
            bytes(&used["bytes_in"]),
            bytes(&used["bytes_out"]),
            sum("pipe_bytes_in", "pipe_bytes_out").map_or_else(dash, human_bytes),
            sum("frames_in", "frames_out").map_or_else(dash, human_count),
            time_ns.map_or_else(dash, human_ns),
            text(&peer["dial"]["state"]),
        ]);
    }
    table.render() + &footer(document, "peers")
}

/// `2 tcp, 1 gw`.
fn networks(value: &Value) -> String {
    let links = value.as_object().into_iter().flatten();
    let links: Vec<_> = links.map(|(name, links)| format!("{} {name}", count(links))).collect();
    if links.is_empty() { dash() } else { links.join(", ") }
}

/// `waystation drops`.
pub fn drops(document: &Value) -> String {
    let mut table = Table::new(vec![
        Column::left("REASON"),
        Column::right("EVENTS"),
        Column::right("BYTES"),
        Column::flexible("CORES"),
    ]);
    let mut reasons: Vec<_> = array(&document["reasons"]).iter().collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason["events"].as_u64()));
    for reason in &reasons {
        table.row(vec![
            text(&reason["reason"]),
            count(&reason["events"]),
            bytes(&reason["bytes"]),
            where_dropped(reason),
        ]);
    }
    if reasons.is_empty() {
        return "nothing was dropped since the start\n".to_owned();
    }
    table.render()
}

/// `0:12 1:3 management:1`, without those that dropped nothing.
fn where_dropped(reason: &Value) -> String {
    let cores = array(&reason["cores"]).iter().map(|core| (text(&core["core"]), &core["events"]));
    let management = ("management".to_owned(), &reason["management"]["events"]);
    let places = cores.chain([management]);
    let places = places.filter(|(_, events)| events.as_u64().is_some_and(|events| events > 0));
    places.map(|(name, events)| format!("{name}:{}", count(events))).collect::<Vec<_>>().join(" ")
}

/// A line, cut to the terminal's width.
fn line(out: &mut String, words: &str) {
    out.push_str(&table::cut(words, crate::limits::TERMINAL_COLUMNS));
    out.push('\n');
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A word or a number as it is. Control characters are not for terminals.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => {
            text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
        }
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => dash(),
    }
}

fn identity(value: &Value) -> String {
    text(value).chars().take(IDENTITY_DIGITS).collect()
}

fn count(value: &Value) -> String {
    value.as_u64().map_or_else(dash, human_count)
}

fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(dash, human_bytes)
}

fn nanoseconds(value: &Value) -> String {
    value.as_u64().map_or_else(dash, human_ns)
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// Where a tenth of a percent is not worth its columns.
fn whole_percent(share: &Value) -> String {
    share.as_f64().map_or_else(dash, |share| format!("{:.0}%", share * 100.0))
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests;

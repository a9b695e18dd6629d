//! What `waystation dht` prints.

use super::table::{Column, Table};
use super::{array, bytes, count, dash, footer, identity, line, nanoseconds, text};
use serde_json::Value;

const NS_PER_MS: u64 = 1_000_000;

/// `waystation dht status`.
pub fn status(document: &Value) -> String {
    let mut out = String::new();
    let (stats, store) = (&document["stats"], &document["store"]);
    // The address is there to be copied, so it is never cut.
    out.push_str(&format!("address    {}\n", text(&document["address"])));
    out.push_str(&format!("node id    {}\n", text(&document["node_id"])));
    for (head, key) in
        [("listening", "listen"), ("published", "endpoints"), ("seen at", "observed")]
    {
        for address in array(&document[key]) {
            line(&mut out, &format!("{head:<10} {}", text(address)));
        }
    }
    let nodes = (count(&stats["total_peers"]), count(&stats["estimated_network_size"]));
    let reach = ["reach_1h", "reach_24h", "reach_7d"].map(|key| count(&stats[key]));
    line(
        &mut out,
        &format!("nodes      {} in the table, about {} in the network", nodes.0, nodes.1),
    );
    let [hour, day, week] = reach;
    line(&mut out, &format!("met        {hour} in an hour, {day} in a day, {week} in a week"));
    line(&mut out, &format!("NAT        {}", text(&document["nat"])));
    let traffic =
        [&document["received"], &stats["rx_packets_verified"], &stats["tx_packets"]].map(count);
    let [received, verified, sent] = traffic;
    let words = format!("datagrams  {received} received, {verified} of them genuine, {sent} sent");
    line(&mut out, &words);
    let (answered, unanswered) = (count(&stats["rpc_completed"]), count(&document["unanswered"]));
    line(&mut out, &format!("questions  {answered} answered, {unanswered} given up"));
    let kept = (count(&store["records"]), count(&store["keys"]), bytes(&store["bytes"]));
    line(&mut out, &format!("store      {} records, {} keys, {}", kept.0, kept.1, kept.2));
    let [taken, stale, refused] = ["kept", "stale", "refused"].map(|key| count(&store[key]));
    line(&mut out, &format!("STOREs     {taken} kept ({stale} of them stale), {refused} refused"));
    let counted = [("dropped", "drops"), ("refused", "refusals"), ("kept out", "node_refusals")];
    for (head, key) in counted {
        let reasons = document[key].as_object().into_iter().flatten();
        let reasons: Vec<_> =
            reasons.map(|(reason, events)| format!("{reason} {}", count(events))).collect();
        let reasons = if reasons.is_empty() { dash() } else { reasons.join(", ") };
        line(&mut out, &format!("{head:<10} {reasons}"));
    }
    out.push('\n');
    out.push_str(&look_ups(&document["lookups"]));
    out.push('\n');
    out.push_str(&published(document));
    out
}

fn look_ups(document: &Value) -> String {
    let heads = ["COUNT", "P50", "P99", "MAX", "HOPS P50", "HOPS MAX"];
    let mut columns = vec![Column::left("LOOK-UPS")];
    columns.extend(heads.into_iter().map(Column::right));
    let mut table = Table::new(columns);
    for outcome in ["found", "missed", "nodes"] {
        let entry = &document[outcome];
        table.row(vec![
            outcome.to_owned(),
            count(&entry["count"]),
            nanoseconds(&entry["percentiles_ns"]["p50"]),
            nanoseconds(&entry["percentiles_ns"]["p99"]),
            nanoseconds(&entry["max_ns"]),
            count(&entry["hops"]["p50"]),
            count(&entry["hops_max"]),
        ]);
    }
    table.render()
}

fn published(document: &Value) -> String {
    let mut table = Table::new(vec![
        Column::left("PUBLISHES"),
        Column::left("KEY"),
        Column::right("REPLICAS"),
        Column::flexible("SAYS"),
    ]);
    for row in array(&document["published"]) {
        table.row(vec![
            text(&row["kind"]),
            identity(&row["key"]),
            count(&row["replicas"]),
            said(row),
        ]);
    }
    table.render()
}

/// `waystation dht peers`.
pub fn peers(document: &Value) -> String {
    let mut table = Table::new(vec![
        Column::right("BUCKET"),
        Column::left("NODE"),
        Column::flexible("AT"),
        Column::left("HEALTH"),
        Column::right("RTT"),
        Column::right("HEARD"),
    ]);
    for row in array(&document["peers"]) {
        let time = |key: &str| {
            let ns = row[key].as_u64().map(|ms| ms.saturating_mul(NS_PER_MS));
            nanoseconds(&Value::from(ns))
        };
        table.row(vec![
            text(&row["bucket"]),
            identity(&row["node_id"]),
            text(&row["at"]),
            text(&row["health"]),
            time("round_trip_ms"),
            time("verified_ago_ms"),
        ]);
    }
    table.render() + &footer(document, "peers")
}

/// `waystation dht records`.
pub fn records(document: &Value) -> String {
    let mut table = Table::new(vec![
        Column::left("KEY"),
        Column::left("KIND"),
        Column::flexible("ADDRESS"),
        Column::right("SEQUENCE"),
        Column::right("TTL"),
        Column::right("BYTES"),
        Column::left("CONFIRMED"),
    ]);
    for row in array(&document["records"]) {
        table.row(vec![
            identity(&row["key"]),
            text(&row["kind"]),
            text(&row["address"]),
            text(&row["sequence"]),
            text(&row["ttl_s"]),
            text(&row["payload_bytes"]),
            text(&row["confirmed"]),
        ]);
    }
    table.render() + &footer(document, "records")
}

/// `waystation dht lookup` and `waystation dht get`.
pub fn found(document: &Value) -> String {
    let mut out = String::new();
    for row in array(&document["records"]) {
        // Both are there to be copied, so they are never cut.
        out.push_str(&format!("{:<8} {}\n", text(&row["kind"]), text(&row["address"])));
        out.push_str(&format!("         {}\n", said(row)));
    }
    let [records, calls, hops] = [
        array(&document["records"]).len().to_string(),
        count(&document["calls"]),
        count(&document["hops"]),
    ];
    let took = document["took_ms"].as_u64().map(|ms| ms.saturating_mul(NS_PER_MS));
    let took = nanoseconds(&Value::from(took));
    line(&mut out, &format!("{records} records; {calls} nodes asked, {hops} hops, {took}"));
    out
}

/// What a record's payload says, in a line.
fn said(row: &Value) -> String {
    let said = &row["says"];
    let list = |key: &str| -> Vec<String> { array(&said[key]).iter().map(text).collect() };
    let words = ["topic", "name", "brief"].map(|key| said[key].as_str().map(str::to_owned));
    let words = words.into_iter().flatten().filter(|word| !word.is_empty());
    let lists = ["endpoints", "protocols", "tags", "hubs"].map(list).into_iter().flatten();
    let all: Vec<String> = words.map(|word| text(&Value::from(word))).chain(lists).collect();
    if all.is_empty() { dash() } else { all.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_printed_fits_a_terminal_and_names_what_matters() {
        let published = json!([{
            "kind": "topic", "key": "ab".repeat(32), "replicas": 8,
            "says": { "topic": "relay", "name": "box\u{7}", "protocols": ["turn", "astral"] },
        }]);
        let document = json!({
            "address": "a1".repeat(21), "node_id": "0".repeat(64), "listen": ["192.0.2.1:4121"],
            "stats": { "total_peers": 12, "reach_1h": 3 }, "drops": { "malformed": 4 },
            "node_refusals": { "crowded": 5 },
            "published": published,
        });
        let text = status(&document);
        for part in [
            "192.0.2.1:4121",
            "12 in the table",
            "malformed 4",
            "kept out   crowded 5",
            "relay box\u{fffd} turn",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let long = text.lines().filter(|line| line.chars().count() > 80);
        assert_eq!(long.count(), 0, "{text}");
        let rows = json!([{ "bucket": 3, "node_id": "cd".repeat(32), "at": "192.0.2.2:4121",
            "health": "good", "round_trip_ms": 20, "verified_ago_ms": 4000 }]);
        let text = peers(&json!({ "peers": rows, "total": 1 }));
        assert!(text.contains("192.0.2.2:4121") && text.contains("20"), "{text}");
        let text = found(&json!({ "records": published, "calls": 3, "hops": 1, "took_ms": 12 }));
        assert!(
            text.contains("turn astral") && text.contains("1 records; 3 nodes asked"),
            "{text}"
        );
        assert!(records(&json!({})).contains("KEY"));
    }
}

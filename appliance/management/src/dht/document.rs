//! `/v1/dht` and what is below it, as JSON, and the node's numbers for metrics.
//!
//! Pure functions over the node and its figures, called on the management thread.

use super::figures::{DhtFigures, LookUpOutcome};
use crate::counter_table::Kind;
use crate::documents::{SCHEMA, buckets, percentiles};
use crate::metrics::{LabelledNumber, NodeNumber};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use waystation_a2al::address::Address;
use waystation_a2al::address_text;
use waystation_a2al::node::{DropReason, Node, NodeRefusal, RefusalReason};
use waystation_a2al::node_id::NodeId;
use waystation_a2al::payload::{EndpointPayload, NatType, ProfilePayload, TopicPayload};
use waystation_a2al::peers::Health;
use waystation_a2al::query::Found;
use waystation_a2al::record::{RecordType, SignedRecord};
use waystation_a2al::store::{Store, Stored};
use waystation_a2al::time::Now;

/// Buckets that the estimate of the network's size rests on, at most.
const ESTIMATE_BUCKETS: f64 = waystation_a2al::limits::ESTIMATE_BUCKETS as f64;

/// `/v1/dht`.
pub(super) fn status(
    node: &Node,
    figures: &DhtFigures,
    listen: &[SocketAddr],
    endpoints: &[SocketAddr],
    now: Now,
) -> Value {
    let nat = node.nat();
    let observed = [true, false].into_iter().filter_map(|is_ipv4| nat.trusted(is_ipv4, now.millis));
    json!({
        "schema": SCHEMA,
        "address": address_text::format(&node.address()),
        "node_id": node.id().to_string(),
        "listen": texts(listen.iter().copied()),
        "endpoints": texts(endpoints.iter().copied()),
        "observed": texts(observed),
        "nat": nat_name(nat.nat_type(now.millis)),
        "sequence": node.sequence(),
        "stats": stats(figures, node.config().is_passive),
        "store": {
            "keys": figures.keys,
            "records": figures.records,
            "bytes": figures.record_bytes,
            "keys_max": node.config().store.keys_max,
            "bytes_max": node.config().store.bytes_max,
            "kept": figures.statistics.stores_kept,
            "stale": figures.statistics.stores_stale,
            "refused": figures.statistics.stores_refused,
            "not_restored": figures.not_restored,
            "verified": figures.records_verified,
            "made_room": figures.made_room,
        },
        "received": figures.statistics.received,
        "unanswered": figures.statistics.unanswered,
        "values_served": figures.statistics.values_served,
        "pushes": figures.statistics.pushes,
        "unknown_keys": figures.statistics.unknown_keys,
        "drops": drops(figures),
        "refusals": refusals(figures),
        "node_refusals": node_refusals(figures),
        "published": published(node),
        "lookups": look_ups(figures),
    })
}

/// The figures that the first implementation tells of itself, by the same names; a beacon tells more.
fn stats(figures: &DhtFigures, is_beacon: bool) -> Value {
    let [hour, day, week] = figures.reach;
    let mut stats = json!({
        "rx_packets_verified": figures.statistics.verified,
        "tx_packets": figures.statistics.sent,
        "rpc_completed": figures.statistics.answered,
        "total_peers": figures.nodes,
        "reach_1h": hour,
        "reach_24h": day,
        "reach_7d": week,
        "estimated_network_size": figures.network_size.nodes,
        "estimate_confidence": figures.network_size.buckets as f64 / ESTIMATE_BUCKETS,
        "verified_peers_1h": hour,
        "unique_nodes_since_start": figures.met_since_start,
    });
    if is_beacon {
        stats["beacon_mode"] = json!(true);
        stats["beacon_store_received"] = json!(figures.statistics.stores_kept);
        stats["beacon_findvalue_served"] = json!(figures.statistics.values_served);
    }
    stats
}

/// Reasons that occurred, the kernel's included.
fn drops(figures: &DhtFigures) -> Value {
    let own = DropReason::ALL.map(|reason| (reason.name(), figures.statistics.dropped(reason)));
    let kernel = [("receive_buffer_full", figures.kernel_drops), ("not_sent", figures.unsent)];
    occurred(own.into_iter().chain(kernel))
}

fn refusals(figures: &DhtFigures) -> Value {
    occurred(RefusalReason::ALL.map(|why| (why.name(), figures.statistics.refused(why))))
}

fn node_refusals(figures: &DhtFigures) -> Value {
    occurred(NodeRefusal::ALL.map(|why| (why.name(), figures.statistics.nodes_refused(why))))
}

fn occurred(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Value {
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    Value::Object(counts.map(|(name, count)| (name.to_owned(), json!(count))).collect())
}

fn published(node: &Node) -> Vec<Value> {
    let row = |published: &waystation_a2al::replication::Published| {
        let mut row = record(&published.record);
        row["key"] = json!(published.key.to_string());
        row["replicas"] = json!(published.active());
        row
    };
    node.published().map(row).collect()
}

fn look_ups(figures: &DhtFigures) -> Value {
    let of = |outcome: LookUpOutcome| {
        let durations = figures.look_ups.durations(outcome);
        let hops = figures.look_ups.hops(outcome);
        let entry = json!({
            "count": durations.len(),
            "percentiles_ns": percentiles(durations),
            "max_ns": durations.max(),
            "buckets": buckets(durations),
            "hops": percentiles(hops),
            "hops_max": hops.max(),
        });
        (outcome.name().to_owned(), entry)
    };
    Value::Object(LookUpOutcome::ALL.map(of).into_iter().collect())
}

/// `/v1/dht/peers`: the table, in the order of its buckets.
pub(super) fn peers(node: &Node, limit: usize, now: Now) -> Value {
    let own = node.id();
    let row = |entry: &waystation_a2al::routing::Entry| {
        let id = entry.info.node_id;
        let health = match node.peers().health(&id) {
            Health::Good => "good",
            Health::Bad => "bad",
            Health::Unknown => "unknown",
        };
        json!({
            "bucket": own.bucket_index(&id),
            "node_id": id.to_string(),
            "address": address_text::format(&entry.info.address),
            "at": entry.info.socket_address().to_string(),
            "verified_ago_ms": now.millis.since(entry.verified_at),
            "health": health,
            "round_trip_ms": node.peers().round_trip_ms(&id),
        })
    };
    let total = node.table().len();
    let rows: Vec<_> = node.table().entries().take(limit).map(row).collect();
    table("peers", rows, total)
}

/// `/v1/dht/records`: what is kept for others and for itself, in the order of keys. Where there is
/// more, it is what was used last.
pub(super) fn records(node: &Node, limit: usize) -> Value {
    let row = |(key, stored): (NodeId, &Stored)| {
        let mut row = summary(&stored.record);
        row["key"] = json!(key.to_string());
        row["confirmed"] = json!(stored.is_confirmed());
        row
    };
    let rows = listed(node.store(), limit).into_iter().map(row).collect();
    table("records", rows, node.store().len())
}

/// As many records as are asked for. Only these are gone through and sorted, however many there are.
fn listed(store: &Store, limit: usize) -> Vec<(NodeId, &Stored)> {
    let mut listed: Vec<_> = store.records_by_use().take(limit).collect();
    listed.sort_by_key(|(key, _)| *key);
    listed
}

fn table(name: &str, rows: Vec<Value>, total: usize) -> Value {
    let truncated = rows.len() < total;
    let mut document = json!({ "schema": SCHEMA, "total": total, "truncated": truncated });
    document[name] = Value::Array(rows);
    document
}

/// What a look-up brought.
pub(super) fn found(found: &Found, address: Option<Address>) -> Value {
    json!({
        "schema": SCHEMA,
        "key": found.target.to_string(),
        "address": address.as_ref().map(address_text::format),
        "records": found.records.iter().map(record).collect::<Vec<_>>(),
        "nodes": found.nodes.len(),
        "calls": found.calls,
        "hops": found.hops,
        "took_ms": found.took_ms,
    })
}

fn summary(record: &SignedRecord) -> Value {
    json!({
        "address": address_text::format(&record.address),
        "type": record.record_type.0,
        "kind": kind(record.record_type),
        "sequence": record.sequence,
        "timestamp": record.timestamp,
        "ttl_s": record.ttl_s,
        "payload_bytes": record.payload.len(),
    })
}

/// A record with what its payload says, as far as that is understood.
fn record(record: &SignedRecord) -> Value {
    let mut row = summary(record);
    let payload = &record.payload;
    let said = match record.record_type {
        RecordType::ENDPOINT => EndpointPayload::decode(payload).ok().map(|endpoint| {
            json!({
                "endpoints": endpoint.endpoints,
                "nat": nat_name(endpoint.nat),
                "hubs": endpoint.hubs().collect::<Vec<_>>(),
            })
        }),
        RecordType::PROFILE => ProfilePayload::decode(payload).ok().map(|profile| {
            json!({
                "name": profile.name,
                "brief": profile.brief,
                "protocols": profile.protocols,
                "skills": profile.skills,
            })
        }),
        RecordType::TOPIC => TopicPayload::decode(payload).ok().map(|topic| {
            json!({
                "topic": topic.topic,
                "name": topic.name,
                "brief": topic.brief,
                "protocols": topic.protocols,
                "tags": topic.tags,
            })
        }),
        _ => None,
    };
    row["says"] = said.unwrap_or_default();
    row["payload"] = json!(hex::encode(payload));
    row
}

fn kind(record_type: RecordType) -> &'static str {
    match record_type {
        RecordType::ENDPOINT => "endpoint",
        RecordType::PROFILE => "profile",
        RecordType::TOPIC => "topic",
        RecordType::MAILBOX => "mailbox",
        _ => "other",
    }
}

fn nat_name(nat: NatType) -> &'static str {
    match nat {
        NatType::OPEN => "open",
        NatType::RESTRICTED => "restricted",
        NatType(3) => "port_restricted",
        NatType::SYMMETRIC => "symmetric",
        _ => "unknown",
    }
}

fn texts(addresses: impl Iterator<Item = SocketAddr>) -> Vec<String> {
    addresses.map(|address| address.to_string()).collect()
}

/// The entries of `/v1/histograms` about look-ups, from the start on.
pub(crate) fn histograms(figures: &DhtFigures, started_unix_ms: u64, length_ms: u64) -> Vec<Value> {
    let outcomes = LookUpOutcome::ALL.into_iter();
    let recorded = outcomes.filter(|outcome| !figures.look_ups.durations(*outcome).is_empty());
    let entry = |outcome: LookUpOutcome| {
        let histogram = figures.look_ups.durations(outcome);
        let mut entry = Map::new();
        entry.extend([
            ("scope".to_owned(), json!("merged")),
            ("core".to_owned(), Value::Null),
            ("stage".to_owned(), json!("dht_lookup")),
            ("class".to_owned(), json!(outcome.name())),
            ("window".to_owned(), json!("total")),
            ("start_unix_ms".to_owned(), json!(started_unix_ms)),
            ("length_ms".to_owned(), json!(length_ms)),
            ("count".to_owned(), json!(histogram.len())),
            ("min_ns".to_owned(), json!(histogram.min())),
            ("mean_ns".to_owned(), json!(histogram.mean())),
            ("percentiles_ns".to_owned(), percentiles(histogram)),
            ("max_ns".to_owned(), json!(histogram.max())),
            ("buckets".to_owned(), json!(buckets(histogram))),
        ]);
        Value::Object(entry)
    };
    recorded.map(entry).collect()
}

/// Numbers for metrics; labels are reasons and outcomes, never a node.
pub(crate) fn metric_numbers(figures: &DhtFigures) -> (Vec<NodeNumber>, Vec<LabelledNumber>) {
    let statistics = &figures.statistics;
    let gauge = |name, help, value: usize| NodeNumber {
        name,
        kind: Kind::Gauge,
        help,
        value: value as u64,
    };
    let total = |name, help, value| NodeNumber { name, kind: Kind::Counter, help, value };
    let numbers = vec![
        gauge("dht_nodes", "Nodes in the table of the DHT", figures.nodes),
        gauge("dht_records", "Records kept for the DHT", figures.records),
        gauge("dht_record_memory_bytes", "Memory of these records", figures.record_bytes),
        gauge("dht_published_records", "Records that this node publishes", figures.published),
        gauge("dht_replicas", "Replicas of these at other nodes", figures.replicas),
        total("dht_verified_records", "Signatures of records verified", figures.records_verified),
        total(
            "dht_made_room_records",
            "Records that went from a full store because whoever brought them had most",
            figures.made_room,
        ),
        total("dht_received_datagrams", "Datagrams received", statistics.received),
        total("dht_verified_datagrams", "Datagrams whose signature held", statistics.verified),
        total("dht_sent_datagrams", "Datagrams sent", statistics.sent),
        total("dht_answered_questions", "Questions of this node answered", statistics.answered),
        total("dht_unanswered_questions", "Questions given up", statistics.unanswered),
        total("dht_kept_stores", "STOREs after which a record is kept", statistics.stores_kept),
        total("dht_stale_stores", "STOREs of a record that was there", statistics.stores_stale),
        total("dht_served_values", "FIND_VALUEs answered with records", statistics.values_served),
    ];
    let drops = DropReason::ALL.map(|reason| (reason.name(), statistics.dropped(reason)));
    let kernel = [("receive_buffer_full", figures.kernel_drops), ("not_sent", figures.unsent)];
    let refusals = RefusalReason::ALL.map(|why| (why.name(), statistics.refused(why)));
    let nodes = NodeRefusal::ALL.map(|why| (why.name(), statistics.nodes_refused(why)));
    let ended = LookUpOutcome::ALL
        .map(|outcome| (outcome.name(), figures.look_ups.durations(outcome).len()));
    let labelled = |name, label, help, values| LabelledNumber {
        name,
        kind: Kind::Counter,
        label,
        help,
        values,
    };
    let drops = drops.into_iter().chain(kernel).collect();
    let labelled = vec![
        labelled("dht_drops", "reason", "Datagrams of the DHT that led to nothing", drops),
        labelled("dht_refused_stores", "reason", "STOREs that were refused", refusals.to_vec()),
        labelled("dht_refused_nodes", "reason", "Nodes that were not taken in", nodes.to_vec()),
        labelled("dht_lookups", "outcome", "Look-ups that have ended", ended.to_vec()),
    ];
    (numbers, labelled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_a2al::keys::{Ed25519, SigningKey};
    use waystation_a2al::record::Unsigned;
    use waystation_a2al::store::{Origin, StoreLimits};
    use waystation_a2al::time::{Millis, UnixSeconds};

    #[test]
    fn records_that_were_used_last_are_listed_in_the_order_of_their_keys() {
        const NOW_S: u64 = 1_800_000_000;
        let mut store = Store::new(StoreLimits { keys_max: 100, bytes_max: 1 << 20 });
        let now = Now { millis: Millis(0), unix: UnixSeconds(NOW_S) };
        let mut keys = Vec::new();
        for number in 1..=5 {
            let signer = SigningKey::from_seed(&[number; 32]).unwrap();
            let key = signer.address().node_id();
            let unsigned = Unsigned {
                address: signer.address(),
                record_type: RecordType(0x20),
                payload: vec![1],
                sequence: 1,
                timestamp: NOW_S,
                ttl_s: 60,
                delegation: Vec::new(),
            };
            store.put(key, unsigned.sign(&signer), Origin::Own, &mut Ed25519, now).unwrap();
            keys.push(key);
        }
        let listed = |limit| -> Vec<NodeId> {
            listed(&store, limit).into_iter().map(|(key, _)| key).collect()
        };
        let mut last = keys.split_off(3);
        last.sort_unstable();
        assert_eq!(listed(2), last);
        last.extend(keys);
        last.sort_unstable();
        assert_eq!(listed(10), last);
        assert!(listed(0).is_empty());
    }
}

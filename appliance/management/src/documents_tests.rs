//! The JSON documents against observations whose numbers are known.

use super::*;
use crate::fixtures::{PEER, extra, listings, moment, observed, shares};

#[test]
fn every_document_names_its_schema() {
    let (observations, extra) = (observed(), extra());
    for document in [
        ready(&extra.readiness),
        status(&observations, &extra, moment(2)),
        links(&listings(), &shares(), 10),
        sessions(&listings(), 10),
        drops(&observations, &extra, false),
        histograms(&observations, &HistogramSelection::default(), moment(2)),
    ] {
        assert_eq!(document["schema"], 1, "{document}");
    }
}

#[test]
fn readiness_says_what_is_waited_for() {
    let starting = Readiness::Starting { waiting_for: "core 1".to_owned() };
    assert_eq!(
        ready(&starting),
        json!({ "schema": 1, "ready": false, "state": "starting", "waiting_for": "core 1" })
    );
    assert_eq!(ready(&Readiness::Ready), json!({ "schema": 1, "ready": true, "state": "ready" }));
    assert_eq!(ready(&Readiness::Draining)["ready"], false);
    assert_eq!(ready(&Readiness::Draining)["state"], "draining");
    assert_eq!(ready(&Readiness::Stopping)["ready"], false);
}

#[test]
fn status_tells_counters_shares_and_headroom_of_each_core() {
    let document = status(&observed(), &extra(), moment(12));
    assert_eq!(document["identity"], PEER);
    assert_eq!(document["uptime_ms"], 12_000);
    assert_eq!(document["started_unix_ms"], 1_700_000_000_000_u64);
    let interval =
        json!({ "sequence": 2, "start_unix_ms": 1_700_000_001_000_u64, "length_ms": 1000 });
    assert_eq!(document["interval"], interval);
    let core = &document["cores"][1];
    assert_eq!(core["core"], 1);
    assert_eq!(core["cpu"], 3);
    assert_eq!(core["port"], "io_uring");
    assert_eq!(core["busy_share"], 0.5);
    let waiting = json!({ "mode": "gather", "spin_share": 0.0, "gather_share": 0.25 });
    assert_eq!(core["waiting"], waiting);
    assert_eq!(document["cores"][0]["waiting"]["mode"], "sleep");
    assert_eq!(core["counters"]["frames_in"], 2000);
    assert_eq!(core["interval"]["frames_in"], 1000);
    assert_eq!(core["interval"].get("links_open"), None, "a gauge does not grow");
    assert_eq!(core["headroom"]["busy_share"], 0.5);
    assert_eq!(core["headroom"]["more_traffic_ratio"], 1.0);
    assert_eq!(document["cores"][0]["headroom"]["more_traffic_ratio"], 3.0);
    // 500 arrivals of one record of 2048 B, at 2 us and 2 ns each; 200 ms for each core.
    let efficiency = &document["cores"][0]["efficiency"];
    let ratio = efficiency["ratio"].as_f64().unwrap();
    assert!((ratio - 3_048_000.0 / 200e6).abs() < 1e-9, "{ratio}");
    assert_eq!(efficiency["cost_ns_per_kib"], 200_000.0);
    assert_eq!(efficiency["floor_ns_per_kib"], 3048.0);
    assert_eq!(core["efficiency"]["cost_ns_per_kib"], 400_000.0);
    let limited = json!({
        "peer_not_reading": 0, "quota": 0, "credit": 1, "core": 0, "sender_idle": 2,
    });
    assert_eq!(core["limited_links"], limited);
    assert_eq!(document["totals"]["limited_links"]["sender_idle"], 4);
    let floor = &document["floor"];
    assert_eq!((&floor["source"], &floor["suite"]), (&json!("cached"), &json!("ring")));
    let second = json!({ "bytes": 1024, "forward_ns": 2024.0, "sealed_ns": 4048.0 });
    assert_eq!(floor["arrivals"][1], second);
    assert_eq!(core["headroom"]["links"], json!({ "free": 97, "of": 100 }));
    assert_eq!(core["headroom"]["receive_buffers"], json!({ "free": 31, "of": 32 }));
    assert_eq!(core["counters"].as_object().unwrap().len(), FIELDS.len());
    assert_eq!(document["totals"]["counters"]["payload_bytes_in"], 4_096_000);
    assert_eq!(document["totals"]["interval"]["payload_bytes_in"], 2_048_000);
    assert_eq!(document["totals"]["busy_share_max"], 0.5);
    assert_eq!(document["gateway"]["registrations"], 3);
    assert_eq!(document["drops"], json!({ "credit_overflow": 2, "unknown_query": 1 }));
}

#[test]
fn status_tells_queries_and_where_peers_see_this_node() {
    let document = status(&observed(), &extra(), moment(12));
    let queries = json!({
        "prepared": 1, "preparations_expired_total": 2, "relayed_total": 3, "forwarded_total": 4,
        "migrated_total": 5, "listings_waiting": 6, "deliveries": 7, "reflections": 8,
    });
    assert_eq!(document["queries"], queries);
    let seen = json!([
        { "address": "203.0.113.7", "peers": 3, "last_unix_ms": moment(1).unix_ms() },
    ]);
    assert_eq!(document["observed_addresses"], seen);
}

#[test]
fn status_before_the_first_report_has_no_shares() {
    let document = status(&Observations::new(1, moment(0)), &extra(), moment(0));
    assert_eq!(document["cores"][0]["busy_share"], Value::Null);
    assert_eq!(document["cores"][0]["headroom"]["busy_share"], Value::Null);
    let unknown = json!({ "ratio": null, "cost_ns_per_kib": null, "floor_ns_per_kib": null });
    assert_eq!(document["cores"][0]["efficiency"], unknown);
    assert_eq!(document["cores"][0]["headroom"]["more_traffic_ratio"], Value::Null);
    assert_eq!(document["totals"]["busy_share_max"], Value::Null);
    assert_eq!(document["interval"]["sequence"], 0);
}

#[test]
fn efficiency_is_unknown_without_a_floor() {
    let document = status(&observed(), &StatusExtra { floor: None, ..extra() }, moment(12));
    assert_eq!(document["floor"], Value::Null);
    assert_eq!(document["cores"][0]["efficiency"]["ratio"], Value::Null);
    assert_eq!(document["cores"][0]["headroom"]["more_traffic_ratio"], 3.0);
}

#[test]
fn links_are_rows_with_tags_and_identities_as_text() {
    let document = links(&listings(), &shares(), 10);
    assert_eq!(document["total"], 9);
    assert_eq!(document["truncated"], true);
    assert_eq!(document["cores_missing"], json!([1]));
    let row = &document["links"][1];
    assert_eq!(row["link"], "0.2.7");
    assert_eq!(row["identity"], PEER);
    assert_eq!(row["profile"], "p4");
    assert_eq!(row["link_id"], "0000000000000abc");
    assert_eq!(row["remote"], "192.0.2.7:4242");
    assert_eq!(row["ping_ns"], Value::Null, "no ping yet");
    assert_eq!(row["same_core_share"], 0.75);
    assert_eq!(document["links"][0]["same_core_share"], Value::Null, "no traffic");
    assert_eq!(links(&listings(), &shares(), 1)["links"].as_array().unwrap().len(), 1);
}

#[test]
fn sessions_on_links_have_a_nonce_and_sockets_have_none() {
    let document = sessions(&listings(), 10);
    assert_eq!(document["truncated"], false);
    assert_eq!(document["sessions"][0]["nonce"], "00112233445566ff");
    assert_eq!(document["sessions"][0]["kind"], "caller");
    assert_eq!(document["sessions"][0]["link"], "0.1.7");
    assert_eq!(document["sessions"][1]["nonce"], Value::Null);
    assert_eq!(document["sessions"][1]["link"], Value::Null);
    assert_eq!(document["sessions"][1]["kind"], "socket");
}

#[test]
fn drops_are_counted_per_reason_and_place() {
    let document = drops(&observed(), &extra(), false);
    assert_eq!(document["events"], 3);
    assert_eq!(document["bytes"], 1401);
    let names: Vec<_> =
        document["reasons"].as_array().unwrap().iter().map(|entry| &entry["reason"]).collect();
    assert_eq!(names, ["credit_overflow", "unknown_query"]);
    assert_eq!(
        document["reasons"][0]["cores"],
        json!([{ "core": 0, "events": 1, "bytes": 700 }, { "core": 1, "events": 1, "bytes": 701 }])
    );
    assert_eq!(document["reasons"][1]["management"], json!({ "events": 1, "bytes": 0 }));
}

#[test]
fn all_drop_reasons_are_shown_on_request() {
    let document = drops(&observed(), &extra(), true);
    assert_eq!(document["reasons"].as_array().unwrap().len(), DropReason::COUNT);
}

#[test]
fn histograms_are_selected_by_stage_class_scope_and_window() {
    let observations = observed();
    let count = |selection: HistogramSelection| {
        histograms(&observations, &selection, moment(2))["histograms"].as_array().unwrap().len()
    };
    let any = HistogramSelection::default();
    assert_eq!(count(any), 18);
    assert_eq!(count(HistogramSelection { window: Some(Window::Interval), ..any }), 9);
    assert_eq!(count(HistogramSelection { scope: Some(Scope::Merged), ..any }), 6);
    assert_eq!(count(HistogramSelection { scope: Some(Scope::Core(CoreId(1))), ..any }), 6);
    assert_eq!(count(HistogramSelection { stage: Some(Stage::Turn), ..any }), 6);
    assert_eq!(count(HistogramSelection { class: Some(TrafficClass::Data), ..any }), 12);
    assert_eq!(count(HistogramSelection { stage: Some(Stage::Handshake), ..any }), 0);
}

#[test]
fn distribution_and_buckets_count_every_value_once() {
    let document = histograms(&observed(), &HistogramSelection::default(), moment(2));
    for entry in document["histograms"].as_array().unwrap() {
        let count = entry["count"].as_u64().unwrap();
        let buckets = entry["buckets"].as_array().unwrap();
        assert_eq!(buckets.iter().map(|bucket| bucket[1].as_u64().unwrap()).sum::<u64>(), count);
        let points = entry["distribution"].as_array().unwrap();
        assert_eq!(points.last().unwrap()[0], 1.0);
        assert_eq!(points.last().unwrap()[1], entry["max_ns"]);
        assert_eq!(points.last().unwrap()[2], count);
        assert!(points.is_sorted_by_key(|point| point[1].as_u64()));
        let percentiles = entry["percentiles_ns"].as_object().unwrap();
        let ordered: Vec<_> =
            PERCENTILES.iter().map(|(name, _)| percentiles[*name].as_u64()).collect();
        assert!(ordered.is_sorted() && ordered.len() == percentiles.len());
    }
}

#[test]
fn capacity_is_that_of_the_configuration() {
    let capacity = CoreCapacity::from(&Config::default());
    assert_eq!(capacity.links_max, 20_000);
    assert_eq!(capacity.queue_bytes_max, 256 * 1024 * 1024);
}

#[test]
fn status_says_what_seals_records_and_why() {
    let document = status(&observed(), &extra(), moment(12));
    let aead = &document["aead"];
    assert_eq!((&aead["suite"], &aead["choice"]), (&json!("ring"), &json!("measured")));
    let measured = aead["measured"].as_array().unwrap();
    assert_eq!(measured.len(), 2);
    assert_eq!(measured[0]["backend"], "ring");
    assert_eq!(measured[0]["seal_and_open_ns"]["16384"], 7);
    let refused = json!({
        "backend": "openssl",
        "unusable": "its library refuses ChaCha20-Poly1305",
    });
    assert_eq!(measured[1], refused);
}

#[test]
fn status_says_when_the_operator_chose() {
    let mut extra = extra();
    extra.aead.forced = true;
    assert_eq!(status(&observed(), &extra, moment(12))["aead"]["choice"], "configured");
}

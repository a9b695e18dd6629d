//! The text of the sub-commands, from documents written by hand.

use super::*;
use crate::limits::TERMINAL_COLUMNS;
use serde_json::json;

fn assert_fits(text: &str) {
    for line in text.lines().filter(|line| !line.starts_with("node1")) {
        assert!(
            line.chars().count() <= TERMINAL_COLUMNS,
            "{} columns: {line}",
            line.chars().count()
        );
    }
    assert!(text.ends_with('\n'));
}

fn link(number: u64, remote: &str) -> Value {
    json!({
        "link": format!("12.{number}.7"),
        "identity": "02".to_owned() + &"ab".repeat(32),
        "profile": "p4",
        "remote": remote,
        "inner": false,
        "sessions": 20_000,
        "bytes_in": u64::MAX,
        "bytes_out": 1_234_567,
        "queued_bytes": 0,
        "ping_ns": null,
        "idle_ns": 59_999_999_999_u64,
        "same_core_share": if number == 1 { json!(1.0) } else { Value::Null },
        "limited_by": { "cause": "peer_not_reading" },
    })
}

#[test]
fn links_fit_the_terminal_whatever_the_addresses() {
    let document = json!({
        "total": 2, "truncated": false, "cores_missing": [],
        "links": [
            link(1, "192.0.2.1:1791"),
            link(19_999, "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"),
        ],
    });
    let text = links(&document);
    assert_fits(&text);
    assert!(text.starts_with("LINK"), "{text}");
    assert!(text.contains("12.1.7"), "{text}");
    assert!(text.contains("02ababab"), "{text}");
    assert!(text.contains("192.0.2.1"), "{text}");
    assert!(text.lines().nth(1).unwrap().ends_with(" 100% peer"), "{text}");
    assert!(text.lines().nth(2).unwrap().ends_with("    - peer"), "{text}");
    assert!(text.ends_with("2 links\n"), "{text}");
}

#[test]
fn truncated_listing_and_missing_cores_are_said() {
    let document = json!({
        "total": 70_000, "truncated": true, "cores_missing": [1, 3], "links": [link(1, "[::1]:2")],
    });
    let text = links(&document);
    assert!(text.contains("1 of 70.0k links shown\nno answer from core 1, 3\n"), "{text}");
}

#[test]
fn sessions_show_where_credit_and_queue_stand() {
    let document = json!({
        "total": 2, "truncated": false, "cores_missing": [],
        "sessions": [
            {
                "leg": "0.12345.67", "link": "0.1.2", "nonce": "00112233445566ff", "kind": "target",
                "identity": "03".to_owned() + &"cd".repeat(32), "age_ns": 61_000_000_000_u64,
                "bytes_in": 1023, "bytes_out": 12_600, "queued_bytes": 1_048_576,
                "send_credit_bytes": 0, "limited_by": { "cause": "credit" },
            },
            {
                "leg": "0.2.1", "link": null, "nonce": null, "kind": "socket",
                "identity": "00".repeat(33), "age_ns": 5, "bytes_in": 1, "bytes_out": 2,
                "queued_bytes": 3, "send_credit_bytes": 4,
            },
        ],
    });
    let text = sessions(&document);
    assert_fits(&text);
    let row: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..3], ["0.12345.67", "target", "03cdcdcd"]);
    assert!(row[3].starts_with("00112233"), "{text}");
    assert_eq!(row[4..], ["1.02min", "1023B", "12.3KiB", "1.0MiB", "0B", "credit"]);
    assert!(text.lines().nth(2).unwrap().contains("socket"), "{text}");
}

#[test]
fn drops_come_with_the_most_frequent_first_and_where_they_happened() {
    let document = json!({
        "events": 12, "bytes": 5,
        "reasons": [
            {
                "reason": "mesh_full", "events": 2, "bytes": 5,
                "cores": [{"core": 0, "events": 2}, {"core": 1, "events": 0}],
                "management": {"events": 0, "bytes": 0},
            },
            {
                "reason": "unknown_query", "events": 10, "bytes": 0,
                "cores": [{"core": 0, "events": 0}, {"core": 1, "events": 9}],
                "management": {"events": 1, "bytes": 0},
            },
        ],
    });
    let text = drops(&document);
    assert_fits(&text);
    let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["unknown_query", "10", "0B", "1:9", "management:1"]);
    assert_eq!(lines[2], ["mesh_full", "2", "5B", "0:2"]);
}

#[test]
fn no_drops_is_a_sentence() {
    assert_eq!(drops(&json!({ "reasons": [] })), "nothing was dropped since the start\n");
}

fn status_document() -> Value {
    json!({
        "version": "0.1.0",
        "identity": "02".to_owned() + &"ab".repeat(32),
        "node_info": "node1".to_owned() + &"q".repeat(150),
        "listen": ["0.0.0.0:1791"],
        "readiness": { "state": "starting", "waiting_for": "core 1" },
        "uptime_ms": 11_520_000,
        "interval": { "length_ms": 500 },
        "cores": [
            {
                "core": 0, "cpu": 2, "port": "io_uring", "busy_share": 0.4567,
                "waiting": { "mode": "gather", "spin_share": 0.0, "gather_share": 0.5 },
                "silent_intervals": 0,
                "efficiency": {
                    "ratio": 0.87, "cost_ns_per_kib": 410.0, "floor_ns_per_kib": 357.0,
                },
                "same_core_share": 0.98,
                "counters": {
                    "links_open": 20_000, "sessions_open": 400_000, "pipes_open": 7,
                    "half_open": 4096, "queued_bytes": 268_435_456,
                },
                "headroom": {
                    "busy_share": 0.244, "more_traffic_ratio": 3.098,
                    "receive_buffers": { "free": 30, "of": 32 },
                },
            },
            { "core": 1, "port": "", "silent_intervals": 9, "counters": {}, "headroom": {} },
        ],
        "totals": {
            "limited_links": { "credit": 2, "sender_idle": 17, "quota": 0, "core": 2 },
            "counters": { "payload_bytes_in": 4096, "pipe_bytes": 99, "links_moved_out": 12 },
            "interval": {
                "payload_bytes_in": 1024, "same_core_bytes": 768, "cross_core_bytes": 256,
            },
        },
        "gateway": { "registrations": 3, "idle_sockets": 12, "reservations": 1, "joins_total": 5 },
        "queries": {
            "relayed_total": 1234, "forwarded_total": 17, "migrated_total": 2, "prepared": 6,
        },
        "observed_addresses": [
            { "address": "203.0.113.7", "peers": 3 },
            { "address": "2001:db8:1111:2222:3333:4444:5555:6666", "peers": 1 },
        ],
        "floor": {
            "source": "cached",
            "arrivals": [{ "bytes": 1024, "forward_ns": 3900.0, "sealed_ns": 5300.0 }],
        },
        "drops": { "mesh_full": 2, "unknown_query": 1 },
    })
}

#[test]
fn status_shows_state_cores_rates_and_node_info() {
    let text = status(&status_document());
    assert_fits(&text);
    assert!(
        text.starts_with("waystation 0.1.0  starting  up 3.20h\nwaiting for core 1\n"),
        "{text}"
    );
    let core = text.lines().find(|line| line.contains("io_uring")).unwrap();
    let core: Vec<_> = core.split_whitespace().collect();
    let cells =
        ["0", "2", "io_uring", "45.7%", "20.0k", "400k", "7", "4.1k", "256MiB", "30/32", "gather"];
    assert_eq!(core, cells);
    let room = text.lines().skip_while(|line| !line.contains("HEADROOM")).nth(1).unwrap();
    let room: Vec<_> = room.split_whitespace().collect();
    assert_eq!(room, ["0", "+3.1x", "24.4%", "87.0%", "410ns/KiB", "357ns/KiB", "98.0%"]);
    assert!(text.contains("limited    links: 17 by sender, 2 by core, 2 by credit\n"), "{text}");
    assert!(text.contains("floor      as measured at an earlier start"), "{text}");
    assert!(text.contains("           1.0KiB     3.90us, 5.30us\n"), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("   1") && line.ends_with("silent")),
        "{text}"
    );
    let payload = text.lines().find(|line| line.starts_with("payload")).unwrap();
    let payload: Vec<_> = payload.split_whitespace().collect();
    assert_eq!(payload, ["payload", "2.0KiB/s", "-", "4.0KiB", "-"]);
    let placement = "placement  75.0% of payload stays on its core, 12 links moved since the start";
    assert!(text.contains(placement), "{text}");
    assert!(text.contains("3 registered, 12 idle sockets, 1 reserved, 5 joined"), "{text}");
    let queries = "queries    1.2k relayed, 17 forwarded, 2 sessions moved, 6 prepared\n";
    assert!(text.contains(queries), "{text}");
    assert!(text.contains("\nseen at    203.0.113.7 by 3 of the peers dialed\n"), "{text}");
    assert!(text.contains("\nseen at    2001:db8:1111"), "{text}");
    assert!(text.contains("dropped    3 events"), "{text}");
    assert!(text.ends_with(&("node1".to_owned() + &"q".repeat(150) + "\n")), "{text}");
}

fn histogram_document() -> Value {
    let entry = |scope: &str, core: Value, window: &str, stage: &str| {
        json!({
            "scope": scope, "core": core, "stage": stage, "class": "data", "window": window,
            "count": 1111, "length_ms": 2500,
            "percentiles_ns": {
                "p50": 1_010, "p90": 20_100, "p99": 999_999, "p999": 1_500_000, "p9999": 2_000_000,
            },
            "max_ns": 60_000_000_000_u64,
            "buckets": [[2_000, 1000], [10_000, 110], [null, 1]],
        })
    };
    json!({
        "histograms": [
            entry("merged", Value::Null, "interval", "residence"),
            entry("core", json!(0), "interval", "residence"),
            entry("merged", Value::Null, "total", "residence"),
            entry("merged", Value::Null, "total", "turn"),
            entry("core", json!(0), "total", "residence"),
        ],
    })
}

#[test]
fn histogram_prints_percentiles_and_a_plot_per_stage() {
    let text = histogram(&histogram_document(), None);
    assert_fits(&text);
    let lines: Vec<_> = text.lines().collect();
    let row: Vec<_> = lines[1].split_whitespace().collect();
    let cells =
        ["residence", "data", "1.1k", "1.01us", "20.1us", "1.00ms", "1.50ms", "2.00ms", "1.00min"];
    assert_eq!(row, cells);
    assert!(lines[2].starts_with("turn"), "{text}");
    assert_eq!(lines[4], "residence data: 1.1k in 2.5 s, bars are logarithmic");
    assert!(lines[5].starts_with(" <= 2.00us |####"), "{text}");
    assert!(lines[5].ends_with("1.0k  90.0%"), "{text}");
    // The empty bucket between 2 and 10 microseconds is there, without a bar.
    assert!(lines[6].starts_with(" <= 5.00us | "), "{text}");
    let bar = |line: &str| line.matches('#').count();
    assert!(bar(lines[5]) > bar(lines[7]), "{text}");
    let longer = lines.iter().find(|line| line.starts_with("    longer |")).unwrap();
    assert!(bar(longer) >= 1, "one value of a thousand is visible: {text}");
}

#[test]
fn histogram_of_one_stage_shows_no_other() {
    let text = histogram(&histogram_document(), Some("turn"));
    assert!(text.contains("turn") && !text.contains("residence"), "{text}");
    let text = histogram(&histogram_document(), Some("handshake"));
    assert_eq!(text, "nothing was recorded for stage handshake so far\n");
}

#[test]
fn histogram_of_single_cores_names_them() {
    let mut document = histogram_document();
    document["histograms"].as_array_mut().unwrap().retain(|entry| entry["scope"] == "core");
    let text = histogram(&document, None);
    assert_fits(&text);
    assert!(text.starts_with("CORE STAGE"), "{text}");
    assert!(text.contains("core 0 residence data:"), "{text}");
}

#[test]
fn documents_of_another_shape_do_not_make_rendering_panic() {
    let shapes = [
        json!(null),
        json!([]),
        json!({}),
        json!({ "links": [null, 3], "sessions": [{}], "reasons": [[]], "cores": [1] }),
        json!({ "histograms": [{}, { "buckets": [[1], [], ["x", 1], [5, 7], 4] }] }),
        json!({ "histograms": 7, "links": {}, "version": "a\u{1b}[31mb" }),
    ];
    for shape in shapes {
        for text in [
            status(&shape),
            links(&shape),
            sessions(&shape),
            drops(&shape),
            histogram(&shape, None),
            histogram(&shape, Some("turn")),
        ] {
            assert_fits(&text);
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
    }
}

#[test]
fn cipher_is_shown_with_the_figures_it_was_chosen_by() {
    let mut document = status_document();
    document["aead"] = json!({
        "suite": "ring+openssl:2048",
        "choice": "measured",
        "measured": [
            {
                "backend": "ring",
                "seal_and_open_ns": { "2": 310, "512": 700, "1024": 1_100, "16384": 12_400 },
            },
            { "backend": "openssl", "unusable": "it disagrees with ring" },
            { "backend": "another" },
        ],
    });
    let text = status(&document);
    assert_fits(&text);
    let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("cipher")).collect();
    let expected = [
        "cipher     ring+openssl:2048, the cheapest measured; seal and open:",
        "           ring       310ns for 2 B, 1.10us for 1 KiB, 12.4us for 16 KiB",
        "           openssl    it disagrees with ring",
        "           another    -",
    ];
    assert_eq!(lines[..4], expected);
}

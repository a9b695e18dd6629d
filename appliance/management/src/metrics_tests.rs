//! The OpenMetrics text against observations whose numbers are known.

use super::*;
use crate::fixtures::{PEER, extra, moment, observed};
use std::collections::{BTreeMap, BTreeSet};

fn metrics() -> String {
    text(&observed(), &extra(), moment(2)).unwrap()
}

/// Name, labels and value of every series.
fn series(text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (head, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
            let labels = labels.strip_suffix('}').unwrap().split(',').filter(|l| !l.is_empty());
            let labels = labels.map(|label| {
                let (name, value) = label.split_once('=').unwrap();
                (name.to_owned(), value.trim_matches('"').to_owned())
            });
            (name.to_owned(), labels.collect(), value.parse().unwrap())
        })
        .collect()
}

fn value(name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: BTreeMap<_, _> =
        labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let all = series(&metrics());
    let found = all.iter().find(|(n, l, _)| n == name && *l == wanted);
    found.map(|(_, _, value)| *value)
}

#[test]
fn text_ends_with_eof_and_nothing_after() {
    let text = metrics();
    assert!(text.ends_with("\n# EOF\n"));
    assert_eq!(text.matches("# EOF").count(), 1);
}

#[test]
fn every_family_is_unique_well_formed_and_described() {
    let text = metrics();
    let types: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let names: BTreeSet<_> = types.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names.len(), types.len(), "each family once");
    for name in &names {
        assert!(name.starts_with("waystation_"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert!(!name.contains("__") && !name.ends_with("_total"), "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
    for unit in text.lines().filter_map(|line| line.strip_prefix("# UNIT ")) {
        let (name, unit) = unit.split_once(' ').unwrap();
        assert!(name.ends_with(&format!("_{unit}")), "{name} {unit}");
    }
}

#[test]
fn every_series_belongs_to_a_family_with_the_suffix_of_its_type() {
    let text = metrics();
    let types: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut seen = BTreeSet::new();
    for (name, labels, _) in series(&text) {
        assert!(seen.insert((name.clone(), labels.clone())), "{name} {labels:?} twice");
        let known = types.iter().any(|(family, kind)| match *kind {
            "counter" => name == format!("{family}_total"),
            "info" => name == format!("{family}_info"),
            "gauge" => name == *family,
            "histogram" => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| name == format!("{family}{suffix}")),
            other => panic!("{other}"),
        });
        assert!(known, "{name}");
    }
}

#[test]
fn labels_are_bounded_and_never_a_peer() {
    let text = metrics();
    assert!(!text.contains(PEER) && !text.contains(&PEER[..16]));
    for (name, labels, _) in series(&text) {
        for label in labels.keys().map(String::as_str) {
            let allowed = match name.as_str() {
                "waystation_aead_info" => &["suite", "choice"][..],
                "waystation_build_info" => &["version"],
                "waystation_stage_duration_seconds_bucket" => &["stage", "class", "le"],
                "waystation_links_limited" => &["cause"],
                _ => &["core", "reason", "stage", "class", "port", "outcome", "kind", "network"],
            };
            assert!(allowed.contains(&label), "{name} {label}");
        }
    }
}

#[test]
fn counters_are_those_that_were_observed() {
    assert_eq!(value("waystation_core_received_frames_total", &[("core", "1")]), Some(2000.0));
    assert_eq!(value("waystation_core_busy_seconds_total", &[("core", "1")]), Some(1.0));
    assert_eq!(
        value("waystation_core_payload_received_bytes_total", &[("core", "0")]),
        Some(2_048_000.0)
    );
    assert_eq!(value("waystation_core_open_links", &[("core", "0")]), Some(3.0));
    assert_eq!(value("waystation_core_busy_ratios", &[("core", "1")]), Some(0.5));
    assert_eq!(value("waystation_core_headroom_ratio", &[("core", "0")]), Some(3.0));
    let efficiency = value("waystation_core_efficiency_ratio", &[("core", "0")]).unwrap();
    assert!((efficiency - 3_048_000.0 / 200e6).abs() < 1e-9, "{efficiency}");
    assert_eq!(value("waystation_core_info", &[("core", "0"), ("port", "io_uring")]), Some(1.0));
    assert_eq!(value("waystation_core_gathering_seconds_total", &[("core", "1")]), Some(0.5));
    assert_eq!(value("waystation_registrations", &[]), Some(3.0));
    assert_eq!(value("waystation_config_reloads_total", &[("outcome", "applied")]), Some(2.0));
    assert_eq!(value("waystation_config_reloads_total", &[("outcome", "refused")]), Some(1.0));
    assert_eq!(value("waystation_links", &[("network", "gw")]), Some(0.0));
    assert_eq!(value("waystation_joined_sockets_total", &[]), Some(4.0));
    for (name, wanted) in [
        ("prepared_queries", 1.0),
        ("expired_preparations_total", 2.0),
        ("relayed_queries_total", 3.0),
        ("forwarded_queries_total", 4.0),
        ("migrated_sessions_total", 5.0),
        ("waiting_listings", 6.0),
        ("open_deliveries", 7.0),
        ("open_reflections", 8.0),
        ("observed_addresses", 1.0),
    ] {
        assert_eq!(value(&format!("waystation_{name}"), &[]), Some(wanted), "{name}");
    }
    assert_eq!(value("waystation_ready", &[]), Some(1.0));
    assert_eq!(value("waystation_uptime_seconds", &[]), Some(2.0));
    let aead = [("suite", "ring"), ("choice", "measured")];
    assert_eq!(value("waystation_aead_info", &aead), Some(1.0));
    assert_eq!(value("waystation_build_info", &[("version", "0.1.0")]), Some(1.0));
}

#[test]
fn drops_are_labelled_by_core_and_reason() {
    let labels = [("core", "1"), ("reason", "credit_overflow")];
    assert_eq!(value("waystation_drop_events_total", &labels), Some(1.0));
    assert_eq!(value("waystation_dropped_bytes_total", &labels), Some(701.0));
    let labels = [("core", "management"), ("reason", "unknown_query")];
    assert_eq!(value("waystation_drop_events_total", &labels), Some(1.0));
}

#[test]
fn duration_buckets_are_cumulative_and_end_with_the_count() {
    let all = series(&metrics());
    let of = |suffix: &str| {
        let name = format!("waystation_stage_duration_seconds{suffix}");
        let wanted = |labels: &BTreeMap<String, String>| labels["stage"] == "open_to_seal";
        all.iter().filter(|(n, l, _)| *n == name && wanted(l)).cloned().collect::<Vec<_>>()
    };
    let buckets = of("_bucket");
    assert_eq!(buckets.len(), BUCKET_BOUNDS_NS.len() + 1);
    assert!(buckets.is_sorted_by(|one, next| one.2 <= next.2));
    let last = buckets.last().unwrap();
    assert_eq!(last.1["le"], "+Inf");
    assert_eq!(last.2, of("_count")[0].2);
    assert_eq!(last.2, 4000.0);
    let bounds: Vec<f64> =
        buckets.iter().take(27).map(|bucket| bucket.1["le"].parse().unwrap()).collect();
    assert_eq!(bounds[0], 1e-7);
    assert_eq!(bounds[26], 50.0);
    assert!(of("_sum")[0].2 > 0.0);
}

#[test]
fn node_without_reports_has_metrics_too() {
    let observations = Observations::new(2, moment(0));
    let text = text(&observations, &extra(), moment(0)).unwrap();
    assert!(text.contains("waystation_core_turns_total{core=\"1\"} 0\n"));
    assert!(!text.contains("waystation_core_info{"));
    assert!(!text.contains("waystation_core_busy_ratios{"));
}

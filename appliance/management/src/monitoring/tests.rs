//! What is written for others to ask names nothing that is not there.

use super::alerts::RULES;
use super::{alert_rules, dashboard};
use crate::metric_families::{FamilyKind, families};
use serde_json::Value;
use std::collections::BTreeSet;
use waystation_engine::statistics::{Stage, TrafficClass};
use waystation_relay::drop_reason::DropReason;

fn series() -> BTreeSet<String> {
    families().unwrap().iter().flat_map(|family| family.series()).collect()
}

/// The names of our metrics in a query.
fn named(query: &str) -> BTreeSet<String> {
    query
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("waystation_"))
        .map(str::to_owned)
        .collect()
}

fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_query_of_the_dashboard_names_a_metric_that_there_is() {
    let dashboard: Value = serde_json::from_str(&dashboard().unwrap()).unwrap();
    let series = series();
    for query in queries(&dashboard) {
        let named = named(&query);
        assert!(!named.is_empty(), "{query}");
        assert!(named.is_subset(&series), "{query} names what there is not");
        // Every placeholder has been filled in.
        assert!(
            !query.contains("$i}") && !query.contains("$i,") && !query.contains("$r]"),
            "{query}"
        );
        assert!(query.contains("instance=~\"$instance\""), "{query} is of every instance");
    }
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let dashboard: Value = serde_json::from_str(&dashboard().unwrap()).unwrap();
    let shown: BTreeSet<String> =
        queries(&dashboard).iter().flat_map(|query| named(query)).collect();
    for family in families().unwrap().iter().filter(|family| family.kind != FamilyKind::Info) {
        let is_shown = family.series().iter().any(|series| shown.contains(series));
        assert!(is_shown, "{} is not shown", family.name);
    }
}

#[test]
fn panels_lie_within_the_grid_and_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&dashboard().unwrap()).unwrap();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()));
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        for place in (x..x + w).flat_map(|column| (y..y + h).map(move |row| (column, row))) {
            assert!(taken.insert(place), "{} lies on another panel", panel["title"]);
        }
    }
}

#[test]
fn every_alert_names_metrics_reasons_and_stages_that_there_are() {
    let series = series();
    let reasons: BTreeSet<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    let mut names = BTreeSet::new();
    for rule in RULES {
        assert!(names.insert(rule.name), "{} twice", rule.name);
        let named = named(rule.when);
        assert!(!named.is_empty() && named.is_subset(&series), "{}", rule.name);
        assert!(rule.lasting.trim_end_matches('m').parse::<u32>().is_ok(), "{}", rule.name);
        for value in label_values(rule.when, "reason") {
            assert!(reasons.contains(value.as_str()), "{}: no reason {value}", rule.name);
        }
        for value in label_values(rule.when, "stage") {
            assert!(Stage::ALL.iter().any(|stage| stage.name() == value), "{}", rule.name);
        }
        for value in label_values(rule.when, "class") {
            assert!(TrafficClass::ALL.iter().any(|class| class.name() == value), "{}", rule.name);
        }
    }
    let text = alert_rules();
    assert_eq!(text.matches("- alert: ").count(), RULES.len());
    assert!(text.lines().all(|line| !line.contains('\t')));
}

/// The values that a query wants of a label.
fn label_values(query: &str, label: &str) -> Vec<String> {
    let start = format!("{label}=");
    let found = query.split(start.as_str()).skip(1);
    found
        .filter_map(|rest| rest.trim_start_matches('~').strip_prefix('"')?.split('"').next())
        .flat_map(|values| values.split('|').map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn every_alert_refers_to_a_section_of_the_documentation() {
    let page = include_str!("../../../../docs/operating.md");
    let sections: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|title| title.to_lowercase().replace([',', '`', '\''], "").replace(' ', "-"))
        .collect();
    for rule in RULES {
        assert!(sections.contains(rule.section), "{}: no section {}", rule.name, rule.section);
    }
}

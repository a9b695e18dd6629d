//! The interval log, read back with the crate's own reader.

use super::*;
use crate::documents::{self, HistogramSelection, PERCENTILES};
use crate::fixtures::{moment, observed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use waystation_relay::ids::CoreId;

struct Line {
    start: Duration,
    length: Duration,
    histogram: Histogram<u64>,
}

/// Reads a log with the crate's own reader; every line that is not a comment must be understood.
fn read(log: &[u8]) -> (Vec<Duration>, BTreeMap<String, Line>) {
    let mut times = Vec::new();
    let mut lines = BTreeMap::new();
    for entry in IntervalLogIterator::new(log) {
        match entry.unwrap() {
            LogEntry::StartTime(time) | LogEntry::BaseTime(time) => times.push(time),
            LogEntry::Interval(interval) => {
                let bytes = STANDARD.decode(interval.encoded_histogram()).unwrap();
                let histogram = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                let (start, length) = (interval.start_timestamp(), interval.duration());
                let line = Line { start, length, histogram };
                let tag = interval.tag().unwrap().as_str().to_owned();
                assert!(lines.insert(tag, line).is_none(), "each tag once");
            }
        }
    }
    (times, lines)
}

fn all(window: Window) -> LogSelection {
    LogSelection { window, ..LogSelection::default() }
}

#[test]
fn log_is_accepted_by_the_crates_own_reader_and_agrees_with_json() {
    let observations = observed();
    for (window, start_s, length_s) in [(Window::Total, 0, 2), (Window::Interval, 1, 1)] {
        let log = write_log(&observations, &all(window), moment(2)).unwrap();
        let (times, lines) = read(&log);
        assert_eq!(times, [Duration::from_secs(1_700_000_000); 2]);
        let selection = HistogramSelection { window: Some(window), ..Default::default() };
        let document = documents::histograms(&observations, &selection, moment(2));
        let entries = document["histograms"].as_array().unwrap();
        assert_eq!(entries.len(), 9, "three histograms of two cores, and merged");
        assert_eq!(entries.len(), lines.len());
        for entry in entries {
            let line = &lines[&tag_of(entry)];
            assert_eq!(line.start, Duration::from_secs(start_s));
            assert_eq!(line.length, Duration::from_secs(length_s));
            assert_same(entry, &line.histogram);
        }
    }
}

fn tag_of(entry: &Value) -> String {
    let scope = match entry["core"].as_u64() {
        Some(core) => format!("core{core}"),
        None => "merged".to_owned(),
    };
    format!("{scope}.{}.{}", entry["stage"].as_str().unwrap(), entry["class"].as_str().unwrap())
}

fn assert_same(entry: &Value, histogram: &Histogram<u64>) {
    assert_eq!(entry["count"], json!(histogram.len()));
    assert_eq!(entry["min_ns"], json!(histogram.min()));
    assert_eq!(entry["max_ns"], json!(histogram.max()));
    assert_eq!(entry["mean_ns"], json!(histogram.mean()));
    for (name, quantile) in PERCENTILES {
        let value = histogram.value_at_quantile(quantile);
        assert_eq!(entry["percentiles_ns"][name], json!(value), "{name}");
    }
}

#[test]
fn logged_histograms_equal_those_observed() {
    let observations = observed();
    let log = write_log(&observations, &all(Window::Total), moment(2)).unwrap();
    let (_, lines) = read(&log);
    for scope in observations.scopes() {
        for stage in Stage::ALL {
            for class in TrafficClass::ALL {
                let own = observations.histogram(scope, Window::Total, stage, class).unwrap();
                let logged = lines.get(&tag(scope, stage, class)).map(|line| &line.histogram);
                assert_eq!(logged, Some(own).filter(|own| !own.is_empty()));
            }
        }
    }
}

#[test]
fn selection_leaves_only_what_was_asked_for() {
    let selection = LogSelection {
        stage: Some(Stage::Residence),
        class: Some(TrafficClass::Data),
        scope: Some(Scope::Core(CoreId(1))),
        ..LogSelection::default()
    };
    let (_, lines) = read(&write_log(&observed(), &selection, moment(2)).unwrap());
    assert_eq!(lines.keys().collect::<Vec<_>>(), ["core1.residence.data"]);
}

#[test]
fn log_has_the_header_that_other_readers_look_for() {
    let log = write_log(&observed(), &all(Window::Total), moment(2)).unwrap();
    let log = String::from_utf8(log).unwrap();
    let lines: Vec<_> = log.lines().take(8).collect();
    assert_eq!(
        lines[..6],
        [
            "#[Interval: 2]",
            "#[Histogram log format version 1.3]",
            "#[Values are nanoseconds]",
            "#[StartTime: 1700000000.000 (seconds since epoch)]",
            "#[BaseTime: 1700000000.000 (seconds since epoch)]",
            "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
             \"Interval_Compressed_Histogram\"",
        ]
    );
    // Compressed V2 histograms begin with their cookie, 0x1c849314, in base64.
    assert!(lines[7].starts_with("Tag=merged.open_to_seal.data,0.000,2.000,"), "{}", lines[7]);
    assert!(lines[7].split(',').next_back().unwrap().starts_with("HISTF"), "{}", lines[7]);
}

#[test]
fn follower_gets_a_log_that_continues_the_one_before() {
    let observations = observed();
    let first = write_log(&observations, &all(Window::Interval), moment(2)).unwrap();
    let selection = LogSelection { header: false, ..all(Window::Interval) };
    let rest = write_log(&observations, &selection, moment(2)).unwrap();
    let rest_text = std::str::from_utf8(&rest).unwrap();
    assert_eq!(interval_of(rest_text), Some(2));
    assert!(!rest_text.contains("StartTime"));
    let (times, again) = read(&rest);
    assert!(times.is_empty());
    assert_eq!(again.len(), read(&first).1.len());
    let joined = [first, rest].concat();
    assert_eq!(IntervalLogIterator::new(&joined).filter(|entry| entry.is_err()).count(), 0);
}

#[test]
fn log_of_nothing_is_a_log() {
    let observations = Observations::new(3, moment(0));
    let (times, lines) = read(&write_log(&observations, &all(Window::Total), moment(0)).unwrap());
    assert_eq!((times.len(), lines.len()), (2, 0));
}

#[test]
fn text_of_another_kind_has_no_interval() {
    for text in ["", "#[Interval: x]", "#[Interval: 7", "{}"] {
        assert_eq!(interval_of(text), None, "{text}");
    }
}

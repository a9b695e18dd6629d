//! Frames of documents written by hand, held against files, and frames of every size and shape.

use super::*;
use proptest::prelude::*;
use serde_json::json;

/// A second passes between [`look`]`(1)` and [`look`]`(2)`.
fn look(second: u64) -> Look {
    Look {
        status: status(second),
        histograms: histograms(),
        core_histograms: Some(json!({ "histograms": [
            histogram(json!(0), "residence", "data", 41_000),
            histogram(json!(1), "residence", "data", 1_700_000),
        ] })),
        drops: Some(drops_document(second)),
        links: Some(links_document(second)),
        sessions: Some(sessions_document(second)),
    }
}

fn status(second: u64) -> Value {
    json!({
        "version": "0.1.0",
        "identity": "03763e24".to_owned() + &"5a".repeat(29),
        "readiness": { "state": "ready" },
        "started_unix_ms": 1_700_000_000_000_u64,
        "uptime_ms": 11_520_000 + second * 1000,
        "memory": { "resident_bytes": 130_023_424 },
        "cores": [core(0, second), core(1, second)],
        "totals": { "counters": counters(2, second) },
        "drops": { "unknown_query": 40 + 12 * second, "mesh_full": 3 },
    })
}

fn counters(times: u64, second: u64) -> Value {
    json!({
        "up_ns": 11_520_000_000_000_u64 + second * 1_000_000_000,
        "links_open": 4 * times, "sessions_open": 12 * times, "pipes_open": times,
        "half_open": 0, "queued_bytes": 49_152 * times,
        "payload_bytes_in": times * second * 204_800_000,
        "payload_bytes_out": times * second * 204_800_000,
        "frames_in": times * second * 200_000, "frames_out": times * second * 201_000,
        "pipe_bytes": times * second * 626_000_000,
    })
}

fn core(number: u64, second: u64) -> Value {
    let slower = number as f64;
    json!({
        "core": number, "cpu": number + 1, "port": "io_uring", "silent_intervals": 0,
        "busy_share": 0.24 + 0.7 * slower,
        "counters": counters(1, second),
        "headroom": { "busy_share": 0.24 + 0.7 * slower, "more_traffic_ratio": 3.1 - 3.04 * slower },
        "efficiency": { "ratio": 0.87, "cost_ns_per_kib": 410, "floor_ns_per_kib": 357 },
        "same_core_share": 0.98,
        "waiting": { "mode": if number == 0 { "sleep" } else { "spin" }, "spin_share": 0.02,
            "gather_share": 0.0 },
    })
}

fn histogram(core: Value, stage: &str, class: &str, p99_ns: u64) -> Value {
    json!({
        "core": core, "stage": stage, "class": class, "count": 402_113,
        "percentiles_ns": { "p50": p99_ns / 4, "p99": p99_ns, "p999": p99_ns * 9 },
        "max_ns": p99_ns * 30,
    })
}

fn histograms() -> Value {
    json!({ "histograms": [
        histogram(Value::Null, "residence", "data", 166_000),
        histogram(Value::Null, "residence", "control", 173_000),
        histogram(Value::Null, "residence", "pipe", 56_100),
        histogram(Value::Null, "open_to_seal", "data", 9_300),
        histogram(Value::Null, "turn", "control", 31_000),
    ] })
}

fn drops_document(second: u64) -> Value {
    let events = 40 + 12 * second;
    json!({ "reasons": [
        {
            "reason": "unknown_query", "events": events, "bytes": 5120,
            "cores": [{ "core": 0, "events": 40 }, { "core": 1, "events": events - 40 }],
            "management": { "events": 0 },
        },
        {
            "reason": "mesh_full", "events": 3, "bytes": 3072,
            "cores": [{ "core": 0, "events": 3 }, { "core": 1, "events": 0 }],
            "management": { "events": 0 },
        },
    ] })
}

/// The peers with greater numbers send more; the one with number 3 has just come.
fn link(number: u64, second: u64) -> Value {
    let causes = ["credit", "peer_not_reading", "quota", "sender_idle", "core"];
    let cause = causes[number as usize % causes.len()];
    json!({
        "link": format!("{}.{number}.7", number % 2),
        "identity": format!("02{number:062x}")[..].replacen("00", "ab", 3),
        "profile": "p4", "network": "tcp", "inner": false,
        "remote": format!("[2001:db8:1111:2222:3333:4444:5555:{number:x}]:65535"),
        "age_ns": if number == 3 { second * 400_000_000 } else { (60 + second) * 1_000_000_000 },
        "idle_ns": 12_000_000,
        "sessions": number,
        "bytes_in": 1_000_000_000 + second * number * 25_600_000,
        "bytes_out": 5_000_000 + second * number * 1_024,
        "frames_in": 1_000_000 + second * number * 25_000,
        "frames_out": 10_000 + second * number,
        "queued_bytes": number * 4096,
        "ping_ns": 9_000_000 * number,
        "same_core_share": if number == 3 { Value::Null } else { json!(0.1 * (number % 8) as f64) },
        "limited_by": { "cause": cause, "shares": { cause: 0.1 * (number % 10) as f64 + 0.1 } },
    })
}

fn links_document(second: u64) -> Value {
    let links: Vec<_> = (1..=9).map(|number| link(number, second)).collect();
    json!({ "total": 9, "truncated": false, "cores_missing": [], "links": links })
}

fn sessions_document(second: u64) -> Value {
    let row = |leg: &str, kind: &str, identity: &str, bytes: u64| {
        json!({
            "leg": leg, "kind": kind, "link": "0.1.7", "identity": identity.repeat(33),
            "query": "gateway.node_route", "age_ns": (5 + second) * 1_000_000_000,
            "bytes_in": second * bytes, "bytes_out": 7 * second * bytes,
            "queued_bytes": 0, "send_credit_bytes": 1_048_576,
            "limited_by": { "cause": null, "shares": {} },
        })
    };
    let rows = [
        row("0.12345.67", "caller", "02", 100),
        row("1.3.9", "target", "ab", 1_000_000),
        row("1.4.9", "socket", "00", 90_000_000),
    ];
    json!({ "total": 3, "truncated": false, "cores_missing": [], "sessions": rows })
}

fn scene<'a>(before: Option<&'a Look>, now: Option<&'a Look>, view: TopView) -> Scene<'a> {
    let (paused, help, trouble) = (false, false, None);
    let socket = Path::new("/run/waystation/waystation.sock");
    Scene { before, now, view, sort: SortKey::Mbps, paused, help, trouble, socket }
}

const SMALL: Size = Size { columns: 80, lines: 24 };
const LARGE: Size = Size { columns: 120, lines: 40 };

fn shown(scene: &Scene<'_>, size: Size) -> String {
    let lines = frame(scene, size);
    assert_eq!(lines.len(), size.lines);
    let wide = lines.iter().find(|line| line.columns() > size.columns);
    assert!(wide.is_none(), "wider than {}: {wide:?}", size.columns);
    lines.iter().map(|line| line.text() + "\n").collect()
}

/// Holds a frame against its file; `WAYSTATION_TEST_BLESS=1` writes the file anew.
fn assert_golden(name: &str, shown: &str) {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/render/top/golden");
    let path = Path::new(directory).join(name).with_extension("txt");
    if std::env::var_os("WAYSTATION_TEST_BLESS").is_some() {
        std::fs::write(&path, shown).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == shown, "{name} is not as it was:\n{shown}\nit was:\n{golden}");
}

#[test]
fn frames_of_80_by_24_and_120_by_40_are_as_they_were() {
    let (before, now) = (look(1), look(2));
    let views = [
        (TopView::Links, "links"),
        (TopView::Pipes, "pipes"),
        (TopView::Cores, "cores"),
        (TopView::Drops, "drops"),
    ];
    for (view, name) in views {
        let scene = scene(Some(&before), Some(&now), view);
        assert_golden(&format!("{name}_80x24"), &shown(&scene, SMALL));
        assert_golden(&format!("{name}_120x40"), &shown(&scene, LARGE));
    }
}

#[test]
fn frames_of_tiny_terminals_are_as_they_were() {
    let (before, now) = (look(1), look(2));
    let scene = scene(Some(&before), Some(&now), TopView::Links);
    let sizes = [(40, 12), (20, 5), (80, 1)];
    let frames = sizes.map(|(columns, lines)| shown(&scene, Size { columns, lines }));
    assert_golden("links_tiny", &frames.join("----\n"));
}

#[test]
fn rates_are_the_growth_over_the_time_the_appliance_says_has_passed() {
    let (before, now) = (look(1), look(3));
    let looks = Looks::new(Some(&before), &now);
    let totals = looks.totals();
    assert_eq!((totals.bytes_in, totals.frames_out), (Some(409_600_000), Some(402_000)));
    assert_eq!(looks.drops_per_s(), Some(12));
    let links = looks.rows(Listing::Links, SortKey::Mbps);
    let most = links[0];
    assert_eq!(most.row["link"], "1.9.7");
    assert_eq!(most.rates.bytes_in, Some(9 * 25_600_000));
    assert_eq!(most.rates.frames(), Some(9 * 25_001));
}

#[test]
fn without_an_earlier_look_there_are_totals_and_no_rates() {
    let now = look(1);
    let looks = Looks::new(None, &now);
    assert_eq!(looks.totals(), figures::Rates::default());
    assert_eq!(looks.drops_per_s(), None);
    assert!(looks.rows(Listing::Links, SortKey::Mbps).iter().all(|r| r.rates.bytes_in.is_none()));
    let shown = shown(&scene(None, Some(&now), TopView::Links), SMALL);
    assert!(shown.contains("in - - msg/s   out - - msg/s   pipes -   drops -/s"), "{shown}");
}

#[test]
fn look_before_a_restart_gives_no_rates() {
    let (before, mut now) = (look(9), look(9));
    now.status["started_unix_ms"] = json!(1_700_000_999_000_u64);
    assert_eq!(Looks::new(Some(&before), &now).totals(), figures::Rates::default());
    let (before, now) = (look(9), look(1));
    assert_eq!(Looks::new(Some(&before), &now).totals(), figures::Rates::default());
}

#[test]
fn drops_beyond_all_counting_are_no_more_than_a_number_holds() {
    let (before, mut now) = (look(1), look(2));
    now.status["drops"] = json!({ "unknown_query": u64::MAX, "mesh_full": u64::MAX });
    assert_eq!(Looks::new(Some(&before), &now).drops_per_s(), Some(u64::MAX));
}

#[test]
fn link_that_has_just_come_is_measured_from_its_beginning() {
    let (mut before, mut now) = (look(1), look(2));
    let without_third = before.links.as_mut().unwrap()["links"].as_array_mut().unwrap();
    without_third.remove(2);
    let rates = |before: &Look, now: &Look| {
        let looks = Looks::new(Some(before), now);
        let rows = looks.rows(Listing::Links, SortKey::Mbps);
        rows.iter().find(|row| row.row["link"] == "1.3.7").unwrap().rates
    };
    // It is 800 ms old.
    let bytes = now.links.as_ref().unwrap()["links"][2]["bytes_in"].as_u64().unwrap();
    assert_eq!(rates(&before, &now).bytes_in, Some(bytes * 10 / 8));
    // One that is older was there, but not among those that were shown.
    now.links.as_mut().unwrap()["links"][2]["age_ns"] = json!(9_000_000_000_u64);
    assert_eq!(rates(&before, &now).bytes_in, None);
    // Unless the appliance says itself how it has been.
    now.links.as_mut().unwrap()["links"][2]["interval"] =
        json!({ "length_ns": 500_000_000, "bytes_in": 7, "bytes_out": 0 });
    assert_eq!(rates(&before, &now).bytes_in, Some(14));
}

#[test]
fn rows_come_in_the_order_asked_for() {
    let (before, now) = (look(1), look(2));
    let looks = Looks::new(Some(&before), &now);
    let first = |sort| looks.rows(Listing::Links, sort)[0].row["link"].clone();
    for sort in [SortKey::Mbps, SortKey::Messages, SortKey::Queue, SortKey::Ping] {
        let link = first(sort);
        // The third is new, and has sent all it ever has within the interval.
        assert!(link == "1.9.7" || link == "1.3.7", "{sort:?}: {link}");
    }
    let core = |sort| looks.cores(Some(sort))[0].core["core"].clone();
    assert_eq!(core(SortKey::P99), 1);
    assert_eq!(core(SortKey::Drops), 1);
    assert_eq!(looks.drops()[0].reason, "unknown_query");
    assert_eq!(looks.drops()[0].per_s, Some(12));
}

#[test]
fn view_falls_back_to_an_order_that_its_rows_have() {
    assert_eq!(TopView::Links.sort(SortKey::P99), SortKey::Mbps);
    assert_eq!(TopView::Pipes.sort(SortKey::Ping), SortKey::Mbps);
    assert_eq!(TopView::Cores.sort(SortKey::P99), SortKey::P99);
    assert_eq!(TopView::Drops.sort(SortKey::Mbps), SortKey::Drops);
}

#[test]
fn older_appliance_shows_dashes_where_it_says_nothing() {
    let (mut before, mut now) = (look(1), look(2));
    for look in [&mut before, &mut now] {
        for core in look.status["cores"].as_array_mut().unwrap() {
            let core = core.as_object_mut().unwrap();
            for field in ["headroom", "efficiency", "same_core_share", "waiting"] {
                core.remove(field);
            }
        }
        for link in look.links.as_mut().unwrap()["links"].as_array_mut().unwrap() {
            for field in ["limited_by", "same_core_share"] {
                link.as_object_mut().unwrap().remove(field);
            }
        }
    }
    let shown = shown(&scene(Some(&before), Some(&now), TopView::Links), SMALL);
    let core: Vec<_> =
        shown.lines().find(|line| line.contains("24%")).unwrap().split_whitespace().collect();
    assert_eq!(core[..7], ["0", "1", "24%", "-", "-", "-", "-"], "{shown}");
    let link = shown.lines().find(|line| line.starts_with("1.9.7")).unwrap();
    assert!(link.ends_with(" -"), "{link}");
}

#[test]
fn appliance_that_is_gone_is_said_above_the_last_frame() {
    let now = look(1);
    let trouble = Some("nobody answers at /run/waystation/waystation.sock: is waystation running?");
    let gone = Scene { trouble, ..scene(None, Some(&now), TopView::Links) };
    let text = shown(&gone, SMALL);
    let second = text.lines().nth(1).unwrap();
    assert!(
        second.starts_with("trying again: nobody answers at /run/waystation/waystation.sock"),
        "{text}"
    );
    assert!(text.contains("LIMITED BY"), "{text}");
    let text = shown(&Scene { now: None, ..gone }, SMALL);
    assert!(text.contains("nobody answers") && !text.contains("asking"), "{text}");
    let text = shown(&scene(None, None, TopView::Links), SMALL);
    assert!(text.contains("asking /run/waystation/waystation.sock"), "{text}");
}

#[test]
fn core_that_does_not_answer_is_said() {
    let (before, mut now) = (look(1), look(2));
    now.status["cores"][1]["silent_intervals"] = json!(4);
    now.links.as_mut().unwrap()["cores_missing"] = json!([1]);
    let shown = shown(&scene(Some(&before), Some(&now), TopView::Links), SMALL);
    assert!(shown.contains("silent"), "{shown}");
    assert!(shown.contains("no answer from core 1"), "{shown}");
}

#[test]
fn no_links_and_ten_thousand_links_both_fit() {
    let (before, mut now) = (look(1), look(2));
    now.links = Some(json!({ "total": 0, "cores_missing": [], "links": [] }));
    let text = shown(&scene(Some(&before), Some(&now), TopView::Links), SMALL);
    assert!(text.contains("no links"), "{text}");
    let links: Vec<_> = (1..=10_000).map(|number| link(number, 2)).collect();
    now.links = Some(json!({ "total": 10_000, "cores_missing": [], "links": links }));
    let text = shown(&scene(Some(&before), Some(&now), TopView::Links), SMALL);
    assert!(text.contains("more\n"), "{text}");
    assert!(text.contains("and 10.0k more"), "{text}");
}

#[test]
fn strangers_cannot_send_control_sequences_or_wide_letters_to_the_terminal() {
    let (before, mut now) = (look(1), look(2));
    let evil = json!("\u{1b}[2J\u{202e}漢字é\r\n");
    for field in ["link", "identity", "remote", "network"] {
        now.links.as_mut().unwrap()["links"][8][field] = evil.clone();
    }
    now.status["version"] = evil;
    let text = shown(&scene(Some(&before), Some(&now), TopView::Links), LARGE);
    let strange = text.chars().find(|c| !matches!(c, '\n' | '…' | ' ') && !c.is_ascii_graphic());
    assert_eq!(strange, None, "{text}");
}

#[test]
fn help_explains_every_key_of_the_footer() {
    let now = look(1);
    let text = shown(&Scene { help: true, ..scene(None, Some(&now), TopView::Links) }, SMALL);
    for key in ["\nl ", "\np ", "\nc ", "\nd ", "\ns ", "\nspace ", "\nh or ?", "\nq, Ctrl-C"] {
        assert!(text.contains(key), "{key}: {text}");
    }
}

#[test]
fn colours_are_an_addition_and_can_be_left_out() {
    let (before, now) = (look(1), look(2));
    let lines = frame(&scene(Some(&before), Some(&now), TopView::Links), SMALL);
    let coloured: String = lines.iter().map(|line| line.escaped(true)).collect();
    let plain: String = lines.iter().map(|line| line.escaped(false)).collect();
    assert!(coloured.contains("\u{1b}[33m") || coloured.contains("\u{1b}[1;31m"));
    assert!(!plain.contains("\u{1b}[3") && !plain.contains(";31m"), "{plain:?}");
}

/// Values that take the place of others in a document.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null, 3, {}])),
        Just(json!(u64::MAX)),
        Just(json!(-1.5e300)),
        Just(json!("x".repeat(300))),
        any::<f64>().prop_map(|value| json!(value)),
        any::<u64>().prop_map(|value| json!(value)),
    ]
}

/// Replaces the value that comes `at` in the order of the document, if it has so many.
fn replace(document: &mut Value, at: &mut usize, odd: &Value) {
    if *at == 0 {
        *document = odd.clone();
        *at = usize::MAX;
        return;
    }
    *at -= 1;
    match document {
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, at, odd)),
        Value::Object(fields) => fields.iter_mut().for_each(|(_, value)| replace(value, at, odd)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn scramble(look: &mut Look, at: usize, odd: &Value) {
    replace(&mut look.status, &mut at.clone(), odd);
    replace(&mut look.histograms, &mut at.clone(), odd);
    for document in
        [&mut look.drops, &mut look.links, &mut look.sessions, &mut look.core_histograms]
            .into_iter()
            .flatten()
    {
        replace(document, &mut at.clone(), odd);
    }
}

proptest! {
    #[test]
    fn frames_of_every_size_and_document_fit(
        columns in 0_usize..200,
        lines in 0_usize..60,
        view in prop_oneof![
            Just(TopView::Links), Just(TopView::Pipes), Just(TopView::Cores), Just(TopView::Drops),
        ],
        sort in prop_oneof![
            Just(SortKey::Mbps), Just(SortKey::Messages), Just(SortKey::Queue),
            Just(SortKey::Ping), Just(SortKey::P99), Just(SortKey::Drops),
        ],
        help in proptest::bool::weighted(0.1),
        trouble in proptest::option::of("\\PC{0,200}"),
        changes in proptest::collection::vec((any::<bool>(), 0_usize..400, odd_value()), 0..4),
        known in 0_u8..3,
    ) {
        let (mut before, mut now) = (look(1), look(2));
        for (newer, at, odd) in &changes {
            scramble(if *newer { &mut now } else { &mut before }, *at, odd);
        }
        let scene = Scene {
            sort,
            help,
            trouble: trouble.as_deref(),
            paused: help,
            ..scene((known > 1).then_some(&before), (known > 0).then_some(&now), view)
        };
        let shown = frame(&scene, Size { columns, lines });
        // What may not be left out is the title, what is wrong, and a table's first lines.
        prop_assert!(shown.len() <= lines, "{} lines of {}", shown.len(), lines);
        for line in &shown {
            prop_assert!(line.columns() <= columns);
            prop_assert!(line.text().chars().all(|c| c == '…' || c == ' ' || c.is_ascii_graphic()));
        }
    }
}

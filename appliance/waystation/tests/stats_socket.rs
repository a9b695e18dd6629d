//! The stats socket of a real appliance: what it shows while nodes move bytes, how it refuses, and
//! that its histograms are the same in JSON, in the interval log and in the terminal.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::Command;
use support::appliance::{Appliance, PortName, Settings};
use support::nodes::{Node, connect, route};
use support::process::{Finished, Process, binary, command, exists, run};
use support::streams::{Pump, exchange};
use support::{eventually, given};
use tempfile::TempDir;
use waystation_astral::frame::Profile;
use waystation_peer::{IdlePool, RouteForm};

const TRANSFER_BYTES: usize = 1 << 20;
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999)];

/// Two nodes of different profiles that talk through sessions and a pipe all the time.
struct Busy {
    appliance: Appliance,
    caller: Node,
    target: Node,
    _idle: IdlePool,
    pumps: Vec<Pump>,
}

impl Busy {
    fn start(port: PortName, cores: usize) -> Self {
        let appliance = Appliance::start(&Settings::new(port, cores));
        let caller = appliance.node_on(Profile::P4, 0);
        let target = appliance.node_on(Profile::P0, cores - 1);
        let idle = target.idle(1, true);
        let (near, far) = route(&caller, &target, RouteForm::G2);
        let session = Pump::start("session", near, far);
        let (near, far) = connect(&caller, &target, &idle);
        let pipe = Pump::start("pipe", near, far);
        Pump::wait_for(&[&session, &pipe], 64 * 1024);
        Self { appliance, caller, target, _idle: idle, pumps: vec![session, pipe] }
    }

    fn quiet(&mut self) {
        self.pumps.drain(..).for_each(Pump::finish);
    }
}

fn ask(appliance: &Appliance, arguments: &[&str]) -> Finished {
    let finished = run(command(&binary()).args(arguments).arg("--socket").arg(&appliance.socket));
    assert_eq!(finished.code(), 0, "{arguments:?}: {}", finished.stderr);
    assert_eq!(finished.stderr, "", "{arguments:?}");
    finished
}

fn rows<'d>(document: &'d Value, name: &str) -> &'d [Value] {
    assert_eq!(document["schema"], 1);
    assert_eq!(document["truncated"], false);
    assert_eq!(document["cores_missing"], Value::Array(Vec::new()));
    let rows = document[name].as_array().unwrap();
    assert_eq!(document["total"], rows.len());
    rows
}

#[test]
fn documents_show_the_links_and_sessions_of_nodes_that_talk() {
    for (port, cores) in [(PortName::IoUring, 1), (PortName::Epoll, 3)] {
        if !port.is_given() {
            continue;
        }
        let busy = Busy::start(port, cores);
        let appliance = &busy.appliance;
        assert_eq!(appliance.document("/ready")["ready"], true);
        let status = appliance.status();
        assert_eq!(status["cores"].as_array().unwrap().len(), cores);
        for core in status["cores"].as_array().unwrap() {
            assert_eq!(core["port"], port.name());
            assert!(core["cpu"].is_u64(), "pinned: {core}");
        }
        assert_eq!(status["aead"]["choice"], "measured");
        let measured = &status["aead"]["measured"][0];
        assert_eq!(measured["backend"], "ring");
        assert!(measured["seal_and_open_ns"]["16384"].as_u64().unwrap() > 0, "{measured}");
        let totals = &status["totals"]["counters"];
        assert_eq!(totals["links_open"], 2);
        assert_eq!(totals["sessions_open"], 2);
        assert_eq!(totals["pipes_open"], 1);
        assert_eq!(status["gateway"]["registrations"], 1);
        let joined = if cores == 1 { "same_core_bytes" } else { "cross_core_bytes" };
        for counter in [joined, "pipe_bytes", "payload_bytes_in", "payload_bytes_out"] {
            assert!(totals[counter].as_u64().unwrap() >= 2 * 64 * 1024, "{counter}: {totals}");
        }
        expect_links(&busy);
        expect_sessions(&busy);
    }
}

fn expect_links(busy: &Busy) {
    let document = busy.appliance.document("/v1/links");
    let links = rows(&document, "links");
    assert_eq!(links.len(), 2);
    for (node, profile) in [(&busy.caller, "p4"), (&busy.target, "p0")] {
        let name = node.identity().to_string();
        let link = links.iter().find(|link| link["identity"] == name).unwrap();
        assert_eq!(link["profile"], profile);
        assert_eq!(link["inner"], false);
        assert_eq!(link["sessions"], 1);
        assert!(link["remote"].as_str().unwrap().starts_with("127.0.0.1:"));
        if let Some(link_id) = node.link.link_id() {
            assert_eq!(link["link_id"], format!("{link_id:016x}"));
        }
        for counter in ["bytes_in", "bytes_out"] {
            assert!(link[counter].as_u64().unwrap() >= 64 * 1024, "{link}");
        }
    }
}

fn expect_sessions(busy: &Busy) {
    let document = busy.appliance.document("/v1/sessions");
    let sessions = rows(&document, "sessions");
    let kinds_of = |node: &Node| {
        let name = node.identity().to_string();
        let own = sessions.iter().filter(|session| session["identity"] == name);
        own.map(|session| session["kind"].as_str().unwrap()).collect::<Vec<_>>()
    };
    let (caller, target) = (kinds_of(&busy.caller), kinds_of(&busy.target));
    assert!(caller.contains(&"caller") && !caller.contains(&"target"), "{document:#}");
    assert!(target.contains(&"target") && !target.contains(&"caller"), "{document:#}");
    let sockets = sessions.iter().filter(|session| session["kind"] == "socket").count();
    assert!(sockets >= 2, "both ends of the pipe: {document:#}");
    for session in sessions.iter().filter(|session| session["kind"] != "socket") {
        assert_eq!(session["nonce"].as_str().unwrap().len(), 16);
        assert!(session["bytes_in"].as_u64().unwrap() >= 64 * 1024, "{session}");
    }
}

#[test]
fn metrics_are_whole_and_agree_with_the_status() {
    let mut busy = Busy::start(PortName::Epoll, 2);
    busy.quiet();
    let moved = rested(&busy.appliance);
    let metrics = String::from_utf8(busy.appliance.ask("/metrics").unwrap()).unwrap();
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(metrics.matches("# EOF").count(), 1);
    let value = |series: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("no {series}")).trim().parse().unwrap()
    };
    let cores = || (0..2_u8).map(|core| core.to_string());
    let pipe_bytes: f64 = cores()
        .map(|core| value(&format!("waystation_core_pipe_bytes_total{{core=\"{core}\"}}")))
        .sum();
    assert_eq!(pipe_bytes as u64, moved);
    let links: f64 =
        cores().map(|core| value(&format!("waystation_core_open_links{{core=\"{core}\"}}"))).sum();
    assert_eq!(links as u64, 2);
    assert_eq!(value("waystation_ready") as u64, 1);
    for node in [&busy.caller, &busy.target] {
        let identity = node.identity().to_string();
        assert!(!metrics.contains(&identity), "a peer is no label");
    }
    let families: Vec<_> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(families.iter().all(|family| family.starts_with("waystation_")), "{families:?}");
}

/// The bytes of raw pipes once all cores have told of the last ones. A core that has no time on a
/// busy machine answers late, and until then its counters are those of its last answer.
fn rested(appliance: &Appliance) -> u64 {
    eventually("all cores have answered since the traffic ended", || {
        let status = appliance.status();
        let cores = status["cores"].as_array().unwrap();
        let heard = cores.iter().all(|core| core["counters"]["frames_in"].as_u64() > Some(0));
        let quiet = cores.iter().all(|core| core["interval"]["frames_in"] == 0);
        (heard && quiet).then(|| status["totals"]["counters"]["pipe_bytes"].as_u64().unwrap())
    })
}

#[test]
fn drops_name_their_reason_and_core() {
    let busy = Busy::start(PortName::Epoll, 1);
    let nobody = waystation_peer::secret_key().unwrap().identity();
    assert!(busy.caller.link.route(&nobody).is_err());
    let document = busy.appliance.document("/v1/drops");
    let reasons = document["reasons"].as_array().unwrap();
    let row = reasons.iter().find(|row| row["reason"] == "target_not_reachable").unwrap();
    assert_eq!(row["events"], 1, "{document:#}");
    let all = busy.appliance.document("/v1/drops?all=true");
    assert!(all["reasons"].as_array().unwrap().len() > reasons.len());
    let text = ask(&busy.appliance, &["drops"]).text();
    assert!(text.contains("target_not_reachable"), "{text}");
    let text = ask(&busy.appliance, &["drops", "--all"]).text();
    assert!(text.contains("mesh_full"), "{text}");
}

#[test]
fn refusals_have_the_status_and_words_that_http_clients_expect() {
    if !given(exists("curl"), "curl") {
        return;
    }
    let appliance = Appliance::start(&Settings::new(PortName::Epoll, 1));
    for (arguments, uri, status, words) in [
        (&[][..], "/ready", 200, "\"ready\":true"),
        (&[], "/v1/nothing", 404, "/v1/histograms"),
        (&[], "/", 404, "unknown_path"),
        (&["--request", "POST"], "/v1/status", 405, "only GET"),
        (&["--request", "DELETE"], "/v1/links", 405, "method_not_allowed"),
        (&[], "/v1/links?limit=none", 400, "limit"),
        (&[], "/v1/links?limit=0", 400, "bad_value"),
        (&[], "/v1/histograms?stage=nowhere", 400, "reap_to_open"),
        (&[], "/v1/histograms?core=7", 404, "no_such_core"),
        (&[], "/v1/histograms?header=false", 400, "format=hlog"),
        (&[], "/v1/status?verbose=1", 400, "unknown_parameter"),
        (&[], "/v1/drops?all=true&all=true", 400, "repeated_parameter"),
    ] {
        let (code, body) = curl(&appliance, arguments, uri);
        assert_eq!(code, status, "{arguments:?} {uri}: {body}");
        assert!(body.contains(words), "{arguments:?} {uri}: {body}");
        let document: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(document["schema"], 1, "{uri}");
    }
}

fn curl(appliance: &Appliance, arguments: &[&str], uri: &str) -> (u32, String) {
    let finished = run(Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"])
        .args(arguments)
        .arg("--unix-socket")
        .arg(&appliance.socket)
        .arg(format!("http://waystation{uri}")));
    assert_eq!(finished.code(), 0, "{uri}: {}", finished.stderr);
    let text = finished.text();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.parse().unwrap(), body.to_owned())
}

/// The interval log as people fetch it: with curl where there is one.
fn fetch_log(appliance: &Appliance, uri: &str) -> String {
    if exists("curl") {
        let (code, body) = curl(appliance, &[], uri);
        assert_eq!(code, 200, "{body}");
        return body;
    }
    String::from_utf8(appliance.ask(uri).unwrap()).unwrap()
}

#[test]
fn interval_log_is_read_by_the_crates_own_reader_and_agrees_with_json() {
    for (port, cores) in [(PortName::IoUring, 1), (PortName::Epoll, 3)] {
        if !port.is_given() {
            continue;
        }
        let mut busy = Busy::start(port, cores);
        let (near, far) = route(&busy.target, &busy.caller, RouteForm::G1);
        exchange("more data", near, far, TRANSFER_BYTES);
        busy.quiet();
        let (json, log) = quiet_moment(&busy.appliance);
        let of_traffic: Vec<_> = json.keys().filter(|tag| is_of_traffic(tag)).collect();
        for stage in ["handshake.control", "reap_to_open.data", "open_to_seal.data"] {
            let tag = format!("merged.{stage}");
            assert!(of_traffic.contains(&&tag), "no {tag} in {of_traffic:?}");
        }
        for stage in ["residence.data", "seal_to_sent.data", "residence.pipe"] {
            let tag = format!("merged.{stage}");
            assert!(of_traffic.contains(&&tag), "no {tag} in {of_traffic:?}");
        }
        assert_eq!(log.keys().collect::<Vec<_>>(), json.keys().collect::<Vec<_>>());
        for tag in of_traffic {
            expect_equal(tag, &log[tag], &json[tag]);
        }
    }
}

/// Whether a histogram rests while nobody talks. Answering a question takes turns of the loop.
fn is_of_traffic(tag: &str) -> bool {
    !tag.contains(".turn.")
}

/// Totals in both forms from a moment in which nothing was recorded: the JSON before and after the
/// log is the same.
fn quiet_moment(
    appliance: &Appliance,
) -> (BTreeMap<String, Value>, BTreeMap<String, Histogram<u64>>) {
    eventually("a moment without traffic", || {
        let before = json_histograms(appliance);
        let log = fetch_log(appliance, "/v1/histograms?format=hlog");
        let after = json_histograms(appliance);
        let counts = |histograms: &BTreeMap<String, Value>| -> Vec<(String, Value)> {
            let of_traffic = histograms.iter().filter(|(tag, _)| is_of_traffic(tag));
            of_traffic.map(|(tag, entry)| (tag.clone(), entry["count"].clone())).collect()
        };
        (counts(&before) == counts(&after)).then(|| (after, read_log(&log)))
    })
}

fn json_histograms(appliance: &Appliance) -> BTreeMap<String, Value> {
    let document = appliance.document("/v1/histograms?window=total");
    let entries = document["histograms"].as_array().unwrap().iter();
    entries
        .map(|entry| {
            let scope = match entry["core"].as_u64() {
                Some(core) => format!("core{core}"),
                None => "merged".to_owned(),
            };
            let [stage, class] = ["stage", "class"].map(|key| entry[key].as_str().unwrap());
            (format!("{scope}.{stage}.{class}"), entry.clone())
        })
        .collect()
}

/// Reads a log; every line of it must be understood.
fn read_log(log: &str) -> BTreeMap<String, Histogram<u64>> {
    let mut histograms = BTreeMap::new();
    let mut times = 0;
    for entry in IntervalLogIterator::new(log.as_bytes()) {
        match entry.unwrap() {
            LogEntry::StartTime(_) | LogEntry::BaseTime(_) => times += 1,
            LogEntry::Interval(interval) => {
                let bytes = STANDARD.decode(interval.encoded_histogram()).unwrap();
                let histogram = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                let tag = interval.tag().unwrap().as_str().to_owned();
                assert!(histograms.insert(tag, histogram).is_none(), "each tag once");
            }
        }
    }
    assert_eq!(times, 2, "start and base time:\n{log}");
    histograms
}

fn expect_equal(tag: &str, histogram: &Histogram<u64>, entry: &Value) {
    assert_eq!(entry["count"], histogram.len(), "{tag}");
    assert_eq!(entry["min_ns"], histogram.min(), "{tag}");
    assert_eq!(entry["max_ns"], histogram.max(), "{tag}");
    for (name, quantile) in PERCENTILES {
        let value = histogram.value_at_quantile(quantile);
        assert_eq!(entry["percentiles_ns"][name], value, "{tag} {name}");
    }
    let counted = entry["buckets"].as_array().unwrap().iter().map(|bucket| bucket[1].as_u64());
    assert_eq!(counted.map(Option::unwrap).sum::<u64>(), histogram.len(), "{tag}");
}

#[test]
fn commands_print_what_the_documents_say() {
    let mut busy = Busy::start(PortName::Epoll, 1);
    busy.quiet();
    let appliance = &busy.appliance;
    let status = ask(appliance, &["status"]).text();
    for word in ["ready", "epoll", "identity", &appliance.identity.to_string()] {
        assert!(status.contains(word), "no {word} in\n{status}");
    }
    let node_info = appliance.status()["node_info"].as_str().unwrap().to_owned();
    assert!(status.contains(&node_info) && status.contains(&appliance.address.to_string()));
    let links = ask(appliance, &["links"]).text();
    for node in [&busy.caller, &busy.target] {
        assert!(links.contains(&node.identity().to_string()[..8]), "{links}");
    }
    assert!(links.contains(" SAME ") && links.contains("2 links"), "{links}");
    let peers = ask(appliance, &["peers"]).text();
    assert!(peers.contains("p4") && peers.contains("p0") && peers.contains("2 peers"), "{peers}");
    let sessions = ask(appliance, &["sessions"]).text();
    assert!(sessions.contains("sessions") && sessions.contains("KIND"), "{sessions}");
    for text in [&links, &peers, &sessions, &status] {
        let wide =
            text.lines().find(|line| line.chars().count() > 80 && !line.starts_with("node1"));
        assert_eq!(wide, None, "80 columns");
    }
    let hist = ask(appliance, &["hist"]).text();
    for word in ["STAGE", "P99.9", "handshake", "open_to_seal", "residence", "turn", "####"] {
        assert!(hist.contains(word), "no {word} in\n{hist}");
    }
    let one = ask(appliance, &["hist", "--stage", "handshake"]).text();
    assert!(one.contains("handshake") && !one.contains("residence"), "{one}");
}

#[test]
fn commands_print_the_document_itself_when_asked() {
    let mut busy = Busy::start(PortName::Epoll, 1);
    busy.quiet();
    let appliance = &busy.appliance;
    for (verb, key) in [
        ("status", "totals"),
        ("links", "links"),
        ("sessions", "sessions"),
        ("drops", "reasons"),
        ("hist", "histograms"),
    ] {
        let finished = ask(appliance, &[verb, "--json"]);
        let document: Value = serde_json::from_slice(&finished.stdout).unwrap();
        assert_eq!(document["schema"], 1, "{verb}");
        assert!(!document[key].is_null(), "{verb}: {document}");
        assert!(finished.stdout.ends_with(b"\n"));
    }
    let log = ask(appliance, &["hist", "--log"]).text();
    let histograms = read_log(&log);
    assert!(histograms.keys().all(|tag| tag.starts_with("merged.")), "{:?}", histograms.keys());
    let handshakes = &histograms["merged.handshake.control"];
    assert_eq!(handshakes.len(), appliance.total("links_opened"));
    let one = read_log(&ask(appliance, &["hist", "--log", "--stage", "turn"]).text());
    assert!(one.keys().all(|tag| tag.starts_with("merged.turn.")), "{:?}", one.keys());
}

#[test]
fn followed_histograms_are_printed_again_and_again() {
    let busy = Busy::start(PortName::Epoll, 1);
    let directory = TempDir::new().unwrap();
    let printed = directory.path().join("printed");
    let mut following = command(&binary());
    following.args(["hist", "--follow", "--stage", "residence", "--socket"]);
    following.arg(&busy.appliance.socket).stdout(File::create(&printed).unwrap());
    let mut process = Process::spawn(&mut following, &directory.path().join("errors"));
    eventually("two tables", || {
        assert!(process.ended().is_none(), "{}", process.log());
        let text = fs::read_to_string(&printed).unwrap();
        (text.matches("STAGE").count() >= 2).then_some(())
    });
}

#[test]
fn two_logs_are_compared_and_a_bad_one_is_named() {
    let mut busy = Busy::start(PortName::Epoll, 1);
    busy.quiet();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let log = ask(&busy.appliance, &["hist", "--log"]).text();
    let (first, second) = (file("first.hlog", &log), file("second.hlog", log.trim_end()));
    let compare = |second: &std::path::Path| {
        run(command(&binary()).args(["hist", "--compare"]).args([&first, second]))
    };
    let text = compare(&second).text();
    let row = text.lines().find(|line| line.starts_with("merged.open_to_seal.data"));
    let row = row.unwrap_or_else(|| panic!("{text}"));
    assert!(row.ends_with("1.00"), "{text}");
    let bad = compare(&file("bad.hlog", &format!("{log}nothing of the kind\n")));
    let line = log.lines().count() + 1;
    assert_eq!(bad.code(), 1, "{}", bad.stderr);
    let words = format!("bad.hlog: line {line} is not one of a histogram log");
    assert!(bad.stderr.contains(&words), "{}", bad.stderr);
    assert!(compare(&directory.path().join("none")).stderr.contains("none cannot be read"));
}

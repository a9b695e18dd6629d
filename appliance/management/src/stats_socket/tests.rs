//! The stats socket over a real Unix socket, with a runtime played by hand.

use super::client::{self, ClientError};
use super::*;
use crate::fixtures::{extra, listings, moment, observed, shares};
use crate::limits::{LISTING_ROWS_MAX, STATS_REQUEST_BYTES_MAX};
use crate::opaque::OpaqueTable;
use crate::recent::{Recent, RowOrder};
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use waystation_relay::drop_reason::DropReason;

/// How long a test waits for what should happen at once, on a machine that is busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a socket in a directory of its own, and a source that answers from the fixtures.
pub(super) struct Node {
    directory: TempDir,
    server: StatsServer,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Node {
    fn start(limits: StatsLimits) -> Self {
        let (node, requests) = Self::start_silent(limits);
        let mut node = node;
        node.tasks.push(tokio::spawn(answer(requests)));
        node
    }

    /// Nobody answers but the test.
    pub(super) fn start_silent(limits: StatsLimits) -> (Self, mpsc::Receiver<StatsRequest>) {
        let directory = TempDir::new().unwrap();
        let (server, requests) = channel(limits);
        let listener = bind(&directory.path().join("s")).unwrap();
        let serving = server.clone();
        let task = tokio::spawn(async move {
            serving.serve_socket(listener).await;
        });
        (Self { directory, server, tasks: vec![task] }, requests)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub(super) async fn get(&self, uri: &str) -> Result<Vec<u8>, ClientError> {
        client::fetch(&self.path(), uri, PATIENCE).await
    }

    async fn json(&self, uri: &str) -> Value {
        serde_json::from_slice(&self.get(uri).await.unwrap()).unwrap()
    }

    /// Sends bytes as they are and reads until the server closes.
    pub(super) async fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path()).await.unwrap();
        stream.write_all(request).await.unwrap();
        read_to_end(&mut stream).await
    }
}

async fn read_to_end(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    // A server that closes without having read everything resets the connection.
    let _ = ended;
    String::from_utf8(bytes).unwrap()
}

async fn answer(mut requests: mpsc::Receiver<StatsRequest>) {
    let (observations, extra) = (observed(), extra());
    while let Some(request) = requests.recv().await {
        if let Some(listing) = request.answer(&observations, &extra, moment(2)) {
            assert!(!listing.is_abandoned());
            listing.complete(&listings(), &mut Recent::default(), &shares(), &opaque(), moment(2));
        }
    }
}

/// No opaque session.
fn opaque() -> OpaqueTable {
    OpaqueTable::new(1, 1, 20_000..=20_001)
}

pub(super) fn refused(answer: Result<Vec<u8>, ClientError>) -> (u16, Value) {
    let ClientError::Refused { status, body, .. } = answer.unwrap_err() else {
        panic!("refused with a document")
    };
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn every_path_answers_with_its_document() {
    let node = Node::start(StatsLimits::default());
    assert_eq!(node.json("/ready").await["ready"], true);
    assert_eq!(node.json("/v1/status").await["version"], "0.1.0");
    assert_eq!(node.json("/v1/links?limit=5").await["links"][0]["link"], "0.1.7");
    assert_eq!(node.json("/v1/sessions").await["sessions"][0]["kind"], "caller");
    assert_eq!(node.json("/v1/drops").await["events"], 3);
    assert_eq!(
        node.json("/v1/drops?all=true").await["reasons"].as_array().unwrap().len(),
        DropReason::COUNT
    );
    let histograms = node.json("/v1/histograms?stage=turn&class=control&core=1&window=total").await;
    assert_eq!(histograms["histograms"].as_array().unwrap().len(), 1);
    assert_eq!(histograms["histograms"][0]["count"], 30);
    let metrics = String::from_utf8(node.get("/metrics").await.unwrap()).unwrap();
    assert!(metrics.ends_with("# EOF\n"));
}

#[tokio::test]
async fn histogram_log_over_http_is_accepted_by_the_log_reader() {
    let node = Node::start(StatsLimits::default());
    for uri in ["/v1/histograms?format=hlog", "/v1/histograms?format=hlog&window=interval"] {
        let log = node.get(uri).await.unwrap();
        let entries: Vec<_> = IntervalLogIterator::new(&log).map(Result::unwrap).collect();
        let is_line = |entry: &&LogEntry<'_>| matches!(entry, LogEntry::Interval(_));
        assert_eq!(entries.iter().filter(is_line).count(), 9, "{uri}");
    }
}

/// The log as `curl` itself fetches it. Needs curl.
#[tokio::test]
async fn histogram_log_fetched_by_curl_is_accepted_by_the_log_reader() {
    let node = Node::start(StatsLimits::default());
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--fail", "--max-time", "20", "--unix-socket"]).arg(node.path());
    curl.arg("http://waystation/v1/histograms?format=hlog");
    let output = match tokio::task::spawn_blocking(move || curl.output()).await.unwrap() {
        Ok(output) => output,
        Err(error) => {
            let required = std::env::var("WAYSTATION_TEST_REQUIRE").is_ok_and(|all| all == "all");
            assert!(!required, "curl: {error}");
            println!("skipped: needs curl");
            return;
        }
    };
    assert!(output.status.success(), "{output:?}");
    let entries: Vec<_> = IntervalLogIterator::new(&output.stdout).map(Result::unwrap).collect();
    assert_eq!(entries.len(), 2 + 9, "both times and every histogram");
}

#[tokio::test]
async fn curl_style_request_gets_headers_and_a_closed_connection() {
    let node = Node::start(StatsLimits::default());
    let answer = node.raw(b"GET /metrics HTTP/1.1\r\nHost: x\r\nUser-Agent: curl\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.ends_with("# EOF\n"));
}

#[tokio::test]
async fn unknown_path_names_the_paths_there_are() {
    let node = Node::start(StatsLimits::default());
    for uri in ["/", "/v1", "/v1/status/", "/v2/status", "/v1/Status"] {
        let (status, document) = refused(node.get(uri).await);
        assert_eq!(status, 404, "{uri}");
        assert_eq!(document["schema"], 1);
        assert_eq!(document["error"]["code"], "unknown_path");
        assert!(document["error"]["paths"].as_array().unwrap().contains(&"/v1/links".into()));
    }
}

#[tokio::test]
async fn wrong_parameters_are_refused_and_named() {
    let node = Node::start(StatsLimits::default());
    for (uri, status, code) in [
        ("/v1/status?verbose=1", 400, "unknown_parameter"),
        ("/ready?x", 400, "unknown_parameter"),
        ("/v1/histograms?stages=turn", 400, "unknown_parameter"),
        ("/v1/links?limit=1&limit=2", 400, "repeated_parameter"),
        ("/v1/links?limit=0", 400, "bad_value"),
        ("/v1/links?limit=50001", 400, "bad_value"),
        ("/v1/links?limit=-1", 400, "bad_value"),
        ("/v1/sessions?limit=many", 400, "bad_value"),
        ("/v1/drops?all", 400, "bad_value"),
        ("/v1/histograms?stage=lunch", 400, "bad_value"),
        ("/v1/histograms?class=first", 400, "bad_value"),
        ("/v1/histograms?core=last", 400, "bad_value"),
        ("/v1/histograms?core=70000", 400, "bad_value"),
        ("/v1/histograms?window=open", 400, "bad_value"),
        ("/v1/histograms?format=xml", 400, "bad_value"),
        ("/v1/histograms?header=false", 400, "parameter_without_effect"),
        ("/v1/histograms?core=2", 404, "no_such_core"),
        ("/v1/histograms?format=hlog&core=2", 404, "no_such_core"),
    ] {
        let (got, document) = refused(node.get(uri).await);
        assert_eq!(got, status, "{uri}");
        assert_eq!(document["error"]["code"], code, "{uri}");
    }
    let (_, document) = refused(node.get("/v1/histograms?stage=lunch").await);
    let message = document["error"]["message"].as_str().unwrap();
    assert!(message.contains("\"lunch\", not one of handshake, reap_to_open"), "{message}");
}

#[tokio::test]
async fn methods_other_than_get_are_refused() {
    let node = Node::start(StatsLimits::default());
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"] {
        let request = format!("{method} /v1/status HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = node.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        assert!(answer.contains("\r\nallow: GET\r\n"), "{method}: {answer}");
    }
}

#[tokio::test]
async fn oversized_requests_are_refused() {
    let node = Node::start(StatsLimits::default());
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(2 * STATS_REQUEST_BYTES_MAX));
    let long_header =
        format!("GET /ready HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(2 * STATS_REQUEST_BYTES_MAX));
    let many_headers = format!("GET /ready HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100));
    for request in [long_path, long_header, many_headers] {
        let mut stream = UnixStream::connect(node.path()).await.unwrap();
        // The server may close before it has taken everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = read_to_end(&mut stream).await;
        let refused = answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 414 ");
        assert!(refused, "{answer}");
    }
    assert_eq!(node.json("/ready").await["ready"], true);
}

#[tokio::test]
async fn bytes_that_are_no_http_are_refused() {
    let node = Node::start(StatsLimits::default());
    for request in [&b"\x00\x01\x02\x03\r\n\r\n"[..], b"hello\r\n\r\n", b"GET\r\n\r\n"] {
        let answer = node.raw(request).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
}

#[tokio::test]
async fn silent_client_is_cut_when_its_head_does_not_arrive() {
    let limits = StatsLimits { head_timeout: Duration::from_millis(50), ..StatsLimits::default() };
    let node = Node::start(limits);
    let mut stream = UnixStream::connect(node.path()).await.unwrap();
    stream.write_all(b"GET /ready HTT").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn slow_reader_is_cut_within_the_limit() {
    let limits =
        StatsLimits { connection_timeout: Duration::from_millis(200), ..StatsLimits::default() };
    let (node, mut requests) = Node::start_silent(limits);
    let mut slow = UnixStream::connect(node.path()).await.unwrap();
    slow.write_all(b"GET /v1/links HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // More than the kernel buffers for a Unix socket.
    let body = bytes::Bytes::from(vec![b'x'; 16 * 1024 * 1024]);
    let status = hyper::StatusCode::OK;
    let document = Document { status, content_type: "text/plain", body, newest_event: None };
    requests.recv().await.unwrap().reply.send(document).unwrap();
    let mut first = [0; 1000];
    slow.read_exact(&mut first).await.unwrap();
    // The reader sleeps over its deadline; then there is what the kernel has buffered, and the end.
    sleep(Duration::from_millis(600)).await;
    let rest = read_to_end(&mut slow).await;
    assert!(rest.len() < 8 * 1024 * 1024, "{}", rest.len());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_turned_away_and_the_others_served() {
    let limits = StatsLimits { connections_max: 3, ..StatsLimits::default() };
    let node = Node::start(limits);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(UnixStream::connect(node.path()).await.unwrap());
    }
    let mut beyond = UnixStream::connect(node.path()).await.unwrap();
    let answer = read_to_end(&mut beyond).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    held.pop();
    // The place is free as soon as the server has seen the end.
    let freed = async {
        while node.get("/ready").await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, freed).await.unwrap();
    held[0].write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut held[0]).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn many_connections_one_after_the_other_and_at_once() {
    let limits = StatsLimits { connections_max: 64, ..StatsLimits::default() };
    let node = Node::start(limits);
    for _ in 0..200 {
        node.get("/ready").await.unwrap();
    }
    let path = node.path();
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move { client::fetch(&path, "/v1/status", PATIENCE).await })
        })
        .collect();
    for client in clients {
        client.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn client_that_leaves_abandons_its_listing() {
    // Only the client's end can be what ends the request in time.
    let hour = Duration::from_secs(3600);
    let limits =
        StatsLimits { reply_timeout: hour, connection_timeout: hour, ..Default::default() };
    let (node, mut requests) = Node::start_silent(limits);
    let path = node.path();
    let client =
        tokio::spawn(async move { client::fetch(&path, "/v1/links?limit=7", PATIENCE).await });
    let request = requests.recv().await.unwrap();
    assert_eq!(request.what, Question::Links { limit: 7, order: RowOrder::Place });
    let listing = request.answer(&observed(), &extra(), moment(2)).unwrap();
    assert_eq!(listing.empty_listing().links.capacity(), 7);
    assert_eq!(listing.empty_listing().sessions.capacity(), 0);
    client.abort();
    let abandoned = async {
        while !listing.is_abandoned() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, abandoned).await.unwrap();
    listing.complete(&listings(), &mut Recent::default(), &shares(), &opaque(), moment(2));
}

#[tokio::test]
async fn rows_in_order_are_chosen_among_all_rows() {
    let (node, mut requests) = Node::start_silent(StatsLimits::default());
    let path = node.path();
    let uri = "/v1/links?limit=1&order=ping";
    let client = tokio::spawn(async move { client::fetch(&path, uri, PATIENCE).await });
    let request = requests.recv().await.unwrap();
    assert_eq!(request.what, Question::Links { limit: 1, order: RowOrder::Ping });
    let listing = request.answer(&observed(), &extra(), moment(2)).unwrap();
    assert_eq!(listing.empty_listing().links.capacity(), LISTING_ROWS_MAX);
    let mut filled = listings();
    filled[0].listing.as_mut().unwrap().links[1].ping_ns = u64::MAX;
    listing.complete(&filled, &mut Recent::default(), &shares(), &opaque(), moment(2));
    let document: Value = serde_json::from_slice(&client.await.unwrap().unwrap()).unwrap();
    assert_eq!(document["links"].as_array().unwrap().len(), 1);
    assert_eq!(document["links"][0]["link"], "0.2.7");
    // It is younger than any earlier listing could be, but there was none.
    assert_eq!(document["links"][0]["interval"], Value::Null);
    assert_eq!((&document["total"], &document["truncated"]), (&9.into(), &true.into()));
}

#[tokio::test]
async fn order_that_rows_do_not_have_is_refused_with_those_they_have() {
    let node = Node::start(StatsLimits::default());
    let (status, document) = refused(node.get("/v1/sessions?order=ping").await);
    assert_eq!(status, 400);
    let message = document["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("not one of place, bytes, queue"), "{message}");
}

#[tokio::test]
async fn runtime_that_does_not_answer_is_reported() {
    let limits = StatsLimits { reply_timeout: Duration::from_millis(50), ..StatsLimits::default() };
    let (node, mut requests) = Node::start_silent(limits);
    let (status, document) = refused(node.get("/v1/status").await);
    assert_eq!((status, &document["error"]["code"]), (503, &"timeout".into()));
    let dropping = tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            drop(request);
        }
    });
    // The request that timed out is still in front.
    let (status, document) = refused(node.get("/v1/status").await);
    assert_eq!((status, &document["error"]["code"]), (503, &"unavailable".into()));
    dropping.abort();
    let _ = dropping.await;
    let (status, document) = refused(node.get("/v1/status").await);
    assert_eq!((status, &document["error"]["code"]), (503, &"unavailable".into()));
}

#[tokio::test]
async fn requests_that_pile_up_are_refused_at_the_limit() {
    let reply_timeout = Duration::from_millis(10);
    let limits = StatsLimits { reply_timeout, connections_max: 2, ..StatsLimits::default() };
    let (node, mut requests) = Node::start_silent(limits);
    let mut codes = Vec::new();
    for _ in 0..6 {
        let (_, document) = refused(node.get("/v1/status").await);
        codes.push(document["error"]["code"].as_str().unwrap().to_owned());
    }
    assert_eq!(codes, ["timeout", "timeout", "timeout", "timeout", "busy", "busy"]);
    assert_eq!(requests.recv().await.unwrap().what, Question::Status);
}

#[tokio::test]
async fn node_that_is_not_ready_says_what_it_waits_for() {
    let (node, mut requests) = Node::start_silent(StatsLimits::default());
    let path = node.path();
    let client = tokio::spawn(async move { client::fetch(&path, "/ready", PATIENCE).await });
    let mut extra = extra();
    let waiting_for = "core 1".to_owned();
    extra.readiness = crate::documents::Readiness::Starting { waiting_for };
    let request = requests.recv().await.unwrap();
    assert!(request.answer(&observed(), &extra, moment(2)).is_none());
    let error = client.await.unwrap().unwrap_err();
    assert!(error.is_unavailable());
    assert_eq!(error.to_string(), "waystation answered 503: core 1");
}

#[tokio::test]
async fn tcp_address_serves_metrics_and_nothing_else() {
    let mut node = Node::start(StatsLimits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = node.server.clone();
    node.tasks.push(tokio::spawn(async move {
        server.serve_metrics(listener).await;
    }));
    for (path, start) in [("/metrics", "HTTP/1.1 200 "), ("/v1/links", "HTTP/1.1 404 ")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(start), "{path}: {answer}");
        assert!(!answer.contains("/v1/status"), "{answer}");
    }
}

#[test]
fn blocking_client_says_why_there_is_no_answer() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("missing");
    let error = client::get(&missing, "/ready").unwrap_err();
    assert!(matches!(error, ClientError::NoSocket { .. }) && error.is_unavailable());
    assert!(error.to_string().contains("is waystation running?"), "{error}");
    assert!(error.to_string().contains("missing"), "{error}");

    let stale = directory.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let error = client::get(&stale, "/ready").unwrap_err();
    assert!(matches!(error, ClientError::NotListening { .. }) && error.is_unavailable());

    let silent = directory.path().join("silent");
    let _listener = std::os::unix::net::UnixListener::bind(&silent).unwrap();
    let error = client::get_within(&silent, "/ready", Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }) && error.is_unavailable());

    let error = client::get(&silent, "no path").unwrap_err();
    assert!(matches!(error, ClientError::BadUri { .. }) && !error.is_unavailable());
}

#[test]
fn permission_is_told_from_absence() {
    let path = PathBuf::from("/run/x.sock");
    let error = ClientError::PermissionDenied { path };
    assert!(error.is_permission() && !error.is_unavailable());
}

#[tokio::test]
async fn socket_is_for_owner_and_group_only() {
    let node = Node::start(StatsLimits::default());
    let mode = std::fs::metadata(node.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let names = std::fs::read_dir(node.directory.path()).unwrap().count();
    assert_eq!(names, 1, "nothing is left over");
}

#[tokio::test]
async fn socket_of_a_stopped_program_is_replaced_and_a_living_one_is_not() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    drop(bind(&path).unwrap());
    assert!(path.exists(), "a dropped listener leaves its file");
    let _living = bind(&path).unwrap();
    assert!(matches!(bind(&path), Err(BindError::InUse { .. })));
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(bind(&file), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");
    let nowhere = Path::new("/nonexistent/directory/s");
    assert!(matches!(bind(nowhere), Err(BindError::Refused { .. })));
}

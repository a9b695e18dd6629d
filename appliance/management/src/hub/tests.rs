//! The hub over pipes: HTTP, WebSockets, a slow reader, and questions to the node.

use super::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;
use waystation_a2al::hub::{Ignored, SignalFrame};

/// Long enough for anything that has to come, on a machine with much else to do.
const STEP: Duration = Duration::from_secs(60);

/// A hub, and connections through pipes with small buffers, so that a slow reader is soon seen.
struct Bench {
    taken: mpsc::Sender<(DuplexStream, SocketAddr)>,
    figures: watch::Receiver<Arc<HubFigures>>,
    _stop: oneshot::Sender<()>,
    _limits: watch::Sender<HubLimits>,
}

impl Bench {
    fn start(node: Option<mpsc::Sender<NodeQuestion>>) -> Self {
        let (taken, mut arrivals) = mpsc::channel::<(DuplexStream, SocketAddr)>(16);
        let limits = HubLimits::default();
        let mut server = Server::new(Vec::new(), limits, node);
        let (limits, new_limits) = watch::channel(limits);
        let (figures, seen) = watch::channel(Arc::new(server.figures()));
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(async move {
            // Connections are taken in before the hub runs; the pipes keep what is sent.
            while let Some((stream, peer)) = arrivals.recv().await {
                assert!(server.take_in(stream, peer).is_ok());
            }
            server.run(new_limits, figures, stopped).await;
        });
        Self { taken, figures: seen, _stop: stop, _limits: limits }
    }
}

fn peer() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 4000))
}

async fn ask(stream: &mut DuplexStream, target: &str, more: &str) -> String {
    let head = format!(
        "GET {target} HTTP/1.1\r\nhost: hub:4121\r\nconnection: keep-alive, Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = timeout(STEP, stream.read_u8()).await.unwrap().unwrap();
        answer.push(byte);
    }
    String::from_utf8(answer).unwrap()
}

/// A frame of a client, masked with zeros.
fn masked(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut frame = vec![0x82, 0x80 | 126];
    if length < 126 {
        frame[1] = 0x80 | length as u8;
    } else {
        frame.extend(length.to_be_bytes());
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The next message that is short.
async fn unmasked(stream: &mut DuplexStream) -> (u8, Vec<u8>) {
    let read = async {
        let first = stream.read_u8().await?;
        let length = match stream.read_u8().await? {
            126 => usize::from(stream.read_u16().await?),
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        Ok::<_, std::io::Error>((first & 0x0f, payload))
    };
    timeout(STEP, read).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_request_becomes_a_websocket_as_rfc_6455_has_it() {
    let bench = Bench::start(None);
    let (mut near, far) = duplex(4096);
    bench.taken.send((far, peer())).await.unwrap();
    let figures = bench.figures.clone();
    drop(bench.taken);
    let offered = "sec-websocket-protocol: other, a2al.ice.v1\r\norigin: http://hub:4121\r\n";
    let answer = ask(&mut near, "/signal", offered).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    // The key and its answer are those of the RFC's §1.3.
    assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert!(answer.contains("sec-websocket-protocol: a2al.ice.v1\r\n"), "{answer}");
    let register = SignalFrame::Register { agent: "me".to_owned() }.encode();
    near.write_all(&masked(&register)).await.unwrap();
    let acknowledged = SignalFrame::Acknowledged.encode();
    assert_eq!(unmasked(&mut near).await, (2, acknowledged));
    near.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(unmasked(&mut near).await, (10, Vec::new()), "a pong");
    drop(near);
    let mut figures = figures;
    let is_empty = |figures: &Arc<HubFigures>| {
        figures.statistics.registrations == 1 && figures.gauges == HubGauges::default()
    };
    timeout(STEP, figures.wait_for(is_empty)).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_no_request_for_a_websocket_is_told_so() {
    let head = |line: &str, rest: &str| format!("{line} HTTP/1.1\r\nhost: hub\r\n{rest}\r\n");
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let cases = [
        (head("GET /signal", ""), 426),
        (head("POST /signal", upgrade), 405),
        (head("GET /signal", &format!("{upgrade}{key}sec-websocket-version: 12\r\n")), 426),
        (head("GET /signal", &format!("{upgrade}sec-websocket-version: 13\r\n")), 400),
        (
            head(
                "GET /signal",
                &format!("{upgrade}{key}sec-websocket-version: 13\r\norigin: http://other\r\n"),
            ),
            403,
        ),
        (head("GET /other", &format!("{upgrade}{key}sec-websocket-version: 13\r\n")), 404),
        (head("GET /ice", &format!("{upgrade}{key}sec-websocket-version: 13\r\n")), 400),
    ];
    let bench = Bench::start(None);
    let mut clients = Vec::new();
    for (request, status) in cases {
        let (mut near, far) = duplex(4096);
        bench.taken.send((far, peer())).await.unwrap();
        near.write_all(request.as_bytes()).await.unwrap();
        clients.push((near, request, status));
    }
    drop(bench.taken);
    let count = clients.len() as u64;
    for (mut near, request, status) in clients {
        let mut answer = String::new();
        timeout(STEP, near.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{answer}");
    }
    let mut figures = bench.figures;
    let is_counted = |figures: &Arc<HubFigures>| {
        let refused: u64 = document::refused(figures).iter().map(|(_, count)| count).sum();
        refused == count && figures.gauges == HubGauges::default()
    };
    timeout(STEP, figures.wait_for(is_counted)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_and_the_other_told() {
    let bench = Bench::start(None);
    let (mut slow, far_slow) = duplex(1024);
    let (mut fast, far_fast) = duplex(64 * 1024);
    bench.taken.send((far_slow, peer())).await.unwrap();
    bench.taken.send((far_fast, peer())).await.unwrap();
    drop(bench.taken);
    assert!(ask(&mut slow, "/ice?room=r", "").await.starts_with("HTTP/1.1 101 "));
    assert!(ask(&mut fast, "/ice?room=r", "").await.starts_with("HTTP/1.1 101 "));
    // More than waits for one connection, far less than a room may say.
    for _ in 0..8 {
        fast.write_all(&masked(&[7; 30_000])).await.unwrap();
    }
    let (kind, reason) = unmasked(&mut fast).await;
    assert_eq!((kind, &reason[2..]), (8, &b"other_left"[..]));
    let mut figures = bench.figures;
    let is_cut = |figures: &Arc<HubFigures>| {
        figures.statistics.closed(CloseReason::SlowReader) == 1 && figures.outgoing_bytes == 0
    };
    timeout(STEP, figures.wait_for(is_cut)).await.unwrap().unwrap();
}

#[tokio::test]
async fn questions_go_to_the_node_and_its_answers_come_back() {
    let (node, mut questions) = mpsc::channel::<NodeQuestion>(4);
    let bench = Bench::start(Some(node));
    let (mut near, far) = duplex(4096);
    bench.taken.send((far, peer())).await.unwrap();
    drop(bench.taken);
    assert!(ask(&mut near, "/signal", "").await.starts_with("HTTP/1.1 101 "));
    let question = |message: &[u8]| SignalFrame::Dht { message: message.to_vec() }.encode();
    near.write_all(&masked(&question(b"silence"))).await.unwrap();
    near.write_all(&masked(&question(b"question"))).await.unwrap();
    let unanswered = timeout(STEP, questions.recv()).await.unwrap().unwrap();
    unanswered.answer(None);
    let asked = timeout(STEP, questions.recv()).await.unwrap().unwrap();
    assert_eq!((asked.source, &*asked.request), (peer(), &b"question"[..]));
    asked.answer(Some(b"answer".to_vec()));
    assert_eq!(unmasked(&mut near).await, (2, question(b"answer")));
}

#[tokio::test]
async fn questions_beyond_the_room_for_answers_are_counted_and_no_answer_is_lost() {
    const MORE: usize = 5;
    // The node would take more questions than there is room for answers.
    let (node, mut questions) = mpsc::channel::<NodeQuestion>(2 * QUESTIONS_WAITING_MAX);
    let bench = Bench::start(Some(node));
    let (mut near, far) = duplex(64 * 1024);
    bench.taken.send((far, peer())).await.unwrap();
    drop(bench.taken);
    assert!(ask(&mut near, "/signal", "").await.starts_with("HTTP/1.1 101 "));
    let question = |message: &[u8]| SignalFrame::Dht { message: message.to_vec() }.encode();
    for _ in 0..QUESTIONS_WAITING_MAX + MORE {
        near.write_all(&masked(&question(b"question"))).await.unwrap();
    }
    let mut figures = bench.figures;
    let is_counted = |figures: &Arc<HubFigures>| {
        figures.statistics.ignored(Ignored::QuestionsWaiting) == MORE as u64
    };
    timeout(STEP, figures.wait_for(is_counted)).await.unwrap().unwrap();
    // All at once, faster than the hub takes them.
    for _ in 0..QUESTIONS_WAITING_MAX {
        questions.try_recv().unwrap().answer(Some(b"answer".to_vec()));
    }
    for _ in 0..QUESTIONS_WAITING_MAX {
        assert_eq!(unmasked(&mut near).await, (2, question(b"answer")));
    }
    let are_answered =
        |figures: &Arc<HubFigures>| figures.statistics.answers == QUESTIONS_WAITING_MAX as u64;
    timeout(STEP, figures.wait_for(are_answered)).await.unwrap().unwrap();
    near.write_all(&masked(&question(b"another"))).await.unwrap();
    assert!(timeout(STEP, questions.recv()).await.unwrap().is_some(), "there is room again");
}

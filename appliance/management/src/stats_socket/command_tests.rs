//! Commands and events over a real Unix socket, with a runtime played by hand.

use super::tests::{Node, PATIENCE, refused};
use super::*;
use crate::journal::EventLines;
use crate::limits::EVENT_FOLLOWERS_MAX;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use waystation_relay::ids::{CoreId, LegTag, LinkTag};

fn post(uri: &str) -> Vec<u8> {
    format!("POST {uri} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn commands_of_the_own_user_reach_the_runtime_as_they_were_meant() {
    let (node, mut requests) = Node::start_silent(StatsLimits::default());
    let (core, slot, generation) = (CoreId(1), 2, 3);
    let identity: waystation_astral::identity::Identity = crate::fixtures::PEER.parse().unwrap();
    for (uri, order) in [
        ("/v1/links/close?id=1.2.3", Order::CloseLink(LinkTag { core, slot, generation })),
        ("/v1/sessions/close?id=1.2.3", Order::CloseSession(LegTag { core, slot, generation })),
        (
            "/v1/drain?deadline=90s&until_links=3",
            Order::Drain { deadline: Duration::from_secs(90), until_links: 3 },
        ),
        (
            "/v1/drain",
            Order::Drain { deadline: crate::limits::DRAIN_DEADLINE_DEFAULT, until_links: 0 },
        ),
        (
            &*format!("/v1/links/dial?endpoint=tcp:[::1]:7&identity={identity}"),
            Order::Dial { endpoint: "tcp:[::1]:7".parse().unwrap(), identity },
        ),
    ] {
        let request = post(uri);
        let answered = async {
            let request = requests.recv().await.unwrap();
            assert_eq!(request.what, Question::Order(order));
            request.reply.send(Document::json(&json!({ "done": true }))).unwrap();
        };
        let (answer, ()) = tokio::join!(node.raw(&request), answered);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{uri}: {answer}");
    }
}

#[tokio::test]
async fn commands_that_make_no_sense_are_refused_before_the_runtime_hears_of_them() {
    let (node, mut requests) = Node::start_silent(StatsLimits::default());
    for (uri, status, code) in [
        ("/v1/links/close", 400, "missing_parameter"),
        ("/v1/links/close?id=1.2", 400, "bad_value"),
        ("/v1/links/close?id=1.2.3&id=1.2.3", 400, "repeated_parameter"),
        ("/v1/sessions/close?session=1.2.3", 400, "unknown_parameter"),
        ("/v1/links/dial?endpoint=tcp:x&identity=02", 400, "bad_value"),
        ("/v1/links/dial?endpoint=tcp:192.0.2.1:1", 400, "missing_parameter"),
        ("/v1/links", 405, "method_not_allowed"),
    ] {
        let answer = node.raw(&post(uri)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{uri}: {answer}");
        assert!(answer.contains(code), "{uri}: {answer}");
    }
    let (status, document) = refused(node.get("/v1/links/close?id=1.2.3").await);
    assert_eq!((status, &document["error"]["code"]), (405, &json!("method_not_allowed")));
    assert!(requests.try_recv().is_err(), "nothing was asked");
}

/// Answers the next request with these events.
async fn tell(requests: &mut tokio::sync::mpsc::Receiver<StatsRequest>, text: &str, newest: u64) {
    let request = timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
    assert!(matches!(request.what, Question::Events { .. }), "{:?}", request.what);
    let lines = EventLines { text: text.to_owned(), newest };
    // A reader that has gone needs no answer.
    let _ = request.reply.send(Document::events(lines));
}

async fn follow(node: &Node) -> UnixStream {
    let mut stream = UnixStream::connect(node.path()).await.unwrap();
    let request = b"GET /v1/events?follow=true HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    stream
}

async fn read_until(stream: &mut UnixStream, wanted: &str) {
    let mut text = String::new();
    let mut piece = [0; 1024];
    while !text.contains(wanted) {
        let bytes = timeout(PATIENCE, stream.read(&mut piece)).await.unwrap().unwrap();
        assert!(bytes > 0, "ended: {text}");
        text.push_str(std::str::from_utf8(&piece[..bytes]).unwrap());
    }
}

#[tokio::test]
async fn follower_gets_events_behind_the_last_as_they_come_and_outlasts_the_limit() {
    let limit = Duration::from_millis(100);
    let limits = StatsLimits { connection_timeout: limit, ..StatsLimits::default() };
    let (node, mut requests) = Node::start_silent(limits);
    let mut stream = follow(&node).await;
    tell(&mut requests, "{\"sequence\":7}\n", 7).await;
    read_until(&mut stream, "{\"sequence\":7}").await;
    tokio::time::sleep(3 * limit).await;
    let request = requests.recv().await.unwrap();
    assert_eq!(request.what, Question::Events { after: Some(7), follow: true });
    let lines = EventLines { text: "{\"sequence\":8}\n".to_owned(), newest: 8 };
    request.reply.send(Document::events(lines)).unwrap();
    read_until(&mut stream, "{\"sequence\":8}").await;
    // A reader that leaves takes its question back.
    drop(stream);
    let mut last = requests.recv().await.unwrap();
    timeout(PATIENCE, last.reply.closed()).await.unwrap();
}

#[tokio::test]
async fn followers_beyond_the_limit_are_turned_away_and_others_are_served() {
    let (node, mut requests) = Node::start_silent(StatsLimits::default());
    let mut followers = Vec::new();
    for _ in 0..EVENT_FOLLOWERS_MAX {
        let mut stream = follow(&node).await;
        tell(&mut requests, "{}\n", 1).await;
        read_until(&mut stream, "{}").await;
        // What it asks next is left waiting.
        followers.push((stream, requests.recv().await.unwrap()));
    }
    let mut beyond = follow(&node).await;
    read_until(&mut beyond, "HTTP/1.1 503 ").await;
    followers.pop();
    let freed = async {
        loop {
            let mut stream = follow(&node).await;
            tokio::select! {
                () = tell(&mut requests, "{}\n", 1) => return,
                () = read_until(&mut stream, "HTTP/1.1 503 ") => {}
            }
        }
    };
    timeout(PATIENCE, freed).await.unwrap();
}

/// Bytes of one answer with events: a few of them are more than the kernel buffers for a socket.
const PIECE_BYTES: usize = 256 * 1024;

/// A node where as much happens as its readers can take.
async fn tell_much(mut requests: tokio::sync::mpsc::Receiver<StatsRequest>) {
    while let Some(request) = requests.recv().await {
        let Question::Events { after, .. } = request.what else {
            panic!("nobody asks for {:?}", request.what)
        };
        let newest = after.unwrap_or_default() + 1;
        let text = format!("{newest:06}{}\n", ".".repeat(PIECE_BYTES - 7));
        // A reader that has gone needs no answer.
        let _ = request.reply.send(Document::events(EventLines { text, newest }));
    }
}

/// Waits until the server has closed, whatever is still to be read.
async fn closed(stream: &UnixStream) {
    while !stream.ready(Interest::READABLE).await.unwrap().is_read_closed() {
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn followers_that_never_read_are_cut_within_their_limit_and_hold_up_nobody() {
    let limit = Duration::from_secs(2);
    let limits = StatsLimits { event_reader_timeout: limit, ..StatsLimits::default() };
    let (node, requests) = Node::start_silent(limits);
    let telling = tokio::spawn(tell_much(requests));
    let mut reader = follow(&node).await;
    read_until(&mut reader, "000001").await;
    let begun = Instant::now();
    let mut stuck = Vec::new();
    for _ in 1..EVENT_FOLLOWERS_MAX {
        stuck.push(follow(&node).await);
    }
    // Who reads gets everything meanwhile, many times what the others have left unread.
    let (mut piece, mut read_bytes) = (vec![0; PIECE_BYTES], 0);
    while read_bytes < 20 * PIECE_BYTES {
        let bytes = timeout(PATIENCE, reader.read(&mut piece)).await.unwrap().unwrap();
        assert!(bytes > 0, "ended after {read_bytes}");
        read_bytes += bytes;
    }
    assert!(begun.elapsed() < limit, "{:?}: the others are still waited for", begun.elapsed());
    for stream in &stuck {
        timeout(PATIENCE, closed(stream)).await.unwrap();
    }
    let took = begun.elapsed();
    assert!(took >= limit && took < StatsLimits::default().event_reader_timeout, "{took:?}");
    // Their places are free at once.
    for stream in &mut stuck {
        *stream = follow(&node).await;
        read_until(stream, "000001").await;
    }
    telling.abort();
}

//! What the pages of a call load, and find each other by: a server for each end, where that end is.
//!
//! As much of HTTP/1.1 as a browser asks for: one request on a connection, which is then closed.

use crate::scene::{End, Scene};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const PAGE: &str = include_str!("page.html");
/// Longest body that a page sends: a description of its end.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long one request may take, and how soon a server notices that it is to end.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a call may take, with the start of the browsers.
const CALL_LIMIT: Duration = Duration::from_secs(55);

/// A call of two pages.
pub(crate) struct Call {
    shared: Arc<Shared>,
    told: Receiver<Value>,
}

struct Shared {
    turn: Value,
    /// What the pages have for each other, for `a` and for `b`.
    boxes: Mutex<[Option<String>; 2]>,
    told: Mutex<Sender<Value>>,
}

/// What the pages have told.
pub(crate) struct Told<'a>(&'a Receiver<Value>);

impl Call {
    pub(crate) fn new(url: &str, user: (&str, &str)) -> Self {
        let (sender, told) = channel();
        let turn = json!({ "url": url, "username": user.0, "credential": user.1 });
        let shared = Shared { turn, boxes: Mutex::default(), told: Mutex::new(sender) };
        Self { shared: Arc::new(shared), told }
    }

    /// The server of one of the pages.
    pub(crate) fn caller(&self, scene: &Scene, end: End) -> Caller {
        let listener = scene.at(end, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_over = Arc::new(AtomicBool::new(false));
        let (shared, over) = (Arc::clone(&self.shared), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A browser may open a connection and not use it, and others meanwhile: each
                    // gets a thread, which ends with its request or at the limit for one.
                    Ok((stream, _)) => {
                        let shared = Arc::clone(&shared);
                        std::thread::spawn(move || answer(&shared, end, stream));
                    }
                    Err(_) => std::thread::sleep(LOOK_EVERY),
                }
            }
        });
        let url = format!("http://127.0.0.1:{port}/");
        Caller { url, is_over, thread: Some(thread) }
    }

    pub(crate) fn told(&self) -> Told<'_> {
        Told(&self.told)
    }
}

impl Told<'_> {
    /// What the next page tells; what else is known if none does.
    pub(crate) fn hear(&self, log: &dyn Fn() -> String) -> Value {
        let told = self.0.recv_timeout(CALL_LIMIT);
        told.unwrap_or_else(|error| panic!("no page told anything: {error}\n{}", log()))
    }
}

/// A running server of a page. Ends when dropped.
pub(crate) struct Caller {
    pub(crate) url: String,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(shared: &Shared, end: End, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(REQUEST_LIMIT))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse::<usize>().unwrap_or(0).min(BODY_BYTES_MAX);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (status, kind, text) = respond(shared, end, method, path, body);
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{text}"
    )
}

fn respond(
    shared: &Shared,
    end: End,
    method: &str,
    path: &str,
    body: String,
) -> (&'static str, &'static str, String) {
    let ok = |kind, text| ("200 OK", kind, text);
    let empty = |status| (status, "text/plain", String::new());
    let mut boxes = shared.boxes.lock();
    match (method, path) {
        ("GET", "/") => ok("text/html", PAGE.to_owned()),
        ("GET", "/who") => {
            let mut who = shared.turn.clone();
            let other = if end == End::A { End::B } else { End::A };
            who["self"] = end.name().into();
            who["other"] = other.name().into();
            ok("application/json", who.to_string())
        }
        ("POST", "/for/a") => {
            boxes[0] = Some(body);
            empty("204 No Content")
        }
        ("POST", "/for/b") => {
            boxes[1] = Some(body);
            empty("204 No Content")
        }
        ("GET", "/for/a" | "/for/b") => match boxes[usize::from(path == "/for/b")].take() {
            Some(text) => ok("application/json", text),
            None => empty("204 No Content"),
        },
        ("POST", "/told") => {
            let told = serde_json::from_str(&body).unwrap_or(Value::String(body));
            // Fails only when the test is over.
            let _ = shared.told.lock().send(told);
            empty("204 No Content")
        }
        _ => empty("404 Not Found"),
    }
}

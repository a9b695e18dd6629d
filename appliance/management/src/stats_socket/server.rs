//! Speaks HTTP/1.1: one request per connection, everything bounded in bytes and time.
//!
//! Runs as tokio tasks on the management thread. A connection answers one request and is closed, so
//! there is no idle state to account for, and a client that leaves abandons its request. One
//! deadline covers a connection from accept to the last byte, so a reader that is slow, silent or
//! gone is cut. It never waits for a data core itself: the runtime answers, or the client gets
//! status 503.

use super::event_stream::{self, EventStream};
use super::request::{Document, Order, Question, StatsRequest};
use super::routes::{self, Refusal, Surface};
use crate::dht::limits::LOOK_UP_TIMEOUT;
use crate::limits::{
    EVENT_FOLLOWERS_MAX, EVENT_READER_TIMEOUT, EVENT_WAIT, STATS_ACCEPT_PAUSE,
    STATS_CONNECTION_TIMEOUT, STATS_CONNECTIONS_MAX, STATS_DIAL_TIMEOUT, STATS_HEAD_TIMEOUT,
    STATS_HEADERS_MAX, STATS_LISTENERS_MAX, STATS_REPLY_TIMEOUT, STATS_REQUEST_BYTES_MAX,
};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// What is sent to a connection beyond the limit, before it is closed.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\n\
    content-length: 90\r\n\
    connection: close\r\n\r\n\
    {\"schema\":1,\"error\":{\"code\":\"busy\",\
    \"message\":\"too many connections to the stats socket\"}}\n";

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct StatsLimits {
    /// Connections of one listener at a time.
    pub connections_max: usize,
    /// Time for the request to arrive.
    pub head_timeout: Duration,
    /// Time for the runtime to answer.
    pub reply_timeout: Duration,
    /// Time for the whole connection.
    pub connection_timeout: Duration,
    /// Time that one who follows the events may leave a piece unread.
    pub event_reader_timeout: Duration,
}

impl Default for StatsLimits {
    fn default() -> Self {
        Self {
            connections_max: STATS_CONNECTIONS_MAX,
            head_timeout: STATS_HEAD_TIMEOUT,
            reply_timeout: STATS_REPLY_TIMEOUT,
            connection_timeout: STATS_CONNECTION_TIMEOUT,
            event_reader_timeout: EVENT_READER_TIMEOUT,
        }
    }
}

/// The HTTP side. Clones ask the same runtime.
#[derive(Clone, Debug)]
pub struct StatsServer {
    requests: mpsc::Sender<StatsRequest>,
    limits: StatsLimits,
    followers: Arc<Semaphore>,
}

/// Who is at the other end, and whether its connection has a reason to last.
#[derive(Clone, Debug)]
struct Client {
    on: Surface,
    may_command: bool,
    /// Answers under way that may take longer than a connection usually lasts.
    lasting: Arc<AtomicUsize>,
    /// Told when an answer has ended because nobody reads it.
    cut: Arc<Notify>,
}

impl Client {
    fn last(&self) -> Lasting {
        self.lasting.fetch_add(1, Ordering::Relaxed);
        Lasting(Arc::clone(&self.lasting))
    }
}

/// Held while a connection may last.
#[derive(Debug)]
struct Lasting(Arc<AtomicUsize>);

impl Drop for Lasting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Answer = Either<Full<Bytes>, EventStream>;

/// A server, and the requests that the runtime answers.
pub fn channel(limits: StatsLimits) -> (StatsServer, mpsc::Receiver<StatsRequest>) {
    // One request per connection, so the channel is full only with requests that timed out.
    let (requests, receiver) = mpsc::channel(STATS_LISTENERS_MAX * limits.connections_max.max(1));
    let followers = Arc::new(Semaphore::new(EVENT_FOLLOWERS_MAX));
    (StatsServer { requests, limits, followers }, receiver)
}

impl StatsServer {
    /// Serves every path on a Unix socket, until the future is dropped; that closes its
    /// connections.
    pub async fn serve_socket(&self, listener: UnixListener) -> Infallible {
        let accept = || async {
            let stream = listener.accept().await?.0;
            let may_command = may_command(&stream);
            Ok((stream, may_command))
        };
        self.serve(Surface::Everything, accept).await
    }

    /// Serves `/metrics` alone on a TCP address, until the future is dropped.
    pub async fn serve_metrics(&self, listener: TcpListener) -> Infallible {
        self.serve(Surface::Metrics, || async { Ok((listener.accept().await?.0, false)) }).await
    }

    async fn serve<S, A, F>(&self, on: Surface, accept: A) -> Infallible
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Fn() -> F,
        F: Future<Output = io::Result<(S, bool)>>,
    {
        let mut connections = JoinSet::new();
        loop {
            match accept().await {
                Ok((stream, may_command)) => {
                    while connections.try_join_next().is_some() {}
                    if connections.len() < self.limits.connections_max {
                        let client = Client {
                            on,
                            may_command,
                            lasting: Arc::default(),
                            cut: Arc::default(),
                        };
                        connections.spawn(self.clone().connection(stream, client));
                    } else {
                        turn_away(stream).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the stats socket");
                    sleep(STATS_ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection<S>(self, stream: S, client: Client)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| self.respond(request, &client));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .keep_alive(false)
            .max_headers(STATS_HEADERS_MAX)
            .max_buf_size(STATS_REQUEST_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        loop {
            let outcome = tokio::select! {
                outcome = timeout(self.limits.connection_timeout, &mut connection) => outcome,
                () = client.cut.notified() => return,
            };
            match outcome {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    return tracing::debug!(%error, "a connection to the stats socket failed");
                }
                Err(_elapsed) if client.lasting.load(Ordering::Relaxed) > 0 => {}
                Err(_elapsed) => {
                    return tracing::debug!("cut a slow connection to the stats socket");
                }
            }
        }
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        client: &Client,
    ) -> Result<Response<Answer>, Infallible> {
        let query = request.uri().query().unwrap_or_default();
        let (method, path) = (request.method(), request.uri().path());
        let question = routes::question(method, path, query, client.on, client.may_command);
        let mut allowed = None;
        let document = match question {
            Ok(Question::Events { after, follow: true }) => {
                return Ok(self.follow(after, client).await);
            }
            Ok(question @ Question::Order(Order::Dial { .. })) => {
                let _lasting = client.last();
                self.ask_within(question, STATS_DIAL_TIMEOUT).await
            }
            Ok(Question::Dht(question)) if question.asks_the_network() => {
                let _lasting = client.last();
                // The node answers in any case; a little later than it gives up itself.
                self.ask_within(Question::Dht(question), 2 * LOOK_UP_TIMEOUT).await
            }
            Ok(question) => self.ask(question).await,
            Err(refusal) => {
                if let Refusal::Method { allowed: verb } = &refusal {
                    allowed = Some(verb.name());
                }
                refusal.document()
            }
        };
        let mut response = response(
            document.status,
            document.content_type,
            Either::Left(Full::new(document.body)),
        );
        if let Some(allowed) = allowed {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        }
        Ok(response)
    }

    /// Events from now on, and those behind the number that is given.
    async fn follow(&self, after: Option<u64>, client: &Client) -> Response<Answer> {
        let Ok(permit) = Arc::clone(&self.followers).try_acquire_owned() else {
            let busy = unavailable("busy", "too many readers follow the events");
            return response(busy.status, busy.content_type, Either::Left(Full::new(busy.body)));
        };
        let first = self.ask(Question::Events { after, follow: false }).await;
        if first.newest_event.is_none() {
            return response(first.status, first.content_type, Either::Left(Full::new(first.body)));
        }
        let (status, content_type) = (first.status, first.content_type);
        let held = (permit, client.last());
        let stream = event_stream::begin(self.clone(), &first, held, Arc::clone(&client.cut));
        response(status, content_type, Either::Right(stream))
    }

    pub(super) fn event_reader_timeout(&self) -> Duration {
        self.limits.event_reader_timeout
    }

    /// Events behind this number, as soon as there are any; `None` when there will be none.
    pub(super) async fn newer_events(&self, after: u64) -> Option<Document> {
        loop {
            let question = Question::Events { after: Some(after), follow: true };
            let document = self.ask_within(question, EVENT_WAIT).await;
            if document.newest_event.is_some() {
                return Some(document);
            }
            if self.requests.is_closed() {
                return None;
            }
        }
    }

    async fn ask(&self, what: Question) -> Document {
        self.ask_within(what, self.limits.reply_timeout).await
    }

    async fn ask_within(&self, what: Question, limit: Duration) -> Document {
        let (reply, answer) = oneshot::channel();
        match self.requests.try_send(StatsRequest { what, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return unavailable("busy", "the management core has too many requests to answer");
            }
            Err(TrySendError::Closed(_)) => {
                return unavailable("unavailable", "the node is stopping");
            }
        }
        match timeout(limit, answer).await {
            Ok(Ok(document)) => document,
            Ok(Err(_dropped)) => unavailable("unavailable", "the management core does not answer"),
            Err(_elapsed) => unavailable("timeout", "the management core did not answer in time"),
        }
    }
}

fn response(status: StatusCode, content_type: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether the kernel says that the peer is the user that this program runs as, or root.
pub(crate) fn may_command(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

fn unavailable(code: &str, message: &str) -> Document {
    Document::unavailable(code, message)
}

/// Sends what fits into the socket's buffer, which is empty, and closes.
async fn turn_away<S: AsyncWrite + Unpin>(mut stream: S) {
    // A peer that has gone already needs no answer.
    let _ = timeout(Duration::from_millis(1), stream.write_all(BUSY)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_answer_has_the_length_it_says() {
        let text = std::str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        let value: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(value["error"]["code"], "busy");
    }
}

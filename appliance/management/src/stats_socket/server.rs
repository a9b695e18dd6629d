//! Speaks HTTP/1.1: one request per connection, everything bounded in bytes and time.
//!
//! Runs as tokio tasks on the management thread. A connection answers one request and is closed, so
//! there is no idle state to account for, and a client that leaves abandons its request. One
//! deadline covers a connection from accept to the last byte, so a reader that is slow, silent or
//! gone is cut. It never waits for a data core itself: the runtime answers, or the client gets
//! status 503.

use super::request::{Document, Question, StatsRequest};
use super::routes::{self, Refusal, Surface};
use crate::limits::{
    STATS_ACCEPT_PAUSE, STATS_CONNECTION_TIMEOUT, STATS_CONNECTIONS_MAX, STATS_HEAD_TIMEOUT,
    STATS_HEADERS_MAX, STATS_LISTENERS_MAX, STATS_REPLY_TIMEOUT, STATS_REQUEST_BYTES_MAX,
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
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
}

impl Default for StatsLimits {
    fn default() -> Self {
        Self {
            connections_max: STATS_CONNECTIONS_MAX,
            head_timeout: STATS_HEAD_TIMEOUT,
            reply_timeout: STATS_REPLY_TIMEOUT,
            connection_timeout: STATS_CONNECTION_TIMEOUT,
        }
    }
}

/// The HTTP side. Clones ask the same runtime.
#[derive(Clone, Debug)]
pub struct StatsServer {
    requests: mpsc::Sender<StatsRequest>,
    limits: StatsLimits,
}

/// A server, and the requests that the runtime answers.
pub fn channel(limits: StatsLimits) -> (StatsServer, mpsc::Receiver<StatsRequest>) {
    // One request per connection, so the channel is full only with requests that timed out.
    let (requests, receiver) = mpsc::channel(STATS_LISTENERS_MAX * limits.connections_max.max(1));
    (StatsServer { requests, limits }, receiver)
}

impl StatsServer {
    /// Serves every path on a Unix socket, until the future is dropped; that closes its
    /// connections.
    pub async fn serve_socket(&self, listener: UnixListener) -> Infallible {
        self.serve(Surface::Everything, || async { Ok(listener.accept().await?.0) }).await
    }

    /// Serves `/metrics` alone on a TCP address, until the future is dropped.
    pub async fn serve_metrics(&self, listener: TcpListener) -> Infallible {
        self.serve(Surface::Metrics, || async { Ok(listener.accept().await?.0) }).await
    }

    async fn serve<S, A, F>(&self, on: Surface, accept: A) -> Infallible
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Fn() -> F,
        F: Future<Output = io::Result<S>>,
    {
        let mut connections = JoinSet::new();
        loop {
            match accept().await {
                Ok(stream) => {
                    while connections.try_join_next().is_some() {}
                    if connections.len() < self.limits.connections_max {
                        connections.spawn(self.clone().connection(stream, on));
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

    async fn connection<S>(self, stream: S, on: Surface)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| self.respond(request, on));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .keep_alive(false)
            .max_headers(STATS_HEADERS_MAX)
            .max_buf_size(STATS_REQUEST_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        match timeout(self.limits.connection_timeout, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection to the stats socket failed"),
            Err(_elapsed) => tracing::debug!("cut a slow connection to the stats socket"),
        }
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        on: Surface,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let query = request.uri().query().unwrap_or_default();
        let question = routes::question(request.method(), request.uri().path(), query, on);
        let refused_method = question == Err(Refusal::Method);
        let document = match question {
            Ok(question) => self.ask(question).await,
            Err(refusal) => refusal.document(),
        };
        let mut response = Response::new(Full::new(document.body));
        *response.status_mut() = document.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(document.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if refused_method {
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        Ok(response)
    }

    async fn ask(&self, what: Question) -> Document {
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
        match timeout(self.limits.reply_timeout, answer).await {
            Ok(Ok(document)) => document,
            Ok(Err(_dropped)) => unavailable("unavailable", "the management core does not answer"),
            Err(_elapsed) => unavailable("timeout", "the management core did not answer in time"),
        }
    }
}

fn unavailable(code: &str, message: &str) -> Document {
    Document::error(StatusCode::SERVICE_UNAVAILABLE, code, message)
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

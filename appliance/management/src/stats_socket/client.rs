//! The client of the stats socket, for the sub-commands of the program.
//!
//! Called from a program's main thread, outside of any tokio runtime: a request builds a small one
//! of its own. Answers are bounded in bytes and time.

use crate::limits::{CLIENT_ANSWER_BYTES_MAX, CLIENT_TIMEOUT};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error(
        "there is no socket at {}: is waystation running? (--socket PATH if it is elsewhere)",
        path.display()
    )]
    NoSocket { path: PathBuf },
    /// Nobody listens on the socket.
    #[error("nobody answers at {}: is waystation running?", path.display())]
    NotListening { path: PathBuf },
    /// This user may not connect.
    #[error(
        "no permission to connect to {}: run this as the user of waystation, as a member of its \
         group, or as root",
        path.display()
    )]
    PermissionDenied { path: PathBuf },
    /// No answer in time.
    #[error("no answer from {} within {seconds} s", path.display())]
    Timeout { path: PathBuf, seconds: u64 },
    /// The connection failed otherwise.
    #[error("cannot talk to {}: {error}", path.display())]
    Connection { path: PathBuf, error: io::Error },
    /// What answers does not speak HTTP, or hung up.
    #[error("what answers at {} does not speak HTTP as it should: {error}", path.display())]
    Protocol { path: PathBuf, error: hyper::Error },
    /// A path that cannot be asked for.
    #[error("{uri} is not a path that can be asked for")]
    BadUri { uri: String },
    /// The answer is longer than any should be.
    #[error("the answer of {} is longer than {CLIENT_ANSWER_BYTES_MAX} bytes", path.display())]
    TooLong { path: PathBuf },
    /// The node refused.
    #[error("waystation answered {status}: {message}")]
    Refused {
        /// The HTTP status code.
        status: u16,
        /// The message of the error object, or the body's beginning.
        message: String,
        /// The whole body; `/ready` says what it waits for.
        body: Vec<u8>,
    },
}

impl ClientError {
    /// Whether another user could have got an answer (exit code 77 of sysexits).
    pub fn is_permission(&self) -> bool {
        match self {
            Self::PermissionDenied { .. } => true,
            Self::Refused { status, .. } => *status == StatusCode::FORBIDDEN.as_u16(),
            _ => false,
        }
    }

    /// Whether a running and ready program would have answered (exit code 69 of sysexits).
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::NoSocket { .. }
            | Self::NotListening { .. }
            | Self::Timeout { .. }
            | Self::Connection { .. } => true,
            Self::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
            Self::PermissionDenied { .. }
            | Self::Protocol { .. }
            | Self::BadUri { .. }
            | Self::TooLong { .. } => false,
        }
    }
}

/// Asks for a path with its parameters, such as `/v1/links?limit=10`, and waits for the answer.
///
/// Must not be called inside a tokio runtime.
///
/// # Errors
/// See [`ClientError`]; any status but 200 is [`ClientError::Refused`].
pub fn get(path: &Path, uri: &str) -> Result<Vec<u8>, ClientError> {
    get_within(path, uri, CLIENT_TIMEOUT)
}

/// Has something done, such as `/v1/links/close?id=0.1.2`, and waits for the outcome.
///
/// Must not be called inside a tokio runtime.
///
/// # Errors
/// See [`get`].
pub fn post(path: &Path, uri: &str, limit: Duration) -> Result<Vec<u8>, ClientError> {
    within(path, limit, exchange(path, Method::POST, uri))
}

/// Asks for something that goes on, and gives each piece of the answer to `take` as it comes, until
/// the other side ends it or `take` fails.
///
/// Must not be called inside a tokio runtime.
///
/// # Errors
/// See [`get`]; [`ClientError::Connection`] with the error of `take`.
pub fn follow(
    path: &Path,
    uri: &str,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ClientError> {
    let failed = |error| ClientError::Connection { path: path.to_owned(), error };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(failed)?.block_on(listen(path, uri, take))
}

/// [`get`] with a deadline of the caller's.
///
/// # Errors
/// See [`get`].
pub fn get_within(path: &Path, uri: &str, limit: Duration) -> Result<Vec<u8>, ClientError> {
    within(path, limit, exchange(path, Method::GET, uri))
}

fn within(
    path: &Path,
    limit: Duration,
    exchange: impl Future<Output = Result<Vec<u8>, ClientError>>,
) -> Result<Vec<u8>, ClientError> {
    let failed = |error| ClientError::Connection { path: path.to_owned(), error };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(failed)?.block_on(timed(path, limit, exchange))
}

/// [`get_within`] for callers inside a tokio runtime.
///
/// # Errors
/// See [`get`].
pub async fn fetch(path: &Path, uri: &str, limit: Duration) -> Result<Vec<u8>, ClientError> {
    timed(path, limit, exchange(path, Method::GET, uri)).await
}

async fn timed(
    path: &Path,
    limit: Duration,
    exchange: impl Future<Output = Result<Vec<u8>, ClientError>>,
) -> Result<Vec<u8>, ClientError> {
    match timeout(limit, exchange).await {
        Ok(answer) => answer,
        Err(_elapsed) => {
            Err(ClientError::Timeout { path: path.to_owned(), seconds: limit.as_secs() })
        }
    }
}

async fn exchange(path: &Path, method: Method, uri: &str) -> Result<Vec<u8>, ClientError> {
    converse(path, method, uri, async |response| whole(path, response).await).await
}

/// All of an answer, within its bound.
async fn whole(path: &Path, response: Response<Incoming>) -> Result<Vec<u8>, ClientError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), CLIENT_ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => ClientError::Protocol { path: path.to_owned(), error: *error },
        Err(_limit) => ClientError::TooLong { path: path.to_owned() },
    })?;
    judge(status, body.to_bytes().to_vec())
}

async fn listen(
    path: &Path,
    uri: &str,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ClientError> {
    let failed = |error| ClientError::Connection { path: path.to_owned(), error };
    let protocol = |error| ClientError::Protocol { path: path.to_owned(), error };
    converse(path, Method::GET, uri, async |response: Response<Incoming>| {
        if response.status() != StatusCode::OK {
            return whole(path, response).await.map(drop);
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame.map_err(protocol)?.into_data() {
                take(&piece).map_err(failed)?;
            }
        }
        Ok(())
    })
    .await
}

/// Connects, asks, and lets `read` take the answer.
async fn converse<T>(
    path: &Path,
    method: Method,
    uri: &str,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let protocol = |error| ClientError::Protocol { path: path.to_owned(), error };
    let request = Request::builder().method(method).uri(uri).header(HOST, "waystation");
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|_bad| ClientError::BadUri { uri: uri.to_owned() })?;
    let stream = UnixStream::connect(path).await.map_err(|error| not_connected(path, error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(protocol)?;
    // The connection is driven beside the exchange and ends with it.
    let answer = async { read(sender.send_request(request).await.map_err(protocol)?).await };
    tokio::pin!(answer);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ended = &mut connection => answer.await,
    }
}

fn judge(status: StatusCode, body: Vec<u8>) -> Result<Vec<u8>, ClientError> {
    if status == StatusCode::OK {
        return Ok(body);
    }
    let status = status.as_u16();
    Err(ClientError::Refused { status, message: message_of(&body), body })
}

/// The message of an error document, else the beginning of the text.
fn message_of(body: &[u8]) -> String {
    let document: Option<Value> = serde_json::from_slice(body).ok();
    let said = document.as_ref().and_then(|document| {
        let message = document["error"]["message"].as_str();
        message.or(document["waiting_for"].as_str()).or(document["state"].as_str())
    });
    said.map_or_else(|| String::from_utf8_lossy(body).chars().take(200).collect(), str::to_owned)
}

fn not_connected(path: &Path, error: io::Error) -> ClientError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => ClientError::NoSocket { path },
        io::ErrorKind::ConnectionRefused => ClientError::NotListening { path },
        io::ErrorKind::PermissionDenied => ClientError::PermissionDenied { path },
        _ => ClientError::Connection { path, error },
    }
}

//! One connection to the hub: an HTTP request, and then a WebSocket.
//!
//! A task of the management thread's runtime for each. It decides nothing: what comes is told to the
//! hub's task, and what that wants sent is sent. It holds one message at a time, and ends when its
//! peer takes nothing for [`SEND_TIMEOUT`].

use super::limits::{
    FAREWELL_TIMEOUT, READ_BUFFER_BYTES, REQUEST_BYTES_MAX, REQUEST_HEADERS_MAX, REQUEST_TIMEOUT,
    SEND_TIMEOUT,
};
use super::{Event, Outgoing};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::digest;
use std::convert::Infallible;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use waystation_a2al::hub::{CloseReason, ConnectionId, HubMessage, RequestError, RequestRefusal};
use waystation_a2al::hub::{Refusal, SUBPROTOCOL};
use waystation_a2al::limits::HUB_MESSAGE_BYTES_MAX;

/// What RFC 6455 §1.3 has behind a key before both are hashed.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A connection's ways from and to the hub's task.
pub(super) struct Line {
    pub(super) id: ConnectionId,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) outgoing: mpsc::Receiver<Outgoing>,
}

/// Serves a connection to its end, and tells the hub of that.
pub(super) async fn serve<S>(stream: S, mut line: Line)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (id, events) = (line.id, line.events.clone());
    if let Ok(Some(upgraded)) = timeout(REQUEST_TIMEOUT, opened(stream, id, &events)).await {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(2 * HUB_MESSAGE_BYTES_MAX)
            .max_message_size(Some(HUB_MESSAGE_BYTES_MAX))
            .max_frame_size(Some(HUB_MESSAGE_BYTES_MAX));
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        converse(socket, &mut line).await;
    }
    // A hub that has ended needs to know nothing.
    let _ = events.send(Event::Ended { id }).await;
}

/// Answers one request; what is there of the stream if that has made it a WebSocket.
async fn opened<S>(stream: S, id: ConnectionId, events: &mpsc::Sender<Event>) -> Option<Upgraded>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (hand_over, mut handed) = mpsc::channel::<OnUpgrade>(1);
    let service = service_fn(|request| respond(request, id, events, &hand_over));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .keep_alive(false)
        .max_headers(REQUEST_HEADERS_MAX)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the signalling hub failed");
    }
    handed.try_recv().ok()?.await.ok()
}

async fn respond(
    mut request: Request<Incoming>,
    id: ConnectionId,
    events: &mpsc::Sender<Event>,
    hand_over: &mpsc::Sender<OnUpgrade>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let key = match websocket_key(&request) {
        Ok(key) => key,
        Err((status, message)) => {
            // The hub counts it; one that has ended needs to know nothing.
            let _ = events.send(Event::Refused { id }).await;
            return Ok(refusal(status, message));
        }
    };
    let (reply, answer) = oneshot::channel();
    let (path, query) = (path.to_owned(), query.to_owned());
    if events.send(Event::Requested { id, path, query, reply }).await.is_err() {
        return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping"));
    }
    match answer.await {
        Ok(Ok(())) => {
            let response = switching(&key, request.headers());
            // There is one request on a connection, so there is room.
            let _ = hand_over.try_send(hyper::upgrade::on(&mut request));
            Ok(response)
        }
        Ok(Err(RequestRefusal::Bad(why))) => Ok(refusal(status_of(why), &why.to_string())),
        Ok(Err(RequestRefusal::Busy(why))) => Ok(busy(why)),
        Err(_dropped) => Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping")),
    }
}

/// The key of a request for a WebSocket (RFC 6455 §4.2.1), from a page of this host or from none.
fn websocket_key(request: &Request<Incoming>) -> Result<HeaderValue, (StatusCode, &'static str)> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "only GET is understood here"));
    }
    let is_upgrade = request.version() == Version::HTTP_11
        && lists(headers, CONNECTION, "upgrade")
        && lists(headers, UPGRADE, "websocket");
    if !is_upgrade {
        return Err((StatusCode::UPGRADE_REQUIRED, "a WebSocket is wanted here"));
    }
    if !lists(headers, SEC_WEBSOCKET_VERSION, "13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "version 13 of WebSocket is wanted here"));
    }
    if !is_from_here(headers) {
        return Err((StatusCode::FORBIDDEN, "pages of other hosts are not served"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let is_key = |key: &&HeaderValue| STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
    let key = key.filter(is_key).ok_or((StatusCode::BAD_REQUEST, "the WebSocket's key is none"));
    key.cloned()
}

/// Whether a header's list has an entry, whatever its capitals.
fn lists(headers: &HeaderMap, name: HeaderName, entry: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let mut entries = values.flat_map(|value| value.split(','));
    entries.any(|listed| listed.trim().eq_ignore_ascii_case(entry))
}

/// Whether a browser that names the page's origin names this host. Other programs name none.
fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let host_of = |origin: &str| origin.split_once("://").map(|(_, host)| host.to_owned());
    let origin = origin.to_str().ok().and_then(host_of);
    origin.zip(text(HOST)).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
}

fn switching(key: &HeaderValue, asked: &HeaderMap) -> Response<Full<Bytes>> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(KEY_SUFFIX);
    let accept = STANDARD.encode(context.finish());
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    // Who does not offer it is served as well (§19.4).
    if lists(asked, SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    response
}

fn status_of(why: RequestError) -> StatusCode {
    match why {
        RequestError::Path => StatusCode::NOT_FOUND,
        RequestError::CallerMissing
        | RequestError::NotUtf8
        | RequestError::RoomMissing
        | RequestError::TooLong => StatusCode::BAD_REQUEST,
    }
}

fn busy(why: Refusal) -> Response<Full<Bytes>> {
    let status = match why {
        Refusal::ConnectionsOfSource
        | Refusal::ArrivalsOfSource
        | Refusal::CallsOfSource
        | Refusal::WaitingOfSource => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Connections | Refusal::Rooms => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::BadRequest => StatusCode::BAD_REQUEST,
    };
    refusal(status, &format!("too much: {}", why.name()))
}

fn refusal(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{message}\n")));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

/// Carries messages both ways until either side ends it.
async fn converse<S>(mut socket: WebSocketStream<S>, line: &mut Line)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        tokio::select! {
            outgoing = line.outgoing.recv() => match outgoing {
                Some(Outgoing::Say { message, .. }) => {
                    if !send(&mut socket, written(message), line).await {
                        return;
                    }
                }
                Some(Outgoing::Ping) => {
                    if !send(&mut socket, Message::Ping(Bytes::new()), line).await {
                        return;
                    }
                }
                Some(Outgoing::End(why)) => return bid_farewell(&mut socket, why).await,
                None => return,
            },
            incoming = socket.next() => {
                let event = match incoming {
                    Some(Ok(Message::Binary(bytes))) => heard(line.id, HubMessage::Binary(bytes.into())),
                    Some(Ok(Message::Text(text))) => {
                        heard(line.id, HubMessage::Text(text.as_str().to_owned()))
                    }
                    Some(Ok(Message::Pong(_))) => Event::Control { id: line.id },
                    // The library answers it with the next thing it does; that is done at once, so
                    // that nobody is made to keep answers.
                    Some(Ok(Message::Ping(_))) => {
                        if !matches!(timeout(SEND_TIMEOUT, socket.flush()).await, Ok(Ok(()))) {
                            return;
                        }
                        Event::Control { id: line.id }
                    }
                    Some(Ok(Message::Close(_) | Message::Frame(_))) => continue,
                    Some(Err(Error::Capacity(_))) => {
                        let too_long = close_frame(CloseCode::Size, "message too long");
                        let _ = timeout(FAREWELL_TIMEOUT, socket.close(Some(too_long))).await;
                        return;
                    }
                    Some(Err(_)) | None => return,
                };
                if line.events.send(event).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn heard(id: ConnectionId, message: HubMessage) -> Event {
    Event::Heard { id, message }
}

fn written(message: HubMessage) -> Message {
    match message {
        HubMessage::Binary(bytes) => Message::Binary(bytes.into()),
        HubMessage::Text(text) => Message::Text(text.into()),
    }
}

/// Sends a message; says whether it was taken.
async fn send<S>(socket: &mut WebSocketStream<S>, message: Message, line: &Line) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(SEND_TIMEOUT, socket.send(message)).await {
        Ok(Ok(())) => true,
        Ok(Err(_gone)) => false,
        Err(_elapsed) => {
            // A hub that has ended needs to know nothing.
            let _ = line.events.send(Event::Slow { id: line.id }).await;
            false
        }
    }
}

async fn bid_farewell<S>(socket: &mut WebSocketStream<S>, why: CloseReason)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let code = match why {
        CloseReason::NoAgent
        | CloseReason::Idle
        | CloseReason::Unpaired
        | CloseReason::RoomIdle
        | CloseReason::OtherLeft
        | CloseReason::NoRequest => CloseCode::Normal,
        CloseReason::RoomTaken
        | CloseReason::TooMuchEarly
        | CloseReason::TooFast
        | CloseReason::SlowReader => CloseCode::Policy,
    };
    let farewell = async {
        socket.close(Some(close_frame(code, why.name()))).await?;
        // The other side says farewell as well; what it says before is for nobody.
        while let Some(Ok(_)) = socket.next().await {}
        Ok::<(), Error>(())
    };
    // Whoever does not take it is gone or will notice.
    let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
}

fn close_frame(code: CloseCode, reason: &'static str) -> CloseFrame {
    CloseFrame { code, reason: reason.into() }
}

//! What the HTTP side asks the runtime, and how the runtime answers.

use crate::clock::Moment;
use crate::dht::{self, DhtQuestion};
use crate::documents::{self, CoreListing, HistogramSelection, StatusExtra};
use crate::hlog::{self, LogSelection};
use crate::hub;
use crate::journal::EventLines;
use crate::limits::LISTING_ROWS_MAX;
use crate::log_levels::LogDirective;
use crate::metrics;
use crate::observations::{Observations, Scope, Window};
use crate::opaque::{OpaqueTable, Wish};
use crate::recent::{Recent, RowOrder};
use crate::same_core::SameCoreShares;
use crate::udp_document;
use crate::xdp::{self, CaptureRequest};
use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::oneshot;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_engine::control::Listing;
use waystation_relay::ids::{CoreId, LegTag, LinkTag, UdpSessionTag};

/// The media type of events: JSON objects, one on each line.
pub(super) const EVENTS_CONTENT_TYPE: &str = "application/x-ndjson";

/// One thing to do, for those who may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// `/v1/links/close`
    CloseLink(LinkTag),
    /// `/v1/links/move`
    MoveLink { link: LinkTag, to: CoreId },
    /// `/v1/sessions/close`
    CloseSession(LegTag),
    /// `/v1/links/dial`
    Dial { endpoint: Endpoint, identity: Identity },
    /// `/v1/udp/open`; without an idle limit, that of the configuration.
    OpenUdp { wish: Box<Wish>, idle: Option<Duration> },
    /// `/v1/udp/close`
    CloseUdp(UdpSessionTag),
    /// `/v1/drain`: until at most so many connections are left, and for at most so long.
    Drain { deadline: Duration, until_links: u64 },
    /// `/v1/capture`
    Capture(CaptureRequest),
    /// `/v1/log/level`
    SetLog(LogDirective),
}

/// One thing to know or to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// `/ready`
    Ready,
    /// `/v1/status`
    Status,
    /// `/v1/links`, at most so many rows, the first in this order.
    Links { limit: usize, order: RowOrder },
    /// `/v1/sessions`, at most so many rows, the first in this order.
    Sessions { limit: usize, order: RowOrder },
    /// `/v1/udp`, at most so many rows.
    Udp { limit: usize },
    /// `/v1/xdp`
    Xdp,
    /// `/v1/explain`: what would become of a frame that comes in by an interface.
    Explain { frame: Vec<u8>, interface: Option<String> },
    /// `/v1/hub`
    Hub,
    /// `/v1/log`
    Log,
    /// `/v1/peers`, at most so many rows.
    Peers { limit: usize },
    /// `/v1/events` behind this number; `follow`: answered when there is one.
    Events { after: Option<u64>, follow: bool },
    /// `/v1/dht` and what is below it.
    Dht(DhtQuestion),
    /// Something to do.
    Order(Order),
    /// `/v1/drops`; `all`: also reasons that never occurred.
    Drops { all: bool },
    /// `/v1/histograms`
    Histograms(HistogramSelection),
    /// `/v1/histograms?format=hlog`
    HistogramLog(LogSelection),
    /// `/metrics`
    Metrics,
}

/// A question with the way back to who asked. If the request is dropped, the client is told that
/// the node is not able to answer.
#[derive(Debug)]
pub struct StatsRequest {
    /// What is asked.
    pub what: Question,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Document>,
}

impl StatsRequest {
    /// Answers at once, or gives back what has to be asked from the data cores first.
    pub fn answer(
        self,
        observations: &Observations,
        extra: &StatusExtra,
        now: Moment,
    ) -> Option<ListingRequest> {
        let document = match self.what {
            Question::Links { limit, order } => {
                let kind = ListingKind::Links;
                return Some(ListingRequest { kind, limit, order, reply: self.reply });
            }
            Question::Sessions { limit, order } => {
                let kind = ListingKind::Sessions;
                return Some(ListingRequest { kind, limit, order, reply: self.reply });
            }
            Question::Udp { limit } => {
                let (kind, order) = (ListingKind::Udp, RowOrder::Place);
                return Some(ListingRequest { kind, limit, order, reply: self.reply });
            }
            Question::Peers { limit } => {
                let (kind, order) = (ListingKind::Peers, RowOrder::Place);
                return Some(ListingRequest { kind, limit, order, reply: self.reply });
            }
            // These are about what the runtime keeps itself, and it answers them.
            Question::Events { .. }
            | Question::Dht(_)
            | Question::Explain { .. }
            | Question::Log
            | Question::Order(_) => internal("asked of the wrong side"),
            Question::Ready => ready(extra),
            Question::Hub => {
                Document::json(&hub::document(documents::SCHEMA, extra.hub.as_deref()))
            }
            Question::Status => Document::json(&documents::status(observations, extra, now)),
            Question::Xdp => Document::json(&xdp::document(&extra.xdp)),
            Question::Drops { all } => Document::json(&documents::drops(observations, extra, all)),
            Question::Histograms(selection) => histograms(observations, extra, &selection, now),
            Question::HistogramLog(selection) => histogram_log(observations, &selection, now),
            Question::Metrics => metrics_text(observations, extra, now),
        };
        // Whoever asked may have gone in the meantime.
        let _ = self.reply.send(document);
        None
    }
}

/// A listing that waits for the data cores.
#[derive(Debug)]
pub struct ListingRequest {
    kind: ListingKind,
    limit: usize,
    order: RowOrder,
    reply: oneshot::Sender<Document>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListingKind {
    Links,
    Sessions,
    /// Allocations of the TURN server, and opaque sessions.
    Udp,
    /// Accounts of identities, with what their open links have carried so far.
    Peers,
    /// The sessions, to find the one to be closed.
    SessionToClose(LegTag),
}

impl ListingRequest {
    /// A listing in which a session to be closed is looked for.
    pub fn of_session(leg: LegTag, reply: oneshot::Sender<Document>) -> Self {
        let (kind, order) = (ListingKind::SessionToClose(leg), RowOrder::Place);
        Self { kind, limit: LISTING_ROWS_MAX, order, reply }
    }

    /// The session to be closed, if that is what this is for.
    pub fn session_to_close(&self) -> Option<LegTag> {
        match self.kind {
            ListingKind::SessionToClose(leg) => Some(leg),
            ListingKind::Links | ListingKind::Sessions | ListingKind::Udp | ListingKind::Peers => {
                None
            }
        }
    }

    /// How many peers are to be shown, if that is what this is for.
    pub fn peers_limit(&self) -> Option<usize> {
        (self.kind == ListingKind::Peers).then_some(self.limit)
    }

    /// Whether it says which part of a link's payload stays on its core.
    pub fn tells_shares(&self) -> bool {
        self.kind == ListingKind::Links
    }

    /// Answers with a document made elsewhere.
    pub fn answer(self, document: Document) {
        // Whoever asked may have gone in the meantime.
        let _ = self.reply.send(document);
    }

    /// A listing for one core to fill, with the capacity it may use.
    pub fn empty_listing(&self) -> Box<Listing> {
        let mut listing = Box::new(Listing::default());
        // The first in an order are found among all of them.
        let rows = if self.order == RowOrder::Place { self.limit } else { LISTING_ROWS_MAX };
        match self.kind {
            ListingKind::Links => listing.links.reserve_exact(rows),
            // What a peer's links have carried is in all of its links.
            ListingKind::Peers => listing.links.reserve_exact(LISTING_ROWS_MAX),
            ListingKind::Sessions | ListingKind::SessionToClose(_) => {
                listing.sessions.reserve_exact(rows);
            }
            ListingKind::Udp => {
                listing.allocations.reserve_exact(rows);
                listing.opaque.reserve_exact(rows);
            }
        }
        listing
    }

    /// Whether whoever asked has gone, so that nobody needs the answer.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Answers with what the cores have filled, in order of core.
    pub fn complete(
        self,
        listings: &[CoreListing],
        recent: &mut Recent,
        shares: &SameCoreShares,
        opaque: &OpaqueTable,
        now: Moment,
    ) {
        let (order, limit) = (self.order, self.limit);
        let is_about_links = match self.kind {
            ListingKind::Udp => {
                let document = udp_document::udp(listings, opaque, limit);
                return self.answer(Document::json(&document));
            }
            ListingKind::Links | ListingKind::Peers => true,
            ListingKind::Sessions | ListingKind::SessionToClose(_) => false,
        };
        let document = match (is_about_links, order) {
            (true, RowOrder::Place) => documents::links(listings, shares, limit),
            (false, RowOrder::Place) => documents::sessions(listings, limit),
            (true, _) => {
                let rows = documents::answered(listings).flat_map(|listing| &listing.links);
                let ranked = recent.links.rank(now, rows, order, limit);
                documents::ranked_links(&ranked, shares, listings)
            }
            (false, _) => {
                let rows = documents::answered(listings).flat_map(|listing| &listing.sessions);
                let ranked = recent.sessions.rank(now, rows, order, limit);
                documents::ranked_sessions(&ranked, listings)
            }
        };
        self.answer(Document::json(&document));
    }
}

/// An answer, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    /// The number of the newest event in it, if it is about events.
    pub(super) newest_event: Option<u64>,
}

impl Document {
    /// A JSON document with status 200.
    pub fn json(value: &Value) -> Self {
        Self::json_with(StatusCode::OK, value)
    }

    pub(super) fn json_with(status: StatusCode, value: &Value) -> Self {
        let mut text = value.to_string();
        text.push('\n');
        Self::new(status, "application/json", text)
    }

    fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, body: body.into(), newest_event: None }
    }

    /// Events, one on each line.
    pub fn events(lines: EventLines) -> Self {
        let newest_event = Some(lines.newest);
        Self { newest_event, ..Self::new(StatusCode::OK, EVENTS_CONTENT_TYPE, lines.text) }
    }

    /// What there is no such thing of.
    pub fn not_found(code: &str, message: &str) -> Self {
        Self::error(StatusCode::NOT_FOUND, code, message)
    }

    /// Something that was tried and has failed.
    pub fn failed(code: &str, message: &str) -> Self {
        Self::error(StatusCode::BAD_GATEWAY, code, message)
    }

    /// Something that cannot be done as it was asked.
    pub fn refused(code: &str, message: &str) -> Self {
        Self::error(StatusCode::CONFLICT, code, message)
    }

    /// Something that cannot be done now.
    pub fn unavailable(code: &str, message: &str) -> Self {
        Self::error(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    /// `{"schema":1,"error":{"code":…,"message":…}}`
    pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Self {
        let error = json!({ "code": code, "message": message });
        Self::json_with(status, &json!({ "schema": documents::SCHEMA, "error": error }))
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

fn ready(extra: &StatusExtra) -> Document {
    let status = match extra.readiness.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    Document::json_with(status, &documents::ready(&extra.readiness))
}

fn histograms(
    observations: &Observations,
    extra: &StatusExtra,
    selection: &HistogramSelection,
    now: Moment,
) -> Document {
    if let Some(refusal) = no_such_core(observations, selection.scope) {
        return refusal;
    }
    let mut document = documents::histograms(observations, selection, now);
    if let Some(figures) = extra.dht.as_deref().filter(|_| selection.is_about_everything())
        && let Some(entries) = document["histograms"].as_array_mut()
    {
        let span = observations.span(Window::Total, now);
        let length_ms = u64::try_from(span.length.as_millis()).unwrap_or(u64::MAX);
        entries.extend(dht::histograms(figures, span.start.unix_ms(), length_ms));
    }
    Document::json(&document)
}

fn histogram_log(observations: &Observations, selection: &LogSelection, now: Moment) -> Document {
    if let Some(refusal) = no_such_core(observations, selection.scope) {
        return refusal;
    }
    match hlog::write_log(observations, selection, now) {
        Ok(log) => Document::new(StatusCode::OK, "text/plain; charset=utf-8", log),
        Err(error) => internal(&error.to_string()),
    }
}

fn metrics_text(observations: &Observations, extra: &StatusExtra, now: Moment) -> Document {
    match metrics::text(observations, extra, now) {
        Ok(text) => Document::new(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(error) => internal(&error.to_string()),
    }
}

fn no_such_core(observations: &Observations, scope: Option<Scope>) -> Option<Document> {
    let Some(Scope::Core(core)) = scope else { return None };
    let cores = observations.cores();
    (core.index() >= cores).then(|| {
        let message = format!("there is no core {core}; there are {cores}, counted from 0");
        Document::error(StatusCode::NOT_FOUND, "no_such_core", &message)
    })
}

fn internal(message: &str) -> Document {
    Document::error(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

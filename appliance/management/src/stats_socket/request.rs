//! What the HTTP side asks the runtime, and how the runtime answers.

use crate::clock::Moment;
use crate::documents::{self, CoreListing, HistogramSelection, StatusExtra};
use crate::hlog::{self, LogSelection};
use crate::metrics;
use crate::observations::{Observations, Scope};
use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use waystation_engine::control::Listing;

/// One thing to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `/ready`
    Ready,
    /// `/v1/status`
    Status,
    /// `/v1/links`, at most so many rows.
    Links { limit: usize },
    /// `/v1/sessions`, at most so many rows.
    Sessions { limit: usize },
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
            Question::Links { limit } => {
                return Some(ListingRequest { kind: ListingKind::Links, limit, reply: self.reply });
            }
            Question::Sessions { limit } => {
                let kind = ListingKind::Sessions;
                return Some(ListingRequest { kind, limit, reply: self.reply });
            }
            Question::Ready => ready(extra),
            Question::Status => Document::json(&documents::status(observations, extra, now)),
            Question::Drops { all } => Document::json(&documents::drops(observations, extra, all)),
            Question::Histograms(selection) => histograms(observations, &selection, now),
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
    reply: oneshot::Sender<Document>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListingKind {
    Links,
    Sessions,
}

impl ListingRequest {
    /// A listing for one core to fill, with the capacity it may use.
    pub fn empty_listing(&self) -> Box<Listing> {
        let mut listing = Box::new(Listing::default());
        match self.kind {
            ListingKind::Links => listing.links.reserve_exact(self.limit),
            ListingKind::Sessions => listing.sessions.reserve_exact(self.limit),
        }
        listing
    }

    /// Whether whoever asked has gone, so that nobody needs the answer.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Answers with what the cores have filled, in order of core.
    pub fn complete(self, listings: &[CoreListing]) {
        let document = match self.kind {
            ListingKind::Links => documents::links(listings, self.limit),
            ListingKind::Sessions => documents::sessions(listings, self.limit),
        };
        // Whoever asked may have gone in the meantime.
        let _ = self.reply.send(Document::json(&document));
    }
}

/// An answer, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
}

impl Document {
    /// A JSON document with status 200.
    pub fn json(value: &Value) -> Self {
        Self::json_with(StatusCode::OK, value)
    }

    pub(super) fn json_with(status: StatusCode, value: &Value) -> Self {
        let mut text = value.to_string();
        text.push('\n');
        Self { status, content_type: "application/json", body: Bytes::from(text) }
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
    selection: &HistogramSelection,
    now: Moment,
) -> Document {
    no_such_core(observations, selection.scope)
        .unwrap_or_else(|| Document::json(&documents::histograms(observations, selection, now)))
}

fn histogram_log(observations: &Observations, selection: &LogSelection, now: Moment) -> Document {
    if let Some(refusal) = no_such_core(observations, selection.scope) {
        return refusal;
    }
    match hlog::write_log(observations, selection, now) {
        Ok(log) => Document {
            status: StatusCode::OK,
            content_type: "text/plain; charset=utf-8",
            body: Bytes::from(log),
        },
        Err(error) => internal(&error.to_string()),
    }
}

fn metrics_text(observations: &Observations, extra: &StatusExtra, now: Moment) -> Document {
    match metrics::text(observations, extra, now) {
        Ok(text) => Document {
            status: StatusCode::OK,
            content_type: metrics::CONTENT_TYPE,
            body: Bytes::from(text),
        },
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

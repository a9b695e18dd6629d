//! One round of questions: what a view needs and nothing more, all at the same time.

use super::TopError;
use crate::limits::{CLIENT_TIMEOUT, LISTING_ROWS_MAX, TOP_ROWS_MIN};
use crate::render::top::{Look, SortKey, TopView};
use crate::stats_socket::client::{self, ClientError};
use serde_json::Value;
use std::path::Path;

/// Asks for what `view` shows on `lines` lines. The questions come together, so the data cores
/// report once for all of them.
///
/// # Errors
/// That of the first question that has no answer, or no JSON for one.
pub(super) async fn look(
    socket: &Path,
    view: TopView,
    sort: SortKey,
    lines: usize,
) -> Result<Look, TopError> {
    let sort = view.sort(sort);
    let links = (view == TopView::Links).then(|| rows("/v1/links", sort, lines));
    let sessions = (view == TopView::Pipes).then(|| rows("/v1/sessions", sort, lines));
    let residence = "/v1/histograms?stage=residence&window=interval";
    let core_histograms = (view == TopView::Cores).then_some(residence);
    let drops = matches!(view, TopView::Cores | TopView::Drops).then_some("/v1/drops");
    let (status, histograms, core_histograms, drops, links, sessions) = tokio::try_join!(
        ask(socket, "/v1/status"),
        ask(socket, "/v1/histograms?core=merged&window=interval"),
        maybe_ask(socket, core_histograms),
        maybe_ask(socket, drops),
        maybe_ask_rows(socket, links),
        maybe_ask_rows(socket, sessions),
    )?;
    Ok(Look { status, histograms, core_histograms, drops, links, sessions })
}

/// The status of an answer to parameters that are not known.
const BAD_REQUEST: u16 = 400;

/// A listing to ask for.
struct Rows {
    path: &'static str,
    /// The rows that a screen has room for, chosen by the appliance.
    in_order: String,
}

fn rows(path: &'static str, sort: SortKey, lines: usize) -> Rows {
    let order = match sort {
        SortKey::Messages => "frames",
        SortKey::Queue => "queue",
        SortKey::Ping => "ping",
        SortKey::Mbps | SortKey::P99 | SortKey::Drops => "bytes",
    };
    let limit = lines.clamp(TOP_ROWS_MIN, LISTING_ROWS_MAX);
    Rows { path, in_order: format!("{path}?order={order}&limit={limit}") }
}

async fn maybe_ask(socket: &Path, uri: Option<&str>) -> Result<Option<Value>, TopError> {
    match uri {
        Some(uri) => ask(socket, uri).await.map(Some),
        None => Ok(None),
    }
}

/// Rows in order; from an appliance that does not know about orders, the first there are.
async fn maybe_ask_rows(socket: &Path, uri: Option<Rows>) -> Result<Option<Value>, TopError> {
    let Some(rows) = uri else { return Ok(None) };
    match ask(socket, &rows.in_order).await {
        Err(TopError::Client(ClientError::Refused { status: BAD_REQUEST, .. })) => {
            ask(socket, rows.path).await.map(Some)
        }
        answer => answer.map(Some),
    }
}

async fn ask(socket: &Path, uri: &str) -> Result<Value, TopError> {
    let answer = client::fetch(socket, uri, CLIENT_TIMEOUT).await?;
    let not_json = |error| TopError::NotJson { path: socket.to_owned(), error };
    serde_json::from_slice(&answer).map_err(not_json)
}

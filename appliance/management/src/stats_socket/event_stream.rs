//! Events as they happen, to one reader: asks the runtime for what is newer than the last, again and
//! again, and passes it on piece by piece.
//!
//! A tokio task of the management thread feeds the response's body. A reader that leaves a piece
//! unread for too long is cut; one that was away meanwhile is told how many events it missed.

use super::request::Document;
use super::server::StatsServer;
use bytes::Bytes;
use hyper::body::{Body, Frame};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

/// The body of a response that goes on.
#[derive(Debug)]
pub(super) struct EventStream {
    pieces: mpsc::Receiver<Bytes>,
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// Begins a stream with a first answer. `held` is dropped when it ends; `cut` is told when it ends
/// because its reader does not read, whose connection would otherwise wait for that reader.
pub(super) fn begin<H: Send + 'static>(
    server: StatsServer,
    first: &Document,
    held: H,
    cut: Arc<Notify>,
) -> EventStream {
    // One piece in the channel and one in flight are all that a slow reader can hold.
    let (sender, pieces) = mpsc::channel(1);
    let (body, newest) = (first.body.clone(), first.newest_event.unwrap_or_default());
    tokio::spawn(async move {
        tokio::select! {
            end = feed(&server, &sender, body, newest) => {
                if end == End::NotRead {
                    tracing::debug!("cut a reader of events that does not read");
                    cut.notify_one();
                }
            }
            // The reader has gone.
            () = sender.closed() => {}
        }
        drop(held);
    });
    EventStream { pieces }
}

/// Why there is nothing more to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A piece has waited for its reader for too long.
    NotRead,
    /// The runtime has stopped.
    NoMore,
}

async fn feed(
    server: &StatsServer,
    sender: &mpsc::Sender<Bytes>,
    first: Bytes,
    newest: u64,
) -> End {
    let limit = server.event_reader_timeout();
    let (mut piece, mut after) = (first, newest);
    loop {
        if !piece.is_empty() && timeout(limit, sender.send(piece)).await.is_err() {
            return End::NotRead;
        }
        let Some(document) = server.newer_events(after).await else { return End::NoMore };
        after = document.newest_event.unwrap_or(after);
        piece = document.body;
    }
}

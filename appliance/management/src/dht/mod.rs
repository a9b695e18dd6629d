//! The A2AL DHT: a node of its network on the management thread.
//!
//! Owns the node's sockets, its files, and what operators wait for. The node itself is sans-IO
//! (`waystation_a2al::node`); a task of the management thread's runtime drives it ([`driver`]), and
//! the rest of the management core talks to that task through a [`Dht`]. It never waits for a data
//! core, and takes no more than a few milliseconds before it lets others have the thread.

mod document;
mod driver;
mod figures;
mod kernel_drops;
pub mod limits;
mod own;
mod question;
mod settings;
mod snapshot_file;
mod sockets;

pub(crate) use document::{histograms, metric_numbers};
pub use figures::{DhtFigures, LookUpOutcome};
pub use question::DhtQuestion;
pub use settings::{DhtFiles, DhtLive, DhtSettings};

use crate::clock;
use crate::hub::NodeQuestion;
use crate::stats_socket::Document;
use driver::Driver;
use limits::{QUESTIONS_WAITING_MAX, STOP_TIMEOUT};
use sockets::Sockets;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Why there can be no node.
#[derive(Debug, thiserror::Error)]
pub enum DhtError {
    /// The runtime does not watch a socket.
    #[error("cannot watch a socket of the DHT: {0}")]
    Socket(#[from] io::Error),
    /// The library takes no such key.
    #[error("the DHT's key is no key")]
    Key,
}

/// Something for the node's task.
pub(crate) struct Request {
    question: DhtQuestion,
    reply: oneshot::Sender<Document>,
}

/// The rest of the management core's hold on the node.
#[derive(Debug)]
pub struct Dht {
    questions: mpsc::Sender<Request>,
    live: watch::Sender<DhtLive>,
    figures: watch::Receiver<Arc<DhtFigures>>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Dht {
    /// Takes the sockets, which are bound, reads what is kept from the last run, and starts the task.
    /// Called on the management thread, within its runtime.
    ///
    /// # Errors
    /// See [`DhtError`]. Files that cannot be read are set aside and are no error.
    pub fn start(
        settings: DhtSettings,
        sockets: Vec<UdpSocket>,
        hub: mpsc::Receiver<NodeQuestion>,
    ) -> Result<Self, DhtError> {
        let sockets = Sockets::of(sockets)?;
        for address in sockets.addresses() {
            tracing::info!(%address, "node of the A2AL DHT");
        }
        let (questions, receiver) = mpsc::channel(QUESTIONS_WAITING_MAX);
        let (live, live_receiver) = watch::channel(settings.live.clone());
        let driver = Driver::new(settings, sockets, clock::now())?;
        let (figures, figures_receiver) = watch::channel(Arc::new(driver.figures(clock::now())));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(driver.run(receiver, hub, live_receiver, figures, stopped));
        let (stop, task) = (Some(stop), Some(task));
        Ok(Self { questions, live, figures: figures_receiver, stop, task })
    }

    /// Asks the node something, or has it do something. If it has too much to answer already, that is
    /// the answer.
    pub fn ask(&self, question: DhtQuestion, reply: oneshot::Sender<Document>) {
        if let Err(refused) = self.questions.try_send(Request { question, reply }) {
            let Request { reply, .. } = refused.into_inner();
            let message = "the DHT has too many questions to answer";
            // Whoever asked may have gone in the meantime.
            let _ = reply.send(Document::unavailable("busy", message));
        }
    }

    /// Takes up what a reload may change.
    pub fn reload(&self, live: DhtLive) {
        self.live.send_replace(live);
    }

    /// The latest figures, at most [`limits::FIGURES_PERIOD`] old.
    pub fn figures(&self) -> Arc<DhtFigures> {
        Arc::clone(&self.figures.borrow())
    }

    /// Has the node leave: it answers nobody any more, and what it knows is written.
    pub fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A task that has ended has nothing to stop.
            let _ = stop.send(());
        }
    }

    /// Waits until it has left.
    pub async fn stopped(&mut self) {
        let Some(task) = self.task.take() else { return };
        if timeout(STOP_TIMEOUT, task).await.is_err() {
            tracing::warn!("the DHT's snapshot could not be written in time");
        }
    }
}

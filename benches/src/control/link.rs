//! One link: its sessions, the task that reads it and the one that writes it.

use crate::control::Relay;
use crate::control::wire::{Incoming, Outgoing, Passing};
use anyhow::Result;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use waystation_astral::gateway::{GatewayOperation, parse};

/// Frames that may wait for a link's writer; then who reads for it waits.
const WAITING_FRAMES_MAX: usize = 64;
/// Sessions of one link.
const SESSIONS_MAX: usize = 4_096;
/// Answer to everything that is not understood or cannot be done.
const REJECTED: u8 = 1;
/// First nonce of the sessions that this side opens.
const FIRST_NONCE: u64 = 1 << 32;

/// Where a session's frames go.
#[derive(Clone, Debug)]
struct Leg {
    link: Arc<Link>,
    nonce: u64,
}

/// A link that is up.
#[derive(Debug)]
pub(crate) struct Link {
    outgoing: mpsc::Sender<Passing>,
    sessions: Mutex<HashMap<u64, Leg>>,
    next_nonce: AtomicU64,
}

impl Link {
    /// Starts the writer's task.
    pub(crate) fn start(mut outgoing: Outgoing) -> (Arc<Self>, JoinHandle<()>) {
        let (sender, mut waiting) = mpsc::channel(WAITING_FRAMES_MAX);
        let writing = tokio::spawn(async move {
            while let Some(frame) = waiting.recv().await {
                // The reader notices the end of the connection by itself.
                if outgoing.write(&frame).await.is_err() {
                    return;
                }
            }
        });
        let next_nonce = AtomicU64::new(FIRST_NONCE);
        (Arc::new(Self { outgoing: sender, sessions: Mutex::default(), next_nonce }), writing)
    }

    /// Reads frames until the connection ends.
    pub(crate) async fn read_all(
        self: &Arc<Self>,
        incoming: &mut Incoming,
        relay: &Relay,
    ) -> Result<()> {
        while let Some(record) = incoming.next_record().await? {
            for frame in incoming.frames(&record)? {
                self.pass(frame, relay).await;
            }
        }
        Ok(())
    }

    async fn pass(self: &Arc<Self>, frame: Passing, relay: &Relay) {
        match frame {
            Passing::Query { nonce, window, query } => {
                self.route(nonce, window, query, relay).await;
            }
            Passing::Data { nonce, payload } => match self.leg(nonce) {
                Some(leg) => leg.send(|nonce| Passing::Data { nonce, payload }).await,
                None => self.send(Passing::Reset { nonce }).await,
            },
            Passing::Read { nonce, bytes } => {
                if let Some(leg) = self.leg(nonce) {
                    leg.send(|nonce| Passing::Read { nonce, bytes }).await;
                }
            }
            Passing::Response { nonce, code, window } => {
                let leg = if code == 0 { self.leg(nonce) } else { self.forget(nonce) };
                if let Some(leg) = leg {
                    leg.send(|nonce| Passing::Response { nonce, code, window }).await;
                }
            }
            Passing::Reset { nonce } => {
                if let Some(leg) = self.forget(nonce) {
                    leg.send(|nonce| Passing::Reset { nonce }).await;
                }
            }
            Passing::Pong { .. } => self.send(frame).await,
        }
    }

    async fn route(self: &Arc<Self>, nonce: u64, window: u32, query: Vec<u8>, relay: &Relay) {
        let target = match parse(&query) {
            Some(Ok(GatewayOperation::Route { target })) => relay.link_of(&target),
            _ => None,
        };
        let full = self.sessions.lock().len() >= SESSIONS_MAX;
        let Some(target) = target.filter(|_| !full) else {
            return self.send(Passing::Response { nonce, code: REJECTED, window: 0 }).await;
        };
        let far_nonce = target.next_nonce.fetch_add(1, Ordering::Relaxed);
        self.sessions.lock().insert(nonce, Leg { link: Arc::clone(&target), nonce: far_nonce });
        target.sessions.lock().insert(far_nonce, Leg { link: Arc::clone(self), nonce });
        // Windows and credit go through, so the ends hold each other to them.
        target.send(Passing::Query { nonce: far_nonce, window, query }).await;
    }

    async fn send(&self, frame: Passing) {
        // A link that is down has nobody to tell.
        let _ = self.outgoing.send(frame).await;
    }

    fn leg(&self, nonce: u64) -> Option<Leg> {
        self.sessions.lock().get(&nonce).cloned()
    }

    /// Forgets a session on both links.
    fn forget(&self, nonce: u64) -> Option<Leg> {
        let leg = self.sessions.lock().remove(&nonce)?;
        leg.link.sessions.lock().remove(&leg.nonce);
        Some(leg)
    }

    /// Ends every session when the link is down.
    pub(crate) async fn reset_all(&self) {
        let sessions = std::mem::take(&mut *self.sessions.lock());
        for leg in sessions.into_values() {
            leg.link.sessions.lock().remove(&leg.nonce);
            leg.send(|nonce| Passing::Reset { nonce }).await;
        }
    }
}

impl Leg {
    async fn send(&self, frame: impl FnOnce(u64) -> Passing) {
        self.link.send(frame(self.nonce)).await;
    }
}

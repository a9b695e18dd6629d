//! Signals to the program: to stop, and to read its configuration again.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Stop,
    Reload,
}

/// Signals that the program listens to, or none.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Signals {
    /// Listens from now on, if wanted.
    pub(super) fn new(wanted: bool) -> io::Result<Self> {
        let listen = |kind| if wanted { signal(kind).map(Some) } else { Ok(None) };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal. May be dropped at any time without loss.
    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            () = heard(&mut self.terminate) => Wish::Stop,
            () = heard(&mut self.interrupt) => Wish::Stop,
            () = heard(&mut self.hang_up) => Wish::Reload,
        }
    }
}

async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

//! What the threads of a scenario share: the word to stop, the counts, and the first failure.

use super::clock::Clock;
use super::message::{Corruption, ReceiveError};
use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use thiserror::Error;

/// One number that all threads add to.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub(super) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Reads it.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of a scenario.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Messages laid down for sending, but for those of transfers that are ended deliberately.
    pub(super) sent: Count,
    /// Messages that arrived as they were sent.
    pub(super) messages: Count,
    /// Their bytes.
    pub(super) bulk_bytes: Count,
    /// Messages or answers that were not what was sent.
    pub(super) corrupt: Count,
    /// Short queries that were asked, answered and ended as they should.
    pub(super) queries: Count,
    /// Their bytes, both ways.
    pub(super) query_bytes: Count,
    /// Transfers ended deliberately before their end.
    pub(super) cancelled: Count,
    /// Links of throw-away nodes that were closed.
    pub(super) links_closed: Count,
}

impl Tally {
    /// Verified bytes of all kinds.
    pub(super) fn verified_bytes(&self) -> u64 {
        self.bulk_bytes.get() + self.query_bytes.get()
    }

    /// Messages that were sent and did not come, right or wrong.
    pub(super) fn lost(&self) -> u64 {
        self.sent.get().saturating_sub(self.messages.get() + self.corrupt.get())
    }
}

/// Part of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    SetUp,
    Bulk,
    Queries,
    Churn,
    TearDown,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SetUp => "set-up",
            Self::Bulk => "bulk",
            Self::Queries => "short queries",
            Self::Churn => "churn",
            Self::TearDown => "tear-down",
        })
    }
}

/// What the nodes of the demo can find wrong, besides errors of the peer library.
#[derive(Clone, Copy, Debug, Error)]
pub(super) enum Trouble {
    #[error("corrupt: {0}")]
    Corrupt(Corruption),
    #[error("no progress for {} s", super::limits::STALL_TIMEOUT.as_secs())]
    Stalled,
    #[error("the stream ended after message {arrived}, before the last one")]
    EndedEarly { arrived: u64 },
    #[error("{sent} messages were sent and {arrived} arrived")]
    Lost { sent: u64, arrived: u64 },
    #[error("the digests of both sides differ after {messages} messages")]
    Digest { messages: u64 },
    #[error("query {number} was answered with other bytes than it should be")]
    WrongAnswer { number: u64 },
    #[error("query {number} ended without its whole answer")]
    ShortAnswer { number: u64 },
    #[error("a query came that nobody asked")]
    ForeignQuery,
    #[error("there was more in the session than was sent")]
    Surplus,
    #[error("a thread panicked")]
    Panic,
}

/// Sorts the error of a receiver.
pub(super) fn receive_error(error: ReceiveError) -> anyhow::Error {
    match error {
        ReceiveError::Corrupt(corruption) => Trouble::Corrupt(corruption).into(),
        ReceiveError::Stream(error) => stream_error(error),
    }
}

/// Sorts the error of a stream: time-outs mean that nothing moves.
pub(super) fn stream_error(error: io::Error) -> anyhow::Error {
    if is_stall(&error) { Trouble::Stalled.into() } else { error.into() }
}

/// Whether an error of a read or write means that nothing moved in time.
pub(super) fn is_stall(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// The first thing that went wrong, and where. The reason is no source: what failed is the relaying
/// and not, say, a socket at start-up, for which the program has other exit codes.
#[derive(Debug, Error)]
#[error("{scenario}, {who}, {phase}: {reason:#}")]
pub(super) struct Failure {
    pub(super) scenario: &'static str,
    pub(super) who: String,
    pub(super) phase: Phase,
    pub(super) reason: anyhow::Error,
}

/// What all threads of a scenario look at.
#[derive(Debug)]
pub(super) struct Signals {
    pub(super) clock: Clock,
    pub(super) scenario: &'static str,
    pub(super) tally: Tally,
    stop: AtomicBool,
    failure: OnceLock<Failure>,
}

impl Signals {
    /// Nothing counted yet.
    pub(super) fn new(clock: Clock, scenario: &'static str) -> Self {
        Self {
            clock,
            scenario,
            tally: Tally::default(),
            stop: AtomicBool::new(false),
            failure: OnceLock::new(),
        }
    }

    /// Whether senders and askers are to come to an end.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Says whether they are to.
    pub(super) fn set_stopping(&self, stopping: bool) {
        self.stop.store(stopping, Ordering::Relaxed);
    }

    /// Notes what went wrong; the first reason stays, everybody comes to an end.
    pub(super) fn fail(&self, who: String, phase: Phase, reason: anyhow::Error) {
        if let Some(Trouble::Corrupt(_) | Trouble::WrongAnswer { .. } | Trouble::Digest { .. }) =
            reason.downcast_ref::<Trouble>()
        {
            self.tally.corrupt.add(1);
        }
        let failure = Failure { scenario: self.scenario, who, phase, reason };
        // What follows from the first failure is not worth telling.
        let _ = self.failure.set(failure);
        self.set_stopping(true);
    }

    /// Whether anything went wrong.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// The counts and the failure, when all threads have ended.
    pub(super) fn into_parts(self) -> (Tally, Option<Failure>) {
        (self.tally, self.failure.into_inner())
    }
}

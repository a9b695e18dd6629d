//! A drain: nobody new is taken in, what is relayed goes on, and the program ends when little enough
//! is left, or at a deadline.

use super::ManagementCore;
use super::orders::answer;
use crate::clock;
use crate::dialing::Dialer;
use crate::documents::{Readiness, SCHEMA};
use crate::journal::{EventKind, fields};
use crate::stats_socket::Document;
use crate::units::format_duration;
use serde_json::json;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use waystation_engine::control::Command;

/// A drain under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draining {
    pub(super) deadline: Instant,
    until: u64,
    /// The first interval whose counters are of after the drain began.
    from_interval: u64,
}

impl ManagementCore {
    /// Begins to drain, or gives a drain under way another deadline.
    pub(super) fn drain(&mut self, limit: Duration, until: u64, reply: oneshot::Sender<Document>) {
        if let Readiness::Starting { .. } = self.extra.readiness {
            let message = "the data cores do not all serve yet";
            return answer(reply, Document::unavailable("starting", message));
        }
        if self.hand_over.is_paused() {
            let message = "another process is about to take over";
            return answer(reply, Document::unavailable("handing_over", message));
        }
        self.begin_drain(limit, until, true);
        let deadline = format_duration(limit);
        let said = json!({ "command": "drain", "deadline": deadline, "until_links": until });
        self.journal.record(clock::now(), EventKind::Command, None, fields(said));
        let done = json!({
            "schema": SCHEMA,
            "draining": true,
            "until_links": until,
            "deadline": deadline,
        });
        answer(reply, Document::json(&done));
    }

    /// Takes in nobody new from now on; TURN clients that are there may be refused allocations.
    pub(super) fn begin_drain(&mut self, limit: Duration, until: u64, refuse_allocations: bool) {
        if self.draining.is_none() {
            self.extra.readiness = Readiness::Draining;
            self.hand_over.close();
            self.dial(Dialer::stop);
            for core in self.cores() {
                self.command(core, Command::Drain { refuse_allocations });
            }
        }
        // The interval under way may have begun before the cores hear of it.
        let from_interval = self.observations.interval().sequence + 2;
        let deadline = Instant::now() + limit;
        self.draining = Some(Draining { deadline, until, from_interval });
        tracing::info!(until, deadline = format_duration(limit), "draining");
    }

    /// Whether a drain is over.
    pub(super) fn is_drained(&self) -> bool {
        let Some(draining) = self.draining else { return false };
        let left = self.connections_left();
        let is_known = self.observations.interval().sequence >= draining.from_interval;
        if is_known && left <= draining.until {
            tracing::info!(left, "drained");
            return true;
        }
        if Instant::now() >= draining.deadline {
            tracing::warn!(left, "the deadline of the drain has come; what is left is closed");
            return true;
        }
        false
    }

    /// Connections and allocations of all cores, as they were reported last.
    fn connections_left(&self) -> u64 {
        let of_core = |report: &crate::observations::CoreReport| {
            let counters = &report.counters;
            counters.links_open
                + counters.half_open
                + counters.sockets_open
                + counters.turn_allocations_open
                + counters.opaque_sessions_open
        };
        self.observations.reports().map(of_core).sum()
    }
}

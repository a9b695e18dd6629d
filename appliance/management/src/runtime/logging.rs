//! The log among what the management core does: levels by command and by reload, and what was held
//! back.

use super::ManagementCore;
use super::orders::answer;
use crate::clock;
use crate::journal::{EventKind, fields};
use crate::limits::LOG_HELD_BACK_EVERY;
use crate::log_levels::LogDirective;
use crate::stats_socket::Document;
use serde_json::json;
use tokio::sync::oneshot;

impl ManagementCore {
    pub(super) fn set_log(&mut self, directive: &LogDirective, reply: oneshot::Sender<Document>) {
        if let Err(refusal) = self.log.set(directive) {
            return answer(reply, Document::refused("log_level", &refusal.to_string()));
        }
        tracing::info!(%directive, filter = self.log.filter(), "the log has another filter");
        let said = json!({ "command": "log_level", "filter": directive.to_string() });
        self.journal.record(clock::now(), EventKind::Command, None, fields(said));
        answer(reply, Document::json(&self.log.document()));
    }

    /// Takes up `management.log`.
    pub(super) fn take_up_log(&mut self) {
        if let Err(refusal) = self.log.set_configured(&self.config.management.log) {
            tracing::error!("management.log: {refusal}");
        }
    }

    /// Once a second: tells now and then whose lines were too many.
    pub(super) fn tick_log(&mut self) {
        let now = clock::now();
        if now.since(self.log_told_at) < LOG_HELD_BACK_EVERY {
            return;
        }
        self.log_told_at = now;
        for held_back in self.log.take_held_back() {
            let (of, lines) = (held_back.target, held_back.lines);
            tracing::warn!(of, lines, "lines of the log were held back, there were too many");
        }
        self.extra.operations.log_lines_held_back = self.log.held_back();
    }
}

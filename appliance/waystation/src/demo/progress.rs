//! What the demo says on stderr while it works: one line that is written over where there is a
//! terminal, a line now and then where lines stay, nothing for programs that read JSON.

use super::limits::{PROGRESS_EVERY, PROGRESS_LINE_EVERY};
use super::tally::{Signals, Tally};
use std::io::{IsTerminal, Write};
use std::time::Duration;
use waystation_management::units::{human_bytes, human_count};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Silent,
    Rewritten,
    Lines,
}

/// Shows progress on stderr.
#[derive(Debug)]
pub(super) struct Progress {
    form: Form,
    shown_at: Duration,
    shown_bytes: u64,
}

impl Progress {
    /// Finds out how to show it.
    pub(super) fn new(silent: bool) -> Self {
        let form = match (silent, std::io::stderr().is_terminal()) {
            (true, _) => Form::Silent,
            (false, true) => Form::Rewritten,
            (false, false) => Form::Lines,
        };
        Self { form, shown_at: Duration::ZERO, shown_bytes: 0 }
    }

    /// Begins with a scenario.
    pub(super) fn begin(&mut self, now: Duration) {
        (self.shown_at, self.shown_bytes) = (now, 0);
    }

    /// Shows where the scenario is, if it is time to.
    pub(super) fn show(&mut self, signals: &Signals, phase: &str) {
        let every = match self.form {
            Form::Silent => return,
            Form::Rewritten => PROGRESS_EVERY,
            Form::Lines => PROGRESS_LINE_EVERY,
        };
        let now = signals.clock.now();
        let since = now.saturating_sub(self.shown_at);
        if since < every {
            return;
        }
        let line = self.line(signals, phase, now, since);
        (self.shown_at, self.shown_bytes) = (now, signals.tally.verified_bytes());
        // Nobody looks at a stderr that is closed.
        let mut err = std::io::stderr().lock();
        let _ = match self.form {
            Form::Rewritten => write!(err, "\r\x1b[K{line}"),
            Form::Silent | Form::Lines => writeln!(err, "{line}"),
        };
        let _ = err.flush();
    }

    fn line(&self, signals: &Signals, phase: &str, now: Duration, since: Duration) -> String {
        let tally: &Tally = &signals.tally;
        let bytes = tally.verified_bytes();
        let rate = bytes.saturating_sub(self.shown_bytes) as f64 / 1e6 / since.as_secs_f64();
        format!(
            "{:6.1} s  {}, {phase}: {} verified, {rate:.0} MB/s, {} messages, {} queries",
            now.as_secs_f64(),
            signals.scenario,
            human_bytes(bytes),
            human_count(tally.messages.get()),
            human_count(tally.queries.get()),
        )
    }

    /// Takes a line that is written over away.
    pub(super) fn end(&self) {
        if self.form == Form::Rewritten {
            // Nobody looks at a stderr that is closed.
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

//! The whole run: pin, run the rows, judge.

use crate::compare::contender::{Outcome, Schedule, Setting};
use crate::compare::goals::{Row, select};
use crate::compare::options::Options;
use crate::compare::report::{Report, RowReport};
use crate::compare::rows;
use crate::compare::verdict::judge;
use crate::load::clock::{Clock, unix_seconds};
use crate::load::machine::Machine;
use crate::load::processor;
use anyhow::Result;
use std::time::Duration;

/// Shortest warm-up: connections need some round trips to grow their windows.
const WARM_UP_MIN: Duration = Duration::from_millis(200);

/// Runs every row the options name. `progress` hears of each row before it starts.
///
/// # Errors
///
/// For an unknown row, or when this thread cannot be pinned. What ends a row, a lost or changed byte
/// included, is part of the report.
pub fn run(options: &Options, command: String, progress: &dyn Fn(&Row)) -> Result<Report> {
    let chosen = select(&options.scenario)?;
    processor::pin(options.generator_cpu)?;
    let measured = Duration::from_secs_f64(options.seconds);
    let warm_up = (measured / 10).max(WARM_UP_MIN);
    let setting = Setting {
        schedule: Schedule { rounds: options.rounds, warm_up, measured },
        clock: Clock::start(),
        relay_cpu: options.relay_cpu,
        generator_cpu: options.generator_cpu,
        aead: options.aead,
        peers: options.peers.clone(),
    };
    let mut reports = Vec::new();
    for row in chosen {
        progress(row);
        // What one row fails with is no reason to throw the others away.
        let (outcome, failure) = match rows::run(row, &setting) {
            Ok(outcome) => (outcome, None),
            Err(error) => (Outcome::default(), Some(format!("{error:#}"))),
        };
        let verdicts = row.goals.iter().map(|goal| judge(goal, &outcome.lines)).collect();
        reports.push(RowReport {
            number: row.number,
            name: row.name,
            workload: row.workload,
            lines: outcome.lines,
            verdicts,
            messages_checked: outcome.messages_checked,
            failure,
        });
    }
    Ok(Report {
        date_unix_seconds: unix_seconds(),
        machine: Machine::detect(),
        versions: rows::versions(&setting),
        command,
        options: options.clone(),
        rows: reports,
    })
}

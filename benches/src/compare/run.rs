//! The whole run: pin, run the rows, judge.

use crate::compare::contender::{Schedule, Setting};
use crate::compare::goals::{Row, select};
use crate::compare::options::Options;
use crate::compare::report::{Report, RowReport};
use crate::compare::rows;
use crate::compare::verdict::judge;
use crate::load::clock::{Clock, unix_seconds};
use crate::load::machine::Machine;
use crate::load::processor;
use anyhow::{Context, Result};
use std::time::Duration;

/// Shortest warm-up: connections need some round trips to grow their windows.
const WARM_UP_MIN: Duration = Duration::from_millis(200);

/// Runs every row the options name. `progress` hears of each row before it starts.
///
/// # Errors
///
/// What stopped the run: an unknown row, a relay that failed, a lost or changed byte.
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
        peers: options.peers.clone(),
    };
    let mut reports = Vec::new();
    for row in chosen {
        progress(row);
        let outcome = rows::run(row, &setting)
            .with_context(|| format!("row {}, {}", row.number, row.name))?;
        let verdicts = row.goals.iter().map(|goal| judge(goal, &outcome.lines)).collect();
        reports.push(RowReport {
            number: row.number,
            name: row.name,
            workload: row.workload,
            lines: outcome.lines,
            verdicts,
            messages_checked: outcome.messages_checked,
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

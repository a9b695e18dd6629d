//! Rows against relays of other networks.

use crate::compare::contender::{Entry, Outcome, Schedule, Setting, alternate};
use crate::compare::figures::Measure;
use crate::compare::goals::{IROH_BATCHED, IROH_SINGLE};
use crate::compare::proxy::Proxy;
use crate::compare::rows::own::{KIB_1, KIB_8, waystation};
use crate::compare::{iroh, libp2p};
use crate::swarm::shape::Shape;
use anyhow::{Context, Result};

/// Flows of the paced row.
const PACED_FLOWS: u32 = 16;
/// Rate of all of them together where libp2p is not there to be half saturated.
const UNMEASURED_PER_SECOND: f64 = 8_000.0;

/// Row 2.
pub(super) fn libp2p(setting: &Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (case, shape) in [KIB_1, KIB_8] {
        let entries = vec![waystation(shape, setting)?, libp2p::entry(shape, setting)?];
        outcome.extend(alternate(case, entries, &setting.schedule)?);
    }
    Ok(outcome)
}

/// Row 5.
pub(super) fn iroh(setting: &Setting) -> Result<Outcome> {
    let (case, shape) = KIB_1;
    let entries = vec![
        waystation(shape, setting)?,
        iroh::entry(IROH_SINGLE, shape.single(), setting)?,
        iroh::entry(IROH_BATCHED, shape, setting)?,
    ];
    alternate(case, entries, &setting.schedule)
}

/// Row 10: first how much libp2p carries, then everybody at half of it.
pub(super) fn paced(setting: &Setting) -> Result<Outcome> {
    // Paced messages come one by one, so that is what has to be saturated with.
    let saturating = Shape::closed(PACED_FLOWS, 1_024, 4).acknowledged_every(2).single();
    let per_second = match libp2p::entry(saturating, setting)? {
        (_, Ok(mut contender)) => {
            let schedule = Schedule { rounds: 1, ..setting.schedule };
            let sample = contender.round(&schedule).context("saturating libp2p")?;
            let rate = sample.get(&Measure::MessagesPerSecond).copied();
            rate.context("libp2p carried nothing")? / 2.0
        }
        (_, Err(_)) => UNMEASURED_PER_SECOND,
    };
    let shape = Shape::paced(PACED_FLOWS, 1_024, per_second / f64::from(PACED_FLOWS));
    let entries: Vec<Entry> = vec![
        waystation(shape, setting)?,
        libp2p::entry(shape, setting)?,
        Proxy::Haproxy.entry(shape, setting)?,
    ];
    alternate("16 x 1 KiB", entries, &setting.schedule)
}

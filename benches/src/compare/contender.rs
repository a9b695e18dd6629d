//! What takes part in a case, and the alternating rounds.

use crate::aead::AeadOption;
use crate::compare::figures::{self, Figure, Figures, Measure, Sample, summarize};
use crate::load::clock::Clock;
use crate::load::processor::Watched;
use crate::swarm::rounds::Swarm;
use crate::swarm::shape::Shape;
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub rounds: u32,
    pub warm_up: Duration,
    pub measured: Duration,
}

/// Everything a row needs to know about this run.
#[derive(Clone, Debug)]
pub struct Setting {
    pub schedule: Schedule,
    pub clock: Clock,
    pub relay_cpu: usize,
    pub generator_cpu: usize,
    /// What the appliance is told to seal with.
    pub aead: AeadOption,
    /// Where the peers are installed.
    pub peers: PathBuf,
}

/// One side of a comparison, set up and warm, that can run rounds.
pub trait Contender {
    /// Runs one round.
    ///
    /// # Errors
    ///
    /// When anything was lost or changed, or a side ended.
    fn round(&mut self, schedule: &Schedule) -> Result<Sample>;

    /// Messages compared so far.
    fn messages_checked(&self) -> u64;
}

/// A contender, or why it cannot take part.
pub type Entry = (&'static str, Result<Box<dyn Contender>, String>);

/// One line of a row's table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    pub case: String,
    pub contender: String,
    /// Medians, or why there are none.
    pub figures: Result<Figures, String>,
}

/// What a row came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub lines: Vec<Line>,
    pub messages_checked: u64,
}

impl Outcome {
    /// Adds what another case came to.
    pub fn extend(&mut self, other: Self) {
        self.lines.extend(other.lines);
        self.messages_checked += other.messages_checked;
    }

    /// One figure of one line.
    pub fn figure(&self, case: &str, contender: &str, measure: Measure) -> Option<Figure> {
        let mut lines = self.lines.iter();
        let line = lines.find(|line| line.case == case && line.contender == contender)?;
        line.figures.as_ref().ok()?.get(&measure).copied()
    }

    /// Adds a line that follows from others.
    pub fn derive(&mut self, case: &str, contender: &str, figures: Figures) {
        let (case, contender) = (case.to_owned(), contender.to_owned());
        self.lines.push(Line { case, contender, figures: Ok(figures) });
    }
}

/// Runs a case: one round of every contender in turn, then the next. Nobody profits from a quiet
/// minute that others did not have.
///
/// # Errors
///
/// Names the contender and round that failed.
pub fn alternate(case: &str, entries: Vec<Entry>, schedule: &Schedule) -> Result<Outcome> {
    let mut samples: Vec<Vec<Sample>> = entries.iter().map(|_| Vec::new()).collect();
    let mut entries = entries;
    for number in 1..=schedule.rounds {
        for ((name, contender), samples) in entries.iter_mut().zip(&mut samples) {
            let Ok(contender) = contender else { continue };
            let sample = contender
                .round(schedule)
                .with_context(|| format!("{case}: round {number} of {name}"))?;
            samples.push(sample);
        }
    }
    let mut outcome = Outcome::default();
    for ((name, contender), samples) in entries.into_iter().zip(samples) {
        let figures = contender.map(|contender| {
            outcome.messages_checked += contender.messages_checked();
            summarize(&samples)
        });
        let line = Line { case: case.to_owned(), contender: name.to_owned(), figures };
        outcome.lines.push(line);
    }
    Ok(outcome)
}

/// The usual contender: a generator's flows over a relay whose processor time is known. `kept` is
/// what has to live as long, the relay's process first of all.
#[derive(Debug)]
pub struct Flows<K> {
    pub swarm: Swarm,
    pub shape: Shape,
    pub watched: Watched,
    pub kept: K,
}

impl<K> Contender for Flows<K> {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let round = self.swarm.round(schedule.warm_up, schedule.measured, &self.watched)?;
        Ok(figures::of_round(&round, &self.shape))
    }

    fn messages_checked(&self) -> u64 {
        self.swarm.messages_checked()
    }
}

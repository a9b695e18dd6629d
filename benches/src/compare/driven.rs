//! Contenders whose generator is a program of its own, because its peers speak a protocol that has
//! no place among our dependencies. It has the messages, the checks and the figures of this crate;
//! it is asked for a round by a line and answers with a line.
//!
//! The driver is started with the relay's address and process and the shape as JSON. It prints
//! `ready`, then for each line `round WARM_UP_MS MEASURED_MS` one [`Answer`] as JSON.
//! With `idle N` in place of a shape it holds N links and prints `ready`.

use crate::compare::contender::{Contender, Schedule};
use crate::compare::figures::Sample;
use crate::load::processor;
use crate::swarm::shape::Shape;
use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

/// What a driver says after a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub sample: Sample,
    /// Messages compared since it started.
    pub messages_checked: u64,
}

/// A driver, and what has to live as long. Dropped, the driver is killed.
#[derive(Debug)]
pub struct Driven<K> {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    messages_checked: u64,
    _kept: K,
}

impl<K> Driven<K> {
    /// Starts a driver on the generator's processor and waits until its flows are set up.
    ///
    /// # Errors
    ///
    /// When it cannot be started or does not get ready; what it said is on standard error.
    pub fn start(
        program: &Path,
        arguments: &[String],
        shape: &Shape,
        cpu: usize,
        kept: K,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).arg(serde_json::to_string(shape)?);
        Self::start_command(command, cpu, kept)
    }

    fn start_command(mut command: Command, cpu: usize, kept: K) -> Result<Self> {
        let name = command.get_program().to_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let starting = thread::spawn(move || -> Result<Child> {
            processor::pin(cpu)?;
            Ok(command.spawn()?)
        });
        let child = starting.join().map_err(|_panic| anyhow!("a starting thread panicked"))?;
        let mut child =
            child.with_context(|| format!("starting {}", Path::new(&name).display()))?;
        let (Some(asks), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a driver without pipes");
        };
        let answers = BufReader::new(answers);
        let mut driven = Self { child, asks, answers, messages_checked: 0, _kept: kept };
        let ready = driven.line()?;
        if ready != "ready" {
            bail!("the driver said {ready:?} before it was ready");
        }
        Ok(driven)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the driver ended: {}", self.child.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Driven<()> {
    /// Starts a driver that holds so many idle links and is asked for nothing.
    ///
    /// # Errors
    ///
    /// As [`Driven::start`].
    pub fn idle(program: &Path, arguments: &[String], links: u32, cpu: usize) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).arg("idle").arg(links.to_string());
        Self::start_command(command, cpu, ())
    }
}

impl<K> Contender for Driven<K> {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let (warm_up, measured) = (schedule.warm_up.as_millis(), schedule.measured.as_millis());
        writeln!(self.asks, "round {warm_up} {measured}")?;
        let line = self.line()?;
        let answer: Answer =
            serde_json::from_str(&line).with_context(|| format!("a driver said {line:?}"))?;
        self.messages_checked = answer.messages_checked;
        Ok(answer.sample)
    }

    fn messages_checked(&self) -> u64 {
        self.messages_checked
    }
}

impl<K> Drop for Driven<K> {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line on a driver's standard input.
///
/// # Errors
///
/// For anything but `round WARM_UP_MS MEASURED_MS`.
pub fn parse_ask(line: &str) -> Result<Schedule> {
    let words: Vec<_> = line.split_whitespace().collect();
    let ["round", warm_up, measured] = words[..] else { bail!("cannot be asked {line:?}") };
    let duration = |text: &str| -> Result<_> {
        Ok(std::time::Duration::from_millis(text.parse().context("a time that is none")?))
    };
    Ok(Schedule { rounds: 1, warm_up: duration(warm_up)?, measured: duration(measured)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::figures::Measure;
    use std::time::Duration;

    #[test]
    fn asks_are_read() {
        let schedule = parse_ask("round 200 2000\n").unwrap();
        assert_eq!(schedule.warm_up, Duration::from_millis(200));
        assert_eq!(schedule.measured, Duration::from_secs(2));
        for wrong in ["", "round", "round 1", "round 1 x", "stop 1 2", "round 1 2 3"] {
            assert!(parse_ask(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn answers_survive_their_line() {
        let sample = Sample::from([(Measure::LatencyP999Microseconds, 1.5)]);
        let line = serde_json::to_string(&Answer { sample, messages_checked: 7 }).unwrap();
        let answer: Answer = serde_json::from_str(&line).unwrap();
        assert_eq!(answer.sample[&Measure::LatencyP999Microseconds], 1.5);
    }
}

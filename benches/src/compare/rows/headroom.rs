//! Row 17: whether a core has the room that it says it has. At a quarter of what saturates it, it is
//! asked how much more would fit; then that is held against what did saturate it.

use crate::compare::appliance::{Appliance, Port, flows};
use crate::compare::contender::{Contender, Entry, Flows, Outcome, Schedule, Setting, alternate};
use crate::compare::figures::{Figure, Figures, Measure, Sample};
use crate::compare::goals::{QUARTER, SATURATED, TOLD};
use crate::load::report::median;
use crate::swarm::shape::Shape;
use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use waystation_management::stats_socket::client;

const FLOWS: u32 = 16;
const MESSAGE_BYTES: usize = 1_024;
/// Messages a second of one flow that nobody can carry: it sends whenever it may.
const WITHOUT_END_PER_SECOND: f64 = 1e6;
/// Shortest measured part at a quarter: the appliance closes an interval each second, and one has to
/// lie within it whole.
const MEASURED_MIN: Duration = Duration::from_secs(4);
/// Pause between two questions: each interval is seen.
const PAUSE: Duration = Duration::from_millis(200);
/// Intervals that the traffic of a round may not fill: the one under way when it begins, and the one
/// before.
const FIRST_INTERVALS: u64 = 2;

pub(super) fn headroom(setting: &Setting) -> Result<Outcome> {
    let case = "16 x 1 KiB";
    let mut saturated = flows(Port::IoUring, shape(WITHOUT_END_PER_SECOND), setting)?;
    let schedule = Schedule { rounds: 1, ..setting.schedule };
    let fits = capacity(&saturated.round(&schedule).context("saturating the core")?)?;
    let quarter = flows(Port::IoUring, shape(fits / 4.0 / f64::from(FLOWS)), setting)?;
    let (saturated, quarter): (Box<dyn Contender>, Box<dyn Contender>) =
        (Box::new(saturated), Box::new(Asked { flows: quarter }));
    let entries: Vec<Entry> = vec![(SATURATED, Ok(saturated)), (QUARTER, Ok(quarter))];
    let mut outcome = alternate(case, entries, &setting.schedule)?;
    let figure = |name, measure| -> Result<Figure> {
        outcome.figure(case, name, measure).with_context(|| format!("no figure of {name}"))
    };
    let (carried, share) = (
        figure(SATURATED, Measure::MessagesPerSecond)?.median,
        figure(SATURATED, Measure::RelayProcessorShare)?.median,
    );
    let rate = figure(QUARTER, Measure::MessagesPerSecond)?;
    let told = rate.with(&figure(QUARTER, Measure::MoreTraffic)?, |rate, more| rate * (1.0 + more));
    let fits = carried / share.min(1.0);
    let of_fitting = told.with(&told, |told, _| told / fits);
    let figures =
        Figures::from([(Measure::MessagesPerSecond, told), (Measure::ToldOfFitting, of_fitting)]);
    outcome.derive(case, TOLD, figures);
    Ok(outcome)
}

fn shape(per_second: f64) -> Shape {
    Shape::paced(FLOWS, MESSAGE_BYTES, per_second).single()
}

/// Messages a second that fill the core; scaled up where the generator could not keep it busy.
fn capacity(sample: &Sample) -> Result<f64> {
    let of = |measure| sample.get(&measure).copied().filter(|figure| *figure > 0.0);
    let (rate, share) = (of(Measure::MessagesPerSecond), of(Measure::RelayProcessorShare));
    Ok(rate.context("nothing was carried")? / share.context("for nothing")?.min(1.0))
}

/// Flows through an appliance that is asked meanwhile how much more would fit.
struct Asked {
    flows: Flows<Appliance>,
}

impl Contender for Asked {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let socket = self.flows.kept.socket.clone();
        let (stop, stopped) = mpsc::channel::<()>();
        let asking = thread::spawn(move || -> Result<BTreeMap<u64, f64>> {
            let mut told = BTreeMap::new();
            loop {
                let status = status(&socket)?;
                let interval = status["interval"]["sequence"].as_u64().context("no interval")?;
                let more = status["cores"][0]["headroom"]["more_traffic_ratio"].as_f64();
                // Before there is traffic nothing is told, which is worth an entry as well.
                told.insert(interval, more.unwrap_or(f64::NAN));
                match stopped.recv_timeout(PAUSE) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(told),
                }
            }
        });
        let measured = schedule.measured.max(MEASURED_MIN);
        let sample = self.flows.round(&Schedule { measured, ..*schedule });
        drop(stop);
        let told = asking.join().map_err(|_panic| anyhow!("the asking thread panicked"))??;
        let mut sample = sample?;
        let first = told.keys().next().copied().unwrap_or(0) + FIRST_INTERVALS;
        let within: Vec<_> =
            told.range(first..).map(|(_, more)| *more).filter(|more| more.is_finite()).collect();
        if within.is_empty() {
            anyhow::bail!("no interval was whole within the round");
        }
        sample.insert(Measure::MoreTraffic, median(within.into_iter()));
        Ok(sample)
    }

    fn messages_checked(&self) -> u64 {
        self.flows.messages_checked()
    }
}

fn status(socket: &Path) -> Result<Value> {
    let answer = client::get(socket, "/v1/status").context("asking how much more fits")?;
    Ok(serde_json::from_slice(&answer)?)
}

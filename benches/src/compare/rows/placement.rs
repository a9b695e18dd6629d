//! Row 12: a pair whose links are on two data cores.

use crate::compare::appliance::{Appliance, Port};
use crate::compare::contender::{Contender, Flows, Outcome, Schedule, Setting, alternate};
use crate::compare::figures::{Measure, Sample};
use crate::compare::goals::{ONE_CORE, TWO_CORES};
use crate::compare::rows::own::KIB_1;
use crate::swarm::dial::{self, Dialed};
use crate::swarm::flow::Side;
use crate::swarm::rounds::Swarm;
use crate::swarm::shape::{Layout, Shape};
use anyhow::{Context, Result, bail};
use std::thread;
use std::time::Duration;

/// Dials until the kernel deals a connection to the wanted one of two cores.
const DIALS_MAX: usize = 64;
/// Looks until a new link is listed, and the pause between two.
const LOOKS_MAX: usize = 200;
const LOOK_PAUSE: Duration = Duration::from_millis(10);

pub(super) fn two_cores(setting: &Setting) -> Result<Outcome> {
    let (case, shape) = KIB_1;
    let entries = vec![
        (ONE_CORE, Ok(Placed::boxed(shape, [0, 0], setting)?)),
        (TWO_CORES, Ok(Placed::boxed(shape, [0, 1], setting)?)),
    ];
    alternate(case, entries, &setting.schedule)
}

/// Flows whose links began on chosen cores.
struct Placed(Flows<Appliance>);

impl Placed {
    fn boxed(shape: Shape, cores: [usize; 2], setting: &Setting) -> Result<Box<dyn Contender>> {
        let cpus = [setting.relay_cpu, setting.generator_cpu];
        let engine = format!("cores = 2\ncpus = [{}, {}]", cpus[0], cpus[1]);
        let appliance = Appliance::start_with(Port::IoUring, &engine, "", setting)?;
        let [near, far] = cores;
        let swarm = Swarm::through_dialed(&[shape], setting.clock, &mut |side, layout| {
            dial_to(&appliance, if side == Side::Near { near } else { far }, layout)
        })?;
        let watched = appliance.process.watched();
        Ok(Box::new(Self(Flows { swarm, shape, watched, kept: appliance })))
    }

    /// Payload bytes forwarded so far within a core and between cores.
    fn forwarded(&self) -> Result<[f64; 2]> {
        let status = self.0.kept.document("/v1/status")?;
        let counters = &status["totals"]["counters"];
        let counter = |name: &str| counters[name].as_f64().context("no such counter");
        Ok([counter("same_core_bytes")?, counter("cross_core_bytes")?])
    }
}

impl Contender for Placed {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let [same_before, cross_before] = self.forwarded()?;
        let mut sample = self.0.round(schedule)?;
        let [same_after, cross_after] = self.forwarded()?;
        let (same, cross) = (same_after - same_before, cross_after - cross_before);
        sample.insert(Measure::SameCoreShare, same / (same + cross).max(1.0));
        Ok(sample)
    }

    fn messages_checked(&self) -> u64 {
        self.0.messages_checked()
    }
}

/// Dials until the link is on `core`.
fn dial_to(appliance: &Appliance, core: usize, layout: Layout) -> Result<Dialed> {
    for _ in 0..DIALS_MAX {
        let dialed = dial::dial(&appliance.relay, layout)?;
        if core_of(appliance, &dialed)? == core {
            return Ok(dialed);
        }
    }
    bail!("no link on core {core} in {DIALS_MAX} dials")
}

fn core_of(appliance: &Appliance, dialed: &Dialed) -> Result<usize> {
    let name = dialed.identity.to_string();
    for _ in 0..LOOKS_MAX {
        let document = appliance.document("/v1/links")?;
        let rows = document["links"].as_array().context("an odd listing")?;
        if let Some(row) = rows.iter().find(|row| row["identity"] == name.as_str()) {
            let link = row["link"].as_str().context("an odd link")?;
            let core = link.split('.').next().unwrap_or_default();
            return core.parse().context("an odd core");
        }
        thread::park_timeout(LOOK_PAUSE);
    }
    bail!("a link that is not listed")
}

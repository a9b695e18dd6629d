//! Row 12: pairs whose links are on two data cores, kept there, and left to placement.

use crate::compare::appliance::{Appliance, Port};
use crate::compare::contender::{Contender, Entry, Flows, Outcome, Schedule, Setting, alternate};
use crate::compare::figures::{Measure, Sample};
use crate::compare::goals::{COME_TOGETHER, ONE_CORE, TWO_CORES};
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
/// Placement looks at whole seconds, and a link that it was refused rests for ten.
const SETTLING_ROUND: Duration = Duration::from_secs(1);
const SETTLING_ROUNDS_MAX: usize = 25;
/// With four flows: all of them.
const SETTLED_SHARE: f64 = 0.95;

pub(super) fn two_cores(setting: &Setting) -> Result<Outcome> {
    let (case, shape) = KIB_1;
    let mut coming_together = Placed::start(shape, [0, 1], "auto", setting)?;
    coming_together.settle()?;
    let one_core = Placed::start(shape, [0, 0], "off", setting)?;
    let two_cores = Placed::start(shape, [0, 1], "off", setting)?;
    let entries: Vec<Entry> = vec![
        (ONE_CORE, Ok(Box::new(one_core))),
        (TWO_CORES, Ok(Box::new(two_cores))),
        (COME_TOGETHER, Ok(Box::new(coming_together))),
    ];
    alternate(case, entries, &setting.schedule)
}

/// Flows whose links began on chosen cores.
struct Placed(Flows<Appliance>);

impl Placed {
    fn start(shape: Shape, cores: [usize; 2], placement: &str, setting: &Setting) -> Result<Self> {
        let cpus = [setting.relay_cpu, setting.generator_cpu];
        let engine =
            format!("cores = 2\ncpus = [{}, {}]\nplacement = \"{placement}\"", cpus[0], cpus[1]);
        let appliance = Appliance::start_with(Port::IoUring, &engine, "", setting)?;
        let [near, far] = cores;
        let swarm = Swarm::through_dialed(&[shape], setting.clock, &mut |side, layout| {
            dial_to(&appliance, if side == Side::Near { near } else { far }, layout)
        })?;
        let watched = appliance.process.watched();
        Ok(Self(Flows { swarm, shape, watched, kept: appliance }))
    }

    /// Lets traffic flow until links have moved to where it goes, or long enough: what has become of
    /// it is then measured like anything else.
    fn settle(&mut self) -> Result<()> {
        let schedule = Schedule { rounds: 1, warm_up: Duration::ZERO, measured: SETTLING_ROUND };
        for _ in 0..SETTLING_ROUNDS_MAX {
            let sample = self.round(&schedule).context("while links move")?;
            if sample.get(&Measure::SameCoreShare).is_some_and(|share| *share >= SETTLED_SHARE) {
                break;
            }
        }
        Ok(())
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

//! Row 14: paced flows beside a greedy one, and greedy flows among each other.

use crate::compare::appliance::{Appliance, Port};
use crate::compare::contender::{Contender, Outcome, Schedule, Setting, alternate};
use crate::compare::figures::{Measure, Sample, jain_index, latencies};
use crate::compare::goals::{ALONE, BESIDE_ELEPHANT, WAYSTATION};
use crate::swarm::rounds::Swarm;
use crate::swarm::shape::Shape;
use anyhow::Result;

/// Messages that a mouse sends in a second.
const MICE_PER_SECOND: f64 = 100.0;

pub(super) fn fairness(setting: &Setting) -> Result<Outcome> {
    let mice = Shape::paced(15, 1_024, MICE_PER_SECOND);
    let elephant = Shape::closed(1, 8_192, 64);
    let entries = vec![
        (ALONE, Ok(Mixed::boxed(&[mice], setting)?)),
        (BESIDE_ELEPHANT, Ok(Mixed::boxed(&[mice, elephant], setting)?)),
    ];
    let mut outcome = alternate("15 mice", entries, &setting.schedule)?;
    let greedy = vec![(WAYSTATION, Ok(Mixed::boxed(&[Shape::closed(16, 8_192, 16)], setting)?))];
    outcome.extend(alternate("16 greedy", greedy, &setting.schedule)?);
    Ok(outcome)
}

/// Flows of several shapes; latency is that of the first, and the index is over all.
struct Mixed {
    swarm: Swarm,
    appliance: Appliance,
}

impl Mixed {
    fn boxed(shapes: &[Shape], setting: &Setting) -> Result<Box<dyn Contender>> {
        let appliance = Appliance::start(Port::IoUring, setting)?;
        let swarm = Swarm::through_links(&appliance.relay, shapes, setting.clock)?;
        Ok(Box::new(Self { swarm, appliance }))
    }
}

impl Contender for Mixed {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let watched = self.appliance.process.watched();
        let round = self.swarm.round(schedule.warm_up, schedule.measured, &watched)?;
        let messages = round.messages.iter().sum::<u64>() as f64;
        let relay_share = round.spent.forwarding_ns as f64 / 1e9 / round.seconds;
        let mut sample = Sample::from([
            (Measure::MessagesPerSecond, messages / round.seconds),
            (Measure::RelayProcessorShare, relay_share),
            (Measure::GeneratorProcessorShare, round.generator_ns as f64 / 1e9 / round.seconds),
        ]);
        sample.extend(round.latency.first().map(latencies).unwrap_or_default());
        // Where flows are meant to differ the index says nothing.
        if round.latency.len() == 1 {
            sample.insert(Measure::JainIndex, jain_index(&round.messages));
        }
        Ok(sample)
    }

    fn messages_checked(&self) -> u64 {
        self.swarm.messages_checked()
    }
}

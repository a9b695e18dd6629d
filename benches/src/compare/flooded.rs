//! The appliance under a flood of datagrams that nobody asked for, beside sessions at a steady rate.

use crate::compare::contender::{Contender, Schedule, Setting};
use crate::compare::figures::{Measure, Sample};
use crate::compare::turn::{AtWork, Generator, Place, Tier, TurnFlows, appliance_flows, of_round};
use crate::datagrams::flow::DatagramShape;
use anyhow::{Result, bail, ensure};

/// Datagrams of the sessions per second, of all of them together: a fraction of what any tier
/// carries, so that what is lost is lost to the flood.
const SESSIONS_PER_SECOND: u64 = 10_000;
/// Datagrams of the flood per second, if the generator can send as many.
const FLOOD_PER_SECOND: u64 = 1_000_000;

/// See the module.
#[derive(Debug)]
struct Flooded {
    turn: TurnFlows<AtWork>,
    is_flooded: bool,
}

/// Sessions at a steady rate through an appliance of their own in namespaces, with a flood or in
/// quiet. The flood goes to the port that clients send to, each datagram from another address.
///
/// # Errors
///
/// As [`crate::compare::turn::waystation`], or without root.
pub fn waystation(
    tier: Tier,
    is_flooded: bool,
    shape: DatagramShape,
    setting: &Setting,
) -> Result<Box<dyn Contender>> {
    let place = Place::streets(Some(tier), setting)?;
    let mut turn = appliance_flows(tier, shape, place, setting)?;
    let (Place::Streets(streets), Generator::Frames(flows)) = (&turn.kept.place, &mut turn.flows)
    else {
        bail!("a flood needs namespaces");
    };
    flows.aim_flood(turn.kept.server, streets)?;
    Ok(Box::new(Flooded { turn, is_flooded }))
}

impl Contender for Flooded {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        self.turn.renew()?;
        let times = (schedule.warm_up, schedule.measured);
        let TurnFlows { flows: Generator::Frames(flows), watched, .. } = &mut self.turn else {
            bail!("a flood needs namespaces");
        };
        let flood = self.is_flooded.then_some(FLOOD_PER_SECOND);
        let round = flows.steady_round(SESSIONS_PER_SECOND, flood, times, watched)?;
        self.turn.checked = self.turn.flows.messages_checked()?;
        ensure!(round.messages > 0, "no datagram of any session came");
        let mut sample = of_round(&round);
        let sent = (round.messages + round.lost) as f64;
        sample.insert(Measure::DeliveredShare, round.messages as f64 / sent);
        sample.insert(Measure::FloodPerSecond, round.flooded as f64 / round.seconds);
        // What a datagram of a session costs is not to be told from what the flood does.
        sample.remove(&Measure::ProcessorMicrosecondsPerMessage);
        sample.remove(&Measure::MessagesPerProcessorSecond);
        self.turn.kept.check_program(self.messages_checked())?;
        Ok(sample)
    }

    fn messages_checked(&self) -> u64 {
        self.turn.checked
    }
}

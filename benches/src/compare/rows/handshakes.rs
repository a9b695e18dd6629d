//! Row 15: handshakes of the appliance against what their cryptography costs by itself. Beside it
//! stands what the kernel charges for a connection that carries the same bytes and nothing else.

mod bare;
mod kernel;

use crate::compare::appliance::{Appliance, Port};
use crate::compare::contender::{Contender, Outcome, Schedule, Setting, alternate};
use crate::compare::figures::{Figures, Measure, Sample};
use crate::compare::goals::{BARE, WAYSTATION};
use crate::load::clock::Clock;
use crate::load::processor::{Spent, Watched};
use crate::swarm::dial::{RelayAddress, shake_hands};
use anyhow::{Context, Result, anyhow, bail};
use std::io::Read;
use std::thread;
use waystation_astral::brontide::RECORD_HEADER_BYTES;
use waystation_peer::secret_key;

/// Dialers at a time, so that the relay never waits for one of them.
const DIALERS: usize = 4;
const CASE: &str = "handshakes";
const KERNEL: &str = "connections without a handshake";

pub(super) fn handshakes(setting: &Setting) -> Result<Outcome> {
    let appliance = Appliance::start(Port::IoUring, setting)?;
    let ours: Box<dyn Contender> = Box::new(Waystation { appliance, clock: setting.clock });
    let bare: Box<dyn Contender> = Box::new(bare::Bare { cpu: setting.relay_cpu });
    let kernel: Box<dyn Contender> = Box::new(kernel::Kernel::start(setting)?);
    let entries = vec![(WAYSTATION, Ok(ours)), (BARE, Ok(bare)), (KERNEL, Ok(kernel))];
    let mut outcome = alternate(CASE, entries, &setting.schedule)?;
    let rate = Measure::HandshakesPerProcessorSecond;
    let parts = (outcome.figure(CASE, BARE, rate), outcome.figure(CASE, KERNEL, rate));
    if let (Some(bare), Some(kernel)) = parts {
        let both = bare.with(&kernel, |bare, kernel| 1.0 / (1.0 / bare + 1.0 / kernel));
        outcome.derive(CASE, "both together", Figures::from([(rate, both)]));
    }
    Ok(outcome)
}

struct Waystation {
    appliance: Appliance,
    clock: Clock,
}

impl Contender for Waystation {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let watched = self.appliance.process.watched();
        let (relay, clock) = (self.appliance.relay, self.clock);
        dialed(&watched, clock, schedule, move |end_ns| shake_until(&relay, clock, end_ns))
    }

    fn messages_checked(&self) -> u64 {
        0
    }
}

/// Lets the dialers do their part until the round is over, and counts what they got done.
fn dialed(
    watched: &Watched,
    clock: Clock,
    schedule: &Schedule,
    dial_until: impl Fn(u64) -> Result<u64> + Clone + Send + 'static,
) -> Result<Sample> {
    let before = watched.read()?;
    let start_ns = clock.now_ns();
    let end_ns = start_ns + u64::try_from(schedule.measured.as_nanos())?;
    let dialers: Vec<_> = (0..DIALERS)
        .map(|_| {
            let dial_until = dial_until.clone();
            thread::spawn(move || dial_until(end_ns))
        })
        .collect();
    let mut connections = 0;
    for dialer in dialers {
        connections += dialer.join().map_err(|_panic| anyhow!("a dialer panicked"))??;
    }
    let seconds = (clock.now_ns() - start_ns) as f64 / 1e9;
    let Spent { forwarding_ns, .. } = watched.read()?.since(&before);
    if forwarding_ns == 0 {
        bail!("whoever was dialed has spent no time");
    }
    let processor_seconds = forwarding_ns as f64 / 1e9;
    Ok(Sample::from([
        (Measure::HandshakesPerProcessorSecond, connections as f64 / processor_seconds),
        (Measure::RelayProcessorShare, processor_seconds / seconds),
    ]))
}

/// Shakes hands and hangs up, again and again. What the relay sends behind the third act shows that
/// it has finished its side.
fn shake_until(relay: &RelayAddress, clock: Clock, end_ns: u64) -> Result<u64> {
    let mut handshakes = 0;
    while clock.now_ns() < end_ns {
        let (mut stream, mut transport) = shake_hands(relay, &secret_key()?)?;
        let mut header = [0; RECORD_HEADER_BYTES];
        stream.read_exact(&mut header).context("reading the greeting")?;
        transport.opener.open_header(&header).context("opening the greeting")?;
        handshakes += 1;
    }
    Ok(handshakes)
}

//! The whole run: set up, alternate rounds of floor and relay, sum up.

use crate::load::clock::Clock;
use crate::load::floor::{self, PlainForwarder};
use crate::load::machine::Machine;
use crate::load::options::Options;
use crate::load::pairs;
use crate::load::processor::{self, Watched};
use crate::load::report::{Figures, Floor, Report, median, record_plaintext_bytes};
use crate::load::round::{Measured, Pairs};
use anyhow::{Context, Result};
use waystation_astral::aead::AeadSuite;
use waystation_astral::brontide::RECORD_PLAINTEXT_MAX_BYTES;
use waystation_astral::frame::data_header_bytes;

/// Processor time one measurement of the AEAD floor takes, in nanoseconds.
const AEAD_MEASURED_NS: u64 = 200_000_000;

/// Pairs through the gateway and the rounds they have run.
struct Relay {
    pairs: Pairs,
    watched: Watched,
    rounds: Vec<Measured>,
}

/// Pairs through the plain forwarder, and what the floor has cost so far.
struct FloorRun {
    pairs: Pairs,
    forwarder: PlainForwarder,
    rounds: Vec<Measured>,
    aead_us: Vec<f64>,
    suite: AeadSuite,
}

/// Runs everything the options ask for. Any lost or changed message is an error.
///
/// # Errors
///
/// What stopped the run, with what it was doing.
pub fn run(options: &Options, command: String) -> Result<Report> {
    options.check()?;
    if let Some(processor) = options.cpu {
        processor::pin(processor)?;
    }
    let clock = Clock::start();
    let mut relay = start_relay(options, clock)?;
    let mut floor = if options.floor { Some(start_floor(options, clock)?) } else { None };
    for number in 1..=options.rounds {
        if let Some(relay) = &mut relay {
            let measured = relay
                .pairs
                .round(options.warm_up(), options.measured(), &relay.watched)
                .with_context(|| format!("round {number} through the relay"))?;
            relay.rounds.push(measured);
        }
        if let Some(floor) = &mut floor {
            let shape = relay.as_ref().map_or_else(
                || Some(assumed_shape(options)),
                |relay| relay.rounds.last().and_then(shape_of),
            );
            floor.round(options, shape).with_context(|| format!("round {number} of the floor"))?;
        }
    }
    sum_up(options, command, relay, floor)
}

fn start_relay(options: &Options, clock: Clock) -> Result<Option<Relay>> {
    let (Some(gateway), Some(identity)) = (options.gateway, &options.identity) else {
        return Ok(None);
    };
    let flows = pairs::through_gateway(options, gateway, identity)?;
    let watched = options.gateway_pid.map_or(Watched::Nobody, Watched::Process);
    watched.read().context("reading the relay's processor time")?;
    let pairs = Pairs::start(flows, options, clock)?;
    Ok(Some(Relay { pairs, watched, rounds: Vec::new() }))
}

fn start_floor(options: &Options, clock: Clock) -> Result<FloorRun> {
    let (flows, relayed) = pairs::through_plain_forwarder(options.pairs)?;
    let forwarder = PlainForwarder::start(relayed, options.floor_cpu)?;
    let pairs = Pairs::start(flows, options, clock)?;
    Ok(FloorRun {
        pairs,
        forwarder,
        rounds: Vec::new(),
        aead_us: Vec::new(),
        suite: options.aead.suite(),
    })
}

/// Records as the relay gets them.
#[derive(Clone, Copy, Debug)]
struct RecordShape {
    messages_per_record: f64,
    plaintext_bytes: f64,
}

/// The shape of the records A sent in a round; `None` on a path without records of ours.
fn shape_of(round: &Measured) -> Option<RecordShape> {
    (round.sent.records > 0 && round.sent_messages > 0).then(|| RecordShape {
        messages_per_record: round.sent_messages as f64 / round.sent.records as f64,
        plaintext_bytes: record_plaintext_bytes(round),
    })
}

/// Without a relay: the batches that acknowledgements make, as many to a record as fit.
fn assumed_shape(options: &Options) -> RecordShape {
    let frame_bytes = options.message_bytes + data_header_bytes(options.profile.profile());
    let fitting = (RECORD_PLAINTEXT_MAX_BYTES / frame_bytes).max(1);
    let batch = usize::try_from(options.acknowledge_every()).unwrap_or(usize::MAX);
    let messages = fitting.min(batch);
    RecordShape {
        messages_per_record: messages as f64,
        plaintext_bytes: (messages * frame_bytes).min(RECORD_PLAINTEXT_MAX_BYTES) as f64,
    }
}

impl FloorRun {
    fn round(&mut self, options: &Options, shape: Option<RecordShape>) -> Result<()> {
        let watched = Watched::Thread(self.forwarder.thread_number());
        self.rounds.push(self.pairs.round(options.warm_up(), options.measured(), &watched)?);
        if let Some(RecordShape { messages_per_record, plaintext_bytes }) = shape {
            let bytes = plaintext_bytes.round() as usize;
            let record_ns =
                floor::open_and_seal_ns(self.suite, bytes, options.floor_cpu, AEAD_MEASURED_NS)?;
            self.aead_us.push(record_ns / messages_per_record / 1e3);
        }
        Ok(())
    }
}

fn sum_up(
    options: &Options,
    command: String,
    relay: Option<Relay>,
    floor: Option<FloorRun>,
) -> Result<Report> {
    let mut messages_checked = 0;
    let relay = match relay {
        Some(relay) => {
            messages_checked += relay.pairs.check_nothing_lost().context("through the relay")?;
            Some(Figures::of(&relay.rounds, options))
        }
        None => None,
    };
    let floor = match floor {
        Some(floor) => {
            messages_checked += floor.pairs.check_nothing_lost().context("on the floor")?;
            Some(floor_figures(options, &floor, relay.as_ref()))
        }
        None => None,
    };
    Ok(Report {
        date_unix_seconds: Report::date_now(),
        machine: Machine::detect(),
        command,
        options: options.clone(),
        relay,
        floor,
        messages_checked,
    })
}

fn floor_figures(options: &Options, floor: &FloorRun, relay: Option<&Figures>) -> Floor {
    let forwarding = Figures::of(&floor.rounds, options);
    let aead = (!floor.aead_us.is_empty()).then(|| median(floor.aead_us.iter().copied()));
    let sum = forwarding.processor_microseconds_per_message.unwrap_or_default()
        + aead.unwrap_or_default();
    let relay_us = relay.and_then(|relay| relay.processor_microseconds_per_message);
    Floor {
        forwarding,
        aead_microseconds_per_message: aead,
        aead_suite: floor.suite.to_string(),
        microseconds_per_message: sum,
        efficiency: relay_us.filter(|us| *us > 0.0).map(|us| sum / us),
    }
}

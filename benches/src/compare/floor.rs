//! The floor as a contender: what the machine charges for moving the bytes, and what the cipher
//! charges for opening and sealing them once.

use crate::compare::contender::{Contender, Flows, Schedule, Setting};
use crate::compare::figures::{Measure, Sample};
use crate::load::floor::{PlainForwarder, open_and_seal_ns};
use crate::load::pairs::plain_connections;
use crate::load::processor::Watched;
use crate::swarm::rounds::Swarm;
use crate::swarm::shape::Shape;
use anyhow::Result;
use waystation_astral::aead::AeadSuite;
use waystation_astral::brontide::RECORD_PLAINTEXT_MAX_BYTES;
use waystation_astral::frame::{Profile, data_header_bytes};

/// Processor time of one measurement of the cipher, in nanoseconds.
const CIPHER_MEASURED_NS: u64 = 200_000_000;

/// Plain forwarding by one thread of this process, with or without the cipher's cost on top.
#[derive(Debug)]
pub struct Floor {
    flows: Flows<PlainForwarder>,
    /// Who opens and seals, and where.
    cipher: Option<(AeadSuite, usize)>,
}

impl Floor {
    /// Plain forwarding and one open and seal of every record by `suite`, the relay's.
    ///
    /// # Errors
    ///
    /// When connections or threads cannot be made.
    pub fn sealed(shape: Shape, suite: AeadSuite, setting: &Setting) -> Result<Self> {
        Ok(Self { cipher: Some((suite, setting.relay_cpu)), ..Self::plain(shape, setting)? })
    }

    /// Plain forwarding alone.
    ///
    /// # Errors
    ///
    /// As [`Floor::sealed`].
    pub fn plain(shape: Shape, setting: &Setting) -> Result<Self> {
        let mut ends = Vec::new();
        let mut relayed = Vec::new();
        for pair in plain_connections(shape.flows)? {
            ends.push((pair.near, pair.far));
            relayed.push((pair.near_relay, pair.far_relay));
        }
        let forwarder = PlainForwarder::start(relayed, setting.relay_cpu)?;
        let watched = Watched::Thread(forwarder.thread_number());
        let swarm = Swarm::through_streams(ends, &shape, setting.clock)?;
        Ok(Self { flows: Flows { swarm, shape, watched, kept: forwarder }, cipher: None })
    }
}

impl Contender for Floor {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let mut sample = self.flows.round(schedule)?;
        if let Some((suite, cpu)) = self.cipher {
            let shape = &self.flows.shape;
            let (messages, bytes) = record_of(shape);
            let record_ns = open_and_seal_ns(suite, bytes, cpu, CIPHER_MEASURED_NS)?;
            let cipher_ns = record_ns / messages;
            if let Some(us) = sample.get_mut(&Measure::ProcessorMicrosecondsPerMessage) {
                *us += cipher_ns / 1e3;
            }
            if let Some(per_gigabyte) = sample.get_mut(&Measure::ProcessorSecondsPerGigabyte) {
                *per_gigabyte += cipher_ns / shape.message_bytes as f64;
            }
        }
        Ok(sample)
    }

    fn messages_checked(&self) -> u64 {
        self.flows.messages_checked()
    }
}

/// The records that hold one acknowledged batch: messages in one, and its plaintext in bytes.
fn record_of(shape: &Shape) -> (f64, usize) {
    use crate::swarm::shape::Pace;
    let batch = match shape.pace {
        Pace::Closed { acknowledge_every, .. } => acknowledge_every.max(1) as usize,
        Pace::Paced { .. } => 1,
    };
    let frame_bytes = shape.message_bytes + data_header_bytes(Profile::P4);
    let fitting = (RECORD_PLAINTEXT_MAX_BYTES / frame_bytes).max(1);
    // As few records as hold the batch, evenly filled.
    let records = batch.div_ceil(fitting);
    let messages = batch as f64 / records as f64;
    let bytes = (messages * frame_bytes as f64) as usize;
    (messages, bytes.min(RECORD_PLAINTEXT_MAX_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_fill_as_few_records_as_hold_them() {
        let frame = data_header_bytes(Profile::P4);
        let (messages, bytes) = record_of(&Shape::closed(4, 1_024, 64));
        assert_eq!((messages, bytes), (16.0, 16 * (1_024 + frame)));
        let (messages, bytes) = record_of(&Shape::closed(4, 8_192, 32));
        assert_eq!((messages, bytes), (4.0, 4 * (8_192 + frame)));
        assert_eq!(record_of(&Shape::closed(1, 200, 1)).0, 1.0);
    }
}

//! The floor as a contender: what the machine charges for moving the bytes, and what the cipher
//! charges for opening and sealing them once.
//!
//! The bytes are the same, in every respect: the ends seal for each other what they would seal for
//! a relay, acknowledgements and credit included, in the same records and writes. A thread between
//! them reads, opens and seals records of its own that are as long as theirs, and writes what it
//! read. So it is as busy, is woken as often and has as busy a neighbour as the cheapest relay there
//! could be. Measured apart, forwarding and cipher come to less: nobody seals on the other
//! processor then, which may share a core or its power with this one.

use crate::compare::contender::{Contender, Flows, Schedule, Setting};
use crate::compare::figures::{self, Measure, Sample};
use crate::load::floor::{PlainForwarder, RecordLengths, open_and_seal_ns};
use crate::load::pairs::plain_connections;
use crate::load::processor::Watched;
use crate::swarm::rounds::Swarm;
use crate::swarm::sealed::Records;
use crate::swarm::shape::Shape;
use anyhow::Result;
use std::net::TcpStream;
use std::sync::Arc;
use waystation_astral::aead::AeadSuite;

/// Processor time of measuring the cipher on records of one length, in nanoseconds.
const CIPHER_MEASURED_NS: u64 = 40_000_000;

/// Record lengths before there was a round to learn them from, in bytes.
const FIRST_LENGTHS_BYTES: [usize; 2] = [16 * 1024, 32];

/// Forwarding by one thread of this process, which may open and seal as well.
#[derive(Debug)]
pub struct Floor {
    flows: Flows<PlainForwarder>,
    cipher: Option<Cipher>,
}

#[derive(Debug)]
struct Cipher {
    suite: AeadSuite,
    lengths: Arc<RecordLengths>,
    /// Where it is measured by itself.
    cpu: usize,
}

impl Floor {
    /// Forwarding of sealed flows, and one open and seal for every record by `suite`, the relay's.
    ///
    /// # Errors
    ///
    /// When connections or threads cannot be made.
    pub fn sealed(shape: Shape, suite: AeadSuite, setting: &Setting) -> Result<Self> {
        let (ends, relayed) = connections(&shape)?;
        let [there_bytes, back_bytes] = FIRST_LENGTHS_BYTES;
        let lengths = Arc::new(RecordLengths::new(there_bytes, back_bytes));
        let cpu = setting.relay_cpu;
        let kept = PlainForwarder::start_sealing(relayed, cpu, suite, Arc::clone(&lengths))?;
        let watched = Watched::Thread(kept.thread_number());
        let swarm = Swarm::through_sealed_streams(ends, &shape, suite, setting.clock)?;
        let cipher = Some(Cipher { suite, lengths, cpu });
        Ok(Self { flows: Flows { swarm, shape, watched, kept }, cipher })
    }

    /// Forwarding of flows that nobody seals.
    ///
    /// # Errors
    ///
    /// As [`Floor::sealed`].
    pub fn plain(shape: Shape, setting: &Setting) -> Result<Self> {
        let (ends, relayed) = connections(&shape)?;
        let kept = PlainForwarder::start(relayed, setting.relay_cpu)?;
        let watched = Watched::Thread(kept.thread_number());
        let swarm = Swarm::through_streams(ends, &shape, setting.clock)?;
        Ok(Self { flows: Flows { swarm, shape, watched, kept }, cipher: None })
    }
}

/// The ends' connections and the forwarder's, in pairs.
type Connections = (Vec<(TcpStream, TcpStream)>, Vec<(TcpStream, TcpStream)>);

fn connections(shape: &Shape) -> Result<Connections> {
    let pairs = plain_connections(shape.flows)?.into_iter();
    Ok(pairs.map(|pair| ((pair.near, pair.far), (pair.near_relay, pair.far_relay))).unzip())
}

impl Contender for Floor {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let Flows { swarm, shape, watched, .. } = &mut self.flows;
        let round = swarm.round(schedule.warm_up, schedule.measured, watched)?;
        let mut sample = figures::of_round(&round, shape);
        if let Some(cipher) = &self.cipher {
            let messages = round.messages.iter().sum::<u64>() * u64::from(shape.times_relayed());
            let sealed = &round.sealed;
            cipher.lengths.set(sealed.near.mean_bytes(), sealed.far.mean_bytes());
            let cipher_ns = cipher.again_ns(&sealed.near)? + cipher.again_ns(&sealed.far)?;
            let per_message_ns = cipher_ns / messages.max(1) as f64;
            sample.insert(Measure::CipherMicrosecondsPerMessage, per_message_ns / 1e3);
        }
        Ok(sample)
    }

    fn messages_checked(&self) -> u64 {
        self.flows.messages_checked()
    }
}

impl Cipher {
    /// What opening and sealing these records once costs by itself, in nanoseconds.
    fn again_ns(&self, records: &Records) -> Result<f64> {
        records.classes().try_fold(0.0, |sum, class| {
            let bytes = usize::try_from(class.plaintext_bytes / class.records)?;
            let record_ns = open_and_seal_ns(self.suite, bytes, self.cpu, CIPHER_MEASURED_NS)?;
            Ok(sum + record_ns * class.records as f64)
        })
    }
}

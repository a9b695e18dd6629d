//! The floor of the machine: what it charges for moving bytes from one socket to another, and for
//! opening and sealing them once on the way.
//!
//! [`calibrate`] is called on the thread that starts everything else, before data cores exist, and
//! never by a data core. It forwards between loopback sockets of its own, which nobody else can
//! see, and counts processor time alone: one `epoll` set, no frames, no sessions, no queues, the
//! cheapest relay there could be. [`Forwarder`] and [`SealedRecord`] are that relay, for whoever
//! measures against it in another way.

mod forwarder;
mod record;

pub use forwarder::Forwarder;
pub use record::SealedRecord;

use crate::clock;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;
use waystation_astral::aead::AeadSuite;
use waystation_astral::brontide::RECORD_OVERHEAD_BYTES;

/// Bytes that arrive at once, in the order they are measured. The longest fits into a socket whose
/// buffers the kernel has not grown yet.
pub const ARRIVAL_BYTES: [usize; 5] = [256, 1024, 4096, 16 * 1024, 32 * 1024];
/// How many lengths are measured.
pub const LENGTHS: usize = ARRIVAL_BYTES.len();

/// Flows that are forwarded in turn, so that one wait brings several arrivals.
const FLOWS: usize = 4;
/// Samples of each length: at least so many, then as many as fit into [`CALIBRATING_NS_MAX`]. The
/// least counts, because other load on the machine only ever adds to one.
const SAMPLES_MIN: u32 = 4;
const SAMPLES_MAX: u32 = 24;
/// Time after which no further samples are begun: what a start may take longer once per machine.
const CALIBRATING_NS_MAX: u64 = 60_000_000;
/// Turns of the forwarder within which a sample is over; more are a socket that is stuck.
const TURNS_MAX: u32 = 200;
/// How long one wait may last. Loopback delivers before a write returns, or a moment later.
const WAIT: Duration = Duration::from_millis(20);
/// How long an end waits for its socket.
const STALL: Duration = Duration::from_millis(500);

/// Says why there is no floor; the host's doing.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// Loopback sockets cannot be had or used.
    #[error("cannot forward over loopback: {0}")]
    Loopback(#[from] io::Error),
    /// The cipher does not take its own records.
    #[error("the cipher refuses a record of its own")]
    Cipher,
}

/// What was measured, in nanoseconds of processor time for each length of [`ARRIVAL_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// One arrival waited for, read and written.
    pub forward_ns: [f64; LENGTHS],
    /// The same, and opened and sealed as one record in between.
    pub sealed_ns: [f64; LENGTHS],
}

impl Floor {
    /// Nanoseconds that so many bytes cost which arrive so many at a time and go on as they are.
    pub fn forwarding_ns(&self, bytes: f64, arrival_bytes: f64) -> f64 {
        bytes * per_byte_ns(&self.forward_ns, arrival_bytes)
    }

    /// Nanoseconds of opening and sealing so many bytes in records of this length on the wire.
    pub fn cipher_ns(&self, bytes: f64, record_bytes: f64) -> f64 {
        let mut cipher_ns = self.sealed_ns;
        for (sealed_ns, forward_ns) in cipher_ns.iter_mut().zip(self.forward_ns) {
            *sealed_ns = (*sealed_ns - forward_ns).max(0.0);
        }
        bytes * per_byte_ns(&cipher_ns, record_bytes)
    }

    /// Whether these can be figures of a machine: each takes some time, and less than a second.
    pub fn is_plausible(&self) -> bool {
        let all = self.forward_ns.iter().chain(&self.sealed_ns);
        all.into_iter().all(|ns| (1.0..1e9).contains(ns))
    }
}

/// Nanoseconds per byte of arrivals of this length, which may lie between those measured. Shorter
/// ones cost as much as the shortest; longer ones grow as between the two longest.
fn per_byte_ns(costs_ns: &[f64; LENGTHS], bytes: f64) -> f64 {
    let bytes = bytes.max(1.0);
    let above = ARRIVAL_BYTES.iter().position(|length| bytes <= *length as f64);
    let upper = above.unwrap_or(LENGTHS - 1);
    let ns = if upper == 0 {
        costs_ns[0]
    } else {
        let (from, to) = (ARRIVAL_BYTES[upper - 1] as f64, ARRIVAL_BYTES[upper] as f64);
        let slope = (costs_ns[upper] - costs_ns[upper - 1]) / (to - from);
        costs_ns[upper - 1] + slope.max(0.0) * (bytes - from)
    };
    ns / bytes
}

/// Measures this machine with this cipher, in some tens of milliseconds.
///
/// # Errors
/// See [`FloorError`].
pub fn calibrate(suite: AeadSuite) -> Result<Floor, FloorError> {
    let mut rig = Rig::new(suite)?;
    let none = [f64::INFINITY; LENGTHS];
    let mut floor = Floor { forward_ns: none, sealed_ns: none };
    let start_ns = clock::now_ns();
    for sample in 0..SAMPLES_MAX {
        if sample >= SAMPLES_MIN && clock::now_ns() - start_ns > CALIBRATING_NS_MAX {
            break;
        }
        for (place, bytes) in ARRIVAL_BYTES.into_iter().enumerate() {
            let forward_ns = rig.sample_ns(bytes, false)?;
            floor.forward_ns[place] = floor.forward_ns[place].min(forward_ns);
            let sealed_ns = rig.sample_ns(bytes, true)?;
            floor.sealed_ns[place] = floor.sealed_ns[place].min(sealed_ns);
        }
    }
    Ok(floor)
}

/// Ends that write and read by turns with the forwarder between them, all on one thread.
struct Rig {
    ends: Vec<(TcpStream, TcpStream)>,
    forwarder: Forwarder,
    records: Vec<SealedRecord>,
    buffer: Vec<u8>,
}

impl Rig {
    fn new(suite: AeadSuite) -> Result<Self, FloorError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (mut ends, mut between) = (Vec::new(), Vec::new());
        for _ in 0..FLOWS {
            let ((near, near_relay), (far, far_relay)) =
                (connection(&listener)?, connection(&listener)?);
            for end in [&near, &far] {
                end.set_read_timeout(Some(STALL))?;
                end.set_write_timeout(Some(STALL))?;
            }
            ends.push((near, far));
            between.push((near_relay, far_relay));
        }
        let lengths = ARRIVAL_BYTES.iter();
        let records: Result<_, _> =
            lengths.map(|bytes| SealedRecord::new(suite, bytes - RECORD_OVERHEAD_BYTES)).collect();
        let buffer = vec![0x5a; ARRIVAL_BYTES[LENGTHS - 1]];
        Ok(Self { ends, forwarder: Forwarder::new(between)?, records: records?, buffer })
    }

    /// Processor time of one arrival of so many bytes.
    fn sample_ns(&mut self, bytes: usize, sealed: bool) -> Result<f64, FloorError> {
        let Self { ends, forwarder, records, buffer } = self;
        let buffer = buffer.get_mut(..bytes).ok_or(FloorError::Cipher)?;
        for (near, _) in &*ends {
            (&*near).write_all(buffer)?;
        }
        let plaintext_bytes = bytes - RECORD_OVERHEAD_BYTES;
        let record = records.iter_mut().find(|it| it.plaintext_bytes() == plaintext_bytes);
        let record = record.ok_or(FloorError::Cipher)?;
        let mut work = |_connection, _bytes| match sealed {
            true => record.open_and_seal(),
            false => Ok(()),
        };
        let (mut left, mut turns) = (bytes * FLOWS, 0);
        let start_ns = clock::thread_cpu_ns();
        while left > 0 {
            left = left.saturating_sub(forwarder.turn(WAIT, &mut work)?);
            turns += 1;
            if turns > TURNS_MAX {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
        }
        let spent_ns = clock::thread_cpu_ns() - start_ns;
        for (_, far) in &*ends {
            (&*far).read_exact(buffer)?;
        }
        Ok(spent_ns as f64 / FLOWS as f64)
    }
}

/// Both ends of a connection to a listener of ours; connections of others are let go.
fn connection(listener: &TcpListener) -> io::Result<(TcpStream, TcpStream)> {
    /// Others that happen to try this port within a moment.
    const STRAYS_MAX: usize = 16;
    let near = TcpStream::connect(listener.local_addr()?)?;
    near.set_nodelay(true)?;
    for _ in 0..STRAYS_MAX {
        let (far, remote) = listener.accept()?;
        if remote == near.local_addr()? {
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
    Err(io::ErrorKind::ConnectionRefused.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 100 ns for each arrival and 1 ns for each byte; opening and sealing as much again.
    fn linear() -> Floor {
        let forward_ns = ARRIVAL_BYTES.map(|bytes| 100.0 + bytes as f64);
        Floor { forward_ns, sealed_ns: forward_ns.map(|ns| 2.0 * ns) }
    }

    #[test]
    fn lengths_between_and_beyond_those_measured_are_told_from_them() {
        for bytes in [256.0, 1000.0, 5000.0, 32_768.0, 64_000.0] {
            let once = linear().forwarding_ns(bytes, bytes);
            assert!((once - 100.0 - bytes).abs() < 1e-6, "{bytes}: {once}");
            let cipher = linear().cipher_ns(bytes, bytes);
            assert!((cipher - 100.0 - bytes).abs() < 1e-6, "{bytes}: {cipher}");
        }
    }

    #[test]
    fn shortest_arrivals_cost_as_much_as_the_shortest_that_was_measured() {
        assert!((linear().forwarding_ns(10.0, 10.0) - 356.0).abs() < 1e-6);
        assert!(linear().forwarding_ns(1.0, 0.0).is_finite());
    }

    #[test]
    fn cipher_that_seemed_to_cost_nothing_is_free_and_no_gain() {
        let mut floor = linear();
        floor.sealed_ns = floor.forward_ns.map(|ns| ns - 1.0);
        assert_eq!(floor.cipher_ns(1e6, 1000.0), 0.0);
    }

    #[test]
    fn machine_has_a_floor() {
        let floor = calibrate(AeadSuite::default()).unwrap();
        assert!(floor.is_plausible(), "{floor:?}");
        // An open and a seal of 32 KiB cost more than any noise of a least of several.
        assert!(floor.sealed_ns[LENGTHS - 1] > floor.forward_ns[LENGTHS - 1], "{floor:?}");
    }

    proptest! {
        #[test]
        fn more_bytes_never_cost_less(bytes in 1.0_f64..1e5, more in 0.0_f64..1e5) {
            let once = |bytes| linear().forwarding_ns(bytes, bytes);
            prop_assert!(once(bytes + more) >= once(bytes) - 1e-6);
        }
    }
}

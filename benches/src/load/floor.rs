//! The floor of the machine: what forwarding costs when nothing is decided, what sealing costs when
//! nothing is sent, and both in one loop. A relay that terminates links on both sides cannot be
//! cheaper than that on the same machine, processor and minute.

use crate::load::clock;
use crate::load::processor;
use anyhow::{Result, anyhow};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use waystation_astral::aead::AeadSuite;
use waystation_astral::brontide::{RECORD_OVERHEAD_BYTES, RECORD_PLAINTEXT_MAX_BYTES};
use waystation_engine::floor::{Forwarder, SealedRecord};

/// How often a silent forwarder looks whether it is to stop.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// Records between two looks at the clock of the AEAD floor.
const RECORDS_PER_LOOK: u32 = 64;

/// How long the records are that a forwarder is to open and seal, by the way they go.
#[derive(Debug)]
pub struct RecordLengths {
    /// Plaintext bytes of a record on the way to the far ends, and of one on the way back.
    bytes: [AtomicUsize; 2],
}

impl RecordLengths {
    /// Lengths to begin with.
    pub fn new(there_bytes: usize, back_bytes: usize) -> Self {
        Self { bytes: [AtomicUsize::new(there_bytes), AtomicUsize::new(back_bytes)] }
    }

    /// Says how long they really are.
    pub fn set(&self, there_bytes: usize, back_bytes: usize) {
        for (length, bytes) in self.bytes.iter().zip([there_bytes, back_bytes]) {
            length.store(bytes, Ordering::Relaxed);
        }
    }
}

/// The plain forwarder's thread.
#[derive(Debug)]
pub struct PlainForwarder {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Result<()>>>,
    number: u32,
}

impl PlainForwarder {
    /// Starts the thread on `processor`; it forwards between the two connections of every pair,
    /// both ways, until it is dropped.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started or pinned.
    pub fn start(pairs: Vec<(TcpStream, TcpStream)>, processor: usize) -> Result<Self> {
        Self::start_with(pairs, processor, || Ok(|_connection, _bytes| Ok(())))
    }

    /// The same with a thread that opens and seals, between reading and writing, records of as many
    /// bytes as it has read, by `suite`. They are records of its own, for it has no keys to those of
    /// the ends.
    ///
    /// # Errors
    ///
    /// As [`PlainForwarder::start`].
    pub fn start_sealing(
        pairs: Vec<(TcpStream, TcpStream)>,
        processor: usize,
        suite: AeadSuite,
        lengths: Arc<RecordLengths>,
    ) -> Result<Self> {
        Self::start_with(pairs, processor, move || {
            let mut ways = [Way::new(suite)?, Way::new(suite)?];
            Ok(move |connection: usize, bytes| {
                // The first connection of every pair is the one of the near end.
                let number = connection % 2;
                let (Some(way), Some(length)) = (ways.get_mut(number), lengths.bytes.get(number))
                else {
                    return Ok(());
                };
                way.open_and_seal(bytes, length.load(Ordering::Relaxed))
            })
        })
    }

    /// `make` makes, on the thread, what is done with the bytes read from a connection.
    fn start_with<W: FnMut(usize, usize) -> Result<()>>(
        pairs: Vec<(TcpStream, TcpStream)>,
        processor: usize,
        make: impl FnOnce() -> Result<W> + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready_sender, ready) = mpsc::channel();
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("floor".to_owned()).spawn(move || {
            processor::pin(processor)?;
            ready_sender.send(processor::thread_number())?;
            forward(pairs, &stopped, &mut make()?)
        })?;
        match ready.recv() {
            Ok(number) => Ok(Self { stop, thread: Some(thread), number }),
            Err(mpsc::RecvError) => {
                Err(joined(thread).err().unwrap_or_else(|| anyhow!("no start")))
            }
        }
    }

    /// The thread's number, for its processor time.
    pub fn thread_number(&self) -> u32 {
        self.number
    }
}

impl Drop for PlainForwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A failure has shown as an ended flow already.
            let _ = joined(thread);
        }
    }
}

fn joined<T>(thread: thread::JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_panic| anyhow!("a floor thread panicked"))?
}

fn forward(
    pairs: Vec<(TcpStream, TcpStream)>,
    stop: &AtomicBool,
    work: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<()> {
    let mut forwarder = Forwarder::new(pairs)?;
    while !stop.load(Ordering::Relaxed) {
        forwarder.turn(STOP_CHECK, work)?;
    }
    Ok(())
}

/// Records that a forwarder opens and seals on one way.
struct Way {
    record: SealedRecord,
    /// Bytes read and not accounted for, less than a record.
    rest_bytes: usize,
}

impl Way {
    fn new(suite: AeadSuite) -> Result<Self> {
        Ok(Self { record: SealedRecord::new(suite, 1)?, rest_bytes: 0 })
    }

    fn open_and_seal(&mut self, bytes: usize, plaintext_bytes: usize) -> Result<()> {
        let plaintext_bytes = plaintext_bytes.clamp(1, RECORD_PLAINTEXT_MAX_BYTES);
        if self.record.plaintext_bytes() != plaintext_bytes {
            self.record.resize(plaintext_bytes)?;
        }
        self.rest_bytes += bytes;
        while let Some(rest) = self.rest_bytes.checked_sub(RECORD_OVERHEAD_BYTES + plaintext_bytes)
        {
            self.rest_bytes = rest;
            self.record.open_and_seal()?;
        }
        Ok(())
    }
}

/// Measures opening and sealing records of `plaintext_bytes` bytes in place by `suite`, on
/// `processor`, for `measured_ns` of processor time; returns nanoseconds per record. A floor has
/// to use what the relay uses.
///
/// # Errors
///
/// When the thread cannot be pinned, or the cipher refuses its own records.
pub fn open_and_seal_ns(
    suite: AeadSuite,
    plaintext_bytes: usize,
    processor: usize,
    measured_ns: u64,
) -> Result<f64> {
    let plaintext_bytes = plaintext_bytes.clamp(1, RECORD_PLAINTEXT_MAX_BYTES);
    let thread = thread::Builder::new().name("floor".to_owned()).spawn(move || {
        processor::pin(processor)?;
        let mut record = SealedRecord::new(suite, plaintext_bytes)?;
        let start_ns = clock::thread_processor_ns();
        let mut records = 0_u64;
        loop {
            for _ in 0..RECORDS_PER_LOOK {
                record.open_and_seal()?;
            }
            records += u64::from(RECORDS_PER_LOOK);
            let spent_ns = clock::thread_processor_ns() - start_ns;
            if spent_ns >= measured_ns {
                return Ok(spent_ns as f64 / records as f64);
            }
        }
    })?;
    joined(thread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn as_many_bytes_are_sealed_as_were_read() {
        let mut way = Way::new(AeadSuite::default()).unwrap();
        let sealed = |way: &Way| way.record.times_opened();
        way.open_and_seal(RECORD_OVERHEAD_BYTES + 99, 100).unwrap();
        assert_eq!((sealed(&way), way.rest_bytes), (0, RECORD_OVERHEAD_BYTES + 99));
        way.open_and_seal(1, 100).unwrap();
        assert_eq!((sealed(&way), way.rest_bytes), (1, 0));
        way.open_and_seal(3 * (RECORD_OVERHEAD_BYTES + 7) + 5, 7).unwrap();
        assert_eq!((sealed(&way), way.rest_bytes), (4, 5));
    }

    #[test]
    fn forwarder_carries_both_ways_and_ends_with_its_connections() {
        let (mut pairs, relayed) = crate::load::pairs::through_plain_forwarder(2).unwrap();
        let forwarder = PlainForwarder::start(relayed, 0).unwrap();
        for pair in &mut pairs {
            let mut received = [0; 5];
            pair.near.sender.put(b"there").unwrap();
            pair.near.sender.flush().unwrap();
            pair.far.source.read_exact(&mut received).unwrap();
            assert_eq!(&received, b"there");
            pair.far.sender.put(b"back!").unwrap();
            pair.far.sender.flush().unwrap();
            pair.near.source.read_exact(&mut received).unwrap();
            assert_eq!(&received, b"back!");
        }
        drop(forwarder);
        assert_eq!(pairs[0].near.source.read(&mut [0; 1]).unwrap(), 0);
    }
}

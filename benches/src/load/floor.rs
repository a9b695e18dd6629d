//! The floor of the machine: what forwarding costs when nothing is decided, what sealing costs when
//! nothing is sent, and both in one loop. A relay that terminates links on both sides cannot be
//! cheaper than that on the same machine, processor and minute.

use crate::load::clock;
use crate::load::processor;
use anyhow::{Context, Result, anyhow};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use waystation_astral::aead::{AeadKey, AeadSuite};
use waystation_astral::brontide::{
    RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES, RECORD_PLAINTEXT_MAX_BYTES, TAG_BYTES,
};

/// One read of the plain forwarder: the size below which forwarding costs several times more.
const READ_BYTES: usize = 64 * 1024;
/// Events taken in one wait.
const EVENTS_MAX: usize = 256;
/// How often a silent forwarder looks whether it is to stop, in nanoseconds.
const STOP_CHECK_NS: i64 = 100_000_000;
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
            forward(&pairs, &stopped, &mut make()?)
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
    pairs: &[(TcpStream, TcpStream)],
    stop: &AtomicBool,
    work: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).context("creating an epoll set")?;
    let connections: Vec<_> = pairs.iter().flat_map(|(near, far)| [near, far]).collect();
    for (number, connection) in (0..).zip(&connections) {
        connection.set_nonblocking(true)?;
        epoll::add(&epoll, connection, EventData::new_u64(number), EventFlags::IN)
            .context("watching a connection")?;
    }
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
    let mut buffer = vec![0; READ_BYTES];
    let tick = Timespec { tv_sec: 0, tv_nsec: STOP_CHECK_NS };
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            // The two connections of a pair are neighbours.
            let number = usize::try_from(event.data.u64())?;
            let (Some(from), Some(to)) = (connections.get(number), connections.get(number ^ 1))
            else {
                continue;
            };
            if !forward_once(from, to, &mut buffer, &mut |bytes| work(number, bytes))? {
                epoll::delete(&epoll, from)?;
                let _ = to.shutdown(Shutdown::Write);
            }
        }
    }
    Ok(())
}

/// One read, and its bytes written. `false`: the connection has ended.
fn forward_once(
    mut from: &TcpStream,
    to: &TcpStream,
    buffer: &mut [u8],
    work: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<bool> {
    let bytes = match from.read(buffer) {
        Ok(0) => return Ok(false),
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    work(bytes)?;
    let mut rest = buffer.get(..bytes).unwrap_or_default();
    let mut writer = to;
    while !rest.is_empty() {
        match writer.write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_writable(to)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn wait_writable(connection: &TcpStream) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    poll(&mut [PollFd::new(connection, PollFlags::OUT)], None)?;
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

/// A record that goes in circles: opened with one key, sealed with another, which then is the one
/// to open it with. Laid out as on a link: sealed length, sealed body.
struct SealedRecord {
    keys: [AeadKey; 2],
    counter: u64,
    bytes: Vec<u8>,
}

impl SealedRecord {
    fn new(suite: AeadSuite, plaintext_bytes: usize) -> Result<Self> {
        let bytes = vec![0x5a; RECORD_HEADER_BYTES + plaintext_bytes + TAG_BYTES];
        let keys = [key(suite, 1)?, key(suite, 2)?];
        let mut record = Self { keys, counter: 0, bytes };
        record.seal()?;
        Ok(record)
    }

    fn plaintext_bytes(&self) -> usize {
        self.bytes.len() - RECORD_OVERHEAD_BYTES
    }

    fn resize(&mut self, plaintext_bytes: usize) -> Result<()> {
        self.bytes.resize(RECORD_OVERHEAD_BYTES + plaintext_bytes, 0);
        self.seal()
    }

    fn open_and_seal(&mut self) -> Result<()> {
        let [opening, _] = &mut self.keys;
        let (header, body) = self.bytes.split_at_mut(RECORD_HEADER_BYTES);
        for (part, counter) in [(header, self.counter), (body, self.counter + 1)] {
            opening.open(counter, part).context("a record of our own is refused")?;
        }
        self.counter += 2;
        self.keys.swap(0, 1);
        self.seal()
    }

    fn seal(&mut self) -> Result<()> {
        let [sealing, _] = &mut self.keys;
        let (header, body) = self.bytes.split_at_mut(RECORD_HEADER_BYTES);
        for (part, counter) in [(header, self.counter), (body, self.counter + 1)] {
            let (plaintext, tag) = part.split_last_chunk_mut().context("no room for a tag")?;
            sealing.seal(counter, plaintext, tag).context("sealing failed")?;
        }
        Ok(())
    }
}

fn key(suite: AeadSuite, seed: u8) -> Result<AeadKey> {
    AeadKey::new(suite, &[seed; 32]).context("the cipher refuses its key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_bytes_are_sealed_as_were_read() {
        let mut way = Way::new(AeadSuite::default()).unwrap();
        let sealed = |way: &Way| way.record.counter / 2;
        way.open_and_seal(RECORD_OVERHEAD_BYTES + 99, 100).unwrap();
        assert_eq!((sealed(&way), way.rest_bytes), (0, RECORD_OVERHEAD_BYTES + 99));
        way.open_and_seal(1, 100).unwrap();
        assert_eq!((sealed(&way), way.rest_bytes), (1, 0));
        way.open_and_seal(3 * (RECORD_OVERHEAD_BYTES + 7) + 5, 7).unwrap();
        assert_eq!((sealed(&way), way.rest_bytes), (4, 5));
    }

    #[test]
    fn record_goes_in_circles() {
        for plaintext_bytes in [1, 100, RECORD_PLAINTEXT_MAX_BYTES] {
            let mut record = SealedRecord::new(AeadSuite::default(), plaintext_bytes).unwrap();
            let before = record.bytes.clone();
            for _ in 0..10 {
                record.open_and_seal().unwrap();
            }
            assert_ne!(record.bytes, before);
        }
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

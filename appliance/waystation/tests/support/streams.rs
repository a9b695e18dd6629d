//! Streams whose every byte is known: what was sent is verified by place and by digest.

use super::STEP;
use ring::digest::{Context, Digest, SHA256};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use waystation_peer::Session;

/// Bytes of one read or write.
const CHUNK_BYTES: usize = 32 * 1024;
/// Bytes of one read or write of a [`Pump`].
const PUMP_CHUNK_BYTES: usize = 8 * 1024;
/// Pause of a pump's receiver after each read: it keeps windows and queues full on the way without
/// taking the whole machine.
const PUMP_PAUSE: Duration = Duration::from_millis(1);

/// Something with two directions that two threads can serve.
pub trait Ends {
    fn apart(self) -> (Box<dyn Read + Send>, Box<dyn Write + Send>);
}

impl Ends for Session {
    fn apart(mut self) -> (Box<dyn Read + Send>, Box<dyn Write + Send>) {
        self.set_read_timeout(Some(STEP));
        self.set_write_timeout(Some(STEP));
        let (reader, writer) = self.split();
        (Box::new(reader), Box::new(writer))
    }
}

impl Ends for TcpStream {
    fn apart(self) -> (Box<dyn Read + Send>, Box<dyn Write + Send>) {
        self.set_read_timeout(Some(STEP)).unwrap();
        self.set_write_timeout(Some(STEP)).unwrap();
        let twin = self.try_clone().unwrap();
        (Box::new(self), Box::new(twin))
    }
}

/// Bytes that do not repeat and that both sides can make: a xorshift generator.
#[derive(Clone, Debug)]
pub struct Pattern(u64);

impl Pattern {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next bytes; `buffer` has a multiple of eight.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_exact_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes());
        }
    }
}

/// Writes so many bytes of a pattern; returns their digest.
pub fn send(to: &mut dyn Write, seed: u64, bytes: usize) -> io::Result<Digest> {
    let mut pattern = Pattern::new(seed);
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        pattern.fill(&mut chunk);
        let part = &chunk[..left.min(CHUNK_BYTES)];
        context.update(part);
        to.write_all(part)?;
        left -= part.len();
    }
    to.flush()?;
    Ok(context.finish())
}

/// Reads so many bytes, compares each with the pattern's, and returns the digest of what came.
pub fn receive(from: &mut dyn Read, seed: u64, bytes: usize) -> io::Result<Digest> {
    let mut pattern = Pattern::new(seed);
    let mut context = Context::new(&SHA256);
    let (mut chunk, mut expected) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut left = bytes;
    while left > 0 {
        let part = left.min(CHUNK_BYTES);
        from.read_exact(&mut chunk[..part])?;
        pattern.fill(&mut expected);
        assert!(chunk[..part] == expected[..part], "wrong bytes with {left} of {bytes} to come");
        context.update(&chunk[..part]);
        left -= part;
    }
    Ok(context.finish())
}

/// Moves so many bytes each way at once and compares the digests of both directions.
pub fn exchange(what: &str, near: impl Ends, far: impl Ends, bytes: usize) {
    let (near_reader, near_writer) = near.apart();
    let (far_reader, far_writer) = far.apart();
    let workers = [
        ("near sends", start_sending(near_writer, 1, bytes)),
        ("far receives", start_receiving(far_reader, 1, bytes)),
        ("far sends", start_sending(far_writer, 2, bytes)),
        ("near receives", start_receiving(near_reader, 2, bytes)),
    ];
    // The halves stay alive until all are done: dropping one may end the stream.
    let outcomes = workers.map(|(who, worker)| {
        let (half, outcome) = worker.join().unwrap();
        (half, outcome.unwrap_or_else(|error| panic!("{what}: {who}: {error}")))
    });
    let [there_sent, there_received, back_sent, back_received] =
        outcomes.each_ref().map(|(_, digest)| digest.as_ref().to_vec());
    assert_eq!(there_sent, there_received, "{what}: digest of what near sent");
    assert_eq!(back_sent, back_received, "{what}: digest of what far sent");
}

/// A half that a thread has served, and how it went.
type Served = (Box<dyn Send>, io::Result<Digest>);

fn start_sending(mut to: Box<dyn Write + Send>, seed: u64, bytes: usize) -> JoinHandle<Served> {
    thread::spawn(move || {
        let sent = send(&mut *to, seed, bytes);
        (Box::new(to) as Box<dyn Send>, sent)
    })
}

fn start_receiving(mut from: Box<dyn Read + Send>, seed: u64, bytes: usize) -> JoinHandle<Served> {
    thread::spawn(move || {
        let received = receive(&mut *from, seed, bytes);
        (Box::new(from) as Box<dyn Send>, received)
    })
}

/// How one worker of a [`Pump`] ended.
#[derive(Debug)]
enum Ended {
    /// After everything that was to come.
    Complete,
    /// Before that.
    Early(io::Error),
}

/// Endless verified streams both ways, until told to finish or broken by a lost end.
#[derive(Debug)]
pub struct Pump {
    what: String,
    there: Arc<Direction>,
    back: Arc<Direction>,
    workers: Vec<JoinHandle<(Half, Ended)>>,
}

/// Keeps a half alive until its worker has been heard.
struct Half(#[expect(dead_code, reason = "only held")] Box<dyn Send>);

#[derive(Debug)]
struct Direction {
    finish: AtomicBool,
    /// Whether the receiver reads as fast as it can.
    hurry: AtomicBool,
    /// Bytes received and verified.
    verified: AtomicU64,
    /// Bytes that will have been sent in all, once that is known.
    total: AtomicU64,
}

impl Direction {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            finish: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            verified: AtomicU64::new(0),
            total: AtomicU64::new(u64::MAX),
        })
    }

    /// Sends until told to finish. The total is known before the last byte leaves, so a receiver
    /// that has the last byte knows that it has.
    fn send(&self, to: &mut dyn Write, seed: u64) -> Ended {
        let mut pattern = Pattern::new(seed);
        let mut chunk = vec![0; PUMP_CHUNK_BYTES];
        let mut sent = 0;
        loop {
            pattern.fill(&mut chunk);
            sent += chunk.len() as u64;
            let last = self.finish.load(Ordering::SeqCst);
            if last {
                self.total.store(sent, Ordering::SeqCst);
            }
            if let Err(error) = to.write_all(&chunk).and_then(|()| to.flush()) {
                return Ended::Early(error);
            }
            if last {
                return Ended::Complete;
            }
        }
    }

    fn receive(&self, from: &mut dyn Read, seed: u64) -> Ended {
        let mut pattern = Pattern::new(seed);
        let (mut chunk, mut expected) = (vec![0; PUMP_CHUNK_BYTES], vec![0; PUMP_CHUNK_BYTES]);
        let mut at = expected.len();
        let mut received = 0;
        while received < self.total.load(Ordering::SeqCst) {
            if at == expected.len() {
                pattern.fill(&mut expected);
                at = 0;
            }
            let left = &expected[at..];
            let bytes = match from.read(&mut chunk[..left.len()]) {
                Ok(0) => return Ended::Early(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => bytes,
                Err(error) => return Ended::Early(error),
            };
            assert!(chunk[..bytes] == left[..bytes], "wrong bytes after {received}");
            at += bytes;
            received += bytes as u64;
            self.verified.store(received, Ordering::SeqCst);
            if !self.hurry.load(Ordering::SeqCst) {
                thread::sleep(PUMP_PAUSE);
            }
        }
        Ended::Complete
    }
}

impl Pump {
    /// Starts it.
    pub fn start(what: &str, near: impl Ends, far: impl Ends) -> Self {
        let (there, back) = (Direction::new(), Direction::new());
        let (near_reader, near_writer) = near.apart();
        let (far_reader, far_writer) = far.apart();
        let sending = |direction: &Arc<Direction>, mut to: Box<dyn Write + Send>, seed| {
            let direction = Arc::clone(direction);
            thread::spawn(move || {
                let ended = direction.send(&mut *to, seed);
                (Half(Box::new(to)), ended)
            })
        };
        let receiving = |direction: &Arc<Direction>, mut from: Box<dyn Read + Send>, seed| {
            let direction = Arc::clone(direction);
            thread::spawn(move || {
                let ended = direction.receive(&mut *from, seed);
                (Half(Box::new(from)), ended)
            })
        };
        let workers = vec![
            sending(&there, near_writer, 1),
            receiving(&there, far_reader, 1),
            sending(&back, far_writer, 2),
            receiving(&back, near_reader, 2),
        ];
        Self { what: what.to_owned(), there, back, workers }
    }

    /// Waits until so many more bytes have been verified in each direction of each pump.
    pub fn wait_for(pumps: &[&Self], bytes: u64) {
        let mut waiting = Vec::new();
        for pump in pumps {
            for (name, direction) in [("there", &pump.there), ("back", &pump.back)] {
                let enough = direction.verified.load(Ordering::SeqCst) + bytes;
                waiting.push((*pump, name, direction, enough));
            }
        }
        for (pump, name, direction, enough) in waiting {
            let what = format!("{} {name}: {enough} bytes", pump.what);
            super::eventually(&what, || {
                let lost = pump.workers.iter().any(JoinHandle::is_finished);
                assert!(!lost, "{what}: has ended");
                (direction.verified.load(Ordering::SeqCst) >= enough).then_some(())
            });
        }
    }

    /// Ends it; every byte that was sent must arrive.
    pub fn finish(self) {
        for direction in [&self.there, &self.back] {
            direction.finish.store(true, Ordering::SeqCst);
            direction.hurry.store(true, Ordering::SeqCst);
        }
        let what = self.what;
        let outcomes: Vec<_> =
            self.workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        for (_, ended) in &outcomes {
            assert!(matches!(ended, Ended::Complete), "{what}: {ended:?}");
        }
    }

    /// Waits for its end; every worker must have lost the other side, none may wait in vain.
    pub fn wait_broken(self) {
        let what = self.what;
        for direction in [&self.there, &self.back] {
            direction.hurry.store(true, Ordering::SeqCst);
        }
        for worker in self.workers {
            let (_half, ended) = worker.join().unwrap();
            match ended {
                Ended::Early(error) => assert!(
                    !matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock),
                    "{what}: never learnt that the other side is gone"
                ),
                Ended::Complete => panic!("{what}: complete without having been told to finish"),
            }
        }
    }
}

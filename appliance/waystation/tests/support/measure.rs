//! What a running process takes, and how long others wait for their messages.

use super::appliance::Appliance;
use super::nodes::{Node, route};
use super::{STEP, eventually};
use parking_lot::{Mutex, MutexGuard};
use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use waystation_astral::frame::Profile;
use waystation_peer::{RouteForm, Session};

/// Payload of one message of a [`Pair`].
pub const MESSAGE_BYTES: usize = 1024;

/// Held by a test that measures: no other of the same program runs beside it.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock()
}

/// Whether the long versions of tests were asked for.
pub fn long() -> bool {
    std::env::var_os("WAYSTATION_TEST_LONG").is_some_and(|value| value == "1")
}

impl Appliance {
    /// Memory of the process that is in RAM, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// Descriptors that the process has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// Waits until the process has no more descriptors than this. Some are closed by the kernel a
    /// moment after their connection has ended.
    pub fn wait_for_descriptors(&self, most: usize) {
        eventually(&format!("no more than {most} descriptors"), || {
            (self.descriptors() <= most).then_some(())
        });
    }
}

/// Two nodes that send each other one message at a time through the appliance.
#[derive(Debug)]
pub struct Pair {
    near: Session,
    far: Session,
    _nodes: (Node, Node),
}

impl Pair {
    pub fn new(appliance: &Appliance) -> Self {
        let nodes = (appliance.node(Profile::P4), appliance.node(Profile::P4));
        let (near, far) = route(&nodes.0, &nodes.1, RouteForm::G2);
        Self { near, far, _nodes: nodes }
    }

    /// Messages there and back for so long; how long each took.
    fn run(&mut self, length: Duration) -> Vec<Duration> {
        let (near, far) = (&mut self.near, &mut self.far);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let echoing = scope.spawn(|| {
                let mut message = [0; MESSAGE_BYTES];
                loop {
                    far.read_exact(&mut message).unwrap();
                    far.write_all(&message).unwrap();
                    if message[0] == u8::MAX {
                        return;
                    }
                }
            });
            let until = Instant::now() + length;
            let mut waits = Vec::new();
            let mut echo = [0; MESSAGE_BYTES];
            while !stop.load(Ordering::Relaxed) {
                let sent = Instant::now();
                let last = sent >= until;
                let mark = if last { u8::MAX } else { (waits.len() % 200) as u8 };
                let message = [mark; MESSAGE_BYTES];
                near.write_all(&message).unwrap();
                near.read_exact(&mut echo).unwrap();
                assert!(echo == message, "another message than the one sent came back");
                waits.push(sent.elapsed());
                stop.store(last, Ordering::Relaxed);
            }
            echoing.join().unwrap();
            waits
        })
    }
}

/// How long messages took.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    pub messages: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// All pairs at once, for so long.
pub fn measure(pairs: &mut [Pair], length: Duration) -> Waits {
    let mut waits: Vec<Duration> = thread::scope(|scope| {
        let running: Vec<_> =
            pairs.iter_mut().map(|pair| scope.spawn(move || pair.run(length))).collect();
        running.into_iter().flat_map(|running| running.join().unwrap()).collect()
    });
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    Waits { messages: waits.len(), p50: at(0.5), p99: at(0.99), max: at(1.0) }
}

/// Lets everybody else go first on the processors. Whoever disturbs a relay has processors of its
/// own; here it shares them with the relay and with those that are measured.
fn yield_processors() {
    const LOWEST_PRIORITY: i32 = 19;
    let thread = rustix::thread::gettid();
    rustix::process::setpriority_process(Some(thread), LOWEST_PRIORITY).unwrap();
}

/// Runs `disturb` again and again on a thread of its own while `during` runs, then waits for it.
pub fn disturbed<T>(disturb: impl Fn(&AtomicBool) + Sync, during: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let disturbing = scope.spawn(|| {
            yield_processors();
            disturb(&stop);
        });
        // What disturbs needs a moment to begin.
        thread::sleep(Duration::from_millis(50));
        let outcome = during();
        stop.store(true, Ordering::Relaxed);
        disturbing.join().unwrap();
        outcome
    })
}

/// Asserts that others hardly notice a disturbance: in the best of up to five rounds, 99 % of their
/// messages take at most twice as long as right before it, and never longer than a step of a test.
pub fn assert_others_hardly_notice(
    what: &str,
    pairs: &mut [Pair],
    mut disturb: impl FnMut(&AtomicBool) + Send,
) {
    /// Rounds of which the best counts: a busy machine disturbs, too.
    const ROUNDS: usize = 5;
    /// Length of one measurement.
    const LENGTH: Duration = Duration::from_millis(700);
    /// Messages without which a measurement says nothing about one in a hundred.
    const MESSAGES_MIN: usize = 100;
    /// Below this the clock and the scheduler of the machine are all that is measured.
    const FLOOR: Duration = Duration::from_micros(500);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let before = measure(pairs, LENGTH);
        let during = {
            let (disturb, pairs) = (Mutex::new(&mut disturb), &mut *pairs);
            disturbed(|stop| (*disturb.lock())(stop), || measure(pairs, LENGTH))
        };
        println!(
            "{what}: p50 {:?} then {:?}, p99 {:?} then {:?}, {} then {} messages",
            before.p50, during.p50, before.p99, during.p99, before.messages, during.messages
        );
        assert!(during.max < STEP, "{what}: {during:?}");
        rounds.push((before, during));
        if during.p99 <= 2 * before.p99.max(FLOOR) && during.messages >= MESSAGES_MIN {
            return;
        }
    }
    panic!("{what}: others notice in every round: {rounds:#?}");
}

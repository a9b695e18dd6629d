//! One round over a set of pairs: warm up, measure, stop, count. B's side of every pair has a
//! thread of its own that lives as long as the pairs; A's sides get threads for each round.

use crate::load::clock::{self, Clock};
use crate::load::ends::{End, Sender, Source};
use crate::load::message::{ACKNOWLEDGEMENT_BYTES, Arrived, FLAG_LAST, Pattern, Receiver};
use crate::load::options::Options;
use crate::load::pairs::Pair;
use crate::load::processor::{Spent, Watched};
use anyhow::{Context, Result, anyhow, bail};
use hdrhistogram::Histogram;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use waystation_peer::SentStatistics;

/// Longest latency the histograms tell apart, in nanoseconds: a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Significant digits of the histograms.
const LATENCY_DIGITS: u8 = 3;
/// Time for B's threads to say what they saw after a round.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);
/// The same when a sender has failed already.
const FAILURE_TIMEOUT: Duration = Duration::from_secs(1);

/// What one round measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Length of the measured part, in seconds.
    pub seconds: f64,
    /// Messages that arrived whole in it (with echo: that came back).
    pub messages: u64,
    pub spent: Spent,
    /// Processor time of the generator itself, in nanoseconds.
    pub generator_ns: u64,
    /// Latencies in nanoseconds: one way, or with echo both ways.
    pub latency: Histogram<u64>,
    /// What A's links to the relay sent in the measured part, and how many messages that was.
    pub sent: SentStatistics,
    pub sent_messages: u64,
}

/// What all threads of a set of pairs look at.
#[derive(Debug)]
struct Signals {
    clock: Clock,
    measuring: AtomicBool,
    stop: AtomicBool,
    /// Messages laid down by A's sides since the pairs exist.
    sent: AtomicU64,
    /// Messages that reached the end of their way since the pairs exist.
    arrived: AtomicU64,
}

/// How messages are sent.
#[derive(Clone, Copy, Debug)]
struct Plan {
    window: u64,
    acknowledge_every: u64,
    interval_ns: Option<f64>,
    echo: bool,
}

/// Latencies of one thread and round, or what went wrong.
type Outcome = Result<Histogram<u64>>;

/// A's side of a pair between rounds.
struct Near {
    end: End,
    pattern: Pattern,
    sent: u64,
    acknowledged: u64,
    /// Checks what comes back with echo.
    receiver: Receiver,
}

/// A set of pairs that rounds run over.
pub struct Pairs {
    signals: Arc<Signals>,
    plan: Plan,
    near: Vec<Near>,
    far_outcomes: mpsc::Receiver<Outcome>,
}

impl Pairs {
    /// Starts B's side of every pair.
    ///
    /// # Errors
    ///
    /// When a thread cannot be started.
    pub fn start(pairs: Vec<Pair>, options: &Options, clock: Clock) -> Result<Self> {
        let signals = Arc::new(Signals {
            clock,
            measuring: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
        });
        let plan = Plan {
            window: u64::from(options.window),
            acknowledge_every: options.acknowledge_every(),
            interval_ns: options.rate.map(|rate| 1e9 / rate),
            echo: options.echo,
        };
        let (outcome_sender, far_outcomes) = mpsc::channel();
        let mut near = Vec::new();
        for (number, pair) in (0..).zip(pairs) {
            let pattern = Pattern::new(number, options.message_bytes);
            let receiver = Receiver::new(pattern.clone());
            let far = Far {
                end: pair.far,
                receiver: Receiver::new(pattern.clone()),
                signals: Arc::clone(&signals),
                plan,
                outcomes: outcome_sender.clone(),
                scratch: Vec::new(),
            };
            thread::Builder::new().name(format!("far-{number}")).spawn(move || far.run())?;
            near.push(Near { end: pair.near, pattern, sent: 0, acknowledged: 0, receiver });
        }
        Ok(Self { signals, plan, near, far_outcomes })
    }

    /// Runs one round.
    ///
    /// # Errors
    ///
    /// Loss, corruption, an ended flow, or unreadable processor times.
    pub fn round(
        &mut self,
        warm_up: Duration,
        measured: Duration,
        watched: &Watched,
    ) -> Result<Measured> {
        let (signals, plan) = (Arc::clone(&self.signals), self.plan);
        signals.stop.store(false, Ordering::Relaxed);
        let carriers: Vec<_> =
            self.near.iter().filter_map(|near| near.end.carrier.clone()).collect();
        let sent = move || {
            carriers.iter().map(waystation_peer::Link::sent).fold(SentStatistics::default(), sum)
        };
        let far_outcomes = &self.far_outcomes;
        let pairs = self.near.len();
        thread::scope(|scope| {
            let near: Vec<_> =
                self.near.iter_mut().map(|near| scope.spawn(|| near.run(&signals, plan))).collect();
            let window = Window::measure(&signals, warm_up, measured, watched, &sent);
            signals.stop.store(true, Ordering::Relaxed);
            let near: Vec<Outcome> = near
                .into_iter()
                .map(|near| near.join().map_err(|_panic| anyhow!("a sender panicked"))?)
                .collect();
            // Where both sides fail, the receiver saw the cause and the sender its effect; but a
            // receiver whose sender failed may wait for what never comes.
            let failed = near.iter().any(Result::is_err);
            let timeout = if failed { FAILURE_TIMEOUT } else { REPORT_TIMEOUT };
            let mut latency = histogram()?;
            let mut reported = 0;
            while reported < pairs
                && let Ok(outcome) = far_outcomes.recv_timeout(timeout)
            {
                latency.add(outcome.context("receiving side")?)?;
                reported += 1;
            }
            for outcome in near {
                latency.add(outcome.context("sending side")?)?;
            }
            if reported < pairs {
                bail!("{reported} of {pairs} receivers finished the round");
            }
            window.map(|window| window.into_measured(latency))
        })
    }

    /// Counts every message since the pairs exist, from both sides.
    ///
    /// # Errors
    ///
    /// When a message was sent that never arrived.
    pub fn check_nothing_lost(&self) -> Result<u64> {
        let sent: u64 = self.near.iter().map(|near| near.sent).sum();
        let arrived = self.signals.arrived.load(Ordering::SeqCst);
        if sent != arrived {
            bail!("{sent} messages were sent and {arrived} arrived");
        }
        Ok(sent)
    }
}

impl std::fmt::Debug for Pairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairs").field("pairs", &self.near.len()).finish_non_exhaustive()
    }
}

fn sum(a: SentStatistics, b: SentStatistics) -> SentStatistics {
    SentStatistics {
        data_frames: a.data_frames + b.data_frames,
        data_bytes: a.data_bytes + b.data_bytes,
        control_frames: a.control_frames + b.control_frames,
        records: a.records + b.records,
        wire_bytes: a.wire_bytes + b.wire_bytes,
        batches: a.batches + b.batches,
    }
}

fn difference(a: SentStatistics, b: SentStatistics) -> SentStatistics {
    SentStatistics {
        data_frames: a.data_frames - b.data_frames,
        data_bytes: a.data_bytes - b.data_bytes,
        control_frames: a.control_frames - b.control_frames,
        records: a.records - b.records,
        wire_bytes: a.wire_bytes - b.wire_bytes,
        batches: a.batches - b.batches,
    }
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)?)
}

/// The measured part of a round, without the latencies.
struct Window {
    seconds: f64,
    messages: u64,
    spent: Spent,
    generator_ns: u64,
    sent: SentStatistics,
    sent_messages: u64,
}

impl Window {
    fn measure(
        signals: &Signals,
        warm_up: Duration,
        measured: Duration,
        watched: &Watched,
        sent: &dyn Fn() -> SentStatistics,
    ) -> Result<Self> {
        let own = Watched::Process(std::process::id());
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let look = || -> Result<_> {
            Ok((
                signals.clock.now_ns(),
                signals.arrived.load(Ordering::Relaxed),
                signals.sent.load(Ordering::Relaxed),
                sent(),
                watched.read()?,
                own.read()?,
            ))
        };
        signals.clock.sleep_until(signals.clock.now_ns() + ns(warm_up));
        let before = look()?;
        signals.measuring.store(true, Ordering::Relaxed);
        signals.clock.sleep_until(before.0 + ns(measured));
        signals.measuring.store(false, Ordering::Relaxed);
        let after = look()?;
        let spent = after.4.since(&before.4);
        let own_ns = after.5.since(&before.5).total_ns;
        // The floor's thread lives in this process and is not the generator.
        let floor_ns = if matches!(watched, Watched::Thread(_)) { spent.total_ns } else { 0 };
        Ok(Self {
            seconds: after.0.saturating_sub(before.0) as f64 / 1e9,
            messages: after.1 - before.1,
            sent_messages: after.2 - before.2,
            sent: difference(after.3, before.3),
            spent,
            generator_ns: own_ns.saturating_sub(floor_ns),
        })
    }

    fn into_measured(self, latency: Histogram<u64>) -> Measured {
        let Self { seconds, messages, spent, generator_ns, sent, sent_messages } = self;
        Measured { seconds, messages, spent, generator_ns, latency, sent, sent_messages }
    }
}

impl Near {
    /// A's part of a round: send until told to stop, then wait until everything has arrived.
    fn run(&mut self, signals: &Signals, plan: Plan) -> Outcome {
        match plan.interval_ns {
            None => self.closed_loop(signals, plan),
            Some(interval_ns) => self.open_loop(signals, plan, interval_ns),
        }
    }

    fn closed_loop(&mut self, signals: &Signals, plan: Plan) -> Outcome {
        let mut latency = histogram()?;
        let mut message = Vec::new();
        let Self { end, pattern, sent, acknowledged, receiver } = self;
        let mut back = Back { source: &mut end.source, receiver, acknowledged, plan, signals };
        let mut stopping = false;
        while !stopping {
            stopping = signals.stop.load(Ordering::Relaxed);
            // The last message of a round asks for an acknowledgement at once; with echo it may
            // find the window full, because part of a message frees nothing.
            let free =
                (plan.window + u64::from(stopping)).saturating_sub(*sent - *back.acknowledged);
            for left in (0..free).rev() {
                let flags = if stopping && left == 0 { FLAG_LAST } else { 0 };
                pattern.write(*sent, signals.clock.now_ns(), flags, &mut message);
                end.sender.put(&message)?;
                *sent += 1;
            }
            signals.sent.fetch_add(free, Ordering::Relaxed);
            end.sender.flush()?;
            if !stopping {
                back.receive(&mut latency)?;
            }
        }
        while *back.acknowledged < *sent {
            back.receive(&mut latency).with_context(|| lost(*sent, *back.acknowledged))?;
        }
        Ok(latency)
    }

    fn open_loop(&mut self, signals: &Signals, plan: Plan, interval_ns: f64) -> Outcome {
        let Self { end, pattern, sent, acknowledged, receiver } = self;
        let End { sender, source, .. } = end;
        let mut latency = histogram()?;
        // How many messages the round ends with; known just before the last one is sent.
        let target = AtomicU64::new(u64::MAX);
        thread::scope(|scope| {
            let sending =
                scope.spawn(|| send_paced(sender, pattern, sent, &target, signals, interval_ns));
            let mut back = Back { source, receiver, acknowledged, plan, signals };
            let mut received = Ok(());
            while received.is_ok() && *back.acknowledged < target.load(Ordering::SeqCst) {
                received = back.receive(&mut latency);
            }
            // A sender that failed leaves the receiver with a time-out; its own reason says more.
            sending.join().map_err(|_panic| anyhow!("a paced sender panicked"))??;
            received.with_context(|| lost(target.load(Ordering::SeqCst), *back.acknowledged))?;
            Ok(latency)
        })
    }
}

fn lost(sent: u64, acknowledged: u64) -> String {
    format!("{acknowledged} messages came through of {sent}")
}

/// Sends by schedule; the stamp of a message is when it was due.
fn send_paced(
    sender: &mut Sender,
    pattern: &Pattern,
    sent: &mut u64,
    target: &AtomicU64,
    signals: &Signals,
    interval_ns: f64,
) -> Result<()> {
    clock::sleep_precisely().context("asking for precise timers")?;
    let mut message = Vec::new();
    let start_ns = signals.clock.now_ns();
    let mut number = 0_u64;
    let due_ns = |number: u64| start_ns + (number as f64 * interval_ns) as u64;
    loop {
        signals.clock.sleep_until(due_ns(number));
        let stopping = signals.stop.load(Ordering::Relaxed);
        let now_ns = signals.clock.now_ns();
        let first = number;
        while due_ns(number) <= now_ns || number == first {
            let last = stopping && due_ns(number + 1) > now_ns;
            let flags = if last { FLAG_LAST } else { 0 };
            if last {
                target.store(*sent + 1, Ordering::SeqCst);
            }
            pattern.write(*sent, due_ns(number), flags, &mut message);
            sender.put(&message)?;
            *sent += 1;
            number += 1;
        }
        signals.sent.fetch_add(number - first, Ordering::Relaxed);
        sender.flush()?;
        if stopping {
            return Ok(());
        }
    }
}

/// What comes back to A: running counts, or with echo the messages themselves.
struct Back<'a> {
    source: &'a mut Source,
    receiver: &'a mut Receiver,
    acknowledged: &'a mut u64,
    plan: Plan,
    signals: &'a Signals,
}

impl Back<'_> {
    fn receive(&mut self, latency: &mut Histogram<u64>) -> Result<()> {
        if self.plan.echo {
            let before = self.receiver.arrived();
            let signals = self.signals;
            let measuring = signals.measuring.load(Ordering::Relaxed);
            let mut now_ns = None;
            let open = self.receiver.receive(self.source, |message: Arrived<'_>| {
                let now_ns = *now_ns.get_or_insert_with(|| signals.clock.now_ns());
                record(latency, measuring, now_ns, message.stamp_ns);
                Ok(())
            })?;
            *self.acknowledged = self.receiver.arrived();
            signals.arrived.fetch_add(*self.acknowledged - before, Ordering::SeqCst);
            return if open { Ok(()) } else { Err(anyhow!("the flow ended")) };
        }
        let mut counts = [0; 64 * ACKNOWLEDGEMENT_BYTES];
        let mut bytes = self.source.read(&mut counts)?;
        if bytes == 0 {
            bail!("the flow ended");
        }
        // Completes a count that was cut.
        let cut = bytes % ACKNOWLEDGEMENT_BYTES;
        if cut > 0 {
            let missing = ACKNOWLEDGEMENT_BYTES - cut;
            self.source.read_exact(counts.get_mut(bytes..bytes + missing).unwrap_or_default())?;
            bytes += missing;
        }
        let received = counts.get(..bytes).unwrap_or_default();
        let Some(count) = received.last_chunk::<ACKNOWLEDGEMENT_BYTES>() else { return Ok(()) };
        let count = u64::from_be_bytes(*count);
        if count <= *self.acknowledged {
            bail!("acknowledgement {count} after {}", self.acknowledged);
        }
        *self.acknowledged = count;
        Ok(())
    }
}

fn record(latency: &mut Histogram<u64>, measuring: bool, now_ns: u64, stamp_ns: u64) {
    if measuring {
        latency.saturating_record(now_ns.saturating_sub(stamp_ns).max(1));
    }
}

/// B's side of a pair.
struct Far {
    end: End,
    receiver: Receiver,
    signals: Arc<Signals>,
    plan: Plan,
    outcomes: mpsc::Sender<Outcome>,
    scratch: Vec<u8>,
}

impl Far {
    /// Rounds until the flow ends: B cannot see where a round begins, only where it is over.
    fn run(mut self) {
        loop {
            let outcome = self.one_round();
            let failed = outcome.is_err();
            // Nobody listens any more when the program is over.
            if self.outcomes.send(outcome).is_err() || failed {
                return;
            }
        }
    }

    fn one_round(&mut self) -> Outcome {
        let mut latency = histogram()?;
        let mut last = false;
        let mut acknowledged = self.receiver.arrived();
        while !last {
            let before = self.receiver.arrived();
            let echo = self.plan.echo;
            let Self { end, receiver, signals, scratch, .. } = self;
            let End { sender, source, .. } = end;
            let measuring = !echo && signals.measuring.load(Ordering::Relaxed);
            scratch.clear();
            let mut now_ns = None;
            let open = receiver.receive(source, |message: Arrived<'_>| {
                let now_ns = *now_ns.get_or_insert_with(|| signals.clock.now_ns());
                record(&mut latency, measuring, now_ns, message.stamp_ns);
                last = message.flags & FLAG_LAST != 0;
                if echo { sender.put(message.bytes) } else { Ok(()) }
            });
            match open {
                Ok(true) => {}
                Ok(false) => bail!("the flow ended"),
                // Between rounds nothing comes for as long as the others take.
                Err(error) if stalled(&error) && before == acknowledged => continue,
                Err(error) => return Err(error.into()),
            }
            let arrived = self.receiver.arrived();
            if echo {
                self.end.sender.flush()?;
                acknowledged = arrived;
                continue;
            }
            self.signals.arrived.fetch_add(arrived - before, Ordering::SeqCst);
            if last || arrived - acknowledged >= self.plan.acknowledge_every {
                self.end.sender.put(&arrived.to_be_bytes())?;
                self.end.sender.flush()?;
                acknowledged = arrived;
            }
        }
        Ok(latency)
    }
}

fn stalled(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

//! What the generators of foreign protocols share: flows over anything that sends and receives
//! bytes, and the rounds that `compare` asks for (see `waystation_benches::compare::driven`).
//!
//! Runs on one thread, on a tokio runtime of its own: the protocols' clients are written for that.
//! Messages, checks and figures are those of the comparisons' own generator.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, anyhow, bail};
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::io::{BufRead, Write};
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{sleep, timeout};
use waystation_benches::compare::driven::{Answer, parse_ask};
use waystation_benches::compare::figures;
use waystation_benches::load::clock::Clock;
use waystation_benches::load::message::{ACKNOWLEDGEMENT_BYTES, FLAG_LAST, Pattern, Receiver};
use waystation_benches::load::processor::Watched;
use waystation_benches::swarm::limits::{LATENCY_DIGITS, LATENCY_NS_MAX, STALL};
use waystation_benches::swarm::rounds::Round;
use waystation_benches::swarm::sealed::Sealed;
use waystation_benches::swarm::shape::{Layout, Pace, Shape};

/// The sending half of one end of a flow.
pub trait Sending: 'static {
    /// Sends whole messages, so that they are on their way when it returns.
    #[allow(async_fn_in_trait, reason = "everything here stays on one thread")]
    async fn send(&mut self, messages: &[u8]) -> Result<()>;
}

/// The receiving half.
pub trait Receiving: 'static {
    /// Waits for bytes and puts them over what `into` holds.
    #[allow(async_fn_in_trait, reason = "everything here stays on one thread")]
    async fn receive(&mut self, into: &mut Vec<u8>) -> Result<()>;
}

/// One end of a flow.
#[derive(Debug)]
pub struct End<S, R> {
    pub sending: S,
    pub receiving: R,
}

/// What all tasks look at.
struct Signals {
    clock: Clock,
    measuring: Cell<bool>,
    stopping: Cell<bool>,
    arrived: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
}

/// Says `ready`, then runs the rounds that standard input asks for until it ends.
///
/// # Errors
///
/// Lost or changed messages, an ended flow, a question that is none.
pub async fn drive<S: Sending, R: Receiving>(
    flows: Vec<(End<S, R>, End<S, R>)>,
    shape: Shape,
    relay_process: u32,
) -> Result<()> {
    if shape.echo {
        bail!("this generator does not send messages back");
    }
    let signals = Rc::new(Signals {
        clock: Clock::start(),
        measuring: Cell::new(false),
        stopping: Cell::new(false),
        arrived: Cell::new(0),
        latency: RefCell::new(Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)?),
    });
    let (begin, begun) = watch::channel(0_u64);
    let (ended, mut ends) = mpsc::unbounded_channel();
    let flow_count = flows.len();
    for (number, (near, far)) in (0..).zip(flows) {
        let pattern = Pattern::new(number, shape.message_bytes);
        let far = Far { end: far, receiver: Receiver::new(pattern.clone()), shape };
        let near = Near { end: near, pattern, shape, sent: 0, acknowledged: 0, cut: Vec::new() };
        let (looking, failed) = (Rc::clone(&signals), ended.clone());
        spawn_local(async move {
            // Ends only by failing.
            let _ = failed.send(far.run(&looking).await.map(|()| 0));
        });
        let position = f64::from(number) / flow_count as f64;
        spawn_local(near.run(Rc::clone(&signals), begun.clone(), ended.clone(), position));
    }
    let mut asks = asks();
    say("ready")?;
    while let Some(ask) = asks.recv().await {
        let schedule = parse_ask(&ask)?;
        let watched = Watched::Process(relay_process);
        signals.latency.borrow_mut().reset();
        signals.stopping.set(false);
        begin.send_modify(|round| *round += 1);
        sleep(schedule.warm_up).await;
        let before = look(&signals, &watched)?;
        signals.measuring.set(true);
        sleep(schedule.measured).await;
        signals.measuring.set(false);
        let after = look(&signals, &watched)?;
        signals.stopping.set(true);
        let mut sent = 0;
        for _ in 0..flow_count {
            let end = timeout(STALL, ends.recv()).await;
            sent += end.context("messages were lost")?.context("no flow is left")??;
        }
        let arrived = signals.arrived.get();
        if sent != arrived {
            bail!("{sent} messages were sent and {arrived} arrived");
        }
        let round = Round {
            seconds: (after.now_ns - before.now_ns) as f64 / 1e9,
            messages: vec![after.arrived - before.arrived],
            spent: after.relay.since(&before.relay),
            generator_ns: after.own.since(&before.own).total_ns,
            latency: vec![signals.latency.borrow().clone()],
            sealed: Sealed::default(),
        };
        let sample = figures::of_round(&round, &shape);
        say(&serde_json::to_string(&Answer { sample, messages_checked: arrived })?)?;
    }
    Ok(())
}

/// Says `ready` and waits until standard input ends.
///
/// # Errors
///
/// When nobody listens.
pub async fn idle() -> Result<()> {
    let mut asks = asks();
    say("ready")?;
    while asks.recv().await.is_some() {}
    Ok(())
}

/// Lines of standard input; a thread reads them, for a terminal or pipe cannot be waited for here.
fn asks() -> mpsc::UnboundedReceiver<String> {
    let (sender, asks) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    asks
}

fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush().context("telling who asks")
}

struct Look {
    now_ns: u64,
    arrived: u64,
    relay: waystation_benches::load::processor::Reading,
    own: waystation_benches::load::processor::Reading,
}

fn look(signals: &Signals, watched: &Watched) -> Result<Look> {
    Ok(Look {
        now_ns: signals.clock.now_ns(),
        arrived: signals.arrived.get(),
        relay: watched.read().context("reading the relay's processor time")?,
        own: Watched::Process(std::process::id()).read()?,
    })
}

/// The sending end.
struct Near<S, R> {
    end: End<S, R>,
    pattern: Pattern,
    shape: Shape,
    sent: u64,
    acknowledged: u64,
    /// Bytes of a count that was cut.
    cut: Vec<u8>,
}

impl<S: Sending, R: Receiving> Near<S, R> {
    async fn run(
        mut self,
        signals: Rc<Signals>,
        mut begun: watch::Receiver<u64>,
        ended: mpsc::UnboundedSender<Result<u64>>,
        position: f64,
    ) {
        while begun.changed().await.is_ok() {
            let outcome = match self.shape.pace {
                Pace::Closed { window, .. } => self.closed_loop(&signals, u64::from(window)).await,
                Pace::Paced { interval_ns } => self.paced(&signals, interval_ns, position).await,
            };
            let failed = outcome.is_err();
            if ended.send(outcome.map(|()| self.sent)).is_err() || failed {
                return;
            }
        }
    }

    async fn closed_loop(&mut self, signals: &Signals, window: u64) -> Result<()> {
        let (mut batch, mut message) = (Vec::new(), Vec::new());
        let mut stopping = false;
        while !stopping {
            stopping = signals.stopping.get();
            let free = (window + u64::from(stopping)).saturating_sub(self.sent - self.acknowledged);
            for left in (0..free).rev() {
                let flags = if stopping && left == 0 { FLAG_LAST } else { 0 };
                self.pattern.write(self.sent, signals.clock.now_ns(), flags, &mut message);
                self.sent += 1;
                if self.shape.layout == Layout::Single {
                    self.end.sending.send(&message).await?;
                } else {
                    batch.extend_from_slice(&message);
                }
            }
            if !batch.is_empty() {
                self.end.sending.send(&batch).await?;
                batch.clear();
            }
            if !stopping {
                self.take_count().await?;
            }
        }
        self.drain().await
    }

    async fn paced(&mut self, signals: &Signals, interval_ns: u64, position: f64) -> Result<()> {
        let mut message = Vec::new();
        let mut due_ns = signals.clock.now_ns() + (interval_ns as f64 * position) as u64;
        loop {
            let stopping = signals.stopping.get();
            if due_ns <= signals.clock.now_ns() || stopping {
                let flags = if stopping { FLAG_LAST } else { 0 };
                self.pattern.write(self.sent, due_ns, flags, &mut message);
                self.sent += 1;
                self.end.sending.send(&message).await?;
                due_ns += interval_ns;
            }
            if stopping {
                return self.drain().await;
            }
            // A timer would come up to a millisecond late.
            yield_now().await;
        }
    }

    async fn drain(&mut self) -> Result<()> {
        while self.acknowledged < self.sent {
            self.take_count().await?;
        }
        Ok(())
    }

    async fn take_count(&mut self) -> Result<()> {
        let mut received = Vec::new();
        self.end.receiving.receive(&mut received).await?;
        self.cut.extend_from_slice(&received);
        let whole = self.cut.len() - self.cut.len() % ACKNOWLEDGEMENT_BYTES;
        if let Some(count) = self.cut[..whole].last_chunk::<ACKNOWLEDGEMENT_BYTES>() {
            let count = u64::from_be_bytes(*count);
            if count <= self.acknowledged || count > self.sent {
                bail!("{count} messages acknowledged after {} of {}", self.acknowledged, self.sent);
            }
            self.acknowledged = count;
        }
        self.cut.drain(..whole);
        Ok(())
    }
}

/// The receiving end.
struct Far<S, R> {
    end: End<S, R>,
    receiver: Receiver,
    shape: Shape,
}

impl<S: Sending, R: Receiving> Far<S, R> {
    async fn run(mut self, signals: &Signals) -> Result<()> {
        let every = match self.shape.pace {
            Pace::Closed { acknowledge_every, .. } => u64::from(acknowledge_every.max(1)),
            Pace::Paced { .. } => u64::MAX,
        };
        let (mut received, mut told) = (Vec::new(), 0);
        loop {
            self.end.receiving.receive(&mut received).await?;
            let (now_ns, before) = (signals.clock.now_ns(), self.receiver.arrived());
            let mut last = false;
            let mut rest = received.as_slice();
            let mut latency = signals.latency.borrow_mut();
            while !rest.is_empty() {
                self.receiver.receive(&mut rest, |message| {
                    if signals.measuring.get() {
                        let latency_ns = now_ns.saturating_sub(message.stamp_ns).max(1);
                        latency.saturating_record(latency_ns);
                    }
                    last |= message.flags & FLAG_LAST != 0;
                    Ok(())
                })?;
            }
            drop(latency);
            let arrived = self.receiver.arrived();
            signals.arrived.set(signals.arrived.get() + arrived - before);
            if last || arrived - told >= every {
                self.end.sending.send(&arrived.to_be_bytes()).await?;
                told = arrived;
            }
        }
    }
}

/// What a driver is asked to do by its command line.
#[derive(Debug)]
pub enum Task {
    Flows(Shape),
    /// Hold so many idle links.
    Idle(u32),
}

/// Reads `RELAY PROCESS SHAPE` or `RELAY PROCESS idle N`.
///
/// # Errors
///
/// For anything else.
pub fn command_line() -> Result<(String, u32, Task)> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (relay, process, task) = match words[..] {
        [relay, process, "idle", links] => (relay, process, Task::Idle(links.parse()?)),
        [relay, process, shape] => {
            let shape = serde_json::from_str(shape).context("a shape that is none")?;
            (relay, process, Task::Flows(shape))
        }
        _ => return Err(anyhow!("compare starts this; see waystation_benches::compare::driven")),
    };
    Ok((relay.to_owned(), process.parse()?, task))
}

/// Runs a driver on the calling thread.
///
/// # Errors
///
/// What the driver fails with.
pub fn run(driver: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, driver);
    runtime.shutdown_timeout(Duration::ZERO);
    outcome
}

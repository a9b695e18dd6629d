//! Conducts one scenario: makes the flows, runs its phases on threads of their own, ends it, and
//! says what came of it. Runs on the program's main thread.

use super::churn;
use super::clock::{self, Clock};
use super::limits::{
    ASKERS, GOAL_BULK_BYTES, GOAL_QUERIES, GOAL_SHARES_MAX, LOOK_EVERY, VISITORS_MAX,
};
use super::nodes::{Flow, Gateway, Nodes, Path};
use super::progress::Progress;
use super::stats::{Counters, Stats};
use super::tally::{Failure, Phase, Signals, Tally};
use super::traffic::{self, Stream};
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, Builder, Scope};
use std::time::Duration;

/// What the nodes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    Route,
    Connect,
    Mixed,
}

impl Scenario {
    /// The name on the command line and in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Connect => "connect",
            Self::Mixed => "mixed",
        }
    }

    fn path(self, pair: usize) -> Path {
        match self {
            Self::Route => Path::Route,
            Self::Connect => Path::Connect,
            Self::Mixed if pair.is_multiple_of(2) => Path::Route,
            Self::Mixed => Path::Connect,
        }
    }
}

/// What a scenario came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) scenario: Scenario,
    /// Time from the first flow to the last thread's end.
    pub(super) elapsed: Duration,
    /// The part of it in which bulk was moved.
    pub(super) bulk_elapsed: Duration,
    /// The part of it in which short queries were asked.
    pub(super) query_elapsed: Duration,
    pub(super) tally: Tally,
    /// Latencies of bulk messages, in nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// What the appliance counted meanwhile.
    pub(super) counters: Counters,
    /// The same for the bulk alone.
    pub(super) bulk_counters: Counters,
    pub(super) failure: Option<Failure>,
    /// What was to be verified and was not in time.
    pub(super) missed: Option<Missed>,
}

/// A goal that was not reached.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{scenario}: {reached} of {wanted} {unit} were verified within {} s", limit.as_secs())]
pub(super) struct Missed {
    scenario: &'static str,
    unit: &'static str,
    wanted: u64,
    reached: u64,
    limit: Duration,
}

/// What the phases of a scenario have in common.
pub(super) struct Conductor<'a> {
    pub(super) clock: Clock,
    pub(super) gateway: Gateway,
    pub(super) nodes: &'a Nodes,
    pub(super) stats: &'a Stats,
    pub(super) progress: &'a mut Progress,
    /// Whether `route` and `connect` go on until their goals are reached.
    pub(super) goals: bool,
}

/// What one phase runs, and for how long.
#[derive(Clone, Copy)]
struct Plan {
    name: &'static str,
    bulk: bool,
    queries: bool,
    churn: bool,
    share: Duration,
    /// The phase goes on until the tally has this.
    goal: Option<Goal>,
}

#[derive(Clone, Copy)]
struct Goal {
    unit: &'static str,
    wanted: u64,
    reached: fn(&Tally) -> u64,
}

const BULK_GOAL: Goal = Goal {
    unit: "bytes of bulk",
    wanted: GOAL_BULK_BYTES,
    reached: |tally| tally.bulk_bytes.get(),
};
const QUERY_GOAL: Goal =
    Goal { unit: "short queries", wanted: GOAL_QUERIES, reached: |tally| tally.queries.get() };

impl Conductor<'_> {
    /// Runs a scenario for `share` of time, or longer when there are goals.
    ///
    /// # Errors
    ///
    /// When the appliance does not tell its counters; what goes wrong between the nodes is part of
    /// the outcome.
    pub(super) fn run(&mut self, scenario: Scenario, share: Duration) -> anyhow::Result<Outcome> {
        let signals = Signals::new(self.clock, scenario.name());
        self.progress.begin(self.clock.now());
        let start = self.clock.now();
        let before = self.stats.counters()?;
        let mut run = Run {
            signals: &signals,
            latency: traffic::histogram()?,
            bulk: (Duration::ZERO, Counters::default()),
            query_elapsed: Duration::ZERO,
            missed: None,
        };
        let flows = open(self.nodes, scenario, &signals);
        for plan in self.plans(scenario, share) {
            if !signals.has_failed() {
                self.phase(&mut run, &flows, plan)?;
            }
        }
        close(self.nodes, flows, &signals);
        let Run { latency, bulk, query_elapsed, missed, .. } = run;
        let counters = self.stats.counters();
        let (tally, failure) = signals.into_parts();
        Ok(Outcome {
            scenario,
            elapsed: self.clock.now() - start,
            bulk_elapsed: bulk.0,
            query_elapsed,
            tally,
            latency,
            // An appliance that is gone is part of a failure, not a reason to hide it.
            counters: match counters {
                Err(_) if failure.is_some() => Counters::default(),
                counters => counters?.since(before),
            },
            bulk_counters: bulk.1,
            failure,
            missed,
        })
    }

    fn plans(&self, scenario: Scenario, share: Duration) -> Vec<Plan> {
        let goal = |goal| self.goals.then_some(goal);
        let alone = Plan {
            name: "bulk",
            bulk: true,
            queries: false,
            churn: false,
            share: share / 2,
            goal: goal(BULK_GOAL),
        };
        match scenario {
            Scenario::Route | Scenario::Connect => vec![
                alone,
                Plan {
                    name: "short queries",
                    bulk: false,
                    queries: true,
                    goal: goal(QUERY_GOAL),
                    ..alone
                },
            ],
            Scenario::Mixed => vec![Plan {
                name: "bulk, short queries and churn",
                queries: true,
                churn: true,
                share,
                goal: None,
                ..alone
            }],
        }
    }

    fn phase(&mut self, run: &mut Run<'_>, flows: &[Flow<'_>], plan: Plan) -> anyhow::Result<()> {
        let signals = run.signals;
        signals.set_stopping(false);
        // All sessions are opened before the first byte: under load each would take its time. And
        // before there are answerers, who accept whatever comes.
        let streams = if plan.bulk { open_streams(flows, signals) } else { Vec::new() };
        if signals.has_failed() {
            return Ok(());
        }
        let (before, start) = (self.stats.counters()?, self.clock.now());
        let askers: Vec<_> =
            flows.iter().map(|_| AtomicUsize::new(if plan.queries { ASKERS } else { 0 })).collect();
        let (latencies, measured) = mpsc::channel();
        thread::scope(|scope| {
            let crew = Crew { scope, signals, latencies: &latencies };
            for (flow, stream) in streams {
                crew.bulk(flow, stream);
            }
            for (flow, askers) in flows.iter().zip(&askers) {
                if plan.queries {
                    crew.queries(flow, askers);
                }
                if plan.churn {
                    crew.spawn(flow, Phase::Churn, || churn::cancel_sessions(flow.pair, signals));
                }
            }
            if plan.churn {
                crew.visitors(self.gateway, flows.len().min(VISITORS_MAX));
            }
            let missed = self.wait(start, plan, signals);
            run.missed = run.missed.or(missed);
            signals.set_stopping(true);
        });
        drop(latencies);
        for latency in measured {
            run.latency.add(latency)?;
        }
        let elapsed = self.clock.now() - start;
        if plan.bulk {
            let after = self.stats.counters().unwrap_or(before);
            run.bulk = (elapsed, after.since(before));
        }
        if plan.queries {
            run.query_elapsed = elapsed;
        }
        Ok(())
    }

    /// Waits until the phase has had its time and reached its goal, or something failed.
    fn wait(&mut self, start: Duration, plan: Plan, signals: &Signals) -> Option<Missed> {
        let limit = plan.share * GOAL_SHARES_MAX;
        loop {
            clock::pause(LOOK_EVERY);
            self.progress.show(signals, plan.name);
            let elapsed = self.clock.now() - start;
            if signals.has_failed() {
                return None;
            }
            let missing = plan.goal.filter(|goal| (goal.reached)(&signals.tally) < goal.wanted);
            let Some(goal) = missing else {
                if elapsed >= plan.share {
                    return None;
                }
                continue;
            };
            if elapsed >= limit {
                return Some(Missed {
                    scenario: signals.scenario,
                    unit: goal.unit,
                    wanted: goal.wanted,
                    reached: (goal.reached)(&signals.tally),
                    limit,
                });
            }
        }
    }
}

/// Makes the flows of every pair.
fn open<'n>(nodes: &'n Nodes, scenario: Scenario, signals: &Signals) -> Vec<Flow<'n>> {
    let mut flows = Vec::with_capacity(nodes.pairs.len());
    for pair in &nodes.pairs {
        match pair.open(scenario.path(pair.number)) {
            Ok(flow) => flows.push(flow),
            Err(error) => {
                signals.fail(pair.name(), Phase::SetUp, error);
                break;
            }
        }
    }
    flows
}

/// Opens the bulk sessions of every flow, as far as that works.
fn open_streams<'f, 'n>(flows: &'f [Flow<'n>], signals: &Signals) -> Vec<(&'f Flow<'n>, Stream)> {
    let mut streams = Vec::with_capacity(2 * flows.len());
    for flow in flows {
        match Stream::open_both(flow) {
            Ok(both) => streams.extend(both.map(|stream| (flow, stream))),
            Err(error) => {
                signals.fail(flow.pair.name(), Phase::Bulk, error);
                break;
            }
        }
    }
    streams
}

/// Ends the flows and sees whether every link has survived.
fn close(nodes: &Nodes, flows: Vec<Flow<'_>>, signals: &Signals) {
    for flow in flows {
        let name = flow.pair.name();
        if let Err(error) = flow.close() {
            signals.fail(name, Phase::TearDown, error);
        }
    }
    if !signals.has_failed()
        && let Err((who, error)) = nodes.check()
    {
        signals.fail(who, Phase::TearDown, error);
    }
}

/// What the phases of a scenario add up to.
struct Run<'s> {
    signals: &'s Signals,
    latency: Histogram<u64>,
    bulk: (Duration, Counters),
    query_elapsed: Duration,
    missed: Option<Missed>,
}

/// Starts the threads of a phase.
struct Crew<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    signals: &'scope Signals,
    latencies: &'scope mpsc::Sender<Histogram<u64>>,
}

impl<'scope> Crew<'scope, '_> {
    /// Runs `body` on a thread of its own; what it fails with is noted under the flow's name.
    fn spawn(
        &self,
        flow: &Flow<'_>,
        phase: Phase,
        body: impl FnOnce() -> anyhow::Result<()> + Send + 'scope,
    ) {
        self.spawn_named(flow.pair.name(), phase, body);
    }

    fn spawn_named(
        &self,
        who: String,
        phase: Phase,
        body: impl FnOnce() -> anyhow::Result<()> + Send + 'scope,
    ) {
        let signals = self.signals;
        let name = who.clone();
        let spawned = Builder::new().name("demo".to_owned()).spawn_scoped(self.scope, move || {
            if let Err(error) = body() {
                signals.fail(name, phase, error);
            }
        });
        if let Err(error) = spawned {
            signals.fail(who, phase, error.into());
        }
    }

    /// Two threads per direction.
    fn bulk(&self, flow: &Flow<'_>, stream: Stream) {
        let signals = self.signals;
        let Stream { sender, receiver, pattern } = stream;
        let latencies = self.latencies.clone();
        let expected = pattern.clone();
        self.spawn(flow, Phase::Bulk, move || {
            let latency = traffic::receive_bulk(receiver, expected, signals)?;
            // The conductor listens until all threads have ended.
            Ok(latencies.send(latency)?)
        });
        self.spawn(flow, Phase::Bulk, move || traffic::send_bulk(sender, pattern, signals));
    }

    /// Near asks on several threads, far answers on two.
    fn queries(&self, flow: &'scope Flow<'_>, askers: &'scope AtomicUsize) {
        let signals = self.signals;
        for asker in 0..ASKERS {
            self.spawn(flow, Phase::Queries, move || {
                let asked = traffic::ask(&flow.near, asker, signals);
                askers.fetch_sub(1, Ordering::Release);
                asked
            });
        }
        self.spawn(flow, Phase::Queries, move || traffic::answer_all(&flow.far, askers));
    }

    fn visitors(&self, gateway: Gateway, count: usize) {
        let signals = self.signals;
        for visitor in 0..count {
            self.spawn_named(format!("visitor {visitor}"), Phase::Churn, move || {
                churn::visit(gateway, visitor, signals)
            });
        }
    }
}

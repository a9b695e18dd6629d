//! `demo`: a real appliance and real client nodes in one process, over loopback TCP; or ends that
//! exchange datagrams through it, over loopback UDP or between network namespaces.
//!
//! The main thread starts the appliance as `run` does, makes the nodes and conducts the scenarios;
//! nodes are the peer library's blocking links with plain threads. The demo looks at the appliance
//! only through its stats socket and at its traffic only from the nodes' ends. Nothing here may
//! wait without an end.

mod churn;
mod clock;
mod limits;
mod message;
mod namespaces;
mod nodes;
mod progress;
mod report;
mod scenarios;
mod stats;
mod surroundings;
mod tally;
mod traffic;
mod udp;
mod xdp;

use crate::appliance::{Appliance, Surroundings};
use crate::arguments::{DemoArguments, DemoScenario};
use crate::exit::Unmet;
use crate::questions::print;
use crate::state;
use anyhow::Context;
use clock::Clock;
use limits::{GOALS_FROM, READY_TIMEOUT};
use namespaces::Namespaces;
pub(crate) use namespaces::NeedsRoot;
use nodes::{Gateway, Nodes};
use progress::Progress;
use report::{Report, Seen};
use scenarios::{Conductor, Outcome, Scenario};
use stats::{Counters, Stats};
use std::sync::mpsc;
use std::time::Duration;
use surroundings::PrivateDirectory;
use waystation_astral::identity::Identity;

/// Runs the demo and prints what came of it.
///
/// # Errors
///
/// What keeps the appliance from starting, and anything that was lost, corrupt, hung or not
/// verified in time.
pub(crate) fn demo(arguments: &DemoArguments) -> anyhow::Result<()> {
    let directory = PrivateDirectory::make()?;
    let socket = directory.path().join("stats.sock");
    let secret = state::random_key().context("cannot make a key")?;
    let identity = secret.identity();
    let (ready, became_ready) = mpsc::channel();
    let around = Surroundings {
        secret,
        socket: socket.clone(),
        dht: None,
        registrations: None,
        floor: None,
        taking: None,
        hands_over: false,
        is_watched: false,
        // A signal ends the appliance, then the nodes notice, then the directory goes.
        confine: None,
        handle_signals: true,
        reload: None,
        log: None,
        on_ready: Box::new(move || {
            // Nobody listens when it took too long.
            let _ = ready.send(());
        }),
        on_life_sign: Box::new(|_| {}),
    };
    let mut config = surroundings::config(arguments);
    // Sockets, threads and the program are where this thread is; it goes on from inside.
    let mut namespaces = None;
    match arguments.scenario {
        DemoScenario::Udp => udp::configure(&mut config)?,
        DemoScenario::Xdp => {
            namespaces = Some(Namespaces::make()?);
            xdp::configure(&mut config)?;
        }
        DemoScenario::Route | DemoScenario::Connect | DemoScenario::Mixed | DemoScenario::All => {}
    }
    let appliance = Appliance::start(config, around)?;
    let stats = Stats::new(socket);
    let outcome = match became_ready.recv_timeout(READY_TIMEOUT) {
        Ok(()) => match (&namespaces, arguments.scenario) {
            (Some(namespaces), _) => xdp::run(arguments, &appliance, &stats, namespaces),
            (None, DemoScenario::Udp) => udp::run(arguments, &appliance, &stats),
            (None, _) => with_appliance(arguments, &appliance, identity, &stats),
        },
        Err(_timeout) => Err(Unmet("the appliance has not become ready".to_owned()).into()),
    };
    let gone = stats.is_gone();
    let stopped = appliance.stop();
    if let (Ok(()), Err(error), true) = (&stopped, &outcome, gone) {
        let message = format!("interrupted, the appliance was told to stop ({error:#})");
        return Err(Unmet(message).into());
    }
    // A data core that failed says more than the nodes that noticed.
    stopped.and(outcome)
}

fn with_appliance(
    arguments: &DemoArguments,
    appliance: &Appliance,
    identity: Identity,
    stats: &Stats,
) -> anyhow::Result<()> {
    let Some(&address) = appliance.listen().first() else {
        return Err(Unmet("the appliance listens nowhere".to_owned()).into());
    };
    surroundings::leave_cpus(&stats.data_cpus()?);
    let gateway = Gateway { address, identity };
    let before = stats.counters()?;
    let nodes = Nodes::dial(gateway, arguments.nodes)?;
    let mut progress = Progress::new(arguments.json);
    let mut conductor = Conductor {
        clock: Clock::start(),
        gateway,
        nodes: &nodes,
        stats,
        progress: &mut progress,
        goals: Duration::from_secs(arguments.seconds) >= GOALS_FROM,
    };
    let outcomes = run_scenarios(arguments, &mut conductor);
    progress.end();
    let outcomes = outcomes?;
    let problem = problem(&outcomes);
    let seen = match look_back(stats, before) {
        // When something failed the appliance may be gone; what is known is still printed.
        Err(_) if problem.is_some() => None,
        seen => Some(seen?),
    };
    let report = Report {
        port: appliance.port().name(),
        cores: arguments.cores,
        nodes: arguments.nodes,
        outcomes,
        seen,
        failure: problem.as_ref().map(|problem| format!("{problem:#}")),
    };
    nodes.close();
    print(if arguments.json { report.json()? } else { report.text()? }.as_bytes())?;
    problem.map_or(Ok(()), Err)
}

fn look_back(stats: &Stats, before: Counters) -> anyhow::Result<Seen> {
    Ok(Seen {
        counters: stats.counters()?.since(before),
        drops: stats.drops()?,
        stages: stats.stages()?,
    })
}

/// Runs what was asked for, in turn, until something fails.
fn run_scenarios(
    arguments: &DemoArguments,
    conductor: &mut Conductor<'_>,
) -> anyhow::Result<Vec<Outcome>> {
    let scenarios: &[Scenario] = match arguments.scenario {
        DemoScenario::Route => &[Scenario::Route],
        DemoScenario::Connect => &[Scenario::Connect],
        DemoScenario::Mixed => &[Scenario::Mixed],
        // Without nodes, and conducted by itself.
        DemoScenario::Udp | DemoScenario::Xdp => &[],
        DemoScenario::All => &[Scenario::Route, Scenario::Connect, Scenario::Mixed],
    };
    let shares = u32::try_from(scenarios.len()).unwrap_or(u32::MAX).max(1);
    let share = Duration::from_secs(arguments.seconds) / shares;
    let mut outcomes = Vec::with_capacity(scenarios.len());
    for &scenario in scenarios {
        let outcome = conductor.run(scenario, share)?;
        let failed = outcome.failure.is_some();
        outcomes.push(outcome);
        if failed {
            break;
        }
    }
    Ok(outcomes)
}

/// The first thing that was not as it must be.
fn problem(outcomes: &[Outcome]) -> Option<anyhow::Error> {
    let failed = outcomes.iter().find_map(|outcome| outcome.failure.as_ref());
    if let Some(failure) = failed {
        return Some(Unmet(failure.to_string()).into());
    }
    if let Some(missed) = outcomes.iter().find_map(|outcome| outcome.missed) {
        return Some(missed.into());
    }
    let wrong = outcomes.iter().find(|o| o.tally.lost() > 0 || o.tally.corrupt.get() > 0)?;
    let (lost, corrupt) = (wrong.tally.lost(), wrong.tally.corrupt.get());
    let scenario = wrong.scenario.name();
    Some(Unmet(format!("{scenario}: {lost} messages were lost, {corrupt} corrupt")).into())
}

//! Scenario `xdp`: the two ways of scenario `udp` between network namespaces, relayed by the XDP
//! program on the relay's interfaces. Every byte is verified.
//!
//! Runs on the program's main thread, as root. What the program costs is what the kernel measures of
//! its runs meanwhile.

use super::clock::{self, Clock};
use super::limits::{COUNTED_AFTER, DATAGRAM_TIMEOUT, XDP_TIMEOUT};
use super::namespaces::{ENDS, Namespaces, RELAY};
use super::stats::Stats;
use super::udp::{Ends, Outcome, SessionEnds, TurnEnds, move_datagrams, with_a_user};
use crate::appliance::Appliance;
use crate::arguments::DemoArguments;
use crate::exit::Unmet;
use crate::own_addresses;
use crate::questions::print;
use anyhow::Context;
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use waystation_ebpf::runs::Measured;
use waystation_management::config::{Config, XdpMode};
use waystation_management::units::human_count;
use waystation_relay::address_policy::Block;

/// The port of the TURN server.
const TURN_PORT: u16 = 3478;

/// Has an appliance relay between the namespaces. The calling thread is in the relay's.
pub(super) fn configure(config: &mut Config) -> anyhow::Result<()> {
    let blocks: Vec<Block> = ENDS
        .iter()
        .map(|end| format!("{end}/32").parse().context("the block of an end"))
        .collect::<anyhow::Result<_>>()?;
    config.turn.listen = vec![(RELAY[0], TURN_PORT).into()];
    config.turn.relay_addresses = vec![RELAY[1].into()];
    config.turn.allow_peers.clone_from(&blocks);
    with_a_user(config)?;
    config.turn.found.own_addresses = own_addresses::read()?;
    config.udp.allow_peers = blocks;
    config.udp.own_addresses.clone_from(&config.turn.found.own_addresses);
    config.xdp.mode = XdpMode::Auto;
    Ok(())
}

/// What one way came to.
struct Relayed {
    outcome: Outcome,
    /// Datagrams that the program has relayed.
    by_program: u64,
    /// Of all frames that it has seen meanwhile.
    ns_per_frame: Option<u64>,
}

/// Runs both ways, half of the time each, and prints what came of them.
///
/// # Errors
/// What keeps the program off the interfaces or a way from being made, and anything that was lost or
/// corrupt, or that the program did not relay.
pub(super) fn run(
    arguments: &DemoArguments,
    appliance: &Appliance,
    stats: &Stats,
    namespaces: &Namespaces,
) -> anyhow::Result<()> {
    let modes = modes(&stats.ask("/v1/xdp")?)?;
    super::surroundings::leave_cpus(&stats.data_cpus()?);
    let measured = Measured::begin().context("the kernel measures no runs of BPF programs")?;
    let share = Duration::from_secs(arguments.seconds) / 2;
    let Some(&server) = appliance.turn_listen().udp.first() else {
        return Err(Unmet("the TURN server listens nowhere".to_owned()).into());
    };
    let mut turn = {
        let (peer, address) = end(namespaces, 1)?;
        namespaces.at_end(0, || TurnEnds::make(server, peer, address))?
    };
    let first = relayed("turn", &mut turn, stats, share)?;
    turn.give_up()?;
    let mut session = SessionEnds::open(stats, [end(namespaces, 0)?, end(namespaces, 1)?], RELAY)?;
    let second = relayed("opaque", &mut session, stats, share)?;
    drop(measured);
    let ways = [first, second];
    let text = match arguments.json {
        true => format!("{}\n", document(&ways, &modes)),
        false => table(&ways, &modes)?,
    };
    print(text.as_bytes())?;
    for Relayed { outcome, by_program, .. } in &ways {
        let Outcome { name, lost, corrupt, .. } = outcome;
        if lost + corrupt > 0 {
            let message = format!("{name}: {lost} datagrams were lost, {corrupt} corrupt");
            return Err(Unmet(message).into());
        }
        if *by_program == 0 {
            return Err(Unmet(format!("{name}: the program has relayed nothing")).into());
        }
    }
    Ok(())
}

/// How the program is on each interface.
fn modes(document: &Value) -> anyhow::Result<String> {
    if document["state"] != "on" {
        let why = document["why"].as_str().unwrap_or("it does not say why");
        return Err(Unmet(format!("the XDP program is on no interface: {why}")).into());
    }
    let rows = document["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let modes = rows.iter().map(|row| {
        format!("{} {}", row["name"].as_str().unwrap_or("?"), row["mode"].as_str().unwrap_or("-"))
    });
    Ok(modes.collect::<Vec<_>>().join(", "))
}

fn end(namespaces: &Namespaces, side: usize) -> anyhow::Result<(UdpSocket, SocketAddr)> {
    namespaces.at_end(side, || {
        let socket = UdpSocket::bind((ENDS[side], 0))?;
        socket.set_read_timeout(Some(DATAGRAM_TIMEOUT))?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    })
}

/// Moves datagrams once the program has the way.
fn relayed(
    name: &'static str,
    ends: &mut impl Ends,
    stats: &Stats,
    share: Duration,
) -> anyhow::Result<Relayed> {
    wait_for_the_program(name, ends, stats)?;
    let before = Counted::now(stats)?;
    let outcome = move_datagrams(name, ends, stats, share)?;
    let after = Counted::now(stats)?;
    let runs = after.runs.saturating_sub(before.runs);
    Ok(Relayed {
        outcome,
        by_program: after.offloaded.saturating_sub(before.offloaded),
        ns_per_frame: after.run_ns.saturating_sub(before.run_ns).checked_div(runs),
    })
}

/// Exchanges datagrams until the appliance says that the program has both directions: it learns where
/// an end sends to from what comes, and the kernel finds out where the ends are.
fn wait_for_the_program(
    name: &'static str,
    ends: &mut impl Ends,
    stats: &Stats,
) -> anyhow::Result<()> {
    let clock = Clock::start();
    loop {
        for from_a in [true, false] {
            ends.send(from_a, b"where are you?")?;
            ends.receive(!from_a)?.context("an end is not reached through the relay")?;
        }
        let document = stats.ask("/v1/udp")?;
        let rows = document["udp"].as_array().map(Vec::as_slice).unwrap_or_default();
        let row = rows.iter().find(|row| row["kind"] == name);
        let row = row.context("the appliance does not list what it relays")?;
        if row["tier"] == "xdp" && row["directions_offloaded"].as_u64().is_none_or(|it| it == 2) {
            return Ok(());
        }
        if clock.now() > XDP_TIMEOUT {
            let why = row["not_xdp"].as_str().unwrap_or("no reason is given");
            return Err(Unmet(format!("{name}: not relayed by the program: {why}")).into());
        }
        clock::pause(Duration::from_millis(20));
    }
}

/// What has been counted, once it is: the appliance reads the program's counters every second.
struct Counted {
    offloaded: u64,
    runs: u64,
    run_ns: u64,
}

impl Counted {
    fn now(stats: &Stats) -> anyhow::Result<Self> {
        clock::pause(COUNTED_AFTER);
        let (status, xdp) = (stats.ask("/v1/status")?, stats.ask("/v1/xdp")?);
        let counters = &status["totals"]["counters"];
        let read = |value: &Value| value.as_u64().unwrap_or(0);
        Ok(Self {
            offloaded: read(&counters["udp_datagrams_offloaded"]),
            runs: read(&xdp["program_runs_total"]),
            run_ns: read(&xdp["program_run_ns_total"]),
        })
    }
}

fn table(ways: &[Relayed], modes: &str) -> anyhow::Result<String> {
    let mut text = format!("XDP program on {modes}\n\n");
    writeln!(
        text,
        "{:<8} {:>8} {:>10} {:>10} {:>6} {:>8} {:>6} {:>10} {:>8}",
        "way", "seconds", "datagrams", "per second", "lost", "corrupt", "tier", "by XDP", "ns each"
    )?;
    for Relayed { outcome, by_program, ns_per_frame } in ways {
        writeln!(
            text,
            "{:<8} {:>8.1} {:>10} {:>10} {:>6} {:>8} {:>6} {:>10} {:>8}",
            outcome.name,
            outcome.elapsed.as_secs_f64(),
            outcome.datagrams,
            human_count(outcome.per_second() as u64),
            outcome.lost,
            outcome.corrupt,
            outcome.tier,
            by_program,
            ns_per_frame.map_or_else(|| "-".to_owned(), |ns| ns.to_string()),
        )?;
    }
    writeln!(
        text,
        "\nevery byte verified; ns each: what a run of the program took, as the kernel measured it. \
         The ends, which\nsend and compare, are what limits the rate."
    )?;
    Ok(text)
}

fn document(ways: &[Relayed], modes: &str) -> Value {
    let ways: Vec<_> = ways
        .iter()
        .map(|Relayed { outcome, by_program, ns_per_frame }| {
            let mut way = outcome.document();
            way["datagrams_by_program"] = json!(by_program);
            way["program_ns_per_frame"] = json!(ns_per_frame);
            way
        })
        .collect();
    json!({ "program": modes, "xdp": ways })
}

//! How fast one data core makes TURN allocations, and what it takes to hold and to end them.
//!
//! Starts an appliance with one data core and asks it for allocations, from an address of loopback
//! for each client: a challenge, a request that answers it, and in the end a refresh of 0 s. What the
//! core spent is what the kernel counts for its thread, so that figure holds however slow the
//! generator is, which is one thread that waits for each answer.

#![allow(clippy::print_stdout, reason = "the figures go to standard output")]

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use waystation_benches::aead::AeadOption;
use waystation_benches::compare::appliance::{Appliance, Port};
use waystation_benches::compare::contender::{Schedule, Setting};
use waystation_benches::load::clock::Clock;
use waystation_benches::load::processor::{Reading, Watched};
use waystation_peer::TurnClient;

const USER: (&str, &str) = ("alice", "wonderland");
/// Clients whose sockets are open at a time, to end their allocations with.
const BATCH: usize = 1_000;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "turn-allocations", version, about = "What TURN allocations cost a data core")]
struct Options {
    /// Allocations to hold at a time.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    count: u32,
    /// Processor of the data core.
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    relay_cpu: usize,
    /// Processor of the management core.
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    generator_cpu: usize,
}

/// An appliance, and what it is watched with.
#[derive(Debug)]
struct Bench {
    appliance: Appliance,
    watched: Watched,
    server: std::net::SocketAddr,
    clock: Clock,
    _files: tempfile::TempDir,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let count = options.count as usize;
    let bench = Bench::start(&options, count)?;
    // What a program takes once is taken by others before.
    let mut first = bench.clients(count..count + 100)?;
    first.iter_mut().try_for_each(|client| client.allocate().map(drop))?;
    first.iter_mut().try_for_each(|client| client.refresh(0))?;
    let before_bytes = bench.resident_bytes()?;
    let made = bench.measure(count, || {
        (0..count).step_by(BATCH).try_for_each(|start| {
            let mut clients = bench.clients(start..(start + BATCH).min(count))?;
            Ok(clients.iter_mut().try_for_each(|client| client.allocate().map(drop))?)
        })
    })?;
    let grown = bench.resident_bytes()?.saturating_sub(before_bytes);
    let status = bench.appliance.document("/v1/status")?;
    let open = status["cores"][0]["counters"]["turn_allocations_open"].as_u64();
    ensure!(open == Some(u64::from(options.count)), "{open:?} of {count} are held");
    println!("{count} allocations held by one data core, {} bytes each", grown / count);
    println!("made   {made}");
    // Others, whose sockets are still there, since only their own can end them.
    let mut clients = bench.clients(count..count + BATCH)?;
    clients.iter_mut().try_for_each(|client| client.allocate().map(drop))?;
    let ended = bench
        .measure(BATCH, || Ok(clients.iter_mut().try_for_each(|client| client.refresh(0))?))?;
    println!("ended  {ended}");
    Ok(())
}

impl Bench {
    fn start(options: &Options, count: usize) -> Result<Self> {
        let files = tempfile::TempDir::new().context("making a directory")?;
        let users = files.path().join("users");
        fs::write(&users, format!("{}:{}\n", USER.0, USER.1)).context("writing the users")?;
        fs::set_permissions(&users, fs::Permissions::from_mode(0o600))?;
        let clock = Clock::start();
        let setting = Setting {
            schedule: Schedule { rounds: 1, warm_up: Duration::ZERO, measured: Duration::ZERO },
            clock,
            relay_cpu: options.relay_cpu,
            generator_cpu: options.generator_cpu,
            aead: AeadOption::Auto,
            peers: PathBuf::new(),
        };
        let most = count + BATCH;
        let engine = format!("cores = 1\ncpus = [{}]", options.relay_cpu);
        // Addresses of loopback that nobody else is on.
        let management = format!(
            "cpu = {}\n[turn]\nlisten = [\"127.0.0.1:0\"]\nrelay_addresses = [\"127.3.0.1\"]\n\
             users_file = \"{}\"\nport_min = 30000\nallocations_max = {most}\n\
             allocations_per_user_max = {most}",
            options.generator_cpu,
            users.display(),
        );
        let appliance = Appliance::start_with(Port::IoUring, &engine, &management, &setting)?;
        let status = appliance.document("/v1/status")?;
        let server = status["turn_listen"][0].as_str().context("an odd status")?.parse()?;
        let watched = appliance.process.watched();
        Ok(Self { appliance, watched, server, clock, _files: files })
    }

    /// A client for each number, at an address of its own.
    fn clients(&self, numbers: std::ops::Range<usize>) -> Result<Vec<TurnClient>> {
        let client = |number: usize| {
            let [low, high, ..] = number.to_le_bytes();
            let local = (Ipv4Addr::new(127, 2, high, low), 0).into();
            Ok(TurnClient::over_udp_from(local, self.server, USER)?)
        };
        numbers.map(client).collect()
    }

    /// Does something with so many allocations, and says what it came to.
    fn measure(&self, count: usize, act: impl FnOnce() -> Result<()>) -> Result<String> {
        let (before, start_ns): (Reading, u64) = (self.watched.read()?, self.clock.now_ns());
        act()?;
        let seconds = (self.clock.now_ns() - start_ns) as f64 / 1e9;
        let spent = self.watched.read()?.since(&before);
        let each_us = spent.forwarding_ns as f64 / 1e3 / count as f64;
        Ok(format!(
            "{:>7.0} a second by one client after another; {each_us:.1} us each of the data core, \
             which is room for {:.0} a second",
            count as f64 / seconds,
            1e6 / each_us,
        ))
    }

    /// Bytes of memory of its own that the appliance has in use.
    fn resident_bytes(&self) -> Result<usize> {
        let Watched::Process(process) = self.watched else {
            anyhow::bail!("the appliance's process is not known");
        };
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kibibytes = line.and_then(|line| line.split_ascii_whitespace().nth(1));
        Ok(kibibytes.context("no RssAnon")?.parse::<usize>()? * 1024)
    }
}

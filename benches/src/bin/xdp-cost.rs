//! What the XDP program costs a packet, by verdict, in the kernel's own test runs.
//!
//! Run as root; it enters a network namespace of its own, which ends with it. A relayed frame comes
//! out rewritten and the kernel gives it to the program again, so the sessions here rewrite a frame
//! into itself, or into each other's, and a round lasts as long as the frame has hops left. The kinds
//! take turns, so that what else the machine does hurts all alike; the least of a kind's rounds is
//! what a packet costs while nothing else is done.

#![allow(clippy::print_stdout, reason = "the figures go to standard output")]

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use std::{env, fs, net::SocketAddr, path::PathBuf, process::Command};
use waystation_ebpf::{
    abi::{Port, Session, SessionKey, Settings, Verdict, limits::INDICES_MAX},
    forwarding::{LOOPBACK_INTERFACE, switch_on},
    object::PREBUILT,
    programs::{Capture, Programs},
};

/// Set in the process that is in the namespace.
const INSIDE: &str = "WAYSTATION_XDP_COST_INSIDE";
/// Runs of one round of what is not relayed: enough for the first ones, before which the caches are
/// cold, not to count.
const ROUND: u32 = 10_000;
/// Runs of one round of relayed frames: fewer than the hops a frame can have.
const RELAYED_ROUND: u32 = 250;
/// Runs of a round that is taken off one of relayed frames, and with it what the first ones cost.
const RELAYED_BEGINNING: u32 = 50;
/// Rounds of a kind in one turn: after a few the next hop is known and the caches are warm.
const ROUNDS_PER_TURN: u32 = 4;
/// What the sender of a WireGuard packet calls its receiver.
const INDEX: [u8; 4] = [9, 8, 7, 6];
/// What a packet of a session may cost, and what a dropped one may, in nanoseconds.
const HIT_GOAL_NS: u128 = 80;
const DROP_GOAL_NS: u128 = 50;
const DAY_NS: u64 = 86_400_000_000_000;

/// What the XDP program costs a packet, by verdict
#[derive(Debug, Parser)]
struct Options {
    /// Turns of each kind of packet, of four rounds of 250 runs each
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// End with 1 if the least of a kind is above its goal
    #[arg(long)]
    check: bool,
    /// Another build of the object
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
}

/// A kind of packet.
struct Kind {
    name: &'static str,
    verdict: Verdict,
    frame: Vec<u8>,
    /// Whether prefixes are denied meanwhile.
    has_denied: bool,
    /// What it has cost in each round, in nanoseconds a packet.
    rounds_ns: Vec<u128>,
    /// The same in each beginning of a round; of relayed frames.
    beginnings_ns: Vec<u128>,
}

impl Kind {
    fn runs(&self) -> u32 {
        if self.verdict.is_relayed() { RELAYED_ROUND } else { ROUND }
    }

    /// What a packet costs once the first ones of a round are through, by the least of the rounds.
    fn least_ns(&self) -> u128 {
        let least = |rounds_ns: &[u128]| rounds_ns.iter().min().copied().unwrap_or(0);
        let (all, beginning) = (u128::from(RELAYED_ROUND), u128::from(RELAYED_BEGINNING));
        if self.beginnings_ns.is_empty() {
            return least(&self.rounds_ns);
        }
        let rest_ns =
            (all * least(&self.rounds_ns)).saturating_sub(beginning * least(&self.beginnings_ns));
        rest_ns / (all - beginning)
    }

    /// What it may cost, if that is said.
    fn goal_ns(&self) -> Option<u128> {
        if self.verdict.is_relayed() {
            Some(HIT_GOAL_NS)
        } else {
            self.verdict.is_drop().then_some(DROP_GOAL_NS)
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if env::var_os(INSIDE).is_none() {
        // On one processor, for what the program remembers of newcomers each remembers by itself.
        let status = Command::new("unshare")
            .args(["--net", "taskset", "--cpu-list", "0"])
            .arg(env::current_exe()?)
            .args(env::args_os().skip(1))
            .env(INSIDE, "1")
            .status()
            .context("unshare and taskset, from util-linux, are needed")?;
        ensure!(status.success(), "the measurement failed or a goal was missed; it needs root");
        return Ok(());
    }
    let object = options.object.as_ref().map(fs::read).transpose()?;
    let object = object.as_deref().unwrap_or(PREBUILT);
    let wan = build_namespace()?;
    let mut plain = prepared(object)?;
    let mut denying = prepared(object)?;
    denying.tables.settings.deny("192.0.2.0".parse()?, 24)?;
    denying.tables.settings.deny("2001:db8:9::".parse()?, 48)?;
    let mut kinds = kinds();
    for kind in &kinds {
        // The first packet of a stranger is taken, and a session's first looks its next hop up.
        let programs = if kind.has_denied { &mut denying } else { &mut plain };
        programs.run(&kind.frame, wan, 1)?;
    }
    for _ in 0..options.turns {
        for kind in &mut kinds {
            let programs = if kind.has_denied { &mut denying } else { &mut plain };
            take_turn(programs, kind, wan)?;
        }
    }
    let missed = report(&mut kinds);
    ensure!(!options.check || missed == 0, "{missed} of the goals were missed");
    Ok(())
}

/// Runs the program on a kind of packet, and sees to it that all were judged as they should be.
fn take_turn(programs: &mut Programs, kind: &mut Kind, wan: u32) -> Result<()> {
    let before = programs.tables.counters.of(kind.verdict)?.packets;
    for _ in 0..ROUNDS_PER_TURN {
        let ran = programs.run(&kind.frame, wan, kind.runs())?;
        kind.rounds_ns.push(ran.duration.as_nanos());
        if kind.verdict.is_relayed() {
            let ran = programs.run(&kind.frame, wan, RELAYED_BEGINNING)?;
            kind.beginnings_ns.push(ran.duration.as_nanos());
        }
    }
    let counted = programs.tables.counters.of(kind.verdict)?.packets - before;
    let beginning = if kind.verdict.is_relayed() { RELAYED_BEGINNING } else { 0 };
    let (name, verdict) = (kind.name, kind.verdict.name());
    let runs = ROUNDS_PER_TURN * (kind.runs() + beginning);
    ensure!(counted == runs.into(), "{name}: {counted} of {runs} were {verdict}");
    Ok(())
}

/// Prints what each kind has cost, and returns how many were above their goal.
fn report(kinds: &mut [Kind]) -> usize {
    println!(
        "ns per packet, of rounds of {ROUND} runs; relayed, the median of {RELAYED_ROUND} and the \
         least of those after the first {RELAYED_BEGINNING}:"
    );
    println!("{:>6} {:>7} {:>6}", "least", "median", "goal");
    let mut missed = 0;
    for kind in kinds {
        kind.rounds_ns.sort_unstable();
        let least = kind.least_ns();
        let median = kind.rounds_ns.get(kind.rounds_ns.len() / 2).copied().unwrap_or(0);
        let goal = kind.goal_ns().map_or(String::new(), |goal| format!("<= {goal}"));
        let is_missed = kind.goal_ns().is_some_and(|goal| least > goal);
        let mark = if is_missed { "  MISSED" } else { "" };
        println!("{least:>6} {median:>7} {goal:>6}   {}{mark}", kind.name);
        missed += usize::from(is_missed);
    }
    missed
}

/// The interfaces, addresses and neighbours; gives the interface that frames come in by.
fn build_namespace() -> Result<u32> {
    switch_on()?;
    for arguments in [
        "link set lo up",
        "link add wan type veth peer name wan-peer",
        "link set wan up",
        "link set wan-peer up",
        "addr add 198.51.100.1/24 dev wan",
        "addr add 2001:db8:1::1/64 dev wan nodad",
        "neigh add 198.51.100.7 lladdr 02:00:00:00:00:07 dev wan nud permanent",
        "neigh add 2001:db8:1::7 lladdr 02:00:00:00:00:07 dev wan nud permanent",
        "link add lan type veth peer name lan-peer",
        "link set lan up",
        "link set lan-peer up",
        "addr add 203.0.113.1/24 dev lan",
        "neigh add 203.0.113.7 lladdr 02:00:00:00:00:07 dev lan nud permanent",
    ] {
        let status = Command::new("ip").args(arguments.split(' ')).status()?;
        ensure!(status.success(), "ip {arguments}");
    }
    index_of("wan")
}

/// The program with sessions.
fn prepared(object: &[u8]) -> Result<Programs> {
    let mut programs = Programs::load_object(object, None, Capture::Never)?;
    let tables = &mut programs.tables;
    tables.settings.set(Settings {
        routing_interface: LOOPBACK_INTERFACE,
        stranger_cost_ns: DAY_NS,
        newcomer_cost_ns: DAY_NS,
        ..Settings::default()
    })?;
    tables.ports.set(3478..=3478, Port::Turn)?;
    tables.ports.set(49_152..=49_154, Port::Session)?;
    tables.ports.set(49_155..=49_155, Port::Opaque)?;
    let kinds = [Port::Turn, Port::Session, Port::Opaque];
    tables.local_addresses.insert("198.51.100.1".parse()?, &kinds)?;
    tables.local_addresses.insert("2001:db8:1::1".parse()?, &kinds)?;
    tables.egress.insert(index_of("lan")?)?;
    for (local, channel, to, target_channel) in [
        // Into itself.
        ("198.51.100.7:49153", None, "198.51.100.7:49153", None),
        ("203.0.113.7:49153", None, "203.0.113.7:49153", None),
        ("[2001:db8:1::7]:49153", None, "[2001:db8:1::7]:49153", None),
        // Into each other's.
        ("198.51.100.7:3478", Some(0x4001), "198.51.100.7:49152", None),
        ("198.51.100.7:49152", None, "198.51.100.7:3478", Some(0x4001)),
        ("198.51.100.7:49154", None, "[2001:db8:1::7]:49154", None),
        ("[2001:db8:1::7]:49154", None, "198.51.100.7:49154", None),
    ] {
        let (local, to): (SocketAddr, SocketAddr) = (local.parse()?, to.parse()?);
        let key = SessionKey::new(sender(local)?, local, channel);
        let session = Session::relayed(sender(to)?, to, target_channel, 0);
        tables.sessions.insert(key, session.limited(u64::MAX, 1 << 40))?;
    }
    let local = "198.51.100.7:49155".parse()?;
    let session = Session::relayed(sender(local)?, local, None, 0);
    let session = session.for_transport([u32::from_ne_bytes(INDEX); INDICES_MAX]);
    let key = SessionKey::new(sender(local)?, local, None);
    tables.sessions.insert(key, session.limited(u64::MAX, 1 << 40))?;
    Ok(programs)
}

/// Who sends to an address: this machine's own in the same network, so that what is relayed comes by
/// again.
fn sender(to: SocketAddr) -> Result<SocketAddr> {
    Ok(match to.ip().to_string() {
        text if text.starts_with("203.0.113.") => "203.0.113.1:3478",
        _ if to.is_ipv4() => "198.51.100.1:3478",
        _ => "[2001:db8:1::1]:3478",
    }
    .parse()?)
}

fn index_of(interface: &str) -> Result<u32> {
    let output = Command::new("ip").args(["-o", "link", "show", "dev", interface]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split(':').next().unwrap_or_default().parse()?)
}

fn kinds() -> Vec<Kind> {
    let v4 = |source: [u8; 4], to: [u8; 4], port, payload: &[u8]| {
        let ip = [source, to].concat();
        datagram(&ip, port, payload)
    };
    let (own, user) = ([198, 51, 100, 1], [198, 51, 100, 7]);
    let own6 = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let user6 = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let stranger6 = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let payload = [0x55; 200];
    let framed = [&[0x40, 1, 0, 200], &payload[..]].concat();
    let mut arp = v4(own, user, 1, &payload);
    arp[13] = 6;
    let mut malformed = v4([203, 0, 113, 9], own, 49_153, &payload);
    malformed[24] ^= 1;
    let session = v4(own, user, 49_153, &payload);
    let session6 = datagram(&[own6, user6].concat(), 49_153, &payload);
    let onward = v4([203, 0, 113, 1], [203, 0, 113, 7], 49_153, &payload);
    let wireguard = v4(own, user, 49_155, &[&[4, 0, 0, 0], &INDEX[..], &payload].concat());
    let denied6 = datagram(&[stranger6, own6].concat(), 49_153, &payload);
    let denied = v4([192, 0, 2, 9], own, 49_153, &payload);
    let channel = v4(own, user, 3478, &framed);
    let plain = [
        ("not IP: the least a run costs", Verdict::PassNotIp, arp),
        ("a port of somebody else", Verdict::PassForeign, v4(own, user, 53, &payload)),
        ("malformed", Verdict::DropMalformed, malformed),
        (
            "stranger, over its rate",
            Verdict::DropStrangerOverRate,
            v4([203, 0, 113, 9], own, 49_153, &payload),
        ),
        (
            "newcomer, over the rate of all",
            Verdict::DropNewcomersOverRate,
            v4([203, 0, 113, 10], own, 49_153, &payload),
        ),
        ("newcomer, IPv6", Verdict::DropNewcomersOverRate, denied6.clone()),
        ("session", Verdict::RelayedBack, session.clone()),
        ("session, IPv6", Verdict::RelayedBack, session6.clone()),
        ("session, out by another interface", Verdict::RelayedOn, onward),
        (
            "from IPv4 to IPv6 and back in turn",
            Verdict::RelayedBack,
            v4(own, user, 49_154, &payload),
        ),
        ("channel removed and added in turn", Verdict::RelayedBack, channel),
        ("WireGuard's data", Verdict::RelayedBack, wireguard),
    ];
    let denying = [
        ("denied prefix", Verdict::DropDenied, denied),
        ("denied prefix, IPv6", Verdict::DropDenied, denied6),
        ("session, while prefixes are denied", Verdict::RelayedBack, session),
        ("session, IPv6, among prefixes that are", Verdict::RelayedBack, session6),
    ];
    let kind = |has_denied| {
        move |(name, verdict, frame)| Kind {
            name,
            verdict,
            frame,
            has_denied,
            rounds_ns: Vec::new(),
            beginnings_ns: Vec::new(),
        }
    };
    plain.into_iter().map(kind(false)).chain(denying.into_iter().map(kind(true))).collect()
}

/// A frame with a datagram from port 3478 whose UDP checksum is as good as any.
fn datagram(addresses: &[u8], port: u16, payload: &[u8]) -> Vec<u8> {
    let bytes = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7];
    if addresses.len() == 8 {
        let mut ip = vec![0x45, 0];
        ip.extend((20 + bytes).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 255, 17, 0, 0]);
        ip.extend(addresses);
        let mut sum: u32 =
            ip.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        ip[10..12].copy_from_slice(&(!sum).to_be_bytes()[2..]);
        frame.extend([0x08, 0x00]);
        frame.extend(ip);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(bytes.to_be_bytes());
        frame.extend([17, 255]);
        frame.extend(addresses);
    }
    frame.extend(3478_u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(bytes.to_be_bytes());
    frame.extend([0x12, 0x34]);
    frame.extend(payload);
    frame
}

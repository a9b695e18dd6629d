//! What the XDP program costs a packet, by verdict, in the kernel's own test runs.
//!
//! Run as root; it enters a network namespace of its own, which ends with it. A relayed frame comes
//! out rewritten and the kernel gives it to the program again, so the sessions here rewrite a frame
//! into itself, or into each other's, and a round lasts as long as the frame has hops left.

#![allow(clippy::print_stdout, reason = "the figures go to standard output")]

use anyhow::{Context as _, Result, ensure};
use std::{env, net::SocketAddr, process::Command};
use waystation_ebpf::{
    abi::{Port, Session, SessionKey, Settings, Verdict},
    forwarding::{LOOPBACK_INTERFACE, switch_on},
    programs::Programs,
};

/// Set in the process that is in the namespace.
const INSIDE: &str = "WAYSTATION_XDP_COST_INSIDE";
/// Runs per figure.
const RUNS: u32 = 1_000_000;
/// Runs of one round of relayed frames: fewer than the hops a frame can have.
const ROUND: u32 = 250;
/// Loopback is the first interface of a namespace; the pair follows.
const PEER: &str = "wan-peer";

fn main() -> Result<()> {
    if env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .arg("--net")
            .arg(env::current_exe()?)
            .env(INSIDE, "1")
            .status()
            .context("unshare, from util-linux, is needed")?;
        ensure!(status.success(), "the measurement failed; it needs root");
        return Ok(());
    }
    let (mut programs, wan) = prepared()?;
    println!("ns per packet, mean of {RUNS} runs (relayed: of rounds of {ROUND}):");
    for (name, verdict, frame) in frames() {
        let runs = if verdict.is_relayed() { ROUND } else { RUNS };
        if verdict == Verdict::DropDenied {
            // From here on every packet is looked up among the denied prefixes.
            programs.tables.settings.deny("192.0.2.0".parse()?, 24)?;
        }
        // The first packet of a stranger is taken, and a session's first looks its next hop up.
        programs.run(&frame, wan, 1)?;
        let before = programs.tables.counters.of(verdict)?.packets;
        let mut rounds = Vec::new();
        for _ in 0..RUNS / runs {
            rounds.push(programs.run(&frame, wan, runs)?.duration.as_nanos());
        }
        let counted = programs.tables.counters.of(verdict)?.packets - before;
        let wanted = u64::from(runs) * u64::from(RUNS / runs);
        ensure!(counted == wanted, "{name}: {counted} of {wanted} were {}", verdict.name());
        rounds.sort_unstable();
        let mean = rounds.iter().sum::<u128>() / rounds.len().max(1) as u128;
        println!("{mean:>6}   median {:>4}   {name}", rounds[rounds.len() / 2]);
    }
    Ok(())
}

/// The program with sessions, and the interface frames come in by.
fn prepared() -> Result<(Programs, u32)> {
    switch_on()?;
    for arguments in [
        "link set lo up".to_owned(),
        format!("link add wan type veth peer name {PEER}"),
        "link set wan up".to_owned(),
        format!("link set {PEER} up"),
        "addr add 198.51.100.1/24 dev wan".to_owned(),
        "addr add 2001:db8:1::1/64 dev wan nodad".to_owned(),
        "neigh add 198.51.100.7 lladdr 02:00:00:00:00:07 dev wan nud permanent".to_owned(),
        "neigh add 2001:db8:1::7 lladdr 02:00:00:00:00:07 dev wan nud permanent".to_owned(),
    ] {
        let status = Command::new("ip").args(arguments.split(' ')).status()?;
        ensure!(status.success(), "ip {arguments}");
    }
    let wan = index_of("wan")?;
    let mut programs = Programs::load(None)?;
    let tables = &mut programs.tables;
    let day_ns = 86_400_000_000_000;
    tables.settings.set(Settings {
        routing_interface: LOOPBACK_INTERFACE,
        stranger_cost_ns: day_ns,
        ..Settings::default()
    })?;
    tables.ports.set(3478..=3478, Port::Turn)?;
    tables.ports.set(49_152..=49_153, Port::Session)?;
    tables.local_addresses.insert("198.51.100.1".parse()?, &[Port::Turn, Port::Session])?;
    for (local, channel, to, target_channel) in [
        // Into itself.
        ("198.51.100.7:49153", None, "198.51.100.7:49153", None),
        ("[2001:db8:1::7]:49153", None, "[2001:db8:1::7]:49153", None),
        // Into each other's.
        ("198.51.100.7:3478", Some(0x4001), "198.51.100.7:49152", None),
        ("198.51.100.7:49152", None, "198.51.100.7:3478", Some(0x4001)),
    ] {
        let to: SocketAddr = to.parse()?;
        let from = if to.is_ipv4() { "198.51.100.1:3478" } else { "[2001:db8:1::1]:3478" };
        let from: SocketAddr = from.parse()?;
        let key = SessionKey::new(from, local.parse()?, channel);
        let session = Session::relayed(from, to, target_channel, 0);
        tables.sessions.insert(key, session.limited(u64::MAX, 1 << 40))?;
    }
    Ok((programs, wan))
}

fn index_of(interface: &str) -> Result<u32> {
    let output = Command::new("ip").args(["-o", "link", "show", "dev", interface]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split(':').next().unwrap_or_default().parse()?)
}

fn frames() -> Vec<(&'static str, Verdict, Vec<u8>)> {
    let v4 = |source: [u8; 4], to: [u8; 4], port, payload: &[u8]| {
        let ip = [source, to].concat();
        datagram(&ip, port, payload)
    };
    let (own, user) = ([198, 51, 100, 1], [198, 51, 100, 7]);
    let own6 = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let user6 = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let payload = [0x55; 200];
    let framed = [&[0x40, 1, 0, 200], &payload[..]].concat();
    let mut arp = v4(own, user, 1, &payload);
    arp[13] = 6;
    let mut malformed = v4([203, 0, 113, 9], own, 49_153, &payload);
    malformed[24] ^= 1;
    vec![
        ("not IP: the least the program does", Verdict::PassNotIp, arp),
        ("a port of somebody else", Verdict::PassForeign, v4(own, user, 53, &payload)),
        ("malformed", Verdict::DropMalformed, malformed),
        (
            "stranger, over its rate",
            Verdict::DropStrangerOverRate,
            v4([203, 0, 113, 9], own, 49_153, &payload),
        ),
        ("session", Verdict::RelayedBack, v4(own, user, 49_153, &payload)),
        (
            "session, IPv6",
            Verdict::RelayedBack,
            datagram(&[own6, user6].concat(), 49_153, &payload),
        ),
        ("channel removed and added in turn", Verdict::RelayedBack, v4(own, user, 3478, &framed)),
        ("denied prefix", Verdict::DropDenied, v4([192, 0, 2, 9], own, 49_153, &payload)),
        (
            "session, while prefixes are denied",
            Verdict::RelayedBack,
            v4(own, user, 49_153, &payload),
        ),
    ]
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

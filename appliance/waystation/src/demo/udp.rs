//! Scenario `udp`: two ends exchange datagrams through the appliance, first as TURN client and
//! peer, then as the ends of an opaque session of which one proves its token. Every byte is
//! verified.
//!
//! Runs on the program's main thread, as an ordinary user. The appliance is looked at through its
//! stats socket; every wait has an end.

use super::clock::Clock;
use super::limits::{DATAGRAM_BYTES, DATAGRAM_TIMEOUT, DATAGRAMS_UNDER_WAY};
use super::stats::Stats;
use crate::appliance::Appliance;
use crate::arguments::DemoArguments;
use crate::exit::Unmet;
use crate::questions::print;
use anyhow::Context;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use waystation_management::config::Config;
use waystation_management::units::human_count;
use waystation_peer::TurnClient;
use waystation_relay::udp::Side;
use waystation_relay::udp::proof::{self, LegName, Secret};

/// The one user of the demo's TURN server; it listens on loopback for as long as the demo runs.
const USER: (&str, &str) = ("demo", "demo");
/// The channel of the client's peer.
const CHANNEL: u16 = 0x4000;

/// Has an appliance relay over loopback.
pub(super) fn configure(config: &mut Config) -> anyhow::Result<()> {
    let loopback = "127.0.0.0/8".parse().context("loopback")?;
    config.turn.listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    config.turn.allow_peers = vec![loopback];
    with_a_user(config)?;
    config.udp.addresses = vec![Ipv4Addr::LOCALHOST.into()];
    config.udp.allow_peers = vec![loopback];
    Ok(())
}

/// Lets the demo's user in.
pub(super) fn with_a_user(config: &mut Config) -> anyhow::Result<()> {
    let (name, password) = USER;
    let users = [(name.to_owned(), password.to_owned().into())];
    config.turn.found.credentials = Some(Arc::new(config.turn.credentials(&users, &[])?));
    Ok(())
}

/// Two ends of a way through the appliance.
pub(super) trait Ends {
    fn send(&mut self, from_a: bool, payload: &[u8]) -> anyhow::Result<()>;

    /// What has come to an end, or nothing in time.
    fn receive(&mut self, at_a: bool) -> anyhow::Result<Option<Vec<u8>>>;
}

/// What one way came to.
pub(super) struct Outcome {
    pub(super) name: &'static str,
    pub(super) elapsed: Duration,
    pub(super) datagrams: u64,
    pub(super) lost: u64,
    pub(super) corrupt: u64,
    pub(super) tier: String,
    in_trains: u64,
    cpu_ns: u64,
}

impl Outcome {
    pub(super) fn per_second(&self) -> f64 {
        self.datagrams as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn cpu_ns_per_datagram(&self) -> Option<u64> {
        self.cpu_ns.checked_div(self.datagrams)
    }

    pub(super) fn document(&self) -> Value {
        json!({
            "way": self.name,
            "seconds": self.elapsed.as_secs_f64(),
            "datagrams": self.datagrams,
            "datagrams_per_second": self.per_second(),
            "datagram_bytes": DATAGRAM_BYTES,
            "lost": self.lost,
            "corrupt": self.corrupt,
            "tier": self.tier,
            "datagrams_in_trains": self.in_trains,
            "data_core_cpu_ns_per_datagram": self.cpu_ns_per_datagram(),
        })
    }
}

/// Runs both ways, half of the time each, and prints what came of them.
///
/// # Errors
/// What keeps a way from being made, and anything that was lost or corrupt.
pub(super) fn run(
    arguments: &DemoArguments,
    appliance: &Appliance,
    stats: &Stats,
) -> anyhow::Result<()> {
    super::surroundings::leave_cpus(&stats.data_cpus()?);
    let share = Duration::from_secs(arguments.seconds) / 2;
    let Some(&server) = appliance.turn_listen().udp.first() else {
        return Err(Unmet("the TURN server listens nowhere".to_owned()).into());
    };
    let (peer, address) = end()?;
    let mut turn = TurnEnds::make(server, peer, address)?;
    let first = move_datagrams("turn", &mut turn, stats, share)?;
    turn.give_up()?;
    let mut session = SessionEnds::open(stats, [end()?, end()?], [Ipv4Addr::LOCALHOST; 2])?;
    let second = move_datagrams("opaque", &mut session, stats, share)?;
    let outcomes = [first, second];
    let drops = stats.drops()?;
    let text = match arguments.json {
        true => format!("{}\n", document(&outcomes, &drops, appliance.port().name())),
        false => table(&outcomes, &drops)?,
    };
    print(text.as_bytes())?;
    match outcomes.iter().find(|outcome| outcome.lost + outcome.corrupt > 0) {
        None => Ok(()),
        Some(Outcome { name, lost, corrupt, .. }) => {
            let message = format!("{name}: {lost} datagrams were lost, {corrupt} corrupt");
            Err(Unmet(message).into())
        }
    }
}

/// Sends some datagrams one way, then as many the other way, and so on until the time is over.
pub(super) fn move_datagrams(
    name: &'static str,
    ends: &mut impl Ends,
    stats: &Stats,
    share: Duration,
) -> anyhow::Result<Outcome> {
    let before = Counted::now(stats)?;
    let clock = Clock::start();
    let (mut datagrams, mut lost, mut corrupt) = (0, 0, 0);
    let mut from_a = true;
    loop {
        let first = datagrams + lost + corrupt;
        for number in first..first + DATAGRAMS_UNDER_WAY {
            ends.send(from_a, &payload(number))?;
        }
        // One that took the way through user space may come behind others that did not.
        let mut awaited: BTreeSet<u64> = (first..first + DATAGRAMS_UNDER_WAY).collect();
        while !awaited.is_empty() {
            let Some(came) = ends.receive(!from_a)? else {
                lost += awaited.len() as u64;
                break;
            };
            let number = came.first_chunk().map(|number| u64::from_be_bytes(*number));
            match number.filter(|number| came == payload(*number)) {
                Some(number) if awaited.remove(&number) => datagrams += 1,
                Some(_) | None => {
                    // Which of them it was to be is anybody's guess.
                    awaited.pop_last();
                    corrupt += 1;
                }
            }
        }
        from_a = !from_a;
        // Each lost one has cost its whole time already, and the figures are worth nothing.
        if clock.now() >= share || lost > 0 {
            break;
        }
    }
    let elapsed = clock.now();
    let after = Counted::now(stats)?;
    Ok(Outcome {
        name,
        elapsed,
        datagrams,
        lost,
        corrupt,
        tier: tier(stats, name)?,
        in_trains: after.in_trains.saturating_sub(before.in_trains),
        cpu_ns: after.cpu_ns.saturating_sub(before.cpu_ns),
    })
}

/// A datagram that is like no other.
fn payload(number: u64) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    // The lowest byte is meant.
    bytes.extend((bytes.len()..DATAGRAM_BYTES).map(|at| (at as u64 * 31 + number) as u8));
    bytes
}

/// What the data cores have counted.
struct Counted {
    cpu_ns: u64,
    in_trains: u64,
}

impl Counted {
    fn now(stats: &Stats) -> anyhow::Result<Self> {
        let status = stats.ask("/v1/status")?;
        let read = |key: &str| status["totals"]["counters"][key].as_u64().unwrap_or(0);
        Ok(Self { cpu_ns: read("cpu_ns"), in_trains: read("udp_datagrams_sent_in_trains") })
    }
}

/// How the appliance says that it moves them.
fn tier(stats: &Stats, kind: &str) -> anyhow::Result<String> {
    let document = stats.ask("/v1/udp")?;
    let rows = document["udp"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = rows.iter().find(|row| row["kind"] == kind);
    let tier = row.and_then(|row| row["tier"].as_str());
    Ok(tier.context("the appliance does not list what it relays")?.to_owned())
}

/// A TURN client, end A, and its peer.
pub(super) struct TurnEnds {
    client: TurnClient,
    peer: UdpSocket,
    relayed: SocketAddr,
}

impl TurnEnds {
    /// The client is where the calling thread is, the peer where it is known to be.
    pub(super) fn make(
        server: SocketAddr,
        peer: UdpSocket,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let mut client = TurnClient::over_udp(server, USER)?;
        let relayed = client.allocate()?;
        client.bind(CHANNEL, address)?;
        Ok(Self { client, peer, relayed })
    }

    /// Ends the allocation.
    pub(super) fn give_up(&mut self) -> anyhow::Result<()> {
        self.client.refresh(0)?;
        Ok(())
    }
}

impl Ends for TurnEnds {
    fn send(&mut self, from_a: bool, payload: &[u8]) -> anyhow::Result<()> {
        if from_a {
            return Ok(self.client.send(CHANNEL, payload)?);
        }
        self.peer.send_to(payload, self.relayed)?;
        Ok(())
    }

    fn receive(&mut self, at_a: bool) -> anyhow::Result<Option<Vec<u8>>> {
        if at_a {
            return Ok(self.client.receive(DATAGRAM_TIMEOUT).ok().map(|relayed| relayed.payload));
        }
        Ok(receive(&self.peer))
    }
}

/// The ends of an opaque session, and where they send to.
pub(super) struct SessionEnds {
    ends: [UdpSocket; 2],
    to: [SocketAddr; 2],
}

impl SessionEnds {
    /// Opens a session by command; end A proves its token, end B is where it is. They send to these
    /// addresses.
    pub(super) fn open(
        stats: &Stats,
        [(a, _), (b, at_b)]: [(UdpSocket, SocketAddr); 2],
        relay: [Ipv4Addr; 2],
    ) -> anyhow::Result<Self> {
        let opened = stats.order(&format!("/v1/udp/open?a=learn&b={at_b}"))?;
        let port = |leg: usize| {
            let port = opened["legs"][leg]["port"].as_u64();
            port.and_then(|port| u16::try_from(port).ok()).context("a session without ports")
        };
        let to = [(relay[0], port(0)?).into(), (relay[1], port(1)?).into()];
        let proof = first_proof(&opened).context("a session without a token")?;
        a.send_to(&proof, to[0])?;
        receive(&a).context("the proof of a token was not answered")?;
        Ok(Self { ends: [a, b], to })
    }
}

/// The first proof of end A.
fn first_proof(opened: &Value) -> Option<[u8; proof::PROOF_BYTES]> {
    let session = opened["session"].as_str()?.parse().ok()?;
    let token = opened["legs"][0]["token"].as_str()?;
    let digits = token.get(2 * LegName::BYTES..)?;
    let mut secret = [0; 32];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(proof::prove(&Secret::new(secret), LegName { session, side: Side::A }, 1))
}

impl Ends for SessionEnds {
    fn send(&mut self, from_a: bool, payload: &[u8]) -> anyhow::Result<()> {
        let from = usize::from(!from_a);
        self.ends[from].send_to(payload, self.to[from])?;
        Ok(())
    }

    fn receive(&mut self, at_a: bool) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(receive(&self.ends[usize::from(!at_a)]))
    }
}

fn end() -> anyhow::Result<(UdpSocket, SocketAddr)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(DATAGRAM_TIMEOUT))?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// What has come to a socket, or nothing in time. A signal ends no wait: the time begins anew.
fn receive(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = [0; 2 * DATAGRAM_BYTES];
    let bytes = loop {
        match socket.recv(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            taken => break taken.ok()?,
        }
    };
    Some(buffer[..bytes].to_vec())
}

fn table(outcomes: &[Outcome], drops: &[(String, u64)]) -> anyhow::Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "{:<8} {:>8} {:>10} {:>10} {:>6} {:>8} {:>6} {:>10} {:>8}",
        "way",
        "seconds",
        "datagrams",
        "per second",
        "lost",
        "corrupt",
        "tier",
        "in trains",
        "ns each"
    )?;
    for outcome in outcomes {
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
            outcome.in_trains,
            outcome.cpu_ns_per_datagram().unwrap_or(0),
        )?;
    }
    writeln!(
        text,
        "\n{DATAGRAM_BYTES} bytes each, every byte verified; ns each: CPU time of the data cores"
    )?;
    for (reason, events) in drops {
        writeln!(text, "dropped: {events} {reason}")?;
    }
    Ok(text)
}

fn document(outcomes: &[Outcome], drops: &[(String, u64)], port: &str) -> Value {
    let ways: Vec<_> = outcomes.iter().map(Outcome::document).collect();
    let drops: serde_json::Map<_, _> =
        drops.iter().map(|(reason, events)| (reason.clone(), json!(events))).collect();
    json!({ "port": port, "udp": ways, "drops": drops })
}

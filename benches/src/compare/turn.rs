//! TURN servers as contenders: the appliance, coturn and turn-rs, one thread each.
//!
//! Flows go from a client to a peer and from a peer to a client by turns, through a channel. turn-rs
//! has no ports for peers and relays between its clients alone; there the peer is a client as well,
//! and the flow comes in a channel too. A datagram is received once and sent once by each of them.
//!
//! All three are either on loopback or in namespaces of their own ([`crate::streets`]), each relay in
//! others, since an XDP program on a relay's interfaces would be in the way of another's. On loopback
//! the datagrams of flows go by the ends' sockets; between namespaces they are frames that come as
//! from a cable ([`crate::frames`]), and the sockets serve to agree with the relay.

use crate::compare::appliance::{Appliance, Port};
use crate::compare::contender::{Contender, Entry, Schedule, Setting};
use crate::compare::figures::{Measure, Sample};
use crate::compare::process::{NOT_INSTALLED, RelayProcess, find_program};
use crate::datagrams::flow::{DatagramFlows, DatagramRound, DatagramShape, Way};
use crate::datagrams::forwarder::DatagramForwarder;
use crate::frames::flows::FrameFlows;
use crate::load::clock::Clock;
use crate::load::processor::Watched;
use crate::streets::{Checksums, LAN, Side, Streets, WAN};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
use waystation_engine::port::datagrams::UdpTier;
use waystation_peer::TurnClient;
use waystation_turn::channel_data::ChannelNumber;

/// The one user.
const USER: (&str, &str) = ("alice", "wonderland");
const REALM: &str = "example.org";
const CHANNEL: u16 = 0x4000;
/// What clients ask for between rounds, in seconds.
const LIFETIME_S: u32 = 600;

/// Where TURN is served between namespaces.
const PORT: u16 = 3478;
/// Looks at whether the program has what it needs, or has done what it should, and the pause between
/// two of them: its counts are read once a second.
const PROGRAM_TRIES_MAX: u32 = 200;
const PROGRAM_PAUSE: Duration = Duration::from_millis(50);
/// Share of the datagrams that the program has to have relayed for the figures to be its own: now
/// and then one goes by way of user space.
const OFFLOADED_SHARE_MIN: f64 = 0.9;

/// By what the appliance moves datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// The program on its interfaces, in their drivers.
    Xdp,
    /// Its sockets.
    Sockets(UdpTier),
}

impl Tier {
    /// Whether it rests on the program.
    fn needs_program(self) -> bool {
        matches!(self, Self::Xdp | Self::Sockets(UdpTier::AfXdp))
    }
}

/// Where clients, relay and peers are.
#[derive(Clone, Debug)]
pub enum Place {
    Loopback,
    Streets(Rc<Streets>),
}

impl Place {
    /// Namespaces for a relay that works by a tier, or for somebody else's.
    ///
    /// # Errors
    ///
    /// As [`Streets::new`].
    pub fn streets(tier: Option<Tier>, setting: &Setting) -> Result<Self> {
        let checksums = match tier.is_some_and(Tier::needs_program) {
            true => Checksums::Finished,
            false => Checksums::Offloaded,
        };
        let streets = Streets::new(checksums, setting.relay_cpu, setting.generator_cpu)?;
        Ok(Self::Streets(Rc::new(streets)))
    }

    /// Where clients send to, and where peers do.
    fn relay(&self) -> [IpAddr; 2] {
        match self {
            Self::Loopback => [IpAddr::V4(Ipv4Addr::LOCALHOST); 2],
            Self::Streets(_) => [WAN, LAN],
        }
    }

    /// Where a server that cannot say which port it was given is to listen. The calling thread is in
    /// the relay's namespace from then on.
    fn server(&self) -> Result<SocketAddr> {
        match self {
            Self::Loopback => Ok(loopback()?.local_addr()?),
            Self::Streets(streets) => {
                streets.enter_relay()?;
                Ok(SocketAddr::new(WAN, PORT))
            }
        }
    }

    fn client(&self, server: SocketAddr) -> Result<TurnClient> {
        let client = || Ok(TurnClient::over_udp(server, USER)?);
        match self {
            Self::Loopback => client(),
            Self::Streets(streets) => streets.at(Side::Clients, client),
        }
    }

    fn socket(&self, side: Side) -> Result<UdpSocket> {
        match self {
            Self::Loopback => loopback(),
            Self::Streets(streets) => streets.at(side, || bound(side.address())),
        }
    }

    fn generator(&self, ways: Vec<Way>, shape: DatagramShape, clock: Clock) -> Result<Generator> {
        Ok(match self {
            Self::Loopback => {
                Generator::Datagrams(Box::new(DatagramFlows::new(ways, shape, clock)?))
            }
            Self::Streets(streets) => {
                Generator::Frames(Box::new(FrameFlows::new(ways, shape, streets, clock)?))
            }
        })
    }

    fn watched(&self, relay: Watched) -> Watched {
        match self {
            Self::Loopback => relay,
            Self::Streets(streets) => streets.watched(relay),
        }
    }
}

/// A TURN server of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnServer {
    Coturn,
    TurnRs,
}

/// Who sends the messages of flows and receives them again.
#[derive(Debug)]
pub(super) enum Generator {
    Datagrams(Box<DatagramFlows>),
    Frames(Box<FrameFlows>),
}

impl Generator {
    fn round(&mut self, schedule: &Schedule, watched: &Watched) -> Result<DatagramRound> {
        let (warm_up, measured) = (schedule.warm_up, schedule.measured);
        match self {
            Self::Datagrams(flows) => flows.round(warm_up, measured, watched),
            Self::Frames(flows) => flows.round(warm_up, measured, watched),
        }
    }

    pub(super) fn messages_checked(&self) -> Result<u64> {
        match self {
            Self::Datagrams(flows) => Ok(flows.messages_checked()),
            Self::Frames(flows) => flows.messages_checked(),
        }
    }
}

/// Flows, and what has to live as long as they.
#[derive(Debug)]
pub(super) struct TurnFlows<K> {
    pub(super) flows: Generator,
    pub(super) watched: Watched,
    /// Messages checked by the end of the last round.
    pub(super) checked: u64,
    clients: Vec<Client>,
    pub(super) kept: K,
}

/// An appliance at work, and where it is.
#[derive(Debug)]
pub(super) struct AtWork {
    appliance: Appliance,
    pub(super) server: SocketAddr,
    pub(super) place: Place,
    tier: Tier,
    _users: TempDir,
}

/// A client whose datagrams the generator sends and receives.
#[derive(Debug)]
struct Client {
    client: TurnClient,
    socket: UdpSocket,
    relayed: SocketAddr,
    peer: Option<SocketAddr>,
}

impl<K> TurnFlows<K> {
    /// Makes sure that nothing ends during a round.
    pub(super) fn renew(&mut self) -> Result<()> {
        self.clients.iter_mut().try_for_each(Client::renew)
    }
}

impl<K> Contender for TurnFlows<K> {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        self.renew()?;
        let round = self.flows.round(schedule, &self.watched)?;
        self.checked = self.flows.messages_checked()?;
        Ok(of_round(&round))
    }

    fn messages_checked(&self) -> u64 {
        self.checked
    }
}

/// The appliance's own flows, of which the program has to have relayed its part.
#[derive(Debug)]
struct Appliances(TurnFlows<AtWork>);

impl Contender for Appliances {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let sample = self.0.round(schedule)?;
        self.0.kept.check_program(self.0.messages_checked())?;
        Ok(sample)
    }

    fn messages_checked(&self) -> u64 {
        self.0.messages_checked()
    }
}

impl AtWork {
    /// Waits until the program knows both directions of every channel.
    fn await_program(&self, flows: u32) -> Result<()> {
        self.await_count("directions in the kernel", u64::from(2 * flows), || {
            let document = self.appliance.document("/v1/udp")?;
            let rows = document["udp"].as_array().context("an odd document")?.iter();
            Ok(rows.filter_map(|row| row["directions_offloaded"].as_u64()).sum())
        })
    }

    /// Makes sure that the program has relayed what it should have.
    pub(super) fn check_program(&self, messages: u64) -> Result<()> {
        let (what, counter) = match self.tier {
            Tier::Xdp => ("datagrams relayed by the program", "udp_datagrams_offloaded"),
            Tier::Sockets(UdpTier::AfXdp) => {
                ("datagrams in frames", "udp_datagrams_sent_in_frames")
            }
            Tier::Sockets(UdpTier::Gso | UdpTier::Plain) => return Ok(()),
        };
        let least = (messages as f64 * OFFLOADED_SHARE_MIN) as u64;
        self.await_count(what, least, || {
            let status = self.appliance.document("/v1/status")?;
            status["totals"]["counters"][counter].as_u64().context("an odd status")
        })
    }

    fn await_count(&self, what: &str, least: u64, count: impl Fn() -> Result<u64>) -> Result<()> {
        for _ in 0..PROGRAM_TRIES_MAX {
            if count()? >= least {
                return Ok(());
            }
            thread::park_timeout(PROGRAM_PAUSE);
        }
        let xdp = self.appliance.document("/v1/xdp")?;
        bail!("{} {what}, of {least}: {xdp}", count()?)
    }
}

pub(super) fn of_round(round: &DatagramRound) -> Sample {
    let messages = round.messages as f64;
    let forwarding_ns = round.spent.forwarding_ns as f64;
    let mut sample = Sample::from([
        (Measure::ProcessorMicrosecondsPerMessage, forwarding_ns / messages / 1e3),
        (Measure::MessagesPerSecond, messages / round.seconds),
        (Measure::MessagesPerProcessorSecond, messages * 1e9 / forwarding_ns.max(1.0)),
        (Measure::RelayProcessorShare, forwarding_ns / 1e9 / round.seconds),
        (Measure::GeneratorProcessorShare, round.generator_ns as f64 / 1e9 / round.seconds),
        (Measure::LostShare, round.lost as f64 / (messages + round.lost as f64)),
    ]);
    if round.spent.has_data_cores {
        let all_us = round.spent.total_ns as f64 / messages / 1e3;
        sample.insert(Measure::AllThreadsMicrosecondsPerMessage, all_us);
    }
    if round.spent.forwarding_turns > 0 {
        let per_turn = messages / round.spent.forwarding_turns as f64;
        sample.insert(Measure::MessagesPerWakeUp, per_turn);
    }
    sample
}

/// Flows through an appliance of their own that uses a tier.
///
/// # Errors
///
/// When it does not start or the flows cannot be set up.
pub fn waystation(
    tier: Tier,
    shape: DatagramShape,
    place: Place,
    setting: &Setting,
) -> Result<Box<dyn Contender>> {
    Ok(Box::new(Appliances(appliance_flows(tier, shape, place, setting)?)))
}

pub(super) fn appliance_flows(
    tier: Tier,
    shape: DatagramShape,
    place: Place,
    setting: &Setting,
) -> Result<TurnFlows<AtWork>> {
    let directory = TempDir::new().context("making a directory")?;
    let users = directory.path().join("users");
    fs::write(&users, format!("{}:{}\n", USER.0, USER.1)).context("writing the users")?;
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600))?;
    if let Place::Streets(streets) = &place {
        streets.enter_relay()?;
    }
    let engine = format!("cores = 1\ncpus = [{}]", setting.relay_cpu);
    let management = format!(
        "cpu = {}\n{}",
        setting.generator_cpu,
        relaying(tier, &place, &users.display().to_string())
    );
    let appliance = Appliance::start_with(Port::IoUring, &engine, &management, setting)?;
    let status = appliance.document("/v1/status")?;
    let server = status["turn_listen"][0].as_str().context("an odd status")?.parse()?;
    let (clients, ways) = to_peers(server, shape, &place)?;
    let flows = place.generator(ways, shape, setting.clock)?;
    let watched = place.watched(appliance.process.watched());
    let kept = AtWork { appliance, server, place, tier, _users: directory };
    if tier.needs_program() {
        kept.await_program(shape.flows)?;
    }
    Ok(TurnFlows { flows, watched, checked: 0, clients, kept })
}

/// The configuration of what relays.
fn relaying(tier: Tier, place: &Place, users: &str) -> String {
    let [clients_side, peers_side] = place.relay();
    // A port that is relayed from as well would be nobody's to the program.
    let port = if matches!(place, Place::Streets(_)) { PORT } else { 0 };
    let sockets = match tier {
        Tier::Sockets(tier) => tier,
        Tier::Xdp => UdpTier::Gso,
    };
    let mut text = format!(
        "[turn]\nlisten = [\"{clients_side}:{port}\"]\nrelay_addresses = [\"{peers_side}\"]\nrealm = \
         \"{REALM}\"\nusers_file = \"{users}\"\nallow_peers = [\"{}/24\"]\ntier = \"{}\"\n",
        match place {
            Place::Loopback => "127.0.0.0",
            Place::Streets(_) => "203.0.113.0",
        },
        sockets.name(),
    );
    if tier.needs_program() {
        text.push_str("[xdp]\nmode = \"native\"\n");
    }
    text
}

/// The same flows through a thread that only forwards.
///
/// # Errors
///
/// When sockets or the thread cannot be made.
pub fn floor(shape: DatagramShape, place: &Place, setting: &Setting) -> Result<Box<dyn Contender>> {
    let (mut ways, mut routes) = (Vec::new(), Vec::new());
    for number in 0..shape.flows {
        let ends = [place.socket(Side::Clients)?, place.socket(Side::Peers)?];
        if let Place::Streets(streets) = place {
            streets.enter_relay()?;
        }
        let between = bound(place.relay()[(number % 2) as usize])?;
        let [sender, receiver] = if number % 2 == 0 {
            ends
        } else {
            let [client, peer] = ends;
            [peer, client]
        };
        let to = between.local_addr()?;
        routes.push((between, receiver.local_addr()?));
        let comes_from = to;
        ways.push(Way { sender, to, comes_from, sent_in: None, receiver, received_in: None });
    }
    let forwarder = DatagramForwarder::start(routes, Some(setting.relay_cpu))?;
    let watched = place.watched(Watched::Thread(forwarder.thread_number()));
    let flows = place.generator(ways, shape, setting.clock)?;
    let kept = (forwarder, place.clone());
    Ok(Box::new(TurnFlows { flows, watched, checked: 0, clients: Vec::new(), kept }))
}

impl TurnServer {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coturn => "coturn",
            Self::TurnRs => "turn-rs",
        }
    }

    /// The program, if it is installed.
    pub fn program(self, peers: &Path) -> Option<PathBuf> {
        let name = match self {
            Self::Coturn => "turnserver",
            Self::TurnRs => "turn-server",
        };
        find_program(&[peers.join("bin").join(name), Path::new("/usr/bin").join(name)])
    }

    /// Flows through it, or that it is not installed.
    ///
    /// # Errors
    ///
    /// When it is installed and does not work.
    pub fn entry(self, shape: DatagramShape, place: Place, setting: &Setting) -> Result<Entry> {
        let Some(program) = self.program(&setting.peers) else {
            return Ok((self.name(), Err(NOT_INSTALLED.to_owned())));
        };
        let contender = self.flows(&program, shape, place, setting).context(self.name())?;
        Ok((self.name(), Ok(contender)))
    }

    fn flows(
        self,
        program: &Path,
        shape: DatagramShape,
        place: Place,
        setting: &Setting,
    ) -> Result<Box<dyn Contender>> {
        let directory = TempDir::new().context("making a directory")?;
        // Neither can say which port it was given.
        let server = place.server()?;
        let mut command = Command::new(program);
        let file = directory.path().join("configuration");
        let text = self.configuration(server, place.relay()[1], directory.path());
        fs::write(&file, text)?;
        command.arg(if self == Self::Coturn { "-c" } else { "--config" }).arg(&file);
        let log = directory.path().join("log");
        let mut process = RelayProcess::start(command, Some(setting.relay_cpu), &log)?;
        process.wait_ready(|| place.client(server).ok()?.binding().ok())?;
        let (clients, ways) = match self {
            Self::Coturn => to_peers(server, shape, &place)?,
            Self::TurnRs => between_clients(server, shape, &place)?,
        };
        let flows = place.generator(ways, shape, setting.clock)?;
        let watched = place.watched(process.watched());
        let kept = (process, directory, place);
        Ok(Box::new(TurnFlows { flows, watched, checked: 0, clients, kept }))
    }

    fn configuration(self, server: SocketAddr, relayed: IpAddr, directory: &Path) -> String {
        let (name, password) = USER;
        match self {
            Self::Coturn => format!(
                "listening-ip={0}\nrelay-ip={relayed}\nlistening-port={1}\nrelay-threads=1\n\
                 lt-cred-mech\nuser={name}:{password}\nrealm={REALM}\nallow-loopback-peers\n\
                 no-cli\nno-tls\nno-dtls\nno-tcp\nno-multicast-peers\nsimple-log\n\
                 log-file=stdout\npidfile={2}/pid\nuserdb={2}/users\n",
                server.ip(),
                server.port(),
                directory.display(),
            ),
            Self::TurnRs => format!(
                "[server]\nrealm = \"{REALM}\"\nmax-threads = 1\n[[server.interfaces]]\n\
                 transport = \"udp\"\nlisten = \"{server}\"\nexternal = \"{server}\"\n\
                 idle-timeout = 3600\n[log]\nlevel = \"error\"\n[auth]\n\
                 [auth.static-credentials]\n{name} = \"{password}\"\n"
            ),
        }
    }
}

/// Flows between clients and peers of their own, by turns in either direction.
fn to_peers(
    server: SocketAddr,
    shape: DatagramShape,
    place: &Place,
) -> Result<(Vec<Client>, Vec<Way>)> {
    let (mut clients, mut ways) = (Vec::new(), Vec::new());
    for number in 0..shape.flows {
        let mut client = Client::new(server, place)?;
        let peer = place.socket(Side::Peers)?;
        client.bind(peer.local_addr()?)?;
        let (near, far) = (client.socket.try_clone()?, peer);
        ways.push(match number % 2 {
            0 => Way {
                sender: near,
                to: server,
                comes_from: client.relayed,
                sent_in: channel(),
                receiver: far,
                received_in: None,
            },
            _ => Way {
                sender: far,
                to: client.relayed,
                comes_from: server,
                sent_in: None,
                receiver: near,
                received_in: channel(),
            },
        });
        clients.push(client);
    }
    Ok((clients, ways))
}

/// Flows from client to client.
fn between_clients(
    server: SocketAddr,
    shape: DatagramShape,
    place: &Place,
) -> Result<(Vec<Client>, Vec<Way>)> {
    let (mut clients, mut ways) = (Vec::new(), Vec::new());
    for _ in 0..shape.flows {
        let (mut near, mut far) = (Client::new(server, place)?, Client::new(server, place)?);
        near.bind(far.relayed)?;
        far.bind(near.relayed)?;
        let (sender, receiver) = (near.socket.try_clone()?, far.socket.try_clone()?);
        let [sent_in, received_in] = [channel(), channel()];
        let (to, comes_from) = (server, server);
        ways.push(Way { sender, to, comes_from, sent_in, receiver, received_in });
        clients.extend([near, far]);
    }
    Ok((clients, ways))
}

impl Client {
    fn new(server: SocketAddr, place: &Place) -> Result<Self> {
        let mut client = place.client(server)?;
        let socket = client.duplicate_socket()?.context("a client without a socket")?;
        let relayed = client.allocate().context("allocating")?;
        Ok(Self { client, socket, relayed, peer: None })
    }

    fn bind(&mut self, peer: SocketAddr) -> Result<()> {
        self.client.bind(CHANNEL, peer).context("binding a channel")?;
        self.peer = Some(peer);
        Ok(())
    }

    /// Makes sure that nothing ends during a round.
    fn renew(&mut self) -> Result<()> {
        // The client waits for its answers; the generator, on the same socket, for nothing.
        self.socket.set_nonblocking(false)?;
        self.client.refresh(LIFETIME_S).context("refreshing")?;
        if let Some(peer) = self.peer {
            self.client.bind(CHANNEL, peer).context("binding a channel again")?;
        }
        self.socket.set_nonblocking(true)?;
        Ok(())
    }
}

fn channel() -> Option<ChannelNumber> {
    ChannelNumber::new(CHANNEL)
}

fn loopback() -> Result<UdpSocket> {
    bound(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// A socket in the calling thread's namespace.
fn bound(address: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0)).with_context(|| format!("a socket on {address}"))?;
    ensure!(socket.local_addr()?.port() != 0, "a socket without a port");
    Ok(socket)
}

//! TURN servers as contenders: the appliance, coturn and turn-rs, one thread each.
//!
//! Flows go from a client to a peer and from a peer to a client by turns, through a channel. turn-rs
//! has no ports for peers and relays between its clients alone; there the peer is a client as well,
//! and the flow comes in a channel too. A datagram is received once and sent once by each of them.

use crate::compare::appliance::{Appliance, Port};
use crate::compare::contender::{Contender, Entry, Schedule, Setting};
use crate::compare::figures::{Measure, Sample};
use crate::compare::process::{NOT_INSTALLED, RelayProcess, find_program};
use crate::datagrams::flow::{DatagramFlows, DatagramRound, DatagramShape, Way};
use crate::datagrams::forwarder::DatagramForwarder;
use crate::load::processor::Watched;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
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

/// A TURN server of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnServer {
    Coturn,
    TurnRs,
}

/// Flows, and what has to live as long as they.
#[derive(Debug)]
struct TurnFlows<K> {
    flows: DatagramFlows,
    watched: Watched,
    clients: Vec<Client>,
    _kept: K,
}

/// A client whose datagrams the generator sends and receives.
#[derive(Debug)]
struct Client {
    client: TurnClient,
    socket: UdpSocket,
    relayed: SocketAddr,
    peer: Option<SocketAddr>,
}

impl<K> Contender for TurnFlows<K> {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        self.clients.iter_mut().try_for_each(Client::renew)?;
        let round = self.flows.round(schedule.warm_up, schedule.measured, &self.watched)?;
        Ok(of_round(&round))
    }

    fn messages_checked(&self) -> u64 {
        self.flows.messages_checked()
    }
}

fn of_round(round: &DatagramRound) -> Sample {
    let messages = round.messages as f64;
    let forwarding_ns = round.spent.forwarding_ns as f64;
    let mut sample = Sample::from([
        (Measure::ProcessorMicrosecondsPerMessage, forwarding_ns / messages / 1e3),
        (Measure::MessagesPerSecond, messages / round.seconds),
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
    tier: UdpTier,
    shape: DatagramShape,
    setting: &Setting,
) -> Result<Box<dyn Contender>> {
    let directory = TempDir::new().context("making a directory")?;
    let users = directory.path().join("users");
    fs::write(&users, format!("{}:{}\n", USER.0, USER.1)).context("writing the users")?;
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600))?;
    let engine = format!("cores = 1\ncpus = [{}]", setting.relay_cpu);
    let management = format!(
        "cpu = {}\n[turn]\nlisten = [\"127.0.0.1:0\"]\nrealm = \"{REALM}\"\nusers_file = \
         \"{}\"\nallow_peers = [\"127.0.0.0/8\"]\ntier = \"{}\"",
        setting.generator_cpu,
        users.display(),
        tier.name(),
    );
    let appliance = Appliance::start_with(Port::IoUring, &engine, &management, setting)?;
    let status = appliance.document("/v1/status")?;
    let server = status["turn_listen"][0].as_str().context("an odd status")?;
    let (clients, ways) = to_peers(server.parse()?, shape)?;
    let flows = DatagramFlows::new(ways, shape, setting.clock)?;
    let watched = appliance.process.watched();
    let kept = (appliance, directory);
    Ok(Box::new(TurnFlows { flows, watched, clients, _kept: kept }))
}

/// The same flows through a thread that only forwards.
///
/// # Errors
///
/// When sockets or the thread cannot be made.
pub fn floor(shape: DatagramShape, setting: &Setting) -> Result<Box<dyn Contender>> {
    let (mut ways, mut routes) = (Vec::new(), Vec::new());
    for _ in 0..shape.flows {
        let (sender, between, receiver) = (loopback()?, loopback()?, loopback()?);
        let to = between.local_addr()?;
        routes.push((between, receiver.local_addr()?));
        ways.push(Way { sender, to, sent_in: None, receiver, received_in: None });
    }
    let forwarder = DatagramForwarder::start(routes, Some(setting.relay_cpu))?;
    let watched = Watched::Thread(forwarder.thread_number());
    let flows = DatagramFlows::new(ways, shape, setting.clock)?;
    Ok(Box::new(TurnFlows { flows, watched, clients: Vec::new(), _kept: forwarder }))
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
    pub fn entry(self, shape: DatagramShape, setting: &Setting) -> Result<Entry> {
        let Some(program) = self.program(&setting.peers) else {
            return Ok((self.name(), Err(NOT_INSTALLED.to_owned())));
        };
        let contender = self.flows(&program, shape, setting).context(self.name())?;
        Ok((self.name(), Ok(contender)))
    }

    fn flows(
        self,
        program: &Path,
        shape: DatagramShape,
        setting: &Setting,
    ) -> Result<Box<dyn Contender>> {
        let directory = TempDir::new().context("making a directory")?;
        // Neither can say which port it was given.
        let server = loopback()?.local_addr()?;
        let mut command = Command::new(program);
        let file = directory.path().join("configuration");
        fs::write(&file, self.configuration(server, directory.path()))?;
        command.arg(if self == Self::Coturn { "-c" } else { "--config" }).arg(&file);
        let log = directory.path().join("log");
        let mut process = RelayProcess::start(command, Some(setting.relay_cpu), &log)?;
        process.wait_ready(|| TurnClient::over_udp(server, USER).ok()?.binding().ok())?;
        let (clients, ways) = match self {
            Self::Coturn => to_peers(server, shape)?,
            Self::TurnRs => between_clients(server, shape)?,
        };
        let flows = DatagramFlows::new(ways, shape, setting.clock)?;
        let watched = process.watched();
        let kept = (process, directory);
        Ok(Box::new(TurnFlows { flows, watched, clients, _kept: kept }))
    }

    fn configuration(self, server: SocketAddr, directory: &Path) -> String {
        let (name, password) = USER;
        match self {
            Self::Coturn => format!(
                "listening-ip={0}\nrelay-ip={0}\nlistening-port={1}\nrelay-threads=1\n\
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
fn to_peers(server: SocketAddr, shape: DatagramShape) -> Result<(Vec<Client>, Vec<Way>)> {
    let (mut clients, mut ways) = (Vec::new(), Vec::new());
    for number in 0..shape.flows {
        let mut client = Client::new(server)?;
        let peer = loopback()?;
        client.bind(peer.local_addr()?)?;
        let (near, far) = (client.socket.try_clone()?, peer);
        ways.push(match number % 2 {
            0 => Way {
                sender: near,
                to: server,
                sent_in: channel(),
                receiver: far,
                received_in: None,
            },
            _ => Way {
                sender: far,
                to: client.relayed,
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
fn between_clients(server: SocketAddr, shape: DatagramShape) -> Result<(Vec<Client>, Vec<Way>)> {
    let (mut clients, mut ways) = (Vec::new(), Vec::new());
    for _ in 0..shape.flows {
        let (mut near, mut far) = (Client::new(server)?, Client::new(server)?);
        near.bind(far.relayed)?;
        far.bind(near.relayed)?;
        let (sender, receiver) = (near.socket.try_clone()?, far.socket.try_clone()?);
        let [sent_in, received_in] = [channel(), channel()];
        ways.push(Way { sender, to: server, sent_in, receiver, received_in });
        clients.extend([near, far]);
    }
    Ok((clients, ways))
}

impl Client {
    fn new(server: SocketAddr) -> Result<Self> {
        let mut client = TurnClient::over_udp(server, USER)?;
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
    let socket = UdpSocket::bind(("127.0.0.1", 0)).context("a socket on loopback")?;
    ensure!(socket.local_addr()?.port() != 0, "a socket without a port");
    Ok(socket)
}

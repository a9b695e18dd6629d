//! The TURN server of a scene, and what its counters say about who carried what.

use crate::scene::{End, Family, Scene};
use crate::support::appliance::{Appliance, PortName, Settings};
use crate::support::eventually;
use crate::support::process::{Ordinary, command, give_away};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// The one user.
pub(crate) const USER: (&str, &str) = ("alice", "wonderland");
/// What time-limited users are made from.
pub(crate) const SECRET: &str = "north";
pub(crate) const REALM: &str = "example.org";
/// Ports of a namespace of our own are ours.
const PORT: u16 = 3478;

/// Which tier the relay is to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Plain,
    Gso,
    /// The program on the interfaces of the namespaces; what it leaves goes as with `Gso`.
    Xdp,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gso => "gso",
            Self::Xdp => "xdp",
        }
    }
}

/// A running server. Dropped, it is killed.
pub(crate) struct Turn {
    pub(crate) appliance: Arc<Appliance>,
    tier: Tier,
    servers: [SocketAddr; 2],
    servers_over_tcp: [SocketAddr; 2],
    _ordinary: Option<Ordinary>,
    _files: TempDir,
}

impl Turn {
    /// One that clients of a scene can reach, and that can reach their peers.
    pub(crate) fn start(scene: &Scene, port: PortName, tier: Tier) -> Self {
        Self::start_with(scene, port, tier, 2)
    }

    /// As [`Turn::start`], with so many data cores.
    pub(crate) fn start_with(scene: &Scene, port: PortName, tier: Tier, cores: usize) -> Self {
        Self::start_of(scene, Settings::new(port, cores), tier)
    }

    /// As [`Turn::start`], with everything else as these settings say.
    pub(crate) fn start_of(scene: &Scene, settings: Settings, tier: Tier) -> Self {
        match scene {
            Scene::Loopback => Self::start_on_loopback(scene, settings, tier),
            Scene::Namespaces { .. } => Self::start_in_namespaces(scene, settings, tier),
        }
    }

    /// As an ordinary user, whoever the test is.
    fn start_on_loopback(scene: &Scene, settings: Settings, tier: Tier) -> Self {
        let ordinary = Ordinary::new();
        let files = TempDir::new_in(ordinary.directory.path()).unwrap();
        give_away(files.path());
        let settings = with_turn(settings, scene, tier, files.path())
            .with("turn", "listen = [\"127.0.0.1:0\", \"[::1]:0\"]")
            .with("turn", "listen_tcp = [\"127.0.0.1:0\", \"[::1]:0\"]");
        let appliance = Appliance::start_ordinary(&ordinary, &settings);
        Self::started(appliance, tier, Some(ordinary), files)
    }

    fn start_in_namespaces(scene: &Scene, settings: Settings, tier: Tier) -> Self {
        let files = TempDir::new().unwrap();
        let listen = ["10.78.1.1", "[fd78:1::1]", "10.78.2.1", "[fd78:2::1]"];
        let listen = listen.map(|address| format!("\"{address}:{PORT}\"")).join(", ");
        let settings = with_turn(settings, scene, tier, files.path())
            .with("turn", &format!("listen = [{listen}]"))
            .with("turn", &format!("listen_tcp = [{listen}]"))
            .with("turn", "relay_addresses = [\"10.78.1.1\", \"fd78:1::1\"]");
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("waystation.toml");
        fs::write(&file, settings.text()).unwrap();
        let state = directory.path().join("state");
        let program = crate::support::process::binary();
        // The environment that `command` cleans is handed down by `ip`.
        let plain = command(&program);
        let mut run = scene.relay_command(plain.get_program().as_ref());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => run.env(name, value),
                None => run.env_remove(name),
            };
        }
        run.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
        let appliance = Appliance::spawn(&mut run, directory, &state);
        Self::started(appliance, tier, None, files)
    }

    fn started(
        appliance: Appliance,
        tier: Tier,
        ordinary: Option<Ordinary>,
        files: TempDir,
    ) -> Self {
        let status = appliance.status();
        let addresses =
            |key: &str| [0, 1].map(|at| status[key][at].as_str().unwrap().parse().unwrap());
        let (servers, servers_over_tcp) = (addresses("turn_listen"), addresses("turn_listen_tcp"));
        let appliance = Arc::new(appliance);
        Self { appliance, tier, servers, servers_over_tcp, _ordinary: ordinary, _files: files }
    }

    /// Where clients ask.
    pub(crate) fn server(&self, family: Family) -> SocketAddr {
        self.servers[family.index()]
    }

    /// Where an end that has a network of its own asks: at the relay's address in that network.
    pub(crate) fn near(&self, end: End, family: Family) -> SocketAddr {
        let status = self.appliance.status();
        // As they were configured: both families on one side, then on the other.
        let place = 2 * usize::from(end == End::B) + family.index();
        status["turn_listen"][place].as_str().unwrap().parse().unwrap()
    }

    /// Where clients ask over TCP.
    pub(crate) fn server_over_tcp(&self, family: Family) -> SocketAddr {
        self.servers_over_tcp[family.index()]
    }

    /// The rows of the allocations that are left.
    pub(crate) fn rows(&self) -> Vec<Value> {
        self.appliance.document("/v1/udp")["udp"].as_array().unwrap().clone()
    }

    /// Asserts that so many datagrams at least were relayed there and back, and all by the tier. Of
    /// those to clients, so many at most went into streams, where they are no datagrams any more.
    /// Either way may be one to peers: two ends can have relayed addresses and use their own each.
    pub(crate) fn expect_carried(&self, least: u64, into_streams: u64) {
        let total = |counter: &str| self.appliance.total(counter);
        eventually(&format!("{least} datagrams there and back are counted"), || {
            let ways = ["turn_datagrams_to_peers", "turn_datagrams_to_clients"];
            (ways.map(total).iter().sum::<u64>() >= 2 * least).then_some(())
        });
        let (plain, trains) =
            (total("udp_datagrams_sent_plainly"), total("udp_datagrams_sent_in_trains"));
        // The program's are counted a second later.
        let offloaded = eventually("what XDP relays is counted", || {
            let offloaded = total("udp_datagrams_offloaded");
            ((self.tier == Tier::Xdp) == (offloaded > 0)).then_some(offloaded)
        });
        println!("{plain} datagrams one by one, {trains} in trains, {offloaded} by XDP");
        let (carried, sent_least) = (plain + trains + offloaded, 2 * least - into_streams);
        assert!(carried >= sent_least, "{carried} of {sent_least}");
        let rows = self.rows();
        match self.tier {
            // What has no channel, or comes back to the relay, goes over its sockets; and those who
            // had channels may have given up their allocations by now.
            Tier::Xdp => {}
            Tier::Plain | Tier::Gso => {
                let is_all = |row: &Value| row["tier"] == self.tier.name();
                assert!(rows.iter().all(is_all), "{rows:?}");
            }
        }
        match self.tier {
            Tier::Plain => assert_eq!(trains, 0),
            Tier::Gso => assert!(trains > 0, "no train was sent"),
            Tier::Xdp => {}
        }
    }
}

impl Turn {
    /// Asserts that so many datagrams at least were relayed between clients of this relay, whose
    /// packets the program has handed to their core: from one relayed address to another, nothing
    /// leaves the machine, so that user space relays it in any tier.
    pub(crate) fn expect_carried_between_clients(&self, least: u64) {
        eventually(&format!("{least} datagrams are counted"), || {
            let ways = ["turn_datagrams_to_peers", "turn_datagrams_to_clients"];
            let carried: u64 = ways.iter().map(|counter| self.appliance.total(counter)).sum();
            (carried >= 2 * least).then_some(())
        });
        assert_eq!(self.appliance.total("udp_datagrams_offloaded"), 0);
        // The program's verdicts are read once a second.
        let steered = eventually("the program has handed them to their core", || {
            let document = self.appliance.document("/v1/xdp");
            let verdicts = document["verdicts"].as_array().unwrap();
            let steered = verdicts.iter().find(|row| row["verdict"] == "steered").unwrap();
            steered["frames"].as_u64().filter(|frames| *frames >= least)
        });
        println!("the program has steered {steered} frames");
    }
}

fn with_turn(settings: Settings, scene: &Scene, tier: Tier, files: &Path) -> Settings {
    let secret_file = |name: &str, text: &str| {
        let path = files.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        give_away(&path);
        format!("{name}_file = \"{}\"", path.display())
    };
    let users = secret_file("users", &format!("{}:{}\n", USER.0, USER.1));
    let secrets = secret_file("secrets", &format!("{SECRET}\n"));
    let sockets = if tier == Tier::Xdp { Tier::Gso } else { tier };
    let settings = match tier {
        Tier::Xdp => settings.with("xdp", "mode = \"generic\""),
        Tier::Plain | Tier::Gso => settings,
    };
    settings
        .with("turn", &format!("realm = \"{REALM}\""))
        .with("turn", &users)
        .with("turn", &secrets)
        .with("turn", &format!("allow_peers = {}", scene.blocks()))
        .with("turn", &format!("tier = \"{}\"", sockets.name()))
}

/// Stops the appliance for a moment again and again, so that datagrams come to it in bursts, as they
/// do to a busy one, and leave in trains. Ends when dropped.
pub(crate) struct Pauses {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pauses {
    /// Shorter than any client waits for an answer.
    const STOPPED: Duration = Duration::from_millis(60);
    const RUNNING: Duration = Duration::from_millis(150);

    pub(crate) fn of(turn: &Turn) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, appliance) = (Arc::clone(&is_over), Arc::clone(&turn.appliance));
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                appliance.process.signal(Signal::STOP);
                std::thread::sleep(Self::STOPPED);
                appliance.process.signal(Signal::CONT);
                std::thread::sleep(Self::RUNNING);
            }
        });
        Self { is_over, thread: Some(thread) }
    }
}

impl Drop for Pauses {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

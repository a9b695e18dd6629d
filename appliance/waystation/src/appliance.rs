//! A whole appliance: data cores and management core from one configuration.

use crate::exit::Unmet;
use crate::floor;
use crate::own_addresses;
use anyhow::Context;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use waystation_astral::aead::AeadBackend;
use waystation_astral::aead::choice::{self, AeadChoice};
use waystation_astral::identity::SecretKey;
use waystation_engine::clock;
use waystation_engine::core::CoreLimits;
use waystation_engine::cores::{
    BoundEngine, Engine, EngineSettings, PortChoice, TurnListen, give_up_locked_memory,
};
use waystation_engine::port::{PortKind, PortLimits};
use waystation_management::a2al_sockets::{self, A2alSockets};
use waystation_management::config::{self, Config};
use waystation_management::confinement::Confinement;
use waystation_management::dht::DhtFiles;
use waystation_management::hand_over::{Given, TakeOver};
use waystation_management::log_levels::LogHooks;
use waystation_management::runtime::{
    Management, OnLifeSign, ReloadSource, RuntimeSettings, SharedSockets, bind_metrics,
};
use waystation_management::xdp::Xdp;
use waystation_tuning::inventory::{Cpus, nic_node};
use waystation_tuning::layout::{Wish, lay_out};
use waystation_tuning::machine::Machine;

/// A running appliance.
#[derive(Debug)]
pub(crate) struct Appliance {
    engine: Engine,
    management: Management,
    socket: PathBuf,
}

/// How privileges are given up.
pub(crate) type Confine = Box<dyn FnOnce() -> anyhow::Result<Confinement>>;

/// What is not in the configuration.
pub(crate) struct Surroundings {
    pub(crate) secret: SecretKey,
    pub(crate) socket: PathBuf,
    /// The key and the snapshot of the DHT's node, if there is to be one.
    pub(crate) dht: Option<DhtFiles>,
    /// Where registrations are kept over a restart, if anywhere.
    pub(crate) registrations: Option<PathBuf>,
    /// Where the floor of the machine is kept; absent: it is not asked for.
    pub(crate) floor: Option<PathBuf>,
    /// What the program that this one takes over from listens with, and the conversation with it.
    pub(crate) taking: Option<(Given, TakeOver)>,
    /// Whether a later program may take over from this one.
    pub(crate) hands_over: bool,
    /// Whether a service manager waits for signs of life.
    pub(crate) is_watched: bool,
    /// Gives up privileges, once everything is bound and before any other thread runs.
    pub(crate) confine: Option<Confine>,
    pub(crate) handle_signals: bool,
    /// How the configuration is read again, if it can be.
    pub(crate) reload: Option<ReloadSource>,
    /// The log, if it is the appliance's own.
    pub(crate) log: Option<LogHooks>,
    pub(crate) on_ready: Box<dyn FnOnce() + Send>,
    pub(crate) on_life_sign: OnLifeSign,
}

impl Appliance {
    /// Starts the data cores, then the management core. Listens when it returns.
    pub(crate) fn start(config: Config, around: Surroundings) -> anyhow::Result<Self> {
        let identity = around.secret.identity();
        let cpus = core_layout(&config);
        let management_cpu = config.management.cpu.or_else(|| management_cpu(&cpus));
        let aead = aead_choice(config.engine.aead)?;
        // Before there are data cores, so that nothing waits for it and nothing disturbs it.
        let floor_file = around.floor.filter(|_| config.engine.calibrate);
        let floor = floor_file.and_then(|file| floor::known(&file, aead.suite));
        let settings = EngineSettings {
            secret: around.secret,
            aead: aead.suite,
            listen: config.listen.addresses.clone(),
            cpus,
            port: port_choice(config.engine.port),
            port_limits: port_limits(&config),
            core_limits: core_limits(&config),
            snapshot: Arc::new(config::core_snapshot(&config, 0)),
            turn: config::turn_settings(&config),
            opaque: config::opaque_settings(&config),
        };
        let owners = settings.cpus.clone();
        let (given, take_over) = around.taking.unzip();
        let Given { listening, metrics, a2al } = given.unwrap_or_default();
        let mut bound = match take_over {
            Some(_) => BoundEngine::take_over(settings, listening)?,
            None => BoundEngine::bind(settings)?,
        };
        let metrics = bind_metrics(config.management.metrics_listen, metrics)?;
        // It needs capabilities, and its maps are written later by threads that have none.
        let a2al = a2al_sockets::bind_with(&config, a2al)?;
        let put_on = if take_over.is_some() { Xdp::take_over } else { Xdp::start };
        let dht = a2al.dht_addresses();
        let mut xdp = put_on(&config, &bound.turn_listen().udp, &dht, &owners);
        for (core, socket) in xdp.open_frame_sockets(&config) {
            bound.add_frame_socket(core, socket);
        }
        xdp.choose_among(&config, bound.turn_sockets().context("sockets cannot be shared")?);
        let hand_over = match around.hands_over {
            true => Some(shared(&bound, metrics.as_ref(), &a2al, around.is_watched)?),
            false => None,
        };
        let own_addresses = own_addresses::follow();
        let confinement = around.confine.map(|confine| confine()).transpose()?;
        let (engine, end) = bound.start()?;
        // The management thread inherits what this one has.
        give_up_locked_memory();
        if let Some(reason) = engine.port_reason() {
            tracing::warn!(reason, port = engine.port().name(), "io_uring is not used");
        }
        let (listen, turn_listen) = (engine.listen().to_vec(), engine.turn_listen().clone());
        let runtime = RuntimeSettings {
            config,
            cpu: management_cpu,
            identity,
            listen,
            turn_listen,
            socket: around.socket.clone(),
            dht: around.dht,
            registrations: around.registrations,
            version: env!("CARGO_PKG_VERSION"),
            aead,
            floor,
            confinement,
            metrics,
            xdp,
            a2al,
            handle_signals: around.handle_signals,
            reload: around.reload,
            log: around.log,
            own_addresses,
            hand_over,
            take_over,
            on_ready: around.on_ready,
            on_life_sign: around.on_life_sign,
        };
        // Without a management core nobody can stop the data cores in order; the process ends.
        let management = Management::start(runtime, end)?;
        Ok(Self { engine, management, socket: around.socket })
    }

    /// The addresses listened on.
    pub(crate) fn listen(&self) -> &[SocketAddr] {
        self.engine.listen()
    }

    /// The addresses of the TURN server.
    pub(crate) fn turn_listen(&self) -> &TurnListen {
        self.engine.turn_listen()
    }

    /// The port in use.
    pub(crate) fn port(&self) -> PortKind {
        self.engine.port()
    }

    /// The stats socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Closes everything and waits for it.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.management.stop();
        self.wait()
    }

    /// Waits until the management core ends, by a signal or by a failure.
    pub(crate) fn wait(self) -> anyhow::Result<()> {
        self.management.join().context("the appliance has failed")?;
        self.engine.join();
        Ok(())
    }
}

/// One more descriptor of everything that the next program is to have.
fn shared(
    bound: &BoundEngine,
    metrics: Option<&TcpListener>,
    a2al: &A2alSockets,
    is_watched: bool,
) -> anyhow::Result<SharedSockets> {
    let share = || -> io::Result<SharedSockets> {
        Ok(SharedSockets {
            listening: bound.listening()?,
            metrics: metrics.map(TcpListener::try_clone).transpose()?,
            dht: a2al.dht.iter().map(UdpSocket::try_clone).collect::<io::Result<_>>()?,
            hub: a2al.hub.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?,
            is_watched,
        })
    };
    share().context("sockets cannot be shared with the next program")
}

/// The CPU of each data core. The first CPU is left to the kernel and the management core where
/// there are others, and threads of one core are one data core; more cores than CPUs share them.
pub(crate) fn core_layout(config: &Config) -> Vec<Option<usize>> {
    let engine = &config.engine;
    let (machine, allowed) = (Machine::this(), allowed_cpus());
    let wish = Wish {
        allowed: Some(&allowed),
        node: nic_node(&machine),
        cores: Some(engine.cores).filter(|cores| *cores > 0),
        named: &engine.cpus,
    };
    let layout = lay_out(&Cpus::read(&machine), wish);
    if layout.data.is_empty() {
        return vec![None; engine.cores.max(1)];
    }
    layout.data.into_iter().map(Some).collect()
}

fn management_cpu(data: &[Option<usize>]) -> Option<usize> {
    let allowed = allowed_cpus();
    allowed.iter().copied().find(|&cpu| !data.contains(&Some(cpu))).or(allowed.first().copied())
}

/// The CPUs that this process may run on; a plan is made for the same.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

fn port_choice(choice: config::PortChoice) -> PortChoice {
    match choice {
        config::PortChoice::Auto => PortChoice::Auto,
        config::PortChoice::IoUring => PortChoice::Exactly(PortKind::IoUring),
        config::PortChoice::Epoll => PortChoice::Exactly(PortKind::Epoll),
    }
}

/// Measures what this program was built with, on the thread that starts everything else, and
/// chooses.
pub(crate) fn aead_choice(forced: Option<AeadBackend>) -> anyhow::Result<AeadChoice> {
    let costs = choice::measure(clock::now_ns);
    let choice = AeadChoice::of(forced, costs).map_err(|why| {
        let named = forced.map_or("auto", AeadBackend::name);
        Unmet(format!("engine.aead = \"{named}\" cannot be had: {why}"))
    })?;
    tracing::info!(suite = %choice.suite, forced = choice.forced, "records are sealed by");
    Ok(choice)
}

fn port_limits(config: &Config) -> PortLimits {
    let engine = &config.engine;
    let links = engine.links_max + engine.half_open_max + engine.sockets_max;
    let streams = links + config.turn.streams_room();
    PortLimits {
        receive_buffers: u16::try_from(engine.receive_buffers).unwrap_or(u16::MAX),
        receive_buffer_bytes: u32::try_from(engine.receive_buffer_size.as_u64())
            .unwrap_or(u32::MAX),
        streams: u32::try_from(streams).unwrap_or(u32::MAX),
    }
}

fn core_limits(config: &Config) -> CoreLimits {
    let window_bytes = config.relay.session_window.as_u64();
    CoreLimits {
        window_bytes: u32::try_from(window_bytes).unwrap_or(u32::MAX),
        queue_bytes: config.engine.queue_memory.as_usize(),
        block_bytes: config.engine.block_memory.as_usize(),
    }
}

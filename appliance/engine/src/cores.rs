//! Starts and stops the data cores: one pinned thread each, listeners shared by address.
//!
//! Called by the program on its main thread at start-up and shutdown only. Every core has its own
//! listening socket on each address (`SO_REUSEPORT`), so the kernel spreads connections and no core
//! waits for another to accept.

mod listening;
mod turn_sockets;

pub use listening::{Listening, ListeningSockets, Shared};

use crate::control::{Command, Report};
use crate::core::{
    CoreError, CoreLimits, CoreParts, DataCore, OpaqueSettings, StreamLimits, TurnParts,
};
use crate::limits::TIMER_SLACK_NS;
use crate::management_end::{CoreEnd, ManagementEnd};
use crate::mesh::{self, MeshEnd};
use crate::port::datagrams::UdpTier;
use crate::port::epoll::EpollPort;
use crate::port::frames::FrameSocket;
use crate::port::uring::{UringError, UringPort};
use crate::port::waker::Waker;
use crate::port::{Port, PortKind, PortLimits};
use crate::snapshot::CoreSnapshot;
use rustix::thread::{
    CapabilitySet, CapabilitySets, CpuSet, capabilities, sched_getaffinity, set_capabilities,
    set_current_timer_slack,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use waystation_astral::aead::AeadSuite;
use waystation_astral::identity::SecretKey;
use waystation_relay::ids::CoreId;
use waystation_turn::server::{ConfigError, ServerConfig};

/// Connections the kernel keeps for a listener that is behind.
const LISTEN_BACKLOG: i32 = 4096;

/// Which port to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChoice {
    /// io_uring where it works, else epoll.
    Auto,
    /// Exactly this one.
    Exactly(PortKind),
}

/// What the engine is made of.
#[derive(Debug)]
pub struct EngineSettings {
    pub secret: SecretKey,
    /// What seals and opens the records of all links.
    pub aead: AeadSuite,
    pub listen: Vec<SocketAddr>,
    /// One data core per entry, pinned to that CPU if there is one.
    pub cpus: Vec<Option<usize>>,
    pub port: PortChoice,
    pub port_limits: PortLimits,
    pub core_limits: CoreLimits,
    /// What every core starts with.
    pub snapshot: Arc<CoreSnapshot>,
    /// A TURN server, if there is to be one; the snapshot has its part for it.
    pub turn: Option<TurnSettings>,
    /// Opaque UDP sessions, if there are to be any.
    pub opaque: Option<OpaqueSettings>,
}

/// A TURN server over all cores.
#[derive(Clone, Debug)]
pub struct TurnSettings {
    /// Where clients send to.
    pub listen: Vec<SocketAddr>,
    /// Where clients connect to.
    pub listen_tcp: Vec<SocketAddr>,
    /// How many of them may, on each core.
    pub stream_limits: StreamLimits,
    /// The ports of each relayed address; cores get equal shares of them.
    pub server: ServerConfig,
    /// Relayed addresses that others know by another one: that one, and the one of this machine.
    pub behind: Vec<(IpAddr, IpAddr)>,
    /// The best way datagrams may be sent.
    pub tier: UdpTier,
}

/// The addresses of a TURN server, with the ports that the kernel chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnListen {
    /// Where clients send datagrams to.
    pub udp: Vec<SocketAddr>,
    /// Where clients connect to.
    pub tcp: Vec<SocketAddr>,
}

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    /// A relayed address is none of this machine's.
    #[error("cannot relay from {address}: {source}")]
    Relay { address: IpAddr, source: io::Error },
    /// There are too few relayed ports to give each core one.
    #[error("{ports} relayed ports are too few for {cores} data cores; two for each at least")]
    RelayedPorts { ports: usize, cores: usize },
    /// What is said of the TURN server cannot be.
    #[error("the TURN server cannot be configured so: {0}")]
    Turn(ConfigError),
    /// io_uring was demanded and cannot be had.
    #[error("engine.port = \"io_uring\" cannot be had: {0}")]
    Uring(#[from] UringError),
    /// The kernel gave no event descriptor or thread.
    #[error("cannot start data core {core}: {source}")]
    Start { core: CoreId, source: io::Error },
    /// No data core was asked for.
    #[error("at least one data core is needed")]
    NoCores,
}

/// The running data cores.
#[derive(Debug)]
pub struct Engine {
    threads: Vec<JoinHandle<()>>,
    listen: Vec<SocketAddr>,
    turn_listen: TurnListen,
    port: PortKind,
    port_reason: Option<String>,
}

/// Cores that have everything they need privileges for, and do not run yet.
#[derive(Debug)]
pub struct BoundEngine {
    settings: EngineSettings,
    listen: Vec<SocketAddr>,
    turn_listen: TurnListen,
    sockets: ListeningSockets,
    /// Without sockets, and with the last core's first.
    turn_parts: Vec<TurnParts>,
    /// Sockets that frames come by, of each core.
    frames: Vec<Vec<FrameSocket>>,
    /// Whether cores wait to be told to begin.
    is_held: bool,
}

impl BoundEngine {
    /// Binds every address that is listened on. No thread runs afterwards, so the caller can give up
    /// privileges for all of them.
    ///
    /// # Errors
    /// Whatever cannot be bound.
    pub fn bind(settings: EngineSettings) -> Result<Self, EngineError> {
        Self::bind_with(settings, ListeningSockets::default(), false)
    }

    /// As [`Self::bind`], with the sockets of another process where it has given some. Its cores
    /// serve nobody before [`Command::Begin`].
    ///
    /// # Errors
    /// Whatever cannot be bound.
    pub fn take_over(
        settings: EngineSettings,
        given: ListeningSockets,
    ) -> Result<Self, EngineError> {
        Self::bind_with(settings, given, true)
    }

    fn bind_with(
        mut settings: EngineSettings,
        mut given: ListeningSockets,
        is_held: bool,
    ) -> Result<Self, EngineError> {
        let count = settings.cpus.len();
        if count == 0 {
            return Err(EngineError::NoCores);
        }
        let mut sockets = ListeningSockets {
            links: bind_all(&settings.listen, &mut given.links, count)?,
            ..ListeningSockets::default()
        };
        let turn_parts = match settings.turn.take() {
            Some(turn) => turn_sockets::prepare(&turn, count, given, &mut sockets)?,
            None => Vec::new(),
        };
        turn_sockets::check_opaque(settings.opaque.as_ref())?;
        let listen = actual(&sockets.links)?;
        let turn_listen =
            TurnListen { udp: actual(&sockets.turn_udp)?, tcp: actual(&sockets.turn_tcp)? };
        let frames = (0..count).map(|_| Vec::new()).collect();
        Ok(Self { settings, listen, turn_listen, sockets, turn_parts, frames, is_held })
    }

    /// One more descriptor of everything that is listened with, for the process that will take over
    /// from this one.
    ///
    /// # Errors
    /// The kernel's refusal of a descriptor.
    pub fn listening(&self) -> io::Result<ListeningSockets> {
        self.sockets.share()
    }

    /// One more descriptor of each socket that TURN clients send datagrams to.
    ///
    /// # Errors
    /// The kernel's refusal of a descriptor.
    pub fn turn_sockets(&self) -> io::Result<Vec<Listening<UdpSocket>>> {
        self.sockets.turn_udp.iter().map(Listening::share).collect()
    }

    /// The addresses that TURN clients send to.
    pub fn turn_listen(&self) -> &TurnListen {
        &self.turn_listen
    }

    /// Gives a core a socket that frames come by.
    pub fn add_frame_socket(&mut self, core: CoreId, socket: FrameSocket) {
        if let Some(frames) = self.frames.get_mut(core.index()) {
            frames.push(socket);
        }
    }

    /// Starts all cores and returns the management core's end of their rings. Which port they use is
    /// found out here, with the privileges that are left, since rings are made with those too.
    ///
    /// # Errors
    /// Whatever keeps a core from starting; none runs then.
    pub fn start(self) -> Result<(Engine, ManagementEnd), EngineError> {
        let Self { settings, listen, turn_listen, sockets, mut turn_parts, frames, is_held } = self;
        let count = settings.cpus.len();
        let listeners = listening::by_core(sockets.links, count);
        let turn_tcp = listening::by_core(sockets.turn_tcp, count);
        let turn_udp = listening::by_core(sockets.turn_udp, count);
        let (port, port_reason) = choose_port(settings.port)?;
        let start_error = |source| EngineError::Start { core: CoreId(0), source };
        let wakers: Vec<Waker> =
            (0..count).map(|_| Waker::new()).collect::<io::Result<_>>().map_err(start_error)?;
        let meshes = mesh::connect(&wakers);
        let (management, ends) = ManagementEnd::new(wakers.clone()).map_err(start_error)?;
        let mut threads = Vec::with_capacity(count);
        let rings = meshes.into_iter().zip(ends).zip(wakers).zip(&settings.cpus);
        let sockets = listeners.into_iter().zip(turn_tcp).zip(turn_udp).zip(frames);
        for (ring, (((listeners, turn_tcp), turn_udp), frames)) in rings.zip(sockets) {
            let (((mesh, end), waker), &cpu) = ring;
            let core = mesh.core();
            let turn = turn_parts.pop();
            let turn = turn.map(|it| TurnParts { sockets: turn_udp, listeners: turn_tcp, ..it });
            let seed = CoreSeed {
                secret: settings.secret.duplicate(),
                aead: settings.aead,
                limits: settings.core_limits,
                snapshot: Arc::clone(&settings.snapshot),
                port_limits: settings.port_limits,
                listeners,
                is_held,
                turn,
                opaque: settings.opaque.clone(),
                frames,
                mesh,
                end,
                waker,
                cpu,
                port,
            };
            let thread = std::thread::Builder::new()
                .name(format!("data-{core}"))
                .spawn(move || seed.run())
                .map_err(|source| EngineError::Start { core, source })?;
            threads.push(thread);
        }
        Ok((Engine { threads, listen, turn_listen, port, port_reason }, management))
    }
}

impl Engine {
    /// The addresses listened on, with the ports the kernel chose.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// The addresses of the TURN server.
    pub fn turn_listen(&self) -> &TurnListen {
        &self.turn_listen
    }

    /// The port in use.
    pub fn port(&self) -> PortKind {
        self.port
    }

    /// Why it is not the preferred one.
    pub fn port_reason(&self) -> Option<&str> {
        self.port_reason.as_deref()
    }

    /// Waits until every core has ended; they do so on [`Command::Shutdown`].
    pub fn join(self) {
        for thread in self.threads {
            // A core that panicked has aborted the process.
            let _ = thread.join();
        }
    }
}

/// Tells every core to close everything and end.
pub fn shut_down(management: &ManagementEnd) {
    for core in 0..management.cores() {
        let core = CoreId(u16::try_from(core).unwrap_or(u16::MAX));
        let mut command = Command::Shutdown;
        // A ring that is full is being worked through; the core makes room within a turn.
        while let Err(back) = management.send(core, command) {
            command = back;
            std::thread::yield_now();
        }
    }
}

fn choose_port(choice: PortChoice) -> Result<(PortKind, Option<String>), EngineError> {
    match choice {
        PortChoice::Exactly(PortKind::Epoll) => Ok((PortKind::Epoll, None)),
        PortChoice::Exactly(PortKind::IoUring) => {
            crate::port::probe::probe()?;
            Ok((PortKind::IoUring, None))
        }
        PortChoice::Auto => match crate::port::probe::probe() {
            Ok(()) => Ok((PortKind::IoUring, None)),
            Err(error) => Ok((PortKind::Epoll, Some(error.to_string()))),
        },
    }
}

/// Binds every address once per core, but for those that another process has given.
fn bind_all(
    addresses: &[SocketAddr],
    given: &mut Vec<Listening<TcpListener>>,
    cores: usize,
) -> Result<Vec<Listening<TcpListener>>, EngineError> {
    let mut bound = Vec::with_capacity(addresses.len());
    for &address in addresses {
        if let Some(listening) = listening::take(given, address, cores) {
            bound.push(listening);
            continue;
        }
        let error = |source| EngineError::Listen { address, source };
        // Without sharing first, so that another program on the address is an error, not a partner.
        drop(bind(address, false).map_err(error)?);
        let mut actual = address;
        let mut sockets = Vec::with_capacity(cores);
        for _ in 0..cores {
            let listener = bind(actual, true).map_err(error)?;
            actual = listener.local_addr().map_err(error)?;
            sockets.push(listener);
        }
        bound.push(Listening { wanted: address, sockets });
    }
    Ok(bound)
}

/// The addresses with the ports that the kernel chose.
fn actual<S: listening::Shared>(
    listening: &[Listening<S>],
) -> Result<Vec<SocketAddr>, EngineError> {
    listening.iter().map(Listening::actual).collect()
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    if shared {
        socket.listen(LISTEN_BACKLOG)?;
        socket.set_nonblocking(true)?;
    }
    Ok(socket.into())
}

/// Everything a core's thread takes along.
struct CoreSeed {
    secret: SecretKey,
    aead: AeadSuite,
    limits: CoreLimits,
    snapshot: Arc<CoreSnapshot>,
    port_limits: PortLimits,
    listeners: Vec<TcpListener>,
    is_held: bool,
    turn: Option<TurnParts>,
    opaque: Option<OpaqueSettings>,
    frames: Vec<FrameSocket>,
    mesh: MeshEnd,
    end: CoreEnd,
    waker: Waker,
    cpu: Option<usize>,
    port: PortKind,
}

impl CoreSeed {
    fn run(self) {
        let core = self.mesh.core();
        let reports = Arc::clone(&self.end.reports);
        let doorbell = Arc::clone(&self.end.doorbell);
        let error = self.run_port().err();
        // Nobody reads the ring any more if the program is ending.
        let _ = reports.push(Report::Stopped { core, error });
        doorbell.ring();
    }

    fn run_port(self) -> Result<(), String> {
        let cpu = self.cpu.and_then(pin);
        // Without it the kernel ends waits later than asked for; a core works all the same.
        let _ = set_current_timer_slack(TIMER_SLACK_NS);
        let core = self.mesh.core();
        match self.port {
            PortKind::IoUring => {
                let port = UringPort::new(self.waker.clone(), self.port_limits)
                    .map_err(|error| format!("data core {core}: {error}"))?;
                self.run_core(port, cpu)
            }
            PortKind::Epoll => {
                let port = EpollPort::new(self.waker.clone(), self.port_limits)
                    .map_err(|error| format!("data core {core}: {error}"))?;
                self.run_core(port, cpu)
            }
        }
        .map_err(|error| error.to_string())
    }

    fn run_core<P: Port>(self, port: P, cpu: Option<usize>) -> Result<(), CoreError> {
        give_up_locked_memory();
        let parts = CoreParts {
            secret: self.secret,
            aead: self.aead,
            limits: self.limits,
            snapshot: self.snapshot,
            mesh: self.mesh,
            management: self.end,
            cpu,
            turn: self.turn,
            opaque: self.opaque,
            frames: self.frames,
        };
        let core = match self.is_held {
            true => DataCore::new_held(port, self.listeners, parts)?,
            false => DataCore::new(port, self.listeners, parts)?,
        };
        core.run()
    }
}

/// Gives up, on the calling thread, the capability that makes rings count against no limit on locked
/// memory. A thread needs it no longer once it has made its ring, or if it makes none.
pub fn give_up_locked_memory() {
    let Ok(has) = capabilities(None) else { return };
    let lock = CapabilitySet::IPC_LOCK;
    let (effective, permitted) = (has.effective - lock, has.permitted - lock);
    let sets = CapabilitySets { effective, permitted, inheritable: has.inheritable - lock };
    // Nobody is refused to have less.
    let _ = set_capabilities(None, sets);
}

/// Pins the calling thread to a CPU. `None`: it runs elsewhere, whatever the call said.
pub fn pin(cpu: usize) -> Option<usize> {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
    let set: CpuSet = sched_getaffinity(None).ok()?;
    (set.count() == 1 && set.is_set(cpu)).then_some(cpu)
}

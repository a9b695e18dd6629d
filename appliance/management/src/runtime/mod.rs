//! The management thread: drains what the data cores report, lets the node decide, answers the
//! stats socket, and keeps time for all of it.
//!
//! Owns the thread `management`, its tokio runtime and the management end of the rings. Started and
//! stopped by the program. It never blocks on a data core: a full command ring makes commands wait
//! here, an answer that does not come in time is answered without.

use crate::a2al_sockets::{self, A2alSockets};
use crate::accounts::{AccountSettings, Accounts};
use crate::clock::{self, Moment};
use crate::config::{self, Config};
use crate::confinement::Confinement;
use crate::dht::{Dht, DhtError, DhtFiles};
use crate::dialing::{DialSettings, Dialer};
use crate::documents::{CoreCapacity, Operations, Readiness, StatusExtra};
use crate::floor_file::KnownFloor;
use crate::gateway::GatewayCounts;
use crate::hand_over::{self, ChannelError, Step, TakeOver};
use crate::hub::SignalHub;
use crate::journal::Journal;
use crate::limits::{COMMAND_RETRY_PAUSE, STOP_TIMEOUT};
use crate::log_levels::{LogHooks, LogLevels};
use crate::node::{Node, NodeSettings, QueryCounts};
use crate::observations::Observations;
use crate::recent::Recent;
use crate::registrations_file::RegistrationsFile;
use crate::resident::resident_bytes;
use crate::same_core::SameCoreShares;
use crate::stats_socket::{
    self, BindError, Document, ListingRequest, StatsLimits, StatsRequest, StatsServer,
};
use crate::xdp::Xdp;
use draining::Draining;
use handing_over::HandingOver;
use heartbeat::Heartbeat;
use moving::Moves;
use opaque::OpaqueSessions;
use orders::{Closing, DialedByHand};
use reloading::PendingReload;
use ring::rand::{SecureRandom, SystemRandom};
use rounds::{ListingRound, Round};
use services::Services;
use signals::{Signals, Wish};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use taking_over::{TakingOver, TakingUp};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use traffic::TrafficRound;
use waystation_astral::aead::choice::AeadChoice;
use waystation_astral::identity::Identity;
use waystation_engine::control::Command;
use waystation_engine::cores::{TurnListen, pin};
use waystation_engine::management_end::ManagementEnd;
use waystation_engine::statistics::CoreStatistics;
use waystation_relay::drop_reason::DropCounters;
use waystation_relay::ids::{CoreId, LinkTag};

mod draining;
mod governing;
mod handing_over;
mod heartbeat;
mod links_over;
mod logging;
mod moving;
mod opaque;
mod orders;
mod own_addresses;
mod reloading;
mod reports;
mod rounds;
mod services;
mod signals;
mod taking_over;
mod traffic;
mod xdp;

pub use handing_over::SharedSockets;
pub use heartbeat::{LifeSign, OnLifeSign};
pub use own_addresses::OwnAddresses;
pub use reloading::{ReloadSource, ReloadStage};

/// What the management thread is made of.
pub struct RuntimeSettings {
    pub config: Config,
    /// The CPU to run on, if any.
    pub cpu: Option<usize>,
    pub identity: Identity,
    pub listen: Vec<SocketAddr>,
    /// The addresses of the TURN server.
    pub turn_listen: TurnListen,
    /// Where the stats socket is made.
    pub socket: PathBuf,
    /// What the program has of the DHT's node; absent: there is none.
    pub dht: Option<DhtFiles>,
    /// Where registrations are kept over a restart; absent: nowhere.
    pub registrations: Option<PathBuf>,
    pub version: &'static str,
    /// What the data cores seal with, for the status.
    pub aead: AeadChoice,
    /// What efficiency is told against, if that is known.
    pub floor: Option<KnownFloor>,
    /// What the program has given up.
    pub confinement: Option<Confinement>,
    /// A TCP address that serves metrics, bound already: the port may be a privileged one.
    pub metrics: Option<TcpListener>,
    /// The XDP program, if it is at work.
    pub xdp: Xdp,
    /// What the DHT's node and the signalling hub listen with, likewise.
    pub a2al: A2alSockets,
    /// Whether `SIGINT` and `SIGTERM` stop the program.
    pub handle_signals: bool,
    /// How the configuration is read again; absent: it is not.
    pub reload: Option<ReloadSource>,
    /// The log, if it is this program's.
    pub log: Option<LogHooks>,
    /// How addresses of this machine that come and go are learnt of; absent: with reloads alone.
    pub own_addresses: Option<OwnAddresses>,
    /// What the next process is to have of this one; absent: there is to be none.
    pub hand_over: Option<SharedSockets>,
    /// The process that this one takes over from, if it was started for that.
    pub take_over: Option<TakeOver>,
    /// Called once, when every core serves.
    pub on_ready: Box<dyn FnOnce() + Send>,
    /// Told once a second that every core is alive, unless one is not, and of the end.
    pub on_life_sign: OnLifeSign,
}

impl std::fmt::Debug for RuntimeSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuntimeSettings").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Why the management thread cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The stats socket cannot be made.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// The metrics address cannot be listened on.
    #[error("cannot serve metrics on {address}: {source}")]
    Metrics { address: SocketAddr, source: io::Error },
    /// The DHT's node cannot be.
    #[error(transparent)]
    Dht(#[from] DhtError),
    /// The kernel gave no thread, runtime or signal.
    #[error("cannot start the management core: {0}")]
    Start(#[source] io::Error),
    /// Another process was to hand over.
    #[error("nothing was taken over: {0}")]
    TakeOver(#[from] ChannelError),
    /// A data core ended although nobody asked it to.
    #[error("data core {core} has stopped: {error}")]
    CoreStopped { core: CoreId, error: String },
}

/// The running management thread.
#[derive(Debug)]
pub struct Management {
    thread: JoinHandle<Result<(), RuntimeError>>,
    stop: Arc<Notify>,
}

impl Management {
    /// Starts the thread. Returns when the stats socket is there.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    pub fn start(settings: RuntimeSettings, end: ManagementEnd) -> Result<Self, RuntimeError> {
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let (started, outcome) = std_mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("management".to_owned())
            .spawn(move || run(settings, end, &stopped, &started))
            .map_err(RuntimeError::Start)?;
        match outcome.recv() {
            Ok(()) => Ok(Self { thread, stop }),
            // The thread ended before it had started, and says why.
            Err(_closed) => match thread.join() {
                Ok(Err(error)) => Err(error),
                Ok(Ok(())) | Err(_) => Err(RuntimeError::Start(io::ErrorKind::Other.into())),
            },
        }
    }

    /// Asks the data cores to close everything and ends.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// Waits until the thread has ended.
    ///
    /// # Errors
    /// [`RuntimeError::CoreStopped`] when a data core failed.
    pub fn join(self) -> Result<(), RuntimeError> {
        // A thread that panicked has aborted the process.
        self.thread.join().unwrap_or(Ok(()))
    }
}

fn run(
    settings: RuntimeSettings,
    end: ManagementEnd,
    stop: &Notify,
    started: &std_mpsc::Sender<()>,
) -> Result<(), RuntimeError> {
    if let Some(cpu) = settings.cpu
        && pin(cpu).is_none()
    {
        tracing::warn!(cpu, "the management core could not be pinned");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RuntimeError::Start)?;
    runtime.block_on(serve(settings, end, stop, started))
}

async fn serve(
    mut settings: RuntimeSettings,
    mut end: ManagementEnd,
    stop: &Notify,
    started: &std_mpsc::Sender<()>,
) -> Result<(), RuntimeError> {
    let socket = settings.socket.clone();
    let (listener, taking_over) = match settings.take_over.take() {
        None => (stats_socket::bind(&socket)?, None),
        Some(take_over) => {
            let (listener, aside) = stats_socket::bind_aside(&socket)?;
            let program = take_over.program.clone();
            let channel = take_over.channel().map_err(RuntimeError::Start)?;
            (listener, Some(TakingOver { channel, aside, program }))
        }
    };
    let metrics = settings.metrics.take().map(tokio::net::TcpListener::from_std).transpose();
    let metrics = metrics.map_err(RuntimeError::Start)?;
    let hearing = end.take_hearing().ok_or(RuntimeError::Start(io::ErrorKind::NotFound.into()))?;
    let doorbell = pipe::Receiver::from_owned_fd(hearing).map_err(RuntimeError::Start)?;
    let mut signals = Signals::new(settings.handle_signals).map_err(RuntimeError::Start)?;
    let (server, requests) = stats_socket::channel(StatsLimits::default());
    let (steps, hand_over_steps) = mpsc::channel(1);
    let hand_over = settings.hand_over.is_some().then(|| hand_over::socket_of(&socket));
    let (ours, is_ours) = watch::channel(taking_over.is_none());
    let mut core = ManagementCore::new(settings, end, ours);
    core.taking_over = taking_over;
    if core.taking_over.is_none() {
        core.begin_services()?;
    }
    let serving = serve_stats(server, listener, metrics, is_ours.clone());
    let handing_over = serve_hand_over(hand_over, steps, is_ours);
    // Whoever started this thread waits for nothing else.
    let _ = started.send(());
    let outcome = tokio::select! {
        outcome = core.run(&doorbell, (requests, hand_over_steps), &mut signals, stop) => outcome,
        () = serving => Ok(()),
        () = handing_over => Ok(()),
    };
    core.remove_sockets();
    outcome
}

/// Listens on the address that serves metrics, if there is to be one, with another process's socket
/// if it has given one.
///
/// # Errors
/// [`RuntimeError::Metrics`].
pub fn bind_metrics(
    address: Option<SocketAddr>,
    mut given: Vec<TcpListener>,
) -> Result<Option<TcpListener>, RuntimeError> {
    let Some(address) = address else { return Ok(None) };
    if let Some((listener, _)) = a2al_sockets::take(&mut given, address, TcpListener::local_addr) {
        return Ok(Some(listener));
    }
    let failed = |source| RuntimeError::Metrics { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Some(listener))
}

async fn serve_stats(
    server: StatsServer,
    listener: tokio::net::UnixListener,
    metrics: Option<tokio::net::TcpListener>,
    is_ours: watch::Receiver<bool>,
) {
    tokio::select! {
        never = server.serve_socket(listener) => match never {},
        () = serve_metrics(&server, metrics, is_ours) => {}
    }
}

/// Serves metrics for as long as they are this process's to serve.
async fn serve_metrics(
    server: &StatsServer,
    metrics: Option<tokio::net::TcpListener>,
    mut is_ours: watch::Receiver<bool>,
) {
    if let Some(listener) = metrics
        && is_ours.wait_for(|ours| *ours).await.is_ok()
    {
        tokio::select! {
            never = server.serve_metrics(listener) => match never {},
            _ = is_ours.wait_for(|ours| !*ours) => {}
        }
    }
    std::future::pending().await
}

/// Lets another process take over, once, for as long as there is something to hand over.
async fn serve_hand_over(
    path: Option<PathBuf>,
    steps: mpsc::Sender<Step>,
    mut is_ours: watch::Receiver<bool>,
) {
    if let Some(path) = path
        && is_ours.wait_for(|ours| *ours).await.is_ok()
    {
        match hand_over::serving::bind(&path) {
            Ok(listener) => hand_over::serving::serve(listener, steps.clone()).await,
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "this process cannot be upgraded, but restarted");
            }
        }
    }
    std::future::pending().await
}

/// Everything the thread keeps between two events.
struct ManagementCore {
    end: ManagementEnd,
    node: Node,
    dialer: Dialer,
    dht: Option<Dht>,
    hub: Option<SignalHub>,
    /// Taken up once every core serves.
    dial_settings: Option<DialSettings>,
    /// What is begun once this process serves.
    services: Option<Services>,
    observations: Observations,
    extra: StatusExtra,
    on_ready: Option<Box<dyn FnOnce() + Send>>,
    heartbeat: Heartbeat,
    random: SystemRandom,
    registrations: Option<RegistrationsFile>,
    /// Commands that found a full ring, in order.
    backlog: VecDeque<(CoreId, Command)>,
    decided: Vec<(CoreId, Command)>,
    /// Blocks to recycle, by core.
    spare: Vec<Option<Box<CoreStatistics>>>,
    /// The round of statistics under way.
    round: Option<Round>,
    /// What the next round is for.
    waiting: Vec<StatsRequest>,
    interval_due: bool,
    listing: Option<ListingRound>,
    listings: VecDeque<ListingRequest>,
    recent: Recent,
    traffic_round: Option<TrafficRound>,
    shares: SameCoreShares,
    /// Whether a core had more to report than one round takes.
    more_reports: bool,
    stopped_cores: usize,
    failure: Option<RuntimeError>,
    /// What is in force.
    config: Config,
    /// Connections that a core has had room for since the start.
    room_max: usize,
    /// Of the newest snapshot.
    epoch: u64,
    reload_source: Option<ReloadSource>,
    reload: Option<PendingReload>,
    reload_again: bool,
    log: LogLevels,
    log_told_at: Moment,
    own_addresses: Option<OwnAddresses>,
    accounts: Accounts,
    journal: Journal,
    /// Registered nodes, and links on which somebody has subscribed: they are kept.
    registered: BTreeSet<Identity>,
    subscribed: BTreeSet<LinkTag>,
    /// What was refused here, before the node had a say.
    refusals: DropCounters,
    /// Failed rounds of dials to each peer that are in the journal.
    dial_failures: BTreeMap<Identity, u32>,
    closing: Vec<Closing>,
    hand_dials: JoinSet<DialedByHand>,
    moves: Moves,
    opaque: OpaqueSessions,
    xdp: Xdp,
    draining: Option<Draining>,
    hand_over: HandingOver,
    hand_over_is_served: bool,
    taking_over: Option<TakingOver>,
    taking_up: TakingUp,
    /// Whether this is the process that serves everybody, and not the one before or after it.
    ours: watch::Sender<bool>,
    /// Where this process can be asked.
    socket: PathBuf,
    /// Who waits for events newer than this.
    followers: Vec<(u64, oneshot::Sender<Document>)>,
}

impl ManagementCore {
    fn new(mut settings: RuntimeSettings, end: ManagementEnd, ours: watch::Sender<bool>) -> Self {
        let services = Services {
            hub: std::mem::take(&mut settings.a2al.hub),
            dht: settings.dht.take().map(|files| (files, std::mem::take(&mut settings.a2al.dht))),
        };
        let hand_over = HandingOver::new(settings.hand_over.take());
        let config = &settings.config;
        let cores = end.cores();
        let extra = StatusExtra {
            version: settings.version,
            identity: settings.identity,
            node_info: config::node_info(config, settings.identity, &settings.listen),
            listen: settings.listen,
            turn_listen: settings.turn_listen,
            readiness: Readiness::Starting { waiting_for: "the data cores".to_owned() },
            gateway: GatewayCounts::default(),
            queries: QueryCounts::default(),
            observed: Vec::new(),
            capacity: CoreCapacity::from(config),
            operations: Operations::default(),
            aead: settings.aead,
            floor: settings.floor,
            confinement: settings.confinement,
            dht: None,
            xdp: settings.xdp.status().clone(),
            hub: None,
        };
        let mut node = Node::new(settings.identity, cores, NodeSettings::of(config, &extra.listen));
        let registrations = settings
            .registrations
            .map(|path| restore(path, config.gateway.registrations_max, &mut node));
        let opaque = OpaqueSessions::new(cores, &config.udp);
        let log = config.management.log.clone();
        Self {
            end,
            node,
            dialer: Dialer::new(settings.identity, cores),
            dht: None,
            hub: None,
            services: Some(services),
            dial_settings: Some(DialSettings::of(config)),
            registrations,
            observations: Observations::new(cores, clock::now()),
            extra,
            on_ready: Some(settings.on_ready),
            heartbeat: Heartbeat::new(cores, settings.on_life_sign),
            random: SystemRandom::new(),
            backlog: VecDeque::new(),
            decided: Vec::new(),
            spare: (0..cores).map(|_| None).collect(),
            round: None,
            waiting: Vec::new(),
            interval_due: false,
            listing: None,
            listings: VecDeque::new(),
            recent: Recent::default(),
            traffic_round: None,
            shares: SameCoreShares::default(),
            more_reports: false,
            stopped_cores: 0,
            failure: None,
            room_max: config::room(config),
            accounts: Accounts::new(AccountSettings::of_config(config)),
            config: settings.config,
            epoch: 0,
            reload_source: settings.reload,
            reload: None,
            reload_again: false,
            log: LogLevels::new(&log, settings.log),
            log_told_at: clock::now(),
            own_addresses: settings.own_addresses,
            journal: Journal::default(),
            registered: BTreeSet::new(),
            subscribed: BTreeSet::new(),
            refusals: DropCounters::default(),
            dial_failures: BTreeMap::new(),
            closing: Vec::new(),
            hand_dials: JoinSet::new(),
            moves: Moves::default(),
            opaque,
            xdp: settings.xdp,
            draining: None,
            hand_over_is_served: hand_over.is_possible(),
            hand_over,
            taking_over: None,
            taking_up: TakingUp::default(),
            ours,
            socket: settings.socket,
            followers: Vec::new(),
        }
    }

    async fn run(
        &mut self,
        doorbell: &pipe::Receiver,
        (mut requests, mut steps): (mpsc::Receiver<StatsRequest>, mpsc::Receiver<Step>),
        signals: &mut Signals,
        stop: &Notify,
    ) -> Result<(), RuntimeError> {
        self.begin_xdp();
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = doorbell.readable() => self.hear(doorbell),
                _ = seconds.tick() => {
                    self.interval_due = true;
                    self.show_life();
                    // A disk may take its time, and so may maps and tables of the kernel.
                    if !self.hand_over.keeps_clients_waiting() {
                        self.keep_house();
                    }
                }
                Some(request) = requests.recv() => self.on_request(request),
                Some(step) = steps.recv() => self.on_hand_over(step),
                () = sleep_until(self.next_deadline()) => {}
                connected = self.dialer.next_connected() => {
                    self.dial(|dialer, around| dialer.on_connected(around, connected));
                }
                Some(Ok(dialed)) = self.hand_dials.join_next() => self.on_dialed_by_hand(dialed),
                wish = signals.next() => match wish {
                    Wish::Reload => self.reload(),
                    Wish::Stop => break,
                },
                () = stop.notified() => break,
            }
            self.work();
            if self.observations.all_reported() {
                self.take_over(doorbell).await?;
            }
            if self.is_drained() {
                break;
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            // Reports may have come faster than one round takes; others have their turn first.
            tokio::task::yield_now().await;
        }
        // If it is the next process's turn, what this one stops is no longer its own. From here on
        // nobody is told that it is theirs; one who is being told just now is waited for.
        steps.close();
        while let Some(step) = steps.recv().await {
            if matches!(step, Step::Yours { .. }) {
                self.on_hand_over(step);
            }
        }
        self.stop(doorbell).await
    }

    /// What is done once a second while nobody waits for it.
    fn keep_house(&mut self) {
        self.save_registrations();
        self.note_dials(clock::now());
        self.extra.operations.resident_bytes = resident_bytes();
        self.tick_xdp();
        self.tick_log();
        self.follow_own_addresses();
    }

    /// Closes everything, and waits for the cores to say so.
    async fn stop(&mut self, doorbell: &pipe::Receiver) -> Result<(), RuntimeError> {
        self.extra.readiness = Readiness::Stopping;
        self.heartbeat.tell(LifeSign::Stopping);
        self.save_registrations();
        if let Some(dht) = &mut self.dht {
            dht.begin_stop();
        }
        self.dial(Dialer::stop);
        if let Some(hub) = &mut self.hub {
            hub.stop().await;
        }
        for core in self.cores() {
            self.backlog.push_back((core, Command::Shutdown));
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.stopped_cores < self.end.cores() && Instant::now() < deadline {
            self.work();
            let pause = Instant::now() + COMMAND_RETRY_PAUSE;
            tokio::select! {
                _ = doorbell.readable() => self.hear(doorbell),
                () = sleep_until(pause) => {}
            }
        }
        if let Some(dht) = &mut self.dht {
            dht.stopped().await;
        }
        self.xdp.stop();
        self.failure.take().map_or(Ok(()), Err)
    }

    fn hear(&self, doorbell: &pipe::Receiver) {
        // One byte per ring; an error means that there is none.
        let _ = doorbell.try_read(&mut [0; 64]);
        self.end.silence_doorbell();
    }

    /// Everything that can be done without waiting.
    fn work(&mut self) {
        self.send_backlog();
        self.work_xdp();
        self.drain_reports();
        self.tick_node();
        self.dial(Dialer::tick);
        self.end_late_rounds();
        self.begin_round();
        self.begin_listing();
        self.end_late_closings();
        self.end_late_moves();
        self.go_on_freezing();
        self.end_late_udp();
        self.end_late_reload();
        self.tell_followers();
    }

    fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        if self.more_reports {
            return now;
        }
        let in_an_hour = now + Duration::from_secs(3600);
        let mut next = in_an_hour;
        let due = [self.node.next_deadline_ns(), self.dialer.next_deadline_ns()];
        if let Some(due_ns) = due.into_iter().flatten().min() {
            let wait_ns = due_ns.saturating_sub(clock::now().monotonic_ns);
            next = next.min(now + Duration::from_nanos(wait_ns).max(COMMAND_RETRY_PAUSE));
        }
        if let Some(round) = &self.round {
            next = next.min(round.deadline);
        }
        if let Some(listing) = &self.listing {
            next = next.min(listing.deadline);
        }
        if let Some(round) = &self.traffic_round {
            next = next.min(round.deadline);
        }
        for closing in &self.closing {
            next = next.min(closing.deadline);
        }
        if let Some(draining) = &self.draining {
            next = next.min(draining.deadline);
        }
        if let Some(reload) = &self.reload {
            next = next.min(reload.deadline);
        }
        if let Some(at) = self.hand_over.links.next_round() {
            next = next.min(at);
        }
        if !self.backlog.is_empty() || self.xdp.has_work() {
            next = next.min(now + COMMAND_RETRY_PAUSE);
        }
        next
    }

    fn cores(&self) -> impl Iterator<Item = CoreId> + use<> {
        (0..self.end.cores()).map(|core| CoreId(u16::try_from(core).unwrap_or(u16::MAX)))
    }

    // Commands

    fn command(&mut self, core: CoreId, command: Command) {
        if let Some(command) = self.hold(core, command) {
            self.backlog.push_back((core, command));
            self.send_backlog();
        }
    }

    /// Sends what waits, in order for each core; commands for a full ring wait on.
    fn send_backlog(&mut self) {
        for _ in 0..self.backlog.len() {
            let Some((core, command)) = self.backlog.pop_front() else { return };
            if let Err(command) = self.end.send(core, command) {
                self.backlog.push_front((core, command));
                return;
            }
        }
    }
}

/// 64 bits that nobody can predict.
fn draw(random: &SystemRandom) -> u64 {
    let mut bytes = [0; 8];
    // The kernel's source cannot fail once the machine has booted.
    assert!(random.fill(&mut bytes).is_ok(), "the system has no random numbers");
    u64::from_ne_bytes(bytes)
}

/// Reads the registrations of the last run; relaying goes on without them if that fails.
fn restore(path: PathBuf, limit: usize, node: &mut Node) -> RegistrationsFile {
    let mut file = RegistrationsFile::new(path);
    match file.read(limit) {
        Ok(registrations) => {
            for saved in registrations {
                node.restore(clock::now().monotonic_ns, saved);
            }
        }
        Err(error) => tracing::warn!(%error, "registered nodes have to register again"),
    }
    file
}

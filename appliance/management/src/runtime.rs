//! The management thread: drains what the data cores report, lets the node decide, answers the
//! stats socket, and keeps time for all of it.
//!
//! Owns the thread `management`, its tokio runtime and the management end of the rings. Started and
//! stopped by the program. It never blocks on a data core: a full command ring makes commands wait
//! here, an answer that does not come in time is answered without.

use crate::clock::{self, Moment};
use crate::config::Config;
use crate::dialing::{Around, DialSettings, Dialer};
use crate::documents::{CoreCapacity, CoreListing, Readiness, StatusExtra};
use crate::gateway::GatewayCounts;
use crate::limits::{COMMAND_RETRY_PAUSE, CORE_ANSWER_TIMEOUT, REPORTS_PER_ROUND, STOP_TIMEOUT};
use crate::node::{Context, Node, NodeSettings};
use crate::observations::Observations;
use crate::registrations_file::RegistrationsFile;
use crate::stats_socket::{
    self, BindError, ListingRequest, Question, StatsLimits, StatsRequest, StatsServer,
};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use waystation_astral::identity::Identity;
use waystation_engine::control::{Command, Report};
use waystation_engine::cores::pin;
use waystation_engine::management_end::ManagementEnd;
use waystation_engine::statistics::CoreStatistics;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::CoreId;

/// What the management thread is made of.
pub struct RuntimeSettings {
    pub config: Config,
    pub identity: Identity,
    /// The `node1…` text (spec §2.1).
    pub node_info: String,
    pub listen: Vec<SocketAddr>,
    /// Where the stats socket is made.
    pub socket: PathBuf,
    /// Where registrations are kept over a restart; absent: nowhere.
    pub registrations: Option<PathBuf>,
    pub version: &'static str,
    /// Whether `SIGINT` and `SIGTERM` stop the program.
    pub handle_signals: bool,
    /// Called once, when every core serves.
    pub on_ready: Box<dyn FnOnce() + Send>,
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
    /// The kernel gave no thread, runtime or signal.
    #[error("cannot start the management core: {0}")]
    Start(#[source] io::Error),
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
    if let Some(cpu) = settings.config.management.cpu
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
    let listener = stats_socket::bind(&socket)?;
    let metrics = bind_metrics(settings.config.management.metrics_listen)?;
    let hearing = end.take_hearing().ok_or(RuntimeError::Start(io::ErrorKind::NotFound.into()))?;
    let doorbell = pipe::Receiver::from_owned_fd(hearing).map_err(RuntimeError::Start)?;
    let mut signals = Signals::new(settings.handle_signals).map_err(RuntimeError::Start)?;
    let (server, requests) = stats_socket::channel(StatsLimits::default());
    let on_ready = std::mem::replace(&mut settings.on_ready, Box::new(|| {}));
    let mut core = ManagementCore::new(settings, end, on_ready);
    let serving = serve_stats(server, listener, metrics);
    // Whoever started this thread waits for nothing else.
    let _ = started.send(());
    let outcome = tokio::select! {
        outcome = core.run(&doorbell, requests, &mut signals, stop) => outcome,
        () = serving => Ok(()),
    };
    // The socket of a program that has ended only misleads; failing to remove it changes nothing.
    let _ = std::fs::remove_file(&socket);
    outcome
}

fn bind_metrics(
    address: Option<SocketAddr>,
) -> Result<Option<tokio::net::TcpListener>, RuntimeError> {
    let Some(address) = address else { return Ok(None) };
    let failed = |source| RuntimeError::Metrics { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    tokio::net::TcpListener::from_std(listener).map(Some).map_err(failed)
}

async fn serve_stats(
    server: StatsServer,
    listener: tokio::net::UnixListener,
    metrics: Option<tokio::net::TcpListener>,
) {
    let over_tcp = async {
        match metrics {
            Some(listener) => server.serve_metrics(listener).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        never = server.serve_socket(listener) => match never {},
        never = over_tcp => match never {},
    }
}

/// Signals that stop the program, or none.
struct Signals {
    terminate: Option<tokio::signal::unix::Signal>,
    interrupt: Option<tokio::signal::unix::Signal>,
    hang_up: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    fn new(wanted: bool) -> io::Result<Self> {
        let listen = |kind| if wanted { signal(kind).map(Some) } else { Ok(None) };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            () = next(&mut self.terminate) => {}
            () = next(&mut self.interrupt) => {}
            () = ignored(&mut self.hang_up) => {}
        }
    }
}

async fn next(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

async fn ignored(signal: &mut Option<tokio::signal::unix::Signal>) {
    loop {
        next(signal).await;
        tracing::warn!(
            "nothing can be reloaded while running; restart to change the configuration"
        );
    }
}

/// Everything the thread keeps between two events.
struct ManagementCore {
    end: ManagementEnd,
    node: Node,
    dialer: Dialer,
    /// Taken up once every core serves.
    dial_settings: Option<DialSettings>,
    observations: Observations,
    extra: StatusExtra,
    on_ready: Option<Box<dyn FnOnce() + Send>>,
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
    /// Whether a core had more to report than one round takes.
    more_reports: bool,
    stopped_cores: usize,
    failure: Option<RuntimeError>,
}

struct Round {
    missing: Vec<CoreId>,
    requests: Vec<StatsRequest>,
    closes_interval: bool,
    deadline: Instant,
}

struct ListingRound {
    request: ListingRequest,
    filled: Vec<CoreListing>,
    missing: Vec<CoreId>,
    deadline: Instant,
}

impl ManagementCore {
    fn new(
        settings: RuntimeSettings,
        end: ManagementEnd,
        on_ready: Box<dyn FnOnce() + Send>,
    ) -> Self {
        let config = &settings.config;
        let cores = end.cores();
        let extra = StatusExtra {
            version: settings.version,
            identity: settings.identity,
            node_info: settings.node_info,
            listen: settings.listen,
            readiness: Readiness::Starting { waiting_for: "the data cores".to_owned() },
            gateway: GatewayCounts::default(),
            capacity: CoreCapacity::from(config),
        };
        let mut node = Node::new(settings.identity, NodeSettings::of(config));
        let registrations = settings
            .registrations
            .map(|path| restore(path, config.gateway.registrations_max, &mut node));
        Self {
            end,
            node,
            dialer: Dialer::new(settings.identity, cores),
            dial_settings: Some(DialSettings::of(config)),
            registrations,
            observations: Observations::new(cores, clock::now()),
            extra,
            on_ready: Some(on_ready),
            random: SystemRandom::new(),
            backlog: VecDeque::new(),
            decided: Vec::new(),
            spare: (0..cores).map(|_| None).collect(),
            round: None,
            waiting: Vec::new(),
            interval_due: false,
            listing: None,
            listings: VecDeque::new(),
            more_reports: false,
            stopped_cores: 0,
            failure: None,
        }
    }

    async fn run(
        &mut self,
        doorbell: &pipe::Receiver,
        mut requests: mpsc::Receiver<StatsRequest>,
        signals: &mut Signals,
        stop: &Notify,
    ) -> Result<(), RuntimeError> {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = doorbell.readable() => self.hear(doorbell),
                _ = seconds.tick() => {
                    self.interval_due = true;
                    self.save_registrations();
                }
                Some(request) = requests.recv() => self.on_request(request),
                () = sleep_until(self.next_deadline()) => {}
                connected = self.dialer.next_connected() => {
                    self.dial(|dialer, around| dialer.on_connected(around, connected));
                }
                () = signals.stop() => break,
                () = stop.notified() => break,
            }
            self.work();
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            // Reports may have come faster than one round takes; others have their turn first.
            tokio::task::yield_now().await;
        }
        self.stop(doorbell).await
    }

    /// Closes everything, and waits for the cores to say so.
    async fn stop(&mut self, doorbell: &pipe::Receiver) -> Result<(), RuntimeError> {
        self.extra.readiness = Readiness::Stopping;
        self.save_registrations();
        self.dial(Dialer::stop);
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
        self.drain_reports();
        self.tick_node();
        self.dial(Dialer::tick);
        self.end_late_rounds();
        self.begin_round();
        self.begin_listing();
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
        if !self.backlog.is_empty() {
            next = next.min(now + COMMAND_RETRY_PAUSE);
        }
        next
    }

    fn cores(&self) -> impl Iterator<Item = CoreId> + use<> {
        (0..self.end.cores()).map(|core| CoreId(u16::try_from(core).unwrap_or(u16::MAX)))
    }

    // Commands

    fn command(&mut self, core: CoreId, command: Command) {
        self.backlog.push_back((core, command));
        self.send_backlog();
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

    // Reports

    fn drain_reports(&mut self) {
        let now = clock::now();
        self.more_reports = false;
        for core in self.cores() {
            let mut taken = 0;
            while let Some(report) = self.end.next_report(core) {
                self.on_report(now, report);
                taken += 1;
                if taken == REPORTS_PER_ROUND {
                    self.more_reports = true;
                    break;
                }
            }
        }
        self.extra.gateway = self.node.counts();
        for event in self.node.take_events() {
            tracing::trace!(?event, "node");
        }
    }

    fn on_report(&mut self, now: Moment, report: Report) {
        log_report(&report);
        let random = &self.random;
        let mut draw = || draw(random);
        let mut context = Context {
            now_ns: now.monotonic_ns,
            unix_now_s: now.unix_ns / 1_000_000_000,
            random: &mut draw,
            quota_of: &mut |_| None,
        };
        self.node.report(&mut context, &report, &mut self.decided);
        self.send_decided();
        self.dial(|dialer, around| dialer.report(around, &report));
        match report {
            Report::Statistics(block) => self.on_statistics(block),
            Report::Listing { core, listing } => {
                self.on_listing(CoreListing { core, listing: Some(listing) });
            }
            Report::JoinFailed { idle } => {
                let reason = DropReason::HandoffTimeout;
                self.command(idle.core, Command::CloseSocket { socket: idle, reason });
            }
            Report::Stopped { core, error } => {
                self.stopped_cores += 1;
                if let Some(error) = error {
                    self.failure = Some(RuntimeError::CoreStopped { core, error });
                }
            }
            Report::LinkUp(_)
            | Report::LinkDown { .. }
            | Report::HandshakeFailed { .. }
            | Report::Query(_)
            | Report::QueryCancelled { .. }
            | Report::SocketPresented { .. }
            | Report::SocketClosed { .. }
            | Report::Asked { .. }
            | Report::Input { .. }
            | Report::SessionEnded { .. }
            | Report::Migration { .. }
            | Report::Adopted { .. }
            | Report::DialFailed { .. }
            | Report::Incident { .. } => {}
        }
    }

    fn tick_node(&mut self) {
        self.node.tick(clock::now().monotonic_ns, &mut self.decided);
        self.send_decided();
    }

    /// Calls the dialer, which looks at the node's links.
    fn dial<T>(&mut self, call: impl FnOnce(&mut Dialer, &mut Around<'_>) -> T) -> T {
        let random = &self.random;
        let mut around = Around {
            now_ns: clock::now().monotonic_ns,
            directory: self.node.directory(),
            random: &mut || draw(random),
            commands: &mut self.decided,
        };
        let result = call(&mut self.dialer, &mut around);
        self.send_decided();
        result
    }

    fn send_decided(&mut self) {
        let mut decided = std::mem::take(&mut self.decided);
        for (core, command) in decided.drain(..) {
            self.command(core, command);
        }
        self.decided = decided;
    }

    fn save_registrations(&mut self) {
        let Some(file) = &mut self.registrations else { return };
        if let Err(error) = file.write(self.node.saved_registrations().collect()) {
            tracing::warn!(%error, "registrations will be lost on a restart");
        }
    }

    // Statistics

    fn on_request(&mut self, request: StatsRequest) {
        match request.what {
            // These say what is known; the others ask the cores first.
            Question::Ready => self.answer(request),
            Question::Links { .. } | Question::Sessions { .. } => self.answer(request),
            Question::Status
            | Question::Drops { .. }
            | Question::Histograms(_)
            | Question::HistogramLog(_)
            | Question::Metrics => self.waiting.push(request),
        }
    }

    fn answer(&mut self, request: StatsRequest) {
        let listing = request.answer(&self.observations, &self.extra, clock::now());
        self.listings.extend(listing);
    }

    /// Asks every core for its statistics if somebody wants them and nobody is being asked.
    fn begin_round(&mut self) {
        if self.round.is_some() || (self.waiting.is_empty() && !self.interval_due) {
            return;
        }
        let missing: Vec<CoreId> = self.cores().collect();
        for &core in &missing {
            let recycled = self.spare.get_mut(core.index()).and_then(Option::take);
            self.command(core, Command::ReportStatistics { recycled });
        }
        self.round = Some(Round {
            missing,
            requests: std::mem::take(&mut self.waiting),
            closes_interval: std::mem::take(&mut self.interval_due),
            deadline: Instant::now() + CORE_ANSWER_TIMEOUT,
        });
    }

    fn on_statistics(&mut self, block: Box<CoreStatistics>) {
        let core = block.core;
        let recycled = self.observations.accept(block);
        if let Some(spare) = self.spare.get_mut(core.index()) {
            *spare = Some(recycled);
        }
        if self.observations.all_reported() && !self.extra.readiness.is_ready() {
            self.become_ready();
        }
        if let Some(round) = &mut self.round {
            round.missing.retain(|&missing| missing != core);
            if round.missing.is_empty() {
                self.end_round();
            }
        }
    }

    fn become_ready(&mut self) {
        if let Some(on_ready) = self.on_ready.take() {
            self.extra.readiness = Readiness::Ready;
            on_ready();
            if let Some(settings) = self.dial_settings.take() {
                self.dial(|dialer, around| dialer.set_settings(around, settings));
            }
        }
    }

    fn end_round(&mut self) {
        let Some(round) = self.round.take() else { return };
        if round.closes_interval {
            self.observations.close_interval(clock::now());
        }
        for request in round.requests {
            self.answer(request);
        }
    }

    /// Answers without the cores that did not.
    fn end_late_rounds(&mut self) {
        let now = Instant::now();
        if let Some(round) = &self.round
            && round.deadline <= now
        {
            for core in &round.missing {
                tracing::warn!(%core, "a data core does not answer");
            }
            self.end_round();
        }
        if self.listing.as_ref().is_some_and(|listing| listing.deadline <= now) {
            self.end_listing();
        }
    }

    // Listings

    fn begin_listing(&mut self) {
        while self.listing.is_none() {
            let Some(request) = self.listings.pop_front() else { return };
            if request.is_abandoned() {
                continue;
            }
            let missing: Vec<CoreId> = self.cores().collect();
            for &core in &missing {
                let listing = request.empty_listing();
                self.command(core, Command::ReportListing { listing });
            }
            let deadline = Instant::now() + CORE_ANSWER_TIMEOUT;
            self.listing = Some(ListingRound { request, filled: Vec::new(), missing, deadline });
        }
    }

    fn on_listing(&mut self, listing: CoreListing) {
        let Some(round) = &mut self.listing else { return };
        let before = round.missing.len();
        round.missing.retain(|&missing| missing != listing.core);
        // A listing of an earlier round, whose core was late, answers nothing.
        if round.missing.len() < before {
            round.filled.push(listing);
        }
        if round.missing.is_empty() {
            self.end_listing();
        }
    }

    fn end_listing(&mut self) {
        let Some(mut round) = self.listing.take() else { return };
        let late = round.missing.into_iter().map(|core| CoreListing { core, listing: None });
        round.filled.extend(late);
        round.filled.sort_by_key(|listing| listing.core);
        round.request.complete(&round.filled);
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

/// Data cores do not log; what they report is logged here, without peers above debug.
fn log_report(report: &Report) {
    match report {
        Report::LinkUp(up) => {
            let (link, identity, profile) = (up.link, up.identity, up.profile);
            tracing::debug!(%link, %identity, %profile, remote = %up.remote, "link up");
        }
        Report::LinkDown { link, identity, reason, .. } => {
            let reason = reason.map_or("ended by the peer", DropReason::name);
            tracing::debug!(%link, %identity, reason, "link down");
        }
        Report::HandshakeFailed { core, remote, reason } => {
            tracing::debug!(%core, %remote, reason = reason.name(), "no link");
        }
        Report::Incident { link, reason, nonce } => {
            let session = format_args!("{nonce:016x}");
            tracing::debug!(%link, reason = reason.name(), %session, "not carried on");
        }
        Report::SocketClosed { socket, reason, .. } => {
            let reason = reason.map_or("ended", DropReason::name);
            tracing::debug!(%socket, reason, "raw socket closed");
        }
        Report::JoinFailed { idle } => {
            tracing::debug!(socket = %idle, "caller gone before the handoff")
        }
        Report::Stopped { core, error: Some(error) } => {
            tracing::error!(%core, error, "data core failed")
        }
        Report::Query(_)
        | Report::QueryCancelled { .. }
        | Report::SocketPresented { .. }
        | Report::Asked { .. }
        | Report::Input { .. }
        | Report::SessionEnded { .. }
        | Report::Migration { .. }
        | Report::Adopted { .. }
        | Report::DialFailed { .. }
        | Report::Statistics(_)
        | Report::Listing { .. }
        | Report::Stopped { error: None, .. } => {}
    }
}

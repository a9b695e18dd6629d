//! One data core: *reap → open → route → fill → seal → submit*.
//!
//! A [`DataCore`] owns a port, its connections and everything behind them, and runs on one pinned
//! thread. It never locks, logs, formats or waits for another thread; after warm-up, forwarding
//! allocates nothing. Commands come down and reports go up through bounded rings, payload for
//! other cores crosses in batches.

mod closing;
mod commands;
mod connection;
mod datagrams;
mod ends;
mod establish;
mod figures;
mod framed;
mod frames;
mod handing_over;
mod ingress;
mod limiting;
mod link_state;
mod links;
mod links_over;
mod listing;
pub mod moving;
mod opaque;
mod pipes;
mod sockets;
#[cfg(test)]
mod tests;
mod traffic;
mod turn;
mod waiting;

pub use link_state::LinkState;
pub(crate) use opaque::is_without_family;
pub use opaque::{
    OpaqueHandOver, OpaqueOpenError, OpaqueSessionState, OpaqueSettings, OpaqueTakeOver, PortError,
};
pub use turn::{StreamLimits, TurnError, TurnHandOver, TurnParts};

use crate::block::BlockPool;
use crate::clock;
use crate::entropy::Entropy;
use crate::fabric::Fabric;
use crate::limits::{BATCHES_PER_TURN, IDLE_WAIT, LISTINGS_UNDER_WAY_MAX};
use crate::management_end::CoreEnd;
use crate::mesh::{Entry, MeshEnd};
use crate::port::frames::FrameSocket;
use crate::port::{CloseMode, EVENTS_MAX, Event, Port, ReceiveMode, Segment, Segments, StreamKey};
use crate::snapshot::{CoreSnapshot, ReloadableLimits};
use crate::statistics::{CoreStatistics, Stage, TrafficClass, WaitMode};
use crate::timer::Wheel;
use closing::Closing;
use connection::{Connection, Ended, Phase};
use datagrams::watch_datagrams;
use framed::Frames;
use handing_over::{Held, Telling};
use ingress::{Ingress, Place};
use limiting::Saturation;
use listing::ListingWalk;
use opaque::OpaqueSessions;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use traffic::TrafficWalk;
use turn::TurnServer;
use waiting::{Waiting, Work};
use waystation_astral::aead::AeadSuite;
use waystation_astral::identity::SecretKey;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LinkTag, SocketTag};
use waystation_relay::slots::Slots;
use waystation_relay::switch::{Switch, SwitchLimits};

/// How long a core sleeps at most while a ring to another thread is full.
const RETRY_NS: u64 = 1_000_000;

/// What one data core may use that only a restart changes; the rest is in [`CoreSnapshot`].
#[derive(Clone, Copy, Debug)]
pub struct CoreLimits {
    /// The window advertised for every session, in bytes.
    pub window_bytes: u32,
    /// Bytes of payload that may wait in all sessions of this core.
    pub queue_bytes: usize,
    /// Bytes of blocks for outgoing records, waiting early bytes and batches.
    pub block_bytes: usize,
}

impl CoreLimits {
    /// What the switch may use under these limits and a snapshot's.
    fn switch(&self, now: &ReloadableLimits) -> SwitchLimits {
        SwitchLimits {
            window_bytes: self.window_bytes,
            sessions_per_link: now.sessions_per_link,
            sessions: now.sessions,
            queue_bytes: self.queue_bytes,
            query_timeout_ns: nanos(now.query_timeout),
        }
    }
}

/// What a data core is made of, besides its port.
#[derive(Debug)]
pub struct CoreParts {
    pub secret: SecretKey,
    /// What seals and opens the records of all links.
    pub aead: AeadSuite,
    pub limits: CoreLimits,
    /// What [`crate::control::Command::Adopt`] replaces.
    pub snapshot: Arc<CoreSnapshot>,
    pub mesh: MeshEnd,
    pub management: CoreEnd,
    /// The CPU this thread is verified to be pinned to.
    pub cpu: Option<usize>,
    /// A TURN server, if there is to be one and the snapshot has a part for it.
    pub turn: Option<TurnParts>,
    /// Opaque UDP sessions, if there are to be any.
    pub opaque: Option<OpaqueSettings>,
    /// Sockets that frames come by, for [`crate::port::datagrams::UdpTier::AfXdp`].
    pub frames: Vec<FrameSocket>,
}

/// Why a data core cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The port cannot watch a listener.
    #[error("data core {core}: cannot listen: {source}")]
    Listen { core: CoreId, source: io::Error },
    /// There was to be a TURN server.
    #[error("data core {core}: {source}")]
    Turn { core: CoreId, source: TurnError },
    /// There were to be UDP sockets.
    #[error("data core {core}: UDP sockets cannot be watched: {source}")]
    Datagrams { core: CoreId, source: io::Error },
    /// The port's wait failed.
    #[error("data core {core}: waiting for events failed: {source}")]
    Wait { core: CoreId, source: io::Error },
}

/// See the module.
#[derive(Debug)]
pub struct DataCore<P> {
    port: P,
    fabric: Fabric,
    secret: SecretKey,
    aead: AeadSuite,
    limits: CoreLimits,
    snapshot: Arc<CoreSnapshot>,
    connections: Slots<Connection>,
    /// By stream key: the place of its connection.
    by_stream: Vec<Option<u32>>,
    closing: Closing,
    wheel: Wheel<(u32, u32)>,
    events: Vec<Event>,
    accepted: VecDeque<(TcpStream, SocketAddr)>,
    ingress: Ingress,
    fired: Vec<(u32, u32)>,
    flushing: Vec<u32>,
    /// Links that have payload and found no block.
    starved: Vec<u32>,
    /// Sides of raw pipes whose quota lets nothing in before a time; each at most once.
    paced: BinaryHeap<Reverse<(u64, u32, u32)>>,
    half_open: usize,
    sockets: usize,
    /// Two for each pipe.
    pipe_halves: usize,
    /// Raw sockets that nobody has a use for and that are still open.
    dismissed: usize,
    links: usize,
    /// Connections whose send was handed to the port in this turn or the one before, and when.
    sending: Vec<(u32, u64)>,
    /// Connections that had input in this turn, while this core is saturated.
    present: Vec<u32>,
    saturation: Saturation,
    run_delay: clock::RunDelay,
    /// When the events of the turn before were reaped.
    before_ns: u64,
    /// The link that is about to leave for another core.
    departing: Option<u32>,
    /// Whether links stand still, because another process is to have them or has had them.
    stands_still: bool,
    /// Those that may go on and have just been given back by the port.
    thawing: Vec<u32>,
    /// What passes over links, as far as it is added up.
    traffic_walk: Option<TrafficWalk>,
    now_ns: u64,
    started_ns: u64,
    waiting: Waiting,
    /// When the last turn ended.
    ended_ns: u64,
    /// Whether this turn spun and has had nothing to do yet.
    in_vain: bool,
    stopping: bool,
    /// Whether nobody new is taken in.
    draining: bool,
    /// What is not listened on yet, because another process still does.
    held: Option<Held>,
    /// Whether datagrams wait in their sockets, for this core or for another process's.
    udp_is_paused: bool,
    /// What another process has heard of this core, to go on with it.
    telling: Telling,
    /// Why this core cannot go on, if that is why it stops.
    failure: Option<CoreError>,
    /// Listings that are not finished, in the order they were asked for.
    listings: VecDeque<ListingWalk>,
    turn: Option<Box<TurnServer>>,
    opaque: Option<Box<OpaqueSessions>>,
    frames: Frames,
}

impl<P: Port> DataCore<P> {
    /// A core that accepts on these listeners. Must be called on the thread it will run on.
    ///
    /// # Errors
    /// The port's refusal to watch a listener.
    pub fn new(port: P, listeners: Vec<TcpListener>, parts: CoreParts) -> Result<Self, CoreError> {
        let core = parts.mesh.core();
        let mut port = port;
        for listener in listeners {
            port.add_listener(listener).map_err(|source| CoreError::Listen { core, source })?;
        }
        let datagrams_error = |source| CoreError::Datagrams { core, source };
        let frames = Frames::new(parts.frames).map_err(datagrams_error)?;
        let turn = parts.turn.zip(parts.snapshot.turn.as_ref());
        let turn =
            turn.map(|(turn, snapshot)| TurnServer::new(turn, snapshot, frames.share(), &mut port));
        let turn = turn.transpose().map_err(|source| CoreError::Turn { core, source })?;
        let peers = &parts.snapshot.udp_peers;
        let opaque = parts
            .opaque
            .map(|it| OpaqueSessions::new(core, &it, Arc::clone(peers), frames.share()));
        let opaque = opaque.transpose().map_err(datagrams_error)?;
        watch_datagrams(&mut port, turn.as_ref(), opaque.as_ref(), &frames)
            .map_err(datagrams_error)?;
        let blocks = parts.limits.block_bytes / crate::block::BLOCK_BYTES;
        let mut statistics = Box::new(CoreStatistics::new(core, port.kind().name()));
        statistics.cpu = parts.cpu;
        let now_ns = clock::now_ns();
        let ingress = Ingress::new(port.receive_buffers().0);
        let waiting = Waiting::new(now_ns, clock::thread_cpu_ns(), port.can_gather());
        let fabric = Fabric::new(
            parts.secret.identity(),
            Switch::new(core, parts.limits.switch(&parts.snapshot.limits)),
            BlockPool::new(blocks),
            parts.mesh,
            parts.management,
            statistics,
        );
        Ok(Self {
            port,
            fabric,
            secret: parts.secret,
            aead: parts.aead,
            limits: parts.limits,
            snapshot: parts.snapshot,
            connections: Slots::default(),
            by_stream: Vec::new(),
            closing: Closing::default(),
            wheel: Wheel::new(now_ns),
            events: Vec::with_capacity(EVENTS_MAX),
            accepted: VecDeque::with_capacity(EVENTS_MAX),
            ingress,
            fired: Vec::new(),
            flushing: Vec::new(),
            starved: Vec::new(),
            paced: BinaryHeap::new(),
            half_open: 0,
            sockets: 0,
            pipe_halves: 0,
            dismissed: 0,
            links: 0,
            sending: Vec::new(),
            present: Vec::new(),
            saturation: Saturation::default(),
            run_delay: clock::RunDelay::of_this_thread(),
            before_ns: now_ns,
            departing: None,
            stands_still: false,
            thawing: Vec::new(),
            traffic_walk: None,
            now_ns,
            started_ns: now_ns,
            waiting,
            ended_ns: now_ns,
            in_vain: false,
            stopping: false,
            draining: false,
            held: None,
            udp_is_paused: false,
            telling: Telling::default(),
            failure: None,
            listings: VecDeque::with_capacity(LISTINGS_UNDER_WAY_MAX),
            turn: turn.map(Box::new),
            opaque: opaque.map(Box::new),
            frames,
        })
    }

    /// Runs until it is told to shut down.
    ///
    /// # Errors
    /// Only what makes going on impossible.
    pub fn run(mut self) -> Result<(), CoreError> {
        self.send_statistics(None);
        self.fabric.ring();
        while !self.stopping {
            self.turn()?;
        }
        self.failure.map_or(Ok(()), Err)
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// Only what makes going on impossible.
    pub fn turn(&mut self) -> Result<(), CoreError> {
        self.reap()?;
        self.open_and_route();
        self.fill_seal_and_submit();
        self.hand_over();
        Ok(())
    }

    // Reap

    fn reap(&mut self) -> Result<(), CoreError> {
        let (timeout, spins) = (self.wait_ns(), self.spins());
        let core = self.fabric.core;
        let mut events = std::mem::take(&mut self.events);
        let waited = self.port.wait(Some(Duration::from_nanos(timeout)), &mut events);
        self.events = events;
        waited.map_err(|source| CoreError::Wait { core, source })?;
        self.in_vain = spins && self.events.is_empty();
        self.before_ns = self.now_ns;
        self.now_ns = clock::now_ns();
        self.fabric.switch.begin_turn(self.now_ns);
        self.fabric.reaped_ns = self.now_ns;
        self.fabric.opened_ns = self.now_ns;
        self.fabric.send_unsent_reports();
        Ok(())
    }

    /// How long this core may sleep.
    fn wait_ns(&self) -> u64 {
        if self.has_input() {
            return 0;
        }
        if self.has_unsent() {
            return RETRY_NS;
        }
        if self.spins() {
            return 0;
        }
        let idle_ns = u64::try_from(IDLE_WAIT.as_nanos()).unwrap_or(u64::MAX);
        let paced = self.paced.peek().map(|&Reverse((ready_ns, _, _))| ready_ns);
        let allocation = self.turn.as_ref().and_then(|turn| turn.next_deadline_ns());
        let switch = self.fabric.switch.next_deadline_ns().filter(|_| !self.stands_still);
        let session = self.opaque.as_ref().and_then(|opaque| opaque.next_deadline_ns());
        let deadlines = [self.wheel.next_due_ns(), switch, paced, allocation, session];
        let next = deadlines.into_iter().flatten().min().unwrap_or(u64::MAX);
        next.saturating_sub(self.ended_ns).min(idle_ns)
    }

    /// Whether it asks for events again although nothing is left to do.
    fn spins(&self) -> bool {
        !self.has_input() && !self.has_unsent() && self.waiting.spins(self.ended_ns)
    }

    /// Whether something received waits for its turn.
    fn has_input(&self) -> bool {
        !self.ingress.is_empty()
            || !self.fabric.inner_inbox.is_empty()
            || self.turn.as_ref().is_some_and(|turn| turn.has_more())
            || self.opaque.as_ref().is_some_and(|opaque| opaque.has_more())
            || self.frames.has_more()
    }

    /// Whether a ring to another thread is full, or something is to be told as soon as it is so.
    fn has_unsent(&self) -> bool {
        self.telling.is_pausing
            || self.fabric.mesh.is_backed_up()
            || self.fabric.has_unsent_reports()
            || self.turn.as_ref().is_some_and(|turn| turn.has_paths_to_tell())
    }

    // Open and route

    fn open_and_route(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.events = events;
        self.serve_datagrams();
        self.serve_waiting();
        // New streams come last: they may get the keys of streams that ended in this burst.
        while let Some((stream, remote)) = self.accepted.pop_front() {
            self.on_accepted(stream, remote);
        }
        self.thaw_detached();
        self.take_from_mesh();
        self.carry_out_commands();
        self.go_on_handing_over();
        self.go_on_listing();
        self.go_on_adding_traffic();
        self.go_on_departing();
        self.run_inner_links();
        self.close_doomed();
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Accepted { listener, stream, remote } => match &mut self.turn {
                Some(turn) if turn.listens_on(listener) => turn.note_accepted(stream, remote),
                _ => self.accepted.push_back((stream, remote)),
            },
            Event::AcceptFailed { .. } => self.fabric.count_drop(DropReason::AcceptFailed, 0),
            Event::Received { stream, buffer } => match self.slot_of(stream) {
                Some(slot) => self.on_received(slot, buffer),
                None if self.is_of_turn(stream) => {
                    self.with_turn(|turn, around| turn.note_received(stream, buffer, around));
                }
                None => self.port.release(buffer),
            },
            Event::EndOfStream { stream } => match self.slot_of(stream) {
                Some(slot) => self.on_receive_end(slot, Ended::Cleanly),
                None => self.with_turn(|turn, around| turn.stream_ended(stream, false, around)),
            },
            Event::ReceiveFailed { stream, .. } => match self.slot_of(stream) {
                Some(slot) => self.on_receive_end(slot, Ended::ByError),
                None => self.with_turn(|turn, around| turn.stream_ended(stream, true, around)),
            },
            Event::Sent { stream, segments, result } => self.on_sent(stream, segments, result),
            // Its place was forgotten when it was closed.
            Event::Closed { .. } => {}
            Event::Detached { stream, socket } => self.on_detached(stream, socket),
        }
        self.close_doomed();
    }

    fn on_accepted(&mut self, stream: TcpStream, remote: SocketAddr) {
        self.fabric.statistics.counters.connections_accepted += 1;
        let full = self.is_full() || self.sockets >= self.snapshot.limits.sockets;
        let local = stream.local_addr();
        let (Ok(local), false) = (local, full) else {
            self.fabric.count_drop(DropReason::TooManyConnections, 0);
            return;
        };
        // Without it the kernel holds small records back; a link still works.
        let _ = stream.set_nodelay(true);
        let Ok(key) = self.port.add_stream(stream, ReceiveMode::OnRequest) else {
            self.fabric.count_drop(DropReason::TooManyConnections, 0);
            return;
        };
        let deadline_ns = self.after(self.snapshot.limits.handshake_timeout);
        let connection = Connection::new(Some(key), remote, local, self.now_ns, deadline_ns);
        let slot = self.insert(connection);
        self.set_slot_of(key, slot);
        self.half_open += 1;
        self.port.receive_once(key);
    }

    fn on_sent(&mut self, stream: StreamKey, segments: Segments, result: io::Result<()>) {
        self.recycle(segments);
        let Some(slot) = self.slot_of(stream) else {
            if self.is_of_turn(stream) {
                self.with_turn(|turn, around| turn.stream_sent(stream, &result, around));
            } else if !self.port.is_sending(stream) {
                self.closing.end(stream);
            }
            return;
        };
        if let Err(error) = result {
            self.on_send_failed(slot, &error);
            return;
        }
        let now_ns = self.now_ns;
        match self.connections.at(slot).map(|connection| &connection.phase) {
            Some(Phase::Pipe(_)) => self.on_pipe_sent(slot),
            Some(Phase::HandingOff(_) | Phase::Idle(_)) => self.on_idle_sent(slot),
            Some(Phase::Lingering) => self.say_farewell(slot),
            Some(_) => {
                if let Some(Some(side)) = self.fabric.sides.get_mut(slot as usize) {
                    side.output.sent(now_ns, &mut self.fabric.statistics.histograms);
                }
                if let Some(connection) = self.connections.at_mut(slot) {
                    connection.sending_since_ns = 0;
                    if connection.stuck {
                        self.set_stuck(slot, false);
                    }
                }
                self.fabric.mark_dirty(slot);
            }
            None => {}
        }
    }

    fn take_from_mesh(&mut self) {
        self.fabric.mesh.collect_returns(&mut self.fabric.pool);
        for from in 0..self.fabric.mesh.cores() {
            let from = CoreId(u16::try_from(from).unwrap_or(u16::MAX));
            for _ in 0..BATCHES_PER_TURN {
                let Some(batch) = self.fabric.mesh.next_batch(from) else { break };
                self.in_vain = false;
                for entry in batch.entries(self.fabric.core) {
                    match entry {
                        Entry::Signal(signal) => self.fabric.signal_from_mesh(signal),
                        Entry::Payload { to, stamp_ns, bytes } => {
                            self.fabric.payload_from_mesh(to, stamp_ns, bytes);
                        }
                    }
                }
                self.fabric.mesh.finish(from, batch);
            }
            while let Some(moved) = self.fabric.mesh.next_socket(from) {
                self.in_vain = false;
                self.on_moved_socket(moved);
            }
            while let Some(moved) = self.fabric.mesh.next_link(from) {
                self.in_vain = false;
                self.on_moved_link(moved);
            }
        }
    }

    // Fill, seal, submit

    fn fill_seal_and_submit(&mut self) {
        let now_ns = self.now_ns;
        self.find_stuck();
        if !self.stands_still {
            self.fabric.switch.tick(now_ns);
        }
        self.fabric.apply_effects();
        for link in self.starved.drain(..) {
            self.fabric.mark_dirty(link);
        }
        self.fabric.mark_woken();
        // Carrying out a fill can wake further links, of other sessions' resets and credit.
        while !self.fabric.dirty.is_empty() {
            std::mem::swap(&mut self.flushing, &mut self.fabric.dirty);
            let mut flushing = std::mem::take(&mut self.flushing);
            for link in flushing.drain(..) {
                if let Some(Some(side)) = self.fabric.sides.get_mut(link as usize) {
                    side.output.dirty = false;
                }
                self.flush(link);
            }
            self.flushing = flushing;
            self.fabric.mark_woken();
        }
    }

    /// Sends what waits for a link, unless a send is in flight: then what comes meanwhile is
    /// gathered and goes out as one.
    fn flush(&mut self, slot: u32) {
        let Some(connection) = self.connections.at_mut(slot) else { return };
        if let Phase::Departing(_) = connection.phase {
            return;
        }
        let Some(stream) = connection.stream else {
            self.flush_inner(slot);
            return;
        };
        if self.port.is_sending(stream) {
            return;
        }
        if !self.fabric.fill(slot) {
            self.starved.push(slot);
        }
        let now_ns = clock::now_ns();
        let Fabric { sides, pool, statistics, .. } = &mut self.fabric;
        let Some(Some(side)) = sides.get_mut(slot as usize) else { return };
        let segments = side.output.take_send(now_ns, pool, &mut statistics.histograms);
        statistics.counters.add_sent(side.output.new_totals());
        if side.output.failed() {
            self.recycle(segments);
            self.fabric.doomed.push((slot, DropReason::SocketError));
            return;
        }
        if segments.is_empty() {
            return;
        }
        let bytes: usize = segments.iter().map(Segment::bytes).sum();
        statistics.counters.wire_bytes_out += bytes as u64;
        statistics.counters.sends += 1;
        if let Some(connection) = self.connections.at_mut(slot) {
            connection.sending_since_ns = now_ns;
        }
        self.sending.push((slot, now_ns));
        self.port.send(stream, segments);
    }

    // Hand over

    fn hand_over(&mut self) {
        self.fire_timers();
        self.wake_paced();
        self.reset_overdue();
        self.close_doomed();
        self.fabric.mesh.flush();
        self.fabric.ring();
        let ended_ns = clock::now_ns();
        self.note_presence(ended_ns);
        let turn_ns = ended_ns - self.now_ns;
        let counters = &mut self.fabric.statistics.counters;
        counters.turns += 1;
        counters.busy_ns += turn_ns;
        self.fabric.statistics.histograms.record(Stage::Turn, TrafficClass::Control, turn_ns, 1);
        self.decide_how_to_wait(ended_ns);
    }

    /// Accounts for the time since the last turn under the mode that was in force, and lets the
    /// policy see what this one brought.
    fn decide_how_to_wait(&mut self, ended_ns: u64) {
        let elapsed_ns = ended_ns - self.ended_ns;
        self.ended_ns = ended_ns;
        let counters = &mut self.fabric.statistics.counters;
        match self.waiting.mode() {
            WaitMode::Sleep => {}
            WaitMode::Spin => counters.spinning_ns += elapsed_ns,
            WaitMode::Gather => counters.gathering_ns += elapsed_ns,
        }
        if self.in_vain {
            counters.empty_spins_ns += elapsed_ns;
        }
        // A core that only relays datagrams is as busy as one that only has links.
        let receives =
            counters.receives + counters.udp_messages_received + counters.turn_stream_receives;
        self.waiting.turn_ended(ended_ns, receives);
        if self.waiting.window_is_over(ended_ns) {
            let work = Work {
                turns: counters.turns,
                receives,
                records: counters.records_opened,
                frames: counters.frames_in,
            };
            self.waiting.judge(ended_ns, clock::thread_cpu_ns(), work);
            self.port.wait_at_least(self.waiting.least_wait());
        }
    }

    fn fire_timers(&mut self) {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(self.now_ns, &mut fired);
        for (slot, generation) in fired.drain(..) {
            let Some(connection) = self.connections.get_mut(slot, generation) else { continue };
            // Left over from before its deadline was moved forward.
            if connection.timer_ns > self.now_ns {
                continue;
            }
            connection.timer_ns = u64::MAX;
            if connection.deadline_ns > self.now_ns {
                self.set_timer(slot);
            } else {
                self.on_deadline(slot);
            }
        }
        self.fired = fired;
    }

    // Connections

    /// Whether there is no room for one more connection that may become a link.
    fn is_full(&self) -> bool {
        let limits = &self.snapshot.limits;
        self.half_open >= limits.half_open || self.links >= limits.links
    }

    fn insert(&mut self, connection: Connection) -> u32 {
        let (slot, _) = self.connections.insert(connection);
        self.set_timer(slot);
        slot
    }

    /// Moves a connection's deadline. Earlier deadlines set a further timer, later ones are found
    /// out about when the one that is set fires.
    fn set_deadline(&mut self, slot: u32, deadline_ns: u64) {
        let Some(connection) = self.connections.at_mut(slot) else { return };
        connection.deadline_ns = deadline_ns;
        self.set_timer(slot);
    }

    fn set_timer(&mut self, slot: u32) {
        let generation = self.connections.generation_at(slot);
        if let Some(connection) = self.connections.at_mut(slot)
            && connection.deadline_ns < connection.timer_ns
        {
            connection.timer_ns = connection.deadline_ns;
            self.wheel.set(connection.deadline_ns, (slot, generation));
        }
    }

    fn after(&self, duration: Duration) -> u64 {
        self.now_ns + nanos(duration)
    }

    fn slot_of(&self, stream: StreamKey) -> Option<u32> {
        *self.by_stream.get(stream.0 as usize)?
    }

    fn set_slot_of(&mut self, stream: StreamKey, slot: u32) {
        let place = stream.0 as usize;
        if self.by_stream.len() <= place {
            self.by_stream.resize(place + 1, None);
        }
        self.by_stream[place] = Some(slot);
    }

    fn place(&self, slot: u32) -> Place {
        Place { slot, generation: self.connections.generation_at(slot) }
    }

    fn link_tag(&self, slot: u32) -> LinkTag {
        let generation = self.connections.generation_at(slot);
        LinkTag { core: self.fabric.core, slot, generation }
    }

    fn socket_tag(&self, slot: u32) -> SocketTag {
        let generation = self.connections.generation_at(slot);
        SocketTag { core: self.fabric.core, slot, generation }
    }

    /// Puts blocks and buffers back where they came from.
    fn recycle(&mut self, segments: Segments) {
        for segment in segments {
            self.recycle_segment(segment);
        }
    }

    fn recycle_segment(&mut self, segment: Segment) {
        match segment {
            Segment::Block { block, .. } => self.fabric.pool.give_back(block),
            Segment::Receive { buffer, .. } => self.port.release(buffer),
        }
    }

    // What others see

    /// The port, for tests that look at its buffers.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// Blocks in use, for tests that look for leaks.
    pub fn blocks_in_use(&self) -> usize {
        self.fabric.pool.in_use()
    }

    /// Bytes of queue memory in use, for tests that wait for a full window.
    pub fn queued_bytes(&self) -> usize {
        self.fabric.switch.queue_bytes_in_use()
    }

    /// Sessions and connections now, for tests that look for leaks.
    pub fn load(&self) -> (usize, usize) {
        (self.fabric.switch.sessions(), self.connections.len())
    }

    /// Sends a few bytes outside of any record. They must fit a block.
    fn send_bytes(&mut self, stream: StreamKey, bytes: &[u8]) {
        let Some(mut block) = self.fabric.pool.take() else {
            // The peer will find the connection silent, and its deadline ends it.
            self.fabric.count_drop(DropReason::BufferExhausted, bytes.len());
            return;
        };
        block[..bytes.len()].copy_from_slice(bytes);
        let mut segments = Segments::new();
        segments.push(Segment::Block { block, range: 0..bytes.len() });
        self.port.send(stream, segments);
    }

    fn entropy(&mut self) -> &mut Entropy {
        &mut self.fabric.entropy
    }

    /// Closes whatever lies behind doomed links.
    fn close_doomed(&mut self) {
        while let Some((slot, reason)) = self.fabric.doomed.pop() {
            self.close(slot, Some(reason), CloseMode::Reset);
        }
    }
}

/// A duration in nanoseconds, cut to some centuries so that sums with a time cannot overflow.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

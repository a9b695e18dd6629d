//! The generator's loop, and the rounds it runs: warm up, measure, stop, count.

use crate::load::clock::{Clock, sleep_precisely};
use crate::load::processor::{Reading, Spent, Watched};
use crate::swarm::connection::{Connection, Layer, PLAIN};
use crate::swarm::dial::{self, Dialed, RelayAddress};
use crate::swarm::flow::{End, Flow, Moment, Side};
use crate::swarm::limits::{
    EVENTS_MAX, LATENCY_DIGITS, LATENCY_NS_MAX, READ_BYTES, STALL, WAIT, WINDOW_BYTES,
};
use crate::swarm::link::{Heard, LinkLayer};
use crate::swarm::sealed::Sealed;
use crate::swarm::shape::{Layout, Shape};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::time::Timespec;
use std::collections::HashMap;
use std::net::TcpStream;
use std::time::Duration;
use waystation_astral::aead::AeadSuite;
use waystation_astral::frame::Frame;

/// What one round measured.
#[derive(Clone, Debug)]
pub struct Round {
    /// Length of the measured part, in seconds.
    pub seconds: f64,
    /// Messages that reached the end of their way in it, by flow.
    pub messages: Vec<u64>,
    pub spent: Spent,
    /// Processor time of the generator, in nanoseconds.
    pub generator_ns: u64,
    /// Latencies by shape, in nanoseconds.
    pub latency: Vec<Histogram<u64>>,
    /// What the generator's links sealed in it.
    pub sealed: Sealed,
}

/// All flows of one generator.
#[derive(Debug)]
pub struct Swarm {
    clock: Clock,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Which side of its flows a connection is on.
    sides: Vec<Side>,
    /// Whose bytes come under which nonce, by connection.
    routes: Vec<HashMap<u64, (usize, Side)>>,
    flows: Vec<Flow>,
    kinds: usize,
    /// Connections that have something to write in this turn.
    dirty: Vec<usize>,
    is_dirty: Vec<bool>,
    /// Flows to be looked at in this turn.
    touched: Vec<usize>,
    scratch: Vec<u8>,
    message: Vec<u8>,
    /// Whether the processor is left to others until a paced message is due.
    sleeps: bool,
}

/// Makes the link of one end.
pub type Dial<'a> = &'a mut dyn FnMut(Side, Layout) -> Result<Dialed>;

/// What can be read at a moment.
struct Look {
    now_ns: u64,
    arrived: Vec<u64>,
    sealed: Sealed,
    relay: Reading,
    own: Reading,
}

/// How far a round has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    WarmUp,
    Measuring,
    Draining,
}

impl Swarm {
    /// Flows over links of their own through a relay.
    ///
    /// # Errors
    ///
    /// Says which flow could not be set up, and why.
    pub fn through_links(relay: &RelayAddress, shapes: &[Shape], clock: Clock) -> Result<Self> {
        Self::through_dialed(shapes, clock, &mut |_side, layout| dial::dial(relay, layout))
    }

    /// Flows over links that `dial` makes, one for each end that needs one.
    ///
    /// # Errors
    ///
    /// As [`Swarm::through_links`].
    pub fn through_dialed(shapes: &[Shape], clock: Clock, dial: Dial<'_>) -> Result<Self> {
        let mut swarm = Self::empty(shapes.len(), clock)?;
        let mut number = 0;
        for (kind, shape) in shapes.iter().enumerate() {
            let mut destinations = Vec::new();
            for flow in 0..shape.flows {
                let place = (flow % shape.destinations.max(1)) as usize;
                swarm
                    .route_one(dial, (kind, shape), number, &mut destinations, place)
                    .with_context(|| format!("setting up flow {number}"))?;
                number += 1;
            }
        }
        swarm.watch()?;
        Ok(swarm)
    }

    fn route_one(
        &mut self,
        dial: Dial<'_>,
        (kind, shape): (usize, &Shape),
        number: u32,
        destinations: &mut Vec<(usize, waystation_astral::identity::Identity)>,
        place: usize,
    ) -> Result<()> {
        if place == destinations.len() {
            let far = dial(Side::Far, shape.layout)?;
            destinations.push((self.add_connection(far.connection, Side::Far), far.identity));
        }
        let (far_index, target) = *destinations.get(place).context("no such destination")?;
        let mut near = dial(Side::Near, shape.layout)?.connection;
        let far = self.connections.get_mut(far_index).context("no such connection")?;
        let first_nonce = (u64::from(number) + 1) << 16;
        let (near_end, far_end) = dial::route(&mut near, far, &target, first_nonce, self.clock)?;
        let near_index = self.add_connection(near, Side::Near);
        let near = End::new(near_index, near_end.nonce, near_end.credit_bytes);
        let far = End::new(far_index, far_end.nonce, far_end.credit_bytes);
        self.add_flow(number, (kind, shape), near, far)
    }

    /// Flows over plain connections, one pair of connections each; the first of a pair sends.
    ///
    /// # Errors
    ///
    /// When there are fewer pairs than flows, or a connection cannot be set up.
    pub fn through_streams(
        pairs: Vec<(TcpStream, TcpStream)>,
        shape: &Shape,
        clock: Clock,
    ) -> Result<Self> {
        let mut swarm = Self::empty(1, clock)?;
        if pairs.len() < shape.flows as usize {
            bail!("{} pairs of connections for {} flows", pairs.len(), shape.flows);
        }
        for (number, (near, far)) in (0..shape.flows).zip(pairs) {
            let single = shape.layout == Layout::Single;
            let mut add = |stream, side| -> Result<End> {
                let connection = Connection::new(stream, Layer::Plain { single })?;
                Ok(End::new(swarm.add_connection(connection, side), PLAIN, u64::MAX / 2))
            };
            let (near, far) = (add(near, Side::Near)?, add(far, Side::Far)?);
            swarm.add_flow(number, (0, shape), near, far)?;
        }
        swarm.watch()?;
        Ok(swarm)
    }

    /// Flows over links that are made of plain connections, one pair of connections each; the ends
    /// seal for each other, and whoever is between them passes sealed bytes on. Records, writes and
    /// acknowledgements are those of flows through a relay.
    ///
    /// # Errors
    ///
    /// As [`Swarm::through_streams`], and when two ends cannot agree on keys.
    pub fn through_sealed_streams(
        pairs: Vec<(TcpStream, TcpStream)>,
        shape: &Shape,
        suite: AeadSuite,
        clock: Clock,
    ) -> Result<Self> {
        let mut swarm = Self::empty(1, clock)?;
        if pairs.len() < shape.flows as usize {
            bail!("{} pairs of connections for {} flows", pairs.len(), shape.flows);
        }
        for (number, (near, far)) in (0..shape.flows).zip(pairs) {
            let (near_keys, far_keys) = dial::agree(suite)?;
            let mut add = |stream, keys, side| -> Result<End> {
                let link = Box::new(LinkLayer::new(keys, shape.layout, &[])?);
                let connection = Connection::new(stream, Layer::Link(link))?;
                let index = swarm.add_connection(connection, side);
                Ok(End::new(index, u64::from(number) + 1, u64::from(WINDOW_BYTES)))
            };
            let (near, far) = (add(near, near_keys, Side::Near)?, add(far, far_keys, Side::Far)?);
            swarm.add_flow(number, (0, shape), near, far)?;
        }
        swarm.watch()?;
        Ok(swarm)
    }

    fn empty(kinds: usize, clock: Clock) -> Result<Self> {
        Ok(Self {
            clock,
            epoll: epoll::create(CreateFlags::CLOEXEC).context("creating an epoll set")?,
            connections: Vec::new(),
            sides: Vec::new(),
            routes: Vec::new(),
            flows: Vec::new(),
            kinds,
            dirty: Vec::new(),
            is_dirty: Vec::new(),
            touched: Vec::new(),
            scratch: vec![0; READ_BYTES],
            message: Vec::new(),
            sleeps: false,
        })
    }

    /// Leaves the processor to others until a paced message is due, instead of looking at the clock:
    /// for generators that others share their processor with.
    ///
    /// # Errors
    ///
    /// When the kernel does not let sleeps end on time.
    pub fn sleep_until_due(&mut self) -> Result<()> {
        self.sleeps = true;
        Ok(sleep_precisely()?)
    }

    fn add_connection(&mut self, connection: Connection, side: Side) -> usize {
        self.connections.push(connection);
        self.sides.push(side);
        self.routes.push(HashMap::new());
        self.is_dirty.push(false);
        self.connections.len() - 1
    }

    fn add_flow(
        &mut self,
        number: u32,
        (kind, shape): (usize, &Shape),
        near: End,
        far: End,
    ) -> Result<()> {
        let index = self.flows.len();
        for (end, side) in [(&near, Side::Near), (&far, Side::Far)] {
            let routes = self.routes.get_mut(end.connection).context("no such connection")?;
            routes.insert(end.nonce, (index, side));
        }
        self.flows.push(Flow::new(number, kind, *shape, near, far)?);
        Ok(())
    }

    fn watch(&self) -> Result<()> {
        for (number, connection) in (0..).zip(&self.connections) {
            epoll::add(&self.epoll, &connection.stream, EventData::new_u64(number), EventFlags::IN)
                .context("watching a connection")?;
        }
        Ok(())
    }

    /// Runs one round and waits until every message of it has arrived.
    ///
    /// # Errors
    ///
    /// Loss, corruption, an ended connection, or unreadable processor times.
    pub fn round(
        &mut self,
        warm_up: Duration,
        measured: Duration,
        watched: &Watched,
    ) -> Result<Round> {
        let start_ns = self.clock.now_ns();
        let mut stage = Stage::WarmUp;
        let mut stage_ends_ns = start_ns + nanoseconds(warm_up);
        let (mut before, mut after) = (None, None);
        let (mut arrived, mut progress_ns) = (0, start_ns);
        self.begin(start_ns);
        loop {
            self.turn(stage)?;
            let now_ns = self.clock.now_ns();
            match stage {
                Stage::WarmUp if now_ns >= stage_ends_ns => {
                    let look = self.look(watched)?;
                    (stage, stage_ends_ns) =
                        (Stage::Measuring, look.now_ns + nanoseconds(measured));
                    before = Some(look);
                }
                Stage::Measuring if now_ns >= stage_ends_ns => {
                    stage = Stage::Draining;
                    after = Some(self.look(watched)?);
                    self.touch_all();
                }
                Stage::Draining if self.flows.iter().all(Flow::is_drained) => break,
                _ => {}
            }
            let arrived_now = self.flows.iter().map(Flow::arrived).sum::<u64>();
            if arrived_now != arrived {
                (arrived, progress_ns) = (arrived_now, now_ns);
            } else if now_ns - progress_ns > nanoseconds(STALL) {
                let sent: u64 = self.flows.iter().map(Flow::sent).sum();
                bail!("{sent} messages were sent and {arrived} came through");
            }
        }
        let (Some(before), Some(after)) = (before, after) else { bail!("a round without end") };
        self.result(&before, &after, watched)
    }

    fn begin(&mut self, now_ns: u64) {
        let flows = self.flows.len() as f64;
        for (index, flow) in self.flows.iter_mut().enumerate() {
            flow.begin(now_ns, index as f64 / flows);
        }
        self.touch_all();
    }

    fn touch_all(&mut self) {
        for (index, flow) in self.flows.iter_mut().enumerate() {
            if !flow.touched {
                flow.touched = true;
                self.touched.push(index);
            }
        }
    }

    /// Send, write, wait, read.
    fn turn(&mut self, stage: Stage) -> Result<()> {
        let now_ns = self.clock.now_ns();
        let mut due_ns = u64::MAX;
        for (index, flow) in self.flows.iter_mut().enumerate() {
            let Some(flow_due_ns) = flow.due_ns() else { continue };
            due_ns = due_ns.min(flow_due_ns);
            if flow_due_ns <= now_ns && !flow.touched {
                flow.touched = true;
                self.touched.push(index);
            }
        }
        self.look_after_touched(now_ns, stage == Stage::Draining)?;
        self.write_dirty()?;
        // A schedule is kept by looking at the clock: a timer comes up to 50 us late.
        let wait = match due_ns {
            u64::MAX => WAIT,
            _ if self.sleeps => Duration::from_nanos(due_ns.saturating_sub(now_ns)).min(WAIT),
            _ => Duration::ZERO,
        };
        self.read_ready(wait, stage == Stage::Measuring)
    }

    fn look_after_touched(&mut self, now_ns: u64, stopping: bool) -> Result<()> {
        let mut touched = std::mem::take(&mut self.touched);
        for index in touched.drain(..) {
            let Some(flow) = self.flows.get_mut(index) else { continue };
            flow.touched = false;
            let far = flow.far.connection;
            if let Some(connection) = self.connections.get_mut(far)
                && flow.answer(connection)?
            {
                mark(&mut self.dirty, &mut self.is_dirty, far);
            }
            let near = flow.near.connection;
            if let Some(connection) = self.connections.get_mut(near)
                && flow.send(connection, now_ns, stopping, &mut self.message)?
            {
                mark(&mut self.dirty, &mut self.is_dirty, near);
            }
        }
        self.touched = touched;
        Ok(())
    }

    fn write_dirty(&mut self) -> Result<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            if let Some(is_dirty) = self.is_dirty.get_mut(index) {
                *is_dirty = false;
            }
            if !connection.write()? {
                let wanted = EventFlags::IN | EventFlags::OUT;
                let number = EventData::new_u64(index as u64);
                epoll::modify(&self.epoll, &connection.stream, number, wanted)?;
            }
        }
        self.dirty = dirty;
        Ok(())
    }

    fn read_ready(&mut self, wait: Duration, measuring: bool) -> Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        let wait = Timespec::try_from(wait).context("a wait too long")?;
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let (number, flags) = (event.data.u64(), event.flags);
            let index = usize::try_from(number)?;
            if flags.contains(EventFlags::OUT)
                && let Some(connection) = self.connections.get_mut(index)
                && connection.write()?
            {
                let number = EventData::new_u64(number);
                epoll::modify(&self.epoll, &connection.stream, number, EventFlags::IN)?;
                self.touch_flows_of(index);
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                self.read_one(index, measuring)?;
            }
        }
        Ok(())
    }

    fn touch_flows_of(&mut self, connection: usize) {
        let Some(routes) = self.routes.get(connection) else { return };
        for (index, _side) in routes.values() {
            touch(&mut self.flows, &mut self.touched, *index);
        }
    }

    fn read_one(&mut self, index: usize, measuring: bool) -> Result<()> {
        let Self { connections, routes, flows, touched, scratch, clock, dirty, is_dirty, .. } =
            self;
        let (Some(connection), Some(routes)) = (connections.get_mut(index), routes.get(index))
        else {
            return Ok(());
        };
        let mut at = None;
        connection.read(scratch, &mut |heard| {
            let at = *at.get_or_insert_with(|| Moment { now_ns: clock.now_ns(), measuring });
            let nonce = match &heard {
                Heard::Bytes { nonce, .. }
                | Heard::Frame(Frame::Read { nonce, .. } | Frame::Reset { nonce }) => *nonce,
                Heard::Frame(_) => return Ok(()),
            };
            let Some((flow_index, side)) = routes.get(&nonce).copied() else { return Ok(()) };
            let Some(flow) = flows.get_mut(flow_index) else { return Ok(()) };
            match heard {
                Heard::Bytes { bytes, ends_frame, .. } => flow.take(side, bytes, ends_frame, at)?,
                Heard::Frame(Frame::Read { bytes, .. }) => match side {
                    Side::Near => flow.near.take_credit(bytes),
                    Side::Far => flow.far.take_credit(bytes),
                },
                Heard::Frame(_) => bail!("the relay reset flow {flow_index}"),
            }
            touch(flows, touched, flow_index);
            Ok(())
        })?;
        // A pong may have been laid down.
        mark(dirty, is_dirty, index);
        Ok(())
    }

    fn look(&self, watched: &Watched) -> Result<Look> {
        let mut sealed = Sealed::default();
        for (connection, side) in self.connections.iter().zip(&self.sides) {
            let sum = match side {
                Side::Near => &mut sealed.near,
                Side::Far => &mut sealed.far,
            };
            if let Some(records) = connection.sealed() {
                sum.add(records);
            }
        }
        Ok(Look {
            now_ns: self.clock.now_ns(),
            arrived: self.flows.iter().map(Flow::arrived).collect(),
            sealed,
            relay: watched.read().context("reading the relay's processor time")?,
            own: Watched::Process(std::process::id()).read()?,
        })
    }

    fn result(&self, before: &Look, after: &Look, watched: &Watched) -> Result<Round> {
        let spent = after.relay.since(&before.relay);
        let own_ns = after.own.since(&before.own).total_ns;
        // A relay that is a thread of this process is not the generator.
        let relay_ns = if matches!(watched, Watched::Thread(_)) { spent.total_ns } else { 0 };
        let mut latency = Vec::new();
        for kind in 0..self.kinds {
            let mut sum = Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)?;
            for flow in self.flows.iter().filter(|flow| flow.kind == kind) {
                sum.add(&flow.latency)?;
            }
            latency.push(sum);
        }
        Ok(Round {
            seconds: (after.now_ns - before.now_ns) as f64 / 1e9,
            messages: after.arrived.iter().zip(&before.arrived).map(|(a, b)| a - b).collect(),
            spent,
            generator_ns: own_ns.saturating_sub(relay_ns),
            latency,
            sealed: after.sealed.since(&before.sealed),
        })
    }

    /// Messages compared since the flows exist. Between rounds everything sent has arrived.
    pub fn messages_checked(&self) -> u64 {
        self.flows.iter().map(Flow::arrived).sum()
    }
}

fn touch(flows: &mut [Flow], touched: &mut Vec<usize>, index: usize) {
    if let Some(flow) = flows.get_mut(index)
        && !flow.touched
    {
        flow.touched = true;
        touched.push(index);
    }
}

fn mark(dirty: &mut Vec<usize>, is_dirty: &mut [bool], index: usize) {
    if let Some(is_dirty) = is_dirty.get_mut(index)
        && !*is_dirty
    {
        *is_dirty = true;
        dirty.push(index);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

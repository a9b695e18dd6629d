//! The signalling hub, sans-IO (specification §19.4): agents register, callers meet them in rooms.
//!
//! Owns who is connected, registered and in which room, and every limit on that. Whoever owns the
//! sockets tells of connections, requests, messages and time, and does the [`Action`]s. Nobody here
//! has proved who they are, so everything is counted by source, bounded and timed out; what two
//! parties say in a room is copied byte for byte and never looked at. Nothing here blocks.

mod frame;
mod registry;
mod request;
mod sources;
mod statistics;

pub use frame::{FrameError, PunchAddresses, SignalFrame};
pub use request::{Call, HubRequest, IceRequest, RequestError, room_id, with_room};
pub use statistics::{CloseReason, HubStatistics, Ignored, Refusal};

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::limits::{
    HUB_AGENT_BYTES_MAX, HUB_CONNECTIONS_DEFAULT, HUB_CONNECTIONS_PER_SOURCE_DEFAULT,
    HUB_CONTEST_MS, HUB_EARLY_BYTES_MAX, HUB_EARLY_MESSAGES_MAX, HUB_REGISTRATIONS_DEFAULT,
    HUB_REGISTRATIONS_PER_CONNECTION_DEFAULT, HUB_REGISTRATIONS_PER_SOURCE_DEFAULT, HUB_REQUEST_MS,
    HUB_ROOM_BYTES, HUB_ROOM_IDLE_MS, HUB_ROOM_MESSAGES, HUB_ROOMS_DEFAULT, HUB_SIGNAL_IDLE_MS,
    HUB_SIGNAL_MESSAGES, HUB_WAIT_MS, HUB_WAITING_PER_SOURCE_DEFAULT,
};
use crate::rate::TokenBucket;
use crate::time::Millis;
use registry::{Contest, Registry};
use sources::{Source, Sources};

/// The WebSocket subprotocol of both paths.
pub const SUBPROTOCOL: &str = "a2al.ice.v1";

/// Names a connection; never used again.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId(pub u64);

/// What an operator decides about a hub.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HubLimits {
    /// Connections at a time.
    pub connections_max: usize,
    /// Those of one source: an IPv4 address or a /56 of IPv6.
    pub connections_per_source_max: usize,
    /// Names registered at a time.
    pub registrations_max: usize,
    /// Those of one connection.
    pub registrations_per_connection_max: usize,
    /// Those of one source.
    pub registrations_per_source_max: usize,
    /// Rooms at a time, those in which one party waits included.
    pub rooms_max: usize,
    /// Rooms in which one source waits for a second party.
    pub waiting_per_source_max: usize,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            connections_max: HUB_CONNECTIONS_DEFAULT,
            connections_per_source_max: HUB_CONNECTIONS_PER_SOURCE_DEFAULT,
            registrations_max: HUB_REGISTRATIONS_DEFAULT,
            registrations_per_connection_max: HUB_REGISTRATIONS_PER_CONNECTION_DEFAULT,
            registrations_per_source_max: HUB_REGISTRATIONS_PER_SOURCE_DEFAULT,
            rooms_max: HUB_ROOMS_DEFAULT,
            waiting_per_source_max: HUB_WAITING_PER_SOURCE_DEFAULT,
        }
    }
}

/// A message of a WebSocket. Text is not what this protocol says, but in a room it stays what it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HubMessage {
    /// Bytes.
    Binary(Vec<u8>),
    /// Text.
    Text(String),
}

impl HubMessage {
    /// Bytes of what it says.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Binary(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
        }
    }
}

/// What has to be done to a connection, in this order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Send a message.
    Send {
        /// Whom to.
        to: ConnectionId,
        /// What.
        message: HubMessage,
    },
    /// Ask whether it is there; the answer is told with [`Hub::hear_control`].
    Ping {
        /// Whom to ask.
        to: ConnectionId,
    },
    /// Ask the DHT's node, and tell its answer with [`Hub::answer`].
    Ask {
        /// Who asks.
        from: ConnectionId,
        /// The address it asks from.
        source: SocketAddr,
        /// The signed message.
        request: Vec<u8>,
    },
    /// Send what is queued, and end it; that is told with [`Hub::closed`].
    Close {
        /// Which one.
        connection: ConnectionId,
        /// Why.
        why: CloseReason,
        /// Whether there is a WebSocket by now that could be told.
        is_open: bool,
    },
}

/// Why a request is not followed by a WebSocket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestRefusal {
    /// It is none of this protocol: status 400, or 404 for the path.
    Bad(RequestError),
    /// There is too much of something: status 429 if that is the source's doing, else 503.
    Busy(Refusal),
}

/// How much there is of what.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HubGauges {
    /// Connections, those that are about to end included.
    pub connections: usize,
    /// Sources that have something.
    pub sources: usize,
    /// Names registered.
    pub registrations: usize,
    /// Rooms with one party.
    pub rooms_waiting: usize,
    /// Rooms with two.
    pub rooms_paired: usize,
}

#[derive(Debug)]
enum Role {
    /// Its request has not come.
    Opening,
    Signal {
        names: BTreeSet<Arc<str>>,
        messages: TokenBucket,
    },
    /// In the room of that name, or on the way out if there is none.
    InRoom(Arc<str>),
    /// Nothing counts any more but that it is still there.
    Ending,
}

#[derive(Debug)]
struct Connection {
    source: Source,
    peer: SocketAddr,
    role: Role,
    /// When it ends unless something happens; none while it is ending.
    ends_at: Option<Millis>,
    /// Messages and answers to pings.
    heard: u64,
}

#[derive(Debug)]
struct Room {
    first: ConnectionId,
    second: Option<ConnectionId>,
    early: Vec<HubMessage>,
    early_bytes: usize,
    messages: TokenBucket,
    bytes: TokenBucket,
}

/// A hub.
#[derive(Debug)]
pub struct Hub {
    limits: HubLimits,
    connections: BTreeMap<ConnectionId, Connection>,
    ends: BTreeSet<(Millis, ConnectionId)>,
    next_id: u64,
    registry: Registry,
    rooms: HashMap<Arc<str>, Room>,
    rooms_waiting: usize,
    sources: Sources,
    actions: VecDeque<Action>,
    statistics: HubStatistics,
}

impl Hub {
    /// A hub with nobody there.
    pub fn new(limits: HubLimits) -> Self {
        Self {
            limits,
            connections: BTreeMap::new(),
            ends: BTreeSet::new(),
            next_id: 0,
            registry: Registry::default(),
            rooms: HashMap::new(),
            rooms_waiting: 0,
            sources: Sources::new(),
            actions: VecDeque::new(),
            statistics: HubStatistics::default(),
        }
    }

    /// Other limits from now on; what is beyond them stays.
    pub fn set_limits(&mut self, limits: HubLimits) {
        self.limits = limits;
    }

    /// Counters.
    pub fn statistics(&self) -> &HubStatistics {
        &self.statistics
    }

    /// How much there is.
    pub fn gauges(&self) -> HubGauges {
        HubGauges {
            connections: self.connections.len(),
            sources: self.sources.len(),
            registrations: self.registry.len(),
            rooms_waiting: self.rooms_waiting,
            rooms_paired: self.rooms.len() - self.rooms_waiting,
        }
    }

    /// Something to do, if there is something. All of it, before the next event.
    pub fn take_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Hub::tick`] has something to do.
    pub fn next_tick(&self) -> Option<Millis> {
        let ends_at = self.ends.first().map(|(ends_at, _)| *ends_at);
        [ends_at, self.registry.next_due()].into_iter().flatten().min()
    }

    /// A connection has come.
    ///
    /// # Errors
    /// Why it is turned away; nothing is kept of it then.
    pub fn connect(&mut self, peer: SocketAddr, now: Millis) -> Result<ConnectionId, Refusal> {
        let source = Source::of(peer.ip());
        if let Err(refusal) = self.check_arrival(source, now) {
            self.statistics.refuse(refusal);
            return Err(refusal);
        }
        self.statistics.connections += 1;
        self.next_id += 1;
        let id = ConnectionId(self.next_id);
        let connection = Connection { source, peer, role: Role::Opening, ends_at: None, heard: 0 };
        self.connections.insert(id, connection);
        self.sources.change(source, |holding| holding.connections += 1);
        self.end_later(id, now.plus(HUB_REQUEST_MS));
        Ok(id)
    }

    /// A connection's request has come: its path, and what is behind the question mark.
    ///
    /// # Errors
    /// Why there will be no WebSocket. The connection ends when that is said.
    pub fn request(
        &mut self,
        id: ConnectionId,
        path: &str,
        query: &str,
        now: Millis,
    ) -> Result<(), RequestRefusal> {
        let source = match self.connections.get(&id) {
            Some(Connection { source, role: Role::Opening, .. }) => *source,
            // It was ended for being late, or has asked before.
            Some(_) | None => return Err(RequestRefusal::Busy(Refusal::Connections)),
        };
        let outcome = match HubRequest::parse(path, query) {
            Ok(HubRequest::Signal) => {
                let messages = TokenBucket::full(HUB_SIGNAL_MESSAGES, now);
                self.set_role(id, Role::Signal { names: BTreeSet::new(), messages });
                self.end_later(id, now.plus(HUB_SIGNAL_IDLE_MS));
                Ok(())
            }
            Ok(HubRequest::Ice(ice)) => self.meet(id, source, ice, now).map_err(|refusal| {
                self.statistics.refuse(refusal);
                RequestRefusal::Busy(refusal)
            }),
            Err(error) => {
                self.statistics.refuse(Refusal::BadRequest);
                Err(RequestRefusal::Bad(error))
            }
        };
        if outcome.is_err() {
            self.set_role(id, Role::Ending);
            self.end_never(id);
        }
        outcome
    }

    /// A connection has asked for something that is no WebSocket. It ends when that is said.
    pub fn refuse(&mut self, id: ConnectionId) {
        self.statistics.refuse(Refusal::BadRequest);
        self.leave(id);
    }

    /// A connection has sent a message.
    pub fn receive(&mut self, id: ConnectionId, message: HubMessage, now: Millis) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.heard += 1;
        match &mut connection.role {
            Role::Signal { messages, .. } => {
                if messages.take(1, HUB_SIGNAL_MESSAGES, now) {
                    let peer = connection.peer;
                    self.end_later(id, now.plus(HUB_SIGNAL_IDLE_MS));
                    self.hear_agent(id, peer, &message, now);
                } else {
                    self.close(id, CloseReason::TooFast);
                }
            }
            Role::InRoom(name) => {
                let name = Arc::clone(name);
                self.hear_party(id, &name, message, now);
            }
            Role::Opening | Role::Ending => {}
        }
    }

    /// A connection has sent a ping or answered one. It counts as a message does, or one could send
    /// as many as its line takes.
    pub fn hear_control(&mut self, id: ConnectionId, now: Millis) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.heard += 1;
        let (messages, rate) = match &mut connection.role {
            Role::Signal { messages, .. } => (messages, HUB_SIGNAL_MESSAGES),
            Role::InRoom(name) => match self.rooms.get_mut(name) {
                Some(room) => (&mut room.messages, HUB_ROOM_MESSAGES),
                None => return,
            },
            Role::Opening | Role::Ending => return,
        };
        if !messages.take(1, rate, now) {
            self.close(id, CloseReason::TooFast);
        }
    }

    /// What the node says to a question; none if it does not answer it.
    pub fn answer(&mut self, id: ConnectionId, answer: Option<Vec<u8>>) {
        match answer {
            Some(message) => {
                self.statistics.answers += 1;
                self.say(id, &SignalFrame::Dht { message });
            }
            None => self.statistics.ignore(Ignored::Question),
        }
    }

    /// A question was not even asked: as many wait for their answers as may.
    pub fn too_many_questions(&mut self) {
        self.statistics.ignore(Ignored::QuestionsWaiting);
    }

    /// A connection does not take what it is sent. It ends.
    pub fn is_slow(&mut self, id: ConnectionId) {
        self.close(id, CloseReason::SlowReader);
    }

    /// A connection is gone.
    pub fn closed(&mut self, id: ConnectionId) {
        self.leave(id);
        self.end_never(id);
        if let Some(connection) = self.connections.remove(&id) {
            self.sources.change(connection.source, |holding| holding.connections -= 1);
        }
    }

    /// Ends what is due, and decides who has the names that two sources want.
    pub fn tick(&mut self, now: Millis) {
        while let Some(&(ends_at, id)) = self.ends.first()
            && ends_at <= now
        {
            let why = self.overdue(id);
            self.close(id, why);
        }
        while let Some(name) = self.registry.due(now) {
            let Some(contest) = self.registry.end_contest(&name) else { break };
            let holder = self.registry.holder(&name);
            let heard = holder.and_then(|id| self.connections.get(&id)).map(|held| held.heard);
            if heard.is_some_and(|heard| heard != contest.heard) {
                self.statistics.contests_kept += 1;
            } else if let Some(holder) = holder {
                self.hand_over(&name, holder, contest.contender);
            }
        }
    }

    fn check_arrival(&mut self, source: Source, now: Millis) -> Result<(), Refusal> {
        let limits = &self.limits;
        if self.connections.len() >= limits.connections_max {
            return Err(Refusal::Connections);
        }
        if self.sources.holding(source).connections >= limits.connections_per_source_max {
            return Err(Refusal::ConnectionsOfSource);
        }
        let may_arrive = self.sources.may_arrive(source, now);
        if may_arrive { Ok(()) } else { Err(Refusal::ArrivalsOfSource) }
    }

    // Agents

    fn hear_agent(
        &mut self,
        id: ConnectionId,
        peer: SocketAddr,
        message: &HubMessage,
        now: Millis,
    ) {
        let frame = match message {
            HubMessage::Binary(bytes) => SignalFrame::decode(bytes).ok(),
            HubMessage::Text(_) => None,
        };
        match frame {
            Some(SignalFrame::Register { agent }) => match self.register(id, &agent, now) {
                Ok(()) => self.say(id, &SignalFrame::Acknowledged),
                Err(reason) => self.statistics.ignore(reason),
            },
            Some(SignalFrame::Dht { message: request }) => {
                self.actions.push_back(Action::Ask { from: id, source: peer, request });
            }
            Some(
                SignalFrame::Acknowledged
                | SignalFrame::NoAgent
                | SignalFrame::Incoming { .. }
                | SignalFrame::Credentials { .. }
                | SignalFrame::Candidate { .. }
                | SignalFrame::EndOfCandidates
                | SignalFrame::PunchBegin(_)
                | SignalFrame::PunchAnswer(_)
                | SignalFrame::PunchGo,
            )
            | None => self.statistics.ignore(Ignored::Frame),
        }
    }

    fn register(&mut self, id: ConnectionId, agent: &str, now: Millis) -> Result<(), Ignored> {
        if agent.is_empty() || agent.len() > HUB_AGENT_BYTES_MAX {
            return Err(Ignored::AgentName);
        }
        let Some(holder) = self.registry.holder(agent) else {
            if self.registry.len() >= self.limits.registrations_max {
                return Err(Ignored::Registrations);
            }
            return self.take_name(id, Arc::from(agent));
        };
        let source_of = |id: &ConnectionId| self.connections.get(id).map(|held| held.source);
        if holder == id {
            return Ok(());
        }
        if source_of(&holder) == source_of(&id) {
            // A daemon that has connected anew takes its names with it.
            if self.names_of(id) >= self.limits.registrations_per_connection_max {
                return Err(Ignored::RegistrationsOfConnection);
            }
            self.drop_name(holder, agent);
            return self.take_name(id, Arc::from(agent));
        }
        let heard = self.connections.get(&holder).map_or(0, |held| held.heard);
        let due_at = now.plus(HUB_CONTEST_MS);
        if self.registry.contest(agent, Contest { contender: id, due_at, heard }) {
            self.actions.push_back(Action::Ping { to: holder });
        }
        Ok(())
    }

    fn names_of(&self, id: ConnectionId) -> usize {
        match self.connections.get(&id).map(|connection| &connection.role) {
            Some(Role::Signal { names, .. }) => names.len(),
            Some(Role::Opening | Role::InRoom(_) | Role::Ending) | None => 0,
        }
    }

    /// Gives a name that nobody has to a connection, within what it and its source may have.
    fn take_name(&mut self, id: ConnectionId, name: Arc<str>) -> Result<(), Ignored> {
        let limits = &self.limits;
        let Some(connection) = self.connections.get_mut(&id) else { return Err(Ignored::Frame) };
        let Role::Signal { names, .. } = &mut connection.role else { return Err(Ignored::Frame) };
        if names.len() >= limits.registrations_per_connection_max {
            return Err(Ignored::RegistrationsOfConnection);
        }
        let holding = self.sources.holding(connection.source);
        if holding.registrations >= limits.registrations_per_source_max {
            return Err(Ignored::RegistrationsOfSource);
        }
        names.insert(Arc::clone(&name));
        self.sources.change(connection.source, |holding| holding.registrations += 1);
        self.registry.set(name, id);
        self.statistics.registrations += 1;
        Ok(())
    }

    fn drop_name(&mut self, id: ConnectionId, name: &str) {
        self.registry.remove(name);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Role::Signal { names, .. } = &mut connection.role
            && names.remove(name)
        {
            self.sources.change(connection.source, |holding| holding.registrations -= 1);
        }
    }

    /// Takes a name from a connection that is gone, or as good as gone, for one that wants it.
    fn hand_over(&mut self, name: &str, holder: ConnectionId, contender: ConnectionId) {
        self.drop_name(holder, name);
        if self.take_name(contender, Arc::from(name)).is_ok() {
            self.statistics.contests_lost += 1;
        }
    }

    // Rooms

    fn meet(
        &mut self,
        id: ConnectionId,
        source: Source,
        ice: IceRequest,
        now: Millis,
    ) -> Result<(), Refusal> {
        let room = self.rooms.get(&*ice.room);
        let (is_new, is_taken) = (room.is_none(), room.is_some_and(|room| room.second.is_some()));
        if ice.call.is_some() && !self.sources.may_call(source, now) {
            return Err(Refusal::CallsOfSource);
        }
        if is_new && self.rooms.len() >= self.limits.rooms_max {
            return Err(Refusal::Rooms);
        }
        let waiting = self.sources.holding(source).waiting;
        if is_new && waiting >= self.limits.waiting_per_source_max {
            return Err(Refusal::WaitingOfSource);
        }
        // From here on there is a WebSocket, and what is wrong is said there.
        self.end_later(id, now.plus(HUB_WAIT_MS));
        if is_taken {
            self.set_role(id, Role::InRoom(Arc::from("")));
            self.close(id, CloseReason::RoomTaken);
            return Ok(());
        }
        if let Some(call) = ice.call {
            let Some(agent) = self.registry.holder(&call.target) else {
                self.set_role(id, Role::InRoom(Arc::from("")));
                self.say(id, &SignalFrame::NoAgent);
                self.close(id, CloseReason::NoAgent);
                return Ok(());
            };
            self.statistics.calls += 1;
            let (caller, target) = (call.caller, call.target);
            let room = ice.room.clone();
            self.say(agent, &SignalFrame::Incoming { room, caller, target });
        }
        let name: Arc<str> = Arc::from(ice.room);
        self.set_role(id, Role::InRoom(Arc::clone(&name)));
        if is_new {
            self.wait(id, source, name, now)
        } else {
            self.pair(id, &name, now)
        }
        Ok(())
    }

    fn wait(&mut self, id: ConnectionId, source: Source, name: Arc<str>, now: Millis) {
        self.sources.change(source, |holding| holding.waiting += 1);
        self.rooms_waiting += 1;
        let room = Room {
            first: id,
            second: None,
            early: Vec::new(),
            early_bytes: 0,
            messages: TokenBucket::full(HUB_ROOM_MESSAGES, now),
            bytes: TokenBucket::full(HUB_ROOM_BYTES, now),
        };
        self.rooms.insert(name, room);
    }

    fn pair(&mut self, id: ConnectionId, name: &str, now: Millis) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        room.second = Some(id);
        let (first, early) = (room.first, std::mem::take(&mut room.early));
        self.rooms_waiting -= 1;
        self.statistics.rooms += 1;
        if let Some(source) = self.connections.get(&first).map(|waited| waited.source) {
            self.sources.change(source, |holding| holding.waiting -= 1);
        }
        for message in early {
            self.copy(id, message);
        }
        self.end_later(first, now.plus(HUB_ROOM_IDLE_MS));
        self.end_later(id, now.plus(HUB_ROOM_IDLE_MS));
    }

    fn hear_party(&mut self, id: ConnectionId, name: &str, message: HubMessage, now: Millis) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let bytes = message.bytes();
        let Some(second) = room.second else {
            let is_full = room.early.len() >= HUB_EARLY_MESSAGES_MAX
                || room.early_bytes + bytes > HUB_EARLY_BYTES_MAX;
            if is_full {
                return self.close(id, CloseReason::TooMuchEarly);
            }
            room.early_bytes += bytes;
            return room.early.push(message);
        };
        let first = room.first;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let is_within = room.messages.take(1, HUB_ROOM_MESSAGES, now)
            && room.bytes.take(bytes, HUB_ROOM_BYTES, now);
        if !is_within {
            return self.close(id, CloseReason::TooFast);
        }
        self.end_later(first, now.plus(HUB_ROOM_IDLE_MS));
        self.end_later(second, now.plus(HUB_ROOM_IDLE_MS));
        self.copy(if id == first { second } else { first }, message);
    }

    fn copy(&mut self, to: ConnectionId, message: HubMessage) {
        self.statistics.messages += 1;
        self.statistics.bytes += message.bytes() as u64;
        self.actions.push_back(Action::Send { to, message });
    }

    // Ends

    /// Why a connection ends that was silent until its time.
    fn overdue(&self, id: ConnectionId) -> CloseReason {
        match self.connections.get(&id).map(|overdue| &overdue.role) {
            Some(Role::Signal { .. }) => CloseReason::Idle,
            Some(Role::InRoom(name)) => {
                let room = self.rooms.get(name);
                let is_paired = room.is_some_and(|room| room.second.is_some());
                if is_paired { CloseReason::RoomIdle } else { CloseReason::Unpaired }
            }
            Some(Role::Opening | Role::Ending) | None => CloseReason::NoRequest,
        }
    }

    /// Ends a connection that is not ending yet, and lets go of all it has.
    fn close(&mut self, id: ConnectionId, why: CloseReason) {
        let is_open = match self.connections.get(&id).map(|ending| &ending.role) {
            Some(Role::Ending) | None => return self.end_never(id),
            Some(Role::Opening) => false,
            Some(Role::Signal { .. } | Role::InRoom(_)) => true,
        };
        self.statistics.close(why);
        self.actions.push_back(Action::Close { connection: id, why, is_open });
        self.leave(id);
    }

    /// Lets go of what a connection has, but for its place among the connections.
    fn leave(&mut self, id: ConnectionId) {
        self.end_never(id);
        match self.set_role(id, Role::Ending) {
            Some(Role::Signal { names, .. }) => self.leave_names(id, &names),
            Some(Role::InRoom(name)) => self.leave_room(id, &name),
            Some(Role::Opening | Role::Ending) | None => {}
        }
    }

    fn leave_names(&mut self, id: ConnectionId, names: &BTreeSet<Arc<str>>) {
        if let Some(source) = self.connections.get(&id).map(|leaving| leaving.source) {
            self.sources.change(source, |holding| holding.registrations -= names.len());
        }
        for name in names {
            let contest = self.registry.end_contest(name);
            self.registry.remove(name);
            if let Some(contest) = contest
                && self.take_name(contest.contender, Arc::clone(name)).is_ok()
            {
                self.statistics.contests_lost += 1;
            }
        }
    }

    fn leave_room(&mut self, id: ConnectionId, name: &str) {
        let is_in = |room: &Room| room.first == id || room.second == Some(id);
        if !self.rooms.get(name).is_some_and(is_in) {
            return;
        }
        let Some(room) = self.rooms.remove(name) else { return };
        let Some(second) = room.second else {
            self.rooms_waiting -= 1;
            if let Some(source) = self.connections.get(&id).map(|leaving| leaving.source) {
                self.sources.change(source, |holding| holding.waiting -= 1);
            }
            return;
        };
        // The room is gone, so the other one's leaving comes to its end here.
        self.close(if id == second { room.first } else { second }, CloseReason::OtherLeft);
    }

    fn say(&mut self, to: ConnectionId, frame: &SignalFrame) {
        let message = HubMessage::Binary(frame.encode());
        self.actions.push_back(Action::Send { to, message });
    }

    fn set_role(&mut self, id: ConnectionId, role: Role) -> Option<Role> {
        let connection = self.connections.get_mut(&id)?;
        Some(std::mem::replace(&mut connection.role, role))
    }

    fn end_later(&mut self, id: ConnectionId, at: Millis) {
        self.end_never(id);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ends_at = Some(at);
            self.ends.insert((at, id));
        }
    }

    fn end_never(&mut self, id: ConnectionId) {
        let ends_at = self.connections.get_mut(&id).and_then(|ending| ending.ends_at.take());
        if let Some(ends_at) = ends_at {
            self.ends.remove(&(ends_at, id));
        }
    }
}

//! Decides who is dialed, when, over which endpoint, and what becomes of the outcome.
//!
//! Owned by the dialer on the management core and called on its thread only. Sans-IO: time,
//! randomness and the directory of links come in, actions go out. A *race* is one round for one
//! peer: its endpoints are started in their order, the next one when the last has failed or after a
//! moment, and the first link ends it. A *dial* is one endpoint of a race under way. Every dial ends
//! in exactly one of the counters of [`DialCounts`].

mod backoff;
mod gateway;
mod rows;
mod settling;

#[cfg(test)]
mod tests;

pub use gateway::Step;
pub use rows::{PeerRow, PeerState};

use super::connect::Route;
use super::counts::DialCounts;
use super::error::{DialCause, DialError};
use super::limits::{DIALS_PER_PEER_MAX, GATEWAY_LINK_TIMEOUT_NS, REQUESTS_MAX, STAGGER_NS};
use super::{DialPeer, DialSettings};
use crate::directory::Directory;
use gateway::Conversation;
use std::collections::{BTreeMap, VecDeque};
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_engine::control::{AskId, Command, DialId, Network};
use waystation_relay::ids::{CoreId, LegTag, LinkTag};

/// One dial by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What the planner wants done.
#[derive(Debug)]
pub enum Action {
    /// Make a connection and say how that went with [`Planner::connect_ended`].
    Connect { dial: DialId, route: Route },
    /// That connection is not wanted any more; nothing more is to be said about it.
    Abandon { dial: DialId },
    /// Tell a data core.
    Command { core: CoreId, command: Command },
    /// A dial by hand has ended.
    Answer { request: RequestId, outcome: Result<LinkTag, DialError> },
}

/// To whom a connection is to be handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    pub core: CoreId,
    pub identity: Identity,
    pub network: Network,
}

/// What a call may look at and where it leaves its actions.
pub struct Surroundings<'a> {
    pub now_ns: u64,
    /// Every open link; what a report says is in here already.
    pub directory: &'a Directory,
    /// Gives 64 unpredictable bits.
    pub random: &'a mut dyn FnMut() -> u64,
    pub actions: &'a mut Vec<Action>,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("now_ns", &self.now_ns).finish_non_exhaustive()
    }
}

impl Surroundings<'_> {
    fn command(&mut self, core: CoreId, command: Command) {
        self.actions.push(Action::Command { core, command });
    }
}

/// The state machine behind outbound links.
#[derive(Debug)]
pub struct Planner {
    identity: Identity,
    settings: DialSettings,
    kept: BTreeMap<Identity, Kept>,
    races: BTreeMap<RaceId, Race>,
    /// Whose turn it is to start a dial; races that are over are skipped.
    turns: VecDeque<RaceId>,
    dials: BTreeMap<DialId, Dial>,
    asks: BTreeMap<AskId, DialId>,
    legs: BTreeMap<LegTag, DialId>,
    /// Links and dials of each core, to hand the next one to the core with the fewest.
    load: Vec<usize>,
    next_core: usize,
    requests: usize,
    last_id: u64,
    due_ns: Option<u64>,
    counts: DialCounts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RaceId(u64);

/// A configured peer.
#[derive(Debug)]
struct Kept {
    endpoints: Vec<Endpoint>,
    /// When the next race begins; absent while it is linked or raced.
    due_ns: Option<u64>,
    race: Option<RaceId>,
    /// Rounds and short links since the last good link.
    failures: u32,
    dials: u64,
    last_error: Option<DialError>,
}

/// One round for one peer.
#[derive(Debug)]
struct Race {
    target: Identity,
    /// Set for a dial by hand.
    request: Option<RequestId>,
    queue: VecDeque<Endpoint>,
    parked: Vec<Parked>,
    active: usize,
    next_start_ns: u64,
    last_error: Option<DialError>,
}

/// An endpoint that waits for the link to its gateway, which is being dialed.
#[derive(Debug)]
struct Parked {
    endpoint: Endpoint,
    gateway: Identity,
    until_ns: u64,
}

/// One endpoint under way.
#[derive(Debug)]
struct Dial {
    /// Absent once nobody wants it any more and only a data core can end it.
    race: Option<RaceId>,
    target: Identity,
    endpoint: Endpoint,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The connection is being made.
    Connecting,
    /// A gateway is asked for a socket.
    Asking(Conversation),
    /// A data core makes the link.
    Handed { core: CoreId, step: Option<Step>, until_ns: u64 },
    /// The connection to a gateway's socket is being made.
    Presenting,
}

impl Planner {
    /// A planner for this node without peers. `cores` is the number of data cores.
    pub fn new(identity: Identity, cores: usize) -> Self {
        Self {
            identity,
            settings: DialSettings::default(),
            kept: BTreeMap::new(),
            races: BTreeMap::new(),
            turns: VecDeque::new(),
            dials: BTreeMap::new(),
            asks: BTreeMap::new(),
            legs: BTreeMap::new(),
            load: vec![0; cores],
            next_core: 0,
            requests: 0,
            last_id: 0,
            due_ns: None,
            counts: DialCounts::default(),
        }
    }

    /// Takes up other settings. Peers that are gone are not dialed any more, and keep their links;
    /// peers whose endpoints changed are dialed anew; dials by hand go on.
    pub fn set_settings(&mut self, around: &mut Surroundings<'_>, settings: DialSettings) {
        let wanted: BTreeMap<Identity, Vec<Endpoint>> = settings
            .peers
            .iter()
            .filter(|peer| peer.identity != self.identity)
            .map(|DialPeer { identity, endpoints }| (*identity, endpoints.clone()))
            .collect();
        let stale: Vec<Identity> = self
            .kept
            .iter()
            .filter(|(identity, kept)| wanted.get(*identity) != Some(&kept.endpoints))
            .map(|(identity, _)| *identity)
            .collect();
        for identity in stale {
            if let Some(race) = self.kept.remove(&identity).and_then(|kept| kept.race) {
                self.end_race(around, race);
            }
        }
        for (identity, endpoints) in wanted {
            self.kept.entry(identity).or_insert(Kept {
                endpoints,
                due_ns: Some(around.now_ns),
                race: None,
                failures: 0,
                dials: 0,
                last_error: None,
            });
        }
        self.settings = settings;
        self.settings.dials_max = self.settings.dials_max.max(1);
        self.advance(around);
    }

    /// What was last given to [`Self::set_settings`].
    pub fn settings(&self) -> &DialSettings {
        &self.settings
    }

    /// Dials one endpoint once, whether its node is linked already or not. Ends in
    /// [`Action::Answer`], which may be among the actions of this call.
    pub fn request(
        &mut self,
        around: &mut Surroundings<'_>,
        request: RequestId,
        endpoint: Endpoint,
        target: Identity,
    ) {
        if self.requests >= REQUESTS_MAX {
            let outcome = Err(DialError { endpoint, cause: DialCause::TooManyRequests });
            self.counts.refused_total += 1;
            around.actions.push(Action::Answer { request, outcome });
            return;
        }
        self.requests += 1;
        if let Endpoint::Gateway { gateway, .. } = &endpoint {
            self.hurry(around.now_ns, gateway);
        }
        let race = self.begin_race(around.now_ns, target, Some(request), [endpoint].into());
        // Somebody waits for this one.
        self.turns.push_front(race);
        self.advance(around);
    }

    /// How a connection went. With one that was made, says to whom to hand it; `None`: to nobody,
    /// drop it.
    pub fn connect_ended(
        &mut self,
        around: &mut Surroundings<'_>,
        dial: DialId,
        outcome: Result<(), DialCause>,
    ) -> Option<Handover> {
        let handover = match outcome {
            Ok(()) => self.hand_over(around.now_ns, dial),
            Err(cause) => {
                self.step_failed(around, dial, cause);
                None
            }
        };
        self.advance(around);
        handover
    }

    /// Ends what has run out of time and starts what is due.
    pub fn tick(&mut self, around: &mut Surroundings<'_>) {
        if self.due_ns.is_some_and(|due_ns| due_ns <= around.now_ns) {
            self.advance(around);
        }
    }

    /// When [`Self::tick`] next has something to do.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.due_ns
    }

    /// Gives up everything; dials by hand are answered.
    pub fn stop(&mut self, around: &mut Surroundings<'_>) {
        self.kept.clear();
        let races: Vec<RaceId> = self.races.keys().copied().collect();
        for race in races {
            self.fail_race(around, race, Some(DialCause::Stopping));
        }
        self.turns.clear();
        self.due_ns = None;
    }

    /// Whether this identity is a configured peer, whose links the idle-link policy leaves alone.
    pub fn keeps(&self, identity: &Identity) -> bool {
        self.kept.contains_key(identity)
    }

    /// What became of all dials so far.
    pub fn counts(&self) -> DialCounts {
        let mut counts = self.counts.clone();
        counts.active = self.dials.len();
        counts
    }

    // Races

    /// Everything that time and free places allow, and when there will be more.
    fn advance(&mut self, around: &mut Surroundings<'_>) {
        self.end_late(around);
        self.begin_due(around);
        while self.start_round(around) {}
        self.due_ns = self.earliest_ns();
    }

    fn begin_due(&mut self, around: &mut Surroundings<'_>) {
        let is_due = |kept: &Kept| kept.due_ns.is_some_and(|due_ns| due_ns <= around.now_ns);
        let due: Vec<Identity> =
            self.kept.iter().filter(|(_, kept)| is_due(kept)).map(|(peer, _)| *peer).collect();
        for target in due {
            let Some(kept) = self.kept.get_mut(&target) else { continue };
            kept.due_ns = None;
            // Without endpoints it is for the peer to dial.
            if kept.endpoints.is_empty() || around.directory.is_linked(&target) {
                continue;
            }
            let queue = kept.endpoints.iter().cloned().collect();
            let race = self.begin_race(around.now_ns, target, None, queue);
            self.turns.push_back(race);
            if let Some(kept) = self.kept.get_mut(&target) {
                kept.race = Some(race);
            }
        }
    }

    /// Makes a race; the caller gives it a turn.
    fn begin_race(
        &mut self,
        now_ns: u64,
        target: Identity,
        request: Option<RequestId>,
        queue: VecDeque<Endpoint>,
    ) -> RaceId {
        let id = RaceId(self.next_id());
        let race = Race {
            target,
            request,
            queue,
            parked: Vec::new(),
            active: 0,
            next_start_ns: now_ns,
            last_error: None,
        };
        self.races.insert(id, race);
        id
    }

    /// Gives every race that waits one turn, while there are places. Whether anything was taken
    /// from a queue: a failure at once lets the next endpoint try.
    fn start_round(&mut self, around: &mut Surroundings<'_>) -> bool {
        let mut started = false;
        for _ in 0..self.turns.len() {
            if self.dials.len() >= self.settings.dials_max {
                return false;
            }
            let Some(id) = self.turns.pop_front() else { break };
            let Some(race) = self.races.get_mut(&id) else { continue };
            self.turns.push_back(id);
            let has_turn = race.active == 0
                || (race.active < DIALS_PER_PEER_MAX && race.next_start_ns <= around.now_ns);
            if has_turn && let Some(endpoint) = race.queue.pop_front() {
                race.next_start_ns = around.now_ns.saturating_add(STAGGER_NS);
                self.start(around, id, endpoint);
                started = true;
            }
        }
        started
    }

    fn start(&mut self, around: &mut Surroundings<'_>, id: RaceId, endpoint: Endpoint) {
        let Some(target) = self.races.get(&id).map(|race| race.target) else { return };
        match self.way(around, target, &endpoint) {
            Err(cause) => {
                self.counts.refused_total += 1;
                self.endpoint_failed(around, id, DialError { endpoint, cause });
            }
            Ok(Way::Park { gateway }) => {
                let until_ns = around.now_ns.saturating_add(GATEWAY_LINK_TIMEOUT_NS);
                if let Some(race) = self.races.get_mut(&id) {
                    race.parked.push(Parked { endpoint, gateway, until_ns });
                }
            }
            Ok(Way::Connect(route)) => {
                let dial = self.begin_dial(id, target, endpoint, Stage::Connecting);
                around.actions.push(Action::Connect { dial, route });
            }
            Ok(Way::Gateway { gateway, step }) => {
                let dial = self.begin_dial(id, target, endpoint, Stage::Presenting);
                self.take_step(around, dial, gateway, step);
            }
        }
    }

    fn begin_dial(
        &mut self,
        race: RaceId,
        target: Identity,
        endpoint: Endpoint,
        stage: Stage,
    ) -> DialId {
        let dial = DialId(self.next_id());
        self.dials.insert(dial, Dial { race: Some(race), target, endpoint, stage });
        self.counts.started_total += 1;
        if let Some(race) = self.races.get_mut(&race) {
            race.active += 1;
        }
        if let Some(kept) = self.kept_racing(&target, race) {
            kept.dials += 1;
        }
        dial
    }

    /// How an endpoint is dialed, as far as that is known without trying.
    fn way(
        &self,
        around: &Surroundings<'_>,
        target: Identity,
        endpoint: &Endpoint,
    ) -> Result<Way, DialCause> {
        if target == self.identity || target.is_anyone() {
            return Err(DialCause::NotDialable);
        }
        match endpoint {
            Endpoint::Tcp(address) => Ok(Way::Connect(Route::Tcp { address: *address })),
            Endpoint::Tor { port, .. } => {
                let proxy = self.settings.tor_proxy.ok_or(DialCause::NoTorProxy)?;
                let address = endpoint.address();
                let name = address.rsplit_once(':').map_or(&*address, |(name, _)| name).to_owned();
                Ok(Way::Connect(Route::Tor { proxy, name, port: *port }))
            }
            Endpoint::Utp(_) | Endpoint::Kcp(_) => {
                Err(DialCause::NetworkNotDialed { network: endpoint.network() })
            }
            Endpoint::Gateway { gateway, target: leads_to } => {
                self.way_through(around.directory, target, *gateway, *leads_to)
            }
        }
    }

    /// The core with the fewest links; those with as few take turns.
    fn least_loaded_core(&mut self) -> CoreId {
        let cores = self.load.len();
        let from_next = (0..cores).map(|step| (self.next_core + step) % cores);
        let load = |core: &usize| self.load.get(*core).copied().unwrap_or_default();
        let core = from_next.min_by_key(load).unwrap_or_default();
        self.next_core = core + 1;
        CoreId(u16::try_from(core).unwrap_or_default())
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The peer that this race is for, if it is its own and not one by hand.
    fn kept_racing(&mut self, target: &Identity, race: RaceId) -> Option<&mut Kept> {
        self.kept.get_mut(target).filter(|kept| kept.race == Some(race))
    }
}

/// How an endpoint is dialed.
enum Way {
    Connect(Route),
    /// Through the link to this gateway.
    Gateway {
        gateway: LinkTag,
        step: Step,
    },
    /// The link to this gateway is being dialed.
    Park {
        gateway: Identity,
    },
}

//! Opaque UDP sessions on one data core: the table says what becomes of a datagram, this does it.
//!
//! Owns the table of the core's sessions, the sockets of their ports, and the memory that datagrams
//! are received into and sent from. The core calls [`OpaqueSessions::serve`] when its port says
//! that datagrams are there, [`OpaqueSessions::attend`] in every turn, and opens and closes
//! sessions as the management core commands. A datagram that passes takes no memory and is not
//! copied; opening, closing and changes of address do and may. Nothing here decides whose a
//! datagram is.

mod due;
mod handing_over;
mod listing;
mod moves;
mod paths;
mod ports;

pub(super) use handing_over::OpaqueTold;
pub use handing_over::{OpaqueHandOver, OpaqueSessionState, OpaqueTakeOver};
pub use ports::PortError;
pub(crate) use ports::is_without_family;

use super::framed::SharedFrames;
use crate::control::{OpaqueRequest, Report, UdpEnded, UdpMoved};
use crate::entropy::Entropy;
use crate::fabric::Fabric;
use crate::limits::{DATAGRAM_BURSTS_PER_TURN, DATAGRAMS_PER_TURN};
use crate::port::datagrams::{
    Burst, DatagramKey, Departure, Outgoing, SendFailure, Sent, Sockets, UdpTier,
};
use crate::statistics::CoreCounters;
use moves::Moves;
use paths::Paths;
use ports::{Ports, SocketsOfPort};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use waystation_relay::address_policy::AddressPolicy;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, UdpSessionTag};
use waystation_relay::udp::tier::{Facts, Tier, TierChoice};
use waystation_relay::udp::{
    Event, Learning, LocalPort, OpenError, Outcome, Sessions, Settings, Side,
};

/// What the opaque sessions of a core are made of.
#[derive(Clone, Debug)]
pub struct OpaqueSettings {
    /// Addresses of this machine that the ports of sessions are on, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Most sessions of one core.
    pub sessions_max: usize,
    /// The best way datagrams may be sent.
    pub tier: UdpTier,
}

/// Why a session was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpaqueOpenError {
    /// The program runs without them.
    #[error("there are no opaque UDP sessions here: udp.addresses is empty")]
    Disabled,
    /// What was asked for cannot be.
    #[error(transparent)]
    Refused(#[from] OpenError),
    /// A port of this machine cannot be had.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A fixed address of a family that the ports are in none of.
    #[error("leg {0:?}: udp.addresses has no address of the family of {1}")]
    NoAddressOfFamily(Side, SocketAddr),
}

/// What a session has sent, and the sockets of its legs.
#[derive(Clone, Copy, Debug, Default)]
struct Carried {
    ports: [LocalPort; 2],
    /// Of each leg, of IPv4 and of IPv6.
    sockets: [SocketsOfPort; 2],
    /// The addresses of ours that the ends send to, where the sockets are on all addresses.
    local: [Option<IpAddr>; 2],
    /// To each leg.
    datagrams: [u64; 2],
    bytes: [u64; 2],
    /// Of both directions.
    datagrams_in_trains: u64,
    datagrams_in_frames: u64,
    datagrams_offloaded: u64,
    opened_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct OpaqueSessions {
    core: CoreId,
    sessions: Sessions,
    policy: Arc<AddressPolicy>,
    sockets: Sockets,
    ports: Ports,
    /// By the place of a session.
    carried: Vec<Carried>,
    burst: Burst,
    outgoing: Outgoing,
    frames: SharedFrames,
    tier: UdpTier,
    /// What the table has told and nobody has acted upon.
    events: Vec<Event>,
    moves: Moves,
    paths: Paths,
    /// When the table wants to look for sessions that have ended.
    sweep_ns: Option<u64>,
    opened: u64,
    /// The kernel may have more.
    has_more: bool,
    /// Whether datagrams are left where they are, because another process is to have them.
    is_paused: bool,
}

impl OpaqueSessions {
    /// An empty table. `frames`: what it sends by with [`UdpTier::AfXdp`], if there are any.
    ///
    /// # Errors
    /// The kernel's refusal of a descriptor.
    pub(super) fn new(
        core: CoreId,
        settings: &OpaqueSettings,
        policy: Arc<AddressPolicy>,
        frames: SharedFrames,
    ) -> io::Result<Self> {
        let (frames, tier) = frames.of_tier(settings.tier);
        let mut entropy = Entropy::default();
        let seeds = [entropy.u64(), entropy.u64()];
        let sessions_max = settings.sessions_max;
        Ok(Self {
            core,
            sessions: Sessions::new(core, sessions_max, seeds, Arc::clone(&policy)),
            policy,
            sockets: Sockets::new()?,
            ports: Ports::new(settings.addresses.clone()),
            carried: Vec::with_capacity(sessions_max),
            burst: Burst::new(),
            outgoing: Outgoing::new(tier),
            frames,
            tier,
            events: Vec::new(),
            moves: Moves::new(sessions_max),
            paths: Paths::new(sessions_max),
            sweep_ns: None,
            opened: 0,
            has_more: false,
            is_paused: false,
        })
    }

    /// The sockets, for the port to watch.
    pub(super) fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// The kernel has said that there is something to receive.
    pub(super) fn note_ready(&mut self) {
        // It may have been somebody else's; without sockets there is nothing to ask for.
        self.has_more = !self.sockets.is_empty() && !self.is_paused;
    }

    /// Whether there may be something to receive without the kernel saying so again.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Brings counters up to date that are kept here, on top of those of other owners of sockets.
    pub(super) fn add_counters(&self, counters: &mut CoreCounters) {
        counters.opaque_sessions_open = self.sessions.len() as u64;
        counters.opaque_sessions_opened = self.opened;
        counters.udp_sockets_open += self.sockets.len() as u64;
        counters.udp_syscalls += self.sockets.syscalls();
        let (trains, refused) = self.outgoing.trains();
        counters.udp_trains_sent += trains;
        counters.udp_trains_refused += refused;
    }

    // Opening and closing

    /// Opens a session on sockets of its ports, and says what came of it.
    pub(super) fn open(
        &mut self,
        request: OpaqueRequest,
        settings: Settings,
        now_ns: u64,
        fabric: &mut Fabric,
    ) {
        let result = self.try_open(settings, now_ns);
        fabric.report(Report::UdpOpened { request, core: self.core, result });
    }

    fn try_open(
        &mut self,
        settings: Settings,
        now_ns: u64,
    ) -> Result<UdpSessionTag, OpaqueOpenError> {
        self.open_with(settings, now_ns, |sessions, settings| {
            sessions.open(settings, now_ns, &mut |_opened| ())
        })
    }

    /// Goes on with a session that another process had.
    fn take_session(
        &mut self,
        state: &OpaqueSessionState,
        settings: Settings,
    ) -> Result<UdpSessionTag, OpaqueOpenError> {
        let opened_ns = state.session.opened_ns;
        let session = self.open_with(settings, opened_ns, |sessions, settings| {
            sessions.take_over(settings, &state.session)
        })?;
        let carried = &mut self.carried[session.slot as usize];
        carried.local = state.local;
        (carried.datagrams, carried.bytes) = (state.datagrams, state.bytes);
        Ok(session)
    }

    fn open_with(
        &mut self,
        settings: Settings,
        opened_ns: u64,
        open: impl FnOnce(&mut Sessions, Settings) -> Result<UdpSessionTag, OpenError>,
    ) -> Result<UdpSessionTag, OpaqueOpenError> {
        let ports = [settings.legs[0].port, settings.legs[1].port];
        let ends = [fixed_end(&settings, Side::A), fixed_end(&settings, Side::B)];
        let a = self.ports.take(ports[0], &mut self.sockets)?;
        let b = match self.ports.take(ports[1], &mut self.sockets) {
            Ok(b) => b,
            Err(error) => {
                self.ports.give_back(ports[0], &mut self.sockets);
                return Err(error.into());
            }
        };
        let opened = self
            .check_families([a, b], ends)
            .and_then(|()| open(&mut self.sessions, settings).map_err(OpaqueOpenError::Refused));
        let session = match opened {
            Ok(session) => session,
            Err(error) => {
                self.give_back(ports);
                return Err(error);
            }
        };
        let place = session.slot as usize;
        if self.carried.len() <= place {
            self.carried.resize(place + 1, Carried::default());
        }
        self.carried[place] = Carried { ports, sockets: [a, b], opened_ns, ..Carried::default() };
        self.opened += 1;
        self.sweep_ns.get_or_insert(opened_ns);
        self.begin_path(session, opened_ns);
        self.choose_tier(session);
        Ok(session)
    }

    fn give_back(&mut self, ports: [LocalPort; 2]) {
        for port in ports {
            self.ports.give_back(port, &mut self.sockets);
        }
    }

    fn check_families(
        &self,
        sockets: [SocketsOfPort; 2],
        ends: [Option<SocketAddr>; 2],
    ) -> Result<(), OpaqueOpenError> {
        for side in Side::BOTH {
            if let Some(end) = ends[side.index()]
                && sockets[side.index()].to(end).is_none()
            {
                return Err(OpaqueOpenError::NoAddressOfFamily(side, end));
            }
        }
        Ok(())
    }

    /// Ends a session; one that has ended has been told of.
    pub(super) fn close(&mut self, session: UdpSessionTag, now_ns: u64, fabric: &mut Fabric) {
        let events = &mut self.events;
        self.sessions.close(session, &mut |event| events.push(event));
        self.act_on_events(now_ns, fabric);
    }

    /// Takes up another policy. Sessions whose addresses it does not admit end, or have to learn
    /// them anew.
    pub(super) fn adopt(&mut self, policy: &Arc<AddressPolicy>, now_ns: u64, fabric: &mut Fabric) {
        // Most reloads leave the policy as it was, and looking at every address takes long.
        if *self.policy == **policy {
            return;
        }
        self.policy = Arc::clone(policy);
        let events = &mut self.events;
        self.sessions.adopt_policy(Arc::clone(policy), &mut |event| events.push(event));
        self.act_on_events(now_ns, fabric);
    }

    // In every turn

    /// When [`Self::attend`] has something to do.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        let deadlines = [self.sweep_ns, self.moves.due_ns(), self.paths.due_ns()];
        deadlines.into_iter().flatten().min().filter(|_| !self.is_paused)
    }

    /// Ends what has come to its end, and tells what has moved.
    pub(super) fn attend(&mut self, now_ns: u64, fabric: &mut Fabric) {
        if self.is_paused {
            return;
        }
        if self.sweep_ns.is_some_and(|due_ns| due_ns <= now_ns) {
            let events = &mut self.events;
            self.sweep_ns = self.sessions.sweep(now_ns, &mut |event| events.push(event));
            self.act_on_events(now_ns, fabric);
        }
        for session in self.moves.take_due(now_ns) {
            self.tell_move(session, fabric);
        }
        self.report_paths(now_ns, fabric);
    }

    fn tell_move(&mut self, session: UdpSessionTag, fabric: &mut Fabric) {
        self.choose_tier(session);
        let (Some(listed), Some(told)) =
            (self.sessions.listed(session), self.moves.told(session.slot))
        else {
            return;
        };
        fabric.report(Report::UdpMoved(UdpMoved {
            session,
            addresses: listed.legs.map(|leg| leg.address),
            path: self.sessions.path(session),
            moves: told.moves,
            by: told.by,
        }));
    }

    /// Does what follows from what the table has told.
    fn act_on_events(&mut self, now_ns: u64, fabric: &mut Fabric) {
        for index in 0..self.events.len() {
            match self.events[index] {
                Event::Opened { .. } => {}
                Event::Learned { session, by, .. } | Event::Rebound { session, by, .. } => {
                    self.moves.note(session, Some(by), now_ns);
                    self.paths.note(session.slot, now_ns);
                }
                Event::Lapsed { session, .. } => {
                    self.moves.note(session, None, now_ns);
                    self.paths.note(session.slot, now_ns);
                }
                Event::Changed { session } => self.paths.note(session.slot, now_ns),
                Event::Expired { session } => {
                    self.finish(session, DropReason::UdpSessionIdle, now_ns, fabric);
                }
                Event::Closed { session, reason } => {
                    self.finish(session, reason, now_ns, fabric);
                }
            }
        }
        self.events.clear();
    }

    fn finish(
        &mut self,
        session: UdpSessionTag,
        reason: DropReason,
        now_ns: u64,
        fabric: &mut Fabric,
    ) {
        self.moves.forget(session.slot);
        self.paths.forget(session.slot);
        let Some(carried) = self.carried.get_mut(session.slot as usize) else { return };
        let carried = std::mem::take(carried);
        self.give_back(carried.ports);
        fabric.count_drop(reason, 0);
        fabric.report(Report::UdpEnded(UdpEnded {
            session,
            reason,
            datagrams: carried.datagrams,
            bytes: carried.bytes,
            age_ns: now_ns.saturating_sub(carried.opened_ns),
        }));
    }

    fn choose_tier(&mut self, session: UdpSessionTag) {
        let choice = self.choice(session);
        self.sessions.set_tier(session, choice);
    }

    /// By what a session is moved, as things are now.
    fn choice(&self, session: UdpSessionTag) -> TierChoice {
        let path = self.sessions.path(session);
        let is_refused = |end: SocketAddr| self.outgoing.tier_of(end.ip()) == UdpTier::Plain;
        let can_trains = self.tier != UdpTier::Plain;
        TierChoice::new(&Facts {
            fastest_allowed: match self.tier {
                UdpTier::Plain => Tier::Plain,
                UdpTier::Gso => Tier::Xdp,
                UdpTier::AfXdp => Tier::AfXdp,
            },
            has_frames: self.tier == UdpTier::AfXdp && self.has_program(),
            against_xdp: self.against_xdp(session),
            can_segment: true,
            has_route_refused: can_trains
                && path.is_some_and(|path| path.addresses.into_iter().any(is_refused)),
        })
    }

    // Datagrams

    /// Receives and passes on, up to a bound.
    pub(super) fn serve(&mut self, now_ns: u64, fabric: &mut Fabric) {
        if !self.has_more {
            return;
        }
        let mut datagrams = 0;
        for _ in 0..DATAGRAM_BURSTS_PER_TURN {
            let Some(key) = self.sockets.next_ready() else {
                self.has_more = false;
                break;
            };
            datagrams += self.receive(key, now_ns, fabric);
            if datagrams >= DATAGRAMS_PER_TURN {
                break;
            }
        }
        self.act_on_events(now_ns, fabric);
    }

    /// Receives a burst of a socket. Returns how many datagrams it had.
    fn receive(&mut self, key: DatagramKey, now_ns: u64, fabric: &mut Fabric) -> usize {
        self.sockets.receive(key, &mut self.burst);
        let Some(port) = self.ports.of(key) else { return 0 };
        self.take_burst(key, port, now_ns, fabric)
    }

    /// Whether an address is one that sessions are reached at.
    pub(super) fn is_at(&self, local: SocketAddr) -> bool {
        self.ports.at(local).is_some()
    }

    /// Receives a burst that came in frames to an address of ours, and passes it on. Returns how many
    /// datagrams it had.
    pub(super) fn take_frames(
        &mut self,
        local: SocketAddr,
        now_ns: u64,
        fabric: &mut Fabric,
    ) -> usize {
        self.frames.receive(&mut self.burst);
        let Some((key, port)) = self.ports.at(local) else { return self.burst.len() };
        if self.ports.is_on_all_addresses(local.is_ipv6()) {
            self.burst.note_local(local.ip());
        }
        let datagrams = self.take_burst(key, port, now_ns, fabric);
        self.act_on_events(now_ns, fabric);
        datagrams
    }

    fn take_burst(
        &mut self,
        key: DatagramKey,
        port: LocalPort,
        now_ns: u64,
        fabric: &mut Fabric,
    ) -> usize {
        let mut datagrams = 0;
        for index in 0..self.burst.len() {
            let Some(arrival) = self.burst.arrival(index) else {
                fabric.count_drop(DropReason::SocketError, 0);
                continue;
            };
            fabric.statistics.counters.udp_messages_received += 1;
            let came = Came { key, port, source: arrival.source, local: arrival.local };
            for place in arrival.datagrams() {
                datagrams += 1;
                if self.outgoing.is_full() {
                    self.send(fabric);
                }
                self.take(&came, place, now_ns, fabric);
            }
        }
        fabric.statistics.counters.udp_datagrams_received += datagrams as u64;
        self.send(fabric);
        datagrams
    }

    fn take(&mut self, came: &Came, place: Range<usize>, now_ns: u64, fabric: &mut Fabric) {
        let payload = &self.burst.memory()[place.clone()];
        let told = self.events.len();
        let events = &mut self.events;
        let tell = &mut |event| events.push(event);
        match self.sessions.receive(now_ns, came.port, came.source, payload, tell) {
            Outcome::Forward { session, from, to, .. } => {
                self.note_way_in(session, from, came.local, now_ns);
                self.queue(session, from, to, place, fabric);
            }
            Outcome::Answer(answer) => {
                self.note_local(told, came.local);
                let sent = self.sockets.send(came.key, came.source, came.local, &answer);
                match sent {
                    Ok(()) => fabric.statistics.counters.opaque_answers += 1,
                    Err(failure) => fabric.count_drop(reason_of(failure), answer.len()),
                }
            }
            Outcome::Drop(reason) => fabric.count_drop(reason, payload.len()),
        }
    }

    /// An end that has proved where it is, which is told behind a place of the events, is sent to
    /// from the address that it sends to.
    fn note_local(&mut self, told: usize, local: Option<IpAddr>) {
        // Its new address is told of in any case, and with it this.
        if let Some(Event::Learned { session, side, .. } | Event::Rebound { session, side, .. }) =
            self.events.get(told)
        {
            self.carried[session.slot as usize].local[side.index()] = local;
        }
    }

    /// An end is answered from the address that it sends to.
    fn note_way_in(
        &mut self,
        session: UdpSessionTag,
        from: Side,
        local: Option<IpAddr>,
        now_ns: u64,
    ) {
        let known = &mut self.carried[session.slot as usize].local[from.index()];
        if *known != local {
            *known = local;
            self.paths.note(session.slot, now_ns);
        }
    }

    fn queue(
        &mut self,
        session: UdpSessionTag,
        from: Side,
        to: SocketAddr,
        payload: Range<usize>,
        fabric: &mut Fabric,
    ) {
        let carried = &mut self.carried[session.slot as usize];
        let leaving = from.other();
        let Some(socket) = carried.sockets[leaving.index()].to(to) else {
            fabric.count_drop(DropReason::UdpUnreachable, payload.len());
            return;
        };
        let is_of_family = |local: &IpAddr| local.is_ipv4() == to.is_ipv4();
        self.outgoing.queue(Departure {
            socket,
            to,
            from: carried.local[leaving.index()].filter(is_of_family),
            head: Default::default(),
            payload,
            padding_bytes: 0,
            unfragmented: false,
            tag: tag(session.slot, leaving),
        });
    }

    /// Sends what is queued, and counts what became of it.
    fn send(&mut self, fabric: &mut Fabric) {
        let Self { outgoing, sockets, frames, burst, carried, .. } = self;
        frames.send_queued(outgoing, sockets, burst.memory(), |tag, bytes, sent| {
            let (place, leaving) = of_tag(tag);
            if let Sent::Not(failure) = sent {
                fabric.count_drop(reason_of(failure), bytes);
                return;
            }
            let counters = &mut fabric.statistics.counters;
            counters.count_way_out(sent);
            counters.opaque_datagrams += 1;
            counters.opaque_bytes += bytes as u64;
            if let Some(carried) = carried.get_mut(place) {
                carried.datagrams[leaving.index()] += 1;
                carried.bytes[leaving.index()] += bytes as u64;
                carried.datagrams_in_trains += u64::from(sent == Sent::InTrain);
                carried.datagrams_in_frames += u64::from(sent == Sent::Framed);
            }
        });
    }
}

/// How a message came.
struct Came {
    key: DatagramKey,
    port: LocalPort,
    source: SocketAddr,
    /// The address of ours it was sent to, if its socket is on all of them.
    local: Option<IpAddr>,
}

/// The address that a leg is to have for good.
fn fixed_end(settings: &Settings, side: Side) -> Option<SocketAddr> {
    match settings.legs[side.index()].learning {
        Learning::Fixed(end) => Some(end),
        Learning::Proof { .. } | Learning::Handshake { .. } => None,
    }
}

/// A session's place, and the leg that a datagram goes to in the lowest bit.
fn tag(place: u32, leaving: Side) -> u32 {
    place << 1 | leaving as u32
}

fn of_tag(tag: u32) -> (usize, Side) {
    let leaving = if tag & 1 == 0 { Side::A } else { Side::B };
    ((tag >> 1) as usize, leaving)
}

fn reason_of(failure: SendFailure) -> DropReason {
    match failure {
        SendFailure::NoRoom => DropReason::UdpNoRoom,
        SendFailure::TooLong => DropReason::UdpTooLong,
        SendFailure::Unreachable => DropReason::UdpUnreachable,
        SendFailure::Closed => DropReason::UdpUnknownFlow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_tell_sessions_and_directions_apart() {
        for place in [0, 1, 19_999] {
            for leaving in Side::BOTH {
                assert_eq!(of_tag(tag(place, leaving)), (place as usize, leaving));
            }
        }
    }
}

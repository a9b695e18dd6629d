//! The session table of one data core: who asked whom, what is joined, and who may send how much.
//!
//! Owned by one data core and called on its thread only. Frames and times go in; routes and
//! [`Effect`]s come out. Credit ends here: each leg advertises our own window and passes bytes on
//! within the credit its peer gave, so a session holds at most one window per direction
//! (spec §7.3), and the sockets of links are always drained (spec §7.5).
//!
//! Order: effects must be carried out before the next call, and bytes of a [`Route`] at once; then
//! a reset never overtakes the data before it (spec §7.2).

mod credit;
mod ending;
mod handing_over;
mod limiting;
mod local;
mod migration;
mod pacing;
mod quotas;
mod relocation;
mod steps;
mod turns;

use crate::chunk_queue::ChunkPool;
use crate::drop_reason::{DropCounters, DropReason};
use crate::ids::{CoreId, LegTag};
use crate::leg::{Leg, LegKind, LegState, MigrationStep, Other, Signal};
use crate::limiting::Intervals;
use crate::limits::{RESET_GRACE_NS, STALE_DEADLINES_FACTOR, STALE_DEADLINES_MIN};
use crate::quota::Quota;
use crate::slots::Slots;
use limiting::LinkLimits;
use pacing::Pacing;
use relocation::{Departure, Frozen};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use turns::Turns;
use waystation_astral::frame::{Frame, Profile};
use waystation_astral::identity::Identity;
use waystation_astral::operations;

pub use handing_over::{SessionsRefusal, SessionsState};
pub use limiting::LinkLimitTimes;
pub use migration::Migration;
pub use relocation::{DepartureProgress, MoveRefusal, MovedSessions};

/// Code of every rejection of our own (spec §8.4): there is no other that all eras share.
pub const CODE_REJECTED: u8 = 1;

/// What one core's switch may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchLimits {
    /// The window we advertise for every session, in bytes.
    pub window_bytes: u32,
    /// Most sessions on one link.
    pub sessions_per_link: usize,
    /// Most sessions on all links of this core.
    pub sessions: usize,
    /// Bytes of payload that may wait in all queues of this core.
    pub queue_bytes: usize,
    /// How long a target may take to answer.
    pub query_timeout_ns: u64,
}

/// In whose name a relayed query is asked, and for whom (spec §10.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    pub caller: Identity,
    pub target: Identity,
}

/// A query that arrived on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboundQuery<'a> {
    pub nonce: u64,
    /// What its sender takes before it has returned credit.
    pub window: u32,
    pub query: &'a [u8],
    /// Set unless the link's peer asks this node itself.
    pub relayed: Option<Relayed>,
}

/// A query to send on a link, under a nonce that is not in use there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundQuery {
    pub nonce: u64,
    pub query: Box<[u8]>,
    /// Set unless it is asked in this node's name; a raw-profile peer does not hear of it.
    pub relayed: Option<Relayed>,
}

/// Something to be done because of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a frame on a link, behind everything given to that link before.
    Frame { link: u32, frame: Frame<'static> },
    /// Send a query on a link, advertising our window; a `relay_query` when it is relayed.
    Query { link: u32, query: OutboundQuery },
    /// Tell a leg on another core.
    Cross(Signal),
    /// Send bytes that were kept for a leg on another core; `from` has kept them.
    CrossPayload { to: LegTag, from: LegTag, stamp_ns: u64, bytes: Box<[u8]> },
    /// Let the management core answer.
    Ask { leg: LegTag, link: u32, nonce: u64, query: Box<[u8]>, relayed: Option<Relayed> },
    /// The caller of a query given to the management core has gone.
    Cancelled { leg: LegTag },
    /// A query of our own was answered. Without code 0 there is no session.
    Asked { ask: u64, leg: LegTag, code: u8 },
    /// A session whose data is handed up has ended.
    Ended { leg: LegTag },
    /// The query for a link of our own was accepted: its first bytes may be written.
    InnerOpened { link: u32 },
    /// It was not, and nobody has counted why.
    InnerRefused { link: u32, reason: DropReason },
    /// The session under a link of our own has ended.
    InnerEnded { link: u32 },
    /// A session that its peer wants on another link takes a step.
    Migration { operation: LegTag, step: MigrationStep },
    /// A peer did something on a link that is worth a debug line; counted already.
    Incident { link: u32, reason: DropReason, nonce: u64 },
}

/// Where a piece of a data frame's payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Into the outgoing record of this link, at once, as a data frame of this session.
    Direct { link: u32, nonce: u64 },
    /// To this leg's queue, by [`Switch::enqueue`].
    Queue { leg: u32 },
    /// To a leg on another core.
    Cross { to: LegTag },
    /// Kept for a leg whose link changes cores, by [`Switch::park`].
    Park { was: LegTag },
    /// To the link of our own that runs inside.
    Inner { link: u32 },
    /// Up to the management core; [`Switch::input_handed_up`] says when it is there.
    Management { leg: LegTag },
    /// Nowhere; counted.
    Nowhere,
}

/// Takes the payload that [`Switch::fill`] finds ready.
pub trait DataSink {
    /// Most payload bytes one more data frame can take now; 0 when the link has no room.
    fn room_bytes(&mut self) -> usize;
    /// Starts a data frame of so many payload bytes, the first of which was opened at `stamp_ns`.
    fn begin(&mut self, nonce: u64, payload_bytes: usize, stamp_ns: u64);
    /// The next bytes of that frame's payload.
    fn payload(&mut self, bytes: &[u8]);
}

/// Counters of one switch since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchCounters {
    pub sessions_opened: u64,
    pub queries_received: u64,
    pub payload_bytes_in: u64,
    pub payload_bytes_out: u64,
    pub same_core_bytes: u64,
    pub cross_core_bytes: u64,
    pub queued_bytes: u64,
}

/// The session table of one data core.
#[derive(Debug)]
pub struct Switch {
    core: CoreId,
    limits: SwitchLimits,
    legs: Slots<Leg>,
    links: Vec<Option<LinkSessions>>,
    pool: ChunkPool,
    /// What legs of this core have told each other and nobody has heard yet.
    told: VecDeque<Signal>,
    effects: Vec<Effect>,
    /// Links that got something ready to send.
    woken: Vec<u32>,
    turns: Turns,
    pacing: Pacing,
    deadlines: Deadlines,
    /// What waits for legs whose links change cores, by their old tags.
    frozen: Frozen,
    /// Attempts of links of this core to change to another.
    departures: u32,
    drops: DropCounters,
    counters: SwitchCounters,
    /// When this turn began.
    now_ns: u64,
    intervals: Intervals,
}

#[derive(Debug)]
struct LinkSessions {
    profile: Profile,
    by_nonce: HashMap<u64, u32>,
    /// Nonces of the sessions that ended last: credit for them may still be on its way.
    ended: VecDeque<u64>,
    /// What its sessions count against.
    quota: Option<Arc<Quota>>,
    /// Sources that have legs whose queued bytes may go out, each once, in turn.
    turns: VecDeque<u32>,
    limits: LinkLimits,
    /// Set while the link is about to change cores.
    departure: Option<Box<Departure>>,
}

impl LinkSessions {
    fn new(profile: Profile) -> Self {
        Self {
            profile,
            by_nonce: HashMap::new(),
            ended: VecDeque::new(),
            quota: None,
            turns: VecDeque::new(),
            limits: LinkLimits::default(),
            departure: None,
        }
    }
}

/// Legs waiting for a time. Every list is in order of time: each has one delay, and what is
/// appended after that was lowered waits for what stands before it.
#[derive(Debug, Default)]
struct Deadlines {
    answers: VecDeque<(u64, LegTag)>,
    graces: VecDeque<(u64, LegTag)>,
    holds: VecDeque<(u64, LegTag)>,
    offered: usize,
}

impl Switch {
    /// A switch without links.
    pub fn new(core: CoreId, limits: SwitchLimits) -> Self {
        Self {
            core,
            limits,
            legs: Slots::default(),
            links: Vec::new(),
            pool: ChunkPool::new(limits.queue_bytes),
            told: VecDeque::new(),
            effects: Vec::new(),
            woken: Vec::new(),
            turns: Turns::default(),
            pacing: Pacing::default(),
            deadlines: Deadlines::default(),
            frozen: Frozen::default(),
            departures: 0,
            drops: DropCounters::default(),
            counters: SwitchCounters::default(),
            now_ns: 0,
            intervals: Intervals::default(),
        }
    }

    /// Moves the effects of the calls so far into `into`, in order.
    pub fn take_effects(&mut self, into: &mut Vec<Effect>) {
        into.append(&mut self.effects);
    }

    /// Takes up new caps and a new timeout; what exceeds a lowered cap stays.
    pub fn set_limits(&mut self, sessions_per_link: usize, sessions: usize, query_timeout_ns: u64) {
        self.limits = SwitchLimits { sessions_per_link, sessions, query_timeout_ns, ..self.limits };
    }

    /// Whether effects wait to be taken.
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// Moves the links that got something ready to send into `into`.
    pub fn take_woken(&mut self, into: &mut Vec<u32>) {
        into.append(&mut self.woken);
    }

    /// A link has finished its negotiation.
    pub fn link_up(&mut self, link: u32, profile: Profile) {
        self.set_link(link, LinkSessions::new(profile));
    }

    fn set_link(&mut self, link: u32, sessions: LinkSessions) {
        let place = link as usize;
        if self.links.len() <= place {
            self.links.resize_with(place + 1, || None);
        }
        if let Some(entry) = self.links.get_mut(place) {
            *entry = Some(sessions);
        }
    }

    /// A link has ended: all its sessions end, and only these.
    pub fn link_down(&mut self, link: u32) {
        let Some(sessions) = self.links.get_mut(link as usize).and_then(Option::take) else {
            return;
        };
        for slot in sessions.by_nonce.into_values() {
            self.abandon(slot);
        }
        self.settle();
    }

    /// A query arrived on a link.
    pub fn query(&mut self, now_ns: u64, link: u32, inbound: InboundQuery<'_>) {
        let InboundQuery { nonce, window, query, relayed } = inbound;
        self.counters.queries_received += 1;
        let Some(sessions) = self.link(link) else { return };
        if sessions.by_nonce.contains_key(&nonce) {
            self.drops.count(DropReason::DuplicateNonce, 0);
            self.effects.push(Effect::Incident { link, reason: DropReason::DuplicateNonce, nonce });
            return;
        }
        // A raw-profile peer may have prepared any nonce for anybody (spec §10.1), and what is
        // relayed need not be for this node: only the management core can tell.
        let ours_to_know = sessions.profile == Profile::P4 && relayed.is_none();
        if ours_to_know && !operations::is_known(query) {
            self.reject_unopened(link, nonce, DropReason::UnknownQuery);
            return;
        }
        let quota = match self.admit(sessions, LegKind::Local) {
            Ok(quota) => quota,
            Err(reason) => {
                self.reject_unopened(link, nonce, reason);
                return;
            }
        };
        let leg = self.open_leg(now_ns, link, nonce, LegKind::Local, query);
        if let Some(entry) = self.legs.at_mut(leg.slot) {
            (entry.credit, entry.quota) = (u64::from(window), quota);
        }
        self.effects.push(Effect::Ask { leg, link, nonce, query: query.into(), relayed });
    }

    /// A query arrived on a link that says nothing this node could decide about.
    pub fn refuse_query(&mut self, link: u32, nonce: u64, reason: DropReason) {
        self.counters.queries_received += 1;
        self.reject_unopened(link, nonce, reason);
    }

    /// A response arrived on a link.
    pub fn response(&mut self, now_ns: u64, link: u32, nonce: u64, code: u8, window: u32) {
        let Some((slot, leg)) = self.find(link, nonce) else {
            self.drops.count(DropReason::UnknownSessionIgnored, 0);
            return;
        };
        let LegState::Offered { reset_seen } = leg.state else {
            self.drops.count(DropReason::UnknownSessionIgnored, 0);
            return;
        };
        match (code, reset_seen) {
            (0, false) => self.offer_accepted(now_ns, slot, window),
            (0, true) => self.offer_accepted_and_ended(slot),
            (code, _) => self.give_up_offer(slot, code, DropReason::TargetRejected),
        }
        self.settle();
    }

    /// Credit arrived on a link.
    pub fn read(&mut self, link: u32, nonce: u64, bytes: u32) {
        let Some((slot, leg)) = self.find_mut(link, nonce) else {
            self.drops.count(DropReason::UnknownSessionRead, 0);
            // A peer returns credit for the last bytes of a session when it has ended already; a
            // reset for each of these frames would tell it nothing new (spec §7.2, trap 23).
            if !self.link(link).is_some_and(|sessions| sessions.ended.contains(&nonce)) {
                self.effects.push(Effect::Frame { link, frame: Frame::Reset { nonce } });
            }
            return;
        };
        leg.credit = leg.credit.saturating_add(u64::from(bytes));
        self.make_ready(slot);
        self.settle();
    }

    /// A reset arrived on a link.
    pub fn reset(&mut self, now_ns: u64, link: u32, nonce: u64) {
        let Some((slot, leg)) = self.find_mut(link, nonce) else {
            self.drops.count(DropReason::UnknownSessionIgnored, 0);
            return;
        };
        match leg.state {
            LegState::Offered { .. } => {
                leg.state = LegState::Offered { reset_seen: true };
                let tag = self.tag(slot);
                self.deadlines.graces.push_back((now_ns + RESET_GRACE_NS, tag));
            }
            LegState::Asked | LegState::Open | LegState::Ending => self.close(slot),
        }
        self.settle();
    }

    /// Decides where a piece of a data frame's payload goes, and accounts for it. `has_room` says
    /// whether a link's outgoing record can take the piece now.
    pub fn route(
        &mut self,
        now_ns: u64,
        link: u32,
        nonce: u64,
        bytes: usize,
        has_room: impl FnOnce(u32) -> bool,
    ) -> Route {
        let Some((slot, leg)) = self.find_mut(link, nonce) else {
            return self.refuse_data(link, nonce, DropReason::UnknownSessionData, bytes);
        };
        match leg.state {
            LegState::Asked | LegState::Offered { .. } => {
                self.close_and_reset(slot);
                return self.refuse_data(link, nonce, DropReason::DataBeforeResponse, bytes);
            }
            LegState::Ending => {
                self.drops.count(DropReason::PeerLegClosed, bytes);
                return Route::Nowhere;
            }
            LegState::Open if leg.link != link => {
                // It is on its way to this link, and its peer has not arrived.
                self.close_and_reset(slot);
                return self.refuse_data(link, nonce, DropReason::UnknownSessionData, bytes);
            }
            LegState::Open => {}
        }
        let Some(window_left) = leg.window_left.checked_sub(bytes as u64) else {
            self.close_and_reset(slot);
            return self.refuse_data(link, nonce, DropReason::CreditOverflow, bytes);
        };
        leg.window_left = window_left;
        leg.bytes_in += bytes as u64;
        let other = leg.other;
        self.counters.payload_bytes_in += bytes as u64;
        match other {
            Other::Leg(to) if to.core == self.core => {
                self.counters.same_core_bytes += bytes as u64;
                self.deliver(now_ns, to, bytes, has_room)
            }
            Other::Leg(to) => {
                self.counters.cross_core_bytes += bytes as u64;
                Route::Cross { to }
            }
            Other::Frozen(was) => Route::Park { was },
            Other::InnerLink(inner) => Route::Inner { link: inner },
            Other::Management => self.take_in(slot, bytes),
        }
    }

    /// The link of this core on which [`Self::route`] would let `bytes` of a session go out at
    /// once, given room there. `None`: it would decide otherwise.
    pub fn direct_link(&self, now_ns: u64, link: u32, nonce: u64, bytes: usize) -> Option<u32> {
        let (_, leg) = self.find(link, nonce)?;
        let may_send = leg.state == LegState::Open && leg.link == link;
        let Other::Leg(to) = leg.other else { return None };
        if !may_send || leg.window_left < bytes as u64 || to.core != self.core {
            return None;
        }
        let leg = self.legs.get(to.slot, to.generation)?;
        self.passes(now_ns, leg, bytes).then_some(leg.link)
    }

    /// Whether nothing but room on its link can keep `bytes` for a leg from going out at once.
    fn passes(&self, now_ns: u64, leg: &Leg, bytes: usize) -> bool {
        leg.queue.is_empty()
            && leg.credit >= bytes as u64
            && leg.hold_until_ns == 0
            && leg.moving.is_none()
            && self.link(leg.link).is_some_and(|sessions| sessions.turns.is_empty())
            && self.pacing.admits(now_ns, leg.pacer, bytes)
    }

    /// Decides where payload for a leg of this core goes that came from a leg elsewhere.
    pub fn deliver(
        &mut self,
        now_ns: u64,
        to: LegTag,
        bytes: usize,
        has_room: impl FnOnce(u32) -> bool,
    ) -> Route {
        let Some(leg) = self.legs.get(to.slot, to.generation) else {
            self.drops.count(DropReason::PeerLegClosed, bytes);
            return Route::Nowhere;
        };
        let link = leg.link;
        if !self.passes(now_ns, leg, bytes) || !has_room(link) {
            return Route::Queue { leg: to.slot };
        }
        let Some(leg) = self.legs.at_mut(to.slot) else { return Route::Nowhere };
        leg.credit -= bytes as u64;
        leg.bytes_out += bytes as u64;
        let nonce = leg.nonce;
        self.pacing.spend(now_ns, leg.pacer, bytes);
        self.counters.payload_bytes_out += bytes as u64;
        self.passed_on(to.slot, bytes);
        self.settle();
        Route::Direct { link, nonce }
    }

    /// Puts payload into the queue that [`Route::Queue`] named.
    pub fn enqueue(&mut self, slot: u32, payload: &[u8], stamp_ns: u64) {
        let Some(leg) = self.legs.at_mut(slot) else { return };
        match self.pool.push(&mut leg.queue, payload, stamp_ns) {
            Ok(()) => {
                self.counters.queued_bytes += payload.len() as u64;
                self.make_ready(slot);
            }
            Err(_) => {
                self.drops.count(DropReason::BufferExhausted, payload.len());
                self.close_and_reset(slot);
            }
        }
        self.settle();
    }

    /// What another leg has told one of this core.
    pub fn hear(&mut self, signal: Signal) {
        self.told.push_back(signal);
        self.settle();
    }

    /// A leg.
    pub fn leg(&self, tag: LegTag) -> Option<&Leg> {
        self.legs.get(tag.slot, tag.generation)
    }

    /// Asks the peer of `link` on behalf of `caller`, what whose peer sends passes no faster than
    /// `pace` allows.
    pub fn offer(
        &mut self,
        now_ns: u64,
        caller: LegTag,
        link: u32,
        query: OutboundQuery,
        pace: Option<Arc<Quota>>,
    ) {
        match self.open_offer(now_ns, link, LegKind::Target, query) {
            Ok(from) => {
                if let Some(leg) = self.legs.at_mut(from.slot) {
                    leg.other = Other::Leg(caller);
                }
                if let Some(pace) = pace {
                    self.pace(from, pace);
                }
                self.tell(Signal::Offered { to: caller, from, link });
            }
            Err(reason) => {
                let reason = Some(reason);
                self.tell(Signal::Rejected { to: caller, code: CODE_REJECTED, reason });
            }
        }
        self.settle();
    }

    /// Whether a nonce is free on a link.
    pub fn nonce_is_free(&self, link: u32, nonce: u64) -> bool {
        self.link(link).is_none_or(|sessions| !sessions.by_nonce.contains_key(&nonce))
    }

    /// Whether queued bytes of a link may go out.
    pub fn has_ready(&self, link: u32) -> bool {
        self.link(link).is_some_and(|sessions| !sessions.turns.is_empty())
    }

    /// Moves queued payload of a link's sessions into `sink`, source by source and session by
    /// session in turn, until it has no room.
    pub fn fill(&mut self, now_ns: u64, link: u32, sink: &mut impl DataSink) {
        while let Some((slot, left_bytes)) = self.next_turn(link) {
            let room = sink.room_bytes();
            if room == 0 {
                break;
            }
            let sent = match self.paced_bytes(now_ns, slot) {
                Some(most) => self.fill_from(now_ns, slot, room.min(left_bytes).min(most), sink),
                None => 0,
            };
            self.end_turn(link, slot, sent);
            self.finish_if_drained(slot);
        }
        self.settle();
    }

    /// Ends what has waited too long and lets go what was held back.
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        while let Some(tag) = pop_due(&mut self.deadlines.holds, now_ns) {
            if let Some(leg) = self.legs.get_mut(tag.slot, tag.generation) {
                leg.hold_until_ns = 0;
                self.make_ready(tag.slot);
                self.finish_if_drained(tag.slot);
            }
        }
        while let Some(tag) = pop_due(&mut self.deadlines.graces, now_ns) {
            if self.is_offered(tag) {
                self.give_up_offer(tag.slot, CODE_REJECTED, DropReason::TargetRejected);
            }
        }
        while let Some(tag) = pop_due(&mut self.deadlines.answers, now_ns) {
            if let Some(leg) = self.legs.get(tag.slot, tag.generation)
                && let LegState::Offered { .. } = leg.state
            {
                let frame = Frame::Reset { nonce: leg.nonce };
                self.effects.push(Effect::Frame { link: leg.link, frame });
                self.give_up_offer(tag.slot, CODE_REJECTED, DropReason::TargetTimeout);
            }
        }
        self.grant_due(now_ns);
        self.settle();
    }

    /// When [`Self::tick`] has something to do next.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let lists = [&self.deadlines.holds, &self.deadlines.graces, &self.deadlines.answers];
        let fixed = lists.iter().filter_map(|list| list.front()).map(|&(due_ns, _)| due_ns).min();
        [fixed, self.pacing.next_due_ns()].into_iter().flatten().min()
    }

    /// The window advertised for every session.
    pub fn window_bytes(&self) -> u32 {
        self.limits.window_bytes
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.legs.len()
    }

    /// Sessions of a link now.
    pub fn sessions_of(&self, link: u32) -> usize {
        self.link(link).map_or(0, |sessions| sessions.by_nonce.len())
    }

    /// Memory that a link takes here besides its sessions.
    pub fn link_state_bytes(&self, link: u32) -> usize {
        // An entry of the map is its key, its value and a byte of control.
        const ENTRY_BYTES: usize = size_of::<(u64, u32)>() + 1;
        let heap = self.link(link).map_or(0, |sessions| {
            sessions.by_nonce.capacity() * ENTRY_BYTES
                + sessions.ended.capacity() * size_of::<u64>()
                + sessions.turns.capacity() * size_of::<u32>()
        });
        size_of::<Option<LinkSessions>>() + heap
    }

    /// Frees what a link without sessions keeps for the next ones.
    pub fn give_back_spare_memory(&mut self, link: u32) {
        if let Some(sessions) = self.link_mut(link)
            && sessions.by_nonce.is_empty()
        {
            sessions.by_nonce = HashMap::new();
            sessions.turns.shrink_to_fit();
        }
    }

    /// Every leg with its tag.
    pub fn legs(&self) -> impl Iterator<Item = (LegTag, &Leg)> {
        self.legs_from(0)
    }

    /// As [`Switch::legs`], without the places in front of `first`, in order of place.
    pub fn legs_from(&self, first: u32) -> impl Iterator<Item = (LegTag, &Leg)> {
        self.legs
            .iter_from(first)
            .map(|(slot, generation, leg)| (LegTag { core: self.core, slot, generation }, leg))
    }

    /// Bytes of queue memory in use.
    pub fn queue_bytes_in_use(&self) -> usize {
        self.pool.bytes_in_use()
    }

    /// Sources on links that have had something queued and still have sessions.
    pub fn sources(&self) -> usize {
        self.turns.sources()
    }

    /// The drops so far.
    pub fn drops(&self) -> &DropCounters {
        &self.drops
    }

    /// Counts a drop that happened around the switch.
    pub fn count_drop(&mut self, reason: DropReason, bytes: usize) {
        self.drops.count(reason, bytes);
    }

    /// The counters so far.
    pub fn counters(&self) -> SwitchCounters {
        self.counters
    }

    // Lookups

    fn link(&self, link: u32) -> Option<&LinkSessions> {
        self.links.get(link as usize)?.as_ref()
    }

    /// Whether a link, or this core, has as many sessions as it may.
    fn is_full(&self, sessions: &LinkSessions) -> bool {
        sessions.by_nonce.len() >= self.limits.sessions_per_link
            || self.legs.len() >= self.limits.sessions
    }

    fn link_mut(&mut self, link: u32) -> Option<&mut LinkSessions> {
        self.links.get_mut(link as usize)?.as_mut()
    }

    fn find(&self, link: u32, nonce: u64) -> Option<(u32, &Leg)> {
        let slot = *self.link(link)?.by_nonce.get(&nonce)?;
        Some((slot, self.legs.at(slot)?))
    }

    fn find_mut(&mut self, link: u32, nonce: u64) -> Option<(u32, &mut Leg)> {
        let slot = *self.link(link)?.by_nonce.get(&nonce)?;
        Some((slot, self.legs.at_mut(slot)?))
    }

    fn asked(&mut self, tag: LegTag) -> Option<&mut Leg> {
        let leg = self.legs.get_mut(tag.slot, tag.generation)?;
        (leg.state == LegState::Asked).then_some(leg)
    }

    fn is_offered(&self, tag: LegTag) -> bool {
        self.legs
            .get(tag.slot, tag.generation)
            .is_some_and(|leg| matches!(leg.state, LegState::Offered { .. }))
    }

    fn tag(&self, slot: u32) -> LegTag {
        let generation = self.legs.generation_at(slot);
        LegTag { core: self.core, slot, generation }
    }

    /// Drops deadline entries of legs that were answered, when most entries are of that kind.
    fn sweep_answers(&mut self) {
        let live = self.deadlines.offered;
        let most = STALE_DEADLINES_FACTOR * live + STALE_DEADLINES_MIN;
        if self.deadlines.answers.len() <= most {
            return;
        }
        let legs = &self.legs;
        self.deadlines.answers.retain(|(_, tag)| {
            legs.get(tag.slot, tag.generation)
                .is_some_and(|leg| matches!(leg.state, LegState::Offered { .. }))
        });
    }
}

fn pop_due(list: &mut VecDeque<(u64, LegTag)>, now_ns: u64) -> Option<LegTag> {
    let &(due_ns, tag) = list.front()?;
    if due_ns > now_ns {
        return None;
    }
    list.pop_front();
    Some(tag)
}

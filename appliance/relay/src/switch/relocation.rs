//! Sessions of a link that changes cores: frozen on both sides, taken out whole, put in again.
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only. The switch
//! that has the link asks every leg that one of its sessions is joined to, on any core, to keep what
//! it has for that session. When all have answered nothing is on its way, and the sessions can get
//! new tags. What is kept is bounded by the window that its sender was given.

use super::{CODE_REJECTED, Deadlines, Effect, LinkSessions, Switch};
use crate::chunk_queue::ChunkQueue;
use crate::drop_reason::DropReason;
use crate::ids::{CoreId, LegTag};
use crate::leg::{Intake, Leg, LegState, Other, Signal, Source};
use crate::limiting::LimitClock;
use crate::limits::{CHUNK_BYTES, MOVED_SESSIONS_MAX};
use crate::quota::Quota;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use waystation_astral::frame::Profile;

/// Why a link stays on its core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MoveRefusal {
    /// There is no such link, or it is ending.
    NoSuchLink,
    /// There is no such core, or the link is on it.
    NoSuchCore,
    /// Another link is on its way from this core.
    AnotherMoves,
    /// The link runs inside a session of another one.
    InsideSession,
    /// A link of our own runs inside one of its sessions.
    CarriesLink,
    /// This node itself has a session on it.
    OwnSession,
    /// A query of its peer waited too long for its answer.
    QueryPending,
    /// Its peer moves a session to or from it (spec §9.3).
    SessionMoves,
    /// A link that it is joined to is about to move.
    PeerMoves,
    /// It has more sessions than a turn of two cores has time for.
    TooManySessions,
    /// What was sent last did not reach the kernel in time: the peer does not read.
    PeerNotReading,
    /// Another core did not answer in time.
    Timeout,
    /// The other core has no room for it.
    NoRoom,
}

impl MoveRefusal {
    /// Every reason, in order.
    pub const ALL: [Self; 13] = [
        Self::NoSuchLink,
        Self::NoSuchCore,
        Self::AnotherMoves,
        Self::InsideSession,
        Self::CarriesLink,
        Self::OwnSession,
        Self::QueryPending,
        Self::SessionMoves,
        Self::PeerMoves,
        Self::TooManySessions,
        Self::PeerNotReading,
        Self::Timeout,
        Self::NoRoom,
    ];

    /// The name in events, metrics and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSuchLink => "no_such_link",
            Self::NoSuchCore => "no_such_core",
            Self::AnotherMoves => "another_moves",
            Self::InsideSession => "inside_session",
            Self::CarriesLink => "carries_link",
            Self::OwnSession => "own_session",
            Self::QueryPending => "query_pending",
            Self::SessionMoves => "session_moves",
            Self::PeerMoves => "peer_moves",
            Self::TooManySessions => "too_many_sessions",
            Self::PeerNotReading => "peer_not_reading",
            Self::Timeout => "timeout",
            Self::NoRoom => "no_room",
        }
    }
}

/// How far the other sides of a link's sessions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DepartureProgress {
    /// Some have not answered.
    Settling,
    /// Nothing is on its way: the sessions may be taken out.
    Settled,
    /// One of them cannot freeze.
    Refused,
}

/// A link that is about to change cores.
#[derive(Debug)]
pub(super) struct Departure {
    round: u32,
    /// Legs whose other side has not answered.
    awaited: BTreeSet<u32>,
    refused: bool,
}

impl Departure {
    /// A leg has ended.
    pub(super) fn gone(&mut self, slot: u32) {
        self.awaited.remove(&slot);
    }
}

/// What a leg has for another one whose link changes cores.
#[derive(Debug)]
pub(super) struct Parked {
    /// The leg that has it; it may have ended.
    owner: LegTag,
    payload: ChunkQueue,
    consumed_bytes: u32,
    accepted: bool,
    /// Its link and that one's core, if it has moved to another.
    joined: Option<(CoreId, u32)>,
    end: Option<Signal>,
}

/// What legs of a core have for others whose links change cores: found by the old tag of those, and
/// by the leg that has it. A leg is joined to one other, so it is here once.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    parked: BTreeMap<LegTag, Parked>,
    by_owner: BTreeMap<LegTag, LegTag>,
}

impl Frozen {
    pub(super) fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    fn insert(&mut self, was: LegTag, parked: Parked) {
        self.by_owner.insert(parked.owner, was);
        self.parked.insert(was, parked);
        debug_assert_eq!(self.by_owner.len(), self.parked.len(), "a leg is joined to one other");
    }

    fn get_mut(&mut self, was: LegTag) -> Option<&mut Parked> {
        self.parked.get_mut(&was)
    }

    fn remove(&mut self, was: LegTag) -> Option<Parked> {
        let parked = self.parked.remove(&was)?;
        self.by_owner.remove(&parked.owner);
        Some(parked)
    }
}

/// The sessions of a link on their way to another core.
#[derive(Debug)]
pub struct MovedSessions {
    profile: Profile,
    ended: VecDeque<u64>,
    quota: Option<Arc<Quota>>,
    legs: Vec<MovedLeg>,
}

#[derive(Debug)]
struct MovedLeg {
    was: LegTag,
    leg: Leg,
    /// What waited in its queue, with the time it was opened.
    queued: Vec<(u64, Box<[u8]>)>,
    pace: Option<Arc<Quota>>,
    answer_due_ns: Option<u64>,
    grace_due_ns: Option<u64>,
}

/// When legs that wait for an answer give up.
#[derive(Debug, Default)]
pub(super) struct OfferDues {
    answers: BTreeMap<LegTag, u64>,
    graces: BTreeMap<LegTag, u64>,
}

impl OfferDues {
    pub(super) fn answer_due_ns(&self, leg: LegTag) -> Option<u64> {
        self.answers.get(&leg).copied()
    }

    pub(super) fn grace_due_ns(&self, leg: LegTag) -> Option<u64> {
        self.graces.get(&leg).copied()
    }
}

impl MovedSessions {
    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.legs.len()
    }

    pub(super) fn into_legs(self) -> impl Iterator<Item = Leg> {
        self.legs.into_iter().map(|moved| moved.leg)
    }

    fn queue_bytes(&self) -> usize {
        self.legs.iter().map(|moved| moved.leg_queue_bytes().next_multiple_of(CHUNK_BYTES)).sum()
    }
}

impl MovedLeg {
    fn leg_queue_bytes(&self) -> usize {
        self.queued.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

impl Switch {
    // The core that the link leaves

    /// Why the sessions of a link cannot be taken to another core now.
    pub fn why_immovable(&self, link: u32) -> Option<MoveRefusal> {
        let Some(sessions) = self.link(link) else { return Some(MoveRefusal::NoSuchLink) };
        if sessions.by_nonce.len() > MOVED_SESSIONS_MAX {
            return Some(MoveRefusal::TooManySessions);
        }
        self.what_ties(link)
    }

    /// As [`Self::why_immovable`], however many sessions there are.
    pub fn what_ties(&self, link: u32) -> Option<MoveRefusal> {
        let Some(sessions) = self.link(link) else { return Some(MoveRefusal::NoSuchLink) };
        let legs = sessions.by_nonce.values().filter_map(|&slot| self.legs.at(slot));
        let mut pending = None;
        for leg in legs {
            if leg.link != link || leg.moving.is_some() {
                return Some(MoveRefusal::SessionMoves);
            }
            match (leg.other, leg.state) {
                (Other::InnerLink(_), _) => return Some(MoveRefusal::CarriesLink),
                (Other::Frozen(_), _) => return Some(MoveRefusal::PeerMoves),
                (Other::Management, _) if leg.intake != Intake::Forgotten => {
                    return Some(MoveRefusal::OwnSession);
                }
                // Only to be flushed: the management core knows of it no more.
                (Other::Management, LegState::Ending) => {}
                (Other::Management, LegState::Asked) => pending = Some(MoveRefusal::QueryPending),
                (Other::Management, _) => return Some(MoveRefusal::OwnSession),
                (Other::Leg(_), _) => {}
            }
        }
        pending
    }

    /// Begins to take the sessions of a link to another core. Nothing may arrive on it from here on;
    /// [`Self::stay`] or [`Self::leave`] must follow.
    ///
    /// # Errors
    /// See [`Self::why_immovable`]; nothing has changed.
    pub fn depart(&mut self, link: u32) -> Result<(), MoveRefusal> {
        if let Some(refusal) = self.why_immovable(link) {
            return Err(refusal);
        }
        self.departures = self.departures.wrapping_add(1);
        let round = self.departures;
        let joined = self.joined_legs(link);
        let awaited = joined.iter().map(|(leg, _)| leg.slot).collect();
        if let Some(sessions) = self.link_mut(link) {
            sessions.departure = Some(Box::new(Departure { round, awaited, refused: false }));
        }
        for (from, to) in joined {
            self.tell(Signal::Freeze { to, from, round });
        }
        self.settle();
        Ok(())
    }

    /// How far that is.
    pub fn departure(&self, link: u32) -> DepartureProgress {
        match self.link(link).and_then(|sessions| sessions.departure.as_deref()) {
            None | Some(Departure { refused: true, .. }) => DepartureProgress::Refused,
            Some(departure) if departure.awaited.is_empty() => DepartureProgress::Settled,
            Some(_) => DepartureProgress::Settling,
        }
    }

    /// The link stays after all.
    pub fn stay(&mut self, link: u32) {
        let Some(sessions) = self.link_mut(link) else { return };
        if sessions.departure.take().is_none() {
            return;
        }
        for (from, to) in self.joined_legs(link) {
            self.tell(Signal::Thawed { to, was: from, from, link });
        }
        self.settle();
    }

    /// Takes out a link and its sessions, on which everything has settled.
    pub fn leave(&mut self, link: u32) -> Option<MovedSessions> {
        let mut sessions = self.links.get_mut(link as usize)?.take()?;
        let mut slots: Vec<u32> = sessions.by_nonce.values().copied().collect();
        slots.sort_unstable();
        let dues = self.dues_of_offers(&slots);
        let legs = slots.iter().filter_map(|&slot| self.take_leg(slot, &mut sessions, &dues));
        let legs = legs.collect();
        let LinkSessions { profile, ended, quota, .. } = sessions;
        Some(MovedSessions { profile, ended, quota, legs })
    }

    /// The legs of a link that another one can tell something, with those.
    fn joined_legs(&self, link: u32) -> Vec<(LegTag, LegTag)> {
        let Some(sessions) = self.link(link) else { return Vec::new() };
        let mut joined: Vec<_> = sessions
            .by_nonce
            .values()
            .filter_map(|&slot| {
                let leg = self.legs.at(slot)?;
                // To one that ends nobody tells anything more.
                (leg.state != LegState::Ending).then_some((self.tag(slot), leg.other.leg()?))
            })
            .collect();
        joined.sort_unstable();
        joined
    }

    /// When those of these legs that wait for an answer have waited for too long. The lists are
    /// gone through once for all of them, and not at all if none waits.
    pub(super) fn dues_of_offers(&self, slots: &[u32]) -> OfferDues {
        let tags = slots.iter().map(|&slot| self.tag(slot));
        let offered: BTreeSet<LegTag> = tags.filter(|tag| self.is_offered(*tag)).collect();
        let mut dues = OfferDues::default();
        if offered.is_empty() {
            return dues;
        }
        let Deadlines { answers, graces, .. } = &self.deadlines;
        for (list, found) in [(answers, &mut dues.answers), (graces, &mut dues.graces)] {
            for (due_ns, tag) in list.iter().filter(|(_, tag)| offered.contains(tag)) {
                // A leg may be in it twice; the lists are in order of time.
                found.entry(*tag).or_insert(*due_ns);
            }
        }
        dues
    }

    fn take_leg(
        &mut self,
        slot: u32,
        sessions: &mut LinkSessions,
        dues: &OfferDues,
    ) -> Option<MovedLeg> {
        let was = self.tag(slot);
        let mut leg = self.legs.remove(slot)?;
        let mut queued = Vec::new();
        let mut queue = std::mem::take(&mut leg.queue);
        while let Some((run, stamp_ns)) = self.pool.front(&queue) {
            let count = run.len();
            queued.push((stamp_ns, run.into()));
            self.pool.consume(&mut queue, count);
        }
        // What it waits for, and the other one, both tell anew once it has arrived.
        (leg.limit, leg.held, leg.limit_clock) = (None, None, LimitClock::default());
        let pace = self.pacing.quota_of(&leg);
        self.turns.leave(slot, &mut leg, Some(sessions));
        self.pacing.leave(&mut leg);
        if let LegState::Offered { .. } = leg.state {
            self.deadlines.offered -= 1;
        }
        let (answer_due_ns, grace_due_ns) = (dues.answer_due_ns(was), dues.grace_due_ns(was));
        Some(MovedLeg { was, leg, queued, pace, answer_due_ns, grace_due_ns })
    }

    // The core that it comes to

    /// Whether there is room for these sessions.
    pub fn has_room_for(&self, moved: &MovedSessions) -> bool {
        self.legs.len() + moved.legs.len() <= self.limits.sessions
            && moved.queue_bytes() <= self.pool.room_bytes()
    }

    /// Puts in a link that has come from another core, with its sessions, and thaws the others.
    pub fn arrive(&mut self, link: u32, moved: MovedSessions) {
        let MovedSessions { profile, ended, quota, legs } = moved;
        self.set_link(link, LinkSessions { ended, quota, ..LinkSessions::new(profile) });
        for moved in legs {
            self.put_leg(link, moved);
        }
        self.settle();
    }

    /// Ends the sessions of a link that no core has room for.
    pub fn lose(&mut self, moved: MovedSessions) {
        for MovedLeg { leg, .. } in moved.legs {
            if let (Some(to), true) = (leg.other.leg(), leg.state != LegState::Ending) {
                self.tell(match leg.state {
                    LegState::Offered { .. } => {
                        let reason = Some(DropReason::TargetNotReachable);
                        Signal::Rejected { to, code: CODE_REJECTED, reason }
                    }
                    _ => Signal::End { to },
                });
            }
            if let Some(quota) = &leg.quota {
                quota.leave_session();
            }
        }
        self.settle();
    }

    fn put_leg(&mut self, link: u32, moved: MovedLeg) {
        let MovedLeg { was, mut leg, queued, pace, answer_due_ns, grace_due_ns } = moved;
        leg.link = link;
        let (nonce, state, hold_until_ns) = (leg.nonce, leg.state, leg.hold_until_ns);
        let other = leg.other.leg();
        let mut lost_bytes = 0;
        for (stamp_ns, bytes) in queued {
            if lost_bytes > 0 || self.pool.push(&mut leg.queue, &bytes, stamp_ns).is_err() {
                lost_bytes += bytes.len();
            }
        }
        let (slot, generation) = self.legs.insert(leg);
        let tag = LegTag { core: self.core, slot, generation };
        if let Some(sessions) = self.link_mut(link) {
            sessions.by_nonce.insert(nonce, slot);
        }
        let deadlines = &mut self.deadlines;
        deadlines.offered += usize::from(matches!(state, LegState::Offered { .. }));
        let held = (hold_until_ns != 0).then_some(hold_until_ns);
        for (list, due_ns) in [
            (&mut deadlines.answers, answer_due_ns),
            (&mut deadlines.graces, grace_due_ns),
            (&mut deadlines.holds, held),
        ] {
            if let Some(due_ns) = due_ns {
                let place = list.partition_point(|&(other_ns, _)| other_ns <= due_ns);
                list.insert(place, (due_ns, tag));
            }
        }
        if let (Some(to), true) = (other, state != LegState::Ending) {
            self.tell(Signal::Thawed { to, was, from: tag, link });
            // It may remember what this one waited for on the other core.
            self.tell(Signal::Limited { to, from: tag, limit: None });
        }
        if let Some(pace) = pace {
            self.pace(tag, pace);
        }
        debug_assert_eq!(lost_bytes, 0, "there is room: it was asked for");
        if lost_bytes > 0 {
            self.drops.count(DropReason::BufferExhausted, lost_bytes);
            self.close_and_reset(slot);
            return;
        }
        self.make_ready(slot);
        self.note_limit(slot);
        self.finish_if_drained(slot);
    }

    // The other side of a session

    /// A leg of this core is to keep what it has for `from`.
    pub(super) fn freeze(&mut self, to: LegTag, from: LegTag, round: u32) {
        let Some(leg) = self.legs.get_mut(to.slot, to.generation) else { return };
        let (link, other) = (leg.link, leg.other);
        if self.link(link).is_some_and(|sessions| sessions.departure.is_some()) {
            self.tell(Signal::FreezeRefused { to: from, round });
            return;
        }
        self.tell(Signal::Frozen { to: from, round });
        if other != Other::Leg(from) {
            return;
        }
        if let Some(leg) = self.legs.at_mut(to.slot) {
            leg.other = Other::Frozen(from);
        }
        let parked = Parked {
            owner: to,
            payload: ChunkQueue::default(),
            consumed_bytes: 0,
            accepted: false,
            joined: None,
            end: None,
        };
        self.frozen.insert(from, parked);
    }

    /// The other side of a leg has answered.
    pub(super) fn note_answer(&mut self, slot: u32, round: u32, frozen: bool) {
        let Some(link) = self.legs.at(slot).map(|leg| leg.link) else { return };
        let departure = self.link_mut(link).and_then(|sessions| sessions.departure.as_deref_mut());
        // An answer to an earlier attempt says nothing.
        if let Some(departure) = departure.filter(|departure| departure.round == round) {
            departure.awaited.remove(&slot);
            departure.refused |= !frozen;
        }
    }

    /// Keeps payload that [`super::Route::Park`] named.
    pub fn park(&mut self, was: LegTag, payload: &[u8], stamp_ns: u64) {
        let Some(parked) = self.frozen.get_mut(was) else { return };
        if self.pool.push(&mut parked.payload, payload, stamp_ns).is_err() {
            let owner = parked.owner;
            self.drops.count(DropReason::BufferExhausted, payload.len());
            self.close_and_reset(owner.slot);
        }
    }

    /// Keeps what is to be told to a leg whose link changes cores. `false`: it is none.
    pub(super) fn keep_for_later(&mut self, signal: Signal) -> bool {
        let Some(parked) = self.frozen.get_mut(signal.to()) else { return false };
        match signal {
            Signal::Consumed { bytes, .. } => {
                parked.consumed_bytes = parked.consumed_bytes.saturating_add(bytes);
            }
            Signal::Accepted { .. } => parked.accepted = true,
            // What it waits for by then is told as it thaws.
            Signal::Limited { .. } => {}
            Signal::Joined { core, link, .. } => parked.joined = Some((core, link)),
            Signal::Rejected { .. } | Signal::End { .. } | Signal::Abort { .. } => {
                parked.end.get_or_insert(signal);
            }
            Signal::Offered { .. }
            | Signal::Freeze { .. }
            | Signal::Frozen { .. }
            | Signal::FreezeRefused { .. }
            | Signal::Thawed { .. } => return false,
        }
        true
    }

    /// What a leg knew as `was` has arrived.
    pub(super) fn thaw(&mut self, to: LegTag, was: LegTag, from: LegTag, link: u32) {
        let Some(leg) = self.legs.get_mut(to.slot, to.generation) else { return };
        // It may have refused to freeze.
        if leg.other != Other::Frozen(was) {
            return;
        }
        leg.other = Other::Leg(from);
        let limit = leg.limit;
        self.unpark(was, from);
        self.tell(Signal::Limited { to: from, from: to, limit });
        self.set_source(to.slot, Source::Link { core: from.core, link });
    }

    /// Sends on what was kept for `was`, which is `from` now. `false`: nobody kept anything.
    pub(super) fn unpark(&mut self, was: LegTag, from: LegTag) -> bool {
        let Some(parked) = self.frozen.remove(was) else { return false };
        let Parked { owner, mut payload, consumed_bytes, accepted, joined, end } = parked;
        if let Some((core, link)) = joined {
            self.tell(Signal::Joined { to: from, core, link });
        }
        if accepted {
            self.tell(Signal::Accepted { to: from, from: owner });
        }
        if let Some(Signal::Abort { .. }) = end {
            self.pool.clear(&mut payload);
        }
        self.send_parked(from, owner, payload);
        if consumed_bytes > 0 {
            self.tell(Signal::Consumed { to: from, bytes: consumed_bytes });
        }
        match end {
            Some(Signal::Rejected { code, reason, .. }) => {
                self.tell(Signal::Rejected { to: from, code, reason });
            }
            Some(Signal::Abort { .. }) => self.tell(Signal::Abort { to: from }),
            Some(_) => self.tell(Signal::End { to: from }),
            None => {}
        }
        true
    }

    fn send_parked(&mut self, to: LegTag, from: LegTag, mut payload: ChunkQueue) {
        let bytes = payload.len();
        if to.core != self.core {
            self.counters.cross_core_bytes += bytes as u64;
            while let Some((run, stamp_ns)) = self.pool.front(&payload) {
                let count = run.len();
                let bytes = run.into();
                self.effects.push(Effect::CrossPayload { to, from, stamp_ns, bytes });
                self.pool.consume(&mut payload, count);
            }
            return;
        }
        self.counters.same_core_bytes += bytes as u64;
        match self.legs.get_mut(to.slot, to.generation) {
            Some(leg) => {
                self.pool.append(&mut leg.queue, payload);
                self.counters.queued_bytes += bytes as u64;
                self.make_ready(to.slot);
            }
            None => {
                self.drops.count(DropReason::PeerLegClosed, bytes);
                self.pool.clear(&mut payload);
            }
        }
    }

    /// What was kept for a leg that has ended is of no use.
    pub(super) fn forget_parked(&mut self, was: LegTag) {
        if let Some(mut parked) = self.frozen.remove(was) {
            self.drops.count(DropReason::PeerLegClosed, parked.payload.len());
            self.pool.clear(&mut parked.payload);
        }
    }

    /// So it is if that was told to the leg that had kept it, and has ended as well.
    pub(super) fn forget_parked_of(&mut self, owner: LegTag) {
        if let Some(&was) = self.frozen.by_owner.get(&owner) {
            self.forget_parked(was);
        }
    }

    /// Tells for the legs in so many places what has passed since this was asked last: over which
    /// link, to and from a leg of which core, how many bytes. Returns the place to go on from.
    pub fn take_traffic(
        &mut self,
        first: u32,
        places: u32,
        mut passed: impl FnMut(u32, CoreId, u64),
    ) -> Option<u32> {
        let end = first.saturating_add(places).min(self.legs.places());
        for slot in first..end {
            let Some(leg) = self.legs.at_mut(slot) else { continue };
            let bytes = leg.bytes_in + leg.bytes_out;
            let grown = bytes - std::mem::replace(&mut leg.placed_bytes, bytes);
            if let (Some(other), true) = (leg.other.leg(), grown > 0) {
                passed(leg.link, other.core, grown);
            }
        }
        (end < self.legs.places()).then_some(end)
    }

    /// Bytes that wait for legs whose links change cores.
    pub fn parked_bytes(&self) -> usize {
        self.frozen.parked.values().map(|parked| parked.payload.len()).sum()
    }

    /// Sessions that wait for a link to arrive on its new core.
    pub fn frozen_sessions(&self) -> usize {
        self.frozen.parked.len()
    }
}

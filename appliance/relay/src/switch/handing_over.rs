//! The sessions of a link as one process tells another of them, which goes on with them.
//!
//! Part of [`Switch`]; called on its data core's thread through its public methods only, on links
//! that stand still: nothing arrives on them, nothing is filled, and nothing is on its way between
//! cores. Sessions keep their places, so whatever names one goes on naming it. Times are those of
//! the machine's clock, which both processes read. Quotas are a process's own.

use super::{Deadlines, LinkSessions, Switch};
use crate::chunk_queue::ChunkQueue;
use crate::drop_reason::DropReason;
use crate::ids::{CoreId, LegTag};
use crate::leg::{Intake, Leg, LegKind, LegState, Other, Pace, Source};
use crate::limiting::LimitClock;
use crate::limits::{
    CHUNK_BYTES, LEG_WRITTEN_BYTES, LISTED_QUERY_MAX_BYTES, PIECE_WRITTEN_BYTES, SESSION_PLACES_MAX,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use waystation_astral::frame::Profile;
use waystation_astral::hexadecimal::HexadecimalBytes;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionsState {
    /// Nonces of the sessions that ended last.
    ended: Vec<u64>,
    legs: Vec<LegRecord>,
}

/// One leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LegRecord {
    slot: u32,
    generation: u32,
    nonce: u64,
    kind: LegKind,
    state: LegState,
    /// Absent: it ends, and whoever was behind it has gone.
    other: Option<LegTag>,
    source: Source,
    outbound: bool,
    query: HexadecimalBytes,
    window_left: u64,
    unreturned: u32,
    credit_debt: u64,
    credit: u64,
    /// What waits, with the time it was opened.
    queued: Vec<(u64, HexadecimalBytes)>,
    hold_until_ns: u64,
    opened_ns: u64,
    bytes_in: u64,
    bytes_out: u64,
    answer_due_ns: Option<u64>,
    grace_due_ns: Option<u64>,
}

/// Why the sessions of a link cannot be taken over. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionsRefusal {
    /// The operator allows fewer sessions than before, or less memory for them.
    #[error("there is no room for its sessions or what waits in them")]
    NoRoom,
    /// Another process has said what no switch ever has.
    #[error("its sessions are none that a switch could have")]
    Malformed,
}

impl SessionsState {
    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.legs.len()
    }

    /// Bytes of JSON that these take at most.
    pub fn written_bytes_max(&self) -> usize {
        let legs = self.legs.iter().map(|leg| (leg.queued_bytes(), leg.queued.len()));
        written_bytes_max(legs)
    }

    /// Memory that these take on a core, in chunks.
    pub fn memory_bytes(&self) -> usize {
        self.legs.iter().map(|leg| leg.queued_bytes().next_multiple_of(CHUNK_BYTES)).sum()
    }

    /// Each leg of this core that passes on what the peer of another link sends, with that link's
    /// core and its place there: that peer's quota paces it.
    pub fn senders(&self, core: CoreId) -> impl Iterator<Item = (LegTag, (CoreId, u32))> {
        self.legs.iter().filter_map(move |leg| {
            let Source::Link { core: from, link } = leg.source else { return None };
            let tag = LegTag { core, slot: leg.slot, generation: leg.generation };
            leg.other.map(|_| (tag, (from, link)))
        })
    }
}

/// Bytes of JSON that sessions take at most, of the bytes that wait in each and their pieces.
fn written_bytes_max(legs: impl Iterator<Item = (usize, usize)>) -> usize {
    legs.fold(LEG_WRITTEN_BYTES, |sum, (bytes, pieces)| {
        // Two digits a byte; what waits is in chunks, each with its time.
        sum + LEG_WRITTEN_BYTES + 2 * bytes + pieces * PIECE_WRITTEN_BYTES
    })
}

impl LegRecord {
    fn queued_bytes(&self) -> usize {
        self.queued.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    fn is_possible(&self) -> bool {
        let has_other = self.other.is_some();
        self.slot < SESSION_PLACES_MAX
            && self.query.len() <= LISTED_QUERY_MAX_BYTES
            && (has_other || self.state == LegState::Ending)
            && matches!(self.kind, LegKind::Caller | LegKind::Target | LegKind::Local)
    }

    fn leg(&self, link: u32) -> Leg {
        Leg {
            link,
            nonce: self.nonce,
            kind: self.kind,
            state: self.state,
            other: self.other.map_or(Other::Management, Other::Leg),
            intake: Intake::Forgotten,
            outbound: self.outbound,
            query: self.query.0.as_slice().into(),
            window_left: self.window_left,
            unreturned: self.unreturned,
            credit_debt: self.credit_debt,
            moving: None,
            credit: self.credit,
            queue: ChunkQueue::default(),
            in_ready_ring: false,
            source: self.source,
            turn: None,
            quota: None,
            pacer: None,
            pace: Pace::Free,
            hold_until_ns: self.hold_until_ns,
            opened_ns: self.opened_ns,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            placed_bytes: self.bytes_in.saturating_add(self.bytes_out),
            limit: None,
            held: None,
            limit_clock: LimitClock::default(),
        }
    }
}

impl Switch {
    // The process that ends

    /// The links that the sessions of this one are joined to, each once: core and place there.
    /// `None`: a session is joined to something that is no link, or not for another process.
    pub fn joined_links(&self, link: u32) -> Option<BTreeSet<(CoreId, u32)>> {
        if self.what_ties(link).is_some() {
            return None;
        }
        let legs = self.link(link)?.by_nonce.values().filter_map(|&slot| self.legs.at(slot));
        let mut joined = BTreeSet::new();
        for leg in legs {
            let possible = matches!(leg.kind, LegKind::Caller | LegKind::Target | LegKind::Local);
            let is_known = match (leg.other, leg.source) {
                (Other::Management, _) => leg.state == LegState::Ending,
                // An end that nobody is behind any more.
                (Other::Leg(_), _) if leg.state == LegState::Ending => true,
                (Other::Leg(to), _) if to.core == self.core => {
                    let other = self.legs.get(to.slot, to.generation);
                    joined.extend(other.map(|other| (self.core, other.link)));
                    other.is_some()
                }
                (Other::Leg(_), Source::Link { core, link }) => {
                    joined.insert((core, link));
                    true
                }
                (Other::Leg(_), Source::Node) | (Other::Frozen(_) | Other::InnerLink(_), _) => {
                    false
                }
            };
            if !possible || !is_known {
                return None;
            }
        }
        Some(joined)
    }

    /// Bytes that wait in the sessions of a link.
    pub fn queued_bytes_of(&self, link: u32) -> usize {
        self.legs_of(link).map(|leg| leg.queue.len()).sum()
    }

    /// [`SessionsState::written_bytes_max`] of what [`Self::sessions_state`] would give.
    pub fn written_bytes_max_of(&self, link: u32) -> usize {
        let legs = self.legs_of(link);
        written_bytes_max(legs.map(|leg| (leg.queue.len(), self.pool.runs(&leg.queue).count())))
    }

    fn legs_of(&self, link: u32) -> impl Iterator<Item = &Leg> {
        let slots = self.link(link).into_iter().flat_map(|sessions| sessions.by_nonce.values());
        slots.filter_map(|&slot| self.legs.at(slot))
    }

    /// The sessions of a link for which [`Self::joined_links`] gave an answer.
    pub fn sessions_state(&self, link: u32) -> Option<SessionsState> {
        let sessions = self.link(link)?;
        let mut slots: Vec<u32> = sessions.by_nonce.values().copied().collect();
        slots.sort_unstable();
        let dues = self.dues_of_offers(&slots);
        let legs = slots.iter().filter_map(|&slot| {
            let (leg, tag) = (self.legs.at(slot)?, self.tag(slot));
            Some(LegRecord {
                slot,
                generation: tag.generation,
                nonce: leg.nonce,
                kind: leg.kind,
                state: leg.state,
                other: leg.other.leg().filter(|_| leg.state != LegState::Ending),
                source: leg.source,
                outbound: leg.outbound,
                query: HexadecimalBytes(leg.query.to_vec()),
                window_left: leg.window_left,
                unreturned: leg.unreturned,
                credit_debt: leg.credit_debt,
                credit: leg.credit,
                queued: self.queued_in(leg),
                hold_until_ns: leg.hold_until_ns,
                opened_ns: leg.opened_ns,
                bytes_in: leg.bytes_in,
                bytes_out: leg.bytes_out,
                answer_due_ns: dues.answer_due_ns(tag),
                grace_due_ns: dues.grace_due_ns(tag),
            })
        });
        Some(SessionsState {
            ended: sessions.ended.iter().copied().collect(),
            legs: legs.collect(),
        })
    }

    fn queued_in(&self, leg: &Leg) -> Vec<(u64, HexadecimalBytes)> {
        let runs = self.pool.runs(&leg.queue);
        runs.map(|(bytes, stamp_ns)| (stamp_ns, HexadecimalBytes(bytes.to_vec()))).collect()
    }

    /// Forgets a link and its sessions without a word to anybody: another process has them.
    pub fn forget_link(&mut self, link: u32) {
        for leg in self.leave(link).into_iter().flat_map(|moved| moved.into_legs()) {
            if let Some(quota) = &leg.quota {
                quota.leave_session();
            }
        }
    }

    // The process that goes on

    /// Goes on with the sessions of a link that another process had. What they are joined to comes
    /// before anything is done with them.
    ///
    /// # Errors
    /// Why it cannot be; nothing has changed then.
    pub fn take_sessions_over(
        &mut self,
        link: u32,
        profile: Profile,
        state: &SessionsState,
    ) -> Result<(), SessionsRefusal> {
        let SessionsState { ended, legs } = state;
        if self.link(link).is_some() || !legs.iter().all(LegRecord::is_possible) {
            return Err(SessionsRefusal::Malformed);
        }
        let (places, nonces): (BTreeSet<u32>, BTreeSet<u64>) =
            legs.iter().map(|leg| (leg.slot, leg.nonce)).unzip();
        let is_free = |leg: &LegRecord| self.legs.at(leg.slot).is_none();
        if places.len() != legs.len() || nonces.len() != legs.len() || !legs.iter().all(is_free) {
            return Err(SessionsRefusal::Malformed);
        }
        if self.legs.len() + legs.len() > self.limits.sessions
            || state.memory_bytes() > self.pool.room_bytes()
        {
            return Err(SessionsRefusal::NoRoom);
        }
        let ended = ended.iter().copied().collect();
        self.set_link(link, LinkSessions { ended, ..LinkSessions::new(profile) });
        for record in legs {
            self.put_record(link, record);
        }
        Ok(())
    }

    fn put_record(&mut self, link: u32, record: &LegRecord) {
        let mut leg = record.leg(link);
        for (stamp_ns, bytes) in &record.queued {
            // There is room: it was asked for.
            if self.pool.push(&mut leg.queue, &bytes.0, *stamp_ns).is_err() {
                self.drops.count(DropReason::BufferExhausted, bytes.len());
            }
        }
        let LegRecord { slot, generation, .. } = *record;
        if self.legs.insert_at(slot, generation, leg).is_err() {
            debug_assert!(false, "the place is free: it was looked at");
            return;
        }
        let tag = LegTag { core: self.core, slot, generation };
        if let Some(sessions) = self.link_mut(link) {
            sessions.by_nonce.insert(record.nonce, slot);
        }
        let Deadlines { answers, graces, holds, offered } = &mut self.deadlines;
        *offered += usize::from(matches!(record.state, LegState::Offered { .. }));
        let held = (record.hold_until_ns != 0).then_some(record.hold_until_ns);
        let lists = [(answers, record.answer_due_ns), (graces, record.grace_due_ns), (holds, held)];
        for (list, due_ns) in lists {
            if let Some(due_ns) = due_ns {
                let place = list.partition_point(|&(other_ns, _)| other_ns <= due_ns);
                list.insert(place, (due_ns, tag));
            }
        }
    }

    /// Lets the sessions of a link go on that stood still.
    pub fn resume_sessions(&mut self, link: u32) {
        let Some(sessions) = self.link(link) else { return };
        let mut slots: Vec<u32> = sessions.by_nonce.values().copied().collect();
        slots.sort_unstable();
        for slot in slots {
            self.make_ready(slot);
            self.finish_if_drained(slot);
        }
        self.settle();
    }
}

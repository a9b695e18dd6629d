//! Iterative look-ups (specification §11): whom to ask next, and when to stop.
//!
//! Owns the candidates of one look-up. The node asks whom it is told to, and reports who answered.
//! Every bound that upstream lacks is here (D-17): on candidates, on questions, on time. The nearest
//! sixteen that are not known to be bad are asked, and the look-up ends when they have answered.

use std::net::SocketAddr;

use crate::limits::{
    GOOD_CALLS, QUERY_CALLS_MAX, QUERY_CANDIDATES_MAX, QUERY_MS_MAX, QUERY_NEAREST,
    QUERY_NODES_PER_SITE_MAX, QUERY_RECORDS_MAX, UNKNOWN_CALLS,
};
use crate::message::NodeInfo;
use crate::node_id::{Distance, NodeId};
use crate::peers::Health;
use crate::prefix::Prefix;
use crate::record::{Category, RecordType, SignedRecord};
use crate::time::Millis;

/// Names a look-up.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct QueryId(pub u64);

/// What a look-up is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Goal {
    /// The nodes nearest to the target.
    Nodes,
    /// Records, as soon as any node has an acceptable one.
    AnyRecord(RecordType),
    /// Records, of all nodes near the target.
    AllRecords(RecordType),
}

/// What a look-up brought.
#[derive(Clone, Debug)]
pub struct Found {
    /// The target.
    pub target: NodeId,
    /// What it was for.
    pub goal: Goal,
    /// Nodes that answered, nearest first.
    pub nodes: Vec<NodeInfo>,
    /// Records that are acceptable, one for each slot.
    pub records: Vec<SignedRecord>,
    /// Questions asked.
    pub calls: usize,
    /// Nodes one after the other that led to the first record, or else to the nearest node.
    pub hops: usize,
    /// Milliseconds that it took.
    pub took_ms: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Waiting,
    Asking,
    /// It did not answer the first time, and is asked again without a slot of its own: who is gone
    /// must not hold up those that are there.
    AskingAgain,
    Answered,
    Failed,
}

#[derive(Debug)]
struct Candidate {
    info: NodeInfo,
    at: SocketAddr,
    distance: Distance,
    health: Health,
    state: State,
    depth: usize,
}

/// One look-up under way.
#[derive(Debug)]
pub struct Query {
    target: NodeId,
    goal: Goal,
    own: NodeId,
    is_diverse: bool,
    /// Nearest first.
    candidates: Vec<Candidate>,
    records: Vec<SignedRecord>,
    record_hops: Option<usize>,
    calls: usize,
    began_at: Millis,
}

impl Query {
    /// Begins a look-up that knows nobody yet.
    pub fn new(target: NodeId, goal: Goal, own: NodeId, is_diverse: bool, now: Millis) -> Self {
        Self {
            target,
            goal,
            own,
            is_diverse,
            candidates: Vec::new(),
            records: Vec::new(),
            record_hops: None,
            calls: 0,
            began_at: now,
        }
    }

    /// Its target.
    pub fn target(&self) -> NodeId {
        self.target
    }

    /// What it is for.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// Hears of a node: from the table at first, later from one that answered. A node is asked once.
    pub fn hear(&mut self, info: NodeInfo, at: SocketAddr, health: Health, from: Option<&NodeId>) {
        let distance = info.node_id.distance(&self.target);
        if info.node_id == self.own {
            return;
        }
        let place = self.candidates.binary_search_by_key(&distance, |known| known.distance);
        let Err(place) = place else {
            return;
        };
        if self.candidates.len() >= QUERY_CANDIDATES_MAX && place == self.candidates.len() {
            return;
        }
        if self.is_diverse && self.of_site(Prefix::site(info.ip)) >= QUERY_NODES_PER_SITE_MAX {
            return;
        }
        let depth = from.and_then(|from| self.find(from)).map_or(1, |known| known.depth + 1);
        let state = State::Waiting;
        self.candidates.insert(place, Candidate { info, at, distance, health, state, depth });
        if self.candidates.len() > QUERY_CANDIDATES_MAX {
            self.candidates.pop();
        }
    }

    /// Whom to ask now, if there is room for one more question.
    pub fn next_call(&mut self) -> Option<(NodeInfo, SocketAddr)> {
        if self.calls >= QUERY_CALLS_MAX || self.has_what_it_wants() {
            return None;
        }
        let is_asking = |candidate: &&Candidate| candidate.state == State::Asking;
        let good = |candidate: &&Candidate| candidate.health == Health::Good;
        let asking = self.candidates.iter().filter(is_asking);
        let (asking_good, asking_others) =
            asking.fold((0, 0), |(goods, others), candidate| match good(&candidate) {
                true => (goods + 1, others),
                false => (goods, others + 1),
            });
        let has_slot = |health: Health| match health {
            Health::Good => asking_good < GOOD_CALLS,
            Health::Unknown | Health::Bad => asking_others < UNKNOWN_CALLS,
        };
        let is_alive = |candidate: &&Candidate| {
            candidate.state != State::Failed && candidate.health != Health::Bad
        };
        let is_waiting = |candidate: &Candidate| candidate.state == State::Waiting;
        let with_place = self.candidates.iter().enumerate();
        let mut nearest =
            with_place.clone().filter(|(_, known)| is_alive(known)).take(QUERY_NEAREST);
        let mut next = nearest.find(|(_, known)| is_waiting(known) && has_slot(known.health));
        if next.is_none() && !self.is_under_way() && self.answered_count() == 0 {
            // Nobody else is left, so those that did not answer before are better than nothing.
            next = with_place.clone().find(|(_, known)| is_waiting(known));
        }
        let place = next?.0;
        let candidate = self.candidates.get_mut(place)?;
        candidate.state = State::Asking;
        self.calls += 1;
        Some((candidate.info, candidate.at))
    }

    /// A node did not answer in time, and is asked once more.
    pub fn is_slow(&mut self, id: &NodeId) {
        self.set(id, State::AskingAgain);
    }

    /// A node answered; what it told is heard separately.
    pub fn answered(&mut self, id: &NodeId) {
        self.set(id, State::Answered);
    }

    /// A node did not answer.
    pub fn failed(&mut self, id: &NodeId) {
        self.set(id, State::Failed);
    }

    /// Adds a record that the caller has found acceptable; the newer of a slot stays.
    pub fn add_record(&mut self, record: SignedRecord, from: &NodeId) {
        let depth = self.find(from).map_or(0, |candidate| candidate.depth);
        self.record_hops.get_or_insert(depth);
        let known = self.records.iter().position(|known| is_same(known, &record));
        match known {
            Some(known) if record.version() > self.records[known].version() => {
                self.records[known] = record;
            }
            Some(_) => {}
            None if self.records.len() < QUERY_RECORDS_MAX => self.records.push(record),
            None => {}
        }
    }

    /// Says whether there is nothing more to do.
    pub fn is_done(&mut self, now: Millis) -> bool {
        if self.has_what_it_wants() || now.since(self.began_at) >= QUERY_MS_MAX {
            return true;
        }
        !self.is_under_way() && !self.has_next()
    }

    /// When it ends at the latest.
    pub fn deadline(&self) -> Millis {
        self.began_at.plus(QUERY_MS_MAX)
    }

    /// What it brought.
    pub fn into_found(self, now: Millis) -> Found {
        let answered =
            self.candidates.iter().filter(|candidate| candidate.state == State::Answered);
        let nearest = answered.clone().next().map_or(0, |candidate| candidate.depth);
        Found {
            target: self.target,
            goal: self.goal,
            nodes: answered.take(QUERY_NEAREST).map(|candidate| candidate.info).collect(),
            hops: self.record_hops.unwrap_or(nearest),
            calls: self.calls,
            took_ms: now.since(self.began_at),
            records: self.records,
        }
    }

    fn has_what_it_wants(&self) -> bool {
        matches!(self.goal, Goal::AnyRecord(_)) && !self.records.is_empty()
    }

    fn has_next(&self) -> bool {
        let is_alive = |candidate: &&Candidate| {
            candidate.state != State::Failed && candidate.health != Health::Bad
        };
        let mut nearest = self.candidates.iter().filter(is_alive).take(QUERY_NEAREST);
        let is_waiting = |candidate: &Candidate| candidate.state == State::Waiting;
        self.calls < QUERY_CALLS_MAX
            && (nearest.any(is_waiting)
                || self.answered_count() == 0 && self.candidates.iter().any(is_waiting))
    }

    fn is_under_way(&self) -> bool {
        let mut states = self.candidates.iter().map(|known| known.state);
        states.any(|state| matches!(state, State::Asking | State::AskingAgain))
    }

    fn answered_count(&self) -> usize {
        self.candidates.iter().filter(|known| known.state == State::Answered).count()
    }

    fn of_site(&self, site: Prefix) -> usize {
        let candidates = self.candidates.iter();
        candidates.filter(|candidate| Prefix::site(candidate.info.ip) == site).count()
    }

    fn find(&self, id: &NodeId) -> Option<&Candidate> {
        let distance = id.distance(&self.target);
        let place = self.candidates.binary_search_by_key(&distance, |known| known.distance);
        place.ok().and_then(|place| self.candidates.get(place))
    }

    fn set(&mut self, id: &NodeId, state: State) {
        let distance = id.distance(&self.target);
        let place = self.candidates.binary_search_by_key(&distance, |known| known.distance);
        if let Some(candidate) = place.ok().and_then(|place| self.candidates.get_mut(place)) {
            candidate.state = state;
        }
    }
}

/// Two records of one slot, as answers of several nodes are merged (§11.2).
fn is_same(a: &SignedRecord, b: &SignedRecord) -> bool {
    match a.record_type.category() {
        Category::Topic => {
            b.record_type.category() == Category::Topic && a.public_key == b.public_key
        }
        Category::Mailbox => a.public_key == b.public_key && a.payload == b.payload,
        Category::Sovereign | Category::Unknown => {
            a.address == b.address && a.record_type == b.record_type
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    fn node(number: u8) -> NodeInfo {
        let at = SocketAddr::from(([203, 0, number, 1], 4121));
        NodeInfo::new(Address([number; 21]), at)
    }

    fn asked(query: &mut Query) -> Vec<NodeId> {
        std::iter::from_fn(|| query.next_call()).map(|(info, _)| info.node_id).collect()
    }

    #[test]
    fn who_is_silent_holds_up_no_slot_and_is_waited_for() {
        let mut query = Query::new(NodeId::ZERO, Goal::Nodes, NodeId([9; 32]), true, Millis(0));
        for number in 0..8 {
            query.hear(node(number), node(number).socket_address(), Health::Unknown, None);
        }
        let first = asked(&mut query);
        assert_eq!(first.len(), UNKNOWN_CALLS);
        first.iter().for_each(|id| query.is_slow(id));
        let second = asked(&mut query);
        assert_eq!(second.len(), UNKNOWN_CALLS);
        second.iter().for_each(|id| query.answered(id));
        let third = asked(&mut query);
        assert_eq!(third.len(), 2, "nobody is asked twice");
        third.iter().for_each(|id| query.failed(id));
        assert!(!query.is_done(Millis(1)), "those asked again may still answer");
        first.iter().for_each(|id| query.failed(id));
        assert!(query.is_done(Millis(1)));
        let found = query.into_found(Millis(1));
        assert_eq!((found.nodes.len(), found.calls), (UNKNOWN_CALLS, 8));
    }
}

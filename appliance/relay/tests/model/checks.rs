//! What must hold between operations, and at the end.

use crate::session::{State, Verdict};
use crate::world::{BURST_BYTES, Link, TIMEOUT_NS, WINDOW, World};
use std::collections::BTreeMap;
use std::sync::Arc;
use waystation_relay::ids::LegTag;
use waystation_relay::leg::{Leg, LegState, Other, Source};
use waystation_relay::limiting::Limit;
use waystation_relay::limits::{CHUNK_BYTES, PACE_PIECE_BYTES, RESET_GRACE_NS};
use waystation_relay::switch::Switch;

/// Rounds in which everything must have arrived: the slowest rate needs a minute for all windows.
const ROUNDS_MAX: u64 = 20_000;

impl World {
    /// What holds between any two operations.
    pub(crate) fn check(&self) {
        let legs = self.legs();
        for leg in legs.values() {
            let session = &self.sessions[leg.nonce as usize - 1];
            if session.state == State::Open && leg.state == LegState::Open {
                assert_eq!(leg.credit, session.granted - session.received, "{leg:?}");
                self.check_windows(leg);
            }
            assert!(leg.window_left <= WINDOW && leg.credit_debt <= WINDOW, "{leg:?}");
        }
        let at_home = |link: &&Link| link.up && link.core != usize::MAX;
        for &Link { core, place, .. } in self.links.iter().filter(at_home) {
            let named = |(tag, leg): &(&LegTag, &&Leg)| {
                let comes = leg.moving.as_ref().is_some_and(|moving| moving.to_link == place);
                tag.core.index() == core && (leg.link == place || comes)
            };
            let named = legs.iter().filter(named).count();
            assert_eq!(self.cores[core].sessions_of(place), named, "a nonce is not free");
        }
        // What is between two cores is nobody's.
        let nobody_moves = self.departures.is_empty();
        for quota in self.quotas.iter().filter(|_| nobody_moves) {
            let mine = |leg: &&&Leg| leg.quota.as_ref().is_some_and(|q| Arc::ptr_eq(q, quota));
            assert_eq!(quota.sessions(), legs.values().filter(mine).count());
        }
        for rate in &self.rates {
            let elapsed_ns = u128::from(self.now_ns - self.started_ns);
            let earned = u128::from(rate.bytes_per_s) * elapsed_ns / 1_000_000_000;
            // The smallest burst of a fast quota is 20 ms of its rate.
            let burst = BURST_BYTES.max(rate.bytes_per_s / 50) + PACE_PIECE_BYTES as u64;
            assert!(u128::from(rate.passed) <= earned + u128::from(burst), "faster than its rate");
        }
        let parked: usize = self.cores.iter().map(Switch::parked_bytes).sum();
        let frozen: usize = self.cores.iter().map(Switch::frozen_sessions).sum();
        let waiting = parked + legs.values().map(|leg| leg.queue.len()).sum::<usize>();
        let in_use: usize = self.cores.iter().map(Switch::queue_bytes_in_use).sum();
        self.check_limits(&legs);
        assert!(
            in_use <= waiting + (legs.len() + frozen) * 2 * CHUNK_BYTES,
            "{in_use} bytes for {waiting}"
        );
        if nobody_moves && self.rings.iter().flatten().all(|ring| ring.is_empty()) {
            self.check_nobody_is_frozen();
            check_owners(&legs);
            check_what_is_told(&legs);
        }
    }

    /// What a leg waits for is known at once, and its link counts every leg that waits.
    fn check_limits(&self, legs: &BTreeMap<LegTag, &Leg>) {
        for (tag, leg) in legs {
            let stuck = self.cores[tag.core.index()].is_stuck(leg.link);
            assert_eq!(leg.limit, leg.held_up_by(stuck), "{leg:?}");
        }
        let at_home = |link: &&Link| link.up && link.core != usize::MAX;
        for &Link { core, place, .. } in self.links.iter().filter(at_home) {
            let on_it = || legs.iter().filter(|(tag, _)| tag.core.index() == core);
            let on_it = || on_it().map(|(_, leg)| leg).filter(|leg| leg.link == place);
            for limit in Limit::ALL {
                let sent = on_it().filter(|leg| leg.held == Some(limit)).count();
                let due = on_it().filter(|leg| leg.limit == Some(limit)).count();
                let stuck = limit == Limit::PeerNotReading && self.cores[core].is_stuck(place);
                let counted = self.cores[core].sessions_held_up(place, limit);
                assert_eq!(counted, (sent as u32, due as u32 + u32::from(stuck)), "{limit:?}");
            }
        }
    }

    /// What a peer may still send, and what of it this node holds: two windows at most, and one
    /// as soon as no credit is owed for what came before the session moved.
    fn check_windows(&self, leg: &Leg) {
        let number = leg.nonce as usize - 1;
        let session = &self.sessions[number];
        match (self.moving(number), leg.moving.as_deref()) {
            (None, None) => assert_eq!(leg.window_left, session.credit, "{leg:?}"),
            (Some(false), Some(_)) => assert!(leg.window_left >= session.credit, "{leg:?}"),
            (Some(true), Some(moving)) => {
                let told = leg.window_left - u64::from(moving.withheld_bytes);
                assert_eq!(told, session.credit, "{leg:?}");
            }
            (expected, _) => panic!("{expected:?}: {leg:?}"),
        }
        let held_most = WINDOW - leg.window_left + leg.credit_debt;
        if let Some(partner) = session.partner {
            let held = session.sent - self.sessions[partner].received;
            assert!(held <= held_most, "{held} bytes are held: {leg:?}");
        }
        assert!(session.unreturned <= held_most, "{} unread bytes: {leg:?}", session.unreturned);
    }

    fn legs(&self) -> BTreeMap<LegTag, &Leg> {
        self.cores.iter().flat_map(Switch::legs).collect()
    }

    /// Peers read all they get and the cores have time: then every byte has arrived.
    pub(crate) fn let_everything_arrive(&mut self) {
        self.let_everybody_arrive();
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "something never arrives");
            for session in 0..self.sessions.len() {
                let entry = &self.sessions[session];
                if entry.state == State::Open && entry.granted < entry.received + 2 * WINDOW {
                    self.peer_reads(session);
                }
            }
            self.let_everything_move();
            self.cross_everything();
            self.take_reports(usize::MAX);
            for link in self.links_up() {
                self.fill(link, 1 << 20);
            }
            self.cross_everything();
            self.check();
            if round > 0 && self.legs().values().all(|leg| leg.queue.is_empty()) {
                break;
            }
            self.pass_time(20_000_000);
        }
        for entry in &self.sessions {
            let (State::Open, Some(partner)) = (entry.state, entry.partner) else { continue };
            if !entry.lossy && !self.scarce && self.sessions[partner].state == State::Open {
                assert_eq!(entry.received, self.sessions[partner].sent, "still under way");
            }
        }
        self.pass_time(TIMEOUT_NS + RESET_GRACE_NS);
        self.cross_everything();
        for entry in &self.sessions {
            let unanswered = matches!(entry.state, State::Asked | State::ResetEarly);
            assert!(!unanswered || !entry.own || entry.told, "no timeout");
        }
    }

    pub(crate) fn cross_everything(&mut self) {
        let cores = self.cores.len();
        let mut crossed = true;
        while crossed {
            crossed = false;
            for from in 0..cores {
                for to in 0..cores {
                    while self.cross_one(from, to) {
                        crossed = true;
                    }
                }
            }
        }
    }

    /// All links go down, in any order, with whatever is under way.
    pub(crate) fn end_everything(&mut self) {
        self.let_everybody_arrive();
        loop {
            let links = self.links_up();
            let Some(link) = self.random.of(&links) else { break };
            self.take_down(link);
            if self.random.one_in(2) {
                self.cross_everything();
            }
        }
        self.cross_everything();
        self.take_reports(usize::MAX);
    }

    pub(crate) fn check_nothing_is_left(&self) {
        self.check();
        self.check_no_move_is_left();
        assert!(self.inner.is_empty(), "a link inside never ends: {:?}", self.inner);
        for core in &self.cores {
            assert_eq!((core.sessions(), core.sources(), core.queue_bytes_in_use()), (0, 0, 0));
        }
        for quota in &self.quotas {
            assert_eq!((quota.sessions(), Arc::strong_count(quota)), (0, 1), "a quota is kept");
        }
        for rate in &self.rates {
            assert_eq!(Arc::strong_count(&rate.quota), 1, "a rate is kept");
        }
        for (number, session) in self.sessions.iter().enumerate() {
            assert!(!session.own || session.told, "query {number} of our own was never answered");
            let open = matches!(session.verdict, Verdict::Waiting(_) | Verdict::Taking(_));
            assert!(!open, "the management core still waits for session {number}");
        }
    }
}

/// With nothing between cores, a joined leg and its other name each other, and nobody else does.
fn check_owners(legs: &BTreeMap<LegTag, &Leg>) {
    for (tag, leg) in legs {
        let Other::Leg(to) = leg.other else { continue };
        let other = legs.get(&to);
        match leg.state {
            LegState::Ending => assert!(other.is_none_or(|other| other.other != Other::Leg(*tag))),
            _ => {
                let other = other.unwrap_or_else(|| panic!("{tag} is an orphan: {leg:?}"));
                assert_eq!(other.other, Other::Leg(*tag), "{to} has another owner than {tag}");
                let source = Source::Link { core: tag.core, link: leg.link };
                assert_eq!(other.source, source, "{to} sends in another's name than {tag}");
            }
        }
    }
}

/// With nothing between cores, a sender's leg knows what its payload waits for at the other one.
fn check_what_is_told(legs: &BTreeMap<LegTag, &Leg>) {
    for leg in legs.values() {
        let other = match leg.other {
            Other::Leg(to) => legs.get(&to).filter(|other| other.state != LegState::Ending),
            Other::Frozen(_) | Other::Management | Other::InnerLink(_) => continue,
        };
        if let Some(other) = other {
            assert_eq!(leg.held, other.limit, "{leg:?}");
        }
    }
}

//! What the management core decides and hears.

use crate::session::{Feed, Session, State, Verdict, bytes, node_stream, pattern};
use crate::world::{Link, WINDOW, World};
use std::sync::Arc;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::LegTag;
use waystation_relay::switch::OutboundQuery;

impl World {
    // What it decides

    pub(crate) fn management_acts(&mut self) {
        match self.random.below(100) {
            _ if self.nomadic => self.decide(),
            0..=49 => self.decide(),
            50..=59 => self.write(),
            60..=66 => self.inner_link_acts(),
            67..=79 => self.take_reports(1),
            80..=91 => self.ask(),
            92..=94 => self.ask_inside(),
            _ => self.close_a_session(),
        }
    }

    fn decide(&mut self) {
        let waiting: Vec<(usize, LegTag)> = (0..self.sessions.len())
            .filter_map(|session| match self.sessions[session].verdict {
                Verdict::Waiting(leg) => Some((session, leg)),
                _ => None,
            })
            .collect();
        let Some((session, leg)) = self.random.of(&waiting) else { return };
        let core = leg.core.index();
        self.sessions[session].verdict = Verdict::Final;
        match self.random.below(if self.nomadic { 20 } else { 100 }) {
            _ if self.nomadic && !self.random.one_in(3) => self.offer(session, leg),
            0..=7 => {
                let code = 1 + self.random.below(255) as u8;
                self.sessions[session].rejected = Some(code);
                self.cores[core].reject(leg, code);
            }
            8..=17 => {
                let written = self.random.below(5000);
                let entry = &mut self.sessions[session];
                (entry.feed, entry.written, entry.over) = (Feed::Node, written, true);
                let answer = bytes(node_stream(session), 0, written);
                self.cores[core].answer(leg, &answer, self.now_ns);
            }
            18..=20 => {
                self.sessions[session].state = State::Closed;
                self.cores[core].forget(leg);
            }
            21..=39 => {
                let input_left = self.random.below(4 * WINDOW);
                let entry = &mut self.sessions[session];
                (entry.feed, entry.input_left) = (Feed::Node, input_left);
                entry.verdict = Verdict::Taking(leg);
                self.cores[core].accept(leg, input_left as u32);
            }
            40..=47 if self.terminate(session, leg) => {}
            _ => self.offer(session, leg),
        }
        self.apply_effects(core);
    }

    fn offer(&mut self, caller: usize, leg: LegTag) {
        let links = self.links_up();
        let Some(link) = self.random.of(&links) else { return };
        let target = self.sessions.len();
        let paces = [self.random.below(6) as usize, self.random.below(6) as usize];
        let paces = paces.map(|pace| (pace < self.rates.len()).then_some(pace));
        let mut session = Session::new(link, State::Unsent, 0);
        (session.feed, session.partner) = (Feed::Session(caller), Some(caller));
        session.pace = paces[0];
        self.sessions.push(session);
        let entry = &mut self.sessions[caller];
        (entry.feed, entry.partner) = (Feed::Session(target), Some(target));
        (entry.verdict, entry.pace) = (Verdict::Offered, paces[1]);
        let quota = |pace: usize| Arc::clone(&self.rates[pace].quota);
        let [pace_target, pace_caller] = paces.map(|pace| pace.map(quota));
        if let Some(pace) = pace_caller {
            self.cores[leg.core.index()].pace(leg, pace);
        }
        let Link { core, place, .. } = self.links[link];
        let query = query(target);
        self.cores[core].offer(self.now_ns, leg, place, query, pace_target);
        self.apply_effects(core);
    }

    fn ask(&mut self) {
        let links = self.links_up();
        let Some(link) = self.random.of(&links) else { return };
        let session = self.sessions.len();
        let mut entry = Session::new(link, State::Unsent, 0);
        (entry.own, entry.feed) = (true, Feed::Node);
        entry.input_left = self.random.below(4 * WINDOW);
        let input_max_bytes = entry.input_left as u32;
        self.sessions.push(entry);
        let Link { core, place, .. } = self.links[link];
        self.cores[core].ask(self.now_ns, session as u64, place, query(session), input_max_bytes);
        self.apply_effects(core);
    }

    fn write(&mut self) {
        let Some((session, leg)) = self.one_of_its_own() else { return };
        let (count, end) = (self.random.below(10_000), self.random.one_in(5));
        let entry = &mut self.sessions[session];
        // A session that waits only for its last bytes to go takes no more.
        let position = entry.written;
        if !entry.write_ended {
            entry.written += count;
            entry.over |= end;
            entry.write_ended = end;
        }
        let written = bytes(node_stream(session), position, count);
        self.cores[leg.core.index()].write(leg, &written, end, self.now_ns);
        self.apply_effects(leg.core.index());
    }

    fn one_of_its_own(&mut self) -> Option<(usize, LegTag)> {
        let taking: Vec<(usize, LegTag)> = (0..self.sessions.len())
            .filter_map(|session| match self.sessions[session].verdict {
                Verdict::Taking(leg) => Some((session, leg)),
                _ => None,
            })
            .collect();
        self.random.of(&taking)
    }

    pub(crate) fn take_reports(&mut self, most: usize) {
        for _ in 0..most {
            let Some((session, leg, count)) = self.reports.pop_front() else { return };
            self.sessions[session].unreturned -= count as u64;
            let core = &mut self.cores[leg.core.index()];
            if self.sessions[session].inner {
                core.inner_consumed(leg, count);
            } else {
                core.input_handed_up(leg, count);
            }
            self.apply_effects(leg.core.index());
        }
    }

    pub(crate) fn close_a_session(&mut self) {
        let core = self.random.below(self.cores.len() as u64) as usize;
        let legs: Vec<(LegTag, u64)> =
            self.cores[core].legs().map(|(tag, leg)| (tag, leg.nonce)).collect();
        let Some((leg, nonce)) = self.random.of(&legs) else { return };
        let session = nonce as usize - 1;
        for session in [Some(session), self.sessions[session].partner].into_iter().flatten() {
            (self.sessions[session].over, self.sessions[session].lossy) = (true, true);
        }
        assert!(self.cores[core].close_session(leg, DropReason::SessionClosedByOperator));
        self.apply_effects(core);
    }

    // What it hears

    pub(crate) fn on_query(&mut self, leg: LegTag, nonce: u64) {
        let entry = &mut self.sessions[nonce as usize - 1];
        assert_eq!(entry.verdict, Verdict::None, "asked twice");
        entry.verdict = Verdict::Waiting(leg);
    }

    pub(crate) fn on_cancelled(&mut self, leg: LegTag) {
        let waiting = |session: &Session| session.verdict == Verdict::Waiting(leg);
        // An offer may be under way already; it will find nobody.
        if let Some(session) = self.sessions.iter().position(waiting) {
            assert!(self.sessions[session].over, "cancelled by nobody");
            self.sessions[session].verdict = Verdict::Final;
        } else {
            let offered = |session: &Session| session.verdict == Verdict::Offered && session.over;
            assert!(self.sessions.iter().any(offered), "{leg} was not waiting");
        }
    }

    pub(crate) fn on_asked(&mut self, session: usize, leg: LegTag, code: u8) {
        let entry = &mut self.sessions[session];
        assert!(entry.own && !entry.told, "session {session} was answered already");
        entry.told = true;
        if code == 0 {
            assert_eq!(entry.answer, Some(0));
            entry.verdict = Verdict::Taking(leg);
        } else {
            assert!(code == 1 || entry.answer == Some(code), "code {code} is nobody's");
            // Its peer may have accepted too late, and hears of it by a reset.
            entry.over = true;
        }
    }

    pub(crate) fn on_input(&mut self, leg: LegTag, payload: &[u8]) {
        let taking = |session: &Session| session.verdict == Verdict::Taking(leg);
        let session = self.sessions.iter().position(taking).expect("input behind the end");
        let entry = &mut self.sessions[session];
        for &byte in payload {
            assert_eq!(byte, pattern(session as u64, entry.handed), "input {}", entry.handed);
            entry.handed += 1;
        }
        let count = payload.len() as u64;
        entry.input_left = entry.input_left.checked_sub(count).expect("more than it takes");
        entry.unreturned += count;
        assert!(entry.unreturned <= 2 * WINDOW, "more unread input than two windows");
        self.reports.push_back((session, leg, payload.len()));
    }

    pub(crate) fn on_ended(&mut self, leg: LegTag) {
        let taking = |session: &Session| session.verdict == Verdict::Taking(leg);
        let session = self.sessions.iter().position(taking).expect("it ended already");
        let entry = &mut self.sessions[session];
        assert!(entry.over || self.scarce, "session {session} ended for no reason");
        if !entry.write_ended && !entry.lossy {
            assert_eq!(entry.handed, entry.sent, "input lost before the end");
        }
        entry.verdict = Verdict::Ended;
    }
}

pub(crate) fn query(session: usize) -> OutboundQuery {
    OutboundQuery {
        nonce: session as u64 + 1,
        query: b"objects.push".as_slice().into(),
        relayed: None,
    }
}

//! What peers do, well-behaved or not, and what they may be told.

use crate::session::{Feed, Session, State, Verdict, bytes, node_stream, pattern};
use crate::world::{Link, TIMEOUT_NS, WINDOW, World};
use waystation_astral::frame::{Frame, Profile};
use waystation_relay::limits::FIRST_DATA_HOLD_NS;
use waystation_relay::switch::{InboundQuery, Route};

/// Nonces from here on are those of no session.
const STRAY_NONCES: u64 = 1 << 40;

impl World {
    // What peers do

    pub(crate) fn peer_acts(&mut self) {
        if self.restless && self.random.one_in(3) {
            self.somebody_moves();
            return;
        }
        let links = self.links_up();
        let Some(link) = self.random.of(&links) else { return };
        let on_link = |session: &usize| {
            let session = &self.sessions[*session];
            session.link == link && session.state != State::Closed
        };
        let sessions: Vec<usize> = (0..self.sessions.len()).filter(on_link).collect();
        let Some(session) = self.random.of(&sessions).filter(|_| !self.random.one_in(8)) else {
            self.peer_asks(link);
            return;
        };
        if self.sessions[session].moving.is_some() && self.random.one_in(2) {
            self.peer_moves(session);
            return;
        }
        match (self.sessions[session].state, self.random.below(100)) {
            (State::Open, 0..=49) => self.peer_sends(session),
            (State::Open, 50..=69) => self.peer_reads(session),
            (State::Open, 70..=84) => self.peer_moves(session),
            (State::Asked | State::ResetEarly, 0..=59) => self.peer_answers(session),
            (State::Pending, 0..=59) | (State::Unsent | State::Closed, _) => {}
            (_, 60..=89) => self.stray_frame(link, session),
            // What a moving session does against the rules is a step of its move.
            (State::Open, 90..=93) if self.sessions[session].moving.is_some() => {}
            (_, 90..=93) => self.peer_breaks_the_rules(session),
            (State::ResetEarly, _) => {}
            _ => self.peer_resets(session),
        }
    }

    fn peer_asks(&mut self, link: usize) {
        let session = self.sessions.len();
        let window = self.random.below(3 * WINDOW);
        self.sessions.push(Session::new(link, State::Pending, window));
        self.send_query(session, window);
    }

    fn send_query(&mut self, session: usize, window: u64) {
        let Link { core, place, .. } = self.links[self.sessions[session].link];
        let inbound = InboundQuery {
            nonce: session as u64 + 1,
            window: window as u32,
            query: if self.random.one_in(20) { b"nobody.knows" } else { b"objects.push" },
            relayed: None,
        };
        self.cores[core].query(self.now_ns, place, inbound);
        self.apply_effects(core);
    }

    fn peer_sends(&mut self, session: usize) {
        let most = self.sessions[session].credit.min(6000);
        if most > 0 {
            let count = 1 + self.random.below(most);
            self.send(session, count);
        }
    }

    /// Sends so many bytes of the session's stream, which need not be allowed.
    pub(crate) fn send(&mut self, session: usize, count: u64) {
        let nonce = session as u64 + 1;
        let Link { core, place, .. } = self.links[self.sessions[session].link];
        let entry = &mut self.sessions[session];
        let position = entry.sent;
        let too_much = matches!(entry.verdict, Verdict::Taking(_)) && count > entry.input_left;
        if entry.state != State::Open || count > entry.credit || too_much {
            // We end it, and what waits for this peer is lost.
            (entry.over, entry.lossy) = (true, true);
        } else {
            entry.sent += count;
            entry.credit -= count;
        }
        let payload = bytes(session as u64, position, count);
        let room = self.random.one_in(2);
        let foretold = self.cores[core].direct_link(self.now_ns, place, nonce, payload.len());
        let route = self.cores[core].route(self.now_ns, place, nonce, payload.len(), |_| room);
        match route {
            Route::Direct { link, .. } => assert_eq!(foretold, Some(link)),
            _ => assert!(foretold.is_none() || !room, "{route:?} instead of {foretold:?}"),
        }
        self.carry(core, route, &payload);
        self.apply_effects(core);
    }

    pub(crate) fn peer_reads(&mut self, session: usize) {
        let count = self.random.below(2 * WINDOW);
        let Link { core, place, .. } = self.links[self.sessions[session].link];
        self.sessions[session].granted += count;
        self.cores[core].read(place, session as u64 + 1, count as u32);
        self.apply_effects(core);
    }

    fn peer_answers(&mut self, session: usize) {
        let code = if self.random.one_in(4) { 1 + self.random.below(255) as u8 } else { 0 };
        let window = self.random.below(3 * WINDOW);
        let Link { core, place, profile, .. } = self.links[self.sessions[session].link];
        let entry = &mut self.sessions[session];
        entry.answer = Some(code);
        if profile != Profile::P4 {
            entry.hold_until_ns = self.now_ns + FIRST_DATA_HOLD_NS;
        }
        entry.granted = window;
        entry.credit = WINDOW;
        if code == 0 && entry.state == State::Asked {
            entry.state = State::Open;
        } else {
            self.close(session);
        }
        let nonce = session as u64 + 1;
        self.cores[core].response(self.now_ns, place, nonce, code, window as u32);
        self.apply_effects(core);
    }

    fn peer_resets(&mut self, session: usize) {
        let Link { core, place, .. } = self.links[self.sessions[session].link];
        if self.sessions[session].state == State::Asked {
            self.sessions[session].state = State::ResetEarly;
            self.sessions[session].over = true;
        } else {
            self.close(session);
        }
        if let Some(partner) = self.sessions[session].partner {
            self.sessions[partner].over = true;
        }
        self.cores[core].reset(self.now_ns, place, session as u64 + 1);
        self.apply_effects(core);
    }

    /// Data beyond the window or before the response, or a query for the second time.
    fn peer_breaks_the_rules(&mut self, session: usize) {
        let count = match self.sessions[session].state {
            State::Open => self.sessions[session].credit + 1 + self.random.below(100),
            _ => 1 + self.random.below(100),
        };
        if self.random.one_in(3) {
            if !self.sessions[session].over {
                self.send_query(session, WINDOW);
            }
            return;
        }
        let ending = self.sessions[session].over;
        self.send(session, count);
        // What is ending takes nothing in, and the reset is under way already.
        assert!(ending || self.sessions[session].state == State::Closed, "nothing came of it");
    }

    /// A frame for a session that is not there.
    fn stray_frame(&mut self, link: usize, session: usize) {
        let Link { core, place, .. } = self.links[link];
        let nonce = STRAY_NONCES + session as u64;
        let answered = match self.random.below(4) {
            0 => {
                let route = self.cores[core].route(self.now_ns, place, nonce, 10, |_| true);
                assert_eq!(route, waystation_relay::switch::Route::Nowhere);
                true
            }
            1 => {
                self.cores[core].read(place, nonce, 10);
                true
            }
            2 => {
                self.cores[core].reset(self.now_ns, place, nonce);
                false
            }
            _ => {
                self.cores[core].response(self.now_ns, place, nonce, 0, 10);
                false
            }
        };
        let before = self.stray_resets;
        self.apply_effects(core);
        assert_eq!(self.stray_resets - before, usize::from(answered));
    }

    // What peers are told

    pub(crate) fn on_frame(&mut self, core: usize, place: u32, frame: &Frame<'_>) {
        let link = self.link_at(core, place).expect("a frame for a link that is down");
        if frame.nonce() >= STRAY_NONCES {
            assert!(matches!(frame, Frame::Reset { .. }), "{frame:?}");
            self.stray_resets += 1;
            return;
        }
        let session = frame.nonce() as usize - 1;
        if self.expected_reset == Some((link, session)) {
            assert!(matches!(frame, Frame::Reset { .. }), "{frame:?}");
            self.expected_reset = None;
            return;
        }
        assert_eq!(self.sessions[session].link, link, "{frame:?} on another's link");
        match *frame {
            Frame::Query { .. } => {
                let entry = &mut self.sessions[session];
                assert_eq!(entry.state, State::Unsent, "{frame:?}");
                (entry.state, entry.asked_ns) = (State::Asked, self.now_ns);
            }
            Frame::Response { code, window, .. } => self.on_response(session, code, window),
            Frame::Read { bytes, .. } => {
                let entry = &mut self.sessions[session];
                assert_eq!((entry.state, entry.moving), (State::Open, None), "{frame:?}");
                entry.credit += u64::from(bytes);
                assert!(entry.credit <= WINDOW, "more credit than the window");
            }
            Frame::Reset { .. } => self.on_reset(session),
            Frame::Migrate { .. } => self.on_marker(session),
            ref other => panic!("{other:?}"),
        }
    }

    fn on_response(&mut self, session: usize, code: u8, window: u32) {
        assert_eq!(self.sessions[session].state, State::Pending, "a second response");
        let target = self.sessions[session].partner.map(|target| self.sessions[target].answer);
        if code != 0 {
            let known = [Some(1), self.sessions[session].rejected, target.flatten()];
            assert!(known.contains(&Some(code)), "code {code} is nobody's");
            self.sessions[session].state = State::Closed;
            return;
        }
        match target {
            Some(answer) => assert_eq!(answer, Some(0), "nobody accepted"),
            None => assert_eq!(self.sessions[session].feed, Feed::Node, "nobody accepted"),
        }
        assert_eq!(u64::from(window), WINDOW);
        let entry = &mut self.sessions[session];
        (entry.state, entry.credit) = (State::Open, WINDOW);
    }

    fn on_reset(&mut self, session: usize) {
        let entry = &self.sessions[session];
        let late = entry.state == State::Asked && self.now_ns >= entry.asked_ns + TIMEOUT_NS;
        // An early reset is not answered, unless the offer is given up before its response.
        assert_ne!(entry.state, State::Closed, "session {session} is reset twice");
        assert!(entry.over || late || self.scarce, "session {session} is reset for no reason");
        if !entry.lossy && !self.scarce && entry.state == State::Open {
            match entry.feed {
                Feed::Session(source) => {
                    assert_eq!(entry.received, self.sessions[source].sent, "lost before the end");
                }
                Feed::Node => assert_eq!(entry.received, entry.written, "lost before the end"),
                Feed::Nobody => panic!("session {session} is open without anybody"),
            }
        }
        self.close(session);
    }

    pub(crate) fn on_data(&mut self, core: usize, place: u32, nonce: u64, payload: &[u8]) {
        let link = self.link_at(core, place).expect("data for a link that is down");
        let session = nonce as usize - 1;
        let entry = &mut self.sessions[session];
        assert_eq!((entry.link, entry.state), (link, State::Open), "data of session {session}");
        assert!(self.now_ns >= entry.hold_until_ns, "too early");
        assert_eq!(entry.moving, None, "data of session {session} on its way");
        let stream = match entry.feed {
            Feed::Session(source) => source as u64,
            Feed::Node => node_stream(session),
            Feed::Nobody => panic!("data of nobody"),
        };
        for &byte in payload {
            assert_eq!(byte, pattern(stream, entry.received), "byte {}", entry.received);
            entry.received += 1;
        }
        assert!(entry.received <= entry.granted, "beyond the peer's credit");
        self.delivered += payload.len() as u64;
        if let Some(pace) = entry.pace {
            self.rates[pace].passed += payload.len() as u64;
        }
    }
}

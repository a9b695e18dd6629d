//! Sessions that peers move between links of theirs, by the rules (spec §9.3) or not.

use crate::session::{State, bytes};
use crate::world::{Link, SESSIONS_PER_LINK, WINDOW, World};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LegTag};
use waystation_relay::leg::{Leg, LegState, MigrationStep};
use waystation_relay::switch::{Migration, Route};

/// How far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The peer asked for it.
    Asked,
    /// Our marker is on the old link.
    Begun(LegTag),
    /// The peer's marker is there as well.
    Arrived(LegTag),
    Resumed,
    Refused,
    /// The session ended on the way.
    Ended,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    session: usize,
    /// The places of its links.
    from: usize,
    to: usize,
    peer_window: u64,
    our_window: u64,
    our_marker: bool,
    stage: Stage,
}

impl Move {
    fn has_arrived(&self) -> bool {
        matches!(self.stage, Stage::Arrived(_))
    }
}

impl World {
    // What the peer does

    /// A peer goes on with a move, or asks for one if there is none.
    pub(crate) fn somebody_moves(&mut self) {
        let open: Vec<usize> = (0..self.sessions.len())
            .filter(|&session| self.sessions[session].state == State::Open)
            .filter(|&session| !self.links[self.sessions[session].link].quiet)
            .collect();
        let moving: Vec<usize> =
            open.iter().copied().filter(|&open| self.sessions[open].moving.is_some()).collect();
        let session = match self.random.of(&moving) {
            Some(session) => Some(session),
            None => self.random.of(&open),
        };
        if let Some(session) = session {
            self.peer_moves(session);
        }
    }

    /// The next step of the peer towards a move.
    pub(crate) fn peer_moves(&mut self, session: usize) {
        match self.sessions[session].moving {
            None => self.peer_asks_to_move(session),
            Some(number) if self.random.one_in(6) => self.peer_moves_badly(number),
            Some(number) if self.random.one_in(8) => self.give_the_move_up(number),
            Some(_) if self.random.one_in(3) => self.peer_sends_all_it_may(session),
            Some(number) => self.peer_goes_on(number),
        }
    }

    /// Until its marker that counts on the old link, and from then on against the new window.
    fn peer_sends_all_it_may(&mut self, session: usize) {
        let count = self.sessions[session].credit;
        if count > 0 {
            self.send(session, count);
            self.reach("sent while moving");
        }
    }

    fn peer_asks_to_move(&mut self, session: usize) {
        let link = self.sessions[session].link;
        let Link { core, identity, .. } = self.links[link];
        let mut its_own = self.links_up();
        its_own.retain(|&own| (self.links[own].core, self.links[own].identity) == (core, identity));
        let senseless = self.random.one_in(20);
        let targets: Vec<usize> =
            its_own.iter().copied().filter(|&own| senseless || own != link).collect();
        let Some(to) = self.random.of(&targets) else { return };
        let allowed = self.may_move(session, to);
        let debt = self.leg_of(session).map_or(0, |leg| leg.credit_debt);
        let number = self.moves.len();
        let peer_window = self.random.below(3 * WINDOW);
        let (our_marker, stage) = (false, Stage::Asked);
        self.moves.push(Move {
            session,
            from: link,
            to,
            peer_window,
            our_window: WINDOW,
            our_marker,
            stage,
        });
        let from: Vec<u32> = its_own.iter().map(|&own| self.links[own].place).collect();
        let migration = Migration {
            operation: LegTag { core: CoreId(core as u16), slot: number as u32, generation: 0 },
            nonce: session as u64 + 1,
            to_link: self.links[to].place,
            peer_window: peer_window as u32,
        };
        self.cores[core].begin_migration(&from, migration);
        self.apply_effects(core);
        let begun = matches!(self.moves[number].stage, Stage::Begun(_));
        assert!(begun || self.moves[number].stage == Stage::Refused, "no answer");
        assert_eq!(begun, allowed, "{:?}", self.moves[number]);
        assert!(!begun || self.moves[number].our_window + debt == WINDOW, "owes {debt}");
        if begun && debt > 0 {
            self.reach("begun with a debt");
        }
    }

    fn leg_of(&self, session: usize) -> Option<&Leg> {
        let core = self.links[self.sessions[session].link].core;
        let nonce = session as u64 + 1;
        self.cores[core].legs().map(|(_, leg)| leg).find(|leg| leg.nonce == nonce)
    }

    fn may_move(&self, session: usize, to: usize) -> bool {
        let Link { core, place, .. } = self.links[to];
        self.leg_of(session).is_some_and(|leg| {
            leg.state == LegState::Open
                && leg.moving.is_none()
                && leg.credit_debt <= WINDOW / 2
                && leg.link != place
                && self.cores[core].sessions_of(place) < SESSIONS_PER_LINK
        })
    }

    fn peer_goes_on(&mut self, number: usize) {
        let Move { session, from, to, peer_window, our_window, stage, .. } = self.moves[number];
        match stage {
            Stage::Begun(_) => {
                let Link { core, place, .. } = self.links[from];
                let entry = &mut self.sessions[session];
                (entry.link, entry.credit) = (to, our_window);
                entry.granted = entry.received + peer_window;
                self.cores[core].migrate(place, session as u64 + 1);
                self.apply_effects(core);
                assert!(self.moves[number].has_arrived(), "the marker was not heard");
            }
            Stage::Arrived(leg) => {
                self.moves[number].stage = Stage::Resumed;
                self.sessions[session].moving = None;
                self.reach(if self.sessions[session].inner { "inner resumed" } else { "resumed" });
                // The old link may be on another core by now.
                let core = leg.core.index();
                self.cores[core].resume_migrated(leg);
                self.apply_effects(core);
            }
            _ => panic!("{:?} is not under way", self.moves[number]),
        }
    }

    /// Every move that is under way comes to its end.
    pub(crate) fn let_everything_move(&mut self) {
        for session in 0..self.sessions.len() {
            while let Some(number) = self.sessions[session].moving {
                self.peer_goes_on(number);
            }
        }
    }

    /// The management core has waited long enough.
    fn give_the_move_up(&mut self, number: usize) {
        let Move { session, stage, .. } = self.moves[number];
        let (Stage::Begun(leg) | Stage::Arrived(leg)) = stage else { panic!("{stage:?}") };
        for session in [Some(session), self.sessions[session].partner].into_iter().flatten() {
            (self.sessions[session].over, self.sessions[session].lossy) = (true, true);
        }
        let core = leg.core.index();
        assert!(self.cores[core].close_session(leg, DropReason::MigrationFailed));
        self.apply_effects(core);
        assert_eq!(self.moves[number].stage, Stage::Ended);
    }

    fn peer_moves_badly(&mut self, number: usize) {
        let Move { session, from, to, .. } = self.moves[number];
        match self.random.below(7) {
            0 => self.data_on_the_wrong_link(number),
            1 => self.senseless_marker(number),
            2 => self.reset_on_either_link(number),
            3 => {
                self.reach("asked twice");
                self.peer_asks_to_move(session);
            }
            4 => self.resume_too_soon(number),
            5 => self.credit_on_the_wrong_link(number),
            _ => {
                let link = if self.random.one_in(2) { from } else { to };
                if self.acts(link) {
                    let outlives = self.moves[number].has_arrived() && link == from;
                    self.reach(if outlives { "old link dropped" } else { "link dropped" });
                    self.take_down(link);
                    assert_eq!(self.moves[number].stage == Stage::Ended, !outlives);
                }
            }
        }
    }

    /// On the new one before the marker, or on the old one behind it.
    fn data_on_the_wrong_link(&mut self, number: usize) {
        let moved @ Move { session, from, to, .. } = self.moves[number];
        let wrong = if moved.has_arrived() { from } else { to };
        if !self.acts(wrong) {
            return;
        }
        let ending = self.leg_of(session).is_some_and(|leg| leg.state == LegState::Ending);
        let ends = !moved.has_arrived() && !ending;
        if ends {
            (self.sessions[session].over, self.sessions[session].lossy) = (true, true);
        }
        let Link { core, place, .. } = self.links[wrong];
        let payload = bytes(session as u64, self.sessions[session].sent, 10);
        if ends || moved.has_arrived() {
            self.expected_reset = Some((wrong, session));
        }
        let nonce = session as u64 + 1;
        let route = self.cores[core].route(self.now_ns, place, nonce, payload.len(), |_| true);
        assert_eq!(route, Route::Nowhere, "taken from the wrong link");
        self.apply_effects(core);
        assert_eq!(self.expected_reset, None, "the wrong link was not reset");
        assert_eq!(self.moves[number].stage == Stage::Ended, ends);
        self.reach(if ends { "data too soon" } else { "data too late" });
    }

    fn senseless_marker(&mut self, number: usize) {
        let moved @ Move { session, from, to, .. } = self.moves[number];
        let wrong = if moved.has_arrived() && self.random.one_in(2) { from } else { to };
        let Link { core, place, .. } = self.links[wrong];
        if self.acts(wrong) {
            self.cores[core].migrate(place, session as u64 + 1);
            assert!(!self.cores[core].has_effects(), "something came of it");
            self.reach("marker repeated");
        }
    }

    fn reset_on_either_link(&mut self, number: usize) {
        let moved @ Move { session, from, to, .. } = self.moves[number];
        let link = if self.random.one_in(2) { from } else { to };
        let Link { core, place, .. } = self.links[link];
        if !self.acts(link) {
            return;
        }
        let ends = !moved.has_arrived() || link == to;
        if ends {
            self.close(session);
        }
        self.cores[core].reset(self.now_ns, place, session as u64 + 1);
        self.apply_effects(core);
        assert_eq!(self.moves[number].stage == Stage::Ended, ends);
        self.reach(if ends { "moving session reset" } else { "old name reset" });
    }

    fn resume_too_soon(&mut self, number: usize) {
        if let Stage::Begun(leg) = self.moves[number].stage {
            let core = leg.core.index();
            self.cores[core].resume_migrated(leg);
            assert!(!self.cores[core].has_effects(), "something came of it");
            self.reach("resumed too soon");
        }
    }

    fn credit_on_the_wrong_link(&mut self, number: usize) {
        let moved @ Move { session, to, .. } = self.moves[number];
        if !moved.has_arrived() {
            let Link { core, place, .. } = self.links[to];
            // It is worth nothing once the windows are counted anew.
            self.sessions[session].granted += 10;
            self.cores[core].read(place, session as u64 + 1, 10);
            assert!(!self.cores[core].has_effects(), "something came of it");
            self.reach("credit too soon");
        }
    }

    // What it hears

    pub(crate) fn on_marker(&mut self, session: usize) {
        let asked = self.moves.last_mut().expect("nobody asked to move");
        assert_eq!((asked.session, asked.stage, asked.our_marker), (session, Stage::Asked, false));
        asked.our_marker = true;
    }

    pub(crate) fn on_migration(&mut self, operation: LegTag, step: MigrationStep) {
        let number = operation.slot as usize;
        let moved = self.moves[number];
        let entry = &mut self.sessions[moved.session];
        let stage = match (step, moved.stage) {
            (MigrationStep::Refused, Stage::Asked) => Stage::Refused,
            (MigrationStep::Begun { leg, window_bytes }, Stage::Asked) => {
                assert!(moved.our_marker, "it has begun without our marker");
                assert_eq!((entry.state, entry.moving), (State::Open, None));
                entry.moving = Some(number);
                self.moves[number].our_window = u64::from(window_bytes);
                Stage::Begun(leg)
            }
            (MigrationStep::Arrived, Stage::Begun(leg)) => Stage::Arrived(leg),
            (MigrationStep::Ended, Stage::Begun(_) | Stage::Arrived(_)) => {
                assert!(entry.over || self.scarce, "it ended for no reason");
                entry.moving = None;
                Stage::Ended
            }
            (step, stage) => panic!("{step:?} of a move that is {stage:?}"),
        };
        self.moves[number].stage = stage;
        self.reach(match stage {
            Stage::Begun(_) => "begun",
            Stage::Arrived(_) => "arrived",
            Stage::Ended => "ended",
            _ => "refused",
        });
    }

    /// Whether a session is between its links, and whether its leg has only the new one.
    pub(crate) fn moving(&self, session: usize) -> Option<bool> {
        self.sessions[session].moving.map(|number| self.moves[number].has_arrived())
    }

    /// Sessions that end with a link: those on it, and those on their way to it.
    pub(crate) fn lives_on(&self, session: usize, link: usize) -> bool {
        let entry = &self.sessions[session];
        entry.link == link || entry.moving.is_some_and(|number| self.moves[number].to == link)
    }

    pub(crate) fn check_no_move_is_left(&self) {
        for moved in &self.moves {
            let over = matches!(moved.stage, Stage::Resumed | Stage::Refused | Stage::Ended);
            assert!(over, "{moved:?} never ends");
        }
    }
}

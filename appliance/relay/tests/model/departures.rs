//! Links that change cores while everything else goes on.

use crate::world::{LINKS_PER_CORE, Link, World};
use waystation_relay::switch::{DepartureProgress, MoveRefusal, MovedSessions, Switch};

/// A link on its way.
pub(crate) struct Departure {
    link: usize,
    from: usize,
    to: usize,
    /// Set once it has left.
    sessions: Option<MovedSessions>,
}

impl World {
    /// A link begins to change cores, or goes on with that.
    pub(crate) fn somebody_changes_cores(&mut self) {
        if self.departures.is_empty() || self.random.one_in(3) {
            self.begin_departure();
        } else {
            let number = self.random.below(self.departures.len() as u64) as usize;
            self.go_on_with(number);
        }
    }

    fn begin_departure(&mut self) {
        let links = self.links_up();
        let to = self.random.below(self.cores.len() as u64) as usize;
        let Some(link) = self.random.of(&links) else { return };
        let Link { core: from, place, .. } = self.links[link];
        if from == to {
            return;
        }
        let refusal = self.cores[from].why_immovable(place);
        assert_eq!(self.cores[from].depart(place).err(), refusal);
        self.apply_effects(from);
        self.reach(match refusal {
            None => "departure begun",
            Some(MoveRefusal::CarriesLink) => "departure refused: carries a link",
            Some(MoveRefusal::OwnSession) => "departure refused: session of our own",
            Some(MoveRefusal::QueryPending) => "departure refused: query pending",
            Some(MoveRefusal::SessionMoves) => "departure refused: session moves",
            Some(MoveRefusal::PeerMoves) => "departure refused: frozen",
            Some(other) => panic!("{other:?}"),
        });
        if refusal.is_none() {
            self.links[link].quiet = true;
            self.departures.push(Departure { link, from, to, sessions: None });
        }
    }

    fn go_on_with(&mut self, number: usize) {
        let Departure { link, from, .. } = self.departures[number];
        if self.departures[number].sessions.is_some() {
            self.arrive(number);
            return;
        }
        let place = self.links[link].place;
        match self.cores[from].departure(place) {
            DepartureProgress::Settled if !self.random.one_in(8) => {
                let sessions = self.cores[from].leave(place).unwrap();
                self.links[link].core = usize::MAX;
                if sessions.sessions() > 0 {
                    self.reach("left with sessions");
                }
                self.departures[number].sessions = Some(sessions);
                self.apply_effects(from);
            }
            DepartureProgress::Settling if !self.random.one_in(8) => {}
            progress => {
                self.reach(match progress {
                    DepartureProgress::Refused => "departure refused by another",
                    _ => "departure given up",
                });
                self.stay(number);
            }
        }
    }

    fn stay(&mut self, number: usize) {
        let Departure { link, from, .. } = self.departures.swap_remove(number);
        self.links[link].quiet = false;
        self.cores[from].stay(self.links[link].place);
        self.apply_effects(from);
    }

    /// It arrives, or comes back, or is lost if there is no room on either core.
    fn arrive(&mut self, number: usize) {
        let Departure { link, from, to, sessions } = self.departures.swap_remove(number);
        let sessions = sessions.unwrap();
        let order: &[usize] = match self.random.below(20) {
            0 => &[],
            1..=3 => &[from, to],
            _ => &[to, from],
        };
        for &core in order {
            let place = (0..LINKS_PER_CORE as u32).find(|&it| self.link_at(core, it).is_none());
            let Some(place) = place else { continue };
            if !self.cores[core].has_room_for(&sessions) {
                continue;
            }
            self.reach(if core == to { "arrived on another core" } else { "came back" });
            let entry = &mut self.links[link];
            (entry.core, entry.place, entry.quiet) = (core, place, false);
            self.cores[core].arrive(place, sessions);
            self.apply_effects(core);
            return;
        }
        self.reach("lost on the way");
        self.links[link].up = false;
        self.forget_sessions_of(link);
        self.cores[from].lose(sessions);
        self.apply_effects(from);
    }

    /// Every link on its way comes somewhere, or stays.
    pub(crate) fn let_everybody_arrive(&mut self) {
        while !self.departures.is_empty() {
            match self.departures[0].sessions {
                Some(_) => self.arrive(0),
                None => self.stay(0),
            }
            self.cross_everything();
        }
    }

    pub(crate) fn check_nobody_is_frozen(&self) {
        let frozen: usize = self.cores.iter().map(Switch::frozen_sessions).sum();
        assert_eq!(frozen, 0, "somebody waits for a link that has arrived");
    }
}

//! Links of our own that run inside sessions.

use crate::management::query;
use crate::session::{Feed, Session, State, bytes, node_stream, pattern};
use crate::world::{Link, WINDOW, World};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::LegTag;

/// Places for such links on one core; they are used again.
const PLACES: u32 = 4;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Inner {
    session: usize,
    /// None until the query was sent.
    leg: Option<LegTag>,
    /// Its first bytes may be written.
    opened: bool,
}

impl World {
    // What the links do

    fn free_place(&self, core: usize) -> Option<u32> {
        (0..PLACES).find(|&place| !self.inner.contains_key(&(core, place)))
    }

    /// Accepts a query for a link of our own. `false`: there is no place.
    pub(crate) fn terminate(&mut self, session: usize, leg: LegTag) -> bool {
        let core = leg.core.index();
        let Some(place) = self.free_place(core) else { return false };
        (self.sessions[session].feed, self.sessions[session].inner) = (Feed::Node, true);
        self.inner.insert((core, place), Inner { session, leg: Some(leg), opened: true });
        assert!(self.cores[core].terminate_inside(leg, place), "the query has gone");
        self.reach("inner link accepted");
        true
    }

    pub(crate) fn ask_inside(&mut self) {
        let links = self.links_up();
        let Some(link) = self.random.of(&links) else { return };
        let Link { core, place, .. } = self.links[link];
        let Some(inner) = self.free_place(core) else { return };
        let session = self.sessions.len();
        let mut entry = Session::new(link, State::Unsent, 0);
        (entry.own, entry.feed, entry.inner) = (true, Feed::Node, true);
        self.sessions.push(entry);
        self.inner.insert((core, inner), Inner { session, leg: None, opened: false });
        match self.cores[core].ask_inside(self.now_ns, place, query(session), inner) {
            Ok(leg) => {
                self.inner.insert((core, inner), Inner { session, leg: Some(leg), opened: false });
            }
            Err(reason) => self.on_inner_refused(core, inner, reason),
        }
        self.apply_effects(core);
    }

    pub(crate) fn inner_link_acts(&mut self) {
        let links: Vec<(usize, u32)> = self.inner.keys().copied().collect();
        let Some(place @ (core, _)) = self.random.of(&links) else { return };
        let Inner { session, leg, opened } = self.inner[&place];
        let leg = leg.expect("a query on its way");
        if self.random.one_in(8) {
            self.inner.remove(&place);
            let entry = &mut self.sessions[session];
            (entry.over, entry.told) = (true, true);
            self.cores[core].inner_end(leg);
            self.reach(if opened { "inner link left" } else { "inner link left early" });
        } else if opened {
            let (position, count) = (self.sessions[session].written, self.random.below(10_000));
            self.sessions[session].written += count;
            let written = bytes(node_stream(session), position, count);
            self.cores[core].inner_write(leg, &written, self.now_ns);
            self.reach("inner link wrote");
        }
        self.apply_effects(core);
    }

    // What they hear

    pub(crate) fn on_inner_opened(&mut self, core: usize, place: u32) {
        let inner = self.inner.get_mut(&(core, place)).expect("nobody's link is opened");
        assert!(!inner.opened, "opened twice");
        inner.opened = true;
        let entry = &mut self.sessions[inner.session];
        assert_eq!((entry.answer, entry.told), (Some(0), false));
        entry.told = true;
        self.reach("inner link opened");
    }

    pub(crate) fn on_inner_refused(&mut self, core: usize, place: u32, reason: DropReason) {
        let inner = self.inner.remove(&(core, place)).expect("nobody's link is refused");
        assert!(!inner.opened, "refused when it was open");
        let entry = &mut self.sessions[inner.session];
        (entry.over, entry.told) = (true, true);
        self.cores[core].count_drop(reason, 0);
        self.reach("inner link refused");
    }

    pub(crate) fn on_inner_ended(&mut self, core: usize, place: u32) {
        let inner = self.inner.remove(&(core, place)).expect("nobody's link has ended");
        let entry = &mut self.sessions[inner.session];
        entry.told = true;
        assert!(entry.over || self.scarce, "session {} ended for no reason", inner.session);
        assert!(entry.lossy || entry.handed == entry.sent, "input lost before the end");
        self.reach("inner link ended");
    }

    pub(crate) fn on_inner_payload(&mut self, core: usize, place: u32, payload: &[u8]) {
        let Inner { session, leg, opened } = self.inner[&(core, place)];
        assert!(opened, "data before it was opened");
        let entry = &mut self.sessions[session];
        for &byte in payload {
            assert_eq!(byte, pattern(session as u64, entry.handed), "input {}", entry.handed);
            entry.handed += 1;
        }
        entry.unreturned += payload.len() as u64;
        assert!(entry.unreturned <= 2 * WINDOW, "more unread input than two windows");
        let leg = leg.expect("data for a query on its way");
        self.reports.push_back((session, leg, payload.len()));
        self.reach("inner link read");
    }
}

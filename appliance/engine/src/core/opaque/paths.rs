//! What whoever fills the program's map is told of sessions, and what it tells back.
//!
//! Part of a core's opaque sessions, on its thread. Told is what holds of a session now, a short
//! while after something has changed, so one that changes all the time is told of no faster. Each
//! word has a number, and only the answer to the last one counts: from the moment a session is
//! offered until an answer says that it is not carried, it may be. A session is relayed here
//! whatever is told or answered, so all of it may be late.

use super::OpaqueSessions;
use super::due::DueQueue;
use crate::control::Report;
use crate::fabric::Fabric;
use crate::limits::{
    UDP_PATH_REPORTS_PER_TURN, UDP_PATHS_AFTER_NS, UDP_PATHS_PER_REPORT, UDP_PATHS_RETRY_NS,
};
use crate::offload::{UdpOffloaded, UdpPath, UdpPathAnswer, UdpPathLeg};
use crate::port::datagrams::UdpTier;
use crate::statistics::CoreCounters;
use std::net::SocketAddr;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::tier::WhyNot;
use waystation_relay::udp::{Offer, Side};

/// What was said of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    /// The number of the last word.
    serial: u32,
    /// What was answered to that.
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    against: Option<WhyNot>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Paths {
    is_wanted: bool,
    waiting: DueQueue<()>,
    /// By the place of a session.
    said: Vec<Said>,
}

impl Paths {
    pub(super) fn new(sessions_max: usize) -> Self {
        let said = Vec::with_capacity(sessions_max);
        Self { is_wanted: false, waiting: DueQueue::new(sessions_max), said }
    }

    fn want(&mut self, is_wanted: bool) {
        self.is_wanted = is_wanted;
        self.waiting.clear();
        for said in &mut self.said {
            // The numbers go on, so that no answer from before is taken for one to what follows.
            said.answer = None;
        }
    }

    /// Something that is to be told has changed.
    pub(super) fn note(&mut self, place: u32, now_ns: u64) {
        if self.is_wanted {
            self.waiting.push(place, (), now_ns + UDP_PATHS_AFTER_NS);
        }
    }

    /// A session has ended; its place may be another's soon.
    pub(super) fn forget(&mut self, place: u32) {
        self.waiting.forget(place);
        if let Some(said) = self.said.get_mut(place as usize) {
            said.answer = None;
        }
    }

    /// When the next session is to be told of.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.waiting.due_ns()
    }

    fn has_due(&self, now_ns: u64) -> bool {
        self.due_ns().is_some_and(|due_ns| due_ns <= now_ns)
    }

    fn take_due(&mut self, now_ns: u64) -> Option<u32> {
        self.waiting.take_due(now_ns).map(|(place, ())| place)
    }

    /// There was no room to tell.
    fn put_off(&mut self, now_ns: u64) {
        self.waiting.put_off(now_ns + UDP_PATHS_RETRY_NS);
    }

    /// The number of the next word on a session.
    fn next_serial(&mut self, place: u32) -> u32 {
        let said = self.said_mut(place);
        said.serial = said.serial.wrapping_add(1);
        said.answer = None;
        said.serial
    }

    /// `false`: it is not the answer to the last word.
    fn take_answer(&mut self, answer: &UdpPathAnswer) -> bool {
        let Some(said) = self.said.get_mut(answer.session.slot as usize) else { return false };
        let is_last = self.is_wanted && said.serial == answer.serial;
        if is_last {
            said.answer = Some(Answer { against: answer.against });
        }
        is_last
    }

    fn said_mut(&mut self, place: u32) -> &mut Said {
        let place = place as usize;
        if self.said.len() <= place {
            self.said.resize(place + 1, Said::default());
        }
        &mut self.said[place]
    }

    /// What waits to be told is not in the map yet, whatever was answered before.
    fn against(&self, place: u32) -> Option<WhyNot> {
        let said = self.said.get(place as usize).filter(|_| !self.waiting.is_waiting(place));
        let answer = said.and_then(|said| said.answer);
        answer.map_or(Some(WhyNot::Pending), |answer| answer.against)
    }
}

impl OpaqueSessions {
    /// Begins to tell of all sessions, or tells of none any more; nothing is carried elsewhere then.
    pub(in crate::core) fn tell_paths(&mut self, is_wanted: bool, now_ns: u64) {
        self.paths.want(is_wanted);
        let all: Vec<_> = self.sessions.listed_from(0).map(|listed| listed.session).collect();
        for session in all {
            self.sessions.watch(session, is_wanted);
            self.sessions.set_offloaded(session, false);
            self.paths.note(session.slot, now_ns);
            self.choose_tier(session);
        }
    }

    /// There is one more session.
    pub(super) fn begin_path(&mut self, session: UdpSessionTag, now_ns: u64) {
        self.sessions.watch(session, self.paths.is_wanted);
        self.paths.note(session.slot, now_ns);
    }

    /// Tells of sessions that are due, as far as there is room.
    pub(super) fn report_paths(&mut self, now_ns: u64, fabric: &mut Fabric) {
        for _ in 0..UDP_PATH_REPORTS_PER_TURN {
            if !self.paths.has_due(now_ns) {
                return;
            }
            if !fabric.report_if_room(|| Report::UdpPaths { paths: self.take_paths(now_ns) }) {
                self.paths.put_off(now_ns);
                return;
            }
        }
    }

    fn take_paths(&mut self, now_ns: u64) -> Box<[UdpPath]> {
        let mut paths = Vec::with_capacity(UDP_PATHS_PER_REPORT);
        while paths.len() < UDP_PATHS_PER_REPORT
            && let Some(place) = self.paths.take_due(now_ns)
        {
            let listed = self.sessions.listed_from(place).next();
            if let Some(listed) = listed.filter(|listed| listed.session.slot == place) {
                paths.extend(self.path(listed.session));
            }
        }
        paths.into()
    }

    /// What is told of a session; from then on it may be carried elsewhere.
    fn path(&mut self, session: UdpSessionTag) -> Option<UdpPath> {
        let offer = self.sessions.offer(session)?;
        let legs = Side::BOTH.map(|side| self.leg(session, &offer, side));
        let against = self.against(&offer, &legs);
        if against.is_none() {
            self.sessions.set_offloaded(session, true);
        }
        let serial = self.paths.next_serial(session.slot);
        self.choose_tier(session);
        let Offer { is_wireguard, pace, .. } = offer;
        Some(UdpPath { session, serial, legs, is_wireguard, pace, against })
    }

    /// A leg whose end is known, and where it sends to.
    fn leg(&self, session: UdpSessionTag, offer: &Offer, side: Side) -> Option<UdpPathLeg> {
        let leg = &offer.legs[side.index()];
        let end = leg.address?;
        let bound = self.ports.address_of_family(end.is_ipv6())?;
        let heard_at = self.carried.get(session.slot as usize)?.local[side.index()];
        let local = if bound.is_unspecified() {
            heard_at.filter(|local| local.is_ipv4() == end.is_ipv4())?
        } else {
            bound
        };
        let local = SocketAddr::new(local, leg.port.0);
        Some(UdpPathLeg { end, local, indices: leg.indices })
    }

    /// Whether a program on interfaces knows of sessions, and so can bring their frames here.
    pub(super) fn has_program(&self) -> bool {
        self.paths.is_wanted
    }

    fn against(&self, offer: &Offer, legs: &[Option<UdpPathLeg>; 2]) -> Option<WhyNot> {
        if self.tier != UdpTier::Gso {
            return Some(WhyNot::NotAllowed);
        }
        let is_unknown = || legs.iter().any(Option::is_none);
        offer.against.or_else(|| is_unknown().then_some(WhyNot::LocalUnknown))
    }

    /// What stands against a session's being carried without this core at this moment.
    pub(super) fn against_xdp(&self, session: UdpSessionTag) -> Option<WhyNot> {
        if !self.paths.is_wanted {
            return Some(WhyNot::NotAttached);
        }
        let Some(offer) = self.sessions.offer(session) else { return Some(WhyNot::LegUnknown) };
        let legs = Side::BOTH.map(|side| self.leg(session, &offer, side));
        self.against(&offer, &legs).or_else(|| self.paths.against(session.slot))
    }

    /// What came of what was told.
    pub(in crate::core) fn take_answers(&mut self, answers: &[UdpPathAnswer]) {
        for answer in answers {
            let is_here = self.sessions.listed(answer.session).is_some();
            if is_here && self.paths.take_answer(answer) {
                self.sessions.set_offloaded(answer.session, answer.against.is_none());
                self.choose_tier(answer.session);
            }
        }
    }

    /// Enters what was relayed without this core.
    pub(in crate::core) fn note_offloaded(
        &mut self,
        offloaded: &[UdpOffloaded],
        counters: &mut CoreCounters,
    ) {
        for UdpOffloaded { session, from, dropped_datagrams } in offloaded.iter().copied() {
            let is_here = self.sessions.listed(session).is_some();
            self.sessions.note_offloaded_drops(session, dropped_datagrams);
            for side in Side::BOTH {
                let (carried, heard_ns) = (from[side.index()].carried, from[side.index()].heard_ns);
                let (datagrams, bytes) = (carried.datagrams, carried.bytes);
                counters.udp_datagrams_offloaded += datagrams;
                counters.opaque_datagrams += datagrams;
                counters.opaque_bytes += bytes;
                self.sessions.note_offloaded(session, side, heard_ns, datagrams, bytes);
                let row = self.carried.get_mut(session.slot as usize).filter(|_| is_here);
                if let Some(row) = row {
                    let leaving = side.other().index();
                    row.datagrams[leaving] += datagrams;
                    row.bytes[leaving] += bytes;
                    row.datagrams_offloaded += datagrams;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_relay::ids::CoreId;

    fn answer(slot: u32, serial: u32, against: Option<WhyNot>) -> UdpPathAnswer {
        let session = UdpSessionTag { core: CoreId(0), slot, generation: 1 };
        UdpPathAnswer { session, serial, against }
    }

    #[test]
    fn changes_of_a_while_are_told_once() {
        let mut paths = Paths::new(4);
        paths.note(2, 0);
        assert_eq!(paths.due_ns(), None, "nobody wants to hear");
        paths.want(true);
        for step in 0..1000 {
            paths.note(2, step);
        }
        paths.note(1, 5);
        assert!(!paths.has_due(UDP_PATHS_AFTER_NS - 1));
        assert_eq!(paths.take_due(UDP_PATHS_AFTER_NS), Some(2));
        assert_eq!(paths.take_due(UDP_PATHS_AFTER_NS), None);
        paths.put_off(UDP_PATHS_AFTER_NS);
        assert_eq!(paths.due_ns(), Some(UDP_PATHS_AFTER_NS + UDP_PATHS_RETRY_NS));
        paths.forget(1);
        assert_eq!(paths.due_ns(), None);
    }

    #[test]
    fn only_the_answer_to_the_last_word_counts() {
        let mut paths = Paths::new(4);
        paths.want(true);
        let first = paths.next_serial(3);
        assert_eq!(paths.against(3), Some(WhyNot::Pending));
        let second = paths.next_serial(3);
        assert!(!paths.take_answer(&answer(3, first, None)));
        assert_eq!(paths.against(3), Some(WhyNot::Pending));
        assert!(paths.take_answer(&answer(3, second, None)));
        assert_eq!(paths.against(3), None);
        // Nor does it once something has changed.
        paths.note(3, 0);
        assert_eq!(paths.against(3), Some(WhyNot::Pending));
        // Begun anew, what was answered before says nothing.
        paths.want(false);
        paths.want(true);
        assert_eq!(paths.against(3), Some(WhyNot::Pending));
        assert_ne!(paths.next_serial(3), second);
    }
}

//! Why links and pipes are not faster: what of it only the data core knows, and what listings say.
//!
//! Called by [`DataCore`] on its thread. Sockets that do not take a send are found once a turn,
//! input that waited for this core is noted as it is looked at: nothing is done per frame, and no
//! clock is read.

use super::DataCore;
use super::connection::{Connection, LinkInput, Phase, PipeHalf};
use super::ingress::Place;
use crate::clock;
use crate::port::Port;
use crate::statistics::LimitedLinks;
use waystation_relay::ids::LegTag;
use waystation_relay::leg::Leg;
use waystation_relay::limiting::{HeldUp, Intervals, Limit, LimitTimes, SpanClock};

/// A core that could run for this many percent of an interval, and did or waited for its CPU, is
/// the limit of whoever had input for it all that time. Below it sleeps often enough to keep up.
const SATURATED_PERCENT: u64 = 90;

/// Time in which input of one connection was with this core.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Presence {
    /// From the turn before it was reaped to the end of the turn in which it was dealt with. Only
    /// told while the core is saturated: otherwise it may have come as late as it was reaped.
    present: SpanClock,
    /// Between turns, while others had theirs.
    waited: SpanClock,
}

impl Presence {
    fn core_ns(&self, saturated: bool, intervals: &Intervals) -> u64 {
        let waited_ns = self.waited.last_ns(intervals);
        let present_ns = if saturated { self.present.last_ns(intervals) } else { 0 };
        waited_ns.max(present_ns)
    }
}

/// How much of the CPU this core has wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Saturation {
    /// Time at work or waiting for a CPU since the start, as the last interval ended.
    runnable_ns: u64,
    /// Whether that was nearly all of the last interval.
    in_last: bool,
}

impl<P: Port> DataCore<P> {
    /// Input of a connection was reaped in this turn. It may have been there since the turn before.
    pub(super) fn note_reaped(&mut self, slot: u32) {
        if self.saturation.in_last {
            self.present.push(slot);
            let (before_ns, now_ns) = (self.before_ns, self.now_ns);
            self.add_presence(slot, before_ns, now_ns);
        }
    }

    /// Input that has waited since it was reaped has its turn.
    pub(super) fn note_served(&mut self, place: Place, reaped_ns: u64) {
        let now_ns = self.now_ns;
        if let Some(Connection { phase: Phase::Link(link), .. }) =
            self.connections.get_mut(place.slot, place.generation)
        {
            link.presence.waited.add(reaped_ns, now_ns, self.fabric.switch.intervals());
            if self.saturation.in_last {
                self.present.push(place.slot);
            }
        }
    }

    /// A turn ends: whoever had input in it was served until now.
    pub(super) fn note_presence(&mut self, ended_ns: u64) {
        let (mut present, now_ns) = (std::mem::take(&mut self.present), self.now_ns);
        for slot in present.drain(..) {
            self.add_presence(slot, now_ns, ended_ns);
        }
        self.present = present;
    }

    fn add_presence(&mut self, slot: u32, from_ns: u64, until_ns: u64) {
        let Some(connection) = self.connections.at_mut(slot) else { return };
        let presence = match &mut connection.phase {
            Phase::Link(link) => &mut link.presence,
            Phase::Pipe(half) => &mut half.presence,
            _ => return,
        };
        presence.present.add(from_ns, until_ns, self.fabric.switch.intervals());
    }

    /// An interval ends: what is added up from now on belongs to the next one.
    pub(super) fn close_interval(&mut self) {
        let counters = &mut self.fabric.statistics.counters;
        counters.cpu_ns = clock::thread_cpu_ns();
        counters.run_delay_ns = self.run_delay.read_ns();
        let runnable_ns = counters.wanted_ns();
        let before_ns = std::mem::replace(&mut self.saturation.runnable_ns, runnable_ns);
        self.fabric.switch.close_interval();
        let length_ns = self.fabric.switch.intervals().last_ns();
        let wanted_ns = runnable_ns.saturating_sub(before_ns);
        self.saturation.in_last =
            length_ns > 0 && wanted_ns.saturating_mul(100) >= length_ns * SATURATED_PERCENT;
        self.fabric.statistics.limited_links = self.count_limited();
    }

    fn count_limited(&self) -> LimitedLinks {
        let mut limited = LimitedLinks::default();
        for (slot, _, connection) in self.connections.iter() {
            if let Some(link) = connection.phase.link() {
                let held_up = self.link_held_up(slot, connection, link);
                limited.count(held_up.shares().largest());
            }
        }
        limited
    }

    // Sockets

    /// Looks which sends of the turn before are still in flight, once this turn's events are dealt
    /// with: their sockets have not taken them.
    pub(super) fn find_stuck(&mut self) {
        let mut sending = std::mem::take(&mut self.sending);
        sending.retain(|&(slot, since_ns)| {
            let in_flight = self.in_flight_since_ns(slot) == since_ns;
            // Sent in this very turn: its event is still to come.
            let is_new = in_flight && since_ns >= self.now_ns;
            if in_flight && !is_new {
                self.set_stuck(slot, true);
            }
            is_new
        });
        self.sending = sending;
    }

    /// When what a connection has in flight was handed to the port; 0: nothing is.
    fn in_flight_since_ns(&self, slot: u32) -> u64 {
        match self.connections.at(slot) {
            Some(Connection { phase: Phase::Pipe(half), .. }) => half.in_flight_sent_ns,
            Some(connection) => connection.sending_since_ns,
            None => 0,
        }
    }

    /// Notes whether a socket does not take what is in flight.
    pub(super) fn set_stuck(&mut self, slot: u32, stuck: bool) {
        let Some(connection) = self.connections.at_mut(slot) else { return };
        if std::mem::replace(&mut connection.stuck, stuck) == stuck {
            return;
        }
        match &connection.phase {
            Phase::Link(_) | Phase::Departing(_) => {
                self.fabric.switch.set_stuck(slot, stuck);
                self.fabric.apply_effects();
            }
            Phase::Pipe(half) => {
                let other = half.other;
                self.note_pipe_limits(slot);
                self.note_pipe_limits(other);
            }
            _ => {}
        }
    }

    /// Looks at what one side of a pipe waits for after something about it has changed.
    pub(super) fn note_pipe_limits(&mut self, slot: u32) {
        let now_ns = self.now_ns;
        let stuck = self.connections.at(slot).is_some_and(|it| it.stuck);
        let Some(other) = self.half(slot).map(|half| half.other) else { return };
        let other_stuck = self.connections.at(other).is_some_and(|it| it.stuck);
        let intervals = *self.fabric.switch.intervals();
        let Some(half) = self.half(slot) else { return };
        let quota = (half.ready_ns != 0).then_some(Limit::Quota);
        let of = |stuck: bool| stuck.then_some(Limit::PeerNotReading);
        half.sent_clock.turn_to(of(other_stuck).or(quota), now_ns, &intervals);
        half.due_clock.turn_to(of(stuck), now_ns, &intervals);
    }

    // What listings say

    pub(super) fn link_held_up(
        &self,
        slot: u32,
        connection: &Connection,
        link: &LinkInput,
    ) -> HeldUp {
        let switch = &self.fabric.switch;
        let mut times = switch.link_limits(slot);
        if let Some(leg) = connection.inside {
            // It has no socket but the session it runs in.
            times.due = times.due.longer(&switch.leg_limits(leg));
        }
        self.held_up(times.sent, times.due, &link.presence)
    }

    pub(super) fn leg_held_up(&self, tag: LegTag, leg: &Leg) -> HeldUp {
        let link = self.connections.at(leg.link).and_then(|connection| connection.phase.link());
        let presence = link.map_or_else(Presence::default, |link| link.presence);
        let times = self.fabric.switch.leg_limits(tag);
        self.held_up(times, LimitTimes::default(), &presence)
    }

    pub(super) fn pipe_held_up(&self, half: &PipeHalf) -> HeldUp {
        let intervals = self.fabric.switch.intervals();
        let (sent, due) = (half.sent_clock.last(intervals), half.due_clock.last(intervals));
        self.held_up(sent, due, &half.presence)
    }

    fn held_up(&self, sent: LimitTimes, due: LimitTimes, presence: &Presence) -> HeldUp {
        let intervals = self.fabric.switch.intervals();
        let core_ns = presence.core_ns(self.saturation.in_last, intervals);
        HeldUp { interval_ns: intervals.last_ns(), sent, due, core_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_of_a_core_that_keeps_up_waits_only_while_others_have_their_turn() {
        let mut intervals = Intervals::new(0);
        let mut presence = Presence::default();
        presence.present.add(0, 400, &intervals);
        presence.waited.add(300, 350, &intervals);
        presence.present.add(400, 700, &intervals);
        intervals.close(1_000);
        assert_eq!(presence.core_ns(false, &intervals), 50);
        assert_eq!(presence.core_ns(true, &intervals), 700);
        intervals.close(2_000);
        assert_eq!(presence.core_ns(true, &intervals), 0);
    }
}

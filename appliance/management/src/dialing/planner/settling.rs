//! What becomes of dials and races: reports, time that ran out, and who is told.

use super::super::error::{DialCause, DialError};
use super::super::limits::{DIALS_PER_PEER_MAX, LINK_SETTLED_NS, LINK_TIMEOUT_NS};
use super::backoff::wait_ns;
use super::{Action, Dial, Handover, Planner, RaceId, Stage, Step, Surroundings};
use std::time::Duration;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_engine::control::{Command, DialId, LinkUp, Network, Report};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LinkTag};

impl Planner {
    /// Takes one report, after the directory has. Reports that are no concern of outbound links are
    /// ignored.
    pub fn report(&mut self, around: &mut Surroundings<'_>, report: &Report) {
        let concerns = match report {
            Report::LinkUp(up) => self.link_up(around, up),
            Report::LinkDown { link, identity, totals, .. } => {
                self.unload(link.core);
                self.link_down(around, identity, totals.age_ns)
            }
            Report::DialFailed { dial, reason } => {
                self.step_failed(around, *dial, DialCause::Link(*reason));
                true
            }
            Report::Asked { ask, leg, code } => self.asked(around, *ask, *leg, *code),
            Report::Input { leg, bytes } => self.input(around, *leg, bytes),
            Report::SessionEnded { leg } => self.session_ended(around, *leg),
            _ => false,
        };
        if concerns {
            self.advance(around);
        }
    }

    fn link_up(&mut self, around: &mut Surroundings<'_>, up: &LinkUp) -> bool {
        if let Some(load) = self.load.get_mut(up.link.core.index()) {
            *load += 1;
        }
        if let Some(dial) = up.dial {
            self.dial_linked(around, dial, up);
        } else {
            self.linked_otherwise(around, &up.identity);
        }
        self.gateway_linked(around.now_ns, &up.identity);
        // Rare enough next to what a link costs.
        true
    }

    /// A dial has become a link. One that nobody waits for any more is closed if it is surplus: an
    /// older one of ours is there. Links that the peer made do not count: it may be about to close
    /// them for this one (spec §9.2).
    fn dial_linked(&mut self, around: &mut Surroundings<'_>, id: DialId, up: &LinkUp) {
        let (wanted, race) = match self.dials.remove(&id) {
            Some(dial) => {
                self.let_go(around, &dial.stage);
                let ours = around
                    .directory
                    .best_first(&dial.target)
                    .any(|other| other.dial.is_some() && other.link != up.link);
                let wanted = dial.race.is_some() || (self.keeps(&dial.target) && !ours);
                (wanted, dial.race)
            }
            // Given up as lost, and counted so.
            None => {
                self.close_surplus(around, up.link);
                return;
            }
        };
        if !wanted {
            self.counts.surplus_total += 1;
            self.close_surplus(around, up.link);
            return;
        }
        self.counts.succeeded_total += 1;
        let Some(race) = race else { return };
        if let Some(request) = self.races.get(&race).and_then(|race| race.request) {
            around.actions.push(Action::Answer { request, outcome: Ok(up.link) });
        }
        if let Some(kept) = self.kept_racing(&up.identity, race) {
            kept.last_error = None;
        }
        self.end_race(around, race);
        self.linked_otherwise(around, &up.identity);
    }

    fn close_surplus(&mut self, around: &mut Surroundings<'_>, link: LinkTag) {
        let reason = DropReason::SurplusLink;
        around.command(link.core, Command::CloseLink { link, reason });
    }

    /// A configured peer has a link from elsewhere: its own race has no purpose any more. Dials of
    /// it that a data core has in its hands go on: the peer may have given up its link for ours.
    fn linked_otherwise(&mut self, around: &mut Surroundings<'_>, identity: &Identity) {
        let Some(kept) = self.kept.get_mut(identity) else { return };
        kept.due_ns = None;
        let Some(id) = kept.race else { return };
        let of_race = |dial: &Dial| dial.race == Some(id);
        let handed = |dial: &Dial| matches!(dial.stage, Stage::Handed { .. });
        let open: Vec<DialId> = self
            .dials
            .iter()
            .filter(|(_, dial)| of_race(dial) && !handed(dial))
            .map(|(id, _)| *id)
            .collect();
        for dial in open {
            self.cancel(around, dial);
        }
        let Some(race) = self.races.get_mut(&id) else { return };
        race.queue.clear();
        race.parked.clear();
        race.active = self.dials.values().filter(|dial| of_race(dial)).count();
        if race.active == 0 {
            self.end_race(around, id);
        }
    }

    fn link_down(
        &mut self,
        around: &mut Surroundings<'_>,
        identity: &Identity,
        age_ns: u64,
    ) -> bool {
        let Some(kept) = self.kept.get_mut(identity) else { return false };
        let is_linked = around.directory.is_linked(identity);
        if age_ns >= LINK_SETTLED_NS {
            kept.failures = 0;
        } else if !is_linked {
            // One of several is as short as the peer's own races make it.
            kept.failures = kept.failures.saturating_add(1);
        }
        if kept.race.is_none() && !is_linked {
            self.wait(around, identity);
        }
        true
    }

    /// Sets the pause before the next race.
    fn wait(&mut self, around: &mut Surroundings<'_>, identity: &Identity) {
        let min_ns = nanoseconds(self.settings.backoff_min);
        let max_ns = nanoseconds(self.settings.backoff_max);
        let Some(kept) = self.kept.get_mut(identity) else { return };
        let wait_ns = wait_ns(kept.failures, min_ns, max_ns, (around.random)());
        kept.due_ns = Some(around.now_ns.saturating_add(wait_ns));
    }

    // Dials

    /// Says to whom a connection goes, if it is still wanted.
    pub(super) fn hand_over(&mut self, now_ns: u64, id: DialId) -> Option<Handover> {
        let step = match &self.dials.get(&id)?.stage {
            Stage::Connecting => None,
            Stage::Presenting => Some(Step::Socket),
            Stage::Asking(_) | Stage::Handed { .. } => return None,
        };
        let core = self.least_loaded_core();
        self.hand(now_ns, id, core, step);
        let dial = self.dials.get(&id)?;
        let network = match dial.endpoint {
            Endpoint::Tor { .. } => Network::Tor,
            Endpoint::Gateway { .. } => Network::Gateway,
            Endpoint::Tcp(_) | Endpoint::Utp(_) | Endpoint::Kcp(_) => Network::Tcp,
        };
        Some(Handover { core, identity: dial.target, network })
    }

    /// Notes that a data core makes the link now.
    pub(super) fn hand(&mut self, now_ns: u64, id: DialId, core: CoreId, step: Option<Step>) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let until_ns = now_ns.saturating_add(LINK_TIMEOUT_NS);
        dial.stage = Stage::Handed { core, step, until_ns };
        if let Some(load) = self.load.get_mut(core.index()) {
            *load += 1;
        }
    }

    /// One way through a gateway, or a whole dial, has failed. A gateway has other ways.
    pub(super) fn step_failed(
        &mut self,
        around: &mut Surroundings<'_>,
        id: DialId,
        cause: DialCause,
    ) {
        let Some(dial) = self.dials.get(&id) else { return };
        if dial.race.is_some() && self.take_next_step(around, id) {
            return;
        }
        self.dial_failed(around, id, cause);
    }

    fn dial_failed(&mut self, around: &mut Surroundings<'_>, id: DialId, cause: DialCause) {
        let Some(dial) = self.dials.remove(&id) else { return };
        self.let_go(around, &dial.stage);
        let Some(race_id) = dial.race else {
            // Nobody waited for it: it was cancelled in a data core's hands.
            self.counts.cancelled_total += 1;
            return;
        };
        self.counts.fail(cause.kind());
        if let Some(race) = self.races.get_mut(&race_id) {
            race.active = race.active.saturating_sub(1);
        }
        self.endpoint_failed(around, race_id, DialError { endpoint: dial.endpoint, cause });
    }

    /// Gives a dial up. A data core that has it ends it later; whatever comes of it is unwanted.
    fn cancel(&mut self, around: &mut Surroundings<'_>, id: DialId) {
        if let Some(dial) = self.dials.get_mut(&id)
            && matches!(dial.stage, Stage::Handed { .. })
        {
            dial.race = None;
            return;
        }
        let Some(dial) = self.dials.remove(&id) else { return };
        self.counts.cancelled_total += 1;
        if matches!(dial.stage, Stage::Connecting | Stage::Presenting) {
            around.actions.push(Action::Abandon { dial: id });
        }
        self.let_go(around, &dial.stage);
    }

    /// Lets go of what a dial had a hold of in a stage that is over.
    pub(super) fn let_go(&mut self, around: &mut Surroundings<'_>, stage: &Stage) {
        match stage {
            Stage::Asking(conversation) => self.end_question(around, conversation),
            Stage::Handed { core, .. } => self.unload(*core),
            Stage::Connecting | Stage::Presenting => {}
        }
    }

    /// A link has changed cores.
    pub fn link_moved(&mut self, from: CoreId, to: CoreId) {
        self.unload(from);
        if let Some(load) = self.load.get_mut(to.index()) {
            *load += 1;
        }
    }

    fn unload(&mut self, core: CoreId) {
        if let Some(load) = self.load.get_mut(core.index()) {
            *load = load.saturating_sub(1);
        }
    }

    // Races

    pub(super) fn endpoint_failed(
        &mut self,
        around: &mut Surroundings<'_>,
        id: RaceId,
        error: DialError,
    ) {
        let Some(race) = self.races.get_mut(&id) else { return };
        race.last_error = Some(error);
        // The next endpoint need not wait for its moment.
        race.next_start_ns = around.now_ns;
        if race.active == 0 && race.queue.is_empty() && race.parked.is_empty() {
            self.fail_race(around, id, None);
        }
    }

    /// Ends a race without a link, and plans the next one of a configured peer.
    pub(super) fn fail_race(
        &mut self,
        around: &mut Surroundings<'_>,
        id: RaceId,
        cause: Option<DialCause>,
    ) {
        let Some(race) = self.races.get(&id) else { return };
        let (target, request) = (race.target, race.request);
        let error = match cause {
            Some(cause) => {
                let dials = self.dials.values().filter(|dial| dial.race == Some(id));
                let parked = race.parked.iter().map(|parked| &parked.endpoint);
                let mut left = race.queue.iter().chain(parked).chain(dials.map(|d| &d.endpoint));
                left.next().cloned().map(|endpoint| DialError { endpoint, cause })
            }
            None => race.last_error.clone(),
        };
        if let (Some(request), Some(error)) = (request, error.clone()) {
            around.actions.push(Action::Answer { request, outcome: Err(error) });
        }
        let mut waits = false;
        if let Some(kept) = self.kept_racing(&target, id) {
            kept.last_error = error.or_else(|| kept.last_error.take());
            kept.failures = kept.failures.saturating_add(1);
            waits = !around.directory.is_linked(&target);
        }
        self.end_race(around, id);
        if waits {
            self.wait(around, &target);
        }
        self.gateway_failed(around, &target);
    }

    /// Takes a race off the tables and gives up what is left of it.
    pub(super) fn end_race(&mut self, around: &mut Surroundings<'_>, id: RaceId) {
        let Some(race) = self.races.remove(&id) else { return };
        self.turns.retain(|turn| *turn != id);
        if race.request.is_some() {
            self.requests = self.requests.saturating_sub(1);
        }
        if let Some(kept) = self.kept_racing(&race.target, id) {
            kept.race = None;
        }
        let open: Vec<DialId> = self
            .dials
            .iter()
            .filter(|(_, dial)| dial.race == Some(id))
            .map(|(dial, _)| *dial)
            .collect();
        for dial in open {
            self.cancel(around, dial);
        }
    }

    // Time

    pub(super) fn end_late(&mut self, around: &mut Surroundings<'_>) {
        let now_ns = around.now_ns;
        let late: Vec<DialId> = self
            .dials
            .iter()
            .filter(|(_, dial)| dial.stage.until_ns().is_some_and(|until_ns| until_ns <= now_ns))
            .map(|(dial, _)| *dial)
            .collect();
        for id in late {
            match self.dials.get(&id).map(|dial| &dial.stage) {
                Some(Stage::Asking(_)) => {
                    self.step_failed(around, id, DialCause::GatewayTimeout);
                }
                // No further step: two data cores must not make a link for one dial.
                Some(_) => self.dial_failed(around, id, DialCause::LinkTimeout),
                None => {}
            }
        }
        self.end_late_parking(around);
    }

    pub(super) fn earliest_ns(&self) -> Option<u64> {
        let places = self.dials.len() < self.settings.dials_max;
        let kept = self.kept.values().filter_map(|kept| kept.due_ns);
        let dials = self.dials.values().filter_map(|dial| dial.stage.until_ns());
        let parked = self.races.values().flat_map(|race| race.parked.iter().map(|p| p.until_ns));
        let starts = self.races.values().filter_map(|race| {
            let waits = !race.queue.is_empty() && race.active < DIALS_PER_PEER_MAX;
            (places && waits).then_some(race.next_start_ns)
        });
        kept.chain(dials).chain(parked).chain(starts).min()
    }
}

impl Stage {
    fn until_ns(&self) -> Option<u64> {
        match self {
            // Tasks that make connections bound their own time.
            Self::Connecting | Self::Presenting => None,
            Self::Asking(conversation) => Some(conversation.until_ns),
            Self::Handed { until_ns, .. } => Some(*until_ns),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

//! Tells peers that dialed us the address they are seen at (spec §12.1).
//!
//! Owned by the node on the management thread. A peer behind a translator learns its public address
//! this way. Whatever it answers changes nothing, and a peer that does not answer is let go.

use super::Era;
use super::observed::is_public;
use crate::node::limits::{
    FIRST_REFLECTION, REFLECTION_ANSWER_BYTES_MAX, REFLECTION_TIMEOUT_NS, REFLECTIONS_MAX,
};
use std::collections::{BTreeMap, VecDeque};
use waystation_astral::endpoint::Endpoint;
use waystation_astral::object::{AnswerWriter, Encoding};
use waystation_astral::objects::ObservedEndpoint;
use waystation_engine::control::{AskId, Command, LinkUp, Network};
use waystation_relay::ids::{CoreId, LegTag};

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct Reflections {
    /// Asked and not yet answered, with what is to be said then.
    asked: BTreeMap<AskId, Vec<u8>>,
    /// Said, and not yet answered.
    said: BTreeMap<LegTag, AskId>,
    /// In order of time, which is that of their numbers.
    deadlines: VecDeque<(u64, AskId)>,
    numbers: u64,
}

/// Whether a peer has any use for being told: it dialed us directly, from a public address. What
/// stock nodes make of any other is nothing (spec §12.1).
pub(crate) fn is_due(up: &LinkUp) -> bool {
    up.dial.is_none() && !up.inner && up.network == Network::Tcp && is_public(up.remote.ip())
}

impl Reflections {
    /// Asks the peer of a new link to hear of its address.
    pub(crate) fn begin(
        &mut self,
        now_ns: u64,
        up: &LinkUp,
        era: Era,
        out: &mut Vec<(CoreId, Command)>,
    ) {
        if self.deadlines.len() >= REFLECTIONS_MAX {
            return;
        }
        let observed = ObservedEndpoint { endpoint: Endpoint::Tcp(up.remote) };
        let Some((query, body)) = wording(&observed, era) else { return };
        let ask = AskId(FIRST_REFLECTION | self.numbers);
        self.numbers += 1;
        self.asked.insert(ask, body);
        self.deadlines.push_back((now_ns.saturating_add(REFLECTION_TIMEOUT_NS), ask));
        let input_max_bytes = REFLECTION_ANSWER_BYTES_MAX;
        let query = query.into_bytes().into();
        out.push((up.link.core, Command::Ask { ask, link: up.link, query, input_max_bytes }));
    }

    /// The peer has answered: with code 0 it listens.
    pub(crate) fn asked(
        &mut self,
        ask: AskId,
        leg: LegTag,
        code: u8,
        out: &mut Vec<(CoreId, Command)>,
    ) {
        if ask.0 & FIRST_REFLECTION == 0 {
            return;
        }
        let body = self.asked.remove(&ask);
        match (code, body) {
            (0, Some(body)) => {
                self.said.insert(leg, ask);
                out.push((leg.core, Command::Write { leg, bytes: body.into(), end: false }));
            }
            // It took too long, and nobody waits for it any more.
            (0, None) => out.push(ended(leg)),
            (_, _) => self.forget(ask),
        }
    }

    /// The peer has said something, whatever it is: that was all.
    pub(crate) fn input(&mut self, leg: LegTag, out: &mut Vec<(CoreId, Command)>) {
        if let Some(ask) = self.said.remove(&leg) {
            self.forget(ask);
            out.push(ended(leg));
        }
    }

    /// Forgets a session that has ended.
    pub(crate) fn session_ended(&mut self, leg: LegTag) {
        if let Some(ask) = self.said.remove(&leg) {
            self.forget(ask);
        }
    }

    /// Ends those that have taken too long.
    pub(crate) fn expire(&mut self, now_ns: u64, out: &mut Vec<(CoreId, Command)>) {
        while let Some((deadline_ns, ask)) = self.deadlines.front().copied()
            && deadline_ns <= now_ns
        {
            self.deadlines.pop_front();
            self.asked.remove(&ask);
            let leg = self.said.iter().find(|(_, said)| **said == ask).map(|(leg, _)| *leg);
            if let Some(leg) = leg {
                self.said.remove(&leg);
                out.push(ended(leg));
            }
        }
    }

    /// When [`Self::expire`] next has something to do.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.front().map(|(deadline_ns, _)| *deadline_ns)
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.asked.len() + self.said.len()
    }

    fn forget(&mut self, ask: AskId) {
        if let Ok(place) = self.deadlines.binary_search_by_key(&ask, |(_, ask)| *ask) {
            self.deadlines.remove(place);
        }
    }
}

fn ended(leg: LegTag) -> (CoreId, Command) {
    (leg.core, Command::Write { leg, bytes: Box::default(), end: true })
}

/// The query and what follows it, as the peer's era wants it.
fn wording(observed: &ObservedEndpoint, era: Era) -> Option<(String, Vec<u8>)> {
    match era {
        Era::Old => {
            let body = observed.push_body().ok()?;
            Some((format!("objects.push?size={}", body.len()), body))
        }
        Era::New => {
            let mut writer = AnswerWriter::new(Encoding::C2);
            writer.write(observed).ok()?;
            Some(("objects.push".to_owned(), writer.into_bytes()))
        }
    }
}

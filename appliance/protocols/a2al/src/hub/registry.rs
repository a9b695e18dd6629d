//! Which connection takes calls for which agent.
//!
//! Nobody proves that an agent is theirs (T11), so a name that a live connection has does not go to
//! another source: that connection is asked whether it is there, and keeps the name if it is.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::ConnectionId;
use crate::time::Millis;

#[derive(Debug, Default)]
pub(super) struct Registry {
    names: HashMap<Arc<str>, Registration>,
    contests: BTreeSet<(Millis, Arc<str>)>,
}

#[derive(Debug)]
struct Registration {
    holder: ConnectionId,
    contest: Option<Contest>,
}

/// Another source wants a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contest {
    pub(super) contender: ConnectionId,
    /// When it is decided.
    pub(super) due_at: Millis,
    /// How often the holder had been heard when it began.
    pub(super) heard: u64,
}

impl Registry {
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn holder(&self, name: &str) -> Option<ConnectionId> {
        self.names.get(name).map(|registration| registration.holder)
    }

    /// Gives a name to a connection; a contest about it is over.
    pub(super) fn set(&mut self, name: Arc<str>, holder: ConnectionId) {
        self.end_contest(&name);
        self.names.insert(name, Registration { holder, contest: None });
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.end_contest(name);
        self.names.remove(name);
    }

    /// Notes who wants a name, and says whether its holder has to be asked: the last one that wants
    /// it gets it, and one question serves all.
    pub(super) fn contest(&mut self, name: &str, contest: Contest) -> bool {
        let Some((key, registration)) = self.names.get_key_value(name) else { return false };
        let is_first = registration.contest.is_none();
        let key = Arc::clone(key);
        if let Some(registration) = self.names.get_mut(name) {
            let begun = registration.contest.get_or_insert(contest);
            begun.contender = contest.contender;
            self.contests.insert((begun.due_at, key));
        }
        is_first
    }

    /// Who wanted a name, of which the contest is over.
    pub(super) fn end_contest(&mut self, name: &str) -> Option<Contest> {
        let registration = self.names.get_mut(name)?;
        let contest = registration.contest.take()?;
        self.contests.remove(&(contest.due_at, Arc::from(name)));
        Some(contest)
    }

    /// When the next contest is to be decided.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.contests.first().map(|(due_at, _)| *due_at)
    }

    /// A name whose contest is to be decided by now.
    pub(super) fn due(&self, now: Millis) -> Option<Arc<str>> {
        let (due_at, name) = self.contests.first()?;
        (*due_at <= now).then(|| Arc::clone(name))
    }
}

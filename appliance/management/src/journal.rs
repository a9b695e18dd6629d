//! What has happened lately, for operators: numbered events with a time, newest last.
//!
//! Owned by the management core's runtime and used on its thread only. Bounded: the oldest events
//! give way, and whoever asks for them learns how many it has missed. Kinds that a stranger can
//! cause at will are told a few times a minute for each identity; the rest is counted and told with
//! the next one. Nothing secret may be written here: no keys, no nonces of the gateway, no payload.

use crate::clock::Moment;
use crate::limits::{
    EVENT_BURST_MAX, EVENT_QUIET_TIME, EVENT_SUBJECTS_MAX, EVENTS_KEPT_MAX, EVENTS_PER_ANSWER_MAX,
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use waystation_astral::identity::Identity;

/// What kind of thing has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// A link came up.
    LinkUp,
    /// A link ended.
    LinkDown,
    /// A link has changed cores.
    LinkMoved,
    /// A link was to change cores and has stayed.
    LinkMoveRefused,
    /// An identity has its first link.
    Linked,
    /// The last link of an identity has ended.
    Unlinked,
    /// A node registered with the gateway.
    Registered,
    /// A registration ended.
    Unregistered,
    /// A peer told us the address it sees us at.
    Observed,
    /// A dial became a link.
    Dialed,
    /// A dial did not.
    DialFailed,
    /// Something beyond a limit of its identity or network was refused.
    LimitReached,
    /// A peer that access keeps out was turned away.
    AccessDenied,
    /// An operator's command was carried out.
    Command,
    /// A new configuration is in force.
    ConfigReloaded,
    /// A new configuration was refused; the old one is in force.
    ConfigRefused,
    /// The program serves.
    Ready,
    /// Another process has taken over.
    HandedOver,
    /// Another process was to, and has not.
    HandOverFailed,
    /// This process has taken over from another.
    TookOver,
    /// An opaque UDP session began.
    UdpOpened,
    /// One that was wanted did not.
    UdpFailed,
    /// A leg of one has another address, or none any more.
    UdpMoved,
    /// One ended.
    UdpEnded,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 24] = [
        Self::LinkUp,
        Self::LinkDown,
        Self::LinkMoved,
        Self::LinkMoveRefused,
        Self::Linked,
        Self::Unlinked,
        Self::Registered,
        Self::Unregistered,
        Self::Observed,
        Self::Dialed,
        Self::DialFailed,
        Self::LimitReached,
        Self::AccessDenied,
        Self::Command,
        Self::ConfigReloaded,
        Self::ConfigRefused,
        Self::Ready,
        Self::HandedOver,
        Self::HandOverFailed,
        Self::TookOver,
        Self::UdpOpened,
        Self::UdpFailed,
        Self::UdpMoved,
        Self::UdpEnded,
    ];

    /// The name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::LinkUp => "link_up",
            Self::LinkDown => "link_down",
            Self::LinkMoved => "link_moved",
            Self::LinkMoveRefused => "link_move_refused",
            Self::Linked => "linked",
            Self::Unlinked => "unlinked",
            Self::Registered => "registered",
            Self::Unregistered => "unregistered",
            Self::Observed => "observed",
            Self::Dialed => "dialed",
            Self::DialFailed => "dial_failed",
            Self::LimitReached => "limit_reached",
            Self::AccessDenied => "access_denied",
            Self::Command => "command",
            Self::ConfigReloaded => "config_reloaded",
            Self::ConfigRefused => "config_refused",
            Self::Ready => "ready",
            Self::HandedOver => "handed_over",
            Self::HandOverFailed => "hand_over_failed",
            Self::TookOver => "took_over",
            Self::UdpOpened => "udp_opened",
            Self::UdpFailed => "udp_failed",
            Self::UdpMoved => "udp_moved",
            Self::UdpEnded => "udp_ended",
        }
    }

    /// Whether strangers can cause it as often as they like, and it says little the second time.
    fn is_rationed(self) -> bool {
        matches!(
            self,
            Self::DialFailed
                | Self::LimitReached
                | Self::AccessDenied
                | Self::Observed
                | Self::LinkMoveRefused
                | Self::UdpMoved
        )
    }
}

/// Fields of an event, by name.
pub type EventFields = Map<String, Value>;

#[derive(Debug)]
struct Event {
    at: Moment,
    kind: EventKind,
    /// The fields as JSON: a quarter of what a tree of them takes, for as long as it is kept.
    said: Box<str>,
}

/// How often a kind of event has come about one identity of late.
#[derive(Debug, Default)]
struct Ration {
    began_ns: u64,
    told: u32,
    /// Events that were not told since the last one that was.
    held_back: u64,
}

/// The latest events.
#[derive(Debug, Default)]
pub struct Journal {
    kept: VecDeque<Event>,
    /// The number of the newest event; the first is 1.
    newest: u64,
    rations: BTreeMap<(EventKind, Option<Identity>), Ration>,
    held_back: u64,
}

/// Events as JSON, one on each line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLines {
    pub text: String,
    /// The number to go on after.
    pub newest: u64,
}

impl Journal {
    /// Enters an event about an identity, or about nobody in particular.
    pub fn record(
        &mut self,
        at: Moment,
        kind: EventKind,
        about: Option<&Identity>,
        mut fields: EventFields,
    ) {
        if kind.is_rationed() {
            match self.ration(at, kind, about) {
                Some(0) => {}
                Some(held_back) => {
                    fields.insert("held_back_before".to_owned(), json!(held_back));
                }
                None => {
                    self.held_back += 1;
                    return;
                }
            }
        }
        if let Some(identity) = about {
            fields.insert("identity".to_owned(), json!(identity.to_string()));
        }
        if self.kept.len() == EVENTS_KEPT_MAX {
            self.kept.pop_front();
        }
        self.newest += 1;
        let said = Value::Object(fields).to_string().into_boxed_str();
        self.kept.push_back(Event { at, kind, said });
    }

    /// The number of the newest event, 0 before the first.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Events that were counted instead of told, since the start.
    pub fn held_back(&self) -> u64 {
        self.held_back
    }

    /// Events behind this number, oldest first, as many as one answer takes. If some of them are
    /// gone, the first line says how many; without a number, it begins with the oldest there is.
    pub fn lines(&self, after: Option<u64>) -> EventLines {
        let gone = self.newest - self.kept.len() as u64;
        let after = after.unwrap_or(gone).min(self.newest);
        let mut lines = EventLines { text: String::new(), newest: after };
        if after < gone {
            let missed = json!({ "kind": "missed", "events": gone - after, "sequence": gone });
            lines.text.push_str(&format!("{missed}\n"));
            lines.newest = gone;
        }
        let skipped = usize::try_from(lines.newest - gone).unwrap_or(usize::MAX);
        for event in self.kept.iter().skip(skipped).take(EVENTS_PER_ANSWER_MAX) {
            lines.newest += 1;
            lines.text.push_str(&line(lines.newest, event));
        }
        lines
    }

    /// Whether one more event may be told: how many were held back before it.
    fn ration(&mut self, at: Moment, kind: EventKind, about: Option<&Identity>) -> Option<u64> {
        let quiet_ns = u64::try_from(EVENT_QUIET_TIME.as_nanos()).unwrap_or(u64::MAX);
        let over = |ration: &Ration| at.monotonic_ns.saturating_sub(ration.began_ns) >= quiet_ns;
        let mut subject = (kind, about.copied());
        if self.rations.len() >= EVENT_SUBJECTS_MAX && !self.rations.contains_key(&subject) {
            self.rations.retain(|_, ration| !over(ration) || ration.held_back > 0);
            if self.rations.len() >= EVENT_SUBJECTS_MAX {
                subject.1 = None;
            }
        }
        let fresh = || Ration { began_ns: at.monotonic_ns, ..Ration::default() };
        let ration = self.rations.entry(subject).or_insert_with(fresh);
        if over(ration) {
            (ration.began_ns, ration.told) = (at.monotonic_ns, 0);
        }
        if ration.told >= EVENT_BURST_MAX {
            ration.held_back += 1;
            return None;
        }
        ration.told += 1;
        Some(std::mem::take(&mut ration.held_back))
    }
}

fn line(sequence: u64, event: &Event) -> String {
    let Event { at, kind, said } = event;
    let (time, kind) = (at.rfc3339(), kind.name());
    // All of these are digits and words, which JSON takes as they are.
    let line = format!(r#"{{"sequence":{sequence},"time":"{time}","kind":"{kind}""#);
    match said.strip_prefix('{').unwrap_or(said) {
        "}" => format!("{line}}}\n"),
        rest => format!("{line},{rest}\n"),
    }
}

/// Fields from a JSON object.
pub fn fields(object: Value) -> EventFields {
    match object {
        Value::Object(fields) => fields,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{moment, peer};
    use std::collections::BTreeSet;

    fn read(lines: &EventLines) -> Vec<Value> {
        lines.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn events_are_numbered_and_timed_and_name_whom_they_are_about() {
        let mut journal = Journal::default();
        let about = peer();
        let said = fields(json!({ "link": "0.1.2" }));
        journal.record(moment(1), EventKind::LinkUp, Some(&about), said);
        journal.record(moment(2), EventKind::Ready, None, EventFields::new());
        let lines = journal.lines(None);
        let events = read(&lines);
        assert_eq!(
            events[0],
            json!({
                "sequence": 1,
                "time": "2023-11-14T22:13:21.000Z",
                "kind": "link_up",
                "link": "0.1.2",
                "identity": about.to_string(),
            })
        );
        assert_eq!((&events[1]["sequence"], &events[1]["kind"]), (&json!(2), &json!("ready")));
        assert_eq!(lines.newest, 2);
        assert_eq!(read(&journal.lines(Some(1))), events[1..]);
        assert_eq!(journal.lines(Some(2)), EventLines { text: String::new(), newest: 2 });
        assert_eq!(journal.lines(Some(99)).newest, 2);
    }

    #[test]
    fn reader_that_is_late_learns_how_many_events_it_missed() {
        let mut journal = Journal::default();
        let count = EVENTS_KEPT_MAX as u64 + 10;
        for number in 0..count {
            journal.record(moment(number), EventKind::Ready, None, EventFields::new());
        }
        let lines = journal.lines(Some(3));
        let events = read(&lines);
        assert_eq!(events[0], json!({ "kind": "missed", "events": 7, "sequence": 10 }));
        assert_eq!(events[1]["sequence"], 11);
        assert_eq!(events.len(), 1 + EVENTS_PER_ANSWER_MAX);
        // Going on after each answer finds every event that is there exactly once.
        let mut sequences: Vec<u64> = Vec::new();
        let mut after = None;
        loop {
            let lines = journal.lines(after);
            if lines.text.is_empty() {
                break;
            }
            sequences.extend(read(&lines).iter().map(|event| event["sequence"].as_u64().unwrap()));
            after = Some(lines.newest);
        }
        assert_eq!(sequences, (11..=count).collect::<Vec<_>>());
    }

    #[test]
    fn what_strangers_cause_at_will_is_told_a_few_times_and_counted() {
        let mut journal = Journal::default();
        let burst = u64::from(EVENT_BURST_MAX);
        for _ in 0..burst + 5 {
            journal.record(moment(0), EventKind::AccessDenied, None, EventFields::new());
        }
        // Another kind, and another identity, have rations of their own.
        journal.record(moment(1), EventKind::LimitReached, None, EventFields::new());
        journal.record(moment(1), EventKind::AccessDenied, Some(&peer()), EventFields::new());
        assert_eq!(journal.newest(), burst + 2);
        assert_eq!(journal.held_back(), 5);
        let later = moment(EVENT_QUIET_TIME.as_secs());
        journal.record(later, EventKind::AccessDenied, None, EventFields::new());
        let events = read(&journal.lines(Some(burst + 2)));
        assert_eq!(events[0]["held_back_before"], 5);
    }

    #[test]
    fn watched_subjects_are_bounded() {
        let mut journal = Journal::default();
        for number in 0..2 * EVENT_SUBJECTS_MAX as u64 {
            let mut scalar = [0; 32];
            scalar[24..].copy_from_slice(&(number + 1).to_be_bytes());
            let key = waystation_astral::identity::SecretKey::from_bytes(&scalar).unwrap();
            let fields = EventFields::new();
            journal.record(moment(0), EventKind::DialFailed, Some(&key.identity()), fields);
        }
        assert!(journal.rations.len() <= EVENT_SUBJECTS_MAX + 1);
        let told = EVENT_SUBJECTS_MAX as u64 + u64::from(EVENT_BURST_MAX);
        assert_eq!(journal.newest(), told, "the rest shares one ration");
    }

    #[test]
    fn names_of_kinds_are_unique() {
        let names: BTreeSet<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), EventKind::ALL.len());
    }
}

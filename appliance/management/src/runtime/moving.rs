//! Links that change cores: by an operator's command, or because most of their payload crosses.
//!
//! From the command to its outcome no other command may name the link (decision 15): those wait here
//! and go out under the tag it has then. Everybody who keeps the tag of a link is told of the new
//! one.

use super::ManagementCore;
use crate::clock::Moment;
use crate::documents::SCHEMA;
use crate::journal::{EventKind, fields};
use crate::limits::CORE_ANSWER_TIMEOUT;
use crate::placement::{Move, Placement, Round, load};
use crate::stats_socket::Document;
use serde_json::json;
use std::collections::BTreeMap;
use tokio::sync::oneshot;
use tokio::time::Instant;
use waystation_engine::control::{Command, LinkTraffic, LinkUp, Report};
use waystation_relay::ids::{CoreId, LegTag, LinkTag};
use waystation_relay::switch::MoveRefusal;

/// Links that are on their way, and what is known for deciding about further ones.
#[derive(Default)]
pub(super) struct Moves {
    under_way: BTreeMap<LinkTag, UnderWay>,
    /// Commands that name one of them, in order: at most what undecided queries and open orders
    /// cause while a link is on its way.
    held: Vec<(CoreId, Command)>,
    pub(super) placement: Placement,
    /// Moves that were decided on and have not begun.
    wanted: Vec<Move>,
    /// By the places of links that have come from another process and are not governed yet: what
    /// passes on what their peers send.
    pub(super) senders: BTreeMap<(CoreId, u32), Vec<LegTag>>,
}

struct UnderWay {
    to: CoreId,
    /// Whoever has asked for it by command.
    reply: Option<oneshot::Sender<Document>>,
    deadline: Instant,
}

impl ManagementCore {
    // By hand

    pub(super) fn move_by_hand(
        &mut self,
        link: LinkTag,
        to: CoreId,
        reply: oneshot::Sender<Document>,
    ) {
        let document = match self.node.directory().get(link) {
            None => {
                let message = format!("there is no link {link}; `waystation links` lists them");
                Some(Document::not_found("no_such_link", &message))
            }
            Some(_) if self.moves.under_way.contains_key(&link) => {
                Some(refused(link, MoveRefusal::AnotherMoves))
            }
            Some(_) => None,
        };
        if let Some(document) = document {
            // Whoever asked may have gone in the meantime.
            let _ = reply.send(document);
            return;
        }
        tracing::info!(%link, core = %to, "moving a link by command");
        self.move_link(link, to, Some(reply));
    }

    fn move_link(&mut self, link: LinkTag, to: CoreId, reply: Option<oneshot::Sender<Document>>) {
        self.command(link.core, Command::MoveLink { link, to });
        let deadline = Instant::now() + CORE_ANSWER_TIMEOUT;
        self.moves.under_way.insert(link, UnderWay { to, reply, deadline });
        self.node.leave(link, true);
        self.accounts.leave(link, true);
    }

    /// Keeps a command that names a link on its way. `None`: it is kept.
    pub(super) fn hold(&mut self, core: CoreId, mut command: Command) -> Option<Command> {
        let mut waits = false;
        if self.hand_over.links.stand_still() {
            waits = matches!(command, Command::CloseSession { .. });
            command.rename_links(|link| {
                waits = true;
                link
            });
        } else if !self.moves.under_way.is_empty() {
            let under_way = &self.moves.under_way;
            command.rename_links(|link| {
                waits |= under_way.contains_key(&link);
                link
            });
        }
        if !waits {
            return Some(command);
        }
        self.moves.held.push((core, command));
        None
    }

    // Outcomes

    /// Tells everybody about a link that has moved, before they hear the report.
    pub(super) fn on_move_report(&mut self, now: Moment, report: &Report) {
        match report {
            Report::LinkMoved { from, up, returned } => self.on_moved(now, *from, up, *returned),
            Report::LinkStayed { link, refusal } => {
                self.node.leave(*link, false);
                self.accounts.leave(*link, false);
                self.note_refusal(now, *link, *link, *refusal);
            }
            Report::LinkDown { link, .. } if self.moves.under_way.contains_key(link) => {
                self.note_refusal(now, *link, *link, MoveRefusal::NoSuchLink);
            }
            _ => {}
        }
    }

    fn on_moved(&mut self, now: Moment, from: LinkTag, up: &LinkUp, returned: Option<MoveRefusal>) {
        let link = up.link;
        self.node.link_moved(now.monotonic_ns, from, up);
        self.accounts.link_moved(from, link);
        self.recent.link_moved(from, link);
        self.shares.link_moved(from, link);
        if self.subscribed.remove(&from) {
            self.subscribed.insert(link);
        }
        for closing in &mut self.closing {
            closing.follow(from, link);
        }
        self.dial(|dialer, _| dialer.link_moved(from.core, link.core));
        if let Some(refusal) = returned {
            self.note_refusal(now, from, link, refusal);
            return;
        }
        self.moves.placement.rest(link, now.monotonic_ns);
        let reply = self.moves.under_way.remove(&from).and_then(|moved| moved.reply);
        let by = if reply.is_some() { "command" } else { "placement" };
        let said = json!({ "from": from.to_string(), "link": link.to_string(), "by": by });
        self.journal.record(now, EventKind::LinkMoved, Some(&up.identity), fields(said));
        if let Some(reply) = reply {
            let done = json!({
                "schema": SCHEMA,
                "moved": from.to_string(),
                "link": link.to_string(),
                "identity": up.identity.to_string(),
            });
            let _ = reply.send(Document::json(&done));
        }
        self.send_held(from, link);
        self.begin_wanted();
    }

    /// A link has stayed on its core; its tag there is `link` now.
    fn note_refusal(&mut self, now: Moment, was: LinkTag, link: LinkTag, refusal: MoveRefusal) {
        self.moves.placement.rest(link, now.monotonic_ns);
        *self.extra.operations.moves_refused.entry(refusal).or_default() += 1;
        let Some(UnderWay { to, reply, .. }) = self.moves.under_way.remove(&was) else { return };
        tracing::debug!(%link, core = %to, because = refusal.name(), "a link stays");
        let identity = self.node.directory().get(link).map(|up| up.identity);
        let said = json!({ "link": link.to_string(), "core": to.0, "because": refusal.name() });
        self.journal.record(now, EventKind::LinkMoveRefused, identity.as_ref(), fields(said));
        if let Some(reply) = reply {
            let _ = reply.send(refused(was, refusal));
        }
        self.send_held(was, link);
        self.begin_wanted();
    }

    fn send_held(&mut self, from: LinkTag, to: LinkTag) {
        for (mut core, mut command) in std::mem::take(&mut self.moves.held) {
            command.rename_links(|link| {
                if link == from {
                    core = to.core;
                    return to;
                }
                link
            });
            // It may name another one that is on its way.
            self.command(core, command);
        }
    }

    /// Sends what was held back, to links that are where they were or are another process's.
    pub(super) fn send_all_held(&mut self) {
        for (core, command) in std::mem::take(&mut self.moves.held) {
            self.command(core, command);
        }
    }

    /// Answers those who have waited for a move for too long. The link stays on its way: only its
    /// core knows.
    pub(super) fn end_late_moves(&mut self) {
        let now = Instant::now();
        for (link, moved) in &mut self.moves.under_way {
            if moved.deadline <= now
                && let Some(reply) = moved.reply.take()
            {
                let message = format!("the core of link {link} does not answer");
                let _ = reply.send(Document::unavailable("timeout", &message));
            }
        }
    }

    // By itself

    /// An interval has ended: asks what passes over which link if much has crossed in it.
    pub(super) fn look_at_placement(&mut self) {
        let crossed: u64 = self
            .observations
            .reports()
            .map(|report| report.interval_growth(|counters| counters.cross_core_bytes))
            .sum();
        let wanted = self.config.engine.placement.moves_links() && self.end.cores() > 1;
        let crossed_bytes = if wanted { crossed } else { 0 };
        match self.moves.placement.interval_ended(crossed_bytes) {
            Round::None => {}
            Round::Baseline => self.begin_traffic_round(false),
            Round::Deciding => self.begin_traffic_round(true),
        }
    }

    /// All cores have said what has passed over their links.
    pub(super) fn place(&mut self, now: Moment, traffic: &[LinkTraffic]) {
        let loads: Vec<f64> = self
            .observations
            .reports()
            .map(|report| load(|read| report.interval_growth(read)))
            .collect();
        // What was wanted a round ago and has not begun is decided on anew.
        self.moves.wanted = self.moves.placement.decide(now.monotonic_ns, traffic, &loads);
        self.begin_wanted();
    }

    /// Begins what was decided on. A core lets one link go at a time; further ones wait for that
    /// one's outcome.
    fn begin_wanted(&mut self) {
        if self.hand_over.links.stand_still() {
            return;
        }
        for wanted in std::mem::take(&mut self.moves.wanted) {
            let from = wanted.link.core;
            if self.moves.under_way.keys().any(|link| link.core == from) {
                self.moves.wanted.push(wanted);
            } else if self.node.directory().get(wanted.link).is_some() {
                self.move_link(wanted.link, wanted.to, None);
            }
        }
    }
}

fn refused(link: LinkTag, refusal: MoveRefusal) -> Document {
    Document::failed(refusal.name(), &format!("link {link} stays: {}", refusal.name()))
}

//! What operators tell the program to do over the stats socket, and events for those who follow.

use super::ManagementCore;
use crate::clock;
use crate::dht::DhtQuestion;
use crate::dialing::DialAnswer;
use crate::documents::{CoreListing, SCHEMA};
use crate::journal::{EventKind, fields};
use crate::limits::CORE_ANSWER_TIMEOUT;
use crate::stats_socket::{Document, ListingRequest, Order};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_engine::control::{Command, SessionKind, SessionRow};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{LegTag, LinkTag, SocketTag};

/// A link that is being closed for somebody.
pub(super) struct Closing {
    link: LinkTag,
    identity: Identity,
    reply: oneshot::Sender<Document>,
    pub(super) deadline: Instant,
}

/// A dial for somebody, when it has ended.
pub(super) struct DialedByHand {
    endpoint: Endpoint,
    identity: Identity,
    reply: oneshot::Sender<Document>,
    answer: Option<DialAnswer>,
}

impl Closing {
    /// The link has another tag now.
    pub(super) fn follow(&mut self, from: LinkTag, to: LinkTag) {
        if self.link == from {
            self.link = to;
        }
    }
}

impl ManagementCore {
    pub(super) fn on_order(&mut self, order: Order, reply: oneshot::Sender<Document>) {
        match order {
            Order::CloseLink(link) => self.close_link(link, reply),
            Order::MoveLink { link, to } => self.move_by_hand(link, to, reply),
            // Data cores say which sessions there are.
            Order::CloseSession(leg) => {
                self.listings.push_back(ListingRequest::of_session(leg, reply));
            }
            Order::Drain { deadline, until_links } => self.drain(deadline, until_links, reply),
            Order::Dial { endpoint, identity } => self.dial_by_hand(endpoint, identity, reply),
            Order::OpenUdp { wish, idle } => self.open_udp(*wish, idle, reply),
            Order::CloseUdp(session) => self.close_udp(session, reply),
            Order::Capture(request) => self.capture(request, reply),
            Order::SetLog(directive) => self.set_log(&directive, reply),
        }
    }

    fn close_link(&mut self, link: LinkTag, reply: oneshot::Sender<Document>) {
        let Some(up) = self.node.directory().get(link) else {
            return answer(reply, Document::not_found("no_such_link", &no_such("link", &link)));
        };
        let identity = up.identity;
        tracing::info!(%link, %identity, "closing a link by command");
        self.command(
            link.core,
            Command::CloseLink { link, reason: DropReason::LinkClosedByOperator },
        );
        let said = fields(json!({ "command": "close_link", "link": link.to_string() }));
        self.journal.record(clock::now(), EventKind::Command, Some(&identity), said);
        let deadline = Instant::now() + CORE_ANSWER_TIMEOUT;
        self.closing.push(Closing { link, identity, reply, deadline });
    }

    /// Answers those who have waited for the end of this link.
    pub(super) fn on_link_closed(&mut self, link: LinkTag) {
        for closing in self.closing.extract_if(.., |closing| closing.link == link) {
            let done = json!({
                "schema": SCHEMA,
                "closed": closing.link.to_string(),
                "identity": closing.identity.to_string(),
            });
            answer(closing.reply, Document::json(&done));
        }
    }

    /// Answers those whose core takes too long.
    pub(super) fn end_late_closings(&mut self) {
        let now = Instant::now();
        for closing in self.closing.extract_if(.., |closing| closing.deadline <= now) {
            let message = format!("the core of link {} does not answer", closing.link);
            answer(closing.reply, Document::unavailable("timeout", &message));
        }
    }

    /// Closes a session that a listing was asked for, if it is there.
    pub(super) fn close_listed_session(
        &mut self,
        leg: LegTag,
        request: ListingRequest,
        listings: &[CoreListing],
    ) {
        let own = listings.iter().find(|listing| listing.core == leg.core);
        let document = match own.map(|listing| listing.listing.as_deref()) {
            None => Document::not_found("no_such_session", &no_such("session", &leg)),
            Some(None) => {
                let message = format!("the core of session {leg} does not answer");
                Document::unavailable("timeout", &message)
            }
            Some(Some(listing)) => match listing.sessions.iter().find(|row| row.leg == leg) {
                Some(row) => self.close_session(row),
                None => Document::not_found("no_such_session", &no_such("session", &leg)),
            },
        };
        request.answer(document);
    }

    fn close_session(&mut self, row: &SessionRow) -> Document {
        let LegTag { core, slot, generation } = row.leg;
        let reason = DropReason::SessionClosedByOperator;
        let command = match row.kind {
            SessionKind::Socket => {
                let socket = SocketTag { core, slot, generation };
                Command::CloseSocket { socket, reason }
            }
            _ => Command::CloseSession { leg: row.leg, reason },
        };
        tracing::info!(session = %row.leg, "closing a session by command");
        self.command(core, command);
        let said = fields(json!({ "command": "close_session", "session": row.leg.to_string() }));
        self.journal.record(clock::now(), EventKind::Command, Some(&row.identity), said);
        Document::json(&json!({
            "schema": SCHEMA,
            "closed": row.leg.to_string(),
            "identity": row.identity.to_string(),
        }))
    }

    fn dial_by_hand(
        &mut self,
        endpoint: Endpoint,
        identity: Identity,
        reply: oneshot::Sender<Document>,
    ) {
        if self.draining.is_some() {
            return answer(reply, Document::unavailable("draining", "nobody is dialed any more"));
        }
        tracing::info!(%endpoint, %identity, "dialing by command");
        let wanted = endpoint.clone();
        let answer = self.dial(|dialer, around| dialer.request(around, wanted, identity));
        self.hand_dials.spawn(async move {
            DialedByHand { endpoint, identity, reply, answer: answer.await.ok() }
        });
    }

    pub(super) fn on_dialed_by_hand(&mut self, dialed: DialedByHand) {
        let DialedByHand { endpoint, identity, reply, answer: outcome } = dialed;
        let now = clock::now();
        let endpoint = endpoint.to_string();
        match outcome {
            Some(Ok(link)) => {
                let link = link.to_string();
                let said = json!({ "endpoint": endpoint, "link": link, "by": "command" });
                self.journal.record(now, EventKind::Dialed, Some(&identity), fields(said));
                let done = json!({
                    "schema": SCHEMA,
                    "link": link,
                    "identity": identity.to_string(),
                });
                answer(reply, Document::json(&done));
            }
            Some(Err(error)) => {
                let message = error.to_string();
                let said = json!({ "message": message, "by": "command" });
                self.journal.record(now, EventKind::DialFailed, Some(&identity), fields(said));
                answer(reply, Document::failed("dial_failed", &message));
            }
            None => answer(reply, Document::unavailable("unavailable", "the node is stopping")),
        }
    }

    pub(super) fn ask_dht(&mut self, question: DhtQuestion, reply: oneshot::Sender<Document>) {
        match &self.dht {
            Some(dht) => dht.ask(question, reply),
            None => {
                let message = "there is no node of the DHT here; set dht.enabled and dht.listen";
                answer(reply, Document::not_found("no_dht", message));
            }
        }
    }

    // Events

    pub(super) fn on_events(
        &mut self,
        after: Option<u64>,
        follow: bool,
        reply: oneshot::Sender<Document>,
    ) {
        match after {
            Some(after) if follow && after >= self.journal.newest() => {
                self.followers.retain(|(_, waiting)| !waiting.is_closed());
                self.followers.push((after, reply));
            }
            _ => answer(reply, Document::events(self.journal.lines(after))),
        }
    }

    /// Answers those who wait for newer events than there were.
    pub(super) fn tell_followers(&mut self) {
        let newest = self.journal.newest();
        for (after, reply) in self.followers.extract_if(.., |(after, _)| *after < newest) {
            answer(reply, Document::events(self.journal.lines(Some(after))));
        }
    }
}

pub(super) fn answer(reply: oneshot::Sender<Document>, document: Document) {
    // Whoever asked may have gone in the meantime.
    let _ = reply.send(document);
}

fn no_such(what: &str, tag: &impl std::fmt::Display) -> String {
    format!("there is no {what} {tag}; `waystation {what}s` lists them")
}

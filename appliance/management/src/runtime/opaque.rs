//! Opaque UDP sessions: opened and closed by command and as the configuration says, and what the
//! data cores tell of them.
//!
//! Sessions of the configuration are held to what it says: whenever one of them has come or gone,
//! or the configuration was read again, all are compared and what differs is commanded. Sessions
//! opened by command are their operator's, and end with the program.

use super::ManagementCore;
use super::orders::answer;
use crate::clock::{self, Moment};
use crate::config::UdpConfig;
use crate::documents::SCHEMA;
use crate::journal::{EventKind, fields};
use crate::limits::{CORE_ANSWER_TIMEOUT, UDP_SESSION_RETRY};
use crate::opaque::{Known, OpaqueTable, OpenRefusal, Opening, Token, Wish};
use crate::stats_socket::Document;
use ring::rand::SecureRandom;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use waystation_engine::control::{Command, OpaqueRequest, UdpEnded, UdpMoved};
use waystation_engine::core::OpaqueOpenError;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::{Evidence, Side};

/// Somebody who waits for a session to be there, or to be gone.
#[derive(Debug)]
struct Waiting {
    reply: oneshot::Sender<Document>,
    deadline: Instant,
}

impl Waiting {
    fn new(reply: oneshot::Sender<Document>) -> Self {
        Self { reply, deadline: Instant::now() + CORE_ANSWER_TIMEOUT }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct OpaqueSessions {
    table: OpaqueTable,
    opening: BTreeMap<OpaqueRequest, Waiting>,
    closing: Vec<(UdpSessionTag, Waiting)>,
    /// Sessions of the configuration that were closed by command, until it is read again.
    held: BTreeSet<String>,
    /// Why sessions of the configuration are not there, as far as that was said.
    failed: BTreeMap<String, String>,
    /// When those that could not be opened are tried again.
    retry_at: Option<Instant>,
}

impl OpaqueSessions {
    pub(super) fn new(cores: usize, config: &UdpConfig) -> Self {
        Self {
            table: OpaqueTable::new(cores, config.sessions_max, config.ports()),
            opening: BTreeMap::new(),
            closing: Vec::new(),
            held: BTreeSet::new(),
            failed: BTreeMap::new(),
            retry_at: None,
        }
    }

    /// Which sessions there are.
    pub(super) fn table(&self) -> &OpaqueTable {
        &self.table
    }
}

impl ManagementCore {
    // By command

    pub(super) fn open_udp(
        &mut self,
        mut wish: Wish,
        idle: Option<Duration>,
        reply: oneshot::Sender<Document>,
    ) {
        if !self.config.udp.is_enabled() {
            let message = OpaqueOpenError::Disabled.to_string();
            return answer(reply, Document::refused("no_udp_sessions", &message));
        }
        if self.draining.is_some() {
            return answer(reply, Document::unavailable("draining", "nobody new is taken in"));
        }
        if self.hand_over.is_paused() {
            return answer(reply, handing_over());
        }
        let idle = idle.unwrap_or(self.config.udp.idle);
        wish.idle_limit_ns = u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX);
        match self.ask_for_udp(wish) {
            Ok(request) => {
                self.opaque.opening.insert(request, Waiting::new(reply));
            }
            Err(refusal) => {
                answer(reply, Document::refused("udp_refused", &refusal.to_string()));
            }
        }
    }

    fn ask_for_udp(&mut self, wish: Wish) -> Result<OpaqueRequest, OpenRefusal> {
        let random = &self.random;
        let mut draw = || {
            let mut bytes = [0; 32];
            // The kernel's source cannot fail once the machine has booted.
            assert!(random.fill(&mut bytes).is_ok(), "the system has no random numbers");
            bytes
        };
        let (request, core, command) = self.opaque.table.open(wish, &mut draw)?;
        self.command(core, command);
        Ok(request)
    }

    pub(super) fn close_udp(&mut self, session: UdpSessionTag, reply: oneshot::Sender<Document>) {
        if self.hand_over.is_paused() {
            return answer(reply, handing_over());
        }
        let Some(known) = self.opaque.table.get(session) else {
            let message =
                format!("there is no UDP session {session}; `waystation udp list` lists them");
            return answer(reply, Document::not_found("no_such_session", &message));
        };
        if let Some(name) = &known.wish.name {
            self.opaque.held.insert(name.to_string());
        }
        tracing::info!(%session, "closing a UDP session by command");
        self.command(session.core, Command::CloseUdp { session });
        self.opaque.closing.push((session, Waiting::new(reply)));
    }

    // Of another process

    /// A core goes on with a session that another process had.
    pub(super) fn opaque_taken_over(&mut self, session: UdpSessionTag, known: Known) {
        self.opaque.table.take_over(session, known);
    }

    /// Another process has all of them.
    pub(super) fn forget_opaque(&mut self) {
        self.opaque = OpaqueSessions::new(self.end.cores(), &self.config.udp);
    }

    // By configuration

    /// The configuration was read again.
    pub(super) fn take_up_udp(&mut self) {
        self.opaque.held.clear();
        self.opaque.failed.clear();
        self.reconcile_udp();
    }

    /// Commands whatever makes the sessions of the configuration those that there are.
    pub(super) fn reconcile_udp(&mut self) {
        if !self.extra.readiness.is_ready() {
            return;
        }
        self.opaque.retry_at = None;
        let sessions = &self.config.udp.sessions;
        let wanted: BTreeMap<String, Wish> = sessions
            .iter()
            .filter(|session| !self.opaque.held.contains(&session.name))
            .map(|session| (session.name.clone(), Wish::of_config(session)))
            .collect();
        let ports = sessions.iter().flat_map(|session| session.ports()).collect();
        self.opaque.table.reserve(ports);
        let unwanted: Vec<_> = self
            .opaque
            .table
            .named()
            .filter(|(_, name, wish)| wanted.get(*name) != Some(*wish))
            .map(|(session, _, _)| session)
            .collect();
        for session in unwanted {
            self.command(session.core, Command::CloseUdp { session });
        }
        for (name, wish) in wanted {
            if !self.opaque.table.has_name(&name)
                && let Err(refusal) = self.ask_for_udp(wish)
            {
                self.note_udp_failure(&name, refusal.to_string());
            }
        }
    }

    /// Whether the configuration has exactly this session.
    fn is_wanted(&self, wish: &Wish) -> bool {
        let Some(name) = wish.name.as_deref().filter(|name| !self.opaque.held.contains(*name))
        else {
            return false;
        };
        let configured = self.config.udp.sessions.iter().find(|session| session.name == name);
        configured.is_some_and(|session| Wish::of_config(session) == *wish)
    }

    fn note_udp_failure(&mut self, name: &str, message: String) {
        self.opaque.retry_at = Some(Instant::now() + UDP_SESSION_RETRY);
        if self.opaque.failed.get(name) == Some(&message) {
            return;
        }
        tracing::error!(session = name, "a UDP session cannot be opened: {message}");
        let said = fields(json!({ "name": name, "message": message }));
        self.journal.record(clock::now(), EventKind::UdpFailed, None, said);
        self.opaque.failed.insert(name.to_owned(), message);
    }

    // What the cores tell

    pub(super) fn on_udp_opened(
        &mut self,
        request: OpaqueRequest,
        result: Result<UdpSessionTag, OpaqueOpenError>,
    ) {
        match self.opaque.table.opened(request, result) {
            None => {}
            Some(Opening::Again(core, command)) => self.command(core, command),
            Some(Opening::Opened { session, tokens }) => {
                self.on_udp_session(request, session, &tokens);
            }
            Some(Opening::Failed { wish, message }) => {
                if let Some(waiting) = self.opaque.opening.remove(&request) {
                    answer(waiting.reply, Document::refused("udp_refused", &message));
                }
                if let Some(name) = &wish.name {
                    self.note_udp_failure(name, message);
                }
            }
        }
    }

    fn on_udp_session(
        &mut self,
        request: OpaqueRequest,
        session: UdpSessionTag,
        tokens: &[Option<Token>; 2],
    ) {
        let Some(known) = self.opaque.table.get(session) else { return };
        let (name, ports) = (known.wish.name.clone(), known.ports);
        let is_wanted = self.is_wanted(&known.wish);
        let said = json!({ "session": session.to_string(), "name": name, "ports": ports });
        let document = Document::json(&opened(session, known, tokens));
        if let Some(name) = &name {
            self.opaque.failed.remove(&**name);
            tracing::info!(%session, %name, ?ports, "opened a UDP session");
            self.journal.record(clock::now(), EventKind::UdpOpened, None, fields(said));
            // The configuration may be another one by now. If it is not, those that are missing
            // are on their way or wait to be tried again.
            if !is_wanted {
                self.reconcile_udp();
            }
            return;
        }
        let waiting = self.opaque.opening.remove(&request);
        let is_told = waiting.is_some_and(|waiting| waiting.reply.send(document).is_ok());
        if is_told {
            tracing::info!(%session, ?ports, "opened a UDP session by command");
            self.journal.record(clock::now(), EventKind::UdpOpened, None, fields(said));
        } else {
            // Whoever wanted it has gone, and with them its tokens.
            self.command(session.core, Command::CloseUdp { session });
        }
    }

    pub(super) fn on_udp_moved(&mut self, now: Moment, moved: &UdpMoved) {
        self.opaque.table.moved(moved.session, moved.addresses);
        let known = self.opaque.table.get(moved.session);
        let said = fields(json!({
            "session": moved.session.to_string(),
            "name": known.and_then(|known| known.wish.name.clone()),
            "addresses": moved.addresses.map(|address| address.map(|it| it.to_string())),
            "moves": moved.moves,
            "by": moved.by.map(Evidence::name),
        }));
        self.journal.record(now, EventKind::UdpMoved, None, said);
    }

    pub(super) fn on_udp_ended(&mut self, now: Moment, ended: &UdpEnded) {
        let session = ended.session;
        let (mut datagrams, mut bytes) = (ended.datagrams, ended.bytes);
        if let Some(last) = self.xdp.end_udp(session) {
            for side in Side::BOTH {
                let carried = last.from[side.index()].carried;
                datagrams[side.other().index()] += carried.datagrams;
                bytes[side.other().index()] += carried.bytes;
            }
            let offloaded = Box::from([last]);
            self.command(session.core, Command::NoteUdpOffloaded { offloaded });
        }
        let name = self.opaque.table.ended(session).and_then(|known| known.wish.name);
        tracing::info!(%session, reason = ended.reason.name(), "a UDP session has ended");
        let said = fields(json!({
            "session": session.to_string(),
            "name": name,
            "reason": ended.reason.name(),
            "datagrams_to_a": datagrams[0],
            "datagrams_to_b": datagrams[1],
            "bytes_to_a": bytes[0],
            "bytes_to_b": bytes[1],
            "age_ms": ended.age_ns / 1_000_000,
        }));
        self.journal.record(now, EventKind::UdpEnded, None, said);
        for (_, waiting) in self.opaque.closing.extract_if(.., |(closing, _)| *closing == session) {
            let done = json!({ "schema": SCHEMA, "closed": session.to_string(), "name": name });
            answer(waiting.reply, Document::json(&done));
        }
        if name.is_some() {
            self.reconcile_udp();
        }
    }

    /// Answers those whose core takes too long, and tries again what could not be opened.
    pub(super) fn end_late_udp(&mut self) {
        let now = Instant::now();
        let opening = &mut self.opaque.opening;
        let late = opening.extract_if(.., |_, waiting| waiting.deadline <= now);
        let late = late.map(|(_, waiting)| waiting);
        let closing = &mut self.opaque.closing;
        let closing = closing.extract_if(.., |(_, waiting)| waiting.deadline <= now);
        for waiting in late.chain(closing.map(|(_, waiting)| waiting)) {
            let message = "the session's data core does not answer";
            answer(waiting.reply, Document::unavailable("timeout", message));
        }
        if self.opaque.retry_at.is_some_and(|retry_at| retry_at <= now) {
            self.reconcile_udp();
        }
    }
}

fn handing_over() -> Document {
    Document::unavailable("handing_over", "another process is about to take over; ask that one")
}

/// What whoever opened a session is told, tokens included, once.
fn opened(session: UdpSessionTag, known: &Known, tokens: &[Option<Token>; 2]) -> Value {
    let leg = |side: Side| {
        let (end, port) = (known.wish.ends[side.index()], known.ports[side.index()]);
        let mut leg = json!({
            "port": port,
            "end": end.to_string(),
            "learning": known.wish.learning_name(side),
        });
        if let Some(token) = &tokens[side.index()] {
            leg["token"] = json!(*token.text());
        }
        leg
    };
    json!({
        "schema": SCHEMA,
        "session": session.to_string(),
        "core": session.core.0,
        "protocol": known.wish.protocol.name(),
        "legs": Side::BOTH.map(leg),
    })
}

//! Links that go on in another process: how they come to stand still, and go on there or here.
//!
//! Part of [`DataCore`], on its thread, at the management core's word (decision 27). A link that
//! stands still is in the phase of one that leaves: what it receives is kept unread and nothing is
//! sent for it. It stays whole where it is while the other process is told of it, so that it can go
//! on here if that comes to nothing; there it stands still in the same way until that process is
//! told to begin. Nothing here may send or receive for a link before it is thawed.

use super::DataCore;
use super::connection::{Connection, Phase};
use super::ingress::Input;
use super::link_state::{LinkParts, LinkState};
use super::moving::{Departing, Destination, ReceivedBytes, Stage};
use crate::control::{FrozenLink, FrozenLinks, LinkRefusal, Report};
use crate::limits::{BLOCKS_RESERVED, LINK_PLACES_MAX};
use crate::port::{CloseMode, Port, ReceiveMode};
use std::collections::BTreeSet;
use std::io;
use std::net::TcpStream;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::LinkTag;
use waystation_relay::switch::{MoveRefusal, SessionsRefusal};

/// How a link stands still.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Its connection, once nothing is in flight on it.
    socket: Option<TcpStream>,
    /// Whether it goes on as soon as that is so.
    thaws: bool,
    /// Whether it comes from another process, and nobody here knows of it yet.
    is_new: bool,
}

impl<P: Port> DataCore<P> {
    // Standing still

    /// Has links stand still that do not yet, and says how far that is.
    pub(super) fn freeze_links(&mut self, round: u64) {
        self.stands_still = true;
        let is_live = |connection: &Connection| {
            matches!(connection.phase, Phase::Link(_)) && connection.stream.is_some()
        };
        let links = self.connections.iter().filter(|(_, _, connection)| is_live(connection));
        let links: Vec<u32> = links.map(|(slot, _, _)| slot).collect();
        for slot in links {
            self.freeze_link(slot);
        }
        let mut busy = usize::from(self.departing.is_some());
        let mut links = Vec::new();
        for slot in self.standing() {
            self.go_on_freezing(slot);
            match self.frozen_link(slot) {
                Ok(link) => links.extend(link),
                Err(Busy) => busy += 1,
            }
        }
        self.fabric.apply_effects();
        // What was told other cores until now counts as sent.
        self.fabric.mesh.flush();
        let mesh = &self.fabric.mesh;
        let frozen = FrozenLinks {
            core: self.fabric.core,
            round,
            busy: busy + usize::from(mesh.is_backed_up()),
            batches_sent: mesh.batches_sent(),
            batches_received: mesh.batches_received(),
            links,
        };
        self.fabric.report(Report::LinksFrozen(Box::new(frozen)));
    }

    fn freeze_link(&mut self, slot: u32) {
        let inputs = self.ingress.take(self.place(slot));
        let Some(connection) = self.connections.at_mut(slot) else { return };
        if let Some(stream) = connection.stream {
            self.port.set_receive_mode(stream, ReceiveMode::OnRequest);
        }
        match std::mem::replace(&mut connection.phase, Phase::Lingering) {
            Phase::Link(link) => {
                let (to, stage) = (Destination::Process(Standing::default()), Stage::Freezing);
                connection.phase =
                    Phase::Departing(Box::new(Departing { link, to, stage, inputs }));
            }
            other => connection.phase = other,
        }
        self.set_deadline(slot, u64::MAX);
    }

    /// The links that stand still, or are about to.
    fn standing(&self) -> Vec<u32> {
        let stands = |connection: &Connection| match &connection.phase {
            Phase::Departing(departing) => matches!(departing.to, Destination::Process(_)),
            _ => false,
        };
        let all = self.connections.iter().filter(|(_, _, connection)| stands(connection));
        all.map(|(slot, _, _)| slot).collect()
    }

    fn standing_at(&mut self, slot: u32) -> Option<(&mut Standing, &mut Stage)> {
        match self.connections.at_mut(slot).map(|connection| &mut connection.phase) {
            Some(Phase::Departing(departing)) => match &mut departing.to {
                Destination::Process(standing) => Some((standing, &mut departing.stage)),
                Destination::Core(_) => None,
            },
            Some(_) | None => None,
        }
    }

    /// Asks for a link's descriptor once its last send has ended.
    fn go_on_freezing(&mut self, slot: u32) {
        let Some(stream) = self.connections.at(slot).and_then(|it| it.stream) else { return };
        if self.port.is_sending(stream) {
            return;
        }
        let Some((_, stage)) = self.standing_at(slot) else { return };
        if *stage == Stage::Freezing {
            *stage = Stage::Detaching;
            self.port.detach(stream);
        }
    }

    /// The port has given a link's descriptor back.
    pub(super) fn keep_socket(&mut self, slot: u32, socket: TcpStream) {
        if let Some(connection) = self.connections.at_mut(slot) {
            connection.stream = None;
        }
        let Some((standing, _)) = self.standing_at(slot) else { return };
        standing.socket = Some(socket);
        if standing.thaws {
            self.thawing.push(slot);
        }
    }

    /// Lets links go on whose descriptors came in this burst of events; not among these, because a
    /// stream that is new may have the key of one that has yet to be heard of.
    pub(super) fn thaw_detached(&mut self) {
        while let Some(slot) = self.thawing.pop() {
            self.thaw_link(slot);
        }
    }

    /// A link as the management core hears of it. `None`: another process cannot have it.
    fn frozen_link(&mut self, slot: u32) -> Result<Option<FrozenLink>, Busy> {
        let Some((standing, _)) = self.standing_at(slot) else { return Ok(None) };
        if standing.socket.is_none() {
            return Err(Busy);
        }
        let joined = match self.fabric.switch.what_ties(slot) {
            Some(MoveRefusal::QueryPending) => return Err(Busy),
            Some(_) => return Ok(None),
            None => self.fabric.switch.joined_links(slot),
        };
        let (Some(joined), Some(connection)) = (joined, self.connections.at(slot)) else {
            return Ok(None);
        };
        let failed = self.fabric.sides.get(slot as usize).and_then(Option::as_deref);
        let failed = failed.is_none_or(|side| side.output.failed());
        let Some(input) = connection.phase.link() else { return Ok(None) };
        let whole = input.reader.is_whole() && input.decoder.is_whole();
        // A dial is the management core's, which the next process makes anew.
        if failed || !whole || connection.dial.is_some() {
            return Ok(None);
        }
        Ok(Some(FrozenLink {
            link: self.link_tag(slot),
            joined: joined.into_iter().collect(),
            bytes: self.fabric.switch.queued_bytes_of(slot),
            written_bytes_max: self.fabric.switch.written_bytes_max_of(slot),
        }))
    }

    // Telling

    /// Lets all links but these go on, and tells all that another process needs to go on with them.
    pub(super) fn tell_links(&mut self, links: &[LinkTag]) {
        let wanted: BTreeSet<u32> = links.iter().map(|link| link.slot).collect();
        for slot in self.standing() {
            if !wanted.contains(&slot) {
                self.thaw_link(slot);
            }
        }
        let told = links.iter().map(|link| self.tell_link(*link));
        let result = told.collect();
        self.fabric.report(Report::LinksTold { core: self.fabric.core, result });
    }

    fn tell_link(&mut self, link: LinkTag) -> io::Result<(Box<LinkState>, TcpStream)> {
        let slot = link.slot;
        let gone = || io::Error::other("a link has ended");
        let (standing, _) = self.standing_at(slot).ok_or_else(gone)?;
        let socket = standing.socket.as_ref().ok_or_else(gone)?.try_clone()?;
        let received = self.copy_received(slot);
        let Self { fabric, port, connections, .. } = self;
        let side = fabric.sides.get_mut(slot as usize).and_then(Option::as_deref_mut);
        let output = side.ok_or_else(gone)?.output.state(|buffer, into, range| {
            into.extend_from_slice(&port.bytes_mut(buffer)[range]);
        });
        let connection = connections.get(slot, link.generation).ok_or_else(gone)?;
        let input = connection.phase.link().ok_or_else(gone)?;
        let sessions = fabric.switch.sessions_state(slot).ok_or_else(gone)?;
        let halves = (input, output.ok_or_else(gone)?);
        let state = LinkState::new(link, connection, halves, received, sessions);
        Ok((Box::new(state.ok_or_else(gone)?), socket))
    }

    /// What a link has received and not dealt with, which stays where it is.
    fn copy_received(&mut self, slot: u32) -> ReceivedBytes {
        let mut received = ReceivedBytes::default();
        let Self { connections, port, .. } = self;
        let Some(Connection { phase: Phase::Departing(departing), .. }) = connections.at(slot)
        else {
            return received;
        };
        for waiting in &departing.inputs {
            if let Some(record) = &waiting.progress.record {
                received.open.extend_from_slice(&record.block[record.rest.clone()]);
            }
            let cursor = waiting.progress.cursor;
            match &waiting.input {
                Input::Buffer(buffer) => {
                    received.raw.extend_from_slice(&port.bytes_mut(buffer)[cursor..]);
                }
                Input::Copy(block, bytes) => received.raw.extend_from_slice(&block[cursor..*bytes]),
                Input::Gone => {}
                Input::End(ended) => received.ended = received.ended.or(Some(*ended)),
            }
        }
        received
    }

    // Going on

    /// Lets all links go on that stand still.
    pub(super) fn thaw_links(&mut self) {
        self.stands_still = false;
        for slot in self.standing() {
            self.thaw_link(slot);
        }
    }

    fn thaw_link(&mut self, slot: u32) {
        let Some((standing, stage)) = self.standing_at(slot) else { return };
        let is_new = standing.is_new;
        match (standing.socket.take(), *stage) {
            (Some(socket), _) => {
                let Ok(stream) = self.port.add_stream(socket, ReceiveMode::Continuous) else {
                    self.close(slot, Some(DropReason::TooManyConnections), CloseMode::Reset);
                    return;
                };
                if let Some(connection) = self.connections.at_mut(slot) {
                    connection.stream = Some(stream);
                }
                self.set_slot_of(stream, slot);
            }
            // The port cannot be asked to stop.
            (None, Stage::Detaching) => {
                standing.thaws = true;
                return;
            }
            (None, Stage::Answering | Stage::Freezing) => {}
        }
        if is_new && let Some(facts) = self.fabric.side(slot).and_then(|it| it.facts.clone()) {
            self.fabric.report(Report::LinkUp(facts));
        }
        self.stay(slot, MoveRefusal::NoSuchLink);
        self.fabric.switch.resume_sessions(slot);
        self.fabric.apply_effects();
        let identity = self.connections.at(slot).and_then(|it| it.phase.identity());
        if is_new && identity.is_some_and(|identity| !self.snapshot.access.admits(identity)) {
            // The new configuration shuts it out.
            self.close(slot, Some(DropReason::IdentityDenied), CloseMode::Graceful);
        }
    }

    /// Forgets links that stand still: another process has them, or has them still.
    pub(super) fn forget_links(&mut self) {
        self.stands_still = false;
        for slot in self.standing() {
            // What nobody was told of goes on as soon as it can.
            if self.standing_at(slot).is_some_and(|(standing, _)| !standing.thaws) {
                self.forget_link(slot);
            }
        }
    }

    fn forget_link(&mut self, slot: u32) {
        let (link, totals) = (self.link_tag(slot), self.totals(slot));
        self.set_phase_counts(slot, -1);
        let Some(connection) = self.connections.remove(slot) else { return };
        if let Some(stream) = connection.stream {
            // It was never detached, so nobody was told of it.
            self.port.close(stream, CloseMode::Reset);
        }
        let Phase::Departing(departing) = connection.phase else { return };
        let Departing { link: mut input, to, inputs, .. } = *departing;
        for waiting in inputs {
            self.discard(waiting);
        }
        input.reader.discard(&mut self.fabric.pool);
        self.discard_side(slot);
        self.fabric.switch.forget_link(slot);
        if let Destination::Process(Standing { is_new: false, .. }) = to {
            let (identity, reason) = (input.identity, None);
            self.fabric.report(Report::LinkDown { link, identity, reason, totals });
        }
    }

    // Taking over

    /// Takes links that another process had; they stand still until this core begins.
    pub(super) fn take_links(&mut self, links: Vec<(Box<LinkState>, TcpStream)>) {
        self.stands_still = true;
        let taken = links.into_iter().map(|(state, socket)| self.take_link(&state, socket));
        let result = taken.collect();
        self.note_processor_wait();
        self.fabric.report(Report::LinksTaken { core: self.fabric.core, result });
    }

    fn take_link(&mut self, state: &LinkState, socket: TcpStream) -> Result<(), LinkRefusal> {
        let tag = state.tag(self.fabric.core);
        let (slot, generation) = (tag.slot, tag.generation);
        let blocks = state.blocks() + BLOCKS_RESERVED;
        if self.links >= self.snapshot.limits.links || self.fabric.pool.available() < blocks {
            return Err(LinkRefusal::NoRoom(tag));
        }
        let malformed = LinkRefusal::Malformed(tag);
        if slot >= LINK_PLACES_MAX || self.connections.at(slot).is_some() {
            return Err(malformed);
        }
        let (aead, pool) = (self.aead, &mut self.fabric.pool);
        let parts = state.parts(tag, aead, pool).ok_or(malformed)?;
        let LinkParts { connection, input: mut link, mut side, received } = parts;
        let taken = self.fabric.switch.take_sessions_over(slot, state.profile, &state.sessions);
        if let Err(refusal) = taken {
            link.reader.discard(&mut self.fabric.pool);
            side.output.discard(&mut self.fabric.pool, drop);
            return Err(match refusal {
                SessionsRefusal::NoRoom => LinkRefusal::NoRoom(tag),
                SessionsRefusal::Malformed => malformed,
            });
        }
        if self.connections.insert_at(slot, generation, connection).is_err() {
            debug_assert!(false, "the place is free: it was looked at");
            return Err(malformed);
        }
        self.fabric.set_side(slot, side);
        let inputs = self.inputs_of(slot, received);
        let standing = Standing { socket: Some(socket), thaws: false, is_new: true };
        let (to, stage) = (Destination::Process(standing), Stage::Detaching);
        if let Some(connection) = self.connections.at_mut(slot) {
            connection.phase = Phase::Departing(Box::new(Departing { link, to, stage, inputs }));
        }
        self.set_phase_counts(slot, 1);
        Ok(())
    }
}

/// A link may come to stand still, or not.
struct Busy;

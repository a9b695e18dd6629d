//! Links that change cores: how one leaves, and how one arrives.
//!
//! Part of [`DataCore`], on its thread. At most one link of a core is about to leave at a time. It
//! is in a phase of its own from the command until it has left or stays: what it receives is kept
//! unread, nothing is sealed for it, and its sessions freeze (decision 15). It travels in one piece
//! that holds no memory of a pool, so that pools keep what is theirs. Nothing here may let go of
//! half a link: it is on one core whole, on its way whole, or it ends.

use super::DataCore;
use super::connection::{Connection, Ended, LinkInput, Phase};
use super::ingress::{Input, Share, Waiting};
use super::limiting::Presence;
use super::links_over::Standing;
use crate::block::{BLOCK_BYTES, Block, BlockPool};
use crate::control::{DialId, LinkTotals, Network, Report};
use crate::fabric::LinkSide;
use crate::limits::{BLOCKS_RESERVED, MOVE_TIMEOUT};
use crate::port::{CloseMode, Port, ReceiveMode, Segment};
use crate::record_reader::OpenRecord;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LinkTag};
use waystation_relay::switch::{DepartureProgress, MoveRefusal, MovedSessions};

/// A link that is about to leave its core.
#[derive(Debug)]
pub(super) struct Departing {
    pub(super) link: Box<LinkInput>,
    pub(super) to: Destination,
    pub(super) stage: Stage,
    /// What it has received and nobody has looked at.
    pub(super) inputs: VecDeque<Waiting>,
}

/// Where a link is to go.
#[derive(Debug)]
pub(super) enum Destination {
    Core(CoreId),
    /// To another process, or it has come from one and waits to begin here.
    Process(Standing),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A query of its peer waits for a verdict.
    Answering,
    /// The other sides of its sessions have not all answered, or a send is in flight.
    Freezing,
    /// The port gives the descriptor back.
    Detaching,
}

/// A link between two cores.
#[derive(Debug)]
pub struct MovedLink {
    was: LinkTag,
    socket: TcpStream,
    remote: SocketAddr,
    local: SocketAddr,
    accepted_ns: u64,
    network: Network,
    dial: Option<DialId>,
    input: Box<LinkInput>,
    side: Box<LinkSide>,
    sessions: MovedSessions,
    received: ReceivedBytes,
    /// Records that were sealed and not sent.
    sealed: Vec<u8>,
    /// Why the core it went to has sent it back.
    returned: Option<MoveRefusal>,
}

/// What a link has received and not dealt with, in the order of its stream.
#[derive(Debug, Default)]
pub(super) struct ReceivedBytes {
    /// What is left of a record that is open.
    pub(super) open: Vec<u8>,
    /// What has come of the body of a record that has not come whole.
    pub(super) body: Vec<u8>,
    /// What is behind that.
    pub(super) raw: Vec<u8>,
    pub(super) ended: Option<Ended>,
}

impl MovedLink {
    /// Blocks that its bytes take on the core it comes to.
    fn blocks(&self) -> usize {
        let ReceivedBytes { open, body, raw, .. } = &self.received;
        let all = [open, body, raw, &self.sealed];
        all.iter().map(|bytes| bytes.len().div_ceil(BLOCK_BYTES)).sum()
    }
}

impl<P: Port> DataCore<P> {
    // Leaving

    /// Begins to move a link to another core. [`Report::LinkMoved`] or [`Report::LinkStayed`]
    /// follows.
    pub(super) fn move_link(&mut self, link: LinkTag, to: CoreId) {
        match self.try_to_depart(link, to) {
            Ok(()) => self.go_on_departing(),
            Err(refusal) => self.report_stay(link, refusal),
        }
    }

    fn try_to_depart(&mut self, link: LinkTag, to: CoreId) -> Result<(), MoveRefusal> {
        if to == self.fabric.core || to.index() >= self.fabric.mesh.cores() {
            return Err(MoveRefusal::NoSuchCore);
        }
        let place = (link.slot, link.generation);
        let Some(Connection { phase: Phase::Link(_), stream, .. }) =
            self.connections.get(place.0, place.1)
        else {
            return Err(match self.departing {
                Some(_) => MoveRefusal::AnotherMoves,
                None => MoveRefusal::NoSuchLink,
            });
        };
        let Some(stream) = *stream else { return Err(MoveRefusal::InsideSession) };
        if self.departing.is_some() {
            return Err(MoveRefusal::AnotherMoves);
        }
        match self.fabric.switch.why_immovable(link.slot) {
            // It will have its answer before long.
            None | Some(MoveRefusal::QueryPending) => {}
            Some(refusal) => return Err(refusal),
        }
        let inputs = self.ingress.take(self.place(link.slot));
        self.port.set_receive_mode(stream, ReceiveMode::OnRequest);
        if let Some(connection) = self.connections.at_mut(link.slot) {
            match std::mem::replace(&mut connection.phase, Phase::Lingering) {
                Phase::Link(input) => {
                    let stage = Stage::Answering;
                    let to = Destination::Core(to);
                    let departing = Departing { link: input, to, stage, inputs };
                    connection.phase = Phase::Departing(Box::new(departing));
                }
                other => connection.phase = other,
            }
        }
        self.departing = Some(link.slot);
        self.set_deadline(link.slot, self.after(MOVE_TIMEOUT));
        Ok(())
    }

    /// Takes the link that is about to leave as far as it can go; asked once in each turn.
    pub(super) fn go_on_departing(&mut self) {
        while let Some(slot) = self.departing {
            let Some(Connection { phase: Phase::Departing(departing), stream, .. }) =
                self.connections.at(slot)
            else {
                self.departing = None;
                return;
            };
            let (stage, stream) = (departing.stage, *stream);
            let next = match (stage, stream) {
                (Stage::Answering, _) => match self.fabric.switch.depart(slot) {
                    Ok(()) => Stage::Freezing,
                    Err(MoveRefusal::QueryPending) => return,
                    Err(refusal) => return self.stay(slot, refusal),
                },
                (Stage::Freezing, Some(stream)) => match self.fabric.switch.departure(slot) {
                    DepartureProgress::Settled if !self.port.is_sending(stream) => {
                        self.port.detach(stream);
                        Stage::Detaching
                    }
                    DepartureProgress::Settled | DepartureProgress::Settling => return,
                    DepartureProgress::Refused => {
                        return self.stay(slot, MoveRefusal::PeerMoves);
                    }
                },
                (Stage::Detaching, _) | (_, None) => return,
            };
            self.fabric.apply_effects();
            if let Some(Connection { phase: Phase::Departing(departing), .. }) =
                self.connections.at_mut(slot)
            {
                departing.stage = next;
            }
        }
    }

    /// A link has not got away in time.
    pub(super) fn on_departure_deadline(&mut self, slot: u32) {
        let Some(Connection { phase: Phase::Departing(departing), stream, .. }) =
            self.connections.at(slot)
        else {
            return;
        };
        let sending = stream.is_some_and(|stream| self.port.is_sending(stream));
        if let Destination::Process(_) = departing.to {
            // The management core has the clock.
            return;
        }
        match departing.stage {
            Stage::Answering => self.stay(slot, MoveRefusal::QueryPending),
            Stage::Freezing if sending => self.stay(slot, MoveRefusal::PeerNotReading),
            Stage::Freezing => self.stay(slot, MoveRefusal::Timeout),
            // The port has nothing to wait for, and cannot be asked to stop.
            Stage::Detaching => self.set_deadline(slot, self.after(MOVE_TIMEOUT)),
        }
    }

    /// A link stays where it is, with everything that has come meanwhile.
    pub(super) fn stay(&mut self, slot: u32, refusal: MoveRefusal) {
        let inputs = self.become_link_again(slot, refusal);
        let place = self.place(slot);
        if let Some(stream) = self.connections.at(slot).and_then(|connection| connection.stream) {
            self.port.set_receive_mode(stream, ReceiveMode::Continuous);
        }
        for input in inputs {
            let asked = self.ingress.push(input);
            self.receive_as_asked(place, asked);
        }
        self.set_deadline(slot, self.now_ns);
        self.fabric.mark_dirty(slot);
    }

    /// A link that is about to leave ends.
    pub(super) fn give_up_departure(&mut self, slot: u32) {
        if let Some(Phase::Departing(_)) = self.connections.at(slot).map(|it| &it.phase) {
            for input in self.become_link_again(slot, MoveRefusal::NoSuchLink) {
                self.discard(input);
            }
        }
    }

    fn become_link_again(&mut self, slot: u32, refusal: MoveRefusal) -> VecDeque<Waiting> {
        if self.departing == Some(slot) {
            self.departing = None;
        }
        let mut changes_cores = false;
        let mut inputs = VecDeque::new();
        if let Some(connection) = self.connections.at_mut(slot) {
            match std::mem::replace(&mut connection.phase, Phase::Lingering) {
                Phase::Departing(departing) => {
                    inputs = departing.inputs;
                    changes_cores = matches!(departing.to, Destination::Core(_));
                    connection.phase = Phase::Link(departing.link);
                }
                other => connection.phase = other,
            }
        }
        self.fabric.switch.stay(slot);
        self.fabric.apply_effects();
        if changes_cores {
            self.report_stay(self.link_tag(slot), refusal);
        }
        inputs
    }

    fn report_stay(&mut self, link: LinkTag, refusal: MoveRefusal) {
        self.fabric.statistics.counters.link_moves_refused += 1;
        self.fabric.report(Report::LinkStayed { link, refusal });
    }

    /// Keeps what a link that is about to leave has received.
    pub(super) fn keep_for_departure(&mut self, slot: u32, input: Input) {
        let waiting = Waiting::new(self.place(slot), input, self.now_ns);
        match self.connections.at_mut(slot).map(|connection| &mut connection.phase) {
            Some(Phase::Departing(departing)) => departing.inputs.push_back(waiting),
            Some(_) | None => self.discard(waiting),
        }
    }

    /// The descriptor of a link that leaves is free to go.
    pub(super) fn leave_core(&mut self, slot: u32, socket: TcpStream) {
        let was = self.link_tag(slot);
        self.departing = None;
        self.set_phase_counts(slot, -1);
        let sessions = self.fabric.switch.leave(slot);
        let side = self.fabric.sides.get_mut(slot as usize).and_then(Option::take);
        let (Some(connection), Some(mut side), Some(sessions)) =
            (self.connections.remove(slot), side, sessions)
        else {
            return;
        };
        let Connection { remote, local, accepted_ns, network, dial, phase, .. } = connection;
        let Phase::Departing(departing) = phase else { return };
        let Departing { link: mut input, to: Destination::Core(to), inputs, .. } = *departing
        else {
            return;
        };
        self.fabric.statistics.counters.add_sent(side.output.new_totals());
        self.fabric.statistics.counters.links_moved_out += 1;
        let received = self.take_received(&mut input, inputs);
        let sealed = self.take_sealed(&mut side);
        let moved = Box::new(MovedLink {
            was,
            socket,
            remote,
            local,
            accepted_ns,
            network,
            dial,
            input,
            side,
            sessions,
            received,
            sealed,
            returned: None,
        });
        if let Err(mut moved) = self.fabric.mesh.push_link(to, moved) {
            moved.returned = Some(MoveRefusal::NoRoom);
            self.on_moved_link(moved);
        }
    }

    fn take_sealed(&mut self, side: &mut LinkSide) -> Vec<u8> {
        let Self { fabric, port, .. } = self;
        let mut sealed = Vec::new();
        for segment in side.output.take_ready(&mut fabric.pool) {
            match segment {
                Segment::Block { block, range } => {
                    sealed.extend_from_slice(&block[range]);
                    fabric.pool.give_back(block);
                }
                Segment::Receive { buffer, range } => {
                    sealed.extend_from_slice(&port.bytes_mut(&buffer)[range]);
                    port.release(buffer);
                }
            }
        }
        sealed
    }

    fn take_received(&mut self, input: &mut LinkInput, inputs: VecDeque<Waiting>) -> ReceivedBytes {
        let mut received =
            ReceivedBytes { body: input.reader.take_body(&mut self.fabric.pool), ..<_>::default() };
        for mut waiting in inputs {
            if let Some(OpenRecord { block, rest }) = waiting.progress.record.take() {
                received.open.extend_from_slice(&block[rest]);
                self.fabric.pool.give_back(block);
            }
            let cursor = waiting.progress.cursor;
            match &waiting.input {
                Input::Buffer(buffer) => {
                    received.raw.extend_from_slice(&self.port.bytes_mut(buffer)[cursor..]);
                }
                Input::Copy(block, bytes) => received.raw.extend_from_slice(&block[cursor..*bytes]),
                Input::Gone => {}
                Input::End(ended) => received.ended = received.ended.or(Some(*ended)),
            }
            self.discard(waiting);
        }
        received
    }

    // Arriving

    /// A link came from another core, or back from one that has no room for it.
    pub(super) fn on_moved_link(&mut self, mut moved: Box<MovedLink>) {
        let back = moved.returned.is_some();
        if !self.stopping && self.has_room_for(&moved) {
            self.take_link_in(*moved);
        } else if back {
            self.lose_link(*moved, DropReason::TooManyConnections);
        } else {
            moved.returned = Some(MoveRefusal::NoRoom);
            if let Err(moved) = self.fabric.mesh.return_link(moved.was.core, moved) {
                self.lose_link(*moved, DropReason::MeshFull);
            }
        }
    }

    fn has_room_for(&self, moved: &MovedLink) -> bool {
        // A link that comes back was counted here a moment ago.
        let few = moved.returned.is_some() || self.links < self.snapshot.limits.links;
        few && self.port.has_room()
            && self.fabric.switch.has_room_for(&moved.sessions)
            && self.fabric.pool.available() >= moved.blocks() + BLOCKS_RESERVED
    }

    fn take_link_in(&mut self, moved: MovedLink) {
        let MovedLink { was, socket, remote, local, accepted_ns, network, dial, .. } = moved;
        let MovedLink { mut input, mut side, sessions, received, sealed, returned, .. } = moved;
        let stream = match self.port.add_stream(socket, ReceiveMode::Continuous) {
            Ok(stream) => stream,
            Err(_refused) => {
                self.fabric.count_drop(DropReason::TooManyConnections, 0);
                let lost = Lost { was, accepted_ns, input, side, sessions };
                self.end_lost(lost, DropReason::TooManyConnections);
                return;
            }
        };
        let mut connection = Connection::new(Some(stream), remote, local, accepted_ns, self.now_ns);
        (connection.network, connection.dial) = (network, dial);
        let slot = self.insert(connection);
        self.set_slot_of(stream, slot);
        let tag = self.link_tag(slot);
        let pool = &mut self.fabric.pool;
        // What is counted by turns and intervals of a core begins anew.
        (input.share, input.presence) = (Share::default(), Presence::default());
        input.reader.put_body(&received.body, pool);
        side.output.put_ready(&sealed, pool);
        side.output.dirty = false;
        if let Some(facts) = &mut side.facts {
            facts.link = tag;
            let up = facts.clone();
            self.fabric.statistics.counters.links_moved_in += 1;
            self.fabric.report(Report::LinkMoved { from: was, up, returned });
        }
        let admitted = self.snapshot.access.admits(&input.identity);
        self.fabric.set_side(slot, *side);
        if let Some(connection) = self.connections.at_mut(slot) {
            connection.phase = Phase::Link(input);
        }
        self.set_phase_counts(slot, 1);
        self.fabric.switch.arrive(slot, sessions);
        self.fabric.apply_effects();
        self.fabric.mark_dirty(slot);
        self.put_received(slot, received);
        if !admitted {
            // It was shut out while it was on its way.
            self.close(slot, Some(DropReason::IdentityDenied), CloseMode::Graceful);
        }
    }

    /// Has what a link had received wait for its turn here.
    fn put_received(&mut self, slot: u32, received: ReceivedBytes) {
        let place = self.place(slot);
        for waiting in self.inputs_of(slot, received) {
            let asked = self.ingress.push(waiting);
            self.receive_as_asked(place, asked);
        }
    }

    /// What a link had received, as input that waits. The pool must have blocks.
    pub(super) fn inputs_of(&mut self, slot: u32, received: ReceivedBytes) -> VecDeque<Waiting> {
        let ReceivedBytes { open, raw, ended, .. } = received;
        let pool = &mut self.fabric.pool;
        let mut record =
            copy_to_block(&open, pool).map(|(block, bytes)| OpenRecord { block, rest: 0..bytes });
        let mut inputs: Vec<Input> = raw
            .chunks(BLOCK_BYTES)
            .filter_map(|bytes| copy_to_block(bytes, pool))
            .map(|(block, bytes)| Input::Copy(block, bytes))
            .collect();
        if inputs.is_empty() && record.is_some() {
            inputs.push(Input::Gone);
        }
        inputs.extend(ended.map(Input::End));
        let place = self.place(slot);
        let waiting = inputs.into_iter().map(|input| {
            let mut waiting = Waiting::new(place, input, self.now_ns);
            waiting.progress.record = record.take();
            waiting
        });
        waiting.collect()
    }

    /// No core has room for a link any more: it ends.
    fn lose_link(&mut self, moved: MovedLink, reason: DropReason) {
        let MovedLink { was, accepted_ns, input, side, sessions, .. } = moved;
        self.fabric.count_drop(reason, 0);
        self.end_lost(Lost { was, accepted_ns, input, side, sessions }, reason);
    }

    fn end_lost(&mut self, lost: Lost, reason: DropReason) {
        let Lost { was, accepted_ns, input, side, sessions } = lost;
        self.fabric.statistics.counters.links_closed += 1;
        self.fabric.switch.lose(sessions);
        self.fabric.apply_effects();
        let totals = LinkTotals {
            bytes_in: input.payload_bytes_in,
            bytes_out: side.output.totals.payload_bytes,
            frames_in: input.frames_in,
            frames_out: side.output.totals.frames,
            age_ns: self.now_ns.saturating_sub(accepted_ns),
        };
        let (link, identity, reason) = (was, input.identity, Some(reason));
        self.fabric.report(Report::LinkDown { link, identity, reason, totals });
    }
}

/// What a link leaves that no core takes in.
struct Lost {
    was: LinkTag,
    accepted_ns: u64,
    input: Box<LinkInput>,
    side: Box<LinkSide>,
    sessions: MovedSessions,
}

fn copy_to_block(bytes: &[u8], pool: &mut BlockPool) -> Option<(Block, usize)> {
    if bytes.is_empty() {
        return None;
    }
    // There is one: that was looked at before.
    let mut block = pool.take()?;
    block[..bytes.len()].copy_from_slice(bytes);
    Some((block, bytes.len()))
}

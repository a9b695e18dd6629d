//! Everything of a data core that lies behind a received frame: switch, outputs, mesh, recorders.
//!
//! Owned by one [`crate::core::DataCore`] and used on its thread. Apart from the port and the
//! receiving side of connections, so that a frame can be carried on while the buffer it lies in is
//! still borrowed from the port.

mod resealing;

use crate::block::BlockPool;
use crate::control::{AskId, LinkUp, Query, Report};
use crate::entropy::Entropy;
use crate::limits::{INCIDENTS_PER_TURN, UNSENT_INPUT_MAX, UNSENT_REPORTS_MAX};
use crate::management_end::CoreEnd;
use crate::mesh::MeshEnd;
use crate::output::{ControlOutcome, LinkOutput};
use crate::record_reader::InputProgress;
use crate::statistics::CoreStatistics;
use std::collections::VecDeque;
use std::ops::Range;
use waystation_astral::frame::Frame;
use waystation_astral::identity::{Identity, IdentityError};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LegTag};
use waystation_relay::leg::Signal;
use waystation_relay::switch::{
    CODE_REJECTED, DataSink, Effect, InboundQuery, OutboundQuery, Relayed, Route, Switch,
};

/// Largest payload of a data frame we write: with its header it fits one record in every profile.
const PIECE_MAX_BYTES: usize = 65_535 - 64;

/// See the module.
#[derive(Debug)]
pub struct Fabric {
    pub core: CoreId,
    pub identity: Identity,
    pub switch: Switch,
    /// By the place of the link's connection.
    pub sides: Vec<Option<Box<LinkSide>>>,
    pub pool: BlockPool,
    pub mesh: MeshEnd,
    pub management: CoreEnd,
    pub entropy: Entropy,
    pub statistics: Box<CoreStatistics>,
    /// Links with something to flush, each once.
    pub dirty: Vec<u32>,
    /// Links to close at the end of the step.
    pub doomed: Vec<(u32, DropReason)>,
    /// What links of our own that run inside sessions received.
    pub inner_inbox: VecDeque<InnerPiece>,
    /// Bytes to send on connections that have no output yet: acts of a handshake.
    pub plain_out: Vec<(u32, Box<[u8]>)>,
    /// Links of our own whose session was opened: they write first.
    pub inner_opened: Vec<u32>,
    /// When this turn's events were reaped, and when the current buffer was looked at.
    pub reaped_ns: u64,
    pub opened_ns: u64,
    effects: Vec<Effect>,
    woken: Vec<u32>,
    reported: bool,
    /// Reports that found the ring full, in order.
    unsent_reports: VecDeque<Report>,
    incidents: usize,
}

/// The sending half of a link, and what is known of its peer.
#[derive(Debug)]
pub struct LinkSide {
    pub output: LinkOutput,
    /// Set at the end of negotiation.
    pub facts: Option<LinkUp>,
    /// For a link of our own inside a session: the leg under it.
    pub inside: Option<LegTag>,
}

/// What arrived for a link inside a session.
#[derive(Debug)]
pub struct InnerPiece {
    pub link: u32,
    pub input: InnerInput,
}

/// See [`InnerPiece`].
#[derive(Debug)]
pub enum InnerInput {
    /// Bytes, and how far they were dealt with.
    Bytes(Box<[u8]>, InputProgress),
    /// The end of the session.
    End,
}

/// Data frames that were sealed in the buffer they arrived in: records without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedInPlace {
    pub link: u32,
    pub record: Range<usize>,
    /// Where the segment belongs among the link's waiting ones.
    pub place: usize,
}

/// A piece of payload in the buffer it arrived in.
#[derive(Debug)]
pub struct Piece<'a> {
    pub buffer: &'a mut [u8],
    pub range: Range<usize>,
    /// Whether `buffer` is the port's own receive buffer, the piece ends its record, and enough
    /// bytes in front of it are done with to hold a record's and a frame's header.
    pub in_place: bool,
}

impl Fabric {
    /// Everything behind the frames of one core.
    pub fn new(
        identity: Identity,
        switch: Switch,
        pool: BlockPool,
        mesh: MeshEnd,
        management: CoreEnd,
        statistics: Box<CoreStatistics>,
    ) -> Self {
        Self {
            core: mesh.core(),
            identity,
            switch,
            sides: Vec::new(),
            pool,
            mesh,
            management,
            entropy: Entropy::default(),
            statistics,
            dirty: Vec::new(),
            doomed: Vec::new(),
            inner_inbox: VecDeque::new(),
            plain_out: Vec::new(),
            inner_opened: Vec::new(),
            reaped_ns: 0,
            opened_ns: 0,
            effects: Vec::new(),
            woken: Vec::new(),
            reported: false,
            unsent_reports: VecDeque::new(),
            incidents: 0,
        }
    }

    /// The sending half of a link.
    pub fn side(&mut self, link: u32) -> Option<&mut LinkSide> {
        self.sides.get_mut(link as usize)?.as_deref_mut()
    }

    /// Puts the sending half of a link into its place.
    pub fn set_side(&mut self, link: u32, side: LinkSide) {
        let place = link as usize;
        if self.sides.len() <= place {
            self.sides.resize_with(place + 1, || None);
        }
        self.sides[place] = Some(Box::new(side));
    }

    /// Counts a drop.
    pub fn count_drop(&mut self, reason: DropReason, bytes: usize) {
        self.switch.count_drop(reason, bytes);
    }

    /// Forgets what a link inside a session received: its place may be another's before it would be
    /// looked at.
    pub fn forget_inner(&mut self, link: u32) {
        let pool = &mut self.pool;
        self.inner_inbox.retain_mut(|piece| {
            if let (true, InnerInput::Bytes(_, progress)) = (piece.link == link, &mut piece.input) {
                progress.discard(pool);
            }
            piece.link != link
        });
        self.inner_opened.retain(|opened| *opened != link);
    }

    // Frames

    /// Carries a frame other than data, ping and relayed query to the switch.
    pub fn on_session_frame(&mut self, link: u32, frame: &Frame<'_>) {
        let now_ns = self.opened_ns;
        match *frame {
            Frame::Query { nonce, window, query } => {
                let inbound = InboundQuery { nonce, window, query, relayed: None };
                self.switch.query(now_ns, link, inbound);
            }
            Frame::RelayQuery { caller, target, nonce, window, query } => {
                let inbound = InboundQuery { nonce, window, query, relayed: None };
                self.on_relayed_query(link, (caller, target), inbound);
            }
            Frame::Response { nonce, code, window } => {
                self.switch.response(now_ns, link, nonce, code, window);
            }
            Frame::Read { nonce, bytes } => self.switch.read(link, nonce, bytes),
            Frame::Reset { nonce } => self.switch.reset(now_ns, link, nonce),
            Frame::Migrate { nonce } => self.switch.migrate(link, nonce),
            Frame::Ping { .. } | Frame::Data { .. } => {}
        }
        self.apply_effects();
    }

    /// A relayed query is a plain one when its caller is its sender and its target is this node
    /// (spec §10.3); `gateway.node_unregister` comes this way (§11.2). About any other the
    /// management core decides.
    fn on_relayed_query(
        &mut self,
        link: u32,
        (caller, target): (&[u8; 33], &[u8; 33]),
        mut inbound: InboundQuery<'_>,
    ) {
        let sender = self.side(link).and_then(|side| side.facts.as_ref()).map(|f| f.identity);
        // A point costs microseconds to read, and most callers are the peer itself.
        let caller = read_identity(caller, sender.as_ref());
        let target = read_identity(target, Some(&self.identity));
        let (Ok(caller), Ok(target)) = (caller, target) else {
            self.switch.refuse_query(link, inbound.nonce, DropReason::MalformedQuery);
            return;
        };
        if sender != Some(caller) || target != self.identity {
            inbound.relayed = Some(Relayed { caller, target });
        }
        self.switch.query(self.opened_ns, link, inbound);
    }

    /// Carries one piece of payload on. Returns what to attach once the buffer's owner can give it
    /// away.
    pub fn on_data(&mut self, link: u32, nonce: u64, piece: Piece<'_>) -> Option<SealedInPlace> {
        let Piece { buffer, range, in_place } = piece;
        if range.len() <= PIECE_MAX_BYTES {
            return self.carry(link, nonce, Piece { buffer, range, in_place });
        }
        let cut = range.start + PIECE_MAX_BYTES;
        for range in [range.start..cut, cut..range.end] {
            self.carry(link, nonce, Piece { buffer, range, in_place: false });
        }
        None
    }

    fn carry(&mut self, link: u32, nonce: u64, piece: Piece<'_>) -> Option<SealedInPlace> {
        let bytes = piece.range.len();
        if bytes == 0 {
            return None;
        }
        let (sides, pool, now_ns) = (&self.sides, &self.pool, self.opened_ns);
        let has_room = |link| has_room(sides, link, bytes, pool);
        let route = self.switch.route(now_ns, link, nonce, bytes, has_room);
        let sealed = match route {
            Route::Direct { link, nonce } => self.send_direct(link, nonce, piece),
            Route::Queue { leg } => {
                self.switch.enqueue(leg, &piece.buffer[piece.range], self.opened_ns);
                None
            }
            Route::Cross { to } => {
                let payload = &piece.buffer[piece.range];
                let pushed = self.mesh.push_payload(to, self.opened_ns, payload, &mut self.pool);
                if pushed.is_err() {
                    self.switch.fail(link, nonce, DropReason::MeshFull, bytes);
                }
                None
            }
            Route::Park { was } => {
                self.switch.park(was, &piece.buffer[piece.range], self.opened_ns);
                None
            }
            Route::Inner { link } => {
                let bytes = piece.buffer[piece.range].into();
                let input = InnerInput::Bytes(bytes, InputProgress::default());
                self.inner_inbox.push_back(InnerPiece { link, input });
                None
            }
            Route::Management { leg } => {
                self.hand_up(leg, &piece.buffer[piece.range]);
                None
            }
            Route::Nowhere => None,
        };
        self.apply_effects();
        sealed
    }

    fn send_direct(&mut self, link: u32, nonce: u64, piece: Piece<'_>) -> Option<SealedInPlace> {
        let times = (self.reaped_ns, self.opened_ns);
        let side = self.sides.get_mut(link as usize)?.as_deref_mut()?;
        // What a link inside a session sends is copied into that session: its records lie in blocks.
        if piece.in_place && side.inside.is_none() {
            let sealed = side.output.seal_in_place(nonce, piece.buffer, piece.range.clone(), times);
            if let Some((record, place)) = sealed {
                self.mark_dirty(link);
                return Some(SealedInPlace { link, record, place });
            }
        }
        self.write_direct(link, nonce, &piece.buffer[piece.range], times);
        None
    }

    fn write_direct(&mut self, link: u32, nonce: u64, payload: &[u8], times: (u64, u64)) {
        self.mark_dirty(link);
        let Some(Some(side)) = self.sides.get_mut(link as usize) else { return };
        if side.output.begin_frame(nonce, payload.len(), times, &mut self.pool) {
            side.output.payload(payload);
        } else {
            debug_assert!(false, "the switch was told there is room");
            self.switch.fail(link, nonce, DropReason::BufferExhausted, payload.len());
        }
    }

    /// Carries on payload that another core has sent; it was opened there at `stamp_ns`.
    pub fn payload_from_mesh(&mut self, to: LegTag, stamp_ns: u64, payload: &[u8]) {
        for payload in payload.chunks(PIECE_MAX_BYTES) {
            let (sides, pool, bytes) = (&self.sides, &self.pool, payload.len());
            let has_room = |link| has_room(sides, link, bytes, pool);
            match self.switch.deliver(self.opened_ns, to, bytes, has_room) {
                Route::Direct { link, nonce } => {
                    self.write_direct(link, nonce, payload, (stamp_ns, stamp_ns));
                }
                Route::Queue { leg } => self.switch.enqueue(leg, payload, stamp_ns),
                // Only legs joined to another core's get payload from there.
                Route::Cross { .. }
                | Route::Park { .. }
                | Route::Inner { .. }
                | Route::Management { .. }
                | Route::Nowhere => {}
            }
        }
        self.apply_effects();
    }

    /// Tells a leg on any core.
    pub fn signal(&mut self, signal: Signal) {
        if signal.core() == self.core {
            self.switch.hear(signal);
        } else if self.mesh.push_signal(signal, &mut self.pool).is_err() {
            self.count_drop(DropReason::MeshFull, 0);
        }
        self.apply_effects();
    }

    /// What a leg on another core has told one here.
    pub fn signal_from_mesh(&mut self, signal: Signal) {
        self.switch.hear(signal);
        self.apply_effects();
    }

    // Effects

    /// Carries out what the switch asks for, in order.
    pub fn apply_effects(&mut self) {
        while self.switch.has_effects() {
            let mut effects = std::mem::take(&mut self.effects);
            self.switch.take_effects(&mut effects);
            for effect in effects.drain(..) {
                self.apply(effect);
            }
            self.effects = effects;
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Frame { link, frame } => self.control(link, &frame),
            Effect::Query { link, query } => self.send_query(link, &query),
            Effect::Cross(signal) => {
                if self.mesh.push_signal(signal, &mut self.pool).is_err() {
                    self.count_drop(DropReason::MeshFull, 0);
                }
            }
            Effect::CrossPayload { to, from, stamp_ns, bytes } => {
                if self.mesh.push_payload(to, stamp_ns, &bytes, &mut self.pool).is_err() {
                    self.switch.close_session(from, DropReason::MeshFull);
                }
            }
            Effect::Ask { leg, link, nonce, query, relayed } => {
                self.ask(leg, link, (nonce, query, relayed));
            }
            Effect::Cancelled { leg } => self.report(Report::QueryCancelled { leg }),
            Effect::Asked { ask, leg, code } => {
                self.report(Report::Asked { ask: AskId(ask), leg, code });
            }
            Effect::Ended { leg } => self.report(Report::SessionEnded { leg }),
            Effect::InnerOpened { link } => self.inner_opened.push(link),
            Effect::InnerRefused { link, reason } => self.doomed.push((link, reason)),
            Effect::InnerEnded { link } => {
                self.inner_inbox.push_back(InnerPiece { link, input: InnerInput::End });
            }
            Effect::Migration { operation, step } => {
                self.report(Report::Migration { operation, step });
            }
            Effect::Incident { link, reason, nonce } => self.incident(link, reason, nonce),
        }
    }

    /// Sends a frame other than data on a link.
    pub fn control(&mut self, link: u32, frame: &Frame<'_>) {
        let times = (self.reaped_ns, self.opened_ns);
        let Some(Some(side)) = self.sides.get_mut(link as usize) else { return };
        match side.output.control(frame, times, &mut self.pool) {
            Ok(ControlOutcome::Taken) => self.mark_dirty(link),
            Ok(ControlOutcome::PongSuppressed) => self.count_drop(DropReason::PongSuppressed, 0),
            Ok(ControlOutcome::Overflow) => self.doomed.push((link, DropReason::PeerNotReading)),
            // The switch offers a link only frames its profile has.
            Err(error) => debug_assert!(false, "{error}"),
        }
    }

    fn send_query(&mut self, link: u32, query: &OutboundQuery) {
        let (nonce, window) = (query.nonce, self.switch.window_bytes());
        let query_string = &*query.query;
        let frame = match &query.relayed {
            Some(Relayed { caller, target }) => Frame::RelayQuery {
                caller: caller.as_bytes(),
                target: target.as_bytes(),
                nonce,
                window,
                query: query_string,
            },
            None => Frame::Query { nonce, window, query: query_string },
        };
        self.control(link, &frame);
    }

    fn ask(
        &mut self,
        leg: LegTag,
        link: u32,
        (nonce, query, relayed): (u64, Box<[u8]>, Option<Relayed>),
    ) {
        let Some(facts) = self.side(link).and_then(|side| side.facts.as_ref()) else { return };
        let report = Report::Query(Query {
            leg,
            link: facts.link,
            caller: facts.identity,
            profile: facts.profile,
            nonce,
            query,
            local: facts.local,
            inner: facts.inner,
            relayed,
        });
        if !self.try_report(report) {
            self.count_drop(DropReason::ManagementBusy, 0);
            self.switch.reject(leg, CODE_REJECTED);
        }
    }

    /// Hands payload to the management core. Its sender gets credit back once it is there, so a
    /// session never holds more than its window here.
    fn hand_up(&mut self, leg: LegTag, payload: &[u8]) {
        if self.unsent_reports.len() >= UNSENT_INPUT_MAX {
            self.switch.close_session(leg, DropReason::ManagementBusy);
            return;
        }
        self.report(Report::Input { leg, bytes: payload.into() });
    }

    // Reports

    /// Tells the management core, in order. What finds its ring full waits here; only when that
    /// queue is full too is something lost, and counted.
    pub fn report(&mut self, report: Report) {
        if self.unsent_reports.is_empty() {
            let unsent = self.push_report(report);
            self.unsent_reports.extend(unsent);
        } else if self.unsent_reports.len() < UNSENT_REPORTS_MAX {
            self.unsent_reports.push_back(report);
        } else {
            self.statistics.counters.reports_lost += 1;
        }
    }

    /// Sends what found the ring full, as far as there is room.
    pub fn send_unsent_reports(&mut self) {
        while let Some(report) = self.unsent_reports.pop_front() {
            if let Some(report) = self.push_report(report) {
                self.unsent_reports.push_front(report);
                break;
            }
        }
        self.apply_effects();
    }

    /// Gives the report back when the ring is full.
    fn push_report(&mut self, report: Report) -> Option<Report> {
        self.reported = true;
        let input = match &report {
            Report::Input { leg, bytes } => Some((*leg, bytes.len())),
            _ => None,
        };
        let unsent = self.management.reports.push(report).err();
        if let (None, Some((leg, bytes))) = (&unsent, input) {
            self.switch.input_handed_up(leg, bytes);
        }
        unsent
    }

    /// Whether reports wait for room.
    pub fn has_unsent_reports(&self) -> bool {
        !self.unsent_reports.is_empty()
    }

    /// Reports something about one link, not too often.
    fn incident(&mut self, link: u32, reason: DropReason, nonce: u64) {
        self.incidents += 1;
        if self.incidents > INCIDENTS_PER_TURN {
            return;
        }
        if let Some(facts) = self.side(link).and_then(|side| side.facts.as_ref()) {
            let link = facts.link;
            self.report(Report::Incident { link, reason, nonce });
        }
    }

    /// Tells what can be told again later. `false`: there is no room now, and nothing was told.
    pub fn report_if_room(&mut self, report: impl FnOnce() -> Report) -> bool {
        if !self.unsent_reports.is_empty() || self.management.reports.is_full() {
            return false;
        }
        self.try_report(report())
    }

    /// A query is not worth waiting for: its caller gets an answer now.
    fn try_report(&mut self, report: Report) -> bool {
        self.reported = true;
        self.unsent_reports.is_empty() && self.management.reports.push(report).is_ok()
    }

    /// Rings the management core's doorbell if there is something to hear.
    pub fn ring(&mut self) {
        self.incidents = 0;
        if std::mem::take(&mut self.reported) {
            self.management.doorbell.ring();
        }
    }

    // Flushing

    /// Puts a link on the list of those to flush.
    pub fn mark_dirty(&mut self, link: u32) {
        if let Some(Some(side)) = self.sides.get_mut(link as usize)
            && !side.output.dirty
        {
            side.output.dirty = true;
            self.dirty.push(link);
        }
    }

    /// Puts every link whose sessions got something to send on that list.
    pub fn mark_woken(&mut self) {
        let mut woken = std::mem::take(&mut self.woken);
        self.switch.take_woken(&mut woken);
        for link in woken.drain(..) {
            self.mark_dirty(link);
        }
        self.woken = woken;
    }

    /// Moves queued payload of a link's sessions into its records. `false`: there was payload to
    /// move and no room for any.
    pub fn fill(&mut self, link: u32) -> bool {
        if !self.switch.has_ready(link) {
            return true;
        }
        let Some(Some(side)) = self.sides.get_mut(link as usize) else { return true };
        let before = side.output.totals.frames;
        let mut sink =
            Sink { output: &mut side.output, pool: &mut self.pool, reaped_ns: self.reaped_ns };
        self.switch.fill(self.opened_ns, link, &mut sink);
        let moved = side.output.totals.frames > before || !self.switch.has_ready(link);
        self.apply_effects();
        moved
    }
}

/// Reads an identity, without a look at the curve if it is the one it is likely to be.
fn read_identity(bytes: &[u8; 33], likely: Option<&Identity>) -> Result<Identity, IdentityError> {
    match likely {
        Some(likely) if likely.as_bytes() == bytes => Ok(*likely),
        Some(_) | None => Identity::from_bytes(bytes),
    }
}

fn has_room(sides: &[Option<Box<LinkSide>>], link: u32, bytes: usize, pool: &BlockPool) -> bool {
    sides
        .get(link as usize)
        .and_then(Option::as_deref)
        .is_some_and(|side| side.output.has_room(bytes, pool))
}

struct Sink<'a> {
    output: &'a mut LinkOutput,
    pool: &'a mut BlockPool,
    reaped_ns: u64,
}

impl DataSink for Sink<'_> {
    fn room_bytes(&mut self) -> usize {
        self.output.room_bytes(self.pool).min(PIECE_MAX_BYTES)
    }

    fn begin(&mut self, nonce: u64, payload_bytes: usize, stamp_ns: u64) {
        let times = (stamp_ns.min(self.reaped_ns), stamp_ns);
        let begun = self.output.begin_frame(nonce, payload_bytes, times, self.pool);
        debug_assert!(begun, "within the room just given");
    }

    fn payload(&mut self, bytes: &[u8]) {
        self.output.payload(bytes);
    }
}

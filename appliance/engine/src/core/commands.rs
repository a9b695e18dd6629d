//! What the management core tells a data core to do.

use super::DataCore;
use super::connection::{Connection, Phase};
use super::opaque::OpaqueOpenError;
use crate::control::{AskId, Command, LinkRow, OpaqueRequest, Report, SessionKind, SessionRow};
use crate::limits::COMMANDS_PER_TURN;
use crate::mesh::PipeQuotas;
use crate::port::{CloseMode, Port};
use crate::snapshot::CoreSnapshot;
use std::sync::Arc;
use waystation_astral::identity::Identity;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{LegTag, LinkTag};
use waystation_relay::leg::{Leg, LegKind, Signal};
use waystation_relay::quota::Quota;
use waystation_relay::switch::{CODE_REJECTED, Migration, OutboundQuery, Relayed};
use waystation_relay::udp::Settings;

impl<P: Port> DataCore<P> {
    /// Carries out what waits, in order.
    pub(super) fn carry_out_commands(&mut self) {
        for _ in 0..COMMANDS_PER_TURN {
            let Some(command) = self.fabric.management.commands.pop() else { return };
            self.in_vain = false;
            self.carry_out(command);
        }
        // There may be more; the next turn must not sleep on them.
        self.port.waker().wake();
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Reject { leg, code } => self.fabric.switch.reject(leg, code),
            Command::Answer { leg, bytes } => {
                self.fabric.switch.answer(leg, &bytes, self.now_ns);
            }
            Command::Forget { leg } => self.fabric.switch.forget(leg),
            Command::Offer { caller, target, query, relayed, pace } => {
                self.offer(caller, target, (query, relayed), pace);
            }
            Command::Pace { leg, pace } => self.fabric.switch.pace(leg, pace),
            Command::Govern { link, quota, keep } => self.govern(link, quota, keep),
            Command::Accept { leg, input_max_bytes } => {
                self.fabric.switch.accept(leg, input_max_bytes);
            }
            Command::Write { leg, bytes, end } => {
                self.fabric.switch.write(leg, &bytes, end, self.now_ns);
            }
            Command::Ask { ask, link, query, input_max_bytes } => {
                self.ask(ask, link, query, input_max_bytes);
            }
            Command::CloseSession { leg, reason } => {
                self.fabric.switch.close_session(leg, reason);
            }
            Command::BeginMigration { operation, from, to, nonce, peer_window } => {
                self.begin_migration(
                    &from,
                    to,
                    Migration { operation, nonce, to_link: to.slot, peer_window },
                );
            }
            Command::ResumeMigrated { leg } => self.fabric.switch.resume_migrated(leg),
            Command::TerminateInside { leg } => self.terminate_inside(leg),
            Command::KeepIdle { socket } => self.keep_idle(socket),
            Command::JoinSockets { caller, idle, caller_quota, idle_quota } => {
                let quotas = PipeQuotas { caller: caller_quota, idle: idle_quota };
                self.join_sockets(caller, idle, quotas);
            }
            Command::CloseSocket { socket, reason } => self.close_socket(socket, reason),
            Command::MoveLink { link, to } => self.move_link(link, to),
            Command::CloseLink { link, reason } => self.close_link(link, reason),
            Command::OpenUdp { request, settings } => self.open_udp(request, *settings),
            Command::CloseUdp { session } => {
                if let Some(opaque) = &mut self.opaque {
                    opaque.close(session, self.now_ns, &mut self.fabric);
                }
            }
            Command::Initiate { dial, stream, identity, network } => {
                self.initiate(dial, stream, identity, network);
            }
            Command::InitiateInside { dial, link, query, identity } => {
                self.initiate_inside(dial, link, query, identity);
            }
            Command::Adopt { snapshot } => self.adopt(snapshot),
            Command::ReportStatistics { recycled, closes_interval } => {
                if closes_interval {
                    self.close_interval();
                }
                self.send_statistics(recycled);
            }
            Command::ReportLinkTraffic => self.begin_traffic_walk(),
            Command::ReportListing { listing } => self.begin_listing(listing),
            Command::TellPaths { wanted } => {
                if let Some(turn) = &mut self.turn {
                    turn.tell_paths(wanted);
                }
                if let Some(opaque) = &mut self.opaque {
                    opaque.tell_paths(wanted, self.now_ns);
                }
            }
            Command::NoteOffloaded { offloaded } => {
                if let Some(turn) = &mut self.turn {
                    turn.note_offloaded(&offloaded, &mut self.fabric.statistics.counters);
                }
            }
            Command::NoteUdpOffloaded { offloaded } => {
                if let Some(opaque) = &mut self.opaque {
                    opaque.note_offloaded(&offloaded, &mut self.fabric.statistics.counters);
                }
            }
            Command::AnswerUdpPaths { answers } => {
                if let Some(opaque) = &mut self.opaque {
                    opaque.take_answers(&answers);
                }
            }
            Command::Drain { refuse_allocations } => self.drain(refuse_allocations),
            Command::TellUdp { wanted } => self.tell_udp(wanted),
            Command::HandOver => self.begin_handing_over(),
            Command::GoOn { links, turn } => self.go_on(links, turn),
            Command::LetUdpGo => self.let_udp_go(),
            Command::TakeUdpOver { from } => self.take_udp_over(*from),
            Command::Begin => self.begin(),
            Command::FreezeLinks { round } => self.freeze_links(round),
            Command::TellLinks { links } => self.tell_links(&links),
            Command::ThawLinks => self.thaw_links(),
            Command::TakeLinks { links } => self.take_links(links),
            Command::ForgetLinks => self.forget_links(),
            Command::Shutdown => self.shut_down(),
        }
        self.fabric.apply_effects();
        self.close_doomed();
    }

    fn offer(
        &mut self,
        caller: LegTag,
        target: LinkTag,
        (query, relayed): (Box<[u8]>, Option<Relayed>),
        pace: Option<Arc<Quota>>,
    ) {
        if !self.is_link(target) {
            let reason = Some(DropReason::TargetNotReachable);
            let refusal = Signal::Rejected { to: caller, code: CODE_REJECTED, reason };
            self.fabric.signal(refusal);
            return;
        }
        let query = OutboundQuery { nonce: self.fresh_nonce(target.slot), query, relayed };
        self.fabric.switch.offer(self.now_ns, caller, target.slot, query, pace);
    }

    fn open_udp(&mut self, request: OpaqueRequest, settings: Settings) {
        match &mut self.opaque {
            Some(opaque) => opaque.open(request, settings, self.now_ns, &mut self.fabric),
            None => {
                let (core, result) = (self.fabric.core, Err(OpaqueOpenError::Disabled));
                self.fabric.report(Report::UdpOpened { request, core, result });
            }
        }
    }

    fn ask(&mut self, ask: AskId, link: LinkTag, query: Box<[u8]>, input_max_bytes: u32) {
        if !self.is_link(link) {
            self.fabric.switch.refuse_ask(ask.0, DropReason::TargetNotReachable);
            return;
        }
        let query = OutboundQuery { nonce: self.fresh_nonce(link.slot), query, relayed: None };
        self.fabric.switch.ask(self.now_ns, ask.0, link.slot, query, input_max_bytes);
    }

    fn govern(&mut self, tag: LinkTag, quota: Option<Arc<Quota>>, keep: bool) {
        let Some(Connection { phase: Phase::Link(link), .. }) =
            self.connections.get_mut(tag.slot, tag.generation)
        else {
            return;
        };
        link.keep = keep;
        self.fabric.switch.govern(tag.slot, quota);
        // Its deadline may be sooner now.
        self.set_deadline(tag.slot, self.now_ns);
    }

    /// Links of other cores are left out of `from`: a session does not change its core.
    fn begin_migration(&mut self, from: &[LinkTag], to: LinkTag, migration: Migration) {
        let core = self.fabric.core;
        let here = |link: &&LinkTag| link.core == core && self.is_link(**link);
        let from: Vec<u32> = match self.is_link(to) {
            true => from.iter().filter(here).map(|link| link.slot).collect(),
            false => Vec::new(),
        };
        self.fabric.switch.begin_migration(&from, migration);
    }

    /// Whether a tag names a link that has finished its negotiation.
    pub(super) fn is_link(&self, link: LinkTag) -> bool {
        matches!(
            self.connections.get(link.slot, link.generation),
            Some(Connection { phase: Phase::Link(_), .. })
        )
    }

    /// A nonce that no session of a link has.
    pub(super) fn fresh_nonce(&mut self, link: u32) -> u64 {
        loop {
            let nonce = self.entropy().nonce();
            if self.fabric.switch.nonce_is_free(link, nonce) {
                return nonce;
            }
        }
    }

    /// Takes up a new snapshot. Whoever is no longer admitted goes; caps keep what is there.
    fn adopt(&mut self, snapshot: Arc<CoreSnapshot>) {
        self.snapshot = snapshot;
        let limits = self.limits.switch(&self.snapshot.limits);
        self.fabric.switch.set_limits(
            limits.sessions_per_link,
            limits.sessions,
            limits.query_timeout_ns,
        );
        if let (Some(turn), Some(snapshot)) = (&mut self.turn, &self.snapshot.turn) {
            turn.adopt(snapshot);
        }
        if let Some(opaque) = &mut self.opaque {
            opaque.adopt(&self.snapshot.udp_peers, self.now_ns, &mut self.fabric);
        }
        let slots: Vec<u32> = self.connections.iter().map(|(slot, _, _)| slot).collect();
        for slot in slots {
            let Some(connection) = self.connections.at(slot) else { continue };
            let known = connection.phase.identity();
            let denied = known.is_some_and(|known| !self.snapshot.access.admits(known));
            match (denied, &connection.phase) {
                (true, Phase::Link(_) | Phase::Departing(_)) => {
                    self.close(slot, Some(DropReason::IdentityDenied), CloseMode::Graceful);
                }
                (true, _) => self.give_up(slot, DropReason::IdentityDenied),
                // Its next deadline may be sooner now.
                (false, Phase::Link(_)) => self.set_deadline(slot, self.now_ns),
                // One that is about to leave is looked at anew wherever it is then.
                (false, _) => {}
            }
        }
        let (core, epoch) = (self.fabric.core, self.snapshot.epoch);
        self.fabric.report(Report::Adopted { core, epoch });
    }

    fn close_link(&mut self, link: LinkTag, reason: DropReason) {
        if self.connections.get(link.slot, link.generation).is_some() {
            self.close(link.slot, Some(reason), CloseMode::Graceful);
        }
    }

    fn drain(&mut self, refuse_allocations: bool) {
        self.port.stop_accepting();
        self.draining = true;
        if let Some(turn) = self.turn.as_mut().filter(|_| refuse_allocations) {
            turn.refuse_allocations();
        }
        let slots: Vec<u32> = self.connections.iter().map(|(slot, _, _)| slot).collect();
        for slot in slots {
            match self.connections.at(slot).map(|connection| &connection.phase) {
                Some(Phase::Idle(_)) => {
                    let reason = DropReason::LinkClosedByOperator;
                    self.close(slot, Some(reason), CloseMode::Graceful);
                }
                // It may have been idle for long enough.
                Some(Phase::Link(_)) => self.set_deadline(slot, self.now_ns),
                Some(_) | None => {}
            }
        }
    }

    fn shut_down(&mut self) {
        self.port.stop_accepting();
        let slots: Vec<u32> = self.connections.iter().map(|(slot, _, _)| slot).collect();
        for slot in slots {
            let reason = DropReason::LinkClosedByOperator;
            match self.connections.at(slot).map(|connection| &connection.phase) {
                Some(Phase::Shaking(_) | Phase::Negotiating(_)) => self.give_up(slot, reason),
                Some(_) | None => self.close(slot, Some(reason), CloseMode::Graceful),
            }
        }
        self.stopping = true;
    }

    pub(super) fn link_row(&self, tag: LinkTag, connection: &Connection) -> Option<LinkRow> {
        let link = connection.phase.link()?;
        let side = self.fabric.sides.get(tag.slot as usize)?.as_deref()?;
        Some(LinkRow {
            link: tag,
            identity: link.identity,
            profile: link.profile,
            link_id: link.link_id,
            remote: connection.remote,
            local: connection.local,
            network: connection.network,
            outbound: connection.dial.is_some(),
            inner: connection.inside.is_some(),
            age_ns: self.now_ns.saturating_sub(connection.accepted_ns),
            idle_ns: self.now_ns.saturating_sub(link.received_ns),
            sessions: u32::try_from(self.fabric.switch.sessions_of(tag.slot)).unwrap_or(u32::MAX),
            bytes_in: link.payload_bytes_in,
            bytes_out: side.output.totals.payload_bytes,
            frames_in: link.frames_in,
            frames_out: side.output.totals.frames,
            queued_bytes: side.output.queued_bytes() as u64,
            ping_ns: link.ping_round_trip_ns,
            held_up: self.link_held_up(tag.slot, connection, link),
        })
    }

    pub(super) fn pipe_row(&self, tag: LinkTag, connection: &Connection) -> Option<SessionRow> {
        let Phase::Pipe(half) = &connection.phase else { return None };
        let queued: usize = half.pending.iter().map(|pending| pending.segment.bytes()).sum();
        Some(SessionRow {
            leg: LegTag { core: tag.core, slot: tag.slot, generation: tag.generation },
            link: tag,
            nonce: 0,
            kind: SessionKind::Socket,
            outbound: false,
            query: Box::default(),
            identity: Identity::ANYONE,
            age_ns: self.now_ns.saturating_sub(connection.accepted_ns),
            bytes_in: half.bytes_in,
            bytes_out: half.bytes_out,
            queued_bytes: queued as u64,
            send_credit_bytes: 0,
            held_up: self.pipe_held_up(half),
        })
    }

    pub(super) fn identity_of(&self, leg: &Leg) -> Identity {
        let link = self.connections.at(leg.link).and_then(|connection| connection.phase.link());
        link.map_or(Identity::ANYONE, |link| link.identity)
    }

    pub(super) fn session_row(&self, tag: LegTag, leg: &Leg) -> SessionRow {
        SessionRow {
            leg: tag,
            link: self.link_tag(leg.link),
            nonce: leg.nonce,
            kind: match leg.kind {
                LegKind::Local => SessionKind::Local,
                LegKind::Caller => SessionKind::Caller,
                LegKind::Target => SessionKind::Target,
                LegKind::Own => SessionKind::Own,
                LegKind::Inner => SessionKind::Inner,
            },
            outbound: leg.outbound,
            query: leg.query.clone(),
            identity: self.identity_of(leg),
            age_ns: self.now_ns.saturating_sub(leg.opened_ns),
            bytes_in: leg.bytes_in,
            bytes_out: leg.bytes_out,
            queued_bytes: leg.queue.len() as u64,
            send_credit_bytes: leg.credit,
            held_up: self.leg_held_up(tag, leg),
        }
    }
}

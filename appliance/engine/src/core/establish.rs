//! How a connection becomes a link: dials of our own, the acts, the negotiation.
//!
//! Spec §3, §4 and §16. Both roles share their phases; only what is sent first differs. What a
//! link's first bytes lead to is found out in a [`Step`], so that it works on the buffer they
//! lie in.

use super::connection::{
    ACT_MAX_BYTES, Connection, Due, LinkInput, Negotiating, Negotiator, Phase, Shaking,
};
use super::ingress::Share;
use super::limiting::Presence;
use super::links::{Failure, Step};
use super::{DataCore, nanos};
use crate::control::{DialId, LinkUp, Network, Report};
use crate::fabric::LinkSide;
use crate::output::LinkOutput;
use crate::port::{CloseMode, Port, ReceiveMode};
use crate::record_reader::{InputProgress, RecordReader};
use crate::statistics::{Stage, TrafficClass};
use std::net::TcpStream;
use std::ops::Range;
use waystation_astral::brontide::{
    ACT_ONE_BYTES, ACT_THREE_BYTES, ACT_TWO_BYTES, Initiator, Responder, Transport,
};
use waystation_astral::frame::{FrameDecoder, Profile};
use waystation_astral::gateway::NonceDecoder;
use waystation_astral::identity::Identity;
use waystation_astral::negotiation::{Acceptor, Dialer, Established, Farewell, Progress};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{LegTag, LinkTag};
use waystation_relay::switch::OutboundQuery;

/// The first byte of act one, which no nonce of ours starts with (spec §11.2).
const FIRST_BYTE_OF_A_LINK: u8 = 0;

/// What an identity that may not link here is told where a reset would look like a clean end.
const DENIED: &str = "access denied";

/// A handshake step that does not verify, or cannot be made.
const REJECTED: Failure = Failure::Dropped(DropReason::HandshakeRejected);

impl<P: Port> DataCore<P> {
    // Dials of our own

    /// Makes a link as initiator on an established connection.
    pub(super) fn initiate(
        &mut self,
        dial: DialId,
        stream: TcpStream,
        identity: Identity,
        network: Network,
    ) {
        if let Err(reason) = self.try_initiate(dial, stream, identity, network) {
            self.refuse_dial(dial, reason);
        }
    }

    fn try_initiate(
        &mut self,
        dial: DialId,
        stream: TcpStream,
        identity: Identity,
        network: Network,
    ) -> Result<(), DropReason> {
        self.admit_dial(&identity)?;
        let (shaking, act_one) = self.first_act(identity)?;
        let addresses = stream.set_nonblocking(true).and_then(|()| {
            // Without it the kernel holds small records back; a link still works.
            let _ = stream.set_nodelay(true);
            Ok((stream.peer_addr()?, stream.local_addr()?))
        });
        // A connection that has ended meanwhile has no peer.
        let (remote, local) = addresses.map_err(|_ended| DropReason::ConnectFailed)?;
        let key = self
            .port
            .add_stream(stream, ReceiveMode::Continuous)
            .map_err(|_full| DropReason::TooManyConnections)?;
        let deadline_ns = self.after(self.snapshot.limits.handshake_timeout);
        let mut connection = Connection::new(Some(key), remote, local, self.now_ns, deadline_ns);
        (connection.network, connection.dial) = (network, Some(dial));
        connection.phase = Phase::Shaking(Box::new(shaking));
        let slot = self.insert(connection);
        self.set_phase_counts(slot, 1);
        self.set_slot_of(key, slot);
        self.send_bytes(key, &act_one);
        Ok(())
    }

    /// Asks for a session on a link, to make a link as initiator in there.
    pub(super) fn initiate_inside(
        &mut self,
        dial: DialId,
        link: LinkTag,
        query: Box<[u8]>,
        identity: Identity,
    ) {
        if let Err(reason) = self.try_initiate_inside(dial, link, query, identity) {
            self.refuse_dial(dial, reason);
        }
    }

    fn try_initiate_inside(
        &mut self,
        dial: DialId,
        link: LinkTag,
        query: Box<[u8]>,
        identity: Identity,
    ) -> Result<(), DropReason> {
        self.admit_dial(&identity)?;
        let (remote, local) = match self.connections.get(link.slot, link.generation) {
            Some(Connection { phase: Phase::Link(_), remote, local, .. }) => (*remote, *local),
            Some(_) | None => return Err(DropReason::TargetNotReachable),
        };
        let query = OutboundQuery { nonce: self.fresh_nonce(link.slot), query, relayed: None };
        let inner = self.connections.next_key().0;
        let leg = self.fabric.switch.ask_inside(self.now_ns, link.slot, query, inner)?;
        // The switch gives up first; this only makes sure of an end.
        let limits = &self.snapshot.limits;
        let longest_ns = nanos(limits.query_timeout) + nanos(limits.handshake_timeout);
        let deadline_ns = self.now_ns + longest_ns;
        let mut connection = Connection::new(None, remote, local, self.now_ns, deadline_ns);
        (connection.network, connection.dial) = (Network::Gateway, Some(dial));
        connection.inside = Some(leg);
        connection.phase = Phase::Asking(Box::new(identity));
        let slot = self.insert(connection);
        debug_assert_eq!(slot, inner);
        self.set_phase_counts(slot, 1);
        Ok(())
    }

    /// Starts the handshakes of dials whose session has been accepted.
    pub(super) fn start_inner_dials(&mut self) {
        while let Some(slot) = self.fabric.inner_opened.pop() {
            let Some(Connection { phase: Phase::Asking(identity), .. }) = self.connections.at(slot)
            else {
                continue;
            };
            match self.first_act(**identity) {
                Ok((shaking, act_one)) => {
                    self.set_phase(slot, Phase::Shaking(Box::new(shaking)));
                    self.set_deadline(slot, self.after(self.snapshot.limits.handshake_timeout));
                    self.fabric.plain_out.push((slot, act_one.into()));
                    self.send_plain();
                }
                Err(reason) => self.close(slot, Some(reason), CloseMode::Graceful),
            }
        }
    }

    /// Whether a dial may begin.
    fn admit_dial(&self, identity: &Identity) -> Result<(), DropReason> {
        if !self.snapshot.access.admits(identity) {
            return Err(DropReason::IdentityDenied);
        }
        if self.is_full() || self.stopping || self.draining {
            return Err(DropReason::TooManyConnections);
        }
        Ok(())
    }

    fn first_act(
        &mut self,
        identity: Identity,
    ) -> Result<(Shaking, [u8; ACT_ONE_BYTES]), DropReason> {
        let ephemeral = self.entropy().ephemeral_key();
        let begin = || {
            let initiator = Initiator::new(&self.secret, &identity, &ephemeral)?;
            let mut initiator = initiator.with_aead(self.aead);
            let act_one = initiator.act_one()?;
            Ok((initiator, act_one))
        };
        let begun: Result<_, waystation_astral::brontide::HandshakeError> = begin();
        // No handshake leads to ourselves (spec §3.2), or to nobody.
        let (initiator, act_one) = begun.map_err(|_refused| DropReason::HandshakeRejected)?;
        Ok((Shaking::new(Due::Two(initiator, identity)), act_one))
    }

    fn refuse_dial(&mut self, dial: DialId, reason: DropReason) {
        self.fabric.count_drop(reason, 0);
        self.fabric.report(Report::DialFailed { dial, reason });
    }

    // Links inside sessions, as responder

    /// Opens a link of our own inside a session that the management core gave us.
    pub(super) fn terminate_inside(&mut self, leg: LegTag) {
        let outer = self.fabric.switch.leg(leg).map(|leg| leg.link);
        let Some(outer) = outer.and_then(|outer| self.connections.at(outer)) else { return };
        let (remote, local) = (outer.remote, outer.local);
        let inner = self.connections.next_key().0;
        if !self.fabric.switch.terminate_inside(leg, inner) {
            return;
        }
        let deadline_ns = self.after(self.snapshot.limits.handshake_timeout);
        let mut connection = Connection::new(None, remote, local, self.now_ns, deadline_ns);
        connection.network = Network::Gateway;
        connection.inside = Some(leg);
        let slot = self.insert(connection);
        debug_assert_eq!(slot, inner);
        self.set_phase_counts(slot, 1);
        self.fabric.apply_effects();
    }
}

impl Shaking {
    fn new(due: Due) -> Self {
        Self { act: [0; ACT_MAX_BYTES], act_bytes: 0, due }
    }

    /// Collects the bytes of the act that is due. `true`: it is complete.
    pub(super) fn collect(&mut self, bytes: &[u8], cursor: &mut usize) -> bool {
        let due = match self.due {
            Due::One => ACT_ONE_BYTES,
            Due::Two(..) => ACT_TWO_BYTES,
            Due::Three(_) => ACT_THREE_BYTES,
        };
        let rest = &bytes[*cursor..];
        let count = rest.len().min(due - self.act_bytes);
        self.act[self.act_bytes..self.act_bytes + count].copy_from_slice(&rest[..count]);
        self.act_bytes += count;
        *cursor += count;
        self.act_bytes == due
    }
}

/// What a connection is that somebody else made, by its first byte (spec §11.2).
pub(super) fn first_phase(first: Option<u8>) -> Phase {
    match first {
        Some(FIRST_BYTE_OF_A_LINK) | None => Phase::Shaking(Box::new(Shaking::new(Due::One))),
        Some(_) => Phase::Presenting(NonceDecoder::new()),
    }
}

impl Step<'_> {
    /// Deals with an act that is complete. Returns the phase that follows the last one.
    pub(super) fn on_act(&mut self, shaking: &mut Shaking) -> Result<Option<Phase>, Failure> {
        shaking.act_bytes = 0;
        let act = &shaking.act;
        match std::mem::replace(&mut shaking.due, Due::One) {
            Due::One => {
                let ephemeral = self.fabric.entropy.ephemeral_key();
                let responder =
                    Responder::new(self.secret, &ephemeral).map_err(|_refused| REJECTED)?;
                let mut responder = responder.with_aead(self.aead);
                let act = act.first_chunk().ok_or(REJECTED)?;
                let act_two = responder.act_one(act).map_err(|_refused| REJECTED)?;
                self.fabric.plain_out.push((self.slot, act_two.into()));
                shaking.due = Due::Three(responder);
                Ok(None)
            }
            Due::Two(initiator, identity) => {
                let act = act.first_chunk().ok_or(REJECTED)?;
                let (act_three, transport) = initiator.act_two(act).map_err(|_refused| REJECTED)?;
                self.start_as_initiator(identity, &act_three, transport).map(Some)
            }
            Due::Three(responder) => {
                let (identity, transport) =
                    responder.act_three(act).map_err(|_refused| REJECTED)?;
                self.start_as_responder(identity, transport).map(Some)
            }
        }
    }

    /// The responder speaks first (spec §4), unless its peer may not link here.
    fn start_as_responder(
        &mut self,
        identity: Identity,
        transport: Transport,
    ) -> Result<Phase, Failure> {
        let denied = !self.access.admits(&identity);
        let link_id = self.fabric.entropy.nonce();
        let acceptor = Acceptor::new(link_id, self.fabric.entropy.bytes());
        let mut side = self.side(LinkOutput::new(transport.sealer));
        if denied && self.facts.inside.is_none() {
            return Err(Failure::Dropped(DropReason::IdentityDenied));
        }
        if !denied {
            side.output.raw(acceptor.greeting(), &mut self.fabric.pool);
        }
        self.fabric.set_side(self.slot, side);
        self.fabric.mark_dirty(self.slot);
        if denied {
            let farewell = Farewell::refusal(DENIED);
            return Err(Failure::Refused(DropReason::IdentityDenied, farewell));
        }
        let negotiator = Negotiator::Acceptor(acceptor);
        Ok(negotiating(identity, link_id, RecordReader::new(transport.opener), negotiator))
    }

    fn start_as_initiator(
        &mut self,
        identity: Identity,
        act_three: &[u8],
        transport: Transport,
    ) -> Result<Phase, Failure> {
        let mut side = self.side(LinkOutput::new(transport.sealer));
        if !side.output.unsealed(act_three, &mut self.fabric.pool) {
            return Err(Failure::Dropped(DropReason::BufferExhausted));
        }
        self.fabric.set_side(self.slot, side);
        self.fabric.mark_dirty(self.slot);
        let entropy = &mut self.fabric.entropy;
        let (link_id, ping_nonce) = (entropy.nonce(), entropy.nonce());
        let negotiator = Negotiator::Dialer(Dialer::new(ping_nonce));
        Ok(negotiating(identity, link_id, RecordReader::new(transport.opener), negotiator))
    }

    fn side(&self, output: LinkOutput) -> LinkSide {
        LinkSide { output, facts: None, inside: self.facts.inside }
    }

    pub(super) fn negotiate(
        &mut self,
        negotiating: &mut Negotiating,
        plaintext: &[u8],
    ) -> Result<Option<Established>, Failure> {
        let mut reply = Vec::new();
        let progress = negotiating.negotiator.receive(plaintext, &mut reply);
        if let Some(Some(side)) = self.fabric.sides.get_mut(self.slot as usize)
            && !reply.is_empty()
        {
            negotiating.replied = true;
            side.output.raw(&reply, &mut self.fabric.pool);
            self.fabric.mark_dirty(self.slot);
        }
        match progress {
            Ok(Progress::More) => Ok(None),
            Ok(Progress::Done(established)) => Ok(Some(established)),
            Err(error) => Err(Failure::Refused(DropReason::NegotiationRejected, error.farewell())),
        }
    }

    pub(super) fn establish(
        &mut self,
        phase: &mut Phase,
        established: Established,
    ) -> Result<(), Failure> {
        let Established { profile, link_id, mut leftover } = established;
        let old = std::mem::replace(phase, Phase::Lingering);
        let Phase::Negotiating(negotiating) = old else { return Ok(()) };
        let Negotiating { reader, identity, link_id: own_id, negotiator, .. } = *negotiating;
        let link_id = link_id.unwrap_or(own_id);
        let now_ns = self.fabric.opened_ns;
        let took_ns = now_ns.saturating_sub(self.facts.accepted_ns);
        let histograms = &mut self.fabric.statistics.histograms;
        histograms.record(Stage::Handshake, TrafficClass::Control, took_ns, 1);
        self.announce(identity, profile, link_id);
        let accepted = matches!(negotiator, Negotiator::Acceptor(_));
        let mut link = Box::new(LinkInput {
            reader,
            decoder: FrameDecoder::new(profile),
            profile,
            identity,
            link_id,
            received_ns: now_ns,
            active_ns: now_ns,
            had_sessions: false,
            keep: false,
            ping: None,
            ping_round_trip_ns: 0,
            // The first of a P2 peer's two ended the negotiation.
            prelude_pongs: u8::from(accepted && profile == Profile::P2),
            frames_in: 0,
            payload_bytes_in: 0,
            share: Share::default(),
            presence: Presence::default(),
        });
        let end = leftover.len();
        let outcome = self.on_frames(&mut link, &mut leftover, 0..end, false);
        *phase = Phase::Link(link);
        match outcome? {
            Some(stopped) => self.keep_leftover(phase, &mut leftover, stopped..end),
            None => Ok(()),
        }
    }

    /// Keeps frames that came behind the negotiation and are more than one turn's work. Without a
    /// block for them the step goes on to its end instead.
    fn keep_leftover(
        &mut self,
        phase: &mut Phase,
        leftover: &mut [u8],
        rest: Range<usize>,
    ) -> Result<(), Failure> {
        let mut progress = InputProgress::default();
        self.copy_rest(phase, leftover, rest, &mut progress)?;
        self.leftover = progress.record;
        Ok(())
    }

    /// Lets switch and management core know of a link, before its first frame.
    fn announce(&mut self, identity: Identity, profile: Profile, link_id: u64) {
        let facts = LinkUp {
            link: self.facts.link,
            identity,
            profile,
            link_id,
            remote: self.facts.remote,
            local: self.facts.local,
            inner: self.facts.inside.is_some(),
            network: self.facts.network,
            dial: self.facts.dial,
        };
        if let Some(Some(side)) = self.fabric.sides.get_mut(self.slot as usize) {
            side.output.set_profile(profile);
            side.facts = Some(facts.clone());
        }
        self.fabric.switch.link_up(self.slot, profile);
        self.fabric.report(Report::LinkUp(facts));
    }
}

fn negotiating(
    identity: Identity,
    link_id: u64,
    reader: RecordReader,
    negotiator: Negotiator,
) -> Phase {
    let negotiating = Negotiating { reader, negotiator, replied: false, identity, link_id };
    Phase::Negotiating(Box::new(negotiating))
}

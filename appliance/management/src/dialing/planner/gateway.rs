//! Dials through another gateway, in the order in which their ways are tried (spec §11): a socket
//! from `node_connect`, a session of `node_route`, a session of the first generation.

use super::super::connect::Route;
use super::super::error::{DialCause, DialError};
use super::super::limits::{ASK_INPUT_MAX_BYTES, ASK_TIMEOUT_NS, TEXT_MAX_BYTES};
use super::{Action, Planner, RaceId, Stage, Surroundings, Way};
use crate::directory::Directory;
use std::net::SocketAddr;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::{SocketObjectError, parse_socket_object};
use waystation_astral::identity::Identity;
use waystation_astral::limits::SOCKET_PAYLOAD_BYTES_MAX;
use waystation_astral::object::{ChannelForm, ObjectReader};
use waystation_engine::control::{AskId, Command, DialId, LinkUp};
use waystation_relay::ids::{LegTag, LinkTag};

/// Marks queries of outbound links among all queries of this node.
const ASK_MARK: u64 = 1 << 63;

/// One way through a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `gateway.node_connect`, then a connection of its own.
    Socket,
    /// `gateway.node_route`: inside a session.
    Route,
    /// `.gateway.<target>`: inside a session of the first generation.
    Forward,
}

impl Step {
    /// The first way that a gateway with a link of this profile may know. The second generation
    /// came in the middle of P2's time (spec §1.1).
    fn first(profile: Profile) -> Self {
        match profile {
            Profile::P0 => Self::Forward,
            Profile::P2 | Profile::P4 => Self::Socket,
        }
    }

    /// The way to try after this one.
    fn after(self, profile: Profile) -> Option<Self> {
        match (self, profile) {
            (Self::Socket, _) => Some(Self::Route),
            (Self::Route, Profile::P2) => Some(Self::Forward),
            (Self::Route | Self::Forward, _) => None,
        }
    }

    fn query(self, target: &Identity) -> Box<[u8]> {
        let query = match self {
            Self::Socket => format!("gateway.node_connect?target={target}"),
            Self::Route => format!("gateway.node_route?target={target}"),
            Self::Forward => format!(".gateway.{target}"),
        };
        query.into_bytes().into()
    }
}

/// A question to a gateway under way.
#[derive(Debug)]
pub(super) struct Conversation {
    ask: AskId,
    /// The link it was asked on.
    link: LinkTag,
    /// The session, once it was answered.
    leg: Option<LegTag>,
    reader: ObjectReader,
    pub(super) until_ns: u64,
}

impl Planner {
    /// How a gateway endpoint is dialed.
    pub(super) fn way_through(
        &self,
        directory: &Directory,
        target: Identity,
        gateway: Identity,
        leads_to: Identity,
    ) -> Result<Way, DialCause> {
        if gateway == leads_to {
            return Err(DialCause::GatewayIsTarget);
        }
        if gateway == self.identity {
            return Err(DialCause::GatewayIsSelf);
        }
        if leads_to != target {
            return Err(DialCause::OtherTarget { target: leads_to });
        }
        if let Some(up) = link_to(directory, &gateway) {
            return Ok(Way::Gateway { gateway: up.link, step: Step::first(up.profile) });
        }
        match self.is_dialed_directly(&gateway) {
            true => Ok(Way::Park { gateway }),
            false => Err(DialCause::GatewayNotLinked { gateway }),
        }
    }

    /// Whether a configured peer is being dialed over something else than a gateway: dials through
    /// gateways through gateways would wait for each other.
    fn is_dialed_directly(&self, gateway: &Identity) -> bool {
        let direct = |endpoint: &Endpoint| !matches!(endpoint, Endpoint::Gateway { .. });
        self.kept
            .get(gateway)
            .is_some_and(|kept| kept.race.is_some() && kept.endpoints.iter().any(direct))
    }

    /// Dials a configured peer now, if it waits: somebody asks for what needs it.
    pub(super) fn hurry(&mut self, now_ns: u64, gateway: &Identity) {
        if let Some(kept) = self.kept.get_mut(gateway)
            && kept.due_ns.is_some()
        {
            kept.due_ns = Some(now_ns);
        }
    }

    /// Takes one way through a gateway.
    pub(super) fn take_step(
        &mut self,
        around: &mut Surroundings<'_>,
        id: DialId,
        link: LinkTag,
        step: Step,
    ) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let (identity, query) = (dial.target, step.query(&dial.target));
        if step != Step::Socket {
            self.hand(around.now_ns, id, link.core, Some(step));
            let command = Command::InitiateInside { dial: id, link, query, identity };
            around.command(link.core, command);
            return;
        }
        let ask = AskId(ASK_MARK | id.0);
        dial.stage = Stage::Asking(Conversation {
            ask,
            link,
            leg: None,
            reader: ObjectReader::new(ChannelForm::C2, SOCKET_PAYLOAD_BYTES_MAX),
            until_ns: around.now_ns.saturating_add(ASK_TIMEOUT_NS),
        });
        self.asks.insert(ask, id);
        let input_max_bytes = ASK_INPUT_MAX_BYTES;
        around.command(link.core, Command::Ask { ask, link, query, input_max_bytes });
    }

    /// Goes on to the next way, if the dial is one through a gateway, there is one, and the gateway
    /// is still linked.
    pub(super) fn take_next_step(&mut self, around: &mut Surroundings<'_>, id: DialId) -> bool {
        let Some(dial) = self.dials.get(&id) else { return false };
        let Endpoint::Gateway { gateway, .. } = dial.endpoint else { return false };
        let step = match &dial.stage {
            Stage::Asking(_) | Stage::Presenting => Step::Socket,
            Stage::Handed { step: Some(step), .. } => *step,
            Stage::Handed { step: None, .. } | Stage::Connecting => return false,
        };
        let Some(up) = link_to(around.directory, &gateway) else { return false };
        let (link, Some(next)) = (up.link, step.after(up.profile)) else { return false };
        let Some(dial) = self.dials.get_mut(&id) else { return false };
        let stage = std::mem::replace(&mut dial.stage, Stage::Presenting);
        self.let_go(around, &stage);
        self.take_step(around, id, link, next);
        true
    }

    /// The gateway has answered with a code.
    pub(super) fn asked(
        &mut self,
        around: &mut Surroundings<'_>,
        ask: AskId,
        leg: LegTag,
        code: u8,
    ) -> bool {
        if ask.0 & ASK_MARK == 0 {
            return false;
        }
        let Some(id) = self.asks.remove(&ask) else {
            // The dial is over; so is its session.
            if code == 0 {
                around.command(leg.core, end(leg));
            }
            return false;
        };
        if code != 0 {
            self.step_failed(around, id, DialCause::GatewayRejected { code });
            return true;
        }
        if let Some(conversation) = self.conversation(id) {
            conversation.leg = Some(leg);
            self.legs.insert(leg, id);
        }
        true
    }

    /// The gateway says something.
    pub(super) fn input(
        &mut self,
        around: &mut Surroundings<'_>,
        leg: LegTag,
        bytes: &[u8],
    ) -> bool {
        let Some(id) = self.legs.get(&leg).copied() else { return false };
        let Some(conversation) = self.conversation(id) else { return false };
        conversation.reader.push(bytes);
        let link = conversation.link;
        match conversation.reader.next() {
            Ok(None) => return false,
            Err(_malformed) => self.step_failed(around, id, DialCause::GatewayAnswer),
            Ok(Some(object)) => match parse_socket_object(&object) {
                Ok((socket, nonce)) => self.present(around, id, link, &socket, nonce),
                Err(SocketObjectError::Refused { text }) => {
                    let text = text.chars().take(TEXT_MAX_BYTES).collect();
                    self.step_failed(around, id, DialCause::GatewayRefused { text });
                }
                Err(_malformed) => self.step_failed(around, id, DialCause::GatewayAnswer),
            },
        }
        true
    }

    /// The gateway's session has ended; without an object before, that is its whole answer.
    pub(super) fn session_ended(&mut self, around: &mut Surroundings<'_>, leg: LegTag) -> bool {
        let Some(id) = self.legs.remove(&leg) else { return false };
        let Some(conversation) = self.conversation(id) else { return false };
        conversation.leg = None;
        self.step_failed(around, id, DialCause::GatewayAnswer);
        true
    }

    /// Dials the socket that a gateway named.
    fn present(
        &mut self,
        around: &mut Surroundings<'_>,
        id: DialId,
        link: LinkTag,
        socket: &Endpoint,
        nonce: u64,
    ) {
        let named_by = around.directory.get(link).map(|up| up.remote);
        let address = match socket {
            Endpoint::Tcp(address) if is_dialable(*address, named_by) => *address,
            _ => {
                let socket = socket.clone();
                self.step_failed(around, id, DialCause::GatewaySocket { socket });
                return;
            }
        };
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let stage = std::mem::replace(&mut dial.stage, Stage::Presenting);
        self.let_go(around, &stage);
        let route = Route::GatewaySocket { address, nonce };
        around.actions.push(Action::Connect { dial: id, route });
    }

    fn conversation(&mut self, id: DialId) -> Option<&mut Conversation> {
        match &mut self.dials.get_mut(&id)?.stage {
            Stage::Asking(conversation) => Some(conversation),
            Stage::Connecting | Stage::Presenting | Stage::Handed { .. } => None,
        }
    }

    /// Ends the session of a question and forgets it.
    pub(super) fn end_question(
        &mut self,
        around: &mut Surroundings<'_>,
        conversation: &Conversation,
    ) {
        self.asks.remove(&conversation.ask);
        if let Some(leg) = conversation.leg {
            self.legs.remove(&leg);
            around.command(leg.core, end(leg));
        }
    }

    // Endpoints that wait for a gateway

    /// Lets endpoints through a gateway that has a link now go on, and peers that wait be dialed.
    pub(super) fn gateway_linked(&mut self, now_ns: u64, gateway: &Identity) {
        let leads_through = |endpoint: &Endpoint| match endpoint {
            Endpoint::Gateway { gateway: through, .. } => through == gateway,
            _ => false,
        };
        for race in self.races.values_mut() {
            for ready in race.parked.extract_if(.., |parked| parked.gateway == *gateway) {
                race.queue.push_front(ready.endpoint);
                race.next_start_ns = now_ns;
            }
        }
        for kept in self.kept.values_mut() {
            if kept.due_ns.is_some() && kept.endpoints.iter().any(leads_through) {
                kept.due_ns = Some(now_ns);
            }
        }
    }

    /// Ends the waiting for a gateway whose race had no winner.
    pub(super) fn gateway_failed(&mut self, around: &mut Surroundings<'_>, gateway: &Identity) {
        if link_to(around.directory, gateway).is_none() {
            self.unpark(around, |parked| parked.gateway == *gateway);
        }
    }

    pub(super) fn end_late_parking(&mut self, around: &mut Surroundings<'_>) {
        let now_ns = around.now_ns;
        self.unpark(around, |parked| parked.until_ns <= now_ns);
    }

    fn unpark(&mut self, around: &mut Surroundings<'_>, is_over: impl Fn(&super::Parked) -> bool) {
        let mut failed: Vec<(RaceId, DialError)> = Vec::new();
        for (id, race) in &mut self.races {
            for over in race.parked.extract_if(.., |parked| is_over(parked)) {
                let cause = DialCause::GatewayNotLinked { gateway: over.gateway };
                failed.push((*id, DialError { endpoint: over.endpoint, cause }));
            }
        }
        for (id, error) in failed {
            self.counts.refused_total += 1;
            self.endpoint_failed(around, id, error);
        }
    }
}

/// A link to a gateway that can carry another one: links inside of links inside of links would
/// cost three times the encryption each way.
fn link_to<'a>(directory: &'a Directory, gateway: &Identity) -> Option<&'a LinkUp> {
    directory.best_first(gateway).find(|up| !up.inner)
}

/// Resets a session of our own behind what was sent on it.
fn end(leg: LegTag) -> Command {
    Command::Write { leg, bytes: Box::default(), end: true }
}

/// Whether a gateway may have this address dialed. One that is not on this machine has no business
/// with its loopback addresses.
fn is_dialable(address: SocketAddr, named_by: Option<SocketAddr>) -> bool {
    let ip = address.ip().to_canonical();
    let is_local = named_by.is_some_and(|remote| remote.ip().to_canonical().is_loopback());
    address.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && (!ip.is_loopback() || is_local)
}

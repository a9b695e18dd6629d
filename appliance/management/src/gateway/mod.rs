//! The gateway: registrations, reservations, and which raw sockets belong together.
//!
//! Owned by the node on the management core and called on its thread only. Sans-IO: time and
//! randomness come in as arguments. It must never accept `node_register` or `node_connect` without
//! an object in the same command: a stock caller does not survive that (spec §11.2). Pipes between
//! links are no concern of its own: the node passes their queries on.

pub mod limits;
mod rendezvous;

#[cfg(test)]
mod tests;

pub use limits::GatewayLimits;
pub(crate) use rendezvous::RegistrationChange;
pub use rendezvous::{RegistrationRow, SavedRegistration};

use crate::directory::Directory;
use crate::node::Context;
use crate::node::verdict::{self, Verdict};
use rendezvous::{Presented, Refusal, Rendezvous};
use std::net::SocketAddr;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::{self, GatewaySocket, Visibility};
use waystation_astral::identity::Identity;
use waystation_astral::object::{AnswerObject, Encoding};
use waystation_astral::objects::Empty;
use waystation_engine::control::{Command, Query};
use waystation_relay::drop_reason::{DropCounters, DropReason};
use waystation_relay::ids::{CoreId, SocketTag};

/// What a stock gateway says when there is nothing to unregister (spec §11.2).
const NOT_REGISTERED: &str = "node not registered";

/// The era of every gateway whose operations have channels (spec §11.2), for its error objects.
const ERA: Profile = Profile::P4;

/// A query for one of the gateway's operations.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) query: &'a Query,
    /// In whose name.
    pub(crate) caller: Identity,
    /// How the answer is to be written.
    pub(crate) output: Encoding,
}

/// The state machine behind the gateway's own operations.
#[derive(Debug)]
pub(crate) struct Gateway {
    limits: GatewayLimits,
    rendezvous: Rendezvous,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Totals {
    subscriptions: u64,
    joins: u64,
    reservations_expired: u64,
    registrations_expired: u64,
}

/// How full the tables behind queries are, and what was done with them since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayCounts {
    /// Open links, inner ones included.
    pub links: usize,
    /// Registered nodes.
    pub registrations: usize,
    /// Those among them that `node_list` shows.
    pub registrations_public: usize,
    /// Idle sockets, reserved ones included.
    pub idle_sockets: usize,
    /// Reservations that wait for their caller's socket.
    pub reservations: usize,
    /// Queries remembered to recognise copies of them.
    pub recent_queries: usize,
    /// Subscriptions granted. They leave no state behind (spec §11.1).
    pub subscriptions_total: u64,
    /// Queries offered to a target's link.
    pub offers_total: u64,
    /// Pairs of sockets joined.
    pub joins_total: u64,
    /// Reservations whose caller did not come in time.
    pub reservations_expired_total: u64,
    /// Registrations dropped after their node had been away for too long.
    pub registrations_expired_total: u64,
    /// Queries refused, with a code or in band, and copies forgotten. Sockets that this gateway
    /// tells a core to close are counted by that core.
    pub refusals: DropCounters,
}

impl Gateway {
    /// A gateway without registrations or sockets.
    pub(crate) fn new(limits: GatewayLimits) -> Self {
        Self { limits, rendezvous: Rendezvous::default(), totals: Totals::default() }
    }

    /// What the operator allows it.
    pub(crate) fn limits(&self) -> &GatewayLimits {
        &self.limits
    }

    /// Takes up other limits. What exceeds a lowered one stays until it ends by itself.
    pub(crate) fn set_limits(&mut self, limits: GatewayLimits) {
        self.limits = limits;
    }

    /// Ends reservations and registrations whose time has come. That needs no commands: a reserved
    /// socket goes back to its pool, and a registration ends only without sockets.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        let (reservations, registrations) = self.rendezvous.expire(&self.limits, now_ns);
        self.totals.reservations_expired += reservations;
        self.totals.registrations_expired += registrations;
    }

    /// When [`Self::tick`] next has something to do.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.rendezvous.next_deadline_ns(&self.limits)
    }

    /// All registrations, in order of identity.
    pub(crate) fn registrations(&self) -> impl Iterator<Item = RegistrationRow> {
        self.rendezvous.rows()
    }

    /// All registrations in the form that [`Self::restore`] takes, to be kept over a restart.
    pub(crate) fn saved_registrations(&self) -> impl Iterator<Item = SavedRegistration> {
        self.rendezvous.saved()
    }

    /// Brings back a registration of an earlier run; see [`crate::node::Node::restore`].
    pub(crate) fn restore(&mut self, now_ns: u64, saved: SavedRegistration, linked: bool) -> bool {
        self.limits.enabled && self.rendezvous.restore(&self.limits, now_ns, saved, linked)
    }

    /// Takes what became of registrations since the last call.
    pub(crate) fn take_changes(&mut self) -> impl Iterator<Item = RegistrationChange> {
        self.rendezvous.take_changes()
    }

    /// How full the tables are, and totals since the start; what is the node's is left at zero.
    pub(crate) fn counts(&self) -> GatewayCounts {
        let [registrations, registrations_public, idle_sockets, reservations] =
            self.rendezvous.sizes();
        GatewayCounts {
            registrations,
            registrations_public,
            idle_sockets,
            reservations,
            subscriptions_total: self.totals.subscriptions,
            joins_total: self.totals.joins,
            reservations_expired_total: self.totals.reservations_expired,
            registrations_expired_total: self.totals.registrations_expired,
            ..GatewayCounts::default()
        }
    }

    /// Notes whether a node has a link.
    pub(crate) fn set_linked(&mut self, now_ns: u64, identity: Identity, linked: bool) {
        self.rendezvous.set_linked(now_ns, identity, linked);
    }

    /// Forgets a raw socket that has ended.
    pub(crate) fn socket_closed(&mut self, now_ns: u64, socket: SocketTag) {
        self.rendezvous.closed(now_ns, socket);
    }

    /// Says what becomes of a raw socket that presented a nonce.
    ///
    /// A socket kept may push out another; each was reported once and is closed once.
    pub(crate) fn socket_presented(
        &mut self,
        context: &mut Context<'_>,
        socket: SocketTag,
        nonce: u64,
        out: &mut Vec<(CoreId, Command)>,
    ) {
        let close =
            |socket: SocketTag, reason| (socket.core, Command::CloseSocket { socket, reason });
        match self.rendezvous.present(&self.limits, context.now_ns, socket, nonce) {
            Presented::Kept => out.push((socket.core, Command::KeepIdle { socket })),
            Presented::KeptInsteadOf(surplus) => {
                out.push((socket.core, Command::KeepIdle { socket }));
                out.push(close(surplus, DropReason::TooManyConnections));
            }
            Presented::Surplus => out.push(close(socket, DropReason::TooManyConnections)),
            Presented::Join { idle, caller, target } => {
                self.totals.joins += 1;
                let join = Command::JoinSockets {
                    caller: socket,
                    idle,
                    caller_quota: (context.quota_of)(&caller),
                    idle_quota: (context.quota_of)(&target),
                };
                out.push((socket.core, join));
            }
            Presented::Unknown => out.push(close(socket, DropReason::SocketNonceUnknown)),
            Presented::Repeated => {}
        }
    }

    /// Registers the caller, or changes how it is listed.
    pub(crate) fn register(
        &mut self,
        context: &mut Context<'_>,
        directory: &Directory,
        asked: &Asked<'_>,
        visibility: Visibility,
    ) -> Verdict {
        // The address on an inner link is that of whoever carries it, and idle sockets must be
        // dialed there, so only a link of the node's own will do. A late P2 node asks on all its
        // links, inner ones too, and only the first copy counts.
        let Some(address) = self.socket_address(directory, asked.query) else {
            return Verdict::Reject(DropReason::QueryUnauthorized);
        };
        let linked = directory.is_linked(&asked.caller);
        let registered = self.rendezvous.register(
            &self.limits,
            context.now_ns,
            asked.caller,
            visibility,
            linked,
            context.random,
        );
        match registered {
            Ok(nonce) => socket_answer(address, nonce, asked.output),
            Err(refusal) => refuse(refusal, asked.output),
        }
    }

    /// Ends the caller's registration; its idle sockets are closed.
    pub(crate) fn unregister(&mut self, asked: &Asked<'_>) -> Verdict {
        // Before anything is changed: what cannot be answered must not be done.
        let Some(ack) = verdict::bytes_of(asked.output, &[&Empty::Ack]) else {
            return Verdict::Reject(DropReason::MalformedQuery);
        };
        match self.rendezvous.unregister(&asked.caller) {
            Some(sockets) => Verdict::Unregistered(ack, sockets),
            None => {
                let reason = DropReason::TargetNotReachable;
                verdict::refuse(reason, asked.output, ERA, NOT_REGISTERED)
            }
        }
    }

    /// Lists public registrations.
    pub(crate) fn list(&mut self, output: Encoding) -> Verdict {
        let listed = self.rendezvous.next_listing();
        let objects = listed.iter().map(|identity| identity as &dyn AnswerObject);
        let objects: Vec<_> = objects.chain([&Empty::Eos as &dyn AnswerObject]).collect();
        verdict::answer(output, &objects)
    }

    /// Reserves an idle socket. Failures are told in band, as a stock gateway does, and the caller
    /// then tries `node_route` (spec §11.2, step 5).
    pub(crate) fn connect(
        &mut self,
        context: &mut Context<'_>,
        directory: &Directory,
        asked: &Asked<'_>,
        target: Identity,
    ) -> Verdict {
        let Asked { query, caller, .. } = *asked;
        let address = self.socket_address(directory, query).unwrap_or(query.local);
        let reserved =
            self.rendezvous.reserve(&self.limits, context.now_ns, caller, target, context.random);
        match reserved {
            Ok(nonce) => socket_answer(address, nonce, asked.output),
            Err(refusal) => refuse(refusal, asked.output),
        }
    }

    /// Grants a subscription, which leaves no state behind (spec §11.1).
    pub(crate) fn subscribe(&mut self, context: &Context<'_>) -> Verdict {
        self.totals.subscriptions += 1;
        let expires_at_s = context.unix_now_s.saturating_add(self.limits.subscription_lifetime_s);
        Verdict::Answer(gateway::subscription_reply(expires_at_s))
    }

    /// Where the caller is to dial the socket port: the announced address, or the one it dialed for
    /// its link. `None` for a caller with nothing but inner links.
    fn socket_address(&self, directory: &Directory, query: &Query) -> Option<SocketAddr> {
        let own = || match query.inner {
            false => Some(query.local),
            true => directory.pick(&query.caller).filter(|up| !up.inner).map(|up| up.local),
        };
        let own = own()?;
        Some(self.limits.announce.unwrap_or(own))
    }
}

fn refuse(refusal: Refusal, output: Encoding) -> Verdict {
    let reason = match refusal {
        Refusal::NotReachable => DropReason::TargetNotReachable,
        Refusal::TooManyRegistrations | Refusal::TooManyReservations | Refusal::NoNonce => {
            DropReason::ManagementBusy
        }
    };
    verdict::refuse(reason, output, ERA, &refusal.to_string())
}

fn socket_answer(address: SocketAddr, nonce: u64, output: Encoding) -> Verdict {
    verdict::answer(output, &[&GatewaySocket { endpoint: Endpoint::Tcp(address), nonce }])
}

//! The gateway: decides every query that data cores cannot answer themselves, and which raw
//! sockets belong together.
//!
//! Owned by the management core and called on its thread only, with one report at a time; it
//! answers with commands. Sans-IO: time and randomness come in as arguments. It must never leave a
//! query without a verdict, and never accept `node_register` or `node_connect` without an object in
//! the same command: a stock caller does not survive that (spec §11.2).

pub mod limits;
mod recent;
mod rendezvous;

#[cfg(test)]
mod tests;

pub use limits::GatewayLimits;
pub use rendezvous::{RegistrationRow, SavedRegistration};

use crate::directory::Directory;
use recent::RecentQueries;
use rendezvous::{Presented, Refusal, Rendezvous};
use std::net::SocketAddr;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::{self, GatewayOperation, Visibility};
use waystation_astral::identity::Identity;
use waystation_astral::object;
use waystation_engine::control::{Command, LinkUp, Query, Report};
use waystation_relay::drop_reason::{DropCounters, DropReason};
use waystation_relay::ids::{CoreId, LinkTag, SocketTag};

/// The only code a rejected gateway query gets: "rejected" in every era (spec §8.4).
const REJECTED: u8 = 1;

/// What a stock gateway says when there is nothing to unregister (spec §11.2).
const NOT_REGISTERED: &str = "node not registered";

/// The state machine behind all gateway operations.
#[derive(Debug)]
pub struct Gateway {
    identity: Identity,
    limits: GatewayLimits,
    directory: Directory,
    rendezvous: Rendezvous,
    recent: RecentQueries,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Totals {
    subscriptions: u64,
    offers: u64,
    joins: u64,
    reservations_expired: u64,
    registrations_expired: u64,
    refusals: DropCounters,
}

/// How full the gateway is, and what it has done since it started.
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

/// What happens to a query. There is exactly one for each.
enum Verdict {
    /// Code 1.
    Reject(DropReason),
    /// Accepted, with an `error_message`.
    Refuse(DropReason, String),
    /// Accepted, with these bytes.
    Answer(Vec<u8>),
    /// Accepted, with an `ack`, and these sockets have no purpose any more.
    Unregistered(Vec<SocketTag>),
    /// Passed on as it is.
    Offer(LinkTag),
    /// Accepted; the session becomes a link to this node.
    Inside,
    /// A copy: no answer.
    Forget,
}

impl Verdict {
    fn refuse(refusal: Refusal) -> Self {
        let reason = match refusal {
            Refusal::NotReachable => DropReason::TargetNotReachable,
            Refusal::TooManyRegistrations | Refusal::TooManyReservations | Refusal::NoNonce => {
                DropReason::ManagementBusy
            }
        };
        Self::Refuse(reason, refusal.to_string())
    }
}

/// Time and randomness of one report.
struct Moment<'a> {
    now_ns: u64,
    unix_now_s: u64,
    random: &'a mut dyn FnMut() -> u64,
}

impl Gateway {
    /// A gateway without links, registrations or sockets. `identity` is this node's own.
    pub fn new(identity: Identity, limits: GatewayLimits) -> Self {
        let recent = RecentQueries::new(limits.recent_queries_max);
        Self {
            identity,
            limits,
            directory: Directory::default(),
            rendezvous: Rendezvous::default(),
            recent,
            totals: Totals::default(),
        }
    }

    /// Takes one report and appends the commands it causes, each with the core to send it to.
    ///
    /// Reports of one core must come in the order it sent them. A report causes one command at
    /// most, with two exceptions: unregistering closes the node's idle sockets, and a socket kept
    /// may push out another; each of those sockets was reported once and is closed once. Reports
    /// that are no concern of the gateway are ignored. `random` gives 64 unpredictable bits.
    pub fn report(
        &mut self,
        now_ns: u64,
        unix_now_s: u64,
        random: &mut dyn FnMut() -> u64,
        report: &Report,
        out: &mut Vec<(CoreId, Command)>,
    ) {
        self.tick(now_ns);
        match report {
            Report::LinkUp(up) => self.link_up(now_ns, up),
            Report::LinkDown { link, identity, .. } => self.link_down(now_ns, *link, *identity),
            Report::Query(query) => {
                let mut moment = Moment { now_ns, unix_now_s, random };
                let verdict = self.decide(&mut moment, query);
                self.carry_out(verdict, query, out);
            }
            Report::SocketPresented { socket, nonce, .. } => {
                self.socket_presented(now_ns, *socket, *nonce, out);
            }
            Report::SocketClosed { socket, .. } => self.rendezvous.closed(now_ns, *socket),
            // The verdict was given as the query came in; its nonce stays known, for copies of it.
            // An idle socket whose joining failed left the tables with its reservation; the
            // runtime closes it, and its node dials again at once.
            Report::QueryCancelled { .. }
            | Report::JoinFailed { .. }
            | Report::HandshakeFailed { .. }
            | Report::Statistics(_)
            | Report::Listing { .. }
            | Report::Incident { .. }
            | Report::Asked { .. }
            | Report::Input { .. }
            | Report::SessionEnded { .. }
            | Report::Adopted { .. }
            | Report::DialFailed { .. }
            | Report::Stopped { .. } => {}
        }
    }

    /// Ends reservations and registrations whose time has come. That needs no commands: a reserved
    /// socket goes back to its pool, and a registration ends only without sockets.
    pub fn tick(&mut self, now_ns: u64) {
        let (reservations, registrations) = self.rendezvous.expire(&self.limits, now_ns);
        self.totals.reservations_expired += reservations;
        self.totals.registrations_expired += registrations;
    }

    /// When [`Self::tick`] next has something to do.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.rendezvous.next_deadline_ns(&self.limits)
    }

    /// The open links.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// All registrations, in order of identity.
    pub fn registrations(&self) -> impl Iterator<Item = RegistrationRow> {
        self.rendezvous.rows()
    }

    /// All registrations in the form that [`Self::restore`] takes, to be kept over a restart.
    pub fn saved_registrations(&self) -> impl Iterator<Item = SavedRegistration> {
        self.rendezvous.saved()
    }

    /// Brings back a registration of an earlier run. `false` if the identity or the nonce is taken
    /// or unusable, the table is full, or the gateway is disabled.
    ///
    /// A stock node whose gateway restarted goes on dialing with its old nonce and does not
    /// register again as long as the dialing succeeds (spec §11.2, traps b and c).
    pub fn restore(&mut self, now_ns: u64, saved: SavedRegistration) -> bool {
        let linked = self.directory.is_linked(&saved.identity);
        self.limits.enabled && self.rendezvous.restore(&self.limits, now_ns, saved, linked)
    }

    /// How full the tables are, and totals since the start.
    pub fn counts(&self) -> GatewayCounts {
        let [registrations, registrations_public, idle_sockets, reservations] =
            self.rendezvous.sizes();
        GatewayCounts {
            links: self.directory.len(),
            registrations,
            registrations_public,
            idle_sockets,
            reservations,
            recent_queries: self.recent.len(),
            subscriptions_total: self.totals.subscriptions,
            offers_total: self.totals.offers,
            joins_total: self.totals.joins,
            reservations_expired_total: self.totals.reservations_expired,
            registrations_expired_total: self.totals.registrations_expired,
            refusals: self.totals.refusals.clone(),
        }
    }

    fn link_up(&mut self, now_ns: u64, up: &LinkUp) {
        if let Some(replaced) = self.directory.link_up(up) {
            self.note_links(now_ns, replaced.identity);
        }
        self.note_links(now_ns, up.identity);
    }

    fn link_down(&mut self, now_ns: u64, link: LinkTag, identity: Identity) {
        self.directory.link_down(link);
        self.note_links(now_ns, identity);
    }

    fn note_links(&mut self, now_ns: u64, identity: Identity) {
        let linked = self.directory.is_linked(&identity);
        self.rendezvous.set_linked(now_ns, identity, linked);
    }

    fn socket_presented(
        &mut self,
        now_ns: u64,
        socket: SocketTag,
        nonce: u64,
        out: &mut Vec<(CoreId, Command)>,
    ) {
        let close =
            |socket: SocketTag, reason| (socket.core, Command::CloseSocket { socket, reason });
        match self.rendezvous.present(&self.limits, now_ns, socket, nonce) {
            Presented::Kept => out.push((socket.core, Command::KeepIdle { socket })),
            Presented::KeptInsteadOf(surplus) => {
                out.push((socket.core, Command::KeepIdle { socket }));
                out.push(close(surplus, DropReason::TooManyConnections));
            }
            Presented::Surplus => out.push(close(socket, DropReason::TooManyConnections)),
            Presented::Join { idle } => {
                self.totals.joins += 1;
                out.push((
                    socket.core,
                    Command::JoinSockets {
                        caller: socket,
                        idle,
                        caller_quota: None,
                        idle_quota: None,
                    },
                ));
            }
            Presented::Unknown => out.push(close(socket, DropReason::SocketNonceUnknown)),
            Presented::Repeated => {}
        }
    }

    fn decide(&mut self, moment: &mut Moment<'_>, query: &Query) -> Verdict {
        if self.is_copy(moment.now_ns, query) {
            return Verdict::Forget;
        }
        let operation = match gateway::parse(&query.query) {
            Some(operation) if self.limits.enabled => operation,
            _ => return Verdict::Reject(DropReason::UnknownQuery),
        };
        match operation {
            // Code 1 where a stock node would accept and send an error object: as safe for the
            // caller, and it says so at once (spec §8.3).
            Err(_) => Verdict::Reject(DropReason::MalformedQuery),
            Ok(GatewayOperation::Register { visibility }) => {
                self.register(moment, query, visibility)
            }
            Ok(GatewayOperation::Unregister) => self.unregister(query),
            Ok(GatewayOperation::List) => self.list(),
            Ok(GatewayOperation::Connect { target }) => self.connect(moment, query, target),
            Ok(GatewayOperation::Route { target } | GatewayOperation::Forward { target }) => {
                self.route(query, &target)
            }
            Ok(GatewayOperation::Subscribe) => self.subscribe(moment),
        }
    }

    /// Writes the one command a query's verdict amounts to, and what else it entails.
    fn carry_out(&mut self, verdict: Verdict, query: &Query, out: &mut Vec<(CoreId, Command)>) {
        let leg = query.leg;
        match verdict {
            Verdict::Reject(reason) => {
                self.totals.refusals.count(reason, 0);
                out.push((leg.core, Command::Reject { leg, code: REJECTED }));
            }
            Verdict::Refuse(reason, text) => {
                self.totals.refusals.count(reason, 0);
                let bytes = object::error_message(&text).into();
                out.push((leg.core, Command::Answer { leg, bytes }));
            }
            Verdict::Answer(bytes) => {
                out.push((leg.core, Command::Answer { leg, bytes: bytes.into() }));
            }
            Verdict::Unregistered(sockets) => {
                let bytes = object::ack().into();
                out.push((leg.core, Command::Answer { leg, bytes }));
                // To these sockets their nonce is now a void one.
                let reason = DropReason::SocketNonceUnknown;
                let close =
                    |socket: SocketTag| (socket.core, Command::CloseSocket { socket, reason });
                out.extend(sockets.into_iter().map(close));
            }
            Verdict::Offer(target) => {
                self.totals.offers += 1;
                let query = query.query.clone();
                out.push((
                    target.core,
                    Command::Offer { caller: leg, target, query, relayed: None, pace: None },
                ));
            }
            Verdict::Inside => out.push((leg.core, Command::TerminateInside { leg })),
            Verdict::Forget => {
                self.totals.refusals.count(DropReason::DuplicateNonce, 0);
                out.push((leg.core, Command::Forget { leg }));
            }
        }
    }

    /// P4 peers use one link for one query; their nonces mean nothing on another link (spec §9.2).
    fn is_copy(&mut self, now_ns: u64, query: &Query) -> bool {
        let directory = &self.directory;
        query.profile != Profile::P4
            && self.recent.is_copy(now_ns, query.caller, query.nonce, query.link, |link| {
                directory.get(link).is_some()
            })
    }

    fn register(
        &mut self,
        moment: &mut Moment<'_>,
        query: &Query,
        visibility: Visibility,
    ) -> Verdict {
        // The address on an inner link is that of whoever carries it, and idle sockets must be
        // dialed there, so only a link of the node's own will do. A late P2 node asks on all its
        // links, inner ones too, and only the first copy counts.
        let Some(address) = self.socket_address(query) else {
            return Verdict::Reject(DropReason::QueryUnauthorized);
        };
        let linked = self.directory.is_linked(&query.caller);
        let registered = self.rendezvous.register(
            &self.limits,
            moment.now_ns,
            query.caller,
            visibility,
            linked,
            moment.random,
        );
        match registered {
            Ok(nonce) => socket_answer(address, nonce),
            Err(refusal) => Verdict::refuse(refusal),
        }
    }

    fn unregister(&mut self, query: &Query) -> Verdict {
        match self.rendezvous.unregister(&query.caller) {
            Some(sockets) => Verdict::Unregistered(sockets),
            None => Verdict::Refuse(DropReason::TargetNotReachable, NOT_REGISTERED.to_owned()),
        }
    }

    fn list(&mut self) -> Verdict {
        let mut bytes = Vec::new();
        for identity in self.rendezvous.next_listing() {
            bytes.extend(object::identity(&identity));
        }
        bytes.extend(object::eos());
        Verdict::Answer(bytes)
    }

    /// Reserves an idle socket. Failures are told in band, as a stock gateway does, and the caller
    /// then tries `node_route` (spec §11.2, step 5).
    fn connect(&mut self, moment: &mut Moment<'_>, query: &Query, target: Identity) -> Verdict {
        let address = self.socket_address(query).unwrap_or(query.local);
        let reserved = self.rendezvous.reserve(
            &self.limits,
            moment.now_ns,
            query.caller,
            target,
            moment.random,
        );
        match reserved {
            Ok(nonce) => socket_answer(address, nonce),
            Err(refusal) => Verdict::refuse(refusal),
        }
    }

    /// Asks the target before the caller gets an answer, so that every failure is a code. A caller
    /// that asks for its own identity gets another of its links, or code 1: offered on the asking
    /// link, the query would come back to where it came from.
    fn route(&mut self, query: &Query, target: &Identity) -> Verdict {
        if *target == self.identity {
            // A link inside a link inside a link would cost three times the encryption each way.
            return match query.inner {
                true => Verdict::Reject(DropReason::TargetNotReachable),
                false => Verdict::Inside,
            };
        }
        match self.directory.pick_other(target, query.link) {
            Some(up) => Verdict::Offer(up.link),
            None => Verdict::Reject(DropReason::TargetNotReachable),
        }
    }

    fn subscribe(&mut self, moment: &Moment<'_>) -> Verdict {
        self.totals.subscriptions += 1;
        let expires_at_s = moment.unix_now_s.saturating_add(self.limits.subscription_lifetime_s);
        Verdict::Answer(gateway::subscription_reply(expires_at_s))
    }

    /// Where the caller is to dial the socket port: the announced address, or the one it dialed for
    /// its link. `None` for a caller with nothing but inner links.
    fn socket_address(&self, query: &Query) -> Option<SocketAddr> {
        let own = || match query.inner {
            false => Some(query.local),
            true => self.directory.pick(&query.caller).filter(|up| !up.inner).map(|up| up.local),
        };
        let own = own()?;
        Some(self.limits.announce.unwrap_or(own))
    }
}

fn socket_answer(address: SocketAddr, nonce: u64) -> Verdict {
    Verdict::Answer(gateway::socket_object(&Endpoint::Tcp(address), nonce))
}

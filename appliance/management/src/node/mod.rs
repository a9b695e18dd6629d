//! The node: decides every query that data cores cannot answer themselves, and keeps count of what
//! the decisions rest on: links, registrations, preparations, pending answers.
//!
//! Owned by the management core and called on its thread only, with one report at a time; it
//! answers with commands and collects events. Sans-IO: time, randomness and quotas come in as
//! arguments. It must never leave a query without a verdict.

#[cfg(test)]
pub(crate) mod bench;
mod events;
pub mod limits;
mod migrating;
mod recent;
mod relaying;
mod settings;
pub(crate) mod verdict;

#[cfg(test)]
mod tests;

pub use events::{NodeEvent, UnregisteredBecause};
pub use relaying::RelayPolicy;
pub use settings::NodeSettings;

use crate::directory::Directory;
use crate::gateway::{
    Gateway, GatewayCounts, RegistrationChange, RegistrationRow, SavedRegistration,
};
use events::Events;
use migrating::{Channel, Migrating};
use recent::RecentQueries;
use relaying::{PreparationError, Relaying};
use std::sync::Arc;
use verdict::{Offer, Verdict};
use waystation_astral::frame::Profile;
use waystation_astral::gateway::GatewayOperation;
use waystation_astral::identity::Identity;
use waystation_astral::objects::Ack;
use waystation_astral::operations::{self, Operation, OperationError, Request};
use waystation_engine::control::{Command, LinkTotals, LinkUp, Query, Report};
use waystation_relay::drop_reason::{DropCounters, DropReason};
use waystation_relay::ids::{CoreId, LinkTag};
use waystation_relay::quota::Quota;
use waystation_relay::switch::Relayed;

/// What the world is like as the node is called.
pub struct Context<'a> {
    /// The monotonic clock.
    pub now_ns: u64,
    /// Seconds since the Unix epoch, for what peers are told.
    pub unix_now_s: u64,
    /// Gives 64 unpredictable bits.
    pub random: &'a mut dyn FnMut() -> u64,
    /// Finds the account that an identity's sessions count against.
    pub quota_of: &'a mut dyn FnMut(&Identity) -> Option<Arc<Quota>>,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("now_ns", &self.now_ns).finish_non_exhaustive()
    }
}

/// What the node has done with queries since it started, beyond the gateway's own operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryCounts {
    /// Prepared by `nodes.relay`, and not yet here.
    pub prepared: usize,
    /// Prepared, and never seen.
    pub preparations_expired_total: u64,
    /// Offered to their target's link in the name of a caller.
    pub relayed_total: u64,
    /// Offered to another gateway, because their target has no link here.
    pub forwarded_total: u64,
    /// Sessions that their peers have moved to another link.
    pub migrated_total: u64,
}

#[derive(Debug, Default)]
struct Totals {
    offers: u64,
    relayed: u64,
    forwarded: u64,
}

/// The state machine behind all queries to this node.
#[derive(Debug)]
pub struct Node {
    identity: Identity,
    directory: Directory,
    recent: RecentQueries,
    gateway: Gateway,
    relaying: Relaying,
    migrating: Migrating,
    events: Events,
    totals: Totals,
    refusals: DropCounters,
}

impl Node {
    /// A node without links, registrations or sockets. `identity` is this node's own.
    pub fn new(identity: Identity, settings: NodeSettings) -> Self {
        Self {
            identity,
            directory: Directory::default(),
            recent: RecentQueries::new(settings.gateway.recent_queries_max),
            gateway: Gateway::new(settings.gateway),
            relaying: Relaying::new(settings.relay),
            migrating: Migrating::default(),
            events: Events::default(),
            totals: Totals::default(),
            refusals: DropCounters::default(),
        }
    }

    /// Takes one report and appends the commands it causes, each with the core to send it to.
    ///
    /// Reports of one core must come in the order it sent them. A query causes exactly one command
    /// that answers it; unregistering also closes the node's idle sockets. Reports that are no
    /// concern of the node are ignored.
    pub fn report(
        &mut self,
        context: &mut Context<'_>,
        report: &Report,
        out: &mut Vec<(CoreId, Command)>,
    ) {
        self.tick(context.now_ns, out);
        let now_ns = context.now_ns;
        match report {
            Report::LinkUp(up) => self.link_up(now_ns, up),
            Report::LinkDown { link, identity, reason, totals } => {
                self.link_down(now_ns, *link, *identity, (*reason, *totals));
            }
            Report::Query(query) => self.on_query(context, query, out),
            Report::SocketPresented { socket, nonce, .. } => {
                self.gateway.socket_presented(context, *socket, *nonce, out);
            }
            Report::Input { leg, bytes } => {
                self.migrating.input(*leg, bytes, out);
            }
            Report::SessionEnded { leg } => {
                self.migrating.ended(*leg, out);
            }
            Report::Migration { operation, step } => self.migrating.step(*operation, *step, out),
            Report::SocketClosed { socket, .. } => self.gateway.socket_closed(now_ns, *socket),
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
            | Report::Adopted { .. }
            | Report::DialFailed { .. }
            | Report::Stopped { .. } => {}
        }
        self.note_registrations();
    }

    /// Ends what is due.
    pub fn tick(&mut self, now_ns: u64, out: &mut Vec<(CoreId, Command)>) {
        self.gateway.tick(now_ns);
        self.relaying.expire(now_ns);
        self.migrating.tick(now_ns, out);
        self.note_registrations();
    }

    /// When [`Self::tick`] next has something to do.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let deadlines = [
            self.gateway.next_deadline_ns(),
            self.relaying.next_deadline_ns(),
            self.migrating.next_deadline_ns(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// This node's own identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The open links.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Takes the events since the last call, oldest first.
    pub fn take_events(&mut self) -> impl Iterator<Item = NodeEvent> {
        self.events.take()
    }

    /// Events that were not taken in time, since the start.
    pub fn events_lost(&self) -> u64 {
        self.events.lost()
    }

    /// Takes up other settings, for queries that come from now on. What exceeds a lowered limit of
    /// the gateway stays until it ends by itself; the number of queries remembered stays as it was.
    pub fn set_settings(&mut self, settings: NodeSettings) {
        self.gateway.set_limits(settings.gateway);
        self.relaying.policy = settings.relay;
    }

    /// All registrations, in order of identity.
    pub fn registrations(&self) -> impl Iterator<Item = RegistrationRow> {
        self.gateway.registrations()
    }

    /// All registrations in the form that [`Self::restore`] takes, to be kept over a restart.
    pub fn saved_registrations(&self) -> impl Iterator<Item = SavedRegistration> {
        self.gateway.saved_registrations()
    }

    /// Brings back a registration of an earlier run. `false` if the identity or the nonce is taken
    /// or unusable, the table is full, or the gateway is disabled.
    ///
    /// A stock node whose gateway restarted goes on dialing with its old nonce and does not
    /// register again as long as the dialing succeeds (spec §11.2, traps b and c).
    pub fn restore(&mut self, now_ns: u64, saved: SavedRegistration) -> bool {
        let linked = self.directory.is_linked(&saved.identity);
        let restored = self.gateway.restore(now_ns, saved, linked);
        self.note_registrations();
        restored
    }

    /// How full the tables are, and totals since the start.
    pub fn counts(&self) -> GatewayCounts {
        GatewayCounts {
            links: self.directory.len(),
            recent_queries: self.recent.len(),
            offers_total: self.totals.offers,
            refusals: self.refusals.clone(),
            ..self.gateway.counts()
        }
    }

    /// What was done with queries that are none of the gateway's.
    pub fn query_counts(&self) -> QueryCounts {
        let (prepared, preparations_expired_total) = self.relaying.counts();
        QueryCounts {
            prepared,
            preparations_expired_total,
            relayed_total: self.totals.relayed,
            forwarded_total: self.totals.forwarded,
            migrated_total: self.migrating.done(),
        }
    }

    // Links and registrations

    fn link_up(&mut self, now_ns: u64, up: &LinkUp) {
        if self.directory.get(up.link).is_some() {
            return;
        }
        let was_linked = self.directory.is_linked(&up.identity);
        if let Some(replaced) = self.directory.link_up(up) {
            self.note_link_down(now_ns, replaced.link, replaced.identity, <_>::default());
        }
        self.gateway.set_linked(now_ns, up.identity, true);
        if !was_linked {
            self.events.push(NodeEvent::Linked { identity: up.identity });
        }
        self.events.push(NodeEvent::LinkUp(up.clone()));
    }

    fn link_down(
        &mut self,
        now_ns: u64,
        link: LinkTag,
        identity: Identity,
        ending: (Option<DropReason>, LinkTotals),
    ) {
        if self.directory.link_down(link).is_some() {
            self.note_link_down(now_ns, link, identity, ending);
        }
    }

    fn note_link_down(
        &mut self,
        now_ns: u64,
        link: LinkTag,
        identity: Identity,
        (reason, totals): (Option<DropReason>, LinkTotals),
    ) {
        let linked = self.directory.is_linked(&identity);
        self.gateway.set_linked(now_ns, identity, linked);
        self.events.push(NodeEvent::LinkDown { link, identity, reason, totals });
        if !linked {
            self.events.push(NodeEvent::Unlinked { identity });
        }
    }

    fn note_registrations(&mut self) {
        for change in self.gateway.take_changes() {
            self.events.push(match change {
                RegistrationChange::Added { identity, is_public } => {
                    NodeEvent::Registered { identity, is_public }
                }
                RegistrationChange::Ended { identity, because } => {
                    NodeEvent::Unregistered { identity, because }
                }
            });
        }
    }

    // Queries

    fn on_query(
        &mut self,
        context: &mut Context<'_>,
        query: &Query,
        out: &mut Vec<(CoreId, Command)>,
    ) {
        let verdict = self.decide(context, query);
        if let Some(reason) = verdict.refusal() {
            self.refusals.count(reason, 0);
        }
        verdict.carry_out(query, out);
    }

    fn decide(&mut self, context: &mut Context<'_>, query: &Query) -> Verdict {
        if self.is_copy(context.now_ns, query) {
            return Verdict::Forget;
        }
        let relayed = match self.relaying.resolve(self.identity, query) {
            Ok(relayed) => relayed,
            Err(reason) => return Verdict::Reject(reason),
        };
        if relayed.target == self.identity {
            return self.serve(context, query, relayed.caller);
        }
        self.relay(context, query, relayed)
    }

    /// A query for this node itself.
    fn serve(&mut self, context: &mut Context<'_>, query: &Query, caller: Identity) -> Verdict {
        let request = match operations::parse(&query.query, query.profile) {
            Ok(request) => request,
            Err(error) => return Verdict::Reject(self.fault(&error)),
        };
        match request.operation {
            Operation::Gateway(operation) if self.gateway.limits().enabled => {
                self.decide_gateway(context, query, caller, operation)
            }
            // Only a peer itself prepares queries, and P4 has a frame for what this is about.
            Operation::Relay { nonce, set_caller, set_target }
                if caller == query.caller && query.profile != Profile::P4 =>
            {
                self.prepare(context.now_ns, query, &request, (nonce, set_caller, set_target))
            }
            Operation::MigrateSession { link_id, session_id } => {
                self.migrate(context.now_ns, query, &request, (link_id, session_id))
            }
            Operation::Gateway(_)
            | Operation::Profile
            | Operation::Links
            | Operation::Streams
            | Operation::Sessions
            | Operation::ResolveEndpoints { .. }
            | Operation::Relay { .. }
            | Operation::DiscoverServices
            | Operation::Push { .. } => Verdict::Reject(DropReason::UnknownQuery),
        }
    }

    /// Remembers in whose name and for whom the query with this nonce will be (spec §10.1).
    fn prepare(
        &mut self,
        now_ns: u64,
        query: &Query,
        request: &Request,
        (nonce, caller, target): (u64, Option<Identity>, Option<Identity>),
    ) -> Verdict {
        let output = request.output;
        match self.relaying.prepare(now_ns, query.caller, nonce, caller, target) {
            Ok(()) => verdict::answer(output, &[&Ack]),
            Err(error) => {
                let reason = match error {
                    PreparationError::Unauthorized => DropReason::QueryUnauthorized,
                    PreparationError::TooMany => DropReason::ManagementBusy,
                };
                verdict::refuse(reason, output, query.profile, &error.to_string())
            }
        }
    }

    fn migrate(
        &mut self,
        now_ns: u64,
        query: &Query,
        request: &Request,
        link_and_session: (u64, u64),
    ) -> Verdict {
        let Some(input) = request.input.channel_form() else {
            return Verdict::Reject(DropReason::MalformedQuery);
        };
        let channel = Channel { input, output: request.output };
        match self.migrating.ask(now_ns, &self.directory, query, link_and_session, channel) {
            Ok(input_max_bytes) => Verdict::Accept { input_max_bytes },
            Err(reason) => Verdict::Reject(reason),
        }
    }

    /// What is wrong with a query that is no request: code 1 where a stock node may accept and send
    /// an error object. It is as safe for the caller, and says so at once (spec §8.3).
    fn fault(&self, error: &OperationError) -> DropReason {
        let disabled = !self.gateway.limits().enabled;
        match error {
            OperationError::Unknown => DropReason::UnknownQuery,
            OperationError::Gateway(_) if disabled => DropReason::UnknownQuery,
            _ => DropReason::MalformedQuery,
        }
    }

    fn decide_gateway(
        &mut self,
        context: &mut Context<'_>,
        query: &Query,
        caller: Identity,
        operation: GatewayOperation,
    ) -> Verdict {
        let (gateway, directory) = (&mut self.gateway, &self.directory);
        match operation {
            GatewayOperation::Register { visibility } => {
                gateway.register(context, directory, query, caller, visibility)
            }
            GatewayOperation::Unregister => gateway.unregister(&caller),
            GatewayOperation::List => gateway.list(),
            GatewayOperation::Connect { target } => {
                gateway.connect(context, directory, query, caller, target)
            }
            GatewayOperation::Route { target } | GatewayOperation::Forward { target } => {
                self.route(context, query, &target)
            }
            GatewayOperation::Subscribe => gateway.subscribe(context),
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

    /// Asks the target before the caller gets an answer, so that every failure is a code. A caller
    /// that asks for its own identity gets another of its links, or code 1: offered on the asking
    /// link, the query would come back to where it came from.
    fn route(&mut self, context: &mut Context<'_>, query: &Query, target: &Identity) -> Verdict {
        if *target == self.identity {
            // A link inside a link inside a link would cost three times the encryption each way.
            return match query.inner {
                true => Verdict::Reject(DropReason::TargetNotReachable),
                false => Verdict::Inside,
            };
        }
        let here = self.directory.pick_other(target, query.link);
        let Some(up) = here.or_else(|| self.next_gateway(query, |_| true)).cloned() else {
            return Verdict::Reject(DropReason::TargetNotReachable);
        };
        self.offer(context, query, &up, Relayed { caller: query.caller, target: *target }, None)
    }

    /// Passes a query on to its target, or to a gateway that may know it (spec §10.3). The answer
    /// comes from there, so that its code is that of the target.
    fn relay(&mut self, context: &mut Context<'_>, query: &Query, relayed: Relayed) -> Verdict {
        let here = self.directory.pick_other(&relayed.target, query.link);
        // Only P4 has a frame that says for whom a query is.
        let says_target = |up: &LinkUp| up.profile == Profile::P4;
        let Some(up) = here.or_else(|| self.next_gateway(query, says_target)).cloned() else {
            return Verdict::Reject(DropReason::TargetNotReachable);
        };
        self.offer(context, query, &up, relayed, Some(relayed))
    }

    /// The best link to the first gateway that queries for strangers go to; none for a query that
    /// a gateway has sent here, which then would pass a third.
    fn next_gateway(&self, query: &Query, fits: impl Fn(&LinkUp) -> bool) -> Option<&LinkUp> {
        let policy = &self.relaying.policy;
        if policy.is_gateway(&query.caller) {
            return None;
        }
        policy
            .forwards
            .iter()
            .find_map(|gateway| self.directory.best_first(gateway).find(|up| fits(up)))
    }

    fn offer(
        &mut self,
        context: &mut Context<'_>,
        query: &Query,
        up: &LinkUp,
        about: Relayed,
        relayed: Option<Relayed>,
    ) -> Verdict {
        let Relayed { caller, target } = about;
        if up.identity != target {
            if !self.relaying.may_forward(context.now_ns, &target) {
                return Verdict::Reject(DropReason::TargetNotReachable);
            }
            self.totals.forwarded += 1;
        }
        self.totals.offers += 1;
        self.totals.relayed += u64::from(relayed.is_some());
        self.events.push(NodeEvent::Relayed { caller, target, from: query.link, to: up.link });
        Verdict::Offer(Offer {
            target: up.link,
            relayed,
            caller_pace: (context.quota_of)(&query.caller),
            target_pace: (context.quota_of)(&up.identity),
        })
    }
}

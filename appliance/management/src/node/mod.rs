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
mod services;
mod settings;
pub(crate) mod verdict;

#[cfg(test)]
mod tests;

pub use events::{NodeEvent, UnregisteredBecause};
pub use relaying::RelayPolicy;
pub use services::{ObservedRow, ServiceSettings};
pub use settings::NodeSettings;

use crate::directory::Directory;
use crate::gateway::{
    Asked, Gateway, GatewayCounts, RegistrationChange, RegistrationRow, SavedRegistration,
};
use events::Events;
use migrating::{Channel, Migrating};
use recent::RecentQueries;
use relaying::{PreparationError, Relaying};
use services::deliveries::{Deliveries, Delivery};
use services::listings::{self, Listed, Listings, Waiting};
use services::observed::Observed;
use services::reflection::{self, Reflections};
use services::{Era, Eras, binary_of};
use std::sync::Arc;
use verdict::{Offer, Verdict};
use waystation_astral::endpoint::Endpoint;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::GatewayOperation;
use waystation_astral::identity::Identity;
use waystation_astral::object::Encoding;
use waystation_astral::objects::Empty;
use waystation_astral::operations::{self, Operation, OperationError};
use waystation_engine::control::{Command, LinkTotals, LinkUp, Listing, Query, Report};
use waystation_relay::drop_reason::{DropCounters, DropReason};
use waystation_relay::ids::{CoreId, LegTag, LinkTag};
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
    /// Waiting for a listing.
    pub listings_waiting: usize,
    /// Sessions on which peers deliver objects.
    pub deliveries: usize,
    /// Peers being told the address they are seen at.
    pub reflections: usize,
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
    services: ServiceSettings,
    eras: Eras,
    listings: Listings,
    deliveries: Deliveries,
    reflections: Reflections,
    observed: Observed,
    events: Events,
    totals: Totals,
    refusals: DropCounters,
}

impl Node {
    /// A node without links, registrations or sockets, in front of so many data cores. `identity`
    /// is its own.
    pub fn new(identity: Identity, cores: usize, settings: NodeSettings) -> Self {
        Self {
            identity,
            directory: Directory::default(),
            recent: RecentQueries::new(settings.gateway.recent_queries_max),
            gateway: Gateway::new(settings.gateway),
            relaying: Relaying::new(settings.relay),
            migrating: Migrating::default(),
            services: settings.services,
            eras: Eras::default(),
            listings: Listings::new(cores),
            deliveries: Deliveries::default(),
            reflections: Reflections::default(),
            observed: Observed::default(),
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
            Report::LinkUp(up) => self.link_up(now_ns, up, out),
            // The runtime has told of it, before anything else about that link.
            Report::LinkMoved { .. } | Report::LinkStayed { .. } | Report::LinkTraffic { .. } => {}
            Report::LinkDown { link, identity, reason, totals } => {
                self.link_down(now_ns, *link, *identity, (*reason, *totals));
            }
            Report::Query(query) => self.on_query(context, query, out),
            Report::SocketPresented { socket, nonce, .. } => {
                self.gateway.socket_presented(context, *socket, *nonce, out);
            }
            Report::Migration { operation, step } => self.migrating.step(*operation, *step, out),
            Report::SocketClosed { socket, .. } => self.gateway.socket_closed(now_ns, *socket),
            // Most verdicts were given as the query came in; its nonce stays known, for copies.
            Report::QueryCancelled { leg } => self.listings.cancel(*leg),
            Report::Asked { ask, leg, code } => self.reflections.asked(*ask, *leg, *code, out),
            Report::Input { leg, bytes } => self.on_input(now_ns, *leg, bytes, out),
            Report::SessionEnded { leg } => {
                self.migrating.ended(*leg, out);
                self.deliveries.forget(*leg);
                self.reflections.session_ended(*leg);
            }
            Report::Listing { core, listing } => self.on_listing(*core, listing, out),
            // An idle socket whose joining failed left the tables with its reservation; the
            // runtime closes it, and its node dials again at once.
            Report::JoinFailed { .. }
            | Report::HandshakeFailed { .. }
            | Report::UdpOpened { .. }
            | Report::UdpMoved(_)
            | Report::UdpEnded(_)
            | Report::Paths { .. }
            | Report::UdpTold { .. }
            | Report::UdpTaken { .. }
            | Report::UdpPaths { .. }
            | Report::Statistics(_)
            | Report::Incident { .. }
            | Report::Adopted { .. }
            | Report::DialFailed { .. }
            | Report::LinksFrozen(_)
            | Report::LinksTold { .. }
            | Report::LinksTaken { .. }
            | Report::Stopped { .. } => {}
        }
        self.listings.begin(now_ns, out);
        self.note_registrations();
    }

    /// Ends what is due.
    pub fn tick(&mut self, now_ns: u64, out: &mut Vec<(CoreId, Command)>) {
        self.gateway.tick(now_ns);
        self.relaying.expire(now_ns);
        self.migrating.tick(now_ns, out);
        self.deliveries.expire(now_ns, out);
        self.reflections.expire(now_ns, out);
        if let Some(leg) = self.listings.expire(now_ns) {
            self.give(leg, &[], Verdict::Reject(listings::REFUSED), out);
        }
        self.listings.begin(now_ns, out);
        self.note_registrations();
    }

    /// When [`Self::tick`] next has something to do.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let deadlines = [
            self.gateway.next_deadline_ns(),
            self.relaying.next_deadline_ns(),
            self.migrating.next_deadline_ns(),
            self.deliveries.next_deadline_ns(),
            self.reflections.next_deadline_ns(),
            self.listings.next_deadline_ns(),
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
        self.services = settings.services;
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
            listings_waiting: self.listings.len(),
            deliveries: self.deliveries.len(),
            reflections: self.reflections.len(),
        }
    }

    /// Where peers that this node dialed say they see it, the most agreed on first.
    pub fn observed_endpoints(&self) -> Vec<ObservedRow> {
        self.observed.rows()
    }

    // Links and registrations

    fn link_up(&mut self, now_ns: u64, up: &LinkUp, out: &mut Vec<(CoreId, Command)>) {
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
        if self.services.reflects && reflection::is_due(up) {
            let era = self.eras.of(&up.identity, up.profile);
            self.reflections.begin(now_ns, up, era, out);
        }
    }

    /// A link is about to change cores, or stays after all.
    pub fn leave(&mut self, link: LinkTag, leaves: bool) {
        self.directory.leave(link, leaves);
    }

    /// A link has another tag now.
    pub fn link_moved(&mut self, now_ns: u64, from: LinkTag, up: &LinkUp) {
        if let Some(replaced) = self.directory.link_moved(from, up) {
            self.note_link_down(now_ns, replaced.link, replaced.identity, <_>::default());
        }
        self.recent.link_moved(from, up.link);
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
            self.eras.forget(&identity);
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
        self.give(query.leg, &query.query, verdict, out);
    }

    fn give(
        &mut self,
        leg: LegTag,
        query: &[u8],
        verdict: Verdict,
        out: &mut Vec<(CoreId, Command)>,
    ) {
        if let Some(reason) = verdict.refusal() {
            self.refusals.count(reason, 0);
        }
        verdict.carry_out(leg, query, out);
    }

    fn on_listing(&mut self, core: CoreId, listing: &Listing, out: &mut Vec<(CoreId, Command)>) {
        let answer = self.listings.take_in(core, listing, self.identity, &self.directory);
        if let Some((leg, verdict)) = answer {
            self.give(leg, &[], verdict, out);
        }
    }

    fn on_input(
        &mut self,
        now_ns: u64,
        leg: LegTag,
        bytes: &[u8],
        out: &mut Vec<(CoreId, Command)>,
    ) {
        if self.migrating.input(leg, bytes, out) {
            return;
        }
        let (directory, observed, events) = (&self.directory, &mut self.observed, &mut self.events);
        // Only those whom we chose to dial: anybody else could send us astray.
        let mut judge = |identity: Identity, endpoint: &Endpoint| {
            let noted = match directory.is_dialed(&identity) {
                true => observed.note(now_ns, identity, endpoint),
                false => None,
            };
            if noted == Some(true) {
                events.push(NodeEvent::Observed { identity, endpoint: endpoint.clone() });
            }
            noted.is_some()
        };
        self.deliveries.input(leg, bytes, &mut judge, out);
        self.reflections.input(leg, out);
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
        let era = self.note_era(query, &request.operation);
        let output = binary_of(era, request.output);
        match request.operation {
            Operation::Gateway(operation) if self.gateway.limits().enabled => {
                self.decide_gateway(context, query, caller, operation, request.output)
            }
            Operation::Profile => self.services.profile(context.unix_now_s, query),
            Operation::Links => self.list(query, caller, Listed::Links, output),
            Operation::Streams => self.list(query, caller, Listed::Streams, output),
            Operation::Sessions => self.list(query, caller, Listed::Sessions, output),
            Operation::ResolveEndpoints { identity } => {
                self.services.resolve(&self.identity, query, &identity, output, era)
            }
            Operation::DiscoverServices => {
                let gateway = self.gateway.limits().enabled;
                self.services.discover(&self.identity, gateway, output)
            }
            Operation::Push { size_bytes } => {
                let input = binary_of(era, request.input);
                self.take_delivery(context.now_ns, query, size_bytes, (input, output))
            }
            // Only a peer itself prepares queries, and P4 has a frame for what this is about.
            Operation::Relay { nonce, set_caller, set_target }
                if caller == query.caller && query.profile != Profile::P4 =>
            {
                self.prepare(context.now_ns, query, output, (nonce, set_caller, set_target))
            }
            Operation::MigrateSession { link_id, session_id } => {
                self.migrate(context.now_ns, query, (request.input, output), (link_id, session_id))
            }
            Operation::Gateway(_) | Operation::Relay { .. } => {
                Verdict::Reject(DropReason::UnknownQuery)
            }
        }
    }

    /// What a query tells of its peer's build (spec §1.1, §12.1, §14).
    fn note_era(&mut self, query: &Query, operation: &Operation) -> Era {
        let shown = match operation {
            Operation::Profile | Operation::Push { size_bytes: Some(_) } => Some(Era::Old),
            Operation::Push { size_bytes: None } | Operation::Sessions | Operation::Links => {
                Some(Era::New)
            }
            _ => None,
        };
        if let Some(era) = shown
            && self.directory.is_linked(&query.caller)
        {
            self.eras.note(query.caller, query.profile, era);
        }
        self.eras.of(&query.caller, query.profile)
    }

    fn list(
        &mut self,
        query: &Query,
        caller: Identity,
        listed: Listed,
        output: Encoding,
    ) -> Verdict {
        let has_room = self.listings.wait(Waiting {
            leg: query.leg,
            peer: query.caller,
            view: self.services.view_of(caller),
            listed,
            output,
            era: self.eras.of(&query.caller, query.profile),
            profile: query.profile,
        });
        if has_room { Verdict::Later } else { Verdict::Reject(listings::REFUSED) }
    }

    fn take_delivery(
        &mut self,
        now_ns: u64,
        query: &Query,
        size_bytes: Option<u32>,
        (input, output): (Encoding, Encoding),
    ) -> Verdict {
        let delivery = match (size_bytes, input.channel_form()) {
            (Some(bytes), _) => Delivery::Sized { bytes },
            (None, Some(input)) => Delivery::Channel { input, output },
            // No object of ours is read as text.
            (None, None) => return Verdict::Reject(DropReason::MalformedQuery),
        };
        match self.deliveries.begin(now_ns, query.leg, query.caller, delivery) {
            Some(input_max_bytes) => Verdict::Accept { input_max_bytes },
            None => Verdict::Reject(DropReason::ManagementBusy),
        }
    }

    /// Remembers in whose name and for whom the query with this nonce will be (spec §10.1).
    fn prepare(
        &mut self,
        now_ns: u64,
        query: &Query,
        output: Encoding,
        (nonce, caller, target): (u64, Option<Identity>, Option<Identity>),
    ) -> Verdict {
        match self.relaying.prepare(now_ns, query.caller, nonce, caller, target) {
            Ok(()) => verdict::answer(output, &[&Empty::Ack]),
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
        (input, output): (Encoding, Encoding),
        link_and_session: (u64, u64),
    ) -> Verdict {
        let Some(input) = input.channel_form() else {
            return Verdict::Reject(DropReason::MalformedQuery);
        };
        let channel = Channel { input, output };
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
        output: Encoding,
    ) -> Verdict {
        let (gateway, directory) = (&mut self.gateway, &self.directory);
        let asked = Asked { query, caller, output };
        match operation {
            GatewayOperation::Register { visibility } => {
                gateway.register(context, directory, &asked, visibility)
            }
            GatewayOperation::Unregister => gateway.unregister(&asked),
            GatewayOperation::List => gateway.list(output),
            GatewayOperation::Connect { target } => {
                gateway.connect(context, directory, &asked, target)
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

//! Rounds of questions to all data cores: statistics, and listings of links and sessions.

use super::ManagementCore;
use crate::clock;
use crate::dht::Dht;
use crate::documents::{CoreListing, Readiness};
use crate::hub::SignalHub;
use crate::journal::{EventFields, EventKind};
use crate::limits::CORE_ANSWER_TIMEOUT;
use crate::peer_document;
use crate::stats_socket::{Document, ListingRequest, Question, StatsRequest};
use tokio::time::Instant;
use waystation_engine::control::Command;
use waystation_engine::statistics::CoreStatistics;
use waystation_relay::ids::CoreId;

/// One round of statistics.
pub(super) struct Round {
    missing: Vec<CoreId>,
    requests: Vec<StatsRequest>,
    closes_interval: bool,
    pub(super) deadline: Instant,
}

/// One round of listings.
pub(super) struct ListingRound {
    request: ListingRequest,
    filled: Vec<CoreListing>,
    missing: Vec<CoreId>,
    pub(super) deadline: Instant,
}

impl ManagementCore {
    pub(super) fn on_request(&mut self, request: StatsRequest) {
        match request.what {
            // These say what is known; the others ask the cores first.
            Question::Ready | Question::Hub | Question::Xdp => self.answer(request),
            Question::Links { .. }
            | Question::Sessions { .. }
            | Question::Udp { .. }
            | Question::Peers { .. } => {
                self.answer(request);
            }
            Question::Explain { frame, interface } => {
                self.explain(&frame, interface.as_deref(), request.reply);
            }
            Question::Log => {
                let document = Document::json(&self.log.document());
                super::orders::answer(request.reply, document);
            }
            Question::Dht(question) => self.ask_dht(question, request.reply),
            Question::Events { after, follow } => self.on_events(after, follow, request.reply),
            Question::Order(order) => self.on_order(order, request.reply),
            Question::Status
            | Question::Drops { .. }
            | Question::Histograms(_)
            | Question::HistogramLog(_)
            | Question::Metrics => self.waiting.push(request),
        }
    }

    fn answer(&mut self, request: StatsRequest) {
        self.extra.observed = self.node.observed_endpoints();
        self.extra.dht = self.dht.as_ref().map(Dht::figures);
        self.extra.hub = self.hub.as_ref().map(SignalHub::figures);
        let listing = request.answer(&self.observations, &self.extra, clock::now());
        self.listings.extend(listing);
    }

    /// Asks every core for its statistics if somebody wants them and nobody is being asked.
    pub(super) fn begin_round(&mut self) {
        if self.round.is_some() || (self.waiting.is_empty() && !self.interval_due) {
            return;
        }
        let missing: Vec<CoreId> = self.cores().collect();
        let closes_interval = std::mem::take(&mut self.interval_due);
        for &core in &missing {
            let recycled = self.spare.get_mut(core.index()).and_then(Option::take);
            self.command(core, Command::ReportStatistics { recycled, closes_interval });
        }
        self.round = Some(Round {
            missing,
            requests: std::mem::take(&mut self.waiting),
            closes_interval,
            deadline: Instant::now() + CORE_ANSWER_TIMEOUT,
        });
    }

    pub(super) fn on_statistics(&mut self, block: Box<CoreStatistics>) {
        let core = block.core;
        self.heartbeat.hear(core);
        let recycled = self.observations.accept(block);
        if let Some(spare) = self.spare.get_mut(core.index()) {
            *spare = Some(recycled);
        }
        let can_serve = self.observations.all_reported() && *self.ours.borrow();
        if can_serve && !self.extra.readiness.is_ready() {
            self.become_ready();
        }
        if let Some(round) = &mut self.round {
            round.missing.retain(|&missing| missing != core);
            if round.missing.is_empty() {
                self.end_round();
            }
        }
    }

    pub(super) fn become_ready(&mut self) {
        if let Some(on_ready) = self.on_ready.take() {
            self.extra.readiness = Readiness::Ready;
            on_ready();
            self.journal.record(clock::now(), EventKind::Ready, None, EventFields::new());
            if let Some(settings) = self.dial_settings.take() {
                self.dial(|dialer, around| dialer.set_settings(around, settings));
            }
            self.reconcile_udp();
        }
    }

    fn end_round(&mut self) {
        let Some(round) = self.round.take() else { return };
        if round.closes_interval {
            self.observations.close_interval(clock::now());
            self.recent.forget_stale(clock::now());
            self.look_at_placement();
        }
        for request in round.requests {
            self.answer(request);
        }
    }

    /// Answers without the cores that did not.
    pub(super) fn end_late_rounds(&mut self) {
        let now = Instant::now();
        if let Some(round) = &self.round
            && round.deadline <= now
        {
            for core in &round.missing {
                tracing::warn!(%core, "a data core does not answer");
            }
            self.end_round();
        }
        if self.traffic_round.as_ref().is_some_and(|round| round.deadline <= now) {
            self.end_traffic_round(clock::now());
        }
        if self.listing.as_ref().is_some_and(|listing| listing.deadline <= now) {
            self.end_listing();
        }
    }

    // Listings

    pub(super) fn begin_listing(&mut self) {
        while self.listing.is_none() {
            let Some(request) = self.listings.pop_front() else { return };
            if request.is_abandoned() {
                continue;
            }
            if request.tells_shares() {
                self.ask_for_shares();
            }
            let missing: Vec<CoreId> = self.cores().collect();
            for &core in &missing {
                let listing = request.empty_listing();
                self.command(core, Command::ReportListing { listing });
            }
            let deadline = Instant::now() + CORE_ANSWER_TIMEOUT;
            self.listing = Some(ListingRound { request, filled: Vec::new(), missing, deadline });
        }
    }

    pub(super) fn on_listing(&mut self, listing: CoreListing) {
        let Some(round) = &mut self.listing else { return };
        let before = round.missing.len();
        round.missing.retain(|&missing| missing != listing.core);
        // A listing of an earlier round, whose core was late, answers nothing.
        if round.missing.len() < before {
            round.filled.push(listing);
        }
        self.end_complete_listing();
    }

    /// Ends a listing for which nothing is missing any more.
    pub(super) fn end_complete_listing(&mut self) {
        let Some(listing) = &self.listing else { return };
        let waits_for_shares = listing.request.tells_shares() && self.traffic_round.is_some();
        if listing.missing.is_empty() && !waits_for_shares {
            self.end_listing();
        }
    }

    fn end_listing(&mut self) {
        let Some(mut round) = self.listing.take() else { return };
        let late = round.missing.into_iter().map(|core| CoreListing { core, listing: None });
        round.filled.extend(late);
        round.filled.sort_by_key(|listing| listing.core);
        if let Some(leg) = round.request.session_to_close() {
            self.close_listed_session(leg, round.request, &round.filled);
        } else if let Some(limit) = round.request.peers_limit() {
            let known = peer_document::Known {
                accounts: &self.accounts,
                config: &self.config,
                dials: self.dialer.peers(self.node.directory()).collect(),
                now: clock::now(),
            };
            let document = peer_document::peers(&known, &round.filled, limit);
            round.request.answer(Document::json(&document));
        } else {
            let (recent, shares) = (&mut self.recent, &self.shares);
            let opaque = self.opaque.table();
            round.request.complete(&round.filled, recent, shares, opaque, clock::now());
        }
    }
}

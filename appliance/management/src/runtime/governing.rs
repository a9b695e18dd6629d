//! What identities may use: their quotas, the caps on links and registrations, which links the
//! idle-link policy leaves alone; and what of all that, and of the rest, gets into the journal.

use super::ManagementCore;
use crate::clock::Moment;
use crate::journal::{EventKind, fields};
use crate::node::NodeEvent;
use serde_json::json;
use std::sync::Arc;
use waystation_astral::gateway::{self, GatewayOperation};
use waystation_astral::identity::Identity;
use waystation_engine::control::{Command, LinkUp, Query, Report};
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::LinkTag;

/// The code of a rejected query (spec §8.4).
const REJECTED: u8 = 1;

impl ManagementCore {
    /// Enters a report in the accounts, and governs a link that has come up.
    pub(super) fn enter(&mut self, now: Moment, report: &Report) {
        match report {
            Report::LinkUp(up) => self.govern(now, up),
            Report::LinkDown { link, totals, .. } => {
                self.accounts.link_down(now, *link, totals);
                self.subscribed.remove(link);
                self.on_link_closed(*link);
            }
            Report::SocketClosed { socket, bytes_in, bytes_out, .. } => {
                self.accounts.socket_closed(now, *socket, [*bytes_in, *bytes_out]);
            }
            Report::JoinFailed { idle } => self.accounts.join_failed(*idle),
            Report::HandshakeFailed { remote, reason: DropReason::IdentityDenied, .. } => {
                let said = fields(json!({ "remote": remote.to_string() }));
                self.journal.record(now, EventKind::AccessDenied, None, said);
            }
            Report::Query(query) => self.note_subscription(query),
            _ => {}
        }
    }

    /// Gives a link the quota of its identity, or closes it as one too many.
    fn govern(&mut self, now: Moment, up: &LinkUp) {
        let (link, identity) = (up.link, up.identity);
        match self.accounts.link_up(now, up) {
            Ok(quota) => {
                let keep = self.keeps(link, &identity);
                let senders = self.moves.senders.remove(&(link.core, link.slot));
                for leg in senders.into_iter().flatten() {
                    self.command(leg.core, Command::Pace { leg, pace: Arc::clone(&quota) });
                }
                self.command(link.core, Command::Govern { link, quota: Some(quota), keep });
            }
            Err(refusal) => {
                tracing::debug!(%link, %identity, because = %refusal, "one link too many");
                let reason = DropReason::TooManyLinks;
                self.command(link.core, Command::CloseLink { link, reason });
                let said = fields(json!({
                    "limit": refusal.name(),
                    "link": link.to_string(),
                    "message": refusal.to_string(),
                }));
                self.journal.record(now, EventKind::LimitReached, Some(&identity), said);
            }
        }
    }

    /// Whether the idle-link policy leaves a link alone: others count on this node to reach its
    /// peer, or the operator wants it linked.
    fn keeps(&self, link: LinkTag, identity: &Identity) -> bool {
        self.config.peer(identity).is_some()
            || self.registered.contains(identity)
            || self.subscribed.contains(&link)
    }

    /// Tells the cores anew about all links of an identity.
    pub(super) fn govern_again(&mut self, now: Moment, identity: &Identity) {
        let links: Vec<_> = self.node.directory().best_first(identity).map(|up| up.link).collect();
        for link in links {
            let quota = Some(self.accounts.quota_of(now, identity));
            let keep = self.keeps(link, identity);
            self.command(link.core, Command::Govern { link, quota, keep });
        }
    }

    /// A node that subscribes is reached over the link that it has asked on (spec §11.1).
    fn note_subscription(&mut self, query: &Query) {
        let subscribes =
            matches!(gateway::parse(&query.query), Some(Ok(GatewayOperation::Subscribe)));
        let enabled = self.config.gateway.enabled && query.relayed.is_none();
        let open = self.node.directory().get(query.link).is_some();
        if subscribes && enabled && open && self.subscribed.insert(query.link) {
            let quota = Some(self.accounts.quota_of(crate::clock::now(), &query.caller));
            let govern = Command::Govern { link: query.link, quota, keep: true };
            self.command(query.link.core, govern);
        }
    }

    /// Rejects a registration of an identity that may have none. `true` if it was one.
    pub(super) fn refuse_registration(&mut self, now: Moment, report: &Report) -> bool {
        let Report::Query(query) = report else { return false };
        if self.accounts.may_register(&query.caller)
            || !matches!(gateway::parse(&query.query), Some(Ok(GatewayOperation::Register { .. })))
        {
            return false;
        }
        self.refusals.count(DropReason::QuotaExceeded, 0);
        let leg = query.leg;
        self.command(leg.core, Command::Reject { leg, code: REJECTED });
        let said = fields(json!({ "limit": "registrations_per_identity_max" }));
        self.journal.record(now, EventKind::LimitReached, Some(&query.caller), said);
        true
    }

    /// Writes what has happened to links and registrations into the journal.
    pub(super) fn note_node_events(&mut self, now: Moment) {
        let events: Vec<_> = self.node.take_events().collect();
        for event in events {
            self.note_node_event(now, event);
        }
    }

    fn note_node_event(&mut self, now: Moment, event: NodeEvent) {
        let (kind, identity, said) = match event {
            NodeEvent::LinkUp(up) => (EventKind::LinkUp, up.identity, link_up(&up)),
            NodeEvent::LinkDown { link, identity, reason, totals } => {
                let said = json!({
                    "link": link.to_string(),
                    "reason": reason.map(DropReason::name),
                    "bytes_in": totals.bytes_in,
                    "bytes_out": totals.bytes_out,
                    "age_ms": totals.age_ns / 1_000_000,
                });
                (EventKind::LinkDown, identity, said)
            }
            NodeEvent::Linked { identity } => (EventKind::Linked, identity, json!({})),
            NodeEvent::Unlinked { identity } => (EventKind::Unlinked, identity, json!({})),
            NodeEvent::Registered { identity, is_public } => {
                self.registered.insert(identity);
                self.govern_again(now, &identity);
                (EventKind::Registered, identity, json!({ "public": is_public }))
            }
            NodeEvent::Unregistered { identity, because } => {
                self.registered.remove(&identity);
                self.govern_again(now, &identity);
                let because = format!("{because:?}").to_lowercase();
                (EventKind::Unregistered, identity, json!({ "because": because }))
            }
            NodeEvent::Observed { identity, endpoint } => {
                (EventKind::Observed, identity, json!({ "endpoint": endpoint.to_string() }))
            }
            // One for each query would leave room for nothing else.
            NodeEvent::Relayed { .. } => return,
        };
        self.journal.record(now, kind, Some(&identity), fields(said));
    }

    /// Notes failed rounds of dials to peers since the last call.
    pub(super) fn note_dials(&mut self, now: Moment) {
        let rows: Vec<_> = self.dialer.peers(self.node.directory()).collect();
        for row in rows {
            let before = self.dial_failures.insert(row.identity, row.failures).unwrap_or(0);
            if row.failures > before {
                let said = json!({
                    "failures": row.failures,
                    "message": row.last_error.map(|error| error.to_string()),
                });
                self.journal.record(now, EventKind::DialFailed, Some(&row.identity), fields(said));
            }
        }
    }

    /// Collects what is counted in many places.
    pub(super) fn count(&mut self) {
        self.extra.gateway = self.node.counts();
        self.extra.queries = self.node.query_counts();
        let dials = self.dialer.counts();
        self.extra.gateway.refusals.add(&dials.drops);
        self.extra.gateway.refusals.add(&self.refusals);
        let operations = &mut self.extra.operations;
        operations.dials = dials;
        operations.identities = self.accounts.len();
        operations.refused_links = self.accounts.refused_links();
        operations.network_links =
            crate::accounts::NETWORKS.map(|network| self.accounts.links_of(network));
        operations.events = self.journal.newest();
        operations.events_held_back = self.journal.held_back();
    }
}

fn link_up(up: &LinkUp) -> serde_json::Value {
    json!({
        "link": up.link.to_string(),
        "profile": up.profile.name(),
        "network": up.network.name(),
        "remote": up.remote.to_string(),
        "outbound": up.dial.is_some(),
    })
}

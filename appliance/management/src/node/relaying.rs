//! Queries in the name of others, or for others: who may, and what was prepared (spec §10).
//!
//! Owned by the node on the management thread; plain tables without a clock. A query of a P0 or P2
//! peer carries no identities, so its peer says them beforehand with `nodes.relay` and the query's
//! nonce; that is kept here until the query comes. It must never let a query pass more than one
//! gateway after this one, and never grow with what a peer asks.

use super::limits::{
    FORWARD_WINDOW_NS, FORWARDS_PER_TARGET_MAX, FORWARDS_REMEMBERED_MAX, PREPARATION_LIFETIME_NS,
    PREPARATIONS_MAX, PREPARATIONS_PER_PEER_MAX,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use waystation_astral::frame::Profile;
use waystation_astral::identity::Identity;
use waystation_engine::control::Query;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::switch::Relayed;

/// Whom the operator lets speak for others, and who is asked about identities not linked here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayPolicy {
    /// Peers that may name any caller in a query.
    pub trusted: BTreeSet<Identity>,
    /// Gateways to which a query goes whose target has no link here: the first one linked.
    pub forwards: Vec<Identity>,
}

impl RelayPolicy {
    /// Whether queries that come from this peer have passed a gateway already, perhaps: they are
    /// not sent to another one, so that no query runs in a circle.
    pub(super) fn is_gateway(&self, peer: &Identity) -> bool {
        self.trusted.contains(peer) || self.forwards.contains(peer)
    }

    /// Whether a peer may ask in the name of `caller`.
    pub(super) fn may_speak(&self, peer: &Identity, caller: &Identity) -> bool {
        peer == caller || self.trusted.contains(peer)
    }
}

/// What `nodes.relay` said about a query that is yet to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Preparation {
    caller: Option<Identity>,
    target: Option<Identity>,
    deadline_ns: u64,
}

/// Why a preparation was not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PreparationError {
    /// The peer may not speak for that caller.
    #[error("not allowed to speak for that caller")]
    Unauthorized,
    /// This peer, or all together, have as many as they may.
    #[error("too many prepared queries")]
    TooMany,
}

/// Preparations, and what was forwarded a moment ago.
#[derive(Debug, Default)]
pub(super) struct Relaying {
    pub(super) policy: RelayPolicy,
    prepared: BTreeMap<(Identity, u64), Preparation>,
    deadlines: BTreeSet<(u64, Identity, u64)>,
    prepared_by: BTreeMap<Identity, usize>,
    expired: u64,
    forwarded: VecDeque<(u64, Identity)>,
}

impl Relaying {
    /// A table for this policy.
    pub(super) fn new(policy: RelayPolicy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Remembers what a peer says about its query with this nonce. Saying it again replaces it.
    ///
    /// # Errors
    /// [`PreparationError`]; what was prepared before stays.
    pub(super) fn prepare(
        &mut self,
        now_ns: u64,
        peer: Identity,
        nonce: u64,
        caller: Option<Identity>,
        target: Option<Identity>,
    ) -> Result<(), PreparationError> {
        if caller.is_some_and(|caller| !self.policy.may_speak(&peer, &caller)) {
            return Err(PreparationError::Unauthorized);
        }
        let replaces = self.prepared.contains_key(&(peer, nonce));
        let held = self.prepared_by.get(&peer).copied().unwrap_or_default();
        let is_full = held >= PREPARATIONS_PER_PEER_MAX || self.prepared.len() >= PREPARATIONS_MAX;
        if is_full && !replaces {
            return Err(PreparationError::TooMany);
        }
        self.remove(peer, nonce);
        let deadline_ns = now_ns.saturating_add(PREPARATION_LIFETIME_NS);
        self.prepared.insert((peer, nonce), Preparation { caller, target, deadline_ns });
        self.deadlines.insert((deadline_ns, peer, nonce));
        *self.prepared_by.entry(peer).or_default() += 1;
        Ok(())
    }

    /// In whose name a query is asked, and for whom; `own` is this node. A preparation is used up.
    ///
    /// # Errors
    /// [`DropReason::QueryUnauthorized`] when its peer may not ask in that name;
    /// [`DropReason::MalformedQuery`] when it names nobody.
    pub(super) fn resolve(&mut self, own: Identity, query: &Query) -> Result<Relayed, DropReason> {
        let peer = query.caller;
        let direct = Relayed { caller: peer, target: own };
        let relayed = match (query.relayed, query.profile) {
            (Some(relayed), _) => relayed,
            (None, Profile::P4) => direct,
            (None, Profile::P0 | Profile::P2) => match self.remove(peer, query.nonce) {
                Some(Preparation { caller, target, .. }) => Relayed {
                    caller: caller.unwrap_or(direct.caller),
                    target: target.unwrap_or(direct.target),
                },
                None => direct,
            },
        };
        // Of a prepared query, the policy may have changed since.
        if !self.policy.may_speak(&peer, &relayed.caller) {
            return Err(DropReason::QueryUnauthorized);
        }
        // The zero identity is nobody, and nobody asks or is asked (spec §2).
        let names_nobody = relayed.caller.is_anyone() || relayed.target.is_anyone();
        if names_nobody { Err(DropReason::MalformedQuery) } else { Ok(relayed) }
    }

    /// Whether one more query for a target that is not here may go to another gateway.
    ///
    /// Gateways that send each other what they do not know, and do not know each other as such,
    /// could pass a query around for ever; this ends the circle after a few turns.
    pub(super) fn may_forward(&mut self, now_ns: u64, target: &Identity) -> bool {
        while let Some((since_ns, _)) = self.forwarded.front()
            && since_ns.saturating_add(FORWARD_WINDOW_NS) <= now_ns
        {
            self.forwarded.pop_front();
        }
        let same = self.forwarded.iter().filter(|(_, known)| known == target).count();
        let allowed =
            same < FORWARDS_PER_TARGET_MAX && self.forwarded.len() < FORWARDS_REMEMBERED_MAX;
        if allowed {
            self.forwarded.push_back((now_ns, *target));
        }
        allowed
    }

    /// Forgets preparations whose query did not come in time.
    pub(super) fn expire(&mut self, now_ns: u64) {
        while let Some((deadline_ns, peer, nonce)) = self.deadlines.first().copied()
            && deadline_ns <= now_ns
        {
            self.remove(peer, nonce);
            self.expired += 1;
        }
    }

    /// When [`Self::expire`] next has something to do.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ns, ..)| *deadline_ns)
    }

    /// Preparations that wait for their query, and those that waited in vain since the start.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.prepared.len(), self.expired)
    }

    fn remove(&mut self, peer: Identity, nonce: u64) -> Option<Preparation> {
        let preparation = self.prepared.remove(&(peer, nonce))?;
        self.deadlines.remove(&(preparation.deadline_ns, peer, nonce));
        if let Some(held) = self.prepared_by.get_mut(&peer) {
            *held -= 1;
            if *held == 0 {
                self.prepared_by.remove(&peer);
            }
        }
        Some(preparation)
    }
}

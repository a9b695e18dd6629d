//! What this node answers about itself: who it is, where, to whom it is linked (spec §13, §14).
//!
//! Owned by the node on the management thread. A stranger learns what it could know anyway: its own
//! links and sessions, and where we are. Nothing that a peer asks changes anything here, but for
//! the addresses under which it says it sees us.

pub(super) mod deliveries;
pub(super) mod listings;
pub(super) mod observed;
pub(super) mod reflection;

pub use observed::ObservedRow;

use super::limits::ENDPOINT_LIFETIME_S;
use super::verdict::{self, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::frame::Profile;
use waystation_astral::identity::Identity;
use waystation_astral::object::{AnswerObject, Encoding};
use waystation_astral::objects::{
    Empty, EndpointWithTtl, ProfileDocument, ProfileEndpoint, ServiceUpdate,
};
use waystation_engine::control::Query;
use waystation_relay::drop_reason::DropReason;

/// The name of the one service that this node offers (spec §14).
const GATEWAY_SERVICE: &str = "gateway";

/// What the services say, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// What this node is called.
    pub alias: String,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Where it says that it listens, instead.
    pub announce: Option<SocketAddr>,
    /// Who sees all links and sessions, not just its own.
    pub full_view: BTreeSet<Identity>,
    /// Where others can be reached, as the operator says.
    pub known: BTreeMap<Identity, Vec<Endpoint>>,
    /// Whether a peer that dials us is told the address it is seen at.
    pub reflects: bool,
}

/// How a peer's build writes what its profile leaves open: P2 lies on both sides of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// P0, and P2 of 2025, by what it asks: `.profile`, or a push with its size.
    Old,
    /// Later, or not known to be older.
    New,
}

/// What P2 peers have shown of their age, while they are linked.
#[derive(Debug, Default)]
pub(super) struct Eras {
    old: BTreeSet<Identity>,
}

impl Eras {
    /// Notes a query that only builds of one side send. There are as many entries as linked peers.
    pub(super) fn note(&mut self, peer: Identity, profile: Profile, era: Era) {
        match (profile, era) {
            (Profile::P2, Era::Old) => self.old.insert(peer),
            (Profile::P2, Era::New) => self.old.remove(&peer),
            (Profile::P0 | Profile::P4, _) => false,
        };
    }

    /// Forgets a peer without links.
    pub(super) fn forget(&mut self, peer: &Identity) {
        self.old.remove(peer);
    }

    /// The era of a peer.
    pub(super) fn of(&self, peer: &Identity, profile: Profile) -> Era {
        match profile {
            Profile::P0 => Era::Old,
            Profile::P2 if self.old.contains(peer) => Era::Old,
            Profile::P2 | Profile::P4 => Era::New,
        }
    }
}

/// The framing that a peer of that era means when it names no other (spec §1.1: C1 until 2026).
pub(super) fn binary_of(era: Era, encoding: Encoding) -> Encoding {
    match (era, encoding) {
        (Era::Old, Encoding::C2) => Encoding::C1,
        _ => encoding,
    }
}

impl ServiceSettings {
    /// `.profile`: our alias and endpoints.
    pub(super) fn profile(&self, unix_now_s: u64, query: &Query) -> Verdict {
        let expires_at_unix_s = unix_now_s.saturating_add(u64::from(ENDPOINT_LIFETIME_S));
        let endpoints = self
            .own_endpoints(query)
            .into_iter()
            .map(|endpoint| ProfileEndpoint { endpoint, expires_at_unix_s })
            .collect();
        Verdict::Answer(ProfileDocument { alias: self.alias.clone(), endpoints }.to_line())
    }

    /// `nodes.resolve_endpoints`: where we are, or one whom the operator told us about.
    pub(super) fn resolve(
        &self,
        own: &Identity,
        query: &Query,
        wanted: &Identity,
        output: Encoding,
        era: Era,
    ) -> Verdict {
        let own_endpoints = || self.own_endpoints(query);
        let (endpoints, ttl_s) = match self.known.get(wanted) {
            _ if wanted == own => (own_endpoints(), Some(ENDPOINT_LIFETIME_S)),
            Some(known) => (known.clone(), None),
            None => return Verdict::Reject(DropReason::TargetNotReachable),
        };
        if era == Era::Old {
            let objects: Vec<_> = endpoints.iter().map(|bare| bare as &dyn AnswerObject).collect();
            return verdict::answer(output, &objects);
        }
        let with_ttl: Vec<_> =
            endpoints.into_iter().map(|endpoint| EndpointWithTtl { endpoint, ttl_s }).collect();
        let objects = with_ttl.iter().map(|endpoint| endpoint as &dyn AnswerObject);
        verdict::answer(
            output,
            &objects.chain([&Empty::Eos as &dyn AnswerObject]).collect::<Vec<_>>(),
        )
    }

    /// `services.discover`: the gateway, if there is one.
    pub(super) fn discover(&self, own: &Identity, gateway: bool, output: Encoding) -> Verdict {
        let name = GATEWAY_SERVICE.to_owned();
        let update = ServiceUpdate { available: true, name, provider: *own };
        match gateway {
            true => verdict::answer(output, &[&update, &Empty::Eos]),
            false => verdict::answer(output, &[&Empty::Eos]),
        }
    }

    /// Whose links and sessions a caller sees; `None`: everybody's.
    pub(super) fn view_of(&self, caller: Identity) -> Option<Identity> {
        (!self.full_view.contains(&caller)).then_some(caller)
    }

    /// Where we can be reached. For an address that stands for all of a machine's, the one that the
    /// asking peer has dialed.
    fn own_endpoints(&self, query: &Query) -> Vec<Endpoint> {
        if let Some(announced) = self.announce {
            return vec![Endpoint::Tcp(announced)];
        }
        let dialed = (!query.inner).then_some(query.local);
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for listen in &self.listen {
            let address = match listen.ip().is_unspecified() {
                true => dialed.filter(|dialed| dialed.port() == listen.port()),
                false => Some(*listen),
            };
            addresses.extend(address.filter(|address| !addresses.contains(address)));
        }
        addresses.into_iter().map(Endpoint::Tcp).collect()
    }
}

//! `[[peer]]`: nodes that this one knows by name, what each may do, and the keys of such a table.

use super::keys::{Key, Reload};
use super::rule::Rule;
use super::{BURST_MAX, BURST_MIN, RATE_MAX, RATE_MIN, Rate};
use crate::limits::NETWORK_LINKS_MAX;
use crate::units::ByteSize;
use serde::{Serialize, Serializer};
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;

/// One `[[peer]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerConfig {
    #[serde(serialize_with = "serialize_identity")]
    pub identity: Identity,
    /// Where to dial it. With any, a link to it is kept up.
    #[serde(serialize_with = "serialize_endpoints")]
    pub endpoints: Vec<Endpoint>,
    /// Whether it is asked about nodes not linked here, and may relay queries of others.
    pub forwards: bool,
    /// Whether it may ask in the name of others.
    pub trusted: bool,
    /// Whether answers to it show all that this node knows.
    pub full_view: bool,
    /// Instead of `limits.links_per_identity_max`; so with the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links_max: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registrations_max: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<ByteSize>,
}

impl PeerConfig {
    /// A peer about which nothing is said.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            endpoints: Vec::new(),
            forwards: false,
            trusted: false,
            full_view: false,
            links_max: None,
            sessions_max: None,
            registrations_max: None,
            rate: None,
            burst: None,
        }
    }
}

/// Every key of a `[[peer]]`, in the order of printing.
pub const PEER_KEYS: &[Key<PeerConfig>] = &[
    key(
        "identity",
        "identity",
        Rule::Identity { at: |peer| &mut peer.identity },
        "Who it is. Endpoints inside a node info text are not taken; name them in endpoints.",
    ),
    key(
        "endpoints",
        "endpoints",
        Rule::Endpoints { at: |peer| &mut peer.endpoints },
        "Where to dial it. With any, a link to it is kept up: dialed again, with growing pauses, \
        whenever there is none.",
    ),
    key(
        "forwards",
        "flag",
        Rule::Flag { at: |peer| &mut peer.forwards },
        "Whether it is a gateway with which this one exchanges queries: it is asked about nodes \
        that have no link here, and may pass on queries in the name of others.",
    ),
    key(
        "trusted",
        "flag",
        Rule::Flag { at: |peer| &mut peer.trusted },
        "Whether it is one of the operator's own nodes, and may ask in the name of others.",
    ),
    key(
        "full_view",
        "flag",
        Rule::Flag { at: |peer| &mut peer.full_view },
        "Whether answers to it show all that this node knows of others.",
    ),
    key(
        "links_max",
        "links",
        Rule::OptionalCount { max: NETWORK_LINKS_MAX, at: |peer| &mut peer.links_max },
        "For this peer instead of limits.links_per_identity_max.",
    ),
    key(
        "sessions_max",
        "sessions",
        Rule::OptionalCount { max: 10_000_000, at: |peer| &mut peer.sessions_max },
        "For this peer instead of limits.sessions_per_identity_max.",
    ),
    key(
        "registrations_max",
        "registrations",
        Rule::OptionalCount { max: 1, at: |peer| &mut peer.registrations_max },
        "For this peer instead of limits.registrations_per_identity_max.",
    ),
    key(
        "rate",
        "bytes per second",
        Rule::OptionalRate { min: RATE_MIN, max: RATE_MAX, at: |peer| &mut peer.rate },
        "For this peer instead of limits.rate.",
    ),
    key(
        "burst",
        "bytes",
        Rule::OptionalSize { min: BURST_MIN, max: BURST_MAX, at: |peer| &mut peer.burst },
        "For this peer instead of limits.burst.",
    ),
];

const fn key(
    name: &'static str,
    unit: &'static str,
    rule: Rule<PeerConfig>,
    meaning: &'static str,
) -> Key<PeerConfig> {
    Key { section: "peer", name, meaning, unit, reload: Reload::Live, rule }
}

fn serialize_identity<S: Serializer>(
    identity: &Identity,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(identity)
}

fn serialize_endpoints<S: Serializer>(
    endpoints: &[Endpoint],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(endpoints.iter().map(Endpoint::to_string))
}

//! How identities and endpoints of nodes are read from the configuration.

use super::problem::Complaint;
use super::rule::{entries, quoted, text};
use crate::limits::{ACCESS_IDENTITIES_MAX, PEER_ENDPOINTS_MAX};
use std::collections::BTreeSet;
use toml::de::DeValue;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_astral::node_info::NodeInfo;

/// What an identity looks like, for people.
pub(super) const IDENTITY_FORMS: &str = "66 hex digits, or \"node1…\"";
/// What an endpoint looks like, for people.
pub(super) const ENDPOINT_FORMS: &str =
    "\"tcp:ADDRESS:PORT\", \"tor:NAME.onion:PORT\", \"gw:GATEWAY:TARGET\"";

/// Letters of a wrong value that a message repeats: enough to find it.
const SHOWN_CHARS: usize = 80;

/// One identity, as such or inside of a node info text.
pub(super) fn identity(value: &DeValue<'_>) -> Result<Identity, Complaint> {
    let text = text(value)?;
    let read = match text.starts_with("node1") {
        true => text.parse::<NodeInfo>().map(|info| info.identity).map_err(|e| e.to_string()),
        false => text.parse::<Identity>().map_err(|error| error.to_string()),
    };
    let refused = |error| Complaint::NotAnIdentity { value: shown(text), error };
    let identity = read.map_err(refused)?;
    match identity.is_anyone() {
        true => Err(refused("nobody in particular".to_owned())),
        false => Ok(identity),
    }
}

/// A list of identities, each there once.
pub(super) fn identities(value: &DeValue<'_>) -> Result<Vec<Identity>, Complaint> {
    let wanted = "a list of identities, for example [\"02…\", \"node1…\"]";
    let entries = entries(value, wanted, ACCESS_IDENTITIES_MAX)?;
    let mut seen = BTreeSet::new();
    let mut identities = Vec::with_capacity(entries.len());
    for entry in entries.iter() {
        let identity = identity(entry.get_ref())?;
        if !seen.insert(identity) {
            return Err(Complaint::DuplicateEntry { value: identity.to_string() });
        }
        identities.push(identity);
    }
    Ok(identities)
}

/// A list of endpoints that this node can dial, each there once.
pub(super) fn endpoints(value: &DeValue<'_>) -> Result<Vec<Endpoint>, Complaint> {
    let wanted = "a list of endpoints, for example [\"tcp:192.0.2.1:1791\"]";
    let entries = entries(value, wanted, PEER_ENDPOINTS_MAX)?;
    let mut endpoints = Vec::with_capacity(entries.len());
    for entry in entries.iter() {
        let endpoint = endpoint(text(entry.get_ref())?)?;
        if endpoints.contains(&endpoint) {
            return Err(Complaint::DuplicateEntry { value: quoted(&endpoint) });
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

fn endpoint(text: &str) -> Result<Endpoint, Complaint> {
    let endpoint: Endpoint = text.parse().map_err(|error| Complaint::NotAnEndpoint {
        value: shown(text),
        error: format!("{error}"),
    })?;
    match &endpoint {
        Endpoint::Tcp(address) if address.port() == 0 || address.ip().is_unspecified() => {
            let error = "nobody can dial that".to_owned();
            Err(Complaint::NotAnEndpoint { value: shown(text), error })
        }
        Endpoint::Utp(_) | Endpoint::Kcp(_) => {
            Err(Complaint::NetworkNotDialed { network: endpoint.network() })
        }
        Endpoint::Tcp(_) | Endpoint::Tor { .. } | Endpoint::Gateway { .. } => Ok(endpoint),
    }
}

fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS).filter(|c| !c.is_control()).collect();
    if text.chars().count() > SHOWN_CHARS {
        shown.push('…');
    }
    shown
}

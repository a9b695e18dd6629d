//! The answer to `.profile`: one line of JSON that is no object of a channel (spec §14).
//!
//! Peers until 2025‑12‑17 ask for it on their first link to us.

use crate::endpoint::Endpoint;
use crate::object::json_string;
use crate::time::Rfc3339;

/// An endpoint of a [`ProfileDocument`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileEndpoint {
    /// Where.
    pub endpoint: Endpoint,
    /// Until when it holds, in seconds since the Unix epoch.
    pub expires_at_unix_s: u64,
}

/// What a node is called and where it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileDocument {
    /// What its operator calls it.
    pub alias: String,
    /// Where it can be reached.
    pub endpoints: Vec<ProfileEndpoint>,
}

impl ProfileDocument {
    /// Writes the line with its end.
    pub fn to_line(&self) -> Vec<u8> {
        let endpoints: Vec<_> = self.endpoints.iter().map(endpoint_json).collect();
        let alias = json_string(&self.alias);
        format!("{{\"alias\":{alias},\"endpoints\":[{}]}}\n", endpoints.join(",")).into_bytes()
    }
}

fn endpoint_json(known: &ProfileEndpoint) -> String {
    format!(
        "{{\"network\":\"{}\",\"address\":\"{}\",\"expires_at\":\"{}\"}}",
        known.endpoint.network(),
        known.endpoint.address(),
        Rfc3339::from_unix_s(known.expires_at_unix_s),
    )
}

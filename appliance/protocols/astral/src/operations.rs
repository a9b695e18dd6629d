//! Every operation this node serves: which queries are one, and what they ask for.
//!
//! Owns the paths and arguments of spec §8.1, §9.3, §10.1, §12.1, §13 and §14; those of §11 are
//! the gateway module's. A data core asks [`is_known`] once per query, which allocates nothing; the
//! management core parses what passes. Who may ask for what is policy, and not decided here.

use core::str::FromStr;

use crate::frame::Profile;
use crate::gateway::{self, GatewayOperation, GatewayQueryError};
use crate::identity::{Identity, IdentityError};
use crate::limits::PUSH_BODY_BYTES_MAX;
pub use crate::object::Encoding;
use crate::object::EncodingError;
use crate::query::{QueryError, QueryString};

/// Path of the alias and endpoints of a node (spec §14, until 2025‑12‑17).
const PROFILE: &str = ".profile";
/// Path of the listing of links (spec §13, since 2026‑05‑05).
const LINKS: &str = "nodes.links";
/// Path of the listing of links until then (spec §13).
const STREAMS: &str = "nodes.streams";
/// Path of the listing of sessions (spec §13, since 2026‑03‑06).
const SESSIONS: &str = "nodes.sessions";
/// Path of a node's endpoints (spec §13).
const RESOLVE_ENDPOINTS: &str = "nodes.resolve_endpoints";
/// Path that prepares a relayed query (spec §10.1).
const RELAY: &str = "nodes.relay";
/// Path of a session's move to another link (spec §9.3).
const MIGRATE_SESSION: &str = "nodes.migrate_session";
/// Path of the listing of services (spec §14).
const DISCOVER: &str = "services.discover";
/// Path on which objects are delivered (spec §12.1).
const PUSH: &str = "objects.push";

/// Paths outside the gateway.
const PATHS: [&str; 9] =
    [PROFILE, LINKS, STREAMS, SESSIONS, RESOLVE_ENDPOINTS, RELAY, MIGRATE_SESSION, DISCOVER, PUSH];

/// A query for one of this node's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// What it asks for.
    pub operation: Operation,
    /// How the caller writes the objects it sends; binary where the operation reads any.
    pub input: Encoding,
    /// How the caller wants the answer written.
    pub output: Encoding,
}

/// What a query asks of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// An operation of the gateway. What it answers in the first generation, and the raw sessions
    /// of both, have no encoding.
    Gateway(GatewayOperation),
    /// Our alias and endpoints, always as JSON of its own form.
    Profile,
    /// Links as `mod.nodes.link_info`.
    Links,
    /// Links as `mod.nodes.stream_info`.
    Streams,
    /// Sessions as `mod.nodes.session_info`.
    Sessions,
    /// Where a node can be reached.
    ResolveEndpoints {
        /// The node.
        identity: Identity,
    },
    /// Says in whose name and for whom the query with this nonce will be.
    Relay {
        /// The session that will come.
        nonce: u64,
        /// Its caller, when that is not the asking node.
        set_caller: Option<Identity>,
        /// Its target, when that is not this node.
        set_target: Option<Identity>,
    },
    /// Moves a session to another link of the same peer.
    MigrateSession {
        /// The link to move to.
        link_id: u64,
        /// The session's nonce.
        session_id: u64,
    },
    /// Lists the services that others may ask for.
    DiscoverServices,
    /// Delivers objects.
    Push {
        /// Bytes of the one canonical object that follows (until 2026‑01‑02); without it a channel
        /// of objects follows.
        size_bytes: Option<u32>,
    },
}

/// Why a query is none that this node serves; its answer is a rejection with code 1 (spec §8.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// No operation has this path.
    #[error("query is for no operation of this node")]
    Unknown,
    /// The string is not a query string.
    #[error("query is malformed")]
    Query(#[from] QueryError),
    /// A gateway operation's arguments are malformed.
    #[error("gateway query is malformed")]
    Gateway(#[from] GatewayQueryError),
    /// The query asks for an encoding that its era does not have.
    #[error("query's `{argument}` names an encoding that this node does not write")]
    Encoding {
        /// `in` or `out`.
        argument: &'static str,
    },
    /// The operation needs this argument.
    #[error("query lacks `{argument}`")]
    Missing {
        /// Its key.
        argument: &'static str,
    },
    /// The argument is no identity.
    #[error("query's `{argument}` is malformed")]
    Identity {
        /// Its key.
        argument: &'static str,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// The argument is not 1 to 16 hexadecimal digits, or zero, which names no session and no link.
    #[error("query's `{argument}` is no nonce")]
    Nonce {
        /// Its key.
        argument: &'static str,
    },
    /// The announced body is empty, or longer than what a node of that era takes.
    #[error("query's `size` is not between 1 and {PUSH_BODY_BYTES_MAX}")]
    Size,
}

/// Tells whether [`parse`] reads `query` as an operation, if perhaps a malformed one.
pub fn is_known(query: &[u8]) -> bool {
    let path = query.split(|&byte| byte == b'?').next().unwrap_or_default();
    gateway::is_known_path(path) || PATHS.iter().any(|known| known.as_bytes() == path)
}

/// Reads a query of a peer that speaks `profile`.
///
/// # Errors
/// [`OperationError::Unknown`] when its path is no operation of ours; otherwise what is wrong with
/// its arguments.
pub fn parse(query: &[u8], profile: Profile) -> Result<Request, OperationError> {
    if let Some(operation) = gateway::parse(query) {
        return gateway_request(operation?, query);
    }
    if !is_known(query) {
        return Err(OperationError::Unknown);
    }
    let query = QueryString::parse(query)?;
    let operation = match query.path() {
        PROFILE => Operation::Profile,
        LINKS => Operation::Links,
        STREAMS => Operation::Streams,
        SESSIONS => Operation::Sessions,
        DISCOVER => Operation::DiscoverServices,
        RESOLVE_ENDPOINTS => Operation::ResolveEndpoints {
            identity: identity(&query, "id")?.ok_or(OperationError::Missing { argument: "id" })?,
        },
        RELAY => Operation::Relay {
            nonce: nonce(&query, "nonce")?,
            set_caller: identity(&query, "set_caller")?,
            set_target: identity(&query, "set_target")?,
        },
        MIGRATE_SESSION => Operation::MigrateSession {
            // Nodes until 2026‑05‑06 call it so (spec §9.3).
            link_id: match query.argument("link_id") {
                Some(_) => nonce(&query, "link_id")?,
                None => nonce(&query, "stream_id")?,
            },
            session_id: nonce(&query, "session_id")?,
        },
        PUSH => Operation::Push { size_bytes: size(&query)? },
        _ => return Err(OperationError::Unknown),
    };
    let (input, output) = encodings(&query, profile)?;
    let reads = matches!(operation, Operation::Push { .. } | Operation::MigrateSession { .. });
    if reads && input.channel_form().is_none() {
        return Err(OperationError::Encoding { argument: "in" });
    }
    Ok(Request { operation, input, output })
}

/// The gateway's channels are younger than C1, so every profile writes them as C2 (spec §11.2).
fn gateway_request(operation: GatewayOperation, query: &[u8]) -> Result<Request, OperationError> {
    let (input, output) = match operation {
        GatewayOperation::Subscribe
        | GatewayOperation::Forward { .. }
        | GatewayOperation::Route { .. } => (Encoding::C2, Encoding::C2),
        GatewayOperation::Register { .. }
        | GatewayOperation::Unregister
        | GatewayOperation::List
        | GatewayOperation::Connect { .. } => encodings(&QueryString::parse(query)?, Profile::P4)?,
    };
    Ok(Request { operation: Operation::Gateway(operation), input, output })
}

fn encodings(
    query: &QueryString<'_>,
    profile: Profile,
) -> Result<(Encoding, Encoding), OperationError> {
    let token = |argument| query.argument(argument).unwrap_or_default();
    let refused = |argument| move |EncodingError| OperationError::Encoding { argument };
    let input = Encoding::parse_input(&token("in"), profile).map_err(refused("in"))?;
    let output = Encoding::parse_output(&token("out"), profile).map_err(refused("out"))?;
    Ok((input, output))
}

/// Reads an optional identity; an empty value and the zero identity are as good as none (§8.3).
fn identity(
    query: &QueryString<'_>,
    argument: &'static str,
) -> Result<Option<Identity>, OperationError> {
    let text = query.argument(argument).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let identity = Identity::from_str(&text)
        .map_err(|source| OperationError::Identity { argument, source })?;
    Ok(Some(identity).filter(|identity| !identity.is_anyone()))
}

/// Reads a nonce, which JSON writes without leading zeros (spec §8.1, §13).
fn nonce(query: &QueryString<'_>, argument: &'static str) -> Result<u64, OperationError> {
    let text = query.argument(argument).ok_or(OperationError::Missing { argument })?;
    // `from_str_radix` would take a sign.
    let is_digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u64::from_str_radix(&text, 16) {
        Ok(nonce) if is_digits && text.len() <= 16 && nonce != 0 => Ok(nonce),
        Ok(_) | Err(_) => Err(OperationError::Nonce { argument }),
    }
}

fn size(query: &QueryString<'_>) -> Result<Option<u32>, OperationError> {
    let Some(text) = query.argument("size") else { return Ok(None) };
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(bytes) if is_digits && (1..=PUSH_BODY_BYTES_MAX).contains(&bytes) => Ok(Some(bytes)),
        Ok(_) | Err(_) => Err(OperationError::Size),
    }
}

#[cfg(test)]
mod tests;

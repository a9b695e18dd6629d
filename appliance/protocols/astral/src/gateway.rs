//! Gateway operations: their query strings, their objects, and the idle connection protocol.
//!
//! Owns spec §11's bytes for both generations. The relay's policy calls the parsers when a query
//! arrives; the engine runs the idle and nonce decoders on socket connections. Nothing here knows
//! who is registered.

pub mod idle;
mod nonce;
mod reply;

pub use nonce::{NonceDecoder, NonceError, nonce_is_distinguishable, nonce_object};
pub use reply::{
    GatewaySocket, SocketObjectError, parse_socket_object, socket_object, subscription_reply,
};

use crate::identity::{Identity, IdentityError};
use crate::query::{QueryError, QueryString};

/// Path of a second generation registration (spec §11.2).
const REGISTER: &str = "gateway.node_register";
/// Path that ends it (spec §11.2).
const UNREGISTER: &str = "gateway.node_unregister";
/// Path that lists public registrations (spec §11.2).
const LIST: &str = "gateway.node_list";
/// Path that asks for a socket (spec §11.2).
const CONNECT: &str = "gateway.node_connect";
/// Path whose session becomes the pipe (spec §11.2).
const ROUTE: &str = "gateway.node_route";
/// Path of a first generation subscription (spec §11.1).
const SUBSCRIBE: &str = ".gateway.subscribe";
/// What a first generation pipe's path starts with, before 66 digits (spec §11.1).
const FORWARD_PREFIX: &str = ".gateway.";

/// Whether a registration is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Listed by `gateway.node_list`.
    Public,
    /// Reachable for those who know the identity. A missing or unknown visibility means this.
    Private,
}

/// What a query asks of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GatewayOperation {
    /// Registers the caller and asks for a socket to fill with idle connections (G2).
    Register {
        /// Whether to list it.
        visibility: Visibility,
    },
    /// Ends the caller's registration (G2).
    Unregister,
    /// Lists public registrations (G2).
    List,
    /// Asks for a socket on which `target` will answer (G2).
    Connect {
        /// A registered node.
        target: Identity,
    },
    /// Makes the session a pipe to `target` (G2).
    Route {
        /// A node with a link.
        target: Identity,
    },
    /// Announces that the caller may be reached through us (G1).
    Subscribe,
    /// Makes the session a pipe to `target`, or to our own responder when that is us (G1).
    Forward {
        /// A node with a link.
        target: Identity,
    },
}

/// Why a gateway query is malformed; its answer is a rejection with code 1 (spec §8.3, §11.1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayQueryError {
    /// The string is not a query string.
    #[error("gateway query is malformed")]
    Query(#[from] QueryError),
    /// The operation needs a target.
    #[error("gateway query has no target")]
    TargetMissing,
    /// The target is no identity.
    #[error("gateway query's target is malformed")]
    Target(#[from] IdentityError),
    /// The zero identity is nobody to connect to.
    #[error("gateway query's target is the zero identity")]
    TargetIsAnyone,
}

/// Tells whether a query with this path is a gateway operation, if perhaps a malformed one.
pub(crate) fn is_known_path(path: &[u8]) -> bool {
    let whole = [REGISTER, UNREGISTER, LIST, CONNECT, ROUTE];
    whole.iter().any(|known| known.as_bytes() == path)
        || path.starts_with(FORWARD_PREFIX.as_bytes())
}

/// Reads a query as a gateway operation; `None` when its path is not one.
///
/// # Errors
/// [`GatewayQueryError`] when the path is a gateway operation and its arguments are malformed.
pub fn parse(query: &[u8]) -> Option<Result<GatewayOperation, GatewayQueryError>> {
    let path = query.split(|&byte| byte == b'?').next().unwrap_or_default();
    let path = core::str::from_utf8(path).ok()?;
    let operation = match path {
        REGISTER => read_visibility(query),
        UNREGISTER => Ok(GatewayOperation::Unregister),
        LIST => Ok(GatewayOperation::List),
        CONNECT => read_target(query).map(|target| GatewayOperation::Connect { target }),
        ROUTE => read_target(query).map(|target| GatewayOperation::Route { target }),
        SUBSCRIBE => Ok(GatewayOperation::Subscribe),
        _ => {
            let target = path.strip_prefix(FORWARD_PREFIX)?;
            parse_target(target).map(|target| GatewayOperation::Forward { target })
        }
    };
    Some(operation)
}

fn read_visibility(query: &[u8]) -> Result<GatewayOperation, GatewayQueryError> {
    let visibility = match QueryString::parse(query)?.argument("visibility").as_deref() {
        Some("public") => Visibility::Public,
        Some(_) | None => Visibility::Private,
    };
    Ok(GatewayOperation::Register { visibility })
}

fn read_target(query: &[u8]) -> Result<Identity, GatewayQueryError> {
    match QueryString::parse(query)?.argument("target") {
        Some(target) => parse_target(&target),
        None => Err(GatewayQueryError::TargetMissing),
    }
}

fn parse_target(target: &str) -> Result<Identity, GatewayQueryError> {
    if target.is_empty() {
        return Err(GatewayQueryError::TargetMissing);
    }
    let target: Identity = target.parse()?;
    if target.is_anyone() {
        return Err(GatewayQueryError::TargetIsAnyone);
    }
    Ok(target)
}

#[cfg(test)]
mod tests;

//! Why a dial did not become a link.

use super::socks5::SocksError;
use std::io;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;
use waystation_relay::drop_reason::DropReason;

/// A dial that failed, with the endpoint it was for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint}: {cause}")]
pub struct DialError {
    pub endpoint: Endpoint,
    pub cause: DialCause,
}

/// What was in the way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialCause {
    /// The endpoint is on a network that this node does not speak.
    #[error("nothing is dialed over {network}")]
    NetworkNotDialed { network: &'static str },
    /// The endpoint is an onion service and there is no way to one.
    #[error("no Tor proxy is configured (dial.tor_proxy)")]
    NoTorProxy,
    /// The gateway endpoint leads through its own target.
    #[error("the gateway is the target itself")]
    GatewayIsTarget,
    /// The gateway endpoint leads through this node.
    #[error("the gateway is this node itself")]
    GatewayIsSelf,
    /// The gateway endpoint leads to somebody else.
    #[error("the endpoint leads to {target}")]
    OtherTarget { target: Identity },
    /// The identity to be dialed is this node's, or nobody's.
    #[error("this identity cannot be dialed")]
    NotDialable,
    /// There is no link to the gateway, and none came about.
    #[error("there is no link to the gateway {gateway}")]
    GatewayNotLinked { gateway: Identity },
    /// No connection in time.
    #[error("no connection within the time limit")]
    ConnectTimeout,
    /// The kernel or the other side refused the connection.
    #[error("cannot connect: {0}")]
    Connect(io::ErrorKind),
    /// The Tor proxy cannot be reached, or says no.
    #[error("Tor proxy: {0}")]
    Proxy(#[from] SocksError),
    /// The gateway refused with a text.
    #[error("the gateway refuses: {text:?}")]
    GatewayRefused { text: String },
    /// The gateway rejected the query.
    #[error("the gateway rejects the query with code {code}")]
    GatewayRejected { code: u8 },
    /// The gateway did not answer in time.
    #[error("the gateway does not answer")]
    GatewayTimeout,
    /// The gateway's answer makes no sense.
    #[error("the gateway's answer is malformed")]
    GatewayAnswer,
    /// The gateway names a socket that cannot be dialed from here.
    #[error("the gateway's socket {socket} cannot be dialed")]
    GatewaySocket { socket: Endpoint },
    /// The connection was made, but no link on it.
    #[error("no link on the connection: {}", .0.name())]
    Link(DropReason),
    /// The data core never said what became of it.
    #[error("no link within the time limit")]
    LinkTimeout,
    /// Too many dials by hand at a time.
    #[error("too many dials by hand are under way")]
    TooManyRequests,
    /// The program ends.
    #[error("the program ends")]
    Stopping,
}

/// The kinds of failures that have a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum FailureKind {
    /// The endpoint cannot be dialed by this node at all.
    Refused,
    /// No connection.
    Connect,
    /// The Tor proxy.
    Proxy,
    /// The gateway, or the lack of a link to it.
    Gateway,
    /// A connection, but no link.
    Link,
}

impl FailureKind {
    /// Every kind, in the order of the counters.
    pub const ALL: [Self; 5] =
        [Self::Refused, Self::Connect, Self::Proxy, Self::Gateway, Self::Link];

    /// The name in listings and as the label of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Connect => "connect",
            Self::Proxy => "proxy",
            Self::Gateway => "gateway",
            Self::Link => "link",
        }
    }

    /// The place of this kind in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl DialCause {
    /// The kind under which it is counted.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NetworkNotDialed { .. }
            | Self::NoTorProxy
            | Self::GatewayIsTarget
            | Self::GatewayIsSelf
            | Self::OtherTarget { .. }
            | Self::NotDialable
            | Self::TooManyRequests
            | Self::Stopping => FailureKind::Refused,
            Self::ConnectTimeout | Self::Connect(_) => FailureKind::Connect,
            Self::Proxy(_) => FailureKind::Proxy,
            Self::GatewayNotLinked { .. }
            | Self::GatewayRefused { .. }
            | Self::GatewayRejected { .. }
            | Self::GatewayTimeout
            | Self::GatewayAnswer
            | Self::GatewaySocket { .. } => FailureKind::Gateway,
            Self::Link(_) | Self::LinkTimeout => FailureKind::Link,
        }
    }
}

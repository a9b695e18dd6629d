//! What a UDP session is opened with, and why one cannot be.
//!
//! Values from the management core, checked once when the session opens.

use super::endpoint::LocalPort;
use super::leg::Side;
use super::meter::RateLimit;
use super::proof::Secret;
use super::wireguard::PublicKey;
use crate::address_policy::Denied;
use std::net::SocketAddr;
use thiserror::Error;

/// Everything about a session.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its two legs, A and B.
    pub legs: [LegSettings; 2],
    /// What it carries.
    pub protocol: Protocol,
    /// What may pass in each direction.
    pub rate: RateLimit,
    /// How long nothing may pass before it ends, in nanoseconds, within
    /// [`UDP_IDLE_MIN_NS`](crate::limits::UDP_IDLE_MIN_NS) and
    /// [`UDP_IDLE_MAX_NS`](crate::limits::UDP_IDLE_MAX_NS).
    pub idle_limit_ns: u64,
}

/// One leg.
#[derive(Clone, Debug)]
pub struct LegSettings {
    /// Where its end sends to, and what it hears from.
    pub port: LocalPort,
    /// Where its end is.
    pub learning: Learning,
}

/// How the address of a leg is known.
#[derive(Clone, Debug)]
pub enum Learning {
    /// The operator says so, and it stays.
    Fixed(SocketAddr),
    /// From datagrams that prove a secret; any number of such legs share a port.
    Proof {
        /// What the end proves.
        secret: Secret,
        /// Where it was last.
        first: Option<SocketAddr>,
    },
    /// From WireGuard handshakes that the other end answers; the leg has its port for itself.
    Handshake {
        /// Where it was last.
        first: Option<SocketAddr>,
    },
}

impl Learning {
    /// Where the leg is when its session opens.
    pub(super) fn first(&self) -> Option<SocketAddr> {
        match *self {
            Self::Fixed(address) => Some(address),
            Self::Proof { first, .. } | Self::Handshake { first } => first,
        }
    }
}

/// What a session carries.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// Anything; every datagram of a known address passes.
    Opaque,
    /// WireGuard, and nothing else.
    Wireguard {
        /// The public keys of both ends, if the operator knows them: handshakes that are for
        /// somebody else do not pass.
        public_keys: [Option<PublicKey>; 2],
    },
}

/// Why a session is not opened. The caller has asked for what cannot be, but for the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The table is full.
    #[error("this core has as many UDP sessions as it may")]
    TooManySessions,
    /// Port 0, of this machine or of an address.
    #[error("leg {0:?}: port 0 is none")]
    NoPort(Side),
    /// The address policy does not admit the address.
    #[error("leg {0:?}: {1}")]
    AddressDenied(Side, Denied),
    /// Another leg has this address at this port.
    #[error("leg {0:?}: another leg has this address at this port")]
    AddressTaken(Side),
    /// A leg that is learned by handshakes shares its port.
    #[error("leg {0:?}: a leg that is learned by handshakes has a port for itself")]
    PortTaken(Side),
    /// Handshakes are WireGuard's.
    #[error("leg {0:?}: only WireGuard has handshakes to learn from")]
    NoHandshakes(Side),
    /// Both legs are learned by handshakes, and nothing says who may.
    #[error("both legs would belong to whoever comes first: give one address, or both public keys")]
    NothingProves,
    /// The idle limit is out of range.
    #[error("the idle limit is from a minute to a week")]
    IdleLimit,
    /// The byte rate is out of range.
    #[error("the byte rate is from 1 KiB/s to 1 TB/s")]
    Rate,
}

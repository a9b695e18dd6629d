//! Outbound links: configured peers are kept linked, and an operator may dial by hand.
//!
//! Owned by the management core and used on its thread only. [`Planner`] decides who is dialed, when
//! and over which endpoint; it is sans-IO. [`Dialer`] carries its decisions out with tokio: it makes
//! connections and hands them to data cores, which do the handshake. Nothing here may dial a node
//! that is neither configured nor asked for by the operator, close a link that an older one of ours
//! does not make surplus, or open a gateway's socket port without presenting a nonce (spec §11.2).

mod connect;
mod counts;
mod dialer;
mod error;
pub mod limits;
mod planner;
mod socks5;

pub use connect::Route;
pub use counts::DialCounts;
pub use dialer::{Around, Connected, DialAnswer, Dialer};
pub use error::{DialCause, DialError, FailureKind};
pub use planner::{Action, Handover, PeerRow, PeerState, Planner, RequestId, Step, Surroundings};
pub use socks5::SocksError;

use crate::config::Config;
use std::net::SocketAddr;
use std::time::Duration;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;

/// A node that is kept linked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialPeer {
    pub identity: Identity,
    /// In the order in which they are tried. Without any the peer has to dial us.
    pub endpoints: Vec<Endpoint>,
}

/// What the operator wants of outbound links; it may change while running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialSettings {
    pub peers: Vec<DialPeer>,
    /// The SOCKS5 proxy that reaches onion services.
    pub tor_proxy: Option<SocketAddr>,
    /// Dials at a time, at least 1.
    pub dials_max: usize,
    /// How long one TCP connection may take to come about.
    pub connect_timeout: Duration,
    /// The pause after a first failure is drawn from between nothing and this.
    pub backoff_min: Duration,
    /// What that bound doubles up to.
    pub backoff_max: Duration,
}

impl DialSettings {
    /// What a configuration says about outbound links.
    pub fn of(config: &Config) -> Self {
        let peers = config.peers.iter();
        Self {
            peers: peers
                .map(|peer| DialPeer { identity: peer.identity, endpoints: peer.endpoints.clone() })
                .collect(),
            tor_proxy: config.dial.tor_proxy,
            dials_max: config.dial.dials_max,
            connect_timeout: config.dial.connect_timeout,
            backoff_min: config.dial.backoff_min,
            backoff_max: config.dial.backoff_max,
        }
    }
}

impl Default for DialSettings {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            tor_proxy: None,
            dials_max: limits::DIALS_MAX,
            connect_timeout: limits::CONNECT_TIMEOUT,
            backoff_min: limits::BACKOFF_MIN,
            backoff_max: limits::BACKOFF_MAX,
        }
    }
}

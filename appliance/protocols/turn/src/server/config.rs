//! What an operator says about a TURN server.
//!
//! Owns the values and their ranges; read once, when a server is made.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use thiserror::Error;

use crate::attribute::Family;
use crate::limits::{
    ALLOCATION_LIFETIME_DEFAULT_S, ALLOCATION_LIFETIME_MAX_S, ALLOCATIONS_DEFAULT_MAX,
    ALLOCATIONS_PER_USER_DEFAULT_MAX, CHANNELS_DEFAULT_MAX, NONCE_LIFETIME_DEFAULT_S,
    PERMISSIONS_DEFAULT_MAX, RESERVATIONS_MAX, SOFTWARE_BYTES_MAX, STRANGER_REPLIES_DEFAULT_BURST,
    STRANGER_REPLIES_DEFAULT_PER_S,
};
use crate::ports::{Ports, TakenPorts};

/// Lowest port that allocations may have: those below are for services (RFC 8656 §7.2).
const RELAYED_PORT_MIN: u16 = 1024;

/// Ports of one address that peers see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayedRange {
    /// The address.
    pub ip: IpAddr,
    /// The ports; another core or program must not use them.
    pub ports: RangeInclusive<u16>,
}

/// What an operator says about a TURN server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Relayed addresses, at most one of each family and at least one.
    pub relayed: Vec<RelayedRange>,
    /// What answers to Allocate and Refresh call the server, if anything.
    pub software: Option<String>,
    /// Whether datagrams can be sent so that they are not fragmented; otherwise DONT-FRAGMENT is an
    /// unknown attribute.
    pub dont_fragment: bool,
    /// Allocations at most.
    pub allocations_max: usize,
    /// Allocations and reservations of one user at most, on all servers that share their quotas.
    pub allocations_per_user_max: u32,
    /// Permissions of one allocation at most.
    pub permissions_max: usize,
    /// Channels of one allocation at most.
    pub channels_max: usize,
    /// Seconds for which an allocation lasts unless its client asks for longer.
    pub lifetime_default_s: u32,
    /// Seconds for which an allocation lasts at most.
    pub lifetime_max_s: u32,
    /// Seconds for which a nonce is good.
    pub nonce_lifetime_s: u32,
    /// Answers a second to sources of one /32 or /64 that proved nothing.
    pub stranger_replies_per_s: u32,
    /// Answers to such sources at once.
    pub stranger_replies_burst: u32,
}

impl ServerConfig {
    /// A server with everything but its addresses as the RFCs recommend it.
    pub fn new(relayed: Vec<RelayedRange>) -> Self {
        Self {
            relayed,
            software: None,
            dont_fragment: true,
            allocations_max: ALLOCATIONS_DEFAULT_MAX,
            allocations_per_user_max: ALLOCATIONS_PER_USER_DEFAULT_MAX,
            permissions_max: PERMISSIONS_DEFAULT_MAX,
            channels_max: CHANNELS_DEFAULT_MAX,
            lifetime_default_s: ALLOCATION_LIFETIME_DEFAULT_S,
            lifetime_max_s: ALLOCATION_LIFETIME_MAX_S,
            nonce_lifetime_s: NONCE_LIFETIME_DEFAULT_S,
            stranger_replies_per_s: STRANGER_REPLIES_DEFAULT_PER_S,
            stranger_replies_burst: STRANGER_REPLIES_DEFAULT_BURST,
        }
    }

    /// Allocations and reservations that a server may have at a time: what has to be counted.
    pub fn holders_max(&self) -> usize {
        self.allocations_max + RESERVATIONS_MAX
    }

    /// All ports of both families, none of them taken, if everything is in its range.
    pub(crate) fn check(&self) -> Result<[Option<TakenPorts>; 2], ConfigError> {
        if self.software.as_ref().is_some_and(|name| name.len() > SOFTWARE_BYTES_MAX) {
            return Err(ConfigError::Software);
        }
        if self.lifetime_default_s == 0 || self.lifetime_max_s < self.lifetime_default_s {
            return Err(ConfigError::Lifetime);
        }
        let numbers = [
            self.allocations_max,
            self.permissions_max,
            self.channels_max,
            self.allocations_per_user_max as usize,
            self.nonce_lifetime_s as usize,
            self.stranger_replies_per_s as usize,
            self.stranger_replies_burst as usize,
        ];
        if numbers.contains(&0) || self.allocations_max > u32::MAX as usize {
            return Err(ConfigError::Zero);
        }
        self.check_relayed()
    }

    /// What it has of ports that servers share.
    pub(super) fn share_of(
        &self,
        taken: &[Option<Arc<TakenPorts>>; 2],
    ) -> Result<[Option<Ports>; 2], ConfigError> {
        self.check()?;
        let mut ports = [None, None];
        for RelayedRange { ip, ports: share } in &self.relayed {
            let family = Family::of(*ip).index();
            let (Some(Some(all)), Some(place)) = (taken.get(family), ports.get_mut(family)) else {
                return Err(ConfigError::NotShared);
            };
            let is_same = all.ip() == *ip;
            let own = is_same.then(|| Ports::new(Arc::clone(all), share)).flatten();
            *place = Some(own.ok_or(ConfigError::NotShared)?);
        }
        Ok(ports)
    }

    fn check_relayed(&self) -> Result<[Option<TakenPorts>; 2], ConfigError> {
        let mut ports = [None, None];
        for RelayedRange { ip, ports: range } in &self.relayed {
            if range.is_empty() || *range.start() < RELAYED_PORT_MIN {
                return Err(ConfigError::Ports);
            }
            if ip.is_unspecified() || ip.is_multicast() {
                return Err(ConfigError::Address);
            }
            let Some(place) = ports.get_mut(Family::of(*ip).index()) else {
                continue;
            };
            if place.is_some() {
                return Err(ConfigError::FamilyTwice);
            }
            *place = Some(TakenPorts::new(*ip, range.clone()));
        }
        if ports.iter().all(Option::is_none) {
            return Err(ConfigError::NoAddress);
        }
        Ok(ports)
    }
}

/// A configuration that cannot be; the operator wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No relayed address.
    #[error("a server needs a relayed address")]
    NoAddress,
    /// Two relayed addresses of one family.
    #[error("a server has one relayed address of a family")]
    FamilyTwice,
    /// A relayed address that no peer can send to.
    #[error("a relayed address is one of this machine's, not all or many")]
    Address,
    /// A range of ports that is empty or begins too low.
    #[error("a range of ports has some, from {RELAYED_PORT_MIN} up")]
    Ports,
    /// An address or ports that are not among those that servers share; whoever made them wrote it.
    #[error("a server's address and ports are not among those that are shared")]
    NotShared,
    /// A name that is too long.
    #[error("the software's name has at most {SOFTWARE_BYTES_MAX} bytes")]
    Software,
    /// A default lifetime of 0, or one above the longest.
    #[error("the default lifetime lies between 1 s and the longest")]
    Lifetime,
    /// A limit of 0, or of more allocations than can be numbered.
    #[error("a limit is 0 or too large")]
    Zero,
}

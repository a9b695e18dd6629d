//! What the servers of an address have in common: what each user has, which ports are taken, and which
//! are kept for a client to come.
//!
//! Made once by whoever makes the servers; each of them has a share of the ports. All of it is atomic
//! words, looked at when an allocation begins or ends and for no packet. It exists because the kernel
//! deals clients to cores, and a client's second 5-tuple may come to another one than its first: a
//! port that one server has kept, another one may give out and give back.

use crate::limits::NONCE_KEY_BYTES;
use crate::ports::TakenPorts;
use crate::quotas::UserQuotas;
use crate::server::{ConfigError, Reservations, ServerConfig};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Shared {
    pub(crate) quotas: UserQuotas,
    /// Of IPv4 and of IPv6.
    pub(crate) taken: [Option<Arc<TakenPorts>>; 2],
    pub(crate) reservations: Reservations,
}

impl Shared {
    /// Nothing yet, for so many servers whose ports are shares of those in a configuration. The key
    /// has to be random.
    ///
    /// # Errors
    ///
    /// If the configuration breaks a limit or contradicts itself.
    pub fn new(
        config: &ServerConfig,
        servers: usize,
        key: &[u8; NONCE_KEY_BYTES],
    ) -> Result<Self, ConfigError> {
        let taken = config.check()?;
        let ips = taken.each_ref().map(|taken| taken.as_ref().map(|taken| taken.ip()));
        let holders_max = servers.max(1) * config.holders_max();
        Ok(Self {
            quotas: UserQuotas::new(key, holders_max),
            taken: taken.map(|taken| taken.map(Arc::new)),
            reservations: Reservations::new(ips, servers),
        })
    }
}

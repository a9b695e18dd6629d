//! Addresses of this machine that come and go while it runs: nobody is relayed to them.
//!
//! Looked at once a second on the management core. A change is published to all data cores as a
//! reload is, without one: keys of the configuration stay as they are.

use super::ManagementCore;
use std::net::IpAddr;

/// Gives all addresses of the machine if some may have come or gone since it was called last. Called
/// on the management thread, so it must not wait.
pub type OwnAddresses = Box<dyn FnMut() -> Option<Vec<IpAddr>> + Send>;

impl ManagementCore {
    /// Takes up addresses of this machine if they have changed.
    pub(super) fn follow_own_addresses(&mut self) {
        // While a reload is under way its epoch is waited for; announcements wait as well.
        if self.reload.is_some() {
            return;
        }
        let Some(own) = self.own_addresses.as_mut().and_then(|changed| changed()) else { return };
        let before = self.config.clone();
        let mut wanted = before.clone();
        if wanted.turn.is_enabled() {
            wanted.turn.found.own_addresses.clone_from(&own);
        }
        wanted.udp.own_addresses = own;
        if wanted == before {
            return;
        }
        let (of_turn, of_udp) = (wanted.turn.peers().map(drop), wanted.udp.peers().map(drop));
        if let Err(error) = of_turn.and(of_udp) {
            return tracing::error!("the old addresses of this machine stay in force: {error}");
        }
        let addresses = wanted.udp.own_addresses.len();
        tracing::info!(addresses, "addresses of this machine have come or gone");
        self.config = wanted;
        self.take_up_xdp(&before);
        self.publish();
    }
}

//! Rows about allocations, for listings.
//!
//! Part of the TURN server; a listing takes a bounded number of rows in each turn of the core.

use super::TurnServer;
use crate::control::{AllocationRow, Listing};
use waystation_relay::ids::CoreId;

impl TurnServer {
    /// Looks at so many allocations at most, from a place on. Returns the place to go on from,
    /// none after the last, and how many more it would have looked at.
    pub(in crate::core) fn list(
        &self,
        core: CoreId,
        now_ns: u64,
        first: usize,
        most: usize,
        listing: &mut Listing,
    ) -> (Option<usize>, usize) {
        let mut left = most;
        for (place, view) in self.server.allocations_from(first) {
            if left == 0 {
                return (Some(place), 0);
            }
            left -= 1;
            listing.allocations_total += 1;
            if listing.allocations.len() == listing.allocations.capacity() {
                continue;
            }
            let tally = self.hosting.tallies.get(place).copied().unwrap_or_default();
            listing.allocations.push(AllocationRow {
                core,
                client: view.client,
                username: view.username.into(),
                relayed: view.relayed,
                permissions: view.permissions,
                channels: view.channels,
                left_ns: view.ends_ns.unwrap_or(now_ns).saturating_sub(now_ns),
                tier: self.outgoing.tier_of(view.client.client.ip()),
                datagrams_to_peers: tally.datagrams_to_peers,
                bytes_to_peers: tally.bytes_to_peers,
                datagrams_to_client: tally.datagrams_to_client,
                bytes_to_client: tally.bytes_to_client,
                datagrams_in_trains: tally.datagrams_in_trains,
                datagrams_in_frames: tally.datagrams_in_frames,
                datagrams_offloaded: tally.datagrams_offloaded,
                directions_offloaded: tally.directions_offloaded,
            });
        }
        (None, left)
    }
}

//! Rows about opaque sessions, for listings.
//!
//! Part of a core's opaque sessions; a listing takes a bounded number of rows in each turn.

use super::OpaqueSessions;
use crate::control::{Listing, OpaqueLegRow, OpaqueRow};
use waystation_relay::udp::Side;

impl OpaqueSessions {
    /// Looks at so many sessions at most, from a place on. Returns the place to go on from, none
    /// after the last.
    pub(in crate::core) fn list(
        &self,
        now_ns: u64,
        first: u32,
        most: usize,
        listing: &mut Listing,
    ) -> Option<u32> {
        for (left, listed) in (0..=most).rev().zip(self.sessions.listed_from(first)) {
            if left == 0 {
                return Some(listed.session.slot);
            }
            listing.opaque_total += 1;
            if listing.opaque.len() == listing.opaque.capacity() {
                continue;
            }
            let carried =
                self.carried.get(listed.session.slot as usize).copied().unwrap_or_default();
            let leg = |side: Side| {
                let leg = listed.legs[side.index()];
                OpaqueLegRow {
                    port: leg.port,
                    address: leg.address,
                    heard_ago_ns: (leg.packets > 0).then(|| now_ns.saturating_sub(leg.heard_ns)),
                    datagrams_in: leg.packets,
                    bytes_in: leg.bytes,
                    datagrams_out: carried.datagrams[side.index()],
                    bytes_out: carried.bytes[side.index()],
                }
            };
            listing.opaque.push(OpaqueRow {
                session: listed.session,
                is_wireguard: listed.is_wireguard,
                legs: Side::BOTH.map(leg),
                tier: self.choice(listed.session),
                age_ns: now_ns.saturating_sub(listed.opened_ns),
                dropped_datagrams: listed.dropped_packets,
                datagrams_in_trains: carried.datagrams_in_trains,
                datagrams_in_frames: carried.datagrams_in_frames,
                datagrams_offloaded: carried.datagrams_offloaded,
            });
        }
        None
    }
}

//! Listings of links, pipes and sessions, a part in each turn.
//!
//! A core with many links would hold up their traffic for as long as it takes to look at all of
//! them. So it looks at a bounded number in each turn and goes on where it stopped. What comes or
//! goes meanwhile may be in a listing or not; nothing is in it twice.

use super::DataCore;
use crate::control::{Listing, Report};
use crate::limits::{LISTED_PER_TURN, LISTINGS_UNDER_WAY_MAX};
use crate::port::Port;
use waystation_relay::ids::LinkTag;

/// A listing with the places that come next.
#[derive(Debug)]
pub(super) struct ListingWalk {
    listing: Box<Listing>,
    /// Nothing when all of them have been looked at.
    connection: Option<u32>,
    leg: Option<u32>,
    allocation: Option<usize>,
    opaque: Option<u32>,
}

impl<P: Port> DataCore<P> {
    /// Takes a listing to be filled. What the listing has no room for is not looked at: an operator
    /// who asks for links does not pay for sessions.
    pub(super) fn begin_listing(&mut self, mut listing: Box<Listing>) {
        listing.links.clear();
        listing.sessions.clear();
        listing.allocations.clear();
        listing.opaque.clear();
        (listing.links_total, listing.sessions_total) = (0, 0);
        (listing.allocations_total, listing.opaque_total) = (0, 0);
        let leg = (listing.sessions.capacity() > 0).then_some(0);
        let allocation = (listing.allocations.capacity() > 0).then_some(0);
        let opaque = (listing.opaque.capacity() > 0).then_some(0);
        let wants_connections = listing.links.capacity() + listing.sessions.capacity() > 0;
        let wants_udp = allocation.is_some() || opaque.is_some();
        let connection = (!wants_udp || wants_connections).then_some(0);
        let mut walk = ListingWalk { listing, connection, leg, allocation, opaque };
        if self.listings.len() < LISTINGS_UNDER_WAY_MAX {
            self.listings.push_back(walk);
            return;
        }
        self.look_at_connections(&mut walk, usize::MAX);
        self.look_at_legs(&mut walk, usize::MAX);
        self.look_at_allocations(&mut walk, usize::MAX);
        self.look_at_opaque(&mut walk, usize::MAX);
        self.finish_listing(walk);
    }

    /// Does this turn's part of the oldest listing.
    pub(super) fn go_on_listing(&mut self) {
        let Some(mut walk) = self.listings.pop_front() else { return };
        self.in_vain = false;
        let left = self.look_at_connections(&mut walk, LISTED_PER_TURN);
        self.look_at_legs(&mut walk, left);
        self.look_at_allocations(&mut walk, LISTED_PER_TURN);
        self.look_at_opaque(&mut walk, LISTED_PER_TURN);
        match (walk.connection, walk.leg, walk.allocation, walk.opaque) {
            (None, None, None, None) => self.finish_listing(walk),
            _ => self.listings.push_front(walk),
        }
        if !self.listings.is_empty() {
            // The next turn must not sleep on them.
            self.port.waker().wake();
        }
    }

    fn finish_listing(&mut self, walk: ListingWalk) {
        let core = self.fabric.core;
        self.fabric.report(Report::Listing { core, listing: walk.listing });
    }

    /// Looks at so many connections at most; says how many more it would have.
    fn look_at_connections(&self, walk: &mut ListingWalk, most: usize) -> usize {
        let Some(first) = walk.connection else { return most };
        let listing = &mut *walk.listing;
        let only = listing.only;
        let mut left = most;
        for (slot, generation, connection) in self.connections.iter_from(first) {
            if left == 0 {
                walk.connection = Some(slot);
                return 0;
            }
            left -= 1;
            let tag = LinkTag { core: self.fabric.core, slot, generation };
            if let Some(row) = self.link_row(tag, connection)
                && only.is_none_or(|only| only == row.identity)
            {
                listing.links_total += 1;
                push_within_capacity(&mut listing.links, row);
            }
            if only.is_none()
                && let Some(row) = self.pipe_row(tag, connection)
            {
                listing.sessions_total += 1;
                push_within_capacity(&mut listing.sessions, row);
            }
        }
        walk.connection = None;
        left
    }

    fn look_at_legs(&self, walk: &mut ListingWalk, most: usize) {
        let (None, Some(first)) = (walk.connection, walk.leg) else { return };
        let listing = &mut *walk.listing;
        let only = listing.only;
        let mut left = most;
        for (tag, leg) in self.fabric.switch.legs_from(first) {
            if left == 0 {
                walk.leg = Some(tag.slot);
                return;
            }
            left -= 1;
            if only.is_some_and(|only| only != self.identity_of(leg)) {
                continue;
            }
            listing.sessions_total += 1;
            if listing.sessions.len() < listing.sessions.capacity() {
                listing.sessions.push(self.session_row(tag, leg));
            }
        }
        walk.leg = None;
    }

    fn look_at_allocations(&self, walk: &mut ListingWalk, most: usize) {
        let (None, None, Some(first)) = (walk.connection, walk.leg, walk.allocation) else {
            return;
        };
        let (core, now_ns) = (self.fabric.core, self.now_ns);
        let listing = &mut *walk.listing;
        walk.allocation =
            self.turn.as_ref().and_then(|turn| turn.list(core, now_ns, first, most, listing).0);
    }

    fn look_at_opaque(&self, walk: &mut ListingWalk, most: usize) {
        let (None, None, None, Some(first)) =
            (walk.connection, walk.leg, walk.allocation, walk.opaque)
        else {
            return;
        };
        let (now_ns, listing) = (self.now_ns, &mut *walk.listing);
        let opaque = self.opaque.as_ref();
        walk.opaque = opaque.and_then(|opaque| opaque.list(now_ns, first, most, listing));
    }
}

/// Listings fill memory the management core made; a data core does not grow them.
fn push_within_capacity<T>(rows: &mut Vec<T>, row: T) {
    if rows.len() < rows.capacity() {
        rows.push(row);
    }
}

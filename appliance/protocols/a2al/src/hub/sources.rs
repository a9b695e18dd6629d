//! What one source has of a hub, and how often it comes and calls.
//!
//! A source is an IPv4 address or a /56 of IPv6, which is what one customer is given. Counted
//! exactly while a connection is there; rates are remembered for those seen last.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::limits::{HUB_ARRIVALS_PER_SOURCE, HUB_CALLS_PER_SOURCE, HUB_SOURCES_MAX};
use crate::prefix::Prefix;
use crate::rate::{TokenBucket, take};
use crate::recent::RecentMap;
use crate::time::Millis;

/// Whom limits are counted for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Source {
    Address([u8; 4]),
    Customer(Prefix),
}

impl Source {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::Address(ip.octets()),
            ip @ IpAddr::V6(_) => Self::Customer(Prefix::customer(ip)),
        }
    }
}

/// What a source has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Holding {
    pub(super) connections: usize,
    pub(super) registrations: usize,
    pub(super) waiting: usize,
}

#[derive(Debug)]
pub(super) struct Sources {
    holdings: HashMap<Source, Holding>,
    arrivals: RecentMap<Source, TokenBucket>,
    calls: RecentMap<Source, TokenBucket>,
}

impl Sources {
    pub(super) fn new() -> Self {
        Self {
            holdings: HashMap::new(),
            arrivals: RecentMap::new(HUB_SOURCES_MAX),
            calls: RecentMap::new(HUB_SOURCES_MAX),
        }
    }

    pub(super) fn holding(&self, source: Source) -> Holding {
        self.holdings.get(&source).copied().unwrap_or_default()
    }

    /// Sources that have something.
    pub(super) fn len(&self) -> usize {
        self.holdings.len()
    }

    /// Changes what a source has; one that has nothing is forgotten.
    pub(super) fn change(&mut self, source: Source, change: impl FnOnce(&mut Holding)) {
        let holding = self.holdings.entry(source).or_default();
        change(holding);
        if *holding == Holding::default() {
            self.holdings.remove(&source);
        }
    }

    pub(super) fn may_arrive(&mut self, source: Source, now: Millis) -> bool {
        take(&mut self.arrivals, source, HUB_ARRIVALS_PER_SOURCE, now)
    }

    pub(super) fn may_call(&mut self, source: Source, now: Millis) -> bool {
        take(&mut self.calls, source, HUB_CALLS_PER_SOURCE, now)
    }
}

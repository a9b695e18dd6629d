//! Who may ask how often (specification §17.3).
//!
//! Owns token buckets per network and per publisher, one for all strangers together, and one for all
//! proved addresses in whose name others write. All but that
//! of publishers come before a signature is verified, so that a flood of strangers costs parsing and
//! no more, however many addresses it comes from. What is over is dropped silently and counted: the
//! protocol has no way to say so, and a sender that is told nothing backs off.

use std::net::IpAddr;

use crate::keys::PublicKey;
use crate::limits::{
    ANSWERS_TO_STRANGERS, PACKETS_PER_ADDRESS, PACKETS_PER_ADDRESS_BEACON, RATE_SOURCES_MAX,
    STORES_PER_ADDRESS, STORES_PER_ADDRESS_BEACON, STORES_PER_PUBLISHER,
    STORES_PER_PUBLISHER_BEACON, STRANGERS_DEFAULT, VALIDATIONS_PER_NETWORK,
};
use crate::prefix::Prefix;
use crate::recent::RecentMap;
use crate::time::Millis;

/// How often something may happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// Times a second, in the long run.
    pub per_s: u32,
    /// Times at once.
    pub burst: u32,
}

impl Rate {
    /// A rate with a burst of what it lets pass in two seconds.
    pub const fn with_burst_of_two_seconds(per_s: u32) -> Self {
        Self { per_s, burst: per_s.saturating_mul(2) }
    }
}

/// Rates that depend on what a node is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rates {
    /// Datagrams from one address.
    pub packets_per_address: Rate,
    /// STOREs from one address.
    pub stores_per_address: Rate,
    /// Records that one key has signed.
    pub stores_per_publisher: Rate,
    /// Messages of all senders together that have proved nothing; and as many of all proved addresses
    /// in whose name others write.
    pub strangers: Rate,
}

impl Rates {
    /// Those of a node among others, which keeps a share of the network's records.
    pub const MEMBER: Self = Self {
        packets_per_address: PACKETS_PER_ADDRESS,
        stores_per_address: STORES_PER_ADDRESS,
        stores_per_publisher: STORES_PER_PUBLISHER,
        strangers: STRANGERS_DEFAULT,
    };
    /// Those of a beacon, to which each daemon brings everything that it has.
    pub const BEACON: Self = Self {
        packets_per_address: PACKETS_PER_ADDRESS_BEACON,
        stores_per_address: STORES_PER_ADDRESS_BEACON,
        stores_per_publisher: STORES_PER_PUBLISHER_BEACON,
        strangers: STRANGERS_DEFAULT,
    };
}

/// How much of a rate is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    /// Thousandths of a token.
    tokens_milli: u64,
    filled_at: Millis,
}

/// Rates by what they are counted for.
#[derive(Debug)]
pub struct RateLimits {
    rates: Rates,
    packets: RecentMap<IpAddr, TokenBucket>,
    stores: RecentMap<IpAddr, TokenBucket>,
    publishers: RecentMap<PublicKey, TokenBucket>,
    strangers: RecentMap<Prefix, TokenBucket>,
    validations: RecentMap<Prefix, TokenBucket>,
    all_strangers: Option<TokenBucket>,
    doubted: Option<TokenBucket>,
    over_streams: Option<TokenBucket>,
}

impl RateLimits {
    /// Limits that nobody has used yet.
    pub fn new(rates: Rates) -> Self {
        Self {
            rates,
            packets: RecentMap::new(RATE_SOURCES_MAX),
            stores: RecentMap::new(RATE_SOURCES_MAX),
            publishers: RecentMap::new(RATE_SOURCES_MAX),
            strangers: RecentMap::new(RATE_SOURCES_MAX),
            validations: RecentMap::new(RATE_SOURCES_MAX),
            all_strangers: None,
            doubted: None,
            over_streams: None,
        }
    }

    /// A datagram from an address.
    pub fn allows_packet(&mut self, ip: IpAddr, now: Millis) -> bool {
        take(&mut self.packets, ip, self.rates.packets_per_address, now)
    }

    /// A STORE from an address.
    pub fn allows_store(&mut self, ip: IpAddr, now: Millis) -> bool {
        take(&mut self.stores, ip, self.rates.stores_per_address, now)
    }

    /// A record that a key has signed.
    pub fn allows_record(&mut self, publisher: PublicKey, now: Millis) -> bool {
        take(&mut self.publishers, publisher, self.rates.stores_per_publisher, now)
    }

    /// An answer to an address that has proved nothing.
    pub fn allows_answer_to_stranger(&mut self, ip: IpAddr, now: Millis) -> bool {
        take(&mut self.strangers, Prefix::customer(ip), ANSWERS_TO_STRANGERS, now)
    }

    /// A message of any address that has proved nothing: verifying it is work for whoever may be
    /// nobody.
    pub fn allows_stranger(&mut self, now: Millis) -> bool {
        let rate = self.rates.strangers;
        self.all_strangers.get_or_insert_with(|| TokenBucket::full(rate, now)).take(1, rate, now)
    }

    /// A message of any proved address in whose name others write. They share as much as strangers do,
    /// and leave those theirs.
    pub fn allows_doubted(&mut self, now: Millis) -> bool {
        let rate = self.rates.strangers;
        self.doubted.get_or_insert_with(|| TokenBucket::full(rate, now)).take(1, rate, now)
    }

    /// A question over a stream. They have a bucket of their own, so that a flood of datagrams, which
    /// may be forged, leaves them alone, and the other way round.
    pub fn allows_question_over_stream(&mut self, now: Millis) -> bool {
        let rate = self.rates.strangers;
        self.over_streams.get_or_insert_with(|| TokenBucket::full(rate, now)).take(1, rate, now)
    }

    /// A question of ours that a stranger's message has caused.
    pub fn allows_validation(&mut self, ip: IpAddr, now: Millis) -> bool {
        take(&mut self.validations, Prefix::customer(ip), VALIDATIONS_PER_NETWORK, now)
    }
}

impl TokenBucket {
    /// One from which nothing was taken yet.
    pub(crate) fn full(rate: Rate, now: Millis) -> Self {
        Self { tokens_milli: u64::from(rate.burst) * 1000, filled_at: now }
    }

    /// Takes that many, or none if there are fewer.
    pub(crate) fn take(&mut self, count: u32, rate: Rate, now: Millis) -> bool {
        let full = u64::from(rate.burst) * 1000;
        // A token is a thousand thousandths, and a second a thousand milliseconds.
        let earned = now.since(self.filled_at).saturating_mul(u64::from(rate.per_s));
        self.tokens_milli = self.tokens_milli.saturating_add(earned).min(full);
        self.filled_at = now;
        let wanted = u64::from(count) * 1000;
        let has_enough = self.tokens_milli >= wanted;
        if has_enough {
            self.tokens_milli -= wanted;
        }
        has_enough
    }
}

pub(crate) fn take<K: Eq + std::hash::Hash + Copy>(
    buckets: &mut RecentMap<K, TokenBucket>,
    key: K,
    rate: Rate,
    now: Millis,
) -> bool {
    buckets.entry(key, || TokenBucket::full(rate, now)).take(1, rate, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut limits = RateLimits::new(Rates::MEMBER);
        let ip = "203.0.113.9".parse().unwrap();
        let mut passed = |from_ms: u64, count: usize| {
            (0..count).filter(|_| limits.allows_packet(ip, Millis(from_ms))).count()
        };
        assert_eq!(passed(0, 1000), PACKETS_PER_ADDRESS.burst as usize);
        assert_eq!(passed(500, 1000), PACKETS_PER_ADDRESS.per_s as usize / 2);
        assert_eq!(passed(3_600_000, 1000), PACKETS_PER_ADDRESS.burst as usize);
    }

    #[test]
    fn addresses_are_counted_apart_and_strangers_by_network() {
        let mut limits = RateLimits::new(Rates::MEMBER);
        let ip = |last: u8| IpAddr::from([203, 0, 113, last]);
        assert!((0..=255).all(|last| limits.allows_packet(ip(last), Millis(0))));
        let answers =
            (0..=255).filter(|last| limits.allows_answer_to_stranger(ip(*last), Millis(0)));
        assert_eq!(answers.count(), ANSWERS_TO_STRANGERS.burst as usize);
    }
}

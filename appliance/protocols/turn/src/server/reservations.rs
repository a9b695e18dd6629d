//! Ports next to those of allocations that are kept for their clients (RFC 8656 §7.2).
//!
//! Owned by the server. All of them are kept equally long, so the oldest ends first.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use super::allocation::ends_ns;
use crate::limits::{RESERVATION_LIFETIME_S, RESERVATION_TOKEN_BYTES, RESERVATIONS_MAX};

/// What a client names a reservation with.
pub(super) type Token = [u8; RESERVATION_TOKEN_BYTES];

/// A port that is kept.
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) address: SocketAddr,
    /// Whose quota counts it, and who alone may use it.
    pub(super) user: Box<str>,
    ends_ns: u64,
}

/// Every port that is kept.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    by_token: HashMap<Token, Reservation>,
    /// Every token from the one that ends first; those that were used are skipped.
    order: VecDeque<(u64, Token)>,
}

impl Reservations {
    /// How many there are, and how many ends are waited for.
    pub(super) fn lens(&self) -> [usize; 2] {
        [self.by_token.len(), self.order.len()]
    }

    pub(super) fn is_full(&self) -> bool {
        self.order.len() >= RESERVATIONS_MAX
    }

    pub(super) fn insert(&mut self, token: Token, address: SocketAddr, user: &str, now_ns: u64) {
        let ends_ns = ends_ns(now_ns, RESERVATION_LIFETIME_S);
        self.order.push_back((ends_ns, token));
        self.by_token.insert(token, Reservation { address, user: user.into(), ends_ns });
    }

    /// The address that a user may have for a token.
    pub(super) fn find(&self, token: &Token, user: &str, now_ns: u64) -> Option<SocketAddr> {
        let reservation = self.by_token.get(token)?;
        let is_good = &*reservation.user == user && now_ns < reservation.ends_ns;
        is_good.then_some(reservation.address)
    }

    /// Hands a reservation to the allocation that is made of it.
    pub(super) fn take(&mut self, token: &Token) -> Option<Reservation> {
        self.by_token.remove(token)
    }

    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        self.order.front().map(|(ends_ns, _)| *ends_ns)
    }

    /// A reservation that nobody came for in time.
    pub(super) fn pop_expired(&mut self, now_ns: u64) -> Option<Reservation> {
        while self.order.front().is_some_and(|(ends_ns, _)| *ends_ns <= now_ns) {
            let (_, token) = self.order.pop_front()?;
            if let Some(reservation) = self.by_token.remove(&token) {
                return Some(reservation);
            }
        }
        None
    }
}

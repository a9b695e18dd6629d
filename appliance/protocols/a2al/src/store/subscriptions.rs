//! Who wants the next record under a key pushed, once (specification §6.5). Bounded per key, per
//! source and in all, where upstream's have no bound (D-11).

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::limits::{
    SUBSCRIPTION_MS, SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_PER_ADDRESS_MAX, SUBSCRIPTIONS_PER_KEY_MAX,
};
use crate::node_id::NodeId;
use crate::time::Millis;

#[derive(Clone, Copy, Debug)]
struct Subscription {
    to: SocketAddr,
    until: Millis,
}

/// Subscriptions by key.
#[derive(Debug, Default)]
pub struct Subscriptions {
    by_key: HashMap<NodeId, Vec<Subscription>>,
    by_address: HashMap<IpAddr, usize>,
    /// When keys have to be looked at, in order.
    due: VecDeque<(Millis, NodeId)>,
    len: usize,
}

impl Subscriptions {
    /// Subscriptions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds or renews one. What is over a bound is not added.
    pub fn add(&mut self, key: NodeId, to: SocketAddr, now: Millis) {
        self.prune(now);
        let until = now.plus(SUBSCRIPTION_MS);
        let of_key = self.by_key.get_mut(&key);
        if let Some(known) =
            of_key.and_then(|of_key| of_key.iter_mut().find(|known| known.to == to))
        {
            known.until = until;
            self.remember(until, key);
            return;
        }
        let of_key = self.by_key.get(&key).map_or(0, Vec::len);
        let of_address = self.by_address.get(&to.ip()).copied().unwrap_or(0);
        if of_key >= SUBSCRIPTIONS_PER_KEY_MAX
            || of_address >= SUBSCRIPTIONS_PER_ADDRESS_MAX
            || self.len >= SUBSCRIPTIONS_MAX
            || to.ip().is_unspecified()
        {
            return;
        }
        self.by_key.entry(key).or_default().push(Subscription { to, until });
        *self.by_address.entry(to.ip()).or_insert(0) += 1;
        self.len += 1;
        self.remember(until, key);
    }

    /// Says whether a key has any.
    pub fn has(&self, key: &NodeId) -> bool {
        self.by_key.contains_key(key)
    }

    /// Takes all of a key.
    pub fn consume(&mut self, key: &NodeId, now: Millis) -> Vec<SocketAddr> {
        let taken = self.by_key.remove(key).unwrap_or_default();
        taken.iter().for_each(|subscription| self.forget(subscription));
        let live = taken.into_iter().filter(|subscription| subscription.until >= now);
        live.map(|subscription| subscription.to).collect()
    }

    /// Removes what is over.
    pub fn prune(&mut self, now: Millis) {
        while let Some((_, key)) = self.due.pop_front_if(|(until, _)| *until < now) {
            let Some(of_key) = self.by_key.get_mut(&key) else {
                continue;
            };
            let (over, live): (Vec<_>, Vec<_>) =
                of_key.drain(..).partition(|subscription| subscription.until < now);
            *of_key = live;
            if of_key.is_empty() {
                self.by_key.remove(&key);
            }
            over.iter().for_each(|subscription| self.forget(subscription));
        }
    }

    /// Notes when to look at a key. Renewals are as many as their sender wants, so the list is bound:
    /// what is not noted is still found over when the key is used.
    fn remember(&mut self, until: Millis, key: NodeId) {
        if self.due.len() < 2 * SUBSCRIPTIONS_MAX {
            self.due.push_back((until, key));
        }
    }

    fn forget(&mut self, subscription: &Subscription) {
        self.len -= 1;
        let ip = subscription.to.ip();
        if let Some(count) = self.by_address.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u16) -> NodeId {
        let mut id = NodeId::ZERO;
        id.0[..2].copy_from_slice(&number.to_be_bytes());
        id
    }

    #[test]
    fn one_source_cannot_take_more_than_its_share() {
        let mut subscriptions = Subscriptions::default();
        for port in 1..=1000_u16 {
            let to = SocketAddr::from(([203, 0, 113, 1], port));
            subscriptions.add(key(port % 100), to, Millis(0));
        }
        assert_eq!(subscriptions.len(), SUBSCRIPTIONS_PER_ADDRESS_MAX);
    }

    #[test]
    fn one_key_has_a_bound_and_each_is_told_once() {
        let mut subscriptions = Subscriptions::default();
        for last in 0..=255 {
            subscriptions.add(key(1), SocketAddr::from(([203, 0, 113, last], 4121)), Millis(0));
        }
        assert_eq!(subscriptions.consume(&key(1), Millis(0)).len(), SUBSCRIPTIONS_PER_KEY_MAX);
        assert_eq!(subscriptions.consume(&key(1), Millis(0)).len(), 0);
        assert!(subscriptions.is_empty());
    }

    #[test]
    fn what_is_over_is_neither_told_nor_kept() {
        let mut subscriptions = Subscriptions::default();
        let to = SocketAddr::from(([203, 0, 113, 1], 4121));
        subscriptions.add(key(1), to, Millis(0));
        subscriptions.add(key(2), to, Millis(0));
        let over = Millis(SUBSCRIPTION_MS + 1);
        assert_eq!(subscriptions.consume(&key(1), over), []);
        subscriptions.prune(over);
        assert!(subscriptions.is_empty());
        assert!(subscriptions.by_address.is_empty() && subscriptions.due.is_empty());
    }
}

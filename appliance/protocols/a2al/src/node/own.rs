//! What a node publishes in its own name: its endpoints, its profile, topics under which it offers
//! something. Payloads are kept, and signed anew before their records expire.

use std::net::SocketAddr;

use super::Node;
use crate::limits::{
    BOOTSTRAP_ADDRESSES_MAX, LEAVE_TTL_S, OWN_PAYLOADS_MAX, OWN_TTL_S, RENEWAL_MS,
};
use crate::message::{Body, TransactionId};
use crate::node_id::NodeId;
use crate::record::{RecordType, Unsigned};
use crate::replication::PublishedName;
use crate::store::{Put, PutError};
use crate::time::{Millis, Now};

/// A payload that is signed anew every half hour.
#[derive(Debug)]
pub(super) struct OwnPayload {
    payload: Vec<u8>,
    sequence: u64,
    due_at: Millis,
}

impl Node {
    /// Publishes a payload under a key in this node's name, in place of the one of the same type that
    /// is there, and keeps it renewed until it is taken back.
    ///
    /// # Errors
    /// Why it is not acceptable even here. What was published before stays.
    pub fn publish_own(
        &mut self,
        key: NodeId,
        record_type: RecordType,
        payload: Vec<u8>,
        now: Now,
    ) -> Result<Put, PutError> {
        let name = (key, record_type);
        let is_new = !self.own.contains_key(&name);
        if is_new && self.own.len() >= OWN_PAYLOADS_MAX {
            return Err(PutError::TooMany);
        }
        let last = self.own.get(&name).map_or(0, |own| own.sequence);
        // Seconds are a number that grows over restarts (§5.6).
        let sequence = now.unix.0.max(last.saturating_add(1));
        let record = Unsigned {
            address: self.address,
            record_type,
            payload: payload.clone(),
            sequence,
            timestamp: now.unix.0,
            ttl_s: OWN_TTL_S,
            delegation: Vec::new(),
        };
        let put = self.publish(key, record.sign(&*self.signatures.signer), now)?;
        let due_at = now.millis.plus(RENEWAL_MS);
        self.own.insert(name, OwnPayload { payload, sequence, due_at });
        Ok(put)
    }

    /// Stops renewing what it publishes under a key. The network forgets it when it expires: there is
    /// no message that takes a record back. Says whether there was such a record.
    pub fn withdraw_own(&mut self, key: NodeId, record_type: RecordType) -> bool {
        let publisher = self.id;
        self.published.remove(&PublishedName { key, publisher, record_type });
        self.own.remove(&(key, record_type)).is_some()
    }

    /// Says farewell as far as the protocol can: whoever keeps the endpoint record, and these of its
    /// own records, is given a newer one that ends in [`LEAVE_TTL_S`]. So nobody is sent here for
    /// longer, and a node that is back by then has renewed them before anybody noticed. Each is sent
    /// once, and nobody waits for the answers. Gives back how many were sent.
    pub fn leave(&mut self, own: &[(NodeId, RecordType)], now: Now) -> usize {
        let endpoint = (self.id, RecordType::ENDPOINT);
        let mut sent = 0;
        for (key, record_type) in std::iter::once(endpoint).chain(own.iter().copied()) {
            let name = PublishedName { key, publisher: self.id, record_type };
            let Some(published) = self.published.get(&name) else { continue };
            let last = &published.record;
            let record = Unsigned {
                address: self.address,
                record_type,
                payload: last.payload.clone(),
                sequence: last.sequence.saturating_add(1),
                timestamp: now.unix.0,
                ttl_s: LEAVE_TTL_S,
                delegation: Vec::new(),
            };
            let replicas: Vec<_> = published.replicas().iter().map(|it| it.info).collect();
            let record = record.sign(&*self.signatures.signer);
            if (key, record_type) == endpoint {
                // The next run's has to be newer than this one.
                self.sequence = self.sequence.max(record.sequence);
            }
            for info in replicas {
                let body = Body::Store { record: Box::new(record.clone()), key: Some(key) };
                let (at, transaction) = (self.dial_address(&info, now), self.random.bytes());
                self.send(at, TransactionId(transaction), &body);
                sent += 1;
            }
        }
        sent
    }

    /// Takes up where it is reached. A change is published at once; without an address the endpoint
    /// record is not renewed any more.
    pub fn set_endpoints(&mut self, endpoints: Vec<SocketAddr>, now: Now) {
        if endpoints == self.config.endpoints {
            return;
        }
        self.endpoint_due_at = (!endpoints.is_empty()).then_some(now.millis);
        self.config.endpoints = endpoints;
    }

    /// Takes up other addresses at which the network is found; they are asked when the table is empty.
    pub fn set_bootstrap(&mut self, mut bootstrap: Vec<SocketAddr>) {
        bootstrap.truncate(BOOTSTRAP_ADDRESSES_MAX);
        self.config.bootstrap = bootstrap;
    }

    /// Publishes everything of its own anew, as if its time had come.
    pub fn renew_all_own(&mut self, now: Now) {
        self.own.values_mut().for_each(|own| own.due_at = now.millis);
        if !self.config.endpoints.is_empty() {
            self.endpoint_due_at = Some(now.millis);
        }
    }

    pub(super) fn own_due_at(&self) -> Option<Millis> {
        self.own.values().map(|own| own.due_at).min()
    }

    pub(super) fn renew_own(&mut self, now: Now) {
        if self.own_due_at().is_none_or(|due_at| due_at > now.millis) {
            return;
        }
        let due = self.own.iter_mut().filter(|(_, own)| own.due_at <= now.millis);
        let due: Vec<_> = due
            .map(|(name, own)| {
                // Also where it is refused, or it would be tried without a pause.
                own.due_at = now.millis.plus(RENEWAL_MS);
                (*name, own.payload.clone())
            })
            .collect();
        for ((key, record_type), payload) in due {
            // It was acceptable when it was given; a clock that was set back may refuse it for a while.
            let _ = self.publish_own(key, record_type, payload, now);
        }
    }
}

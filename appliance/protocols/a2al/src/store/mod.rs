//! Records kept for others (specification §6).
//!
//! Owns them, their order, and every bound on them: per key, per publisher, in total and in bytes. A
//! record is verified once, when it enters; reading looks at times alone (D-9, D-20), and what has
//! expired is removed rather than moved about (D-7). Used by the node alone.

mod shares;
mod shelf;
mod subscriptions;

pub use shares::Origin;
pub use subscriptions::Subscriptions;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::delegation::{Delegation, DelegationError};
use crate::hash::sha256;
use crate::keys::Verifier;
use crate::limits::{
    DELEGATIONS_REMEMBERED_MAX, POOL_IDS_MAX, RECORD_OVERHEAD_BYTES, RECORDS_PER_PUBLISHER_MAX,
    SOFT_DEADLINE_MS, STORED_TTL_S_MAX, TTL_S_MAX,
};
use crate::message::PoolEntry;
use crate::node_id::NodeId;
use crate::recent::RecentMap;
use crate::record::{Category, RecordError, RecordType, SignedRecord, Version};
use crate::time::{Millis, Now};
use shares::{Place, Shares};
use shelf::Shelf;

/// A record that was verified when it came.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The record.
    pub record: Arc<SignedRecord>,
    /// What makes it newer or older than others.
    pub version: Version,
    /// The last second since 1970 in which it is handed out.
    expires_at: u64,
    /// From when on it is hidden, unless its publisher confirms it (§6.4).
    hidden_after: Option<Millis>,
    /// Bytes that it takes in an answer.
    encoded_bytes: u32,
    origin: Origin,
    /// Where it is charged to whoever brought and signed it.
    place: Option<Place>,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Put {
    /// It is kept.
    Stored {
        /// Whether none of its kind was there, or only a hidden one.
        was_absent: bool,
    },
    /// One that is at least as new is there.
    Stale,
}

/// Why a record is not kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PutError {
    /// It is not acceptable.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// Its time to live is beyond what this node promises.
    #[error("the record would live too long")]
    TooLong,
    /// Its publisher has too many records here.
    #[error("too many records of one publisher")]
    TooMany,
}

/// What a store may hold.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Keys.
    pub keys_max: usize,
    /// Bytes of records with their overhead.
    pub bytes_max: usize,
}

/// Records by key.
#[derive(Debug)]
pub struct Store {
    shelves: HashMap<NodeId, Shelf>,
    /// Keys by when they were last touched, which is a count and no time.
    touched: BTreeMap<u64, NodeId>,
    touches: u64,
    shares: Shares,
    bytes: usize,
    records: usize,
    limits: StoreLimits,
    delegations: RecentMap<[u8; 32], ()>,
    verified: u64,
    made_room: u64,
}

impl Store {
    /// An empty store.
    pub fn new(limits: StoreLimits) -> Self {
        Self {
            shelves: HashMap::new(),
            touched: BTreeMap::new(),
            touches: 0,
            shares: Shares::default(),
            bytes: 0,
            records: 0,
            limits,
            delegations: RecentMap::new(DELEGATIONS_REMEMBERED_MAX),
            verified: 0,
            made_room: 0,
        }
    }

    /// Keys held.
    pub fn keys(&self) -> usize {
        self.shelves.len()
    }

    /// Records held, expired ones that nobody has looked at included.
    pub fn len(&self) -> usize {
        self.records
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of records with their overhead.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Signatures of records verified so far: what is kept, or refused, costs one, and what is read
    /// none (D-9, D-20).
    pub fn verified(&self) -> u64 {
        self.verified
    }

    /// Records that were removed from a full store because whoever brought or signed them had most.
    pub fn made_room(&self) -> u64 {
        self.made_room
    }

    /// Checks everything about a record but whether it is newer than others.
    ///
    /// # Errors
    /// Why it is not acceptable.
    pub fn judge(
        &mut self,
        key: &NodeId,
        record: &SignedRecord,
        verifier: &mut dyn Verifier,
        now: Now,
    ) -> Result<(), RecordError> {
        // What costs least comes first; the signature is last.
        record.check_time(now.unix)?;
        record.check_place(key)?;
        let remembered = &mut self.delegations;
        record.check_authority(|delegation| {
            verify_once(remembered, &record.delegation, delegation, now)
        })?;
        self.verified += 1;
        record.verify_by(verifier)
    }

    /// Takes a record in under a key. While the store is full, whoever has most makes room: see
    /// [`Origin`].
    ///
    /// # Errors
    /// Why it is not kept.
    pub fn put(
        &mut self,
        key: NodeId,
        record: SignedRecord,
        origin: Origin,
        verifier: &mut dyn Verifier,
        now: Now,
    ) -> Result<Put, PutError> {
        if let Some(shelf) = self.shelves.get(&key)
            && shelf.holds(&record)
        {
            // It is here word for word, so it was verified when it came.
            record.check_time(now.unix)?;
            return Ok(Put::Stale);
        }
        self.judge(&key, &record, verifier, now)?;
        if record.ttl_s > TTL_S_MAX {
            return Err(PutError::TooLong);
        }
        let of_publisher = self.shares.of_signer(&record.public_key);
        self.sweep(&key, now);
        let version = record.version();
        let slot = self.shelves.get(&key).and_then(|shelf| shelf.slot(&record));
        let was_absent = match slot {
            Some(held) if held.version >= version => return Ok(Put::Stale),
            Some(held) => held.is_hidden(now.millis),
            None if of_publisher >= RECORDS_PER_PUBLISHER_MAX => return Err(PutError::TooMany),
            None => true,
        };
        self.place(key, record, origin, version, now);
        Ok(Put::Stored { was_absent })
    }

    /// Hides records of a key and type after a while, unless [`Store::confirm`] is called.
    pub fn doubt(&mut self, key: &NodeId, record_type: RecordType, now: Millis) {
        let hidden_after = Some(now.plus(SOFT_DEADLINE_MS));
        self.of_type(key, record_type).for_each(|stored| stored.hidden_after = hidden_after);
    }

    /// Shows records of a key and type for as long as they live.
    pub fn confirm(&mut self, key: &NodeId, record_type: RecordType) {
        self.of_type(key, record_type).for_each(|stored| stored.hidden_after = None);
    }

    /// What is handed out under a key, in the order in which it came.
    pub fn read(&mut self, key: &NodeId, record_type: RecordType, now: Now) -> Vec<&Stored> {
        self.sweep(key, now);
        self.touch(key);
        let records = self.shelves.get(key).map_or(&[][..], |shelf| &shelf.records);
        let is_wanted = |stored: &&Stored| {
            record_type.wants(stored.record.record_type) && !stored.is_hidden(now.millis)
        };
        records.iter().filter(is_wanted).collect()
    }

    /// A record of a key that is good now, without touching the key.
    pub fn peek(&self, key: &NodeId, record_type: RecordType, now: Now) -> Option<&SignedRecord> {
        let mut records = self.shelves.get(key)?.records.iter();
        let found = records.find(|stored| {
            stored.record.record_type == record_type && stored.expires_at >= now.unix.0
        });
        found.map(|stored| &*stored.record)
    }

    /// What mail waits under a key (v0.3, §21.3).
    pub fn waiting_mail(&self, key: &NodeId, now: Now) -> Vec<PoolEntry> {
        let mut by_type: BTreeMap<RecordType, Vec<&Stored>> = BTreeMap::new();
        let records = self.shelves.get(key).map_or(&[][..], |shelf| &shelf.records);
        for stored in records {
            let is_mail = stored.record.record_type.category() == Category::Mailbox;
            if is_mail && stored.expires_at >= now.unix.0 {
                by_type.entry(stored.record.record_type).or_default().push(stored);
            }
        }
        let mut entries: Vec<(u64, PoolEntry)> = Vec::new();
        for (record_type, mut mail) in by_type {
            mail.sort_by_key(|stored| std::cmp::Reverse(stored.record.timestamp));
            let newest = mail.first().map_or(0, |stored| stored.record.timestamp);
            let ids = mail.iter().take(POOL_IDS_MAX).map(|stored| stored.record.record_id());
            let count = u16::try_from(mail.len()).unwrap_or(u16::MAX);
            entries.push((newest, PoolEntry { record_type, count, ids: ids.collect() }));
        }
        entries.sort_by_key(|(newest, _)| std::cmp::Reverse(*newest));
        entries.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Every record with its key, keys touched last first. Nothing is sorted, however many there are.
    pub fn records_by_use(&self) -> impl Iterator<Item = (NodeId, &Stored)> {
        self.touched.values().rev().flat_map(|key| {
            let shelf = self.shelves.get(key);
            shelf.into_iter().flat_map(|shelf| shelf.records.iter().map(|stored| (*key, stored)))
        })
    }

    /// Removes what has expired under the keys touched longest ago, at most `keys` of them, and gives
    /// back how many records went. Called now and then, so that what nobody reads goes as well.
    pub fn expire(&mut self, keys: usize, now: Now) -> usize {
        let before = self.records;
        let oldest: Vec<NodeId> = self.touched.values().take(keys).copied().collect();
        for key in oldest {
            self.sweep(&key, now);
            // What is left goes behind the others, so that the next call looks at other keys.
            self.touch(&key);
        }
        before - self.records
    }

    fn place(
        &mut self,
        key: NodeId,
        record: SignedRecord,
        origin: Origin,
        version: Version,
        now: Now,
    ) {
        let longest = now.unix.0.saturating_add(STORED_TTL_S_MAX);
        let stored = Stored {
            place: self.shares.add(key, origin, record.public_key),
            origin,
            encoded_bytes: u32::try_from(record.encoded_bytes()).unwrap_or(u32::MAX),
            expires_at: record.expires_at().min(longest),
            version,
            hidden_after: None,
            record: Arc::new(record),
        };
        self.count(&stored);
        let shelf = self.shelves.entry(key).or_default();
        for removed in shelf.insert(stored) {
            self.uncount(&removed);
        }
        self.touch(&key);
        self.make_room();
    }

    /// Removes records until the rest is within the limits: of whoever has by far the most, or else
    /// under the keys that were touched longest ago.
    fn make_room(&mut self) {
        while self.shelves.len() > self.limits.keys_max || self.bytes > self.limits.bytes_max {
            let first_to_go = self.shares.first_to_go();
            if first_to_go.is_some_and(|(key, place)| self.remove_record(&key, place)) {
                self.made_room += 1;
            } else {
                let Some((_, oldest)) = self.touched.pop_first() else { break };
                self.discard(&oldest);
            }
        }
    }

    /// Removes the record of a place, and its key with the last one.
    fn remove_record(&mut self, key: &NodeId, place: Place) -> bool {
        let Some(shelf) = self.shelves.get_mut(key) else { return false };
        let Some(stored) = shelf.take(place) else { return false };
        let touched = shelf.records.is_empty().then_some(shelf.touched);
        self.uncount(&stored);
        if let Some(touched) = touched {
            self.touched.remove(&touched);
            self.shelves.remove(key);
        }
        true
    }

    fn of_type(
        &mut self,
        key: &NodeId,
        record_type: RecordType,
    ) -> impl Iterator<Item = &mut Stored> {
        let records = self.shelves.get_mut(key).map(|shelf| shelf.records.iter_mut());
        records.into_iter().flatten().filter(move |held| held.record.record_type == record_type)
    }

    fn sweep(&mut self, key: &NodeId, now: Now) {
        let Some(shelf) = self.shelves.get_mut(key) else {
            return;
        };
        let expired = shelf.take_expired(now.unix);
        let touched = shelf.records.is_empty().then_some(shelf.touched);
        expired.iter().for_each(|stored| self.uncount(stored));
        if let Some(touched) = touched {
            self.touched.remove(&touched);
            self.shelves.remove(key);
        }
    }

    fn discard(&mut self, key: &NodeId) {
        if let Some(shelf) = self.shelves.remove(key) {
            shelf.records.iter().for_each(|stored| self.uncount(stored));
        }
    }

    fn touch(&mut self, key: &NodeId) {
        if let Some(shelf) = self.shelves.get_mut(key) {
            self.touched.remove(&shelf.touched);
            self.touches += 1;
            shelf.touched = self.touches;
            self.touched.insert(self.touches, *key);
        }
    }

    fn count(&mut self, stored: &Stored) {
        self.bytes += counted_bytes(stored);
        self.records += 1;
    }

    fn uncount(&mut self, stored: &Stored) {
        self.bytes = self.bytes.saturating_sub(counted_bytes(stored));
        self.records = self.records.saturating_sub(1);
        if let Some(place) = stored.place {
            self.shares.remove(place, stored.origin, stored.record.public_key);
        }
    }
}

/// What a record counts for.
fn counted_bytes(stored: &Stored) -> usize {
    stored.encoded_bytes() + RECORD_OVERHEAD_BYTES
}

impl Stored {
    /// Bytes that it takes in an answer.
    pub fn encoded_bytes(&self) -> usize {
        self.encoded_bytes as usize
    }

    /// Says whether it is shown for as long as it lives.
    pub fn is_confirmed(&self) -> bool {
        self.hidden_after.is_none()
    }

    fn is_hidden(&self, now: Millis) -> bool {
        self.hidden_after.is_some_and(|deadline| now > deadline)
    }
}

/// Verifies a delegation unless the same bytes were verified before; their times are looked at again.
fn verify_once(
    remembered: &mut RecentMap<[u8; 32], ()>,
    encoded: &[u8],
    delegation: &Delegation,
    now: Now,
) -> Result<(), DelegationError> {
    let digest = sha256(&[encoded]);
    if remembered.touch(&digest).is_some() {
        return delegation.check_time(now.unix);
    }
    delegation.verify(now.unix)?;
    remembered.insert(digest, ());
    Ok(())
}

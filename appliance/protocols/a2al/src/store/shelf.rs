//! The records under one key: which replaces which, and which goes when there are too many
//! (specification §6.2).

use std::cmp::Reverse;
use std::collections::HashMap;

use super::Stored;
use super::shares::{Carrier, Place};
use crate::limits::{
    MAILBOX_RECORDS_PER_KEY, MAILBOX_RECORDS_PER_KEY_AND_SIGNER, SOVEREIGN_RECORDS_PER_KEY,
    TOPIC_RECORDS_PER_KEY,
};
use crate::record::{Category, RecordType, SignedRecord};
use crate::time::UnixSeconds;

#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// In the order in which they came.
    pub(super) records: Vec<Stored>,
    /// When the key was last touched, as the store counts.
    pub(super) touched: u64,
}

impl Shelf {
    /// Says whether this very record is here.
    pub(super) fn holds(&self, record: &SignedRecord) -> bool {
        self.records.iter().any(|stored| *stored.record == *record)
    }

    /// The record that another one would replace.
    pub(super) fn slot(&self, record: &SignedRecord) -> Option<&Stored> {
        self.records.iter().find(|stored| is_same_slot(&stored.record, record))
    }

    /// Takes out the record of a place.
    pub(super) fn take(&mut self, place: Place) -> Option<Stored> {
        let at = self.records.iter().position(|stored| stored.place == Some(place))?;
        Some(self.records.remove(at))
    }

    /// Puts a record in its slot, and gives back what had to go: what it replaces, and what is over
    /// the limits, which may be the record itself.
    pub(super) fn insert(&mut self, mut stored: Stored) -> Vec<Stored> {
        let mut removed = Vec::new();
        let position =
            self.records.iter().position(|held| is_same_slot(&held.record, &stored.record));
        if let Some(at) = position {
            let before = self.records.remove(at);
            stored.hidden_after = before.hidden_after;
            removed.push(before);
        }
        let category = stored.record.record_type.category();
        let signer = stored.record.public_key;
        if self.records.is_empty() {
            // Most keys have one record, and a list that grows by itself begins with room for four.
            self.records.reserve_exact(1);
        }
        self.records.push(stored);
        let is_mail_of_signer = |held: &Stored| {
            held.record.record_type.category() == Category::Mailbox
                && held.record.public_key == signer
        };
        match category {
            Category::Mailbox => {
                self.trim(MAILBOX_RECORDS_PER_KEY_AND_SIGNER, &mut removed, is_mail_of_signer);
                let is_mail =
                    |held: &Stored| held.record.record_type.category() == Category::Mailbox;
                self.trim(MAILBOX_RECORDS_PER_KEY, &mut removed, is_mail);
            }
            Category::Topic => {
                let is_topic =
                    |held: &Stored| held.record.record_type.category() == Category::Topic;
                self.trim(TOPIC_RECORDS_PER_KEY, &mut removed, is_topic);
            }
            Category::Sovereign | Category::Unknown => self.trim_sovereign(&mut removed),
        }
        removed
    }

    pub(super) fn take_expired(&mut self, now: UnixSeconds) -> Vec<Stored> {
        if self.records.iter().all(|stored| stored.expires_at >= now.0) {
            return Vec::new();
        }
        let (expired, kept) = std::mem::take(&mut self.records)
            .into_iter()
            .partition(|stored| stored.expires_at < now.0);
        self.records = kept;
        expired
    }

    /// Removes the oldest of a kind while there are more than a limit: of the network that has
    /// brought most of them, or else, where no network has brought more than others, of all. So
    /// nobody with many keys in one place drives others out of a topic (§17.4 [R]).
    fn trim(&mut self, max: usize, removed: &mut Vec<Stored>, is_kind: impl Fn(&Stored) -> bool) {
        loop {
            let of_kind: Vec<(usize, &Stored)> =
                self.records.iter().enumerate().filter(|(_, stored)| is_kind(stored)).collect();
            if of_kind.len() <= max {
                return;
            }
            let mut crowds: HashMap<Carrier, usize> = HashMap::new();
            for carrier in of_kind.iter().filter_map(|(_, stored)| stored.origin.carrier()) {
                *crowds.entry(carrier).or_default() += 1;
            }
            let crowd = |stored: &Stored| {
                let carrier = stored.origin.carrier();
                carrier.and_then(|carrier| crowds.get(&carrier)).copied().unwrap_or(1)
            };
            let first_to_go = of_kind
                .iter()
                .min_by_key(|(_, stored)| (Reverse(crowd(stored)), stored.record.timestamp));
            let Some((at, _)) = first_to_go else { return };
            let at = *at;
            removed.push(self.records.remove(at));
        }
    }

    /// Removes the first that is no endpoint, or else the oldest endpoint.
    fn trim_sovereign(&mut self, removed: &mut Vec<Stored>) {
        let is_kind = |stored: &&Stored| is_sovereign(stored.record.record_type);
        while self.records.iter().filter(is_kind).count() > SOVEREIGN_RECORDS_PER_KEY {
            let other = self.records.iter().position(|stored| {
                is_kind(&stored) && stored.record.record_type != RecordType::ENDPOINT
            });
            match other {
                Some(at) => removed.push(self.records.remove(at)),
                None => {
                    self.trim(SOVEREIGN_RECORDS_PER_KEY, removed, |stored| is_kind(&stored));
                    return;
                }
            }
        }
    }
}

fn is_sovereign(record_type: RecordType) -> bool {
    matches!(record_type.category(), Category::Sovereign | Category::Unknown)
}

/// One slot holds one record: of an address and type, of a topic's signer, or one message.
fn is_same_slot(held: &SignedRecord, record: &SignedRecord) -> bool {
    match record.record_type.category() {
        Category::Sovereign | Category::Unknown => {
            held.record_type == record.record_type && held.address == record.address
        }
        Category::Topic => {
            held.record_type.category() == Category::Topic && held.public_key == record.public_key
        }
        Category::Mailbox => {
            held.record_type == record.record_type
                && held.public_key == record.public_key
                && held.payload == record.payload
        }
    }
}

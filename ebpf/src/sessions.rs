//! The table of sessions: which record each has, and the index that the programs find it by.
//!
//! Called by the management core, the one writer. A packet never sees half a session: a record is
//! written before the index leads to it, and the index leads to it no more before it is used again.
//! What is free is known to the writer alone. All of a new table is; of one that another process made,
//! that is read off the index when this one first writes: until then the table may be the other's.

use crate::{
    abi::{
        KeyWords, Session, SessionBucket, SessionKey, SessionPlace, SessionRecord, SessionSeeds,
        SessionWord,
        limits::{SESSION_BUCKETS, SESSION_ENTRIES_MAX, SESSION_RECORDS},
    },
    tables::MapError,
};
use aya::maps::{Array, MapData};
use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{Ordering, fence},
};

/// Why a session was not put into the table. Its packets go to user space, as without the program.
#[derive(Debug, thiserror::Error)]
pub enum InsertError {
    /// Limit: there are as many as the table holds.
    #[error("the table of sessions holds its {SESSION_ENTRIES_MAX} entries already")]
    Full,
    /// Limit: the keys that share its place in the index have taken all of it.
    #[error("the place of the session in the index is taken")]
    Crowded,
    /// Host: the kernel refused.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Sessions and clients the programs know.
pub struct SessionTable {
    index: Array<MapData, SessionBucket>,
    records: Array<MapData, SessionRecord>,
    seeds: SessionSeeds,
    /// Records nothing leads to, those that were given up last at the end; `None` before the first
    /// change of a table that another process made.
    free: Option<VecDeque<u32>>,
}

/// Where a key's word is.
struct Found {
    way: usize,
    record: u32,
    session: Session,
}

impl SessionTable {
    /// The table in these maps. Seeds are drawn if there are none yet.
    pub(crate) fn new(
        index: Array<MapData, SessionBucket>,
        records: Array<MapData, SessionRecord>,
        mut seeds: Array<MapData, SessionSeeds>,
    ) -> Result<Self, MapError> {
        let drawn = seeds.get(&0, 0)?;
        if drawn != SessionSeeds::default() {
            return Ok(Self { index, records, seeds: drawn, free: None });
        }
        let drawn = draw();
        seeds.set(0, drawn, 0)?;
        Ok(Self { index, records, seeds: drawn, free: Some((0..SESSION_RECORDS).collect()) })
    }

    /// Tells the programs of a session, or replaces what they know; what they remember of it
    /// starts anew.
    ///
    /// A record that a removal or a replacement has set free may be looked at by a program on another
    /// processor for the microsecond that one run takes. It is used again after all others that are
    /// free, of which there are few when the table is full: an owner that removes an entry lets its
    /// next insertion wait for its next turn.
    ///
    /// # Errors
    /// When the table is full, or the place of the key is, or the kernel refuses.
    pub fn insert(&mut self, key: SessionKey, session: Session) -> Result<(), InsertError> {
        let place = self.place_of(&key);
        let mut bucket = self.index.get(&place.bucket, 0)?;
        let before = self.search(&bucket, place.tag, &key)?;
        let way = match &before {
            Some(found) => found.way,
            None => way_for_another(&bucket).ok_or(InsertError::Crowded)?,
        };
        let free = self.free()?;
        if before.is_none() && free.len() <= (SESSION_RECORDS - SESSION_ENTRIES_MAX) as usize {
            return Err(InsertError::Full);
        }
        let record = *free.front().ok_or(InsertError::Full)?;
        self.records.set(record, SessionRecord { key, session: session.with_sums(&key) }, 0)?;
        // Processors that write out of order: the record before the word.
        fence(Ordering::Release);
        if let Some(word) = bucket.ways.get_mut(way) {
            *word = SessionWord::Record { tag: place.tag, record }.word();
        }
        self.index.set(place.bucket, bucket, 0)?;
        let free = self.free()?;
        free.pop_front();
        free.extend(before.map(|found| found.record));
        Ok(())
    }

    /// What the programs know and remember of a session.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn find(&self, key: &SessionKey) -> Result<Option<Session>, MapError> {
        let place = self.place_of(key);
        let bucket = self.index.get(&place.bucket, 0)?;
        Ok(self.search(&bucket, place.tag, key)?.map(|found| found.session))
    }

    /// Lets the programs forget a session; `false` if they did not know it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self, key: &SessionKey) -> Result<bool, MapError> {
        let place = self.place_of(key);
        let mut bucket = self.index.get(&place.bucket, 0)?;
        let Some(found) = self.search(&bucket, place.tag, key)? else { return Ok(false) };
        self.free()?;
        take_out(&mut bucket, found.way);
        self.index.set(place.bucket, bucket, 0)?;
        self.free()?.push_back(found.record);
        Ok(true)
    }

    /// All sessions, in no order. Ones that come or go meanwhile may be missed.
    pub fn iter(&self) -> impl Iterator<Item = (SessionKey, Session)> + '_ {
        let buckets = (0..SESSION_BUCKETS).filter_map(|at| self.index.get(&at, 0).ok());
        let records = buckets.flat_map(|bucket| records_of(&bucket).collect::<Vec<_>>());
        let records = records.filter_map(|record| self.records.get(&record, 0).ok());
        records.map(|record| (record.key, record.session))
    }

    fn place_of(&self, key: &SessionKey) -> SessionPlace {
        SessionPlace::of(&KeyWords::from(key), &self.seeds)
    }

    fn search(
        &self,
        bucket: &SessionBucket,
        wanted: u32,
        key: &SessionKey,
    ) -> Result<Option<Found>, MapError> {
        for (way, word) in bucket.ways.iter().enumerate() {
            match SessionWord::of(*word) {
                SessionWord::End => break,
                SessionWord::Record { tag, record } if tag == wanted => {
                    let its = self.records.get(&record, 0)?;
                    if its.key == *key {
                        return Ok(Some(Found { way, record, session: its.session }));
                    }
                }
                SessionWord::Record { .. } | SessionWord::Gap => {}
            }
        }
        Ok(None)
    }

    /// The free records. Reading them off the index is a system call for each bucket.
    fn free(&mut self) -> Result<&mut VecDeque<u32>, MapError> {
        let free = match self.free.take() {
            Some(free) => free,
            None => self.read_free()?,
        };
        Ok(self.free.insert(free))
    }

    fn read_free(&self) -> Result<VecDeque<u32>, MapError> {
        let mut is_taken = vec![false; SESSION_RECORDS as usize];
        for at in 0..SESSION_BUCKETS {
            for record in records_of(&self.index.get(&at, 0)?) {
                if let Some(is_taken) = is_taken.get_mut(record as usize) {
                    *is_taken = true;
                }
            }
        }
        let free = (0..SESSION_RECORDS).zip(is_taken).filter(|(_, is_taken)| !is_taken);
        Ok(free.map(|(record, _)| record).collect())
    }
}

/// The first way of a bucket that leads to nothing.
fn way_for_another(bucket: &SessionBucket) -> Option<usize> {
    let leads = |word: &u32| matches!(SessionWord::of(*word), SessionWord::Record { .. });
    bucket.ways.iter().position(|word| !leads(word))
}

/// Lets a way lead to nothing. Others stay where they are, for a packet may be looking; gaps that
/// nothing is behind go.
fn take_out(bucket: &mut SessionBucket, way: usize) {
    if let Some(word) = bucket.ways.get_mut(way) {
        *word = SessionWord::Gap.word();
    }
    for word in bucket.ways.iter_mut().rev() {
        match SessionWord::of(*word) {
            SessionWord::Record { .. } => break,
            SessionWord::Gap | SessionWord::End => *word = SessionWord::End.word(),
        }
    }
}

fn records_of(bucket: &SessionBucket) -> impl Iterator<Item = u32> {
    bucket.ways.iter().filter_map(|word| match SessionWord::of(*word) {
        SessionWord::Record { record, .. } => Some(record),
        SessionWord::Gap | SessionWord::End => None,
    })
}

/// Numbers that nobody outside can guess: what the standard library's tables are seeded with.
fn draw() -> SessionSeeds {
    let secret = RandomState::new();
    let draw = |at: usize| secret.hash_one(at);
    let mut words = [[0; 2]; 5];
    for (at, word) in words.iter_mut().flatten().enumerate() {
        *word = draw(at + 1);
    }
    SessionSeeds { start: draw(0), words }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(said: &[SessionWord]) -> SessionBucket {
        let mut bucket = SessionBucket::default();
        for (word, said) in bucket.ways.iter_mut().zip(said) {
            *word = said.word();
        }
        bucket
    }

    const fn record(record: u32) -> SessionWord {
        SessionWord::Record { tag: 9, record }
    }

    #[test]
    fn what_is_taken_out_moves_nothing_and_leaves_no_gap_at_the_end() {
        let mut it = bucket(&[record(1), record(2), record(3)]);
        take_out(&mut it, 1);
        assert_eq!(it, bucket(&[record(1), SessionWord::Gap, record(3)]));
        assert_eq!(way_for_another(&it), Some(1));
        take_out(&mut it, 2);
        assert_eq!(it, bucket(&[record(1)]));
        take_out(&mut it, 0);
        assert_eq!(it, SessionBucket::default());
    }

    /// The record that a program finds for a key, and what it reads there.
    fn seen(table: &SessionTable, key: &SessionKey) -> (u32, SessionRecord) {
        let place = table.place_of(key);
        let bucket = table.index.get(&place.bucket, 0).unwrap();
        let record = table.search(&bucket, place.tag, key).unwrap().unwrap().record;
        (record, table.records.get(&record, 0).unwrap())
    }

    #[test]
    fn what_a_packet_has_found_is_not_written_while_it_may_look() {
        let is_root = nix::unistd::geteuid().is_root();
        let is_required =
            std::env::var_os("WAYSTATION_TEST_REQUIRE").is_some_and(|value| value == "all");
        assert!(is_root || !is_required, "needs root, and WAYSTATION_TEST_REQUIRE=all");
        if !is_root {
            return;
        }
        let mut programs = crate::programs::Programs::load(None).unwrap();
        let table = &mut programs.tables.sessions;
        let key = |port| SessionKey::new(([10, 0, 0, 1], port).into(), ([10; 4], 9).into(), None);
        table.insert(key(1), Session::steered(1)).unwrap();
        let before = seen(table, &key(1));
        table.insert(key(1), Session::steered(2)).unwrap();
        let after = seen(table, &key(1));
        assert_eq!(after.1.session.owner_cpu, 2);
        assert!(table.remove(&key(1)).unwrap());
        for port in 2..100 {
            table.insert(key(port), Session::steered(3)).unwrap();
        }
        for (record, whole) in [before, after] {
            assert_eq!(table.records.get(&record, 0).unwrap(), whole);
        }
    }

    #[test]
    fn a_full_bucket_has_no_way_for_another() {
        let all: Vec<_> = (0..16).map(record).collect();
        assert_eq!(way_for_another(&bucket(&all)), None);
        assert_eq!(way_for_another(&bucket(&all[..15])), Some(15));
        assert_eq!(records_of(&bucket(&all)).count(), 16);
    }
}

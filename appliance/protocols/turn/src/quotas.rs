//! How many allocations and reservations each user has, on all data cores together.
//!
//! Made once by whoever makes the servers, and shared by them, so that a user gets no more by being
//! spread over cores. Servers come here when an allocation or reservation begins and when it ends,
//! never for a packet. There is no lock: a slot is one atomic word with the tag of a user and what is
//! counted for it. A tag is a keyed hash, so nobody can choose whom to share one with, and its set
//! of slots is all that is looked at.
//!
//! Each core adds first and looks then, so cores that find a user counted already never grant more
//! than the limit; of two that ask for its last place at once, both may refuse. Where two cores count
//! a user for the first time at once it has two slots, which are added up; should a third core begin
//! one thing of that user and end another in the middle of such a sum, the sum may miss what has
//! just begun. So it may grant that much too many, at most one request's worth.

use std::sync::atomic::{AtomicU64, Ordering};

use ring::hmac;
use thiserror::Error;

use crate::limits::{
    NONCE_KEY_BYTES, QUOTA_RELEASE_SCANS_MAX, QUOTA_SET_SLOTS, QUOTA_SLOTS_PER_HOLDER,
};

/// The bits of a slot that count; the others are the tag. One user's allocations have a port each, of
/// 2^16 in each family, so they never fill them.
const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Why a user gets no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QuotaError {
    /// It has what one user may have.
    #[error("the user has as much as one may have")]
    Reached,
    /// All slots of its set are other users', which is not to be expected of a random key.
    #[error("too many users are counted")]
    Full,
}

/// What each user has.
#[derive(Debug)]
pub struct UserQuotas {
    key: hmac::Key,
    /// In sets of [`QUOTA_SET_SLOTS`]. One without a count is free, whatever its tag.
    slots: Box<[AtomicU64]>,
}

impl UserQuotas {
    /// A table for so many allocations and reservations, which may all be of different users. The
    /// key has to be random.
    pub fn new(key: &[u8; NONCE_KEY_BYTES], holders_max: usize) -> Self {
        let sets = (holders_max * QUOTA_SLOTS_PER_HOLDER).div_ceil(QUOTA_SET_SLOTS).max(1);
        let slots = (0..sets * QUOTA_SET_SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), slots }
    }

    /// Counts so many more for a user, if it has no more than `max` then.
    ///
    /// # Errors
    ///
    /// If it would have more, or there is no slot to count it in. Nothing is counted then.
    pub fn take(&self, user: &str, count: u32, max: u32) -> Result<(), QuotaError> {
        if count == 0 {
            return Ok(());
        }
        let Place { set, tag } = self.place(user);
        let added = u64::from(count);
        let is_added = set.iter().any(|slot| add(slot, tag, added))
            || set.iter().any(|slot| occupy(slot, tag, added));
        if !is_added {
            return Err(QuotaError::Full);
        }
        if used(set, tag) > u64::from(max) {
            release(set, tag, added);
            return Err(QuotaError::Reached);
        }
        Ok(())
    }

    /// Counts so many less for a user; they were taken before.
    pub fn release(&self, user: &str, count: u32) {
        let Place { set, tag } = self.place(user);
        release(set, tag, u64::from(count));
    }

    /// A name for a user that nobody without the key can choose or foresee.
    pub(crate) fn hash(&self, user: &str) -> u64 {
        let mac = hmac::sign(&self.key, user.as_bytes());
        let (_, last) = mac.as_ref().split_last_chunk().unwrap_or((&[], &[0; 8]));
        u64::from_be_bytes(*last)
    }

    /// How many slots are in use: one for each user that has something, but for what the module says.
    pub fn users(&self) -> usize {
        self.slots.iter().filter(|slot| slot.load(Ordering::SeqCst) & COUNT_MASK != 0).count()
    }

    /// Where a user is counted.
    fn place(&self, user: &str) -> Place<'_> {
        let mac = hmac::sign(&self.key, user.as_bytes());
        let bits = |bytes: &[u8]| bytes.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        let (for_set, for_tag) = mac.as_ref().split_at(8);
        let sets = (self.slots.len() / QUOTA_SET_SLOTS) as u64;
        // The remainder is less than a length, so it is a usize.
        let first = (bits(for_set) % sets) as usize * QUOTA_SET_SLOTS;
        let set = self.slots.get(first..first + QUOTA_SET_SLOTS).unwrap_or_default();
        let tag = bits(for_tag.get(..8).unwrap_or_default()) & !COUNT_MASK;
        Place { set, tag }
    }
}

#[derive(Debug)]
struct Place<'a> {
    set: &'a [AtomicU64],
    /// In its place in a slot.
    tag: u64,
}

/// What a slot counts for a user, if it is that user's.
fn counted(word: u64, tag: u64) -> Option<u64> {
    let count = word & COUNT_MASK;
    (word & !COUNT_MASK == tag && count > 0).then_some(count)
}

fn used(set: &[AtomicU64], tag: u64) -> u64 {
    set.iter().filter_map(|slot| counted(slot.load(Ordering::SeqCst), tag)).sum()
}

/// Adds to the slot of a user, if it is one.
fn add(slot: &AtomicU64, tag: u64, added: u64) -> bool {
    let more = |word| counted(word, tag).map(|count| tag | (count + added));
    slot.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
}

/// Makes a free slot that of a user.
fn occupy(slot: &AtomicU64, tag: u64, added: u64) -> bool {
    let taken = |word| (word & COUNT_MASK == 0).then_some(tag | added);
    slot.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).is_ok()
}

/// Takes away from the slots of a user what is there of it.
fn release(set: &[AtomicU64], tag: u64, count: u64) {
    let mut left = count;
    // What is counted may move to the slots in front while this goes through them, at the pace of
    // other cores' requests.
    for _ in 0..QUOTA_RELEASE_SCANS_MAX {
        for slot in set {
            let less = |word| counted(word, tag).map(|count| tag | count.saturating_sub(left));
            let before = slot.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
            left = left.saturating_sub(before.unwrap_or_default() & COUNT_MASK);
        }
        if left == 0 {
            return;
        }
    }
    debug_assert!(false, "{left} are released that were not taken");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn a_user_has_as_much_as_one_may_and_others_have_their_own() {
        let quotas = UserQuotas::new(&[1; 32], 8);
        quotas.take("alice", 2, 3).unwrap();
        assert_eq!(quotas.take("alice", 2, 3), Err(QuotaError::Reached));
        quotas.take("alice", 1, 3).unwrap();
        quotas.take("bob", 3, 3).unwrap();
        assert_eq!(quotas.users(), 2);
        quotas.release("alice", 1);
        quotas.take("alice", 1, 3).unwrap();
        assert_eq!(quotas.take("alice", 1, 3), Err(QuotaError::Reached));
        quotas.release("alice", 3);
        quotas.release("bob", 3);
        assert_eq!(quotas.users(), 0);
    }

    #[test]
    fn as_many_users_as_there_is_room_for_are_told_apart_again_and_again() {
        let quotas = UserQuotas::new(&[2; 32], 1000);
        for round in 0..3 {
            let users: Vec<_> = (0..1000).map(|user| format!("{round}-{user}")).collect();
            users.iter().for_each(|user| quotas.take(user, 1, 1).unwrap());
            assert_eq!(quotas.users(), 1000);
            for user in &users {
                assert_eq!(quotas.take(user, 1, 1), Err(QuotaError::Reached));
            }
            users.iter().for_each(|user| quotas.release(user, 1));
            assert_eq!(quotas.users(), 0);
        }
    }

    #[test]
    fn a_full_set_refuses_and_forgets() {
        let quotas = UserQuotas::new(&[3; 32], 1);
        let users: Vec<_> = (0..=QUOTA_SET_SLOTS).map(|user| user.to_string()).collect();
        let (last, others) = users.split_last().unwrap();
        others.iter().for_each(|user| quotas.take(user, 1, 1).unwrap());
        assert_eq!(quotas.take(last, 1, 1), Err(QuotaError::Full));
        quotas.release(&users[0], 1);
        quotas.take(last, 1, 1).unwrap();
    }

    #[test]
    fn cores_that_take_and_release_at_once_stay_within_the_limit_and_leave_nothing() {
        const MAX: u32 = 5;
        let (quotas, held) = (UserQuotas::new(&[4; 32], 8), AtomicU32::new(0));
        // One is there all the time, so no core counts the user for the first time.
        quotas.take("alice", 1, MAX).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5000 {
                        if quotas.take("alice", 2, MAX).is_ok() {
                            assert!(held.fetch_add(2, Ordering::SeqCst) + 2 < MAX);
                            held.fetch_sub(2, Ordering::SeqCst);
                            quotas.release("alice", 2);
                        }
                    }
                });
            }
        });
        quotas.take("alice", MAX - 1, MAX).unwrap();
        quotas.release("alice", MAX);
        assert_eq!(quotas.users(), 0);
    }
}

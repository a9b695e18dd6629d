//! A map that forgets: it holds the entries touched last, and never more than its bound (D-12).
//!
//! Two halves: a new or touched entry goes to the young one; when that is full it becomes the old
//! one, and what was in the old one is forgotten. Constant work for each access.

use std::collections::HashMap;
use std::hash::Hash;

/// The `capacity` entries that were touched last, and up to as many more.
#[derive(Debug)]
pub struct RecentMap<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Eq + Hash + Copy, V> RecentMap<K, V> {
    /// An empty map.
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity: capacity.max(1) }
    }

    /// Entries held; at most twice the capacity.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks at an entry without touching it.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Touches an entry.
    pub fn touch(&mut self, key: &K) -> Option<&mut V> {
        if let Some(value) = self.old.remove(key) {
            self.insert(*key, value);
        }
        self.young.get_mut(key)
    }

    /// Touches an entry, made first if there is none.
    pub fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let value = self.old.remove(&key);
        if value.is_some() || !self.young.contains_key(&key) {
            self.make_room();
        }
        self.young.entry(key).or_insert_with(|| value.unwrap_or_else(make))
    }

    /// Puts an entry.
    pub fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if !self.young.contains_key(&key) {
            self.make_room();
        }
        self.young.insert(key, value);
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    /// Forgets what was not touched since the last call.
    pub fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
    }

    fn make_room(&mut self) {
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_stays_and_the_rest_is_forgotten() {
        let mut map = RecentMap::new(10);
        map.insert(0, "kept");
        for key in 1..1000 {
            map.insert(key, "new");
            assert_eq!(map.touch(&0).copied(), Some("kept"));
            assert!(map.len() <= 20);
        }
        assert_eq!(map.peek(&1), None);
        assert_eq!(map.remove(&0), Some("kept"));
        assert_eq!(map.peek(&0), None);
        assert_eq!(*map.entry(0, || "again"), "again");
    }

    #[test]
    fn what_was_not_touched_between_two_ages_is_forgotten() {
        let mut map = RecentMap::new(10);
        map.insert(0, "touched");
        map.insert(1, "left alone");
        map.age();
        assert_eq!(map.touch(&0).copied(), Some("touched"));
        assert_eq!(map.peek(&1).copied(), Some("left alone"));
        map.age();
        assert_eq!((map.peek(&0).copied(), map.peek(&1)), (Some("touched"), None));
    }
}

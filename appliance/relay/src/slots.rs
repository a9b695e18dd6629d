//! A table whose places are reused, with a generation per place.
//!
//! Owned by one data core. A key is a place and its generation, so a key kept too long finds
//! nothing instead of a stranger. Lookups are one index and one comparison.

/// A table of `T`.
#[derive(Debug)]
pub struct Slots<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    used: usize,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), used: 0 }
    }
}

impl<T> Slots<T> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// How many places there are, used and free: every value's place is below.
    pub fn places(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    /// The place and generation the next [`Self::insert`] will use.
    pub fn next_key(&self) -> (u32, u32) {
        match self.free.last() {
            Some(&slot) => (slot, self.generation_at(slot)),
            None => (u32::try_from(self.places.len()).unwrap_or(u32::MAX), 0),
        }
    }

    /// Puts a value into a free place and returns its key.
    pub fn insert(&mut self, value: T) -> (u32, u32) {
        let (slot, generation) = self.next_key();
        match self.free.pop() {
            Some(_) => {
                if let Some(place) = self.places.get_mut(slot as usize) {
                    place.value = Some(value);
                }
            }
            None => self.places.push(Place { generation, value: Some(value) }),
        }
        self.used += 1;
        (slot, generation)
    }

    /// Puts a value into the place of a key that another table gave out. Places in front of it that
    /// there are not yet become free ones. Gives the value back if the place is in use.
    pub fn insert_at(&mut self, slot: u32, generation: u32, value: T) -> Result<(), T> {
        while self.places() <= slot {
            self.free.push(self.places());
            self.places.push(Place { generation: 0, value: None });
        }
        let Some(place) = self.places.get_mut(slot as usize) else { return Err(value) };
        if place.value.is_some() {
            return Err(value);
        }
        (place.generation, place.value) = (generation, Some(value));
        // It is the last one if the places come in order.
        if let Some(position) = self.free.iter().rposition(|&free| free == slot) {
            self.free.remove(position);
        }
        self.used += 1;
        Ok(())
    }

    /// The value at a place, whatever its generation.
    pub fn at(&self, slot: u32) -> Option<&T> {
        self.places.get(slot as usize)?.value.as_ref()
    }

    /// The value at a place, whatever its generation.
    pub fn at_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.places.get_mut(slot as usize)?.value.as_mut()
    }

    /// The value of a key.
    pub fn get(&self, slot: u32, generation: u32) -> Option<&T> {
        let place = self.places.get(slot as usize)?;
        if place.generation == generation { place.value.as_ref() } else { None }
    }

    /// The value of a key.
    pub fn get_mut(&mut self, slot: u32, generation: u32) -> Option<&mut T> {
        let place = self.places.get_mut(slot as usize)?;
        if place.generation == generation { place.value.as_mut() } else { None }
    }

    /// Takes a value out and retires its key.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let place = self.places.get_mut(slot as usize)?;
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot);
        self.used -= 1;
        Some(value)
    }

    /// Every value with its place and generation, in order of place.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, &T)> {
        self.iter_from(0)
    }

    /// As [`Slots::iter`], without the places in front of `first`.
    pub fn iter_from(&self, first: u32) -> impl Iterator<Item = (u32, u32, &T)> {
        let places = self.places.iter().enumerate().skip(first as usize);
        places.filter_map(|(slot, place)| {
            let value = place.value.as_ref()?;
            Some((u32::try_from(slot).unwrap_or(u32::MAX), place.generation, value))
        })
    }

    /// The generation of the value at a place, or of the next one if the place is free.
    pub fn generation_at(&self, slot: u32) -> u32 {
        self.places.get(slot as usize).map_or(0, |place| place.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_of_a_removed_value_does_not_find_its_successor() {
        let mut slots = Slots::default();
        let (slot, generation) = slots.insert('a');
        assert_eq!(slots.remove(slot), Some('a'));
        let second = slots.insert('b');
        assert_eq!(second.0, slot);
        assert_eq!(slots.get(slot, generation), None);
        assert_eq!(slots.get(second.0, second.1), Some(&'b'));
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn value_is_found_by_the_key_that_another_table_gave_it() {
        let mut slots = Slots::default();
        assert_eq!(slots.insert_at(3, 7, 'd'), Ok(()));
        assert_eq!(slots.insert_at(3, 8, 'x'), Err('x'));
        assert_eq!(slots.insert_at(1, 2, 'b'), Ok(()));
        assert_eq!((slots.get(3, 7), slots.get(1, 2), slots.len()), (Some(&'d'), Some(&'b'), 2));
        let others: Vec<_> = ['e', 'f', 'g'].map(|value| slots.insert(value)).into();
        assert!(!others.iter().any(|&(slot, _)| slot == 1 || slot == 3), "{others:?}");
        assert_eq!((slots.places(), slots.len()), (5, 5));
    }

    #[test]
    fn next_key_is_the_key_insert_returns() {
        let mut slots = Slots::default();
        for value in 0..5 {
            let next = slots.next_key();
            assert_eq!(slots.insert(value), next);
        }
        slots.remove(3);
        slots.remove(1);
        let next = slots.next_key();
        assert_eq!(slots.insert(9), next);
    }
}

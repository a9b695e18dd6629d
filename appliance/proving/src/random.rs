//! Numbers that look random and are the same again for the same seed.

/// Numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends, and is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to what comes before `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Whether what happens once in `count` times happens.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of the choices, if there are any.
    pub fn of<T: Clone>(&mut self, choices: &[T]) -> Option<T> {
        let count = u64::try_from(choices.len()).ok().filter(|count| *count > 0)?;
        choices.get(usize::try_from(self.below(count)).ok()?).cloned()
    }

    /// From 1 to `most`, which is not 0; small ones and any as often as each other.
    pub fn cut(&mut self, most: usize) -> usize {
        let most = if self.one_in(2) { most.min(8) } else { most };
        1 + usize::try_from(self.below(most as u64)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Random;
    use std::collections::BTreeSet;

    #[test]
    fn first_numbers_are_those_of_splitmix64() {
        let mut random = Random(1_234_567);
        let numbers = [(); 3].map(|()| random.next());
        let known =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(numbers, known);
    }

    #[test]
    fn every_choice_comes_and_none_that_is_not_there() {
        let mut random = Random(1);
        let came: BTreeSet<_> = (0..200).filter_map(|_| random.of(&["a", "b", "c"])).collect();
        assert_eq!(came, BTreeSet::from(["a", "b", "c"]));
        assert_eq!(random.of::<u8>(&[]), None);
        let cuts: BTreeSet<_> = (0..2000).map(|_| random.cut(20)).collect();
        assert_eq!(cuts, (1..=20).collect());
    }
}

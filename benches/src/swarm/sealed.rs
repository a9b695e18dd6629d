//! What links of the generator have sealed, by length: what opening and sealing the same records
//! again would cost depends on how many there are and how long they are.

/// Lengths are told apart by their number of binary digits; the longest record has 16.
const CLASSES: usize = 17;

/// Records of one class, and the plaintext in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class {
    pub records: u64,
    pub plaintext_bytes: u64,
}

/// Records by class of length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    classes: [Class; CLASSES],
}

/// What all links of a generator sealed, by the side of the flows they are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// By those that send messages.
    pub near: Records,
    /// By those that receive and acknowledge them.
    pub far: Records,
}

impl Records {
    /// Counts one record.
    pub fn count(&mut self, plaintext_bytes: usize) {
        let digits = (usize::BITS - plaintext_bytes.leading_zeros()) as usize;
        if let Some(class) = self.classes.get_mut(digits.min(CLASSES - 1)) {
            class.records += 1;
            class.plaintext_bytes += plaintext_bytes as u64;
        }
    }

    /// Counts what another link sealed.
    pub fn add(&mut self, other: &Self) {
        for (sum, class) in self.classes.iter_mut().zip(&other.classes) {
            sum.records += class.records;
            sum.plaintext_bytes += class.plaintext_bytes;
        }
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = *self;
        for (class, before) in since.classes.iter_mut().zip(&earlier.classes) {
            class.records -= before.records;
            class.plaintext_bytes -= before.plaintext_bytes;
        }
        since
    }

    /// Records of every length.
    pub fn records(&self) -> u64 {
        self.classes.iter().map(|class| class.records).sum()
    }

    /// Plaintext of a record on average, in bytes; 0 without records.
    pub fn mean_bytes(&self) -> usize {
        let bytes: u64 = self.classes.iter().map(|class| class.plaintext_bytes).sum();
        usize::try_from(bytes / self.records().max(1)).unwrap_or(usize::MAX)
    }

    /// The classes that have any records.
    pub fn classes(&self) -> impl Iterator<Item = Class> {
        self.classes.into_iter().filter(|class| class.records > 0)
    }
}

impl Sealed {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self { near: self.near.since(&earlier.near), far: self.far.since(&earlier.far) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_by_their_length() {
        let mut records = Records::default();
        [1, 20, 30, 65_535].into_iter().for_each(|bytes| records.count(bytes));
        let before = records;
        records.count(25);
        assert_eq!((records.records(), before.classes().count()), (5, 3));
        assert_eq!((before.mean_bytes(), Records::default().mean_bytes()), (16_396, 0));
        let class = Class { records: 2, plaintext_bytes: 50 };
        assert!(before.classes().any(|counted| counted == class));
        let since: Vec<_> = records.since(&before).classes().collect();
        assert_eq!(since, [Class { records: 1, plaintext_bytes: 25 }]);
        records.add(&before);
        assert_eq!(records.records(), 9);
    }
}

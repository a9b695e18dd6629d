//! The cipher state of a link as one process tells another of it, which goes on with the link.
//!
//! Made on the data core that has the link and read on the one that takes it over, once. It is a
//! secret: it goes over a socket between processes of one user and nowhere else, shows nothing in
//! `Debug` and is erased when dropped. Only one of the two processes may seal with it afterwards,
//! or a nonce would be used twice; who that is, is not decided here.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::record::{Direction, Due, Opener, Sealer};
use crate::aead::{AeadSuite, KEY_BYTES};
use crate::limits::{KEY_ROTATION_OPERATIONS, RECORD_PLAINTEXT_MAX_BYTES, TAG_BYTES};

/// The keys and the counter of one direction, and whether a record is half opened.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct DirectionState {
    key: [u8; KEY_BYTES],
    chaining_key: [u8; KEY_BYTES],
    /// The next nonce.
    operations: u64,
    /// Bytes of ciphertext and tag that are due, once their header is open.
    body_bytes: Option<usize>,
}

impl fmt::Debug for DirectionState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DirectionState")
            .field("operations", &self.operations)
            .field("body_bytes", &self.body_bytes)
            .finish_non_exhaustive()
    }
}

impl DirectionState {
    fn of(direction: &Direction, body_bytes: Option<usize>) -> Self {
        Self {
            key: *direction.key.expose_bytes(),
            chaining_key: *direction.chaining_key,
            operations: direction.operations,
            body_bytes,
        }
    }

    fn direction(&self, suite: AeadSuite) -> Option<Direction> {
        if self.operations >= KEY_ROTATION_OPERATIONS {
            return None;
        }
        let mut direction = Direction::new(suite, &self.key, &self.chaining_key)?;
        direction.operations = self.operations;
        Some(direction)
    }

    /// Bytes of a record's body that are due, its tag included.
    pub fn body_bytes(&self) -> Option<usize> {
        self.body_bytes
    }
}

impl Sealer {
    /// What another process needs to go on sealing. `None`: sealing has failed.
    pub fn state(&self) -> Option<DirectionState> {
        (!self.failed).then(|| DirectionState::of(&self.direction, None))
    }

    /// Goes on sealing with whatever back ends this process uses. `None`: it is no such state.
    pub fn from_state(suite: AeadSuite, state: &DirectionState) -> Option<Self> {
        // A record is sealed whole, so two operations at a time.
        if state.body_bytes.is_some() || !state.operations.is_multiple_of(2) {
            return None;
        }
        Some(Self { direction: state.direction(suite)?, failed: false })
    }
}

impl Opener {
    /// Whether another process could go on opening: no record was bad.
    pub fn is_whole(&self) -> bool {
        self.due != Due::Nothing
    }

    /// What another process needs to go on opening. `None`: a record was bad.
    pub fn state(&self) -> Option<DirectionState> {
        match self.due {
            Due::Header => Some(DirectionState::of(&self.direction, None)),
            Due::Body { bytes } => Some(DirectionState::of(&self.direction, Some(bytes))),
            Due::Nothing => None,
        }
    }

    /// Goes on opening with whatever back ends this process uses. `None`: it is no such state.
    pub fn from_state(suite: AeadSuite, state: &DirectionState) -> Option<Self> {
        let due = match state.body_bytes {
            None => Due::Header,
            Some(bytes) => {
                let plaintext_bytes = bytes.checked_sub(TAG_BYTES)?;
                if plaintext_bytes > RECORD_PLAINTEXT_MAX_BYTES {
                    return None;
                }
                Due::Body { bytes }
            }
        };
        Some(Self { direction: state.direction(suite)?, due })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aead::AeadBackend;
    use crate::limits::{RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES};
    use proptest::prelude::*;

    const KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];
    const CHAINING_KEY: [u8; KEY_BYTES] = [9; KEY_BYTES];

    fn suite() -> AeadSuite {
        AeadSuite::alone(AeadBackend::Ring).unwrap()
    }

    fn again(state: Option<DirectionState>) -> DirectionState {
        let text = serde_json::to_string(&state.unwrap()).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Records of both processes are those of one, over the change of keys after 250 records.
        #[test]
        fn direction_goes_on_wherever_it_is_handed_over(
            records in prop::collection::vec((1_usize..300, 0_u8..4), 1..600)
        ) {
            let mut whole = Sealer::new(suite(), &KEY, &CHAINING_KEY).unwrap();
            let mut sealer = Sealer::new(suite(), &KEY, &CHAINING_KEY).unwrap();
            let mut opener = Opener::new(suite(), &KEY, &CHAINING_KEY).unwrap();
            for (bytes, moved) in records {
                let plaintext = vec![moved; bytes];
                let mut record = vec![0; bytes + RECORD_OVERHEAD_BYTES];
                record[RECORD_HEADER_BYTES..][..bytes].copy_from_slice(&plaintext);
                let mut expected = record.clone();
                whole.seal_in_place(&mut expected).unwrap();
                if moved & 1 != 0 {
                    sealer = Sealer::from_state(suite(), &again(sealer.state())).unwrap();
                }
                sealer.seal_in_place(&mut record).unwrap();
                prop_assert_eq!(&record, &expected);
                let (header, body) = record.split_first_chunk_mut().unwrap();
                prop_assert_eq!(opener.open_header(header), Ok(bytes));
                if moved & 2 != 0 {
                    opener = Opener::from_state(suite(), &again(opener.state())).unwrap();
                }
                opener.open_body(body).unwrap();
                prop_assert_eq!(&body[..bytes], &plaintext[..]);
                if moved & 1 != 0 {
                    opener = Opener::from_state(suite(), &again(opener.state())).unwrap();
                }
            }
        }
    }

    #[test]
    fn state_that_no_direction_can_be_in_is_refused() {
        let sealer = Sealer::new(suite(), &KEY, &CHAINING_KEY).unwrap();
        let state = sealer.state().unwrap();
        for (operations, body_bytes) in
            [(KEY_ROTATION_OPERATIONS, None), (1, None), (0, Some(TAG_BYTES + 1))]
        {
            let state = DirectionState { operations, body_bytes, ..state.clone() };
            assert!(Sealer::from_state(suite(), &state).is_none(), "{state:?}");
        }
        for body_bytes in [TAG_BYTES - 1, TAG_BYTES + RECORD_PLAINTEXT_MAX_BYTES + 1] {
            let state = DirectionState { body_bytes: Some(body_bytes), ..state.clone() };
            assert!(Opener::from_state(suite(), &state).is_none(), "{state:?}");
        }
    }

    #[test]
    fn opener_of_a_bad_record_is_not_handed_over() {
        let mut opener = Opener::new(suite(), &KEY, &CHAINING_KEY).unwrap();
        assert!(opener.is_whole());
        opener.open_header(&[0; RECORD_HEADER_BYTES]).unwrap_err();
        assert_eq!((opener.state(), opener.is_whole()), (None, false));
    }

    #[test]
    fn state_shows_no_key() {
        let state = Sealer::new(suite(), &KEY, &CHAINING_KEY).unwrap().state().unwrap();
        let shown = format!("{state:?}");
        assert!(!shown.contains('7') && !shown.contains('9'), "{shown}");
    }
}

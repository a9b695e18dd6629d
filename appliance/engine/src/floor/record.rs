//! A record that goes in circles, for measuring a cipher as a link uses it.

use super::FloorError;
use waystation_astral::aead::{AeadKey, AeadSuite};
use waystation_astral::brontide::{RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES, TAG_BYTES};

/// A record that is opened with one key and sealed with another, which then is the one to open it
/// with. Laid out as on a link: sealed length, sealed body.
#[derive(Debug)]
pub struct SealedRecord {
    keys: [AeadKey; 2],
    counter: u64,
    bytes: Vec<u8>,
}

impl SealedRecord {
    /// A sealed record of so many bytes of plaintext.
    ///
    /// # Errors
    /// [`FloorError::Cipher`] if the cipher takes no key or does not seal.
    pub fn new(suite: AeadSuite, plaintext_bytes: usize) -> Result<Self, FloorError> {
        let bytes = vec![0x5a; RECORD_HEADER_BYTES + plaintext_bytes + TAG_BYTES];
        let keys = [key(suite, 1)?, key(suite, 2)?];
        let mut record = Self { keys, counter: 0, bytes };
        record.seal()?;
        Ok(record)
    }

    /// Bytes of its plaintext.
    pub fn plaintext_bytes(&self) -> usize {
        self.bytes.len() - RECORD_OVERHEAD_BYTES
    }

    /// How often it was opened.
    pub fn times_opened(&self) -> u64 {
        self.counter / 2
    }

    /// Makes it another length.
    ///
    /// # Errors
    /// As [`SealedRecord::new`].
    pub fn resize(&mut self, plaintext_bytes: usize) -> Result<(), FloorError> {
        self.bytes.resize(RECORD_OVERHEAD_BYTES + plaintext_bytes, 0);
        self.seal()
    }

    /// Opens it and seals it again.
    ///
    /// # Errors
    /// [`FloorError::Cipher`] if the cipher refuses what it sealed.
    pub fn open_and_seal(&mut self) -> Result<(), FloorError> {
        let [opening, _] = &mut self.keys;
        let (header, body) = self.bytes.split_at_mut(RECORD_HEADER_BYTES);
        for (part, counter) in [(header, self.counter), (body, self.counter + 1)] {
            opening.open(counter, part).ok_or(FloorError::Cipher)?;
        }
        self.counter += 2;
        self.keys.swap(0, 1);
        self.seal()
    }

    fn seal(&mut self) -> Result<(), FloorError> {
        let [sealing, _] = &mut self.keys;
        let (header, body) = self.bytes.split_at_mut(RECORD_HEADER_BYTES);
        for (part, counter) in [(header, self.counter), (body, self.counter + 1)] {
            let (plaintext, tag) = part.split_last_chunk_mut().ok_or(FloorError::Cipher)?;
            sealing.seal(counter, plaintext, tag).ok_or(FloorError::Cipher)?;
        }
        Ok(())
    }
}

fn key(suite: AeadSuite, seed: u8) -> Result<AeadKey, FloorError> {
    AeadKey::new(suite, &[seed; 32]).ok_or(FloorError::Cipher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_astral::brontide::RECORD_PLAINTEXT_MAX_BYTES;

    #[test]
    fn record_goes_in_circles() {
        for plaintext_bytes in [1, 100, RECORD_PLAINTEXT_MAX_BYTES] {
            let mut record = SealedRecord::new(AeadSuite::default(), plaintext_bytes).unwrap();
            let before = record.bytes.clone();
            for _ in 0..10 {
                record.open_and_seal().unwrap();
            }
            assert_ne!(record.bytes, before);
            assert_eq!(record.times_opened(), 10);
        }
    }

    #[test]
    fn record_that_was_changed_is_refused() {
        let mut record = SealedRecord::new(AeadSuite::default(), 100).unwrap();
        record.bytes[50] ^= 1;
        assert!(matches!(record.open_and_seal(), Err(FloorError::Cipher)));
    }
}

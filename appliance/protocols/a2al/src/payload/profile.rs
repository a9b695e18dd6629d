//! What an agent says about itself (specification §5.8).

use super::{PayloadError, texts, write_texts};
use crate::cbor::{Key, Reader, Writer};
use crate::limits::PROFILE_PAYLOAD_BYTES_MAX;

/// Payload of [`crate::record::RecordType::PROFILE`]. Nodes store it whatever it says; its bound
/// binds writers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProfilePayload {
    /// Version of the payload; 1.
    pub version: u8,
    /// Name.
    pub name: String,
    /// A sentence.
    pub brief: String,
    /// Protocols spoken.
    pub protocols: Vec<String>,
    /// Skills.
    pub skills: Vec<String>,
    /// Hash of a card that is kept elsewhere, empty for none.
    pub card_hash: Vec<u8>,
    /// Kinds of input and output.
    pub modalities: Vec<String>,
    /// An encoded map of anything else, empty for none.
    pub meta: Vec<u8>,
}

impl ProfilePayload {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`PayloadError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PayloadError> {
        let mut payload = Self::default();
        let mut reader = Reader::new(bytes);
        let mut fields = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            match key {
                Key::Number(1) => payload.version = reader.u8()?,
                Key::Number(2) => reader.text()?.clone_into(&mut payload.name),
                Key::Number(3) => reader.text()?.clone_into(&mut payload.brief),
                Key::Number(4) => payload.protocols = texts(&mut reader)?.unwrap_or_default(),
                Key::Number(5) => payload.skills = texts(&mut reader)?.unwrap_or_default(),
                Key::Number(6) => payload.card_hash = reader.bytes()?.to_vec(),
                Key::Number(8) => payload.modalities = texts(&mut reader)?.unwrap_or_default(),
                Key::Number(9) => payload.meta = reader.raw()?.to_vec(),
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        reader.end()?;
        Ok(payload)
    }

    /// Writes the payload.
    ///
    /// # Errors
    /// [`PayloadError::TooLong`] for one that no writer of the network would publish.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        let lists = [(4_u8, &self.protocols), (5, &self.skills)];
        let mut writer = Writer::default();
        writer.map(1 + self.optional_fields());
        writer.unsigned(1_u8).unsigned(self.version.max(1));
        for (key, text) in [(2_u8, &self.name), (3, &self.brief)] {
            if !text.is_empty() {
                writer.unsigned(key).text(text);
            }
        }
        for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            write_texts(writer.unsigned(key), Some(list));
        }
        if !self.card_hash.is_empty() {
            writer.unsigned(6_u8).bytes(&self.card_hash);
        }
        if !self.modalities.is_empty() {
            write_texts(writer.unsigned(8_u8), Some(&self.modalities));
        }
        if !self.meta.is_empty() {
            writer.unsigned(9_u8).raw(&self.meta);
        }
        let bytes = writer.into_bytes();
        if bytes.len() > PROFILE_PAYLOAD_BYTES_MAX {
            return Err(PayloadError::TooLong);
        }
        Ok(bytes)
    }

    fn optional_fields(&self) -> usize {
        let empty = [
            self.name.is_empty(),
            self.brief.is_empty(),
            self.protocols.is_empty(),
            self.skills.is_empty(),
            self.card_hash.is_empty(),
            self.modalities.is_empty(),
            self.meta.is_empty(),
        ];
        empty.into_iter().filter(|is_empty| !is_empty).count()
    }
}

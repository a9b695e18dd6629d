//! What somebody offers under a topic (specification §5.9).

use super::{PayloadError, texts, write_texts};
use crate::cbor::{Key, Reader, Writer};
use crate::limits::TOPIC_BRIEF_CHARACTERS_MAX;

/// Payload of [`crate::record::RecordType::TOPIC`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TopicPayload {
    /// Version of the payload; 1.
    pub version: u8,
    /// The topic, whose hash is the key.
    pub topic: String,
    /// Name of who offers.
    pub name: String,
    /// Protocols spoken; none is written as `null`.
    pub protocols: Option<Vec<String>>,
    /// Tags; none is written as `null`.
    pub tags: Option<Vec<String>>,
    /// A sentence.
    pub brief: String,
    /// An encoded map of anything else, empty for none.
    pub meta: Vec<u8>,
}

/// What a searcher wants of a topic's records. An empty list wants nothing in particular.
#[derive(Clone, Debug, Default)]
pub struct TopicFilter {
    /// One of these has to be there.
    pub protocols: Vec<String>,
    /// All of these have to be there.
    pub tags: Vec<String>,
}

impl TopicPayload {
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
                Key::Number(2) => reader.text()?.clone_into(&mut payload.topic),
                Key::Number(3) => reader.text()?.clone_into(&mut payload.name),
                Key::Number(4) => payload.protocols = texts(&mut reader)?,
                Key::Number(5) => payload.tags = texts(&mut reader)?,
                Key::Number(6) => reader.text()?.clone_into(&mut payload.brief),
                Key::Number(7) => payload.meta = reader.raw()?.to_vec(),
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        reader.end()?;
        Ok(payload)
    }

    /// Writes the payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.map(if self.meta.is_empty() { 6 } else { 7 });
        writer.unsigned(1_u8).unsigned(self.version.max(1));
        writer.unsigned(2_u8).text(&self.topic);
        writer.unsigned(3_u8).text(&self.name);
        write_texts(writer.unsigned(4_u8), self.protocols.as_deref());
        write_texts(writer.unsigned(5_u8), self.tags.as_deref());
        writer.unsigned(6_u8).text(&self.brief);
        if !self.meta.is_empty() {
            writer.unsigned(7_u8).raw(&self.meta);
        }
        writer.into_bytes()
    }

    /// Checks the bounds of a record's payload (§5.3).
    ///
    /// # Errors
    /// The bound that does not hold.
    pub fn check(&self) -> Result<(), PayloadError> {
        if self.topic.is_empty() {
            return Err(PayloadError::EmptyTopic);
        }
        if self.brief.chars().count() > TOPIC_BRIEF_CHARACTERS_MAX {
            return Err(PayloadError::BriefTooLong);
        }
        Ok(())
    }
}

impl TopicFilter {
    /// Says whether a payload is wanted.
    pub fn matches(&self, payload: &TopicPayload) -> bool {
        let has = |list: &Option<Vec<String>>, wanted: &String| {
            list.iter().flatten().any(|listed| listed == wanted)
        };
        let speaks_one = self.protocols.is_empty()
            || self.protocols.iter().any(|wanted| has(&payload.protocols, wanted));
        speaks_one && self.tags.iter().all(|wanted| has(&payload.tags, wanted))
    }
}

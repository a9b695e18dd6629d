//! Bytes as hexadecimal digits, in what one process tells another.
//!
//! Values only, used on any thread. A list of numbers would be twice as long in JSON and take ten
//! times as long to read.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are written as text. Keys are not among them: nothing here is erased.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HexadecimalBytes(pub Vec<u8>);

impl HexadecimalBytes {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for HexadecimalBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HexadecimalBytes({} bytes)", self.0.len())
    }
}

impl Serialize for HexadecimalBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for HexadecimalBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

struct Text;

impl Visitor<'_> for Text {
    type Value = HexadecimalBytes;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("pairs of hexadecimal digits")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<HexadecimalBytes, E> {
        // What is wrong is not repeated: it may be somebody's payload.
        let bytes = hex::decode(text)
            .map_err(|_which| E::custom("bytes that are not pairs of hexadecimal digits"))?;
        Ok(HexadecimalBytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_back_what_they_were_written_from() {
        let all = HexadecimalBytes((0..=255).collect());
        let text = serde_json::to_string(&all).unwrap();
        assert!(text.starts_with("\"000102"), "{text}");
        assert_eq!(serde_json::from_str::<HexadecimalBytes>(&text).unwrap(), all);
    }

    #[test]
    fn text_that_is_not_pairs_of_digits_is_refused_without_being_repeated() {
        for text in ["\"abc\"", "\"zz\"", "7"] {
            let refused = serde_json::from_str::<HexadecimalBytes>(text).unwrap_err();
            assert!(!refused.to_string().contains("abc"), "{refused}");
        }
    }
}

//! Objects of an answer, written in the encoding that the caller asked for (spec §5.3).
//!
//! The management core's services write one answer at a time with it, each bounded by what they
//! list. It knows no object by name: each gives its own payload, JSON and text.

use super::{Encoding, FieldError, FieldWriter, ObjectError};
use super::{write_canonical, write_object};

/// Digits of base64 (RFC 4648 §4).
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// An object that this node answers with.
pub trait AnswerObject {
    /// Gives the type name.
    fn type_name(&self) -> &'static str;

    /// Appends the binary payload.
    ///
    /// # Errors
    /// [`FieldError::TooLong`] when a field cannot say its value.
    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError>;

    /// Gives the JSON value; `None` when no node exchanges the type as JSON.
    fn json(&self) -> Option<String> {
        None
    }

    /// Gives the text value; `None` when the type has none.
    fn text(&self) -> Option<String> {
        None
    }
}

/// Why an object cannot be written in an encoding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// A field cannot say its value.
    #[error("{type_name} does not fit its binary form")]
    Field {
        /// The object's type.
        type_name: &'static str,
        /// Which field it is.
        source: FieldError,
    },
    /// The object does not fit the framing.
    #[error("{type_name} does not fit a channel")]
    Object {
        /// The object's type.
        type_name: &'static str,
        /// Which bound it breaks.
        source: ObjectError,
    },
    /// The type has no such form.
    #[error("{type_name} has no form in the encoding asked for")]
    NoForm {
        /// The object's type.
        type_name: &'static str,
    },
}

/// Gathers the objects of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerWriter {
    encoding: Encoding,
    bytes: Vec<u8>,
}

impl AnswerWriter {
    /// Starts an answer without objects.
    pub const fn new(encoding: Encoding) -> Self {
        Self { encoding, bytes: Vec::new() }
    }

    /// Gives what was written so far.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends an object.
    ///
    /// # Errors
    /// [`AnswerError`] when the object has no form in this encoding; the answer is then unchanged.
    pub fn write(&mut self, object: &dyn AnswerObject) -> Result<(), AnswerError> {
        let type_name = object.type_name();
        match self.encoding {
            Encoding::C1 | Encoding::C2 | Encoding::Canonical => {
                let payload = payload_of(object)?;
                let out = &mut self.bytes;
                match self.encoding.channel_form() {
                    Some(form) => write_object(form, type_name, &payload, out),
                    None => write_canonical(type_name, &payload, out),
                }
                .map_err(|source| AnswerError::Object { type_name, source })
            }
            Encoding::Json => {
                let json = object.json().ok_or(AnswerError::NoForm { type_name })?;
                self.line(&format!("{{\"Type\":\"{type_name}\",\"Object\":{json}}}"));
                Ok(())
            }
            Encoding::BareText => {
                let text = text_of(object).ok_or(AnswerError::NoForm { type_name })?;
                self.line(&text);
                Ok(())
            }
            Encoding::Text | Encoding::Base64 => {
                let text = text_of(object).filter(|_| self.encoding == Encoding::Text);
                let line = match text {
                    Some(text) => format!("#[{type_name}] {text}"),
                    None => format!("#[{type_name}]:{}", base64(&payload_of(object)?)),
                };
                self.line(&line);
                Ok(())
            }
        }
    }

    fn line(&mut self, line: &str) {
        self.bytes.extend_from_slice(line.as_bytes());
        self.bytes.push(b'\n');
    }
}

fn payload_of(object: &dyn AnswerObject) -> Result<Vec<u8>, AnswerError> {
    let mut fields = FieldWriter::new();
    object
        .write_payload(&mut fields)
        .map_err(|source| AnswerError::Field { type_name: object.type_name(), source })?;
    Ok(fields.into_payload())
}

/// A value with a line break has no place in a line.
fn text_of(object: &dyn AnswerObject) -> Option<String> {
    object.text().filter(|text| !text.contains(['\n', '\r']))
}

/// Writes bytes as padded base64.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let whole = group.iter().fold(0_u32, |whole, byte| whole << 8 | u32::from(*byte));
        let whole = whole << (8 * (3 - group.len()));
        for position in 0..4 {
            if position > group.len() {
                text.push('=');
            } else {
                let value = whole >> (18 - 6 * position) & 63;
                text.push(char::from(BASE64[value as usize]));
            }
        }
    }
    text
}

/// Writes a JSON string with its quotes.
pub(crate) fn json_string(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            control if control < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648 §10.
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn json_strings_read_back() {
        let text = "plain \"quoted\" \\ \u{1}\u{1f}\n\r\t é 🦀 \u{7f} </&>";
        assert_eq!(serde_json::from_str::<String>(&json_string(text)).unwrap(), text);
        let everything: String = (0..0x300).filter_map(char::from_u32).collect();
        assert_eq!(serde_json::from_str::<String>(&json_string(&everything)).unwrap(), everything);
    }
}

//! Objects of one value or none: `ack`, `eos`, `bool`, errors, identities, nonces (spec §5.1).
//!
//! Services answer with them; a peer's `bool` is read too.

use crate::endpoint::{Endpoint, GatewayEra};
use crate::frame::Profile;
use crate::identity::Identity;
use crate::object::{AnswerObject, FieldError, FieldReader, FieldWriter, type_names};

use super::{PayloadError, identity_json, write_bare_endpoint};

/// Objects without a value: their type says it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// Success.
    Ack,
    /// The end of a listing, for peers since 2025‑12‑03; earlier ones know no such type, and a
    /// listing ends with its session.
    Eos,
}

impl AnswerObject for Empty {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Ack => type_names::ACK,
            Self::Eos => type_names::EOS,
        }
    }

    fn write_payload(&self, _fields: &mut FieldWriter) -> Result<(), FieldError> {
        Ok(())
    }

    fn json(&self) -> Option<String> {
        Some("null".to_owned())
    }

    fn text(&self) -> Option<String> {
        Some(String::new())
    }
}

/// A truth value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boolean(pub bool);

impl AnswerObject for Boolean {
    fn type_name(&self) -> &'static str {
        type_names::BOOL
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        fields.boolean(self.0);
        Ok(())
    }

    fn json(&self) -> Option<String> {
        Some(self.0.to_string())
    }

    fn text(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// Reads the payload of a `bool`; any non-zero byte is true.
///
/// # Errors
/// When the payload is empty.
pub fn decode_boolean(payload: &[u8]) -> Result<bool, PayloadError> {
    Ok(FieldReader::new(payload).boolean()?)
}

/// Failure with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorMessage {
    type_name: &'static str,
    text: String,
}

impl ErrorMessage {
    /// Makes the error object of the peer's era: `error.message` until 2026‑01‑05, `error_message`
    /// since. P2 lies on both sides; its last half year counts.
    pub fn new(text: &str, profile: Profile) -> Self {
        let type_name = match profile {
            Profile::P0 => type_names::ERROR_MESSAGE_OLD,
            Profile::P2 | Profile::P4 => type_names::ERROR_MESSAGE,
        };
        Self { type_name, text: text.to_owned() }
    }
}

impl AnswerObject for ErrorMessage {
    fn type_name(&self) -> &'static str {
        self.type_name
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        fields.s16(self.text.as_bytes())?;
        Ok(())
    }

    fn json(&self) -> Option<String> {
        Some(crate::object::json_string(&self.text))
    }

    fn text(&self) -> Option<String> {
        Some(self.text.clone())
    }
}

impl AnswerObject for Identity {
    fn type_name(&self) -> &'static str {
        type_names::IDENTITY
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        fields.id33(self);
        Ok(())
    }

    fn json(&self) -> Option<String> {
        Some(identity_json(self))
    }

    fn text(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// A nonce by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce64(pub u64);

impl AnswerObject for Nonce64 {
    fn type_name(&self) -> &'static str {
        type_names::NONCE64
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        fields.u64(self.0);
        Ok(())
    }

    fn json(&self) -> Option<String> {
        Some(format!("\"{:x}\"", self.0))
    }

    fn text(&self) -> Option<String> {
        Some(format!("{:016x}", self.0))
    }
}

/// The bare form, which `nodes.resolve_endpoints` answers with until 2026‑02‑17 (spec §1.1).
impl AnswerObject for Endpoint {
    fn type_name(&self) -> &'static str {
        Endpoint::type_name(self)
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        write_bare_endpoint(self, GatewayEra::Old66, fields);
        Ok(())
    }

    fn json(&self) -> Option<String> {
        Some(format!("\"{}\"", self.address()))
    }

    fn text(&self) -> Option<String> {
        Some(self.address())
    }
}

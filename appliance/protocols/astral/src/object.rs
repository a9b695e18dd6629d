//! Typed objects: their stand-alone forms, channel encodings, and payload fields.
//!
//! Owns spec §5. Negotiation, the gateway and services of the management core call it; nothing on
//! the data path does. Readers bound the payload before they keep it, and never panic.

mod answer;
mod channel;
mod encoding;
mod field;

pub(crate) use answer::json_string;
pub use answer::{AnswerError, AnswerObject, AnswerWriter};
pub use channel::{ChannelForm, Object, ObjectError, ObjectReader, PeekedObject, peek_object};
pub use channel::{read_canonical, write_canonical, write_object, write_short};
pub use encoding::{Encoding, EncodingError};
pub use field::{FieldError, FieldReader, FieldWriter};

use crate::identity::Identity;

/// Type names that this crate reads or writes (spec §5.1, §9.3, §11 to §14).
pub mod type_names {
    /// One byte number; negotiation status.
    pub const UINT8: &str = "uint8";
    /// Two byte number; count of offered features.
    pub const UINT16: &str = "uint16";
    /// String with a one byte length; a feature.
    pub const STRING8: &str = "string8";
    /// Eight byte nonce; link ids and gateway sockets.
    pub const NONCE64: &str = "nonce64";
    /// Truth value of one byte.
    pub const BOOL: &str = "bool";
    /// Success without a value.
    pub const ACK: &str = "ack";
    /// End of a stream of objects (since 2025‑12‑03).
    pub const EOS: &str = "eos";
    /// An identity (since 2026‑02‑05).
    pub const IDENTITY: &str = "identity";
    /// An identity until 2026‑02‑04.
    pub const IDENTITY_OLD: &str = "identity.secp256k1";
    /// Failure with a text (since 2026‑01‑06).
    pub const ERROR_MESSAGE: &str = "error_message";
    /// Failure with a text until 2026‑01‑05.
    pub const ERROR_MESSAGE_OLD: &str = "error.message";
    /// Where to dial for a gateway connection.
    pub const GATEWAY_SOCKET: &str = "mod.gateway.socket";
    /// Keepalive of an idle gateway connection.
    pub const GATEWAY_PING: &str = "mod.gateway.ping";
    /// An idle gateway connection is being given to a caller.
    pub const GATEWAY_HANDOFF: &str = "mod.gateway.handoff";
    /// The registered node took it.
    pub const GATEWAY_HANDOFF_ACK: &str = "mod.gateway.handoff_ack";
    /// The address under which a dialer was seen.
    pub const OBSERVED_ENDPOINT: &str = "mod.nodes.observed_endpoint_message";
    /// An endpoint and how long it holds (since 2026‑02‑18).
    pub const ENDPOINT_WITH_TTL: &str = "mod.nodes.endpoint_with_ttl";
    /// A link in a listing until 2026‑05‑04.
    pub const STREAM_INFO: &str = "mod.nodes.stream_info";
    /// A link in a listing since 2026‑05‑05.
    pub const LINK_INFO: &str = "mod.nodes.link_info";
    /// A session in a listing.
    pub const SESSION_INFO: &str = "mod.nodes.session_info";
    /// A step of a session's move to another link.
    pub const MIGRATE_SIGNAL: &str = "mod.nodes.migrate_signal";
    /// A service that a node offers, or no longer does.
    pub const SERVICE_UPDATE: &str = "services.update";
}

/// Builds the C2 object `error_message`; text over 65 535 bytes is cut at a character.
pub fn error_message(text: &str) -> Vec<u8> {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = text.get(..end).unwrap_or_default().as_bytes();
    let mut payload = Vec::with_capacity(2 + text.len());
    payload.extend_from_slice(&(text.len() as u16).to_be_bytes());
    payload.extend_from_slice(text);
    built(type_names::ERROR_MESSAGE, &payload)
}

/// Builds the C2 object `ack`.
pub fn ack() -> Vec<u8> {
    built(type_names::ACK, &[])
}

/// Builds the C2 object `eos`.
pub fn eos() -> Vec<u8> {
    built(type_names::EOS, &[])
}

/// Builds the C2 object `bool`.
pub fn boolean(value: bool) -> Vec<u8> {
    built(type_names::BOOL, &[u8::from(value)])
}

/// Builds the C2 object `identity`.
pub fn identity(identity: &Identity) -> Vec<u8> {
    built(type_names::IDENTITY, identity.as_bytes())
}

/// Builds the C2 object `nonce64`.
pub fn nonce64(nonce: u64) -> Vec<u8> {
    built(type_names::NONCE64, &nonce.to_be_bytes())
}

/// Writes a C2 object of one of [`type_names`], whose lengths the format can always say.
pub(crate) fn built(type_name: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + type_name.len() + 4 + payload.len());
    out.push(type_name.len() as u8);
    out.extend_from_slice(type_name.as_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Reads the text of an `error_message` (or old `error.message`) object, lossily; `None` when
/// `object` is no such object or its payload is cut short.
pub fn error_text(object: &Object) -> Option<String> {
    let known = [type_names::ERROR_MESSAGE, type_names::ERROR_MESSAGE_OLD];
    if !known.contains(&object.type_name.as_str()) {
        return None;
    }
    let text = FieldReader::new(&object.payload).s16().ok()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests;

//! What a gateway answers: the socket object, and the first generation's subscription reply.

use crate::endpoint::{Endpoint, EndpointError, GatewayEra};
use crate::object::{self, AnswerObject, FieldError, FieldReader, FieldWriter, Object, type_names};
use crate::objects::{Nonce64, endpoint_json};
use crate::time::Rfc3339;

/// Why an object does not name a gateway socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketObjectError {
    /// The gateway refused with a text.
    #[error("gateway refused: {text:?}")]
    Refused {
        /// Its text.
        text: String,
    },
    /// Another type.
    #[error("object is not a {}", type_names::GATEWAY_SOCKET)]
    Type,
    /// A field is cut short.
    #[error("gateway socket is malformed")]
    Field(#[from] FieldError),
    /// The endpoint is unknown or malformed.
    #[error("gateway socket's endpoint is malformed")]
    Endpoint(#[from] EndpointError),
    /// The endpoint's type name is not text.
    #[error("gateway socket's endpoint type is not text")]
    EndpointType,
}

/// The object `mod.gateway.socket`: where to dial and what to present there (§11.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySocket {
    /// Where to dial.
    pub endpoint: Endpoint,
    /// What to present there first.
    pub nonce: u64,
}

impl AnswerObject for GatewaySocket {
    fn type_name(&self) -> &'static str {
        type_names::GATEWAY_SOCKET
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        write_socket(&self.endpoint, self.nonce, fields);
        Ok(())
    }

    /// The spec gives no example; names and forms are those of other objects with such fields.
    fn json(&self) -> Option<String> {
        let endpoint = endpoint_json(Some(&self.endpoint));
        let nonce = Nonce64(self.nonce).json()?;
        Some(format!("{{\"Endpoint\":{endpoint},\"Nonce\":{nonce}}}"))
    }
}

/// Builds the C2 object of a [`GatewaySocket`].
pub fn socket_object(endpoint: &Endpoint, nonce: u64) -> Vec<u8> {
    let mut fields = FieldWriter::new();
    write_socket(endpoint, nonce, &mut fields);
    object::built(type_names::GATEWAY_SOCKET, &fields.into_payload())
}

fn write_socket(endpoint: &Endpoint, nonce: u64, fields: &mut FieldWriter) {
    let type_name = endpoint.type_name();
    let mut endpoint_payload = Vec::new();
    endpoint.encode_payload(GatewayEra::New68, &mut endpoint_payload);
    fields
        .u8(type_name.len() as u8)
        .bytes(type_name.as_bytes())
        .bytes(&endpoint_payload)
        .u64(nonce);
}

/// Reads the answer to `gateway.node_register` and `gateway.node_connect`.
///
/// # Errors
/// [`SocketObjectError`], with the gateway's text when the object is an `error_message`.
pub fn parse_socket_object(object: &Object) -> Result<(Endpoint, u64), SocketObjectError> {
    if let Some(text) = object::error_text(object) {
        return Err(SocketObjectError::Refused { text });
    }
    if object.type_name != type_names::GATEWAY_SOCKET {
        return Err(SocketObjectError::Type);
    }
    let mut fields = FieldReader::new(&object.payload);
    let Ok(type_name) = core::str::from_utf8(fields.s8()?) else {
        return Err(SocketObjectError::EndpointType);
    };
    let (endpoint, consumed_bytes) = Endpoint::decode_payload(type_name, fields.rest())?;
    fields.bytes("endpoint", consumed_bytes)?;
    Ok((endpoint, fields.u64()?))
}

/// Builds the answer to `.gateway.subscribe`: one JSON line (spec §11.1).
///
/// The time is written in UTC as RFC 3339 does; times behind the year 9999, which it cannot
/// write, become that year's last second.
pub fn subscription_reply(expires_at_unix_s: u64) -> Vec<u8> {
    let expires_at = Rfc3339::from_unix_s(expires_at_unix_s);
    format!("{{\"Status\":\"ok\",\"expires_at\":\"{expires_at}\"}}\n").into_bytes()
}

//! The objects that this node exchanges with its peers' services: fields, bytes, JSON and text.
//!
//! Owns the payloads of spec §5.1, §9.3, §12, §13 and §14. The management core's services write
//! them with an [`crate::object::AnswerWriter`] and read those that peers send; nothing on the data
//! path does. Readers ignore surplus bytes (§5.3), and bound every length by the payload itself.

mod endpoints;
mod links;
mod profile;
mod services;
mod simple;

pub use endpoints::{EndpointWithTtl, ObservedEndpoint, PushBodyError};
pub use links::{LinkInfo, SessionInfo, StreamEra, StreamInfo};
pub use profile::{ProfileDocument, ProfileEndpoint};
pub use services::{MigrateSignal, Migration, ServiceUpdate};
pub use simple::{Boolean, Empty, ErrorMessage, Nonce64, decode_boolean};

use crate::endpoint::{Endpoint, EndpointError, GatewayEra};
use crate::identity::Identity;
use crate::object::{FieldError, FieldReader, FieldWriter};

/// Why a payload is not the object it is sent as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// A field is cut short or malformed.
    #[error("object is malformed")]
    Field(#[from] FieldError),
    /// An endpoint is malformed, or of a kind that this node does not know.
    #[error("object's endpoint is malformed")]
    Endpoint(#[from] EndpointError),
    /// A field that must be there says that it is not.
    #[error("object lacks its {field}")]
    Absent {
        /// The field's name.
        field: &'static str,
    },
    /// A field that is text is not UTF-8.
    #[error("object's {field} is not text")]
    NotText {
        /// The field's name.
        field: &'static str,
    },
    /// A signal that nobody sends.
    #[error("migrate signal is unknown")]
    Signal,
}

/// Appends a polymorphic endpoint: type name and payload, or one zero byte for none (spec §5.1).
fn write_endpoint(endpoint: Option<&Endpoint>, fields: &mut FieldWriter) -> Result<(), FieldError> {
    match endpoint {
        Some(endpoint) => {
            fields.s8(endpoint.type_name().as_bytes())?;
            write_bare_endpoint(endpoint, GatewayEra::New68, fields);
        }
        None => {
            fields.u8(0);
        }
    }
    Ok(())
}

/// Appends an endpoint's payload.
fn write_bare_endpoint(endpoint: &Endpoint, era: GatewayEra, fields: &mut FieldWriter) {
    let mut payload = Vec::new();
    endpoint.encode_payload(era, &mut payload);
    fields.bytes(&payload);
}

/// Reads what [`write_endpoint`] wrote.
fn read_endpoint(fields: &mut FieldReader<'_>) -> Result<Option<Endpoint>, PayloadError> {
    let type_name = read_text(fields, "endpoint type")?;
    if type_name.is_empty() {
        return Ok(None);
    }
    let (endpoint, bytes) = Endpoint::decode_payload(type_name, fields.rest())?;
    fields.bytes("endpoint", bytes)?;
    Ok(Some(endpoint))
}

/// Appends a pointer to an identity that is there (spec §5.1).
fn write_identity_pointer(identity: &Identity, fields: &mut FieldWriter) {
    fields.boolean(true).id33(identity);
}

/// Reads a pointer to an identity; absent means the zero identity.
fn read_identity_pointer(fields: &mut FieldReader<'_>) -> Result<Identity, PayloadError> {
    match fields.presence()? {
        true => Ok(fields.id33()?),
        false => Ok(Identity::ANYONE),
    }
}

/// Reads a text with a one byte length.
fn read_text<'a>(
    fields: &mut FieldReader<'a>,
    field: &'static str,
) -> Result<&'a str, PayloadError> {
    let text = fields.s8()?;
    str::from_utf8(text).or(Err(PayloadError::NotText { field }))
}

/// Gives an identity's JSON value (spec §2).
fn identity_json(identity: &Identity) -> String {
    if identity.is_anyone() { "\"anyone\"".to_owned() } else { format!("\"{identity}\"") }
}

/// Gives a polymorphic endpoint's JSON value (spec §12, §13).
pub(crate) fn endpoint_json(endpoint: Option<&Endpoint>) -> String {
    match endpoint {
        Some(endpoint) => format!(
            "{{\"Type\":\"{}\",\"Object\":\"{}\"}}",
            endpoint.type_name(),
            endpoint.address()
        ),
        None => "null".to_owned(),
    }
}

#[cfg(test)]
mod tests;

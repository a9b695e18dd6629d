//! Endpoints with something around them: how long they hold, and who saw them (spec §12).
//!
//! `nodes.resolve_endpoints` and `objects.push` use them, in both directions.

use crate::endpoint::Endpoint;
use crate::object::{AnswerObject, FieldError, FieldReader, FieldWriter, type_names};
use crate::object::{ObjectError, read_canonical, write_canonical};

use super::{PayloadError, endpoint_json, read_endpoint, write_endpoint};

/// An endpoint and for how long it holds, since 2026‑02‑18.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointWithTtl {
    /// Where.
    pub endpoint: Endpoint,
    /// For how many seconds; absent for ever.
    pub ttl_s: Option<u32>,
}

impl EndpointWithTtl {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`PayloadError`], also when there is no endpoint in it.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let mut fields = FieldReader::new(payload);
        let endpoint =
            read_endpoint(&mut fields)?.ok_or(PayloadError::Absent { field: "endpoint" })?;
        let ttl_s = if fields.presence()? { Some(fields.u32()?) } else { None };
        Ok(Self { endpoint, ttl_s })
    }
}

impl AnswerObject for EndpointWithTtl {
    fn type_name(&self) -> &'static str {
        type_names::ENDPOINT_WITH_TTL
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        write_endpoint(Some(&self.endpoint), fields)?;
        fields.boolean(self.ttl_s.is_some());
        if let Some(ttl_s) = self.ttl_s {
            fields.u32(ttl_s);
        }
        Ok(())
    }

    fn json(&self) -> Option<String> {
        let endpoint = endpoint_json(Some(&self.endpoint));
        let ttl = self.ttl_s.map_or_else(|| "null".to_owned(), |ttl_s| ttl_s.to_string());
        Some(format!("{{\"Endpoint\":{endpoint},\"TTL\":{ttl}}}"))
    }
}

/// Tells a dialer under which address it was seen (spec §12.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedEndpoint {
    /// Where.
    pub endpoint: Endpoint,
}

/// Why the body of a push until 2026‑01‑02 is no observed endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushBodyError {
    /// The body is no canonical object.
    #[error("pushed body is no object")]
    Object(#[from] ObjectError),
    /// It is another object.
    #[error("pushed body is another object")]
    Type,
    /// Its payload is malformed.
    #[error("pushed endpoint is malformed")]
    Payload(#[from] PayloadError),
}

impl ObservedEndpoint {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`PayloadError`], also when there is no endpoint in it.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let endpoint = read_endpoint(&mut FieldReader::new(payload))?;
        Ok(Self { endpoint: endpoint.ok_or(PayloadError::Absent { field: "endpoint" })? })
    }

    /// Reads the body of `objects.push?size=…`: a canonical object.
    ///
    /// # Errors
    /// [`PushBodyError`].
    pub fn decode_push_body(body: &[u8]) -> Result<Self, PushBodyError> {
        let (type_name, payload) = read_canonical(body)?;
        if type_name != type_names::OBSERVED_ENDPOINT {
            return Err(PushBodyError::Type);
        }
        Ok(Self::decode(payload)?)
    }

    /// Writes the body of `objects.push?size=…`; its length is the `size`.
    ///
    /// # Errors
    /// As [`AnswerObject::write_payload`]; no endpoint that there is causes one.
    pub fn push_body(&self) -> Result<Vec<u8>, FieldError> {
        let mut fields = FieldWriter::new();
        self.write_payload(&mut fields)?;
        let mut body = Vec::new();
        let written =
            write_canonical(type_names::OBSERVED_ENDPOINT, &fields.into_payload(), &mut body);
        debug_assert!(written.is_ok(), "the type name is ours");
        Ok(body)
    }
}

impl AnswerObject for ObservedEndpoint {
    fn type_name(&self) -> &'static str {
        type_names::OBSERVED_ENDPOINT
    }

    fn write_payload(&self, fields: &mut FieldWriter) -> Result<(), FieldError> {
        write_endpoint(Some(&self.endpoint), fields)
    }
}

//! What a gateway answers: the socket object, and the first generation's subscription reply.

use crate::endpoint::{Endpoint, EndpointError, GatewayEra};
use crate::object::{self, FieldError, FieldReader, FieldWriter, Object, type_names};

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

/// Builds the C2 object `mod.gateway.socket`: where to dial and what to present there (§11.2).
pub fn socket_object(endpoint: &Endpoint, nonce: u64) -> Vec<u8> {
    let type_name = endpoint.type_name();
    let mut endpoint_payload = Vec::new();
    endpoint.encode_payload(GatewayEra::New68, &mut endpoint_payload);
    let mut fields = FieldWriter::new();
    fields
        .u8(type_name.len() as u8)
        .bytes(type_name.as_bytes())
        .bytes(&endpoint_payload)
        .u64(nonce);
    object::built(type_names::GATEWAY_SOCKET, &fields.into_payload())
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
    let time = Rfc3339::from_unix_s(expires_at_unix_s);
    let Rfc3339 { year, month, day, hour, minute, second } = time;
    format!(
        "{{\"Status\":\"ok\",\"expires_at\":\
         \"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z\"}}\n"
    )
    .into_bytes()
}

/// A UTC time in the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rfc3339 {
    pub(super) year: u64,
    pub(super) month: u64,
    pub(super) day: u64,
    pub(super) hour: u64,
    pub(super) minute: u64,
    pub(super) second: u64,
}

impl Rfc3339 {
    /// 9999-12-31T23:59:59Z.
    pub(super) const LAST_UNIX_S: u64 = 253_402_300_799;

    /// Converts seconds since the Unix epoch, by counting 400-year eras of 146 097 days from
    /// 0000-03-01, so that leap days end their year.
    pub(super) fn from_unix_s(unix_s: u64) -> Self {
        const DAYS_BEFORE_EPOCH: u64 = 719_468;
        const ERA_DAYS: u64 = 146_097;
        let unix_s = unix_s.min(Self::LAST_UNIX_S);
        let days = unix_s / 86_400 + DAYS_BEFORE_EPOCH;
        let day_of_era = days % ERA_DAYS;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let is_after_december = month_from_march >= 10;
        Self {
            year: days / ERA_DAYS * 400 + year_of_era + u64::from(is_after_december),
            month: if is_after_december { month_from_march - 9 } else { month_from_march + 3 },
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: unix_s / 3600 % 24,
            minute: unix_s / 60 % 60,
            second: unix_s % 60,
        }
    }
}

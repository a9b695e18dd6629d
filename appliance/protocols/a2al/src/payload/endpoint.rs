//! How a node or an agent is reached (specification §5.7).

use std::net::SocketAddr;

use super::{PayloadError, texts, write_texts};
use crate::cbor::{Key, Reader, Writer};
use crate::limits::{
    ENDPOINTS_USED_MAX, NAT_TYPE_MAX, SIGNAL_BYTES_MAX, SIGNALS_MAX, TURN_BYTES_MAX, TURNS_MAX,
};
use crate::socket_address::{canonical, is_public};

const SCHEME: &str = "quic://";

/// What a node believes about the address translation before it.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct NatType(pub u8);

impl NatType {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self(0);
    /// Public, or translated for everybody alike. A hint, for upstream's probe proves less (D-16).
    pub const OPEN: Self = Self(1);
    /// Only those that were written to before get through.
    pub const RESTRICTED: Self = Self(2);
    /// A new port for each destination.
    pub const SYMMETRIC: Self = Self(4);

    /// Says whether the published address is the one to send to.
    pub fn is_stable(self) -> bool {
        self.0 < Self::SYMMETRIC.0
    }
}

/// Payload of [`crate::record::RecordType::ENDPOINT`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EndpointPayload {
    /// `quic://host:port`, in order of preference; none is written as `null`.
    pub endpoints: Option<Vec<String>>,
    /// Its address translation.
    pub nat: NatType,
    /// The first hub, for readers that know no more; empty for none.
    pub signal: String,
    /// TURN addresses, which nobody writes any more.
    pub turns: Vec<String>,
    /// Hubs in use.
    pub signals: Vec<String>,
}

impl EndpointPayload {
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
                Key::Number(1) => payload.endpoints = texts(&mut reader)?,
                Key::Number(2) => payload.nat = NatType(reader.u8()?),
                Key::Number(3) => reader.text()?.clone_into(&mut payload.signal),
                Key::Number(4) => payload.turns = texts(&mut reader)?.unwrap_or_default(),
                Key::Number(5) => payload.signals = texts(&mut reader)?.unwrap_or_default(),
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        reader.end()?;
        Ok(payload)
    }

    /// Writes the payload.
    pub fn encode(&self) -> Vec<u8> {
        let optional = [self.signal.is_empty(), self.turns.is_empty(), self.signals.is_empty()];
        let mut writer = Writer::default();
        writer.map(2 + optional.iter().filter(|is_empty| !**is_empty).count());
        write_texts(writer.unsigned(1_u8), self.endpoints.as_deref());
        writer.unsigned(2_u8).unsigned(self.nat.0);
        if !self.signal.is_empty() {
            writer.unsigned(3_u8).text(&self.signal);
        }
        if !self.turns.is_empty() {
            write_texts(writer.unsigned(4_u8), Some(&self.turns));
        }
        if !self.signals.is_empty() {
            write_texts(writer.unsigned(5_u8), Some(&self.signals));
        }
        writer.into_bytes()
    }

    /// Checks the bounds of a record's payload (§5.3).
    ///
    /// # Errors
    /// The bound that does not hold.
    pub fn check(&self) -> Result<(), PayloadError> {
        if self.nat.0 > NAT_TYPE_MAX {
            return Err(PayloadError::NatType);
        }
        let are_within = |texts: &[String], count_max: usize, bytes_max: usize| {
            texts.len() <= count_max && texts.iter().all(|text| text.len() <= bytes_max)
        };
        if self.signal.len() > SIGNAL_BYTES_MAX
            || !are_within(&self.signals, SIGNALS_MAX, SIGNAL_BYTES_MAX)
        {
            return Err(PayloadError::Signals);
        }
        if !are_within(&self.turns, TURNS_MAX, TURN_BYTES_MAX) {
            return Err(PayloadError::Turns);
        }
        Ok(())
    }

    /// Its addresses that are literal; a host's name would be a question to a name server for every
    /// stranger who publishes one (D-13).
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let endpoints = self.endpoints.iter().flatten().take(ENDPOINTS_USED_MAX);
        endpoints.filter_map(|endpoint| endpoint_address(endpoint))
    }

    /// Its hubs: the list, or else the single one (§5.7).
    pub fn hubs(&self) -> impl Iterator<Item = &str> {
        let single = (self.signals.is_empty() && !self.signal.is_empty()).then_some(&self.signal);
        self.signals.iter().chain(single).map(String::as_str)
    }

    /// Says whether the node would serve as a hub: it is open, or has a global IPv6 address (§19.1).
    pub fn may_be_hub(&self) -> bool {
        let endpoints = self.endpoints.iter().flatten().take(ENDPOINTS_USED_MAX);
        let mut addresses = endpoints.filter_map(|endpoint| {
            let address = endpoint.strip_prefix(SCHEME).unwrap_or(endpoint);
            address.parse().ok().map(canonical)
        });
        self.nat == NatType::OPEN
            || addresses.any(|address| address.is_ipv6() && is_public(address.ip()))
    }
}

/// The address of one endpoint's text, if it is a literal one of the only scheme.
pub fn endpoint_address(endpoint: &str) -> Option<SocketAddr> {
    endpoint.strip_prefix(SCHEME)?.parse().ok().map(canonical)
}

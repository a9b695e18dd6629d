//! Whom a TLS certificate speaks for (specification §19.2).
//!
//! A certificate's key speaks for its own address or, with an extension that has a delegation, for
//! the address that delegated to it. Both sides of a connection have to check that the same way.

use crate::address::Address;
use crate::cbor::{CborError, Key, Reader, Writer};
use crate::delegation::{Delegation, DelegationError};
use crate::keys::PublicKey;
use crate::limits::CERTIFICATE_EXTENSION_BYTES_MAX;
use crate::time::UnixSeconds;

/// The extension's object identifier.
pub const EXTENSION_OID: &str = "1.3.6.1.4.1.999999.1";
/// The initial byte of an OCTET STRING, and those of lengths in one and two bytes (X.690 §8.1.3).
const OCTET_STRING: u8 = 0x04;
/// The least that is no length by itself.
const LENGTH_SHORT: u8 = 0x80;
const LENGTH_U8: u8 = 0x81;
const LENGTH_U16: u8 = 0x82;

/// What the extension says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AgentExtension {
    /// Whom the certificate speaks for.
    pub agent: Address,
    /// The delegation that lets it.
    pub delegation: Delegation,
}

/// Why a certificate speaks for nobody; its owner is to blame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CertificateError {
    /// The delegation does not count.
    #[error(transparent)]
    Delegation(#[from] DelegationError),
    /// The extension is none.
    #[error("not an extension of A2AL: {0}")]
    Malformed(#[from] CborError),
    /// The delegation is for another key, or by another address than the extension names.
    #[error("the delegation is another one's")]
    OtherDelegation,
}

impl AgentExtension {
    /// Reads the extension's value: a DER OCTET STRING with CBOR in it.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`], and [`CertificateError::Delegation`] for one that is none.
    pub fn decode(value: &[u8]) -> Result<Self, CertificateError> {
        if value.len() > CERTIFICATE_EXTENSION_BYTES_MAX {
            return Err(CborError::WrongLength.into());
        }
        let mut reader = Reader::new(octets(value)?);
        let mut agent = None;
        let mut proof = None;
        let mut fields = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            match key {
                Key::Number(1) => agent = Some(Address(reader.byte_array()?)),
                Key::Number(2) => proof = Some(reader.bytes()?),
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        reader.end()?;
        let missing = CborError::MissingKey;
        let delegation = Delegation::decode(proof.ok_or(missing)?)?;
        Ok(Self { agent: agent.ok_or(missing)?, delegation })
    }

    /// Writes the extension's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.map(2).unsigned(1_u8).bytes(&self.agent.0);
        writer.unsigned(2_u8).bytes(&self.delegation.encode());
        let content = writer.into_bytes();
        // A delegation has less than two kilobytes.
        let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
        let head = match (high, low) {
            (0, length) if length < LENGTH_SHORT => vec![OCTET_STRING, length],
            (0, _) => vec![OCTET_STRING, LENGTH_U8, low],
            _ => vec![OCTET_STRING, LENGTH_U16, high, low],
        };
        [head, content].concat()
    }
}

/// The address for which a certificate with this key, and this extension if it has one, speaks now.
/// Servers ask it of a client's certificate as clients do of a server's (D-2).
///
/// # Errors
/// Why it speaks for nobody.
pub fn agent_of(
    certificate_key: &PublicKey,
    extension: Option<&[u8]>,
    now: UnixSeconds,
) -> Result<Address, CertificateError> {
    let Some(value) = extension else { return Ok(Address::of_key(certificate_key)) };
    let AgentExtension { agent, delegation } = AgentExtension::decode(value)?;
    if delegation.agent != agent || delegation.operational_key != *certificate_key {
        return Err(CertificateError::OtherDelegation);
    }
    delegation.verify(now)?;
    Ok(agent)
}

/// What an OCTET STRING holds that is everything there is, in DER's one form.
fn octets(value: &[u8]) -> Result<&[u8], CborError> {
    let (length, content) = match value {
        [OCTET_STRING, length, content @ ..] if *length < LENGTH_SHORT => {
            (usize::from(*length), content)
        }
        [OCTET_STRING, LENGTH_U8, length, content @ ..] if *length >= LENGTH_SHORT => {
            (usize::from(*length), content)
        }
        [OCTET_STRING, LENGTH_U16, high, low, content @ ..] if *high > 0 => {
            (usize::from(u16::from_be_bytes([*high, *low])), content)
        }
        _ => return Err(CborError::NotCanonical),
    };
    match content.len().cmp(&length) {
        std::cmp::Ordering::Less => Err(CborError::Truncated),
        std::cmp::Ordering::Equal => Ok(content),
        std::cmp::Ordering::Greater => Err(CborError::TrailingBytes),
    }
}

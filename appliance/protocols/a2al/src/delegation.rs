//! Delegations: a master key lets an Ed25519 key sign for its address (specification §1.5).
//!
//! Owns the proof's form and its verification. Called when a record that carries one is judged;
//! what was verified once may be remembered by its bytes until it ends.

use crate::address::{Address, AddressKind};
use crate::cbor::{CborError, Key, Reader, Writer};
use crate::chains::{self, MessageClaims};
use crate::keys::{PublicKey, Signature};
use crate::limits::{
    CHAIN_SIGNATURE_BYTES, DELEGATION_GRACE_S, DELEGATION_MESSAGE_BYTES_MAX, FUTURE_SKEW_S,
};
use crate::time::UnixSeconds;

const PREFIX: &[u8] = b"a2al-del\0";
/// The only scope there is: operations on the network.
pub const SCOPE_NETWORK: u8 = 1;

/// Who signed a delegation, by the version of the address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Master {
    /// An Ed25519 key and its signature over the other fields.
    Native {
        /// The master key.
        public_key: PublicKey,
        /// Its signature.
        signature: Signature,
    },
    /// A key of a chain, which the signature tells, and the text that it signed.
    Chain {
        /// Signature with one byte that tells which key made it.
        signature: Box<[u8; CHAIN_SIGNATURE_BYTES]>,
        /// The text.
        message: Box<str>,
    },
}

/// A proof that `operational_key` may sign for `agent`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Delegation {
    /// The key that may sign.
    pub operational_key: PublicKey,
    /// The address it signs for.
    pub agent: Address,
    /// Seconds since 1970 at which it was made.
    pub issued_at: u64,
    /// Seconds since 1970 at which it ends; 0 for never.
    pub expires_at: u64,
    /// What it is for; only [`SCOPE_NETWORK`] is valid.
    pub scope: u8,
    /// Who made it.
    pub master: Master,
}

/// Why a delegation does not count; its maker or carrier is to blame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DelegationError {
    /// It ended more than the grace ago.
    #[error("the delegation has ended")]
    Expired,
    /// It says that it was made in the future, which would outrank every other for good.
    #[error("the delegation is from the future")]
    FromTheFuture,
    /// Its bytes have not the form of one.
    #[error("not a delegation: {0}")]
    Malformed(#[from] CborError),
    /// The text that was signed says something else than the fields.
    #[error("the signed text differs from the fields")]
    MessageDiffers,
    /// Its scope is not the one there is.
    #[error("the scope is unknown")]
    Scope,
    /// The signature is not one of the address's key.
    #[error("the signature is not the master's")]
    Signature,
    /// The address has a version that cannot delegate.
    #[error("the address cannot delegate")]
    UnsupportedAddress,
}

impl Delegation {
    /// Reads a proof.
    ///
    /// # Errors
    /// [`DelegationError::Malformed`] for any other form, and
    /// [`DelegationError::UnsupportedAddress`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DelegationError> {
        let mut reader = Reader::new(bytes);
        let parts = Parts::read(&mut reader)?;
        reader.end()?;
        parts.into_delegation()
    }

    /// Writes the proof.
    pub fn encode(&self) -> Vec<u8> {
        let (master_key, signature, message) = match &self.master {
            Master::Native { public_key, signature } => (&public_key.0[..], &signature.0[..], ""),
            Master::Chain { signature, message } => (&[][..], &signature[..], &**message),
        };
        let optional = usize::from(!master_key.is_empty()) + usize::from(!message.is_empty());
        let mut writer = Writer::with_capacity(512);
        writer.map(6 + optional);
        self.write_signed_fields(&mut writer, master_key);
        writer.unsigned(7_u8).bytes(signature);
        if !message.is_empty() {
            writer.unsigned(8_u8).text(message);
        }
        writer.into_bytes()
    }

    /// What an Ed25519 master signs.
    pub fn preimage(&self, master_key: &PublicKey) -> Vec<u8> {
        let mut writer = Writer::after(PREFIX.to_vec());
        writer.map(6);
        self.write_signed_fields(&mut writer, &master_key.0);
        writer.into_bytes()
    }

    /// Checks signature, scope, issue and end.
    ///
    /// # Errors
    /// Why it does not count now.
    pub fn verify(&self, now: UnixSeconds) -> Result<(), DelegationError> {
        self.check_time(now)?;
        if self.scope != SCOPE_NETWORK {
            return Err(DelegationError::Scope);
        }
        match &self.master {
            Master::Native { public_key, signature } => {
                let is_genuine = Address::of_key(public_key) == self.agent
                    && public_key.verifies(&self.preimage(public_key), signature);
                if is_genuine { Ok(()) } else { Err(DelegationError::Signature) }
            }
            Master::Chain { signature, message } => {
                if MessageClaims::parse(message) != Some(self.claims()) {
                    return Err(DelegationError::MessageDiffers);
                }
                let signer = match self.agent.kind() {
                    AddressKind::Ethereum => chains::ethereum_signer(message, signature),
                    AddressKind::Paralism => chains::paralism_signer(message, signature),
                    AddressKind::Native | AddressKind::Other => None,
                };
                if signer == Some(self.agent) { Ok(()) } else { Err(DelegationError::Signature) }
            }
        }
    }

    /// Checks issue and end alone, for a proof that was verified before.
    ///
    /// # Errors
    /// [`DelegationError::Expired`] and [`DelegationError::FromTheFuture`].
    pub fn check_time(&self, now: UnixSeconds) -> Result<(), DelegationError> {
        let last = self.expires_at.saturating_add(DELEGATION_GRACE_S);
        if self.expires_at != 0 && now.0 >= last {
            return Err(DelegationError::Expired);
        }
        if self.issued_at > now.0.saturating_add(FUTURE_SKEW_S) {
            return Err(DelegationError::FromTheFuture);
        }
        Ok(())
    }

    fn claims(&self) -> MessageClaims {
        MessageClaims {
            operational_key: self.operational_key,
            agent: self.agent,
            scope: u64::from(self.scope),
            issued_at: self.issued_at,
            expires_at: self.expires_at,
        }
    }

    fn write_signed_fields(&self, writer: &mut Writer, master_key: &[u8]) {
        if !master_key.is_empty() {
            writer.unsigned(1_u8).bytes(master_key);
        }
        writer.unsigned(2_u8).bytes(&self.operational_key.0);
        writer.unsigned(3_u8).bytes(&self.agent.0);
        writer.unsigned(4_u8).unsigned(self.issued_at);
        writer.unsigned(5_u8).unsigned(self.expires_at);
        writer.unsigned(6_u8).unsigned(self.scope);
    }
}

/// The fields of a proof as they come, before the address says which have to be there.
#[derive(Debug, Default)]
struct Parts {
    master_key: Option<[u8; 32]>,
    operational_key: Option<[u8; 32]>,
    agent: Option<[u8; 21]>,
    issued_at: Option<u64>,
    expires_at: Option<u64>,
    scope: Option<u8>,
    signature: Option<Vec<u8>>,
    message: Option<Box<str>>,
}

impl Parts {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        let mut parts = Self::default();
        let mut fields = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            match key {
                Key::Number(1) => parts.master_key = Some(reader.byte_array()?),
                Key::Number(2) => parts.operational_key = Some(reader.byte_array()?),
                Key::Number(3) => parts.agent = Some(reader.byte_array()?),
                Key::Number(4) => parts.issued_at = Some(reader.u64()?),
                Key::Number(5) => parts.expires_at = Some(reader.u64()?),
                Key::Number(6) => parts.scope = Some(reader.u8()?),
                Key::Number(7) => {
                    let signature = reader.bytes()?;
                    if signature.len() > CHAIN_SIGNATURE_BYTES {
                        return Err(CborError::WrongLength);
                    }
                    parts.signature = Some(signature.to_vec());
                }
                Key::Number(8) => {
                    let message = reader.text()?;
                    if message.is_empty() || message.len() > DELEGATION_MESSAGE_BYTES_MAX {
                        return Err(CborError::WrongLength);
                    }
                    parts.message = Some(message.into());
                }
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        Ok(parts)
    }

    fn into_delegation(self) -> Result<Delegation, DelegationError> {
        let missing = CborError::MissingKey;
        let agent = Address(self.agent.ok_or(missing)?);
        let signature = self.signature.ok_or(missing)?;
        let master = match agent.kind() {
            AddressKind::Native if self.message.is_none() => Master::Native {
                public_key: PublicKey(self.master_key.ok_or(missing)?),
                signature: Signature(sized(&signature)?),
            },
            AddressKind::Ethereum | AddressKind::Paralism if self.master_key.is_none() => {
                Master::Chain {
                    signature: Box::new(sized(&signature)?),
                    message: self.message.ok_or(missing)?,
                }
            }
            AddressKind::Native | AddressKind::Ethereum | AddressKind::Paralism => {
                return Err(CborError::WrongLength.into());
            }
            AddressKind::Other => return Err(DelegationError::UnsupportedAddress),
        };
        Ok(Delegation {
            operational_key: PublicKey(self.operational_key.ok_or(missing)?),
            agent,
            issued_at: self.issued_at.ok_or(missing)?,
            expires_at: self.expires_at.ok_or(missing)?,
            scope: self.scope.ok_or(missing)?,
            master,
        })
    }
}

fn sized<const N: usize>(bytes: &[u8]) -> Result<[u8; N], CborError> {
    bytes.try_into().map_err(|_other_length| CborError::WrongLength)
}

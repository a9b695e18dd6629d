//! An encrypted message to an agent (specification §5.10).
//!
//! A node stores and hands out such messages as they are. How they are sealed and opened is in
//! [`super::sealing`].

use super::PayloadError;
use crate::address::Address;
use crate::cbor::{CborError, Key, Reader, Writer};

/// Payload of [`crate::record::RecordType::MAILBOX`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MailboxPayload {
    /// Whom it is for; its place is the key.
    pub recipient: Address,
    /// Who wrote it.
    pub sender: Address,
    /// X25519 key made for this message.
    pub ephemeral_key: [u8; 32],
    /// Ciphertext with its tag.
    pub ciphertext: Vec<u8>,
    /// Nonce of the cipher.
    pub nonce: [u8; 12],
}

impl MailboxPayload {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`PayloadError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PayloadError> {
        let mut addresses = [None; 2];
        let mut ephemeral_key = None;
        let mut ciphertext = None;
        let mut nonce = None;
        let mut reader = Reader::new(bytes);
        let mut fields = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            match key {
                Key::Number(1) => addresses[0] = Some(Address(reader.byte_array()?)),
                Key::Number(2) => addresses[1] = Some(Address(reader.byte_array()?)),
                Key::Number(3) => ephemeral_key = Some(reader.byte_array()?),
                Key::Number(4) => ciphertext = Some(reader.bytes()?.to_vec()),
                Key::Number(5) => nonce = Some(reader.byte_array()?),
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        reader.end()?;
        let missing = CborError::MissingKey;
        let [recipient, sender] = addresses;
        Ok(Self {
            recipient: recipient.ok_or(missing)?,
            sender: sender.ok_or(missing)?,
            ephemeral_key: ephemeral_key.ok_or(missing)?,
            ciphertext: ciphertext.ok_or(missing)?,
            nonce: nonce.ok_or(missing)?,
        })
    }

    /// Writes the payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.map(5);
        writer.unsigned(1_u8).bytes(&self.recipient.0);
        writer.unsigned(2_u8).bytes(&self.sender.0);
        writer.unsigned(3_u8).bytes(&self.ephemeral_key);
        writer.unsigned(4_u8).bytes(&self.ciphertext);
        writer.unsigned(5_u8).bytes(&self.nonce);
        writer.into_bytes()
    }
}

//! Sealing and opening of mailbox messages (specification §5.10).
//!
//! X25519 with a key made for one message, HKDF-SHA256, AES-256-GCM: by `curve25519-dalek` and
//! `ring`. Pure; whoever calls brings fresh random bytes. The node itself reads no mail and writes
//! none: this room is for whoever has agents, and is what the vectors of the specification hold
//! payloads against.

use std::fmt;

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::montgomery::MontgomeryPoint;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::{digest, hkdf};
use zeroize::Zeroizing;

use super::MailboxPayload;
use crate::address::Address;
use crate::cbor::{CborError, Key, Reader, Writer};
use crate::keys::PublicKey;
use crate::limits::SMALL_PAYLOAD_BYTES_MAX;

const SALT: &[u8] = b"a2al-mailbox\0";
const KEY_BYTES: usize = 32;

/// What a message is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LetterType(pub u8);

impl LetterType {
    /// Somebody wants to connect.
    pub const CONNECT: Self = Self(1);
    /// A text.
    pub const TEXT: Self = Self(3);
}

/// What a mailbox message says once it is open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Letter {
    /// What it is about.
    pub letter_type: LetterType,
    /// What it says.
    pub body: Vec<u8>,
}

/// What one message is sealed with. Both are random and never used again.
pub struct SealingSecrets {
    /// The private half of an X25519 key.
    pub ephemeral: Zeroizing<[u8; KEY_BYTES]>,
    /// The cipher's nonce.
    pub nonce: [u8; 12],
}

/// The private key that opens what is sealed for an Ed25519 key.
pub struct OpeningKey(Zeroizing<[u8; KEY_BYTES]>);

/// Why a message cannot be sealed; its writer is to blame, but for the key, which is the recipient's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SealError {
    /// The recipient's key is no point of the curve, or one with which nothing is secret.
    #[error("nothing can be sealed for this key")]
    Key,
    /// It would be longer than a mailbox record's payload may be.
    #[error("the message is longer than {SMALL_PAYLOAD_BYTES_MAX} bytes once it is sealed")]
    TooLong,
}

/// Why a message cannot be opened; its writer is to blame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// It is for somebody else.
    #[error("the message is for another address")]
    OtherRecipient,
    /// Its record is of another address than the one that it says it is from.
    #[error("the message names another sender than its record")]
    OtherSender,
    /// It was sealed for another key, or changed.
    #[error("the message cannot be opened with this key")]
    Sealed,
    /// What was sealed is no letter.
    #[error("not a letter: {0}")]
    Malformed(#[from] CborError),
}

impl Letter {
    /// Seals the message for a recipient, whose key is field 7 of its endpoint record: its own, or
    /// the one that may act for it.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn seal(
        &self,
        sender: Address,
        recipient: Address,
        recipient_key: &PublicKey,
        secrets: &SealingSecrets,
    ) -> Result<MailboxPayload, SealError> {
        let point = CompressedEdwardsY(recipient_key.0).decompress().ok_or(SealError::Key)?;
        let ephemeral_key = MontgomeryPoint::mul_base_clamped(*secrets.ephemeral).to_bytes();
        let between = [&sender, &recipient];
        let cipher = agreed(&secrets.ephemeral, &point.to_montgomery(), between);
        let mut ciphertext = self.encode();
        cipher
            .ok_or(SealError::Key)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(secrets.nonce),
                Aad::empty(),
                &mut ciphertext,
            )
            .map_err(|_longer_than_gigabytes| SealError::TooLong)?;
        let nonce = secrets.nonce;
        let payload = MailboxPayload { recipient, sender, ephemeral_key, ciphertext, nonce };
        if payload.encode().len() > SMALL_PAYLOAD_BYTES_MAX {
            return Err(SealError::TooLong);
        }
        Ok(payload)
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.map(2);
        writer.unsigned(1_u8).unsigned(self.letter_type.0);
        writer.unsigned(2_u8).bytes(&self.body);
        writer.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let mut letter_type = None;
        let mut body = None;
        let mut reader = Reader::new(bytes);
        let mut fields = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            match key {
                Key::Number(1) => letter_type = Some(LetterType(reader.u8()?)),
                Key::Number(2) => body = Some(reader.bytes()?.to_vec()),
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        reader.end()?;
        let missing = CborError::MissingKey;
        Ok(Self { letter_type: letter_type.ok_or(missing)?, body: body.ok_or(missing)? })
    }
}

impl OpeningKey {
    /// The key that belongs to the Ed25519 key of a seed.
    pub fn from_seed(seed: &[u8; KEY_BYTES]) -> Self {
        let hash = digest::digest(&digest::SHA512, seed);
        let mut private = Zeroizing::new([0; KEY_BYTES]);
        private.copy_from_slice(&hash.as_ref()[..KEY_BYTES]);
        Self(private)
    }

    /// Its public half, for which messages are sealed.
    pub fn public(&self) -> [u8; KEY_BYTES] {
        MontgomeryPoint::mul_base_clamped(*self.0).to_bytes()
    }

    /// Opens a message to `own` that came in a record of `record_address`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        &self,
        payload: &MailboxPayload,
        record_address: &Address,
        own: &Address,
    ) -> Result<Letter, OpenError> {
        if payload.recipient != *own {
            return Err(OpenError::OtherRecipient);
        }
        if payload.sender != *record_address {
            return Err(OpenError::OtherSender);
        }
        let ephemeral = MontgomeryPoint(payload.ephemeral_key);
        let cipher = agreed(&self.0, &ephemeral, [&payload.sender, own]);
        let mut text = Zeroizing::new(payload.ciphertext.clone());
        let nonce = Nonce::assume_unique_for_key(payload.nonce);
        let opened = cipher
            .ok_or(OpenError::Sealed)?
            .open_in_place(nonce, Aad::empty(), &mut text)
            .map_err(|_refused| OpenError::Sealed)?;
        Ok(Letter::decode(opened)?)
    }
}

/// The cipher of a sender and a recipient who agree on a secret. None if the other one's point makes
/// that the same for everybody.
fn agreed(
    private: &Zeroizing<[u8; KEY_BYTES]>,
    public: &MontgomeryPoint,
    between: [&Address; 2],
) -> Option<LessSafeKey> {
    let shared = Zeroizing::new(public.mul_clamped(**private).to_bytes());
    if *shared == [0; KEY_BYTES] {
        return None;
    }
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&*shared);
    let about = between.map(|address| &address.0[..]);
    let key = extracted.expand(&about, &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(key)))
}

impl fmt::Debug for SealingSecrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SealingSecrets").finish_non_exhaustive()
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OpeningKey").finish_non_exhaustive()
    }
}

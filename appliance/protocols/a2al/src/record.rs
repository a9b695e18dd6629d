//! Signed records: what is stored for others (specification §5).
//!
//! Owns their form, their signature, who may publish what where, and which of two is newer. A record
//! is verified once, when it enters a store or an answer; after that only its times are looked at.

use crate::address::Address;
use crate::cbor::{CborError, Key, Reader, Writer, head_bytes};
use crate::delegation::{Delegation, DelegationError};
use crate::hash::sha256;
use crate::keys::{Ed25519, PublicKey, Signature, Signer, Verifier};
use crate::limits::{FUTURE_SKEW_S, SMALL_PAYLOAD_BYTES_MAX};
use crate::node_id::NodeId;
use crate::payload::{EndpointPayload, MailboxPayload, PayloadError, TopicPayload};
use crate::time::UnixSeconds;

const PREFIX: &[u8] = b"a2al-rec\0";
const TOPIC_KEY_PREFIX: &[u8] = b"topic:";

/// What a record is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RecordType(pub u8);

/// Which rules a record's type falls under.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Category {
    /// About its address alone, stored at the address's place.
    Sovereign,
    /// One of many at the place of a topic.
    Topic,
    /// A message, stored at its recipient's place.
    Mailbox,
    /// No rules are known; treated as sovereign (§5.2).
    Unknown,
}

impl RecordType {
    /// Asks for every type; no record should have it.
    pub const ANY: Self = Self(0);
    /// How a node or an agent is reached.
    pub const ENDPOINT: Self = Self(0x01);
    /// What an agent says about itself.
    pub const PROFILE: Self = Self(0x02);
    /// Who offers something under a topic.
    pub const TOPIC: Self = Self(0x10);
    /// An encrypted message.
    pub const MAILBOX: Self = Self(0x80);

    /// Its category.
    pub fn category(self) -> Category {
        match self.0 {
            0x01..=0x0f => Category::Sovereign,
            0x10..=0x1f => Category::Topic,
            0x80..=0x8f => Category::Mailbox,
            _ => Category::Unknown,
        }
    }

    /// Says whether a question for this type wants a record of another one.
    pub fn wants(self, other: Self) -> bool {
        self == Self::ANY || self == other
    }
}

/// A record and the signature over it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedRecord {
    /// Whom it is about, or who publishes it.
    pub address: Address,
    /// What it is about.
    pub record_type: RecordType,
    /// CBOR that the type defines.
    pub payload: Vec<u8>,
    /// Higher is newer.
    pub sequence: u64,
    /// Seconds since 1970 at which it was made.
    pub timestamp: u64,
    /// Seconds that it is good for.
    pub ttl_s: u32,
    /// The key that signed.
    pub public_key: PublicKey,
    /// Its signature.
    pub signature: Signature,
    /// The encoded delegation to that key, empty if the address is the key's own.
    pub delegation: Vec<u8>,
}

/// What decides which of two records is newer: compared in this order, equal is not newer (§5.5).
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    /// When the delegation was issued; 0 without one.
    pub issued_at: u64,
    /// The sequence number.
    pub sequence: u64,
    /// When it was made.
    pub timestamp: u64,
}

/// Why a record does not count; its publisher or whoever passed it on is to blame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// The delegation to the key that signed does not count.
    #[error("{0}")]
    Delegation(#[from] DelegationError),
    /// Its time is over.
    #[error("the record has expired")]
    Expired,
    /// Its time has not come.
    #[error("the record is from the future")]
    FromTheFuture,
    /// Another key signed, and nothing allows that.
    #[error("the signer has no authority over the address")]
    NoAuthority,
    /// The payload is not one of the type.
    #[error("{0}")]
    Payload(#[from] PayloadError),
    /// The signature is not the key's.
    #[error("the signature does not hold")]
    Signature,
    /// The record belongs under another key.
    #[error("the record belongs under another key")]
    WrongKey,
}

/// The key under which a topic's records are stored: a plain hash that is not hashed again (§5.2).
pub fn topic_key(topic: &str) -> NodeId {
    NodeId(sha256(&[TOPIC_KEY_PREFIX, topic.as_bytes()]))
}

/// What a record says, before it is signed.
#[derive(Clone, Debug)]
pub struct Unsigned {
    /// Whom it is about.
    pub address: Address,
    /// What it is about.
    pub record_type: RecordType,
    /// CBOR that the type defines.
    pub payload: Vec<u8>,
    /// Higher is newer.
    pub sequence: u64,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// Seconds that it is good for; more than 0.
    pub ttl_s: u32,
    /// The encoded delegation, or nothing.
    pub delegation: Vec<u8>,
}

impl Unsigned {
    /// Signs it.
    pub fn sign(self, key: &dyn Signer) -> SignedRecord {
        let mut record = SignedRecord {
            address: self.address,
            record_type: self.record_type,
            payload: self.payload,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ttl_s: self.ttl_s,
            public_key: key.public(),
            signature: Signature([0; 64]),
            delegation: self.delegation,
        };
        record.signature = key.sign(&record.preimage());
        record
    }
}

impl SignedRecord {
    /// Reads a record. Lengths are checked, nothing else.
    ///
    /// # Errors
    /// Any other form.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        let mut address = None;
        let mut record_type = None;
        let mut payload = None;
        let mut numbers = [None; 2];
        let mut ttl_s = None;
        let mut public_key = None;
        let mut signature = None;
        let mut delegation = Vec::new();
        let mut fields = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            match key {
                Key::Number(1) => address = Some(Address(reader.byte_array()?)),
                Key::Number(2) => record_type = Some(RecordType(reader.u8()?)),
                Key::Number(3) => payload = Some(reader.bytes()?.to_vec()),
                Key::Number(4) => numbers[0] = Some(reader.u64()?),
                Key::Number(5) => numbers[1] = Some(reader.u64()?),
                Key::Number(6) => ttl_s = Some(reader.u32()?),
                Key::Number(7) => public_key = Some(PublicKey(reader.byte_array()?)),
                Key::Number(8) => signature = Some(Signature(reader.byte_array()?)),
                Key::Number(9) => delegation = not_empty(reader.bytes()?)?.to_vec(),
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        let missing = CborError::MissingKey;
        let [sequence, timestamp] = numbers;
        Ok(Self {
            address: address.ok_or(missing)?,
            record_type: record_type.ok_or(missing)?,
            payload: payload.ok_or(missing)?,
            sequence: sequence.ok_or(missing)?,
            timestamp: timestamp.ok_or(missing)?,
            ttl_s: ttl_s.ok_or(missing)?,
            public_key: public_key.ok_or(missing)?,
            signature: signature.ok_or(missing)?,
            delegation,
        })
    }

    /// Reads a record that is all of `bytes`.
    ///
    /// # Errors
    /// Any other form.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let mut reader = Reader::new(bytes);
        let record = Self::read(&mut reader)?;
        reader.end()?;
        Ok(record)
    }

    /// Writes the record.
    pub fn write(&self, writer: &mut Writer) {
        writer.map(if self.delegation.is_empty() { 8 } else { 9 });
        self.write_signed_fields(writer);
        writer.unsigned(7_u8).bytes(&self.public_key.0);
        writer.unsigned(8_u8).bytes(&self.signature.0);
        if !self.delegation.is_empty() {
            writer.unsigned(9_u8).bytes(&self.delegation);
        }
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(self.encoded_bytes());
        self.write(&mut writer);
        writer.into_bytes()
    }

    /// How many bytes [`SignedRecord::write`] writes.
    pub fn encoded_bytes(&self) -> usize {
        let number = |value: u64| usize::try_from(value).map_or(9, head_bytes);
        let string = |length: usize| head_bytes(length) + length;
        let delegation =
            if self.delegation.is_empty() { 0 } else { 1 + string(self.delegation.len()) };
        let keys = 1 + 8;
        keys + string(self.address.0.len())
            + number(u64::from(self.record_type.0))
            + string(self.payload.len())
            + number(self.sequence)
            + number(self.timestamp)
            + number(u64::from(self.ttl_s))
            + string(self.public_key.0.len())
            + string(self.signature.0.len())
            + delegation
    }

    /// What the signature covers: neither key nor delegation, which prove themselves.
    pub fn preimage(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(PREFIX.len() + self.encoded_bytes());
        writer.raw(PREFIX).map(6);
        self.write_signed_fields(&mut writer);
        writer.into_bytes()
    }

    /// Checks what does not depend on time or place: signature and payload.
    ///
    /// # Errors
    /// [`RecordError::Signature`] and [`RecordError::Payload`].
    pub fn verify(&self) -> Result<(), RecordError> {
        self.verify_by(&mut Ed25519)
    }

    /// The same, with somebody else who says whether the signature holds.
    ///
    /// # Errors
    /// [`RecordError::Signature`] and [`RecordError::Payload`].
    pub fn verify_by(&self, verifier: &mut dyn Verifier) -> Result<(), RecordError> {
        if !verifier.verifies(&self.public_key, &self.preimage(), &self.signature) {
            return Err(RecordError::Signature);
        }
        self.check_payload()
    }

    /// Checks the payload alone, which costs next to nothing.
    ///
    /// # Errors
    /// [`RecordError::Payload`].
    pub fn check_payload(&self) -> Result<(), RecordError> {
        let is_long = self.payload.len() > SMALL_PAYLOAD_BYTES_MAX;
        match self.record_type.category() {
            Category::Sovereign if self.record_type == RecordType::ENDPOINT => {
                EndpointPayload::decode(&self.payload)?.check()?;
            }
            Category::Topic | Category::Mailbox if is_long => {
                return Err(PayloadError::TooLong.into());
            }
            Category::Topic if self.record_type == RecordType::TOPIC => {
                TopicPayload::decode(&self.payload)?.check()?;
            }
            Category::Sovereign | Category::Topic | Category::Mailbox | Category::Unknown => {}
        }
        Ok(())
    }

    /// Checks that it is neither from the future nor over. It is good in the second in which it
    /// expires.
    ///
    /// # Errors
    /// [`RecordError::FromTheFuture`] and [`RecordError::Expired`].
    pub fn check_time(&self, now: UnixSeconds) -> Result<(), RecordError> {
        if self.timestamp > now.0.saturating_add(FUTURE_SKEW_S) {
            return Err(RecordError::FromTheFuture);
        }
        if self.expires_at() < now.0 { Err(RecordError::Expired) } else { Ok(()) }
    }

    /// The last second since 1970 in which it is good.
    pub fn expires_at(&self) -> u64 {
        self.timestamp.saturating_add(u64::from(self.ttl_s))
    }

    /// Checks that it may stand under a key: its address's place for sovereign types, the topic's
    /// for topics, the recipient's for mailboxes (§5.3 [R], §5.4, §6.2). Upstream looks at the first
    /// alone, so anything could be heaped up anywhere; every honest writer satisfies all three.
    ///
    /// # Errors
    /// [`RecordError::WrongKey`].
    pub fn check_place(&self, key: &NodeId) -> Result<(), RecordError> {
        let belongs = match self.record_type.category() {
            Category::Sovereign | Category::Unknown => self.address.node_id() == *key,
            Category::Topic if self.record_type == RecordType::TOPIC => {
                TopicPayload::decode(&self.payload)
                    .is_ok_and(|payload| topic_key(&payload.topic) == *key)
            }
            Category::Mailbox => MailboxPayload::decode(&self.payload)
                .is_ok_and(|payload| payload.recipient.node_id() == *key),
            Category::Topic => true,
        };
        if belongs { Ok(()) } else { Err(RecordError::WrongKey) }
    }

    /// Checks that the key that signed may speak for the address (§5.4). The delegation's own
    /// signature is checked by `verify`, so that a caller may remember what it has verified.
    ///
    /// # Errors
    /// [`RecordError::NoAuthority`] and [`RecordError::Delegation`].
    pub fn check_authority(
        &self,
        verify: impl FnOnce(&Delegation) -> Result<(), DelegationError>,
    ) -> Result<(), RecordError> {
        if Address::of_key(&self.public_key) == self.address {
            return Ok(());
        }
        if self.delegation.is_empty() {
            return Err(RecordError::NoAuthority);
        }
        let delegation = Delegation::decode(&self.delegation)?;
        if delegation.operational_key != self.public_key || delegation.agent != self.address {
            return Err(RecordError::NoAuthority);
        }
        Ok(verify(&delegation)?)
    }

    /// What decides whether it is newer than another record. A delegation counts by when it was
    /// issued whoever signed, and one that cannot be read counts as none.
    pub fn version(&self) -> Version {
        let issued_at = if self.delegation.is_empty() {
            0
        } else {
            Delegation::decode(&self.delegation).map_or(0, |delegation| delegation.issued_at)
        };
        Version { issued_at, sequence: self.sequence, timestamp: self.timestamp }
    }

    /// The id under which waiting mail is named (§21.3); a push is acknowledged by the hash of the
    /// payload whether it is empty or not.
    pub fn record_id(&self) -> [u8; 32] {
        if self.payload.is_empty() {
            sha256(&[&self.address.0, &self.sequence.to_be_bytes()])
        } else {
            sha256(&[&self.payload])
        }
    }

    fn write_signed_fields(&self, writer: &mut Writer) {
        writer.unsigned(1_u8).bytes(&self.address.0);
        writer.unsigned(2_u8).unsigned(self.record_type.0);
        writer.unsigned(3_u8).bytes(&self.payload);
        writer.unsigned(4_u8).unsigned(self.sequence);
        writer.unsigned(5_u8).unsigned(self.timestamp);
        writer.unsigned(6_u8).unsigned(self.ttl_s);
    }
}

/// An optional field that is empty would have been left out.
pub(crate) fn not_empty(bytes: &[u8]) -> Result<&[u8], CborError> {
    if bytes.is_empty() { Err(CborError::NotCanonical) } else { Ok(bytes) }
}

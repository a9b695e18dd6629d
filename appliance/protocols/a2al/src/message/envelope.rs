//! The envelope: header, body, and the sender's signature over both (specification §3.1, §3.2).

use super::{Body, MessageType};
use crate::address::Address;
use crate::cbor::{CborError, Key, Reader, Writer};
use crate::keys::{Ed25519, PublicKey, Signature, Signer, Verifier};
use crate::limits::{DATAGRAM_BYTES_MAX, ENVELOPE_BYTES, TRANSACTION_ID_BYTES};
use crate::node_id::NodeId;

const PREFIX: &[u8] = b"a2al-msg\0";
/// Sent as the version, and not looked at by anybody.
const VERSION: u8 = 1;
/// Sent as the features, and not looked at by anybody.
const FEATURES: u16 = 0;

/// Names a request and its answer; fresh random bytes for each attempt.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TransactionId(pub [u8; TRANSACTION_ID_BYTES]);

/// A message whose signature holds.
#[derive(Clone, Debug)]
pub struct Message {
    /// The request's name.
    pub transaction: TransactionId,
    /// Key of the node that sent it.
    pub sender_key: PublicKey,
    /// Address of that key.
    pub sender: Address,
    /// Place of that address.
    pub sender_id: NodeId,
    /// What it says.
    pub body: Body,
}

/// A message that has the right form; whose it is, is not known yet.
#[derive(Debug)]
pub struct Parsed<'a> {
    /// The request's name.
    pub transaction: TransactionId,
    /// The key that is said to have signed.
    pub sender_key: PublicKey,
    /// What it says.
    pub body: Body,
    /// Keys that this version does not know; a later one sent it.
    pub unknown_keys: u32,
    signature: Signature,
    /// Header and body as they came: signatures are verified over what was signed, not over what
    /// this version would write (§2.3).
    signed: [&'a [u8]; 2],
}

/// Why a message is dropped; its sender is to blame, and nobody is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// A ping or pong names another address than the sender's.
    #[error("the address is not the sender's")]
    ForeignAddress,
    /// Bytes of another form.
    #[error("not a message: {0}")]
    Malformed(#[from] CborError),
    /// The signature is not the sender's.
    #[error("the signature does not hold")]
    Signature,
    /// A type of later versions.
    #[error("the type is unknown")]
    UnknownType,
}

impl<'a> Parsed<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// [`MessageError::Malformed`] and [`MessageError::UnknownType`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes);
        let mut header = None;
        let mut body = None;
        let mut sender_key = None;
        let mut signature = None;
        let mut fields = reader.outermost_map()?;
        while let Some(key) = reader.field(&mut fields)? {
            let start = reader.position();
            match key {
                Key::Number(1) => {
                    let read = Header::read(&mut reader)?;
                    header = Some((read, &bytes[start..reader.position()]));
                }
                Key::Number(2) => {
                    // The header sorts before the body, so it says here what the body is.
                    let (header, _) = header.as_ref().ok_or(CborError::MissingKey)?;
                    let read = Body::read(&mut reader, header.message_type)?;
                    body = Some((read, &bytes[start..reader.position()]));
                }
                Key::Number(3) => sender_key = Some(PublicKey(reader.byte_array()?)),
                Key::Number(4) => signature = Some(Signature(reader.byte_array()?)),
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        reader.end()?;
        let missing = CborError::MissingKey;
        let (header, header_bytes) = header.ok_or(missing)?;
        let (body, body_bytes) = body.ok_or(missing)?;
        Ok(Self {
            transaction: header.transaction,
            sender_key: sender_key.ok_or(missing)?,
            body,
            unknown_keys: reader.unknown_keys(),
            signature: signature.ok_or(missing)?,
            signed: [header_bytes, body_bytes],
        })
    }

    /// Checks who sent it. This is what costs time.
    ///
    /// # Errors
    /// [`MessageError::Signature`] and [`MessageError::ForeignAddress`].
    pub fn verify(self) -> Result<Message, MessageError> {
        self.verify_by(&mut Ed25519)
    }

    /// The same, with somebody else who says whether the signature holds.
    ///
    /// # Errors
    /// [`MessageError::Signature`] and [`MessageError::ForeignAddress`].
    pub fn verify_by(self, verifier: &mut dyn Verifier) -> Result<Message, MessageError> {
        let sender = Address::of_key(&self.sender_key);
        if let Body::Ping { address } | Body::Pong { address, .. } = &self.body
            && *address != sender
        {
            return Err(MessageError::ForeignAddress);
        }
        let preimage = [PREFIX, self.signed[0], self.signed[1]].concat();
        if !verifier.verifies(&self.sender_key, &preimage, &self.signature) {
            return Err(MessageError::Signature);
        }
        Ok(Message {
            transaction: self.transaction,
            sender_key: self.sender_key,
            sender,
            sender_id: sender.node_id(),
            body: self.body,
        })
    }

    /// The body as it came.
    pub fn body_bytes(&self) -> &'a [u8] {
        self.signed[1]
    }

    /// The signature, by which a datagram that comes twice is told.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }
}

/// Writes and signs a message.
pub fn encode(key: &dyn Signer, transaction: TransactionId, body: &Body) -> Vec<u8> {
    // The preimage is header and body behind a prefix, so both are written once and copied.
    let mut signed = Writer::with_capacity(DATAGRAM_BYTES_MAX);
    signed.raw(PREFIX);
    write_header(&mut signed, body.message_type(), transaction);
    let header_end = signed.position();
    body.write(&mut signed);
    let preimage = signed.into_bytes();
    let signature = key.sign(&preimage);
    let body_bytes = preimage.len() - header_end;
    let mut writer = Writer::with_capacity(body_bytes + ENVELOPE_BYTES);
    writer.map(4);
    writer.unsigned(1_u8).raw(&preimage[PREFIX.len()..header_end]);
    writer.unsigned(2_u8).raw(&preimage[header_end..]);
    writer.unsigned(3_u8).bytes(&key.public().0);
    writer.unsigned(4_u8).bytes(&signature.0);
    writer.into_bytes()
}

/// What of a header counts. Version and features have to be there and are not looked at.
#[derive(Debug)]
struct Header {
    message_type: MessageType,
    transaction: TransactionId,
}

impl Header {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let mut seen = [false; 2];
        let mut code = None;
        let mut transaction = None;
        let mut fields = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            match key {
                Key::Number(1) => seen[0] = reader.u8().map(|_version| true)?,
                Key::Number(2) => seen[1] = reader.u16().map(|_features| true)?,
                Key::Number(3) => code = Some(reader.u8()?),
                Key::Number(4) => transaction = Some(TransactionId(reader.byte_array()?)),
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        let missing = CborError::MissingKey;
        if seen != [true; 2] {
            return Err(missing.into());
        }
        let message_type = MessageType::from_code(code.ok_or(missing)?);
        Ok(Self {
            message_type: message_type.ok_or(MessageError::UnknownType)?,
            transaction: transaction.ok_or(missing)?,
        })
    }
}

fn write_header(writer: &mut Writer, message_type: MessageType, transaction: TransactionId) {
    writer.map(4);
    writer.unsigned(1_u8).unsigned(VERSION);
    writer.unsigned(2_u8).unsigned(FEATURES);
    writer.unsigned(3_u8).unsigned(message_type.code());
    writer.unsigned(4_u8).bytes(&transaction.0);
}

//! The twelve bodies (specification §3.3).
//!
//! Every optional field that is present is not empty and every other field is there, because nodes
//! that encode a message again would otherwise verify other bytes than were signed (§2.3).

use std::net::SocketAddr;

use super::NodeInfo;
use crate::address::Address;
use crate::cbor::{CborError, Fields, Key, Reader, Writer, head_bytes};
use crate::limits::{NODES_READ_MAX, POOL_IDS_MAX, POOL_TYPES_MAX, RECORDS_READ_MAX, TOKEN_BYTES};
use crate::node_id::NodeId;
use crate::record::{RecordType, SignedRecord};
use crate::socket_address;

/// Which body a message has.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum MessageType {
    /// Who are you?
    Ping = 1,
    /// I am, and you are seen as.
    Pong = 2,
    /// Who is near?
    FindNode = 3,
    /// These are.
    FindNodeResponse = 4,
    /// What is stored here, and who is near?
    FindValue = 5,
    /// This is.
    FindValueResponse = 6,
    /// Keep this.
    Store = 7,
    /// Done, or not.
    StoreResponse = 8,
    /// Can you reach me there?
    NatProbeRequest = 9,
    /// Yes.
    NatProbeEcho = 10,
    /// Something new that you waited for.
    Push = 11,
    /// Got it.
    PushAcknowledgement = 12,
}

/// Why a record was not stored.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Refusal {
    /// The node does not want it; asking again is of no use.
    Policy,
    /// The record is not acceptable.
    Record,
    /// A code of later versions.
    Other(u8),
}

/// Waiting mail of one type (v0.3, §21.3).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolEntry {
    /// A type of the mailbox category.
    pub record_type: RecordType,
    /// How many wait.
    pub count: u16,
    /// Ids of the newest, newest first.
    pub ids: Vec<[u8; 32]>,
}

/// What a message says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Body {
    /// [`MessageType::Ping`].
    Ping {
        /// The sender's own address.
        address: Address,
    },
    /// [`MessageType::Pong`].
    Pong {
        /// The sender's own address.
        address: Address,
        /// Where the request came from.
        observed: SocketAddr,
    },
    /// [`MessageType::FindNode`].
    FindNode {
        /// The place that is asked about.
        target: NodeId,
    },
    /// [`MessageType::FindNodeResponse`].
    FindNodeResponse {
        /// Nodes near the target; none is read and written as `null`.
        nodes: Option<Vec<NodeInfo>>,
        /// Where the request came from.
        observed: SocketAddr,
    },
    /// [`MessageType::FindValue`].
    FindValue {
        /// The key that is asked about.
        target: NodeId,
        /// Which records; [`RecordType::ANY`] for all.
        record_type: RecordType,
        /// Whether the next record is to be pushed.
        subscribe: bool,
    },
    /// [`MessageType::FindValueResponse`].
    FindValueResponse {
        /// Nodes near the target; none is read and written as `null`.
        nodes: Option<Vec<NodeInfo>>,
        /// A single record, as old nodes answered.
        record: Option<Box<SignedRecord>>,
        /// Where the request came from.
        observed: SocketAddr,
        /// Records under the key.
        records: Vec<SignedRecord>,
    },
    /// [`MessageType::Store`].
    Store {
        /// What to keep.
        record: Box<SignedRecord>,
        /// Under which key; the place of the record's address if there is none.
        key: Option<NodeId>,
    },
    /// [`MessageType::StoreResponse`].
    StoreResponse {
        /// Whether the record, or one at least as new, is kept.
        stored: bool,
        /// Whether one at least as new was there before.
        already_had: bool,
        /// Why not.
        refusal: Option<Refusal>,
        /// Mail that waits for the publisher. Nodes before v0.3 drop a message that has any.
        pool: Vec<PoolEntry>,
    },
    /// [`MessageType::NatProbeRequest`].
    NatProbeRequest {
        /// What the echo has to bring back.
        token: [u8; TOKEN_BYTES],
        /// Where the echo has to go.
        claimed: SocketAddr,
    },
    /// [`MessageType::NatProbeEcho`].
    NatProbeEcho {
        /// The request's token.
        token: [u8; TOKEN_BYTES],
    },
    /// [`MessageType::Push`].
    Push {
        /// The key under which it is stored.
        key: NodeId,
        /// What is new.
        record: Box<SignedRecord>,
    },
    /// [`MessageType::PushAcknowledgement`].
    PushAcknowledgement {
        /// The push's key.
        key: NodeId,
        /// SHA-256 of the payload.
        message_id: [u8; 32],
        /// Whether the next record is to be pushed too.
        subscribe: bool,
    },
}

impl MessageType {
    /// The type of a code.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Ping,
            2 => Self::Pong,
            3 => Self::FindNode,
            4 => Self::FindNodeResponse,
            5 => Self::FindValue,
            6 => Self::FindValueResponse,
            7 => Self::Store,
            8 => Self::StoreResponse,
            9 => Self::NatProbeRequest,
            10 => Self::NatProbeEcho,
            11 => Self::Push,
            12 => Self::PushAcknowledgement,
            _ => return None,
        })
    }

    /// Its code on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The type that answers it with its transaction, if there is one.
    pub fn answer(self) -> Option<Self> {
        match self {
            Self::Ping => Some(Self::Pong),
            Self::FindNode => Some(Self::FindNodeResponse),
            Self::FindValue => Some(Self::FindValueResponse),
            Self::Store => Some(Self::StoreResponse),
            Self::Push => Some(Self::PushAcknowledgement),
            Self::Pong
            | Self::FindNodeResponse
            | Self::FindValueResponse
            | Self::StoreResponse
            | Self::NatProbeRequest
            | Self::NatProbeEcho
            | Self::PushAcknowledgement => None,
        }
    }
}

impl Refusal {
    fn code(self) -> u8 {
        match self {
            Self::Policy => 1,
            Self::Record => 2,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Result<Self, CborError> {
        match code {
            0 => Err(CborError::NotCanonical),
            1 => Ok(Self::Policy),
            2 => Ok(Self::Record),
            code => Ok(Self::Other(code)),
        }
    }
}

/// Everything that a body may have, until the type says what it must have.
#[derive(Debug, Default)]
struct Slots {
    address: Option<Address>,
    id: Option<NodeId>,
    second_id: Option<NodeId>,
    observed: Option<SocketAddr>,
    nodes: Option<Option<Vec<NodeInfo>>>,
    record: Option<Box<SignedRecord>>,
    records: Vec<SignedRecord>,
    record_type: Option<RecordType>,
    token: Option<[u8; TOKEN_BYTES]>,
    stored: Option<bool>,
    flag: bool,
    refusal: Option<Refusal>,
    pool: Vec<PoolEntry>,
}

impl Body {
    /// Which message it belongs to.
    pub fn message_type(&self) -> MessageType {
        match self {
            Self::Ping { .. } => MessageType::Ping,
            Self::Pong { .. } => MessageType::Pong,
            Self::FindNode { .. } => MessageType::FindNode,
            Self::FindNodeResponse { .. } => MessageType::FindNodeResponse,
            Self::FindValue { .. } => MessageType::FindValue,
            Self::FindValueResponse { .. } => MessageType::FindValueResponse,
            Self::Store { .. } => MessageType::Store,
            Self::StoreResponse { .. } => MessageType::StoreResponse,
            Self::NatProbeRequest { .. } => MessageType::NatProbeRequest,
            Self::NatProbeEcho { .. } => MessageType::NatProbeEcho,
            Self::Push { .. } => MessageType::Push,
            Self::PushAcknowledgement { .. } => MessageType::PushAcknowledgement,
        }
    }

    pub(super) fn read(
        reader: &mut Reader<'_>,
        message_type: MessageType,
    ) -> Result<Self, CborError> {
        let mut slots = Slots::default();
        let mut fields: Fields<'_> = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            let is_known = match key {
                Key::Number(number) => slots.read(reader, message_type, number)?,
                Key::Text(_) | Key::Negative => false,
            };
            if !is_known {
                reader.skip_unknown()?;
            }
        }
        slots.into_body(message_type)
    }

    /// The body's bytes, without an envelope.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.write(&mut writer);
        writer.into_bytes()
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        match self {
            Self::Ping { address } => {
                writer.map(1).unsigned(1_u8).bytes(&address.0);
            }
            Self::Pong { address, observed } => {
                writer.map(2).unsigned(1_u8).bytes(&address.0);
                socket_address::write(writer.unsigned(2_u8), *observed);
            }
            Self::FindNode { target } => {
                writer.map(1).unsigned(1_u8).bytes(&target.0);
            }
            Self::FindNodeResponse { nodes, observed } => {
                write_nodes(writer.map(2).unsigned(1_u8), nodes.as_deref());
                socket_address::write(writer.unsigned(2_u8), *observed);
            }
            Self::FindValue { target, record_type, subscribe } => {
                write_find_value(writer, target, *record_type, *subscribe);
            }
            Self::FindValueResponse { nodes, record, observed, records } => {
                let optional = usize::from(record.is_some()) + usize::from(!records.is_empty());
                write_nodes(writer.map(2 + optional).unsigned(1_u8), nodes.as_deref());
                if let Some(record) = record {
                    record.write(writer.unsigned(2_u8));
                }
                socket_address::write(writer.unsigned(3_u8), *observed);
                if !records.is_empty() {
                    writer
                        .unsigned(4_u8)
                        .list(Some(records), |writer, record| record.write(writer));
                }
            }
            Self::Store { record, key } => {
                record.write(writer.map(1 + usize::from(key.is_some())).unsigned(1_u8));
                if let Some(key) = key {
                    writer.unsigned(2_u8).bytes(&key.0);
                }
            }
            Self::StoreResponse { stored, already_had, refusal, pool } => {
                write_store_response(writer, *stored, *already_had, *refusal, pool);
            }
            Self::NatProbeRequest { token, claimed } => {
                writer.map(2).unsigned(1_u8).bytes(token);
                socket_address::write(writer.unsigned(2_u8), *claimed);
            }
            Self::NatProbeEcho { token } => {
                writer.map(1).unsigned(1_u8).bytes(token);
            }
            Self::Push { key, record } => {
                writer.map(2).unsigned(1_u8).bytes(&key.0);
                record.write(writer.unsigned(2_u8));
            }
            Self::PushAcknowledgement { key, message_id, subscribe } => {
                writer.map(2 + usize::from(*subscribe)).unsigned(1_u8).bytes(&key.0);
                writer.unsigned(2_u8).bytes(message_id);
                if *subscribe {
                    writer.unsigned(3_u8).boolean(true);
                }
            }
        }
    }

    /// Bytes of an answer that lists nodes and records, without building it: what each of them takes
    /// is known.
    pub fn answer_bytes(
        observed: SocketAddr,
        nodes: &[NodeInfo],
        records: impl Iterator<Item = usize>,
    ) -> usize {
        let (count, records_bytes) =
            records.fold((0, 0), |(count, bytes), record| (count + 1, bytes + record));
        let list = if count == 0 { 0 } else { 1 + head_bytes(count) + records_bytes };
        let nodes_bytes: usize = nodes.iter().map(NodeInfo::encoded_bytes).sum();
        1 + 1
            + head_bytes(nodes.len())
            + nodes_bytes
            + 1
            + socket_address::encoded_bytes(observed)
            + list
    }
}

impl Slots {
    /// Reads the value of a key, if the type has that key.
    fn read(
        &mut self,
        reader: &mut Reader<'_>,
        message_type: MessageType,
        key: u64,
    ) -> Result<bool, CborError> {
        use MessageType as Type;
        match (message_type, key) {
            (Type::Ping | Type::Pong, 1) => self.address = Some(Address(reader.byte_array()?)),
            (Type::Pong | Type::FindNodeResponse | Type::NatProbeRequest, 2)
            | (Type::FindValueResponse, 3) => self.observed = Some(socket_address::read(reader)?),
            (Type::FindNode | Type::FindValue | Type::Push | Type::PushAcknowledgement, 1) => {
                self.id = Some(NodeId(reader.byte_array()?));
            }
            (Type::Store | Type::PushAcknowledgement, 2) => {
                self.second_id = Some(NodeId(reader.byte_array()?));
            }
            (Type::FindNodeResponse | Type::FindValueResponse, 1) => {
                self.nodes = Some(reader.list(NODES_READ_MAX, NodeInfo::read)?);
            }
            (Type::FindValue, 2) => match reader.u8()? {
                0 => return Err(CborError::NotCanonical),
                code => self.record_type = Some(RecordType(code)),
            },
            (Type::FindValue | Type::PushAcknowledgement, 3) | (Type::StoreResponse, 2) => {
                self.flag = present_flag(reader)?;
            }
            (Type::Store, 1) | (Type::FindValueResponse | Type::Push, 2) => {
                self.record = Some(Box::new(SignedRecord::read(reader)?));
            }
            (Type::FindValueResponse, 4) => {
                self.records = present_list(reader.list(RECORDS_READ_MAX, SignedRecord::read)?)?;
            }
            (Type::StoreResponse, 1) => self.stored = Some(reader.boolean()?),
            (Type::StoreResponse, 3) => self.refusal = Some(Refusal::from_code(reader.u8()?)?),
            (Type::StoreResponse, 4) => {
                self.pool = present_list(reader.list(POOL_TYPES_MAX, PoolEntry::read)?)?;
            }
            (Type::NatProbeRequest | Type::NatProbeEcho, 1) => {
                self.token = Some(reader.byte_array()?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn into_body(self, message_type: MessageType) -> Result<Body, CborError> {
        let missing = CborError::MissingKey;
        let id = self.id.ok_or(missing);
        let address = self.address.ok_or(missing);
        let observed = self.observed.ok_or(missing);
        let nodes = self.nodes.ok_or(missing);
        let token = self.token.ok_or(missing);
        let is_flagged = self.flag;
        Ok(match message_type {
            MessageType::Ping => Body::Ping { address: address? },
            MessageType::Pong => Body::Pong { address: address?, observed: observed? },
            MessageType::FindNode => Body::FindNode { target: id? },
            MessageType::FindNodeResponse => {
                Body::FindNodeResponse { nodes: nodes?, observed: observed? }
            }
            MessageType::FindValue => Body::FindValue {
                target: id?,
                record_type: self.record_type.unwrap_or(RecordType::ANY),
                subscribe: is_flagged,
            },
            MessageType::FindValueResponse => Body::FindValueResponse {
                nodes: nodes?,
                record: self.record,
                observed: observed?,
                records: self.records,
            },
            MessageType::Store => {
                Body::Store { record: self.record.ok_or(missing)?, key: self.second_id }
            }
            MessageType::StoreResponse => Body::StoreResponse {
                stored: self.stored.ok_or(missing)?,
                already_had: is_flagged,
                refusal: self.refusal,
                pool: self.pool,
            },
            MessageType::NatProbeRequest => {
                Body::NatProbeRequest { token: token?, claimed: observed? }
            }
            MessageType::NatProbeEcho => Body::NatProbeEcho { token: token? },
            MessageType::Push => Body::Push { key: id?, record: self.record.ok_or(missing)? },
            MessageType::PushAcknowledgement => Body::PushAcknowledgement {
                key: id?,
                message_id: self.second_id.ok_or(missing)?.0,
                subscribe: is_flagged,
            },
        })
    }
}

impl PoolEntry {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        let mut record_type = None;
        let mut count = None;
        let mut ids = Vec::new();
        let mut fields = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            match key {
                Key::Number(1) => record_type = Some(RecordType(reader.u8()?)),
                Key::Number(2) => count = Some(reader.u16()?),
                Key::Number(3) => {
                    ids = present_list(reader.list(POOL_IDS_MAX, Reader::byte_array)?)?;
                }
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        let missing = CborError::MissingKey;
        Ok(Self { record_type: record_type.ok_or(missing)?, count: count.ok_or(missing)?, ids })
    }

    fn write(&self, writer: &mut Writer) {
        writer.map(2 + usize::from(!self.ids.is_empty()));
        writer.unsigned(1_u8).unsigned(self.record_type.0);
        writer.unsigned(2_u8).unsigned(self.count);
        if !self.ids.is_empty() {
            writer.unsigned(3_u8).list(Some(&self.ids), |writer, id| {
                writer.bytes(id);
            });
        }
    }
}

fn write_nodes(writer: &mut Writer, nodes: Option<&[NodeInfo]>) {
    writer.list(nodes, |writer, node| node.write(writer));
}

fn write_find_value(
    writer: &mut Writer,
    target: &NodeId,
    record_type: RecordType,
    subscribe: bool,
) {
    let has_type = record_type != RecordType::ANY;
    writer.map(1 + usize::from(has_type) + usize::from(subscribe));
    writer.unsigned(1_u8).bytes(&target.0);
    if has_type {
        writer.unsigned(2_u8).unsigned(record_type.0);
    }
    if subscribe {
        writer.unsigned(3_u8).boolean(true);
    }
}

fn write_store_response(
    writer: &mut Writer,
    stored: bool,
    already_had: bool,
    refusal: Option<Refusal>,
    pool: &[PoolEntry],
) {
    let optional = [already_had, refusal.is_some(), !pool.is_empty()];
    writer.map(1 + optional.into_iter().filter(|is_there| *is_there).count());
    writer.unsigned(1_u8).boolean(stored);
    if already_had {
        writer.unsigned(2_u8).boolean(true);
    }
    if let Some(refusal) = refusal {
        writer.unsigned(3_u8).unsigned(refusal.code());
    }
    if !pool.is_empty() {
        writer.unsigned(4_u8).list(Some(pool), |writer, entry| entry.write(writer));
    }
}

/// A truth value that is left out when it is false.
fn present_flag(reader: &mut Reader<'_>) -> Result<bool, CborError> {
    if reader.boolean()? { Ok(true) } else { Err(CborError::NotCanonical) }
}

/// A list that is left out when it is empty.
fn present_list<T>(list: Option<Vec<T>>) -> Result<Vec<T>, CborError> {
    match list {
        Some(list) if !list.is_empty() => Ok(list),
        Some(_) | None => Err(CborError::NotCanonical),
    }
}

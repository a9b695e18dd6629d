//! What a node keeps over a restart, as bytes: whom it knew, what it stored, its sequence number.
//!
//! Owns the format alone; the caller writes and reads the file. A digest at the end tells a torn or
//! changed file before anything of it is looked at. Nothing read is believed for that: nodes have to
//! answer again, and records are verified again.

use crate::cbor::{CborError, Key, Reader, Writer};
use crate::hash::sha256;
use crate::limits::{BUCKET_NODES_MAX, BUCKETS, SNAPSHOT_RECORDS_MAX};
use crate::message::NodeInfo;
use crate::node::Node;
use crate::node_id::NodeId;
use crate::record::SignedRecord;

const FORMAT: u8 = 1;
const DIGEST_BYTES: usize = 32;
const NODES_MAX: usize = BUCKETS * BUCKET_NODES_MAX;

/// What is kept.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// The last sequence number of the own endpoint record.
    pub sequence: u64,
    /// Nodes that had answered, best first.
    pub nodes: Vec<NodeInfo>,
    /// Records with their keys.
    pub records: Vec<(NodeId, SignedRecord)>,
}

/// Bytes that are no snapshot; the file was torn, changed, or is another program's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SnapshotError {
    /// The digest is not that of what is before it.
    #[error("torn or changed")]
    Digest,
    /// A format of later versions.
    #[error("of another format")]
    Format,
    /// The digest holds, and the bytes are something else.
    #[error("not a snapshot: {0}")]
    Malformed(#[from] CborError),
}

impl Snapshot {
    /// What a node has now. Records that their publisher has not confirmed are left out.
    pub fn of(node: &Node) -> Self {
        let confirmed = node.store().records().filter(|(_, stored)| stored.is_confirmed());
        Self {
            sequence: node.sequence(),
            nodes: node.best_nodes(NODES_MAX),
            records: confirmed
                .take(SNAPSHOT_RECORDS_MAX)
                .map(|(key, stored)| (key, (*stored.record).clone()))
                .collect(),
        }
    }

    /// The bytes of a file.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.map(4);
        writer.unsigned(1_u8).unsigned(FORMAT);
        writer.unsigned(2_u8).unsigned(self.sequence);
        writer.unsigned(3_u8).list(Some(&self.nodes), |writer, node| node.write(writer));
        writer.unsigned(4_u8).list(Some(&self.records), |writer, (key, record)| {
            record.write(writer.map(2).unsigned(1_u8).bytes(&key.0).unsigned(2_u8));
        });
        let mut bytes = writer.into_bytes();
        let digest = sha256(&[&bytes]);
        bytes.extend_from_slice(&digest);
        bytes
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// Why they are no snapshot.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let (content, digest) =
            bytes.split_last_chunk::<DIGEST_BYTES>().ok_or(SnapshotError::Digest)?;
        if sha256(&[content]) != *digest {
            return Err(SnapshotError::Digest);
        }
        let mut reader = Reader::new(content);
        let mut snapshot = Self::default();
        let mut format = None;
        let mut fields = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            match key {
                Key::Number(1) => format = Some(reader.u8()?),
                Key::Number(2) => snapshot.sequence = reader.u64()?,
                Key::Number(3) => {
                    snapshot.nodes = reader.list(NODES_MAX, NodeInfo::read)?.unwrap_or_default();
                }
                Key::Number(4) => {
                    let records = reader.list(SNAPSHOT_RECORDS_MAX, read_record)?;
                    snapshot.records = records.unwrap_or_default();
                }
                Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
            }
            if format != Some(FORMAT) {
                // It comes first, so nothing else of another format is read.
                return Err(SnapshotError::Format);
            }
        }
        reader.end()?;
        if format.is_none() { Err(SnapshotError::Format) } else { Ok(snapshot) }
    }
}

fn read_record(reader: &mut Reader<'_>) -> Result<(NodeId, SignedRecord), CborError> {
    let mut key = None;
    let mut record = None;
    let mut fields = reader.map()?;
    while let Some(number) = reader.field(&mut fields)? {
        match number {
            Key::Number(1) => key = Some(NodeId(reader.byte_array()?)),
            Key::Number(2) => record = Some(SignedRecord::read(reader)?),
            Key::Number(_) | Key::Text(_) | Key::Negative => reader.skip_unknown()?,
        }
    }
    Ok((key.ok_or(CborError::MissingKey)?, record.ok_or(CborError::MissingKey)?))
}

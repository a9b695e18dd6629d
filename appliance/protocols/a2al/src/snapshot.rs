//! What a node keeps over a restart, as bytes: whom it knew, what it stored, its sequence number.
//!
//! Owns the format alone; the caller writes and reads the file. A digest at the end tells a torn or
//! changed file before anything of it is looked at. Nothing read is believed for that: nodes have to
//! answer again, and records are verified again.

use std::sync::Arc;

use crate::cbor::{CborError, Key, Reader, Writer};
use crate::hash::{Sha256, sha256};
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
    /// Records with their keys, those touched last at the end, so that they are again when they are
    /// taken in one after the other.
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
        let records = kept(node).into_iter();
        Self {
            sequence: node.sequence(),
            nodes: node.best_nodes(NODES_MAX),
            records: records.map(|(key, record)| (key, (*record).clone())).collect(),
        }
    }

    /// The bytes of a file, all at once.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = head(self.sequence, &self.nodes, self.records.len());
        for (key, record) in &self.records {
            write_record(&mut writer, key, record);
        }
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

/// The bytes of a file, made in portions, so that whoever writes a large one can do something else in
/// between. What they say is what the node had when they were begun.
pub struct Portions {
    head: Option<Vec<u8>>,
    records: std::vec::IntoIter<(NodeId, Arc<SignedRecord>)>,
    digest: Option<Sha256>,
}

impl Portions {
    /// Begins with what a node has now, as [`Snapshot::of`] does.
    pub fn of(node: &Node) -> Self {
        let records = kept(node);
        let head = head(node.sequence(), &node.best_nodes(NODES_MAX), records.len());
        Self {
            head: Some(head.into_bytes()),
            records: records.into_iter(),
            digest: Some(Sha256::default()),
        }
    }

    /// The next bytes, of at most so many records; none when the file is whole.
    pub fn take(&mut self, records: usize) -> Option<Vec<u8>> {
        let digest = self.digest.as_mut()?;
        let mut writer = Writer::after(self.head.take().unwrap_or_default());
        for (key, record) in self.records.by_ref().take(records) {
            write_record(&mut writer, &key, &record);
        }
        let mut bytes = writer.into_bytes();
        digest.update(&bytes);
        if self.records.len() == 0
            && let Some(digest) = self.digest.take()
        {
            bytes.extend_from_slice(&digest.finish());
        }
        Some(bytes)
    }
}

impl std::fmt::Debug for Portions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Portions").field("left", &self.records.len()).finish()
    }
}

/// Records that are worth keeping: confirmed ones, and of more than a file may have those that were
/// touched last.
fn kept(node: &Node) -> Vec<(NodeId, Arc<SignedRecord>)> {
    let confirmed = node.store().records_by_use().filter(|(_, stored)| stored.is_confirmed());
    let mut records: Vec<_> = confirmed
        .take(SNAPSHOT_RECORDS_MAX)
        .map(|(key, stored)| (key, Arc::clone(&stored.record)))
        .collect();
    records.reverse();
    records
}

/// Everything in front of the records.
fn head(sequence: u64, nodes: &[NodeInfo], records: usize) -> Writer {
    let mut writer = Writer::default();
    writer.map(4);
    writer.unsigned(1_u8).unsigned(FORMAT);
    writer.unsigned(2_u8).unsigned(sequence);
    writer.unsigned(3_u8).list(Some(nodes), |writer, node| node.write(writer));
    writer.unsigned(4_u8).array(records);
    writer
}

fn write_record(writer: &mut Writer, key: &NodeId, record: &SignedRecord) {
    record.write(writer.map(2).unsigned(1_u8).bytes(&key.0).unsigned(2_u8));
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

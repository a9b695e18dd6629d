//! Finds and opens records in what a link receives, in place.
//!
//! Owned by one link; called on its data core for every received buffer. Whole records are opened
//! where they lie; only a record cut by the end of a buffer is copied, into a block that goes back
//! to the pool when the record is complete, so an idle link holds no buffer.

use crate::block::{Block, BlockPool};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use waystation_astral::aead::AeadSuite;
use waystation_astral::brontide::{DirectionState, Opener, RECORD_HEADER_BYTES, TAG_BYTES};
use waystation_astral::hexadecimal::HexadecimalBytes;
use waystation_relay::drop_reason::DropReason;

/// Where in its block a cut record's body begins.
const BODY_AT: usize = RECORD_HEADER_BYTES;

/// Reads records.
#[derive(Debug)]
pub struct RecordReader {
    opener: Opener,
    /// Bytes of the body to come, tag included, once its header is open.
    body_bytes: Option<usize>,
    header: [u8; RECORD_HEADER_BYTES],
    header_bytes: usize,
    /// A cut record's body, behind room for the length it will be sent on with.
    body: Option<(Block, usize)>,
    records: u64,
}

/// Where a reader is, as one process tells another of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReaderState {
    opener: DirectionState,
    /// What has come of a cut header.
    header: HexadecimalBytes,
    /// What has come of a cut body.
    body: HexadecimalBytes,
    records: u64,
}

impl ReaderState {
    /// Whether it takes a block to go on from here.
    pub fn needs_block(&self) -> bool {
        !self.body.is_empty()
    }
}

/// What the input of a link holds next.
#[derive(Debug)]
pub enum Found {
    /// A record was opened in the input; its plaintext is at this range.
    InInput(Range<usize>),
    /// A record that came in pieces is open; [`RecordReader::take_carried`] gives its plaintext.
    Carried,
    /// All input is used up.
    Nothing,
}

/// How far an input was dealt with when its link had to let others have their turn.
#[derive(Debug, Default)]
pub struct InputProgress {
    /// What is left of a record that is open.
    pub record: Option<OpenRecord>,
    /// Bytes of the input that are done with, that record's included.
    pub cursor: usize,
}

/// Plaintext of a record, in part still to be dealt with.
#[derive(Debug)]
pub struct OpenRecord {
    pub block: Block,
    pub rest: Range<usize>,
}

impl InputProgress {
    /// Gives back what it holds.
    pub fn discard(&mut self, pool: &mut BlockPool) {
        if let Some(record) = self.record.take() {
            pool.give_back(record.block);
        }
    }
}

impl RecordReader {
    /// A reader behind a completed handshake.
    pub fn new(opener: Opener) -> Self {
        Self {
            opener,
            body_bytes: None,
            header: [0; RECORD_HEADER_BYTES],
            header_bytes: 0,
            body: None,
            records: 0,
        }
    }

    /// Records opened so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Whether the stream may end here: not within a record.
    pub fn at_boundary(&self) -> bool {
        self.header_bytes == 0 && self.body_bytes.is_none()
    }

    /// Opens the next record of `input` from `*cursor` on and advances it.
    ///
    /// # Errors
    /// A tag that does not verify, an empty record (spec §6.2), or no block for a cut record. The
    /// link must be closed.
    pub fn next(
        &mut self,
        input: &mut [u8],
        cursor: &mut usize,
        pool: &mut BlockPool,
    ) -> Result<Found, DropReason> {
        let Some(body_bytes) = self.open_header(input, cursor)? else { return Ok(Found::Nothing) };
        if self.body.is_none()
            && let Some(body) = input.get_mut(*cursor..*cursor + body_bytes)
        {
            self.opener.open_body(body).map_err(|_bad_tag| DropReason::RecordRejected)?;
            let plaintext = *cursor..*cursor + body_bytes - TAG_BYTES;
            *cursor += body_bytes;
            self.finish_record();
            return Ok(Found::InInput(plaintext));
        }
        self.carry_body(input, cursor, body_bytes, pool)
    }

    /// The record that [`Found::Carried`] announced, with room for a length in front of it and for
    /// a tag behind it; give the block back to the pool.
    pub fn take_carried(&mut self) -> Option<OpenRecord> {
        let (block, bytes) = self.body.take()?;
        Some(OpenRecord { block, rest: BODY_AT..BODY_AT + bytes - TAG_BYTES })
    }

    /// Takes out what has come of a cut record, for a link that leaves this core.
    pub fn take_body(&mut self, pool: &mut BlockPool) -> Vec<u8> {
        let Some((block, bytes)) = self.body.take() else { return Vec::new() };
        let body = block[BODY_AT..BODY_AT + bytes].to_vec();
        pool.give_back(block);
        body
    }

    /// Puts in what [`Self::take_body`] took out on another core. The pool must have a block.
    pub fn put_body(&mut self, body: &[u8], pool: &mut BlockPool) {
        if body.is_empty() {
            return;
        }
        if let Some(mut block) = pool.take() {
            block[BODY_AT..BODY_AT + body.len()].copy_from_slice(body);
            self.body = Some((block, body.len()));
        }
    }

    /// Whether another process could go on reading: no record was bad.
    pub fn is_whole(&self) -> bool {
        self.opener.is_whole()
    }

    /// What another process needs to go on reading. `None`: a record was bad.
    pub fn state(&self) -> Option<ReaderState> {
        let opener = self.opener.state()?;
        // A header that is open is not needed any more.
        let header_bytes = if self.body_bytes.is_some() { 0 } else { self.header_bytes };
        let body = match &self.body {
            Some((block, bytes)) => block[BODY_AT..BODY_AT + bytes].to_vec(),
            None => Vec::new(),
        };
        Some(ReaderState {
            opener,
            header: HexadecimalBytes(self.header[..header_bytes].to_vec()),
            body: HexadecimalBytes(body),
            records: self.records,
        })
    }

    /// Goes on reading. The pool must have a block. `None`: no reader is ever there.
    pub fn from_state(suite: AeadSuite, state: &ReaderState, pool: &mut BlockPool) -> Option<Self> {
        let mut reader = Self::new(Opener::from_state(suite, &state.opener)?);
        reader.body_bytes = state.opener.body_bytes();
        reader.records = state.records;
        let (header, body) = (&state.header.0, &state.body.0);
        let body_bytes = reader.body_bytes.unwrap_or(0);
        if header.len() >= RECORD_HEADER_BYTES
            || (!body.is_empty() && body.len() >= body_bytes)
            || (!header.is_empty() && body_bytes > 0)
        {
            return None;
        }
        reader.header[..header.len()].copy_from_slice(header);
        reader.header_bytes = header.len();
        reader.put_body(body, pool);
        Some(reader)
    }

    /// Gives back what a cut record holds.
    pub fn discard(&mut self, pool: &mut BlockPool) {
        if let Some((block, _)) = self.body.take() {
            pool.give_back(block);
        }
    }

    fn open_header(
        &mut self,
        input: &mut [u8],
        cursor: &mut usize,
    ) -> Result<Option<usize>, DropReason> {
        if let Some(bytes) = self.body_bytes {
            return Ok(Some(bytes));
        }
        let rest = &mut input[*cursor..];
        let plaintext_bytes = if self.header_bytes == 0
            && let Some(header) = rest.first_chunk()
        {
            *cursor += RECORD_HEADER_BYTES;
            self.opener.open_header(header)
        } else {
            let bytes = rest.len().min(RECORD_HEADER_BYTES - self.header_bytes);
            let end = self.header_bytes + bytes;
            self.header[self.header_bytes..end].copy_from_slice(&rest[..bytes]);
            self.header_bytes = end;
            *cursor += bytes;
            if end < RECORD_HEADER_BYTES {
                return Ok(None);
            }
            self.opener.open_header(&self.header)
        };
        let plaintext_bytes = plaintext_bytes.map_err(|_bad_tag| DropReason::RecordRejected)?;
        if plaintext_bytes == 0 {
            return Err(DropReason::RecordRejected);
        }
        self.body_bytes = Some(plaintext_bytes + TAG_BYTES);
        Ok(self.body_bytes)
    }

    fn carry_body(
        &mut self,
        input: &mut [u8],
        cursor: &mut usize,
        body_bytes: usize,
        pool: &mut BlockPool,
    ) -> Result<Found, DropReason> {
        let rest = &input[*cursor..];
        if rest.is_empty() {
            return Ok(Found::Nothing);
        }
        let (mut block, have) = match self.body.take() {
            Some(body) => body,
            None => (pool.take().ok_or(DropReason::BufferExhausted)?, 0),
        };
        let bytes = rest.len().min(body_bytes - have);
        let place = BODY_AT + have;
        block[place..place + bytes].copy_from_slice(&rest[..bytes]);
        *cursor += bytes;
        let have = have + bytes;
        if have < body_bytes {
            self.body = Some((block, have));
            return Ok(Found::Nothing);
        }
        let opened = self.opener.open_body(&mut block[BODY_AT..BODY_AT + body_bytes]);
        self.body = Some((block, body_bytes));
        opened.map_err(|_bad_tag| DropReason::RecordRejected)?;
        self.finish_record();
        Ok(Found::Carried)
    }

    fn finish_record(&mut self) {
        self.body_bytes = None;
        self.header_bytes = 0;
        self.records += 1;
    }
}

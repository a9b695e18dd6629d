//! The Astral layer of one connection: records opened and sealed, frames found and laid down. No
//! sockets: bytes in, bytes out. Frames are those of P4.

use crate::swarm::limits::STOCK_DATA_BYTES_MAX;
use crate::swarm::sealed::Records;
use crate::swarm::shape::Layout;
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::ops::Range;
use waystation_astral::brontide::{
    Opener, RECORD_HEADER_BYTES, RECORD_PLAINTEXT_MAX_BYTES, Sealer, TAG_BYTES, Transport,
};
use waystation_astral::frame::{
    Decoded, Frame, FrameDecoder, Profile, data_header_bytes, write_data_header,
};

/// Header of a data frame.
const DATA_HEADER_BYTES: usize = data_header_bytes(Profile::P4);
/// Records before a buffer is moved to its start.
const COMPACT_BYTES: usize = 1 << 20;

/// What a link heard.
#[derive(Debug)]
pub enum Heard<'a> {
    /// Part of a session's bytes; `ends_frame` with the last part of its data frame.
    Bytes {
        nonce: u64,
        bytes: &'a [u8],
        ends_frame: bool,
    },
    Frame(Frame<'a>),
}

/// One link's keys and half-done records.
pub struct LinkLayer {
    layout: Layout,
    sealer: Sealer,
    opener: Opener,
    decoder: FrameDecoder,
    received: Vec<u8>,
    /// Start of what is not opened yet.
    from: usize,
    /// Plaintext bytes of the record whose header is opened.
    due: Option<usize>,
    /// Start of the record in the outgoing bytes that still takes frames.
    open: Option<usize>,
    sealed: Records,
}

impl LinkLayer {
    /// A link whose frames can flow; `leftover` are frame bytes that came early, already opened.
    ///
    /// # Errors
    ///
    /// When frames came early, which no relay sends before it is asked something.
    pub fn new(transport: Transport, layout: Layout, leftover: &[u8]) -> Result<Self> {
        if !leftover.is_empty() {
            bail!("the relay sent frames before anything was asked");
        }
        Ok(Self {
            layout,
            sealer: transport.sealer,
            opener: transport.opener,
            decoder: FrameDecoder::new(Profile::P4),
            received: Vec::new(),
            from: 0,
            due: None,
            open: None,
            sealed: Records::default(),
        })
    }

    /// What has been sealed so far.
    pub fn sealed(&self) -> &Records {
        &self.sealed
    }

    /// Takes received bytes.
    pub fn push_received(&mut self, bytes: &[u8]) {
        if self.from > COMPACT_BYTES || self.from == self.received.len() {
            self.received.drain(..self.from);
            self.from = 0;
        }
        self.received.extend_from_slice(bytes);
    }

    /// Opens every whole record and gives what its frames say to `hear`.
    ///
    /// # Errors
    ///
    /// Broken records and frames, and what `hear` fails with.
    pub fn hear(&mut self, hear: &mut dyn FnMut(Heard<'_>) -> Result<()>) -> Result<()> {
        while let Some(range) = self.next_record()? {
            let plaintext = self.received.get(range).unwrap_or_default();
            let mut cursor = 0;
            while let Some(decoded) = self.decoder.next(plaintext, &mut cursor)? {
                match decoded {
                    Decoded::Frame(frame) => hear(Heard::Frame(frame))?,
                    Decoded::Data { nonce, offset, bytes, remaining, .. } => {
                        let bytes = plaintext.get(offset..offset + bytes).unwrap_or_default();
                        hear(Heard::Bytes { nonce, bytes, ends_frame: remaining == 0 })?;
                    }
                }
            }
        }
        Ok(())
    }

    fn next_record(&mut self) -> Result<Option<Range<usize>>> {
        let body_bytes = match self.due {
            Some(bytes) => bytes,
            None => {
                let rest = self.received.get(self.from..).unwrap_or_default();
                let Some(header) = rest.first_chunk::<RECORD_HEADER_BYTES>() else {
                    return Ok(None);
                };
                let bytes = self.opener.open_header(header).context("opening a header")?;
                self.from += RECORD_HEADER_BYTES;
                *self.due.insert(bytes)
            }
        };
        let body = self.from..self.from + body_bytes + TAG_BYTES;
        let Some(sealed) = self.received.get_mut(body.clone()) else { return Ok(None) };
        self.opener.open_body(sealed).context("opening a record")?;
        self.from = body.end;
        self.due = None;
        Ok(Some(body.start..body.start + body_bytes))
    }

    /// Lays a session's bytes down as data frames. `cuts` gets the places where a write ends.
    ///
    /// # Errors
    ///
    /// When sealing fails.
    pub fn put_data(
        &mut self,
        nonce: u64,
        bytes: &[u8],
        out: &mut Vec<u8>,
        cuts: &mut VecDeque<usize>,
    ) -> Result<()> {
        let payload_bytes_max = match self.layout {
            Layout::Coalesced | Layout::Single => RECORD_PLAINTEXT_MAX_BYTES - DATA_HEADER_BYTES,
            Layout::Stock => STOCK_DATA_BYTES_MAX,
        };
        for payload in bytes.chunks(payload_bytes_max) {
            let mut header = [0; DATA_HEADER_BYTES];
            let payload_bytes = u16::try_from(payload.len()).context("a payload too long")?;
            write_data_header(Profile::P4, nonce, payload_bytes, &mut header)?;
            self.put_frame(&header, payload, out, cuts)?;
        }
        Ok(())
    }

    /// Lays down any other frame.
    ///
    /// # Errors
    ///
    /// When it cannot be encoded or sealed.
    pub fn put_control(
        &mut self,
        frame: &Frame<'_>,
        out: &mut Vec<u8>,
        cuts: &mut VecDeque<usize>,
    ) -> Result<()> {
        let mut encoded = Vec::new();
        frame.encode_to_vec(Profile::P4, &mut encoded)?;
        self.put_frame(&encoded, &[], out, cuts)
    }

    fn put_frame(
        &mut self,
        head: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
        cuts: &mut VecDeque<usize>,
    ) -> Result<()> {
        match self.layout {
            Layout::Coalesced => self.extend(&[head, payload], out),
            Layout::Single => {
                self.extend(&[head, payload], out)?;
                self.finish(out)?;
                cuts.push_back(out.len());
                Ok(())
            }
            Layout::Stock => {
                // Length of the type name, the name, length of the object, the object.
                let name_bytes = head.first().copied().map_or(0, usize::from);
                let (tag, object) = head.split_at(head.len().min(1 + name_bytes + 4));
                let (name_length, rest) = tag.split_at(1);
                let (name, object_length) = rest.split_at(name_bytes.min(rest.len()));
                for field in [&[name_length][..], &[name], &[object_length], &[object, payload]] {
                    let start = out.len();
                    self.extend(field, out)?;
                    self.finish(out)?;
                    cuts.extend([start + RECORD_HEADER_BYTES, out.len()]);
                }
                Ok(())
            }
        }
    }

    fn extend(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if let Some(open) = self.open
            && out.len() - open - RECORD_HEADER_BYTES + bytes > RECORD_PLAINTEXT_MAX_BYTES
        {
            self.finish(out)?;
        }
        if self.open.is_none() {
            self.open = Some(out.len());
            out.resize(out.len() + RECORD_HEADER_BYTES, 0);
        }
        parts.iter().for_each(|part| out.extend_from_slice(part));
        Ok(())
    }

    /// Seals the record that still took frames.
    ///
    /// # Errors
    ///
    /// When the cipher fails.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        self.sealed.count(out.len() - open - RECORD_HEADER_BYTES);
        out.resize(out.len() + TAG_BYTES, 0);
        self.sealer.seal_in_place(out.get_mut(open..).unwrap_or_default())?;
        Ok(())
    }
}

impl std::fmt::Debug for LinkLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkLayer").field("sealed", &self.sealed).finish_non_exhaustive()
    }
}

//! Records on a transport: the receiving buffer that opens them in place, and the batch that lays
//! them out for sealing. Each value belongs to one thread at a time.

use crate::limits::READ_BUFFER_BYTES;
use crate::link::Style;
use crate::transport::ReadHalf;
use std::io;
use std::ops::Range;
use waystation_astral::brontide::{
    Opener, RECORD_HEADER_BYTES, RECORD_PLAINTEXT_MAX_BYTES, RecordError, SealError, Sealer,
    TAG_BYTES,
};
use waystation_astral::frame::Profile;

/// Reads big, opens in place, hands out plaintext.
pub(crate) struct RecordReader {
    pub(crate) source: Box<dyn ReadHalf>,
    opener: Opener,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Plaintext length of the record whose header is opened and whose body is not all here.
    body_bytes: Option<usize>,
}

impl RecordReader {
    pub(crate) fn new(source: Box<dyn ReadHalf>, opener: Opener) -> Self {
        let buffer = vec![0; READ_BUFFER_BYTES].into_boxed_slice();
        Self { source, opener, buffer, start: 0, end: 0, body_bytes: None }
    }

    /// Opens the next record that is wholly here; its plaintext is then at the returned range.
    /// An empty record is legal to receive (spec §3.3) and gives an empty range.
    pub(crate) fn next_record(&mut self) -> Result<Option<Range<usize>>, RecordError> {
        let body_bytes = match self.body_bytes {
            Some(bytes) => bytes,
            None => {
                let received = self.buffer.get(self.start..self.end).unwrap_or_default();
                let Some(header) = received.first_chunk::<RECORD_HEADER_BYTES>() else {
                    return Ok(None);
                };
                let bytes = self.opener.open_header(header)?;
                self.start += RECORD_HEADER_BYTES;
                *self.body_bytes.insert(bytes)
            }
        };
        let body = self.start..self.start + body_bytes + TAG_BYTES;
        if body.end > self.end {
            return Ok(None);
        }
        let Some(sealed) = self.buffer.get_mut(body.clone()) else { return Ok(None) };
        self.opener.open_body(sealed)?;
        self.start = body.end;
        self.body_bytes = None;
        Ok(Some(body.start..body.start + body_bytes))
    }

    /// The bytes at a range [`Self::next_record`] returned; valid until the next [`Self::fill`].
    pub(crate) fn plaintext(&self, range: Range<usize>) -> &[u8] {
        self.buffer.get(range).unwrap_or_default()
    }

    /// Whether the stream may end here: not inside a record.
    pub(crate) fn at_boundary(&self) -> bool {
        self.start == self.end && self.body_bytes.is_none()
    }

    /// Reads once, as much as there is. 0 means the transport ended.
    pub(crate) fn fill(&mut self) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < RECORD_PLAINTEXT_MAX_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        let bytes = self.source.read(free)?;
        self.end += bytes;
        Ok(bytes)
    }
}

/// Plaintext laid out as records with room for header and tag, to be sealed in place and written
/// with one call.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Ends of the finished records.
    ends: Vec<usize>,
    /// Start of the record that still takes frames.
    open: Option<usize>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn records(&self) -> usize {
        self.ends.len() + usize::from(self.open.is_some())
    }

    /// Appends one frame, given as header and payload, to the open record, or begins another.
    pub(crate) fn push_coalesced(
        &mut self,
        header: &[u8],
        payload: &[u8],
        record_bytes_max: usize,
    ) {
        let frame_bytes = header.len() + payload.len();
        if let Some(open) = self.open
            && self.bytes.len() - open - RECORD_HEADER_BYTES + frame_bytes > record_bytes_max
        {
            self.finish();
        }
        if self.open.is_none() {
            self.begin();
        }
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(payload);
    }

    /// Appends `field` as a record of its own, as stock writes it (spec §3.3), or as several if it
    /// is longer than a record. Nothing is appended for an empty field: an empty record would end
    /// the link.
    pub(crate) fn push_alone(&mut self, field: &[u8]) {
        self.finish();
        for piece in field.chunks(RECORD_PLAINTEXT_MAX_BYTES) {
            self.begin();
            self.bytes.extend_from_slice(piece);
            self.finish();
        }
    }

    /// Appends one whole frame in the chosen style. One that is longer than a record, which a query
    /// can be, takes several.
    pub(crate) fn push_frame(
        &mut self,
        frame: &[u8],
        style: Style,
        profile: Profile,
        record_bytes_max: usize,
    ) {
        match style {
            Style::Coalesced => {
                for piece in frame.chunks(record_bytes_max) {
                    self.push_coalesced(piece, &[], record_bytes_max);
                }
            }
            Style::Stock => {
                let mut rest = frame;
                for field_bytes in frame_fields(frame, profile) {
                    let (field, tail) = rest.split_at(field_bytes.min(rest.len()));
                    self.push_alone(field);
                    rest = tail;
                }
                self.push_alone(rest);
            }
        }
    }

    /// Appends one data frame, given as header and payload, field by field: the raw profiles as
    /// opcode, nonce, length and payload; P4 with the whole object payload in one record.
    pub(crate) fn push_stock_data(&mut self, header: &[u8], payload: &[u8], profile: Profile) {
        let fields: [usize; 3] = match profile {
            Profile::P0 | Profile::P2 => [1, 8, 2],
            Profile::P4 => [1, header.first().copied().map_or(0, usize::from), 4],
        };
        let mut rest = header;
        for field_bytes in fields {
            let (field, tail) = rest.split_at(field_bytes.min(rest.len()));
            self.push_alone(field);
            rest = tail;
        }
        self.push_coalesced(rest, payload, RECORD_PLAINTEXT_MAX_BYTES);
        self.finish();
    }

    fn begin(&mut self) {
        self.open = Some(self.bytes.len());
        self.bytes.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    }

    fn finish(&mut self) {
        if self.open.take().is_some() {
            self.bytes.extend_from_slice(&[0; TAG_BYTES]);
            self.ends.push(self.bytes.len());
        }
    }

    /// Seals every record in place.
    pub(crate) fn seal(&mut self, sealer: &mut Sealer) -> Result<(), SealError> {
        self.finish();
        let mut rest = self.bytes.as_mut_slice();
        let mut start = 0;
        for end in &self.ends {
            let (record, tail) = rest.split_at_mut(end - start);
            sealer.seal_in_place(record)?;
            (rest, start) = (tail, *end);
        }
        Ok(())
    }

    /// All records, one behind the other. Sealed ones only after [`Self::seal`].
    pub(crate) fn wire_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The records one by one.
    pub(crate) fn each_record(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().filter_map(move |end| {
            let record = self.bytes.get(start..*end);
            start = *end;
            record
        })
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.open = None;
    }
}

/// Lengths of the fields stock writes one by one at the start of a frame; the rest of the frame is
/// one more field. Raw profiles: opcode, nonce and, by frame, what stands between nonce and the
/// last field. P4: type length, type name, payload length (spec §3.3, §6.1).
fn frame_fields(frame: &[u8], profile: Profile) -> [usize; 4] {
    let first = frame.first().copied().unwrap_or_default();
    match (profile, first) {
        (Profile::P4, type_bytes) => [1, usize::from(type_bytes), 4, 0],
        // Query: opcode, nonce, window, string length, string.
        (_, 1) => [1, 8, 4, 2],
        // Response: opcode, nonce, code, window.
        (Profile::P0, 2) | (Profile::P2, 3) => [1, 8, 1, 0],
        // Ping, read, reset, migrate: opcode, nonce, and one more field or none.
        _ => [1, 8, 0, 0],
    }
}

/// Appends negotiation bytes in the chosen style. Stock writes field by field (spec §3.3):
/// `2 1 4 | 1 8` and `1 4` in the raw form, and `1 n 4 m` for every object of the P4 form.
pub(crate) fn push_negotiation(batch: &mut Batch, bytes: &[u8], style: Style) {
    if style == Style::Coalesced {
        for piece in bytes.chunks(RECORD_PLAINTEXT_MAX_BYTES) {
            batch.push_coalesced(piece, &[], RECORD_PLAINTEXT_MAX_BYTES);
        }
        return;
    }
    let fields: &[usize] = match bytes.first_chunk::<2>() {
        Some([0x06 | 0x07, _]) => return push_objects(batch, bytes),
        Some([0x05, b'u']) => return push_objects(batch, bytes),
        Some([0x00, 0x01]) if bytes.len() == 7 => &[2, 1, 4],
        _ => &[1],
    };
    let mut rest = bytes;
    for field_bytes in fields {
        let (field, tail) = rest.split_at((*field_bytes).min(rest.len()));
        batch.push_alone(field);
        rest = tail;
    }
    batch.push_alone(rest);
}

fn push_objects(batch: &mut Batch, objects: &[u8]) {
    let mut rest = objects;
    let mut take = |bytes: usize| {
        let (field, tail) = rest.split_at(bytes.min(rest.len()));
        batch.push_alone(field);
        rest = tail;
        (field, tail.is_empty())
    };
    loop {
        let (type_length, _) = take(1);
        let Some(type_bytes) = type_length.first() else { return };
        take(usize::from(*type_bytes));
        let (length, _) = take(4);
        let payload_bytes = length.first_chunk().map_or(0, |length| u32::from_be_bytes(*length));
        let (_, done) = take(usize::try_from(payload_bytes).unwrap_or(usize::MAX));
        if done {
            return;
        }
    }
}

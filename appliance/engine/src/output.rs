//! What goes out on one link: frames gathered into records, records sealed, sends submitted.
//!
//! Owned by one data core, one per link. Frames are written straight into the record they leave in;
//! control frames that find no room wait as bytes and go first. Records are sealed when they are
//! full or about to be sent, so that what arrives while a send is in flight shares one record.
//! Never more than [`LINK_BLOCKS_MAX`] gathered blocks wait, and never more than one send's worth
//! of segments; payload beyond that waits in its session.

use crate::block::{BLOCK_BYTES, Block, BlockPool};
use crate::limits::{BLOCKS_RESERVED, CONTROL_MAX_BYTES, CONTROL_PONG_MAX_BYTES, LINK_BLOCKS_MAX};
use crate::marks::Marks;
use crate::port::arena::ReceiveBuffer;
use crate::port::{SEND_SEGMENTS_MAX, Segment, Segments};
use crate::statistics::{StageHistograms, TrafficClass};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ops::Range;
use waystation_astral::aead::AeadSuite;
use waystation_astral::brontide::{
    DirectionState, RECORD_HEADER_BYTES, RECORD_PLAINTEXT_MAX_BYTES, Sealer, TAG_BYTES,
};
use waystation_astral::frame::{
    DataRun, EncodeError, Frame, Profile, data_header_bytes, write_data_header,
};
use waystation_astral::hexadecimal::HexadecimalBytes;

/// Payload room below which a new record is started rather than a sliver of a frame sent.
const SLIVER_BYTES: usize = 512;

/// The way out of one link.
#[derive(Debug)]
pub struct LinkOutput {
    sealer: Sealer,
    /// Decided at the end of negotiation.
    profile: Profile,
    /// Sealed, in order, not yet submitted.
    ready: Segments,
    tail: Option<Tail>,
    /// Encoded control frames that found no room.
    control: VecDeque<u8>,
    scratch: Vec<u8>,
    /// Where the payload of the frame begun last goes on, within the tail's block.
    payload_at: usize,
    /// A bug or a spent key; the link must end.
    failed: bool,
    open_marks: Marks,
    sent_marks: Marks,
    /// Whether the core's list of links to flush holds this one.
    pub dirty: bool,
    pub totals: OutputTotals,
    /// What [`Self::new_totals`] has told already.
    told: OutputTotals,
}

/// What one link has sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputTotals {
    pub frames: u64,
    pub payload_bytes: u64,
    pub records: u64,
    /// Records sealed in the buffer their payload arrived in.
    pub records_in_place: u64,
}

/// The block being filled: sealed records up to `sealed_end`, then the open record's header room
/// and plaintext up to `plain_end`.
#[derive(Debug)]
struct Tail {
    block: Block,
    sealed_end: usize,
    plain_end: usize,
}

impl Tail {
    fn new(block: Block) -> Self {
        Self { block, sealed_end: 0, plain_end: RECORD_HEADER_BYTES }
    }

    fn plaintext_bytes(&self) -> usize {
        self.plain_end - self.sealed_end - RECORD_HEADER_BYTES
    }

    /// Whether nothing was written to it.
    fn is_blank(&self) -> bool {
        self.plain_end == RECORD_HEADER_BYTES
    }

    /// Plaintext bytes the open record can still take.
    fn room(&self) -> usize {
        let in_block = (BLOCK_BYTES - TAG_BYTES).saturating_sub(self.plain_end);
        in_block.min(RECORD_PLAINTEXT_MAX_BYTES - self.plaintext_bytes())
    }

    fn place(&mut self, bytes: usize) -> &mut [u8] {
        let start = self.plain_end;
        self.plain_end += bytes;
        &mut self.block[start..start + bytes]
    }
}

/// What waits for one link, as one process tells another of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputState {
    sealer: DirectionState,
    /// Records that are sealed and not sent.
    sealed: HexadecimalBytes,
    /// Control frames that found no room.
    control: HexadecimalBytes,
    totals: OutputTotals,
}

impl OutputState {
    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.sealed.len() + self.control.len()
    }

    /// Blocks that it takes.
    pub fn blocks(&self) -> usize {
        self.sealed.len().div_ceil(BLOCK_BYTES)
    }
}

/// What became of a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlOutcome {
    /// It is on its way.
    Taken,
    /// It was a pong for a peer that does not read; left out.
    PongSuppressed,
    /// The peer does not read; the link must be closed.
    Overflow,
}

impl LinkOutput {
    /// The way out of a link whose handshake is done.
    pub fn new(sealer: Sealer) -> Self {
        Self {
            sealer,
            profile: Profile::P4,
            ready: Segments::new(),
            tail: None,
            control: VecDeque::new(),
            scratch: Vec::new(),
            payload_at: 0,
            failed: false,
            open_marks: Marks::default(),
            sent_marks: Marks::default(),
            dirty: false,
            totals: OutputTotals::default(),
            told: OutputTotals::default(),
        }
    }

    /// Frames are encoded for this profile from now on.
    pub fn set_profile(&mut self, profile: Profile) {
        self.profile = profile;
        self.give_back_spare_memory();
    }

    /// Frees what is kept for the next frames; for links that have none to send.
    pub fn give_back_spare_memory(&mut self) {
        self.control.shrink_to_fit();
        self.scratch = Vec::new();
        self.open_marks.give_back_spare_memory();
        self.sent_marks.give_back_spare_memory();
    }

    /// Heap memory of this value itself; blocks are the pool's.
    pub fn heap_bytes(&self) -> usize {
        let marks_bytes = self.open_marks.heap_bytes() + self.sent_marks.heap_bytes();
        self.control.capacity() + self.scratch.capacity() + marks_bytes
    }

    /// Whether sealing failed, so that nothing more can be sent.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Bytes that wait here and are not in flight.
    pub fn queued_bytes(&self) -> usize {
        let sealed: usize = self.ready.iter().map(Segment::bytes).sum();
        sealed + self.control.len() + self.tail.as_ref().map_or(0, |tail| tail.plain_end)
    }

    /// Bytes that leave as they are, before any record: the act that ends our handshake. `false`:
    /// no block was left.
    pub fn unsealed(&mut self, bytes: &[u8], pool: &mut BlockPool) -> bool {
        let Some(mut block) = pool.take() else { return false };
        block[..bytes.len()].copy_from_slice(bytes);
        self.ready.push(Segment::Block { block, range: 0..bytes.len() });
        true
    }

    /// Bytes of negotiation, behind everything given before.
    pub fn raw(&mut self, bytes: &[u8], pool: &mut BlockPool) {
        self.control.extend(bytes);
        self.move_control(pool);
    }

    /// A control frame, behind everything given before.
    pub fn control(
        &mut self,
        frame: &Frame<'_>,
        times: (u64, u64),
        pool: &mut BlockPool,
    ) -> Result<ControlOutcome, EncodeError> {
        let pong = matches!(frame, Frame::Ping { pong: true, .. });
        if pong && self.control.len() > CONTROL_PONG_MAX_BYTES {
            return Ok(ControlOutcome::PongSuppressed);
        }
        let bytes = frame.encoded_bytes(self.profile)?;
        if self.control.is_empty() && self.make_room(bytes, 0, pool) {
            if let Some(tail) = &mut self.tail {
                frame.encode(self.profile, tail.place(bytes))?;
            }
        } else {
            self.scratch.clear();
            frame.encode_to_vec(self.profile, &mut self.scratch)?;
            self.control.extend(&self.scratch);
            self.move_control(pool);
        }
        self.totals.frames += 1;
        self.open_marks.add(TrafficClass::Control, 1, times.0, times.1);
        let overflow = self.control.len() > CONTROL_MAX_BYTES;
        Ok(if overflow { ControlOutcome::Overflow } else { ControlOutcome::Taken })
    }

    /// Whether a data frame of `payload_bytes` can be written now.
    pub fn has_room(&self, payload_bytes: usize, pool: &BlockPool) -> bool {
        let bytes = payload_bytes + data_header_bytes(self.profile);
        self.control.is_empty()
            && (self.tail.as_ref().is_some_and(|tail| tail.room() >= bytes)
                || (bytes <= RECORD_PLAINTEXT_MAX_BYTES
                    && self.may_take_block(pool, BLOCKS_RESERVED)))
    }

    /// Most payload bytes one more data frame can take now.
    pub fn room_bytes(&mut self, pool: &mut BlockPool) -> usize {
        let header = data_header_bytes(self.profile);
        if !self.control.is_empty() || !self.make_room(header + SLIVER_BYTES, BLOCKS_RESERVED, pool)
        {
            return 0;
        }
        self.tail.as_ref().map_or(0, |tail| tail.room().saturating_sub(header))
    }

    /// Writes a data frame's header and keeps room for its payload, which [`Self::payload`] must
    /// fill; call after [`Self::has_room`] or within [`Self::room_bytes`]. `times`: when the frame
    /// was reaped and opened. `false`: there was no room, and nothing was written.
    pub fn begin_frame(
        &mut self,
        nonce: u64,
        payload_bytes: usize,
        times: (u64, u64),
        pool: &mut BlockPool,
    ) -> bool {
        let header = data_header_bytes(self.profile);
        let Ok(length) = u16::try_from(payload_bytes) else { return false };
        if !self.make_room(header + payload_bytes, 0, pool) {
            return false;
        }
        self.count_frames(1, payload_bytes, times);
        let Some(tail) = &mut self.tail else { return false };
        let written = write_data_header(self.profile, nonce, length, tail.place(header));
        debug_assert_eq!(written, Ok(header));
        self.payload_at = tail.plain_end;
        tail.plain_end += payload_bytes;
        true
    }

    /// The next bytes of the payload begun last.
    pub fn payload(&mut self, bytes: &[u8]) {
        if let Some(tail) = &mut self.tail {
            tail.block[self.payload_at..self.payload_at + bytes.len()].copy_from_slice(bytes);
            self.payload_at += bytes.len();
        }
    }

    /// Seals a data frame in the buffer its payload arrived in. `buffer[payload]` is the payload;
    /// a record's header and the frame's header in front of it and a tag behind it are free to be
    /// overwritten. Returns the range of the sealed record and the place among the waiting segments
    /// where [`Self::attach`] must put it, or `None` if there is no room for another segment.
    pub fn seal_in_place(
        &mut self,
        nonce: u64,
        buffer: &mut [u8],
        payload: Range<usize>,
        times: (u64, u64),
    ) -> Option<(Range<usize>, usize)> {
        if !self.control.is_empty() || self.ready.len() + 2 > LINK_BLOCKS_MAX {
            return None;
        }
        let head = data_header_bytes(self.profile);
        let start = payload.start.checked_sub(RECORD_HEADER_BYTES + head)?;
        let record = start..payload.end + TAG_BYTES;
        self.close_tail();
        let bytes = buffer.get_mut(record.clone())?;
        let payload_bytes = u16::try_from(payload.len()).ok()?;
        write_data_header(self.profile, nonce, payload_bytes, &mut bytes[RECORD_HEADER_BYTES..])
            .ok()?;
        if self.sealer.seal_in_place(bytes).is_err() {
            self.failed = true;
            return None;
        }
        self.totals.records += 1;
        self.totals.records_in_place += 1;
        self.count_frames(1, payload.len(), times);
        Some((record, self.ready.len()))
    }

    /// Whether [`Self::reseal`] can take a record of data frames of this profile now. More of them
    /// may wait than of gathered ones: what cannot stay where it is has to be copied twice, into a
    /// session's queue and out of it.
    pub fn takes_records(&self, profile: Profile) -> bool {
        self.control.is_empty()
            && self.profile == profile
            && self.ready.len() + 2 <= SEND_SEGMENTS_MAX
            && !self.failed
    }

    /// Seals a record anew where it was opened, `run` now of session `nonce`; call after
    /// [`Self::takes_records`]. `record` holds room for its length, the plaintext, room for a tag.
    /// Returns the place among the waiting segments where [`Self::attach`] must put it. `None`:
    /// sealing failed, and with it the link.
    pub fn reseal(
        &mut self,
        nonce: u64,
        record: &mut [u8],
        run: &DataRun,
        times: (u64, u64),
    ) -> Option<usize> {
        self.close_tail();
        let plaintext = RECORD_HEADER_BYTES..record.len().saturating_sub(TAG_BYTES);
        DataRun::rename(self.profile, record.get_mut(plaintext)?, nonce);
        if self.sealer.seal_in_place(record).is_err() {
            self.failed = true;
            return None;
        }
        self.totals.records += 1;
        self.totals.records_in_place += 1;
        self.count_frames(run.frames, run.payload_bytes, times);
        Some(self.ready.len())
    }

    /// Whether what is sealed next would go out right behind a segment attached at `place`.
    pub fn continues(&self, place: usize) -> bool {
        self.ready.len() == place && self.tail.as_ref().is_none_or(|tail| tail.is_blank())
    }

    /// Puts the segment of [`Self::seal_in_place`] where it belongs.
    pub fn attach(&mut self, place: usize, segment: Segment) {
        let place = place.min(self.ready.len());
        self.ready.insert(place, segment);
    }

    /// Seals what is open and takes everything that waits as one send. Empty: nothing to send.
    pub fn take_send(
        &mut self,
        now_ns: u64,
        pool: &mut BlockPool,
        histograms: &mut StageHistograms,
    ) -> Segments {
        self.move_control(pool);
        self.close_tail();
        self.open_marks.seal(now_ns, &mut self.sent_marks, histograms);
        std::mem::take(&mut self.ready)
    }

    /// Takes out everything that is sealed or can be, for a link that leaves this core.
    pub fn take_ready(&mut self, pool: &mut BlockPool) -> Segments {
        self.close_tail();
        if let Some(empty) = self.tail.take() {
            pool.give_back(empty.block);
        }
        std::mem::take(&mut self.ready)
    }

    /// Puts in what [`Self::take_ready`] took out on another core. The pool must have blocks.
    pub fn put_ready(&mut self, sealed: &[u8], pool: &mut BlockPool) {
        for bytes in sealed.chunks(BLOCK_BYTES) {
            let Some(mut block) = pool.take() else {
                // The records behind would not open without this one.
                self.failed = true;
                return;
            };
            block[..bytes.len()].copy_from_slice(bytes);
            self.ready.push(Segment::Block { block, range: 0..bytes.len() });
        }
    }

    /// What another process needs to go on sending; what is open is sealed for it. `received` gives
    /// the bytes of the port's buffers. `None`: sealing has failed.
    pub fn state(
        &mut self,
        mut received: impl FnMut(&ReceiveBuffer, &mut Vec<u8>, Range<usize>),
    ) -> Option<OutputState> {
        self.close_tail();
        let mut sealed = Vec::new();
        for segment in &self.ready {
            match segment {
                Segment::Block { block, range } => sealed.extend_from_slice(&block[range.clone()]),
                Segment::Receive { buffer, range } => {
                    received(buffer, &mut sealed, range.clone());
                }
            }
        }
        let sealer = self.sealer.state().filter(|_| !self.failed)?;
        Some(OutputState {
            sealer,
            sealed: HexadecimalBytes(sealed),
            control: HexadecimalBytes(self.control.iter().copied().collect()),
            totals: self.totals,
        })
    }

    /// Goes on sending. The pool must have blocks. `None`: no output is ever there.
    pub fn from_state(
        suite: AeadSuite,
        profile: Profile,
        state: &OutputState,
        pool: &mut BlockPool,
    ) -> Option<Self> {
        if state.blocks() > SEND_SEGMENTS_MAX || state.control.len() > CONTROL_MAX_BYTES {
            return None;
        }
        let mut output = Self::new(Sealer::from_state(suite, &state.sealer)?);
        output.profile = profile;
        output.control.extend(&state.control.0);
        // What the other process has counted is its own.
        (output.totals, output.told) = (state.totals, state.totals);
        output.put_ready(&state.sealed.0, pool);
        Some(output)
    }

    /// What was sent since this was asked last, for the core's counters.
    pub fn new_totals(&mut self) -> OutputTotals {
        let (now, told) = (self.totals, std::mem::replace(&mut self.told, self.totals));
        OutputTotals {
            frames: now.frames - told.frames,
            payload_bytes: now.payload_bytes - told.payload_bytes,
            records: now.records - told.records,
            records_in_place: now.records_in_place - told.records_in_place,
        }
    }

    /// The kernel has taken everything of the last send.
    pub fn sent(&mut self, now_ns: u64, histograms: &mut StageHistograms) {
        self.sent_marks.sent(now_ns, histograms);
    }

    /// Gives back every block that waits here.
    pub fn discard(&mut self, pool: &mut BlockPool, mut release: impl FnMut(Segment)) {
        if let Some(tail) = self.tail.take() {
            pool.give_back(tail.block);
        }
        for segment in self.ready.drain(..) {
            match segment {
                Segment::Block { block, .. } => pool.give_back(block),
                segment @ Segment::Receive { .. } => release(segment),
            }
        }
    }

    fn count_frames(&mut self, frames: u32, payload_bytes: usize, times: (u64, u64)) {
        self.totals.frames += u64::from(frames);
        self.totals.payload_bytes += payload_bytes as u64;
        self.open_marks.add(TrafficClass::Data, frames, times.0, times.1);
    }

    /// Moves waiting control bytes into records as far as there is room, cut anywhere: records
    /// carry a stream (spec §3.3).
    fn move_control(&mut self, pool: &mut BlockPool) {
        while !self.control.is_empty() && self.make_room(1, 0, pool) {
            let Some(tail) = &mut self.tail else { return };
            let (first, _) = self.control.as_slices();
            let bytes = first.len().min(tail.room());
            let place = tail.place(bytes);
            place.copy_from_slice(&first[..bytes]);
            self.control.drain(..bytes);
        }
        if self.control.is_empty() && self.control.capacity() > CONTROL_PONG_MAX_BYTES {
            // A flood is over; its memory need not stay with the link.
            self.control = VecDeque::new();
        }
    }

    /// Makes the open record able to take `bytes` more, with a new block if need be.
    fn make_room(&mut self, bytes: usize, reserve: usize, pool: &mut BlockPool) -> bool {
        if bytes > RECORD_PLAINTEXT_MAX_BYTES {
            return false;
        }
        if self.tail.as_ref().is_some_and(|tail| tail.room() >= bytes) {
            return true;
        }
        if !self.may_take_block(pool, reserve) {
            return false;
        }
        let Some(block) = pool.take() else { return false };
        self.close_tail();
        self.tail = Some(Tail::new(block));
        true
    }

    fn may_take_block(&self, pool: &BlockPool, reserve: usize) -> bool {
        let waiting = self.ready.len() + usize::from(self.tail.is_some());
        waiting < LINK_BLOCKS_MAX && pool.available() > reserve
    }

    /// Seals the open record and makes its block a segment.
    fn close_tail(&mut self) {
        let Some(mut tail) = self.tail.take() else { return };
        if tail.plaintext_bytes() > 0 {
            let record = &mut tail.block[tail.sealed_end..tail.plain_end + TAG_BYTES];
            if self.sealer.seal_in_place(record).is_err() {
                self.failed = true;
            }
            self.totals.records += 1;
            tail.sealed_end = tail.plain_end + TAG_BYTES;
        }
        let range = 0..tail.sealed_end;
        if range.is_empty() {
            self.tail = Some(tail);
            return;
        }
        self.ready.push(Segment::Block { block: tail.block, range });
    }
}

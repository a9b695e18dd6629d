//! The sending side of one link. Any thread lays frames down; one thread at a time seals and writes
//! everything that lies there, so that frames of many callers share a record and a write. The
//! reader thread only lays down and never writes: a link that waits for its peer to read while the
//! peer waits for it would stall both (trap of spec §7.5).

use crate::error::LinkFailure;
use crate::limits::{
    CONTROL_RIDES_ALONG_BYTES, FLUSH_ROUNDS_MAX, OUTBOX_BULK_BYTES_MAX, OUTBOX_BYTES_MAX,
};
use crate::link::Style;
use crate::records::Batch;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::io::{self, IoSlice, Write};
use std::mem;
use waystation_astral::brontide::{RECORD_HEADER_BYTES, Sealer};
use waystation_astral::frame::{
    EncodeError, Frame, FrameKind, Profile, data_header_bytes, write_data_header,
};

/// Room for the longest header of a data frame (P4: 32 bytes).
const DATA_HEADER_BYTES_MAX: usize = 32;
const _: () = assert!(data_header_bytes(Profile::P4) <= DATA_HEADER_BYTES_MAX);

/// What one link has sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentStatistics {
    /// Data frames laid down.
    pub data_frames: u64,
    /// Payload bytes of those frames.
    pub data_bytes: u64,
    /// All other frames laid down.
    pub control_frames: u64,
    /// Records sealed and written.
    pub records: u64,
    /// Bytes written to the transport, records only.
    pub wire_bytes: u64,
    /// Batches written.
    pub batches: u64,
}

/// Whether a frame may overtake data that already waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Pongs, credit, responses, queries: nothing that waits depends on coming before them.
    MayOvertake,
    /// Resets: they end what waits before them.
    Behind,
}

pub(crate) struct Outbox {
    profile: Profile,
    style: Style,
    record_bytes_max: usize,
    queue: Mutex<Queue>,
    /// The writer thread waits here for work nobody else does.
    work: Condvar,
    /// Senders of data wait here for bulk to go out.
    room: Condvar,
    wire: Mutex<Wire>,
}

#[derive(Default)]
struct Queue {
    urgent: Batch,
    bulk: Batch,
    scratch: Vec<u8>,
    /// A thread is sealing and writing; it looks here again before it stops.
    flushing: bool,
    /// The writer thread is to take over.
    kicked: bool,
    closed: bool,
    sent: SentStatistics,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.bulk.is_empty()
    }
}

struct Wire {
    sealer: Sealer,
    writer: Box<dyn Write + Send>,
    urgent: Batch,
    bulk: Batch,
}

impl Outbox {
    pub(crate) fn new(
        profile: Profile,
        style: Style,
        record_bytes_max: usize,
        sealer: Sealer,
        writer: Box<dyn Write + Send>,
    ) -> Self {
        Self {
            profile,
            style,
            record_bytes_max,
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
            room: Condvar::new(),
            wire: Mutex::new(Wire {
                sealer,
                writer,
                urgent: Batch::default(),
                bulk: Batch::default(),
            }),
        }
    }

    pub(crate) fn statistics(&self) -> SentStatistics {
        self.queue.lock().sent
    }

    /// Most payload bytes one data frame takes.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.record_bytes_max.saturating_sub(data_header_bytes(self.profile)).max(1)
    }

    /// Lays down one frame other than data. Never blocks.
    pub(crate) fn push_control(&self, frame: &Frame<'_>, order: Order) -> Result<(), LinkFailure> {
        let mut queue = self.queue.lock();
        let queue = &mut *queue;
        if queue.closed {
            return Ok(());
        }
        let waiting = queue.urgent.bytes() + queue.bulk.bytes();
        if waiting > OUTBOX_BYTES_MAX {
            return Err(LinkFailure::AnswersUnread(waiting));
        }
        queue.scratch.clear();
        frame.encode_to_vec(self.profile, &mut queue.scratch)?;
        let overtakes = order == Order::MayOvertake
            && (queue.bulk.bytes() > CONTROL_RIDES_ALONG_BYTES || !queue.urgent.is_empty());
        let batch = if overtakes { &mut queue.urgent } else { &mut queue.bulk };
        batch.push_frame(&queue.scratch, self.style, self.profile, self.record_bytes_max);
        queue.sent.control_frames += 1;
        Ok(())
    }

    /// Lays down one data frame of at most [`Self::payload_bytes_max`] bytes; waits while too much
    /// bulk is ahead. On a link that is down the frame is dropped.
    pub(crate) fn push_data(&self, nonce: u64, payload: &[u8]) -> Result<(), LinkFailure> {
        let mut queue = self.queue.lock();
        while queue.bulk.bytes() > OUTBOX_BULK_BYTES_MAX && !queue.closed {
            if queue.flushing {
                self.room.wait(&mut queue);
            } else {
                queue = self.flush_locked(queue)?;
            }
        }
        if queue.closed {
            return Ok(());
        }
        let mut header = [0; DATA_HEADER_BYTES_MAX];
        let Ok(payload_bytes) = u16::try_from(payload.len()) else {
            return Err(EncodeError::TooLong { kind: FrameKind::Data, bytes: payload.len() }.into());
        };
        let header_bytes = write_data_header(self.profile, nonce, payload_bytes, &mut header)?;
        let header = header.get(..header_bytes).unwrap_or_default();
        match self.style {
            Style::Coalesced => {
                queue.bulk.push_coalesced(header, payload, self.record_bytes_max);
            }
            Style::Stock => queue.bulk.push_stock_data(header, payload, self.profile),
        }
        queue.sent.data_frames += 1;
        queue.sent.data_bytes += u64::from(payload_bytes);
        Ok(())
    }

    /// Writes what waits, unless another thread is at it and takes it along.
    pub(crate) fn flush(&self) -> Result<(), LinkFailure> {
        let queue = self.queue.lock();
        if queue.flushing {
            return Ok(());
        }
        self.flush_locked(queue).map(drop)
    }

    /// Leaves what waits to the writer thread. For threads that must not block.
    pub(crate) fn flush_elsewhere(&self) {
        let mut queue = self.queue.lock();
        if !queue.flushing && !queue.is_empty() {
            queue.kicked = true;
            self.work.notify_one();
        }
    }

    fn flush_locked<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue>,
    ) -> Result<MutexGuard<'a, Queue>, LinkFailure> {
        queue.flushing = true;
        let mut rounds = 0;
        while !queue.is_empty() && !queue.closed {
            if rounds == FLUSH_ROUNDS_MAX {
                queue.kicked = true;
                self.work.notify_one();
                break;
            }
            rounds += 1;
            let mut wire = self.wire.lock();
            mem::swap(&mut queue.urgent, &mut wire.urgent);
            mem::swap(&mut queue.bulk, &mut wire.bulk);
            queue.sent.records += (wire.urgent.records() + wire.bulk.records()) as u64;
            queue.sent.batches += 1;
            drop(queue);
            let outcome = wire.transmit(self.style);
            drop(wire);
            queue = self.queue.lock();
            self.room.notify_all();
            match outcome {
                Ok(wire_bytes) => queue.sent.wire_bytes += wire_bytes,
                Err(failure) => {
                    // Nothing may follow a record that was written in part.
                    queue.closed = true;
                    queue.flushing = false;
                    self.room.notify_all();
                    return Err(failure);
                }
            }
        }
        queue.flushing = false;
        self.room.notify_all();
        Ok(queue)
    }

    /// Writes everything that waits and returns when it is written, whoever wrote it. Bounded by
    /// the transport's write timeout.
    pub(crate) fn flush_all(&self) -> Result<(), LinkFailure> {
        let mut queue = self.queue.lock();
        while !queue.closed && (queue.flushing || !queue.is_empty()) {
            if queue.flushing {
                self.room.wait(&mut queue);
            } else {
                queue = self.flush_locked(queue)?;
            }
        }
        Ok(())
    }

    /// The writer thread's life: writes what others left to it, until the link is down.
    pub(crate) fn run_writer(&self) -> Result<(), LinkFailure> {
        let mut queue = self.queue.lock();
        while !queue.closed {
            if queue.kicked && !queue.flushing {
                queue.kicked = false;
                queue = self.flush_locked(queue)?;
            } else {
                queue.kicked = false;
                self.work.wait(&mut queue);
            }
        }
        Ok(())
    }

    /// Drops what waits and wakes everybody who waits for room.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.urgent.clear();
        queue.bulk.clear();
        self.work.notify_all();
        self.room.notify_all();
    }
}

impl Wire {
    /// Seals and writes both batches, urgent first; returns the bytes written.
    fn transmit(&mut self, style: Style) -> Result<u64, LinkFailure> {
        self.urgent.seal(&mut self.sealer)?;
        self.bulk.seal(&mut self.sealer)?;
        let wire_bytes = (self.urgent.bytes() + self.bulk.bytes()) as u64;
        let written = match style {
            Style::Coalesced => {
                write_two(&mut *self.writer, self.urgent.wire_bytes(), self.bulk.wire_bytes())
            }
            Style::Stock => write_stock(&mut *self.writer, [&self.urgent, &self.bulk]),
        };
        self.urgent.clear();
        self.bulk.clear();
        written.map_err(LinkFailure::Send)?;
        Ok(wire_bytes)
    }
}

fn write_two(writer: &mut dyn Write, first: &[u8], second: &[u8]) -> io::Result<()> {
    if first.is_empty() {
        return writer.write_all(second).and_then(|()| writer.flush());
    }
    let mut slices = [IoSlice::new(first), IoSlice::new(second)];
    let mut rest = &mut slices[..];
    while rest.iter().any(|slice| !slice.is_empty()) {
        match writer.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    writer.flush()
}

/// Header and body of every record in separate writes, as stock does (spec §3.3).
pub(crate) fn write_stock(writer: &mut dyn Write, batches: [&Batch; 2]) -> io::Result<()> {
    for record in batches.into_iter().flat_map(Batch::each_record) {
        let (header, body) = record.split_at(RECORD_HEADER_BYTES.min(record.len()));
        writer.write_all(header)?;
        writer.flush()?;
        writer.write_all(body)?;
        writer.flush()?;
    }
    Ok(())
}

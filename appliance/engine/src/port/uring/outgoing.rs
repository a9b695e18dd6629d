//! A send in flight: segments, and what the kernel reads to find them.
//!
//! Boxed, and from the submission to the completion neither moved nor changed, because the kernel
//! may read all of it. Owned by the port, on its thread.

use super::token::Token;
use crate::port::arena::Arena;
use crate::port::{SEND_SEGMENTS_MAX, Segment, Segments};
use io_uring::{opcode, squeue, types};
use std::os::fd::RawFd;
use std::ptr;

/// `MSG_WAITALL`: the kernel goes on by itself until everything is sent (io_uring_prep_send(3)).
const MSG_WAITALL: u32 = 0x100;
/// `MSG_NOSIGNAL` (send(2)).
const MSG_NOSIGNAL: u32 = 0x4000;

/// The kernel's `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Slice {
    base: *const u8,
    bytes: usize,
}

/// The kernel's `struct user_msghdr`.
#[repr(C)]
#[derive(Debug)]
struct MessageHeader {
    name: *const u8,
    name_bytes: i32,
    slices: *const Slice,
    slice_count: usize,
    control: *const u8,
    control_bytes: usize,
    flags: u32,
}

/// One send, from its first submission until everything is sent or it failed.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) segments: Segments,
    sent: usize,
    total: usize,
    slices: [Slice; SEND_SEGMENTS_MAX],
    header: MessageHeader,
}

impl Outgoing {
    /// One without segments.
    pub(super) fn new() -> Self {
        Self {
            segments: Segments::new(),
            sent: 0,
            total: 0,
            slices: [Slice { base: ptr::null(), bytes: 0 }; SEND_SEGMENTS_MAX],
            header: MessageHeader {
                name: ptr::null(),
                name_bytes: 0,
                slices: ptr::null(),
                slice_count: 0,
                control: ptr::null(),
                control_bytes: 0,
                flags: 0,
            },
        }
    }

    /// Takes the segments of a new send.
    pub(super) fn begin(&mut self, segments: Segments) {
        self.total = segments.iter().map(Segment::bytes).sum();
        self.sent = 0;
        self.segments = segments;
    }

    /// Notes what the kernel took. Returns whether that was all.
    pub(super) fn advance(&mut self, bytes: usize) -> bool {
        self.sent += bytes;
        self.sent >= self.total
    }

    /// The operation that sends what is left. It points into `self` and the segments: neither may
    /// be moved or changed until it completed.
    pub(super) fn operation(
        &mut self,
        socket: RawFd,
        arena: &Arena,
        token: Token,
    ) -> squeue::Entry {
        let mut skip = self.sent;
        let mut count = 0;
        for segment in &self.segments {
            let bytes = match segment {
                Segment::Block { block, range } => &block[range.clone()],
                Segment::Receive { buffer, range } => arena.sending(buffer, range),
            };
            let rest = bytes.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(bytes.len());
            if !rest.is_empty() {
                self.slices[count] = Slice { base: rest.as_ptr(), bytes: rest.len() };
                count += 1;
            }
        }
        let socket = types::Fd(socket);
        let flags = MSG_WAITALL | MSG_NOSIGNAL;
        let entry = match (count, u32::try_from(self.slices[0].bytes)) {
            (1, Ok(bytes)) => opcode::Send::new(socket, self.slices[0].base, bytes)
                .flags(flags.cast_signed())
                .build(),
            _ => {
                self.header.slices = self.slices.as_ptr();
                self.header.slice_count = count;
                let header = &raw const self.header;
                opcode::SendMsg::new(socket, header.cast()).flags(flags).build()
            }
        };
        entry.user_data(token.pack())
    }
}

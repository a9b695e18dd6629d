//! The receive arena: one piece of memory cut into buffers, each with exactly one owner.
//!
//! A port owns one arena and uses it on its thread. A buffer belongs to the port (free, or provided
//! to the kernel, which may write it), to the caller (as a [`ReceiveBuffer`]), or to a send in
//! flight (the kernel may read it). References to its bytes are made in the last two states only,
//! and mutable ones only for the caller; that is what makes the memory shared with the kernel
//! sound, so a violation stops the program. Nothing here ever allocates after creation.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

/// Alignment of the arena: that of a page, so that no buffer shares one with other memory.
const ARENA_ALIGNMENT_BYTES: usize = 4096;

/// Received bytes in a buffer of the arena. Whoever has it must give it back: to
/// [`Port::release`](super::Port::release), or inside a segment to
/// [`Port::send`](super::Port::send). Dropped, it is lost to the arena.
#[derive(Debug)]
#[must_use = "a dropped buffer is lost to its arena"]
pub struct ReceiveBuffer {
    index: u16,
    bytes: u32,
}

impl ReceiveBuffer {
    /// Bytes received, at least 1.
    pub fn len(&self) -> usize {
        self.bytes as usize
    }

    /// Whether it holds nothing; never true of a buffer from an event.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// Who has a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The port: on its free list, or with the kernel.
    Port,
    Caller,
    Send,
}

/// The buffers of one port.
#[derive(Debug)]
pub(super) struct Arena {
    memory: NonNull<u8>,
    layout: Layout,
    buffer_bytes: u32,
    owners: Box<[Owner]>,
    with_port: usize,
    leaked: bool,
}

impl Arena {
    /// Allocates `buffers` buffers of `buffer_bytes` each, all owned by the port.
    ///
    /// # Errors
    /// `InvalidInput` when either is 0 or the product overflows, `OutOfMemory`.
    pub(super) fn new(buffers: u16, buffer_bytes: u32) -> io::Result<Self> {
        let bytes = usize::from(buffers).checked_mul(buffer_bytes as usize);
        let layout = bytes
            .filter(|bytes| *bytes > 0)
            .and_then(|bytes| Layout::from_size_align(bytes, ARENA_ALIGNMENT_BYTES).ok())
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the layout's size is not 0, checked above. Every test of `tests/ports.rs` makes
        // an arena.
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).ok_or(io::ErrorKind::OutOfMemory)?;
        let owners = vec![Owner::Port; usize::from(buffers)].into_boxed_slice();
        Ok(Self { memory, layout, buffer_bytes, with_port: owners.len(), owners, leaked: false })
    }

    /// Bytes of one buffer.
    pub(super) fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Buffers in all, and those that neither the caller nor a send has.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.owners.len(), self.with_port)
    }

    /// Where buffer `index` begins. Dereferencing it is the kernel's business, or that of the
    /// functions below.
    pub(super) fn start(&self, index: u16) -> *mut u8 {
        assert!(usize::from(index) < self.owners.len(), "buffer {index} of another arena");
        // SAFETY: the index is within the arena, checked above, so the offset is within the
        // allocation. `buffers_do_not_overlap` exercises it.
        unsafe { self.memory.as_ptr().add(usize::from(index) * self.buffer_bytes as usize) }
    }

    /// The whole of a buffer that the port has and the kernel has not, to receive into.
    pub(super) fn free_mut(&mut self, index: u16) -> &mut [u8] {
        self.expect_owner(index, Owner::Port);
        let start = self.start(index);
        // SAFETY: the buffer is inside the arena and initialised since its allocation; the port has
        // it, and a port that calls this never provides buffers to the kernel; `&mut self` excludes
        // every other reference. `every_byte_is_echoed` of `tests/ports.rs` exercises it.
        unsafe { std::slice::from_raw_parts_mut(start, self.buffer_bytes as usize) }
    }

    /// Gives a buffer to the caller after `bytes` were received into it.
    pub(super) fn grant(&mut self, index: u16, bytes: u32) -> ReceiveBuffer {
        assert!(bytes <= self.buffer_bytes, "more received than buffer {index} holds");
        self.change_owner(index, Owner::Port, Owner::Caller);
        self.with_port -= 1;
        ReceiveBuffer { index, bytes }
    }

    /// Takes a buffer back from the caller.
    pub(super) fn take_back(&mut self, buffer: ReceiveBuffer) -> u16 {
        self.change_owner(buffer.index, Owner::Caller, Owner::Port);
        self.with_port += 1;
        buffer.index
    }

    /// Moves a buffer from the caller to a send in flight.
    pub(super) fn begin_send(&mut self, buffer: &ReceiveBuffer) {
        self.change_owner(buffer.index, Owner::Caller, Owner::Send);
    }

    /// Moves a buffer from an ended send back to the caller.
    pub(super) fn end_send(&mut self, buffer: &ReceiveBuffer) {
        self.change_owner(buffer.index, Owner::Send, Owner::Caller);
    }

    /// The received bytes, for the caller.
    pub(super) fn bytes_mut(&mut self, buffer: &ReceiveBuffer) -> &mut [u8] {
        self.expect_owner(buffer.index, Owner::Caller);
        let start = self.start(buffer.index);
        // SAFETY: the buffer is inside the arena, initialised, and the caller's, so the kernel
        // neither reads nor writes it; `grant` checked the length; `&mut self` excludes every other
        // reference. `every_byte_is_echoed` of `tests/ports.rs` exercises it.
        unsafe { std::slice::from_raw_parts_mut(start, buffer.bytes as usize) }
    }

    /// A range of the received bytes, while a send has the buffer.
    pub(super) fn sending(&self, buffer: &ReceiveBuffer, range: &Range<usize>) -> &[u8] {
        self.expect_owner(buffer.index, Owner::Send);
        let start = self.start(buffer.index);
        // SAFETY: the buffer is inside the arena, initialised, and a send has it: nobody writes it.
        // `grant` checked the length. `every_byte_is_echoed` of `tests/ports.rs` exercises it.
        let received = unsafe { std::slice::from_raw_parts(start, buffer.bytes as usize) };
        &received[range.clone()]
    }

    /// Never frees the memory: the kernel may still write it.
    pub(super) fn leak(&mut self) {
        self.leaked = true;
    }

    fn change_owner(&mut self, index: u16, from: Owner, to: Owner) {
        self.expect_owner(index, from);
        self.owners[usize::from(index)] = to;
    }

    fn expect_owner(&self, index: u16, owner: Owner) {
        assert_eq!(self.owners[usize::from(index)], owner, "the owner of receive buffer {index}");
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: `memory` came from `alloc_zeroed` with this layout and is freed once, here. The
        // ports see to it that nothing is in flight, or leak the arena. Every test of
        // `tests/ports.rs` ends here.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_do_not_overlap() {
        let mut arena = Arena::new(4, 100).unwrap();
        for index in 0..4 {
            arena.free_mut(index).fill(index as u8 + 1);
        }
        for index in 0..4 {
            let buffer = arena.grant(index, 100);
            assert!(arena.bytes_mut(&buffer).iter().all(|byte| *byte == index as u8 + 1));
            assert_eq!(arena.take_back(buffer), index);
        }
    }

    #[test]
    fn counts_follow_a_buffer_through_its_life() {
        let mut arena = Arena::new(2, 64).unwrap();
        assert_eq!(arena.counts(), (2, 2));
        let buffer = arena.grant(1, 10);
        assert_eq!((buffer.len(), buffer.is_empty()), (10, false));
        assert_eq!(arena.counts(), (2, 1));
        arena.begin_send(&buffer);
        assert_eq!(arena.sending(&buffer, &(2..5)).len(), 3);
        assert_eq!(arena.counts(), (2, 1));
        arena.end_send(&buffer);
        assert_eq!(arena.take_back(buffer), 1);
        assert_eq!(arena.counts(), (2, 2));
    }

    #[test]
    #[should_panic(expected = "the owner of receive buffer")]
    fn writing_a_buffer_that_is_being_sent_stops_the_program() {
        let mut arena = Arena::new(1, 64).unwrap();
        let buffer = arena.grant(0, 10);
        arena.begin_send(&buffer);
        arena.bytes_mut(&buffer);
    }

    #[test]
    #[should_panic(expected = "more received than")]
    fn a_length_beyond_the_buffer_stops_the_program() {
        let mut arena = Arena::new(1, 64).unwrap();
        let _buffer = arena.grant(0, 65);
    }

    #[test]
    fn an_empty_arena_is_refused() {
        assert_eq!(Arena::new(0, 64).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Arena::new(4, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

//! The buffer ring: through it the port provides free receive buffers to the kernel.
//!
//! Owned by the port, used on its thread. Providing a buffer is a store, not a system call. Rings
//! of whole buffers only (no `IOU_PBUF_RING_INC`), so a buffer that a completion names is the
//! kernel's no longer.
//!
//! The kernel takes buffers in the order they were provided, so with all of them in the ring it
//! would go round the whole arena and find none of it in the cache. It gets only as many as hold
//! [`HOT_BYTES`], going by how full they come back, and of the others the one used last.

use crate::port::arena::Arena;
use crate::port::probe::{Requirement, SetupStep, UringError};
use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::io::Errno;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The one group of provided buffers of a ring.
pub(super) const BUFFER_GROUP: u16 = 0;
/// The kernel wants the ring to begin on a page (io_uring_register_buf_ring(3)).
const PAGE_BYTES: usize = 4096;
/// Bytes that the buffers with the kernel are to hold: well below a second-level cache of 1 MiB,
/// in which the buffers being sent and what they are copied to have to fit as well.
const HOT_BYTES: usize = 384 * 1024;
/// Fewest buffers with the kernel, for as many streams that have something in one turn.
const OFFERED_MIN: usize = 8;
/// How many receives the average of their bytes goes back.
const AVERAGED_RECEIVES: usize = 16;

/// A ring of as many entries as there are buffers, so it is never too full.
#[derive(Debug)]
pub(super) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    count: u16,
    tail: u16,
    /// Buffers that the port has and the kernel has not, the last to be offered first.
    spare: Vec<u16>,
    /// Buffers that the kernel has.
    offered: usize,
    /// What a receive brings, on average.
    filled_bytes: usize,
    leaked: bool,
}

impl BufferRing {
    /// Allocates an empty ring.
    ///
    /// # Errors
    /// `InvalidInput` unless `count` is a power of two up to 32 768, `OutOfMemory`.
    pub(super) fn new(count: u16) -> io::Result<Self> {
        if !count.is_power_of_two() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let layout = Layout::array::<BufRingEntry>(usize::from(count))
            .and_then(|layout| layout.align_to(PAGE_BYTES))
            .map_err(|_layout| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: the size is not 0, since `count` is not. Every io_uring test of `tests/ports.rs`
        // makes one.
        let memory = unsafe { alloc_zeroed(layout) };
        let entries = NonNull::new(memory).ok_or(io::ErrorKind::OutOfMemory)?.cast();
        let spare = Vec::with_capacity(usize::from(count));
        let (offered, filled_bytes) = (0, 0);
        Ok(Self { entries, layout, count, tail: 0, spare, offered, filled_bytes, leaked: false })
    }

    /// Makes the ring known to the kernel as [`BUFFER_GROUP`].
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn register(&self, submitter: &Submitter<'_>) -> Result<(), UringError> {
        let address = self.entries.as_ptr().expose_provenance() as u64;
        // SAFETY: the address is that of `count` zeroed entries on a page boundary, which are freed
        // after the ring was dropped, or never. Every io_uring test of `tests/ports.rs` runs it.
        let result =
            unsafe { submitter.register_buf_ring_with_flags(address, self.count, BUFFER_GROUP, 0) };
        result.map_err(|source| {
            let errno = source.raw_os_error().map(Errno::from_raw_os_error);
            if errno == Some(Errno::INVAL) {
                UringError::Missing { missing: Requirement::BufferRing }
            } else {
                UringError::Setup { step: SetupStep::BufferRing, source }
            }
        })
    }

    /// Takes a buffer that the port has, to be offered again.
    pub(super) fn put_back(&mut self, index: u16) {
        self.spare.push(index);
    }

    /// Notes that a completion named a buffer, and how much was received into it.
    pub(super) fn note_taken(&mut self, bytes: usize) {
        self.offered -= 1;
        let older_bytes = self.filled_bytes * (AVERAGED_RECEIVES - 1);
        self.filled_bytes = (older_bytes + bytes) / AVERAGED_RECEIVES;
    }

    /// Provides buffers to the kernel, up to as many as are to be there.
    pub(super) fn offer(&mut self, arena: &Arena) {
        let enough = (HOT_BYTES / self.filled_bytes.max(1)).max(OFFERED_MIN);
        while self.offered < enough
            && let Some(index) = self.spare.pop()
        {
            self.offered += 1;
            self.provide(arena, index);
        }
    }

    /// Buffers that the kernel has.
    pub(super) fn offered(&self) -> usize {
        self.offered
    }

    /// Provides buffer `index` of the arena, which the port must have, to the kernel.
    fn provide(&mut self, arena: &Arena, index: u16) {
        let position = usize::from(self.tail & (self.count - 1));
        // SAFETY: the position is below `count`, a power of two, hence within the allocation.
        // `exhausted_arena_loses_nothing` of `tests/ports.rs` goes round the ring many times.
        let mut entry = unsafe { self.entries.add(position) };
        // SAFETY: the entry is initialised (zeroed, then written here only); the kernel reads
        // entries between its head and the tail, and there are as many buffers as entries, so this
        // one is outside until the store below. Same test.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(arena.start(index).expose_provenance() as u64);
        entry.set_len(arena.buffer_bytes());
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
        self.publish();
    }

    fn publish(&self) {
        // SAFETY: `entries` points to the first entry, initialised. Same test as above.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is aligned, lives as long as the ring, and only this function writes
        // it; the kernel reads it atomically. Same test as above.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Never frees the memory: the kernel may still read it.
    pub(super) fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: the memory came from `alloc_zeroed` with this layout and is freed once, here,
        // after the ring that knew it was dropped. Every io_uring test of `tests/ports.rs` ends
        // here.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PortLimits;

    const BUFFERS: u16 = 32;

    fn all_offered() -> (Arena, BufferRing) {
        let PortLimits { receive_buffer_bytes, .. } = PortLimits::default();
        let arena = Arena::new(BUFFERS, receive_buffer_bytes).unwrap();
        let mut buffers = BufferRing::new(BUFFERS).unwrap();
        for index in 0..BUFFERS {
            buffers.put_back(index);
        }
        buffers.offer(&arena);
        assert_eq!(buffers.offered(), usize::from(BUFFERS), "before anything was received");
        (arena, buffers)
    }

    /// Which buffer the kernel takes when it has taken `position` others.
    fn provided_at(buffers: &BufferRing, position: u16) -> u16 {
        let place = usize::from(position & (BUFFERS - 1));
        // SAFETY: the position is within the ring.
        let entry = unsafe { buffers.entries.add(place) };
        // SAFETY: entries are initialised, and no kernel knows this ring.
        unsafe { entry.as_ref() }.bid()
    }

    /// Plays a kernel that fills the next buffer.
    fn take(buffers: &mut BufferRing, position: &mut u16, bytes: usize) -> u16 {
        let index = provided_at(buffers, *position);
        *position += 1;
        buffers.note_taken(bytes);
        index
    }

    #[test]
    fn full_buffers_come_round_while_they_are_hot() {
        let (arena, mut buffers) = all_offered();
        let bytes = arena.buffer_bytes() as usize;
        let mut position = 0;
        let mut used = Vec::new();
        for _ in 0..10 * BUFFERS {
            let index = take(&mut buffers, &mut position, bytes);
            used.push(index);
            buffers.put_back(index);
            buffers.offer(&arena);
        }
        assert_eq!(buffers.offered(), OFFERED_MIN);
        let mut last: Vec<u16> = used.split_off(used.len() - 100);
        last.sort_unstable();
        last.dedup();
        assert_eq!(last.len(), OFFERED_MIN, "buffers in use");
    }

    #[test]
    fn buffers_that_come_back_nearly_empty_are_all_offered() {
        let (arena, mut buffers) = all_offered();
        let full = arena.buffer_bytes() as usize;
        let mut position = 0;
        for bytes in std::iter::repeat_n(full, 100).chain(std::iter::repeat_n(200, 100)) {
            let index = take(&mut buffers, &mut position, bytes);
            buffers.put_back(index);
            buffers.offer(&arena);
        }
        assert_eq!(buffers.offered(), usize::from(BUFFERS));
    }

    #[test]
    fn of_the_buffers_left_over_the_one_used_last_is_offered() {
        let (arena, mut buffers) = all_offered();
        let full = arena.buffer_bytes() as usize;
        let mut position = 0;
        let taken: Vec<u16> =
            (0..BUFFERS).map(|_| take(&mut buffers, &mut position, full)).collect();
        assert_eq!(buffers.offered(), 0);
        for index in &taken {
            buffers.put_back(*index);
        }
        buffers.offer(&arena);
        assert_eq!(Some(&provided_at(&buffers, position)), taken.last());
    }
}

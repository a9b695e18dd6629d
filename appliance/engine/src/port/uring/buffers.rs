//! The buffer ring: through it the port provides free receive buffers to the kernel.
//!
//! Owned by the port, used on its thread. Providing a buffer is a store, not a system call. Rings
//! of whole buffers only (no `IOU_PBUF_RING_INC`), so a buffer that a completion names is the
//! kernel's no longer.

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

/// A ring of as many entries as there are buffers, so it is never too full.
#[derive(Debug)]
pub(super) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    count: u16,
    tail: u16,
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
        Ok(Self { entries, layout, count, tail: 0, leaked: false })
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

    /// Provides buffer `index` of the arena, which the port must have, to the kernel.
    pub(super) fn provide(&mut self, arena: &Arena, index: u16) {
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

//! Memory that a socket shares with the kernel: frames, and rings that say whose each frame is.
//!
//! Owned by one [`super::FrameSocket`], used on one thread. A ring has one producer and one consumer,
//! of which one is the kernel: the producer writes an entry and then its count, the consumer reads an
//! entry and then tells by its own count that it has (`include/uapi/linux/if_xdp.h`,
//! Documentation/networking/af_xdp.rst). What the kernel writes is never trusted to lie within the
//! frames; a frame is only touched while it is this side's. The unsafe code is run by the tests below,
//! and with the kernel at the other end by `appliance/waystation/tests/af_xdp.rs`.

use rustix::net::xdp::XdpRingOffset;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// The kernel wants to be woken up to go on with a ring (`XDP_RING_NEED_WAKEUP`).
const NEED_WAKE_UP: u32 = 1;

/// Mapped memory, unmapped when dropped.
pub(super) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is memory and nothing else, and no thread's more than another's; who has the value alone
// has it.
unsafe impl Send for Mapping {}

impl fmt::Debug for Mapping {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Mapping({} bytes)", self.bytes)
    }
}

impl Mapping {
    /// Memory of zeros, there at once.
    pub(super) fn new(bytes: NonZeroUsize) -> io::Result<Self> {
        Self::map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, -1, 0)
    }

    /// A part of a socket.
    fn of_socket(socket: BorrowedFd<'_>, bytes: NonZeroUsize, offset: u64) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(bytes, flags, socket.as_raw_fd(), offset)
    }

    fn map(bytes: NonZeroUsize, flags: i32, file: i32, offset: u64) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: the kernel chooses where, so nothing that is there is replaced.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), bytes.get(), protection, flags, file, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes: bytes.get() })
    }

    /// Where it begins, for the kernel.
    pub(super) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A part of it, of memory that the kernel does not write meanwhile.
    pub(super) fn part(&self, start: usize, bytes: usize) -> Option<&[u8]> {
        let place = self.place(start, bytes)?;
        // SAFETY: the bytes are within the mapping, which is initialised and lives as long as the
        // borrow; the caller's ring says that the kernel is done with them.
        Some(unsafe { std::slice::from_raw_parts(place, bytes) })
    }

    /// The same to write to, of memory that the kernel does not read meanwhile.
    pub(super) fn part_mut(&mut self, start: usize, bytes: usize) -> Option<&mut [u8]> {
        let place = self.place(start, bytes)?;
        // SAFETY: as in `part`, and the mapping is borrowed alone.
        Some(unsafe { std::slice::from_raw_parts_mut(place, bytes) })
    }

    fn place(&self, start: usize, bytes: usize) -> Option<*mut u8> {
        let is_within = start.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        // SAFETY: `start` is within the mapping, or just behind it with no bytes to follow
        // (`parts_outside_of_the_memory_are_none`).
        is_within.then(|| unsafe { self.start.as_ptr().add(start) })
    }

    /// Where a value of the kernel's lies.
    fn at<T>(&self, offset: u64, count: usize) -> io::Result<*mut T> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let place = self.place(offset, size_of::<T>() * count);
        let place = place.filter(|place| place.align_offset(align_of::<T>()) == 0);
        Ok(place.ok_or_else(|| io::Error::other("a ring lies outside of its memory"))?.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's alone, and no borrow of it is left. The kernel holds
        // the pages of frames by itself while a socket needs them.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// A ring of entries. Whether this side produces or consumes is the owner's to know: only the methods
/// for its side may be called.
pub(super) struct Ring<T> {
    mapping: Mapping,
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    flags: Option<*const AtomicU32>,
    entries: *mut T,
    size: u32,
    /// This side's count, which nobody else changes.
    own: u32,
    entry: PhantomData<T>,
}

// SAFETY: the pointers are into its own mapping, which may be sent, and entries are plain numbers.
unsafe impl<T: Copy + Send> Send for Ring<T> {}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Ring({} of {:?})", self.own, self.mapping)
    }
}

impl<T: Copy> Ring<T> {
    /// Maps a ring of a socket, of `size` entries, a power of two.
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        offsets: &XdpRingOffset,
        size: u32,
        page_offset: u64,
    ) -> io::Result<Self> {
        let bytes = usize::try_from(offsets.desc).map_err(io::Error::other)?
            + size as usize * size_of::<T>();
        let bytes = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidData)?;
        let mapping = Mapping::of_socket(socket, bytes, page_offset)?;
        let flags = offsets.flags.map(|flags| mapping.at::<AtomicU32>(flags, 1)).transpose()?;
        Ok(Self {
            producer: mapping.at(offsets.producer, 1)?,
            consumer: mapping.at(offsets.consumer, 1)?,
            flags: flags.map(|flags| flags.cast_const()),
            entries: mapping.at(offsets.desc, size as usize)?,
            mapping,
            size,
            own: 0,
            entry: PhantomData,
        })
    }

    // Of a producer

    /// Adds an entry, which the other side sees at once; `false` if there is no room.
    pub(super) fn push(&mut self, entry: T) -> bool {
        if self.own.wrapping_sub(self.count(self.consumer)) >= self.size {
            return false;
        }
        let place = self.entry_at(self.own);
        // SAFETY: the place is one of the ring's entries, and this side's until the count says
        // otherwise.
        unsafe { place.write(entry) };
        self.own = self.own.wrapping_add(1);
        self.tell(self.producer);
        true
    }

    /// Entries that the other side has not taken.
    pub(super) fn waiting(&self) -> u32 {
        self.own.wrapping_sub(self.count(self.consumer))
    }

    /// Whether the kernel has to be told to go on.
    pub(super) fn needs_wake_up(&self) -> bool {
        // Kernels before 5.4 always have to.
        self.flags.is_none_or(|flags| self.count(flags) & NEED_WAKE_UP != 0)
    }

    // Of a consumer

    /// The next entry, which stays where it is.
    pub(super) fn peek(&self) -> Option<T> {
        if self.count(self.producer) == self.own {
            return None;
        }
        let place = self.entry_at(self.own);
        // SAFETY: the place is one of the ring's entries; the other side has written it before its
        // count and leaves it alone until this side's says otherwise; every pattern of bits is an
        // entry.
        Some(unsafe { place.read() })
    }

    /// The other side may write to the place of the entry that was peeked at.
    pub(super) fn advance(&mut self) {
        self.own = self.own.wrapping_add(1);
        self.tell(self.consumer);
    }

    fn entry_at(&self, count: u32) -> *mut T {
        let index = (count & (self.size - 1)) as usize;
        // SAFETY: the index is below the ring's size, and so many entries lie in the mapping.
        unsafe { self.entries.add(index) }
    }

    fn count(&self, at: *const AtomicU32) -> u32 {
        // SAFETY: it points into the mapping, aligned, at a number that both sides use atomically.
        let count = unsafe { &*at };
        count.load(Ordering::Acquire)
    }

    fn tell(&self, at: *const AtomicU32) {
        // SAFETY: as in `count`.
        let count = unsafe { &*at };
        count.store(self.own, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_outside_of_the_memory_are_none() {
        let bytes = NonZeroUsize::new(4096).unwrap();
        let mut mapping = Mapping::new(bytes).unwrap();
        mapping.part_mut(4090, 6).unwrap().fill(7);
        assert_eq!(mapping.part(4088, 8).unwrap(), [0, 0, 7, 7, 7, 7, 7, 7]);
        assert_eq!(mapping.part(4096, 0).unwrap(), [0; 0]);
        for (start, bytes) in [(4096, 1), (0, 4097), (usize::MAX, 2), (4090, 7)] {
            assert!(
                mapping.part(start, bytes).is_none() && mapping.part_mut(start, bytes).is_none()
            );
        }
    }

    #[test]
    fn values_that_a_ring_does_not_hold_are_refused() {
        let mapping = Mapping::new(NonZeroUsize::new(4096).unwrap()).unwrap();
        assert!(mapping.at::<u64>(4088, 1).is_ok());
        assert!(mapping.at::<u64>(4088, 2).is_err() && mapping.at::<u64>(2, 1).is_err());
        assert!(mapping.at::<u64>(u64::MAX, 1).is_err());
    }
}

//! Counts what the heap is asked for, thread by thread.
//!
//! A test makes [`CountingAllocator`] its global allocator and reads the counts of its own thread:
//! they hold on every machine, whatever other threads do.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static HELD_BYTES: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, with counts.
#[derive(Clone, Copy, Debug)]
pub struct CountingAllocator;

/// How often this thread has asked for memory, or for more or less of what it had.
#[must_use]
pub fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// Bytes that this thread has asked for and not given back. Less than nothing where it gave back
/// what another thread had asked for, so only differences say something.
#[must_use]
pub fn held_bytes() -> isize {
    HELD_BYTES.with(Cell::get)
}

fn count(more_bytes: isize) {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
    hold(more_bytes);
}

fn hold(more_bytes: isize) {
    HELD_BYTES.with(|held| held.set(held.get() + more_bytes));
}

// SAFETY: every call goes to the system's allocator as it came; counting touches cells of this
// thread that need no memory of their own and no destructor.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(-layout.size().cast_signed());
        // SAFETY: the caller's promise about pointer and layout is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller's promise about pointer, layout and size is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    #[test]
    fn what_is_asked_for_and_given_back_is_counted() {
        let (times, held) = (allocations(), held_bytes());
        let mut bytes: Vec<u8> = Vec::with_capacity(1000);
        assert_eq!((allocations() - times, held_bytes() - held), (1, 1000));
        bytes.push(1);
        assert_eq!(allocations() - times, 1, "there was room");
        bytes.reserve_exact(3000);
        assert_eq!((allocations() - times, held_bytes() - held), (2, 3001));
        drop(bytes);
        let zeroes = vec![0_u8; 500];
        assert_eq!((allocations() - times, held_bytes() - held), (3, 500));
        drop(zeroes);
        assert_eq!(held_bytes(), held);
    }

    #[test]
    fn other_threads_count_for_themselves() {
        let before = allocations();
        let asked = || (0..100).map(|size| vec![0_u8; size + 1].len()).sum::<usize>();
        let theirs = std::thread::spawn(move || (asked(), allocations()));
        assert!(matches!(theirs.join(), Ok((5050, 100..))));
        assert!(allocations() - before < 100, "starting a thread takes some");
    }
}

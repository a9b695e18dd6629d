//! Wake-ups of a data core by other threads, free of system calls while the core is awake.
//!
//! Owns one event descriptor and one state word. Any thread calls [`Waker::wake`] after it put
//! something where the core will look (a ring, a slot). The core's port, on the core's thread,
//! calls the other three. None of them blocks, none is for anything but this one core.
//!
//! # The protocol, and why no wake-up is lost
//!
//! The state is `AWAKE`, `SLEEPING` or `WOKEN`, and every change is a sequentially consistent
//! read-modify-write, so all changes have one order.
//!
//! * `wake` swaps in `WOKEN`. Only the one that replaces `SLEEPING` writes the event descriptor.
//! * The owner goes from `AWAKE` to `SLEEPING` right before it may block
//!   ([`Waker::begin_sleep`]). If it finds `WOKEN` instead, it must not block.
//! * After the system call, blocking or not, the owner swaps in `AWAKE` ([`Waker::end_sleep`]) and
//!   only then looks at its rings.
//!
//! Take any `wake`. If its swap comes before the owner's next `end_sleep`, that swap reads it or a
//! later `wake`'s value, which continues its release sequence, so the rings looked at afterwards
//! show what was put there; and the owner does not block in between, because either `begin_sleep`
//! comes later and finds `WOKEN`, or it came earlier, and then a `wake` replaced `SLEEPING` and
//! made the descriptor readable. If the swap comes after `end_sleep`, the same argument holds for
//! the turn that follows. A descriptor written late, after the owner woke for another reason,
//! costs one needless turn and nothing else.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const AWAKE: u8 = 0;
const SLEEPING: u8 = 1;
const WOKEN: u8 = 2;

/// Wakes one data core; clones wake the same core.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    eventfd: OwnedFd,
}

impl Waker {
    /// Makes a waker for a port that is yet to be created.
    ///
    /// # Errors
    /// The kernel's refusal to make an event descriptor.
    pub fn new() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { state: AtomicU8::new(AWAKE), eventfd })))
    }

    /// Makes the port's current or next wait return, with at most one system call, and with none
    /// unless the core sleeps or is about to.
    pub fn wake(&self) {
        if self.0.state.swap(WOKEN, Ordering::SeqCst) == SLEEPING {
            // The only failure possible is a counter at its maximum, and then it is readable.
            let _ = rustix::io::write(&self.0.eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Announces that the owner may block. `false`: it was woken, so it must not.
    pub(super) fn begin_sleep(&self) -> bool {
        self.0.state.compare_exchange(AWAKE, SLEEPING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Ends a turn's waiting, whether it blocked or not. What was published before a `wake` is
    /// visible from here on.
    pub(super) fn end_sleep(&self) {
        // A plain load decides whether the swap is needed: `AWAKE` read here means that any `wake`
        // comes later in the order of changes, and the next `begin_sleep` finds it.
        if self.0.state.load(Ordering::Relaxed) != AWAKE {
            self.0.state.swap(AWAKE, Ordering::SeqCst);
        }
    }

    /// Makes the event descriptor unreadable again; for ports that watch its level.
    pub(super) fn clear(&self) {
        let mut counter = [0; 8];
        match rustix::io::read(&self.0.eventfd, &mut counter) {
            // Nothing to read is what this is for.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => debug_assert!(false, "reading an event descriptor: {error}"),
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_readable(waker: &Waker) -> bool {
        let mut descriptors = [PollFd::new(waker, PollFlags::IN)];
        poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn wake_of_an_awake_owner_writes_nothing_and_keeps_it_from_sleeping_once() {
        let waker = Waker::new().unwrap();
        waker.wake();
        waker.wake();
        assert!(!is_readable(&waker));
        assert!(!waker.begin_sleep());
        waker.end_sleep();
        assert!(waker.begin_sleep());
    }

    #[test]
    fn wake_of_a_sleeping_owner_makes_the_descriptor_readable_until_cleared() {
        let waker = Waker::new().unwrap();
        assert!(waker.begin_sleep());
        waker.wake();
        assert!(is_readable(&waker));
        waker.end_sleep();
        waker.clear();
        waker.clear();
        assert!(!is_readable(&waker));
        assert!(waker.begin_sleep());
    }
}

//! The ring itself: set up, fed, entered and read. Knows nothing of streams.
//!
//! Owned by the port, used on the thread that made it: the kernel refuses every other one
//! (`IORING_SETUP_SINGLE_ISSUER`).

use super::buffers::BufferRing;
use super::token::Token;
use crate::port::GATHER_EVENTS;
use crate::port::probe::{
    OPERATIONS, Requirement, SetupStep, UringError, check_operations, setup_error,
};
use io_uring::register::Restriction;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, squeue};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// What the kernel says of one operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) token: Token,
    pub(super) result: Result<u32, Errno>,
    /// The provided buffer it used.
    pub(super) buffer: Option<u16>,
    /// The operation goes on and will complete again.
    pub(super) more: bool,
    /// A receive left something in the socket (`IORING_CQE_F_SOCK_NONEMPTY`).
    pub(super) left_some: bool,
}

/// A ring whose completions run when its thread enters the kernel.
pub(super) struct Ring {
    ring: IoUring,
    /// Submissions that found the queue full and the kernel unwilling to take it.
    backlog: VecDeque<squeue::Entry>,
    /// Operations without their last completion.
    in_flight: u64,
    /// How long a wait lasts at least, unless [`GATHER_EVENTS`] completions come before, in
    /// microseconds.
    least_wait_us: u32,
    syscalls: u64,
}

impl Ring {
    /// Makes a ring that can do the port's operations and no others, with `buffers` registered.
    ///
    /// # Errors
    /// What this machine lacks or forbids.
    pub(super) fn new(
        submissions: u32,
        completions: u32,
        buffers: &BufferRing,
    ) -> Result<Self, UringError> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(completions)
            .setup_r_disabled()
            .build(submissions)
            .map_err(setup_error)?;
        for (has, missing) in [
            (ring.params().is_feature_ext_arg(), Requirement::WaitTimeout),
            (ring.params().is_feature_nodrop(), Requirement::NoDrop),
        ] {
            if !has {
                return Err(UringError::Missing { missing });
            }
        }
        let submitter = ring.submitter();
        check_operations(&submitter)?;
        buffers.register(&submitter)?;
        let failed = |step| move |source| UringError::Setup { step, source };
        // From here on the ring cannot be made to open, connect or read anything, whoever gets hold
        // of it, and nothing more can be registered.
        let operations = OPERATIONS.iter().map(|(code, _)| Restriction::sqe_op(*code));
        let mut restrictions: Vec<_> = operations.collect();
        let flags = squeue::Flags::BUFFER_SELECT.bits();
        restrictions.push(Restriction::sqe_flags_allowed(flags));
        submitter.register_restrictions(&mut restrictions).map_err(failed(SetupStep::Restrict))?;
        submitter.register_enable_rings().map_err(failed(SetupStep::Enable))?;
        Ok(Self { ring, backlog: VecDeque::new(), in_flight: 0, least_wait_us: 0, syscalls: 5 })
    }

    /// Operations that have not completed for the last time.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// System calls made so far.
    pub(super) fn syscalls(&self) -> u64 {
        self.syscalls
    }

    /// Queues an operation for the next enter. It is never lost: a full queue is submitted first.
    ///
    /// # Safety
    /// Everything the entry points to stays where it is, valid and unaliased as the operation
    /// demands, until its last completion was taken.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        self.backlog.push_back(entry);
        self.submit();
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller of `push` vouches for the entry, and every entry here went through it.
        // `every_byte_is_echoed` of `tests/ports.rs` exercises it.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn fill_from_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Hands the full queue over. What the kernel refuses now it is offered at the next enter.
    fn submit(&mut self) {
        self.syscalls += 1;
        if self.ring.submit().is_ok() {
            self.fill_from_backlog();
        }
    }

    /// Whether the kernel can make a wait last (Linux 6.12).
    pub(super) fn can_gather(&self) -> bool {
        self.ring.params().is_feature_min_timeout()
    }

    /// Makes waits last at least so long; without effect where the kernel cannot.
    pub(super) fn wait_at_least(&mut self, least: Duration) {
        let least_us = u32::try_from(least.as_micros()).unwrap_or(u32::MAX);
        self.least_wait_us = if self.can_gather() { least_us } else { 0 };
    }

    /// Submits what is queued and has the kernel post what is done; with `wait`, until there is a
    /// completion or `timeout` is over.
    ///
    /// # Errors
    /// What makes going on impossible.
    pub(super) fn enter(&mut self, wait: bool, timeout: Option<Duration>) -> io::Result<()> {
        let queued = self.ring.submission().len();
        let timespec = Timespec::from(timeout.unwrap_or_default());
        let mut arguments = match timeout {
            Some(_) if wait => SubmitArgs::new().timespec(&timespec),
            _ => SubmitArgs::new(),
        };
        let gathers = wait && self.least_wait_us > 0;
        if gathers {
            let timeout_us = timeout.map_or(u128::MAX, |timeout| timeout.as_micros());
            let timeout_us = u32::try_from(timeout_us).unwrap_or(u32::MAX);
            arguments = arguments.min_wait_usec(self.least_wait_us.min(timeout_us));
        }
        let least = match wait && self.backlog.is_empty() {
            true if gathers => GATHER_EVENTS,
            waits => u32::from(waits),
        };
        let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
        self.syscalls += 1;
        // The queue is at most 32 768 entries long.
        let queued = queued as u32;
        // SAFETY: the arguments are what `IORING_ENTER_EXT_ARG` says they are, and with the time
        // they point to they outlive the call. Every io_uring test of `tests/ports.rs` runs it.
        let entered =
            unsafe { self.ring.submitter().enter(queued, least, flags, Some(&arguments)) };
        self.fill_from_backlog();
        let Err(error) = entered else { return Ok(()) };
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            // The time was over; a signal; or the kernel wants completions taken, or memory, first.
            Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
            _ => Err(error),
        }
    }

    /// Whether no completion waits to be taken.
    pub(super) fn is_idle(&mut self) -> bool {
        self.ring.completion().is_empty()
    }

    /// Takes the next completion. Those with bits nobody submitted are skipped; there are none.
    pub(super) fn next(&mut self) -> Option<Completion> {
        loop {
            let entry = self.ring.completion().next()?;
            let more = cqueue::more(entry.flags());
            self.in_flight -= u64::from(!more);
            let Some(token) = Token::unpack(entry.user_data()) else { continue };
            let result = match u32::try_from(entry.result()) {
                Ok(result) => Ok(result),
                Err(_) => Err(Errno::from_raw_os_error(entry.result().saturating_neg())),
            };
            let buffer = cqueue::buffer_select(entry.flags());
            let left_some = cqueue::sock_nonempty(entry.flags());
            return Some(Completion { token, result, buffer, more, left_some });
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ring")
            .field("params", self.ring.params())
            .field("backlog", &self.backlog.len())
            .field("in_flight", &self.in_flight)
            .field("syscalls", &self.syscalls)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::port::uring::token::Operation;
    use io_uring::{opcode, types};

    /// A ring as the port has it, and the buffers that outlive it; nothing where this machine has no
    /// io_uring.
    fn ring() -> Option<(BufferRing, Ring)> {
        let buffers = BufferRing::new(4).unwrap();
        match Ring::new(8, 16, &buffers) {
            Ok(ring) => Some((buffers, ring)),
            Err(error) => {
                let required = std::env::var_os("WAYSTATION_TEST_REQUIRE");
                assert!(
                    required.is_none_or(|value| value != "all"),
                    "needs io_uring, but: {error}"
                );
                println!("skipped: needs io_uring, but: {error}");
                None
            }
        }
    }

    /// What the kernel says of one operation, or of the call that hands it over.
    fn outcome(entry: squeue::Entry) -> Option<Result<u32, Errno>> {
        let (_buffers, mut ring) = ring()?;
        let token = Token::new(Operation::Cancel, 0).pack();
        // SAFETY: the entries of these tests point to nothing but statics. The tests are what
        // exercises it.
        unsafe { ring.push(entry.user_data(token)) };
        ring.enter(true, Some(Duration::from_secs(30))).unwrap();
        Some(ring.next().unwrap().result)
    }

    #[test]
    fn operations_of_the_port_alone_are_carried_out() {
        let standard_error = types::Fd(2);
        let forbidden = [
            opcode::Nop::new().build(),
            opcode::OpenAt::new(types::Fd(-100), c"/etc/passwd".as_ptr()).build(),
            opcode::Close::new(standard_error).build(),
            opcode::Socket::new(1, 1, 0).build(),
            opcode::Fsync::new(standard_error).build(),
        ];
        for entry in forbidden {
            let Some(outcome) = outcome(entry.clone()) else { return };
            assert_eq!(outcome, Err(Errno::ACCESS), "{entry:?}");
        }
        // One of its own comes as far as finding out that there is nothing to cancel.
        let nothing = opcode::AsyncCancel2::new(types::CancelBuilder::user_data(7)).build();
        assert_eq!(outcome(nothing).unwrap(), Err(Errno::NOENT));
    }

    #[test]
    fn flags_that_the_port_has_no_use_for_are_refused() {
        let nothing = opcode::AsyncCancel2::new(types::CancelBuilder::user_data(7)).build();
        let Some(outcome) = outcome(nothing.flags(squeue::Flags::ASYNC)) else { return };
        assert_eq!(outcome, Err(Errno::ACCESS));
    }

    #[test]
    fn nothing_more_can_be_registered() {
        let Some((_buffers, ring)) = ring() else { return };
        let refused = ring.ring.submitter().register_files(&[2]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}

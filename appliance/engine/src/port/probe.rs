//! Whether this machine's io_uring will do, and if not, why.
//!
//! Called once per core as its port is made, and by the program before, to choose the port.

use io_uring::{Probe, Submitter, opcode};
use std::io;
use thiserror::Error;

/// Why there is no io_uring port. All of it is the machine's or the operator's doing.
#[derive(Debug, Error)]
pub enum UringError {
    /// The kernel does not let this process make a ring, or has none.
    #[error(
        "io_uring is forbidden: the sysctl kernel.io_uring_disabled, a seccomp filter (containers \
         often have one), or a kernel without it"
    )]
    Forbidden {
        #[source]
        source: io::Error,
    },
    /// The kernel is too old for the ring this program needs.
    #[error("io_uring lacks {missing}; Linux 6.1 has it")]
    Missing { missing: Requirement },
    /// A limit of this process is in the way.
    #[error("io_uring could not {step}{}", remedy(source))]
    Setup {
        step: SetupStep,
        #[source]
        source: io::Error,
    },
}

/// What helps against it, where that is known.
fn remedy(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::OutOfMemory {
        ": the user's locked memory is used up (ulimit -l, LimitMEMLOCK=)"
    } else {
        ""
    }
}

/// What the port needs of io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Requirement {
    /// `IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN`, Linux 6.1.
    #[error("rings whose completions run when their one thread asks")]
    DeferredTaskRun,
    /// `IORING_FEAT_EXT_ARG`, Linux 5.11.
    #[error("waits with a timeout")]
    WaitTimeout,
    /// `IORING_FEAT_NODROP`, Linux 5.5.
    #[error("completions that are never dropped")]
    NoDrop,
    #[error("the operation {0}")]
    Operation(&'static str),
    /// `IORING_REGISTER_PBUF_RING`, Linux 5.19.
    #[error("registered buffer rings")]
    BufferRing,
}

/// What was being done as setting up failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SetupStep {
    #[error("make a ring")]
    Ring,
    #[error("ask for its operations")]
    Probe,
    #[error("restrict its operations")]
    Restrict,
    #[error("enable the ring")]
    Enable,
    #[error("allocate receive buffers")]
    Arena,
    #[error("register the receive buffers")]
    BufferRing,
    #[error("watch the waker")]
    Waker,
}

/// The operations the port submits, and their names.
pub(super) const OPERATIONS: [(u8, &str); 6] = [
    (opcode::AcceptMulti::CODE, "accept"),
    (opcode::RecvMulti::CODE, "recv"),
    (opcode::Send::CODE, "send"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::PollAdd::CODE, "poll_add"),
    (opcode::AsyncCancel2::CODE, "async_cancel"),
];

/// Tells whether the port can run on this machine, by making a small ring and dropping it again.
/// May be called on any thread.
///
/// # Errors
/// What is in the way.
pub fn probe() -> Result<(), UringError> {
    super::uring::try_out()
}

/// Asks a ring for its operations.
pub(super) fn check_operations(submitter: &Submitter<'_>) -> Result<(), UringError> {
    let mut probe = Probe::new();
    submitter
        .register_probe(&mut probe)
        .map_err(|source| UringError::Setup { step: SetupStep::Probe, source })?;
    match OPERATIONS.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(UringError::Missing { missing: Requirement::Operation(name) }),
        None => Ok(()),
    }
}

/// What a failed `io_uring_setup` means.
pub(super) fn setup_error(source: io::Error) -> UringError {
    use rustix::io::Errno;
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => UringError::Forbidden { source },
        // An unknown flag is the one reason left for it.
        Some(Errno::INVAL) => UringError::Missing { missing: Requirement::DeferredTaskRun },
        _ => UringError::Setup { step: SetupStep::Ring, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn refusal_names_the_sysctl_and_seccomp() {
        for errno in [Errno::PERM, Errno::NOSYS] {
            let error = setup_error(io::Error::from(errno));
            assert!(matches!(error, UringError::Forbidden { .. }));
            let text = error.to_string();
            assert!(text.contains("kernel.io_uring_disabled") && text.contains("seccomp"));
        }
    }

    #[test]
    fn missing_operation_is_named() {
        let missing = Requirement::Operation("sendmsg");
        let text = UringError::Missing { missing }.to_string();
        assert_eq!(text, "io_uring lacks the operation sendmsg; Linux 6.1 has it");
    }
}

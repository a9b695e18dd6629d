//! Exit codes, as sysexits(3) names them, and the one line that says why.

use crate::state::StateError;
use std::process::ExitCode;
use waystation_engine::cores::EngineError;
use waystation_management::config::ConfigError;
use waystation_management::runtime::RuntimeError;
use waystation_management::stats_socket::client::ClientError;
use waystation_management::stats_socket::BindError;

/// The command line makes no sense.
const USAGE: u8 = 64;
/// Something that is needed is not there: an address, a socket, io_uring.
const UNAVAILABLE: u8 = 69;
/// The operating system does not permit it to this user.
const NO_PERMISSION: u8 = 77;
/// The configuration, or a key file, is wrong.
const CONFIGURATION: u8 = 78;
/// Anything else.
const FAILURE: u8 = 1;

/// Something was not as it must be, and what was printed says so.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unmet(pub(crate) String);

/// Prints what clap has to say: help and version are no failure.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // A closed terminal leaves nobody to tell.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// Prints why a command failed, in one line, and finds its code.
#[expect(clippy::print_stderr, reason = "the program's last words")]
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    eprintln!("waystation: {error:#}");
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    let io_code = |error: &std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => NO_PERMISSION,
        _ => UNAVAILABLE,
    };
    for cause in error.chain() {
        if cause.is::<ConfigError>() {
            return CONFIGURATION;
        }
        if let Some(error) = cause.downcast_ref::<StateError>() {
            return match error {
                StateError::KeyFile { .. } => CONFIGURATION,
                StateError::KeyExposed { .. } => NO_PERMISSION,
                StateError::Access { source, .. } => io_code(source),
                StateError::NoHome => UNAVAILABLE,
            };
        }
        if let Some(error) = cause.downcast_ref::<ClientError>() {
            return match error {
                error if error.is_permission() => NO_PERMISSION,
                error if error.is_unavailable() => UNAVAILABLE,
                _ => FAILURE,
            };
        }
        match cause.downcast_ref::<EngineError>() {
            Some(EngineError::Listen { source, .. } | EngineError::Start { source, .. }) => {
                return io_code(source);
            }
            Some(EngineError::Uring(_) | EngineError::NoCores) => return UNAVAILABLE,
            None => {}
        }
        match cause.downcast_ref::<RuntimeError>() {
            Some(RuntimeError::Socket(BindError::Refused { error, .. })) => return io_code(error),
            Some(RuntimeError::Metrics { source, .. } | RuntimeError::Start(source)) => {
                return io_code(source);
            }
            Some(RuntimeError::Socket(_)) => return UNAVAILABLE,
            Some(RuntimeError::CoreStopped { .. }) => return FAILURE,
            None => {}
        }
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return io_code(error);
        }
    }
    FAILURE
}

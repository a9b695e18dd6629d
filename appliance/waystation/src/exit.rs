//! Exit codes, as sysexits(3) names them, and the one line that says why and what helps.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done; also `--help` and `--version` |
//! | 1 | a data core or the program itself failed |
//! | 64 | the command line makes no sense |
//! | 69 | something needed is not there: a file, a free address, a stats socket, a terminal, io_uring |
//! | 77 | the operating system does not permit it to this user, or others may read the key |
//! | 78 | the configuration or the key file is wrong |

use crate::bundle::BundleError;
use crate::capture::CaptureFailure;
use crate::demo::NeedsRoot;
use crate::explain::PacketError;
use crate::privileges::PrivilegeError;
use crate::state::StateError;
use std::io;
use std::process::ExitCode;
use waystation_engine::cores::EngineError;
use waystation_management::a2al_sockets::A2alSocketsError;
use waystation_management::config::ConfigError;
use waystation_management::dht::DhtError;
use waystation_management::hand_over::HandOverError;
use waystation_management::runtime::RuntimeError;
use waystation_management::stats_socket::BindError;
use waystation_management::stats_socket::client::ClientError;
use waystation_management::top::TopError;
use waystation_tuning::catalog::CatalogError;
use waystation_tuning::plan::PlanError;

/// The command line makes no sense.
const USAGE: u8 = 64;
/// Something that is needed is not there: a file, an address, a socket, io_uring.
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
    let remedy = remedy(error).map(|remedy| format!("; {remedy}")).unwrap_or_default();
    eprintln!("waystation: {}{remedy}", causes(error));
    ExitCode::from(code(error))
}

/// Every cause, the outermost first. Some messages hold that of their source already.
fn causes(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line
}

/// What helps, where the message does not say it.
fn remedy(error: &anyhow::Error) -> Option<&'static str> {
    let remedy = error.chain().find_map(|cause| {
        if let Some(CaptureFailure::File { source, .. }) = cause.downcast_ref()
            && source.kind() == io::ErrorKind::AlreadyExists
        {
            return Some("name another file");
        }
        if let Some(BundleError { source, .. }) = cause.downcast_ref()
            && source.kind() == io::ErrorKind::AlreadyExists
        {
            return Some("name another file");
        }
        if let Some(StateError::Access { .. }) = cause.downcast_ref() {
            return Some("name a directory that this user may write with --state-dir DIR");
        }
        match cause.downcast_ref() {
            Some(EngineError::Listen { source, .. }) => return Some(listen_remedy(source)),
            Some(EngineError::Uring(_)) => {
                return Some("allow it, or set engine.port to \"auto\" or \"epoll\"");
            }
            Some(EngineError::Relay { .. }) => {
                return Some("name addresses of this machine with turn.relay_addresses");
            }
            Some(EngineError::RelayedPorts { .. }) => {
                return Some("widen turn.port_min to turn.port_max");
            }
            Some(EngineError::Start { .. } | EngineError::Turn(_) | EngineError::NoCores)
            | None => {}
        }
        if let Some(HandOverError::Nobody { .. }) = cause.downcast_ref() {
            return Some("without a program that runs, `waystation run` starts one");
        }
        match cause.downcast_ref() {
            Some(A2alSocketsError::Dht { .. }) => {
                return Some("choose another address with dht.listen");
            }
            Some(A2alSocketsError::Hub { .. }) => {
                return Some(
                    "choose another address with hub.listen, or do without a hub: hub.enabled = \
                    false",
                );
            }
            None => {}
        }
        match cause.downcast_ref() {
            Some(RuntimeError::Socket(BindError::InUse { .. })) => {
                Some("stop it, or choose another place with management.socket")
            }
            Some(RuntimeError::Socket(BindError::Refused { .. })) => {
                Some("choose a place that this user may write with management.socket")
            }
            Some(RuntimeError::Metrics { .. }) => {
                Some("choose another address with management.metrics_listen")
            }
            Some(
                RuntimeError::Socket(BindError::NotASocket { .. })
                | RuntimeError::Dht(DhtError::Key | DhtError::Socket(_))
                | RuntimeError::Start(_)
                | RuntimeError::TakeOver(_)
                | RuntimeError::CoreStopped { .. },
            )
            | None => None,
        }
    });
    // Of all files, only a configuration is read by its bare name.
    let no_file = error.downcast_ref::<io::Error>().map(io::Error::kind);
    remedy.or_else(|| {
        (no_file == Some(io::ErrorKind::NotFound))
            .then_some("waystation config default > FILE writes one")
    })
}

fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "stop the program that listens there, or choose another address with --listen or \
             listen.addresses"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one with --listen or \
             listen.addresses"
        }
        _ => "choose an address of this machine with --listen or listen.addresses",
    }
}

fn client_code(error: &ClientError) -> u8 {
    match error {
        error if error.is_permission() => NO_PERMISSION,
        error if error.is_unavailable() => UNAVAILABLE,
        _ => FAILURE,
    }
}

fn code(error: &anyhow::Error) -> u8 {
    let io_code = |error: &io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => NO_PERMISSION,
        _ => UNAVAILABLE,
    };
    for cause in error.chain() {
        if cause.is::<ConfigError>() {
            return CONFIGURATION;
        }
        if cause.is::<NeedsRoot>() {
            return NO_PERMISSION;
        }
        if let Some(error) = cause.downcast_ref::<StateError>() {
            return match error {
                StateError::KeyFile { .. } | StateError::DhtKey { .. } => CONFIGURATION,
                StateError::KeyExposed { .. } => NO_PERMISSION,
                StateError::Access { source, .. } => io_code(source),
                StateError::NoHome => UNAVAILABLE,
            };
        }
        match cause.downcast_ref::<PrivilegeError>() {
            Some(PrivilegeError::Unknown { .. }) => return CONFIGURATION,
            Some(PrivilegeError::LookUp { source, .. }) => return io_code(source),
            Some(PrivilegeError::NotRoot { .. } | PrivilegeError::Refused { .. }) => {
                return NO_PERMISSION;
            }
            Some(PrivilegeError::Files(_)) => return UNAVAILABLE,
            Some(PrivilegeError::NotAlone { .. } | PrivilegeError::Left { .. }) => return FAILURE,
            None => {}
        }
        if let Some(CatalogError::Profile { .. } | CatalogError::Extends { .. }) =
            cause.downcast_ref()
        {
            return CONFIGURATION;
        }
        if cause.is::<PacketError>() {
            return USAGE;
        }
        if let Some(BundleError { source, .. }) = cause.downcast_ref() {
            return io_code(source);
        }
        if let Some(CaptureFailure::File { source, .. }) = cause.downcast_ref() {
            return io_code(source);
        }
        if let Some(PlanError::NoSuchNic(_)) = cause.downcast_ref() {
            return UNAVAILABLE;
        }
        match cause.downcast_ref::<TopError>() {
            Some(TopError::Client(error)) => return client_code(error),
            Some(TopError::NoTerminal | TopError::Terminal(_)) => return UNAVAILABLE,
            Some(TopError::NotJson { .. } | TopError::Start(_)) | None => {}
        }
        if let Some(error) = cause.downcast_ref::<ClientError>() {
            return client_code(error);
        }
        match cause.downcast_ref::<EngineError>() {
            Some(
                EngineError::Listen { source, .. }
                | EngineError::Relay { source, .. }
                | EngineError::Start { source, .. },
            ) => return io_code(source),
            Some(EngineError::RelayedPorts { .. } | EngineError::Turn(_)) => return CONFIGURATION,
            Some(EngineError::Uring(_) | EngineError::NoCores) => return UNAVAILABLE,
            None => {}
        }
        if let Some(error) = cause.downcast_ref::<A2alSocketsError>() {
            return io_code(error.refusal());
        }
        match cause.downcast_ref::<HandOverError>() {
            Some(HandOverError::Nobody { source, .. }) => return io_code(source),
            Some(HandOverError::Stranger { .. }) => return NO_PERMISSION,
            Some(HandOverError::Start(_) | HandOverError::Failed(_)) => return UNAVAILABLE,
            None => {}
        }
        match cause.downcast_ref::<RuntimeError>() {
            Some(RuntimeError::Socket(BindError::Refused { error, .. })) => return io_code(error),
            Some(
                RuntimeError::Metrics { source, .. }
                | RuntimeError::Dht(DhtError::Socket(source))
                | RuntimeError::Start(source),
            ) => return io_code(source),
            Some(RuntimeError::Dht(DhtError::Key)) => return CONFIGURATION,
            Some(RuntimeError::Socket(_) | RuntimeError::TakeOver(_)) => return UNAVAILABLE,
            Some(RuntimeError::CoreStopped { .. }) => return FAILURE,
            None => {}
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return io_code(error);
        }
    }
    FAILURE
}

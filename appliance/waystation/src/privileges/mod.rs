//! What the program gives up, and when: first the user it was started as, then, once everything is
//! loaded and bound, capabilities, the means to get new ones, files that it has no business with,
//! and core dumps.
//!
//! Called on the main thread while it is the only one, because all of this belongs to threads and
//! is inherited by those that come after. Nothing here can be taken back, and nothing that comes
//! later may need it.

mod files;
mod person;

pub(crate) use files::{Places, landlock_missing};
pub(crate) use person::Person;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use std::fs;
use std::io;
use waystation_management::config::PrivilegesConfig;
use waystation_management::confinement::{Confinement, FileConfinement};

/// What is needed until everything is loaded and bound: ports below 1024, XDP programs and their
/// maps, rings. Taking capabilities away for good needs one itself.
const NEEDED_AT_START: CapabilitySet = CapabilitySet::NET_BIND_SERVICE
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::SETPCAP);
/// What the data cores keep until each has made its ring: from Linux 6.14 on the rings of all
/// processes of a user count against its limit on locked memory, unless their makers have this.
/// Each thread gives it up itself (`engine::cores::give_up_locked_memory`).
const NEEDED_FOR_RINGS: CapabilitySet = CapabilitySet::IPC_LOCK;
/// Where the kernel lists the threads of this process.
const THREADS: &str = "/proc/self/task";

/// Why something cannot be given up. All of it is the operator's or the machine's doing, but for
/// [`PrivilegeError::NotAlone`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    /// A name that no file of users has.
    #[error("privileges.{key} = \"{name}\" is not in {file}")]
    Unknown { key: &'static str, name: String, file: &'static str },
    /// A file of users that cannot be read.
    #[error("cannot look up privileges.{key} in {file}: {source}")]
    LookUp { key: &'static str, file: &'static str, source: io::Error },
    /// An ordinary user cannot become another.
    #[error(
        "privileges.user = \"{name}\" needs a start as root or as that user; take it out, or start \
         the program otherwise"
    )]
    NotRoot { name: String },
    /// The kernel refuses.
    #[error("cannot {step}: {source}")]
    Refused { step: &'static str, source: io::Error },
    /// The kernel refuses to restrict files, although it can.
    #[error("cannot restrict files (privileges.restrict_files): {0}")]
    Files(#[from] landlock::RulesetError),
    /// Something of the program has started a thread too early.
    #[error(
        "{threads} threads run before privileges were given up; this is a mistake in waystation"
    )]
    NotAlone { threads: usize },
    /// Something is left that should not be.
    #[error("capabilities are left: {left:?}")]
    Left { left: CapabilitySet },
}

/// Becomes another user, keeping what is needed until everything is bound.
///
/// # Errors
/// See [`PrivilegeError`].
pub(crate) fn become_person(person: &Person) -> Result<(), PrivilegeError> {
    if person.is_self() {
        return Ok(());
    }
    let had = capabilities(None).map_err(refused("read capabilities"))?;
    let kept = had.permitted & NEEDED_AT_START;
    person.take_over()?;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(refused("keep capabilities"))
}

/// Gives up all that is not needed any more, as far as the configuration wants it.
///
/// # Errors
/// See [`PrivilegeError`]. A kernel without landlock is none; the outcome says so.
pub(crate) fn confine(
    config: &PrivilegesConfig,
    places: &Places,
) -> Result<Confinement, PrivilegeError> {
    check_alone()?;
    if config.drop_capabilities {
        drop_capabilities()?;
        set_no_new_privs(true).map_err(refused("forbid new privileges"))?;
    }
    let files = match config.restrict_files {
        true => files::restrict(places)?,
        false => FileConfinement::Off,
    };
    // Last, because becoming another user sets it anew.
    if !config.core_dumps {
        forbid_core_dumps()?;
    }
    let has = capabilities(None).map_err(refused("read capabilities"))?;
    let no_new_privileges = rustix::thread::no_new_privs().map_err(refused("read its privileges"));
    Ok(Confinement {
        user: rustix::process::geteuid().as_raw(),
        capabilities: names(has.permitted - NEEDED_FOR_RINGS),
        no_new_privileges: no_new_privileges?,
        files,
        core_dumps: config.core_dumps,
    })
}

/// Keys of the configuration that keep what could be given up.
pub(crate) fn kept(config: &PrivilegesConfig) -> Vec<&'static str> {
    let keys = [
        ("privileges.drop_capabilities = false", !config.drop_capabilities),
        ("privileges.restrict_files = false", !config.restrict_files),
        ("privileges.core_dumps = true", config.core_dumps),
    ];
    keys.into_iter().filter(|(_, is_kept)| *is_kept).map(|(key, _)| key).collect()
}

fn refused(step: &'static str) -> impl Fn(rustix::io::Errno) -> PrivilegeError {
    move |errno| PrivilegeError::Refused { step, source: errno.into() }
}

/// A thread that is there already would keep everything.
fn check_alone() -> Result<(), PrivilegeError> {
    // A container without /proc cannot tell; it has to be believed.
    let Ok(threads) = fs::read_dir(THREADS) else { return Ok(()) };
    match threads.count() {
        0 | 1 => Ok(()),
        threads => Err(PrivilegeError::NotAlone { threads }),
    }
}

fn drop_capabilities() -> Result<(), PrivilegeError> {
    let had = capabilities(None).map_err(refused("read capabilities"))?;
    // The bounding set is what a program executed from here could get. Taking from it needs a
    // capability, and without that one nothing could be got anyway.
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter() {
            match remove_capability_from_bounding_set(capability) {
                // Beyond the last one that this kernel knows.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(errno) => return Err(refused("empty the bounding set")(errno)),
            }
        }
    }
    match clear_ambient_capability_set() {
        // Kernels before 4.3 have none.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(errno) => return Err(refused("clear ambient capabilities")(errno)),
    }
    let kept = had.permitted & NEEDED_FOR_RINGS;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(refused("drop capabilities"))?;
    let has = capabilities(None).map_err(refused("read capabilities"))?;
    let left = (has.effective | has.permitted | has.inheritable) - NEEDED_FOR_RINGS;
    if left.is_empty() { Ok(()) } else { Err(PrivilegeError::Left { left }) }
}

/// The key is in memory, and must not get to a disk with it.
fn forbid_core_dumps() -> Result<(), PrivilegeError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(refused("limit core dumps"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused("forbid core dumps"))
}

fn names(capabilities: CapabilitySet) -> Vec<String> {
    capabilities.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

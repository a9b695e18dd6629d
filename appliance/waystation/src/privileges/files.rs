//! Which files the program may still open, by landlock (Linux 5.13 and later).
//!
//! A rule is about a directory, not about a file: a file that is replaced, as editors and this
//! program do it, is another one for the kernel. What is open already stays open.

use super::PrivilegeError;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};
use std::path::{Path, PathBuf};
use waystation_management::confinement::FileConfinement;

/// The newest rights that are asked for (Linux 6.12); an older kernel enforces those it knows. Later
/// ones concern connections to sockets by path, of which there is one that may be anywhere: the
/// service manager's.
const NEWEST: ABI = ABI::V6;
/// The kernel's tables: addresses of this machine with each reload, and what this process takes.
const TABLES: &str = "/proc";
/// Where systemd puts what the unit loads as credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Directories that are needed while the program runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    read: Vec<PathBuf>,
    written: Vec<PathBuf>,
}

impl Places {
    /// What every configuration needs.
    pub(crate) fn new() -> Self {
        let mut places = Self { read: vec![PathBuf::from(TABLES)], written: Vec::new() };
        places.read.extend(std::env::var_os(CREDENTIALS).map(PathBuf::from));
        places
    }

    /// A file that is read again later, or the one that is in its place then.
    pub(crate) fn read_again(&mut self, file: &Path) {
        self.read.push(around(file));
        // A link leads to a file whose directory is another one.
        self.read.extend(file.canonicalize().ok().map(|file| around(&file)));
    }

    /// A directory in which files and sockets are made and removed.
    pub(crate) fn write_in(&mut self, directory: &Path) {
        self.written.push(directory.to_owned());
    }
}

/// The directory of a file, unless that is the root: everything is below it.
fn around(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) if parent.parent().is_some() => parent.to_owned(),
        _ => file.to_owned(),
    }
}

/// Why files cannot be restricted on this machine, if so. Restricts nothing.
pub(crate) fn landlock_missing() -> Option<String> {
    let oldest = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1));
    oldest.and_then(Ruleset::create).err().map(|error| error.to_string())
}

/// Restricts this thread, and those it will start, to the places.
///
/// # Errors
/// The kernel knows of landlock and refuses; it has none is not one.
pub(super) fn restrict(places: &Places) -> Result<FileConfinement, PrivilegeError> {
    let read: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let written = read
        | make_bitflags!(AccessFs::{
            WriteFile | Truncate | MakeReg | MakeSock | MakeDir | RemoveFile | RemoveDir
        });
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(&places.read, read))?
        .add_rules(path_beneath_rules(&places.written, written))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => FileConfinement::Full,
        RulesetStatus::PartiallyEnforced => FileConfinement::Partial,
        // Whatever a later version of the crate may say, it is not known to be enforced.
        _ => FileConfinement::Unavailable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_the_root_opens_no_other() {
        assert_eq!(around(Path::new("/waystation.toml")), Path::new("/waystation.toml"));
        assert_eq!(around(Path::new("/etc/waystation/a.toml")), Path::new("/etc/waystation"));
        assert_eq!(around(Path::new("a.toml")), Path::new("."));
    }
}

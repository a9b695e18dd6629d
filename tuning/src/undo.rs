//! The undo file: what everything was before it was tuned.
//!
//! Written before anything is changed, whole or not at all, and kept until `tune undo`. What has
//! been tuned several times is remembered as it was at first. A file of before the last start of
//! the machine says nothing any more: all of it went back by itself.
//!
//! Root does what the file says. So neither the file nor its directory may be in the hands of
//! another user, and nothing is accepted but what a plan could have set.

use crate::limits::UNDO_BYTES_MAX;
use crate::machine::{Machine, Target};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const SCHEMA: u32 = 1;
/// Others may look at it, and nobody else may change it.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o700;
/// Permissions that nobody but the owner may have.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const ROOT: u32 = 0;

/// One thing that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub target: Target,
    /// As it was read, to the byte.
    pub before: String,
    pub after: String,
}

/// What was changed since the machine started, in the order in which it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoFile {
    schema: u32,
    boot_id: String,
    pub entries: Vec<Entry>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// It cannot be read or written.
    #[error("cannot use the undo file {}: {source}", path.display())]
    Access { path: PathBuf, source: io::Error },
    /// It is not one.
    #[error("{} is no undo file: {source}", path.display())]
    Syntax { path: PathBuf, source: serde_json::Error },
    /// A later version has written it.
    #[error("{} was written by another version (schema {schema})", path.display())]
    Schema { path: PathBuf, schema: u32 },
    /// Another user could have written what root would carry out.
    #[error(
        "{} is {why}, who could have root set anything; chown it to root and chmod go-w",
        path.display()
    )]
    Untrusted { path: PathBuf, why: String },
    /// No plan sets this.
    #[error("{} names {target}, which no plan sets", path.display())]
    Foreign { path: PathBuf, target: String },
    /// It could not be read again.
    #[error("{} would have {bytes} bytes, and at most {UNDO_BYTES_MAX} are read", path.display())]
    TooLong { path: PathBuf, bytes: u64 },
}

impl UndoFile {
    /// Reads what is still true; an empty one if there is none, or the machine has started since.
    ///
    /// # Errors
    /// It cannot be read, is not one, or another user could have written it.
    pub fn read(path: &Path, machine: &Machine) -> Result<Self, UndoError> {
        let boot_id = machine.text("proc/sys/kernel/random/boot_id").unwrap_or_default();
        let access = |source| UndoError::Access { path: path.to_owned(), source };
        let directory = directory_of(path);
        match fs::metadata(directory) {
            // It is made when there is something to remember.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => expect_trusted(directory, &found.map_err(access)?)?,
        }
        let file = match open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { schema: SCHEMA, boot_id, entries: Vec::new() });
            }
            opened => opened.map_err(access)?,
        };
        // Of what was opened: the name may stand for something else by now.
        expect_trusted(path, &file.metadata().map_err(access)?)?;
        let mut text = String::new();
        file.take(UNDO_BYTES_MAX).read_to_string(&mut text).map_err(access)?;
        let read: Self = serde_json::from_str(&text)
            .map_err(|source| UndoError::Syntax { path: path.to_owned(), source })?;
        if read.schema != SCHEMA {
            return Err(UndoError::Schema { path: path.to_owned(), schema: read.schema });
        }
        if read.boot_id != boot_id {
            return Ok(Self { schema: SCHEMA, boot_id, entries: Vec::new() });
        }
        match read.entries.iter().find(|entry| !entry.target.is_settable()) {
            Some(Entry { target, .. }) => {
                Err(UndoError::Foreign { path: path.to_owned(), target: target.to_string() })
            }
            None => Ok(read),
        }
    }

    /// Remembers a change. What was remembered before stays.
    pub fn remember(&mut self, target: Target, before: String, after: String) {
        match self.entries.iter_mut().find(|entry| entry.target == target) {
            Some(entry) => entry.after = after,
            None => self.entries.push(Entry { target, before, after }),
        }
    }

    /// Tells what the kernel or the driver has made of a change.
    pub fn settle(&mut self, target: &Target, after: &str) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.target == *target) {
            after.clone_into(&mut entry.after);
        }
    }

    /// Writes it whole, under another name first; an empty one is removed.
    ///
    /// # Errors
    /// It cannot be written, or is so long that it could not be read again.
    pub fn write(&self, path: &Path) -> Result<(), UndoError> {
        let access = |source| UndoError::Access { path: path.to_owned(), source };
        if self.entries.is_empty() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed.map_err(access),
            };
        }
        let text = serde_json::to_string_pretty(self)
            .map_err(|source| UndoError::Syntax { path: path.to_owned(), source })?;
        let bytes = text.len() as u64;
        if bytes > UNDO_BYTES_MAX {
            return Err(UndoError::TooLong { path: path.to_owned(), bytes });
        }
        replace(path, &text).map_err(access)
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Opens it for reading. Neither follows a link nor waits for whoever writes into a pipe.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Whether only root and the caller can have written something.
fn expect_trusted(path: &Path, found: &Metadata) -> Result<(), UndoError> {
    let (owner, caller) = (found.uid(), rustix::process::geteuid().as_raw());
    let why = if owner != ROOT && owner != caller {
        format!("owned by user {owner}")
    } else if found.mode() & WRITABLE_BY_OTHERS != 0 {
        "writable by others".to_owned()
    } else {
        return Ok(());
    };
    Err(UndoError::Untrusted { path: path.to_owned(), why })
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let directory = directory_of(path);
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    // Made anew or not at all: a link that somebody leaves here meanwhile is not followed.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    // The name itself has to be on the disk, too, before anything is changed.
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use tempfile::TempDir;

    fn file(path: &str) -> UndoFile {
        let target = Target::File { path: path.to_owned() };
        let mut file = UndoFile { schema: SCHEMA, ..UndoFile::default() };
        file.remember(target, "0".to_owned(), "1".to_owned());
        file
    }

    fn written(path: &str) -> (TempDir, PathBuf, Machine) {
        let directory = TempDir::new().unwrap();
        let undo = directory.path().join("tuning.undo");
        file(path).write(&undo).unwrap();
        let machine = Machine::captured(directory.path());
        (directory, undo, machine)
    }

    #[test]
    fn what_another_user_could_have_written_is_refused() {
        let (directory, undo, machine) = written("proc/sys/net/core/rmem_max");
        assert_eq!(UndoFile::read(&undo, &machine).unwrap().entries.len(), 1);
        let refused =
            || matches!(UndoFile::read(&undo, &machine), Err(UndoError::Untrusted { .. }));
        for (path, mode) in [(undo.as_path(), 0o644), (directory.path(), 0o700)] {
            let set = |mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            for writable in [0o020, 0o002] {
                set(mode | writable);
                assert!(refused(), "{} with {writable:03o}", path.display());
            }
            set(mode);
            // Only root can give things away.
            if rustix::process::geteuid().is_root() {
                chown(path, Some(65_534), None).unwrap();
                assert!(refused(), "{} of another user", path.display());
                chown(path, Some(ROOT), None).unwrap();
            }
        }
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(&undo, &elsewhere).unwrap();
        symlink(&elsewhere, &undo).unwrap();
        assert!(matches!(UndoFile::read(&undo, &machine), Err(UndoError::Access { .. })));
    }

    #[test]
    fn only_what_a_plan_sets_is_accepted() {
        let refused = [
            "/proc/sys/net/core/rmem_max",
            "etc/passwd",
            "proc/sys/../../etc/passwd",
            "proc/sys//etc/passwd",
            "proc/sys/./x",
            "proc/sysrq-trigger",
            "proc/irq/12/smp_affinity",
            "proc/irq/x/smp_affinity_list",
            "proc/irq/1/2/smp_affinity_list",
            "sys/class/net",
            "sys/class/network/x",
            "sys/kernel/uevent_helper",
            "",
        ];
        for path in refused {
            let (_directory, undo, machine) = written(path);
            let read = UndoFile::read(&undo, &machine);
            assert!(matches!(read, Err(UndoError::Foreign { .. })), "{path}: {read:?}");
        }
        for path in ["proc/irq/12/smp_affinity_list", "sys/class/net/eth0/threaded"] {
            let (_directory, undo, machine) = written(path);
            assert_eq!(UndoFile::read(&undo, &machine).unwrap().entries.len(), 1, "{path}");
        }
    }

    #[test]
    fn a_link_under_the_fresh_name_is_not_followed() {
        let directory = TempDir::new().unwrap();
        let (undo, victim) =
            (directory.path().join("tuning.undo"), directory.path().join("victim"));
        fs::write(&victim, "untouched").unwrap();
        symlink(&victim, directory.path().join("tuning.undo.new")).unwrap();
        file("proc/sys/net/core/rmem_max").write(&undo).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert!(!undo.is_symlink() && undo.exists());
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let directory = TempDir::new().unwrap();
        let undo = directory.path().join("tuning.undo");
        let mut long = file("proc/sys/net/core/rmem_max");
        long.entries[0].before = "0".repeat(UNDO_BYTES_MAX as usize);
        assert!(matches!(long.write(&undo), Err(UndoError::TooLong { .. })));
        assert!(!undo.exists());
    }
}

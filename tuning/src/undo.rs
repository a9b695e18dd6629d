//! The undo file: what everything was before it was tuned.
//!
//! Written before anything is changed, whole or not at all, and kept until `tune undo`. What has
//! been tuned several times is remembered as it was at first. A file of before the last start of
//! the machine says nothing any more: all of it went back by itself.

use crate::limits::UNDO_BYTES_MAX;
use crate::machine::{Machine, Target};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const SCHEMA: u32 = 1;
/// Others may look at it, and nobody else may change it.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o700;

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
}

impl UndoFile {
    /// Reads what is still true; an empty one if there is none, or the machine has started since.
    ///
    /// # Errors
    /// It cannot be read, or is not one.
    pub fn read(path: &Path, machine: &Machine) -> Result<Self, UndoError> {
        let boot_id = machine.text("proc/sys/kernel/random/boot_id").unwrap_or_default();
        let access = |source| UndoError::Access { path: path.to_owned(), source };
        let mut text = String::new();
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { schema: SCHEMA, boot_id, entries: Vec::new() });
            }
            file => file
                .and_then(|file| file.take(UNDO_BYTES_MAX).read_to_string(&mut text))
                .map_err(access)?,
        };
        let read: Self = serde_json::from_str(&text)
            .map_err(|source| UndoError::Syntax { path: path.to_owned(), source })?;
        if read.schema != SCHEMA {
            return Err(UndoError::Schema { path: path.to_owned(), schema: read.schema });
        }
        if read.boot_id != boot_id {
            return Ok(Self { schema: SCHEMA, boot_id, entries: Vec::new() });
        }
        Ok(read)
    }

    /// Remembers a change. What was remembered before stays.
    pub fn remember(&mut self, target: Target, before: String, after: String) {
        match self.entries.iter_mut().find(|entry| entry.target == target) {
            Some(entry) => entry.after = after,
            None => self.entries.push(Entry { target, before, after }),
        }
    }

    /// Writes it whole, under another name first; an empty one is removed.
    ///
    /// # Errors
    /// It cannot be written.
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
        self.replace(path, &text).map_err(access)
    }

    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        // The name itself has to be on the disk, too, before anything is changed.
        File::open(directory)?.sync_all()
    }
}

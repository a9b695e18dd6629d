//! What outlives the process: links that keep the program on its interfaces, and the sessions.
//!
//! A link without a pin ends with the process, and its program with it. A pinned one stays, its
//! program relays on with the sessions it has, and the next process takes over both.

use crate::abi;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where BPF objects are pinned on most machines.
pub const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// Why nothing can be kept.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// Operator or host: the directory is no place for BPF objects.
    #[error(
        "{path} is not in a BPF file system; mount one with: mount -t bpf bpf {BPF_FILE_SYSTEM}"
    )]
    NotBpf {
        /// The directory.
        path: PathBuf,
    },
    /// Host: a directory or pin could not be made, read or removed.
    #[error("{path}: {error}")]
    Io {
        /// What was used.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
}

/// A directory of pins. One for each layout of the maps: what another version kept is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Maps that outlive the process. A socket can be in one map of sockets only, so the process that
    /// takes one over has to use the same.
    pub const KEPT_MAPS: [&str; 4] = ["SESSIONS", "COUNTERS", "SOCKETS", "SOCKET_PLACES"];

    /// Uses `base`, in a BPF file system, and makes it if it is not there.
    ///
    /// # Errors
    /// When it is not in a BPF file system, or cannot be made.
    pub fn open(base: &Path) -> Result<Self, PinsError> {
        let parent = base.parent().unwrap_or(base);
        if !is_bpf(parent) {
            return Err(PinsError::NotBpf { path: base.to_owned() });
        }
        let directory = base.join(format!("layout-{}", abi::LAYOUT_VERSION));
        fs::create_dir_all(&directory).map_err(|error| failed(&directory, error))?;
        Ok(Self { directory })
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where an interface's link is pinned.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.directory.join(format!("link-{interface}"))
    }

    /// Interfaces whose links are pinned.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn interfaces(&self) -> Result<Vec<String>, PinsError> {
        let mut interfaces = Vec::new();
        for entry in
            fs::read_dir(&self.directory).map_err(|error| failed(&self.directory, error))?
        {
            let name = entry.map_err(|error| failed(&self.directory, error))?.file_name();
            if let Some(interface) = name.to_str().and_then(|name| name.strip_prefix("link-")) {
                interfaces.push(interface.to_owned());
            }
        }
        Ok(interfaces)
    }

    /// Removes every pin of this layout, and the directories if nothing else is there. Links that
    /// no process holds end with that.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove(self) -> Result<(), PinsError> {
        let entries =
            fs::read_dir(&self.directory).map_err(|error| failed(&self.directory, error))?;
        for entry in entries {
            let path = entry.map_err(|error| failed(&self.directory, error))?.path();
            fs::remove_file(&path).map_err(|error| failed(&path, error))?;
        }
        fs::remove_dir(&self.directory).map_err(|error| failed(&self.directory, error))?;
        if let Some(base) = self.directory.parent() {
            // Another layout's pins may be there; they are not ours to remove.
            let _ = fs::remove_dir(base);
        }
        Ok(())
    }
}

fn failed(path: &Path, error: io::Error) -> PinsError {
    PinsError::Io { path: path.to_owned(), error }
}

/// Whether a directory is in a BPF file system, by the mounts of the calling process.
fn is_bpf(directory: &Path) -> bool {
    let Ok(directory) = directory.canonicalize() else {
        return false;
    };
    let Ok(mounts) = fs::read_to_string("/proc/thread-self/mounts") else {
        return false;
    };
    let kind = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        directory.starts_with(place).then_some((place.len(), kind))
    });
    kind.max_by_key(|(length, _)| *length).is_some_and(|(_, kind)| kind == "bpf")
}

//! What outlives the process: links that keep the program on its interfaces, and the sessions.
//!
//! A link without a pin ends with the process, and its program with it. A pinned one stays, its
//! program relays on with the sessions it has, and the next process takes over both.

use crate::abi;
use aya::programs::links::PinnedLink;
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

/// A directory of pins, named by the layout of the maps. What a version with another layout kept
/// cannot be gone on with, and would keep this one's program off the interfaces: it is let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    directory: PathBuf,
    let_go: Vec<PathBuf>,
}

/// How the directory of a layout is called, with its number behind.
const LAYOUT: &str = "layout-";

impl Pins {
    /// Maps that outlive the process. A socket can be in one map of sockets only, so the process that
    /// takes one over has to use the same.
    pub const KEPT_MAPS: [&str; 6] = [
        "SESSION_INDEX",
        "SESSION_RECORDS",
        "SESSION_SEEDS",
        "COUNTERS",
        "SOCKETS",
        "SOCKET_PLACES",
    ];

    /// Uses `base`, in a BPF file system, and makes it if it is not there. Pins of other layouts in
    /// it are removed: a program that only they keep is off its interfaces with that, and sessions
    /// it had begin anew.
    ///
    /// # Errors
    /// When it is not in a BPF file system, or cannot be made, or a pin of another layout cannot be
    /// removed.
    pub fn open(base: &Path) -> Result<Self, PinsError> {
        let parent = base.parent().unwrap_or(base);
        if !is_bpf(parent) {
            return Err(PinsError::NotBpf { path: base.to_owned() });
        }
        let directory = base.join(format!("{LAYOUT}{}", abi::LAYOUT_VERSION));
        fs::create_dir_all(&directory).map_err(|error| failed(&directory, error))?;
        let mut let_go = Vec::new();
        for entry in fs::read_dir(base).map_err(|error| failed(base, error))? {
            let entry = entry.map_err(|error| failed(base, error))?;
            let is_layout = entry.file_name().to_str().is_some_and(|name| name.starts_with(LAYOUT));
            if is_layout && entry.path() != directory {
                remove_pins(&entry.path())?;
                let_go.push(entry.path());
            }
        }
        Ok(Self { directory, let_go })
    }

    /// Directories of other layouts whose pins were removed.
    pub fn let_go(&self) -> &[PathBuf] {
        &self.let_go
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

    /// Removes every pin, and the directories if nothing else is there. Links that no process holds
    /// end with that.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove(self) -> Result<(), PinsError> {
        remove_pins(&self.directory)?;
        if let Some(base) = self.directory.parent() {
            // Something of somebody else's may be there; it is not ours to remove.
            let _ = fs::remove_dir(base);
        }
        Ok(())
    }
}

/// Removes a directory and the pins in it, unless another version already has.
fn remove_pins(directory: &Path) -> Result<(), PinsError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| failed(directory, error))?,
    };
    for entry in entries {
        let path = entry.map_err(|error| failed(directory, error))?.path();
        // A link that ends with its pin ends some time later; one that ends with a descriptor is
        // gone when that is closed.
        let link = PinnedLink::from_pin(&path);
        fs::remove_file(&path).map_err(|error| failed(&path, error))?;
        drop(link);
    }
    fs::remove_dir(directory).map_err(|error| failed(directory, error))
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

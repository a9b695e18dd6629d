//! The machine as this room sees it: files below a root, and NICs by netlink.
//!
//! Everything that is read or changed goes through [`Machine`], on the thread of the command. The
//! root is `/`, or a directory with the tree of another machine, whose NICs are files too; plans
//! can so be made, carried out and undone for machines that are not at hand.

mod captured;

pub use captured::CapturedNics;

use crate::limits::{MACHINE_FILE_BYTES_MAX, MACHINE_NAMES_MAX};
use crate::netlink::KernelNics;
use crate::profile::CoalesceField;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Something that can be read and set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// An offload, `on` or `off`.
    Feature { nic: String, feature: String },
    /// Combined channels.
    Channels { nic: String },
    /// Descriptors of each ring of a direction.
    Ring { nic: String, direction: Direction },
    /// A parameter of interrupt moderation.
    Coalesce { nic: String, field: CoalesceField },
    /// A file below the root, by its path from there, without a slash in front.
    File { path: String },
}

impl Target {
    /// Whether it is something that a plan could set: one file of few places, never by way of `..`,
    /// or a NIC by a name that NICs can have.
    pub fn is_settable(&self) -> bool {
        match self {
            Self::Feature { nic, .. }
            | Self::Channels { nic }
            | Self::Ring { nic, .. }
            | Self::Coalesce { nic, .. } => is_part(nic),
            Self::File { path } => {
                let parts: Vec<&str> = path.split('/').collect();
                let is_place = match parts.as_slice() {
                    ["proc", "irq", number, "smp_affinity_list"] => {
                        number.bytes().all(|digit| digit.is_ascii_digit())
                    }
                    ["proc", "sys", _, ..] | ["sys", "class", "net", _, _, ..] => true,
                    ["sys", "devices", _, ..] => true,
                    _ => false,
                };
                is_place && parts.into_iter().all(is_part)
            }
        }
    }
}

/// Whether a name stands for an entry of the directory that it is looked for in.
fn is_part(name: impl AsRef<str>) -> bool {
    let name = name.as_ref();
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Rx,
    Tx,
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feature { nic, feature } => write!(out, "{nic} {feature}"),
            Self::Channels { nic } => write!(out, "{nic} combined channels"),
            Self::Ring { nic, direction: Direction::Rx } => write!(out, "{nic} ring rx"),
            Self::Ring { nic, direction: Direction::Tx } => write!(out, "{nic} ring tx"),
            Self::Coalesce { nic, field } => write!(out, "{nic} coalesce {}", field.name()),
            Self::File { path } => match path.strip_prefix("proc/sys/") {
                Some(sysctl) => write!(out, "sysctl {}", sysctl.replace('/', ".")),
                None => write!(out, "/{path}"),
            },
        }
    }
}

/// What a NIC says of itself and how it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicSettings {
    /// The kind of a virtual interface, as `ip -d link` names it.
    pub kind: Option<String>,
    pub firmware: Option<String>,
    pub rings: Option<Rings>,
    pub channels: Option<Channels>,
    /// What the NIC hashes addresses and ports with to choose a queue, in hex digits; absent: it
    /// does not say (Linux 6.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_key: Option<String>,
    #[serde(default)]
    pub coalesce: BTreeMap<CoalesceField, u64>,
    #[serde(default)]
    pub features: BTreeMap<String, Feature>,
}

/// Descriptors of each ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rings {
    pub rx: u64,
    pub rx_max: u64,
    pub tx: u64,
    pub tx_max: u64,
}

/// Channels for both directions at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channels {
    pub combined: u64,
    pub combined_max: u64,
}

/// An offload, as `ethtool -k` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Feature {
    #[serde(rename = "on")]
    On,
    #[serde(rename = "off")]
    Off,
    #[serde(rename = "on [fixed]")]
    OnFixed,
    #[serde(rename = "off [fixed]")]
    OffFixed,
}

impl Feature {
    /// From whether it is on and whether that can be changed.
    pub fn new(is_on: bool, is_changeable: bool) -> Self {
        match (is_on, is_changeable) {
            (true, true) => Self::On,
            (false, true) => Self::Off,
            (true, false) => Self::OnFixed,
            (false, false) => Self::OffFixed,
        }
    }

    /// Whether it is on.
    pub fn is_on(self) -> bool {
        matches!(self, Self::On | Self::OnFixed)
    }

    /// Whether it can be changed.
    pub fn is_changeable(self) -> bool {
        matches!(self, Self::On | Self::Off)
    }
}

/// Reads and sets NICs, and finds the way packets leave. The kernel does; so do files in tests.
pub trait NicControl: fmt::Debug {
    /// What a NIC says of itself. What it does not have is absent.
    ///
    /// # Errors
    /// There is no such NIC, or the kernel does not answer.
    fn settings(&self, nic: &str) -> io::Result<NicSettings>;

    /// Sets one thing; `target` is none of the files.
    ///
    /// # Errors
    /// The driver does not support it, or refuses the value.
    fn set(&self, target: &Target, value: &str) -> io::Result<()>;

    /// Addresses of this machine with the interface of each.
    ///
    /// # Errors
    /// The kernel does not answer.
    fn addresses(&self) -> io::Result<Vec<(String, IpAddr)>>;

    /// The interface by which packets to an address leave.
    ///
    /// # Errors
    /// There is none.
    fn route(&self, to: IpAddr) -> io::Result<String>;
}

/// Why something cannot be read or set.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// It cannot be read.
    #[error("cannot read {target}: {source}")]
    Read { target: String, source: io::Error },
    /// It cannot be set.
    #[error("cannot set {target} to {value}: {source}")]
    Write { target: String, value: String, source: io::Error },
}

/// A machine: this one, or the tree of another.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    nics: Box<dyn NicControl>,
}

impl Machine {
    /// This machine, in the network namespace of the calling thread.
    pub fn this() -> Self {
        Self { root: PathBuf::from("/"), nics: Box::new(KernelNics) }
    }

    /// The tree of another machine.
    pub fn captured(root: &Path) -> Self {
        Self { root: root.to_owned(), nics: Box::new(CapturedNics::new(root)) }
    }

    /// Its NICs.
    pub fn nics(&self) -> &dyn NicControl {
        &*self.nics
    }

    /// A path from the root, as the operating system takes it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A file's text without the line feed at its end. Absent: it cannot be read.
    pub fn text(&self, path: &str) -> Option<String> {
        self.raw_text(path).ok().map(|text| text.trim_end().to_owned())
    }

    /// A file's text as it is.
    ///
    /// # Errors
    /// It is not there, not readable, too long, or no text.
    pub fn raw_text(&self, path: &str) -> io::Result<String> {
        let mut text = String::new();
        let file = File::open(self.path(path))?;
        file.take(MACHINE_FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    }

    /// A file that holds one number.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.trim().parse().ok()
    }

    /// A file that holds a list of CPUs, like `0-3,8`.
    pub fn list(&self, path: &str) -> Option<Vec<usize>> {
        self.text(path).map(|text| crate::cpu_list::parse(&text))
    }

    /// The names in a directory, sorted; none if it is not there.
    pub fn names(&self, path: &str) -> Vec<String> {
        let Ok(listing) = fs::read_dir(self.path(path)) else { return Vec::new() };
        let names = listing.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.take(MACHINE_NAMES_MAX).collect();
        names.sort();
        names
    }

    /// The last part of what a symbolic link points at.
    pub fn link_name(&self, path: &str) -> Option<String> {
        fs::read_link(self.path(path)).ok()?.file_name()?.to_str().map(str::to_owned)
    }

    /// Whether something is there.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// What something is set to; `None` if this machine does not have it.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(&self, target: &Target) -> Result<Option<String>, MachineError> {
        let error = |source| MachineError::Read { target: target.to_string(), source };
        let settings = |nic: &String| self.nics.settings(nic).map_err(error);
        Ok(match target {
            Target::File { path } => match self.raw_text(path) {
                Ok(text) => Some(text),
                Err(error) if is_absence(&error) => None,
                Err(source) => return Err(error(source)),
            },
            Target::Feature { nic, feature } => settings(nic)?
                .features
                .get(feature)
                .map(|feature| if feature.is_on() { "on" } else { "off" }.to_owned()),
            Target::Channels { nic } => {
                settings(nic)?.channels.map(|channels| channels.combined.to_string())
            }
            Target::Ring { nic, direction } => settings(nic)?.rings.map(|rings| match direction {
                Direction::Rx => rings.rx.to_string(),
                Direction::Tx => rings.tx.to_string(),
            }),
            Target::Coalesce { nic, field } => {
                settings(nic)?.coalesce.get(field).map(u64::to_string)
            }
        })
    }

    /// Sets something.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn write(&self, target: &Target, value: &str) -> Result<(), MachineError> {
        let written = match target {
            Target::File { path } => self.write_file(path, value),
            Target::Feature { .. }
            | Target::Channels { .. }
            | Target::Ring { .. }
            | Target::Coalesce { .. } => self.nics.set(target, value),
        };
        let (target, value) = (target.to_string(), value.trim_end().to_owned());
        written.map_err(|source| MachineError::Write { target, value, source })
    }

    /// One write, as files of the kernel want it; they are never made anew.
    fn write_file(&self, path: &str, value: &str) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(self.path(path))?
            .write_all(value.as_bytes())
    }
}

/// Whether an error says that a machine does not have something: attributes of queues and NAPI
/// answer so where the driver does not know them.
fn is_absence(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::NotFound
        || kind == io::ErrorKind::Unsupported
        || kind == io::ErrorKind::InvalidInput
}

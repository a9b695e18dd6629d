//! All profiles there are: those built in, and an operator's own, which come first.
//!
//! Read once by a command at a terminal, or as the program starts. Finds the profile of a NIC, and
//! says why it is that one.

use crate::limits::{EXTENDS_DEPTH_MAX, OWN_PROFILES_MAX, PROFILE_BYTES_MAX};
use crate::profile::{Profile, ProfileError, Selector, is_version_at_least};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where an operator's own profiles are looked for.
pub const OWN_PROFILES: &str = "/etc/waystation/hw-profiles.d";

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../hw-profiles/", $name, ".toml")))),*]
    };
}

/// The files of `hw-profiles`, by name. A test holds that none is missing here.
pub const BUILT_IN: &[(&str, &str)] = built_in![
    "bnxt_en",
    "ena",
    "generic",
    "gve",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mlx5_core",
    "r8169",
    "veth",
    "virtio_net",
];

/// Why the profiles cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A directory or file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file is longer than any profile.
    #[error("{} is longer than {PROFILE_BYTES_MAX} bytes", path.display())]
    TooLong { path: PathBuf },
    /// There are too many files.
    #[error("{} holds more than {OWN_PROFILES_MAX} profiles", path.display())]
    TooMany { path: PathBuf },
    /// A file is wrong.
    #[error("{origin}: {source}")]
    Profile { origin: String, source: ProfileError },
    /// `extends` leads nowhere, or round and round.
    #[error("{origin}: extends = {extends:?} names no profile, or leads round in a circle")]
    Extends { origin: String, extends: String },
}

/// A profile and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub profile: Profile,
    /// A path, or `built in`.
    pub origin: String,
    is_own: bool,
}

/// All profiles.
#[derive(Clone, Debug)]
pub struct Catalog {
    entries: Vec<Entry>,
}

/// What is known of a NIC when its profile is looked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    pub driver: Option<&'a str>,
    pub pci_id: Option<&'a str>,
    pub firmware: Option<&'a str>,
}

/// The profile of a NIC.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    pub entry: &'a Entry,
    /// What spoke for it.
    pub reason: Reason,
}

/// Why a profile is a NIC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No other profile is for it.
    NothingElse,
    /// The driver's name.
    Driver,
    /// The driver's name, and firmware that could not be found out.
    DriverUnknownFirmware,
    /// The PCI id.
    PciId,
}

impl Reason {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Self::NothingElse => "no profile knows this driver",
            Self::Driver => "by its driver",
            Self::DriverUnknownFirmware => "by its driver; its firmware is unknown",
            Self::PciId => "by its driver and PCI id",
        }
    }
}

impl Catalog {
    /// The built-in profiles, and those in a directory, which need not be there.
    ///
    /// # Errors
    /// The first file that cannot be read or is wrong.
    pub fn read(own: Option<&Path>) -> Result<Self, CatalogError> {
        let mut entries = Vec::new();
        for (name, text) in BUILT_IN {
            let origin = format!("hw-profiles/{name}.toml");
            let profile =
                Profile::parse(text).map_err(|source| CatalogError::Profile { origin, source })?;
            entries.push(Entry { profile, origin: "built in".to_owned(), is_own: false });
        }
        for path in own.map(own_files).transpose()?.unwrap_or_default() {
            let origin = path.display().to_string();
            let profile = Profile::parse(&read_file(&path)?)
                .map_err(|source| CatalogError::Profile { origin: origin.clone(), source })?;
            entries.push(Entry { profile, origin, is_own: true });
        }
        let entries =
            entries.iter().map(|entry| resolved(entry, &entries)).collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// All of them, those built in first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The profile of a NIC: own before built in, the more exact before the less.
    ///
    /// # Panics
    /// Never: the generic profile is built in, and a test holds that it is for any NIC.
    pub fn find(&self, subject: Subject<'_>) -> Match<'_> {
        let fitting = self.entries.iter().filter_map(|entry| {
            fits(entry.profile.selector.as_ref(), subject).map(|reason| Match { entry, reason })
        });
        // An own profile that is for any NIC yields to a built-in one that knows the driver.
        let rank = |found: &Match<'_>| {
            let knows = found.reason != Reason::NothingElse;
            (knows, found.entry.is_own, found.reason)
        };
        fitting.max_by_key(rank).expect("the generic profile is for any NIC")
    }
}

fn fits(selector: Option<&Selector>, subject: Subject<'_>) -> Option<Reason> {
    let Some(selector) = selector else { return Some(Reason::NothingElse) };
    let driver = subject.driver?;
    if !selector.drivers.iter().any(|name| name == driver) {
        return None;
    }
    let by_id = !selector.pci_ids.is_empty();
    if by_id && !selector.pci_ids.iter().any(|id| Some(id.as_str()) == subject.pci_id) {
        return None;
    }
    let (least, most) = (selector.firmware_min.as_deref(), selector.firmware_max.as_deref());
    match subject.firmware {
        None if least.is_some() || most.is_some() => return Some(Reason::DriverUnknownFirmware),
        Some(version) if least.is_some_and(|least| !is_version_at_least(version, least)) => {
            return None;
        }
        Some(version) if most.is_some_and(|most| !is_version_at_least(most, version)) => {
            return None;
        }
        None | Some(_) => {}
    }
    Some(if by_id { Reason::PciId } else { Reason::Driver })
}

/// The entry with what it takes over from those it extends.
fn resolved(entry: &Entry, all: &[Entry]) -> Result<Entry, CatalogError> {
    let mut resolved = entry.clone();
    let mut extends = entry.profile.extends.clone();
    for _ in 0..EXTENDS_DEPTH_MAX {
        let Some(name) = extends.take() else { return Ok(resolved) };
        let is_base = |base: &&Entry| base.profile.name == name && base.origin != entry.origin;
        let Some(base) = all.iter().find(is_base) else {
            return Err(CatalogError::Extends { origin: entry.origin.clone(), extends: name });
        };
        for (key, setting) in &base.profile.settings {
            resolved.profile.settings.entry(key.clone()).or_insert_with(|| setting.clone());
        }
        resolved.profile.notes.extend(base.profile.notes.iter().cloned());
        if resolved.profile.selector.is_none() {
            resolved.profile.selector.clone_from(&base.profile.selector);
        }
        extends.clone_from(&base.profile.extends);
    }
    match extends {
        None => Ok(resolved),
        Some(extends) => Err(CatalogError::Extends { origin: entry.origin.clone(), extends }),
    }
}

/// The profiles in a directory, in the order of their names.
fn own_files(directory: &Path) -> Result<Vec<PathBuf>, CatalogError> {
    let error = |source| CatalogError::Read { path: directory.to_owned(), source };
    let listing = match std::fs::read_dir(directory) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(error)?,
    };
    let mut files = Vec::new();
    for entry in listing {
        let path = entry.map_err(error)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
        if files.len() > OWN_PROFILES_MAX {
            return Err(CatalogError::TooMany { path: directory.to_owned() });
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<String, CatalogError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(PROFILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|source| CatalogError::Read { path: path.to_owned(), source })?;
    if text.len() as u64 > PROFILE_BYTES_MAX {
        return Err(CatalogError::TooLong { path: path.to_owned() });
    }
    Ok(text)
}

//! NICs of a machine that is not at hand: one file for each, `nics/NAME.toml`, and `nics.toml` with
//! addresses and routes.
//!
//! Used by tests, and to plan for another machine. What is set is written back to the files, so
//! that a plan can be carried out and undone on them.

use super::{Direction, Feature, NicControl, NicSettings, Target};
use serde::Deserialize;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug)]
pub struct CapturedNics {
    root: PathBuf,
}

/// `nics.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    #[serde(default)]
    addresses: Vec<Address>,
    /// Where packets to other addresses leave.
    default_route: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    interface: String,
    address: IpAddr,
}

impl CapturedNics {
    /// Those below a root.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn file(&self, nic: &str) -> PathBuf {
        self.root.join("nics").join(format!("{nic}.toml"))
    }

    fn network(&self) -> io::Result<Network> {
        match fs::read_to_string(self.root.join("nics.toml")) {
            Ok(text) => toml::from_str(&text).map_err(invalid),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Network::default()),
            Err(error) => Err(error),
        }
    }
}

impl NicControl for CapturedNics {
    fn settings(&self, nic: &str) -> io::Result<NicSettings> {
        match fs::read_to_string(self.file(nic)) {
            Ok(text) => toml::from_str(&text).map_err(invalid),
            // An interface of which only the tree was captured.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(NicSettings::default()),
            Err(error) => Err(error),
        }
    }

    fn set(&self, target: &Target, value: &str) -> io::Result<()> {
        let (Target::Feature { nic, .. }
        | Target::Channels { nic }
        | Target::Ring { nic, .. }
        | Target::Coalesce { nic, .. }) = target
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut settings = self.settings(nic)?;
        change(&mut settings, target, value).ok_or(io::ErrorKind::Unsupported)?;
        fs::write(self.file(nic), toml::to_string(&settings).map_err(io::Error::other)?)
    }

    fn addresses(&self) -> io::Result<Vec<(String, IpAddr)>> {
        let addresses = self.network()?.addresses;
        Ok(addresses.into_iter().map(|each| (each.interface, each.address)).collect())
    }

    fn route(&self, _to: IpAddr) -> io::Result<String> {
        self.network()?.default_route.ok_or_else(|| io::ErrorKind::NetworkUnreachable.into())
    }
}

/// What the driver would do; `None` if it does not support it, or refuses the value.
fn change(settings: &mut NicSettings, target: &Target, value: &str) -> Option<()> {
    let number = value.parse::<u64>().ok();
    match target {
        Target::Feature { feature, .. } => {
            let feature = settings.features.get_mut(feature).filter(|it| it.is_changeable())?;
            *feature = Feature::new(value == "on", true);
        }
        Target::Channels { .. } => {
            let channels = settings.channels.as_mut()?;
            channels.combined = number.filter(|&count| count <= channels.combined_max)?;
        }
        Target::Ring { direction: Direction::Rx, .. } => {
            let rings = settings.rings.as_mut()?;
            rings.rx = number.filter(|&count| count <= rings.rx_max)?;
        }
        Target::Ring { direction: Direction::Tx, .. } => {
            let rings = settings.rings.as_mut()?;
            rings.tx = number.filter(|&count| count <= rings.tx_max)?;
        }
        Target::Coalesce { field, .. } => *settings.coalesce.get_mut(field)? = number?,
        Target::File { .. } => return None,
    }
    Some(())
}

fn invalid(error: toml::de::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

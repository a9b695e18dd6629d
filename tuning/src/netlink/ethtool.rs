//! Rings, channels, interrupt moderation and offloads, read and set as `ethtool` does; firmware, as
//! `devlink` tells it.
//!
//! Numbers of commands and attributes: `linux/ethtool_netlink.h` and `linux/devlink.h`.

use super::message::{Attributes, attribute, attributes, text};
use super::socket::{ask_family, number_of};
use crate::machine::{Channels, Direction, Feature, NicSettings, Rings, Target};
use crate::profile::{CoalesceField, FEATURES};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

const FAMILY: &str = "ethtool";

const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const RINGS_GET: u8 = 15;
const RINGS_SET: u8 = 16;
const CHANNELS_GET: u8 = 17;
const CHANNELS_SET: u8 = 18;
const COALESCE_GET: u8 = 19;
const COALESCE_SET: u8 = 20;
const RSS_GET: u8 = 38;

/// Every request and answer holds a header, and in it the NIC's name.
const HEADER: u16 = 1;
const HEADER_NAME: u16 = 2;

const RINGS_RX_MAX: u16 = 2;
const RINGS_TX_MAX: u16 = 5;
const RINGS_RX: u16 = 6;
const RINGS_TX: u16 = 9;

const CHANNELS_COMBINED_MAX: u16 = 5;
const CHANNELS_COMBINED: u16 = 9;

const FEATURES_CHANGEABLE: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
/// Changeable ones that cannot be changed just now.
const FEATURES_KEPT: u16 = 5;

const RSS_KEY: u16 = 5;

const BITSET_NO_MASK: u16 = 1;
const BITSET_BITS: u16 = 3;
const BITSET_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// Everything a NIC has, of what is used here.
pub(super) fn settings(nic: &str) -> io::Result<NicSettings> {
    let rings = get(nic, RINGS_GET)?;
    let channels = get(nic, CHANNELS_GET)?;
    let coalesce = get(nic, COALESCE_GET)?;
    let features = get(nic, FEATURES_GET)?;
    // Older kernels do not know the command.
    let rss = get(nic, RSS_GET).ok().flatten();
    Ok(NicSettings {
        kind: None,
        firmware: None,
        rings: rings.as_deref().and_then(read_rings),
        channels: channels.as_deref().and_then(read_channels),
        rss_key: rss.as_deref().and_then(read_rss_key),
        coalesce: coalesce.as_deref().map(read_coalesce).unwrap_or_default(),
        features: features.as_deref().map(read_features).unwrap_or_default(),
    })
}

/// Sets one of them.
pub(super) fn set(target: &Target, value: &str) -> io::Result<()> {
    let number = || value.parse::<u32>().map_err(|_wrong| io::ErrorKind::InvalidInput);
    let (nic, command, attributes) = match target {
        Target::Ring { nic, direction } => {
            let kind = match direction {
                Direction::Rx => RINGS_RX,
                Direction::Tx => RINGS_TX,
            };
            (nic, RINGS_SET, header(nic).number(kind, number()?))
        }
        Target::Channels { nic } => {
            (nic, CHANNELS_SET, header(nic).number(CHANNELS_COMBINED, number()?))
        }
        Target::Coalesce { nic, field } if field.is_switch() => {
            let switch = u8::from(number()? != 0);
            (nic, COALESCE_SET, header(nic).bytes(coalesce_kind(*field), &[switch]))
        }
        Target::Coalesce { nic, field } => {
            (nic, COALESCE_SET, header(nic).number(coalesce_kind(*field), number()?))
        }
        Target::Feature { nic, feature } => {
            let bit = Attributes::default().text(BIT_NAME, feature);
            let bit = if value == "on" { bit.bytes(BIT_VALUE, &[]) } else { bit };
            let bits = Attributes::default().nested(BITSET_BIT, bit);
            let bitset = Attributes::default().nested(BITSET_BITS, bits);
            (nic, FEATURES_SET, header(nic).nested(FEATURES_WANTED, bitset))
        }
        Target::File { .. } => return Err(io::ErrorKind::InvalidInput.into()),
    };
    ask_family(FAMILY, command, attributes)?;
    // What the stack has no use for or the driver forbids is left as it is, without an error.
    match target {
        Target::Feature { feature, .. } => {
            let features = get(nic, FEATURES_GET)?.as_deref().map(read_features);
            let is_on = features.and_then(|all| all.get(feature).map(|it| it.is_on()));
            if is_on == Some(value == "on") {
                Ok(())
            } else {
                Err(io::ErrorKind::Unsupported.into())
            }
        }
        _ => Ok(()),
    }
}

/// The running firmware, where the driver tells `devlink`.
pub(super) fn firmware(nic: &str) -> Option<String> {
    const INFO_GET: u8 = 51;
    const BUS_NAME: u16 = 1;
    const DEVICE_NAME: u16 = 2;
    const RUNNING: u16 = 101;
    const VERSION_NAME: u16 = 103;
    const VERSION_VALUE: u16 = 104;
    let device = fs::canonicalize(format!("/sys/class/net/{nic}/device")).ok()?;
    let bus = fs::read_link(device.join("subsystem")).ok()?;
    let (bus, device) = (bus.file_name()?.to_str()?, device.file_name()?.to_str()?);
    let of_device = Attributes::default().text(BUS_NAME, bus).text(DEVICE_NAME, device);
    let answer = ask_family("devlink", INFO_GET, of_device).ok()?.into_iter().next()?;
    let running = attributes(&answer).into_iter().filter(|(kind, _)| *kind == RUNNING);
    let versions: Vec<(&str, &str)> = running
        .filter_map(|(_, version)| {
            let name = attribute(version, VERSION_NAME).and_then(text)?;
            Some((name, attribute(version, VERSION_VALUE).and_then(text)?))
        })
        .collect();
    // `fw` is the whole; drivers that have no such name give its main part (devlink-info.rst).
    let named = |wanted: &str| versions.iter().find(|(name, _)| *name == wanted);
    named("fw")
        .or_else(|| named("fw.mgmt"))
        .or_else(|| named("fw.version"))
        .map(|it| it.1.to_owned())
}

fn header(nic: &str) -> Attributes {
    Attributes::default().nested(HEADER, Attributes::default().text(HEADER_NAME, nic))
}

/// An answer, or nothing if the driver does not have it.
fn get(nic: &str, command: u8) -> io::Result<Option<Vec<u8>>> {
    match ask_family(FAMILY, command, header(nic)) {
        Ok(answers) => Ok(answers.into_iter().next()),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_rings(answer: &[u8]) -> Option<Rings> {
    Some(Rings {
        rx: number_of(answer, RINGS_RX)?,
        rx_max: number_of(answer, RINGS_RX_MAX)?,
        tx: number_of(answer, RINGS_TX)?,
        tx_max: number_of(answer, RINGS_TX_MAX)?,
    })
}

fn read_channels(answer: &[u8]) -> Option<Channels> {
    Some(Channels {
        combined: number_of(answer, CHANNELS_COMBINED)?,
        combined_max: number_of(answer, CHANNELS_COMBINED_MAX)?,
    })
}

fn read_rss_key(answer: &[u8]) -> Option<String> {
    let key = attribute(answer, RSS_KEY).filter(|key| !key.is_empty())?;
    Some(key.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn coalesce_kind(field: CoalesceField) -> u16 {
    match field {
        CoalesceField::RxUsecs => 2,
        CoalesceField::RxFrames => 3,
        CoalesceField::TxUsecs => 6,
        CoalesceField::TxFrames => 7,
        CoalesceField::AdaptiveRx => 11,
        CoalesceField::AdaptiveTx => 12,
    }
}

fn read_coalesce(answer: &[u8]) -> BTreeMap<CoalesceField, u64> {
    let value = |field| number_of(answer, coalesce_kind(field)).map(|value| (field, value));
    CoalesceField::ALL.into_iter().filter_map(value).collect()
}

/// Of all features, those that a profile can name.
fn read_features(answer: &[u8]) -> BTreeMap<String, Feature> {
    let [changeable, active, kept] =
        [FEATURES_CHANGEABLE, FEATURES_ACTIVE, FEATURES_KEPT].map(|kind| bits(answer, kind));
    let feature = |name: &&str| {
        let may_change = changeable.contains(name) && !kept.contains(name);
        ((*name).to_owned(), Feature::new(active.contains(name), may_change))
    };
    FEATURES.iter().map(feature).collect()
}

/// The names of the bits that are set. With a mask, those that are not are listed, too.
fn bits(answer: &[u8], kind: u16) -> BTreeSet<&str> {
    let Some(bitset) = attribute(answer, kind) else { return BTreeSet::new() };
    let has_mask = attribute(bitset, BITSET_NO_MASK).is_none();
    let bits = attribute(bitset, BITSET_BITS).map(attributes).unwrap_or_default();
    let is_set = |bit: &[u8]| !has_mask || attribute(bit, BIT_VALUE).is_some();
    let set = bits.into_iter().filter(|(_, bit)| is_set(bit));
    set.filter_map(|(_, bit)| attribute(bit, BIT_NAME).and_then(text)).collect()
}
